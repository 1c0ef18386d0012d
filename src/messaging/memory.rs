//! Sequences and keys in this process' memory: for a single node.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    time::Duration,
};

use futures_util::future::{BoxFuture, FutureExt, ready};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    BOOKMARKS, Config, Entry, Holder, KeyKnown, SequenceError, SequenceName, SequenceStore,
};

/// Sequences and keys of one node.
pub struct MemorySequences {
    config: Config,
    held: Mutex<Held>,
}

#[derive(Clone, Default)]
pub(super) struct Held {
    sequences: Users<Entry>,
    keys: Users<KeyKnown>,
    bookmarks: Users<Box<str>>,
}

/// What is kept for each user by name, and when it was last used.
#[derive(Clone)]
struct Users<T> {
    users: HashMap<Holder, BTreeMap<Box<str>, (T, Instant)>>,
    /// With more users than this, what has expired is looked for among all of them.
    sweep_at: usize,
}

impl<T> Default for Users<T> {
    fn default() -> Self {
        Self {
            users: HashMap::new(),
            sweep_at: 1_024,
        }
    }
}

impl MemorySequences {
    /// An empty store with these bounds.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config,
            held: Mutex::default(),
        }
    }

    /// What it holds at this moment.
    #[cfg(test)]
    pub(super) fn held(&self) -> Held {
        self.held.lock().clone()
    }

    /// It loses what it was told since then, as a replica may that takes over.
    #[cfg(test)]
    pub(super) fn roll_back(&self, to: Held) {
        *self.held.lock() = to;
    }

    /// One step of an entry that is there.
    fn step<'a>(
        &self,
        name: &SequenceName,
        step: impl FnOnce(&mut Entry) -> Result<(), SequenceError>,
    ) -> BoxFuture<'a, Result<Entry, SequenceError>> {
        let mut held = self.held.lock();
        let entry = held
            .sequences
            .get(&name.holder, &name.device, &self.config)
            .ok_or(SequenceError::Lost);
        let outcome = entry.and_then(|entry| {
            step(entry)?;
            Ok(*entry)
        });
        ready(outcome).boxed()
    }
}

impl<T: GivesWay> Users<T> {
    /// What is kept under the name, and has not expired. It counts as used.
    fn get(&mut self, holder: &Holder, name: &str, config: &Config) -> Option<&mut T> {
        let now = Instant::now();
        let (kept, used) = self.users.get_mut(holder)?.get_mut(name)?;
        if now.duration_since(*used) > config.keep {
            return None;
        }
        *used = now;
        Some(kept)
    }

    /// Keeps it, in place of the oldest if there are too many.
    fn put(&mut self, holder: &Holder, name: &str, kept: T, most: usize, config: &Config) {
        let now = Instant::now();
        if self.users.len() > self.sweep_at {
            self.users.retain(|_, names| {
                names.retain(|_, (_, used)| now.duration_since(*used) <= config.keep);
                !names.is_empty()
            });
            self.sweep_at = self.users.len().saturating_mul(2).max(1_024);
        }
        let names = self.users.entry(holder.clone()).or_default();
        if names.len() >= most && !names.contains_key(name) {
            forget_oldest(names, most);
        }
        names.insert(name.into(), (kept, now));
    }
}

/// How those give way that are kept for one user, if there are too many.
trait GivesWay {
    /// How many more than need be, of so many.
    fn spare(most: usize) -> usize;

    /// Whether others give way first.
    fn is_busy(&self) -> bool;
}

impl GivesWay for Entry {
    fn spare(_: usize) -> usize {
        0
    }

    fn is_busy(&self) -> bool {
        self.busy != 0
    }
}

impl GivesWay for KeyKnown {
    /// A tenth, so that not every further one costs a look at all.
    fn spare(most: usize) -> usize {
        most / 10
    }

    fn is_busy(&self) -> bool {
        false
    }
}

impl GivesWay for Box<str> {
    fn spare(_: usize) -> usize {
        0
    }

    fn is_busy(&self) -> bool {
        false
    }
}

