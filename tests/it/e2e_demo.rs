//! The demo, as a visitor sees it.

use std::{process::Command, time::Instant};

use serde_json::json;
use tempfile::TempDir;
use testkit::{DEADLINE, Gateway, Proxy, Remote, eventually, free_ports, tests_dir};
use tokio::net::TcpStream;

use crate::house::{Ran, stentor};

#[tokio::test]
async fn a_visitor_pushes_from_the_page_and_by_curl() {
    let (demo, url) = demo().await;
    let mut browser = visitor(&url).await;

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
    let told = browser.expect("text").await;
    let curl = told["text"].as_str().expect("a command");
    assert!(curl.starts_with("curl "), "{curl}");
    let output = Command::new("sh").args(["-c", curl]).output().unwrap();
    assert!(output.status.success(), "{curl}: {output:?}");
    eventually(DEADLINE, "the message is on a screen", async || {
        browser.order(&json!({ "do": "count", "selector": "[data-testid^=messages-] li" }));
        browser.expect("counted").await["count"] == 2
    })
    .await;

    // From one user to the other; and a message that the hook forbids.
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

    has_no_faults(&browser);
    assert_eq!(demo.terminate(DEADLINE).await.code(), Some(0));
}

/// With `cargo run`, there is no `stentor` in the path.
#[tokio::test]
async fn the_command_that_looks_inside_can_be_typed_as_it_is_printed() {
    let (demo, _) = demo().await;
    let table = look_inside(&demo, "ctl node").await;
    assert!(table.contains("running"), "{table}");
    assert_eq!(demo.terminate(DEADLINE).await.code(), Some(0));
}

/// Types the command that the demo prints, with other orders.
async fn look_inside(demo: &Gateway, orders: &str) -> String {
    let command = eventually(DEADLINE, "the demo says what to type", async || {
        let text = demo.process().output();
        let (_, command) = text.split_once("export STENTOR_URL=")?;
        let (command, _) = command.split_once("\n\n")?;
        Some(format!("export STENTOR_URL={command}"))
    })
    .await
    .replace("ctl node", orders);
    let output = Command::new("sh").args(["-c", &command]).output().unwrap();
    assert!(output.status.success(), "{command}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The server says so, and the page obeys. The user can log in again.
#[tokio::test]
async fn a_kicked_user_does_not_come_back_by_itself() {
    let (demo, url) = demo().await;
    let mut browser = visitor(&url).await;
    look_inside(&demo, "ctl kick --user alice --reason enough").await;
    see(&mut browser, "[data-testid=state-alice]", "session ended").await;
    see(
        &mut browser,
        "[data-testid=error-alice]",
        "not to come back",
    )
    .await;
    // As long as it takes bob to be refused, and to come back.
    click(&mut browser, "[data-testid=forbidden-bob]");
    see(&mut browser, "[data-testid=error-bob]", "Reconnected").await;
    see(&mut browser, "[data-testid=state-alice]", "session ended").await;
    click(&mut browser, "[data-testid=login-alice] button");
    let live = "[data-testid=subscription-alice].is-live";
    see(&mut browser, live, "").await;
    has_no_faults(&browser);
    assert_eq!(demo.terminate(DEADLINE).await.code(), Some(0));
}

/// A user without a passcode gets the demo's.
#[test]
fn examples_know_the_passcodes_of_the_demo() {
    for (file, passcode) in [
        ("browser/main.js", "`demo-${user}`"),
        ("browser/client.js", "`demo-${user}`"),
        ("node/subscribe.mjs", "`demo-${user}`"),
        ("python/subscribe.py", "f\"demo-{user}\""),
        ("java/Subscribe.java", "\"demo-\" + user"),
    ] {
        let path = tests_dir().with_file_name("examples").join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(passcode), "{path:?} has another passcode");
    }
}

/// Two browsers, with a user each: one sees what the other chooses to be, and that it leaves.
#[tokio::test]
async fn a_visitor_sees_who_is_online() {
    let (demo, url) = demo().await;
    let (mut alice, mut bob) = (visitor(&url).await, visitor(&url).await);
    // Each user has two devices, until it is logged out in the other's browser.
    for browser in [&mut alice, &mut bob] {
        see(browser, "[data-testid=person-bob]", "desktop × 2").await;
        see(browser, "[data-testid=people-count]", "2 of 2").await;
    }
    click(&mut alice, "[data-testid=disconnect-bob]");
    click(&mut bob, "[data-testid=disconnect-alice]");
    see(
        &mut alice,
        "[data-testid=person-bob]",
        "bobonlinedesktop · since",
    )
    .await;

    for status in ["busy", "away", "invisible", "online"] {
        click(&mut bob, &format!("[data-testid=choose-{status}-bob]"));
        let seen = match status {
            "invisible" => "offline",
            other => other,
        };
        let person = format!("[data-testid=person-bob][data-status={seen}]");
        see(&mut alice, &person, seen).await;
    }

    // The choice outlives a reconnect.
    click(&mut bob, "[data-testid=choose-busy-bob]");
    see(&mut alice, "[data-testid=person-bob][data-status=busy]", "").await;
    click(&mut bob, "[data-testid=forbidden-bob]");
    see(&mut bob, "[data-testid=error-bob]", "Reconnected").await;
    see(&mut alice, "[data-testid=person-bob][data-status=busy]", "").await;

    has_no_faults(&alice);
    bob.order(&json!({ "do": "close" }));
    bob.expect("gone").await;
    see(
        &mut alice,
        "[data-testid=person-bob][data-status=offline]",
        "no device",
    )
    .await;
    see(&mut alice, "[data-testid=people-count]", "1 of 2").await;

    // Any name is shown as text.
    let script = r#"(async () => {
        const { People } = await import("/people.js");
        const [list, summary] = [document.createElement("ul"), document.createElement("p")];
        document.body.append(list);
        const user = "<img src=/favicon.svg onload='window.hurt = true'>";
        new People({ list, summary, users: [] }).handle({ user, status: "online", at: "2026" });
        return [list.querySelectorAll("img").length, list.querySelector("b").textContent === user];
    })()"#;
    alice.order(&json!({ "do": "evaluate", "script": script }));
    let evaluated = alice.expect("evaluated").await;
    assert_eq!(evaluated["value"], json!([0, true]), "{evaluated}");
    assert_eq!(demo.terminate(DEADLINE).await.code(), Some(0));
}

