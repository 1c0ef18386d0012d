//! Exchanges and queues: what is there, and of which type.

use std::collections::{HashMap, HashSet};

use lapin::{
    options::{ExchangeDeclareOptions, QueueDeclareOptions, QueueDeleteOptions},
    types::{AMQPValue, FieldTable},
};
use parking_lot::Mutex;
use tokio::{
    sync::Semaphore,
    time::{Duration, Instant, timeout_at},
};

use super::{
    convert::{short, table},
    lines::Lines,
    link::{Live, answer, late},
    silence::answer_soon_for_queue,
    whole,
};
use crate::{
    broker::{BrokerError, ExchangeKind, KnownKinds, QueueSpec},
    recent::Recent,
    telemetry,
};

/// What is known of a virtual host's exchanges.
pub(super) struct Topology {
    configured: HashMap<Box<str>, ExchangeKind>,
    /// Those that are read whole, if they are direct ones.
    whole: HashSet<Box<str>>,
    /// As they were when they were asked for last.
    kinds: KnownKinds,
    /// For whoever asks for a type: of many who want the same one, one asks.
    lines: Lines,
    /// For the askers of all lines.
    askers: Semaphore,
    /// Exchanges that were not there, when that was asked, and the broker's words: for those who
    /// waited in the line meanwhile.
    missing: Mutex<Recent<Box<str>, (Instant, BrokerError)>>,
    existing: Mutex<HashSet<Box<str>>>,
    /// Exchanges that the account may not declare, and since when.
    undeclarable: Mutex<HashMap<Box<str>, Instant>>,
    /// What may not be published to, with the broker's words. Every message that tries closes a
    /// channel that others' messages are on.
    refused: Mutex<Recent<Target, BrokerError>>,
    /// That the account may not publish for others.
    no_impersonation: Mutex<Recent<()>>,
}

/// An exchange; with a routing key if the refusal speaks of that one alone.
type Target = (Box<str>, Option<Box<str>>);

/// How long an exchange of the configuration is not declared that the account may not declare.
const UNDECLARABLE: Duration = Duration::from_secs(600);

/// Exchanges whose types are asked for at a time. Clients choose them, and other calls need
/// channels, too.
const MAX_ASKERS: usize = 16;

impl Topology {
    /// The types of `configured` exchanges are not asked for, and those that are missing are
    /// declared, as durable ones; with their alternate exchange, if they are among the `whole`.
    pub(super) fn new(
        configured: impl IntoIterator<Item = (Box<str>, ExchangeKind)>,
        whole: impl IntoIterator<Item = Box<str>>,
    ) -> Self {
        Self {
            configured: configured.into_iter().collect(),
            whole: whole.into_iter().collect(),
            kinds: KnownKinds::default(),
            lines: Lines::new(1),
            askers: Semaphore::new(MAX_ASKERS),
            missing: Mutex::default(),
            existing: Mutex::default(),
            undeclarable: Mutex::default(),
            refused: Mutex::default(),
            no_impersonation: Mutex::default(),
        }
    }

    /// Whether the exchange exists, as far as is remembered.
    pub(super) fn is_known(&self, exchange: &str) -> bool {
        exchange.is_empty() || self.existing.lock().contains(exchange)
    }

    /// It turned out that the exchange is gone.
    pub(super) fn forget(&self, exchange: &str) {
        self.existing.lock().remove(exchange);
    }

    /// What the broker said to a message for that exchange and key: one that is gone is forgotten,
    /// and a refusal is remembered for some seconds.
    pub(super) fn note_refused(&self, exchange: &str, key: &str, error: &BrokerError) {
        match error {
            BrokerError::NotFound(_) => self.forget(exchange),
            BrokerError::AccessRefused(text) => {
                // Long texts are cut, so that the key may not stand there whole.
                let key = is_topical(text).then(|| key.into());
                let target = (exchange.into(), key);
                self.refused.lock().note(target, error.clone());
            }
            _ => {}
        }
    }

    /// Whether the broker refused such a message a short while ago; what it said.
    pub(super) fn may_publish(&self, exchange: &str, key: &str) -> Result<(), BrokerError> {
        let mut refused = self.refused.lock();
        if refused.is_empty() {
            return Ok(());
        }
        for key in [None, Some(key.into())] {
            let target = (exchange.into(), key);
            if let Some(error) = refused.get(&target) {
                return Err(error.clone());
            }
        }
        Ok(())
    }

