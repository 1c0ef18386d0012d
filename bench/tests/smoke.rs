//! The tool as a whole, on a few connections: so that it does not rot. Its figures here mean
//! nothing.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests are tests"
)]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

const BENCH: &str = env!("CARGO_BIN_EXE_stentor-bench");

fn bench(arguments: &[&str], folder: &Path) -> Output {
    let mut command = Command::new(BENCH);
    command.args(arguments).current_dir(folder);
    command.output().expect("the tool starts")
}

/// Measures a scenario on the embedded broker, where all goes well, and answers what was saved.
fn measure(scenario: &str, more: &[&str]) -> Value {
    let (output, outcome) = measure_any(scenario, more);
    assert!(output.status.success(), "{}", said(&output));
    outcome
}

fn said(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    format!("{out}{err}")
}

/// The tool takes the gateway that was built along with it.
#[track_caller]
fn assert_gateway() {
    let gateway = Path::new(BENCH).with_file_name("stentor");
    assert!(
        gateway.exists(),
        "there is no {}: this test needs the gateway (cargo build -p stentor --bins)",
        gateway.display()
    );
}

fn measure_any(scenario: &str, more: &[&str]) -> (Output, Value) {
    assert_gateway();
    let folder = tempfile::tempdir().unwrap();
    let mut common = vec!["run", scenario];
    if !more.contains(&"--server") {
        common.extend(["--server", "embedded"]);
    }
    common.extend(["-n", "20", "--seconds", "1", "--warm-up", "0.2"]);
    let output = bench(&[&common, more].concat(), folder.path());
    let saved: Vec<_> = fs::read_dir(folder.path().join("results"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_eq!(saved.len(), 1, "{saved:?}\n{}", said(&output));
    let text = fs::read_to_string(&saved[0]).unwrap();

    let reported = bench(&["report"], folder.path());
    let report = String::from_utf8_lossy(&reported.stdout).into_owned();
    assert!(report.contains(", 1 run |"), "{report}");
    (output, serde_json::from_str(&text).unwrap())
}

/// Orders what cannot be; answers what is said, and how many runs were saved.
fn refused(scenario: &str, more: &[&str]) -> (String, usize) {
    let folder = tempfile::tempdir().unwrap();
    let output = bench(&[&["run", scenario], more].concat(), folder.path());
    assert!(!output.status.success(), "{}", said(&output));
    let saved = fs::read_dir(folder.path().join("results"));
    (said(&output), saved.map_or(0, Iterator::count))
}

#[track_caller]
fn assert_right(outcome: &Value) {
    let verification = &outcome["verification"];
    for wrong in ["lost", "duplicated", "reordered", "misrouted"] {
        assert_eq!(verification[wrong], 0, "{outcome:#}");
    }
    assert!(verification["correct"].as_u64() > Some(20), "{outcome:#}");
    assert_eq!(outcome["troubles"], serde_json::json!([]), "{outcome:#}");
}

#[test]
fn messages_to_single_users_are_all_right() {
    let outcome = measure("unicast", &["--outstanding", "10"]);
    assert_right(&outcome);
    let metrics = &outcome["metrics"];
    for metric in [
        "deliveries_per_second",
        "latency_p99_us",
        "peak_mib_gateway",
    ] {
        assert!(
            metrics[metric].as_f64() > Some(0.0),
            "{metric}: {outcome:#}"
        );
    }
}

#[test]
fn broadcasts_beside_single_messages_are_all_right() {
    assert_right(&measure("fairness", &["--rate", "100"]));
}

#[test]
fn clients_come_and_go_while_messages_are_all_right() {
    let outcome = measure("churn", &["--rate", "100", "--come", "20", "--stay", "0.1"]);
    assert_right(&outcome);
    assert!(outcome["metrics"]["come_per_second"].as_f64() > Some(1.0));
}

#[test]
fn subscriptions_come_and_go_while_messages_are_all_right() {
    let outcome = measure(
        "bindings",
        &["--rate", "100", "--come", "20", "--stay", "0.1"],
    );
    assert_right(&outcome);
    assert!(outcome["metrics"]["come_per_second"].as_f64() > Some(1.0));
}

/// A node ends, and its users come back on another.
#[test]
fn all_come_back() {
    assert_gateway();
    let folder = tempfile::tempdir().unwrap();
    let users = ["comeback", "-n", "60", "--stay", "10", "--rate", "50"];
    let how = ["--auth", "jwt,hook-batch", "--hook-ms", "1"];
    let output = bench(&[&users[..], &how].concat(), folder.path());
    assert!(output.status.success(), "{}", said(&output));
    for (auth, questions) in [("jwt", 0), ("hook-batch", 300)] {
        let name = format!("results/comeback/{auth} 60 1ms.json");
        let text = fs::read_to_string(folder.path().join(name)).unwrap();
        let outcome: Value = serde_json::from_str(&text).unwrap();
        let asked = outcome["asked"]["questions"].as_object().unwrap().values();
        let asked: u64 = asked.filter_map(Value::as_u64).sum();
        // A login, a virtual host, an exchange, and two keys of each.
        assert_eq!(asked, questions, "{outcome:#}");
        assert!(outcome["seconds"].as_f64() > Some(0.0), "{outcome:#}");
        assert!(outcome["tries"].as_u64() >= Some(60), "{outcome:#}");
    }
}

#[test]
fn all_catch_up() {
    assert_gateway();
    let folder = tempfile::tempdir().unwrap();
    let users = ["comeback", "-n", "60", "--stay", "10", "--rate", "50"];
    let how = ["--resume", "memory,journal", "--away", "2", "--missed", "2"];
    let output = bench(&[&users[..], &how].concat(), folder.path());
    assert!(output.status.success(), "{}", said(&output));
    for back in ["memory", "journal"] {
        let name = format!("results/comeback/resume {back} 60.json");
        let text = fs::read_to_string(folder.path().join(name)).unwrap();
        let outcome: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(outcome["missing"], 0, "{outcome:#}");
        assert_eq!(outcome["resumes"], 60.0, "{outcome:#}");
        assert!(outcome["took_p99"].as_f64() > Some(0.0), "{outcome:#}");
    }
}

#[test]
fn a_storm_is_timed() {
    let outcome = measure("storm", &["--same-user"]);
    let metrics = &outcome["metrics"];
    for metric in ["set_ups_per_second", "set_up_p50_ms", "set_up_max_ms"] {
        assert!(
            metrics[metric].as_f64() > Some(0.0),
            "{metric}: {outcome:#}"
        );
    }
}

#[test]
fn idle_connections_cost_memory() {
    let outcome = measure("idle", &["--heart-beat", "1000"]);
    assert!(outcome["metrics"]["memory_mib_servers"].as_f64() > Some(1.0));
}

/// A gateway that drops what its mailboxes cannot hold.
#[test]
fn a_server_that_loses_messages_is_found_out() {
    let drops = [
        "--set=mailbox.overflow=drop-oldest",
        "--set=mailbox.max_messages=1",
    ];
    let burst = ["--outstanding=2000"];
    let (output, outcome) = measure_any("broadcast", &[&drops[..], &burst].concat());
    assert!(
        outcome["verification"]["lost"].as_u64() > Some(0),
        "{outcome:#}"
    );
    assert_eq!(outcome["verification"]["duplicated"], 0, "{outcome:#}");
    assert!(!output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("messages lost"), "{}", said(&output));
}

#[test]
fn clients_may_connect_by_tls() {
    let outcome = measure("unicast", &["--tls", "--outstanding", "10"]);
    assert_right(&outcome);
    assert_eq!(outcome["case"], "unicast 20 10 outstanding 256 bytes TLS");
}

#[test]
fn nats_is_measured_in_its_own_words() {
    for scenario in ["unicast", "broadcast"] {
        let more = ["--server", "nats", "--outstanding", "10"];
        let (output, outcome) = measure_any(scenario, &more);
        assert!(output.status.success(), "{}", said(&output));
        assert_right(&outcome);
        assert_eq!(outcome["server"], "nats");
        assert!(outcome["metrics"]["cpu_percent_servers"].is_number());
    }
    let (output, _) = refused("storm", &["--server", "nats"]);
    assert!(output.contains("storm is not for NATS"), "{output}");
}

#[test]
fn clients_may_speak_sockjs() {
    for transport in ["sockjs-xhr-streaming", "sockjs-xhr"] {
        let more = ["--transport", transport, "--outstanding", "10", "--tls"];
        assert_right(&measure("unicast", &more));
    }
    // More than a response may hold, so that several follow.
    let large = ["--size", "50000", "--transport", "sockjs-xhr-streaming"];
    assert_right(&measure(
        "unicast",
        &[&large[..], &["--outstanding", "10"]].concat(),
    ));
}

#[test]
fn web_stomp_does_not_speak_sockjs() {
    let (output, saved) = refused("unicast", &["--server=web-stomp", "--transport=sockjs-xhr"]);
    assert!(
        output.contains("Web STOMP does not speak SockJS"),
        "{output}"
    );
    assert_eq!(saved, 0);
}

#[test]
fn what_is_there_is_not_measured_again() {
    let folder = tempfile::tempdir().unwrap();
    assert_gateway();
    for (runs, saved) in [("1", 1), ("1", 1), ("2", 2)] {
        let output = bench(
            &[
                "run", "storm", "--server", "embedded", "-n", "5", "--resume", "--runs", runs,
            ],
            folder.path(),
        );
        assert!(output.status.success(), "{}", said(&output));
        let results = fs::read_dir(folder.path().join("results")).unwrap();
        assert_eq!(results.count(), saved, "{}", said(&output));
    }
}

#[test]
fn a_command_runs_beside_and_knows_the_gateway() {
    let folder = tempfile::tempdir().unwrap();
    let seen = folder.path().join("seen");
    // It would last, unless it were ended.
    let command = format!(
        "cat /proc/$GATEWAYS/comm > {}; exec sleep 600",
        seen.display()
    );
    measure("idle", &["--beside", &command]);
    assert_eq!(fs::read_to_string(seen).unwrap(), "stentor\n");
}

/// With RabbitMQ, and all that the figures in the documents are made with.
#[test]
fn web_stomp_and_the_gateway_are_compared() {
    assert_gateway();
    let folder = tempfile::tempdir().unwrap();
    let arguments = [
        "compare",
        "unicast",
        "-n",
        "10",
        "--seconds",
        "1",
        "--warm-up",
        "0.2",
    ];
    let output = bench(&arguments, folder.path());
    let said = said(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("in stentor's favour"), "{said}");
    assert!(
        said.contains("once, in order, to whom they were for"),
        "{said}"
    );

    let document = folder.path().join("performance.md");
    let marks = include_str!("../../docs/performance.md");
    fs::write(&document, marks).unwrap();
    let plot = bench(&["plot", "--into", "."], folder.path());
    assert!(plot.status.success(), "{plot:?}");
    let report = bench(&["report", "--into", "performance.md"], folder.path());
    assert!(report.status.success(), "{report:?}");
    let document = fs::read_to_string(document).unwrap();
    assert!(
        document.contains("](performance-unicast.svg)"),
        "{document}"
    );
    assert!(document.contains("| Web STOMP, 1 run |"), "{document}");
    assert!(document.contains("of 32 targets are met"), "{document}");
}

#[test]
fn a_gateway_that_is_not_there_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let output = bench(
        &[
            "run",
            "idle",
            "--server",
            "embedded",
            "--stentor",
            "/nowhere/stentor",
        ],
        folder.path(),
    );
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(
        said.contains("there is no /nowhere/stentor: build it"),
        "{said}"
    );
}

/// Attacks for a second, and answers what was saved.
fn attack(more: &[&str]) -> (Output, Vec<Value>) {
    assert_gateway();
    let folder = tempfile::tempdir().unwrap();
    let output = bench(&[&["attack", "--quick"], more].concat(), folder.path());
    let saved = fs::read_dir(folder.path().join("results/attacks"))
        .unwrap_or_else(|error| panic!("{error}: {}", said(&output)))
        .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap())
        .map(|text| serde_json::from_str(&text).unwrap())
        .collect();
    (output, saved)
}

