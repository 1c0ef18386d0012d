//! STOMP over WebSocket.
//!
//! tungstenite's protocol machine is used without its tokio wrapper: that one keeps two wakers
//! on the heap for each connection, and lets nobody change the limits after the login.
//!
//! Data goes past its write buffer, which would stay as large as the largest message there ever
//! was, for as long as the connection lives. Its control frames go the same way as the data, so
//! that none comes in the middle of a frame.

use std::{
    io::{self, Read, Write},
    mem::MaybeUninit,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use sockjs_server::{Channel, ChannelError, Payload, Unfinished};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::{
    Error, Message, Utf8Bytes,
    error::{CapacityError, ProtocolError},
    protocol::{
        CloseFrame, Role, WebSocketConfig, WebSocketContext,
        frame::{FrameHeader, coding},
    },
};

use super::{
    outgoing::Outgoing,
    tcp::{READ_SIZE, poll_fill, poll_hang_up},
};
use crate::connection::FREE;

/// What tungstenite keeps for as long as the connection is, and takes at a time; more, and it is
/// larger for good. What was read beyond that, waits here until all of it is taken.
const READ_BUFFER: usize = 128;
/// Bytes of answers to pings that may wait for a client to read them.
const MOST_ANSWERS: usize = 4 * 1024;
/// Bytes that may come without a message before the connection hears of them, which counts them.
const MOST_UNTOLD: u16 = 4 * 1024;
/// The head of a control frame that a client sends.
const CONTROL_HEAD: usize = 6;
/// How much larger than a frame a message may be: several small frames can come in one, and the
/// decoder, which knows the words for a frame that is too large, shall see it first.
const MESSAGE_SLACK: usize = 16 * 1024;

/// A client on a WebSocket.
pub struct WebSocketLink<S> {
    stream: S,
    protocol: WebSocketContext,
    out: Outgoing,
    /// Read, and not taken by the protocol machine yet.
    unread: Option<Box<Bytes>>,
    /// In 32 bits, for there are many links; more counts as that.
    max_frame_size: u32,
    /// Whether the client's frames come in binary messages; it is answered in kind.
    is_binary: bool,
    stage: Stage,
    is_shut: bool,
    was_heard: bool,
    /// Whether there is room for all of an unfinished message.
    may_go_on: bool,
    /// About how many bytes of a message the protocol machine has, that is not whole yet.
    unfinished: u32,
    /// Bytes that were read and not told yet: few more than are read at a time, for before the next
    /// read they are told.
    came: u16,
    asking: Asking,
}

/// What became of the last ping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asking {
    /// There was none, or its answer has been told.
    Idle,
    /// It was sent.
    Asked,
    /// It was answered, which has not been told.
    Answered,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Open,
    /// The stream cannot be read on, but written.
    Unreadable,
    /// Our close frame is on its way; the client's is awaited.
    Closing,
    /// Nothing more is said.
    Closed,
}

