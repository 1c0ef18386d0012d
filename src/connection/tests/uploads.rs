//! Large frames of clients, and a node that is short of memory.

use std::collections::{HashMap, HashSet};

use super::*;
use crate::hub::MailboxConfig;

const SIZE: usize = 20_000;

/// Room for two messages of a connection, and three of a user.
fn narrow() -> House {
    House::with(Options {
        limits: Limits {
            max_publishing_bytes: 2 * SIZE + 1_000,
            max_user_publishing_bytes: 3 * SIZE + 1_000,
            max_total_publishing_bytes: 10 * SIZE,
            ..Limits::default()
        },
        ..Options::default()
    })
}

fn send(destination: &str, receipt: &str) -> String {
    let body = "x".repeat(SIZE);
    format!("SEND\ndestination:{destination}\nreceipt:{receipt}\n\n{body}\0")
}

async fn connect_as(house: &House, user: &str) -> Client {
    let mut client = Client::new(house);
    client.send(CONNECT.replace("alice", user));
    client.expect(Command::Connected).await;
    client
}

fn used(house: &House) -> usize {
    house.services.memory.room().used()
}

#[tokio::test(start_paused = true)]
async fn a_client_over_its_share_is_not_read_and_nobody_else_waits() {
    let house = narrow();
    let mut alice = Client::connect(&house).await;
    let mut bob = connect_as(&house, "bob").await;
    house.slow.gate.close();
    for number in 0..6 {
        alice.send(send("/topic/a", &number.to_string()));
    }
    settle().await;
    // The third has been read when it was known.
    assert_eq!(alice.wire.unread(), 3);
    bob.send(send("/topic/a", "bob"));
    settle().await;
    assert_eq!(bob.wire.unread(), 0);
    assert!((4 * SIZE..4 * SIZE + 1_000).contains(&used(&house)));
    house.slow.gate.open();
    for number in 0..6 {
        alice.expect_receipt(&number.to_string()).await;
    }
    bob.expect_receipt("bob").await;
    settle().await;
    assert_eq!(used(&house), 0);
}

/// Its messages have their places among all that wait.
#[tokio::test(start_paused = true)]
async fn a_user_s_connections_share() {
    let house = narrow();
    let mut clients = [
        connect_as(&house, "alice").await,
        connect_as(&house, "alice").await,
    ];
    house.slow.gate.close();
    for client in &clients {
        for number in 0..3 {
            client.send(send("/topic/a", &number.to_string()));
        }
        settle().await;
    }
    let unread: usize = clients.iter().map(|client| client.wire.unread()).sum();
    assert_eq!(unread, 2);
    house.slow.gate.open();
    for client in &mut clients {
        for number in 0..3 {
            client.expect_receipt(&number.to_string()).await;
        }
    }
}

/// In a transaction, too; and it ends with it.
#[tokio::test(start_paused = true)]
async fn what_a_transaction_holds_counts() {
    let house = narrow();
    let client = Client::connect(&house).await;
    client.send("BEGIN\ntransaction:t\n\n\0");
    client.send(send("/topic/a", "1").replace("\n\n", "\ntransaction:t\n\n"));
    settle().await;
    assert!(used(&house) >= SIZE);
    client.send("ABORT\ntransaction:t\n\n\0");
    settle().await;
    assert_eq!(used(&house), 0);
}

/// A transaction is begun, and so many frames are sent for it.
fn begin(client: &Client, id: &str, count: usize, size: usize) {
    client.send(format!("BEGIN\ntransaction:{id}\n\n\0"));
    let body = "x".repeat(size);
    for _ in 0..count {
        client.send(format!(
            "SEND\ndestination:/topic/a\ntransaction:{id}\n\n{body}\0"
        ));
    }
}

/// And it gets them.
async fn gather(client: &Client, id: &str, count: usize, size: usize) {
    begin(client, id, count, size);
    settle().await;
    assert_eq!(client.wire.unread(), 0);
}

