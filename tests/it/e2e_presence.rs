//! Presence, as the operator's side shows it.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use lapin::{
    Channel, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueDeclareOptions},
    types::FieldTable,
};
use serde_json::{Value, json};
use stentor::{app, config::Config, http, presence::Url};
use stomp_grammar::{Command, Frame};
use testkit::{
    Answer, Call, DEADLINE, Gateway, GatewayBuilder, Hook, Login, Redis, StompClient, eventually,
    within,
};

use crate::house::{stentor, vhost};

/// With the embedded broker: RabbitMQ has no part in this.
async fn gateway(hook: &Hook, presence: &str) -> Gateway {
    with_presence(hook, presence)
        .set("broker.url", "embedded:")
        .ready()
        .await
}

fn with_presence(hook: &Hook, presence: &str) -> GatewayBuilder {
    stentor()
        .hook(hook)
        .set("auth.groups_path", hook.url(Call::Groups))
        .set("presence.url", presence)
        .set("presence.debounce", "1s")
        .set("shutdown.drain", "100ms")
}

async fn tcp(gateway: &Gateway, user: &str) -> StompClient {
    let mut client = StompClient::tcp(gateway.stomp_address()).await;
    let connected = client.connect(&Login::new(user, "passcode", "/")).await;
    assert_eq!(connected.command, Command::Connected);
    client
}

async fn ask(gateway: &Gateway, path: &str) -> (u16, Value) {
    gateway.api(&format!("GET {path}"), None).await
}

async fn until_sessions(gateway: &Gateway, user: &str, count: usize) -> Value {
    let path = format!("/api/v1/users/{user}");
    eventually(DEADLINE, format!("{user} has {count}"), async || {
        let (status, body) = ask(gateway, &path).await;
        let sessions = body["sessions"].as_array().filter(|_| status == 200)?;
        assert_eq!(body["status"] != "offline", !sessions.is_empty());
        (sessions.len() == count).then_some(body)
    })
    .await
}

async fn until_group(gateway: &Gateway, group: &str, online: &[&str]) {
    let path = format!("/api/v1/groups/{group}");
    eventually(DEADLINE, format!("{online:?} in {group}"), async || {
        let (status, body) = ask(gateway, &path).await;
        let members = body["online"].as_array()?.iter();
        let users: Vec<_> = members.map(|member| member["user"].as_str()).collect();
        let expected: Vec<_> = online.iter().map(|user| Some(*user)).collect();
        (status == 200 && users == expected).then_some(())
    })
    .await;
}

#[tokio::test]
async fn clients_are_online_from_login_to_end() {
    let redis = Redis::own().await;
    for presence in ["memory:", &redis.url()] {
        let hook = Hook::start().await;
        hook.rule(|asked| {
            let groups = json!(["everybody", format!("of {}", asked.get("username"))]);
            (asked.call == Call::Groups).then(|| Answer::Status(200, groups.to_string()))
        });
        let gateway = gateway(&hook, presence).await;
        eventually(DEADLINE, "presence is ok", async || {
            ask(&gateway, "/readyz").await.1["presence"] == "ok"
        })
        .await;

        let alice = tcp(&gateway, "alice").await;
        let mut bob = StompClient::ws(&gateway.ws_url()).await;
        bob.connect(&Login::new("bob/é", "passcode", "/")).await;

        let body = until_sessions(&gateway, "alice", 1).await;
        assert_eq!(body["user"], "alice");
        let session = &body["sessions"][0];
        assert_eq!(session["transport"], "tcp");
        let remote = session["remote"].as_str().unwrap();
        assert!(remote.starts_with("127.0.0.1:"), "{session}");
        let body = until_sessions(&gateway, "bob%2F%C3%A9", 1).await;
        assert_eq!(body["user"], "bob/é");
        assert_eq!(body["sessions"][0]["transport"], "websocket");
        until_group(&gateway, "everybody", &["alice", "bob/é"]).await;

        // One says good-bye, the other is gone.
        alice.disconnect().await;
        until_sessions(&gateway, "alice", 0).await;
        until_group(&gateway, "everybody", &["bob/é"]).await;
        drop(bob);
        until_group(&gateway, "everybody", &[]).await;

        // A user who is online at the end is offline after it.
        let _carol = tcp(&gateway, "carol").await;
        until_sessions(&gateway, "carol", 1).await;
        assert!(gateway.terminate(DEADLINE).await.success());
    }
    let leases = ["EVAL", "return #redis.call('keys', 'stentor:node:*')", "0"];
    eventually(DEADLINE, "no node lives", async || {
        redis.command(&leases).await == ":0"
    })
    .await;
}

#[tokio::test]
async fn a_hook_that_knows_no_groups_refuses_nobody() {
    let hook = Hook::start().await;
    hook.answer(Call::Groups, Answer::Status(500, "secret".to_owned()));
    let gateway = gateway(&hook, "memory:").await;
    let _alice = tcp(&gateway, "alice").await;
    until_sessions(&gateway, "alice", 1).await;
    gateway.until_logged("in no group").await;
    let log = gateway.log().text();
    assert!(!log.contains("secret"), "{log}");
}

