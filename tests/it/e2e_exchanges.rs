//! Exchanges that are deleted and made anew, and bindings that an operator takes away, while
//! clients are subscribed: a RECEIPT means bound at the broker as it is now, and those who stay are
//! served again, or told.

use std::sync::Arc;

use lapin::{
    ExchangeKind,
    options::{
        ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable},
};
use serde_json::Value;
use testkit::{DEADLINE, FEED, GatewayBuilder, RabbitMq, StompClient, Vhost, eventually, unique};

use crate::house::{DESTINATION, House, KEY};

const INTERRUPTED: &str = "feed interrupted";

/// A gateway that looks often, and a virtual host with an exchange of that type.
async fn house(
    kind: ExchangeKind,
    settings: impl FnOnce(GatewayBuilder) -> GatewayBuilder,
) -> House {
    let vhost = RabbitMq::shared().await.vhost().await;
    vhost.declare_exchange(FEED, kind).await;
    House::start(vhost, |builder| {
        settings(
            builder
                .set("feed.verify_interval", "300ms")
                .set("feed.shards", 2),
        )
    })
    .await
}

/// One that never looks: all that is so is so by what clients ask for.
fn never(builder: GatewayBuilder) -> GatewayBuilder {
    builder.set("feed.verify_interval", "0s")
}

fn as_it_is(builder: GatewayBuilder) -> GatewayBuilder {
    builder
}

async fn delete(vhost: &Vhost) {
    let channel = vhost.channel().await;
    let deleting = channel.exchange_delete(FEED.into(), ExchangeDeleteOptions::default());
    deleting.await.unwrap();
}

/// As a deploy does it.
async fn make_anew(vhost: &Vhost, kind: ExchangeKind) {
    delete(vhost).await;
    declare(vhost, kind, FieldTable::default()).await;
}

async fn declare(vhost: &Vhost, kind: ExchangeKind, arguments: FieldTable) {
    let options = ExchangeDeclareOptions {
        durable: true,
        ..ExchangeDeclareOptions::default()
    };
    let channel = vhost.channel().await;
    let declaring = channel.exchange_declare(FEED.into(), kind, options, arguments);
    declaring.await.unwrap();
}

/// All of them get what is pushed now.
async fn are_served(house: &House, mut clients: [StompClient; 2]) {
    house.push(["again"]).await;
    for client in &mut clients {
        client.expect_message("again").await;
    }
}

/// They are told, and those who come now are served.
async fn are_told(house: &House, clients: &mut [StompClient]) {
    for client in clients {
        client.expect_error(INTERRUPTED).await;
    }
    are_served(house, house.subscribed().await).await;
}

async fn until_bound_again(house: &House) {
    eventually(DEADLINE, "it is bound again", async || {
        house.vhost.is_bound(FEED, KEY).await
    })
    .await;
}

async fn until_a_feed_is_bound(house: &House) {
    eventually(DEADLINE, "it is bound again", async || {
        !keys_of_feeds(&house.vhost).await.is_empty()
    })
    .await;
}

async fn until_looked_at(vhost: &Vhost) {
    eventually(DEADLINE, "it was looked a few times", async || {
        vhost.published_to(FEED).await >= 5
    })
    .await;
}

async fn subscriber(house: &House, destination: &str) -> StompClient {
    let mut client = house.tcp().await;
    client.subscribe("feed", destination).await;
    client
}

/// All keys that feeds are bound by.
async fn keys_of_feeds(vhost: &Vhost) -> Vec<String> {
    let bindings = vhost.bindings().await;
    let text = |binding: &Value, field: &str| binding[field].as_str().unwrap().to_owned();
    let to_feeds = bindings
        .iter()
        .filter(|binding| binding["source"] == FEED)
        .filter(|binding| text(binding, "destination").starts_with("stentor.feed."));
    to_feeds
        .map(|binding| text(binding, "routing_key"))
        .collect()
}

#[tokio::test]
async fn a_receipt_means_bound_to_a_direct_exchange_as_it_is_now() {
    a_receipt_means_bound_as_it_is_now(ExchangeKind::Direct, never).await;
}

#[tokio::test]
async fn a_receipt_means_bound_to_a_topic_exchange_as_it_is_now() {
    a_receipt_means_bound_as_it_is_now(ExchangeKind::Topic, never).await;
}

#[tokio::test]
async fn a_receipt_means_bound_to_a_fanout_exchange_as_it_is_now() {
    a_receipt_means_bound_as_it_is_now(ExchangeKind::Fanout, never).await;
}

