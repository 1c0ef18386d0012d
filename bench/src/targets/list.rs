//! The list of all targets, and where in the runs each is measured.

use super::{Goal, Target};
use crate::{
    micro::Timing,
    outcome::{Outcome, Subject},
    servers::Server,
    summary::Summary,
};

use Server::{Embedded, Nats, Stentor, WebStomp};

/// Saved runs, by server and case.
pub(super) struct Runs<'a>(pub(super) &'a [Outcome]);

impl Runs<'_> {
    fn of(
        &self,
        server: Server,
        case: &str,
        value: impl Fn(&Outcome) -> Option<f64>,
    ) -> Option<Summary> {
        let runs = self.0.iter();
        let runs = runs.filter(|run| run.subject() == Subject::only(server) && run.case == case);
        Summary::of(runs.filter_map(value))
    }

    fn metric(&self, server: Server, case: &str, name: &str) -> Option<Summary> {
        self.of(server, case, |run| run.metrics.get(name).copied())
    }

    /// One measure divided by another, which may be another case's.
    fn quotient(
        &self,
        name: &str,
        (server, case): (Server, &str),
        (other, other_case): (Server, &str),
    ) -> Option<Summary> {
        let one = self.metric(server, case, name)?;
        quotient(one, self.metric(other, other_case, name)?)
    }
}

/// The spread is the worst of one beside the best of the other.
pub(super) fn quotient(one: Summary, other: Summary) -> Option<Summary> {
    (other.least > 0.0).then(|| Summary {
        median: one.median / other.median,
        least: one.least / other.most,
        most: one.most / other.least,
        runs: one.runs.min(other.runs),
    })
}

fn times(summary: Summary, factor: f64) -> Summary {
    Summary {
        median: summary.median * factor,
        least: summary.least * factor,
        most: summary.most * factor,
        ..summary
    }
}

/// All of them. What is compared is in cases of the same words as in the files.
pub(super) fn all(runs: &Runs<'_>, timings: &[Timing]) -> Vec<Target> {
    let mut all = Vec::new();
    let mut put = |what: &str, goal: Goal, unit: &'static str, measured: Option<Summary>| {
        all.push(Target {
            what: what.to_owned(),
            goal,
            unit,
            measured,
        });
    };
    idle(runs, &mut put);
    storm(runs, &mut put);
    deliveries(runs, &mut put);
    latency(runs, &mut put);
    growth(runs, &mut put);
    stated(runs, &mut put);
    let decoded = timings.iter().find(|timing| timing.name == DECODE);
    let decoded = decoded.and_then(|timing| Summary::of(timing.per_second));
    put(
        "SEND frames of 256 bytes decoded on one core",
        Goal::AtLeast(2e6),
        "/s",
        decoded,
    );
    all
}

/// The micro-benchmark of the decoder.
pub(super) const DECODE: &str = "codec: decode, Send";

type Put<'a> = dyn FnMut(&str, Goal, &'static str, Option<Summary>) + 'a;

fn idle(runs: &Runs<'_>, put: &mut Put<'_>) {
    let idle = |name: &str| runs.metric(Stentor, "idle 15000", name);
    put(
        "gateway's memory an idle connection, of 15,000",
        Goal::AtMost(4.0),
        "KiB",
        idle("kib_per_connection_gateway"),
    );
    put(
        "RabbitMQ's memory a subscribed user, of 15,000",
        Goal::AtMost(3.0),
        "KiB",
        idle("kib_per_connection_rabbitmq"),
    );
    put(
        "CPU of both while 15,000 are idle, of a core",
        Goal::AtMost(5.0),
        "%",
        idle("idle_cpu_percent_servers"),
    );
}

fn storm(runs: &Runs<'_>, put: &mut Put<'_>) {
    const OWN: &str = "storm 2000";
    const SAME: &str = "storm 2000 same user";
    let rate = "set_ups_per_second";
    for (what, goal, case, other) in [
        (
            "set-ups beside Web STOMP, permissions cached, `feed.durable = false`",
            6.0,
            "storm 2000 same user transient feeds",
            SAME,
        ),
        (
            "set-ups beside Web STOMP, all four calls, `feed.durable = false`",
            2.5,
            "storm 2000 transient feeds",
            OWN,
        ),
        (
            "set-ups beside Web STOMP, permissions cached, durable feeds",
            2.5,
            SAME,
            SAME,
        ),
    ] {
        let ratio = runs.quotient(rate, (Stentor, case), (WebStomp, other));
        put(what, Goal::AtLeast(goal), "×", ratio);
    }
    put(
        "set-ups, embedded broker, permissions cached",
        Goal::AtLeast(9_000.0),
        "/s",
        runs.metric(Embedded, SAME, rate),
    );
}

