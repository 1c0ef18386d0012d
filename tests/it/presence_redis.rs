//! Presence in Redis, where nodes are killed and Redis goes away.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use stentor::presence::{Presence, PresenceError, redis::RedisPresence};
use testkit::{DEADLINE, Redis, eventually, unique, within};

use crate::presence_contract::{redis_presence, session, until_group, until_sessions};

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_secs(2);

fn node(redis: &Redis, lease: Duration) -> RedisPresence {
    redis_presence(&redis.url(), lease, &unique("node"))
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

    // What was read is removed.
    let alices = format!("stentor:user:{alice}");
    until_reply(&redis, &["EXISTS", &alices], ":0").await;
    let groups = format!("stentor:group:{group}");
    until_reply(&redis, &["HLEN", &groups], ":1").await;
}

#[tokio::test]
async fn who_joins_removes_what_dead_nodes_left() {
    let redis = Redis::own().await;
    let (killed, stays) = (node(&redis, SHORT), node(&redis, LONG));
    for user in ["alice", "bob"] {
        killed.join(session(user, &["group"]));
        until_sessions(&stays, user, 1).await;
    }
    drop(killed);
    let leases = ["EVAL", "return #redis.call('keys', 'stentor:node:*')", "0"];
    until_reply(&redis, &leases, ":1").await;
    assert_eq!(redis.command(&["HLEN", "stentor:group:group"]).await, ":2");

    stays.join(session("alice", &["group"]));

    until_reply(&redis, &["HLEN", "stentor:user:alice"], ":1").await;
    until_reply(&redis, &["HLEN", "stentor:group:group"], ":1").await;
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
    assert_eq!(presence.user(&stays).await.unwrap().len(), 1);
    assert_eq!(presence.health(), Ok(()));
}

#[tokio::test]
async fn a_redis_that_lost_everything_is_told_again() {
    let redis = Redis::own().await;
    let presence = node(&redis, LONG);
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
async fn closing_ends_also_without_redis_and_clears_up_with_it() {
    let redis = Redis::own().await;
    let (presence, other) = (node(&redis, LONG), node(&redis, LONG));
    presence.join(session("alice", &["group"]));
    until_group(&other, "group", &["alice"]).await;
    within(DEADLINE, "closed", presence.close()).await;
    within(DEADLINE, "closed", other.close()).await;
    assert_eq!(redis.command(&["DBSIZE"]).await, ":0");

    let presence = node(&redis, LONG);
    presence.join(session("alice", &["group"]));
    redis.kill();
    within(DEADLINE, "closed", presence.close()).await;
}

#[tokio::test]
async fn no_password_is_shown() {
    let redis = Redis::shared().await;
    let url = format!("redis://:s3cret@{}/", redis.address());
    let presence = redis_presence(&url, LONG, "n");
    // This Redis wants none, and says so.
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
    assert!(user <= 200, "{user} bytes for a user");
    let group = memory("stentor:group:project-1").await;
    println!("{user} bytes for a user, {group} for a group of 20 users");
    assert!(group <= 1_000, "{group} bytes for a group of 20");
}