#[tokio::test]
async fn a_receipt_means_bound_to_everything_as_it_is_now() {
    a_receipt_means_bound_as_it_is_now(ExchangeKind::Topic, |builder| {
        never(builder)
            .set("feed.binding", "all")
            .set("feed.shards", 1)
    })
    .await;
}

/// Also where somebody else stays, or has just left.
async fn a_receipt_means_bound_as_it_is_now(
    kind: ExchangeKind,
    settings: impl FnOnce(GatewayBuilder) -> GatewayBuilder,
) {
    let house = house(kind.clone(), settings).await;
    let mut stays = subscriber(&house, "/exchange/feed/shared").await;
    for round in 0..3 {
        let left = subscriber(&house, "/exchange/feed/left").await;
        left.disconnect().await;
        make_anew(&house.vhost, kind.clone()).await;
        for key in ["left", "shared"] {
            let mut client = subscriber(&house, &format!("/exchange/feed/{key}")).await;
            let body = format!("{key} {round}");
            house.vhost.publish(FEED, key, [&body]).await;
            client.expect_message(&body).await;
            if key == "shared" || kind == ExchangeKind::Fanout {
                stays.expect_message(&body).await;
            }
            client.disconnect().await;
        }
    }
}

#[tokio::test]
async fn subscribers_of_a_direct_exchange_made_anew_are_told() {
    let house = house(ExchangeKind::Direct, as_it_is).await;
    let mut clients = house.subscribed().await;
    let mut other = subscriber(&house, "/exchange/amq.direct/other").await;
    make_anew(&house.vhost, ExchangeKind::Direct).await;
    for client in &mut clients {
        let error = client.expect_error(INTERRUPTED).await;
        let body = String::from_utf8_lossy(&error.body).into_owned();
        // It may have been looked at in between.
        let (gone, anew) = ("no exchange 'feed'", "deleted and made anew");
        assert!(body.contains(gone) || body.contains(anew), "{body}");
    }
    are_served(&house, house.subscribed().await).await;
    house.vhost.publish("amq.direct", "other", ["here"]).await;
    other.expect_message("here").await;
}

#[tokio::test]
async fn subscribers_of_a_topic_exchange_made_anew_are_served_again() {
    subscribers_are_served_again(ExchangeKind::Topic, as_it_is).await;
}

#[tokio::test]
async fn subscribers_of_a_fanout_exchange_made_anew_are_served_again() {
    subscribers_are_served_again(ExchangeKind::Fanout, as_it_is).await;
}

#[tokio::test]
async fn subscribers_are_served_again_where_everything_is_bound() {
    subscribers_are_served_again(ExchangeKind::Topic, |builder| {
        builder.set("feed.binding", "all").set("feed.shards", 1)
    })
    .await;
}

async fn subscribers_are_served_again(
    kind: ExchangeKind,
    settings: impl FnOnce(GatewayBuilder) -> GatewayBuilder,
) {
    // So that it is seldom looked at while the exchange is away.
    let seldom = |builder: GatewayBuilder| settings(builder.set("feed.verify_interval", "3s"));
    let house = house(kind.clone(), seldom).await;
    let clients = house.subscribed().await;
    make_anew(&house.vhost, kind).await;
    until_a_feed_is_bound(&house).await;
    are_served(&house, clients).await;
}

#[tokio::test]
async fn an_exchange_that_stays_away_is_told_whatever_its_type() {
    for kind in [
        ExchangeKind::Direct,
        ExchangeKind::Topic,
        ExchangeKind::Fanout,
    ] {
        let house = house(kind.clone(), as_it_is).await;
        let mut clients = house.subscribed().await;
        delete(&house.vhost).await;
        for client in &mut clients {
            client.expect_error(INTERRUPTED).await;
        }
        let mut early = house.tcp().await;
        early
            .raw(format!(
                "SUBSCRIBE\nid:feed\ndestination:{DESTINATION}\n\n\0"
            ))
            .await;
        early.expect_error("not_found").await;
        house.vhost.declare_exchange(FEED, kind).await;
        let mut late = subscriber(&house, DESTINATION).await;
        house.push(["back"]).await;
        late.expect_message("back").await;
    }
}

