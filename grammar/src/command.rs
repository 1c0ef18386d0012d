//! The commands of all versions.

use std::fmt;

/// A frame's command. Case matters on the wire: `send` is not a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// Client: opens the session.
    Connect,
    /// Client: the same as `CONNECT` (STOMP 1.1 and later).
    Stomp,
    /// Server: the session is open.
    Connected,
    /// Client: publishes a message.
    Send,
    /// Client: opens a subscription.
    Subscribe,
    /// Client: ends a subscription.
    Unsubscribe,
    /// Client: accepts a message.
    Ack,
    /// Client: rejects a message (1.1 and later).
    Nack,
    /// Client: opens a transaction.
    Begin,
    /// Client: performs what a transaction gathered.
    Commit,
    /// Client: forgets what a transaction gathered.
    Abort,
    /// Client: ends the session.
    Disconnect,
    /// Server: a message of a subscription.
    Message,
    /// Server: a frame that asked for a receipt was processed.
    Receipt,
    /// Server: something went wrong; the connection ends after it.
    Error,
}

impl Command {
    /// Every command.
    pub const ALL: [Self; 15] = [
        Self::Connect,
        Self::Stomp,
        Self::Connected,
        Self::Send,
        Self::Subscribe,
        Self::Unsubscribe,
        Self::Ack,
        Self::Nack,
        Self::Begin,
        Self::Commit,
        Self::Abort,
        Self::Disconnect,
        Self::Message,
        Self::Receipt,
        Self::Error,
    ];

    /// The command as it stands on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "CONNECT",
            Self::Stomp => "STOMP",
            Self::Connected => "CONNECTED",
            Self::Send => "SEND",
            Self::Subscribe => "SUBSCRIBE",
            Self::Unsubscribe => "UNSUBSCRIBE",
            Self::Ack => "ACK",
            Self::Nack => "NACK",
            Self::Begin => "BEGIN",
            Self::Commit => "COMMIT",
            Self::Abort => "ABORT",
            Self::Disconnect => "DISCONNECT",
            Self::Message => "MESSAGE",
            Self::Receipt => "RECEIPT",
            Self::Error => "ERROR",
        }
    }

    /// Reads a command line; `None` if it is not one.
    #[must_use]
    pub fn parse(line: &[u8]) -> Option<Self> {
        Some(match line {
            b"CONNECT" => Self::Connect,
            b"STOMP" => Self::Stomp,
            b"CONNECTED" => Self::Connected,
            b"SEND" => Self::Send,
            b"SUBSCRIBE" => Self::Subscribe,
            b"UNSUBSCRIBE" => Self::Unsubscribe,
            b"ACK" => Self::Ack,
            b"NACK" => Self::Nack,
            b"BEGIN" => Self::Begin,
            b"COMMIT" => Self::Commit,
            b"ABORT" => Self::Abort,
            b"DISCONNECT" => Self::Disconnect,
            b"MESSAGE" => Self::Message,
            b"RECEIPT" => Self::Receipt,
            b"ERROR" => Self::Error,
            _ => return None,
        })
    }

    /// True if frames of this command may carry a body (STOMP 1.2, "Body").
    #[must_use]
    pub const fn has_body(self) -> bool {
        matches!(self, Self::Send | Self::Message | Self::Error)
    }

    /// True if header escapes apply: never in CONNECT and CONNECTED frames, so that those of
    /// 1.0 stay readable (STOMP 1.2, "Value Encoding").
    #[must_use]
    pub const fn is_escaped(self) -> bool {
        !matches!(self, Self::Connect | Self::Stomp | Self::Connected)
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_reads_what_as_str_writes() {
        for command in Command::ALL {
            assert_eq!(Command::parse(command.as_str().as_bytes()), Some(command));
        }
        for wrong in ["", "send", "SEND ", " SEND", "SENDS", "SEN", "SEND\r"] {
            assert_eq!(Command::parse(wrong.as_bytes()), None, "{wrong:?}");
        }
    }

    #[test]
    fn three_commands_carry_a_body() {
        let with: Vec<_> = Command::ALL
            .into_iter()
            .filter(|command| command.has_body())
            .collect();
        assert_eq!(with, [Command::Send, Command::Message, Command::Error]);
    }
}
