//! Metrics: the table in the docs, the dashboard and the alerts name what `/metrics` has; and
//! deliveries are measured.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    process,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use lapin::{
    BasicProperties,
    options::BasicPublishOptions,
    types::{AMQPValue, FieldTable},
};
use serde_json::Value;
use stomp_grammar::{Command, Frame};
use testkit::{Answer, Call, DEADLINE, FEED, Login, eventually};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::house::{House, KEY};

/// Metrics with labels begin when something happens that most gateways never see.
const RARE: [&str; 11] = [
    "stentor_offline_messages_total",
    "stentor_webhook_events_total",
    "stentor_resumes_total",
    "stentor_hook_faults_total",
    "stentor_jwks_fetches_total",
    "stentor_limits_exceeded_total",
    "stentor_mailbox_overflows_total",
    "stentor_publish_failures_total",
    "stentor_redeliveries_given_up_total",
    "stentor_renewals_total",
    "stentor_tokens_refused_total",
];

/// A metric's type, and its labels.
type Row = (String, BTreeSet<String>);

fn root() -> PathBuf {
    testkit::tests_dir().parent().unwrap().to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The table in docs/metrics.md, by name.
fn table() -> BTreeMap<String, Row> {
    let text = read("docs/metrics.md");
    let rows = text.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.split('|').map(str::trim);
        let name = cells.next()?.strip_suffix('`')?;
        let (kind, labels) = (cells.next()?, cells.next()?);
        let is_metric = ["stentor_", "process_"]
            .iter()
            .any(|prefix| name.starts_with(prefix));
        let labels = labels.split('`').skip(1).step_by(2).map(str::to_owned);
        is_metric.then(|| (name.to_owned(), (kind.to_owned(), labels.collect())))
    });
    let rows: BTreeMap<_, _> = rows.collect();
    assert!(rows.len() > 50, "{rows:#?}");
    rows
}

/// What a text in OpenMetrics has, by the names that Prometheus keeps.
fn told(text: &str) -> BTreeMap<String, Row> {
    let mut kinds = BTreeMap::new();
    let mut rows = BTreeMap::<String, Row>::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (family, kind) = rest.split_once(' ').unwrap();
            kinds.insert(family.to_owned(), kind.to_owned());
        }
        if line.starts_with('#') || line.is_empty() {
            continue;
        }
        let end = line.find(['{', ' ']).unwrap_or(line.len());
        let (sample, rest) = line.split_at(end);
        let parts = ["_bucket", "_sum", "_count"];
        let family = parts
            .iter()
            .find_map(|part| {
                let family = sample.strip_suffix(part)?;
                (kinds.get(family)? == "histogram").then_some(family)
            })
            .unwrap_or(sample);
        let kind = ["", "_total", "_info"]
            .iter()
            .find_map(|end| kinds.get(family.strip_suffix(end)?));
        let kind = kind.unwrap_or_else(|| panic!("{line}: of no type"));
        let labels = rest.split_once('}').map_or("", |(labels, _)| labels);
        // Values have no commas before a quote.
        let labels = labels
            .trim_start_matches('{')
            .split("\",")
            .filter_map(|label| Some(label.split_once('=')?.0.to_owned()))
            .filter(|label| label != "le");
        let row = rows.entry(family.to_owned()).or_default();
        row.0.clone_from(kind);
        row.1.extend(labels);
    }
    rows
}

