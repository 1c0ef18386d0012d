//! Presence in Redis, where nodes are killed and Redis goes away.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use stentor::presence::{
    Listing, Outbox, Page, Presence, PresenceEntry, PresenceError, Status, redis::RedisPresence,
};
use testkit::{DEADLINE, Proxy, Redis, eventually, unique, within};

use crate::presence_contract::{
    AT_ONCE, new_session, next_event, redis_presence, session, settings, until_group,
    until_sessions, until_status,
};

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_secs(2);
/// A lease: a restart of Redis is noticed within a third of it.
const NOTICING: Duration = Duration::from_secs(6);

fn node(redis: &Redis, lease: Duration) -> RedisPresence {
    redis_presence(&redis.url(), lease, settings(&unique("node"), LONG, None))
}

/// A node, and its events.
fn telling(url: &str, lease: Duration, debounce: Duration) -> (RedisPresence, Arc<Outbox>) {
    let events = Outbox::new();
    let node = settings(&unique("node"), debounce, Some(Arc::clone(&events)));
    (redis_presence(url, lease, node), events)
}

/// Joins a session of the user, and waits until that is known.
async fn here(presence: &RedisPresence, user: &str) -> Arc<PresenceEntry> {
    let joined = session(user, &["group"]);
    presence.join(Arc::clone(&joined));
    eventually(DEADLINE, "it is here", async || {
        presence.session(&joined.id).await.ok()?
    })
    .await;
    joined
}

/// `:7` is 7.
fn number(reply: &str) -> u64 {
    reply.strip_prefix(':').unwrap().parse().unwrap()
}

async fn until_reply(redis: &Redis, words: &[&str], reply: &str) {
    let what = format!("{words:?} answers {reply}");
    eventually(DEADLINE, what, async || redis.command(words).await == reply).await;
}

#[tokio::test]
async fn all_nodes_see_the_same() {
    let redis = Redis::shared().await;
    let (one, two) = (node(&redis, LONG), node(&redis, LONG));
    let (user, group) = (unique("user"), unique("group"));
    let (first, second) = (session(&user, &[&group]), session(&user, &[&group]));
    one.join(Arc::clone(&first));
    two.join(second);
    for presence in [&one, &two] {
        until_sessions(presence, &user, 2).await;
        until_group(presence, &group, &[&user]).await;
    }
    one.leave(&first);
    for presence in [&one, &two] {
        until_sessions(presence, &user, 1).await;
        until_group(presence, &group, &[&user]).await;
    }
}

#[tokio::test]
async fn the_users_of_a_killed_node_are_offline_within_the_lease() {
    let redis = Redis::shared().await;
    let (killed, stays) = (node(&redis, SHORT), node(&redis, SHORT));
    let [alice, bob, group] = ["alice", "bob", "group"].map(unique);
    killed.join(session(&alice, &[&group]));
    killed.join(session(&bob, &[&group]));
    stays.join(session(&bob, &[&group]));
    until_group(&stays, &group, &[&alice, &bob]).await;
    until_sessions(&stays, &bob, 2).await;

    let since = Instant::now();
    drop(killed);

    until_sessions(&stays, &alice, 0).await;
    // The second is the test's own: for the reading, on a busy machine.
    let took = since.elapsed();
    assert!(took < SHORT + Duration::from_secs(1), "{took:?}");
    until_group(&stays, &group, &[&bob]).await;
    until_sessions(&stays, &bob, 1).await;
}

#[tokio::test]
async fn one_survivor_tells_who_went_with_a_killed_node_and_clears_up() {
    let redis = Redis::own().await;
    // Their own debounce has no part in this: a killed node's users have had a lease's time.
    let survivors = [(); 2].map(|()| telling(&redis.url(), SHORT, LONG));
    let (killed, told) = telling(&redis.url(), SHORT, LONG);
    for user in ["alice", "bob"] {
        here(&killed, user).await;
        assert_eq!(next_event(&told).await, format!("{user} offline>online"));
    }
    here(&survivors[0].0, "bob").await;
    // A user who just left it, and was not settled.
    let left = here(&killed, "carol").await;
    killed.leave(&left);
    until_sessions(&killed, "carol", 0).await;

    drop(killed);

    // Either may be either survivor's to tell.
    let [(_, one), (_, other)] = &survivors;
    let mut gone = Vec::new();
    for _ in 0..2 {
        gone.push(tokio::select! {
            event = next_event(one) => event,
            event = next_event(other) => event,
        });
    }
    gone.sort();
    assert_eq!(gone, ["alice online>offline", "carol online>offline"]);

    // Nothing of the dead node is left: two leases and their list, bob and his group, his node's
    // list of sessions, the number of users.
    until_reply(&redis, &["HLEN", "stentor:nodes"], ":3").await;
    until_reply(&redis, &["DBSIZE"], ":7").await;
    assert_eq!(redis.command(&["GET", "stentor:users"]).await, "$1\r\n1");
    until_sessions(&survivors[1].0, "bob", 1).await;
    // And nobody was told of twice.
    for (presence, events) in &survivors {
        let user = unique("fence");
        here(presence, &user).await;
        assert_eq!(next_event(events).await, format!("{user} offline>online"));
    }
}

