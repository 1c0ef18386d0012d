//! Lines of callers that want to ask the broker about the same thing.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A line for each exchange, or each queue. It is there while somebody is in it.
pub(super) struct Lines {
    /// How many of each have their turn at a time.
    width: usize,
    lines: Mutex<HashMap<Box<str>, Arc<Semaphore>>>,
}

/// A place in a line.
pub(super) struct InLine<'a> {
    lines: &'a Lines,
    what: &'a str,
    /// It is one of the first.
    turn: Option<OwnedSemaphorePermit>,
}

impl Lines {
    pub(super) fn new(width: usize) -> Self {
        Self {
            width,
            lines: Mutex::default(),
        }
    }

    /// Waits for the turn to ask, which lasts until that is dropped.
    pub(super) async fn turn<'a>(&'a self, what: &'a str) -> InLine<'a> {
        let new = || Arc::new(Semaphore::new(self.width));
        let line = Arc::clone(self.lines.lock().entry(what.into()).or_insert_with(new));
        let mut place = InLine {
            lines: self,
            what,
            turn: None,
        };
        // It is never closed.
        place.turn = line.acquire_owned().await.ok();
        place
    }
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        let mut lines = self.lines.lines.lock();
        drop(self.turn.take());
        let line = lines.get(self.what);
        if line.is_some_and(|line| Arc::strong_count(line) == 1) {
            lines.remove(self.what);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    /// Questions about one exchange do not wait for those about another.
    #[tokio::test]
    async fn each_has_a_line_of_its_own() {
        let lines = Lines::new(1);
        let first = lines.turn("a").await;
        let other = lines.turn("b").now_or_never();
        assert!(other.is_some());
        let mut second = Box::pin(lines.turn("a"));
        assert!((&mut second).now_or_never().is_none());
        assert!(lines.turn("a").now_or_never().is_none(), "it gives up");
        drop(first);
        let second = second.await;
        assert!(lines.turn("a").now_or_never().is_none());
        drop((other, second));
        assert!(lines.lines.lock().is_empty());
    }

    #[tokio::test]
    async fn a_line_may_be_wide() {
        let lines = Lines::new(2);
        let (first, second) = (lines.turn("a").await, lines.turn("a").await);
        assert!(lines.turn("a").now_or_never().is_none());
        drop(first);
        let third = lines.turn("a").now_or_never();
        assert!(third.is_some());
        drop((second, third));
        assert!(lines.lines.lock().is_empty());
    }
}
