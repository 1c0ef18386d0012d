//! The `[broker]` section.

use std::{collections::BTreeMap, fmt, path::PathBuf, str::FromStr, time::Duration};

use percent_encoding::percent_decode_str;
use serde::Deserialize;

use super::{ExchangeKind, destination::check_exchange};
use crate::{
    secret_url::{SecretUrl, is_cut_short},
    units::{Checked, at_least, at_least_one, at_most, more_than_zero, show_size, size},
};

/// RabbitMQ takes no larger message, however it is configured.
const MAX_MESSAGE: usize = 512 << 20;

/// RabbitMQ makes it when it is new.
const DEFAULT_VHOST: &str = "/";

const MIN_REFRESH: Duration = Duration::from_secs(1);
const MAX_REFRESH: Duration = Duration::from_secs(24 * 60 * 60);

/// Where the broker is, and how it is used.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The broker and the gateway's own account there, if that is in none of the keys below.
    /// Without a default: one password that everybody knows is none. Its path is the default
    /// virtual host ([`Config::adopt_vhost`]).
    pub url: Option<Url>,
    /// In the place of `url`: the nodes of one cluster, with the same account and path each. A link
    /// takes one at random, and the next one at once when it fails there.
    pub urls: Vec<Url>,
    /// The password of the URL's user, in a file that is read at each connect; empty: it is in the
    /// URL.
    pub password_file: PathBuf,
    /// A token in the place of a password (RabbitMQ's OAuth 2), in a file that somebody else keeps
    /// up to date; empty: none.
    pub token_file: PathBuf,
    /// The same, printed by a program; the program and its arguments. Empty: none.
    pub token_command: Vec<String>,
    /// How often the token's file is looked at; and how often the program is run, if its tokens do
    /// not tell their end.
    #[serde(with = "humantime_serde")]
    pub token_refresh: Duration,
    /// The certificate that RabbitMQ is shown over TLS, and those between it and its authority (PEM);
    /// empty: none. If the URL names no account, it is the login.
    pub certificate: PathBuf,
    /// Its private key (PEM).
    pub key: PathBuf,
    /// The virtual hosts that clients may ask for; `*`: whichever the hook allows and RabbitMQ has.
    pub vhosts: Vec<String>,
    /// The virtual host of a client whose CONNECT has no `host`.
    pub default_vhost: String,
    /// The virtual host that is meant by a machine's name in `host`, which many client libraries
    /// send.
    pub host_names: BTreeMap<String, String>,
    /// Virtual hosts that are open at a time, the default one included.
    pub max_vhosts: usize,
    /// How long the links of a virtual host are kept after its last client has left; those of the
    /// default one always are.
    #[serde(with = "humantime_serde")]
    pub vhost_idle: Duration,
    /// Whether the account may publish in the name of others (RabbitMQ's tag `impersonator`): then
    /// each message has its STOMP user in the AMQP property `user-id`.
    pub impersonate: bool,
    /// How long one attempt to connect may take, login included.
    #[serde(with = "humantime_serde")]
    pub connection_timeout: Duration,
    /// How long a call (subscribe, publish, …) waits for the link or for the broker's answer,
    /// before the client gets an ERROR. It bounds what clients notice of a broker's restart.
    #[serde(with = "humantime_serde")]
    pub operation_timeout: Duration,
    /// The AMQP heart-beat, in whole seconds; a dead link is noticed within two.
    #[serde(with = "humantime_serde")]
    pub heartbeat: Duration,
    /// The pause before the first attempt to connect again; it doubles with each attempt.
    #[serde(with = "humantime_serde")]
    pub reconnect_min: Duration,
    /// The longest pause between two attempts.
    #[serde(with = "humantime_serde")]
    pub reconnect_max: Duration,
    /// How long a lost link may take to be made again before no new clients should come:
    /// `/readyz` answers 503 then. A link that never was up counts at once.
    #[serde(with = "humantime_serde")]
    pub unready_after: Duration,
    /// AMQP channels for the ordinary messages to one exchange. Messages of one client stay on
    /// one, in order.
    pub publish_channels: u16,
    /// Messages published and not confirmed yet, per virtual host; when there are more, clients
    /// that publish are not read. It bounds memory while the broker is slow or away.
    pub max_pending_publishes: usize,
    /// RabbitMQ's `max_message_size`, which it tells nobody: the longest body, in bytes. A longer
    /// one is refused here, for RabbitMQ would close the channel.
    #[serde(deserialize_with = "size")]
    pub max_message_size: usize,
    /// Exchanges and their types, by name. They are declared (durable) where they are missing,
    /// and their types need not be learnt, for which the gateway's account must be allowed to
    /// configure them.
    pub exchanges: BTreeMap<Box<str>, ExchangeKind>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            url: None,
            urls: Vec::new(),
            password_file: PathBuf::new(),
            token_file: PathBuf::new(),
            token_command: Vec::new(),
            token_refresh: Duration::from_secs(30),
            certificate: PathBuf::new(),
            key: PathBuf::new(),
            vhosts: vec![DEFAULT_VHOST.to_owned()],
            default_vhost: DEFAULT_VHOST.to_owned(),
            host_names: BTreeMap::new(),
            max_vhosts: 100,
            vhost_idle: Duration::from_secs(5 * 60),
            impersonate: false,
            connection_timeout: Duration::from_secs(10),
            operation_timeout: Duration::from_secs(10),
            heartbeat: Duration::from_secs(10),
            reconnect_min: Duration::from_millis(200),
            reconnect_max: Duration::from_secs(10),
            unready_after: Duration::from_secs(10),
            publish_channels: 2,
            max_pending_publishes: 16_384,
            max_message_size: 16 << 20,
            exchanges: BTreeMap::new(),
        }
    }
}

