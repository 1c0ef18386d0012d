//! Presence in Redis, shared by all nodes. Needs Redis 6.2 or later, or Valkey.

mod entry;
mod keeper;
mod queue;
mod reader;
mod records;
mod script;
mod survivor;

use std::{fmt, sync::Arc, time::Duration};

use deadpool_redis::{
    Connection, Manager, Pool, PoolError, Runtime,
    redis::{AsyncConnectionConfig, FromRedisValue, Pipeline},
};
use futures_util::future::{BoxFuture, FutureExt};
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

use self::{
    keeper::Keeper, queue::RedisShared, reader::RedisReader, records::RedisRecords,
    survivor::Survivor,
};
use super::{
    Counts, Listing, Member, Node, NodeInfo, Page, Presence, PresenceEntry, PresenceError, Records,
    SessionInfo, Status, UserPresence,
};
use crate::{deadline::third, secret_url::SecretUrl};

/// Connections at most: one writes, the others read.
const CONNECTIONS: usize = 4;
/// How long Redis may take to answer.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Presence in Redis.
///
/// All changes that wait go in one round trip, so a login costs at most one, and many logins at a
/// time share it. A question about users or a group takes one as well. A living node removes the
/// entries of a dead one.
///
/// Redis may lose all it has at any time: every node registers anew what it holds.
pub struct RedisPresence {
    reader: RedisReader,
    records: Arc<RedisRecords>,
    shared: Arc<RedisShared>,
    timeout: Duration,
    keeper: Mutex<Option<JoinHandle<()>>>,
    survivor: Mutex<Option<AbortOnDropHandle<()>>>,
}

/// The connections.
struct Store {
    pool: Pool,
    timeout: Duration,
    /// The connection that the keeper writes on, kept out of the pool: the pool would test it
    /// before each use.
    writer: tokio::sync::Mutex<Option<Connection>>,
}

impl RedisPresence {
    /// Connects in the background, and goes on trying for as long as this lives.
    ///
    /// # Errors
    /// [`PresenceError::Configuration`]: the URL is not valid.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn new(url: &SecretUrl, lease: Duration, node: Node) -> Result<Self, PresenceError> {
        // A lease shorter than three timeouts would run out while one call is waited for.
        let timeout = TIMEOUT.min(third(lease));
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
        let shared = Arc::new(RedisShared::new(node.debounce));
        let node = Arc::new(node);
        let parts = || (Arc::clone(&store), Arc::clone(&shared), Arc::clone(&node));
        let (a, b, c) = parts();
        let keeper = tokio::spawn(Keeper::new(a, b, c, lease).run());
        let (a, b, c) = parts();
        let survivor = tokio::spawn(Survivor::new(a, b, c, lease).run());
        Ok(Self {
            records: Arc::new(RedisRecords::new(Arc::clone(&store))),
            reader: RedisReader::new(store),
            shared,
            timeout,
            keeper: Mutex::new(Some(keeper)),
            survivor: Mutex::new(Some(AbortOnDropHandle::new(survivor))),
        })
    }
}

impl Presence for RedisPresence {
    fn join(&self, session: Arc<PresenceEntry>) {
        self.shared.join(session);
    }

    fn claim(
        &self,
        session: Arc<PresenceEntry>,
    ) -> BoxFuture<'_, Result<Vec<SessionInfo>, PresenceError>> {
        async move {
            let before = match self.shared.lease() {
                Some(taken) => self.reader.claim(&session, taken.lease).await,
                None => Err(unavailable("this node has no lease")),
            };
            self.shared.join(session);
            before
        }
        .boxed()
    }

    fn leave(&self, session: &Arc<PresenceEntry>) {
        self.shared.leave(session);
    }

    fn set_status(&self, session: &Arc<PresenceEntry>, status: Status) {
        self.shared.set_status(session, status);
    }

    fn regroup(&self, session: &Arc<PresenceEntry>, groups: Vec<Arc<str>>) {
        self.shared.regroup(session, groups);
    }

    fn held(&self, user: &str) -> Vec<Arc<PresenceEntry>> {
        self.shared.held(user)
    }

    fn users<'a>(
        &'a self,
        names: &'a [&'a str],
    ) -> BoxFuture<'a, Result<Vec<UserPresence>, PresenceError>> {
        self.reader.users(names).boxed()
    }

    fn count_sessions<'a>(&'a self, user: &'a str) -> BoxFuture<'a, Result<u64, PresenceError>> {
        self.reader.count_sessions(user).boxed()
    }

    fn group<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<Member>, PresenceError>> {
        self.reader.group(name).boxed()
    }

    fn session<'a>(
        &'a self,
        id: &'a str,
    ) -> BoxFuture<'a, Result<Option<SessionInfo>, PresenceError>> {
        self.reader.session(id).boxed()
    }

    fn sessions<'a>(&'a self, listing: &'a Listing) -> BoxFuture<'a, Result<Page, PresenceError>> {
        self.reader.sessions(listing).boxed()
    }

    fn counts(&self) -> BoxFuture<'_, Result<Counts, PresenceError>> {
        self.reader.counts().boxed()
    }

    fn nodes(&self) -> BoxFuture<'_, Result<Vec<NodeInfo>, PresenceError>> {
        self.reader.nodes().boxed()
    }

    fn health(&self) -> Result<(), PresenceError> {
        self.shared.health()
    }

    fn records(&self) -> Option<Arc<dyn Records>> {
        Some(Arc::clone(&self.records) as _)
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        drop(self.survivor.lock().take());
        let keeper = self.keeper.lock().take();
        self.shared.close();
        async move {
            if let Some(mut keeper) = keeper {
                // The work under way comes first, and is bounded as well.
                let longest = keeper::CLOSING.saturating_add(self.timeout.saturating_mul(2));
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
        // Not the pool: it knows the password.
        f.debug_struct("RedisPresence")
            .field("health", &self.shared.health())
            .finish_non_exhaustive()
    }
}

impl Store {
    /// One round trip on a connection of the pool.
    async fn call<T: FromRedisValue>(&self, pipe: &Pipeline) -> Result<T, PresenceError> {
        let reading = async {
            let mut connection = self.pool.get().await.map_err(no_connection)?;
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
                None => self.pool.get().await.map_err(no_connection)?,
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

/// In Redis' words where it has some: how the pool came to ask is nobody's business.
fn no_connection(error: PoolError) -> PresenceError {
    match error {
        PoolError::Backend(error) => unavailable(error),
        other => unavailable(other),
    }
}

/// Neither Redis' errors nor the pool's show the URL.
fn unavailable(error: impl fmt::Display) -> PresenceError {
    PresenceError::Unavailable(error.to_string().into())
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_connection_that_cannot_be_made_is_told_in_redis_words() {
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        let error = no_connection(PoolError::Backend(refused.into()));
        assert_eq!(error.to_string(), "unreachable: connection refused");
    }
}
