//! All sessions of a service over HTTP, by the names that their clients gave them.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{runtime::Handle, time::sleep};

use crate::{
    Options,
    protocol::{seam::Sizes, state::Timing},
    session::{HttpSession, SharedSession},
};

/// All sessions of one service over HTTP.
#[derive(Debug)]
pub struct Sessions {
    timing: Timing,
    max_waiting: usize,
    max_per_address: usize,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    by_id: HashMap<Box<str>, (Arc<SharedSession>, Option<IpAddr>)>,
    /// Only counted where it is limited.
    by_address: HashMap<IpAddr, usize>,
}

/// A request for a session.
#[derive(Clone, Copy, Debug)]
pub struct SessionQuery<'a> {
    /// The name of the session.
    pub id: &'a str,
    /// The caller's address, if its sessions are counted.
    pub address: Option<IpAddr>,
    /// The caller's identity, if the connection tells it.
    pub identity: Option<&'a str>,
}

/// The outcome of a request for a session that may be new.
#[derive(Debug)]
pub(crate) enum Found<P> {
    /// It was there.
    Known(Arc<SharedSession>),
    /// It is new. The application's end has to be served.
    New(Arc<SharedSession>, HttpSession, P),
    /// It belongs to another identity.
    Foreign,
    /// This address has as many as it may.
    TooMany,
}

impl Sessions {
    /// No sessions yet.
    #[must_use]
    pub(crate) fn new(options: &Options) -> Arc<Self> {
        Arc::new(Self {
            timing: Timing {
                heartbeat: options.heartbeat,
                disconnect_delay: options.disconnect_delay,
            },
            max_waiting: options.max_waiting,
            max_per_address: options.max_sessions_per_address,
            table: Mutex::default(),
        })
    }

    /// A session that is there.
    #[must_use]
    pub fn find(&self, query: SessionQuery<'_>) -> Option<Arc<SharedSession>> {
        let table = self.table.lock();
        let (shared, _) = table.by_id.get(query.id)?;
        shared.is_of(query.identity).then(|| Arc::clone(shared))
    }

    /// A session that is there, or a new one if `admit` lets it in; its first limits are `sizes`.
    ///
    /// # Errors
    /// That of `admit`.
    pub(crate) fn find_or_open<P, E>(
        self: &Arc<Self>,
        query: SessionQuery<'_>,
        sizes: Sizes,
        admit: impl FnOnce() -> Result<P, E>,
    ) -> Result<Found<P>, E> {
        let mut table = self.table.lock();
        let Table { by_id, by_address } = &mut *table;
        let vacant = match by_id.entry(query.id.into()) {
            Entry::Occupied(known) => {
                let (shared, _) = known.get();
                return Ok(if shared.is_of(query.identity) {
                    Found::Known(Arc::clone(shared))
                } else {
                    Found::Foreign
                });
            }
            Entry::Vacant(vacant) => vacant,
        };
        let counted = query.address.filter(|_| self.max_per_address > 0);
        let count = counted.map_or(0, |address| by_address.get(&address).copied().unwrap_or(0));
        if counted.is_some() && count >= self.max_per_address {
            return Ok(Found::TooMany);
        }
        let place = admit()?;
        if let Some(address) = counted {
            by_address.insert(address, count.saturating_add(1));
        }
        let identity = query.identity.map(Box::from);
        let shared = SharedSession::new(self.timing, self.max_waiting, sizes, identity);
        let id = vacant.key().clone();
        vacant.insert((Arc::clone(&shared), counted));
        let session = HttpSession::new(Arc::clone(self), id, Arc::clone(&shared));
        Ok(Found::New(shared, session, place))
    }

    /// How many there are, with those that are closed and still say so.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.lock().by_id.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets a session after a time in which it still answers.
    pub(super) fn forget(self: &Arc<Self>, id: &str, shared: &Arc<SharedSession>, after: Duration) {
        let (sessions, id) = (Arc::clone(self), Box::<str>::from(id));
        let shared = Arc::clone(shared);
        let forgetting = async move {
            sleep(after).await;
            sessions.remove(&id, &shared);
        };
        // Without a runtime all of it ends.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(forgetting);
        }
    }

    fn remove(&self, id: &str, shared: &Arc<SharedSession>) {
        let mut table = self.table.lock();
        let is_this = |(known, _): &(Arc<SharedSession>, _)| Arc::ptr_eq(known, shared);
        if !table.by_id.get(id).is_some_and(is_this) {
            return;
        }
        let Some((_, Some(from))) = table.by_id.remove(id) else {
            return;
        };
        if let Entry::Occupied(mut count) = table.by_address.entry(from) {
            *count.get_mut() = count.get().saturating_sub(1);
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}
