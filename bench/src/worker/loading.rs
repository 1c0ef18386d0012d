//! A load that is under way: warm-up, measurement, and the wait for the last messages.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use mio::{Registry, Token, event::Event};

use super::{
    BROADCAST, FIRST_PUBLISHER, TICK,
    churn::Churning,
    clock::{self, MILLISECOND, SECOND},
    connection::Kind,
    fleet::Fleet,
    flow::{Flow, MAX_PUBLISHERS},
    ledger::Ledger,
    publisher::Publisher,
    report,
};
use crate::{
    orders::{Habits, Load, Loaded, Pace, Publish, Report},
    verify::Verification,
    wire::body::Stamp,
};

/// When nothing arrives for so long although something should, it is lost.
const QUIET: u64 = 10 * SECOND;

/// Troubles that are told; there may be one for each client.
const MAX_TROUBLES: usize = 5;

/// The finest tick: a tenth of a millisecond.
const FINEST: u64 = MILLISECOND / 10;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    WarmUp,
    Measure,
    Drain,
}

/// An order to load.
pub(super) struct Loading {
    phase: Phase,
    unicast: Option<Flow>,
    broadcast: Option<Flow>,
    churn: Option<Churning>,
    tick: u64,
    measure_from: u64,
    measure_to: u64,
    last_arrival: u64,
    slow: u32,
    slow_closed: u32,
    ended: u32,
    /// Messages that belong to no flow.
    strays: u64,
    troubles: Vec<String>,
}

impl Loading {
    /// Connects what publishes, and begins.
    ///
    /// # Errors
    /// There are no clients, or the broker refuses.
    pub(super) fn new(
        load: Load,
        publish: Publish,
        registry: &Registry,
        fleet: &mut Fleet,
        habits: Habits,
        server: SocketAddr,
    ) -> Result<Self> {
        ensure!(fleet.steady() > 0, "there are no clients to load");
        let begin = clock::now();
        let measure_from = begin + load.warm_up_ms * MILLISECOND;
        let measure_to = measure_from + load.measure_ms * MILLISECOND;
        let window = measure_from..measure_to;
        let clients = 0..fleet.steady();
        let readers: Vec<bool> = clients.map(|slot| fleet.reads(slot, habits)).collect();
        let first_user = fleet.user(0);
        let flow = |pace: Option<Pace>, to_all: bool| -> Result<_> {
            let Some(pace) = pace else {
                return Ok(None);
            };
            let tokens = if to_all {
                BROADCAST..=BROADCAST
            } else {
                FIRST_PUBLISHER..=FIRST_PUBLISHER + load.publishers.clamp(1, MAX_PUBLISHERS) - 1
            };
            let publishers = tokens
                .map(|token| Publisher::connect(publish, registry, Token(token)))
                .collect::<Result<_>>()?;
            let users = if to_all { 1 } else { readers.len() as u64 };
            let left = load.rounds.map(|rounds| rounds * users);
            let (readers, window) = (readers.clone(), window.clone());
            let ledger = Ledger::new(rand::random(), to_all, first_user, readers, window)?;
            Ok(Some(Flow::new(publishers, ledger, pace, load.size, left)))
        };
        let interval = habits.heart_beat_ms;
        let churn = load
            .churn
            .map(|churn| Churning::new(churn, server, interval, window.clone()));
        Ok(Self {
            phase: Phase::WarmUp,
            unicast: flow(load.unicast, false)?,
            broadcast: flow(load.broadcast, true)?,
            churn: churn.transpose()?,
            tick: tick(&load),
            measure_from,
            measure_to,
            last_arrival: begin,
            slow: fleet.stop_slow_readers(),
            slow_closed: 0,
            ended: 0,
            strays: 0,
            troubles: Vec::new(),
        })
    }

    /// How often it wants its turn, in nanoseconds.
    pub(super) const fn tick(&self) -> u64 {
        self.tick
    }

    /// A publisher's socket is ready.
    ///
    /// # Errors
    /// Its connection is lost.
    pub(super) fn publisher_event(&mut self, event: &Event) -> Result<()> {
        let (flow, first) = match event.token() {
            Token(BROADCAST) => (&mut self.broadcast, BROADCAST),
            _ => (&mut self.unicast, FIRST_PUBLISHER),
        };
        match flow {
            Some(flow) => flow.publisher_event(event.token().0 - first, event),
            None => Ok(()),
        }
    }

    /// Ends the measurement, if it is under way.
    pub(super) fn enough(&mut self, now: u64) {
        if self.phase != Phase::Drain {
            self.measure_from = self.measure_from.min(now);
            self.measure_to = now;
        }
    }

    /// A message arrived.
    pub(super) fn arrived(&mut self, slot: usize, kind: Kind, body: &[u8]) {
        let now = clock::now();
        let stamp = Stamp::read(body);
        let flow = stamp.and_then(|stamp| self.flows().find(|flow| flow.ledger.run() == stamp.run));
        // Nothing is published to clients that come and go.
        match (stamp, flow, kind) {
            (Some(stamp), Some(flow), Kind::Steady) => {
                flow.ledger.arrived(slot, stamp, now);
            }
            _ => self.strays += 1,
        }
        self.last_arrival = now;
    }