#[tokio::test]
async fn a_type_that_changed_is_learnt() {
    let often = |builder: GatewayBuilder| builder.set("feed.verify_interval", "100ms");
    let house = house(ExchangeKind::Direct, often).await;
    let mut client = subscriber(&house, "/exchange/feed/a.*").await;
    let mut exact = subscriber(&house, "/exchange/feed/a.b").await;
    make_anew(&house.vhost, ExchangeKind::Topic).await;
    client.expect_error(INTERRUPTED).await;
    exact.expect_error(INTERRUPTED).await;
    let mut client = subscriber(&house, "/exchange/feed/a.*").await;
    house.vhost.publish(FEED, "a.b", ["by pattern"]).await;
    client.expect_message("by pattern").await;

    // Only the broker's refusal tells the type of a topic exchange.
    make_anew(&house.vhost, ExchangeKind::Direct).await;
    client.expect_error(INTERRUPTED).await;
    let mut client = subscriber(&house, "/exchange/feed/a.*").await;
    house.vhost.publish(FEED, "a.b", ["no"]).await;
    house.vhost.publish(FEED, "a.*", ["yes"]).await;
    client.expect_message("yes").await;
}

/// RabbitMQ 4.3 keeps a binding that was asked for just while its exchange was made anew: it is
/// listed, and matches nothing. With many keys that are looked at all the time, there are some in
/// each round.
#[tokio::test]
async fn no_binding_of_the_former_exchange_is_relied_on() {
    const KEYS: usize = 20;
    let busy = |builder: GatewayBuilder| {
        builder
            .set("feed.verify_interval", "100ms")
            .set("feed.verify_rate", 1_000)
    };
    let house = house(ExchangeKind::Direct, busy).await;
    let subscribe = async |client: &mut StompClient| {
        for key in 0..KEYS {
            let destination = format!("/exchange/feed/k{key}");
            client.subscribe(&format!("s{key}"), &destination).await;
        }
    };
    let mut client = house.tcp().await;
    subscribe(&mut client).await;
    for round in 0..5 {
        let kind = match round % 2 {
            0 => ExchangeKind::Topic,
            _ => ExchangeKind::Direct,
        };
        make_anew(&house.vhost, kind).await;
        client.expect_error(INTERRUPTED).await;
        client = house.tcp().await;
        subscribe(&mut client).await;
        for key in 0..KEYS {
            let body = format!("{round} {key}");
            house.vhost.publish(FEED, &format!("k{key}"), [&body]).await;
            client.expect_message(&body).await;
        }
        if round % 2 == 0 {
            // A topic exchange has no sentinel, so nothing is told when it is made anew.
            make_anew(&house.vhost, ExchangeKind::Direct).await;
            client.expect_error(INTERRUPTED).await;
            client = house.tcp().await;
            subscribe(&mut client).await;
        }
    }
}

