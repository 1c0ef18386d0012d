//! The mailbox's side of [`Lanes`](super::lanes) and [`Bases`](super::bases): the clock, the bounds, and
//! turns with other messages.

use std::{
    cell::OnceCell,
    sync::{Arc, Weak},
};

use stomp_session::{Problem, SubscriptionId};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::{
    Mailbox, MailboxState, Overflow, Parcel,
    bases::Follows,
    lanes::{Conflate, Lanes, Put},
};
use crate::{broker::Message, telemetry};

/// So much of the mailbox may wait for windows to end: the rest is for clients that are slow.
const WINDOWS: usize = 2;

/// Messages that deltas may be made to take at most this part of the mailbox's bytes, beside those
/// that wait.
const BASES: usize = 4;

impl Mailbox {
    /// From now on, of a subscription's messages only the newest of each key waits.
    pub(in crate::hub) fn conflate(
        self: &Arc<Self>,
        subscription: SubscriptionId,
        conflate: Conflate,
    ) {
        let mut state = self.state.lock();
        if !state.closed {
            state.lanes(self).add(subscription, conflate);
        }
    }

    /// From now on, messages go to a subscription's client with their [`Follows`]. Its
    /// [`SharedSubscription`](crate::hub::SharedSubscription) ends it.
    pub fn follow(self: &Arc<Self>, subscription: SubscriptionId) {
        let mut state = self.state.lock();
        if !state.closed {
            state.lanes(self).bases.add(subscription);
        }
    }

    /// The node is short of memory: deltas have to begin anew.
    pub fn forget_bases(&self) {
        let mut state = self.state.lock();
        let forgotten = state.lanes.as_mut().map(|lanes| lanes.bases.forget());
        drop(state);
        // To free them takes its time, and the feed may have something for the client.
        drop(forgotten);
    }

    /// The subscription is over.
    pub(in crate::hub) fn end_wishes(&self, subscription: SubscriptionId) {
        let mut state = self.state.lock();
        if let Some(lanes) = &mut state.lanes
            && lanes.remove(subscription)
            && lanes.clock.is_none()
        {
            // With a clock, that ends them, so that there is never a second one.
            state.lanes = None;
        }
        state.look_for_room(&self.limits);
    }

    /// Puts a message into its subscription's lane: whether the connection should be woken. `None`: it
    /// has none.
    pub(super) fn put_in_lane(
        &self,
        state: &mut MailboxState,
        subscription: SubscriptionId,
        message: &Arc<Message>,
    ) -> Option<bool> {
        let now = Instant::now();
        let lanes = state.lanes.as_mut()?;
        let mut put = lanes.put(subscription, message, now.into_std())?;
        let (messages, bytes) = lanes.held_back();
        if messages > self.limits.max_messages / WINDOWS || bytes > self.limits.max_bytes / WINDOWS
        {
            lanes.release(now.into_std());
            put = Put::Ready;
        }
        if put == Put::Waits && messages > 0 {
            lanes.start_clock(subscription, now.into_std());
        }
        if state.is_over(&self.limits) {
            telemetry::mailbox_overflow(self.limits.overflow.as_str());
            match self.limits.overflow {
                Overflow::Disconnect => {
                    state.close(Problem::SlowConsumer);
                    return Some(false);
                }
                Overflow::Conflate if !state.conflated => state.conflate(),
                Overflow::Conflate | Overflow::DropOldest => {}
            }
            while state.is_over(&self.limits) && state.drop_oldest() {}
        }
        Some(put == Put::Ready)
    }

    /// Wakes the connection at each window's end, for as long as there are windows.
    async fn run_clock(mailbox: Weak<Self>, sooner: Arc<Notify>) {
        loop {
            let next = match mailbox.upgrade() {
                Some(mailbox) => mailbox.state.lock().tick(),
                None => return,
            };
            let Some(next) = next else {
                return;
            };
            tokio::select! {
                () = sleep_until(next) => {}
                () = sooner.notified() => {}
            }
        }
    }
}