#[tokio::test]
async fn a_user_who_comes_back_at_another_node_was_not_away() {
    let redis = Redis::own().await;
    let debounce = Duration::from_secs(1);
    let (one, first) = telling(&redis.url(), LONG, debounce);
    let (two, second) = telling(&redis.url(), LONG, debounce);
    let before = here(&one, "alice").await;
    assert_eq!(next_event(&first).await, "alice offline>online");
    one.leave(&before);
    let after = here(&two, "alice").await;
    // The entries behind it, at both.
    let leaves = here(&one, "bob").await;
    one.leave(&leaves);
    assert_eq!(next_event(&first).await, "bob offline>online");
    assert_eq!(next_event(&first).await, "bob online>offline");
    two.leave(&after);
    assert_eq!(next_event(&second).await, "alice online>offline");
}

#[tokio::test]
async fn a_user_who_leaves_two_nodes_has_left_once() {
    let redis = Redis::own().await;
    let debounce = Duration::from_secs(2);
    let (one, first) = telling(&redis.url(), LONG, debounce);
    let (two, second) = telling(&redis.url(), LONG, debounce);
    let (clock, ticks) = telling(&redis.url(), LONG, debounce.mul_f64(0.6));
    let [alice, bob] = [here(&one, "alice").await, here(&one, "bob").await];
    assert_eq!(next_event(&first).await, "alice offline>online");
    assert_eq!(next_event(&first).await, "bob offline>online");
    let tick = here(&clock, "tick").await;
    assert_eq!(next_event(&ticks).await, "tick offline>online");

    one.leave(&alice);
    one.leave(&bob);
    clock.leave(&tick);
    let alice = here(&two, "alice").await;
    assert_eq!(next_event(&ticks).await, "tick online>offline");
    two.leave(&alice);
    until_sessions(&one, "alice", 0).await;
    // The first node's debounces are over, and hers is not the newest.
    assert_eq!(next_event(&first).await, "bob online>offline");
    let alice = here(&one, "alice").await;
    one.leave(&alice);
    assert_eq!(next_event(&first).await, "alice online>offline");
    here(&two, "fence").await;
    assert_eq!(next_event(&second).await, "fence offline>online");
    until_reply(&redis, &["EXISTS", "stentor:user:alice"], ":0").await;
}

#[tokio::test]
async fn the_departure_of_a_dead_node_holds_nobody_up() {
    let redis = Redis::own().await;
    let (stays, events) = telling(&redis.url(), SHORT, AT_ONCE);
    let (killed, _) = telling(&redis.url(), SHORT, LONG);
    let (away, left) = (here(&killed, "alice").await, here(&stays, "alice").await);
    assert_eq!(redis.command(&["GET", "stentor:users"]).await, "$1\r\n1");
    killed.leave(&away);
    let mark = ["HEXISTS", "stentor:user:alice", "left"];
    until_reply(&redis, &mark, ":1").await;
    drop(killed);
    stays.leave(&left);
    // It is told by whoever is first: she, or who clears up.
    assert_eq!(next_event(&events).await, "alice online>offline");
    until_reply(&redis, &["EXISTS", "stentor:user:alice"], ":0").await;
}

#[tokio::test]
async fn each_change_is_told_by_one_node() {
    let redis = Redis::own().await;
    let nodes = [(); 3].map(|()| telling(&redis.url(), LONG, AT_ONCE));
    let mut joined = Vec::new();
    for (presence, _) in &nodes {
        let session = session("alice", &[]);
        presence.join(Arc::clone(&session));
        joined.push(session);
    }
    until_sessions(&nodes[0].0, "alice", 3).await;
    // If one node has both to tell, and nobody takes the first, it tells neither.
    let [(_, one), (_, two), (_, three)] = &nodes;
    let came = tokio::select! {
        event = next_event(one) => event,
        event = next_event(two) => event,
        event = next_event(three) => event,
    };
    assert_eq!(came, "alice offline>online");
    for ((presence, _), session) in nodes.iter().zip(&joined) {
        presence.leave(session);
    }
    until_reply(&redis, &["EXISTS", "stentor:users"], ":0").await;
    let mut told = Vec::new();
    for (presence, events) in &nodes {
        let fence = unique("fence");
        here(presence, &fence).await;
        loop {
            let event = next_event(events).await;
            if event.starts_with(&fence) {
                break;
            }
            told.push(event);
        }
    }
    assert_eq!(told, ["alice online>offline"]);
}

