//! Rooms, as clients and the operator's side see them: on one node, with the embedded broker.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Instant,
};

use futures_util::future::join_all;
use serde_json::{Value, json};
use stomp_grammar::{Command, Frame};
use testkit::{
    API_TOKEN, Answer, Call, DEADLINE, Gateway, GatewayBuilder, Hook, Login, Redis, StompClient,
    eventually,
};
use tokio::task::JoinHandle;

use crate::house::{House, Ran, stentor};

const LOBBY: &str = "/exchange/room/lobby";

fn with_rooms(hook: &Hook) -> GatewayBuilder {
    stentor()
        .hook(hook)
        .set("broker.url", "embedded:")
        .set("broker.exchanges", "room=topic,feed=topic")
        .set("presence.url", "memory:")
        .set("presence.destinations", "room")
        .set("presence.debounce", "100ms")
        .set("shutdown.drain", "100ms")
}

async fn tcp(gateway: &Gateway, user: &str) -> StompClient {
    let mut client = StompClient::tcp(gateway.stomp_address()).await;
    let connected = client.connect(&Login::new(user, "passcode", "/")).await;
    assert_eq!(connected.command, Command::Connected);
    client
}

async fn lobby(gateway: &Gateway) -> Value {
    let (status, body) = gateway.api("GET /api/v1/rooms/room/lobby", None).await;
    assert_eq!(status, 200, "{body}");
    body
}

fn ask(room: &str) -> Frame {
    Frame::new(Command::Send)
        .with_header("destination", &format!("/presence/rooms/{room}"))
        .with_header("reply-to", "/temp-queue/rooms")
        .with_header("correlation-id", "7")
}

#[tokio::test]
async fn who_is_in_a_room_is_told_to_operators_and_members() {
    let hook = Hook::start().await;
    let gateway = with_rooms(&hook).ready().await;
    let mut alice = tcp(&gateway, "alice").await;
    alice.subscribe("1", LOBBY).await;
    alice.subscribe("2", LOBBY).await;
    // In no room: a pattern, and an exchange that has none.
    alice.subscribe("3", "/exchange/room/#").await;
    alice.subscribe("4", "/exchange/feed/lobby").await;
    let mut desk = tcp(&gateway, "alice").await;
    // With a queue of its own.
    let durable = [("durable", "true"), ("auto-delete", "false")];
    desk.subscribe_with("d", LOBBY, &durable).await;
    let mut bob = tcp(&gateway, "bob").await;
    bob.subscribe("1", LOBBY).await;

    let list = json!([{ "user": "alice", "sessions": 2 }, { "user": "bob", "sessions": 1 }]);
    let expected = json!({
        "vhost": "/", "exchange": "room", "key": "lobby", "members": 2, "sessions": 3, "list": list,
    });
    assert_eq!(lobby(&gateway).await, expected);
    let page = "GET /api/v1/rooms/room/lobby?limit=1";
    let (_, first) = gateway.api(page, None).await;
    assert_eq!(first["list"], json!([list[0]]));
    let next = format!("{page}&cursor={}", first["next"].as_str().unwrap());
    let (_, second) = gateway.api(&next, None).await;
    assert_eq!(
        (&second["list"], second.get("next")),
        (&json!([list[1]]), None)
    );
    let asked = json!({ "exchange": "room", "keys": ["kitchen", "lobby"] });
    let (_, counts) = gateway.api("POST /api/v1/rooms", Some(&asked)).await;
    let expected = json!([
        { "key": "kitchen", "members": 0, "sessions": 0 },
        { "key": "lobby", "members": 2, "sessions": 3 },
    ]);
    assert_eq!(counts["rooms"], expected);
    for (request, status) in [
        ("GET /api/v1/rooms/feed/lobby", 404),
        ("GET /api/v1/rooms/room/%23", 400),
        ("GET /api/v1/rooms/room/lobby?limit=1001", 400),
        ("GET /api/v1/rooms/room/lobby?cursor=!", 400),
    ] {
        assert_eq!(gateway.api(request, None).await.0, status, "{request}");
    }
    let shown = ctl(&gateway, &["room", "room", "lobby"]);
    assert!(shown.contains("alice") && shown.contains("bob"), "{shown}");
    let shown = ctl(&gateway, &["rooms", "room", "lobby", "kitchen"]);
    assert!(
        shown.contains("lobby") && shown.contains("kitchen"),
        "{shown}"
    );

    bob.send(&ask("room/lobby")).await;
    let answer = bob.expect_frame().await;
    assert_eq!(answer.command, Command::Message, "{answer:?}");
    assert_eq!(answer.header("subscription"), Some("/temp-queue/rooms"));
    assert_eq!(answer.header("correlation-id"), Some("7"));
    let answer: Value = serde_json::from_slice(&answer.body).unwrap();
    let expected = json!({
        "exchange": "room", "key": "lobby", "members": 2, "sessions": 3, "list": list,
    });
    assert_eq!(answer, expected);
    bob.send(&ask("room/lobby").with_header("limit", "0")).await;
    let answer = bob.expect_frame().await;
    let answer: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(
        (&answer["members"], &answer["list"]),
        (&json!(2), &json!([]))
    );

    alice.unsubscribe("1").await;
    assert_eq!(lobby(&gateway).await["sessions"], 3);
    alice.unsubscribe("2").await;
    assert_eq!(lobby(&gateway).await["sessions"], 2);
    desk.disconnect().await;
    eventually(DEADLINE, "alice has left", async || {
        lobby(&gateway).await["members"] == 1
    })
    .await;
}

