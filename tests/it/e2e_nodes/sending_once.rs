//! Numbered SENDs over three nodes, while connections are cut and a node is killed: nothing is
//! lost, and nothing comes twice without the mark.

use std::{
    collections::HashMap,
    env,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{StreamExt, future::join_all};
use lapin::{
    options::{BasicConsumeOptions, QueueBindOptions, QueueDeclareOptions},
    types::FieldTable,
};
use serde_json::json;
use stomp_grammar::{Command as Verb, Frame};
use testkit::{DEADLINE, FEED, Login, StompClient, Vhost, eventually, within};
use tokio::{process::Command, task::JoinHandle};

use super::cluster::{Balancer, Cluster, Transport};

/// SENDs in all, and clients, unless the environment says otherwise.
const SENDS: usize = 20_000;
const CLIENTS: usize = 100;
/// A connection is cut after so many frames of its client.
const FRAMES: usize = 100;
/// SENDs without a receipt, at most.
const AHEAD: u64 = 50;
/// How long all may take for each thousand SENDs, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(3);

fn from_environment(name: &str, otherwise: usize) -> usize {
    env::var(name).map_or(otherwise, |text| text.parse().expect(name))
}

#[tokio::test]
async fn nothing_is_lost_and_nothing_is_doubled_unmarked() {
    let sends = from_environment("STENTOR_ONCE_SENDS", SENDS);
    let clients = from_environment("STENTOR_ONCE_CLIENTS", CLIENTS);
    let each = u64::try_from(sends / clients).unwrap();
    let mut cluster = Cluster::open(|_, builder| builder.set("sequences.store", "redis")).await;
    let counted = count(&cluster.vhost).await;
    let begun = Instant::now();
    let (done, cuts) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let senders = (0..clients).map(|client| {
        let sender = Sender {
            balancer: Arc::clone(&cluster.balancer),
            user: format!("sender_{client}"),
            each,
            receipted: 0,
            done: Arc::clone(&done),
            cuts: Arc::clone(&cuts),
        };
        tokio::spawn(sender.run())
    });
    let senders: Vec<JoinHandle<()>> = senders.collect();
    let patience = DEADLINE + PATIENCE * u32::try_from(sends / 1_000).unwrap();
    for (node, part) in [(0, 3), (1, 2)] {
        // A third of it is done, then the half.
        eventually(patience, "messages are sent", async || {
            done.load(Ordering::Relaxed) > sends / part
        })
        .await;
        cluster.kill(node).await;
        cluster.revive(node).await;
    }
    for outcome in within(patience, "all are sent", join_all(senders)).await {
        outcome.unwrap();
    }
    let took = begun.elapsed();
    let counts = within(patience, "the last message", counted.finish()).await;
    let mut marked = 0;
    let mut doubled = 0;
    for client in 0..clients {
        for number in 1..=each {
            let id = format!("seq/sender_{client}/phone/{number}");
            let (plain, with_mark) = counts.get(&id).copied().unwrap_or_default();
            assert!(plain + with_mark > 0, "{id} is lost");
            assert!(plain <= 1, "{id} came {plain} times without the mark");
            marked += with_mark;
            doubled += usize::from(plain + with_mark > 1);
        }
    }
    assert_eq!(counts.len(), clients * usize::try_from(each).unwrap());
    let cuts = cuts.load(Ordering::Relaxed);
    println!(
        "{sends} SENDs of {clients} clients in {:.1} s; {cuts} connections cut, 2 nodes killed: 0 \
         lost, 0 doubled unmarked; {marked} marked, of which {doubled} were doubled",
        took.as_secs_f64()
    );
    assert!(cuts >= clients, "{cuts}");
}

/// One client, which numbers its messages, and has its connection cut.
struct Sender {
    balancer: Arc<Balancer>,
    user: String,
    each: u64,
    receipted: u64,
    done: Arc<AtomicUsize>,
    cuts: Arc<AtomicUsize>,
}

impl Sender {
    async fn run(mut self) {
        while self.receipted < self.each {
            if self.visit().await.is_none() {
                // The node is gone, or refused it.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    fn receipted(&mut self, number: u64) {
        let news = number.saturating_sub(self.receipted);
        self.receipted += news;
        self.done
            .fetch_add(usize::try_from(news).unwrap(), Ordering::Relaxed);
    }

    /// One connection, until it is cut.
    async fn visit(&mut self) -> Option<()> {
        let mut client = self.balancer.try_connect().await?;
        let mut login: Login = self.balancer.login(&self.user);
        login.headers = vec![
            ("device-id", "phone".to_owned()),
            ("client-seq", self.receipted.to_string()),
        ];
        client.send(&login.frame()).await;
        let connected = client.next_frame().await.ok()?;
        let last = connected.header("last-client-seq")?.parse().unwrap();
        assert!(last >= self.receipted, "{last}");
        self.receipted(last);
        let mut sent = last;
        for _ in 0..FRAMES {
            if sent == self.each {
                break;
            }
            sent += 1;
            client.send(&self.message(sent)).await;
            if sent - self.receipted >= AHEAD {
                self.receipt(&mut client).await?;
            }
        }
        if sent == self.each {
            while self.receipted < self.each {
                self.receipt(&mut client).await?;
            }
        } else {
            self.cuts.fetch_add(1, Ordering::Relaxed);
        }
        // Dropped: the rest of the receipts is not read.
        Some(())
    }

    async fn receipt(&mut self, client: &mut StompClient) -> Option<()> {
        let frame = client.next_frame().await.ok()?;
        let id = frame.header("receipt-id");
        if frame.command != Verb::Receipt {
            assert_ne!(frame.header("message"), Some("sequence gap"), "{frame:?}");
            return None;
        }
        self.receipted(id?.parse().unwrap());
        Some(())
    }

    fn message(&self, number: u64) -> Frame {
        Frame::new(Verb::Send)
            .with_header("destination", &format!("/exchange/{FEED}/{}", self.user))
            .with_header("client-seq", &number.to_string())
            .with_header("receipt", &number.to_string())
            .with_body(number.to_string())
    }
}

/// The copies of each message that came: without the mark, and with it.
type Counts = HashMap<String, (usize, usize)>;

struct Counted {
    vhost: Vhost,
    counting: JoinHandle<Counts>,
}

/// Counts all that comes to the exchange.
async fn count(vhost: &Vhost) -> Counted {
    let channel = vhost.channel().await;
    let table = FieldTable::default;
    let options = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    let declared = channel.queue_declare("all".into(), options, table());
    declared.await.unwrap();
    let bind = QueueBindOptions::default();
    let bound = channel.queue_bind("all".into(), FEED.into(), "#".into(), bind, table());
    bound.await.unwrap();
    // RabbitMQ need not hear of each: only this test reads there.
    let options = BasicConsumeOptions {
        no_ack: true,
        ..BasicConsumeOptions::default()
    };
    let consuming = channel.basic_consume("all".into(), "".into(), options, table());
    let mut consumer = consuming.await.unwrap();
    let counting = async move {
        let _channel = channel;
        let mut counts = Counts::new();
        while let Some(delivery) = consumer.next().await {
            let delivery = delivery.unwrap();
            let properties = &delivery.properties;
            let Some(id) = properties.message_id() else {
                break;
            };
            let headers = properties.headers().as_ref();
            let is_marked =
                headers.is_some_and(|all| all.inner().contains_key("x-possible-duplicate"));
            let (plain, marked) = counts.entry(id.to_string()).or_default();
            match is_marked {
                false => *plain += 1,
                true => *marked += 1,
            }
        }
        counts
    };
    Counted {
        vhost: vhost.clone(),
        counting: tokio::spawn(counting),
    }
}

impl Counted {
    /// The last message is one without a name.
    async fn finish(self) -> Counts {
        self.vhost.publish(FEED, "end", ["end"]).await;
        self.counting.await.unwrap()
    }
}

/// The example of the page for users, as it stands there.
#[tokio::test]
async fn the_example_of_the_page_sends_once() {
    let cluster = Cluster::open(|_, builder| builder.set("sequences.store", "redis")).await;
    let counted = count(&cluster.vhost).await;
    let login = cluster.balancer.login("alice");
    let order = json!({
        "url": cluster.gateway(0).ws_url(),
        "login": login.user,
        "passcode": login.passcode,
        "host": login.vhost,
        "destination": format!("/exchange/{FEED}/alice"),
        "count": 300,
    });
    let ran = Command::new("node")
        .arg("sending-once.mjs")
        .arg(order.to_string())
        .current_dir(testkit::tests_dir().join("js"))
        .output();
    let ran = within(DEADLINE, "the example", ran).await.unwrap();
    let (out, err) = (ran.stdout, String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{err}");
    let said: serde_json::Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(said, json!({ "done": 300, "kept": 0, "cuts": 6 }), "{err}");
    let counts = within(DEADLINE, "the last message", counted.finish()).await;
    assert_eq!(counts.len(), 300);
    assert!(counts.values().all(|(plain, _)| *plain <= 1), "{counts:?}");
}

/// Without a Redis nobody is told that a message is at the broker, and with it again all go on.
#[tokio::test]
async fn redis_goes_away_and_comes_back() {
    let cluster = Cluster::open(|_, builder| builder.set("sequences.store", "redis")).await;
    let mut login = cluster.balancer.login("alice");
    login.headers = vec![
        ("device-id", "phone".to_owned()),
        ("client-seq", "0".to_owned()),
    ];
    let (_, mut client) = cluster.balancer.connect(Transport::WebSocket).await;
    client.connect(&login).await;
    let send = |number: &str| {
        Frame::new(Verb::Send)
            .with_header("destination", &format!("/exchange/{FEED}/alice"))
            .with_header("client-seq", number)
    };
    client.request(send("1")).await;
    cluster.redis.kill();
    client.send(&send("2").with_header("receipt", "2")).await;
    let error = client.expect_error("sequences unavailable").await;
    assert_eq!(error.header("reconnect"), Some("5s"));
    let (_, mut client) = cluster.balancer.connect(Transport::Tcp).await;
    client.send(&login.frame()).await;
    client.expect_error("sequences unavailable").await;
    cluster.redis.start().await;
    // It has forgotten everything, and the client has not.
    login.headers[1].1 = "1".to_owned();
    let connected = eventually(DEADLINE, "the client is back", async || {
        let (_, mut client) = cluster.balancer.connect(Transport::Tcp).await;
        client.send(&login.frame()).await;
        let frame = client.next_frame().await.ok()?;
        (frame.command == Verb::Connected).then_some((client, frame))
    });
    let (mut client, connected) = connected.await;
    assert_eq!(connected.header("last-client-seq"), Some("1"));
    client.request(send("2")).await;
}
