//! The messages that wait to be written to one client.
//!
//! Feeds and dedicated consumers push, the client's connection takes. A push never waits: the
//! queue of a slow client is bounded, and the policy decides at the bound. So one slow client
//! delays neither another nor the feed.

mod acks;
mod bases;
mod conflating;
mod dedicated;
mod held;
mod lanes;
mod sink;

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use hashbrown::HashMap;
use parking_lot::Mutex;
use stomp_session::{Problem, SubscriptionId};
use tokio::sync::Notify;

pub use self::{
    acks::Acks, bases::Follows, dedicated::Settling, lanes::Conflate, sink::DedicatedSink,
};
use self::{
    conflating::Now,
    dedicated::{DedicatedWaiting, Pushed},
    lanes::Lanes,
};
use super::config::{MailboxConfig, Overflow};
use crate::{
    broker::{BrokerError, Consumer, Delivery, JournalId, Message, Settled, Verdict},
    telemetry,
};

/// The interval at which missing messages that were asked for again are given up.
const LOOK: Duration = Duration::from_secs(1);

/// The interval of looks at whether a client has what it was given.
const DONE_LOOK: Duration = Duration::from_millis(50);

/// The messages waiting for one client.
///
/// Empty, it holds no memory beyond itself: most clients are idle most of the time.
#[derive(Debug)]
pub struct Mailbox {
    limits: MailboxConfig,
    state: Mutex<MailboxState>,
}

#[derive(Debug, Default)]
struct MailboxState {
    /// Messages of shared feeds, in order; under the policy.
    shared: VecDeque<Parcel>,
    /// The bytes of `shared`.
    bytes: usize,
    /// Dropped since the last parcel was taken.
    dropped: u32,
    /// True if `shared` was conflated since it was last empty: no two of its parcels are for the
    /// same subscription and destination.
    conflated: bool,
    /// Messages of dedicated consumers: never dropped. Those without room wait at the broker.
    dedicated: Option<Box<DedicatedWaiting>>,
    /// Messages of subscriptions that want only the newest of each key; `None` without any.
    lanes: Option<Box<Lanes>>,
    /// True if the last parcel was a dedicated one; they take turns with the others.
    dedicated_last: bool,
    /// Boxed, since it comes once at most.
    problem: Option<Box<Problem>>,
    closed: bool,
    /// The node is ending: the problem, whatever it is, does not wait for the client to read.
    is_hurried: bool,
    /// The connection has to end, even if it cannot write the reason.
    is_cut: bool,
    /// The connection, while its client does not take what is written to it.
    stuck: Option<Box<Stuck>>,
    /// Somebody will call [`Mailbox::rouse`].
    to_be_roused: bool,
    /// A task looks after the messages that were asked for again.
    is_watched: bool,
    waker: Option<Waker>,
    /// What must not be dropped; `None` without any.
    past: Option<Box<Past>>,
    /// Subscriptions to journals whose client acknowledges.
    acknowledged: Option<Box<Acknowledged>>,
}

#[derive(Debug, Default)]
struct Acknowledged(HashMap<SubscriptionId, Arc<Acks>>);

/// The messages of shared feeds that must not be dropped.
#[derive(Debug, Default)]
struct Past {
    /// How many wait, and their bytes.
    kept: (usize, usize),
    /// One more found no room.
    room: Option<Room>,
}

/// The room that a message of the past waits for.
#[derive(Debug, Default)]
struct Room {
    /// Told when it is there.
    told: Arc<Notify>,
    /// So many bytes.
    wanted: usize,
}

/// A connection that waits for its client to read.
#[derive(Debug)]
struct Stuck {
    /// Bytes that it has taken out of the mailbox, and not written.
    unwritten: usize,
    waker: Waker,
}

/// A message for one subscription of the client.
#[derive(Clone, Debug)]
pub struct Parcel {
    /// Its subscription.
    pub subscription: SubscriptionId,
    /// The message.
    pub message: Arc<Message>,
    /// The consumer's tag, or that of [`Acks`]; 0 from a shared feed without them.
    pub tag: u64,
    /// Somebody may have seen it before.
    pub redelivered: bool,
    /// It is of the past, or is to be acknowledged, and so must not be dropped.
    pub is_past: bool,
    /// How many messages of shared feeds were dropped before this one, for this client.
    pub dropped: u32,
    /// How many older messages of its key it stands for, besides itself.
    pub conflated: u32,
}

