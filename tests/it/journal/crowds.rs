//! Several who catch up at once: on one connection, and on many.

use super::*;
use crate::house::KEY;

/// A figure of the metrics, summed over its labels.
async fn metric(house: &House, name: &str) -> f64 {
    metric_of(&house.gateway, name).await
}

async fn metric_of(gateway: &Gateway, name: &str) -> f64 {
    let (_, text) = gateway.admin("/metrics").await;
    let lines = text.lines().filter(|line| line.starts_with(name));
    let values = lines.filter_map(|line| line.rsplit_once(' '));
    values.map(|(_, value)| value.parse::<f64>().unwrap()).sum()
}

/// Catches up, with an id of its own; waits for nothing.
async fn ask(client: &mut StompClient, id: &str, after: &str) {
    let headers = [
        ("id", id),
        ("destination", DESTINATION),
        ("resume-after", after),
    ];
    client.send(&asking(&headers)).await;
}

/// What comes for each of these subscriptions, so much for each.
async fn heard<const N: usize>(
    client: &mut StompClient,
    expected: [(&str, usize); N],
) -> [Vec<String>; N] {
    let mut all = [const { Vec::new() }; N];
    while all
        .iter()
        .zip(&expected)
        .any(|(heard, (_, count))| heard.len() < *count)
    {
        let frame = client.expect_frame().await;
        assert_eq!(frame.command, Command::Message, "{frame:?}");
        let id = frame.headers.get("subscription").unwrap();
        let index = expected.iter().position(|(name, _)| *name == id).unwrap();
        all[index].push(told(&frame).0);
    }
    all
}

#[tokio::test]
async fn two_subscriptions_of_a_connection_have_places_of_their_own() {
    for settings in [kept, forgetful] {
        let house = House::open_with(settings).await;
        let early = hear_and_leave(&house, 0..3).await;
        let late = hear_and_leave(&house, 3..300).await;
        house.push(numbers(300..310)).await;
        let mut client = house.ws().await;
        ask(&mut client, "early", &early).await;
        ask(&mut client, "late", &late).await;
        let [one, two] = heard(&mut client, [("early", 307), ("late", 10)]).await;
        assert_eq!(one, numbers(3..310));
        assert_eq!(two, numbers(300..310));
        house.push(numbers(310..313)).await;
        let [one, two] = heard(&mut client, [("early", 3), ("late", 3)]).await;
        assert_eq!([one, two], [numbers(310..313), numbers(310..313)]);
    }
}

/// Nothing comes after UNSUBSCRIBE's RECEIPT, and the connection goes on from where it was.
#[tokio::test]
async fn who_unsubscribes_while_catching_up_gets_no_more() {
    const ALL: usize = 20_000;
    let house = House::open_with(forgetful).await;
    let last = hear_and_leave(&house, 0..1).await;
    house.push(numbers(1..ALL)).await;
    let mut client = house.ws().await;
    let (mut next, mut after) = (1, last);
    for round in 0..5 {
        ask(&mut client, "feed", &after).await;
        for _ in 0..500 {
            let message = client.expect_message(&next.to_string()).await;
            (next, after) = (next + 1, cursor(&message));
        }
        let end = Frame::new(Command::Unsubscribe).with_header("id", "feed");
        let receipt = format!("end-{round}");
        client.send(&end.with_header("receipt", &receipt)).await;
        loop {
            let frame = client.expect_frame().await;
            if frame.command == Command::Receipt {
                assert_eq!(frame.headers.get("receipt-id"), Some(&*receipt));
                break;
            }
            let (body, cursor) = told(&frame);
            assert_eq!(body, next.to_string());
            (next, after) = (next + 1, cursor);
        }
        // Whatever came after it would come before this.
        client.publish("/exchange/feed/nobody", "x").await;
    }
    ask(&mut client, "feed", &after).await;
    expect_numbers(&mut client, next..ALL).await;
}

