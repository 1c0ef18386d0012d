//! Confirmed delivery: messages that their client has not acknowledged in time are written again.
//!
//! A SUBSCRIBE with `redeliver:1500,3000` asks for it. The message is written; 1.5 seconds later
//! without an acknowledgement it is written again, and once more 3 seconds after that. Three seconds
//! after the last time it is given up, as `redeliver-then` says. An acknowledgement of any of them
//! settles it, and one that comes late does no harm.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use stomp_grammar::Headers;

use crate::{AckMode, GiveUp, SubscriptionId};

/// How much earlier than asked for a message may be written again: then one wake-up serves many.
const EARLY: Duration = Duration::from_millis(50);
/// Times that a message can be written again, at most.
const MAX_TIMES: usize = 32;
/// The shortest delay, in milliseconds.
const SHORTEST: u32 = 100;
/// The longest delay, in milliseconds: an hour.
const LONGEST: u32 = 3_600_000;
/// Subscriptions that have ended, and of which acknowledgements may still come twice, at most. They
/// cost nothing but their numbers.
const MAX_ENDED: usize = 256;
/// Messages that were given up, and are remembered, at most: as many as a client may have
/// unacknowledged by default.
const MAX_GIVEN_UP: usize = 1_000;

/// The header that asks for it.
pub(crate) const HEADER: &str = "redeliver";
/// The header that says what becomes of a message at the end.
pub(crate) const THEN: &str = "redeliver-then";

/// A header at fault, and what it should have been.
pub(crate) type Fault = (&'static str, &'static str);

/// What a SUBSCRIBE asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The time after each writing, in milliseconds; never empty.
    delays: Box<[u32]>,
    then: GiveUp,
}

/// The subscriptions of a session that asked for it, and their messages.
#[derive(Debug, Default)]
pub(crate) struct Redelivery {
    /// In the order of their numbers.
    plans: Vec<(SubscriptionId, Fate)>,
    /// Messages that were given up, and are not their client's any more; the latest last.
    given_up: VecDeque<Key>,
    /// An acknowledgement without a receipt came too late.
    was_late: bool,
    messages: BTreeMap<Key, Waiting>,
    /// When each message's time is over.
    due: BTreeSet<(Instant, Key)>,
    /// To be written again, as soon as the transport takes it.
    ready: VecDeque<Key>,
}

/// What has become of a subscription.
#[derive(Debug)]
enum Fate {
    /// It is open.
    Open(Plan),
    /// It has ended, but acknowledgements may still come twice.
    Ended,
    /// The same; and the broker has again what its client had not acknowledged. Which that was is not
    /// remembered.
    TakenBack,
}

/// A message: its subscription, and its sequence there.
type Key = (SubscriptionId, u64);

#[derive(Clone, Copy, Debug)]
struct Waiting {
    tag: u64,
    /// How often it was written.
    written: u16,
    /// `None`: it is ready.
    due: Option<Instant>,
}

/// A message to be written again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Again {
    pub(crate) subscription: SubscriptionId,
    pub(crate) sequence: u64,
    pub(crate) tag: u64,
    /// The first writing is 1.
    pub(crate) attempt: u16,
}

/// A message that was written as often as its client wished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GivenUp {
    pub(crate) subscription: SubscriptionId,
    pub(crate) sequence: u64,
    pub(crate) tag: u64,
    pub(crate) then: GiveUp,
}

impl Plan {
    /// Reads the headers of a SUBSCRIBE; `None`: it asks for nothing.
    pub(crate) fn read(headers: &Headers, ack: AckMode) -> Result<Option<Self>, Fault> {
        let then = headers.get(THEN);
        let Some(delays) = headers.get(HEADER) else {
            return match then {
                None => Ok(None),
                Some(_) => Err((THEN, "left out where there is no header redeliver")),
            };
        };
        if ack != AckMode::ClientIndividual {
            return Err(("ack", "client-individual, which the header redeliver needs"));
        }
        Ok(Some(Self {
            delays: read_delays(delays).ok_or((
                HEADER,
                "1 to 32 whole numbers of milliseconds, each from 100 to 3600000, with commas \
                 between, such as 1500,3000,5000",
            ))?,
            then: match then {
                None | Some("requeue") => GiveUp::Requeue,
                Some("drop") => GiveUp::Discard,
                Some("later") => GiveUp::Later,
                Some(_) => return Err((THEN, "requeue, drop or later")),
            },
        }))
    }

    fn delay(&self, written: u16) -> Duration {
        let last = self.delays.last();
        let delay = self.delays.get(usize::from(written).saturating_sub(1));
        Duration::from_millis(delay.or(last).copied().unwrap_or(LONGEST).into())
    }

    /// Whether the message was written so often that it is given up next.
    fn is_over(&self, written: u16) -> bool {
        usize::from(written) > self.delays.len()
    }
}

fn read_delays(text: &str) -> Option<Box<[u32]>> {
    // Before any of it is kept, for it may be as long as a header.
    if text.split(',').count() > MAX_TIMES {
        return None;
    }
    let delay = |text: &str| {
        let digits = text.trim_matches(' ');
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let number = is_number.then(|| digits.parse().ok()).flatten();
        number.filter(|number| (SHORTEST..=LONGEST).contains(number))
    };
    text.split(',').map(delay).collect()
}

impl Redelivery {
    /// A subscription asks for it.
    pub(crate) fn open(&mut self, subscription: SubscriptionId, plan: Plan) {
        self.plans.push((subscription, Fate::Open(plan)));
    }

