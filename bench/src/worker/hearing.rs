//! Waiting for one message to everybody, which somebody else publishes: several workers wait for
//! the same.

use anyhow::Result;

use super::{
    clock::{self, SECOND},
    duty::Duty,
    fleet::Fleet,
    report,
};
use crate::{
    latency::Latencies,
    orders::{Heard, Report},
    verify::Verification,
    wire::body::{EVERYBODY, Stamp},
};

/// After so long without a copy those that are missing are lost.
const QUIET: u64 = 30 * SECOND;

/// Doubles are waited for so long.
const DOUBLES: u64 = SECOND;

/// An order to hear that is under way.
pub(super) struct Hearing {
    run: u32,
    /// By slots: the copy is there.
    has: Vec<bool>,
    awaited: usize,
    last: u64,
    latency: Latencies,
    verification: Verification,
}

impl Hearing {
    pub(super) fn new(run: u32, fleet: &Fleet) -> Result<Self> {
        let clients = fleet.steady();
        Ok(Self {
            run,
            has: vec![false; clients],
            awaited: clients,
            last: clock::now(),
            latency: Latencies::new()?,
            verification: Verification::default(),
        })
    }

    fn heard(&mut self, slot: usize, stamp: Option<Stamp>, now: u64) {
        let ours = |stamp: &Stamp| stamp.run == self.run && stamp.target == EVERYBODY;
        let (Some(stamp), Some(has)) = (stamp.filter(ours), self.has.get_mut(slot)) else {
            self.verification.misrouted += 1;
            return;
        };
        if std::mem::replace(has, true) {
            self.verification.duplicated += 1;
            return;
        }
        self.verification.correct += 1;
        self.awaited -= 1;
        self.last = now;
        self.latency.record(now.saturating_sub(stamp.due));
    }

    fn is_over(&self, now: u64) -> bool {
        let patience = if self.awaited == 0 { DOUBLES } else { QUIET };
        now.saturating_sub(self.last) > patience
    }

    fn result(&self) -> Heard {
        Heard {
            verification: Verification {
                lost: self.awaited as u64,
                ..self.verification
            },
            last: self.last,
            latency: self.latency.counts(),
        }
    }
}

impl Duty for Hearing {
    fn arrived(&mut self, slot: usize, body: &[u8]) {
        self.heard(slot, Stamp::read(body), clock::now());
    }

    /// Its copy is missing then, unless it was there.
    fn ended(&mut self, _slot: usize, _why: &str) {}

    fn turn(&mut self, now: u64, _fleet: &mut Fleet) -> Result<bool> {
        if !self.is_over(now) {
            return Ok(false);
        }
        report(&Report::Heard(self.result()))?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hearing(clients: usize) -> Hearing {
        Hearing {
            run: 7,
            has: vec![false; clients],
            awaited: clients,
            last: 0,
            latency: Latencies::new().unwrap(),
            verification: Verification::default(),
        }
    }

    const STAMP: Stamp = Stamp {
        run: 7,
        target: EVERYBODY,
        sequence: 0,
        due: 0,
    };

    #[test]
    fn copies_are_counted_once_for_each_client() {
        let mut hearing = hearing(3);
        for slot in [0, 1, 1] {
            hearing.heard(slot, Some(STAMP), SECOND);
        }
        hearing.heard(2, Some(Stamp { run: 8, ..STAMP }), SECOND);
        hearing.heard(2, Some(Stamp { target: 2, ..STAMP }), SECOND);
        hearing.heard(2, None, SECOND);
        let Heard {
            verification, last, ..
        } = hearing.result();
        let expected = Verification {
            correct: 2,
            lost: 1,
            duplicated: 1,
            misrouted: 3,
            ..Verification::default()
        };
        assert_eq!((verification, last), (expected, SECOND));
    }

    #[test]
    fn what_is_missing_is_waited_for_longer_than_doubles() {
        let mut hearing = hearing(2);
        hearing.heard(0, Some(STAMP), SECOND);
        assert!(!hearing.is_over(SECOND + QUIET));
        assert!(hearing.is_over(SECOND + QUIET + 1));
        hearing.heard(1, Some(STAMP), SECOND);
        assert!(!hearing.is_over(SECOND + DOUBLES));
        assert!(hearing.is_over(SECOND + DOUBLES + 1));
    }
}
