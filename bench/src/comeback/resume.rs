//! Users who were away for a while, and how long it takes until each has what it missed.
//!
//! The exchange has a journal. Each user hears of one message and leaves; while it is away, further ones
//! come for it, and go on while all come back. It is level when it has all messages that were published
//! before the return began. Some users stay, and their latencies are measured before and meanwhile.

use std::{cell::Cell, collections::BTreeMap, fs, net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum};
use serde::Serialize;
use testkit::{Gateway, Process, RabbitMq};
use tokio::time::{Instant, sleep_until, timeout};

use super::{
    Auth, DEADLINE, Options, addresses,
    away::{Checked, Level, Said, Turn},
    connect_staying, cpu, listed, load, measured, parts, processes, said, start_crowd,
    start_gateway, start_hook,
};
use crate::{
    latency::Latencies,
    named::Named as _,
    orders::{Loaded, Order, Publish},
    progress,
    servers::Role,
    wire::{
        body::Stamp,
        dialect::{EXCHANGE, user_key},
    },
    worker::{Blocking, clock, declare_exchange},
};

/// How the direct exchange is read as a whole, as its journal needs.
const SETTINGS: [(&str, &str); 4] = [
    ("journal.exchanges", EXCHANGE),
    ("feed.binding", "all"),
    ("feed.whole", EXCHANGE),
    ("feed.bridge", "false"),
];

/// Bytes of a message.
const SIZE: usize = 256;

/// What publishers of the tool are called in messages.
const RUN: u32 = 0xa0a0;

/// How long the last messages may take.
const LAST: Duration = Duration::from_secs(60);

/// Where users come back.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(super) enum Back {
    /// At the node that they left: what they missed is in its memory
    Memory,
    /// At a node that started while they were away: it has nothing in memory
    Journal,
}

/// How they are away.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct Absence {
    /// How long they are away, in seconds
    #[arg(long, value_name = "S", default_value_t = 30.0, requires = "resume")]
    away: f64,
    /// Messages that each of them misses meanwhile
    #[arg(long, value_name = "N", default_value_t = 3, requires = "resume",
          value_parser = clap::value_parser!(u64).range(1..))]
    missed: u64,
}

/// What was measured.
#[derive(Serialize)]
struct Outcome {
    back: String,
    auth: String,
    users: u32,
    away: f64,
    missed: u64,
    /// Users that were not level when the time was up.
    missing: u32,
    /// From the beginning of the return until the last one was level.
    seconds: f64,
    /// From each one's first attempt until it was level.
    took_p50: f64,
    took_p99: f64,
    took_longest: f64,
    tries: u64,
    failed: BTreeMap<String, u64>,
    checked: Checked,
    /// Readings from the journal, and their messages, on the nodes to which they came back.
    readings: f64,
    read: f64,
    /// Subscriptions that caught up, by the gateways' own count.
    resumes: f64,
    /// Messages to those who stay, in milliseconds: before, and meanwhile.
    calm_p99_ms: f64,
    p50_ms: f64,
    p99_ms: f64,
    longest_ms: f64,
    lost: bool,
    troubles: Vec<String>,
    /// Processor time in a second while all were away, and messages came.
    cpu_away: BTreeMap<Role, f64>,
    /// And in all from the return on until the last one was level.
    cpu: BTreeMap<Role, f64>,
}

/// Measures each way; true if every user got each message once, and those who stayed theirs.
///
/// # Errors
/// As for [`super::run`].
pub(super) fn run(options: &Options) -> Result<bool> {
    let auth = *options.auth.first().context("no --auth")?;
    let mut all_right = true;
    println!("{HEAD}");
    for &back in &options.resume {
        let outcome = crate::runtime()?.block_on(measure(options, auth, back))?;
        progress::show("");
        println!("{}", row(&outcome));
        for trouble in &outcome.troubles {
            eprintln!("{trouble}");
        }
        let name = format!("resume {} {}.json", outcome.back, outcome.users);
        fs::write(options.out.join(name), serde_json::to_vec_pretty(&outcome)?)?;
        let wrong = &outcome.checked;
        let is_whole = wrong.lost + wrong.doubled + wrong.foreign + wrong.gaps == 0
            && wrong.behind + outcome.missing == 0;
        all_right &= is_whole && !outcome.lost && outcome.troubles.is_empty();
    }
    Ok(all_right)
}

