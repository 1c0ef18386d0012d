//! Connections that stay; those that are lost are opened anew at other servers, as clients do.

use std::{collections::VecDeque, net::SocketAddr};

use anyhow::{Result, ensure};

use super::{
    clock::{self, SECOND},
    connecting::PAUSE,
    duty::Duty,
    fleet::Fleet,
    report,
};
use crate::{
    latency::Latencies,
    orders::{Habits, Report, Stand, Stood},
};

/// The longest without any connection coming back.
const PATIENCE: u64 = 60 * SECOND;

/// An order to stand that is under way.
pub(super) struct Standing {
    plan: Stand,
    habits: Habits,
    /// The slots of those that were lost and are not opened yet, and when they may be.
    waiting: VecDeque<(u64, usize)>,
    /// Those that are opened and not ready yet.
    opening: Vec<usize>,
    /// The server of the next.
    turn: usize,
    enough: bool,
    lost: u32,
    failed: u32,
    why: Option<String>,
    last: u64,
    back: u32,
    reported: u64,
    set_up: Latencies,
}

impl Standing {
    /// `missing` are the slots of those that were lost before: they come back as well.
    pub(super) fn new(plan: Stand, habits: Habits, missing: Vec<usize>) -> Result<Self> {
        ensure!(
            !plan.servers.is_empty(),
            "there is no server to come back to"
        );
        Ok(Self {
            plan,
            habits,
            waiting: missing.into_iter().map(|slot| (0, slot)).collect(),
            opening: Vec::new(),
            turn: 0,
            enough: false,
            lost: 0,
            failed: 0,
            why: None,
            last: clock::now(),
            back: 0,
            reported: 0,
            set_up: Latencies::new()?,
        })
    }

    /// The next one to open, and where.
    fn next(&mut self, now: u64) -> Option<(usize, SocketAddr)> {
        if self.opening.len() >= self.plan.at_once as usize {
            return None;
        }
        let server = *self.plan.servers.get(self.turn % self.plan.servers.len())?;
        let (_, slot) = self.waiting.pop_front_if(|(due, _)| *due <= now)?;
        self.turn += 1;
        self.opening.push(slot);
        Some((slot, server))
    }

    fn is_level(&self) -> bool {
        self.waiting.is_empty() && self.opening.is_empty()
    }

    fn is_over(&self) -> bool {
        self.is_level()
            && match self.plan.until_lost {
                Some(count) => self.lost >= count,
                None => self.enough,
            }
    }
}

impl Duty for Standing {
    fn arrived(&mut self, _slot: usize, _body: &[u8]) {}

    fn ready(&mut self, slot: usize, took: u64) {
        self.opening.retain(|&other| other != slot);
        self.last = clock::now();
        self.back += 1;
        self.set_up.record(took);
    }

    fn ended(&mut self, slot: usize, why: &str) {
        let before = self.opening.len();
        self.opening.retain(|&other| other != slot);
        let due = if self.opening.len() < before {
            self.failed += 1;
            clock::now() + PAUSE
        } else {
            self.lost += 1;
            0
        };
        self.why.get_or_insert_with(|| why.to_owned());
        self.waiting.push_back((due, slot));
    }

    fn enough(&mut self) {
        self.enough = true;
    }

    fn turn(&mut self, now: u64, fleet: &mut Fleet) -> Result<bool> {
        while let Some((slot, server)) = self.next(now) {
            fleet.reopen(slot, server, self.habits)?;
        }
        if self.is_over() {
            report(&Report::Stood(Stood {
                lost: self.lost,
                why: self.why.take(),
                failed: self.failed,
                last: self.last,
                set_up: self.set_up.counts(),
            }))?;
            return Ok(true);
        }
        if self.plan.until_lost.is_some() && now.saturating_sub(self.reported) > SECOND {
            self.reported = now;
            report(&Report::Progress(self.back))?;
        }
        let waits = !self.is_level() || self.plan.until_lost.is_some();
        ensure!(
            !waits || now.saturating_sub(self.last) < PATIENCE,
            "{} connections were lost and {} are not back; since a minute none has come. The first \
             was lost because: {}",
            self.lost,
            self.waiting.len() + self.opening.len(),
            self.why.as_deref().unwrap_or("none was lost")
        );
        if !waits {
            // Time in which there is nothing to wait for does not count.
            self.last = now;
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(until_lost: Option<u32>) -> Standing {
        let servers = [1, 2].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let plan = Stand {
            servers: servers.to_vec(),
            at_once: 2,
            until_lost,
        };
        Standing::new(plan, Habits::default(), Vec::new()).unwrap()
    }

    #[test]
    fn what_is_lost_comes_back_at_the_servers_in_turn() {
        let mut standing = standing(Some(3));
        for slot in [5, 6, 7] {
            standing.ended(slot, "killed");
        }
        let next =
            |standing: &mut Standing| standing.next(u64::MAX).map(|(slot, to)| (slot, to.port()));
        assert_eq!(next(&mut standing), Some((5, 1)));
        assert_eq!(next(&mut standing), Some((6, 2)));
        assert_eq!(next(&mut standing), None);
        standing.ready(5, SECOND);
        assert_eq!(next(&mut standing), Some((7, 1)));
        standing.ended(6, "refused");
        standing.ready(7, SECOND);
        assert!(!standing.is_over());
        assert_eq!(next(&mut standing), Some((6, 2)));
        standing.ready(6, SECOND);
        assert!(standing.is_over());
        assert_eq!((standing.lost, standing.failed), (3, 1));
        assert_eq!(standing.why.as_deref(), Some("killed"));
    }

    #[test]
    fn without_a_number_it_ends_when_it_is_enough() {
        let mut standing = standing(None);
        assert!(!standing.is_over());
        standing.enough();
        assert!(standing.is_over());
        standing.ended(1, "lost");
        assert!(!standing.is_over());
    }
}
