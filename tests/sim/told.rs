//! What the parts of a simulation tell each other: those who wait are woken in the order in which
//! they began to. (Of tokio's `watch` it depends on random numbers that no seed decides.)

use parking_lot::Mutex;
use tokio::sync::Notify;

/// A value that changes, and those who wait for that.
#[derive(Debug, Default)]
pub(crate) struct Told<T> {
    value: Mutex<T>,
    /// Told of each change.
    waiting: Notify,
}

impl<T: Clone> Told<T> {
    pub(crate) fn new(value: T) -> Self {
        Self {
            value: Mutex::new(value),
            waiting: Notify::new(),
        }
    }

    pub(crate) fn set(&self, value: T) {
        *self.value.lock() = value;
        self.waiting.notify_waiters();
    }

    pub(crate) fn get(&self) -> T {
        self.value.lock().clone()
    }

    /// Waits until it is as wished.
    pub(crate) async fn wait_for(&self, is_wished: impl Fn(&T) -> bool) -> T {
        loop {
            let mut waiting = std::pin::pin!(self.waiting.notified());
            waiting.as_mut().enable();
            let value = self.get();
            if is_wished(&value) {
                return value;
            }
            waiting.await;
        }
    }
}
