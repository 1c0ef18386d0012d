//! Takes events to the broker.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant as StdInstant},
};

use bytes::Bytes;
use futures_util::future::{FutureExt as _, join_all};
use tokio::time::Instant;

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

/// How often an event may be without a confirm in time.
const SILENCES: u8 = 2;

/// How long nothing may be confirmed before that is the events' own fault: heart-beats find a dead link
/// sooner.
const HANGS: Duration = Duration::from_secs(120);

/// Publishes the outbox to a topic exchange, until the outbox is closed and empty. An event that
/// the broker did not take, or did not answer for, is published again: it may come twice. One that
/// it refused is not, nor one that it did not confirm in time twice, if it did others, or has confirmed
/// nothing for two minutes: a reader's queue is full, or hangs, and that reader's fault delays nobody
/// else. A lost link does not count: that is no event's fault.
pub async fn publish<E: Announcement>(
    outbox: Arc<Outbox<E>>,
    host: Arc<dyn VirtualHost>,
    exchange: Box<str>,
) {
    let mut backoff = Backoff::new(PAUSES);
    let mut is_up = None;
    let mut refusals = Seldom::once_in(Seldom::MINUTE);
    // How often those who wait again had no confirm in time.
    let mut unanswered = HashMap::<E::Subject, u8>::new();
    // Since when there was nothing but silence.
    let mut silent_since = None;
    loop {
        let events = outbox.next(BATCH).await;
        if events.is_empty() {
            return;
        }
        let (confirms, mut cause) = hand_over(&*host, &exchange, &events).await;
        let outcomes = join_all(confirms).await;
        let answers = outcomes.iter().any(is_answer);
        let is_silent = |outcome: &Result<(), _>| outcome.as_ref().is_err_and(is_silence);
        silent_since = match !outcomes.is_empty() && outcomes.iter().all(is_silent) {
            true => silent_since.or_else(|| Some(Instant::now())),
            false => None,
        };
        let hangs = silent_since.is_some_and(|since| since.elapsed() >= HANGS);
        let mut outcomes = outcomes.into_iter();
        let (mut not_handed_over, mut again) = (Vec::new(), Vec::new());
        for event in events {
            let Some(outcome) = outcomes.next() else {
                not_handed_over.push(event);
                continue;
            };
            let silences = unanswered.remove(&event.subject()).unwrap_or(0);
            let why = match outcome {
                Ok(()) => continue,
                Err(BrokerError::Nacked) => "nacked",
                Err(error) => {
                    let is_silence = is_silence(&error);
                    let silences = silences.saturating_add(u8::from(is_silence));
                    let is_its_own = is_silence && silences >= SILENCES && (answers || hangs);
                    if !(is_its_own && answers) {
                        cause = Some(error);
                    }
                    if !is_its_own {
                        if silences > 0 {
                            unanswered.insert(event.subject(), silences);
                        }
                        again.push(event);
                        continue;
                    }
                    "unanswered"
                }
            };
            telemetry::not_published(why);
            if let Some(unsaid) = refusals.let_through(StdInstant::now()) {
                telemetry::presence_event_refused(&exchange, unsaid);
            }
        }
        match cause {
            None => {
                backoff.reset();
                if is_up.replace(true) != Some(true) {
                    telemetry::presence_events_up(&exchange);
                }
            }
            Some(cause) => {
                outbox.put_back(not_handed_over);
                outbox.put_behind(again);
                let pause = backoff.pause();
                if is_up.replace(false) != Some(false) {
                    telemetry::presence_events_down(&exchange, &cause, pause);
                }
                tokio::time::sleep(pause).await;
            }
        }
    }
}

/// Whether the broker has said what became of an event.
fn is_answer(outcome: &Result<(), BrokerError>) -> bool {
    matches!(outcome, Ok(()) | Err(BrokerError::Nacked))
}

