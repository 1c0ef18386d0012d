//! The way from a dedicated consumer to the mailbox of its client.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use stomp_session::{Problem, SubscriptionId};

use super::{Mailbox, Parcel};
use crate::broker::{BrokerError, Delivery, DeliverySink};

/// The sink of a dedicated consumer: the mailbox of the client that subscribed.
#[derive(Debug)]
pub struct DedicatedSink {
    mailbox: Arc<Mailbox>,
    subscription: SubscriptionId,
    /// The tag of the last message that was added to the mailbox. This and the next two are read and
    /// written under the mailbox's lock.
    last: AtomicU64,
    /// Up to this tag, the broker has taken all messages back. Tags only grow.
    stale: AtomicU64,
    has_ended: AtomicBool,
}

impl DedicatedSink {
    /// A sink for messages of this subscription.
    #[must_use]
    pub fn new(mailbox: Arc<Mailbox>, subscription: SubscriptionId) -> Self {
        Self {
            mailbox,
            subscription,
            last: AtomicU64::new(0),
            stale: AtomicU64::new(0),
            has_ended: AtomicBool::new(false),
        }
    }

    /// Keeps a message as [`Mailbox::hold`] does, unless the broker has taken it back since it was
    /// taken out of the mailbox: then it comes anew, and the copy of before is not written again.
    pub fn hold(&self, parcel: &Parcel) {
        let mut state = self.mailbox.state.lock();
        if parcel.tag > self.stale.load(Ordering::Relaxed) {
            state.hold(parcel);
        }
    }

    /// The subscription is over. From now on nothing is taken in, though the consumer has yet to
    /// end: its end gives back what it still delivers.
    pub fn end(&self) {
        let mut state = self.mailbox.state.lock();
        self.has_ended.store(true, Ordering::Relaxed);
        let subscription = self.subscription;
        self.mailbox
            .give_room(&mut state, |waiting| waiting.end(subscription));
    }
}

impl DeliverySink for DedicatedSink {
    fn deliver(&self, delivery: Delivery) {
        let mut state = self.mailbox.state.lock();
        if self.has_ended.load(Ordering::Relaxed) {
            return;
        }
        let (tag, previous) = (delivery.tag, self.last.load(Ordering::Relaxed));
        if self
            .mailbox
            .put_dedicated(&mut state, self.subscription, delivery, previous)
        {
            self.last.store(tag, Ordering::Relaxed);
        }
    }

    fn taken_back(&self) {
        let mut state = self.mailbox.state.lock();
        let last = self.last.swap(0, Ordering::Relaxed);
        self.stale.fetch_max(last, Ordering::Relaxed);
        let subscription = self.subscription;
        self.mailbox
            .give_room(&mut state, |waiting| waiting.forget_all(subscription));
    }

    fn lost(&self, reason: BrokerError) {
        let text = reason.told().into();
        self.mailbox.fail(match reason {
            BrokerError::Cancelled(_) => Problem::SubscriptionCancelled(text),
            BrokerError::QueueFailed(_) => Problem::QueueFailed(text),
            _ => Problem::FeedInterrupted(text),
        });
    }
}

/// A consumer keeps its sink for as long as a message of it can be settled.
impl Drop for DedicatedSink {
    fn drop(&mut self) {
        let mut state = self.mailbox.state.lock();
        let subscription = self.subscription;
        self.mailbox
            .give_room(&mut state, |waiting| waiting.forget_all(subscription));
    }
}