/// What became of a message that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offer {
    /// It waits for the client.
    Taken,
    /// There is no room for it: [`Mailbox::room`].
    Full,
    /// The session is over.
    Closed,
}

/// What is left for others, of the room for messages: offers take no more than half of it, and the
/// next is made when a quarter waits. What the policy may drop is not in their way.
const OFFERS: usize = 2;
const FEW_WAIT: usize = 4;

/// The next step of the client's connection.
#[derive(Debug)]
pub enum Item {
    /// Write a message.
    Parcel(Parcel),
    /// Write a message to a client that wants deltas.
    Follows(Parcel, Box<Follows>),
    /// Have these messages requeued, for there is room for them again (`dedicated.rs`): by
    /// subscription and tag, and before anything else of theirs is settled.
    Again(Vec<(SubscriptionId, u64)>),
    /// End the session.
    Problem(Problem),
}

impl Mailbox {
    /// An empty mailbox with these bounds.
    #[must_use]
    pub fn new(limits: MailboxConfig) -> Arc<Self> {
        Arc::new(Self {
            limits,
            state: Mutex::default(),
        })
    }

    /// Adds a message of a shared feed, and wakes the connection; at the bound, as the policy
    /// says.
    pub fn push_shared(&self, subscription: SubscriptionId, message: &Arc<Message>) {
        let mut state = self.state.lock();
        if self.put(&mut state, subscription, message) {
            state.wake();
        }
    }

    /// Adds a message of a shared feed as [`Mailbox::push_shared`] does, but wakes nobody.
    /// Returns true if [`Mailbox::rouse`] has to be called for that, once.
    pub(super) fn put_shared(&self, subscription: SubscriptionId, message: &Arc<Message>) -> bool {
        let mut state = self.state.lock();
        let is_sleeper = self.put(&mut state, subscription, message)
            && state.waker.is_some()
            && !state.to_be_roused;
        state.to_be_roused |= is_sleeper;
        is_sleeper
    }

    /// Adds a message of a journal, of which a client catches up, unless there is no room for it: the
    /// policy is not for messages of the past. But what it may drop makes room for them, or a flood of it
    /// would keep them out for ever.
    pub(super) fn offer(&self, subscription: SubscriptionId, message: &Arc<Message>) -> Offer {
        let mut state = self.state.lock();
        let state = &mut *state;
        if state.closed {
            return Offer::Closed;
        }
        let size = message.weight();
        let acks = state.acks_of(subscription).map(Arc::clone);
        let is_full_of_past = acks.as_ref().is_some_and(|acks| acks.is_full_of_past());
        let is_refused = is_full_of_past
            || state.is_full_of_offers(size, &self.limits)
            || !self.find_room(state, size);
        if is_refused {
            state
                .past
                .get_or_insert_default()
                .room
                .get_or_insert_default()
                .wanted = size;
            return Offer::Full;
        }
        let tag = acks.map_or(0, |acks| acks.give(message));
        state.keep(subscription, message, tag);
        state.wake();
        Offer::Taken
    }

    /// Whether there is room for a message that must not be dropped; what the policy may drop gives way.
    fn find_room(&self, state: &mut MailboxState, size: usize) -> bool {
        let is_too_much = |state: &MailboxState| {
            state.is_full(size, &self.limits) || state.holds_too_much(size, &self.limits)
        };
        !is_too_much(state) || state.make_room(self.limits.overflow, is_too_much)
    }

    /// Waits until there is room for the message that was offered last to this subscription, or the
    /// session is over.
    pub(super) async fn room(&self, subscription: SubscriptionId) {
        loop {
            let told = {
                let mut state = self.state.lock();
                let acks = state.acks_of(subscription);
                let may_go_on = acks.is_none_or(|acks| acks.has_room());
                if state.closed || may_go_on && state.has_room(&self.limits) {
                    return;
                }
                Arc::clone(
                    &state
                        .past
                        .get_or_insert_default()
                        .room
                        .get_or_insert_default()
                        .told,
                )
                .notified_owned()
            };
            told.await;
        }
    }

