//! Frames to a client: one an answer, or many.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::body::Frame as BodyFrame;

use crate::{
    Body,
    protocol::format::Format,
    session::{Delivery, Receiver, SentFrame, SharedSession},
};

/// An answer that carries frames.
pub(crate) struct FrameAnswer {
    pub(crate) content_type: &'static str,
    pub(crate) is_streaming: bool,
    pub(crate) body: Body,
}

/// Receives for a request. The answer to a polling one is its frame; the answer to a streaming one
/// ends after `limit` bytes. `sent` counts bytes.
pub(crate) fn receive(
    session: &Arc<SharedSession>,
    format: Format,
    limit: usize,
    sent: fn(usize),
) -> FrameAnswer {
    let content_type = format.content_type();
    let is_streaming = format.is_streaming();
    let source = match session.receive() {
        Ok(receiver) => Source::Session(receiver),
        Err(frame) => Source::Frame(frame),
    };
    let frames = FrameStream {
        prelude: format.prelude(),
        format,
        source,
        is_over: false,
        left: if is_streaming { limit } else { 0 },
        sent,
    };
    FrameAnswer {
        content_type,
        is_streaming,
        body: Body::from(frames),
    }
}

/// The body of an answer that carries frames: the prelude, and frame after frame, or one frame. If
/// the client breaks it off, the server drops it, and the session learns it. After the last frame it
/// is kept until the server has written it: so long the client is there.
#[derive(Debug)]
pub(crate) struct FrameStream {
    prelude: Option<String>,
    format: Format,
    source: Source,
    /// Whether all of it was taken.
    is_over: bool,
    /// Bytes of frames until it ends.
    left: usize,
    sent: fn(usize),
}

#[derive(Debug)]
enum Source {
    Session(Receiver),
    /// This frame alone.
    Frame(String),
}

impl FrameStream {
    /// Whether it is the answer to a polling request.
    pub(crate) fn is_one_frame(&self) -> bool {
        !self.format.is_streaming()
    }

    /// Whether all of it was taken.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over
    }

    /// `None`: it does not receive.
    pub(crate) fn delivery(&self) -> Option<Delivery> {
        match &self.source {
            Source::Session(receiver) => Some(receiver.delivery()),
            Source::Frame(_) => None,
        }
    }

    pub(crate) fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<BodyFrame<Bytes>, Infallible>>> {
        if let Some(prelude) = self.prelude.take() {
            (self.sent)(prelude.len());
            return Poll::Ready(Some(Ok(BodyFrame::data(prelude.into()))));
        }
        if self.is_over {
            return Poll::Ready(None);
        }
        let (frame, is_last) = match &mut self.source {
            Source::Session(receiver) => match ready!(receiver.poll_frame(context)) {
                SentFrame::More(frame) => (frame, false),
                SentFrame::Last(frame) => (frame, true),
            },
            Source::Frame(frame) => (std::mem::take(frame), true),
        };
        let wrapped = self.format.wrap(&frame);
        (self.sent)(wrapped.len());
        self.left = self.left.saturating_sub(wrapped.len());
        if is_last || self.left == 0 {
            self.is_over = true;
            if let Source::Session(receiver) = &mut self.source {
                receiver.leave();
            }
        }
        Poll::Ready(Some(Ok(BodyFrame::data(wrapped.into()))))
    }
}