#[tokio::test]
async fn a_question_needs_the_right_to_read_the_room() {
    let hook = Hook::start().await;
    hook.rule(|asked| {
        let is_secret = asked.call == Call::Topic && asked.get("routing_key") == "secret";
        is_secret.then_some(Answer::Deny)
    });
    let gateway = with_rooms(&hook).ready().await;
    for (question, error) in [
        (ask("room/secret"), "access_refused"),
        (ask("feed/lobby"), "Invalid destination"),
        (ask("room/%23"), "Invalid destination"),
        (
            ask("room/lobby").with_header("cursor", "!"),
            "Invalid header",
        ),
        (
            ask("room/lobby").with_header("limit", "-1"),
            "Invalid header",
        ),
    ] {
        let mut client = tcp(&gateway, "alice").await;
        client.send(&question).await;
        let found = client.expect_frame().await;
        println!("{found:?}");
        assert_eq!(found.command, Command::Error);
        assert_eq!(found.header("message"), Some(error), "{found:?}");
    }
    let mut client = tcp(&gateway, "alice").await;
    let without = Frame::new(Command::Send).with_header("destination", "/presence/rooms/room/a");
    client.send(&without).await;
    client.expect_error("Missing header").await;
    // The answer is the same where no exchange has rooms.
    let gateway = stentor()
        .hook(&hook)
        .set("broker.url", "embedded:")
        .set("broker.exchanges", "room=topic")
        .set("presence.url", "memory:")
        .ready()
        .await;
    let mut client = tcp(&gateway, "alice").await;
    client.send(&ask("room/lobby")).await;
    let error = client.expect_error("Invalid destination").await;
    let told = String::from_utf8_lossy(&error.body).into_owned();
    assert!(told.contains("[presence] destinations"), "{told}");
}

