//! A few channels that calls are spread over, so that many are under way at once.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use lapin::Channel;
use tokio::{
    sync::Mutex,
    time::{Duration, Instant, sleep, timeout_at},
};

use super::{
    convert::broker_error,
    link::{Live, late},
};
use crate::{broker::BrokerError, deadline::later};

/// Calls after which a channel is replaced: lapin remembers every binding that a channel ever
/// made, for a recovery that is not used here.
const CALLS_PER_CHANNEL: usize = 10_000;

/// A few channels, opened on first use, and again when one broke or its connection was replaced.
pub(super) struct Channels {
    slots: Box<[Mutex<Option<Slot>>]>,
    next: AtomicUsize,
}

struct Slot {
    lane: Lane,
    epoch: u64,
    calls: usize,
}

/// A channel that many calls share. The broker carries them out one after the other.
#[derive(Clone)]
pub(super) struct Lane {
    pub(super) channel: Channel,
    answers: Arc<Answers>,
}

/// When the broker last answered on a channel.
struct Answers(parking_lot::Mutex<Instant>);

impl Channels {
    pub(super) fn new(count: usize) -> Self {
        Self {
            slots: (0..count).map(|_| Mutex::default()).collect(),
            next: AtomicUsize::new(0),
        }
    }

    /// The channel whose turn it is.
    pub(super) async fn next(&self, live: &Live, deadline: Instant) -> Result<Lane, BrokerError> {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        let turn = next.checked_rem(self.slots.len());
        let Some(slot) = turn.and_then(|turn| self.slots.get(turn)) else {
            return Ok(Lane::new(live.channel(deadline).await?));
        };
        let mut slot = slot.lock().await;
        if let Some(slot) = slot.as_mut()
            && slot.epoch == live.epoch
            && slot.lane.channel.status().connected()
            && slot.calls < CALLS_PER_CHANNEL
        {
            slot.calls = slot.calls.saturating_add(1);
            return Ok(slot.lane.clone());
        }
        let lane = Lane::new(live.channel(deadline).await?);
        *slot = Some(Slot {
            lane: lane.clone(),
            epoch: live.epoch,
            calls: 1,
        });
        Ok(lane)
    }
}

impl Lane {
    fn new(channel: Channel) -> Self {
        let answers = Answers(parking_lot::Mutex::new(Instant::now()));
        Self {
            channel,
            answers: Arc::new(answers),
        }
    }

    /// The broker's answer to a call on this channel, if it comes by `deadline`, or as long as no
    /// other answer there is older than `patience`. Thousands of calls may be before this one, when
    /// all users come back at once. A call that was given up would be carried out all the same, and
    /// asked again behind them: then all are late for good.
    pub(super) async fn answer<T>(
        &self,
        deadline: Instant,
        patience: Duration,
        call: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, BrokerError> {
        match self
            .answers
            .wait(deadline, patience, call, Result::is_ok)
            .await
        {
            Some(outcome) => outcome.map_err(|error| broker_error(&error)),
            None => Err(BrokerError::Unavailable(late())),
        }
    }

    /// Until when the broker may be silent.
    pub(super) fn deadline(&self, patience: Duration) -> Instant {
        later(*self.answers.0.lock(), patience)
    }
}

impl Answers {
    async fn wait<T>(
        &self,
        mut deadline: Instant,
        patience: Duration,
        call: impl Future<Output = T>,
        is_progress: impl Fn(&T) -> bool,
    ) -> Option<T> {
        let mut call = pin!(call);
        loop {
            if let Ok(answer) = timeout_at(deadline, &mut call).await {
                // A refusal moves nothing on: whoever asks again and again would never give up.
                if is_progress(&answer) {
                    *self.0.lock() = Instant::now();
                }
                return Some(answer);
            }
            let last = *self.0.lock();
            deadline = later(last, patience);
            if deadline <= Instant::now() {
                return None;
            }
        }
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

#[cfg(test)]
mod tests {
    use std::future::pending;

    use futures_util::future::join_all;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn answers() -> Answers {
        Answers(parking_lot::Mutex::new(Instant::now()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_row_is_waited_for_while_it_moves() {
        let (answers, begun) = (answers(), Instant::now());
        let calls = (1..=100).map(|number| {
            let call = sleep(number * SECOND);
            answers.wait(begun + 10 * SECOND, 10 * SECOND, call, |()| true)
        });
        assert!(join_all(calls).await.iter().all(Option::is_some));
        assert_eq!(begun.elapsed(), 100 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn a_row_that_stands_still_is_given_up() {
        let (answers, begun) = (answers(), Instant::now());
        let deadline = begun + 10 * SECOND;
        let answered = answers.wait(deadline, 10 * SECOND, sleep(5 * SECOND), |()| true);
        let never = async {
            let calls =
                (0..3).map(|_| answers.wait(deadline, 10 * SECOND, pending::<()>(), |()| true));
            (join_all(calls).await, begun.elapsed())
        };
        let (answered, (others, after)) = tokio::join!(answered, never);
        assert!(answered.is_some());
        assert_eq!(others, [None, None, None]);
        assert_eq!(after, 15 * SECOND, "10 seconds after the last answer");
    }
}
