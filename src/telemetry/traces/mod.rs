//! Traces for OpenTelemetry: a span for each connect, subscription, message of a client and message
//! to one. Off unless `[telemetry.otlp]` names a collector.
//!
//! A span is made only for what is recorded: a trace that another service records, by the header
//! `traceparent`, or a share of those that begin here. Of the former there are so many in a second, and
//! they leave room in the queue, for any client can ask for them. A span is handed to that queue when it
//! ends; nobody ever waits for the collector.

mod config;
mod context;
mod exporting;

use std::{
    borrow::Cow,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

use opentelemetry::{
    InstrumentationScope, KeyValue,
    trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState},
};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use parking_lot::Mutex;
use tokio::sync::mpsc;

pub use config::OtlpConfig;
use context::TraceContext;
pub use exporting::{Exporting, start_traces};

use crate::telemetry::{ReadAt, metrics};

/// The longest value of an attribute, in bytes: clients choose some.
const LONGEST: usize = 256;

/// The header that carries a trace context, in STOMP and in AMQP.
pub const TRACEPARENT: &str = "traceparent";

/// Set once, before the first client; never, if there are no traces.
static TRACER: OnceLock<Tracer> = OnceLock::new();

struct Tracer {
    ratio: f64,
    queue: mpsc::Sender<SpanData>,
    guests: Mutex<Guests>,
    /// Spans for which the queue had no room, since that was looked at.
    lost: AtomicU64,
}

/// Spans below a `traceparent`. One client can ask for one with each message, and for another at each
/// receiver.
#[derive(Debug, Default)]
struct Guests {
    since: Option<Instant>,
    begun: u32,
}

impl Guests {
    /// So many are recorded…
    const MOST: u32 = 500;
    /// …in so long.
    const WHILE: Duration = Duration::from_secs(1);

    fn may_begin(&mut self, now: Instant) -> bool {
        let is_over = self
            .since
            .is_none_or(|since| now.saturating_duration_since(since) >= Self::WHILE);
        if is_over {
            self.since = Some(now);
            self.begun = 0;
        }
        self.begun = self.begun.saturating_add(1);
        self.begun <= Self::MOST
    }
}

impl Tracer {
    fn new(ratio: f64, queue: mpsc::Sender<SpanData>) -> Self {
        Self {
            ratio,
            queue,
            guests: Mutex::default(),
            lost: AtomicU64::new(0),
        }
    }

    /// Whether a span below `parent`, or the first of a trace, is recorded.
    fn records(&self, parent: Option<TraceContext>, random: u32, now: Instant) -> bool {
        let Some(parent) = parent else {
            return context::is_in(self.ratio, random);
        };
        if !parent.is_sampled {
            return false;
        }
        let is_recorded = self.guests.lock().may_begin(now);
        if !is_recorded {
            metrics::span_left_out();
        }
        is_recorded
    }

    /// Takes a span that has ended. Guests may have half of the queue.
    fn take(&self, span: SpanData, is_guest: bool) {
        let has_room = !is_guest || self.queue.capacity() > self.queue.max_capacity() / 2;
        if !has_room || self.queue.try_send(span).is_err() {
            metrics::spans_lost(1);
            self.lost.fetch_add(1, Relaxed);
        }
    }
}

/// What a span is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traced {
    /// A login, from CONNECT to CONNECTED.
    Connect,
    /// A subscription, from SUBSCRIBE to the broker's answer.
    Subscribe,
    /// A client's message, from SEND to the broker's confirm.
    Publish,
    /// A message to a client, from the read off the broker's socket to the write to the client's.
    Deliver,
}

impl Traced {
    const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Subscribe => "subscribe",
            Self::Publish => "publish",
            Self::Deliver => "deliver",
        }
    }

    const fn kind(self) -> SpanKind {
        match self {
            Self::Connect | Self::Subscribe => SpanKind::Server,
            Self::Publish => SpanKind::Producer,
            Self::Deliver => SpanKind::Consumer,
        }
    }
}

/// Whether there are traces.
#[must_use]
pub fn are_traced() -> bool {
    TRACER.get().is_some()
}

/// A span that is recorded. It ends with [`TraceSpan::end`]; dropped before that, it failed.
#[derive(Debug)]
pub struct TraceSpan(Box<Open>);

#[derive(Debug)]
struct Open {
    of: Traced,
    context: TraceContext,
    parent: Option<TraceContext>,
    begun: SystemTime,
    attributes: Vec<KeyValue>,
    /// Why it failed; empty: it did not.
    failure: Cow<'static, str>,
}

impl TraceSpan {
    /// Begins one below a `traceparent`, or a new trace. `None`: it is not recorded.
    #[must_use]
    pub fn begin(of: Traced, parent: Option<&str>) -> Option<Self> {
        let tracer = TRACER.get()?;
        let parent = parent.and_then(TraceContext::parse);
        let is_recorded = tracer.records(parent, rand::random(), Instant::now());
        is_recorded.then(|| Self::new(of, parent, rand::random(), rand::random()))
    }