#[tokio::test]
async fn without_redis_push_goes_on() {
    let redis = Redis::own().await;
    redis.kill();
    let hook = Hook::start().await;
    let gateway = gateway(&hook, &redis.url()).await;
    let (status, body) = ask(&gateway, "/readyz").await;
    let presence = body["presence"].as_str().unwrap();
    assert!(
        status == 200 && presence.starts_with("unreachable: "),
        "{body}"
    );

    let _alice = tcp(&gateway, "alice").await;
    let (status, body) = ask(&gateway, "/api/v1/users/alice").await;
    assert_eq!(status, 503, "{body}");

    redis.start().await;
    until_sessions(&gateway, "alice", 1).await;
    assert_eq!(ask(&gateway, "/readyz").await.1["presence"], "ok");
}

#[tokio::test]
async fn presence_is_off_unless_asked_for() {
    let hook = Hook::start().await;
    let gateway = gateway(&hook, "off").await;
    let _alice = tcp(&gateway, "alice").await;
    assert_eq!(ask(&gateway, "/api/v1/users/alice").await.0, 409);
    assert_eq!(ask(&gateway, "/readyz").await.1["presence"], "off");
    assert!(hook.calls_of(Call::Groups).is_empty());
}

/// A runtime that ends drops the tasks of its connections wherever they are.
#[tokio::test]
async fn a_session_that_is_dropped_leaves() {
    let hook = Hook::start().await;
    let mut config = Config::default();
    config.listen.admin = "127.0.0.1:0".parse().unwrap();
    config.listen.http = Some(config.listen.admin);
    config.listen.stomp = Some(config.listen.admin);
    config.broker.url = Some("embedded:".parse().unwrap());
    config.auth.user_path = Some(hook.url(Call::User));
    config.auth.vhost_path = Some(hook.url(Call::Vhost));
    config.presence.url = Url::Memory;

    let runtime = tokio::runtime::Runtime::new().unwrap();
    let starting = runtime.spawn(async {
        let mut presence = None;
        let gateway = app::Gateway::start(config, |services, _| {
            presence.clone_from(&services.presence);
            http::sign_post("/ws")
        })
        .await
        .unwrap();
        (
            gateway.addresses().stomp.unwrap(),
            gateway,
            presence.unwrap(),
        )
    });
    let (address, gateway, presence) = starting.await.unwrap();
    let mut alice = StompClient::tcp(&address.to_string()).await;
    alice.connect(&Login::new("alice", "passcode", "/")).await;
    until_present(&presence, 1).await;

    runtime.shutdown_background();

    until_present(&presence, 0).await;
    drop(gateway);
}

async fn until_present(presence: &Arc<dyn stentor::presence::Presence>, count: usize) {
    eventually(DEADLINE, format!("{count} sessions"), async || {
        presence.user("alice").await.unwrap().sessions.len() == count
    })
    .await;
}

/// A client may listen only to the events of bob.
fn only_bob(hook: &Hook) {
    hook.rule(|asked| {
        let is_other = asked.call == Call::Topic && asked.get("routing_key") != "user.bob";
        is_other.then(|| Answer::Status(200, "deny".to_owned()))
    });
}

/// The next event: `join offline>online`.
async fn heard(client: &mut StompClient) -> String {
    let message = client.expect_frame().await;
    assert_eq!(message.header("content-type"), Some("application/json"));
    told(&message.body)
}

fn told(body: &[u8]) -> String {
    let body: Value = serde_json::from_slice(body).unwrap();
    let word = |name: &str| body[name].as_str().unwrap();
    assert_eq!(word("user"), "bob");
    format!("{} {}>{}", word("type"), word("previous"), word("status"))
}

fn status(status: &str) -> Frame {
    Frame::new(Command::Send)
        .with_header("destination", "/presence")
        .with_header("status", status)
}

#[tokio::test]
async fn a_client_says_how_available_it_is_and_others_hear_of_it() {
    let redis = Redis::shared().await;
    for presence in ["memory:", &redis.url()] {
        let hook = Hook::start().await;
        only_bob(&hook);
        let gateway = gateway(&hook, presence).await;
        let mut alice = tcp(&gateway, "alice").await;
        alice.subscribe("s", "/exchange/presence/user.bob").await;

        let mut bob = StompClient::tcp(gateway.stomp_address()).await;
        let mut login = Login::new("bob", "passcode", "/");
        login.headers = vec![
            ("device-type", "phone".to_owned()),
            ("device-id", "7".to_owned()),
            ("presence-status", "away".to_owned()),
        ];
        bob.connect(&login).await;
        assert_eq!(heard(&mut alice).await, "join offline>away");
        let body = until_sessions(&gateway, "bob", 1).await;
        assert_eq!(body["status"], "away");
        let session = &body["sessions"][0];
        let device = (&session["device_type"], &session["device_id"]);
        assert_eq!(device, (&json!("phone"), &json!("7")));

        for (said, hears) in [
            ("busy", "status away>busy"),
            ("invisible", "leave busy>offline"),
            ("online", "join offline>online"),
        ] {
            bob.request(status(said)).await;
            assert_eq!(heard(&mut alice).await, hears);
        }
        drop(bob);
        assert_eq!(heard(&mut alice).await, "leave online>offline");
    }
}

