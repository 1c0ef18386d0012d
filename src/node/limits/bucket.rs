//! Token buckets, by the crate `governor`, whose arithmetic (GCRA) needs a single number for each:
//! so an idle connection keeps none, and a table of them is small.

use std::{
    collections::HashMap,
    fmt,
    hash::{Hash, Hasher},
    num::NonZeroU32,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use governor::{
    Quota, RateLimiter, clock::Clock, middleware::NoOpMiddleware, nanos::Nanos, state::StateStore,
};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::deadline::later;

/// A bucket holds what comes in so many seconds: a client that was quiet may be busy for a moment.
const DEPTH: u32 = 10;

/// One bucket; full at first.
#[derive(Debug, Default)]
pub struct Bucket(AtomicU64);

impl Bucket {
    fn load(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// As it is now.
impl Clone for Bucket {
    fn clone(&self) -> Self {
        Self(AtomicU64::new(self.load()))
    }
}

// `governor` wants its keys so; here each is its own state.
impl PartialEq for Bucket {
    fn eq(&self, other: &Self) -> bool {
        self.load() == other.load()
    }
}

impl Eq for Bucket {}

impl Hash for Bucket {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.load().hash(state);
    }
}

/// Where `governor` finds a bucket's state: in the bucket.
#[derive(Debug)]
struct InBucket;

impl StateStore for InBucket {
    type Key = Bucket;

    fn measure_and_replace<T, F, E>(&self, bucket: &Bucket, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut before = bucket.load();
        loop {
            let (answer, after) = measure(Some(Nanos::new(before)))?;
            let exchanged = bucket.0.compare_exchange_weak(
                before,
                after.as_u64(),
                Ordering::AcqRel,
                Ordering::Acquire,
            );
            match exchanged {
                Ok(_) => return Ok(answer),
                Err(now) => before = now,
            }
        }
    }
}

/// tokio's clock, which tests turn.
#[derive(Clone, Debug)]
struct TokioClock(Instant);

impl Clock for TokioClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::new(u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}

/// How fast buckets of one kind fill, and how much they hold.
pub struct Rate {
    limiter: RateLimiter<Bucket, InBucket, TokioClock, NoOpMiddleware<Nanos>>,
    clock: TokioClock,
    burst: NonZeroU32,
    /// In which one more comes in.
    period: Duration,
}

impl Rate {
    /// So many a second, and ten times that at once. `None` for 0, which means no bound.
    ///
    /// Buckets count from `since`: a rate that takes the place of another has to count from the same
    /// moment, or its buckets would be empty for as long as the first one was there.
    #[must_use]
    pub fn per_second(number: u32, since: Instant) -> Option<Self> {
        let number = NonZeroU32::new(number)?;
        let burst = number.saturating_mul(NonZeroU32::new(DEPTH)?);
        let quota = Quota::per_second(number).allow_burst(burst);
        Some(Self::new(quota, burst, since))
    }

    /// So many at once, and one more in each period. `None` for 0 of either. `since` as in
    /// [`Rate::per_second`].
    #[must_use]
    pub fn one_in(period: Duration, burst: u32, since: Instant) -> Option<Self> {
        let burst = NonZeroU32::new(burst)?;
        let quota = Quota::with_period(period)?.allow_burst(burst);
        Some(Self::new(quota, burst, since))
    }

    fn new(quota: Quota, burst: NonZeroU32, since: Instant) -> Self {
        let clock = TokioClock(since);
        Self {
            period: quota.replenish_interval(),
            limiter: RateLimiter::new(quota, InBucket, clock.clone()),
            clock,
            burst,
        }
    }

    /// Takes so many out of a bucket: of more than it ever holds, as many as it holds.
    ///
    /// # Errors
    /// There are not so many in it, and it stays as it was; after which time there will be.
    pub fn take(&self, bucket: &Bucket, count: u32) -> Result<(), Duration> {
        let Some(count) = NonZeroU32::new(count) else {
            return Ok(());
        };
        match self.limiter.check_key_n(bucket, count.min(self.burst)) {
            // It holds the whole burst.
            Ok(Ok(())) | Err(_) => Ok(()),
            Ok(Err(not_until)) => Err(not_until.wait_time_from(self.clock.now())),
        }
    }

    /// As [`Rate::take`], and takes nothing.
    ///
    /// # Errors
    /// As [`Rate::take`]; and if a bucket never holds so many.
    pub fn look(&self, bucket: &Bucket, count: u32) -> Result<(), Duration> {
        if count > self.burst.get() {
            return Err(self.period);
        }
        self.take(&bucket.clone(), count)
    }

    /// How much a full bucket holds.
    #[must_use]
    pub fn burst(&self) -> u32 {
        self.burst.get()
    }

    /// Whether the bucket is full: it may be forgotten then.
    #[must_use]
    pub fn is_full(&self, bucket: &Bucket) -> bool {
        bucket.load() <= self.clock.now().as_u64()
    }
}

impl fmt::Debug for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rate")
            .field("burst", &self.burst)
            .finish_non_exhaustive()
    }
}

