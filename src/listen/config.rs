//! The `[listen]` section.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, de::Error};

use super::{KeepAlive, origin};
use crate::{
    address::canonical,
    units::{Checked, at_least_one, more_than_zero},
};

/// Linux takes no more than 32,767 seconds.
const LONGEST_KEEPALIVE: Duration = Duration::from_secs(9 * 3600);
/// Milliseconds, in a signed number of 32 bits.
const LONGEST_USER_TIMEOUT: Duration = Duration::from_secs(24 * 24 * 3600);

/// Where clients come in, and which.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The address for WebSocket and SockJS; `None`, written `"off"`: there is none. The port is
    /// that of RabbitMQ's Web STOMP plug-in, so that clients need no change.
    #[serde(deserialize_with = "address_or_off")]
    pub http: Option<SocketAddr>,
    /// The address for the same with TLS: `wss`. Off by default; the plug-in's usual port is
    /// 15673.
    #[serde(deserialize_with = "address_or_off")]
    pub https: Option<SocketAddr>,
    /// The address for STOMP over TCP; `None`, written `"off"`: there is none. The port is that
    /// of RabbitMQ's STOMP plug-in.
    #[serde(deserialize_with = "address_or_off")]
    pub stomp: Option<SocketAddr>,
    /// The address for STOMP over TLS. Off by default; the plug-in's usual port is 61614.
    #[serde(deserialize_with = "address_or_off")]
    pub stomps: Option<SocketAddr>,
    /// The address for health checks, metrics and the operator's page. Not for the public: on
    /// the loopback interface unless said otherwise.
    #[serde(deserialize_with = "address")]
    pub admin: SocketAddr,
    /// The path of the WebSocket; `/ws` as in the plug-in.
    pub websocket_path: String,
    /// Web pages and apps that may connect, by their origin, or by a pattern for the hosts below a
    /// domain; `*` allows all. Empty: pages of the host that they connect to, only.
    pub origins: Vec<String>,
    /// Whether a client without an `Origin` header may connect over WebSocket. Browsers always
    /// send one, and other programs rarely do, so this is about mobile and server clients.
    pub allow_missing_origin: bool,
    /// STOMP connections at a time that are logged in, over all transports; more are refused. Each
    /// takes a file.
    pub max_connections: usize,
    /// Connections at a time that are not logged in, over all listeners and transports; further ones
    /// take the places of others. 10,000: an office of 5,000 users behind one address can come back
    /// at once, twice over.
    pub max_unauthenticated: usize,
    /// Names by which clients and operators reach this node, beside `localhost` and IP addresses.
    /// Empty: the listeners for clients take any, `admin` no other.
    pub host_names: Vec<String>,
    /// How long a client may take for the PROXY header and TLS, and then for the upgrade.
    #[serde(with = "humantime_serde")]
    pub handshake_timeout: Duration,
    /// After how much silence the system asks a client's system whether it is still there (TCP
    /// keep-alive), in whole seconds; zero: never.
    #[serde(with = "humantime_serde")]
    pub tcp_keepalive: Duration,
    /// For how long what was sent to a client, such a question too, may stay unacknowledged before
    /// its connection breaks (`TCP_USER_TIMEOUT`, on Linux); zero: as long as the system likes.
    #[serde(with = "humantime_serde")]
    pub tcp_user_timeout: Duration,
    /// The proxies that are believed when they name a client's address, in a PROXY header or in
    /// `X-Forwarded-For` or `Forwarded`: addresses and networks.
    #[serde(deserialize_with = "networks")]
    pub trusted_proxies: Vec<IpNet>,
    /// Whether each connection to these ports begins with a PROXY header (version 1 or 2), which
    /// says the client's address. With `trusted_proxies`, only each of theirs. `admin` has none.
    pub proxy_protocol: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            http: Some(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 15674))),
            https: None,
            stomp: Some(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 61613))),
            stomps: None,
            admin: SocketAddr::from((Ipv4Addr::LOCALHOST, 15680)),
            websocket_path: "/ws".to_owned(),
            origins: Vec::new(),
            allow_missing_origin: true,
            max_connections: 100_000,
            max_unauthenticated: 10_000,
            host_names: Vec::new(),
            handshake_timeout: Duration::from_secs(10),
            tcp_keepalive: Duration::from_secs(25),
            tcp_user_timeout: Duration::from_secs(75),
            trusted_proxies: Vec::new(),
            proxy_protocol: false,
        }
    }
}

