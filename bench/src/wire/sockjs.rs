//! SockJS over HTTP, as a client needs it: the responses that messages come in, and the requests
//! that carry them there.

use std::io::Write as _;

use memchr::{memchr, memmem};

use super::read_on;

/// A frame of a SockJS server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Frame {
    /// The session has begun.
    Open,
    Messages(Vec<String>),
    HeartBeat,
    /// It is over, and why.
    Close(String),
}

/// Reads the responses with messages, in any pieces.
#[derive(Debug, Default)]
pub(crate) struct Responses {
    /// Bytes that are not read yet.
    raw: Vec<u8>,
    body: Body,
    /// A frame that is not complete.
    line: Vec<u8>,
}

/// The position in a response.
#[derive(Clone, Copy, Debug, Default)]
enum Body {
    #[default]
    Head,
    /// So many bytes are left.
    Sized(usize),
    ChunkSize,
    Chunk(usize),
    ChunkEnd,
    /// The empty line after the last chunk.
    Trailer,
}

impl Responses {
    /// Takes received bytes. Returns their frames, and true if a response has ended, so that
    /// another request is due.
    ///
    /// # Errors
    /// The server refuses, or breaks the protocol.
    pub(crate) fn received(&mut self, bytes: &[u8]) -> Result<(Vec<Frame>, bool), String> {
        let mut raw = std::mem::take(&mut self.raw);
        let (mut frames, mut ended) = (Vec::new(), false);
        let done = read_on(&mut raw, bytes, |rest| {
            while let Some(is_end) = self.step(rest, &mut frames)? {
                ended |= is_end;
            }
            Ok(())
        });
        self.raw = raw;
        done.map(|()| (frames, ended))
    }

    /// Takes one part off `rest`; `None` as long as it is not complete. Returns true if it was
    /// the last of a response.
    fn step(&mut self, rest: &mut &[u8], frames: &mut Vec<Frame>) -> Result<Option<bool>, String> {
        match self.body {
            Body::Head => {
                let Some(end) = memmem::find(rest, b"\r\n\r\n") else {
                    return Ok(None);
                };
                let (head, after) = (&rest[..end], &rest[end + 4..]);
                *rest = after;
                self.body = body_of(head)?;
            }
            Body::Sized(0) => return Ok(Some(self.end())),
            Body::Sized(left) if !rest.is_empty() => {
                let taken = self.take(left, rest, frames)?;
                self.body = Body::Sized(left - taken);
            }
            Body::ChunkSize => {
                let Some(line) = take_line(rest) else {
                    return Ok(None);
                };
                let size = std::str::from_utf8(line)
                    .ok()
                    .and_then(|size| usize::from_str_radix(size, 16).ok());
                self.body = match size.ok_or("a chunk without a size")? {
                    0 => Body::Trailer,
                    size => Body::Chunk(size),
                };
            }
            Body::Chunk(0) => self.body = Body::ChunkEnd,
            Body::Chunk(left) if !rest.is_empty() => {
                let taken = self.take(left, rest, frames)?;
                self.body = Body::Chunk(left - taken);
            }
            Body::ChunkEnd => {
                if take_line(rest).is_none() {
                    return Ok(None);
                }
                self.body = Body::ChunkSize;
            }
            Body::Trailer => match take_line(rest) {
                Some(_) => return Ok(Some(self.end())),
                None => return Ok(None),
            },
            Body::Sized(_) | Body::Chunk(_) => return Ok(None),
        }
        Ok(Some(false))
    }

    const fn end(&mut self) -> bool {
        self.body = Body::Head;
        true
    }

    /// Takes at most `most` bytes of a body.
    fn take(
        &mut self,
        most: usize,
        rest: &mut &[u8],
        frames: &mut Vec<Frame>,
    ) -> Result<usize, String> {
        let (mut part, after) = rest.split_at(most.min(rest.len()));
        let taken = part.len();
        *rest = after;
        while let Some(end) = memchr(b'\n', part) {
            let (line, more) = (&part[..end], &part[end + 1..]);
            part = more;
            self.line.extend_from_slice(line);
            frames.push(frame(&std::mem::take(&mut self.line))?);
        }
        self.line.extend_from_slice(part);
        Ok(taken)
    }
}

fn body_of(head: &[u8]) -> Result<Body, String> {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default();
    if !status.starts_with("http/1.1 200") {
        return Err(format!("the server answers {status}"));
    }
    for line in lines {
        if let Some(length) = line.strip_prefix("content-length:") {
            let length = length.trim().parse();
            return Ok(Body::Sized(
                length.map_err(|_| "a content-length is no number")?,
            ));
        }
        if line.starts_with("transfer-encoding:") && line.ends_with("chunked") {
            return Ok(Body::ChunkSize);
        }
    }
    Err("a response without a length".into())
}