    /// What the broker said to a message that named its user.
    pub(super) fn note_impersonation(&self, error: &BrokerError) {
        let BrokerError::PreconditionFailed(text) = error else {
            return;
        };
        if is_impersonation(text) {
            // All messages on the channel hear it.
            if self.no_impersonation.lock().note((), ()) {
                telemetry::impersonation_refused(text);
            }
        }
    }

    /// Whether the broker may take messages that name their user: it refused none a short while
    /// ago. Each that it refuses closes a channel.
    pub(super) fn may_impersonate(&self) -> Result<(), BrokerError> {
        match self.no_impersonation.lock().get(&()) {
            Some(()) => Err(BrokerError::PreconditionFailed(NO_IMPERSONATION.into())),
            None => Ok(()),
        }
    }

    /// Succeeds if the exchange exists.
    pub(super) async fn check(
        &self,
        live: &Live,
        exchange: &str,
        deadline: Instant,
    ) -> Result<(), BrokerError> {
        if self.is_known(exchange) {
            return Ok(());
        }
        let refused = self.undeclarable.lock().get(exchange).copied();
        let may_declare = refused.is_none_or(|since| since.elapsed() >= UNDECLARABLE);
        let configured = self.configured.get(exchange).filter(|_| may_declare);
        let kind = configured.and_then(|kind| amqp_kind(*kind));
        let arguments = self.arguments(exchange);
        match declare(live, exchange, kind.clone(), arguments, deadline).await {
            // The account may not declare it, so it can only be looked for.
            Err(BrokerError::AccessRefused(_)) if kind.is_some() => {
                let now = Instant::now();
                self.undeclarable.lock().insert(exchange.into(), now);
                find(live, exchange, deadline).await?;
            }
            // It is there and transient, or a policy sets its alternate exchange; but of that type.
            Err(BrokerError::PreconditionFailed(text))
                if kind.is_some() && !text.contains("arg 'type'") => {}
            outcome => outcome?,
        }
        self.existing.lock().insert(exchange.into());
        Ok(())
    }

    /// What an exchange is declared with.
    fn arguments(&self, exchange: &str) -> FieldTable {
        let mut arguments = FieldTable::default();
        if self.reads_whole(exchange) {
            let all = AMQPValue::LongString(whole::all_of(exchange).into());
            arguments.insert("alternate-exchange".into(), all);
        }
        arguments
    }

    /// Whether the exchange is to be read whole, if it is a direct one.
    pub(super) fn reads_whole(&self, exchange: &str) -> bool {
        self.whole.contains(exchange)
    }

    /// Whether the exchange is a direct one, as far as is known, that somebody may delete.
    pub(super) fn is_watchable(&self, exchange: &str) -> bool {
        let known = self.kinds.get(exchange);
        known.is_some_and(|known| known.kind == ExchangeKind::Direct)
            && predeclared(exchange).is_none()
    }

    /// The exchange's type at the broker now.
    pub(super) async fn kind(
        &self,
        live: &Live,
        exchange: &str,
        deadline: Instant,
    ) -> Result<ExchangeKind, BrokerError> {
        if let Some(kind) = predeclared(exchange) {
            return Ok(kind);
        }
        let since = Instant::now();
        let late = |_| BrokerError::Unavailable(late());
        let turn = timeout_at(deadline, self.lines.turn(exchange)).await;
        let _turn = turn.map_err(late)?;
        // Somebody may have begun to ask after this call did, and have the answer.
        if let Some(known) = self.kinds.get(exchange)
            && known.since >= since
        {
            return Ok(known.kind);
        }
        if let Some((asked, error)) = self.missing.lock().get(exchange)
            && *asked >= since
        {
            return Err(error.clone());
        }
        let asker = timeout_at(deadline, self.askers.acquire()).await;
        let _asker = asker.map_err(late)?;
        let asked = Instant::now();
        let answer = self.kind_now(live, exchange, deadline).await;
        match &answer {
            Ok(kind) => {
                self.kinds.note(exchange, *kind, asked);
            }
            Err(error @ BrokerError::NotFound(_)) => {
                let missing = (asked, error.clone());
                self.missing.lock().note(exchange.into(), missing);
            }
            Err(_) => {}
        }
        answer
    }

    async fn kind_now(
        &self,
        live: &Live,
        exchange: &str,
        deadline: Instant,
    ) -> Result<ExchangeKind, BrokerError> {
        // It may be gone since it was seen.
        self.forget(exchange);
        self.check(live, exchange, deadline).await?;
        match self.configured.get(exchange) {
            // It would have been refused if it were another one.
            Some(kind) => Ok(*kind),
            None => self.ask_kind(live, exchange, deadline).await,
        }
    }

