//! The `[shutdown]` section.

use std::time::Duration;

use humantime::format_duration;
use serde::Deserialize;

use crate::units::{Checked, more_than_zero};

/// How long a drain waits for what a client sent before it: the server's end must not wait for a
/// broker that is away.
pub const DRAIN_PATIENCE: Duration = Duration::from_secs(2);

/// How the gateway ends when it is told to (SIGTERM, SIGINT).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The time between the readiness check failing and no new connection being accepted. Zero:
    /// at once; a load balancer that has to notice first needs one period of its checks.
    #[serde(with = "humantime_serde")]
    pub not_ready: Duration,
    /// The time over which clients are told to reconnect elsewhere, evenly, so that they do not
    /// storm the other nodes. 5 s keep 100,000 reconnects at 20,000 a second.
    #[serde(with = "humantime_serde")]
    pub drain: Duration,
    /// The whole drain, from the signal until the last client is cut. What is closed behind it takes
    /// 10 s more at most.
    #[serde(with = "humantime_serde")]
    pub grace: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            not_ready: Duration::ZERO,
            drain: Duration::from_secs(5),
            grace: Duration::from_secs(30),
        }
    }
}

impl Config {
    /// Checks the values.
    ///
    /// # Errors
    /// The key at fault, the fault, and the remedy.
    pub fn check(&self) -> Checked {
        more_than_zero("grace", self.grace, "nothing would be drained")?;
        let phases = self.not_ready.saturating_add(self.drain);
        // Or else those who are told last are cut while their frames are still carried out.
        let least = phases.saturating_add(DRAIN_PATIENCE);
        if self.grace < least {
            let [grace, phases, patience, least] =
                [self.grace, phases, DRAIN_PATIENCE, least].map(format_duration);
            let message = format!(
                "is {grace}, but not_ready and drain together take {phases}, and the clients that \
                 are told last have {patience} more to finish; write \"{least}\" or more, or lower \
                 the others"
            );
            return Err(("grace", message));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client that is told at the end of `drain` can finish what it sent.
    #[test]
    fn the_last_clients_have_time() {
        assert_eq!(Config::default().check(), Ok(()));
        let check = |not_ready, drain, grace| {
            let [not_ready, drain, grace] = [not_ready, drain, grace].map(Duration::from_secs);
            let config = Config {
                not_ready,
                drain,
                grace,
            };
            config.check()
        };
        for (not_ready, drain, grace) in [(25, 5, 30), (25, 5, 31), (0, 0, 1), (0, 60, 30)] {
            let (key, message) = check(not_ready, drain, grace).unwrap_err();
            assert_eq!(key, "grace");
            let least = format_duration(Duration::from_secs(not_ready + drain + 2));
            let says = format!("write \"{least}\" or more");
            assert!(message.contains(&says), "{message}");
        }
        for (not_ready, drain, grace) in [(25, 5, 32), (0, 0, 2), (10, 20, 45)] {
            assert_eq!(check(not_ready, drain, grace), Ok(()));
        }
        let endless = Config {
            not_ready: Duration::MAX,
            ..Config::default()
        };
        assert_eq!(endless.check().unwrap_err().0, "grace");
    }
}
