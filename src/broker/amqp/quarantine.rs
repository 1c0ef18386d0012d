//! Queues over which RabbitMQ closed a connection, and those for which it does not answer.
//!
//! RabbitMQ closes the whole connection if it fails over a queue: a quorum queue without a majority
//! or whose process is not there, say. That depends on the queue's state, so nothing in the request
//! tells. On a link with hundreds of consumers the culprit is among the queues that the link was
//! asked for and not answered about ([`Asked`]). From then on each of them is asked for apart, where no
//! other question is open: on a link for trials, which keeps those that were answered there; and on one
//! that nobody else is on, if it was the culprit once ([`Quarantine::is_culprit`]). So a queue costs
//! others their link once, or twice if it is found out where others were cleared, however often its
//! clients come back.
//!
//! A queue whose process hangs closes nothing. But what is asked about it keeps a channel, which
//! RabbitMQ does not end before it has answered. So such a queue is asked for apart from others, too,
//! if it is [silent](super::silence) and not too many are ([`Asked::is_queue_s`]).

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{broker::BrokerError, recent::Recent};

/// How long a queue is under suspicion after it was last seen to fail.
const LASTS: Duration = Duration::from_secs(10 * 60);

/// Suspects that are remembered. Beyond, the oldest is forgotten.
const MAX_SUSPECTS: usize = 1_000;

/// How long RabbitMQ may take to fail: it waits half a minute for a quorum queue's majority.
const UNDECIDED: Duration = Duration::from_secs(2 * 60);

/// Questions of one connection that are remembered. Beyond, the oldest is forgotten.
const MAX_ASKED: usize = 1_000;

/// How long a question is open at least for which RabbitMQ does not answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// Queues at a time for which RabbitMQ may not answer. If there are more, it is RabbitMQ that is slow,
/// or one of its nodes.
const MAX_SILENT: usize = 8;

/// Said of a queue for which there was no answer.
pub(super) const UNANSWERED: &str = "the broker does not answer for it";

/// Whether there was time for an answer since then.
pub(super) fn had_time(since: Instant) -> bool {
    since.elapsed() >= PATIENCE
}

/// The suspects of one virtual host.
#[derive(Debug, Default)]
pub(super) struct Quarantine(Mutex<Suspects>);

#[derive(Debug, Default)]
struct Suspects {
    since: HashMap<Box<str>, Suspicion>,
    /// Those that failed on a connection of their own just now, and how.
    failed: Recent<Box<str>, Box<str>>,
}

#[derive(Clone, Copy, Debug)]
struct Suspicion {
    since: Instant,
    /// It is known to be the one.
    is_culprit: bool,
}

impl Quarantine {
    /// A connection was closed over one of these queues.
    pub(super) fn suspect(&self, queues: impl IntoIterator<Item = Box<str>>) {
        let mut suspects = self.0.lock();
        for queue in queues {
            suspects.add(&queue, false);
        }
    }

    /// True if a queue is to be asked for on a connection of its own.
    pub(super) fn is_suspect(&self, queue: &str) -> bool {
        let mut suspects = self.0.lock();
        let suspicion = suspects.since.get(queue);
        if suspicion.is_some_and(|suspicion| suspicion.since.elapsed() >= LASTS) {
            suspects.since.remove(queue);
        }
        suspects.since.contains_key(queue)
    }

    /// True if a suspect failed where no other queue was asked for: whoever is on the same link when it is
    /// asked for again has to expect a cut.
    pub(super) fn is_culprit(&self, queue: &str) -> bool {
        let suspects = self.0.lock();
        let suspicion = suspects.since.get(queue);
        suspicion.is_some_and(|suspicion| suspicion.is_culprit)
    }

    /// Refuses a queue that failed there just now: it is not asked for again so soon.
    ///
    /// # Errors
    /// It did.
    pub(super) fn check(&self, queue: &str) -> Result<(), BrokerError> {
        match self.0.lock().failed.get(queue) {
            Some(why) => Err(BrokerError::QueueFailed(why.clone())),
            None => Ok(()),
        }
    }

