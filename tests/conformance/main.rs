//! The behaviour of a server as STOMP clients see it, case by case, at RabbitMQ's plug-ins and at
//! Stentor.
//!
//! A case is a script of frames from clients (and, if it matters, AMQP backends); it does not know
//! its server. The answers are its transcript. Each case runs in five columns
//! ([`server::Column`]), and its transcripts must be those of `transcripts/`. If the plug-in's and
//! Stentor's differ, the case names the rows of `docs/differences.md` that explain it; every row of
//! that page needs a case. So neither server can change unseen, and no difference is unexplained.
//!
//! ```text
//! cargo test --test conformance                         all
//! cargo test --test conformance -- transaction          cases whose names contain this
//! cargo test --test conformance -- --table              prints the table; runs nothing
//! cargo test --test conformance -- --bless transaction  writes the present answers to transcripts/
//! cargo test --test conformance -- --random 10000 23    random conversations, from a seed
//! ```
//!
//! After `--bless`, read the `git diff`: it is then the truth for every later run.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests panic when something is not as they say"
)]

mod amqp;
mod case;
mod cases;
mod client;
mod differences;
mod random;
mod release;
mod scene;
mod server;
mod table;
mod transcript;

use std::{collections::BTreeSet, process::ExitCode, sync::Arc};

use libtest_mimic::{Arguments, Failed, Trial};

use case::Case;

/// Cases that run at the same time: most of their time they wait.
const AT_ONCE: usize = 16;

/// Options whose value is the next argument.
const WITH_VALUE: [&str; 5] = [
    "--test-threads",
    "--skip",
    "--format",
    "--color",
    "--logfile",
];

fn main() -> ExitCode {
    let (mut bless, mut table, mut filters) = (false, false, Vec::new());
    let mut arguments = vec![String::new()];
    let mut given = std::env::args().skip(1);
    while let Some(argument) = given.next() {
        match argument.as_str() {
            "--bless" => bless = true,
            "--table" => table = true,
            "--random" => {
                let numbers: Vec<u64> = given.filter_map(|number| number.parse().ok()).collect();
                let count = numbers.first().copied().unwrap_or(1_000);
                let is_explained = random::run(count, numbers.get(1).copied().unwrap_or(1));
                server::stop();
                return if is_explained {
                    ExitCode::SUCCESS
                } else {
                    ExitCode::FAILURE
                };
            }
            // A filter without it means the same.
            "--only" => {}
            option if option.starts_with('-') => {
                let value = WITH_VALUE.contains(&option).then(|| given.next()).flatten();
                arguments.push(argument);
                arguments.extend(value);
            }
            _ => filters.push(argument),
        }
    }
    let mut arguments = Arguments::from_iter(arguments);
    arguments.test_threads.get_or_insert(AT_ONCE);

    let cases: Arc<[Case]> = cases::all().into();
    if table {
        print!("{}", table::render(&cases));
        return ExitCode::SUCCESS;
    }
    let is_asked_for = |name: &str| {
        let is_exact = arguments.exact;
        let mut filters = filters.iter();
        filters.len() == 0
            || filters.any(|filter| match is_exact {
                true => filter == name,
                false => name.contains(filter.as_str()),
            })
    };
    let mut trials = Vec::new();
    for index in 0..cases.len() {
        let cases = Arc::clone(&cases);
        trials.push(Trial::test(cases[index].name.clone(), move || {
            case::check(&cases[index], bless)
        }));
    }
    // With --bless, the checks of the whole come afterwards.
    if !bless {
        trials.extend(house(&cases));
    }
    trials.retain(|trial| is_asked_for(trial.name()));
    let conclusion = libtest_mimic::run(&arguments, trials);
    if bless && !conclusion.has_failed() {
        std::fs::write(table::file(), table::render(&cases)).expect("docs is a folder");
    }
    server::stop();
    conclusion.exit_code()
}

/// Checks of all cases together. They need no server.
fn house(cases: &Arc<[Case]>) -> Vec<Trial> {
    let trial = |name: &str, check: fn(&[Case]) -> Vec<String>| {
        let cases = Arc::clone(cases);
        Trial::test(name, move || match check(&cases) {
            faults if faults.is_empty() => Ok(()),
            faults => Err(Failed::from(faults.join("\n"))),
        })
    };
    vec![
        trial("house::names_are_unique", names_are_unique),
        trial("house::every_transcript_has_a_case", transcript::strangers),
        trial("house::every_difference_is_explained", differences::check),
        trial("house::the_table_is_current", table::check),
    ]
}

fn names_are_unique(cases: &[Case]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let names = cases.iter().map(|case| &case.name);
    names
        .filter(|name| !seen.insert(name.as_str()))
        .map(|name| format!("two cases are called {name}"))
        .collect()
}
