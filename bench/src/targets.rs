//! What is to be reached, and whether it was: computed from saved runs (pure).

use std::fmt::Write as _;

use crate::{
    micro::Timing,
    outcome::Outcome,
    servers::Server,
    summary::{Summary, number},
};

use Server::{Embedded, Nats, Stentor, WebStomp};

/// All targets as a table, each with what was measured.
pub(crate) fn markdown(outcomes: &[Outcome], timings: &[Timing]) -> String {
    let targets = targets(&Runs(outcomes), timings);
    let bound = targets.iter().filter(|target| target.goal != Goal::Stated);
    let verdicts: Vec<Verdict> = bound.map(Target::verdict).collect();
    let count = |wanted| verdicts.iter().filter(|&&its| its == wanted).count();
    let (met, missed) = (count(Verdict::Met), count(Verdict::Missed));
    let unknown = match count(Verdict::Unknown) {
        0 => String::new(),
        unknown => format!("; {unknown} were not measured"),
    };
    let mut text = format!(
        "{met} of {} targets are met, {missed} are not{unknown}. Where two servers are compared, \
         the spread is the worst of one beside the best of the other.\n\n\
         | | Goal | Measured | Runs | |\n|---|--:|--:|--:|---|\n",
        verdicts.len()
    );
    for target in &targets {
        let measured = target
            .measured
            .map_or("–".into(), |summary| target.show(summary));
        let runs = target.measured.map_or(0, |summary| summary.runs);
        // A string takes all.
        let _ = writeln!(
            text,
            "| {} | {} | {measured} | {runs} | {} |",
            target.what,
            target.goal_text(),
            target.verdict().text(target.goal)
        );
    }
    text
}

/// Something to be reached.
struct Target {
    what: String,
    goal: Goal,
    unit: &'static str,
    measured: Option<Summary>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Goal {
    AtMost(f64),
    AtLeast(f64),
    /// There is none; it is to be known.
    Stated,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Verdict {
    Met,
    Missed,
    Unknown,
}

impl Verdict {
    const fn text(self, goal: Goal) -> &'static str {
        match (self, goal) {
            (_, Goal::Stated) => "",
            (Self::Met, _) => "met",
            (Self::Missed, _) => "**not met**",
            (Self::Unknown, _) => "not measured",
        }
    }
}

impl Target {
    /// By the median.
    fn verdict(&self) -> Verdict {
        let Some(Summary { median, .. }) = self.measured else {
            return Verdict::Unknown;
        };
        let is_met = match self.goal {
            Goal::AtMost(bound) => median <= bound,
            Goal::AtLeast(bound) => median >= bound,
            Goal::Stated => true,
        };
        if is_met {
            Verdict::Met
        } else {
            Verdict::Missed
        }
    }

    fn goal_text(&self) -> String {
        match self.goal {
            Goal::AtMost(bound) => format!("≤ {}", self.with_unit(bound)),
            Goal::AtLeast(bound) => format!("≥ {}", self.with_unit(bound)),
            Goal::Stated => "–".into(),
        }
    }

    fn show(&self, summary: Summary) -> String {
        let mut text = self.with_unit(summary.median);
        if summary.least < summary.most {
            let (least, most) = (number(summary.least), number(summary.most));
            let _ = write!(text, " ({least} to {most})");
        }
        text
    }

    fn with_unit(&self, value: f64) -> String {
        let value = match value {
            whole if whole.fract() == 0.0 && whole < 100.0 => format!("{whole:.0}"),
            other => number(other),
        };
        match self.unit {
            "×" | "/s" => value + self.unit,
            unit => format!("{value} {unit}"),
        }
    }
}

/// Saved runs, by server and case.
struct Runs<'a>(&'a [Outcome]);

