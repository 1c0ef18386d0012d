//! The dialects of clients and servers: STOMP, or the protocol of NATS.

use serde::{Deserialize, Serialize};

use super::{nats, stomp};

/// The only virtual host.
pub(crate) const VHOST: &str = "/";

/// The exchange that all messages go through.
pub(crate) const EXCHANGE: &str = "feed";

/// The key that everybody may subscribe to.
pub(crate) const COMMON_KEY: &str = "everybody";

/// A protocol for messages.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) enum Dialect {
    #[default]
    Stomp,
    Nats,
}

/// A message from a server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Said<'a> {
    LoggedIn,
    /// A subscription is made, or one is ended.
    Receipt {
        subscribed: bool,
    },
    /// The last request is done: the only answer of NATS.
    Done,
    /// A message's body.
    Message(&'a [u8]),
    /// To be answered by [`Dialect::pong`].
    Ping,
    /// Of no interest.
    Nothing,
    /// It will close.
    Error(String),
    /// Something that a client does not expect.
    Other(String),
}

impl Dialect {
    /// Takes the server's next message off `bytes`; `None` as long as it is not complete.
    ///
    /// # Errors
    /// It is not this dialect.
    pub(crate) fn next<'a>(self, bytes: &mut &'a [u8]) -> Result<Option<Said<'a>>, String> {
        Ok(match self {
            Self::Stomp => stomp::next_frame(bytes)?.map(|frame| match frame.command {
                b"MESSAGE" => Said::Message(frame.body),
                b"RECEIPT" => Said::Receipt {
                    subscribed: frame.headers.starts_with(b"receipt-id:s"),
                },
                b"CONNECTED" => Said::LoggedIn,
                b"ERROR" => Said::Error(frame.error_text()),
                other => Said::Other(String::from_utf8_lossy(other).into_owned()),
            }),
            Self::Nats => nats::next_op(bytes)?.map(|op| match op {
                nats::Op::Message(body) => Said::Message(body),
                nats::Op::Ping => Said::Ping,
                nats::Op::Pong => Said::Done,
                nats::Op::Other => Said::Nothing,
                nats::Op::Error(why) => Said::Error(String::from_utf8_lossy(why).into_owned()),
            }),
        })
    }

    /// The path of the WebSocket.
    pub(crate) const fn path(self) -> &'static str {
        match self {
            Self::Stomp => "/ws",
            Self::Nats => "/",
        }
    }

    /// Logs in.
    pub(crate) fn log_in(self, user: &str, heart_beat_ms: u32, out: &mut Vec<u8>) {
        match self {
            Self::Stomp => stomp::connect(VHOST, user, heart_beat_ms, out),
            Self::Nats => nats::connect(user, out),
        }
    }

    /// Subscribes, with a receipt.
    pub(crate) fn subscribe(self, id: u32, key: &str, out: &mut Vec<u8>) {
        match self {
            Self::Stomp => stomp::subscribe(id, &destination(key), out),
            Self::Nats => nats::subscribe(id, key, out),
        }
    }

    /// A heart-beat. NATS answers each, so that both ways have one.
    pub(crate) fn beat(self, out: &mut Vec<u8>) {
        match self {
            Self::Stomp => out.push(b'\n'),
            Self::Nats => out.extend_from_slice(nats::PING),
        }
    }

    /// The answer to [`Said::Ping`].
    pub(crate) fn pong(self, out: &mut Vec<u8>) {
        if self == Self::Nats {
            out.extend_from_slice(nats::PONG);
        }
    }
}

/// The key, and the name, of a user.
pub(crate) fn user_key(user: u32) -> String {
    format!("user_{user}")
}

/// The destination of a key.
pub(crate) fn destination(key: &str) -> String {
    format!("/exchange/{EXCHANGE}/{key}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_say_the_same_in_their_own_words() {
        let stomp = b"CONNECTED\nversion:1.2\n\n\0RECEIPT\nreceipt-id:s\n\n\0MESSAGE\n\nhi\0\n";
        let nats = b"INFO {}\r\nPONG\r\nPONG\r\nMSG a 0 2\r\nhi\r\n";
        let all = |dialect: Dialect, mut bytes: &'static [u8]| {
            let mut said = Vec::new();
            while let Some(next) = dialect.next(&mut bytes).unwrap() {
                said.push(next);
            }
            assert_eq!(bytes, b"");
            said
        };
        let receipt = Said::Receipt { subscribed: true };
        assert_eq!(
            all(Dialect::Stomp, stomp),
            [Said::LoggedIn, receipt, Said::Message(b"hi")]
        );
        assert_eq!(
            all(Dialect::Nats, nats),
            [Said::Nothing, Said::Done, Said::Done, Said::Message(b"hi")]
        );
    }
}
