//! One HTTP connection, as all who serve it see it: the place that it takes, and how far its requests
//! are.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::{
    HeaderMap, Request, StatusCode, Version,
    body::{Body, Frame, Incoming, SizeHint},
    header,
};
use parking_lot::Mutex;
use sockjs_server::{Seat, SharedSession};

use super::HttpAnswer;
use crate::node::{ClientAddress, Place, Stage};

/// An HTTP connection counts either as one without a login, or as one of a session's.
#[derive(Default)]
pub(super) struct HttpPlace {
    pub(super) listener: Mutex<Option<Place>>,
    pub(super) seat: Mutex<Option<Seat>>,
    /// How far its requests are.
    pub(super) requests: Requests,
}

impl HttpPlace {
    pub(super) fn at_listener(place: Place) -> Self {
        Self {
            listener: Mutex::new(Some(place)),
            ..Self::default()
        }
    }

    /// A request has come whole, from a client at this address.
    pub(super) fn is_asked(&self, address: &ClientAddress) {
        if let Some(place) = &*self.listener.lock() {
            place.set_address(address);
            place.set_stage(Stage::Asked);
        }
    }

    /// The request was answered.
    pub(super) fn is_answered(&self) {
        if let Some(place) = &*self.listener.lock() {
            place.set_stage(Stage::Idle);
        }
    }

    /// Has it take a seat at this session, if it has none there. Whether it has one now.
    pub(super) fn sits_at(&self, session: &Arc<SharedSession>) -> bool {
        let mut seat = self.seat.lock();
        if seat.as_ref().is_some_and(|seat| seat.is_at(session)) {
            return true;
        }
        let Some(free) = session.seat() else {
            return false;
        };
        *seat = Some(free);
        true
    }

    /// Whether its session is over: it counts as nobody's then, so its next answer is its last.
    /// Otherwise a client could leave behind any number of them.
    pub(super) fn is_left_over(&self) -> bool {
        let seat = self.seat.lock();
        seat.as_ref().is_some_and(Seat::is_over)
    }
}

/// The progress of one connection's requests: whether hyper may go.
#[derive(Default)]
pub(super) struct Requests(Mutex<Progress>);

#[derive(Default)]
struct Progress {
    /// Whether all that hyper has written is with the system.
    is_flushed: bool,
    /// Whether a request has no whole answer yet.
    is_open: bool,
    /// Whether the last request's body was read to its end.
    is_read: bool,
    /// Whether requests were answered in this stint. Without it hyper waits for the rest of a head,
    /// and its time for that must not begin anew.
    has_answered: bool,
    /// Whether the connection ends, or changes, with the answer: hyper knows how.
    is_last: bool,
    /// Whether an answer is to go on without hyper.
    goes_on: bool,
    /// Whether hyper has the stream.
    #[cfg(test)]
    has_hyper: bool,
}

impl Requests {
    pub(super) fn begin_stint(&self) {
        *self.0.lock() = Progress {
            is_flushed: true,
            #[cfg(test)]
            has_hyper: true,
            ..Progress::default()
        };
    }

    pub(super) fn begin_request(
        &self,
        request: &Request<Incoming>,
        place: &Arc<HttpPlace>,
    ) -> Open {
        let mut progress = self.0.lock();
        progress.is_open = true;
        progress.is_read = request.body().is_end_stream();
        progress.is_last |= request.version() != Version::HTTP_11 || says_close(request.headers());
        Open(Arc::clone(place))
    }

    pub(super) fn answer(&self, answer: &HttpAnswer) {
        let is_last =
            answer.status() == StatusCode::SWITCHING_PROTOCOLS || says_close(answer.headers());
        self.0.lock().is_last |= is_last;
    }

    pub(super) fn is_read(&self) -> bool {
        self.0.lock().is_read
    }

    pub(super) fn is_last(&self) -> bool {
        self.0.lock().is_last
    }

    /// The answer goes on without hyper.
    pub(super) fn hand_over(&self) {
        self.0.lock().goes_on = true;
    }

    /// Bytes were written, and may wait in a buffer; or all have left it.
    pub(super) fn set_flushed(&self, is_flushed: bool) {
        self.0.lock().is_flushed = is_flushed;
    }

    /// hyper closes the stream.
    pub(super) fn set_last(&self) {
        self.0.lock().is_last = true;
    }

    /// Whether hyper has nothing to do: every answer is with the system, the rest of the last
    /// request is not on its way any more, and the next one has not been seen.
    pub(super) fn is_free(&self) -> bool {
        let progress = self.0.lock();
        let is_idle = progress.has_answered && !progress.is_open;
        progress.is_flushed
            && (progress.goes_on || is_idle && progress.is_read && !progress.is_last)
    }

    /// hyper has gone.
    #[cfg(test)]
    pub(super) fn end_stint(&self) {
        self.0.lock().has_hyper = false;
    }

    #[cfg(test)]
    pub(super) fn has_hyper(&self) -> bool {
        self.0.lock().has_hyper
    }
}

pub(super) fn says_close(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(header::CONNECTION).into_iter();
    lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .any(|option| option.trim().eq_ignore_ascii_case("close"))
}

/// A request without its whole answer.
pub(super) struct Open(Arc<HttpPlace>);

impl Drop for Open {
    fn drop(&mut self) {
        let mut progress = self.0.requests.0.lock();
        progress.is_open = false;
        progress.has_answered = true;
    }
}

/// The body of a request, which says when it was read to its end.
pub(super) struct WatchedBody {
    body: Incoming,
    place: Arc<HttpPlace>,
}

impl WatchedBody {
    pub(super) fn new(body: Incoming, place: Arc<HttpPlace>) -> Self {
        Self { body, place }
    }
}

impl Body for WatchedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        let is_end = match &polled {
            Poll::Ready(None) => true,
            Poll::Ready(Some(Ok(_))) => self.body.is_end_stream(),
            Poll::Ready(Some(Err(_))) | Poll::Pending => false,
        };
        if is_end {
            self.place.requests.0.lock().is_read = true;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
