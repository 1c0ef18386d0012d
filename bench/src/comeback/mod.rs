//! The end of a node, and how long it takes until all of its users are back on others.
//!
//! A node is as many processes as its users need files for, and so is the other one. `crowd` has the
//! users who come back; those who stay are ordinary workers, to whom messages go meanwhile. The
//! processes of the first node are killed (SIGKILL), and the tool waits until each of its users is
//! logged in elsewhere, with the receipts of both subscriptions.
//!
//! `resume` is about users who were away for a while, and what they missed: `away` has them.

mod away;
mod crowd;
mod hook;
mod resume;
mod tokens;

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, ValueEnum};
use serde::{Serialize, de::DeserializeOwned};
use testkit::{Gateway, Process, RabbitMq, eventually};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

pub(crate) use self::{away::run as away, crowd::run as crowd, hook::Service, hook::run as hook};
use self::{
    crowd::{Level, Part, Said},
    hook::{Asked, COUNTS},
};
use crate::{
    hook::LISTENING,
    latency::Latencies,
    limits,
    named::Named as _,
    orders::{Connect, Habits, Load, Loaded, Order, Pace, Publish, Report},
    programs::{self, this_program},
    progress,
    servers::Role,
    usage,
    worker::{clock, declare_exchange},
    workers::Worker,
};

/// Users of a process, of a node or of a crowd: it may have 20,000 files.
const PER_PROCESS: u32 = 13_000;

/// Those who come back are connected by then, or the tool gives up.
const DEADLINE: Duration = Duration::from_secs(15 * 60);

/// The messages before the node's end, for comparison.
const CALM: Duration = Duration::from_secs(5);

/// How users log in, and who is asked for their rights.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Auth {
    /// By tokens; nobody is asked
    Jwt,
    /// The hook is asked, each question by a call
    Hook,
    /// The hook is asked many questions in a call
    HookBatch,
}

/// The options.
#[derive(Args)]
pub(crate) struct Options {
    /// Users of the node that ends
    #[arg(short = 'n', long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..))]
    users: u32,
    /// Users of the other node, who stay and get messages
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    stay: u32,
    /// Messages a second to those who stay
    #[arg(long, value_name = "N", default_value_t = 500.0)]
    rate: f64,
    /// How long to wait for all to be back; the row then counts those who are missing
    #[arg(long, value_name = "S", default_value_t = 600)]
    deadline: u64,
    /// How users log in; several are measured one after the other
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["jwt", "hook", "hook-batch"])]
    auth: Vec<Auth>,
    #[command(flatten)]
    service: Service,
    /// No node ends: the users go away, and come back for what they missed, from a journal; several
    /// ways are measured one after the other, with the first of --auth
    #[arg(long, value_enum, value_delimiter = ',', value_name = "WHERE")]
    resume: Vec<resume::Back>,
    #[command(flatten)]
    absence: resume::Absence,
    /// The folder for the results, a JSON file each
    #[arg(long, value_name = "FOLDER", default_value = "results/comeback")]
    out: PathBuf,
    #[command(flatten)]
    gateway: programs::Gateway,
}

/// What was measured.
#[derive(Serialize)]
struct Outcome {
    auth: String,
    users: u32,
    service: Service,
    /// Those who were not back when the time was up.
    missing: u32,
    /// From the node's end until the last one was back.
    seconds: f64,
    /// From each one's loss until it was back.
    took_p50: f64,
    took_p99: f64,
    tries: u64,
    failed: BTreeMap<String, u64>,
    asked: Asked,
    /// Messages to those who stay, in milliseconds: before, and meanwhile.
    calm_p99_ms: f64,
    p50_ms: f64,
    p99_ms: f64,
    longest_ms: f64,
    lost: bool,
    troubles: Vec<String>,
    /// Processor time until all were back, in seconds.
    cpu: BTreeMap<Role, f64>,
}

/// Measures each way to log in; true if all users came back and no message was lost.
///
/// # Errors
/// A program is missing, files are too few, or a process ended.
pub(crate) fn run(options: &Options) -> Result<bool> {
    limits::raise_files();
    // All of one process may come back to one other.
    let files = options.users.min(PER_PROCESS).max(options.stay) + 2_000;
    ensure!(
        limits::files() >= files,
        "a process may have {} files (ulimit -Hn): allow {files}",
        limits::files()
    );
    fs::create_dir_all(&options.out)?;
    if !options.resume.is_empty() {
        return resume::run(options);
    }
    let mut all_right = true;
    println!("{HEAD}");
    for &auth in &options.auth {
        let mut outcome = crate::runtime()?.block_on(measure(options, auth))?;
        for (key, value) in &options.gateway.settings {
            outcome.auth.push_str(&format!(" {key}={value}"));
        }
        progress::show("");
        println!("{}", row(&outcome));
        for trouble in &outcome.troubles {
            eprintln!("{trouble}");
        }
        let name = format!(
            "{} {} {}.json",
            outcome.auth,
            outcome.users,
            takes(options.service)
        );
        fs::write(options.out.join(name), serde_json::to_vec_pretty(&outcome)?)?;
        all_right &= !outcome.lost && outcome.troubles.is_empty() && outcome.missing == 0;
    }
    Ok(all_right)
}

