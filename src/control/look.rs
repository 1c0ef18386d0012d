//! Questions of one node to all: what each holds, for an operator to see. Nothing changes by them.

use futures_util::future::BoxFuture;
use serde_json::Value;
use thiserror::Error;

/// What an operator wants to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// A node's figures.
    Overview,
    /// Clients that were refused lately, and why.
    Refusals,
    /// What a session does, by its id.
    Session(Box<str>),
    /// What clients are subscribed to, as far as it has this text in it.
    Destinations(Box<str>),
    /// Which of these keys of an exchange somebody is subscribed to: an object of JSON.
    Subscribed(Box<str>),
}

/// A node that can be looked at.
pub trait Views: Send + Sync {
    /// What there is to see, in JSON that fits into [`MAX_VIEW`]; `None`: nothing of that here.
    ///
    /// # Errors
    /// The session is here, and cannot be seen now.
    fn view(&self, look: Look) -> BoxFuture<'_, Result<Option<Value>, NoAnswer>>;
}

/// A session is on this node, and its connection did not say in time what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("its connection did not answer in time")]
pub struct NoAnswer;

/// The longest view, in bytes: a message of the exchange has room for it.
pub const MAX_VIEW: usize = 14 * 1024;

/// What was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// By node, this one first.
    pub nodes: Vec<(Box<str>, Value)>,
    /// Nodes that are known, and did not answer in time. This one, if it has the session, and got no
    /// answer from its connection.
    pub silent: Vec<Box<str>>,
    /// Why other nodes could not be asked; `None` if they could, or if there are no others.
    pub unreached: Option<Box<str>>,
}

impl Look {
    /// As the wire calls it.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Overview => "overview",
            Self::Refusals => "refusals",
            Self::Session(_) => "session",
            Self::Destinations(_) => "destinations",
            Self::Subscribed(_) => "subscribed",
        }
    }

    /// What it is about.
    pub(super) fn about(&self) -> Option<&str> {
        match self {
            Self::Session(about) | Self::Destinations(about) | Self::Subscribed(about) => {
                Some(about)
            }
            Self::Overview | Self::Refusals => None,
        }
    }

    /// From its name on the wire; `None` if it is not known here, as if a later version asked.
    pub(super) fn read(name: &str, about: Option<Box<str>>) -> Option<Self> {
        match (name, about) {
            ("overview", None) => Some(Self::Overview),
            ("refusals", None) => Some(Self::Refusals),
            ("session", Some(id)) => Some(Self::Session(id)),
            ("destinations", Some(text)) => Some(Self::Destinations(text)),
            ("subscribed", Some(keys)) => Some(Self::Subscribed(keys)),
            _ => None,
        }
    }

    /// Whether a node that is silent is asked once more: messages depend on the answer.
    pub(super) fn is_asked_twice(&self) -> bool {
        matches!(self, Self::Subscribed(_))
    }

    /// Whether one node's answer is all there is.
    pub(super) fn has_one_node(&self) -> bool {
        matches!(self, Self::Session(_))
    }
}
