//! STOMP frames, as a client needs them: a few to write, and just enough of what comes back.

use std::io::Write as _;

use memchr::{memchr, memmem};

/// A frame from the server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Frame<'a> {
    pub(crate) command: &'a [u8],
    /// The header lines, each with its line feed.
    pub(crate) headers: &'a [u8],
    pub(crate) body: &'a [u8],
}

impl Frame<'_> {
    /// The text of an ERROR, in one line.
    pub(crate) fn error_text(&self) -> String {
        let message = header(self.headers, b"message:").unwrap_or_default();
        let (message, body) = (
            String::from_utf8_lossy(message),
            String::from_utf8_lossy(self.body),
        );
        format!("ERROR {message}: {}", body.trim())
    }
}

/// Takes the next frame off `bytes`, and the line feeds before it; `None` as long as it is not
/// complete.
///
/// # Errors
/// It is no frame.
pub(crate) fn next_frame<'a>(bytes: &mut &'a [u8]) -> Result<Option<Frame<'a>>, String> {
    while let [b'\n' | b'\r', rest @ ..] = *bytes {
        *bytes = rest;
    }
    let all = *bytes;
    let Some(head) = memmem::find(all, b"\n\n") else {
        return Ok(None);
    };
    let (head, rest) = (&all[..=head], &all[head + 2..]);
    let line = memchr(b'\n', head).unwrap_or_default();
    let (command, headers) = (&head[..line], &head[line + 1..]);
    let length = match header(headers, b"content-length:") {
        Some(length) => Some(
            std::str::from_utf8(length)
                .ok()
                .and_then(|length| length.parse().ok())
                .ok_or("a content-length is no number")?,
        ),
        None => memchr(0, rest),
    };
    let Some((body, end)) = length.and_then(|length: usize| rest.split_at_checked(length)) else {
        return Ok(None);
    };
    match *end {
        [] => Ok(None),
        [0, ref rest @ ..] => {
            *bytes = rest;
            Ok(Some(Frame {
                command,
                headers,
                body,
            }))
        }
        _ => Err("a body is longer than its content-length".into()),
    }
}

/// The value of a header; `name` ends with the colon.
pub(crate) fn header<'a>(headers: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let mut lines = headers;
    while let Some(end) = memchr(b'\n', lines) {
        let (line, rest) = lines.split_at(end);
        if let Some(value) = line.strip_prefix(name) {
            return Some(value);
        }
        lines = &rest[1..];
    }
    None
}

/// CONNECT; the passcode is the user's name, for the hook allows everything.
pub(crate) fn connect(vhost: &str, user: &str, heart_beat_ms: u32, out: &mut Vec<u8>) {
    write(
        out,
        format_args!(
            "CONNECT\naccept-version:1.2\nhost:{vhost}\nlogin:{user}\npasscode:{user}\n\
             heart-beat:{heart_beat_ms},{heart_beat_ms}\n\n\0"
        ),
    );
}

/// SUBSCRIBE, with a receipt.
pub(crate) fn subscribe(id: u32, destination: &str, out: &mut Vec<u8>) {
    write(
        out,
        format_args!("SUBSCRIBE\nid:{id}\ndestination:{destination}\nack:auto\nreceipt:s\n\n\0"),
    );
}

/// UNSUBSCRIBE, with a receipt.
pub(crate) fn unsubscribe(id: u32, out: &mut Vec<u8>) {
    write(out, format_args!("UNSUBSCRIBE\nid:{id}\nreceipt:u\n\n\0"));
}

/// DISCONNECT.
pub(crate) fn disconnect(out: &mut Vec<u8>) {
    write(out, format_args!("DISCONNECT\n\n\0"));
}

/// SEND.
pub(crate) fn send(destination: &str, body: &[u8], out: &mut Vec<u8>) {
    let length = body.len();
    write(
        out,
        format_args!("SEND\ndestination:{destination}\ncontent-length:{length}\n\n"),
    );
    out.extend_from_slice(body);
    out.push(0);
}

/// Any frame, with these headers as they are, and the length of its body.
pub(crate) fn frame(command: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(256 + body.len());
    write(&mut out, format_args!("{command}\n"));
    for (name, value) in headers {
        write(&mut out, format_args!("{name}:{value}\n"));
    }
    if !body.is_empty() {
        write(&mut out, format_args!("content-length:{}\n", body.len()));
    }
    out.push(b'\n');
    out.extend_from_slice(body);
    out.push(0);
    out
}

fn write(out: &mut Vec<u8>, frame: std::fmt::Arguments<'_>) {
    // A vector takes all.
    let _ = out.write_fmt(frame);
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE: &[u8] = b"MESSAGE\nsubscription:0\ncontent-length:3\n\na\0b\0";

    #[test]
    fn a_frame_is_taken_once_it_is_complete() {
        for cut in 0..MESSAGE.len() {
            assert_eq!(next_frame(&mut &MESSAGE[..cut]), Ok(None), "cut at {cut}");
        }
        let twice = [b"\n\r\n", MESSAGE, b"\n", MESSAGE].concat();
        let mut rest = twice.as_slice();
        for _ in 0..2 {
            let frame = next_frame(&mut rest).unwrap().unwrap();
            assert_eq!(frame.command, b"MESSAGE");
            assert_eq!(frame.body, b"a\0b");
        }
        assert_eq!(rest, b"");
    }

    #[test]
    fn a_body_without_length_ends_at_nul() {
        let mut bytes = &b"RECEIPT\nreceipt-id:s\n\n\0\n"[..];
        let frame = next_frame(&mut bytes).unwrap().unwrap();
        assert_eq!((frame.command, frame.body), (&b"RECEIPT"[..], &b""[..]));
        assert_eq!(bytes, b"\n");
    }

    #[test]
    fn a_wrong_length_is_told() {
        let wrong = b"MESSAGE\ncontent-length:1\n\nab\0";
        assert!(next_frame(&mut &wrong[..]).is_err());
        let wrong = b"MESSAGE\ncontent-length:x\n\nab\0";
        assert!(next_frame(&mut &wrong[..]).is_err());
    }

    #[test]
    fn an_error_is_told_in_a_line() {
        let mut bytes = &b"ERROR\nmessage:Bad CONNECT\n\nAccess refused\n\0"[..];
        let frame = next_frame(&mut bytes).unwrap().unwrap();
        assert_eq!(frame.error_text(), "ERROR Bad CONNECT: Access refused");
    }

    #[test]
    fn what_is_sent_can_be_read() {
        let mut out = Vec::new();
        connect("/", "u1", 10_000, &mut out);
        subscribe(0, "/exchange/a/b", &mut out);
        send("/exchange/a/b", b"x\0y", &mut out);
        unsubscribe(0, &mut out);
        out.extend(frame("BEGIN", &[("transaction", "t")], b"x\0y"));
        disconnect(&mut out);
        let mut rest = out.as_slice();
        let mut commands = Vec::new();
        while let Some(frame) = next_frame(&mut rest).unwrap() {
            commands.push(String::from_utf8_lossy(frame.command).into_owned());
        }
        assert_eq!(
            commands.join(" "),
            "CONNECT SUBSCRIBE SEND UNSUBSCRIBE BEGIN DISCONNECT"
        );
        assert_eq!(rest, b"");
    }
}
