//! How connections end, and the words for it.

use std::fmt;

use stomp_session::{CloseCode, Problem};

use super::link::LinkError;

/// How a connection came to its end, and what the session wants its transport closed with.
pub(super) struct Ended {
    pub(super) end: End,
    /// `None` if the session was not asked.
    pub(super) code: Option<CloseCode>,
}

/// How a connection came to its end.
pub(super) enum End {
    /// The client said DISCONNECT.
    Disconnect,
    /// The session ended with an ERROR.
    Problem(Box<Problem>),
    /// The client closed the transport, or it broke.
    Link(Option<LinkError>),
    /// The client did not read for too long.
    WriteTimeout,
    /// The client did not read, and the memory was needed that it took.
    Shed,
}

impl Ended {
    /// The code that the transport is closed with.
    pub(super) fn close_code(&self) -> CloseCode {
        match self.end {
            End::Link(Some(LinkError::Violation(_))) => CloseCode::Protocol,
            End::Link(Some(LinkError::NotUtf8)) => CloseCode::NotUtf8,
            _ => self.code.unwrap_or(CloseCode::Normal),
        }
    }

    /// True if the client can be told anything.
    pub(super) fn may_be_told(&self) -> bool {
        !matches!(self.end, End::WriteTimeout | End::Shed)
    }
}

impl End {
    /// The code of the refusal that it was, if it was one.
    pub(super) fn refused(&self) -> Option<&'static str> {
        match self {
            Self::Problem(problem) if problem.is_refusal() => Some(problem.error_code()),
            _ => None,
        }
    }

    /// True if the client was sent away for what it did, or what was done to it.
    pub(super) fn is_error(&self) -> bool {
        match self {
            Self::Disconnect | Self::Link(_) => false,
            Self::Problem(problem) => !matches!(**problem, Problem::ShuttingDown),
            Self::WriteTimeout | Self::Shed => true,
        }
    }

    /// Its kind, one of a fixed number of texts.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Disconnect => "client disconnected",
            Self::Problem(problem) => problem.message(),
            Self::Link(None) => "client closed the connection",
            Self::Link(Some(_)) => "connection broke",
            Self::WriteTimeout => "client did not read for too long",
            Self::Shed => "client did not read, and memory was short",
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disconnect => f.write_str("client disconnected"),
            Self::Problem(problem) => problem.fmt(f),
            Self::Link(None) => f.write_str("client closed the connection"),
            Self::Link(Some(error)) => write!(f, "connection broke: {error}"),
            Self::WriteTimeout | Self::Shed => f.write_str(self.kind()),
        }
    }
}
