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

/// Whether an `@` stands behind the host. Then a `/`, `?` or `#` in a password most likely ended it too
/// early, and what was read as the host and the path is the rest of the password, which would be shown.
#[must_use]
pub(crate) fn is_cut_short(url: &Url) -> bool {
    let behind = [Some(url.path()), url.query(), url.fragment()];
    behind.into_iter().flatten().any(|part| part.contains('@'))
}

/// As [`is_cut_short`], of HTTP, where an `@` may stand in a path: only behind a user.
///
/// # Errors
/// It is; what to write.
pub(crate) fn check_account(url: &Url) -> Result<(), String> {
    let has_user = !url.username().is_empty() || url.password().is_some();
    if has_user && is_cut_short(url) {
        return Err(
            "has a user and, behind the host, an \"@\", so the password may end too early; write \
             characters such as \"/\" and \"@\" in a password as %2F and %40, and an \"@\" in a \
             path as %40, too"
                .to_owned(),
        );
    }
    Ok(())
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
    fn a_password_that_ends_its_url_too_early_is_noticed() {
        let parse = |text: &str| Url::parse(text).unwrap();
        for (text, is_cut, is_wrong) in [
            ("http://u:p@ss/w@host:1/auth", true, true),
            ("http://u:p@ss?w@host:1/auth", true, true),
            ("http://u:p@ss#w@host:1/auth", true, true),
            ("http://u:p%2Fw@host/auth", false, false),
            ("http://u:p@w@host/auth", false, false),
            ("http://host/@auth", true, false),
            ("http://host/auth", false, false),
            ("amqp://u:1/w@host:1", true, false),
        ] {
            let url = parse(text);
            assert_eq!(is_cut_short(&url), is_cut, "{text}");
            assert_eq!(check_account(&url).is_err(), is_wrong, "{text}");
        }
    }

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
