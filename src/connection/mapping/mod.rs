//! From STOMP frames to requests to the broker (pure): destinations and headers mean the same as in
//! RabbitMQ's STOMP plug-in; some subscriptions can share a feed.
//!
//! A request that the broker would answer by closing a channel is refused here: many clients share
//! a channel, and one client's bad `expiration` must not cost the others theirs.

mod asking;
pub(super) mod conflating;
mod deltas;
mod fields;
mod looking_back;
pub(super) mod numbering;
pub(super) mod presence;
mod properties;
mod resuming;

#[cfg(test)]
mod tests;

use bytes::Bytes;
use stomp_grammar::{Command, Headers};
use stomp_session::{AckMode, Problem};

use crate::broker::{
    Argument, BrokerError, Consume, KeyLimits, Properties, Publish, QueueSpec, TooManyHashes,
    destination::{Destination, DestinationError},
    own_queues,
};
use crate::hub::{Conflate, Resume, Since};
use crate::messaging::Once;
use crate::presence::Status;
pub use asking::Asking;
use fields::Fields;
pub use looking_back::LookBack;

impl From<DestinationError> for Problem {
    fn from(error: DestinationError) -> Self {
        match error {
            DestinationError::Unknown(destination) => Self::UnknownDestination(destination),
            error => Self::InvalidDestination(error.to_string().into()),
        }
    }
}

/// The problem that a client is told when the broker refuses its request.
impl From<BrokerError> for Problem {
    fn from(error: BrokerError) -> Self {
        match error {
            BrokerError::NotFound(text) => Self::NotFound(text),
            BrokerError::AccessRefused(text) => Self::BrokerRefused(text),
            BrokerError::ResourceLocked(text) => Self::ResourceLocked(text),
            BrokerError::PreconditionFailed(text) | BrokerError::Unsupported(text) => {
                Self::PreconditionFailed(text)
            }
            BrokerError::Cancelled(text) => Self::SubscriptionCancelled(text),
            BrokerError::QueueFailed(text) => Self::QueueFailed(text),
            BrokerError::Unroutable | BrokerError::Nacked => {
                Self::NotPublished(error.to_string().into())
            }
            BrokerError::Unavailable(_) | BrokerError::VhostRefused(_) => {
                Self::BrokerUnavailable(error.told().into())
            }
        }
    }
}

impl From<TooManyHashes> for Problem {
    fn from(error: TooManyHashes) -> Self {
        Self::InvalidDestination(format!("{error}\n").into())
    }
}

/// The surroundings that the mapping depends on.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The user's name.
    pub user: &'a str,
    /// The connection, to tell it from others of this node.
    pub connection: u64,
    /// The gateway's own account may publish in the name of others: then the AMQP `user-id`
    /// property of every message is the user.
    pub impersonate: bool,
    /// The default topic exchange.
    pub topics: &'a str,
    /// Messages on their way to an `ack:auto` subscription, at most.
    pub auto_prefetch: u16,
    /// Messages that a client may leave unacknowledged, at most, in one subscription.
    pub max_unacked: u16,
    /// Limits of keys and patterns.
    pub keys: KeyLimits,
    /// Presence is on, and so `/presence` is a destination, and `/presence/rooms/…` are.
    pub presence: bool,
    /// Some exchange has a journal (`[journal]`).
    pub journals: bool,
    /// SENDs may have numbers or keys (`[sequences]`).
    pub sequences: bool,
    /// The client's device, which its numbers belong to.
    pub device: &'a str,
}

/// The meaning of a SEND frame.
#[derive(Clone, Debug)]
pub enum Sent {
    /// How available the client is, to presence.
    Status(Status),
    /// A question who is in a room.
    Ask(Box<Asking>),
    /// A message to publish.
    Message(Box<Sending>),
    /// A question for messages that a journal has kept.
    History(Box<LookBack>),
}