const HEAD: &str = "\
| Back at | Users, missed by each | All level after | p50, p99 of a user (longest) | Lost, doubled, foreign, gaps | Tries (failed) | Readings (messages) | Others' p99 before, meanwhile (longest) | CPU s: gateways, RabbitMQ (in a second before) |
|---|---|---|---|---|---|---|---|---|";

fn row(outcome: &Outcome) -> String {
    let of = |figures: &BTreeMap<Role, f64>, role| figures.get(&role).copied().unwrap_or_default();
    let Checked {
        behind,
        lost,
        doubled,
        foreign,
        gaps,
    } = outcome.checked;
    let level = match outcome.missing {
        0 => format!("{:.2} s", outcome.seconds),
        missing => format!("{missing} are not"),
    };
    let behind = match behind {
        0 => String::new(),
        behind => format!("; {behind} users without the last"),
    };
    format!(
        "| {} | {}, {} | {level} | {:.2} s, {:.2} s ({:.2} s) | {lost}, {doubled}, {foreign}, \
         {gaps}{behind} | {} ({}) | {} ({}) | {:.1} ms, {:.1} ms ({:.0} ms) | {:.2}, {:.2} \
         ({:.2}, {:.2}) |",
        outcome.back,
        outcome.users,
        outcome.missed,
        outcome.took_p50,
        outcome.took_p99,
        outcome.took_longest,
        outcome.tries,
        listed(&outcome.failed),
        outcome.readings,
        outcome.read,
        outcome.calm_p99_ms,
        outcome.p99_ms,
        outcome.longest_ms,
        of(&outcome.cpu, Role::Gateway),
        of(&outcome.cpu, Role::Rabbitmq),
        of(&outcome.cpu_away, Role::Gateway),
        of(&outcome.cpu_away, Role::Rabbitmq),
    )
}

async fn measure(options: &Options, auth: Auth, back: Back) -> Result<Outcome> {
    progress::show("starting servers");
    let (_hook, at_hook) = start_hook(options.service).await?;
    let broker = RabbitMq::own_bare(&[], "log.connection.level = warning\n").await;
    let amqp: SocketAddr = broker.amqp_address().parse()?;
    declare_exchange(amqp).context("declaring the exchange")?;
    let policy = format!("{{\"alternate-exchange\":\"{EXCHANGE}.all\"}}");
    let name = format!("^{EXCHANGE}$");
    let set = ["set_policy", "--apply-to", "exchanges", "whole"];
    broker.ctl(&[&set[..], &[&*name, &*policy]].concat()).await;
    let mut nodes = start_node(options, auth, (amqp, at_hook)).await?;
    let homes = addresses(&nodes)?;

    progress::show("connecting those who stay");
    let mut staying = connect_staying(options, &homes).await?;
    progress::show("connecting those who will leave");
    let mut crowds = Vec::new();
    for part in parts(options, auth, (&homes, &homes))? {
        crowds.push(start_crowd("comeback-away", &part)?);
    }
    hear(&crowds, |said| {
        matches!(said, Said::Subscribed).then_some(())
    })
    .await?;
    let mut sender = Sender::new(options, amqp)?;
    sender.round(None).await?;
    hear(&crowds, |said| matches!(said, Said::Heard).then_some(())).await?;
    tell(&mut crowds, &Turn::Leave)?;

    progress::show("messages while they are away");
    let absence = options.absence;
    let until = Instant::now() + Duration::from_secs_f64(absence.away);
    let watched = watched(&nodes, &broker);
    let before = cpu(&watched)?;
    let begun = Instant::now();
    let calm = load(options, Duration::from_secs_f64(absence.away) + DEADLINE);
    staying
        .order(&Order::Load(calm, Publish::Amqp(amqp)))
        .await?;
    let pace = Duration::from_secs_f64(absence.away / absence.missed as f64);
    let (calm, ()) = measured(&mut staying, async || {
        for _ in 0..absence.missed {
            sender.round(Some(pace)).await?;
        }
        Ok(())
    })
    .await?;
    let took = begun.elapsed().as_secs_f64();
    let mut cpu_away = since(&before, cpu(&watched)?);
    cpu_away.values_mut().for_each(|seconds| *seconds /= took);
    if back == Back::Journal {
        let fresh = start_node(options, auth, (amqp, at_hook)).await?;
        nodes.splice(..0, fresh);
    }
    let count = processes(options) as usize;
    let others = nodes.get(..count).context("no node")?;
    sleep_until(until).await;

    progress::show("all come back");
    let watched = self::watched(&nodes, &broker);
    let before = (cpu(&watched)?, Readings::of(others).await?);
    let storm = load(options, Duration::from_secs(options.deadline) + DEADLINE);
    staying
        .order(&Order::Load(storm, Publish::Amqp(amqp)))
        .await?;
    let returning = measured(&mut staying, async || {
        let begun = clock::now();
        let level = sender.next.checked_sub(1).context("no message")?;
        tell(&mut crowds, &Turn::Return(addresses(others)?, level))?;
        let done = Cell::new(false);
        let sending = async {
            while !done.get() {
                sender.round(Some(pace)).await?;
            }
            anyhow::Ok(())
        };
        let coming = async {
            let levels = levels(&mut crowds, options.deadline).await;
            done.set(true);
            let used = since(&before.0, cpu(&watched)?);
            anyhow::Ok((levels?, used))
        };
        let ((), (levels, used)) = tokio::try_join!(sending, coming)?;
        Ok((begun, levels, used))
    });
    let (loaded, (begun, levels, used)) = returning.await?;

    progress::show("the last messages");
    let last = sender.next.checked_sub(1).context("no message")?;
    tell(&mut crowds, &Turn::Last(last))?;
    let checked = checked(&mut crowds).await?;
    let readings = Readings::of(others).await?.since(&before.1);
    outcome(
        options,
        (auth, back),
        (&calm, &loaded),
        (begun, &levels, checked),
        readings,
        (cpu_away, used),
    )
}

