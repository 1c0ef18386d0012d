//! Presence in Redis, shared by all nodes. Needs Redis 6.2 or later, or Valkey.

mod entry;
mod keeper;
mod queue;

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::Arc,
    time::Duration,
};

use deadpool_redis::{
    Connection, Manager, Pool, Runtime,
    redis::{AsyncConnectionConfig, FromRedisValue, Pipeline},
};
use futures_util::future::{BoxFuture, FutureExt};
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use self::{
    entry::{LeaseId, decode, group_key, user_key},
    keeper::Keeper,
    queue::{Shared, Stale},
};
use super::{Presence, PresenceError, Session, SessionInfo};
use crate::secret_url::SecretUrl;

/// Connections at most: one writes, the others read.
const CONNECTIONS: usize = 4;
/// How long Redis may take to answer.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Presence in Redis.
///
/// All that waits to be told is told in one round trip, so a login costs one at most, and many
/// at a time share it. To read takes two: who is there, and whether their nodes live. Fields of
/// dead nodes are removed when they are read, and a few of them whenever somebody joins the same
/// user or group.
///
/// Redis may lose all it has at any time: every node registers anew what it holds.
pub struct RedisPresence {
    store: Arc<Store>,
    shared: Arc<Shared>,
    keeper: Mutex<Option<JoinHandle<()>>>,
}

/// The connections.
struct Store {
    pool: Pool,
    timeout: Duration,
    /// The connection that writes, kept out of the pool: that would ask whether it lives, each
    /// time.
    writer: tokio::sync::Mutex<Option<Connection>>,
}

impl RedisPresence {
    /// Connects in the background, and goes on trying for as long as this lives. `node` is the
    /// node's name, as others see it.
    ///
    /// # Errors
    /// [`PresenceError::Configuration`]: the URL is none.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn new(url: &SecretUrl, lease: Duration, node: &str) -> Result<Self, PresenceError> {
        // A lease shorter than three timeouts would run out while one call is waited for.
        let timeout = TIMEOUT.min(lease / 3);
        let settings = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(timeout))
            .set_response_timeout(Some(timeout));
        let configuration = |text: String| PresenceError::Configuration(text.into());
        let manager = Manager::new_with_config(url.reveal(), settings)
            .map_err(|error| configuration(error.to_string()))?;
        let pool = Pool::builder(manager)
            .max_size(CONNECTIONS)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(timeout))
            .create_timeout(Some(timeout))
            .recycle_timeout(Some(timeout))
            .build()
            .map_err(|error| configuration(error.to_string()))?;
        let store = Arc::new(Store {
            pool,
            timeout,
            writer: tokio::sync::Mutex::default(),
        });
        let shared = Arc::new(Shared::new());
        let keeper = Keeper::new(Arc::clone(&store), Arc::clone(&shared), node, lease);
        Ok(Self {
            store,
            shared,
            keeper: Mutex::new(Some(tokio::spawn(keeper.run()))),
        })
    }

    /// The names of the nodes whose leases live.
    async fn nodes(
        &self,
        leases: impl Iterator<Item = LeaseId>,
    ) -> Result<HashMap<LeaseId, Box<str>>, PresenceError> {
        let mut leases: Vec<_> = leases.collect();
        leases.sort_unstable_by_key(|lease| lease.key());
        leases.dedup();
        if leases.is_empty() {
            return Ok(HashMap::new());
        }
        let mut pipe = Pipeline::new();
        for lease in &leases {
            pipe.get(lease.key());
        }
        let names: Vec<Option<String>> = self.store.read(&pipe).await?;
        let named = leases.into_iter().zip(names);
        Ok(named
            .filter_map(|(lease, name)| Some((lease, name?.into())))
            .collect())
    }

    async fn sessions(&self, user: &str) -> Result<Vec<SessionInfo>, PresenceError> {
        let mut pipe = Pipeline::new();
        pipe.hgetall(user_key(user));
        let (entries,): (Vec<(Vec<u8>, Vec<u8>)>,) = self.store.read(&pipe).await?;
        let found: Vec<_> = entries
            .iter()
            .filter_map(|(field, value)| Some((field, LeaseId::split(field)?, value)))
            .collect();
        let nodes = self
            .nodes(found.iter().map(|(_, (lease, _), _)| *lease))
            .await?;
        let mut sessions: Vec<SessionInfo> = Vec::new();
        let mut dead = Vec::new();
        for (field, (lease, id), value) in found {
            match nodes.get(&lease) {
                None => dead.push(field.clone()),
                Some(node) => sessions.extend(decode(id, node, value)),
            }
        }
        if !dead.is_empty() {
            self.shared.forget(Stale::user(user, dead));
        }
        sessions.sort_by(|a, b| (a.since, &a.id).cmp(&(b.since, &b.id)));
        // A node that changes its lease has a session under both, for a moment.
        sessions.dedup_by(|a, b| a.id == b.id);
        Ok(sessions)
    }

    async fn members(&self, group: &str) -> Result<Vec<Arc<str>>, PresenceError> {
        let mut pipe = Pipeline::new();
        pipe.hkeys(group_key(group));
        let (fields,): (Vec<Vec<u8>>,) = self.store.read(&pipe).await?;
        let found: Vec<_> = fields
            .iter()
            .filter_map(|field| Some((field, LeaseId::split(field)?)))
            .collect();
        let nodes = self
            .nodes(found.iter().map(|(_, (lease, _))| *lease))
            .await?;
        let mut users = BTreeSet::new();
        let mut dead = Vec::new();
        for (field, (lease, user)) in found {
            if nodes.contains_key(&lease) {
                users.insert(user);
            } else {
                dead.push(field.clone());
            }
        }
        if !dead.is_empty() {
            self.shared.forget(Stale::group(group, dead));
        }
        Ok(users.into_iter().map(Arc::from).collect())
    }
}

