//! What RabbitMQ itself decides about deliveries: how often a message is tried, how long a client
//! may take to acknowledge it, and what the bodies of AMQP 1.0 look like. Each at RabbitMQ's own
//! plug-in and at the gateway.

use std::sync::Arc;

use serde_json::json;
use stomp_grammar::{Command, Frame};
use testkit::{FEED, RabbitMq, Remote, StompClient, Vhost};

use crate::{
    foreign::Server,
    house::{DESTINATION, House, KEY, vhost_on},
};

/// RabbitMQ 4 gives up a message of a quorum queue after so many deliveries that failed.
const LIMIT: usize = 20;

const QUORUM: (&str, &str) = ("x-queue-type", "quorum");
const EACH: (&str, &str) = ("ack", "client-individual");

/// Whether the node is of RabbitMQ 4 or later.
async fn is_new(vhost: &Vhost) -> bool {
    let overview = vhost.node().api().get("/overview").await;
    let version = overview["rabbitmq_version"].as_str().unwrap().to_owned();
    !version.starts_with("3.")
}

/// A client that subscribes and gets the message.
async fn taken(server: &Server, headers: &[(&str, &str)]) -> (StompClient, Frame) {
    let mut client = server.client().await;
    client.subscribe_with("1", "/queue/jobs", headers).await;
    let message = client.expect_message("poison").await;
    (client, message)
}

/// A message that makes its clients crash must not go round for ever.
async fn a_poisonous_message_is_given_up(server: &Server) {
    let dead = [
        QUORUM,
        EACH,
        ("x-dead-letter-exchange", FEED),
        ("x-dead-letter-routing-key", "dead"),
    ];
    let is_new = is_new(server.vhost()).await;
    let mut undertaker = server.client().await;
    undertaker.subscribe("1", "/exchange/feed/dead").await;
    let mut first = server.client().await;
    first.subscribe_with("1", "/queue/jobs", &dead).await;
    server.vhost().publish("", "jobs", ["poison"]).await;
    first.expect_message("poison").await;
    drop(first);
    for failed in 1..=LIMIT {
        let (client, message) = taken(server, &dead).await;
        let count = failed.to_string();
        assert_eq!(message.header("x-delivery-count"), Some(&*count));
        assert_eq!(message.header("redelivered"), Some("true"));
        drop(client);
    }
    if is_new {
        let given_up = undertaker.expect_message("poison").await;
        assert_eq!(
            given_up.header("x-first-death-reason"),
            Some("delivery_limit")
        );
        assert_eq!(server.vhost().held_by("jobs").await, (0, 0));
    } else {
        // 3.10 has no such limit.
        taken(server, &dead).await;
    }
}

#[tokio::test]
async fn a_poisonous_message_is_given_up_by_the_plugin() {
    a_poisonous_message_is_given_up(&Server::plugins().await).await;
}

#[tokio::test]
async fn a_poisonous_message_is_given_up_by_the_gateway() {
    a_poisonous_message_is_given_up(&Server::gateway().await).await;
}

/// A node that waits three seconds for an acknowledgement.
async fn impatient() -> Arc<RabbitMq> {
    let node = RabbitMq::own_with("consumer_timeout = 3000\n").await;
    // It looks once a minute otherwise.
    let often = "application:set_env(rabbit, channel_tick_interval, 1000).";
    node.ctl(&["eval", often]).await;
    Arc::new(node)
}

/// The client that takes too long is told, and no other.
#[tokio::test]
async fn a_client_that_takes_too_long_to_acknowledge_is_told() {
    let node = impatient().await;
    let vhost = vhost_on(&node).await;
    let house = House::start(vhost, |builder| builder).await;
    let server = Server::Gateway(Box::new(house));
    let mut other = server.client().await;
    other.subscribe_with("1", "/queue/other", &[EACH]).await;
    let mut slow = server.client().await;
    slow.subscribe_with("1", "/queue/slow", &[QUORUM, EACH])
        .await;
    server.vhost().publish("", "slow", ["a job"]).await;
    slow.expect_message("a job").await;
    let error = slow
        .expect("an ERROR", |frame| frame.command == Command::Error)
        .await;
    let body = String::from_utf8_lossy(&error.body);
    // 4.3 cancels the consumer and gives no reason; earlier ones close its channel with theirs.
    assert!(
        body.contains("consumer_timeout") || body.contains("acknowledgement on channel"),
        "{body}"
    );
    assert!(
        error
            .header("reconnect")
            .is_some_and(|advice| advice != "no")
    );
    server.vhost().publish("", "other", ["still here"]).await;
    other.expect_message("still here").await;
    // The message is there for the next one.
    let mut next = server.client().await;
    next.subscribe_with("1", "/queue/slow", &[QUORUM, EACH])
        .await;
    next.expect_message("a job").await;
}

/// Bytes are a body like any other. A value or a sequence comes encoded, and its `type` says so.
async fn bodies_of_amqp_1_0(server: &Server) {
    if !is_new(server.vhost()).await {
        return;
    }
    let mut client = server.client().await;
    client.subscribe("1", DESTINATION).await;
    let address = server.vhost().node().amqp_address();
    let mut backend = Remote::python("amqp10.py");
    backend.order(&json!({
        "do": "publish", "url": format!("amqp://guest:guest@{address}"),
        "vhost": server.vhost().name(), "exchange": FEED, "key": KEY,
        "kinds": ["data", "value", "sequence"],
    }));
    backend.expect("published").await;

    let data = client.expect_message("plain bytes").await;
    assert_eq!(data.header("content-type"), Some("text/plain"));
    assert_eq!(data.header("type"), None);
    let value = client.expect("a message", |_| true).await;
    assert_eq!(value.body, &b"\0Sw\xa1\x07a value"[..]);
    assert_eq!(value.header("type"), Some("amqp-1.0"));
    assert_eq!(value.header("color"), Some("red"));
    let sequence = client.expect("a message", |_| true).await;
    assert_eq!(sequence.header("type"), Some("amqp-1.0"));
    assert!(sequence.body.starts_with(b"\0Sv"));
}

#[tokio::test]
async fn bodies_of_amqp_1_0_at_the_plugin() {
    bodies_of_amqp_1_0(&Server::plugins().await).await;
}

#[tokio::test]
async fn bodies_of_amqp_1_0_at_the_gateway() {
    bodies_of_amqp_1_0(&Server::gateway().await).await;
}
