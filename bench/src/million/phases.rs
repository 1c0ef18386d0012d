//! The course of a run.

use std::{cell::Cell, collections::BTreeMap, future::Future, pin::pin, time::Duration};

use anyhow::{Context as _, Result};
use tokio::time::{Instant, sleep};

use super::{
    Options,
    bar::{Bar, thousands},
    crowd::{Crowd, SIZE, latencies},
    held::{Everybody, Held, Hold, Killed, Set, Singles},
    plan::Plan,
    watch::{Part, Watch, machine_cpu},
};
use crate::{
    orders::{Habits, Publish, Stood},
    outcome::Conditions,
    progress,
    servers::{Role, Servers, Setup},
    usage::Cpu,
    verify::Verification,
    wire::{
        body::{EVERYBODY, Stamp},
        dialect::COMMON_KEY,
    },
    worker::{Blocking, clock},
};

/// The time for servers to finish their work after the last receipt, before their memory counts.
const SETTLE: Duration = Duration::from_secs(10);

/// Between two looks at the system.
const LOOK: Duration = Duration::from_millis(500);

/// A run that is under way.
struct Run<'a> {
    options: &'a Options,
    plan: Plan,
    servers: Servers,
    crowd: Crowd,
    watch: Watch,
    /// When each phase began, for the chart.
    phases: Vec<(f64, String)>,
}

/// All phases, one after the other.
///
/// # Errors
/// A program is missing, connections fail, or a limit of the system is reached.
pub(super) async fn all(options: &Options, plan: Plan, setup: &Setup) -> Result<Held> {
    let watch = Watch::begin()?;
    let bar = Bar::new("start");
    let servers = Servers::start(setup).await?;
    bar.end(&format!("{} gateways", plan.gateways));
    let conditions = Conditions::now(&setup.stentor, servers.rabbitmq_version(), None);
    let mut run = Run {
        options,
        plan,
        servers,
        crowd: Crowd::start(plan)?,
        watch,
        phases: Vec::new(),
    };
    sleep(SETTLE / 2).await;
    let processes = run.crowd.processes(&run.servers)?;
    let base = run.watch.sample(&processes, 0)?.memory.clone();
    let connect = run.connect().await?;
    let (hold, memory) = run.hold().await?;
    let singles = run.singles().await?;
    let everybody = run.everybody().await?;
    let killed = run.killed().await?;
    progress::show("ending all");
    let Run {
        servers,
        crowd,
        watch,
        phases,
        ..
    } = run;
    drop((crowd, servers));
    progress::show("");
    Ok(Held {
        connections: plan.connections,
        gateways: plan.gateways,
        threads: options.threads,
        durable: options.durable,
        heart_beat_ms: options.heart_beat,
        base,
        connect,
        memory,
        hold,
        singles,
        everybody,
        killed,
        phases,
        samples: watch.samples,
        conditions,
    })
}

