//! The list of all targets, and where in the runs each is measured.

use super::{
    Goal::{self, AtLeast, AtMost, Stated},
    Target,
};
use crate::{
    micro::Micro,
    outcome::{Outcome, Subject},
    servers::Server::{self, Embedded, Nats, Stentor, WebStomp},
    summary::Summary,
};

use Measure::{Decoded, Metric, OfFloor, Ratio};

/// Where a target is measured. Cases are in the same words as in the files.
#[derive(Clone, Copy)]
enum Measure {
    /// A metric of a server in a case.
    Metric(Server, &'static str, &'static str),
    /// A metric of a server in a case, divided by that of another, or in another case.
    Ratio(&'static str, Place, Place),
    /// Stentor's deliveries divided by the bare writes of the same run.
    OfFloor(&'static str),
    /// The figure of the decoder's micro-benchmark.
    Decoded,
}

type Place = (Server, &'static str);

/// The decoder's figure.
pub(super) const DECODED: &str = "SEND frames of 256 bytes decoded a second";

const SET_UPS: &str = "set_ups_per_second";
const DELIVERIES: &str = "deliveries_per_second";
const IDLE_KIB: &str = "kib_per_connection_gateway";
const CPU: &str = "cpu_ms_per_1000_servers";
const P50: &str = "latency_p50_us";
const P99: &str = "latency_p99_us";

const SAME_USER: &str = "storm 2000 same user";
const UNICAST_1000: &str = "unicast 1000 1000 outstanding 256 bytes";
const UNICAST_5000: &str = "unicast 5000 1000 outstanding 256 bytes";
const UNICAST_18000: &str = "unicast 18000 1000 outstanding 256 bytes";
const UNICAST_90000: &str = "unicast 90000 1000 outstanding 256 bytes 5 nodes";
const STORM: &str = "storm 2000";
const STORM_4: &str = "storm 2000 RabbitMQ 4";
const UNICAST_1000_4: &str = "unicast 1000 1000 outstanding 256 bytes RabbitMQ 4";
const LATENCY_1000: &str = "latency 1000 1000/s 256 bytes";
const LATENCY_5000: &str = "latency 1000 5000/s 256 bytes";
const GOCHAT: &str = "gochat 500 40 rounds 64 bytes";
const TIMES_BARE: &str = "gateway_times_bare";

const BROADCAST_1000: &str = "broadcast 1000 4 outstanding 256 bytes";
const BROADCAST_5000: &str = "broadcast 5000 4 outstanding 256 bytes";

/// The name of each target, the goal, its unit, and where it is measured. A metric in microseconds
/// is shown in milliseconds, and a ratio in hundredths, where the unit says so.
#[rustfmt::skip] // two lines each
const TARGETS: &[(&str, Goal, &str, Measure)] = &[
    ("gateway's memory an idle connection, of 15,000",
        AtMost(4.0), "KiB", Metric(Stentor, "idle 15000", IDLE_KIB)),
    ("RabbitMQ's memory a subscribed user, of 15,000",
        AtMost(3.0), "KiB", Metric(Stentor, "idle 15000", "kib_per_connection_rabbitmq")),
    ("CPU of both while 15,000 are idle, of a core",
        AtMost(5.0), "%", Metric(Stentor, "idle 15000", "idle_cpu_percent_servers")),
    ("set-ups beside Web STOMP, permissions cached, `feed.durable = false`",
        AtLeast(6.0), "×", Ratio(SET_UPS, (Stentor, "storm 2000 same user transient feeds"), (WebStomp, SAME_USER))),
    ("set-ups beside Web STOMP, all four calls, `feed.durable = false`",
        AtLeast(2.5), "×", Ratio(SET_UPS, (Stentor, "storm 2000 transient feeds"), (WebStomp, "storm 2000"))),
    ("set-ups beside Web STOMP, permissions cached, durable feeds",
        AtLeast(2.5), "×", Ratio(SET_UPS, (Stentor, SAME_USER), (WebStomp, SAME_USER))),
    ("set-ups, embedded broker, permissions cached",
        AtLeast(9_000.0), "/s", Metric(Embedded, SAME_USER, SET_UPS)),
    ("unicast to 1,000 beside Web STOMP",
        AtLeast(2.5), "×", Ratio(DELIVERIES, (Stentor, UNICAST_1000), (WebStomp, UNICAST_1000))),
    ("its CPU a delivery, RabbitMQ's included, of Web STOMP's (1,000)",
        AtMost(45.0), "%", Ratio(CPU, (Stentor, UNICAST_1000), (WebStomp, UNICAST_1000))),
    ("gateway's CPU for 1,000 unicast deliveries (1,000)",
        AtMost(9.0), "ms", Metric(Stentor, UNICAST_1000, "cpu_ms_per_1000_gateway")),
    ("unicast to 5,000 beside Web STOMP",
        AtLeast(2.5), "×", Ratio(DELIVERIES, (Stentor, UNICAST_5000), (WebStomp, UNICAST_5000))),
    ("its CPU a delivery, RabbitMQ's included, of Web STOMP's (5,000)",
        AtMost(45.0), "%", Ratio(CPU, (Stentor, UNICAST_5000), (WebStomp, UNICAST_5000))),
    ("gateway's CPU for 1,000 unicast deliveries (5,000)",
        AtMost(9.0), "ms", Metric(Stentor, UNICAST_5000, "cpu_ms_per_1000_gateway")),
    ("broadcast to 1,000 beside Web STOMP",
        AtLeast(6.0), "×", Ratio(DELIVERIES, (Stentor, BROADCAST_1000), (WebStomp, BROADCAST_1000))),
    ("broadcast to 1,000, of bare `write(2)` calls in the same run",
        AtLeast(80.0), "%", OfFloor(BROADCAST_1000)),
    ("broadcast to 1,000 beside nats-server",
        AtLeast(1.0), "×", Ratio(DELIVERIES, (Stentor, BROADCAST_1000), (Nats, BROADCAST_1000))),
    ("broadcast to 5,000 beside Web STOMP",
        AtLeast(6.0), "×", Ratio(DELIVERIES, (Stentor, BROADCAST_5000), (WebStomp, BROADCAST_5000))),
    ("broadcast to 5,000, of bare `write(2)` calls in the same run",
        AtLeast(80.0), "%", OfFloor(BROADCAST_5000)),
    ("broadcast to 5,000 beside nats-server",
        AtLeast(1.0), "×", Ratio(DELIVERIES, (Stentor, BROADCAST_5000), (Nats, BROADCAST_5000))),
    ("unicast to 1,000, embedded broker, published over STOMP",
        AtLeast(100_000.0), "/s", Metric(Embedded, UNICAST_1000, DELIVERIES)),
    ("latency at 1,000 messages a second, p50",
        AtMost(0.3), "ms", Metric(Stentor, "latency 1000 1000/s 256 bytes", P50)),
    ("latency at 1,000 messages a second, p99",
        AtMost(1.0), "ms", Metric(Stentor, "latency 1000 1000/s 256 bytes", P99)),
    ("latency at 5,000 messages a second, p50",
        AtMost(0.3), "ms", Metric(Stentor, "latency 1000 5000/s 256 bytes", P50)),
    ("latency at 5,000 messages a second, p99",
        AtMost(1.0), "ms", Metric(Stentor, "latency 1000 5000/s 256 bytes", P99)),
    ("unicast beside broadcasts to 18,000 without pause, p99",
        AtMost(50.0), "ms", Metric(Stentor, "fairness 18000 1000/s 4 outstanding 256 bytes", P99)),
    ("gateway's memory a connection, from 1,000 to 18,000 connections",
        AtMost(1.3), "×", Ratio(IDLE_KIB, (Stentor, "idle 18000"), (Stentor, "idle 1000"))),
    ("CPU a delivery, RabbitMQ's included, from 1,000 to 18,000 connections",
        AtMost(1.3), "×", Ratio(CPU, (Stentor, UNICAST_18000), (Stentor, UNICAST_1000))),
    ("time to connect and subscribe, from 1,000 to 18,000 connections",
        AtMost(1.3), "×", Ratio(SET_UPS, (Stentor, "storm 1000"), (Stentor, "storm 18000"))),
    ("gateway's memory a connection, from 1 node to 5, with 90,000 connections",
        AtMost(1.3), "×", Ratio(IDLE_KIB, (Stentor, "idle 90000 5 nodes"), (Stentor, "idle 18000"))),
    ("CPU a delivery, RabbitMQ's included, from 1 node to 5, with 90,000 connections",
        AtMost(1.3), "×", Ratio(CPU, (Stentor, UNICAST_90000), (Stentor, UNICAST_18000))),
    ("time to connect and subscribe, from 1 node to 5, with 90,000 connections",
        AtMost(1.3), "×", Ratio(SET_UPS, (Stentor, "storm 18000"), (Stentor, "storm 90000 5 nodes"))),
    ("WebSocket: gateway's memory an idle connection",
        Stated, "KiB", Metric(Stentor, "idle 5000", IDLE_KIB)),
    ("WebSocket: unicast to 1,000",
        Stated, "/s", Metric(Stentor, UNICAST_1000, DELIVERIES)),
    ("WebSocket: broadcast to 1,000",
        Stated, "/s", Metric(Stentor, BROADCAST_1000, DELIVERIES)),
    ("WebSocket over TLS: gateway's memory an idle connection",
        Stated, "KiB", Metric(Stentor, "idle 5000 TLS", IDLE_KIB)),
    ("WebSocket over TLS: unicast to 1,000",
        Stated, "/s", Metric(Stentor, "unicast 1000 1000 outstanding 256 bytes TLS", DELIVERIES)),
    ("WebSocket over TLS: broadcast to 1,000",
        Stated, "/s", Metric(Stentor, "broadcast 1000 4 outstanding 256 bytes TLS", DELIVERIES)),
    ("SockJS xhr-streaming: gateway's memory an idle connection",
        Stated, "KiB", Metric(Stentor, "idle 5000 SockJS xhr-streaming", IDLE_KIB)),
    ("SockJS xhr-streaming: unicast to 1,000",
        Stated, "/s", Metric(Stentor, "unicast 1000 1000 outstanding SockJS xhr-streaming 256 bytes", DELIVERIES)),
    ("SockJS xhr-streaming: broadcast to 1,000",
        Stated, "/s", Metric(Stentor, "broadcast 1000 4 outstanding SockJS xhr-streaming 256 bytes", DELIVERIES)),
    ("SockJS xhr-polling: gateway's memory an idle connection",
        Stated, "KiB", Metric(Stentor, "idle 5000 SockJS xhr-polling", IDLE_KIB)),
    ("SockJS xhr-polling: unicast to 1,000",
        Stated, "/s", Metric(Stentor, "unicast 1000 1000 outstanding SockJS xhr-polling 256 bytes", DELIVERIES)),
    ("SockJS xhr-polling: broadcast to 1,000",
        Stated, "/s", Metric(Stentor, "broadcast 1000 4 outstanding SockJS xhr-polling 256 bytes", DELIVERIES)),
    ("SEND frames of 256 bytes decoded on one core",
        AtLeast(2e6), "/s", Decoded),
];

/// What came later. Most is measured beside others in the same run, so that it holds on any machine.
#[rustfmt::skip] // two lines each
const RELATIVE: &[(&str, Goal, &str, Measure)] = &[
    ("gateway's CPU for a unicast delivery to 1,000, of a bare write and a bare read",
        AtMost(1.5), "×", Metric(Stentor, UNICAST_1000, TIMES_BARE)),
    ("gateway's CPU for a unicast delivery to 5,000, of a bare write and a bare read",
        AtMost(1.5), "×", Metric(Stentor, UNICAST_5000, TIMES_BARE)),
    ("unicast to 1,000 beside Web STOMP",
        AtLeast(2.5), "×", Ratio(DELIVERIES, (Stentor, UNICAST_1000), (WebStomp, UNICAST_1000))),
    ("unicast to 5,000 beside Web STOMP",
        AtLeast(2.5), "×", Ratio(DELIVERIES, (Stentor, UNICAST_5000), (WebStomp, UNICAST_5000))),
    ("unicast to 1,000 beside Web STOMP, RabbitMQ 4",
        AtLeast(2.5), "×", Ratio(DELIVERIES, (Stentor, UNICAST_1000_4), (WebStomp, UNICAST_1000_4))),
    ("CPU a delivery, RabbitMQ's included, of Web STOMP's (1,000)",
        AtMost(40.0), "%", Ratio(CPU, (Stentor, UNICAST_1000), (WebStomp, UNICAST_1000))),
    ("CPU a delivery, RabbitMQ's included, of Web STOMP's (5,000)",
        AtMost(40.0), "%", Ratio(CPU, (Stentor, UNICAST_5000), (WebStomp, UNICAST_5000))),
    ("CPU a delivery, RabbitMQ's included, of Web STOMP's (1,000), RabbitMQ 4",
        AtMost(40.0), "%", Ratio(CPU, (Stentor, UNICAST_1000_4), (WebStomp, UNICAST_1000_4))),
    ("p99 at 1,000 messages a second, of Web STOMP's",
        AtMost(100.0), "%", Ratio(P99, (Stentor, LATENCY_1000), (WebStomp, LATENCY_1000))),
    ("p99 at 5,000 messages a second, of Web STOMP's",
        AtMost(100.0), "%", Ratio(P99, (Stentor, LATENCY_5000), (WebStomp, LATENCY_5000))),
    ("unicast beside broadcasts to 18,000 without pause, p99",
        AtMost(50.0), "ms", Metric(Stentor, "fairness 18000 1000/s 4 outstanding 256 bytes", P99)),
    ("set-ups beside Web STOMP, a login and a topic question each, durable feeds",
        AtLeast(6.0), "×", Ratio(SET_UPS, (Stentor, STORM), (WebStomp, STORM))),
    ("set-ups beside Web STOMP, a login and a topic question each, durable feeds, RabbitMQ 4",
        AtLeast(6.0), "×", Ratio(SET_UPS, (Stentor, STORM_4), (WebStomp, STORM_4))),
    ("GoChat's test, 10,000,000 deliveries, embedded broker",
        AtMost(20.0), "s", Metric(Embedded, GOCHAT, "all_seconds")),
    ("GoChat's test, 10,000,000 deliveries, through RabbitMQ",
        AtMost(20.0), "s", Metric(Stentor, GOCHAT, "all_seconds")),
];

/// All targets with figures of their own, and what was measured of each.
pub(super) fn all(runs: &[Outcome], micro: &Micro) -> Vec<Target> {
    measured(TARGETS, runs, micro)
}

/// All targets that came later, and what was measured of each.
pub(super) fn relative(runs: &[Outcome], micro: &Micro) -> Vec<Target> {
    measured(RELATIVE, runs, micro)
}

fn measured(
    targets: &[(&'static str, Goal, &'static str, Measure)],
    runs: &[Outcome],
    micro: &Micro,
) -> Vec<Target> {
    let all = targets.iter().map(|&(what, goal, unit, measure)| {
        let measured = match measure {
            Metric(server, case, name) => metric(runs, (server, case), name),
            Ratio(name, one, other) => {
                let other = metric(runs, other, name);
                other.and_then(|other| metric(runs, one, name)?.divided_by(&other))
            }
            OfFloor(case) => of(runs, (Stentor, case), |run| {
                Some(run.metrics.get(DELIVERIES)? / run.metrics.get("floor_per_second")?)
            }),
            Decoded => Summary::of(micro.figures.get(DECODED).copied()),
        };
        let factor = match (unit, measure) {
            ("ms", Metric(_, _, name)) if name.ends_with("_us") => 1e-3,
            ("%", Ratio(..) | OfFloor(_)) => 100.0,
            _ => 1.0,
        };
        Target {
            what,
            goal,
            unit,
            measured: measured.map(|measured| times(measured, factor)),
        }
    });
    all.collect()
}

fn of(
    runs: &[Outcome],
    (server, case): Place,
    value: impl Fn(&Outcome) -> Option<f64>,
) -> Option<Summary> {
    let is_there = |run: &&Outcome| run.subject() == Subject::only(server) && run.case == case;
    Summary::of(runs.iter().filter(is_there).filter_map(value))
}

fn metric(runs: &[Outcome], place: Place, name: &str) -> Option<Summary> {
    of(runs, place, |run| run.metrics.get(name).copied())
}

fn times(summary: Summary, factor: f64) -> Summary {
    Summary {
        median: summary.median * factor,
        least: summary.least * factor,
        most: summary.most * factor,
        ..summary
    }
}