fn forget_oldest<K: Ord + Clone, T: GivesWay>(names: &mut BTreeMap<K, (T, Instant)>, most: usize) {
    let mut ages: Vec<(bool, Instant, K)> = names
        .iter()
        .map(|(name, (kept, used))| (kept.is_busy(), *used, name.clone()))
        .collect();
    ages.sort_unstable();
    let stay = most.saturating_sub(1).saturating_sub(T::spare(most));
    let surplus = ages.len().saturating_sub(stay);
    for (_, _, name) in ages.into_iter().take(surplus) {
        names.remove(&name);
    }
}

impl SequenceStore for MemorySequences {
    fn open<'a>(
        &'a self,
        name: &'a SequenceName,
        known: u64,
        epoch: u64,
        told: u64,
    ) -> BoxFuture<'a, Result<Entry, SequenceError>> {
        let (mut held, config) = (self.held.lock(), &self.config);
        let there = held.sequences.get(&name.holder, &name.device, config);
        let opened = Entry::open(there.copied(), known, epoch, told);
        if let Ok(entry) = opened {
            let most = config.max_devices;
            held.sequences
                .put(&name.holder, &name.device, entry, most, config);
        }
        ready(opened).boxed()
    }

    fn look<'a>(&'a self, name: &'a SequenceName) -> BoxFuture<'a, Result<Entry, SequenceError>> {
        self.step(name, |_| Ok(()))
    }

    fn reserve<'a>(
        &'a self,
        name: &'a SequenceName,
        epoch: u64,
        to: u64,
    ) -> BoxFuture<'a, Result<Entry, SequenceError>> {
        self.step(name, |entry| entry.reserve(epoch, to))
    }

    fn commit<'a>(
        &'a self,
        name: &'a SequenceName,
        epoch: u64,
        from: u64,
        to: u64,
    ) -> BoxFuture<'a, Result<Entry, SequenceError>> {
        self.step(name, |entry| entry.commit(epoch, from, to))
    }

    fn release<'a>(
        &'a self,
        name: &'a SequenceName,
        epoch: u64,
        handed: u64,
    ) -> BoxFuture<'a, Result<Entry, SequenceError>> {
        self.step(name, |entry| {
            entry.release(epoch, handed);
            Ok(())
        })
    }

    fn begin_key<'a>(
        &'a self,
        holder: &'a Holder,
        key: &'a str,
    ) -> BoxFuture<'a, Result<KeyKnown, SequenceError>> {
        let (mut held, config) = (self.held.lock(), &self.config);
        let known = held.keys.get(holder, key, config).copied();
        if known.is_none() {
            let most = config.max_keys;
            held.keys.put(holder, key, KeyKnown::Pending, most, config);
        }
        ready(Ok(known.unwrap_or(KeyKnown::Nothing))).boxed()
    }

    fn finish_key<'a>(
        &'a self,
        holder: &'a Holder,
        key: &'a str,
    ) -> BoxFuture<'a, Result<(), SequenceError>> {
        let (mut held, config) = (self.held.lock(), &self.config);
        let most = config.max_keys;
        held.keys.put(holder, key, KeyKnown::Done, most, config);
        ready(Ok(())).boxed()
    }

    fn bookmark<'a>(
        &'a self,
        holder: &'a Holder,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Option<Box<str>>, SequenceError>> {
        let (mut held, config) = (self.held.lock(), &self.config);
        let bookmark = held.bookmarks.get(holder, name, config).cloned();
        ready(Ok(bookmark)).boxed()
    }

    fn keep(&self) -> Duration {
        self.config.keep
    }

    fn keep_bookmark<'a>(
        &'a self,
        holder: &'a Holder,
        name: &'a str,
        known: Option<&'a str>,
        bookmark: &'a str,
    ) -> BoxFuture<'a, Result<Box<str>, SequenceError>> {
        let (mut held, config) = (self.held.lock(), &self.config);
        let there = held.bookmarks.get(holder, name, config).cloned();
        if let Some(there) = there
            && Some(&*there) != known
        {
            return ready(Ok(there)).boxed();
        }
        let most = config.max_devices.saturating_mul(BOOKMARKS);
        held.bookmarks
            .put(holder, name, bookmark.into(), most, config);
        ready(Ok(bookmark.into())).boxed()
    }
}

impl fmt::Debug for MemorySequences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemorySequences").finish_non_exhaustive()
    }
}
