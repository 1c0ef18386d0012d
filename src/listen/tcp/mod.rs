//! STOMP over a stream of bytes: TCP, with TLS or without.

use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use stomp_session::CloseCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::outgoing::Outgoing;
use crate::{
    connection::{Link, LinkError, Outbound},
    telemetry,
};

/// Bytes read at a time, into a buffer on the stack: an idle connection holds none.
pub(super) const READ_SIZE: usize = 16 * 1024;

/// A client on a stream of bytes.
#[derive(Debug)]
pub struct TcpLink<S> {
    stream: S,
    out: Outgoing,
    is_shut: bool,
}

impl<S> TcpLink<S> {
    /// A client on this stream.
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            out: Outgoing::default(),
            is_shut: false,
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Link for TcpLink<S> {
    fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, LinkError>> {
        Poll::Ready(Ok(ready!(poll_read(&mut self.stream, context))?))
    }

    fn send(&mut self, frame: Outbound<'_>) {
        self.out.reserve(frame.size());
        self.out.push(frame.head);
        self.out.push(frame.tail);
    }

    fn pending(&self) -> usize {
        self.out.pending()
    }

    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        self.out
            .poll_flush(&mut self.stream, context)
            .map_err(LinkError::Io)
    }

    fn poll_close(&mut self, context: &mut Context<'_>, _: CloseCode) -> Poll<()> {
        poll_hang_up(&mut self.stream, &mut self.is_shut, context)
    }

    fn set_max_frame_size(&mut self, _: usize) {}
}

/// Reads what is there; `None` at the end.
fn poll_read<S: AsyncRead + Unpin>(
    stream: &mut S,
    context: &mut Context<'_>,
) -> Poll<io::Result<Option<Bytes>>> {
    let mut space = [MaybeUninit::uninit(); READ_SIZE];
    let mut buffer = ReadBuf::uninit(&mut space);
    ready!(poll_fill(stream, context, &mut buffer))?;
    let read = buffer.filled();
    Poll::Ready(Ok((!read.is_empty()).then(|| Bytes::copy_from_slice(read))))
}

/// Reads what is there; nothing at the end. Many clients end TLS without a word: what they have
/// not sent whole is dropped here in any case.
pub(super) fn poll_fill<S: AsyncRead + Unpin>(
    stream: &mut S,
    context: &mut Context<'_>,
    buffer: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    let before = buffer.filled().len();
    let read = ready!(Pin::new(stream).poll_read(context, buffer));
    telemetry::bytes_received(buffer.filled().len().saturating_sub(before));
    match read {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
        read => Poll::Ready(read),
    }
}

/// Ends our side of a stream, and drops what still comes from the other, until it ends too.
pub(super) fn poll_hang_up<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    is_shut: &mut bool,
    context: &mut Context<'_>,
) -> Poll<()> {
    if !*is_shut {
        if ready!(Pin::new(&mut *stream).poll_shutdown(context)).is_err() {
            return Poll::Ready(());
        }
        *is_shut = true;
    }
    loop {
        match ready!(poll_read(stream, context)) {
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => return Poll::Ready(()),
        }
    }
}

#[cfg(test)]
mod tests;
