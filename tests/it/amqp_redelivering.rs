//! Confirmed delivery with a real broker: messages that are written again until their client
//! acknowledges them, and what becomes of those that it never does.

use stomp_grammar::{Command, Frame};
use testkit::{DEADLINE, FEED, Proxy, StompClient, eventually};

use crate::house::{House, vhost};

const EACH: (&str, &str) = ("ack", "client-individual");

async fn acknowledge(client: &mut StompClient, message: &Frame) {
    let id = message.header("ack").unwrap();
    client
        .request(Frame::new(Command::Ack).with_header("id", id))
        .await;
}

#[tokio::test]
async fn an_acknowledgement_of_a_later_attempt_settles_the_message() {
    let house = House::open().await;
    for kind in ["classic", "quorum"] {
        let queue = format!("/queue/{kind}");
        let headers = [EACH, ("redeliver", "150,150,150"), ("x-queue-type", kind)];
        let mut client = house.ws().await;
        client.subscribe_with("1", &queue, &headers).await;
        house.vhost.publish("", kind, ["hello"]).await;
        let first = client.expect_message("hello").await;
        assert_eq!(first.header("attempt"), None);
        for attempt in ["2", "3"] {
            let again = client.expect_message("hello").await;
            assert_eq!(again.header("attempt"), Some(attempt));
            assert_eq!(again.header("message-id"), first.header("message-id"));
        }
        acknowledge(&mut client, &first).await;
        acknowledge(&mut client, &first).await;
        assert_eq!(house.vhost.held_by(kind).await, (0, 0));
    }
}

#[tokio::test]
async fn a_message_that_nobody_acknowledges_becomes_a_dead_letter() {
    let house = House::open_with(|builder| builder.set("stomp.redeliver_max_rounds", "1")).await;
    let mut undertaker = house.tcp().await;
    undertaker.subscribe("1", "/exchange/feed/dead").await;
    let headers = [
        EACH,
        ("redeliver", "100"),
        ("x-dead-letter-exchange", FEED),
        ("x-dead-letter-routing-key", "dead"),
    ];
    let mut client = house.tcp().await;
    client.subscribe_with("1", "/queue/jobs", &headers).await;
    house.vhost.publish("", "jobs", ["poison"]).await;
    // Two rounds of two attempts each; the second round comes from the queue.
    for (attempt, redelivered) in [
        (None, "false"),
        (Some("2"), "true"),
        (None, "true"),
        (Some("2"), "true"),
    ] {
        let message = client.expect_message("poison").await;
        assert_eq!(message.header("attempt"), attempt);
        assert_eq!(message.header("redelivered"), Some(redelivered));
    }
    let dead = undertaker.expect_message("poison").await;
    assert_eq!(dead.header("x-first-death-reason"), Some("rejected"));
    assert_eq!(house.vhost.held_by("jobs").await, (0, 0));
}

/// As a chat does with a phone that is in a tunnel: the message waits for its next login.
#[tokio::test]
async fn a_durable_subscription_keeps_the_message_for_the_next_login() {
    let house = House::open().await;
    let headers = [
        EACH,
        ("durable", "true"),
        ("auto-delete", "false"),
        ("redeliver", "100,100"),
        ("redeliver-then", "later"),
    ];
    let mut client = house.tcp().await;
    client
        .subscribe_with("phone", "/exchange/feed/user_x", &headers)
        .await;
    house.vhost.publish(FEED, "user_x", ["hello"]).await;
    for _ in 0..3 {
        client.expect_message("hello").await;
    }
    let is_given_up = async || {
        let (_, metrics) = house.gateway.admin("/metrics").await;
        metrics.contains("stentor_redeliveries_given_up_total{then=\"later\"} 1")
    };
    eventually(DEADLINE, "it is given up", is_given_up).await;
    drop(client);
    let mut client = house.tcp().await;
    client
        .subscribe_with("phone", "/exchange/feed/user_x", &headers)
        .await;
    let message = client.expect_message("hello").await;
    assert_eq!(message.header("redelivered"), Some("true"));
    assert_eq!(message.header("attempt"), None);
    acknowledge(&mut client, &message).await;
}

/// RabbitMQ gives all that is unacknowledged again when the link is back. Then the gateway writes
/// only those again, and not what it has kept from before.
#[tokio::test]
async fn after_a_lost_link_nothing_of_before_is_written_again() {
    let vhost = vhost().await;
    let proxy = Proxy::start(&vhost.node().amqp_address()).await;
    let house = House::start(vhost.clone(), |builder| {
        builder
            .vhost_via(&vhost, &proxy.address())
            .set("broker.reconnect_max", "500ms")
    })
    .await;
    let mut client = house.tcp().await;
    let headers = [
        EACH,
        ("redeliver", "1000,1000,1000,1000,1000,1000,1000,1000"),
    ];
    client.subscribe_with("1", "/queue/q", &headers).await;
    vhost.publish("", "q", ["one"]).await;
    let before = client.expect_message("one").await;
    proxy.cut();
    let after = loop {
        // It may come again from before the cut was noticed.
        let message = client.expect_message("one").await;
        if message.header("message-id") != before.header("message-id") {
            break message;
        }
    };
    assert_eq!(after.header("redelivered"), Some("true"));
    assert_eq!(after.header("attempt"), None);
    acknowledge(&mut client, &after).await;
    vhost.publish("", "q", ["two"]).await;
    // Three seconds, in which the first would have come three times.
    for attempt in [None, Some("2"), Some("3"), Some("4")] {
        let two = client.expect_message("two").await;
        assert_eq!(two.header("attempt"), attempt);
    }
    let is_settled = async || vhost.held_by("q").await == (0, 1);
    eventually(DEADLINE, "one is settled", is_settled).await;
}
