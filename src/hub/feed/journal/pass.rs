//! One reading of a journal for all who want it at the time: each takes what matches its pattern,
//! from its own position on.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::oneshot;

use crate::{
    broker::{ExchangeKind, JournalId, Stored, routing::RoutingTable},
    hub::{feed::Subscriber, mailbox::Offer},
};
use stomp_session::Problem;

/// A subscription that catches up.
pub(super) struct Joiner {
    pub(super) pattern: Box<str>,
    pub(super) subscriber: Subscriber,
    /// It has everything before.
    pub(super) position: u64,
    /// Messages that it was given.
    pub(super) missed: u64,
    pub(super) done: oneshot::Sender<Outcome>,
    /// It takes nothing now, for its client has to read first.
    pub(super) is_stalled: bool,
    /// A message that is left out ends it.
    pub(super) is_strict: bool,
    /// It asks for whatever is there, and was not told yet that nothing of it is missing.
    pub(super) takes_any: Arc<AtomicBool>,
    /// One was.
    pub(super) left_out: Arc<AtomicBool>,
    /// Whether a reading came to it.
    pub(super) turn: Turn,
    /// Which one of its line it is, since it joined that.
    pub(super) number: u64,
}

/// How it is with a subscription that waits for a reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It has not had one.
    Waits,
    /// It had one that began with others, and ended before it came to this one.
    Overdue,
    /// Something of what it needs was read.
    Reached,
}

/// How a reading ended for one of them.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It has all, and gets what comes; so many it had missed.
    Level(u64),
    /// It is so far, and so many it was given; where it can go on.
    Left(u64, u64, Left),
    /// The message at that offset is for it, and is left out.
    LeftOut(u64),
    /// It cannot go on.
    Failed(Problem),
}

/// Why it left the reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// Its client has to read first.
    Full,
    /// What it needs next is not in memory any more.
    Older,
    /// What it needs next is in memory.
    Recent,
}

/// The reading.
pub(super) struct Pass {
    journal: JournalId,
    table: RoutingTable<usize>,
    joiners: Vec<Option<Joiner>>,
    /// Those that take nothing now, for their clients have to read first.
    stalled: Vec<usize>,
    matches: Vec<usize>,
}

impl Pass {
    /// For those who want an exchange's messages, which is of that type.
    pub(super) fn new(journal: JournalId, kind: ExchangeKind, joiners: Vec<Joiner>) -> Self {
        let mut table = RoutingTable::new(kind);
        for (index, joiner) in joiners.iter().enumerate() {
            table.insert(&joiner.pattern, index);
        }
        Self {
            journal,
            table,
            joiners: joiners.into_iter().map(Some).collect(),
            stalled: Vec::new(),
            matches: Vec::new(),
        }
    }

    /// The first position that somebody needs; `None`: nobody is left.
    pub(super) fn position(&self) -> Option<u64> {
        let joiners = self.joiners.iter().flatten();
        joiners.map(|joiner| joiner.position).min()
    }

    /// How many are left.
    pub(super) fn left(&self) -> usize {
        self.joiners.iter().flatten().count()
    }

    /// The next message. How many it was for.
    pub(super) fn give(&mut self, stored: &Stored) -> usize {
        let message = &stored.message;
        let matches = &mut self.matches;
        matches.clear();
        let found = |index: &usize| matches.push(*index);
        if message.cc.is_empty() {
            self.table.for_each_match(&message.routing_key, found);
        } else {
            let keys = std::iter::once(&message.routing_key).chain(&message.cc);
            self.table.for_each_match_any(keys.map(|key| &**key), found);
        }
        let count = self.matches.len();
        for index in self.matches.drain(..) {
            let Some(slot) = self.joiners.get_mut(index) else {
                continue;
            };
            let Some(joiner) = slot else {
                continue;
            };
            if joiner.done.is_closed() {
                *slot = None;
                continue;
            }
            if joiner.position > stored.offset || joiner.is_stalled {
                continue;
            }
            joiner.turn = Turn::Reached;
            let Subscriber {
                mailbox,
                subscription,
            } = &joiner.subscriber;
            if stored.is_left_out {
                mailbox.skip(*subscription, (self.journal, stored.offset));
                joiner.left_out.store(true, Ordering::Relaxed);
                if !joiner.is_strict {
                    joiner.position = stored.offset.saturating_add(1);
                } else if let Some(joiner) = slot.take() {
                    // As below.
                    let _ = joiner.done.send(Outcome::LeftOut(stored.offset));
                }
                continue;
            }
            match mailbox.offer(*subscription, message) {
                Offer::Taken => {
                    joiner.position = stored.offset.saturating_add(1);
                    joiner.missed = joiner.missed.saturating_add(1);
                }
                Offer::Full => {
                    joiner.position = stored.offset;
                    joiner.is_stalled = true;
                    self.stalled.push(index);
                }
                Offer::Closed => *slot = None,
            }
        }
        count
    }

