//! The `[mailbox]` section.

use serde::Deserialize;

use crate::units::{Checked, at_least_one, size};

/// Mailboxes: the messages that wait for one connection.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MailboxConfig {
    /// Messages that may wait for one connection.
    pub max_messages: usize,
    /// Bytes that may wait for one connection. Bodies are shared among connections, so all
    /// together take less. Not below `limits.max_frame_size`, or the largest could never arrive;
    /// twice that by default, for a MESSAGE has more headers than its SEND had.
    #[serde(deserialize_with = "size")]
    pub max_bytes: usize,
    /// The policy for a connection whose mailbox is full.
    pub overflow: Overflow,
}

/// What happens to a connection whose mailbox is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Overflow {
    /// It gets ERROR `slow consumer`, and is closed: it knows that it has to catch up.
    #[default]
    Disconnect,
    /// The oldest messages are dropped; the next one says how many in `x-dropped`.
    DropOldest,
    /// Only the newest message of each destination stays.
    Conflate,
}

impl Overflow {
    /// As the configuration writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Disconnect => "disconnect",
            Self::DropOldest => "drop-oldest",
            Self::Conflate => "conflate",
        }
    }
}

impl Default for MailboxConfig {
    fn default() -> Self {
        Self {
            max_messages: 1000,
            max_bytes: 8 << 20,
            overflow: Overflow::Disconnect,
        }
    }
}

impl MailboxConfig {
    /// Checks the values.
    ///
    /// # Errors
    /// The key at fault, the fault, and the remedy.
    pub fn check(&self) -> Checked {
        at_least_one(
            "max_messages",
            self.max_messages,
            "nothing could be delivered",
        )?;
        at_least_one("max_bytes", self.max_bytes, "nothing could be delivered")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_sound() {
        assert_eq!(MailboxConfig::default().check(), Ok(()));
    }
}
