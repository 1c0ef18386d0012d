//! The `[webhooks]` section.

use std::{fmt, time::Duration};

use serde::Deserialize;
use url::Url;

use crate::secret_url::without_secrets;
use crate::units::{Checked, at_least, at_least_one, at_most, size};

/// A secret shorter than this could be guessed.
const MIN_SECRET: usize = 16;
/// Requests to one receiver at a time.
const MAX_REQUESTS: usize = 1_000;
/// Receivers. Each holds up to [`Config::max_bytes`].
const MAX_URLS: usize = 16;

/// The `[webhooks]` section: events for the application, by HTTP.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The receivers; each gets every event. None by default.
    pub urls: Vec<ReceiverUrl>,
    /// What requests are signed with.
    pub secret: Secret,
    /// The events to tell.
    pub events: Vec<Kind>,
    /// How long a receiver may take for its answer.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// Requests to one receiver at a time; of one user there is never more than one.
    pub max_requests: usize,
    /// Attempts, until an event is given up.
    pub attempts: u32,
    /// The longest pause between two attempts; the first is a second.
    #[serde(with = "humantime_serde")]
    pub max_pause: Duration,
    /// Bytes that may wait for one receiver; beyond, new events are dropped.
    #[serde(deserialize_with = "size")]
    pub max_bytes: usize,
    /// Events of one user that may wait for one receiver.
    pub max_user_events: usize,
    /// Events that were given up, and are kept to be looked at.
    pub max_dead: usize,
}

/// A kind of event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A session has logged in.
    Connect,
    /// A session that was logged in has ended.
    Disconnect,
    /// The status that others see of a user has changed.
    Presence,
    /// The first member is in a room of `presence.destinations`.
    Occupied,
    /// The last one has left it.
    Vacated,
    /// A message was handed on for a user to whose key nobody is subscribed.
    Offline,
}

/// The URL of a receiver: of HTTP, and without a user.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct ReceiverUrl(Url);

impl ReceiverUrl {
    /// The whole URL, to send to.
    #[must_use]
    pub fn reveal(&self) -> &Url {
        &self.0
    }
}

impl TryFrom<String> for ReceiverUrl {
    type Error = &'static str;

    /// The errors do not show the URL: it may contain a password.
    fn try_from(text: String) -> Result<Self, &'static str> {
        let url = Url::parse(&text).ok();
        let url = url.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let Some(url) = url else {
            return Err("is no URL of HTTP; write \"https://app.example.com/stentor\", say");
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(
                "has a user or a password, which would not be sent: leave it out, for \
                        requests are signed ([webhooks] secret)",
            );
        }
        Ok(Self(url))
    }
}

impl fmt::Debug for ReceiverUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&without_secrets(&self.0))
    }
}

/// A text that is not shown.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(Box<str>);

impl Secret {
    /// The text itself, to sign with.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            urls: Vec::new(),
            secret: Secret::default(),
            events: vec![
                Kind::Connect,
                Kind::Disconnect,
                Kind::Presence,
                Kind::Offline,
            ],
            timeout: Duration::from_secs(5),
            max_requests: 16,
            attempts: 30,
            max_pause: Duration::from_secs(120),
            max_bytes: 16 << 20,
            max_user_events: 1_000,
            max_dead: 1_000,
        }
    }
}

impl Config {
    /// Whether requests can be signed, if there are any.
    #[must_use]
    pub fn has_its_secret(&self) -> bool {
        self.urls.is_empty() || !self.secret.reveal().is_empty()
    }

    /// Checks the values.
    ///
    /// # Errors
    /// The key at fault, the fault, and the remedy.
    pub fn check(&self) -> Checked {
        if self.urls.len() > MAX_URLS {
            return Err(("urls", format!("are more than {MAX_URLS}; write fewer")));
        }
        // One that is not set is missing, which is another fault.
        let is_short = (1..MIN_SECRET).contains(&self.secret.reveal().len());
        if !self.urls.is_empty() && is_short {
            let message = format!(
                "has fewer than {MIN_SECRET} characters, so anybody could sign in its place; write \
                 a random one (`openssl rand -hex 32`), best in the variable \
                 STENTOR__WEBHOOKS__SECRET"
            );
            return Err(("secret", message));
        }
        let why = "every receiver would be too slow";
        at_least("timeout", self.timeout, Duration::from_millis(100), why)?;
        let why = "a receiver that hangs would be waited for as long";
        at_most("timeout", self.timeout, Duration::from_secs(60), why)?;
        let why = "a receiver that is away would get requests without a pause";
        at_least("max_pause", self.max_pause, Duration::from_millis(100), why)?;
        let why = "a receiver that is back would get nothing for as long";
        at_most("max_pause", self.max_pause, Duration::from_secs(3_600), why)?;
        at_least_one("max_requests", self.max_requests, "nothing would be sent")?;
        at_least_one("attempts", self.attempts, "nothing would be sent")?;
        let why = "every event would be dropped";
        at_least_one("max_user_events", self.max_user_events, why)?;
        if self.max_bytes < 64 << 10 {
            let message =
                "is less than 64 KiB, so that a few events fill it; write \"1MiB\" or more";
            return Err(("max_bytes", message.to_owned()));
        }
        for (key, value, most) in [
            ("max_requests", self.max_requests, MAX_REQUESTS),
            ("max_dead", self.max_dead, 10_000),
        ] {
            if value > most {
                return Err((key, format!("is {value}; write at most {most}")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Result<ReceiverUrl, &'static str> {
        text.to_owned().try_into()
    }

    fn config() -> Config {
        Config {
            urls: vec![url("https://app.example.com/hook").unwrap()],
            secret: "0123456789abcdef".into(),
            ..Config::default()
        }
    }

    #[test]
    fn values_out_of_bounds_are_blamed() {
        assert_eq!(Config::default().check(), Ok(()));
        assert_eq!(config().check(), Ok(()));
        let wrong = |change: fn(&mut Config)| {
            let mut config = config();
            change(&mut config);
            config.check().unwrap_err().0
        };
        assert_eq!(wrong(|config| config.secret = "short".into()), "secret");
        assert_eq!(wrong(|config| config.timeout = Duration::ZERO), "timeout");
        assert_eq!(
            wrong(|config| config.max_pause = Duration::MAX),
            "max_pause"
        );
        assert_eq!(wrong(|config| config.attempts = 0), "attempts");
        assert_eq!(wrong(|config| config.max_bytes = 1), "max_bytes");
        assert_eq!(wrong(|config| config.max_requests = 0), "max_requests");
        assert_eq!(wrong(|config| config.max_dead = usize::MAX), "max_dead");
        assert_eq!(
            wrong(|config| config.max_user_events = 0),
            "max_user_events"
        );
    }

    #[test]
    fn a_url_is_one_of_http_and_no_password_is_shown() {
        for wrong in ["ftp://app/", "app", "", "https://u:s3cret@app/"] {
            let error = url(wrong).unwrap_err();
            assert!(!error.contains("s3cret"), "{error}");
        }
        let shown = format!("{:?}", url("https://app/hook?token=s3cret"));
        assert!(!shown.contains("s3cret"), "{shown}");
    }

    #[test]
    fn a_secret_is_not_shown() {
        assert!(!format!("{:?}", config()).contains("0123456789abcdef"));
    }
}
