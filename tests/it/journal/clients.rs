//! `clients/js` catches up: after a cut, after a reload, and where it cannot.

use serde_json::{Value, json};
use testkit::{Proxy, Remote};

use super::{gaps::expired, gaps::small, *};
use crate::house::{KEY, PASSCODE, USER};

async fn connected(house: &House, address: &str) -> Remote {
    let mut client = Remote::node("stentor-client.mjs");
    client.order(&json!({
        "do": "connect", "url": format!("ws://{address}/ws"),
        "headers": { "login": USER, "passcode": PASSCODE, "host": house.vhost.name() },
    }));
    client.expect("connected").await;
    client
}

/// The gateway, by a proxy.
async fn behind(house: &House) -> Proxy {
    let address = house.gateway.origin();
    Proxy::start(address.trim_start_matches("http://")).await
}

fn subscribe_to(client: &mut Remote, destination: &str, more: &Value) {
    let mut order = json!({ "do": "subscribe", "destination": destination, "resume": {} });
    let more = more.as_object().unwrap().clone();
    order.as_object_mut().unwrap().extend(more);
    client.order(&order);
}

/// All that it told by this name.
fn told_of(client: &Remote, event: &str) -> Vec<Value> {
    let said = client.process().stdout().text();
    let events = said
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    events.filter(|value| value["event"] == event).collect()
}

/// Waits until it has told so much by this name: the last of it. Messages that were missed, and the
/// news that they were, come in any order.
async fn until(client: &Remote, event: &str, count: usize) -> Value {
    let name = format!("{event} comes {count} times");
    eventually(2 * DEADLINE, name, async || {
        let told = told_of(client, event);
        (told.len() >= count).then(|| told.last().unwrap().clone())
    })
    .await
}

/// The bodies of all messages that it told.
fn heard(client: &Remote) -> Vec<String> {
    let messages = told_of(client, "message");
    let body = |message: &Value| message["body"].as_str().unwrap().to_owned();
    messages.iter().map(body).collect()
}

#[tokio::test]
async fn our_client_misses_nothing_over_cuts() {
    let house = House::open_with(kept).await;
    let proxy = behind(&house).await;
    let mut client = connected(&house, &proxy.address()).await;
    subscribe_to(&mut client, DESTINATION, &json!({}));
    until(&client, "live", 1).await;
    for round in 0..4 {
        proxy.refuse();
        until(&client, "waiting", round + 1).await;
        // In the first round it has no cursor yet.
        let start = 10 * round;
        house.push(numbers(start..start + 6)).await;
        proxy.forward();
        let resumed = until(&client, "resumed", round + 1).await;
        assert_eq!(resumed["missed"], 6, "{resumed}");
        until(&client, "live", round + 2).await;
        house.push(numbers(start + 6..start + 10)).await;
        until(&client, "message", start + 10).await;
    }
    assert_eq!(heard(&client), numbers(0..40));
}

#[tokio::test]
async fn our_client_goes_on_from_what_it_stored() {
    let house = House::open_with(kept).await;
    let last = hear_and_leave(&house, 0..3).await;
    house.push(numbers(3..8)).await;
    let proxy = behind(&house).await;
    let stored = json!({ "cursor": last }).to_string();
    let mut client = connected(&house, &proxy.address()).await;
    subscribe_to(&mut client, DESTINATION, &json!({ "stored": stored }));
    assert_eq!(until(&client, "resumed", 1).await["missed"], 5);
    until(&client, "message", 5).await;
    assert_eq!(heard(&client), numbers(3..8));
    proxy.cut();
    let live = until(&client, "live", 2).await;
    let stored: Value = serde_json::from_str(live["stored"].as_str().unwrap()).unwrap();
    assert_eq!(stored["cursor"], told_of(&client, "message")[4]["cursor"]);
}

#[tokio::test]
async fn our_client_is_told_of_a_gap_and_goes_on() {
    for (gap, goes_on) in [("next", true), ("earliest", true), ("fail", false)] {
        let house = House::open_with(small).await;
        let stored = json!({ "cursor": expired(&house).await }).to_string();
        let proxy = behind(&house).await;
        let mut client = connected(&house, &proxy.address()).await;
        let wish = json!({ "stored": stored, "resume": { "gap": gap } });
        subscribe_to(&mut client, DESTINATION, &wish);
        if !goes_on {
            let refused = until(&client, "refused", 1).await;
            assert_eq!(refused["code"], "resume-gap", "{refused}");
            continue;
        }
        assert_eq!(until(&client, "gap", 1).await["reason"], "expired");
        until(&client, "live", 1).await;
        house.push(["live"]).await;
        let comes = async || heard(&client).last().is_some_and(|body| body == "live");
        eventually(DEADLINE, "what comes after it comes", comes).await;
        assert_eq!(heard(&client).len() == 1, gap == "next");
        // The gap is over.
        proxy.refuse();
        until(&client, "waiting", 1).await;
        house.push(["one"]).await;
        proxy.forward();
        assert_eq!(until(&client, "resumed", 1).await["missed"], 1);
        let comes = async || heard(&client).last().is_some_and(|body| body == "one");
        eventually(DEADLINE, "what was missed comes", comes).await;
    }
}

/// The stored cursor is of another exchange; the exchange has no journal; the server has none at all.
#[tokio::test]
async fn our_client_begins_anew_where_a_cursor_means_nothing() {
    let house = House::open_with(kept).await;
    let last = hear_and_leave(&house, 0..3).await;
    let other = House::open().await;
    let (head, tail) = last.split_once('-').unwrap();
    assert_ne!(head, "00000000");
    let foreign = format!("00000000-{tail}");
    for (house, cursor, destination, reason) in [
        (&house, &foreign, DESTINATION, "foreign"),
        (&house, &last, "/topic/user_alice", "no-journal"),
        (&other, &last, DESTINATION, "no-journal"),
    ] {
        let proxy = behind(house).await;
        let mut client = connected(house, &proxy.address()).await;
        let stored = json!({ "cursor": cursor }).to_string();
        subscribe_to(&mut client, destination, &json!({ "stored": stored }));
        assert_eq!(until(&client, "gap", 1).await["reason"], reason);
        until(&client, "live", 1).await;
        let exchange = if destination == DESTINATION {
            FEED
        } else {
            "amq.topic"
        };
        house.vhost.publish(exchange, KEY, ["first"]).await;
        until(&client, "message", 1).await;
        assert_eq!(heard(&client), ["first"]);
    }
}

/// A server that keeps nothing, and a subscription without a message: it is told at each reconnect.
#[tokio::test]
async fn our_client_tells_that_a_server_keeps_nothing() {
    let house = House::open().await;
    let proxy = behind(&house).await;
    let mut client = connected(&house, &proxy.address()).await;
    subscribe_to(&mut client, DESTINATION, &json!({}));
    until(&client, "live", 1).await;
    for round in 1..3 {
        proxy.cut();
        assert_eq!(until(&client, "gap", round).await["reason"], "no-journal");
        until(&client, "live", round + 1).await;
    }
    assert_eq!(told_of(&client, "problem").len(), 0);
}
