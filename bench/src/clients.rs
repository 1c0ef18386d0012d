//! All clients of a run: the workers, each with its part of them.

use std::{cell::Cell, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::future::try_join_all;

use crate::{
    beside::Beside,
    limits,
    named::Named as _,
    orders::{Chat, Chatted, Connect, Connected, Load, Loaded, Order, Publish, Report},
    progress,
    scenario::{Plan, Scenario, share},
    servers::{Role, Servers},
    usage::{Cpu, Used},
    workers::Worker,
};

/// Clients of a worker: its files, less a few, where a process may have 20,000.
const PER_WORKER: u32 = 18_000;

/// The workers of a run.
pub(crate) struct Clients(Vec<Part>);

/// A worker, and which clients are its own.
struct Part {
    worker: Worker,
    /// The number of its first user.
    first: u32,
    clients: u32,
    connected: u32,
}

impl Clients {
    /// Starts as many workers as the connections need.
    ///
    /// # Errors
    /// The system does not allow as many files.
    pub(crate) fn start(plan: &Plan, scenario: Scenario, servers: &Servers) -> Result<Self> {
        let nodes = servers.websockets().len() as u32;
        let files = limits::files();
        let per_worker = PER_WORKER.min(files.saturating_sub(200)).max(1);
        ensure!(
            plan.connections / nodes <= files.saturating_sub(1000),
            "a server may have {files} files (ulimit -Hn), too few for {} connections on {nodes} \
             node(s): raise it, or take more --nodes",
            plan.connections
        );
        let workers = plan.connections.div_ceil(per_worker).max(nodes);
        ensure!(
            workers == 1 || !scenario.is_broadcast(),
            "{} is one worker's and one node's, which has at most {per_worker} connections here",
            scenario.name()
        );
        ensure!(
            workers <= plan.connections,
            "there are more nodes than connections"
        );
        let mut parts = Vec::new();
        let mut first = 0;
        for number in 0..workers {
            let more = u32::from(number < plan.connections % workers);
            let clients = plan.connections / workers + more;
            parts.push(Part {
                worker: Worker::start()?,
                first,
                clients,
                connected: 0,
            });
            first += clients;
        }
        Ok(Self(parts))
    }

    /// All processes of the run.
    ///
    /// # Errors
    /// A worker has ended.
    pub(crate) fn processes(&self, servers: &Servers) -> Result<Vec<(Role, u32)>> {
        let mut all = servers.processes();
        all.push((Role::Client, std::process::id()));
        for part in &self.0 {
            all.push((Role::Client, part.worker.pid()?));
        }
        Ok(all)
    }

    /// Connections that are open.
    pub(crate) fn connected(&self) -> u32 {
        self.0.iter().map(|part| part.connected).sum()
    }

    /// Opens connections until each worker has so many hundredths of its own.
    ///
    /// # Errors
    /// One is refused or lost.
    pub(crate) async fn connect(
        &mut self,
        plan: &Plan,
        servers: &Servers,
        percent: u32,
    ) -> Result<Vec<Connected>> {
        let workers = self.0.len() as u32;
        let nodes = servers.websockets();
        let authority = servers.authority();
        let already = self.connected();
        let done: Vec<Cell<u32>> = self.0.iter().map(|_| Cell::new(0)).collect();
        let connecting =
            self.0
                .iter_mut()
                .enumerate()
                .zip(&done)
                .map(async |((number, part), own)| {
                    let wanted = u64::from(part.clients) * u64::from(percent);
                    let wanted = wanted.div_ceil(100) as u32;
                    let connect = Connect {
                        authority: authority.clone(),
                        server: *nodes.get(number % nodes.len()).context("no server")?,
                        first: part.first + part.connected,
                        count: wanted - part.connected,
                        at_once: (plan.at_once / workers).max(1),
                        again: false,
                        habits: plan.habits,
                    };
                    part.connected = wanted;
                    let progress = |so_far| {
                        own.set(so_far);
                        let sum = already + done.iter().map(Cell::get).sum::<u32>();
                        progress::show(&format!("{sum} of {} connected", plan.connections));
                    };
                    part.worker.connect(connect, progress).await
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
        publish: Publish,
        plan: &Plan,
        processes: &[(Role, u32)],
        beside: Option<&str>,
    ) -> Result<(Vec<Loaded>, Used)> {
        for part in &mut self.0 {
            let order = Order::Load(share(load, part.clients, plan.connections), publish);
            part.worker.order(&order).await?;
        }
        progress::show("warming up");
        self.all_say(|said| matches!(said, Report::Measuring).then_some(()).ok_or(said))
            .await?;
        let cpu = Cpu::of(processes)?;
        progress::show("measuring");
        let beside = Beside::start(beside, processes)?;
        self.all_say(|said| matches!(said, Report::Measured).then_some(()).ok_or(said))
            .await?;
        let used = cpu.until_now()?;
        beside.end().await?;
        progress::show("waiting for the last messages");
        let loaded = self.all_say(|report| match report {
            Report::Loaded(loaded) => Ok(*loaded),
            other => Err(other),
        });
        Ok((loaded.await?, used))
    }

    /// Has the clients of the only worker chat; answers how it went, and what was used meanwhile.
    ///
    /// # Errors
    /// The worker has ended.
    pub(crate) async fn chat(
        &mut self,
        chat: Chat,
        processes: &[(Role, u32)],
        beside: Option<&str>,
    ) -> Result<(Chatted, Used)> {
        progress::show("greeting");
        let part = self.0.first_mut().context("there is no worker")?;
        part.worker.order(&Order::Chat(chat)).await?;
        match part.worker.report().await? {
            Report::Measuring => {}
            other => bail!("a worker greets, and says {other:?}"),
        }
        progress::show("chatting");
        let beside = Beside::start(beside, processes)?;
        let cpu = Cpu::of(processes)?;
        let said = part.worker.report().await?;
        let used = cpu.until_now()?;
        beside.end().await?;
        match said {
            Report::Chatted(chatted) => Ok((*chatted, used)),
            other => bail!("a worker chats, and says {other:?}"),
        }
    }

    /// Does nothing but keep the connections; answers what was used meanwhile.
    ///
    /// # Errors
    /// A connection is lost.
    pub(crate) async fn rest(
        &mut self,
        seconds: f64,
        processes: &[(Role, u32)],
        beside: Option<&str>,
    ) -> Result<Used> {
        progress::show("resting");
        let beside = Beside::start(beside, processes)?;
        let cpu = Cpu::of(processes)?;
        let rest = Duration::from_secs_f64(seconds);
        // Any report of a worker is a complaint now.
        let complaints = self.all_say(Err::<(), _>);
        if let Ok(said) = tokio::time::timeout(rest, complaints).await {
            said.context("while the connections were idle")?;
        }
        let used = cpu.until_now()?;
        beside.end().await?;
        Ok(used)
    }

    /// The next report of each worker, if it is what is expected.
    async fn all_say<T>(
        &mut self,
        expected: impl Fn(Report) -> Result<T, Report>,
    ) -> Result<Vec<T>> {
        let saying = self.0.iter_mut().map(async |part| {
            let report = part.worker.report().await?;
            expected(report).or_else(|report| bail!("a worker says {report:?}"))
        });
        try_join_all(saying).await
    }
}