/// Those who come back at once share what is read.
#[tokio::test]
async fn a_hundred_with_the_same_cursor_cost_few_readings() {
    const MISSED: usize = 1_000;
    let house = House::open_with(forgetful).await;
    let last = hear_and_leave(&house, 0..1).await;
    house.push(numbers(1..MISSED)).await;
    let mut clients = Vec::new();
    for _ in 0..100 {
        clients.push(house.tcp().await);
    }
    for client in &mut clients {
        ask(client, "feed", &last).await;
    }
    let hearing = clients
        .iter_mut()
        .map(|client| expect_numbers(client, 1..MISSED));
    futures_util::future::join_all(hearing).await;
    house.push(numbers(MISSED..MISSED + 5)).await;
    let hearing = clients
        .iter_mut()
        .map(|client| expect_numbers(client, MISSED..MISSED + 5));
    futures_util::future::join_all(hearing).await;
    let readings = metric(&house, "stentor_journal_readings_total").await;
    assert!((1.0..50.0).contains(&readings), "{readings} readings");
    assert_eq!(metric(&house, "stentor_resumes_total").await, 100.0);
}

/// A node that has just started reads what was before into memory: cursors, each another, cost no
/// reading of their own.
#[tokio::test]
async fn a_node_that_has_just_started_serves_many_cursors_from_memory() {
    const ALL: usize = 500;
    let house = House::open_with(kept).await;
    let mut client = house.ws().await;
    client.subscribe("feed", DESTINATION).await;
    house.push(numbers(0..ALL)).await;
    let mut cursors = Vec::new();
    for number in 0..ALL {
        let message = client.expect_message(&number.to_string()).await;
        cursors.push(cursor(&message));
    }
    let builder = stentor().vhost(&house.vhost).hook(&house.hook);
    let other: Gateway = kept(builder).ready().await;
    eventually(DEADLINE, "memory is filled", async || {
        let (_, node) = other.api("GET /api/v1/node", None).await;
        let feeds = node["vhosts"][0]["feeds"].as_array().unwrap().iter();
        let messages = feeds.filter_map(|feed| feed["journal"]["messages"].as_u64());
        messages.sum::<u64>() == ALL as u64
    })
    .await;
    for number in (0..ALL).step_by(10) {
        let mut client = StompClient::tcp(other.stomp_address()).await;
        client.connect(&house.login()).await;
        ask(&mut client, "feed", &cursors[number]).await;
        expect_numbers(&mut client, number + 1..ALL).await;
    }
    let readings = metric_of(&other, "stentor_journal_readings_total").await;
    let read = metric_of(&other, "stentor_journal_messages_read_total").await;
    assert_eq!((readings, read), (0.0, 0.0));
}

/// What a client sends to itself while it catches up comes once, in its place.
#[tokio::test]
async fn a_message_to_oneself_comes_once_behind_what_was_missed() {
    for settings in [kept, forgetful] {
        let house = House::open_with(settings).await;
        let last = hear_and_leave(&house, 0..1).await;
        house.push(numbers(1..3_000)).await;
        let mut client = house.ws().await;
        ask(&mut client, "feed", &last).await;
        let send = Frame::new(Command::Send).with_header("destination", DESTINATION);
        client.send(&send.with_body("3000")).await;
        expect_numbers(&mut client, 1..3_001).await;
        house.push(["3001"]).await;
        client.expect_message("3001").await;
    }
}

/// A pattern catches up with what it matches, whatever else is kept.
#[tokio::test]
async fn patterns_catch_up_with_what_they_match() {
    for settings in [kept, forgetful] {
        let house = House::open_with(settings).await;
        is_bound(&house).await;
        for (key, body) in [
            ("a.x", "0"),
            ("b", "1"),
            ("a.y", "2"),
            ("a.y.z", "3"),
            (KEY, "4"),
        ] {
            house.vhost.publish(FEED, key, [body]).await;
        }
        for (pattern, bodies) in [
            ("#", &["0", "1", "2", "3", "4"][..]),
            ("a.*", &["0", "2"]),
            ("a.#", &["0", "2", "3"]),
            ("*.y.#", &["2", "3"]),
            ("c.#", &[]),
        ] {
            let mut client = house.tcp().await;
            let destination = format!("/exchange/feed/{pattern}");
            let headers = [
                ("id", "1"),
                ("destination", &*destination),
                ("since", "first"),
            ];
            client.send(&asking(&headers)).await;
            for body in bodies {
                client.expect_message(body).await;
            }
            client
                .publish("/exchange/feed/nobody", "nothing came before")
                .await;
        }
    }
}

