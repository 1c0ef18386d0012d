//! Frames to bytes. Everything is appended to a buffer that the caller owns and reuses.
//!
//! A frame is written in pieces, so that what many receivers share (the common headers and the
//! body of a MESSAGE) is encoded once and appended to each receiver's own head:
//! [`command`], any number of [`header`]s, then [`body`] — or a ready-made tail that ends so.
//!
//! ```
//! use stomp_grammar::{Command, Version, encode};
//!
//! let mut tail = Vec::new();
//! encode::header(&mut tail, Version::V1_2, "destination", "/topic/news");
//! encode::body(&mut tail, b"hello");
//!
//! for subscription in ["0", "1"] {
//!     let mut out = Vec::new();
//!     encode::command(&mut out, Command::Message);
//!     encode::header(&mut out, Version::V1_2, "subscription", subscription);
//!     out.extend_from_slice(&tail);
//!     assert!(out.ends_with(b"\ncontent-length:5\n\nhello\0"));
//! }
//! ```
//!
//! The pieces do not look at each other: that a body is written for a command that may carry one
//! ([`Command::has_body`]), and CONNECT and CONNECTED without escapes, is up to the caller, or to
//! [`frame`].

use crate::{
    Command, Frame, Version,
    escape::{escape_name, escape_value},
};

/// Starts a frame: its command line.
pub fn command(out: &mut Vec<u8>, command: Command) {
    out.extend_from_slice(command.as_str().as_bytes());
    out.push(b'\n');
}

/// Appends one header line, escaped as `version` asks.
/// For CONNECT and CONNECTED frames use [`header_verbatim`].
///
/// Characters that `version` cannot carry are replaced, so that a header never becomes two, nor
/// another one: in 1.0 a line end in a value becomes a blank, and a line end or a colon in a name an
/// underscore. In every version a NUL, at which many clients end the frame, becomes U+FFFD. A
/// header with an empty name, which no peer reads, is left out.
pub fn header(out: &mut Vec<u8>, version: Version, name: &str, value: &str) {
    if name.is_empty() {
        return;
    }
    escape_name(out, version, name);
    out.push(b':');
    escape_value(out, version, value);
    out.push(b'\n');
}

/// Appends one header line of a CONNECT or CONNECTED frame, which knows no escapes (STOMP 1.2,
/// "Value Encoding"). A line break in its value, which such a frame cannot carry, becomes a
/// blank; in its name, where a colon cannot be carried either, an underscore.
pub fn header_verbatim(out: &mut Vec<u8>, name: &str, value: &str) {
    header(out, Version::V1_0, name, value);
}

/// Ends a frame: `content-length` where there is a body, the empty line, the body, NUL.
///
/// Without a body there is no `content-length`: clients of 1.0 and RabbitMQ's plug-in do the same.
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
    // Command, `content-length`, line ends and NUL take less than 64 bytes; escapes are rare.
    let size = frame.headers.wire_size().saturating_add(frame.body.len());
    out.reserve(size.saturating_add(64));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn numbers_as_format_writes_them() {
        for number in [
            0,
            1,
            9,
            10,
            99,
            100,
            255,
            65_536,
            usize::MAX - 1,
            usize::MAX,
        ] {
            let mut digits = [0; 20];
            assert_eq!(decimal(&mut digits, number), number.to_string().as_bytes());
        }
    }

    #[test]
    fn the_pieces_make_a_frame() {
        let pieces = text(|out| {
            command(out, Command::Message);
            header(out, Version::V1_2, "destination", "/topic/a:b");
            body(out, b"hello");
        });
        assert_eq!(
            pieces,
            "MESSAGE\ndestination:/topic/a\\cb\ncontent-length:5\n\nhello\0"
        );
        let whole = Frame::new(Command::Message)
            .with_header("content-length", "77")
            .with_header("destination", "/topic/a:b")
            .with_body("hello");
        assert_eq!(text(|out| frame(out, Version::V1_2, &whole)), pieces);
    }

    #[test]
    fn no_body_no_content_length() {
        let receipt = Frame::new(Command::Receipt).with_header("receipt-id", "1");
        let bytes = text(|out| frame(out, Version::V1_2, &receipt));
        assert_eq!(bytes, "RECEIPT\nreceipt-id:1\n\n\0");
    }

    #[test]
    fn connect_and_connected_are_verbatim() {
        for command in [Command::Connect, Command::Stomp, Command::Connected] {
            let connect = Frame::new(command).with_header("passcode", "a\\n:b\\");
            for version in Version::ALL {
                let bytes = text(|out| frame(out, version, &connect));
                assert_eq!(bytes, format!("{command}\npasscode:a\\n:b\\\n\n\0"));
            }
        }
    }

    #[test]
    fn a_header_that_cannot_be_carried_becomes_no_other() {
        let written = text(|out| {
            header_verbatim(out, "a", "1\nb:2\r\nc:3");
            header_verbatim(out, "d\ne:f", "4");
            header(out, Version::V1_2, "", "5");
        });
        assert_eq!(written, "a:1 b:2  c:3\nd_e_f:4\n");
    }
}
