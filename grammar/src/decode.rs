//! Bytes to frames, incrementally.

use std::{fmt, mem};

use bytes::{Buf as _, Bytes};

use crate::{
    Command, DecodeError, DecodeErrorKind, Frame, Headers, Version,
    error::printable,
    head,
    scan::{HeadScan, Passed, find},
};

/// What a peer may send. All sizes are in bytes; sizes beyond 4 GiB count as 4 GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A whole frame: command line, headers and body, line ends included, the NUL not.
    pub max_frame_size: usize,
    /// Headers in a frame, repetitions included.
    pub max_headers: usize,
    /// One header line (and the command line), without its end.
    pub max_header_size: usize,
}

/// Cuts a stream of bytes into frames.
///
/// Every byte is scanned once, however the transport cut the stream, and an incomplete frame is
/// the only thing that is kept: between frames a decoder owns no memory but itself.
///
/// Beyond the letter of the specification it accepts, as RabbitMQ does, CR LF in every version and
/// bare colons in header values. Line ends between frames are skipped and count to no limit.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    rules: Rules,
}

/// Boxed, because most connections are between frames most of the time.
#[derive(Debug)]
enum State {
    Between,
    /// Between frames, a CR was read whose LF is still to come.
    BetweenAfterCr,
    Within(Box<Partial>),
    Failed(Box<DecodeError>),
}

/// The version and the limits in force; small, since there is one for each connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    max_frame_size: u32,
    max_headers: u32,
    max_header_size: u32,
    version: Version,
}

impl Decoder {
    /// A decoder that undoes the escapes of 1.2 until told otherwise.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            state: State::Between,
            rules: Rules::new(limits, Version::V1_2),
        }
    }

    /// From the next frame on, undoes the escapes of `version`. A frame of which the head is not
    /// complete yet counts as next.
    pub fn set_version(&mut self, version: Version) {
        self.rules.version = version;
    }

    /// From the next frame on, enforces `limits`. A frame of which the head is not complete yet
    /// counts as next.
    pub fn set_limits(&mut self, limits: Limits) {
        self.rules = Rules::new(limits, self.rules.version);
    }

    /// Takes the next frame from `input`, and what it consumed off its front. `None`: all of
    /// `input` was consumed and the frame is not complete yet; the decoder keeps what it needs.
    ///
    /// A body that arrived in one piece with its frame's head shares the memory of `input`.
    ///
    /// # Errors
    /// The stream breaks a rule or a limit. The decoder answers every later call the same; what
    /// is left in `input` then has no meaning.
    pub fn decode(&mut self, input: &mut Bytes) -> Result<Option<Frame>, DecodeError> {
        let answer = match &mut self.state {
            State::Failed(error) => return Err((**error).clone()),
            State::Within(partial) => partial.advance(input, &self.rules),
            State::Between | State::BetweenAfterCr => {
                let after_cr = skip_line_ends(input, matches!(self.state, State::BetweenAfterCr));
                if input.is_empty() {
                    self.state = if after_cr {
                        State::BetweenAfterCr
                    } else {
                        State::Between
                    };
                    *input = Bytes::new();
                    return Ok(None);
                }
                let mut partial = Partial::default();
                let mut answer = Ok(None);
                if after_cr {
                    // The CR began no line end: it is the first byte of a (wrong) command.
                    answer = partial.advance(&mut Bytes::from_static(b"\r"), &self.rules);
                }
                let answer = answer.and_then(|_| partial.advance(input, &self.rules));
                if let Ok(None) = answer {
                    self.state = State::Within(Box::new(partial));
                }
                answer
            }
        };
        match &answer {
            Ok(None) => *input = Bytes::new(),
            Ok(Some(_)) => self.state = State::Between,
            Err(error) => self.state = State::Failed(Box::new(error.clone())),
        }
        answer
    }
}

/// Takes the line ends off the front of `input`. Answers whether a CR is left without its LF,
/// which `after_cr` says of the bytes before.
fn skip_line_ends(input: &mut Bytes, mut after_cr: bool) -> bool {
    let mut rest: &[u8] = input;
    loop {
        rest = match (after_cr, rest) {
            (_, [b'\n', after @ ..]) => {
                after_cr = false;
                after
            }
            (false, [b'\r', b'\n', after @ ..]) => after,
            (false, [b'\r']) => {
                after_cr = true;
                &[]
            }
            _ => break,
        };
    }
    let skipped = input.len().saturating_sub(rest.len());
    input.advance(skipped);
    after_cr
}

impl Rules {
    fn new(limits: Limits, version: Version) -> Self {
        // Offsets within a frame are kept in 32 bits, here and in `Headers`.
        let small = |limit| u32::try_from(limit).unwrap_or(u32::MAX);
        Self {
            max_frame_size: small(limits.max_frame_size),
            max_headers: small(limits.max_headers),
            max_header_size: small(limits.max_header_size),
            version,
        }
    }

    pub(crate) const fn max_frame_size(&self) -> usize {
        self.max_frame_size as usize
    }

    pub(crate) const fn max_headers(&self) -> usize {
        self.max_headers as usize
    }

    pub(crate) const fn max_header_size(&self) -> usize {
        self.max_header_size as usize
    }
}

/// A frame that is not complete yet.
#[derive(Default)]
struct Partial {
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
    fn advance(&mut self, input: &mut Bytes, rules: &Rules) -> Result<Option<Frame>, DecodeError> {
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

    /// Takes the body and its NUL off `input`, or as much of the body as there is.
    fn take_body(
        &self,
        buffer: &mut Vec<u8>,
        input: &mut Bytes,
        rules: &Rules,
    ) -> Result<Option<Bytes>, DecodeError> {
        let (length, most) = match self.length {
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
                if more > 0 && !self.command.has_body() {
                    let kind = DecodeErrorKind::BodyNotAllowed(self.command);
                    return Err(fault(kind, &self.headers));
                }
                if more > most.saturating_sub(buffer.len()) {
                    let limit = rules.max_frame_size();
                    let kind = DecodeErrorKind::FrameTooBig {
                        limit,
                        announced: None,
                    };
                    return Err(fault(kind, &self.headers));
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

/// Shows sizes only: what is buffered can hold secrets (`passcode`).
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

#[cfg(test)]
mod tests;
