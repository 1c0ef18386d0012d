//! The way of spans to the collector: a bounded queue, and one task that empties it.

use std::{
    mem,
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use opentelemetry::KeyValue;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::{
    Resource,
    trace::{SpanData, SpanExporter as _},
};
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use tokio::{sync::mpsc, time::timeout};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{info, warn};

use super::{OtlpConfig, TRACER, Tracer};
use crate::{
    background,
    telemetry::{Seldom, metrics},
};

/// Spans that wait for the collector, and those under way; more are lost, and counted. Each takes
/// about half a kilobyte.
const QUEUE: usize = 4096;
/// Spans in one request.
const BATCH: usize = 512;
/// How long spans are gathered for one request.
const GATHER: Duration = Duration::from_secs(1);
/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The task that takes spans to the collector.
#[derive(Debug)]
pub struct Exporting {
    task: AbortOnDropHandle<()>,
    stop: CancellationToken,
}

/// Begins to record traces, if a collector is set. `client` makes the client for it, by whether it
/// is asked by TLS.
///
/// # Errors
/// The client cannot be made. Whether the collector is there shows later.
pub fn start_traces(
    config: &OtlpConfig,
    client: impl FnOnce(bool) -> reqwest::Result<reqwest::Client>,
    node: &str,
) -> Result<Option<Exporting>, String> {
    let Some((url, headers)) = config.request() else {
        return Ok(None);
    };
    let client = client(url.scheme() == "https").map_err(|error| error.to_string())?;
    let client = OwnHeaders::new(client, &headers)?;
    let mut exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(client)
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(url.as_str())
        .with_timeout(PATIENCE)
        .build()
        .map_err(|error| error.to_string())?;
    let about = [
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", node.to_owned()),
    ];
    let resource = Resource::builder_empty()
        .with_service_name("stentor")
        .with_attributes(about)
        .build();
    exporter.set_resource(&resource);
    let (queue, spans) = mpsc::channel(QUEUE);
    let tracer = Tracer::new(config.ratio, queue);
    // A second gateway in one process, as tests have, records by the first one's means.
    let _ = TRACER.set(tracer);
    let stop = CancellationToken::new();
    let task = background::spawn(export(exporter, spans, stop.clone()));
    Ok(Some(Exporting {
        task: AbortOnDropHandle::new(task),
        stop,
    }))
}

/// A client that sends the headers of `[telemetry.otlp]`, and no others: the exporter would rather
/// send those of `OTEL_EXPORTER_OTLP_HEADERS`, which a platform sets for a collector of its own.
#[derive(Debug)]
struct OwnHeaders<C> {
    client: C,
    headers: HeaderMap,
}

impl<C> OwnHeaders<C> {
    fn new(client: C, headers: &[(&str, &str)]) -> Result<Self, String> {
        let mut own = HeaderMap::new();
        for (name, value) in headers {
            let name: HeaderName = name
                .parse()
                .map_err(|_| format!("{name:?} is no name of a header"))?;
            let mut value: HeaderValue = value
                .parse()
                .map_err(|_| format!("the value of {name} is none of a header"))?;
            // It is a credential.
            value.set_sensitive(true);
            own.insert(name, value);
        }
        Ok(Self {
            client,
            headers: own,
        })
    }
}

impl<C: HttpClient> HttpClient for OwnHeaders<C> {
    fn send_bytes<'a, 'b>(
        &'a self,
        mut request: Request<Bytes>,
    ) -> BoxFuture<'b, Result<Response<Bytes>, HttpError>>
    where
        'a: 'b,
    {
        let headers = request.headers_mut();
        let mut given = mem::replace(headers, self.headers.clone());
        // How the body is written, the exporter knows.
        for name in [CONTENT_TYPE, CONTENT_ENCODING] {
            if let Some(value) = given.remove(&name) {
                headers.insert(name, value);
            }
        }
        self.client.send_bytes(request)
    }
}

impl Exporting {
    /// Takes what waits to the collector, if that does not last.
    pub async fn finish(self, patience: Duration) {
        self.stop.cancel();
        let _ = timeout(patience, self.task).await;
    }
}

async fn export(
    exporter: SpanExporter,
    mut spans: mpsc::Receiver<SpanData>,
    stop: CancellationToken,
) {
    let mut news = News::default();
    while let Some(Some(first)) = stop.run_until_cancelled(spans.recv()).await {
        let mut batch = vec![first];
        if spans.len() < BATCH {
            let _ = stop.run_until_cancelled(tokio::time::sleep(GATHER)).await;
        }
        gather(&mut spans, &mut batch);
        send(&exporter, batch, &mut news).await;
    }
    loop {
        let mut batch = Vec::new();
        gather(&mut spans, &mut batch);
        if batch.is_empty() {
            return;
        }
        send(&exporter, batch, &mut news).await;
    }
}

fn gather(spans: &mut mpsc::Receiver<SpanData>, batch: &mut Vec<SpanData>) {
    while batch.len() < BATCH
        && let Ok(span) = spans.try_recv()
    {
        batch.push(span);
    }
}

async fn send(exporter: &SpanExporter, batch: Vec<SpanData>, news: &mut News) {
    let count = batch.len();
    let sent = timeout(PATIENCE, exporter.export(batch)).await;
    let failure = match sent {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some("it does not answer".to_owned()),
    };
    match failure {
        None => metrics::spans_sent(count),
        Some(_) => metrics::spans_lost(count),
    }
    let lost = TRACER
        .get()
        .map_or(0, |tracer| tracer.lost.swap(0, Relaxed));
    let overflow =
        || (lost > 0).then(|| format!("spans come faster than it takes them: {lost} had no room"));
    news.tell(failure.or_else(overflow).as_deref(), Instant::now());
}

/// Whether the collector takes spans, as the log knows it.
struct News {
    is_away: bool,
    seldom: Seldom,
}

impl Default for News {
    fn default() -> Self {
        Self {
            is_away: false,
            seldom: Seldom::once_in(Seldom::MINUTE),
        }
    }
}

impl News {
    fn tell(&mut self, failure: Option<&str>, now: Instant) {
        if let Some(cause) = failure {
            self.is_away = true;
            if let Some(unsaid) = self.seldom.let_through(now) {
                warn!(
                    target: "stentor::traces", cause, unsaid,
                    "the collector of [telemetry.otlp] does not take traces: they are lost"
                );
            }
        } else if self.is_away && !self.seldom.is_quiet(now) {
            // One that fails every other request would otherwise fill the log by being well.
            self.is_away = false;
            info!(target: "stentor::traces", "the collector takes traces again");
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use parking_lot::Mutex;

    use super::*;
    use crate::telemetry::capture::Capture;

    /// Remembers the headers of its last request.
    #[derive(Debug, Default)]
    struct Wire(Mutex<HeaderMap>);

    impl HttpClient for Wire {
        fn send_bytes<'a, 'b>(
            &'a self,
            request: Request<Bytes>,
        ) -> BoxFuture<'b, Result<Response<Bytes>, HttpError>>
        where
            'a: 'b,
        {
            *self.0.lock() = request.headers().clone();
            std::future::ready(Ok(Response::new(Bytes::new()))).boxed()
        }
    }

    /// As the exporter makes a request where `OTEL_EXPORTER_OTLP_HEADERS` is set.
    #[tokio::test]
    async fn the_collector_gets_the_headers_of_the_configuration_alone() {
        let own = [("authorization", "Bearer geheim"), ("X-Tenant", "a")];
        let client = OwnHeaders::new(Wire::default(), &own).unwrap();
        assert!(!format!("{client:?}").contains("geheim"), "{client:?}");
        let request = Request::post("http://127.0.0.1:4318/v1/traces")
            .header("content-type", "application/x-protobuf")
            .header("authorization", "Bearer of-another")
            .header("x-vendor-key", "of-another");
        let request = request.body(Bytes::new()).unwrap();
        client.send_bytes(request).await.unwrap();
        let sent = client.client.0.lock();
        let mut sent: Vec<_> = sent
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect();
        sent.sort_unstable();
        let expected = [
            ("authorization", "Bearer geheim"),
            ("content-type", "application/x-protobuf"),
            ("x-tenant", "a"),
        ];
        assert_eq!(sent, expected);
    }

    #[test]
    fn a_collector_that_comes_and_goes_does_not_fill_the_log() {
        let log = Capture::start();
        let (mut news, start) = (News::default(), Instant::now());
        news.tell(None, start);
        for seconds in 0..60 {
            let now = start + Duration::from_secs(seconds);
            news.tell(Some("gone"), now);
            news.tell(None, now);
        }
        let lines = || {
            let text = log.text();
            let of = |words: &str| text.matches(words).count();
            (of("does not take traces"), of("takes traces again"))
        };
        assert_eq!(lines(), (1, 0));
        news.tell(None, start + Seldom::MINUTE);
        news.tell(None, start + Seldom::MINUTE);
        assert_eq!(lines(), (1, 1));
        news.tell(Some("gone"), start + Seldom::MINUTE);
        assert_eq!(lines(), (2, 1));
    }
}
