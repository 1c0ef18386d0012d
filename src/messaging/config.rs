//! The `[sequences]` section.

use std::time::Duration;

use serde::Deserialize;

use crate::units::{Checked, at_least, at_least_one, at_most};

/// The `[sequences]` section: SENDs that are published once.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The store; off by default.
    pub store: Store,
    /// How long a sequence, or a key, is remembered after its last use.
    #[serde(with = "humantime_serde")]
    pub keep: Duration,
    /// Devices of one user with a sequence. One more pushes out the one that was unused for
    /// longest, and has nothing under way.
    pub max_devices: usize,
    /// Keys of one user that are remembered. One more pushes out the oldest ones.
    pub max_keys: usize,
}

/// The store of sequences.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Store {
    /// There are no sequences.
    #[default]
    Off,
    /// This process' memory, for a single node.
    Memory,
    /// The Redis of `[presence] url`.
    Redis,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            store: Store::Off,
            keep: Duration::from_secs(7 * DAY),
            max_devices: 32,
            max_keys: 1_000,
        }
    }
}

const DAY: u64 = 24 * 60 * 60;

impl Config {
    /// Checks the values.
    ///
    /// # Errors
    /// The key at fault, the fault, and the remedy.
    pub fn check(&self) -> Checked {
        let why = "a client that is away for a moment would be forgotten";
        at_least("keep", self.keep, Duration::from_secs(60), why)?;
        let why = "what users leave behind would fill the store";
        at_most("keep", self.keep, Duration::from_secs(366 * DAY), why)?;
        at_least_one("max_devices", self.max_devices, "nobody could have one")?;
        at_least_one("max_keys", self.max_keys, "no key would be remembered")?;
        for (key, value, most) in [
            ("max_devices", self.max_devices, 1_000),
            ("max_keys", self.max_keys, 100_000),
        ] {
            if value > most {
                let message = format!(
                    "is {value}, but a store looks at all of them when there are too many; write \
                     at most {most}"
                );
                return Err((key, message));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_out_of_bounds_are_blamed() {
        assert_eq!(Config::default().check(), Ok(()));
        let wrong = |change: fn(&mut Config)| {
            let mut config = Config::default();
            change(&mut config);
            config.check().unwrap_err().0
        };
        assert_eq!(wrong(|config| config.keep = Duration::ZERO), "keep");
        assert_eq!(wrong(|config| config.keep = Duration::MAX), "keep");
        assert_eq!(wrong(|config| config.max_devices = 0), "max_devices");
        assert_eq!(wrong(|config| config.max_keys = usize::MAX), "max_keys");
    }
}
