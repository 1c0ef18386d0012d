//! The `[shutdown]` section.

use std::time::Duration;

use serde::Deserialize;

use crate::units::{Checked, more_than_zero};

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
        if phases > self.grace {
            return Err((
                "grace",
                format!(
                    "is {}, shorter than not_ready and drain together ({}); raise it, or lower them",
                    humantime::format_duration(self.grace),
                    humantime::format_duration(phases),
                ),
            ));
        }
        Ok(())
    }
}
