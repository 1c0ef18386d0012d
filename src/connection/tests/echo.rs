//! Messages that clients send to themselves, and their receipts.

use super::*;

/// `destination` of a SUBSCRIBE, and of a SEND that it hears.
const PAIRS: [(&str, &str); 4] = [
    ("/exchange/feed/k", "/exchange/feed/k"),
    ("/topic/a.b", "/topic/a.b"),
    ("/topic/*.b", "/topic/a.b"),
    ("/topic/#", "/topic/a.b"),
];

#[tokio::test(start_paused = true)]
async fn a_message_to_oneself_comes_before_its_receipt() {
    for (pattern, key) in PAIRS {
        let house = House::new();
        let mut client = Client::connect(&house).await;
        client.subscribe("1", pattern, "").await;
        house.slow.hold_feeds();
        let send = |body: &str| format!("SEND\ndestination:{key}\nreceipt:{body}\n\n{body}\0");
        client.send(send("one") + &send("two"));
        settle().await;
        client.expect_nothing();
        house.slow.release_feeds();
        let start = Instant::now();
        for body in ["one", "two"] {
            client.expect_message(body).await;
        }
        for body in ["one", "two"] {
            client.expect_receipt(body).await;
        }
        assert!(start.elapsed() < Duration::from_millis(10));
        // The message may be first, too.
        house.slow.gate.close();
        client.send(send("three"));
        client.expect_message("three").await;
        house.slow.gate.open();
        let start = Instant::now();
        client.expect_receipt("three").await;
        assert!(start.elapsed() < Duration::from_millis(10));
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_does_not_come_delays_its_receipt_only_so_long() {
    let house = House::new();
    let mut client = Client::connect(&house).await;
    client.subscribe("1", "/topic/a", "").await;
    house.slow.hold_feeds();
    client.send("SEND\ndestination:/topic/a\nreceipt:r\n\nx\0");
    let start = Instant::now();
    client.expect_receipt("r").await;
    assert_eq!(start.elapsed().as_millis(), 200);
    house.slow.release_feeds();
    client.expect_message("x").await;
}

#[tokio::test(start_paused = true)]
async fn an_equal_message_of_somebody_else_is_not_one_s_own() {
    let house = House::new();
    let mut client = Client::connect(&house).await;
    client.subscribe("1", "/topic/a", "").await;
    house.slow.hold_feeds();
    // By a backend, and by the client itself.
    house.publish("amq.topic", "a", "x");
    client.send("SEND\ndestination:/topic/a\nreceipt:r\n\nx\0");
    settle().await;
    client.expect_nothing();
    house.slow.release_feeds();
    client.expect_message("x").await;
    client.expect_message("x").await;
    client.expect_receipt("r").await;
}

/// One that comes by two subscriptions is there when both have it.
#[tokio::test(start_paused = true)]
async fn all_of_one_s_subscriptions_have_it_before_the_receipt() {
    let house = House::new();
    let mut client = Client::connect(&house).await;
    client.subscribe("1", "/topic/a", "").await;
    client.subscribe("2", "/topic/*", "").await;
    client.subscribe("3", "/topic/b", "").await;
    house.slow.hold_feeds();
    client.send(
        "BEGIN\ntransaction:t\n\n\0\
         SEND\ntransaction:t\ndestination:/topic/a\n\nx\0\
         SEND\ntransaction:t\ndestination:/topic/a\nreceipt:s\n\nx\0\
         COMMIT\ntransaction:t\nreceipt:c\n\n\0",
    );
    settle().await;
    client.expect_nothing();
    house.slow.release_feeds();
    for _ in 0..4 {
        client.expect_message("x").await;
    }
    client.expect_receipt("s").await;
    client.expect_receipt("c").await;
}

#[tokio::test(start_paused = true)]
async fn other_receipts_do_not_wait_for_messages() {
    let house = House::new();
    let mut client = Client::connect(&house).await;
    client.subscribe("1", "/topic/a", "").await;
    client.subscribe("2", "/topic/b", "").await;
    client.subscribe("3", "/queue/q", "").await;
    house.slow.hold_feeds();
    let start = Instant::now();
    // To nobody; to a queue; without a receipt.
    client.publish("/topic/c", "x").await;
    client.publish("/exchange/feed/a", "x").await;
    client.send("SEND\ndestination:/topic/a\n\nx\0BEGIN\ntransaction:t\nreceipt:r\n\n\0");
    client.expect_receipt("r").await;
    // Nothing comes by a subscription that is over.
    client.send("SEND\ndestination:/topic/b\nreceipt:s\n\nx\0UNSUBSCRIBE\nid:2\nreceipt:u\n\n\0");
    client.expect_receipt("s").await;
    client.expect_receipt("u").await;
    assert!(start.elapsed() < Duration::from_millis(10));
}
