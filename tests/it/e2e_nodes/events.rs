//! Presence events: one for each change, whichever nodes a user is connected to.

use futures_util::StreamExt as _;
use lapin::{
    Consumer, ExchangeKind,
    options::{BasicConsumeOptions, QueueBindOptions, QueueDeclareOptions},
    types::FieldTable,
};
use serde_json::Value;
use stomp_grammar::{Command, Frame};
use testkit::{DEADLINE, StompClient, Vhost, within};

use super::cluster::{Cluster, EVERYBODY};

const EXCHANGE: &str = "presence";

/// A backend that hears what is published of presence.
pub(super) struct Events(Consumer);

impl Events {
    /// From now on, of these routing keys.
    pub(super) async fn of(vhost: &Vhost, keys: &str) -> Self {
        vhost.declare_exchange(EXCHANGE, ExchangeKind::Topic).await;
        let channel = vhost.channel().await;
        let options = QueueDeclareOptions {
            exclusive: true,
            ..QueueDeclareOptions::default()
        };
        let queue = channel
            .queue_declare("".into(), options, FieldTable::default())
            .await
            .unwrap()
            .name()
            .clone();
        let bound = channel.queue_bind(
            queue.clone(),
            EXCHANGE.into(),
            keys.into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        );
        bound.await.unwrap();
        let options = BasicConsumeOptions {
            no_ack: true,
            ..BasicConsumeOptions::default()
        };
        let consumer = channel.basic_consume(queue, "".into(), options, FieldTable::default());
        Self(consumer.await.unwrap())
    }

    /// The next event: its type, its user and the new status.
    pub(super) async fn next(&mut self) -> String {
        let next = within(DEADLINE, "a presence event", self.0.next()).await;
        let event: Value = serde_json::from_slice(&next.unwrap().unwrap().data).unwrap();
        text(&event)
    }

    /// The next so many, in alphabetical order.
    pub(super) async fn next_sorted(&mut self, count: usize) -> Vec<String> {
        let mut events = Vec::with_capacity(count);
        while events.len() < count {
            events.push(self.next().await);
        }
        events.sort();
        events
    }
}

fn text(event: &Value) -> String {
    let of = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
    [of("type"), of("user"), of("status")].join(" ")
}

async fn expect_event(client: &mut StompClient, expected: &str) {
    let frame = client.expect("an event", |frame| frame.command == Command::Message);
    let event: Value = serde_json::from_slice(&frame.await.body).unwrap();
    assert_eq!(text(&event), expected);
}

async fn say(client: &mut StompClient, status: &str) {
    let send = Frame::new(Command::Send)
        .with_header("destination", "/presence")
        .with_header("status", status);
    client.request(send).await;
}

/// If a change were told twice, or a change that others cannot see, the list would be longer.
#[tokio::test]
async fn each_change_is_told_once_by_whichever_node() {
    // Long enough to come back, on a busy machine.
    let cluster = Cluster::open(|_, builder| builder.set("presence.debounce", "3s")).await;
    let mut backend = Events::of(&cluster.vhost, "user.alice").await;
    let mut watchers = Vec::new();
    for node in 0..3 {
        let mut watcher = cluster.tcp(node, &format!("watcher_{node}")).await;
        let destination = format!("/exchange/{EXCHANGE}/user.alice");
        watcher.subscribe("alice", &destination).await;
        watchers.push(watcher);
    }

    let alice = cluster.tcp(0, "alice").await;
    assert_eq!(backend.next().await, "join alice online");
    // A second device, at another node; it leaves again.
    let mut other = cluster.tcp(1, "alice").await;
    say(&mut other, "busy").await;
    assert_eq!(backend.next().await, "status alice busy");
    other.disconnect().await;
    assert_eq!(backend.next().await, "status alice online");
    // Her page is loaded again, and lands at another node.
    alice.disconnect().await;
    let mut alice = cluster.tcp(2, "alice").await;
    cluster
        .until_online(
            &[0, 1],
            &["alice", "watcher_0", "watcher_1", "watcher_2"].map(String::from),
        )
        .await;
    // To others, an invisible user has left.
    say(&mut alice, "invisible").await;
    assert_eq!(backend.next().await, "leave alice offline");
    say(&mut alice, "away").await;
    assert_eq!(backend.next().await, "join alice away");
    alice.disconnect().await;
    assert_eq!(backend.next().await, "leave alice offline");

    // The clients of all nodes have heard the same.
    for watcher in &mut watchers {
        for event in [
            "join alice online",
            "status alice busy",
            "status alice online",
            "leave alice offline",
            "join alice away",
            "leave alice offline",
        ] {
            expect_event(watcher, event).await;
        }
    }
}

/// Nobody but a surviving node can tell that the users of a killed one left: one of them does.
#[tokio::test]
async fn survivors_tell_that_the_users_of_a_killed_node_left() {
    let cluster = Cluster::open(|_, builder| builder.set("presence.debounce", "1s")).await;
    let mut backend = Events::of(&cluster.vhost, &format!("group.{EVERYBODY}")).await;
    let mut clients = Vec::new();
    for (node, user) in [
        (0, "alice"),
        (0, "bob"),
        (0, "carol"),
        (1, "alice"),
        (2, "dave"),
    ] {
        clients.push(cluster.tcp(node, user).await);
    }
    let users = ["alice", "bob", "carol", "dave"];
    let joined = backend.next_sorted(users.len()).await;
    assert_eq!(joined, users.map(|user| format!("join {user} online")));

    cluster.kill(0).await;
    // Alice has another connection.
    let left = backend.next_sorted(2).await;
    assert_eq!(left, ["leave bob offline", "leave carol offline"]);
    cluster
        .until_online(&[1, 2], &["alice", "dave"].map(String::from))
        .await;

    // And nothing more is told of them.
    let eve = cluster.tcp(1, "eve").await;
    assert_eq!(backend.next().await, "join eve online");
    eve.disconnect().await;
    assert_eq!(backend.next().await, "leave eve offline");
    drop(clients);
}