    /// It failed there; why. What to tell.
    pub(super) fn failed(&self, queue: &str, why: &str) -> BrokerError {
        let why: Box<str> = format!("the queue {queue:?} cannot be used now: {why}").into();
        let mut suspects = self.0.lock();
        suspects.add(queue, true);
        suspects.failed.note(queue.into(), why.clone());
        BrokerError::QueueFailed(why)
    }

    /// As some seconds later.
    #[cfg(test)]
    pub(super) fn forget_failures(&self) {
        self.0.lock().failed = Recent::default();
    }

    /// It was answered for: nothing is wrong with it any more.
    pub(super) fn clear(&self, queue: &str) {
        let mut suspects = self.0.lock();
        suspects.since.remove(queue);
        suspects.failed.forget(queue);
    }
}

impl Suspects {
    fn add(&mut self, queue: &str, is_culprit: bool) {
        if self.since.len() >= MAX_SUSPECTS && !self.since.contains_key(queue) {
            let oldest = self
                .since
                .iter()
                .min_by_key(|(_, suspicion)| suspicion.since);
            if let Some(oldest) = oldest.map(|(queue, _)| queue.clone()) {
                self.since.remove(&oldest);
            }
        }
        let before = self.since.get(queue);
        let suspicion = Suspicion {
            since: Instant::now(),
            is_culprit: is_culprit || before.is_some_and(|before| before.is_culprit),
        };
        self.since.insert(queue.into(), suspicion);
    }
}

/// The queues that one connection was asked for, and that it was not answered about.
#[derive(Debug, Default)]
pub(super) struct Asked(Mutex<Questions>);

#[derive(Debug, Default)]
struct Questions {
    next: u64,
    open: Vec<Question>,
}

#[derive(Debug)]
struct Question {
    id: u64,
    since: Instant,
    /// When its caller stopped waiting.
    left: Option<Instant>,
    queue: Box<str>,
}

impl Question {
    /// Whether it was waited for as long as an answer may take.
    fn had_time(&self) -> bool {
        let until = self.left.unwrap_or_else(Instant::now);
        until.saturating_duration_since(self.since) >= PATIENCE
    }
}

/// A question whose caller waits, as long as this lives.
pub(super) struct Waiting<'a> {
    asked: &'a Asked,
    id: u64,
}

impl Waiting<'_> {
    /// It was answered.
    pub(super) fn answered(self) {
        let id = self.id;
        self.asked
            .0
            .lock()
            .open
            .retain(|question| question.id != id);
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut questions = self.asked.0.lock();
        let mut open = questions.open.iter_mut();
        if let Some(question) = open.find(|question| question.id == self.id) {
            question.left = Some(Instant::now());
        }
    }
}

