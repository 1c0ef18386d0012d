//! The gateway above its traits, simulated from a seed, in virtual time: clients, backends, an
//! operator, a broker and a hook that fail, and networks that stall and cut.
//! `docs/internals/simulation.md` describes it.
//!
//! `STENTOR_SEED=7 cargo test --test sim seeds -- --exact --nocapture` replays a seed and prints all that
//! happens.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "all of it is a test"
)]

mod broker;
mod client;
mod entropy;
mod faults;
mod hook;
mod ledger;
mod operator;
mod told;
mod trace;
#[path = "../../src/connection/tests/wire.rs"]
#[expect(dead_code, reason = "the gateway's own tests need more of it")]
mod wire;
mod world;

use std::{
    env,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context as TaskContext, Poll},
    thread,
    time::Duration,
};

// What `wire` takes from its parent, as in the gateway.
use bytes::Bytes;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use stentor::{
    connection::{Link, LinkError, Outbound, Peer, serve},
    node::{ClientAddress, Services},
};
use stomp_grammar::{Command, Decoder};
use stomp_session::CloseCode;
use tokio::time::{Instant, timeout};

use self::world::{Outcome, Plan, World};

/// The surroundings of a client's connection.
struct House {
    services: Arc<Services>,
}

mod house {
    use super::{ClientAddress, IpAddr, Ipv4Addr, Peer, SocketAddr};

    pub(super) const PEER: Peer = Peer {
        address: ClientAddress {
            remote: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 4711),
            is_shared: true,
        },
        transport: "tcp",
        carried: None,
    };
}

/// Runs a seed, in a thread of its own.
fn run(plan: &Plan, is_traced: bool) -> Outcome {
    let plan = plan.clone();
    let seed = plan.seed;
    let thread = thread::Builder::new().name(format!("seed {seed}"));
    let running = thread.spawn(move || {
        entropy::replace(plan.seed);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(World::run(plan, is_traced))
    });
    running.unwrap().join().unwrap_or_else(|_| Outcome {
        violations: vec!["the simulation itself panicked".into()],
        ..Outcome::default()
    })
}

fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is a number")),
    )
}

/// Runs `count` seeds on all cores. Stops at the first that fails.
fn run_many(count: u64, plan: fn(u64) -> Plan, name: &str) {
    let first = number("STENTOR_FIRST").unwrap_or(1);
    let next = AtomicU64::new(first);
    let (operations, millis) = (AtomicU64::new(0), AtomicU64::new(0));
    let (sessions, banned) = (AtomicU64::new(0), AtomicU64::new(0));
    let failed = AtomicU64::new(u64::MAX);
    let began = std::time::Instant::now();
    let (done, minutes) = (AtomicU64::new(0), AtomicU64::new(0));
    let cores = thread::available_parallelism().map_or(1, |cores| cores.get());
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count || failed.load(Ordering::Relaxed) < seed {
                        return;
                    }
                    let outcome = run(&plan(seed), false);
                    operations.fetch_add(outcome.operations, Ordering::Relaxed);
                    millis.fetch_add(outcome.millis, Ordering::Relaxed);
                    sessions.fetch_add(outcome.sessions, Ordering::Relaxed);
                    banned.fetch_add(outcome.banned, Ordering::Relaxed);
                    if let Some(violation) = outcome.violations.first() {
                        println!("seed {seed}: {violation}");
                        failed.fetch_min(seed, Ordering::Relaxed);
                    }
                    let done = done.fetch_add(1, Ordering::Relaxed) + 1;
                    let minute = began.elapsed().as_secs() / 60;
                    if minutes.fetch_max(minute, Ordering::Relaxed) < minute {
                        println!("{done} seeds from {first} on, in {minute} min");
                    }
                }
            });
        }
    });
    let failed = failed.into_inner();
    assert!(
        failed == u64::MAX,
        "seed {failed} fails, number {}. See it alone:\n\
         STENTOR_SEED={failed} cargo test --test sim {name} -- --exact --nocapture",
        failed - first + 1
    );
    let (sessions, banned) = (sessions.into_inner(), banned.into_inner());
    println!(
        "{count} seeds from {first} on, {} operations, {sessions} sessions, {banned} of them banned, \
         {} simulated hours, in {:.1} s",
        operations.into_inner(),
        millis.into_inner() / 3_600_000,
        began.elapsed().as_secs_f64()
    );
    assert!(
        banned * 2 < sessions || count < 20,
        "seeds have something better to do than to be refused"
    );
}

