//! Messages of one kind, to each user in turn or to everybody: when the next is due, what is on
//! its way, and what has arrived.

use std::collections::VecDeque;

use anyhow::Result;

use super::{
    clock::{self, SECOND},
    fleet::{COMMON_KEY, user_key},
    publisher::Publisher,
};
use crate::{
    latency::Latencies,
    orders::{Flowed, Pace},
    verify::{Arrival, Sequence, Verification},
    wire::body::{EVERYBODY, Stamp},
};

/// Whom the messages are for.
#[derive(Debug)]
enum Audience {
    /// Each user: its messages so far.
    Each(Vec<u64>),
    /// All of them: how often the messages that are on their way have arrived, from the oldest.
    All(VecDeque<u32>),
}

/// Messages from one publisher.
pub(super) struct Flow {
    pub(super) publisher: Publisher,
    pace: Pace,
    size: usize,
    run: u32,
    audience: Audience,
    first_user: u32,
    /// Which clients read; what they see is counted.
    readers: Vec<bool>,
    reading: u32,
    received: Vec<Sequence>,
    /// The user who is next, by its place.
    turn: usize,
    published: u64,
    /// Messages that have not arrived everywhere.
    on_their_way: u64,
    /// Deliveries that have not been.
    awaited: u64,
    /// When the next is due, at a fixed rate. Not whole: rounding would change the rate.
    due: f64,
    /// When what is measured was due, or happened.
    window: std::ops::Range<u64>,
    published_in_window: u64,
    delivered_in_window: u64,
    latencies: Latencies,
    verification: Verification,
}

impl Flow {
    /// Messages to users from the number `first_user` on, of whom those read that `readers` says.
    ///
    /// # Errors
    /// Never: the histogram's bounds are right.
    pub(super) fn new(
        publisher: Publisher,
        pace: Pace,
        size: usize,
        to_all: bool,
        first_user: u32,
        readers: Vec<bool>,
    ) -> Result<Self> {
        let users = readers.len();
        let reading = readers.iter().filter(|&&reads| reads).count() as u32;
        Ok(Self {
            publisher,
            pace,
            size,
            run: rand::random(),
            audience: if to_all {
                Audience::All(VecDeque::new())
            } else {
                Audience::Each(vec![0; users])
            },
            first_user,
            readers,
            reading,
            received: vec![Sequence::default(); users],
            turn: 0,
            published: 0,
            on_their_way: 0,
            awaited: 0,
            due: clock::now() as f64,
            window: 0..0,
            published_in_window: 0,
            delivered_in_window: 0,
            latencies: Latencies::new()?,
            verification: Verification::default(),
        })
    }

    /// What is measured.
    pub(super) fn set_window(&mut self, window: std::ops::Range<u64>) {
        self.window = window;
    }

    /// The run that its messages are stamped with.
    pub(super) const fn run(&self) -> u32 {
        self.run
    }

    /// Deliveries that have not been.
    pub(super) const fn awaited(&self) -> u64 {
        self.awaited
    }

    /// Publishes what is due.
    ///
    /// # Errors
    /// The publisher's connection is lost.
    pub(super) fn publish(&mut self, now: u64) -> Result<()> {
        match self.pace {
            Pace::Closed(most) => {
                while self.on_their_way < u64::from(most) {
                    self.publish_one(now, now);
                }
            }
            Pace::Open(per_second) => {
                let interval = SECOND as f64 / per_second;
                while self.due <= now as f64 {
                    // The time at which it should have been sent: a client that is late, because
                    // the servers took its time, must not make them look faster.
                    self.publish_one(self.due as u64, now);
                    self.due += interval;
                }
            }
        }
        self.publisher.flush()
    }

    fn publish_one(&mut self, due: u64, now: u64) {
        let place = self.turn;
        let (target, key, sequence, deliveries) = match &mut self.audience {
            Audience::Each(sequences) => {
                self.turn = (place + 1) % sequences.len();
                let target = self.first_user + place as u32;
                let reads = u64::from(self.readers[place]);
                let sequence = sequences[place];
                sequences[place] += 1;
                (target, &*user_key(target), sequence, reads)
            }
            Audience::All(copies) => {
                copies.push_back(0);
                (
                    EVERYBODY,
                    COMMON_KEY,
                    self.published,
                    u64::from(self.reading),
                )
            }
        };
        let stamp = Stamp {
            run: self.run,
            target,
            sequence,
            due,
        };
        self.publisher.publish(key, stamp, self.size);
        self.published += 1;
        self.on_their_way += 1;
        self.awaited += deliveries;
        self.published_in_window += u64::from(self.window.contains(&now));
    }

    /// A message of this run arrived at the client in place `place`. Answers whether it was the
    /// first time.
    pub(super) fn arrived(&mut self, place: usize, stamp: Stamp, now: u64) -> bool {
        let meant = match self.audience {
            Audience::Each(_) => stamp.target == self.first_user + place as u32,
            Audience::All(_) => stamp.target == EVERYBODY,
        };
        let Some(sequence) = self.received.get_mut(place).filter(|_| meant) else {
            self.verification.misrouted += 1;
            return false;
        };
        if !self.readers[place] {
            return false;
        }
        match sequence.arrived(stamp.sequence) {
            Arrival::InOrder => self.verification.correct += 1,
            Arrival::Late => self.verification.reordered += 1,
            Arrival::Again => {
                self.verification.duplicated += 1;
                return false;
            }
        }
        self.awaited = self.awaited.saturating_sub(1);
        self.arrived_somewhere(stamp.sequence);
        self.delivered_in_window += u64::from(self.window.contains(&now));
        if self.window.contains(&stamp.due) {
            self.latencies.record(now.saturating_sub(stamp.due));
        }
        true
    }

    fn arrived_somewhere(&mut self, sequence: u64) {
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

    /// What became of it, with the losses. To be called at the end.
    pub(super) fn result(&self) -> (Flowed, Verification) {
        let mut verification = self.verification;
        for (place, sequence) in self.received.iter().enumerate() {
            let published = match &self.audience {
                Audience::Each(sequences) => sequences[place],
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
