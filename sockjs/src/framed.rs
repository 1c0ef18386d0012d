//! A WebSocket that carries SockJS's frames.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::{Instant, Sleep, sleep};

use crate::{
    Channel, ChannelError, Payload, Unfinished, WebSocket,
    protocol::{
        frame::{self, Undecodable},
        seam::{self, Seam, payload_size},
    },
};

/// A client that speaks SockJS on a WebSocket.
pub(crate) struct FramedSocket<W> {
    socket: W,
    /// Messages of a payload that carried several; the next one is first.
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
    /// The client's payload cannot be read: the rest is silence.
    Broken,
    /// The close frame is on its way.
    Closing,
}

impl<W: WebSocket> FramedSocket<W> {
    /// Opens a session on a socket.
    pub(crate) fn new(mut socket: W, max_message_size: usize, heartbeat: Duration) -> Self {
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

    fn too_long(&self) -> ChannelError {
        ChannelError::TooLong {
            limit: self.max_message_size,
        }
    }

    /// Sends a heart-beat when it is time.
    fn poll_heartbeat(&mut self, context: &mut Context<'_>) -> Result<(), ChannelError> {
        while self.timer.as_mut().poll(context).is_ready() {
            let now = Instant::now();
            let next = now.checked_add(self.heartbeat).unwrap_or(now);
            self.timer.as_mut().reset(next);
            // A client that has not read the last bytes needs no more of them.
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

impl<W: WebSocket> Channel for FramedSocket<W> {
    fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, ChannelError>> {
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
                Poll::Ready(Err(ChannelError::TooLong { .. })) => {
                    return Poll::Ready(Err(self.too_long()));
                }
                other => return other,
            };
            // An empty payload has no message, and is no fault.
            let messages = match payload.is_empty() {
                true => Ok(Vec::new()),
                false => self.seam.read(&payload, self.max_message_size),
            };
            match messages {
                Ok(messages) => self.inbox = messages.into(),
                Err(Undecodable::TooLong { .. }) => {
                    return Poll::Ready(Err(self.too_long()));
                }
                Err(fault) => {
                    self.stage = Stage::Broken;
                    let fault = ChannelError::Violation(fault.to_string().into());
                    return Poll::Ready(Err(fault));
                }
            }
            if self.inbox.is_empty() && self.socket.has_news() {
                return Poll::Ready(Ok(Some(Bytes::new())));
            }
        }
    }

    fn send(&mut self, message: Payload<'_>) {
        let mut quoted = String::new();
        frame::quote(&mut quoted, &message.to_text());
        self.socket.send_text(&frame::messages(&quoted));
    }

    fn pending(&self) -> usize {
        self.socket.pending()
    }

    fn was_written(&mut self) -> bool {
        self.socket.was_written()
    }

    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<Result<(), ChannelError>> {
        self.socket.poll_flush(context)
    }

    fn poll_close(&mut self, context: &mut Context<'_>, code: u16, reason: &str) -> Poll<()> {
        match self.stage {
            // A client that does not speak SockJS would not understand the frame.
            Stage::Broken => return Poll::Ready(()),
            Stage::Open => {
                self.stage = Stage::Closing;
                self.socket.send_text(&frame::close(code, reason));
            }
            Stage::Closing => {}
        }
        self.socket.poll_close(context, code, reason)
    }

    fn set_max_message_size(&mut self, size: usize) {
        self.max_message_size = size;
        self.socket.set_max_message_size(payload_size(size));
    }

    fn is_text_only(&self) -> bool {
        true
    }

    fn was_heard(&mut self) -> bool {
        self.socket.was_heard()
    }

    fn bytes_read(&mut self) -> Option<usize> {
        self.socket.bytes_read()
    }

    fn unfinished(&self) -> Unfinished {
        let waiting = self.inbox.iter().map(Bytes::len);
        let waiting = waiting.fold(0, usize::saturating_add);
        let payload = self.socket.unfinished();
        let room = seam::room(payload.received, self.max_message_size);
        Unfinished {
            received: payload.received.saturating_add(waiting),
            most: payload.most.min(room).saturating_add(waiting),
        }
    }

    fn go_on(&mut self) {
        self.socket.go_on();
    }

    /// The pings are the WebSocket's: no client answers a heart-beat of SockJS.
    fn has_pings(&self) -> bool {
        self.socket.has_pings()
    }

    fn ping(&mut self) {
        self.socket.ping();
    }

    fn was_answered(&mut self) -> bool {
        self.socket.was_answered()
    }
}

#[cfg(test)]
mod tests {
    use hyper::upgrade::Upgraded;

    use super::*;
    use crate::protocol::seam::{ESCAPED, MESSAGE_SLACK};

    const NEWS: usize = 100;
    const HEAD: usize = 6;

    /// A socket that these payloads come from; it counts bytes, and has news of many.
    #[derive(Default)]
    struct Fake {
        payloads: VecDeque<&'static str>,
        read: usize,
        unfinished: Unfinished,
    }

    impl Channel for Fake {
        fn poll_receive(
            &mut self,
            _: &mut Context<'_>,
        ) -> Poll<Result<Option<Bytes>, ChannelError>> {
            let Some(payload) = self.payloads.pop_front() else {
                return Poll::Pending;
            };
            self.read += HEAD + payload.len();
            Poll::Ready(Ok(Some(Bytes::from_static(payload.as_bytes()))))
        }

        fn send(&mut self, _: Payload<'_>) {}

        fn pending(&self) -> usize {
            0
        }

        fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ChannelError>> {
            Poll::Ready(Ok(()))
        }

        fn poll_close(&mut self, _: &mut Context<'_>, _: u16, _: &str) -> Poll<()> {
            Poll::Ready(())
        }

        fn set_max_message_size(&mut self, _: usize) {}

        fn bytes_read(&mut self) -> Option<usize> {
            Some(std::mem::take(&mut self.read))
        }

        fn unfinished(&self) -> Unfinished {
            self.unfinished
        }
    }

    impl WebSocket for Fake {
        fn from_upgraded(_: Upgraded, _: usize) -> Option<Self> {
            None
        }

        fn send_text(&mut self, _: &str) {}

        fn has_news(&self) -> bool {
            self.read >= NEWS
        }
    }

    /// Not for all that it could come to: a few clients would take the room of all others.
    #[tokio::test]
    async fn room_for_a_payload_is_asked_for_as_it_comes() {
        const SIZE: usize = 4 << 20;
        const MOST: usize = ESCAPED * SIZE + MESSAGE_SLACK;
        let mut socket = FramedSocket::new(Fake::default(), SIZE, Duration::from_secs(25));
        let step = SIZE + MESSAGE_SLACK;
        for (received, most) in [
            (0, step),
            (16 * 1024, step),
            (step - 1, step),
            (step, 2 * step),
            (2 * step, 4 * step),
            (4 * step - 1, 4 * step),
            (4 * step, MOST),
            (MOST + SIZE, MOST),
        ] {
            socket.socket.unfinished = Unfinished {
                received,
                most: MOST,
            };
            assert_eq!(socket.unfinished(), Unfinished { received, most });
        }
    }

    /// They cost time, too.
    #[tokio::test]
    async fn payloads_without_messages_are_told() {
        let socket = Fake {
            payloads: ["", "[]"].repeat(500).into(),
            ..Fake::default()
        };
        let mut socket = FramedSocket::new(socket, 1024, Duration::from_secs(25));
        let mut context = Context::from_waker(std::task::Waker::noop());
        let (mut times, mut bytes) = (0, 0);
        while let Poll::Ready(told) = socket.poll_receive(&mut context) {
            assert_eq!(told.unwrap().unwrap(), "");
            (times, bytes) = (times + 1, bytes + socket.bytes_read().unwrap());
        }
        let all = 1_000 * HEAD + 1_000;
        assert_eq!(bytes + socket.bytes_read().unwrap(), all);
        assert!(times >= all / (2 * NEWS), "{times}");
        // A few of them are nothing.
        socket.socket.payloads = ["", "[]", "[\"x\"]"].into();
        let next = socket.poll_receive(&mut context).map(Result::unwrap);
        assert_eq!(next, Poll::Ready(Some("x".into())));
    }
}
