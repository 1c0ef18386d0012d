//! Clients that vanish without a word, and clients that only seem to.

use serde_json::json;
use stomp_grammar::Command;
use testkit::{
    DEADLINE, Gateway, GatewayBuilder, Hook, Login, Proxy, Remote, StompClient, eventually,
};

use crate::house::stentor;

/// With intervals that a test can wait for.
async fn gateway(hook: &Hook, settings: impl FnOnce(GatewayBuilder) -> GatewayBuilder) -> Gateway {
    let builder = stentor()
        .hook(hook)
        .set("broker.url", "embedded:")
        .set("broker.exchanges", "feed=direct")
        .set("listen.origins", "*")
        .set("presence.url", "memory:")
        .set("presence.debounce", "0s")
        .set("stomp.ping_interval", "300ms")
        .set("stomp.heartbeat_patience", "1s");
    settings(builder).ready().await
}

async fn until_online(gateway: &Gateway, user: &str, is_online: bool) {
    let path = format!("GET /api/v1/users/{user}");
    eventually(DEADLINE, format!("{user}: {is_online}"), async || {
        let (status, body) = gateway.api(&path, None).await;
        assert_eq!(status, 200, "{body}");
        (body["status"] != "offline") == is_online
    })
    .await;
}

async fn push(gateway: &Gateway, body: &str) {
    let message = json!({ "exchange": "feed", "key": "user_alice", "body": body });
    let (status, answer) = gateway.api("POST /api/v1/publish", Some(&message)).await;
    assert_eq!(status, 200, "{answer}");
}

fn connect(url: &str, more: serde_json::Value) -> serde_json::Value {
    let mut order = json!({
        "do": "connect", "url": url, "login": "alice", "passcode": "passcode", "host": "/",
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        order[key] = value.clone();
    }
    order
}

/// It has no heart-beats, so nothing but pings can find it: its network is gone, and whatever is
/// between holds the connection open.
#[tokio::test]
async fn a_client_that_vanished_is_closed_and_leaves_presence() {
    let hook = Hook::start().await;
    let gateway = gateway(&hook, |builder| builder).await;
    let address = gateway.addresses().http.clone().unwrap();
    for (path, scheme) in [("/ws", "ws"), ("/stomp", "http")] {
        let proxy = Proxy::start(&address).await;
        let mut client = Remote::node("stompjs.mjs");
        let url = format!("{scheme}://{}{path}", proxy.address());
        client.order(&connect(&url, json!({ "transports": ["websocket"] })));
        client.expect("connected").await;
        until_online(&gateway, "alice", true).await;
        // It answers, and stays.
        for _ in 0..3 {
            let before = proxy.bytes_to_server();
            eventually(DEADLINE, "it answers a ping", async || {
                proxy.bytes_to_server() > before
            })
            .await;
        }
        proxy.freeze();
        until_online(&gateway, "alice", false).await;
    }
    let ended = gateway.until_events("connection closed", 2).await;
    for event in ended {
        let reason = event["reason"].as_str().unwrap_or_default();
        assert!(reason.starts_with("pings unanswered"), "{event}");
    }
}

/// Browsers all but stop the timers of a hidden page, and answer pings by themselves.
#[tokio::test]
async fn a_hidden_page_stays() {
    let hook = Hook::start().await;
    let gateway = gateway(&hook, |builder| builder).await;
    let mut browser = Remote::node("browser.mjs");
    browser.order(&json!({ "do": "open", "hides": true }));
    browser.expect("opened").await;
    browser.order(&connect(&gateway.ws_url(), json!({ "heartBeat": 1000 })));
    let connected = browser.expect("connected").await;
    assert_eq!(connected["headers"]["heart-beat"], "1000,1000");
    let feed = json!({ "do": "subscribe", "destination": "/exchange/feed/user_alice",
        "headers": { "receipt": "subscribed" } });
    browser.order(&feed);
    browser.expect("receipt").await;
    browser.order(&json!({ "do": "hide" }));
    browser.expect("hidden").await;

    // Others that are as silent, and answer no ping, are closed meanwhile, one after the other.
    let login = Login {
        headers: vec![("heart-beat", "1000,0".to_owned())],
        ..Login::new("bob", "passcode", "/")
    };
    for _ in 0..3 {
        let mut silent = StompClient::tcp(gateway.stomp_address()).await;
        let connected = silent.connect(&login).await;
        assert_eq!(connected.command, Command::Connected);
        silent.expect_error("heart-beat missed").await;
        silent.expect_closed().await;
    }
    push(&gateway, "still here").await;
    assert_eq!(browser.expect("message").await["body"], "still here");
}

/// Without pings from either side: it may be a program that does not know them.
#[tokio::test]
async fn a_client_that_answers_no_ping_is_served() {
    let hook = Hook::start().await;
    let gateway = gateway(&hook, |builder| builder).await;
    // It reads, and so answers, only when it expects something.
    let mut deaf = StompClient::ws(&gateway.ws_url()).await;
    deaf.connect(&Login::new("alice", "passcode", "/")).await;
    // Others come, live and vanish meanwhile.
    for _ in 0..2 {
        let proxy = Proxy::start(gateway.addresses().http.as_deref().unwrap()).await;
        let mut client = Remote::node("stompjs.mjs");
        let url = format!("ws://{}/ws", proxy.address());
        let mut order = connect(&url, json!({}));
        order["login"] = json!("bob");
        client.order(&order);
        client.expect("connected").await;
        let before = proxy.bytes_to_server();
        eventually(DEADLINE, "it answers a ping", async || {
            proxy.bytes_to_server() > before
        })
        .await;
        proxy.freeze();
        until_online(&gateway, "bob", false).await;
    }
    deaf.subscribe("1", "/exchange/feed/user_alice").await;
    push(&gateway, "served").await;
    deaf.expect_message("served").await;
}
