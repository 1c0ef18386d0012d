//! Takes events to the broker.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::future::{FutureExt as _, join_all};

use super::{Announcement, Outbox};
use crate::{
    backoff::Backoff,
    broker::{BrokerError, Confirm, LANE_OF_EVENTS, Properties, Publish, VirtualHost},
    telemetry::{self, Seldom},
};

/// Events that are published before the broker's word on them is awaited.
const BATCH: usize = 256;
/// The pause after a failure: at first, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// Publishes the outbox to a topic exchange, until the outbox is closed and empty. An event that
/// the broker did not take, or did not answer for, is published again: it may come twice. One that
/// it refused is not: a reader's queue is full, and that reader's fault delays nobody else.
pub async fn publish<E: Announcement>(
    outbox: Arc<Outbox<E>>,
    host: Arc<dyn VirtualHost>,
    exchange: Box<str>,
) {
    let mut backoff = Backoff::new(PAUSES);
    let mut is_up = None;
    let mut refusals = Seldom::once_in(Seldom::MINUTE);
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
                Some(Ok(())) => false,
                Some(Err(BrokerError::Nacked)) => {
                    telemetry::not_published("nacked");
                    if let Some(unsaid) = refusals.let_through(Instant::now()) {
                        telemetry::presence_event_refused(&exchange, unsaid);
                    }
                    false
                }
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
) -> (Vec<Confirm>, Option<BrokerError>) {
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
        confirms.push(confirmed(of_event).boxed());
    }
    (confirms, None)
}

/// The broker's word on an event, by that on each of its keys. If it has none on one, it is not known
/// who has the event, though it refused another.
async fn confirmed(of_event: Vec<Confirm>) -> Result<(), BrokerError> {
    let outcomes = join_all(of_event).await.into_iter();
    let errors = outcomes.filter_map(Result::err);
    let worst = errors.max_by_key(|error| *error != BrokerError::Nacked);
    worst.map_or(Ok(()), Err)
}

/// Transient: a broker that restarts need not remember who came and went.
fn properties() -> Properties {
    Properties {
        content_type: Some("application/json".into()),
        ..Properties::default()
    }
}

#[cfg(test)]
mod tests {
    use std::{future::ready, time::SystemTime};

    use futures_util::future::BoxFuture;
    use parking_lot::Mutex;

    use super::*;
    use crate::{
        broker::{Consume, Consumer, DeliverySink, ExchangeKind, FeedId, QueueSpec},
        presence::{Event, Status},
    };

    type Answer = Result<(), BrokerError>;

    /// A broker, and the keys that it was given. The queues of users `full-…` are full.
    #[derive(Default)]
    struct Host(Mutex<Vec<Box<str>>>);

    impl VirtualHost for Host {
        fn health(&self) -> Answer {
            Ok(())
        }

        fn opened(&self) -> BoxFuture<'_, Answer> {
            ready(Ok(())).boxed()
        }

        fn exchange_kind<'a>(
            &'a self,
            _: &'a str,
        ) -> BoxFuture<'a, Result<ExchangeKind, BrokerError>> {
            ready(Ok(ExchangeKind::Topic)).boxed()
        }

        fn bind_feed<'a>(&'a self, _: &'a FeedId, _: &'a str) -> BoxFuture<'a, Answer> {
            unreachable!("nobody binds")
        }

        fn unbind_feed<'a>(&'a self, _: &'a FeedId, _: &'a str) -> BoxFuture<'a, Answer> {
            unreachable!("nobody unbinds")
        }

        fn end_feed(&self, _: &FeedId) {}

        fn consume(
            &self,
            _: Consume,
            _: Arc<dyn DeliverySink>,
        ) -> BoxFuture<'_, Result<Arc<dyn Consumer>, BrokerError>> {
            unreachable!("nobody consumes")
        }

        fn declare_queue<'a>(&'a self, _: &'a QueueSpec) -> BoxFuture<'a, Answer> {
            unreachable!("nobody declares")
        }

        fn delete_queue<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Answer> {
            unreachable!("nobody deletes")
        }

        fn publish(&self, publish: Publish) -> BoxFuture<'_, Result<Confirm, BrokerError>> {
            let is_full = publish.routing_key.starts_with("user.full-");
            self.0.lock().push(publish.routing_key);
            let answer = if is_full {
                Err(BrokerError::Nacked)
            } else {
                Ok(())
            };
            let confirm: Confirm = ready(answer).boxed();
            ready(Ok(confirm)).boxed()
        }

        fn close(&self) -> BoxFuture<'_, ()> {
            ready(()).boxed()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_full_queues_of_some_delay_nobody_else_s_events() {
        let (outbox, host) = (Outbox::new(), Arc::new(Host::default()));
        let mut users: Vec<_> = (0..BATCH).map(|number| format!("full-{number}")).collect();
        users.push("alice".to_owned());
        for user in &users {
            let (user, now): (Arc<str>, _) = (user.as_str().into(), SystemTime::now());
            let event = Event::new(&user, [].into(), Status::Offline, Status::Online, now);
            outbox.push(event.unwrap());
        }
        outbox.close();
        let publishing = publish(outbox, Arc::clone(&host) as _, "presence".into());
        // Without a pause, which would be of this clock.
        let limit = Duration::from_millis(1);
        tokio::time::timeout(limit, publishing).await.unwrap();
        let keys: Vec<_> = users.iter().map(|user| format!("user.{user}")).collect();
        let told = host.0.lock();
        assert!(
            told.iter()
                .map(|key| &**key)
                .eq(keys.iter().map(|key| &**key))
        );
    }

    #[tokio::test]
    async fn of_keys_without_an_answer_an_event_is_told_again() {
        let away = || Err(BrokerError::Unavailable("away".into()));
        let confirm = |answer: Answer| -> Confirm { ready(answer).boxed() };
        let nacked = || Err(BrokerError::Nacked);
        for (answers, expected) in [
            ([Ok(()), Ok(())], Ok(())),
            ([nacked(), Ok(())], nacked()),
            ([nacked(), away()], away()),
            ([away(), nacked()], away()),
        ] {
            let confirms = Vec::from(answers.map(confirm));
            assert_eq!(confirmed(confirms).await, expected);
        }
    }
}
