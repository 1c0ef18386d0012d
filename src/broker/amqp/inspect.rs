//! Questions about RabbitMQ before anything depends on the answers (`stentor doctor`).
//!
//! They go the ways of the gateway itself: the same login, the same links, the same questions for
//! exchanges. They change nothing. AMQP has no question for a permission, so each is tried by
//! something that leaves no trace:
//!
//! - A queue is declared with the arguments of a feed's queue, but exclusive and auto-delete. It ends
//!   with the connection.
//! - An exchange is declared with an argument that RabbitMQ refuses, after it has looked at the
//!   permission to configure it.
//! - A message is published whose expiration is no number: RabbitMQ refuses it, after it has looked
//!   at the permissions to write. It is never routed.
//! - A queue or a stream is unbound by a key that it was never bound by. RabbitMQ looks at the same
//!   permissions as for a binding, finds nothing, and says that all is well.
//! - A stream is read from what comes next, by a consumer that is cancelled at once.
//! - A message in another's name is published to the default exchange, by a key that no queue has for
//!   its name. If RabbitMQ refuses it, it refuses one to any other exchange, too, after it has looked at
//!   topic permissions.

use std::sync::Arc;

use lapin::{
    BasicProperties,
    options::{
        BasicCancelOptions, BasicConsumeOptions, BasicGetOptions, BasicPublishOptions,
        BasicQosOptions, ConfirmSelectOptions, QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable, ShortString},
};
use tokio::{
    sync::watch,
    time::{Duration, Instant},
};

pub use super::reader::Product;
use super::{
    AmqpBroker,
    convert::short,
    feed::journal_arguments,
    hosts::Hosts,
    link::{LinkConfig, Live, answer, connect},
    reader::ask_product,
    stream, topology,
    whole::{self, Beside},
};
use crate::{
    broker::{
        BrokerError, ExchangeKind, FEED_QUEUES, JournalConfig, QueueSpec, journal::stream_of,
    },
    deadline::after,
};

/// A virtual host under examination.
pub struct Examined {
    live: Live,
    /// As long as it is there, so is the connection.
    _blocked: watch::Sender<bool>,
    vhost: Box<str>,
    user: Box<str>,
    timeout: Duration,
}

/// The queue of a trial.
pub struct TrialQueue(ShortString);

/// An exchange, as far as the account can see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It is not there.
    Missing,
    /// It is there; its type, unless the account may not configure it: then RabbitMQ does not tell.
    There(Option<ExchangeKind>),
}

/// A queue of the gateway's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SeenQueue {
    /// It is not there.
    Missing,
    /// It is there, as the configuration says.
    Right,
    /// It is there, and was declared otherwise; RabbitMQ's words.
    Differs(Box<str>),
}

/// The stream of a journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SeenJournal {
    /// It is not there, and the gateway makes it.
    Missing,
    /// It is there, as the configuration says.
    Right,
    /// It is there, and was declared otherwise; RabbitMQ's words.
    Differs(Box<str>),
    /// It is there; the account may not declare it.
    NotOurs,
    /// It is there, and may be declared; but not with this permission (`write`, `read`) used.
    Lacks(&'static str),
    /// A queue of another type has its name.
    NoStream,
}

/// What became of a message that cannot be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Writable {
    /// Whether the message may name another user than the account.
    pub impersonates: bool,
}

impl AmqpBroker {
    /// The broker's machines, as the configuration names them.
    #[must_use]
    pub fn places(&self) -> Vec<String> {
        let hosts = self.hosts.all().iter();
        hosts.map(ToString::to_string).collect()
    }

    /// The name of the gateway's account.
    #[must_use]
    pub fn account(&self) -> &str {
        &self.uri.authority.userinfo.username
    }

    /// Logs in at one machine, by its place in the configuration, and asks the broker who it is.
    ///
    /// # Errors
    /// It does not let the account in, or is not there.
    pub async fn product_at(&self, place: usize, vhost: &str) -> Result<Product, BrokerError> {
        let hosts = self.hosts.all().get(place).cloned();
        let config = LinkConfig {
            hosts: Arc::new(Hosts::new(hosts.into_iter().collect())),
            ..self.links(vhost).with_purpose("doctor")
        };
        let asked = ask_product(&config).await;
        asked
            .map(|(product, _)| product)
            .map_err(|unreached| unreached.error)
    }