impl Run<'_> {
    async fn connect(&mut self) -> Result<Set> {
        self.begin("connect");
        let processes = self.crowd.processes(&self.servers)?;
        let cpu = Cpu::of(&processes)?;
        let (all, done) = (self.plan.connections, Cell::new(0));
        let mut bar = Bar::new("connect");
        let habits = Habits {
            own_key: true,
            common_key: true,
            heart_beat_ms: self.options.heart_beat,
            ..Habits::default()
        };
        let began = Instant::now();
        let servers = self.servers.websockets();
        let at_once = (self.options.at_once, self.options.back_at_once);
        let connecting = self.crowd.connect(servers, at_once, habits, &done);
        let watch = &mut self.watch;
        let connected = beside(connecting, || {
            bar.show(done.get().into(), all.into(), "");
            watch.look(&processes, done.get())
        })
        .await?;
        let seconds = began.elapsed().as_secs_f64();
        let used = cpu.until_now()?.by_role();
        let set_up = latencies(connected.iter().map(|part| &part.set_up))?;
        bar.end(&format!(
            "{} connections, {:.0} a second",
            thousands(all.into()),
            f64::from(all) / seconds
        ));
        let each = |(role, seconds)| (role, 1e3 * seconds / f64::from(all));
        Ok(Set {
            seconds,
            p50_ms: set_up.microseconds(50.0) / 1e3,
            p99_ms: set_up.microseconds(99.0) / 1e3,
            failed: connected.iter().map(|part| part.failed).sum(),
            why: connected.iter().find_map(|part| part.why.clone()),
            cpu_ms: used.into_iter().map(each).collect(),
        })
    }

    /// Answers also the memory after a while.
    async fn hold(&mut self) -> Result<(Hold, BTreeMap<Part, f64>)> {
        self.begin("hold");
        let all = self.plan.connections;
        let processes = self.crowd.processes(&self.servers)?;
        sleep(SETTLE).await;
        let memory = self.watch.sample(&processes, all)?.memory.clone();
        let (cpu, machine) = (Cpu::of(&processes)?, machine_cpu()?);
        let mut bar = Bar::new("hold");
        let (began, wanted) = (Instant::now(), self.options.hold);
        let watch = &mut self.watch;
        beside(
            async {
                sleep(wanted).await;
                Ok(())
            },
            || {
                bar.show(began.elapsed().as_secs(), wanted.as_secs(), " (seconds)");
                watch.look(&processes, all)
            },
        )
        .await?;
        let used = cpu.until_now()?;
        let machine = (machine_cpu()? - machine) / used.seconds;
        let seconds = used.seconds;
        let cores = used.by_role().into_iter();
        let cores = cores.map(|(role, cpu)| (role, cpu / seconds)).collect();
        let (lost, why) = lost(&self.crowd.stood().await?);
        bar.end(&format!("{lost} connections were lost"));
        let hold = Hold {
            seconds,
            cores,
            machine_cores: machine,
            lost,
            why,
        };
        Ok((hold, memory))
    }

    async fn singles(&mut self) -> Result<Singles> {
        self.begin("singles");
        let processes = self.crowd.processes(&self.servers)?;
        let cpu = Cpu::of(&processes)?;
        let (all, began) = (self.plan.connections, Instant::now());
        let bar = Bar::new("singles");
        progress::show("a message to each user");
        let publish = self.servers.publish(false);
        let sending = self.crowd.singles(publish, self.options.outstanding);
        let watch = &mut self.watch;
        let loaded = beside(sending, || watch.look(&processes, all)).await?;
        let seconds = began.elapsed().as_secs_f64();
        let used = cpu.until_now()?.by_role();
        let flows = || loaded.iter().filter_map(|part| part.unicast.as_ref());
        let latency = latencies(flows().map(|flow| &flow.latency))?;
        let mut verification = Verification::default();
        for part in &loaded {
            verification += part.verification;
        }
        let troubles: Vec<String> = loaded.into_iter().flat_map(|part| part.troubles).collect();
        bar.end(&format!(
            "{} of {}",
            thousands(verification.correct),
            thousands(all.into())
        ));
        let each = |(role, seconds)| (role, 1e6 * seconds / f64::from(all));
        Ok(Singles {
            verification,
            seconds,
            p50_ms: latency.microseconds(50.0) / 1e3,
            p99_ms: latency.microseconds(99.0) / 1e3,
            cpu_us: used.into_iter().map(each).collect(),
            troubles,
        })
    }

    async fn everybody(&mut self) -> Result<Everybody> {
        self.begin("everybody");
        let bar = Bar::new("everybody");
        progress::show("a message to everybody");
        let run = rand::random();
        self.crowd.listen(run).await?;
        let Publish::Amqp(rabbitmq) = self.servers.publish(false) else {
            anyhow::bail!("there is no RabbitMQ");
        };
        let mut publisher = Blocking::connect(rabbitmq)?;
        let due = clock::now();
        let stamp = Stamp {
            run,
            target: EVERYBODY,
            sequence: 0,
            due,
        };
        publisher.publish(COMMON_KEY, stamp, SIZE)?;
        let heard = self.crowd.heard().await?;
        drop(publisher);
        let mut verification = Verification::default();
        for part in &heard {
            verification += part.verification;
        }
        let latency = latencies(heard.iter().map(|part| &part.latency))?;
        let last = heard.iter().map(|part| part.last).max();
        let last = last.unwrap_or_default().saturating_sub(due) as f64 / 1e9;
        bar.end(&format!(
            "{} have it, the last after {last:.2} s",
            thousands(verification.correct)
        ));
        Ok(Everybody {
            verification,
            last_seconds: last,
            half_seconds: latency.microseconds(50.0) / 1e6,
        })
    }

    async fn killed(&mut self) -> Result<Killed> {
        self.begin("killed");
        let mut bar = Bar::new("killed");
        let victim = self.plan.gateways as usize - 1;
        let users = self.plan.users(victim as u32).len() as u32;
        let others = self
            .servers
            .websockets()
            .get(..victim)
            .context("no other gateway")?;
        let others = others.to_vec();
        let at_once = self.options.back_at_once;
        self.crowd.expect_loss(victim, &others, at_once).await?;
        let began = clock::now();
        self.servers.kill(victim);
        let processes = self.crowd.processes(&self.servers)?;
        let (watch, all) = (&mut self.watch, self.plan.connections);
        let back = Cell::new(0);
        let (moved, rest) = beside(self.crowd.level(victim, &back), || {
            bar.show(back.get().into(), users.into(), "");
            watch.look(&processes, all)
        })
        .await?;
        let level = moved.last.saturating_sub(began) as f64 / 1e9;
        let set_up = latencies(std::iter::once(&moved.set_up))?;
        bar.end(&format!("{users} users are back after {level:.1} s"));
        let publish = self.servers.publish(false);
        let loaded = self
            .crowd
            .singles_of(victim, publish, self.options.outstanding)
            .await?;
        let (lost, why) = lost(&rest);
        self.watch.sample(&processes, all)?;
        Ok(Killed {
            users,
            level_seconds: level,
            failed: moved.failed,
            p99_ms: set_up.microseconds(99.0) / 1e3,
            others_lost: lost,
            others_why: why,
            verification: loaded.verification,
        })
    }

    fn begin(&mut self, phase: &str) {
        self.phases.push((self.watch.seconds(), phase.to_owned()));
    }
}

/// Looks again and again while something is under way.
async fn beside<T>(
    doing: impl Future<Output = Result<T>>,
    mut look: impl FnMut() -> Result<()>,
) -> Result<T> {
    let mut doing = pin!(doing);
    loop {
        match tokio::time::timeout(LOOK, &mut doing).await {
            Ok(done) => return done,
            Err(_) => look()?,
        }
    }
}

fn lost(stood: &[Stood]) -> (u32, Option<String>) {
    let why = stood.iter().find_map(|its| its.why.clone());
    (stood.iter().map(|its| its.lost).sum(), why)
}

/// The roles whose processor time is a goal's.
pub(super) const SERVERS: [Role; 2] = [Role::Gateway, Role::Rabbitmq];
