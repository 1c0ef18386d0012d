//! A virtual host of a test's own, and a backend that publishes there.

use std::sync::Arc;

use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, ExchangeKind,
    options::{BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions},
    types::FieldTable,
};
use serde_json::Value;

use super::{RabbitMq, is_strict};

/// The exchange that most tests publish to.
pub const FEED: &str = "feed";

/// A virtual host that no other test uses.
#[derive(Clone, Debug)]
pub struct Vhost {
    node: Arc<RabbitMq>,
    name: String,
}

impl Vhost {
    pub(super) const fn new(node: Arc<RabbitMq>, name: String) -> Self {
        Self { node, name }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The node it is on.
    #[must_use]
    pub const fn node(&self) -> &Arc<RabbitMq> {
        &self.node
    }

    /// Its AMQP address, for user `guest`.
    #[must_use]
    pub fn amqp_url(&self) -> String {
        self.node.amqp_url(&self.name)
    }

    /// Opens a channel in confirm mode, on a connection of its own, on the test's runtime.
    ///
    /// # Panics
    /// The node refuses.
    pub async fn channel(&self) -> Channel {
        let connection = Connection::connect(&self.amqp_url(), ConnectionProperties::default())
            .await
            .unwrap_or_else(|error| panic!("{}: {error}", self.amqp_url()));
        let channel = connection.create_channel().await.expect("a channel");
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await
            .expect("confirm mode");
        channel
    }

    /// Declares a durable exchange.
    ///
    /// # Panics
    /// The node refuses.
    pub async fn declare_exchange(&self, exchange: &str, kind: ExchangeKind) {
        let options = ExchangeDeclareOptions {
            durable: true,
            ..ExchangeDeclareOptions::default()
        };
        self.channel()
            .await
            .exchange_declare(exchange.into(), kind, options, FieldTable::default())
            .await
            .unwrap_or_else(|error| panic!("declare {exchange}: {error}"));
    }

    /// Publishes messages as a backend would, in order, persistent, and waits until the broker
    /// has confirmed all.
    ///
    /// # Panics
    /// The node refuses one.
    pub async fn publish<B: AsRef<[u8]>>(
        &self,
        exchange: &str,
        key: &str,
        bodies: impl IntoIterator<Item = B>,
    ) {
        let channel = self.channel().await;
        let mut confirms = Vec::new();
        for body in bodies {
            let confirm = channel
                .basic_publish(
                    exchange.into(),
                    key.into(),
                    BasicPublishOptions::default(),
                    body.as_ref(),
                    BasicProperties::default().with_delivery_mode(2),
                )
                .await;
            confirms.push(confirm.expect("the message is sent"));
        }
        for confirm in confirms {
            let confirmation = confirm.await.expect("the broker answers");
            assert!(
                matches!(confirmation, Confirmation::Ack(None)),
                "{confirmation:?}"
            );
        }
    }

    /// Its queues, see [`super::Api::queues`].
    pub async fn queues(&self) -> Vec<Value> {
        self.node.api().queues(&self.name).await
    }

    /// Its bindings, see [`super::Api::bindings`].
    pub async fn bindings(&self) -> Vec<Value> {
        self.node.api().bindings(&self.name).await
    }

    /// True if a queue is bound to `exchange` by `key`: a subscription is in force.
    pub async fn is_bound(&self, exchange: &str, key: &str) -> bool {
        self.bindings()
            .await
            .iter()
            .any(|binding| binding["source"] == exchange && binding["routing_key"] == key)
    }

    /// The `connection_name` of each of its AMQP connections; empty where a client gave none.
    pub async fn connections(&self) -> Vec<String> {
        if !is_strict() {
            let connections = self.node.api().connections(&self.name).await;
            let name = |one: &Value| one["client_properties"]["connection_name"].clone();
            let names = connections.iter().map(name);
            return names.map(text).collect();
        }
        let columns = ["vhost", "client_properties"];
        let list = ["--silent", "--formatter", "json", "list_connections"];
        let listed = self.node.ctl(&[&list[..], &columns[..]].concat()).await;
        let connections: Vec<Value> = serde_json::from_str(&listed).expect("a list of connections");
        let ours = connections.iter().filter(|one| one["vhost"] == self.name);
        // Each property is a name, a type and a value.
        let name = |one: &Value| {
            let mut properties = one["client_properties"].as_array()?.iter();
            let named = properties.find(|property| property[0] == "connection_name")?;
            Some(text(named[2].clone()))
        };
        ours.map(|one| name(one).unwrap_or_default()).collect()
    }

    /// Closes all its connections, as an operator would.
    pub async fn close_connections(&self) {
        let command = [
            "close_all_connections",
            "-p",
            &self.name,
            "closed by a test",
        ];
        self.node.ctl(&command).await;
    }

    /// Messages published to one of its exchanges, as RabbitMQ counts them.
    pub async fn published_to(&self, exchange: &str) -> u64 {
        if !is_strict() {
            let path = format!("/exchanges/{}/{exchange}", self.name);
            let exchange = self.node.api().get(&path).await;
            let count = exchange["message_stats"]["publish_in"].as_u64();
            return count.unwrap_or_default();
        }
        let vhost = &self.name;
        let sum = format!(
            "lists:sum([Count || {{{{_, {{resource, <<\"{vhost}\">>, exchange, <<\"{exchange}\">>}}}}, \
             Count, _, _, _, _}} <- ets:tab2list(channel_exchange_metrics)])."
        );
        let answer = self.node.ctl(&["eval", &sum]).await;
        answer.trim().parse().expect("a number")
    }

    /// How many messages of a queue wait, and how many are with consumers that have not acknowledged
    /// them: as they are now, not as they were when RabbitMQ last wrote its statistics.
    pub async fn held_by(&self, queue: &str) -> (u64, u64) {
        let list = ["--silent", "--formatter", "json", "list_queues", "-p"];
        let columns = ["name", "messages_ready", "messages_unacknowledged"];
        let list = [&list[..], &[&self.name], &columns[..]].concat();
        let listed = self.node.ctl(&list).await;
        let queues: Vec<Value> = serde_json::from_str(&listed).expect("a list of queues");
        let queue = queues.iter().find(|one| one["name"] == queue);
        let queue = queue.expect("it is there");
        let count = |what: &str| queue[what].as_u64().expect("a number");
        (count("messages_ready"), count("messages_unacknowledged"))
    }

    /// The arguments of the one consumer of a queue; `None`: it has none yet.
    pub async fn consumer_arguments(&self, queue: &str) -> Option<Value> {
        if !is_strict() {
            let queue = self.node.api().queue(&self.name, queue).await?;
            let consumer = queue["consumer_details"].get(0)?;
            return Some(consumer["arguments"].clone());
        }
        let list = ["--silent", "--formatter", "json", "list_consumers", "-p"];
        let list = [&list[..], &[self.name.as_str(), "queue_name", "arguments"]].concat();
        let listed = self.node.ctl(&list).await;
        let consumers: Vec<Value> = serde_json::from_str(&listed).expect("a list of consumers");
        let consumer = consumers.iter().find(|one| one["queue_name"] == queue)?;
        // A name, a type and a value each.
        let arguments = consumer["arguments"].as_array()?.iter();
        let pairs = arguments.map(|one| Some((one[0].as_str()?.to_owned(), one[2].clone())));
        pairs.collect::<Option<_>>().map(Value::Object)
    }
}

fn text(value: Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
