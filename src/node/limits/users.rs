//! What the connections of one user hold together on this node: connections, subscriptions, and
//! queues of their own at the broker.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, Ordering},
    },
};

use hashbrown::HashTable;
use parking_lot::Mutex;
use stomp_session::Problem;

use super::{Limits, bucket::Bucket};
use crate::telemetry::{self, Bound};

/// The users that are connected to a node.
#[derive(Debug)]
pub struct Users {
    max_connections: AtomicU32,
    max_subscriptions: AtomicU32,
    max_queues: AtomicU32,
    hasher: RandomState,
    table: Mutex<HashTable<Arc<UserEntry>>>,
}

/// One user. There are as many as users, so it is small.
struct UserEntry {
    users: Weak<Users>,
    name: Arc<str>,
    /// Changed only with the table locked.
    connections: AtomicU32,
    subscriptions: AtomicU32,
    queues: AtomicU32,
    subscribes: Bucket,
}

impl fmt::Debug for UserEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserEntry")
            .field("name", &self.name)
            .field("connections", &self.connections)
            .finish_non_exhaustive()
    }
}

/// A connection's place among those of its user; given back when it is dropped.
#[derive(Debug)]
pub struct UserPlace(Arc<UserEntry>);

/// A subscription's place among those of its user; the same.
#[derive(Debug)]
pub struct SubscriptionPlace(Arc<UserEntry>);

/// A queue's place among those of its user's subscriptions; the same.
#[derive(Debug)]
pub struct QueuePlace(Arc<UserEntry>);

impl Users {
    /// Nobody is here yet.
    #[must_use]
    pub fn new(limits: &Limits) -> Arc<Self> {
        let users = Self {
            max_connections: AtomicU32::default(),
            max_subscriptions: AtomicU32::default(),
            max_queues: AtomicU32::default(),
            hasher: RandomState::new(),
            table: Mutex::default(),
        };
        users.set_limits(limits);
        Arc::new(users)
    }

    /// These limits count from now on. A user who has more keeps it.
    pub fn set_limits(&self, limits: &Limits) {
        let most = |limit: usize| match u32::try_from(limit) {
            Ok(0) | Err(_) => u32::MAX,
            Ok(limit) => limit,
        };
        for (own, limit) in [
            (&self.max_connections, limits.max_user_connections),
            (&self.max_subscriptions, limits.max_user_subscriptions),
            (&self.max_queues, limits.max_user_queues),
        ] {
            own.store(most(limit), Ordering::Relaxed);
        }
    }

    /// Takes a place for one more connection of a user.
    ///
    /// # Errors
    /// There are as many as allowed.
    pub fn enter(self: &Arc<Self>, name: &Arc<str>) -> Result<UserPlace, Problem> {
        let hash = self.hasher.hash_one(name);
        let mut table = self.table.lock();
        let found = table.find(hash, |entry| entry.name == *name).cloned();
        let entry = match found {
            Some(entry) => entry,
            None => {
                let entry = Arc::new(UserEntry {
                    users: Arc::downgrade(self),
                    name: Arc::clone(name),
                    connections: AtomicU32::new(0),
                    subscriptions: AtomicU32::new(0),
                    queues: AtomicU32::new(0),
                    subscribes: Bucket::default(),
                });
                let rehash = |entry: &Arc<UserEntry>| self.hasher.hash_one(&entry.name);
                table.insert_unique(hash, Arc::clone(&entry), rehash);
                entry
            }
        };
        let connections = entry.connections.load(Ordering::Relaxed);
        if connections >= self.max_connections.load(Ordering::Relaxed) {
            drop(table);
            return Err(self.too_many_connections(name));
        }
        entry
            .connections
            .store(connections.saturating_add(1), Ordering::Relaxed);
        Ok(UserPlace(entry))
    }

    /// Connections that a user may have; `None`: any number.
    #[must_use]
    pub fn max_connections(&self) -> Option<u32> {
        let most = self.max_connections.load(Ordering::Relaxed);
        (most < u32::MAX).then_some(most)
    }

    /// Says so, and is the answer to a login that is one too many.
    #[must_use]
    pub fn too_many_connections(&self, name: &str) -> Problem {
        telemetry::limit_exceeded(Bound::UserConnections, &name);
        Problem::TooManyOfUser {
            limit: self.max_connections.load(Ordering::Relaxed),
        }
    }