fn takes(service: Service) -> String {
    let each = if service.hook_each { " a question" } else { "" };
    format!("{}ms{each}", service.hook_ms)
}

const HEAD: &str = "\
| Login | Hook takes | All back after | p50, p99 of a user | Tries (failed) | Calls of the hook (questions) | Others' p99 before, meanwhile (longest) | CPU s: gateways, hook, RabbitMQ |
|---|---|---|---|---|---|---|---|";

fn row(outcome: &Outcome) -> String {
    let cpu = |role| outcome.cpu.get(&role).copied().unwrap_or_default();
    let questions: u64 = outcome.asked.questions.values().sum();
    let failed = listed(&outcome.failed);
    let back = match outcome.missing {
        0 => format!("{:.1} s", outcome.seconds),
        missing => format!("{missing} are not"),
    };
    format!(
        "| {} | {} | {back} | {:.1} s, {:.1} s | {} ({failed}) | {} ({questions}) | \
         {:.1} ms, {:.1} ms ({:.0} ms) | {:.1}, {:.1}, {:.1} |",
        outcome.auth,
        takes(outcome.service),
        outcome.took_p50,
        outcome.took_p99,
        outcome.tries,
        outcome.asked.calls,
        outcome.calm_p99_ms,
        outcome.p99_ms,
        outcome.longest_ms,
        cpu(Role::Gateway),
        cpu(Role::Hook),
        cpu(Role::Rabbitmq),
    )
}

/// Why tries failed, and how often.
fn listed(failed: &BTreeMap<String, u64>) -> String {
    let failed: Vec<String> = failed
        .iter()
        .map(|(why, count)| format!("{count} {why}"))
        .collect();
    match &*failed.join(", ") {
        "" => "none".to_owned(),
        failed => failed.to_owned(),
    }
}

async fn measure(options: &Options, auth: Auth) -> Result<Outcome> {
    progress::show("starting servers");
    let (hook, at_hook) = start_hook(options.service).await?;
    let broker = RabbitMq::own_bare(&[], "log.connection.level = warning\n").await;
    let amqp: SocketAddr = broker.amqp_address().parse()?;
    declare_exchange(amqp).context("declaring the exchange")?;
    let (mut ends, mut stays) = (Vec::new(), Vec::new());
    for _ in 0..processes(options) {
        ends.push(start_gateway(options, auth, (amqp, at_hook), &[]).await?);
        stays.push(start_gateway(options, auth, (amqp, at_hook), &[]).await?);
    }
    let homes = addresses(&ends)?;
    let others = addresses(&stays)?;

    progress::show("connecting those who stay");
    let mut staying = connect_staying(options, &others).await?;

    progress::show("connecting those who come back");
    let mut crowds = Vec::new();
    for part in parts(options, auth, (&homes, &others))? {
        crowds.push(start_crowd("comeback-crowd", &part)?);
    }
    for crowd in &crowds {
        said(crowd, |said| matches!(said, Said::Connected).then_some(())).await?;
    }

    progress::show("messages before the end");
    let calm = load(options, DEADLINE);
    staying
        .order(&Order::Load(calm, Publish::Amqp(amqp)))
        .await?;
    let calm = measured(&mut staying, async || {
        tokio::time::sleep(CALM).await;
        Ok(())
    });
    let (calm, ()) = calm.await?;

    progress::show("a node ends");
    let mut watched: Vec<(Role, u32)> = stays
        .iter()
        .map(|gateway| (Role::Gateway, gateway.process().id()))
        .collect();
    watched.push((Role::Hook, hook.id()));
    watched.extend(broker.pids().into_iter().map(|pid| (Role::Rabbitmq, pid)));
    let storm = load(options, Duration::from_secs(options.deadline) + DEADLINE);
    staying
        .order(&Order::Load(storm, Publish::Amqp(amqp)))
        .await?;
    let (loaded, (killed, levels, asked, cpu)) = measured(&mut staying, async || {
        let before = (asked(at_hook).await?, cpu(&watched)?);
        let killed = clock::now();
        for gateway in &ends {
            gateway.process().signal("KILL");
        }
        let level = |said| match said {
            Said::Level(level) => Some(level),
            Said::Connected => None,
        };
        let all_level = async {
            for crowd in &crowds {
                said(crowd, level).await?;
            }
            anyhow::Ok(())
        };
        match tokio::time::timeout(Duration::from_secs(options.deadline), all_level).await {
            Ok(done) => done?,
            Err(_) => crowds.iter_mut().for_each(|crowd| crowd.write_line("")),
        }
        let mut levels = Vec::new();
        for crowd in &crowds {
            levels.push(said(crowd, level).await?);
        }
        let after = (asked(at_hook).await?, cpu(&watched)?);
        let used = after.1.iter().map(|(role, seconds)| {
            let before = before.1.get(role).copied().unwrap_or_default();
            (*role, seconds - before)
        });
        Ok((killed, levels, since(&before.0, after.0), used.collect()))
    })
    .await?;
    outcome(
        options,
        auth,
        (&calm, &loaded),
        (killed, &levels),
        asked,
        cpu,
    )
}

