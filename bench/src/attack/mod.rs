//! Attacks: one user harms others through shared resources, in full size, with others beside. An
//! attack is held if nobody notices.
//!
//! - `list` (pure) has the attacks, their amounts, and the effects that others may notice
//! - `attacker` does them, by `client`, or without a login by `crowding`
//! - `honest` are a worker's clients, whose messages are booked and timed; `visitor` does one of
//!   everything again and again; `watch` looks at the gateway's memory
//! - `verdict` (pure) judges and prints

mod attacker;
mod client;
mod crowding;
mod honest;
mod list;
mod verdict;
mod visitor;
mod watch;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum as _};
use testkit::Gateway;
use tokio::time::sleep;

use self::{
    attacker::{Attackers, Deeds, Targets},
    honest::{Crowd, Honest},
    list::{Attack, Circumstance},
    verdict::{Tried, Verdict, While, table},
    visitor::{Route, Visitor},
    watch::Watch,
};
use crate::{
    limits,
    named::Named as _,
    outcome::{self, Conditions},
    programs::{self, Build},
    progress, runtime,
    servers::{Server, Servers, Setup},
};

/// RabbitMQ's share of the machine's memory, as it is and as it is short of it.
const MEMORY: &[&str] = &["set_vm_memory_high_watermark", "0.7"];
const NO_MEMORY: &[&str] = &["set_vm_memory_high_watermark", "0"];

const POLICY: &[&str] = &[
    "set_policy",
    "full",
    ".*",
    r#"{"overflow":"reject-publish"}"#,
    "--apply-to",
    "queues",
];
const NO_POLICY: &[&str] = &["clear_policy", "full"];

/// The options of `attack`.
#[derive(Args)]
pub(crate) struct Options {
    /// Which attacks [default: all, one after the other]
    #[arg(value_enum)]
    attacks: Vec<Attack>,
    /// Print all attacks with what they do; nothing is attacked
    #[arg(long)]
    list: bool,
    /// A few connections for a second each: a test of the tool. Delays do not count then
    #[arg(long)]
    quick: bool,
    #[command(flatten)]
    gateway: programs::Gateway,
    /// The folder for the results, a JSON file each
    #[arg(long, value_name = "FOLDER", default_value = "results/attacks")]
    out: PathBuf,
    /// How much the gateway may grow until an attack is stopped, and counts as not held
    #[arg(long, value_name = "MIB", default_value_t = 3072)]
    stop_at: u32,
}

impl Options {
    /// Others: so many that each lane and link has some of them.
    const fn crowd(&self) -> Crowd {
        let (subscribers, publishers, rate) = if self.quick {
            (10, 4, 50.0)
        } else {
            (100, 40, 400.0)
        };
        Crowd {
            subscribers,
            publishers,
            rate,
        }
    }

    /// How long is looked before, and after the end.
    const fn whiles(&self) -> [Duration; 2] {
        let seconds = if self.quick { [1, 1] } else { [5, 8] };
        let [before, after] = seconds;
        [Duration::from_secs(before), Duration::from_secs(after)]
    }
}

/// Attacks each build in each way. Returns true if all was held.
///
/// # Errors
/// A program is missing, or others are refused before there is any attack.
pub(crate) fn run(options: &Options) -> Result<bool> {
    if options.list {
        for attack in Attack::value_variants() {
            println!("{:18} {}", attack.name(), attack.what());
        }
        return Ok(true);
    }
    limits::raise_files();
    let builds = options.gateway.builds()?;
    let attacks = match options.attacks.as_slice() {
        [] => Attack::value_variants(),
        some => some,
    };
    let runtime = runtime()?;
    let mut all_held = true;
    for build in &builds {
        let mut all = Vec::new();
        for &attack in attacks {
            let name = build.name.as_deref().unwrap_or("stentor");
            eprintln!("{name}: {}", attack.name());
            let tried = runtime
                .block_on(attacked(attack, build, options))
                .with_context(|| format!("{name}, {}", attack.name()))?;
            for reason in &tried.reasons {
                eprintln!("  {reason}");
            }
            if tried.verdict != Verdict::NotTried {
                save(&tried, options)?;
            }
            all_held &= tried.verdict != Verdict::NotHeld;
            all.push(tried);
        }
        if let Some(name) = &build.name {
            println!("\n{name}");
        }
        println!("{}", table(&all));
    }
    eprintln!("saved in {}", options.out.display());
    Ok(all_held)
}

