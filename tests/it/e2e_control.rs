//! Commands to sessions from outside, on two gateways behind one RabbitMQ.

use std::time::Duration;

use serde_json::json;
use stomp_grammar::{Command, Frame};
use testkit::{
    Answer, Call, DEADLINE, GatewayBuilder, Hook, Login, Proxy, Redis, StompClient, Vhost,
    eventually, unique, within,
};
use tokio::time::Instant;

use crate::house::{DESTINATION, House, USER, vhost};

const CONTROL: &str = "stentor.control";

/// Two gateways that hear commands.
async fn two(settings: impl Fn(GatewayBuilder) -> GatewayBuilder) -> (Vhost, [House; 2]) {
    let vhost = vhost().await;
    let houses = [
        House::start(vhost.clone(), &settings).await,
        House::start(vhost.clone(), &settings).await,
    ];
    for house in &houses {
        house.gateway.until_logged("listening for commands").await;
    }
    (vhost, houses)
}

async fn give(vhost: &Vhost, command: serde_json::Value) {
    vhost.publish(CONTROL, "", [command.to_string()]).await;
}

async fn connect(
    house: &House,
    user: &str,
    headers: &[(&'static str, &str)],
) -> (StompClient, Frame) {
    let mut client = house.raw_tcp().await;
    client.send(&login(house, user, headers).frame()).await;
    let answer = client.expect_frame().await;
    (client, answer)
}

fn login(house: &House, user: &str, headers: &[(&'static str, &str)]) -> Login {
    let headers = headers
        .iter()
        .map(|(name, value)| (*name, (*value).to_owned()));
    Login {
        headers: headers.collect(),
        ..Login::new(user, crate::house::PASSCODE, house.vhost.name())
    }
}

fn session(connected: &Frame) -> &str {
    assert_eq!(connected.command, Command::Connected, "{connected:?}");
    connected.header("session").unwrap()
}

/// It is still served.
async fn is_here(client: &mut StompClient) {
    client.publish("/topic/anything", "still here").await;
}

/// Neither node knows who is at the other, and nothing else would show it.
#[tokio::test]
async fn nodes_that_keep_presence_apart_say_so() {
    let words = "another node keeps presence in its memory, as this one does: neither knows who is \
                 at the other, and `[sessions]` counts here alone; give both the same Redis \
                 ([presence] url)";
    let (vhost, houses) = two(|builder| builder.set("presence.url", "memory:")).await;
    let mut told = Vec::new();
    for house in &houses {
        told.push(house.gateway.until_events(words, 1).await[0]["node"].clone());
    }
    assert_ne!(told[0], told[1], "each names the other");
    // One without presence is nobody's affair.
    let alone = House::start(vhost.clone(), |builder| builder).await;
    alone.gateway.until_logged("listening for commands").await;
    give(&vhost, json!({ "command": "forget", "user": USER })).await;
    for house in houses.iter().chain([&alone]) {
        house.gateway.until_logged("command run").await;
        let mut events = house.gateway.events();
        events.retain(|event| event["message"] == words);
        assert!(events.len() <= 1, "{events:#?}");
    }
    let log = alone.gateway.log().text();
    assert!(!log.contains("command ignored"), "{log}");
    assert!(!log.contains("keeps presence in its memory"), "{log}");
}

#[tokio::test]
async fn a_backend_kicks_whoever_it_means_on_any_node() {
    let (vhost, [one, other]) = two(|builder| builder).await;
    let (mut bob, _) = connect(&one, "bob", &[]).await;
    let mut here = one.ws().await;
    let mut there = other.tcp().await;
    let (mut third, connected) = connect(&other, USER, &[]).await;

    let id = session(&connected);
    give(
        &vhost,
        json!({ "command": "kick", "session": id, "reason": "not paid" }),
    )
    .await;
    let error = third.expect_error("kicked").await;
    assert_eq!(error.body, "not paid\n");
    third.expect_closed().await;

    is_here(&mut here).await;
    is_here(&mut there).await;
    give(&vhost, json!({ "command": "kick", "user": USER })).await;
    here.expect_error("kicked").await;
    assert_eq!(here.expect_closed().await.code, Some(1008));
    there.expect_error("kicked").await;
    is_here(&mut bob).await;
    one.gateway.until_events("command run", 2).await;
}

/// By the API of a node that has none of her sessions, and by the exchange of commands.
#[tokio::test]
async fn a_member_is_removed_on_any_node_and_stays_connected() {
    let (vhost, [one, other]) = two(|builder| builder).await;
    const ROOM: &str = "/topic/lobby";
    let mut here = one.ws().await;
    let mut there = other.tcp().await;
    let (mut bob, _) = connect(&other, "bob", &[]).await;
    for client in [&mut here, &mut there, &mut bob] {
        client.subscribe("room", ROOM).await;
        client.subscribe("own", DESTINATION).await;
    }
    let path = format!("POST /api/v1/users/{USER}/unsubscribe");
    let nobody = "POST /api/v1/users/nobody/unsubscribe";
    let asked = |destination: &str| json!({ "destination": destination, "reason": "removed" });
    for (path, destination, hits) in [
        (nobody, ROOM, 0),
        (&*path, "/topic/elsewhere", 0),
        (&*path, ROOM, 2),
        (&*path, ROOM, 0),
    ] {
        let (status, answer) = one.gateway.api(path, Some(&asked(destination))).await;
        assert_eq!((status, &answer["hits"]), (200, &json!(hits)), "{answer}");
        assert_eq!(
            answer["nodes"].as_array().map(Vec::len),
            Some(2),
            "{answer}"
        );
        assert_eq!(answer.get("unreached"), None, "{answer}");
    }
    for client in [&mut here, &mut there] {
        let error = client.expect_error("unsubscribed").await;
        assert_eq!(error.header("subscription"), Some("room"));
        assert_eq!(error.body, "removed\n");
    }
    vhost.publish("amq.topic", "lobby", ["for bob"]).await;
    bob.expect_message("for bob").await;
    // The other subscription brings this, and the room's message would have come before it.
    one.push(["still here"]).await;
    for client in [&mut here, &mut there, &mut bob] {
        client.expect_message("still here").await;
    }
    // Nothing but the hook keeps her out.
    there.subscribe("room", ROOM).await;
    give(
        &vhost,
        json!({ "command": "unsubscribe", "user": USER, "destination": ROOM }),
    )
    .await;
    let error = there.expect_error("unsubscribed").await;
    assert_eq!(error.body, "This subscription was ended by an operator\n");
    is_here(&mut there).await;
    is_here(&mut here).await;
    let audit = one.gateway.until_events("operator's action", 4).await;
    let line = &audit[2];
    assert_eq!(line["action"], "unsubscribe", "{line}");
    assert_eq!(line["on"], format!("user {USER:?} from {ROOM}"), "{line}");
    assert!(!line.to_string().contains("removed"), "{line}");
}

#[tokio::test]
async fn what_cannot_be_understood_is_logged_and_does_nothing() {
    let (vhost, [one, _other]) = two(|builder| builder).await;
    let (mut client, _) = connect(&one, USER, &[]).await;
    let long = "x".repeat(20_000);
    let bodies = [
        "",
        "kick",
        "[]",
        r#"{"command":"explode","user":"alice"}"#,
        r#"{"command":"kick"}"#,
        r#"{"command":"kick","user":"alice","version":2}"#,
        r#"{"command":"kick","user":"alice","expires":1000}"#,
        &long,
    ];
    vhost.publish(CONTROL, "", bodies).await;
    let events = one
        .gateway
        .until_events("command ignored", bodies.len())
        .await;
    assert!(events.iter().all(|event| event["cause"].is_string()));
    is_here(&mut client).await;
    give(&vhost, json!({ "command": "kick", "user": USER })).await;
    client.expect_error("kicked").await;
}

/// A node carries out commands that were published while it was cut off.
#[tokio::test]
async fn a_command_outlives_a_lost_link() {
    let vhost = vhost().await;
    let proxy = Proxy::start(&vhost.node().amqp_address()).await;
    let house = House::start(vhost.clone(), |builder| {
        builder
            .vhost_via(&vhost, &proxy.address())
            .set("broker.reconnect_max", "500ms")
    })
    .await;
    house.gateway.until_logged("listening for commands").await;
    let (mut client, _) = connect(&house, USER, &[]).await;
    proxy.refuse();
    house.gateway.until_readyz(503).await;
    give(&vhost, json!({ "command": "kick", "user": USER })).await;
    proxy.forward();
    client.expect_error("kicked").await;
}

/// Even if the hook allows it: this one allows all.
#[tokio::test]
async fn no_client_can_give_commands_or_hear_them() {
    let (_vhost, [house, _other]) = two(|builder| builder).await;
    let subscribe = |destination: &str| {
        Frame::new(Command::Subscribe)
            .with_header("id", "1")
            .with_header("destination", destination)
    };
    let send = |destination: &str| {
        Frame::new(Command::Send)
            .with_header("destination", destination)
            .with_body(r#"{"command":"kick","user":"alice"}"#)
    };
    let exchange = format!("/exchange/{CONTROL}/k");
    for frame in [
        subscribe(&exchange),
        send(&exchange),
        subscribe("/queue/q").with_header("x-dead-letter-exchange", CONTROL),
        send("/queue/q").with_header("x-dead-letter-exchange", CONTROL),
    ] {
        let mut client = house.tcp().await;
        client.send(&frame).await;
        client.expect_error("access_refused").await;
    }
}

#[tokio::test]
async fn a_user_revoked_at_the_hook_is_out_within_seconds() {
    let house = House::open_with(|builder| builder.set("auth.recheck", "2s")).await;
    let (mut alice, _) = connect(&house, USER, &[]).await;
    alice.subscribe("1", DESTINATION).await;
    let (mut bob, _) = connect(&house, "bob", &[]).await;

    // A hook that is down takes nothing from anybody.
    house
        .hook
        .answer(Call::User, Answer::Status(500, String::new()));
    let asked = house.hook.calls_of(Call::User).len();
    eventually(DEADLINE, "both are asked about", async || {
        house.hook.calls_of(Call::User).len() >= asked + 4
    })
    .await;
    is_here(&mut bob).await;
    house.hook.allow_all();

    house.hook.rule(|asked| {
        (asked.call == Call::Topic && asked.get("username") == USER).then_some(Answer::Deny)
    });
    let begun = Instant::now();
    let error = alice.expect_error("access_refused").await;
    assert!(String::from_utf8_lossy(&error.body).contains("user_alice"));
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );

    is_here(&mut bob).await;
    house.hook.rule(|asked| {
        (asked.call == Call::User && asked.get("username") == "bob").then_some(Answer::Deny)
    });
    bob.expect_error("access_refused").await;
}

#[tokio::test]
async fn on_command_the_hook_is_asked_at_once() {
    let (vhost, [one, other]) = two(|builder| builder.set("auth.recheck", "1h")).await;
    let (mut here, _) = connect(&one, USER, &[]).await;
    let (mut there, _) = connect(&other, USER, &[]).await;
    let recheck = json!({ "command": "recheck", "user": USER });
    give(&vhost, recheck.clone()).await;
    one.gateway.until_events("command run", 1).await;
    is_here(&mut here).await;
    for house in [&one, &other] {
        house.hook.answer(Call::User, Answer::Deny);
    }
    give(&vhost, recheck).await;
    here.expect_error("access_refused").await;
    there.expect_error("access_refused").await;
}

/// Nothing is kept to ask with. The node that is asked has none of her sessions.
#[tokio::test]
async fn a_node_that_does_not_ask_again_says_so() {
    let (_vhost, [one, other]) = two(|builder| builder).await;
    let (_there, connected) = connect(&other, USER, &[]).await;
    let user = format!("POST /api/v1/users/{USER}/recheck");
    let session = format!("POST /api/v1/sessions/{}/recheck", session(&connected));
    for path in [&user, &session] {
        let (status, answer) = one.gateway.api(path, None).await;
        assert_eq!(status, 409, "{path}: {answer}");
        let error = answer.to_string();
        assert!(error.contains("[auth] recheck is off"), "{error}");
    }
}

/// A permission that is remembered for an hour, and forgotten on command.
#[tokio::test]
async fn what_is_remembered_of_a_user_is_forgotten_on_command() {
    let (vhost, [one, _other]) = two(|builder| builder.set("auth.cache_ttl", "1h")).await;
    let (mut client, _) = connect(&one, USER, &[]).await;
    client.subscribe("1", DESTINATION).await;
    one.hook.answer(Call::Topic, Answer::Deny);
    client.subscribe("2", DESTINATION).await;
    give(&vhost, json!({ "command": "forget", "user": USER })).await;
    one.gateway.until_events("command run", 1).await;
    let again = Frame::new(Command::Subscribe)
        .with_header("id", "3")
        .with_header("destination", DESTINATION);
    client.send(&again).await;
    client.expect_error("access_refused").await;
}

fn with_redis(redis: &Redis, builder: GatewayBuilder) -> GatewayBuilder {
    builder.set("presence.url", redis.url())
}

#[tokio::test]
async fn a_device_is_kicked_and_no_other() {
    let redis = Redis::shared().await;
    let user = unique("user");
    let (vhost, [one, other]) = two(|builder| with_redis(&redis, builder)).await;
    let (mut phone, _) =
        connect(&one, &user, &[("device-type", "phone"), ("device-id", "7")]).await;
    let (mut tablet, _) = connect(&other, &user, &[("device-type", "tablet")]).await;
    let (mut none, _) = connect(&other, &user, &[]).await;
    let command = json!({ "command": "kick", "user": user, "device_type": "phone" });
    let mut other_id = command.clone();
    other_id["device_id"] = json!("8");
    give(&vhost, other_id).await;
    one.gateway.until_events("command run", 1).await;
    is_here(&mut phone).await;
    give(&vhost, command).await;
    phone.expect_error("kicked").await;
    is_here(&mut tablet).await;
    is_here(&mut none).await;
}

#[tokio::test]
async fn the_old_session_of_a_device_gives_way_to_the_new_one() {
    let redis = Redis::shared().await;
    let user = unique("user");
    let (_vhost, [one, other]) = two(|builder| {
        with_redis(&redis, builder)
            .set("sessions.repeated_login", "replace")
            .set("sessions.same", "device_type")
    })
    .await;
    let phone = [("device-type", "phone")];
    let (mut first, answer) = connect(&one, &user, &phone).await;
    session(&answer);
    let (mut tablet, answer) = connect(&one, &user, &[("device-type", "tablet")]).await;
    session(&answer);
    let (mut second, answer) = connect(&other, &user, &phone).await;
    session(&answer);
    first.expect_error("session replaced").await;
    let (mut third, answer) = connect(&other, &user, &phone).await;
    session(&answer);
    second.expect_error("session replaced").await;
    is_here(&mut tablet).await;
    is_here(&mut third).await;
}

/// Also of those who come at the same time, on two nodes, one is let in.
#[tokio::test]
async fn one_login_of_a_user_is_let_in() {
    let redis = Redis::shared().await;
    let (_vhost, houses) =
        two(|builder| with_redis(&redis, builder).set("sessions.repeated_login", "reject")).await;
    for _ in 0..10 {
        let user = unique("user");
        let [one, other] = &houses;
        let ((mut a, first), (mut b, second)) =
            tokio::join!(connect(one, &user, &[]), connect(other, &user, &[]));
        let a_wins = first.command == Command::Connected;
        let (winner, loser, error) = match (first.command, second.command) {
            (Command::Connected, Command::Error) => (&mut a, &mut b, second),
            (Command::Error, Command::Connected) => (&mut b, &mut a, first),
            both => panic!("{both:?}"),
        };
        assert_eq!(
            error.header("message"),
            Some("already logged in"),
            "{error:?}"
        );
        within(DEADLINE, "the loser's end", loser.expect_closed()).await;
        is_here(winner).await;
        // When it has left, the other may come.
        let winner = if a_wins { a } else { b };
        winner.disconnect().await;
        eventually(DEADLINE, "the next is let in", async || {
            connect(one, &user, &[]).await.1.command == Command::Connected
        })
        .await;
    }
}

#[tokio::test]
async fn while_redis_is_away_the_configuration_decides() {
    for (unknown, command) in [("allow", Command::Connected), ("reject", Command::Error)] {
        let redis = Redis::own().await;
        let hook = Hook::start().await;
        let builder = crate::house::stentor()
            .hook(&hook)
            .set("broker.url", "embedded:")
            .set("presence.url", redis.url())
            .set("sessions.repeated_login", "reject")
            .set("sessions.unknown", unknown);
        let gateway = builder.ready().await;
        redis.kill();
        let mut client = StompClient::tcp(gateway.stomp_address()).await;
        client
            .send(&Login::new(USER, "passcode", "/").frame())
            .await;
        let answer = client.expect_frame().await;
        assert_eq!(answer.command, command, "{unknown}: {answer:?}");
    }
}
