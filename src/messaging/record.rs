//! The entry of one sequence, which all nodes share, and the steps that change it (pure).
//! `sequence.lua` is the same in Redis.

use std::cmp::Ordering;

use super::SequenceError;

/// The greatest number: JavaScript and Lua count so far.
pub const MAX_NUMBER: u64 = (1 << 53) - 1;

/// Numbers beyond the last one that may be under way, or unknown, at a time.
pub const WINDOW: u64 = 1_024;

/// The entry of one sequence. The numbers in `(last, reserved]` are unknown: the broker may or may
/// not have them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// The connection that may reserve; a greater one at each [`Entry::open`].
    pub epoch: u64,
    /// The broker has confirmed all numbers up to this one.
    pub last: u64,
    /// No number beyond this one was handed to the broker.
    pub reserved: u64,
    /// The connection that may have messages under way; 0: there is none.
    pub busy: u64,
}

impl Entry {
    /// A connection takes the sequence over. Its epoch is this one, or a greater one if that is not
    /// beyond the one before. `told` is the last number of which its client says
    /// that it had the receipt: if that is news, the store has forgotten something, and nobody
    /// knows how far the client has come.
    ///
    /// `known` is the epoch of the entry as the login has found it, or 0 where none was there. The call
    /// may come late, long after it was given up, and another connection has the sequence since. The
    /// epochs of the two cannot tell, for they are of the clocks of two nodes.
    ///
    /// # Errors
    /// [`SequenceError::Changed`]: the entry has another epoch.
    pub fn open(
        there: Option<Self>,
        known: u64,
        epoch: u64,
        told: u64,
    ) -> Result<Self, SequenceError> {
        let mut entry = there.unwrap_or_default();
        if entry.epoch != known {
            return Err(SequenceError::Changed);
        }
        let beyond = entry.epoch.saturating_add(1);
        entry.epoch = epoch.max(beyond).min(MAX_NUMBER);
        if told > entry.last {
            entry.last = told;
            let unknown = told.saturating_add(WINDOW).min(MAX_NUMBER);
            entry.reserved = entry.reserved.max(unknown);
        }
        Ok(entry)
    }

    /// Whether the sequence is that connection's.
    ///
    /// # Errors
    /// [`SequenceError::Taken`]; [`SequenceError::Lost`]: the store has lost that it opened, for
    /// epochs grow.
    pub fn check(&self, epoch: u64) -> Result<(), SequenceError> {
        match self.epoch.cmp(&epoch) {
            Ordering::Equal => Ok(()),
            Ordering::Less => Err(SequenceError::Lost),
            Ordering::Greater => Err(SequenceError::Taken),
        }
    }

    /// The numbers up to `to` are about to be handed to the broker.
    ///
    /// # Errors
    /// As [`Entry::check`].
    pub fn reserve(&mut self, epoch: u64, to: u64) -> Result<(), SequenceError> {
        self.check(epoch)?;
        self.reserved = self.reserved.max(to);
        self.busy = epoch;
        Ok(())
    }

    /// The broker has confirmed all numbers after `from` up to `to`. A connection from which the
    /// sequence was taken may say so, too, while it is busy: it is a fact.
    ///
    /// # Errors
    /// As [`Entry::check`]; [`SequenceError::Lost`]: there is a gap before `from`.
    pub fn commit(&mut self, epoch: u64, from: u64, to: u64) -> Result<(), SequenceError> {
        if self.busy != epoch {
            self.check(epoch)?;
        }
        if from > self.last {
            return Err(SequenceError::Lost);
        }
        self.last = self.last.max(to);
        self.reserved = self.reserved.max(self.last);
        Ok(())
    }

    /// A connection has nothing under way any more. `handed` is the last number that it, or one
    /// before it, may have handed to the broker: also where the store has lost that it was reserved,
    /// unless another connection has the sequence.
    pub fn release(&mut self, epoch: u64, handed: u64) {
        match self.epoch.cmp(&epoch) {
            Ordering::Equal => self.reserved = handed.max(self.last),
            Ordering::Less => self.reserved = self.reserved.max(handed),
            Ordering::Greater => {}
        }
        if self.busy == epoch {
            self.busy = 0;
        }
    }

