//! Every promise of [`stentor::messaging::SequenceStore`], as tests that are generic over it.

use std::{sync::Arc, time::Duration};

use stentor::{
    messaging::{
        BOOKMARKS, Config, Entry, Holder, KeyKnown, MAX_NUMBER, MemorySequences, RedisSequences,
        SequenceError, SequenceName, SequenceStore, WINDOW,
    },
    presence::{RedisConfig, Url},
};
use testkit::{Redis, RedisCluster, RedisSentinels};

/// A store to test: nobody else writes there.
trait Fixture {
    async fn start() -> Self;

    /// As one more node has it.
    fn node(&self) -> Arc<dyn SequenceStore>;
}

/// Bounds small enough to be met.
fn config() -> Config {
    Config {
        max_devices: 3,
        max_keys: 20,
        ..Config::default()
    }
}

fn redis(url: &str, config_of_redis: &RedisConfig) -> Arc<dyn SequenceStore> {
    let Url::Redis(url) = url.parse().unwrap() else {
        panic!("{url}")
    };
    RedisSequences::new(&url, config_of_redis, config()).unwrap()
}

struct Memory(Arc<MemorySequences>);

impl Fixture for Memory {
    async fn start() -> Self {
        Self(Arc::new(MemorySequences::new(config())))
    }

    fn node(&self) -> Arc<dyn SequenceStore> {
        Arc::clone(&self.0) as _
    }
}

impl Fixture for Redis {
    async fn start() -> Self {
        Self::own().await
    }

    fn node(&self) -> Arc<dyn SequenceStore> {
        redis(&self.url(), &RedisConfig::default())
    }
}

impl Fixture for RedisSentinels {
    async fn start() -> Self {
        Self::own().await
    }

    fn node(&self) -> Arc<dyn SequenceStore> {
        let config = RedisConfig {
            sentinels: self.addresses().into_iter().map(Into::into).collect(),
            sentinel_password: RedisSentinels::PASSWORD.into(),
            ..RedisConfig::default()
        };
        redis(&self.url(), &config)
    }
}

impl Fixture for RedisCluster {
    async fn start() -> Self {
        Self::own().await
    }

    fn node(&self) -> Arc<dyn SequenceStore> {
        let config = RedisConfig {
            cluster: true,
            ..RedisConfig::default()
        };
        redis(&self.url(), &config)
    }
}

macro_rules! contract {
    ($($test:ident),+ $(,)?) => {
        contract! { @ memory super::Memory, $($test)+ }
        contract! { @ redis testkit::Redis, $($test)+ }
        contract! { @ sentinels testkit::RedisSentinels, $($test)+ }
        contract! { @ cluster testkit::RedisCluster, $($test)+ }
    };
    (@ $name:ident $store:ty, $($test:ident)+) => {
        mod $name {
            $(#[tokio::test]
            async fn $test() {
                type Store = $store;
                super::$test::<Store>().await;
            })+
        }
    };
}

contract! {
    all_nodes_see_the_same_sequence,
    only_the_newest_connection_reserves,
    an_open_that_comes_late_takes_nothing,
    an_open_that_comes_late_pushes_nothing_out,
    what_comes_late_of_a_connection_that_is_over_changes_nothing,
    numbers_move_without_a_gap,
    what_the_store_has_lost_is_no_other_connection,
    a_client_s_own_number_counts_where_the_store_has_forgotten,
    large_numbers_are_exact,
    users_and_vhosts_are_apart,
    the_device_that_was_unused_for_longest_is_forgotten,
    keys_are_known_on_all_nodes,
    keys_are_bounded,
    bookmarks_are_known_on_all_nodes,
    a_bookmark_takes_the_place_of_the_one_that_is_known,
    bookmarks_are_bounded,
}

fn holder(vhost: &str, user: &str) -> Holder {
    Holder {
        vhost: vhost.into(),
        user: user.into(),
    }
}

fn name(device: &str) -> SequenceName {
    SequenceName {
        holder: holder("/", "alice {x} ü"),
        device: device.into(),
    }
}

/// A login that finds the sequence as it is.
async fn open(
    store: &Arc<dyn SequenceStore>,
    name: &SequenceName,
    epoch: u64,
    told: u64,
) -> Result<Entry, SequenceError> {
    let known = store.look(name).await.map_or(0, |entry| entry.epoch);
    store.open(name, known, epoch, told).await
}