/// Takes away what clients are bound by, as an operator would in the management page.
async fn take_away(vhost: &Vhost) {
    let channel = vhost.channel().await;
    for binding in vhost.bindings().await {
        let text = |field: &str| binding[field].as_str().unwrap();
        let is_feed = text("destination").starts_with("stentor.feed.");
        if is_feed && binding["source"] == FEED && matches!(text("routing_key"), KEY | "") {
            let (queue, key) = (text("destination").into(), text("routing_key").into());
            let unbinding = channel.queue_unbind(queue, FEED.into(), key, FieldTable::default());
            unbinding.await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_binding_that_was_taken_away_is_made_again() {
    for kind in [ExchangeKind::Direct, ExchangeKind::Topic] {
        let house = house(kind, as_it_is).await;
        let clients = house.subscribed().await;
        take_away(&house.vhost).await;
        until_bound_again(&house).await;
        are_served(&house, clients).await;
    }
}

/// Declares an exchange whose messages go elsewhere if no queue takes them.
async fn with_an_alternate(vhost: &Vhost, kind: ExchangeKind) {
    let mut arguments = FieldTable::default();
    let alternate = AMQPValue::LongString("unrouted".into());
    arguments.insert("alternate-exchange".into(), alternate);
    declare(vhost, kind, arguments).await;
}

/// A queue of a backend's, by its exchange and key.
async fn backend(vhost: &Vhost, exchange: &str, key: &str) -> String {
    let (channel, queue) = (vhost.channel().await, unique("backend"));
    let options = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    let none = FieldTable::default;
    let declaring = channel.queue_declare(queue.as_str().into(), options, none());
    declaring.await.unwrap();
    let (options, to) = (QueueBindOptions::default(), queue.as_str().into());
    let binding = channel.queue_bind(to, exchange.into(), key.into(), options, none());
    binding.await.unwrap();
    queue
}

async fn messages(vhost: &Vhost, queue: &str) -> u32 {
    let check = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    let channel = vhost.channel().await;
    let declaring = channel.queue_declare(queue.into(), check, FieldTable::default());
    declaring.await.unwrap().message_count()
}

#[tokio::test]
async fn subscribers_of_an_exchange_with_an_alternate_one_are_told() {
    let vhost = RabbitMq::shared().await.vhost().await;
    vhost
        .declare_exchange("unrouted", ExchangeKind::Fanout)
        .await;
    let unrouted = backend(&vhost, "unrouted", "").await;
    with_an_alternate(&vhost, ExchangeKind::Direct).await;
    let house = House::start(vhost, |builder| {
        builder.set("feed.verify_interval", "300ms")
    })
    .await;
    let mut clients = house.subscribed().await;
    until_looked_at(&house.vhost).await;
    assert_eq!(
        messages(&house.vhost, &unrouted).await,
        0,
        "it came to the feed only"
    );
    delete(&house.vhost).await;
    with_an_alternate(&house.vhost, ExchangeKind::Direct).await;
    are_told(&house, &mut clients).await;
}

/// In a topic or fanout exchange others would get what is published: there, nothing is.
#[tokio::test]
async fn backends_see_nothing_of_it() {
    let direct = house(ExchangeKind::Direct, as_it_is).await;
    let vhost = &direct.vhost;
    // A direct exchange hands on to another by key.
    vhost.declare_exchange("audit", ExchangeKind::Topic).await;
    let audit = backend(vhost, "audit", "#").await;
    let wild = backend(vhost, FEED, "#").await;
    let mut clients = direct.subscribed().await;
    until_looked_at(vhost).await;
    assert_eq!(
        (messages(vhost, &audit).await, messages(vhost, &wild).await),
        (0, 0)
    );
    direct.push(["hello"]).await;
    for client in &mut clients {
        client.expect_message("hello").await;
    }

    for kind in [ExchangeKind::Topic, ExchangeKind::Fanout] {
        let house = house(kind.clone(), as_it_is).await;
        let all = backend(&house.vhost, FEED, "#").await;
        let _clients = house.subscribed().await;
        // So long as to be bound again and again.
        for _ in 0..3 {
            take_away(&house.vhost).await;
            until_a_feed_is_bound(&house).await;
        }
        assert_eq!(messages(&house.vhost, &all).await, 0, "{kind:?}");
    }
}

/// An account that may only listen cannot watch; the bindings are made again all the same.
#[tokio::test]
async fn an_account_that_may_not_publish_binds_again() {
    let vhost = RabbitMq::shared().await.vhost().await;
    vhost.declare_exchange(FEED, ExchangeKind::Direct).await;
    let (api, account) = (vhost.node().api(), unique("gateway"));
    api.add_user(&account, "p").await;
    let write = "^(stentor\\..*|amq\\.default)$";
    let permissions = ["^(stentor\\..*|feed)$", write, ".*"];
    api.allow(vhost.name(), &account, permissions).await;
    let url = format!("amqp://{account}:p@{}", vhost.node().amqp_address());
    let house = House::start(vhost, |builder| {
        builder
            .set("broker.url", url)
            .set("feed.verify_interval", "300ms")
    })
    .await;
    let clients = house.subscribed().await;
    house.gateway.until_logged("cannot be watched").await;
    take_away(&house.vhost).await;
    until_bound_again(&house).await;
    are_served(&house, clients).await;
}

#[tokio::test]
async fn where_the_broker_tells_of_it_who_stays_is_told_at_once() {
    let plugins = ["rabbitmq_management", "rabbitmq_event_exchange"];
    let node = Arc::new(RabbitMq::own_bare(&plugins, "").await);
    // The plug-in publishes there.
    let vhost = node.default_vhost();
    for kind in [
        ExchangeKind::Topic,
        ExchangeKind::Fanout,
        ExchangeKind::Direct,
    ] {
        vhost.declare_exchange(FEED, kind.clone()).await;
        let house = House::start(vhost.clone(), |builder| {
            builder.set("feed.verify_interval", "1h")
        })
        .await;
        let mut clients = house.subscribed().await;
        eventually(DEADLINE, "it listens", async || {
            house
                .vhost
                .is_bound("amq.rabbitmq.event", "exchange.deleted")
                .await
        })
        .await;
        make_anew(&house.vhost, kind).await;
        are_told(&house, &mut clients).await;
        delete(&house.vhost).await;
    }
}
