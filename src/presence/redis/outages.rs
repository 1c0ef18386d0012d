//! Says in the log when Redis goes away, and comes back: once, though its partitions notice it one
//! by one.

use std::time::Duration;

use parking_lot::Mutex;

use crate::telemetry;

/// The state of all partitions of a node's presence.
#[derive(Debug)]
pub(super) struct Outages(Mutex<State>);

#[derive(Debug)]
struct State {
    /// Which are there.
    up: Vec<bool>,
    /// How many of them.
    count: usize,
    /// The sessions of each, when it was last there.
    sessions: Vec<usize>,
    /// The last word in the log: true if all were there.
    said: Option<bool>,
}

impl Outages {
    /// Of so many partitions, none of which is there yet.
    pub(super) fn new(partitions: usize) -> Self {
        Self(Mutex::new(State {
            up: vec![false; partitions],
            count: 0,
            sessions: vec![0; partitions],
            said: None,
        }))
    }

    /// A partition is there, with so many sessions.
    pub(super) fn note_up(&self, partition: usize, sessions: usize) {
        let mut state = self.0.lock();
        if let Some(held) = state.sessions.get_mut(partition) {
            *held = sessions;
        }
        if !state.set(partition, true) {
            return;
        }
        if state.count == state.up.len() && state.said.replace(true) != Some(true) {
            telemetry::presence_up(state.sessions.iter().sum());
        }
    }

    /// A partition is not.
    pub(super) fn note_down(&self, partition: usize, cause: &str, retry_in: Duration) {
        let mut state = self.0.lock();
        state.set(partition, false);
        if state.said.replace(false) != Some(false) {
            telemetry::presence_down(cause, retry_in);
        }
    }
}

impl State {
    /// `true`: it is news.
    fn set(&mut self, partition: usize, is_up: bool) -> bool {
        let Some(known) = self.up.get_mut(partition) else {
            return false;
        };
        if std::mem::replace(known, is_up) == is_up {
            return false;
        }
        self.count = if is_up {
            self.count.saturating_add(1)
        } else {
            self.count.saturating_sub(1)
        };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_have_to_be_there_and_one_that_is_not_is_enough() {
        let outages = Outages::new(2);
        let said = || outages.0.lock().said;
        outages.note_up(0, 1);
        assert_eq!(said(), None);
        outages.note_up(1, 1);
        assert_eq!(said(), Some(true));
        outages.note_down(1, "gone", Duration::ZERO);
        outages.note_up(0, 1);
        assert_eq!(said(), Some(false));
        outages.note_up(1, 1);
        outages.note_up(1, 1);
        assert_eq!((said(), outages.0.lock().count), (Some(true), 2));
    }
}
