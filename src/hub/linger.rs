//! Bindings without a subscription are kept for a while: a page that reloads comes back within
//! seconds, and finds its binding still there.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, Semaphore},
    time::Instant,
};
use tokio_util::task::AbortOnDropHandle;

use crate::{background, later::Later};

/// Unbinds under way at a time: enough to keep the broker busy.
const CONCURRENT_UNBINDS: usize = 128;
/// The least time before a binding that could not be taken away is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// The owner of bindings that linger.
pub(super) trait Unbind: Send + Sync + 'static {
    /// Takes the binding away, if it still lingers since `stamp`.
    fn unbind(self: Arc<Self>, binding: Arc<str>, stamp: u64) -> BoxFuture<'static, ()>;
}

/// The bindings of one virtual host that linger.
pub(super) struct Linger {
    schedule: Mutex<Schedule>,
    scheduled: Notify,
}

struct Schedule {
    due: Later<Due>,
    /// Unbindings that were due before, and failed. The task waits for the first of both queues as
    /// they were when it began to wait; one that comes meanwhile may be late by [`RETRY`].
    due_again: Later<Due>,
    last_stamp: u64,
}

struct Due {
    /// It holds this in turn, and must be able to end.
    owner: Weak<dyn Unbind>,
    binding: Arc<str>,
    stamp: u64,
}

impl Linger {
    /// Starts the task that unbinds what is due, for as long as the handle lives.
    pub(super) fn start(delay: Duration) -> (Arc<Self>, AbortOnDropHandle<()>) {
        let linger = Arc::new(Self {
            schedule: Mutex::new(Schedule {
                due: Later::new(delay),
                due_again: Later::new(delay.max(RETRY)),
                last_stamp: 0,
            }),
            scheduled: Notify::new(),
        });
        let task = background::spawn(run(Arc::clone(&linger)));
        (linger, AbortOnDropHandle::new(task))
    }

    /// Has the binding taken away after the delay, by [`Unbind::unbind`] with the stamp that it
    /// returns.
    pub(super) fn schedule(&self, owner: &Arc<impl Unbind>, binding: Arc<str>) -> u64 {
        self.schedule_in(owner, binding, |schedule| &mut schedule.due)
    }

    /// The same after a failure: not at once again, even without a delay.
    pub(super) fn schedule_again(&self, owner: &Arc<impl Unbind>, binding: Arc<str>) -> u64 {
        self.schedule_in(owner, binding, |schedule| &mut schedule.due_again)
    }

    fn schedule_in(
        &self,
        owner: &Arc<impl Unbind>,
        binding: Arc<str>,
        queue: impl FnOnce(&mut Schedule) -> &mut Later<Due>,
    ) -> u64 {
        let mut schedule = self.schedule.lock();
        schedule.last_stamp = schedule.last_stamp.wrapping_add(1);
        let stamp = schedule.last_stamp;
        let owner = Arc::downgrade(owner);
        let due = Due {
            owner,
            binding,
            stamp,
        };
        queue(&mut schedule).push(Instant::now().into_std(), due);
        drop(schedule);
        self.scheduled.notify_one();
        stamp
    }

    fn next_due(&self) -> Option<Instant> {
        let schedule = self.schedule.lock();
        let due = [schedule.due.due(), schedule.due_again.due()];
        due.into_iter().flatten().min().map(Instant::from_std)
    }

    /// One that is due.
    fn pop(&self) -> Option<Due> {
        let now = Instant::now().into_std();
        let mut schedule = self.schedule.lock();
        schedule
            .due
            .pop(now)
            .or_else(|| schedule.due_again.pop(now))
    }
}

async fn run(linger: Arc<Linger>) {
    let permits = Arc::new(Semaphore::new(CONCURRENT_UNBINDS));
    loop {
        let Some(at) = linger.next_due() else {
            linger.scheduled.notified().await;
            continue;
        };
        tokio::time::sleep_until(at).await;
        let (Some(due), Ok(permit)) = (linger.pop(), Arc::clone(&permits).acquire_owned().await)
        else {
            continue;
        };
        if let Some(owner) = due.owner.upgrade() {
            let unbind = owner.unbind(due.binding, due.stamp);
            background::spawn(async move {
                unbind.await;
                drop(permit);
            });
        }
    }
}
