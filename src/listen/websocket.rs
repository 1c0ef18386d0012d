//! STOMP over WebSocket.
//!
//! tungstenite's protocol machine is used without its tokio wrapper: that one keeps two wakers
//! on the heap for each connection, and lets nobody change the limits after the login.

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use stomp_session::CloseCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::{
    Error, Message, Utf8Bytes,
    error::CapacityError,
    protocol::{CloseFrame, Role, WebSocketConfig, WebSocketContext, frame::coding},
};

use super::tcp::poll_hang_up;
use crate::connection::{Link, LinkError};

/// Kept for as long as the connection is, so it is small; tungstenite reads no more at a time.
const READ_BUFFER: usize = 1024;
/// Messages are gathered up to this size before they are written.
const WRITE_BUFFER: usize = 32 * 1024;
/// How much larger than a frame a message may be: several small frames can come in one, and the
/// decoder, which knows the words for a frame that is too large, shall see it first.
const MESSAGE_SLACK: usize = 16 * 1024;

/// A client on a WebSocket.
pub struct WebSocketLink<S> {
    stream: S,
    protocol: WebSocketContext,
    /// Taken, and not given to the protocol machine yet.
    queue: VecDeque<Vec<u8>>,
    pending: usize,
    max_frame_size: usize,
    /// Whether the client speaks in binary messages; it is answered in kind.
    is_binary: bool,
    stage: Stage,
    is_shut: bool,
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
            .write_buffer_size(WRITE_BUFFER)
            .max_message_size(Some(max_frame_size.saturating_add(MESSAGE_SLACK)))
            .max_frame_size(Some(max_frame_size.saturating_add(MESSAGE_SLACK)));
        let protocol =
            WebSocketContext::from_partially_read(received.into(), Role::Server, Some(config));
        Self {
            stream,
            protocol,
            queue: VecDeque::new(),
            pending: 0,
            max_frame_size,
            is_binary: false,
            stage: Stage::Open,
            is_shut: false,
        }
    }

    /// A client that speaks text is answered in text where that is possible: browsers drop a
    /// connection on which a text message is not UTF-8.
    fn message(is_binary: bool, frame: Vec<u8>) -> Message {
        if is_binary {
            return Message::Binary(frame.into());
        }
        match String::from_utf8(frame) {
            Ok(text) => Message::Text(text.into()),
            Err(error) => Message::Binary(error.into_bytes().into()),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Link for WebSocketLink<S> {
    fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, LinkError>> {
        loop {
            let mut stream = Blocking {
                stream: &mut self.stream,
                context,
            };
            match self.protocol.read(&mut stream) {
                Ok(Message::Text(text)) => {
                    self.is_binary = false;
                    return Poll::Ready(Ok(Some(text.into())));
                }
                Ok(Message::Binary(bytes)) => {
                    self.is_binary = true;
                    return Poll::Ready(Ok(Some(bytes)));
                }
                // The machine answers pings and closes by itself.
                Ok(_) => {}
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Poll::Pending;
                }
                Err(Error::ConnectionClosed | Error::AlreadyClosed) => {
                    self.stage = Stage::Closed;
                    return Poll::Ready(Ok(None));
                }
                Err(error) => {
                    self.stage = Stage::Unreadable;
                    return Poll::Ready(Err(match error {
                        Error::Io(error) => LinkError::Io(error),
                        Error::Capacity(CapacityError::MessageTooLong { .. }) => {
                            LinkError::TooBig {
                                limit: self.max_frame_size,
                            }
                        }
                        other => LinkError::Violation(other.to_string().into()),
                    }));
                }
            }
        }
    }

    fn send(&mut self, frame: Vec<u8>) {
        self.pending = self.pending.saturating_add(frame.len());
        self.queue.push_back(frame);
    }

    fn pending(&self) -> usize {
        self.pending
    }

    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        let mut stream = Blocking {
            stream: &mut self.stream,
            context,
        };
        while let Some(frame) = self.queue.pop_front() {
            match self
                .protocol
                .write(&mut stream, Self::message(self.is_binary, frame))
            {
                Ok(()) => {}
                // Taken all the same, and written by the flush.
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(broken(error))),
            }
        }
        self.queue = VecDeque::new();
        match self.protocol.flush(&mut stream) {
            Ok(()) => {
                self.pending = 0;
                Poll::Ready(Ok(()))
            }
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            Err(error) => Poll::Ready(Err(broken(error))),
        }
    }

    fn poll_close(&mut self, context: &mut Context<'_>, code: CloseCode) -> Poll<()> {
        if matches!(self.stage, Stage::Open | Stage::Unreadable) {
            let frame = CloseFrame {
                code: coding::CloseCode::from(code.code()),
                reason: Utf8Bytes::from_static(code.reason()),
            };
            let mut stream = Blocking {
                stream: &mut self.stream,
                context,
            };
            let closing = self.protocol.close(&mut stream, Some(frame));
            let can_read = self.stage == Stage::Open;
            self.stage = match closing {
                Ok(()) if can_read => Stage::Closing,
                Err(Error::Io(error)) if can_read && error.kind() == io::ErrorKind::WouldBlock => {
                    Stage::Closing
                }
                _ => Stage::Closed,
            };
        }
        while self.stage == Stage::Closing {
            let mut stream = Blocking {
                stream: &mut self.stream,
                context,
            };
            match self.protocol.read(&mut stream) {
                Ok(_) => {}
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    // The close frame may not be out yet.
                    let mut stream = Blocking {
                        stream: &mut self.stream,
                        context,
                    };
                    let _ = self.protocol.flush(&mut stream);
                    return Poll::Pending;
                }
                Err(_) => self.stage = Stage::Closed,
            }
        }
        poll_hang_up(&mut self.stream, &mut self.is_shut, context)
    }

    fn set_max_frame_size(&mut self, size: usize) {
        self.max_frame_size = size;
        let size = Some(size.saturating_add(MESSAGE_SLACK));
        self.protocol.set_config(|config| {
            config.max_message_size = size;
            config.max_frame_size = size;
        });
    }
}

fn broken(error: Error) -> LinkError {
    match error {
        Error::Io(error) => LinkError::Io(error),
        Error::ConnectionClosed | Error::AlreadyClosed => {
            LinkError::Io(io::ErrorKind::ConnectionAborted.into())
        }
        other => LinkError::Violation(other.to_string().into()),
    }
}

/// An asynchronous stream as the protocol machine wants it: what would wait is `WouldBlock`, and
/// the task is woken when it would not.
struct Blocking<'a, 'b, S> {
    stream: &'a mut S,
    context: &'a mut Context<'b>,
}

impl<S: AsyncRead + Unpin> Read for Blocking<'_, '_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut buffer = ReadBuf::new(buffer);
        match Pin::new(&mut *self.stream).poll_read(self.context, &mut buffer) {
            Poll::Ready(outcome) => outcome.map(|()| buffer.filled().len()),
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl<S: AsyncWrite + Unpin> Write for Blocking<'_, '_, S> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match Pin::new(&mut *self.stream).poll_write(self.context, buffer) {
            Poll::Ready(outcome) => outcome,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match Pin::new(&mut *self.stream).poll_flush(self.context) {
            Poll::Ready(outcome) => outcome,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}
