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

use hashbrown::{DefaultHashBuilder, HashMap, HashTable};
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
    lanes: Vec<Lane>,
    /// Where each subscription's lane is. A client may have thousands, and a feed must not look through
    /// them for each message.
    places: HashMap<SubscriptionId, usize>,
    /// Of all lanes.
    load: Load,
    /// The lane whose turn it is.
    turn: usize,
    /// The lane that drops a message if there are too many.
    drops: usize,
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

/// What waits in lanes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Load {
    messages: usize,
    bytes: usize,
    /// Those among them that wait for the end of a window, and about their bytes.
    held: usize,
    held_bytes: usize,
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
            places: HashMap::new(),
            load: Load::default(),
            turn: 0,
            drops: 0,
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
        self.places.insert(subscription, self.lanes.len());
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
        if let Some(place) = self.places.remove(&subscription)
            && place < self.lanes.len()
        {
            let over = self.lanes.swap_remove(place);
            self.load = self.load.without(over.load());
            if let Some(moved) = self.lanes.get(place) {
                self.places.insert(moved.subscription, place);
            }
            if self.lanes.is_empty() {
                self.lanes = Vec::new();
                self.places = HashMap::new();
            }
        }
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
        let place = self.places.get(&subscription).copied()?;
        self.on(place, |lane| lane.put(message, now))
    }

    /// The next message that can be taken, of the lanes in turn.
    pub(super) fn take(&mut self, now: Instant) -> Option<Parcel> {
        if self.load.messages == 0 {
            return None;
        }
        for _ in 0..self.lanes.len() {
            let place = self.turn.checked_rem(self.lanes.len()).unwrap_or(0);
            self.turn = place.wrapping_add(1);
            if let Some(parcel) = self.on(place, |lane| lane.take(now)).flatten() {
                return Some(parcel);
            }
        }
        None
    }

    /// Changes a lane, and with it the sum of all.
    fn on<T>(&mut self, place: usize, change: impl FnOnce(&mut Lane) -> T) -> Option<T> {
        let lane = self.lanes.get_mut(place)?;
        let before = lane.load();
        let done = change(lane);
        self.load = self.load.without(before).with(lane.load());
        Some(done)
    }

    /// True if [`Lanes::take`] has something.
    pub(super) fn is_ready(&self, now: Instant) -> bool {
        self.load.messages > 0 && self.lanes.iter().any(|lane| lane.is_ready(now))
    }

    /// The messages that wait, and their bytes.
    pub(super) fn waiting(&self) -> (usize, usize) {
        (self.load.messages, self.load.bytes)
    }

    /// The messages among them that wait for the end of a window, and about their bytes.
    pub(super) fn held_back(&self) -> (usize, usize) {
        (self.load.held, self.load.held_bytes)
    }

    /// Ends all windows before their time: too much waits for them.
    pub(super) fn release(&mut self, now: Instant) {
        for lane in &mut self.lanes {
            lane.open(now);
        }
        self.sum();
    }

    /// Begins the next batch of each lane whose window has ended. Returns true if there is one.
    pub(super) fn open(&mut self, now: Instant) -> bool {
        let ended = self.lanes.iter_mut().filter(|lane| lane.is_ready(now));
        let has_opened = ended.fold(false, |_, lane| {
            if lane.ready == 0 {
                lane.open(now);
            }
            true
        });
        self.sum();
        has_opened
    }

    fn sum(&mut self) {
        let all = self.lanes.iter().map(Lane::load);
        self.load = all.fold(Load::default(), Load::with);
    }

    /// The end of the window of a subscription, if it has begun.
    pub(super) fn window_of(&self, subscription: SubscriptionId, now: Instant) -> Option<Instant> {
        let lane = self.lanes.get(*self.places.get(&subscription)?)?;
        lane.opens.filter(|end| *end > now)
    }

    /// The end of the next window. `None`: none has begun.
    pub(super) fn next_window(&self, now: Instant) -> Option<Instant> {
        let ends = self.lanes.iter().filter_map(|lane| lane.opens);
        ends.filter(|end| *end > now).min()
    }

    /// Drops the message that has waited for longest in one of the longer lanes: of no fewer messages than
    /// the average. Returns how many messages are lost by that: with it, nobody is told of those that it
    /// took the place of. `None`: there is none. To look for the longest would be a look at each, for each
    /// message.
    pub(super) fn drop_oldest(&mut self) -> Option<u32> {
        let count = self.lanes.len();
        let average = self.load.messages.div_ceil(count.max(1)).max(1);
        for _ in 0..count {
            let place = self.drops.checked_rem(count).unwrap_or(0);
            let lane = self.lanes.get(place);
            if lane.is_some_and(|lane| lane.waiting.len() >= average) {
                let dropped = self.on(place, Lane::pop).flatten()?;
                return Some(dropped.conflated.saturating_add(1));
            }
            self.drops = place.wrapping_add(1);
        }
        None
    }
}

impl Load {
    fn with(self, other: Self) -> Self {
        Self {
            messages: self.messages.saturating_add(other.messages),
            bytes: self.bytes.saturating_add(other.bytes),
            held: self.held.saturating_add(other.held),
            held_bytes: self.held_bytes.saturating_add(other.held_bytes),
        }
    }

    fn without(self, other: Self) -> Self {
        Self {
            messages: self.messages.saturating_sub(other.messages),
            bytes: self.bytes.saturating_sub(other.bytes),
            held: self.held.saturating_sub(other.held),
            held_bytes: self.held_bytes.saturating_sub(other.held_bytes),
        }
    }
}

impl Lane {
    fn load(&self) -> Load {
        let held = self.waiting.len().saturating_sub(self.ready);
        let share = self.bytes.saturating_mul(held);
        Load {
            messages: self.waiting.len(),
            bytes: self.bytes,
            held,
            held_bytes: share.checked_div(self.waiting.len()).unwrap_or(0),
        }
    }

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
