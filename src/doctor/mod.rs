//! `stentor doctor`: asks everything that the gateway will need, for real, before the first start or
//! beside a gateway that runs.
//!
//! Each part asks first, and judges then: the functions that judge take what was answered, and are
//! pure. The ways to ask are those of the gateway: the same logins, links and calls. Nothing is
//! changed; nothing that is secret is shown.
//!
//! | Module | Its part |
//! |---|---|
//! | `finding`, `show` | an answer with its cure; the report for people (pure) |
//! | `ask` | the time of a question |
//! | `broker`, `exchanges` | RabbitMQ by AMQP: logins, permissions, exchanges |
//! | `journals` | streams of journals |
//! | `offline` | queues of messages for those who are away |
//! | `management`, `policies` | what AMQP cannot tell |
//! | `logins` | the hook, tokens, and a user's dry run |
//! | `store` | Redis |
//! | `traces` | the collector of traces |
//! | `certificates` | the gateway's certificate, and those of servers |
//! | `machine` | files, backlog, ports, memory |
//! | `clock` | this clock beside others |

mod args;
mod ask;
mod broker;
mod certificates;
mod clock;
mod exchanges;
mod finding;
mod journals;
mod logins;
mod machine;
mod management;
mod offline;
mod policies;
mod show;
mod store;
mod traces;

use std::{
    fs,
    io::{self, Read as _},
    path::Path,
};

use futures_util::future::LocalBoxFuture;
use thiserror::Error;
use tokio::time::Instant;
use zeroize::Zeroizing;

pub use args::Doctor;
pub use finding::{Counts, Finding, Mark, QUESTIONS, Report};

use crate::{
    auth::{jwt, rabbitmq},
    causes::unreadable,
    config::{Config, Sources},
    secret_url::SecretUrl,
    tap::printable_json,
};

/// Nothing can be asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// An argument cannot be used.
    #[error("{0}")]
    Argument(String),
}

/// The subject of an examination.
struct Subject<'a> {
    config: &'a Config,
    task: &'a Doctor,
    passcode: Option<Zeroizing<String>>,
    management: Option<SecretUrl>,
}

impl Subject<'_> {
    /// The virtual hosts to examine.
    fn vhosts(&self) -> Vec<String> {
        let mut vhosts = self.all_vhosts();
        vhosts.truncate(MAX_VHOSTS);
        vhosts
    }

    /// How many virtual hosts are left out, for there are too many.
    fn left_out(&self) -> usize {
        self.all_vhosts().len().saturating_sub(MAX_VHOSTS)
    }

    fn all_vhosts(&self) -> Vec<String> {
        vhosts(self.config, self.task.vhost.as_deref())
    }
}

/// Virtual hosts that are examined at most: a gateway may serve very many.
const MAX_VHOSTS: usize = 20;

/// Those that are configured, the default one first, and behind it the one that is asked for: the
/// last ones may be left out. Of `*`, the default one.
fn vhosts(config: &Config, asked: Option<&str>) -> Vec<String> {
    let mut vhosts = config.broker.named_vhosts();
    if let Some(asked) = asked
        && asked != "*"
        && asked != config.broker.default_vhost
    {
        vhosts.retain(|vhost| vhost != asked);
        // The default one is always there.
        vhosts.insert(1, asked.to_owned());
    }
    vhosts
}

/// Examines a configuration and everything that it names.
///
/// # Errors
/// An argument cannot be used.
pub fn examine<'a>(
    task: &'a Doctor,
    name: String,
    config: &'a Config,
    sources: &'a Sources,
) -> LocalBoxFuture<'a, Result<Report, Error>> {
    // Boxed for the sake of the program's size: see `app::run`.
    Box::pin(examine_all(task, name, config, sources))
}

async fn examine_all(
    task: &Doctor,
    name: String,
    config: &Config,
    sources: &Sources,
) -> Result<Report, Error> {
    let begun = Instant::now();
    let subject = Subject {
        config,
        task,
        passcode: passcode(task)?,
        management: management_url(task)?,
    };
    let mut findings = configuration(&name, config, sources);
    let (broker, logins, store, traces, certificates, machine, clock) = tokio::join!(
        broker::examine(&subject),
        logins::examine(&subject),
        store::examine(config),
        traces::examine(config),
        certificates::examine(config),
        machine::examine(config),
        clock::examine(&subject),
    );
    let traces = traces.into_iter().collect();
    for part in [broker, logins, store, traces, certificates, machine, clock] {
        findings.extend(part);
    }
    Ok(Report::new(name, findings, begun.elapsed()))
}

