//! Queues that clients ask for, declared so that a refusal is the asker's alone.
//!
//! RabbitMQ answers most of what it does not do by closing the channel, and some by closing the
//! connection: a deprecated feature that is switched off, what it has not implemented, whatever
//! fails inside. Which of them depends on its version and its configuration. So a kind of queue
//! (its properties and arguments) that this broker has not been asked for yet is declared on a
//! connection of its own, one at a time: if that is closed, it is known over what. A kind that was
//! declared so is declared on the shared links from then on. Arguments that no RabbitMQ knows have a
//! second such connection: others do not wait behind what a client makes up.
//!
//! A failure inside (541) tells of the kind only where nothing else can be its cause: nodes of a cluster
//! that are down let no quorum queue be declared, and come back.

use std::{
    borrow::Cow,
    collections::HashMap,
    hash::{BuildHasher, Hash, Hasher, RandomState},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use lapin::{
    Connection, ErrorKind,
    options::QueueDeleteOptions,
    protocol::{AMQPErrorKind, AMQPHardError},
};
use parking_lot::Mutex;
use tokio::{
    sync::{Mutex as AsyncMutex, MutexGuard},
    time::{Duration, Instant, timeout_at},
};

use super::{
    convert::{broker_error, short},
    hosts::InUse,
    link::{self, LinkConfig, LoggedIn},
    topology::declare_options,
};
use crate::{
    broker::{Argument, BrokerError, Cause, FEED_QUEUES, QueueSpec},
    deadline::after,
    recent::Recent,
    telemetry,
};

/// Kinds of queues that are remembered at a time. Clients choose them.
const MAX_KNOWN: usize = 1_000;

/// How long a queue stays that takes the place of a transient one and that nobody consumes.
const UNUSED_MILLISECONDS: i64 = 10 * 60 * 1_000;

/// How long the queue stays that asks whether there are transient ones, if it cannot be deleted.
const QUESTION_MILLISECONDS: i64 = 10_000;

/// How long the broker has to answer to an end in good order.
const GOODBYE: Duration = Duration::from_secs(2);

/// Between two connections, if the first was lost for another reason.
const PAUSE: Duration = Duration::from_millis(50);

/// Declares queues of one virtual host.
pub(super) struct Declarer {
    config: LinkConfig,
    names: Box<str>,
    next_name: AtomicU64,
    /// For whoever declares a kind of queue that is not known, one at a time.
    connection: AsyncMutex<Option<Kept>>,
    /// The same for odd kinds: clients make up any number of them, and others do not wait for that.
    odd: AsyncMutex<Option<Kept>>,
    known: Mutex<KnownQueues>,
    hasher: RandomState,
    /// That there are no transient queues was said in the log.
    was_told: AtomicBool,
}

/// What is known of the broker, for as long as it may be the same one.
#[derive(Default)]
struct KnownQueues {
    /// Connections that were made when this was learnt.
    connections: u64,
    /// Whether the broker has transient queues that no connection owns.
    transient: Option<bool>,
    /// Kinds of queues that close no connection.
    harmless: Harmless,
    /// Queues that do, with the broker's words.
    refused: Recent<u64, Box<str>>,
    /// Queues that it did not declare, though that harmed nobody, when that was asked, and its words:
    /// for those who waited for their turn meanwhile.
    not_declared: Recent<u64, (Instant, BrokerError)>,
}

/// The connection, for one after the other.
type Turn<'a> = MutexGuard<'a, Option<Kept>>;

/// The connection, and the address that it leads to.
type Kept = (LoggedIn, InUse);

/// Kinds of queues that close no connection: those that were asked for last.
#[derive(Default)]
struct Harmless {
    /// With the number of the question that was the last one for it.
    kinds: HashMap<u64, u64>,
    questions: u64,
}

impl Harmless {
    fn contains(&mut self, kind: u64) -> bool {
        let Some(last) = self.kinds.get_mut(&kind) else {
            return false;
        };
        self.questions = self.questions.wrapping_add(1);
        *last = self.questions;
        true
    }

    fn insert(&mut self, kind: u64) {
        if self.kinds.len() >= MAX_KNOWN {
            let oldest = self.kinds.iter().min_by_key(|(_, last)| **last);
            if let Some(oldest) = oldest.map(|(kind, _)| *kind) {
                self.kinds.remove(&oldest);
            }
        }
        self.questions = self.questions.wrapping_add(1);
        self.kinds.insert(kind, self.questions);
    }
}

impl KnownQueues {
    /// What is known of a queue that is to be declared.
    fn of(&mut self, kind: u64, itself: u64) -> Option<Result<bool, BrokerError>> {
        if self.harmless.contains(kind) {
            return Some(Ok(false));
        }
        let why = self.refused.get(&itself)?;
        Some(Err(BrokerError::Unsupported(why.clone())))
    }

    /// Why the broker did not declare exactly that queue, if it was asked at that moment or later. An
    /// older answer counts for nothing: it may have been for a queue that is gone.
    fn not_declared_since(&mut self, exactly: u64, moment: Instant) -> Option<BrokerError> {
        let (asked, error) = self.not_declared.get(&exactly)?;
        (*asked >= moment).then(|| error.clone())
    }
}

/// What the broker said to a declaration on the connection.
enum DeclareAnswer {
    Declared,
    /// No, and the connection goes on.
    Refused(BrokerError),
    /// It closed the connection over it; its words.
    Closed(Box<str>),
    /// It failed, and closed the connection: that says nothing of another time; its words.
    Failed(Box<str>),
    /// Nothing: the connection was lost for another reason.
    Lost(BrokerError),
}

impl Declarer {
    pub(super) fn new(config: LinkConfig, node: &str) -> Self {
        Self {
            config,
            names: format!("{FEED_QUEUES}{node}.trial").into(),
            next_name: AtomicU64::new(0),
            connection: AsyncMutex::default(),
            odd: AsyncMutex::default(),
            known: Mutex::default(),
            hasher: RandomState::new(),
            was_told: AtomicBool::new(false),
        }
    }

    /// The queue as this broker takes it: one that is to be transient and no connection's own is
    /// durable, where the broker has no such queues.
    pub(super) async fn adapted<'a>(
        &self,
        queue: &'a QueueSpec,
        deadline: Instant,
    ) -> Result<Cow<'a, QueueSpec>, BrokerError> {
        if queue.durable || queue.exclusive || self.has_transient(deadline).await? {
            return Ok(Cow::Borrowed(queue));
        }
        Ok(Cow::Owned(durable_instead(queue)))
    }

    /// Whether the broker has transient queues that no connection owns: RabbitMQ 4 may be
    /// configured not to. It is asked once for each time that it may be another one.
    pub(super) async fn has_transient(&self, deadline: Instant) -> Result<bool, BrokerError> {
        let known = || self.known().transient;
        if let Some(known) = known() {
            return Ok(known);
        }
        let turn = turn(&self.connection, deadline).await?;
        // The caller that had the turn before may have asked.
        if let Some(known) = known() {
            return Ok(known);
        }
        let question = QueueSpec {
            name: self.name(),
            durable: false,
            exclusive: false,
            auto_delete: true,
            arguments: vec![
                ("x-queue-type".into(), Argument::Text("classic".into())),
                ("x-expires".into(), Argument::Number(QUESTION_MILLISECONDS)),
            ],
        };
        let has = match self.ask(turn, &question, true, deadline).await {
            DeclareAnswer::Declared => true,
            DeclareAnswer::Closed(why) => {
                if !self.was_told.swap(true, Ordering::Relaxed) {
                    telemetry::transient_queues_refused(&self.config.uri.vhost, &why);
                }
                false
            }
            // The account may not ask. What follows is declared where it harms nobody, too.
            DeclareAnswer::Refused(_) => true,
            DeclareAnswer::Failed(why) => {
                return Err(BrokerError::Unavailable(Cause::foreign(why)));
            }
            DeclareAnswer::Lost(error) => return Err(error),
        };
        self.known().transient = Some(has);
        Ok(has)
    }

    /// Sees to it that declaring the queue closes no connection: done at once if its kind is known,
    /// else it is declared where that harms nobody. Whether it is declared now.
    ///
    /// # Errors
    /// [`BrokerError::Unsupported`]: it would close the connection; the broker's words.
    /// [`BrokerError::QueueFailed`]: the same, for now. Any other: the broker did not declare it, for a
    /// reason that is no danger to others.
    pub(super) async fn clear(
        &self,
        queue: &QueueSpec,
        deadline: Instant,
    ) -> Result<bool, BrokerError> {
        if is_plain(queue) {
            return Ok(false);
        }
        let begun = Instant::now();
        let kind = self.kind(queue);
        let itself = self.hasher.hash_one((kind, &queue.name));
        if let Some(known) = self.known().of(kind, itself) {
            return known;
        }
        let door = if is_odd(queue) {
            &self.odd
        } else {
            &self.connection
        };
        let turn = turn(door, deadline).await?;
        if let Some(known) = self.known().of(kind, itself) {
            return known;
        }
        let exactly = self.exactly(queue);
        if let Some(error) = self.known().not_declared_since(exactly, begun) {
            return Err(error);
        }
        // An exclusive queue would be the other connection's, and one without a name another one.
        let is_rehearsal = queue.exclusive || queue.name.is_empty();
        let named = queue.name.is_empty().then(|| QueueSpec {
            name: self.name(),
            ..queue.clone()
        });
        let declared = named.as_ref().unwrap_or(queue);
        let asked = Instant::now();
        match self.ask(turn, declared, is_rehearsal, deadline).await {
            DeclareAnswer::Declared => {
                self.known().harmless.insert(kind);
                Ok(!is_rehearsal)
            }
            // It may be for the name alone, or for a queue that is there: what the broker makes of
            // this kind is not known.
            DeclareAnswer::Refused(error) => {
                let refused = (asked, error.clone());
                self.known().not_declared.note(exactly, refused);
                Err(error)
            }
            DeclareAnswer::Failed(why) => {
                let name = &queue.name;
                let text = format!("the queue {name:?} cannot be declared now: {why}");
                let error = BrokerError::QueueFailed(text.into());
                let failed = (asked, error.clone());
                self.known().not_declared.note(exactly, failed);
                Err(error)
            }
            DeclareAnswer::Lost(error) => Err(error),
            DeclareAnswer::Closed(why) => {
                self.known().refused.note(itself, why.clone());
                Err(BrokerError::Unsupported(why))
            }
        }
    }

    /// What of a queue decides whether the broker can have it at all. Of a number that is its size,
    /// and of dead letters that there are some: clients cannot make up new kinds without end.
    fn kind(&self, queue: &QueueSpec) -> u64 {
        let mut state = self.hasher.build_hasher();
        (queue.durable, queue.exclusive, queue.auto_delete).hash(&mut state);
        for (name, value) in &queue.arguments {
            name.hash(&mut state);
            match value {
                Argument::Number(number) => {
                    (number.signum(), number.unsigned_abs().checked_ilog2()).hash(&mut state);
                }
                Argument::Text(_) if name.starts_with("x-dead-letter-") => {}
                Argument::Text(text) if &**name == "x-max-age" && age(text).is_some() => {
                    age(text).hash(&mut state);
                }
                other => other.hash(&mut state),
            }
        }
        state.finish()
    }

    /// All that the broker compares of a queue.
    fn exactly(&self, queue: &QueueSpec) -> u64 {
        let QueueSpec {
            name,
            durable,
            exclusive,
            auto_delete,
            arguments,
        } = queue;
        let flags = (durable, exclusive, auto_delete);
        self.hasher.hash_one((name, flags, arguments))
    }

    /// Declares a queue on the connection of its own; and deletes it, if that is only to find out.
    async fn ask(
        &self,
        mut slot: Turn<'_>,
        queue: &QueueSpec,
        is_rehearsal: bool,
        deadline: Instant,
    ) -> DeclareAnswer {
        loop {
            // It is not put back if its answer is not awaited: it could come to the next one.
            let is_good = |(one, in_use): &Kept| one.status().connected() && !in_use.is_left();
            let kept = match slot.take().filter(is_good) {
                Some(kept) => kept,
                None => match self.connect(deadline).await {
                    Ok(kept) => kept,
                    Err(error) => return DeclareAnswer::Lost(error),
                },
            };
            match attempt(&kept.0, queue, is_rehearsal, deadline).await {
                DeclareAnswer::Lost(_) if after(PAUSE) < deadline => {
                    tokio::time::sleep(PAUSE).await;
                }
                answer => {
                    if matches!(answer, DeclareAnswer::Declared | DeclareAnswer::Refused(_)) {
                        *slot = Some(kept);
                    }
                    return answer;
                }
            }
        }
    }

    /// Closes the connections in good order, if there are any.
    pub(super) async fn close(&self) {
        let deadline = after(GOODBYE);
        tokio::join!(
            close(&self.connection, deadline),
            close(&self.odd, deadline)
        );
    }

    async fn connect(&self, deadline: Instant) -> Result<Kept, BrokerError> {
        match timeout_at(deadline, link::connect(&self.config)).await {
            Ok(Ok((connection, address))) => Ok((connection, self.config.hosts.used_by(&address))),
            Ok(Err(unreached)) => Err(link::down(unreached.error)),
            Err(_) => Err(BrokerError::Unavailable(
                "the connection was made too late".into(),
            )),
        }
    }

    /// What is known; nothing, if the broker may be another one by now.
    fn known(&self) -> parking_lot::MutexGuard<'_, KnownQueues> {
        let mut known = self.known.lock();
        let connections = self.config.connections.load(Ordering::Relaxed);
        if known.connections != connections {
            *known = KnownQueues {
                connections,
                ..KnownQueues::default()
            };
        }
        known
    }

    fn name(&self) -> Box<str> {
        let number = self.next_name.fetch_add(1, Ordering::Relaxed);
        format!("{}.{number}", self.names).into()
    }
}

