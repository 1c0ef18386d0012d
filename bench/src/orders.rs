//! The coordinator's orders to its workers, and their reports: JSON, a line each, over a worker's
//! standard input and output.

use std::{net::SocketAddr, path::PathBuf};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::{latency::Counts, verify::Verification, wire::dialect::Dialect};

/// An order to a worker. One is carried out after the other.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) enum Order {
    /// Opens connections and subscribes; they stay, and keep their heart-beats.
    Connect(Connect),
    /// Publishes there, and checks what arrives.
    Load(Load, Publish),
    /// Waits for one message to everybody, of this run.
    Hear(u32),
    /// Everybody sends to everybody.
    Chat(Chat),
    /// Keeps the connections, and opens those anew that are lost.
    Stand(Stand),
    /// Ends the measurement of the load under way, or a [`Order::Stand`] without a number; without
    /// one of them, does nothing.
    Enough,
}

/// Messages of everybody to everybody, over their own connections.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Chat {
    /// In each everybody sends one.
    pub(crate) rounds: u64,
    /// A round begins when all but so many of those before it have arrived everywhere.
    pub(crate) ahead: u64,
    /// The length of a body in bytes.
    pub(crate) size: usize,
}

/// Connections that stay, and what becomes of those that are lost.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Stand {
    /// They are opened anew at these servers in turn.
    pub(crate) servers: Vec<SocketAddr>,
    /// How many are opened at once.
    pub(crate) at_once: u32,
    /// It is done when so many were lost, and are back. `None`: at [`Order::Enough`].
    pub(crate) until_lost: Option<u32>,
}

/// Connections to open. Each is done when all its receipts are there.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Connect {
    /// The server's address for WebSockets.
    pub(crate) server: SocketAddr,
    /// It speaks TLS, with a certificate of this authority (PEM).
    pub(crate) authority: Option<PathBuf>,
    /// The number of the first user, in this worker's own range.
    pub(crate) first: u32,
    pub(crate) count: u32,
    /// How many are opened at once.
    pub(crate) at_once: u32,
    /// Those that are refused or lost try again, as clients do; otherwise the first is the end.
    pub(crate) again: bool,
    pub(crate) habits: Habits,
}

/// The habits of all connections.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Habits {
    pub(crate) dialect: Dialect,
    pub(crate) transport: Transport,
    /// Subscribes to the key of its user.
    pub(crate) own_key: bool,
    /// Subscribes to the key of everybody.
    pub(crate) common_key: bool,
    /// All log in as the same user, and subscribe to its key.
    pub(crate) same_user: bool,
    /// The interval of heart-beats both ways; 0: no heart-beats.
    pub(crate) heart_beat_ms: u32,
    /// The share of connections that stop to read when a load begins.
    pub(crate) slow_percent: u32,
}

/// Messages to publish, and what happens beside.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Load {
    /// To each user in turn.
    pub(crate) unicast: Option<Pace>,
    /// Connections that publish those. The messages to a user are always one's. Of several some may
    /// be lost: that is a trouble, and not the end.
    pub(crate) publishers: usize,
    /// To everybody.
    pub(crate) broadcast: Option<Pace>,
    /// Clients or subscriptions that come and go meanwhile.
    pub(crate) churn: Option<Churn>,
    /// The length of a body in bytes.
    pub(crate) size: usize,
    /// Not measured, but checked.
    pub(crate) warm_up_ms: u64,
    pub(crate) measure_ms: u64,
    /// So many messages to each user, or so many to everybody; then no more.
    pub(crate) rounds: Option<u64>,
}

/// How fast messages are published.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) enum Pace {
    /// Always so many on their way: as fast as the servers can.
    Closed(u32),
    /// So many a second, however slow the servers are.
    Open(f64),
}

/// How messages are published.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) enum Publish {
    /// To RabbitMQ.
    Amqp(SocketAddr),
    /// By SEND frames, to where the subscribers are.
    Stomp(SocketAddr),
    /// To NATS.
    Nats(SocketAddr),
}

