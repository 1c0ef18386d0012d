//! From the broker's bytes to methods and messages.

use crate::{
    Malformed, Method,
    delivery::{Assembly, Delivery, HEADER_FIXED},
    frame::{self, AROUND, END, First, Frame, HEAD, Kind},
    method::{self, DELIVER},
};

/// Limits for the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The length of a frame, with its head and end. A content header may be longer: RabbitMQ
    /// sends it even if it exceeds the agreed length.
    pub frame_max: u32,
    /// The highest number of a channel.
    pub channel_max: u16,
    /// The length of a message's body; of a longer one, only the length is told.
    pub max_body: u64,
}

/// An event from the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A sign of life.
    Heartbeat,
    /// The broker says something.
    Method {
        /// On which channel; 0 is the connection itself.
        channel: u16,
        /// The method.
        method: Method<'a>,
    },
    /// A message, with all its body.
    Delivery {
        /// On which channel.
        channel: u16,
        /// The message.
        delivery: Delivery<'a>,
    },
}

/// Takes bytes as they come, and gives methods and messages.
///
/// Read into [`Decoder::space`], tell the length by [`Decoder::filled`], then call
/// [`Decoder::poll`] until it returns `None`. Then there is always space.
///
/// It holds one buffer, of the longest frame, or 64 KiB if that is more; and for each
/// channel the message that is coming together.
#[derive(Debug)]
pub struct Decoder {
    limits: Limits,
    buffer: Vec<u8>,
    /// The part of the buffer that is filled and not used up.
    start: usize,
    end: usize,
    /// Messages in the making, by the channel's number.
    assemblies: Vec<Assembly>,
    /// A content header that does not fit into the buffer, and is taken as it comes.
    long: Option<LongHeader>,
}

#[derive(Debug)]
struct LongHeader {
    channel: u16,
    /// So many bytes are to come, and then the frame's end.
    left: usize,
}

/// The least that the decoder takes at a time. Enough to make the call to the system cheap for
/// each of many small messages.
const READ: usize = 64 << 10;

/// A frame by its kind; it ends where the next one starts.
enum Step {
    Heartbeat,
    Method { channel: u16, length: usize },
    Message { channel: u16 },
    Part,
}