async fn turn(door: &AsyncMutex<Option<Kept>>, deadline: Instant) -> Result<Turn<'_>, BrokerError> {
    let turn = timeout_at(deadline, door.lock()).await;
    turn.map_err(|_| {
        let text = "too many queues of new kinds wait to be declared";
        BrokerError::Unavailable(text.into())
    })
}

async fn close(door: &AsyncMutex<Option<Kept>>, deadline: Instant) {
    if let Ok(mut slot) = turn(door, deadline).await
        && let Some((connection, _)) = slot.take()
    {
        // Whatever goes wrong now, the broker sees the socket close.
        let _ = timeout_at(deadline, connection.close(200, "bye".into())).await;
    }
}

async fn attempt(
    connection: &Connection,
    queue: &QueueSpec,
    is_rehearsal: bool,
    deadline: Instant,
) -> DeclareAnswer {
    let declaring = async {
        let channel = connection.create_channel().await?;
        let (options, arguments) = declare_options(queue)?;
        let name = short("the queue's name", &queue.name)?;
        channel
            .queue_declare(name.clone(), options, arguments)
            .await?;
        if is_rehearsal {
            let deleting = channel.queue_delete(name, QueueDeleteOptions::default());
            deleting.await?;
        }
        Ok(())
    };
    match timeout_at(deadline, declaring).await {
        Ok(Ok(())) => DeclareAnswer::Declared,
        Ok(Err(Failure::Ours(error))) => DeclareAnswer::Refused(error),
        Ok(Err(Failure::Lapin(error))) => judged(&error, is_odd(queue)),
        Err(_) => DeclareAnswer::Lost(late()),
    }
}