#[tokio::test]
async fn the_users_of_a_node_that_closed_are_told_by_another() {
    let redis = Redis::own().await;
    let (stays, events) = telling(&redis.url(), SHORT, Duration::from_secs(1));
    let (closes, _) = telling(&redis.url(), SHORT, LONG);
    for user in ["alice", "bob"] {
        here(&closes, user).await;
    }
    closes.close().await;
    until_sessions(&stays, "alice", 0).await;
    here(&stays, "alice").await;
    assert_eq!(next_event(&events).await, "bob online>offline");
    until_reply(&redis, &["HLEN", "stentor:nodes"], ":2").await;
}

#[tokio::test]
async fn when_redis_forgets_nobody_is_told_of_who_stayed() {
    let redis = Redis::own().await;
    let (presence, events) = telling(&redis.url(), SHORT, AT_ONCE);
    here(&presence, "stays").await;
    let leaves = here(&presence, "leaves").await;
    for user in ["stays", "leaves"] {
        assert_eq!(next_event(&events).await, format!("{user} offline>online"));
    }
    redis.kill();
    eventually(DEADLINE, "it is noticed", async || {
        presence.health().is_err()
    })
    .await;
    presence.leave(&leaves);
    presence.join(session("comes", &[]));
    redis.start().await;

    let mut told = [next_event(&events).await, next_event(&events).await];
    told.sort();
    // He may be one of those that are registered anew, or be told by himself.
    assert_eq!(told[1], "leaves online>offline");
    assert!(told[0].starts_with("comes "), "{told:?}");
    until_sessions(&presence, "stays", 1).await;
    here(&presence, "fence").await;
    assert_eq!(next_event(&events).await, "fence offline>online");
}

/// She is not taken for one who was as she is now: of one who hides others would never hear that
/// she is gone.
#[tokio::test]
async fn when_redis_forgets_a_status_that_is_new_is_told() {
    let redis = Redis::own().await;
    let (presence, events) = telling(&redis.url(), SHORT, AT_ONCE);
    for (user, status, told) in [
        ("alice", Status::Invisible, "alice online>offline"),
        ("bob", Status::Away, "bob online>away"),
    ] {
        let says = here(&presence, user).await;
        assert_eq!(next_event(&events).await, format!("{user} offline>online"));
        redis.command(&["FLUSHALL"]).await;
        presence.set_status(&says, status);
        assert_eq!(next_event(&events).await, told);
    }
    // And one who hides and leaves while it is away.
    let leaves = here(&presence, "carol").await;
    assert_eq!(next_event(&events).await, "carol offline>online");
    redis.kill();
    eventually(DEADLINE, "it is noticed", async || {
        presence.health().is_err()
    })
    .await;
    presence.set_status(&leaves, Status::Invisible);
    presence.leave(&leaves);
    redis.start().await;
    assert_eq!(next_event(&events).await, "carol online>offline");
}

/// Her other tab stays; and of one who was not seen nobody is told that he leaves.
#[tokio::test]
async fn when_redis_forgets_a_tab_that_was_closed_takes_nobody_along() {
    let redis = Redis::own().await;
    let proxy = Proxy::start(&redis.address()).await;
    let (presence, events) = telling(&format!("redis://{}/", proxy.address()), SHORT, AT_ONCE);
    let closes = here(&presence, "alice").await;
    assert_eq!(next_event(&events).await, "alice offline>online");
    here(&presence, "alice").await;
    let leaves = here(&presence, "leaves").await;
    assert_eq!(next_event(&events).await, "leaves offline>online");
    let hidden = Arc::new(new_session("hidden", &[]).with_status(Status::Invisible));
    presence.join(Arc::clone(&hidden));
    until_sessions(&presence, "hidden", 1).await;
    redis.kill();
    eventually(DEADLINE, "it is noticed", async || {
        presence.health().is_err()
    })
    .await;
    // The last one's end comes last.
    for session in [&closes, &hidden, &leaves] {
        presence.leave(session);
    }
    // The node fails once more, and begins anew: nothing says first that they left.
    let tries = proxy.accepted();
    eventually(DEADLINE, "two more tries", async || {
        proxy.accepted() > tries + 1
    })
    .await;
    redis.start().await;
    assert_eq!(next_event(&events).await, "leaves online>offline");
    until_sessions(&presence, "alice", 1).await;
    here(&presence, "fence").await;
    assert_eq!(next_event(&events).await, "fence offline>online");
}

