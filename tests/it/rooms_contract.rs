//! The promises of [`stentor::presence::rooms::Rooms`], as tests that are generic over it; and what
//! only Redis has: other nodes, killed ones, and a store that forgets.
//!
//! That something did not happen is shown by something after it (a "fence"), never by waiting.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use stentor::presence::{
    Node, Outbox, Presence, PresenceError,
    memory::MemoryPresence,
    rooms::{
        MemberListing, Occupancy, Occupant, Room, RoomChange, RoomEvent, RoomRefusal, RoomRules,
        Rooms,
    },
};
use testkit::{DEADLINE, Proxy, Redis, RedisCluster, eventually, unique, within};

use crate::presence_contract::{AT_ONCE, LONG, cluster_presence, redis_presence, settings};

const SHORT: Duration = Duration::from_secs(2);

/// A node's rooms.
struct TestNode {
    rooms: Arc<dyn Rooms>,
    events: Arc<Outbox<RoomEvent>>,
    presence: Arc<dyn Presence>,
}

/// How a node is.
#[derive(Clone, Copy)]
struct Rule {
    debounce: Duration,
    max_members: u64,
    max_rooms: usize,
}

const USUAL: Rule = Rule {
    debounce: AT_ONCE,
    max_members: 0,
    max_rooms: 1_000,
};

impl TestNode {
    fn new(rule: Rule, start: impl FnOnce(Node) -> Arc<dyn Presence>) -> Self {
        let events = Outbox::new();
        let mut node = settings(&unique("node"), rule.debounce, None);
        node.rooms = Some(RoomRules {
            exchanges: ["room".into()].into(),
            max_members: rule.max_members,
            max_rooms: rule.max_rooms,
            events: Some(Arc::clone(&events)),
        });
        let presence = start(node);
        Self {
            rooms: presence.rooms().unwrap(),
            events,
            presence,
        }
    }

    fn redis(redis: &Redis, lease: Duration, rule: Rule) -> Self {
        Self::new(rule, |node| {
            Arc::new(redis_presence(&redis.url(), lease, node))
        })
    }

    async fn enter(&self, occupant: &Occupant) {
        assert_eq!(self.rooms.enter(occupant).await, Ok(()));
    }

    async fn until(&self, room: &Room, members: u64, sessions: u64) {
        let wanted = Occupancy { members, sessions };
        let what = format!("{room} has {wanted:?}");
        let asked = [room.clone()];
        eventually(DEADLINE, what, async || {
            let found = self.rooms.occupancy(&asked).await;
            found == Ok(vec![wanted])
        })
        .await;
    }

    /// Waits until all that was asked of this node before is done.
    async fn fence(&self) {
        let occupant = occupant(&room(), "fence");
        self.enter(&occupant).await;
        self.until(&occupant.room, 1, 1).await;
        self.rooms.leave(&occupant);
        self.until(&occupant.room, 0, 0).await;
    }

    /// The next change of the room.
    async fn told(&self, room: &Room) -> RoomChange {
        loop {
            let events = within(DEADLINE, "an event", self.events.next(1)).await;
            if *events[0].room == *room {
                return events[0].change.clone();
            }
        }
    }

    async fn all(&self, room: &Room, limit: usize) -> BTreeSet<(String, u64)> {
        let (mut all, mut after) = (BTreeSet::new(), None);
        loop {
            let listing = MemberListing { after, limit };
            let page = self.rooms.members(room, &listing).await.unwrap();
            assert!(page.members.len() <= limit, "{}", page.members.len());
            let members = page.members.into_iter();
            all.extend(members.map(|member| (member.user.into(), member.sessions)));
            after = page.next;
            if after.is_none() {
                return all;
            }
        }
    }
}

fn room() -> Arc<Room> {
    Arc::new(Room {
        vhost: "/".into(),
        exchange: "room".into(),
        key: unique("key").into(),
    })
}

/// A session of its own.
fn occupant(room: &Arc<Room>, user: &str) -> Occupant {
    static SESSIONS: AtomicU64 = AtomicU64::new(0);
    Occupant {
        room: Arc::clone(room),
        user: user.into(),
        session: SESSIONS.fetch_add(1, Ordering::Relaxed),
    }
}