/// Why a declaration failed.
enum Failure {
    /// It cannot be said in AMQP.
    Ours(BrokerError),
    Lapin(lapin::Error),
}

impl From<BrokerError> for Failure {
    fn from(error: BrokerError) -> Self {
        Self::Ours(error)
    }
}

impl From<lapin::Error> for Failure {
    fn from(error: lapin::Error) -> Self {
        Self::Lapin(error)
    }
}

/// What an error says of a queue, whose kind may be an odd one.
fn judged(error: &lapin::Error, is_odd: bool) -> DeclareAnswer {
    let ErrorKind::ProtocolError(amqp) = error.kind() else {
        return DeclareAnswer::Lost(broker_error(error));
    };
    let text = amqp.get_message().as_str();
    match amqp.kind() {
        AMQPErrorKind::Soft(_) => DeclareAnswer::Refused(broker_error(error)),
        // An operator closed it, or the broker stops.
        AMQPErrorKind::Hard(AMQPHardError::CONNECTIONFORCED) => {
            DeclareAnswer::Lost(broker_error(error))
        }
        AMQPErrorKind::Hard(AMQPHardError::INTERNALERROR | AMQPHardError::RESOURCEERROR)
            if !is_odd && !is_switched_off(text) =>
        {
            DeclareAnswer::Failed(text.into())
        }
        AMQPErrorKind::Hard(_) => DeclareAnswer::Closed(text.into()),
    }
}