/// They are many, and stay for as long as their client likes.
#[tokio::test(start_paused = true)]
async fn small_frames_of_a_transaction_count() {
    for end in ["ABORT", "COMMIT"] {
        let house = House::new();
        let mut client = Client::connect(&house).await;
        gather(&client, "t", 1_000, 4_000).await;
        let counted = used(&house);
        assert!((4_000_000..4_400_000).contains(&counted), "{counted}");
        // All of it ends with the transaction: at once, or at the broker's answer.
        house.slow.gate.close();
        client.send(format!("{end}\ntransaction:t\nreceipt:r\n\n\0"));
        settle().await;
        assert_eq!(used(&house) > 0, end == "COMMIT");
        house.slow.gate.open();
        client.expect_receipt("r").await;
        settle().await;
        assert_eq!(used(&house), 0, "{end}");
    }
}

/// All limits of a client are the same.
fn equal() -> House {
    const LIMIT: usize = 100 * 1024;
    House::with(Options {
        limits: Limits {
            max_frame_size: LIMIT,
            max_transaction_bytes: LIMIT,
            max_publishing_bytes: LIMIT,
            ..Limits::default()
        },
        ..Options::default()
    })
}

#[tokio::test(start_paused = true)]
async fn a_transaction_within_its_limits_can_be_committed() {
    let house = equal();
    let mut client = Client::connect(&house).await;
    // Of 603 bytes each, with what a frame takes beside its own.
    gather(&client, "t", 169, 300).await;
    client.send("COMMIT\ntransaction:t\nreceipt:r\n\n\0");
    client.expect_receipt("r").await;
    begin(&client, "u", 300, 300);
    client.send("COMMIT\ntransaction:u\nreceipt:r\n\n\0");
    client.expect_error("Transaction too large").await;
    settle().await;
    assert_eq!(used(&house), 0);
}

/// Only the client itself could give back what its transaction holds.
#[tokio::test(start_paused = true)]
async fn a_large_frame_waits_for_no_transaction_of_its_own_client() {
    let house = equal();
    let mut client = Client::connect(&house).await;
    gather(&client, "t", 110, 300).await;
    client.send("SEND\ndestination:/topic/a\nreceipt:s\ncontent-length:60000\n\n");
    for _ in 0..60 {
        client.send("x".repeat(1_000));
    }
    client.send("\0");
    client.expect_receipt("s").await;
    client.send("COMMIT\ntransaction:t\nreceipt:r\n\n\0");
    client.expect_receipt("r").await;
    settle().await;
    assert_eq!(used(&house), 0);
}

/// They have no body, and there may be as many of them.
#[tokio::test(start_paused = true)]
async fn acknowledgements_in_a_transaction_count() {
    let house = House::new();
    let mut client = Client::connect(&house).await;
    let headers = "ack:client-individual\n";
    client.subscribe("1", "/queue/a", headers).await;
    house.publish("", "a", "x");
    let message = client.expect(Command::Message).await;
    let id = message.header("ack").unwrap();
    client.send("BEGIN\ntransaction:t\n\n\0");
    for _ in 0..1_000 {
        client.send(format!("ACK\nid:{id}\ntransaction:t\n\n\0"));
    }
    settle().await;
    assert!(used(&house) > 250_000, "{}", used(&house));
    client.send("ABORT\ntransaction:t\nreceipt:r\n\n\0");
    client.expect_receipt("r").await;
    assert_eq!(used(&house), 0);
}

/// As many bytes as any client may have without a claim.
#[tokio::test(start_paused = true)]
async fn a_small_transaction_takes_no_room() {
    let house = House::new();
    let mut client = Client::connect(&house).await;
    for id in ["a", "b"] {
        gather(&client, id, 12, 300).await;
    }
    assert_eq!(used(&house), 0);
    client.send("COMMIT\ntransaction:a\nreceipt:r\n\n\0");
    client.expect_receipt("r").await;
}

