//! Subscriptions that want only the newest message of each key (pure: the time is passed in).
//!
//! Each has a [`Lane`]. In it at most one message of a key waits: a newer one takes the older one's
//! place, and so its turn. With a window, the messages of a lane come in batches, a window apart:
//! the first message after a rest comes at once, and those of the window that it opens wait for the
//! window's end. So a key comes once a window, and its last message always comes.

use std::{
    collections::VecDeque,
    hash::BuildHasher,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use hashbrown::{DefaultHashBuilder, HashTable};
use stomp_session::SubscriptionId;
use tokio::sync::Notify;

use super::{Mailbox, Parcel, bases::Bases};
use crate::broker::Message;

/// What a subscription wants of messages with the same key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conflate {
    /// The newest of those that wait.
    Latest,
    /// The same; and one in each of these windows, at most.
    Every(Duration),
}

/// The lanes of a client's mailbox.
#[derive(Debug)]
pub(super) struct Lanes {
    /// Few: they are looked for one by one.
    lanes: Vec<Lane>,
    /// The lane whose turn it is.
    turn: usize,
    /// The last parcel of a feed came from here; lanes and the rest take turns.
    pub(super) were_last: bool,
    /// When a task wakes the connection, for the next window ends; `None`: there is no such task.
    pub(super) clock: Option<Instant>,
    /// Tells that task of a window that ends sooner.
    pub(super) sooner: Arc<Notify>,
    /// The mailbox that they are in.
    pub(super) mailbox: Weak<Mailbox>,
    /// Here, since few mailboxes have either.
    pub(super) bases: Bases,
}

/// The messages of one subscription.
#[derive(Debug)]
struct Lane {
    subscription: SubscriptionId,
    /// Zero: there are no windows.
    window: Duration,
    /// In the order in which their keys began to wait.
    waiting: VecDeque<Waiting>,
    /// The numbers of those that wait, by their key.
    places: HashTable<u64>,
    hasher: DefaultHashBuilder,
    /// The number of the first that waits.
    first: u64,
    /// So many may be taken now; the others wait for the window's end.
    ready: usize,
    /// The window's end; windows without a message between are none.
    opens: Option<Instant>,
    bytes: usize,
}

#[derive(Debug)]
struct Waiting {
    message: Arc<Message>,
    /// Older messages of its key that it took the place of.
    conflated: u32,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Put {
    /// It can be taken now.
    Ready,
    /// It waits for the end of a window, or took the place of one that waits already.
    Waits,
}

impl Lanes {
    /// No lanes yet.
    pub(super) fn new(mailbox: Weak<Mailbox>) -> Self {
        Self {
            lanes: Vec::new(),
            turn: 0,
            were_last: false,
            clock: None,
            sooner: Arc::default(),
            mailbox,
            bases: Bases::default(),
        }
    }

    /// Adds a lane for a subscription.
    pub(super) fn add(&mut self, subscription: SubscriptionId, conflate: Conflate) {
        let window = match conflate {
            Conflate::Latest => Duration::ZERO,
            Conflate::Every(window) => window,
        };
        self.lanes.reserve_exact(1);
        self.lanes.push(Lane {
            subscription,
            window,
            waiting: VecDeque::new(),
            places: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            first: 0,
            ready: 0,
            opens: None,
            bytes: 0,
        });
    }

    /// Drops a subscription's lane and its messages, and its bases. Returns true if nothing is left.
    pub(super) fn remove(&mut self, subscription: SubscriptionId) -> bool {
        self.lanes.retain(|lane| lane.subscription != subscription);
        self.lanes.shrink_to_fit();
        self.bases.remove(subscription);
        self.is_empty()
    }

    /// True without lanes and bases.
    pub(super) fn is_empty(&self) -> bool {
        self.lanes.is_empty() && self.bases.is_empty()
    }

    /// Puts a message of a subscription into its lane; `None` if it has none.
    pub(super) fn put(
        &mut self,
        subscription: SubscriptionId,
        message: &Arc<Message>,
        now: Instant,
    ) -> Option<Put> {
        let mut lanes = self.lanes.iter_mut();
        let lane = lanes.find(|lane| lane.subscription == subscription)?;
        Some(lane.put(message, now))
    }

    /// The next message that can be taken, of the lanes in turn.
    pub(super) fn take(&mut self, now: Instant) -> Option<Parcel> {
        for _ in 0..self.lanes.len() {
            let lane = self.turn.checked_rem(self.lanes.len()).unwrap_or(0);
            self.turn = lane.wrapping_add(1);
            if let Some(parcel) = self.lanes.get_mut(lane).and_then(|lane| lane.take(now)) {
                return Some(parcel);
            }
        }
        None
    }

    /// True if [`Lanes::take`] has something.
    pub(super) fn is_ready(&self, now: Instant) -> bool {
        self.lanes.iter().any(|lane| lane.is_ready(now))
    }

    /// The messages that wait, and their bytes.
    pub(super) fn waiting(&self) -> (usize, usize) {
        self.sum(|lane| (lane.waiting.len(), lane.bytes))
    }

    /// The messages among them that wait for the end of a window, and about their bytes.
    pub(super) fn held_back(&self) -> (usize, usize) {
        self.sum(|lane| {
            let held = lane.waiting.len().saturating_sub(lane.ready);
            let share = lane.bytes.saturating_mul(held);
            (held, share.checked_div(lane.waiting.len()).unwrap_or(0))
        })
    }