impl Decoder {
    /// A decoder with these limits.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let mut decoder = Self {
            limits,
            buffer: Vec::new(),
            start: 0,
            end: 0,
            assemblies: Vec::new(),
            long: None,
        };
        decoder.limit(limits);
        decoder
    }

    /// From now on, these limits hold.
    pub fn limit(&mut self, limits: Limits) {
        self.limits = limits;
        let frame = usize::try_from(limits.frame_max).unwrap_or(usize::MAX);
        if self.buffer.len() < frame.max(READ) {
            self.buffer.resize(frame.max(READ), 0);
        }
    }

    /// The space for the next bytes; never empty after [`Decoder::poll`] has returned `None`.
    pub fn space(&mut self) -> &mut [u8] {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end = self.end.saturating_sub(self.start);
            self.start = 0;
        }
        self.buffer.get_mut(self.end..).unwrap_or_default()
    }

    /// So many bytes were put into [`Decoder::space`].
    pub fn filled(&mut self, count: usize) {
        self.end = self.end.saturating_add(count).min(self.buffer.len());
    }

    /// The next event, if all of it is there.
    ///
    /// # Errors
    /// The broker breaks the protocol or the limits. The connection has to be closed; later bytes
    /// are not looked at.
    pub fn poll(&mut self) -> Result<Option<Event<'_>>, Malformed> {
        loop {
            let Some(step) = self.step()? else {
                return Ok(None);
            };
            return Ok(Some(match step {
                Step::Part => continue,
                Step::Heartbeat => Event::Heartbeat,
                Step::Method { channel, length } => {
                    // The frame's end lies between its payload and the next frame.
                    let end = self.start.saturating_sub(1);
                    let payload = self.buffer.get(end.saturating_sub(length)..end);
                    let method = Method::parse(payload.unwrap_or_default(), channel)?;
                    Event::Method { channel, method }
                }
                Step::Message { channel } => Event::Delivery {
                    channel,
                    delivery: self.assembly(channel)?.finish(),
                },
            }));
        }
    }

    /// Uses up one frame.
    fn step(&mut self) -> Result<Option<Step>, Malformed> {
        if self.long.is_some() {
            return self.go_on_with_header();
        }
        let Self {
            limits,
            buffer,
            start,
            end,
            assemblies,
            ..
        } = self;
        let input = buffer.get(*start..*end).unwrap_or_default();
        let max = limits.frame_max.saturating_sub(AROUND);
        let frame = match frame::first(input, max)? {
            Some(First::Whole(frame)) => frame,
            Some(First::LongHeader { channel, size }) => return self.start_header(channel, size),
            None => return Ok(None),
        };
        let Frame {
            kind,
            channel,
            payload,
        } = frame;
        let around = HEAD.saturating_add(1);
        *start = start.saturating_add(payload.len()).saturating_add(around);
        if channel > limits.channel_max {
            return Err(Malformed::Channel(channel));
        }
        Ok(Some(match kind {
            Kind::Heartbeat => Step::Heartbeat,
            Kind::Header | Kind::Body => {
                let assembly = of_channel(assemblies, channel)?;
                if assembly.add(frame, limits.max_body)? {
                    Step::Message { channel }
                } else {
                    Step::Part
                }
            }
            Kind::Method => {
                let (number, arguments) = method::parts(payload, channel)?;
                if number == DELIVER {
                    let assembly = message_may_start(assemblies, channel)?;
                    assembly.start(arguments, channel)?;
                    Step::Part
                } else {
                    if channel > 0 {
                        message_may_start(assemblies, channel)?;
                    }
                    let length = payload.len();
                    Step::Method { channel, length }
                }
            }
        }))
    }

    /// Takes the beginning of a content header that is longer than the buffer may be.
    fn start_header(&mut self, channel: u16, size: u32) -> Result<Option<Step>, Malformed> {
        if channel > self.limits.channel_max {
            return Err(Malformed::Channel(channel));
        }
        let after = self.start.saturating_add(HEAD);
        let fixed_end = after.saturating_add(HEADER_FIXED);
        if fixed_end > self.end {
            return Ok(None);
        }
        let fixed = self.buffer.get(after..fixed_end).unwrap_or_default();
        of_channel(&mut self.assemblies, channel)?.start_header(
            fixed,
            channel,
            self.limits.max_body,
        )?;
        self.start = fixed_end;
        let left = usize::try_from(size)
            .unwrap_or(usize::MAX)
            .saturating_sub(HEADER_FIXED);
        self.long = Some(LongHeader { channel, left });
        Ok(Some(Step::Part))
    }

    /// Takes what is there of it.
    fn go_on_with_header(&mut self) -> Result<Option<Step>, Malformed> {
        let input = self.buffer.get(self.start..self.end).unwrap_or_default();
        let Some(LongHeader { channel, left }) = &mut self.long else {
            return Ok(None);
        };
        let channel = *channel;
        let assembly = of_channel(&mut self.assemblies, channel)?;
        let (part, rest) = input.split_at(input.len().min(*left));
        assembly.add_properties(part);
        *left = left.saturating_sub(part.len());
        self.start = self.start.saturating_add(part.len());
        let Some(end) = rest.first() else {
            return Ok(None);
        };
        if *end != END {
            return Err(Malformed::FrameEnd(channel));
        }
        self.start = self.start.saturating_add(1);
        self.long = None;
        Ok(Some(if assembly.end_header() {
            Step::Message { channel }
        } else {
            Step::Part
        }))
    }

    fn assembly(&mut self, channel: u16) -> Result<&mut Assembly, Malformed> {
        of_channel(&mut self.assemblies, channel)
    }
}

/// The assembly of a channel, on which no message may be half there.
fn message_may_start(
    assemblies: &mut Vec<Assembly>,
    channel: u16,
) -> Result<&mut Assembly, Malformed> {
    let assembly = of_channel(assemblies, channel)?;
    if !assembly.is_idle() {
        let what = "a method within a message";
        return Err(Malformed::OutOfPlace { what, channel });
    }
    Ok(assembly)
}

fn of_channel(assemblies: &mut Vec<Assembly>, channel: u16) -> Result<&mut Assembly, Malformed> {
    if channel == 0 {
        let what = "a message";
        return Err(Malformed::OutOfPlace { what, channel });
    }
    let index = usize::from(channel);
    if assemblies.len() <= index {
        assemblies.resize_with(index.saturating_add(1), Assembly::default);
    }
    assemblies.get_mut(index).ok_or(Malformed::Channel(channel))
}