    /// Connects to a virtual host, at any machine. Each question may take `timeout`.
    ///
    /// # Errors
    /// As [`AmqpBroker::product_at`].
    pub async fn examine(&self, vhost: &str, timeout: Duration) -> Result<Examined, BrokerError> {
        let config = self.links(vhost).with_purpose("doctor");
        let connected = connect(&config).await;
        let (connection, _) = connected.map_err(|unreached| unreached.error)?;
        let (live, blocked) = Live::new(connection, 0, Arc::clone(&config.quarantine));
        Ok(Examined {
            live,
            _blocked: blocked,
            vhost: vhost.into(),
            user: self.account().into(),
            timeout,
        })
    }
}

impl Examined {
    /// The name of the gateway's account.
    #[must_use]
    pub fn account(&self) -> &str {
        &self.user
    }

    fn deadline(&self) -> Instant {
        after(self.timeout)
    }

    /// Looks for an exchange.
    ///
    /// # Errors
    /// The broker does not answer.
    pub async fn exchange(&self, name: &str) -> Result<Seen, BrokerError> {
        let deadline = self.deadline();
        match topology::find(&self.live, name, deadline).await {
            Ok(()) => {}
            Err(BrokerError::NotFound(_)) => return Ok(Seen::Missing),
            // RabbitMQ 4.3 does not even tell that to an account without any right to it.
            Err(BrokerError::AccessRefused(_)) => return Ok(Seen::There(None)),
            Err(error) => return Err(error),
        }
        Ok(match topology::probe(&self.live, name, deadline).await {
            Err(BrokerError::PreconditionFailed(text)) if topology::is_equivalence(&text) => {
                Seen::There(Some(topology::kind_in_refusal(&text)))
            }
            Err(BrokerError::AccessRefused(_)) => Seen::There(None),
            Err(BrokerError::Unavailable(cause)) => return Err(BrokerError::Unavailable(cause)),
            // It went just now; or RabbitMQ has other words for the refusal.
            Ok(()) | Err(_) => Seen::There(None),
        })
    }

    /// Looks for a queue of the gateway's own. One that is there is declared as the gateway would, which
    /// changes nothing.
    ///
    /// # Errors
    /// [`BrokerError::AccessRefused`]: the account may not declare it; or the broker does not answer.
    pub async fn queue(&self, queue: &QueueSpec) -> Result<SeenQueue, BrokerError> {
        let (options, arguments) = topology::declare_options(queue)?;
        let looking = QueueDeclareOptions {
            passive: true,
            ..options
        };
        let none = FieldTable::default();
        match self.declare_queue(&queue.name, looking, none).await {
            Ok(()) => {}
            Err(BrokerError::NotFound(_)) => return Ok(SeenQueue::Missing),
            Err(error) => return Err(error),
        }
        match self.declare_queue(&queue.name, options, arguments).await {
            Ok(()) => Ok(SeenQueue::Right),
            Err(BrokerError::PreconditionFailed(text)) => Ok(SeenQueue::Differs(text)),
            Err(error) => Err(error),
        }
    }

    /// Looks for the stream of an exchange's journal. One that is there is declared as the gateway
    /// would, which changes nothing, and its writing and reading are tried; one that is not, with a
    /// length that RabbitMQ refuses after it has looked at the permission.
    ///
    /// # Errors
    /// [`BrokerError::AccessRefused`]: it is not there, and the account may not make it; or the broker
    /// does not answer.
    pub async fn journal(
        &self,
        exchange: &str,
        config: &JournalConfig,
    ) -> Result<SeenJournal, BrokerError> {
        let stream = stream_of(exchange);
        let arguments = journal_arguments(config);
        match self
            .declare_stream(&stream, true, FieldTable::default())
            .await
        {
            Ok(()) => {
                let seen = match self.declare_stream(&stream, false, arguments).await {
                    Ok(()) => SeenJournal::Right,
                    Err(BrokerError::PreconditionFailed(text)) => SeenJournal::Differs(text),
                    Err(BrokerError::AccessRefused(_)) => return Ok(SeenJournal::NotOurs),
                    Err(error) => return Err(error),
                };
                let hindrance = self.hindrance(&stream).await?;
                Ok(hindrance.unwrap_or(seen))
            }
            Err(BrokerError::NotFound(_)) => {
                let mut arguments = arguments;
                let refused = AMQPValue::LongLongInt(-1);
                arguments.insert("x-max-length-bytes".into(), refused);
                match self.declare_stream(&stream, false, arguments).await {
                    Err(BrokerError::PreconditionFailed(_)) => Ok(SeenJournal::Missing),
                    Err(error) => Err(error),
                    Ok(()) => Err(BrokerError::Unavailable(
                        "it took a stream that it should have refused".into(),
                    )),
                }
            }
            // RabbitMQ 4.3 does not even tell that to an account without any right to it.
            Err(BrokerError::AccessRefused(_)) => Ok(SeenJournal::NotOurs),
            Err(error) => Err(error),
        }
    }

