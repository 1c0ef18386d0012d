//! One feed's messages, and the marks of those that were dropped: what is done with each, on the
//! connection's task.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use amqp_wire::{Body, Delivery, encode::Fields};
use hashbrown::DefaultHashBuilder;

use super::{Shared, journal::Journaled, sentinel::Sentinel};
use crate::{
    broker::{
        FeedId, FeedSink,
        amqp::{
            handed::{Handed, Seen},
            reader, wire,
        },
    },
    telemetry::{self, ReadAt},
};

/// What takes a consumer's messages.
pub(super) enum FeedTaker {
    /// Of the feed's queue.
    Messages(Messages),
    /// Of the queue for what the broker dropped from it.
    Marks(Marks),
    /// Of the feed's journal.
    Journal(Journaled),
}

/// Hands over a feed's messages, each once.
pub(super) struct Messages {
    id: FeedId,
    sink: Arc<dyn FeedSink>,
    /// Keyed at random, so that nobody can make two messages that look the same.
    hasher: DefaultHashBuilder,
    handed: Handed,
    sentinel: Arc<Sentinel>,
    /// The feed was given up.
    is_ended: Arc<AtomicBool>,
    /// Its queue is a replicated one.
    is_replicated: bool,
}

/// Looks at dead letters.
pub(super) struct Marks {
    id: FeedId,
    sink: Arc<dyn FeedSink>,
    queue: Box<str>,
    /// Why messages of the feed were lost, until it is told.
    lost: Option<&'static str>,
    /// The feed was given up.
    is_ended: Arc<AtomicBool>,
    /// Its queue is a replicated one.
    is_replicated: bool,
}

impl Messages {
    pub(super) fn new(
        shared: &Shared,
        id: &FeedId,
        sentinel: &Arc<Sentinel>,
        is_ended: &Arc<AtomicBool>,
    ) -> Self {
        let prefetch = usize::from(shared.config.prefetch);
        Self {
            id: id.clone(),
            sink: Arc::clone(&shared.sink),
            hasher: DefaultHashBuilder::default(),
            handed: Handed::new(prefetch.saturating_mul(2)),
            sentinel: Arc::clone(sentinel),
            is_ended: Arc::clone(is_ended),
            is_replicated: shared.config.replicated,
        }
    }

    /// The next messages come by a new connection: they may be old ones. So many wait, as far as it
    /// is known.
    pub(super) fn reconnected(&mut self, waiting: Option<usize>) {
        self.handed.reconnected(waiting);
    }

    fn take(&mut self, delivery: Delivery<'_>, read_at: ReadAt) {
        // The next feed of that name is not to get it.
        if self.is_ended.load(Ordering::Acquire) {
            return;
        }
        let print = wire::fingerprint(&self.hasher, &delivery);
        let seen = self.handed.look(print, delivery.redelivered);
        if seen == Seen::Before {
            return;
        }
        if self.sentinel.takes(&delivery) {
            return;
        }
        if let Body::TooLarge(size) = delivery.body {
            let reason = format!("a message of {size} bytes exceeds feed.max_length_bytes");
            interrupted(&*self.sink, &self.id, &reason);
            return;
        }
        let may_be_known = seen == Seen::Perhaps || (self.is_replicated && delivery.redelivered);
        let mut message = wire::message(delivery);
        message.may_be_known = may_be_known;
        message.read_at = read_at;
        self.sink.deliver(&self.id, message);
    }
}

impl Marks {
    pub(super) fn new(
        shared: &Shared,
        id: &FeedId,
        queue: &str,
        is_ended: &Arc<AtomicBool>,
    ) -> Self {
        Self {
            id: id.clone(),
            sink: Arc::clone(&shared.sink),
            queue: queue.into(),
            lost: None,
            is_ended: Arc::clone(is_ended),
            is_replicated: shared.config.replicated,
        }
    }
}

impl reader::DeliveryTaker for FeedTaker {
    /// A quorum queue knows no exclusive consumers. Of several, one is served.
    fn is_exclusive(&self) -> bool {
        match self {
            Self::Messages(messages) => !messages.is_replicated,
            Self::Marks(marks) => !marks.is_replicated,
            // All nodes read it.
            Self::Journal(_) => false,
        }
    }

    fn is_done(&self) -> bool {
        match self {
            Self::Messages(_) | Self::Marks(_) => false,
            Self::Journal(journal) => journal.has_jumped(),
        }
    }

    fn arguments(&self) -> Fields {
        match self {
            Self::Messages(_) | Self::Marks(_) => Fields::default(),
            Self::Journal(journal) => journal.arguments(),
        }
    }

    fn take(&mut self, delivery: Delivery<'_>, read_at: ReadAt) {
        match self {
            Self::Messages(messages) => messages.take(delivery, read_at),
            Self::Marks(marks) => {
                marks.lost = marks.lost.or(wire::why_dropped(&delivery, &marks.queue));
            }
            Self::Journal(journal) => journal.take(delivery, read_at),
        }
    }

    fn acknowledged(&mut self) {
        match self {
            Self::Messages(messages) => messages.handed.acknowledged(),
            Self::Journal(_) => {}
            Self::Marks(marks) => {
                // Told once for many.
                if let Some(why) = marks.lost.take()
                    && !marks.is_ended.load(Ordering::Acquire)
                {
                    interrupted(&*marks.sink, &marks.id, why);
                }
            }
        }
    }
}

/// Messages of the feed may have been lost.
pub(super) fn interrupted(sink: &dyn FeedSink, id: &FeedId, reason: &str) {
    telemetry::feed_interrupted(id, reason);
    sink.interrupted(id, reason);
}
