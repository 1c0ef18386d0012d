//! Work to do after a constant delay.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::deadline::later;

/// A queue whose delay is always the same, so that its order is that of time.
#[derive(Debug)]
pub(crate) struct Later<T> {
    delay: Duration,
    queue: VecDeque<(Instant, T)>,
    /// Nothing is due before.
    held_until: Option<Instant>,
}

impl<T> Later<T> {
    pub(crate) fn new(delay: Duration) -> Self {
        Self {
            delay,
            queue: VecDeque::new(),
            held_until: None,
        }
    }

    /// Nothing is due before that moment, whatever comes meanwhile.
    pub(crate) fn hold_until(&mut self, moment: Instant) {
        self.held_until = self.held_until.max(Some(moment));
    }

    /// Due after the delay.
    pub(crate) fn push(&mut self, now: Instant, item: T) {
        let due = later(now.into(), self.delay);
        self.queue.push_back((due.into(), item));
    }

    /// Due before all others.
    pub(crate) fn put_back(&mut self, now: Instant, item: T) {
        self.queue.push_front((now, item));
    }

    /// The first, if it is due.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<T> {
        if self.due()? > now {
            return None;
        }
        let item = self.pop_first();
        if self.queue.is_empty() {
            self.queue.shrink_to_fit();
        }
        item
    }

    /// The first, if it is due, or if there are more than `most`.
    pub(crate) fn pop_over(&mut self, now: Instant, most: usize) -> Option<T> {
        if self.len() > most {
            return self.pop_first();
        }
        self.pop(now)
    }

    /// The first, due or not.
    pub(crate) fn pop_first(&mut self) -> Option<T> {
        self.queue.pop_front().map(|(_, item)| item)
    }

    /// When the first is due.
    pub(crate) fn due(&self) -> Option<Instant> {
        let (due, _) = self.queue.front()?;
        Some(self.held_until.map_or(*due, |until| until.max(*due)))
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.queue.iter_mut().map(|(_, item)| item)
    }

    pub(crate) fn clear(&mut self) {
        self.queue = VecDeque::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_comes_in_order() {
        let second = Duration::from_secs(1);
        let start = Instant::now();
        let mut later = Later::new(second);
        assert_eq!((later.due(), later.pop(start)), (None, None));
        later.push(start, 1);
        later.push(start + second, 2);
        assert_eq!(later.due(), Some(start + second));
        assert_eq!(later.pop(start), None);
        assert_eq!(later.pop(start + second), Some(1));
        assert_eq!(later.pop(start + second), None);
        later.put_back(start, 1);
        assert_eq!((later.pop(start), later.len()), (Some(1), 1));
        assert_eq!(later.pop_first(), Some(2));
    }

    #[test]
    fn what_is_held_up_is_due_no_sooner() {
        let second = Duration::from_secs(1);
        let start = Instant::now();
        let mut later = Later::new(second);
        later.push(start, 1);
        later.hold_until(start + 5 * second);
        later.hold_until(start + 2 * second);
        later.put_back(start, 0);
        assert_eq!(later.due(), Some(start + 5 * second));
        assert_eq!(later.pop(start + 4 * second), None);
        assert_eq!(later.pop(start + 5 * second), Some(0));
        later.push(start + 5 * second, 2);
        // Except that there are too many.
        assert_eq!(later.pop_over(start, 2), None);
        assert_eq!(later.pop_over(start, 1), Some(1));
        assert_eq!(later.due(), Some(start + 6 * second));
    }
}
