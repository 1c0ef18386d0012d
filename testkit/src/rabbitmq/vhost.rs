//! A virtual host of a test's own, and a backend that publishes there.

use std::sync::Arc;

use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, ExchangeKind,
    options::{BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions},
    types::FieldTable,
};
use serde_json::Value;

use super::RabbitMq;

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

    /// Its AMQP connections, see [`super::Api::connections`].
    pub async fn connections(&self) -> Vec<Value> {
        self.node.api().connections(&self.name).await
    }
}
