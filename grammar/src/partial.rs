//! A frame whose bytes are still arriving: first its head, which is scanned for its end and read
//! at once, then its body, which is counted or searched for NUL.
//!
//! A frame that is in the input as a whole passes through here without its bytes being copied.

use std::{fmt, mem};

use bytes::{Buf as _, Bytes};

use crate::{
    Command, DecodeError, DecodeErrorKind, Frame, Headers,
    error::printable,
    head,
    limits::Rules,
    scan::{HeadScan, Passed, find},
};

/// A frame that is not complete yet.
#[derive(Default)]
pub(crate) struct Partial {
    /// The bytes of the unfinished stage.
    buffer: Vec<u8>,
    stage: Stage,
}

enum Stage {
    Head(HeadScan),
    Body(Pending),
}

/// A frame whose head was read.
struct Pending {
    command: Command,
    headers: Headers,
    length: BodyLength,
}

#[derive(Clone, Copy)]
enum BodyLength {
    /// `content-length` says so, and it is within the limits.
    Exactly(usize),
    /// Up to the first NUL, at most so many bytes.
    AtMost(usize),
}

impl Default for Stage {
    fn default() -> Self {
        Self::Head(HeadScan::default())
    }
}

impl Partial {
    /// Goes on with the bytes that follow. `None` if the frame is not complete yet; then all of
    /// `input` is kept here.
    pub(crate) fn advance(
        &mut self,
        input: &mut Bytes,
        rules: &Rules,
    ) -> Result<Option<Frame>, DecodeError> {
        if let Stage::Head(scan) = &mut self.stage {
            let Some(length) = scan
                .feed(input, rules)
                .map_err(|passed| too_big(*scan, passed, &self.buffer, input, rules))?
            else {
                append(&mut self.buffer, input, rules.max_frame_size());
                return Ok(None);
            };
            let piece = input.get(..length).unwrap_or_default();
            let pending = if self.buffer.is_empty() {
                Pending::read(piece, scan.headers(), rules)?
            } else {
                append(&mut self.buffer, piece, rules.max_frame_size());
                Pending::read(&self.buffer, scan.headers(), rules)?
            };
            input.advance(length);
            self.buffer = Vec::new();
            self.stage = Stage::Body(pending);
        }
        let Stage::Body(pending) = &mut self.stage else {
            return Ok(None);
        };
        Ok(pending
            .take_body(&mut self.buffer, input, rules)?
            .map(|body| Frame {
                command: pending.command,
                headers: mem::take(&mut pending.headers),
                body,
            }))
    }
}

impl Partial {
    /// Bytes that are kept, and how many they may come to.
    pub(crate) fn unfinished(&self, rules: &Rules) -> (usize, usize) {
        let (head, most) = match &self.stage {
            Stage::Head(_) => (0, rules.max_frame_size()),
            Stage::Body(pending) => match pending.length {
                BodyLength::Exactly(length) | BodyLength::AtMost(length) => {
                    (pending.headers.size(), length)
                }
            },
        };
        (
            head.saturating_add(self.buffer.len()),
            head.saturating_add(most),
        )
    }
}

#[cfg(test)]
impl Partial {
    /// How much memory the unfinished stage takes, in bytes.
    pub(crate) fn capacity(&self) -> usize {
        self.buffer.capacity()
    }
}

impl Pending {
    /// Reads a complete head, and refuses a body that is not allowed or too long before it comes.
    fn read(bytes: &[u8], header_count: usize, rules: &Rules) -> Result<Self, DecodeError> {
        let head::Head {
            command,
            headers,
            content_length,
        } = head::parse(bytes, header_count, rules.version).map_err(|kind| DecodeError {
            kind,
            receipt: head::receipt(bytes, rules.version),
        })?;
        let room = rules.max_frame_size().saturating_sub(bytes.len());
        let length = match content_length {
            None => Ok(BodyLength::AtMost(room)),
            Some(1..) if !command.has_body() => Err(DecodeErrorKind::BodyNotAllowed(command)),
            Some(announced) => match usize::try_from(announced) {
                Ok(length) if length <= room => Ok(BodyLength::Exactly(length)),
                _ => Err(DecodeErrorKind::FrameTooBig {
                    limit: rules.max_frame_size(),
                    announced: Some(announced),
                }),
            },
        };
        match length {
            Ok(length) => Ok(Self {
                command,
                headers,
                length,
            }),
            Err(kind) => Err(fault(kind, &headers)),
        }
    }

