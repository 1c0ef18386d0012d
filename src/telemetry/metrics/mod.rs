//! What the events count, and how Prometheus is told.

use std::{
    fmt,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;
use prometheus_client::{
    encoding::text::encode,
    metrics::{
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::Histogram,
    },
    registry::{Registry, Unit},
};

/// What [`metrics`] writes: OpenMetrics, which Prometheus asks for.
pub const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A name and a value. Values come from this program, never from clients: each one is kept for
/// ever.
type Label = [(&'static str, &'static str); 1];

/// Bounds of the buckets for calls of the hook, in seconds.
const HOOK_BUCKETS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0];

/// Counted since the process began.
pub(super) static COUNTS: LazyLock<Counts> = LazyLock::new(Counts::default);

#[derive(Debug)]
pub(super) struct Counts {
    pub(super) connections: Family<Label, Gauge>,
    pub(super) ended: Family<Label, Counter>,
    pub(super) logins: Counter,
    pub(super) logins_refused: Counter,
    pub(super) permissions_refused: Counter,
    pub(super) turned_away: Counter,
    pub(super) hook_calls: Family<Label, Histogram, fn() -> Histogram>,
    pub(super) hook_faults: Family<Label, Counter>,
    pub(super) overflows: Family<Label, Counter>,
    pub(super) links_made: Counter,
    pub(super) link_failures: Counter,
    pub(super) feeds_interrupted: Counter,
    pub(super) presence_failures: Counter,
    pub(super) publish_failures: Family<Label, Counter>,
    pub(super) api_requests: Family<[(&'static str, String); 2], Counter>,
    feeds: Mutex<Feeds>,
}

/// What is counted often, without so much as a table's lock.
pub(super) static BYTES_RECEIVED: AtomicU64 = AtomicU64::new(0);
pub(super) static BYTES_SENT: AtomicU64 = AtomicU64::new(0);
pub(super) static PUBLISHED: AtomicU64 = AtomicU64::new(0);
pub(super) static PUBLISHING: AtomicI64 = AtomicI64::new(0);
pub(super) static DELIVERED_BY_QUEUES: AtomicU64 = AtomicU64::new(0);
pub(super) static SHARED_SUBSCRIPTIONS: AtomicI64 = AtomicI64::new(0);
pub(super) static DEDICATED_SUBSCRIPTIONS: AtomicI64 = AtomicI64::new(0);

impl Default for Counts {
    fn default() -> Self {
        Self {
            connections: Family::default(),
            ended: Family::default(),
            logins: Counter::default(),
            logins_refused: Counter::default(),
            permissions_refused: Counter::default(),
            turned_away: Counter::default(),
            hook_calls: Family::new_with_constructor(|| Histogram::new(HOOK_BUCKETS)),
            hook_faults: Family::default(),
            overflows: Family::default(),
            links_made: Counter::default(),
            link_failures: Counter::default(),
            feeds_interrupted: Counter::default(),
            presence_failures: Counter::default(),
            publish_failures: Family::default(),
            api_requests: Family::default(),
            feeds: Mutex::default(),
        }
    }
}

/// What one feed has passed on. Written by one thread at a time, the feed's, so that a count costs
/// no more than a store.
#[derive(Debug, Default)]
pub struct FeedCounts {
    routed: AtomicU64,
    unmatched: AtomicU64,
    delivered: AtomicU64,
}

#[derive(Debug, Default)]
struct Feeds {
    live: Vec<Arc<FeedCounts>>,
    /// Of feeds that are gone.
    gone: [u64; 3],
}

impl FeedCounts {
    /// For a new feed.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let counts = Arc::new(Self::default());
        let mut feeds = COUNTS.feeds.lock();
        // Only where it would grow, so that each is looked at a few times at most.
        if feeds.live.len() == feeds.live.capacity() {
            feeds.sweep();
        }
        feeds.live.push(Arc::clone(&counts));
        counts
    }

    /// A message came, and went to so many subscriptions. Not to be called by two threads at once.
    pub fn count(&self, subscriptions: u64) {
        let add = |count: &AtomicU64, more: u64| {
            count.store(count.load(Relaxed).wrapping_add(more), Relaxed)
        };
        if subscriptions == 0 {
            add(&self.unmatched, 1);
        } else {
            add(&self.routed, 1);
            add(&self.delivered, subscriptions);
        }
    }

    /// Messages that matched a subscription, that matched none, and that went to subscriptions.
    #[must_use]
    pub fn totals(&self) -> [u64; 3] {
        [&self.routed, &self.unmatched, &self.delivered].map(|count| count.load(Relaxed))
    }
}

impl Feeds {
    /// What is gone goes on to count: a counter never falls.
    fn sweep(&mut self) {
        let gone = &mut self.gone;
        self.live.retain(|counts| {
            let is_live = Arc::strong_count(counts) > 1;
            if !is_live {
                *gone = sum(*gone, counts.totals());
            }
            is_live
        });
    }

