//! `stentor-bench`: loads STOMP servers over WebSocket, checks every message, and measures.
//!
//! - `scenario` (pure) turns options into orders, `run` carries out one run of them: it starts
//!   `servers`, and the workers of `clients`, which are this program again
//! - `worker` is their inside: thousands of clients on one thread, publishers, and the checks of
//!   `verify`; `wire` has the formats
//! - `comeback` ends a node, and has its users come back on another
//! - `million` holds very many connections on many gateways of one machine
//! - `attack` has the attacks of one user on others, and tells if they notice
//! - `usage` looks at the processes, `metrics` lists all measures
//! - `growth` compares numbers of nodes
//! - `outcome` keeps the results of a run, as JSON; `summary`, `report` and `plot` show them, and
//!   `targets` compares them with the goals; `micro` reads micro-benchmarks

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "figures for people; sizes of frames are far below their bounds"
)]

mod attack;
mod beside;
mod cli;
mod clients;
mod comeback;
mod floor;
mod growth;
mod hook;
mod latency;
mod limits;
mod metrics;
mod micro;
mod million;
mod named;
mod orders;
mod outcome;
mod plot;
mod programs;
mod progress;
mod report;
mod run;
mod scenario;
mod servers;
mod summary;
mod targets;
mod usage;
mod verify;
mod wire;
mod worker;
mod workers;

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser as _;

use crate::{
    cli::{Arguments, Command, Measure},
    outcome::{Outcome, Subject},
    programs::Build,
    report::Results,
    scenario::Scenario,
    servers::Server,
};

fn main() -> ExitCode {
    // The fixtures that start servers panic when they cannot; their message says why, and whoever
    // measures has no use for a place in their source.
    std::panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("a bug");
        eprintln!("\nstentor-bench: {message}");
    }));
    match obey(Arguments::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("\nstentor-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Returns true if all was as it should be: every message, every attack.
fn obey(command: Command) -> Result<bool> {
    match command {
        Command::Run {
            scenarios,
            servers,
            measure,
        } => measure_all(&scenarios, &servers, &measure),
        Command::Compare { scenarios, measure } => {
            let servers = [Server::WebStomp, Server::Stentor];
            measure_all(&scenarios, &servers, &measure)
        }
        Command::Million(options) => million::run(&options),
        Command::Attack(options) => attack::run(&options),
        Command::Comeback(options) => comeback::run(&options),
        Command::Report { results, document } => {
            let results = Results::load(&results)?;
            match document {
                Some(document) => report::write(&results, &document)?,
                None => print!("{}", report::markdown(&results, None)),
            }
            Ok(true)
        }
        Command::Plot { results, folder } => {
            let mut written = plot::write(&Outcome::load_all(&results)?, &folder)?;
            if let Some(held) = million::largest(&results)? {
                written.push(million::plot(&held, &folder)?);
            }
            anyhow::ensure!(
                !written.is_empty(),
                "there are no runs of idle, unicast, broadcast or million in {}",
                results.display()
            );
            for path in written {
                println!("{}", path.display());
            }
            Ok(true)
        }
        Command::Worker => worker::run().map(|()| true),
        Command::Hook => runtime()?.block_on(hook::run()).map(|()| true),
        Command::ComebackCrowd => runtime()?.block_on(comeback::crowd()).map(|()| true),
        Command::ComebackAway => runtime()?.block_on(comeback::away()).map(|()| true),
        Command::ComebackHook(service) => {
            runtime()?.block_on(comeback::hook(service)).map(|()| true)
        }
    }
}

/// Runs all, one server after the other in turns, so that what changes on the machine meanwhile
/// meets each of them.
fn measure_all(scenarios: &[Scenario], servers: &[Server], measure: &Measure) -> Result<bool> {
    limits::raise_files();
    let builds = measure.gateway.builds()?;
    // Others than Stentor are the same beside each build.
    let subjects: Vec<(Server, &Build)> = servers
        .iter()
        .flat_map(|&server| {
            let builds = &builds[..if server.is_gateway() { builds.len() } else { 1 }];
            builds.iter().map(move |build| (server, build))
        })
        .collect();
    let runtime = runtime()?;
    let mut all_right = true;
    let mut all = Vec::new();
    for &scenario in scenarios {
        let options = &measure.options;
        let sizes = options.sizes(scenario).into_iter();
        let sizes = sizes.flat_map(|count| measure.nodes.iter().map(move |&nodes| (count, nodes)));
        for (connections, nodes) in sizes {
            let mut outcomes = Vec::new();
            let case = options.plan(scenario, connections).case;
            for number in 1..=measure.runs {
                for &(server, build) in &subjects {
                    let setup = measure.setup(server, build, nodes);
                    let case = case.clone() + &setup.note();
                    let subject = Subject {
                        server,
                        build: setup.build.as_deref(),
                    };
                    let about = format!("{case}, {}", subject.name());
                    if measure.resume
                        && Outcome::count(&measure.out, subject, &case)? >= number as usize
                    {
                        eprintln!("{about}, run {number} is there");
                        continue;
                    }
                    eprintln!("{about}, run {number} of {}", measure.runs);
                    let run = run::run(
                        scenario,
                        connections,
                        options,
                        &setup,
                        measure.beside.as_deref(),
                    );
                    let outcome = runtime.block_on(run).context(about)?;
                    outcome.save(&measure.out)?;
                    all_right &= outcome.verification.is_clean();
                    outcomes.push(outcome);
                }
            }
            for ((_, _, case), servers) in &summary::cases(&outcomes) {
                println!("{}", summary::table(case, servers));
            }
            all.extend(outcomes);
        }
    }
    if let Some(table) = growth::markdown(&all) {
        println!("{table}");
    }
    eprintln!("saved in {}", measure.out.display());
    Ok(all_right)
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.context("the runtime")
}