impl Config {
    /// Whether the values make sense; a missing `url` does (the demo needs none).
    ///
    /// # Errors
    /// The key at fault, and what is wrong and what to do.
    pub fn check(&self) -> Checked {
        let mut config = self.clone();
        config.check_urls()?;
        config.check_account()?;
        config.adopt_vhost();
        config.check_vhosts()?;
        config.check_host_names()?;
        self.check_times()?;
        for exchange in self.exchanges.keys() {
            check_exchange("exchanges", exchange)?;
        }
        self.check_bounds()
    }

    /// Takes the virtual host of the URL for the default one, where the keys for it have their
    /// defaults: services that rent a RabbitMQ print such a URL, and it is all there is to say.
    pub fn adopt_vhost(&mut self) {
        let Some(vhost) = self.all_urls().first().and_then(Url::vhost) else {
            return;
        };
        if self.default_vhost == DEFAULT_VHOST {
            self.default_vhost.clone_from(&vhost);
        }
        if self.vhosts == [DEFAULT_VHOST] {
            self.vhosts = vec![vhost];
        }
    }

    /// The broker's URLs: the one of `url`, or those of `urls`. Of several, all are of RabbitMQ.
    #[must_use]
    pub fn all_urls(&self) -> &[Url] {
        match &self.url {
            Some(url) => std::slice::from_ref(url),
            None => &self.urls,
        }
    }

    /// The virtual hosts that are configured by name, the default one first.
    #[must_use]
    pub fn named_vhosts(&self) -> Vec<String> {
        let mut named = vec![self.default_vhost.clone()];
        for other in &self.vhosts {
            if other != "*" && !named.contains(other) {
                named.push(other.clone());
            }
        }
        named
    }

