//! Opening connections, so many at once.

use std::collections::{BTreeSet, VecDeque};

use anyhow::{Result, ensure};

use super::{
    clock::{self, SECOND},
    connection::Kind,
    fleet::Fleet,
    report,
};
use crate::{
    latency::Latencies,
    orders::{Connect, Connected, Report},
};

/// The longest without any connection being done.
const PATIENCE: u64 = 60 * SECOND;

/// The pause before another attempt.
pub(super) const PAUSE: u64 = SECOND;

/// Of so many clients one attempt may fail, and a hundred more: then something is wrong.
const FEW: u32 = 10;

/// An order to connect that is under way.
pub(super) struct Connecting {
    plan: Connect,
    opened: u32,
    done: u32,
    began: u64,
    last: u64,
    reported: u64,
    set_up: Latencies,
    /// The slots of those that are opened and not ready.
    opening: BTreeSet<usize>,
    /// Those that try again, and when.
    waiting: VecDeque<(u64, usize)>,
    failed: u32,
    why: Option<String>,
}

impl Connecting {
    pub(super) fn new(plan: Connect) -> Result<Self> {
        let now = clock::now();
        Ok(Self {
            plan,
            opened: 0,
            done: 0,
            began: now,
            last: now,
            reported: now,
            set_up: Latencies::new()?,
            opening: BTreeSet::new(),
            waiting: VecDeque::new(),
            failed: 0,
            why: None,
        })
    }

    /// A connection is ready.
    pub(super) fn ready(&mut self, slot: usize, took: u64) {
        self.opening.remove(&slot);
        self.done += 1;
        self.last = clock::now();
        self.set_up.record(took);
    }

    /// True if those that are refused or lost try again.
    pub(super) const fn tries_again(&self) -> bool {
        self.plan.again
    }

    /// A connection was refused or lost.
    ///
    /// # Errors
    /// Too many were.
    pub(super) fn ended(&mut self, slot: usize, why: String) -> Result<()> {
        if !self.opening.remove(&slot) {
            self.done = self.done.saturating_sub(1);
        }
        self.failed += 1;
        self.waiting.push_back((clock::now() + PAUSE, slot));
        ensure!(
            self.failed <= self.plan.count / FEW + 100,
            "{} attempts to connect failed, the last because: {why}",
            self.failed
        );
        self.why.get_or_insert(why);
        Ok(())
    }

    /// Opens more. Returns true if all are done.
    ///
    /// # Errors
    /// There are no more sockets, or the server does not answer.
    pub(super) fn turn(&mut self, now: u64, fleet: &mut Fleet) -> Result<bool> {
        let Connect {
            server,
            first,
            count,
            at_once,
            habits,
            ..
        } = self.plan;
        while self.opened < count && self.opened - self.done < at_once {
            let slot = fleet.open(Kind::Steady, first + self.opened, server, habits)?;
            self.opening.insert(slot);
            self.opened += 1;
        }
        while let Some((_, slot)) = self.waiting.pop_front_if(|(due, _)| *due <= now) {
            fleet.reopen(slot, server, habits)?;
            self.opening.insert(slot);
        }
        if self.done == count {
            report(&Report::Connected(Connected {
                seconds: self.last.saturating_sub(self.began) as f64 / SECOND as f64,
                set_up: self.set_up.counts(),
                failed: self.failed,
                why: self.why.take(),
            }))?;
            return Ok(true);
        }
        ensure!(
            now.saturating_sub(self.last) < PATIENCE,
            "of {count} clients {} are connected and subscribed; since a minute none has been",
            self.done
        );
        if now - self.reported > SECOND {
            self.reported = now;
            report(&Report::Progress(self.done))?;
        }
        Ok(false)
    }
}
