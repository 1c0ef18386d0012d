//! Numbered messages of the gateway's own that show whether something is still so.

use std::sync::atomic::{AtomicU64, Ordering};

use amqp_wire::{Body, Delivery};
use tokio::sync::Notify;

/// Which of them were published, and which came.
#[derive(Default)]
pub(super) struct Arrivals {
    /// The newest message that was to be published.
    last: AtomicU64,
    /// The newest message that came.
    seen: AtomicU64,
    /// One came.
    arrived: Notify,
}

impl Arrivals {
    /// The number of the next message.
    pub(super) fn next(&self) -> u64 {
        let last = self.last.fetch_add(1, Ordering::Relaxed);
        last.wrapping_add(1)
    }

    /// One of them came.
    pub(super) fn note(&self, delivery: &Delivery<'_>) {
        if let Body::Whole(body) = &delivery.body
            && let Ok(number) = <[u8; 8]>::try_from(&**body)
        {
            let number = u64::from_be_bytes(number);
            self.seen.fetch_max(number, Ordering::Relaxed);
            self.arrived.notify_waiters();
        }
    }

    /// Whether the message has come, or a later one.
    pub(super) fn has_come(&self, number: u64) -> bool {
        self.seen.load(Ordering::Relaxed) >= number
    }

    /// Done when the message has come, or a later one.
    pub(super) async fn came(&self, number: u64) {
        loop {
            let arrived = self.arrived.notified();
            if self.has_come(number) {
                return;
            }
            arrived.await;
        }
    }
}
