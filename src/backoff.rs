//! Pauses between attempts: at the broker, at Redis, at whatever may be away for a while.

use std::time::Duration;

/// A connection that lasted so long was good: after it, pauses start small again. A connection that
/// is lost at once, each time, is made less and less often.
const GOOD_FOR: Duration = Duration::from_secs(5);

/// Pauses that double, from the first to the longest; each is cut at random by up to half, so that
/// many nodes do not come back in one instant.
#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    /// The first pause and the longest.
    pub(crate) const fn new((first, longest): (Duration, Duration)) -> Self {
        Self {
            first,
            longest,
            next: first,
        }
    }

    /// It went well: the next pause is the first again.
    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }

    /// It went well for so long (not at all, if it could not be begun).
    pub(crate) fn lasted(&mut self, lasted: Duration) {
        if lasted >= GOOD_FOR {
            self.reset();
        }
    }

    /// The fault takes a while to mend: somebody has to make a virtual host, or to give a
    /// permission. The next pause is the longest.
    pub(crate) fn be_patient(&mut self) {
        self.next = self.longest;
    }

    /// How long to pause now.
    pub(crate) fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = pause.saturating_mul(2).min(self.longest);
        pause.mul_f64(rand::random_range(0.5..1.0))
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, sleep};

    use super::*;

    /// When each of some attempts began, all of which fail at once, in virtual time.
    async fn attempts(backoff: &mut Backoff, count: usize) -> Vec<Duration> {
        let start = Instant::now();
        let mut begun = Vec::new();
        for _ in 0..count {
            begun.push(start.elapsed());
            sleep(backoff.pause()).await;
        }
        begun
    }

    fn seconds(from: f64, to: f64) -> std::ops::Range<Duration> {
        // A timer has a grain of a millisecond.
        Duration::from_secs_f64(from)..Duration::from_secs_f64(to + 0.01)
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_come_less_and_less_often_up_to_a_bound() {
        let mut backoff = Backoff::new((Duration::from_secs(1), Duration::from_secs(5)));
        let begun = attempts(&mut backoff, 6).await;
        let bounds = [(0.5, 1.0), (1.0, 2.0), (2.0, 4.0), (2.5, 5.0), (2.5, 5.0)];
        for (pair, (from, to)) in begun.windows(2).zip(bounds) {
            let pause = pair[1] - pair[0];
            assert!(seconds(from, to).contains(&pause), "{pause:?} of {begun:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nodes_that_lost_the_same_broker_do_not_come_back_in_one_instant() {
        let mut second = Vec::new();
        for _ in 0..100 {
            let mut backoff = Backoff::new((Duration::from_secs(1), Duration::from_secs(5)));
            second.extend(attempts(&mut backoff, 2).await.pop());
        }
        second.sort();
        // Spread over half a second; by chance alone not all are within a fifth of that.
        assert!(second[99] - second[0] > Duration::from_millis(100));
        second.dedup();
        assert!(second.len() > 50, "{} moments", second.len());
    }

    #[test]
    fn pauses_start_small_again_after_what_went_well() {
        let mut backoff = Backoff::new((Duration::from_secs(1), Duration::from_secs(8)));
        let is = |backoff: &mut Backoff, seconds: f64| {
            let pause = backoff.pause().as_secs_f64();
            assert!((seconds / 2.0..=seconds).contains(&pause), "{pause}");
        };
        is(&mut backoff, 1.0);
        backoff.lasted(Duration::from_secs(4));
        is(&mut backoff, 2.0);
        backoff.lasted(GOOD_FOR);
        is(&mut backoff, 1.0);
        is(&mut backoff, 2.0);
        backoff.reset();
        is(&mut backoff, 1.0);
        backoff.be_patient();
        is(&mut backoff, 8.0);
        is(&mut backoff, 8.0);
    }
}
