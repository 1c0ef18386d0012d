//! A backend of a case.

use std::time::Duration;

use lapin::{
    BasicProperties, Channel, Confirmation, ExchangeKind,
    options::{
        BasicAckOptions, BasicGetOptions, BasicPublishOptions, ExchangeDeclareOptions,
        QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
    },
    types::{AMQPValue, FieldTable},
};
use serde_json::Value;
use testkit::{DEADLINE, Vhost, eventually};

use crate::{client::BY_THE_WAY, scene::Record};

/// An AMQP channel. In names and texts, `~` is replaced as in frames.
pub(crate) struct Amqp {
    vhost: Vhost,
    channel: Channel,
    record: Record,
}

impl Amqp {
    pub(crate) async fn connect(vhost: &Vhost, record: Record) -> Self {
        Self {
            vhost: vhost.clone(),
            channel: vhost.channel().await,
            record,
        }
    }

    /// Declares a durable exchange.
    pub(crate) async fn exchange(&self, name: &str, kind: ExchangeKind) {
        let options = ExchangeDeclareOptions {
            durable: true,
            ..ExchangeDeclareOptions::default()
        };
        let name = self.record.real(name);
        self.channel
            .exchange_declare(name.into(), kind, options, FieldTable::default())
            .await
            .expect("the exchange is declared");
    }

    /// Declares a durable queue.
    pub(crate) async fn queue(&self, name: &str, arguments: FieldTable) {
        let options = QueueDeclareOptions {
            durable: true,
            ..QueueDeclareOptions::default()
        };
        let name = self.record.real(name);
        self.channel
            .queue_declare(name.into(), options, arguments)
            .await
            .expect("the queue is declared");
    }

    pub(crate) async fn bind(&self, queue: &str, exchange: &str, key: &str) {
        let [queue, exchange, key] = [queue, exchange, key].map(|name| self.record.real(name));
        self.channel
            .queue_bind(
                queue.into(),
                exchange.into(),
                key.into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            )
            .await
            .expect("the queue is bound");
    }

    pub(crate) async fn delete_queue(&self, queue: &str) {
        let queue = self.record.real(queue);
        self.channel
            .queue_delete(queue.into(), QueueDeleteOptions::default())
            .await
            .expect("the queue is deleted");
    }

    pub(crate) async fn publish(&self, exchange: &str, key: &str, body: &str) {
        self.publish_with(exchange, key, body, BasicProperties::default())
            .await;
    }

    /// Publishes, and waits for the confirm.
    pub(crate) async fn publish_with(
        &self,
        exchange: &str,
        key: &str,
        body: impl AsRef<[u8]>,
        properties: BasicProperties,
    ) {
        let [exchange, key] = [exchange, key].map(|name| self.record.real(name));
        let confirm = self
            .channel
            .basic_publish(
                exchange.into(),
                key.into(),
                BasicPublishOptions::default(),
                body.as_ref(),
                properties,
            )
            .await
            .expect("the message is sent");
        let confirmation = confirm.await.expect("the broker answers");
        assert!(
            matches!(confirmation, Confirmation::Ack(None)),
            "{confirmation:?}"
        );
    }

    /// Takes a message out of a queue, recording its properties and headers; answers the properties.
    pub(crate) async fn get(&self, queue: &str) -> BasicProperties {
        self.get_showing(queue, &[]).await
    }

    /// As [`Self::get`]; shows headers that are left out elsewhere.
    pub(crate) async fn get_showing(&self, queue: &str, shows: &[&str]) -> BasicProperties {
        let queue = self.record.real(queue);
        let got = eventually(DEADLINE, format!("a message in {queue}"), async || {
            let got = self
                .channel
                .basic_get(queue.as_str().into(), BasicGetOptions::default())
                .await;
            got.expect("the queue is there")
        })
        .await;
        got.delivery
            .acker
            .ack(BasicAckOptions::default())
            .await
            .expect("it is acknowledged");
        let body = String::from_utf8_lossy(&got.delivery.data);
        let properties = &got.delivery.properties;
        let line = format!("AMQP{} | {}", shown(properties, shows), body.escape_debug());
        self.record.push("", '<', &line);
        properties.clone()
    }

    /// Records how many messages a queue has ready, and how many consumers.
    pub(crate) async fn count(&self, queue: &str) {
        let found = self.passive(&self.record.real(queue)).await;
        let (ready, consumers) = (found.message_count(), found.consumer_count());
        let line = format!("queue {queue}: {ready} ready, {consumers} consumers");
        self.record.push("", '<', &line);
    }

    /// As [`Self::count`], as soon as something is ready, or a second has passed: the messages of a
    /// client that left come back within a moment.
    pub(crate) async fn count_what_comes(&self, queue: &str) {
        let name = self.record.real(queue);
        let comes = eventually(Duration::from_secs(10), "", async || {
            self.passive(&name).await.message_count() > 0
        });
        let _ = tokio::time::timeout(Duration::from_secs(1), comes).await;
        self.count(queue).await;
    }

    async fn passive(&self, queue: &str) -> lapin::Queue {
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        self.channel
            .queue_declare(queue.into(), options, FieldTable::default())
            .await
            .expect("the queue is there")
    }