/// Values by key, of which those that are like new are forgotten from time to time; never more
/// than [`Table::MOST`]. Keys come from clients.
#[derive(Debug)]
pub(super) struct Table<K, V> {
    values: HashMap<K, V>,
    sweep_at: usize,
    /// While it is full: when it may be swept again.
    rests_until: Option<Instant>,
}

impl<K: Eq + Hash, V: Default> Table<K, V> {
    /// Beyond, new keys have no value: a client that fills it has other bounds to pass.
    pub(super) const MOST: usize = 200_000;
    /// So few may stay.
    const FEW: usize = 1_000;
    /// A full table is not swept for each new key.
    const REST: Duration = Duration::from_secs(1);

    pub(super) fn new() -> Self {
        Self {
            values: HashMap::new(),
            sweep_at: Self::FEW,
            rests_until: None,
        }
    }

    /// The value of a key. `None`: there is no room for it.
    pub(super) fn entry(&mut self, key: K, is_new: impl Fn(&V) -> bool) -> Option<&mut V> {
        if self.values.len() >= self.sweep_at && !self.values.contains_key(&key) {
            if self.rests_until.is_some_and(|until| Instant::now() < until) {
                return None;
            }
            self.values.retain(|_, value| !is_new(value));
            let double = self.values.len().saturating_mul(2);
            self.values.shrink_to(double);
            // So a sweep costs each entry about one look.
            self.sweep_at = double.clamp(Self::FEW, Self::MOST);
            let is_full = self.values.len() >= Self::MOST;
            self.rests_until = is_full.then(|| later(Instant::now(), Self::REST));
            if is_full {
                return None;
            }
        }
        Some(self.values.entry(key).or_default())
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.values.get(key)
    }

    pub(super) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.values.get_mut(key)
    }

    pub(super) fn remove(&mut self, key: &K) {
        self.values.remove(key);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.values.len()
    }
}

/// A bucket for each key.
#[derive(Debug)]
pub(super) struct Buckets<K> {
    rate: Rate,
    table: Mutex<Table<K, Bucket>>,
}

impl<K: Eq + Hash> Buckets<K> {
    pub(super) fn new(rate: Rate) -> Self {
        Self {
            rate,
            table: Mutex::new(Table::new()),
        }
    }

    /// As [`Rate::take`], one out of the bucket of `key`.
    pub(super) fn take(&self, key: K) -> Result<(), Duration> {
        let mut table = self.table.lock();
        match table.entry(key, |bucket| self.rate.is_full(bucket)) {
            Some(bucket) => self.rate.take(bucket, 1),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_bucket_holds_ten_seconds_worth_and_fills_steadily() {
        let (rate, bucket) = (
            Rate::per_second(2, Instant::now()).unwrap(),
            Bucket::default(),
        );
        for _ in 0..20 {
            assert_eq!(rate.take(&bucket, 1), Ok(()));
        }
        assert!(!rate.is_full(&bucket));
        assert_eq!(rate.take(&bucket, 1), Err(SECOND / 2));
        assert_eq!(rate.look(&bucket, 3), Err(SECOND * 3 / 2));
        advance(SECOND / 2).await;
        assert_eq!(rate.look(&bucket, 1), Ok(()));
        assert_eq!(rate.take(&bucket, 1), Ok(()));
        assert_eq!(rate.take(&bucket, 1), Err(SECOND / 2));
        advance(SECOND * 10).await;
        assert!(rate.is_full(&bucket));
        assert_eq!(rate.take(&bucket, 1000), Ok(()), "all that it holds");
        assert!(rate.take(&bucket, 1).is_err());
        assert!(Rate::per_second(0, Instant::now()).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_that_replaces_another_knows_its_buckets() {
        let (since, bucket) = (Instant::now(), Bucket::default());
        advance(SECOND * 3600).await;
        let before = Rate::per_second(2, since).unwrap();
        assert_eq!(before.take(&bucket, 19), Ok(()));
        let after = Rate::per_second(4, since).unwrap();
        assert_eq!(after.take(&bucket, 1), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_bucket_gets_one_back_in_each_period() {
        let rate = Rate::one_in(30 * SECOND, 3, Instant::now()).unwrap();
        let bucket = Bucket::default();
        assert_eq!(rate.look(&bucket, 4), Err(30 * SECOND));
        assert_eq!(rate.take(&bucket, 3), Ok(()));
        assert_eq!(rate.take(&bucket, 1), Err(30 * SECOND));
        advance(30 * SECOND).await;
        assert_eq!(rate.take(&bucket, 1), Ok(()));
        let now = Instant::now();
        assert!(Rate::one_in(Duration::ZERO, 3, now).is_none());
        assert!(Rate::one_in(SECOND, 0, now).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_table_of_them_has_a_bound_and_forgets_full_ones() {
        let buckets = Buckets::new(Rate::per_second(1, Instant::now()).unwrap());
        for key in 0..Table::<usize, Bucket>::MOST + 10 {
            assert_eq!(buckets.take(key), Ok(()));
        }
        let most = Table::<usize, Bucket>::MOST;
        assert_eq!(buckets.table.lock().len(), most);
        advance(2 * SECOND).await;
        assert_eq!(buckets.take(usize::MAX), Ok(()));
        assert_eq!(buckets.table.lock().len(), 1);
    }
}