    /// Waits until all messages of feeds were taken, and those of this subscription acknowledged, if
    /// they have to be; or the session is over.
    pub(super) async fn done(&self, subscription: SubscriptionId) {
        loop {
            {
                let state = self.state.lock();
                let acks = state.acks_of(subscription);
                let are_acknowledged = acks.is_none_or(|acks| acks.is_empty());
                if state.closed || state.shared.is_empty() && are_acknowledged {
                    return;
                }
            }
            tokio::time::sleep(DONE_LOOK).await;
        }
    }

    /// The client acknowledges the messages of this subscription to a journal. It has to be
    /// [ended](Mailbox::untrack).
    pub fn track(&self, subscription: SubscriptionId, acks: &Arc<Acks>) {
        let mut state = self.state.lock();
        if state.closed {
            return acks.cut();
        }
        let all = state.acknowledged.get_or_insert_default();
        all.0.insert(subscription, Arc::clone(acks));
    }

    /// A message of the past is never given to the subscription.
    pub(super) fn skip(&self, subscription: SubscriptionId, (journal, offset): (JournalId, u64)) {
        if let Some(acks) = self.state.lock().acks_of(subscription) {
            acks.skip(journal, offset);
        }
    }

    /// The subscription is over.
    pub fn untrack(&self, subscription: SubscriptionId) {
        let mut state = self.state.lock();
        if let Some(all) = &mut state.acknowledged {
            if let Some(acks) = all.0.remove(&subscription) {
                acks.cut();
            }
            if all.0.is_empty() {
                state.acknowledged = None;
            }
        }
    }

    /// Whether the client acknowledges the messages of this subscription to a journal.
    pub(super) fn tracks(&self, subscription: SubscriptionId) -> bool {
        self.state.lock().acks_of(subscription).is_some()
    }

    /// The client has acknowledged something: there may be room for more.
    fn acknowledged(&self) {
        self.state.lock().tell_room();
    }

    /// Wakes the connection, if there is still something for it.
    pub(super) fn rouse(&self) {
        let mut state = self.state.lock();
        state.to_be_roused = false;
        if state.has_of_feeds(&Now::default()) {
            state.wake();
        }
    }

    /// Returns true if the connection should be woken.
    fn put(
        &self,
        state: &mut MailboxState,
        subscription: SubscriptionId,
        message: &Arc<Message>,
    ) -> bool {
        if state.closed {
            return false;
        }
        if state.lanes.is_some()
            && let Some(wakes) = self.put_in_lane(state, subscription, message)
        {
            return wakes;
        }
        let size = message.weight();
        if let Some(acks) = state.acks_of(subscription).map(Arc::clone) {
            // None is left out: the client comes back for it.
            if acks.is_full() || !self.find_room(state, size) {
                telemetry::mailbox_overflow(Overflow::Disconnect.as_str());
                state.close(Problem::SlowConsumer);
                return false;
            }
            let tag = acks.give(message);
            state.keep(subscription, message, tag);
            return true;
        }
        if state.conflated {
            state.supersede(subscription, message);
        }
        if state.is_full(size, &self.limits) {
            telemetry::mailbox_overflow(self.limits.overflow.as_str());
            match self.limits.overflow {
                Overflow::Disconnect => {
                    state.close(Problem::SlowConsumer);
                    return false;
                }
                Overflow::DropOldest => {}
                Overflow::Conflate if state.conflated => {}
                Overflow::Conflate => {
                    state.conflate();
                    state.supersede(subscription, message);
                }
            }
            while state.is_full(size, &self.limits) && state.drop_oldest() {}
        }
        state.bytes = state.bytes.saturating_add(size);
        state.shared.push_back(Parcel {
            subscription,
            message: Arc::clone(message),
            tag: 0,
            redelivered: message.may_be_known,
            is_past: false,
            dropped: 0,
            conflated: 0,
        });
        true
    }

