//! The links of dedicated consumers: shared ones, of which each takes many, and some for the queues in
//! [quarantine](super::quarantine).

use std::sync::Arc;

use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout_at},
};

use super::{
    link::{AmqpLink, LinkConfig, Live},
    quarantine::{UNANSWERED, had_time},
};
use crate::broker::BrokerError;

/// Queues that are tried at a time; further ones wait for a turn.
const MAX_TRIALS: usize = 8;
/// Further ones whose answer is late. Each keeps a link to itself, so the next ones need another.
const MAX_LATE: usize = 32;

/// The links of all dedicated consumers of a virtual host.
pub(super) struct ConsumerLinks {
    config: LinkConfig,
    /// Each consumer holds a reference to its link, and so they are counted.
    links: Mutex<Vec<Arc<AmqpLink>>>,
    trials: Semaphore,
    late: Semaphore,
}

/// A link to ask for a queue in quarantine, on which nobody asks for another one meanwhile.
pub(super) struct Trial<'a> {
    queue: Box<str>,
    lent: Lent<'a>,
    /// Whether others are consumed on it.
    is_shared: bool,
    live: Arc<Live>,
    /// Since when it is there, and can be asked.
    since: Instant,
    /// Among those that are tried, or that are late.
    turn: SemaphorePermit<'a>,
}

impl Trial<'_> {
    /// Its connection.
    pub(super) fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// Whether others are served on its link, behind whose messages an answer may stand.
    pub(super) fn is_shared(&self) -> bool {
        self.is_shared
    }

    /// Another queue may be tried, elsewhere; unless too many are late.
    pub(super) fn end_turn(&mut self) {
        if let Ok(late) = self.lent.links.late.try_acquire() {
            self.turn = late;
        }
    }
}

/// A link that is not among the shared ones, until this is dropped.
struct Lent<'a> {
    links: &'a ConsumerLinks,
    link: Arc<AmqpLink>,
}

/// Consumers that are on the link by now stay there, and others may come.
impl Drop for Lent<'_> {
    fn drop(&mut self) {
        if Arc::strong_count(&self.link) > 1 {
            self.links.links.lock().push(Arc::clone(&self.link));
        }
    }
}

impl ConsumerLinks {
    pub(super) fn new(config: LinkConfig) -> Self {
        Self {
            config,
            links: Mutex::default(),
            trials: Semaphore::new(MAX_TRIALS),
            late: Semaphore::new(MAX_LATE),
        }
    }

    /// A link that has room for one more consumer.
    pub(super) fn shared(&self) -> Arc<AmqpLink> {
        let mut links = self.links.lock();
        // This list has one reference. What many consumers needed does not stay when they are gone.
        let (mut spare, mut free) = (false, None);
        links.retain(|link| {
            let consumers = Arc::strong_count(link).saturating_sub(1);
            if consumers > 0 {
                if free.is_none() && consumers < link.capacity() {
                    free = Some(Arc::clone(link));
                }
                return true;
            }
            // One whose channels are used up is of no use to anybody.
            link.capacity() > 0 && !std::mem::replace(&mut spare, true)
        });
        let spare = links.iter().find(|link| Arc::strong_count(link) == 1);
        if let Some(link) = free.or_else(|| spare.map(Arc::clone)) {
            return link;
        }
        let link = Arc::new(AmqpLink::start(self.config.clone()));
        links.push(Arc::clone(&link));
        link
    }

    /// True if a queue is to be asked for on a link of its own.
    pub(super) fn is_suspect(&self, queue: &str) -> bool {
        self.config.quarantine.is_suspect(queue)
    }