/// The request of a SEND frame to the broker.
#[derive(Clone, Debug)]
pub struct Sending {
    /// The message; the lane is the caller's to set.
    pub publish: Publish,
    /// The queue to declare before, if this was not done yet.
    pub declare: Option<QueueSpec>,
    /// Answers are to go to this temporary queue of the session (the whole `reply-to` header,
    /// `/temp-queue/<x>`): the caller makes it by [`temp_queue`], and sets
    /// `publish.properties.reply_to` to its name.
    pub temp_queue: Option<Box<str>>,
    /// It is published once: the caller finds out whether it was.
    pub once: Option<Once>,
}

/// The meaning of a SEND frame to `destination`. If presence is on, `/presence` is no exchange or
/// queue: a client sets its status there, and asks who is in rooms behind it. Nor is `/history`, if
/// there are journals.
///
/// # Errors
/// As [`publish`]; and [`Problem::MissingHeader`], [`Problem::InvalidHeader`]: no such status.
pub fn send(
    destination: &str,
    headers: &Headers,
    body: Bytes,
    context: &Context<'_>,
) -> Result<Sent, Problem> {
    if context.presence && destination == presence::DESTINATION {
        numbering::refuse(headers, context)?;
        return presence::send(headers).map(Sent::Status);
    }
    if context.presence
        && let Some(rest) = destination.strip_prefix(asking::DESTINATION)
    {
        numbering::refuse(headers, context)?;
        let asking = asking::ask(rest, headers, context)?;
        return Ok(Sent::Ask(Box::new(asking)));
    }
    if context.journals && destination == looking_back::DESTINATION {
        numbering::refuse(headers, context)?;
        return looking_back::read(headers, context).map(|asked| Sent::History(Box::new(asked)));
    }
    let destination = Destination::parse(destination)?;
    let sending = publish(&destination, headers, body, context)?;
    Ok(Sent::Message(Box::new(sending)))
}

/// The request of a SEND frame to `destination` to the broker.
///
/// Every header that neither is STOMP's own nor becomes a property becomes an AMQP header. The
/// user's name goes with it as [`USER_HEADER`](crate::broker::USER_HEADER), in place of any value
/// that the client sent there.
///
/// # Errors
/// [`Problem::InvalidDestination`]: among others, the key has too many words;
/// [`Problem::InvalidHeader`], [`Problem::PreconditionFailed`]: the client claims another
/// `user-id` than its own, or asks for replies to a queue that only RabbitMQ can make; and
/// [`Problem::HeadersTooBig`]: the headers together are larger than AMQP can carry, even if each
/// of them is within the limits of STOMP.
pub fn publish(
    destination: &Destination,
    headers: &Headers,
    body: Bytes,
    context: &Context<'_>,
) -> Result<Sending, Problem> {
    let Some((exchange, routing_key)) = destination.route(context.topics) else {
        return Err(DestinationError::not_for(Command::Send, &destination.to_string()).into());
    };
    let slow = context.keys.slow(exchange, routing_key, context.user);
    let slow = slow.map_err(|error| {
        Problem::InvalidDestination(format!("the routing key {error}\n").into())
    })?;
    let fields = Fields::new(Command::Send, headers);
    let (mut properties, temp_queue) = properties::read(&fields, context)?;
    let once = numbering::read(&fields, &mut properties, context)?;
    let length = properties.encoded_len();
    if length > Properties::MAX_LEN {
        return Err(Problem::HeadersTooBig {
            length,
            limit: Properties::MAX_LEN,
        });
    }
    let declare = match destination {
        // Here, `persistent` is the message's delivery mode alone. (The plug-in takes it for
        // `durable` too, so that `persistent:false` declares an exclusive queue.)
        Destination::Queue(name) => Some(queue(name, fields.switch("durable")?, &fields, context)?),
        _ => None,
    };
    Ok(Sending {
        publish: Publish {
            exchange: exchange.into(),
            routing_key: routing_key.into(),
            properties,
            body,
            mandatory: fields.switch("mandatory")?.unwrap_or(false),
            lane: 0,
            slow,
        },
        declare,
        temp_queue,
        once,
    })
}

