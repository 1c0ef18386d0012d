//! Logins that end by themselves, and are renewed: the hook gives them a lifetime.

use super::*;
use crate::{
    auth,
    control::{Command as Order, Target},
};

const RENEW: &str = "SEND\ndestination:/auth/renew\ntoken:t\nreceipt:renewed\n\n\0";

fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

/// A client whose login counts for a minute.
async fn for_a_minute(house: &House) -> Client {
    *house.hook.lifetime.lock() = Some(seconds(60));
    let mut client = Client::new(house);
    client.send(CONNECT);
    let connected = client.expect(Command::Connected).await;
    assert_eq!(connected.header("expires-in"), Some("60"));
    client
}

#[tokio::test(start_paused = true)]
async fn a_session_ends_with_its_login_to_the_millisecond() {
    let house = House::new();
    let mut client = for_a_minute(&house).await;
    let began = Instant::now();
    let error = client.expect_error("token expired").await;
    assert_eq!(error.header("error-code"), Some("token-expired"));
    let lasted = began.elapsed();
    assert!(
        lasted >= Duration::from_millis(59_990) && lasted <= Duration::from_millis(60_010),
        "{lasted:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_login_without_a_lifetime_is_told_nothing_and_lasts() {
    let house = House::new();
    let mut client = Client::new(&house);
    client.send(CONNECT);
    let connected = client.expect(Command::Connected).await;
    assert_eq!(connected.header("expires-in"), None);
    sleep(seconds(2_000)).await;
    client.subscribe("1", "/exchange/feed/k", "").await;
    // To renew it only asks again.
    client.send(RENEW);
    let receipt = client.expect(Command::Receipt).await;
    assert_eq!(receipt.header("expires-in"), None);
}

#[tokio::test(start_paused = true)]
async fn a_renewal_has_the_hook_asked_again_and_nobody_reconnects() {
    let house = House::new();
    let mut client = for_a_minute(&house).await;
    client.subscribe("1", "/exchange/feed/k", "").await;
    sleep(seconds(50)).await;
    house.hook.asked();
    client.send(RENEW);
    let receipt = client.expect(Command::Receipt).await;
    assert_eq!(receipt.header("receipt-id"), Some("renewed"));
    assert_eq!(receipt.header("expires-in"), Some("60"));
    assert_eq!(
        house.hook.asked(),
        [
            "user alice",
            "vhost / from 127.0.0.1",
            r#"read exchange "feed""#,
            r#"read topic "feed" "k""#,
        ]
    );
    sleep(seconds(50)).await;
    house.publish("feed", "k", "still here");
    client.expect_message("still here").await;
    client.expect_error("token expired").await;
}

/// The feed of a fanout exchange knows no keys, but a right may be to one.
#[tokio::test(start_paused = true)]
async fn a_subscription_to_a_fanout_exchange_is_asked_about_by_its_own_key() {
    let house = House::new();
    house.hook.deny(r#"read topic "news" """#);
    let mut client = for_a_minute(&house).await;
    client.subscribe("1", "/exchange/news/alice", "").await;
    client.send(RENEW);
    client.expect(Command::Receipt).await;
    house.publish("news", "", "still here");
    client.expect_message("still here").await;
}

#[tokio::test(start_paused = true)]
async fn a_subscription_whose_right_is_gone_ends_alone() {
    let house = House::new();
    let mut client = for_a_minute(&house).await;
    client.subscribe("kept", "/exchange/feed/kept", "").await;
    client.subscribe("lost", "/exchange/feed/lost", "").await;
    client.subscribe("queue", "/queue/q", "ack:client\n").await;
    house.hook.deny(r#"read topic "feed" "lost""#);
    house.hook.deny(r#"read queue "q""#);
    client.send(RENEW);
    for id in ["lost", "queue"] {
        let error = client.expect(Command::Error).await;
        assert_eq!(error.header("subscription"), Some(id));
        assert_eq!(error.header("error-code"), Some("permission-withdrawn"));
    }
    client.expect_receipt("renewed").await;
    for key in ["lost", "kept"] {
        house.publish("feed", key, key);
    }
    client.expect_message("kept").await;
    // Nobody consumes from the queue any more: it has its message for the next one.
    house.hook.allow(r#"read queue "q""#);
    client.publish("/queue/q", "kept for others").await;
    client.send("UNSUBSCRIBE\nid:queue\nreceipt:u\n\n\0");
    client.expect_receipt("u").await;
    client.subscribe("queue", "/queue/q", "").await;
    client.expect_message("kept for others").await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_renewal_changes_nothing() {
    let house = House::new();
    let mut client = for_a_minute(&house).await;
    client.subscribe("1", "/exchange/feed/k", "").await;
    house.hook.deny("user alice");
    client.send(RENEW);
    let error = client.expect(Command::Error).await;
    assert_eq!(error.header("error-code"), Some("renewal-refused"));
    assert_eq!(error.header("receipt-id"), Some("renewed"));
    house.hook.fail("user alice");
    client.send(RENEW);
    let error = client.expect(Command::Error).await;
    assert_eq!(error.header("error-code"), Some("renewal-unavailable"));
    house.publish("feed", "k", "still here");
    client.expect_message("still here").await;
    client.expect_error("token expired").await;
}

/// Each of these is refused, and the session goes on.
#[tokio::test(start_paused = true)]
async fn a_renewal_is_for_the_same_user_and_virtual_host() {
    let house = House::new();
    let mut client = for_a_minute(&house).await;
    client.send("SEND\ndestination:/auth/renew\nlogin:bob\ntoken:t\n\n\0");
    let error = client.expect(Command::Error).await;
    assert_eq!(error.header("error-code"), Some("renewal-refused"));
    house.hook.deny("vhost / from 127.0.0.1");
    client.send(RENEW);
    let error = client.expect(Command::Error).await;
    assert_eq!(error.header("error-code"), Some("renewal-refused"));
    client.publish("/exchange/feed/k", "x").await;
}

/// Rights may go by tags, and those of the session are its login's.
#[tokio::test(start_paused = true)]
async fn a_renewal_does_not_bring_other_tags() {
    let house = House::new();
    let mut client = for_a_minute(&house).await;
    *house.hook.tags.lock() = "administrator".into();
    client.send(RENEW);
    let error = client.expect(Command::Error).await;
    assert_eq!(error.header("error-code"), Some("renewal-refused"));
    house.hook.tags.lock().clear();
    client.send(RENEW);
    client.expect_receipt("renewed").await;
}

/// As if she tried to log in as bob: a session is no way round the count, and tells nobody which
/// guess is right.
#[tokio::test(start_paused = true)]
async fn a_session_is_no_way_to_guess_another_s_password() {
    let house = House::with(Options {
        limits: Limits {
            max_failed_logins: 3,
            ..Limits::default()
        },
        ..Options::default()
    });
    let alone = || house::from("192.0.2.1");
    let mut alice = Client::at(&house, alone());
    alice.send(CONNECT);
    alice.expect(Command::Connected).await;
    let guess = "SEND\ndestination:/auth/renew\nlogin:bob\ntoken:guess\n\n\0";
    house.hook.deny("user bob");
    let mut said = Vec::new();
    for is_right in [false, false, true] {
        if is_right {
            house.hook.allow("user bob");
        }
        alice.send(guess);
        let error = alice.expect(Command::Error).await;
        assert_eq!(error.header("error-code"), Some("renewal-refused"));
        said.push(error.body);
        // By her own login she empties nobody else's count.
        alice.send(RENEW);
        alice.expect_receipt("renewed").await;
    }
    assert_eq!(said[2], said[0], "a right guess is told from a wrong one");
    house.hook.asked();
    alice.send(guess);
    let error = alice.expect(Command::Error).await;
    assert_eq!(error.header("error-code"), Some("renewal-unavailable"));
    assert!(house.hook.asked().is_empty());
    let mut bob = Client::at(&house, alone());
    bob.send(CONNECT.replace("alice", "bob"));
    let error = bob.expect_error("Bad CONNECT").await;
    assert_eq!(error.header("error-code"), Some("failed-logins"));
}

/// Behind a renewal, answers that were asked for before it do not count.
#[tokio::test(start_paused = true)]
async fn nothing_is_asked_ahead_of_a_renewal() {
    let house = House::new();
    let mut client = for_a_minute(&house).await;
    house.hook.asked();
    house.hook.gate.close();
    client.send("SUBSCRIBE\nid:1\ndestination:/exchange/feed/a\n\n\0");
    client.send(RENEW);
    client.send("SUBSCRIBE\nid:2\ndestination:/exchange/feed/b\nreceipt:b\n\n\0");
    settle().await;
    assert_eq!(house.hook.asked(), [r#"read exchange "feed""#]);
    house.hook.gate.open();
    client.expect_receipt("renewed").await;
    client.expect_receipt("b").await;
    let asked = house.hook.asked();
    let place = |question: &str| asked.iter().position(|asked| asked == question);
    assert!(
        place("user alice") < place(r#"read topic "feed" "b""#),
        "{asked:?}"
    );
}

/// It is no destination: neither exchange nor queue hears of it.
#[tokio::test(start_paused = true)]
async fn a_renewal_never_reaches_the_broker() {
    let house = House::new();
    let mut client = for_a_minute(&house).await;
    client.send(RENEW);
    client.expect_receipt("renewed").await;
    assert!(house.slow.declared().is_empty());
    client.send("SUBSCRIBE\nid:1\ndestination:/auth/renew\n\n\0");
    client.expect_error("Unknown destination").await;
}

/// The new credentials count from the moment when they are accepted, and the client does not wait for
/// ever.
#[tokio::test(start_paused = true)]
async fn a_slow_hook_does_not_end_a_login_that_is_renewed() {
    let house = House::new();
    let mut client = for_a_minute(&house).await;
    client.subscribe("1", "/exchange/feed/k", "").await;
    sleep(seconds(50)).await;
    let _held = house.hook.hold("read ");
    let began = Instant::now();
    client.send(RENEW);
    client.expect_receipt("renewed").await;
    let patience = house.services.settings().operation_timeout;
    assert!(began.elapsed() <= patience + seconds(1));
    house.publish("feed", "k", "still here");
    client.expect_message("still here").await;
}

#[tokio::test(start_paused = true)]
async fn subscriptions_are_asked_about_side_by_side_and_each_question_once() {
    let house = House::new();
    let mut client = for_a_minute(&house).await;
    for key in ["a", "b", "c"] {
        let destination = format!("/exchange/feed/{key}");
        client.subscribe(key, &destination, "").await;
    }
    house.hook.asked();
    let held = house.hook.hold("read topic ");
    client.send(RENEW);
    settle().await;
    let mut asked = house.hook.asked();
    asked.sort();
    // Not all at once: the user's other sessions have turns, too.
    assert_eq!(
        asked,
        [
            r#"read exchange "feed""#,
            r#"read topic "feed" "a""#,
            r#"read topic "feed" "b""#,
            r#"read topic "feed" "c""#,
            "user alice",
            "vhost / from 127.0.0.1",
        ]
    );
    held.open();
    client.expect_receipt("renewed").await;
}

/// A client with so many subscriptions that the hook cannot say of all in time whether they may stay.
/// The newest may not.
async fn with_too_many_to_ask_about(house: &House) -> Client {
    *house.hook.lifetime.lock() = Some(seconds(3_000));
    let mut client = Client::new(house);
    client.send(CONNECT);
    client.expect(Command::Connected).await;
    for key in 0..200 {
        let destination = format!("/exchange/feed/{key}");
        client.subscribe(&key.to_string(), &destination, "").await;
    }
    house.hook.deny(r#"read topic "feed" "199""#);
    *house.hook.takes.lock() = seconds(1);
    client
}

/// The number of its subscriptions is the client's choice.
#[tokio::test(start_paused = true)]
async fn subscriptions_that_had_no_answer_in_time_are_asked_about_after_the_receipt() {
    let house = House::new();
    let mut client = with_too_many_to_ask_about(&house).await;
    client.send(RENEW);
    client.expect_receipt("renewed").await;
    sleep(seconds(300)).await;
    for key in ["199", "198"] {
        house.publish("feed", key, key);
    }
    let error = client.expect(Command::Error).await;
    assert_eq!(error.header("subscription"), Some("199"));
    assert_eq!(error.header("error-code"), Some("permission-withdrawn"));
    client.expect_message("198").await;
    // All had their answers.
    house.hook.asked();
    sleep(seconds(300)).await;
    assert!(house.hook.asked().is_empty());
}

/// Each renewal asks about all, and gets answers about a few.
#[tokio::test(start_paused = true)]
async fn to_renew_again_and_again_keeps_no_right() {
    let house = House::new();
    let mut client = with_too_many_to_ask_about(&house).await;
    for _ in 0..30 {
        client.send(RENEW);
        let frame = client.next().await.expect("a frame");
        if frame.command == Command::Error {
            assert_eq!(frame.header("subscription"), Some("199"));
            return;
        }
        assert_eq!(frame.command, Command::Receipt);
    }
    panic!("the subscription stays");
}

/// By other sessions of its own name a client can take all turns at the hook.
#[tokio::test(start_paused = true)]
async fn a_question_that_had_no_turn_is_asked_again_after_the_receipt() {
    let house = House::new();
    let mut client = for_a_minute(&house).await;
    client.subscribe("kept", "/exchange/feed/kept", "").await;
    client.subscribe("lost", "/exchange/feed/lost", "").await;
    for key in ["kept", "lost"] {
        let question = format!("read topic \"feed\" {key:?}");
        house.hook.be_busy(&question);
    }
    house.hook.deny(r#"read topic "feed" "lost""#);
    client.send(RENEW);
    client.expect_receipt("renewed").await;
    let error = client.expect(Command::Error).await;
    assert_eq!(error.header("subscription"), Some("lost"));
    house.publish("feed", "kept", "still here");
    client.expect_message("still here").await;
}

/// The questions that a renewal has left may take minutes.
#[tokio::test(start_paused = true)]
async fn a_recheck_waits_for_no_questions_behind_the_receipt() {
    let house = House::with(Options {
        auth: auth::Config {
            recheck: seconds(3_600),
            ..auth::Config::default()
        },
        ..Options::default()
    });
    let mut client = with_too_many_to_ask_about(&house).await;
    client.send(RENEW);
    client.expect_receipt("renewed").await;
    // The renewal has had its answer about this one.
    house.hook.deny(r#"read topic "feed" "0""#);
    let recheck = Order::Recheck(Target::User("alice".into()));
    house.services.control.run(recheck).await.unwrap();
    let began = Instant::now();
    let error = client.expect_error("access_refused").await;
    assert_eq!(error.header("error-code"), Some("permission-withdrawn"));
    let took = began.elapsed();
    assert!(took < seconds(20), "{took:?}");
}