    /// Why what has the stream's name cannot be used as a journal.
    async fn hindrance(&self, name: &str) -> Result<Option<SeenJournal>, BrokerError> {
        let queue = TrialQueue(short("the stream's name", name)?);
        match self.may_fill(&queue).await {
            Err(BrokerError::AccessRefused(_)) => return Ok(Some(SeenJournal::Lacks("write"))),
            outcome => outcome?,
        }
        match self.may_follow(&queue).await {
            Err(BrokerError::AccessRefused(_)) => Ok(Some(SeenJournal::Lacks("read"))),
            Err(BrokerError::PreconditionFailed(text)) if stream::is_none(&text) => {
                Ok(Some(SeenJournal::NoStream))
            }
            outcome => outcome.map(|()| None),
        }
    }

    /// Whether the account may read from the stream: of what comes next, one message at most. RabbitMQ
    /// refuses it for other queues, and so takes no message out of them.
    async fn may_follow(&self, stream: &TrialQueue) -> Result<(), BrokerError> {
        let deadline = self.deadline();
        let channel = self.live.passing(deadline).await?;
        // A stream gives messages to nobody without.
        let limiting = channel.basic_qos(1, BasicQosOptions::default());
        answer(deadline, limiting).await?;
        let mut arguments = FieldTable::default();
        let next = AMQPValue::LongString("next".into());
        arguments.insert("x-stream-offset".into(), next);
        let options = BasicConsumeOptions::default();
        let consuming = channel.basic_consume(stream.0.clone(), "".into(), options, arguments);
        let consumer = answer(deadline, consuming).await?;
        let cancelling = channel.basic_cancel(consumer.tag(), BasicCancelOptions::default());
        answer(deadline, cancelling).await
    }

    async fn declare_stream(
        &self,
        stream: &str,
        passive: bool,
        arguments: FieldTable,
    ) -> Result<(), BrokerError> {
        let options = QueueDeclareOptions {
            passive,
            durable: true,
            ..QueueDeclareOptions::default()
        };
        self.declare_queue(stream, options, arguments).await
    }

    async fn declare_queue(
        &self,
        name: &str,
        options: QueueDeclareOptions,
        arguments: FieldTable,
    ) -> Result<(), BrokerError> {
        let deadline = self.deadline();
        let channel = self.live.passing(deadline).await?;
        let name = short("the queue's name", name)?;
        let declaring = channel.queue_declare(name, options, arguments);
        answer(deadline, declaring).await.map(drop)
    }

    /// Whether the account may make this exchange.
    ///
    /// # Errors
    /// It may not ([`BrokerError::AccessRefused`]), or the broker does not answer.
    pub async fn may_make(&self, exchange: &str) -> Result<(), BrokerError> {
        match topology::probe(&self.live, exchange, self.deadline()).await {
            Err(BrokerError::PreconditionFailed(_)) => Ok(()),
            outcome => outcome,
        }
    }

    /// Declares a queue with the arguments of a feed's queue; it has the prefix, and a name that
    /// nobody else can know.
    ///
    /// # Errors
    /// The account may not configure it.
    pub async fn declare(&self, prefix: &str) -> Result<TrialQueue, BrokerError> {
        self.declare_with(prefix, FieldTable::default()).await
    }