#[tokio::test]
async fn when_redis_forgets_a_node_waits_until_others_have_registered() {
    let redis = Redis::own().await;
    let proxy = Proxy::start(&redis.address()).await;
    // A lease in which the other node surely comes.
    let (one, first) = telling(&redis.url(), 3 * SHORT, AT_ONCE);
    let (two, second) = telling(&format!("redis://{}/", proxy.address()), SHORT, AT_ONCE);
    let closes = here(&one, "alice").await;
    assert_eq!(next_event(&first).await, "alice offline>online");
    let leaves = here(&one, "leaves").await;
    assert_eq!(next_event(&first).await, "leaves offline>online");
    here(&two, "alice").await;
    redis.kill();
    proxy.refuse();
    for presence in [&one, &two] {
        eventually(DEADLINE, "it is noticed", async || {
            presence.health().is_err()
        })
        .await;
    }
    one.leave(&closes);
    one.leave(&leaves);
    redis.start().await;
    here(&one, "comes").await;
    assert_eq!(next_event(&first).await, "comes offline>online");
    proxy.forward();
    until_sessions(&one, "alice", 1).await;
    assert_eq!(next_event(&first).await, "leaves online>offline");
    here(&two, "fence").await;
    assert_eq!(next_event(&second).await, "fence offline>online");
}

#[tokio::test]
async fn an_error_of_redis_ends_no_debounce() {
    let redis = Redis::own().await;
    let proxy = Proxy::start(&redis.address()).await;
    let (stays, told) = telling(&redis.url(), SHORT, LONG);
    let (presence, events) = telling(&format!("redis://{}/", proxy.address()), SHORT, LONG);
    let alice = here(&presence, "alice").await;
    assert_eq!(next_event(&events).await, "alice offline>online");
    presence.leave(&alice);
    until_sessions(&stays, "alice", 0).await;
    proxy.cut();
    // The node has another lease, and others know that it ended the former one itself.
    eventually(DEADLINE, "the former lease is closed", async || {
        let leases = redis.command(&["HVALS", "stentor:nodes"]).await;
        leases.contains("closed")
    })
    .await;
    // Whoever clears up after this one sees the former lease, too.
    let (killed, _) = telling(&redis.url(), SHORT, LONG);
    here(&killed, "carol").await;
    drop(killed);
    let gone = tokio::select! {
        event = next_event(&told) => event,
        event = next_event(&events) => event,
    };
    assert_eq!(gone, "carol online>offline");
    here(&presence, "alice").await;
    for (presence, events) in [(&stays, &told), (&presence, &events)] {
        let user = unique("fence");
        here(presence, &user).await;
        assert_eq!(next_event(events).await, format!("{user} offline>online"));
    }
}

/// Each attempt to reach it takes another lease.
#[tokio::test]
async fn many_errors_of_redis_end_no_debounce() {
    let redis = Redis::own().await;
    // Behind a proxy that goes on accepting connections, so that attempts can be counted.
    let server = Proxy::start(&redis.address()).await;
    let proxy = Proxy::start(&server.address()).await;
    let (presence, events) = telling(&format!("redis://{}/", proxy.address()), LONG, LONG);
    let alice = here(&presence, "alice").await;
    assert_eq!(next_event(&events).await, "alice offline>online");
    presence.leave(&alice);
    let mark = ["HEXISTS", "stentor:user:alice", "left"];
    until_reply(&redis, &mark, ":1").await;
    server.refuse();
    let before = proxy.accepted();
    // What is to be written has it noticed.
    presence.join(session("bob", &[]));
    eventually(DEADLINE, "six attempts", async || {
        proxy.accepted() >= before + 6
    })
    .await;
    server.forward();
    // The lease under which her departure waits.
    let lease = "local left = redis.call('HGET', KEYS[1], 'left') \
                 return redis.call('HGET', KEYS[2], string.sub(left, 1, 8))";
    let how = ["EVAL", lease, "2", "stentor:user:alice", "stentor:nodes"];
    until_reply(&redis, &how, "$6\r\nclosed").await;
}

/// A node that stood still for longer than its lease goes on writing before it notices.
#[tokio::test]
async fn what_is_written_under_a_lease_that_was_cleared_up_goes() {
    let redis = Redis::own().await;
    let (presence, events) = telling(&redis.url(), SHORT, AT_ONCE);
    here(&presence, "alice").await;
    assert_eq!(next_event(&events).await, "alice offline>online");
    let clear = "for _, lease in ipairs(redis.call('HKEYS', KEYS[1])) do \
                 if lease ~= 'epoch' then \
                 redis.call('HDEL', KEYS[1], lease); redis.call('DEL', 'stentor:node:' .. lease); \
                 redis.call('HSET', 'stentor:sessions:' .. lease .. ':1', 'late', 'x'); \
                 return 'stentor:sessions:' .. lease .. ':1' end end";
    let reply = redis.command(&["EVAL", clear, "1", "stentor:nodes"]).await;
    let late = reply.lines().next_back().unwrap();
    until_reply(&redis, &["EXISTS", late], ":0").await;
    until_sessions(&presence, "alice", 1).await;
}