async fn all_nodes_see_the_same_sequence<F: Fixture>() {
    let fixture = F::start().await;
    let (one, two) = (fixture.node(), fixture.node());
    let name = name("a phone");
    assert_eq!(two.look(&name).await, Err(SequenceError::Lost));
    assert_eq!(two.reserve(&name, 1, 1).await, Err(SequenceError::Lost));
    let mut entry = Entry {
        epoch: 7,
        ..Entry::default()
    };
    assert_eq!(open(&one, &name, 7, 0).await, Ok(entry));
    (entry.reserved, entry.busy) = (5, 7);
    assert_eq!(one.reserve(&name, 7, 5).await, Ok(entry));
    assert_eq!(two.look(&name).await, Ok(entry));
    entry.last = 3;
    assert_eq!(one.commit(&name, 7, 0, 3).await, Ok(entry));
    (entry.reserved, entry.busy) = (4, 0);
    assert_eq!(one.release(&name, 7, 4).await, Ok(entry));
    assert_eq!(two.look(&name).await, Ok(entry));
}

async fn only_the_newest_connection_reserves<F: Fixture>() {
    let fixture = F::start().await;
    let (one, two) = (fixture.node(), fixture.node());
    let name = name("phone");
    open(&one, &name, 1, 0).await.unwrap();
    one.reserve(&name, 1, 4).await.unwrap();
    let entry = open(&two, &name, 2, 0).await.unwrap();
    assert!(entry.is_unsettled());
    assert_eq!(one.reserve(&name, 1, 5).await, Err(SequenceError::Taken));
    // What the old one has under way is a fact.
    assert_eq!(one.commit(&name, 1, 0, 2).await.unwrap().last, 2);
    let entry = one.release(&name, 1, 2).await.unwrap();
    assert_eq!((entry.epoch, entry.reserved, entry.busy), (2, 4, 0));
    let late = one.commit(&name, 1, 2, 3).await;
    assert_eq!(late, Err(SequenceError::Taken));
    two.reserve(&name, 2, 5).await.unwrap();
}

/// Its connection to the store stalled, the call was given up, and the client has come again since: to
/// a node whose clock is behind, or ahead.
async fn an_open_that_comes_late_takes_nothing<F: Fixture>() {
    let fixture = F::start().await;
    let (stalled, here) = (fixture.node(), fixture.node());
    let name = name("phone");
    let mut known = 0;
    for epoch in [MAX_NUMBER - 9, MAX_NUMBER - 6] {
        here.open(&name, known, epoch, 0).await.unwrap();
        let entry = here.reserve(&name, epoch, 4).await.unwrap();
        for late in [epoch - 1, epoch, epoch + 1] {
            let opened = stalled.open(&name, known, late, 500).await;
            assert_eq!(opened, Err(SequenceError::Changed), "{known} {late}");
        }
        assert_eq!(here.look(&name).await, Ok(entry));
        here.reserve(&name, epoch, 5).await.unwrap();
        known = epoch;
    }
}

async fn an_open_that_comes_late_pushes_nothing_out<F: Fixture>() {
    let fixture = F::start().await;
    let store = fixture.node();
    for device in ["a", "b", "c"] {
        open(&store, &name(device), 1, 0).await.unwrap();
    }
    // Its sequence was forgotten since.
    let late = store.open(&name("d"), 1, 2, 0).await;
    assert_eq!(late, Err(SequenceError::Changed));
    for (device, is_known) in [("a", true), ("b", true), ("c", true), ("d", false)] {
        let known = store.look(&name(device)).await;
        assert_eq!(known.is_ok(), is_known, "{device}");
    }
}

/// Its calls were given up, too, and another connection has the sequence.
async fn what_comes_late_of_a_connection_that_is_over_changes_nothing<F: Fixture>() {
    let fixture = F::start().await;
    let (stalled, here) = (fixture.node(), fixture.node());
    let name = name("phone");
    open(&here, &name, 1, 0).await.unwrap();
    here.reserve(&name, 1, 4).await.unwrap();
    here.commit(&name, 1, 0, 2).await.unwrap();
    here.release(&name, 1, 2).await.unwrap();
    open(&here, &name, 2, 0).await.unwrap();
    let entry = here.reserve(&name, 2, 3).await.unwrap();
    let taken = Err(SequenceError::Taken);
    assert_eq!(stalled.reserve(&name, 1, 9).await, taken);
    for (from, to) in [(0, 2), (1, 4), (2, 4)] {
        assert_eq!(stalled.commit(&name, 1, from, to).await, taken);
    }
    assert_eq!(stalled.release(&name, 1, 9).await, Ok(entry));
    assert_eq!(here.look(&name).await, Ok(entry));
}

