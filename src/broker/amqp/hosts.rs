//! The machines that a broker is reached at, and the order in which a link tries them.
//!
//! The nodes of a cluster serve alike, so each link takes one at random. An address at which a link
//! failed lately is tried last, by all links: one that notices a dead machine spares the others the
//! wait. A name may stand for several addresses; all of them are tried. All links leave an address
//! at once when [`super::lookout`] says so.

use std::{collections::HashMap, fmt, net::SocketAddr, sync::Arc, time::Duration};

use futures_util::future::join_all;
use lapin::uri::AMQPUri;
use parking_lot::Mutex;
use rand::seq::SliceRandom as _;
use tokio::{
    net::lookup_host,
    sync::watch,
    time::{Instant, timeout},
};

use super::link::LinkConfig;
use crate::{
    broker::{BrokerError, Cause},
    telemetry,
};

/// How long an address is tried last after a link failed there.
const LATELY: Duration = Duration::from_secs(60);

/// Where there are others to try, a machine has so long to be found and to take a connection. Its
/// system does that, however busy the broker is.
const PATIENCE: Duration = Duration::from_secs(2);

/// All machines of one broker, and what its links know of them.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    hosts: Vec<Host>,
    /// Where a link failed, and when.
    failed: Mutex<HashMap<SocketAddr, Instant>>,
    /// The addresses of each machine, as they were when its name was last resolved.
    known: Mutex<HashMap<Host, Vec<Address>>>,
    /// Where links lead to now, and how many do.
    used: Mutex<HashMap<SocketAddr, (Address, usize)>>,
    /// Addresses that all links left, and when.
    left: watch::Sender<HashMap<SocketAddr, Instant>>,
}

/// A link leads to an address, for as long as this lives.
pub(super) struct InUse {
    hosts: Arc<Hosts>,
    socket: SocketAddr,
    since: Instant,
}

/// A machine as the configuration names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Host {
    /// A name or an IP address, the latter without brackets.
    pub(super) name: Box<str>,
    pub(super) port: u16,
}

/// One address of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) host: Host,
    pub(super) socket: SocketAddr,
    /// Its name has others, too.
    is_one_of_many: bool,
}

/// No address let the link in: why, and at which place.
#[derive(Debug)]
pub(super) struct Unreached {
    pub(super) error: BrokerError,
    pub(super) place: Box<str>,
}

impl Hosts {
    pub(super) fn new(hosts: Vec<Host>) -> Self {
        Self {
            hosts,
            ..Self::default()
        }
    }

    /// The machines, as the configuration names them.
    pub(super) fn all(&self) -> &[Host] {
        &self.hosts
    }

    /// Whether a link that fails at one address has another one to try. A machine whose name was not
    /// resolved counts as before, and as one at least.
    pub(super) fn are_many(&self) -> bool {
        let known = self.known.lock();
        let addresses = self.hosts.iter();
        let addresses = addresses.map(|host| known.get(host).map_or(1, |found| found.len().max(1)));
        addresses.sum::<usize>() > 1
    }

    /// Looks up all addresses, as a link does that is made: a name may stand for more by now.
    pub(super) async fn look_up(&self, patience: Duration) {
        self.round(patience).await;
    }

    /// A link failed there.
    pub(super) fn failed(&self, address: &Address) {
        self.failed.lock().insert(address.socket, Instant::now());
    }

    fn worked(&self, address: &Address) {
        self.failed.lock().remove(&address.socket);
    }

    /// A link leads there from now on.
    pub(super) fn used_by(self: &Arc<Self>, address: &Address) -> InUse {
        let mut used = self.used.lock();
        let (_, links) = used
            .entry(address.socket)
            .or_insert_with(|| (address.clone(), 0));
        *links = links.saturating_add(1);
        InUse {
            hosts: Arc::clone(self),
            socket: address.socket,
            since: Instant::now(),
        }
    }

    /// Where links lead to now.
    pub(super) fn used(&self) -> Vec<Address> {
        let used = self.used.lock();
        used.values().map(|(address, _)| address.clone()).collect()
    }

    /// All addresses but these. Of a machine whose name is not resolved now, those of before: what
    /// breaks a network often breaks the resolver, too.
    pub(super) async fn others(&self, these: &[Address], patience: Duration) -> Vec<Address> {
        let (mut found, unknown) = self.round(patience).await;
        let known = self.known.lock();
        let before = unknown.iter().filter_map(|(host, _)| known.get(host));
        found.extend(before.flatten().cloned());
        drop(known);
        found.retain(|address| these.iter().all(|other| other.socket != address.socket));
        found
    }

    /// All links that lead there end, and try it last.
    pub(super) fn leave(&self, address: &Address) {
        self.failed(address);
        self.left.send_modify(|left| {
            left.insert(address.socket, Instant::now());
        });
    }