    /// Adds a message of a dedicated consumer, or puts it aside if there is no room for it.
    /// Returns true if it was added. `previous` is the tag of the subscription's last message
    /// that was; 0 before the first.
    fn put_dedicated(
        &self,
        state: &mut MailboxState,
        subscription: SubscriptionId,
        delivery: Delivery,
        previous: u64,
    ) -> bool {
        if state.closed {
            return false;
        }
        let parcel = Parcel {
            subscription,
            message: delivery.message,
            tag: delivery.tag,
            redelivered: delivery.redelivered,
            is_past: false,
            dropped: 0,
            conflated: 0,
        };
        let waiting = state.dedicated.get_or_insert_default();
        let pushed = waiting.push(parcel, previous, self.limits.max_bytes);
        match pushed {
            Pushed::Waits => telemetry::delivered_by_queue(),
            Pushed::Aside => telemetry::mailbox_overflow("put aside"),
            Pushed::TooMuch => {
                telemetry::mailbox_overflow("disconnect");
                state.close(Problem::SlowConsumer);
                return false;
            }
        }
        state.wake();
        pushed == Pushed::Waits
    }

    /// A message was for nobody any more, and so its client does not know that so many were dropped
    /// before it: the next one tells.
    pub fn not_told(&self, dropped: u32) {
        if dropped > 0 {
            let mut state = self.state.lock();
            state.dropped = state.dropped.saturating_add(dropped);
        }
    }

    /// Settles a message of a dedicated consumer, and with `multiple` all that its client has
    /// been handed before.
    ///
    /// # Errors
    /// As [`Consumer::settle`].
    pub async fn settle(
        &self,
        subscription: SubscriptionId,
        consumer: &dyn Consumer,
        (tag, multiple): (u64, bool),
        verdict: Verdict,
    ) -> Result<Settled, BrokerError> {
        let settling = self.settling(subscription, tag, multiple);
        settling.carry_out(consumer, (tag, multiple), verdict).await
    }

    /// How to do that. It has to be carried out before anything that is asked of the mailbox later:
    /// which messages are left out of it is decided now.
    #[must_use]
    pub fn settling(&self, subscription: SubscriptionId, tag: u64, multiple: bool) -> Settling {
        let mut state = self.state.lock();
        let Some(waiting) = &mut state.dedicated else {
            return Settling::Plain;
        };
        if multiple {
            waiting.settling(subscription, tag)
        } else {
            waiting.settled(subscription, tag);
            Settling::Plain
        }
    }

    /// Keeps a message that is with its client, and may have to be written again; one of a dedicated
    /// consumer by [`DedicatedSink::hold`].
    pub fn hold(&self, parcel: &Parcel) {
        self.state.lock().hold(parcel);
    }

    /// A message that is [held](Mailbox::hold). `None`: the broker has taken it back.
    #[must_use]
    pub fn held(&self, subscription: SubscriptionId, tag: u64) -> Option<Arc<Message>> {
        let state = self.state.lock();
        let waiting = state.dedicated.as_ref()?;
        waiting.held.get(subscription, tag).map(Arc::clone)
    }

    /// A message that was held was written often enough. Returns true if it may be queued again:
    /// the same message may `most` times.
    #[must_use]
    pub fn give_up(&self, subscription: SubscriptionId, tag: u64, most: u8) -> bool {
        let mut state = self.state.lock();
        let waiting = state.dedicated.as_mut();
        let may = waiting.is_none_or(|waiting| waiting.held.give_up(subscription, tag, most));
        state.look_for_room(&self.limits);
        may
    }

    /// The message, if it was held, is settled.
    pub fn release(&self, subscription: SubscriptionId, tag: u64) {
        let mut state = self.state.lock();
        if let Some(waiting) = &mut state.dedicated {
            waiting.held.release(subscription, tag);
            state.look_for_room(&self.limits);
        }
    }

    /// The subscription is over: nothing of it is written any more, and nothing is kept for it but
    /// what it takes to settle the messages that its client has.
    pub fn end_subscription(&self, subscription: SubscriptionId) {
        self.give_room(&mut self.state.lock(), |waiting| waiting.end(subscription));
    }

