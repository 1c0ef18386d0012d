//! Presence while the servers of Redis fail, take over and move, under a churn of joins and leaves:
//! afterwards all nodes answer the truth, within a lease. The figures are printed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use stentor::presence::{Presence, PresenceEntry, RedisConfig, Status, redis::RedisPresence};
use tempfile::TempDir;
use testkit::{
    Authority, DEADLINE, Proxy, Redis, RedisCluster, RedisSentinels, eventually, unique,
};
use tokio::{task::JoinHandle, time::MissedTickBehavior};

use crate::presence_contract::{
    AT_ONCE, cluster_presence, redis_presence, redis_presence_by, sentinel_config,
    sentinel_presence, session, settings,
};

const LEASE: Duration = Duration::from_secs(4);
/// The test's own time: for its questions, on a busy machine.
const SLACK: Duration = Duration::from_secs(4);
/// Users that come and go.
const USERS: usize = 400;
/// The group that all users are in.
const GROUP: &str = "everybody";

type Nodes = [Arc<RedisPresence>; 2];

fn nodes(start: impl Fn(stentor::presence::Node) -> RedisPresence) -> Nodes {
    [(); 2].map(|()| Arc::new(start(settings(&unique("node"), AT_ONCE, None))))
}

async fn until_up(nodes: &Nodes) {
    let mut last = None;
    eventually(DEADLINE, "all changes are in Redis", async || {
        let health = nodes.iter().try_for_each(|node| node.health());
        if health.is_err() && last.as_ref() != Some(&health) {
            println!("{health:?}");
            last = Some(health.clone());
        }
        health.is_ok()
    })
    .await;
}

/// Users who come and go, at both nodes.
struct Churn {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Truth>,
}

/// Who is here.
#[derive(Default)]
struct Truth {
    sessions: BTreeMap<usize, (usize, Arc<PresenceEntry>)>,
    changes: usize,
}

