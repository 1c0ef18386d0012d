//! Connections by address: how many there are, and how fast they come.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::{Mutex, RwLock};
use stomp_session::Problem;
use tokio::time::Instant;

use super::{
    AddressKey, ClientAddress, Limits,
    bucket::{Buckets, Rate},
    seconds,
    share::Share,
};
use crate::telemetry::{self, Bound};

/// The connections of a node, by address.
#[derive(Debug)]
pub(crate) struct Arrivals {
    bounds: RwLock<Arc<Bounds>>,
    counts: Mutex<HashMap<AddressKey, usize>>,
    /// Whether a shared address was over a bound, which is said once.
    was_told: AtomicBool,
}

#[derive(Debug)]
struct Bounds {
    /// Connections of one address; 0: any number.
    most: usize,
    by_address: Option<Buckets<AddressKey>>,
    all: Option<Share<AddressKey>>,
}

impl Bounds {
    fn new(limits: &Limits) -> Arc<Self> {
        let now = Instant::now();
        let by_address = Rate::per_second(limits.max_address_connects_per_second, now);
        let all = Rate::per_second(limits.max_connects_per_second, now);
        Arc::new(Self {
            most: limits.max_address_connections,
            by_address: by_address.map(Buckets::new),
            all: all.map(Share::new),
        })
    }
}

impl Arrivals {
    /// Nobody is there yet.
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            bounds: RwLock::new(Bounds::new(limits)),
            counts: Mutex::default(),
            was_told: AtomicBool::new(false),
        }
    }

    /// These limits count from now on; how fast connections came before is forgotten. An address
    /// that has more connections keeps them.
    pub(crate) fn set_limits(&self, limits: &Limits) {
        *self.bounds.write() = Bounds::new(limits);
    }

    /// Counts one more connection, until [`Arrivals::leave`].
    ///
    /// # Errors
    /// There are too many of that address, or too many come just now.
    pub(crate) fn enter(&self, client: ClientAddress) -> Result<AddressKey, Problem> {
        let key = client.key();
        let bounds = Arc::clone(&self.bounds.read());
        if let Some(buckets) = &bounds.by_address
            && let Err(wait) = buckets.take(key)
        {
            self.refuse(Bound::AddressConnects, client, || connect_rate(wait))?;
        }
        if let Some(share) = &bounds.all
            && let Err(wait) = share.take(key)
        {
            telemetry::limit_exceeded(Bound::Connects, &client.ip());
            return Err(connect_rate(wait));
        }
        let mut counts = self.counts.lock();
        let count = counts.get(&key).copied().unwrap_or_default();
        if bounds.most > 0 && count >= bounds.most {
            self.refuse(Bound::AddressConnections, client, || {
                Problem::TooManyFromAddress { limit: bounds.most }
            })?;
        }
        counts.insert(key, count.saturating_add(1));
        Ok(key)
    }

    /// Refuses, unless the address may stand for many.
    fn refuse(
        &self,
        bound: Bound,
        client: ClientAddress,
        problem: impl FnOnce() -> Problem,
    ) -> Result<(), Problem> {
        if client.is_shared {
            if !self.was_told.swap(true, Ordering::Relaxed) {
                telemetry::shared_address_over_bound(bound, &client.ip());
            }
            return Ok(());
        }
        telemetry::limit_exceeded(bound, &client.ip());
        Err(problem())
    }

    /// A connection that was counted is gone.
    pub(crate) fn leave(&self, key: AddressKey) {
        let mut counts = self.counts.lock();
        if let Some(count) = counts.get_mut(&key) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&key);
            }
        }
        // After a rush.
        if counts.capacity() > 1024 && counts.len() < counts.capacity() / 8 {
            let double = counts.len().saturating_mul(2);
            counts.shrink_to(double);
        }
    }
}

