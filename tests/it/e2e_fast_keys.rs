//! Keys that change fast: newest messages alone, and deltas, through the built program and RabbitMQ.

use serde_json::json;
use stomp_grammar::{Command, Frame};
use testkit::{FEED, Remote, StompClient};

use crate::house::{DESTINATION, House, PASSCODE, USER, numbers};

fn subscribing(headers: &[(&str, &str)]) -> Frame {
    let mut frame = Frame::new(Command::Subscribe);
    let own = [
        ("id", "fast"),
        ("destination", DESTINATION),
        ("receipt", "live"),
    ];
    for (name, value) in own.iter().chain(headers) {
        frame.headers.push(name, value);
    }
    frame
}

async fn subscribed(house: &House, headers: &[(&str, &str)]) -> StompClient {
    let mut client = house.ws().await;
    client.send(&subscribing(headers)).await;
    let answer = client.expect_frame().await;
    assert_eq!(answer.command, Command::Receipt, "{answer:?}");
    client
}

/// Hears until this body comes: how many messages came, and how many were meant.
async fn hear_until(client: &mut StompClient, last: &str) -> (usize, usize) {
    let (mut came, mut meant) = (0, 0);
    loop {
        let message = client.expect_frame().await;
        assert_eq!(message.command, Command::Message, "{message:?}");
        let conflated = message.headers.get("x-conflated").unwrap_or("0");
        came += 1;
        meant += 1 + conflated.parse::<usize>().unwrap();
        if message.body[..] == *last.as_bytes() {
            return (came, meant);
        }
    }
}

#[tokio::test]
async fn a_throttled_client_gets_little_and_the_last_one() {
    let house = House::open().await;
    let mut throttled = subscribed(&house, &[("conflate", "500")]).await;
    let mut plain = subscribed(&house, &[]).await;
    house.push(numbers(0..2_000)).await;
    assert_eq!(hear_until(&mut plain, "1999").await, (2_000, 2_000));
    let (came, meant) = hear_until(&mut throttled, "1999").await;
    assert_eq!(meant, 2_000);
    assert!(came < 200, "{came} of 2,000");
    println!("conflate:500: {came} of {meant} messages came");
}

#[tokio::test]
async fn an_exchange_with_a_journal_or_of_another_type_is_not_conflated() {
    let house = House::open_with(|builder| builder.set("journal.exchanges", FEED)).await;
    for (destination, part) in [
        (DESTINATION, "an exchange with a journal"),
        ("/exchange/amq.headers/a", "a queue of its own"),
    ] {
        let mut client = house.ws().await;
        let mut frame = Frame::new(Command::Subscribe);
        for (name, value) in [
            ("id", "fast"),
            ("destination", destination),
            ("conflate", "latest"),
        ] {
            frame.headers.push(name, value);
        }
        client.send(&frame).await;
        let error = client.expect_frame().await;
        assert_eq!(error.command, Command::Error);
        let body = String::from_utf8_lossy(&error.body);
        assert!(body.contains(part), "{body}");
        assert_eq!(error.headers.get("error-code"), Some("invalid-header"));
    }
}

