//! The gateway's memory while it is attacked; stops the attack before the machine runs out of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result};
use procfs::{Current as _, Meminfo, process::Process};
use serde::Serialize;
use tokio::sync::Notify;

/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(20);

/// The memory that the machine must have left. In KiB.
const RESERVE: f64 = 3.0 * 1024.0 * 1024.0;

/// Resident memory of the gateway, in MiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Grown {
    pub(super) before_mib: f64,
    /// At most, from the attack's begin on.
    pub(super) most_mib: f64,
    /// Some seconds after the attack's end; `None` if the gateway is gone by then.
    pub(super) after_mib: Option<f64>,
    /// The attack was ended, for it would have taken all that there is.
    pub(super) stopped: bool,
}

/// A watch on a thread of its own, until it is dropped.
pub(super) struct Watch {
    pid: u32,
    before: f64,
    most: Arc<AtomicU64>,
    too_much: Arc<AtomicBool>,
    alarm: Arc<Notify>,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Begins to look. `cap_mib` is how much a process may grow until the attack is stopped.
    ///
    /// # Errors
    /// The process is gone.
    pub(super) fn start(pid: u32, cap_mib: u32) -> Result<Self> {
        let before = resident(pid)?;
        let cap = before + 1024.0 * f64::from(cap_mib);
        let mut watch = Self {
            pid,
            before,
            most: Arc::new(AtomicU64::new(before as u64)),
            too_much: Arc::default(),
            alarm: Arc::default(),
            end: Arc::default(),
            thread: None,
        };
        let (most, end) = (Arc::clone(&watch.most), Arc::clone(&watch.end));
        let (too_much, alarm) = (Arc::clone(&watch.too_much), Arc::clone(&watch.alarm));
        watch.thread = Some(thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                let Ok(now) = resident(pid) else {
                    return;
                };
                most.fetch_max(now as u64, Ordering::Relaxed);
                if now > cap || available().is_some_and(|kib| kib < RESERVE) {
                    too_much.store(true, Ordering::Relaxed);
                    alarm.notify_one();
                }
                thread::sleep(INTERVAL);
            }
        }));
        Ok(watch)
    }

    /// Waits until it is too much.
    pub(super) async fn too_much(&self) {
        self.alarm.notified().await;
    }

    /// The memory before, at most, and now.
    pub(super) fn grown(&self) -> Grown {
        let mib = |kib: f64| kib / 1024.0;
        Grown {
            before_mib: mib(self.before),
            most_mib: mib(self.most.load(Ordering::Relaxed) as f64),
            after_mib: resident(self.pid).ok().map(mib),
            stopped: self.too_much.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // If it panicked, it has said so.
            let _ = thread.join();
        }
    }
}

/// In KiB.
fn resident(pid: u32) -> Result<f64> {
    let status = Process::new(pid.cast_signed())?.status()?;
    let resident = status.vmrss;
    Ok(resident.with_context(|| format!("process {pid} has ended"))? as f64)
}

/// The memory that programs may still take, in KiB.
fn available() -> Option<f64> {
    Some(Meminfo::current().ok()?.mem_available? as f64 / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_grows_is_stopped() {
        let watch = Watch::start(std::process::id(), 8).unwrap();
        let large = vec![1_u8; 64 << 20];
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let waiting = tokio::time::timeout(Duration::from_secs(30), watch.too_much());
            waiting.await.expect("it is noticed");
        });
        let grown = watch.grown();
        assert!(grown.stopped, "{grown:?}");
        assert!(grown.most_mib > grown.before_mib + 8.0, "{grown:?}");
        assert!(available().unwrap() > 0.0);
        drop(large);
    }

    #[test]
    fn a_process_that_is_gone_is_told() {
        assert!(Watch::start(u32::MAX, 8).is_err());
    }
}
