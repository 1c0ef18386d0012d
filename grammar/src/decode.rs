//! Bytes to frames, incrementally.

use bytes::Bytes;

use crate::{Frame, Version};

/// What a peer may send. All sizes are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A whole frame: command line, headers and body.
    pub max_frame_size: usize,
    /// Headers in a frame, repetitions included.
    pub max_headers: usize,
    /// One header line (and the command line), without its end.
    pub max_header_size: usize,
}

/// The stream cannot be read on. The peer deserves an ERROR, then the connection ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeError {
    /// What is wrong.
    pub kind: DecodeErrorKind,
    /// The `receipt` header of the offending frame, where it could still be read.
    pub receipt: Option<Box<str>>,
}

/// What is wrong with the stream; `Display` says it in words that help the peer's author.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecodeErrorKind {
    /// No such command; what was read instead, shortened and made printable.
    UnknownCommand(Box<str>),
    // … (the rest is the implementer's)
}

/// Cuts a stream of bytes into frames.
#[derive(Debug)]
pub struct Decoder {
    limits: Limits,
    version: Version,
}

impl Decoder {
    /// A decoder that undoes the escapes of 1.2 until told otherwise.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            version: Version::V1_2,
        }
    }

    /// From the next frame on, undoes the escapes of `version`.
    pub fn set_version(&mut self, version: Version) {
        self.version = version;
    }

    /// From the next frame on, enforces `limits`.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Takes the next frame from `input`, and what it consumed off its front. `None`: all of
    /// `input` was consumed and the frame is not complete yet; the decoder keeps what it needs.
    ///
    /// # Errors
    /// The stream breaks a rule or a limit. The decoder answers every later call the same.
    pub fn decode(&mut self, input: &mut Bytes) -> Result<Option<Frame>, DecodeError> {
        let _ = (input, self.limits, self.version);
        todo!()
    }
}