    /// Waits until a queue has so many messages ready.
    pub(crate) async fn until_ready(&self, queue: &str, count: u32) {
        let name = self.record.real(queue);
        eventually(
            DEADLINE,
            format!("{count} messages in {queue}"),
            async || self.passive(&name).await.message_count() == count,
        )
        .await;
        self.record
            .push("", '<', &format!("queue {queue}: {count} ready"));
    }

    /// Records the kind of this queue, or that it does not exist.
    pub(crate) async fn describe(&self, queue: &str) {
        let name = self.record.real(queue);
        let line = match self.find(&name).await {
            None => format!("queue {queue}: none"),
            Some(found) => format!("queue {queue}: {}", kind(&found)),
        };
        self.record.push("", '<', &line);
    }

    /// As [`Self::describe`], of a queue that may go within a moment: RabbitMQ 4.3 answers before
    /// it is gone.
    pub(crate) async fn describe_what_stays(&self, queue: &str) {
        let name = self.record.real(queue);
        let gone = eventually(Duration::from_secs(10), "", async || {
            self.find(&name).await.is_none()
        });
        let _ = tokio::time::timeout(Duration::from_secs(1), gone).await;
        self.describe(queue).await;
    }

    /// Records the arguments of a queue's one consumer.
    pub(crate) async fn consumer(&self, queue: &str) {
        let name = self.record.real(queue);
        let arguments = eventually(DEADLINE, format!("{queue} has a consumer"), async || {
            self.vhost.consumer_arguments(&name).await
        })
        .await;
        let line = format!("the consumer of {queue}: {arguments}");
        self.record.push("", '<', &line);
    }

    /// Waits until the queue is gone.
    pub(crate) async fn until_gone(&self, queue: &str) {
        let name = self.record.real(queue);
        eventually(DEADLINE, format!("{queue} is gone"), async || {
            self.find(&name).await.is_none()
        })
        .await;
        self.record.push("", '<', &format!("queue {queue}: gone"));
    }

    /// Records what kind of queues are bound to an exchange by this key.
    pub(crate) async fn bound(&self, exchange: &str, key: &str) {
        let key = self.record.real(key);
        let mut lines = Vec::new();
        for binding in self.vhost.bindings().await {
            if binding["source"] == exchange && binding["routing_key"] == key.as_str() {
                let name = binding["destination"].as_str().unwrap_or_default();
                let queue = self.find(name).await.expect("what is bound is there");
                lines.push(format!("bound to {exchange}: {}", kind(&queue)));
            }
        }
        lines.sort();
        if lines.is_empty() {
            lines.push(format!("bound to {exchange}: nothing"));
        }
        for line in lines {
            self.record.push("", '<', &line);
        }
    }

    async fn find(&self, queue: &str) -> Option<Value> {
        let api = self.vhost.node().api();
        api.queue(self.vhost.name(), queue).await
    }
}

/// The type that a queue was declared with. It is a classic queue unless it says otherwise:
/// RabbitMQ 4 shows the type of all, and 3.10 of those that were declared so.
fn kind(queue: &Value) -> String {
    let mut arguments = queue["arguments"].clone();
    if let Value::Object(arguments) = &mut arguments
        && arguments
            .get("x-queue-type")
            .is_some_and(|kind| kind == "classic")
    {
        arguments.remove("x-queue-type");
    }
    format!(
        "durable:{} auto-delete:{} exclusive:{} {arguments}",
        queue["durable"], queue["auto_delete"], queue["exclusive"],
    )
}

/// Properties and headers, in a fixed order.
fn shown(properties: &BasicProperties, shows: &[&str]) -> String {
    let text = |value: &Option<lapin::types::ShortString>| value.as_ref().map(ToString::to_string);
    let number = |value: Option<u64>| value.map(|value| value.to_string());
    let pairs = [
        ("content-type", text(properties.content_type())),
        ("content-encoding", text(properties.content_encoding())),
        (
            "delivery-mode",
            number(properties.delivery_mode().map(u64::from)),
        ),
        ("priority", number(properties.priority().map(u64::from))),
        ("correlation-id", text(properties.correlation_id())),
        ("reply-to", text(properties.reply_to())),
        ("expiration", text(properties.expiration())),
        ("message-id", text(properties.message_id())),
        ("timestamp", number(*properties.timestamp())),
        ("type", text(properties.kind())),
        ("user-id", text(properties.user_id())),
        ("app-id", text(properties.app_id())),
        ("cluster-id", text(properties.cluster_id())),
    ];
    let mut line = String::new();
    for (name, value) in pairs {
        if let Some(value) = value {
            line.push_str(&format!(" {name}:{value}"));
        }
    }
    let mut headers: Vec<String> = Vec::new();
    for (name, value) in properties.headers().iter().flat_map(FieldTable::inner) {
        let name = name.as_str();
        if shows.contains(&name) || !BY_THE_WAY.contains(&name) {
            let value = match value {
                AMQPValue::LongString(text) => {
                    String::from_utf8_lossy(text.as_bytes()).into_owned()
                }
                other => format!("{other:?}"),
            };
            headers.push(format!(" {name}={value}"));
        }
    }
    headers.sort();
    line + &headers.concat()
}