    /// The subscription is over: nothing of it is written again.
    pub(crate) fn end(&mut self, subscription: SubscriptionId) {
        self.end_as(subscription, Fate::Ended);
    }

    /// The same, and what its client has not acknowledged is not its client's any more.
    pub(crate) fn take_back(&mut self, subscription: SubscriptionId) {
        self.end_as(subscription, Fate::TakenBack);
    }

    fn end_as(&mut self, subscription: SubscriptionId, end: Fate) {
        // A client may end what was taken from it: that gives nothing back to it.
        if let Some((_, fate)) = self.plans.iter_mut().find(|(id, _)| *id == subscription)
            && !matches!(fate, Fate::TakenBack)
        {
            *fate = end;
        }
        let has_ended = |(_, fate): &(SubscriptionId, Fate)| !matches!(fate, Fate::Open(_));
        let ended = self.plans.iter().filter(|plan| has_ended(plan)).count();
        if ended > MAX_ENDED
            && let Some(oldest) = self.plans.iter().position(has_ended)
        {
            self.plans.remove(oldest);
        }
        let of = (subscription, 0)..=(subscription, u64::MAX);
        let keys: Vec<Key> = self.messages.range(of).map(|(key, _)| *key).collect();
        for key in keys {
            self.forget(key);
        }
    }

    /// Whether the subscription asked for it, also if it has ended. Then its client may acknowledge
    /// a message twice, for it may have got it twice.
    pub(crate) fn knows(&self, subscription: SubscriptionId) -> bool {
        self.plans.iter().any(|(id, _)| *id == subscription)
    }

    /// Whether a message that is not unsettled is not its client's any more, rather than acknowledged.
    pub(crate) fn has_taken_back(&self, key: Key) -> bool {
        let (subscription, _) = key;
        let is_taken_back = |(id, fate): &(SubscriptionId, Fate)| {
            *id == subscription && matches!(fate, Fate::TakenBack)
        };
        self.given_up.contains(&key) || self.plans.iter().any(is_taken_back)
    }

    /// An acknowledgement came too late, and had no receipt to say so: that of DISCONNECT does.
    pub(crate) fn note_late(&mut self) {
        self.was_late = true;
    }

    /// Whether one did.
    pub(crate) fn was_late(&self) -> bool {
        self.was_late
    }

    /// A message was written for the first time. Returns true if it will be written again unless it
    /// is [settled](Self::forget).
    pub(crate) fn wrote(
        &mut self,
        now: Instant,
        subscription: SubscriptionId,
        sequence: u64,
        tag: u64,
    ) -> bool {
        let Some(plan) = self.plan(subscription) else {
            return false;
        };
        let due = now.checked_add(plan.delay(1));
        let key = (subscription, sequence);
        self.wait(
            key,
            Waiting {
                tag,
                written: 1,
                due,
            },
        );
        true
    }

    /// The message is settled, or nobody can settle it any more.
    pub(crate) fn forget(&mut self, key: Key) {
        if let Some(message) = self.messages.remove(&key)
            && let Some(due) = message.due
        {
            self.due.remove(&(due, key));
        }
        // One that is ready is left out when its turn comes.
    }

    /// When [`Redelivery::expire`] is to be called.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    /// The next message to give up, if the time of one is over. All others whose time is over
    /// become ready. To be called until `None`.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<GivenUp> {
        let reach = now.checked_add(EARLY).unwrap_or(now);
        while let Some((due, key)) = self.due.first().copied()
            && due <= reach
        {
            self.due.remove(&(due, key));
            let Some(message) = self.messages.get_mut(&key) else {
                continue;
            };
            message.due = None;
            let Waiting { tag, written, .. } = *message;
            let (subscription, sequence) = key;
            let then = match self.plan(subscription) {
                Some(plan) if plan.is_over(written) => plan.then,
                Some(_) => {
                    self.ready.push_back(key);
                    continue;
                }
                None => continue,
            };
            self.messages.remove(&key);
            if then != GiveUp::Later {
                if self.given_up.len() >= MAX_GIVEN_UP {
                    self.given_up.pop_front();
                }
                self.given_up.push_back(key);
            }
            return Some(GivenUp {
                subscription,
                sequence,
                tag,
                then,
            });
        }
        None
    }

    /// Whether [`Redelivery::again`] may have something.
    pub(crate) fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The next message to be written again now.
    pub(crate) fn again(&mut self, now: Instant) -> Option<Again> {
        loop {
            let key = self.ready.pop_front()?;
            if self.ready.is_empty() {
                self.ready = VecDeque::new();
            }
            let Some(message) = self.messages.get(&key).copied() else {
                continue;
            };
            let (subscription, sequence) = key;
            let attempt = message.written.saturating_add(1);
            let due = self
                .plan(subscription)
                .and_then(|plan| now.checked_add(plan.delay(attempt)));
            let tag = message.tag;
            self.wait(
                key,
                Waiting {
                    tag,
                    written: attempt,
                    due,
                },
            );
            return Some(Again {
                subscription,
                sequence,
                tag,
                attempt,
            });
        }
    }

    fn wait(&mut self, key: Key, message: Waiting) {
        self.messages.insert(key, message);
        self.due.extend(message.due.map(|due| (due, key)));
    }

    fn plan(&self, subscription: SubscriptionId) -> Option<&Plan> {
        let at = self
            .plans
            .binary_search_by_key(&subscription, |(id, _)| *id)
            .ok()?;
        match &self.plans.get(at)?.1 {
            Fate::Open(plan) => Some(plan),
            Fate::Ended | Fate::TakenBack => None,
        }
    }
}
