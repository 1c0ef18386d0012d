//! Very many connections on this machine, both ends: one RabbitMQ, one hook, and as many gateways
//! and client processes as the limit of open files asks for.
//!
//! - `plan` (pure) counts the parts, and says what of the system is too little
//! - `watch` looks at memory, and stops the run before the system does
//! - `phases` connects, holds, publishes, and kills a gateway; `crowd` are the client processes
//! - `held` (pure) keeps the results and compares them with the goals; `chart` draws, `bar` shows
//!   progress

mod bar;
mod chart;
mod crowd;
mod held;
mod phases;
mod plan;
mod watch;

pub(crate) use held::Held;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;

use self::plan::Plan;
use crate::{
    limits::{self, System},
    outcome, programs, runtime,
    servers::{Server, Setup},
};

/// The options of `million`.
#[derive(Args)]
#[command(after_help = HELP)]
pub(crate) struct Options {
    /// Connections, each with a user of its own
    #[arg(long, short = 'n', value_name = "N", default_value_t = 1_000_000,
          value_parser = clap::value_parser!(u32).range(2..))]
    connections: u32,
    /// How long they are held before messages are sent
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = humantime::parse_duration)]
    hold: Duration,
    /// Gateways [default: as few as the limit of open files asks for, two at least]
    #[arg(long, value_name = "N")]
    nodes: Option<u32>,
    /// Connections that are opened at once, by all clients together
    #[arg(long, value_name = "N", default_value_t = 200,
          value_parser = clap::value_parser!(u32).range(1..))]
    at_once: u32,
    /// Those that come back at once after their gateway was killed
    #[arg(long, value_name = "N", default_value_t = 500,
          value_parser = clap::value_parser!(u32).range(1..))]
    back_at_once: u32,
    /// Single messages that are always on their way, of all clients together
    #[arg(long, value_name = "N", default_value_t = 1000,
          value_parser = clap::value_parser!(u32).range(1..))]
    outstanding: u32,
    /// Heart-beats both ways
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 60_000)]
    heart_beat: u32,
    /// Durable feeds, as is the default of the gateway; here they are transient
    #[arg(long)]
    durable: bool,
    /// Threads of each gateway
    #[arg(long, value_name = "N", default_value_t = 1)]
    threads: usize,
    /// Begins even if the system's limits look too small
    #[arg(long)]
    anyway: bool,
    #[command(flatten)]
    gateway: programs::Gateway,
    /// The folder in whose part `million` the result (JSON) and the chart (SVG) are saved
    #[arg(long, value_name = "FOLDER", default_value = "results")]
    out: PathBuf,
}

const HELP: &str = "\
The course:
  connect    every user logs in and subscribes to a key of its own and to everybody's
  hold       they stay, with heart-beats; memory and processor time of each part. Users whose
             connection is lost come back, and are counted
  singles    a message to each user, through RabbitMQ
  everybody  one message to all; the time until the last has it
  killed     a gateway is killed (SIGKILL); the time until its users are back on the others; then
             a message to each of them
Each message is checked: lost, twice, to the wrong one. The exit code is 1 if one was not right.

  stentor-bench million -n 5000                  a first look, a minute
  stentor-bench million -n 100000 --hold 2m      some 2 GiB
  ulimit -n 20000; stentor-bench million --hold 90m
                                                 53 gateways; some 14 GiB, and two hours

Limits of the system: `ulimit -Hn` decides the number of gateways, for each may have so many files.
Client sockets spread over addresses of 127.0.0.0/8, 5,000 ports each. fs.file-max,
fs.epoll.max_user_watches, net.core.somaxconn, ports and memory are checked before anything begins;
memory and nf_conntrack are watched, and the run ends before the system kills something. However it
ends, also by Ctrl-C, all its processes end with it.";

/// The folder of results, in that of all results.
const FOLDER: &str = "million";

/// The chart's name in a document's folder.
const CHART: &str = "performance-million.svg";

/// The largest run that was saved among these results, the latest of several; `None` without one.
///
/// # Errors
/// A file there is no result.
pub(crate) fn largest(results: &Path) -> Result<Option<Held>> {
    let folder = results.join(FOLDER);
    if !folder.exists() {
        return Ok(None);
    }
    let mut all = Vec::new();
    for entry in fs::read_dir(&folder)? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            let text = fs::read_to_string(&path)?;
            let held: Held = serde_json::from_str(&text)
                .with_context(|| format!("{} is no result", path.display()))?;
            all.push(held);
        }
    }
    all.sort_by_key(|held| (held.connections, held.conditions.date.clone()));
    Ok(all.pop())
}

/// A run's table; and its chart's name, if that is in a folder.
pub(crate) fn markdown(held: &Held, charts: Option<&Path>) -> String {
    let chart = match charts.is_some_and(|folder| folder.join(CHART).exists()) {
        true => format!("![Memory and connections against time]({CHART})\n\n"),
        false => String::new(),
    };
    chart + &held.markdown()
}

/// Draws a run into a folder, and answers the path.
///
/// # Errors
/// The folder cannot be written to.
pub(crate) fn plot(held: &Held, folder: &Path) -> Result<PathBuf> {
    let path = folder.join(CHART);
    fs::write(&path, chart::draw(held)?).with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}

/// Does it all. Returns true if every message was right.
///
/// # Errors
/// The system's limits are too small, a program is missing, or connections fail.
pub(crate) fn run(options: &Options) -> Result<bool> {
    limits::raise_files();
    let system = System::now();
    let plan = Plan::new(options.connections, options.nodes, system.files);
    let plan = plan.map_err(anyhow::Error::msg)?;
    let obstacles = plan.obstacles(&system);
    for obstacle in &obstacles {
        eprintln!("too little: {obstacle}");
    }
    ensure!(
        obstacles.is_empty() || options.anyway,
        "the system allows no {} connections; see above. --anyway tries all the same",
        options.connections
    );
    let builds = options.gateway.builds()?;
    let [build] = builds.as_slice() else {
        anyhow::bail!("one build at a time: give one --gateway");
    };
    // A heart-beat of a minute is one: without pings that come sooner.
    let pings = format!("{}ms", options.heart_beat);
    let mut settings = vec![("stomp.ping_interval".to_owned(), pings)];
    settings.extend_from_slice(&options.gateway.settings);
    let setup = Setup {
        nodes: plan.gateways as usize,
        durable: options.durable,
        threads: Some(options.threads),
        settings,
        ..Setup::new(Server::Stentor, build)
    };
    eprintln!(
        "{} connections, {} gateways, some {} MiB in all",
        bar::thousands(plan.connections.into()),
        plan.gateways,
        plan.memory_mib()
    );
    let held: Held = runtime()?.block_on(phases::all(options, plan, &setup))?;
    let path = outcome::save(
        &options.out.join(FOLDER),
        &format!("million-{}", options.connections),
        &held.conditions,
        &held,
    )?;
    let picture = path.with_extension("svg");
    fs::write(&picture, chart::draw(&held)?)
        .with_context(|| format!("writing {}", picture.display()))?;
    println!("{}", held.markdown());
    eprintln!("saved as {} and {}", path.display(), picture.display());
    Ok(held.is_clean())
}
