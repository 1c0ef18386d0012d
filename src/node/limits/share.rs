//! A rate that is shared fairly: when little is left, a client that took less lately comes first.

use std::{hash::Hash, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::bucket::{Bucket, Rate, Table};

/// In this time, all but a third of what a client took is forgotten: a bucket holds as much.
const MEMORY: Duration = Duration::from_secs(10);

/// One bucket for all, and a memory of what each took out of it.
///
/// A client may take from the bucket only while a reserve is left in it, and the reserve grows with
/// what that client took lately: from nothing up to the whole bucket. So the bucket is never empty
/// for a newcomer because of one client, and of those that want all, each gets the same. A single
/// client still gets the whole rate, but only 62 % of a full bucket at once.
#[derive(Debug)]
pub(super) struct Share<K> {
    rate: Rate,
    bucket: Bucket,
    taken: Mutex<Table<K, Taken>>,
}

/// What a client took lately.
#[derive(Debug, Default)]
struct Taken {
    count: f64,
    /// When `count` was right.
    at: Option<Instant>,
}

impl Taken {
    /// Less than this counts as nothing.
    const NOTHING: f64 = 0.1;

    fn count(&self, now: Instant) -> f64 {
        let age = self.at.map(|at| now.saturating_duration_since(at));
        age.map_or(0.0, |age| {
            self.count * (-age.div_duration_f64(MEMORY)).exp()
        })
    }
}

impl<K: Eq + Hash> Share<K> {
    /// A full bucket.
    pub(super) fn new(rate: Rate) -> Self {
        Self {
            rate,
            bucket: Bucket::default(),
            taken: Mutex::new(Table::new()),
        }
    }

    /// Takes one for this client.
    ///
    /// # Errors
    /// What is left is for others; the time after which there will be enough.
    pub(super) fn take(&self, key: K) -> Result<(), Duration> {
        let now = Instant::now();
        let mut table = self.taken.lock();
        let is_new = |taken: &Taken| taken.count(now) < Taken::NOTHING;
        // No memory of it: one of very many, none of which takes much.
        let Some(taken) = table.entry(key, is_new) else {
            return self.rate.take(&self.bucket, 1);
        };
        let count = taken.count(now);
        self.rate.look(&self.bucket, self.reserve(count))?;
        self.rate.take(&self.bucket, 1)?;
        *taken = Taken {
            count: count + 1.0,
            at: Some(now),
        };
        Ok(())
    }

    /// How much has to be left for others by a client that took so much.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is between zero and the burst"
    )]
    fn reserve(&self, count: f64) -> u32 {
        let burst = f64::from(self.rate.burst());
        (burst * count / (count + burst)) as u32
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A hundred a second, a thousand at once.
    fn share() -> Share<&'static str> {
        Share::new(Rate::per_second(100, Instant::now()).unwrap())
    }

    /// How many of so many tries succeed.
    fn several(share: &Share<&'static str>, key: &'static str, tries: usize) -> usize {
        (0..tries).filter(|_| share.take(key).is_ok()).count()
    }

    #[tokio::test(start_paused = true)]
    async fn a_newcomer_finds_something_left() {
        let share = share();
        let greedy = several(&share, "greedy", 5_000);
        assert!((600..=640).contains(&greedy), "{greedy}");
        assert_eq!(several(&share, "modest", 100), 100);
        // It does not wait for the moment at which a token comes in.
        for _ in 0..100 {
            several(&share, "greedy", 10);
            assert_eq!(several(&share, "modest", 1), 1);
            advance(SECOND / 10).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_single_client_gets_the_whole_rate() {
        let share = share();
        several(&share, "only", 5_000);
        let mut had = 0;
        for _ in 0..600 {
            advance(SECOND / 10).await;
            had += several(&share, "only", 100);
        }
        assert!((5_500..=6_400).contains(&had), "{had} in a minute");
    }

    #[tokio::test(start_paused = true)]
    async fn all_that_want_everything_get_the_same() {
        let share = share();
        let names = ["a", "b", "c", "d", "e"];
        several(&share, "a", 5_000);
        for _ in 0..300 {
            advance(SECOND / 10).await;
            for name in names {
                several(&share, name, 100);
            }
        }
        let mut had = [0; 5];
        for round in 0..600 {
            advance(SECOND / 10).await;
            // Each comes first once in five rounds.
            for place in 0..5 {
                let turn = (round + place) % 5;
                had[turn] += several(&share, names[turn], 100);
            }
        }
        let (least, most) = (*had.iter().min().unwrap(), *had.iter().max().unwrap());
        assert!(most * 10 <= least * 12, "{had:?}");
        let all: usize = had.iter().sum();
        assert!((5_400..=6_600).contains(&all), "{all} in a minute");
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_is_long_enough() {
        let share = share();
        several(&share, "greedy", 5_000);
        let wait = share.take("greedy").unwrap_err();
        assert!(wait <= 5 * SECOND, "{wait:?}");
        advance(wait).await;
        assert_eq!(share.take("greedy"), Ok(()));
    }
}
