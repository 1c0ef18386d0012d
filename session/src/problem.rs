//! Everything that ends a session, in one table: the words of its ERROR frame, and the code
//! that the transport closes with.

use stomp_grammar::{Command, DecodeErrorKind};

/// Why a session ends. The words are those of RabbitMQ's STOMP plug-in wherever it has the
/// same condition, since clients match on them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    // The client's stream or frames.
    /// The bytes are not STOMP, or exceed a limit.
    Malformed(DecodeErrorKind),
    /// Another frame came before CONNECT.
    NotLoggedIn,
    /// CONNECT came a second time.
    AlreadyLoggedIn,
    /// A frame that only servers send.
    ServerCommand(Command),
    /// No version in common.
    VersionMismatch,
    /// A header is missing that the frame must carry.
    MissingHeader {
        command: Command,
        header: &'static str,
    },
    /// A header's value cannot be understood; what would be.
    InvalidHeader {
        command: Command,
        header: &'static str,
        expected: &'static str,
    },
    /// `destination` is missing.
    MissingDestination(Command),
    // … more of the protocol's own (transactions, subscriptions, acknowledgements, bounds)

    // Login and permission.
    /// Neither `login` and `passcode` nor anything that stands in for them.
    MissingCredentials,
    /// The hook refused the user, or could not be asked.
    AccessRefused { user: Box<str> },
    /// The user may not use this virtual host, or there is none of that name.
    VhostDenied { vhost: Box<str> },
    /// The hook refused the use of a resource; `detail` names it, and the user.
    PermissionDenied { detail: Box<str> },
    /// No CONNECT within the time allowed.
    LoginTimeout,

    // Destinations and the broker.
    /// The destination is of a known kind, but cannot be used; why.
    InvalidDestination(Box<str>),
    /// The destination is of no known kind.
    UnknownDestination(Box<str>),
    /// The broker has no such exchange or queue; its own words.
    NotFound(Box<str>),
    /// The broker refused a declaration (a queue of other properties, say); its own words.
    PreconditionFailed(Box<str>),
    /// The broker did not take a message; why.
    NotPublished(Box<str>),
    /// The broker cannot be reached now.
    BrokerUnavailable(Box<str>),
    /// Messages of a subscription were lost on the server's side; which, and why.
    FeedInterrupted(Box<str>),

    // The connection.
    /// The client reads more slowly than messages arrive for it.
    SlowConsumer,
    /// Nothing was heard of the client for longer than its heart-beat promised.
    HeartbeatMissed,
    /// The server is shutting down.
    ShuttingDown,
}

impl Problem {
    /// The `message` header of the ERROR frame: short, and fixed for each condition.
    #[must_use]
    pub fn message(&self) -> &'static str {
        todo!()
    }

    /// The body of the ERROR frame: what was wrong, and what to do.
    #[must_use]
    pub fn detail(&self) -> String {
        todo!()
    }

    /// What a transport with close codes says.
    #[must_use]
    pub fn close_code(&self) -> CloseCode {
        todo!()
    }
}

/// Why a transport closes: WebSocket close codes (RFC 6455, 7.4.1, and IANA's registry).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseCode {
    /// 1000: the client said DISCONNECT.
    Normal,
    /// 1002: the client broke the protocol. To reconnect and do the same does not help.
    Protocol,
    /// 1008: the client may not do what it asked for.
    Policy,
    /// 1009: a frame over the limits.
    TooBig,
    /// 1011: something failed on the server's side. To reconnect helps.
    Internal,
    /// 1012: this server goes away. To reconnect helps, after a moment.
    Restart,
    /// 1013: overload or an unreachable broker. To reconnect helps, later.
    TryAgainLater,
}