impl Config {
    /// Whether the values make sense.
    ///
    /// # Errors
    /// The key at fault, and what is wrong and what to do.
    pub fn check(&self) -> Checked {
        let addresses = [
            ("http", self.http),
            ("https", self.https),
            ("stomp", self.stomp),
            ("stomps", self.stomps),
            ("admin", Some(self.admin)),
        ];
        if [self.http, self.https, self.stomp, self.stomps] == [None; 4] {
            let message = "and https, stomp and stomps are all \"off\", so nobody could connect; \
                           give one of them an address";
            return Err(("http", message.to_owned()));
        }
        for (index, (key, address)) in addresses.iter().enumerate() {
            for (other_key, other) in addresses.iter().take(index) {
                if let (Some(address), Some(other)) = (address, other)
                    && collide(*address, *other)
                {
                    return Err((
                        key,
                        format!("{address} is taken by {other_key} ({other}); choose another port"),
                    ));
                }
            }
        }
        check_path("websocket_path", &self.websocket_path, "/ws")?;
        self.check_origins()?;
        at_least_one(
            "max_connections",
            self.max_connections,
            "nobody could connect",
        )?;
        at_least_one(
            "max_unauthenticated",
            self.max_unauthenticated,
            "nobody could log in",
        )?;
        self.host_names
            .iter()
            .try_for_each(|name| check_host_name(name))?;
        more_than_zero(
            "handshake_timeout",
            self.handshake_timeout,
            "nobody could connect",
        )?;
        self.check_keep_alive()
    }

    /// All that are wrong are said at once: a list is mended in one go.
    fn check_origins(&self) -> Checked {
        let checked = self.origins.iter().map(|entry| origin::check(entry));
        let wrong: Vec<String> = checked.filter_map(Result::err).collect();
        match &*wrong {
            [] => Ok(()),
            _ => Err(("origins", wrong.join("; and "))),
        }
    }

    fn check_keep_alive(&self) -> Checked {
        if self.tcp_keepalive.subsec_nanos() != 0 || self.tcp_keepalive > LONGEST_KEEPALIVE {
            let message = "TCP counts it in seconds, up to nine hours; write e.g. \"25s\", or \
                           \"0s\" for never";
            return Err(("tcp_keepalive", message.to_owned()));
        }
        let user_timeout = self.tcp_user_timeout;
        if !user_timeout.subsec_nanos().is_multiple_of(1_000_000)
            || user_timeout > LONGEST_USER_TIMEOUT
        {
            let message = "TCP counts it in milliseconds, up to 24 days; write e.g. \"75s\", or \
                           \"0s\" for the system's own";
            return Err(("tcp_user_timeout", message.to_owned()));
        }
        if !user_timeout.is_zero() && user_timeout <= self.tcp_keepalive {
            let message = "is not longer than tcp_keepalive, so a client that is silent would be \
                           cut before it could answer; write three times that";
            return Err(("tcp_user_timeout", message.to_owned()));
        }
        Ok(())
    }

    /// What the system is told of each client's connection.
    #[must_use]
    pub fn keep_alive(&self) -> KeepAlive {
        KeepAlive {
            idle: self.tcp_keepalive,
            user_timeout: self.tcp_user_timeout,
        }
    }
}

/// Whether one program cannot listen at both. Port 0 is whatever the system has free, so it never
/// collides.
pub(crate) fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    // `[::]` takes IPv4, too; `0.0.0.0` takes no IPv6.
    let takes = |all: IpAddr, one: IpAddr| all.is_unspecified() && (all.is_ipv6() || one.is_ipv4());
    let [one, other] = [a, b].map(|address| address.ip().to_canonical());
    let same_ip = one == other || takes(one, other) || takes(other, one);
    a.port() != 0 && a.port() == b.port() && same_ip
}