/// A status that a client sets before presence knows its groups is not lost.
#[tokio::test]
async fn a_status_may_come_before_the_groups() {
    let hook = Hook::start().await;
    let answer = Answer::Status(200, "[]".to_owned());
    let late = Answer::After(Duration::from_millis(500), Box::new(answer));
    hook.answer(Call::Groups, late);
    let gateway = gateway(&hook, "memory:").await;
    let mut alice = tcp(&gateway, "alice").await;
    alice.request(status("busy")).await;
    let body = until_sessions(&gateway, "alice", 1).await;
    assert_eq!(body["status"], "busy");
}

#[tokio::test]
async fn the_hook_decides_about_watchers_and_nobody_forges_events() {
    let hook = Hook::start().await;
    only_bob(&hook);
    let gateway = gateway(&hook, "memory:").await;
    for (frame, refused) in [
        (
            "SUBSCRIBE\nid:s\ndestination:/exchange/presence/user.carol\n\n\0",
            "topic 'user.carol' in exchange 'presence'",
        ),
        (
            "SUBSCRIBE\nid:s\ndestination:/exchange/presence/#\n\n\0",
            "topic '#' in exchange 'presence'",
        ),
        // The hook lets everybody write.
        (
            "SEND\ndestination:/exchange/presence/user.bob\n\n{}\0",
            "exchange 'presence'",
        ),
    ] {
        let mut mallory = tcp(&gateway, "mallory").await;
        mallory.raw(frame).await;
        let error = mallory.expect_error("access_refused").await;
        let body = String::from_utf8_lossy(&error.body).into_owned();
        assert!(body.contains(refused), "{body}");
    }
}

#[tokio::test]
async fn what_is_no_status_is_an_error_that_names_those_there_are() {
    let hook = Hook::start().await;
    let gateway = gateway(&hook, "memory:").await;
    let mut client = tcp(&gateway, "alice").await;
    client
        .send(&status("gone").with_header("receipt", "1"))
        .await;
    let error = client.expect_error("Invalid header").await;
    assert_eq!(error.header("receipt-id"), Some("1"));
    let body = String::from_utf8_lossy(&error.body).into_owned();
    assert!(body.contains("online, away, busy or invisible"), "{body}");

    let mut client = StompClient::tcp(gateway.stomp_address()).await;
    let mut login = Login::new("alice", "passcode", "/");
    login.headers = vec![("presence-status", "gone".to_owned())];
    client.send(&login.frame()).await;
    let error = client.expect_error("Invalid header").await;
    assert!(String::from_utf8_lossy(&error.body).contains("presence-status"));
}

/// The gateway makes the exchange, and a backend hears by AMQP.
#[tokio::test]
async fn backends_hear_of_it_by_rabbitmq() {
    let (hook, vhost) = (Hook::start().await, vhost().await);
    let gateway = with_presence(&hook, "memory:").vhost(&vhost).ready().await;
    let carol = Login::new("carol", "passcode", vhost.name());
    let mut client = StompClient::tcp(gateway.stomp_address()).await;
    client.connect(&carol).await;

    let channel = vhost.channel().await;
    // It is there once the first event was published.
    let none = FieldTable::default;
    let declare = async |channel: &Channel, passive| {
        let options = ExchangeDeclareOptions {
            durable: true,
            passive,
            ..Default::default()
        };
        let topic = ExchangeKind::Topic;
        let declaring = channel.exchange_declare("presence".into(), topic, options, none());
        declaring.await
    };
    eventually(DEADLINE, "the exchange is there", async || {
        declare(&vhost.channel().await, true).await.ok()
    })
    .await;
    // With other properties it would be refused.
    declare(&channel, false).await.unwrap();
    let queue = channel
        .queue_declare("".into(), exclusive(), none())
        .await
        .unwrap()
        .name()
        .clone();
    let key = "user.bob".into();
    let binding = channel.queue_bind(
        queue.clone(),
        "presence".into(),
        key,
        Default::default(),
        none(),
    );
    binding.await.unwrap();
    let mut events = channel
        .basic_consume(queue, "".into(), Default::default(), none())
        .await
        .unwrap();

    let bob = Login::new("bob", "passcode", vhost.name());
    let mut client = StompClient::tcp(gateway.stomp_address()).await;
    client.connect(&bob).await;
    let event = within(DEADLINE, "an event", events.next()).await;
    assert_eq!(told(&event.unwrap().unwrap().data), "join offline>online");
    client.disconnect().await;
    let event = within(DEADLINE, "an event", events.next()).await;
    assert_eq!(told(&event.unwrap().unwrap().data), "leave online>offline");
}

fn exclusive() -> QueueDeclareOptions {
    QueueDeclareOptions {
        exclusive: true,
        ..Default::default()
    }
}
