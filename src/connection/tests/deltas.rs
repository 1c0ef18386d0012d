//! Subscriptions that want deltas.

use std::collections::HashMap;

use stomp_grammar::Frame;

use super::*;

/// Decodes what comes, as a client does.
#[derive(Default)]
struct Reader {
    last: HashMap<String, (String, Vec<u8>)>,
    deltas: usize,
    bytes: usize,
}

impl Reader {
    fn read(&mut self, message: &Frame) -> Vec<u8> {
        let destination = message.header("destination").unwrap().to_owned();
        self.bytes += message.body.len();
        let told = message.header("x-delta").unwrap();
        let (number, body) = match told.split(' ').collect::<Vec<_>>()[..] {
            ["whole", number] => (number, message.body.to_vec()),
            ["fossil", number, base] => {
                self.deltas += 1;
                let (known, body) = &self.last[&destination];
                assert_eq!(base, known);
                (number, fossil_delta::apply(body, &message.body).unwrap())
            }
            _ => panic!("{told}"),
        };
        let known = (number.to_owned(), body.clone());
        self.last.insert(destination, known);
        body
    }
}

fn body(n: usize) -> String {
    format!(
        "{{\"text\":\"{}\",\"n\":{n}}}",
        "the price of one euro ".repeat(40)
    )
}

#[tokio::test(start_paused = true)]
async fn a_client_gets_deltas_and_another_whole_messages() {
    let house = House::new();
    let mut client = Client::connect(&house).await;
    client
        .subscribe("1", "/topic/price.*", "delta:fossil\n")
        .await;
    let mut plain = Client::connect(&house).await;
    plain.subscribe("1", "/topic/price.*", "").await;
    let mut reader = Reader::default();
    for n in 0..20 {
        let key = ["price.a", "price.b"][n % 2];
        house.publish("amq.topic", key, &body(n));
        plain.expect_message(&body(n)).await;
        let message = client.expect(Command::Message).await;
        assert_eq!(reader.read(&message), body(n).as_bytes());
    }
    assert_eq!(reader.deltas, 18);
    assert!(reader.bytes < 3_000, "{}", reader.bytes);
    // Subscribed anew, the first one is whole.
    client.send("UNSUBSCRIBE\nid:1\nreceipt:u\n\n\0");
    client.expect_receipt("u").await;
    client
        .subscribe("1", "/topic/price.*", "delta:fossil\n")
        .await;
    house.publish("amq.topic", "price.a", &body(99));
    let message = client.expect_message(&body(99)).await;
    assert_eq!(message.header("x-delta"), Some("whole 1"));
    // What is too short is no delta, nor the base of one.
    house.publish("amq.topic", "price.a", "short");
    let message = client.expect_message("short").await;
    assert_eq!(message.header("x-delta"), None);
    house.publish("amq.topic", "price.a", &body(100));
    client.expect_message(&body(100)).await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_client_decodes_what_its_mailbox_left() {
    let house = House::new();
    let mut client = Client::connect(&house).await;
    client
        .subscribe("1", "/topic/price.*", "delta:fossil\nconflate:latest\n")
        .await;
    let mut reader = Reader::default();
    let mut last = 0;
    for round in 0..30 {
        client.wire.set_room(if round % 3 == 0 { 0 } else { 700 });
        for n in 0..40 {
            last = round * 100 + n;
            house.publish("amq.topic", "price.a", &body(last));
            settle().await;
        }
    }
    client.wire.set_room(usize::MAX);
    let mut seen = None;
    while seen.as_deref() != Some(body(last).as_bytes()) {
        let message = client.expect(Command::Message).await;
        seen = Some(reader.read(&message));
    }
    assert!(reader.deltas > 0);
}

#[tokio::test(start_paused = true)]
async fn where_there_can_be_no_deltas_the_client_is_told() {
    for (destination, headers, part) in [
        ("/topic/a", "delta:vcdiff", "fossil, the one format"),
        ("/topic/a", "delta:", "fossil, the one format"),
        (
            "/topic/a",
            "delta:fossil\ndurable:true\nid:1",
            "queue of its own",
        ),
        ("/topic/a", "delta:fossil\nack:client", "ack:auto"),
        ("/queue/a", "delta:fossil", "queue of its own"),
    ] {
        let house = House::new();
        let mut client = Client::connect(&house).await;
        client.send(format!(
            "SUBSCRIBE\nid:1\ndestination:{destination}\n{headers}\n\n\0"
        ));
        let error = client.expect(Command::Error).await;
        let told = String::from_utf8_lossy(&error.body).into_owned();
        assert!(
            told.contains("delta") && told.contains(part),
            "{headers}: {told}"
        );
        assert_eq!(error.header("reconnect"), Some("no"), "{headers}");
        assert_eq!(error.header("error-code"), Some("invalid-header"));
    }
}
