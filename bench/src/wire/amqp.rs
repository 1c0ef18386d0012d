//! AMQP 0-9-1, as a publisher needs it: to open a connection and a channel, declare an exchange,
//! and publish. A general client spends several times as much on a message.

/// What a client says first.
pub(crate) const PROTOCOL_HEADER: &[u8] = b"AMQP\x00\x00\x09\x01";

/// The only channel.
const CHANNEL: u16 = 1;
const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const HEART_BEAT: u8 = 8;
const END: u8 = 0xce;

/// A method that the server sent: its class and its number in it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Method<'a> {
    pub(crate) id: (u16, u16),
    /// Its arguments.
    pub(crate) arguments: &'a [u8],
}

/// `connection.start`
pub(crate) const START: (u16, u16) = (10, 10);
/// `connection.tune`
pub(crate) const TUNE: (u16, u16) = (10, 30);
/// `connection.open-ok`
pub(crate) const OPEN_OK: (u16, u16) = (10, 41);
/// `connection.close`
pub(crate) const CLOSE: (u16, u16) = (10, 50);
/// `connection.blocked`
pub(crate) const BLOCKED: (u16, u16) = (10, 60);
/// `channel.open-ok`
pub(crate) const CHANNEL_OPEN_OK: (u16, u16) = (20, 11);
/// `channel.close`
pub(crate) const CHANNEL_CLOSE: (u16, u16) = (20, 40);
/// `exchange.declare-ok`
pub(crate) const DECLARE_OK: (u16, u16) = (40, 11);

impl Method<'_> {
    /// What `connection.close` and `channel.close` say.
    pub(crate) fn reason(&self) -> String {
        let text = self.arguments.get(3..).unwrap_or_default();
        let length = self.arguments.get(2).copied().map_or(0, usize::from);
        String::from_utf8_lossy(text.get(..length).unwrap_or(text)).into_owned()
    }
}

/// Takes the next method off `bytes`, and what is no method before it; `None` as long as none is
/// complete.
///
/// # Errors
/// It is no AMQP frame.
pub(crate) fn next_method<'a>(bytes: &mut &'a [u8]) -> Result<Option<Method<'a>>, String> {
    loop {
        let Some((head, rest)) = bytes.split_first_chunk::<7>() else {
            return Ok(None);
        };
        let [kind, _, _, a, b, c, d] = *head;
        if !matches!(kind, METHOD | HEADER | BODY | HEART_BEAT) {
            return Err("the server does not speak AMQP 0-9-1".into());
        }
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        let Some((payload, end)) = rest.split_at_checked(length) else {
            return Ok(None);
        };
        let Some((&end, rest)) = end.split_first() else {
            return Ok(None);
        };
        if end != END {
            return Err("an AMQP frame does not end where it should".into());
        }
        *bytes = rest;
        if kind != METHOD {
            continue;
        }
        let Some((&[a, b, c, d], arguments)) = payload.split_first_chunk::<4>() else {
            return Err("a method without a number".into());
        };
        let id = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        return Ok(Some(Method { id, arguments }));
    }
}

/// `connection.start-ok`, as the account that RabbitMQ makes at its first start.
pub(crate) fn start_ok() -> Vec<u8> {
    // An alarm is told to clients that understand it; others are just not read any more.
    const CAPABILITIES: &[u8] = b"\x0ccapabilitiesF\x00\x00\x00\x15\x12connection.blockedt\x01";
    let mut arguments = Vec::new();
    put_long_string(&mut arguments, CAPABILITIES);
    put_short_string(&mut arguments, "PLAIN");
    put_long_string(&mut arguments, b"\0guest\0guest");
    put_short_string(&mut arguments, "en_US");
    method(0, (10, 11), &arguments)
}

/// `connection.tune-ok`: the channels and frames that the server proposes, and no heart-beats.
pub(crate) fn tune_ok(tune: &Method<'_>) -> Vec<u8> {
    let mut arguments = tune.arguments.get(..6).unwrap_or(&[0; 6]).to_vec();
    arguments.extend_from_slice(&[0, 0]);
    method(0, (10, 31), &arguments)
}

/// `connection.open`
pub(crate) fn open(vhost: &str) -> Vec<u8> {
    let mut arguments = Vec::new();
    put_short_string(&mut arguments, vhost);
    arguments.extend_from_slice(&[0, 0]);
    method(0, (10, 40), &arguments)
}

