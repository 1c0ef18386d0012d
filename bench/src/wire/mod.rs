//! The formats on the wire, as little of them as a load client needs (pure: no I/O, no clock).
//!
//! These are not Stentor's own codecs on purpose: a tool that measures and checks a server should
//! not share its mistakes, and a client with thousands of sockets must cost far less than what it
//! measures. AMQP is `amqp-wire`'s: RabbitMQ is at its other end, and would notice a mistake.

pub(crate) mod body;
pub(crate) mod dialect;
pub(crate) mod nats;
pub(crate) mod sockjs;
pub(crate) mod stomp;
pub(crate) mod websocket;

/// Has `read` take off what it can of what was `kept`, and of `bytes` behind it; keeps the rest. An empty
/// rest takes no memory: there are thousands of them.
///
/// # Errors
/// Those of `read`.
pub(crate) fn read_on<T, E>(
    kept: &mut Vec<u8>,
    bytes: &[u8],
    read: impl FnOnce(&mut &[u8]) -> Result<T, E>,
) -> Result<T, E> {
    let mut whole = std::mem::take(kept);
    if whole.is_empty() {
        let mut rest = bytes;
        let done = read(&mut rest)?;
        *kept = rest.to_vec();
        return Ok(done);
    }
    whole.extend_from_slice(bytes);
    let mut rest = whole.as_slice();
    let done = read(&mut rest)?;
    let used = whole.len() - rest.len();
    if used < whole.len() {
        whole.drain(..used);
        *kept = whole;
    }
    Ok(done)
}
