//! @stomp/stompjs, and stompjs 2.3.3 of old, in Node.

use serde_json::json;
use testkit::{DEADLINE, FEED, Remote, eventually, unique};

use crate::{
    foreign::{Server, a_day, subscribe, work},
    house::KEY,
};

#[tokio::test]
async fn stompjs_at_the_plugin() {
    let server = Server::plugins().await;
    let connect = server.connect_ws(&json!({}));
    a_day(&server, Remote::node("stompjs.mjs"), &connect, "1.2").await;
}

#[tokio::test]
async fn stompjs_at_the_gateway() {
    let server = Server::gateway().await;
    let connect = server.connect_ws(&json!({}));
    a_day(&server, Remote::node("stompjs.mjs"), &connect, "1.2").await;
}

/// Small pieces and binary messages, as for React Native.
#[tokio::test]
async fn stompjs_binary_and_in_pieces_at_the_gateway() {
    let server = Server::gateway().await;
    let connect = server.connect_ws(&json!({ "split": 16, "binary": true }));
    a_day(&server, Remote::node("stompjs.mjs"), &connect, "1.2").await;
}

#[tokio::test]
async fn old_stompjs_at_the_plugin() {
    let server = Server::plugins().await;
    let connect = server.connect_ws(&json!({}));
    a_day(&server, Remote::node("stompjs-old.mjs"), &connect, "1.1").await;
}

#[tokio::test]
async fn old_stompjs_at_the_gateway() {
    let server = Server::gateway().await;
    let connect = server.connect_ws(&json!({}));
    a_day(&server, Remote::node("stompjs-old.mjs"), &connect, "1.1").await;
}

#[tokio::test]
async fn work_at_the_plugin() {
    work_of_both(&Server::plugins().await).await;
}

#[tokio::test]
async fn work_at_the_gateway() {
    work_of_both(&Server::gateway().await).await;
}

async fn work_of_both(server: &Server) {
    let connect = server.connect_ws(&json!({}));
    for script in ["stompjs.mjs", "stompjs-old.mjs"] {
        work(server, || Remote::node(script), &connect).await;
    }
}

#[tokio::test]
async fn heart_beats_at_the_plugin() {
    heart_beats(&Server::plugins().await).await;
}

#[tokio::test]
async fn heart_beats_at_the_gateway() {
    heart_beats(&Server::gateway().await).await;
}

/// The client closes by itself where the server's heart-beats stay away.
async fn heart_beats(server: &Server) {
    for script in ["stompjs.mjs", "stompjs-old.mjs"] {
        let mut client = Remote::node(script);
        client.order(&server.connect_ws(&json!({ "heartBeat": 1000 })));
        let connected = client.expect("connected").await;
        assert_eq!(connected["headers"]["heart-beat"], "1000,1000");
        for _ in 0..3 {
            client.expect("heartbeat").await;
        }
        client.order(&json!({ "do": "disconnect" }));
        client.expect("closed").await;
    }
}

#[tokio::test]
async fn a_large_message_in_pieces_at_the_plugin() {
    a_large_message_in_pieces(&Server::plugins().await).await;
}

#[tokio::test]
async fn a_large_message_in_pieces_at_the_gateway() {
    a_large_message_in_pieces(&Server::gateway().await).await;
}

/// `splitLargeFrames`: one frame in many WebSocket messages of 8 KiB.
async fn a_large_message_in_pieces(server: &Server) {
    let mut client = Remote::node("stompjs.mjs");
    client.order(&server.connect_ws(&json!({ "split": 8192 })));
    client.expect("connected").await;
    client.order(&subscribe(
        "/exchange/feed/user_alice",
        json!({ "receipt": "subscribed" }),
    ));
    client.expect("receipt").await;

    let large = "ä".repeat(256 * 1024);
    client.order(&json!({
        "do": "send", "destination": "/exchange/feed/user_alice", "body": large,
    }));
    assert_eq!(client.expect_bodies(1).await.concat(), large);

    // And a body that no text frame can hold comes as it is, pushed by a backend.
    server.vhost().publish(FEED, KEY, [large.as_bytes()]).await;
    assert_eq!(client.expect_bodies(1).await.concat(), large);
}