/// Two kilobytes of JSON: prices, of which ten change each time. That is a twentieth of the bytes.
fn book(number: usize) -> String {
    let mut prices: Vec<_> = (0..53).map(|row| 100_000_000_000 + 7 * row).collect();
    let rows = prices.len();
    for step in 0..=number {
        for change in 0..10 {
            let price = &mut prices[(step * 3 + change * 5) % rows];
            let random = step * 79_190_017 + change * 154_858_630_301;
            *price = 100_000_000_000 + random % 900_000_000_000;
        }
    }
    let rows = prices.iter().enumerate().map(|(row, price)| {
        let (whole, part) = (price / 100_000_000_000, price % 100_000_000_000);
        format!(r#"{{"id":"pair-{row:02}","price":{whole}.{part:011}}}"#)
    });
    let rows: Vec<_> = rows.collect();
    format!(
        r#"{{"n":{number},"name":"Börse","all":[{}]}}"#,
        rows.join(",")
    )
}

/// Decodes what comes, as a client does.
#[derive(Default)]
struct Reader {
    last: Option<(String, Vec<u8>)>,
    messages: usize,
    /// Those among them that were deltas.
    deltas: usize,
    /// Of the frames, as they are on the wire.
    bytes: usize,
}

impl Reader {
    async fn next(&mut self, client: &mut StompClient) -> (Frame, String) {
        let message = client.expect_frame().await;
        let body = self.read(&message);
        (message, body)
    }

    fn read(&mut self, message: &Frame) -> String {
        assert_eq!(message.command, Command::Message, "{message:?}");
        let headers = message.headers.iter();
        let headers = headers.map(|(name, value)| name.len() + value.len() + ":\n".len());
        self.messages += 1;
        self.bytes += "MESSAGE\n\n\0".len() + headers.sum::<usize>() + message.body.len();
        let told = message.headers.get("x-delta").unwrap_or("plain");
        let (number, body) = match told.split(' ').collect::<Vec<_>>()[..] {
            ["plain"] => ("", message.body.to_vec()),
            ["whole", number] => (number, message.body.to_vec()),
            ["fossil", number, base] => {
                self.deltas += 1;
                let (known, body) = self.last.as_ref().unwrap();
                assert_eq!(known, base);
                (number, fossil_delta::apply(body, &message.body).unwrap())
            }
            _ => panic!("{told}"),
        };
        self.last = Some((number.to_owned(), body.clone()));
        String::from_utf8(body).unwrap()
    }
}

#[tokio::test]
async fn deltas_take_a_fifth_of_the_bytes_and_all_get_the_same() {
    const CHANGES: usize = 300;
    let house = House::open().await;
    let mut plain = subscribed(&house, &[]).await;
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(subscribed(&house, &[("delta", "fossil")]).await);
    }
    let mut throttled = subscribed(&house, &[("delta", "fossil"), ("conflate", "50")]).await;
    let bodies: Vec<_> = (0..CHANGES).map(book).collect();
    house.push(&bodies).await;
    let mut whole = Reader::default();
    for body in &bodies {
        assert_eq!(whole.next(&mut plain).await.1, *body);
    }
    let mut readers: Vec<_> = clients.iter().map(|_| Reader::default()).collect();
    let mut sent = Vec::new();
    for (client, reader) in clients.iter_mut().zip(&mut readers) {
        for (number, body) in bodies.iter().enumerate() {
            let (message, read) = reader.next(client).await;
            assert_eq!(read, *body);
            if sent.len() == number {
                sent.push(message.body.clone());
            }
            assert_eq!(message.body, sent[number], "the same bytes for all");
        }
        assert_eq!(reader.deltas, CHANGES - 1);
    }
    let [off, on] = [&whole, &readers[0]].map(|reader| reader.bytes / CHANGES);
    let (one, other) = (bodies[200].as_bytes(), bodies[201].as_bytes());
    let changed = one.iter().zip(other).filter(|(a, b)| a != b).count();
    println!(
        "{} bytes, {changed} change: {off} bytes a frame, with deltas {on}",
        one.len()
    );
    assert!(on * 5 <= off, "{on} of {off}");
    // What its windows left out is no base.
    let mut reader = Reader::default();
    while reader.next(&mut throttled).await.1 != bodies[CHANGES - 1] {}
    println!(
        "conflate:50: {} messages, {} of them deltas",
        reader.messages, reader.deltas
    );
    let (_, metrics) = house.gateway.admin("/metrics").await;
    let [deltas, whole, saved] = ["messages", "whole_messages", "saved_bytes"].map(|name| {
        let name = format!("stentor_delta_{name}_total ");
        let value = metrics.lines().find_map(|line| line.strip_prefix(&name));
        value.unwrap().parse::<usize>().unwrap()
    });
    println!("{deltas} deltas saved {saved} bytes; {whole} messages went whole");
    assert_eq!(deltas, 10 * (CHANGES - 1) + reader.deltas);
    assert_eq!(whole, 10 + reader.messages - reader.deltas);
    assert!(saved > deltas * bodies[0].len() / 2, "{saved}");
}

#[tokio::test]
async fn a_client_that_catches_up_begins_with_a_whole_message() {
    let house = House::open_with(|builder| builder.set("journal.exchanges", FEED)).await;
    let mut client = subscribed(&house, &[("delta", "fossil")]).await;
    let mut reader = Reader::default();
    house.push((0..3).map(book)).await;
    let mut cursor = String::new();
    for number in 0..3 {
        let (message, body) = reader.next(&mut client).await;
        assert_eq!(body, book(number));
        message.header("cursor").unwrap().clone_into(&mut cursor);
    }
    assert_eq!(reader.deltas, 2);
    drop(client);
    house.push((3..6).map(book)).await;
    let mut client = house.ws().await;
    let asking = [("delta", "fossil"), ("resume-after", &*cursor)];
    client.send(&subscribing(&asking)).await;
    let mut reader = Reader::default();
    while reader.messages < 3 {
        let frame = client.expect_frame().await;
        if frame.command != Command::Receipt {
            assert_eq!(reader.read(&frame), book(2 + reader.messages));
        }
    }
    assert_eq!(reader.deltas, 2);
}

#[tokio::test]
async fn a_client_of_ours_asks_for_deltas_and_hears_whole_messages() {
    let house = House::open().await;
    let mut client = Remote::node("stentor-client.mjs");
    client.order(&json!({
        "do": "connect",
        "url": format!("ws://{}/ws", house.gateway.origin().trim_start_matches("http://")),
        "headers": { "login": USER, "passcode": PASSCODE },
    }));
    client.expect("connected").await;
    client.order(&json!({ "do": "subscribe", "destination": DESTINATION, "delta": true }));
    client.expect("live").await;
    house.push((0..50).map(book)).await;
    for number in 0..50 {
        let message = client.expect("message").await;
        assert_eq!(message["body"], book(number));
        let told = match number {
            0 => "whole 1".to_owned(),
            _ => format!("fossil {} {number}", number + 1),
        };
        assert_eq!(message["kind"], told);
    }
}