impl Lanes {
    /// Has the connection woken when a subscription's window ends. If that is over already, its client is
    /// slow: the next batch begins when it has taken the last one.
    fn start_clock(&mut self, subscription: SubscriptionId, now: std::time::Instant) {
        let Some(next) = self.window_of(subscription, now) else {
            return;
        };
        match self.clock {
            None => {
                let sooner = Arc::clone(&self.sooner);
                tokio::spawn(Mailbox::run_clock(Weak::clone(&self.mailbox), sooner));
            }
            // Windows of another length.
            Some(clock) if next < clock => self.sooner.notify_one(),
            Some(_) => return,
        }
        self.clock = Some(next);
    }
}

impl MailboxState {
    fn lanes(&mut self, mailbox: &Arc<Mailbox>) -> &mut Lanes {
        let new = || Box::new(Lanes::new(Arc::downgrade(mailbox)));
        self.lanes.get_or_insert_with(new)
    }

    /// A message goes to its client: how it follows on others, if its subscription wants deltas.
    pub(super) fn follows(
        &mut self,
        parcel: &Parcel,
        limits: &super::MailboxConfig,
    ) -> Option<Box<Follows>> {
        let bases = &mut self.lanes.as_mut()?.bases;
        let most = limits.max_bytes / BASES;
        let follows = bases.take(parcel.subscription, &parcel.message, most);
        if follows.is_none() && bases.wants(parcel.subscription) {
            telemetry::sent_without_delta();
        }
        follows.map(Box::new)
    }

    /// The bytes of messages that deltas may be made to.
    pub(super) fn in_bases(&self) -> usize {
        self.lanes.as_ref().map_or(0, |lanes| lanes.bases.bytes())
    }

    /// Wakes the connection if a window has ended; the end of the next one.
    fn tick(&mut self) -> Option<Instant> {
        let now = Instant::now().into_std();
        let lanes = self.lanes.as_mut()?;
        let has_opened = lanes.open(now);
        let next = lanes.next_window(now);
        lanes.clock = next;
        if next.is_none() && lanes.is_empty() {
            self.lanes = None;
        }
        if has_opened {
            self.wake();
        }
        next.map(Instant::from_std)
    }

    /// Messages in lanes, and their bytes.
    pub(super) fn in_lanes(&self) -> (usize, usize) {
        self.lanes.as_ref().map_or((0, 0), |lanes| lanes.waiting())
    }

    /// True if more waits than may.
    fn is_over(&self, limits: &super::MailboxConfig) -> bool {
        let (messages, bytes) = self.in_lanes();
        let messages = messages.saturating_add(self.shared.len());
        let bytes = bytes.saturating_add(self.bytes);
        messages > limits.max_messages || (bytes > limits.max_bytes && messages > 1)
    }

    /// True if a message of a feed can be taken.
    pub(super) fn has_of_feeds(&self, now: &Now) -> bool {
        let is_ready = |lanes: &Lanes| lanes.is_ready(now.get());
        !self.shared.is_empty() || self.lanes.as_deref().is_some_and(is_ready)
    }

    /// Lanes and all else in turns.
    pub(super) fn take_of_feeds(&mut self, now: &Now) -> Option<Parcel> {
        let Some(lanes) = &mut self.lanes else {
            return self.take_shared();
        };
        let lanes_first = !lanes.were_last || self.shared.is_empty();
        let parcel = lanes_first.then(|| lanes.take(now.get())).flatten();
        lanes.were_last = parcel.is_some();
        let Some(mut parcel) = parcel else {
            return self.take_shared();
        };
        if parcel.conflated > 0 {
            telemetry::conflated(parcel.conflated);
        }
        parcel.dropped = std::mem::take(&mut self.dropped);
        Some(parcel)
    }

    pub(super) fn drop_of_lanes(&mut self) -> bool {
        let dropped = self.lanes.as_mut().and_then(|lanes| lanes.drop_oldest());
        self.dropped = self.dropped.saturating_add(dropped.unwrap_or(0));
        dropped.is_some()
    }
}

/// The time, read once and only if somebody asks: most mailboxes have no lanes.
#[derive(Default)]
pub(super) struct Now(OnceCell<std::time::Instant>);

impl Now {
    fn get(&self) -> std::time::Instant {
        *self.0.get_or_init(|| Instant::now().into_std())
    }
}
