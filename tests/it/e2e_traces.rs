//! Traces: spans reach a collector of OpenTelemetry, and `traceparent` goes from SEND to AMQP and
//! from AMQP to MESSAGE.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use lapin::{
    BasicProperties,
    options::{BasicGetOptions, BasicPublishOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::any_value::Value,
    trace::v1::{Span, status::StatusCode},
};
use prost::Message as _;
use stomp_grammar::{Command, Frame};
use testkit::{Answer, Call, DEADLINE, FEED, StompClient, eventually};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    task::AbortHandle,
};

use crate::house::{DESTINATION, House, KEY};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

fn traceparent(is_recorded: bool) -> String {
    format!("00-{TRACE}-{PARENT}-0{}", u8::from(is_recorded))
}

/// A collector that remembers what it was sent.
struct Collector {
    url: String,
    requests: Arc<Mutex<Vec<(String, ExportTraceServiceRequest)>>>,
    task: AbortHandle,
}

impl Collector {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::default();
        let seen = Arc::clone(&requests);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(answer(stream, Arc::clone(&seen)));
            }
        });
        Self {
            url,
            requests,
            task: task.abort_handle(),
        }
    }

    /// The spans so far.
    fn spans(&self) -> Vec<Span> {
        let requests = self.requests.lock().unwrap();
        let resources = requests
            .iter()
            .flat_map(|(_, request)| &request.resource_spans);
        let scopes = resources.flat_map(|resource| &resource.scope_spans);
        scopes.flat_map(|scope| scope.spans.clone()).collect()
    }

    /// Waits for the spans of these names.
    async fn until(&self, names: &[&str]) -> BTreeMap<String, Span> {
        eventually(DEADLINE, "the spans are there", async || {
            let spans = self.spans().into_iter();
            let spans: BTreeMap<_, _> = spans.map(|span| (span.name.clone(), span)).collect();
            names
                .iter()
                .all(|name| spans.contains_key(*name))
                .then_some(spans)
        })
        .await
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(
    stream: TcpStream,
    seen: Arc<Mutex<Vec<(String, ExportTraceServiceRequest)>>>,
) -> Option<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head).await.ok()? == 0 {
                return None;
            }
        }
        let head = head.to_ascii_lowercase();
        let length = head.split("content-length: ").nth(1)?;
        let length = length.split("\r\n").next()?.parse().ok()?;
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.ok()?;
        let request = ExportTraceServiceRequest::decode(&*body).unwrap();
        seen.lock().unwrap().push((head, request));
        let answer = "HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\n\
                      Content-Length: 0\r\n\r\n";
        stream.write_all(answer.as_bytes()).await.ok()?;
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attribute<'a>(span: &'a Span, key: &str) -> &'a str {
    let found = span.attributes.iter().find(|pair| pair.key == key);
    let value = found.and_then(|pair| pair.value.as_ref()?.value.as_ref());
    match value {
        Some(Value::StringValue(text)) => text,
        other => panic!("{key}: {other:?} in {span:?}"),
    }
}

/// A queue that gets what is sent to the feed.
async fn queue(house: &House) -> lapin::Channel {
    let channel = house.vhost.channel().await;
    // The only kind of transient queue that a strict RabbitMQ has.
    let options = QueueDeclareOptions {
        exclusive: true,
        ..QueueDeclareOptions::default()
    };
    let declared = channel.queue_declare("probe".into(), options, FieldTable::default());
    declared.await.unwrap();
    let options = QueueBindOptions::default();
    let arguments = FieldTable::default();
    let bound = channel.queue_bind("probe".into(), FEED.into(), KEY.into(), options, arguments);
    bound.await.unwrap();
    channel
}

/// A header of the next message of that queue.
async fn header(channel: &lapin::Channel, name: &str) -> Option<String> {
    let message = eventually(DEADLINE, "the message is in the queue", async || {
        let get = channel.basic_get("probe".into(), BasicGetOptions { no_ack: true });
        get.await.unwrap()
    })
    .await;
    let headers = message.properties.headers().clone().unwrap_or_default();
    match headers.inner().get(name)? {
        AMQPValue::LongString(text) => Some(text.to_string()),
        other => panic!("{other:?}"),
    }
}

async fn send(client: &mut StompClient, body: &str, headers: &[(&str, &str)]) {
    let send = Frame::new(Command::Send).with_header("destination", DESTINATION);
    let send = headers
        .iter()
        .fold(send, |send, (name, value)| send.with_header(name, value));
    let mut send = send;
    send.body = body.to_owned().into();
    client.send(&send).await;
}

