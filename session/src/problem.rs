//! Everything that ends a session, in one table: the words of its ERROR frame, and the code
//! that the transport closes with.

use std::fmt::{self, Write as _};

use bytes::Bytes;
use stomp_grammar::{Command, DecodeErrorKind, Version};

use crate::{CloseCode, frames};

/// Why a session ends. The words are those of RabbitMQ's STOMP plug-in (3.10) wherever it has
/// the same condition, since clients match on them: capitalised ones tell of the client's
/// frames, lower-case ones of the broker and of the connection.
///
/// Texts that come from the client are quoted in [`Problem::detail`] up to
/// [`Problem::QUOTED`] characters.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    // The client's stream or frames.
    /// The bytes are not STOMP, or exceed a limit.
    Malformed(DecodeErrorKind),
    /// Another frame came before CONNECT, or before CONNECT was answered (STOMP 1.2,
    /// "Connecting").
    NotLoggedIn,
    /// CONNECT came a second time.
    AlreadyLoggedIn,
    /// A frame that only servers send.
    ServerCommand(Command),
    /// No version in common (STOMP 1.2, "Protocol Negotiation").
    VersionMismatch,
    /// A header is missing that the frame must carry.
    MissingHeader {
        /// The frame's command.
        command: Command,
        /// The header that it lacks.
        header: &'static str,
    },
    /// A header's value cannot be understood; what would be.
    InvalidHeader {
        /// The frame's command.
        command: Command,
        /// The header in question.
        header: &'static str,
        /// What may stand there, in words that can follow "expected".
        expected: &'static str,
    },
    /// A header that the frame must not carry (`message-id` on SEND: the server gives it).
    ForbiddenHeader {
        /// The frame's command.
        command: Command,
        /// The header in question.
        header: &'static str,
    },
    /// `destination` is missing.
    MissingDestination(Command),

    // Subscriptions and acknowledgements.
    /// UNSUBSCRIBE names no subscription, neither by `id` nor by `destination`.
    MissingIdOrDestination,
    /// `durable:true` needs an `id`, in every version: the queue's name is made of it.
    DurableWithoutId(Command),
    /// An `id` that starts with `/temp-queue/`: those name the subscriptions to replies.
    ReservedId(Command),
    /// A SUBSCRIBE whose id is in use: `T_` and the `id`, or `Q_` and the destination where a
    /// 1.0 client gave no id (the plug-in's names).
    DuplicateSubscription(Box<str>),
    /// An UNSUBSCRIBE of what is not subscribed: `id='…'` or `destination='…'`.
    UnknownSubscription(Box<str>),
    /// [`crate::Config::max_subscriptions`] are open.
    TooManySubscriptions {
        /// How many may be open.
        limit: usize,
    },
    /// An ACK or NACK whose message id is none of this server's making.
    InvalidMessageId {
        /// ACK or NACK.
        command: Command,
        /// The header that carries the id in the version spoken.
        header: &'static str,
    },
    /// An ACK or NACK of a message whose subscription is over, or was another session's; the
    /// message id.
    NoSubscription(Box<str>),
    /// An ACK or NACK (1.1) whose `subscription` is not the one that the message came by.
    OtherSubscription {
        /// ACK or NACK.
        command: Command,
        /// What it names.
        subscription: Box<str>,
    },
    /// An ACK or NACK of a message that is settled already, that was never sent, or that came
    /// by an `ack:auto` subscription; the last part of the message id.
    UnknownDelivery(u64),

    // Transactions.
    /// `transaction` is missing.
    MissingTransaction(Command),
    /// A transaction of that name is open already (STOMP 1.2, "BEGIN").
    DuplicateTransaction(Box<str>),
    /// No transaction of that name is open.
    UnknownTransaction(Box<str>),
    /// [`crate::Config::max_transactions`] are open.
    TooManyTransactions {
        /// How many may be open.
        limit: usize,
    },
    /// A transaction holds [`crate::Config::max_transaction_frames`].
    TransactionTooLong {
        /// How many frames one may hold.
        limit: usize,
    },
    /// Open transactions hold [`crate::Config::max_transaction_bytes`].
    TransactionTooBig {
        /// How many bytes all of a session's may hold.
        limit: usize,
    },

    // Login and permission.
    /// Neither `login` and `passcode` nor anything that stands in for them.
    MissingCredentials,
    /// The hook could not be asked, or did not answer in its contract. The words are those of a
    /// refusal; the code says that to try again helps.
    LoginUnavailable {
        /// The user's name, as the client gave it.
        user: Box<str>,
    },
    /// The hook refused the user.
    AccessRefused {
        /// The user's name, as the client gave it.
        user: Box<str>,
    },
    /// The user may not use this virtual host, or there is none of that name.
    VhostDenied {
        /// The `host` header.
        vhost: Box<str>,
    },
    /// The hook refused the use of a resource.
    PermissionDenied {
        /// The whole body of the ERROR frame: the resource, and the user.
        detail: Box<str>,
    },
    /// No CONNECT within the time allowed, or no answer to it.
    LoginTimeout,

    // Destinations and the broker. Each carries the whole body of the ERROR frame, except
    // `UnknownDestination`.
    /// The destination is of a known kind, but cannot be used; why. Made by
    /// [`Problem::invalid_destination`], [`Problem::blank_destination`] or
    /// [`Problem::destination_not_for`], which know the plug-in's words.
    InvalidDestination(Box<str>),
    /// The destination is of no known kind; the destination.
    UnknownDestination(Box<str>),
    /// The broker has no such exchange or queue; its own words (`NOT_FOUND - no queue …`).
    NotFound(Box<str>),
    /// Another client has the queue exclusively; the broker's own words.
    ResourceLocked(Box<str>),
    /// The broker refused a declaration (a queue of other properties, say); its own words.
    PreconditionFailed(Box<str>),
    /// The broker does not let the gateway itself do this, or lets somebody else alone; its own
    /// words. Other than [`Problem::PermissionDenied`] it may come when half of an operation is
    /// done.
    BrokerRefused(Box<str>),
    /// The broker did not take a message; why.
    NotPublished(Box<str>),
    /// The broker cannot be reached now; what to know of it.
    BrokerUnavailable(Box<str>),
    /// The broker ended a subscription, as it does when somebody deletes the queue; why.
    SubscriptionCancelled(Box<str>),
    /// Messages of a subscription were lost on the server's side; which, and why.
    FeedInterrupted(Box<str>),

    // The connection.
    /// A message for the client is not UTF-8, and its transport carries only text. It is skipped.
    NotUtf8,
    /// The client reads more slowly than messages arrive for it.
    SlowConsumer,
    /// Nothing was heard of the client for longer than its heart-beat promised.
    HeartbeatMissed,
    /// Nothing was heard of the client, which promised no heart-beat, and it did not answer pings.
    PingsUnanswered,
    /// The server is shutting down.
    ShuttingDown,
    /// The server has as many connections as it takes.
    TooManyConnections,

    // Sessions, as the operator of the server handles them.
    /// Somebody ended the session; why, in the words that the client is to see. Empty: no reason
    /// was given.
    Kicked(Box<str>),
    /// The user has logged in again, and only the newest session stays.
    Replaced,
    /// The user is logged in already, and may not be more often; in what way.
    AlreadyLoggedInElsewhere(Box<str>),
    /// The hook, asked again, does not let the user in any more as who it was: it has another name
    /// or other tags now.
    LoginChanged,
}

