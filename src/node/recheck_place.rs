//! The place that a recheck has among those that ask the hook.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A place among the rechecks that ask the hook: so many ask at a time. A recheck with many questions
/// gives way between them, and before it repeats one, so that it takes no longer to come to a session
/// beside it.
pub struct RecheckPlace {
    places: Arc<Semaphore>,
    place: Option<OwnedSemaphorePermit>,
    time: Duration,
    left: Arc<AtomicU64>,
}

impl RecheckPlace {
    /// One among those who share these places, for a recheck that has so much time for
    /// subscriptions, and adds those that it leaves. It [has to wait](Self::give_way) first.
    pub(super) fn among(places: Arc<Semaphore>, time: Duration, left: Arc<AtomicU64>) -> Self {
        Self {
            places,
            place: None,
            time,
            left,
        }
    }

    /// A place beside those of all others, for one session that is to be asked about at once.
    #[must_use]
    pub fn alone() -> Self {
        Self::among(places(1), Duration::MAX, Arc::default())
    }

    /// Leaves the place to those who wait for one, and waits behind them.
    pub async fn give_way(&mut self) {
        self.place = None;
        // Nobody closes the semaphore.
        self.place = Arc::clone(&self.places).acquire_owned().await.ok();
    }

    /// How long the recheck may ask about the session's subscriptions: it leaves the others to the
    /// next one.
    #[must_use]
    pub fn time(&self) -> Duration {
        self.time
    }

    /// It leaves so many, for want of time or of an answer. The log says how many all rechecks left.
    pub fn leave(&self, subscriptions: usize) {
        let subscriptions = u64::try_from(subscriptions).unwrap_or(u64::MAX);
        self.left.fetch_add(subscriptions, Relaxed);
    }
}

/// As many as a configuration says, which may be more than a semaphore can count.
pub(super) fn places(count: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS)))
}
