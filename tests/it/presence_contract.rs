//! What every [`stentor::presence::Presence`] promises, sentence by sentence, as tests that are
//! generic over it.
//!
//! That something did not happen is shown by something after it (a "fence"), never by waiting.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use stentor::presence::{
    Presence, Session, SessionInfo, Url, memory::MemoryPresence, redis::RedisPresence,
};
use testkit::{DEADLINE, Redis, eventually, unique};

/// A presence to test.
trait Fixture: Sync {
    async fn start() -> Self;

    /// The presence of a node.
    fn node(&self, name: &str) -> Arc<dyn Presence>;
}

struct Memory;

impl Fixture for Memory {
    async fn start() -> Self {
        Self
    }

    fn node(&self, name: &str) -> Arc<dyn Presence> {
        Arc::new(MemoryPresence::new(name))
    }
}

impl Fixture for Arc<Redis> {
    async fn start() -> Self {
        Redis::shared().await
    }

    fn node(&self, name: &str) -> Arc<dyn Presence> {
        Arc::new(redis_presence(&self.url(), Duration::from_secs(30), name))
    }
}

pub(crate) fn redis_presence(url: &str, lease: Duration, node: &str) -> RedisPresence {
    let Url::Redis(url) = url.parse().unwrap() else {
        panic!("{url} is not Redis")
    };
    RedisPresence::new(&url, lease, node).unwrap()
}

pub(crate) fn session(user: &str, groups: &[&str]) -> Arc<Session> {
    let groups = groups.iter().map(|group| Arc::from(*group)).collect();
    Arc::new(Session::new(
        user.into(),
        &unique("session"),
        "websocket",
        groups,
    ))
}

/// Waits until a user has so many sessions.
pub(crate) async fn until_sessions(
    presence: &dyn Presence,
    user: &str,
    count: usize,
) -> Vec<SessionInfo> {
    let what = format!("{user} has {count} sessions");
    eventually(DEADLINE, what, async || {
        let sessions = presence.user(user).await.ok()?;
        (sessions.len() == count).then_some(sessions)
    })
    .await
}

/// Waits until exactly these users of a group are online.
pub(crate) async fn until_group(presence: &dyn Presence, group: &str, users: &[&str]) {
    let what = format!("{users:?} of {group} are online");
    eventually(DEADLINE, what, async || {
        let online = presence.group(group).await.ok()?;
        let online: Vec<&str> = online.iter().map(|user| &**user).collect();
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
    };
}

contract! {
    at_first_nobody_is_here
    who_joins_is_here_with_what_was_told
    to_join_twice_is_to_join_once
    a_user_is_here_until_its_last_session_leaves
    who_never_joined_cannot_leave
    joining_and_leaving_keep_their_order
    names_may_be_anything
    closing_takes_all_offline
}

async fn at_first_nobody_is_here<F: Fixture>() {
    let presence = F::start().await.node("n");
    fence(&*presence).await;
    assert_eq!(presence.health(), Ok(()));
    assert_eq!(presence.user(&unique("nobody")).await, Ok(Vec::new()));
    assert_eq!(presence.group(&unique("nothing")).await, Ok(Vec::new()));
}

async fn who_joins_is_here_with_what_was_told<F: Fixture>() {
    let presence = F::start().await.node("node-1");
    let (user, group) = (unique("user"), unique("group"));
    let since = SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_000_000_123);
    let remote = Some("[2001:db8::1]:4711".parse().unwrap());
    let groups = vec![group.as_str().into()];
    let mut joined = Session::new(user.as_str().into(), &unique("s"), "xhr-polling", groups);
    (joined.remote, joined.since) = (remote, since);
    let joined = Arc::new(joined);

    presence.join(Arc::clone(&joined));

    let sessions = until_sessions(&*presence, &user, 1).await;
    let info = &sessions[0];
    assert_eq!((&info.id, &*info.node), (&joined.id, "node-1"));
    assert_eq!(
        (&*info.transport, info.remote, info.since),
        ("xhr-polling", remote, since)
    );
    until_group(&*presence, &group, &[&user]).await;
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

async fn who_never_joined_cannot_leave<F: Fixture>() {
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
    assert_eq!(presence.user(&user).await, Ok(Vec::new()));
    assert_eq!(presence.group(&group).await, Ok(Vec::new()));
}

async fn names_may_be_anything<F: Fixture>() {
    let presence = F::start().await.node("n");
    for name in ["a:b/c é\n\"*", "", "\u{0}"] {
        let name = format!("{}{name}", unique("name"));
        presence.join(session(&name, &[&name]));
        until_sessions(&*presence, &name, 1).await;
        until_group(&*presence, &name, &[&name]).await;
    }
}

async fn closing_takes_all_offline<F: Fixture>() {
    let fixture = F::start().await;
    let presence = fixture.node("n");
    let (user, group) = (unique("user"), unique("group"));
    let stays = session(&user, &[&group]);
    presence.join(Arc::clone(&stays));
    until_sessions(&*presence, &user, 1).await;

    presence.close().await;

    assert_eq!(presence.user(&user).await, Ok(Vec::new()));
    assert_eq!(presence.group(&group).await, Ok(Vec::new()));
    presence.leave(&stays);
    presence.join(session(&user, &[&group]));
    let after = fixture.node("after");
    fence(&*after).await;
    assert_eq!(presence.user(&user).await, Ok(Vec::new()));
}
