//! The address of a client: its peer's own, or the one that a proxy names.
//!
//! A PROXY header, `X-Forwarded-For` and `Forwarded` (RFC 7239) are words of whoever is at the other
//! end of the socket. They count only from networks that the operator trusts.

use std::{
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use hyper::{
    HeaderMap,
    header::{FORWARDED, HeaderName},
};
use ipnet::IpNet;
use parking_lot::Mutex;

use crate::{
    node::ClientAddress,
    telemetry::{self, Seldom},
};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The proxies whose word on a client's address counts (`[listen] trusted_proxies`).
#[derive(Debug, Default)]
pub struct Proxies {
    trusted: Box<[IpNet]>,
    /// Whether the log has named the key that is missing.
    has_warned: AtomicBool,
    strangers: Mutex<Seldom>,
}

impl Proxies {
    /// Those in these networks.
    #[must_use]
    pub fn new(trusted: &[IpNet]) -> Self {
        Self {
            trusted: trusted.into(),
            ..Self::default()
        }
    }

    /// The address of whoever is at the other end of a socket, or is named in a PROXY header. A
    /// trusted proxy stands for many clients, wherever it is.
    #[must_use]
    pub fn peer(&self, remote: SocketAddr) -> ClientAddress {
        let mut address = ClientAddress::direct(remote);
        address.is_shared |= self.trusts(address.ip());
        address
    }

    /// The client's address by a request's headers, which came from `peer`.
    #[must_use]
    pub fn client(&self, peer: ClientAddress, headers: &HeaderMap) -> ClientAddress {
        if self.trusts(peer.ip()) {
            return self.forwarded(headers).unwrap_or(peer);
        }
        let is_forwarded = headers.contains_key(X_FORWARDED_FOR) || headers.contains_key(FORWARDED);
        // A list says that there are no other proxies: then anybody could be spared by a header.
        if !is_forwarded || !self.trusted.is_empty() {
            return peer;
        }
        if !self.has_warned.swap(true, Ordering::Relaxed) {
            telemetry::proxy_not_trusted(peer.ip());
        }
        ClientAddress {
            is_shared: true,
            ..peer
        }
    }

    /// Whether a connection from here has to begin with a PROXY header, where the listener takes
    /// any. Without a list each has to.
    pub(super) fn speaks_for_others(&self, remote: SocketAddr) -> bool {
        self.trusted.is_empty() || self.trusts(remote.ip().to_canonical())
    }

    /// Says, now and then, that somebody sent a PROXY header who is not trusted.
    pub(super) fn log_stranger(&self, listener: &str, remote: SocketAddr) {
        if let Some(unsaid) = self.strangers.lock().let_through(Instant::now()) {
            telemetry::proxy_header_refused(listener, remote, unsaid);
        }
    }

    fn trusts(&self, ip: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(&ip))
    }

    /// Of the addresses that proxies have noted, the last that is none of theirs: the entries before
    /// it are the client's own words, which are not even read. If all are trusted, it is the first.
    /// `None`: an entry that counts cannot be read.
    fn forwarded(&self, headers: &HeaderMap) -> Option<ClientAddress> {
        // Where there are both, the one that almost all proxies write.
        let (name, read): (_, fn(&str) -> Option<SocketAddr>) =
            match headers.contains_key(X_FORWARDED_FOR) {
                true => (X_FORWARDED_FOR, node),
                false => (FORWARDED, forwarded_for),
            };
        let lines: Vec<_> = headers.get_all(name).iter().collect();
        let mut first = None;
        for line in lines.into_iter().rev() {
            for entry in line.as_bytes().rsplit(|byte| *byte == b',') {
                let entry = std::str::from_utf8(entry).ok()?.trim();
                if entry.is_empty() {
                    continue;
                }
                let client = self.peer(read(entry)?);
                if !self.trusts(client.ip()) {
                    return Some(client);
                }
                first = Some(client);
            }
        }
        first
    }
}

/// The address in one element of `Forwarded`.
fn forwarded_for(element: &str) -> Option<SocketAddr> {
    element.split(';').find_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        let is_for = name.trim().eq_ignore_ascii_case("for");
        is_for.then(|| node(value.trim().trim_matches('"')))?
    })
}

