//! One user that very many clients log in as, such as `guest`: no step looks at all sessions.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use stentor::presence::{Outbox, Presence, Status};
use testkit::{DEADLINE, Redis, eventually};

use crate::presence_contract::{AT_ONCE, next_event, redis_presence, session, settings};

/// Nothing should keep Redis from others for longer.
const LONGEST: Duration = Duration::from_millis(10);

#[tokio::test]
async fn twenty_thousand_sessions_of_one_user_keep_nobody_waiting() {
    measure(20_000).await;
}

/// The figures of docs/reliability.md: `cargo test --release --test it -- --ignored hundred_thousand`.
#[tokio::test]
#[ignore = "half a minute; it prints figures"]
async fn a_hundred_thousand_sessions_of_one_user_keep_nobody_waiting() {
    measure(100_000).await;
}

async fn measure(count: usize) {
    let redis = Redis::own().await;
    let words = [
        "CONFIG",
        "SET",
        "latency-tracking-info-percentiles",
        "50 99 100",
    ];
    redis.command(&words).await;
    let micros = LONGEST.as_micros().to_string();
    redis
        .command(&["CONFIG", "SET", "slowlog-log-slower-than", &micros])
        .await;
    let events = Outbox::new();
    let node = settings("n", AT_ONCE, Some(Arc::clone(&events)));
    let presence = redis_presence(&redis.url(), Duration::from_secs(15), node);
    let sessions: Vec<_> = (0..count)
        .map(|_| session("guest", &["visitors"]))
        .collect();
    let memory = used(&redis).await;

    // One after the other: the last ones cost what the first ones did.
    let tenth = count / 10;
    let mut times = Vec::new();
    for some in sessions.chunks(tenth) {
        let begun = Instant::now();
        for session in some {
            presence.join(Arc::clone(session));
        }
        let joined = begun.elapsed();
        let all = sessions.len().min(tenth * (times.len() + 1));
        until_written(&redis, all).await;
        times.push((joined, begun.elapsed()));
    }
    assert_eq!(next_event(&events).await, "guest offline>online");
    let per = |time: Duration| time.as_nanos() / tenth as u128;
    let [(first, first_told), .., (last, last_told)] = &*times else {
        panic!("ten tenths")
    };
    let bytes = used(&redis).await.saturating_sub(memory) / count;
    println!(
        "{count} sessions of one user: join takes {} ns at first, {} ns in the end; until Redis \
         has it {} and {} ns; {bytes} bytes of Redis a session",
        per(*first),
        per(*last),
        per(*first_told),
        per(*last_told)
    );
    let floor = Duration::from_micros(2) * u32::try_from(tenth).unwrap();
    assert!(*last < (*first * 5).max(floor), "{first:?} {last:?}");

    // Statuses, departures, questions.
    let begun = Instant::now();
    for session in sessions.iter().take(10) {
        presence.set_status(session, Status::Busy);
        assert_eq!(next_event(&events).await, "guest online>busy");
        presence.leave(session);
        assert_eq!(next_event(&events).await, "guest busy>online");
    }
    println!(
        "a status and a departure that others see: {:?} for ten",
        begun.elapsed()
    );
    let rest = count - 10;
    until_written(&redis, rest).await;
    let begun = Instant::now();
    let found = presence.user("guest").await.unwrap();
    assert_eq!((found.status, found.count), (Status::Online, rest as u64));
    println!("the user, with some sessions: {:?}", begun.elapsed());
    let claims = session("guest", &[]);
    presence.claim(Arc::clone(&claims)).await.unwrap_err();
    presence.leave(&claims);

    // Redis forgets all, and is told again.
    redis.command(&["FLUSHALL"]).await;
    let begun = Instant::now();
    until_written(&redis, rest).await;
    let counts = presence.count_sessions("guest").await;
    assert_eq!(counts, Ok(rest as u64));
    println!(
        "registered anew, with the wait until it is noticed: {:?}",
        begun.elapsed()
    );

    let begun = Instant::now();
    for session in sessions.iter().skip(10) {
        presence.leave(session);
    }
    assert_eq!(next_event(&events).await, "guest online>offline");
    println!("all leave: {:?}", begun.elapsed());

    println!(
        "microseconds of each kind of call: {}",
        latencies(&redis).await
    );
    // A busy machine stops any call for a while; so what is counted is what could take long.
    let stats = redis.command(&["INFO", "commandstats"]).await;
    let scans = stats
        .lines()
        .find_map(|line| line.strip_prefix("cmdstat_hgetall:calls="))
        .map_or(0, |rest| rest.split(',').next().unwrap().parse().unwrap());
    // On a slow machine the lease of before the outage is cleared up meanwhile, list by list.
    assert!(scans < 1_000, "{scans} looks at whole hashes");
    let slow = redis.command(&["SLOWLOG", "LEN"]).await;
    println!("{slow} calls took longer than {LONGEST:?}");
}

/// Waits until Redis has so many sessions: with what was told, and the status at the node.
async fn until_written(redis: &Redis, sessions: usize) {
    let reply = format!(":{}", sessions + 2);
    eventually(2 * DEADLINE, format!("{sessions} sessions"), async || {
        redis.command(&["HLEN", "stentor:user:guest"]).await == reply
    })
    .await;
}

async fn used(redis: &Redis) -> usize {
    let info = redis.command(&["INFO", "memory"]).await;
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("used_memory:"));
    line.unwrap().trim().parse().unwrap()
}

/// Half of all, 99 of 100, and the longest.
async fn latencies(redis: &Redis) -> String {
    let stats = redis.command(&["INFO", "latencystats"]).await;
    let lines = stats.lines();
    let lines = lines.filter_map(|line| line.strip_prefix("latency_percentiles_usec_"));
    lines.collect::<Vec<_>>().join("; ")
}
