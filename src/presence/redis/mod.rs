//! Presence in Redis, shared by all nodes. Needs Redis 6.2 or later, or Valkey.

mod connect;
mod entry;
pub mod inspect;
mod keeper;
mod outages;
mod queue;
mod reader;
mod records;
mod room_queue;
mod rooms;
mod script;
mod survivor;

use std::{fmt, sync::Arc, time::Duration};

use deadpool_redis::redis::{FromRedisValue, Pipeline};
use futures_util::future::{self, BoxFuture, FutureExt};
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

pub(crate) use self::{
    connect::{Connections, Shared},
    script::code,
};
use self::{
    connect::{Kept, unavailable},
    entry::{Keys, PARTITIONS, partition_of},
    keeper::Keeper,
    outages::Outages,
    queue::RedisShared,
    reader::{RedisReader, Spread},
    records::RedisRecords,
    rooms::RedisRooms,
    survivor::Survivor,
};
use super::{
    Counts, Listing, Member, Node, NodeInfo, Page, Presence, PresenceEntry, PresenceError, Records,
    RedisConfig, SessionInfo, Status, UserCount, UserPresence,
    rooms::{RoomRules, Rooms},
};
use crate::{background, secret_url::SecretUrl};

/// Presence in Redis: on one server, on the one that Sentinels name, or in a cluster.
///
/// All changes that wait go in one round trip, so a login costs at most one, and many logins at a
/// time share it. A question about users takes two. A living node removes the entries of a dead
/// one.
///
/// Redis may lose all it has at any time, or the last of it: every node registers anew what it
/// holds. In a cluster each partition is as a Redis of its own, and lost and found by itself.
pub struct RedisPresence {
    partitions: Partitions,
    rooms: Option<Arc<RedisRooms>>,
    records: Arc<RedisRecords>,
    timeout: Duration,
}

/// One; or, in a cluster, all of them.
type Partitions = Arc<[Partition]>;

/// The users and rooms whose keys are in one slot of a cluster; or all.
struct Partition {
    store: Arc<Store>,
    reader: RedisReader,
    shared: Arc<RedisShared>,
    keeper: Mutex<Option<JoinHandle<()>>>,
    survivor: Mutex<Option<AbortOnDropHandle<()>>>,
}

/// A partition's keys, and the way to them.
struct Store {
    connections: Arc<Connections>,
    keys: Keys,
    number: usize,
    /// The connection that the keeper writes on.
    writer: tokio::sync::Mutex<Option<Kept>>,
}

impl RedisPresence {
    /// Connects in the background, and goes on trying for as long as this lives.
    ///
    /// # Errors
    /// [`PresenceError::Configuration`]: a key, and its fault.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn new(
        url: &SecretUrl,
        config: &RedisConfig,
        lease: Duration,
        node: Node,
    ) -> Result<Self, PresenceError> {
        let connections = Arc::new(Connections::new(url, config, lease)?);
        let node = Arc::new(node);
        // Each partition counts its own rooms.
        let rules = |partitions: usize| {
            node.rooms.clone().map(|rules| RoomRules {
                max_rooms: rules.max_rooms.div_ceil(partitions.max(1)),
                ..rules
            })
        };
        let all_keys: Vec<_> = if connections.is_cluster() {
            (0..PARTITIONS).map(Keys::partition).collect()
        } else {
            vec![Keys::whole()]
        };
        let outages = Arc::new(Outages::new(all_keys.len()));
        let rules = rules(all_keys.len());
        let partitions = all_keys.into_iter().enumerate().map(|(number, keys)| {
            let store = Arc::new(Store {
                connections: Arc::clone(&connections),
                keys,
                number,
                writer: tokio::sync::Mutex::default(),
            });
            Partition::start(store, (&node, rules.as_ref()), &outages, lease)
        });
        let partitions: Partitions = partitions.collect();
        let timeout = connections.timeout;
        let rooms = node.rooms.as_ref();
        let rooms = rooms.map(|rules| RedisRooms::new(&partitions, rules, timeout));
        Ok(Self {
            partitions,
            rooms: rooms.map(Arc::new),
            timeout,
            records: Arc::new(RedisRecords::new(connections)),
        })
    }

    /// The partition of a user. There is one.
    fn of(&self, user: &str) -> Option<&Partition> {
        self.partitions
            .get(partition_of(user, self.partitions.len()))
    }

    /// Asks all partitions at once.
    async fn all<'a, T>(
        &'a self,
        ask: impl Fn(&'a RedisReader) -> BoxFuture<'a, Result<T, PresenceError>>,
    ) -> Result<Vec<T>, PresenceError> {
        let asked = self
            .partitions
            .iter()
            .map(|partition| ask(&partition.reader));
        future::try_join_all(asked).await
    }

    /// Asks each user's partition about those of the names that are its own: one call a partition.
    /// The answers are in the order of the names.
    async fn each<T: Default>(
        &self,
        names: &[&str],
        ask: impl for<'a> Fn(
            &'a RedisReader,
            &'a [&'a str],
        ) -> BoxFuture<'a, Result<Vec<T>, PresenceError>>,
    ) -> Result<Vec<T>, PresenceError> {
        let spread = Spread::new(names, self.partitions.len());
        let asked = spread.parts().filter_map(|(number, names)| {
            let partition = self.partitions.get(number)?;
            Some(ask(&partition.reader, names))
        });
        let answers = future::try_join_all(asked).await?;
        Ok(spread.gather(answers))
    }
}

