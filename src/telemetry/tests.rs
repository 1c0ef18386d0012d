use std::{
    io::Write,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use serde_json::Value;
use tracing::subscriber::with_default;

use super::*;

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The log lines of these events.
fn log(format: Format, level: &str, events: impl FnOnce()) -> String {
    let captured = Captured::default();
    let writer = captured.clone();
    let config = Config {
        format,
        level: level.to_owned(),
    };
    let (subscriber, _) = subscriber(&config, false, move || writer.clone()).unwrap();
    capture::install();
    with_default(subscriber, events);
    let bytes = captured.0.lock().clone();
    String::from_utf8(bytes).unwrap()
}

fn connection<'a>(user: &'a str) -> ConnectionInfo<'a> {
    ConnectionInfo {
        session: "s-1",
        user: Some(user),
        vhost: Some("/"),
        transport: "websocket",
        remote: SocketAddr::from((Ipv4Addr::LOCALHOST, 4711)),
        lines: Box::leak(Box::default()),
    }
}

const FORGED: &str = "eve\n2026-01-01T00:00:00Z  INFO connection opened user=\"root\"\u{1b}[31m\r";

/// The lines of [`everything`].
const EVENTS: usize = 33;

fn everything(name: &str) {
    let connection = connection(name);
    let ending = Ending {
        reason: name,
        ..Ending::default()
    };
    connection_opened(&connection);
    connection_closed(&connection, &ending);
    login_refused(&connection, name);
    permission_refused(&connection, name, name);
    sessions_unknown(&connection, &name);
    recheck_refused(&connection, &name);
    renewal_refused(&connection, name);
    exchange_type_unknown(name, name);
    broker_link_up(name, name, name, true);
    broker_address_failed(name, &name, &name);
    feed_moved(&name, name, name);
    leftover_deleted(name);
    leftover_stays(name, &name);
    broker_link_down(name, name, name, name, Duration::from_secs(1), true);
    broker_links_back(name, name, name, Duration::from_secs(1), 1);
    broker_blocked(name, name, name);
    broker_unblocked(name, name);
    feed_interrupted(&name, name);
    presence_down(name, Duration::from_secs(1));
    listening(connection.remote, name);
    accept_failed(name, &name, 0);
    connection_limit_reached(name, 1, 0);
    not_ready(name);
    hook_answers_again(&name, name, 0);
    http_ended(&name);
    unbinding_failed(&name, &name);
    unbinding_late(&name);
    queue_left(&name, &name);
    feed_given_up(&name);
    broker_events_ended(&name);
    feed_stopped(&name, name);
    acknowledging_failed(&name);
    settling_failed(&name);
}

#[test]
fn no_name_forges_a_line() {
    for format in [Format::Text, Format::Json] {
        let plain = log(format, "debug", || everything("alice"));
        let forged = log(format, "debug", || everything(FORGED));
        assert_eq!(plain.lines().count(), EVENTS, "{plain}");
        assert_eq!(forged.lines().count(), EVENTS, "{forged}");
        assert!(!forged.contains(['\u{1b}', '\r']), "{forged}");
        // Nor a field: the quotation marks are escaped.
        assert!(!forged.contains(" user=\"root\""), "{forged}");
    }
}

#[test]
fn a_line_of_text_begins_with_the_time_in_utc() {
    let text = log(Format::Text, "info", || {
        connection_opened(&connection("alice"))
    });
    let (time, rest) = text.split_once(' ').unwrap();
    assert!(humantime::parse_rfc3339(time).is_ok(), "{time}");
    assert_eq!(
        rest.trim(),
        "INFO stentor::connection: connection opened session=\"s-1\" user=\"alice\" \
         vhost=\"/\" transport=\"websocket\" remote=127.0.0.1:4711"
    );
}

#[test]
fn a_line_of_json_is_an_object_with_flat_fields() {
    let ending = Ending {
        reason: "client disconnected",
        is_error: false,
        kind: "client disconnected",
        refused: None,
        duration: Duration::from_millis(1500),
        frames_in: 3,
        frames_out: 4,
        messages_in: 1,
        messages_out: 2,
    };
    let text = log(Format::Json, "info", || {
        connection_closed(&connection(FORGED), &ending);
    });
    let line: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(line["message"], "connection closed");
    assert_eq!(line["level"], "INFO");
    assert_eq!(line["user"], FORGED);
    assert_eq!(line["remote"], "127.0.0.1:4711");
    assert_eq!(line["duration_ms"], 1500);
    assert_eq!(line["messages_out"], 2);
    assert!(humantime::parse_rfc3339(line["timestamp"].as_str().unwrap()).is_ok());
}

/// A session may go on after a refusal, so its client can cause any number of them.
#[test]
fn one_user_does_not_fill_the_log_with_refusals() {
    let (eve, alice) = (connection("eve"), connection("alice"));
    // Another connection of hers, and another user, at the same node.
    let again = ConnectionInfo {
        session: "s-2",
        ..eve
    };
    let alice = ConnectionInfo {
        lines: eve.lines,
        ..alice
    };
    let text = log(Format::Text, "info", || {
        for _ in 0..1_000 {
            permission_refused(&eve, "topic 'x'", "no");
            permission_refused(&again, "topic 'x'", "no");
            renewal_refused(&eve, "no");
        }
        permission_refused(&alice, "topic 'y'", "no");
    });
    let of = |user: &str| text.matches(&format!("user=\"{user}\"")).count();
    // The test may last longer than a while does.
    let most = usize::try_from(Few::MOST).unwrap() * 2;
    assert!((50..=most).contains(&of("eve")), "{} lines", of("eve"));
    assert_eq!(of("alice"), 1, "{text}");
    let kept = recent_refusals().into_iter();
    let kept = kept.filter(|kept| kept.user.as_deref() == Some("eve"));
    assert!(kept.count() <= 20);
}

#[test]
fn the_level_decides() {
    let events = || {
        broker_link_up("publishing", "/", "mq:5672", true);
        let refused = |is_news| {
            let pause = Duration::from_secs(1);
            broker_link_down("publishing", "/", "mq:5672", "refused", pause, is_news);
        };
        refused(true);
        // The others of the outage.
        refused(false);
        broker_link_up("publishing", "/", "mq:5672", false);
    };
    assert_eq!(log(Format::Text, "info", events).lines().count(), 2);
    assert_eq!(log(Format::Text, "warn", events).lines().count(), 1);
    assert_eq!(log(Format::Text, "debug", events).lines().count(), 4);
    let only = "off,stentor::broker=info";
    assert_eq!(log(Format::Text, only, events).lines().count(), 2);
    let none = "info,stentor::broker=off";
    assert_eq!(log(Format::Text, none, events), "");
}
