//! Messages that came for a key whose last subscriber here had just left: they are handed on for
//! those who are away, to the exchange that gets what nobody is subscribed to.

use std::sync::Arc;

use futures_util::future::join_all;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout_at},
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    broker::{LANE_OF_UNHEARD, Message, Publish, UNHEARD_HEADER, VirtualHost, offline_of},
    telemetry,
};

/// Messages that wait to be handed on; beyond, they are lost, and counted.
const MAX_WAITING: usize = 10_000;
/// Those that are published before the broker's word on them is awaited.
const BATCH: usize = 64;

/// An exchange, and a message that it routed here in vain.
type Vain = (Arc<str>, Arc<Message>);

/// Takes them.
pub(super) struct Unheard {
    sender: mpsc::Sender<Vain>,
    /// How many wait, or are on their way.
    waiting: watch::Sender<usize>,
}

impl Unheard {
    /// Hands them on for as long as the handle lives.
    pub(super) fn start(host: Arc<dyn VirtualHost>) -> (Arc<Self>, AbortOnDropHandle<()>) {
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        let unheard = Arc::new(Self {
            sender,
            waiting: watch::Sender::new(0),
        });
        let running = tokio::spawn(hand_on(host, receiver, unheard.waiting.clone()));
        (unheard, AbortOnDropHandle::new(running))
    }

    /// Does not wait.
    pub(super) fn push(&self, exchange: &Arc<str>, message: &Arc<Message>) {
        let vain = (Arc::clone(exchange), Arc::clone(message));
        self.waiting
            .send_modify(|count| *count = count.saturating_add(1));
        if self.sender.try_send(vain).is_err() {
            self.waiting
                .send_modify(|count| *count = count.saturating_sub(1));
            telemetry::offline_lost(exchange, "too many are to be handed on");
        }
    }

    /// Done when none waits. What is left then is lost with the feeds, and counted.
    pub(super) async fn flush(&self, until: Instant) {
        let mut waiting = self.waiting.subscribe();
        let flushing = timeout_at(until, waiting.wait_for(|count| *count == 0));
        if flushing.await.is_err() {
            telemetry::offline_left(*self.waiting.borrow());
        }
    }
}

async fn hand_on(
    host: Arc<dyn VirtualHost>,
    mut receiver: mpsc::Receiver<Vain>,
    waiting: watch::Sender<usize>,
) {
    let mut batch = Vec::new();
    while receiver.recv_many(&mut batch, BATCH).await > 0 {
        let count = batch.len();
        let mut confirms = Vec::with_capacity(count);
        for (exchange, message) in batch.drain(..) {
            match host.publish(publish(&exchange, &message)).await {
                Ok(confirm) => confirms.push(async move {
                    if let Err(error) = confirm.await {
                        telemetry::offline_lost(&exchange, &error.to_string());
                    }
                }),
                Err(error) => telemetry::offline_lost(&exchange, &error.to_string()),
            }
        }
        join_all(confirms).await;
        waiting.send_modify(|waiting| *waiting = waiting.saturating_sub(count));
    }
}

fn publish(exchange: &str, message: &Message) -> Publish {
    let mut properties = message.properties.clone();
    // RabbitMQ lets nobody publish in another's name.
    properties.user_id = None;
    let header = (UNHEARD_HEADER.into(), "1".into());
    properties.headers.push(header);
    Publish {
        exchange: offline_of(exchange).into(),
        routing_key: message.routing_key.clone(),
        properties,
        body: message.body.clone(),
        mandatory: true,
        // Messages of a key stay in order.
        lane: LANE_OF_UNHEARD,
        slow: None,
    }
}
