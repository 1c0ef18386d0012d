//! This node's figures, and the list of nodes.

use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, SystemTime},
};

use humantime::format_rfc3339_millis;
use serde::{Deserialize, Serialize};
use tokio::{sync::Mutex, task::spawn_blocking, time::Instant};
use utoipa::ToSchema;

use super::{
    Api,
    answer::{Answer, Reply, Request},
};
use crate::{hub, telemetry};

/// This node.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Node {
    /// Its name: the host's, and a part that is new at each start.
    pub name: String,
    /// The program's version.
    pub version: String,
    /// When it started.
    #[schema(format = DateTime)]
    pub started: String,
    /// Since then.
    pub uptime_seconds: u64,
    /// `running`, or how far its end has come.
    pub phase: String,
    /// `ok`, or what is wrong at the broker.
    pub broker: String,
    /// The addresses of the broker that links lead to now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub broker_addresses: Vec<String>,
    /// `ok`, `off`, or what is wrong.
    pub presence: String,
    /// The connections.
    pub connections: Connections,
    /// The virtual hosts that are open.
    pub vhosts: Vec<Vhost>,
    /// The system's resources that the process uses.
    pub process: Process,
    /// The bounds for clients.
    pub limits: Limits,
}

/// Connections of clients.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Connections {
    /// That are open, logged in or not.
    pub open: usize,
    /// By transport; only connections on which STOMP has begun.
    pub by_transport: BTreeMap<String, u64>,
}

/// A virtual host that is open.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Vhost {
    /// Its name.
    pub name: String,
    /// `ok`, or what is wrong at the broker.
    pub broker: String,
    /// Clients that have logged in to it.
    pub clients: usize,
    /// Its feeds: queues that subscriptions share.
    pub feeds: Vec<Feed>,
}

/// A feed: the messages of one exchange for one shard of this node.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Feed {
    /// The exchange.
    pub exchange: String,
    /// Its type: `direct`, `topic` or `fanout`.
    pub kind: String,
    /// Which shard.
    pub shard: u16,
    /// Patterns that clients are subscribed to.
    pub patterns: usize,
    /// Patterns that are still bound after their last subscription.
    pub lingering: usize,
    /// Messages that came, and matched a subscription.
    pub routed: u64,
    /// Messages that matched no subscription: it had just left, for example.
    pub unmatched: u64,
    /// Messages that were put into clients' mailboxes: one for each subscription.
    pub delivered: u64,
    /// Its journal. Missing if the exchange has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journal: Option<Journal>,
}

/// An exchange's journal, as a node has it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Journal {
    /// The position from which on all messages are in memory.
    pub oldest_in_memory: u64,
    /// The position of the newest message or mark; missing before anything was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest: Option<u64>,
    /// Messages in memory.
    pub messages: usize,
    /// Their bytes.
    pub bytes: usize,
    /// Subscriptions that catch up.
    pub resuming: usize,
    /// Readings from RabbitMQ that are under way for them.
    pub readings: u16,
}

impl From<hub::JournalStatus> for Journal {
    fn from(journal: hub::JournalStatus) -> Self {
        Self {
            oldest_in_memory: journal.first,
            newest: journal.next.map(|next| next.saturating_sub(1)),
            messages: journal.messages,
            bytes: journal.bytes,
            resuming: journal.resuming,
            readings: journal.readings,
        }
    }
}

/// The system's resources that the process uses. Figures that the system does not tell are missing.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Process {
    /// Memory that is resident, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resident_bytes: Option<u64>,
    /// The same, with what is shared with others counted in parts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proportional_bytes: Option<u64>,
    /// Time that its threads ran on processors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_seconds: Option<f64>,
    /// Files and sockets that are open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open_files: Option<u64>,
    /// How many may be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_files: Option<u64>,
}

/// The bounds for clients of this node.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Limits {
    /// `[listen] max_connections`; fewer where the system allows too few files.
    pub max_connections: usize,
    /// `[limits] max_frame_size`, in bytes.
    pub max_frame_size: usize,
    /// `[limits] max_subscriptions`, of one client.
    pub max_subscriptions: usize,
    /// `[mailbox] max_messages`, of one client.
    pub mailbox_messages: usize,
    /// `[mailbox] max_bytes`, of one client.
    pub mailbox_bytes: usize,
}

