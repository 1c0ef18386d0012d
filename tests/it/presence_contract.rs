//! The promises of [`stentor::presence::Presence`], sentence by sentence, as tests that are generic
//! over it.
//!
//! That something did not happen is shown by something after it (a "fence"), never by waiting.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use stentor::presence::{
    Counts, Device, Listing, MOST_SESSIONS, Node, Outbox, Presence, PresenceEntry, PresenceError,
    RedisConfig, SessionInfo, Status, Url, UserCount, memory::MemoryPresence, redis::RedisPresence,
};
use testkit::{DEADLINE, Redis, RedisCluster, RedisSentinels, eventually, unique, within};

/// A session that left is not waited for.
pub(crate) const AT_ONCE: Duration = Duration::ZERO;
/// Longer than any test.
pub(crate) const LONG: Duration = Duration::from_secs(600);

/// A presence to test.
trait Fixture: Sync {
    async fn start() -> Self;

    fn with(&self, node: Node) -> Arc<dyn Presence>;

    /// The presence of a node whose events nobody wants.
    fn node(&self, name: &str) -> Arc<dyn Presence> {
        self.with(settings(name, LONG, None))
    }

    /// The presence of a node, and its events.
    fn telling(&self, debounce: Duration) -> (Arc<dyn Presence>, Arc<Outbox>) {
        let events = Outbox::new();
        let node = settings("n", debounce, Some(Arc::clone(&events)));
        (self.with(node), events)
    }

    /// One of whose store nobody else has a part.
    async fn alone() -> Self;
}

struct Memory;

impl Fixture for Memory {
    async fn start() -> Self {
        Self
    }

    async fn alone() -> Self {
        Self
    }

    fn with(&self, node: Node) -> Arc<dyn Presence> {
        Arc::new(MemoryPresence::new(node))
    }
}

impl Fixture for Arc<Redis> {
    async fn start() -> Self {
        Redis::shared().await
    }

    async fn alone() -> Self {
        Arc::new(Redis::own().await)
    }

    fn with(&self, node: Node) -> Arc<dyn Presence> {
        Arc::new(redis_presence(&self.url(), Duration::from_secs(30), node))
    }
}

impl Fixture for Arc<RedisSentinels> {
    async fn start() -> Self {
        RedisSentinels::shared().await
    }

    async fn alone() -> Self {
        Arc::new(RedisSentinels::own().await)
    }

    fn with(&self, node: Node) -> Arc<dyn Presence> {
        Arc::new(sentinel_presence(self, Duration::from_secs(30), node))
    }
}

impl Fixture for Arc<RedisCluster> {
    async fn start() -> Self {
        RedisCluster::shared().await
    }

    async fn alone() -> Self {
        Arc::new(RedisCluster::own().await)
    }

    fn with(&self, node: Node) -> Arc<dyn Presence> {
        Arc::new(cluster_presence(self, Duration::from_secs(30), node))
    }
}

pub(crate) fn sentinel_presence(
    redis: &RedisSentinels,
    lease: Duration,
    node: Node,
) -> RedisPresence {
    let config = sentinel_config(redis.addresses());
    redis_presence_by(&redis.url(), &config, lease, node)
}

/// With Sentinels at these addresses.
pub(crate) fn sentinel_config(addresses: Vec<String>) -> RedisConfig {
    RedisConfig {
        sentinels: addresses.into_iter().map(Into::into).collect(),
        sentinel_password: RedisSentinels::PASSWORD.into(),
        ..RedisConfig::default()
    }
}

pub(crate) fn cluster_presence(redis: &RedisCluster, lease: Duration, node: Node) -> RedisPresence {
    let config = RedisConfig {
        cluster: true,
        nodes: redis.addresses().into_iter().map(Into::into).collect(),
        ..RedisConfig::default()
    };
    redis_presence_by(&redis.url(), &config, lease, node)
}

pub(crate) fn settings(name: &str, debounce: Duration, events: Option<Arc<Outbox>>) -> Node {
    Node {
        name: name.into(),
        since: SystemTime::now(),
        debounce,
        events,
        rooms: None,
    }
}

pub(crate) fn redis_presence(url: &str, lease: Duration, node: Node) -> RedisPresence {
    redis_presence_by(url, &RedisConfig::default(), lease, node)
}

