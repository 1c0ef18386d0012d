//! The methods of a consumer or a publisher: each function appends to `out`.

use crate::frame::{AROUND, END};

/// The kinds of frames.
const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;

/// A text of at most 255 bytes, which is all that AMQP has room for in most places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Short<'a>(&'a str);

impl<'a> Short<'a> {
    /// The text, if it is short enough.
    #[must_use]
    pub fn new(text: &'a str) -> Option<Self> {
        u8::try_from(text.len()).is_ok().then_some(Self(text))
    }

    /// As much of the text as is allowed, for a human to read.
    #[must_use]
    pub fn cut(text: &'a str) -> Self {
        let end = text.floor_char_boundary(u8::MAX.into());
        Self(text.split_at_checked(end).unwrap_or_default().0)
    }
}

/// `connection.start-ok`, with the login by a mechanism of SASL: the name of the mechanism, and its
/// response. `properties` is what the client says of itself.
pub fn start_ok(out: &mut Vec<u8>, properties: &Fields, mechanism: Short<'_>, response: &[u8]) {
    method(out, 0, (10, 11), |out| {
        long_text(out, &properties.0);
        short_text(out, mechanism);
        long_text(out, response);
        short_text(out, Short("en_US"));
    });
}

/// `connection.update-secret`, an extension of RabbitMQ: the login goes on with another secret, for
/// this reason, which stands in the broker's log.
pub fn update_secret(out: &mut Vec<u8>, secret: &[u8], reason: Short<'_>) {
    method(out, 0, (10, 70), |out| {
        long_text(out, secret);
        short_text(out, reason);
    });
}

/// `connection.tune-ok`: the agreed limits.
pub fn tune_ok(out: &mut Vec<u8>, channel_max: u16, frame_max: u32, heartbeat: u16) {
    method(out, 0, (10, 31), |out| {
        out.extend(channel_max.to_be_bytes());
        out.extend(frame_max.to_be_bytes());
        out.extend(heartbeat.to_be_bytes());
    });
}

/// `connection.open`.
pub fn open(out: &mut Vec<u8>, vhost: Short<'_>) {
    method(out, 0, (10, 40), |out| {
        short_text(out, vhost);
        out.extend([0, 0]);
    });
}

/// `connection.close`.
pub fn close(out: &mut Vec<u8>, code: u16, text: Short<'_>) {
    method(out, 0, (10, 50), |out| close_arguments(out, code, text));
}

/// `connection.close-ok`.
pub fn close_ok(out: &mut Vec<u8>) {
    method(out, 0, (10, 51), |_| {});
}

/// `channel.open`.
pub fn channel_open(out: &mut Vec<u8>, channel: u16) {
    method(out, channel, (20, 10), |out| out.push(0));
}

/// `channel.close`.
pub fn channel_close(out: &mut Vec<u8>, channel: u16, code: u16, text: Short<'_>) {
    method(out, channel, (20, 40), |out| {
        close_arguments(out, code, text)
    });
}

/// `channel.close-ok`.
pub fn channel_close_ok(out: &mut Vec<u8>, channel: u16) {
    method(out, channel, (20, 41), |_| {});
}

/// `exchange.declare` of a durable exchange.
pub fn declare_exchange(out: &mut Vec<u8>, channel: u16, exchange: Short<'_>, kind: Short<'_>) {
    const DURABLE: u8 = 0b10;
    method(out, channel, (40, 10), |out| {
        out.extend([0, 0]);
        short_text(out, exchange);
        short_text(out, kind);
        out.push(DURABLE);
        long_text(out, b"");
    });
}

/// `basic.publish` of a transient message, with its header and its body. No frame is longer than
/// `frame_max` bytes.
pub fn publish(
    out: &mut Vec<u8>,
    channel: u16,
    exchange: Short<'_>,
    key: Short<'_>,
    body: &[u8],
    frame_max: u32,
) {
    method(out, channel, (60, 40), |out| {
        out.extend([0, 0]);
        short_text(out, exchange);
        short_text(out, key);
        out.push(0);
    });
    frame(out, HEADER, channel, |out| {
        out.extend([0, 60, 0, 0]);
        out.extend(u64::try_from(body.len()).unwrap_or(u64::MAX).to_be_bytes());
        // The flag of the delivery mode, and the mode itself.
        out.extend([0x10, 0, 1]);
    });
    let most = usize::try_from(frame_max.saturating_sub(AROUND)).unwrap_or(usize::MAX);
    for part in body.chunks(most.max(1)) {
        frame(out, BODY, channel, |out| out.extend_from_slice(part));
    }
}

