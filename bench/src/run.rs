//! One run: servers are started, clients connect, what the plan says is done and measured, and
//! all is ended.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::{
    beside::{self, Beside},
    clients::Clients,
    floor,
    latency::{Counts, Latencies},
    metrics::Metrics,
    orders::{Connected, Loaded, Pace, Publish, Transport},
    outcome::{Conditions, Outcome},
    progress,
    scenario::{Options, Plan, Scenario},
    servers::{Server, Servers, Setup},
    usage::{Cpu, Memory},
    verify::Verification,
};

/// What a connection takes is seen by those that come after the first tenth: whatever a server
/// makes for its first clients, however many more there are, does not count as theirs.
const FIRST_PERCENT: u32 = 10;

/// For what the servers still do after the last receipt, before their memory is looked at.
const SETTLE: Duration = Duration::from_secs(5);

/// What a MESSAGE has beside its body, about: a WebSocket's head and the frame's headers.
const FRAME_OVERHEAD: usize = 130;

/// Runs a scenario once, with servers of its own.
///
/// # Errors
/// A program is missing, files are too few, or something failed that leaves nothing to measure.
pub(crate) async fn run(
    scenario: Scenario,
    connections: u32,
    options: &Options,
    setup: &Setup,
    beside: Option<&Beside>,
) -> Result<Outcome> {
    let mut plan = options.plan(scenario, connections);
    plan.habits.dialect = setup.server.dialect();
    check(scenario, &plan, setup)?;
    progress::show("starting servers");
    let servers = Servers::start(setup).await?;
    let mut clients = Clients::start(&plan, scenario, &servers)?;
    let mut outcome = Outcome {
        scenario,
        server: setup.server,
        build: setup.build.clone(),
        case: plan.case.clone() + &setup.note(),
        connections,
        seconds: options.seconds,
        warm_up: options.warm_up,
        metrics: Metrics::new(),
        verification: Verification::default(),
        troubles: Vec::new(),
        client_limit: None,
        conditions: Conditions::now(
            &setup.stentor,
            servers.rabbitmq_version(),
            servers.nats_version(),
        ),
    };
    match scenario {
        Scenario::Idle => idle(&plan, &servers, &mut clients, beside, &mut outcome).await?,
        Scenario::Storm => storm(&plan, &servers, &mut clients, beside, &mut outcome).await?,
        _ => {
            let publish = servers.publish(options.stomp);
            load(&plan, publish, &servers, &mut clients, beside, &mut outcome).await?;
        }
    }
    drop(clients);
    drop(servers);
    if scenario == Scenario::Broadcast {
        progress::show("measuring the floor");
        let size = plan.load.map_or(0, |load| load.size) + FRAME_OVERHEAD;
        if let Some(floor) = floor::measure(connections, size)? {
            outcome.metrics.insert("floor_per_second".into(), floor);
        }
    }
    progress::show("");
    Ok(outcome)
}

/// Refuses what a server cannot be asked.
fn check(scenario: Scenario, plan: &Plan, setup: &Setup) -> Result<()> {
    ensure!(
        setup.server != Server::Nats || scenario.is_for_nats(),
        "{} is not for NATS, which asks no hook and gives no receipts",
        scenario.name()
    );
    ensure!(
        plan.habits.transport == Transport::WebSocket
            || matches!(setup.server, Server::Stentor | Server::Embedded),
        "{} does not speak SockJS",
        setup.server.title()
    );
    Ok(())
}

async fn idle(
    plan: &Plan,
    servers: &Servers,
    clients: &mut Clients,
    beside: Option<&Beside>,
    outcome: &mut Outcome,
) -> Result<()> {
    clients.connect(plan, servers, FIRST_PERCENT).await?;
    tokio::time::sleep(SETTLE).await;
    let (before, first) = (Memory::of(servers)?, clients.connected());
    let connected = clients.connect(plan, servers, 100).await?;
    tokio::time::sleep(SETTLE).await;
    let others = clients.connected() - first;
    set_up_metrics(&connected, f64::from(others), &mut outcome.metrics)?;
    Memory::of(servers)?.growth(&before, others, &mut outcome.metrics);
    let processes = clients.processes(servers)?;
    let used = clients.rest(plan.rest, &processes, beside).await?;
    used.percent("idle_cpu_percent", &mut outcome.metrics);
    used.client_percent(&mut outcome.metrics);
    Ok(())
}