pub(crate) fn redis_presence_by(
    url: &str,
    config: &RedisConfig,
    lease: Duration,
    node: Node,
) -> RedisPresence {
    let Url::Redis(url) = url.parse().unwrap() else {
        panic!("{url} is not Redis")
    };
    config.check().unwrap();
    RedisPresence::new(&url, config, lease, node).unwrap()
}

pub(crate) fn new_session(user: &str, groups: &[&str]) -> PresenceEntry {
    let id = unique("session");
    PresenceEntry::new(user.into(), &id, "websocket", names(groups))
}

pub(crate) fn session(user: &str, groups: &[&str]) -> Arc<PresenceEntry> {
    Arc::new(new_session(user, groups))
}

fn names(names: &[&str]) -> Vec<Arc<str>> {
    names.iter().map(|name| Arc::from(*name)).collect()
}

/// Waits until a user has so many sessions.
pub(crate) async fn until_sessions(
    presence: &dyn Presence,
    user: &str,
    count: usize,
) -> Vec<SessionInfo> {
    let what = format!("{user} has {count} sessions");
    eventually(DEADLINE, what, async || {
        let sessions = presence.user(user).await.ok()?.sessions;
        (sessions.len() == count).then_some(sessions)
    })
    .await
}

/// Waits until a user's status is that.
pub(crate) async fn until_status(presence: &dyn Presence, user: &str, status: Status) {
    let what = format!("{user} is {status}");
    eventually(DEADLINE, what, async || {
        (presence.user(user).await.ok()?.status == status).then_some(())
    })
    .await;
}

/// Waits until exactly these users of a group are online.
pub(crate) async fn until_group(presence: &dyn Presence, group: &str, users: &[&str]) {
    let what = format!("{users:?} of {group} are online");
    eventually(DEADLINE, what, async || {
        let members = presence.group(group).await.ok()?;
        let online: Vec<&str> = members.iter().map(|member| &*member.user).collect();
        (online == users).then_some(())
    })
    .await;
}

/// Waits until all that was asked before is done.
async fn fence(presence: &dyn Presence) {
    let user = unique("fence");
    let session = session(&user, &[]);
    presence.join(Arc::clone(&session));
    until_sessions(presence, &user, 1).await;
    presence.leave(&session);
}

