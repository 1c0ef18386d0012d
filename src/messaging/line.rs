//! One connection's side of its sequence (pure): what becomes of each number, and what is due at
//! the store.

use std::collections::BTreeSet;

use stomp_session::Problem;

use super::record::{Entry, WINDOW};

/// What is to be done with a number that the client has sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The broker has it: a receipt at once.
    Known,
    /// It is under way on this connection: a receipt when it is committed.
    UnderWay,
    /// Numbers before it are missing.
    Gap { expected: u64 },
    /// So many are under way that it has to wait.
    Later,
    /// The numbers up to this one are to be reserved; then ask again.
    Reserve { to: u64 },
    /// It is to be published; with the mark, if the broker may have it.
    Publish { possible_duplicate: bool },
    /// An earlier number has failed.
    Failed(Problem),
}

/// The numbers of one connection.
#[derive(Debug)]
pub(super) struct Line {
    /// As the store has it.
    last: u64,
    /// Up to here, the broker may have had numbers before this connection began.
    unknown: u64,
    /// Reserved by this connection.
    reserved: u64,
    /// The next number.
    next: u64,
    /// The client has sent all numbers up to this one.
    seen: u64,
    /// Confirmed by the broker, and not committed.
    confirmed: BTreeSet<u64>,
    is_committing: bool,
    /// The first number that the broker has not taken, and why.
    refused: Option<(u64, Problem)>,
    /// Why nothing more is committed.
    stopped: Option<Problem>,
}

impl Line {
    pub(super) fn new(entry: &Entry) -> Self {
        Self {
            last: entry.last,
            unknown: entry.reserved.max(entry.last),
            reserved: entry.last,
            next: entry.last.saturating_add(1),
            seen: entry.last,
            confirmed: BTreeSet::new(),
            is_committing: false,
            refused: None,
            stopped: None,
        }
    }

    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// Why a number that is under way will not be committed.
    pub(super) fn failure_of(&self, number: u64) -> Option<&Problem> {
        let refused = self.refused.as_ref();
        let refused = refused.filter(|(first, _)| *first <= number);
        self.stopped
            .as_ref()
            .or(refused.map(|(_, problem)| problem))
    }

    /// A frame with this number has come, and waits for its turn.
    pub(super) fn foresee(&mut self, number: u64) {
        if number == self.seen.saturating_add(1) {
            self.seen = number;
        }
    }

    /// The turn of a frame with this number.
    pub(super) fn step(&self, number: u64) -> Step {
        let most = self.last.saturating_add(WINDOW);
        if number <= self.last {
            Step::Known
        } else if let Some(problem) = self.failure_of(number) {
            Step::Failed(problem.clone())
        } else if number < self.next {
            Step::UnderWay
        } else if number > self.next {
            let expected = self.next;
            Step::Gap { expected }
        } else if number > most {
            Step::Later
        } else if number > self.reserved {
            let to = self.seen.min(most).max(number);
            Step::Reserve { to }
        } else {
            let possible_duplicate = number <= self.unknown;
            Step::Publish { possible_duplicate }
        }
    }

    /// The store has reserved the numbers up to this one.
    pub(super) fn reserved(&mut self, to: u64) {
        self.reserved = self.reserved.max(to);
    }

    /// The number is handed to the broker.
    pub(super) fn hand(&mut self, number: u64) {
        self.next = number.saturating_add(1);
    }

    /// The broker has confirmed the number.
    pub(super) fn confirmed(&mut self, number: u64) {
        if number > self.last {
            self.confirmed.insert(number);
        }
    }

    /// The broker has not taken the number: later ones cannot be committed, either.
    pub(super) fn fail(&mut self, number: u64, problem: Problem) {
        if self
            .refused
            .as_ref()
            .is_none_or(|(first, _)| number < *first)
        {
            self.refused = Some((number, problem));
        }
    }

    /// The store does not answer: nothing more is committed.
    pub(super) fn stop(&mut self, problem: Problem) {
        self.stopped.get_or_insert(problem);
    }

    /// The store may answer again.
    pub(super) fn resume(&mut self) {
        self.stopped = None;
    }

    /// The commit to begin now: from which number, and to which.
    pub(super) fn begin_commit(&mut self) -> Option<(u64, u64)> {
        if self.is_committing || self.stopped.is_some() {
            return None;
        }
        let after = self.last.saturating_add(1);
        let numbers = self.confirmed.iter().zip(after..);
        let (to, _) = numbers.take_while(|(has, wants)| **has == *wants).last()?;
        self.is_committing = true;
        Some((self.last, *to))
    }