/// RabbitMQ's words for a feature that it does not have any more, or not by its configuration, which
/// is no failure: ``INTERNAL_ERROR - Feature `transient_nonexcl_queues` is deprecated.``
fn is_switched_off(text: &str) -> bool {
    let text = text.strip_prefix("INTERNAL_ERROR - ").unwrap_or(text);
    text.starts_with("Feature `")
}

/// Whether a text among its arguments is none that RabbitMQ knows for it.
fn is_odd(queue: &QueueSpec) -> bool {
    let mut arguments = queue.arguments.iter();
    arguments.any(|(name, value)| match (&**name, value) {
        ("x-queue-type", Argument::Text(kind)) => {
            !["classic", "quorum", "stream"].contains(&&**kind)
        }
        ("x-overflow", Argument::Text(what)) => {
            !["drop-head", "reject-publish", "reject-publish-dlx"].contains(&&**what)
        }
        ("x-max-age", Argument::Text(text)) => age(text).is_none(),
        _ => false,
    })
}

/// The unit of an `x-max-age` that can be read, and the size of its number.
fn age(text: &str) -> Option<(char, u32)> {
    let unit = text.chars().last()?;
    let number = text.strip_suffix(['Y', 'M', 'D', 'h', 'm', 's'])?;
    if !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let size = number.parse::<u64>().ok()?.checked_ilog2()?;
    Some((unit, size))
}

