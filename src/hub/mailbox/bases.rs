//! The last message of each key that a client was given, of subscriptions that want deltas to it.

use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashMap, HashTable};
use stomp_session::SubscriptionId;

use super::lanes::{hash_of, is_same_key};
use crate::broker::{Delta, Message, longest_delta};

/// The keys of a subscription that are remembered. A client remembers as many, those that came last;
/// so it has each one that a delta refers to.
const KEYS: usize = 256;
/// So many messages of further keys go whole before all keys have to find room anew. Until then, the
/// first keys keep theirs: if each took the place of another, keys in turn would never find their base.
const PATIENCE: u32 = 1_024;

/// Of all subscriptions of a client; empty without any.
#[derive(Debug, Default)]
pub(super) struct Bases {
    all: HashMap<SubscriptionId, Remembered>,
    bytes: usize,
    /// Messages that found no room since the last time that all was forgotten.
    without_room: u32,
}

#[derive(Debug)]
struct Remembered {
    last: HashTable<Base>,
    hasher: DefaultHashBuilder,
    /// Messages that were remembered so far.
    count: u64,
}

/// A message that the client has, and its number: those of a subscription that are remembered count
/// from 1.
pub(super) type Base = (Arc<Message>, u64);

/// How a message follows on the last one of its key.
#[derive(Debug)]
pub struct Follows {
    /// Its own number.
    pub number: u64,
    /// `None`: it goes whole.
    base: Option<Base>,
}

impl Bases {
    /// From now on, the subscription's messages are remembered.
    pub(super) fn add(&mut self, subscription: SubscriptionId) {
        let remembered = Remembered {
            last: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            count: 0,
        };
        self.all.insert(subscription, remembered);
    }

    /// The subscription is over.
    pub(super) fn remove(&mut self, subscription: SubscriptionId) {
        if let Some(mut over) = self.all.remove(&subscription) {
            self.bytes = self.bytes.saturating_sub(over.forget());
        }
        if self.all.is_empty() {
            self.all = HashMap::new();
        }
    }

    /// True if no subscription wants deltas.
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// About the bytes that are kept.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Forgets all messages, which are given back: the next ones go whole.
    pub(super) fn forget(&mut self) -> Vec<HashTable<Base>> {
        self.bytes = 0;
        self.without_room = 0;
        let all = self.all.values_mut();
        all.map(|one| std::mem::take(&mut one.last)).collect()
    }

    /// Whether the subscription wants deltas.
    pub(super) fn wants(&self, subscription: SubscriptionId) -> bool {
        self.all.contains_key(&subscription)
    }

    /// A message goes to its client: remembers it, in at most so many bytes. `None`: its subscription
    /// wants no deltas, or it is no base.
    pub(super) fn take(
        &mut self,
        subscription: SubscriptionId,
        message: &Arc<Message>,
        most: usize,
    ) -> Option<Follows> {
        let one = self.all.get_mut(&subscription)?;
        let base = one.remove(message);
        if let Some((base, _)) = &base {
            self.bytes = self.bytes.saturating_sub(size(base));
        }
        if !message.fits_deltas() {
            return None;
        }
        let bytes = self.bytes.saturating_add(size(message));
        if bytes > most || one.last.len() >= KEYS {
            self.without_room = self.without_room.saturating_add(1);
            if self.without_room > PATIENCE {
                drop(self.forget());
            }
            return None;
        }
        self.bytes = bytes;
        let number = one.insert(message);
        Some(Follows { number, base })
    }
}

impl Remembered {
    fn remove(&mut self, message: &Message) -> Option<Base> {
        let hash = hash_of(&self.hasher, message);
        let is_same = |(other, _): &Base| is_same_key(other, message);
        let found = self.last.find_entry(hash, is_same).ok()?;
        Some(found.remove().0)
    }

    /// To be [removed](Remembered::remove) before. Returns its number.
    fn insert(&mut self, message: &Arc<Message>) -> u64 {
        self.count = self.count.saturating_add(1);
        let Self { last, hasher, .. } = self;
        let hash = |(message, _): &Base| hash_of(hasher, message);
        let base = (Arc::clone(message), self.count);
        last.insert_unique(hash(&base), base, hash);
        self.count
    }

    /// Forgets its messages; about the bytes that they took.
    fn forget(&mut self) -> usize {
        let all = std::mem::take(&mut self.last);
        all.iter().map(|(message, _)| size(message)).sum()
    }
}

/// About what a message takes here, with its frame, and with the delta by which it came and that one's
/// frame. All clients with the same base share a delta, so this is more than it takes.
fn size(message: &Message) -> usize {
    let body = message.body.len();
    let delta = longest_delta(body);
    [body, delta, delta]
        .into_iter()
        .fold(message.weight(), usize::saturating_add)
}

impl Follows {
    /// The message as a delta to its base, and the base's number.
    #[must_use]
    pub fn delta(&self, message: &Message) -> Option<(Arc<Delta>, u64)> {
        let (base, number) = self.base.as_ref()?;
        Some((message.delta_to(base)?, *number))
    }

    /// The message is written. If nobody else has its base, nobody asks for the delta to it.
    pub fn end(self, message: &Message) {
        if let Some((base, _)) = self.base
            && Arc::into_inner(base).is_some()
        {
            message.tidy_deltas();
        }
    }
}

#[cfg(test)]
#[path = "bases_tests.rs"]
mod tests;