    /// A passing connection is ready.
    pub(super) fn ready(&mut self, slot: usize, took: u64) {
        if let Some(churn) = &mut self.churn {
            churn.ready(slot, took);
        }
    }

    /// A passing subscription has its receipt.
    pub(super) fn subscribed(&mut self, slot: usize) {
        if let Some(churn) = &mut self.churn {
            churn.subscribed(slot);
        }
    }

    /// A connection is gone; `reads` is true if it was one that reads.
    pub(super) fn ended(&mut self, slot: usize, kind: Kind, reads: bool, why: &str) {
        match kind {
            Kind::Steady if !reads => self.slow_closed += 1,
            Kind::Steady => {
                self.ended += 1;
                self.trouble(format!("a client was disconnected: {why}"));
            }
            Kind::Passing => {
                if let Some(churn) = &mut self.churn {
                    churn.ended(slot);
                }
                self.trouble(format!("a client that came was disconnected: {why}"));
            }
        }
    }

    /// Publishes the messages that are due, and goes through the phases. Returns true at the end.
    ///
    /// # Errors
    /// A publisher's connection is lost.
    pub(super) fn turn(&mut self, now: u64, fleet: &mut Fleet) -> Result<bool> {
        if self.phase == Phase::WarmUp && now >= self.measure_from {
            self.phase = Phase::Measure;
            report(&Report::Measuring)?;
        }
        let awaited: u64 = self.flows().map(|flow| flow.ledger.awaited()).sum();
        let is_quiet = now.saturating_sub(self.last_arrival) > QUIET;
        if self.phase != Phase::Drain && is_quiet && awaited > 0 {
            self.trouble(format!(
                "nothing arrived for {} seconds, while {awaited} deliveries were awaited",
                QUIET / SECOND
            ));
            if self.phase == Phase::WarmUp {
                report(&Report::Measuring)?;
            }
            self.measure_from = self.measure_from.min(now);
            self.measure_to = now;
        }
        if self.phase != Phase::Drain && now >= self.measure_to {
            self.phase = Phase::Drain;
            report(&Report::Measured)?;
        }
        if self.phase != Phase::Drain {
            for flow in self.flows() {
                flow.publish(now)?;
            }
            if let Some(churn) = &mut self.churn {
                churn.turn(now, fleet)?;
            }
            if self.flows().all(|flow| flow.is_done()) {
                self.measure_to = now.max(self.measure_from + 1);
            }
        } else if awaited == 0 || is_quiet {
            report(&Report::Loaded(Box::new(self.result())))?;
            return Ok(true);
        }
        Ok(false)
    }

    fn result(&mut self) -> Loaded {
        let mut verification = Verification {
            misrouted: self.strays,
            ..Verification::default()
        };
        let mut flowed = |flow: &Option<Flow>| {
            flow.as_ref().map(|flow| {
                let (flowed, verified) = flow.ledger.close();
                verification += verified;
                flowed
            })
        };
        let (unicast, broadcast) = (flowed(&self.unicast), flowed(&self.broadcast));
        if self.ended > 0 {
            let ended = self.ended;
            self.troubles
                .push(format!("{ended} clients were disconnected"));
        }
        let lost: Vec<String> = self.flows().filter_map(|flow| flow.lost()).collect();
        self.troubles.extend(lost);
        let left_out = self.churn.as_ref().map_or(0, |churn| churn.left_out);
        if left_out > 0 {
            self.troubles.push(format!(
                "{left_out} comers were left out, for too many were not done yet"
            ));
        }
        Loaded {
            seconds: (self.measure_to - self.measure_from) as f64 / SECOND as f64,
            unicast,
            broadcast,
            churn: self.churn.as_ref().map(Churning::result),
            verification,
            slow: self.slow,
            slow_closed: self.slow_closed,
            troubles: std::mem::take(&mut self.troubles),
        }
    }

    fn flows(&mut self) -> impl Iterator<Item = &mut Flow> {
        [&mut self.unicast, &mut self.broadcast]
            .into_iter()
            .flatten()
    }

    fn trouble(&mut self, what: String) {
        if self.troubles.len() < MAX_TROUBLES {
            self.troubles.push(what);
        }
    }
}

/// Fine enough for the rates that are wished.
fn tick(load: &Load) -> u64 {
    let open = [load.unicast, load.broadcast].into_iter().flatten();
    let rates = open
        .filter_map(|pace| match pace {
            Pace::Open(rate) => Some(rate),
            Pace::Closed(_) => None,
        })
        .chain(load.churn.map(|churn| churn.per_second));
    let finest = rates.map(|rate| (SECOND as f64 / rate) as u64).min();
    finest.map_or(TICK, |interval| interval.clamp(FINEST, TICK))
}
