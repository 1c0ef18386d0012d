//! What a push goes through between the broker and a connection: the routing table, with few and
//! with very many keys, and the mailbox.
//!
//! `cargo bench --bench push`
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark that fails is to say so"
)]

use std::{
    env, fs,
    hint::black_box,
    process::Command,
    sync::Arc,
    task::{Context, Waker},
};

use bytes::Bytes;
use divan::{Bencher, counter::ItemsCount};
use stentor::{
    broker::{ExchangeKind, Message, Properties, routing::RoutingTable},
    hub::{Mailbox, MailboxConfig},
};
use stomp_session::SubscriptionId;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const THOUSAND: usize = 1_000;
const MILLION: usize = 1_000_000;

/// Look-ups, or messages, in each iteration.
const ROUNDS: usize = 1_000;

/// What a table holds for each subscription: as large as the hub's.
type Subscriber = (Arc<()>, SubscriptionId);

fn main() {
    let arguments: Vec<String> = env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("direct") => tell_size(ExchangeKind::Direct),
        Some("topic") => tell_size(ExchangeKind::Topic),
        _ => {
            if arguments.iter().any(|argument| argument == "--bench") {
                // A process each: what one table left behind would hide what the other takes.
                for kind in ["direct", "topic"] {
                    let program = env::current_exe().unwrap();
                    let told = Command::new(program).arg(kind).status().unwrap();
                    assert!(told.success(), "{kind}: {told}");
                }
            }
            divan::main();
        }
    }
}

fn tell_size(kind: ExchangeKind) {
    let before = resident();
    let table = table(kind, MILLION);
    let each = (resident() - before) / table.len() as f64;
    println!(
        "a key such as user_184467 in a routing table of a million ({kind:?}): {each:.0} bytes"
    );
}

/// A key each, and in topic exchanges a pattern with a wildcard for every tenth.
fn table(kind: ExchangeKind, keys: usize) -> RoutingTable<Subscriber> {
    let mut table = RoutingTable::new(kind);
    let subscriber = Arc::new(());
    for number in 0..keys {
        let value = (Arc::clone(&subscriber), SubscriptionId(0));
        if kind == ExchangeKind::Topic && number % 10 == 0 {
            table.insert(&format!("user_{number}.*"), value);
        } else {
            table.insert(&format!("user_{number}"), value);
        }
    }
    table
}

/// The resident set, in bytes.
fn resident() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: f64 = line
        .unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    kib * 1024.0
}

/// Messages to users in no order.
fn route(bencher: Bencher<'_, '_>, kind: ExchangeKind, keys: usize, tail: &str) {
    // Prime to the number of keys, so that all are met.
    const STRIDE: usize = 7919;
    let table = table(kind, keys);
    let wanted: Vec<String> = (0..ROUNDS)
        .map(|number| format!("user_{}{tail}", number * STRIDE % keys))
        .collect();
    bencher.counter(ItemsCount::new(ROUNDS)).bench_local(|| {
        let mut found = 0;
        for key in &wanted {
            table.for_each_match(key, |subscriber| {
                black_box(subscriber);
                found += 1;
            });
        }
        found
    });
}

#[divan::bench(args = [THOUSAND, MILLION])]
fn route_direct(bencher: Bencher<'_, '_>, keys: usize) {
    route(bencher, ExchangeKind::Direct, keys, "");
}

#[divan::bench(args = [THOUSAND, MILLION])]
fn route_topic(bencher: Bencher<'_, '_>, keys: usize) {
    route(bencher, ExchangeKind::Topic, keys, ".news");
}

#[divan::bench]
fn subscribe_and_unsubscribe_among_a_million(bencher: Bencher<'_, '_>) {
    let mut table = table(ExchangeKind::Direct, MILLION);
    let value = (Arc::new(()), SubscriptionId(0));
    let keys: Vec<String> = (0..ROUNDS).map(|number| format!("new_{number}")).collect();
    bencher.counter(ItemsCount::new(ROUNDS)).bench_local(|| {
        for key in &keys {
            table.insert(key, value.clone());
            table.remove(key, &value);
        }
    });
}

/// A message is put in, and taken by the connection.
#[divan::bench]
fn mailbox(bencher: Bencher<'_, '_>) {
    let mailbox = Mailbox::new(MailboxConfig::default());
    let body = Bytes::from_static(&[b'x'; 256]);
    let properties = Properties::default();
    let (exchange, key) = ("feed".into(), "user_184467".into());
    let message = Arc::new(Message::new(exchange, key, properties, body));
    let context = Context::from_waker(Waker::noop());
    bencher.counter(ItemsCount::new(ROUNDS)).bench_local(|| {
        for _ in 0..ROUNDS {
            mailbox.push_shared(SubscriptionId(0), &message);
            black_box(mailbox.poll_take(&context).is_ready());
        }
    });
}
