//! A cluster of three RabbitMQ nodes loses one: the one that a feed's queue is on, the one that the
//! gateway's links lead to, both in one; and all three in turn. Each test prints its figures.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use stomp_grammar::{Command, Frame};
use testkit::{
    Cluster, DEADLINE, FEED, GatewayBuilder, Hook, Proxy, RabbitMq, StompClient, Vhost, eventually,
    within,
};
use tokio::{
    sync::{Mutex, OnceCell, OwnedMutexGuard},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use crate::house::{DESTINATION, House, KEY, stentor, vhost_on};

/// Clients hear of a gap within so many seconds, and are served again. The machine is busy.
const SOON: Duration = Duration::from_secs(20);

/// A gateway with an address for each node, behind which a test can close the door.
struct Scene {
    cluster: Arc<Cluster>,
    house: House,
    proxies: [Proxy; 3],
    _turn: OwnedMutexGuard<()>,
}

/// The cluster that all of these tests use, one after the other.
async fn cluster() -> (Arc<Cluster>, OwnedMutexGuard<()>) {
    static TURN: LazyLock<Arc<Mutex<()>>> = LazyLock::new(Arc::default);
    static CLUSTER: OnceCell<Arc<Cluster>> = OnceCell::const_new();
    let turn = Arc::clone(&TURN).lock_owned().await;
    let starting = CLUSTER.get_or_init(async || Arc::new(Cluster::start().await));
    let cluster = Arc::clone(starting.await);
    cluster.repair().await;
    (cluster, turn)
}

impl Scene {
    /// All links lead to the first node, and so feeds' queues are there.
    async fn open(settings: impl FnOnce(GatewayBuilder) -> GatewayBuilder) -> Self {
        let (cluster, turn) = cluster().await;
        let [one, two, three] = cluster.nodes();
        let vhost = vhost_on(one).await;
        let (one, two, three) = (one.amqp_address(), two.amqp_address(), three.amqp_address());
        let proxies = [
            Proxy::start(&one).await,
            Proxy::start(&two).await,
            Proxy::start(&three).await,
        ];
        for proxy in &proxies[1..] {
            proxy.refuse();
        }
        let urls: Vec<_> = proxies
            .iter()
            .map(|proxy| format!("amqp://guest:guest@{}", proxy.address()))
            .collect();
        let hook = Hook::start().await;
        let builder = stentor()
            .set("broker.urls", urls.join(","))
            .set("broker.vhosts", vhost.name())
            .set("broker.default_vhost", vhost.name())
            .set("broker.reconnect_max", "500ms")
            .set("mailbox.max_messages", "100000")
            .set("feed.shards", "1")
            .set("log.level", "info,stentor::broker=debug")
            .hook(&hook);
        let gateway = settings(builder).ready().await;
        let house = House {
            vhost,
            hook,
            gateway,
        };
        Self {
            cluster,
            house,
            proxies,
            _turn: turn,
        }
    }

    /// All links lead to this node now; if they lose it, they may go to any.
    async fn move_links(&self, node: &RabbitMq) {
        let mut place = String::new();
        for (proxy, one) in self.proxies.iter().zip(self.cluster.nodes()) {
            if one.name() == node.name() {
                proxy.forward();
                place = proxy.address();
            } else {
                proxy.refuse();
            }
        }
        eventually(DEADLINE, "all links lead there, and say so", async || {
            let (_, body) = self.house.gateway.admin("/readyz").await;
            let body: serde_json::Value = serde_json::from_str(&body).unwrap();
            body["status"] == "ready" && body["broker"] == serde_json::json!([place])
        })
        .await;
        for proxy in &self.proxies {
            proxy.forward();
        }
    }

    /// The feeds' queues, with the node that each is on.
    async fn feed_queues(&self) -> BTreeMap<String, String> {
        let mut queues = self.cluster.queues(self.house.vhost.name()).await;
        queues.retain(|name, _| name.starts_with("stentor.feed.") && !name.ends_with(".overflow"));
        queues
    }

    /// The node of the queue of the feed of [`FEED`]; `stentor.control` has another.
    async fn home(&self) -> &Arc<RabbitMq> {
        let vhost = self.house.vhost.name();
        let name = eventually(DEADLINE, "the feed's queue is on a node", async || {
            let bindings = self.cluster.other_than(&[]).api().bindings(vhost).await;
            let binding = bindings.iter().find(|binding| binding["source"] == FEED)?;
            let queue = binding["destination"].as_str()?;
            let node = self.feed_queues().await.get(queue)?.clone();
            (!node.is_empty()).then_some(node)
        })
        .await;
        let mut nodes = self.cluster.nodes().iter();
        nodes.find(|node| node.name() == name).expect("a node")
    }

    /// Starts to publish without a pause, at a node that is none of these.
    fn publish(&self, not_at: &[&RabbitMq]) -> Backend {
        let first = self.cluster.other_than(not_at);
        let mut nodes = vec![Arc::clone(first)];
        let others = self.cluster.nodes().iter().map(Arc::clone);
        nodes.extend(others.filter(|node| node.name() != first.name()));
        Backend::start(nodes, self.house.vhost.name().to_owned())
    }
}

/// Publishes 0, 1, 2, … and remembers which of them RabbitMQ confirmed.
struct Backend {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Published>,
}

#[derive(Debug, Default)]
struct Published {
    /// All below are confirmed.
    count: usize,
    /// Those that were published more than once, for the first confirm did not come.
    repeated: HashSet<usize>,
}

impl Backend {
    fn start(nodes: Vec<Arc<RabbitMq>>, vhost: String) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn(publish(nodes, vhost, Arc::clone(&stop)));
        Self { stop, task }
    }

    async fn stop(self) -> Published {
        self.stop.store(true, Ordering::Relaxed);
        within(2 * DEADLINE, "the backend ends", self.task)
            .await
            .expect("it does not panic")
    }
}

