//! WebSockets: the trait that a server may implement for its own, and one that is ready to use.

use std::{
    io::{self, Read, Write},
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::{
    Error, Message, Utf8Bytes,
    error::{CapacityError, ProtocolError},
    protocol::{CloseFrame, Role, WebSocketConfig, WebSocketContext},
};

use crate::{Channel, ChannelError, Payload};

/// A WebSocket at the server's side, without SockJS's frames.
///
/// [`HyperSocket`] does for most. A server that counts memory by the byte, or whose connections are
/// of a type of their own, brings another, by [`SockJs::answer_with`](crate::SockJs::answer_with).
pub trait WebSocket: Channel + Sized {
    /// A socket on a connection that was upgraded. `None`: the connection is not of this kind.
    fn from_upgraded(upgraded: Upgraded, max_message_size: usize) -> Option<Self>;

    /// Takes one text message, whatever kind the client sends.
    fn send_text(&mut self, text: &str);

    /// Whether the application is to hear of what came, though it is no message: the answer to a ping
    /// that [`Channel::was_answered`] has not reported yet, or bytes that [`Channel::bytes_read`] has
    /// not.
    fn has_news(&self) -> bool;
}

/// Bytes that are read at a time.
const READ_BUFFER: usize = 4 * 1024;
/// The longest head of a frame that a server sends.
const FRAME_HEAD: usize = 10;

/// A WebSocket on any connection of hyper. It answers a client in the kind of message, text or
/// binary, that the client sent last.
pub struct HyperSocket {
    stream: TokioIo<Upgraded>,
    protocol: WebSocketContext,
    max_message_size: usize,
    /// About how many bytes were taken, and the stream has not; 0 only if all is written.
    pending: usize,
    is_binary: bool,
    was_heard: bool,
    asking: Asking,
    stage: Stage,
}

/// What became of the last ping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asking {
    /// There was none, or its answer was reported.
    Idle,
    /// It was sent.
    Asked,
    /// It was answered, which was not reported yet.
    Answered,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Open,
    /// The stream cannot be read on, but written: the machine stands in the middle of a frame.
    Unreadable,
    /// The close frame was taken; the client's is awaited, if it can be read.
    Closing {
        can_read: bool,
    },
    /// The protocol is over; the end of the stream is awaited.
    HangingUp {
        is_shut: bool,
    },
}

impl WebSocket for HyperSocket {
    fn from_upgraded(upgraded: Upgraded, max_message_size: usize) -> Option<Self> {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .max_message_size(Some(max_message_size))
            .max_frame_size(Some(max_message_size));
        Some(Self {
            stream: TokioIo::new(upgraded),
            protocol: WebSocketContext::new(Role::Server, Some(config)),
            max_message_size,
            pending: 0,
            is_binary: false,
            was_heard: false,
            asking: Asking::Idle,
            stage: Stage::Open,
        })
    }

    fn send_text(&mut self, text: &str) {
        self.put(Message::text(text));
    }

    fn has_news(&self) -> bool {
        self.asking == Asking::Answered
    }
}

impl HyperSocket {
    fn put(&mut self, message: Message) {
        if !matches!(self.stage, Stage::Open | Stage::Unreadable) {
            return;
        }
        let size = message.len().saturating_add(FRAME_HEAD);
        self.pending = self.pending.saturating_add(size);
        // It is queued all the same. An error comes again when the queue is written.
        let _ = self.protocol.write(&mut NotNow, message);
    }

    fn machine<'a, 'b>(
        &'a mut self,
        context: &'a mut Context<'b>,
    ) -> (&'a mut WebSocketContext, Through<'a, 'b>) {
        let through = Through {
            stream: &mut self.stream,
            pending: &mut self.pending,
            context,
        };
        (&mut self.protocol, through)
    }

    fn fault(&self, error: Error) -> ChannelError {
        match error {
            Error::Io(error) => ChannelError::Io(error),
            Error::Capacity(CapacityError::MessageTooLong { .. }) => ChannelError::TooLong {
                limit: self.max_message_size,
            },
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
                ChannelError::Io(io::ErrorKind::ConnectionReset.into())
            }
            Error::Utf8(_) => ChannelError::NotUtf8,
            other => ChannelError::Violation(other.to_string().into()),
        }
    }

    /// Ends our side of the stream, and drops the client's bytes until it ends its own: a system
    /// that closes a socket with bytes unread takes back the bytes that were written last.
    fn poll_hang_up(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.stage == (Stage::HangingUp { is_shut: false }) {
            if ready!(Pin::new(&mut self.stream).poll_shutdown(context)).is_err() {
                return Poll::Ready(());
            }
            self.stage = Stage::HangingUp { is_shut: true };
        }
        loop {
            let mut space = [MaybeUninit::uninit(); READ_BUFFER];
            let mut space = ReadBuf::uninit(&mut space);
            let read = ready!(Pin::new(&mut self.stream).poll_read(context, &mut space));
            if read.is_err() || space.filled().is_empty() {
                return Poll::Ready(());
            }
        }
    }
}