/// A gateway to which most things have happened that can.
async fn busy_house() -> (House, String) {
    let house = House::open_with(|builder| builder.set("presence.url", "memory:")).await;
    let [mut tcp, _ws] = house.subscribed().await;
    publish(&house, "hello", BasicProperties::default()).await;
    tcp.expect_message("hello").await;
    house.hook.rule(|call| {
        let is_mallory = call.call == Call::User && call.get("username") == "mallory";
        is_mallory.then_some(Answer::Deny)
    });
    let mut stranger = house.raw_tcp().await;
    let login = Login::new("mallory", "guess", house.vhost.name());
    stranger.send(&login.frame()).await;
    stranger.expect_error("Bad CONNECT").await;
    let address = house.gateway.origin().replace("http://", "");
    let mut page = TcpStream::connect(&address).await.unwrap();
    let request = format!("GET /ws HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    page.write_all(request.as_bytes()).await.unwrap();
    page.read_to_end(&mut Vec::new()).await.unwrap();
    let text = eventually(DEADLINE, "the stranger has gone", async || {
        let (_, text) = house.gateway.admin("/metrics").await;
        let is_told = [
            "stentor_connections_ended_total",
            "stentor_api_requests_total",
        ]
        .iter()
        .all(|name| text.contains(name));
        is_told.then_some(text)
    })
    .await;
    (house, text)
}

async fn publish(house: &House, body: &str, properties: BasicProperties) {
    let channel = house.vhost.channel().await;
    let options = BasicPublishOptions::default();
    let confirm = channel
        .basic_publish(
            FEED.into(),
            KEY.into(),
            options,
            body.as_bytes(),
            properties,
        )
        .await;
    confirm.unwrap().await.unwrap();
}

/// Name by name, type by type, label by label.
#[tokio::test]
async fn the_table_in_the_docs_is_what_the_gateway_tells() {
    let table = table();
    let (_house, text) = busy_house().await;
    let told = told(&text);
    for (name, row) in &told {
        assert_eq!(
            table.get(name),
            Some(row),
            "{name}, in docs/metrics.md and in /metrics"
        );
    }
    for name in table.keys() {
        let is_told = told.contains_key(name);
        assert!(
            is_told || RARE.contains(&&**name),
            "{name} is not in\n{text}"
        );
    }
    // The rare ones, too, are there: the code's own list of all has them.
    let list = "src/telemetry/metrics/snapshots/\
                stentor__telemetry__metrics__tests__the_exposition_is_as_it_was_written_down.snap";
    let list = self::told(read(list).split("---\n").last().unwrap());
    let kinds = |rows: &BTreeMap<String, Row>| -> BTreeMap<String, String> {
        let kinds = rows.iter().map(|(name, row)| (name.clone(), row.0.clone()));
        kinds.collect()
    };
    assert_eq!(kinds(&list), kinds(&table));
}

/// The names of metrics in an expression, and the labels that it matches or groups by.
fn used(expression: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let words = expression.split(|letter: char| !is_part(letter));
    let names = words.filter(|word| word.starts_with("stentor_") || word.starts_with("process_"));
    let names = names.map(|name| {
        let parts = ["_bucket", "_sum", "_count"];
        let family = parts.iter().find_map(|part| name.strip_suffix(part));
        family.unwrap_or(name).to_owned()
    });
    let mut labels = BTreeSet::new();
    for groups in expression.split("by (").skip(1) {
        let groups = groups.split(')').next().unwrap_or_default();
        labels.extend(groups.split(", ").map(str::to_owned));
    }
    for matchers in expression.split('{').skip(1) {
        let matchers = matchers.split('}').next().unwrap_or_default();
        let matchers = matchers
            .split(',')
            .filter_map(|one| one.split_once(['=', '!']));
        labels.extend(matchers.map(|(label, _)| label.trim().to_owned()));
    }
    (names.collect(), labels)
}

fn assert_known(place: &str, expression: &str, table: &BTreeMap<String, Row>) {
    let (names, labels) = used(expression);
    // Prometheus adds the first two.
    let mut known: BTreeSet<_> = ["instance", "job", "le"].map(str::to_owned).into();
    for name in &names {
        let row = table.get(name);
        let (_, labels) = row.unwrap_or_else(|| panic!("{place}: there is no {name}"));
        known.extend(labels.iter().cloned());
    }
    let unknown: Vec<_> = labels.difference(&known).collect();
    assert!(
        unknown.is_empty(),
        "{place}: {expression}: no labels {unknown:?}"
    );
}

#[test]
fn the_dashboard_shows_metrics_that_there_are() {
    let table = table();
    let dashboard = read("packaging/compose/grafana/dashboards/stentor.json");
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels
        .iter()
        .filter_map(|panel| panel["targets"].as_array());
    let mut count = 0;
    for target in targets.flatten() {
        let expression = target["expr"].as_str().unwrap();
        assert_known("the dashboard", expression, &table);
        // A legend's label has to be left by the grouping.
        let (_, groups) = used(expression);
        let legend = target["legendFormat"].as_str().unwrap();
        for label in legend.split("{{").skip(1) {
            let label = label.split("}}").next().unwrap();
            let is_kept = !expression.contains("by (") || groups.contains(label);
            assert!(is_kept, "{expression}: {legend}");
        }
        count += 1;
    }
    assert!(count > 30, "{count}");
}

/// Each rule is read by Prometheus' own tool, fires once in its test, and has a row in the docs.
#[test]
fn every_alert_fires_for_what_it_is_there_for() {
    let table = table();
    let (rules, tests) = (
        read("packaging/prometheus/alerts.yml"),
        read("packaging/prometheus/alerts.test.yml"),
    );
    let docs = read("docs/metrics.md");
    let values = |key: &str| -> Vec<&str> {
        let lines = rules
            .lines()
            .map(|line| line.trim_start_matches([' ', '-']));
        lines.filter_map(|line| line.strip_prefix(key)).collect()
    };
    for expression in values("expr: ") {
        if !expression.starts_with("up{") {
            assert_known("the alerts", expression, &table);
        }
    }
    let alerts = values("alert: ");
    assert!(alerts.len() > 15, "{alerts:?}");
    for alert in alerts {
        let fires = format!("alertname: {alert}\n        exp_alerts:\n          - exp_labels:");
        assert!(tests.contains(&fires), "no test fires {alert}");
        assert!(
            docs.contains(&format!("`{alert}`")),
            "docs/metrics.md lacks {alert}"
        );
    }
    for arguments in [["check", "alerts.yml"], ["test", "alerts.test.yml"]] {
        let [verb, file] = arguments;
        let ran = process::Command::new("promtool")
            .args([verb, "rules", file])
            .current_dir(root().join("packaging/prometheus"))
            .output()
            .expect("promtool runs: ./scripts/test.sh --setup installs it");
        assert!(ran.status.success(), "{ran:?}");
    }
}

/// The counts and the bounds of a histogram's buckets, cumulative, for the series with this label.
fn buckets(text: &str, name: &str, label: &str) -> Vec<(f64, u64)> {
    let lines = text.lines().filter_map(|line| {
        let line = line.strip_prefix(name)?.strip_prefix("_bucket{")?;
        let (labels, count) = line.split_once("} ")?;
        let bound = labels.split("le=\"").nth(1)?.split('"').next()?;
        let bound = bound.replace("+Inf", "inf").parse().ok()?;
        labels
            .contains(label)
            .then(|| (bound, count.parse().unwrap()))
    });
    lines.collect()
}

async fn until_counted(house: &House, line: &str) -> String {
    eventually(DEADLINE, line, async || {
        let (_, text) = house.gateway.admin("/metrics").await;
        text.lines().any(|found| found == line).then_some(text)
    })
    .await
}

/// Every message of every client, feeds and queues of their own alike.
#[tokio::test]
async fn deliveries_are_measured_from_the_read_to_the_write() {
    let house = House::open_with(|builder| builder.set("control.exchange", "off")).await;
    let mut clients = house.subscribed().await;
    let mut own = house.tcp().await;
    own.subscribe("q", "/queue/own").await;
    house.push(["one", "two"]).await;
    house.vhost.publish("", "own", ["three"]).await;
    for client in &mut clients {
        client.expect_message("one").await;
        client.expect_message("two").await;
    }
    own.expect_message("three").await;
    let text = until_counted(&house, "stentor_delivery_seconds_count 5").await;
    let buckets = buckets(&text, "stentor_delivery_seconds", "");
    // Nobody had to wait: a slow machine, perhaps, but not a wrong clock.
    assert!(
        buckets
            .iter()
            .any(|(bound, count)| *bound < 31.0 && *count == 5),
        "{buckets:?}"
    );
    // No message said when it was sent.
    let none = "stentor_delivery_age_seconds_count{timestamp=\"seconds\"} 0";
    assert!(text.contains(none), "{text}");
}

/// Seconds as AMQP has them, milliseconds as RabbitMQ's plug-in writes them, and a clock that is
/// ahead.
#[tokio::test]
async fn the_age_of_a_message_is_measured_by_its_timestamp() {
    let house = House::open().await;
    let mut client = house.tcp().await;
    client.subscribe("feed", crate::house::DESTINATION).await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let at = |time: Duration| BasicProperties::default().with_timestamp(time.as_secs());
    let exactly = |time: Duration| {
        let mut headers = FieldTable::default();
        let milliseconds = i64::try_from(time.as_millis()).unwrap();
        headers.insert(
            "timestamp_in_ms".into(),
            AMQPValue::LongLongInt(milliseconds),
        );
        at(time).with_headers(headers)
    };
    let minute = Duration::from_secs(60);
    for (body, properties) in [
        ("seconds", at(now - minute)),
        ("milliseconds", exactly(now - minute)),
        ("just now", exactly(now)),
        ("future", at(now + 60 * minute)),
    ] {
        publish(&house, body, properties).await;
        client.expect_message(body).await;
    }
    let text = until_counted(&house, "stentor_delivery_ages_negative_total 1").await;
    for (label, counts) in [("seconds", (0, 1)), ("milliseconds", (1, 2))] {
        let label = format!("timestamp=\"{label}\"");
        let buckets = buckets(&text, "stentor_delivery_age_seconds", &label);
        let until = |bound: f64| {
            let found = buckets.iter().find(|(other, _)| *other == bound);
            found.unwrap_or_else(|| panic!("{bound}: {buckets:?}")).1
        };
        assert_eq!((until(30.0), until(f64::INFINITY)), counts, "{label}");
    }
}

/// Whether the session ends by it or not.
#[tokio::test]
async fn each_refusal_counts_once() {
    let house = House::open_with(|builder| builder.set("auth.soft_deny", true)).await;
    house.hook.rule(|call| {
        let is_denied = call.call == Call::Topic && call.get("routing_key") == "user_bob";
        is_denied.then_some(Answer::Deny)
    });
    let mut client = house.tcp().await;
    for id in ["1", "2"] {
        let subscribe = Frame::new(Command::Subscribe)
            .with_header("id", id)
            .with_header("destination", "/exchange/feed/user_bob");
        client.send(&subscribe).await;
        client.expect_error("access_refused").await;
    }
    let unsubscribe = Frame::new(Command::Unsubscribe).with_header("id", "9");
    client.send(&unsubscribe).await;
    client.expect_error("No subscription found").await;
    let refused = "stentor_refused_total{at=\"session\",reason=";
    let text = until_counted(&house, &format!("{refused}\"unknown-subscription\"}} 1")).await;
    let denied = format!("{refused}\"permission-denied\"}} 2\n");
    assert!(text.contains(&denied), "{text}");
    assert_eq!(text.matches("stentor_refused_total{").count(), 2, "{text}");
}