/// Whether it is what everybody declares, and what every RabbitMQ knows.
fn is_plain(queue: &QueueSpec) -> bool {
    let is_known = |(name, value): &(Box<str>, Argument)| match (&**name, value) {
        ("x-queue-type", Argument::Text(kind)) => &**kind == "classic",
        ("x-overflow", Argument::Text(what)) => &**what == "drop-head",
        ("x-expires", Argument::Number(_)) => true,
        _ => false,
    };
    (queue.durable || queue.exclusive) && queue.arguments.iter().all(is_known)
}

fn late() -> BrokerError {
    BrokerError::Unavailable(link::late())
}

/// The durable queue nearest to a transient one. What ends with its last consumer must not stay
/// after a restart of the broker, to which no consumer comes back: it expires.
fn durable_instead(queue: &QueueSpec) -> QueueSpec {
    let mut durable = QueueSpec {
        durable: true,
        ..queue.clone()
    };
    let mut add = |name: &str, value: Argument| {
        if !durable.arguments.iter().any(|(other, _)| &**other == name) {
            durable.arguments.push((name.into(), value));
        }
    };
    // Of the types, it is the one that can be auto-delete; and a transient queue is none other.
    add("x-queue-type", Argument::Text("classic".into()));
    if queue.auto_delete {
        add("x-expires", Argument::Number(UNUSED_MILLISECONDS));
    }
    durable
}

