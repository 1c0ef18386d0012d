//! The promise to a subscriber: from its RECEIPT on each message once, in order; or of each key, if it
//! wished so, the newest ones.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use stentor::hub::Overflow;
use stomp_grammar::Frame;
use tokio::time::Instant;

use super::{Session, journal::Past};
use crate::{hook::Right, world::AFTERMATH};

/// A subscription, and how far it has come.
#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) source: Source,
    /// When SUBSCRIBE was sent, and when its RECEIPT came.
    pub(super) asked: Instant,
    pub(super) opened: Option<Instant>,
    /// The place in the broker's log at its RECEIPT.
    pub(super) since: Option<usize>,
    /// The place of the last message.
    pub(super) last: Option<usize>,
    /// The same for each key, where messages of a key may be left out.
    pub(super) of_keys: BTreeMap<Box<str>, usize>,
    pub(super) bases: Bases,
    /// When a renewal had its RECEIPT behind which this is over: the right was gone.
    pub(super) lost: Option<Instant>,
    /// UNSUBSCRIBE was sent.
    pub(super) is_ending: bool,
}

impl Subscription {
    pub(super) fn new(source: Source) -> Self {
        Self {
            source,
            asked: Instant::now(),
            opened: None,
            since: None,
            last: None,
            of_keys: BTreeMap::new(),
            bases: Bases::default(),
            lost: None,
            is_ending: false,
        }
    }

    /// How it began, if it is to a journal.
    pub(super) fn past(&self) -> Option<&Past> {
        match &self.source {
            Source::Journal(past) => Some(past),
            _ => None,
        }
    }

    /// The right that it needs, if that is one that may be taken away.
    pub(super) fn right(&self) -> Option<Right> {
        match self.source {
            Source::Shared {
                exchange: "feed",
                pattern,
                ..
            } => Some(Right::Read(pattern)),
            _ => None,
        }
    }
}

#[derive(Clone, Debug)]
pub(super) enum Source {
    Shared {
        exchange: &'static str,
        pattern: &'static str,
        /// Of messages that wait, it wants the newest of each key alone.
        is_conflated: bool,
    },
    Queue {
        mode: Mode,
    },
    Journal(Past),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Auto,
    Cumulative,
    Individual,
}

/// What deltas are made to: of each destination, the last message's number and body.
#[derive(Debug, Default)]
pub(super) struct Bases(HashMap<String, (String, Bytes)>);

impl Bases {
    /// The body of a message, as it was sent.
    pub(super) fn read(&mut self, frame: &Frame) -> Result<Bytes, String> {
        let destination = frame.header("destination").unwrap_or_default();
        let base = self.0.remove(destination);
        let Some(told) = frame.header("x-delta") else {
            return Ok(frame.body.clone());
        };
        let (number, body) = match told.split(' ').collect::<Vec<_>>()[..] {
            ["whole", number] => (number, frame.body.clone()),
            ["fossil", number, of] => {
                let base = base.filter(|(number, _)| number == of);
                let (_, base) =
                    base.ok_or_else(|| format!("a delta to {of}, which is not here"))?;
                let body = fossil_delta::apply(&base, &frame.body);
                let body = body.map_err(|error| format!("{error:?}"))?;
                (number, body.into())
            }
            _ => return Err(format!("x-delta:{told}")),
        };
        let kept = (number.to_owned(), body.clone());
        self.0.insert(destination.to_owned(), kept);
        Ok(body)
    }
}

