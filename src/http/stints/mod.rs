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

use hyper::{
    Request,
    body::{Body, Frame, Incoming, SizeHint},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use sockjs_server::Delivery;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    time::timeout,
};

use super::{
    HttpAnswer,
    lasting::Lasting,
    patience::Patient,
    place::{HttpPlace, Open},
};
use crate::telemetry;

/// The longest head of a request, in bytes: cookies can be long.
pub(super) const MAX_HEAD: usize = 32 * 1024;

/// An extension of an answer: its body takes its time, so hyper shall not wait for it. It is told if
/// the body could not be written.
#[derive(Clone)]
pub(super) struct TakesItsTime(pub(super) Option<Delivery>);

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
    let handed_over = &Mutex::new(None);
    let service = service_fn(|request: Request<Incoming>| {
        let version = request.version();
        let open = place.requests.begin_request(&request, place);
        let answering = answer(request);
        async move {
            let mut answered = answering.await;
            let takes_time = answered.extensions_mut().remove::<TakesItsTime>();
            if let Some(TakesItsTime(delivery)) = takes_time
                && place.requests.is_read()
            {
                let is_last = place.requests.is_last();
                let lasting = Lasting::new(answered, delivery, version, is_last);
                *handed_over.lock() = Some(lasting);
                place.requests.hand_over();
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
    #[cfg(test)]
    place.requests.end_stint();
    if let Some(ended) = ended {
        if let Err(error) = ended {
            telemetry::http_ended(&error);
        }
        return None;
    }
    let parts = serving.into_parts()?;
    let mut stream = parts.io.into_inner();
    stream.put_back(&parts.read_buf);
    let lasting = handed_over.lock().take();
    Some((stream, lasting))
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

#[cfg(test)]
mod tests;
