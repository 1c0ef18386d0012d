//! Keys that change fast: newest messages alone, through the built program and RabbitMQ.

use stomp_grammar::{Command, Frame};
use testkit::{FEED, StompClient};

use crate::house::{DESTINATION, House, numbers};

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
