//! Why a stream cannot be read on.

use crate::{Command, Version};

/// The stream cannot be read on. The peer deserves an ERROR, then the connection ends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind}")]
pub struct DecodeError {
    /// The fault.
    pub kind: DecodeErrorKind,
    /// The `receipt` header of the offending frame, where it could still be read: it becomes the
    /// `receipt-id` of the ERROR (STOMP 1.2, "ERROR").
    pub receipt: Option<Box<str>>,
}

impl DecodeError {
    /// True if a limit was passed, rather than a rule of the grammar broken.
    #[must_use]
    pub const fn is_too_big(&self) -> bool {
        self.kind.is_too_big()
    }
}

/// The fault of the stream; `Display` says it in words that help the peer's author.
///
/// Texts taken from the stream are shortened and made printable. The value of a header is never
/// among them, since it can be a secret; the exception is `content-length`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeErrorKind {
    /// No such command; the text in its place, shortened and made printable.
    #[error("Could not interpret command \"{0}\"")]
    UnknownCommand(Box<str>),

    /// The command line is longer than [`Limits::max_header_size`](crate::Limits).
    #[error("the command line is longer than the limit of {limit} bytes")]
    CommandTooLong {
        /// The limit, in bytes.
        limit: usize,
    },

    /// A header line is longer than [`Limits::max_header_size`](crate::Limits).
    #[error("{} is longer than the limit of {limit} bytes a line", header_or_line(name.as_deref()))]
    HeaderTooLong {
        /// The header's name, if its colon stands within the limit.
        name: Option<Box<str>>,
        /// The limit, in bytes.
        limit: usize,
    },

    /// There are more headers than [`Limits::max_headers`](crate::Limits).
    #[error("the frame has more headers than the limit of {limit}")]
    TooManyHeaders {
        /// The limit.
        limit: usize,
    },

    /// The frame is longer than [`Limits::max_frame_size`](crate::Limits).
    #[error("the frame is longer than the limit of {limit} bytes{}", announced_body(*announced))]
    FrameTooBig {
        /// The limit, in bytes.
        limit: usize,
        /// The value of `content-length`, in bytes; `None` if bytes passed the limit by arriving.
        announced: Option<u64>,
    },

    /// A header line has no colon. It is not quoted: it may be a part of a passcode.
    #[error("header line {line} has no colon")]
    HeaderWithoutColon {
        /// Which, counted from the command line on, which is no header line: the first is 1.
        line: usize,
    },

    /// A header line begins with its colon.
    #[error("a header has an empty name")]
    EmptyHeaderName,

    /// An escape that the version does not define (STOMP 1.2, "Value Encoding": "MUST be treated
    /// as a fatal protocol error").
    #[error("header \"{header}\": the escape \"{escape}\" is not defined in STOMP {version}")]
    UndefinedEscape {
        /// The header's name as it stands on the wire.
        header: Box<str>,
        /// The backslash and the character after it, if there is one.
        escape: Box<str>,
        /// The version whose escapes hold.
        version: Version,
    },

    /// Header text that is not UTF-8.
    #[error("header \"{0}\" is not valid UTF-8")]
    NotUtf8(Box<str>),

    /// A NUL in a header. STOMP's grammar has it, but many clients take it for the end of the frame
    /// wherever it stands: what follows it would be a frame of the sender's own making to them.
    #[error("header \"{0}\" holds a NUL, which ends a frame")]
    NulInHeader(Box<str>),

    /// A `content-length` that is not plain digits, or beyond 64 bits.
    #[error("content-length \"{0}\" is not a number of bytes")]
    InvalidContentLength(Box<str>),

    /// A body in a frame that must not carry one (STOMP 1.2, "Body").
    #[error("{0} frames must not have a body")]
    BodyNotAllowed(Command),

    /// The body has the announced length, but no NUL follows it.
    #[error("no NUL follows the body of {content_length} bytes that content-length announced")]
    MissingNul {
        /// The value of `content-length`, in bytes.
        content_length: usize,
    },
}

