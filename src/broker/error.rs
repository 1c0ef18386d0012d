//! Why a broker did not do what it was asked.

use thiserror::Error;

/// Why a broker did not do what it was asked. Texts are the broker's own where it gave one.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BrokerError {
    /// No such exchange or queue.
    #[error("{0}")]
    NotFound(Box<str>),
    /// The gateway's own account may not do this at the broker.
    #[error("{0}")]
    AccessRefused(Box<str>),
    /// It exists with other properties, or a property has an impossible value.
    #[error("{0}")]
    PreconditionFailed(Box<str>),
    /// Somebody else has it exclusively.
    #[error("{0}")]
    ResourceLocked(Box<str>),
    /// A mandatory message reached no queue.
    #[error("no queue is bound for it")]
    Unroutable,
    /// The broker refused a message (a full queue that rejects, say).
    #[error("the broker refused the message")]
    Nacked,
    /// The queue that was consumed is gone, or the broker cancelled its consumer.
    #[error("{0}")]
    Cancelled(Box<str>),
    /// The broker has no such virtual host, or does not let the gateway's account in.
    #[error("{0}")]
    VhostRefused(Box<str>),
    /// The broker cannot be reached, or did not answer in time.
    #[error("the broker is not reachable: {0}")]
    Unavailable(Box<str>),
    /// This broker cannot do what was asked.
    #[error("{0}")]
    Unsupported(Box<str>),
}

/// What RabbitMQ says of a message that asks for replies by
/// [`DIRECT_REPLIES`](super::DIRECT_REPLIES): nobody consumes them by this link.
pub(crate) fn no_direct_replies() -> BrokerError {
    let text = "PRECONDITION_FAILED - fast reply consumer does not exist";
    BrokerError::PreconditionFailed(text.into())
}
