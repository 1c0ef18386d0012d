//! Shared feeds.

use stentor::broker::{BrokerError, ExchangeKind, FeedId, Properties, Publish};

use super::{
    Fixture,
    support::{Node, feed, message},
};

const FENCE: &str = "fence";

pub(crate) async fn overlapping_patterns_deliver_once<F: Fixture>() {
    let fixture = F::start().await;
    let node = Node::open(&fixture).await;
    let news = feed("amq.topic", 0);
    for pattern in ["a.b", "a.*", "a.#", "#", FENCE] {
        node.bind(&news, pattern).await;
    }
    node.send("amq.topic", "a.b", "1").await;
    node.send("amq.topic", "a.c", "2").await;
    node.send("amq.topic", FENCE, FENCE).await;
    assert_eq!(node.feeds.bodies_before(&news, FENCE).await, ["1", "2"]);
}

pub(crate) async fn messages_come_in_the_order_of_their_publisher<F: Fixture>() {
    let fixture = F::start().await;
    let node = Node::open(&fixture).await;
    let news = feed("amq.direct", 0);
    node.bind(&news, "a").await;
    node.bind(&news, "b").await;
    let mut confirms = Vec::new();
    for number in 0..500 {
        let key = if number % 3 == 0 { "a" } else { "b" };
        let publish = message("amq.direct", key, &number.to_string());
        confirms.push(node.vhost.publish(publish).await.unwrap());
    }
    for confirm in confirms {
        confirm.await.unwrap();
    }
    node.send("amq.direct", "a", FENCE).await;
    let expected: Vec<String> = (0..500).map(|number| number.to_string()).collect();
    assert_eq!(node.feeds.bodies_before(&news, FENCE).await, expected);
}

/// Binds `pattern`, publishes by each key, and says which of them arrived.
async fn arriving<F: Fixture>(exchange: &str, pattern: &str, keys: &[&str]) -> Vec<String> {
    let fixture = F::start().await;
    let node = Node::open(&fixture).await;
    let news = feed(exchange, 0);
    node.bind(&news, pattern).await;
    node.bind(&news, FENCE).await;
    for key in keys {
        node.send(exchange, key, &format!("by {key}")).await;
    }
    node.send(exchange, FENCE, FENCE).await;
    node.feeds.bodies_before(&news, FENCE).await
}

pub(crate) async fn a_topic_exchange_routes_by_words<F: Fixture>() {
    let keys = ["a", "a.b", "a..b", "a.x.b", "a.x.y.b", "a.b.c", "", "b.a"];
    let arrived = arriving::<F>("amq.topic", "a.#.b", &keys).await;
    assert_eq!(arrived, ["by a.b", "by a..b", "by a.x.b", "by a.x.y.b"]);
    let arrived = arriving::<F>("amq.topic", "a.*", &["a", "a.", "a.b", "a.b.c"]).await;
    assert_eq!(arrived, ["by a.", "by a.b"]);
    let arrived = arriving::<F>("amq.topic", "*.#", &["", "a", "a.b", "."]).await;
    assert_eq!(arrived, ["by a", "by a.b", "by ."]);
}

pub(crate) async fn a_direct_exchange_routes_by_equality<F: Fixture>() {
    let arrived = arriving::<F>("amq.direct", "a.*", &["a.b", "a.*", "a", ""]).await;
    assert_eq!(arrived, ["by a.*"]);
}

pub(crate) async fn a_fanout_exchange_routes_everything<F: Fixture>() {
    let arrived = arriving::<F>("amq.fanout", "x", &["", "x", "y"]).await;
    assert_eq!(arrived, ["by ", "by x", "by y"]);
}

pub(crate) async fn to_bind_twice_is_to_bind_once<F: Fixture>() {
    let fixture = F::start().await;
    let node = Node::open(&fixture).await;
    let news = feed("amq.direct", 0);
    for pattern in ["a", "a", FENCE] {
        node.bind(&news, pattern).await;
    }
    node.send("amq.direct", "a", "1").await;
    node.unbind(&news, "a").await;
    node.send("amq.direct", "a", "2").await;
    node.send("amq.direct", FENCE, FENCE).await;
    assert_eq!(node.feeds.bodies_before(&news, FENCE).await, ["1"]);
}

pub(crate) async fn unbinding_ends_one_pattern<F: Fixture>() {
    let fixture = F::start().await;
    let node = Node::open(&fixture).await;
    let news = feed("amq.topic", 0);
    for pattern in ["a.*", "a.b", FENCE] {
        node.bind(&news, pattern).await;
    }
    node.unbind(&news, "a.*").await;
    node.unbind(&news, "never.bound").await;
    node.send("amq.topic", "a.c", "1").await;
    node.send("amq.topic", "a.b", "2").await;
    node.send("amq.topic", FENCE, FENCE).await;
    assert_eq!(node.feeds.bodies_before(&news, FENCE).await, ["2"]);
}

pub(crate) async fn a_pattern_can_be_bound_again<F: Fixture>() {
    let fixture = F::start().await;
    let node = Node::open(&fixture).await;
    let news = feed("amq.direct", 0);
    node.bind(&news, "a").await;
    node.unbind(&news, "a").await;
    node.send("amq.direct", "a", "lost").await;
    node.bind(&news, "a").await;
    node.send("amq.direct", "a", "1").await;
    node.send("amq.direct", "a", FENCE).await;
    assert_eq!(node.feeds.bodies_before(&news, FENCE).await, ["1"]);
}