    /// As [`Examined::declare`], a queue whose dead letters go to the default exchange, as those
    /// of feeds do: RabbitMQ asks whether the account may read from the queue, and write there.
    ///
    /// # Errors
    /// The account may not.
    pub async fn declare_feed_queue(&self) -> Result<TrialQueue, BrokerError> {
        let mut arguments = FieldTable::default();
        let default = AMQPValue::LongString("".into());
        arguments.insert("x-dead-letter-exchange".into(), default);
        self.declare_with(FEED_QUEUES, arguments).await
    }

    async fn declare_with(
        &self,
        prefix: &str,
        mut arguments: FieldTable,
    ) -> Result<TrialQueue, BrokerError> {
        let name = format!("{prefix}doctor.{:016x}", rand::random::<u64>());
        let name = short("the queue's name", &name)?;
        for (name, value) in [("x-queue-type", "classic"), ("x-overflow", "drop-head")] {
            arguments.insert(name.into(), AMQPValue::LongString(value.into()));
        }
        // A message that comes to it by chance takes no room.
        for (name, value) in [("x-max-length", 1), ("x-expires", 60_000)] {
            arguments.insert(name.into(), AMQPValue::LongLongInt(value));
        }
        let options = QueueDeclareOptions {
            exclusive: true,
            auto_delete: true,
            ..QueueDeclareOptions::default()
        };
        let deadline = self.deadline();
        let channel = self.live.passing(deadline).await?;
        let declaring = channel.queue_declare(name.clone(), options, arguments);
        answer(deadline, declaring).await?;
        Ok(TrialQueue(name))
    }

    /// Whether the account may read from the queue.
    ///
    /// # Errors
    /// It may not.
    pub async fn may_consume(&self, queue: &TrialQueue) -> Result<(), BrokerError> {
        let deadline = self.deadline();
        let channel = self.live.passing(deadline).await?;
        let getting = channel.basic_get(queue.0.clone(), BasicGetOptions { no_ack: true });
        answer(deadline, getting).await.map(drop)
    }

    /// Whether the account may bind the queue to an exchange: it takes the permissions to write to
    /// the queue, and to read from the exchange. Nothing is bound, for that would stay at a stream if
    /// nobody were left to undo it: it is unbound, by a key that nobody can know.
    ///
    /// # Errors
    /// It may not.
    pub async fn may_bind(&self, queue: &TrialQueue, exchange: &str) -> Result<(), BrokerError> {
        let key = whole::secret_key();
        self.may_bind_by(queue, exchange, &key).await
    }

    /// As [`Examined::may_bind`], by the key `#`, which topic permissions may exclude. The queue is that
    /// of a trial, so that it is not bound by this key.
    ///
    /// # Errors
    /// It may not.
    pub async fn may_bind_all(
        &self,
        queue: &TrialQueue,
        exchange: &str,
    ) -> Result<(), BrokerError> {
        self.may_bind_by(queue, exchange, "#").await
    }

    async fn may_bind_by(
        &self,
        queue: &TrialQueue,
        exchange: &str,
        key: &str,
    ) -> Result<(), BrokerError> {
        let deadline = self.deadline();
        let channel = self.live.passing(deadline).await?;
        let (exchange, key) = (
            short("the exchange's name", exchange)?,
            short("the key", key)?,
        );
        let none = FieldTable::default();
        let unbinding = channel.queue_unbind(queue.0.clone(), exchange, key, none);
        answer(deadline, unbinding).await
    }

    /// Whether the account may write to the queue, as it needs to bind it to an exchange that every
    /// virtual host has. Reading that one is not what is asked.
    ///
    /// # Errors
    /// It may not.
    pub async fn may_fill(&self, queue: &TrialQueue) -> Result<(), BrokerError> {
        match self.may_bind(queue, "amq.direct").await {
            Err(BrokerError::AccessRefused(text)) if text.contains("exchange '") => Ok(()),
            outcome => outcome,
        }
    }