/// An address with a port or without, in which case it is 0. Names such as `unknown` are none.
fn node(text: &str) -> Option<SocketAddr> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(SocketAddr::new(ip.to_canonical(), 0));
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(SocketAddr::new(address.ip().to_canonical(), address.port()));
    }
    let bare = text.strip_prefix('[')?.strip_suffix(']')?;
    let ip = bare.parse::<IpAddr>().ok().filter(IpAddr::is_ipv6)?;
    Some(SocketAddr::new(ip.to_canonical(), 0))
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    const PROXY: &str = "192.0.2.1:4711";

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn proxies(networks: &[&str]) -> Proxies {
        let networks: Vec<IpNet> = networks.iter().map(|text| text.parse().unwrap()).collect();
        Proxies::new(&networks)
    }

    fn headers(lines: &[(HeaderName, &[u8])]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name, HeaderValue::from_bytes(value).unwrap());
        }
        headers
    }

    /// The client's address behind the proxy `192.0.2.1`; also trusted are 10.0.0.0/8 and fd00::/8.
    fn behind(lines: &[(HeaderName, &[u8])]) -> ClientAddress {
        let proxies = proxies(&["192.0.2.1/32", "10.0.0.0/8", "fd00::/8"]);
        let peer = proxies.peer(address(PROXY));
        assert!(peer.is_shared);
        proxies.client(peer, &headers(lines))
    }

    #[test]
    fn the_last_entry_that_is_not_trusted_counts() {
        let x = |value: &'static str| (X_FORWARDED_FOR, value.as_bytes());
        let f = |value: &'static str| (FORWARDED, value.as_bytes());
        for (lines, client) in [
            (vec![x("203.0.113.9")], "203.0.113.9:0"),
            (vec![x("203.0.113.9:5050")], "203.0.113.9:5050"),
            (vec![x("1.1.1.1, 203.0.113.9")], "203.0.113.9:0"),
            (vec![x("nonsense, 203.0.113.9")], "203.0.113.9:0"),
            (
                vec![x("1.1.1.1, 203.0.113.9, 10.1.1.1,, 10.2.2.2 ")],
                "203.0.113.9:0",
            ),
            (
                vec![x("1.1.1.1, 203.0.113.9"), x("10.1.1.1")],
                "203.0.113.9:0",
            ),
            (vec![x("10.3.3.3, 10.1.1.1")], "10.3.3.3:0"),
            (vec![x("2001:db8::7, fd00::1")], "[2001:db8::7]:0"),
            (vec![x("[2001:db8::7]:443")], "[2001:db8::7]:443"),
            (vec![x("[2001:db8::7]")], "[2001:db8::7]:0"),
            (vec![x("::ffff:203.0.113.9")], "203.0.113.9:0"),
            (
                vec![f("for=203.0.113.9;proto=https;by=10.0.0.1")],
                "203.0.113.9:0",
            ),
            (
                vec![f("proto=https; For=\"[2001:db8::7]:443\"")],
                "[2001:db8::7]:443",
            ),
            (
                vec![f("for=\"1.1.1.1, for=203.0.113.9"), f("for=10.0.0.1")],
                "203.0.113.9:0",
            ),
            // Both: the common one.
            (vec![f("for=1.1.1.1"), x("203.0.113.9")], "203.0.113.9:0"),
        ] {
            let found = behind(&lines);
            assert_eq!(found.remote, address(client), "{lines:?}");
            assert_eq!(found.is_shared, client.starts_with("10."), "{lines:?}");
        }
    }

    #[test]
    fn behind_an_entry_that_cannot_be_read_it_is_the_proxy() {
        let mut all: Vec<Vec<(HeaderName, &[u8])>> = vec![vec![]];
        for value in [
            &b"unknown"[..],
            b"_hidden",
            b"203.0.113.9, unknown, 10.1.1.1",
            b"203.0.113.9, \xff\xfe",
            b"203.0.113",
            b"203.0.113.9:99999",
            b"fe80::1%eth0",
            b"[203.0.113.9]",
            b"",
            b" , ,",
        ] {
            all.push(vec![(X_FORWARDED_FOR, value)]);
        }
        for value in [
            &b"for=unknown"[..],
            b"by=203.0.113.9",
            b"for",
            b"203.0.113.9",
        ] {
            all.push(vec![(FORWARDED, value)]);
        }
        for lines in all {
            let found = behind(&lines);
            assert_eq!(found.remote, address(PROXY), "{lines:?}");
            assert!(found.is_shared);
        }
    }

    #[test]
    fn others_are_not_believed() {
        let lines = headers(&[(X_FORWARDED_FOR, b"203.0.113.9")]);
        let peer = address("198.51.100.1:1");
        let trusting = proxies(&["192.0.2.1/32"]);
        let found = trusting.client(trusting.peer(peer), &lines);
        assert_eq!(found, ClientAddress::direct(peer));
        assert!(!found.is_shared);
        // A proxy that nobody has named: its address is many clients'.
        let unset = proxies(&[]);
        let found = unset.client(unset.peer(peer), &lines);
        assert_eq!((found.remote, found.is_shared), (peer, true));
        let found = unset.client(unset.peer(peer), &HeaderMap::new());
        assert!(!found.is_shared);
    }

    #[test]
    fn proxies_are_known_by_either_form_of_their_address() {
        let mapped = proxies(&["192.0.2.0/24"]);
        assert!(mapped.peer(address("[::ffff:192.0.2.9]:1")).is_shared);
        assert!(mapped.speaks_for_others(address("[::ffff:192.0.2.9]:1")));
        assert!(!mapped.speaks_for_others(address("192.0.3.9:1")));
        assert!(proxies(&[]).speaks_for_others(address("192.0.3.9:1")));
    }
}