    fn check_urls(&self) -> Checked {
        let wrong = |text: String| Err(("urls", text));
        if self.url.is_some() && !self.urls.is_empty() {
            return wrong(
                "is set, and so is url; keep urls for the nodes of a cluster, or url for one \
                 address"
                    .to_owned(),
            );
        }
        let mut amqp = Vec::new();
        for (url, number) in self.urls.iter().zip(1..) {
            match url {
                Url::Embedded => {
                    return wrong(format!(
                        "has \"embedded:\" in place {number}, which has no nodes; write url = \
                         \"embedded:\" in its place"
                    ));
                }
                Url::Amqp(url) => amqp.push((number, url)),
            }
        }
        let Some(((_, first), others)) = amqp.split_first() else {
            return Ok(());
        };
        for (number, url) in others {
            if !first.differs_by_host_alone(url) {
                return wrong(format!(
                    "has {url} in place {number}, which differs from the first in more than host \
                     and port; all nodes of a cluster have the same account, password, virtual \
                     host and protocol (amqp or amqps)"
                ));
            }
        }
        let place = |url: &SecretUrl| (url.host().to_owned(), url.port());
        for (index, (number, url)) in amqp.iter().enumerate() {
            if amqp
                .iter()
                .take(index)
                .any(|(_, other)| place(other) == place(url))
            {
                return wrong(format!(
                    "has {} twice, the second time in place {number}; remove one",
                    url.authority()
                ));
            }
        }
        Ok(())
    }

    fn check_vhosts(&self) -> Checked {
        for (index, vhost) in self.vhosts.iter().enumerate() {
            if vhost.is_empty() {
                return Err((
                    "vhosts",
                    "has an empty name; the usual virtual host is \"/\"".to_owned(),
                ));
            }
            if self.vhosts.iter().take(index).any(|other| other == vhost) {
                return Err(("vhosts", format!("names {vhost:?} twice; remove one")));
            }
        }
        let is_any = self.vhosts.iter().any(|vhost| vhost == "*");
        if is_any && self.vhosts.len() > 1 {
            let text = "has \"*\" and names; write [\"*\"] for all, or names alone";
            return Err(("vhosts", text.to_owned()));
        }
        if is_any && self.all_urls() == [Url::Embedded] {
            let text = "is \"*\", which asks RabbitMQ what there is; name those that the embedded \
                        broker shall have";
            return Err(("vhosts", text.to_owned()));
        }
        let nobody = "nobody could log in";
        at_least_one("max_vhosts", self.max_vhosts, nobody)?;
        let vhost = self.all_urls().first().and_then(Url::vhost);
        if let Some(vhost) = vhost.filter(|vhost| *vhost != self.default_vhost) {
            return Err((
                "default_vhost",
                format!(
                    "is {:?}, but the path of url names {vhost:?}; write the same, or end the URL \
                     after the port",
                    self.default_vhost
                ),
            ));
        }
        if !is_any && !self.vhosts.contains(&self.default_vhost) {
            return Err((
                "default_vhost",
                format!(
                    "{:?} is not in vhosts {:?}; add it there, or choose one of them",
                    self.default_vhost, self.vhosts
                ),
            ));
        }
        Ok(())
    }

    fn check_host_names(&self) -> Checked {
        let wrong = |message| Err(("host_names", message));
        let is_any = self.vhosts.iter().any(|vhost| vhost == "*");
        for (name, vhost) in &self.host_names {
            if name.is_empty() || vhost.is_empty() {
                return wrong(format!(
                    "has {name:?} = {vhost:?}; write a machine's name and a virtual host, such as \
                     \"push.example.com\" = \"/\""
                ));
            }
            if !is_any && !self.vhosts.contains(vhost) {
                return wrong(format!(
                    "has {name:?} = {vhost:?}, which is not in vhosts {:?}; add it there, or \
                     choose one of them",
                    self.vhosts
                ));
            }
            if self.vhosts.contains(name) && name != vhost {
                return wrong(format!(
                    "has {name:?} = {vhost:?}, but {name:?} is one of vhosts itself; take it out \
                     in one of the two places"
                ));
            }
        }
        Ok(())
    }