    fn new(of: Traced, parent: Option<TraceContext>, trace: u128, span: u64) -> Self {
        Self(Box::new(Open {
            of,
            context: TraceContext::new(parent, trace, span),
            parent,
            begun: SystemTime::now(),
            attributes: Vec::new(),
            failure: Cow::Borrowed("abandoned"),
        }))
    }

    /// It began with a read off the broker's socket.
    pub fn began_at(&mut self, read_at: ReadAt) {
        let ago = read_at.elapsed(Instant::now()).unwrap_or_default();
        self.0.begun = self.0.begun.checked_sub(ago).unwrap_or(self.0.begun);
    }

    /// What it is about.
    pub fn note(&mut self, key: &'static str, value: &str) {
        let end = value.floor_char_boundary(LONGEST);
        let value = value.get(..end).unwrap_or_default().to_owned();
        self.0.attributes.push(KeyValue::new(key, value));
    }

    /// The header for what follows from it.
    #[must_use]
    pub fn traceparent(&self) -> String {
        self.0.context.to_string()
    }

    /// It is over; `Some`: it failed, and why.
    pub fn end(mut self, failure: Option<&'static str>) {
        self.0.failure = Cow::Borrowed(failure.unwrap_or_default());
    }
}

/// Hands it over.
impl Drop for TraceSpan {
    fn drop(&mut self) {
        if let Some(tracer) = TRACER.get() {
            tracer.take(self.0.data(), self.0.parent.is_some());
        }
    }
}

impl Open {
    fn data(&mut self) -> SpanData {
        let id = |context: &TraceContext| SpanId::from_bytes(context.span);
        let trace = TraceId::from_bytes(self.context.trace);
        let flags = TraceFlags::SAMPLED;
        SpanData {
            span_context: SpanContext::new(
                trace,
                id(&self.context),
                flags,
                false,
                TraceState::default(),
            ),
            parent_span_id: self.parent.as_ref().map_or(SpanId::INVALID, id),
            parent_span_is_remote: self.parent.is_some(),
            span_kind: self.of.kind(),
            name: self.of.name().into(),
            start_time: self.begun,
            end_time: SystemTime::now().max(self.begun),
            attributes: std::mem::take(&mut self.attributes),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: match &*self.failure {
                "" => Status::Unset,
                why => Status::error(why.to_owned()),
            },
            instrumentation_scope: InstrumentationScope::builder("stentor").build(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_collector_nothing_is_recorded() {
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert!(TraceSpan::begin(Traced::Connect, Some(parent)).is_none());
        assert!(!are_traced());
    }

    #[test]
    fn a_span_is_below_its_parent_and_says_how_it_ended() {
        let parent = TraceContext::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        let mut span = TraceSpan::new(Traced::Publish, parent, 1, 2);
        span.note("a", "b");
        let data = span.0.data();
        assert_eq!(
            data.span_context.trace_id().to_string(),
            "0af7651916cd43dd8448eb211c80319c"
        );
        assert_eq!(data.parent_span_id.to_string(), "b7ad6b7169203331");
        assert_eq!(data.name, "publish");
        assert_eq!(data.status, Status::error("abandoned"));
        assert_eq!(data.attributes, [KeyValue::new("a", "b")]);
        let first = TraceSpan::new(Traced::Deliver, None, 1, 2).0.data();
        assert_eq!(first.parent_span_id, SpanId::INVALID);
    }
    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_client_decides_over_so_many_spans_only() {
        let (queue, _spans) = mpsc::channel(8);
        let tracer = Tracer::new(1.0, queue);
        let (parent, now) = (TraceContext::parse(PARENT), Instant::now());
        let recorded = (0..10_000).filter(|_| tracer.records(parent, 0, now));
        assert_eq!(recorded.count(), 500);
        assert!(tracer.records(None, 0, now), "the gateway chose it");
        let later = now + Guests::WHILE;
        assert!(tracer.records(parent, 0, later));
        let unsampled = TraceContext::parse(&PARENT.replace("-01", "-00"));
        assert!(!tracer.records(unsampled, 0, later));
    }

    #[test]
    fn spans_of_others_leave_room_in_the_queue() {
        let (queue, spans) = mpsc::channel(8);
        let tracer = Tracer::new(1.0, queue);
        let take = |parent| {
            let span = TraceSpan::new(Traced::Publish, parent, 1, 2).0.data();
            tracer.take(span, parent.is_some());
        };
        for _ in 0..100 {
            take(TraceContext::parse(PARENT));
        }
        assert_eq!((spans.len(), tracer.lost.load(Relaxed)), (4, 96));
        for _ in 0..5 {
            take(None);
        }
        assert_eq!((spans.len(), tracer.lost.load(Relaxed)), (8, 97));
    }
}