/// A newcomer has no configuration whose keys an error could name.
#[tokio::test]
async fn an_error_names_the_flag_that_avoids_it() {
    let [port] = free_ports();
    // The port of STOMP.
    let _taken = std::net::TcpListener::bind(("127.0.0.1", port + 1)).unwrap();
    let run = |arguments: &[&str]| {
        let mut demo = Command::new(env!("CARGO_BIN_EXE_stentor"));
        Ran::from(demo.arg("demo").args(arguments).output().unwrap())
    };
    let taken = run(&["--port", &port.to_string()]);
    assert_eq!(taken.code, Some(1), "{taken:?}");
    let last = taken.err.lines().last().unwrap();
    let advice = "`stentor demo --listen 127.0.0.1:";
    assert!(
        last.contains("Another program listens") && last.contains(advice),
        "{last}"
    );
    let foreign = run(&["--listen", "192.0.2.1"]);
    assert!(
        foreign.err.contains("no address of this machine") && foreign.err.contains("--listen"),
        "{foreign:?}"
    );
    for arguments in [
        &["--listen", "localhost"][..],
        &["--listen", "127.0.0.1:80", "--port", "81"],
    ] {
        let wrong = run(arguments);
        assert_eq!(wrong.code, Some(2), "{wrong:?}");
        assert!(wrong.err.contains("--listen"), "{wrong:?}");
    }
    let high = run(&["--port", "65534"]);
    assert!(high.err.contains("--port"), "{high:?}");
}

