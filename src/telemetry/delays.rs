//! How long messages are under way: from this process' first sight of them to the client's socket,
//! and since they were sent.
//!
//! A message carries one number for that, which all its receivers share, and clocks are read once
//! for each write to a socket, however many messages go with it.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::units::moment;

/// When a message was read off the broker's socket. In steps of 10 µs, so that four bytes go round
/// in 11.9 hours: no message waits for that long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadAt(
    /// 0: unknown.
    u32,
);

/// When a message was sent, by the clock of its publisher or of the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SentAt {
    /// AMQP's `timestamp`: whole seconds since 1970, so that ages come out up to a second too large.
    Seconds(u64),
    /// The header `timestamp_in_ms`, which RabbitMQ writes if it is told to.
    Milliseconds(u64),
}

/// A message on its way to a client's socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Journey {
    /// When it was read.
    pub read_at: ReadAt,
    /// When it was sent, if it says so and is believed.
    pub sent_at: Option<SentAt>,
}

/// What [`ReadAt`] counts from.
static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Steps of [`ReadAt`] in a second.
const STEPS: u64 = 100_000;

/// A greater age counts as this one: it rather shows a wrong clock, or a message that waited for a
/// client who was away.
const OLDEST: Duration = Duration::from_hours(24);

impl ReadAt {
    /// This moment; from one reading of the clock for all messages that came with one read.
    #[must_use]
    pub fn at(now: Instant) -> Self {
        Self(steps(now).max(1))
    }

    /// Now.
    #[must_use]
    pub fn now() -> Self {
        Self::at(Instant::now())
    }

    /// How long ago it was; `None` if it is not known.
    pub(super) fn elapsed(self, now: Instant) -> Option<Duration> {
        if self.0 == 0 {
            return None;
        }
        let passed = steps(now).wrapping_sub(self.0);
        // The two clocks of a test may differ.
        let passed = if passed > u32::MAX / 2 { 0 } else { passed };
        Some(Duration::from_micros(u64::from(passed).saturating_mul(10)))
    }
}

/// Since the beginning; it goes round.
fn steps(now: Instant) -> u32 {
    let since = now.saturating_duration_since(*BEGIN);
    let steps = since
        .as_secs()
        .wrapping_mul(STEPS)
        .wrapping_add(u64::from(since.subsec_micros() / 10));
    (steps & u64::from(u32::MAX)) as u32
}

impl SentAt {
    /// The moment; `None`: there is no such date.
    #[must_use]
    pub fn moment(self) -> Option<SystemTime> {
        moment(self.since_1970())
    }

    /// How old the message is; `None` if it was sent later than now.
    fn age(self, since_1970: Duration) -> Option<Duration> {
        Some(since_1970.checked_sub(self.since_1970())?.min(OLDEST))
    }

    fn since_1970(self) -> Duration {
        match self {
            Self::Seconds(seconds) => Duration::from_secs(seconds),
            Self::Milliseconds(milliseconds) => Duration::from_millis(milliseconds),
        }
    }
}

/// Bounds of the buckets, in microseconds.
const BOUNDS: [u64; 15] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 5_000_000, 30_000_000,
];

/// One for each bound, and one for what is beyond.
const BUCKETS: usize = BOUNDS.len() + 1;

/// Delays as counted since the process began. A library's histogram takes a lock for each value.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Delays {
    buckets: [AtomicU64; BUCKETS],
    microseconds: AtomicU64,
}

/// The same for one write: added up before it touches what all threads share.
#[derive(Default)]
struct Few {
    buckets: [u32; BUCKETS],
    microseconds: u64,
}

/// The values of [`Delays`] at one moment.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct DelaysTold {
    /// In seconds.
    pub(super) sum: f64,
    pub(super) count: u64,
    /// The upper bound of each bucket, in seconds, and how many delays are in it alone.
    pub(super) buckets: Vec<(f64, u64)>,
}

/// From the read to the write.
pub(super) static DELIVERY: Delays = Delays::new();
/// Since a timestamp in seconds, and since one in milliseconds.
pub(super) static AGES: [(&str, Delays); 2] =
    [("seconds", Delays::new()), ("milliseconds", Delays::new())];
/// Timestamps that are ahead of this machine's clock.
pub(super) static AHEAD: AtomicU64 = AtomicU64::new(0);

/// These messages were written to a client's socket just now.
pub fn delivered(messages: impl ExactSizeIterator<Item = Journey> + Clone) {
    if messages.len() == 0 {
        return;
    }
    let now = tokio::time::Instant::now().into_std();
    let passed = messages.clone();
    DELIVERY.add(passed.filter_map(|message| message.read_at.elapsed(now)));
    let sent = messages.filter_map(|message| message.sent_at);
    if sent.clone().next().is_some() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        count_ages(sent, now.unwrap_or_default());
    }
}