impl Presence for RedisPresence {
    fn join(&self, session: Arc<Session>) {
        self.shared.join(session);
    }

    fn leave(&self, session: &Arc<Session>) {
        self.shared.leave(session);
    }

    fn user<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<SessionInfo>, PresenceError>> {
        self.sessions(name).boxed()
    }

    fn group<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<Arc<str>>, PresenceError>> {
        self.members(name).boxed()
    }

    fn health(&self) -> Result<(), PresenceError> {
        self.shared.health()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        let keeper = self.keeper.lock().take();
        self.shared.close();
        async move {
            if let Some(mut keeper) = keeper {
                // What it does just now comes first, and is bounded as well.
                let longest = keeper::CLOSING + 2 * self.store.timeout;
                if tokio::time::timeout(longest, &mut keeper).await.is_err() {
                    keeper.abort();
                }
            }
        }
        .boxed()
    }
}

impl Drop for RedisPresence {
    fn drop(&mut self) {
        if let Some(keeper) = self.keeper.lock().take() {
            keeper.abort();
        }
    }
}

impl fmt::Debug for RedisPresence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Of the pool nothing: it knows the password.
        f.debug_struct("RedisPresence")
            .field("health", &self.shared.health())
            .finish_non_exhaustive()
    }
}

impl Store {
    /// One round trip on a connection of the pool.
    async fn read<T: FromRedisValue>(&self, pipe: &Pipeline) -> Result<T, PresenceError> {
        let reading = async {
            let mut connection = self.pool.get().await.map_err(unavailable)?;
            pipe.query_async(&mut connection).await.map_err(unavailable)
        };
        self.in_time(reading).await
    }

    /// One round trip on the connection that writes. After an error the next one connects anew.
    async fn write<T: FromRedisValue>(&self, pipe: &Pipeline) -> Result<T, PresenceError> {
        let mut writer = self.writer.lock().await;
        // Taken out, so that it does not stay if this is given up.
        let (kept, writing) = (writer.take(), async |kept: Option<Connection>| {
            let mut connection = match kept {
                Some(connection) => connection,
                None => self.pool.get().await.map_err(unavailable)?,
            };
            let answered = pipe.query_async(&mut connection).await;
            Ok((answered.map_err(unavailable)?, connection))
        });
        let (answer, connection) = self.in_time(writing(kept)).await?;
        *writer = Some(connection);
        Ok(answer)
    }

    async fn in_time<T>(
        &self,
        call: impl Future<Output = Result<T, PresenceError>>,
    ) -> Result<T, PresenceError> {
        let timeout = self.timeout;
        tokio::time::timeout(timeout, call)
            .await
            .unwrap_or_else(|_| Err(unavailable(format!("Redis did not answer in {timeout:?}"))))
    }
}

/// Neither Redis' errors nor the pool's show the URL.
fn unavailable(error: impl fmt::Display) -> PresenceError {
    PresenceError::Unavailable(error.to_string().into())
}
