//! A client's subscription to a feed.

use std::{
    fmt,
    sync::{Arc, Weak},
};

use tokio_util::task::AbortOnDropHandle;

use super::{Feed, Resume, ResumeError, Resumed, Subscriber};
use crate::{broker::routing, hub::mailbox::Acks, telemetry::SharedSubscriptionCounted};

/// A subscription served by a shared feed; ends when it is dropped.
pub struct SharedSubscription {
    pub(super) feed: Arc<Feed>,
    pub(super) pattern: Arc<str>,
    pub(super) subscriber: Subscriber,
    /// Its way through what was missed.
    pub(super) catching_up: Option<Box<AbortOnDropHandle<()>>>,
    pub(super) _counted: SharedSubscriptionCounted,
}

impl SharedSubscription {
    /// Catches up.
    pub(in crate::hub) async fn resume(&mut self, resume: &Resume) -> Result<Resumed, ResumeError> {
        let resuming = self.feed.resume(&self.pattern, &self.subscriber, resume);
        let (resumed, catching_up) = resuming.await?;
        self.catching_up = Some(Box::new(catching_up));
        Ok(resumed)
    }

    /// For [`Given::note`], for as long as it is there.
    #[must_use]
    pub fn given(&self) -> Given {
        Given {
            feed: Arc::downgrade(&self.feed),
            subscriber: self.subscriber.clone(),
        }
    }

    /// The exchange, and the pattern by which it listens.
    #[must_use]
    pub fn source(&self) -> (&str, &str) {
        (&self.feed.id.exchange, &self.pattern)
    }

    /// True if it gets the messages published to that exchange with that key.
    #[must_use]
    pub fn hears(&self, exchange: &str, routing_key: &str) -> bool {
        let kind = || self.feed.table.lock().routes.kind();
        *self.feed.id.exchange == *exchange && routing::matches(kind(), &self.pattern, routing_key)
    }
}

/// Whether a subscriber was given everything.
pub struct Given {
    feed: Weak<Feed>,
    subscriber: Subscriber,
}

impl Given {
    /// Of a feed that is no more.
    #[cfg(test)]
    pub(crate) fn of_nothing(
        mailbox: &Arc<crate::hub::Mailbox>,
        subscription: stomp_session::SubscriptionId,
    ) -> Self {
        Self {
            feed: Weak::new(),
            subscriber: Subscriber {
                mailbox: Arc::clone(mailbox),
                subscription,
            },
        }
    }

    /// If it was, [`Acks`] hears of that: then even a client for which nothing comes moves on, and its
    /// place does not expire. Not to be called after the end of the subscription.
    pub fn note(&self, acks: &Acks) {
        if let Some(feed) = self.feed.upgrade() {
            feed.note_given(&self.subscriber, acks);
        }
    }
}

impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Given").finish_non_exhaustive()
    }
}

impl Drop for SharedSubscription {
    fn drop(&mut self) {
        let Subscriber {
            mailbox,
            subscription,
        } = &self.subscriber;
        self.feed.remove(&self.pattern, &self.subscriber);
        mailbox.end_wishes(*subscription);
    }
}

impl fmt::Debug for SharedSubscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "SharedSubscription({}, {:?})",
            self.feed.id, self.pattern
        )
    }
}