    fn sum(&self, of: impl Fn(&Lane) -> (usize, usize)) -> (usize, usize) {
        self.lanes
            .iter()
            .map(of)
            .fold((0, 0), |sum, (messages, bytes)| {
                (sum.0.saturating_add(messages), sum.1.saturating_add(bytes))
            })
    }

    /// Ends all windows before their time: too much waits for them.
    pub(super) fn release(&mut self, now: Instant) {
        for lane in &mut self.lanes {
            lane.open(now);
        }
    }

    /// Begins the next batch of each lane whose window has ended. Returns true if there is one.
    pub(super) fn open(&mut self, now: Instant) -> bool {
        let ended = self.lanes.iter_mut().filter(|lane| lane.is_ready(now));
        ended.fold(false, |_, lane| {
            if lane.ready == 0 {
                lane.open(now);
            }
            true
        })
    }

    /// The end of the next window. `None`: none has begun.
    pub(super) fn next_window(&self, now: Instant) -> Option<Instant> {
        let ends = self.lanes.iter().filter_map(|lane| lane.opens);
        ends.filter(|end| *end > now).min()
    }

    /// Drops the message that has waited for longest in the longest lane. Returns false if there is
    /// none.
    pub(super) fn drop_oldest(&mut self) -> bool {
        let longest = self.lanes.iter_mut().max_by_key(|lane| lane.waiting.len());
        longest.and_then(Lane::pop).is_some()
    }
}

impl Lane {
    fn put(&mut self, message: &Arc<Message>, now: Instant) -> Put {
        let hash = self.hash(message);
        let (waiting, first) = (&self.waiting, self.first);
        let is_same = |place: &u64| {
            at(waiting, first, *place).is_some_and(|i| is_same_key(&i.message, message))
        };
        let size = message.weight();
        if let Some(place) = self.places.find(hash, is_same).copied() {
            let index = usize::try_from(place.wrapping_sub(self.first)).unwrap_or(usize::MAX);
            if let Some(older) = self.waiting.get_mut(index) {
                self.bytes = self
                    .bytes
                    .saturating_sub(older.message.weight())
                    .saturating_add(size);
                older.message = Arc::clone(message);
                older.conflated = older.conflated.saturating_add(1);
            }
            return Put::Waits;
        }
        let place = self.first.wrapping_add(self.waiting.len() as u64);
        self.waiting.push_back(Waiting {
            message: Arc::clone(message),
            conflated: 0,
        });
        self.bytes = self.bytes.saturating_add(size);
        let Self {
            waiting,
            first,
            hasher,
            places,
            ..
        } = self;
        places.insert_unique(hash, place, |place| {
            at(waiting, *first, *place).map_or(0, |waiting| hash_of(hasher, &waiting.message))
        });
        if self.is_open(now) {
            self.open(now);
            return Put::Ready;
        }
        Put::Waits
    }

    /// True if a new batch may begin.
    fn is_open(&self, now: Instant) -> bool {
        self.window.is_zero() || (self.ready == 0 && self.opens.is_none_or(|opens| opens <= now))
    }

    fn is_ready(&self, now: Instant) -> bool {
        self.ready > 0 || (!self.waiting.is_empty() && self.is_open(now))
    }

    /// All that waits is a batch, and the next window begins.
    fn open(&mut self, now: Instant) {
        self.ready = self.waiting.len();
        if !self.window.is_zero() && self.ready > 0 {
            self.opens = now.checked_add(self.window);
        }
    }

    fn take(&mut self, now: Instant) -> Option<Parcel> {
        if self.ready == 0 {
            if self.waiting.is_empty() || !self.is_open(now) {
                return None;
            }
            self.open(now);
        }
        let Waiting { message, conflated } = self.pop()?;
        Some(Parcel {
            subscription: self.subscription,
            tag: 0,
            redelivered: message.may_be_known,
            is_past: false,
            dropped: 0,
            conflated,
            message,
        })
    }

    /// Takes out the first.
    fn pop(&mut self) -> Option<Waiting> {
        let hash = self.hash(&self.waiting.front()?.message);
        let first = self.first;
        if let Ok(place) = self.places.find_entry(hash, |place| *place == first) {
            place.remove();
        }
        let taken = self.waiting.pop_front()?;
        self.first = self.first.wrapping_add(1);
        self.ready = self.ready.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(taken.message.weight());
        if self.waiting.is_empty() {
            self.waiting = VecDeque::new();
            self.places = HashTable::new();
            self.bytes = 0;
        }
        Some(taken)
    }

    fn hash(&self, message: &Message) -> u64 {
        hash_of(&self.hasher, message)
    }
}

fn at(waiting: &VecDeque<Waiting>, first: u64, place: u64) -> Option<&Waiting> {
    waiting.get(usize::try_from(place.wrapping_sub(first)).ok()?)
}

pub(super) fn hash_of(hasher: &DefaultHashBuilder, message: &Message) -> u64 {
    hasher.hash_one((&*message.exchange, &*message.routing_key))
}

pub(super) fn is_same_key(one: &Message, other: &Message) -> bool {
    one.routing_key == other.routing_key && one.exchange == other.exchange
}

#[cfg(test)]
#[path = "lanes_tests.rs"]
mod tests;