pub(super) fn check_path(key: &'static str, path: &str, example: &str) -> Checked {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte);
    if path.len() < 2 || !path.starts_with('/') || path.ends_with('/') || !path.bytes().all(plain) {
        return Err((
            key,
            format!(
                "{path:?} is not a path; write \"/\" and letters, digits, \"-\", \"_\", \".\" or \
                 \"~\", such as {example:?}"
            ),
        ));
    }
    Ok(())
}

fn check_host_name(name: &str) -> Checked {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    let is_label = |label: &str| !label.is_empty() && label.bytes().all(is_plain);
    // A request's name is compared without the dot that it may end with.
    if name.split('.').all(is_label) {
        return Ok(());
    }
    Err((
        "host_names",
        format!(
            "{name:?} is not the name of a host; write it without scheme, port and a dot at its \
             start or end, such as \"push.example.com\""
        ),
    ))
}

fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    texts.iter().map(|text| network(text)).collect()
}

fn network<E: Error>(text: &str) -> Result<IpNet, E> {
    let address = text.parse::<IpAddr>().map(IpNet::from);
    let Ok(network) = address.or_else(|_| text.parse::<IpNet>()) else {
        return Err(E::custom(format!(
            "{text:?} is neither an address nor a network; write e.g. \"10.0.0.5\" or \
             \"10.0.0.0/8\""
        )));
    };
    // A peer of IPv4 is compared as such.
    let network = canonical(network);
    if network.trunc() != network {
        return Err(E::custom(format!(
            "{text:?} has more bits than its length says; write \"{}\"",
            network.trunc()
        )));
    }
    // Where every address is a proxy's, a header's first one counts, which is the client's own word.
    if network.prefix_len() == 0 {
        return Err(E::custom(format!(
            "{text:?} is everybody, so each client could choose its own address; write the \
             addresses or networks of your proxies, such as \"10.0.0.0/8\""
        )));
    }
    Ok(network)
}

fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(|_| {
        D::Error::custom(format!(
            "{text:?} is not an address; write an IP address and a port, such as \
             \"0.0.0.0:15674\" or \"[::]:15674\""
        ))
    })
}