impl Channel for HyperSocket {
    fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, ChannelError>> {
        if self.stage == Stage::Unreadable {
            return Poll::Ready(Ok(None));
        }
        loop {
            let (protocol, mut through) = self.machine(context);
            let message = match protocol.read(&mut through) {
                Ok(message) => message,
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Poll::Pending;
                }
                Err(Error::ConnectionClosed | Error::AlreadyClosed) => {
                    return Poll::Ready(Ok(None));
                }
                Err(error) => {
                    self.stage = Stage::Unreadable;
                    return Poll::Ready(Err(self.fault(error)));
                }
            };
            self.was_heard = true;
            match message {
                Message::Text(text) => {
                    self.is_binary = false;
                    return Poll::Ready(Ok(Some(text.into())));
                }
                Message::Binary(bytes) => {
                    self.is_binary = true;
                    return Poll::Ready(Ok(Some(bytes)));
                }
                Message::Close(_) => return Poll::Ready(Ok(None)),
                // Some programs send pongs that answer no ping.
                Message::Pong(_) if self.asking == Asking::Asked => {
                    self.asking = Asking::Answered;
                    return Poll::Ready(Ok(Some(Bytes::new())));
                }
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    }

    /// Browsers close a connection on which a text message is not UTF-8, so other bytes go as
    /// binary.
    fn send(&mut self, message: Payload<'_>) {
        let whole = Bytes::from([message.head, message.tail].concat());
        let is_text = message.is_text && !self.is_binary;
        let text = is_text.then(|| Utf8Bytes::try_from(whole.clone()).ok());
        self.put(match text.flatten() {
            Some(text) => Message::Text(text),
            None => Message::Binary(whole),
        });
    }

    fn pending(&self) -> usize {
        self.pending
    }

    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<Result<(), ChannelError>> {
        let (protocol, mut through) = self.machine(context);
        match protocol.flush(&mut through) {
            Ok(()) | Err(Error::ConnectionClosed) => {}
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                return Poll::Pending;
            }
            Err(error) => return Poll::Ready(Err(self.fault(error))),
        }
        self.pending = 0;
        Poll::Ready(Ok(()))
    }

    fn poll_close(&mut self, context: &mut Context<'_>, code: u16, reason: &str) -> Poll<()> {
        if matches!(self.stage, Stage::Open | Stage::Unreadable) {
            let can_read = self.stage == Stage::Open;
            let frame = CloseFrame {
                code: code.into(),
                reason: reason.into(),
            };
            // It is queued; an error comes again below.
            let _ = self.protocol.close(&mut NotNow, Some(frame));
            self.stage = Stage::Closing { can_read };
        }
        if let Stage::Closing { can_read } = self.stage {
            if ready!(self.poll_flush(context)).is_err() {
                return Poll::Ready(());
            }
            // The client's messages are dropped until its close frame comes.
            if can_read {
                while let Some(_dropped) = ready!(self.poll_receive(context)).ok().flatten() {}
            }
            let _ = self.poll_flush(context);
            self.stage = Stage::HangingUp { is_shut: false };
        }
        self.poll_hang_up(context)
    }

    fn set_max_message_size(&mut self, size: usize) {
        self.max_message_size = size;
        self.protocol.set_config(|config| {
            config.max_message_size = Some(size);
            config.max_frame_size = Some(size);
        });
    }

    fn was_heard(&mut self) -> bool {
        std::mem::take(&mut self.was_heard)
    }

    fn has_pings(&self) -> bool {
        true
    }

    fn ping(&mut self) {
        self.asking = Asking::Asked;
        self.put(Message::Ping(Bytes::new()));
    }

    fn was_answered(&mut self) -> bool {
        let was_answered = self.asking == Asking::Answered;
        if was_answered {
            self.asking = Asking::Idle;
        }
        was_answered
    }
}

/// A stream as the protocol machine wants it: an operation that has to wait is `WouldBlock`, and
/// the task is woken when it can go on.
struct Through<'a, 'b> {
    stream: &'a mut TokioIo<Upgraded>,
    pending: &'a mut usize,
    context: &'a mut Context<'b>,
}

impl Read for Through<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut buffer = ReadBuf::new(buffer);
        let read = Pin::new(&mut *self.stream).poll_read(self.context, &mut buffer);
        blocking(read).map(|()| buffer.filled().len())
    }
}

impl Write for Through<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = blocking(Pin::new(&mut *self.stream).poll_write(self.context, bytes))?;
        *self.pending = left(*self.pending, written);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        blocking(Pin::new(&mut *self.stream).poll_flush(self.context))
    }
}

/// About how many bytes of `pending` are left when so many are written, those of the machine's own
/// answers among them: none only once all is flushed, so that nobody takes it for done before.
fn left(pending: usize, written: usize) -> usize {
    pending.saturating_sub(written).max(pending.min(1))
}

/// A stream that takes nothing for now, so that the machine queues.
struct NotNow;

impl Read for NotNow {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        blocking(Poll::Pending)
    }
}

impl Write for NotNow {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        blocking(Poll::Pending)
    }

    fn flush(&mut self) -> io::Result<()> {
        blocking(Poll::Pending)
    }
}

fn blocking<T>(outcome: Poll<io::Result<T>>) -> io::Result<T> {
    match outcome {
        Poll::Ready(outcome) => outcome,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client that reads slowly is told from one that does not read.
    #[test]
    fn what_is_pending_shrinks_as_it_is_written() {
        assert_eq!(left(1000, 100), 900);
        // Heads are shorter than they are counted for, and the machine answers by itself.
        assert_eq!(left(1000, 1000), 1);
        assert_eq!(left(1, 100), 1);
        assert_eq!(left(0, 100), 0);
    }
}
