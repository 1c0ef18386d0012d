//! The books on messages of one publisher: those published to each user, under way, and arrived
//! (pure).

use std::{collections::VecDeque, ops::Range};

use anyhow::Result;

use crate::{
    latency::Latencies,
    orders::Flowed,
    verify::{Arrival, Sequence, Verification},
    wire::body::{EVERYBODY, Stamp},
};

/// The receivers of messages.
#[derive(Debug)]
enum Audience {
    /// Each user in turn: the place whose turn it is, and the number of messages to each.
    Each { turn: usize, sent: Vec<u64> },
    /// All of them: how often the messages that are on their way have arrived, from the oldest.
    All(VecDeque<u32>),
}

/// The books. Clients are known by their places, users by their numbers: the first place is that
/// of `first_user`.
pub(super) struct Ledger {
    run: u32,
    audience: Audience,
    first_user: u32,
    /// Which clients read; only what they see is counted.
    readers: Vec<bool>,
    reading: u32,
    received: Vec<Sequence>,
    published: u64,
    on_their_way: u64,
    awaited: u64,
    /// When what is measured was due, or happened.
    window: Range<u64>,
    published_in_window: u64,
    delivered_in_window: u64,
    latencies: Latencies,
    verification: Verification,
}

impl Ledger {
    /// # Errors
    /// Never: the histogram's bounds are right.
    pub(super) fn new(
        run: u32,
        to_all: bool,
        first_user: u32,
        readers: Vec<bool>,
        window: Range<u64>,
    ) -> Result<Self> {
        let users = readers.len();
        let audience = if to_all {
            Audience::All(VecDeque::new())
        } else {
            let sent = vec![0; users];
            Audience::Each { turn: 0, sent }
        };
        Ok(Self {
            run,
            audience,
            first_user,
            reading: readers.iter().filter(|&&reads| reads).count() as u32,
            readers,
            received: vec![Sequence::default(); users],
            published: 0,
            on_their_way: 0,
            awaited: 0,
            window,
            published_in_window: 0,
            delivered_in_window: 0,
            latencies: Latencies::new()?,
            verification: Verification::default(),
        })
    }

    /// The number that stamps its messages.
    pub(super) const fn run(&self) -> u32 {
        self.run
    }

    /// Messages that have not arrived everywhere.
    pub(super) const fn on_their_way(&self) -> u64 {
        self.on_their_way
    }

    /// Deliveries that have not been.
    pub(super) const fn awaited(&self) -> u64 {
        self.awaited
    }

    /// Enters the next message, which is published `now` and was due at `due`.
    pub(super) fn publish(&mut self, due: u64, now: u64) -> Stamp {
        let (target, sequence, deliveries) = match &mut self.audience {
            Audience::Each { turn, sent } => {
                let place = *turn;
                *turn = (place + 1) % sent.len();
                let sequence = sent[place];
                sent[place] += 1;
                let target = self.first_user + place as u32;
                (target, sequence, u64::from(self.readers[place]))
            }
            Audience::All(copies) => {
                copies.push_back(0);
                (EVERYBODY, self.published, u64::from(self.reading))
            }
        };
        self.published += 1;
        self.on_their_way += 1;
        self.awaited += deliveries;
        self.published_in_window += u64::from(self.window.contains(&now));
        Stamp {
            run: self.run,
            target,
            sequence,
            due,
        }
    }

    /// Enters that a message of this run arrived at a client.
    pub(super) fn arrived(&mut self, place: usize, stamp: Stamp, now: u64) {
        let meant = match self.audience {
            Audience::Each { .. } => stamp.target == self.first_user + place as u32,
            Audience::All(_) => stamp.target == EVERYBODY,
        };
        let Some(sequence) = self.received.get_mut(place).filter(|_| meant) else {
            self.verification.misrouted += 1;
            return;
        };
        if !self.readers[place] {
            return;
        }
        match sequence.arrived(stamp.sequence) {
            Arrival::InOrder => self.verification.correct += 1,
            Arrival::Late => self.verification.reordered += 1,
            Arrival::Again => {
                self.verification.duplicated += 1;
                return;
            }
        }
        self.awaited = self.awaited.saturating_sub(1);
        self.count_copy(stamp.sequence);
        self.delivered_in_window += u64::from(self.window.contains(&now));
        if self.window.contains(&stamp.due) {
            self.latencies.record(now.saturating_sub(stamp.due));
        }
    }

    fn count_copy(&mut self, sequence: u64) {
        let Audience::All(copies) = &mut self.audience else {
            self.on_their_way = self.on_their_way.saturating_sub(1);
            return;
        };
        let oldest = self.published - copies.len() as u64;
        let place = sequence.checked_sub(oldest).map(|place| place as usize);
        if let Some(count) = place.and_then(|place| copies.get_mut(place)) {
            *count += 1;
        }
        while copies.front().is_some_and(|&count| count >= self.reading) {
            copies.pop_front();
            self.on_their_way -= 1;
        }
    }