fn outcome(
    options: &Options,
    (auth, back): (Auth, Back),
    (calm, loaded): (&Loaded, &Loaded),
    (begun, levels, checked): (u64, &[Level], Checked),
    readings: Readings,
    (cpu_away, cpu): (BTreeMap<Role, f64>, BTreeMap<Role, f64>),
) -> Result<Outcome> {
    let mut took = Latencies::new()?;
    let mut failed = BTreeMap::new();
    for level in levels {
        took.add(&level.took);
        for (why, count) in &level.failed {
            *failed.entry(why.clone()).or_default() += count;
        }
    }
    let last = levels.iter().map(|level| level.at).max().unwrap_or(begun);
    let latency = |loaded: &Loaded| {
        let mut all = Latencies::new()?;
        loaded
            .unicast
            .iter()
            .for_each(|flow| all.add(&flow.latency));
        anyhow::Ok(all)
    };
    let (before, meanwhile) = (latency(calm)?, latency(loaded)?);
    let seconds = |microseconds: f64| microseconds / 1e6;
    let troubles = [&calm.troubles[..], &loaded.troubles].concat();
    Ok(Outcome {
        back: back.name(),
        auth: auth.name(),
        users: options.users,
        away: options.absence.away,
        missed: options.absence.missed,
        missing: levels.iter().map(|level| level.missing).sum(),
        seconds: last.saturating_sub(begun) as f64 / clock::SECOND as f64,
        took_p50: seconds(took.microseconds(50.0)),
        took_p99: seconds(took.microseconds(99.0)),
        took_longest: seconds(took.longest()),
        tries: levels.iter().map(|level| level.tries).sum(),
        failed,
        checked,
        readings: readings.readings,
        read: readings.messages,
        resumes: readings.resumes,
        calm_p99_ms: before.microseconds(99.0) / 1e3,
        p50_ms: meanwhile.microseconds(50.0) / 1e3,
        p99_ms: meanwhile.microseconds(99.0) / 1e3,
        longest_ms: meanwhile.longest() / 1e3,
        lost: !calm.verification.is_clean() || !loaded.verification.is_clean(),
        troubles,
        cpu_away,
        cpu,
    })
}

async fn start_node(
    options: &Options,
    auth: Auth,
    servers: (SocketAddr, SocketAddr),
) -> Result<Vec<Gateway>> {
    let mut node = Vec::new();
    for _ in 0..processes(options) {
        node.push(start_gateway(options, auth, servers, &SETTINGS).await?);
    }
    Ok(node)
}

fn watched(nodes: &[Gateway], broker: &RabbitMq) -> Vec<(Role, u32)> {
    let gateways = nodes
        .iter()
        .map(|gateway| (Role::Gateway, gateway.process().id()));
    let brokers = broker.pids().into_iter().map(|pid| (Role::Rabbitmq, pid));
    gateways.chain(brokers).collect()
}

