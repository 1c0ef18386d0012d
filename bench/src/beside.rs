//! A command that runs while something is measured: a profiler, say.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};

use crate::servers::Role;

/// How long it may take to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// A command of the shell.
pub(crate) struct Beside(pub(crate) String);

/// One that runs.
pub(crate) struct Running(Child);

/// Starts it, if there is one.
///
/// # Errors
/// There is no shell.
pub(crate) fn start(beside: Option<&Beside>, processes: &[(Role, u32)]) -> Result<Option<Running>> {
    beside.map(|beside| beside.start(processes)).transpose()
}

/// Ends it, as Ctrl-C would, and waits for that.
///
/// # Errors
/// It had failed before, or does not end.
pub(crate) async fn end(running: Option<Running>) -> Result<()> {
    match running {
        Some(running) => running.end().await,
        None => Ok(()),
    }
}

impl Beside {
    fn start(&self, processes: &[(Role, u32)]) -> Result<Running> {
        let gateways = processes.iter().filter(|(role, _)| *role == Role::Gateway);
        let gateways: Vec<String> = gateways.map(|(_, pid)| pid.to_string()).collect();
        let child = Command::new("sh")
            .args(["-c", &self.0])
            .env("GATEWAYS", gateways.join(","))
            .process_group(0)
            .kill_on_drop(true)
            .spawn();
        child.map(Running).context("the command beside")
    }
}

impl Running {
    async fn end(mut self) -> Result<()> {
        if let Some(status) = self.0.try_wait()? {
            if !status.success() {
                bail!("the command beside failed: {status}");
            }
            return Ok(());
        }
        let pid = self.0.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        if let Some(pid) = pid {
            kill_process_group(pid, Signal::INT)?;
        }
        let ended = tokio::time::timeout(PATIENCE, self.0.wait()).await;
        ended.context("the command beside does not end")??;
        Ok(())
    }
}
