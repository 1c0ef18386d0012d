//! The client processes, one for each gateway, and what they are asked.

use std::{cell::Cell, net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, bail};
use futures_util::future::try_join_all;
use tokio::{sync::Semaphore, time::timeout};

use super::plan::Plan;
use crate::{
    latency::Latencies,
    orders::{
        Connect, Connected, Habits, Heard, Load, Loaded, Order, Pace, Publish, Report, Stand, Stood,
    },
    scenario::share,
    servers::{Role, Servers},
    workers::Worker,
};

/// The body of a message. In bytes.
pub(super) const SIZE: usize = 256;

/// The longest for all single messages, in milliseconds; they end when all are sent.
const LONGEST_MS: u64 = 24 * 3_600_000;

/// For an answer that comes at once, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(120);

/// So many gateways take users at a time. Each process that runs pushes others out of the caches: on
/// two cores a set-up costs twice the time where 53 gateways take turns.
const TAKING: u32 = 4;

/// All client processes. Dropped, they are killed.
pub(super) struct Crowd {
    plan: Plan,
    workers: Vec<Worker>,
}

impl Crowd {
    /// Starts them.
    ///
    /// # Errors
    /// The system refuses.
    pub(super) fn start(plan: Plan) -> Result<Self> {
        let workers = (0..plan.gateways).map(|_| Worker::start());
        Ok(Self {
            plan,
            workers: workers.collect::<Result<_>>()?,
        })
    }

    /// All processes of the run.
    ///
    /// # Errors
    /// One has ended.
    pub(super) fn processes(&self, servers: &Servers) -> Result<Vec<(Role, u32)>> {
        let mut all = servers.processes();
        all.push((Role::Client, std::process::id()));
        for worker in &self.workers {
            all.push((Role::Client, worker.pid()?));
        }
        Ok(all)
    }

    /// Opens all connections, each worker's at its gateway, [a few](TAKING) gateways at a time. `done`
    /// has how many connections there are so far. Those that are there stand until [`Self::stood`]:
    /// the lost ones come back.
    ///
    /// # Errors
    /// Too many are refused or lost.
    pub(super) async fn connect(
        &mut self,
        servers: &[SocketAddr],
        (at_once, back_at_once): (u32, u32),
        habits: Habits,
        done: &Cell<u32>,
    ) -> Result<Vec<Connected>> {
        let plan = self.plan;
        let so_far: Vec<Cell<u32>> = self.workers.iter().map(|_| Cell::new(0)).collect();
        let workers = self.workers.iter_mut().zip(&so_far).zip(0..);
        let turns = Semaphore::new(TAKING as usize);
        let connecting = workers.map(async |((worker, own), number)| {
            let _turn = turns.acquire().await?;
            let users = plan.users(number);
            let connect = Connect {
                server: *servers.get(number as usize).context("no gateway")?,
                authority: None,
                first: users.start,
                count: users.len() as u32,
                at_once: (at_once / TAKING.min(plan.gateways)).max(1),
                again: true,
                habits,
            };
            let note = |count| {
                own.set(count);
                done.set(so_far.iter().map(Cell::get).sum());
            };
            let connected = worker.connect(connect, note).await?;
            note(users.len() as u32);
            let stand = Stand {
                // Each begins with another one.
                servers: turned(servers, number as usize),
                at_once: back_at_once,
                until_lost: None,
            };
            worker.order(&Order::Stand(stand)).await?;
            anyhow::Ok(connected)
        });
        try_join_all(connecting).await.context("connecting")
    }

    /// Ends the standing; answers how it was.
    ///
    /// # Errors
    /// Connections that were lost do not come back.
    pub(super) async fn stood(&mut self) -> Result<Vec<Stood>> {
        for worker in &mut self.workers {
            worker.order(&Order::Enough).await?;
        }
        let stood = self.all_say(|report| match report {
            Report::Stood(stood) => Ok(stood),
            other => Err(other),
        });
        timeout(PATIENCE, stood)
            .await
            .context("clients do not come back")?
    }

    /// Sends a message to each user; answers how they arrived.
    ///
    /// # Errors
    /// A publisher is refused or lost.
    pub(super) async fn singles(
        &mut self,
        publish: Publish,
        outstanding: u32,
    ) -> Result<Vec<Loaded>> {
        let plan = self.plan;
        for (worker, number) in self.workers.iter_mut().zip(0..) {
            let clients = plan.users(number).len() as u32;
            let load = share(&load(outstanding), clients, plan.connections);
            worker.order(&Order::Load(load, publish)).await?;
        }
        let loaded = self.workers.iter_mut().map(loaded);
        try_join_all(loaded).await
    }

