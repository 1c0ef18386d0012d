//! `clients/js` at a gateway: in Node, and in Chromium, by the demo's page. The example that uses it is
//! in [`crate::e2e_examples`].

use std::time::Duration;

use serde_json::{Value, json};
use testkit::{
    Answer, Call, DEADLINE, Gateway, GatewayBuilder, Hook, Proxy, Remote, eventually, within,
};

use crate::{
    e2e_demo::{demo_behind, see},
    house::stentor,
};

const OWN: &str = "/exchange/feed/user_alice";

/// Of the issuer of tokens, which is the client's program here.
const SECRET: &str = "a-secret-of-at-least-32-bytes-for-HS256";

/// With the embedded broker: RabbitMQ has no part in this.
fn gateway(hook: &Hook) -> GatewayBuilder {
    stentor()
        .hook(hook)
        .set("broker.url", "embedded:")
        .set("broker.exchanges", "feed=direct")
        .set("auth.cache_ttl", "0s")
}

/// Tokens are the login, and say what their users may do.
async fn gateway_of_tokens() -> Gateway {
    let own = "/exchange/feed/user_{sub}";
    stentor()
        .set("broker.url", "embedded:")
        .set("broker.exchanges", "feed=direct")
        .set("auth.jwt.secret", SECRET)
        .set("auth.jwt.any_audience", true)
        .set("auth.jwt.leeway", "0s")
        .set("auth.jwt.subscribe", own)
        .set("auth.jwt.send", own)
        .ready()
        .await
}

fn connect(address: &str, user: &str, more: Value) -> Value {
    let mut order = json!({
        "do": "connect", "url": format!("ws://{address}/ws"),
        "headers": { "login": user, "passcode": "passcode" },
    });
    let Value::Object(more) = more else {
        panic!("no object: {more}")
    };
    order.as_object_mut().unwrap().extend(more);
    order
}

fn http(gateway: &Gateway) -> String {
    gateway.origin().trim_start_matches("http://").to_owned()
}

async fn connected(address: &str, user: &str) -> Remote {
    let mut client = Remote::node("stentor-client.mjs");
    client.order(&connect(address, user, json!({})));
    client.expect("connected").await;
    client
}

fn subscribe(client: &mut Remote, destination: &str) {
    client.order(&json!({ "do": "subscribe", "destination": destination }));
}

fn publish(client: &mut Remote, body: &str) {
    client.order(&json!({ "do": "publish", "destination": OWN, "body": body }));
}

fn denies_bobs_feed(hook: &Hook) {
    hook.rule(|call| {
        let is_bobs = call.call == Call::Topic && call.get("routing_key") == "user_bob";
        is_bobs.then_some(Answer::Deny)
    });
}

/// Whether the gateway closes the connection behind it, or not.
#[tokio::test]
async fn a_refused_subscription_costs_no_other() {
    for is_soft in [false, true] {
        let hook = Hook::start().await;
        denies_bobs_feed(&hook);
        let gateway = gateway(&hook).set("auth.soft_deny", is_soft).ready().await;
        let mut client = connected(&http(&gateway), "alice").await;
        subscribe(&mut client, OWN);
        assert_eq!(client.expect("live").await["again"], false);
        subscribe(&mut client, "/exchange/feed/user_bob");
        let refused = client.expect("refused").await;
        assert_eq!(refused["code"], "permission-denied", "{refused}");
        assert_eq!(refused["next"], "stop", "{refused}");
        if !is_soft {
            let live = client.expect("live").await;
            assert_eq!(live["destination"], OWN, "{live}");
            assert_eq!(live["again"], true, "{live}");
        }
        publish(&mut client, "to myself");
        assert_eq!(client.expect("message").await["body"], "to myself");
        client.order(&json!({ "do": "close" }));
        client.expect("gone").await;
    }
}