#[tokio::test]
async fn a_full_room_has_an_error_and_a_place_when_one_leaves() {
    let hook = Hook::start().await;
    let gateway = with_rooms(&hook)
        .set("presence.max_members", "2")
        .set("auth.soft_deny", "true")
        .ready()
        .await;
    let mut members = Vec::new();
    for user in ["alice", "bob", "bob"] {
        let mut client = tcp(&gateway, user).await;
        client.subscribe("1", LOBBY).await;
        members.push(client);
    }
    let mut carol = tcp(&gateway, "carol").await;
    let subscribe = Frame::new(Command::Subscribe)
        .with_header("id", "1")
        .with_header("destination", LOBBY);
    carol.send(&subscribe).await;
    let error = carol.expect_error("room is full").await;
    assert_eq!(error.header("error-code"), Some("room-full"));
    // With soft_deny she stays, and is in no room.
    carol.subscribe("2", "/exchange/room/kitchen").await;
    assert_eq!(lobby(&gateway).await["members"], 2);
    members.remove(0).disconnect().await;
    eventually(DEADLINE, "alice has left", async || {
        lobby(&gateway).await["members"] == 1
    })
    .await;
    carol.subscribe("1", LOBBY).await;
    assert_eq!(lobby(&gateway).await["members"], 2);
}

#[tokio::test]
async fn publishing_says_what_became_of_each_key() {
    let hook = Hook::start().await;
    let gateway = with_rooms(&hook).ready().await;
    let mut alice = tcp(&gateway, "alice").await;
    alice.subscribe("1", LOBBY).await;
    alice.subscribe("2", "/exchange/feed/news").await;
    let mut away = tcp(&gateway, "bob").await;
    let durable = [("durable", "true"), ("auto-delete", "false")];
    away.subscribe_with("d", "/exchange/room/stored", &durable)
        .await;
    away.disconnect().await;
    let stored = async || {
        let (_, room) = gateway.api("GET /api/v1/rooms/room/stored", None).await;
        room["sessions"] == 0
    };
    eventually(DEADLINE, "bob is away", stored).await;

    let publish = async |exchange: &str, keys: Value| {
        let message = json!({ "exchange": exchange, "keys": keys, "body": "x", "report": true });
        let (status, answer) = gateway.api("POST /api/v1/publish", Some(&message)).await;
        assert_eq!(status, 200, "{answer}");
        answer
    };
    let answer = publish("room", json!(["lobby", "stored", "empty"])).await;
    let expected = json!([
        { "key": "lobby", "became": "subscribed", "sessions": 1 },
        { "key": "stored", "became": "queued", "sessions": 0 },
        { "key": "empty", "became": "nobody", "sessions": 0 },
    ]);
    assert_eq!(
        (&answer["report"], &answer["published"]),
        (&expected, &json!(3))
    );
    let answer = publish("feed", json!(["news", "empty"])).await;
    let expected = json!([
        { "key": "news", "became": "queued" },
        { "key": "empty", "became": "nobody" },
    ]);
    assert_eq!(answer["report"], expected);
    let demanded = json!({
        "exchange": "room", "keys": ["lobby", "empty"], "report": true, "mandatory": true,
    });
    let (status, answer) = gateway.api("POST /api/v1/publish", Some(&demanded)).await;
    assert_eq!(
        (status, &answer["failed"][0]["key"]),
        (422, &json!("empty"))
    );
    assert_eq!(answer["report"][0]["became"], "subscribed");
}

/// A right that is withdrawn counts from the next SEND on, once what was remembered is forgotten.
#[tokio::test]
async fn a_user_is_muted_at_once() {
    let hook = Hook::start().await;
    let gateway = with_rooms(&hook)
        .set("auth.cache_ttl", "1h")
        .set("auth.soft_deny", "true")
        .ready()
        .await;
    let mut alice = tcp(&gateway, "alice").await;
    alice.subscribe("1", LOBBY).await;
    alice.publish(LOBBY, "hello").await;
    hook.rule(|asked| {
        let speaks = asked.call == Call::Topic && asked.get("permission") == "write";
        speaks.then_some(Answer::Deny)
    });
    // It is remembered.
    alice.publish(LOBBY, "still").await;
    let (status, forgotten) = gateway.api("POST /api/v1/users/alice/forget", None).await;
    assert_eq!(status, 200, "{forgotten}");
    let send = Frame::new(Command::Send)
        .with_header("destination", LOBBY)
        .with_body("muted");
    alice.send(&send).await;
    alice.expect_error("access_refused").await;
    // She hears on.
    hook.allow_all();
    let mut bob = tcp(&gateway, "bob").await;
    bob.publish(LOBBY, "to alice").await;
    loop {
        if alice.expect_frame().await.body == "to alice" {
            break;
        }
    }
    assert_eq!(lobby(&gateway).await["members"], 1);
}

