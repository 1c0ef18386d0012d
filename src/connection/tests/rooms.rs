//! Rooms that subscriptions enter.

use std::time::SystemTime;

use super::*;
use crate::presence::{
    Node, Outbox, Presence,
    memory::MemoryPresence,
    rooms::{Occupant, Room, RoomChange, RoomEvent, RoomRules},
};

/// A house with rooms for so many members (0: any number), and their events.
fn with_rooms(max_members: u64) -> (House, Arc<Outbox<RoomEvent>>) {
    with_limits(max_members, Limits::default())
}

/// The same with these limits.
fn with_limits(max_members: u64, limits: Limits) -> (House, Arc<Outbox<RoomEvent>>) {
    let events = Outbox::new();
    let node = Node {
        name: "node-1".into(),
        since: SystemTime::now(),
        debounce: Duration::ZERO,
        events: None,
        rooms: Some(RoomRules {
            exchanges: ["feed".into(), "missing".into()].into(),
            max_members,
            max_rooms: 9,
            events: Some(Arc::clone(&events)),
        }),
    };
    let presence: Arc<dyn Presence> = Arc::new(MemoryPresence::new(node));
    let house = House::with(Options {
        limits,
        presence: Some(presence),
        ..Options::default()
    });
    (house, events)
}

fn lobby() -> Room {
    Room {
        vhost: "/".into(),
        exchange: "feed".into(),
        key: "lobby".into(),
    }
}

fn members(house: &House) -> u64 {
    let rooms = house.services.rooms.as_ref().unwrap();
    rooms.here(&lobby()).members
}

const ACKS: [&str; 2] = ["auto", "client"];

/// Until then RabbitMQ drops its messages, and nobody may be told that it gets them.
#[tokio::test(start_paused = true)]
async fn a_session_is_in_its_room_from_when_its_key_is_bound() {
    for ack in ACKS {
        let (house, events) = with_rooms(0);
        let mut client = Client::connect(&house).await;
        house.slow.gate.close();
        client.send(format!(
            "SUBSCRIBE\nid:1\ndestination:/exchange/feed/lobby\nack:{ack}\nreceipt:s\n\n\0"
        ));
        settle().await;
        assert_eq!(members(&house), 0, "{ack}");
        house.slow.gate.open();
        client.expect_receipt("s").await;
        assert_eq!(members(&house), 1, "{ack}");
        let told = events.next(9).await;
        let told: Vec<_> = told.into_iter().map(|event| event.change).collect();
        assert_eq!(
            told,
            [RoomChange::Occupied, RoomChange::Join("alice".into())]
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_subscription_that_fails_is_no_join_and_no_leave() {
    for ack in ACKS {
        let (house, events) = with_rooms(0);
        let mut client = Client::connect(&house).await;
        client.send(format!(
            "SUBSCRIBE\nid:1\ndestination:/exchange/missing/lobby\nack:{ack}\n\n\0"
        ));
        client.expect(Command::Error).await;
        settle().await;
        events.close();
        assert!(events.next(9).await.is_empty(), "{ack}");
    }
}

/// A client for which there is no room gets nothing of it, so it has its place before.
#[tokio::test(start_paused = true)]
async fn where_rooms_may_be_full_a_session_enters_first() {
    let (house, _events) = with_rooms(1);
    let mut client = Client::connect(&house).await;
    house.slow.gate.close();
    client.send("SUBSCRIBE\nid:1\ndestination:/exchange/feed/lobby\nreceipt:s\n\n\0");
    settle().await;
    assert_eq!(members(&house), 1);
    let mut second = Client::new(&house);
    second.send(CONNECT.replace("alice", "bob"));
    second.expect(Command::Connected).await;
    second.send("SUBSCRIBE\nid:1\ndestination:/exchange/feed/lobby\n\n\0");
    second.expect_error("room is full").await;
    house.slow.gate.open();
    client.expect_receipt("s").await;
}

const ASK: &str = "SEND\ndestination:/presence/rooms/feed/lobby\nreply-to:/temp-queue/rooms\n\
                   limit:1000\n\n\0";

/// A client that has asked who is in a room of 1,000, and so has its queue for answers.
async fn curious(house: &House) -> Client {
    let rooms = house.services.rooms.as_ref().unwrap();
    let room = Arc::new(lobby());
    for number in 0..1_000 {
        let occupant = Occupant {
            room: Arc::clone(&room),
            user: format!("user-{number}").into(),
            session: 1_000_000 + number,
        };
        rooms.enter(&occupant).await.unwrap();
    }
    let mut client = Client::connect(house).await;
    client.send(ASK);
    let answer = client.expect(Command::Message).await;
    assert!(answer.body.len() > 20_000, "{}", answer.body.len());
    settle().await;
    client
}

/// A question is a small frame, and its answer is not.
#[tokio::test(start_paused = true)]
async fn answers_are_counted_until_the_broker_has_them() {
    let (house, _events) = with_rooms(0);
    let mut client = curious(&house).await;
    let used = || house.services.memory.room().used();
    assert_eq!(used(), 0);
    house.slow.gate.close();
    for _ in 0..10 {
        client.send(ASK);
    }
    settle().await;
    assert!(used() > 200_000, "{}", used());
    house.slow.gate.open();
    for _ in 0..10 {
        client.expect(Command::Message).await;
    }
    settle().await;
    assert_eq!(used(), 0);
}

/// Room for one answer of a connection, and not for two.
fn narrow() -> Limits {
    Limits {
        max_publishing_bytes: 50_000,
        max_user_publishing_bytes: 100_000,
        max_total_publishing_bytes: 500_000,
        ..Limits::default()
    }
}

/// They can be given back only behind it.
#[tokio::test(start_paused = true)]
async fn an_answer_does_not_wait_for_what_its_client_has_sent_behind_the_question() {
    let (house, _events) = with_limits(0, narrow());
    let mut client = curious(&house).await;
    let body = "x".repeat(20_000);
    let sends: String = (0..3)
        .map(|number| format!("SEND\ndestination:/topic/a\nreceipt:{number}\n\n{body}\0"))
        .collect();
    client.send(format!("{ASK}{sends}"));
    let mut commands = Vec::new();
    for _ in 0..4 {
        commands.push(client.next().await.unwrap().command);
    }
    let count = |wanted| {
        commands
            .iter()
            .filter(|command| **command == wanted)
            .count()
    };
    assert_eq!(count(Command::Message), 1, "{commands:?}");
    assert_eq!(count(Command::Receipt), 3, "{commands:?}");
    settle().await;
    assert_eq!(house.services.memory.room().used(), 0);
}

/// But it does for the answers before it.
#[tokio::test(start_paused = true)]
async fn the_answers_of_a_client_are_bounded() {
    let (house, _events) = with_limits(0, narrow());
    let mut client = curious(&house).await;
    house.slow.gate.close();
    for _ in 0..10 {
        client.send(ASK);
    }
    settle().await;
    let used = house.services.memory.room().used();
    assert!((20_000..=50_000).contains(&used), "{used}");
    house.slow.gate.open();
    for _ in 0..10 {
        client.expect(Command::Message).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_short_of_memory_answers_no_questions() {
    let (house, _events) = with_rooms(0);
    let mut client = curious(&house).await;
    house.services.memory.run_short();
    client.send(ASK);
    settle().await;
    client.expect_nothing();
    client.expect_error("server overloaded").await;
}
