//! One run: it starts servers, connects clients, carries out the plan, measures, and ends all.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::{
    beside::Beside,
    clients::Clients,
    floor,
    latency::{Counts, Latencies},
    metrics::Metrics,
    named::Named as _,
    orders::{Connected, Load, Loaded, Pace, Publish, Transport},
    outcome::{Conditions, Outcome},
    progress,
    scenario::{Options, Plan, Scenario},
    servers::{Server, Servers, Setup},
    usage::{Cpu, Memory},
    verify::Verification,
    worker,
};

/// The memory of a connection is measured on those after the first tenth: memory that a server
/// takes once, for its first clients, does not count as theirs.
const FIRST_PERCENT: u32 = 10;

/// The time for servers to finish their work after the last receipt, before their memory is read.
const SETTLE: Duration = Duration::from_secs(5);

/// About the size of a MESSAGE without its body: a WebSocket's head and the frame's headers.
const FRAME_OVERHEAD: usize = 130;

/// Rounds of a broadcast that are on their way, as its messages are.
const ROUNDS: u64 = 4;

/// Messages of a bare read.
const BARE_READS: u64 = 100_000;

/// A run that is under way.
struct Run<'a> {
    plan: Plan,
    beside: Option<&'a str>,
    servers: Servers,
    clients: Clients,
    metrics: Metrics,
    verification: Verification,
    troubles: Vec<String>,
    client_limit: Option<String>,
}

/// Runs a scenario once, with servers of its own.
///
/// # Errors
/// A program is missing, files are too few, or something failed that leaves nothing to measure.
pub(crate) async fn run(
    scenario: Scenario,
    connections: u32,
    options: &Options,
    setup: &Setup,
    beside: Option<&str>,
) -> Result<Outcome> {
    let mut plan = options.plan(scenario, connections);
    plan.habits.dialect = setup.server.dialect();
    check(scenario, &plan, setup)?;
    progress::show("starting servers");
    let servers = Servers::start(setup).await?;
    let conditions = Conditions::now(
        &setup.stentor,
        servers.rabbitmq_version(),
        servers.nats_version(),
    );
    let mut run = Run {
        clients: Clients::start(&plan, scenario, &servers)?,
        plan,
        beside,
        servers,
        metrics: Metrics::new(),
        verification: Verification::default(),
        troubles: Vec::new(),
        client_limit: None,
    };
    match (scenario, run.plan.load.clone()) {
        (Scenario::Idle, _) => run.idle().await?,
        (Scenario::Gochat, _) => run.chat().await?,
        (_, None) => run.storm().await?,
        (_, Some(load)) => {
            let publish = run.servers.publish(options.stomp);
            run.load(&load, publish).await?;
        }
    }
    let Run {
        plan,
        mut metrics,
        verification,
        troubles,
        client_limit,
        servers,
        clients,
        ..
    } = run;
    let amqp = match servers.publish(false) {
        Publish::Amqp(amqp) => Some(amqp),
        Publish::Stomp(_) | Publish::Nats(_) => None,
    };
    // Clients are quiet now, and gateways idle.
    let size = plan.load.as_ref().map_or(0, |load| load.size);
    let of_unicast = scenario == Scenario::Unicast && setup.server == Server::Stentor;
    let bare_read = match amqp.filter(|_| of_unicast) {
        Some(amqp) => {
            progress::show("measuring bare reads");
            Some(worker::bare_read(amqp, BARE_READS, size)?)
        }
        None => None,
    };
    drop((clients, servers));
    let size = size + FRAME_OVERHEAD;
    if scenario == Scenario::Broadcast {
        progress::show("measuring the floor");
        let floor = floor::measure(connections, size, ROUNDS)?;
        metrics.extend(floor.map(|floor| ("floor_per_second".to_owned(), floor.per_second)));
    }
    if let Some(read) = bare_read {
        progress::show("measuring bare writes");
        let each = connections / setup.nodes.max(1) as u32;
        let write = floor::measure(each, size, 1)?.map(|floor| floor.cpu_us);
        bare_metrics(read, write, &mut metrics);
    }
    progress::show("");
    Ok(Outcome {
        scenario,
        server: setup.server,
        build: setup.build.clone(),
        case: plan.case + &setup.note(),
        connections,
        seconds: options.seconds,
        warm_up: options.warm_up,
        metrics,
        verification,
        troubles,
        client_limit,
        conditions,
    })
}

/// Refuses what a server cannot be asked.
fn check(scenario: Scenario, plan: &Plan, setup: &Setup) -> Result<()> {
    ensure!(
        setup.server != Server::Nats || scenario.is_for_nats(),
        "{} is not for NATS, which asks no hook and gives no receipts",
        scenario.name()
    );
    ensure!(
        plan.habits.transport == Transport::WebSocket || setup.server.is_gateway(),
        "{} does not speak SockJS",
        setup.server.title()
    );
    Ok(())
}

