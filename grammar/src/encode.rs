//! Frames to bytes. Everything is appended to a buffer that the caller owns and reuses.
//!
//! A frame is written in pieces, so that what many receivers share (the common headers and the
//! body of a MESSAGE) is encoded once and appended to each receiver's own head:
//! [`command`], any number of [`header`]s, then [`body`] — or a ready-made tail that ends so.

use crate::{Command, Frame, Version, escape::escape_into};

/// Starts a frame: its command line.
pub fn command(out: &mut Vec<u8>, command: Command) {
    out.extend_from_slice(command.as_str().as_bytes());
    out.push(b'\n');
}

/// Appends one header line, escaped as `version` asks.
/// For CONNECT and CONNECTED frames use [`header_verbatim`].
pub fn header(out: &mut Vec<u8>, version: Version, name: &str, value: &str) {
    escape_into(out, version, name);
    out.push(b':');
    escape_into(out, version, value);
    out.push(b'\n');
}

/// Appends one header line of a CONNECT or CONNECTED frame, which knows no escapes. A line
/// break, which such a frame cannot carry, becomes a blank.
pub fn header_verbatim(out: &mut Vec<u8>, name: &str, value: &str) {
    header(out, Version::V1_0, name, value);
}

/// Ends a frame: `content-length` where there is a body, the empty line, the body, NUL.
pub fn body(out: &mut Vec<u8>, body: &[u8]) {
    if !body.is_empty() {
        out.extend_from_slice(b"content-length:");
        let mut digits = [0_u8; 20];
        out.extend_from_slice(decimal(&mut digits, body.len()));
        out.push(b'\n');
    }
    out.push(b'\n');
    out.extend_from_slice(body);
    out.push(0);
}

/// Appends a whole frame. A `content-length` among its headers is left out: [`body`] writes
/// the true one.
pub fn frame(out: &mut Vec<u8>, version: Version, frame: &Frame) {
    let version = if frame.command.is_escaped() {
        version
    } else {
        Version::V1_0
    };
    command(out, frame.command);
    for (name, value) in frame
        .headers
        .iter()
        .filter(|(name, _)| *name != "content-length")
    {
        header(out, version, name, value);
    }
    body(out, &frame.body);
}

/// Writes a number without the formatting machinery, for the path of every message.
fn decimal(digits: &mut [u8; 20], mut number: usize) -> &[u8] {
    let mut start = digits.len();
    for (at, digit) in digits.iter_mut().enumerate().rev() {
        // The remainder is below ten: neither the cast nor the sum loses anything.
        *digit = b'0'.wrapping_add((number % 10) as u8);
        number /= 10;
        start = at;
        if number == 0 {
            break;
        }
    }
    digits.get(start..).unwrap_or_default()
}