    /// Whether a connection before this one may still say more about the unknown numbers.
    #[must_use]
    pub fn is_unsettled(&self) -> bool {
        self.last < self.reserved && self.busy != 0 && self.busy != self.epoch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A login that finds the entry as it is.
    fn open(there: Option<Entry>, epoch: u64, told: u64) -> Entry {
        let known = there.map_or(0, |entry| entry.epoch);
        Entry::open(there, known, epoch, told).unwrap()
    }

    #[test]
    fn a_number_is_reserved_then_committed() {
        let mut entry = open(None, 7, 0);
        entry.reserve(7, 3).unwrap();
        entry.commit(7, 0, 2).unwrap();
        assert_eq!((entry.last, entry.reserved, entry.busy), (2, 3, 7));
        // An answer was lost, and the commit is repeated.
        entry.commit(7, 0, 2).unwrap();
        assert_eq!(entry.last, 2);
        assert_eq!(entry.commit(7, 3, 4), Err(SequenceError::Lost));
        entry.release(7, 2);
        assert_eq!((entry.reserved, entry.busy), (2, 0));
    }

    #[test]
    fn one_writes_at_a_time_and_facts_of_the_one_before_count() {
        let mut entry = open(None, 1, 0);
        entry.reserve(1, 5).unwrap();
        let mut entry = open(Some(entry), 2, 0);
        assert!(entry.is_unsettled());
        assert_eq!(entry.reserve(1, 6), Err(SequenceError::Taken));
        entry.commit(1, 0, 4).unwrap();
        entry.release(1, 4);
        assert!(!entry.is_unsettled());
        assert_eq!((entry.last, entry.reserved), (4, 5), "5 may be repeated");
        assert_eq!(entry.commit(1, 4, 5), Err(SequenceError::Taken));
    }

    #[test]
    fn epochs_grow_whatever_the_clock_says() {
        let entry = open(None, 7, 0);
        let entry = open(Some(entry), 5, 0);
        assert_eq!(entry.epoch, 8);
        let entry = open(Some(entry), 20, 0);
        assert_eq!(entry.epoch, 20);
        let entry = open(Some(entry), MAX_NUMBER, 0);
        assert_eq!(open(Some(entry), 21, 0).epoch, MAX_NUMBER);
    }

    /// The call was given up, and the client has come again since: by a clock that is ahead or behind.
    #[test]
    fn an_open_that_comes_late_changes_nothing() {
        let here = open(None, 7, 0);
        for epoch in [6, 7, 8] {
            let late = Entry::open(Some(here), 0, epoch, 500);
            assert_eq!(late, Err(SequenceError::Changed));
        }
        let next = open(Some(here), 9, 0);
        let late = Entry::open(Some(next), 7, 10, 0);
        assert_eq!(late, Err(SequenceError::Changed));
        // Nor does it make an entry that was forgotten since.
        assert_eq!(Entry::open(None, 7, 10, 0), Err(SequenceError::Changed));
    }

    #[test]
    fn a_store_that_has_lost_the_login_is_no_other_connection() {
        let before = open(None, 1, 0);
        assert_eq!(open(Some(before), 2, 0).reserve(2, 1), Ok(()));
        let mut entry = before;
        assert_eq!(entry.reserve(2, 2), Err(SequenceError::Lost));
        assert_eq!(entry.commit(2, 0, 1), Err(SequenceError::Lost));
        entry.release(2, 1);
        assert_eq!((entry.epoch, entry.last, entry.reserved), (1, 0, 1));
    }

    #[test]
    fn a_connection_says_at_its_end_what_the_store_has_lost() {
        let mut entry = open(None, 1, 0);
        entry.reserve(1, 2).unwrap();
        let mut before = entry;
        entry.reserve(1, 10).unwrap();
        entry.release(1, 8);
        before.release(1, 8);
        assert_eq!((entry.reserved, before.reserved), (8, 8));
        let mut taken = open(Some(before), 2, 0);
        taken.release(1, 9);
        assert_eq!(taken.reserved, 8);
    }

    #[test]
    fn a_store_that_forgot_believes_the_client_and_trusts_nothing_after() {
        let entry = open(None, 1, 500);
        assert_eq!((entry.last, entry.reserved), (500, 500 + WINDOW));
        let entry = open(Some(entry), 2, 400);
        assert_eq!(entry.last, 500);
        let entry = open(None, 1, MAX_NUMBER);
        assert_eq!(entry.reserved, MAX_NUMBER);
    }
}