/// A queue of its own has no part in the journal.
#[tokio::test]
async fn subscriptions_with_a_queue_cannot_catch_up() {
    let house = House::open_with(kept).await;
    let last = hear_and_leave(&house, 0..3).await;
    for own in [
        ("ack", "client"),
        ("ack", "client-individual"),
        ("durable", "true"),
    ] {
        let mut client = house.tcp().await;
        let (refused, _) = subscribe(&mut client, &[own, ("resume-after", &last)]).await;
        assert_eq!(
            refused.headers.get("message"),
            Some("Invalid header"),
            "{own:?}"
        );
    }
}

/// Clients that go while they catch up leave nothing behind.
#[tokio::test]
async fn who_goes_while_catching_up_harms_nobody() {
    let house = House::open_with(forgetful).await;
    let last = hear_and_leave(&house, 0..1).await;
    house.push(numbers(1..5_000)).await;
    for _ in 0..100 {
        let mut client = house.tcp().await;
        ask(&mut client, "feed", &last).await;
    }
    let mut client = house.tcp().await;
    ask(&mut client, "feed", &last).await;
    expect_numbers(&mut client, 1..5_000).await;
    house.push(["5000"]).await;
    client.expect_message("5000").await;
}

/// Clients cannot say where a message stands, nor what its cursor is.
#[tokio::test]
async fn senders_cannot_forge_a_place() {
    let house = House::open_with(kept).await;
    let last = hear_and_leave(&house, 0..3).await;
    let mut client = house.ws().await;
    client.subscribe("feed", DESTINATION).await;
    for (number, (name, value)) in [
        ("cursor", "00000000-5-00000000"),
        ("x-stream-offset", "1000000"),
        ("x-stream-offset", "0"),
        ("x-stream-offset", "nothing"),
    ]
    .into_iter()
    .enumerate()
    {
        let send = Frame::new(Command::Send).with_header("destination", DESTINATION);
        let body = format!("forged {number}");
        client
            .send(&send.with_header(name, value).with_body(body.clone()))
            .await;
        let message = client.expect_message(&body).await;
        let cursors = message.headers.iter().filter(|(name, _)| *name == "cursor");
        assert_eq!(cursors.count(), 1, "{message:?}");
        assert_ne!(cursor(&message), value);
        house.push([format!("after {number}")]).await;
        client.expect_message(&format!("after {number}")).await;
        let mut other = house.tcp().await;
        let (_, missed) = subscribe(&mut other, &[("resume-after", &cursor(&message))]).await;
        assert_eq!(bodies(&missed), [format!("after {number}")]);
    }
    let mut other = house.tcp().await;
    let (receipt, missed) = subscribe(&mut other, &[("resume-after", &last)]).await;
    assert_told(&receipt, &[("resume", "exact"), ("missed", "8")]);
    assert_eq!(missed.len(), 8);
}

/// Whoever may write to the stream itself harms no subscription.
#[tokio::test]
async fn messages_that_others_put_into_the_stream_harm_nobody() {
    let house = House::open_with(kept).await;
    let last = hear_and_leave(&house, 0..3).await;
    let mut client = house.ws().await;
    client.subscribe("feed", DESTINATION).await;
    let stray = ["", "stray", "12345678"];
    house.vhost.publish("", "stentor.journal.feed", stray).await;
    house.push(numbers(3..6)).await;
    expect_numbers(&mut client, 3..6).await;
    let mut other = house.tcp().await;
    let (receipt, missed) = subscribe(&mut other, &[("resume-after", &last)]).await;
    assert_told(&receipt, &[("resume", "exact"), ("missed", "3")]);
    assert_eq!(bodies(&missed), numbers(3..6));
}