    fn check_times(&self) -> Checked {
        let why = "the gateway would do little else than look for tokens";
        at_least("token_refresh", self.token_refresh, MIN_REFRESH, why)?;
        let why = "a new token would come too late";
        at_most("token_refresh", self.token_refresh, MAX_REFRESH, why)?;
        let again = "links would be made anew for every client";
        more_than_zero("vhost_idle", self.vhost_idle, again)?;
        let never = "no call could ever succeed";
        more_than_zero("connection_timeout", self.connection_timeout, never)?;
        more_than_zero("operation_timeout", self.operation_timeout, never)?;
        let seconds = self.heartbeat.as_secs();
        if self.heartbeat.subsec_nanos() != 0 || seconds == 0 || u16::try_from(seconds).is_err() {
            return Err((
                "heartbeat",
                "AMQP counts heart-beats in whole seconds, and without them a dead link would \
                 stay unnoticed; write \"1s\" or more"
                    .to_owned(),
            ));
        }
        more_than_zero(
            "reconnect_min",
            self.reconnect_min,
            "the gateway would hammer a broker that is down",
        )?;
        if self.reconnect_max < self.reconnect_min {
            return Err((
                "reconnect_max",
                format!(
                    "is {}, shorter than reconnect_min ({}); raise it",
                    humantime::format_duration(self.reconnect_max),
                    humantime::format_duration(self.reconnect_min),
                ),
            ));
        }
        Ok(())
    }

    fn check_bounds(&self) -> Checked {
        let nobody = "nobody could publish";
        at_least_one("publish_channels", self.publish_channels, nobody)?;
        at_least_one("max_pending_publishes", self.max_pending_publishes, nobody)?;
        at_least_one("max_message_size", self.max_message_size, nobody)?;
        if self.max_message_size > MAX_MESSAGE {
            return Err((
                "max_message_size",
                format!(
                    "is {}, but RabbitMQ takes no message above {}, however it is configured; \
                     lower it",
                    show_size(self.max_message_size),
                    show_size(MAX_MESSAGE)
                ),
            ));
        }
        Ok(())
    }
}

/// Which broker.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Url {
    /// `embedded:`: in this process' memory.
    Embedded,
    /// `amqp:` or `amqps:`: RabbitMQ, the gateway's account there, if no key beside it names that, and,
    /// as a path, a virtual host.
    Amqp(SecretUrl),
}

/// What is wrong with a URL. Never shows the URL: there may be a password in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UrlError {
    /// Not a URL, or another scheme.
    #[error(
        "is not a broker's URL; write \"amqp://user:password@host:5672\" (characters such as \"/\" \
         and \"@\" in a password as %2F and %40), \"amqps://…\" or \"embedded:\""
    )]
    Invalid,
    /// A path that is no virtual host.
    #[error(
        "has a path that is no virtual host; write one name after the port, with \"/\" in it as \
         %2F"
    )]
    Vhost,
    /// Parameters after `?`, or a fragment.
    #[error("has parameters after \"?\" or \"#\", which are not supported; remove them")]
    Parameters,
}

impl FromStr for Url {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        if text == "embedded:" {
            return Ok(Self::Embedded);
        }
        let url = url::Url::parse(text).map_err(|_| UrlError::Invalid)?;
        if !matches!(url.scheme(), "amqp" | "amqps") || url.host_str().is_none_or(str::is_empty) {
            return Err(UrlError::Invalid);
        }
        if is_cut_short(&url) {
            return Err(UrlError::Invalid);
        }
        if !matches!(url.path(), "" | "/") && vhost(&url).is_none() {
            return Err(UrlError::Vhost);
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(UrlError::Parameters);
        }
        let mut url = url;
        if url.path() == "/" {
            // Other libraries read "/" as the virtual host without a name, which nobody has.
            url.set_path("");
        }
        Ok(Self::Amqp(url.into()))
    }
}

impl Url {
    /// The virtual host that its path names.
    #[must_use]
    pub fn vhost(&self) -> Option<String> {
        match self {
            Self::Embedded => None,
            Self::Amqp(url) => vhost(&url::Url::parse(url.reveal()).ok()?),
        }
    }
}

/// The name that stands in the path: one segment, in which `%2F` is a slash.
fn vhost(url: &url::Url) -> Option<String> {
    let segment = url.path().strip_prefix('/')?;
    if segment.is_empty() || segment.contains('/') {
        return None;
    }
    let name = percent_decode_str(segment).decode_utf8().ok()?;
    Some(name.into_owned())
}

impl TryFrom<String> for Url {
    type Error = UrlError;

