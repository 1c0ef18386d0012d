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
}

impl Answers {
    /// Nothing was asked yet.
    pub(super) fn new(rechecks: u64) -> Arc<Self> {
        Arc::new(Self {
            given: Mutex::default(),
            unique: rand::random(),
            rechecks,
        })
    }

    /// The answer to that question, if it was asked. Once: a second question goes to the hook.
    pub(super) fn take(&self, access: &Access) -> Option<Result<(), Refusal>> {
        let mut given = self.given.lock();
        let index = given.iter().position(|(asked, _)| asked == access)?;
        Some(given.swap_remove(index).1)
    }

    /// It was asked, and answered so.
    pub(super) fn note(&self, access: Access, answer: Result<(), Refusal>) {
        self.given.lock().push((access, answer));
    }
}
