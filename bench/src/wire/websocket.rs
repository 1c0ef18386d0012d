//! WebSocket frames (RFC 6455), as a client needs them.

/// The kinds of frames that the client tells apart.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Opcode {
    /// Text, binary, or the continuation of either: STOMP, all the same.
    Data,
    /// The server closes.
    Close,
    /// To be answered.
    Ping,
    /// No answer.
    Pong,
}

/// A complete frame from the server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Frame<'a> {
    pub(crate) opcode: Opcode,
    pub(crate) payload: &'a [u8],
}

/// The request that begins a connection; its key is the RFC's own, for nobody here checks the
/// answer to it.
pub(crate) fn upgrade_request(host: &str, path: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Protocol: v12.stomp\r\n\r\n"
    )
    .into_bytes()
}

/// The length of the answer to [`upgrade_request`], once all of it has come.
///
/// # Errors
/// The server refuses: its words.
pub(crate) fn upgrade_response(bytes: &[u8]) -> Result<Option<usize>, String> {
    let Some(end) = memchr::memmem::find(bytes, b"\r\n\r\n") else {
        return Ok(None);
    };
    if bytes.starts_with(b"HTTP/1.1 101") {
        return Ok(Some(end + 4));
    }
    let line = bytes.split(|&byte| byte == b'\r').next();
    let status = String::from_utf8_lossy(line.unwrap_or_default());
    Err(format!("the upgrade was refused: {status}"))
}

/// Takes the next frame off `bytes`; `None` as long as it is not complete.
///
/// # Errors
/// The server breaks the protocol.
pub(crate) fn next_frame<'a>(bytes: &mut &'a [u8]) -> Result<Option<Frame<'a>>, String> {
    let &[first, second, ref rest @ ..] = *bytes else {
        return Ok(None);
    };
    if second & 0x80 != 0 {
        return Err("a frame from the server is masked".into());
    }
    let opcode = match first & 0x0f {
        0..=2 => Opcode::Data,
        8 => Opcode::Close,
        9 => Opcode::Ping,
        10 => Opcode::Pong,
        other => return Err(format!("a frame with the opcode {other}")),
    };
    let (length, rest) = match second {
        126 => match rest.split_first_chunk::<2>() {
            Some((length, rest)) => (u64::from(u16::from_be_bytes(*length)), rest),
            None => return Ok(None),
        },
        127 => match rest.split_first_chunk::<8>() {
            Some((length, rest)) => (u64::from_be_bytes(*length), rest),
            None => return Ok(None),
        },
        length => (u64::from(length), rest),
    };
    let length = usize::try_from(length).map_err(|_| "a frame is too large".to_owned())?;
    let Some((payload, rest)) = rest.split_at_checked(length) else {
        return Ok(None);
    };
    *bytes = rest;
    Ok(Some(Frame { opcode, payload }))
}

/// Appends a text frame with this payload.
pub(crate) fn write_text(payload: &[u8], out: &mut Vec<u8>) {
    write_frame(0x81, payload, out);
}

/// Appends the answer to a ping.
pub(crate) fn write_pong(payload: &[u8], out: &mut Vec<u8>) {
    write_frame(0x8a, payload, out);
}

/// Clients must mask; by zeros it is free for the client, and the same work for the server.
fn write_frame(first: u8, payload: &[u8], out: &mut Vec<u8>) {
    const MASKED: u8 = 0x80;
    out.push(first);
    match payload.len() {
        length @ 0..=125 => out.push(MASKED | length as u8),
        length @ 126..=0xffff => {
            out.push(MASKED | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            out.push(MASKED | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_server(opcode: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        write_frame(opcode, payload, &mut frame);
        // As a server would: without mask.
        frame[1] &= 0x7f;
        let mask = frame.len() - payload.len() - 4;
        frame.drain(mask..mask + 4);
        frame
    }

    #[test]
    fn a_frame_is_taken_once_it_is_complete() {
        for length in [0, 1, 125, 126, 127, 65_535, 65_536] {
            let payload = vec![b'x'; length];
            let bytes = from_server(0x82, &payload);
            for cut in [0, 1, bytes.len() / 2, bytes.len() - 1] {
                let mut part = &bytes[..cut];
                assert_eq!(next_frame(&mut part), Ok(None), "{length} cut at {cut}");
                assert_eq!(part.len(), cut);
            }
            let mut rest = bytes.as_slice();
            let frame = next_frame(&mut rest).unwrap().unwrap();
            assert_eq!((frame.opcode, frame.payload), (Opcode::Data, &payload[..]));
            assert_eq!(rest, b"");
        }
    }

    #[test]
    fn what_breaks_the_protocol_is_told() {
        assert!(next_frame(&mut &[0x81, 0x80, 0, 0, 0, 0][..]).is_err());
        assert!(next_frame(&mut &[0x83, 0][..]).is_err());
    }

    #[test]
    fn an_upgrade_that_is_refused_says_how() {
        assert_eq!(upgrade_response(b"HTTP/1.1 101 Switching"), Ok(None));
        let ok = b"HTTP/1.1 101 Switching Protocols\r\na: b\r\n\r\n\x81";
        assert_eq!(upgrade_response(ok), Ok(Some(ok.len() - 1)));
        let refused = upgrade_response(b"HTTP/1.1 403 Forbidden\r\n\r\n").unwrap_err();
        assert!(refused.contains("403 Forbidden"), "{refused}");
    }
}
