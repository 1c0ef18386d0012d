//! What is not there any more is told, never left out.

use super::*;

/// As little as RabbitMQ can be told to keep.
pub(super) fn small(builder: GatewayBuilder) -> GatewayBuilder {
    forgetful(builder)
        .set("journal.segment", "64KiB")
        .set("journal.max_bytes", "128KiB")
}

/// A cursor whose message is not kept any more.
pub(super) async fn expired(house: &House) -> String {
    let last = hear_and_leave(house, 0..1).await;
    let body = "x".repeat(8 << 10);
    for _ in 0..20 {
        house.push(vec![&*body; 10]).await;
    }
    is_read(house).await;
    last
}

#[tokio::test]
async fn what_expired_is_told() {
    let house = House::open_with(small).await;
    let last = expired(&house).await;
    let mut client = house.tcp().await;
    let after = ("resume-after", &*last);
    let (gap, missed) = subscribe(&mut client, &[after]).await;
    assert_eq!(gap.headers.get("message"), Some("resume gap"), "{gap:?}");
    assert_told(&gap, &[("reason", "expired"), ("receipt-id", "r")]);
    let first: u64 = gap.headers.get("first-available").unwrap().parse().unwrap();
    assert!(first > 0);
    assert_eq!(missed, []);
    // From what is there.
    let mut client = house.tcp().await;
    let (receipt, missed) = subscribe(&mut client, &[after, ("resume-gap", "earliest")]).await;
    let count = missed.len().to_string();
    assert_told(
        &receipt,
        &[("resume", "gap"), ("reason", "expired"), ("missed", &count)],
    );
    assert!((1..200).contains(&missed.len()), "{count}");
    // From what comes.
    let mut client = house.tcp().await;
    let (receipt, missed) = subscribe(&mut client, &[after, ("resume-gap", "next")]).await;
    assert_told(
        &receipt,
        &[("resume", "gap"), ("reason", "expired"), ("missed", "0")],
    );
    assert_eq!(missed, []);
    house.push(["next"]).await;
    client.expect_message("next").await;
}

/// A message that is larger than the gateway takes: those who were away are told, once all before it
/// has come; those for whom it is not, get all.
#[tokio::test]
async fn a_message_that_is_too_large_is_told() {
    for settings in [kept, forgetful] {
        let bounded = |builder| {
            settings(builder)
                .set("limits.max_frame_size", "64KiB")
                .set("feed.max_length_bytes", "64KiB")
        };
        let house = House::open_with(bounded).await;
        let last = hear_and_leave(&house, 0..3).await;
        house.push(numbers(3..5)).await;
        house.push(["x".repeat(100 << 10)]).await;
        miss(&house, numbers(5..8)).await;
        let (mut client, after) = (house.ws().await, ("resume-after", &*last));
        let headers = [("id", "feed"), ("destination", DESTINATION), after];
        client.send(&asking(&headers)).await;
        expect_numbers(&mut client, 3..5).await;
        let told = client.expect_error("resume gap").await;
        assert_eq!(told.headers.get("reason"), Some("too-large"));
        for wish in [("resume-gap", "next"), ("resume-gap", "earliest")] {
            let mut client = house.tcp().await;
            let (receipt, missed) = subscribe(&mut client, &[after, wish]).await;
            assert_told(&receipt, &[("resume", "gap"), ("reason", "too-large")]);
            assert_eq!(bodies(&missed), numbers(3..8));
        }
        let mut client = house.tcp().await;
        let headers = [
            ("id", "bob"),
            ("destination", "/exchange/feed/user_bob"),
            ("receipt", "bob"),
            after,
        ];
        client.send(&asking(&headers)).await;
        let receipt = client.expect_receipt("bob").await;
        assert_told(&receipt, &[("resume", "exact"), ("missed", "0")]);
    }
}

#[tokio::test]
async fn cursors_that_are_none_of_ours_are_refused() {
    let house = House::open_with(kept).await;
    let last = hear_and_leave(&house, 0..3).await;
    let parts: Vec<_> = last.split('-').collect();
    let [journal, offset, print] = parts[..] else {
        panic!("{last}")
    };
    let next = (offset.parse::<u64>().unwrap() + 1_000_000).to_string();
    let before = (offset.parse::<u64>().unwrap() - 1).to_string();
    let made = |parts: [&str; 3]| parts.join("-");
    for (cursor, message, reason) in [
        (made([journal, &next, print]), "resume gap", Some("ahead")),
        (
            made([journal, &i64::MAX.to_string(), print]),
            "resume gap",
            Some("ahead"),
        ),
        (
            made([journal, &u64::MAX.to_string(), print]),
            "resume gap",
            Some("ahead"),
        ),
        (
            made([journal, &before, print]),
            "resume gap",
            Some("replaced"),
        ),
        (
            made([journal, offset, "00000000"]),
            "resume gap",
            Some("replaced"),
        ),
        (made(["00000000", offset, print]), "foreign cursor", None),
        (format!("{last}-1"), "Invalid header", None),
        (last.to_uppercase() + "G", "Invalid header", None),
        ("x".repeat(5_000), "Invalid header", None),
    ] {
        let mut client = house.tcp().await;
        let (refused, _) = subscribe(&mut client, &[("resume-after", &cursor)]).await;
        assert_eq!(refused.headers.get("message"), Some(message), "{cursor}");
        assert_eq!(refused.headers.get("reason"), reason, "{cursor}");
    }
}

/// The stream is deleted under its reader, which RabbitMQ does not tell, and made anew.
#[tokio::test]
async fn a_journal_that_is_deleted_is_told() {
    let house = House::open_with(kept).await;
    let last = hear_and_leave(&house, 0..3).await;
    let mut client = house.tcp().await;
    client.subscribe("feed", DESTINATION).await;
    let api = house.vhost.node().api();
    api.delete_queue(house.vhost.name(), "stentor.journal.feed")
        .await;
    client.expect_error("feed interrupted").await;
    is_bound(&house).await;
    // As many as before, and more: the cursor's offset has another message now.
    miss(&house, numbers(10..30)).await;
    let mut client = house.tcp().await;
    let (gap, _) = subscribe(&mut client, &[("resume-after", &last)]).await;
    assert_eq!(gap.headers.get("message"), Some("resume gap"), "{gap:?}");
    assert_eq!(gap.headers.get("reason"), Some("replaced"));
    let mut client = house.tcp().await;
    let (_, all) = subscribe(&mut client, &[("since", "first")]).await;
    assert_eq!(bodies(&all), numbers(10..30));
}

/// The same while the gateway has no link: the stream's offsets begin anew, beyond what it expects.
#[tokio::test]
async fn a_journal_that_was_replaced_behind_a_cut_is_noticed() {
    let house = House::open_with(kept).await;
    let mut client = house.tcp().await;
    client.subscribe("feed", DESTINATION).await;
    house.push(numbers(0..20)).await;
    expect_numbers(&mut client, 0..20).await;
    let api = house.vhost.node().api();
    api.delete_queue(house.vhost.name(), "stentor.journal.feed")
        .await;
    house.vhost.close_connections().await;
    client.expect_error("feed interrupted").await;
    let mut client = house.tcp().await;
    let (receipt, _) = subscribe(&mut client, &[]).await;
    assert_eq!(receipt.command, Command::Receipt, "{receipt:?}");
    house.push(["new"]).await;
    client.expect_message("new").await;
}
