//! Exchanges with a journal: clients that were away catch up, without a gap and without doubles.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use lapin::ExchangeKind;
use stomp_grammar::{Command, Frame};
use testkit::{DEADLINE, FEED, Gateway, GatewayBuilder, RabbitMq, StompClient, Vhost, eventually};

use crate::house::{DESTINATION, House, expect_numbers, numbers, stentor, vhost};

mod clients;
mod crowds;
mod example;
mod faults;
mod gaps;
mod history;
mod poison;
mod stored;

/// The exchange has a journal.
fn kept(builder: GatewayBuilder) -> GatewayBuilder {
    builder
        .set("journal.exchanges", FEED)
        .set("feed.verify_interval", "500ms")
}

/// The same; and next to nothing of it is in memory.
fn forgetful(builder: GatewayBuilder) -> GatewayBuilder {
    kept(builder).set("journal.memory", "1KiB")
}

/// Subscribes, with these headers; the RECEIPT, and the messages that came before.
async fn subscribe(
    client: &mut StompClient,
    headers: &[(&str, &str)],
) -> (Frame, Vec<(String, String)>) {
    let own = [
        ("id", "feed"),
        ("destination", DESTINATION),
        ("receipt", "r"),
    ];
    let headers: Vec<_> = own.iter().chain(headers).copied().collect();
    client.send(&asking(&headers)).await;
    let mut messages = Vec::new();
    let mut answer = None;
    loop {
        // Some of them may come after it.
        if let Some(answer) = &answer {
            if missed(answer).is_none_or(|missed| missed == messages.len()) {
                return (answer.clone(), messages);
            }
            messages.push(told(&client.expect_frame().await));
            continue;
        }
        let next = client.expect_frame().await;
        match next.command {
            Command::Message => messages.push(told(&next)),
            _ => answer = Some(next),
        }
    }
}

/// How many messages a RECEIPT says were missed.
fn missed(receipt: &Frame) -> Option<usize> {
    receipt.headers.get("missed")?.parse().ok()
}

/// A SUBSCRIBE.
fn asking(headers: &[(&str, &str)]) -> Frame {
    let mut frame = Frame::new(Command::Subscribe);
    for (name, value) in headers {
        frame.headers.push(name, value);
    }
    frame
}

/// The body and the cursor of a MESSAGE.
fn told(message: &Frame) -> (String, String) {
    let body = String::from_utf8(message.body.to_vec()).unwrap();
    (body, cursor(message))
}

fn cursor(message: &Frame) -> String {
    message.headers.get("cursor").unwrap().to_owned()
}

/// Hears of these messages, and goes: the last one's cursor.
async fn hear_and_leave(house: &House, range: std::ops::Range<usize>) -> String {
    let mut client = house.tcp().await;
    client.subscribe("feed", DESTINATION).await;
    house.push(numbers(range.clone())).await;
    let mut last = String::new();
    for number in range {
        let message = client.expect_message(&number.to_string()).await;
        last = cursor(&message);
    }
    client.disconnect().await;
    last
}

/// Publishes messages that are missed, and waits until the node knows of them: what it does not know
/// of yet comes live, behind the RECEIPT that counts the missed ones.
async fn miss<B: AsRef<[u8]>>(house: &House, bodies: impl IntoIterator<Item = B>) {
    house.push(bodies).await;
    is_read(house).await;
}

/// The node has read all that was published so far.
async fn is_read(house: &House) {
    let mut witness = house.tcp().await;
    witness.subscribe("mark", "/exchange/feed/mark").await;
    house.vhost.publish(FEED, "mark", ["mark"]).await;
    witness.expect_message("mark").await;
    witness.disconnect().await;
}

/// The exchange's messages are kept.
async fn is_bound(house: &House) {
    let bound = async || house.vhost.is_bound(FEED, "#").await;
    eventually(DEADLINE, "the journal is bound", bound).await;
}

