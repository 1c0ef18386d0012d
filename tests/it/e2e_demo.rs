//! The demo, as a visitor sees it.

use std::process::Command;

use serde_json::json;
use tempfile::TempDir;
use testkit::{DEADLINE, Remote, eventually, free_ports};
use tokio::net::TcpStream;

use crate::house::stentor;

#[tokio::test]
async fn a_visitor_pushes_from_the_page_and_by_curl() {
    let [port] = free_ports();
    let address = format!("127.0.0.1:{port}");
    let demo = stentor()
        .arguments(&["demo", "--port", &port.to_string()], &[])
        .start()
        .await;
    eventually(DEADLINE, "the demo listens", async || {
        let status = demo.process().exit_status();
        assert!(status.is_none(), "{}", demo.process().output());
        TcpStream::connect(&address).await.ok()
    })
    .await;

    let mut browser = Remote::node("browser.mjs");
    browser.order(&json!({ "do": "goto", "url": format!("http://{address}/") }));
    let loaded = browser.expect("loaded").await;
    assert_eq!(loaded["status"], 200, "{loaded}");
    for user in ["alice", "bob"] {
        let state = format!("[data-testid=state-{user}]");
        see(&mut browser, &state, "connected").await;
        // Subscribed, not only connected.
        see(
            &mut browser,
            &format!("[data-testid=subscription-{user}].is-live"),
            "",
        )
        .await;
    }

    // From the page.
    browser
        .order(&json!({ "do": "fill", "selector": "[data-testid=push-key]", "text": "user_bob" }));
    browser.order(
        &json!({ "do": "fill", "selector": "[data-testid=push-body]", "text": "from the page" }),
    );
    browser.order(&json!({ "do": "click", "selector": "[data-testid=push-button]" }));
    see(&mut browser, "[data-testid=messages-bob]", "from the page").await;

    // By the command that the page shows.
    browser.order(&json!({ "do": "read", "selector": "[data-testid=curl]" }));
    let curl = browser.expect("text").await["text"].clone();
    let curl = curl.as_str().expect("a command");
    assert!(curl.starts_with("curl "), "{curl}");
    let output = Command::new("sh").args(["-c", curl]).output().unwrap();
    assert!(output.status.success(), "{curl}: {output:?}");
    eventually(DEADLINE, "the message is on a screen", async || {
        browser.order(&json!({ "do": "count", "selector": "[data-testid^=messages-] li" }));
        browser.expect("counted").await["count"] == 2
    })
    .await;

    // From one user to the other; and what the hook forbids.
    browser.order(
        &json!({ "do": "fill", "selector": "[data-testid=send-body-alice]", "text": "hi bob" }),
    );
    browser.order(&json!({ "do": "click", "selector": "[data-testid=send-alice] button" }));
    see(&mut browser, "[data-testid=messages-bob]", "hi bob").await;
    browser.order(&json!({ "do": "click", "selector": "[data-testid=forbidden-alice]" }));
    see(&mut browser, "[data-testid=error-alice]", "access_refused").await;

    let folder = TempDir::with_prefix("stentor-demo-").unwrap();
    let picture = folder.path().join("demo.png");
    browser.order(&json!({ "do": "screenshot", "path": picture }));
    browser.expect("taken").await;
    assert!(std::fs::metadata(&picture).unwrap().len() > 10_000);

    let said = browser.process().stdout().text();
    for wrong in ["pageerror", "requestfailed", "\"level\":\"error\""] {
        assert!(!said.contains(wrong), "{said}");
    }
    assert_eq!(demo.terminate(DEADLINE).await.code(), Some(0));
}

/// Waits until the page shows `text` within what `selector` finds.
async fn see(browser: &mut Remote, selector: &str, text: &str) {
    browser.order(&json!({ "do": "text", "selector": selector, "text": text }));
    browser.expect("seen").await;
}