#[cfg(test)]
mod tests {
    use lapin::protocol::AMQPError;

    use super::*;

    fn transient(auto_delete: bool) -> QueueSpec {
        QueueSpec {
            name: "q".into(),
            auto_delete,
            ..QueueSpec::default()
        }
    }

    #[test]
    fn kinds_of_queues_are_few() {
        let config = LinkConfig::of_a_test("amqp://rabbit/app");
        let declarer = Declarer::new(config, "node");
        let kind = |name: &str, value: Argument| {
            let arguments = vec![(name.into(), value)];
            let queue = QueueSpec {
                arguments,
                ..transient(true)
            };
            declarer.kind(&queue)
        };
        let number = |number| kind("x-max-length", Argument::Number(number));
        let text = |name: &str, text: &str| kind(name, Argument::Text(text.into()));
        assert_eq!(number(1_000), number(1_001));
        assert_ne!(number(1_000), number(-1_000));
        assert_ne!(number(1_000), number(1 << 40));
        assert_ne!(number(0), kind("x-expires", Argument::Number(0)));
        assert_ne!(text("x-max-age", "1D"), text("x-max-age", "x"));
        assert_ne!(text("x-max-age", "1D"), text("x-max-age", "1h"));
        assert_eq!(text("x-max-age", "1025s"), text("x-max-age", "1026s"));
        let dead = "x-dead-letter-exchange";
        assert_eq!(text(dead, "a"), text(dead, "b"));
        let [passing, kept] = [true, false].map(transient);
        assert_ne!(declarer.kind(&passing), declarer.kind(&kept));
    }

    #[test]
    fn what_no_broker_knows_is_odd_and_has_a_door_of_its_own() {
        let odd = |name: &str, value: &str| {
            is_odd(&QueueSpec {
                arguments: vec![(name.into(), Argument::Text(value.into()))],
                ..transient(true)
            })
        };
        for age in ["1h", "30D", "18446744073709551615s"] {
            assert!(!odd("x-max-age", age), "{age}");
        }
        for age in [
            "",
            "h",
            "0h",
            "+1h",
            "1",
            "1w",
            "1é",
            "99999999999999999999Y",
        ] {
            assert!(odd("x-max-age", age), "{age}");
        }
        assert!(!odd("x-queue-type", "quorum") && odd("x-queue-type", "x"));
        assert!(!odd("x-overflow", "reject-publish") && odd("x-overflow", "x"));
        assert!(!odd("x-dead-letter-exchange", "x"));
    }

    /// Nodes of a cluster that are down are no fault of the kind.
    #[test]
    fn a_failure_of_the_broker_is_a_refusal_for_good_only_of_an_odd_kind() {
        let judge = |kind: AMQPHardError, text: &str, is_odd| {
            let error = AMQPError::new(AMQPErrorKind::Hard(kind), text.into());
            judged(&ErrorKind::ProtocolError(error).into(), is_odd)
        };
        let failed = "INTERNAL_ERROR - Cannot declare a queue 'queue 'q' in vhost '/'' on node \
                      'rabbit@a': {error,enough_nodes_are_down}";
        let internal = || AMQPHardError::INTERNALERROR;
        let plain = judge(internal(), failed, false);
        assert!(matches!(plain, DeclareAnswer::Failed(text) if &*text == failed));
        let odd = judge(internal(), "INTERNAL_ERROR", true);
        assert!(matches!(odd, DeclareAnswer::Closed(_)));
        let off = "INTERNAL_ERROR - Feature `transient_nonexcl_queues` is deprecated.\nIts use is \
                   not permitted per the configuration";
        let switched_off = judge(internal(), off, false);
        assert!(matches!(switched_off, DeclareAnswer::Closed(_)));
        let refused = judge(AMQPHardError::NOTIMPLEMENTED, "NOT_IMPLEMENTED - no", false);
        assert!(matches!(refused, DeclareAnswer::Closed(_)));
        let stopped = judge(AMQPHardError::CONNECTIONFORCED, "CONNECTION_FORCED", true);
        assert!(matches!(stopped, DeclareAnswer::Lost(_)));
    }

