//! Bindings that nobody needs any more are kept for a while: a page that reloads comes back
//! within seconds, and finds its binding still there.

use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, Semaphore},
    time::Instant,
};
use tokio_util::task::AbortOnDropHandle;

use super::feed::Feed;

/// Unbinds under way at a time: enough to keep the broker busy.
const CONCURRENT_UNBINDS: usize = 128;
/// The least time before a binding that could not be taken away is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// The bindings of one virtual host that linger.
pub(super) struct Linger {
    delay: Duration,
    state: Mutex<State>,
    scheduled: Notify,
}

#[derive(Default)]
struct State {
    /// In order of time, since the delay is always the same; save for [`RETRY`], by which some
    /// may come late.
    due: VecDeque<Due>,
    last_stamp: u64,
}

struct Due {
    at: Instant,
    /// It holds this in turn, and must be able to end.
    feed: Weak<Feed>,
    binding: Arc<str>,
    stamp: u64,
}

impl Linger {
    /// Starts the task that unbinds what is due, for as long as the handle lives.
    pub(super) fn start(delay: Duration) -> (Arc<Self>, AbortOnDropHandle<()>) {
        let linger = Arc::new(Self {
            delay,
            state: Mutex::default(),
            scheduled: Notify::new(),
        });
        let task = tokio::spawn(run(Arc::clone(&linger)));
        (linger, AbortOnDropHandle::new(task))
    }

    /// Has the binding taken away after the delay; the answer goes to [`Feed::unbind`] then.
    pub(super) fn schedule(&self, feed: &Arc<Feed>, binding: Arc<str>) -> u64 {
        self.schedule_after(self.delay, feed, binding)
    }

    /// The same, after it was not to be had: not at once again, also where nothing lingers.
    pub(super) fn schedule_again(&self, feed: &Arc<Feed>, binding: Arc<str>) -> u64 {
        self.schedule_after(self.delay.max(RETRY), feed, binding)
    }

    fn schedule_after(&self, delay: Duration, feed: &Arc<Feed>, binding: Arc<str>) -> u64 {
        let mut state = self.state.lock();
        state.last_stamp = state.last_stamp.wrapping_add(1);
        let stamp = state.last_stamp;
        let at = Instant::now() + delay;
        state.due.push_back(Due {
            at,
            feed: Arc::downgrade(feed),
            binding,
            stamp,
        });
        drop(state);
        self.scheduled.notify_one();
        stamp
    }

    fn next_due(&self) -> Option<Instant> {
        self.state.lock().due.front().map(|due| due.at)
    }

    fn pop(&self) -> Option<Due> {
        let mut state = self.state.lock();
        let due = state.due.pop_front();
        if state.due.is_empty() {
            state.due = VecDeque::new();
        }
        due
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
        if let Some(feed) = due.feed.upgrade() {
            let unbind = feed.unbind(due.binding, due.stamp);
            tokio::spawn(async move {
                unbind.await;
                drop(permit);
            });
        }
    }
}