impl Publish {
    /// The address that it publishes to.
    pub(crate) const fn server(self) -> SocketAddr {
        let (Self::Amqp(server) | Self::Stomp(server) | Self::Nats(server)) = self;
        server
    }
}

/// The transport of a client's frames.
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize, ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Transport {
    #[default]
    #[value(name = "websocket")]
    WebSocket,
    /// SockJS: a long response for what comes, a request for each frame that is sent
    SockjsXhrStreaming,
    /// SockJS: a response for each batch of what comes
    SockjsXhr,
}

/// Coming and going at a steady rate.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Churn {
    pub(crate) what: Coming,
    pub(crate) per_second: f64,
    /// How long each stays.
    pub(crate) stay_ms: u64,
}

/// The kind of comers.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) enum Coming {
    /// Connections, each with a user and a key of its own.
    Connections,
    /// Subscriptions of connections that stay, each to a new key.
    Subscriptions,
}

/// A worker's report.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) enum Report {
    /// So many connections are open, or back.
    Progress(u32),
    /// [`Order::Connect`] is done.
    Connected(Connected),
    /// The warm-up is over.
    Measuring,
    /// The measurement is over; the rest is waited for.
    Measured,
    /// [`Order::Load`] is done.
    Loaded(Box<Loaded>),
    /// [`Order::Hear`] has begun.
    Hearing,
    /// [`Order::Hear`] is done.
    Heard(Heard),
    /// [`Order::Chat`] is done.
    Chatted(Box<Chatted>),
    /// [`Order::Stand`] is done.
    Stood(Stood),
    /// The order cannot be carried out.
    Failed(String),
}

/// How the connections were opened.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Connected {
    pub(crate) seconds: f64,
    /// The time of each from `connect` to the last receipt.
    pub(crate) set_up: Counts,
    /// Attempts that failed, and why the first did.
    #[serde(default)]
    pub(crate) failed: u32,
    #[serde(default)]
    pub(crate) why: Option<String>,
}

/// The receivers of a message to everybody, as far as they have heard it.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Heard {
    pub(crate) verification: Verification,
    /// When the last copy came, by the machine's monotonic clock. In nanoseconds.
    pub(crate) last: u64,
    /// From when it was due.
    pub(crate) latency: Counts,
}

/// How a chat went.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Chatted {
    /// From the first message after the greeting to the last copy.
    pub(crate) seconds: f64,
    /// In that time.
    pub(crate) deliveries: u64,
    pub(crate) verification: Verification,
    pub(crate) latency: Counts,
    /// Other faults.
    pub(crate) troubles: Vec<String>,
}

/// How connections stood.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Stood {
    /// Connections that were lost, and the reason of the first.
    pub(crate) lost: u32,
    pub(crate) why: Option<String>,
    /// Attempts to come back that failed.
    pub(crate) failed: u32,
    /// When the last was back, by the machine's monotonic clock. In nanoseconds.
    pub(crate) last: u64,
    /// The time of each from `connect` to the last receipt.
    pub(crate) set_up: Counts,
}

/// How a load went.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Loaded {
    /// How long was measured.
    pub(crate) seconds: f64,
    pub(crate) unicast: Option<Flowed>,
    pub(crate) broadcast: Option<Flowed>,
    pub(crate) churn: Option<Churned>,
    pub(crate) verification: Verification,
    /// Connections that do not read, and how many of them the server closed.
    pub(crate) slow: u32,
    pub(crate) slow_closed: u32,
    /// Other faults.
    pub(crate) troubles: Vec<String>,
}

/// How the messages of one kind went.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Flowed {
    /// Published while it was measured.
    pub(crate) published: u64,
    /// Arrived while it was measured.
    pub(crate) delivered: u64,
    /// The latency of all messages that were due while it was measured.
    pub(crate) latency: Counts,
}

/// How the coming and going went.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Churned {
    /// Complete while it was measured.
    pub(crate) came: u64,
    /// Until the last receipt.
    pub(crate) set_up: Counts,
}