#[tokio::test]
async fn without_a_collector_traceparent_passes_unchanged_both_ways() {
    let house = House::open().await;
    let channel = queue(&house).await;
    let mut client = house.tcp().await;
    let parent = traceparent(true);
    send(
        &mut client,
        "up",
        &[("traceparent", &parent), ("tracestate", "a=1")],
    )
    .await;
    assert_eq!(
        header(&channel, "traceparent").await.as_deref(),
        Some(&*parent)
    );

    client.subscribe("feed", DESTINATION).await;
    let mut headers = FieldTable::default();
    for (name, value) in [("traceparent", &*parent), ("tracestate", "a=1")] {
        headers.insert(name.into(), AMQPValue::LongString(value.into()));
    }
    let properties = BasicProperties::default().with_headers(headers);
    let options = BasicPublishOptions::default();
    let publish = channel.basic_publish(FEED.into(), KEY.into(), options, b"down", properties);
    publish.await.unwrap().await.unwrap();
    let message = client.expect_message("down").await;
    assert_eq!(message.header("traceparent"), Some(&*parent));
    assert_eq!(message.header("tracestate"), Some("a=1"));
}

/// From the client's span over the gateway's to the receiver's, in one trace.
#[tokio::test]
async fn the_gateway_goes_on_with_a_trace_and_begins_others() {
    let collector = Collector::start().await;
    let house = House::open_with(|builder| {
        builder
            .set("telemetry.otlp.endpoint", &collector.url)
            .set("telemetry.otlp.ratio", "1.0")
            .set("telemetry.otlp.headers", "authorization=Bearer geheim")
    })
    .await;
    let channel = queue(&house).await;
    let mut client = house.tcp().await;
    client.subscribe("feed", DESTINATION).await;
    let parent = traceparent(true);
    send(
        &mut client,
        "hello",
        &[("traceparent", &parent), ("tracestate", "a=1")],
    )
    .await;
    let message = client.expect_message("hello").await;

    let spans = collector
        .until(&["connect", "subscribe", "publish", "deliver"])
        .await;
    let publish = &spans["publish"];
    assert_eq!(hex(&publish.trace_id), TRACE);
    assert_eq!(hex(&publish.parent_span_id), PARENT);
    let own = format!("00-{TRACE}-{}-01", hex(&publish.span_id));
    assert_eq!(
        header(&channel, "traceparent").await.as_deref(),
        Some(&*own)
    );
    assert_eq!(message.header("traceparent"), Some(&*own));
    assert_eq!(message.header("tracestate"), Some("a=1"));
    let deliver = &spans["deliver"];
    assert_eq!(hex(&deliver.trace_id), TRACE);
    assert_eq!(deliver.parent_span_id, publish.span_id);
    assert_eq!(
        attribute(deliver, "messaging.rabbitmq.destination.routing_key"),
        KEY
    );
    // Those that begin here are traces of their own.
    let connect = &spans["connect"];
    assert!(connect.parent_span_id.is_empty(), "{connect:?}");
    assert_ne!(hex(&connect.trace_id), TRACE);
    assert_eq!(attribute(connect, "enduser.id"), "alice");
    assert_eq!(
        attribute(&spans["subscribe"], "messaging.destination.name"),
        DESTINATION
    );
    for span in spans.values() {
        assert!(
            span.end_time_unix_nano >= span.start_time_unix_nano,
            "{span:?}"
        );
        let is_failed = span.status.as_ref().map(|status| status.code());
        assert_ne!(is_failed, Some(StatusCode::Error), "{span:?}");
    }
    let requests = collector.requests.lock().unwrap().clone();
    let (head, request) = &requests[0];
    assert!(head.starts_with("post /v1/traces http/1.1\r\n"), "{head}");
    assert!(
        head.contains("\r\nauthorization: bearer geheim\r\n"),
        "{head}"
    );
    let resource = format!("{:?}", request.resource_spans[0].resource);
    assert!(
        resource.contains("service.name") && resource.contains("stentor"),
        "{resource}"
    );
    let log = house.gateway.log().text();
    assert!(!log.contains("geheim"), "{log}");
}