/// What a client has in transactions goes with it; what is under way to the broker would stay.
#[tokio::test(start_paused = true)]
async fn short_of_memory_transactions_end() {
    use crate::node::Shed;

    let house = House::new();
    let room = Arc::clone(house.services.memory.room());
    let mut publisher = Client::connect(&house).await;
    house.slow.gate.close();
    for number in 0..10 {
        publisher.send(send("/topic/a", &number.to_string()));
    }
    let mut clients = Vec::new();
    for count in [15, 100, 500] {
        let client = connect_as(&house, &format!("of-{count}")).await;
        gather(&client, "t", count, 3_000).await;
        clients.push(client);
    }
    let before = used(&house);
    let (count, bytes) = house.services.registry.shed(1, &room.gathered());
    assert_eq!(count, 1);
    assert!((1_500_000..1_700_000).contains(&bytes), "{bytes}");
    clients[2].expect_error("server overloaded").await;
    settle().await;
    assert!(used(&house) < before - 1_500_000);
    // The least would not help.
    let (count, _) = house.services.registry.shed(usize::MAX, &room.gathered());
    assert_eq!(count, 1);
    clients[1].expect_error("server overloaded").await;
    house.slow.gate.open();
    clients[0].send("COMMIT\ntransaction:t\nreceipt:r\n\n\0");
    clients[0].expect_receipt("r").await;
    for number in 0..10 {
        publisher.expect_receipt(&number.to_string()).await;
    }
    settle().await;
    assert_eq!((used(&house), room.gathered().len()), (0, 0));
}

/// A frame in many pieces has its room before it is read; a client that waits for room counts as
/// alive, and is told in the end.
#[tokio::test(start_paused = true)]
async fn room_is_claimed_before_the_frame_is_read() {
    let house = narrow();
    let [mut first, mut second] = [
        connect_as(&house, "alice").await,
        connect_as(&house, "alice").await,
    ];
    let start = |client: &Client| {
        let head = "SEND\ndestination:/topic/a\nreceipt:r\ncontent-length:40000\n\n";
        client.send(head);
        for _ in 0..39 {
            client.send("x".repeat(1_000));
        }
    };
    start(&first);
    settle().await;
    assert_eq!(first.wire.unread(), 0);
    start(&second);
    settle().await;
    // Without a claim, only so much is read.
    assert!(second.wire.unread() > 20, "{}", second.wire.unread());
    assert!(used(&house) < 41_000, "{}", used(&house));
    // The first takes its time, and another waits.
    sleep(Duration::from_secs(29)).await;
    assert!(!first.task.is_finished() && !second.task.is_finished());
    first.expect_error("server overloaded").await;
    // Its room is the other's.
    second.send(format!("{}\0", "x".repeat(1_000)));
    second.expect_receipt("r").await;
}

/// Others' claims that wait for their own user get nothing by its end.
#[tokio::test(start_paused = true)]
async fn a_slow_upload_goes_on_while_others_wait_for_their_own_share() {
    let house = narrow();
    let mut bob = connect_as(&house, "bob").await;
    bob.send("SEND\ndestination:/topic/a\nreceipt:r\ncontent-length:40000\n\n");
    for _ in 0..30 {
        bob.send("x".repeat(1_000));
    }
    settle().await;
    assert_eq!(bob.wire.unread(), 0);
    sleep(Duration::from_secs(20)).await;
    house.slow.gate.close();
    let mut alices = [
        connect_as(&house, "alice").await,
        connect_as(&house, "alice").await,
    ];
    for alice in &alices {
        for number in 0..3 {
            alice.send(send("/topic/a", &number.to_string()));
        }
        settle().await;
    }
    assert!(alices.iter().any(|alice| alice.wire.unread() > 0));
    // Bob's time is over, and alice's is not.
    sleep(Duration::from_secs(15)).await;
    house.slow.gate.open();
    bob.send(format!("{}\0", "x".repeat(10_000)));
    bob.expect_receipt("r").await;
    for alice in &mut alices {
        for number in 0..3 {
            alice.expect_receipt(&number.to_string()).await;
        }
    }
}