    fn totals(&self) -> [u64; 3] {
        let live = self.live.iter().map(|counts| counts.totals());
        live.fold(self.gone, sum)
    }
}

fn sum(a: [u64; 3], b: [u64; 3]) -> [u64; 3] {
    let mut total = a;
    for (total, more) in total.iter_mut().zip(b) {
        *total = total.wrapping_add(more);
    }
    total
}

/// Counts something for as long as it lives; takes no room.
#[derive(Debug)]
pub struct SharedSubscriptionCounted(());

/// The same for dedicated subscriptions.
#[derive(Debug)]
pub struct DedicatedSubscriptionCounted(());

/// The same for a message that was published, and that the broker has not answered for.
#[derive(Debug)]
pub struct PublishingCounted(());

macro_rules! counted {
    ($($type:ident: $gauge:ident;)*) => {$(
        impl $type {
            /// From now on.
            #[must_use]
            pub fn begin() -> Self {
                $gauge.fetch_add(1, Relaxed);
                Self(())
            }
        }

        impl Drop for $type {
            fn drop(&mut self) {
                $gauge.fetch_sub(1, Relaxed);
            }
        }
    )*};
}

counted! {
    SharedSubscriptionCounted: SHARED_SUBSCRIPTIONS;
    DedicatedSubscriptionCounted: DEDICATED_SUBSCRIPTIONS;
    PublishingCounted: PUBLISHING;
}

/// What is not counted, but looked up when it is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Levels {
    /// When the process began.
    pub started: SystemTime,
    /// Whether clients should be sent here.
    pub ready: bool,
    /// Whether the broker can be reached.
    pub broker_up: bool,
    /// Whether presence is up to date; `None`: it is off.
    pub presence_up: Option<bool>,
    /// Virtual hosts that are open.
    pub vhosts: usize,
    /// Their feeds.
    pub feeds: usize,
    /// Patterns that clients are subscribed to.
    pub patterns: usize,
    /// Patterns that are bound, though nobody is subscribed any more.
    pub lingering: usize,
    /// Whether the process takes more memory than the mark.
    pub memory_short: bool,
    /// Bytes of what clients send that are under way.
    pub publishing_bytes: usize,
    /// Memory that is resident.
    pub resident_bytes: Option<u64>,
    /// Files that are open.
    pub open_files: Option<u64>,
    /// How many may be.
    pub max_files: Option<u64>,
}

/// Connections that are open, by transport.
#[must_use]
pub fn connections() -> Vec<(&'static str, u64)> {
    let transports = TRANSPORTS.lock().clone();
    let open = transports.into_iter().map(|transport| {
        let gauge = COUNTS
            .connections
            .get_or_create(&[("transport", transport)])
            .get();
        (transport, u64::try_from(gauge).unwrap_or_default())
    });
    open.filter(|(_, count)| *count > 0).collect()
}

/// Those that there were, for a family does not say what is in it.
static TRANSPORTS: Mutex<Vec<&'static str>> = Mutex::new(Vec::new());

pub(super) fn connection_began(transport: &'static str) {
    let mut transports = TRANSPORTS.lock();
    if !transports.contains(&transport) {
        transports.push(transport);
    }
    drop(transports);
    COUNTS
        .connections
        .get_or_create(&[("transport", transport)])
        .inc();
}