impl Runs<'_> {
    fn of(
        &self,
        server: Server,
        case: &str,
        value: impl Fn(&Outcome) -> Option<f64>,
    ) -> Option<Summary> {
        let runs = self.0.iter();
        let runs = runs.filter(|run| run.server == server && run.case == case);
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
fn quotient(one: Summary, other: Summary) -> Option<Summary> {
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
fn targets(runs: &Runs<'_>, timings: &[Timing]) -> Vec<Target> {
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
const DECODE: &str = "codec: decode, Send";

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
    for (what, [few_idle, many_idle], [few_busy, many_busy]) in [
        (
            "from 1,000 to 18,000 connections",
            ["idle 1000", "idle 18000"],
            [
                "unicast 1000 1000 outstanding 256 bytes",
                "unicast 18000 1000 outstanding 256 bytes",
            ],
        ),
        (
            "from 1 node to 5, with 90,000 connections",
            ["idle 18000", "idle 90000 5 nodes"],
            [
                "unicast 18000 1000 outstanding 256 bytes",
                "unicast 90000 1000 outstanding 256 bytes 5 nodes",
            ],
        ),
    ] {
        let grows = |name, few, many| runs.quotient(name, (Stentor, many), (Stentor, few));
        let memory = grows("kib_per_connection_gateway", few_idle, many_idle);
        let cpu = grows("cpu_ms_per_1000_servers", few_busy, many_busy);
        // The time for one is the inverse of how many there are in a second.
        let subscribing = grows("set_ups_per_second", many_idle, few_idle);
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
    for (what, note, idle) in [
        ("TLS", " TLS", "idle 5000 TLS"),
        (
            "SockJS xhr-streaming",
            " SockJS xhr-streaming",
            "idle 5000 SockJS xhr-streaming",
        ),
        (
            "SockJS xhr-polling",
            " SockJS xhr-polling",
            "idle 5000 SockJS xhr-polling",
        ),
    ] {
        // The transport stands before the size, what the servers are set up for behind it.
        let case = |scenario: &str| match what {
            "TLS" => format!("{scenario} outstanding 256 bytes{note}"),
            _ => format!("{scenario} outstanding{note} 256 bytes"),
        };
        put(
            &format!("{what}: gateway's memory an idle connection"),
            Goal::Stated,
            "KiB",
            runs.metric(Stentor, idle, "kib_per_connection_gateway"),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cli::{Arguments, Command},
        report::tests::outcome,
        servers::Setup,
    };

    use clap::Parser as _;

    /// A run that was ordered by these words.
    fn run(words: &str, server: Server, metrics: &[(&str, f64)]) -> Outcome {
        let words = ["stentor-bench", "run"].into_iter().chain(words.split(' '));
        let Command::Run {
            scenarios, measure, ..
        } = Arguments::parse_from(words).command
        else {
            panic!("no run");
        };
        let connections = measure.options.connections[0];
        let setup = Setup {
            server,
            stentor: "stentor".into(),
            nodes: measure.nodes,
            durable: !measure.transient,
            tls: measure.tls,
            auth_cache: false,
            settings: Vec::new(),
        };
        let metrics = metrics
            .iter()
            .map(|&(name, value)| (name.to_owned(), value));
        Outcome {
            case: measure.options.plan(scenarios[0], connections).case + &setup.note(),
            metrics: metrics.collect(),
            ..outcome(server, connections, 0.0)
        }
    }

    /// Runs in which every target is just met, ordered as scripts/measure.sh does.
    fn just_right() -> (Vec<Outcome>, Vec<Timing>) {
        let idle = [
            ("kib_per_connection_gateway", 4.0),
            ("kib_per_connection_rabbitmq", 3.0),
            ("idle_cpu_percent_servers", 5.0),
            ("set_ups_per_second", 1000.0),
        ];
        let set_ups = |rate| [("set_ups_per_second", rate)];
        let load = |rate, servers| {
            [
                ("deliveries_per_second", rate),
                ("floor_per_second", 750_000.0),
                ("cpu_ms_per_1000_servers", servers),
                ("cpu_ms_per_1000_gateway", 9.0),
            ]
        };
        let latency = |p50, p99| [("latency_p50_us", p50), ("latency_p99_us", p99)];
        let mut runs = vec![
            run(
                "storm -n 2000 --same-user --transient",
                Stentor,
                &set_ups(600.0),
            ),
            run("storm -n 2000 --same-user", Stentor, &set_ups(250.0)),
            run("storm -n 2000 --same-user", WebStomp, &set_ups(100.0)),
            run("storm -n 2000 --transient", Stentor, &set_ups(250.0)),
            run("storm -n 2000", WebStomp, &set_ups(100.0)),
            run("storm -n 2000 --same-user", Embedded, &set_ups(9000.0)),
            run("unicast -n 1000", Embedded, &load(100_000.0, 1.0)),
            run("latency --rate 1000", Stentor, &latency(300.0, 1000.0)),
            run("latency --rate 5000", Stentor, &latency(300.0, 1000.0)),
            run("fairness -n 18000", Stentor, &latency(1.0, 50_000.0)),
            run("unicast -n 18000", Stentor, &load(1.0, 45.0)),
            run("unicast -n 90000 --nodes 5", Stentor, &load(1.0, 45.0)),
            run("idle -n 5000 --tls", Stentor, &idle),
            run("idle -n 5000 --transport sockjs-xhr", Stentor, &idle),
            run(
                "idle -n 5000 --transport sockjs-xhr-streaming",
                Stentor,
                &idle,
            ),
            run("idle -n 90000 --nodes 5", Stentor, &idle),
        ];
        for count in ["1000", "15000", "18000"] {
            runs.push(run(&format!("idle -n {count}"), Stentor, &idle));
        }
        for count in ["1000", "5000"] {
            let (unicast, broadcast) = (
                format!("unicast -n {count}"),
                format!("broadcast -n {count}"),
            );
            runs.push(run(&unicast, Stentor, &load(250_000.0, 45.0)));
            runs.push(run(&unicast, WebStomp, &load(100_000.0, 100.0)));
            runs.push(run(&broadcast, Stentor, &load(600_000.0, 1.0)));
            runs.push(run(&broadcast, WebStomp, &load(100_000.0, 1.0)));
            runs.push(run(&broadcast, Nats, &load(600_000.0, 1.0)));
        }
        for more in [
            "--tls",
            "--transport sockjs-xhr",
            "--transport sockjs-xhr-streaming",
        ] {
            for scenario in ["unicast", "broadcast"] {
                runs.push(run(&format!("{scenario} {more}"), Stentor, &load(1.0, 1.0)));
            }
        }
        let decode = Timing {
            name: DECODE.into(),
            median: "50 µs".into(),
            per_second: Some(2e6),
        };
        (runs, vec![decode])
    }

    #[test]
    fn what_is_just_right_is_met() {
        let (runs, timings) = just_right();
        for target in targets(&Runs(&runs), &timings) {
            assert_eq!(
                target.verdict(),
                Verdict::Met,
                "{}: {:?}",
                target.what,
                target.measured
            );
        }
        let text = markdown(&runs, &timings);
        assert!(
            text.starts_with("32 of 32 targets are met, 0 are not."),
            "{text}"
        );
    }

    #[test]
    fn what_is_a_little_worse_is_not_met() {
        let (runs, timings) = just_right();
        for spoilt in targets(&Runs(&runs), &timings) {
            let Some(Summary { median, .. }) = spoilt.measured else {
                panic!("{}", spoilt.what);
            };
            let worse = match spoilt.goal {
                Goal::AtMost(_) => median * 1.01,
                Goal::AtLeast(_) => median / 1.01,
                Goal::Stated => continue,
            };
            let target = Target {
                measured: Summary::of([worse]),
                ..spoilt
            };
            let is_lax = target.what.contains("1,000 to 18,000") || target.what.contains("5, with");
            assert_eq!(
                target.verdict() == Verdict::Missed,
                !is_lax,
                "{}",
                target.what
            );
        }
    }

    #[test]
    fn what_was_not_measured_is_not_met() {
        let text = markdown(&[], &[]);
        assert!(text.starts_with("0 of 32 targets are met"), "{text}");
        assert!(text.contains("32 were not measured"), "{text}");
        assert!(
            text.contains("| ≤ 4 KiB | – | 0 | not measured |"),
            "{text}"
        );
    }

    #[test]
    fn the_spread_is_the_worst_beside_the_best() {
        let summary = |values: &[f64]| Summary::of(values.iter().copied()).unwrap();
        let ratio = quotient(summary(&[90.0, 100.0, 110.0]), summary(&[18.0, 20.0, 22.0]));
        let ratio = ratio.unwrap();
        assert_eq!(ratio.median, 5.0);
        assert_eq!((ratio.least, ratio.most), (90.0 / 22.0, 110.0 / 18.0));
    }
}