    /// All addresses in the order in which to try them; and the machines that have none, with the
    /// system's words.
    async fn round(&self, patience: Duration) -> (Vec<Address>, Vec<(Host, String)>) {
        let (mut found, mut unknown) = (Vec::new(), Vec::new());
        let looking = self.hosts.iter().map(|host| async move {
            let sockets = timeout(patience, lookup_host((&*host.name, host.port))).await;
            (host, sockets)
        });
        for (host, sockets) in join_all(looking).await {
            match sockets {
                Ok(Ok(sockets)) => {
                    let sockets: Vec<_> = sockets.collect();
                    let is_one_of_many = sockets.len() > 1;
                    let addresses = sockets.into_iter().map(|socket| Address {
                        host: host.clone(),
                        socket,
                        is_one_of_many,
                    });
                    let addresses: Vec<_> = addresses.collect();
                    let mut known = self.known.lock();
                    known.insert(host.clone(), addresses.clone());
                    found.extend(addresses);
                }
                Ok(Err(error)) => unknown.push((host.clone(), error.to_string())),
                Err(_) => unknown.push((host.clone(), "its name was not resolved in time".into())),
            }
        }
        found.shuffle(&mut rand::rng());
        let mut failed = self.failed.lock();
        failed.retain(|_, since| since.elapsed() < LATELY);
        last_failed_last(&mut found, &failed);
        (found, unknown)
    }
}

impl InUse {
    /// Done when all links are to leave the address.
    pub(super) async fn left(&self) {
        let mut left = self.hosts.left.subscribe();
        // It has its sender.
        let _ = left.wait_for(|left| self.is_among(left)).await;
    }

    /// Whether all links are to leave the address.
    pub(super) fn is_left(&self) -> bool {
        self.is_among(&self.hosts.left.borrow())
    }

    fn is_among(&self, left: &HashMap<SocketAddr, Instant>) -> bool {
        left.get(&self.socket)
            .is_some_and(|when| *when > self.since)
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        let mut used = self.hosts.used.lock();
        if let Some((_, links)) = used.get_mut(&self.socket) {
            *links = links.saturating_sub(1);
            if *links == 0 {
                used.remove(&self.socket);
            }
        }
    }
}

/// Those at which no link failed come first, in the order that they had; then the others, the
/// oldest failure first.
fn last_failed_last(addresses: &mut [Address], failed: &HashMap<SocketAddr, Instant>) {
    // Nothing is less than any point in time.
    addresses.sort_by_key(|address| failed.get(&address.socket).copied());
}

/// Connects at the first address that lets the link in; each is tried once.
pub(super) async fn dial<C, F: Future<Output = Result<C, BrokerError>>>(
    config: &LinkConfig,
    connect: impl Fn(Address) -> F,
) -> Result<(C, Address), Unreached> {
    let hosts = &config.hosts;
    let (addresses, unknown) = hosts.round(config.patience()).await;
    let mut outcome = Unreached {
        error: BrokerError::Unavailable("the broker has no address".into()),
        place: Box::default(),
    };
    for (host, error) in unknown {
        telemetry::broker_address_failed(&config.purpose, &host, &error);
        outcome = Unreached {
            error: BrokerError::Unavailable(Cause::foreign(error)),
            place: host.to_string().into(),
        };
    }
    for address in addresses {
        let connecting = timeout(config.connection_timeout, connect(address.clone()));
        let error = match connecting.await {
            Ok(Ok(connection)) => {
                hosts.worked(&address);
                return Ok((connection, address));
            }
            Ok(Err(error)) => error,
            Err(_) => BrokerError::Unavailable("it did not answer in time".into()),
        };
        hosts.failed(&address);
        telemetry::broker_address_failed(&config.purpose, &address, &error);
        // All nodes of a cluster know the same accounts and virtual hosts.
        let is_final = !matches!(error, BrokerError::Unavailable(_));
        let place = address.to_string().into();
        outcome = Unreached { error, place };
        if is_final {
            break;
        }
    }
    Err(outcome)
}

impl LinkConfig {
    /// How long a machine may take to be found, and then to take a connection.
    pub(super) fn patience(&self) -> Duration {
        match self.hosts.are_many() {
            true => self.connection_timeout.min(PATIENCE),
            false => self.connection_timeout,
        }
    }

