//! Messages of one client that RabbitMQ 4 cannot read from a stream, or that would speak for others.

use super::*;

/// What RabbitMQ 4 takes for its own in a message, and finds of another kind; and what else has a
/// meaning to it.
const ODD: [(&str, &str); 18] = [
    ("x-basic-expiration", "h"),
    ("x-basic-priority", "5"),
    ("x-basic-type", "amqp-1.0"),
    ("x-amqp-1.0-properties", "hello"),
    ("x-amqp-1.0-app-properties", "hello"),
    ("x-amqp-1.0-message-annotations", "hello"),
    ("x-amqp-1.0-delivery-annotations", "hello"),
    ("x-amqp-1.0-footer", "hello"),
    ("x-opt-anything", "1"),
    ("x-cc", "user_bob"),
    ("x-exchange", "other"),
    ("x-routing-key", "user_bob"),
    ("x-stream-offset", "7"),
    ("x-death", "dead"),
    ("x-first-death-queue", "q"),
    ("x-delivery-count", "many"),
    ("x-acquired-count", "many"),
    ("x-stream-filter-value", "some"),
];

fn send(destination: &str, name: &str, value: &str, body: &'static [u8]) -> Frame {
    Frame::new(Command::Send)
        .with_header("destination", destination)
        .with_header(name, value)
        .with_body(body)
}

/// Nobody waits for what one client said, live or catching up, at this node or one that starts.
#[tokio::test]
async fn no_header_of_a_client_stops_a_journal() {
    let house = House::open_with(kept).await;
    let mut live = house.tcp().await;
    live.subscribe("feed", DESTINATION).await;
    let mut mallory = house.tcp().await;
    for (name, value) in ODD {
        let frame = send("/exchange/feed/odd", name, value, b"odd");
        mallory.request(frame).await;
    }
    house.push(["still here"]).await;
    live.expect_message("still here").await;
    let builder = stentor().vhost(&house.vhost).hook(&house.hook);
    let started: Gateway = kept(builder).ready().await;
    for gateway in [&house.gateway, &started] {
        let mut client = StompClient::tcp(gateway.stomp_address()).await;
        client.connect(&house.login()).await;
        let (receipt, missed) = subscribe(&mut client, &[("since", "first")]).await;
        assert_told(&receipt, &[("resume", "exact"), ("missed", "1")]);
        assert_eq!(bodies(&missed), ["still here"]);
    }
    house.push(["to all"]).await;
    live.expect_message("to all").await;
}

/// RabbitMQ 4 would take the body for sections of AMQP 1.0, with a sender and further keys in them.
#[tokio::test]
async fn no_client_says_that_its_body_is_encoded() {
    let house = House::open_with(kept).await;
    let mut live = house.tcp().await;
    live.subscribe("feed", DESTINATION).await;
    for body in [&b"hello"[..], b""] {
        let mut mallory = house.tcp().await;
        let frame = send("/exchange/feed/odd", "type", "amqp-1.0", body);
        mallory.send(&frame).await;
        let error = mallory.expect_error("Invalid header").await;
        let said = String::from_utf8_lossy(&error.body).into_owned();
        assert!(said.contains("another type"), "{said}");
    }
    house.push(["still here"]).await;
    live.expect_message("still here").await;
}