impl Partition {
    fn start(
        store: Arc<Store>,
        (node, rules): (&Arc<Node>, Option<&RoomRules>),
        outages: &Arc<Outages>,
        lease: Duration,
    ) -> Self {
        let shared = Arc::new(RedisShared::new(node.debounce));
        shared.rooms.set_rules(rules);
        let parts = || (Arc::clone(&store), Arc::clone(&shared), Arc::clone(node));
        let (a, b, c) = parts();
        let keeper = Keeper::new(a, b, c, Arc::clone(outages), lease);
        let keeper = background::spawn(keeper.run());
        let (a, b, c) = parts();
        let survivor = background::spawn(Survivor::new(a, b, c, lease).run());
        Self {
            reader: RedisReader::new(Arc::clone(&store)),
            store,
            shared,
            keeper: Mutex::new(Some(keeper)),
            survivor: Mutex::new(Some(AbortOnDropHandle::new(survivor))),
        }
    }

    async fn close(&self, timeout: Duration) {
        drop(self.survivor.lock().take());
        let keeper = self.keeper.lock().take();
        self.shared.close();
        if let Some(mut keeper) = keeper {
            // The work under way comes first, and is bounded as well.
            let longest = keeper::CLOSING.saturating_add(timeout.saturating_mul(2));
            if tokio::time::timeout(longest, &mut keeper).await.is_err() {
                keeper.abort();
            }
        }
    }
}

impl Drop for Partition {
    fn drop(&mut self) {
        if let Some(keeper) = self.keeper.lock().take() {
            keeper.abort();
        }
    }
}

impl Presence for RedisPresence {
    fn join(&self, session: Arc<PresenceEntry>) {
        if let Some(partition) = self.of(&session.user) {
            partition.shared.join(session);
        }
    }