    /// All before that position was given, to all who are not stalled.
    pub(super) fn advance(&mut self, position: u64) {
        for slot in &mut self.joiners {
            if let Some(joiner) = slot {
                if joiner.done.is_closed() {
                    *slot = None;
                } else if !joiner.is_stalled && joiner.position < position {
                    joiner.position = position;
                    joiner.turn = Turn::Reached;
                }
            }
        }
    }

    /// Those that are stalled, and whether nobody else is left.
    pub(super) fn stalled(&self) -> (Vec<Subscriber>, bool) {
        let left = self.joiners.iter().flatten().count();
        let stalled = self.stalled.iter();
        let subscribers: Vec<_> = stalled
            .filter_map(|index| self.joiners.get(*index)?.as_ref())
            .map(|joiner| joiner.subscriber.clone())
            .collect();
        let are_all = subscribers.len() == left;
        (subscribers, are_all)
    }

    /// Those that were stalled try again.
    pub(super) fn unstall(&mut self) {
        for index in self.stalled.drain(..) {
            if let Some(Some(joiner)) = self.joiners.get_mut(index) {
                joiner.is_stalled = false;
            }
        }
    }

    /// Those that are stalled leave.
    pub(super) fn dismiss_stalled(&mut self) {
        for index in std::mem::take(&mut self.stalled) {
            if let Some(joiner) = self.joiners.get_mut(index).and_then(Option::take) {
                joiner.leave(Left::Full);
            }
        }
    }

    /// Whether there are some to which the reading did not come yet.
    pub(super) fn has_unreached(&self) -> bool {
        let mut there = self.joiners.iter().flatten();
        there.any(|joiner| joiner.turn != Turn::Reached)
    }

    /// Those to which the reading did not come: they wait on.
    pub(super) fn unreached(&mut self) -> Vec<Joiner> {
        let is_unreached = |joiner: &mut Joiner| joiner.turn != Turn::Reached;
        let slots = self.joiners.iter_mut();
        slots
            .filter_map(|slot| slot.take_if(is_unreached))
            .collect()
    }

    /// Those leave that need something before that position.
    pub(super) fn dismiss_before(&mut self, position: u64) {
        self.dismiss(|joiner| {
            (joiner.position < position).then_some(Outcome::Left(
                joiner.position,
                joiner.missed,
                Left::Older,
            ))
        });
    }

    /// All leave for what is in memory.
    pub(super) fn dismiss_to_memory(&mut self) {
        self.dismiss(|joiner| Some(Outcome::Left(joiner.position, joiner.missed, Left::Recent)));
    }

    /// What comes before that position is not there any more: whoever asks for whatever is there, and
    /// was neither told nor given anything yet, begins with it.
    pub(super) fn begin_with(&mut self, position: u64) {
        for joiner in self.joiners.iter_mut().flatten() {
            if joiner.missed == 0 && joiner.takes_any.load(Ordering::Relaxed) {
                joiner.position = joiner.position.max(position);
            }
        }
    }

    /// Those fail that need something before that position.
    pub(super) fn fail_before(&mut self, position: u64, problem: &Problem) {
        self.dismiss(|joiner| {
            (joiner.position < position).then(|| Outcome::Failed(problem.clone()))
        });
    }

    /// All that are left have everything. `level` lets each get what comes.
    pub(super) fn finish(&mut self, mut level: impl FnMut(&Subscriber)) {
        self.dismiss(|joiner| {
            level(&joiner.subscriber);
            Some(Outcome::Level(joiner.missed))
        });
    }

    fn dismiss(&mut self, mut outcome: impl FnMut(&Joiner) -> Option<Outcome>) {
        for slot in &mut self.joiners {
            let Some(outcome) = slot.as_ref().and_then(&mut outcome) else {
                continue;
            };
            if let Some(joiner) = slot.take() {
                // Who does not wait any more is not subscribed any more.
                let _ = joiner.done.send(outcome);
            }
        }
    }
}

impl Joiner {
    fn leave(self, left: Left) {
        // As above.
        let _ = self
            .done
            .send(Outcome::Left(self.position, self.missed, left));
    }
}