/// All that happens in a seed.
fn show(plan: &Plan) {
    let outcome = run(plan, true);
    println!("{}", outcome.trace);
    assert!(outcome.violations.is_empty(), "{:#?}", outcome.violations);
}

/// Each has 20 clients and more, 1,000 operations and more, 3 faults and more, in 10 minutes and
/// more.
#[test]
fn seeds() {
    if let Some(seed) = number("STENTOR_SEED") {
        return show(&Plan::full(seed));
    }
    run_many(number("STENTOR_SEEDS").unwrap_or(200), Plan::full, "seeds");
}

/// A few clients, a few operations: many such in the same time.
#[test]
fn short_seeds() {
    if let Some(seed) = number("STENTOR_SEED") {
        return show(&Plan::short(seed));
    }
    run_many(
        number("STENTOR_SHORT").unwrap_or(1_000),
        Plan::short,
        "short_seeds",
    );
}

/// What happened in seeds from 1 on: short ones, and a full one at the end.
fn prints(count: u64) -> Vec<u64> {
    let short = (1..=count).map(|seed| run(&Plan::short(seed), true).print);
    let full = std::iter::once_with(|| run(&Plan::full(1), true).print);
    short.chain(full).collect()
}

/// Says what happened, for [`seeds_are_the_same_each_time`] of another process.
#[test]
fn seeds_say_what_happened() {
    let count = number("STENTOR_PRINTS").unwrap_or(1);
    // As on a machine with one core.
    let mut one = CpuSet::new();
    let here = sched_getaffinity(None).unwrap();
    let first = (0..CpuSet::MAX_CPU).find(|core| here.is_set(*core));
    one.set(first.unwrap());
    sched_setaffinity(None, &one).unwrap();
    println!("prints: {:?}", prints(count));
    sched_setaffinity(None, &here).unwrap();
}

/// Or no failure could be looked at: twice in this process, and once more in another one, whose
/// memory is elsewhere, and which has one core.
#[test]
fn seeds_are_the_same_each_time() {
    let count = number("STENTOR_TWICE").unwrap_or(40);
    let once = prints(count);
    let again = prints(count);
    let output = process::Command::new(env::current_exe().unwrap())
        .args(["--exact", "seeds_say_what_happened", "--nocapture"])
        .env("STENTOR_PRINTS", count.to_string())
        .output();
    let output = String::from_utf8(output.unwrap().stdout).unwrap();
    let elsewhere = output.split_once("prints: [").unwrap().1;
    let elsewhere = elsewhere.split_once(']').unwrap().0.split(", ");
    let elsewhere: Vec<u64> = elsewhere.map(|print| print.parse().unwrap()).collect();
    let differ = |other: &[u64]| {
        let pairs = once.iter().zip(other).zip(1_u64..);
        let differ = pairs.filter(|((print, other), _)| print != other);
        differ.map(|(_, seed)| seed).collect::<Vec<_>>()
    };
    let (here, there) = (differ(&again), differ(&elsewhere));
    println!("of {count} seeds differ here {here:?}, in another process {there:?}");
    assert_eq!(elsewhere.len(), once.len());
    assert!(here.is_empty() && there.is_empty(), "{here:?}, {there:?}");
}

/// What [`seeds_are_the_same_each_time`] rests on.
#[test]
fn randomness_comes_from_the_seed() {
    let draw = || {
        thread::spawn(|| {
            entropy::replace(7);
            let of_maps = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 1);
            (rand::random::<u64>(), of_maps)
        })
        .join()
        .unwrap()
    };
    assert_eq!(draw(), draw());
}
