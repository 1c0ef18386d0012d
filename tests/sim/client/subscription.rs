//! The promise to a subscriber: from its RECEIPT on each message once, in order.

use stentor::hub::Overflow;

use super::Session;

/// A subscription, and how far it has come.
#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) source: Source,
    /// The place in the broker's log at its RECEIPT.
    pub(super) since: Option<usize>,
    /// The place of the last message.
    pub(super) last: Option<usize>,
    /// UNSUBSCRIBE was sent.
    pub(super) is_ending: bool,
}

#[derive(Clone, Debug)]
pub(super) enum Source {
    Shared {
        exchange: &'static str,
        pattern: &'static str,
    },
    Queue {
        mode: Mode,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Auto,
    Cumulative,
    Individual,
}

impl Session {
    /// A message of a shared feed came.
    pub(super) fn hear_shared(&mut self, name: u64, id: u64) {
        let ledger = &self.world.ledger;
        let Some(subscription) = self.subscriptions.get_mut(&name) else {
            return;
        };
        let Source::Shared { exchange, pattern } = subscription.source else {
            return;
        };
        let Some(place) = ledger.place(id) else {
            return self.violate(format!("m{id} came, which the broker never took"));
        };
        if !ledger.is_for(id, exchange, pattern) {
            return self.violate(format!("m{id} is not for {exchange}/{pattern}"));
        }
        let (since, last) = (subscription.since, subscription.last);
        subscription.last = Some(last.map_or(place, |last| last.max(place)));
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
            let missing = ledger.between(exchange, pattern, from..place);
            self.miss(name, &missing);
        }
    }

    fn miss(&mut self, name: u64, missing: &[u64]) {
        if missing.is_empty() {
            return;
        }
        self.missing += missing.len() as u64;
        let is_told =
            self.world.plan.overflow == Overflow::DropOldest && self.missing <= self.dropped;
        if !is_told {
            self.violate(format!(
                "subscription {name} ({:?}) lacks {missing:?}, and nobody told",
                self.subscriptions.get(&name).map(|it| &it.source)
            ));
        }
    }

    /// All is quiet: nothing is on its way.
    pub(super) fn check_subscriptions(&mut self) {
        let end = self.world.ledger.len();
        let open: Vec<_> = self
            .subscriptions
            .iter()
            .filter(|(_, subscription)| !subscription.is_ending)
            .filter_map(|(name, subscription)| {
                let Source::Shared { exchange, pattern } = subscription.source else {
                    return None;
                };
                let since = subscription.since?;
                let from = subscription.last.map_or(since, |last| since.max(last + 1));
                Some((*name, exchange, pattern, from))
            })
            .collect();
        for (name, exchange, pattern, from) in open {
            let missing = self.world.ledger.between(exchange, pattern, from..end);
            self.miss(name, &missing);
        }
    }
}