    /// A link of its own for a queue in quarantine, with which to ask for it; `None`: it is in none.
    ///
    /// # Errors
    /// [`BrokerError::QueueFailed`]: RabbitMQ failed over the queue a moment ago.
    /// [`BrokerError::Unavailable`]: there is no such link by `deadline`.
    pub(super) async fn trial(
        &self,
        queue: &str,
        deadline: Instant,
    ) -> Result<Option<Trial<'_>>, BrokerError> {
        let quarantine = &self.config.quarantine;
        if !quarantine.is_suspect(queue) {
            return Ok(None);
        }
        quarantine.check(queue)?;
        let Ok(Ok(turn)) = timeout_at(deadline, self.trials.acquire()).await else {
            let text = "too many queues that failed wait to be tried again";
            return Err(BrokerError::Unavailable(text.into()));
        };
        // Another one's trial may have shown it meanwhile.
        if !quarantine.is_suspect(queue) {
            return Ok(None);
        }
        quarantine.check(queue)?;
        let used = (!quarantine.is_culprit(queue)).then(|| self.of_trials());
        let used = used.flatten();
        let is_shared = used.is_some();
        let link = used.unwrap_or_else(|| Arc::new(AmqpLink::start(self.config.for_trial())));
        let lent = Lent { links: self, link };
        let live = lent.link.wait_until(deadline).await?;
        Ok(Some(Trial {
            queue: queue.into(),
            lent,
            is_shared,
            live,
            since: Instant::now(),
            turn,
        }))
    }

    /// A link on which others were tried that are consumed there now, if it has room: a thousand
    /// innocent queues are not to have a thousand links. It is nobody else's to ask on meanwhile.
    fn of_trials(&self) -> Option<Arc<AmqpLink>> {
        let mut links = self.links.lock();
        let is_for_it = |link: &Arc<AmqpLink>| {
            let consumers = Arc::strong_count(link).saturating_sub(1);
            link.is_of_trials() && link.health().is_ok() && consumers < link.capacity()
        };
        let place = links.iter().position(is_for_it)?;
        Some(links.swap_remove(place))
    }

    /// A queue was asked for on the link of a trial, which is one of the shared ones from now on if
    /// that went well.
    ///
    /// # Errors
    /// [`BrokerError::QueueFailed`]: RabbitMQ failed over the queue. Any other error of `outcome`.
    pub(super) fn end<T>(
        &self,
        trial: Trial<'_>,
        outcome: Result<T, BrokerError>,
    ) -> Result<(Arc<AmqpLink>, T), BrokerError> {
        let Trial {
            queue, lent, since, ..
        } = &trial;
        let quarantine = &self.config.quarantine;
        match outcome {
            Ok(begun) => {
                quarantine.clear(queue);
                Ok((Arc::clone(&lent.link), begun))
            }
            Err(BrokerError::Unavailable(cause)) if cause.is_verdict() => {
                Err(quarantine.failed(queue, &cause.to_string()))
            }
            Err(BrokerError::Unavailable(cause)) if cause.is_silence() && had_time(*since) => {
                Err(quarantine.failed(queue, UNANSWERED))
            }
            Err(error @ BrokerError::Unavailable(_)) => Err(error),
            // It answered, if by no more than a refusal.
            Err(error) => {
                quarantine.clear(queue);
                Err(error)
            }
        }
    }

    /// Succeeds if all links are up, or have a while to be made again.
    pub(super) fn readiness(&self) -> Result<(), BrokerError> {
        let links = self.links.lock();
        // The first attempt may be under way.
        links
            .iter()
            .filter(|link| link.was_up())
            .try_for_each(|link| link.readiness())
    }

    /// Queues that could be tried now.
    #[cfg(test)]
    pub(super) fn free_turns(&self) -> usize {
        self.trials.available_permits()
    }

    /// Closes all of them in good order.
    pub(super) async fn close(&self) {
        let links = std::mem::take(&mut *self.links.lock());
        // Together: a broker that does not answer takes its time for each of them.
        join_all(links.iter().map(|link| link.close())).await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::task::yield_now;

    use super::*;
    use crate::{
        broker::{Cause, amqp::stub::Stub},
        deadline::after,
    };

    const DEADLINE: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn a_link_whose_channels_are_used_up_gets_another_beside_it() {
        let stub = Stub::start(8, false).await;
        let links = ConsumerLinks::new(stub.config());
        let link = links.shared();
        let live = link.wait().await;
        assert_eq!(link.capacity(), 6);
        for _ in 0..6 {
            // Asked for a queue that hangs, and given up.
            drop(live.channel(after(DEADLINE)).await.unwrap());
        }
        // lapin begins to close them on a task of its own.
        let used_up = async {
            while link.capacity() > 0 {
                yield_now().await;
            }
        };
        timeout_at(after(DEADLINE), used_up).await.unwrap();
        drop(live);
        assert!(!Arc::ptr_eq(&links.shared(), &link), "its holder alone");
        drop(link);
        let _another = links.shared();
        let ended = timeout_at(after(DEADLINE), stub.until_ended(1)).await;
        assert!(ended.is_ok(), "the connection of the other one stays");
    }

    /// As after the cut of a link on which all of them had come back at once.
    #[tokio::test]
    async fn queues_that_are_cleared_share_links() {
        const SUSPECTS: usize = 60;
        for (channel_max, room) in [(2047, 1_000), (16, 12)] {
            let stub = Stub::start(channel_max, true).await;
            let links = ConsumerLinks::new(stub.config());
            let names = (0..SUSPECTS).map(|number| number.to_string());
            let names: Vec<Box<str>> = names.map(Box::from).collect();
            links.config.quarantine.suspect(names.clone());
            let consumers = names.iter().map(async |name| {
                let trial = links.trial(name, after(DEADLINE)).await.unwrap();
                let trial = trial.expect("it is a suspect");
                links.end(trial, Ok(())).unwrap().0
            });
            let consumers = join_all(consumers).await;
            let most = SUSPECTS.div_ceil(room) + MAX_TRIALS;
            assert!(
                stub.connections() <= most,
                "{} > {most}",
                stub.connections()
            );
            let held: usize = links
                .links
                .lock()
                .iter()
                .map(|link| Arc::strong_count(link) - 1)
                .sum();
            assert_eq!(held, SUSPECTS);
            drop(consumers);
        }
    }

    /// Otherwise each suspect could have a link of its own.
    #[tokio::test]
    async fn only_so_many_suspects_are_late() {
        let stub = Stub::start(2047, true).await;
        let links = ConsumerLinks::new(stub.config());
        let names = (0..=MAX_LATE).map(|number| number.to_string());
        let names: Vec<Box<str>> = names.map(Box::from).collect();
        links.config.quarantine.suspect(names.clone());
        let mut late = Vec::new();
        for name in &names {
            let trial = links.trial(name, after(DEADLINE)).await.unwrap();
            let mut trial = trial.expect("it is a suspect");
            trial.end_turn();
            late.push(trial);
        }
        assert_eq!(links.free_turns(), MAX_TRIALS - 1);
        late.clear();
        assert_eq!(links.free_turns(), MAX_TRIALS);
        assert_eq!(links.late.available_permits(), MAX_LATE);
    }

    #[tokio::test]
    async fn a_culprit_is_tried_where_nobody_else_is() {
        let stub = Stub::start(2047, true).await;
        let links = ConsumerLinks::new(stub.config());
        let quarantine = &links.config.quarantine;
        quarantine.suspect(["innocent".into(), "culprit".into()]);
        let trial = links.trial("innocent", after(DEADLINE)).await.unwrap();
        let (innocent, ()) = links.end(trial.unwrap(), Ok(())).unwrap();
        let trial = links
            .trial("culprit", after(DEADLINE))
            .await
            .unwrap()
            .unwrap();
        assert!(
            Arc::ptr_eq(&trial.lent.link, &innocent),
            "it was not known to be one"
        );
        assert!(links.links.lock().is_empty(), "nobody asks there meanwhile");
        let verdict = BrokerError::Unavailable(Cause::verdict("INTERNAL_ERROR"));
        links
            .end::<()>(trial, Err(verdict))
            .err()
            .expect("an error");
        assert_eq!(
            links.links.lock().len(),
            1,
            "the link of the innocent one stays"
        );
        quarantine.forget_failures();
        let trial = links
            .trial("culprit", after(DEADLINE))
            .await
            .unwrap()
            .unwrap();
        assert!(!Arc::ptr_eq(&trial.lent.link, &innocent));
        drop(trial);
        assert_eq!(
            links.links.lock().len(),
            1,
            "one that was in vain does not stay"
        );
    }

    /// One after the other, each is waited for as long.
    #[tokio::test]
    async fn links_that_do_not_answer_are_closed_together() {
        let stub = Stub::start(8, true).await;
        let links = ConsumerLinks::new(stub.config());
        let three: Vec<_> = (0..3)
            .map(|_| Arc::new(AmqpLink::start(stub.config())))
            .collect();
        for link in &three {
            link.wait().await;
        }
        links.links.lock().extend(three.iter().cloned());
        stub.keep_silent_at_the_end();
        let all_told = timeout_at(after(Duration::from_secs(3)), stub.until_ended(3));
        let (told, ()) = tokio::join!(all_told, links.close());
        assert!(told.is_ok(), "the third one waits for the others");
    }
}