fn address_or_off<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text == "off" {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        D::Error::custom(format!(
            "{text:?} is not an address; write an IP address and a port, such as \
             \"0.0.0.0:15674\" or \"[::]:15674\", or \"off\""
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_sound() {
        assert_eq!(Config::default().check(), Ok(()));
    }

    #[test]
    fn all_wrong_origins_are_told() {
        let origins = ["app.example.com", "https://a.example", "https://b.example/"];
        let config = Config {
            origins: origins.map(str::to_owned).into(),
            ..Config::default()
        };
        let (key, text) = config.check().unwrap_err();
        assert_eq!(key, "origins");
        assert!(
            text.starts_with("\"app.example.com\" is not an origin"),
            "{text}"
        );
        let second = "; and \"https://b.example/\" is not as browsers send it; write \
                      \"https://b.example\"";
        assert!(text.ends_with(second), "{text}");
    }

    #[test]
    fn one_address_cannot_be_used_twice() {
        let config = Config {
            admin: SocketAddr::from((Ipv4Addr::LOCALHOST, 15674)),
            ..Config::default()
        };
        assert_eq!(
            config.check(),
            Err((
                "admin",
                "127.0.0.1:15674 is taken by http (0.0.0.0:15674); choose another port".to_owned()
            ))
        );
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let config = Config {
            http: Some(any),
            https: Some(any),
            stomp: Some(any),
            stomps: Some(any),
            admin: any,
            ..Config::default()
        };
        assert_eq!(config.check(), Ok(()));
    }

    #[test]
    fn addresses_collide_as_in_the_system() {
        for (one, other, is_taken) in [
            ("127.0.0.1:1", "127.0.0.1:1", true),
            ("127.0.0.1:1", "127.0.0.1:2", false),
            ("127.0.0.1:1", "127.0.0.2:1", false),
            ("127.0.0.1:1", "[::ffff:127.0.0.1]:1", true),
            ("0.0.0.0:1", "[::ffff:127.0.0.1]:1", true),
            ("0.0.0.0:1", "127.0.0.1:1", true),
            ("0.0.0.0:1", "[::1]:1", false),
            ("0.0.0.0:1", "[::]:1", true),
            ("127.0.0.1:1", "[::]:1", true),
            ("[::1]:1", "[::]:1", true),
            ("[::]:0", "[::]:0", false),
        ] {
            let [one, other] = [one, other].map(|text| text.parse().unwrap());
            assert_eq!(collide(one, other), is_taken, "{one} {other}");
            assert_eq!(collide(other, one), is_taken, "{other} {one}");
        }
    }

    #[test]
    fn keep_alive_is_what_tcp_can_do() {
        let check = |tcp_keepalive, tcp_user_timeout| {
            let config = Config {
                tcp_keepalive: Duration::from_millis(tcp_keepalive),
                tcp_user_timeout: Duration::from_millis(tcp_user_timeout),
                ..Config::default()
            };
            config.check().map_err(|(key, _)| key)
        };
        for (keepalive, user_timeout) in [(0, 0), (25_000, 0), (0, 1), (1000, 1001)] {
            assert_eq!(check(keepalive, user_timeout), Ok(()));
        }
        for keepalive in [1500, 40_000_000] {
            assert_eq!(check(keepalive, 0), Err("tcp_keepalive"));
        }
        for (keepalive, user_timeout) in [(25_000, 25_000), (0, 3_000_000_000)] {
            assert_eq!(check(keepalive, user_timeout), Err("tcp_user_timeout"));
        }
    }

    #[test]
    fn host_names_are_bare() {
        for (name, is_right) in [
            ("push.example.com", true),
            ("stentor_admin", true),
            ("https://push.example.com", false),
            ("push.example.com:15674", false),
            ("*", false),
            ("", false),
            ("push.example.com.", false),
            (".example.com", false),
            ("push..example.com", false),
            (".", false),
        ] {
            assert_eq!(check_host_name(name).is_ok(), is_right, "{name}");
        }
    }

    #[test]
    fn proxies_are_addresses_and_networks() {
        let read = |text: &str| {
            let config: Result<Config, _> = toml::from_str(&format!("trusted_proxies = {text}"));
            config.map(|config| config.trusted_proxies)
        };
        let networks = read("['10.0.0.5', '10.1.0.0/16', 'fd00::/8', '::1']").unwrap();
        let shown: Vec<_> = networks.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["10.0.0.5/32", "10.1.0.0/16", "fd00::/8", "::1/128"]);
        for (wrong, says) in [
            ("['10.0.0.5/8']", "write \"10.0.0.0/8\""),
            ("['proxy.example.com']", "neither an address nor a network"),
            ("['10.0.0.0/33']", "neither an address nor a network"),
            ("['10.0.0.5', '0.0.0.0/0']", "\"0.0.0.0/0\" is everybody"),
            ("['::/0']", "\"::/0\" is everybody"),
            ("['::ffff:0.0.0.0/96']", "is everybody"),
            ("['::ffff:10.0.0.5/104']", "write \"10.0.0.0/8\""),
        ] {
            let error = read(wrong).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        // Peers of IPv4 are compared as such.
        let mapped = read("['::ffff:10.0.0.5', '::ffff:10.0.0.0/104']").unwrap();
        let shown: Vec<_> = mapped.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["10.0.0.5/32", "10.0.0.0/8"]);
    }

    #[test]
    fn somewhere_clients_come_in() {
        let all_off = Config {
            http: None,
            stomp: None,
            ..Config::default()
        };
        assert_eq!(all_off.check().unwrap_err().0, "http");
        let one = Config {
            stomps: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 61614))),
            ..all_off
        };
        assert_eq!(one.check(), Ok(()));
    }

    #[test]
    fn a_path_begins_with_a_slash() {
        for path in ["", "/", "ws", "/ws/", "/ws?x", "/w s"] {
            assert!(
                check_path("websocket_path", path, "/ws").is_err(),
                "{path:?}"
            );
        }
        assert_eq!(check_path("prefix", "/stomp/websocket", "/ws"), Ok(()));
    }
}
