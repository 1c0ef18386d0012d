use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::{BoxFuture, FutureExt};
use parking_lot::Mutex;
use tokio::time::{advance, sleep};

use super::*;
use crate::{
    control::{Applied, Sessions},
    presence::{MemoryRecords, RecordsRead},
    telemetry::capture::Capture,
};

/// Redis, which may be away, and may forget all.
#[derive(Default)]
struct Store {
    records: Mutex<Arc<MemoryRecords>>,
    is_away: AtomicBool,
}

impl Store {
    fn call(&self) -> Result<Arc<MemoryRecords>, PresenceError> {
        if self.is_away.load(Ordering::Relaxed) {
            return Err(PresenceError::Unavailable("away".into()));
        }
        Ok(Arc::clone(&self.records.lock()))
    }
}

impl Records for Store {
    fn put<'a>(&'a self, records: &'a [Record]) -> BoxFuture<'a, Result<usize, PresenceError>> {
        async move { self.call()?.put(records).await }.boxed()
    }

    fn remove<'a>(&'a self, records: &'a [Record]) -> BoxFuture<'a, Result<(), PresenceError>> {
        async move { self.call()?.remove(records).await }.boxed()
    }

    fn read<'a>(
        &'a self,
        version: Option<&'a [u8]>,
    ) -> BoxFuture<'a, Result<Option<RecordsRead>, PresenceError>> {
        async move { self.call()?.read(version).await }.boxed()
    }
}

fn node(store: &Arc<Store>) -> Arc<Registry> {
    let registry = Registry::new(10);
    registry.share_bans(Arc::clone(store) as _);
    tokio::spawn(keep_bans(Arc::downgrade(&registry)));
    registry
}

fn set(registry: &Registry, user: &str, is_banned: bool) {
    let ban = is_banned.then(|| Ban {
        until: None,
        reason: "spam".into(),
    });
    let subject = Subject::user(user).unwrap();
    let change = registry.bans().change(SystemTime::now(), subject, ban);
    let (applied, _) = registry.ban(&change, Duration::ZERO);
    assert_eq!(applied, Applied::Done(change));
}

fn is_banned(registry: &Registry, user: &str) -> bool {
    let subject = Subject::user(user).unwrap();
    registry.bans().of(SystemTime::now(), &subject).is_some()
}