async fn storm(
    plan: &Plan,
    servers: &Servers,
    clients: &mut Clients,
    beside: Option<&Beside>,
    outcome: &mut Outcome,
) -> Result<()> {
    let processes = clients.processes(servers)?;
    let running = beside::start(beside, &processes)?;
    let cpu = Cpu::of(&processes)?;
    let connected = clients.connect(plan, servers, 100).await?;
    let used = cpu.until_now()?;
    beside::end(running).await?;
    let count = f64::from(plan.connections);
    let metrics = &mut outcome.metrics;
    set_up_metrics(&connected, count, metrics)?;
    used.milliseconds_each(count, "set_up_cpu_ms", metrics);
    metrics.insert("set_up_cpu_ms_hook".into(), used.hook_milliseconds(count));
    used.client_percent(metrics);
    outcome.client_limit = used.client_limit(true);
    Ok(())
}

async fn load(
    plan: &Plan,
    publish: Publish,
    servers: &Servers,
    clients: &mut Clients,
    beside: Option<&Beside>,
    outcome: &mut Outcome,
) -> Result<()> {
    let Some(load) = &plan.load else {
        return Ok(());
    };
    clients.connect(plan, servers, 100).await?;
    let processes = clients.processes(servers)?;
    let loaded = clients.load(load, publish, plan, &processes, beside);
    let (loaded, used) = loaded.await?;
    let metrics = &mut outcome.metrics;
    let delivered = load_metrics(&loaded, metrics)?;
    used.milliseconds_each(delivered as f64 / 1000.0, "cpu_ms_per_1000", metrics);
    used.percent("cpu_percent", metrics);
    used.client_percent(metrics);
    Memory::of(servers)?.peaks(metrics);
    let paces = [load.unicast, load.broadcast];
    let is_closed = |pace: &Option<Pace>| matches!(pace, Some(Pace::Closed(_)));
    outcome.client_limit = used.client_limit(paces.iter().any(is_closed));
    for part in loaded {
        outcome.verification += part.verification;
        outcome.troubles.extend(part.troubles);
    }
    Ok(())
}

fn set_up_metrics(connected: &[Connected], count: f64, metrics: &mut Metrics) -> Result<()> {
    let longest = connected
        .iter()
        .map(|part| part.seconds)
        .fold(f64::EPSILON, f64::max);
    let all = merged(connected.iter().map(|part| &part.set_up))?;
    for (name, value) in [
        ("set_ups_per_second", count / longest),
        ("set_up_p50_ms", all.microseconds(50.0) / 1e3),
        ("set_up_p99_ms", all.microseconds(99.0) / 1e3),
        ("set_up_max_ms", all.longest() / 1e3),
    ] {
        metrics.insert(name.into(), value);
    }
    Ok(())
}

/// Answers how many messages were delivered.
fn load_metrics(loaded: &[Loaded], metrics: &mut Metrics) -> Result<u64> {
    let seconds = loaded.iter().map(|part| part.seconds).fold(0.0, f64::max);
    let mut put = |name: String, value: f64| {
        metrics.insert(name, value);
    };
    let unicast = loaded.iter().filter_map(|part| part.unicast.as_ref());
    let broadcast = loaded.iter().filter_map(|part| part.broadcast.as_ref());
    let (unicast, broadcast): (Vec<_>, Vec<_>) = (unicast.collect(), broadcast.collect());
    let mut all = 0;
    // Where there are both, the single ones are what it is about.
    let prefix = if unicast.is_empty() { "" } else { "broadcast_" };
    for (flows, prefix) in [(unicast, ""), (broadcast, prefix)] {
        if flows.is_empty() {
            continue;
        }
        let delivered: u64 = flows.iter().map(|flow| flow.delivered).sum();
        all += delivered;
        let rate = delivered as f64 / seconds.max(f64::EPSILON);
        put(format!("{prefix}deliveries_per_second"), rate);
        let latency = merged(flows.iter().map(|flow| &flow.latency))?;
        for (name, percentile) in [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p999", 99.9)] {
            let name = format!("{prefix}latency_{name}_us");
            put(name, latency.microseconds(percentile));
        }
        put(format!("{prefix}latency_max_us"), latency.longest());
    }
    let churned: Vec<_> = loaded
        .iter()
        .filter_map(|part| part.churn.as_ref())
        .collect();
    if !churned.is_empty() {
        let came: u64 = churned.iter().map(|churned| churned.came).sum();
        put(
            "come_per_second".into(),
            came as f64 / seconds.max(f64::EPSILON),
        );
        let set_up = merged(churned.iter().map(|churned| &churned.set_up))?;
        put("come_p50_ms".into(), set_up.microseconds(50.0) / 1e3);
        put("come_p99_ms".into(), set_up.microseconds(99.0) / 1e3);
    }
    if loaded.iter().any(|part| part.slow > 0) {
        let closed: u32 = loaded.iter().map(|part| part.slow_closed).sum();
        put("slow_closed".into(), f64::from(closed));
    }
    Ok(all)
}

fn merged<'a>(parts: impl Iterator<Item = &'a Counts>) -> Result<Latencies> {
    let mut all = Latencies::new()?;
    parts.for_each(|part| all.add(part));
    Ok(all)
}