impl Problem {
    /// How many characters of a client's text are quoted at most, so that an ERROR frame stays
    /// small whatever it complains of.
    pub const QUOTED: usize = 256;

    /// `text` is what follows the kind in the destination (`/a/b` of `/queue/a/b`); `kind` is
    /// the plug-in's word: `queue`, `topic`, `exchange`, `amqqueue`.
    #[must_use]
    pub fn invalid_destination(kind: &str, text: &str) -> Self {
        let text = clip(text);
        Self::InvalidDestination(format!("'{text}' is not a valid {kind} destination\n").into())
    }

    /// An empty `destination`.
    #[must_use]
    pub fn blank_destination() -> Self {
        Self::InvalidDestination("Destination cannot be blank".into())
    }

    /// A destination that exists for other commands only, such as SEND to `/temp-queue/x`.
    #[must_use]
    pub fn destination_not_for(command: Command, destination: &str) -> Self {
        let destination = clip(destination);
        Self::InvalidDestination(
            format!("'{destination}' is not a valid destination for '{command}'\n").into(),
        )
    }

    /// The `message` header of the ERROR frame: short, and fixed for each condition. It needs
    /// no escapes in any version.
    #[must_use]
    pub fn message(&self) -> &'static str {
        self.row().0
    }

    /// What a transport with close codes says.
    #[must_use]
    pub fn close_code(&self) -> CloseCode {
        self.row().1
    }

    /// Its ERROR frame for a client with which no session was begun.
    #[must_use]
    pub fn frame(&self) -> Bytes {
        frames::error(self, None, Version::V1_0)
    }

    /// The table. To reconnect and to do the same again helps in none of the cases of
    /// `Protocol`, `Policy` and `TooBig`; in all others it may.
    fn row(&self) -> (&'static str, CloseCode) {
        use CloseCode::{Internal, Policy, Protocol, Restart, TooBig, TryAgainLater};
        match self {
            Self::Malformed(DecodeErrorKind::UnknownCommand(_)) => ("Bad command", Protocol),
            Self::Malformed(kind) if kind.is_too_big() => ("Frame too large", TooBig),
            Self::Malformed(_) => ("Malformed frame", Protocol),
            Self::NotLoggedIn | Self::AlreadyLoggedIn => ("Illegal command", Protocol),
            Self::ServerCommand(_) => ("Bad command", Protocol),
            Self::VersionMismatch => ("Version mismatch", Protocol),
            Self::MissingHeader { .. } => ("Missing header", Protocol),
            Self::InvalidHeader { .. } | Self::ForbiddenHeader { .. } => {
                ("Invalid header", Protocol)
            }
            Self::MissingDestination(_) => ("Missing destination", Protocol),
            Self::MissingIdOrDestination => ("Missing destination or id", Protocol),
            // With a capital H, other than `MissingHeader`: the plug-in's own spelling.
            Self::DurableWithoutId(_) => ("Missing Header", Protocol),
            Self::ReservedId(_) => ("Invalid id", Protocol),
            Self::DuplicateSubscription(_) => ("Duplicated subscription identifier", Protocol),
            Self::UnknownSubscription(_) => ("No subscription found", Protocol),
            Self::TooManySubscriptions { .. } => ("Too many subscriptions", Policy),
            Self::InvalidMessageId { .. } | Self::OtherSubscription { .. } => {
                ("Invalid header", Protocol)
            }
            Self::NoSubscription(_) => ("Subscription not found", Protocol),
            Self::UnknownDelivery(_) => ("precondition_failed", Protocol),
            Self::MissingTransaction(_) => ("Missing transaction", Protocol),
            Self::DuplicateTransaction(_) => ("Duplicated transaction identifier", Protocol),
            Self::UnknownTransaction(_) => ("Bad transaction", Protocol),
            Self::TooManyTransactions { .. } => ("Too many transactions", Policy),
            Self::TransactionTooLong { .. } | Self::TransactionTooBig { .. } => {
                ("Transaction too large", Policy)
            }
            Self::MissingCredentials => ("Bad CONNECT", Policy),
            Self::AccessRefused { .. } => ("Bad CONNECT", Policy),
            Self::LoginUnavailable { .. } => ("Bad CONNECT", TryAgainLater),
            Self::VhostDenied { .. } => ("Bad CONNECT", Policy),
            Self::PermissionDenied { .. } => ("access_refused", Policy),
            Self::LoginTimeout => ("login timeout", Policy),
            Self::InvalidDestination(_) => ("Invalid destination", Policy),
            Self::UnknownDestination(_) => ("Unknown destination", Policy),
            Self::NotFound(_) => ("not_found", Policy),
            Self::ResourceLocked(_) => ("resource_locked", TryAgainLater),
            Self::PreconditionFailed(_) => ("precondition_failed", Policy),
            Self::BrokerRefused(_) => ("access_refused", Policy),
            Self::NotPublished(_) => ("message not published", TryAgainLater),
            Self::BrokerUnavailable(_) => ("broker unavailable", TryAgainLater),
            Self::SubscriptionCancelled(_) => ("Server cancelled subscription", Internal),
            Self::FeedInterrupted(_) => ("feed interrupted", Internal),
            Self::NotUtf8 => ("message not text", Internal),
            Self::SlowConsumer => ("slow consumer", TryAgainLater),
            Self::HeartbeatMissed => ("heart-beat missed", TryAgainLater),
            Self::PingsUnanswered => ("pings unanswered", TryAgainLater),
            Self::ShuttingDown => ("server shutting down", Restart),
            Self::TooManyConnections => ("too many connections", TryAgainLater),
            Self::Kicked(_) => ("kicked", Policy),
            Self::Replaced => ("session replaced", Policy),
            Self::AlreadyLoggedInElsewhere(_) => ("already logged in", TryAgainLater),
            Self::LoginChanged => ("login changed", TryAgainLater),
        }
    }

    /// The body of the ERROR frame: what was wrong, and what to do. Where the plug-in has the
    /// condition, it is the plug-in's body to the byte, with or without its line break.
    #[must_use]
    pub fn detail(&self) -> String {
        match self {
            // Of an unknown command, too, the decoder's words are the plug-in's.
            Self::Malformed(kind) => format!("{kind}\n"),
            Self::NotLoggedIn => "You must log in using CONNECT first".to_owned(),
            Self::AlreadyLoggedIn => {
                "You are logged in already. CONNECT (or STOMP) comes once, as the first frame\n"
                    .to_owned()
            }
            Self::ServerCommand(command) => format!("Could not interpret command \"{command}\"\n"),
            Self::VersionMismatch => format!("Supported versions are {}\n", Version::SUPPORTED),
            Self::MissingHeader { command, header } => {
                format!("\"{command}\" must include the \"{header}\" header\n")
            }
            Self::InvalidHeader {
                command,
                header,
                expected,
            } => {
                format!("\"{command}\" has an invalid \"{header}\" header: expected {expected}\n")
            }
            Self::ForbiddenHeader { command, header } => {
                format!("'{header}' is not allowed on '{command}'.\n")
            }
            Self::MissingDestination(command) => {
                format!("\"{command}\" must include a 'destination' header\n")
            }
            Self::MissingIdOrDestination => {
                "UNSUBSCRIBE must include a 'destination' or 'id' header".to_owned()
            }
            Self::DurableWithoutId(_) => {
                "Header 'id' is required for durable subscriptions".to_owned()
            }
            Self::ReservedId(command) => {
                format!("{command} 'id' may not start with /temp-queue/\n")
            }
            Self::DuplicateSubscription(name) => {
                format!(
                    "A subscription identified by '{}' already exists.",
                    clip(name)
                )
            }
            Self::UnknownSubscription(what) => format!(
                "UNSUBSCRIBE must refer to an existing subscription.\n\
                 Subscription to {} not found.\n",
                quoted(what)
            ),
            Self::TooManySubscriptions { limit } => format!(
                "At most {limit} subscriptions may be open at once. UNSUBSCRIBE from some first\n"
            ),
            Self::InvalidMessageId { command, header } => {
                format!("\"{command}\" must include a valid \"{header}\" header\n")
            }
            Self::NoSubscription(id) => {
                format!("Message with id {} has no subscription", quoted(id))
            }
            Self::OtherSubscription {
                command,
                subscription,
            } => format!(
                "\"{command}\" names the subscription {}, but its \"message-id\" is of another\n",
                quoted(subscription)
            ),
            Self::UnknownDelivery(sequence) => {
                format!("PRECONDITION_FAILED - unknown delivery tag {sequence}")
            }
            Self::MissingTransaction(command) => {
                format!("\"{command}\" must include a 'transaction' header\n")
            }
            Self::DuplicateTransaction(id) => format!(
                "The transaction {} is open already. COMMIT or ABORT it first, or choose another \
                 name\n",
                quoted(id)
            ),
            Self::UnknownTransaction(id) => {
                format!("Invalid transaction identifier: {}\n", quoted(id))
            }
            Self::TooManyTransactions { limit } => format!(
                "At most {limit} transactions may be open at once. COMMIT or ABORT some first\n"
            ),
            Self::TransactionTooLong { limit } => {
                format!("A transaction may hold at most {limit} frames. COMMIT more often\n")
            }
            Self::TransactionTooBig { limit } => format!(
                "All open transactions together may hold at most {limit} bytes. COMMIT more often\n"
            ),
            Self::MissingCredentials => "Missing login or passcode header(s)".to_owned(),
            Self::AccessRefused { user } | Self::LoginUnavailable { user } => {
                format!("Access refused for user '{}'\n", clip(user))
            }
            Self::VhostDenied { vhost } => {
                format!("Virtual host '{}' access denied", clip(vhost))
            }
            Self::LoginTimeout => "The login was not complete within the time allowed. Send \
                 CONNECT as soon as the connection is open\n"
                .to_owned(),
            Self::UnknownDestination(destination) => format!(
                "'{}' is not a valid destination.\n\
                 Valid destination types are: /temp-queue, /exchange, /topic, /queue, /amq/queue, \
                 /reply-queue/.\n",
                clip(destination)
            ),
            Self::PermissionDenied { detail: text }
            | Self::InvalidDestination(text)
            | Self::NotFound(text)
            | Self::ResourceLocked(text)
            | Self::PreconditionFailed(text)
            | Self::BrokerRefused(text)
            | Self::NotPublished(text)
            | Self::BrokerUnavailable(text)
            | Self::FeedInterrupted(text) => text.to_string(),
            Self::SubscriptionCancelled(why) => format!(
                "The server has canceled a subscription.\nNo more messages will be delivered: {why}\n"
            ),
            Self::NotUtf8 => {
                "A message that was for you is not UTF-8, and this transport, SockJS, \
                 carries only text. It is left out. Connect by WebSocket to receive it\n"
                    .to_owned()
            }
            Self::SlowConsumer => "Messages arrive faster than they are read. Reconnect, and read \
                 faster or subscribe to less\n"
                .to_owned(),
            Self::HeartbeatMissed => "Nothing was received for longer than the heart-beat that \
                 was agreed on. Reconnect\n"
                .to_owned(),
            Self::PingsUnanswered => "Nothing was received for long, and pings were not answered. \
                 Reconnect\n"
                .to_owned(),
            Self::ShuttingDown => {
                "This server goes away. Reconnect after a moment, to reach another\n".to_owned()
            }
            Self::TooManyConnections => "This server has as many connections as it takes. \
                 Reconnect after a while, or to another\n"
                .to_owned(),
            Self::Kicked(reason) if reason.is_empty() => {
                "This session was ended by an operator\n".to_owned()
            }
            Self::Kicked(reason) => format!("{}\n", clip(reason)),
            Self::Replaced => "You have logged in elsewhere, and only the newest session stays. \
                 Do not reconnect by yourself: the other one would end\n"
                .to_owned(),
            Self::AlreadyLoggedInElsewhere(how) => {
                format!("{}. Log out there, or try again after a while\n", clip(how))
            }
            Self::LoginChanged => "What the server knows of you has changed. Reconnect, and log \
                 in again\n"
                .to_owned(),
        }
    }
}

/// For logs, on one line.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {}",
            self.message(),
            self.detail().trim_end().replace('\n', " ")
        )
    }
}

impl std::error::Error for Problem {}

/// The first [`Problem::QUOTED`] characters, and a sign that there were more.
fn clip(text: &str) -> String {
    match text.char_indices().nth(Problem::QUOTED) {
        Some((end, _)) => text.get(..end).unwrap_or_default().to_owned() + "…",
        None => text.to_owned(),
    }
}

/// In double quotes, as Erlang's `~p` prints a string: a quote and a backslash get a backslash,
/// control characters are spelled.
fn quoted(text: &str) -> String {
    let clipped = clip(text);
    let mut out = String::with_capacity(clipped.len().saturating_add(2));
    out.push('"');
    for character in clipped.chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            other if other.is_control() => {
                // Writing to a `String` cannot fail.
                let _ = write!(out, "\\x{{{:X}}}", u32::from(other));
            }
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
#[path = "problem_tests.rs"]
mod tests;