/// Every node has looked.
async fn look() {
    sleep(EVERY + Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_comes_later_knows_the_bans() {
    let store = Arc::new(Store::default());
    let one = node(&store);
    set(&one, "alice", true);
    set(&one, "bob", true);
    set(&one, "bob", false);
    sleep(Duration::from_millis(1)).await;
    let two = node(&store);
    sleep(Duration::from_millis(1)).await;
    assert!(is_banned(&two, "alice") && !is_banned(&two, "bob"));
    // Also of what changes later, and of what the other lifts.
    set(&two, "alice", false);
    set(&two, "carol", true);
    look().await;
    assert!(!is_banned(&one, "alice") && is_banned(&one, "carol"));
}

#[tokio::test(start_paused = true)]
async fn changes_while_redis_is_away_are_made_up_for() {
    let store = Arc::new(Store::default());
    let (one, two) = (node(&store), node(&store));
    set(&one, "alice", true);
    look().await;
    assert!(is_banned(&two, "alice"));
    store.is_away.store(true, Ordering::Relaxed);
    set(&one, "alice", false);
    set(&two, "bob", true);
    look().await;
    assert!(is_banned(&two, "alice") && !is_banned(&one, "bob"));
    store.is_away.store(false, Ordering::Relaxed);
    for _ in 0..3 {
        look().await;
    }
    for node in [&one, &two] {
        assert!(!is_banned(node, "alice") && is_banned(node, "bob"));
    }
}

#[tokio::test(start_paused = true)]
async fn forgotten_records_are_written_anew() {
    let store = Arc::new(Store::default());
    let one = node(&store);
    set(&one, "alice", true);
    look().await;
    *store.records.lock() = Arc::default();
    look().await;
    drop(one);
    let two = node(&store);
    sleep(Duration::from_millis(1)).await;
    assert!(is_banned(&two, "alice"));
}

/// The replica that took over did not have it yet. It has the version that was read before.
#[tokio::test(start_paused = true)]
async fn what_a_failover_takes_out_is_written_anew() {
    let store = Arc::new(Store::default());
    let replica = Arc::<MemoryRecords>::default();
    let before = Record {
        key: "user:bob".into(),
        stamp: 1,
        value: br#"{"user":"bob","stamp":1}"#.as_slice().into(),
    };
    let before = [before];
    for records in [&*store as &dyn Records, &*replica] {
        records.put(&before).await.unwrap();
    }
    let read = async || store.read(None).await.unwrap().unwrap();
    let version = read().await.version;
    let one = node(&store);
    sleep(Duration::from_millis(1)).await;
    assert!(is_banned(&one, "bob"));
    // One change alone: another look would read the version anew.
    set(&one, "bob", false);
    sleep(Duration::from_millis(1)).await;
    assert_ne!(read().await.version, version);
    *store.records.lock() = replica;
    assert_eq!(read().await.version, version);
    look().await;
    drop(one);
    let two = node(&store);
    sleep(Duration::from_millis(1)).await;
    assert!(!is_banned(&two, "bob"));
}

/// An older version took it from a backend that wrote nanoseconds.
#[tokio::test(start_paused = true)]
async fn a_record_after_which_nothing_could_come_goes() {
    let store = Arc::new(Store::default());
    for (user, stamp) in [("alice", u64::MAX), ("bob", 1_900_000_000_000_000_000)] {
        let record = Record {
            key: format!("user:{user}").into(),
            stamp,
            value: format!(r#"{{"user":"{user}","stamp":{stamp}}}"#)
                .into_bytes()
                .into(),
        };
        store.put(&[record]).await.unwrap();
    }
    let one = node(&store);
    sleep(Duration::from_millis(1)).await;
    assert!(!is_banned(&one, "alice"), "its stamp cannot be read");
    set(&one, "alice", true);
    set(&one, "alice", false);
    set(&one, "bob", true);
    look().await;
    let two = node(&store);
    sleep(Duration::from_millis(1)).await;
    assert!(!is_banned(&two, "alice") && is_banned(&two, "bob"));
    let records = store.read(None).await.unwrap().unwrap().records;
    assert_eq!(records.len(), 2, "{records:?}");
    assert!(records.iter().all(|record| Change::is_stamp(record.stamp)));
}

/// Whoever bans is told, for nodes that start later do not learn of it.
#[tokio::test(start_paused = true)]
async fn a_ban_for_which_redis_has_no_room_is_an_error() {
    let log = Capture::start();
    let store = Arc::new(Store::default());
    let others: Vec<_> = (0..MemoryRecords::MOST)
        .map(|number| Record {
            key: number.to_string().into(),
            stamp: 1,
            value: b"not a ban".as_slice().into(),
        })
        .collect();
    assert_eq!(store.put(&others).await, Ok(0));
    let one = node(&store);
    set(&one, "alice", true);
    let recorded = async || {
        let change = one.bans().changes(SystemTime::now()).pop().unwrap();
        one.record_ban(&change).await.unwrap()
    };
    assert!(recorded().await.is_err());
    look().await;
    let text = log.text();
    let full = text.lines().filter(|line| line.contains("ban not taken"));
    assert_eq!(full.count(), 1, "{text}");
    // It is written when there is room.
    store.remove(&others[..1]).await.unwrap();
    look().await;
    assert_eq!(recorded().await, Ok(()));
    let two = node(&store);
    sleep(Duration::from_millis(1)).await;
    assert!(is_banned(&two, "alice"));
}

/// Each in its own time, and none brings it back.
#[tokio::test(start_paused = true)]
async fn what_was_lifted_long_ago_is_forgotten_by_all() {
    let hour = Duration::from_secs(60 * 60);
    let store = Arc::new(Store::default());
    let lifted = SystemTime::now() - 8 * 24 * hour;
    let lifted = lifted.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let change = Change {
        subject: Subject::user("alice").unwrap(),
        stamp: Some(u64::try_from(lifted.as_millis()).unwrap()),
        ban: None,
    };
    store.put(&[record(&change)]).await.unwrap();
    let known = |node: &Registry| node.bans().changes(SystemTime::UNIX_EPOCH).len();
    let written = async || store.read(None).await.unwrap().unwrap().records.len();
    let one = node(&store);
    sleep(3 * hour).await;
    let two = node(&store);
    look().await;
    assert_eq!((known(&one), known(&two), written().await), (1, 1, 1));
    sleep(3 * hour + EVERY).await;
    assert_eq!((known(&one), known(&two), written().await), (0, 1, 0));
    sleep(3 * hour + EVERY).await;
    assert_eq!((known(&one), known(&two), written().await), (0, 0, 0));
}

/// The task ends with the registry.
#[tokio::test(start_paused = true)]
async fn nobody_keeps_bans_for_a_node_that_is_gone() {
    let registry = Registry::new(1);
    let keeping = tokio::spawn(keep_bans(Arc::downgrade(&registry)));
    look().await;
    drop(registry);
    advance(EVERY).await;
    keeping.await.unwrap();
}
