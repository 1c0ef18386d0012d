//! Whether the client is still there: when the server owes it a heart-beat, when it gets a ping,
//! and when it is given up.
//!
//! There are two goals, and each costs nothing where other traffic reaches it already:
//!
//! - **Something goes over the connection in each direction,** so that proxies keep it open: a
//!   heart-beat, or else a ping after [`Config::ping_interval`].
//! - **A vanished client is found.** The server pings a client that is late with its heart-beats,
//!   or that owes none. Any byte from it, the answer included, is a sign of life.
//!
//! A client is given up after [`MOST_PINGS`] pings without an answer, but only if it has answered
//! one before: some do not know pings, and live. And it is given up when it breaks its promise of
//! heart-beats, but not before [`Config::heartbeat_patience`]: mobile networks have tunnels.

use std::time::{Duration, Instant};

use crate::{Config, Problem, heartbeat::Rates};

/// Which part of its interval a heart-beat or a ping may come early, so that one wake-up serves
/// many sessions.
const EARLY: u32 = 8;

/// Pings without an answer, after which a client that answers pings is given up.
const MOST_PINGS: u8 = 2;

/// The clocks of a session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Liveness {
    rates: Rates,
    heard: Instant,
    wrote: Instant,
    /// Sent since the client was heard; not counted beyond [`MOST_PINGS`].
    unanswered: u8,
    /// The last of them, in milliseconds after the client was heard: an [`Instant`] has 16 bytes.
    asked_after: u32,
    pings: Pings,
}

/// The client's knowledge of pings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pings {
    /// The transport has none.
    Unsupported,
    /// It has answered none yet.
    Untried,
    /// It has answered one.
    Answered,
}

/// The next step.
#[derive(Debug)]
pub(crate) enum Due {
    /// To write a heart-beat.
    Beat,
    /// To send a ping.
    Ping,
    /// To give the client up.
    End(Problem),
}

