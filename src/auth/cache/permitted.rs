//! What was permitted, and until when: 32 bytes each. Beside many idle clients this is what takes
//! most memory while they come, so no names are kept.

use std::{
    hash::{Hash, Hasher},
    time::Duration,
};

use hashbrown::HashTable;
use parking_lot::Mutex;
use siphasher::sip128::{Hasher128, SipHasher24};
use tokio::time::Instant;

use crate::auth::{Access, User};

/// At most so many shards are locked apart from each other.
const MAX_SHARDS: u64 = 16;
/// Smaller shards are not worth a lock of their own.
const MIN_SHARD_SIZE: u64 = 64;

/// Permissions that were granted not long ago.
///
/// A question (who, and what) is remembered by its SipHash of 128 bits, with a key that is random
/// in each process and never shown: nobody can find two questions of one hash by calculation. By
/// chance, a question is taken for one of 2^17 that are remembered once in 2^111 times: at a
/// million questions a second, that is once in 10^19 years.
pub(super) struct Permitted {
    ttl: Duration,
    started: Instant,
    /// Its state before the first byte.
    hasher: SipHasher24,
    shards: Box<[Mutex<HashTable<PermittedEntry>>]>,
    /// Of entries in each.
    shard_size: usize,
}

struct PermittedEntry {
    question: u128,
    /// A hash of the user's name. If two have the same, they are only forgotten together.
    user: u64,
    /// In nanoseconds since the start.
    until: u64,
}

impl Permitted {
    /// Room for `size` permissions, each remembered for `ttl`.
    pub(super) fn new(ttl: Duration, size: u64) -> Self {
        let shards = (size / MIN_SHARD_SIZE).clamp(1, MAX_SHARDS);
        let share = size.checked_div(shards).unwrap_or(size);
        let shard_size = usize::try_from(share).unwrap_or(usize::MAX);
        Self {
            ttl,
            started: Instant::now(),
            hasher: SipHasher24::new_with_key(&rand::random()),
            shards: (0..shards).map(|_| Mutex::default()).collect(),
            shard_size: shard_size.max(1),
        }
    }

    pub(super) fn ttl(&self) -> Duration {
        self.ttl
    }

    /// What stands for the question.
    pub(super) fn question(&self, user: &User, access: &Access) -> u128 {
        let mut hasher = self.hasher;
        (user, access).hash(&mut hasher);
        hasher.finish128().as_u128()
    }

    pub(super) fn knows(&self, question: u128) -> bool {
        let shard = self.shard(question).lock();
        let entry = shard.find(place(question), |entry| entry.question == question);
        entry.is_some_and(|entry| self.now() < entry.until)
    }

    /// Remembers a permission from now on, if it still may be.
    pub(super) fn remember(&self, question: u128, user: &User, may: impl FnOnce() -> bool) {
        let user = self.user(&user.name);
        let mut shard = self.shard(question).lock();
        // Within the lock: a caller that takes something back says so first, and then waits for the lock.
        if !may() {
            return;
        }
        let now = self.now();
        let until = now.saturating_add(nanoseconds(self.ttl));
        if let Some(entry) = shard.find_mut(place(question), |entry| entry.question == question) {
            entry.until = until;
            return;
        }
        if shard.len() >= self.shard_size {
            shard.retain(|entry| now < entry.until);
        }
        if shard.len() >= self.shard_size {
            // Some that come first, which are any. Not one only: the next would look again.
            let surplus = (self.shard_size / 8).saturating_add(1);
            shard.extract_if(|_| true).take(surplus).for_each(drop);
        }
        let entry = PermittedEntry {
            question,
            user,
            until,
        };
        shard.insert_unique(place(question), entry, |entry| place(entry.question));
    }

    pub(super) fn forget(&self, question: u128) {
        let mut shard = self.shard(question).lock();
        if let Ok(entry) = shard.find_entry(place(question), |entry| entry.question == question) {
            entry.remove();
        }
    }

    /// Forgets what a user was permitted; how much that was.
    pub(super) fn forget_user(&self, name: &str) -> usize {
        let (user, now) = (self.user(name), self.now());
        let mut forgotten = 0_usize;
        for shard in &self.shards {
            shard.lock().retain(|entry| {
                let is_its_own = entry.user == user;
                let is_lost = is_its_own && now < entry.until;
                forgotten = forgotten.saturating_add(is_lost.into());
                !is_its_own
            });
        }
        forgotten
    }

    /// Frees what is no longer remembered.
    pub(super) fn sweep(&self) {
        let now = self.now();
        for shard in &self.shards {
            let mut shard = shard.lock();
            shard.retain(|entry| now < entry.until);
            if shard.capacity() / 4 >= shard.len() {
                let room = shard.len().saturating_mul(2);
                shard.shrink_to(room, |entry| place(entry.question));
            }
        }
    }

    /// How many entries take memory.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    /// For how many entries there is memory.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        let shards = self.shards.iter();
        shards.map(|shard| shard.lock().capacity()).sum()
    }

    fn user(&self, name: &str) -> u64 {
        let mut hasher = self.hasher;
        name.hash(&mut hasher);
        hasher.finish()
    }

    fn now(&self) -> u64 {
        nanoseconds(self.started.elapsed())
    }

    // There is one shard at least, and a remainder is less than their number.
    #[allow(clippy::indexing_slicing)]
    fn shard(&self, question: u128) -> &Mutex<HashTable<PermittedEntry>> {
        // Other bits than those that say where it is in the shard.
        let high = (question >> 64) as usize;
        let place = high.checked_rem(self.shards.len()).unwrap_or_default();
        &self.shards[place]
    }
}

/// Where a question is in its shard: it is a hash already.
fn place(question: u128) -> u64 {
    question as u64
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