impl<S> WebSocketLink<S> {
    /// A client on a stream that was upgraded; `received` came with the upgrade's request.
    pub fn new(stream: S, received: Bytes, max_frame_size: usize) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(0)
            .max_message_size(Some(max_frame_size.saturating_add(MESSAGE_SLACK)))
            .max_frame_size(Some(max_frame_size.saturating_add(MESSAGE_SLACK)));
        let protocol = WebSocketContext::new(Role::Server, Some(config));
        // Copied: it is a part of hyper's buffer of 8 KiB, which would live as long as this.
        let unread = (!received.is_empty()).then(|| Box::new(Bytes::copy_from_slice(&received)));
        Self {
            stream,
            protocol,
            out: Outgoing::default(),
            unread,
            max_frame_size: small(max_frame_size),
            is_binary: false,
            stage: Stage::Open,
            is_shut: false,
            was_heard: false,
            may_go_on: false,
            unfinished: 0,
            came: smaller(received.len()),
            asking: Asking::Idle,
        }
    }

    /// Takes a text to be written as [`Channel::send`] does, whatever the client speaks in.
    pub(crate) fn put_text(&mut self, text: &str) {
        self.put(Payload::text(text));
    }

    /// Whether the connection is to hear of what came, though it is no message: an answer to a ping
    /// that [`Channel::was_answered`] has not reported yet, or many bytes.
    pub(crate) fn has_news(&self) -> bool {
        self.asking == Asking::Answered || self.came >= MOST_UNTOLD
    }

    /// One message: as text, or as binary.
    fn put(&mut self, payload: Payload<'_>) {
        if matches!(self.stage, Stage::Closing | Stage::Closed) {
            return;
        }
        let data = if payload.is_text {
            coding::Data::Text
        } else {
            coding::Data::Binary
        };
        let header = FrameHeader {
            opcode: coding::OpCode::Data(data),
            ..FrameHeader::default()
        };
        let size = payload.size();
        let length = size as u64;
        self.out.reserve(header.len(length).saturating_add(size));
        // A buffer takes everything.
        let _ = header.format(length, &mut self.out);
        self.out.push(payload.head);
        self.out.push(payload.tail);
    }

    /// Whether the connection is to say first that there is room for the rest of a message.
    fn waits_for_room(&self) -> bool {
        !self.may_go_on && self.unfinished as usize >= FREE
    }

    /// A message was handed over.
    fn end_message(&mut self) {
        self.unfinished = 0;
        self.may_go_on = false;
    }

    fn machine<'a, 'b>(
        &'a mut self,
        context: &'a mut Context<'b>,
    ) -> (&'a mut WebSocketContext, Through<'a, 'b, S>) {
        let through = Through {
            stream: &mut self.stream,
            out: &mut self.out,
            unread: &mut self.unread,
            was_heard: &mut self.was_heard,
            may_go_on: self.may_go_on,
            unfinished: &mut self.unfinished,
            came: &mut self.came,
            context,
        };
        (&mut self.protocol, through)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocketLink<S> {
    fn poll_message(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, ChannelError>> {
        loop {
            let read = self.poll_machine(context);
            // The machine answers pings and closes by itself: one write for all that was read.
            let flushed = match self.out.pending() {
                0 => Poll::Ready(Ok(())),
                _ => self.out.poll_flush(&mut self.stream, context),
            };
            match (read, flushed) {
                // What was read comes before an error, which comes again; and so does the rest of a
                // message that waits for its room.
                (Some(read @ Poll::Ready(Ok(Some(_)))), _) => return read,
                (Some(Poll::Pending), Poll::Ready(Err(_))) if self.waits_for_room() => {
                    return Poll::Pending;
                }
                (Some(_), Poll::Ready(Err(error))) => {
                    self.stage = Stage::Closed;
                    return Poll::Ready(Err(error.into()));
                }
                (Some(read), _) => return read,
                // A client that does not read the answers is not read, so that they cannot pile up.
                (None, Poll::Pending) if self.out.pending() >= MOST_ANSWERS => {
                    return Poll::Pending;
                }
                // One that is gone needs none; but what it sent behind its pings is read.
                (None, _) => {}
            }
        }
    }

    /// The next message, or nothing for now; `None`: first the answers have to be written.
    fn poll_machine(
        &mut self,
        context: &mut Context<'_>,
    ) -> Option<Poll<Result<Option<Bytes>, ChannelError>>> {
        loop {
            let (protocol, mut through) = self.machine(context);
            match protocol.read(&mut through) {
                Ok(Message::Text(text)) => {
                    // Libraries send heart-beats as text, whatever their frames are.
                    if !is_heartbeat(text.as_bytes()) {
                        self.is_binary = false;
                    }
                    self.end_message();
                    return Some(Poll::Ready(Ok(Some(text.into()))));
                }
                Ok(Message::Binary(bytes)) => {
                    if !is_heartbeat(&bytes) {
                        self.is_binary = true;
                    }
                    self.end_message();
                    return Some(Poll::Ready(Ok(Some(bytes))));
                }
                Ok(control) => {
                    // It may come in the middle of a message.
                    let size = CONTROL_HEAD.saturating_add(control.len());
                    self.unfinished = self.unfinished.saturating_sub(small(size));
                    // Some programs send pongs that nobody asked for.
                    if matches!(control, Message::Pong(_)) && self.asking == Asking::Asked {
                        self.asking = Asking::Answered;
                        return Some(Poll::Ready(Ok(Some(Bytes::new()))));
                    }
                    if self.out.pending() >= MOST_ANSWERS {
                        return None;
                    }
                }
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Some(match self.has_news() {
                        true => Poll::Ready(Ok(Some(Bytes::new()))),
                        false => Poll::Pending,
                    });
                }
                Err(Error::ConnectionClosed | Error::AlreadyClosed) => {
                    self.stage = Stage::Closed;
                    return Some(Poll::Ready(Ok(None)));
                }
                Err(error) => {
                    self.stage = Stage::Unreadable;
                    let error = broken(error, self.max_frame_size as usize);
                    return Some(Poll::Ready(Err(error)));
                }
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Channel for WebSocketLink<S> {
    fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, ChannelError>> {
        if self.stage != Stage::Open {
            return Poll::Ready(Ok(None));
        }
        self.poll_message(context)
    }

    /// A client that speaks text is answered in text where that is possible: browsers drop a
    /// connection on which a text message is not UTF-8.
    fn send(&mut self, frame: Payload<'_>) {
        self.put(Payload {
            is_text: frame.is_text && !self.is_binary,
            ..frame
        });
    }

    fn was_heard(&mut self) -> bool {
        std::mem::take(&mut self.was_heard)
    }

    fn bytes_read(&mut self) -> Option<usize> {
        Some(std::mem::take(&mut self.came).into())
    }

    fn unfinished(&self) -> Unfinished {
        Unfinished {
            received: self.unfinished as usize,
            most: (self.max_frame_size as usize).saturating_add(MESSAGE_SLACK),
        }
    }

    fn go_on(&mut self) {
        self.may_go_on = true;
    }

    fn has_pings(&self) -> bool {
        true
    }

    fn ping(&mut self) {
        if matches!(self.stage, Stage::Closing | Stage::Closed) {
            return;
        }
        self.asking = Asking::Asked;
        let header = FrameHeader {
            opcode: coding::OpCode::Control(coding::Control::Ping),
            ..FrameHeader::default()
        };
        // A buffer takes everything.
        let _ = header.format(0, &mut self.out);
    }

    fn was_answered(&mut self) -> bool {
        let was_answered = self.asking == Asking::Answered;
        if was_answered {
            self.asking = Asking::Idle;
        }
        was_answered
    }

    fn pending(&self) -> usize {
        self.out.pending()
    }

    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<Result<(), ChannelError>> {
        self.out
            .poll_flush(&mut self.stream, context)
            .map_err(ChannelError::Io)
    }

    fn set_max_message_size(&mut self, size: usize) {
        self.max_frame_size = small(size);
        let size = Some(size.saturating_add(MESSAGE_SLACK));
        self.protocol.set_config(|config| {
            config.max_message_size = size;
            config.max_frame_size = size;
        });
    }

    fn poll_close(&mut self, context: &mut Context<'_>, code: u16, reason: &str) -> Poll<()> {
        if matches!(self.stage, Stage::Open | Stage::Unreadable) {
            let frame = CloseFrame {
                code: coding::CloseCode::from(code),
                reason: Utf8Bytes::from(reason),
            };
            // What still comes is read, and dropped.
            self.may_go_on = true;
            self.protocol.set_config(|config| {
                config.max_message_size = Some(FREE);
                config.max_frame_size = Some(FREE);
            });
            let (protocol, mut through) = self.machine(context);
            let closing = protocol.close(&mut through, Some(frame));
            self.stage = match closing {
                Ok(()) if self.stage == Stage::Open => Stage::Closing,
                _ => Stage::Closed,
            };
        }
        let flushed = self.out.poll_flush(&mut self.stream, context);
        while self.stage == Stage::Closing {
            // What is dropped counts for nobody.
            self.came = 0;
            let (protocol, mut through) = self.machine(context);
            match protocol.read(&mut through) {
                Ok(_) => {}
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    // After so many bytes of one message the stream was not asked, and wakes nobody.
                    // Asked again and again, it lets others have their turn by itself.
                    if self.came < MOST_UNTOLD {
                        return Poll::Pending;
                    }
                }
                Err(_) => self.stage = Stage::Closed,
            }
        }
        if ready!(flushed).is_err() {
            return Poll::Ready(());
        }
        poll_hang_up(&mut self.stream, &mut self.is_shut, context)
    }
}

/// Whether a message has only line ends, so that it says nothing about how its client's frames come.
fn is_heartbeat(message: &[u8]) -> bool {
    message.iter().all(|byte| matches!(byte, b'\r' | b'\n'))
}

fn small(size: usize) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX)
}

fn smaller(size: usize) -> u16 {
    u16::try_from(size).unwrap_or(u16::MAX)
}

fn broken(error: Error, limit: usize) -> ChannelError {
    match error {
        Error::Io(error) => ChannelError::Io(error),
        Error::Capacity(CapacityError::MessageTooLong { .. }) => ChannelError::TooLong { limit },
        // A client that is gone: its battery's fault, or its network's, but no rule's.
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
            ChannelError::Io(io::ErrorKind::ConnectionReset.into())
        }
        Error::Utf8(_) => ChannelError::NotUtf8,
        other => ChannelError::Violation(other.to_string().into()),
    }
}

/// A stream as the protocol machine wants it: to read what is not there yet is `WouldBlock`, and
/// the task is woken when it is; what the machine writes is put where the data is.
struct Through<'a, 'b, S> {
    stream: &'a mut S,
    out: &'a mut Outgoing,
    unread: &'a mut Option<Box<Bytes>>,
    context: &'a mut Context<'b>,
    was_heard: &'a mut bool,
    may_go_on: bool,
    unfinished: &'a mut u32,
    came: &'a mut u16,
}

impl<S> Through<'_, '_, S> {
    /// The machine has taken so much.
    fn took(&mut self, count: usize) {
        *self.unfinished = self.unfinished.saturating_add(small(count));
    }
}

impl<S: AsyncRead + Unpin> Read for Through<'_, '_, S> {
    /// Reads the stream into a buffer on the stack, since the machine's own is small: that would
    /// be many calls of the system for a long message, and one more for each that fills it, to see
    /// whether there is more.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.may_go_on && *self.unfinished as usize >= FREE {
            // Until the connection says otherwise.
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if let Some(unread) = self.unread {
            let count = (&unread[..]).read(buffer)?;
            unread.advance(count);
            if unread.is_empty() {
                *self.unread = None;
            }
            self.took(count);
            return Ok(count);
        }
        if *self.came >= MOST_UNTOLD {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut bytes = [MaybeUninit::uninit(); READ_SIZE];
        let mut space = ReadBuf::uninit(&mut bytes);
        let Poll::Ready(outcome) = poll_fill(self.stream, self.context, &mut space) else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        outcome?;
        let mut rest = space.filled();
        *self.was_heard |= !rest.is_empty();
        *self.came = self.came.saturating_add(smaller(rest.len()));
        let count = rest.read(buffer)?;
        if !rest.is_empty() {
            *self.unread = Some(Box::new(Bytes::copy_from_slice(rest)));
        }
        self.took(count);
        Ok(count)
    }
}

impl<S> Write for Through<'_, '_, S> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.out.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
