//! The gateway, whose Redis fails over: pushes and logins go on as if nothing happened.

use std::time::{Duration, Instant};

use stomp_grammar::Command;
use testkit::{
    DEADLINE, Gateway, GatewayBuilder, Hook, Login, RedisCluster, RedisSentinels, StompClient,
    eventually,
};

use crate::house::stentor;

/// A push, or a login, may take so long on a busy machine.
const SOON: Duration = Duration::from_secs(2);

/// With the embedded broker: RabbitMQ has no part in this.
fn gateway(hook: &Hook, url: &str) -> GatewayBuilder {
    stentor()
        .hook(hook)
        .set("broker.url", "embedded:")
        .set("presence.url", url)
        .set("presence.lease", "4s")
        .set("presence.debounce", "1s")
        .set("shutdown.drain", "100ms")
}

fn list(addresses: &[String]) -> String {
    addresses.join(",")
}

async fn login(gateway: &Gateway, user: &str) -> StompClient {
    let mut client = StompClient::tcp(gateway.stomp_address()).await;
    let connected = client.connect(&Login::new(user, "passcode", "/")).await;
    assert_eq!(connected.command, Command::Connected);
    client
}

async fn until_presence(gateway: &Gateway, is_ok: bool) {
    eventually(DEADLINE, format!("presence is ok: {is_ok}"), async || {
        let (status, body) = gateway.admin("/readyz").await;
        assert_eq!(status, 200, "{body}");
        body.contains("unreachable: ") != is_ok
    })
    .await;
}

/// Messages and logins, one after the other, until presence is well again after `fail`; the longest
/// time that one of each took.
async fn undisturbed(what: &str, gateway: &Gateway, fail: impl FnOnce()) {
    until_presence(gateway, true).await;
    let mut listens = login(gateway, "alice").await;
    listens.subscribe("1", "/exchange/amq.topic/news").await;
    let mut talks = login(gateway, "backend").await;
    let (mut longest_push, mut longest_login) = (Duration::ZERO, Duration::ZERO);
    fail();
    let failed = Instant::now();
    let mut was_away = false;
    let mut clients = Vec::new();
    loop {
        let begun = Instant::now();
        talks.publish("/exchange/amq.topic/news", "x").await;
        listens.expect_messages(1).await;
        longest_push = longest_push.max(begun.elapsed());
        let begun = Instant::now();
        clients.push(login(gateway, &format!("user-{}", clients.len())).await);
        longest_login = longest_login.max(begun.elapsed());
        let (status, body) = gateway.admin("/readyz").await;
        assert_eq!(status, 200, "{body}");
        was_away |= body.contains("unreachable: ");
        if was_away && !body.contains("unreachable: ") {
            break;
        }
        assert!(
            failed.elapsed() < DEADLINE,
            "{what}: presence does not come back: {body}"
        );
    }
    println!(
        "{what}: presence was back {:.2?} after; {} logins meanwhile, the longest {longest_login:?}, \
         the longest push {longest_push:?}",
        failed.elapsed(),
        clients.len()
    );
    assert!(
        longest_push < SOON && longest_login < SOON,
        "{longest_push:?} {longest_login:?}"
    );
    // And all of them are here.
    for (number, _) in clients.iter().enumerate() {
        let path = format!("GET /api/v1/users/user-{number}");
        eventually(DEADLINE, format!("{path} is here"), async || {
            let (status, body) = gateway.api(&path, None).await;
            status == 200 && body["status"] == "online"
        })
        .await;
    }
}

#[tokio::test]
async fn a_failover_of_sentinel_disturbs_no_push_and_no_login() {
    let redis = RedisSentinels::own().await;
    let hook = Hook::start().await;
    let gateway = gateway(&hook, &redis.url())
        .set("redis.sentinels", list(&redis.addresses()))
        .set("redis.sentinel_password", RedisSentinels::PASSWORD)
        .ready()
        .await;
    let [master, _] = redis.roles().await;
    undisturbed("Sentinel", &gateway, || master.kill()).await;
    let log = gateway.events();
    assert!(!format!("{log:?}").contains(RedisSentinels::PASSWORD));
}

#[tokio::test]
async fn a_failover_of_a_cluster_disturbs_no_push_and_no_login() {
    let redis = RedisCluster::own().await;
    let hook = Hook::start().await;
    let gateway = gateway(&hook, &redis.url())
        .set("redis.cluster", true)
        .set("redis.nodes", list(&redis.addresses()))
        .ready()
        .await;
    let masters = redis.masters().await;
    undisturbed("Cluster", &gateway, || masters[2].kill()).await;
    // Of 64 partitions that came and went, the log has a line each way.
    assert!(
        gateway
            .events()
            .iter()
            .filter(|event| event["message"] == "presence up")
            .count()
            <= 3
    );
}
