//! Traces for OpenTelemetry: a span for each connect, subscription, message of a client and message
//! to one. Off unless `[telemetry.otlp]` names a collector.
//!
//! A span is made only for what is recorded: a trace that another service records, by the header
//! `traceparent`, or a share of those that begin here. It is handed to a bounded queue when it ends;
//! nobody ever waits for the collector.

mod config;
mod context;
mod exporting;

use std::{
    borrow::Cow,
    sync::OnceLock,
    time::{Instant, SystemTime},
};

use opentelemetry::{
    InstrumentationScope, KeyValue,
    trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState},
};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
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
        let is_recorded = match parent {
            Some(parent) => parent.is_sampled,
            None => context::is_in(tracer.ratio, rand::random()),
        };
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
        if let Some(tracer) = TRACER.get()
            && tracer.queue.try_send(self.0.data()).is_err()
        {
            metrics::spans_lost(1);
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
}