fn deliveries(runs: &Runs<'_>, put: &mut Put<'_>) {
    let rate = "deliveries_per_second";
    for users in ["1000", "5000"] {
        let shown = format!("{},000", &users[..1]);
        let case = format!("unicast {users} 1000 outstanding 256 bytes");
        let (mine, theirs) = ((Stentor, &*case), (WebStomp, &*case));
        put(
            &format!("unicast to {shown} beside Web STOMP"),
            Goal::AtLeast(2.5),
            "×",
            runs.quotient(rate, mine, theirs),
        );
        let share = runs.quotient("cpu_ms_per_1000_servers", mine, theirs);
        put(
            &format!("its CPU a delivery, RabbitMQ's included, of Web STOMP's ({shown})"),
            Goal::AtMost(45.0),
            "%",
            share.map(|share| times(share, 100.0)),
        );
        put(
            &format!("gateway's CPU for 1,000 unicast deliveries ({shown})"),
            Goal::AtMost(9.0),
            "ms",
            runs.metric(Stentor, &case, "cpu_ms_per_1000_gateway"),
        );
    }
    for users in ["1000", "5000"] {
        let shown = format!("{},000", &users[..1]);
        let case = format!("broadcast {users} 4 outstanding 256 bytes");
        put(
            &format!("broadcast to {shown} beside Web STOMP"),
            Goal::AtLeast(6.0),
            "×",
            runs.quotient(rate, (Stentor, &case), (WebStomp, &case)),
        );
        let of_floor = runs.of(Stentor, &case, |run| {
            let floor = run.metrics.get("floor_per_second")?;
            Some(100.0 * run.metrics.get(rate)? / floor)
        });
        put(
            &format!("broadcast to {shown}, of bare `write(2)` calls in the same run"),
            Goal::AtLeast(80.0),
            "%",
            of_floor,
        );
        put(
            &format!("broadcast to {shown} beside nats-server"),
            Goal::AtLeast(1.0),
            "×",
            runs.quotient(rate, (Stentor, &case), (Nats, &case)),
        );
    }
    put(
        "unicast to 1,000, embedded broker, published over STOMP",
        Goal::AtLeast(100_000.0),
        "/s",
        runs.metric(Embedded, "unicast 1000 1000 outstanding 256 bytes", rate),
    );
}

fn latency(runs: &Runs<'_>, put: &mut Put<'_>) {
    for (rate, shown) in [("1000", "1,000"), ("5000", "5,000")] {
        let case = format!("latency 1000 {rate}/s 256 bytes");
        for (percentile, bound) in [("p50", 0.3), ("p99", 1.0)] {
            let name = format!("latency_{percentile}_us");
            let measured = runs.metric(Stentor, &case, &name);
            put(
                &format!("latency at {shown} messages a second, {percentile}"),
                Goal::AtMost(bound),
                "ms",
                measured.map(|measured| times(measured, 1e-3)),
            );
        }
    }
    let case = "fairness 18000 1000/s 4 outstanding 256 bytes";
    let beside = runs.metric(Stentor, case, "latency_p99_us");
    put(
        "unicast beside broadcasts to 18,000 without pause, p99",
        Goal::AtMost(50.0),
        "ms",
        beside.map(|beside| times(beside, 1e-3)),
    );
}

fn growth(runs: &Runs<'_>, put: &mut Put<'_>) {
    for (what, [few_idle, many_idle], [few_busy, many_busy], [few_come, many_come]) in [
        (
            "from 1,000 to 18,000 connections",
            ["idle 1000", "idle 18000"],
            [
                "unicast 1000 1000 outstanding 256 bytes",
                "unicast 18000 1000 outstanding 256 bytes",
            ],
            ["storm 1000", "storm 18000"],
        ),
        (
            "from 1 node to 5, with 90,000 connections",
            ["idle 18000", "idle 90000 5 nodes"],
            [
                "unicast 18000 1000 outstanding 256 bytes",
                "unicast 90000 1000 outstanding 256 bytes 5 nodes",
            ],
            ["storm 18000", "storm 90000 5 nodes"],
        ),
    ] {
        let grows = |name, few, many| runs.quotient(name, (Stentor, many), (Stentor, few));
        let memory = grows("kib_per_connection_gateway", few_idle, many_idle);
        let cpu = grows("cpu_ms_per_1000_servers", few_busy, many_busy);
        // The time for one is the inverse of how many there are in a second.
        let subscribing = grows("set_ups_per_second", many_come, few_come);
        for (of, measured) in [
            ("gateway's memory a connection", memory),
            ("CPU a delivery, RabbitMQ's included", cpu),
            ("time to connect and subscribe", subscribing),
        ] {
            put(&format!("{of}, {what}"), Goal::AtMost(1.3), "×", measured);
        }
    }
}

/// What there is no goal for, next to what there is one for.
fn stated(runs: &Runs<'_>, put: &mut Put<'_>) {
    // The transport stands before the size, what the servers are set up for behind it.
    for (what, transport, set_up) in [
        ("WebSocket", "", ""),
        ("WebSocket over TLS", "", " TLS"),
        ("SockJS xhr-streaming", " SockJS xhr-streaming", ""),
        ("SockJS xhr-polling", " SockJS xhr-polling", ""),
    ] {
        let case = |scenario: &str| format!("{scenario} outstanding{transport} 256 bytes{set_up}");
        let idle = format!("idle 5000{transport}{set_up}");
        put(
            &format!("{what}: gateway's memory an idle connection"),
            Goal::Stated,
            "KiB",
            runs.metric(Stentor, &idle, "kib_per_connection_gateway"),
        );
        for (of, scenario) in [
            ("unicast to 1,000", "unicast 1000 1000"),
            ("broadcast to 1,000", "broadcast 1000 4"),
        ] {
            put(
                &format!("{what}: {of}"),
                Goal::Stated,
                "/s",
                runs.metric(Stentor, &case(scenario), "deliveries_per_second"),
            );
        }
    }
}
