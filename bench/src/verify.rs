//! The check that every message came: once, in order, to its receiver (pure).

use std::ops::{AddAssign, Range};

use serde::{Deserialize, Serialize};

/// The faults of a run's messages. All zero is as it should be.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Verification {
    /// Messages that came as they should.
    pub(crate) correct: u64,
    /// Published and never seen by a subscriber that was there.
    pub(crate) lost: u64,
    /// Seen more than once.
    pub(crate) duplicated: u64,
    /// Seen after a later one.
    pub(crate) reordered: u64,
    /// Seen by somebody whom they were not for; or not of this run; or no message of ours at all.
    pub(crate) misrouted: u64,
}

impl Verification {
    /// True if nothing was wrong.
    pub(crate) fn is_clean(&self) -> bool {
        self.lost + self.duplicated + self.reordered + self.misrouted == 0
    }
}

impl AddAssign for Verification {
    fn add_assign(&mut self, other: Self) {
        self.correct += other.correct;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.misrouted += other.misrouted;
    }
}

/// How a message arrived.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Arrival {
    /// In its turn, or after ones that are missing so far.
    InOrder,
    /// After a later one.
    Late,
    /// Once more.
    Again,
}

/// The messages of one publisher to one subscriber, by their sequence numbers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sequence {
    next: u64,
    /// The skipped numbers; mostly empty.
    missing: Vec<Range<u64>>,
}

impl Sequence {
    /// Sees a message.
    pub(crate) fn arrived(&mut self, number: u64) -> Arrival {
        if number == self.next {
            self.next += 1;
            return Arrival::InOrder;
        }
        if number > self.next {
            let skipped = self.next..number;
            self.next = number + 1;
            self.missing.push(skipped);
            return Arrival::InOrder;
        }
        if self.take_missing(number) {
            Arrival::Late
        } else {
            Arrival::Again
        }
    }

    /// How many are missing of `published`.
    pub(crate) fn lost(&self, published: u64) -> u64 {
        let skipped: u64 = self
            .missing
            .iter()
            .map(|range| range.end - range.start)
            .sum();
        skipped + published.saturating_sub(self.next)
    }

    fn take_missing(&mut self, number: u64) -> bool {
        let Some(at) = self
            .missing
            .iter()
            .position(|range| range.contains(&number))
        else {
            return false;
        };
        let range = self.missing.swap_remove(at);
        let parts = [range.start..number, number + 1..range.end];
        self.missing
            .extend(parts.into_iter().filter(|part| !part.is_empty()));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    /// The verdict of a subscriber that saw `numbers`, if `published` messages were sent.
    fn verify(numbers: &[u64], published: u64) -> (u64, u64, u64) {
        let mut sequence = Sequence::default();
        let (mut late, mut again) = (0, 0);
        for &number in numbers {
            match sequence.arrived(number) {
                Arrival::InOrder => {}
                Arrival::Late => late += 1,
                Arrival::Again => again += 1,
            }
        }
        (sequence.lost(published), late, again)
    }

    #[test]
    fn all_in_order_is_clean() {
        assert_eq!(verify(&[0, 1, 2, 3], 4), (0, 0, 0));
        assert_eq!(verify(&[], 0), (0, 0, 0));
    }

    #[test]
    fn a_loss_is_found_in_the_middle_and_at_the_end() {
        assert_eq!(verify(&[0, 1, 4], 6), (3, 0, 0));
        assert_eq!(verify(&[], 2), (2, 0, 0));
    }

    #[test]
    fn a_duplicate_is_found_at_once_and_later() {
        assert_eq!(verify(&[0, 0, 1], 2), (0, 0, 1));
        assert_eq!(verify(&[0, 1, 2, 0], 3), (0, 0, 1));
        assert_eq!(verify(&[0, 3, 1, 1], 4), (1, 1, 1));
    }

    #[test]
    fn a_change_of_order_is_no_loss() {
        assert_eq!(verify(&[1, 0], 2), (0, 1, 0));
        assert_eq!(verify(&[4, 2, 0, 1, 3], 5), (0, 4, 0));
    }

    proptest! {
        /// After any change of a stream, losses and duplicates are counted right.
        #[test]
        fn counts_are_those_of_a_model(seen in proptest::collection::vec(0_u64..20, 0..60)) {
            let (lost, late, again) = verify(&seen, 20);
            let different: std::collections::BTreeSet<_> = seen.iter().collect();
            prop_assert_eq!(lost, 20 - different.len() as u64);
            prop_assert_eq!(again, (seen.len() - different.len()) as u64);
            prop_assert!(late <= different.len() as u64);
        }
    }
}
