//! Messages that a queue gives up, on their way to its dead-letter exchange.

use std::sync::Arc;

use crate::broker::Message;

/// Why a queue gives a message up; RabbitMQ's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// A consumer discarded it.
    Rejected,
    /// Its time was up.
    Expired,
    /// The queue was too long.
    MaxLen,
}

impl Reason {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::MaxLen => "maxlen",
        }
    }
}

/// A message that was given up, and where it goes.
#[derive(Debug)]
pub(super) struct DeadLetter {
    pub(super) exchange: Box<str>,
    pub(super) message: Message,
    /// How often it was given up without anybody's having seen it.
    pub(super) hops: u8,
}

impl DeadLetter {
    /// RabbitMQ drops a message that dies of itself in a circle of queues, by the circle; here
    /// it is dropped by the number.
    pub(super) const MOST_HOPS: u8 = 16;

    /// `None` if it has gone round for too long.
    pub(super) fn new(
        message: Arc<Message>,
        reason: Reason,
        hops: u8,
        queue: &str,
        exchange: &str,
        key: Option<&str>,
    ) -> Option<Self> {
        const FIRST_QUEUE: &str = "x-first-death-queue";
        let hops = match reason {
            Reason::Rejected => 0,
            Reason::Expired | Reason::MaxLen => hops.saturating_add(1),
        };
        if hops > Self::MOST_HOPS {
            return None;
        }
        let Message {
            exchange: from,
            routing_key,
            mut properties,
            body,
            ..
        } = Arc::unwrap_or_clone(message);
        if reason == Reason::Expired {
            properties.expiration = None;
        }
        if !properties
            .headers
            .iter()
            .any(|(name, _)| **name == *FIRST_QUEUE)
        {
            properties.headers.extend([
                (FIRST_QUEUE.into(), queue.into()),
                ("x-first-death-reason".into(), reason.as_str().into()),
                ("x-first-death-exchange".into(), from),
            ]);
        }
        let routing_key = key.map_or(routing_key, Into::into);
        Some(Self {
            message: Message::new(exchange.into(), routing_key, properties, body),
            exchange: exchange.into(),
            hops,
        })
    }
}