/// Others find a node by the list of nodes alone.
#[tokio::test]
async fn a_lease_that_the_list_of_nodes_lost_is_listed_again() {
    let redis = Redis::own().await;
    let presence = node(&redis, SHORT);
    here(&presence, "alice").await;
    let forget = "for _, lease in ipairs(redis.call('HKEYS', KEYS[1])) do \
                  if lease ~= 'epoch' then redis.call('HDEL', KEYS[1], lease) end end";
    redis.command(&["EVAL", forget, "1", "stentor:nodes"]).await;
    until_reply(&redis, &["HLEN", "stentor:nodes"], ":2").await;
    until_sessions(&presence, "alice", 1).await;
    assert_eq!(presence.health(), Ok(()));
}

/// Lua takes no more than 8,000 arguments.
#[tokio::test]
async fn any_number_of_leases_may_be_listed() {
    let redis = Redis::own().await;
    let many = "for i = 1, 9000 do redis.call('HSET', KEYS[1], string.format('%08d', i), '') end";
    redis.command(&["EVAL", many, "1", "stentor:nodes"]).await;
    let (presence, events) = telling(&redis.url(), LONG, AT_ONCE);
    let alice = session("alice", &[]);
    presence.join(Arc::clone(&alice));
    assert_eq!(next_event(&events).await, "alice offline>online");
    presence.leave(&alice);
    assert_eq!(next_event(&events).await, "alice online>offline");
    assert_eq!(presence.health(), Ok(()));
}

/// The lease of before is kept until all are registered, though it would end by itself.
#[tokio::test]
async fn a_node_that_registers_for_longer_than_a_lease_loses_nobody() {
    const MANY: usize = 6_000;
    let lease = 3 * SHORT;
    let redis = Redis::own().await;
    let proxy = Proxy::start(&redis.address()).await;
    let (stays, told) = telling(&redis.url(), lease, AT_ONCE);
    let url = format!("redis://{}/", proxy.address());
    let (registers, events) = telling(&url, lease, AT_ONCE);
    for number in 0..MANY {
        registers.join(session(&format!("user-{number}"), &[]));
    }
    let mut joined = 0;
    while joined < MANY {
        joined += within(DEADLINE, "joins", events.next(MANY)).await.len();
    }

    // Some 170 sessions are registered in a round trip.
    proxy.lag_after(b"EVALSHA", Duration::from_millis(300));
    proxy.cut();
    let since = Instant::now();
    eventually(2 * DEADLINE, "all are registered anew", async || {
        let leases = redis.command(&["HVALS", "stentor:nodes"]).await;
        leases.contains("closed")
    })
    .await;
    assert!(since.elapsed() > lease, "it shows nothing");
    proxy.forward();
    for (presence, events) in [(&stays, &told), (&registers, &events)] {
        let user = unique("fence");
        here(presence, &user).await;
        assert_eq!(next_event(events).await, format!("{user} offline>online"));
    }
}

#[tokio::test]
async fn all_nodes_list_and_count_all() {
    let redis = Redis::own().await;
    let nodes = [(); 3].map(|()| node(&redis, SHORT));
    for (number, presence) in nodes.iter().enumerate() {
        for user in 0..=number {
            here(presence, &format!("user-{user}")).await;
        }
    }
    for presence in &nodes {
        // Others' sessions are known from their next renewal on.
        eventually(DEADLINE, "6 sessions of 3 users", async || {
            let counts = presence.counts().await.unwrap();
            (counts.sessions, counts.users) == (6, 3)
        })
        .await;
        let found = presence.nodes().await.unwrap();
        let mut sessions: Vec<_> = found.iter().map(|node| node.sessions).collect();
        sessions.sort_unstable();
        assert_eq!(sessions, [1, 2, 3]);
        assert!(found.is_sorted_by(|a, b| a.name < b.name));

        let mut listing = Listing {
            user: None,
            node: None,
            after: None,
            limit: 4,
        };
        let first = presence.sessions(&listing).await.unwrap();
        listing.after = first.next;
        let second = presence.sessions(&listing).await.unwrap();
        assert_eq!((first.sessions.len(), second.sessions.len()), (4, 2));
        assert_eq!(second.next, None);
        for node in found {
            let of_node = Listing {
                user: None,
                node: Some(node.name.clone()),
                after: None,
                limit: 10,
            };
            let page = presence.sessions(&of_node).await.unwrap();
            assert_eq!(page.sessions.len() as u64, node.sessions);
            assert!(
                page.sessions
                    .iter()
                    .all(|session| session.node == node.name)
            );
        }
    }
}

