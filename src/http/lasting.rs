//! An answer that waits for what a session will say: one frame that may take long, or many. hyper
//! is not there meanwhile, so its bytes are made here.

use std::{
    fmt::Arguments,
    future::poll_fn,
    io::{self, Write as _},
    pin::Pin,
    task::{Context, Poll, ready},
    time::SystemTime,
};

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use hyper::{Version, body::Body as _, header};
use sockjs_server::Delivery;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    HttpAnswer,
    patience::Patient,
    place::{HttpPlace, says_close},
};

/// Frames are gathered up to so many bytes; then they are written before the next is asked for.
const ENOUGH: usize = 8 * 1024;

/// The bytes around a chunk, about.
const CHUNK_FRAME: usize = 16;

/// An answer without its framing, and the body that is awaited.
pub(super) struct Lasting {
    /// The status line and the headers that do not depend on the body, until they are sent.
    head: Vec<u8>,
    /// Dropped when all of it is written: until then its session knows that the client is there.
    body: BoxBody<Bytes, warp::Error>,
    /// Until it is written: the session learns if it was not.
    delivery: Option<Delivery>,
    framing: Framing,
    /// Whether the connection ends with it.
    is_last: bool,
    is_over: bool,
    /// Bytes on their way, and how many of them are written.
    out: Vec<u8>,
    written: usize,
}

/// How a client knows where the body ends (RFC 9112, 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// By its length if the first frame is the last one, else by chunks.
    Undecided,
    Chunks,
    /// Its length was told.
    Length,
    /// By the end of the connection: HTTP/1.0 has no chunks.
    Connection,
}

impl Lasting {
    /// `is_last`: the connection ends with it, as the client wishes.
    pub(super) fn new(
        answer: HttpAnswer,
        delivery: Option<Delivery>,
        version: Version,
        is_last: bool,
    ) -> Self {
        let (mut parts, body) = answer.into_parts();
        let is_old = version < Version::HTTP_11;
        let is_last = is_last || is_old || says_close(&parts.headers);
        parts.headers.remove(header::CONNECTION);
        let name = if is_old { "HTTP/1.0" } else { "HTTP/1.1" };
        let reason = parts.status.canonical_reason().unwrap_or_default();
        let mut head = format!("{name} {} {reason}\r\n", parts.status.as_str()).into_bytes();
        for (name, value) in &parts.headers {
            head.extend_from_slice(name.as_str().as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value.as_bytes());
            head.extend_from_slice(b"\r\n");
        }
        head.shrink_to_fit();
        let framing = if is_old {
            Framing::Connection
        } else {
            Framing::Undecided
        };
        Self {
            head,
            body,
            delivery,
            framing,
            is_last,
            is_over: false,
            out: Vec::new(),
            written: 0,
        }
    }

    /// Writes it as its frames come. True if the connection is kept for the next request.
    ///
    /// # Errors
    /// The client is gone, or does not read.
    pub(super) async fn write<S: AsyncRead + AsyncWrite + Unpin>(
        mut self,
        stream: &mut Patient<S>,
        place: &HttpPlace,
    ) -> io::Result<bool> {
        poll_fn(|context| {
            poll_presence(stream, context)?;
            self.poll_write(stream, place, context)
        })
        .await?;
        self.delivery = None;
        Ok(!self.is_last)
    }

    fn poll_write<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut Patient<S>,
        place: &HttpPlace,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            // A client that does not take what there is makes its session wait.
            if self.out.is_empty() {
                self.gather(place, context)?;
            }
            if self.out.is_empty() {
                return if self.is_over {
                    Poll::Ready(Ok(()))
                } else {
                    Poll::Pending
                };
            }
            while let Some(rest) = self.out.get(self.written..)
                && !rest.is_empty()
            {
                let count = ready!(Pin::new(&mut *stream).poll_write(context, rest))?;
                if count == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.written = self.written.saturating_add(count);
                if let Some(delivery) = &self.delivery {
                    delivery.note_written();
                }
            }
            ready!(Pin::new(&mut *stream).poll_flush(context))?;
            (self.out, self.written) = (Vec::new(), 0);
        }
    }

    /// Takes the frames that are there.
    fn gather(&mut self, place: &HttpPlace, context: &mut Context<'_>) -> io::Result<()> {
        while !self.is_over && self.out.len() < ENOUGH {
            match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => {
                    let is_end = self.body.is_end_stream();
                    if let Ok(data) = frame.into_data() {
                        self.put(&data, is_end, place);
                    }
                    if is_end {
                        self.finish(place);
                    }
                }
                Poll::Ready(Some(Err(error))) => return Err(io::Error::other(error)),
                Poll::Ready(None) => self.finish(place),
                Poll::Pending => break,
            }
        }
        Ok(())
    }

    fn put(&mut self, data: &[u8], is_end: bool, place: &HttpPlace) {
        self.begin(is_end.then_some(data.len()), place);
        self.out.reserve(data.len().saturating_add(CHUNK_FRAME));
        let is_chunk = self.framing == Framing::Chunks;
        // An empty chunk would be the end.
        if is_chunk && !data.is_empty() {
            self.line(format_args!("{:x}", data.len()));
        }
        self.out.extend_from_slice(data);
        if is_chunk && !data.is_empty() {
            self.line(format_args!(""));
        }
    }

    fn finish(&mut self, place: &HttpPlace) {
        self.begin(Some(0), place);
        if self.framing == Framing::Chunks {
            self.line(format_args!("0"));
            self.line(format_args!(""));
        }
        self.is_over = true;
    }

    /// Puts the head, before the first bytes. `length` is the body's, if it is known.
    fn begin(&mut self, length: Option<usize>, place: &HttpPlace) {
        if self.head.is_empty() {
            return;
        }
        self.out = std::mem::take(&mut self.head);
        self.is_last |= place.is_left_over();
        self.line(format_args!(
            "date: {}",
            httpdate::fmt_http_date(SystemTime::now())
        ));
        if self.framing == Framing::Undecided {
            self.framing = match length {
                Some(length) => {
                    self.line(format_args!("content-length: {length}"));
                    Framing::Length
                }
                None => {
                    self.line(format_args!("transfer-encoding: chunked"));
                    Framing::Chunks
                }
            };
        }
        if self.is_last {
            self.line(format_args!("connection: close"));
        }
        self.line(format_args!(""));
    }

    fn line(&mut self, line: Arguments<'_>) {
        // A buffer takes everything.
        let _ = write!(self.out, "{line}\r\n");
    }
}

/// The client is gone, or was given up: the system may have some of its bytes, and not the rest.
impl Drop for Lasting {
    fn drop(&mut self) {
        if let Some(delivery) = &self.delivery {
            delivery.failed();
        }
    }
}

/// Looks whether the client is there. As with hyper, its next bytes are kept, and it is not read on
/// before the answer is done.
fn poll_presence<S: AsyncRead + Unpin>(
    stream: &mut Patient<S>,
    context: &mut Context<'_>,
) -> io::Result<()> {
    if stream.has_unread() {
        return Ok(());
    }
    match stream.poll_fill(context) {
        Poll::Ready(Ok(false)) => Err(io::ErrorKind::ConnectionAborted.into()),
        Poll::Ready(Ok(true)) | Poll::Pending => Ok(()),
        Poll::Ready(Err(error)) => Err(error),
    }
}