    fn try_from(text: String) -> Result<Self, UrlError> {
        text.parse()
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded => f.write_str("embedded:"),
            Self::Amqp(url) => url.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_shows_itself_without_its_password() {
        let url: Url = "amqps://stentor:s3cr%40et@rabbit.example:5671"
            .parse()
            .unwrap();
        assert_eq!(url.to_string(), "amqps://stentor:***@rabbit.example:5671");
        let config = Config {
            url: Some(url.clone()),
            ..Config::default()
        };
        let shown = format!("{config:?} {config:#?} {url} {url:?}");
        assert!(!shown.contains("s3cr"), "{shown}");
        let Url::Amqp(url) = url else { panic!() };
        assert_eq!(
            url.reveal(),
            "amqps://stentor:s3cr%40et@rabbit.example:5671"
        );
    }

    #[test]
    fn a_refused_url_does_not_show_its_password() {
        for (text, error) in [
            ("http://u:s3cret@host", UrlError::Invalid),
            ("amqp:u:s3cret@host", UrlError::Invalid),
            ("u:s3cret@host:5672", UrlError::Invalid),
            ("amqp://u:s3cret@", UrlError::Invalid),
            // A password that ends too early: its rest would be the host and the virtual host.
            ("amqp://u:p@s3cret/w@host:5672", UrlError::Invalid),
            ("amqp://u:1/s3cret@host:5672", UrlError::Invalid),
            ("amqp://u:1/s3cret/w@host", UrlError::Invalid),
            ("amqp://u:p@s3cret?w@host", UrlError::Invalid),
            ("amqp://u:p@s3cret#w@host", UrlError::Invalid),
            ("amqp://u:s3cret@host/a/b", UrlError::Vhost),
            ("amqp://u:s3cret@host//", UrlError::Vhost),
            ("amqp://u:s3cret@host/%ff", UrlError::Vhost),
            ("amqp://u:s3cret@host?heartbeat=5", UrlError::Parameters),
        ] {
            assert_eq!(text.parse::<Url>(), Err(error), "{text}");
            let read = toml::from_str::<Config>(&format!("url = {text:?}"));
            let message = read.unwrap_err().message().to_owned();
            assert!(!message.contains("s3cret"), "{message}");
        }
    }

    #[test]
    fn urls_that_are_allowed() {
        assert_eq!("embedded:".parse(), Ok(Url::Embedded));
        let Ok(Url::Amqp(url)) = "amqp://u:p@host/".parse() else {
            panic!()
        };
        assert_eq!(url.reveal(), "amqp://u:p@host");
        assert!("amqp://u:p@[::1]:5672".parse::<Url>().is_ok());
    }

    fn with_urls(urls: &[&str]) -> Config {
        Config {
            urls: urls.iter().map(|url| url.parse().unwrap()).collect(),
            ..Config::default()
        }
    }

    #[test]
    fn the_nodes_of_a_cluster_differ_by_host_and_port_alone() {
        let first = "amqp://u:s3cret@a/app";
        let mut config = with_urls(&[
            first,
            "amqp://u:s3cret@b:5673/app",
            "amqp://u:s3cret@[::1]/app",
        ]);
        assert_eq!(config.check(), Ok(()));
        config.adopt_vhost();
        assert_eq!(config.default_vhost, "app");
        for other in [
            "amqp://u:0ther@b/app",
            "amqp://v:s3cret@b/app",
            "amqp://u:s3cret@b/other",
            "amqp://u:s3cret@b",
            "amqps://u:s3cret@b/app",
            "embedded:",
            first,
        ] {
            let (key, text) = with_urls(&[first, other]).check().unwrap_err();
            assert_eq!(key, "urls", "{other}");
            assert!(text.contains('2'), "{text}");
            assert!(
                !text.contains("s3cret") && !text.contains("0ther"),
                "{text}"
            );
        }
        let both = Config {
            url: Some(first.parse().unwrap()),
            ..with_urls(&[first])
        };
        let (key, text) = both.check().unwrap_err();
        assert_eq!(key, "urls");
        assert!(text.contains("so is url"), "{text}");
    }

    fn with_url(url: &str) -> Config {
        Config {
            url: Some(url.parse().unwrap()),
            ..Config::default()
        }
    }

    #[test]
    fn the_path_of_a_url_is_the_default_virtual_host() {
        for (path, vhost) in [
            ("", "/"),
            ("/", "/"),
            ("/%2F", "/"),
            ("/app", "app"),
            ("/a%2Fb%20c", "a/b c"),
            ("/a%40b", "a@b"),
        ] {
            let mut config = with_url(&format!("amqps://u:p@host{path}"));
            assert_eq!(config.check(), Ok(()), "{path}");
            config.adopt_vhost();
            assert_eq!(config.default_vhost, vhost, "{path}");
            assert_eq!(config.vhosts, [vhost], "{path}");
        }
        // As it was written, where somebody chose.
        let mut config = Config {
            vhosts: vec!["app".to_owned(), "more".to_owned()],
            ..with_url("amqp://u:p@host/app")
        };
        assert_eq!(config.check(), Ok(()));
        config.adopt_vhost();
        assert_eq!((&*config.default_vhost, config.vhosts.len()), ("app", 2));
    }

    #[test]
    fn a_url_does_not_contradict_the_default_virtual_host() {
        let config = Config {
            default_vhost: "more".to_owned(),
            vhosts: vec!["app".to_owned(), "more".to_owned()],
            ..with_url("amqp://u:p@host/app")
        };
        let (key, text) = config.check().unwrap_err();
        assert_eq!(key, "default_vhost");
        assert!(text.contains("the path of url names \"app\""), "{text}");
        let config = Config {
            vhosts: vec!["more".to_owned(), "others".to_owned()],
            ..with_url("amqp://u:p@host/app")
        };
        assert_eq!(config.check().unwrap_err().0, "default_vhost");
    }

    #[test]
    fn names_of_machines_mean_virtual_hosts() {
        let named = |name: &str, vhost: &str| Config {
            host_names: BTreeMap::from([(name.to_owned(), vhost.to_owned())]),
            ..Config::default()
        };
        assert_eq!(named("push.example.com", "/").check(), Ok(()));
        for (name, vhost) in [("push.example.com", "app"), ("", "/"), ("push", "")] {
            assert_eq!(named(name, vhost).check().unwrap_err().0, "host_names");
        }
        let ambiguous = Config {
            vhosts: vec!["/".to_owned(), "app".to_owned()],
            ..named("app", "/")
        };
        assert_eq!(ambiguous.check().unwrap_err().0, "host_names");
        let any = Config {
            vhosts: vec!["*".to_owned()],
            ..named("push.example.com", "app")
        };
        assert_eq!(any.check(), Ok(()));
    }

    #[test]
    fn the_default_virtual_host_is_one_of_the_virtual_hosts() {
        assert_eq!(Config::default().check(), Ok(()));
        let config = Config {
            vhosts: vec!["app".to_owned()],
            ..Config::default()
        };
        assert_eq!(
            config.check(),
            Err((
                "default_vhost",
                "\"/\" is not in vhosts [\"app\"]; add it there, or choose one of them".to_owned()
            ))
        );
    }

    #[test]
    fn all_virtual_hosts_are_all_that_rabbitmq_has() {
        let config = |vhosts: &[&str], url: &str| Config {
            vhosts: vhosts.iter().map(ToString::to_string).collect(),
            url: Some(url.parse().unwrap()),
            ..Config::default()
        };
        let rabbit = "amqp://u:p@host";
        assert_eq!(config(&["*"], rabbit).check(), Ok(()));
        let wrong = |vhosts, url| config(vhosts, url).check().unwrap_err();
        assert_eq!(wrong(&["*", "/"], rabbit).0, "vhosts");
        assert_eq!(wrong(&["*"], "embedded:").0, "vhosts");
    }

    #[test]
    fn the_heartbeat_is_whole_seconds_and_never_off() {
        for (heartbeat, sound) in [(0, false), (500, false), (1500, false), (1000, true)] {
            let config = Config {
                heartbeat: Duration::from_millis(heartbeat),
                ..Config::default()
            };
            assert_eq!(config.check().is_ok(), sound, "{heartbeat}");
        }
    }
}
