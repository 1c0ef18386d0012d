//! The arguments of queues and consumers that the embedded broker understands.

use std::time::Duration;

use crate::broker::{Argument, BrokerError};

/// A queue's rules for its messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Policy {
    /// `x-dead-letter-exchange`.
    pub(super) dead_letters: Option<Box<str>>,
    /// `x-dead-letter-routing-key`.
    pub(super) dead_letter_key: Option<Box<str>>,
    /// `x-max-length`.
    pub(super) most: Option<usize>,
    /// `x-max-length-bytes`.
    pub(super) most_bytes: Option<usize>,
    /// `x-overflow` is `reject-publish`.
    pub(super) rejects: bool,
    /// `x-overflow` is `drop-head`.
    says_drop_head: bool,
    /// `x-message-ttl`.
    pub(super) ttl: Option<Duration>,
}

impl Policy {
    /// Reads the arguments of a queue.
    ///
    /// # Errors
    /// [`BrokerError::Unsupported`] names a missing feature; [`BrokerError::PreconditionFailed`],
    /// an argument with an impossible value.
    pub(super) fn read(
        queue: &str,
        arguments: &[(Box<str>, Argument)],
    ) -> Result<Self, BrokerError> {
        let mut policy = Self::default();
        for (name, value) in arguments {
            let invalid = || {
                BrokerError::PreconditionFailed(
                    format!("PRECONDITION_FAILED - invalid arg '{name}' for queue '{queue}'")
                        .into(),
                )
            };
            let text = || match value {
                Argument::Text(text) => Ok(text),
                _ => Err(invalid()),
            };
            let number = || match value {
                Argument::Number(number) => usize::try_from(*number).map_err(|_| invalid()),
                _ => Err(invalid()),
            };
            match &**name {
                "x-dead-letter-exchange" => policy.dead_letters = Some(text()?.clone()),
                "x-dead-letter-routing-key" => policy.dead_letter_key = Some(text()?.clone()),
                "x-max-length" => policy.most = Some(number()?),
                "x-max-length-bytes" => policy.most_bytes = Some(number()?),
                "x-message-ttl" => policy.ttl = Some(Duration::from_millis(number()? as u64)),
                "x-overflow" => match &**text()? {
                    "drop-head" => policy.says_drop_head = true,
                    "reject-publish" => policy.rejects = true,
                    _ => return Err(unsupported(name, value)),
                },
                "x-queue-type" if **text()? == *"classic" => {}
                _ => return Err(unsupported(name, value)),
            }
        }
        Ok(policy)
    }

    /// Whether the oldest messages go where there is no room: it was asked for, or the queue has a
    /// bound for which that is the default. Of a queue without any of that RabbitMQ loses nothing.
    pub(super) fn drops_head(&self) -> bool {
        let is_bounded = self.most.is_some() || self.most_bytes.is_some();
        self.says_drop_head || is_bounded && !self.rejects
    }

    /// True if a queue of so many messages and bytes is longer than it may be.
    pub(super) fn is_over(&self, messages: usize, bytes: usize) -> bool {
        self.most.is_some_and(|most| messages > most)
            || self.most_bytes.is_some_and(|most| bytes > most)
    }
}

/// Reads the arguments of a consumer: its priority.
///
/// # Errors
/// As [`Policy::read`].
pub(super) fn priority(arguments: &[(Box<str>, Argument)]) -> Result<i64, BrokerError> {
    let mut priority = 0;
    for (name, value) in arguments {
        match (&**name, value) {
            ("x-priority", Argument::Number(number)) => priority = *number,
            _ => return Err(unsupported(name, value)),
        }
    }
    Ok(priority)
}

fn unsupported(name: &str, value: &Argument) -> BrokerError {
    let value = match value {
        Argument::Text(text) => text.to_string(),
        Argument::Number(number) => number.to_string(),
        Argument::Switch(switch) => switch.to_string(),
        Argument::Timestamp(seconds) => seconds.to_string(),
        Argument::Texts(texts) => texts.join(","),
    };
    BrokerError::Unsupported(
        format!("the embedded broker does not support the argument {name} = '{value}'").into(),
    )
}
