//! Clients that acknowledge, and go on where they have come to: the gateway keeps their bookmark.

use testkit::{Login, Redis};

use super::*;

/// Places are kept in memory.
fn remembering(builder: GatewayBuilder) -> GatewayBuilder {
    kept(builder).set("sequences.store", "memory")
}

/// One of alice's devices.
async fn device(gateway: &Gateway, login: Login, device: &str) -> StompClient {
    let mut client = StompClient::tcp(gateway.stomp_address()).await;
    let mut login = login;
    login.headers.push(("device-id", device.to_owned()));
    client.connect(&login).await;
    client
}

const INDIVIDUAL: (&str, &str) = ("ack", "client-individual");
const STORED: (&str, &str) = ("resume-after", "stored");

/// Subscribes, and waits for the RECEIPT alone: messages may come before it.
async fn go_on(
    client: &mut StompClient,
    headers: &[(&str, &str)],
) -> (Frame, std::collections::VecDeque<Frame>) {
    let own = [
        ("id", "feed"),
        ("destination", DESTINATION),
        ("receipt", "r"),
        STORED,
    ];
    let headers: Vec<_> = own.iter().chain(headers).copied().collect();
    client.send(&asking(&headers)).await;
    let mut early = std::collections::VecDeque::new();
    loop {
        let next = client.expect_frame().await;
        match next.command {
            Command::Message => early.push_back(next),
            _ => return (next, early),
        }
    }
}

/// A client that has subscribed.
struct Reader {
    client: StompClient,
    early: std::collections::VecDeque<Frame>,
}

impl Reader {
    async fn open(
        gateway: &Gateway,
        login: Login,
        name: &str,
        headers: &[(&str, &str)],
    ) -> (Self, Frame) {
        let mut client = device(gateway, login, name).await;
        let (receipt, early) = go_on(&mut client, headers).await;
        assert_eq!(receipt.command, Command::Receipt, "{receipt:?}");
        (Self { client, early }, receipt)
    }

    async fn next(&mut self) -> Frame {
        let next = match self.early.pop_front() {
            Some(early) => early,
            None => self.client.expect_frame().await,
        };
        assert_eq!(next.command, Command::Message, "{next:?}");
        next
    }

    /// The number of the next message.
    async fn number(&mut self) -> (usize, Frame) {
        let next = self.next().await;
        let body = std::str::from_utf8(&next.body).unwrap();
        (body.parse().unwrap(), next)
    }

    async fn ack(&mut self, message: &Frame) {
        let id = message.headers.get("ack").unwrap();
        let ack = Frame::new(Command::Ack).with_header("id", id);
        self.client.send(&ack).await;
    }

    /// Hears these, and acknowledges each.
    async fn take(&mut self, range: std::ops::Range<usize>) {
        for expected in range {
            let (number, message) = self.number().await;
            assert_eq!(number, expected);
            self.ack(&message).await;
        }
    }
}

/// The device comes back until its first message is this one: a bookmark is kept a moment after it was
/// acknowledged. Meanwhile none may be left out.
async fn until_at(house: &House, gateway: &Gateway, name: &str, expected: usize) -> Reader {
    eventually(
        DEADLINE,
        format!("{name} goes on with {expected}"),
        async || {
            let (mut reader, receipt) =
                Reader::open(gateway, house.login(), name, &[INDIVIDUAL]).await;
            assert_told(&receipt, &[("resume", "exact")]);
            let (number, first) = reader.number().await;
            assert!(number <= expected, "{expected} is missing: {number} came");
            reader.early.push_front(first);
            (number == expected).then_some(reader)
        },
    )
    .await
}

#[tokio::test]
async fn a_device_goes_on_after_what_it_has_acknowledged() {
    let house = House::open_with(remembering).await;
    let login = house.login();
    is_bound(&house).await;
    house.push(["nothing of before"]).await;
    let (mut phone, receipt) =
        Reader::open(&house.gateway, login.clone(), "phone", &[INDIVIDUAL]).await;
    assert_told(&receipt, &[("resume", "first"), ("missed", "0")]);
    house.push(numbers(0..6)).await;
    let mut all = Vec::new();
    for _ in 0..6 {
        all.push(phone.next().await);
    }
    // 3 is not acknowledged, so it and all after it come again.
    for number in [1, 0, 2, 4] {
        phone.ack(&all[number]).await;
    }
    phone.client.disconnect().await;
    house.push(numbers(6..9)).await;
    let mut phone = until_at(&house, &house.gateway, "phone", 3).await;
    phone.take(3..9).await;
    house.push(numbers(9..11)).await;
    phone.take(9..11).await;
    // Each device, and each destination, has a bookmark of its own.
    let (mut tablet, receipt) = Reader::open(&house.gateway, login, "tablet", &[INDIVIDUAL]).await;
    assert_told(&receipt, &[("resume", "first")]);
    house.push(["11"]).await;
    tablet.take(11..12).await;
    phone.take(11..12).await;
}

