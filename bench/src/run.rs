//! One run: servers are started, clients connect, what the plan says is done and measured, and
//! all is ended.

use std::{
    cell::Cell,
    collections::BTreeMap,
    io::{IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::future::try_join_all;

use crate::{
    floor,
    latency::{Counts, Latencies},
    orders::{Connect, Connected, Loaded, Order, Report},
    outcome::{Conditions, Outcome},
    procfs::{Usage, cpu_of},
    scenario::{Options, Plan, Scenario, share},
    servers::{Role, Servers, Setup},
    verify::Verification,
    workers::Worker,
};

/// Clients of a worker: its files, less a few, where a process may have 20,000.
const PER_WORKER: u32 = 18_000;

/// For what the servers still do after the last receipt, before their memory is looked at.
const SETTLE: Duration = Duration::from_secs(2);

/// A worker that uses more of a core has nothing left to send faster with.
const SATURATED: f64 = 0.9;

/// What a MESSAGE has beside its body, about: a WebSocket's head and the frame's headers.
const FRAME_OVERHEAD: usize = 130;

type Metrics = BTreeMap<String, f64>;

/// Runs a scenario once, with servers of its own.
///
/// # Errors
/// A program is missing, files are too few, or something failed that leaves nothing to measure.
pub(crate) async fn run(
    scenario: Scenario,
    connections: u32,
    options: &Options,
    setup: &Setup,
) -> Result<Outcome> {
    progress("starting servers");
    let servers = Servers::start(setup).await?;
    let publish = match (options.stomp, servers.websockets()) {
        (true, [first, ..]) => crate::orders::Publish::Stomp(*first),
        _ => servers.publish(),
    };
    let mut plan = options.plan(scenario, connections, publish);
    for (set, note) in [
        (setup.nodes > 1, format!(" {} nodes", setup.nodes)),
        (!setup.durable, " transient feeds".into()),
        (options.stomp, " by STOMP".into()),
    ] {
        if set {
            plan.case += &note;
        }
    }
    let mut clients = Clients::start(&plan, scenario, &servers)?;
    let mut metrics = Metrics::new();

    let before = Memory::of(&servers)?;
    let processes = clients.processes(&servers)?;
    let cpu = Cpu::of(&processes)?;
    let connected = clients.connect(&plan, &servers).await?;
    set_up_metrics(
        &connected,
        &cpu.until_now(&processes)?,
        connections,
        &mut metrics,
    );
    let mut verification = Verification::default();
    let mut troubles = Vec::new();
    let mut client_limit = None;
    if scenario != Scenario::Storm {
        tokio::time::sleep(SETTLE).await;
        Memory::of(&servers)?.metrics_since(&before, connections, &mut metrics);
    }
    if let Some(load) = &plan.load {
        let (loaded, used) = clients.load(load, &plan, &processes).await?;
        used.metrics(&mut metrics);
        let delivered = load_metrics(&loaded, &mut metrics)?;
        used.per_delivery(delivered, &mut metrics);
        client_limit = used.client_limit();
        for part in loaded {
            verification += part.verification;
            troubles.extend(part.troubles);
        }
        Memory::of(&servers)?.peaks(&mut metrics);
    } else if plan.rest > 0.0 {
        clients
            .rest(plan.rest, &processes)
            .await?
            .metrics(&mut metrics);
    }
    let rabbitmq = servers.rabbitmq_version();
    drop(clients);
    drop(servers);
    if scenario == Scenario::Broadcast {
        progress("measuring the floor");
        let size = plan.load.map_or(0, |load| load.size) + FRAME_OVERHEAD;
        if let Some(floor) = floor::measure(connections, size)? {
            metrics.insert("floor_per_second".into(), floor);
        }
    }
    progress("");
    Ok(Outcome {
        scenario,
        server: setup.server,
        case: plan.case,
        connections,
        metrics,
        verification,
        troubles,
        client_limit,
        conditions: Conditions::now(&setup.stentor, rabbitmq),
    })
}

/// The workers of a run, each with its part of the clients.
struct Clients(Vec<(Worker, u32)>);

impl Clients {
    fn start(plan: &Plan, scenario: Scenario, servers: &Servers) -> Result<Self> {
        let nodes = servers.websockets().len() as u32;
        let files = crate::limits::files();
        let per_worker = PER_WORKER.min(files.saturating_sub(200));
        ensure!(
            plan.connections / nodes <= files.saturating_sub(1000),
            "a server may have {files} files (ulimit -Hn), too few for {} connections on {nodes} \
             node(s): raise it, or take more --nodes",
            plan.connections
        );
        let workers = plan.connections.div_ceil(per_worker).max(nodes);
        ensure!(
            workers == 1 || !scenario.is_broadcast(),
            "{} is one worker's and one node's, who has at most {per_worker} connections here",
            scenario.name()
        );
        let share = plan.connections / workers;
        let rest = plan.connections % workers;
        let mut started = Vec::new();
        for number in 0..workers {
            let clients = share + u32::from(number < rest);
            ensure!(clients > 0, "there are more workers than connections");
            started.push((Worker::start()?, clients));
        }
        Ok(Self(started))
    }

    /// All processes of the run.
    fn processes(&self, servers: &Servers) -> Result<Vec<(Role, u32)>> {
        let mut all = servers.processes();
        all.push((Role::Client, std::process::id()));
        for (worker, _) in &self.0 {
            all.push((Role::Client, worker.pid()?));
        }
        Ok(all)
    }

    async fn connect(&mut self, plan: &Plan, servers: &Servers) -> Result<Vec<Connected>> {
        let mut first = 0;
        let workers = self.0.len() as u32;
        let done: Vec<Cell<u32>> = self.0.iter().map(|_| Cell::new(0)).collect();
        for (number, (worker, clients)) in self.0.iter_mut().enumerate() {
            let nodes = servers.websockets();
            let order = Order::Connect(Connect {
                server: *nodes.get(number % nodes.len()).context("no server")?,
                first,
                count: *clients,
                at_once: (plan.at_once / workers).max(1),
                habits: plan.habits,
            });
            worker.order(&order).await?;
            first += *clients;
        }
        let connecting = self
            .0
            .iter_mut()
            .zip(&done)
            .map(async |((worker, _), own)| {
                loop {
                    match worker.report().await? {
                        Report::Progress(so_far) => {
                            own.set(so_far);
                            let sum: u32 = done.iter().map(Cell::get).sum();
                            progress(&format!("{sum} of {} connected", plan.connections));
                        }
                        Report::Connected(connected) => return Ok(connected),
                        other => bail!("a worker connects, and says {other:?}"),
                    }
                }
            });
        try_join_all(connecting).await.context("connecting")
    }

    async fn load(
        &mut self,
        load: &crate::orders::Load,
        plan: &Plan,
        processes: &[(Role, u32)],
    ) -> Result<(Vec<Loaded>, Used)> {
        for (worker, clients) in &mut self.0 {
            let order = Order::Load(share(load, *clients, plan.connections));
            worker.order(&order).await?;
        }
        progress("warming up");
        self.all_say(|report| matches!(report, Report::Measuring))
            .await?;
        let cpu = Cpu::of(processes)?;
        progress("measuring");
        self.all_say(|report| matches!(report, Report::Measured))
            .await?;
        let used = cpu.until_now(processes)?;
        progress("waiting for the last messages");
        let loaded = self
            .0
            .iter_mut()
            .map(async |(worker, _)| match worker.report().await? {
                Report::Loaded(loaded) => Ok(*loaded),
                other => bail!("a worker loads, and says {other:?}"),
            });
        let loaded = try_join_all(loaded).await?;
        Ok((loaded, used))
    }

    async fn all_say(&mut self, expected: impl Fn(&Report) -> bool) -> Result<()> {
        let saying = self.0.iter_mut().map(async |(worker, _)| {
            let report = worker.report().await?;
            ensure!(expected(&report), "a worker says {report:?}");
            Ok(())
        });
        try_join_all(saying).await?;
        Ok(())
    }

    async fn rest(&mut self, seconds: f64, processes: &[(Role, u32)]) -> Result<Used> {
        progress("resting");
        let cpu = Cpu::of(processes)?;
        let anything = self.0.iter_mut().map(async |(worker, _)| -> Result<()> {
            let report = worker.report().await?;
            bail!("a worker that should only wait says {report:?}")
        });
        let rest = Duration::from_secs_f64(seconds);
        if let Ok(said) = tokio::time::timeout(rest, try_join_all(anything)).await {
            said.context("while the connections were idle")?;
        }
        cpu.until_now(processes)
    }
}

/// Memory of the servers.
struct Memory(Vec<(Role, Usage)>);

impl Memory {
    fn of(servers: &Servers) -> Result<Self> {
        let processes = servers.processes().into_iter();
        let usage = processes.map(|(role, pid)| Ok((role, Usage::of(pid)?)));
        Ok(Self(usage.collect::<Result<_>>()?))
    }

    fn sum(&self, role: Role, of: impl Fn(&Usage) -> f64) -> f64 {
        let own = self.0.iter().filter(|&&(its, _)| its == role);
        own.map(|(_, usage)| of(usage)).sum()
    }

    fn metrics_since(&self, before: &Self, connections: u32, metrics: &mut Metrics) {
        let grown = |role| {
            let pss = |usage: &Usage| usage.pss;
            (self.sum(role, pss) - before.sum(role, pss)) / f64::from(connections)
        };
        let (gateway, rabbitmq) = (grown(Role::Gateway), grown(Role::Rabbitmq));
        let all = self.sum(Role::Gateway, |usage| usage.pss)
            + self.sum(Role::Rabbitmq, |usage| usage.pss);
        for (name, value) in [
            ("kib_per_connection_gateway", gateway),
            ("kib_per_connection_rabbitmq", rabbitmq),
            ("kib_per_connection_servers", gateway + rabbitmq),
            ("memory_mib_servers", all / 1024.0),
        ] {
            metrics.insert(name.into(), value);
        }
    }

    fn peaks(&self, metrics: &mut Metrics) {
        let peak = |role| self.sum(role, |usage| usage.peak) / 1024.0;
        metrics.insert("peak_mib_gateway".into(), peak(Role::Gateway));
        metrics.insert("peak_mib_rabbitmq".into(), peak(Role::Rabbitmq));
    }
}

/// Processor time of all processes, from their starts.
struct Cpu {
    at: Instant,
    of: Vec<(Role, f64)>,
}

impl Cpu {
    fn of(processes: &[(Role, u32)]) -> Result<Self> {
        let of = processes
            .iter()
            .map(|&(role, pid)| Ok((role, cpu_of(pid)?)));
        Ok(Self {
            at: Instant::now(),
            of: of.collect::<Result<_>>()?,
        })
    }

    fn until_now(&self, processes: &[(Role, u32)]) -> Result<Used> {
        let now = Self::of(processes).context("a process is gone")?;
        let each = self.of.iter().zip(now.of);
        Ok(Used {
            seconds: now.at.duration_since(self.at).as_secs_f64(),
            of: each
                .map(|(&(role, before), (_, after))| (role, after - before))
                .collect(),
        })
    }
}

/// Processor time that was used in a while, in seconds.
struct Used {
    seconds: f64,
    of: Vec<(Role, f64)>,
}

impl Used {
    fn sum(&self, role: Role) -> f64 {
        let own = self.of.iter().filter(|&&(its, _)| its == role);
        own.map(|&(_, seconds)| seconds).sum()
    }

    fn servers(&self) -> f64 {
        self.sum(Role::Gateway) + self.sum(Role::Rabbitmq)
    }

    /// As shares of a core.
    fn metrics(&self, metrics: &mut Metrics) {
        for (name, cpu) in [
            ("cpu_percent_gateway", self.sum(Role::Gateway)),
            ("cpu_percent_rabbitmq", self.sum(Role::Rabbitmq)),
            ("cpu_percent_servers", self.servers()),
            ("cpu_percent_client", self.sum(Role::Client)),
        ] {
            metrics.insert(name.into(), 100.0 * cpu / self.seconds);
        }
    }

    fn per_delivery(&self, delivered: u64, metrics: &mut Metrics) {
        if delivered == 0 {
            return;
        }
        for (name, cpu) in [
            ("cpu_ms_per_1000_gateway", self.sum(Role::Gateway)),
            ("cpu_ms_per_1000_rabbitmq", self.sum(Role::Rabbitmq)),
            ("cpu_ms_per_1000_servers", self.servers()),
        ] {
            metrics.insert(name.into(), 1e6 * cpu / delivered as f64);
        }
    }

    fn client_limit(&self) -> Option<String> {
        let own = self.of.iter().filter(|&&(role, _)| role == Role::Client);
        let busiest = own.map(|&(_, cpu)| cpu / self.seconds).fold(0.0, f64::max);
        let (client, servers) = (self.sum(Role::Client), self.servers());
        if busiest > SATURATED {
            let percent = 100.0 * busiest;
            Some(format!("a worker used {percent:.0} % of its core"))
        } else if client > servers {
            Some(format!(
                "the client used {client:.1} s of processor time, the servers {servers:.1} s"
            ))
        } else {
            None
        }
    }
}

fn set_up_metrics(connected: &[Connected], used: &Used, count: u32, metrics: &mut Metrics) {
    let longest = connected
        .iter()
        .map(|part| part.seconds)
        .fold(0.0, f64::max);
    let per_second = f64::from(count) / longest.max(f64::EPSILON);
    metrics.insert("set_ups_per_second".into(), per_second);
    for (name, cpu) in [
        ("set_up_cpu_ms_gateway", used.sum(Role::Gateway)),
        ("set_up_cpu_ms_rabbitmq", used.sum(Role::Rabbitmq)),
        ("set_up_cpu_ms_servers", used.servers()),
        ("set_up_cpu_ms_hook", used.sum(Role::Hook)),
    ] {
        metrics.insert(name.into(), 1e3 * cpu / f64::from(count));
    }
    if let Ok(all) = merged(connected.iter().map(|part| &part.set_up)) {
        metrics.insert("set_up_p50_ms".into(), all.microseconds(50.0) / 1e3);
        metrics.insert("set_up_p99_ms".into(), all.microseconds(99.0) / 1e3);
        metrics.insert("set_up_max_ms".into(), all.longest() / 1e3);
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

/// Shows what goes on, on a line of its own that the next one replaces; nothing in a file or pipe.
fn progress(what: &str) {
    let mut out = std::io::stderr();
    if out.is_terminal() {
        // Nobody reads on if it fails.
        let _ = write!(out, "\r\x1b[K{what}");
        let _ = out.flush();
    }
}
