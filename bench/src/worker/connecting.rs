//! Opening connections, so many at once.

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

/// An order to connect that is under way.
pub(super) struct Connecting {
    plan: Connect,
    opened: u32,
    done: u32,
    began: u64,
    last: u64,
    reported: u64,
    set_up: Latencies,
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
        })
    }

    /// A connection is ready.
    pub(super) fn ready(&mut self, took: u64) {
        self.done += 1;
        self.last = clock::now();
        self.set_up.record(took);
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
            fleet.open(Kind::Steady, first + self.opened, server, habits)?;
            self.opened += 1;
        }
        if self.done == count {
            report(&Report::Connected(Connected {
                seconds: self.last.saturating_sub(self.began) as f64 / SECOND as f64,
                set_up: self.set_up.counts(),
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