/// All metrics, as [`METRICS_TYPE`].
///
/// # Errors
/// They cannot be written.
pub fn metrics(levels: &Levels) -> Result<String, fmt::Error> {
    let mut text = String::new();
    encode(&mut text, &registry(levels))?;
    Ok(text)
}

fn registry(levels: &Levels) -> Registry {
    let counts = &*COUNTS;
    let [routed, unmatched, delivered] = counts.feeds.lock().totals();
    let mut process = Registry::default();
    let started = levels
        .started
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let gauge = |value: u64| ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
    let size = |value: usize| gauge(value as u64);
    let now = |value: &AtomicI64| ConstGauge::new(value.load(Relaxed));
    let total = |value: &AtomicU64| ConstCounter::new(value.load(Relaxed));
    // The names that Prometheus' own libraries use.
    process.register(
        "process_start_time_seconds",
        "When the process began, in seconds since 1970",
        ConstGauge::new(started.as_secs_f64()),
    );
    for (name, help, value) in [
        (
            "process_resident_memory_bytes",
            "Memory that is resident",
            levels.resident_bytes,
        ),
        (
            "process_open_fds",
            "Files and sockets that are open",
            levels.open_files,
        ),
        (
            "process_max_fds",
            "Files and sockets that may be open",
            levels.max_files,
        ),
    ] {
        if let Some(value) = value {
            process.register(name, help, gauge(value));
        }
    }
    let own = process.sub_registry_with_prefix("stentor");
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    own.register(
        "build",
        "The program",
        prometheus_client::metrics::info::Info::new(version),
    );
    own.register(
        "ready",
        "Whether clients should be sent here",
        gauge(levels.ready.into()),
    );

    own.register(
        "connections",
        "Connections that are open",
        counts.connections.clone(),
    );
    own.register(
        "connections_ended",
        "Connections that ended, by the words of their ERROR frame or how else",
        counts.ended.clone(),
    );
    own.register(
        "connections_turned_away",
        "Connections that were not taken, for there were too many",
        counts.turned_away.clone(),
    );
    own.register("logins", "Clients that logged in", counts.logins.clone());
    own.register(
        "logins_refused",
        "Clients that were not let in",
        counts.logins_refused.clone(),
    );
    own.register(
        "permissions_refused",
        "Things that were denied to clients",
        counts.permissions_refused.clone(),
    );
    own.register_with_unit(
        "received",
        "Bytes that clients sent",
        Unit::Bytes,
        total(&BYTES_RECEIVED),
    );
    own.register_with_unit(
        "sent",
        "Bytes that were sent to clients",
        Unit::Bytes,
        total(&BYTES_SENT),
    );

    own.register_with_unit(
        "hook_call",
        "Calls of the hook, by kind",
        Unit::Seconds,
        counts.hook_calls.clone(),
    );
    own.register(
        "hook_faults",
        "Calls of the hook that went wrong, by kind",
        counts.hook_faults.clone(),
    );

    own.register(
        "shared_subscriptions",
        "Subscriptions that feeds serve",
        now(&SHARED_SUBSCRIPTIONS),
    );
    own.register(
        "dedicated_subscriptions",
        "Subscriptions with a queue of their own",
        now(&DEDICATED_SUBSCRIPTIONS),
    );
    own.register("vhosts", "Virtual hosts that are open", size(levels.vhosts));
    own.register("feeds", "Feeds", size(levels.feeds));
    own.register(
        "feed_patterns",
        "Patterns of feeds that clients are subscribed to",
        size(levels.patterns),
    );
    own.register(
        "feed_patterns_lingering",
        "Patterns of feeds that are bound, though nobody is subscribed any more",
        size(levels.lingering),
    );
    own.register(
        "feed_messages",
        "Messages of feeds that matched a subscription",
        ConstCounter::new(routed),
    );
    own.register(
        "feed_messages_unmatched",
        "Messages of feeds that matched none",
        ConstCounter::new(unmatched),
    );
    own.register(
        "feed_deliveries",
        "Messages of feeds that were put into mailboxes, one for each subscription",
        ConstCounter::new(delivered),
    );
    own.register(
        "feeds_interrupted",
        "Times that messages of a feed may have been lost",
        counts.feeds_interrupted.clone(),
    );
    own.register(
        "dedicated_deliveries",
        "Messages of dedicated subscriptions that were put into mailboxes",
        total(&DELIVERED_BY_QUEUES),
    );
    own.register(
        "mailbox_overflows",
        "Times that a mailbox was full, by what was done",
        counts.overflows.clone(),
    );

    own.register(
        "publishes",
        "Messages that the broker confirmed",
        total(&PUBLISHED),
    );
    own.register(
        "publishes_pending",
        "Messages that the broker has not answered for yet",
        now(&PUBLISHING),
    );
    own.register_with_unit(
        "publishing",
        "Bytes of frames that clients send, and that are under way; those of small ones not counted",
        Unit::Bytes,
        size(levels.publishing_bytes),
    );
    own.register(
        "memory_short",
        "Whether the process takes more memory than the mark, so that less is let in",
        gauge(levels.memory_short.into()),
    );
    own.register(
        "publish_failures",
        "Messages that were not published, by why",
        counts.publish_failures.clone(),
    );
    own.register(
        "broker_up",
        "Whether the broker can be reached",
        gauge(levels.broker_up.into()),
    );
    own.register(
        "broker_links_made",
        "Links to the broker that were made, also anew",
        counts.links_made.clone(),
    );
    own.register(
        "broker_link_failures",
        "Links to the broker that were lost, or could not be made",
        counts.link_failures.clone(),
    );
    if let Some(is_up) = levels.presence_up {
        own.register(
            "presence_up",
            "Whether presence is up to date",
            gauge(is_up.into()),
        );
    }
    own.register(
        "presence_failures",
        "Times that presence was lost",
        counts.presence_failures.clone(),
    );
    own.register(
        "api_requests",
        "Requests to the operator's side, by route and status",
        counts.api_requests.clone(),
    );
    process
}

