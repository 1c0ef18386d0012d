//! The counters of the events, and their text for Prometheus.

mod feeds;
#[macro_use]
mod tell;

use std::{
    fmt,
    sync::{
        LazyLock,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::{Registry, Unit},
};

pub use self::feeds::FeedCounts;
use self::{
    feeds::FEEDS,
    tell::{ByLabel, Row, Tell, Total},
};
use crate::telemetry::delays::{AGES, AHEAD, DELIVERY};

/// The type of the text from [`metrics`]: OpenMetrics, which Prometheus asks for.
pub const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A name and a value. Values come from this program, never from clients: each one is kept for
/// ever.
type Label = [(&'static str, &'static str); 1];

type Histograms = Family<Label, Histogram, fn() -> Histogram>;

/// Bounds of the buckets for calls of the hook, in seconds.
const HOOK_BUCKETS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0];

// A line a metric: its name, its unit (which is a part of the name that Prometheus sees), its
// help text, and the source of its value.
//
// - `count`: a field of `COUNTS`, for the functions of `event.rs` to count in.
// - `tally`: a field of `TALLIES`, the same for frequent events.
// - `level`: a field of `Levels`, which is looked up when Prometheus asks.
// - `now`: the value itself.
metrics! {
    let [routed, unmatched, delivered] = FEEDS.lock().totals();

    // The names that Prometheus' own libraries use.
    process {
        cpu_seconds "Time that the process' threads ran on processors, in seconds" level(Option<Duration>);
        start_time_seconds "When the process began, in seconds since 1970" level(SystemTime);
        resident_memory_bytes "Memory that is resident" level(Option<u64>);
        open_fds "Files and sockets that are open" level(Option<u64>);
        max_fds "Files and sockets that may be open" level(Option<u64>);
    }

    stentor {
        build "The program" now(Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        ready "Whether clients should be sent here" level(bool);

        connections "Connections that are open" count(Family<Label, Gauge>);
        connections_ended "Connections that ended, by the words of their ERROR frame, or by another end" count(Family<Label, Counter>);
        refused "Refusals to clients, by how far they had come and by reason: an error-code, or a word where there is no ERROR" count(Family<[(&'static str, &'static str); 2], Counter>);
        limits_exceeded "Times that a client met a bound, by bound: it was refused, or not read for a while" count(Family<Label, Counter>);
        unauthenticated "Connections that are not logged in" level(usize);
        connections_gave_way "Connections that were not logged in, and were closed for others" count(Counter);
        logins "Clients that logged in" count(Counter);
        bans "Bans in force" level(usize);
        received[Bytes] "Bytes that clients sent" tally(AtomicU64);
        sent[Bytes] "Bytes that were sent to clients" tally(AtomicU64);

        hook_call[Seconds] "Calls of the hook, by kind" count(Histograms = Family::new_with_constructor(|| Histogram::new(HOOK_BUCKETS)));
        hook_faults "Calls of the hook that went wrong, by kind" count(Family<Label, Counter>);
        hook_batch_questions "Questions that went to the hook in calls with many" count(Counter);
        accounts_loads "Times that RabbitMQ's users were read and taken" count(Counter);
        accounts_failures "Times that RabbitMQ's users could not be read, or not be used" count(Counter);
        accounts_stale "Whether RabbitMQ's users are of before, for they could not be read anew" count(Gauge);

        jwks_fetches "Fetches of the keys of the tokens' issuer, by outcome" count(Family<Label, Counter>);
        tokens_refused "Tokens that do not count, by why" count(Family<Label, Counter>);
        renewals "Logins that clients renewed, or tried to, by outcome" count(Family<Label, Counter>);

        shared_subscriptions "Subscriptions that feeds serve" tally(AtomicI64);
        dedicated_subscriptions "Subscriptions with a queue of their own" tally(AtomicI64);
        vhosts "Virtual hosts that are open" level(usize);
        feeds "Feeds" level(usize);
        feed_patterns "Patterns of feeds that clients are subscribed to" level(usize);
        feed_patterns_lingering "Patterns of feeds that are still bound after their last subscription" level(usize);
        feed_messages "Messages of feeds that matched a subscription" now(Total(routed));
        feed_messages_unmatched "Messages of feeds that matched no subscription" now(Total(unmatched));
        feed_deliveries "Messages of feeds that were put into mailboxes, one for each subscription" now(Total(delivered));
        feeds_interrupted "Times that messages of a feed may have been lost" count(Counter);
        dedicated_deliveries "Messages of dedicated subscriptions that were put into mailboxes" tally(AtomicU64);
        delivery[Seconds] "Messages, by the time from their read off the broker's socket to their write to a client's" now(DELIVERY.told());
        delivery_age[Seconds] "Messages with a timestamp, by their age when they were written to a client's socket" now(ages());
        delivery_ages_negative "Messages with a timestamp that was ahead of this machine's clock when they were written" now(Total(AHEAD.load(Relaxed)));
        redeliveries "Messages that were written again, for their client had not acknowledged them" tally(AtomicU64);
        redeliveries_given_up "Messages that were written as often as their client wished, by what became of them" count(Family<Label, Counter>);
        journal_readings "Readings of a journal from the broker, each for all who wait for one" count(Counter);
        journal_messages_read "Messages that were read from journals a second time" count(Counter);
        resumes "Subscriptions that caught up, by whether messages were missing" count(Family<Label, Counter>);
        messages_conflated "Messages that a newer one took the place of, as their subscription wished" count(Counter);
        delta_messages "Messages that were sent as deltas" tally(AtomicU64);
        delta_whole_messages "Messages that were sent whole, though their subscription wants deltas" tally(AtomicU64);
        delta_saved[Bytes] "Bytes by which deltas were shorter than their messages" tally(AtomicU64);
        mailbox_overflows "Times that a mailbox was full, by the action taken" count(Family<Label, Counter>);

        publishes "Messages that the broker confirmed" tally(AtomicU64);
        publishes_pending "Messages that the broker has not answered for yet" tally(AtomicI64);
        publishing[Bytes] "Bytes of large frames of clients that are being received or published" level(usize);
        memory_short "Whether the process takes more memory than the mark, and lets less in" level(bool);
        publish_failures "Messages that were not published, by reason" count(Family<Label, Counter>);
        broker_up "Whether the broker can be reached" level(bool);
        broker_links "Links to the broker that are up, by its address" count(Family<[(&'static str, String); 1], Gauge>);
        broker_links_made "Links to the broker that were made, also anew" count(Counter);
        broker_link_failures "Links to the broker that were lost, or could not be made" count(Counter);
        broker_logins_renewed "Links to the broker that went on with a new token" count(Counter);
        broker_token_failures "Times that the gateway's own token could not be read, or not be used" count(Counter);
        broker_token_stale "Whether the gateway's own token could not be renewed" count(Gauge);
        broker_token_expires[Seconds] "When the gateway's own token ends, in seconds since 1970; 0 if it does not tell" count(Gauge);
        queues_suspected "Queues over which the broker may have closed a link" count(Counter);
        presence_up "Whether presence is up to date" level(Option<bool>);
        presence_failures "Times that presence was lost" count(Counter);
        log_lines_lost "Lines of the log that were lost, for its reader stood still, or could not take them" count(Counter);
        offline_messages "Messages that nobody was subscribed to, by what became of them" count(Family<Label, Counter>);
        webhook_events "Events for receivers of webhooks, by what became of them" count(Family<Label, Counter>);
        webhook_failures "Requests to receivers of webhooks that they did not take" count(Counter);
        webhook_waiting "Events that wait for receivers of webhooks" count(Gauge);
        trace_spans "Spans that the collector of traces took" count(Counter);
        trace_spans_left_out "Spans of traces of others that were not recorded, for too many came in a second" count(Counter);
        trace_spans_lost "Spans that were lost, for too many waited, or the collector did not take them" count(Counter);
        api_requests "Requests to the operator's side, by route and status" count(Family<[(&'static str, String); 2], Counter>);
    }
}

fn ages() -> ByLabel {
    let delays = AGES.iter().map(|(unit, delays)| (*unit, delays.told()));
    ByLabel {
        label: "timestamp",
        delays: delays.collect(),
    }
}

/// All metrics, as [`METRICS_TYPE`].
///
/// # Errors
/// They cannot be written.
pub fn metrics(levels: &Levels) -> Result<String, fmt::Error> {
    let mut text = String::new();
    encode(&mut text, &registry(&COUNTS, levels))?;
    Ok(text)
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
                TALLIES.$gauge.fetch_add(1, Relaxed);
                Self(())
            }
        }

        impl Drop for $type {
            fn drop(&mut self) {
                TALLIES.$gauge.fetch_sub(1, Relaxed);
            }
        }
    )*};
}

counted! {
    SharedSubscriptionCounted: shared_subscriptions;
    DedicatedSubscriptionCounted: dedicated_subscriptions;
    PublishingCounted: publishes_pending;
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

/// A client met the bound of that name.
pub(super) fn limit_exceeded(bound: &'static str) {
    COUNTS
        .limits_exceeded
        .get_or_create(&[("bound", bound)])
        .inc();
}

/// How often clients met the bound of that name.
#[cfg(test)]
pub(super) fn times_exceeded(bound: &'static str) -> u64 {
    COUNTS
        .limits_exceeded
        .get_or_create(&[("bound", bound)])
        .get()
}

/// Time that a call of the hook took.
pub(super) fn hook_called(call: &'static str, took: Duration, is_fault: bool) {
    let label = [("call", call)];
    COUNTS
        .hook_call
        .get_or_create(&label)
        .observe(took.as_secs_f64());
    if is_fault {
        hook_faults(call, 1);
    }
}

/// So many questions to the hook have no answer of the contract.
pub(super) fn hook_faults(call: &'static str, questions: usize) {
    let questions = u64::try_from(questions).unwrap_or(u64::MAX);
    let faults = &COUNTS.hook_faults;
    faults.get_or_create(&[("call", call)]).inc_by(questions);
}

/// So many lines of the log were lost.
pub(super) fn log_lines_lost(count: u64) {
    COUNTS.log_lines_lost.inc_by(count);
}

/// The collector of traces took so many spans.
pub(super) fn spans_sent(count: usize) {
    COUNTS.trace_spans.inc_by(count as u64);
}

/// A span of a trace of others was not recorded.
pub(super) fn span_left_out() {
    COUNTS.trace_spans_left_out.inc();
}

/// So many spans were lost.
pub(super) fn spans_lost(count: usize) {
    COUNTS.trace_spans_lost.inc_by(count as u64);
}

/// A call of the hook had so many questions.
pub(super) fn hook_batched(questions: usize) {
    let questions = u64::try_from(questions).unwrap_or(u64::MAX);
    COUNTS.hook_batch_questions.inc_by(questions);
}

#[cfg(test)]
mod tests;