/// SockJS hands over messages that are counted already. The part that was read is not kept, nor is
/// its claim.
#[tokio::test(start_paused = true)]
async fn nothing_is_held_of_what_was_read() {
    let house = narrow();
    let mut client = Client::connect(&house).await;
    let room = house.services.memory.room();
    let account = crate::node::Account::new(room, &"alice".into(), 1);
    let bytes = Bytes::from(send("/topic/a", "1"));
    let (first, second) = (bytes.slice(..100), bytes.slice(100..));
    for part in [first, second] {
        let part = account.claim(part.len()).around(part);
        client.wire.receive(Ok(Some(part)));
    }
    client.expect_receipt("1").await;
    settle().await;
    assert_eq!(used(&house), 0);
}

/// A small body must not hold on to all that was read with it.
#[tokio::test(start_paused = true)]
async fn a_small_body_holds_no_large_memory() {
    let body = Bytes::from([b"x".repeat(100), b"\n".repeat(100_000)].concat());
    let house = House::new();
    let context = Context::new(
        Arc::clone(&house.services),
        &house::PEER,
        house.services.enter().unwrap(),
        "1".into(),
    );
    let whole = body.len();
    let mut frame = stomp_grammar::Frame::new(Command::Send).with_body(body.slice(..100));
    Uploads::default().count(&mut frame, (whole, 0), &context);
    assert_eq!(frame.body, body.slice(..100));
    assert!(body.is_unique(), "it is shared");
}

/// For every way that a message comes: [`crate::hub`] has the rules, this shows them at work.
#[tokio::test(start_paused = true)]
async fn what_does_not_fit_comes_when_there_is_room() {
    for (ack, headers) in [
        ("auto", ""),
        ("client", "ack:client\n"),
        ("each", "ack:client-individual\n"),
    ] {
        let house = House::with(Options {
            mailbox: MailboxConfig {
                max_bytes: 3 * SIZE,
                ..MailboxConfig::default()
            },
            ..Options::default()
        });
        let mut client = Client::connect(&house).await;
        client.subscribe("1", "/queue/a", headers).await;
        client.wire.set_room(0);
        for number in 0..50 {
            let body = format!("{number} {}", "x".repeat(SIZE));
            house.publish("", "a", &body);
            settle().await;
        }
        client.wire.set_room(usize::MAX);
        for number in 0..50 {
            let message = client.expect(Command::Message).await;
            let body = String::from_utf8_lossy(&message.body);
            assert!(body.starts_with(&format!("{number} ")), "{ack}: {number}");
            if let Some(id) = message.header("ack") {
                client.send(format!("ACK\nid:{id}\n\n\0"));
            }
        }
        settle().await;
        // All are accepted, and the next client gets nothing.
        client.send("UNSUBSCRIBE\nid:1\nreceipt:u\n\n\0");
        client.expect_receipt("u").await;
        client.subscribe("2", "/queue/a", "").await;
        house.publish("", "a", "the last");
        client.expect_message("the last").await;
    }
}

