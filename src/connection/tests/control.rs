//! Sessions that are ended from outside, and asked about again.

use std::{
    collections::BTreeSet,
    time::{SystemTime, UNIX_EPOCH},
};

use stomp_grammar::Frame;

use super::*;
use crate::{
    auth,
    control::{Command as Order, RecheckOff, Target, Unsubscribe, wire},
    node::{LoginPolicy, Repeated, recheck_in_turn, recheck_users},
    presence::{Node, Presence as _, memory::MemoryPresence},
};

const EVERY: Duration = Duration::from_secs(30);

fn rechecking() -> House {
    rechecking_by(auth::Config::default().max_calls)
}

/// A house whose hook takes so many calls at a time.
fn rechecking_by(max_calls: usize) -> House {
    House::with(Options {
        auth: auth::Config {
            recheck: EVERY,
            max_calls,
            ..auth::Config::default()
        },
        ..Options::default()
    })
}

async fn connect(house: &House, user: &str) -> (Client, Box<str>) {
    let mut client = Client::new(house);
    client.send(CONNECT.replace("alice", user));
    let connected = client.expect(Command::Connected).await;
    let session = connected.header("session").unwrap().into();
    (client, session)
}

fn kick(target: Target) -> Order {
    Order::Kick {
        target,
        reason: "not paid".into(),
    }
}

async fn run(house: &House, command: Order) -> u64 {
    let report = house.services.control.run(command).await.unwrap();
    assert_eq!(report.unreached, None);
    report.hits()
}

fn body(frame: &Frame) -> String {
    String::from_utf8_lossy(&frame.body).into_owned()
}

#[tokio::test(start_paused = true)]
async fn a_session_a_user_and_nobody_else_is_kicked() {
    let house = House::new();
    let (mut one, session) = connect(&house, "alice").await;
    let (mut two, _) = connect(&house, "alice").await;
    let (mut other, _) = connect(&house, "alice2").await;
    let _nobody_yet = Client::new(&house);

    assert_eq!(run(&house, kick(Target::Session(session.clone()))).await, 1);
    let error = one.expect_error("kicked").await;
    assert_eq!(body(&error), "not paid\n");
    assert_eq!(one.wire.closed_with(), Some(CloseCode::Policy));
    assert_eq!(run(&house, kick(Target::Session(session))).await, 0);

    assert_eq!(run(&house, kick(Target::User("alice".into()))).await, 1);
    two.expect_error("kicked").await;
    other.publish("/topic/a", "still here").await;
    for nobody in ["", "alic", "nobody"] {
        assert_eq!(run(&house, kick(Target::User(nobody.into()))).await, 0);
        assert_eq!(run(&house, kick(Target::Session(nobody.into()))).await, 0);
    }
}

/// It takes a little of what waits, again and again, so that it is never overdue.
#[tokio::test(start_paused = true)]
async fn a_client_that_reads_slowly_is_kicked_all_the_same() {
    let house = House::new();
    let (mut client, session) = connect(&house, "alice").await;
    congest(&house, &mut client).await;
    assert_eq!(run(&house, kick(Target::Session(session))).await, 1);
    ends_while_it_reads_slowly(client).await;
}

/// The number is in it, so only who knows the rest as well means this session.
#[tokio::test(start_paused = true)]
async fn half_of_an_id_is_nobody_s() {
    let house = House::new();
    let (mut client, session) = connect(&house, "alice").await;
    let half: String = session.chars().take(11).collect();
    let guessed = format!("{half}{}", "A".repeat(11));
    assert_eq!(guessed.len(), session.len());
    assert_eq!(run(&house, kick(Target::Session(guessed.into()))).await, 0);
    client.publish("/topic/a", "still here").await;
}

#[tokio::test(start_paused = true)]
async fn of_two_logins_the_older_is_told_so() {
    let house = House::new();
    let (mut client, session) = connect(&house, "alice").await;
    house.services.control.replace(&session);
    client.expect_error("session replaced").await;
    assert_eq!(client.wire.closed_with(), Some(CloseCode::Policy));
}