/// At once, and not by messages that do not come.
#[tokio::test]
async fn a_rabbitmq_that_is_not_there_is_named() {
    let [port, page] = free_ports();
    let url = format!("amqp://guest:s3cret@127.0.0.1:{port}");
    let begun = Instant::now();
    let mut demo = Command::new(env!("CARGO_BIN_EXE_stentor"));
    demo.args(["demo", "--port", &page.to_string(), "--broker", &url]);
    let ran = Ran::from(demo.output().unwrap());
    assert_eq!(ran.code, Some(2), "{ran:?}");
    let whole = format!("--broker: RabbitMQ cannot be reached at 127.0.0.1:{port}: ");
    assert!(ran.err.contains(&whole), "{ran:?}");
    assert!(!ran.err.contains("s3cret"), "{ran:?}");
    assert!(begun.elapsed() < DEADLINE, "{ran:?}");
}

/// For other machines, too; the operator's side is not.
#[tokio::test]
async fn a_demo_listens_where_it_is_told() {
    let [port] = free_ports();
    let listen = format!("0.0.0.0:{port}");
    let demo = stentor()
        .arguments(&["demo", "--listen", &listen], &[])
        .start()
        .await;
    eventually(DEADLINE, "the demo says where it is", async || {
        let text = demo.process().output();
        text.contains(&format!("http://127.0.0.1:{port}/")) && text.contains("are known")
    })
    .await;
    let log = demo.process().output();
    for (address, listener) in [
        ("0.0.0.0", "http"),
        ("0.0.0.0", "stomp"),
        ("127.0.0.1", "admin"),
    ] {
        let is_there = log.lines().any(|line| {
            let is_it = line.contains("listening") && line.contains(listener);
            is_it && line.contains(&format!("{address}:"))
        });
        assert!(is_there, "{listener} {address}: {log}");
    }
    assert_eq!(demo.terminate(DEADLINE).await.code(), Some(0));
}

/// Without scrolling, on a laptop and on a phone: the form, and the place where the message comes.
#[tokio::test]
async fn the_push_and_its_message_are_on_the_first_screen() {
    let (demo, url) = demo().await;
    let mut browser = visitor(&url).await;
    for (width, height) in [(1366, 768), (390, 844)] {
        browser.order(&json!({ "do": "resize", "width": width, "height": height }));
        browser.expect("resized").await;
        let script = "(() => {
            scrollTo(0, 0);
            const ends = ['[data-testid=push-key]', '[data-testid=push-button]']
                .map((part) => document.querySelector(part).getBoundingClientRect().bottom);
            const inbox = document.querySelector('.user-0 .inbox').getBoundingClientRect().top;
            return [Math.max(...ends) <= innerHeight, inbox + 60 <= innerHeight,
                document.documentElement.scrollWidth <= innerWidth];
        })()";
        browser.order(&json!({ "do": "evaluate", "script": script }));
        let evaluated = browser.expect("evaluated").await;
        assert_eq!(
            evaluated["value"],
            json!([true, true, true]),
            "{width}: {evaluated}"
        );
    }
    has_no_faults(&browser);
    assert_eq!(demo.terminate(DEADLINE).await.code(), Some(0));
}

/// A demo, and where its page is.
async fn demo() -> (Gateway, String) {
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
    (demo, format!("http://{address}/"))
}

/// A demo behind a proxy, and a visitor who came through that.
pub(crate) async fn demo_behind() -> (Gateway, Proxy, Remote) {
    let (demo, url) = demo().await;
    let address = url.trim_start_matches("http://").trim_end_matches('/');
    let proxy = Proxy::start(address).await;
    let browser = visitor(&format!("http://{}/", proxy.address())).await;
    (demo, proxy, browser)
}

/// A browser that shows the page, where both users are connected and subscribed.
async fn visitor(url: &str) -> Remote {
    let mut browser = Remote::node("browser.mjs");
    browser.order(&json!({ "do": "goto", "url": url }));
    let loaded = browser.expect("loaded").await;
    assert_eq!(loaded["status"], 200, "{loaded}");
    for user in ["alice", "bob"] {
        let state = format!("[data-testid=state-{user}]");
        see(&mut browser, &state, "connected").await;
        let live = format!("[data-testid=subscription-{user}].is-live");
        see(&mut browser, &live, "").await;
    }
    browser
}