#[tokio::test]
async fn a_subscription_that_the_hook_could_not_judge_comes_later() {
    let hook = Hook::start().await;
    let gateway = gateway(&hook).set("auth.soft_deny", true).ready().await;
    let mut client = connected(&http(&gateway), "alice").await;
    hook.answer(Call::Topic, Answer::Close);
    subscribe(&mut client, OWN);
    let problem = client.expect("subscription-problem").await;
    assert_eq!(problem["code"], "permission-unavailable", "{problem}");
    assert_eq!(problem["seconds"], 5, "{problem}");
    hook.allow_all();
    assert_eq!(client.expect("live").await["again"], false);
}

#[tokio::test]
async fn a_message_is_confirmed_or_refused_or_of_unknown_fate() {
    let hook = Hook::start().await;
    let gateway = gateway(&hook).set("auth.soft_deny", true).ready().await;
    let proxy = Proxy::start(&http(&gateway)).await;
    let mut client = connected(&proxy.address(), "alice").await;
    publish(&mut client, "fine");
    assert_eq!(client.expect("published").await["body"], "fine");

    denies_bobs_feed(&hook);
    client.order(
        &json!({ "do": "publish", "destination": "/exchange/feed/user_bob", "body": "denied" }),
    );
    let denied = client.expect("unpublished").await;
    assert_eq!(denied["code"], "permission-denied", "{denied}");
    assert_eq!(denied["fate"], "refused", "{denied}");

    hook.answer(Call::Topic, Answer::Never);
    let asked = hook.calls_of(Call::Topic).len();
    publish(&mut client, "cut");
    eventually(DEADLINE, "the hook is asked", async || {
        hook.calls_of(Call::Topic).len() > asked
    })
    .await;
    proxy.cut();
    let cut = client.expect("unpublished").await;
    assert_eq!(cut["fate"], "unknown", "{cut}");
    assert_eq!(cut["code"], "connection-lost", "{cut}");
}

#[tokio::test]
async fn a_kicked_user_ends_and_is_told_why() {
    let hook = Hook::start().await;
    let gateway = gateway(&hook).set("presence.url", "memory:").ready().await;
    let mut client = connected(&http(&gateway), "alice").await;
    let path = "DELETE /api/v1/users/alice/sessions?reason=not%20paid";
    assert_eq!(gateway.api(path, None).await.0, 200);
    let ended = client.expect("ended").await;
    assert_eq!(ended["code"], "kicked", "{ended}");
    assert!(
        ended["detail"].as_str().unwrap().contains("not paid"),
        "{ended}"
    );
}

/// A connection that is over the bound would be closed.
#[tokio::test]
async fn many_subscriptions_come_back_within_the_servers_bound() {
    let hook = Hook::start().await;
    let gateway = gateway(&hook)
        .set("limits.max_subscribes_per_second", 20)
        .set("limits.too_fast", "disconnect")
        .ready()
        .await;
    let proxy = Proxy::start(&http(&gateway)).await;
    let mut client = Remote::node("stentor-client.mjs");
    client.order(&connect(
        &proxy.address(),
        "alice",
        json!({ "subscribesPerSecond": 20 }),
    ));
    client.expect("connected").await;
    for key in 0..230 {
        subscribe(&mut client, &format!("/exchange/feed/{key}"));
    }
    for again in [false, true] {
        for _ in 0..230 {
            let live = client.expect("live").await;
            assert_eq!(live["again"], again, "{live}");
        }
        if !again {
            proxy.cut();
        }
    }
    assert!(!client.process().stdout().text().contains("too-fast"));
}

#[tokio::test]
async fn a_status_outlives_a_reconnect_and_others_see_it() {
    let hook = Hook::start().await;
    let gateway = gateway(&hook).set("presence.url", "memory:").ready().await;
    let proxy = Proxy::start(&http(&gateway)).await;
    let mut watcher = connected(&http(&gateway), "carol").await;
    watcher.order(&json!({ "do": "watch", "key": "user.alice" }));
    watcher.expect("watching").await;
    let mut client = connected(&proxy.address(), "alice").await;
    assert_eq!(watcher.expect("presence").await["status"], "online");
    client.order(&json!({ "do": "status", "status": "away" }));
    client.expect("set").await;
    assert_eq!(watcher.expect("presence").await["status"], "away");
    proxy.cut();
    client.expect("connected").await;
    client.order(&json!({ "do": "status", "status": "busy" }));
    let event = watcher.expect("presence").await;
    assert_eq!(event["previous"], "away", "nothing between: {event}");
    assert_eq!(event["status"], "busy", "{event}");
}