    /// The commit is over. `last` is what the store has now, if it said so.
    pub(super) fn end_commit(&mut self, last: Option<u64>) {
        self.is_committing = false;
        if let Some(last) = last {
            self.last = self.last.max(last);
            self.next = self.next.max(self.last.saturating_add(1));
            self.seen = self.seen.max(self.last);
            self.confirmed.retain(|number| *number > self.last);
        }
    }

    /// The last number that this connection, or one before it, may have handed to the broker.
    pub(super) fn handed(&self) -> u64 {
        self.next.saturating_sub(1).max(self.unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(last: u64, reserved: u64) -> Line {
        Line::new(&Entry {
            epoch: 1,
            last,
            reserved,
            busy: 0,
        })
    }

    const FRESH: Step = Step::Publish {
        possible_duplicate: false,
    };

    #[test]
    fn one_reservation_and_one_commit_serve_all_that_wait() {
        let mut line = line(5, 5);
        (6..=8).for_each(|number| line.foresee(number));
        assert_eq!(line.step(6), Step::Reserve { to: 8 });
        line.reserved(8);
        for number in 6..=8 {
            assert_eq!(line.step(number), FRESH);
            line.hand(number);
            assert_eq!(line.step(number), Step::UnderWay);
        }
        line.confirmed(7);
        assert_eq!(line.begin_commit(), None);
        line.confirmed(6);
        assert_eq!(line.begin_commit(), Some((5, 7)));
        line.confirmed(8);
        assert_eq!(line.begin_commit(), None, "one is under way");
        line.end_commit(Some(7));
        assert_eq!(line.step(7), Step::Known);
        assert_eq!(line.begin_commit(), Some((7, 8)));
        assert_eq!(line.handed(), 8);
    }

    #[test]
    fn unknown_numbers_are_marked_and_others_are_not() {
        let mut line = line(5, 6);
        for (number, possible_duplicate) in [(6, true), (7, false)] {
            assert_eq!(line.step(number), Step::Reserve { to: number });
            line.reserved(number);
            assert_eq!(line.step(number), Step::Publish { possible_duplicate });
            line.hand(number);
        }
    }

    #[test]
    fn a_gap_is_told_with_what_was_expected() {
        let line = line(5, 5);
        assert_eq!(line.step(7), Step::Gap { expected: 6 });
        assert_eq!(line.step(5), Step::Known);
        assert_eq!(line.step(u64::MAX), Step::Gap { expected: 6 });
    }

    #[test]
    fn so_many_are_unknown_at_most() {
        let mut line = line(0, 0);
        for number in 1..=WINDOW + 1 {
            line.foresee(number);
        }
        assert_eq!(line.step(1), Step::Reserve { to: WINDOW });
        line.reserved(WINDOW);
        (1..=WINDOW).for_each(|number| line.hand(number));
        assert_eq!(line.step(WINDOW + 1), Step::Later);
        line.confirmed(1);
        assert_eq!(line.begin_commit(), Some((0, 1)));
        line.end_commit(Some(1));
        assert_eq!(line.step(WINDOW + 1), Step::Reserve { to: WINDOW + 1 });
    }

    #[test]
    fn after_a_failure_only_what_is_known_is_answered() {
        let mut line = line(3, 3);
        line.reserved(6);
        (4..=6).for_each(|number| line.hand(number));
        line.fail(5, Problem::Overloaded);
        assert_eq!(line.step(3), Step::Known);
        assert_eq!(line.step(4), Step::UnderWay);
        assert_eq!(line.step(5), Step::Failed(Problem::Overloaded));
        // The one before it still gets its receipt; the one after it does not.
        line.confirmed(6);
        line.confirmed(4);
        assert_eq!(line.failure_of(4), None);
        assert_eq!(line.begin_commit(), Some((3, 4)));
        line.end_commit(None);
        line.stop(Problem::Overloaded);
        assert_eq!(
            (line.begin_commit(), line.failure_of(4)),
            (None, Some(&Problem::Overloaded))
        );
        line.resume();
        assert_eq!(line.begin_commit(), Some((3, 4)));
    }

    /// A connection before this one was slower than its successor's patience.
    #[test]
    fn a_late_commit_of_another_counts() {
        let mut line = line(0, 5);
        line.reserved(1);
        line.hand(1);
        line.confirmed(1);
        assert_eq!(line.begin_commit(), Some((0, 1)));
        line.end_commit(Some(4));
        assert_eq!(line.step(4), Step::Known);
        assert_eq!(line.step(5), Step::Reserve { to: 5 });
    }
}