/// Time that a call of the hook took.
pub(super) fn hook_called(call: &'static str, took: Duration, is_fault: bool) {
    let label = [("call", call)];
    COUNTS
        .hook_calls
        .get_or_create(&label)
        .observe(took.as_secs_f64());
    if is_fault {
        COUNTS.hook_faults.get_or_create(&label).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels() -> Levels {
        Levels {
            started: UNIX_EPOCH + Duration::from_secs(1),
            ready: true,
            broker_up: true,
            presence_up: Some(false),
            vhosts: 1,
            feeds: 2,
            patterns: 3,
            lingering: 4,
            memory_short: true,
            publishing_bytes: 5,
            resident_bytes: Some(4096),
            open_files: None,
            max_files: None,
        }
    }

    #[test]
    fn all_is_written_as_prometheus_reads_it() {
        connection_began("smoke signals");
        hook_called("user", Duration::from_millis(3), false);
        let text = metrics(&levels()).unwrap();
        for line in [
            "# TYPE stentor_connections gauge",
            "stentor_connections{transport=\"smoke signals\"} 1",
            "# TYPE stentor_received_bytes counter",
            "# UNIT stentor_received_bytes bytes",
            "process_start_time_seconds 1.0",
            "process_resident_memory_bytes 4096",
            "stentor_feed_patterns 3",
            "stentor_presence_up 0",
            "stentor_memory_short 1",
            "stentor_publishing_bytes 5",
            "# TYPE stentor_hook_call_seconds histogram",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(!text.contains("process_open_fds"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
        assert!(connections().contains(&("smoke signals", 1)));
    }

    /// Prometheus takes a counter that falls for a restart.
    #[test]
    fn a_feed_that_is_gone_goes_on_to_count() {
        let mut feeds = Feeds::default();
        for subscriptions in [0, 1, 5] {
            let counts = Arc::new(FeedCounts::default());
            counts.count(subscriptions);
            feeds.live.push(counts);
        }
        assert_eq!(feeds.totals(), [2, 1, 6]);
        let kept = feeds.live.first().map(Arc::clone);
        feeds.sweep();
        assert_eq!((feeds.totals(), feeds.live.len()), ([2, 1, 6], 1));
        drop(kept);
        feeds.sweep();
        assert_eq!((feeds.totals(), feeds.live.len()), ([2, 1, 6], 0));
    }
}