fn outcome(
    options: &Options,
    auth: Auth,
    (calm, loaded): (&Loaded, &Loaded),
    (killed, levels): (u64, &[Level]),
    asked: Asked,
    cpu: BTreeMap<Role, f64>,
) -> Result<Outcome> {
    let mut took = Latencies::new()?;
    let mut failed = BTreeMap::new();
    for level in levels {
        took.add(&level.took);
        for (why, count) in &level.failed {
            *failed.entry(why.clone()).or_default() += count;
        }
    }
    let last = levels.iter().map(|level| level.at).max().unwrap_or(killed);
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
    Ok(Outcome {
        auth: auth.name(),
        users: options.users,
        service: options.service,
        missing: levels.iter().map(|level| level.missing).sum(),
        seconds: last.saturating_sub(killed) as f64 / clock::SECOND as f64,
        took_p50: seconds(took.microseconds(50.0)),
        took_p99: seconds(took.microseconds(99.0)),
        tries: levels.iter().map(|level| level.tries).sum(),
        failed,
        asked,
        calm_p99_ms: before.microseconds(99.0) / 1e3,
        p50_ms: meanwhile.microseconds(50.0) / 1e3,
        p99_ms: meanwhile.microseconds(99.0) / 1e3,
        longest_ms: meanwhile.longest() / 1e3,
        lost: !loaded.verification.is_clean(),
        troubles: loaded.troubles.clone(),
        cpu,
    })
}

/// Messages to those who stay, for so long at most.
fn load(options: &Options, longest: Duration) -> Load {
    Load {
        unicast: Some(Pace::Open(options.rate)),
        publishers: 1,
        broadcast: None,
        churn: None,
        size: 256,
        warm_up_ms: 500,
        measure_ms: u64::try_from(longest.as_millis()).unwrap_or(u64::MAX),
        rounds: None,
    }
}

/// What happens while messages are measured; if it takes shorter than the load, that ends with it.
async fn measured<T>(
    staying: &mut Worker,
    meanwhile: impl AsyncFnOnce() -> Result<T>,
) -> Result<(Loaded, T)> {
    match staying.report().await? {
        Report::Measuring => {}
        other => bail!("a worker begins, and says {other:?}"),
    }
    let happened = meanwhile().await?;
    staying.order(&Order::Enough).await?;
    loop {
        match staying.report().await? {
            Report::Measured => {}
            Report::Loaded(loaded) => return Ok((*loaded, happened)),
            other => bail!("a worker measures, and says {other:?}"),
        }
    }
}

/// Those who stay: the first users, on the first of these.
async fn connect_staying(options: &Options, servers: &[SocketAddr]) -> Result<Worker> {
    let mut staying = Worker::start()?;
    let connect = Connect {
        server: *servers.first().context("no gateway")?,
        authority: None,
        first: 0,
        count: options.stay,
        at_once: 50,
        again: false,
        habits: Habits {
            own_key: true,
            heart_beat_ms: 10_000,
            ..Habits::default()
        },
    };
    staying.connect(connect, |_| ()).await?;
    Ok(staying)
}

/// Processes of a node, and of the crowd.
fn processes(options: &Options) -> u32 {
    options.users.div_ceil(PER_PROCESS)
}

/// The parts of the crowd's processes, which come from `homes` to `others`.
fn parts(
    options: &Options,
    auth: Auth,
    (homes, others): (&[SocketAddr], &[SocketAddr]),
) -> Result<Vec<Part>> {
    let processes = processes(options);
    let (each, rest) = (options.users / processes, options.users % processes);
    let part = |number| {
        anyhow::Ok(Part {
            // The first one has the rest.
            first: options.stay + number * each + if number > 0 { rest } else { 0 },
            count: each + if number == 0 { rest } else { 0 },
            net: u8::try_from(100 + number)?,
            homes: homes.to_vec(),
            others: others.to_vec(),
            tokens: auth == Auth::Jwt,
            at_once: 32,
        })
    };
    (0..processes).map(part).collect()
}