    fn claim(
        &self,
        session: Arc<PresenceEntry>,
    ) -> BoxFuture<'_, Result<Vec<SessionInfo>, PresenceError>> {
        async move {
            let Some(Partition { reader, shared, .. }) = self.of(&session.user) else {
                return Ok(Vec::new());
            };
            let before = match shared.lease() {
                Some(taken) => reader.claim(&session, taken.lease).await,
                None => Err(unavailable("this node has no lease")),
            };
            shared.claim(&session);
            before
        }
        .boxed()
    }

    fn leave(&self, session: &Arc<PresenceEntry>) {
        if let Some(partition) = self.of(&session.user) {
            partition.shared.leave(session);
        }
    }

    fn set_status(&self, session: &Arc<PresenceEntry>, status: Status) {
        if let Some(partition) = self.of(&session.user) {
            partition.shared.set_status(session, status);
        }
    }

    fn regroup(&self, session: &Arc<PresenceEntry>, groups: Vec<Arc<str>>) {
        if let Some(partition) = self.of(&session.user) {
            partition.shared.regroup(session, groups);
        }
    }

    fn held(&self, user: &str) -> Vec<Arc<PresenceEntry>> {
        let partition = self.of(user);
        partition.map_or_else(Vec::new, |partition| partition.shared.held(user))
    }

    fn users<'a>(
        &'a self,
        names: &'a [&'a str],
    ) -> BoxFuture<'a, Result<Vec<UserPresence>, PresenceError>> {
        self.each(names, |reader, names| reader.users(names).boxed())
            .boxed()
    }

    fn count_users<'a>(
        &'a self,
        names: &'a [&'a str],
    ) -> BoxFuture<'a, Result<Vec<UserCount>, PresenceError>> {
        self.each(names, |reader, names| reader.count_users(names).boxed())
            .boxed()
    }

    fn group<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<Member>, PresenceError>> {
        async move {
            let members = self.all(|reader| reader.group(name).boxed()).await?;
            let mut members = members.concat();
            members.sort_unstable_by(|a, b| a.user.cmp(&b.user));
            Ok(members)
        }
        .boxed()
    }

    fn session<'a>(
        &'a self,
        id: &'a str,
    ) -> BoxFuture<'a, Result<Option<SessionInfo>, PresenceError>> {
        async move {
            let found = self.all(|reader| reader.session(id).boxed()).await?;
            Ok(found.into_iter().flatten().next())
        }
        .boxed()
    }

    /// The cursor begins with the partition's number, where there are several.
    fn sessions<'a>(&'a self, listing: &'a Listing) -> BoxFuture<'a, Result<Page, PresenceError>> {
        async move {
            if let Some(user) = &listing.user {
                return match self.of(user) {
                    Some(partition) => partition.reader.sessions_of(user, listing).await,
                    None => Ok(Page::default()),
                };
            }
            if let [only] = &*self.partitions {
                return only.reader.sessions(listing).await;
            }
            let (first, after) = match &listing.after {
                None => (0, None),
                Some(after) => {
                    let (number, after) = after.split_once('.').ok_or(PresenceError::Cursor)?;
                    let number: usize = number.parse().map_err(|_| PresenceError::Cursor)?;
                    (number, Some(after).filter(|after| !after.is_empty()))
                }
            };
            let mut listing = Listing {
                after: after.map(Into::into),
                ..listing.clone()
            };
            let mut found = Page::default();
            for (number, partition) in self.partitions.iter().enumerate().skip(first) {
                let page = partition.reader.sessions(&listing).await?;
                listing.limit = listing.limit.saturating_sub(page.sessions.len());
                listing.after = None;
                found.sessions.extend(page.sessions);
                if let Some(next) = page.next {
                    found.next = Some(format!("{number}.{next}").into());
                    return Ok(found);
                }
                let following = number.saturating_add(1);
                if listing.limit == 0 && following < self.partitions.len() {
                    found.next = Some(format!("{following}.").into());
                    return Ok(found);
                }
            }
            Ok(found)
        }
        .boxed()
    }

    fn counts(&self) -> BoxFuture<'_, Result<Counts, PresenceError>> {
        async move {
            let mut all = Counts::default();
            for counts in self.all(|reader| reader.counts().boxed()).await? {
                all.sessions = all.sessions.saturating_add(counts.sessions);
                all.users = all.users.saturating_add(counts.users);
            }
            Ok(all)
        }
        .boxed()
    }

    fn nodes(&self) -> BoxFuture<'_, Result<Vec<NodeInfo>, PresenceError>> {
        async move {
            let mut all: Vec<NodeInfo> = self.all(|reader| reader.nodes().boxed()).await?.concat();
            all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
            all.dedup_by(|next, first| {
                let is_same = next.name == first.name;
                if is_same {
                    // Each partition has a part of the node's sessions.
                    first.sessions = first.sessions.saturating_add(next.sessions);
                }
                is_same
            });
            Ok(all)
        }
        .boxed()
    }

    fn health(&self) -> Result<(), PresenceError> {
        self.partitions
            .iter()
            .try_for_each(|partition| partition.shared.health())
    }

    fn rooms(&self) -> Option<Arc<dyn Rooms>> {
        let rooms = self.rooms.as_ref()?;
        Some(Arc::clone(rooms) as _)
    }

    fn records(&self) -> Option<Arc<dyn Records>> {
        Some(Arc::clone(&self.records) as _)
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        let closing = self
            .partitions
            .iter()
            .map(|partition| partition.close(self.timeout));
        future::join_all(closing).map(drop).boxed()
    }
}

impl fmt::Debug for RedisPresence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the connections: they know the password.
        f.debug_struct("RedisPresence")
            .field("health", &self.health())
            .finish_non_exhaustive()
    }
}

impl Store {
    /// One round trip, in the order of the commands.
    async fn call_in_order<T: FromRedisValue>(&self, pipe: &Pipeline) -> Result<T, PresenceError> {
        let tag = self.keys.nodes();
        self.connections.call_in_order(&tag, pipe).await
    }

    /// One round trip, in any order.
    async fn call<T: FromRedisValue>(&self, pipe: &Pipeline) -> Result<T, PresenceError> {
        self.connections.call(&self.keys.nodes(), pipe).await
    }

    /// The same for what clients may ask as often as they like.
    async fn ask<T: FromRedisValue>(&self, pipe: &Pipeline) -> Result<T, PresenceError> {
        self.connections.ask(&self.keys.nodes(), pipe).await
    }

    /// One round trip on the connection that writes. After an error the next one connects anew.
    async fn write<T: FromRedisValue>(&self, pipe: &Pipeline) -> Result<T, PresenceError> {
        let tag = self.keys.nodes();
        self.connections.write(&self.writer, &tag, pipe).await
    }
}
