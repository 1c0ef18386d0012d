//! Bans are the same on all nodes.
//!
//! Nodes tell each other of a ban at once ([`control`](crate::control)). Where presence is in Redis,
//! each also writes it down there, and looks now and then whether another has: so a node that was
//! not told, or was not there, learns of it.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Weak},
    time::{Duration, Instant, SystemTime},
};

use tokio::time::{self, timeout};

use super::{
    bans::{Bans, Suspect},
    registry::Registry,
};
use crate::{
    control::{Ban, Change, Subject, learn_bans},
    presence::{PresenceError, Record, Records},
    telemetry::{self, RefusedAt},
};

/// The pause between two looks at the records that all nodes share.
const EVERY: Duration = Duration::from_secs(5);

/// Records in one round trip.
const AT_A_TIME: usize = 500;

impl Registry {
    /// The bans.
    #[must_use]
    pub fn bans(&self) -> &Bans {
        &self.bans
    }

    /// The ban that keeps this client out, which is logged now and then; `at` says where it was
    /// found.
    #[must_use]
    pub fn refuse_banned(&self, suspect: &Suspect<'_>, at: &'static str) -> Option<(Subject, Ban)> {
        let found = self.bans.find(SystemTime::now(), suspect)?;
        if let Some(unsaid) = self.bans.said.lock().let_through(Instant::now()) {
            telemetry::banned_client_refused(&found.0, suspect.address, at, unsaid);
        }
        Some(found)
    }

    /// Whether all who come from this address are banned; then it is logged as above, and counted,
    /// for such a client gets no ERROR.
    #[must_use]
    pub fn refuse_banned_address(&self, address: IpAddr, at: RefusedAt) -> bool {
        let suspect = Suspect {
            address: Some(address),
            ..Suspect::default()
        };
        let is_banned = self.refuse_banned(&suspect, at.name()).is_some();
        if is_banned {
            telemetry::refused(at, "banned");
        }
        is_banned
    }

    /// From now on bans are written down there, and read.
    pub fn share_bans(&self, records: Arc<dyn Records>) {
        // It is shared once.
        let _ = self.bans.records.set(records);
    }

    /// Writes a change down for all nodes; `None`: they share no records.
    ///
    /// # Errors
    /// Why it could not be written now. It will be, when that is possible.
    pub async fn record_ban(&self, change: &Change) -> Option<Result<(), Box<str>>> {
        let records = self.bans.records.get()?;
        Some(match records.put(&[record(change)]).await {
            Ok(0) => Ok(()),
            Ok(_) => {
                Err("it holds as many bans, and liftings of the last week, as it takes".into())
            }
            Err(error) => Err(error.to_string().into()),
        })
    }
}

fn record(change: &Change) -> Record {
    Record {
        key: change.subject.key().into(),
        stamp: change.stamp.unwrap_or_default(),
        value: change.to_json().into_bytes().into(),
    }
}

/// Keeps the bans of a node the same as those of the others, and forgets old ones, for as long as
/// the registry lives.
pub async fn keep_bans(registry: Weak<Registry>) {
    let mut mirror = Mirror::default();
    while let Some(registry) = registry.upgrade() {
        let forgotten = registry
            .bans
            .sweep(SystemTime::now(), time::Instant::now().into_std());
        if let Some(records) = registry.bans.records.get() {
            // Presence says in the log that Redis is away; the next look comes soon.
            let _ = mirror.compare(&registry, &**records, forgotten).await;
        }
        // The registry is not held meanwhile.
        let news = Arc::clone(&registry.bans.news);
        drop(registry);
        let _ = timeout(EVERY, news.notified()).await;
    }
}

/// The content of the records, as far as this node knows it.
#[derive(Default)]
struct Mirror {
    /// Their version when they were read; `None`: they were not, or this node has written there since.
    version: Option<Box<[u8]>>,
    stamps: HashMap<Box<str>, u64>,
}

impl Mirror {
    /// Takes what is new there, writes what is new here, and removes what was forgotten. What is
    /// not removed now, is when another node forgets it.
    async fn compare(
        &mut self,
        registry: &Registry,
        records: &dyn Records,
        forgotten: Vec<Change>,
    ) -> Result<(), PresenceError> {
        if !forgotten.is_empty() {
            let forgotten: Vec<_> = forgotten.iter().map(record).collect();
            for some in forgotten.chunks(AT_A_TIME) {
                records.remove(some).await?;
            }
        }
        if let Some(read) = records.read(self.version.as_deref()).await? {
            let read_records = read.records.into_iter();
            let (readable, impossible): (Vec<_>, Vec<_>) =
                read_records.partition(|record| Change::is_stamp(record.stamp));
            // An older version wrote them. No change of their subjects could come after them.
            for some in impossible.chunks(AT_A_TIME) {
                records.remove(some).await?;
            }
            self.version = read.version;
            self.stamps.clear();
            let mut changes = Vec::new();
            for record in readable {
                if let Ok(change) = Change::from_json(&record.value) {
                    changes.push(change);
                    self.stamps.insert(record.key, record.stamp);
                }
            }
            learn_bans(registry, "Redis", &changes);
        }
        let changes = registry.bans.changes(SystemTime::now());
        let missing: Vec<_> = changes
            .iter()
            .map(record)
            .filter(|record| {
                self.stamps
                    .get(&record.key)
                    .is_none_or(|known| *known < record.stamp)
            })
            .collect();
        let mut passed_over = 0_usize;
        for some in missing.chunks(AT_A_TIME) {
            passed_over = passed_over.saturating_add(records.put(some).await?);
        }
        // They are tried again when something has changed there.
        if passed_over > 0 {
            telemetry::bans_full(&format!("{passed_over} bans in Redis"), 0);
        }
        // A failover may bring back that version, without what was written on top of it.
        if passed_over < missing.len() {
            self.version = None;
        }
        let stamps = missing.into_iter().map(|record| (record.key, record.stamp));
        self.stamps.extend(stamps);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