async fn start_gateway(
    options: &Options,
    auth: Auth,
    (amqp, hook): (SocketAddr, SocketAddr),
    own: &[(&str, &str)],
) -> Result<Gateway> {
    let builds = options.gateway.builds()?;
    let program = &builds.first().context("no gateway's program")?.program;
    ensure!(
        program.is_file(),
        "there is no {}: build it (cargo build --release --workspace --bins), or name it by \
         --stentor",
        program.display()
    );
    let program = program.to_str().context("the gateway's path is no UTF-8")?;
    let mut builder = Gateway::builder(program)
        .set("broker.url", format!("amqp://guest:guest@{amqp}"))
        .set("broker.exchanges", "feed=direct")
        .set("log.level", "info,stentor::connection=warn")
        .set("auth.hook", format!("http://{hook}/auth"));
    match auth {
        Auth::Hook => {}
        Auth::HookBatch => {
            builder = builder.set("auth.batch_path", format!("http://{hook}/auth/batch"));
        }
        // Those who stay have no tokens, and are the hook's.
        Auth::Jwt => {
            let subscribe = "/exchange/feed/user_{sub},/exchange/feed/*";
            builder = builder
                .set("auth.jwt.secret", tokens::SECRET)
                .set("auth.jwt.any_audience", true)
                .set("auth.jwt.subscribe", subscribe);
        }
    }
    for (key, value) in own {
        builder = builder.set(key, value);
    }
    for (key, value) in &options.gateway.settings {
        builder = builder.set(key, value);
    }
    Ok(builder.ready().await)
}

fn addresses(gateways: &[Gateway]) -> Result<Vec<SocketAddr>> {
    let http = gateways
        .iter()
        .map(|gateway| gateway.addresses().http.as_deref());
    http.map(|address| Ok(address.context("a gateway without HTTP")?.parse()?))
        .collect()
}

/// This program again, as a process of its own.
async fn start_hook(service: Service) -> Result<(Process, SocketAddr)> {
    let mut command = Command::new(this_program()?);
    command.args(["comeback-hook", "--hook-ms", &service.hook_ms.to_string()]);
    if service.hook_each {
        command.arg("--hook-each");
    }
    let process = Process::start("hook", &mut command, Stdio::piped()).context("the hook")?;
    let deadline = Duration::from_secs(30);
    let address = eventually(deadline, "the hook listens", async || {
        process
            .stdout()
            .find(|line| line.strip_prefix(LISTENING)?.parse().ok())
    })
    .await;
    Ok((process, address))
}

fn start_crowd(name: &str, part: &Part) -> Result<Process> {
    let mut command = Command::new(this_program()?);
    command.arg(name);
    let mut process = Process::start("crowd", &mut command, Stdio::piped()).context("a crowd")?;
    process.write_line(&serde_json::to_string(part)?);
    Ok(process)
}

/// Waits until a crowd says what is expected.
///
/// # Errors
/// It ended, or is late.
async fn said<S: DeserializeOwned, T>(crowd: &Process, pick: impl Fn(S) -> Option<T>) -> Result<T> {
    let saying = async {
        loop {
            let said = crowd
                .stdout()
                .find(|line| pick(serde_json::from_str(line).ok()?));
            if let Some(said) = said {
                return Ok(said);
            }
            if let Some(status) = crowd.exit_status() {
                bail!("a crowd ended ({status})\n{}", crowd.output());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let said = tokio::time::timeout(DEADLINE, saying).await;
    said.with_context(|| format!("not all are back\n{}", crowd.output()))?
}

/// What the hook was asked so far.
async fn asked(hook: SocketAddr) -> Result<Asked> {
    let mut stream = TcpStream::connect(hook).await?;
    let request = format!("GET {COUNTS} HTTP/1.1\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    loop {
        ensure!(stream.read_buf(&mut answer).await? > 0, "the hook closed");
        let text = String::from_utf8_lossy(&answer);
        if let Some((_, body)) = text.split_once("\r\n\r\n")
            && let Ok(asked) = serde_json::from_str(body)
        {
            return Ok(asked);
        }
    }
}

fn since(before: &Asked, mut after: Asked) -> Asked {
    after.calls -= before.calls;
    for (call, count) in &mut after.questions {
        *count -= before.questions.get(call).copied().unwrap_or_default();
    }
    after
}

/// Processor time of processes since their starts, by role.
fn cpu(processes: &[(Role, u32)]) -> Result<BTreeMap<Role, f64>> {
    let mut all = BTreeMap::new();
    for &(role, pid) in processes {
        *all.entry(role).or_default() += usage::cpu_of(pid)?;
    }
    Ok(all)
}
