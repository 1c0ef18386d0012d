//! The `[redis]` section: how the Redis of `[presence]` is reached.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::Url;
use crate::units::Checked;

/// The `[redis]` section. With its defaults, [`super::Config::url`] says all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RedisConfig {
    /// The Sentinels, as `host:port`: they name the server of today. The host of
    /// [`super::Config::url`] is the name under which they know it. Empty: there are none.
    pub sentinels: Vec<Box<str>>,
    /// The account at the Sentinels; empty: none.
    pub sentinel_user: Box<str>,
    /// Its password; empty: none.
    pub sentinel_password: Secret,
    /// Whether the Sentinels are spoken to over TLS.
    pub sentinel_tls: bool,
    /// Whether the server is a node of a Redis Cluster.
    pub cluster: bool,
    /// More nodes of the cluster, as `host:port`: any of them is enough to find all others.
    pub nodes: Vec<Box<str>>,
    /// The authorities that vouch for the servers (PEM); empty: those of the system.
    pub ca: PathBuf,
    /// The certificate that is shown to the servers, and those between it and its authority (PEM);
    /// empty: none.
    pub certificate: PathBuf,
    /// Its private key (PEM).
    pub key: PathBuf,
}

/// A password, which is never shown.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(Box<str>);

impl Secret {
    /// The password, for a client library alone; `None`: there is none.
    #[must_use]
    pub fn reveal(&self) -> Option<&str> {
        Some(&*self.0).filter(|text| !text.is_empty())
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "\"\"" } else { "\"***\"" })
    }
}

/// A host, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HostPort {
    pub(super) host: String,
    pub(super) port: u16,
}

/// The files of TLS, read.
#[derive(Clone, Debug, Default)]
pub(super) struct TlsFiles {
    pub(super) ca: Option<Vec<u8>>,
    /// The certificate and its key.
    pub(super) shown: Option<(Vec<u8>, Secret)>,
}

impl RedisConfig {
    /// Checks the values.
    ///
    /// # Errors
    /// The key at fault, the fault, and the remedy.
    pub fn check(&self) -> Checked {
        for (key, addresses) in [("sentinels", &self.sentinels), ("nodes", &self.nodes)] {
            if let Some(wrong) = addresses.iter().find(|text| HostPort::read(text).is_none()) {
                let message = format!(
                    "{wrong:?} is no address; write host:port (\"redis-1.example.com:26379\"), \
                     without a user or a password"
                );
                return Err((key, message));
            }
        }
        if self.cluster && !self.sentinels.is_empty() {
            let message = "has Sentinels, but a cluster (cluster = true) has none: it promotes \
                           replicas by itself; leave one of the two out";
            return Err(("sentinels", message.to_owned()));
        }
        if !self.cluster && !self.nodes.is_empty() {
            let message = "are nodes of a cluster; write cluster = true, too, or leave them out";
            return Err(("nodes", message.to_owned()));
        }
        let has_account =
            !self.sentinel_user.is_empty() || self.sentinel_password.reveal().is_some();
        if self.sentinels.is_empty() && (has_account || self.sentinel_tls) {
            let message = "is for Sentinels, but `sentinels` is empty; name them there, or leave \
                           this out";
            let key = if self.sentinel_tls {
                "sentinel_tls"
            } else {
                "sentinel_user"
            };
            return Err((key, message.to_owned()));
        }
        if !self.sentinel_user.is_empty() && self.sentinel_password.reveal().is_none() {
            let message = "has no password; write it to sentinel_password";
            return Err(("sentinel_user", message.to_owned()));
        }
        match (is_set(&self.certificate), is_set(&self.key)) {
            (true, false) => Err(("certificate", "needs its private key: set `key`".to_owned())),
            (false, true) => Err(("key", "needs its certificate: set `certificate`".to_owned())),
            _ => Ok(()),
        }
    }

    /// Checks the values against the store that they are for.
    ///
    /// # Errors
    /// The key at fault, the fault, and the remedy.
    pub fn check_with(&self, url: &Url) -> Checked {
        let Url::Redis(redis) = url else {
            if *self == Self::default() {
                return Ok(());
            }
            let message = "is for Redis, but [presence] url names none; write its address there \
                           (\"redis://user:password@host:6379\"), or leave [redis] out";
            return Err((self.first_set(), message.to_owned()));
        };
        let is_tls = redis.reveal().starts_with("rediss:");
        if !is_tls && !self.sentinel_tls && (is_set(&self.ca) || is_set(&self.certificate)) {
            let key = if is_set(&self.ca) {
                "ca"
            } else {
                "certificate"
            };
            let message = "is for TLS, but [presence] url begins with \"redis:\"; write \"rediss:\" \
                           there";
            return Err((key, message.to_owned()));
        }
        let database = redis.path().trim_start_matches('/');
        if self.cluster && !matches!(database, "" | "0") {
            let message = "has the database 0 alone, but [presence] url names another; leave that \
                           out";
            return Err(("cluster", message.to_owned()));
        }
        Ok(())
    }