/// The next event: `alice offline>online`.
pub(crate) async fn next_event(events: &Outbox) -> String {
    let events = within(DEADLINE, "an event", events.next(1)).await;
    let event = &events[0];
    format!("{} {}>{}", event.user, event.previous, event.status)
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

        mod sentinels {
            $(#[tokio::test]
            async fn $test() {
                super::$test::<std::sync::Arc<testkit::RedisSentinels>>().await;
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
    at_first_nobody_is_here
    a_session_that_joins_is_here_with_its_data
    to_join_twice_is_to_join_once
    a_user_is_here_until_its_last_session_leaves
    a_session_that_never_joined_cannot_leave
    joining_and_leaving_keep_their_order
    names_may_be_anything
    names_may_be_longer_than_amqp_allows
    a_user_s_status_is_that_of_all_its_sessions
    an_invisible_user_is_not_seen_in_its_groups
    of_many_statuses_the_newest_holds
    groups_can_be_changed
    a_session_that_is_not_here_changes_nothing
    many_users_are_asked_for_in_one_call
    a_node_knows_the_sessions_that_it_holds
    a_session_is_found_by_its_id
    all_sessions_are_listed_page_by_page
    a_cursor_that_is_none_is_an_error
    sessions_users_and_nodes_are_counted
    the_sessions_of_a_user_are_counted
    a_user_of_very_many_sessions_is_listed_in_pages
    a_user_that_comes_and_goes_is_told_once
    a_page_s_reload_is_no_event
    only_the_last_departure_settles
    a_status_is_told_as_others_see_it
    an_event_names_the_groups
    a_claim_hears_of_the_sessions_before_it
    nobody_else_sees_a_claim
    of_many_who_claim_at_once_each_finds_those_before_it
    closing_takes_all_offline
}

async fn at_first_nobody_is_here<F: Fixture>() {
    let presence = F::start().await.node("n");
    fence(&*presence).await;
    assert_eq!(presence.health(), Ok(()));
    let nobody = presence.user(&unique("nobody")).await.unwrap();
    assert_eq!(
        (nobody.status, nobody.sessions),
        (Status::Offline, Vec::new())
    );
    assert_eq!(presence.group(&unique("nothing")).await, Ok(Vec::new()));
    assert_eq!(presence.session(&unique("none")).await, Ok(None));
    assert_eq!(presence.users(&[]).await, Ok(Vec::new()));
}

async fn a_session_that_joins_is_here_with_its_data<F: Fixture>() {
    let presence = F::start().await.node("node-1");
    let (user, group) = (unique("user"), unique("group"));
    let groups = vec![group.as_str().into()];
    let mut joined = PresenceEntry::new(user.as_str().into(), &unique("s"), "xhr-polling", groups)
        .with_status(Status::Away);
    joined.remote = Some("[2001:db8::1]:4711".parse().unwrap());
    joined.since = SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_000_000_123);
    joined.device = Some(Box::new(Device {
        kind: Some("phone".into()),
        id: Some("é 7".into()),
    }));
    let joined = Arc::new(joined);

    presence.join(Arc::clone(&joined));

    let sessions = until_sessions(&*presence, &user, 1).await;
    assert_eq!(sessions, [joined.info("node-1")]);
    assert_eq!(sessions[0].last_seen, joined.since);
    until_group(&*presence, &group, &[&user]).await;
    assert_eq!(
        presence.group(&group).await.unwrap()[0].status,
        Status::Away
    );
}

async fn to_join_twice_is_to_join_once<F: Fixture>() {
    let presence = F::start().await.node("n");
    let user = unique("user");
    let joined = session(&user, &[]);
    presence.join(Arc::clone(&joined));
    presence.join(Arc::clone(&joined));
    fence(&*presence).await;
    until_sessions(&*presence, &user, 1).await;
    presence.leave(&joined);
    until_sessions(&*presence, &user, 0).await;
}

async fn a_user_is_here_until_its_last_session_leaves<F: Fixture>() {
    let presence = F::start().await.node("n");
    let [alice, bob] = ["alice", "bob"].map(unique);
    let [both, first] = ["both", "first"].map(unique);
    let one = session(&alice, &[&both, &first]);
    let two = session(&alice, &[&both]);
    let other = session(&bob, &[&both]);
    for session in [&one, &two, &other] {
        presence.join(Arc::clone(session));
    }
    until_group(&*presence, &both, &[&alice, &bob]).await;
    until_sessions(&*presence, &alice, 2).await;

    presence.leave(&one);
    until_group(&*presence, &first, &[]).await;
    until_group(&*presence, &both, &[&alice, &bob]).await;
    let left = until_sessions(&*presence, &alice, 1).await;
    assert_eq!(left[0].id, two.id);

    presence.leave(&two);
    until_group(&*presence, &both, &[&bob]).await;
    until_sessions(&*presence, &alice, 0).await;
    until_sessions(&*presence, &bob, 1).await;
}

async fn a_session_that_never_joined_cannot_leave<F: Fixture>() {
    let presence = F::start().await.node("n");
    let (user, group) = (unique("user"), unique("group"));
    presence.join(session(&user, &[&group]));
    presence.leave(&session(&user, &[&group]));
    fence(&*presence).await;
    until_sessions(&*presence, &user, 1).await;
    until_group(&*presence, &group, &[&user]).await;
}

async fn joining_and_leaving_keep_their_order<F: Fixture>() {
    let presence = F::start().await.node("n");
    let (user, group) = (unique("user"), unique("group"));
    for _ in 0..1_000 {
        let flapping = session(&user, &[&group]);
        presence.join(Arc::clone(&flapping));
        presence.leave(&flapping);
    }
    fence(&*presence).await;
    until_sessions(&*presence, &user, 0).await;
    assert_eq!(presence.group(&group).await, Ok(Vec::new()));
}

async fn names_may_be_anything<F: Fixture>() {
    let presence = F::start().await.node("n");
    let long = "x".repeat(300);
    for name in ["a:b/c é\n\"*", "", "\u{0}", &long] {
        let name = format!("{}{name}", unique("name"));
        presence.join(session(&name, &[&name]));
        until_sessions(&*presence, &name, 1).await;
        until_group(&*presence, &name, &[&name]).await;
    }
}

async fn a_user_s_status_is_that_of_all_its_sessions<F: Fixture>() {
    let presence = F::start().await.node("n");
    let (user, group) = (unique("user"), unique("group"));
    let [phone, desk] = [(); 2].map(|()| session(&user, &[&group]));
    presence.join(Arc::clone(&phone));
    until_status(&*presence, &user, Status::Online).await;
    presence.set_status(&phone, Status::Away);
    until_status(&*presence, &user, Status::Away).await;
    presence.join(Arc::clone(&desk));
    until_status(&*presence, &user, Status::Online).await;
    presence.set_status(&desk, Status::Busy);
    until_status(&*presence, &user, Status::Busy).await;
    let sessions = until_sessions(&*presence, &user, 2).await;
    let status = |id: &str| {
        let found = sessions.iter().find(|session| &*session.id == id);
        found.unwrap().status
    };
    assert_eq!(
        (status(&phone.id), status(&desk.id)),
        (Status::Away, Status::Busy)
    );
    presence.leave(&desk);
    until_status(&*presence, &user, Status::Away).await;
    let members = presence.group(&group).await.unwrap();
    assert_eq!(members[0].status, Status::Away);
}

async fn an_invisible_user_is_not_seen_in_its_groups<F: Fixture>() {
    let presence = F::start().await.node("n");
    let ([alice, bob], group) = (["alice", "bob"].map(unique), unique("group"));
    let hides = Arc::new(new_session(&alice, &[&group]).with_status(Status::Invisible));
    presence.join(Arc::clone(&hides));
    // Also on her other device.
    presence.join(session(&alice, &[&group]));
    presence.join(session(&bob, &[&group]));
    until_group(&*presence, &group, &[&bob]).await;
    let user = presence.user(&alice).await.unwrap();
    assert_eq!((user.status, user.sessions.len()), (Status::Invisible, 2));
    assert_eq!(user.status.to_others(), Status::Offline);
    presence.set_status(&hides, Status::Busy);
    until_group(&*presence, &group, &[&alice, &bob]).await;
}

async fn of_many_statuses_the_newest_holds<F: Fixture>() {
    let presence = F::start().await.node("n");
    let user = unique("user");
    let joined = session(&user, &[]);
    presence.join(Arc::clone(&joined));
    for _ in 0..1_000 {
        presence.set_status(&joined, Status::Away);
        presence.set_status(&joined, Status::Online);
    }
    presence.set_status(&joined, Status::Busy);
    until_status(&*presence, &user, Status::Busy).await;
}

async fn groups_can_be_changed<F: Fixture>() {
    let presence = F::start().await.node("n");
    let user = unique("user");
    let [left, kept, new] = ["left", "kept", "new"].map(unique);
    let one = session(&user, &[&left, &kept]);
    let other = session(&user, &[&kept]);
    presence.join(Arc::clone(&one));
    presence.join(Arc::clone(&other));
    until_group(&*presence, &left, &[&user]).await;
    presence.regroup(&one, names(&[&new]));
    until_group(&*presence, &new, &[&user]).await;
    until_group(&*presence, &left, &[]).await;
    // The other session says that the user still is in it.
    until_group(&*presence, &kept, &[&user]).await;
    presence.regroup(&other, Vec::new());
    until_group(&*presence, &kept, &[]).await;
    presence.leave(&one);
    until_group(&*presence, &new, &[]).await;
}

async fn a_session_that_is_not_here_changes_nothing<F: Fixture>() {
    let presence = F::start().await.node("n");
    let (user, group) = (unique("user"), unique("group"));
    let joined = session(&user, &[&group]);
    presence.join(Arc::clone(&joined));
    presence.leave(&joined);
    presence.set_status(&joined, Status::Busy);
    presence.regroup(&joined, names(&["other"]));
    fence(&*presence).await;
    until_status(&*presence, &user, Status::Offline).await;
    until_group(&*presence, &group, &[]).await;
}

async fn many_users_are_asked_for_in_one_call<F: Fixture>() {
    let presence = F::start().await.node("n");
    let users: Vec<_> = (0..500).map(|_| unique("user")).collect();
    for user in users.iter().step_by(2) {
        presence.join(session(user, &[]));
    }
    let last = &users[users.len() - 2];
    until_sessions(&*presence, last, 1).await;
    let names: Vec<&str> = users.iter().map(String::as_str).collect();
    let found = presence.users(&names).await.unwrap();
    assert_eq!(found.len(), users.len());
    for (number, (user, name)) in found.iter().zip(&names).enumerate() {
        let sessions = user.sessions.len();
        assert_eq!(sessions, (number + 1) % 2, "{name}");
        assert!(user.sessions.iter().all(|session| *session.user == **name));
    }
}

async fn a_node_knows_the_sessions_that_it_holds<F: Fixture>() {
    let fixture = F::start().await;
    let (presence, other) = (fixture.node("n"), fixture.node("other"));
    let user = unique("user");
    let joined = session(&user, &[]);
    presence.join(Arc::clone(&joined));
    assert!(Arc::ptr_eq(&presence.held(&user)[0], &joined));
    assert!(other.held(&user).is_empty());
    presence.leave(&joined);
    assert!(presence.held(&user).is_empty());
}

async fn a_session_is_found_by_its_id<F: Fixture>() {
    let presence = F::start().await.node("n");
    let user = unique("user");
    let mut one = new_session(&user, &[]);
    one.since = SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_000_000_123);
    let (one, other) = (Arc::new(one), session(&user, &[]));
    presence.join(Arc::clone(&one));
    presence.join(other);
    until_sessions(&*presence, &user, 2).await;
    let found = presence.session(&one.id).await.unwrap().unwrap();
    assert_eq!(found, one.info("n"));
    presence.leave(&one);
    until_sessions(&*presence, &user, 1).await;
    assert_eq!(presence.session(&one.id).await, Ok(None));
}

async fn all_sessions_are_listed_page_by_page<F: Fixture>() {
    let fixture = F::alone().await;
    let presence = fixture.node("n");
    let joined: Vec<_> = (0..250)
        .map(|n| session(&format!("user-{n}"), &[]))
        .collect();
    for session in &joined {
        presence.join(Arc::clone(session));
    }
    fence(&*presence).await;
    until_sessions(&*presence, "user-249", 1).await;
    for limit in [1, 7, 100, 250, 1_000] {
        let (mut found, mut after) = (BTreeSet::new(), None);
        loop {
            let listing = Listing {
                user: None,
                node: Some("n".into()),
                after: after.take(),
                limit,
            };
            let page = presence.sessions(&listing).await.unwrap();
            assert!(page.sessions.len() <= limit, "{limit}");
            for session in page.sessions {
                // It may not have heard of the fence's end.
                if !session.user.starts_with("fence") {
                    assert!(found.insert(session.id.clone()), "{session:?} comes twice");
                }
            }
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        assert_eq!(found.len(), joined.len(), "in pages of {limit}");
    }
    let other = Listing {
        user: None,
        node: Some("other".into()),
        after: None,
        limit: 10,
    };
    assert!(presence.sessions(&other).await.unwrap().sessions.is_empty());
}

async fn a_cursor_that_is_none_is_an_error<F: Fixture>() {
    let presence = F::start().await.node("n");
    let listing = Listing {
        user: None,
        node: None,
        after: Some("no/cursor".into()),
        limit: 1,
    };
    assert_eq!(
        presence.sessions(&listing).await,
        Err(PresenceError::Cursor)
    );
}

async fn sessions_users_and_nodes_are_counted<F: Fixture>() {
    let fixture = F::alone().await;
    let presence = fixture.with(settings("n", AT_ONCE, None));
    let sessions = ["alice", "alice", "bob"].map(|user| session(user, &[]));
    for session in &sessions {
        presence.join(Arc::clone(session));
    }
    let count = async |users: u64| {
        eventually(DEADLINE, format!("{users} users"), async || {
            presence.counts().await.unwrap().users == users
        })
        .await;
    };
    count(2).await;
    let [node] = &presence.nodes().await.unwrap()[..] else {
        panic!("one node")
    };
    assert_eq!(&*node.name, "n");
    assert!(node.since.elapsed().unwrap() < DEADLINE);
    presence.leave(&sessions[0]);
    fence(&*presence).await;
    presence.leave(&sessions[2]);
    count(1).await;
    presence.leave(&sessions[1]);
    count(0).await;
    let Counts { sessions, .. } = presence.counts().await.unwrap();
    assert!(sessions <= 3, "{sessions}");
}

async fn a_user_that_comes_and_goes_is_told_once<F: Fixture>() {
    let (presence, events) = F::start().await.telling(AT_ONCE);
    let [alice, bob] = ["alice", "bob"].map(unique);
    let (one, two) = (session(&alice, &[]), session(&alice, &[]));
    presence.join(Arc::clone(&one));
    assert_eq!(next_event(&events).await, format!("{alice} offline>online"));
    presence.join(Arc::clone(&two));
    presence.leave(&one);
    until_sessions(&*presence, &alice, 1).await;
    presence.join(session(&bob, &[]));
    assert_eq!(next_event(&events).await, format!("{bob} offline>online"));
    presence.leave(&two);
    assert_eq!(next_event(&events).await, format!("{alice} online>offline"));
}

async fn a_page_s_reload_is_no_event<F: Fixture>() {
    let (presence, events) = F::start().await.telling(Duration::from_secs(1));
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(unique);
    let before = session(&alice, &[]);
    presence.join(Arc::clone(&before));
    assert_eq!(next_event(&events).await, format!("{alice} offline>online"));
    presence.leave(&before);
    until_sessions(&*presence, &alice, 0).await;
    presence.join(session(&alice, &[]));
    // Users who leave after her are told after her.
    let leaves = session(&bob, &[]);
    presence.join(Arc::clone(&leaves));
    assert_eq!(next_event(&events).await, format!("{bob} offline>online"));
    presence.leave(&leaves);
    presence.join(session(&carol, &[]));
    assert_eq!(next_event(&events).await, format!("{carol} offline>online"));
    assert_eq!(next_event(&events).await, format!("{bob} online>offline"));
}

async fn only_the_last_departure_settles<F: Fixture>() {
    let fixture = F::start().await;
    let debounce = Duration::from_secs(2);
    let (presence, events) = fixture.telling(debounce);
    // Another one's debounce is the clock, until shortly before the first one's is over.
    let (clock, ticks) = fixture.telling(debounce.mul_f64(0.6));
    let [alice, bob, tick] = ["alice", "bob", "tick"].map(unique);
    let (first, before) = (session(&alice, &[]), session(&bob, &[]));
    let ticking = session(&tick, &[]);
    presence.join(Arc::clone(&first));
    assert_eq!(next_event(&events).await, format!("{alice} offline>online"));
    presence.join(Arc::clone(&before));
    assert_eq!(next_event(&events).await, format!("{bob} offline>online"));
    clock.join(Arc::clone(&ticking));
    assert_eq!(next_event(&ticks).await, format!("{tick} offline>online"));

    presence.leave(&first);
    presence.leave(&before);
    clock.leave(&ticking);
    until_sessions(&*presence, &alice, 0).await;
    let second = session(&alice, &[]);
    presence.join(Arc::clone(&second));
    assert_eq!(next_event(&ticks).await, format!("{tick} online>offline"));
    presence.leave(&second);
    // Her first debounce was over before his; she is away now, but not for long.
    assert_eq!(next_event(&events).await, format!("{bob} online>offline"));
    let third = session(&alice, &[]);
    presence.join(Arc::clone(&third));
    until_sessions(&*presence, &alice, 1).await;
    presence.leave(&third);
    assert_eq!(next_event(&events).await, format!("{alice} online>offline"));
    until_status(&*presence, &alice, Status::Offline).await;
}

async fn a_status_is_told_as_others_see_it<F: Fixture>() {
    let (presence, events) = F::start().await.telling(AT_ONCE);
    let [alice, bob] = ["alice", "bob"].map(unique);
    let hides = Arc::new(new_session(&alice, &[]).with_status(Status::Invisible));
    presence.join(Arc::clone(&hides));
    until_sessions(&*presence, &alice, 1).await;
    // That nobody was told of her is shown by what comes first.
    let seen = Arc::new(new_session(&bob, &[]).with_status(Status::Away));
    presence.join(Arc::clone(&seen));
    assert_eq!(next_event(&events).await, format!("{bob} offline>away"));
    presence.set_status(&seen, Status::Busy);
    assert_eq!(next_event(&events).await, format!("{bob} away>busy"));
    presence.set_status(&seen, Status::Invisible);
    assert_eq!(next_event(&events).await, format!("{bob} busy>offline"));
    presence.leave(&seen);
    presence.leave(&hides);
    until_sessions(&*presence, &alice, 0).await;
    presence.join(session(&alice, &[]));
    assert_eq!(next_event(&events).await, format!("{alice} offline>online"));
}

async fn an_event_names_the_groups<F: Fixture>() {
    let (presence, events) = F::start().await.telling(AT_ONCE);
    let (user, groups) = (unique("user"), ["g.1", "g 2"].map(unique));
    let joined = session(&user, &[&groups[1], &groups[0]]);
    let keys: BTreeSet<Box<str>> = [
        format!("user.{user}").into(),
        format!("group.{}", groups[0]).into(),
        format!("group.{}", groups[1]).into(),
    ]
    .into();
    presence.join(Arc::clone(&joined));
    let came = within(DEADLINE, "an event", events.next(1)).await;
    assert_eq!(came[0].keys().collect::<BTreeSet<_>>(), keys);
    presence.leave(&joined);
    let went = within(DEADLINE, "an event", events.next(1)).await;
    assert_eq!(went[0].keys().collect::<BTreeSet<_>>(), keys);
    assert!(went[0].at >= came[0].at);
}

async fn the_sessions_of_a_user_are_counted<F: Fixture>() {
    let presence = F::start().await.node("n");
    let user = unique("user");
    assert_eq!(presence.count_sessions(&user).await, Ok(0));
    let sessions = [(); 3].map(|()| session(&user, &[]));
    for session in &sessions {
        presence.join(Arc::clone(session));
    }
    let count = async |count: u64| {
        eventually(DEADLINE, format!("{count} are counted"), async || {
            (presence.count_sessions(&user).await == Ok(count)).then_some(())
        })
        .await;
    };
    count(3).await;
    presence.leave(&sessions[0]);
    count(2).await;
}

async fn names_may_be_longer_than_amqp_allows<F: Fixture>() {
    let events = Outbox::new();
    let node = unique(&"n".repeat(1_000));
    let node = settings(&node, AT_ONCE, Some(Arc::clone(&events)));
    let name = node.name.clone();
    let presence = F::start().await.with(node);
    let [user, group, device] = ["u", "g", "d"].map(|one| unique(&one.repeat(1_000)));
    let mut joined = new_session(&user, &[&group]);
    joined.device = Some(Box::new(Device {
        kind: Some(device.as_str().into()),
        id: Some(device.as_str().into()),
    }));
    let joined = Arc::new(joined);
    presence.join(Arc::clone(&joined));
    let found = until_sessions(&*presence, &user, 1).await;
    assert_eq!(found[0].device, joined.device);
    assert_eq!(found[0].node, name);
    until_group(&*presence, &group, &[&user]).await;
    // Only the routing keys are AMQP's: they have hashes instead.
    let came = within(DEADLINE, "an event", events.next(1)).await;
    assert_eq!(*came[0].user, *user);
    let keys: Vec<_> = came[0].keys().collect();
    assert_eq!(keys.len(), 2);
    for (key, start) in keys.iter().zip(["user.sha256:", "group.sha256:"]) {
        assert!(key.starts_with(start) && key.len() <= 255, "{key}");
    }
    presence.leave(&joined);
    let went = within(DEADLINE, "an event", events.next(1)).await;
    assert_eq!(went[0].keys().collect::<Vec<_>>(), keys);
    until_group(&*presence, &group, &[]).await;
}

async fn a_user_of_very_many_sessions_is_listed_in_pages<F: Fixture>() {
    const MANY: usize = MOST_SESSIONS + 500;
    let presence = F::start().await.node("n");
    let guest = unique("guest");
    let mut joined = BTreeSet::new();
    for number in 0..MANY {
        let session = session(&guest, &["group"]);
        presence.join(Arc::clone(&session));
        if number + 1 == MANY {
            // Changes of a user keep their order.
            eventually(DEADLINE, "the last is here", async || {
                presence.session(&session.id).await.ok()?
            })
            .await;
        }
        joined.insert(session.id.clone());
    }
    let found = presence.user(&guest).await.unwrap();
    assert_eq!(found.status, Status::Online);
    assert_eq!(found.count, MANY as u64);
    assert!(
        found.sessions.len() <= MOST_SESSIONS,
        "{}",
        found.sessions.len()
    );
    assert!(
        found.sessions.len() > MOST_SESSIONS / 2,
        "{}",
        found.sessions.len()
    );
    let count = UserCount {
        status: Status::Online,
        sessions: MANY as u64,
    };
    let counts = presence.count_users(&[&guest, "nobody"]).await;
    assert_eq!(counts, Ok(vec![count, UserCount::default()]));

    let (mut listed, mut after) = (BTreeSet::new(), None);
    loop {
        let listing = Listing {
            user: Some((&*guest).into()),
            node: None,
            after: after.take(),
            limit: 400,
        };
        let page = presence.sessions(&listing).await.unwrap();
        for session in page.sessions {
            assert_eq!(*session.user, *guest);
            assert!(listed.insert(session.id), "it comes twice");
        }
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    assert_eq!(listed, joined);
}

async fn a_claim_hears_of_the_sessions_before_it<F: Fixture>() {
    let presence = F::start().await.node("n");
    fence(&*presence).await;
    let (user, group) = (unique("user"), unique("group"));
    let claim = |session: &Arc<PresenceEntry>| presence.claim(Arc::clone(session));
    let [first, second, third] = [1, 2, 3].map(|seconds| {
        let mut session = new_session(&user, &[]);
        session.since = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_000_000 + seconds);
        session.device = Some(Box::new(Device {
            kind: Some("phone".into()),
            id: None,
        }));
        Arc::new(session)
    });
    assert_eq!(claim(&first).await, Ok(Vec::new()));
    let mut claimed = first.info("n");
    claimed.status = Status::Offline;
    assert_eq!(claim(&second).await, Ok(vec![claimed]));
    // They join, and are like any that did.
    assert_eq!(presence.held(&user).len(), 0);
    presence.join(Arc::clone(&first));
    presence.join(Arc::clone(&second));
    assert_eq!(presence.held(&user).len(), 2);
    presence.regroup(&second, names(&[&group]));
    until_group(&*presence, &group, &[&user]).await;
    until_sessions(&*presence, &user, 2).await;
    let both = vec![first.info("n"), second.info("n")];
    assert_eq!(claim(&third).await, Ok(both));
    // The one that did not like it has left.
    presence.leave(&third);
    presence.leave(&first);
    until_sessions(&*presence, &user, 1).await;
    let next = session(&user, &[]);
    assert_eq!(claim(&next).await, Ok(vec![second.info("n")]));
    presence.leave(&second);
    presence.leave(&next);
    until_status(&*presence, &user, Status::Offline).await;
}

/// A login that is refused changes nothing for others.
async fn nobody_else_sees_a_claim<F: Fixture>() {
    let (presence, events) = F::start().await.telling(AT_ONCE);
    let alice = unique("alice");
    presence.join(session(&alice, &[]));
    assert_eq!(next_event(&events).await, format!("{alice} offline>online"));
    // There was no event before this one's: an event and its opposite would not be told together.
    let fence = async || {
        let bob = unique("bob");
        presence.join(session(&bob, &[]));
        assert_eq!(next_event(&events).await, format!("{bob} offline>online"));
    };
    let with = |status| Arc::new(new_session(&alice, &[]).with_status(status));
    for status in [Status::Invisible, Status::Busy] {
        let refused = with(status);
        // The claims before it may be about to be withdrawn.
        let others = presence.claim(Arc::clone(&refused)).await.unwrap();
        assert!(!others.is_empty());
        let seen = presence.user(&alice).await.unwrap();
        assert_eq!((seen.status, seen.count), (Status::Online, 1));
        assert_eq!(presence.session(&refused.id).await, Ok(None));
        assert_eq!(presence.count_sessions(&alice).await, Ok(1));
        fence().await;
        presence.leave(&refused);
        eventually(DEADLINE, "the claim is withdrawn", async || {
            let next = session(&alice, &[]);
            let others = presence.claim(Arc::clone(&next)).await;
            presence.leave(&next);
            others.is_ok_and(|others| others.len() == 1)
        })
        .await;
        fence().await;
    }
    let admitted = with(Status::Busy);
    presence.claim(Arc::clone(&admitted)).await.unwrap();
    presence.join(admitted);
    assert_eq!(next_event(&events).await, format!("{alice} online>busy"));
}

async fn of_many_who_claim_at_once_each_finds_those_before_it<F: Fixture>() {
    const MANY: usize = 10;
    let presence = F::start().await.node("n");
    fence(&*presence).await;
    let user = unique("user");
    let claims = (0..MANY).map(|_| presence.claim(session(&user, &[])));
    let mut found: Vec<usize> = futures_util::future::join_all(claims)
        .await
        .iter()
        .map(|found| found.as_ref().unwrap().len())
        .collect();
    found.sort_unstable();
    assert_eq!(found, (0..MANY).collect::<Vec<_>>());
}

async fn closing_takes_all_offline<F: Fixture>() {
    let fixture = F::start().await;
    let presence = fixture.node("n");
    let (user, group) = (unique("user"), unique("group"));
    let stays = session(&user, &[&group]);
    presence.join(Arc::clone(&stays));
    until_sessions(&*presence, &user, 1).await;

    presence.close().await;

    let sessions = async || presence.user(&user).await.unwrap().sessions;
    assert_eq!(sessions().await, Vec::new());
    assert_eq!(presence.group(&group).await, Ok(Vec::new()));
    presence.leave(&stays);
    presence.join(session(&user, &[&group]));
    let after = fixture.node("after");
    fence(&*after).await;
    assert_eq!(sessions().await, Vec::new());
}
