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

/// Messages of one source that wait to be handed on, and their bytes, each once however many keys it
/// has; beyond, they are lost, and counted.
const MAX_WAITING: usize = 10_000;
const MAX_BYTES: usize = 32 << 20;
/// Those that are published before the broker's word on them is awaited.
const BATCH: usize = 64;
/// How often one is tried, and the pauses in between, at first and at most: a minute or so in all. By
/// then so many wait that others are lost for it.
const ATTEMPTS: u32 = 12;
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// A message that its exchange routed here in vain, to be handed on by one of its keys.
struct Vain {
    held: Arc<Held>,
    key: Box<str>,
    /// The broker may have it already.
    is_again: bool,
}

/// The message, and the room that it takes until it is through by all its keys.
struct Held {
    exchange: Arc<str>,
    message: Arc<Message>,
    /// As in [`Publish::lane`].
    lane: u64,
    room: Waiting,
    waiting: watch::Sender<Waiting>,
}

impl Drop for Held {
    fn drop(&mut self) {
        let room = self.room;
        self.waiting.send_modify(|waiting| waiting.remove(room));
    }
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

/// So many messages, the keys that they are to be handed on by, and their bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Waiting {
    messages: usize,
    keys: usize,
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
        let running = background::spawn(hand_on(host, receiver));
        (unheard, AbortOnDropHandle::new(running))
    }

    /// Takes a message that came for any of those of its keys that are meant: it is handed on by each,
    /// as if it had been published so. Does not wait.
    pub(super) fn push(&self, message: &Arc<Message>, is_meant: impl Fn(&str) -> bool) {
        let keys = std::iter::once(&message.routing_key).chain(&message.cc);
        let keys = keys.map(|key| &**key).filter(|key| is_meant(key));
        let keys: BTreeSet<&str> = keys.collect();
        if keys.is_empty() {
            return;
        }
        let held = self.hold(message, &keys);
        for key in keys {
            let is_queued = held.as_ref().is_some_and(|held| {
                let vain = Vain {
                    held: Arc::clone(held),
                    key: key.into(),
                    is_again: false,
                };
                // It has no receiver any more only when the hub is gone.
                self.sender.send(vain).is_ok()
            });
            if !is_queued {
                telemetry::offline_lost(&self.source, "too many are to be handed on");
            }
        }
    }

    /// Takes room for the message, if there is any.
    fn hold(&self, message: &Arc<Message>, keys: &BTreeSet<&str>) -> Option<Arc<Held>> {
        let of_keys = keys.iter().flat_map(|key| [size_of::<Vain>(), key.len()]);
        let room = Waiting {
            messages: 1,
            keys: keys.len(),
            bytes: of_keys.fold(message.weight(), usize::saturating_add),
        };
        let has_room = self
            .waiting
            .send_if_modified(|waiting| waiting.add_if_room(room));
        has_room.then(|| {
            Arc::new(Held {
                exchange: Arc::clone(&self.source),
                message: Arc::clone(message),
                lane: self.lane,
                room,
                waiting: self.waiting.clone(),
            })
        })
    }

    /// Done when none waits. What is left then is lost with the feeds, and counted.
    pub(super) async fn flush(&self, until: Instant) {
        let mut waiting = self.waiting.subscribe();
        let flushing = timeout_at(until, waiting.wait_for(|waiting| waiting.messages == 0));
        if flushing.await.is_err() {
            telemetry::offline_left(self.waiting.borrow().keys);
        }
    }
}

async fn hand_on(host: Arc<dyn VirtualHost>, mut receiver: mpsc::UnboundedReceiver<Vain>) {
    let mut batch = Vec::new();
    while receiver.recv_many(&mut batch, BATCH).await > 0 {
        let mut backoff = Backoff::new(PAUSES);
        // Those behind wait meanwhile, so that messages of a key stay in order.
        for attempt in 1..=ATTEMPTS {
            batch = publish_all(&*host, batch, attempt < ATTEMPTS).await;
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
                telemetry::offline_lost(&vain.held.exchange, &error.to_string());
                return None;
            }
            let is_again = vain.is_again || may_be_there;
            Some(Vain { is_again, ..vain })
        });
    }
    join_all(confirms).await.into_iter().flatten().collect()
}

impl Waiting {
    /// Takes more, if there is room: one that is larger than all room waits alone. Whether there is.
    fn add_if_room(&mut self, more: Self) -> bool {
        let all = Self {
            messages: self.messages.saturating_add(more.messages),
            keys: self.keys.saturating_add(more.keys),
            bytes: self.bytes.saturating_add(more.bytes),
        };
        let is_within = all.messages <= MAX_WAITING && all.bytes <= MAX_BYTES;
        let has_room = is_within || self.messages == 0;
        if has_room {
            *self = all;
        }
        has_room
    }

    fn remove(&mut self, less: Self) {
        self.messages = self.messages.saturating_sub(less.messages);
        self.keys = self.keys.saturating_sub(less.keys);
        self.bytes = self.bytes.saturating_sub(less.bytes);
    }
}

impl Vain {
    fn publish(&self) -> Publish {
        let held = &self.held;
        let mut properties = held.message.properties.clone();
        // RabbitMQ lets nobody publish in another's name.
        properties.user_id = None;
        let header = (UNHEARD_HEADER.into(), "1".into());
        properties.headers.push(header);
        if self.is_again {
            mark_duplicate(&mut properties);
        }
        Publish {
            exchange: offline_of(&held.exchange).into(),
            routing_key: self.key.clone(),
            properties,
            body: held.message.body.clone(),
            mandatory: true,
            // Messages of a key stay in order.
            lane: held.lane,
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
            let one = Waiting {
                messages: 1,
                keys: 1,
                bytes: weight,
            };
            let mut waiting = Waiting::default();
            let taken = (0..MAX_WAITING * 2).filter(|_| waiting.add_if_room(one));
            assert_eq!(taken.count(), room, "{weight}");
            waiting.remove(one);
            assert!(waiting.add_if_room(one), "{weight}");
        }
    }
}
