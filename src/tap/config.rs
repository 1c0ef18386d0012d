//! The `[tail]` section.

use serde::Deserialize;

use crate::units::{Checked, at_least_one};

/// What operators may see of the frames of clients, by `stentor tail`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How much of a frame is shown.
    pub show: Show,
    /// Further headers whose values are never shown, by name; in any case of letters.
    pub secret_headers: Vec<String>,
    /// Tails at a time on this node; more are refused.
    pub max_tails: usize,
    /// Frames a second that this node shows to all tails together; the rest is counted.
    pub max_frames_per_second: u32,
}

/// How much of a frame is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Show {
    /// Nothing: this node takes part in no tail.
    Off,
    /// Commands, destinations, sizes, and the headers that STOMP and RabbitMQ define. Of an
    /// application's own headers only the names.
    #[default]
    Headers,
    /// All headers but secrets; and the beginnings of bodies, where a tail asks for them.
    Bodies,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            show: Show::Headers,
            secret_headers: Vec::new(),
            max_tails: 4,
            max_frames_per_second: 200,
        }
    }
}

impl Config {
    /// Checks the values.
    ///
    /// # Errors
    /// The key at fault, the fault, and the remedy.
    pub fn check(&self) -> Checked {
        at_least_one(
            "max_tails",
            self.max_tails as u64,
            "every tail would be refused; to allow none, write show = \"off\"",
        )?;
        at_least_one(
            "max_frames_per_second",
            self.max_frames_per_second,
            "no frame would be shown; to allow none, write show = \"off\"",
        )?;
        if self
            .secret_headers
            .iter()
            .any(|name| name.trim().is_empty())
        {
            let message = "has an empty name; write the names of headers, such as \"x-patient\"";
            return Err(("secret_headers", message.to_owned()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_leave_room_for_something() {
        assert_eq!(Config::default().check(), Ok(()));
        for (text, key) in [
            ("max_tails = 0", "max_tails"),
            ("max_frames_per_second = 0", "max_frames_per_second"),
            ("secret_headers = [\" \"]", "secret_headers"),
        ] {
            let config: Config = toml::from_str(text).unwrap();
            assert_eq!(config.check().unwrap_err().0, key);
        }
    }
}