/// The report as it is printed.
///
/// # Errors
/// Never, for it holds texts and numbers alone.
pub fn print(report: &Report, is_json: bool, is_coloured: bool) -> Result<String, Error> {
    if !is_json {
        return Ok(show::show(report, is_coloured));
    }
    let text = serde_json::to_string_pretty(report);
    text.map(|text| format!("{}\n", printable_json(text)))
        .map_err(|error| Error::Argument(error.to_string()))
}

/// The values, and the files that they name.
fn configuration(name: &str, config: &Config, sources: &Sources) -> Vec<Finding> {
    let mut findings = vec![Finding::right(
        "configuration.keys",
        format!("{name}: {sources}"),
    )];
    for warning in &sources.warnings {
        findings.push(Finding::doubtful("configuration.keys", &*warning.message));
    }
    let unusable = |section: &str, key: &str, problem: &str| {
        Finding::wrong(
            "configuration.files",
            format!("[{section}] {key}: {problem}"),
        )
        .cure(format!(
            "name a file that the gateway's user may read: [{section}] {key} = \"…\""
        ))
    };
    if let Some(file) = config.auth_rabbitmq.file()
        && let Err(error) = rabbitmq::check_file(file)
    {
        findings.push(unusable("auth.rabbitmq", "definitions", &error.to_string()));
    }
    if let Err((key, problem)) = jwt::check_files(&config.auth.jwt) {
        findings.push(unusable("auth.jwt", key, &problem));
    }
    findings
}

fn passcode(task: &Doctor) -> Result<Option<Zeroizing<String>>, Error> {
    let mut text = Zeroizing::new(String::new());
    if let Some(file) = &task.passcode_file {
        let wrong = |error: io::Error| {
            let why = unreadable(file, &error);
            Error::Argument(format!("--passcode-file {why}"))
        };
        *text = read(file).map_err(wrong)?;
    } else if task.passcode_stdin {
        let wrong = |error: io::Error| Error::Argument(format!("standard input: {error}"));
        io::stdin().read_to_string(&mut text).map_err(wrong)?;
    } else {
        return Ok(None);
    }
    // Editors end files with a line break, which is no part of it.
    Ok(Some(Zeroizing::new(
        text.trim_end_matches(['\r', '\n']).to_owned(),
    )))
}

fn read(file: &Path) -> io::Result<String> {
    fs::read_to_string(file)
}

fn management_url(task: &Doctor) -> Result<Option<SecretUrl>, Error> {
    let url = task.management.as_deref();
    url.map(rabbitmq::management_url)
        .transpose()
        .map_err(|why| Error::Argument(format!("--management {why}")))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::tap::is_unsafe;

    /// Bindings of others are among the answers, and the words of servers.
    #[test]
    fn words_of_others_do_not_steer_the_terminal() {
        let bad = "user_\u{1b}[2J → \u{202e}audit";
        let findings = vec![Finding::wrong("management.bindings", bad).cure(bad)];
        let report = Report::new(bad.to_owned(), findings, Duration::ZERO);
        for is_json in [false, true] {
            let text = print(&report, is_json, false).unwrap();
            let is_bad = |character: char| character != '\n' && is_unsafe(character);
            assert!(!text.contains(is_bad), "{text:?}");
        }
    }

    #[test]
    fn virtual_hosts_are_examined_once_each() {
        let mut config = Config::default();
        config.broker.vhosts = ["/", "app"].map(String::from).to_vec();
        assert_eq!(vhosts(&config, Some("app")), ["/", "app"]);
        config.broker.vhosts = vec!["*".to_owned()];
        assert_eq!(vhosts(&config, None), ["/"]);
    }

    #[test]
    fn of_many_virtual_hosts_the_one_that_is_asked_for_is_examined() {
        let mut config = Config::default();
        config.broker.vhosts = (0..=MAX_VHOSTS)
            .map(|number| format!("v{number}"))
            .collect();
        for (asked, left_out) in [("v20", 2), ("/", 2), ("another", 3)] {
            let task = Doctor {
                vhost: Some(asked.to_owned()),
                ..Doctor::default()
            };
            let subject = Subject {
                config: &config,
                task: &task,
                passcode: None,
                management: None,
            };
            let examined = subject.vhosts();
            assert_eq!(examined.len(), MAX_VHOSTS);
            assert_eq!(examined[0], "/");
            assert!(examined.iter().any(|vhost| vhost == asked), "{asked}");
            assert_eq!(subject.left_out(), left_out, "{asked}");
        }
    }
}