/// A cursor outlives a lease: the page behind it begins with the session after the last one.
#[tokio::test]
async fn pages_go_on_though_nodes_take_new_leases() {
    let redis = Redis::own().await;
    let named = |name: &str| redis_presence(&redis.url(), NOTICING, settings(name, LONG, None));
    let nodes = [named("one.0001"), named("two.0002")];
    let mut expected = Vec::new();
    for presence in &nodes {
        for _ in 0..2 {
            expected.push(here(presence, &unique("user")).await.id.clone());
        }
    }
    expected.sort();
    let presence = &nodes[0];
    let page = async |after, limit| {
        let listing = Listing {
            user: None,
            node: None,
            after,
            limit,
        };
        presence.sessions(&listing).await
    };
    let ids = |page: &Page| -> Vec<Box<str>> {
        let sessions = page.sessions.iter();
        sessions.map(|session| session.id.clone()).collect()
    };
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let next = page(after, 1).await.unwrap();
        found.extend(ids(&next));
        after = next.next;
        if after.is_none() {
            break;
        }
        redis.kill();
        redis.start().await;
        eventually(DEADLINE, "all are registered anew", async || {
            let mut all = ids(&page(None, 10).await.ok()?);
            all.sort();
            (all == expected).then_some(())
        })
        .await;
    }
    found.sort();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn a_flood_of_statuses_is_few_writes() {
    let redis = Redis::own().await;
    let (presence, events) = telling(&redis.url(), LONG, AT_ONCE);
    let joined = here(&presence, "alice").await;
    assert_eq!(next_event(&events).await, "alice offline>online");
    let before = reads(&redis).await;
    for _ in 0..1_000 {
        for status in [Status::Away, Status::Busy] {
            presence.set_status(&joined, status);
            // The keeper has its turn in between.
            tokio::task::yield_now().await;
        }
    }
    let flooded = reads(&redis).await - before;
    assert!(flooded < 20, "{flooded}");
    until_status(&presence, "alice", Status::Busy).await;
}

#[tokio::test]
async fn a_slow_redis_is_waited_for_and_a_silent_one_is_given_up() {
    let redis = Redis::own().await;
    let proxy = Proxy::start(&redis.address()).await;
    let (presence, events) = telling(&format!("redis://{}/", proxy.address()), SHORT, AT_ONCE);
    here(&presence, "alice").await;
    assert_eq!(next_event(&events).await, "alice offline>online");

    proxy.fragment(64, Duration::from_millis(1));
    let bob = here(&presence, "bob").await;
    assert_eq!(next_event(&events).await, "bob offline>online");
    proxy.forward();

    proxy.freeze();
    let asked = within(DEADLINE, "an answer", presence.user("alice")).await;
    assert!(
        matches!(asked, Err(PresenceError::Unavailable(_))),
        "{asked:?}"
    );
    presence.leave(&bob);
    eventually(DEADLINE, "it is noticed", async || {
        presence.health().is_err()
    })
    .await;
    proxy.cut();
    proxy.forward();
    assert_eq!(next_event(&events).await, "bob online>offline");
    until_sessions(&presence, "alice", 1).await;
}

#[tokio::test]
async fn what_a_stalled_redis_did_is_told_though_its_answers_are_lost() {
    let redis = Redis::own().await;
    let (presence, events) = telling(&redis.url(), LONG, AT_ONCE);
    let mut sessions = Vec::new();
    for user in ["leaves", "changes", "hides", "stays", "hides and leaves"] {
        sessions.push(here(&presence, user).await);
        assert_eq!(next_event(&events).await, format!("{user} offline>online"));
    }
    // It reads what was sent when it goes on, and then nobody waits for the answers any more.
    redis.signal("STOP");
    presence.join(session("comes", &[]));
    presence.join(Arc::new(
        new_session("unseen", &[]).with_status(Status::Invisible),
    ));
    presence.leave(&sessions[0]);
    presence.set_status(&sessions[1], Status::Away);
    presence.set_status(&sessions[2], Status::Invisible);
    presence.set_status(&sessions[4], Status::Invisible);
    eventually(DEADLINE, "it is given up", async || {
        presence.health().is_err()
    })
    .await;
    redis.signal("CONT");
    presence.leave(&sessions[4]);
    let mut told = Vec::new();
    for _ in 0..5 {
        told.push(next_event(&events).await);
    }
    told.sort_unstable();
    let expected = [
        "changes online>away",
        "comes offline>online",
        "hides and leaves online>offline",
        "hides online>offline",
        "leaves online>offline",
    ];
    assert_eq!(told, expected);
    // Nothing is told of who only stayed, or is not seen.
    here(&presence, "fence").await;
    assert_eq!(next_event(&events).await, "fence offline>online");
}