    async fn ask_kind(
        &self,
        live: &Live,
        exchange: &str,
        deadline: Instant,
    ) -> Result<ExchangeKind, BrokerError> {
        // AMQP has no question for the type. But a declaration with another type is refused
        // with words that name the true one.
        let kind = match probe(live, exchange, deadline).await {
            Err(BrokerError::PreconditionFailed(text)) if is_equivalence(&text) => {
                kind_in_refusal(&text)
            }
            // It went just now, and the broker began to make a new one.
            Err(BrokerError::PreconditionFailed(_)) => {
                self.look_for(live, exchange, deadline).await?;
                ExchangeKind::Other
            }
            Err(BrokerError::AccessRefused(text)) => {
                telemetry::exchange_type_unknown(exchange, &text);
                ExchangeKind::Other
            }
            Ok(()) => ExchangeKind::Other,
            Err(error) => return Err(error),
        };
        Ok(kind)
    }

    /// Succeeds if the exchange exists now, whatever is remembered.
    async fn look_for(
        &self,
        live: &Live,
        exchange: &str,
        deadline: Instant,
    ) -> Result<(), BrokerError> {
        let outcome = find(live, exchange, deadline).await;
        if let Err(BrokerError::NotFound(_)) = &outcome {
            self.forget(exchange);
        }
        outcome
    }
}

/// Declares a durable exchange of that type; without one, only looks whether it is there.
async fn declare(
    live: &Live,
    exchange: &str,
    kind: Option<lapin::ExchangeKind>,
    arguments: FieldTable,
    deadline: Instant,
) -> Result<(), BrokerError> {
    let channel = live.passing(deadline).await?;
    let name = short("the exchange's name", exchange)?;
    let passive = kind.is_none();
    let options = ExchangeDeclareOptions {
        passive,
        durable: !passive,
        ..Default::default()
    };
    answer(
        deadline,
        channel.exchange_declare(name, kind.unwrap_or_default(), options, arguments),
    )
    .await
}

/// Succeeds if the exchange is there.
pub(super) async fn find(
    live: &Live,
    exchange: &str,
    deadline: Instant,
) -> Result<(), BrokerError> {
    declare(live, exchange, None, FieldTable::default(), deadline).await
}

/// Declares a durable exchange of that type; where the account may not, looks whether it is there.
pub(super) async fn declare_or_find(
    live: &Live,
    exchange: &str,
    kind: lapin::ExchangeKind,
    deadline: Instant,
) -> Result<(), BrokerError> {
    match declare(live, exchange, Some(kind), FieldTable::default(), deadline).await {
        Err(BrokerError::AccessRefused(_)) => find(live, exchange, deadline).await,
        outcome => outcome,
    }
}

/// Declares an exchange as one of type `headers`, in a way that makes none: RabbitMQ compares
/// the type with that of an existing exchange before all else, and takes the name of an alternate
/// exchange only as a text.
pub(super) async fn probe(
    live: &Live,
    exchange: &str,
    deadline: Instant,
) -> Result<(), BrokerError> {
    let channel = live.passing(deadline).await?;
    let name = short("the exchange's name", exchange)?;
    let options = ExchangeDeclareOptions {
        durable: true,
        ..Default::default()
    };
    let mut arguments = FieldTable::default();
    arguments.insert("alternate-exchange".into(), AMQPValue::LongInt(0));
    let kind = lapin::ExchangeKind::Headers;
    answer(
        deadline,
        channel.exchange_declare(name, kind, options, arguments),
    )
    .await
}

fn amqp_kind(kind: ExchangeKind) -> Option<lapin::ExchangeKind> {
    match kind {
        ExchangeKind::Direct => Some(lapin::ExchangeKind::Direct),
        ExchangeKind::Topic => Some(lapin::ExchangeKind::Topic),
        ExchangeKind::Fanout => Some(lapin::ExchangeKind::Fanout),
        ExchangeKind::Other => None,
    }
}

/// Declares a queue.
pub(super) async fn declare_queue(
    live: &Live,
    queue: &QueueSpec,
    deadline: Instant,
) -> Result<(), BrokerError> {
    let channel = live.passing(deadline).await?;
    let (options, arguments) = declare_options(queue)?;
    let name = short("the queue's name", &queue.name)?;
    let declaring = channel.queue_declare(name, options, arguments);
    answer_soon_for_queue(live, deadline, declaring)
        .await
        .map(drop)
}

