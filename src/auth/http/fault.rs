//! What goes wrong with a hook, and how often that is said.

use std::time::{Duration, Instant};

use auth_hook::{AnswerError, BatchError, Call, GroupsError};
use parking_lot::Mutex;
use thiserror::Error;

use crate::{
    causes::of_request,
    telemetry::{self, Seldom},
};

/// Why a call has no answer of the contract. Says nothing of what was asked or answered.
#[derive(Debug, Error)]
pub(super) enum Fault {
    /// The hook answered something else.
    #[error(transparent)]
    Answer(#[from] AnswerError),
    /// The hook answered something that is no list of groups.
    #[error(transparent)]
    Groups(#[from] GroupsError),
    /// The hook answered something that are no answers to a batch.
    #[error(transparent)]
    Batch(BatchError),
    /// The hook gave an answer of a batch a header that cannot be one.
    #[error("it gave an answer of a batch a header that is none")]
    NoHeader,
    /// The hook allowed a user, and did not say whom.
    #[error("it allowed a user without a name, or with one that cannot be (username_header)")]
    NoName,
    /// The hook allowed a user, and its lifetime cannot be read.
    #[error(
        "it gave a login a lifetime that is no whole number of seconds, 1 or more (lifetime_header)"
    )]
    NoLifetime,
    /// The connection could not be made, or broke.
    #[error("{0}")]
    Connection(String),
    /// The hook's server refused the question for its length. It is the client's fault.
    #[error("its server takes no URL of that length: it answered with status {0}")]
    LongUrl(u16),
    /// No answer in time.
    #[error("it did not answer within {0:?}")]
    Timeout(Duration),
    /// The answer did not end.
    #[error("its answer is longer than {0} bytes")]
    TooLong(usize),
}

impl Fault {
    pub(super) fn connection(error: reqwest::Error) -> Self {
        // The URL of a GET holds the password.
        Fault::Connection(of_request(error))
    }
}

/// Says what is wrong with one path of the hook: at the first fault, then now and then, and
/// once when all is well again.
#[derive(Debug, Default)]
pub(super) struct FaultLog(Mutex<Gate>);

impl FaultLog {
    /// A call failed.
    pub(super) fn fault(&self, call: &'static str, path: &str, fault: &Fault) {
        if let Some(unsaid) = self.0.lock().fault(Instant::now()) {
            let result = if call == Call::Groups.name() {
                "its users are in no group"
            } else {
                "its users are refused"
            };
            telemetry::hook_at_fault(&call, path, result, fault, unsaid);
        }
    }

    /// A call was answered.
    pub(super) fn answered(&self, call: &'static str, path: &str) {
        if let Some(unsaid) = self.0.lock().answered(Instant::now()) {
            telemetry::hook_answers_again(&call, path, unsaid);
        }
    }
}

/// Decides which faults are said.
#[derive(Debug, Default)]
struct Gate {
    seldom: Seldom,
    /// Whether the last call failed.
    failing: bool,
}

impl Gate {
    /// Whether to say this fault, and how many went unsaid before it.
    fn fault(&mut self, now: Instant) -> Option<u64> {
        self.failing = true;
        self.seldom.let_through(now)
    }

    /// Whether to say that all is well again, and how many faults went unsaid.
    fn answered(&mut self, now: Instant) -> Option<u64> {
        // A hook that fails every other call would otherwise fill the log by being well.
        if !self.failing || self.seldom.is_quiet(now) {
            return None;
        }
        self.failing = false;
        Some(self.seldom.take_unsaid())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Duration = Seldom::QUIET;

    #[test]
    fn that_all_is_well_again_is_said_once() {
        let start = Instant::now();
        let mut gate = Gate::default();
        assert_eq!(gate.answered(start), None, "it always was");
        gate.fault(start);
        gate.fault(start);
        assert_eq!(gate.answered(start), None, "too soon to say");
        assert_eq!(gate.answered(start + QUIET), Some(1));
        assert_eq!(gate.answered(start + QUIET), None);
        assert_eq!(gate.fault(start + QUIET * 2), Some(0));
    }
}
