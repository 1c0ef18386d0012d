//! Foreign clients, driven over their standard input and output.

use std::{
    future::Future,
    panic::Location,
    path::PathBuf,
    process::{Command, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;
use tokio::time::timeout;

use crate::{DEADLINE, Process, eventually, keeper};

/// A program that reads one JSON object a line, each an order, and writes one a line for each
/// thing that happens, with its name as `event`. The programs are in `tests/js`, `tests/py`,
/// `tests/perl` and `tests/ruby`.
#[derive(Debug)]
pub struct Remote {
    process: Process,
    /// A folder for files that it leaves behind when it is killed: a browser's profile.
    _folder: TempDir,
    /// So many lines of its output were looked at.
    read: usize,
}

impl Remote {
    /// Starts `tests/js/SCRIPT` with Node.
    ///
    /// # Panics
    /// Node or the packages are not installed.
    #[must_use]
    pub fn node(script: &str) -> Self {
        let folder = tests_dir().join("js");
        assert!(
            folder.join("node_modules").exists(),
            "tests/js/node_modules is missing: run ./scripts/test.sh, which installs it"
        );
        let mut command = Command::new("node");
        command.arg(folder.join(script)).current_dir(folder);
        Self::start(script, &mut command)
    }

    /// Starts `tests/py/SCRIPT` with the Python of `.venv`.
    ///
    /// # Panics
    /// Python or the packages are not installed.
    #[must_use]
    pub fn python(script: &str) -> Self {
        let folder = tests_dir().join("py");
        let python = tests_dir().with_file_name(".venv").join("bin/python3");
        assert!(
            python.exists(),
            ".venv is missing: run ./scripts/test.sh, which makes it"
        );
        let mut command = Command::new(python);
        command.arg("-u").arg(folder.join(script));
        Self::start(script, &mut command)
    }

    /// Starts `tests/perl/SCRIPT` with the system's Perl.
    ///
    /// # Panics
    /// Perl is not installed.
    #[must_use]
    pub fn perl(script: &str) -> Self {
        let mut command = Command::new("perl");
        command.arg(tests_dir().join("perl").join(script));
        Self::start(script, &mut command)
    }

    /// Starts `tests/ruby/SCRIPT` with the system's Ruby.
    ///
    /// # Panics
    /// Ruby is not installed.
    #[must_use]
    pub fn ruby(script: &str) -> Self {
        let mut command = Command::new("ruby");
        command.arg(tests_dir().join("ruby").join(script));
        Self::start(script, &mut command)
    }

    fn start(name: &str, command: &mut Command) -> Self {
        let folder = TempDir::with_prefix("testkit-remote-").expect("a temporary folder");
        keeper::remove(folder.path());
        command.env("TMPDIR", folder.path());
        let process = Process::start(name, command, Stdio::piped())
            .unwrap_or_else(|error| panic!("{name}: {error}; ./scripts/test.sh installs it"));
        Self {
            process,
            _folder: folder,
            read: 0,
        }
    }

    /// Gives an order: an object with the order's name as `do`.
    pub fn order(&mut self, order: &Value) {
        self.process.write_line(&order.to_string());
    }

    /// Waits for the next event of this name, passing over others, and answers it.
    ///
    /// # Panics
    /// It does not come within [`DEADLINE`], the program ends first, or it says `failed`.
    #[track_caller]
    pub fn expect(&mut self, event: &str) -> impl Future<Output = Value> {
        self.wait_for(Location::caller(), event)
    }

    async fn wait_for(&mut self, at: &'static Location<'static>, event: &str) -> Value {
        let Self { process, read, .. } = self;
        let waiting = eventually(2 * DEADLINE, event, async || {
            // Asked first: output from before the program's end is still read below.
            let ended = process.exit_status().is_some() && process.is_read();
            for line in process.stdout().since(*read) {
                *read += 1;
                let value: Value = serde_json::from_str(&line).unwrap_or_default();
                if value["event"] == event {
                    return Some(Some(value));
                }
                if value["event"] == "failed" {
                    return Some(None);
                }
            }
            ended.then_some(None)
        });
        let why = match timeout(DEADLINE, waiting).await {
            Ok(Some(value)) => return value,
            Ok(None) => "but the program failed or ended".to_owned(),
            Err(_) => format!("within {DEADLINE:?}"),
        };
        panic!("{at}: expected {event:?}, {why}\n{}", process.output())
    }

    /// Waits for so many `message` events, passing over others, and answers their bodies.
    #[track_caller]
    pub fn expect_bodies(&mut self, count: usize) -> impl Future<Output = Vec<String>> {
        let at = Location::caller();
        async move {
            let mut bodies = Vec::with_capacity(count);
            for _ in 0..count {
                let message = self.wait_for(at, "message").await;
                bodies.push(message["body"].as_str().unwrap_or_default().to_owned());
            }
            bodies
        }
    }

    /// The program itself: its output, its end.
    #[must_use]
    pub const fn process(&self) -> &Process {
        &self.process
    }
}

/// The folder `tests` of the workspace.
///
/// It is looked for when a test runs, for what was compiled in another working copy may run here
/// where both share a target folder.
///
/// # Panics
/// The test does not run within the workspace.
#[must_use]
pub fn tests_dir() -> PathBuf {
    let here = std::env::current_dir().expect("a working folder");
    let root = here
        .ancestors()
        .find(|folder| folder.join("Cargo.lock").exists())
        .unwrap_or_else(|| panic!("{} is not in a workspace", here.display()));
    root.join("tests")
}
