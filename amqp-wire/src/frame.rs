//! Frames: a head of seven bytes, a payload, and an end.

use crate::{Malformed, scan::Scan};

/// Bytes before the payload.
pub(crate) const HEAD: usize = 7;
/// Bytes around the payload.
pub(crate) const AROUND: u32 = 8;
/// The last byte of each frame.
pub(crate) const END: u8 = 0xCE;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Method,
    Header,
    Body,
    Heartbeat,
}

/// One frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame<'a> {
    pub(crate) kind: Kind,
    pub(crate) channel: u16,
    pub(crate) payload: &'a [u8],
}

/// The beginning of the bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum First<'a> {
    /// A frame that is all there.
    Whole(Frame<'a>),
    /// The head of a content header that is longer than was agreed on. RabbitMQ sends such: it
    /// cannot divide a header among frames, as it does with a body, and the header was taken from
    /// somebody who had agreed on more, or has grown since, by what it adds to dead letters.
    LongHeader { channel: u16, size: u32 },
}

/// The first frame of `input`, if there is enough of it. A payload may have `max` bytes; a longer
/// one is an error as soon as the frame's head is there.
pub(crate) fn first(input: &[u8], max: u32) -> Result<Option<First<'_>>, Malformed> {
    let mut scan = Scan(input);
    let Some(kind) = scan.octet() else {
        return Ok(None);
    };
    let kind = match kind {
        1 => Kind::Method,
        2 => Kind::Header,
        3 => Kind::Body,
        8 => Kind::Heartbeat,
        other => return Err(Malformed::Kind(other)),
    };
    let (Some(channel), Some(size)) = (scan.short(), scan.long()) else {
        return Ok(None);
    };
    if size > max && kind == Kind::Header {
        return Ok(Some(First::LongHeader { channel, size }));
    }
    if size > max {
        return Err(Malformed::FrameSize { size, max });
    }
    let payload = usize::try_from(size).ok().and_then(|size| scan.take(size));
    let (Some(payload), Some(end)) = (payload, scan.octet()) else {
        return Ok(None);
    };
    if end != END {
        return Err(Malformed::FrameEnd(channel));
    }
    Ok(Some(First::Whole(Frame {
        kind,
        channel,
        payload,
    })))
}