/// What a client was given and never acknowledged comes again, from its first subscription on.
#[tokio::test]
async fn the_first_place_is_kept_before_anything_comes() {
    let house = House::open_with(remembering).await;
    for empty in [true, false] {
        let name = if empty { "early" } else { "late" };
        let (reader, receipt) =
            Reader::open(&house.gateway, house.login(), name, &[("ack", "client")]).await;
        assert_told(&receipt, &[("resume", "first")]);
        drop(reader);
        house.push(numbers(0..3)).await;
        let mut reader = until_at(&house, &house.gateway, name, 0).await;
        reader.take(0..3).await;
    }
}

/// At least once, on any node: what was acknowledged in the last moment may come again.
#[tokio::test]
async fn a_node_that_is_killed_costs_no_message() {
    const ALL: usize = 300;
    let redis = Redis::own().await;
    let shared = |builder: GatewayBuilder| {
        kept(builder)
            .set("sequences.store", "redis")
            .set("presence.url", redis.url())
    };
    let mut house = House::open_with(shared).await;
    is_bound(&house).await;
    let builder = stentor().vhost(&house.vhost).hook(&house.hook);
    let other: Gateway = shared(builder).ready().await;
    let (mut reader, _) = Reader::open(&house.gateway, house.login(), "phone", &[INDIVIDUAL]).await;
    house.push(numbers(0..ALL)).await;
    reader.take(0..100).await;
    // By now it is kept, and another node knows.
    drop(until_at(&house, &other, "phone", 100).await);
    reader.take(100..150).await;
    let builder = stentor().vhost(&house.vhost).hook(&house.hook);
    let next = shared(builder).ready().await;
    std::mem::replace(&mut house.gateway, next).kill().await;
    let (mut reader, receipt) = Reader::open(&other, house.login(), "phone", &[INDIVIDUAL]).await;
    assert_told(&receipt, &[("resume", "exact")]);
    let (first, message) = reader.number().await;
    assert!((100..=150).contains(&first), "{first}");
    reader.early.push_front(message);
    reader.take(first..ALL).await;
}

/// An orderly end waits, though not for ever, until Redis knows what was acknowledged last.
#[tokio::test]
async fn an_orderly_end_keeps_the_last_bookmark() {
    let redis = Redis::own().await;
    let shared = |builder: GatewayBuilder| {
        kept(builder)
            .set("sequences.store", "redis")
            .set("presence.url", redis.url())
            .set("shutdown.not_ready", "0s")
            .set("shutdown.drain", "0s")
    };
    let mut house = House::open_with(shared).await;
    is_bound(&house).await;
    let (mut reader, _) = Reader::open(&house.gateway, house.login(), "phone", &[INDIVIDUAL]).await;
    house.push(numbers(0..20)).await;
    reader.take(0..9).await;
    let (_, last) = reader.number().await;
    redis.signal("STOP");
    let ack = Frame::new(Command::Ack).with_header("id", last.headers.get("ack").unwrap());
    reader.client.send(&ack.with_header("receipt", "all")).await;
    while reader.client.expect_frame().await.command != Command::Receipt {}
    {
        let mut ending = std::pin::pin!(house.gateway.terminate(DEADLINE));
        let patience = Duration::from_secs(1);
        let ended = tokio::time::timeout(patience, &mut ending).await;
        assert!(ended.is_err(), "it has not waited for Redis");
        redis.signal("CONT");
        assert!(ending.await.success());
    }
    let builder = stentor().vhost(&house.vhost).hook(&house.hook);
    house.gateway = shared(builder).ready().await;
    let (mut reader, receipt) =
        Reader::open(&house.gateway, house.login(), "phone", &[INDIVIDUAL]).await;
    assert_told(&receipt, &[("resume", "exact")]);
    assert_eq!(reader.number().await.0, 10);
}

/// The connection may be lost before the RECEIPT that tells of the gap.
#[tokio::test]
async fn a_gap_is_told_until_something_behind_it_is_acknowledged() {
    let house = House::open_with(|builder| remembering(gaps::small(builder))).await;
    is_bound(&house).await;
    let login = || house.login();
    let (mut phone, _) = Reader::open(&house.gateway, login(), "phone", &[INDIVIDUAL]).await;
    house.push(numbers(0..3)).await;
    phone.take(0..3).await;
    phone.client.disconnect().await;
    gaps::expired(&house).await;
    let headers = [INDIVIDUAL, ("resume-gap", "next")];
    for _ in 0..2 {
        let (_, receipt) = Reader::open(&house.gateway, login(), "phone", &headers).await;
        assert_told(&receipt, &[("resume", "gap"), ("reason", "expired")]);
    }
    let (mut phone, receipt) = Reader::open(&house.gateway, login(), "phone", &headers).await;
    assert_told(&receipt, &[("resume", "gap")]);
    house.push(numbers(3..5)).await;
    phone.take(3..5).await;
    phone.client.disconnect().await;
    house.push(["5"]).await;
    let open = async || {
        let (phone, receipt) = Reader::open(&house.gateway, login(), "phone", &headers).await;
        (receipt.headers.get("resume") == Some("exact")).then_some(phone)
    };
    let mut phone = eventually(DEADLINE, "the phone goes on behind the gap", open).await;
    phone.take(5..6).await;
}