async fn numbers_move_without_a_gap<F: Fixture>() {
    let fixture = F::start().await;
    let store = fixture.node();
    let name = name("phone");
    open(&store, &name, 1, 0).await.unwrap();
    store.reserve(&name, 1, 10).await.unwrap();
    let gap = store.commit(&name, 1, 1, 2).await;
    assert_eq!(gap, Err(SequenceError::Lost));
    for _ in 0..2 {
        // An answer may be lost, so a commit may come twice.
        assert_eq!(store.commit(&name, 1, 0, 4).await.unwrap().last, 4);
    }
    assert_eq!(store.commit(&name, 1, 0, 3).await.unwrap().last, 4);
}

/// As a replica has it that takes over, and lacks the last writes.
async fn what_the_store_has_lost_is_no_other_connection<F: Fixture>() {
    let fixture = F::start().await;
    let store = fixture.node();
    let name = name("phone");
    open(&store, &name, 1, 0).await.unwrap();
    store.reserve(&name, 1, 2).await.unwrap();
    // It has lost a reservation.
    assert_eq!(store.release(&name, 1, 5).await.unwrap().reserved, 5);
    // It has lost a login.
    assert_eq!(store.reserve(&name, 3, 6).await, Err(SequenceError::Lost));
    assert_eq!(store.commit(&name, 3, 0, 1).await, Err(SequenceError::Lost));
    for handed in [9, 8] {
        let entry = store.release(&name, 3, handed).await.unwrap();
        assert_eq!((entry.epoch, entry.reserved), (1, 9));
    }
    // A clock that is behind.
    assert_eq!(open(&store, &name, 1, 0).await.unwrap().epoch, 2);
    assert_eq!(store.reserve(&name, 1, 10).await, Err(SequenceError::Taken));
    store.reserve(&name, 2, 10).await.unwrap();
}

async fn a_client_s_own_number_counts_where_the_store_has_forgotten<F: Fixture>() {
    let fixture = F::start().await;
    let store = fixture.node();
    let entry = open(&store, &name("phone"), 1, 500).await.unwrap();
    assert_eq!((entry.last, entry.reserved), (500, 500 + WINDOW));
    let entry = open(&store, &name("phone"), 2, 7).await.unwrap();
    assert_eq!((entry.last, entry.reserved), (500, 500 + WINDOW));
}

async fn large_numbers_are_exact<F: Fixture>() {
    let fixture = F::start().await;
    let store = fixture.node();
    let name = name("phone");
    let (last, epoch) = (MAX_NUMBER - 3, MAX_NUMBER - 1);
    let entry = open(&store, &name, epoch, last).await.unwrap();
    assert_eq!((entry.last, entry.reserved), (last, MAX_NUMBER));
    store.reserve(&name, epoch, MAX_NUMBER).await.unwrap();
    let entry = store.commit(&name, epoch, last, MAX_NUMBER).await.unwrap();
    assert_eq!((entry.last, entry.epoch), (MAX_NUMBER, epoch));
    assert_eq!(store.look(&name).await, Ok(entry));
}

async fn users_and_vhosts_are_apart<F: Fixture>() {
    let fixture = F::start().await;
    let store = fixture.node();
    for (vhost, user) in [("a", "b:c"), ("a:b", "c"), ("a", "b")] {
        let name = SequenceName {
            holder: holder(vhost, user),
            device: "phone".into(),
        };
        let entry = open(&store, &name, 1, 0).await.unwrap();
        assert_eq!(entry.last, 0, "{name:?}");
        store.reserve(&name, 1, 1).await.unwrap();
        store.commit(&name, 1, 0, 1).await.unwrap();
        let known = store.begin_key(&name.holder, "k").await;
        assert_eq!(known, Ok(KeyKnown::Nothing), "{name:?}");
    }
}

/// Redis dates entries to the second.
async fn the_device_that_was_unused_for_longest_is_forgotten<F: Fixture>() {
    let fixture = F::start().await;
    let store = fixture.node();
    for device in ["a", "b", "c"] {
        open(&store, &name(device), 1, 1).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1_100)).await;
    }
    store.look(&name("a")).await.unwrap();
    open(&store, &name("d"), 1, 1).await.unwrap();
    for (device, is_known) in [("a", true), ("b", false), ("c", true), ("d", true)] {
        let known = store.look(&name(device)).await;
        assert_eq!(known.is_ok(), is_known, "{device}");
    }
}

