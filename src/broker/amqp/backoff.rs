//! Pauses between attempts to connect.

use std::time::Duration;

/// A connection that lasted so long was a good one: after it, pauses start small again. One that
/// is lost at once, each time it is made, is made less and less often.
const GOOD_FOR: Duration = Duration::from_secs(5);

/// Pauses that double, from the first to the longest.
pub(super) struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    pub(super) fn new((first, longest): (Duration, Duration)) -> Self {
        Self {
            first,
            longest,
            next: first,
        }
    }

    /// What is wrong takes a while to be put right: somebody has to make a virtual host, or to give
    /// a permission. The next pause is the longest.
    pub(super) fn be_patient(&mut self) {
        self.next = self.longest;
    }

    /// The pause after a connection that lasted so long (not at all, if it could not be made).
    pub(super) fn pause(&mut self, lasted: Duration) -> Duration {
        if lasted >= GOOD_FOR {
            self.next = self.first;
        }
        let pause = self.next;
        self.next = pause.saturating_mul(2).min(self.longest);
        pause
    }
}

/// About that long: spread over half of it, so that many nodes do not come back in one instant.
pub(super) fn spread(pause: Duration) -> Duration {
    pause.mul_f64(rand::random_range(0.5..1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_until_a_connection_was_a_good_one() {
        let seconds = Duration::from_secs;
        let mut backoff = Backoff::new((seconds(1), seconds(5)));
        let failed = [0, 0, 1, 4].map(|lasted| backoff.pause(seconds(lasted)));
        assert_eq!(failed, [1, 2, 4, 5].map(seconds));
        assert_eq!(backoff.pause(seconds(5)), seconds(1));
        assert_eq!(backoff.pause(seconds(0)), seconds(2));
        backoff.be_patient();
        assert_eq!(backoff.pause(seconds(0)), seconds(5));
    }
}
