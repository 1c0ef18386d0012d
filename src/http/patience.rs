//! The stream of an HTTP connection. A client that does not read its answers keeps its connection,
//! and what waits for it, for so long and no longer. Bytes that were read too early wait here.

use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use super::place::HttpPlace;

/// Bytes that are read at a time while hyper is not there: most heads of requests.
const FILLED: usize = 2048;

/// A stream on which no write may be stuck for longer than it has patience.
pub(super) struct Patient<S> {
    stream: S,
    patience: Duration,
    /// Runs while a write is stuck.
    stuck: Option<Pin<Box<Sleep>>>,
    /// Read, and not taken by hyper yet.
    unread: Bytes,
    /// It is told whether all bytes have left.
    place: Arc<HttpPlace>,
}

impl<S> Patient<S> {
    pub(super) fn new(stream: S, patience: Duration, place: Arc<HttpPlace>) -> Self {
        Self {
            stream,
            patience,
            stuck: None,
            unread: Bytes::new(),
            place,
        }
    }

    /// The stream, and what was read of it.
    pub(super) fn into_parts(self) -> (S, Bytes) {
        (self.stream, self.unread)
    }

    pub(super) fn has_unread(&self) -> bool {
        !self.unread.is_empty()
    }

    /// Puts bytes back that were read. They are copied, for hyper's are part of a buffer of 8 KiB.
    pub(super) fn put_back(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.unread = [bytes, &self.unread].concat().into();
        }
    }

    fn watch<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stuck = None;
            return written;
        }
        let patience = self.patience;
        let stuck = self.stuck.get_or_insert_with(|| Box::pin(sleep(patience)));
        ready!(stuck.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> Patient<S> {
    /// Reads the first bytes that come next; false at the end of the stream. Nothing may be unread.
    pub(super) fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut space = [MaybeUninit::uninit(); FILLED];
        let mut buffer = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer))?;
        self.unread = Bytes::copy_from_slice(buffer.filled());
        Poll::Ready(Ok(self.has_unread()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.has_unread() {
            let count = self.unread.len().min(buffer.remaining());
            buffer.put_slice(&self.unread.split_to(count));
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.place.requests.set_flushed(false);
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.place.requests.set_flushed(false);
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.watch(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        // hyper comes here when its own buffers are empty.
        if matches!(flushed, Poll::Ready(Ok(()))) {
            self.place.requests.set_flushed(true);
        }
        self.watch(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.place.requests.set_last();
        let shut = Pin::new(&mut self.stream).poll_shutdown(context);
        self.watch(context, shut)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, duplex},
        time::Instant,
    };

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_is_given_up() {
        let (stream, _client) = duplex(4);
        let begun = Instant::now();
        let mut stream = Patient::new(stream, PATIENCE, Arc::default());
        let error = stream.write_all(b"more than fits").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(begun.elapsed(), PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_slowly_is_not_given_up() {
        let (stream, mut client) = duplex(4);
        let mut stream = Patient::new(stream, PATIENCE, Arc::default());
        let reading = tokio::spawn(async move {
            let mut read = Vec::new();
            for _ in 0..5 {
                sleep(PATIENCE - Duration::from_secs(1)).await;
                let mut some = [0; 2];
                client.read_exact(&mut some).await.unwrap();
                read.extend(some);
            }
            read
        });
        stream.write_all(b"0123456789").await.unwrap();
        assert_eq!(reading.await.unwrap(), b"0123456789");
    }
}
