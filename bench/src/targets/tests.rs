//! Runs in which all is just as good as it should be, and worse ones.

use super::{
    list::{DECODED, all, relative},
    *,
};
use crate::{
    cli::{Arguments, Command},
    programs::Build,
    report::tests::outcome,
    servers::{Server, Setup},
};

use Server::{Embedded, Nats, Stentor, WebStomp};
use clap::Parser as _;

/// A run that was ordered by these words.
fn run(words: &str, server: Server, metrics: &[(&str, f64)]) -> Outcome {
    run_on(None, words, server, metrics)
}

/// The same on another RabbitMQ than the system's.
fn run_on(version: Option<u32>, words: &str, server: Server, metrics: &[(&str, f64)]) -> Outcome {
    let words = ["stentor-bench", "run"].into_iter().chain(words.split(' '));
    let Command::Run {
        scenarios, measure, ..
    } = Arguments::parse_from(words).command
    else {
        panic!("no run");
    };
    let connections = measure.options.sizes(scenarios[0])[0];
    let build = Build {
        name: None,
        program: "stentor".into(),
    };
    let setup = Setup {
        version,
        ..measure.setup(server, &build, measure.nodes[0])
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
fn just_right() -> (Vec<Outcome>, Micro) {
    let idle = [
        ("kib_per_connection_gateway", 4.0),
        ("kib_per_connection_rabbitmq", 3.0),
        ("idle_cpu_percent_servers", 5.0),
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
        run("storm -n 1000", Stentor, &set_ups(1300.0)),
        run("storm -n 18000", Stentor, &set_ups(1300.0)),
        run("storm -n 90000 --nodes 5", Stentor, &set_ups(1300.0)),
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
    for count in ["1000", "5000", "15000", "18000"] {
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
    let micro = Micro {
        figures: [(DECODED.to_owned(), 2e6)].into(),
        ..Micro::default()
    };
    (runs, micro)
}

/// The same for targets that came later.
fn just_right_later() -> Vec<Outcome> {
    let set_ups = |rate| [("set_ups_per_second", rate)];
    let load = |rate, servers| {
        [
            ("deliveries_per_second", rate),
            ("cpu_ms_per_1000_servers", servers),
            ("gateway_times_bare", 1.5),
        ]
    };
    let p99 = |p99| [("latency_p99_us", p99)];
    let mut runs = vec![run("fairness -n 18000", Stentor, &p99(50_000.0))];
    for version in [None, Some(4)] {
        let on =
            |words: &str, server, metrics: &[(&str, f64)]| run_on(version, words, server, metrics);
        // Runs on one version say nothing of the other.
        let speed = if version.is_none() { 1.0 } else { 0.1 };
        for words in ["unicast -n 1000", "unicast -n 5000"] {
            runs.push(on(words, Stentor, &load(250.0 * speed, 40.0)));
            runs.push(on(words, WebStomp, &load(100.0 * speed, 100.0)));
        }
        runs.push(on("storm -n 2000", Stentor, &set_ups(600.0 * speed)));
        runs.push(on("storm -n 2000", WebStomp, &set_ups(100.0 * speed)));
    }
    for server in [Embedded, Stentor] {
        runs.push(run("gochat", server, &[("all_seconds", 20.0)]));
    }
    for words in ["latency --rate 1000", "latency --rate 5000"] {
        runs.push(run(words, Stentor, &p99(700.0)));
        runs.push(run(words, WebStomp, &p99(700.0)));
    }
    runs
}

#[test]
fn what_is_just_right_is_met() {
    let (runs, micro) = just_right();
    let beside = just_right_later();
    let all = all(&runs, &micro).into_iter();
    for target in all.chain(relative(&beside, &micro)) {
        assert_eq!(
            target.verdict(),
            Verdict::Met,
            "{}: {:?}",
            target.what,
            target.measured
        );
    }
    let text = markdown(&runs, &micro);
    assert!(
        text.starts_with("32 of 32 targets are met, 0 are not."),
        "{text}"
    );
    let text = markdown(&beside, &micro);
    assert!(
        text.contains("\n15 of 15 targets are met, 0 are not."),
        "{text}"
    );
}

#[test]
fn what_is_a_little_worse_is_not_met() {
    let (runs, micro) = just_right();
    let all = all(&runs, &micro).into_iter();
    for spoilt in all.chain(relative(&just_right_later(), &micro)) {
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
    let text = markdown(&[], &Micro::default());
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
    let ratio = summary(&[90.0, 100.0, 110.0])
        .divided_by(&summary(&[18.0, 20.0, 22.0]))
        .unwrap();
    assert_eq!(ratio.median, 5.0);
    assert_eq!((ratio.least, ratio.most), (90.0 / 22.0, 110.0 / 18.0));
}
