//! Subscriptions that end because others say so, while the session goes on.

use stomp_session::{OperationId, Problem, SubscriptionId};
use tokio::time::Instant;

use super::{Connection, link::Link, route::Routes};
use crate::{broker::destination::Destination, control::Unsubscribe, node::Withdrawal};

/// An order that is being carried out.
pub(super) struct Withdrawing {
    order: Withdrawal,
    /// The last operation that was under way when it came: it may be a SUBSCRIBE that was permitted
    /// before, and whose subscription ends, too.
    until: Option<OperationId>,
    /// Subscriptions that have ended by it.
    ended: usize,
}

impl<L: Link> Connection<L> {
    /// Ends what others want to end. Returns true if there was anything to do.
    pub(super) fn withdraw(&mut self) -> bool {
        let orders = self.context.guard.withdrawals();
        let mut all = self.operations.take_withdrawing();
        if orders.is_empty() && all.is_empty() {
            return false;
        }
        let until = self.operations.last_under_way();
        all.extend(orders.into_iter().map(|order| Withdrawing {
            order,
            until,
            ended: 0,
        }));
        let mut unfinished = Vec::new();
        let mut has_acted = false;
        for mut one in all {
            let ended = self.end_subscriptions(&one.order.wanted);
            one.ended = one.ended.saturating_add(ended);
            has_acted |= ended > 0;
            match one.until {
                Some(until) if self.operations.is_under_way(until) => unfinished.push(one),
                _ => {
                    has_acted = true;
                    one.order.done(one.ended);
                }
            }
        }
        if !unfinished.is_empty() {
            self.operations.keep_withdrawing(unfinished);
        }
        has_acted
    }

    /// Ends the subscriptions that are meant, at the broker too; how many.
    fn end_subscriptions(&mut self, wanted: &Unsubscribe) -> usize {
        let meant = self.meant(wanted);
        for subscription in &meant {
            self.operations.withdraw(*subscription, &self.context);
        }
        let count = meant.len();
        let problem = || Problem::Unsubscribed(wanted.reason.clone());
        let lost = meant.into_iter().map(|id| (id, problem()));
        self.session
            .handle_lost(Instant::now().into_std(), lost.collect());
        count
    }

    fn meant(&self, wanted: &Unsubscribe) -> Vec<SubscriptionId> {
        let Some(identity) = self.context.identity() else {
            return Vec::new();
        };
        let vhost = wanted.vhost.as_deref();
        if vhost.is_some_and(|vhost| *vhost != **identity.vhost.name()) {
            return Vec::new();
        }
        let mapping = self.context.mapping(identity);
        let Some((exchange, key)) = wanted.destination.route(mapping.topics) else {
            return Vec::new();
        };
        let pattern = match &wanted.destination {
            Destination::Exchange { .. } | Destination::Topic(_) => mapping.keys.pattern(key),
            _ => Ok(key.into()),
        };
        // No subscription has a pattern that is refused.
        let Ok(pattern) = pattern else {
            return Vec::new();
        };
        let routes: &Routes = self.operations.routes();
        let open = self.session.open_subscriptions();
        open.map(|open| open.subscription)
            .filter(|id| routes.is_to(*id, exchange, &pattern))
            .collect()
    }
}
