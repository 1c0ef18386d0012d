//! What one client may take, and how fast; and its questions to the hook, side by side.

use futures_util::{SinkExt as _, StreamExt as _};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::Role},
};

use super::*;
use crate::node::TooFast;

fn limited(limits: Limits) -> House {
    House::with(Options {
        limits,
        ..Options::default()
    })
}

fn sends(count: usize) -> String {
    (0..count)
        .map(|n| format!("SEND\ndestination:/topic/a\nreceipt:{n}\n\n{n}\0"))
        .collect()
}

fn subscribes(count: usize) -> String {
    (0..count)
        .map(|n| format!("SUBSCRIBE\nid:{n}\ndestination:/exchange/feed/k{n}\nreceipt:{n}\n\n\0"))
        .collect()
}

/// How long it took until these many receipts came, in order.
async fn receipts(client: &mut Client, count: usize) -> u64 {
    let begun = Instant::now();
    for n in 0..count {
        client.expect_receipt(&n.to_string()).await;
    }
    begun.elapsed().as_secs()
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sends_too_fast_is_read_more_slowly() {
    let house = limited(Limits {
        max_messages_per_second: 1,
        ..Limits::default()
    });
    let mut client = Client::connect(&house).await;
    client.send(sends(15));
    // Ten at once, and the next is paid for before another is read.
    let took = receipts(&mut client, 15).await;
    assert!((3..=5).contains(&took), "{took} s");
    // Nobody else is slower for it.
    let mut other = Client::connect(&house).await;
    other.send(sends(10));
    assert_eq!(receipts(&mut other, 10).await, 0);
}

#[tokio::test(start_paused = true)]
async fn bytes_are_counted_too() {
    let house = limited(Limits {
        max_bytes_per_second: 1024,
        ..Limits::default()
    });
    let mut client = Client::connect(&house).await;
    for n in 0..15 {
        let body = "x".repeat(960);
        client.send(format!(
            "SEND\ndestination:/topic/a\nreceipt:{n}\n\n{body}\0"
        ));
    }
    let took = receipts(&mut client, 15).await;
    assert!((3..=6).contains(&took), "{took} s");
    // What was not read meanwhile is read.
    client.send("DISCONNECT\nreceipt:bye\n\n\0");
    client.expect_receipt("bye").await;
}

/// They are bytes, too, and cost more than most.
#[tokio::test(start_paused = true)]
async fn pings_of_a_websocket_are_paced() {
    let house = limited(Limits {
        max_bytes_per_second: 4096,
        ..Limits::default()
    });
    let (client, server) = tokio::io::duplex(1 << 20);
    let link = crate::listen::WebSocketLink::new(server, Bytes::new(), 1 << 16);
    let guard = house.services.enter().unwrap();
    let services = Arc::clone(&house.services);
    tokio::spawn(serve(services, link, house::PEER, guard));
    let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
    let sent = format!("{CONNECT}SEND\ndestination:/topic/a\nreceipt:first\n\n\0");
    client.send(Message::text(sent)).await.unwrap();
    let begun = Instant::now();
    for _ in 0..30_000 {
        client.feed(Message::Ping(Bytes::new())).await.unwrap();
    }
    let sent = "SEND\ndestination:/topic/a\nreceipt:last\n\n\0";
    client.send(Message::text(sent)).await.unwrap();
    let mut pongs = 0;
    loop {
        match client.next().await.unwrap().unwrap() {
            Message::Pong(_) => pongs += 1,
            Message::Text(text) if text.contains("receipt-id:last") => break,
            _ => {}
        }
    }
    assert_eq!(pongs, 30_000);
    let took = begun.elapsed().as_secs();
    assert!((30..=45).contains(&took), "{took} s");
}

#[tokio::test(start_paused = true)]
async fn subscribes_are_paced_by_connection_and_by_user() {
    let by_connection = Limits {
        max_subscribes_per_second: 1,
        ..Limits::default()
    };
    let by_user = Limits {
        max_user_subscribes_per_second: 1,
        ..Limits::default()
    };
    for (limits, of_user) in [(by_connection, false), (by_user, true)] {
        let house = limited(limits);
        let mut first = Client::connect(&house).await;
        first.send(subscribes(10));
        assert_eq!(receipts(&mut first, 10).await, 0);
        let mut second = Client::connect(&house).await;
        second.send(subscribes(5));
        let took = receipts(&mut second, 5).await;
        assert_eq!(took >= 3, of_user, "{took} s");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_too_fast_can_be_sent_away() {
    let house = limited(Limits {
        max_messages_per_second: 1,
        too_fast: TooFast::Disconnect,
        ..Limits::default()
    });
    let mut client = Client::connect(&house).await;
    client.send(sends(15));
    // The frames that were read are done.
    receipts(&mut client, 11).await;
    let error = client.expect_error("too fast").await;
    assert_eq!(error.header("reconnect"), Some("1s"));
    let body = String::from_utf8_lossy(&error.body).into_owned();
    assert!(body.contains("more messages a second"), "{body}");
}

/// A token in the passcode names its user, whatever name stands beside it.
#[tokio::test(start_paused = true)]
async fn a_login_under_another_s_name_empties_no_count() {
    let house = limited(Limits {
        max_failed_logins: 3,
        ..Limits::default()
    });
    house.hook.deny("user alice");
    let log_in = async || {
        let mut client = Client::at(&house, house::from("192.0.2.1"));
        client.send(CONNECT);
        let answer = client.next().await.unwrap();
        answer.header("error-code").map(str::to_owned)
    };
    for _ in 0..2 {
        assert_eq!(log_in().await.as_deref(), Some("login-refused"));
    }
    house.hook.allow("user alice");
    *house.hook.named.lock() = Some("mallory".into());
    assert_eq!(log_in().await, None);
    house.hook.deny("user alice");
    for code in ["login-refused", "failed-logins"] {
        assert_eq!(log_in().await.as_deref(), Some(code));
    }
}

/// The client is not read, so it cannot be heard; that is no reason to give it up.
#[tokio::test(start_paused = true)]
async fn a_client_that_is_not_read_is_not_given_up() {
    let house = limited(Limits {
        max_messages_per_second: 1,
        ..Limits::default()
    });
    let mut client = Client::new(&house);
    client.send("CONNECT\naccept-version:1.2\nlogin:alice\npasscode:p\nheart-beat:1000,0\n\n\0");
    client.expect(Command::Connected).await;
    client.send(sends(60));
    let took = receipts(&mut client, 60).await;
    assert!((45..=55).contains(&took), "{took} s");
}

#[tokio::test(start_paused = true)]
async fn a_user_has_so_many_connections() {
    let house = limited(Limits {
        max_user_connections: 2,
        ..Limits::default()
    });
    let first = Client::connect(&house).await;
    let _second = Client::connect(&house).await;
    let mut third = Client::new(&house);
    third.send(CONNECT);
    let error = third.expect_error("too many connections").await;
    assert_eq!(error.header("error-code"), Some("user-connections"));
    assert_eq!(error.header("reconnect"), Some("30s"));
    // Others have theirs.
    let mut other = Client::new(&house);
    other.send("CONNECT\naccept-version:1.2\nlogin:bob\npasscode:p\n\n\0");
    other.expect(Command::Connected).await;
    first.wire.hang_up();
    settle().await;
    Client::connect(&house).await;
}

#[tokio::test(start_paused = true)]
async fn the_connections_of_a_user_share_its_subscriptions() {
    let house = limited(Limits {
        max_user_subscriptions: 3,
        max_user_queues: 1,
        ..Limits::default()
    });
    let mut first = Client::connect(&house).await;
    let mut second = Client::connect(&house).await;
    first.subscribe("1", "/exchange/feed/a", "").await;
    second.subscribe("1", "/queue/q", "").await;
    // One of the two kinds may be full alone.
    second.send("SUBSCRIBE\nid:2\ndestination:/queue/p\n\n\0");
    let error = second.expect_error("Too many subscriptions").await;
    assert_eq!(error.header("error-code"), Some("user-queues"));
    // It has given back both places.
    let mut second = Client::connect(&house).await;
    second.subscribe("1", "/exchange/feed/b", "").await;
    second.subscribe("2", "/queue/q", "").await;
    first.send("SUBSCRIBE\nid:2\ndestination:/exchange/feed/c\nreceipt:r\n\n\0");
    let error = first.expect_error("Too many subscriptions").await;
    assert_eq!(error.header("error-code"), Some("user-subscriptions"));
    assert_eq!(error.header("receipt-id"), Some("r"));
    second.send("UNSUBSCRIBE\nid:1\nreceipt:u\n\n\0");
    second.expect_receipt("u").await;
    second.subscribe("3", "/exchange/feed/c", "").await;
}

/// Four at a time; what they do, and their receipts, keep their order.
#[tokio::test(start_paused = true)]
async fn questions_of_frames_are_asked_side_by_side() {
    let house = House::new();
    let mut client = Client::connect(&house).await;
    house.hook.asked();
    house.hook.gate.close();
    client.send(subscribes(20));
    settle().await;
    assert_eq!(house.hook.asked(), [r#"read exchange "feed""#; 4]);
    client.expect_nothing();
    house.hook.gate.open();
    receipts(&mut client, 20).await;
    let asked = house.hook.asked();
    assert_eq!(asked.len(), 2 * 20 - 4, "each is asked once: {asked:?}");
    for n in 0..20 {
        house.publish("feed", &format!("k{n}"), "x");
    }
    for n in 0..20 {
        let message = client.expect_message("x").await;
        assert_eq!(message.header("subscription"), Some(&*n.to_string()));
    }
}

#[tokio::test(start_paused = true)]
async fn questions_asked_ahead_are_not_asked_again() {
    let house = House::new();
    let mut client = Client::connect(&house).await;
    house.hook.asked();
    house.hook.gate.close();
    client.send(
        "SUBSCRIBE\nid:1\ndestination:/exchange/feed/k\n\n\0\
         SEND\ndestination:/queue/q\n\n1\0\
         SUBSCRIBE\nid:2\nack:client\ndestination:/exchange/feed/k\n\n\0\
         SEND\ndestination:/topic/t\nreply-to:/temp-queue/r\nreceipt:r\n\n2\0",
    );
    settle().await;
    house.hook.gate.open();
    client.expect_receipt("r").await;
    let mut asked = house.hook.asked();
    let all = asked.len();
    asked.sort();
    asked.dedup();
    // Both SUBSCRIBE frames ask for the exchange and the key, and nothing else is asked twice: not
    // even under another name of a queue.
    assert_eq!((all, all - asked.len()), (14, 2), "{asked:#?}");
    assert_eq!(house.slow.declared().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_is_refused_ends_the_session_in_its_turn() {
    let house = House::new();
    let mut reader = Client::connect(&house).await;
    reader.subscribe("1", "/topic/a", "").await;
    let mut client = Client::connect(&house).await;
    house.hook.deny(r#"read topic "feed" "k""#);
    house.hook.gate.close();
    client.send(
        "SEND\ndestination:/topic/a\nreceipt:1\n\nbefore\0\
         SUBSCRIBE\nid:2\ndestination:/exchange/feed/k\nreceipt:2\n\n\0\
         SEND\ndestination:/topic/a\nreceipt:3\n\nafter\0",
    );
    settle().await;
    house.hook.gate.open();
    client.expect_receipt("1").await;
    let error = client.expect_error("access_refused").await;
    assert_eq!(error.header("receipt-id"), Some("2"));
    reader.expect_message("before").await;
    settle().await;
    reader.expect_nothing();
}
