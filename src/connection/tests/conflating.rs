//! Subscriptions that want only the newest message of each key.

use stomp_grammar::Frame;

use super::*;
use crate::hub::{MailboxConfig, Overflow};

/// How many older messages it stands for.
fn conflated(message: &Frame) -> u32 {
    let count = message.header("x-conflated").unwrap_or("0");
    count.parse().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_finds_the_newest_of_each_key() {
    let house = House::with(Options {
        mailbox: MailboxConfig {
            max_messages: 20,
            overflow: Overflow::Disconnect,
            ..MailboxConfig::default()
        },
        ..Options::default()
    });
    let mut client = Client::connect(&house).await;
    client
        .subscribe("1", "/topic/price.*", "conflate:latest\n")
        .await;
    client.wire.set_room(0);
    let filling = "x".repeat(10_000);
    for _ in 0..50 {
        house.publish("amq.topic", "price.a", &filling);
        settle().await;
    }
    for n in 1..=500 {
        house.publish("amq.topic", "price.a", &n.to_string());
        house.publish("amq.topic", "price.b", &n.to_string());
        settle().await;
    }
    client.wire.set_room(usize::MAX);
    let (mut of_a, mut last) = (0, Vec::new());
    while last.len() < 2 {
        let message = client.expect(Command::Message).await;
        assert_eq!(message.header("x-dropped"), None);
        if message.header("destination") == Some("/topic/price.a") {
            of_a += 1 + conflated(&message);
        } else {
            assert_eq!(conflated(&message), 499);
        }
        if message.body[..] == b"500"[..] {
            last.push(message);
        }
    }
    assert_eq!(of_a, 550, "each is counted, written or not");
    settle().await;
    client.expect_nothing();
}

#[tokio::test(start_paused = true)]
async fn a_client_gets_a_key_once_a_window() {
    let house = House::new();
    let mut client = Client::connect(&house).await;
    client
        .subscribe("1", "/topic/price.a", "conflate:200\n")
        .await;
    let mut plain = Client::connect(&house).await;
    plain.subscribe("1", "/topic/price.a", "").await;
    let start = Instant::now();
    for n in 0..100 {
        house.publish("amq.topic", "price.a", &n.to_string());
        plain.expect_message(&n.to_string()).await;
        sleep(Duration::from_millis(10)).await;
    }
    let mut messages = 0;
    loop {
        let message = client.expect(Command::Message).await;
        messages += 1;
        if message.body[..] == b"99"[..] {
            break;
        }
    }
    assert!((5..=7).contains(&messages), "{messages} in a second");
    assert!(start.elapsed() <= Duration::from_millis(1_250));
    settle().await;
    client.expect_nothing();
    // Another life of the same id is not conflated.
    client.send("UNSUBSCRIBE\nid:1\nreceipt:u\n\n\0");
    client.expect_receipt("u").await;
    client.subscribe("1", "/topic/price.a", "").await;
    for n in ["100", "101"] {
        house.publish("amq.topic", "price.a", n);
    }
    for n in ["100", "101"] {
        assert_eq!(conflated(&client.expect_message(n).await), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn where_nothing_can_be_conflated_the_client_is_told() {
    for (destination, headers, part) in [
        (
            "/topic/a",
            "conflate:newest",
            "milliseconds from 10 to 60000",
        ),
        ("/topic/a", "conflate:5", "milliseconds from 10 to 60000"),
        (
            "/topic/a",
            "conflate:latest\nack:client-individual",
            "ack:auto",
        ),
        (
            "/topic/a",
            "conflate:latest\ndurable:true\nauto-delete:false",
            "queue of its own",
        ),
        ("/queue/a", "conflate:latest", "queue of its own"),
        (
            "/topic/a",
            "conflate:latest\nresume-after:5b8d59a4-1-6ba4d1ed",
            "resume-after",
        ),
    ] {
        let house = House::new();
        let mut client = Client::connect(&house).await;
        client.send(format!(
            "SUBSCRIBE\nid:1\ndestination:{destination}\n{headers}\n\n\0"
        ));
        let error = client.expect(Command::Error).await;
        let body = String::from_utf8_lossy(&error.body).into_owned();
        assert!(
            body.contains("conflate") && body.contains(part),
            "{headers}: {body}"
        );
        assert_eq!(error.header("reconnect"), Some("no"), "{headers}");
    }
}
