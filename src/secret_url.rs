//! A URL with a password in it, which is never shown.

use std::fmt;

use url::Url;

/// A URL that shows itself without its password.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretUrl(Url);

impl SecretUrl {
    /// The whole URL with its password, for a client library alone.
    #[must_use]
    pub fn reveal(&self) -> &str {
        self.0.as_str()
    }

    /// The user, as it is written; empty: none.
    #[must_use]
    pub fn user(&self) -> &str {
        self.0.username()
    }

    /// Whether there is a password, and not an empty one.
    #[must_use]
    pub fn has_password(&self) -> bool {
        self.0.password().is_some_and(|text| !text.is_empty())
    }

    /// The machine's name, or its IP address without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        let host = self.0.host_str().unwrap_or_default();
        host.trim_start_matches('[').trim_end_matches(']')
    }

    /// The port, if the URL names one.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.0.port()
    }

    /// Whether both name the same protocol, account and path, whatever their hosts.
    #[must_use]
    pub fn differs_by_host_alone(&self, other: &Self) -> bool {
        let parts = |url: &Url| {
            let password = url.password().map(ToOwned::to_owned);
            let texts = [url.scheme(), url.username(), url.path()].map(ToOwned::to_owned);
            (texts, password)
        };
        parts(&self.0) == parts(&other.0)
    }

    /// The path, `/0` say.
    #[must_use]
    pub fn path(&self) -> &str {
        self.0.path()
    }

    /// Host and port alone, if the port is not the scheme's own.
    #[must_use]
    pub fn authority(&self) -> String {
        let host = self.0.host_str().unwrap_or_default();
        match self.0.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        }
    }
}

/// A URL as it may be shown: without query, fragment, user and password.
#[must_use]
pub(crate) fn without_secrets(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    // An error means that there is nothing to take away.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.to_string()
}

impl From<Url> for SecretUrl {
    fn from(url: Url) -> Self {
        Self(url)
    }
}

impl fmt::Display for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = self.0.clone();
        if shown.password().is_some() {
            // Fails only for a URL that cannot have a password.
            let _ = shown.set_password(Some("***"));
        }
        f.write_str(shown.as_str())
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_shows_itself_without_its_password() {
        for (text, shown, authority) in [
            ("amqp://u:s3cr%40et@host", "amqp://u:***@host", "host"),
            (
                "redis://:s3cret@host:1/2",
                "redis://:***@host:1/2",
                "host:1",
            ),
            ("amqp://u@[::1]:5672", "amqp://u@[::1]:5672", "[::1]:5672"),
        ] {
            let url = SecretUrl::from(Url::parse(text).unwrap());
            assert_eq!(url.to_string(), shown);
            assert_eq!(format!("{url:?}"), format!("SecretUrl({shown})"));
            assert_eq!(url.authority(), authority);
            assert_eq!(url.reveal(), text);
        }
    }
}
