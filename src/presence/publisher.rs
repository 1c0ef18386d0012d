//! Takes events to the broker.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::{TryJoinAll, join_all, try_join_all};

use super::{Announcement, Outbox};
use crate::{
    backoff::Backoff,
    broker::{BrokerError, Confirm, LANE_OF_EVENTS, Properties, Publish, VirtualHost},
    telemetry,
};

/// Events that are published before the broker's word on them is awaited.
const BATCH: usize = 256;
/// The pause after a failure: at first, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// Publishes the outbox to a topic exchange, until the outbox is closed and empty. An event that
/// the broker did not take, or did not confirm, is published again: it may come twice.
pub async fn publish<E: Announcement>(
    outbox: Arc<Outbox<E>>,
    host: Arc<dyn VirtualHost>,
    exchange: Box<str>,
) {
    let mut backoff = Backoff::new(PAUSES);
    let mut is_up = None;
    loop {
        let events = outbox.next(BATCH).await;
        if events.is_empty() {
            return;
        }
        let (confirms, mut cause) = hand_over(&*host, &exchange, &events).await;
        let mut outcomes = join_all(confirms).await.into_iter();
        // An event that was not handed over has no outcome.
        let failed: Vec<_> = events
            .into_iter()
            .filter(|_| match outcomes.next() {
                Some(Ok(_)) => false,
                Some(Err(error)) => {
                    cause = Some(error);
                    true
                }
                None => true,
            })
            .collect();
        match cause {
            None => {
                backoff.reset();
                if is_up.replace(true) != Some(true) {
                    telemetry::presence_events_up(&exchange);
                }
            }
            Some(cause) => {
                outbox.put_back(failed);
                let pause = backoff.pause();
                if is_up.replace(false) != Some(false) {
                    telemetry::presence_events_down(&exchange, &cause, pause);
                }
                tokio::time::sleep(pause).await;
            }
        }
    }
}

/// Hands the events over, in order, up to the first that the broker does not take, with the
/// reason: the others would only wait as long. The futures that it returns wait for the confirms.
async fn hand_over<E: Announcement>(
    host: &dyn VirtualHost,
    exchange: &str,
    events: &[E],
) -> (Vec<TryJoinAll<Confirm>>, Option<BrokerError>) {
    let mut confirms = Vec::with_capacity(events.len());
    for event in events {
        let body = Bytes::from(event.json());
        let mut of_event = Vec::new();
        for routing_key in event.routing_keys() {
            let publish = Publish {
                exchange: exchange.into(),
                routing_key,
                properties: properties(),
                body: body.clone(),
                mandatory: false,
                lane: LANE_OF_EVENTS,
                slow: None,
            };
            match host.publish(publish).await {
                Ok(confirm) => of_event.push(confirm),
                Err(error) => return (confirms, Some(error)),
            }
        }
        confirms.push(try_join_all(of_event));
    }
    (confirms, None)
}

/// Transient: a broker that restarts need not remember who came and went.
fn properties() -> Properties {
    Properties {
        content_type: Some("application/json".into()),
        ..Properties::default()
    }
}
