//! Churn, publishing, and faults at random from a seed, for as long as somebody has patience:
//! `./scripts/soak.sh churn`.

use std::{
    env, fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use stomp_grammar::{Command, Frame};
use testkit::{
    Answer, Call, DEADLINE, FEED, Gateway, Login, Proxy, RabbitMq, Redis, StompClient, Vhost,
    eventually,
};
use tokio::time::{sleep, timeout};

use super::{crowds::Crowd, files, memory};
use crate::house::{House, PASSCODE, vhost_on};

const LISTENERS: usize = 200;
const CHURNERS: usize = 8;
const MIB: usize = 1 << 20;

/// All that can fail, and the world around the gateway.
struct World {
    node: Arc<RabbitMq>,
    proxy: Proxy,
    redis: Redis,
    house: Arc<House>,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    LinkCut,
    LinkStalls,
    LinkSlow,
    BrokerKilled,
    BrokerShortOfMemory,
    FeedQueueDeleted,
    HookSilent,
    HookWrong,
    HookGone,
    RedisStandsStill,
    RedisEmptied,
}

const FAULTS: [Fault; 11] = [
    Fault::LinkCut,
    Fault::LinkStalls,
    Fault::LinkSlow,
    Fault::BrokerKilled,
    Fault::BrokerShortOfMemory,
    Fault::FeedQueueDeleted,
    Fault::HookSilent,
    Fault::HookWrong,
    Fault::HookGone,
    Fault::RedisStandsStill,
    Fault::RedisEmptied,
];

impl World {
    async fn open() -> Self {
        let node = Arc::new(RabbitMq::own().await);
        let redis = Redis::own().await;
        let vhost = vhost_on(&node).await;
        let proxy = Proxy::start(&node.amqp_address()).await;
        let starting = House::start(vhost.clone(), |builder| {
            builder
                .vhost_via(&vhost, &proxy.address())
                .set("feed.shards", 1)
                .set("control.exchange", "off")
                .set("broker.heartbeat", "2s")
                .set("broker.reconnect_max", "1s")
                .set("broker.operation_timeout", "3s")
                .set("auth.request_timeout", "2s")
                .set("presence.url", redis.url())
                .set("presence.lease", "5s")
                .set("log.level", "warn,stentor::listen=info")
        });
        let house = Arc::new(starting.await);
        Self {
            node,
            proxy,
            redis,
            house,
        }
    }

    async fn suffer(&self, fault: Fault, while_: Duration) {
        let hook = &self.house.hook;
        match fault {
            Fault::LinkCut => self.proxy.cut(),
            Fault::LinkStalls => {
                self.proxy.freeze();
                sleep(while_).await;
                self.proxy.forward();
            }
            Fault::LinkSlow => {
                self.proxy.fragment(1_000, Duration::from_millis(100));
                sleep(while_).await;
                self.proxy.forward();
            }
            Fault::BrokerKilled => {
                self.node.kill();
                self.node.start().await;
            }
            Fault::BrokerShortOfMemory => {
                let set = "set_vm_memory_high_watermark";
                self.node.ctl(&[set, "absolute", "1MB"]).await;
                sleep(while_).await;
                self.node.ctl(&[set, "0.7"]).await;
            }
            Fault::FeedQueueDeleted => delete_feed_queues(&self.house.vhost).await,
            Fault::HookSilent | Fault::HookWrong | Fault::HookGone => {
                hook.answer(
                    Call::User,
                    match fault {
                        Fault::HookSilent => Answer::Never,
                        Fault::HookWrong => Answer::Status(500, "a mistake".to_owned()),
                        _ => Answer::Close,
                    },
                );
                sleep(while_).await;
                hook.allow_all();
            }
            Fault::RedisStandsStill => {
                self.redis.signal("STOP");
                sleep(while_).await;
                self.redis.signal("CONT");
            }
            Fault::RedisEmptied => drop(self.redis.command(&["FLUSHALL"]).await),
        }
    }
}

async fn delete_feed_queues(vhost: &Vhost) {
    for queue in vhost.queues().await {
        let name = queue["name"].as_str().unwrap();
        if name.starts_with("stentor.feed.") {
            // The gateway deletes the overflow of a queue that it has lost.
            let api = vhost.node().api();
            api.delete_queue_if_there(vhost.name(), name).await;
        }
    }
}

/// Comes, subscribes, says something to itself, and goes, by one way or the other. It is told of
/// faults, and comes again.
async fn churn(house: Arc<House>, mut rng: StdRng, stop: Arc<AtomicBool>, lives: Arc<AtomicUsize>) {
    while !stop.load(Ordering::Relaxed) {
        let life = live(&house, &mut rng);
        // Longer than all that a gateway may take for an answer.
        let done = timeout(DEADLINE, life).await;
        assert!(done.is_ok(), "a client hears nothing for {DEADLINE:?}");
        lives.fetch_add(1, Ordering::Relaxed);
        sleep(Duration::from_millis(rng.random_range(0..100))).await;
    }
}

/// `None`: it was told of a fault.
async fn live(house: &House, rng: &mut StdRng) -> Option<()> {
    let mut client = match rng.random_range(0..3) {
        0 => house.raw_tcp().await,
        1 => house.raw_ws().await,
        _ => StompClient::sockjs(&house.gateway.sockjs_url()).await,
    };
    let user = format!("churn{}", rng.random_range(0..1_000));
    let login = Login::new(&user, PASSCODE, house.vhost.name());
    client.send(&login.frame()).await;
    until(&mut client, Command::Connected).await?;
    let destination = format!("/exchange/{FEED}/{user}.{}", rng.random::<u32>());
    let subscribe = Frame::new(Command::Subscribe)
        .with_header("id", "1")
        .with_header("destination", &destination)
        .with_header("receipt", "s");
    client.send(&subscribe).await;
    until(&mut client, Command::Receipt).await?;
    for _ in 0..rng.random_range(0..4) {
        let send = Frame::new(Command::Send)
            .with_header("destination", &destination)
            .with_header("receipt", "m")
            .with_body(vec![b'x'; rng.random_range(0..2_000)]);
        client.send(&send).await;
        until(&mut client, Command::Receipt).await?;
    }
    if rng.random_bool(0.5) {
        let disconnect = Frame::new(Command::Disconnect).with_header("receipt", "d");
        client.send(&disconnect).await;
        until(&mut client, Command::Receipt).await?;
    }
    Some(())
}

async fn until(client: &mut StompClient, command: Command) -> Option<()> {
    while let Ok(frame) = client.next_frame().await {
        if frame.command == command {
            return Some(());
        }
        if frame.command == Command::Error {
            return None;
        }
    }
    None
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    memory: usize,
    files: usize,
    threads: usize,
}

fn sample(gateway: &Gateway) -> Sample {
    let path = format!("/proc/{}/task", gateway.process().id());
    Sample {
        memory: memory(gateway) / MIB,
        files: files(gateway),
        threads: fs::read_dir(path).unwrap().count(),
    }
}

fn from_environment(name: &str, usual: u64) -> u64 {
    let given = env::var(name).ok();
    given.map_or(usual, |given| given.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "as long as somebody has patience: ./scripts/soak.sh churn"]
async fn churn_and_faults_from_a_seed() {
    let seed = from_environment("SOAK_SEED", 23);
    let duration = Duration::from_secs(from_environment("SOAK_SECONDS", 600));
    println!("SOAK_SEED={seed}, for {duration:?}");
    let mut rng = StdRng::seed_from_u64(seed);
    let world = World::open().await;
    let gateway = &world.house.gateway;
    let crowd = Crowd::start(&world.house, LISTENERS).await;
    let (stop, lives) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
    let churners: Vec<_> = (0..CHURNERS)
        .map(|_| {
            let rng = StdRng::seed_from_u64(rng.random());
            let (house, stop) = (Arc::clone(&world.house), Arc::clone(&stop));
            tokio::spawn(churn(house, rng, stop, Arc::clone(&lives)))
        })
        .collect();
    let (begun, mut samples, mut faults) = (Instant::now(), Vec::new(), Vec::new());
    while begun.elapsed() < duration {
        sleep(Duration::from_millis(rng.random_range(1_000..6_000))).await;
        let fault = FAULTS[rng.random_range(0..FAULTS.len())];
        let while_ = Duration::from_millis(rng.random_range(500..7_000));
        world.suffer(fault, while_).await;
        faults.push(fault);
        world.house.gateway.until_ready().await;
        crowd.flows().await;
        let now = sample(gateway);
        samples.push(now);
        println!(
            "{:>5} s  {fault:?} {while_:?}: {now:?}, {} lives, {:?} confirmed and heard",
            begun.elapsed().as_secs(),
            lives.load(Ordering::Relaxed),
            crowd.counts(),
        );
    }
    stop.store(true, Ordering::Relaxed);
    for churner in churners {
        churner.await.unwrap();
    }
    eventually(DEADLINE, "all who came have gone", async || {
        super::metric(gateway, "stentor_shared_subscriptions").await == LISTENERS as u64
    })
    .await;
    let rest = sample(gateway);
    let outcome = crowd.end().await;
    println!("{} faults, {outcome:?}; at rest: {rest:?}", faults.len());
    let log = gateway.log().text();
    assert!(!log.contains("panicked"), "{log}");
    assert_eq!(outcome.lost, 0);
    // Messages of RabbitMQ's last moment may come again, and say so: docs/limits.md.
    assert_eq!(outcome.doubled_unmarked, 0);
    // After a quarter of the time all is warm.
    let warm = &samples[samples.len() / 4..];
    let (middle, late) = warm.split_at(warm.len() / 2);
    type Figure = fn(&Sample) -> usize;
    let most = |samples: &[Sample], what: Figure| samples.iter().map(what).max();
    let kinds: [(&str, Figure, usize); 3] = [
        ("memory", |sample| sample.memory, 24),
        ("files", |sample| sample.files, 60),
        ("threads", |sample| sample.threads, 8),
    ];
    for (name, what, margin) in kinds {
        let (Some(before), Some(after)) = (most(middle, what), most(late, what)) else {
            continue;
        };
        println!("{name}: {before} at most, then {after}");
        assert!(after <= before + margin, "{name} grows: {before}, {after}");
    }
}