#[tokio::test(start_paused = true)]
async fn a_backend_kicks_by_the_exchange() {
    let house = House::new();
    let (mut client, session) = connect(&house, "alice").await;
    let (mut other, _) = connect(&house, "bob").await;
    for nonsense in [
        "",
        "{",
        "[]",
        r#"{"command":"explode"}"#,
        r#"{"command":"kick"}"#,
    ] {
        house.publish(CONTROL, "", nonsense);
    }
    house.publish("feed", "k", r#"{"command":"kick","user":"bob"}"#);
    let kick = format!(r#"{{"command":"kick","session":"{session}","colour":"red"}}"#);
    house.publish(CONTROL, "any", &kick);
    let error = client.expect_error("kicked").await;
    assert_eq!(body(&error), "This session was ended by an operator\n");
    other.publish("/topic/a", "still here").await;
}

#[tokio::test(start_paused = true)]
async fn what_comes_too_late_is_not_done() {
    let house = House::new();
    let log = telemetry::capture::Capture::start();
    let (mut client, _) = connect(&house, "alice").await;
    house.publish(
        CONTROL,
        "",
        r#"{"command":"kick","user":"alice","expires":1700000000}"#,
    );
    settle().await;
    client.publish("/topic/a", "still here").await;
    assert!(log.text().contains("came too late"), "{}", log.text());
}

/// A node that was cut off hears of it late. Sessions since then are not meant.
#[tokio::test(start_paused = true)]
async fn what_comes_late_is_for_sessions_of_then() {
    let house = House::new();
    let (mut before, _) = connect(&house, "alice").await;
    before.subscribe("1", "/topic/a", "").await;
    tokio::time::advance(Duration::from_secs(200)).await;
    let (mut since, _) = connect(&house, "alice").await;
    since.subscribe("1", "/topic/a", "").await;
    let late = |seconds| {
        let asked = SystemTime::now() - Duration::from_secs(seconds);
        asked.duration_since(UNIX_EPOCH).unwrap().as_millis()
    };
    let unsubscribe = |seconds| {
        let stamp = late(seconds);
        let command = r#""command":"unsubscribe","user":"alice","destination":"/topic/a""#;
        format!("{{{command},\"stamp\":{stamp}}}")
    };
    house.publish(CONTROL, "", &unsubscribe(100));
    let error = before.expect(Command::Error).await;
    assert_eq!(error.header("error-code"), Some("subscription-ended"));
    house.publish(
        CONTROL,
        "",
        &format!(
            r#"{{"command":"kick","user":"alice","stamp":{}}}"#,
            late(100)
        ),
    );
    before.expect_error("kicked").await;
    house.publish("amq.topic", "a", "still here");
    since.expect_message("still here").await;
    // Clocks differ.
    house.publish(
        CONTROL,
        "",
        &format!(r#"{{"command":"kick","user":"alice","stamp":{}}}"#, late(5)),
    );
    since.expect_error("kicked").await;
}

/// A node's own commands come back to it; it has run them already.
#[tokio::test(start_paused = true)]
async fn a_command_is_run_once() {
    let house = House::new();
    let (mut client, _) = connect(&house, "alice").await;
    let envelope = wire::Envelope {
        command: kick(Target::User("alice".into())),
        id: "1".into(),
        node: "node-1".into(),
        expires: None,
        stamp: None,
        answer: false,
    };
    let note = wire::encode(&wire::Note::Command(envelope));
    house.publish(CONTROL, "", std::str::from_utf8(&note).unwrap());
    settle().await;
    client.publish("/topic/a", "still here").await;
}

#[tokio::test(start_paused = true)]
async fn no_client_gives_commands_or_hears_them() {
    let house = House::new();
    let frames = [
        format!("SEND\ndestination:/exchange/{CONTROL}/k\n\n{{}}\0"),
        format!("SEND\ndestination:/exchange/{CONTROL}\n\n{{}}\0"),
        format!("SUBSCRIBE\nid:1\ndestination:/exchange/{CONTROL}/k\n\n\0"),
        format!("SUBSCRIBE\nid:1\nack:client\ndestination:/exchange/{CONTROL}/k\n\n\0"),
        format!("SUBSCRIBE\nid:1\ndestination:/queue/q\nx-dead-letter-exchange:{CONTROL}\n\n\0"),
        format!("SEND\ndestination:/queue/q\nx-dead-letter-exchange:{CONTROL}\n\n{{}}\0"),
        "SUBSCRIBE\nid:1\ndestination:/amq/queue/stentor.feed.n.0\n\n\0".to_owned(),
        "SUBSCRIBE\nid:1\ndestination:/queue/stentor.feed.n.0\n\n\0".to_owned(),
        "SEND\ndestination:/amq/queue/stentor.feed.n.0\n\n{}\0".to_owned(),
        "SEND\ndestination:/queue/stentor.feed.n.0\n\n{}\0".to_owned(),
    ];
    for frame in frames {
        let mut client = Client::connect(&house).await;
        client.send(&frame);
        client.expect_error("access_refused").await;
    }
    // Not by another's name either.
    let mut client = Client::connect(&house).await;
    client.send(format!(
        "BEGIN\ntransaction:t\n\n\0\
         SEND\ntransaction:t\ndestination:/exchange/{CONTROL}/k\n\n{{}}\0\
         COMMIT\ntransaction:t\n\n\0"
    ));
    client.expect_error("access_refused").await;
}

#[tokio::test(start_paused = true)]
async fn where_nothing_is_kept_the_hook_cannot_be_asked_again() {
    let house = House::new();
    let (_client, session) = connect(&house, "alice").await;
    for target in [Target::User("alice".into()), Target::Session(session)] {
        let refused = house.services.control.run(Order::Recheck(target)).await;
        assert_eq!(refused, Err(RecheckOff));
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_refused_when_asked_again_has_to_go() {
    let house = rechecking();
    let (mut alice, _) = connect(&house, "alice").await;
    let (mut bob, _) = connect(&house, "bob").await;
    house.hook.asked();
    let recheck = |user: &str| Order::Recheck(Target::User(user.into()));
    assert_eq!(run(&house, recheck("alice")).await, 1);
    settle().await;
    assert_eq!(house.hook.asked(), ["user alice", "vhost / from 127.0.0.1"]);
    alice.expect_nothing();

    house.hook.deny("user alice");
    assert_eq!(run(&house, recheck("alice")).await, 1);
    let error = alice.expect_error("access_refused").await;
    assert_eq!(
        body(&error),
        "ACCESS_REFUSED - access to vhost '/' refused for user 'alice'"
    );
    assert_eq!(alice.wire.closed_with(), Some(CloseCode::Policy));
    assert_eq!(error.header("error-code"), Some("login-revoked"));
    assert_eq!(error.header("reconnect"), Some("renew"));

    bob.publish("/topic/a", "still here").await;
    house.hook.deny("vhost / from 127.0.0.1");
    assert_eq!(run(&house, recheck("bob")).await, 1);
    bob.expect_error("access_refused").await;
}

#[tokio::test(start_paused = true)]
async fn subscriptions_are_asked_about_again() {
    let house = rechecking();
    let recheck = || Order::Recheck(Target::User("alice".into()));
    let (mut client, _) = connect(&house, "alice").await;
    client.subscribe("1", "/exchange/feed/k", "").await;
    client.subscribe("2", "/exchange/feed/gone", "").await;
    client.subscribe("3", "/queue/q", "ack:client\n").await;
    client.send("UNSUBSCRIBE\nid:2\nreceipt:u\n\n\0");
    client.expect_receipt("u").await;
    house.hook.asked();
    run(&house, recheck()).await;
    settle().await;
    assert_eq!(
        house.hook.asked(),
        [
            "user alice",
            "vhost / from 127.0.0.1",
            r#"read exchange "feed""#,
            r#"read topic "feed" "k""#,
            r#"configure queue "q""#,
            r#"read queue "q""#,
        ]
    );
    // Ended subscriptions do not count.
    house.hook.deny(r#"read topic "feed" "gone""#);
    run(&house, recheck()).await;
    settle().await;
    client.expect_nothing();
    house.hook.deny(r#"read queue "q""#);
    run(&house, recheck()).await;
    let error = client.expect_error("access_refused").await;
    assert!(body(&error).contains("queue 'q'"), "{error:?}");
    assert_eq!(error.header("error-code"), Some("permission-withdrawn"));
    assert_eq!(error.header("reconnect"), Some("no"));
}

fn recheck(user: &str) -> Order {
    Order::Recheck(Target::User(user.into()))
}

/// The other sessions of its user may have all turns at the hook.
#[tokio::test(start_paused = true)]
async fn a_recheck_asks_again_what_had_no_turn() {
    let topic = r#"read topic "feed" "k""#;
    for question in ["user alice", "vhost / from 127.0.0.1", topic] {
        let house = rechecking();
        let (mut client, _) = connect(&house, "alice").await;
        client.subscribe("1", "/exchange/feed/k", "").await;
        house.hook.be_busy(question);
        // Without a turn nobody is refused.
        assert_eq!(run(&house, recheck("alice")).await, 1);
        settle().await;
        client.expect_nothing();
        house.hook.be_busy(question);
        house.hook.deny(question);
        assert_eq!(run(&house, recheck("alice")).await, 1);
        client.expect_error("access_refused").await;
    }
}

/// The other subscriptions need the same answer.
#[tokio::test(start_paused = true)]
async fn a_question_without_an_answer_is_asked_for_the_next_subscription() {
    let question = r#"read exchange "feed""#;
    for is_busy in [false, true] {
        let house = rechecking();
        let (mut client, _) = connect(&house, "alice").await;
        client.subscribe("1", "/exchange/feed/a", "").await;
        client.subscribe("2", "/exchange/feed/b", "").await;
        if is_busy {
            // As often as a recheck asks about one subscription.
            (0..3).for_each(|_| house.hook.be_busy(question));
        } else {
            house.hook.fail_once(question);
        }
        house.hook.deny(question);
        assert_eq!(run(&house, recheck("alice")).await, 1);
        let error = client.expect_error("access_refused").await;
        assert_eq!(error.header("error-code"), Some("permission-withdrawn"));
    }
}

/// Otherwise it would be asked about none of its subscriptions.
#[tokio::test(start_paused = true)]
async fn a_user_about_whom_the_hook_fails_once_is_asked_about_again() {
    let house = rechecking();
    let (mut client, _) = connect(&house, "alice").await;
    client.subscribe("1", "/exchange/feed/k", "").await;
    house.hook.deny(r#"read topic "feed" "k""#);
    house.hook.fail_once("user alice");
    assert_eq!(run(&house, recheck("alice")).await, 1);
    client.expect_error("access_refused").await;
}

/// A recheck takes its time, and its client ends subscriptions meanwhile, or others do.
#[tokio::test(start_paused = true)]
async fn a_subscription_that_is_over_by_now_ends_no_session() {
    let house = rechecking();
    let (k, gone) = (r#"read topic "feed" "k""#, r#"read topic "feed" "gone""#);
    let (mut client, _) = connect(&house, "alice").await;
    client.subscribe("k", "/exchange/feed/k", "").await;
    // Another one is asked about, or this very one.
    for held in [k, gone] {
        client.subscribe("gone", "/exchange/feed/gone", "").await;
        if held == gone {
            house.hook.deny(gone);
        }
        let gate = house.hook.hold(held);
        assert_eq!(run(&house, recheck("alice")).await, 1);
        settle().await;
        assert_eq!(house.hook.asked().last().unwrap(), held);
        client.send("UNSUBSCRIBE\nid:gone\nreceipt:u\n\n\0");
        client.expect_receipt("u").await;
        house.hook.deny(gone);
        gate.open();
        settle().await;
        client.expect_nothing();
        house.hook.allow(gone);
    }
    // A moderator refuses it, then has it ended.
    client.subscribe("gone", "/exchange/feed/gone", "").await;
    let gate = house.hook.hold(k);
    run(&house, recheck("alice")).await;
    settle().await;
    house.hook.deny(gone);
    assert_eq!(run(&house, unsubscribe("/exchange/feed/gone")).await, 1);
    unsubscribed(&mut client, "gone").await;
    gate.open();
    settle().await;
    client.expect_nothing();
    // What is still there counts.
    house.hook.deny(k);
    run(&house, recheck("alice")).await;
    let error = client.expect_error("access_refused").await;
    assert_eq!(error.header("error-code"), Some("permission-withdrawn"));
}

/// The right may be there again, by a renewal or a new grant.
#[tokio::test(start_paused = true)]
async fn a_refusal_for_a_subscription_that_is_over_by_now_is_not_remembered() {
    let house = rechecking();
    let (feed, other) = (r#"read exchange "feed""#, r#"read exchange "amq.topic""#);
    let (mut client, _) = connect(&house, "alice").await;
    client.subscribe("1", "/exchange/feed/a", "").await;
    client.subscribe("other", "/topic/a", "").await;
    client.subscribe("2", "/exchange/feed/b", "").await;
    house.hook.deny(feed);
    let (first, between) = (house.hook.hold(feed), house.hook.hold(other));
    assert_eq!(run(&house, recheck("alice")).await, 1);
    settle().await;
    client.send("UNSUBSCRIBE\nid:1\nreceipt:u\n\n\0");
    client.expect_receipt("u").await;
    first.open();
    settle().await;
    assert_eq!(house.hook.asked().last().unwrap(), other);
    house.hook.allow(feed);
    between.open();
    settle().await;
    client.expect_nothing();
    assert!(house.hook.asked().iter().any(|asked| asked == feed));
}

const RENEW: &str = "SEND\ndestination:/auth/renew\ntoken:t\nreceipt:renewed\n\n\0";

/// A renewal ends the subscriptions that lost their right, and no others.
#[tokio::test(start_paused = true)]
async fn a_recheck_leaves_it_to_a_renewal_that_is_under_way() {
    let house = rechecking();
    let (mut client, _) = connect(&house, "alice").await;
    client.subscribe("kept", "/exchange/feed/kept", "").await;
    client.subscribe("lost", "/exchange/feed/lost", "").await;
    house.hook.deny(r#"read topic "feed" "lost""#);
    let gate = house.hook.hold(r#"read exchange "feed""#);
    client.send(RENEW);
    settle().await;
    run(&house, recheck("alice")).await;
    settle().await;
    client.expect_nothing();
    house.hook.asked();
    gate.open();
    let error = client.expect(Command::Error).await;
    assert_eq!(error.header("subscription"), Some("lost"));
    client.expect_receipt("renewed").await;
    settle().await;
    // Behind the renewal it is asked anew.
    let asked = house.hook.asked();
    assert!(asked.iter().any(|asked| asked == "user alice"), "{asked:?}");
    client.expect_nothing();
    house.hook.deny(r#"read topic "feed" "kept""#);
    run(&house, recheck("alice")).await;
    client.expect_error("access_refused").await;
}

/// The old credentials are refused because there are new ones.
#[tokio::test(start_paused = true)]
async fn credentials_that_were_renewed_meanwhile_decide_nothing() {
    for question in ["user alice", "vhost / from 127.0.0.1"] {
        let house = rechecking();
        let (mut client, _) = connect(&house, "alice").await;
        house.hook.deny(question);
        let gate = house.hook.hold(question);
        run(&house, recheck("alice")).await;
        settle().await;
        house.hook.allow(question);
        client.send(RENEW);
        client.expect_receipt("renewed").await;
        gate.open();
        settle().await;
        client.expect_nothing();
        house.hook.deny(question);
        run(&house, recheck("alice")).await;
        let error = client.expect_error("access_refused").await;
        assert_eq!(error.header("error-code"), Some("login-revoked"));
    }
}

/// The hook has let it in before the user's account was closed.
#[tokio::test(start_paused = true)]
async fn a_login_that_is_under_way_is_asked_about_again_too() {
    let house = rechecking();
    house.hook.gate.close();
    let mut client = Client::new(&house);
    client.send(CONNECT);
    settle().await;
    house.hook.deny("user alice");
    let recheck = Order::Recheck(Target::User("alice".into()));
    assert_eq!(run(&house, recheck).await, 0);
    house.hook.gate.open();
    client.expect(Command::Connected).await;
    let error = client.expect_error("access_refused").await;
    assert_eq!(error.header("error-code"), Some("login-revoked"));
}

/// The hook has permitted it before the user's role changed, and RabbitMQ has yet to open it.
#[tokio::test(start_paused = true)]
async fn a_subscription_that_is_being_opened_is_asked_about_again_too() {
    for (frame, right) in [
        ("destination:/exchange/feed/k\n", r#"read topic "feed" "k""#),
        (
            "destination:/exchange/feed/k\nack:client\n",
            r#"read topic "feed" "k""#,
        ),
        ("destination:/queue/q\n", r#"read queue "q""#),
    ] {
        let house = House::with(Options {
            auth: auth::Config {
                recheck: EVERY,
                soft_deny: true,
                ..auth::Config::default()
            },
            ..Options::default()
        });
        let recheck = || Order::Recheck(Target::User("alice".into()));
        let (mut client, _) = connect(&house, "alice").await;
        // Asked about ahead, while the hook is asked about the one before.
        house.hook.gate.close();
        house.slow.gate.close();
        client.send(format!(
            "SUBSCRIBE\nid:0\ndestination:/exchange/feed/kept\nreceipt:kept\n\n\0\
             SUBSCRIBE\nid:1\nreceipt:lost\n{frame}\n\0\
             SUBSCRIBE\nid:2\nreceipt:lost\n{frame}\n\0"
        ));
        settle().await;
        house.hook.gate.open();
        settle().await;
        house.hook.deny(right);
        // Other nodes hear of it when the broker is quick again.
        house.services.control.run(recheck()).await.unwrap();
        settle().await;
        house.slow.gate.open();
        client.expect_receipt("kept").await;
        for _ in 0..2 {
            let error = client.expect_denial().await;
            assert_eq!(error.header("receipt-id"), Some("lost"));
            assert_eq!(error.header("error-code"), Some("permission-denied"));
        }
        house.publish("feed", "k", "for nobody");
        house.publish("feed", "kept", "still here");
        client.expect_message("still here").await;
        // The next recheck knows of those that stay alone.
        house.hook.asked();
        run(&house, recheck()).await;
        settle().await;
        assert_eq!(
            house.hook.asked().last().unwrap(),
            r#"read topic "feed" "kept""#
        );
        client.expect_nothing();
    }
}

/// The same without questions that were asked ahead.
#[tokio::test(start_paused = true)]
async fn a_subscription_that_rabbitmq_opens_is_asked_about_again_too() {
    let house = rechecking();
    let (mut client, _) = connect(&house, "alice").await;
    house.slow.gate.close();
    client.send("SUBSCRIBE\nid:1\ndestination:/exchange/feed/k\nreceipt:1\n\n\0");
    settle().await;
    let question = r#"read topic "feed" "k""#;
    house.hook.deny(question);
    house.services.control.run(recheck("alice")).await.unwrap();
    settle().await;
    // At first there is no turn at the hook.
    house.hook.be_busy(question);
    house.slow.gate.open();
    let error = client.expect_error("access_refused").await;
    assert_eq!(error.header("receipt-id"), Some("1"));
}

/// The hook has permitted it before the user was muted.
#[tokio::test(start_paused = true)]
async fn what_was_asked_ahead_is_asked_again_behind_an_order_to_forget() {
    let forget = Order::Forget {
        user: "alice".into(),
    };
    for order in [forget, recheck("alice")] {
        let house = rechecking();
        let (mut client, _) = connect(&house, "alice").await;
        // Asked about ahead, while the hook is asked about the one before.
        house.hook.gate.close();
        house.slow.gate.close();
        client.send(
            "SUBSCRIBE\nid:1\ndestination:/exchange/feed/k\nreceipt:1\n\n\0\
             SEND\ndestination:/exchange/feed/k\nreceipt:2\n\nmuted\0",
        );
        settle().await;
        house.hook.gate.open();
        settle().await;
        let write = r#"write topic "feed" "k""#;
        let asked = house.hook.asked();
        assert!(asked.iter().any(|asked| asked == write), "{asked:?}");
        house.hook.deny(write);
        // Other nodes hear of it when the broker is quick again.
        house.services.control.run(order).await.unwrap();
        settle().await;
        house.slow.gate.open();
        client.expect_receipt("1").await;
        let error = client.expect_error("access_refused").await;
        assert_eq!(error.header("receipt-id"), Some("2"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_hook_at_fault_takes_nothing_back() {
    let house = rechecking();
    let (mut client, _) = connect(&house, "alice").await;
    client.subscribe("1", "/exchange/feed/k", "").await;
    for question in [
        "user alice",
        "vhost / from 127.0.0.1",
        r#"read topic "feed" "k""#,
    ] {
        house.hook.fail(question);
        run(&house, Order::Recheck(Target::User("alice".into()))).await;
        settle().await;
    }
    client.publish("/topic/a", "still here").await;
}

#[tokio::test(start_paused = true)]
async fn everybody_is_asked_about_once_in_the_interval() {
    let house = rechecking();
    let recheck = house.services.settings().recheck.unwrap();
    let registry = Arc::downgrade(&house.services.registry);
    let asking = tokio::spawn(recheck_in_turn(registry, recheck));
    let mut clients = Vec::new();
    for number in 0..50 {
        clients.push(connect(&house, &format!("user{number}")).await.0);
    }
    // The hook gives no answer about one of them, whom nobody waits for.
    let (mut slow, _) = connect(&house, "slow").await;
    slow.subscribe("1", "/exchange/feed/m", "").await;
    let gate = house.hook.hold(r#"read topic "feed" "m""#);
    clients.push(slow);
    house.hook.asked();
    let mut busiest = 0;
    let mut all = Vec::new();
    // And a little longer, for clients that have just had their turn.
    for _ in 0..31 {
        sleep(EVERY / 30).await;
        let mut asked = house.hook.asked();
        asked.retain(|question| question.starts_with("user user"));
        busiest = busiest.max(asked.len());
        all.append(&mut asked);
    }
    assert!(all.len() < 65, "{all:?}");
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 50, "{all:?}");
    assert!(busiest < 20, "{busiest} in one second");

    house.hook.deny("user user7");
    let begun = Instant::now();
    clients[7].expect_error("access_refused").await;
    assert!(begun.elapsed() <= EVERY + Duration::from_secs(1));

    // It holds nothing.
    gate.open();
    clients.iter().for_each(|client| client.task.abort());
    let House { services, .. } = house;
    settle().await;
    let weak = Arc::downgrade(&services);
    drop(services);
    sleep(EVERY).await;
    assert_eq!(weak.strong_count(), 0);
    assert!(asking.is_finished());
}

/// A recheck leaves the subscriptions for which it has no time to the next one.
#[tokio::test(start_paused = true)]
async fn many_subscriptions_keep_off_no_question_about_the_login() {
    let house = rechecking();
    let log = telemetry::capture::Capture::start();
    let (mut client, _) = connect(&house, "alice").await;
    subscribe_to(&mut client, 10).await;
    house.hook.asked();
    *house.hook.takes.lock() = Duration::from_secs(4);
    let recheck = house.services.settings().recheck.unwrap();
    let registry = Arc::downgrade(&house.services.registry);
    let asking = tokio::spawn(recheck_in_turn(registry, recheck));
    sleep(10 * EVERY).await;
    let asked = house.hook.asked();
    let count = |wanted: &str| asked.iter().filter(|asked| **asked == *wanted).count();
    assert!(count("user alice") >= 8, "{asked:?}");
    for number in 0..10 {
        let topic = format!(r#"read topic "feed" "{number}""#);
        assert!(count(&topic) >= 2, "{asked:?}");
    }
    // What they have in common is asked once in each.
    assert!(count(r#"read exchange "feed""#) <= 10, "{asked:?}");
    // Operators hear of those that are left.
    assert!(
        log.text().contains("passed_over=0 left=7"),
        "{}",
        log.text()
    );
    asking.abort();
}

/// While the hook is down it is asked again about everybody.
#[tokio::test(start_paused = true)]
async fn a_login_without_an_answer_is_asked_about_again_behind_others() {
    // One asks at a time.
    let house = rechecking_by(2);
    let _alice = connect(&house, "alice").await;
    let _bob = connect(&house, "bob").await;
    house.hook.asked();
    *house.hook.takes.lock() = Duration::from_millis(10);
    // The first question about a virtual host has no turn, while the other user waits.
    house.hook.be_busy("vhost / from 127.0.0.1");
    let recheck = house.services.settings().recheck.unwrap();
    let named = BTreeSet::from(["alice".into(), "bob".into()]);
    recheck_users(&house.services.registry, &named, recheck);
    sleep(EVERY).await;
    let asked = house.hook.asked();
    let users = asked
        .iter()
        .filter(|question| question.starts_with("user "));
    let users: Vec<_> = users.collect();
    assert_eq!(users.len(), 3, "{asked:?}");
    assert_ne!(users[0], users[1], "{asked:?}");
    assert_eq!(users[0], users[2], "{asked:?}");
}

/// Operators hear of them as of those for which there is no time.
#[tokio::test(start_paused = true)]
async fn subscriptions_without_an_answer_are_left_to_the_next_recheck() {
    let topic = r#"read topic "feed" "1""#;
    for (is_down, left) in [(true, 3), (false, 1)] {
        let house = rechecking();
        let log = telemetry::capture::Capture::start();
        let (mut client, _) = connect(&house, "alice").await;
        subscribe_to(&mut client, 3).await;
        if is_down {
            house.hook.fail("user alice");
        } else {
            // As often as a recheck asks about one subscription.
            (0..3).for_each(|_| house.hook.be_busy(topic));
        }
        let recheck = house.services.settings().recheck.unwrap();
        let registry = Arc::downgrade(&house.services.registry);
        let asking = tokio::spawn(recheck_in_turn(registry, recheck));
        sleep(2 * EVERY).await;
        asking.abort();
        client.expect_nothing();
        let expected = format!("passed_over=0 left={left}");
        assert!(log.text().contains(&expected), "{}", log.text());
    }
}

async fn subscribe_to(client: &mut Client, count: usize) {
    for number in 0..count {
        let destination = format!("/exchange/feed/{number}");
        client
            .subscribe(&number.to_string(), &destination, "")
            .await;
    }
}

/// Each keeps in memory what it asks about.
#[tokio::test(start_paused = true)]
async fn some_rechecks_are_under_way_at_a_time() {
    for (users, most) in [(1, 4), (50, 16)] {
        let house = rechecking_by(2);
        let mut clients = Vec::new();
        let mut named = BTreeSet::<Box<str>>::new();
        for number in 0..50 {
            let user = format!("user{}", number % users);
            let (mut client, _) = connect(&house, &user).await;
            subscribe_to(&mut client, 20).await;
            clients.push(client);
            named.insert(user.into());
        }
        house.hook.asked();
        *house.hook.takes.lock() = Duration::from_millis(10);
        let recheck = house.services.settings().recheck.unwrap();
        recheck_users(&house.services.registry, &named, recheck);
        sleep(EVERY).await;
        let asked = house.hook.asked();
        let count = |asked: &[String], start: &str| {
            let begun = asked.iter().filter(|question| question.starts_with(start));
            begun.count()
        };
        let first = asked
            .iter()
            .position(|question| question.starts_with("read topic"))
            .unwrap();
        let begun = count(&asked[..first], "user ");
        assert!(begun <= most, "{begun} of {users}");
        assert_eq!(count(&asked, "user "), 50);
        assert_eq!(count(&asked, "read topic"), 50 * 20);
    }
}

/// They have all places, and leave them after half the interval.
#[tokio::test(start_paused = true)]
async fn many_slow_sessions_do_not_stop_the_others() {
    let house = rechecking_by(2);
    let mut clients = Vec::new();
    for number in 0..20 {
        let (mut client, _) = connect(&house, &format!("slow{number}")).await;
        subscribe_to(&mut client, 50).await;
        clients.push(client);
    }
    clients.push(connect(&house, "bob").await.0);
    house.hook.asked();
    *house.hook.takes.lock() = Duration::from_millis(200);
    let recheck = house.services.settings().recheck.unwrap();
    let registry = Arc::downgrade(&house.services.registry);
    let asking = tokio::spawn(recheck_in_turn(registry, recheck));
    sleep(10 * EVERY).await;
    let asked = house.hook.asked();
    let of_bob = asked.iter().filter(|question| *question == "user bob");
    assert!(of_bob.count() >= 3, "{asked:?}");
    asking.abort();
}

/// A hook that is slow must not hold back a drain.
#[tokio::test(start_paused = true)]
async fn a_session_that_waits_for_its_recheck_may_go() {
    let house = rechecking_by(2);
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(connect(&house, "alice").await.0);
    }
    clients[0].subscribe("1", "/exchange/feed/k", "").await;
    house.hook.asked();
    house.hook.gate.close();
    let recheck = Order::Recheck(Target::User("alice".into()));
    assert_eq!(run(&house, recheck).await, 5);
    settle().await;
    assert_eq!(house.hook.asked(), ["user alice"]);
    for client in &mut clients {
        client.wire.hang_up();
        client.expect_end().await;
    }
    settle().await;
    // One is being asked about.
    assert_eq!(house.services.registry.len(), 1);
    house.hook.gate.open();
    settle().await;
    assert!(house.services.registry.is_empty());
    // That it has gone is found out after the login at the latest.
    let asked = house.hook.asked();
    assert!(
        asked.iter().all(|question| question.starts_with("vhost")),
        "{asked:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_to_ask_again_shows_no_secret() {
    let login = auth::Login {
        user: "alice".into(),
        password: Some("s3cret".into()),
        vhost: "/".into(),
        more: vec![("token".into(), "s3cret".into())],
        address: std::net::Ipv4Addr::LOCALHOST.into(),
        is_known: false,
    };
    let shown = format!("{:?}", rights::Rights::new(login));
    assert!(
        shown.contains("alice") && !shown.contains("s3cret"),
        "{shown}"
    );
}

fn unsubscribe(destination: &str) -> Order {
    Order::Unsubscribe(Arc::new(Unsubscribe {
        user: "alice".into(),
        vhost: None,
        destination: Unsubscribe::destination(destination).unwrap(),
        reason: "removed".into(),
    }))
}

async fn unsubscribed(client: &mut Client, id: &str) {
    let error = client.expect(Command::Error).await;
    assert_eq!(error.header("error-code"), Some("subscription-ended"));
    assert_eq!(error.header("subscription"), Some(id));
    assert_eq!(body(&error), "removed\n");
}

#[tokio::test(start_paused = true)]
async fn one_subscription_of_a_user_ends_and_all_else_goes_on() {
    let house = House::new();
    let (mut one, _) = connect(&house, "alice").await;
    let (mut two, _) = connect(&house, "alice").await;
    let (mut bob, _) = connect(&house, "bob").await;
    for client in [&mut one, &mut two, &mut bob] {
        client.subscribe("gone", "/exchange/feed/gone", "").await;
        client.subscribe("kept", "/exchange/feed/kept", "").await;
    }
    // With a queue of its own, and what it has not acknowledged.
    two.subscribe("own", "/exchange/feed/gone", "ack:client\n")
        .await;
    house.publish("feed", "gone", "before");
    for client in [&mut one, &mut bob] {
        client.expect_message("before").await;
    }
    two.expect_message("before").await;
    two.expect_message("before").await;

    for nothing in [
        unsubscribe("/exchange/feed/go"),
        unsubscribe("/exchange/feed/gone.x"),
        unsubscribe("/topic/gone"),
        unsubscribe("/queue/gone"),
    ] {
        assert_eq!(run(&house, nothing).await, 0);
    }
    assert_eq!(run(&house, unsubscribe("/exchange/feed/gone")).await, 3);
    unsubscribed(&mut one, "gone").await;
    for id in ["gone", "own"] {
        unsubscribed(&mut two, id).await;
    }
    assert_eq!(run(&house, unsubscribe("/exchange/feed/gone")).await, 0);
    house.publish("feed", "gone", "for bob");
    house.publish("feed", "kept", "for all");
    bob.expect_message("for bob").await;
    for client in [&mut one, &mut two, &mut bob] {
        client.expect_message("for all").await;
    }
    // Its client may not have heard, and may come back.
    one.send("UNSUBSCRIBE\nid:gone\nreceipt:u\n\n\0");
    one.expect_receipt("u").await;
    one.subscribe("gone", "/exchange/feed/gone", "").await;
    house.publish("feed", "gone", "back");
    one.expect_message("back").await;
}

/// Its acknowledgement was on the way, and waits for what came before it: by then another client may
/// have the message.
#[tokio::test(start_paused = true)]
async fn nothing_is_settled_of_what_was_taken_meanwhile() {
    for is_commit in [false, true] {
        let house = House::new();
        let (mut client, _) = connect(&house, "alice").await;
        let (mut bob, _) = connect(&house, "bob").await;
        bob.subscribe("1", "/topic/results", "").await;
        client.subscribe("1", "/queue/q", "ack:client\n").await;
        house.publish("", "q", "job");
        let job = client.expect_message("job").await;
        let ack = job.header("ack").unwrap();
        house.hook.gate.close();
        client.send("SEND\ndestination:/topic/a\n\n\0");
        client.send(match is_commit {
            true => format!(
                "BEGIN\ntransaction:t\n\n\0ACK\nid:{ack}\ntransaction:t\n\n\0\
                 SEND\ndestination:/topic/results\ntransaction:t\n\nresult\0\
                 COMMIT\ntransaction:t\nreceipt:r\n\n\0"
            ),
            false => format!("ACK\nid:{ack}\nreceipt:r\n\n\0"),
        });
        settle().await;
        let services = Arc::clone(&house.services);
        let order = unsubscribe("/queue/q");
        tokio::spawn(async move { services.control.run(order).await });
        unsubscribed(&mut client, "1").await;
        house.hook.gate.open();
        if is_commit {
            client.expect_error("message taken back").await;
        } else {
            let receipt = client.expect(Command::Receipt).await;
            assert_eq!(receipt.header("settled"), Some("false"));
        }
        bob.subscribe("2", "/queue/q", "").await;
        let again = bob.expect_message("job").await;
        assert_eq!(again.header("redelivered"), Some("true"));
        house.publish("amq.topic", "results", "fence");
        bob.expect_message("fence").await;
    }
}

/// However its SUBSCRIBE has written it; and queues by their names, which stay.
#[tokio::test(start_paused = true)]
async fn a_destination_is_meant_however_it_is_written() {
    let house = House::new();
    let (mut client, _) = connect(&house, "alice").await;
    for (id, destination, named) in [
        ("1", "/topic/a", "/exchange/amq.topic/a"),
        ("2", "/exchange/amq.topic/a%2Fb", "/topic/a%2Fb"),
        ("3", "/topic/a.#.#", "/topic/a.#"),
        ("4", "/queue/q", "/amq/queue/q"),
    ] {
        client.subscribe(id, destination, "").await;
        let house = &house;
        assert_eq!(run(house, unsubscribe(named)).await, 1, "{destination}");
        unsubscribed(&mut client, id).await;
    }
    client.publish("/queue/q", "kept").await;
    client.subscribe("5", "/queue/q", "").await;
    client.expect_message("kept").await;
}

/// The hook has permitted it before the user's role changed, and its answer is on the way.
#[tokio::test(start_paused = true)]
async fn a_subscription_that_is_being_opened_ends_too() {
    let house = House::new();
    let (mut client, _) = connect(&house, "alice").await;
    client.subscribe("1", "/exchange/feed/gone", "").await;
    house.hook.gate.close();
    client.send("SUBSCRIBE\nid:2\ndestination:/exchange/feed/other\nreceipt:2\n\n\0");
    client.send("SUBSCRIBE\nid:3\ndestination:/exchange/feed/gone\nreceipt:3\n\n\0");
    settle().await;
    let services = Arc::clone(&house.services);
    let running = tokio::spawn(async move {
        services
            .control
            .run(unsubscribe("/exchange/feed/gone"))
            .await
    });
    // What is open ends at once, however long the hook takes.
    unsubscribed(&mut client, "1").await;
    house.hook.gate.open();
    client.expect_receipt("2").await;
    client.expect_receipt("3").await;
    unsubscribed(&mut client, "3").await;
    assert_eq!(running.await.unwrap().unwrap().hits(), 2);
    house.publish("feed", "gone", "for nobody");
    house.publish("feed", "other", "for all");
    client.expect_message("for all").await;
}

#[tokio::test(start_paused = true)]
async fn a_backend_unsubscribes_by_the_exchange() {
    let house = House::new();
    let (mut client, _) = connect(&house, "alice").await;
    client.subscribe("1", "/exchange/feed/k", "").await;
    for (vhost, reason) in [("elsewhere", "no"), ("/", "removed")] {
        let order = format!(
            r#"{{"command":"unsubscribe","user":"alice","destination":"/exchange/feed/k","vhost":"{vhost}","reason":"{reason}"}}"#
        );
        house.publish(CONTROL, "any", &order);
    }
    unsubscribed(&mut client, "1").await;
}

fn in_presence(sessions: LoginPolicy) -> (House, Arc<MemoryPresence>) {
    let presence = Arc::new(MemoryPresence::new(Node {
        name: "node-1".into(),
        since: SystemTime::now(),
        debounce: Duration::from_secs(5),
        events: None,
        rooms: None,
    }));
    let house = House::with(Options {
        presence: Some(Arc::clone(&presence) as _),
        sessions,
        ..Options::default()
    });
    (house, presence)
}

/// From now on the hook says that all users are in this group.
fn regroup(house: &House, group: &str) {
    *house.hook.groups.lock() = vec![group.into()];
}

async fn refresh_groups(house: &House) -> u64 {
    let order = Order::RefreshGroups {
        user: "alice".into(),
    };
    run(house, order).await
}

/// The groups of alice's only session.
fn groups(presence: &MemoryPresence) -> String {
    let sessions = presence.held("alice");
    assert_eq!(sessions.len(), 1);
    sessions[0].groups().join(" ")
}

/// The hook has answered before the user's role changed, and its answer is on the way.
#[tokio::test(start_paused = true)]
async fn groups_that_change_during_a_login_are_asked_for_again() {
    // A session that is counted is in presence before its groups are known.
    for (repeated_login, hits) in [(Repeated::Allow, 0), (Repeated::Replace, 1)] {
        let (house, presence) = in_presence(LoginPolicy {
            repeated_login,
            ..LoginPolicy::default()
        });
        regroup(&house, "old");
        let gate = house.hook.hold("groups alice");
        let (mut client, _) = connect(&house, "alice").await;
        settle().await;
        regroup(&house, "new");
        assert_eq!(refresh_groups(&house).await, hits);
        settle().await;
        gate.open();
        settle().await;
        assert_eq!(groups(&presence), "new", "{hits}");
        client.expect_nothing();
    }
}

#[tokio::test(start_paused = true)]
async fn of_answers_about_groups_that_of_the_last_question_counts() {
    let (house, presence) = in_presence(LoginPolicy::default());
    let (_client, _) = connect(&house, "alice").await;
    settle().await;
    regroup(&house, "old");
    let gate = house.hook.hold("groups alice");
    assert_eq!(refresh_groups(&house).await, 1);
    settle().await;
    regroup(&house, "new");
    assert_eq!(refresh_groups(&house).await, 1);
    settle().await;
    assert_eq!(groups(&presence), "new");
    gate.open();
    settle().await;
    assert_eq!(groups(&presence), "new");
}