/// Checks that a SEND can declare this queue.
///
/// # Errors
/// [`Problem::InvalidHeader`]: it is exclusive.
pub fn check_send_declares(queue: &QueueSpec) -> Result<(), Problem> {
    if queue.exclusive {
        return Err(Problem::InvalidHeader {
            command: Command::Send,
            header: "exclusive",
            expected: "false: only a consumer's queue can be exclusive",
        });
    }
    Ok(())
}

/// The name of a SUBSCRIBE's queue, if other frames can name it, too.
#[must_use]
pub fn named_queue(destination: &str, headers: &Headers) -> Option<Box<str>> {
    match Destination::parse(destination).ok()? {
        Destination::Queue(name) => Some(name),
        Destination::Exchange { .. } | Destination::Topic(_) => {
            headers.get("x-queue-name").map(Box::from)
        }
        Destination::AmqQueue(_) | Destination::TempQueue(_) | Destination::ReplyQueue(_) => None,
    }
}

/// Returns true if the gateway made the queue's name up, at random.
#[must_use]
pub fn is_made_up(queue: &QueueSpec) -> bool {
    !queue.durable && queue.name.starts_with(own_queues::SUBSCRIPTION_QUEUES)
}

/// How a subscription is served.
#[derive(Clone, Debug, PartialEq)]
pub enum Plan {
    /// By a feed that the node's subscriptions share.
    Shared {
        /// The exchange.
        exchange: Box<str>,
        /// The binding pattern.
        pattern: Box<str>,
        /// The messages of before that it asks for.
        resume: Option<Resume>,
        /// The client acknowledges, and begins where it has come to (`resume-after:stored`): it may
        /// leave so many unacknowledged.
        stored: Option<u16>,
        /// Of messages that wait, it wants the newest of each key alone.
        conflate: Option<Conflate>,
        /// It wants messages as deltas, where they are shorter.
        deltas: bool,
    },
    /// By a queue and a consumer of its own.
    Dedicated(Consume),
}

/// Chooses how a subscription to `destination` is served: by a shared feed if it is to an exchange
/// or a topic, with `ack:auto`, and no header is about a queue. `unique` is a fresh random number;
/// the name of a subscription's own queue is made of it.
///
/// A name that the client chose (`x-queue-name`) may be another user's: ask the hook before
/// consuming from it.
///
/// In the pattern, `#.#` becomes `#`, which means the same, and more than [`KeyLimits::max_hashes`]
/// are refused: RabbitMQ tries each of their combinations against every message's key, and
/// everybody waits for that. The type of the exchange is not known here; so the rule also holds for
/// direct exchanges, where `#` is only a rare letter.
///
/// # Errors
/// [`Problem::InvalidDestination`], [`Problem::InvalidHeader`], and [`Problem::MissingHeader`]:
/// a durable subscription needs an `id`.
pub fn subscribe(
    destination: &Destination,
    ack: AckMode,
    headers: &Headers,
    unique: u128,
    context: &Context<'_>,
) -> Result<Plan, Problem> {
    match destination {
        Destination::Exchange { .. } | Destination::Topic(_) if resuming::is_stored(headers) => {
            let on_gap = resuming::stored(ack, headers, context)?;
            if conflating::read(headers)?.is_some() {
                return Err(conflating::no_resume());
            }
            if deltas::asks(headers) {
                return Err(deltas::no_acknowledging());
            }
            let fields = Fields::new(Command::Subscribe, headers);
            let wish = fields.number("prefetch-count")?.unwrap_or_default();
            let limit = match wish {
                0 => context.max_unacked,
                wish => context.max_unacked.min(wish),
            };
            let (exchange, pattern) = destination.route(context.topics).unwrap_or_default();
            Ok(Plan::Shared {
                exchange: exchange.into(),
                pattern: context.keys.pattern(pattern)?,
                resume: Some(Resume {
                    since: Since::Next,
                    on_gap,
                }),
                stored: Some(limit.max(1)),
                conflate: None,
                deltas: false,
            })
        }
        Destination::Exchange { .. } | Destination::Topic(_)
            if ack == AckMode::Auto && !headers.iter().any(|(name, _)| asks_for_a_queue(name)) =>
        {
            let (exchange, pattern) = destination.route(context.topics).unwrap_or_default();
            let resume = resuming::read(headers, context.journals)?;
            let conflate = conflating::read(headers)?;
            if resume.is_some() && conflate.is_some() {
                return Err(conflating::no_resume());
            }
            Ok(Plan::Shared {
                exchange: exchange.into(),
                pattern: context.keys.pattern(pattern)?,
                resume,
                stored: None,
                conflate,
                deltas: deltas::read(headers)?,
            })
        }
        _ => dedicated(destination, ack, headers, unique, context).map(Plan::Dedicated),
    }
}

