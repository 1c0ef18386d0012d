//! Why a broker did not do what it was asked.

use std::fmt;

use thiserror::Error;

use crate::causes::in_our_words;

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
    #[error("{UNREACHABLE}: {0}")]
    Unavailable(Cause),
    /// The broker fails over this queue, as it is now, and closes the connection of whoever asks
    /// for it; its words.
    #[error("{0}")]
    QueueFailed(Box<str>),
    /// This broker cannot do what was asked.
    #[error("{0}")]
    Unsupported(Box<str>),
}

/// The words about a broker that is away which everybody may read.
const UNREACHABLE: &str = "the broker is not reachable";

/// Why a broker does nothing now.
///
/// A text that is made into one (`"it did not answer in time".into()`) is the gateway's own, and
/// clients are told it. [`Cause::foreign`] is for the words of the broker, the system or a library:
/// addresses, error numbers and names of accounts are for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// Nothing of it is told to clients; empty: there is nothing of that kind.
    foreign: Box<str>,
    own: Box<str>,
    kind: CauseKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CauseKind {
    Verdict,
    Silence,
    Abrupt,
    Other,
}

impl Cause {
    /// In words that are not the gateway's own.
    #[must_use]
    pub fn foreign(text: impl Into<Box<str>>) -> Self {
        let text: Box<str> = text.into();
        Self {
            foreign: in_our_words(&text).into(),
            own: Box::default(),
            kind: CauseKind::Other,
        }
    }

    /// The broker's last word on a connection: something that it was asked for there made it close
    /// the connection.
    #[must_use]
    pub fn verdict(text: impl Into<Box<str>>) -> Self {
        Self {
            kind: CauseKind::Verdict,
            ..Self::foreign(text)
        }
    }

    /// True if it is a [`Cause::verdict`].
    #[must_use]
    pub fn is_verdict(&self) -> bool {
        self.kind == CauseKind::Verdict
    }

    /// The broker says nothing of a queue, and answers what it was asked later; or it did not confirm a
    /// message in time, on a link that is up. In the gateway's own words.
    #[must_use]
    pub fn silence(own: &str) -> Self {
        Self {
            kind: CauseKind::Silence,
            ..own.into()
        }
    }

    /// True if it is a [`Cause::silence`].
    #[must_use]
    pub fn is_silence(&self) -> bool {
        self.kind == CauseKind::Silence
    }

    /// A connection ended without a word of the broker's, which may have been killed.
    #[must_use]
    pub fn abrupt(text: impl Into<Box<str>>) -> Self {
        Self {
            kind: CauseKind::Abrupt,
            ..Self::foreign(text)
        }
    }

    /// True if it is a [`Cause::abrupt`].
    #[must_use]
    pub fn is_abrupt(&self) -> bool {
        self.kind == CauseKind::Abrupt
    }

    /// The same, with something more of the gateway's own.
    #[must_use]
    pub fn with(self, own: &str) -> Self {
        Self {
            own: joined(&self.own, own).into(),
            ..self
        }
    }

    /// The words for clients.
    #[must_use]
    pub fn own(&self) -> &str {
        &self.own
    }
}

impl From<Box<str>> for Cause {
    fn from(own: Box<str>) -> Self {
        Self {
            foreign: Box::default(),
            own,
            kind: CauseKind::Other,
        }
    }
}

impl From<&str> for Cause {
    fn from(own: &str) -> Self {
        Box::<str>::from(own).into()
    }
}

impl From<String> for Cause {
    fn from(own: String) -> Self {
        own.into_boxed_str().into()
    }
}

/// All of it, as it stands in the log.
impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&joined(&self.foreign, &self.own))
    }
}

fn joined(one: &str, other: &str) -> String {
    let separator = if one.is_empty() || other.is_empty() {
        ""
    } else {
        "; "
    };
    format!("{one}{separator}{other}")
}

impl BrokerError {
    /// The words for a client: of a broker that is away, none of the system's.
    #[must_use]
    pub fn told(&self) -> String {
        match self {
            Self::Unavailable(cause) if !cause.own().is_empty() => {
                format!("{UNREACHABLE}: {}", cause.own())
            }
            Self::Unavailable(_) | Self::VhostRefused(_) => UNREACHABLE.to_owned(),
            other => other.to_string(),
        }
    }
}

/// What RabbitMQ says of a message that asks for replies by
/// [`DIRECT_REPLIES`](super::DIRECT_REPLIES): nobody consumes them by this link.
pub(crate) fn no_direct_replies() -> BrokerError {
    let text = "PRECONDITION_FAILED - fast reply consumer does not exist";
    BrokerError::PreconditionFailed(text.into())
}

/// RabbitMQ's error for a queue that somebody else has exclusively; `queue` are its words for the
/// queue, `queue 'q' in vhost '/'`.
pub(crate) fn resource_locked(queue: &str) -> BrokerError {
    let text = format!(
        "RESOURCE_LOCKED - cannot obtain exclusive access to locked {queue}. It could be \
         originally declared on another connection or the exclusive property value does not match \
         that of the original declaration."
    );
    BrokerError::ResourceLocked(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_told_nothing_in_the_system_s_words() {
        let away = BrokerError::Unavailable;
        let refused = "Connection refused (os error 111)";
        for (error, logged, told) in [
            (
                away(Cause::foreign(refused)),
                "the broker is not reachable: Connection refused (os error 111)",
                "the broker is not reachable",
            ),
            (
                away("it did not answer in time".into()),
                "the broker is not reachable: it did not answer in time",
                "the broker is not reachable: it did not answer in time",
            ),
            (
                away(Cause::foreign(refused).with("it may have taken the message")),
                "the broker is not reachable: Connection refused (os error 111); it may have taken \
                 the message",
                "the broker is not reachable: it may have taken the message",
            ),
            (
                BrokerError::VhostRefused("access refused for user 'stentor'".into()),
                "access refused for user 'stentor'",
                "the broker is not reachable",
            ),
            (
                BrokerError::NotFound("NOT_FOUND - no queue".into()),
                "NOT_FOUND - no queue",
                "NOT_FOUND - no queue",
            ),
        ] {
            assert_eq!(error.to_string(), logged);
            assert_eq!(error.told(), told);
        }
    }
}