fn join(user: &str) -> RoomChange {
    RoomChange::Join(user.into())
}

fn leave(user: &str) -> RoomChange {
    RoomChange::Leave(user.into())
}

trait Fixture: Sync {
    async fn start() -> Self;

    fn node(&self, rule: Rule) -> TestNode;
}

struct Memory;

impl Fixture for Memory {
    async fn start() -> Self {
        Self
    }

    fn node(&self, rule: Rule) -> TestNode {
        TestNode::new(rule, |node| Arc::new(MemoryPresence::new(node)))
    }
}

impl Fixture for Arc<Redis> {
    async fn start() -> Self {
        Redis::shared().await
    }

    fn node(&self, rule: Rule) -> TestNode {
        TestNode::redis(self, Duration::from_secs(30), rule)
    }
}

impl Fixture for Arc<RedisCluster> {
    async fn start() -> Self {
        RedisCluster::shared().await
    }

    fn node(&self, rule: Rule) -> TestNode {
        let lease = Duration::from_secs(30);
        TestNode::new(rule, |node| Arc::new(cluster_presence(self, lease, node)))
    }
}

macro_rules! contract {
    ($($test:ident)*) => {
        mod memory {
            $(#[tokio::test]
            async fn $test() {
                super::$test::<super::Memory>().await;
            })*
        }

        mod redis {
            $(#[tokio::test]
            async fn $test() {
                super::$test::<std::sync::Arc<testkit::Redis>>().await;
            })*
        }

        mod cluster {
            $(#[tokio::test]
            async fn $test() {
                super::$test::<std::sync::Arc<testkit::RedisCluster>>().await;
            })*
        }
    };
}

contract! {
    only_the_named_exchanges_have_rooms
    users_and_sessions_are_counted
    a_subscription_more_is_no_session_more
    members_are_listed_page_by_page
    a_cursor_that_is_none_is_an_error
    names_may_be_anything
    comers_and_goers_are_told
    who_comes_back_in_time_was_not_away
    coming_and_going_keep_their_order
    a_full_room_takes_nobody_more
    a_node_has_a_bound_for_rooms
}

async fn only_the_named_exchanges_have_rooms<F: Fixture>() {
    let node = F::start().await.node(USUAL);
    assert!(node.rooms.counts("room") && !node.rooms.counts("feed"));
    node.fence().await;
    assert_eq!(node.rooms.occupancy(&[]).await, Ok(Vec::new()));
}

async fn users_and_sessions_are_counted<F: Fixture>() {
    let node = F::start().await.node(USUAL);
    let (lobby, other) = (room(), room());
    let [phone, desk] = [(); 2].map(|()| occupant(&lobby, "alice"));
    let bob = occupant(&lobby, "bob");
    for occupant in [&phone, &desk, &bob] {
        node.enter(occupant).await;
    }
    let here = |members, sessions| Occupancy { members, sessions };
    assert_eq!(node.rooms.here(&lobby), here(2, 3));
    node.until(&lobby, 2, 3).await;
    node.enter(&occupant(&other, "alice")).await;
    node.until(&other, 1, 1).await;
    let both = [(*other).clone(), (*room()).clone(), (*lobby).clone()];
    let counts = node.rooms.occupancy(&both).await;
    assert_eq!(counts, Ok(vec![here(1, 1), here(0, 0), here(2, 3)]));
    node.rooms.leave(&phone);
    node.until(&lobby, 2, 2).await;
    node.rooms.leave(&desk);
    node.until(&lobby, 1, 1).await;
    node.rooms.leave(&desk);
    node.rooms.leave(&bob);
    node.until(&lobby, 0, 0).await;
    assert_eq!(node.rooms.here(&lobby), here(0, 0));
}

async fn a_subscription_more_is_no_session_more<F: Fixture>() {
    let node = F::start().await.node(USUAL);
    let room = room();
    let twice = occupant(&room, "alice");
    node.enter(&twice).await;
    node.enter(&twice).await;
    node.fence().await;
    node.until(&room, 1, 1).await;
    node.rooms.leave(&twice);
    node.fence().await;
    node.until(&room, 1, 1).await;
    node.rooms.leave(&twice);
    node.until(&room, 0, 0).await;
}