fn bodies(messages: &[(String, String)]) -> Vec<&str> {
    messages.iter().map(|(body, _)| &**body).collect()
}

fn assert_told(receipt: &Frame, expected: &[(&str, &str)]) {
    for (name, value) in expected {
        assert_eq!(
            receipt.headers.get(name),
            Some(*value),
            "{name}: {receipt:?}"
        );
    }
}

#[tokio::test]
async fn what_was_missed_comes_first_and_what_comes_follows() {
    for settings in [kept, forgetful] {
        let house = House::open_with(settings).await;
        let last = hear_and_leave(&house, 0..5).await;
        house
            .vhost
            .publish(FEED, "user_bob", ["not for alice"])
            .await;
        miss(&house, numbers(5..25)).await;
        let mut client = house.ws().await;
        let (receipt, missed) = subscribe(&mut client, &[("resume-after", &last)]).await;
        assert_told(
            &receipt,
            &[("receipt-id", "r"), ("resume", "exact"), ("missed", "20")],
        );
        assert_eq!(bodies(&missed), numbers(5..25));
        house.push(numbers(25..30)).await;
        expect_numbers(&mut client, 25..30).await;
    }
}

#[tokio::test]
async fn nothing_missed_is_nothing_sent() {
    let house = House::open_with(kept).await;
    let last = hear_and_leave(&house, 0..3).await;
    let mut client = house.tcp().await;
    let (receipt, missed) = subscribe(&mut client, &[("resume-after", &last)]).await;
    assert_told(&receipt, &[("resume", "exact"), ("missed", "0")]);
    assert_eq!(missed, []);
    house.push(["3"]).await;
    client.expect_message("3").await;
}

#[tokio::test]
async fn a_cursor_is_good_at_another_node() {
    let house = House::open_with(kept).await;
    let builder = stentor().vhost(&house.vhost).hook(&house.hook);
    let other: Gateway = kept(builder).ready().await;
    let mut client = StompClient::tcp(other.stomp_address()).await;
    client.connect(&house.login()).await;
    client.subscribe("feed", DESTINATION).await;
    house.push(["0"]).await;
    let heard = client.expect_message("0").await;
    other.kill().await;
    miss(&house, numbers(1..4)).await;
    let mut client = house.tcp().await;
    let (receipt, missed) = subscribe(&mut client, &[("resume-after", &cursor(&heard))]).await;
    assert_told(&receipt, &[("resume", "exact"), ("missed", "3")]);
    assert_eq!(bodies(&missed), numbers(1..4));
}

#[tokio::test]
async fn clients_may_begin_with_the_first_the_last_or_a_time() {
    for settings in [kept, forgetful] {
        let house = House::open_with(settings).await;
        hear_and_leave(&house, 0..1).await;
        for number in 1..40 {
            house.push([number.to_string()]).await;
            house.vhost.publish(FEED, "user_bob", ["x"]).await;
        }
        is_read(&house).await;
        for (header, from) in [
            (("since", "first"), 0),
            (("since", "1h"), 0),
            (("last", "3"), 37),
            (("last", "1"), 39),
            (("last", "1000"), 0),
        ] {
            let mut client = house.tcp().await;
            let (receipt, missed) = subscribe(&mut client, &[header]).await;
            assert_eq!(bodies(&missed), numbers(from..40), "{header:?}");
            let count = (40 - from).to_string();
            assert_told(&receipt, &[("resume", "exact"), ("missed", &count)]);
        }
        let mut client = house.tcp().await;
        let (_, missed) = subscribe(&mut client, &[("since", "2100-01-01T00:00:00Z")]).await;
        assert_eq!(missed, []);
        house.push(["next"]).await;
        client.expect_message("next").await;
    }
}