#[tokio::test]
async fn a_live_node_stays_for_longer_than_its_lease() {
    let redis = Redis::shared().await;
    let (presence, killed) = (node(&redis, SHORT), node(&redis, 2 * SHORT));
    let [stays, goes] = ["stays", "goes"].map(unique);
    presence.join(session(&stays, &[]));
    killed.join(session(&goes, &[]));
    until_sessions(&presence, &stays, 1).await;
    until_sessions(&presence, &goes, 1).await;
    drop(killed);
    until_sessions(&presence, &goes, 0).await;
    assert_eq!(presence.user(&stays).await.unwrap().sessions.len(), 1);
    assert_eq!(presence.health(), Ok(()));
}

#[tokio::test]
async fn a_redis_that_lost_everything_is_told_again() {
    let redis = Redis::own().await;
    let presence = node(&redis, NOTICING);
    let (stays, leaves) = (session("stays", &["group"]), session("leaves", &["group"]));
    presence.join(stays);
    presence.join(Arc::clone(&leaves));
    until_group(&presence, "group", &["leaves", "stays"]).await;

    redis.kill();
    eventually(DEADLINE, "it is noticed", async || {
        presence.health().is_err()
    })
    .await;
    let unavailable = presence.user("stays").await;
    assert!(
        matches!(unavailable, Err(PresenceError::Unavailable(_))),
        "{unavailable:?}"
    );
    presence.leave(&leaves);
    presence.join(session("comes", &["group"]));
    redis.start().await;

    until_group(&presence, "group", &["comes", "stays"]).await;
    until_sessions(&presence, "stays", 1).await;
    assert_eq!(presence.health(), Ok(()));
}

#[tokio::test]
async fn a_lease_that_was_lost_is_taken_anew() {
    let redis = Redis::own().await;
    let presence = node(&redis, SHORT);
    for user in ["alice", "bob"] {
        presence.join(session(user, &["group"]));
    }
    until_group(&presence, "group", &["alice", "bob"]).await;
    redis.command(&["FLUSHALL"]).await;
    until_group(&presence, "group", &["alice", "bob"]).await;
    // Nothing of the former lease is left.
    until_reply(&redis, &["HLEN", "stentor:group:group"], ":2").await;
}

#[tokio::test]
async fn redis_may_come_later() {
    let redis = Redis::own().await;
    redis.kill();
    let presence = node(&redis, LONG);
    presence.join(session("alice", &["group"]));
    assert!(presence.health().is_err());
    let asked = within(DEADLINE, "an answer", presence.group("group")).await;
    assert!(
        matches!(asked, Err(PresenceError::Unavailable(_))),
        "{asked:?}"
    );
    redis.start().await;
    until_group(&presence, "group", &["alice"]).await;
}

#[tokio::test]
async fn closing_ends_also_without_redis_and_ends_the_lease_with_it() {
    let redis = Redis::own().await;
    let (presence, other) = (node(&redis, LONG), node(&redis, LONG));
    presence.join(session("alice", &["group"]));
    until_group(&other, "group", &["alice"]).await;
    within(DEADLINE, "closed", presence.close()).await;
    within(DEADLINE, "closed", other.close()).await;
    let leases = ["EVAL", "return #redis.call('keys', 'stentor:node:*')", "0"];
    assert_eq!(redis.command(&leases).await, ":0");

    let presence = node(&redis, LONG);
    presence.join(session("alice", &["group"]));
    redis.kill();
    within(DEADLINE, "closed", presence.close()).await;
}

#[tokio::test]
async fn no_password_is_shown() {
    let redis = Redis::shared().await;
    let url = format!("redis://:s3cret@{}/", redis.address());
    let presence = redis_presence(&url, LONG, settings("n", LONG, None));
    // This Redis wants no password, and says so.
    let problem = eventually(DEADLINE, "Redis refuses", async || {
        let problem = presence.health().err()?.to_string();
        problem.to_lowercase().contains("auth").then_some(problem)
    })
    .await;
    let shown = format!("{problem} {presence:?}");
    assert!(!shown.contains("s3cret"), "{shown}");
}