    /// Frees what dedicated consumers no longer need, for whoever waits for room.
    fn give_room(&self, state: &mut MailboxState, free: impl FnOnce(&mut DedicatedWaiting)) {
        let Some(waiting) = &mut state.dedicated else {
            return;
        };
        free(waiting);
        if waiting.is_idle() {
            state.dedicated = None;
        }
        state.look_for_room(&self.limits);
        // The connection asks for those that were put aside, and are others'.
        state.wake();
    }

    /// Looks after the messages that [`Item::Again`] asked for: a missing one keeps nobody waiting.
    pub fn watch(self: &Arc<Self>) {
        if std::mem::replace(&mut self.state.lock().is_watched, true) {
            return;
        }
        let mailbox = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(LOOK).await;
                let Some(mailbox) = mailbox.upgrade() else {
                    return;
                };
                let mut state = mailbox.state.lock();
                let is_awaited = !state.closed
                    && state
                        .dedicated
                        .as_mut()
                        .is_some_and(|waiting| waiting.forget());
                state.is_watched = is_awaited;
                state.wake();
                if !is_awaited {
                    return;
                }
            }
        });
    }

    /// Bytes that wait for the client, of both kinds, and on their way to it; and of messages that deltas
    /// may be made to.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let state = self.state.lock();
        let dedicated = state
            .dedicated
            .as_ref()
            .map_or(0, |waiting| waiting.bytes());
        let unwritten = state.stuck.as_ref().map_or(0, |stuck| stuck.unwritten);
        let (_, lanes) = state.in_lanes();
        state
            .bytes
            .saturating_add(lanes)
            .saturating_add(dedicated)
            .saturating_add(unwritten)
            .saturating_add(state.in_bases())
    }

    /// Messages that wait in it, of both kinds, and their bytes.
    #[must_use]
    pub fn waiting(&self) -> (usize, usize) {
        let state = self.state.lock();
        let dedicated = state.dedicated.as_ref();
        let (messages, bytes) =
            dedicated.map_or((0, 0), |waiting| (waiting.len(), waiting.bytes()));
        let (in_lanes, of_lanes) = state.in_lanes();
        (
            state
                .shared
                .len()
                .saturating_add(messages)
                .saturating_add(in_lanes),
            state.bytes.saturating_add(bytes).saturating_add(of_lanes),
        )
    }

    /// Wakes the connection, also one that waits for its client to read.
    pub fn wake(&self) {
        let mut state = self.state.lock();
        state.wake();
        if let Some(stuck) = &state.stuck {
            stuck.waker.wake_by_ref();
        }
    }

    /// The client does not read, and so many bytes wait for its socket. Returns true if the
    /// connection has to end at once, without an ERROR; if not, it is woken when it has to.
    pub fn stuck(&self, unwritten: usize, context: &Context<'_>) -> bool {
        let mut state = self.state.lock();
        if state.is_cut {
            return true;
        }
        match &mut state.stuck {
            Some(stuck) => {
                stuck.unwritten = unwritten;
                stuck.waker.clone_from(context.waker());
            }
            none => {
                *none = Some(Box::new(Stuck {
                    unwritten,
                    waker: context.waker().clone(),
                }));
            }
        }
        if state.is_urgent() {
            // It came just now, and found nobody to wake.
            context.waker().wake_by_ref();
        }
        false
    }

    /// The client reads again.
    pub fn unstuck(&self) {
        self.state.lock().stuck = None;
    }

    /// Ends the session as [`Mailbox::fail`] does; at once, if its client does not even take what
    /// is written to it.
    pub fn shed(&self, problem: Problem) {
        let mut state = self.state.lock();
        state.close(problem);
        if let Some(stuck) = state.stuck.take() {
            state.is_cut = true;
            stuck.waker.wake();
        }
    }

    /// Ends the session: drops all messages; the problem is the last item taken.
    pub fn fail(&self, problem: Problem) {
        let mut state = self.state.lock();
        let is_drain = matches!(problem, Problem::ShuttingDown);
        if state.problem.is_some() && problem.is_revocation() {
            // The other has not been taken yet, and this one is not to wait for that.
            state.problem = Some(Box::new(problem));
        } else {
            state.close(problem);
        }
        // The first problem counts; but the node does not wait for hours until it can be told.
        state.is_hurried |= is_drain;
        if let Some(stuck) = &state.stuck {
            stuck.waker.wake_by_ref();
        }
    }

    /// The problem, if it does not wait until the client has read what is on its way. One that reads
    /// slowly would keep the session for hours after it was taken from it, and would hold up a node
    /// that ends.
    #[must_use]
    pub fn take_urgent(&self) -> Option<Problem> {
        let mut state = self.state.lock();
        let is_urgent = state.is_urgent();
        let problem = state.problem.take_if(|_| is_urgent)?;
        Some(*problem)
    }

    /// The problem, if it takes the session from its client.
    #[must_use]
    pub fn take_revocation(&self) -> Option<Problem> {
        let mut state = self.state.lock();
        let is_revoked = state.is_revoked();
        let problem = state.problem.take_if(|_| is_revoked)?;
        Some(*problem)
    }

    /// The connection is over: takes nothing more, and frees what waits.
    pub fn close(&self) {
        let mut state = self.state.lock();
        state.tell_room();
        state.cut_acks();
        *state = MailboxState {
            closed: true,
            dedicated: state.take_cleared(),
            ..MailboxState::default()
        };
    }

    /// The next item; if there is none, `context` is woken when one comes.
    pub fn poll_take(&self, context: &Context<'_>) -> Poll<Item> {
        let mut state = self.state.lock();
        if let Some(problem) = state.problem.take() {
            return Poll::Ready(Item::Problem(*problem));
        }
        if let Some(waiting) = &mut state.dedicated {
            let again = waiting.ask(self.limits.max_bytes);
            if !again.is_empty() {
                return Poll::Ready(Item::Again(again));
            }
            if waiting.is_idle() {
                state.dedicated = None;
            }
        }
        if let Some(parcel) = state.take() {
            state.look_for_room(&self.limits);
            return Poll::Ready(match state.follows(&parcel, &self.limits) {
                Some(follows) => Item::Follows(parcel, follows),
                None => Item::Parcel(parcel),
            });
        }
        match &mut state.waker {
            Some(waker) => waker.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        Poll::Pending
    }
}