    /// Whether the account may write to an exchange, and in others' names.
    ///
    /// # Errors
    /// It may not write, or the exchange is not there.
    pub async fn may_write(&self, exchange: &str) -> Result<Writable, BrokerError> {
        let refused = BasicProperties::default().with_expiration("none".into());
        match self.publish(exchange, refused).await {
            Err(BrokerError::PreconditionFailed(_)) => {}
            Err(error) => return Err(error),
            Ok(()) => {
                return Err(BrokerError::Unavailable(
                    "it took a message that it should have refused".into(),
                ));
            }
        }
        // RabbitMQ 4.3 looks at the expiration before the user. This one goes nowhere: no queue has
        // the name that is its key.
        let nobody = short("the user's name", &format!("not {}", self.user))?;
        let another = BasicProperties::default().with_user_id(nobody);
        match self.publish("", another.clone()).await {
            Ok(()) => return Ok(Writable { impersonates: true }),
            Err(BrokerError::PreconditionFailed(_)) => {}
            Err(error) => return Err(error),
        }
        // RabbitMQ 4.3 looks at topic permissions behind the expiration, before the user.
        let writable = Writable {
            impersonates: false,
        };
        if exchange.is_empty() {
            return Ok(writable);
        }
        match self.publish(exchange, another).await {
            Ok(()) | Err(BrokerError::PreconditionFailed(_)) => Ok(writable),
            Err(error) => Err(error),
        }
    }

    /// Publishes a message with a key that nobody knows.
    async fn publish(
        &self,
        exchange: &str,
        properties: BasicProperties,
    ) -> Result<(), BrokerError> {
        let deadline = self.deadline();
        let channel = self.live.passing(deadline).await?;
        let selecting = channel.confirm_select(ConfirmSelectOptions::default());
        answer(deadline, selecting).await?;
        let properties = properties.with_app_id("stentor".into());
        let (exchange, key) = (
            short("the exchange's name", exchange)?,
            short("the key", &whole::secret_key())?,
        );
        let options = BasicPublishOptions::default();
        answer(deadline, async {
            let publishing = channel.basic_publish(exchange, key, options, &[], properties);
            publishing.await?.await
        })
        .await
        .map(drop)
    }

    /// Whether what is published to an exchange that is read whole comes by its alternate
    /// exchange. The exchanges beside it must be there.
    ///
    /// # Errors
    /// [`BrokerError::NotFound`]: it does not.
    pub async fn leads_beside(&self, exchange: &str) -> Result<(), BrokerError> {
        let beside = Beside::new(&self.vhost, exchange)?;
        beside.try_keys(&self.live, self.deadline()).await
    }

    /// Ends the connection.
    pub async fn close(&self) {
        self.live.close().await;
    }
}

/// Whether a refusal is about a routing key alone: one of topic permissions.
#[must_use]
pub fn is_topical(error: &BrokerError) -> bool {
    matches!(error, BrokerError::AccessRefused(text) if topology::is_topical(text))
}

/// The exchanges beside one that is read whole.
#[must_use]
pub fn beside(exchange: &str) -> [String; 2] {
    [whole::all_of(exchange), whole::keys_of(exchange)]
}

/// The command that leads an exchange to the one beside it.
#[must_use]
pub fn policy_command(vhost: &str, exchange: &str) -> String {
    Beside::new(vhost, exchange).map_or_else(|error| error.to_string(), |beside| beside.policy())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::amqp::stub::Stub;

    async fn examined(stub: &Stub) -> Examined {
        let config = stub.config();
        let Ok((connection, _)) = connect(&config).await else {
            panic!("it lets everybody in");
        };
        let (live, blocked) = Live::new(connection, 0, Arc::clone(&config.quarantine));
        Examined {
            live,
            _blocked: blocked,
            vhost: "app".into(),
            user: "u".into(),
            timeout: Duration::from_secs(10),
        }
    }

    /// It would stay there if the connection were lost before it is undone. The stub binds nothing.
    #[tokio::test]
    async fn a_right_to_bind_is_tried_without_a_binding() {
        let stub = Stub::of_queues(2047).await;
        let examined = examined(&stub).await;
        let queue = TrialQueue("stentor.journal.feed".into());
        assert_eq!(examined.may_bind(&queue, "feed").await, Ok(()));
        assert_eq!(examined.may_fill(&queue).await, Ok(()));
    }

    /// What the declaration says of it depends on the arguments that RabbitMQ compares first.
    #[tokio::test]
    async fn a_queue_in_the_place_of_a_journal_is_no_stream() {
        let stub = Stub::of_queues(2047).await;
        stub.deny_streams();
        let examined = examined(&stub).await;
        let seen = examined.journal("feed", &JournalConfig::default()).await;
        assert_eq!(seen, Ok(SeenJournal::NoStream));
    }
}
