//! A shared feed: the sink of one link, and what waits for it.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::handover::Handover;
use crate::{
    broker::{FeedId, FeedSink, Message},
    telemetry::ReadAt,
};

/// The feed that a link binds by [`crate::broker::VirtualHost::bind_feed`].
pub(super) struct Feed {
    /// Its identity in the virtual host, among queues and the feeds of all links.
    pub(super) serial: u64,
    id: FeedId,
    sink: Arc<dyn FeedSink>,
    waiting: Handover<Message>,
    waiting_bytes: AtomicUsize,
    most_bytes: usize,
}

impl Feed {
    pub(super) fn new(serial: u64, id: FeedId, sink: Arc<dyn FeedSink>, most_bytes: usize) -> Self {
        Self {
            serial,
            id,
            sink,
            waiting: Handover::new(),
            waiting_bytes: AtomicUsize::new(0),
            most_bytes,
        }
    }

    /// Hands a message to the sink, or leaves it to the thread that is doing that now. Returns
    /// true if there was room for it.
    pub(super) fn deliver(&self, mut message: Message) -> bool {
        message.read_at = ReadAt::now();
        let bytes = message.weight();
        let before = self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > self.most_bytes {
            self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        self.waiting.add(message);
        self.waiting.run(|message| {
            self.waiting_bytes
                .fetch_sub(message.weight(), Ordering::Relaxed);
            self.sink.deliver(&self.id, message);
        });
        true
    }
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Feed({})", self.id)
    }
}