#[test]
fn an_attack_that_nobody_notices_is_held() {
    let gateway = Path::new(BENCH).with_file_name("stentor");
    let build = format!("--gateway=this={}", gateway.display());
    let (output, saved) = attack(&["transactions", "half-bodies", "denied", &build]);
    let said = said(&output);
    assert!(output.status.success(), "{said}");
    // An attack that is not tried is told, and not saved.
    let denied = if saved.len() == 2 {
        "not tried"
    } else {
        "held"
    };
    for (attack, verdict) in [("transactions", "held"), ("denied", denied)] {
        let row = said.lines().find(|line| {
            line.strip_prefix(attack)
                .is_some_and(|rest| rest.trim_start().starts_with(verdict))
        });
        assert!(row.is_some(), "{attack} {verdict}: {said}");
    }
    for outcome in &saved {
        assert_eq!(outcome["verdict"], "held", "{outcome:#}");
        assert_eq!(outcome["build"], "this");
        assert!(outcome["deeds"]["frames"].as_u64() > Some(0), "{outcome:#}");
        for name in ["without", "during", "after"] {
            let part = &outcome[name];
            assert!(part["p99_ms"].as_f64() > Some(0.0), "{outcome:#}");
            // An attack may be over before a visit is.
            let visits = part["visits"]["right"].as_u64();
            assert!(visits > Some(0) || name == "during", "{outcome:#}");
        }
        let memory = &outcome["memory"];
        assert!(memory["most_mib"].as_f64() >= memory["before_mib"].as_f64());
    }
}

