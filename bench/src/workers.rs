//! Worker processes, and talking to them. Several are needed where a process may not have enough
//! files, or where one core is not enough for the load.

use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use crate::{
    orders::{Connect, Connected, Order, Report},
    programs::this_program,
};

/// A worker process. Dropped, it is killed; and if this process is killed, it ends by itself, for
/// its standard input ends.
pub(crate) struct Worker {
    child: Child,
    orders: ChildStdin,
    reports: Lines<BufReader<ChildStdout>>,
}

impl Worker {
    /// Starts this program again, as a worker.
    ///
    /// # Errors
    /// The system refuses.
    pub(crate) fn start() -> Result<Self> {
        let mut child = Command::new(this_program()?)
            .arg("worker")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("starting a worker")?;
        let orders = child.stdin.take().context("a worker's input")?;
        let reports = child.stdout.take().context("a worker's output")?;
        Ok(Self {
            child,
            orders,
            reports: BufReader::new(reports).lines(),
        })
    }

    /// Its process.
    ///
    /// # Errors
    /// It has ended.
    pub(crate) fn pid(&self) -> Result<u32> {
        self.child.id().context("a worker has ended")
    }

    /// Orders something.
    ///
    /// # Errors
    /// It has ended.
    pub(crate) async fn order(&mut self, order: &Order) -> Result<()> {
        let mut line = serde_json::to_vec(order)?;
        line.push(b'\n');
        self.orders
            .write_all(&line)
            .await
            .context("a worker has ended")
    }

    /// The next report.
    ///
    /// # Errors
    /// It has ended, or failed, or says what cannot be understood.
    pub(crate) async fn report(&mut self) -> Result<Report> {
        let line = self
            .reports
            .next_line()
            .await?
            .context("a worker ended without a word")?;
        match serde_json::from_str(&line).with_context(|| format!("a worker says {line:?}"))? {
            Report::Failed(why) => bail!(why),
            report => Ok(report),
        }
    }

    /// Has it open connections; `progress` learns how many are open so far.
    ///
    /// # Errors
    /// One is refused or lost.
    pub(crate) async fn connect(
        &mut self,
        connect: Connect,
        progress: impl Fn(u32),
    ) -> Result<Connected> {
        self.order(&Order::Connect(connect)).await?;
        loop {
            match self.report().await? {
                Report::Progress(so_far) => progress(so_far),
                Report::Connected(connected) => return Ok(connected),
                other => bail!("a worker connects, and says {other:?}"),
            }
        }
    }
}