async fn members_are_listed_page_by_page<F: Fixture>() {
    const MANY: usize = 1_200;
    let node = F::start().await.node(USUAL);
    let (large, small) = (room(), room());
    let mut entered = BTreeSet::new();
    for number in 0..MANY {
        let user = format!("user-{number:04}");
        node.enter(&occupant(&large, &user)).await;
        entered.insert((user, 1));
    }
    for user in ["a", "b", "c"] {
        node.enter(&occupant(&small, user)).await;
    }
    node.enter(&occupant(&small, "b")).await;
    node.until(&small, 3, 4).await;
    node.until(&large, 1_200, 1_200).await;
    for limit in [100, 1_000] {
        assert_eq!(node.all(&large, limit).await, entered);
    }
    let members = [("a", 1), ("b", 2), ("c", 1)].map(|(user, count)| (user.to_owned(), count));
    for limit in [1, 2, 3, 9] {
        assert_eq!(
            node.all(&small, limit).await,
            BTreeSet::from(members.clone())
        );
    }
    assert_eq!(node.all(&room(), 9).await, BTreeSet::new());
}

async fn a_cursor_that_is_none_is_an_error<F: Fixture>() {
    let node = F::start().await.node(USUAL);
    let listing = MemberListing {
        after: Some("no cursor!".into()),
        limit: 9,
    };
    let page = node.rooms.members(&room(), &listing).await;
    assert_eq!(page, Err(PresenceError::Cursor));
}

async fn names_may_be_anything<F: Fixture>() {
    let node = F::start().await.node(USUAL);
    let long = "x".repeat(255);
    for name in ["a:b/c é\n\"*{0}", "", "\u{0}", "12:34", &long] {
        let room = Arc::new(Room {
            vhost: unique("v").into(),
            exchange: "room".into(),
            key: name.into(),
        });
        let occupant = occupant(&room, name);
        node.enter(&occupant).await;
        node.until(&room, 1, 1).await;
        let only = BTreeSet::from([(name.to_owned(), 1)]);
        assert_eq!(node.all(&room, 9).await, only);
        node.rooms.leave(&occupant);
        node.until(&room, 0, 0).await;
    }
}

async fn comers_and_goers_are_told<F: Fixture>() {
    let node = F::start().await.node(USUAL);
    let room = room();
    let [alice, again, bob] = ["alice", "alice", "bob"].map(|user| occupant(&room, user));
    node.enter(&alice).await;
    assert_eq!(node.told(&room).await, RoomChange::Occupied);
    assert_eq!(node.told(&room).await, join("alice"));
    node.enter(&again).await;
    node.enter(&bob).await;
    assert_eq!(node.told(&room).await, join("bob"));
    node.rooms.leave(&alice);
    node.rooms.leave(&bob);
    assert_eq!(node.told(&room).await, leave("bob"));
    node.rooms.leave(&again);
    assert_eq!(node.told(&room).await, leave("alice"));
    assert_eq!(node.told(&room).await, RoomChange::Vacated);
}

async fn who_comes_back_in_time_was_not_away<F: Fixture>() {
    let debounce = Duration::from_secs(1);
    let node = F::start().await.node(Rule { debounce, ..USUAL });
    let room = room();
    let [before, after] = [(); 2].map(|()| occupant(&room, "alice"));
    node.enter(&before).await;
    assert_eq!(node.told(&room).await, RoomChange::Occupied);
    assert_eq!(node.told(&room).await, join("alice"));
    node.rooms.leave(&before);
    // What is counted is of this moment.
    node.until(&room, 0, 0).await;
    node.enter(&after).await;
    node.until(&room, 1, 1).await;
    node.enter(&occupant(&room, "bob")).await;
    assert_eq!(node.told(&room).await, join("bob"));
    node.rooms.leave(&after);
    let left = Instant::now();
    assert_eq!(node.told(&room).await, leave("alice"));
    assert!(left.elapsed() >= debounce / 2, "{:?}", left.elapsed());
}

