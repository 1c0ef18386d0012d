//! Publishers at a steady rate, and clients that come back whenever they are sent away.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use lapin::{BasicProperties, Confirmation, options::BasicPublishOptions};
use stomp_grammar::{Command, Frame};
use testkit::{DEADLINE, FEED, StompClient, Vhost, eventually, within};
use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};

use super::{
    cluster::{Balancer, Cluster, Transport},
    stories::{End, Heard, Stay, Story},
};

/// Each user is the name of a feed, with a plain and a durable subscriber.
const USERS: usize = 12;
/// So often each user gets a message of the backend's, and one of the STOMP client's.
const BACKEND_PACE: Duration = Duration::from_millis(20);
const SENDER_PACE: Duration = Duration::from_millis(50);
/// The last message of each feed.
const END: &str = "end";

/// Two publishers, one by AMQP and one by STOMP, that send numbered messages to every user; and
/// two subscribers of each user.
pub(super) struct Traffic {
    vhost: Vhost,
    progress: Arc<Progress>,
    listeners: Vec<(Listener, JoinHandle<Story>)>,
    backend: JoinHandle<(usize, BTreeSet<usize>)>,
    sender: JoinHandle<usize>,
}

#[derive(Default)]
struct Progress {
    /// Listeners that have a RECEIPT for their subscription, and a connection.
    subscribed: AtomicUsize,
    /// Messages for each user that RabbitMQ has confirmed to the backend.
    published: AtomicUsize,
    /// The publishers are to stop.
    stop: AtomicBool,
}

impl Traffic {
    /// Begins once everybody is subscribed, so that from the first number on nothing may be
    /// missing.
    pub(super) async fn start(cluster: &Cluster) -> Self {
        let progress = Arc::new(Progress::default());
        let listeners: Vec<_> = Listener::all()
            .map(|listener| {
                let balancer = Arc::clone(&cluster.balancer);
                let story = listener.clone().run(balancer, Arc::clone(&progress));
                (listener, tokio::spawn(story))
            })
            .collect();
        until_subscribed(&progress).await;
        let backend = backend(cluster.vhost.clone(), Arc::clone(&progress));
        let sender = sender(Arc::clone(&cluster.balancer), Arc::clone(&progress));
        let traffic = Self {
            vhost: cluster.vhost.clone(),
            progress,
            listeners,
            backend: tokio::spawn(backend),
            sender: tokio::spawn(sender),
        };
        traffic.flows().await;
        traffic
    }

    /// The names that the subscribers log in by.
    pub(super) fn users() -> Vec<String> {
        Listener::all().map(|listener| listener.login()).collect()
    }

    /// Waits until everybody is subscribed, wherever they were sent.
    pub(super) async fn everybody_is_back(&self) {
        until_subscribed(&self.progress).await;
    }

    /// Waits until a good many messages more are published.
    pub(super) async fn flows(&self) {
        let before = self.progress.published.load(Ordering::Relaxed);
        eventually(DEADLINE, "messages are published", async || {
            self.progress.published.load(Ordering::Relaxed) >= before + 20
        })
        .await;
    }

    /// Ends the publishers, and then, by a last message each, the subscribers. Returns the messages
    /// sent, and each subscriber's story.
    pub(super) async fn end(self) -> (Sent, Vec<(Listener, Story)>) {
        self.everybody_is_back().await;
        self.progress.stop.store(true, Ordering::Relaxed);
        let (by_backend, nacked) = within(DEADLINE, "the backend stops", self.backend)
            .await
            .unwrap();
        let sent = Sent {
            by_backend,
            nacked,
            by_sender: within(DEADLINE, "the sender stops", self.sender)
                .await
                .unwrap(),
        };
        for user in 0..USERS {
            self.vhost.publish(FEED, &key(user), [END]).await;
        }
        let stories = join_all(self.listeners.into_iter().map(async |(listener, story)| {
            let what = format!("the last message of {}", listener.login());
            (listener, within(DEADLINE, what, story).await.unwrap())
        }));
        (sent, stories.await)
    }
}