fn count_ages(sent: impl Iterator<Item = SentAt> + Clone, since_1970: Duration) {
    let [(_, seconds), (_, milliseconds)] = &AGES;
    let mut ahead = 0_u64;
    let mut of = |is_wanted: fn(&SentAt) -> bool, ages: &Delays| {
        ages.add(sent.clone().filter(is_wanted).filter_map(|sent| {
            let age = sent.age(since_1970);
            ahead = ahead.saturating_add(u64::from(age.is_none()));
            age
        }));
    };
    of(|sent| matches!(sent, SentAt::Seconds(_)), seconds);
    of(|sent| matches!(sent, SentAt::Milliseconds(_)), milliseconds);
    if ahead > 0 {
        AHEAD.fetch_add(ahead, Relaxed);
    }
}

impl Delays {
    const fn new() -> Self {
        Self {
            buckets: [const { AtomicU64::new(0) }; BUCKETS],
            microseconds: AtomicU64::new(0),
        }
    }

    fn add(&self, delays: impl Iterator<Item = Duration>) {
        let mut few = Few::default();
        delays.for_each(|delay| few.add(delay));
        for (shared, more) in self.buckets.iter().zip(few.buckets) {
            if more > 0 {
                shared.fetch_add(more.into(), Relaxed);
            }
        }
        if few.microseconds > 0 {
            self.microseconds.fetch_add(few.microseconds, Relaxed);
        }
    }

    pub(super) fn told(&self) -> DelaysTold {
        let counts = self.buckets.each_ref().map(|bucket| bucket.load(Relaxed));
        // A sum over years is still exact to the millisecond.
        let seconds = |microseconds: u64| microseconds as f64 / 1e6;
        let bounds = BOUNDS.iter().map(|bound| seconds(*bound));
        let bounds = bounds.chain([f64::INFINITY]);
        DelaysTold {
            sum: seconds(self.microseconds.load(Relaxed)),
            count: counts.iter().sum(),
            buckets: bounds.zip(counts).collect(),
        }
    }
}

impl Few {
    fn add(&mut self, delay: Duration) {
        let microseconds = u64::try_from(delay.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.partition_point(|bound| *bound < microseconds);
        if let Some(count) = self.buckets.get_mut(bucket) {
            *count = count.saturating_add(1);
        }
        self.microseconds = self.microseconds.saturating_add(microseconds);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(time: Duration) -> Instant {
        *BEGIN + time
    }

    #[test]
    fn a_read_is_as_long_ago_as_it_is() {
        const HOUR: u64 = 3600;
        for (read, written, expected) in [
            (0, 0, 0),
            (1_000_000, 1_000_250, 250),
            // Across the moment where the steps go round.
            (42_949_672_900, 42_949_673_100, 200),
            (
                3 * HOUR * 1_000_000,
                8 * HOUR * 1_000_000,
                5 * HOUR * 1_000_000,
            ),
            // A clock that goes backwards is no delay of hours.
            (500_000, 400_000, 0),
        ] {
            let [read, written, expected] = [read, written, expected].map(Duration::from_micros);
            let elapsed = ReadAt::at(after(read)).elapsed(after(written)).unwrap();
            assert!(
                elapsed.abs_diff(expected) <= Duration::from_micros(10),
                "{read:?} to {written:?}: {elapsed:?}"
            );
        }
        assert_eq!(ReadAt::default().elapsed(after(Duration::ZERO)), None);
    }

    #[test]
    fn an_age_is_none_of_the_future_and_none_of_years() {
        let now = Duration::from_millis(1_800_000_000_250);
        for (sent, age) in [
            (SentAt::Seconds(1_800_000_000), Some(250)),
            (SentAt::Seconds(1_799_999_999), Some(1_250)),
            (SentAt::Milliseconds(1_800_000_000_000), Some(250)),
            (SentAt::Milliseconds(1_800_000_000_251), None),
            // Milliseconds where seconds belong.
            (SentAt::Seconds(1_800_000_000_250), None),
            (SentAt::Seconds(u64::MAX), None),
            (SentAt::Seconds(0), Some(86_400_000)),
        ] {
            assert_eq!(sent.age(now), age.map(Duration::from_millis), "{sent:?}");
        }
    }

    #[test]
    fn a_delay_is_in_the_first_bucket_that_holds_it() {
        let delays = Delays::new();
        let microseconds = [0, 100, 101, 2_500, 30_000_000, 31_000_000];
        delays.add(microseconds.into_iter().map(Duration::from_micros));
        let told = delays.told();
        let filled = told.buckets.iter().filter(|(_, count)| *count > 0);
        let expected = [
            (0.0001, 2),
            (0.00025, 1),
            (0.0025, 1),
            (30.0, 1),
            (f64::INFINITY, 1),
        ];
        assert_eq!(filled.copied().collect::<Vec<_>>(), expected);
        assert_eq!(told.count, 6);
        assert!((told.sum - 61.002_701).abs() < 1e-9, "{}", told.sum);
    }
}