async fn coming_and_going_keep_their_order<F: Fixture>() {
    let node = F::start().await.node(USUAL);
    let room = room();
    let flaps = occupant(&room, "alice");
    for _ in 0..1_000 {
        node.enter(&flaps).await;
        node.rooms.leave(&flaps);
    }
    node.fence().await;
    node.until(&room, 0, 0).await;
    node.enter(&flaps).await;
    node.until(&room, 1, 1).await;
}

async fn a_full_room_takes_nobody_more<F: Fixture>() {
    let node = F::start().await.node(Rule {
        max_members: 2,
        ..USUAL
    });
    node.fence().await;
    let room = room();
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|user| occupant(&room, user));
    node.enter(&alice).await;
    node.enter(&bob).await;
    assert_eq!(node.rooms.enter(&carol).await, Err(RoomRefusal::Full(2)));
    // A member's further session takes no place.
    node.enter(&occupant(&room, "bob")).await;
    node.until(&room, 2, 3).await;
    node.rooms.leave(&alice);
    node.until(&room, 1, 2).await;
    node.enter(&carol).await;
    node.until(&room, 2, 3).await;
    let dave = occupant(&room, "dave");
    assert_eq!(node.rooms.enter(&dave).await, Err(RoomRefusal::Full(2)));
    node.fence().await;
    node.until(&room, 2, 3).await;
}

async fn a_node_has_a_bound_for_rooms<F: Fixture>() {
    let node = F::start().await.node(Rule {
        max_rooms: 1,
        ..USUAL
    });
    // In a cluster each part of the keys has the bound by itself.
    let rooms: Vec<_> = (0..65).map(|_| room()).collect();
    let mut refused = 0;
    for room in &rooms {
        let entered = node.rooms.enter(&occupant(room, "alice")).await;
        refused += usize::from(entered == Err(RoomRefusal::TooManyRooms(1)));
    }
    assert!(refused >= 1, "{refused}");
    node.enter(&occupant(&rooms[0], "bob")).await;
    node.until(&rooms[0], 2, 2).await;
}

#[tokio::test]
async fn all_nodes_count_the_same_members_once() {
    let redis = Redis::shared().await;
    let nodes = [(); 2].map(|()| TestNode::redis(&redis, LONG, USUAL));
    let room = room();
    let [one, other] = [(); 2].map(|()| occupant(&room, "alice"));
    nodes[0].enter(&one).await;
    nodes[0].until(&room, 1, 1).await;
    nodes[1].enter(&other).await;
    nodes[1].enter(&occupant(&room, "bob")).await;
    for node in &nodes {
        node.until(&room, 2, 3).await;
        let members = [("alice".to_owned(), 2), ("bob".to_owned(), 1)];
        assert_eq!(node.all(&room, 9).await, BTreeSet::from(members));
    }
    assert_eq!(nodes[0].rooms.here(&room).sessions, 1);
    // Each change is told once, by the node that found it.
    assert_eq!(nodes[0].told(&room).await, RoomChange::Occupied);
    assert_eq!(nodes[0].told(&room).await, join("alice"));
    assert_eq!(nodes[1].told(&room).await, join("bob"));
    nodes[0].rooms.leave(&one);
    nodes[1].rooms.leave(&other);
    nodes[1].until(&room, 1, 1).await;
    assert_eq!(nodes[1].told(&room).await, leave("alice"));
}

#[tokio::test]
async fn the_bound_of_members_holds_over_nodes() {
    const MOST: u64 = 10;
    let redis = Redis::shared().await;
    let rule = Rule {
        max_members: MOST,
        ..USUAL
    };
    let nodes = [(); 3].map(|()| TestNode::redis(&redis, LONG, rule));
    for node in &nodes {
        node.fence().await;
    }
    let room = room();
    let asking = (0..60_usize).map(|number| {
        let occupant = occupant(&room, &format!("user-{number}"));
        let node = &nodes[number % nodes.len()];
        async move { node.rooms.enter(&occupant).await }
    });
    let answers = join_all(asking).await;
    let admitted = answers.iter().filter(|answer| answer.is_ok()).count();
    assert_eq!(admitted as u64, MOST);
    for node in &nodes {
        node.until(&room, MOST, MOST).await;
    }
}

