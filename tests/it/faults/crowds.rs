//! Crowds of clients: RabbitMQ is killed under them, and the gateway ends under them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use stomp_grammar::{Command, Frame};
use testkit::{DEADLINE, FEED, Login, RabbitMq, Vhost, eventually, within};
use tokio::{
    task::JoinHandle,
    time::{interval, sleep},
};

use super::{crowd, login};
use crate::house::{House, PASSCODE, vhost_on};

/// Between two rounds of the backend.
const PACE: Duration = Duration::from_millis(20);
/// Messages of a round.
const ROUND: u64 = 20;
pub(super) const END: &str = "end";

/// Clients that listen, each to a key of its own, and a backend that publishes to all of them in
/// turn, with confirms.
pub(super) struct Crowd {
    vhost: Vhost,
    shared: Arc<Shared>,
    listeners: Vec<JoinHandle<Vec<Stay>>>,
    backend: JoinHandle<Published>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// The number of the next message.
    next: AtomicU64,
    subscribed: AtomicUsize,
    confirmed: AtomicU64,
    heard: AtomicU64,
}

/// From a RECEIPT of a client to its end.
#[derive(Default)]
pub(super) struct Stay {
    /// The first message that it must hear.
    from: u64,
    /// Messages, and whether the gateway said that they may be known (`redelivered`).
    heard: Vec<(u64, bool)>,
    /// The ERROR that ended it; `None`: the crowd's end.
    pub(super) told: Option<String>,
}

/// Messages by their numbers.
#[derive(Default)]
struct Published {
    sent: BTreeSet<u64>,
    confirmed: BTreeSet<u64>,
}

/// What became of everything.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) confirmed: usize,
    pub(super) lost: usize,
    /// Messages that came again, and said so.
    pub(super) doubled: usize,
    /// Those that did not say so.
    pub(super) doubled_unmarked: usize,
    /// Messages that said to be known, and were not.
    pub(super) marked_in_vain: usize,
    /// Clients that were sent away, by the words of their ERROR.
    pub(super) sent_away: BTreeMap<String, usize>,
}

impl Crowd {
    pub(super) async fn start(house: &Arc<House>, count: usize) -> Self {
        let shared = Arc::<Shared>::default();
        let mut listeners = Vec::new();
        for number in 0..count {
            let listening = listen(Arc::clone(house), Arc::clone(&shared), number);
            listeners.push(tokio::spawn(listening));
            if number % 100 == 99 {
                until_subscribed(&shared, number + 1).await;
            }
        }
        until_subscribed(&shared, count).await;
        let (vhost, count) = (house.vhost.clone(), count as u64);
        let backend = publish(vhost.clone(), Arc::clone(&shared), count);
        Self {
            vhost,
            backend: tokio::spawn(backend),
            shared,
            listeners,
        }
    }

    /// Messages that RabbitMQ confirmed, and those that clients heard.
    pub(super) fn counts(&self) -> (u64, u64) {
        let [confirmed, heard] =
            [&self.shared.confirmed, &self.shared.heard].map(|count| count.load(Ordering::Relaxed));
        (confirmed, heard)
    }

    /// Waits until messages are confirmed and heard.
    pub(super) async fn flows(&self) {
        let (confirmed, heard) = self.counts();
        eventually(4 * DEADLINE, "messages come", async || {
            let now = self.counts();
            now.0 > confirmed + 2 * ROUND && now.1 > heard + 2 * ROUND
        })
        .await;
    }

    pub(super) async fn end(self) -> Outcome {
        let count = self.listeners.len();
        until_subscribed(&self.shared, count).await;
        self.shared.stop.store(true, Ordering::Relaxed);
        let published = within(4 * DEADLINE, "the backend stops", self.backend).await;
        let published = published.unwrap();
        let mut outcome = Outcome {
            confirmed: published.confirmed.len(),
            ..Outcome::default()
        };
        for (number, listener) in self.listeners.into_iter().enumerate() {
            let (key, what) = (key(number), format!("the end of listener {number}"));
            self.vhost.publish(FEED, &key, [END]).await;
            let story = within(4 * DEADLINE, what, listener).await.unwrap();
            let number = number as u64;
            let is_its = |message: &u64| message % count as u64 == number;
            judge(&published, is_its, &story, &mut outcome);
        }
        outcome
    }
}