impl Run<'_> {
    async fn idle(&mut self) -> Result<()> {
        let (plan, servers, clients) = (&self.plan, &self.servers, &mut self.clients);
        clients.connect(plan, servers, FIRST_PERCENT).await?;
        tokio::time::sleep(SETTLE).await;
        let (before, first) = (Memory::of(servers)?, clients.connected());
        let connected = clients.connect(plan, servers, 100).await?;
        tokio::time::sleep(SETTLE).await;
        let others = clients.connected() - first;
        set_up_metrics(&connected, f64::from(others), &mut self.metrics)?;
        Memory::of(servers)?.growth(&before, others, &mut self.metrics);
        let processes = clients.processes(servers)?;
        let used = clients.rest(plan.rest, &processes, self.beside).await?;
        used.percent("idle_cpu_percent", &mut self.metrics);
        used.client_percent(&mut self.metrics);
        Ok(())
    }

    async fn storm(&mut self) -> Result<()> {
        let processes = self.clients.processes(&self.servers)?;
        let beside = Beside::start(self.beside, &processes)?;
        let cpu = Cpu::of(&processes)?;
        let connecting = self.clients.connect(&self.plan, &self.servers, 100);
        let connected = connecting.await?;
        let used = cpu.until_now()?;
        beside.end().await?;
        let count = f64::from(self.plan.connections);
        let metrics = &mut self.metrics;
        set_up_metrics(&connected, count, metrics)?;
        used.milliseconds_each(count, "set_up_cpu_ms", metrics);
        metrics.insert("set_up_cpu_ms_hook".into(), used.hook_milliseconds(count));
        used.client_percent(metrics);
        self.client_limit = used.client_limit(true);
        Ok(())
    }

    async fn chat(&mut self) -> Result<()> {
        let (plan, clients, metrics) = (&self.plan, &mut self.clients, &mut self.metrics);
        let chat = plan.chat.context("there is nothing to say")?;
        clients.connect(plan, &self.servers, 100).await?;
        let processes = clients.processes(&self.servers)?;
        let (chatted, used) = clients.chat(chat, &processes, self.beside).await?;
        let delivered = chatted.deliveries as f64;
        let latency = merged(std::iter::once(&chatted.latency))?;
        for (name, value) in [
            ("all_seconds", chatted.seconds),
            (
                "deliveries_per_second",
                delivered / chatted.seconds.max(f64::EPSILON),
            ),
            ("latency_p50_us", latency.microseconds(50.0)),
            ("latency_p99_us", latency.microseconds(99.0)),
            ("latency_max_us", latency.longest()),
        ] {
            metrics.insert(name.into(), value);
        }
        used.milliseconds_each(delivered / 1000.0, "cpu_ms_per_1000", metrics);
        used.percent("cpu_percent", metrics);
        used.client_percent(metrics);
        Memory::of(&self.servers)?.peaks(metrics);
        self.client_limit = used.client_limit(true);
        self.verification += chatted.verification;
        self.troubles.extend(chatted.troubles);
        Ok(())
    }

    async fn load(&mut self, load: &Load, publish: Publish) -> Result<()> {
        let (plan, clients, metrics) = (&self.plan, &mut self.clients, &mut self.metrics);
        clients.connect(plan, &self.servers, 100).await?;
        let processes = clients.processes(&self.servers)?;
        let loaded = clients.load(load, publish, plan, &processes, self.beside);
        let (loaded, used) = loaded.await?;
        let delivered = load_metrics(&loaded, metrics)?;
        used.milliseconds_each(delivered as f64 / 1000.0, "cpu_ms_per_1000", metrics);
        used.percent("cpu_percent", metrics);
        used.client_percent(metrics);
        Memory::of(&self.servers)?.peaks(metrics);
        let paces = [load.unicast, load.broadcast];
        let is_closed = |pace: &Option<Pace>| matches!(pace, Some(Pace::Closed(_)));
        self.client_limit = used.client_limit(paces.iter().any(is_closed));
        for part in loaded {
            self.verification += part.verification;
            self.troubles.extend(part.troubles);
        }
        Ok(())
    }
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

/// The least that a delivery can cost a gateway, and how many times as much it costs.
fn bare_metrics(read: f64, write: Option<f64>, metrics: &mut Metrics) {
    metrics.insert("bare_read_us".into(), read);
    let Some(write) = write else {
        return;
    };
    metrics.insert("bare_write_us".into(), write);
    // Milliseconds for 1,000 are microseconds for one.
    if let Some(&gateway) = metrics.get("cpu_ms_per_1000_gateway") {
        metrics.insert("gateway_times_bare".into(), gateway / (read + write));
    }
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
    // If there are both, the scenario is about the single ones.
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
