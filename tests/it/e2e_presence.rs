//! Who is online, as the operator's side tells it.

use std::sync::Arc;

use serde_json::{Value, json};
use stentor::{app, config::Config, http, presence::Url};
use stomp_grammar::Command;
use testkit::{Answer, Call, DEADLINE, Gateway, Hook, Login, Redis, StompClient, eventually};

use crate::house::stentor;

/// With the embedded broker: RabbitMQ has no part in this.
async fn gateway(hook: &Hook, presence: &str) -> Gateway {
    let builder = stentor()
        .hook(hook)
        .set("auth.groups_path", hook.url(Call::Groups))
        .set("broker.url", "embedded:")
        .set("presence.url", presence)
        .set("shutdown.drain", "100ms");
    builder.ready().await
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
        let found = status == 200 && body["sessions"].as_array().unwrap().len() == count;
        assert_eq!(body["status"] == "online", body["sessions"][0].is_object());
        found.then_some(body)
    })
    .await
}

async fn until_group(gateway: &Gateway, group: &str, online: Value) {
    let path = format!("/api/v1/groups/{group}");
    eventually(DEADLINE, format!("{online} in {group}"), async || {
        let (status, body) = ask(gateway, &path).await;
        assert_eq!(status, 200, "{body}");
        let members = body["online"].as_array().unwrap().iter();
        let users: Value = members.map(|member| member["user"].clone()).collect();
        users == online
    })
    .await;
}

#[tokio::test]
async fn clients_are_online_from_login_to_end() {
    let redis = Redis::shared().await;
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
        until_group(&gateway, "everybody", json!(["alice", "bob/é"])).await;

        // One says good-bye, the other is gone.
        alice.disconnect().await;
        until_sessions(&gateway, "alice", 0).await;
        until_group(&gateway, "everybody", json!(["bob/é"])).await;
        drop(bob);
        until_group(&gateway, "everybody", json!([])).await;

        // Who is online at the end is not, after it.
        let _carol = tcp(&gateway, "carol").await;
        until_sessions(&gateway, "carol", 1).await;
        assert!(gateway.terminate(DEADLINE).await.success());
    }
    assert_eq!(redis.command(&["EXISTS", "stentor:user:carol"]).await, ":0");
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
async fn who_is_dropped_leaves() {
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
        });
        let gateway = gateway.await.unwrap();
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
