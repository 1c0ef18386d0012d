//! What is still to be written when the sessions of a node have ended: its end waits for that.

use tokio::time::{Instant, timeout_at};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Tasks that write something for the last time when the node ends.
#[derive(Debug, Default)]
pub struct LastWrites {
    tasks: TaskTracker,
    end: CancellationToken,
}

impl LastWrites {
    /// Runs a task that the end of the node waits for. It is over soon after [`LastWrites::end`] is.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn run(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// Cancelled when the node ends, and with it what its sessions leave to be written.
    #[must_use]
    pub fn end(&self) -> CancellationToken {
        self.end.clone()
    }

    /// The node ends: waits for all tasks, but no longer than until then. How many are left.
    pub async fn finish(&self, until: Instant) -> usize {
        self.end.cancel();
        self.tasks.close();
        let _ = timeout_at(until, self.tasks.wait()).await;
        self.tasks.len()
    }
}

#[cfg(test)]
mod tests {
    use std::{future::pending, time::Duration};

    use tokio::time::sleep;

    use super::*;
    use crate::deadline::after;

    #[tokio::test(start_paused = true)]
    async fn the_end_waits_for_what_is_written_but_not_for_ever() {
        let writes = LastWrites::default();
        let end = writes.end();
        writes.run(async move {
            end.cancelled().await;
            sleep(Duration::from_millis(700)).await;
        });
        let begun = Instant::now();
        assert_eq!(writes.finish(after(Duration::from_secs(3))).await, 0);
        assert_eq!(begun.elapsed().as_millis(), 700);
        writes.run(pending());
        assert_eq!(writes.finish(after(Duration::from_secs(3))).await, 1);
        assert_eq!(begun.elapsed().as_millis(), 3_700);
    }
}