fn connect_rate(wait: Duration) -> Problem {
    Problem::ConnectingTooFast {
        seconds: seconds(wait),
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use stomp_session::Reconnect;
    use tokio::time::{Instant, advance};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn from(address: &str) -> ClientAddress {
        ClientAddress::direct(SocketAddr::new(address.parse().unwrap(), 4711))
    }

    fn narrow() -> Limits {
        Limits {
            max_address_connections: 3,
            max_address_connects_per_second: 1,
            max_connects_per_second: 2,
            ..Limits::default()
        }
    }

    /// All of them at once, after a restart or a cut line; those that are refused come back when
    /// they were told to.
    #[tokio::test(start_paused = true)]
    async fn an_office_of_5000_users_reconnects_within_ten_seconds() {
        const USERS: usize = 5_000;
        // With one page each, and with two.
        for connections in [USERS, 2 * USERS] {
            let arrivals = Arrivals::new(&Limits::default());
            let office = from("198.51.100.7");
            let begun = Instant::now();
            let mut outside = connections;
            while outside > 0 {
                let mut come_back = 0;
                let mut soonest = u16::MAX;
                for _ in 0..outside {
                    match arrivals.enter(office) {
                        Ok(_) => {}
                        Err(problem) => {
                            let Reconnect::After(seconds) = problem.reconnect() else {
                                panic!("{problem} is no reason to stay away");
                            };
                            soonest = soonest.min(seconds);
                            come_back += 1;
                        }
                    }
                }
                outside = come_back;
                if outside > 0 {
                    advance(Duration::from_secs(soonest.into())).await;
                }
            }
            let took = begun.elapsed();
            assert!(took <= 10 * SECOND, "{connections} took {took:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_address_is_one_client_s_and_leaves_others_theirs() {
        let arrivals = Arrivals::new(&narrow());
        let crowd = from("192.0.2.1");
        let places: Vec<_> = (0..3).map(|_| arrivals.enter(crowd).unwrap()).collect();
        assert_eq!(
            arrivals.enter(crowd),
            Err(Problem::TooManyFromAddress { limit: 3 })
        );
        assert!(arrivals.enter(from("192.0.2.2")).is_ok());
        arrivals.leave(places[0]);
        assert!(arrivals.enter(crowd).is_ok());
        // A whole /64 is one address.
        for n in 1..=3 {
            assert!(arrivals.enter(from(&format!("2001:db8::{n}"))).is_ok());
        }
        assert!(arrivals.enter(from("2001:db8::9")).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn connects_have_a_rate() {
        let arrivals = Arrivals::new(&narrow());
        let flood = from("192.0.2.1");
        for _ in 0..10 {
            let key = arrivals.enter(flood).unwrap();
            arrivals.leave(key);
        }
        let refused = Problem::ConnectingTooFast { seconds: 1 };
        assert_eq!(arrivals.enter(flood), Err(refused.clone()));
        // All together have twenty, of which ten are left.
        for n in 1..=10 {
            assert!(arrivals.enter(from(&format!("198.51.100.{n}"))).is_ok());
        }
        assert_eq!(arrivals.enter(from("203.0.113.1")), Err(refused));
        advance(SECOND).await;
        assert!(arrivals.enter(from("203.0.113.1")).is_ok());
        // One that took half of all has to wait for the others.
        assert!(arrivals.enter(flood).is_err());
        advance(10 * SECOND).await;
        assert!(arrivals.enter(flood).is_ok());
        arrivals.leave(flood.key());
        assert_eq!(arrivals.counts.lock().len(), 11);
    }

    /// No bound refuses such an address for itself, so it could take all that there is.
    #[tokio::test(start_paused = true)]
    async fn an_address_of_many_leaves_others_theirs() {
        let arrivals = Arrivals::new(&Limits {
            max_connects_per_second: 20,
            ..narrow()
        });
        for client in ["10.0.0.1", "127.0.0.1"] {
            for _ in 0..1000 {
                if let Ok(key) = arrivals.enter(from(client)) {
                    arrivals.leave(key);
                }
            }
        }
        assert!(arrivals.enter(from("10.0.0.1")).is_err());
        for client in ["10.0.0.2", "127.0.0.2", "203.0.113.1"] {
            assert!(arrivals.enter(from(client)).is_ok(), "{client}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_of_many_is_never_refused() {
        let arrivals = Arrivals::new(&Limits {
            max_connects_per_second: 0,
            ..narrow()
        });
        let proxy = ClientAddress {
            is_shared: true,
            ..from("192.0.2.1")
        };
        for client in [from("10.0.0.1"), from("127.0.0.1"), from("::1"), proxy] {
            for _ in 0..100 {
                assert!(arrivals.enter(client).is_ok());
            }
        }
        assert!(arrivals.was_told.load(Ordering::Relaxed));
    }
}
