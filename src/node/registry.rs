//! Who is connected to this node: what a drain waits for, and can reach; and which sessions are
//! logged in.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use stomp_session::Problem;
use tokio::{sync::watch, time::Instant};

use super::{
    limits::{AddressKey, Arrivals, ClientAddress, Limits},
    logged_in::LoggedIn,
    memory::Shed,
};
use crate::{
    deadline::later,
    hub::Mailbox,
    telemetry::{self, Seldom},
};

/// All connections of this node.
#[derive(Debug)]
pub struct Registry {
    places: Mutex<HashMap<u64, Place>>,
    /// Whether a drain was begun. Written and read with `places` locked.
    draining: AtomicBool,
    count: watch::Sender<usize>,
    max: usize,
    arrivals: Arrivals,
    turned_away: Mutex<Seldom>,
}

#[derive(Debug)]
struct Place {
    mailbox: Arc<Mailbox>,
    /// `None` before the login. Weak, for the session holds the guard.
    session: Option<Weak<dyn LoggedIn>>,
}

/// A connection's place in the registry; given back when it is dropped.
#[derive(Debug)]
pub struct Guard {
    registry: Arc<Registry>,
    number: u64,
    mailbox: Arc<Mailbox>,
    /// If it is counted by its address.
    address: Option<AddressKey>,
}

impl Registry {
    /// A registry that takes `max` connections at a time, and of each address as many as by
    /// default.
    #[must_use]
    pub fn new(max: usize) -> Arc<Self> {
        Self::with_limits(max, &Limits::default())
    }

    /// A registry that takes `max` connections at a time, and of each address as many as `limits`
    /// allow.
    #[must_use]
    pub fn with_limits(max: usize, limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            places: Mutex::default(),
            draining: AtomicBool::new(false),
            count: watch::Sender::new(0),
            max,
            arrivals: Arrivals::new(limits),
            turned_away: Mutex::default(),
        })
    }

    /// Takes a place for a connection, before its transport is answered: so a drain sees it.
    /// `None`: there are as many as allowed.
    #[must_use]
    pub fn enter(self: &Arc<Self>, mailbox: Arc<Mailbox>) -> Option<Guard> {
        let mut places = self.places.lock();
        if places.len() >= self.max {
            return None;
        }
        let number = loop {
            // A session's id begins with it, and must not begin with `-`, or shells' commands would
            // take it for an option.
            let number = rand::random::<u64>() >> 2;
            if let Entry::Vacant(place) = places.entry(number) {
                place.insert(Place {
                    mailbox: Arc::clone(&mailbox),
                    session: None,
                });
                break number;
            }
        };
        // An upgrade on a stream that was accepted before: it would not be told otherwise.
        if self.draining.load(Ordering::Relaxed) {
            mailbox.fail(Problem::ShuttingDown);
        }
        self.count.send_replace(places.len());
        drop(places);
        Some(Guard {
            registry: Arc::clone(self),
            number,
            mailbox,
            address: None,
        })
    }

    /// The same, if the address that it comes from has not too many.
    ///
    /// # Errors
    /// The client's answer.
    pub fn enter_from(
        self: &Arc<Self>,
        client: ClientAddress,
        mailbox: Arc<Mailbox>,
    ) -> Result<Guard, Problem> {
        let address = self.arrivals.enter(client)?;
        let Some(mut guard) = self.enter(mailbox) else {
            self.arrivals.leave(address);
            return Err(Problem::TooManyConnections);
        };
        guard.address = Some(address);
        Ok(guard)
    }

    /// Logs, now and then, that [`Registry::enter`] had no place for a client of this listener.
    pub fn log_turned_away(&self, listener: &str) {
        telemetry::connection_turned_away();
        let unsaid = self
            .turned_away
            .lock()
            .let_through(Instant::now().into_std());
        if let Some(unsaid) = unsaid {
            telemetry::connection_limit_reached(listener, self.max, unsaid);
        }
    }

    /// How many there may be.
    #[must_use]
    pub fn max(&self) -> usize {
        self.max
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        *self.count.borrow()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tells every connection that the server shuts down, spread evenly over `duration`, so that
    /// they do not all reconnect elsewhere in one instant. Who enters from now on, is told at
    /// once.
    pub async fn drain(&self, duration: Duration) {
        const TICK: Duration = Duration::from_millis(50);
        let mailboxes: Vec<_> = {
            let places = self.places.lock();
            self.draining.store(true, Ordering::Relaxed);
            places
                .values()
                .map(|place| Arc::clone(&place.mailbox))
                .collect()
        };
        // Some at a time, if they are many; few are as far apart as the duration has room for.
        let ticks = duration.as_millis().checked_div(TICK.as_millis());
        let ticks = usize::try_from(ticks.unwrap_or(1)).unwrap_or(usize::MAX);
        let some = mailboxes.len().div_ceil(ticks.max(1)).max(1);
        let times = u32::try_from(mailboxes.len().div_ceil(some)).unwrap_or(u32::MAX);
        let apart = duration.checked_div(times).unwrap_or_default();
        let start = Instant::now();
        for (time, some) in (0..times).zip(mailboxes.chunks(some)) {
            tokio::time::sleep_until(later(start, apart.saturating_mul(time))).await;
            for mailbox in some {
                mailbox.fail(Problem::ShuttingDown);
            }
        }
    }

    /// The session that is logged in on the connection of that number.
    pub(super) fn session(&self, number: u64) -> Option<Arc<dyn LoggedIn>> {
        self.places.lock().get(&number)?.session()
    }

    /// The sessions that are logged in, on connections whose numbers are meant.
    pub(super) fn sessions(&self, is_meant: impl Fn(u64) -> bool) -> Vec<Arc<dyn LoggedIn>> {
        // Dropping the last pointer to a session locks this again: so the caller drops them.
        let places = self.places.lock();
        let meant = places.iter().filter(|(number, _)| is_meant(**number));
        meant.filter_map(|(_, place)| place.session()).collect()
    }

    /// Waits until the last connection is gone.
    pub async fn wait_empty(&self) {
        // The sender is this very registry's, so there is no error.
        let _ = self.count.subscribe().wait_for(|count| *count == 0).await;
    }
}