/// Takes a queue's binding away, if it has it.
pub(super) async fn unbind_queue(
    live: &Live,
    queue: &str,
    exchange: &str,
    key: &str,
    deadline: Instant,
) -> Result<(), BrokerError> {
    let channel = live.passing(deadline).await?;
    let (queue, exchange, key) = (
        short("the queue's name", queue)?,
        short("the exchange's name", exchange)?,
        short("the pattern", key)?,
    );
    let unbinding = channel.queue_unbind(queue, exchange, key, FieldTable::default());
    answer(deadline, unbinding).await
}

/// Deletes a queue, if there is one of that name; with `if_empty`, only if nothing waits in it.
pub(super) async fn delete_queue(
    live: &Live,
    name: &str,
    if_empty: bool,
    deadline: Instant,
) -> Result<(), BrokerError> {
    let channel = live.passing(deadline).await?;
    let name = short("the queue's name", name)?;
    let options = QueueDeleteOptions {
        if_empty,
        ..QueueDeleteOptions::default()
    };
    let deleting = channel.queue_delete(name, options);
    answer_soon_for_queue(live, deadline, deleting)
        .await
        .map(drop)
}

pub(super) fn declare_options(
    queue: &QueueSpec,
) -> Result<(QueueDeclareOptions, FieldTable), BrokerError> {
    let options = QueueDeclareOptions {
        passive: false,
        durable: queue.durable,
        exclusive: queue.exclusive,
        auto_delete: queue.auto_delete,
        nowait: false,
    };
    Ok((options, table(&queue.arguments)?))
}

/// The types of the exchanges that every virtual host has.
fn predeclared(exchange: &str) -> Option<ExchangeKind> {
    match exchange {
        "" | "amq.direct" => Some(ExchangeKind::Direct),
        "amq.topic" => Some(ExchangeKind::Topic),
        "amq.fanout" => Some(ExchangeKind::Fanout),
        "amq.headers" | "amq.match" => Some(ExchangeKind::Other),
        _ => None,
    }
}

/// Whether a refusal tells of a difference to what exists.
pub(super) fn is_equivalence(text: &str) -> bool {
    text.contains("inequivalent arg '")
}

/// `PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'feed' in vhost '/': received
/// 'headers' but current is 'topic'`
pub(super) fn kind_in_refusal(text: &str) -> ExchangeKind {
    if !text.contains("inequivalent arg 'type'") {
        // Then its type is the probe's.
        return ExchangeKind::Other;
    }
    match text
        .rsplit("current is '")
        .next()
        .and_then(|rest| rest.split('\'').next())
    {
        Some("direct") => ExchangeKind::Direct,
        Some("topic") => ExchangeKind::Topic,
        Some("fanout") => ExchangeKind::Fanout,
        _ => ExchangeKind::Other,
    }
}

/// What clients are told where the account may not publish for them: not the account's name.
pub(super) const NO_IMPERSONATION: &str =
    "PRECONDITION_FAILED - this server may not publish messages that name their user";

/// `PRECONDITION_FAILED - user_id property set to 'alice' but authenticated user was 'gateway'`
pub(super) fn is_impersonation(text: &str) -> bool {
    text.contains("user_id property set to '")
}

/// Whether a refusal is one of topic authorisation, which is about one routing key:
/// `ACCESS_REFUSED - access to topic 'k' in exchange 'feed' in vhost '/' refused for user 'gw'`
pub(super) fn is_topical(text: &str) -> bool {
    text.contains("access to topic '")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_tells_the_type() {
        let refusal = |kind: &str| {
            kind_in_refusal(&format!(
                "PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'it' in vhost '/': \
                 received 'headers' but current is '{kind}'"
            ))
        };
        assert_eq!(refusal("direct"), ExchangeKind::Direct);
        assert_eq!(refusal("topic"), ExchangeKind::Topic);
        assert_eq!(refusal("fanout"), ExchangeKind::Fanout);
        assert_eq!(refusal("x-consistent-hash"), ExchangeKind::Other);
        let other = "PRECONDITION_FAILED - inequivalent arg 'durable' for exchange 'it' in vhost \
                     '/': received 'true' but current is 'false'";
        assert_eq!(kind_in_refusal(other), ExchangeKind::Other);
        let alternate = "PRECONDITION_FAILED - inequivalent arg 'alternate-exchange' for exchange \
                         'it' in vhost '/': received the value '0' of type 'signedint' but \
                         current is 'topic'";
        assert_eq!(kind_in_refusal(alternate), ExchangeKind::Other);
    }
}