    /// The URL of the broker at this address, by the machine's name.
    pub(super) fn uri_at(&self, address: &Address) -> AMQPUri {
        let mut uri = self.uri.clone();
        uri.authority.host = address.host.name.to_string();
        uri.authority.port = address.host.port;
        uri
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, port } = self;
        match name.contains(':') {
            true => write!(f, "[{name}]:{port}"),
            false => write!(f, "{name}:{port}"),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.host.fmt(f)?;
        if self.is_one_of_many {
            write!(f, " ({})", self.socket.ip())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, sync::Arc};

    use super::*;

    fn host(name: &str, port: u16) -> Host {
        let name = name.into();
        Host { name, port }
    }

    fn config(hosts: Vec<Host>) -> LinkConfig {
        LinkConfig {
            hosts: Arc::new(Hosts::new(hosts)),
            ..LinkConfig::of_a_test("amqp://u:p@first/app")
        }
    }

    fn three() -> Vec<Host> {
        [1, 2, 3].map(|port| host("127.0.0.1", port)).into()
    }

    /// The ports that are tried in one round, of which these do not answer.
    async fn tried(config: &LinkConfig, dead: &[u16]) -> Vec<u16> {
        let tried = Mutex::new(Vec::new());
        let dialled = dial(config, |address| {
            tried.lock().push(address.socket.port());
            let is_dead = dead.contains(&address.socket.port());
            async move {
                match is_dead {
                    true => Err(BrokerError::Unavailable("away".into())),
                    false => Ok(()),
                }
            }
        });
        let _ = dialled.await;
        tried.into_inner()
    }

    #[tokio::test]
    async fn links_spread_over_all_addresses() {
        let config = config(three());
        let mut first = HashSet::new();
        for _ in 0..100 {
            first.extend(tried(&config, &[]).await);
        }
        assert_eq!(first, HashSet::from([1, 2, 3]));
    }

    #[tokio::test]
    async fn a_link_tries_all_addresses_in_one_round() {
        let config = config(three());
        let mut all = tried(&config, &[1, 2, 3]).await;
        all.sort_unstable();
        assert_eq!(all, [1, 2, 3]);
        assert_eq!(tried(&config, &[1, 2]).await.last(), Some(&3));
    }

    #[tokio::test]
    async fn an_address_that_failed_lately_is_tried_last() {
        let config = config(three());
        while !tried(&config, &[2]).await.contains(&2) {}
        for _ in 0..50 {
            assert_eq!(tried(&config, &[2]).await.len(), 1, "2 was not the last");
        }
        assert_eq!(
            tried(&config, &[1, 3]).await.last(),
            Some(&2),
            "it is tried"
        );
        // Now it is known to work again, and the others are last.
        assert_eq!(tried(&config, &[]).await, [2]);
    }

    #[tokio::test]
    async fn a_refusal_of_the_account_is_the_whole_cluster_s() {
        let config = config(three());
        let refused = BrokerError::AccessRefused("no".into());
        let tried = Mutex::new(0);
        let dialled = dial(&config, |_| {
            *tried.lock() += 1;
            let refused = refused.clone();
            async { Err::<(), _>(refused) }
        });
        assert_eq!(dialled.await.unwrap_err().error, refused);
        assert_eq!(*tried.lock(), 1);
    }

    #[tokio::test]
    async fn all_addresses_of_a_name_are_tried() {
        // Most systems know it by both kinds of address; some by one.
        let config = config(vec![host("localhost", 7)]);
        let count = lookup_host(("localhost", 7)).await.unwrap().count();
        assert_eq!(tried(&config, &[7]).await.len(), count);
    }

    #[tokio::test]
    async fn a_name_that_is_not_resolved_takes_no_address_away() {
        let away = host("no-such-machine.invalid", 2);
        let hosts = Hosts::new(vec![host("127.0.0.1", 1), away.clone()]);
        let patience = Duration::from_secs(1);
        let ports = async || {
            let others = hosts.others(&[], patience).await;
            let mut ports: Vec<_> = others.iter().map(|address| address.socket.port()).collect();
            ports.sort_unstable();
            ports
        };
        assert_eq!(ports().await, [1]);
        assert!(hosts.are_many(), "it may be resolved the next time");
        let before = Address {
            host: away.clone(),
            socket: "127.0.0.1:2".parse().unwrap(),
            is_one_of_many: false,
        };
        hosts.known.lock().insert(away, vec![before]);
        assert_eq!(ports().await, [1, 2], "it had that address before");
        assert!(hosts.are_many());
    }

    #[tokio::test]
    async fn a_name_counts_by_its_addresses() {
        let one = host("127.0.0.1", 1);
        let hosts = Hosts::new(vec![one.clone()]);
        assert!(!hosts.are_many());
        let addresses = hosts.others(&[], Duration::from_secs(1)).await;
        let twice = [&addresses[..], &addresses[..]].concat();
        hosts.known.lock().insert(one, twice);
        assert!(hosts.are_many());
        hosts.look_up(Duration::from_secs(1)).await;
        assert!(!hosts.are_many(), "it was resolved, to one");
    }

    #[tokio::test]
    async fn a_name_that_nobody_knows_is_told_by_its_name() {
        let config = config(vec![host("no-such-machine.invalid", 5672)]);
        let dialled = dial(&config, |_| async { Ok(()) }).await;
        assert_eq!(&*dialled.unwrap_err().place, "no-such-machine.invalid:5672");
    }

    #[test]
    fn an_address_shows_its_name_and_which_of_several() {
        let mut address = Address {
            host: host("rabbit.example", 5672),
            socket: "10.0.0.3:5672".parse().unwrap(),
            is_one_of_many: false,
        };
        assert_eq!(address.to_string(), "rabbit.example:5672");
        address.is_one_of_many = true;
        assert_eq!(address.to_string(), "rabbit.example:5672 (10.0.0.3)");
        assert_eq!(host("::1", 5672).to_string(), "[::1]:5672");
    }
}