fn asks_for_a_queue(header: &str) -> bool {
    const QUEUE_HEADERS: [&str; 7] = [
        "durable",
        "persistent",
        "auto-delete",
        "exclusive",
        "prefetch-count",
        "x-queue-name",
        "x-priority",
    ];
    QUEUE_HEADERS.contains(&header)
        || fields::QUEUE_ARGUMENTS
            .iter()
            .any(|(name, _)| *name == header)
        || header.starts_with("x-stream-")
}

/// As [`subscribe`], never shared: for exchanges of types that the node cannot match itself.
///
/// # Errors
/// As [`subscribe`].
pub fn dedicated(
    destination: &Destination,
    ack: AckMode,
    headers: &Headers,
    unique: u128,
    context: &Context<'_>,
) -> Result<Consume, Problem> {
    if let Some(problem) = resuming::no_queue(headers, context.journals) {
        return Err(problem);
    }
    if conflating::asks(headers) {
        return Err(conflating::no_queue());
    }
    if deltas::asks(headers) {
        return Err(deltas::no_queue());
    }
    let fields = Fields::new(Command::Subscribe, headers);
    let binding = destination
        .route(context.topics)
        .filter(|(exchange, _)| !exchange.is_empty())
        .map(|(exchange, pattern)| {
            Ok::<_, Problem>((exchange.into(), context.keys.pattern(pattern)?))
        })
        .transpose()?;
    let binding_arguments = match binding {
        Some(_) => fields.binding_arguments()?,
        None => Vec::new(),
    };
    let queue = match destination {
        Destination::Exchange { .. } | Destination::Topic(_) => {
            subscription_queue(destination, &fields, &binding_arguments, unique, context)?
        }
        Destination::Queue(name) => queue(name, durable(&fields)?, &fields, context)?,
        Destination::AmqQueue(name) => QueueSpec {
            name: name.clone(),
            ..QueueSpec::default()
        },
        Destination::TempQueue(_) | Destination::ReplyQueue(_) => {
            let text = destination.to_string();
            return Err(DestinationError::not_for(Command::Subscribe, &text).into());
        }
    };
    check_redelivery(destination, &queue, headers)?;
    let most = match ack {
        AckMode::Auto => context.auto_prefetch,
        AckMode::Client | AckMode::ClientIndividual => context.max_unacked,
    };
    let prefetch = match fields.number("prefetch-count")? {
        None | Some(0) => most,
        Some(wish) => most.min(wish),
    };
    Ok(Consume {
        declare: !matches!(destination, Destination::AmqQueue(_)),
        binding,
        binding_arguments,
        prefetch: prefetch.max(1),
        // An exclusive queue belongs to the gateway's link; towards other clients of the gateway
        // its owner makes it exclusive, or, of a name that nobody can guess, its one consumer.
        exclusive: queue.exclusive && is_made_up(&queue),
        owner: context.connection,
        arguments: fields.consumer_arguments()?,
        queue,
    })
}