/// A network that is dead without a word: heart-beats would need 20 s.
#[tokio::test]
async fn waking_finds_a_dead_connection() {
    let hook = Hook::start().await;
    let gateway = gateway(&hook).ready().await;
    let proxy = Proxy::start(&http(&gateway)).await;
    let mut client = Remote::node("stentor-client.mjs");
    client.order(&connect(
        &proxy.address(),
        "alice",
        json!({ "probeTimeout": 2000 }),
    ));
    client.expect("connected").await;
    subscribe(&mut client, OWN);
    client.expect("live").await;
    client.order(&json!({ "do": "wake" }));
    publish(&mut client, "alive");
    client.expect("published").await;
    proxy.freeze();
    client.order(&json!({ "do": "wake" }));
    let waiting = within(Duration::from_secs(10), "it gives up", async {
        client.expect("waiting").await
    })
    .await;
    assert_eq!(waiting["code"], "connection-lost", "{waiting}");
    proxy.forward();
    proxy.cut();
    assert_eq!(client.expect("live").await["again"], true);
}

/// The same in Chromium: the page hears of a network that is back.
#[tokio::test]
async fn a_page_finds_a_dead_connection_when_the_network_is_back() {
    let (_demo, proxy, mut browser) = demo_behind().await;
    proxy.freeze();
    let script = "window.dispatchEvent(new Event('online'))";
    browser.order(&json!({ "do": "evaluate", "script": script }));
    browser.expect("evaluated").await;
    let tick = |live| format!("[data-testid=subscription-alice]{live}");
    see(&mut browser, &tick(":not(.is-live)"), "").await;
    proxy.forward();
    proxy.cut();
    see(&mut browser, &tick(".is-live"), "").await;
}

/// The client renews its login again and again, and the connection stays.
#[tokio::test]
async fn a_session_outlives_its_token() {
    let gateway = gateway_of_tokens().await;
    let mut client = Remote::node("stentor-client.mjs");
    let token = json!({ "secret": SECRET, "seconds": 5, "sub": "alice" });
    client.order(&connect(
        &http(&gateway),
        "alice",
        json!({ "headers": {}, "token": token }),
    ));
    assert_eq!(client.expect("token").await["reason"], "connect");
    let connected = client.expect("connected").await;
    assert!(
        connected["headers"]["expires-in"].is_string(),
        "{connected}"
    );
    subscribe(&mut client, OWN);
    client.expect("live").await;
    for _ in 0..4 {
        assert_eq!(client.expect("token").await["reason"], "renew");
    }
    publish(&mut client, "still here");
    assert_eq!(client.expect("message").await["body"], "still here");
    let said = client.process().stdout().text();
    for wrong in ["problem", "waiting", "ended"] {
        assert!(!said.contains(wrong), "{said}");
    }
}

/// A client that cannot renew: it comes back with another token, and with its subscription.
#[tokio::test]
async fn an_expired_token_brings_the_client_back_with_another_one() {
    let gateway = gateway_of_tokens().await;
    let mut client = Remote::node("stentor-client.mjs");
    let token = json!({ "secret": SECRET, "seconds": 3, "sub": "alice", "fails": "renew" });
    client.order(&connect(
        &http(&gateway),
        "alice",
        json!({ "headers": {}, "token": token }),
    ));
    client.expect("connected").await;
    subscribe(&mut client, OWN);
    assert_eq!(client.expect("live").await["again"], false);
    let waiting = client.expect("waiting").await;
    assert_eq!(waiting["code"], "token-expired", "{waiting}");
    assert_eq!(waiting["delay"], 0, "{waiting}");
    assert_eq!(client.expect("token").await["reason"], "refused");
    assert_eq!(client.expect("live").await["again"], true);
}
