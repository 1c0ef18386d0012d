//! A stream of TLS that keeps no buffer while nothing is on its way.
//!
//! tokio-rustls has one of 4 KiB for each connection, and rustls' state in the task. Here rustls
//! works on the caller's buffers (its *unbuffered* API); those are one a thread. A connection keeps
//! only what is left over: a part of a record, text that nobody has taken yet, and records that the
//! socket did not take.

use std::{
    cell::Cell,
    future::poll_fn,
    io::{self, ErrorKind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use rustls::{
    Error, ServerConfig,
    pki_types::CertificateDer,
    server::{ServerConnectionData, UnbufferedServerConnection},
    unbuffered::{ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The most text of one write, in bytes: a record.
const RECORD: usize = 16 * 1024;
/// How much longer than its text a record may be, with its head.
const OVERHEAD: usize = 2048 + 5;
/// Bytes that are read at a time: at least a record, so that the rest of one always fits.
const READ: usize = RECORD + OVERHEAD;
/// The longest message of a handshake, which may span many records: rustls refuses longer ones.
const MAX_UNREAD: usize = 64 * 1024 + READ;
/// The most bytes that may wait for the socket while more is read: a record of ours, and answers of
/// TLS itself.
const MAX_UNSENT: usize = 64 * 1024 + READ;

thread_local! {
    /// Where records are read and decrypted. All of it is initialised.
    static READING: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    /// Where they are encrypted.
    static WRITING: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A client's stream, after the handshake.
pub struct TlsStream<S>(Box<Inner<S>>);

/// On the heap, so that a connection's task is no larger than without TLS.
struct Inner<S> {
    stream: S,
    tls: UnbufferedServerConnection,
    /// Records that came, and are not whole.
    incoming: Vec<u8>,
    /// Text that was not taken yet, and how much of it was.
    text: Vec<u8>,
    taken: usize,
    /// Records on their way, and how much of them is written.
    outgoing: Vec<u8>,
    written: usize,
    /// The client said that nothing more comes.
    has_ended: bool,
    /// Our side was told to end.
    is_closing: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream<S> {
    /// Shakes hands with a client. If that fails, the client is told the reason, if its socket
    /// takes it at once.
    pub(super) async fn accept(stream: S, config: Arc<ServerConfig>) -> io::Result<Self> {
        let tls = UnbufferedServerConnection::new(config).map_err(io::Error::other)?;
        let mut inner = Box::new(Inner {
            stream,
            tls,
            incoming: Vec::new(),
            text: Vec::new(),
            taken: 0,
            outgoing: Vec::new(),
            written: 0,
            has_ended: false,
            is_closing: false,
        });
        poll_fn(|context| inner.poll_handshake(context)).await?;
        Ok(Self(inner))
    }
}

impl<S> TlsStream<S> {
    /// The certificates that the client has shown, its own first.
    pub fn peer_certificates(&self) -> Option<&[CertificateDer<'static>]> {
        self.0.tls.peer_certificates()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Inner<S> {
    fn has_text(&self) -> bool {
        self.taken < self.text.len()
    }

    fn poll_handshake(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            // What is due goes out before more is awaited.
            ready!(self.poll_send(context))?;
            if !self.tls.is_handshaking() {
                return Pin::new(&mut self.stream).poll_flush(context);
            }
            if let Err(error) = ready!(self.poll_take_in(context, None)) {
                let _ = self.poll_send(context);
                return Poll::Ready(Err(error));
            }
        }
    }

    /// Reads once from the socket, and takes in all whole records. Text goes to `to` first; what
    /// does not fit there is kept.
    fn poll_take_in(
        &mut self,
        context: &mut Context<'_>,
        to: Option<&mut ReadBuf<'_>>,
    ) -> Poll<io::Result<()>> {
        let before = self.incoming.len();
        // A client may ask for new keys again and again, and read none of the answers.
        if before > MAX_UNREAD || self.outgoing.len() > MAX_UNSENT {
            return Poll::Ready(Err(ErrorKind::InvalidData.into()));
        }
        let mut bytes = READING.take();
        let size = before.saturating_add(READ);
        if bytes.len() < size {
            bytes.resize(size, 0);
        }
        let outcome = self.poll_take_in_by(context, &mut bytes, to);
        if bytes.len() <= 2 * READ {
            READING.set(bytes);
        }
        outcome
    }

    /// `bytes` has room for what is there already, and for more.
    fn poll_take_in_by(
        &mut self,
        context: &mut Context<'_>,
        bytes: &mut [u8],
        to: Option<&mut ReadBuf<'_>>,
    ) -> Poll<io::Result<()>> {
        let (old, space) = bytes.split_at_mut(self.incoming.len());
        let mut space = ReadBuf::new(space);
        ready!(Pin::new(&mut self.stream).poll_read(context, &mut space))?;
        let count = space.filled().len();
        if count == 0 {
            // Without a word, somebody else may have cut it.
            return Poll::Ready(Err(ErrorKind::UnexpectedEof.into()));
        }
        old.copy_from_slice(&self.incoming);
        let filled = old.len().saturating_add(count);
        let bytes = bytes.get_mut(..filled).unwrap_or_default();
        let done = match self.process(bytes, to, Then::Nothing) {
            Ok(done) => done,
            Err(error) => {
                return Poll::Ready(Err(io::Error::new(ErrorKind::InvalidData, error)));
            }
        };
        self.incoming = bytes.get(done..).unwrap_or_default().to_vec();
        Poll::Ready(Ok(()))
    }
}

/// What is to be done once rustls has taken all records.
#[derive(Clone, Copy)]
enum Then<'a> {
    Nothing,
    /// Encrypt this text.
    Write(&'a [u8]),
    /// Say that nothing more comes.
    Close,
}

impl<S> Inner<S> {
    /// Lets rustls take all whole records in `bytes`. Text goes to `to` first. Returns how many
    /// bytes are done with.
    fn process(
        &mut self,
        bytes: &mut [u8],
        mut to: Option<&mut ReadBuf<'_>>,
        then: Then<'_>,
    ) -> Result<usize, Error> {
        let mut done = 0_usize;
        loop {
            let rest = bytes.get_mut(done..).unwrap_or_default();
            let (discard, taken) = self.step(rest, &mut to, then);
            done = done.saturating_add(discard);
            match taken {
                Ok(true) => return Ok(done),
                Ok(false) => {}
                Err(error) => {
                    // The word for the client, if there is one.
                    let rest = bytes.get_mut(done..).unwrap_or_default();
                    if let Ok(ConnectionState::EncodeTlsData(alert)) =
                        self.tls.process_tls_records(rest).state
                    {
                        encode(alert, &mut self.outgoing);
                    }
                    return Err(error);
                }
            }
        }
    }

    /// One step of [`Inner::process`]: the number of bytes that are done with, and whether it was
    /// the last step.
    fn step(
        &mut self,
        bytes: &mut [u8],
        to: &mut Option<&mut ReadBuf<'_>>,
        then: Then<'_>,
    ) -> (usize, Result<bool, Error>) {
        let UnbufferedStatus { mut discard, state } = self.tls.process_tls_records(bytes);
        let taken = match state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
                match traffic.next_record() {
                    None => break Ok(false),
                    Some(Err(error)) => break Err(error),
                    Some(Ok(record)) => {
                        discard = discard.saturating_add(record.discard);
                        let mut text = record.payload;
                        if self.text.is_empty()
                            && let Some(to) = to
                        {
                            let (now, later) = text.split_at(text.len().min(to.remaining()));
                            to.put_slice(now);
                            text = later;
                        }
                        self.text.extend_from_slice(text);
                    }
                }
            },
            Ok(ConnectionState::EncodeTlsData(message)) => {
                encode(message, &mut self.outgoing);
                Ok(false)
            }
            Ok(ConnectionState::TransmitTlsData(message)) => {
                message.done();
                Ok(false)
            }
            Ok(ConnectionState::PeerClosed) => {
                self.has_ended = true;
                Ok(false)
            }
            Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                let out = &mut self.outgoing;
                let put = match then {
                    Then::Nothing => Ok(()),
                    Then::Write(text) => put(out, text.len().saturating_add(64), |space| {
                        short(traffic.encrypt(text, space))
                    }),
                    Then::Close => put(out, 64, |space| short(traffic.queue_close_notify(space))),
                };
                put.map(|()| true)
            }
            Ok(ConnectionState::BlockedHandshake | ConnectionState::Closed) => match then {
                Then::Nothing => Ok(true),
                Then::Write(_) | Then::Close => Err(Error::HandshakeNotComplete),
            },
            // Early data is not accepted, so there is none.
            Ok(_) => Err(Error::General("a state that is not known".to_owned())),
            Err(error) => Err(error),
        };
        (discard, taken)
    }
}

fn encode(mut message: EncodeTlsData<'_, ServerConnectionData>, outgoing: &mut Vec<u8>) {
    // It is refused only for want of space, or if it was encoded before.
    let _ = put(outgoing, 0, |space| match message.encode(space) {
        Err(EncodeError::InsufficientSize(short)) => Err(Some(short.required_size)),
        Err(EncodeError::AlreadyEncoded) => Err(None),
        Ok(count) => Ok(count),
    });
}

/// The size that is needed, if only that is missing.
fn short(encrypted: Result<usize, EncryptError>) -> Result<usize, Option<usize>> {
    encrypted.map_err(|error| match error {
        EncryptError::InsufficientSize(short) => Some(short.required_size),
        EncryptError::EncryptExhausted => None,
    })
}

/// Appends what `fill` writes. It gets the space that it asks for, at first as much as `size`.
fn put(
    outgoing: &mut Vec<u8>,
    size: usize,
    mut fill: impl FnMut(&mut [u8]) -> Result<usize, Option<usize>>,
) -> Result<(), Error> {
    if outgoing.capacity() == 0 {
        *outgoing = WRITING.take();
    }
    let before = outgoing.len();
    let mut size = size;
    for _ in 0..2 {
        outgoing.resize(before.saturating_add(size), 0);
        let filled = fill(outgoing.get_mut(before..).unwrap_or_default());
        let count = filled.unwrap_or_default();
        outgoing.truncate(before.saturating_add(count));
        match filled {
            Ok(_) => return Ok(()),
            Err(Some(required)) => size = required,
            Err(None) => break,
        }
    }
    Err(Error::EncryptError)
}

impl<S: AsyncWrite + Unpin> Inner<S> {
    /// Writes the records that wait.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.outgoing.get(self.written..)
            && !rest.is_empty()
        {
            let Poll::Ready(count) = Pin::new(&mut self.stream).poll_write(context, rest) else {
                // For a stay: what the thread had is larger than need be.
                self.outgoing.shrink_to_fit();
                return Poll::Pending;
            };
            let count = count?;
            if count == 0 {
                return Poll::Ready(Err(ErrorKind::WriteZero.into()));
            }
            self.written = self.written.saturating_add(count);
        }
        let mut bytes = std::mem::take(&mut self.outgoing);
        self.written = 0;
        if bytes.capacity() > 0 && bytes.capacity() <= 2 * READ {
            bytes.clear();
            WRITING.set(bytes);
        }
        Poll::Ready(Ok(()))
    }

    /// Encrypts behind the records that wait.
    fn then(&mut self, then: Then<'_>) -> io::Result<()> {
        // No whole record is in there: they were taken when they came.
        let mut incoming = std::mem::take(&mut self.incoming);
        let done = self.process(&mut incoming, None, then);
        let done = done.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
        incoming.drain(..done.min(incoming.len()));
        self.incoming = incoming;
        Ok(())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let inner = &mut *self.0;
        let before = buffer.filled().len();
        while !inner.has_text() {
            if inner.has_ended {
                return Poll::Ready(Ok(()));
            }
            let taken_in = inner.poll_take_in(context, Some(&mut *buffer));
            // Answers to what came. The next write sees to the rest, and to errors.
            let _ = inner.poll_send(context);
            ready!(taken_in)?;
            if buffer.filled().len() > before || buffer.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
        }
        let rest = inner.text.get(inner.taken..).unwrap_or_default();
        let (now, later) = rest.split_at(rest.len().min(buffer.remaining()));
        buffer.put_slice(now);
        if later.is_empty() {
            (inner.text, inner.taken) = (Vec::new(), 0);
        } else {
            inner.taken = inner.taken.saturating_add(now.len());
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        text: &[u8],
    ) -> Poll<io::Result<usize>> {
        let inner = &mut *self.0;
        // One record at most waits here: more is the caller's to hold, which counts it.
        ready!(inner.poll_send(context))?;
        let count = text.len().min(RECORD);
        if count > 0 {
            inner.then(Then::Write(text.get(..count).unwrap_or_default()))?;
            let _ = inner.poll_send(context)?;
        }
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.0.poll_send(context))?;
        Pin::new(&mut self.0.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inner = &mut *self.0;
        if !inner.is_closing {
            inner.is_closing = true;
            inner.then(Then::Close)?;
        }
        ready!(inner.poll_send(context))?;
        Pin::new(&mut inner.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests;