#[tokio::test]
async fn without_redis_a_node_bounds_its_own_members() {
    let node = TestNode::new(
        Rule {
            max_members: 1,
            ..USUAL
        },
        |node| Arc::new(redis_presence("redis://127.0.0.1:1", LONG, node)),
    );
    let room = room();
    let [alice, bob] = ["alice", "bob"].map(|user| occupant(&room, user));
    node.enter(&alice).await;
    assert_eq!(node.rooms.enter(&bob).await, Err(RoomRefusal::Full(1)));
    assert_eq!(node.rooms.here(&room).members, 1);
    assert!(node.rooms.occupancy(&[(*room).clone()]).await.is_err());
}

/// Logins ask Redis as well.
#[tokio::test]
async fn questions_about_rooms_leave_a_connection_to_others() {
    let redis = Redis::shared().await;
    let proxy = Proxy::start(&redis.address()).await;
    let url = format!("redis://{}/", proxy.address());
    let node = TestNode::new(USUAL, |node| Arc::new(redis_presence(&url, LONG, node)));
    node.fence().await;
    proxy.lag_after(b"HSCAN", Duration::from_millis(100));
    let (room, after, limit) = (room(), None, 1_000);
    let listing = MemberListing { after, limit };
    let questions = (0..200).map(|_| node.rooms.members(&room, &listing));
    // All of them were asked before it.
    let (_, other) = tokio::join!(join_all(questions), node.presence.users(&["alice"]));
    assert_eq!(other.map(drop), Ok(()));
}

#[tokio::test]
async fn the_members_of_a_killed_node_are_gone_with_its_lease() {
    let redis = Redis::own().await;
    let [stays, killed] = [(); 2].map(|()| TestNode::redis(&redis, SHORT, USUAL));
    let (both, own) = (room(), room());
    stays.enter(&occupant(&both, "bob")).await;
    stays.until(&both, 1, 1).await;
    for user in ["alice", "bob"] {
        killed.enter(&occupant(&both, user)).await;
    }
    killed.enter(&occupant(&own, "alice")).await;
    stays.until(&both, 2, 3).await;
    stays.until(&own, 1, 1).await;
    // A survivor has a lease of its own for a lease's time before it calls others dead.
    tokio::time::timeout(DEADLINE, async {
        assert_eq!(stays.told(&both).await, RoomChange::Occupied);
        assert_eq!(stays.told(&both).await, join("bob"));
    })
    .await
    .unwrap();
    let since = Instant::now();
    let TestNode {
        presence, rooms, ..
    } = killed;
    drop((presence, rooms));
    stays.until(&both, 1, 1).await;
    stays.until(&own, 0, 0).await;
    let took = since.elapsed();
    println!("a killed node's members were gone after {took:?}, with leases of {SHORT:?}");
    // The second is the test's own: for the reading, on a busy machine.
    assert!(took < SHORT * 3 / 2 + Duration::from_secs(1), "{took:?}");
    // The order of two rooms is the store's own.
    let mut told = Vec::new();
    for _ in 0..3 {
        let events = within(DEADLINE, "an event", stays.events.next(1)).await;
        told.push(format!("{:?}", events[0].change));
    }
    told.sort();
    assert_eq!(told, ["Leave(\"alice\")", "Leave(\"alice\")", "Vacated"]);
    let left = redis.command(&["KEYS", "stentor:members:*"]).await;
    assert_eq!(left.matches("members:").count(), 1, "{left}");
}