/// One attack on servers of its own: others without it, with it, and afterwards.
async fn attacked(attack: Attack, build: &Build, options: &Options) -> Result<Tried> {
    let settings = attack
        .settings()
        .iter()
        .map(|&(key, value)| (key.to_owned(), value.to_owned()));
    let mut setup = Setup {
        settings: settings
            .chain(options.gateway.settings.iter().cloned())
            .collect(),
        ..Setup::new(Server::Stentor, build)
    };
    progress::show("starting servers");
    let mut servers = Servers::start(&setup).await?;
    if let Some((version, lines)) = attack.broker() {
        let has = servers.rabbitmq_version().unwrap_or_default();
        if major(&has) < Some(version) {
            let why = format!("it needs RabbitMQ {version}, and this is {has}");
            return Ok(Tried::not(attack, build.name.clone(), options.quick, why));
        }
        drop(servers);
        setup.broker = lines;
        servers = Servers::start(&setup).await?;
    }
    let gateway = servers.gateway().context("no gateway")?;
    let address = gateway.stomp_address().parse()?;
    let targets = Targets {
        stomp: address,
        http: gateway.origin().trim_start_matches("http://").parse()?,
        admin: gateway.admin_url().trim_start_matches("http://").parse()?,
    };
    let (amount, circumstance) = (attack.amount(options.quick), attack.circumstance());
    let [before, settle] = options.whiles();

    progress::show("others come");
    let mut honest = Honest::come(&servers, options.crowd()).await?;
    let visitor = Visitor::start(Route {
        stomp: address,
        admin: targets.admin,
        only_listens: circumstance == Circumstance::NoMemory,
    })?;
    let by_stomp = servers.publish(true);
    honest.begin(Some(by_stomp)).await;
    sleep(before).await;
    let without = noticed(&mut honest, &visitor).await;

    progress::show("attacking");
    let watch = Watch::start(gateway.process().id(), options.stop_at)?;
    let (publish, begin, end) = match circumstance {
        Circumstance::Usual => (Some(by_stomp), None, None),
        Circumstance::NoMemory => (None, Some(NO_MEMORY), Some(MEMORY)),
        Circumstance::Policy => (Some(servers.publish(false)), Some(POLICY), Some(NO_POLICY)),
    };
    ctl(&servers, begin).await;
    honest.begin(publish).await;
    let deeds = match attack {
        Attack::FullQueues => stand_still(gateway, amount.seconds).await,
        _ => {
            let attackers = Attackers::new(targets, amount);
            attackers.attack(attack, watch.too_much()).await
        }
    };
    let ended = tokio::time::Instant::now();
    ctl(&servers, end).await;
    let during = noticed(&mut honest, &visitor).await;

    progress::show("looking at what is left");
    honest.begin(Some(by_stomp)).await;
    tokio::time::sleep_until(ended + settle).await;
    let memory = watch.grown();
    let after = noticed(&mut honest, &visitor).await;
    progress::show("");
    let conditions = Conditions::now(&build.program, servers.rabbitmq_version(), None);
    let tried = Tried {
        deeds,
        without,
        during,
        after,
        memory,
        conditions,
        ..Tried::not(attack, build.name.clone(), options.quick, String::new())
    };
    Ok(tried.judged())
}

async fn noticed(honest: &mut Honest, visitor: &Visitor) -> While {
    While {
        crowd: honest.end().await,
        visits: visitor.take(),
    }
}

async fn ctl(servers: &Servers, arguments: Option<&[&str]>) {
    if let (Some(rabbitmq), Some(arguments)) = (servers.rabbitmq(), arguments) {
        rabbitmq.ctl(arguments).await;
    }
}

/// The gateway does nothing for so long, and its queues fill.
async fn stand_still(gateway: &Gateway, seconds: f64) -> Deeds {
    gateway.process().signal("STOP");
    sleep(Duration::from_secs_f64(seconds)).await;
    gateway.process().signal("CONT");
    Deeds {
        seconds,
        frames: 1,
        ..Deeds::default()
    }
}

/// The first number of `RabbitMQ 3.10.8 on Erlang 25`.
fn major(version: &str) -> Option<u32> {
    let digits = version.trim_start_matches(|letter: char| !letter.is_ascii_digit());
    digits.split('.').next()?.parse().ok()
}

fn save(tried: &Tried, options: &Options) -> Result<()> {
    let build = tried.build.as_deref().unwrap_or("stentor");
    let stem = format!("{}-{build}", tried.attack.name());
    outcome::save(&options.out, &stem, &tried.conditions, tried).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_found() {
        assert_eq!(major("RabbitMQ 3.10.8 on Erlang 25"), Some(3));
        assert_eq!(major("RabbitMQ 4.3.6 on Erlang 27"), Some(4));
        assert_eq!(major(""), None);
    }
}