pub(crate) async fn an_unknown_exchange_cannot_be_bound<F: Fixture>() {
    let fixture = F::start().await;
    let node = Node::open(&fixture).await;
    let refused = node.vhost.bind_feed(&feed("nope", 0), "a").await;
    match refused {
        Err(BrokerError::NotFound(text)) => {
            assert!(
                text.starts_with("NOT_FOUND - no exchange 'nope' in vhost "),
                "{text}"
            );
        }
        other => panic!("{other:?}"),
    }
    // Others do not suffer from it.
    let news = feed("amq.direct", 0);
    node.bind(&news, "a").await;
    node.send("amq.direct", "a", FENCE).await;
    assert!(node.feeds.bodies_before(&news, FENCE).await.is_empty());
}

pub(crate) async fn feeds_of_one_exchange_are_apart<F: Fixture>() {
    let fixture = F::start().await;
    let node = Node::open(&fixture).await;
    let (one, other) = (feed("amq.topic", 0), feed("amq.topic", 1));
    node.bind(&one, "a.*").await;
    node.bind(&other, "*.b").await;
    for feed in [&one, &other] {
        node.bind(feed, FENCE).await;
    }
    for key in ["a.a", "a.b", "b.b", "b.a"] {
        node.send("amq.topic", key, key).await;
    }
    node.send("amq.topic", FENCE, FENCE).await;
    assert_eq!(node.feeds.bodies_before(&one, FENCE).await, ["a.a", "a.b"]);
    assert_eq!(
        node.feeds.bodies_before(&other, FENCE).await,
        ["a.b", "b.b"]
    );
}

pub(crate) async fn every_node_has_its_own_feeds<F: Fixture>() {
    let fixture = F::start().await;
    let (one, other) = (Node::open(&fixture).await, Node::open(&fixture).await);
    let news = feed("amq.direct", 0);
    one.bind(&news, "a").await;
    other.bind(&news, "a").await;
    other.bind(&news, "b").await;
    one.send("amq.direct", "a", "1").await;
    one.send("amq.direct", "b", "2").await;
    one.send("amq.direct", "a", FENCE).await;
    assert_eq!(one.feeds.bodies_before(&news, FENCE).await, ["1"]);
    assert_eq!(other.feeds.bodies_before(&news, FENCE).await, ["1", "2"]);
    other.unbind(&news, "a").await;
    one.send("amq.direct", "a", "end").await;
    assert_eq!(one.feeds.bodies_before(&news, "end").await, ["1", FENCE]);
}

pub(crate) async fn messages_arrive_whole<F: Fixture>() {
    let fixture = F::start().await;
    let node = Node::open(&fixture).await;
    let news = feed("amq.topic", 0);
    node.bind(&news, "a.*").await;
    let properties = Properties {
        content_type: Some("text/plain".into()),
        persistent: true,
        headers: vec![("colour".into(), "blue".into())],
        ..Properties::default()
    };
    let publish = Publish {
        properties: properties.clone(),
        ..message("amq.topic", "a.ü", "body")
    };
    node.try_send(publish).await.unwrap();
    let first = |entries: &[(_, stentor::broker::Message)]| entries.first().cloned();
    let (from, message) = node.feeds.messages.until("message", first).await;
    assert_eq!(from, news);
    assert_eq!(
        (&*message.exchange, &*message.routing_key),
        ("amq.topic", "a.ü")
    );
    assert_eq!(message.properties, properties);
    assert_eq!(message.body, "body");
    assert!(message.cc.is_empty());
}

pub(crate) async fn exchanges_have_kinds<F: Fixture>() {
    let fixture = F::start().await;
    let node = Node::open(&fixture).await;
    for (exchange, kind) in [
        ("", ExchangeKind::Direct),
        ("amq.direct", ExchangeKind::Direct),
        ("amq.topic", ExchangeKind::Topic),
        ("amq.fanout", ExchangeKind::Fanout),
        ("amq.topic", ExchangeKind::Topic),
    ] {
        assert_eq!(
            node.vhost.exchange_kind(exchange).await,
            Ok(kind),
            "{exchange}"
        );
    }
    let unknown = node.vhost.exchange_kind("nope").await;
    assert!(
        matches!(unknown, Err(BrokerError::NotFound(_))),
        "{unknown:?}"
    );
}

/// Also where something is bound to it still.
pub(crate) async fn a_feed_that_was_ended_begins_anew<F: Fixture>() {
    let fixture = F::start().await;
    let node = Node::open(&fixture).await;
    for exchange in ["amq.direct", "amq.topic", "amq.fanout"] {
        let news = feed(exchange, 0);
        let mut expected = Vec::new();
        for round in 0..3 {
            node.bind(&news, "a").await;
            let body = round.to_string();
            node.send(exchange, "a", &body).await;
            expected.push(body);
            let all = |entries: &[(FeedId, _)]| {
                let got = entries.iter().filter(|(id, _)| *id == news);
                (got.count() >= expected.len()).then_some(())
            };
            node.feeds.messages.until("the message", all).await;
            node.vhost.end_feed(&news);
            node.send(exchange, "a", "nobody is there").await;
        }
        node.bind(&news, "a").await;
        node.send(exchange, "a", FENCE).await;
        assert_eq!(node.feeds.bodies_before(&news, FENCE).await, expected);
    }
}