/// What is not acknowledged is bounded, and a client that acknowledges slowly gets all the same.
#[tokio::test]
async fn no_more_is_given_than_may_be_unacknowledged() {
    let house = House::open_with(remembering).await;
    let bound = ("prefetch-count", "10");
    let (reader, _) =
        Reader::open(&house.gateway, house.login(), "phone", &[INDIVIDUAL, bound]).await;
    drop(reader);
    miss(&house, numbers(0..60)).await;
    let (mut reader, receipt) =
        Reader::open(&house.gateway, house.login(), "phone", &[INDIVIDUAL, bound]).await;
    assert_told(&receipt, &[("resume", "exact"), ("missed", "more")]);
    assert_eq!(reader.early.len(), 5, "half of the bound");
    reader.take(0..60).await;
    // Live, the bound ends the session; it comes back, and has lost nothing.
    eventually(DEADLINE, "it is live", async || {
        let (_, node) = house.gateway.api("GET /api/v1/node", None).await;
        let feeds = node["vhosts"][0]["feeds"].as_array().unwrap().iter();
        let resuming = feeds.filter_map(|feed| feed["journal"]["resuming"].as_u64());
        resuming.sum::<u64>() == 0
    })
    .await;
    house.push(numbers(60..70)).await;
    for expected in 60..70 {
        assert_eq!(reader.number().await.0, expected);
    }
    house.push(numbers(70..80)).await;
    reader.client.expect_error("slow consumer").await;
    until_at(&house, &house.gateway, "phone", 60)
        .await
        .take(60..80)
        .await;
}

#[tokio::test]
async fn messages_are_written_again_until_they_are_acknowledged() {
    let house = House::open_with(remembering).await;
    let again = [
        INDIVIDUAL,
        ("redeliver", "100,100"),
        ("redeliver-then", "drop"),
    ];
    let (mut reader, _) = Reader::open(&house.gateway, house.login(), "phone", &again).await;
    house.push(["0"]).await;
    assert_eq!(reader.number().await.0, 0);
    let (number, second) = reader.number().await;
    assert_eq!((number, second.headers.get("attempt")), (0, Some("2")));
    reader.ack(&second).await;
    house.push(["1"]).await;
    // Given up after its last writing, it is done with.
    for attempt in [None, Some("2"), Some("3")] {
        let (number, message) = reader.number().await;
        assert_eq!((number, message.headers.get("attempt")), (1, attempt));
    }
    house.push(["2"]).await;
    for attempt in [None, Some("2"), Some("3")] {
        let (number, message) = reader.number().await;
        assert_eq!((number, message.headers.get("attempt")), (2, attempt));
    }
    drop(reader);
    until_at(&house, &house.gateway, "phone", 2).await;
}

#[tokio::test]
async fn wishes_that_cannot_be_are_refused() {
    let house = House::open_with(remembering).await;
    for (headers, message) in [
        (&[][..], "Invalid header"),
        (&[("ack", "auto")], "Invalid header"),
        (&[INDIVIDUAL, ("since", "first")], "Invalid header"),
        (&[INDIVIDUAL, ("last", "3")], "Invalid header"),
        (&[INDIVIDUAL, ("durable", "true")], "Invalid header"),
        (&[INDIVIDUAL, ("resume-gap", "no")], "Invalid header"),
        (&[INDIVIDUAL, ("redeliver", "500")], "Invalid header"),
        (
            &[
                INDIVIDUAL,
                ("redeliver", "500"),
                ("redeliver-then", "requeue"),
            ],
            "Invalid header",
        ),
    ] {
        let mut client = device(&house.gateway, house.login(), "phone").await;
        let (refused, _) = go_on(&mut client, headers).await;
        let told = refused.headers.get("message");
        assert_eq!(told, Some(message), "{headers:?}: {refused:?}");
    }
    let mut client = house.tcp().await;
    let (refused, _) = go_on(&mut client, &[INDIVIDUAL]).await;
    let text = String::from_utf8_lossy(&refused.body);
    assert!(text.contains("device-id"), "{refused:?}");
    let house = House::open_with(kept).await;
    let mut client = device(&house.gateway, house.login(), "phone").await;
    let (refused, _) = go_on(&mut client, &[INDIVIDUAL]).await;
    let text = String::from_utf8_lossy(&refused.body);
    assert!(text.contains("[sequences]"), "{refused:?}");
    let house = House::open().await;
    let mut client = device(&house.gateway, house.login(), "phone").await;
    let (refused, _) = go_on(&mut client, &[INDIVIDUAL]).await;
    assert_eq!(refused.headers.get("message"), Some("no journal"));
}
