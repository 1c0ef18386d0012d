//! Asks for the bindings that clients rely on again and again: AMQP does not say that an exchange
//! was deleted and made anew, or that somebody took a binding away. To bind what is bound costs the
//! broker a look-up.
//!
//! - A feed that has one binding, of a fanout exchange or to everything, is checked in each interval.
//! - All others are checked in turn, at a rate that all virtual hosts share: so many keys divided by
//!   the rate, and no less than an interval, is the time after which a binding that was lost is
//!   there again.
//!   Where a sentinel tells that an exchange was made anew, only single bindings can get lost
//!   unnoticed: there a key is checked a sixteenth as often. Each node does this, and RabbitMQ pays
//!   for all of them.
//! - A broker that takes long to answer is left alone for longer: it has more urgent things to do.
//! - Types are asked for once in many intervals: it is a line in the broker's log.

use std::{
    collections::BTreeSet,
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::future::{join, join_all};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

use super::feed::{Feed, Feeds, Sink};
use crate::{
    broker::{BrokerError, FeedConfig, FeedSink, VirtualHost},
    deadline::later,
    telemetry,
};

/// Bindings asked for at a time.
const BATCH: usize = 32;
/// The price of a key in the rate if a sentinel watches the exchange.
const WATCHED: usize = 16;
/// After the broker's answers no more is asked for so many times as long as they took, a minute at
/// most.
const REST: u32 = 20;
const MAX_REST: Duration = Duration::from_secs(60);
/// Types are asked for once in so many intervals.
const INTERVALS_PER_TYPE: u32 = 60;

/// How fast bindings are checked, in all virtual hosts together.
pub(super) struct Pace {
    /// Between two of them.
    pause: Duration,
    next: Mutex<Instant>,
}

/// Checks the bindings of one virtual host.
pub(super) struct Verifier {
    /// The feeds of the hub that this task belongs to.
    feeds: Weak<Feeds>,
    host: Arc<dyn VirtualHost>,
    sink: Sink,
    interval: Duration,
    pace: Arc<Pace>,
}

impl Pace {
    pub(super) fn new(config: &FeedConfig) -> Arc<Self> {
        let second = Duration::from_secs(1);
        Arc::new(Self {
            pause: second.checked_div(config.verify_rate).unwrap_or(second),
            next: Mutex::new(Instant::now()),
        })
    }

    /// Waits until so many may be checked.
    pub(super) async fn turn(&self, count: usize) {
        let at = {
            let mut next = self.next.lock();
            let at = (*next).max(Instant::now());
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            *next = later(at, self.pause.saturating_mul(count));
            at
        };
        sleep_until(at).await;
    }

    /// Leaves the broker alone after it took so long.
    fn rest(&self, took: Duration) {
        let rested = later(Instant::now(), took.saturating_mul(REST).min(MAX_REST));
        let mut next = self.next.lock();
        *next = (*next).max(rested);
    }
}

impl Verifier {
    pub(super) fn new(
        feeds: &Arc<Feeds>,
        host: &Arc<dyn VirtualHost>,
        config: &FeedConfig,
        pace: &Arc<Pace>,
    ) -> Self {
        Self {
            feeds: Arc::downgrade(feeds),
            host: Arc::clone(host),
            sink: Sink(Arc::downgrade(feeds)),
            interval: config.verify_interval,
            pace: Arc::clone(pace),
        }
    }

    /// Runs for ever.
    pub(super) async fn run(self) {
        if self.interval.is_zero() {
            return;
        }
        join(self.check_single(), self.check_in_turn()).await;
    }

    async fn check_single(&self) {
        let mut intervals = 0_u32;
        let mut next = Instant::now();
        loop {
            next = later(next, self.interval).max(Instant::now());
            sleep_until(next).await;
            if self.host.health().is_err() {
                continue;
            }
            intervals = intervals.wrapping_add(1);
            let feeds = self.feeds();
            if intervals.is_multiple_of(INTERVALS_PER_TYPE) {
                self.check_types(&feeds).await;
            }
            let single = feeds.into_iter().filter(|feed| feed.has_one_binding());
            let checks = single.map(|feed| async move {
                for binding in feed.relied_on().iter() {
                    // The subscribers handle the answer.
                    let _ = Arc::clone(&feed).check(binding.into()).await;
                }
            });
            join_all(checks).await;
        }
    }

    async fn check_in_turn(&self) {
        loop {
            let begun = Instant::now();
            for feed in self.feeds() {
                if feed.has_one_binding() {
                    continue;
                }
                let each = if feed.is_watched() { WATCHED } else { 1 };
                let relied_on = feed.relied_on();
                let mut patterns = relied_on.iter().peekable();
                while patterns.peek().is_some() {
                    let some: Vec<Arc<str>> =
                        patterns.by_ref().take(BATCH).map(Arc::from).collect();
                    let count = some.len().saturating_mul(each);
                    self.pace.turn(count).await;
                    if self.host.health().is_err() {
                        break;
                    }
                    let asked = Instant::now();
                    let checks = some
                        .into_iter()
                        .map(|binding| Arc::clone(&feed).check(binding));
                    join_all(checks).await;
                    self.pace.rest(asked.elapsed());
                }
            }
            sleep_until(later(begun, self.interval)).await;
        }
    }

    /// Checks the types of the exchanges in use.
    async fn check_types(&self, feeds: &[Arc<Feed>]) {
        let used = feeds.iter().filter(|feed| !feed.is_unused());
        let exchanges: BTreeSet<_> = used.map(|feed| Arc::clone(&feed.id().exchange)).collect();
        for exchange in exchanges {
            let Some(all) = self.feeds.upgrade() else {
                return;
            };
            // Feeds of another type are told by this.
            let gone = match all.learn_kind(&*self.host, &exchange).await {
                Err(error @ (BrokerError::NotFound(_) | BrokerError::PreconditionFailed(_))) => {
                    error.to_string()
                }
                _ => continue,
            };
            for feed in feeds.iter().filter(|feed| feed.id().exchange == exchange) {
                telemetry::feed_interrupted(feed.id(), &gone);
                self.sink.lost(feed.id(), &gone);
            }
        }
    }

    fn feeds(&self) -> Vec<Arc<Feed>> {
        let feeds = self
            .feeds
            .upgrade()
            .map(|feeds| feeds.open.read().values().map(Arc::clone).collect());
        feeds.unwrap_or_default()
    }
}
