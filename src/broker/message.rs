//! Messages, as the gateway sees them.

use std::sync::Arc;

use bytes::Bytes;

/// A message that the broker delivered.
#[derive(Clone, Debug)]
pub struct Message {
    /// The exchange that it was published to; empty is the default exchange.
    pub exchange: Box<str>,
    /// The routing key that it was published with.
    pub routing_key: Box<str>,
    /// Properties and headers.
    pub properties: Properties,
    /// Further routing keys, from the `CC` header (RabbitMQ's sender-selected distribution).
    pub cc: Vec<Box<str>>,
    /// The body.
    pub body: Bytes,
}

/// A message of a dedicated consumer.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The message.
    pub message: Arc<Message>,
    /// What [`super::Consumer::settle`] calls it; grows within the consumer.
    pub tag: u64,
    /// Whether somebody may have seen it before.
    pub redelivered: bool,
}

/// The AMQP basic properties that STOMP clients can see or set, and headers as texts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties {
    /// `content-type`.
    pub content_type: Option<Box<str>>,
    /// `content-encoding`.
    pub content_encoding: Option<Box<str>>,
    /// Delivery mode 2.
    pub persistent: bool,
    /// `priority`.
    pub priority: Option<u8>,
    /// `correlation-id`.
    pub correlation_id: Option<Box<str>>,
    /// `reply-to`, in AMQP's terms: a queue's name.
    pub reply_to: Option<Box<str>>,
    /// `expiration`: milliseconds, as text.
    pub expiration: Option<Box<str>>,
    /// `message-id`.
    pub message_id: Option<Box<str>>,
    /// `timestamp`: seconds since 1970.
    pub timestamp: Option<u64>,
    /// `type`.
    pub kind: Option<Box<str>>,
    /// `user-id`.
    pub user_id: Option<Box<str>>,
    /// `app-id`.
    pub app_id: Option<Box<str>>,
    /// Headers: texts as they are, numbers and booleans as text, nested values left out.
    pub headers: Vec<(Box<str>, Box<str>)>,
}
