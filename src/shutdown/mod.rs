//! The phases of an orderly end.

mod config;

use tokio::sync::watch;

pub use config::Config;

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

/// Waits for SIGINT (Ctrl-C) or SIGTERM.
///
/// # Errors
/// The system does not let signals be watched.
pub async fn signal() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

/// Listens to SIGHUP, which then no longer ends the process.
///
/// # Errors
/// The system does not let signals be watched.
pub fn hangups() -> std::io::Result<tokio::signal::unix::Signal> {
    use tokio::signal::unix::{SignalKind, signal};
    signal(SignalKind::hangup())
}