/// What was put aside of a subscription that ends goes back to its queue at once, and keeps no room
/// from others; it comes to a later subscription, also by the same name.
#[tokio::test(start_paused = true)]
async fn a_subscription_that_ends_keeps_no_room() {
    for headers in ["", "ack:client\n", "ack:client-individual\n"] {
        let house = House::with(Options {
            mailbox: MailboxConfig {
                max_bytes: 3 * SIZE,
                ..MailboxConfig::default()
            },
            ..Options::default()
        });
        let mut client = Client::connect(&house).await;
        client.subscribe("a", "/queue/a", headers).await;
        client.subscribe("b", "/queue/b", headers).await;
        client.wire.set_room(0);
        for queue in ["a", "b"] {
            for number in 0..30 {
                let body = format!("{queue}{number} {}", "x".repeat(SIZE));
                house.publish("", queue, &body);
                settle().await;
            }
        }
        client.send("UNSUBSCRIBE\nid:a\n\n\0");
        client.send(format!(
            "SUBSCRIBE\nid:a\ndestination:/queue/a\n{headers}\n\0"
        ));
        client.wire.set_room(usize::MAX);
        let start = Instant::now();
        let mut seen = HashSet::new();
        while seen.len() < 60 {
            let message = client.expect(Command::Message).await;
            let body = String::from_utf8_lossy(&message.body);
            seen.insert(body.split(' ').next().unwrap().to_owned());
            if let Some(id) = message.header("ack") {
                client.send(format!("ACK\nid:{id}\n\n\0"));
            }
        }
        // It waited for none.
        let waited = start.elapsed();
        assert!(waited < Duration::from_secs(1), "{headers}: {waited:?}");
        settle().await;
        assert_eq!(house.bytes_held(), 0, "{headers}");
        // All are accepted, and the next client gets nothing.
        for queue in ["a", "b"] {
            client.send(format!("UNSUBSCRIBE\nid:{queue}\nreceipt:u\n\n\0"));
            client.expect_receipt("u").await;
            let mut next = Client::connect(&house).await;
            next.subscribe("1", &format!("/queue/{queue}"), "").await;
            house.publish("", queue, "the last");
            next.expect_message("the last").await;
        }
    }
}

/// And those that a client leaves unread are there for the next.
#[tokio::test(start_paused = true)]
async fn what_was_put_aside_is_not_lost_with_its_client() {
    let house = House::with(Options {
        mailbox: MailboxConfig {
            max_bytes: 3 * SIZE,
            ..MailboxConfig::default()
        },
        ..Options::default()
    });
    let mut slow = Client::connect(&house).await;
    slow.subscribe("1", "/queue/a", "ack:client\n").await;
    for number in 0..20 {
        let body = format!("{number} {}", "x".repeat(SIZE));
        house.publish("", "a", &body);
    }
    // It has acknowledged the first only.
    let first = slow.expect(Command::Message).await;
    let id = first.header("ack").unwrap();
    slow.send(format!("ACK\nid:{id}\n\n\0"));
    settle().await;
    slow.send("DISCONNECT\nreceipt:d\n\n\0");
    settle().await;
    slow.wire.hang_up();
    settle().await;
    let mut next = Client::connect(&house).await;
    next.subscribe("1", "/queue/a", "").await;
    for number in 1..20 {
        let message = next.expect(Command::Message).await;
        let body = String::from_utf8_lossy(&message.body);
        assert!(body.starts_with(&format!("{number} ")), "{number}");
    }
}

/// Short of memory, those go first that have the most waiting; at once, where they do not read.
#[tokio::test(start_paused = true)]
async fn the_greatest_go_first() {
    use crate::node::Shed;

    let house = House::new();
    let mut clients = Vec::new();
    for (number, size) in [(0, 1_000), (1, 400_000), (2, 200_000)] {
        let mut client = Client::connect(&house).await;
        client.subscribe("1", &format!("/topic/{number}"), "").await;
        client.wire.set_room(0);
        for _ in 0..3 {
            house.publish("amq.topic", &number.to_string(), &"x".repeat(size));
            settle().await;
        }
        clients.push(client);
    }
    let start = Instant::now();
    let none = HashMap::new();
    let (count, bytes) = house.services.registry.shed(1, &none);
    assert_eq!(count, 1);
    assert!((1_200_000..1_300_000).contains(&bytes), "{bytes}");
    clients[1].expect_end().await;
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(clients[1].wire.closed_with(), None);
    // The smallest would not help.
    assert_eq!(house.services.registry.shed(usize::MAX, &none).0, 1);
    clients[2].expect_end().await;
    clients[0].wire.set_room(usize::MAX);
    for _ in 0..3 {
        clients[0].expect(Command::Message).await;
    }
}
