//! The bodies of answers.

use std::{
    convert::Infallible,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body as HttpBody, Frame, SizeHint};

use crate::{receive::FrameStream, session::Delivery};

/// The body of an answer: whole, or frame after frame.
///
/// One [that is lasting](Body::is_lasting) stands for its client: until it is dropped, the client is
/// there. hyper drops it when it has taken the last frame; a server that writes it by itself drops
/// it when all is written, and has to bound the time for that.
#[derive(Debug, Default)]
pub struct Body(Kind);

#[derive(Debug)]
enum Kind {
    Whole(Full<Bytes>),
    Frames(FrameStream),
}

impl Default for Kind {
    fn default() -> Self {
        Self::Whole(Full::default())
    }
}

impl Body {
    /// Whether it waits for frames of a session: for one, which may take long, or for many.
    #[must_use]
    pub fn is_lasting(&self) -> bool {
        matches!(self.0, Kind::Frames(_))
    }

    /// The way by which a server that writes a [lasting](Body::is_lasting) body by itself tells that
    /// it could not write all of it. `None`: no session minds.
    #[must_use]
    pub fn delivery(&self) -> Option<Delivery> {
        match &self.0 {
            Kind::Whole(_) => None,
            Kind::Frames(frames) => frames.delivery(),
        }
    }

    /// The same, once it has the frame that a polling request waits for: its length is known then.
    pub(crate) async fn settled(mut self) -> Self {
        if let Kind::Frames(frames) = &mut self.0
            && frames.is_one_frame()
        {
            let frame = poll_fn(|context| frames.poll_frame(context)).await;
            let bytes = frame.and_then(|Ok(frame)| frame.into_data().ok());
            return Self::from(bytes.unwrap_or_default());
        }
        self
    }
}

impl From<FrameStream> for Body {
    fn from(frames: FrameStream) -> Self {
        Self(Kind::Frames(frames))
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self(Kind::Whole(Full::new(bytes)))
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Self::from(Bytes::from(text))
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Self::from(Bytes::from_static(text.as_bytes()))
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.0 {
            Kind::Whole(whole) => Pin::new(whole).poll_frame(context),
            Kind::Frames(frames) => frames.poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Whole(whole) => whole.is_end_stream(),
            Kind::Frames(frames) => frames.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Whole(whole) => whole.size_hint(),
            Kind::Frames(_) => SizeHint::default(),
        }
    }
}