async fn until_subscribed(progress: &Progress) {
    eventually(DEADLINE, "everybody is subscribed", async || {
        progress.subscribed.load(Ordering::Relaxed) == Listener::all().count()
    })
    .await;
}

/// Messages for each user, numbered from 0.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) by_backend: usize,
    /// Those that the backend sent again.
    pub(super) nacked: BTreeSet<usize>,
    pub(super) by_sender: usize,
}

fn key(user: usize) -> String {
    format!("user_{user}")
}

fn destination(user: usize) -> String {
    format!("/exchange/{FEED}/{}", key(user))
}

/// Publishes as a backend does: by AMQP, in order, without waiting for each confirm. It publishes
/// nacked messages again: 4.3 nacks a message for several queues, one of which ends just then (3.10
/// confirms it), and the others have it.
async fn backend(vhost: Vhost, progress: Arc<Progress>) -> (usize, BTreeSet<usize>) {
    let channel = vhost.channel().await;
    let mut pace = interval(BACKEND_PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut number = 0;
    let mut nacked = BTreeSet::new();
    while !progress.stop.load(Ordering::Relaxed) {
        pace.tick().await;
        let mut users: Vec<usize> = (0..USERS).collect();
        while !users.is_empty() {
            let mut confirms = Vec::with_capacity(users.len());
            for user in users.drain(..) {
                let confirm = channel
                    .basic_publish(
                        FEED.into(),
                        key(user).into(),
                        BasicPublishOptions::default(),
                        Heard::Backend(number).to_string().as_bytes(),
                        BasicProperties::default().with_delivery_mode(2),
                    )
                    .await;
                confirms.push((user, confirm.unwrap()));
            }
            for (user, confirm) in confirms {
                match confirm.await.unwrap() {
                    Confirmation::Ack(None) => {}
                    Confirmation::Nack(None) => {
                        users.push(user);
                        nacked.insert(number);
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        number += 1;
        progress.published.store(number, Ordering::Relaxed);
    }
    (number, nacked)
}

/// Publishes as a STOMP client that wants no loss: the next connection sends every message
/// without a RECEIPT again.
async fn sender(balancer: Arc<Balancer>, progress: Arc<Progress>) -> usize {
    let mut pace = interval(SENDER_PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut number, mut user) = (0, 0);
    loop {
        let (_, mut client) = balancer.connect(Transport::WebSocket).await;
        client.send(&balancer.login("sender").frame()).await;
        if !answered(&mut client, Command::Connected).await {
            continue;
        }
        loop {
            if user == USERS {
                (number, user) = (number + 1, 0);
                pace.tick().await;
            }
            if user == 0 && progress.stop.load(Ordering::Relaxed) {
                client.disconnect().await;
                return number;
            }
            let send = Frame::new(Command::Send)
                .with_header("destination", &destination(user))
                .with_header("receipt", "r")
                .with_body(Heard::Sender(number).to_string());
            client.send(&send).await;
            if !answered(&mut client, Command::Receipt).await {
                break;
            }
            user += 1;
        }
    }
}

/// True if the next frame is this one; false if the connection ends.
async fn answered(client: &mut StompClient, command: Command) -> bool {
    matches!(client.next_frame().await, Ok(frame) if frame.command == command)
}

/// A client that subscribes to a user's feed, and comes back whenever it is sent away.
#[derive(Clone, Debug)]
pub(super) struct Listener {
    user: usize,
    pub(super) kind: Kind,
    pub(super) transport: Transport,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `ack:auto`, by the node's shared feed.
    Plain,
    /// `durable:true`, with a queue of its own, which it acknowledges.
    Durable,
}

impl Listener {
    fn all() -> impl Iterator<Item = Self> {
        let transports = [Transport::Tcp, Transport::WebSocket];
        (0..USERS).flat_map(move |user| {
            [Kind::Plain, Kind::Durable].map(|kind| Self {
                user,
                kind,
                transport: transports[user % 2],
            })
        })
    }

    pub(super) fn login(&self) -> String {
        match self.kind {
            Kind::Plain => format!("plain_{}", self.user),
            Kind::Durable => format!("durable_{}", self.user),
        }
    }

    fn subscribe(&self) -> Frame {
        let frame = Frame::new(Command::Subscribe)
            .with_header("id", "feed")
            .with_header("receipt", "subscribed")
            .with_header("destination", &destination(self.user));
        let frame = match self.kind {
            Kind::Plain => return frame,
            Kind::Durable => frame
                .with_header("durable", "true")
                .with_header("auto-delete", "false")
                .with_header("ack", "client-individual")
                .with_header("prefetch-count", "10"),
        };
        // Some have a queue named by user, destination and id, some by a name of their choice.
        match self.user % 4 {
            0 | 1 => frame,
            _ => frame.with_header("x-queue-name", &format!("mine-{}", self.user)),
        }
    }

    /// Until the last message.
    async fn run(self, balancer: Arc<Balancer>, progress: Arc<Progress>) -> Story {
        let mut story = Story::default();
        loop {
            let (node, client) = balancer.connect(self.transport).await;
            let mut stay = Stay::at(node);
            let visit = Visit {
                client,
                progress: &progress,
                subscribed: None,
                unsettled: None,
            };
            let end = visit.run(&self, &balancer, &mut stay).await;
            let told = end.map(|(error, closed)| End {
                error,
                closed,
                watched: balancer.watched(),
            });
            stay.end = told;
            let is_over = stay.end.is_none();
            story.stays.push(stay);
            if is_over {
                return story;
            }
        }
    }
}

/// One connection of a listener.
struct Visit<'a> {
    client: StompClient,
    progress: &'a Progress,
    subscribed: Option<Subscribed<'a>>,
    /// The `ack` of the last message. It is acknowledged when the next one has come, so that
    /// there is always one that is not.
    unsettled: Option<String>,
}

impl Visit<'_> {
    /// The end: the ERROR, and the close of the connection; `None` after the last message.
    async fn run(
        mut self,
        listener: &Listener,
        balancer: &Balancer,
        stay: &mut Stay,
    ) -> Option<(Option<String>, testkit::Closed)> {
        let login = balancer.login(&listener.login());
        self.client.send(&login.frame()).await;
        let mut error = None;
        loop {
            let frame = match self.client.next_frame().await {
                Ok(frame) => frame,
                Err(closed) => return Some((error, closed)),
            };
            match frame.command {
                Command::Connected => self.client.send(&listener.subscribe()).await,
                Command::Receipt => self.subscribed = Some(Subscribed::new(self.progress)),
                Command::Error => error = frame.header("message").map(ToOwned::to_owned),
                _ => {
                    self.settle().await;
                    self.unsettled = frame.header("ack").map(ToOwned::to_owned);
                    if frame.body == END {
                        self.settle().await;
                        self.client.disconnect().await;
                        return None;
                    }
                    stay.heard(&frame);
                }
            }
        }
    }

    async fn settle(&mut self) {
        if let Some(ack) = self.unsettled.take() {
            let ack = Frame::new(Command::Ack).with_header("id", &ack);
            self.client.send(&ack).await;
        }
    }
}

/// Counts in [`Progress::subscribed`].
struct Subscribed<'a>(&'a Progress);

impl<'a> Subscribed<'a> {
    fn new(progress: &'a Progress) -> Self {
        progress.subscribed.fetch_add(1, Ordering::Relaxed);
        Self(progress)
    }
}

impl Drop for Subscribed<'_> {
    fn drop(&mut self) {
        self.0.subscribed.fetch_sub(1, Ordering::Relaxed);
    }
}
