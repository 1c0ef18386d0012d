//! The handle of a running consumer.

use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt as _, ready};

use super::{host::Host, queue::Queue};
use crate::broker::{BrokerError, Confirm, Consumer, Settled, Verdict};

/// Ends its consumer when it is dropped.
pub(super) struct Attachment {
    host: Arc<Host>,
    queue: Arc<Queue>,
    serial: u64,
}

impl Attachment {
    pub(super) const fn new(host: Arc<Host>, queue: Arc<Queue>, serial: u64) -> Self {
        Self {
            host,
            queue,
            serial,
        }
    }
}

impl Consumer for Attachment {
    fn settle(
        &self,
        tag: u64,
        multiple: bool,
        verdict: Verdict,
    ) -> BoxFuture<'_, Result<Settled, BrokerError>> {
        let settled = self.host.with_queue(&self.queue, |queue, dead| {
            queue.settle(self.serial, tag, multiple, verdict, dead)
        });
        ready(Ok(settled)).boxed()
    }

    fn holds(&self, tag: u64) -> bool {
        self.queue.is_unsettled(self.serial, tag)
    }

    fn heard(&self, _: u64) -> Confirm {
        ready(Ok(())).boxed()
    }

    fn cancel(&self) -> BoxFuture<'_, Result<(), BrokerError>> {
        self.host.detach(&self.queue, self.serial);
        ready(Ok(())).boxed()
    }

    fn retire<'a>(&'a self, kept: &'a [u64]) -> BoxFuture<'a, Result<(), BrokerError>> {
        self.host.retire(&self.queue, self.serial, kept);
        ready(Ok(())).boxed()
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.host.detach(&self.queue, self.serial);
    }
}
