//! Feeds that nobody uses any more: an application may make an exchange for each game or order, and
//! delete it afterwards. What serves its feeds at the broker would stay for as long as this node runs.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use super::{Feed, Feeds, Phase, Table};
use crate::{
    broker::{FeedConfig, FeedId, VirtualHost},
    hub::verify::Pace,
    telemetry,
};

/// A feed that nobody has used for so long, and for twice as long at most, is given up. A new one
/// costs the broker little.
const UNUSED: Duration = Duration::from_secs(300);
/// The same, in intervals of [`FeedConfig::verify_interval`], if that is shorter.
const UNUSED_INTERVALS: u32 = 60;
/// The price of a feed's end in the rate of bindings that are checked: the broker has two queues to
/// delete.
const PRICE: usize = 10;

/// Whether a feed goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Stage {
    /// Somebody has used it since it was looked at last.
    #[default]
    Used,
    /// It had no user when it was looked at last.
    Unused,
    /// It is used no more: the next user needs another one of that name.
    GivenUp,
}

/// Gives up what is not used, for as long as the feeds are there.
pub(in crate::hub) fn give_up(
    feeds: &Arc<Feeds>,
    host: &Arc<dyn VirtualHost>,
    config: &FeedConfig,
    pace: &Arc<Pace>,
) -> impl Future<Output = ()> + use<> {
    let (feeds, host) = (Arc::downgrade(feeds), Arc::clone(host));
    let (pause, pace) = (pause(config), Arc::clone(pace));
    async move {
        loop {
            sleep(pause).await;
            let Some(unused) = feeds.upgrade().map(|feeds| feeds.unused()) else {
                return;
            };
            for id in unused {
                pace.turn(PRICE).await;
                // While the broker is away, nothing can be deleted there.
                if host.health().is_err() {
                    break;
                }
                if let Some(feeds) = feeds.upgrade() {
                    feeds.give_up(&id, &*host);
                }
            }
        }
    }
}

/// Between two looks.
fn pause(config: &FeedConfig) -> Duration {
    match config.verify_interval.saturating_mul(UNUSED_INTERVALS) {
        Duration::ZERO => UNUSED,
        intervals => intervals.min(UNUSED),
    }
}

impl Feeds {
    /// Those that nobody has used since the last call.
    fn unused(&self) -> Vec<FeedId> {
        let feeds: Vec<_> = self.open.read().values().map(Arc::clone).collect();
        let unused = feeds.iter().filter(|feed| feed.stays_unused());
        unused.map(|feed| feed.id.clone()).collect()
    }

    /// Ends a feed, unless somebody uses it.
    fn give_up(&self, id: &FeedId, host: &dyn VirtualHost) {
        let mut open = self.open.write();
        if open.get(id).is_some_and(|feed| feed.give_up()) {
            open.remove(id);
            // With the feeds locked: nothing of the next one of that name is bound before.
            host.end_feed(id);
            if open.keys().all(|other| other.exchange != id.exchange) {
                self.kinds.forget(&id.exchange);
            }
            telemetry::feed_given_up(id);
        }
    }
}

impl Feed {
    /// Whether nobody has used it since the last call.
    fn stays_unused(&self) -> bool {
        let mut table = self.table.lock();
        let stage = match table.is_unused() {
            true => Stage::Unused,
            false => Stage::Used,
        };
        std::mem::replace(&mut table.stage, stage) == Stage::Unused && stage == Stage::Unused
    }

    /// From now on nobody can use it, unless somebody has just begun to; whether it is so.
    pub(in crate::hub) fn give_up(&self) -> bool {
        let mut table = self.table.lock();
        if table.stage == Stage::Unused && table.is_unused() {
            table.stage = Stage::GivenUp;
        }
        table.stage == Stage::GivenUp
    }
}

impl Table {
    /// Whether nobody is subscribed, and no call to the broker is under way. A journal is always in
    /// use: it is kept for those who are away.
    fn is_unused(&self) -> bool {
        let mut phases = self.changing.values();
        self.record.is_none()
            && self.routes.is_empty()
            && phases.all(|phase| matches!(phase, Phase::Bound))
    }
}