    /// Kinds made up without end do not push out those that others use.
    #[test]
    fn the_kind_that_was_asked_for_least_lately_is_forgotten() {
        let mut harmless = Harmless::default();
        harmless.insert(0);
        harmless.insert(1);
        for kind in 2..2_000 {
            assert!(harmless.contains(0));
            harmless.insert(kind);
        }
        assert!(harmless.contains(0) && harmless.contains(1_999));
        assert!(!harmless.contains(1));
        assert_eq!(harmless.kinds.len(), MAX_KNOWN);
    }

    /// Of many who want the same queue at a time one asks; whoever comes later asks again.
    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_for_those_who_waited_meanwhile() {
        let declarer = Declarer::new(LinkConfig::of_a_test("amqp://rabbit/app"), "node");
        let limited = |limit| QueueSpec {
            arguments: vec![("x-max-length".into(), Argument::Number(limit))],
            ..transient(true)
        };
        let [queue, other] = [1_000, 1_001].map(|limit| declarer.exactly(&limited(limit)));
        assert_ne!(queue, other, "it may be there with that limit");
        let mut known = KnownQueues::default();
        let begun = Instant::now();
        let error = BrokerError::PreconditionFailed("another limit".into());
        known.not_declared.note(queue, (begun, error.clone()));
        assert_eq!(known.not_declared_since(queue, begun), Some(error));
        assert_eq!(known.not_declared_since(other, begun), None);
        let later = begun + Duration::from_millis(1);
        assert_eq!(known.not_declared_since(queue, later), None);
    }

    #[test]
    fn plain_queues_are_those_that_every_broker_knows() {
        let text = |name: &str, value: &str| (name.into(), Argument::Text(value.into()));
        let own = QueueSpec {
            exclusive: true,
            arguments: vec![
                text("x-queue-type", "classic"),
                text("x-overflow", "drop-head"),
                ("x-expires".into(), Argument::Number(1)),
            ],
            ..transient(true)
        };
        assert!(is_plain(&own));
        assert!(!is_plain(&transient(true)), "it may be refused");
        let durable = QueueSpec {
            durable: true,
            ..transient(false)
        };
        assert!(is_plain(&durable));
        for argument in [text("x-queue-type", "stream"), text("x-max-age", "?")] {
            let arguments = vec![argument];
            assert!(!is_plain(&QueueSpec {
                arguments,
                ..durable.clone()
            }));
        }
    }

    #[test]
    fn a_durable_queue_in_the_place_of_a_transient_one_goes_as_well() {
        let classic = ("x-queue-type".into(), Argument::Text("classic".into()));
        let expires = |after| ("x-expires".into(), Argument::Number(after));
        let passing = durable_instead(&transient(true));
        assert!(passing.durable && passing.auto_delete && !passing.exclusive);
        assert_eq!(passing.arguments, [classic.clone(), expires(600_000)]);
        let kept = durable_instead(&transient(false));
        assert_eq!(kept.arguments, std::slice::from_ref(&classic));
        let own_words = QueueSpec {
            arguments: vec![expires(5)],
            ..transient(true)
        };
        assert_eq!(durable_instead(&own_words).arguments, [expires(5), classic]);
    }
}
