//! What a message of a shared feed costs the gateway, from RabbitMQ's socket to the sink.
//!
//! A feed's queue is filled before the gateway opens it, so that the reader is what is measured,
//! and its CPU time is taken, which tells more than a rate on a machine that does other things
//! beside. RabbitMQ is a private node.
//!
//! `cargo bench --bench feeds`; `MESSAGES`, `BODY` and `RUNS` in the environment change the sizes.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark that fails is to say so"
)]

use std::{
    env,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use lapin::{
    BasicProperties, ExchangeKind,
    options::{BasicPublishOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use rustix::time::{ClockId, clock_gettime};
use stentor::broker::{
    Broker as _, Config, FeedConfig, FeedId, FeedSink, Message, Url, amqp::AmqpBroker,
};
use testkit::{FEED, RabbitMq, Vhost};
use tokio::sync::Notify;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Routing keys that the messages are spread over.
const USERS: usize = 1_000;

fn main() {
    let messages = setting("MESSAGES", 500_000);
    let body = setting("BODY", 256);
    for _ in 0..setting("RUNS", 3) {
        // A runtime each, so that no run inherits threads or memory of the one before.
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(run(messages, body));
    }
}

fn setting(name: &str, default: usize) -> usize {
    env::var(name).map_or(default, |value| value.parse().unwrap())
}

async fn run(messages: usize, body: usize) {
    let node = RabbitMq::shared().await;
    let vhost = node.vhost().await;
    vhost.declare_exchange(FEED, ExchangeKind::Fanout).await;
    let name = format!("bench.{:08x}", rand::random::<u32>());
    fill(&vhost, &format!("stentor.feed.{name}.0"), messages, body).await;

    let url = format!("amqp://guest:guest@{}", node.amqp_address());
    let Ok(Url::Amqp(url)) = url.parse() else {
        return;
    };
    let (config, feed) = (Config::default(), FeedConfig::default());
    let sink = Arc::new(Counter {
        left: AtomicUsize::new(messages),
        done: Notify::new(),
    });
    let (started, cpu) = (Instant::now(), cpu_time());
    let broker = AmqpBroker::new(&[url], config, feed, &name).unwrap();
    let opened = broker.open(vhost.name(), Arc::clone(&sink) as Arc<dyn FeedSink>);
    let id = FeedId {
        exchange: FEED.into(),
        shard: 0,
    };
    opened.bind_feed(&id, "").await.unwrap();
    sink.done.notified().await;
    let (elapsed, cpu) = (started.elapsed(), cpu_time().saturating_sub(cpu));
    let each = |time: Duration| time.as_secs_f64() * 1e6 / messages as f64;
    println!(
        "{messages} messages of {body} bytes: {:.2} µs of CPU each, {:.0} a second",
        each(cpu),
        1e6 / each(elapsed),
    );
    opened.close().await;
}

/// Declares the queue just as the gateway will, and fills it.
async fn fill(vhost: &Vhost, queue: &str, messages: usize, body: usize) {
    let channel = vhost.channel().await;
    let feed = FeedConfig::default();
    let text = |text: &str| AMQPValue::LongString(text.into());
    let number = |number: u128| AMQPValue::LongLongInt(i64::try_from(number).unwrap());
    let mut arguments = FieldTable::default();
    arguments.insert("x-expires".into(), number(feed.expires.as_millis()));
    let bytes = u128::try_from(feed.max_length_bytes).unwrap();
    arguments.insert("x-max-length-bytes".into(), number(bytes));
    arguments.insert("x-dead-letter-exchange".into(), text(""));
    let overflow = text(&format!("{queue}.overflow"));
    arguments.insert("x-dead-letter-routing-key".into(), overflow);
    let durable = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    channel
        .queue_declare(queue.into(), durable, arguments)
        .await
        .unwrap();
    let (options, none) = (QueueBindOptions::default(), FieldTable::default());
    channel
        .queue_bind(queue.into(), FEED.into(), "".into(), options, none)
        .await
        .unwrap();
    let payload = vec![b'x'; body];
    let mut confirms = Vec::new();
    for number in 0..messages {
        let properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_delivery_mode(1);
        let key = format!("user_{}", number % USERS);
        let options = BasicPublishOptions::default();
        let publishing = channel.basic_publish(
            FEED.into(),
            key.as_str().into(),
            options,
            &payload,
            properties,
        );
        confirms.push(publishing.await.unwrap());
        if confirms.len() == 1_000 {
            for confirm in confirms.drain(..) {
                confirm.await.unwrap();
            }
        }
    }
    for confirm in confirms {
        confirm.await.unwrap();
    }
}

fn cpu_time() -> Duration {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    let nanos = u32::try_from(now.tv_nsec).unwrap();
    Duration::new(u64::try_from(now.tv_sec).unwrap(), nanos)
}

struct Counter {
    left: AtomicUsize,
    done: Notify,
}

impl FeedSink for Counter {
    fn deliver(&self, _: &FeedId, _: Message) {
        if self.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.done.notify_one();
        }
    }

    fn patterns(&self, _: &FeedId) -> Vec<Arc<str>> {
        vec!["".into()]
    }

    fn interrupted(&self, feed: &FeedId, reason: &str) {
        println!("{feed} was interrupted: {reason}");
    }
}