    /// Passes over line ends where no body may be, up to the NUL: people and scripts write an
    /// empty line too many. They count towards the frame's size, and nothing is kept of them.
    fn pass_over_line_ends(
        &mut self,
        most: usize,
        input: &mut Bytes,
        rules: &Rules,
    ) -> Result<Option<Bytes>, DecodeError> {
        let is_line_end = |byte: &&u8| matches!(byte, b'\r' | b'\n');
        let blank = input.iter().take_while(is_line_end).count();
        let Some(left) = most.checked_sub(blank) else {
            return Err(self.too_big(rules));
        };
        self.length = BodyLength::AtMost(left);
        input.advance(blank);
        match input.first() {
            None => Ok(None),
            Some(0) => {
                input.advance(1);
                Ok(Some(Bytes::new()))
            }
            Some(_) => {
                let kind = DecodeErrorKind::BodyNotAllowed(self.command);
                Err(fault(kind, &self.headers))
            }
        }
    }

    fn too_big(&self, rules: &Rules) -> DecodeError {
        let kind = DecodeErrorKind::FrameTooBig {
            limit: rules.max_frame_size(),
            announced: None,
        };
        fault(kind, &self.headers)
    }

    /// Takes the body and its NUL off `input`, or as much of the body as there is.
    fn take_body(
        &mut self,
        buffer: &mut Vec<u8>,
        input: &mut Bytes,
        rules: &Rules,
    ) -> Result<Option<Bytes>, DecodeError> {
        let (length, most) = match self.length {
            BodyLength::AtMost(most) if !self.command.has_body() => {
                return self.pass_over_line_ends(most, input, rules);
            }
            BodyLength::Exactly(length) => {
                let missing = length.saturating_sub(buffer.len());
                match input.get(missing) {
                    Some(0) => (Some(missing), length),
                    Some(_) => {
                        let kind = DecodeErrorKind::MissingNul {
                            content_length: length,
                        };
                        return Err(fault(kind, &self.headers));
                    }
                    None => (None, length),
                }
            }
            BodyLength::AtMost(most) => {
                let nul = find(0, input);
                let more = nul.unwrap_or(input.len());
                if more > most.saturating_sub(buffer.len()) {
                    return Err(self.too_big(rules));
                }
                (nul, most)
            }
        };
        let Some(length) = length else {
            append(buffer, input, most);
            return Ok(None);
        };
        let body = match (buffer.is_empty(), length) {
            (true, 0) => Bytes::new(),
            (true, _) => input.split_to(length),
            (false, _) => {
                append(buffer, input.get(..length).unwrap_or_default(), most);
                input.advance(length);
                Bytes::from(mem::take(buffer))
            }
        };
        input.advance(1);
        Ok(Some(body))
    }
}

/// Appends to a buffer that doubles, but never beyond `most`, to which `Vec` alone would not keep.
fn append(buffer: &mut Vec<u8>, piece: &[u8], most: usize) {
    let needed = buffer.len().saturating_add(piece.len());
    if needed > buffer.capacity() {
        #[cfg(test)]
        crate::scan::work::add(buffer.len());
        let doubled = buffer.capacity().saturating_mul(2).min(most).max(needed);
        buffer.reserve_exact(doubled.saturating_sub(buffer.len()));
    }
    #[cfg(test)]
    crate::scan::work::add(piece.len());
    buffer.extend_from_slice(piece);
}

fn fault(kind: DecodeErrorKind, headers: &Headers) -> DecodeError {
    DecodeError {
        kind,
        receipt: headers.get("receipt").map(Into::into),
    }
}

/// The error for a head that passed a limit. It must not depend on how the stream was cut, so it
/// looks at nothing behind the byte that passed the limit.
fn too_big(
    scan: HeadScan,
    passed: Passed,
    buffer: &[u8],
    piece: &[u8],
    rules: &Rules,
) -> DecodeError {
    let bytes = [buffer, piece].concat();
    let (before, line) = bytes
        .split_at_checked(scan.line_start())
        .unwrap_or((&bytes, &[]));
    let kind = match passed {
        Passed::FrameSize => DecodeErrorKind::FrameTooBig {
            limit: rules.max_frame_size(),
            announced: None,
        },
        Passed::HeaderCount => DecodeErrorKind::TooManyHeaders {
            limit: rules.max_headers(),
        },
        Passed::LineLength => {
            let limit = rules.max_header_size();
            let start = line.get(..limit).unwrap_or(line);
            if scan.in_command() {
                DecodeErrorKind::CommandTooLong { limit }
            } else {
                let name = find(b':', start)
                    .and_then(|colon| start.get(..colon))
                    .map(printable);
                DecodeErrorKind::HeaderTooLong { name, limit }
            }
        }
    };
    DecodeError {
        kind,
        receipt: head::receipt(before, rules.version),
    }
}

/// Shows sizes only: the buffer can hold secrets (`passcode`).
impl fmt::Debug for Partial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let command = match &self.stage {
            Stage::Head(_) => None,
            Stage::Body(pending) => Some(pending.command),
        };
        f.debug_struct("Partial")
            .field("command", &command)
            .field("buffered", &self.buffer.len())
            .finish_non_exhaustive()
    }
}