#[tokio::test]
async fn a_store_that_lost_all_is_told_anew_and_nobody_else() {
    let redis = Redis::own().await;
    let nodes = [(); 2].map(|()| TestNode::redis(&redis, SHORT, USUAL));
    let room = room();
    let [alice, bob] = ["alice", "bob"].map(|user| occupant(&room, user));
    nodes[0].enter(&alice).await;
    nodes[0].until(&room, 1, 1).await;
    nodes[1].enter(&bob).await;
    nodes[1].until(&room, 2, 2).await;
    assert_eq!(nodes[0].told(&room).await, RoomChange::Occupied);
    assert_eq!(nodes[0].told(&room).await, join("alice"));
    assert_eq!(nodes[1].told(&room).await, join("bob"));
    redis.command(&["FLUSHALL"]).await;
    nodes[0].until(&room, 2, 2).await;
    // Nobody is told that they joined: the next word is of one who did.
    nodes[0].enter(&occupant(&room, "carol")).await;
    assert_eq!(nodes[0].told(&room).await, join("carol"));
    nodes[1].rooms.leave(&bob);
    assert_eq!(nodes[1].told(&room).await, leave("bob"));
}

/// Nor is a room told to be empty in which others are, whom the store does not know yet.
#[tokio::test]
async fn a_room_that_somebody_left_while_the_store_lost_all_is_not_vacated() {
    let redis = Redis::own().await;
    let debounce = Duration::from_secs(1);
    let node = TestNode::redis(&redis, SHORT, Rule { debounce, ..USUAL });
    let room = room();
    let [alice, bob] = ["alice", "bob"].map(|user| occupant(&room, user));
    for (occupant, user) in [(&alice, "alice"), (&bob, "bob")] {
        node.enter(occupant).await;
        if user == "alice" {
            assert_eq!(node.told(&room).await, RoomChange::Occupied);
        }
        assert_eq!(node.told(&room).await, join(user));
    }
    // Redis knows that she left, and is gone when it is to be asked what that means.
    let left = Instant::now();
    node.rooms.leave(&alice);
    node.until(&room, 1, 1).await;
    redis.kill();
    eventually(
        DEADLINE,
        "it is noticed, and her debounce is over",
        async || node.presence.health().is_err() && left.elapsed() > debounce,
    )
    .await;
    redis.start().await;
    node.until(&room, 1, 1).await;
    assert_eq!(node.told(&room).await, leave("alice"));
    // Others had no reason to be told that it is occupied.
    node.enter(&occupant(&room, "carol")).await;
    assert_eq!(node.told(&room).await, join("carol"));
}

#[tokio::test]
async fn what_a_stalled_redis_did_is_told_though_its_answers_are_lost() {
    let redis = Redis::own().await;
    let debounce = Duration::from_secs(2);
    let node = TestNode::redis(&redis, LONG, Rule { debounce, ..USUAL });
    // It reads what was sent when it goes on, and then nobody waits for the answers any more.
    let stall = async |change: &dyn Fn()| {
        eventually(DEADLINE, "it answers", async || node.presence.health().ok()).await;
        redis.signal("STOP");
        change();
        let since = Instant::now();
        eventually(DEADLINE, "it is given up", async || {
            // Should the debounce have been over before.
            if since.elapsed() > 2 * debounce {
                drop(node.rooms.enter(&occupant(&room(), "fence")));
            }
            node.presence.health().is_err()
        })
        .await;
        redis.signal("CONT");
    };
    let (old, new) = (room(), room());
    let users = ["alice", "bob"];
    let leave_old = users.map(|user| occupant(&old, user));
    for occupant in &leave_old {
        node.enter(occupant).await;
    }
    assert_eq!(node.told(&old).await, RoomChange::Occupied);
    for user in users {
        assert_eq!(node.told(&old).await, join(user));
    }

    // The answer to who came is lost.
    stall(&|| {
        for user in users {
            drop(node.rooms.enter(&occupant(&new, user)));
        }
    })
    .await;
    let mut told = Vec::new();
    for _ in 0..3 {
        told.push(format!("{:?}", node.told(&new).await));
    }
    told.sort_unstable();
    assert_eq!(told, ["Join(\"alice\")", "Join(\"bob\")", "Occupied"]);

    // And the answer to who is gone, which is asked after the debounce.
    for occupant in &leave_old {
        node.rooms.leave(occupant);
    }
    node.until(&old, 0, 0).await;
    stall(&|| {}).await;
    let mut told = Vec::new();
    for _ in 0..3 {
        told.push(format!("{:?}", node.told(&old).await));
    }
    told.sort_unstable();
    assert_eq!(told, ["Leave(\"alice\")", "Leave(\"bob\")", "Vacated"]);
    // Others are not told twice.
    node.enter(&occupant(&old, "carol")).await;
    assert_eq!(node.told(&old).await, RoomChange::Occupied);
    assert_eq!(node.told(&old).await, join("carol"));
}

