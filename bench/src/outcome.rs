//! The results of runs: a JSON file each.

use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context as _, Result};
use procfs::{CpuInfo, Current as _, Meminfo};
use serde::{Deserialize, Serialize};

use crate::{
    metrics::Metrics, named::Named as _, scenario::Scenario, servers::Server, verify::Verification,
};

/// A run.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Outcome {
    pub(crate) scenario: Scenario,
    pub(crate) server: Server,
    /// Which build of the gateway, where several are compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) build: Option<String>,
    /// Runs of the same case can be compared.
    pub(crate) case: String,
    pub(crate) connections: u32,
    /// How long was measured, and what went on before. In seconds.
    pub(crate) seconds: f64,
    pub(crate) warm_up: f64,
    /// The measures.
    pub(crate) metrics: Metrics,
    pub(crate) verification: Verification,
    /// Faults beside messages.
    pub(crate) troubles: Vec<String>,
    /// Why the figures say more of the client than of the servers, if they do.
    pub(crate) client_limit: Option<String>,
    pub(crate) conditions: Conditions,
}

/// The place and time of a run.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Conditions {
    pub(crate) date: String,
    pub(crate) kernel: String,
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) memory_gib: u64,
    pub(crate) stentor: String,
    pub(crate) rabbitmq: Option<String>,
    pub(crate) nats: Option<String>,
}

impl Conditions {
    /// Those of this machine, now.
    pub(crate) fn now(stentor: &Path, rabbitmq: Option<String>, nats: Option<String>) -> Self {
        let processor = CpuInfo::current()
            .ok()
            .and_then(|info| info.model_name(0).map(ToOwned::to_owned));
        let memory = Meminfo::current().map_or(0, |info| info.mem_total);
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let version = std::process::Command::new(stentor)
            .arg("--version")
            .output()
            .map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        Self {
            date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            kernel: format!("Linux {}", kernel.trim()),
            processor: processor.unwrap_or_default(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_gib: (memory + (1 << 29)) >> 30,
            stentor: version.unwrap_or_default().trim().to_owned(),
            rabbitmq,
            nats,
        }
    }
}

/// The subject of figures: a server, or one build of it.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Subject<'a> {
    pub(crate) server: Server,
    pub(crate) build: Option<&'a str>,
}

impl<'a> Subject<'a> {
    /// A server of which there is one build only.
    pub(crate) const fn only(server: Server) -> Self {
        let build = None;
        Self { server, build }
    }

    /// As on the command line: `stentor`, `stentor old`.
    pub(crate) fn name(self) -> String {
        let name = self.server.name();
        self.build
            .map_or_else(|| name.clone(), |build| format!("{name} {build}"))
    }

    /// In documents.
    pub(crate) fn title(self) -> String {
        let title = self.server.title();
        self.build
            .map_or_else(|| title.into(), |build| format!("{title} ({build})"))
    }
}

impl Outcome {
    /// The subject of its figures.
    pub(crate) fn subject(&self) -> Subject<'_> {
        Subject {
            server: self.server,
            build: self.build.as_deref(),
        }
    }

    /// Writes it into a folder, under a name of its own.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub(crate) fn save(&self, folder: &Path) -> Result<PathBuf> {
        let stem = format!("{}-{}", self.case, self.subject().name());
        save(folder, &stem, &self.conditions, self)
    }

    /// The number of runs in a folder of this case and subject; 0 if the folder does not exist.
    ///
    /// # Errors
    /// A file there is no result.
    pub(crate) fn count(folder: &Path, subject: Subject<'_>, case: &str) -> Result<usize> {
        if !folder.exists() {
            return Ok(0);
        }
        let all = Self::load_all(folder)?;
        let same = all
            .iter()
            .filter(|its| its.subject() == subject && its.case == case);
        Ok(same.count())
    }

    /// Reads all that were saved in a folder, the oldest first.
    ///
    /// # Errors
    /// There is no such folder, or a file there is no result.
    pub(crate) fn load_all(folder: &Path) -> Result<Vec<Self>> {
        let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()));
        let mut outcomes = Vec::new();
        for entry in entries? {
            let path = entry?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "json")
            {
                let text = fs::read_to_string(&path)?;
                let outcome: Self = serde_json::from_str(&text)
                    .with_context(|| format!("{} is no result", path.display()))?;
                outcomes.push(outcome);
            }
        }
        outcomes.sort_by(|one, other| one.conditions.date.cmp(&other.conditions.date));
        Ok(outcomes)
    }
}

/// Writes a result into a folder as JSON, under a name of its own.
///
/// # Errors
/// The folder cannot be written to.
pub(crate) fn save(
    folder: &Path,
    stem: &str,
    conditions: &Conditions,
    result: &impl Serialize,
) -> Result<PathBuf> {
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let stem = stem.replace(|letter: char| !letter.is_ascii_alphanumeric(), "-");
    let date = conditions
        .date
        .replace(|letter: char| !letter.is_ascii_digit(), "");
    let names = std::iter::once(format!("{stem}-{date}.json"))
        .chain((2..).map(|more| format!("{stem}-{date}-{more}.json")));
    let mut paths = names.map(|name| folder.join(name));
    let path = paths
        .find(|path| !path.exists())
        .context("no name is left")?;
    let json = serde_json::to_string_pretty(result)? + "\n";
    fs::write(&path, json).with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let outcome = Outcome {
            scenario: Scenario::Unicast,
            server: Server::WebStomp,
            build: None,
            case: "unicast 200 1000/s".into(),
            connections: 200,
            seconds: 10.0,
            warm_up: 3.0,
            metrics: [("deliveries_per_second".to_owned(), 1234.5)].into(),
            verification: Verification::default(),
            troubles: Vec::new(),
            client_limit: None,
            conditions: Conditions::now(Path::new("/nowhere"), None, None),
        };
        let first = outcome.save(folder.path()).unwrap();
        assert_ne!(outcome.save(folder.path()).unwrap(), first);
        let count =
            |server, case| Outcome::count(folder.path(), Subject::only(server), case).unwrap();
        assert_eq!(count(Server::WebStomp, "unicast 200 1000/s"), 2);
        assert_eq!(count(Server::Stentor, "unicast 200 1000/s"), 0);
        assert_eq!(count(Server::WebStomp, "unicast 200"), 0);
        let loaded = Outcome::load_all(folder.path()).unwrap();
        assert_eq!(loaded.len(), 2);
        assert_eq!(loaded[0].metrics, outcome.metrics);
        assert_eq!(loaded[0].server, Server::WebStomp);
    }

    #[test]
    fn builds_of_a_server_are_kept_apart() {
        let folder = tempfile::tempdir().unwrap();
        let of = |build: Option<&str>| Outcome {
            build: build.map(ToOwned::to_owned),
            ..crate::report::tests::outcome(Server::Stentor, 10, 1.0)
        };
        for build in [None, Some("old"), Some("new"), Some("new")] {
            of(build).save(folder.path()).unwrap();
        }
        for (build, expected) in [(None, 1), (Some("old"), 1), (Some("new"), 2)] {
            let outcome = of(build);
            let count = Outcome::count(folder.path(), outcome.subject(), &outcome.case);
            assert_eq!(count.unwrap(), expected, "{build:?}");
        }
    }
}
