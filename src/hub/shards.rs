//! Which shard of its exchange a pattern is bound in.

use std::hash::{BuildHasher, RandomState};

/// The shards of a virtual host's exchanges.
pub(super) struct Shards {
    /// How many there are of an exchange, at most.
    pub(super) count: u16,
    /// Keyed at random, so that nobody can aim all patterns at one shard.
    hasher: RandomState,
}

impl Shards {
    pub(super) fn new(count: u16) -> Self {
        Self {
            count,
            hasher: RandomState::new(),
        }
    }

    /// The shard of that pattern.
    pub(super) fn of(&self, exchange: &str, pattern: &str) -> u16 {
        let hash = self.hasher.hash_one((exchange, pattern));
        let shard = hash.checked_rem(self.count.into());
        u16::try_from(shard.unwrap_or_default()).unwrap_or_default()
    }
}
