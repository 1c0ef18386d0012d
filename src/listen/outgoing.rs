//! What a link has taken and not written yet.

use std::{
    io::{self, Write},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::AsyncWrite;

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
        self.bytes.reserve(additional);
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        self.bytes.extend_from_slice(bytes);
    }

    /// As [`Outgoing::push`], without a copy if nothing else waits.
    pub(super) fn push_vec(&mut self, bytes: Vec<u8>) {
        if self.bytes.is_empty() {
            self.bytes = bytes;
            self.written = 0;
        } else {
            self.push(&bytes);
        }
    }

    /// How many bytes are not written yet; 1 if all are, and the stream is not flushed.
    pub(super) fn pending(&self) -> usize {
        self.bytes.len().abs_diff(self.written)
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
            let count = ready!(Pin::new(&mut *stream).poll_write(context, rest))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written = self.written.saturating_add(count);
        }
        if !self.bytes.is_empty() {
            self.bytes = Vec::new();
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