impl DecodeErrorKind {
    /// True if a limit was passed, rather than a rule of the grammar broken.
    #[must_use]
    pub const fn is_too_big(&self) -> bool {
        matches!(
            self,
            Self::CommandTooLong { .. }
                | Self::HeaderTooLong { .. }
                | Self::TooManyHeaders { .. }
                | Self::FrameTooBig { .. }
        )
    }

    /// A stable short name: the one that the conformance vectors use, fit for a metric's label.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::UnknownCommand(_) => "unknown-command",
            Self::CommandTooLong { .. } => "command-too-long",
            Self::HeaderTooLong { .. } => "header-too-long",
            Self::TooManyHeaders { .. } => "too-many-headers",
            Self::FrameTooBig { .. } => "frame-too-big",
            Self::HeaderWithoutColon { .. } => "header-without-colon",
            Self::EmptyHeaderName => "empty-header-name",
            Self::UndefinedEscape { .. } => "undefined-escape",
            Self::NotUtf8(_) => "not-utf8",
            Self::NulInHeader(_) => "nul-in-header",
            Self::InvalidContentLength(_) => "invalid-content-length",
            Self::BodyNotAllowed(_) => "body-not-allowed",
            Self::MissingNul { .. } => "missing-nul",
        }
    }
}

fn header_or_line(name: Option<&str>) -> String {
    name.map_or_else(
        || "a header line".into(),
        |name| format!("header \"{name}\""),
    )
}

fn announced_body(announced: Option<u64>) -> String {
    announced
        .map(|bytes| format!(": its content-length announces {bytes} bytes of body"))
        .unwrap_or_default()
}

/// Text from the stream, fit for a log line and for the headers of an ERROR frame.
pub(crate) fn printable(bytes: &[u8]) -> Box<str> {
    const MAX_CHARS: usize = 40;
    // Four bytes a character at most: a long line is not converted to be thrown away.
    let start = bytes.get(..MAX_CHARS.saturating_mul(4)).unwrap_or(bytes);
    let text = String::from_utf8_lossy(start);
    let mut chars = text
        .chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c });
    let mut short: String = chars.by_ref().take(MAX_CHARS).collect();
    if chars.next().is_some() || start.len() < bytes.len() {
        short.push('…');
    }
    short.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_shortened_and_printable() {
        assert_eq!(&*printable(b"WRONG"), "WRONG");
        assert_eq!(&*printable(b"a\r\x00\xffb"), "a\u{fffd}\u{fffd}\u{fffd}b");
        assert_eq!(printable(&[b'x'; 40]).chars().count(), 40);
        assert_eq!(&*printable(&[b'x'; 41]), format!("{}…", "x".repeat(40)));
        assert_eq!(printable("ä".repeat(5_000).as_bytes()).chars().count(), 41);
    }

    #[test]
    fn messages_name_what_was_seen() {
        let say = |kind: DecodeErrorKind| kind.to_string();
        assert_eq!(
            say(DecodeErrorKind::UnknownCommand("WRONG".into())),
            "Could not interpret command \"WRONG\""
        );
        assert_eq!(
            say(DecodeErrorKind::HeaderTooLong {
                name: Some("login".into()),
                limit: 80
            }),
            "header \"login\" is longer than the limit of 80 bytes a line"
        );
        assert_eq!(
            say(DecodeErrorKind::HeaderTooLong {
                name: None,
                limit: 80
            }),
            "a header line is longer than the limit of 80 bytes a line"
        );
        assert_eq!(
            say(DecodeErrorKind::FrameTooBig {
                limit: 64,
                announced: Some(65)
            }),
            "the frame is longer than the limit of 64 bytes: its content-length announces 65 \
             bytes of body"
        );
        assert_eq!(
            say(DecodeErrorKind::FrameTooBig {
                limit: 64,
                announced: None
            }),
            "the frame is longer than the limit of 64 bytes"
        );
        assert_eq!(
            say(DecodeErrorKind::UndefinedEscape {
                header: "h".into(),
                escape: "\\t".into(),
                version: Version::V1_1
            }),
            "header \"h\": the escape \"\\t\" is not defined in STOMP 1.1"
        );
    }
}