fn since(before: &BTreeMap<Role, f64>, after: BTreeMap<Role, f64>) -> BTreeMap<Role, f64> {
    let used = after.into_iter().map(|(role, seconds)| {
        let before = before.get(&role).copied().unwrap_or_default();
        (role, seconds - before)
    });
    used.collect()
}

/// Publishes to those who were away: to each in turn.
struct Sender {
    publisher: Blocking,
    users: std::ops::Range<u32>,
    /// The number of the next round's messages.
    next: u64,
}

impl Sender {
    fn new(options: &Options, amqp: SocketAddr) -> Result<Self> {
        Ok(Self {
            publisher: Blocking::connect(amqp)?,
            users: options.stay..options.stay + options.users,
            next: 0,
        })
    }

    /// A message to each, evenly over this time.
    async fn round(&mut self, pace: Option<Duration>) -> Result<()> {
        let begun = Instant::now();
        let count = f64::from(self.users.end - self.users.start);
        for (number, target) in self.users.clone().enumerate() {
            if let Some(pace) = pace {
                let due = begun + pace.mul_f64(number as f64 / count);
                if due > Instant::now() {
                    sleep_until(due).await;
                }
            } else if number % 100 == 0 {
                tokio::task::yield_now().await;
            }
            let stamp = Stamp {
                run: RUN,
                target,
                sequence: self.next,
                due: clock::now(),
            };
            self.publisher.publish(&user_key(target), stamp, SIZE)?;
        }
        self.next += 1;
        if let Some(pace) = pace {
            sleep_until(begun + pace).await;
        }
        Ok(())
    }
}

/// Counts of gateways.
#[derive(Clone, Copy, Debug, Default)]
struct Readings {
    readings: f64,
    messages: f64,
    resumes: f64,
}

impl Readings {
    async fn of(nodes: &[Gateway]) -> Result<Self> {
        let mut sum = Self::default();
        for node in nodes {
            let (status, text) = node.admin("/metrics").await;
            ensure!(status == 200, "a gateway's metrics answer {status}");
            let of = |name: &str| -> f64 {
                let values = text.lines().filter_map(|line| {
                    let (series, value) = line.rsplit_once(' ')?;
                    let series = series.split('{').next()?;
                    (series == name).then(|| value.parse::<f64>().ok())?
                });
                values.sum()
            };
            sum.readings += of("stentor_journal_readings_total");
            sum.messages += of("stentor_journal_messages_read_total");
            sum.resumes += of("stentor_resumes_total");
        }
        Ok(sum)
    }

    fn since(self, before: &Self) -> Self {
        Self {
            readings: self.readings - before.readings,
            messages: self.messages - before.messages,
            resumes: self.resumes - before.resumes,
        }
    }
}

fn tell(crowds: &mut [Process], turn: &Turn) -> Result<()> {
    let line = serde_json::to_string(turn)?;
    crowds.iter_mut().for_each(|crowd| crowd.write_line(&line));
    Ok(())
}

/// Waits until each crowd says what is expected.
async fn hear<T>(crowds: &[Process], pick: impl Fn(Said) -> Option<T>) -> Result<Vec<T>> {
    let mut all = Vec::new();
    for crowd in crowds {
        all.push(said(crowd, &pick).await?);
    }
    Ok(all)
}

async fn levels(crowds: &mut [Process], deadline: u64) -> Result<Vec<Level>> {
    let pick = |said| match said {
        Said::Level(level) => Some(level),
        _ => None,
    };
    let waiting = timeout(Duration::from_secs(deadline), hear(crowds, pick));
    match waiting.await {
        Ok(levels) => levels,
        Err(_) => {
            crowds.iter_mut().for_each(|crowd| crowd.write_line(""));
            hear(crowds, pick).await
        }
    }
}

async fn checked(crowds: &mut [Process]) -> Result<Checked> {
    let pick = |said| match said {
        Said::Checked(checked) => Some(checked),
        _ => None,
    };
    let each = match timeout(LAST, hear(crowds, pick)).await {
        Ok(each) => each?,
        Err(_) => {
            crowds.iter_mut().for_each(|crowd| crowd.write_line(""));
            hear(crowds, pick).await?
        }
    };
    let mut all = Checked::default();
    for one in each {
        all.behind += one.behind;
        all.lost += one.lost;
        all.doubled += one.doubled;
        all.foreign += one.foreign;
        all.gaps += one.gaps;
    }
    Ok(all)
}