/// A wrong passcode, as the client's author sees it.
#[tokio::test]
async fn a_refused_login_at_the_gateway() {
    let server = Server::gateway().await;
    let Server::Gateway(house) = &server else {
        unreachable!("it is a gateway");
    };
    house
        .hook
        .answer(testkit::Call::User, testkit::Answer::Deny);
    for script in ["stompjs.mjs", "stompjs-old.mjs"] {
        let mut client = Remote::node(script);
        client.order(&server.connect_ws(&json!({})));
        let error = client.expect("error").await;
        assert_eq!(error["headers"]["message"], "Bad CONNECT", "{error}");
        let body = error["body"].as_str().unwrap_or_default();
        assert!(body.contains("Access refused for user 'alice'"), "{error}");
        let closed = client.expect("closed").await;
        assert_eq!(closed["code"], 1008, "{closed}");
    }
}

#[tokio::test]
async fn what_precedes_a_mistake_arrives_at_the_plugin() {
    // It loses what it says before it closes a WebSocket.
    what_precedes_a_mistake_arrives(&Server::plugins().await, "closed").await;
}

#[tokio::test]
async fn what_precedes_a_mistake_arrives_at_the_gateway() {
    what_precedes_a_mistake_arrives(&Server::gateway().await, "error").await;
}

/// Results are sent, and then a message is acknowledged twice, or a subscription ended twice: in
/// one turn of the page, so that all of it is read at once.
async fn what_precedes_a_mistake_arrives(server: &Server, after_ack: &str) {
    let connect = server.connect_ws(&json!({}));
    let mut client = Remote::node("stompjs.mjs");
    for (what, end) in [("ack", after_ack), ("unsubscribe", "error")] {
        let results = unique("results");
        for _ in 0..20 {
            client.order(&connect);
            client.expect("connected").await;
            let jobs = format!("/queue/{}", unique("jobs"));
            let headers = json!({ "ack": "client-individual" });
            let order = json!({
                "do": "subscribe", "destination": jobs, "headers": headers, "hold": true,
            });
            client.order(&order);
            client.order(&json!({ "do": "send", "destination": jobs, "body": "job" }));
            client.expect("message").await;
            client.order(&json!({
                "do": "blunder", "what": what, "of": jobs,
                "destination": format!("/queue/{results}"), "bodies": ["1", "2", "3", "4", "5"],
            }));
            client.expect(end).await;
            client.order(&json!({ "do": "disconnect" }));
            client.expect("disconnected").await;
        }
        eventually(DEADLINE, "all results are there", async || {
            let queues = server.vhost().queues().await;
            queues
                .iter()
                .any(|found| found["name"] == results.as_str() && found["messages"] == 100)
        })
        .await;
    }
}

#[tokio::test]
async fn rx_stomp_calls_at_the_plugin() {
    calls(&Server::plugins().await).await;
}

#[tokio::test]
async fn rx_stomp_calls_at_the_gateway() {
    calls(&Server::gateway().await).await;
}

/// Requests and replies of one connection: by a temporary queue, and by an exclusive one with a name.
async fn calls(server: &Server) {
    let mut client = Remote::node("rx-stomp.mjs");
    client.order(&server.connect_ws(&json!({})));
    client.expect("connected").await;
    let destination = format!("/topic/{}", unique("echo"));
    client.order(&json!({ "do": "serve", "destination": destination }));
    client.expect("serving").await;
    for replies in [json!(null), json!(format!("/queue/{}", unique("replies")))] {
        client.order(&json!({
            "do": "call",
            "destination": destination,
            "bodies": ["1", "2", "3"],
            "replies": replies,
        }));
        assert_eq!(
            client.expect_bodies(3).await,
            ["re: 1", "re: 2", "re: 3"],
            "{replies}"
        );
    }
    client.order(&json!({ "do": "disconnect" }));
    client.expect("disconnected").await;
}