impl MailboxState {
    /// True if a message of `size` bytes is too much. A single message never is.
    fn is_full(&self, size: usize, limits: &MailboxConfig) -> bool {
        let (messages, bytes) = self.in_lanes();
        let messages = messages.saturating_add(self.shared.len());
        let bytes = bytes.saturating_add(self.bytes).saturating_add(size);
        messages >= limits.max_messages || (bytes > limits.max_bytes && messages > 0)
    }

    /// The messages that are in the way of an offer, and their bytes: not those that the policy may drop.
    fn in_the_way(&self, overflow: Overflow) -> (usize, usize) {
        match overflow {
            Overflow::Disconnect => (self.shared.len(), self.bytes),
            Overflow::DropOldest | Overflow::Conflate => self.kept(),
        }
    }

    /// True if offers have their half already, and this one would be more.
    fn is_full_of_offers(&self, size: usize, limits: &MailboxConfig) -> bool {
        let half = limits.max_bytes / OFFERS;
        let (messages, bytes) = self.in_the_way(limits.overflow);
        let with_it = bytes.saturating_add(size);
        messages >= limits.max_messages.div_ceil(OFFERS)
            || (with_it > half && messages > 0)
            || self.holds_too_much_beside(with_it, half)
    }

    /// True if the client has left messages unacknowledged, which may have to be written again, and
    /// they leave no room for one more of that size.
    fn holds_too_much(&self, size: usize, limits: &MailboxConfig) -> bool {
        self.holds_too_much_beside(self.bytes.saturating_add(size), limits.max_bytes)
    }

    fn holds_too_much_beside(&self, bytes: usize, most: usize) -> bool {
        let held = self
            .dedicated
            .as_ref()
            .map_or(0, |waiting| waiting.held.bytes());
        held > 0 && held.saturating_add(bytes) > most
    }