/// A trace that nobody records stays as it is; one that does not begin here costs nothing, either.
#[tokio::test]
async fn what_is_not_recorded_passes_unchanged() {
    let collector = Collector::start().await;
    let house = House::open_with(|builder| {
        builder
            .set("telemetry.otlp.endpoint", &collector.url)
            .set("telemetry.otlp.ratio", "0.0")
    })
    .await;
    let channel = queue(&house).await;
    let mut client = house.tcp().await;
    let parent = traceparent(false);
    send(&mut client, "unrecorded", &[("traceparent", &parent)]).await;
    assert_eq!(
        header(&channel, "traceparent").await.as_deref(),
        Some(&*parent)
    );
    send(&mut client, "no trace", &[]).await;
    assert_eq!(header(&channel, "traceparent").await, None);
    send(&mut client, "nonsense", &[("traceparent", "00-0-0-01")]).await;
    assert_eq!(
        header(&channel, "traceparent").await.as_deref(),
        Some("00-0-0-01")
    );
    // What was recorded goes out before the end: there is nothing of the others.
    let recorded = traceparent(true);
    send(&mut client, "recorded", &[("traceparent", &recorded)]).await;
    collector.until(&["publish"]).await;
    assert_eq!(collector.spans().len(), 1, "{:?}", collector.spans());
}

#[tokio::test]
async fn a_refusal_is_a_failed_span() {
    let collector = Collector::start().await;
    let house = House::open_with(|builder| {
        builder
            .set("telemetry.otlp.endpoint", &collector.url)
            .set("telemetry.otlp.ratio", "1.0")
    })
    .await;
    house.hook.answer(Call::Topic, Answer::Deny);
    let mut client = house.tcp().await;
    send(&mut client, "denied", &[]).await;
    client.expect_error("access_refused").await;
    let spans = collector.until(&["publish"]).await;
    let status = spans["publish"].status.clone().unwrap();
    assert_eq!(status.code(), StatusCode::Error);
    assert_eq!(status.message, "permission-denied");
}

/// A COMMIT ends at its first message that is not taken: those behind it were not published.
#[tokio::test]
async fn what_a_commit_did_not_send_is_no_success() {
    let collector = Collector::start().await;
    let house = House::open_with(|builder| {
        builder
            .set("telemetry.otlp.endpoint", &collector.url)
            .set("telemetry.otlp.ratio", "1.0")
            // One after the other, so that the refusal is known before the next.
            .set("broker.max_pending_publishes", 1)
    })
    .await;
    let mut client = house.tcp().await;
    let of_transaction = |command| Frame::new(command).with_header("transaction", "t");
    client.send(&of_transaction(Command::Begin)).await;
    let nowhere = format!("/exchange/{FEED}/nowhere");
    for (destination, mandatory) in [
        (DESTINATION, "false"),
        (&*nowhere, "true"),
        (DESTINATION, "false"),
        (DESTINATION, "false"),
    ] {
        let send = of_transaction(Command::Send)
            .with_header("destination", destination)
            .with_header("mandatory", mandatory);
        client.send(&send).await;
    }
    client.send(&of_transaction(Command::Commit)).await;
    let told = client.expect_frame().await;
    assert_eq!(told.command, Command::Error, "{}", testkit::show(&told));
    let published = eventually(DEADLINE, "the spans are there", async || {
        let mut spans = collector.spans();
        spans.retain(|span| span.name == "publish");
        (spans.len() == 4).then_some(spans)
    })
    .await;
    let is_failed = |span: &&Span| {
        let status = span.status.as_ref().map(|status| status.code());
        status == Some(StatusCode::Error)
    };
    let failed = published.iter().filter(is_failed).count();
    assert_eq!(failed, 3, "{published:#?}");
}

/// Nobody waits for it, and the log does not fill.
#[tokio::test]
async fn a_collector_that_is_away_harms_nobody() {
    // Its port is free again.
    let url = Collector::start().await.url.clone();
    let house = House::open_with(|builder| {
        builder
            .set("telemetry.otlp.endpoint", &url)
            .set("telemetry.otlp.ratio", "1.0")
    })
    .await;
    for _ in 0..3 {
        let mut client = house.tcp().await;
        client.subscribe("feed", DESTINATION).await;
        house.push(["hello"]).await;
        client.expect_message("hello").await;
        client.disconnect().await;
    }
    eventually(DEADLINE, "the spans are counted as lost", async || {
        let (_, text) = house.gateway.admin("/metrics").await;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("stentor_trace_spans_lost_total "));
        line.and_then(|count| count.parse::<u64>().ok())
            .is_some_and(|count| count >= 9)
    })
    .await;
    let lines = house.gateway.log().all();
    let said = lines
        .iter()
        .filter(|line| line.contains("does not take traces"))
        .count();
    assert_eq!(said, 1, "{lines:#?}");
}
