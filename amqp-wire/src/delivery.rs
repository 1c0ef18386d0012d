//! Messages, and how they come together from their frames.

use bytes::Bytes;

use crate::{
    Malformed, Properties,
    frame::{Frame, Kind},
    scan::Scan,
};

/// A message that the broker delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery<'a> {
    /// Its number in acknowledgements; grows within a channel.
    pub tag: u64,
    /// Somebody may have seen it before.
    pub redelivered: bool,
    /// The exchange that it was published to.
    pub exchange: &'a [u8],
    /// The routing key that it was published with.
    pub routing_key: &'a [u8],
    /// The properties as they came; [`Delivery::properties`] reads them.
    pub raw_properties: &'a [u8],
    /// The body.
    pub body: Body,
}

/// The body of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// All of it, in memory of its own.
    Whole(Bytes),
    /// It was longer than allowed, and was thrown away as it came; its length.
    TooLarge(u64),
}

impl<'a> Delivery<'a> {
    /// Reads the properties.
    #[must_use]
    pub fn properties(&self) -> Properties<'a> {
        Properties::parse(self.raw_properties)
    }
}

/// The message that is coming together on one channel. Its memory is used again for the next.
#[derive(Debug, Default)]
pub(crate) struct Assembly {
    stage: Stage,
    tag: u64,
    redelivered: bool,
    /// Exchange, routing key and properties, one after the other.
    head: Vec<u8>,
    exchange_end: usize,
    key_end: usize,
    size: u64,
    /// `None` if it is too large, and only counted.
    body: Option<Vec<u8>>,
}

#[derive(Debug, Default)]
enum Stage {
    /// Between messages.
    #[default]
    Idle,
    /// The content header is to come.
    Header,
    /// So many bytes of the body are to come.
    Body { left: u64 },
}

/// The capacity that a large head may leave behind to be used again.
const KEEP: usize = 16 << 10;

/// Properties and headers beyond these bytes are left out. It is far more than the 128 KiB that
/// RabbitMQ takes in a frame, unless it is configured to more.
const MAX_PROPERTIES: usize = 1 << 20;

/// The fixed beginning of a content header: a class, a weight, and the body's length.
pub(crate) const HEADER_FIXED: usize = 12;

/// Memory that is set aside for a body before it is there: a header alone, which may lie, costs
/// no more.
const AT_ONCE: usize = 1 << 20;

impl Assembly {
    pub(crate) fn is_idle(&self) -> bool {
        matches!(self.stage, Stage::Idle)
    }

    /// The arguments of `basic.deliver`.
    pub(crate) fn start(&mut self, mut arguments: Scan<'_>, channel: u16) -> Result<(), Malformed> {
        let parsed = (|| {
            let _consumer = arguments.short_text()?;
            let tag = arguments.long_long()?;
            let redelivered = arguments.octet()? & 1 != 0;
            let (exchange, key) = (arguments.short_text()?, arguments.short_text()?);
            Some((tag, redelivered, exchange, key))
        })();
        let Some((tag, redelivered, exchange, key)) = parsed else {
            let what = "a delivery";
            return Err(Malformed::CutOff { what, channel });
        };
        if self.head.capacity() > KEEP {
            self.head = Vec::new();
        }
        self.head.clear();
        self.head.extend_from_slice(exchange);
        self.exchange_end = self.head.len();
        self.head.extend_from_slice(key);
        self.key_end = self.head.len();
        (self.tag, self.redelivered) = (tag, redelivered);
        self.stage = Stage::Header;
        Ok(())
    }

    /// Adds a content header or a part of a body. Returns true if the message is whole now.
    pub(crate) fn add(&mut self, frame: Frame<'_>, max_body: u64) -> Result<bool, Malformed> {
        let channel = frame.channel;
        match (&self.stage, frame.kind) {
            (Stage::Header, Kind::Header) => {
                self.start_header(frame.payload, channel, max_body)?;
                Ok(self.end_header())
            }
            (Stage::Body { left }, Kind::Body) => {
                let count = u64::try_from(frame.payload.len()).unwrap_or(u64::MAX);
                let Some(left) = left.checked_sub(count) else {
                    let what = "more of a body than was announced";
                    return Err(Malformed::OutOfPlace { what, channel });
                };
                if let Some(body) = &mut self.body {
                    body.extend_from_slice(frame.payload);
                }
                Ok(self.expect(left))
            }
            (_, Kind::Header) => Err(header_out_of_place(channel)),
            (_, _) => {
                let what = "a body";
                Err(Malformed::OutOfPlace { what, channel })
            }
        }
    }

    /// The first part of a content header, with at least [`HEADER_FIXED`] bytes.
    pub(crate) fn start_header(
        &mut self,
        part: &[u8],
        channel: u16,
        max_body: u64,
    ) -> Result<(), Malformed> {
        if !matches!(self.stage, Stage::Header) {
            return Err(header_out_of_place(channel));
        }
        let mut scan = Scan(part);
        let parsed = (|| {
            let _class = scan.short()?;
            let _weight = scan.short()?;
            scan.long_long()
        })();
        let Some(size) = parsed else {
            return Err(Malformed::CutOff {
                what: "a content header",
                channel,
            });
        };
        self.add_properties(scan.0);
        self.size = size;
        self.body = (size <= max_body).then(|| {
            let size = usize::try_from(size).unwrap_or(usize::MAX);
            Vec::with_capacity(size.min(AT_ONCE))
        });
        Ok(())
    }

    /// A further part of a content header.
    pub(crate) fn add_properties(&mut self, part: &[u8]) {
        let had = self.head.len().saturating_sub(self.key_end);
        let room = MAX_PROPERTIES.saturating_sub(had).min(part.len());
        self.head
            .extend_from_slice(part.get(..room).unwrap_or_default());
    }

    /// The content header is complete. Returns true if the message is whole now.
    pub(crate) fn end_header(&mut self) -> bool {
        self.expect(self.size)
    }

    fn expect(&mut self, left: u64) -> bool {
        self.stage = match left {
            0 => Stage::Idle,
            left => Stage::Body { left },
        };
        left == 0
    }

    /// The message, once it is whole.
    pub(crate) fn finish(&mut self) -> Delivery<'_> {
        let body = self.body.take().map(|mut body| {
            body.shrink_to_fit();
            Body::Whole(body.into())
        });
        let (exchange, rest) = self
            .head
            .split_at_checked(self.exchange_end)
            .unwrap_or_default();
        let key = self.key_end.saturating_sub(self.exchange_end);
        let (routing_key, raw_properties) = rest.split_at_checked(key).unwrap_or_default();
        Delivery {
            tag: self.tag,
            redelivered: self.redelivered,
            exchange,
            routing_key,
            raw_properties,
            body: body.unwrap_or(Body::TooLarge(self.size)),
        }
    }
}

fn header_out_of_place(channel: u16) -> Malformed {
    let what = "a content header";
    Malformed::OutOfPlace { what, channel }
}