/// `channel.open`
pub(crate) fn channel_open() -> Vec<u8> {
    method(CHANNEL, (20, 10), &[0])
}

/// `exchange.declare` of a durable direct exchange.
pub(crate) fn declare_direct(exchange: &str) -> Vec<u8> {
    const DURABLE: u8 = 0b10;
    let mut arguments = vec![0, 0];
    put_short_string(&mut arguments, exchange);
    put_short_string(&mut arguments, "direct");
    arguments.push(DURABLE);
    put_long_string(&mut arguments, b"");
    method(CHANNEL, (40, 10), &arguments)
}

/// Appends a transient message.
pub(crate) fn publish(exchange: &str, key: &str, body: &[u8], out: &mut Vec<u8>) {
    let start = begin_frame(METHOD, CHANNEL, out);
    out.extend_from_slice(&[0, 60, 0, 40, 0, 0]);
    put_short_string(out, exchange);
    put_short_string(out, key);
    out.push(0);
    end_frame(start, out);
    let start = begin_frame(HEADER, CHANNEL, out);
    out.extend_from_slice(&[0, 60, 0, 0]);
    out.extend_from_slice(&(body.len() as u64).to_be_bytes());
    // The delivery mode, and no other property.
    out.extend_from_slice(&[0x10, 0x00, 1]);
    end_frame(start, out);
    // RabbitMQ's frames may have 128 KiB.
    for part in body.chunks(100 * 1024) {
        let start = begin_frame(BODY, CHANNEL, out);
        out.extend_from_slice(part);
        end_frame(start, out);
    }
}

fn method(channel: u16, (class, number): (u16, u16), arguments: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let start = begin_frame(METHOD, channel, &mut out);
    out.extend_from_slice(&class.to_be_bytes());
    out.extend_from_slice(&number.to_be_bytes());
    out.extend_from_slice(arguments);
    end_frame(start, &mut out);
    out
}

fn begin_frame(kind: u8, channel: u16, out: &mut Vec<u8>) -> usize {
    out.push(kind);
    out.extend_from_slice(&channel.to_be_bytes());
    out.extend_from_slice(&[0; 4]);
    out.len()
}

fn end_frame(start: usize, out: &mut Vec<u8>) {
    let length = (out.len() - start) as u32;
    out[start - 4..start].copy_from_slice(&length.to_be_bytes());
    out.push(END);
}

/// Names here have far fewer than 256 bytes.
fn put_short_string(out: &mut Vec<u8>, text: &str) {
    out.push(text.len() as u8);
    out.extend_from_slice(text.as_bytes());
}

fn put_long_string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_is_taken_once_it_is_complete() {
        let bytes = [channel_open(), declare_direct("feed")].concat();
        let first = channel_open().len();
        for cut in 0..first {
            assert_eq!(next_method(&mut &bytes[..cut]), Ok(None), "cut at {cut}");
        }
        let mut rest = bytes.as_slice();
        assert_eq!(next_method(&mut rest).unwrap().unwrap().id, (20, 10));
        assert_eq!(next_method(&mut rest).unwrap().unwrap().id, (40, 10));
        assert_eq!(rest, b"");
    }

    #[test]
    fn a_message_is_a_method_a_header_and_its_body() {
        let mut out = Vec::new();
        publish("feed", "user_1", &vec![b'x'; 150_000], &mut out);
        let mut kinds = Vec::new();
        let mut rest = out.as_slice();
        while let Some((head, tail)) = rest.split_first_chunk::<7>() {
            kinds.push(head[0]);
            let length = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
            assert_eq!(tail[length], END);
            rest = &tail[length + 1..];
        }
        assert_eq!(kinds, [METHOD, HEADER, BODY, BODY]);
    }

    #[test]
    fn a_close_says_why() {
        let mut arguments = vec![1, 0x94];
        put_short_string(&mut arguments, "NOT_FOUND - no exchange");
        let bytes = method(1, CHANNEL_CLOSE, &arguments);
        let close = next_method(&mut bytes.as_slice()).unwrap().unwrap();
        assert_eq!(close.reason(), "NOT_FOUND - no exchange");
    }

    #[test]
    fn who_does_not_speak_amqp_is_told() {
        assert!(next_method(&mut &b"HTTP\0\0\0\0\0\0\0\0\0\0"[..]).is_err());
    }
}
