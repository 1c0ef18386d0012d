//! What presence costs Redis: logins a second, memory, and the time of the calls that read.
//!
//! Sessions join one node's presence, one user each, in two groups; all that they cause is told
//! to a private Redis. It runs on the same cores.
//!
//! `cargo bench --bench presence`; `SESSIONS` and `GROUP` (users of each group) in the environment
//! change the sizes.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark that fails is to say so"
)]

use std::{
    env,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use stentor::presence::{
    Device, Listing, Node, Outbox, Presence, PresenceEntry, RedisConfig, Url, redis::RedisPresence,
};
use testkit::Redis;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let sessions = setting("SESSIONS", 100_000);
    let group = setting("GROUP", 50);
    for (what, groups, device) in [
        ("bare", 0, false),
        ("2 groups", 2, false),
        ("2 groups, device", 2, true),
    ] {
        // A runtime each, so that no run inherits threads or memory of the one before.
        let runtime = tokio::runtime::Runtime::new().unwrap();
        println!("{sessions} sessions, {what}");
        runtime.block_on(run(sessions, groups, group, device));
    }
}

fn setting(name: &str, default: usize) -> usize {
    env::var(name).map_or(default, |value| value.parse().unwrap())
}

async fn run(count: usize, groups: usize, per_group: usize, device: bool) {
    let redis = Redis::own().await;
    let url: Url = redis.url().parse().unwrap();
    let Url::Redis(url) = url else { return };
    let events = Outbox::new();
    let node = Node {
        name: "bench".into(),
        since: SystemTime::now(),
        debounce: Duration::ZERO,
        events: Some(Arc::clone(&events)),
        rooms: None,
    };
    // Nobody takes them: of each user one waits, as if RabbitMQ were away.
    let presence =
        RedisPresence::new(&url, &RedisConfig::default(), Duration::from_secs(15), node).unwrap();
    while presence.health().is_err() {
        tokio::task::yield_now().await;
    }
    let sessions: Vec<_> = (0..count)
        .map(|number| session(number, groups, per_group, device))
        .collect();
    let memory = used(&redis).await;

    let begun = Instant::now();
    for some in sessions.chunks(10_000) {
        for session in some {
            presence.join(Arc::clone(session));
        }
        until_told(&presence, some).await;
    }
    rate("logins", count, begun.elapsed());
    let bytes = used(&redis).await.saturating_sub(memory);
    println!("  {} bytes of Redis a user", bytes / count);

    let names: Vec<&str> = sessions.iter().map(|session| &*session.user).collect();
    let begun = Instant::now();
    for some in names.chunks(1_000) {
        presence.users(some).await.unwrap();
    }
    rate("users asked for, 1,000 a call", count, begun.elapsed());
    let calls = 1_000;
    let begun = Instant::now();
    for name in names.iter().take(calls) {
        presence.user(name).await.unwrap();
    }
    rate("users asked for, one a call", calls, begun.elapsed());
    if groups > 0 {
        let begun = Instant::now();
        for number in 0..calls {
            presence.group(&group_name(0, number)).await.unwrap();
        }
        rate("groups asked for", calls, begun.elapsed());
    }
    let begun = Instant::now();
    let mut listing = Listing {
        user: None,
        node: None,
        after: None,
        limit: 1_000,
    };
    loop {
        let page = presence.sessions(&listing).await.unwrap();
        listing.after = page.next;
        if listing.after.is_none() {
            break;
        }
    }
    rate("sessions listed, 1,000 a page", count, begun.elapsed());

    let begun = Instant::now();
    for some in sessions.chunks(10_000) {
        for session in some {
            presence.leave(session);
        }
        let last = some.last().unwrap();
        while !presence.user(&last.user).await.unwrap().sessions.is_empty() {}
    }
    while presence.counts().await.unwrap().users > 0 {}
    rate("logouts", count, begun.elapsed());
    println!(
        "  {} bytes of Redis left in all",
        used(&redis).await.saturating_sub(memory)
    );
}

fn session(number: usize, groups: usize, per_group: usize, device: bool) -> Arc<PresenceEntry> {
    let groups = (0..groups).map(|kind| group_name(kind, number / per_group).into());
    let id = format!("{:022x}", rand::random::<u64>());
    let user = format!("user-{number:06}");
    let mut session = PresenceEntry::new(user.into(), &id, "websocket", groups.collect());
    session.remote = Some("192.0.2.1:50000".parse().unwrap());
    session.device = device.then(|| {
        Box::new(Device {
            kind: Some("phone".into()),
            id: Some(format!("{:032x}", rand::random::<u128>()).into()),
        })
    });
    Arc::new(session)
}

fn group_name(kind: usize, number: usize) -> String {
    format!("project-{kind}-{number:05}")
}

async fn until_told(presence: &RedisPresence, sessions: &[Arc<PresenceEntry>]) {
    let last = sessions.last().unwrap();
    while presence.session(&last.id).await.unwrap().is_none() {}
}

fn rate(what: &str, count: usize, took: Duration) {
    let each = took / u32::try_from(count).unwrap();
    let a_second = 1.0 / each.as_secs_f64();
    println!("  {what}: {a_second:.0} a second, {each:?} each");
}

/// Bytes that Redis has allocated.
async fn used(redis: &Redis) -> usize {
    let info = redis.command(&["INFO", "memory"]).await;
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("used_memory:"));
    line.unwrap().trim().parse().unwrap()
}
