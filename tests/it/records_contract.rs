//! Every promise of [`stentor::presence::Records`], as tests that are generic over it.

use std::{sync::Arc, time::Duration};

use stentor::presence::{MemoryRecords, Presence, Record, Records, RecordsRead};
use testkit::{Redis, RedisCluster, RedisSentinels};

use crate::presence_contract::{
    LONG, cluster_presence, redis_presence, sentinel_presence, settings,
};

/// Records to test: nobody else writes there.
trait Fixture {
    async fn start() -> Self;

    /// As one more node has them.
    fn node(&self) -> Arc<dyn Records>;
}

struct Memory(Arc<MemoryRecords>);

impl Fixture for Memory {
    async fn start() -> Self {
        Self(Arc::default())
    }

    fn node(&self) -> Arc<dyn Records> {
        Arc::clone(&self.0) as _
    }
}

impl Fixture for Redis {
    async fn start() -> Self {
        Self::own().await
    }

    fn node(&self) -> Arc<dyn Records> {
        let node = settings("n", LONG, None);
        let presence = redis_presence(&self.url(), Duration::from_secs(30), node);
        presence.records().unwrap()
    }
}

impl Fixture for RedisSentinels {
    async fn start() -> Self {
        Self::own().await
    }

    fn node(&self) -> Arc<dyn Records> {
        let node = settings("n", LONG, None);
        let presence = sentinel_presence(self, Duration::from_secs(30), node);
        presence.records().unwrap()
    }
}

impl Fixture for RedisCluster {
    async fn start() -> Self {
        Self::own().await
    }

    fn node(&self) -> Arc<dyn Records> {
        let node = settings("n", LONG, None);
        let presence = cluster_presence(self, Duration::from_secs(30), node);
        presence.records().unwrap()
    }
}

macro_rules! contract {
    ($($test:ident),+ $(,)?) => {
        mod memory {
            $(#[tokio::test]
            async fn $test() {
                super::$test::<super::Memory>().await;
            })+
        }

        mod redis {
            $(#[tokio::test]
            async fn $test() {
                super::$test::<testkit::Redis>().await;
            })+
        }

        mod sentinels {
            $(#[tokio::test]
            async fn $test() {
                super::$test::<testkit::RedisSentinels>().await;
            })+
        }

        mod cluster {
            $(#[tokio::test]
            async fn $test() {
                super::$test::<testkit::RedisCluster>().await;
            })+
        }
    };
}

contract! {
    all_nodes_read_the_same_records,
    the_newest_counts_in_whatever_order,
    only_the_very_record_is_removed,
    a_version_tells_whether_something_changed,
    records_are_bounded,
}

fn record(key: &str, stamp: u64, value: &str) -> Record {
    Record {
        key: key.into(),
        stamp,
        value: value.as_bytes().into(),
    }
}

async fn all(records: &dyn Records) -> RecordsRead {
    records.read(None).await.unwrap().unwrap()
}

/// A record that cannot be read stops none of the others.
#[tokio::test]
async fn what_another_program_wrote_gives_way() {
    let redis = Redis::own().await;
    let records = redis.node();
    for (key, value) in [("a", "x"), ("b", "12"), ("c", "")] {
        redis.command(&["HSET", "stentor:bans", key, value]).await;
    }
    let written = ["a", "b", "c", "d"].map(|key| record(key, 7, "new"));
    assert_eq!(records.put(&written).await, Ok(0));
    assert_eq!(all(&*records).await.records, written);
}

async fn all_nodes_read_the_same_records<F: Fixture>() {
    let fixture = F::start().await;
    let (one, two) = (fixture.node(), fixture.node());
    assert_eq!(all(&*one).await, RecordsRead::default());
    one.put(&[]).await.unwrap();
    let written = [
        record("a", 1_800_000_000_000, "with blanks\n\0and ü"),
        record("b:c", 0, ""),
    ];
    one.put(&written).await.unwrap();
    assert_eq!(all(&*two).await.records, written);
}

async fn the_newest_counts_in_whatever_order<F: Fixture>() {
    let fixture = F::start().await;
    let records = fixture.node();
    let [old, new] = [
        record("a", 1_800_000_000_999, "old"),
        record("a", 1_800_000_001_000, "new"),
    ];
    for order in [[&old, &new], [&new, &old]] {
        for one in order {
            records.put(std::slice::from_ref(one)).await.unwrap();
        }
        assert_eq!(all(&*records).await.records, std::slice::from_ref(&new));
    }
    // Of two that are as new, the first.
    records
        .put(&[record("a", new.stamp, "other")])
        .await
        .unwrap();
    assert_eq!(all(&*records).await.records, [new]);
}

async fn only_the_very_record_is_removed<F: Fixture>() {
    let fixture = F::start().await;
    let records = fixture.node();
    let written = [record("a", 7, "x"), record("b", 7, "y")];
    records.put(&written).await.unwrap();
    records
        .remove(&[record("a", 6, "x"), record("c", 7, "z"), record("b", 7, "")])
        .await
        .unwrap();
    assert_eq!(all(&*records).await.records, [written[0].clone()]);
}

async fn a_version_tells_whether_something_changed<F: Fixture>() {
    let fixture = F::start().await;
    let (one, two) = (fixture.node(), fixture.node());
    let a = record("a", 7, "x");
    one.put(std::slice::from_ref(&a)).await.unwrap();
    let mut version = all(&*two).await.version;
    let mut has_changed = async || {
        let read = two.read(version.as_deref()).await.unwrap();
        let has_changed = read.is_some();
        if let Some(read) = read {
            assert_ne!(read.version, version);
            version = read.version;
        }
        has_changed
    };
    assert!(!has_changed().await);
    one.put(&[record("a", 8, "y")]).await.unwrap();
    assert!(has_changed().await);
    assert!(!has_changed().await);
    // Nothing is new, and nothing is removed.
    one.put(std::slice::from_ref(&a)).await.unwrap();
    one.remove(&[a]).await.unwrap();
    assert!(!has_changed().await);
    one.remove(&[record("a", 8, "")]).await.unwrap();
    assert!(has_changed().await);
}

async fn records_are_bounded<F: Fixture>() {
    let fixture = F::start().await;
    let records = fixture.node();
    let many: Vec<_> = (0..MemoryRecords::MOST + 3)
        .map(|number| record(&number.to_string(), 1, "x"))
        .collect();
    let mut passed_over = 0;
    for some in many.chunks(500) {
        passed_over += records.put(some).await.unwrap();
    }
    assert_eq!(passed_over, 3);
    assert_eq!(all(&*records).await.records.len(), MemoryRecords::MOST);
    // One that is there can be changed.
    assert_eq!(records.put(&[record("0", 2, "new")]).await, Ok(0));
    let read = all(&*records).await.records;
    assert_eq!(
        (read.len(), &*read[0].value),
        (MemoryRecords::MOST, &b"new"[..])
    );
}
