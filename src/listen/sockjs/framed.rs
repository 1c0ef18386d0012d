//! A WebSocket that carries SockJS's frames.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use stomp_session::CloseCode;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, Sleep, sleep},
};

use super::{
    Channel,
    frame::{self, Undecodable},
    seam::{ESCAPED, Seam},
};
use crate::{
    connection::{Link, LinkError, Outbound, Unfinished},
    listen::WebSocketLink,
};

/// A client that speaks SockJS on a WebSocket.
pub struct FramedLink<S> {
    socket: WebSocketLink<S>,
    /// Of a message that carried several; the next comes first.
    inbox: VecDeque<Bytes>,
    heartbeat: Duration,
    timer: Pin<Box<Sleep>>,
    stage: Stage,
    seam: Seam,
    max_message_size: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Open,
    /// What came cannot be read: the rest is silence.
    Broken,
    /// The close frame is on its way.
    Closing,
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> FramedLink<S> {
    /// Opens a session on a stream that was upgraded; `received` came with the upgrade's request.
    pub fn new(stream: S, received: Bytes, max_message_size: usize, heartbeat: Duration) -> Self {
        let most = max_message_size.saturating_mul(ESCAPED);
        let mut socket = WebSocketLink::new(stream, received, most);
        socket.send_text(frame::OPEN);
        Self {
            socket,
            inbox: VecDeque::new(),
            heartbeat,
            timer: Box::pin(sleep(heartbeat)),
            stage: Stage::Open,
            seam: Seam::default(),
            max_message_size,
        }
    }

    fn too_big(&self) -> LinkError {
        LinkError::TooBig {
            limit: self.max_message_size,
        }
    }

    /// Sends a heart-beat when it is time.
    fn poll_heartbeat(&mut self, context: &mut Context<'_>) -> Result<(), LinkError> {
        while self.timer.as_mut().poll(context).is_ready() {
            self.timer.as_mut().reset(Instant::now() + self.heartbeat);
            // Who does not read what there is needs no more of it.
            if self.socket.pending() == 0 {
                self.socket.send_text(frame::HEARTBEAT);
                if let Poll::Ready(flushed) = self.socket.poll_flush(context) {
                    flushed?;
                }
            }
        }
        Ok(())
    }
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Link for FramedLink<S> {
    fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, LinkError>> {
        if self.stage != Stage::Open {
            return Poll::Ready(Ok(None));
        }
        self.poll_heartbeat(context)?;
        loop {
            if let Some(message) = self.inbox.pop_front() {
                if self.inbox.is_empty() {
                    self.inbox = VecDeque::new();
                }
                return Poll::Ready(Ok(Some(message)));
            }
            let payload = match self.socket.poll_receive(context) {
                Poll::Ready(Ok(Some(payload))) => payload,
                Poll::Ready(Err(LinkError::TooBig { .. })) => {
                    return Poll::Ready(Err(self.too_big()));
                }
                other => return other,
            };
            // An empty message is no message, and no fault.
            if payload.is_empty() {
                if self.socket.has_answer() {
                    return Poll::Ready(Ok(Some(payload)));
                }
                continue;
            }
            match self.seam.read(&payload, self.max_message_size) {
                Ok(messages) => self.inbox = messages.into(),
                Err(Undecodable::TooLong { .. }) => {
                    return Poll::Ready(Err(self.too_big()));
                }
                Err(fault) => {
                    self.stage = Stage::Broken;
                    return Poll::Ready(Err(violation(fault)));
                }
            }
        }
    }

    fn was_heard(&mut self) -> bool {
        self.socket.was_heard()
    }

    fn unfinished(&self) -> Unfinished {
        let waiting = self.inbox.iter().map(Bytes::len);
        let waiting = waiting.fold(0, usize::saturating_add);
        self.socket.unfinished().and(Unfinished {
            received: waiting,
            most: waiting,
        })
    }

    fn go_on(&mut self) {
        self.socket.go_on();
    }

    /// The pings are the WebSocket's: nobody answers a heart-beat of SockJS.
    fn has_pings(&self) -> bool {
        self.socket.has_pings()
    }

    fn ping(&mut self) {
        self.socket.ping();
    }

    fn was_answered(&mut self) -> bool {
        self.socket.was_answered()
    }

    fn send(&mut self, message: Outbound<'_>) {
        let mut quoted = String::new();
        frame::quote(&mut quoted, &message.to_text());
        self.socket.send_text(&frame::messages(&quoted));
    }

    fn takes_text_only(&self) -> bool {
        true
    }

    fn pending(&self) -> usize {
        self.socket.pending()
    }

    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        self.socket.poll_flush(context)
    }

    fn poll_close(&mut self, context: &mut Context<'_>, code: CloseCode) -> Poll<()> {
        self.poll_close_with(context, code.code(), code.reason())
    }

    fn set_max_frame_size(&mut self, size: usize) {
        self.max_message_size = size;
        self.socket.set_max_frame_size(size.saturating_mul(ESCAPED));
    }
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Channel for FramedLink<S> {
    fn poll_close_with(&mut self, context: &mut Context<'_>, code: u16, reason: &str) -> Poll<()> {
        match self.stage {
            // To a client that does not speak SockJS there is nothing to say in it.
            Stage::Broken => return Poll::Ready(()),
            Stage::Open => {
                self.stage = Stage::Closing;
                self.socket.send_text(&frame::close(code, reason));
            }
            Stage::Closing => {}
        }
        self.socket.poll_close_with(context, code, reason)
    }
}

fn violation(fault: Undecodable) -> LinkError {
    LinkError::Violation(fault.to_string().into())
}
