//! The queue that a feed has at the moment, and those that feeds have left.
//!
//! On a cluster a classic queue is on one node. While that node is down, its name can be neither used
//! nor declared anew, so the feed goes on with another one. The old queue comes back with its node,
//! is bound still, and would fill until it expires; and some versions of RabbitMQ refuse to confirm
//! what is routed to a queue whose node is down. So it is deleted as soon as RabbitMQ lets it be. So is
//! the queue of a feed that was given up.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use lapin::{options::QueueDeleteOptions, types::ShortString};
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};

use super::{QueueNames, Shared, overflow_queue};
use crate::{
    backoff::Backoff,
    broker::{
        BrokerError,
        amqp::{
            convert::short,
            link::{Live, answer},
        },
    },
    deadline::after,
    telemetry,
};

/// Queues that are remembered. Beyond, the oldest is forgotten: it expires.
const MAX_LEFT: usize = 200;

/// The first and the longest pause between attempts to delete.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// The name of a feed's queue, which is another one once that was lost.
pub(super) struct FeedQueue(Mutex<ShortString>);

impl FeedQueue {
    /// The first.
    pub(super) fn new(names: &QueueNames) -> Result<Self, BrokerError> {
        Ok(Self(Mutex::new(next(names)?)))
    }

    /// One that is called so for ever.
    pub(super) fn named(name: ShortString) -> Self {
        Self(Mutex::new(name))
    }

    pub(super) fn name(&self) -> ShortString {
        self.0.lock().clone()
    }

    /// The name is another one from now on; the old one.
    pub(super) fn renew(&self, names: &QueueNames) -> Result<ShortString, BrokerError> {
        let new = next(names)?;
        Ok(std::mem::replace(&mut *self.0.lock(), new))
    }
}

fn next(names: &QueueNames) -> Result<ShortString, BrokerError> {
    short("the queue's name", &names.next())
}

/// Queues that feeds left.
#[derive(Default)]
pub(super) struct Leftovers {
    names: Mutex<VecDeque<ShortString>>,
    more: Notify,
}

impl Leftovers {
    /// A feed's queue, and the one for its dead letters.
    pub(super) fn add(&self, queue: ShortString) {
        let mut names = self.names.lock();
        if let Ok(overflow) = overflow_queue(&queue) {
            names.push_back(overflow);
        }
        names.push_back(queue);
        while names.len() > MAX_LEFT {
            names.pop_front();
        }
        drop(names);
        self.more.notify_one();
    }

    /// Tries once to delete each; whether none is left.
    pub(super) async fn delete(&self, live: &Live, deadline: Instant) -> bool {
        let names: Vec<_> = self.names.lock().iter().cloned().collect();
        for name in names {
            match delete(live, &name, deadline).await {
                Ok(()) => {
                    telemetry::leftover_deleted(name.as_str());
                    self.names.lock().retain(|other| *other != name);
                }
                Err(error) => telemetry::leftover_stays(name.as_str(), &error),
            }
        }
        self.names.lock().is_empty()
    }

    /// Waits for one that is left.
    async fn some(&self) {
        while self.names.lock().is_empty() {
            self.more.notified().await;
        }
    }
}

/// Deletes what is left, until the feeds are closed.
pub(super) async fn delete_leftovers(shared: Arc<Shared>) {
    let mut backoff = Backoff::new(RETRY);
    loop {
        shared.leftovers.some().await;
        let live = shared.link.wait().await;
        let deadline = after(shared.operation_timeout);
        if shared.leftovers.delete(&live, deadline).await {
            backoff.reset();
        } else {
            sleep(backoff.pause()).await;
        }
    }
}

async fn delete(live: &Live, queue: &ShortString, deadline: Instant) -> Result<(), BrokerError> {
    // A refusal closes the channel.
    let channel = live.passing(deadline).await?;
    let deleting = channel.queue_delete(queue.clone(), QueueDeleteOptions::default());
    answer(deadline, deleting).await?;
    // Nothing was asked on it that could still be under way.
    let _ = answer(deadline, channel.close(200, "bye".into())).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_queue_s_name_is_never_used_again() {
        let names = QueueNames {
            prefix: "feed".into(),
            numbers: Arc::default(),
        };
        let queue = FeedQueue::new(&names).unwrap();
        let old = queue.name();
        assert_eq!(queue.renew(&names).unwrap(), old);
        assert_ne!(queue.name(), old);
    }

    #[test]
    fn only_so_many_leftovers_are_remembered() {
        let leftovers = Leftovers::default();
        for number in 0..1_000 {
            leftovers.add(short("a name", &format!("q{number}")).unwrap());
        }
        let names = leftovers.names.lock();
        assert_eq!(names.len(), MAX_LEFT);
        assert_eq!(names.back().unwrap().as_str(), "q999");
    }
}
