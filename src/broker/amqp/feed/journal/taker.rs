//! One feed's messages from its journal: what is done with each, on the connection's task.

use std::sync::{Arc, atomic::Ordering};

use amqp_wire::{
    Body, Delivery, Value,
    encode::{Fields, Short},
};
use hashbrown::DefaultHashBuilder;

use super::Side;
use crate::{
    broker::{
        FeedId, FeedSink, JournalId, OFFSET_HEADER, Stored,
        amqp::{
            feed::{Shared, sentinel::Sentinel, taker::interrupted},
            whole, wire,
        },
        journal::{STREAMS, stored},
    },
    telemetry::ReadAt,
};

/// The consumer's argument that says where it begins.
const OFFSET: &str = OFFSET_HEADER;
/// Offsets have holes of one.
const HOLE: u64 = 2;

/// Hands over a journal's messages.
pub(in crate::broker::amqp::feed) struct Journaled {
    id: FeedId,
    journal: JournalId,
    sink: Arc<dyn FeedSink>,
    sentinel: Arc<Sentinel>,
    side: Arc<Side>,
    hasher: DefaultHashBuilder,
    /// The last offset, and the fingerprint of what stands there.
    last: Option<(u64, u64)>,
    /// The first message of a consumer shows whether the stream is still the same.
    is_checked: bool,
}

impl Journaled {
    pub(super) fn new(
        shared: &Shared,
        id: &FeedId,
        side: &Arc<Side>,
        sentinel: &Arc<Sentinel>,
    ) -> Self {
        Self {
            id: id.clone(),
            journal: JournalId::new(&shared.vhost, &id.exchange),
            sink: Arc::clone(&shared.sink),
            sentinel: Arc::clone(sentinel),
            side: Arc::clone(side),
            hasher: DefaultHashBuilder::default(),
            last: None,
            is_checked: false,
        }
    }

    /// The last offset that was read.
    pub(super) fn last(&self) -> Option<u64> {
        self.last.map(|(offset, _)| offset)
    }

    /// The next messages come by another consumer.
    pub(super) fn reconnected(&mut self) {
        self.is_checked = false;
    }

    /// It begins with the last message, which has to come again; the first time with the newest ones.
    pub(in crate::broker::amqp::feed) fn arguments(&self) -> Fields {
        let name = Short::cut(OFFSET);
        match self.last {
            Some((offset, _)) => number(name, offset),
            None => Fields::default().text(name, "last"),
        }
    }

    pub(in crate::broker::amqp::feed) fn take(&mut self, delivery: Delivery<'_>, read_at: ReadAt) {
        let Some(offset) = offset(&delivery) else {
            return interrupted(
                &*self.sink,
                &self.id,
                "a message of its journal has no offset",
            );
        };
        let print = wire::fingerprint(&self.hasher, &delivery);
        let is_first = !std::mem::replace(&mut self.is_checked, true);
        if let Some((last, last_print)) = self.last {
            if is_first && (offset, print) != (last, last_print) {
                self.sink.restart(&self.id);
                let why = "its journal was deleted and made anew, or what this server had not read \
                           yet was not kept";
                interrupted(&*self.sink, &self.id, why);
            } else if offset <= last {
                return;
            } else if offset.saturating_sub(last) > HOLE {
                self.side.jumps.note(last.saturating_add(1));
            }
        }
        self.last = Some((offset, print));
        self.side.last.store(offset, Ordering::Relaxed);
        if is_marker(&delivery) {
            self.sink.pass(&self.id, offset);
            let name = delivery.properties().message_id;
            // After it was passed: whoever waits for it relies on that.
            if name.is_some_and(|name| *name == *self.side.name.as_str().as_bytes()) {
                self.side.begin();
                self.side.markers.note(&delivery);
            }
            return;
        }
        if self.sentinel.takes(&delivery) {
            return self.sink.pass(&self.id, offset);
        }
        if let Body::TooLarge(size) = delivery.body {
            // For those who are away and come back.
            let left_out = Stored {
                is_left_out: true,
                ..stored(wire::message(delivery), self.journal, offset)
            };
            self.sink.remember(&self.id, left_out);
            let reason = format!("a message of {size} bytes exceeds feed.max_length_bytes");
            return interrupted(&*self.sink, &self.id, &reason);
        }
        let mut message = wire::message(delivery);
        message.read_at = read_at;
        let stored = stored(message, self.journal, offset);
        match self.side.has_begun() {
            true => self.sink.store(&self.id, stored),
            // It was there before anybody subscribed.
            false => self.sink.remember(&self.id, stored),
        }
    }
}

/// Where a message stands in its stream.
pub(super) fn offset(delivery: &Delivery<'_>) -> Option<u64> {
    match delivery.properties().headers.get(OFFSET_HEADER.as_bytes()) {
        Some(Value::Signed(offset)) => u64::try_from(offset).ok(),
        Some(Value::Unsigned(offset)) => Some(offset),
        _ => None,
    }
}

/// Whether a message was published to a journal's stream itself, which only markers are.
pub(super) fn is_marker(delivery: &Delivery<'_>) -> bool {
    delivery.exchange.is_empty() && delivery.routing_key.starts_with(STREAMS.as_bytes())
}

/// Whether a message is the gateway's own, and for nobody.
pub(super) fn is_own(delivery: &Delivery<'_>) -> bool {
    is_marker(delivery) || whole::is_secret(delivery.routing_key)
}

/// The properties of a message that stands there in its stream.
#[cfg(test)]
pub(super) fn with_offset(offset: u64) -> Vec<u8> {
    let headers = [&b"\x0fx-stream-offsetl"[..], &offset.to_be_bytes()].concat();
    let length = u32::try_from(headers.len()).unwrap().to_be_bytes();
    [&[0x20, 0][..], &length, &headers].concat()
}

pub(super) fn number(name: Short<'_>, offset: u64) -> Fields {
    Fields::default().number(name, i64::try_from(offset).unwrap_or(i64::MAX))
}