/// `total_reads_processed`: how often Redis read from a connection.
async fn reads(redis: &Redis) -> u64 {
    let stats = redis.command(&["INFO", "stats"]).await;
    let line = stats
        .lines()
        .find_map(|line| line.strip_prefix("total_reads_processed:"));
    line.unwrap().trim().parse().unwrap()
}

#[tokio::test]
async fn a_login_is_one_round_trip_and_few_bytes() {
    let redis = Redis::own().await;
    let presence = node(&redis, LONG);
    presence.join(session("first", &[]));
    until_sessions(&presence, "first", 1).await;

    // One login after the other. Each look at Redis is read too, as is its end.
    let (mut looks, before) = (1, reads(&redis).await);
    for number in 0..20 {
        let user = format!("user-{number:05}");
        let groups = ["project-1", "project-2"];
        presence.join(session(&user, &groups));
        let key = format!("stentor:user:{user}");
        eventually(DEADLINE, "it is registered", async || {
            looks += 1;
            redis.command(&["EXISTS", &key]).await == ":1"
        })
        .await;
    }
    // The last look's end may not have been read yet.
    let round_trips = reads(&redis).await - before - 2 * looks;
    assert!((19..=21).contains(&round_trips), "{round_trips}");

    let memory = async |key: &str| number(&redis.command(&["MEMORY", "USAGE", key]).await);
    let user = memory("stentor:user:user-00007").await;
    assert!(user <= 160, "{user} bytes for a user");
    let group = memory("stentor:group:project-1").await;
    println!("{user} bytes for a user, {group} for a group of 20 users");
    assert!(group <= 1_000, "{group} bytes for a group of 20");
}

/// Redis looks at what others a user has only if they may change what is told of it; otherwise the
/// logins of a user that ten thousand share would cost a hundred million looks.
#[tokio::test]
async fn one_more_session_of_a_user_of_many_costs_what_the_first_did() {
    const MANY: usize = 500;
    let redis = Redis::own().await;
    let (presence, events) = telling(&redis.url(), LONG, AT_ONCE);
    let first = here(&presence, "alice").await;
    assert_eq!(next_event(&events).await, "alice offline>online");
    redis.command(&["CONFIG", "RESETSTAT"]).await;
    let others: Vec<_> = (0..MANY).map(|_| session("alice", &["group"])).collect();
    let until_fields = async |fields: usize| {
        let reply = format!(":{fields}");
        until_reply(&redis, &["HLEN", "stentor:user:alice"], &reply).await;
    };
    for other in &others {
        presence.join(Arc::clone(other));
    }
    // And what was told, and the status at the node.
    until_fields(MANY + 3).await;
    for other in &others {
        presence.leave(other);
    }
    until_fields(3).await;
    // Ends that are due come before all else.
    presence.join(session("bob", &[]));
    assert_eq!(next_event(&events).await, "bob offline>online");
    let scans = calls(&redis, "hgetall").await;
    assert!(scans < 10, "{scans}");

    presence.set_status(&first, Status::Busy);
    assert_eq!(next_event(&events).await, "alice online>busy");
    presence.leave(&first);
    assert_eq!(next_event(&events).await, "alice busy>offline");
}

/// Redis would stand still for one call that reads all.
#[tokio::test]
async fn a_large_group_is_read_in_parts() {
    const MANY: usize = 20_000;
    let redis = Redis::own().await;
    let presence = node(&redis, LONG);
    here(&presence, "alice").await;
    let write = "for _, lease in ipairs(redis.call('HKEYS', 'stentor:nodes')) do \
                 for i = 1, tonumber(ARGV[1]) do \
                 redis.call('HSET', 'stentor:group:group', lease .. 'user-' .. i, '\\2') \
                 end end";
    let many = MANY.to_string();
    redis.command(&["EVAL", write, "0", &many]).await;
    redis.command(&["CONFIG", "RESETSTAT"]).await;
    let members = presence.group("group").await.unwrap();
    assert_eq!(members.len(), MANY + 1);
    assert!(members.is_sorted_by(|a, b| a.user < b.user));
    assert!(members.iter().all(|member| member.status == Status::Online));
    let (parts, whole) = (calls(&redis, "hscan").await, calls(&redis, "hgetall").await);
    assert!(parts >= 10 && whole == 0, "{parts} parts, {whole} whole");
}

/// How often Redis ran a command since its figures were reset.
async fn calls(redis: &Redis, command: &str) -> u64 {
    let stats = redis.command(&["INFO", "commandstats"]).await;
    let start = format!("cmdstat_{command}:calls=");
    let calls = stats
        .lines()
        .find_map(|line| line.strip_prefix(&*start))
        .map(|rest| rest.split(',').next().unwrap());
    calls.map_or(0, |calls| calls.parse().unwrap())
}