/// `basic.qos`: so many messages may be without acknowledgement; 0 is no limit.
pub fn qos(out: &mut Vec<u8>, channel: u16, prefetch: u16) {
    method(out, channel, (60, 10), |out| {
        out.extend([0; 4]);
        out.extend(prefetch.to_be_bytes());
        out.push(0);
    });
}

/// `basic.consume`, with acknowledgements; `exclusive`: nobody else may consume the queue.
pub fn consume(
    out: &mut Vec<u8>,
    channel: u16,
    queue: Short<'_>,
    exclusive: bool,
    arguments: &Fields,
) {
    method(out, channel, (60, 20), |out| {
        out.extend([0, 0]);
        short_text(out, queue);
        // The broker makes up the consumer's tag; there is one a channel.
        short_text(out, Short(""));
        out.push(u8::from(exclusive) << 2);
        long_text(out, &arguments.0);
    });
}

/// `basic.ack` of a message; with `multiple`, also of all before it on the channel.
pub fn ack(out: &mut Vec<u8>, channel: u16, tag: u64, multiple: bool) {
    method(out, channel, (60, 80), |out| {
        out.extend(tag.to_be_bytes());
        out.push(multiple.into());
    });
}

/// A sign of life.
pub fn heartbeat(out: &mut Vec<u8>) {
    out.extend([8, 0, 0, 0, 0, 0, 0, END]);
}

/// A table's names and values, to be sent.
#[derive(Debug, Default)]
pub struct Fields(Vec<u8>);

impl Fields {
    /// The table with a text more.
    #[must_use]
    pub fn text(mut self, name: Short<'_>, value: &str) -> Self {
        short_text(&mut self.0, name);
        self.0.push(b'S');
        long_text(&mut self.0, value.as_bytes());
        self
    }

    /// The table with a whole number more.
    #[must_use]
    pub fn number(mut self, name: Short<'_>, value: i64) -> Self {
        short_text(&mut self.0, name);
        self.0.push(b'l');
        self.0.extend(value.to_be_bytes());
        self
    }

    /// The table with a point in time more, in seconds since 1970.
    #[must_use]
    pub fn timestamp(mut self, name: Short<'_>, seconds: u64) -> Self {
        short_text(&mut self.0, name);
        self.0.push(b'T');
        self.0.extend(seconds.to_be_bytes());
        self
    }

    /// The table with a switch more.
    #[must_use]
    pub fn switch(mut self, name: Short<'_>, value: bool) -> Self {
        short_text(&mut self.0, name);
        self.0.extend([b't', value.into()]);
        self
    }

    /// The table with a table more.
    #[must_use]
    pub fn table(mut self, name: Short<'_>, value: &Self) -> Self {
        short_text(&mut self.0, name);
        self.0.push(b'F');
        long_text(&mut self.0, &value.0);
        self
    }
}

fn close_arguments(out: &mut Vec<u8>, code: u16, text: Short<'_>) {
    out.extend(code.to_be_bytes());
    short_text(out, text);
    // No method is to blame.
    out.extend([0; 4]);
}

fn short_text(out: &mut Vec<u8>, Short(text): Short<'_>) {
    out.push(u8::try_from(text.len()).unwrap_or_default());
    out.extend(text.as_bytes());
}

/// A long text or a table.
fn long_text(out: &mut Vec<u8>, text: &[u8]) {
    out.extend(length(text.len()));
    out.extend(text);
}

/// A frame with a method in it.
fn method(
    out: &mut Vec<u8>,
    channel: u16,
    (class, number): (u16, u16),
    arguments: impl FnOnce(&mut Vec<u8>),
) {
    frame(out, METHOD, channel, |out| {
        out.extend(class.to_be_bytes());
        out.extend(number.to_be_bytes());
        arguments(out);
    });
}

fn frame(out: &mut Vec<u8>, kind: u8, channel: u16, payload: impl FnOnce(&mut Vec<u8>)) {
    out.push(kind);
    out.extend(channel.to_be_bytes());
    let size = out.len();
    out.extend([0; 4]);
    let start = out.len();
    payload(out);
    let length = length(out.len().saturating_sub(start));
    if let Some(size) = out.get_mut(size..start) {
        size.copy_from_slice(&length);
    }
    out.push(END);
}

/// A frame's payload is shorter than four bytes can say.
fn length(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes()
}
