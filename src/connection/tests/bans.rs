//! Clients that are banned.

use std::time::SystemTime;

use stomp_session::SubscriptionId;

use super::*;
use crate::{
    broker::{Properties, Publish},
    control::{Ban, Command as Order, Subject, wire},
    hub::{Item, Mailbox, MailboxConfig},
};

pub(super) fn ban(house: &House, key: &str, until: Option<Duration>) -> Order {
    change(house, key, Some(until))
}

fn unban(house: &House, key: &str) -> Order {
    change(house, key, None)
}

fn change(house: &House, key: &str, until: Option<Option<Duration>>) -> Order {
    let now = SystemTime::now();
    let ban = until.map(|until| Ban {
        until: until.map(|until| now + until),
        reason: "spam".into(),
    });
    let subject = Subject::from_key(key).unwrap();
    Order::Ban(house.services.registry.bans().change(now, subject, ban))
}

pub(super) async fn run(house: &House, command: Order) -> u64 {
    house.services.control.run(command).await.unwrap().hits()
}

async fn connect(house: &House, user: &str, device: &str) -> Client {
    let mut client = Client::new(house);
    client.send(login(user, device));
    client.expect(Command::Connected).await;
    client
}

fn login(user: &str, device: &str) -> String {
    let device = format!("login:{user}\ndevice-id:{device}");
    CONNECT.replace("login:alice", &device)
}

#[tokio::test(start_paused = true)]
async fn sessions_end_and_logins_are_refused_before_the_hook_is_asked() {
    for (key, is_told) in [
        ("user:alice", false),
        ("device:phone", true),
        ("address:127.0.0.0/8", true),
    ] {
        let house = House::new();
        let mut alice = connect(&house, "alice", "phone").await;
        let mut bob = connect(&house, "bob", "tablet").await;
        let everybody = u64::from(key.starts_with("address"));
        assert_eq!(run(&house, ban(&house, key, None)).await, 1 + everybody);
        let error = alice.expect_error("banned").await;
        assert_eq!(error.body, "You are banned from this server: spam\n");
        assert_eq!(error.header("reconnect"), Some("no"));
        assert_eq!(error.header("error-code"), Some("banned"));
        assert_eq!(alice.wire.closed_with(), Some(CloseCode::Policy));
        if everybody == 0 {
            bob.publish("/topic/a", "still here").await;
        }

        house.hook.asked();
        let mut client = Client::new(&house);
        client.send(login("alice", "phone"));
        let error = client.expect_error("banned").await;
        // A client that only claims to be alice does not learn why she is banned.
        let body = String::from_utf8_lossy(&error.body);
        assert_eq!(body.contains("spam"), is_told, "{key}: {body}");
        assert_eq!(house.hook.asked(), Vec::<String>::new());

        assert_eq!(run(&house, unban(&house, key)).await, 1);
        assert_eq!(run(&house, unban(&house, key)).await, 0);
        let _ = connect(&house, "alice", "phone").await;
    }
}

/// The hook is asked who it is, while she is banned.
#[tokio::test(start_paused = true)]
async fn a_ban_that_comes_during_the_login_counts() {
    let house = House::new();
    house.hook.gate.close();
    let mut alice = Client::new(&house);
    alice.send(login("alice", "phone"));
    settle().await;
    assert_eq!(run(&house, ban(&house, "user:alice", None)).await, 0);
    house.hook.gate.open();
    alice.expect_error("banned").await;
}

#[tokio::test(start_paused = true)]
async fn a_ban_that_is_over_ends_nobody() {
    let house = House::new();
    let mut alice = connect(&house, "alice", "phone").await;
    let over = ban(&house, "user:alice", Some(Duration::ZERO));
    assert_eq!(run(&house, over).await, 0);
    alice.publish("/topic/a", "still here").await;
    let _ = connect(&house, "alice", "phone").await;
}

/// A backend needs few words, and no clock but that of its ban's end.
#[tokio::test(start_paused = true)]
async fn backends_ban_by_the_exchange() {
    let house = House::new();
    let mut alice = connect(&house, "alice", "phone").await;
    settle().await;
    house.publish(CONTROL, "", r#"{"command":"ban","user":"alice"}"#);
    let error = alice.expect_error("banned").await;
    assert_eq!(error.body, "You are banned from this server\n");
    house.publish(CONTROL, "", r#"{"command":"unban","user":"alice"}"#);
    settle().await;
    let _ = connect(&house, "alice", "phone").await;
}

/// It need not say when it was set; its message may.
#[tokio::test(start_paused = true)]
async fn a_backend_s_ban_is_as_old_as_its_message() {
    let house = House::new();
    settle().await;
    let sent = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let host = Arc::clone(house.services.vhosts.vhost("/").unwrap().host());
    let publishing = host.publish(Publish {
        exchange: CONTROL.into(),
        routing_key: Box::default(),
        properties: Properties {
            timestamp: Some(1_700_000_000),
            ..Properties::default()
        },
        body: Bytes::from_static(br#"{"command":"ban","user":"alice"}"#),
        mandatory: false,
        lane: 0,
        slow: None,
    });
    publishing.await.unwrap().await.unwrap();
    settle().await;
    let page = house.services.registry.bans().list(sent, None, 10);
    let [(_, since, _)] = &page.bans[..] else {
        panic!("{page:?}");
    };
    // Reckoned from now, and back.
    assert!(since.duration_since(sent).unwrap() < Duration::from_secs(1));
}

/// A node that begins to listen asks for them, and is told.
#[tokio::test(start_paused = true)]
async fn nodes_tell_each_other_their_bans() {
    let house = House::new();
    settle().await;
    run(&house, ban(&house, "user:alice", None)).await;
    run(&house, ban(&house, "address:192.0.2.0/24", None)).await;
    let mailbox = Mailbox::new(MailboxConfig::default());
    let vhost = house.services.vhosts.vhost("/").unwrap();
    let listening = vhost.subscribe(CONTROL, "", &mailbox, SubscriptionId(0));
    let _listening = listening.await.unwrap().unwrap();
    let wanted = wire::Note::BansWanted { node: "new".into() };
    house.publish(CONTROL, "", &text(&wanted));
    settle().await;
    let mut changes = Vec::new();
    while let Poll::Ready(item) = poll_fn(|task| Poll::Ready(mailbox.poll_take(task))).await {
        let Item::Parcel(parcel) = item else { continue };
        if let Ok(wire::Note::Bans { changes: some, .. }) = wire::decode(&parcel.message.body) {
            changes.extend(some);
        }
    }
    assert_eq!(
        changes,
        house.services.registry.bans().changes(SystemTime::now())
    );

    // What another tells is taken, and ends sessions.
    let mut bob = connect(&house, "bob", "tablet").await;
    let Order::Ban(news) = ban(&house, "user:bob", None) else {
        panic!("a ban")
    };
    let told = wire::Note::Bans {
        node: "node-2".into(),
        changes: vec![news],
        faults: Vec::new(),
    };
    house.publish(CONTROL, "", &text(&told));
    bob.expect_error("banned").await;
}

fn text(note: &wire::Note) -> String {
    String::from_utf8(wire::encode(note)).unwrap()
}
