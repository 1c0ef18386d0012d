//! A command that runs while something is measured: a profiler, say.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};

use crate::servers::Role;

/// How long it may take to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// A command that runs, if there is one.
pub(crate) struct Beside(Option<Child>);

impl Beside {
    /// Starts a command of the shell.
    ///
    /// # Errors
    /// There is no shell.
    pub(crate) fn start(command: Option<&str>, processes: &[(Role, u32)]) -> Result<Self> {
        let Some(command) = command else {
            return Ok(Self(None));
        };
        let gateways: Vec<String> = processes
            .iter()
            .filter(|(role, _)| *role == Role::Gateway)
            .map(|(_, pid)| pid.to_string())
            .collect();
        let child = Command::new("sh")
            .args(["-c", command])
            .env("GATEWAYS", gateways.join(","))
            .process_group(0)
            .kill_on_drop(true)
            .spawn();
        Ok(Self(Some(child.context("the command beside")?)))
    }

    /// Ends it, as Ctrl-C would, and waits for that.
    ///
    /// # Errors
    /// It had failed before, or does not end.
    pub(crate) async fn end(self) -> Result<()> {
        let Some(mut child) = self.0 else {
            return Ok(());
        };
        if let Some(status) = child.try_wait()? {
            ensure!(status.success(), "the command beside failed: {status}");
            return Ok(());
        }
        let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        if let Some(pid) = pid {
            kill_process_group(pid, Signal::INT)?;
        }
        let ended = tokio::time::timeout(PATIENCE, child.wait()).await;
        ended.context("the command beside does not end")??;
        Ok(())
    }
}
