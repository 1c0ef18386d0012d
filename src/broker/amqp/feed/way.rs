//! Feeds of direct exchanges that are read whole: one binding, to the alternate exchange, and a
//! trial that the exchange leads there. See [`crate::broker::amqp::whole`].

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use tokio::{
    sync::Mutex,
    time::{Instant, sleep, timeout_at},
};

use super::{
    BEFORE_AGAIN, Feed, bind_until,
    sentinel::{self, Sentinel},
    unless_again,
};
use crate::{
    broker::{
        BrokerError,
        amqp::{
            link::{Live, late},
            whole::Beside,
        },
    },
    deadline::after,
};

/// A feed whose trial does not come within that may be behind.
const BEHIND: Duration = Duration::from_secs(1);

/// What a feed of such an exchange has more.
#[derive(Default)]
pub(super) struct WholeWay {
    is_used: AtomicBool,
    /// Held by whoever tries it; when the last trial that succeeded began.
    tried: Mutex<Option<Instant>>,
}

impl WholeWay {
    /// Whether the feed's exchange was read whole when a pattern was bound last.
    pub(super) fn is_used(&self) -> bool {
        self.is_used.load(Ordering::Acquire)
    }

    pub(super) fn set_used(&self, is_used: bool) {
        self.is_used.store(is_used, Ordering::Release);
    }
}

impl Feed {
    /// Why its messages do not come any more.
    pub(super) fn lost_words(&self) -> Box<str> {
        let words = if self.whole.is_used() {
            "its exchange was deleted and made anew, or lost its alternate exchange"
        } else {
            "its exchange was deleted and made anew"
        };
        words.into()
    }

    /// Sees to it that the exchange's messages with that key come, as the exchange is now.
    pub(super) async fn bind_whole(&self, key: &str, deadline: Instant) -> Result<(), BrokerError> {
        let shared = &self.shared;
        let beside = Beside::new(&shared.vhost, &self.id.exchange)?;
        if !shared.config.bridge {
            return self.open_way(&beside, deadline).await;
        }
        if !self.sentinel.is_bound() {
            self.open_way(&beside, deadline).await?;
        }
        let (patience, ours) = (
            shared.operation_timeout,
            [&*self.id.exchange, beside.all.as_str()],
        );
        let mut deadline = deadline;
        loop {
            let live = shared.link.wait_until(deadline).await?;
            let lane = shared.binders.next(&live, deadline).await?;
            let bridging = beside.bridging(&lane.channel, key)?;
            let outcome = lane.answer(deadline, patience, bridging).await;
            deadline = deadline.max(lane.deadline(patience));
            if let Some(outcome) = unless_again(outcome, &ours, deadline) {
                return outcome;
            }
            sleep(BEFORE_AGAIN).await;
        }
    }

    /// Binds the feed's queue beside the exchange, and tries whether messages come there. Of many
    /// who want it at a time, one does it.
    async fn open_way(&self, beside: &Beside<'_>, deadline: Instant) -> Result<(), BrokerError> {
        let asked = Instant::now();
        let Ok(mut tried) = timeout_at(deadline, self.whole.tried.lock()).await else {
            return Err(BrokerError::Unavailable(late()));
        };
        if tried.is_some_and(|begun| begun >= asked) {
            return Ok(());
        }
        let (shared, sentinel) = (&self.shared, &self.sentinel);
        let (begun, bound) = (Instant::now(), sentinel.next_bound());
        if !sentinel.is_bound() {
            let live = shared.link.wait_until(deadline).await?;
            beside.declare(&live, deadline).await?;
        }
        bind_until(shared, beside.all.as_str(), &self.queue, "", deadline).await?;
        self.try_way(beside, deadline).await?;
        sentinel.set_bound(bound);
        *tried = Some(begun);
        Ok(())
    }

    async fn try_way(&self, beside: &Beside<'_>, deadline: Instant) -> Result<(), BrokerError> {
        let sentinel: &Sentinel = &self.sentinel;
        let live = self.shared.publish_link.wait_until(deadline).await?;
        if timeout_at(Instant::now(), live.unblocked()).await.is_err() {
            // Nobody else publishes, either. It was open when it was tried last.
            return match sentinel.is_bound() {
                true => Ok(()),
                false => Err(BrokerError::Unavailable(
                    "it is short of memory or disk".into(),
                )),
            };
        }
        let number = sentinel.messages().next();
        if !self.publish_trial(beside, &live, number, deadline).await? {
            return Err(beside.leads_elsewhere());
        }
        let soon = after(BEHIND).min(deadline);
        if timeout_at(soon, sentinel.messages().came(number))
            .await
            .is_ok()
        {
            return Ok(());
        }
        // It reached some queue. A feed that is behind has it still before it; who subscribes need
        // not wait for that, where the way was open before.
        if sentinel.is_bound() && !sentinel::is_empty(self).await {
            return Ok(());
        }
        if timeout_at(deadline, sentinel.messages().came(number))
            .await
            .is_ok()
        {
            return Ok(());
        }
        match sentinel::is_empty(self).await {
            true => Err(beside.leads_elsewhere()),
            false => Err(BrokerError::Unavailable(late())),
        }
    }

    async fn publish_trial(
        &self,
        beside: &Beside<'_>,
        live: &Live,
        number: u64,
        deadline: Instant,
    ) -> Result<bool, BrokerError> {
        let channel = live.passing(deadline).await?;
        let (key, body) = (self.sentinel.key().clone(), number.to_be_bytes());
        beside.publish(&channel, key, &body, deadline).await
    }
}
