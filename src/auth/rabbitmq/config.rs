//! The `[auth.rabbitmq]` section.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;
use url::Url;

use crate::{
    secret_url::{SecretUrl, check_account},
    units::{Checked, at_least, at_most},
};

/// The `[auth.rabbitmq]` section: where RabbitMQ's own users are read. Without `definitions` and
/// `management` it is off.
///
/// `management` holds a password; `Debug` does not show it.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RabbitMqConfig {
    /// A file that `rabbitmqctl export_definitions` has written. Default empty: none.
    pub definitions: PathBuf,
    /// RabbitMQ's management plug-in, with an account that has the tag `administrator`:
    /// `http://user:password@host:15672`. Default empty: it is not asked.
    pub management: String,
    /// How often the file is looked at, or the management plug-in is asked. Default 30 s.
    #[serde(with = "humantime_serde")]
    pub refresh: Duration,
    /// Users who may log in from this machine only. Default `guest`, as RabbitMQ's.
    pub loopback_users: Vec<String>,
}

/// Where accounts are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A file.
    File(PathBuf),
    /// The management plug-in; its base URL.
    Management(SecretUrl),
}

impl Default for RabbitMqConfig {
    fn default() -> Self {
        Self {
            definitions: PathBuf::new(),
            management: String::new(),
            refresh: Duration::from_secs(30),
            loopback_users: vec!["guest".to_owned()],
        }
    }
}

const MIN_REFRESH: Duration = Duration::from_secs(1);
const MAX_REFRESH: Duration = Duration::from_secs(24 * 60 * 60);

impl RabbitMqConfig {
    /// True if RabbitMQ's own users are to log in.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.file().is_some() || !self.management.is_empty()
    }

    /// The file of definitions, if one is set.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        Some(&*self.definitions).filter(|path| !path.as_os_str().is_empty())
    }

    /// Whether it makes sense. Files are not looked at.
    ///
    /// # Errors
    /// A key, and what is wrong with it and what to do.
    pub fn check(&self) -> Checked {
        if self.file().is_some() && !self.management.is_empty() {
            let message = "is set, and definitions, too: the users come from one of them; leave \
                           the other out";
            return Err(("management", message.into()));
        }
        if !self.management.is_empty() {
            parse(&self.management, VARIABLE).map_err(|problem| ("management", problem))?;
        }
        let why = "RabbitMQ would be kept busy with nothing else";
        at_least("refresh", self.refresh, MIN_REFRESH, why)?;
        let why = "users who are gone would still log in";
        at_most("refresh", self.refresh, MAX_REFRESH, why)?;
        if self.loopback_users.iter().any(String::is_empty) {
            let message = "has an empty name; write the users' names, such as [\"guest\"], or []";
            return Err(("loopback_users", message.into()));
        }
        Ok(())
    }

    /// The management plug-in, if it is set.
    #[must_use]
    pub fn management(&self) -> Option<SecretUrl> {
        parse(&self.management, VARIABLE).ok().map(SecretUrl::from)
    }

    /// Where the accounts are; `None`: they are not wanted.
    pub(super) fn place(&self) -> Result<Option<Place>, (&'static str, String)> {
        self.check()?;
        if let Some(file) = self.file() {
            return Ok(Some(Place::File(file.to_owned())));
        }
        if self.management.is_empty() {
            return Ok(None);
        }
        let url = parse(&self.management, VARIABLE).map_err(|problem| ("management", problem))?;
        Ok(Some(Place::Management(url.into())))
    }
}

/// Reads the address of a management plug-in, with an account.
///
/// # Errors
/// What is wrong with it. It is not shown, for it holds a password.
pub fn management_url(text: &str) -> Result<SecretUrl, String> {
    parse(text, "STENTOR_MANAGEMENT").map(SecretUrl::from)
}

/// The variable of the key.
const VARIABLE: &str = "STENTOR__AUTH__RABBITMQ__MANAGEMENT";

/// Reads the URL; what is wrong with it, and the variable to give it by. It is not shown, for it
/// holds a password.
fn parse(text: &str, variable: &str) -> Result<Url, String> {
    let wanted = format!(
        "give the management plug-in's address with an account, such as \
         \"http://user:password@127.0.0.1:15672\", by the variable {variable}"
    );
    let url = Url::parse(text).map_err(|error| format!("is no URL ({error}): {wanted}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!(
            "has the scheme `{}`, not http or https: {wanted}",
            url.scheme()
        ));
    }
    if url.username().is_empty() || url.password().is_none() {
        return Err(format!(
            "has no user and password before the host: {wanted}"
        ));
    }
    check_account(&url)?;
    if url.query().is_some() || url.fragment().is_some() {
        return Err(format!(
            "has a query or a fragment, which is never sent: {wanted}"
        ));
    }
    Ok(url)
}

impl fmt::Debug for RabbitMqConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = match parse(&self.management, VARIABLE) {
            Ok(url) => SecretUrl::from(url).to_string(),
            Err(_) if self.management.is_empty() => String::new(),
            Err(_) => "(no URL)".to_owned(),
        };
        f.debug_struct("RabbitMqConfig")
            .field("definitions", &self.definitions)
            .field("management", &shown)
            .field("refresh", &self.refresh)
            .field("loopback_users", &self.loopback_users)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> RabbitMqConfig {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn all_keys_are_read() {
        assert_eq!(read(""), RabbitMqConfig::default());
        assert!(!read("").is_on());
        let config = read(
            "definitions = \"/etc/stentor/definitions.json\"\nrefresh = \"5s\"\n\
             loopback_users = []",
        );
        assert_eq!(config.check(), Ok(()));
        assert!(config.is_on() && config.loopback_users.is_empty());
        assert_eq!(config.refresh, Duration::from_secs(5));
        let config = read("management = \"https://a:b@host/rabbit\"");
        assert_eq!(config.check(), Ok(()));
        assert!(config.is_on());
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (text, key) in [
            (
                "definitions = \"a\"\nmanagement = \"http://a:b@h\"",
                "management",
            ),
            ("management = \"host:15672\"", "management"),
            ("management = \"http://host:15672\"", "management"),
            ("management = \"http://a@host:15672\"", "management"),
            ("management = \"http://a:b@host/?x=1\"", "management"),
            ("management = \"http://a:b@c/d@host:15672\"", "management"),
            ("refresh = \"500ms\"", "refresh"),
            ("refresh = \"2days\"", "refresh"),
            ("loopback_users = [\"\"]", "loopback_users"),
        ] {
            assert_eq!(read(text).check().unwrap_err().0, key, "{text}");
        }
        assert!(toml::from_str::<RabbitMqConfig>("definition = \"a\"").is_err());
    }

    #[test]
    fn the_password_is_not_shown() {
        for url in [
            "http://a:s3cret@host:15672",
            "s3cret@host",
            "http://s3cret@h",
        ] {
            let config = read(&format!("management = {url:?}"));
            assert!(!format!("{config:?}").contains("s3cret"), "{config:?}");
            if let Err((_, message)) = config.check() {
                assert!(!message.contains("s3cret"), "{message}");
            }
        }
    }
}