/// A gateway that has too few places: attackers take those of others.
#[test]
fn an_attack_that_others_notice_is_not_held() {
    // Ten subscribers and four publishers; the visitor finds no place beside the attackers.
    let places = "--set=listen.max_connections=16";
    let (output, saved) = attack(&["half-bodies", places]);
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("NOT HELD"), "{said}");
    assert!(said.contains("visits failed"), "{said}");
    assert_eq!(saved[0]["verdict"], "not-held", "{:#}", saved[0]);
}

#[test]
fn attacks_are_listed() {
    let folder = tempfile::tempdir().unwrap();
    let output = bench(&["attack", "--list"], folder.path());
    assert!(output.status.success());
    for attack in ["subscribe-missing", "two-wildcards", "own-queues", "alarm"] {
        assert!(said(&output).contains(attack), "{}", said(&output));
    }
}

#[test]
fn everybody_in_a_room_hears_everybody() {
    let outcome = measure("gochat", &["--rounds", "3"]);
    assert_right(&outcome);
    // Three rounds, and the greeting before them.
    assert_eq!(outcome["verification"]["correct"], (3 + 1) * 20 * 20);
    assert!(outcome["metrics"]["all_seconds"].as_f64() > Some(0.0));
}

#[test]
fn many_gateways_hold_and_one_is_lost() {
    assert_gateway();
    let folder = tempfile::tempdir().unwrap();
    let output = bench(
        &["million", "-n", "31", "--nodes", "3", "--hold", "1s"],
        folder.path(),
    );
    let said = said(&output);
    assert!(output.status.success(), "{said}");
    let files = fs::read_dir(folder.path().join("results/million")).unwrap();
    let mut paths: Vec<_> = files.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let [json, svg] = paths.as_slice() else {
        panic!("{paths:?}: {said}");
    };
    assert!(fs::read_to_string(svg).unwrap().contains("31 connections"));
    let held: Value = serde_json::from_str(&fs::read_to_string(json).unwrap()).unwrap();
    let right = |phase: &str| held[phase]["verification"]["correct"].as_u64();
    assert_eq!(right("singles"), Some(31), "{held:#}");
    assert_eq!(right("everybody"), Some(31), "{held:#}");
    // Those of the gateway that was killed: they have come back, and get messages.
    assert_eq!(held["killed"]["users"], 10, "{held:#}");
    assert_eq!(right("killed"), Some(10), "{held:#}");
    assert!(said.contains("| single messages, one to each user | 31 right, 0 lost"));
    let report = bench(&["report"], folder.path());
    assert!(self::said(&report).contains("### Very many connections"));
}