impl Place {
    fn session(&self) -> Option<Arc<dyn LoggedIn>> {
        self.session.as_ref()?.upgrade()
    }
}

impl Guard {
    /// A number that no other connection of this process has; of all numbers there are, so that
    /// one who knows one knows no other.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The connection's session is logged in: from now on it can be found.
    pub fn logged_in(&self, session: &Arc<impl LoggedIn + 'static>) {
        let session: Weak<dyn LoggedIn> = Arc::downgrade(session) as _;
        if let Some(place) = self.registry.places.lock().get_mut(&self.number) {
            place.session = Some(session);
        }
    }

    /// The connection's mailbox.
    #[must_use]
    pub fn mailbox(&self) -> &Arc<Mailbox> {
        &self.mailbox
    }
}

impl Shed for Registry {
    fn shed(&self, bytes: usize) -> (usize, usize) {
        /// What is smaller would not help.
        const WORTH_IT: usize = 64 * 1024;
        let mut greatest: Vec<_> = {
            let places = self.places.lock();
            let all = places.values().map(|place| &place.mailbox);
            let sized = all.map(|mailbox| (mailbox.bytes(), mailbox));
            let large = sized.filter(|(bytes, _)| *bytes >= WORTH_IT);
            large
                .map(|(bytes, mailbox)| (bytes, Arc::clone(mailbox)))
                .collect()
        };
        greatest.sort_unstable_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
        let (mut count, mut freed) = (0_usize, 0_usize);
        for (size, mailbox) in greatest {
            if freed >= bytes {
                break;
            }
            mailbox.shed(Problem::SlowConsumer);
            count = count.saturating_add(1);
            freed = freed.saturating_add(size);
        }
        (count, freed)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut places = self.registry.places.lock();
        places.remove(&self.number);
        self.registry.count.send_replace(places.len());
        drop(places);
        if let Some(address) = self.address {
            self.registry.arrivals.leave(address);
        }
    }
}
