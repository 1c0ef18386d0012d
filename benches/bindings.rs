//! What keys cost RabbitMQ: how many are bound and unbound a second, and its memory for each.
//!
//! A node's clients all come at once, and all go: their keys are bound to the queue of one feed,
//! a hundred at a time, and unbound again. RabbitMQ is a private node without plug-ins.
//!
//! `cargo bench --bench bindings`; `KEYS` in the environment changes how many.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark that fails is to say so"
)]

use std::{
    env, fs,
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream};
use stentor::broker::{
    Broker as _, Config, ExchangeKind, FeedConfig, FeedId, FeedSink, Message, Url, VirtualHost,
    amqp::AmqpBroker,
};
use testkit::RabbitMq;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Under way at once.
const AT_ONCE: usize = 100;

/// For what RabbitMQ does behind its answers.
const SETTLE: Duration = Duration::from_secs(5);

fn main() {
    let keys = env::var("KEYS").map_or(100_000, |keys| keys.parse().unwrap());
    for durable in [true, false] {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(run(keys, durable));
    }
}

async fn run(keys: usize, durable: bool) {
    let node = RabbitMq::own_bare(&[], "").await;
    let url = format!("amqp://guest:guest@{}", node.amqp_address());
    let Ok(Url::Amqp(url)) = url.parse() else {
        return;
    };
    let config = Config {
        exchanges: [("feed".into(), ExchangeKind::Direct)].into(),
        ..Config::default()
    };
    let feed = FeedConfig {
        durable,
        ..FeedConfig::default()
    };
    let broker = AmqpBroker::new(&[url], config, feed, "bench").unwrap();
    let host = broker.open("/", Arc::new(Nobody));
    let id = FeedId {
        exchange: "feed".into(),
        shard: 0,
    };
    host.exchange_kind("feed").await.unwrap();
    host.bind_feed(&id, "first").await.unwrap();
    tokio::time::sleep(SETTLE).await;
    let before = memory(&node);
    let bound = each(keys, async |key| host.bind_feed(&id, &key).await.unwrap()).await;
    tokio::time::sleep(SETTLE).await;
    let with_all = memory(&node);
    let unbound = each(keys, async |key| host.unbind_feed(&id, &key).await.unwrap()).await;
    let kind = if durable { "durable" } else { "transient" };
    println!(
        "{keys} keys on a {kind} feed of RabbitMQ, {AT_ONCE} at once: {bound:.0} bound and \
         {unbound:.0} unbound a second, {:.2} KiB of RabbitMQ's memory each",
        (with_all - before) / keys as f64
    );
    VirtualHost::close(&*host).await;
}

/// Does it for each key; how many a second.
async fn each<F: Future<Output = ()>>(keys: usize, act: impl Fn(String) -> F) -> f64 {
    let started = Instant::now();
    let all = stream::iter(0..keys).map(|number| act(format!("user_{number}")));
    all.buffer_unordered(AT_ONCE).collect::<Vec<()>>().await;
    keys as f64 / started.elapsed().as_secs_f64()
}

/// Of its processes, shared pages counted in parts; in KiB.
fn memory(node: &RabbitMq) -> f64 {
    let pids = node.pids().into_iter();
    pids.map(|pid| {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
        let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
        let kib = pss.unwrap().trim().trim_end_matches(" kB");
        kib.parse::<f64>().unwrap()
    })
    .sum()
}

struct Nobody;

impl FeedSink for Nobody {
    fn deliver(&self, _: &FeedId, _: Message) {}

    fn patterns(&self, _: &FeedId) -> Vec<Arc<str>> {
        vec!["first".into()]
    }

    fn interrupted(&self, feed: &FeedId, reason: &str) {
        println!("{feed} was interrupted: {reason}");
    }
}
