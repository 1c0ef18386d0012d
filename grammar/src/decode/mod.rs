//! Bytes to frames, incrementally.

use bytes::{Buf as _, Bytes};

use crate::{DecodeError, Frame, Limits, Version, limits::Rules, partial::Partial};

/// Cuts a stream of bytes into frames.
///
/// However the transport cut the stream, a head is scanned once for its end and parsed once, and a
/// body is counted, or searched once for NUL. An incomplete frame is the only thing that is kept:
/// between frames a decoder owns no memory but itself.
///
/// Beyond the letter of the specification it accepts, as RabbitMQ does, CR LF in every version and
/// bare colons in header values. Line ends and NULs between frames are skipped and count to no
/// limit.
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

    /// The kept bytes of the incomplete frame, and the number that it may grow to. Both are 0
    /// between frames.
    #[must_use]
    pub fn unfinished(&self) -> (usize, usize) {
        match &self.state {
            State::Within(partial) => partial.unfinished(&self.rules),
            State::Between | State::BetweenAfterCr | State::Failed(_) => (0, 0),
        }
    }

    /// Takes the next frame off the front of `input`. `None` if all of `input` was consumed and
    /// the frame is not complete yet; the decoder keeps the bytes that it needs.
    ///
    /// A body that arrived in one piece with its frame's head shares the memory of `input`.
    ///
    /// # Errors
    /// The stream breaks a rule or a limit. The decoder answers every later call the same; the
    /// rest of `input` has no meaning.
    pub fn decode(&mut self, input: &mut Bytes) -> Result<Option<Frame>, DecodeError> {
        let answer = match &mut self.state {
            State::Failed(error) => return Err((**error).clone()),
            State::Within(partial) => partial.advance(input, &self.rules),
            State::Between | State::BetweenAfterCr => {
                let after_cr = skip_noise(input, matches!(self.state, State::BetweenAfterCr));
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

/// Takes the line ends and NULs off the front of `input`: some clients write a NUL too many.
/// Returns true if the last byte was a CR without its LF; `after_cr` says the same of the bytes
/// before.
fn skip_noise(input: &mut Bytes, mut after_cr: bool) -> bool {
    let mut rest: &[u8] = input;
    loop {
        rest = match (after_cr, rest) {
            (_, [b'\n', after @ ..]) => {
                after_cr = false;
                after
            }
            (false, [0, after @ ..] | [b'\r', b'\n', after @ ..]) => after,
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

#[cfg(test)]
mod tests;
