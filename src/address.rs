//! The addresses that limits count by.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use ipnet::{IpNet, Ipv4Net};

/// The address of a client, as limits, the hook and the log take it: behind a trusted proxy, the one
/// that the proxy names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientAddress {
    /// The address and the port; port 0 where the proxy names none.
    pub remote: SocketAddr,
    /// Whether it may stand for any number of clients: then no limit by address refuses it.
    pub is_shared: bool,
}

impl ClientAddress {
    /// The address of a client that no proxy speaks for.
    #[must_use]
    pub fn direct(remote: SocketAddr) -> Self {
        let is_shared = is_shared(remote.ip());
        Self { remote, is_shared }
    }

    /// The address without its port; an IPv4 address also where it came mapped to IPv6.
    #[must_use]
    pub const fn ip(&self) -> IpAddr {
        self.remote.ip().to_canonical()
    }

    /// What limits count it as.
    #[must_use]
    pub fn key(&self) -> AddressKey {
        self.ip().into()
    }
}

/// One address to limits: an IPv4 address, or a /64 of IPv6, which is what one
/// subscriber of an Internet provider has at least (RFC 6177).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AddressKey {
    /// An IPv4 address, also where it came mapped to IPv6.
    V4(Ipv4Addr),
    /// The upper half of an IPv6 address.
    V6(u64),
}

impl AddressKey {
    /// The first of its addresses.
    #[must_use]
    pub fn first(self) -> IpAddr {
        match self {
            Self::V4(address) => address.into(),
            Self::V6(upper) => Ipv6Addr::from_bits(u128::from(upper) << 64).into(),
        }
    }
}

impl From<IpAddr> for AddressKey {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address),
            // The upper half fits.
            IpAddr::V6(address) => Self::V6((address.to_bits() >> 64) as u64),
        }
    }
}

impl fmt::Display for AddressKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4(address) => address.fmt(f),
            Self::V6(upper) => write!(f, "{}/64", Ipv6Addr::from_bits(u128::from(*upper) << 64)),
        }
    }
}

/// Whether an address may stand for any number of clients: loopback and private networks, where
/// proxies and load balancers are, and networks of carriers (RFC 6598). Limits by address refuse
/// nobody there.
#[must_use]
pub fn is_shared(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let [first, second, ..] = address.octets();
            let is_of_carrier = first == 100 && (64..128).contains(&second);
            address.is_loopback()
                || address.is_private()
                || address.is_link_local()
                || is_of_carrier
        }
        IpAddr::V6(address) => {
            address == Ipv6Addr::LOCALHOST
                || address.is_unique_local()
                || address.is_unicast_link_local()
        }
    }
}

/// A network as the addresses in it are compared: of IPv4 also where it was written as mapped to IPv6.
#[must_use]
pub fn canonical(network: IpNet) -> IpNet {
    const MAPPED: u8 = 96;
    if let IpNet::V6(mapped) = network
        && let Some(length) = mapped.prefix_len().checked_sub(MAPPED)
        && let Some(address) = mapped.addr().to_ipv4_mapped()
        && let Ok(v4) = Ipv4Net::new(address, length)
    {
        return v4.into();
    }
    network
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(address: &str) -> AddressKey {
        AddressKey::from(address.parse::<IpAddr>().unwrap())
    }

    #[test]
    fn a_network_of_one_subscriber_is_one_address() {
        assert_eq!(key("2001:db8:1:2::1"), key("2001:db8:1:2:ffff::9"));
        assert_ne!(key("2001:db8:1:2::1"), key("2001:db8:1:3::1"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
        assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
        assert_eq!(key("2001:db8:1:2::1").to_string(), "2001:db8:1:2::/64");
        assert_eq!(key("2001:db8:1:2::1").first().to_string(), "2001:db8:1:2::");
        assert_eq!(key("192.0.2.1").first().to_string(), "192.0.2.1");
    }

    #[test]
    fn addresses_of_many_are_known() {
        for address in [
            "127.0.0.1",
            "127.9.9.9",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.1.1",
            "100.64.0.1",
            "100.127.255.255",
            "::1",
            "fd00::1",
            "fc00::1",
            "fe80::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(is_shared(address.parse().unwrap()), "{address}");
        }
        for address in [
            "192.0.2.1",
            "100.63.255.255",
            "100.128.0.1",
            "172.32.0.1",
            "2001:db8::1",
            "::ffff:192.0.2.1",
        ] {
            assert!(!is_shared(address.parse().unwrap()), "{address}");
        }
    }
}
