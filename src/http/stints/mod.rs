//! One HTTP connection. hyper has it by stints, each from a request until its answer. Between
//! requests, and while an answer waits for what a session will say, it has little more than its
//! stream: hyper's two buffers take 8 KiB each from their first use on.

use std::{
    convert::Infallible,
    future::{Future, pending, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use hyper::{
    HeaderMap, Request, StatusCode, Version,
    body::{Body, Frame, Incoming, SizeHint},
    header,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    time::timeout,
};

use super::{HttpAnswer, gateway::HttpPlace, lasting::Lasting, patience::Patient};
use crate::telemetry;

/// The longest head of a request, in bytes: cookies can be long.
pub(super) const MAX_HEAD: usize = 32 * 1024;

/// An extension of an answer: its body takes its time, so hyper shall not wait for it.
#[derive(Clone, Copy)]
pub(super) struct TakesItsTime;

/// Serves HTTP on one stream. `patience` bounds how long a request's head may take, and how long
/// the stream may rest between requests; `write_timeout`, how long a client may leave its answers
/// unread.
pub(super) async fn serve<S, A, F>(
    stream: S,
    patience: Duration,
    write_timeout: Duration,
    place: Arc<HttpPlace>,
    answer: A,
) where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    A: Fn(Request<Incoming>) -> F + Sync,
    F: Future<Output = HttpAnswer> + Send,
{
    let mut stream = Patient::new(stream, write_timeout, Arc::clone(&place));
    loop {
        if !stream.has_unread() {
            let filled = timeout(patience, poll_fn(|context| stream.poll_fill(context)));
            if !matches!(filled.await, Ok(Ok(true))) {
                break;
            }
        }
        // On the heap, so that it is gone when its stint is.
        let stint = Box::pin(hyper_stint(stream, patience, &place, &answer));
        let Some((back, lasting)) = stint.await else {
            return;
        };
        stream = back;
        if let Some(lasting) = lasting {
            let written = lasting.write(&mut stream, &place).await;
            place.is_answered();
            match written {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    telemetry::http_ended(&error);
                    return;
                }
            }
        }
    }
    // A client that does not let it end is cut.
    let _ = timeout(patience, stream.shutdown()).await;
}

/// Serves by hyper until it has nothing to do. `None`: the connection is over, or upgraded.
async fn hyper_stint<S, A, F>(
    stream: Patient<S>,
    patience: Duration,
    place: &Arc<HttpPlace>,
    answer: &A,
) -> Option<(Patient<S>, Option<Lasting>)>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    A: Fn(Request<Incoming>) -> F + Sync,
    F: Future<Output = HttpAnswer> + Send,
{
    place.requests.begin_stint();
    let service = service_fn(|request: Request<Incoming>| {
        let version = request.version();
        let open = place.requests.begin_request(&request, place);
        let answering = answer(request);
        async move {
            let mut answered = answering.await;
            let takes_time = answered.extensions_mut().remove::<TakesItsTime>();
            if takes_time.is_some() && place.requests.is_read() {
                let lasting = Lasting::new(answered, version, place.requests.is_last());
                place.requests.hand_over(lasting);
                // hyper is dropped as soon as its earlier answers are written.
                return pending().await;
            }
            place.is_answered();
            place.requests.answer(&answered);
            Ok::<_, Infallible>(answered.map(|body| OpenBody { body, _open: open }))
        }
    });
    let mut serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(patience)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let ended = poll_fn(|context| match Pin::new(&mut serving).poll(context) {
        Poll::Ready(ended) => Poll::Ready(Some(ended)),
        Poll::Pending if place.requests.is_free() => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    });
    let ended = ended.await;
    let lasting = place.requests.end_stint();
    if let Some(ended) = ended {
        if let Err(error) = ended {
            telemetry::http_ended(&error);
        }
        return None;
    }
    let parts = serving.into_parts()?;
    let mut stream = parts.io.into_inner();
    stream.put_back(&parts.read_buf);
    Some((stream, lasting))
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
    /// The answer that is to go on without hyper.
    lasting: Option<Lasting>,
    /// Whether hyper has the stream.
    #[cfg(test)]
    has_hyper: bool,
}

impl Requests {
    fn begin_stint(&self) {
        *self.0.lock() = Progress {
            is_flushed: true,
            #[cfg(test)]
            has_hyper: true,
            ..Progress::default()
        };
    }

    fn begin_request(&self, request: &Request<Incoming>, place: &Arc<HttpPlace>) -> Open {
        let mut progress = self.0.lock();
        progress.is_open = true;
        progress.is_read = request.body().is_end_stream();
        progress.is_last |= request.version() != Version::HTTP_11 || says_close(request.headers());
        Open(Arc::clone(place))
    }

    fn answer(&self, answer: &HttpAnswer) {
        let is_last =
            answer.status() == StatusCode::SWITCHING_PROTOCOLS || says_close(answer.headers());
        self.0.lock().is_last |= is_last;
    }

    fn is_read(&self) -> bool {
        self.0.lock().is_read
    }

    fn is_last(&self) -> bool {
        self.0.lock().is_last
    }

    fn hand_over(&self, lasting: Lasting) {
        self.0.lock().lasting = Some(lasting);
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
    fn is_free(&self) -> bool {
        let progress = self.0.lock();
        let is_idle = progress.has_answered && !progress.is_open;
        progress.is_flushed
            && (progress.lasting.is_some() || is_idle && progress.is_read && !progress.is_last)
    }

    fn end_stint(&self) -> Option<Lasting> {
        let mut progress = self.0.lock();
        #[cfg(test)]
        {
            progress.has_hyper = false;
        }
        progress.lasting.take()
    }

    #[cfg(test)]
    fn has_hyper(&self) -> bool {
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
struct Open(Arc<HttpPlace>);

impl Drop for Open {
    fn drop(&mut self) {
        let mut progress = self.0.requests.0.lock();
        progress.is_open = false;
        progress.has_answered = true;
    }
}

/// The body of an answer. hyper drops it when it has taken all of it.
struct OpenBody<B> {
    body: B,
    _open: Open,
}

impl<B: Body + Unpin> Body for OpenBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
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

#[cfg(test)]
mod tests;