/// A subscription with `redeliver` is to a stream.
#[must_use]
pub fn no_redelivery_of_streams() -> Problem {
    Problem::InvalidHeader {
        command: Command::Subscribe,
        header: "redeliver",
        expected: "left out for a stream, which keeps its messages: come back with x-stream-offset",
    }
}

/// Checks that the queue can do what a client's `redeliver` asks of it.
fn check_redelivery(
    destination: &Destination,
    queue: &QueueSpec,
    headers: &Headers,
) -> Result<(), Problem> {
    if headers.get("redeliver").is_none() {
        return Ok(());
    }
    let is_stream = headers.get("x-queue-type") == Some("stream")
        || headers
            .iter()
            .any(|(name, _)| name.starts_with("x-stream-"));
    if is_stream {
        return Err(no_redelivery_of_streams());
    }
    let is_lasting = matches!(destination, Destination::AmqQueue(_))
        || (queue.durable && !queue.auto_delete && !queue.exclusive);
    if headers.get("redeliver-then") == Some("later") && !is_lasting {
        return Err(Problem::InvalidHeader {
            command: Command::Subscribe,
            header: "redeliver-then",
            expected: "requeue or drop; later needs a queue that outlives the session: \
                       durable:true with auto-delete:false, or a destination /queue/ or \
                       /amq/queue/",
        });
    }
    Ok(())
}

/// The queue of a subscription to an exchange or topic: gone with its consumer, unless headers
/// say otherwise, and there is a name by which somebody can come back to it.
fn subscription_queue(
    destination: &Destination,
    fields: &Fields<'_>,
    binding_arguments: &[(Box<str>, Argument)],
    unique: u128,
    context: &Context<'_>,
) -> Result<QueueSpec, Problem> {
    let durable = durable(fields)?.unwrap_or(false);
    let exclusive = fields.switch("exclusive")?.unwrap_or(false);
    let auto_delete = fields.switch("auto-delete")?.unwrap_or(true) || exclusive;
    let arguments = fields.queue_arguments(&context.keys)?;
    let name = match fields.short("x-queue-name")? {
        Some(name) => name.into(),
        None if durable => {
            let id = fields.required("id")?;
            durable_name(destination, id, binding_arguments, context)
        }
        None => {
            let name = own_queues::subscription_queue(&unique.to_be_bytes());
            return Ok(own_queue(name, arguments));
        }
    };
    Ok(QueueSpec {
        name,
        durable,
        exclusive,
        auto_delete,
        arguments,
    })
}

/// A passing queue whose name nobody else can know. It ends with its consumer, for nobody could
/// consume or delete it afterwards. It ends with the gateway's link, so it is the link's: a
/// transient queue that is nobody's is what RabbitMQ 4 may be configured to refuse. And it says all
/// of itself, or the defaults and policies of a virtual host would decide: a quorum queue cannot be
/// transient, and one that rejects what is too much would lose silently.
fn own_queue(name: Box<str>, mut arguments: Vec<(Box<str>, Argument)>) -> QueueSpec {
    for (argument, value) in [("x-queue-type", "classic"), ("x-overflow", "drop-head")] {
        if !arguments.iter().any(|(name, _)| &**name == argument) {
            arguments.push((argument.into(), Argument::Text(value.into())));
        }
    }
    QueueSpec {
        name,
        durable: false,
        exclusive: true,
        auto_delete: true,
        arguments,
    }
}

/// A queue of `/queue/<name>`: durable, and there to stay. One that is not durable goes with its
/// last consumer, as with the plug-in, but it is not exclusive, which would be to say that it
/// belongs to whichever clients happen to share this node. One that is exclusive by the client's
/// wish goes with its one consumer too: it is the gateway's link's, which outlives the client.
fn queue(
    name: &str,
    durable: Option<bool>,
    fields: &Fields<'_>,
    context: &Context<'_>,
) -> Result<QueueSpec, Problem> {
    let durable = durable.unwrap_or(true);
    let exclusive = fields.switch("exclusive")?.unwrap_or(false);
    Ok(QueueSpec {
        name: name.into(),
        durable,
        exclusive,
        auto_delete: fields.switch("auto-delete")?.unwrap_or(!durable) || exclusive,
        arguments: fields.queue_arguments(&context.keys)?,
    })
}