fn ctl(gateway: &Gateway, arguments: &[&str]) -> String {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_stentor"));
    command.arg("ctl").args(arguments).env_clear();
    command.env("STENTOR_URL", gateway.admin_url());
    command.env("STENTOR_TOKEN", API_TOKEN);
    let ran = Ran::from(command.output().unwrap());
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{arguments:?}");
    ran.out
}

/// Figures of `report`, with RabbitMQ and Redis:
/// `cargo test --release --test it -- --ignored --nocapture what_became_of_many_keys`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "prints figures"]
async fn what_became_of_many_keys() {
    const CALLERS: usize = 4;
    /// Keys with a subscription, by so many clients.
    const SUBSCRIBED: (usize, usize) = (10_000, 100);
    let redis = Redis::shared().await;
    let house = House::open_with(|builder| {
        builder
            .set("broker.exchanges", "amq.direct=direct")
            .set("presence.url", redis.url())
            .set("presence.destinations", "amq.direct")
    })
    .await;
    let gateway = &house.gateway;
    let (keys, clients) = SUBSCRIBED;
    let subscribing = (0..clients).map(async |client| {
        let mut stomp = house.tcp().await;
        for key in (client..keys).step_by(clients) {
            let destination = format!("/exchange/amq.direct/key-{key}");
            stomp.subscribe(&key.to_string(), &destination).await;
        }
        stomp
    });
    // They read on.
    let listening = join_all(subscribing).await.into_iter().map(|mut stomp| {
        tokio::spawn(async move {
            loop {
                stomp.expect_frame().await;
            }
        })
    });
    let listening: Vec<_> = listening.collect();
    println!("{keys} keys with a subscription, {CALLERS} callers");
    // So many of a hundred keys have nobody.
    for nobody in [0, 5, 100] {
        // RabbitMQ is asked about each key that nobody is subscribed to.
        let total: usize = if nobody == 100 { 20_000 } else { 200_000 };
        if nobody == 100 {
            listening.iter().for_each(JoinHandle::abort);
        }
        for batch in [1_000, 10_000] {
            let next = AtomicUsize::new(0);
            let caller = async || {
                let mut times = Vec::new();
                loop {
                    let first = next.fetch_add(batch, Ordering::Relaxed);
                    if first >= total {
                        return times;
                    }
                    let key = |number: usize| match number % 100 < nobody {
                        true => format!("nobody-{number}"),
                        // Each client has its share.
                        false => format!("key-{}", (number + number / 100) % keys),
                    };
                    let keys: Vec<_> = (first..first + batch).map(key).collect();
                    let message = json!({
                        "exchange": "amq.direct", "keys": keys, "body": "hello", "report": true,
                    });
                    let since = Instant::now();
                    let (status, answer) =
                        gateway.api("POST /api/v1/publish", Some(&message)).await;
                    times.push(since.elapsed());
                    assert_eq!(status, 200, "{answer}");
                    let report = answer["report"].as_array().unwrap();
                    let reached = report.iter().filter(|one| one["became"] == "subscribed");
                    assert_eq!(reached.count(), batch * (100 - nobody) / 100);
                }
            };
            let since = Instant::now();
            let times = join_all((0..CALLERS).map(|_| caller())).await;
            let taken = since.elapsed();
            let mut times = times.concat();
            times.sort_unstable();
            println!(
                "{batch} keys a call, {nobody} % nobody's: {:.0} keys/s, a call {:?} (longest: {:?})",
                total as f64 / taken.as_secs_f64(),
                times[times.len() / 2],
                times[times.len() - 1],
            );
        }
    }
}
