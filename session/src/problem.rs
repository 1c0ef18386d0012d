//! Everything that ends a session, in one table: the words of its ERROR frame, whether the client
//! shall come back, and the code that the transport closes with.

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
    /// As [`Problem::LoginUnavailable`], at the question for the virtual host.
    EntryUnavailable {
        /// The `host` header.
        vhost: Box<str>,
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
    /// The hook could not be asked for the use of a resource, or did not answer in its contract.
    /// The words are those of a refusal; the code says that to try again helps.
    PermissionUnavailable {
        /// The whole body of the ERROR frame: the resource, and the user.
        detail: Box<str>,
    },
    /// The hook, asked again, does not let the user in any more: a token ran out, or somebody
    /// closed the account.
    Revoked {
        /// The whole body of the ERROR frame: what is refused, and the user.
        detail: Box<str>,
    },
    /// The hook, asked again, does not let a subscription read any more what it reads.
    PermissionWithdrawn {
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
    /// The server has no room for what the client wants: it is short of memory, or others send as
    /// much as it takes.
    Overloaded,

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

/// The `reconnect` header of an ERROR frame: whether to come back, and when.
///
/// Consistent with [`CloseCode::should_reconnect`]: `After` goes with the codes that say yes, the
/// others with those that say no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reconnect {
    /// `no`: to come back and do the same again does not help.
    No,
    /// `5s`: it may help, after so many seconds at the earliest.
    After(u16),
    /// `renew`: it helps with other credentials than those of before.
    Renew,
}

impl fmt::Display for Reconnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::No => f.write_str("no"),
            Self::After(seconds) => write!(f, "{seconds}s"),
            Self::Renew => f.write_str("renew"),
        }
    }
}