/// A journal keeps its exchange's messages although nobody is subscribed.
#[tokio::test]
async fn messages_are_kept_from_the_start_on() {
    let house = House::open_with(kept).await;
    is_bound(&house).await;
    miss(&house, numbers(0..3)).await;
    let mut client = house.tcp().await;
    let (_, missed) = subscribe(&mut client, &[("since", "first")]).await;
    assert_eq!(bodies(&missed), numbers(0..3));
}

#[tokio::test]
async fn a_fanout_exchange_has_all_its_messages_in_the_journal() {
    let vhost: Vhost = RabbitMq::shared().await.vhost().await;
    vhost.declare_exchange(FEED, ExchangeKind::Fanout).await;
    let house = House::start(vhost, kept).await;
    let last = hear_and_leave(&house, 0..2).await;
    let mut witness = house.tcp().await;
    witness.subscribe("feed", DESTINATION).await;
    house.vhost.publish(FEED, "any", numbers(2..4)).await;
    expect_numbers(&mut witness, 2..4).await;
    let mut client = house.tcp().await;
    let (_, missed) = subscribe(&mut client, &[("resume-after", &last)]).await;
    assert_eq!(bodies(&missed), numbers(2..4));
}

#[tokio::test]
async fn a_direct_exchange_is_kept_if_it_is_read_whole() {
    let vhost: Vhost = RabbitMq::shared().await.vhost().await;
    vhost.declare_exchange(FEED, ExchangeKind::Direct).await;
    let house = House::start(vhost, kept).await;
    let mut client = house.tcp().await;
    let (refused, _) = subscribe(&mut client, &[]).await;
    assert_eq!(refused.headers.get("message"), Some("precondition_failed"));
    let text = String::from_utf8_lossy(&refused.body);
    assert!(text.contains("feed.whole"), "{text}");
    let vhost = RabbitMq::shared().await.vhost().await;
    vhost.declare_exchange(FEED, ExchangeKind::Direct).await;
    let all = format!("{{\"alternate-exchange\":\"{FEED}.all\"}}");
    let policy = ["stentor", "^feed$", &all];
    let set = ["set_policy", "-p", vhost.name(), "--apply-to", "exchanges"];
    vhost.node().ctl(&[&set[..], &policy].concat()).await;
    let whole = |builder| {
        kept(builder)
            .set("feed.binding", "all")
            .set("feed.whole", FEED)
            .set("feed.bridge", false)
    };
    let house = House::start(vhost, whole).await;
    let last = hear_and_leave(&house, 0..2).await;
    miss(&house, numbers(2..5)).await;
    let mut client = house.tcp().await;
    let (_, missed) = subscribe(&mut client, &[("resume-after", &last)]).await;
    assert_eq!(bodies(&missed), numbers(2..5));
}

/// 5,000 messages a second keep coming while a client catches up with what it missed; it hears all of
/// them once, in order, and is level in the end. `JOURNAL_MISSED` says how many it missed.
#[tokio::test]
async fn many_missed_ones_come_while_others_come() {
    let missed = std::env::var("JOURNAL_MISSED").map_or(20_000, |text| text.parse().unwrap());
    let house = House::open_with(|builder| kept(builder).set("journal.memory", "1MiB")).await;
    let last = hear_and_leave(&house, 0..1).await;
    house.push(numbers(1..missed)).await;
    let (published, end) = (Cell::new(missed), Cell::new(None));
    let (is_level, begun) = (Cell::new(false), Instant::now());
    let publishing = async {
        let mut strokes = tokio::time::interval(Duration::from_millis(20));
        loop {
            strokes.tick().await;
            let start = published.get();
            published.set(start + 100);
            // One portion more, which comes live.
            let is_last = is_level.get();
            if is_last {
                end.set(Some(start + 100));
            }
            house.push(numbers(start..start + 100)).await;
            if is_last {
                return;
            }
        }
    };
    let catching_up = async {
        let mut client = house.ws().await;
        let headers = [
            ("id", "feed"),
            ("destination", DESTINATION),
            ("resume-after", &*last),
        ];
        client.send(&asking(&headers)).await;
        let mut next = 1;
        while end.get().is_none_or(|end| next < end) {
            client.expect_message(&next.to_string()).await;
            next += 1;
            if !is_level.get() && next + 100 >= published.get() {
                is_level.set(true);
                let (took, come) = (begun.elapsed(), published.get() - missed);
                println!("{missed} missed, level after {took:?}, {come} came meanwhile");
            }
        }
    };
    let both = async { tokio::join!(publishing, catching_up) };
    tokio::time::timeout(20 * DEADLINE, both).await.unwrap();
}

