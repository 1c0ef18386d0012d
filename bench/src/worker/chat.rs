//! A room: every member sends to all, over its own connection, and everybody checks what everybody
//! says.

use anyhow::{Result, ensure};

use super::{
    clock::{self, SECOND},
    duty::Duty,
    fleet::Fleet,
    report,
};
use crate::{
    latency::Latencies,
    orders::{Chat, Chatted, Report},
    verify::{Arrival, Sequence, Verification},
    wire::{
        body::Stamp,
        dialect::{COMMON_KEY, destination},
    },
};

/// After so long without a message those that are missing are lost.
const QUIET: u64 = 10 * SECOND;

/// Before they chat, all greet, so many at once: each one's first message asks the hook.
const GREETERS: u64 = 20;

/// An order to chat that is under way.
pub(super) struct Chatting {
    plan: Chat,
    books: Books,
    destination: String,
    /// Members that have greeted.
    greeted: usize,
    /// Rounds that are sent, the greeting included.
    sent: u64,
    began: u64,
    troubles: Vec<String>,
}

impl Chatting {
    /// # Errors
    /// There is nobody.
    pub(super) fn new(plan: Chat, fleet: &Fleet) -> Result<Self> {
        let members = fleet.steady();
        ensure!(members > 0, "there is nobody to chat");
        Ok(Self {
            plan,
            books: Books::new(rand::random(), members, fleet.user(0))?,
            destination: destination(COMMON_KEY),
            greeted: 0,
            sent: 0,
            began: clock::now(),
            troubles: Vec::new(),
        })
    }

    fn say(&self, slot: usize, fleet: &mut Fleet) {
        let stamp = Stamp {
            run: self.books.run,
            // The sender: all are for everybody.
            target: fleet.user(slot),
            sequence: self.sent,
            due: clock::now(),
        };
        let mut body = Vec::new();
        stamp.write(self.plan.size, &mut body);
        fleet.publish(slot, &self.destination, &body);
    }

    /// Has some greet. Once all have heard all, time begins.
    fn greet(&mut self, now: u64, fleet: &mut Fleet) -> Result<()> {
        let heard = self.books.copies / self.books.members as u64;
        while self.greeted < self.books.members && (self.greeted as u64) < heard + GREETERS {
            self.say(self.greeted, fleet);
            self.greeted += 1;
        }
        if self.books.rounds() > 0 {
            self.sent = 1;
            self.began = now;
            self.books.latency = Latencies::new()?;
            report(&Report::Measuring)?;
        }
        Ok(())
    }

    /// Everybody says something.
    fn round(&mut self, fleet: &mut Fleet) {
        for slot in 0..self.books.members {
            self.say(slot, fleet);
        }
        self.sent += 1;
    }

    fn result(&mut self) -> Chatted {
        Chatted {
            seconds: self.books.last.saturating_sub(self.began) as f64 / SECOND as f64,
            deliveries: self.books.copies.saturating_sub(self.books.everything()),
            verification: self.books.close(self.sent.max(1)),
            latency: self.books.latency.counts(),
            troubles: std::mem::take(&mut self.troubles),
        }
    }
}

impl Duty for Chatting {
    fn arrived(&mut self, slot: usize, body: &[u8]) {
        self.books.arrived(slot, Stamp::read(body), clock::now());
    }

    fn ended(&mut self, _slot: usize, why: &str) {
        if self.troubles.len() < 5 {
            self.troubles
                .push(format!("a member was disconnected: {why}"));
        }
    }

    fn turn(&mut self, now: u64, fleet: &mut Fleet) -> Result<bool> {
        let rounds = self.plan.rounds + 1;
        if self.sent == 0 {
            self.greet(now, fleet)?;
        }
        while (1..rounds).contains(&self.sent) && self.books.rounds() + self.plan.ahead > self.sent
        {
            self.round(fleet);
        }
        let is_quiet = now.saturating_sub(self.books.last.max(self.began)) > QUIET;
        if self.books.rounds() < rounds && !is_quiet {
            return Ok(false);
        }
        if self.sent == 0 {
            report(&Report::Measuring)?;
        }
        report(&Report::Chatted(Box::new(self.result())))?;
        Ok(true)
    }
}

/// The messages that each member has heard from each other (pure).
struct Books {
    run: u32,
    members: usize,
    first_user: u32,
    /// By the hearer, and then by the speaker.
    heard: Vec<Sequence>,
    copies: u64,
    last: u64,
    latency: Latencies,
    verification: Verification,
}

impl Books {
    fn new(run: u32, members: usize, first_user: u32) -> Result<Self> {
        Ok(Self {
            run,
            members,
            first_user,
            heard: vec![Sequence::default(); members * members],
            copies: 0,
            last: 0,
            latency: Latencies::new()?,
            verification: Verification::default(),
        })
    }

    fn arrived(&mut self, slot: usize, stamp: Option<Stamp>, now: u64) {
        let place = stamp
            .filter(|stamp| stamp.run == self.run)
            .and_then(|stamp| {
                let speaker = stamp.target.checked_sub(self.first_user)? as usize;
                (speaker < self.members).then_some((stamp, slot * self.members + speaker))
            });
        let Some((stamp, sequence)) =
            place.and_then(|(stamp, place)| Some((stamp, self.heard.get_mut(place)?)))
        else {
            self.verification.misrouted += 1;
            return;
        };
        match sequence.arrived(stamp.sequence) {
            Arrival::InOrder => self.verification.correct += 1,
            Arrival::Late => self.verification.reordered += 1,
            Arrival::Again => {
                self.verification.duplicated += 1;
                return;
            }
        }
        self.copies += 1;
        self.last = now;
        self.latency.record(now.saturating_sub(stamp.due));
    }

    /// Rounds of which all copies have come, by their number.
    fn rounds(&self) -> u64 {
        self.copies / self.everything()
    }

    /// The copies of a round.
    const fn everything(&self) -> u64 {
        (self.members * self.members) as u64
    }

    fn close(&self, sent: u64) -> Verification {
        let lost = self.heard.iter().map(|sequence| sequence.lost(sent));
        Verification {
            lost: lost.sum(),
            ..self.verification
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two members, of users 100 and 101.
    fn books() -> Books {
        Books::new(7, 2, 100).unwrap()
    }

    fn stamp(target: u32, sequence: u64) -> Option<Stamp> {
        Some(Stamp {
            run: 7,
            target,
            sequence,
            due: 0,
        })
    }

    #[test]
    fn a_round_is_over_when_everybody_has_heard_everybody() {
        let mut books = books();
        for (slot, speaker) in [(0, 100), (0, 101), (1, 101)] {
            books.arrived(slot, stamp(speaker, 0), SECOND);
        }
        assert_eq!(books.rounds(), 0);
        assert_eq!(books.close(1).lost, 1);
        books.arrived(1, stamp(100, 0), SECOND);
        assert_eq!((books.rounds(), books.close(1).lost), (1, 0));
        assert_eq!(books.close(1).correct, 4);
    }

    #[test]
    fn each_fault_is_found() {
        let mut books = books();
        for (slot, stamp) in [
            (0, stamp(100, 1)),
            // Late, and again.
            (0, stamp(100, 0)),
            (0, stamp(100, 0)),
            // From nobody here, and none of ours.
            (1, stamp(102, 0)),
            (1, stamp(99, 0)),
            (1, None),
        ] {
            books.arrived(slot, stamp, SECOND);
        }
        let its = books.close(2);
        assert_eq!((its.correct, its.reordered, its.duplicated), (1, 1, 1));
        assert_eq!((its.misrouted, its.lost), (3, 6));
    }
}