impl Session {
    /// A message of a shared feed came, in whose place so many were left out.
    pub(super) fn hear_shared(&mut self, name: u64, id: u64, left_out: usize) {
        let ledger = &self.world.ledger;
        let Some(subscription) = self.subscriptions.get_mut(&name) else {
            return;
        };
        let Source::Shared {
            exchange,
            pattern,
            is_conflated,
        } = subscription.source
        else {
            return;
        };
        let Some(place) = ledger.place(id) else {
            return self.violate(format!("m{id} came, which the broker never took"));
        };
        if !ledger.is_for(id, exchange, pattern) {
            return self.violate(format!("m{id} is not for {exchange}/{pattern}"));
        }
        let key = ledger.key(id).filter(|_| is_conflated);
        let since = subscription.since;
        let last = match &key {
            Some(key) => subscription.of_keys.get(key).copied(),
            None => subscription.last,
        };
        let newest = last.map_or(place, |last| last.max(place));
        match &key {
            Some(key) => {
                subscription.of_keys.insert(key.clone(), newest);
            }
            None => subscription.last = Some(newest),
        }
        if last.is_some_and(|last| place <= last) {
            let how = if last == Some(place) {
                "twice"
            } else {
                "late, or twice"
            };
            return self.violate(format!("m{id} came {how} on subscription {name}"));
        }
        // What was taken before the RECEIPT may come, but is not promised: a late feed still has
        // messages of a binding of before.
        let Some(since) = since else { return };
        let from = last.map_or(since, |last| since.max(last + 1));
        if from < place {
            let mut missing = ledger.between(exchange, pattern, from..place);
            missing.retain(|id| key.is_none() || ledger.key(*id) == key);
            // Some that were left out may be older than the RECEIPT.
            self.miss(name, missing.get(left_out..).unwrap_or_default());
        }
    }

    pub(super) fn miss(&mut self, name: u64, missing: &[u64]) {
        if missing.is_empty() {
            return;
        }
        self.missing += missing.len() as u64;
        let is_told =
            self.world.plan.overflow != Overflow::Disconnect && self.missing <= self.dropped;
        if !is_told {
            self.violate(format!(
                "subscription {name} ({:?}) lacks {missing:?}, and nobody told",
                self.subscriptions.get(&name).map(|it| &it.source)
            ));
        }
    }

    /// When the operator ended what this one is to, the last time.
    pub(super) fn withdrawn(&self, subscription: &Subscription) -> Option<Instant> {
        let Source::Shared {
            exchange, pattern, ..
        } = subscription.source
        else {
            return None;
        };
        self.world.last_withdrawal(&self.user, exchange, pattern)
    }

    /// The gateway says that a subscription is over; the session goes on.
    pub(super) fn hear_withdrawn(&mut self, frame: &Frame) {
        let name = frame
            .header("subscription")
            .and_then(|name| name.parse().ok());
        let Some(subscription) = name.and_then(|name: u64| self.subscriptions.remove(&name)) else {
            return self.violate("a subscription ended that is none".to_owned());
        };
        let (hook, asked) = (&self.world.hook, subscription.asked);
        let is_meant = if frame.header("error-code") == Some("permission-withdrawn") {
            let right = subscription.right();
            right.is_some_and(|right| hook.lacked(&self.user, right, asked))
        } else {
            // A command may be late.
            let withdrawn = self.withdrawn(&subscription);
            withdrawn.is_some_and(|at| at + AFTERMATH >= asked)
        };
        if !is_meant {
            self.violate(format!("subscription {name:?} ended for nothing"));
        }
    }

    /// All is quiet: nothing is on its way.
    pub(super) fn check_subscriptions(&mut self) {
        let ledger = &self.world.ledger;
        let of_journal = self.lacking_of_journal();
        let missing: Vec<_> = self
            .subscriptions
            .iter()
            .filter(|(_, subscription)| !subscription.is_ending)
            .filter_map(|(name, subscription)| {
                let Source::Shared {
                    exchange, pattern, ..
                } = subscription.source
                else {
                    return None;
                };
                let since = subscription.since?;
                let from = subscription.last.map_or(since, |last| since.max(last + 1));
                let mut missing = ledger.between(exchange, pattern, from..ledger.len());
                missing.retain(|id| {
                    let last = ledger
                        .key(*id)
                        .and_then(|key| subscription.of_keys.get(&key));
                    last.is_none_or(|last| ledger.place(*id) > Some(*last))
                });
                Some((*name, missing))
            })
            .chain(of_journal)
            .collect();
        for (name, missing) in missing {
            self.miss(name, &missing);
        }
    }
}