/// With one of three clients that does not read at all.
#[tokio::test]
async fn who_does_not_read_delays_nobody() {
    let house = House::open_with(forgetful).await;
    let last = hear_and_leave(&house, 0..1).await;
    let body = "x".repeat(4 << 10);
    for _ in 0..40 {
        house.push(vec![&*body; 100]).await;
    }
    house.push(["end"]).await;
    let mut idle = house.tcp().await;
    let headers = [
        ("id", "feed"),
        ("destination", DESTINATION),
        ("resume-after", &*last),
    ];
    idle.send(&asking(&headers)).await;
    for _ in 0..2 {
        let mut client = house.tcp().await;
        client.send(&asking(&headers)).await;
        for _ in 0..4_000 {
            client.expect_message(&body).await;
        }
        client.expect_message("end").await;
    }
    // Whoever reads after all has lost nothing.
    for _ in 0..4_000 {
        idle.expect_message(&body).await;
    }
    idle.expect_message("end").await;
}

/// Whoever has heard nothing yet has a cursor, too: its RECEIPT's.
#[tokio::test]
async fn a_receipt_has_a_cursor() {
    let house = House::open_with(kept).await;
    hear_and_leave(&house, 0..1).await;
    let mut client = house.tcp().await;
    let (receipt, _) = subscribe(&mut client, &[]).await;
    let cursor = receipt.headers.get("cursor").unwrap().to_owned();
    client.disconnect().await;
    miss(&house, numbers(1..4)).await;
    let mut client = house.tcp().await;
    let (receipt, missed) = subscribe(&mut client, &[("resume-after", &cursor)]).await;
    assert_told(&receipt, &[("resume", "exact"), ("missed", "3")]);
    assert_eq!(bodies(&missed), numbers(1..4));
}

/// Nothing changes for destinations without a journal, but that nobody can catch up.
#[tokio::test]
async fn exchanges_without_a_journal_stay_as_they_are() {
    let house = House::open().await;
    let mut client = house.tcp().await;
    let (receipt, _) = subscribe(&mut client, &[("last", "3"), ("since", "first")]).await;
    assert_eq!(receipt.headers.get("resume"), None);
    house.push(["0"]).await;
    let message = client.expect_message("0").await;
    assert_eq!(message.headers.get("cursor"), None);
    let mut client = house.tcp().await;
    let (refused, _) = subscribe(&mut client, &[("resume-after", "00000000-0-00000000")]).await;
    assert_eq!(refused.headers.get("message"), Some("no journal"));
    let house = House::open_with(kept).await;
    let mut client = house.tcp().await;
    let headers = [
        ("id", "1"),
        ("destination", "/topic/other"),
        ("since", "first"),
    ];
    client.send(&asking(&headers)).await;
    client.expect_error("no journal").await;
    let mut client = house.tcp().await;
    let own = [("resume-after", "00000000-0-00000000"), ("ack", "client")];
    let (refused, _) = subscribe(&mut client, &own).await;
    assert_eq!(refused.headers.get("message"), Some("Invalid header"));
    let mut client = house.tcp().await;
    let (refused, _) = subscribe(&mut client, &[("last", "3"), ("ack", "client")]).await;
    assert_eq!(refused.headers.get("message"), Some("Invalid header"));
}
