//! Takes events to the broker.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;

use super::{Event, Outbox};
use crate::{
    broker::{BrokerError, Properties, Publish, VirtualHost},
    telemetry,
};

/// Events that are published before the broker's word on them is awaited.
const BATCH: usize = 256;
/// The pause after a failure: at first, and at most.
const PAUSES: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(5)];
/// The lane of all events, so that they stay in order; connections count theirs up from 0.
const LANE: u64 = u64::MAX;

/// Publishes what is in the outbox to a topic exchange, until that is closed and empty. What the
/// broker did not take, or did not confirm, is published again, so an event may come twice.
pub async fn publish(outbox: Arc<Outbox>, host: Arc<dyn VirtualHost>, exchange: Box<str>) {
    let [first, longest] = PAUSES;
    let mut pause = first;
    let mut is_up = None;
    loop {
        let events = outbox.next(BATCH).await;
        if events.is_empty() {
            return;
        }
        let outcomes = join_all(in_order(&*host, &exchange, &events).await).await;
        let mut cause = None;
        let failed = events
            .into_iter()
            .zip(outcomes)
            .filter_map(|(event, done)| {
                cause = Some(done.err()?);
                Some(event)
            });
        let failed: Vec<_> = failed.collect();
        match cause {
            None => {
                pause = first;
                if is_up.replace(true) != Some(true) {
                    telemetry::presence_events_up(&exchange);
                }
            }
            Some(cause) => {
                outbox.put_back(failed);
                if is_up.replace(false) != Some(false) {
                    telemetry::presence_events_down(&exchange, &cause, pause);
                }
                tokio::time::sleep(pause.mul_f64(rand::random_range(0.8..1.2))).await;
                pause = (pause * 2).min(longest);
            }
        }
    }
}

/// Hands the events over; what comes back waits for the broker's word on each.
async fn in_order(
    host: &dyn VirtualHost,
    exchange: &str,
    events: &[Event],
) -> Vec<impl Future<Output = Result<(), BrokerError>> + use<>> {
    let mut confirms = Vec::with_capacity(events.len());
    for event in events {
        let body = Bytes::from(event.body());
        let mut of_event = Vec::new();
        for routing_key in event.keys() {
            let publish = Publish {
                exchange: exchange.into(),
                routing_key,
                properties: properties(),
                body: body.clone(),
                mandatory: false,
                lane: LANE,
            };
            of_event.push(host.publish(publish).await);
        }
        confirms.push(async move {
            for confirm in of_event {
                confirm?.await?;
            }
            Ok(())
        });
    }
    confirms
}

/// Transient: a broker that restarts need not remember who came and went.
fn properties() -> Properties {
    Properties {
        content_type: Some("application/json".into()),
        ..Properties::default()
    }
}