#[test]
fn too_few_gateways_are_refused_before_anything_begins() {
    let folder = tempfile::tempdir().unwrap();
    let output = bench(&["million", "--nodes", "1"], folder.path());
    assert!(!output.status.success());
    assert!(said(&output).contains("ulimit -Hn"), "{}", said(&output));
}

/// However the tool ends, nothing of it is left.
#[test]
fn a_killed_tool_leaves_no_gateway_behind() {
    assert_gateway();
    let folder = tempfile::tempdir().unwrap();
    let mut tool = Command::new(BENCH)
        .args(["million", "-n", "20", "--hold", "10m"])
        .current_dir(folder.path())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The bar's line of the phase before it.
    let mut lines = BufReader::new(tool.stderr.take().unwrap()).lines();
    let connected = lines.find(|line| line.as_ref().is_ok_and(|line| line.starts_with("connect")));
    assert!(connected.is_some(), "it ended before");
    let children = children_of(tool.id());
    // Two gateways, two workers, the hook, RabbitMQ, and who ends them all.
    assert!(children.len() >= 6, "{children:?}");
    tool.kill().unwrap();
    tool.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    let is_there = |pid: &u32| Path::new(&format!("/proc/{pid}/exe")).exists();
    while children.iter().any(is_there) {
        assert!(Instant::now() < deadline, "{children:?}");
        std::thread::yield_now();
    }
}

fn children_of(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").unwrap();
    let pids = processes.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    pids.filter(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let after_name = stat.rsplit(") ").next().unwrap_or_default();
        after_name.split(' ').nth(1) == Some(&parent.to_string())
    })
    .collect()
}