/// Figures of a room of a hundred thousand members, in memory and in Redis:
/// `cargo test --release --test it -- --ignored --nocapture a_room_of_a_hundred_thousand`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "prints figures"]
async fn a_room_of_a_hundred_thousand() {
    println!("in memory");
    figures(&Memory.node(USUAL), async || None).await;
    println!("in Redis");
    let redis = Redis::own().await;
    let node = TestNode::redis(&redis, Duration::from_secs(15), USUAL);
    figures(&node, async || Some(memory(&redis).await)).await;
}

/// Prints what a room of a hundred thousand takes; `used`: the bytes that the store uses, if it can
/// tell.
async fn figures(node: &TestNode, used: impl AsyncFn() -> Option<f64>) {
    const MEMBERS: usize = 100_000;
    node.fence().await;
    let room = room();
    let occupants: Vec<_> = (0..MEMBERS)
        .map(|number| occupant(&room, &format!("user-{number:06}")))
        .collect();
    let per_second = |count: usize, since: Instant| count as f64 / since.elapsed().as_secs_f64();
    let whole = [(*room).clone()];
    let sessions = async |wanted: u64| {
        eventually(Duration::from_secs(300), "all are told", async || {
            let count = node.rooms.occupancy(&whole).await.ok()?;
            (count[0].sessions == wanted).then_some(())
        })
        .await;
    };
    let before = used().await;
    let since = Instant::now();
    for (number, occupant) in occupants.iter().enumerate() {
        node.enter(occupant).await;
        // As fast as the queue takes them.
        if number % 20_000 == 19_999 {
            sessions(number as u64 + 1).await;
        }
    }
    println!("join: {:.0}/s", per_second(MEMBERS, since));
    if let (Some(before), Some(after)) = (before, used().await) {
        println!("{:.0} bytes a member", (after - before) / MEMBERS as f64);
    }
    const ASKED: usize = 2_000;
    let mut times = Vec::with_capacity(ASKED);
    for _ in 0..ASKED {
        let since = Instant::now();
        node.rooms.occupancy(&whole).await.unwrap();
        times.push(since.elapsed());
    }
    println!("count: {}", shown(&mut times));
    let thousand = vec![(*room).clone(); 1_000];
    let since = Instant::now();
    for _ in 0..50 {
        node.rooms.occupancy(&thousand).await.unwrap();
    }
    println!(
        "counts of 1,000 rooms in a call: {:.0} rooms/s",
        per_second(50_000, since)
    );
    for limit in [100, 1_000] {
        let listing = MemberListing { after: None, limit };
        let mut times = Vec::new();
        for _ in 0..200 {
            let since = Instant::now();
            node.rooms.members(&room, &listing).await.unwrap();
            times.push(since.elapsed());
        }
        println!("a page of {limit}: {}", shown(&mut times));
    }
    let since = Instant::now();
    assert_eq!(node.all(&room, 1_000).await.len(), MEMBERS);
    println!("the whole list in pages of 1,000: {:?}", since.elapsed());
    let since = Instant::now();
    for (number, occupant) in occupants.iter().enumerate() {
        node.rooms.leave(occupant);
        if number % 20_000 == 19_999 {
            sessions((MEMBERS - number - 1) as u64).await;
        }
    }
    println!("leave: {:.0}/s", per_second(MEMBERS, since));
}

/// The median and the 99th percentile.
fn shown(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let at = |part: usize| times[times.len() * part / 100];
    format!("{:?} (p99: {:?})", at(50), at(99))
}

async fn memory(redis: &Redis) -> f64 {
    let info = redis.command(&["INFO", "memory"]).await;
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("used_memory:"));
    line.unwrap().trim().parse().unwrap()
}
