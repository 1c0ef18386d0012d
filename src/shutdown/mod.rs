//! The phases of an orderly end.

mod config;

use std::{io, time::Duration};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    time::Instant,
};

use crate::deadline::after;
pub use config::{Config, DRAIN_PATIENCE};

/// A phase of the process between start and end; later phases compare greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// All is served.
    Running,
    /// `/readyz` fails, so that load balancers send nobody new; all is served.
    NotReady,
    /// Nobody new is accepted.
    StopAccepting,
    /// Clients are told to go, over a while.
    Drain,
    /// They are gone, or out of time.
    CloseBroker,
}

impl Phase {
    /// In words.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::NotReady => "not ready",
            Self::StopAccepting => "stop accepting",
            Self::Drain => "draining",
            Self::CloseBroker => "closing",
        }
    }
}

/// Watches the phases.
#[derive(Clone, Debug)]
pub struct Phases(watch::Receiver<Phase>);

/// Goes through the phases.
#[derive(Debug)]
pub struct Progress(watch::Sender<Phase>);

impl Progress {
    /// A process that runs.
    #[must_use]
    pub fn start() -> (Self, Phases) {
        let (sender, receiver) = watch::channel(Phase::Running);
        (Self(sender), Phases(receiver))
    }

    /// Begins a phase.
    pub fn enter(&self, phase: Phase) {
        self.0.send_replace(phase);
    }
}

impl Phases {
    /// The phase that the process is in.
    #[must_use]
    pub fn current(&self) -> Phase {
        *self.0.borrow()
    }

    /// Waits for a phase, or a later one.
    pub async fn reached(mut self, phase: Phase) {
        // If the sender is gone, so is the process.
        let _ = self.0.wait_for(|current| *current >= phase).await;
    }
}

/// A signal that comes so soon after the first is the same one: a terminal sends Ctrl-C to all of a
/// group, and what started this program may pass it on.
const SAME: Duration = Duration::from_secs(1);

/// Watches for SIGINT (Ctrl-C) and SIGTERM, which then no longer end the process.
#[derive(Debug)]
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Watches from now on.
    ///
    /// # Errors
    /// The system does not let signals be watched.
    pub fn watch() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for one of them.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// Waits for one that somebody sent again: the end takes too long.
    pub async fn again(&mut self) {
        sent_again(async || self.next().await).await;
    }
}

async fn sent_again(mut next: impl AsyncFnMut()) {
    let same = after(SAME);
    while Instant::now() < same {
        next().await;
    }
}

/// Listens to SIGHUP, which then no longer ends the process.
///
/// # Errors
/// The system does not let signals be watched.
pub fn hangups() -> io::Result<Signal> {
    signal(SignalKind::hangup())
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_signal_that_comes_at_once_is_the_same() {
        let mut pauses = [200, 300, 2_000].map(Duration::from_millis).into_iter();
        let begun = Instant::now();
        sent_again(async || sleep(pauses.next().unwrap()).await).await;
        assert_eq!(begun.elapsed(), Duration::from_millis(2_500));
    }
}
