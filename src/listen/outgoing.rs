//! What a link has taken and not written yet.

use std::{
    cell::Cell,
    io::{self, Write},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::AsyncWrite;

use crate::telemetry;

/// A buffer that is larger is not kept for the next connection.
const LARGEST_KEPT: usize = 128 * 1024;

thread_local! {
    /// The buffer of the connection that wrote last on this thread: the next one writes from the
    /// same memory, which the processor has at hand.
    static KEPT: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Bytes on their way to a stream. Empty, it holds no memory beyond itself.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    bytes: Vec<u8>,
    /// How many of them are written. Without any, 1: all is written, and the stream has yet to
    /// be flushed, for TLS keeps what the socket does not take at once.
    written: usize,
}

impl Outgoing {
    /// Makes room.
    pub(super) fn reserve(&mut self, additional: usize) {
        // A client that reads slowly may never take all there is: what it has read must go all
        // the same. Moved when at least half is gone, so that each byte is moved once at most.
        if self.written >= self.pending() {
            self.bytes.drain(..self.written.min(self.bytes.len()));
            self.written = 0;
        }
        if self.bytes.capacity() == 0 {
            self.bytes = KEPT.take();
        }
        self.bytes.reserve(additional);
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        self.bytes.extend_from_slice(bytes);
    }

    /// How many bytes are not written yet; 1 if all are, and the stream is not flushed.
    pub(super) fn pending(&self) -> usize {
        self.bytes.len().abs_diff(self.written)
    }

    /// For a stay: a slow client must not hold on to more than its own bytes need.
    fn settle(&mut self) {
        if self.bytes.capacity() / 2 > self.bytes.len() {
            self.bytes.shrink_to_fit();
        }
    }

    /// Gives the memory to whoever writes next on this thread.
    fn put_back(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        if bytes.capacity() <= LARGEST_KEPT {
            bytes.clear();
            KEPT.set(bytes);
        }
    }

    /// Writes everything, and flushes the stream.
    pub(super) fn poll_flush<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while let Some(rest) = self
            .bytes
            .get(self.written..)
            .filter(|rest| !rest.is_empty())
        {
            let Poll::Ready(count) = Pin::new(&mut *stream).poll_write(context, rest) else {
                self.settle();
                return Poll::Pending;
            };
            let count = count?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            telemetry::bytes_sent(count);
            self.written = self.written.saturating_add(count);
        }
        if !self.bytes.is_empty() {
            self.put_back();
            self.written = 1;
        }
        ready!(Pin::new(stream).poll_flush(context))?;
        self.written = 0;
        Poll::Ready(Ok(()))
    }
}

impl Write for Outgoing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.push(bytes);
        Ok(bytes.len())
    }

    /// There is nothing to do: [`Outgoing::poll_flush`] does it.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
impl Outgoing {
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes everything, and keeps it until it is let go, as TLS does.
    struct Keeping {
        may_go: bool,
    }

    impl AsyncWrite for Keeping {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            if self.may_go {
                Poll::Ready(Ok(()))
            } else {
                Poll::Pending
            }
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// Otherwise nobody would flush again, and the last words of a burst would stay.
    #[test]
    fn what_the_stream_keeps_is_pending() {
        let mut context = Context::from_waker(std::task::Waker::noop());
        let mut stream = Keeping { may_go: false };
        let mut out = Outgoing::default();
        out.push(b"one");
        assert_eq!(out.pending(), 3);
        assert!(out.poll_flush(&mut stream, &mut context).is_pending());
        assert_eq!((out.pending(), out.capacity()), (1, 0));
        for _ in 0..2 {
            out.push(b"more");
            assert_eq!(out.pending(), 4);
            assert!(out.poll_flush(&mut stream, &mut context).is_pending());
            assert_eq!(out.pending(), 1);
        }
        stream.may_go = true;
        assert!(out.poll_flush(&mut stream, &mut context).is_ready());
        assert_eq!((out.pending(), out.capacity()), (0, 0));
    }
}
