//! The names that a request may be for.
//!
//! A page of another site can have its own name lead to this machine's address (DNS rebinding), and
//! then its requests are, for the browser, the site's own. Such a request has that name in `Host`.

use std::net::{IpAddr, Ipv6Addr};

use hyper::{HeaderMap, Request, Uri, Version, header};

/// The names of this node (`[listen] host_names`). IP addresses and `localhost` need no entry: no
/// site can have them for its own.
#[derive(Clone, Debug, Default)]
pub struct HostNames(Box<[Box<str>]>);

impl HostNames {
    /// These names.
    #[must_use]
    pub fn new(names: &[String]) -> Self {
        Self(names.iter().map(|name| name.as_str().into()).collect())
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a request is for one of them. A request that names no host is no browser's.
    ///
    /// # Errors
    /// The words for its author.
    pub(super) fn check(&self, headers: &HeaderMap, uri: &Uri) -> Result<(), String> {
        let lines = headers.get_all(header::HOST).iter();
        let lines = lines.map(|line| line.to_str().unwrap_or("?"));
        let mut all = lines.chain(uri.authority().map(|authority| authority.as_str()));
        match all.find(|host| !self.contains(host)) {
            None => Ok(()),
            Some(host) => Err(format!(
                "This server does not know itself by the name {host:?}; its configuration lists \
                 the names that it has ([listen] host_names)."
            )),
        }
    }

    /// Whether a host, with a port or without, is one of them.
    fn contains(&self, host: &str) -> bool {
        if let Some(rest) = host.strip_prefix('[') {
            let address = rest.split_once(']').map(|(address, _)| address);
            return address.is_some_and(|address| address.parse::<Ipv6Addr>().is_ok());
        }
        let name = host.split_once(':').map_or(host, |(name, _)| name);
        let name = name.strip_suffix('.').unwrap_or(name);
        let mut known = self.0.iter().map(|known| &**known).chain(["localhost"]);
        name.parse::<IpAddr>().is_ok() || known.any(|known| known.eq_ignore_ascii_case(name))
    }
}

/// A request of HTTP/1.1 names its host, and no request names two (RFC 9112, 3.2): somebody in between
/// may have gone by the other one.
///
/// # Errors
/// The words for its author.
pub(super) fn check_host_lines<B>(request: &Request<B>) -> Result<(), &'static str> {
    match request.headers().get_all(header::HOST).iter().count() {
        1 => Ok(()),
        0 if request.version() < Version::HTTP_11 => Ok(()),
        0 => Err("The Host header is missing."),
        _ => Err("The Host header is there more than once."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(hosts: &[&str], uri: &str) -> bool {
        let names = HostNames::new(&["push.example.com".to_owned()]);
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(header::HOST, host.parse().unwrap());
        }
        names.check(&headers, &uri.parse().unwrap()).is_ok()
    }

    #[test]
    fn own_names_and_addresses_pass() {
        for host in [
            "push.example.com",
            "PUSH.example.com.:15674",
            "localhost",
            "localhost:15680",
            "127.0.0.1:15680",
            "192.0.2.1",
            "[::1]:15680",
            "[2001:db8::1]",
        ] {
            assert!(check(&[host], "/"), "{host}");
        }
        assert!(check(&[], "/"), "HTTP/1.0");
        assert!(check(&["push.example.com"], "http://push.example.com/"));
    }

    #[test]
    fn other_names_do_not() {
        for host in [
            "evil.example",
            "push.example.com.evil.example",
            "evil.example:push.example.com",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "[evil.example]",
            "[::1",
            "",
        ] {
            assert!(!check(&[host], "/"), "{host}");
        }
        assert!(!check(&["push.example.com", "evil.example"], "/"));
        assert!(!check(&["push.example.com"], "http://evil.example/"));
    }
}