fn has_no_faults(browser: &Remote) {
    let said = browser.process().stdout().text();
    for wrong in ["pageerror", "requestfailed", "\"level\":\"error\""] {
        assert!(!said.contains(wrong), "{said}");
    }
}

fn click(browser: &mut Remote, selector: &str) {
    browser.order(&json!({ "do": "click", "selector": selector }));
}

/// Waits until the page shows `text` within what `selector` finds.
pub(crate) async fn see(browser: &mut Remote, selector: &str, text: &str) {
    browser.order(&json!({ "do": "text", "selector": selector, "text": text }));
    browser.expect("seen").await;
}

/// The demo's other page is an example, too: SockJS, and the STOMP client of 2014.
#[tokio::test]
async fn the_page_of_2014() {
    let (_demo, url) = demo().await;
    let mut browser = Remote::node("browser.mjs");
    let url = format!("{url}classic.html");
    browser.order(&json!({ "do": "goto", "url": url }));
    let loaded = browser.expect("loaded").await;
    assert_eq!(loaded["status"], 200, "{loaded}");

    // By the first transport that works; by the first without a WebSocket; and from within a frame.
    for (choice, transport) in [
        ("", "websocket"),
        ("-websocket", "xhr-streaming"),
        ("iframe-xhr-polling", "iframe-xhr-polling"),
    ] {
        browser.order(
            &json!({ "do": "select", "selector": "[data-testid=transport]", "value": choice }),
        );
        let subscribed = format!("subscribed, by {transport}");
        see(&mut browser, "[data-testid=listener-state]", &subscribed).await;
        see(
            &mut browser,
            "[data-testid=sender-state]",
            &format!("connected by {transport}"),
        )
        .await;
        let body = format!("100% Zoë by {transport} </script>");
        browser.order(&json!({ "do": "fill", "selector": "[data-testid=body]", "text": body }));
        browser.order(&json!({ "do": "click", "selector": "[data-testid=send]" }));
        see(&mut browser, "[data-testid=messages] li:first-child", &body).await;
        see(
            &mut browser,
            "[data-testid=sender-state]",
            "the broker has it",
        )
        .await;
    }

    // A refusal of the hook is shown.
    browser.order(
        &json!({ "do": "fill", "selector": "#listener [name=destination]", "text": "/exchange/feed/user_bob" }),
    );
    browser.order(&json!({ "do": "click", "selector": "[data-testid=connect]" }));
    see(
        &mut browser,
        "[data-testid=listener-error]",
        "access_refused",
    )
    .await;
    see(&mut browser, "[data-testid=listener-state]", "refused").await;
    let said = browser.process().stdout().text();
    for wrong in ["pageerror", "\"level\":\"error\""] {
        assert!(!said.contains(wrong), "{said}");
    }
}

/// The pages' libraries are what their packages hold, byte by byte.
#[test]
fn the_pages_libraries_are_unchanged() {
    let packages = tests_dir().join("js/node_modules");
    let classic = tests_dir().with_file_name("examples/browser/vendor");
    let demo = tests_dir().with_file_name("src/demo/page/vendor");
    for (folder, name, original) in [
        (
            &classic,
            "sockjs.min.js",
            "sockjs-client/dist/sockjs.min.js",
        ),
        (&classic, "sockjs.LICENSE", "sockjs-client/LICENSE"),
        (&classic, "stomp.min.js", "stompjs/lib/stomp.min.js"),
        (
            &demo,
            "stomp.umd.min.js",
            "@stomp/stompjs/bundles/stomp.umd.min.js",
        ),
        (&demo, "stomp.LICENSE", "@stomp/stompjs/LICENSE"),
    ] {
        let [ours, theirs] = [folder.join(name), packages.join(original)]
            .map(|path| std::fs::read(&path).unwrap_or_else(|error| panic!("{path:?}: {error}")));
        assert!(ours == theirs, "{name} is not {original}");
    }
}
