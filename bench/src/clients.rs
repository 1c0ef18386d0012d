//! All clients of a run: the workers, each with its part of them.

use std::{cell::Cell, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::future::try_join_all;

use crate::{
    limits,
    orders::{Connect, Connected, Load, Loaded, Order, Report},
    progress,
    scenario::{Plan, Scenario, share},
    servers::{Role, Servers},
    usage::{Cpu, Used},
    workers::Worker,
};

/// Clients of a worker: its files, less a few, where a process may have 20,000.
const PER_WORKER: u32 = 18_000;

/// The workers of a run, each with its part of the clients.
pub(crate) struct Clients(Vec<(Worker, u32)>);

impl Clients {
    /// Starts as many workers as the connections need.
    ///
    /// # Errors
    /// The system does not allow as many files.
    pub(crate) fn start(plan: &Plan, scenario: Scenario, servers: &Servers) -> Result<Self> {
        let nodes = servers.websockets().len() as u32;
        let files = limits::files();
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
    pub(crate) fn processes(&self, servers: &Servers) -> Result<Vec<(Role, u32)>> {
        let mut all = servers.processes();
        all.push((Role::Client, std::process::id()));
        for (worker, _) in &self.0 {
            all.push((Role::Client, worker.pid()?));
        }
        Ok(all)
    }

    /// Opens all connections.
    ///
    /// # Errors
    /// One is refused or lost.
    pub(crate) async fn connect(
        &mut self,
        plan: &Plan,
        servers: &Servers,
    ) -> Result<Vec<Connected>> {
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
                            progress::show(&format!("{sum} of {} connected", plan.connections));
                        }
                        Report::Connected(connected) => return Ok(connected),
                        other => bail!("a worker connects, and says {other:?}"),
                    }
                }
            });
        try_join_all(connecting).await.context("connecting")
    }

    /// Loads the servers; answers how it went, and what was used while it was measured.
    ///
    /// # Errors
    /// A publisher is refused or lost.
    pub(crate) async fn load(
        &mut self,
        load: &Load,
        plan: &Plan,
        processes: &[(Role, u32)],
    ) -> Result<(Vec<Loaded>, Used)> {
        for (worker, clients) in &mut self.0 {
            let order = Order::Load(share(load, *clients, plan.connections));
            worker.order(&order).await?;
        }
        progress::show("warming up");
        self.all_say(|report| matches!(report, Report::Measuring))
            .await?;
        let cpu = Cpu::of(processes)?;
        progress::show("measuring");
        self.all_say(|report| matches!(report, Report::Measured))
            .await?;
        let used = cpu.until_now()?;
        progress::show("waiting for the last messages");
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

    /// Does nothing but keep the connections; answers what was used meanwhile.
    ///
    /// # Errors
    /// A connection is lost.
    pub(crate) async fn rest(&mut self, seconds: f64, processes: &[(Role, u32)]) -> Result<Used> {
        progress::show("resting");
        let cpu = Cpu::of(processes)?;
        let anything = self.0.iter_mut().map(async |(worker, _)| -> Result<()> {
            let report = worker.report().await?;
            bail!("a worker that should only wait says {report:?}")
        });
        let rest = Duration::from_secs_f64(seconds);
        if let Ok(said) = tokio::time::timeout(rest, try_join_all(anything)).await {
            said.context("while the connections were idle")?;
        }
        cpu.until_now()
    }
}