    fn leave(&self, entry: &Arc<UserEntry>) {
        let mut table = self.table.lock();
        let connections = entry.connections.load(Ordering::Relaxed).saturating_sub(1);
        entry.connections.store(connections, Ordering::Relaxed);
        if connections == 0 {
            let hash = self.hasher.hash_one(&entry.name);
            if let Ok(found) = table.find_entry(hash, |other| Arc::ptr_eq(other, entry)) {
                found.remove();
            }
        }
        // After a rush.
        if table.capacity() > 1024 && table.len() < table.capacity() / 8 {
            let double = table.len().saturating_mul(2);
            table.shrink_to(double, |entry| self.hasher.hash_one(&entry.name));
        }
    }
}

impl UserPlace {
    /// Connections of its user on this node, this one among them.
    #[must_use]
    pub fn connections(&self) -> u32 {
        self.0.connections.load(Ordering::Relaxed)
    }

    /// Takes a place for a subscription.
    ///
    /// # Errors
    /// There are as many as allowed.
    pub fn subscribe(&self) -> Result<SubscriptionPlace, Problem> {
        let limit = self.limit(|users| &users.max_subscriptions);
        if take(&self.0.subscriptions, limit) {
            return Ok(SubscriptionPlace(Arc::clone(&self.0)));
        }
        telemetry::limit_exceeded(Bound::UserSubscriptions, &self.0.name);
        Err(Problem::TooManySubscriptionsOfUser { limit })
    }

    /// Takes a place for a queue of a subscription's own.
    ///
    /// # Errors
    /// There are as many as allowed.
    pub fn queue(&self) -> Result<QueuePlace, Problem> {
        let limit = self.limit(|users| &users.max_queues);
        if take(&self.0.queues, limit) {
            return Ok(QueuePlace(Arc::clone(&self.0)));
        }
        telemetry::limit_exceeded(Bound::UserQueues, &self.0.name);
        Err(Problem::TooManyQueuesOfUser { limit })
    }

    /// The bucket of its user's SUBSCRIBE frames.
    #[must_use]
    pub fn subscribes(&self) -> &Bucket {
        &self.0.subscribes
    }

    fn limit(&self, of: impl FnOnce(&Users) -> &AtomicU32) -> u32 {
        let users = self.0.users.upgrade();
        users.map_or(u32::MAX, |users| of(&users).load(Ordering::Relaxed))
    }
}

/// Counts one more, if there are not as many as `limit`.
fn take(count: &AtomicU32, limit: u32) -> bool {
    let more = |count: u32| count.checked_add(1).filter(|count| *count <= limit);
    count
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
        .is_ok()
}

impl Drop for UserPlace {
    fn drop(&mut self) {
        if let Some(users) = self.0.users.upgrade() {
            users.leave(&self.0);
        }
    }
}

impl Drop for SubscriptionPlace {
    fn drop(&mut self) {
        self.0.subscriptions.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for QueuePlace {
    fn drop(&mut self) {
        self.0.queues.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users() -> Arc<Users> {
        Users::new(&Limits {
            max_user_connections: 2,
            max_user_subscriptions: 2,
            max_user_queues: 1,
            ..Limits::default()
        })
    }

    #[test]
    fn a_user_has_so_many_connections_and_others_have_theirs() {
        let users = users();
        let (alice, bob) = (Arc::from("alice"), Arc::from("bob"));
        let first = users.enter(&alice).unwrap();
        let second = users.enter(&alice).unwrap();
        assert_eq!(second.connections(), 2);
        let refused = users.enter(&alice).unwrap_err();
        assert_eq!(refused, Problem::TooManyOfUser { limit: 2 });
        assert!(users.enter(&bob).is_ok());
        drop(first);
        drop(users.enter(&alice).unwrap());
        drop(second);
        assert!(users.table.lock().is_empty());
    }

    #[test]
    fn connections_share_subscriptions_and_queues() {
        let users = users();
        let alice = Arc::from("alice");
        let [first, second] = [(); 2].map(|()| users.enter(&alice).unwrap());
        let (one, _other) = (first.subscribe().unwrap(), second.subscribe().unwrap());
        let queue = first.queue().unwrap();
        assert!(first.subscribe().is_err() && second.subscribe().is_err());
        assert_eq!(
            second.queue().unwrap_err(),
            Problem::TooManyQueuesOfUser { limit: 1 }
        );
        drop((one, queue));
        assert!(second.subscribe().is_ok() && second.queue().is_ok());
    }

    #[test]
    fn zero_is_no_bound() {
        let users = Users::new(&Limits {
            max_user_connections: 0,
            max_user_subscriptions: 0,
            max_user_queues: 0,
            ..Limits::default()
        });
        let alice = Arc::from("alice");
        let places: Vec<_> = (0..100).map(|_| users.enter(&alice).unwrap()).collect();
        assert_eq!(users.max_connections(), None);
        assert!(places.iter().all(|place| place.subscribe().is_ok()));
    }
}