/// `durable`, or its alias `persistent`; if both are there, whichever says yes.
fn durable(fields: &Fields<'_>) -> Result<Option<bool>, Problem> {
    let (durable, alias) = (fields.switch("durable")?, fields.switch("persistent")?);
    Ok(match (durable, alias) {
        (Some(one), Some(other)) => Some(one || other),
        (one, other) => one.or(other),
    })
}

/// The same for the same user, id, exchange, pattern and arguments of the binding, on every node
/// and after every restart.
/// A cryptographic hash, since the id is the client's to choose: it must not find one that leads
/// to another user's queue.
fn durable_name(
    destination: &Destination,
    id: &str,
    binding_arguments: &[(Box<str>, Argument)],
    context: &Context<'_>,
) -> Box<str> {
    let (exchange, pattern) = destination.route(context.topics).unwrap_or_default();
    let mut hash = ring::digest::Context::new(&ring::digest::SHA256);
    let arguments = binding_arguments
        .iter()
        .flat_map(|(name, value)| match value {
            Argument::Text(text) => [&**name, &**text],
            _ => [&**name, ""],
        });
    for field in [context.user, exchange, pattern, id]
        .into_iter()
        .chain(arguments)
    {
        hash.update(&(field.len() as u64).to_be_bytes());
        hash.update(field.as_bytes());
    }
    let hash = hash.finish();
    let hash = hash.as_ref().get(..own_queues::DURABLE_HASH);
    own_queues::subscription_queue(hash.unwrap_or_default())
}

/// Whether the subscription would use a queue of the gateway's making that is not its own: that
/// of a durable subscription to something else, or of another user's; or, as the target of a
/// binding, a queue for replies, in which its owner expects nothing but those.
#[must_use]
pub fn is_foreign(
    destination: &Destination,
    headers: &Headers,
    request: &Consume,
    context: &Context<'_>,
) -> bool {
    let (queue, is_bound) = (&request.queue.name, request.binding.is_some());
    if own_queues::is_durable_subscription(queue) {
        let own = headers
            .get("id")
            .map(|id| durable_name(destination, id, &request.binding_arguments, context));
        return !is_bound || own.as_ref() != Some(queue);
    }
    is_bound && own_queues::is_temp(queue)
}

/// A queue for a session's `/temp-queue/<x>`, and its consumer, which is the only one there may
/// be. `unique` is a fresh random number, not to be guessed.
#[must_use]
pub fn temp_queue(unique: u128, context: &Context<'_>) -> Consume {
    Consume {
        queue: own_queue(own_queues::temp_queue(unique), Vec::new()),
        declare: true,
        binding: None,
        binding_arguments: Vec::new(),
        prefetch: context.auto_prefetch.max(1),
        exclusive: true,
        owner: context.connection,
        arguments: Vec::new(),
    }
}

/// True if an UNSUBSCRIBE frame ends the durable queue of its subscription too: it has
/// `durable:true` (and not `auto-delete:true`), and the subscription is a durable one to an
/// exchange or topic. A `/queue/<name>` is never deleted so.
///
/// # Errors
/// [`Problem::InvalidHeader`].
pub fn unsubscribe_deletes_queue(consume: &Consume, headers: &Headers) -> Result<bool, Problem> {
    let fields = Fields::new(Command::Unsubscribe, headers);
    let asked = durable(&fields)?.unwrap_or(false);
    let kept = fields.switch("auto-delete")?.unwrap_or(false);
    let QueueSpec {
        durable,
        auto_delete,
        ..
    } = consume.queue;
    Ok(asked && !kept && consume.binding.is_some() && durable && !auto_delete)
}
