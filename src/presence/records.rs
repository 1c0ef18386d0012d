//! Records that all nodes share, as bans are: a value for each key, of which the newest counts.

use std::collections::BTreeMap;

use futures_util::future::{BoxFuture, FutureExt};
use parking_lot::Mutex;

use super::PresenceError;

/// A record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its name; not empty.
    pub key: Box<str>,
    /// When it was made: of two with the same key the greater one counts. Below 2^53.
    pub stamp: u64,
    /// Its content.
    pub value: Box<[u8]>,
}

/// All records, as they were in one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordsRead {
    /// Another one after every change; `None`: there was none yet.
    pub version: Option<Box<[u8]>>,
    /// The records, in the order of their keys.
    pub records: Vec<Record>,
}

/// Keeps records for all nodes. It may lose all of them at any time, so whoever needs one writes
/// it anew.
pub trait Records: Send + Sync + 'static {
    /// Writes records, each unless a newer one or the same is there. Beyond the bound of the
    /// store new keys are passed over; how many were.
    ///
    /// # Errors
    /// [`PresenceError::Unavailable`]: some may be written.
    fn put<'a>(&'a self, records: &'a [Record]) -> BoxFuture<'a, Result<usize, PresenceError>>;

    /// Removes these very records: one with another stamp stays.
    ///
    /// # Errors
    /// As [`Records::put`].
    fn remove<'a>(&'a self, records: &'a [Record]) -> BoxFuture<'a, Result<(), PresenceError>>;

    /// All records; `None`: the version is still this one.
    ///
    /// # Errors
    /// As [`Records::put`].
    fn read<'a>(
        &'a self,
        version: Option<&'a [u8]>,
    ) -> BoxFuture<'a, Result<Option<RecordsRead>, PresenceError>>;
}

/// Records in this process' memory: for nodes that share it, in tests.
#[derive(Debug, Default)]
pub struct MemoryRecords(Mutex<(u64, BTreeMap<Box<str>, Record>)>);

impl MemoryRecords {
    /// Records at a time.
    pub const MOST: usize = MOST_RECORDS;

    fn change(&self, change: impl FnOnce(&mut BTreeMap<Box<str>, Record>) -> bool) {
        let mut locked = self.0.lock();
        let (version, records) = &mut *locked;
        if change(records) {
            *version = version.wrapping_add(1);
        }
    }
}

/// Records that a store takes.
pub(super) const MOST_RECORDS: usize = 20_000;

impl Records for MemoryRecords {
    fn put<'a>(&'a self, new: &'a [Record]) -> BoxFuture<'a, Result<usize, PresenceError>> {
        let mut passed_over = 0_usize;
        self.change(|records| {
            let mut has_changed = false;
            for record in new {
                let is_taken = match records.get(&record.key) {
                    Some(known) => known.stamp < record.stamp,
                    None if records.len() < MOST_RECORDS => true,
                    None => {
                        passed_over = passed_over.saturating_add(1);
                        false
                    }
                };
                if is_taken {
                    records.insert(record.key.clone(), record.clone());
                }
                has_changed |= is_taken;
            }
            has_changed
        });
        async move { Ok(passed_over) }.boxed()
    }

    fn remove<'a>(&'a self, old: &'a [Record]) -> BoxFuture<'a, Result<(), PresenceError>> {
        self.change(|records| {
            let mut has_changed = false;
            for record in old {
                let known = records.get(&record.key);
                if known.is_some_and(|known| known.stamp == record.stamp) {
                    records.remove(&record.key);
                    has_changed = true;
                }
            }
            has_changed
        });
        async { Ok(()) }.boxed()
    }

    fn read<'a>(
        &'a self,
        version: Option<&'a [u8]>,
    ) -> BoxFuture<'a, Result<Option<RecordsRead>, PresenceError>> {
        let locked = self.0.lock();
        let (now, records) = &*locked;
        let now = (*now > 0).then(|| Box::from(now.to_be_bytes().as_slice()));
        let read = if now.is_some() && now.as_deref() == version {
            None
        } else {
            Some(RecordsRead {
                version: now,
                records: records.values().cloned().collect(),
            })
        };
        async { Ok(read) }.boxed()
    }
}
