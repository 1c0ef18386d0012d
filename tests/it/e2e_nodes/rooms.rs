//! Rooms over three nodes, of which one is killed.

use std::time::Instant;

use serde_json::{Value, json};
use stomp_grammar::{Command, Frame};
use testkit::{DEADLINE, StompClient, eventually};

use super::cluster::{Cluster, LEASE};

const LOBBY: &str = "/exchange/room/lobby";

async fn until_lobby(cluster: &Cluster, node: usize, members: u64, sessions: u64) -> Value {
    let what = format!("node {node} counts {members} members, {sessions} sessions");
    eventually(DEADLINE, what, async || {
        let (status, body) = cluster.presence(node, "rooms/room/lobby").await;
        let counts = (&body["members"], &body["sessions"]);
        (status == 200 && counts == (&json!(members), &json!(sessions))).then_some(body)
    })
    .await
}

/// The next event: `join alice 2`.
async fn told(watcher: &mut StompClient) -> String {
    let frame = watcher.expect_frame().await;
    assert_eq!(frame.command, Command::Message, "{frame:?}");
    assert_eq!(
        frame.header("destination"),
        Some("/exchange/presence/room.room.lobby")
    );
    let body: Value = serde_json::from_slice(&frame.body).unwrap();
    assert_eq!(
        (&body["exchange"], &body["key"]),
        (&json!("room"), &json!("lobby"))
    );
    let [kind, user] = ["type", "user"].map(|field| body[field].as_str().unwrap_or("-"));
    format!("{kind} {user} {}", body["members"])
}

#[tokio::test]
async fn a_room_spans_the_nodes_and_loses_those_of_a_killed_one() {
    let cluster = Cluster::open(|_, builder| {
        builder
            .set("broker.exchanges", "room=direct")
            .set("presence.destinations", "room")
            .set("presence.max_members", "3")
            .set("presence.debounce", "200ms")
    })
    .await;
    let mut watcher = cluster.tcp(2, "watcher").await;
    watcher
        .subscribe("w", "/exchange/presence/room.room.lobby")
        .await;

    let mut alice = cluster.tcp(0, "alice").await;
    alice.subscribe("1", LOBBY).await;
    assert_eq!(told(&mut watcher).await, "occupied - 1");
    assert_eq!(told(&mut watcher).await, "join alice 1");
    let mut bobs = [cluster.tcp(0, "bob").await, cluster.tcp(1, "bob").await];
    for bob in &mut bobs {
        bob.subscribe("1", LOBBY).await;
    }
    assert_eq!(told(&mut watcher).await, "join bob 2");
    let mut carol = cluster.tcp(2, "carol").await;
    carol.subscribe("1", LOBBY).await;
    assert_eq!(told(&mut watcher).await, "join carol 3");
    let mut list = Value::Null;
    for node in 0..3 {
        list = until_lobby(&cluster, node, 3, 4).await["list"].take();
    }
    let mut list: Vec<Value> = serde_json::from_value(list).unwrap();
    list.sort_by_key(|member| member["user"].to_string());
    let expected = [("alice", 1), ("bob", 2), ("carol", 1)];
    let expected = expected.map(|(user, sessions)| json!({ "user": user, "sessions": sessions }));
    assert_eq!(list, expected);

    // The room is full, whichever node is asked.
    for node in 0..3 {
        let mut dave = cluster.tcp(node, "dave").await;
        let subscribe = Frame::new(Command::Subscribe)
            .with_header("id", "1")
            .with_header("destination", LOBBY);
        dave.send(&subscribe).await;
        dave.expect_error("room is full").await;
    }

    // A member asks at its node about all of them.
    let ask = Frame::new(Command::Send)
        .with_header("destination", "/presence/rooms/room/lobby")
        .with_header("reply-to", "/temp-queue/rooms");
    carol.send(&ask).await;
    let answer = carol.expect_frame().await;
    let answer: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(
        (&answer["members"], &answer["sessions"]),
        (&json!(3), &json!(4))
    );

    let since = Instant::now();
    cluster.kill(0).await;
    alice.expect_closed().await;
    for node in [1, 2] {
        until_lobby(&cluster, node, 2, 2).await;
    }
    println!(
        "the members of a killed node were gone after {:?}, with leases of {LEASE:?}",
        since.elapsed()
    );
    assert_eq!(told(&mut watcher).await, "leave alice 2");

    let message = json!({ "exchange": "room", "keys": ["lobby", "empty"], "report": true });
    let publish = "POST /api/v1/publish";
    let (status, answer) = cluster.gateway(1).api(publish, Some(&message)).await;
    let expected = json!([
        { "key": "lobby", "became": "subscribed", "sessions": 2 },
        { "key": "empty", "became": "nobody", "sessions": 0 },
    ]);
    assert_eq!((status, &answer["report"]), (200, &expected), "{answer}");

    let [_, bob] = bobs;
    bob.disconnect().await;
    assert_eq!(told(&mut watcher).await, "leave bob 1");
    carol.disconnect().await;
    assert_eq!(told(&mut watcher).await, "leave carol 0");
    assert_eq!(told(&mut watcher).await, "vacated - 0");
    until_lobby(&cluster, 1, 0, 0).await;
}