impl Asked {
    /// It is asked for a queue. If nobody waits for the answer any more, it may come all the same, and
    /// so the question stays for a while.
    pub(super) fn begin(&self, queue: &str) -> Waiting<'_> {
        let mut questions = self.0.lock();
        let id = questions.next;
        questions.next = id.wrapping_add(1);
        questions
            .open
            .retain(|question| question.since.elapsed() < UNDECIDED);
        if questions.open.len() >= MAX_ASKED {
            questions.open.remove(0);
        }
        questions.open.push(Question {
            id,
            since: Instant::now(),
            left: None,
            queue: queue.into(),
        });
        Waiting { asked: self, id }
    }

    /// Whether it may be the queue's fault that a question since then has no answer.
    pub(super) fn is_queue_s(&self, since: Instant) -> bool {
        let questions = self.0.lock();
        let silent = questions.open.iter().filter(|question| question.had_time());
        let silent: HashSet<_> = silent.map(|question| &question.queue).collect();
        had_time(since) && silent.len() <= MAX_SILENT
    }

    /// The queues of all open questions; none is open any more.
    pub(super) fn take(&self) -> Vec<Box<str>> {
        let questions = std::mem::take(&mut self.0.lock().open);
        let mut queues: Vec<_> = questions.into_iter().map(|asked| asked.queue).collect();
        queues.sort_unstable();
        queues.dedup();
        queues
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::recent::BELIEF;

    #[tokio::test(start_paused = true)]
    async fn a_suspect_is_one_until_it_is_answered_for() {
        let quarantine = Quarantine::default();
        assert!(!quarantine.is_suspect("q"));
        quarantine.suspect(["q".into(), "innocent".into()]);
        assert!(quarantine.is_suspect("q") && quarantine.is_suspect("innocent"));
        assert_eq!(quarantine.check("q"), Ok(()));
        quarantine.clear("innocent");
        assert!(!quarantine.is_suspect("innocent"));

        assert!(!quarantine.is_culprit("q"));
        let error = quarantine.failed("q", "noproc");
        assert!(quarantine.is_culprit("q"));
        quarantine.suspect(["q".into()]);
        assert!(quarantine.is_culprit("q"), "it was, and may be still");
        let text = "the queue \"q\" cannot be used now: noproc";
        assert_eq!(error, BrokerError::QueueFailed(text.into()));
        assert_eq!(quarantine.check("q"), Err(error));
        advance(BELIEF).await;
        assert_eq!(quarantine.check("q"), Ok(()), "it may be well by now");
        advance(LASTS - BELIEF - Duration::from_secs(1)).await;
        assert!(quarantine.is_suspect("q"), "counted from the last failure");
        advance(Duration::from_secs(1)).await;
        assert!(!quarantine.is_suspect("q"));
    }

    #[tokio::test(start_paused = true)]
    async fn suspects_have_a_bound() {
        let quarantine = Quarantine::default();
        for number in 0..=MAX_SUSPECTS {
            quarantine.suspect([number.to_string().into()]);
            advance(Duration::from_millis(1)).await;
        }
        assert!(!quarantine.is_suspect("0"));
        assert!(quarantine.is_suspect("1"));
        assert!(quarantine.is_suspect(&MAX_SUSPECTS.to_string()));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_answered_is_under_suspicion() {
        let asked = Asked::default();
        let (a, _b) = (asked.begin("a"), asked.begin("b"));
        asked.begin("b");
        a.answered();
        advance(Duration::from_secs(60)).await;
        asked.begin("c");
        assert_eq!(asked.take(), ["b", "c"].map(Box::<str>::from));
        assert_eq!(asked.take(), [""; 0].map(Box::<str>::from));
        // One whose client has left is not remembered for ever.
        asked.begin("d");
        advance(UNDECIDED).await;
        asked.begin("e");
        assert_eq!(asked.take(), ["e"].map(Box::<str>::from));
        for number in 0..=MAX_ASKED {
            asked.begin(&number.to_string());
        }
        let queues = asked.take();
        assert_eq!(queues.len(), MAX_ASKED);
        assert!(queues.iter().all(|queue| &**queue != "0"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_few_queues_without_an_answer_are_to_blame_and_many_are_not() {
        let (asked, begun) = (Asked::default(), Instant::now());
        let mut waiting = Vec::new();
        for number in 0..MAX_SILENT {
            waiting.push(asked.begin(&number.to_string()));
            waiting.push(asked.begin("0"));
            // Whose callers leave at once tell nothing.
            asked.begin(&format!("left.{number}"));
        }
        assert!(!asked.is_queue_s(begun), "there was no time yet");
        advance(PATIENCE).await;
        assert!(asked.is_queue_s(begun));
        let new = asked.begin("new");
        assert!(asked.is_queue_s(begun), "that may be answered yet");
        advance(PATIENCE).await;
        drop(new);
        assert!(!asked.is_queue_s(begun), "the broker is slow");
    }
}