impl Churn {
    /// Some five hundred changes a second.
    fn start(nodes: &Nodes) -> Self {
        let (stop, nodes) = (Arc::new(AtomicBool::new(false)), nodes.clone());
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let mut truth = Truth::default();
            let mut ticks = tokio::time::interval(Duration::from_millis(2));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            while !stopped.load(Ordering::Relaxed) {
                ticks.tick().await;
                truth.change(&nodes);
            }
            truth
        });
        Self { stop, task }
    }

    async fn end(self) -> Truth {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

impl Truth {
    fn change(&mut self, nodes: &Nodes) {
        self.changes += 1;
        let user = rand::random_range(0..USERS);
        if let Some((node, session)) = self.sessions.remove(&user) {
            nodes[node].leave(&session);
        } else {
            let node = rand::random_range(0..nodes.len());
            let joined = session(&name(user), &[GROUP]);
            nodes[node].join(Arc::clone(&joined));
            self.sessions.insert(user, (node, joined));
        }
    }

    /// How many users a node shows other than they are; `None`: it cannot say.
    async fn wrong(&self, presence: &RedisPresence) -> Option<usize> {
        let names: Vec<_> = (0..USERS).map(name).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let found = presence.users(&names).await.ok()?;
        let members = presence.group(GROUP).await.ok()?;
        let members: BTreeSet<_> = members.iter().map(|member| &*member.user).collect();
        let wrong = found.iter().enumerate().filter(|(user, found)| {
            let ids: Vec<_> = found.sessions.iter().map(|session| &*session.id).collect();
            let (is_right, status) = match self.sessions.get(user) {
                Some((_, session)) => (ids == [&*session.id], Status::Online),
                None => (ids.is_empty(), Status::Offline),
            };
            let is_member = members.contains(names[*user]);
            !is_right || found.status != status || is_member != (status == Status::Online)
        });
        Some(wrong.count())
    }

    /// Waits until both nodes show the truth; answers how many were wrong at the first look.
    async fn until_told(&self, nodes: &Nodes) -> usize {
        let mut first = None;
        for node in nodes {
            eventually(DEADLINE, "a node shows the truth", async || {
                let wrong = self.wrong(node).await?;
                first.get_or_insert(wrong);
                (wrong == 0).then_some(())
            })
            .await;
        }
        // What was told follows, once the departures are settled.
        eventually(DEADLINE, "the users are counted", async || {
            let users = nodes[0].counts().await.ok()?.users;
            (users == self.sessions.len() as u64).then_some(())
        })
        .await;
        first.unwrap_or_default()
    }
}

fn name(user: usize) -> String {
    format!("user-{user}")
}

/// Lets `fail` happen under churn, and looks how long it takes until all is right.
async fn survives(what: &str, nodes: &Nodes, fail: impl AsyncFnOnce()) {
    until_up(nodes).await;
    let churn = Churn::start(nodes);
    let before = Instant::now();
    let second = Duration::from_secs(1);
    eventually(DEADLINE, "a second of churn", async || {
        before.elapsed() > second
    })
    .await;
    let failed = Instant::now();
    fail().await;
    // Every partition has met a writer since.
    let stirred = session("stirs", &[]);
    nodes[0].join(Arc::clone(&stirred));
    nodes[0].leave(&stirred);
    until_up(nodes).await;
    let recovered = failed.elapsed();
    let truth = churn.end().await;
    let ended = Instant::now();
    let wrong = truth.until_told(nodes).await;
    let took = ended.elapsed();
    println!(
        "{what}: presence writes again {recovered:.2?} after; {} changes, {} users here; at the \
         end of the churn {wrong} were wrong, and nobody {took:.2?} later (lease {LEASE:?})",
        truth.changes,
        truth.sessions.len()
    );
    assert!(took < LEASE + SLACK, "{what}: {took:?}");
    // And it stays so: others clear up after leases of before, and take nothing that counts.
    let settled = Instant::now();
    let longer = LEASE + LEASE / 2;
    eventually(DEADLINE, "leases of before are over", async || {
        settled.elapsed() > longer
    })
    .await;
    assert_eq!(truth.until_told(nodes).await, 0, "{what}: later");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_name_another_master() {
    let redis = RedisSentinels::own().await;
    let nodes = nodes(|node| sentinel_presence(&redis, LEASE, node));
    let [master, _] = redis.roles().await;
    survives("Sentinel, master killed", &nodes, async || {
        master.kill();
        let [new, _] = redis.roles().await;
        assert_ne!(new.port(), master.port());
    })
    .await;
}

/// Each word to and from a Sentinel takes a fifth of a second, and one says nothing at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_sentinels_name_another_master() {
    let redis = RedisSentinels::own().await;
    let mut proxies = Vec::new();
    for address in redis.addresses() {
        let proxy = Proxy::start(&address).await;
        proxy.fragment(64 * 1024, Duration::from_millis(200));
        proxies.push(proxy);
    }
    proxies[0].freeze();
    let addresses: Vec<_> = proxies.iter().map(Proxy::address).collect();
    let config = sentinel_config(addresses);
    let nodes = nodes(|node| redis_presence_by(&redis.url(), &config, LEASE, node));
    let [master, _] = redis.roles().await;
    survives("slow Sentinels, master killed", &nodes, async || {
        master.kill();
        let [new, _] = redis.roles().await;
        assert_ne!(new.port(), master.port());
    })
    .await;
}

/// Sentinels and servers speak TLS alone with each other and with the gateway, and all show
/// certificates.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_name_another_master_over_tls() {
    let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let [server, client] = folders.each_ref().map(TempDir::path);
    let authority = Authority::new();
    authority.serve_from(server, "redis");
    authority.serve_from(client, "stentor");
    let redis = RedisSentinels::own_with_tls(server).await;
    let config = RedisConfig {
        sentinel_tls: true,
        ca: client.join("ca.pem"),
        certificate: client.join("chain.pem"),
        key: client.join("key.pem"),
        ..sentinel_config(redis.tls_addresses())
    };
    let url = format!("rediss://{}/", RedisSentinels::MASTER);
    let nodes = nodes(|node| redis_presence_by(&url, &config, LEASE, node));
    let [master, _] = redis.roles().await;
    survives("Sentinel over TLS, master killed", &nodes, async || {
        master.kill();
        let [new, _] = redis.roles().await;
        assert_ne!(new.port(), master.port());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_became_a_replica_is_left() {
    let redis = RedisSentinels::own().await;
    let nodes = nodes(|node| sentinel_presence(&redis, LEASE, node));
    let [master, _] = redis.roles().await;
    survives("Sentinel, roles swapped", &nodes, async || {
        redis.swap().await;
    })
    .await;
    // Nobody asks it any more, though it answers.
    eventually(DEADLINE, "it is a replica", async || {
        let role = master.command(&["ROLE"]).await;
        role.contains("slave")
    })
    .await;
    let wrote = session("later", &[]);
    nodes[0].join(wrote);
    eventually(DEADLINE, "the new master has it", async || {
        nodes[1]
            .user("later")
            .await
            .is_ok_and(|user| user.count == 1)
    })
    .await;
}

/// Redis' replicas lag: what the master took last may be lost with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_replica_had_not_heard_is_told_again() {
    let redis = RedisSentinels::own().await;
    let nodes = nodes(|node| sentinel_presence(&redis, LEASE, node));
    until_up(&nodes).await;
    let mut truth = Truth::default();
    for _ in 0..USERS {
        truth.change(&nodes);
    }
    truth.until_told(&nodes).await;
    let [master, _] = redis.roles().await;
    master.forsake_replicas().await;
    for _ in 0..USERS {
        truth.change(&nodes);
    }
    let last = session("last", &[]);
    nodes[0].join(last);
    eventually(DEADLINE, "the master has them", async || {
        master.command(&["EXISTS", "stentor:user:last"]).await == ":1"
    })
    .await;
    let killed = Instant::now();
    master.kill();
    redis.roles().await;
    until_up(&nodes).await;
    let recovered = killed.elapsed();
    eventually(DEADLINE, "the last is here", async || {
        nodes[1]
            .user("last")
            .await
            .is_ok_and(|user| user.count == 1)
    })
    .await;
    println!("Sentinel, last writes lost: presence writes again {recovered:.2?} after");
    for node in &nodes {
        eventually(LEASE + SLACK, "a node shows the truth", async || {
            truth.wrong(node).await == Some(0)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_loses_a_master() {
    let redis = RedisCluster::own().await;
    let nodes = nodes(|node| cluster_presence(&redis, LEASE, node));
    let masters = redis.masters().await;
    assert_eq!(masters.len(), 3);
    survives("Cluster, master killed", &nodes, async || {
        masters[1].kill();
        eventually(DEADLINE, "a replica takes over", async || {
            redis.masters().await.len() == 3
        })
        .await;
    })
    .await;
}

/// Each word to and from its servers takes 20 milliseconds. They name each other by the
/// addresses that clients have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_cluster_loses_a_master() {
    let redis = RedisCluster::own().await;
    let mut proxies = Vec::new();
    for server in redis.servers() {
        let proxy = Proxy::start(&server.address()).await;
        proxy.fragment(64 * 1024, Duration::from_millis(20));
        let address = proxy.address();
        let (_, port) = address.rsplit_once(':').unwrap();
        let set = ["CONFIG", "SET", "cluster-announce-port", port];
        assert_eq!(server.command(&set).await.trim_end(), "+OK");
        proxies.push(proxy);
    }
    let addresses: Vec<_> = proxies.iter().map(Proxy::address).collect();
    for server in redis.servers() {
        eventually(DEADLINE, "a node names the new addresses", async || {
            let known = server.command(&["CLUSTER", "NODES"]).await;
            addresses.iter().all(|address| known.contains(address))
        })
        .await;
    }
    let config = RedisConfig {
        cluster: true,
        nodes: addresses.into_iter().map(Into::into).collect(),
        ..RedisConfig::default()
    };
    let nodes = nodes(|node| redis_presence_by(&redis.url(), &config, LEASE, node));
    let masters = redis.masters().await;
    survives("slow Cluster, master killed", &nodes, async || {
        masters[1].kill();
        eventually(DEADLINE, "a replica takes over", async || {
            redis.masters().await.len() == 3
        })
        .await;
    })
    .await;
}

/// Servers speak TLS alone with each other and with the gateway, and all show certificates.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_loses_a_master_over_tls() {
    let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let [server, client] = folders.each_ref().map(TempDir::path);
    let authority = Authority::new();
    authority.serve_from(server, "redis");
    authority.serve_from(client, "stentor");
    let redis = RedisCluster::own_with_tls(server).await;
    let addresses = redis.tls_addresses();
    let url = format!("rediss://{}/", addresses[0]);
    let config = RedisConfig {
        cluster: true,
        nodes: addresses.into_iter().map(Into::into).collect(),
        ca: client.join("ca.pem"),
        certificate: client.join("chain.pem"),
        key: client.join("key.pem"),
        ..RedisConfig::default()
    };
    let nodes = nodes(|node| redis_presence_by(&url, &config, LEASE, node));
    let masters = redis.masters().await;
    survives("Cluster over TLS, master killed", &nodes, async || {
        masters[1].kill();
        eventually(DEADLINE, "a replica takes over", async || {
            redis.masters().await.len() == 3
        })
        .await;
    })
    .await;
}

/// The cluster's client hides the change of a server, so the keeper looks for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_cluster_s_replica_had_not_heard_is_told_again() {
    let redis = RedisCluster::own().await;
    let nodes = nodes(|node| cluster_presence(&redis, LEASE, node));
    until_up(&nodes).await;
    let mut truth = Truth::default();
    for _ in 0..USERS {
        truth.change(&nodes);
    }
    truth.until_told(&nodes).await;
    let masters = redis.masters().await;
    let master = masters[0];
    master.forsake_replicas().await;
    for _ in 0..USERS {
        truth.change(&nodes);
    }
    // They came to the master: its users are told as they are.
    eventually(DEADLINE, "all is written", async || {
        truth.wrong(&nodes[0]).await == Some(0)
    })
    .await;
    let killed = Instant::now();
    master.kill();
    eventually(DEADLINE, "a replica takes over", async || {
        redis.masters().await.len() == 3
    })
    .await;
    let taken_over = killed.elapsed();
    let since = Instant::now();
    for node in &nodes {
        eventually(LEASE + SLACK, "a node shows the truth", async || {
            truth.wrong(node).await == Some(0)
        })
        .await;
    }
    println!(
        "Cluster, last writes lost: a replica has taken over {taken_over:.2?} after, and all is \
         right {:.2?} later (lease {LEASE:?})",
        since.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_of_a_cluster_move() {
    let redis = RedisCluster::own().await;
    let nodes = nodes(|node| cluster_presence(&redis, LEASE, node));
    let masters = redis.masters().await;
    survives(
        "Cluster, 600 slots moved there and back",
        &nodes,
        async || {
            redis.move_slots(masters[0], masters[1], 600).await;
            redis.move_slots(masters[1], masters[0], 600).await;
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_is_emptied() {
    let redis = Redis::own().await;
    let nodes = nodes(|node| redis_presence(&redis.url(), LEASE, node));
    survives("Redis emptied", &nodes, async || {
        redis.command(&["FLUSHALL"]).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_emptied() {
    let redis = RedisCluster::own().await;
    let nodes = nodes(|node| cluster_presence(&redis, LEASE, node));
    survives("Cluster emptied", &nodes, async || {
        for master in redis.masters().await {
            master.command(&["FLUSHALL"]).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_stands_still_for_a_while() {
    let redis = Redis::own().await;
    let nodes = nodes(|node| redis_presence(&redis.url(), LEASE, node));
    survives(
        "Redis stopped for longer than a lease",
        &nodes,
        async || {
            redis.signal("STOP");
            let stopped = Instant::now();
            eventually(DEADLINE, "a lease is over", async || {
                stopped.elapsed() > LEASE
            })
            .await;
            redis.signal("CONT");
        },
    )
    .await;
}