    /// True if only a few messages of feeds wait, and the one that is wanted finds room.
    fn has_room(&self, limits: &MailboxConfig) -> bool {
        let wanted = self.room().map_or(0, |room| room.wanted);
        let (messages, bytes) = self.in_the_way(limits.overflow);
        let are_few =
            messages <= limits.max_messages / FEW_WAIT && bytes <= limits.max_bytes / FEW_WAIT;
        let gives_way = limits.overflow != Overflow::Disconnect;
        (messages == 0 || are_few)
            && !self.is_full_of_offers(wanted, limits)
            && (gives_way || !self.is_full(wanted, limits))
    }

    /// How far its client has acknowledged.
    fn acks_of(&self, subscription: SubscriptionId) -> Option<&Arc<Acks>> {
        self.acknowledged.as_ref()?.0.get(&subscription)
    }

    /// What is dropped from now on was not acknowledged.
    fn cut_acks(&mut self) {
        for acks in self.acknowledged.iter().flat_map(|all| all.0.values()) {
            acks.cut();
        }
    }

    /// Tells those who wait for room, if there is some.
    fn look_for_room(&mut self, limits: &MailboxConfig) {
        if self.room().is_some() && self.has_room(limits) {
            self.tell_room();
        }
    }

    fn room(&self) -> Option<&Room> {
        self.past.as_ref()?.room.as_ref()
    }

    fn tell_room(&mut self) {
        if let Some(room) = self.past.as_mut().and_then(|past| past.room.take()) {
            room.told.notify_waiters();
            self.forget_past();
        }
    }

    /// In turns, so that a long queue of its own keeps no client from its feeds.
    fn take(&mut self) -> Option<Parcel> {
        let now = Now::default();
        let dedicated_first = !self.dedicated_last || !self.has_of_feeds(&now);
        let has_dedicated = |waiting: &DedicatedWaiting| !waiting.is_empty();
        self.dedicated_last =
            dedicated_first && self.dedicated.as_deref().is_some_and(has_dedicated);
        if self.dedicated_last {
            self.take_dedicated()
        } else {
            self.take_of_feeds(&now)
        }
    }

    fn take_dedicated(&mut self) -> Option<Parcel> {
        let waiting = self.dedicated.as_mut()?;
        let parcel = waiting.take();
        if waiting.is_idle() {
            self.dedicated = None;
        }
        parcel
    }

    /// Keeps a message that is with its client.
    fn hold(&mut self, parcel: &Parcel) {
        if !self.closed {
            let waiting = self.dedicated.get_or_insert_default();
            let message = Arc::clone(&parcel.message);
            waiting.held.put(parcel.subscription, parcel.tag, message);
        }
    }

    /// The state of dedicated consumers that is needed after the end.
    fn take_cleared(&mut self) -> Option<Box<DedicatedWaiting>> {
        let mut waiting = self.dedicated.take()?;
        waiting.clear();
        (!waiting.is_idle()).then_some(waiting)
    }

    /// Adds a message that must not be dropped.
    fn keep(&mut self, subscription: SubscriptionId, message: &Arc<Message>, tag: u64) {
        let size = message.weight();
        self.bytes = self.bytes.saturating_add(size);
        let kept = &mut self.past.get_or_insert_default().kept;
        *kept = (kept.0.saturating_add(1), kept.1.saturating_add(size));
        self.shared.push_back(Parcel {
            subscription,
            message: Arc::clone(message),
            tag,
            redelivered: message.may_be_known,
            is_past: true,
            dropped: 0,
            conflated: 0,
        });
    }

    /// How many of `shared` must not be dropped, and their bytes.
    fn kept(&self) -> (usize, usize) {
        self.past.as_ref().map_or((0, 0), |past| past.kept)
    }

    /// There are fewer of them.
    fn count_kept(&mut self, left: impl FnOnce((usize, usize)) -> (usize, usize)) {
        if let Some(past) = &mut self.past {
            past.kept = left(past.kept);
        }
        self.forget_past();
    }

    /// Gives the memory back that nothing needs any more.
    fn forget_past(&mut self) {
        self.past
            .take_if(|past| past.kept == (0, 0) && past.room.is_none());
    }

