//! Frequent events that are logged only now and then.

use std::time::{Duration, Instant};

/// Lets one event through in a while, and counts those in between.
#[derive(Debug)]
pub struct Seldom {
    /// How far apart those are that are let through, at least.
    quiet: Duration,
    /// When one was let through.
    said: Option<Instant>,
    /// Since then.
    unsaid: u64,
}

impl Default for Seldom {
    fn default() -> Self {
        Self::once_in(Self::QUIET)
    }
}

impl Seldom {
    /// Events that are let through are at least this far apart, unless something else is said.
    pub const QUIET: Duration = Duration::from_secs(5);

    /// Lets one event through in so long.
    #[must_use]
    pub const fn once_in(quiet: Duration) -> Self {
        Self {
            quiet,
            said: None,
            unsaid: 0,
        }
    }

    /// `Some` if this event should be logged: the number of events left out before it.
    pub fn let_through(&mut self, now: Instant) -> Option<u64> {
        if self.is_quiet(now) {
            self.unsaid = self.unsaid.saturating_add(1);
            return None;
        }
        self.said = Some(now);
        Some(self.take_unsaid())
    }

    /// True if it is too soon to log anything.
    #[must_use]
    pub fn is_quiet(&self, now: Instant) -> bool {
        self.said
            .is_some_and(|said| now.saturating_duration_since(said) < self.quiet)
    }

    /// Takes the number of events left out.
    pub fn take_unsaid(&mut self) -> u64 {
        std::mem::take(&mut self.unsaid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_said_then_one_now_and_then_with_a_count() {
        let start = Instant::now();
        let mut seldom = Seldom::default();
        assert_eq!(seldom.let_through(start), Some(0));
        for milliseconds in [1, 2, 4_999] {
            let now = start + Duration::from_millis(milliseconds);
            assert_eq!(seldom.let_through(now), None);
        }
        assert_eq!(seldom.let_through(start + Seldom::QUIET), Some(3));
        assert_eq!(seldom.let_through(start + Seldom::QUIET), None);
        assert_eq!(seldom.let_through(start + Seldom::QUIET * 3), Some(1));
    }
}
