//! The `[auth]` section.

use std::time::Duration;

use serde::Deserialize;

use crate::units::Checked;

/// Who answers for users.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "a placeholder, replaced by the branch `auth`")]
pub struct Config {
    pub user_path: Option<String>,
    pub vhost_path: Option<String>,
    pub resource_path: Option<String>,
    pub topic_path: Option<String>,
    pub groups_path: Option<String>,
    pub unset: String,
    pub http_method: String,
    #[serde(with = "humantime_serde")]
    pub connection_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub cache_ttl: Duration,
    pub cache_size: usize,
    pub max_calls: usize,
    pub disclose_reason: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            user_path: None,
            vhost_path: None,
            resource_path: None,
            topic_path: None,
            groups_path: None,
            unset: "deny".to_owned(),
            http_method: "get".to_owned(),
            connection_timeout: Duration::from_secs(3),
            request_timeout: Duration::from_secs(5),
            cache_ttl: Duration::from_secs(15),
            cache_size: 100_000,
            max_calls: 64,
            disclose_reason: false,
        }
    }
}

impl Config {
    /// Whether the values make sense.
    ///
    /// # Errors
    /// The key at fault, and what is wrong and what to do.
    pub fn check(&self) -> Checked {
        Ok(())
    }
}
