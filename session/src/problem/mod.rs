//! Everything that ends a session, in one table (`table.rs`): the words of its ERROR frame, whether
//! the client shall come back, and the code that the transport closes with.

use std::fmt::{self, Write as _};

use bytes::Bytes;
use stomp_grammar::{Command, Version};

use crate::{CloseCode, frames};

/// Makes of the table in `table.rs` the enum [`Problem`], and what is said of each variant. An arm
/// whose row depends on what it holds has several, of which the first counts whose condition
/// holds; the last has none.
macro_rules! problems {
    ($($section:literal { $(
        $(#[$doc:meta])+
        $variant:ident
        $(($value:ident: $inner:ty))?
        $({ $($(#[$field_doc:meta])+ $field:ident: $type:ty,)+ })?
        => {
            $(
                $(if $condition:expr =>)?
                message: $message:literal, code: $code:literal,
                close: $close:ident, reconnect: $reconnect:expr,
                page: $page:literal,
            )+
            body: $body:expr,
            samples: [$($sample:expr),+ $(,)?],
        }
    )+ })+) => {
        /// Why a session ends. The words are those of RabbitMQ's STOMP plug-in (3.10) wherever it
        /// has the same condition, since clients match on them: capitalised ones tell of the
        /// client's frames, lower-case ones of the broker and of the connection.
        ///
        /// Texts that come from the client are quoted in [`Problem::detail`] up to
        /// [`Problem::QUOTED`] characters.
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Problem {$($(
            $(#[$doc])+
            $variant $(($inner))? $({ $($(#[$field_doc])+ $field: $type,)+ })?,
        )+)+}

        #[allow(unused_variables, reason = "most rows need only some fields of a variant")]
        impl Problem {
            /// What the table says of it.
            pub(super) fn row(&self) -> Row {
                use Reconnect::{After, No, Renew};
                match self {$($(
                    Self::$variant $(($value))? $({ $($field),+ })? => match () {$(
                        () $(if $condition)? => Row {
                            message: $message,
                            error_code: $code,
                            close_code: CloseCode::$close,
                            reconnect: $reconnect,
                            #[cfg(test)]
                            section: $section,
                            #[cfg(test)]
                            page: $page,
                        },
                    )+},
                )+)+}
            }

            /// The body of the ERROR frame: what was wrong, and what to do. Where the plug-in has
            /// the condition, it is the plug-in's body to the byte, with or without its line
            /// break.
            #[must_use]
            pub fn detail(&self) -> String {
                match self {$($(
                    Self::$variant $(($value))? $({ $($field),+ })? => String::from($body),
                )+)+}
            }

            /// One or more of each kind.
            #[cfg(test)]
            pub(super) fn samples() -> Vec<Self> {
                use Command::{Ack, Begin, Connect, Message, Send, Subscribe};
                use Problem::*;
                vec![$($($($sample),+),+),+]
            }
        }
    };
}

mod table;

pub use table::Problem;

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
    /// Where `docs/errors.md` has it.
    #[cfg(test)]
    section: &'static str,
    /// What happened, and what to do: the words of `docs/errors.md`.
    #[cfg(test)]
    page: &'static str,
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
                | Self::Banned(_)
                | Self::Replaced
                | Self::LoginChanged
                | Self::PermissionWithdrawn { .. }
                | Self::Revoked { .. }
        )
    }

    /// Whether something that the client asked for was refused. Otherwise its session was ended from
    /// elsewhere: by an operator, a newer session, its time, its silence, or a queue that is gone.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        !matches!(
            self,
            Self::Kicked(_)
                | Self::Unsubscribed(_)
                | Self::Replaced
                | Self::LoginChanged
                | Self::TokenExpired
                | Self::ShuttingDown
                | Self::HeartbeatMissed
                | Self::PingsUnanswered
                | Self::SlowConsumer
                | Self::NotUtf8
                | Self::FeedInterrupted(_)
                | Self::SubscriptionCancelled(_)
        )
    }

    /// Its ERROR frame for a client with which no session was begun.
    #[must_use]
    pub fn frame(&self) -> Bytes {
        frames::error(self, None, Version::V1_0)
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
mod tests;
