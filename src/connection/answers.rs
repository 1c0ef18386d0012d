//! Answers of the hook that were asked for ahead of a frame's turn.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::auth::{Access, Refusal};

/// What the hook has answered, for the frame whose questions were asked.
pub(super) struct Answers {
    given: Mutex<Vec<(Access, Result<(), Refusal>)>>,
    /// What makes the names of the frame's queues, which the questions are about.
    pub(super) unique: u128,
    /// How many rechecks of the session had begun before the first question.
    pub(super) rechecks: u64,
    /// How often the node was to ask again by then.
    orders: u64,
}

impl Answers {
    /// Nothing was asked yet. `orders` as of [`Answers::take`].
    pub(super) fn new(rechecks: u64, orders: u64) -> Arc<Self> {
        Arc::new(Self {
            given: Mutex::default(),
            unique: rand::random(),
            rechecks,
            orders,
        })
    }

    /// The answer to that question, if it was asked. Once: a second question goes to the hook. So
    /// does each if the node was to ask again since: by now it was `orders` times
    /// ([`Registry::rechecks`](crate::node::Registry::rechecks)).
    pub(super) fn take(&self, access: &Access, orders: u64) -> Option<Result<(), Refusal>> {
        if self.orders != orders {
            return None;
        }
        let mut given = self.given.lock();
        let index = given.iter().position(|(asked, _)| asked == access)?;
        Some(given.swap_remove(index).1)
    }

    /// It was asked, and answered so.
    pub(super) fn note(&self, access: Access, answer: Result<(), Refusal>) {
        self.given.lock().push((access, answer));
    }
}