/// This node: its connections, feeds, parts and resources.
#[utoipa::path(
    get, path = "/api/v1/node", tag = "nodes",
    responses((status = 200, description = "This node", body = Node)),
    security(("token" = ["read"])),
)]
pub(super) async fn node(api: &Api, request: Request) -> Answer {
    request.no_query()?;
    let mut process = api.process.get(Process::look).await;
    process.proportional_bytes = api.proportional.get(proportional_bytes).await;
    let settings = api.services.settings();
    let (limits, mailbox) = (&settings.limits, &settings.mailbox);
    let uptime = api.started.elapsed();
    let transports = telemetry::connections().into_iter();
    let health = |health: Result<(), crate::broker::BrokerError>| match health {
        Ok(()) => "ok".to_owned(),
        Err(error) => error.to_string(),
    };
    let vhosts = api.services.vhosts.status().into_iter();
    Reply::ok(&Node {
        name: api.node.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started: time(api.started_at),
        uptime_seconds: uptime.as_secs(),
        phase: api.phases.current().as_str().to_owned(),
        broker: health(api.services.vhosts.health()),
        broker_addresses: super::health::broker_places(),
        presence: api.presence_health(),
        connections: Connections {
            open: api.services.registry.len(),
            by_transport: transports
                .map(|(transport, count)| (transport.to_owned(), count))
                .collect(),
        },
        vhosts: vhosts
            .map(|vhost| Vhost {
                name: vhost.name.to_string(),
                broker: health(vhost.health),
                clients: vhost.clients,
                feeds: vhost.feeds.into_iter().map(Feed::from).collect(),
            })
            .collect(),
        process,
        limits: Limits {
            max_connections: api.services.registry.max(),
            max_frame_size: limits.max_frame_size,
            max_subscriptions: limits.max_subscriptions,
            mailbox_messages: mailbox.max_messages,
            mailbox_bytes: mailbox.max_bytes,
        },
    })
}

impl From<hub::FeedStatus> for Feed {
    fn from(feed: hub::FeedStatus) -> Self {
        Self {
            exchange: feed.id.exchange.to_string(),
            kind: feed.kind.as_str().to_owned(),
            shard: feed.id.shard,
            patterns: feed.patterns,
            lingering: feed.lingering,
            routed: feed.routed,
            unmatched: feed.unmatched,
            delivered: feed.delivered,
            journal: feed.journal.map(Journal::from),
        }
    }
}

/// A look at the system that takes time, and more of it the more clients there are: whoever asks within
/// a second shares it.
#[derive(Debug, Default)]
pub(super) struct Looked<T>(Mutex<Option<(Instant, T)>>);

impl<T: Clone + Default + Send + 'static> Looked<T> {
    const HOLDS: Duration = Duration::from_secs(1);

    /// As it is now, or was a second ago at most. One looks at a time, and others wait for it.
    pub(super) async fn get(&self, look: impl FnOnce() -> T + Send + 'static) -> T {
        let mut last = self.0.lock().await;
        if let Some((at, seen)) = &*last
            && at.elapsed() < Self::HOLDS
        {
            return seen.clone();
        }
        let seen = spawn_blocking(look).await.unwrap_or_default();
        *last = Some((Instant::now(), seen.clone()));
        seen
    }
}

impl Process {
    /// Asks the system: Linux alone knows. May take milliseconds. Without the proportional bytes, for
    /// which the kernel goes through all of the memory.
    pub(super) fn look() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let open = fs::read_dir("/proc/self/fd").ok();
        let allowed = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        Self {
            resident_bytes: kibibytes(&status, "VmRSS:"),
            proportional_bytes: None,
            cpu_seconds: cpu_seconds(),
            // One of them is open to read this.
            open_files: open.map(|open| (open.count() as u64).saturating_sub(1)),
            max_files: allowed.current,
        }
    }
}

fn proportional_bytes() -> Option<u64> {
    let rollup = fs::read_to_string("/proc/self/smaps_rollup").ok()?;
    kibibytes(&rollup, "Pss:")
}

/// `Name:   1234 kB`, in bytes.
fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines();
    let line = lines.find_map(|line| line.strip_prefix(name))?;
    let number: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    number.checked_mul(1024)
}

fn cpu_seconds() -> Option<f64> {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let time = Duration::try_from(time).ok()?;
    Some(time.as_secs_f64())
}

/// A point in time, as all answers write it.
pub(super) fn time(time: SystemTime) -> String {
    format_rfc3339_millis(time).to_string()
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn whoever_asks_within_a_second_shares_a_look() {
        let looked = Looked::default();
        let looks = Arc::new(AtomicU32::new(0));
        let look = || {
            let looks = Arc::clone(&looks);
            looked.get(move || looks.fetch_add(1, Relaxed))
        };
        assert_eq!(tokio::join!(look(), look()), (0, 0));
        tokio::time::advance(Duration::from_millis(999)).await;
        assert_eq!(look().await, 0);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(look().await, 1);
        assert_eq!(looks.load(Relaxed), 2);
    }

    #[test]
    fn the_system_tells_of_this_process() {
        let process = Process::look();
        assert!(process.resident_bytes > Some(1 << 20), "{process:?}");
        assert!(process.open_files > Some(0), "{process:?}");
        assert!(proportional_bytes() > Some(1 << 20));
    }
}
