//! Subscriptions that connections are told to end: by the connection's number, until its task has
//! seen to it. A connection that is told nothing keeps nothing for it: it looks at one number that
//! all of them share.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::control::Unsubscribe;

/// An order to a connection to end subscriptions.
#[derive(Debug)]
pub struct Withdrawal {
    /// Which.
    pub wanted: Arc<Unsubscribe>,
    done: oneshot::Sender<usize>,
}

impl Withdrawal {
    /// So many have ended.
    pub fn done(self, count: usize) {
        // Whoever asked may wait no more.
        let _ = self.done.send(count);
    }
}

/// The orders that connections have not taken yet.
#[derive(Debug, Default)]
pub(super) struct Withdrawals {
    count: AtomicUsize,
    open: Mutex<HashMap<u64, Vec<Withdrawal>>>,
}

impl Withdrawals {
    /// An order to the connection of that number, which somebody has to wake. The answer is how
    /// many subscriptions ended; none comes if the connection ends first.
    pub(super) fn order(&self, number: u64, wanted: &Arc<Unsubscribe>) -> oneshot::Receiver<usize> {
        let (done, answer) = oneshot::channel();
        let wanted = Arc::clone(wanted);
        let mut open = self.open.lock();
        let orders = open.entry(number).or_default();
        orders.push(Withdrawal { wanted, done });
        self.count.store(open.len(), Ordering::Relaxed);
        answer
    }

    /// Whether that connection has orders.
    pub(super) fn is_told(&self, number: u64) -> bool {
        self.count.load(Ordering::Relaxed) > 0 && self.open.lock().contains_key(&number)
    }

    /// The orders to that connection, which takes them, or is gone.
    pub(super) fn take(&self, number: u64) -> Vec<Withdrawal> {
        if self.count.load(Ordering::Relaxed) == 0 {
            return Vec::new();
        }
        let mut open = self.open.lock();
        let orders = open.remove(&number);
        self.count.store(open.len(), Ordering::Relaxed);
        orders.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::broker::destination::Destination;

    #[test]
    fn orders_are_taken_once_by_whom_they_are_for() {
        let wanted = Arc::new(Unsubscribe {
            user: "alice".into(),
            vhost: None,
            destination: Destination::Topic("a".into()),
            reason: Box::default(),
        });
        let withdrawals = Withdrawals::default();
        assert!(!withdrawals.is_told(1) && withdrawals.take(1).is_empty());
        let (first, second) = (withdrawals.order(1, &wanted), withdrawals.order(1, &wanted));
        assert!(withdrawals.is_told(1) && !withdrawals.is_told(2));
        assert!(withdrawals.take(2).is_empty());
        let mut taken = withdrawals.take(1).into_iter();
        taken.next().unwrap().done(3);
        assert_eq!(first.now_or_never(), Some(Ok(3)));
        // A connection that ends has no answer.
        drop(taken);
        assert!(matches!(second.now_or_never(), Some(Err(_))));
        assert!(!withdrawals.is_told(1) && withdrawals.take(1).is_empty());
    }
}
