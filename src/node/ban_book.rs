//! The bans of a node, and where they are shared with other nodes.

use std::{
    ops::Deref,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::bans::Bans;
use crate::{
    control::{Applied, Change},
    presence::Records,
    telemetry::Seldom,
};

/// The bans of a node, with the means to share them.
#[derive(Default)]
pub(super) struct BanBook {
    bans: Bans,
    /// Where all nodes keep them; unset: nowhere.
    pub(super) records: OnceLock<Arc<dyn Records>>,
    /// There is something that the records may not have.
    pub(super) news: Arc<Notify>,
    pub(super) said: Mutex<Seldom>,
}

impl Deref for BanBook {
    type Target = Bans;

    fn deref(&self) -> &Bans {
        &self.bans
    }
}

impl BanBook {
    /// As [`Bans::apply`]; what is new is written down for other nodes.
    pub(super) fn apply(&self, now: SystemTime, late: Duration, change: &Change) -> Applied {
        self.tell(self.bans.apply(now, late, change))
    }

    /// As [`Bans::hear`], and the same.
    pub(super) fn hear(&self, now: SystemTime, change: &Change) -> Applied {
        self.tell(self.bans.hear(now, change))
    }

    fn tell(&self, applied: Applied) -> Applied {
        if matches!(applied, Applied::Done(_)) {
            self.news.notify_one();
        }
        applied
    }
}

impl std::fmt::Debug for BanBook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.bans.fmt(f)
    }
}
