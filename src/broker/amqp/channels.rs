//! A few channels that calls are spread over, so that many are under way at once.

use std::sync::atomic::{AtomicUsize, Ordering};

use lapin::Channel;
use tokio::{
    sync::Mutex,
    time::{Duration, Instant, sleep, timeout_at},
};

use super::link::Live;
use crate::broker::BrokerError;

/// Calls after which a channel is replaced: lapin remembers every binding that a channel ever
/// made, for a recovery that is not used here.
const CALLS_PER_CHANNEL: usize = 10_000;

/// A few channels, opened on first use, and again when one broke or its connection was replaced.
pub(super) struct Channels {
    slots: Box<[Mutex<Option<Slot>>]>,
    next: AtomicUsize,
}

struct Slot {
    channel: Channel,
    epoch: u64,
    calls: usize,
}

impl Channels {
    pub(super) fn new(count: usize) -> Self {
        Self {
            slots: (0..count).map(|_| Mutex::default()).collect(),
            next: AtomicUsize::new(0),
        }
    }

    /// The channel whose turn it is.
    pub(super) async fn next(
        &self,
        live: &Live,
        deadline: Instant,
    ) -> Result<Channel, BrokerError> {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        let turn = next.checked_rem(self.slots.len());
        let Some(slot) = turn.and_then(|turn| self.slots.get(turn)) else {
            return live.channel(deadline).await;
        };
        let mut slot = slot.lock().await;
        if let Some(slot) = slot.as_mut()
            && slot.epoch == live.epoch
            && slot.channel.status().connected()
            && slot.calls < CALLS_PER_CHANNEL
        {
            slot.calls = slot.calls.saturating_add(1);
            return Ok(slot.channel.clone());
        }
        let channel = live.channel(deadline).await?;
        *slot = Some(Slot {
            channel: channel.clone(),
            epoch: live.epoch,
            calls: 1,
        });
        Ok(channel)
    }
}

/// Ends a channel, and waits until the broker has answered: then it has carried out all that was
/// asked on the channel, and what is asked elsewhere from now on comes after it. Whether it did.
pub(super) async fn settle(channel: &Channel, deadline: Instant) -> bool {
    let closed = async {
        // It says no if somebody else is about it already, whose answer is waited for below.
        let _ = channel.close(200, "bye".into()).await;
        while channel.status().closing() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout_at(deadline, closed).await.is_ok()
}