fn judge(
    published: &Published,
    is_its: impl Fn(&u64) -> bool,
    story: &[Stay],
    outcome: &mut Outcome,
) {
    let mut known = BTreeSet::new();
    for stay in story {
        let mut last = None;
        for (number, is_marked) in &stay.heard {
            assert!(is_its(number) && published.sent.contains(number));
            let count = match (known.insert(*number), is_marked) {
                (true, false) => None,
                (true, true) => Some(&mut outcome.marked_in_vain),
                (false, true) => Some(&mut outcome.doubled),
                (false, false) => Some(&mut outcome.doubled_unmarked),
            };
            match count {
                Some(count) => *count += 1,
                None => {
                    let heard = &stay.heard;
                    assert!(Some(*number) > last, "in order: {heard:?}");
                    last = Some(*number);
                }
            }
        }
        if let Some(told) = &stay.told {
            *outcome.sent_away.entry(told.clone()).or_default() += 1;
            continue;
        }
        let due = published.confirmed.range(stay.from..);
        outcome.lost += due
            .filter(|number| is_its(number) && !known.contains(number))
            .count();
    }
}

async fn until_subscribed(shared: &Shared, count: usize) {
    eventually(4 * DEADLINE, "all are subscribed", async || {
        shared.subscribed.load(Ordering::Relaxed) == count
    })
    .await;
}

fn key(number: usize) -> String {
    format!("crowd{number}")
}

