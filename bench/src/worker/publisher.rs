//! A publisher: one connection, by AMQP, STOMP, or the protocol of NATS.

use std::{
    io::{self, Read, Write as _},
    net::{self, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use mio::{Interest, Registry, Token, net::TcpStream};

use super::amqp::{Amqp, read_some};
use crate::{
    orders::Publish,
    wire::{
        body::Stamp,
        dialect::{VHOST, destination},
        nats, read_on, stomp, websocket,
    },
};

/// For each step of a log-in.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The most bytes that may wait to be written; a server that is further behind is not measured.
const MAX_UNSENT: usize = 256 * 1024 * 1024;

/// A connection that publishes. Messages go out by [`Self::flush`].
pub(super) struct Publisher {
    socket: TcpStream,
    speech: Speech,
    unsent: Vec<u8>,
    /// The sent part of `unsent`.
    sent: usize,
    body: Vec<u8>,
    frame: Vec<u8>,
}

/// Its protocol, and the bytes that it has read and not used.
enum Speech {
    Amqp(Amqp),
    Stomp(Vec<u8>),
    Nats(Vec<u8>),
}

impl Publisher {
    /// Connects and logs in, and waits for that.
    ///
    /// # Errors
    /// The server is not reached, or refuses.
    pub(super) fn connect(publish: Publish, registry: &Registry, token: Token) -> Result<Self> {
        let server = publish.server();
        let mut stream = connect(server)?;
        let logged_in = match publish {
            Publish::Amqp(_) => Amqp::log_in(&mut stream).map(Speech::Amqp),
            Publish::Stomp(_) => log_in_stomp(&mut stream, server, token).map(Speech::Stomp),
            Publish::Nats(_) => log_in_nats(&mut stream).map(Speech::Nats),
        };
        let speech = logged_in.with_context(|| format!("the publisher logs in at {server}"))?;
        stream.set_nonblocking(true)?;
        let mut socket = TcpStream::from_std(stream);
        registry.register(&mut socket, token, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self {
            socket,
            speech,
            unsent: Vec::new(),
            sent: 0,
            body: Vec::new(),
            frame: Vec::new(),
        })
    }

    /// Publishes a message of `size` bytes, with the next flush.
    pub(super) fn publish(&mut self, key: &str, stamp: Stamp, size: usize) {
        self.body.clear();
        stamp.write(size, &mut self.body);
        let (body, out) = (&self.body, &mut self.unsent);
        match &self.speech {
            Speech::Amqp(amqp) => amqp.publish(key, body, out),
            Speech::Stomp(_) => {
                self.frame.clear();
                stomp::send(&destination(key), body, &mut self.frame);
                websocket::write_text(&self.frame, out);
            }
            Speech::Nats(_) => nats::publish(key, body, out),
        }
    }

    /// Writes what the socket takes.
    ///
    /// # Errors
    /// The connection is lost, or the server is too far behind.
    pub(super) fn flush(&mut self) -> Result<()> {
        while self.sent < self.unsent.len() {
            match self.socket.write(&self.unsent[self.sent..]) {
                Ok(length) => self.sent += length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let waits = self.unsent.len() - self.sent;
                    ensure!(
                        waits < MAX_UNSENT,
                        "the server reads too slowly: {waits} bytes wait to be published"
                    );
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("publishing"),
            }
        }
        self.unsent.clear();
        self.sent = 0;
        Ok(())
    }

    /// Reads the server's answers.
    ///
    /// # Errors
    /// It closes, or is short of memory: then the figures mean nothing.
    pub(super) fn read(&mut self) -> Result<()> {
        let socket = &mut self.socket;
        match &mut self.speech {
            Speech::Amqp(amqp) => {
                while amqp.read(socket)? {
                    // All other methods than those that end it are of no interest.
                    while amqp.next()?.is_some() {}
                }
            }
            Speech::Stomp(unread) => while read_more(socket, unread, read_stomp)?.is_some() {},
            Speech::Nats(unread) => {
                let out = &mut self.unsent;
                while read_more(socket, unread, |bytes| read_nats(bytes, out))?.is_some() {}
            }
        }
        Ok(())
    }
}

fn read_stomp(bytes: &mut &[u8]) -> Result<()> {
    while let Some(frame) = websocket::next_frame(bytes).map_err(|error| anyhow!(error))? {
        let mut payload = frame.payload;
        while let Ok(Some(frame)) = stomp::next_frame(&mut payload) {
            ensure!(
                frame.command != b"ERROR",
                "publishing: {}",
                frame.error_text()
            );
        }
    }
    Ok(())
}

/// Answers pings into `unsent`.
fn read_nats(bytes: &mut &[u8], unsent: &mut Vec<u8>) -> Result<()> {
    while let Some(op) = nats::next_op(bytes).map_err(|error| anyhow!(error))? {
        match op {
            nats::Op::Ping => unsent.extend_from_slice(nats::PONG),
            nats::Op::Error(why) => bail!("publishing: {}", String::from_utf8_lossy(why)),
            _ => {}
        }
    }
    Ok(())
}

/// Answers what was read and not used.
fn log_in_nats(stream: &mut net::TcpStream) -> Result<Vec<u8>> {
    let (mut unread, mut bytes) = (Vec::new(), Vec::new());
    nats::connect("publisher", &mut bytes);
    stream.write_all(&bytes)?;
    wait(stream, &mut unread, |bytes| {
        while let Some(op) = nats::next_op(bytes).map_err(|error| anyhow!(error))? {
            if op == nats::Op::Pong {
                return Ok(Some(()));
            }
        }
        Ok(None)
    })?;
    Ok(unread)
}

/// Answers what was read and not used.
fn log_in_stomp(stream: &mut net::TcpStream, server: SocketAddr, token: Token) -> Result<Vec<u8>> {
    let mut unread = Vec::new();
    stream.write_all(&websocket::upgrade_request(&server.to_string(), "/ws"))?;
    wait(stream, &mut unread, |bytes| {
        let upgraded = websocket::upgrade_response(bytes).map_err(|error| anyhow!(error))?;
        *bytes = bytes
            .get(upgraded.unwrap_or_default()..)
            .unwrap_or_default();
        Ok(upgraded)
    })?;
    let (mut connect, mut bytes) = (Vec::new(), Vec::new());
    // Each is a user of its own, for there are limits to what one may do.
    let user = format!("publisher_{}", token.0);
    stomp::connect(VHOST, &user, 0, &mut connect);
    websocket::write_text(&connect, &mut bytes);
    stream.write_all(&bytes)?;
    wait(stream, &mut unread, |bytes| {
        let frame = websocket::next_frame(bytes).map_err(|error| anyhow!(error))?;
        let Some(frame) = frame else {
            return Ok(None);
        };
        let text = String::from_utf8_lossy(frame.payload);
        ensure!(text.starts_with("CONNECTED"), "the server says {text:?}");
        Ok(Some(()))
    })?;
    Ok(unread)
}

fn connect(server: SocketAddr) -> Result<net::TcpStream> {
    let stream = net::TcpStream::connect_timeout(&server, TIMEOUT)
        .with_context(|| format!("the publisher connects to {server}"))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Has `read` take off the bytes that are there to read; `None` without bytes.
fn read_more<T>(
    socket: &mut impl Read,
    unread: &mut Vec<u8>,
    read: impl FnOnce(&mut &[u8]) -> Result<T>,
) -> Result<Option<T>> {
    let mut buffer = [0; 4096];
    let length = read_some(socket, &mut buffer)?;
    let read = length.map(|length| read_on(unread, &buffer[..length], read));
    read.transpose()
}

/// Waits until `read` has what it is there for. Servers only answer here, so nothing was left of what was
/// read before.
fn wait<T>(
    socket: &mut net::TcpStream,
    unread: &mut Vec<u8>,
    read: impl Fn(&mut &[u8]) -> Result<Option<T>>,
) -> Result<T> {
    loop {
        let more = read_more(socket, unread, &read)?;
        if let Some(done) = more.context("the server does not answer")? {
            return Ok(done);
        }
    }
}

/// A publisher that waits until its messages are written, for who sends a few. Keep it until they
/// have arrived: RabbitMQ may drop what a closed connection has sent.
pub(crate) struct Blocking {
    stream: net::TcpStream,
    amqp: Amqp,
}

impl Blocking {
    /// Connects and logs in.
    ///
    /// # Errors
    /// RabbitMQ is not reached, or refuses.
    pub(crate) fn connect(server: SocketAddr) -> Result<Self> {
        let mut stream = connect(server)?;
        let amqp = Amqp::log_in(&mut stream)?;
        Ok(Self { stream, amqp })
    }

    /// Publishes a message of `size` bytes.
    ///
    /// # Errors
    /// The connection is lost.
    pub(crate) fn publish(&mut self, key: &str, stamp: Stamp, size: usize) -> Result<()> {
        let (mut body, mut bytes) = (Vec::new(), Vec::new());
        stamp.write(size, &mut body);
        self.amqp.publish(key, &body, &mut bytes);
        self.stream.write_all(&bytes).context("publishing")
    }
}

/// Processor time of the plainest read of a message from a queue, in microseconds: with nothing but
/// a decoder, and acknowledgements.
///
/// # Errors
/// RabbitMQ is not reached, or refuses.
pub(crate) fn bare_read(server: SocketAddr, messages: u64, size: usize) -> Result<f64> {
    let mut stream = connect(server)?;
    let mut amqp = Amqp::log_in(&mut stream)?;
    amqp.bare_read(&mut stream, messages, size)
}

/// Declares the exchange that all messages go through: Web STOMP does not.
///
/// # Errors
/// RabbitMQ is not reached, or refuses.
pub(crate) fn declare_exchange(server: SocketAddr) -> Result<()> {
    Amqp::log_in(&mut connect(server)?).map(drop)
}