    fn first_set(&self) -> &'static str {
        let keys = [
            ("sentinels", !self.sentinels.is_empty()),
            ("cluster", self.cluster),
            ("ca", is_set(&self.ca)),
            ("certificate", is_set(&self.certificate)),
        ];
        let set = keys.iter().find(|(_, is_set)| *is_set);
        set.map_or("sentinels", |(key, _)| key)
    }

    /// Reads the files of TLS.
    ///
    /// # Errors
    /// The key at fault, and the fault.
    pub(super) fn read_files(&self) -> Result<TlsFiles, (&'static str, String)> {
        let shown = match read("certificate", &self.certificate)? {
            Some(certificate) => {
                let key = read("key", &self.key)?.unwrap_or_default();
                let key = String::from_utf8(key)
                    .map_err(|_| ("key", format!("{} is not PEM", self.key.display())))?;
                Some((certificate, Secret(key.into())))
            }
            None => None,
        };
        Ok(TlsFiles {
            ca: read("ca", &self.ca)?,
            shown,
        })
    }
}

impl HostPort {
    /// `host:port`, where the host may be an IPv6 address in brackets.
    pub(super) fn read(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let bare = match host.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']')?,
            None => host,
        };
        let is_wrong = |sign: char| sign.is_whitespace() || "@/[]".contains(sign);
        if bare.is_empty() || bare.contains(is_wrong) || (bare == host && bare.contains(':')) {
            return None;
        }
        Some(Self {
            host: bare.to_owned(),
            port: port.parse().ok().filter(|port| *port > 0)?,
        })
    }
}

fn is_set(path: &Path) -> bool {
    !path.as_os_str().is_empty()
}

fn read(key: &'static str, path: &Path) -> Result<Option<Vec<u8>>, (&'static str, String)> {
    if !is_set(path) {
        return Ok(None);
    }
    let text = fs::read(path).map_err(|error| (key, format!("{}: {error}", path.display())))?;
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(change: impl FnOnce(&mut RedisConfig)) -> &'static str {
        let mut config = RedisConfig::default();
        change(&mut config);
        config.check().unwrap_err().0
    }

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for (text, host) in [
            ("redis-1.example.com:26379", "redis-1.example.com"),
            ("10.0.0.1:1", "10.0.0.1"),
            ("[2001:db8::1]:65535", "2001:db8::1"),
        ] {
            assert_eq!(HostPort::read(text).unwrap().host, host);
        }
        for text in [
            "",
            "host",
            "host:",
            "host:0",
            "host:65536",
            ":1",
            "redis://host:1",
            "a@b:1",
            "::1:1",
            "[::1:1",
            "a b:1",
        ] {
            assert_eq!(HostPort::read(text), None, "{text}");
        }
    }

    #[test]
    fn values_that_do_not_go_together_are_blamed() {
        assert_eq!(RedisConfig::default().check(), Ok(()));
        let one = || vec!["redis-1:7000".into()];
        assert_eq!(
            wrong(|config| config.sentinels = vec!["x".into()]),
            "sentinels"
        );
        assert_eq!(wrong(|config| config.nodes = one()), "nodes");
        let both = |config: &mut RedisConfig| (config.sentinels, config.cluster) = (one(), true);
        assert_eq!(wrong(both), "sentinels");
        assert_eq!(wrong(|config| config.sentinel_tls = true), "sentinel_tls");
        assert_eq!(
            wrong(|config| config.sentinel_password = "x".into()),
            "sentinel_user"
        );
        let nameless = |config: &mut RedisConfig| {
            (config.sentinels, config.sentinel_user) = (one(), "stentor".into());
        };
        assert_eq!(wrong(nameless), "sentinel_user");
        assert_eq!(wrong(|config| config.key = "key.pem".into()), "key");
        assert_eq!(
            wrong(|config| config.certificate = "chain.pem".into()),
            "certificate"
        );
    }

    #[test]
    fn they_are_for_the_redis_that_the_url_names() {
        let check = |config: &RedisConfig, url: &str| {
            let checked = config.check_with(&url.parse().unwrap());
            checked.map_err(|(key, _)| key)
        };
        let none = RedisConfig::default();
        assert_eq!(check(&none, "off"), Ok(()));
        let tls = RedisConfig {
            ca: "ca.pem".into(),
            ..RedisConfig::default()
        };
        assert_eq!(check(&tls, "memory:"), Err("ca"));
        assert_eq!(check(&tls, "redis://host"), Err("ca"));
        assert_eq!(check(&tls, "rediss://host"), Ok(()));
        let cluster = RedisConfig {
            cluster: true,
            ..RedisConfig::default()
        };
        assert_eq!(check(&cluster, "redis://host/1"), Err("cluster"));
        assert_eq!(check(&cluster, "redis://host/0"), Ok(()));
    }

    #[test]
    fn a_secret_is_not_shown() {
        let config = RedisConfig {
            sentinel_password: "s3cret".into(),
            ..RedisConfig::default()
        };
        assert!(!format!("{config:?}").contains("s3cret"));
        assert_eq!(config.sentinel_password.reveal(), Some("s3cret"));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let config = RedisConfig {
            ca: "/nowhere/ca.pem".into(),
            ..RedisConfig::default()
        };
        let (key, message) = config.read_files().unwrap_err();
        assert_eq!(key, "ca");
        assert!(message.starts_with("/nowhere/ca.pem: "), "{message}");
    }
}
