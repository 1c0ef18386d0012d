//! All sessions of a service over HTTP, by the names that their clients gave them.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{runtime::Handle, time::sleep};

use super::{
    Config,
    session::{Session, Shared},
    state::Timing,
};

/// The sessions.
#[derive(Debug)]
pub struct Sessions {
    timing: Timing,
    max_waiting: usize,
    max_per_address: usize,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    by_id: HashMap<Box<str>, (Arc<Shared>, IpAddr)>,
    /// Only counted where it is limited.
    by_address: HashMap<IpAddr, usize>,
}

/// Who asks for a session.
#[derive(Clone, Copy, Debug)]
pub struct Asking<'a> {
    /// The name of the session.
    pub id: &'a str,
    /// The client's address.
    pub from: IpAddr,
    /// The user that the client's certificate names.
    pub certificate: Option<&'a str>,
}

/// A session that was asked for.
#[derive(Debug)]
pub enum Found<P> {
    /// It was there.
    Known(Arc<Shared>),
    /// It is new. The service's end has to be served.
    New(Arc<Shared>, Session, P),
    /// It is somebody else's.
    Foreign,
    /// This address has as many as it may.
    TooMany,
}

impl Sessions {
    /// No sessions yet.
    #[must_use]
    pub fn new(config: &Config) -> Arc<Self> {
        Arc::new(Self {
            timing: Timing {
                heartbeat: config.heartbeat,
                disconnect_delay: config.disconnect_delay,
            },
            max_waiting: config.max_waiting,
            max_per_address: config.max_sessions_per_address,
            table: Mutex::default(),
        })
    }

    /// A session that is there.
    #[must_use]
    pub fn find(&self, asking: Asking<'_>) -> Option<Arc<Shared>> {
        let table = self.table.lock();
        let (shared, _) = table.by_id.get(asking.id)?;
        shared.is_of(asking.certificate).then(|| Arc::clone(shared))
    }

    /// A session that is there, or a new one if `admit` lets it in; its first limit is
    /// `max_message_size`.
    ///
    /// # Errors
    /// That of `admit`.
    pub fn find_or_open<P, E>(
        self: &Arc<Self>,
        asking: Asking<'_>,
        max_message_size: usize,
        admit: impl FnOnce() -> Result<P, E>,
    ) -> Result<Found<P>, E> {
        let mut table = self.table.lock();
        let Table { by_id, by_address } = &mut *table;
        let vacant = match by_id.entry(asking.id.into()) {
            Entry::Occupied(known) => {
                let (shared, _) = known.get();
                return Ok(if shared.is_of(asking.certificate) {
                    Found::Known(Arc::clone(shared))
                } else {
                    Found::Foreign
                });
            }
            Entry::Vacant(vacant) => vacant,
        };
        let count = by_address.get(&asking.from).copied().unwrap_or(0);
        if self.max_per_address > 0 && count >= self.max_per_address {
            return Ok(Found::TooMany);
        }
        let place = admit()?;
        if self.max_per_address > 0 {
            by_address.insert(asking.from, count.saturating_add(1));
        }
        let certificate = asking.certificate.map(Box::from);
        let shared = Shared::new(self.timing, self.max_waiting, max_message_size, certificate);
        let id = vacant.key().clone();
        vacant.insert((Arc::clone(&shared), asking.from));
        let session = Session::new(Arc::clone(self), id, Arc::clone(&shared));
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
    pub(super) fn forget(self: &Arc<Self>, id: &str, shared: &Arc<Shared>, after: Duration) {
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

    fn remove(&self, id: &str, shared: &Arc<Shared>) {
        let mut table = self.table.lock();
        let is_this = |(known, _): &(Arc<Shared>, IpAddr)| Arc::ptr_eq(known, shared);
        if !table.by_id.get(id).is_some_and(is_this) {
            return;
        }
        let Some((_, from)) = table.by_id.remove(id) else {
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