async fn publish(nodes: Vec<Arc<RabbitMq>>, vhost: String, stop: Arc<AtomicBool>) -> Published {
    let mut published = Published::default();
    let mut nodes = nodes.iter().cycle();
    // The last number is waited for, so there must be one: while a queue of before is bound still,
    // RabbitMQ confirms nothing.
    let goes_on = |published: &Published| published.count == 0 || !stop.load(Ordering::Relaxed);
    while goes_on(&published) {
        let node = nodes.next().expect("a cycle");
        let Ok(Ok(channel)) = timeout(DEADLINE, channel(node, &vhost)).await else {
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        while goes_on(&published) {
            let number = published.count;
            let publishing = timeout(Duration::from_secs(5), publish_one(&channel, number));
            match publishing.await {
                Ok(Ok(Confirmation::Ack(_))) => published.count += 1,
                // A queue of it is on a node that is down.
                Ok(Ok(_)) => {
                    published.repeated.insert(number);
                    sleep(Duration::from_millis(20)).await;
                }
                _ => {
                    published.repeated.insert(number);
                    break;
                }
            }
            sleep(Duration::from_millis(2)).await;
        }
    }
    published
}

async fn channel(node: &RabbitMq, vhost: &str) -> lapin::Result<Channel> {
    let url = node.amqp_url(vhost);
    let connection = Connection::connect(&url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
    Ok(channel)
}

async fn publish_one(channel: &Channel, number: usize) -> lapin::Result<Confirmation> {
    let properties = BasicProperties::default().with_delivery_mode(2);
    let body = number.to_string();
    let options = BasicPublishOptions::default();
    channel
        .basic_publish(
            FEED.into(),
            KEY.into(),
            options,
            body.as_bytes(),
            properties,
        )
        .await?
        .await
}

/// What a client got.
#[derive(Debug, Default)]
struct Received {
    /// How often each number came.
    counts: BTreeMap<usize, usize>,
    /// Numbers that came after a later one, for the first time.
    disordered: Vec<usize>,
    /// Numbers that came again without `redelivered:true`.
    unmarked: Vec<usize>,
    /// The longest time between two messages.
    gap: Duration,
}

impl Received {
    fn take(&mut self, frame: &Frame) {
        let body = String::from_utf8(frame.body.to_vec()).expect("text");
        let number: usize = body.parse().expect("a number");
        let latest = self.counts.last_key_value().map(|(latest, _)| *latest);
        let count = self.counts.entry(number).or_default();
        *count += 1;
        if *count > 1 && frame.header("redelivered") != Some("true") {
            self.unmarked.push(number);
        }
        if *count == 1 && latest.is_some_and(|latest| number < latest) {
            self.disordered.push(number);
        }
    }

    fn lost(&self, published: &Published) -> Vec<usize> {
        let all = 0..published.count;
        all.filter(|number| !self.counts.contains_key(number))
            .collect()
    }

    /// Those that came more often than they should, and did not say so.
    fn unmarked(&self, published: &Published) -> Vec<usize> {
        let once = self.unmarked.iter().copied();
        once.filter(|number| !published.repeated.contains(number))
            .collect()
    }

    /// Those that the backend published once, and that came more often.
    fn doubled(&self, published: &Published) -> Vec<usize> {
        let often = self.counts.iter().filter(|(_, count)| **count > 1);
        let numbers = often.map(|(number, _)| *number);
        numbers
            .filter(|number| !published.repeated.contains(number))
            .collect()
    }
}

/// Reads until the message with that number has come.
async fn read(
    client: &mut StompClient,
    received: &mut Received,
    until: impl Fn() -> Option<usize>,
) {
    let mut last = Instant::now();
    loop {
        let frame = client.next_frame();
        match timeout(Duration::from_millis(200), frame).await {
            Ok(Ok(frame)) if frame.command == Command::Message => {
                received.gap = received.gap.max(last.elapsed());
                last = Instant::now();
                received.take(&frame);
            }
            Ok(other) => panic!("the client does not stay: {other:?}"),
            Err(_) => {}
        }
        if until().is_some_and(|number| received.counts.contains_key(&number)) {
            return;
        }
        assert!(last.elapsed() < 2 * DEADLINE, "silence: {received:?}");
    }
}

fn version() -> String {
    let name = std::env::var("TESTKIT_RABBITMQ_BIN").unwrap_or_default();
    let mut parts = name.split('/').filter(|part| part.starts_with("rabbitmq-"));
    parts.next().unwrap_or("rabbitmq-3.10").to_owned()
}

/// Subscribes anew, however often that takes.
async fn come_back(house: &House) -> StompClient {
    eventually(2 * DEADLINE, "a client can subscribe again", async || {
        let mut client = house.tcp().await;
        let subscribe =
            format!("SUBSCRIBE\nid:feed\ndestination:{DESTINATION}\nreceipt:there\n\n\0");
        client.raw(subscribe).await;
        let answer = timeout(DEADLINE, client.next_frame()).await;
        match answer {
            Ok(Ok(frame)) if frame.command == Command::Receipt => Some(client),
            _ => None,
        }
    })
    .await
}

/// A client hears of the gap, comes back, and gets what is published from then on. In the end no
/// queue of a former life is left.
async fn a_feed_loses_its_queue(
    case: &str,
    links_at_home: bool,
    take_away: impl AsyncFnOnce(&Cluster, &RabbitMq),
    give_back: impl AsyncFnOnce(&Cluster, &RabbitMq),
) {
    let scene = Scene::open(|builder| builder).await;
    let house = &scene.house;
    let mut clients = house.subscribed().await;
    let mut bystander = house.tcp().await;
    let home = scene.home().await;
    let links = match links_at_home {
        true => home,
        false => scene.cluster.other_than(&[home]),
    };
    scene.move_links(links).await;
    let old: HashSet<_> = scene.feed_queues().await.into_keys().collect();

    take_away(&scene.cluster, home).await;
    let gone = Instant::now();
    for client in &mut clients {
        client.expect_error("feed interrupted").await;
    }
    let told = gone.elapsed();
    let mut client = come_back(house).await;
    let back = gone.elapsed();
    let backend = scene.publish(&[home]);
    let first = within(2 * DEADLINE, "a message comes", client.next_frame());
    let first = first.await.expect("it stays");
    let served = gone.elapsed();
    assert_eq!(first.command, Command::Message);
    let mut received = Received::default();
    received.take(&first);
    sleep(Duration::from_secs(1)).await;
    let published = backend.stop().await;
    let last = published.count.checked_sub(1);
    read(&mut client, &mut received, || last).await;
    // Numbers that were refused before the new queue was there came later, or never.
    assert_eq!(received.unmarked(&published), [0_usize; 0]);
    assert_eq!(received.lost(&published), [0_usize; 0]);
    bystander
        .publish("/exchange/feed/nobody", "still here")
        .await;
    println!(
        "FIGURES {} {case}: told after {told:.1?}, subscribed again after {back:.1?}, served after \
         {served:.1?}; {} confirmed since, 0 of them lost",
        version(),
        published.count
    );
    assert!(told < SOON && served < 2 * SOON, "{told:?} {served:?}");

    give_back(&scene.cluster, home).await;
    eventually(4 * DEADLINE, "the old queue is deleted", async || {
        let queues = scene.feed_queues().await;
        !queues.keys().any(|name| old.contains(name)) && queues.len() == old.len()
    })
    .await;
}

#[tokio::test]
async fn the_node_of_a_feed_s_queue_is_killed() {
    let kill = async |_: &Cluster, node: &RabbitMq| node.kill();
    let start = async |cluster: &Cluster, _: &RabbitMq| cluster.repair().await;
    a_feed_loses_its_queue("queue's node killed", false, kill, start).await;
}

#[tokio::test]
async fn the_node_of_a_feed_s_queue_and_of_all_links_is_killed() {
    let kill = async |_: &Cluster, node: &RabbitMq| node.kill();
    let start = async |cluster: &Cluster, _: &RabbitMq| cluster.repair().await;
    a_feed_loses_its_queue("queue's and links' node killed", true, kill, start).await;
}

async fn a_feed_s_node_is_isolated(case: &str, links_at_home: bool) {
    let isolate = async |cluster: &Cluster, node: &RabbitMq| cluster.isolate(node).await;
    let rejoin = async |cluster: &Cluster, node: &RabbitMq| {
        cluster.rejoin(node).await;
        cluster.repair().await;
    };
    a_feed_loses_its_queue(case, links_at_home, isolate, rejoin).await;
}

#[tokio::test]
async fn the_node_of_a_feed_s_queue_is_cut_off_from_the_others() {
    a_feed_s_node_is_isolated("queue's node cut off", false).await;
}

/// RabbitMQ 4.3 leaves the links as they are.
#[tokio::test]
async fn the_node_of_a_feed_s_queue_and_of_all_links_is_cut_off_from_the_others() {
    a_feed_s_node_is_isolated("queue's and links' node cut off", true).await;
}

/// As by a network that drops packets: no connection is closed, and the nodes have to notice.
async fn a_feed_s_node_is_cut_off_without_a_word(case: &str, links_at_home: bool) {
    let cut_off = async |cluster: &Cluster, node: &RabbitMq| cluster.cut_off(node);
    let reconnect = async |cluster: &Cluster, _: &RabbitMq| {
        cluster.reconnect();
        cluster.repair().await;
    };
    a_feed_loses_its_queue(case, links_at_home, cut_off, reconnect).await;
}

#[tokio::test]
async fn the_node_of_a_feed_s_queue_is_cut_off_without_a_word() {
    let case = "queue's node cut off without a word";
    a_feed_s_node_is_cut_off_without_a_word(case, false).await;
}

#[tokio::test]
async fn the_node_of_a_feed_s_queue_and_of_all_links_is_cut_off_without_a_word() {
    let case = "queue's and links' node cut off without a word";
    a_feed_s_node_is_cut_off_without_a_word(case, true).await;
}

/// Nothing is lost, doubled or swapped, and nobody is disconnected: the queue is elsewhere.
#[tokio::test]
async fn the_node_of_all_links_is_killed() {
    let scene = Scene::open(|builder| builder).await;
    let [mut client, _] = scene.house.subscribed().await;
    let home = scene.home().await;
    let links = scene.cluster.other_than(&[home]);
    scene.move_links(links).await;

    let (received, published) = under_traffic(&scene, &mut client, &[home, links], async || {
        links.kill();
        scene.house.gateway.until_ready().await;
    })
    .await;
    tell("links' node killed", &received, &published);
    assert_eq!(received.doubled(&published), [0_usize; 0]);
    assert_eq!(received.unmarked(&published), [0_usize; 0]);
}

/// The figures of a client while `happen` does. It stays connected, or the test fails.
async fn under_traffic(
    scene: &Scene,
    client: &mut StompClient,
    not_at: &[&RabbitMq],
    happen: impl AsyncFnOnce(),
) -> (Received, Published) {
    let backend = scene.publish(not_at);
    let mut received = Received::default();
    read(client, &mut received, || Some(100)).await;
    let done = std::cell::OnceCell::new();
    let happening = async {
        happen().await;
        let seconds = sleep(Duration::from_secs(2));
        seconds.await;
        let published = backend.stop().await;
        let _ = done.set(published);
    };
    let last = || {
        done.get()
            .and_then(|published: &Published| published.count.checked_sub(1))
    };
    tokio::join!(happening, read(client, &mut received, last));
    let published = done.into_inner().expect("it is done");
    assert_eq!(received.lost(&published), [0_usize; 0], "lost");
    assert_eq!(received.disordered, [0_usize; 0], "out of order");
    (received, published)
}

fn tell(case: &str, received: &Received, published: &Published) {
    println!(
        "FIGURES {} {case}: {} confirmed, 0 lost, {} doubled (all marked), longest silence {:.1?}",
        version(),
        published.count,
        received.doubled(published).len(),
        received.gap
    );
}

async fn replicated() -> (Scene, StompClient) {
    let scene = Scene::open(|builder| builder.set("feed.replicated", "true")).await;
    let mut client = scene.house.tcp().await;
    client.subscribe("feed", DESTINATION).await;
    (scene, client)
}

#[tokio::test]
async fn a_replicated_feed_outlives_its_leader() {
    let (scene, mut client) = replicated().await;
    let leader = scene.home().await;
    scene.move_links(scene.cluster.other_than(&[leader])).await;
    let (received, published) = under_traffic(&scene, &mut client, &[leader], async || {
        leader.kill();
    })
    .await;
    tell("replicated, leader killed", &received, &published);
    assert_eq!(received.unmarked(&published), [0_usize; 0]);
}

#[tokio::test]
async fn a_replicated_feed_outlives_the_node_of_its_leader_and_of_all_links() {
    let (scene, mut client) = replicated().await;
    let leader = scene.home().await;
    scene.move_links(leader).await;
    let (received, published) = under_traffic(&scene, &mut client, &[leader], async || {
        leader.kill();
        scene.house.gateway.until_ready().await;
    })
    .await;
    tell(
        "replicated, leader's and links' node killed",
        &received,
        &published,
    );
    assert_eq!(received.unmarked(&published), [0_usize; 0]);
}

#[tokio::test]
async fn a_replicated_feed_outlives_a_rolling_restart() {
    let (scene, mut client) = replicated().await;
    for proxy in &scene.proxies {
        proxy.forward();
    }
    let (received, published) = under_traffic(&scene, &mut client, &[], async || {
        for node in scene.cluster.nodes() {
            node.stop().await;
            node.start().await;
            scene.cluster.repair().await;
        }
    })
    .await;
    tell("replicated, rolling restart", &received, &published);
    assert_eq!(received.unmarked(&published), [0_usize; 0]);
}

/// A consumer of its own is told, and so is whoever asks for the queue meanwhile; when the node is
/// back, the queue's messages are there.
#[tokio::test]
async fn a_consumer_hears_that_its_queue_s_node_is_down() {
    let scene = Scene::open(|builder| builder.set("broker.operation_timeout", "3s")).await;
    let (house, cluster) = (&scene.house, &scene.cluster);
    let subscribe = "SUBSCRIBE\nid:q\ndestination:/queue/orders\nack:client-individual\n\
                     x-queue-type:classic\nreceipt:there\n\n\0";
    let mut client = house.tcp().await;
    client.raw(subscribe).await;
    client.expect_receipt("there").await;
    let home = cluster.queues(house.vhost.name()).await["orders"].clone();
    let home = cluster.nodes().iter().find(|node| node.name() == home);
    let home = home.expect("its node");
    for links_at_home in [false, true] {
        let links = match links_at_home {
            true => home,
            false => cluster.other_than(&[home]),
        };
        scene.move_links(links).await;
        house
            .vhost_at(cluster.other_than(&[home]))
            .publish("", "orders", ["an order"])
            .await;
        client.expect_message("an order").await;

        home.kill();
        let gone = Instant::now();
        let error = within(SOON, "the client is told", client.next_frame()).await;
        let error = error.expect("an ERROR comes before the end");
        assert_eq!(error.command, Command::Error, "{error:?}");
        let told = gone.elapsed();
        let mut again = house.tcp().await;
        again.raw(subscribe).await;
        again.expect_error("broker unavailable").await;
        println!(
            "FIGURES {} consumer, links at its queue's node {links_at_home}: told after {told:.1?}",
            version()
        );
        cluster.repair().await;
        client = eventually(2 * DEADLINE, "the queue is back", async || {
            let mut client = house.tcp().await;
            client.raw(subscribe).await;
            let answer = timeout(DEADLINE, client.next_frame()).await.ok()?.ok()?;
            let is_there = matches!(answer.command, Command::Receipt | Command::Message);
            is_there.then_some(client)
        })
        .await;
        // The order that nobody acknowledged comes again; and all is settled before the next round.
        drop(client);
        cluster
            .other_than(&[])
            .api()
            .delete_queue(house.vhost.name(), "orders")
            .await;
        scene.move_links(home).await;
        client = house.tcp().await;
        client.raw(subscribe).await;
        client.expect_receipt("there").await;
    }
}

impl House {
    /// The virtual host at another node of the cluster.
    fn vhost_at(&self, node: &Arc<RabbitMq>) -> Vhost {
        node.its_vhost(self.vhost.name())
    }
}
