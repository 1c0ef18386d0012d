//! A client that goes on after something was denied to it, and one that never says CONNECT.

use super::*;
use crate::auth;

fn soft() -> House {
    House::with(Options {
        auth: auth::Config {
            soft_deny: true,
            ..auth::Config::default()
        },
        ..Options::default()
    })
}

#[tokio::test(start_paused = true)]
async fn a_denied_frame_costs_the_connection() {
    let house = House::new();
    house.hook.deny(r#"write topic "feed" "k""#);
    let mut client = Client::connect(&house).await;
    client.send("SEND\ndestination:/exchange/feed/k\nreceipt:r\n\nx\0");
    let error = client.expect_error("access_refused").await;
    assert_eq!(error.header("receipt-id"), Some("r"));
}

#[tokio::test(start_paused = true)]
async fn a_denied_frame_costs_nothing_else() {
    let house = soft();
    house.hook.deny(r#"write topic "feed" "denied""#);
    house.hook.deny(r#"read topic "feed" "denied""#);
    let mut client = Client::connect(&house).await;
    client.subscribe("1", "/exchange/feed/k", "").await;
    client.send("SUBSCRIBE\nid:2\ndestination:/exchange/feed/denied\nreceipt:a\n\n\0");
    let error = client.expect_denial().await;
    assert_eq!(error.header("receipt-id"), Some("a"));
    client.send("SEND\ndestination:/exchange/feed/denied\n\nx\0");
    client.expect_denial().await;
    house.publish("feed", "k", "one");
    client.expect_message("one").await;
    // The id is free, for a queue of its own too.
    client
        .subscribe("2", "/exchange/feed/k", "ack:client\n")
        .await;
    house.publish("feed", "k", "two");
    client.expect_message("two").await;
    client.expect_message("two").await;
}

/// A relay's: its one connection is shared by many, so a denial of one is not the others' fault.
#[tokio::test(start_paused = true)]
async fn a_user_that_speaks_for_many_stays_however_much_is_denied() {
    for (user, stays) in [("alice", true), ("bob", false)] {
        let house = House::with(Options {
            auth: auth::Config {
                soft_deny_users: vec![user.to_owned()],
                ..auth::Config::default()
            },
            ..Options::default()
        });
        house.hook.deny(r#"write topic "feed" "denied""#);
        let mut client = Client::connect(&house).await;
        client.subscribe("1", "/exchange/feed/k", "").await;
        if !stays {
            client.send("SEND\ndestination:/exchange/feed/denied\n\nx\0");
            client.expect_error("access_refused").await;
            continue;
        }
        for _ in 0..150 {
            client.send("SEND\ndestination:/exchange/feed/denied\n\nx\0");
            client.expect_denial().await;
        }
        house.publish("feed", "k", "one");
        client.expect_message("one").await;
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_of_a_denied_transaction_is_done() {
    let house = soft();
    house.hook.deny(r#"write topic "feed" "denied""#);
    let mut client = Client::connect(&house).await;
    client.subscribe("1", "/exchange/feed/k", "").await;
    client.send(
        "BEGIN\ntransaction:t\n\n\0\
         SEND\ndestination:/exchange/feed/k\ntransaction:t\n\nlost\0\
         SEND\ndestination:/exchange/feed/denied\ntransaction:t\n\nlost\0\
         COMMIT\ntransaction:t\nreceipt:c\n\n\0",
    );
    let error = client.expect_denial().await;
    assert_eq!(error.header("receipt-id"), Some("c"));
    house.publish("feed", "k", "fence");
    client.expect_message("fence").await;
}

#[tokio::test(start_paused = true)]
async fn a_temporary_queue_can_be_had_after_it_was_denied() {
    let house = soft();
    house.hook.deny(r#"write exchange """#);
    let mut client = Client::connect(&house).await;
    client.subscribe("1", "/exchange/feed/k", "").await;
    client.send("SEND\ndestination:/queue/q\nreply-to:/temp-queue/x\n\nx\0");
    client.expect_denial().await;
    client.send("SEND\ndestination:/exchange/feed/k\nreply-to:/temp-queue/x\n\nx\0");
    let message = client.expect_message("x").await;
    let reply_to = message.header("reply-to").unwrap();
    let queue = reply_to.strip_prefix("/reply-queue/").unwrap();
    house.publish("", queue, "reply");
    client.expect_message("reply").await;
}

/// Each would have had a subscription of its own.
#[tokio::test(start_paused = true)]
async fn denied_temporary_queues_do_not_count() {
    let house = House::with(Options {
        limits: Limits {
            max_subscriptions: 1,
            ..Limits::default()
        },
        auth: auth::Config {
            soft_deny: true,
            ..auth::Config::default()
        },
        ..Options::default()
    });
    house.hook.deny(r#"write topic "feed" "denied""#);
    let mut client = Client::connect(&house).await;
    for queue in ["a", "b"] {
        client.send(format!(
            "SEND\ndestination:/exchange/feed/denied\nreply-to:/temp-queue/{queue}\n\nx\0"
        ));
        client.expect_denial().await;
    }
    client.subscribe("1", "/exchange/feed/k", "").await;
}

fn implicit() -> House {
    House::with(Options {
        stomp: Stomp {
            implicit_connect: true,
            ..Stomp::default()
        },
        auth: auth::Config {
            default_user: Some("device".to_owned()),
            default_passcode: Some("secret".to_owned()),
            ..auth::Config::default()
        },
        ..Options::default()
    })
}

#[tokio::test(start_paused = true)]
async fn a_client_without_connect_is_the_default_user() {
    let house = implicit();
    let mut client = Client::new(&house);
    client.send(
        "SUBSCRIBE\nid:1\ndestination:/exchange/feed/k\nreceipt:s\n\n\0\
         SEND\ndestination:/exchange/feed/k\n\nhello\0",
    );
    client.expect_receipt("s").await;
    let message = client.expect_message("hello").await;
    assert_eq!(message.header("x-stomp-user"), Some("device"));
    assert_eq!(
        house.hook.asked()[..2],
        ["user device", "vhost / from 127.0.0.1"]
    );
}

/// It speaks STOMP 1.0, where headers may be padded: from its first frame on.
#[tokio::test(start_paused = true)]
async fn the_first_frame_without_connect_is_read_as_the_others_are() {
    let house = implicit();
    let mut client = Client::new(&house);
    client.send(
        "SUBSCRIBE\nid: 1\ndestination: /exchange/feed/k\nreceipt: s\n\n\0\
         SEND\ndestination: /exchange/feed/k\n\nhello\0",
    );
    client.expect_receipt("s").await;
    let message = client.expect_message("hello").await;
    assert_eq!(message.header("subscription"), Some("1"));
}

#[tokio::test(start_paused = true)]
async fn the_default_user_can_be_refused() {
    let house = implicit();
    house.hook.deny("user device");
    let mut client = Client::new(&house);
    client.send("SEND\ndestination:/exchange/feed/k\nreceipt:r\n\nx\0");
    let error = client.expect_error("Bad CONNECT").await;
    assert_eq!(error.header("receipt-id"), Some("r"));
}