/// Whether it is that the broker did not confirm in time.
fn is_silence(error: &BrokerError) -> bool {
    matches!(error, BrokerError::Unavailable(cause) if cause.is_silence())
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
/// who has the event, though it refused another. If a link was lost, that tells nothing of the queues.
async fn confirmed(of_event: Vec<Confirm>) -> Result<(), BrokerError> {
    let outcomes = join_all(of_event).await.into_iter();
    let errors = outcomes.filter_map(Result::err);
    let worst = errors.max_by_key(|error| (*error != BrokerError::Nacked, !is_silence(error)));
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
        broker::{Cause, Consume, Consumer, DeliverySink, ExchangeKind, FeedId, QueueSpec},
        presence::{Event, Status},
    };

    type Answer = Result<(), BrokerError>;

    /// A broker, and the keys that it was given. The queues of users `full-…` are full, those of
    /// `stuck-…` hang. Twice, the link is lost before it answers for `lost-…`. For `late-…` it answers
    /// at the fifth time.
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
            let before = self.tries(&publish.routing_key);
            let answer = match &*publish.routing_key {
                key if key.starts_with("user.full-") => Err(BrokerError::Nacked),
                key if key.starts_with("user.stuck-") => {
                    Err(BrokerError::Unavailable(Cause::silence("no answer")))
                }
                key if key.starts_with("user.late-") && before < 4 => {
                    Err(BrokerError::Unavailable(Cause::silence("no answer")))
                }
                key if key.starts_with("user.lost-") && before < 2 => {
                    Err(BrokerError::Unavailable("lost".into()))
                }
                _ => Ok(()),
            };
            self.0.lock().push(publish.routing_key);
            let confirm: Confirm = ready(answer).boxed();
            ready(Ok(confirm)).boxed()
        }

        fn close(&self) -> BoxFuture<'_, ()> {
            ready(()).boxed()
        }
    }

    impl Host {
        /// How often it was given this key.
        fn tries(&self, key: &str) -> usize {
            let told = self.0.lock();
            told.iter().filter(|told| ***told == *key).count()
        }
    }

    /// So many users with that name and a number come, and then alice.
    fn come_before_alice(outbox: &Outbox, name: &str) -> Vec<String> {
        let mut users: Vec<_> = (0..BATCH)
            .map(|number| format!("{name}-{number}"))
            .collect();
        users.push("alice".to_owned());
        for user in &users {
            outbox.push(event(user, Status::Offline, Status::Online));
        }
        users
    }

    fn event(user: &str, previous: Status, status: Status) -> Event {
        let now = SystemTime::now();
        Event::new(&user.into(), [].into(), previous, status, now).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn the_full_queues_of_some_delay_nobody_else_s_events() {
        let (outbox, host) = (Outbox::new(), Arc::new(Host::default()));
        let users = come_before_alice(&outbox, "full");
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

    /// All of a batch have no answer, again and again; then it is the reader's fault.
    #[tokio::test(start_paused = true)]
    async fn the_hung_queues_of_some_hold_up_nobody_else_s_events() {
        let (outbox, host) = (Outbox::new(), Arc::new(Host::default()));
        let users = come_before_alice(&outbox, "stuck");
        let publishing = publish(
            Arc::clone(&outbox),
            Arc::clone(&host) as _,
            "presence".into(),
        );
        let publishing = tokio::spawn(publishing);
        let told = async |wanted: &str| {
            while !host.0.lock().iter().any(|key| **key == *wanted) {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let limit = Duration::from_secs(60);
        tokio::time::timeout(limit, told("user.alice"))
            .await
            .unwrap();
        // They come twice, and the last one once more, with which the broker answered about nobody.
        outbox.push(event("bob", Status::Offline, Status::Online));
        outbox.close();
        tokio::time::timeout(limit, publishing)
            .await
            .unwrap()
            .unwrap();
        let tries = |user: &str| host.tries(&format!("user.{user}"));
        let (last, others) = users[..BATCH].split_last().unwrap();
        assert!(others.iter().all(|user| tries(user) == 2));
        assert!(tries(last) >= 2);
        assert_eq!(tries("alice"), 1);
    }

    /// The broker, after everything in the outbox was told or given up.
    async fn emptied(outbox: Arc<Outbox>) -> Arc<Host> {
        let host = Arc::new(Host::default());
        outbox.close();
        let publishing = publish(outbox, Arc::clone(&host) as _, "presence".into());
        tokio::time::timeout(2 * HANGS, publishing).await.unwrap();
        host
    }

    /// In the second batch, alice's event is confirmed beside them.
    #[tokio::test(start_paused = true)]
    async fn links_that_are_lost_in_a_row_lose_no_events() {
        let outbox = Outbox::new();
        let users = come_before_alice(&outbox, "lost");
        let host = emptied(outbox).await;
        let tries = |user: &String| host.tries(&format!("user.{user}"));
        assert!(users[..BATCH].iter().all(|user| tries(user) == 3));
    }

    /// Its reader wants everybody's events, so nobody's are confirmed.
    #[tokio::test(start_paused = true)]
    async fn a_hung_queue_that_hears_everybody_gets_nothing_endlessly() {
        let outbox = Outbox::new();
        for user in ["stuck-1", "stuck-2"] {
            outbox.push(event(user, Status::Offline, Status::Online));
        }
        let host = emptied(outbox).await;
        let tries = ["user.stuck-1", "user.stuck-2"].map(|key| host.tries(key));
        assert!(tries.iter().all(|tries| *tries >= 3), "{tries:?}");
    }

    /// A dead link may be found later than some messages are given up.
    #[tokio::test(start_paused = true)]
    async fn a_link_that_dies_in_silence_loses_no_events() {
        let outbox = Outbox::new();
        outbox.push(event("late-1", Status::Offline, Status::Online));
        let host = emptied(outbox).await;
        assert_eq!(host.tries("user.late-1"), 5);
    }

    #[tokio::test]
    async fn of_keys_without_an_answer_an_event_is_told_again() {
        let away = || Err(BrokerError::Unavailable("away".into()));
        let silence = || Err(BrokerError::Unavailable(Cause::silence("no answer")));
        let confirm = |answer: Answer| -> Confirm { ready(answer).boxed() };
        let nacked = || Err(BrokerError::Nacked);
        for (answers, expected) in [
            ([Ok(()), Ok(())], Ok(())),
            ([nacked(), Ok(())], nacked()),
            ([nacked(), away()], away()),
            ([away(), nacked()], away()),
            ([silence(), nacked()], silence()),
            ([silence(), away()], away()),
            ([away(), silence()], away()),
        ] {
            let confirms = Vec::from(answers.map(confirm));
            assert_eq!(confirmed(confirms).await, expected);
        }
    }
}