/// What the table says of a condition.
struct Row {
    message: &'static str,
    error_code: &'static str,
    close_code: CloseCode,
    reconnect: Reconnect,
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
        self.row().message
    }

    /// The `error-code` header of the ERROR frame: names the condition for programs. Small letters
    /// and hyphens, and never changed once it was released; `docs/errors.md` lists them.
    #[must_use]
    pub fn error_code(&self) -> &'static str {
        self.row().error_code
    }

    /// What a transport with close codes says.
    #[must_use]
    pub fn close_code(&self) -> CloseCode {
        self.row().close_code
    }

    /// The `reconnect` header of the ERROR frame.
    #[must_use]
    pub fn reconnect(&self) -> Reconnect {
        self.row().reconnect
    }

    /// Whether somebody takes the session from its client: nothing more is begun for it then.
    #[must_use]
    pub fn is_revocation(&self) -> bool {
        matches!(
            self,
            Self::Kicked(_)
                | Self::Replaced
                | Self::LoginChanged
                | Self::PermissionWithdrawn { .. }
                | Self::Revoked { .. }
        )
    }

    /// Its ERROR frame for a client with which no session was begun.
    #[must_use]
    pub fn frame(&self) -> Bytes {
        frames::error(self, None, Version::V1_0)
    }

    /// The table.
    fn row(&self) -> Row {
        use CloseCode::{Internal, Policy, Protocol, Restart, TooBig, TryAgainLater};
        use Reconnect::{After, No, Renew};
        let (message, error_code, close_code, reconnect) = match self {
            Self::Malformed(DecodeErrorKind::UnknownCommand(_)) => {
                ("Bad command", "unknown-command", Protocol, No)
            }
            Self::Malformed(kind) if kind.is_too_big() => {
                ("Frame too large", "frame-too-large", TooBig, No)
            }
            Self::Malformed(_) => ("Malformed frame", "malformed-frame", Protocol, No),
            Self::NotLoggedIn => ("Illegal command", "not-logged-in", Protocol, No),
            Self::AlreadyLoggedIn => ("Illegal command", "second-connect", Protocol, No),
            Self::ServerCommand(_) => ("Bad command", "server-command", Protocol, No),
            Self::VersionMismatch => ("Version mismatch", "version-mismatch", Protocol, No),
            Self::MissingHeader { .. } => ("Missing header", "missing-header", Protocol, No),
            Self::InvalidHeader { .. } => ("Invalid header", "invalid-header", Protocol, No),
            Self::ForbiddenHeader { .. } => ("Invalid header", "forbidden-header", Protocol, No),
            Self::MissingDestination(_) => {
                ("Missing destination", "missing-destination", Protocol, No)
            }
            Self::MissingIdOrDestination => {
                ("Missing destination or id", "missing-id", Protocol, No)
            }
            // With a capital H, other than `MissingHeader`: the plug-in's own spelling.
            Self::DurableWithoutId(_) => ("Missing Header", "durable-without-id", Protocol, No),
            Self::ReservedId(_) => ("Invalid id", "reserved-id", Protocol, No),
            Self::DuplicateSubscription(_) => {
                let message = "Duplicated subscription identifier";
                (message, "duplicate-subscription", Protocol, No)
            }
            Self::UnknownSubscription(_) => (
                "No subscription found",
                "unknown-subscription",
                Protocol,
                No,
            ),
            Self::TooManySubscriptions { .. } => (
                "Too many subscriptions",
                "too-many-subscriptions",
                Policy,
                No,
            ),
            Self::InvalidMessageId { .. } => ("Invalid header", "invalid-message-id", Protocol, No),
            Self::OtherSubscription { .. } => {
                ("Invalid header", "other-subscription", Protocol, No)
            }
            Self::NoSubscription(_) => ("Subscription not found", "no-subscription", Protocol, No),
            Self::UnknownDelivery(_) => ("precondition_failed", "unknown-delivery", Protocol, No),
            Self::MissingTransaction(_) => {
                ("Missing transaction", "missing-transaction", Protocol, No)
            }
            Self::DuplicateTransaction(_) => {
                let message = "Duplicated transaction identifier";
                (message, "duplicate-transaction", Protocol, No)
            }
            Self::UnknownTransaction(_) => ("Bad transaction", "unknown-transaction", Protocol, No),
            Self::TooManyTransactions { .. } => {
                ("Too many transactions", "too-many-transactions", Policy, No)
            }
            Self::TransactionTooLong { .. } => {
                ("Transaction too large", "transaction-too-long", Policy, No)
            }
            Self::TransactionTooBig { .. } => {
                ("Transaction too large", "transaction-too-big", Policy, No)
            }
            Self::MissingCredentials => ("Bad CONNECT", "missing-credentials", Policy, Renew),
            Self::AccessRefused { .. } => ("Bad CONNECT", "login-refused", Policy, Renew),
            Self::LoginUnavailable { .. } | Self::EntryUnavailable { .. } => {
                ("Bad CONNECT", "login-unavailable", TryAgainLater, After(5))
            }
            Self::VhostDenied { .. } => ("Bad CONNECT", "vhost-denied", Policy, No),
            Self::PermissionDenied { .. } => ("access_refused", "permission-denied", Policy, No),
            Self::PermissionUnavailable { .. } => {
                let code = "permission-unavailable";
                ("access_refused", code, TryAgainLater, After(5))
            }
            Self::PermissionWithdrawn { .. } => {
                ("access_refused", "permission-withdrawn", Policy, No)
            }
            Self::Revoked { .. } => ("access_refused", "login-revoked", Policy, Renew),
            // A slow network's fault, or a busy hook's, as often as the client's.
            Self::LoginTimeout => ("login timeout", "login-timeout", TryAgainLater, After(5)),
            Self::InvalidDestination(_) => {
                ("Invalid destination", "invalid-destination", Policy, No)
            }
            Self::UnknownDestination(_) => {
                ("Unknown destination", "unknown-destination", Policy, No)
            }
            Self::NotFound(_) => ("not_found", "not-found", Policy, No),
            Self::ResourceLocked(_) => (
                "resource_locked",
                "resource-locked",
                TryAgainLater,
                After(5),
            ),
            Self::PreconditionFailed(_) => {
                ("precondition_failed", "precondition-failed", Policy, No)
            }
            Self::BrokerRefused(_) => ("access_refused", "broker-refused", Policy, No),
            Self::NotPublished(_) => (
                "message not published",
                "not-published",
                TryAgainLater,
                After(5),
            ),
            Self::BrokerUnavailable(_) => (
                "broker unavailable",
                "broker-unavailable",
                TryAgainLater,
                After(5),
            ),
            Self::SubscriptionCancelled(_) => {
                let message = "Server cancelled subscription";
                (message, "subscription-cancelled", Internal, After(5))
            }
            Self::FeedInterrupted(_) => {
                ("feed interrupted", "feed-interrupted", Internal, After(1))
            }
            Self::NotUtf8 => ("message not text", "message-not-text", Internal, After(1)),
            Self::SlowConsumer => ("slow consumer", "slow-consumer", TryAgainLater, After(5)),
            Self::HeartbeatMissed => (
                "heart-beat missed",
                "heart-beat-missed",
                TryAgainLater,
                After(1),
            ),
            Self::PingsUnanswered => {
                let code = "pings-unanswered";
                ("pings unanswered", code, TryAgainLater, After(1))
            }
            Self::ShuttingDown => ("server shutting down", "shutting-down", Restart, After(1)),
            Self::TooManyConnections => {
                let code = "too-many-connections";
                ("too many connections", code, TryAgainLater, After(30))
            }
            Self::Overloaded => (
                "server overloaded",
                "server-overloaded",
                TryAgainLater,
                After(30),
            ),
            Self::Kicked(_) => ("kicked", "kicked", Policy, No),
            Self::Replaced => ("session replaced", "session-replaced", Policy, No),
            Self::AlreadyLoggedInElsewhere(_) => (
                "already logged in",
                "already-logged-in",
                TryAgainLater,
                After(30),
            ),
            Self::LoginChanged => ("login changed", "login-changed", TryAgainLater, After(1)),
        };
        Row {
            message,
            error_code,
            close_code,
            reconnect,
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
            Self::VhostDenied { vhost } | Self::EntryUnavailable { vhost } => {
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
            | Self::PermissionUnavailable { detail: text }
            | Self::PermissionWithdrawn { detail: text }
            | Self::Revoked { detail: text }
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
            Self::Overloaded => "This server has no room for more at the moment. Reconnect after \
                 a while, or to another\n"
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
