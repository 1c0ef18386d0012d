//! The protocol of NATS, as a client and a publisher need it.

use std::io::Write as _;

use memchr::memmem;

/// An operation of a server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Op<'a> {
    /// A message's body.
    Message(&'a [u8]),
    /// To be answered by [`PONG`].
    Ping,
    /// All that was said before a [`PING`] is done.
    Pong,
    /// INFO, or +OK.
    Other,
    /// Why it will close.
    Error(&'a [u8]),
}

/// Asks for an answer.
pub(crate) const PING: &[u8] = b"PING\r\n";

/// The answer.
pub(crate) const PONG: &[u8] = b"PONG\r\n";

/// Takes the next operation off `bytes`; `None` as long as it is not complete.
///
/// # Errors
/// It is not an operation.
pub(crate) fn next_op<'a>(bytes: &mut &'a [u8]) -> Result<Option<Op<'a>>, String> {
    let all = *bytes;
    let Some(end) = memmem::find(all, b"\r\n") else {
        return Ok(None);
    };
    let (line, rest) = (&all[..end], &all[end + 2..]);
    let Some(about) = line.strip_prefix(b"MSG ") else {
        let op = match line {
            b"PING" => Op::Ping,
            b"PONG" => Op::Pong,
            b"+OK" => Op::Other,
            _ if line.starts_with(b"INFO ") => Op::Other,
            _ => match line.strip_prefix(b"-ERR ") {
                Some(why) => Op::Error(why),
                None => return Err(format!("NATS says {:?}", String::from_utf8_lossy(line))),
            },
        };
        *bytes = rest;
        return Ok(Some(op));
    };
    let length: usize = about
        .rsplit(|&byte| byte == b' ')
        .next()
        .and_then(|length| std::str::from_utf8(length).ok()?.parse().ok())
        .ok_or("a MSG without a length")?;
    let Some((body, rest)) = rest.split_at_checked(length) else {
        return Ok(None);
    };
    let Some((end, rest)) = rest.split_first_chunk::<2>() else {
        return Ok(None);
    };
    if end != b"\r\n" {
        return Err("a body is longer than its MSG says".into());
    }
    *bytes = rest;
    Ok(Some(Op::Message(body)))
}

/// Logs in, and asks for an answer.
pub(crate) fn connect(name: &str, out: &mut Vec<u8>) {
    write(
        out,
        format_args!(
            "CONNECT {{\"verbose\":false,\"pedantic\":false,\"name\":\"{name}\"}}\r\nPING\r\n"
        ),
    );
}

/// Subscribes, and asks for an answer.
pub(crate) fn subscribe(id: u32, subject: &str, out: &mut Vec<u8>) {
    write(out, format_args!("SUB {subject} {id}\r\nPING\r\n"));
}

/// Publishes.
pub(crate) fn publish(subject: &str, body: &[u8], out: &mut Vec<u8>) {
    write(out, format_args!("PUB {subject} {}\r\n", body.len()));
    out.extend_from_slice(body);
    out.extend_from_slice(b"\r\n");
}

fn write(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // A vector takes all.
    let _ = out.write_fmt(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_is_taken_once_it_is_complete() {
        let bytes = b"MSG user_1 0 4\r\n\r\n\r\n\r\nPING\r\n-ERR 'Slow Consumer'\r\n";
        let first = 22;
        for cut in 0..first {
            assert_eq!(next_op(&mut &bytes[..cut]), Ok(None), "cut at {cut}");
        }
        let mut rest = &bytes[..];
        let mut next = || next_op(&mut rest).unwrap();
        assert_eq!(next(), Some(Op::Message(b"\r\n\r\n")));
        assert_eq!(next(), Some(Op::Ping));
        assert_eq!(next(), Some(Op::Error(b"'Slow Consumer'")));
        assert_eq!(next(), None);
    }

    #[test]
    fn what_is_no_operation_is_told() {
        assert!(next_op(&mut &b"HTTP/1.1 400 Bad Request\r\n"[..]).is_err());
        assert!(next_op(&mut &b"MSG a 0 1\r\nxxx"[..]).is_err());
    }

    #[test]
    fn a_publication_has_its_length() {
        let mut out = Vec::new();
        publish("user_1", b"hello", &mut out);
        assert_eq!(out, b"PUB user_1 5\r\nhello\r\n");
    }
}
