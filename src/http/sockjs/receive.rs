//! Frames to a client: one an answer, or many.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::body::{Body, Frame as BodyFrame};

use crate::{
    listen::sockjs::{
        Receiver,
        format::Format,
        session::{Frame, Shared},
    },
    telemetry,
};

/// An answer that carries frames.
pub(super) struct Answered {
    pub(super) content_type: &'static str,
    pub(super) is_streaming: bool,
    pub(super) body: BoxBody<Bytes, warp::Error>,
}

/// Receives for a request. A polling one waits for its frame; the answer to a streaming one ends
/// after `limit` bytes.
pub(super) async fn receive(session: &Arc<Shared>, format: Format, limit: usize) -> Answered {
    let content_type = format.content_type();
    let is_streaming = format.is_streaming();
    let source = match session.receive() {
        Ok(receiver) => Source::Session(receiver),
        Err(frame) => Source::Frame(frame),
    };
    let body = if is_streaming {
        let stream = Stream {
            prelude: format.prelude(),
            format,
            source,
            left: limit,
        };
        stream.map_err(never).boxed()
    } else {
        let frame = match source {
            Source::Session(mut receiver) => {
                let (Frame::More(frame) | Frame::Last(frame)) = receiver.frame().await;
                receiver.finish();
                frame
            }
            Source::Frame(frame) => frame,
            Source::Over => String::new(),
        };
        let wrapped = format.wrap(&frame);
        telemetry::bytes_sent(wrapped.len());
        Full::new(Bytes::from(wrapped)).map_err(never).boxed()
    };
    Answered {
        content_type,
        is_streaming,
        body,
    }
}

fn never(never: Infallible) -> warp::Error {
    match never {}
}

/// A streaming answer: the prelude, and frame after frame. The client that breaks it off has it
/// dropped by hyper, and the session is told.
struct Stream {
    prelude: Option<String>,
    format: Format,
    source: Source,
    /// Bytes of frames until it ends.
    left: usize,
}

enum Source {
    Session(Receiver),
    /// This frame alone.
    Frame(String),
    Over,
}

impl Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<BodyFrame<Bytes>, Infallible>>> {
        if let Some(prelude) = self.prelude.take() {
            telemetry::bytes_sent(prelude.len());
            return Poll::Ready(Some(Ok(BodyFrame::data(prelude.into()))));
        }
        let (frame, is_last) = match &mut self.source {
            Source::Session(receiver) => match ready!(receiver.poll_frame(context)) {
                Frame::More(frame) => (frame, false),
                Frame::Last(frame) => (frame, true),
            },
            Source::Frame(frame) => (std::mem::take(frame), true),
            Source::Over => return Poll::Ready(None),
        };
        let wrapped = self.format.wrap(&frame);
        telemetry::bytes_sent(wrapped.len());
        self.left = self.left.saturating_sub(wrapped.len());
        if is_last || self.left == 0 {
            let source = std::mem::replace(&mut self.source, Source::Over);
            if let Source::Session(receiver) = source {
                receiver.finish();
            }
        }
        Poll::Ready(Some(Ok(BodyFrame::data(wrapped.into()))))
    }
}