async fn keys_are_known_on_all_nodes<F: Fixture>() {
    let fixture = F::start().await;
    let (one, two) = (fixture.node(), fixture.node());
    let holder = holder("/", "alice");
    let begun = one.begin_key(&holder, "a key: ü").await;
    assert_eq!(begun, Ok(KeyKnown::Nothing));
    let begun = two.begin_key(&holder, "a key: ü").await;
    assert_eq!(begun, Ok(KeyKnown::Pending));
    one.finish_key(&holder, "a key: ü").await.unwrap();
    for node in [one, two] {
        let begun = node.begin_key(&holder, "a key: ü").await;
        assert_eq!(begun, Ok(KeyKnown::Done));
    }
}

async fn keys_are_bounded<F: Fixture>() {
    let fixture = F::start().await;
    let store = fixture.node();
    let holder = holder("/", "alice");
    for key in 0..100 {
        let key = key.to_string();
        store.begin_key(&holder, &key).await.unwrap();
        store.finish_key(&holder, &key).await.unwrap();
    }
    let newest = store.begin_key(&holder, "99").await;
    assert_eq!(newest, Ok(KeyKnown::Done));
    let mut known = 0;
    for key in (0..100).rev() {
        // Asking for one that is forgotten would push out another.
        if store.begin_key(&holder, &key.to_string()).await != Ok(KeyKnown::Done) {
            break;
        }
        known += 1;
    }
    assert!((1..=20).contains(&known), "{known}");
}

async fn bookmarks_are_known_on_all_nodes<F: Fixture>() {
    let fixture = F::start().await;
    let (one, two) = (fixture.node(), fixture.node());
    let (alice, bob) = (holder("/", "alice"), holder("/", "bob"));
    let name = "a phone\nfeed\nuser_{x} ü";
    assert_eq!(one.bookmark(&alice, name).await, Ok(None));
    let mut known = None;
    for bookmark in ["300e60b2-5-d2d8ac72", "300e60b2-18446744073709551615"] {
        let kept = one.keep_bookmark(&alice, name, known, bookmark).await;
        assert_eq!(kept, Ok(bookmark.into()));
        known = Some(bookmark);
        assert_eq!(two.bookmark(&alice, name).await, Ok(Some(bookmark.into())));
    }
    assert_eq!(two.bookmark(&alice, "a phone\nfeed\n#").await, Ok(None));
    assert_eq!(two.bookmark(&bob, name).await, Ok(None));
}

/// A call may come late, of a node that knows nothing of what others have kept since.
async fn a_bookmark_takes_the_place_of_the_one_that_is_known<F: Fixture>() {
    let fixture = F::start().await;
    let (one, two) = (fixture.node(), fixture.node());
    let alice = holder("/", "alice");
    for (store, known, bookmark, there) in [
        (&one, None, "a-1", "a-1"),
        (&two, Some("a-1"), "a-8", "a-8"),
        (&one, Some("a-1"), "a-5", "a-8"),
        (&one, None, "a-5", "a-8"),
        (&one, Some("a-8"), "a-5", "a-5"),
    ] {
        let kept = store.keep_bookmark(&alice, "k", known, bookmark).await;
        assert_eq!(kept, Ok(there.into()), "{known:?} {bookmark}");
        assert_eq!(two.bookmark(&alice, "k").await, Ok(Some(there.into())));
    }
    // Where none is, there is nothing to be lost.
    let kept = one.keep_bookmark(&alice, "l", Some("a-1"), "a-2").await;
    assert_eq!(kept, Ok("a-2".into()));
    assert_eq!(two.bookmark(&alice, "l").await, Ok(Some("a-2".into())));
}

/// Redis dates bookmarks to the second.
async fn bookmarks_are_bounded<F: Fixture>() {
    let fixture = F::start().await;
    let store = fixture.node();
    let alice = holder("/", "alice");
    let most = config().max_devices * BOOKMARKS;
    store
        .keep_bookmark(&alice, "oldest", None, "p")
        .await
        .unwrap();
    store
        .keep_bookmark(&alice, "used", None, "p")
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    for number in 2..most {
        let name = number.to_string();
        store.keep_bookmark(&alice, &name, None, "p").await.unwrap();
    }
    let bookmark = Some("p".into());
    assert_eq!(store.bookmark(&alice, "used").await, Ok(bookmark.clone()));
    store
        .keep_bookmark(&alice, "newest", None, "p")
        .await
        .unwrap();
    assert_eq!(store.bookmark(&alice, "oldest").await, Ok(None));
    for name in ["used", "newest", "2"] {
        assert_eq!(
            store.bookmark(&alice, name).await,
            Ok(bookmark.clone()),
            "{name}"
        );
    }
}