/// Until the last message; a client that is sent away comes back.
async fn listen(house: Arc<House>, shared: Arc<Shared>, number: usize) -> Vec<Stay> {
    let mut story = Vec::new();
    loop {
        let stay = stay(&house, &shared, number).await;
        let is_over = stay.as_ref().is_some_and(|stay| stay.told.is_none());
        story.extend(stay);
        if is_over {
            return story;
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// `None`: it was not let in.
async fn stay(house: &House, shared: &Shared, number: usize) -> Option<Stay> {
    let client = match number % 2 {
        0 => house.raw_tcp().await,
        _ => house.raw_ws().await,
    };
    // It may be that nothing comes for long.
    let mut client = client.with_deadline(Duration::from_secs(600));
    let user = key(number);
    let login = Login::new(&user, PASSCODE, house.vhost.name());
    client.send(&login.frame()).await;
    let subscribe = Frame::new(Command::Subscribe)
        .with_header("id", "1")
        .with_header("destination", &format!("/exchange/{FEED}/{user}"))
        .with_header("receipt", "r");
    let mut stay = None::<Stay>;
    let mut told = None;
    while let Ok(frame) = client.next_frame().await {
        match (frame.command, &mut stay) {
            (Command::Connected, _) => client.send(&subscribe).await,
            (Command::Receipt, _) => {
                shared.subscribed.fetch_add(1, Ordering::Relaxed);
                stay = Some(Stay {
                    from: shared.next.load(Ordering::SeqCst),
                    ..Stay::default()
                });
            }
            (Command::Error, _) => told = frame.header("message").map(ToOwned::to_owned),
            (_, Some(stay)) if frame.body != END => {
                let number = std::str::from_utf8(&frame.body).unwrap();
                let is_marked = frame.header("redelivered") == Some("true");
                stay.heard.push((number.parse().unwrap(), is_marked));
                shared.heard.fetch_add(1, Ordering::Relaxed);
            }
            (_, stay) => return stay.take(),
        }
    }
    let mut stay = stay?;
    shared.subscribed.fetch_sub(1, Ordering::Relaxed);
    stay.told = Some(told.unwrap_or_else(|| "closed without a word".to_owned()));
    Some(stay)
}

/// With confirms.
pub(super) async fn channel(vhost: &Vhost) -> lapin::Result<Channel> {
    let url = vhost.amqp_url();
    let connection = Connection::connect(&url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
    Ok(channel)
}

/// Publishes until it is told to stop; with another connection where one fails.
async fn publish(vhost: Vhost, shared: Arc<Shared>, count: u64) -> Published {
    let mut published = Published::default();
    let mut pace = interval(PACE);
    while !shared.stop.load(Ordering::Relaxed) {
        let Ok(channel) = channel(&vhost).await else {
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        while !shared.stop.load(Ordering::Relaxed) {
            pace.tick().await;
            if round(&channel, &shared, count, &mut published)
                .await
                .is_none()
            {
                break;
            }
        }
    }
    published
}

/// `None`: the connection failed.
async fn round(
    channel: &Channel,
    shared: &Shared,
    count: u64,
    published: &mut Published,
) -> Option<()> {
    let mut confirms = Vec::new();
    for _ in 0..ROUND {
        let number = shared.next.fetch_add(1, Ordering::SeqCst);
        published.sent.insert(number);
        let key = key(usize::try_from(number % count).ok()?);
        let body = number.to_string();
        let publishing = channel.basic_publish(
            FEED.into(),
            key.as_str().into(),
            BasicPublishOptions::default(),
            body.as_bytes(),
            BasicProperties::default().with_delivery_mode(2),
        );
        confirms.push((number, publishing.await.ok()?));
    }
    for (number, confirm) in confirms {
        let confirmation = tokio::time::timeout(DEADLINE, confirm).await.ok()?;
        if let Confirmation::Ack(None) = confirmation.ok()? {
            published.confirmed.insert(number);
            shared.confirmed.fetch_add(1, Ordering::Relaxed);
        }
    }
    Some(())
}

/// RabbitMQ is killed once the youngest subscription is so old, and started again.
async fn rabbitmq_is_killed(count: usize, age: Duration) -> Outcome {
    let node = Arc::new(RabbitMq::own().await);
    let starting = House::start(vhost_on(&node).await, |builder| {
        builder
            .set("broker.reconnect_max", "500ms")
            .set("limits.max_address_connects_per_second", 5_000)
    });
    let house = Arc::new(starting.await);
    let crowd = Crowd::start(&house, count).await;
    let subscribed = Instant::now();
    crowd.flows().await;
    while subscribed.elapsed() < age {
        crowd.flows().await;
    }
    node.kill();
    house.gateway.until_readyz(503).await;
    let begun = Instant::now();
    node.start().await;
    let started = begun.elapsed();
    house.gateway.until_ready().await;
    crowd.flows().await;
    let flows = begun.elapsed();
    let outcome = crowd.end().await;
    println!(
        "{count} clients: messages flow {:?} after RabbitMQ had started (in {started:?}); {outcome:?}",
        flows.saturating_sub(started)
    );
    assert!(outcome.confirmed > 0);
    assert_eq!(outcome.lost, 0);
    // Messages of RabbitMQ's last moment may come again, and say so: docs/limits.md.
    assert_eq!(outcome.doubled_unmarked, 0);
    outcome
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rabbitmq_is_killed_under_a_crowd() {
    let outcome = rabbitmq_is_killed(crowd(100), Duration::from_secs(5)).await;
    assert!(outcome.sent_away.is_empty(), "{:?}", outcome.sent_away);
}

/// RabbitMQ 3.10 may forget bindings that it answered within its last seconds, and confirms what it then
/// routes nowhere: whose these are is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rabbitmq_is_killed_under_a_crowd_that_just_came() {
    let count = crowd(100);
    let outcome = rabbitmq_is_killed(count, Duration::ZERO).await;
    for (told, times) in outcome.sent_away {
        assert_eq!(told, "feed interrupted");
        assert!(times <= count, "each once, at most: {times}");
    }
}

/// All are told, spread over `shutdown.drain`, and the exit code is 0.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_the_gateway_is_spread_over_a_crowd() {
    const DRAIN: Duration = Duration::from_secs(5);
    let count = crowd(300);
    let house = House::open_with(|builder| {
        builder
            .set("shutdown.drain", "5s")
            .set("shutdown.grace", "30s")
            .set("limits.max_address_connects_per_second", 5_000)
    })
    .await;
    let mut clients = Vec::new();
    for number in 0..count {
        clients.push(
            login(&house, &key(number))
                .await
                .with_deadline(2 * DEADLINE),
        );
    }
    house.gateway.process().signal("TERM");
    let begun = Instant::now();
    let ends = clients.into_iter().map(|mut client| {
        tokio::spawn(async move {
            client.expect_error("server shutting down").await;
            let told = begun.elapsed();
            client.expect_closed().await;
            told
        })
    });
    let mut told = Vec::new();
    for end in ends.collect::<Vec<_>>() {
        told.push(end.await.unwrap());
    }
    told.sort_unstable();
    let status = house.gateway.process().wait(2 * DEADLINE).await;
    let [first, median, last] = [0, count / 2, count - 1].map(|at| told[at]);
    println!(
        "{count} clients: told after {first:?} (the first), {median:?} (half of them), {last:?} (the \
         last); ended after {:?}",
        begun.elapsed()
    );
    assert_eq!(status.code(), Some(0));
    // In no tenth of the time more than a quarter of them.
    for tenth in 0..10_u32 {
        let [from, to] = [tenth, tenth + 1].map(|at| DRAIN * at / 10);
        let some = told.iter().filter(|at| (from..to).contains(*at)).count();
        assert!(
            some <= count / 4,
            "{some} of {count} within {from:?} to {to:?}"
        );
    }
}