    /// Sends a message to each user of one gateway.
    ///
    /// # Errors
    /// The publisher is refused or lost.
    pub(super) async fn singles_of(
        &mut self,
        gateway: usize,
        publish: Publish,
        outstanding: u32,
    ) -> Result<Loaded> {
        let worker = self.workers.get_mut(gateway).context("no such gateway")?;
        worker
            .order(&Order::Load(load(outstanding), publish))
            .await?;
        loaded(worker).await
    }

    /// Has all wait for a message of this run to everybody, and says so to itself when all do.
    ///
    /// # Errors
    /// A worker has ended.
    pub(super) async fn listen(&mut self, run: u32) -> Result<()> {
        for worker in &mut self.workers {
            worker.order(&Order::Hear(run)).await?;
        }
        let hearing =
            self.all_say(|said| matches!(said, Report::Hearing).then_some(()).ok_or(said));
        timeout(PATIENCE, hearing)
            .await
            .context("clients do not listen")??;
        Ok(())
    }

    /// Waits until all have heard it, or nothing comes any more.
    ///
    /// # Errors
    /// A worker has ended.
    pub(super) async fn heard(&mut self) -> Result<Vec<Heard>> {
        self.all_say(|report| match report {
            Report::Heard(heard) => Ok(heard),
            other => Err(other),
        })
        .await
    }

    /// Has the users of one gateway come back on these others, once all of them are lost. The rest
    /// stand meanwhile.
    ///
    /// # Errors
    /// A worker has ended.
    pub(super) async fn expect_loss(
        &mut self,
        gateway: usize,
        servers: &[SocketAddr],
        at_once: u32,
    ) -> Result<()> {
        for (number, worker) in self.workers.iter_mut().enumerate() {
            let users = self.plan.users(number as u32).len() as u32;
            let stand = Stand {
                servers: turned(servers, number),
                at_once,
                until_lost: (number == gateway).then_some(users),
            };
            worker.order(&Order::Stand(stand)).await?;
        }
        Ok(())
    }

    /// Waits until they are back; `back` has how many are so far. Answers how that was, and how the
    /// rest stood.
    ///
    /// # Errors
    /// They do not come back.
    pub(super) async fn level(
        &mut self,
        gateway: usize,
        back: &Cell<u32>,
    ) -> Result<(Stood, Vec<Stood>)> {
        let worker = self.workers.get_mut(gateway).context("no such gateway")?;
        let moved = stood(worker, |count| back.set(count)).await?;
        let mut others = Vec::new();
        for (number, worker) in self.workers.iter_mut().enumerate() {
            if number != gateway {
                worker.order(&Order::Enough).await?;
                others.push(timeout(PATIENCE, stood(worker, |_| {})).await??);
            }
        }
        Ok((moved, others))
    }

    /// The next report of each worker, if it is what is expected.
    async fn all_say<T>(
        &mut self,
        expected: impl Fn(Report) -> Result<T, Report>,
    ) -> Result<Vec<T>> {
        let saying = self.workers.iter_mut().map(async |worker| {
            let report = worker.report().await?;
            expected(report).or_else(|report| bail!("a worker says {report:?}"))
        });
        try_join_all(saying).await
    }
}

/// All latencies together.
///
/// # Errors
/// Never: the histogram's bounds are right.
pub(super) fn latencies<'a>(
    parts: impl Iterator<Item = &'a crate::latency::Counts>,
) -> Result<Latencies> {
    let mut all = Latencies::new()?;
    parts.for_each(|part| all.add(part));
    Ok(all)
}

/// A message to each user.
fn load(outstanding: u32) -> Load {
    Load {
        unicast: Some(Pace::Closed(outstanding)),
        publishers: 1,
        broadcast: None,
        churn: None,
        size: SIZE,
        warm_up_ms: 0,
        measure_ms: LONGEST_MS,
        rounds: Some(1),
    }
}

async fn stood(worker: &mut Worker, back: impl Fn(u32)) -> Result<Stood> {
    loop {
        match worker.report().await? {
            Report::Progress(count) => back(count),
            Report::Stood(stood) => return Ok(stood),
            other => bail!("a worker stands, and says {other:?}"),
        }
    }
}

async fn loaded(worker: &mut Worker) -> Result<Loaded> {
    loop {
        match worker.report().await? {
            Report::Measuring | Report::Measured => {}
            Report::Loaded(loaded) => return Ok(*loaded),
            other => bail!("a worker publishes, and says {other:?}"),
        }
    }
}

fn turned(servers: &[SocketAddr], by: usize) -> Vec<SocketAddr> {
    let mut turned = servers.to_vec();
    turned.rotate_left(by % servers.len().max(1));
    turned
}