    fn take_shared(&mut self) -> Option<Parcel> {
        let mut parcel = self.shared.pop_front()?;
        parcel.dropped = std::mem::take(&mut self.dropped);
        if self.shared.is_empty() {
            self.shared = VecDeque::new();
            self.bytes = 0;
            self.count_kept(|_| (0, 0));
            self.conflated = false;
        } else {
            let size = parcel.message.weight();
            self.bytes = self.bytes.saturating_sub(size);
            if parcel.is_past {
                self.count_kept(|(messages, bytes)| {
                    (messages.saturating_sub(1), bytes.saturating_sub(size))
                });
            }
        }
        Some(parcel)
    }

    /// Drops every parcel that a later one supersedes. From then on, and until all is taken,
    /// [`MailboxState::supersede`] keeps it so: it looks at each parcel once, where this needs a
    /// table.
    fn conflate(&mut self) {
        let mut seen = HashSet::with_capacity(self.shared.len());
        let mut kept = VecDeque::with_capacity(self.shared.len());
        for parcel in self.shared.iter().rev() {
            let Message {
                exchange,
                routing_key,
                ..
            } = &*parcel.message;
            let is_newest = seen.insert((parcel.subscription, &**exchange, &**routing_key));
            if is_newest || parcel.is_past {
                kept.push_front(parcel.clone());
            }
        }
        let dropped = self.shared.len().saturating_sub(kept.len());
        self.dropped = self
            .dropped
            .saturating_add(u32::try_from(dropped).unwrap_or(u32::MAX));
        self.bytes = kept.iter().map(|parcel| parcel.message.weight()).sum();
        // Where nothing waits, nothing is taken, and it would stay so.
        self.conflated = !kept.is_empty();
        self.shared = kept;
    }

    /// Drops the parcel that `message` supersedes, if there is one.
    fn supersede(&mut self, subscription: SubscriptionId, message: &Message) {
        let superseded = self.shared.iter().position(|parcel| {
            !parcel.is_past
                && parcel.subscription == subscription
                && parcel.message.routing_key == message.routing_key
                && parcel.message.exchange == message.exchange
        });
        if let Some(index) = superseded {
            self.drop_at(index);
        }
    }

    /// Drops what the policy lets go, while there is too much. Returns false if there still is.
    fn make_room(&mut self, overflow: Overflow, is_too_much: impl Fn(&Self) -> bool) -> bool {
        match overflow {
            Overflow::Disconnect => return false,
            Overflow::Conflate if !self.conflated => self.conflate(),
            Overflow::Conflate | Overflow::DropOldest => {}
        }
        telemetry::mailbox_overflow(overflow.as_str());
        while is_too_much(self) && self.drop_oldest() {}
        !is_too_much(self)
    }

    /// Those of the past are never dropped: their client was told that they come.
    fn drop_oldest(&mut self) -> bool {
        let oldest = self.shared.iter().position(|parcel| !parcel.is_past);
        oldest.is_some_and(|index| self.drop_at(index)) || self.drop_of_lanes()
    }

    fn drop_at(&mut self, index: usize) -> bool {
        let Some(parcel) = self.shared.remove(index) else {
            return false;
        };
        self.bytes = self.bytes.saturating_sub(parcel.message.weight());
        self.dropped = self.dropped.saturating_add(1);
        true
    }

    fn close(&mut self, problem: Problem) {
        if self.closed {
            return;
        }
        let waker = self.waker.take();
        self.tell_room();
        self.cut_acks();
        *self = Self {
            problem: Some(Box::new(problem)),
            closed: true,
            dedicated: self.take_cleared(),
            stuck: self.stuck.take(),
            waker,
            ..Self::default()
        };
        self.wake();
    }

    /// Somebody has taken the session from its client, and its connection has not heard of it.
    fn is_revoked(&self) -> bool {
        let problem = self.problem.as_ref();
        problem.is_some_and(|problem| problem.is_revocation())
    }

    /// Its connection has not heard of a problem that does not wait for the client to read.
    fn is_urgent(&self) -> bool {
        self.is_revoked() || (self.is_hurried && self.problem.is_some())
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod crowd_tests;