    /// Closes the books: messages that have not arrived are lost.
    pub(super) fn close(&self) -> (Flowed, Verification) {
        let mut verification = self.verification;
        for (place, sequence) in self.received.iter().enumerate() {
            let published = match &self.audience {
                Audience::Each { sent, .. } => sent[place],
                Audience::All(_) => self.published,
            };
            if self.readers[place] {
                verification.lost += sequence.lost(published);
            }
        }
        let flowed = Flowed {
            published: self.published_in_window,
            delivered: self.delivered_in_window,
            latency: self.latencies.counts(),
        };
        (flowed, verification)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three clients, of users 100 to 102; all is measured.
    fn ledger(to_all: bool) -> Ledger {
        Ledger::new(7, to_all, 100, vec![true; 3], 0..1000).unwrap()
    }

    fn verified(ledger: &Ledger) -> [u64; 5] {
        let its = ledger.close().1;
        [
            its.correct,
            its.lost,
            its.duplicated,
            its.reordered,
            its.misrouted,
        ]
    }

    /// Six messages, two to each user, with the place that each is for.
    fn two_each(ledger: &mut Ledger) -> Vec<(usize, Stamp)> {
        (0..6)
            .map(|number| (number % 3, ledger.publish(0, 0)))
            .collect()
    }

    #[test]
    fn all_that_arrive_in_order_are_right() {
        let mut ledger = ledger(false);
        for (place, stamp) in two_each(&mut ledger) {
            assert_eq!(stamp.target, 100 + place as u32);
            ledger.arrived(place, stamp, 1);
        }
        assert_eq!(verified(&ledger), [6, 0, 0, 0, 0]);
        assert_eq!((ledger.awaited(), ledger.on_their_way()), (0, 0));
    }

    #[test]
    fn a_loss_is_found() {
        let mut ledger = ledger(false);
        for (place, stamp) in two_each(&mut ledger).into_iter().skip(1) {
            ledger.arrived(place, stamp, 1);
        }
        assert_eq!(verified(&ledger), [5, 1, 0, 0, 0]);
        assert_eq!(ledger.awaited(), 1);
    }

    #[test]
    fn a_duplicate_is_found_and_makes_up_for_no_loss() {
        let mut ledger = ledger(false);
        let sent = two_each(&mut ledger);
        for &(place, stamp) in [&sent[..5], &sent[..1]].concat().iter() {
            ledger.arrived(place, stamp, 1);
        }
        assert_eq!(verified(&ledger), [5, 1, 1, 0, 0]);
        assert_eq!(ledger.awaited(), 1);
    }

    #[test]
    fn a_wrong_order_is_found() {
        let mut ledger = ledger(false);
        for (place, stamp) in two_each(&mut ledger).into_iter().rev() {
            ledger.arrived(place, stamp, 1);
        }
        assert_eq!(verified(&ledger), [3, 0, 0, 3, 0]);
        assert_eq!(ledger.awaited(), 0);
    }

    #[test]
    fn what_comes_to_somebody_else_is_found_and_lost() {
        let mut ledger = ledger(false);
        for (place, stamp) in two_each(&mut ledger) {
            ledger.arrived(if place == 0 { 1 } else { place }, stamp, 1);
        }
        assert_eq!(verified(&ledger), [4, 2, 0, 0, 2]);
    }

    #[test]
    fn a_broadcast_is_on_its_way_until_everybody_has_it() {
        let mut ledger = ledger(true);
        let (first, second) = (ledger.publish(0, 0), ledger.publish(0, 0));
        for place in [0, 1] {
            ledger.arrived(place, first, 1);
            ledger.arrived(place, second, 1);
        }
        assert_eq!((ledger.on_their_way(), ledger.awaited()), (2, 2));
        ledger.arrived(2, first, 1);
        assert_eq!((ledger.on_their_way(), ledger.awaited()), (1, 1));
        assert_eq!(verified(&ledger), [5, 1, 0, 0, 0]);
        ledger.arrived(2, first, 1);
        assert_eq!(verified(&ledger), [5, 1, 1, 0, 0]);
    }

    #[test]
    fn those_who_do_not_read_are_not_waited_for() {
        let mut ledger = Ledger::new(7, true, 100, vec![true, false], 0..1000).unwrap();
        let stamp = ledger.publish(0, 0);
        ledger.arrived(0, stamp, 1);
        assert_eq!((ledger.on_their_way(), ledger.awaited()), (0, 0));
        assert_eq!(verified(&ledger), [1, 0, 0, 0, 0]);
    }

    #[test]
    fn latency_counts_from_when_a_message_was_due() {
        let mut ledger = Ledger::new(7, false, 100, vec![true], 1_000_000..9_000_000).unwrap();
        // Before what is measured; within; within, but arriving after it.
        for (due, arrives) in [
            (0, 2_000_000),
            (2_000_000, 5_000_000),
            (8_000_000, 15_000_000),
        ] {
            let stamp = ledger.publish(due, due);
            ledger.arrived(0, stamp, arrives);
        }
        let flowed = ledger.close().0;
        assert_eq!((flowed.published, flowed.delivered), (2, 2));
        let mut latencies = Latencies::new().unwrap();
        latencies.add(&flowed.latency);
        assert_eq!(latencies.count(), 2);
        assert!(latencies.longest() >= 6_990.0, "{}", latencies.longest());
    }
}
