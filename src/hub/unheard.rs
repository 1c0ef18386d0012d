//! Messages that came for a key whose last subscriber here had just left: they are handed on for
//! those who are away, to the exchange that gets what nobody is subscribed to.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, timeout_at},
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    background,
    backoff::Backoff,
    broker::{BrokerError, Message, Publish, UNHEARD_HEADER, VirtualHost, offline_of},
    messaging::mark_duplicate,
    telemetry,
};

/// Messages of one source that wait to be handed on, and their bytes; beyond, they are lost, and counted.
const MAX_WAITING: usize = 10_000;
const MAX_BYTES: usize = 32 << 20;
/// Those that are published before the broker's word on them is awaited.
const BATCH: usize = 64;
/// How often one is tried, and the pauses in between, at first and at most: a minute or so in all. By
/// then so many wait that others are lost for it.
const ATTEMPTS: u32 = 12;
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// A message that its exchange routed here in vain.
struct Vain {
    exchange: Arc<str>,
    /// One of its keys.
    key: Box<str>,
    message: Arc<Message>,
    /// As in [`Publish::lane`].
    lane: u64,
    /// The broker may have it already.
    is_again: bool,
}

/// Takes those of one source: while its messages are refused, those of others are handed on.
pub(super) struct Unheard {
    source: Arc<str>,
    /// Its own ([`lane_of_unheard`](crate::broker::lane_of_unheard)).
    lane: u64,
    sender: mpsc::UnboundedSender<Vain>,
    /// What waits, or is on its way.
    waiting: watch::Sender<Waiting>,
}

/// So many messages, and their bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Waiting {
    messages: usize,
    bytes: usize,
}

impl Unheard {
    /// Hands them on for as long as the handle lives.
    pub(super) fn start(
        source: &str,
        lane: u64,
        host: Arc<dyn VirtualHost>,
    ) -> (Arc<Self>, AbortOnDropHandle<()>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let unheard = Arc::new(Self {
            source: source.into(),
            lane,
            sender,
            waiting: watch::Sender::new(Waiting::default()),
        });
        let running = background::spawn(hand_on(host, receiver, unheard.waiting.clone()));
        (unheard, AbortOnDropHandle::new(running))
    }

    /// Does not wait.
    pub(super) fn push(&self, message: &Arc<Message>) {
        // It came for any of its keys: it is handed on by each, as if it had been published so.
        let keys = std::iter::once(&message.routing_key).chain(&message.cc);
        for key in keys.collect::<BTreeSet<_>>() {
            self.push_by(key, message);
        }
    }

    fn push_by(&self, key: &str, message: &Arc<Message>) {
        let vain = Vain {
            exchange: Arc::clone(&self.source),
            key: key.into(),
            message: Arc::clone(message),
            lane: self.lane,
            is_again: false,
        };
        let weight = message.weight();
        let has_room = self
            .waiting
            .send_if_modified(|waiting| waiting.add_if_room(weight));
        // It has no receiver any more only when the hub is gone.
        if !has_room || self.sender.send(vain).is_err() {
            telemetry::offline_lost(&self.source, "too many are to be handed on");
        }
    }

    /// Done when none waits. What is left then is lost with the feeds, and counted.
    pub(super) async fn flush(&self, until: Instant) {
        let mut waiting = self.waiting.subscribe();
        let flushing = timeout_at(until, waiting.wait_for(|waiting| waiting.messages == 0));
        if flushing.await.is_err() {
            telemetry::offline_left(self.waiting.borrow().messages);
        }
    }
}

async fn hand_on(
    host: Arc<dyn VirtualHost>,
    mut receiver: mpsc::UnboundedReceiver<Vain>,
    waiting: watch::Sender<Waiting>,
) {
    let mut batch = Vec::new();
    while receiver.recv_many(&mut batch, BATCH).await > 0 {
        let mut backoff = Backoff::new(PAUSES);
        // Those behind wait meanwhile, so that messages of a key stay in order.
        for attempt in 1..=ATTEMPTS {
            let before = Waiting::of(&batch);
            batch = publish_all(&*host, batch, attempt < ATTEMPTS).await;
            let left = Waiting::of(&batch);
            waiting.send_modify(|waiting| waiting.shrink(before, left));
            if batch.is_empty() {
                break;
            }
            sleep(backoff.pause()).await;
        }
    }
}

/// Publishes all; those that are to be tried again, if any `may_be`.
async fn publish_all(host: &dyn VirtualHost, batch: Vec<Vain>, may_be: bool) -> Vec<Vain> {
    let mut confirms = Vec::with_capacity(batch.len());
    for vain in batch {
        let published = host.publish(vain.publish()).await;
        confirms.push(async move {
            let (error, may_be_there) = match published {
                Ok(confirm) => match confirm.await {
                    Ok(()) => return None,
                    Err(error) => {
                        let is_open = matches!(error, BrokerError::Unavailable(_));
                        (error, is_open)
                    }
                },
                Err(error) => (error, false),
            };
            // The next attempt would end no better.
            let is_final = matches!(error, BrokerError::PreconditionFailed(_));
            if is_final || !may_be {
                telemetry::offline_lost(&vain.exchange, &error.to_string());
                return None;
            }
            let is_again = vain.is_again || may_be_there;
            Some(Vain { is_again, ..vain })
        });
    }
    join_all(confirms).await.into_iter().flatten().collect()
}

impl Waiting {
    fn of(batch: &[Vain]) -> Self {
        let bytes = batch.iter().map(|vain| vain.message.weight());
        Self {
            messages: batch.len(),
            bytes: bytes.fold(0, usize::saturating_add),
        }
    }

    /// One more, if there is room: one that is larger than all room waits alone. Whether there is.
    fn add_if_room(&mut self, weight: usize) -> bool {
        let bytes = self.bytes.saturating_add(weight);
        if self.messages >= MAX_WAITING || (self.messages > 0 && bytes > MAX_BYTES) {
            return false;
        }
        self.messages = self.messages.saturating_add(1);
        self.bytes = bytes;
        true
    }

    /// What was in hand is less now.
    fn shrink(&mut self, before: Self, left: Self) {
        let less = |all: usize, before: usize, left: usize| {
            all.saturating_sub(before.saturating_sub(left))
        };
        self.messages = less(self.messages, before.messages, left.messages);
        self.bytes = less(self.bytes, before.bytes, left.bytes);
    }
}

impl Vain {
    fn publish(&self) -> Publish {
        let mut properties = self.message.properties.clone();
        // RabbitMQ lets nobody publish in another's name.
        properties.user_id = None;
        let header = (UNHEARD_HEADER.into(), "1".into());
        properties.headers.push(header);
        if self.is_again {
            mark_duplicate(&mut properties);
        }
        Publish {
            exchange: offline_of(&self.exchange).into(),
            routing_key: self.key.clone(),
            properties,
            body: self.message.body.clone(),
            mandatory: true,
            // Messages of a key stay in order.
            lane: self.lane,
            slow: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_bounded_by_number_and_by_bytes() {
        for (weight, room) in [(0, MAX_WAITING), (1 << 20, 32), (MAX_BYTES * 2, 1)] {
            let mut waiting = Waiting::default();
            let taken = (0..MAX_WAITING * 2).filter(|_| waiting.add_if_room(weight));
            assert_eq!(taken.count(), room, "{weight}");
            let one = Waiting {
                messages: 1,
                bytes: weight,
            };
            waiting.shrink(one, Waiting::default());
            assert!(waiting.add_if_room(weight), "{weight}");
        }
    }
}
