use std::time::UNIX_EPOCH;

use super::*;

fn levels() -> Levels {
    Levels {
        cpu_seconds: Some(Duration::from_millis(1500)),
        start_time_seconds: UNIX_EPOCH + Duration::from_secs(1),
        ready: true,
        broker_up: true,
        presence_up: Some(false),
        bans: 6,
        vhosts: 1,
        feeds: 2,
        feed_patterns: 3,
        feed_patterns_lingering: 4,
        unauthenticated: 6,
        memory_short: true,
        publishing: 5,
        resident_memory_bytes: Some(4096),
        open_fds: None,
        max_fds: None,
    }
}

/// All names, types, units and words; of values only that they are there, for other tests count
/// meanwhile.
#[test]
fn the_exposition_is_as_it_was_written_down() {
    let counts = Counts::default();
    let label = [("label", "value")];
    counts.connections.get_or_create(&label).inc();
    counts.connections_ended.get_or_create(&label).inc();
    counts.limits_exceeded.get_or_create(&label).inc();
    let refused = [("at", "value"), ("reason", "value")];
    counts.refused.get_or_create(&refused).inc();
    counts.hook_call.get_or_create(&label).observe(0.2);
    counts.hook_faults.get_or_create(&label).inc();
    counts.jwks_fetches.get_or_create(&label).inc();
    counts.tokens_refused.get_or_create(&label).inc();
    counts.renewals.get_or_create(&label).inc();
    counts.redeliveries_given_up.get_or_create(&label).inc();
    counts.resumes.get_or_create(&label).inc();
    counts.offline_messages.get_or_create(&label).inc();
    counts.webhook_events.get_or_create(&label).inc();
    counts.mailbox_overflows.get_or_create(&label).inc();
    counts.publish_failures.get_or_create(&label).inc();
    let broker = [("broker", "mq:5672".to_owned())];
    counts.broker_links.get_or_create(&broker).inc();
    let request =
        [("route", "GET /"), ("status", "200")].map(|(name, value)| (name, value.to_owned()));
    counts.api_requests.get_or_create(&request).inc();
    let levels = Levels {
        open_fds: Some(6),
        max_fds: Some(7),
        ..levels()
    };
    let mut text = String::new();
    encode(&mut text, &registry(&counts, &levels)).unwrap();
    let lines = text.lines().map(|line| match line.rsplit_once(' ') {
        Some((sample, _)) if !line.starts_with('#') => sample,
        _ => line,
    });
    insta::assert_snapshot!(lines.collect::<Vec<_>>().join("\n"));
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
        "# TYPE process_cpu_seconds counter",
        "process_cpu_seconds_total 1.5",
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