impl Liveness {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            rates: Rates::default(),
            heard: now,
            wrote: now,
            unanswered: 0,
            asked_after: 0,
            pings: Pings::Unsupported,
        }
    }

    /// The transport has pings.
    pub(crate) fn allow_pings(&mut self) {
        self.pings = Pings::Untried;
    }

    /// Sets the agreed rates.
    pub(crate) fn agree(&mut self, rates: Rates) {
        self.rates = rates;
    }

    pub(crate) fn rates(&self) -> Rates {
        self.rates
    }

    /// The client sent something: any byte counts.
    pub(crate) fn heard(&mut self, now: Instant) {
        self.heard = self.heard.max(now);
        self.unanswered = 0;
        self.asked_after = 0;
    }

    /// The client answered a ping.
    pub(crate) fn answered(&mut self, now: Instant) {
        self.pings = Pings::Answered;
        self.heard(now);
    }

    /// The server wrote something: a heart-beat is not needed for an interval.
    pub(crate) fn wrote(&mut self, now: Instant) {
        self.wrote = self.wrote.max(now);
    }

    /// The server sent a ping. That is no heart-beat, for a client's program does not see it.
    pub(crate) fn pinged(&mut self, now: Instant) {
        self.unanswered = self.unanswered.saturating_add(1).min(MOST_PINGS);
        let after = now.saturating_duration_since(self.heard).as_millis();
        self.asked_after = u32::try_from(after).unwrap_or(u32::MAX);
        if self.rates.send == 0 {
            self.wrote(now);
        }
    }

    /// The next step, if there is one; ask again after it. Heart-beats and pings may come an eighth
    /// of their interval early, if there is an occasion.
    ///
    /// `is_read`: whether the transport is read. Otherwise the client cannot be heard.
    pub(crate) fn due(&self, now: Instant, config: &Config, is_read: bool) -> Option<Due> {
        let has_come = |due: Option<Instant>| due.is_some_and(|due| due <= now);
        if is_read && has_come(self.late(config)) {
            Some(Due::End(Problem::HeartbeatMissed))
        } else if is_read && has_come(self.unanswered_for_long(config)) {
            Some(Due::End(Problem::PingsUnanswered))
        } else if has_come(self.beat(config).and_then(Timer::early)) {
            Some(Due::Beat)
        } else if has_come(self.quiet(config).and_then(Timer::early))
            || is_read && has_come(self.silent(config).and_then(Timer::early))
        {
            Some(Due::Ping)
        } else {
            None
        }
    }

    /// When [`Liveness::due`] must be asked, at the latest.
    pub(crate) fn next(&self, config: &Config, is_read: bool) -> Option<Instant> {
        let writing = [self.beat(config), self.quiet(config)];
        let mut reading = [None; 3];
        if is_read {
            let silent = self.silent(config).and_then(Timer::due);
            reading = [self.late(config), self.unanswered_for_long(config), silent];
        }
        let writing = writing.into_iter().flatten().filter_map(Timer::due);
        writing.chain(reading.into_iter().flatten()).min()
    }

    /// A heart-beat is due. If it also keeps proxies open, it comes more often than agreed, which
    /// is allowed.
    fn beat(&self, config: &Config) -> Option<Timer> {
        if self.rates.send == 0 {
            return None;
        }
        let agreed = milliseconds(self.rates.send);
        let interval = self
            .ping_interval(config)
            .map_or(agreed, |interval| interval.min(agreed));
        Some(Timer::new(self.wrote, interval))
    }

    /// Nothing was written for long, no heart-beat is coming, and the client is not about to be
    /// given up.
    fn quiet(&self, config: &Config) -> Option<Timer> {
        let interval = self.ping_interval(config)?;
        let is_wanted = self.rates.send == 0 && !self.is_doomed();
        is_wanted.then(|| Timer::new(self.wrote, interval))
    }

    /// Nothing was heard for long, and the client has not been asked often enough.
    fn silent(&self, config: &Config) -> Option<Timer> {
        let since = self.heard.checked_add(milliseconds(self.asked_after))?;
        let interval = self.asking_interval(config)?;
        (self.unanswered < MOST_PINGS).then(|| Timer::new(since, interval))
    }

    /// A client that answers pings has not answered the last of them.
    fn unanswered_for_long(&self, config: &Config) -> Option<Instant> {
        let since = self.heard.checked_add(milliseconds(self.asked_after))?;
        let interval = self.asking_interval(config)?;
        self.is_doomed().then(|| since.checked_add(interval))?
    }

    /// Whether a client that answers pings has left too many unanswered.
    fn is_doomed(&self) -> bool {
        self.pings == Pings::Answered && self.unanswered == MOST_PINGS
    }

    /// The client has broken its promise of heart-beats.
    fn late(&self, config: &Config) -> Option<Instant> {
        self.heard.checked_add(self.patience(config)?)
    }

    /// How long a client that promised heart-beats may be silent.
    fn patience(&self, config: &Config) -> Option<Duration> {
        let promised = milliseconds(self.rates.receive);
        let patience = promised.saturating_mul(config.heartbeat_tolerance.max(1));
        (self.rates.receive > 0).then(|| patience.max(config.heartbeat_patience))
    }

    /// The silence after which a client gets a ping: in time for its answer, before it is given up.
    fn asking_interval(&self, config: &Config) -> Option<Duration> {
        let interval = self.ping_interval(config)?;
        let Some(patience) = self.patience(config) else {
            return Some(interval);
        };
        let for_the_answer = patience.checked_div(4)?;
        Some(interval.min(patience.saturating_sub(for_the_answer)))
    }

    fn ping_interval(&self, config: &Config) -> Option<Duration> {
        let is_off = self.pings == Pings::Unsupported || config.ping_interval.is_zero();
        (!is_off).then_some(config.ping_interval)
    }
}

/// A step that is due an interval after an event.
#[derive(Clone, Copy)]
struct Timer {
    since: Instant,
    interval: Duration,
}

impl Timer {
    fn new(since: Instant, interval: Duration) -> Self {
        Self { since, interval }
    }

    /// The latest time for it; `None`: after the end of time.
    fn due(self) -> Option<Instant> {
        self.since.checked_add(self.interval)
    }

    /// The earliest time for it.
    fn early(self) -> Option<Instant> {
        let early = self.interval.checked_div(EARLY)?;
        self.due()?.checked_sub(early)
    }
}

fn milliseconds(count: u32) -> Duration {
    Duration::from_millis(count.into())
}