/// A line without its end.
fn take_line<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = memmem::find(rest, b"\r\n")?;
    let (line, after) = (&rest[..end], &rest[end + 2..]);
    *rest = after;
    Some(line)
}

fn frame(line: &[u8]) -> Result<Frame, String> {
    match line {
        b"o" => Ok(Frame::Open),
        // A streaming response begins with a line of many.
        [b'h', ..] => Ok(Frame::HeartBeat),
        [b'a', messages @ ..] => serde_json::from_slice(messages)
            .map(Frame::Messages)
            .map_err(|error| format!("a frame that is no JSON: {error}")),
        [b'c', why @ ..] => Ok(Frame::Close(String::from_utf8_lossy(why).into_owned())),
        other => Err(format!("SockJS says {:?}", String::from_utf8_lossy(other))),
    }
}

/// Asks for messages: `transport` is `xhr_streaming` or `xhr`.
pub(crate) fn receive(host: &str, session: &str, transport: &str) -> Vec<u8> {
    format!("POST {session}/{transport} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n")
        .into_bytes()
}

/// Carries a message there.
///
/// # Errors
/// It is no UTF-8.
pub(crate) fn send(
    host: &str,
    session: &str,
    message: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), String> {
    let message = std::str::from_utf8(message).map_err(|error| error.to_string())?;
    let body = serde_json::to_string(&[message]).map_err(|error| error.to_string())?;
    // A vector takes all.
    let _ = write!(
        out,
        "POST {session}/xhr_send HTTP/1.1\r\nHost: {host}\r\nContent-Type: text/plain\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    Ok(())
}

/// Takes the answer to [`send`] off `bytes`; returns true if there was one.
///
/// # Errors
/// The server refuses.
pub(crate) fn next_sent(bytes: &mut &[u8]) -> Result<bool, String> {
    let Some(end) = memmem::find(bytes, b"\r\n\r\n") else {
        return Ok(false);
    };
    let (head, rest) = (&bytes[..end], &bytes[end + 4..]);
    // The answer has no body: https://www.rfc-editor.org/rfc/rfc9110#name-204-no-content
    if !head.starts_with(b"HTTP/1.1 204") {
        let line = head.split(|&byte| byte == b'\r').next();
        let status = String::from_utf8_lossy(line.unwrap_or_default());
        return Err(format!("what was sent is answered by {status}"));
    }
    *bytes = rest;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                          5\r\nhhhh\n\r\n2\r\no\n\r\n9\r\na[\"one\",\"\r\n7\r\ntwo\"]\n\
                          h\r\n1\r\n\n\r\n0\r\n\r\n";
    const POLL: &str = "HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\na[\"\\u0000 \"]\n";

    fn read(bytes: &str, size: usize) -> (Vec<Frame>, u32) {
        let (mut responses, mut frames, mut ends) = (Responses::default(), Vec::new(), 0);
        for piece in bytes.as_bytes().chunks(size) {
            let (more, ended) = responses.received(piece).unwrap();
            frames.extend(more);
            ends += u32::from(ended);
        }
        (frames, ends)
    }

    #[test]
    fn the_pieces_of_a_response_do_not_matter() {
        let messages =
            |texts: &[&str]| Frame::Messages(texts.iter().map(|&text| text.to_owned()).collect());
        let streamed = [
            Frame::HeartBeat,
            Frame::Open,
            messages(&["one", "two"]),
            Frame::HeartBeat,
        ];
        for size in [1, 2, 3, 5, 8, 1000] {
            assert_eq!(read(STREAM, size), (streamed.to_vec(), 1), "by {size}");
            assert_eq!(read(POLL, size), (vec![messages(&["\0 "])], 1), "by {size}");
        }
        let (frames, _) = read(&[STREAM, POLL, STREAM].concat(), 7);
        assert_eq!(frames.len(), 9);
    }

    #[test]
    fn what_a_server_refuses_is_told() {
        let refused = Responses::default().received(b"HTTP/1.1 404 Not Found\r\n\r\n");
        assert!(refused.unwrap_err().contains("404"), "{STREAM}");
        assert!(next_sent(&mut &b"HTTP/1.1 404 Not Found\r\n\r\n"[..]).is_err());
    }

    #[test]
    fn what_is_sent_is_json() {
        let mut out = Vec::new();
        send("h", "/stomp/0/s1", b"SEND\n\n\"x\"\0", &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("POST /stomp/0/s1/xhr_send HTTP/1.1\r\n"));
        assert!(head.ends_with(&format!("Content-Length: {}", body.len())));
        assert_eq!(body, "[\"SEND\\n\\n\\\"x\\\"\\u0000\"]");
    }
}
