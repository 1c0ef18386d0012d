//! The `[api]` section.

use serde::Deserialize;

use super::token::Tokens;
use crate::units::{Checked, at_least_one, size};

/// The operator's HTTP API, on `listen.admin`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The tokens and their scopes. Without a token, only health is open.
    pub tokens: Tokens,
    /// Access to `/metrics`.
    pub metrics: Metrics,
    /// The longest body of a request, in bytes.
    #[serde(deserialize_with = "size")]
    pub max_body: usize,
    /// Requests with a token that are served at a time; more are refused. A few more are for
    /// administrators, and for `/metrics`.
    pub max_requests: usize,
}

/// Access to `/metrics`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Metrics {
    /// For everybody who reaches the listener.
    #[default]
    Open,
    /// With a token of the scope `read`.
    Token,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            tokens: Tokens::default(),
            metrics: Metrics::Open,
            max_body: 8 << 20,
            max_requests: 64,
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
            "max_body",
            self.max_body as u64,
            "nothing could be published",
        )?;
        at_least_one(
            "max_requests",
            self.max_requests as u64,
            "every request would be refused",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_leave_room_for_something() {
        assert_eq!(Config::default().check(), Ok(()));
        for (text, key) in [
            ("max_body = 0", "max_body"),
            ("max_requests = 0", "max_requests"),
        ] {
            let config: Config = toml::from_str(text).unwrap();
            assert_eq!(config.check().unwrap_err().0, key);
        }
    }
}
