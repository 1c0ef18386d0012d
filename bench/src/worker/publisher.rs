//! What publishes: one connection, by AMQP, STOMP, or in the words of NATS.

use std::{
    io::{self, Read, Write as _},
    net::SocketAddr,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use mio::{Interest, Registry, Token, net::TcpStream};

use crate::{
    orders::{EXCHANGE, Publish},
    wire::{
        amqp,
        body::Stamp,
        dialect::{VHOST, destination},
        nats, stomp, websocket,
    },
};

/// For each step of a log-in.
const TIMEOUT: Duration = Duration::from_secs(30);

/// What may wait to be written; a server that is so far behind is not measured any more.
const MAX_UNSENT: usize = 256 * 1024 * 1024;

/// A connection that publishes. What is published goes out by [`Self::flush`].
pub(super) struct Publisher {
    socket: TcpStream,
    publish: Publish,
    unsent: Vec<u8>,
    /// Of `unsent`, what is sent.
    sent: usize,
    unread: Vec<u8>,
    body: Vec<u8>,
    frame: Vec<u8>,
}

impl Publisher {
    /// Connects and logs in, and waits for that.
    ///
    /// # Errors
    /// The server is not reached, or refuses.
    pub(super) fn connect(publish: Publish, registry: &Registry, token: Token) -> Result<Self> {
        let server = publish.server();
        let stream = std::net::TcpStream::connect_timeout(&server, TIMEOUT);
        let mut stream = stream.with_context(|| format!("the publisher connects to {server}"))?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_nodelay(true)?;
        let unread = match publish {
            Publish::Amqp(_) => log_in_amqp(&mut stream),
            Publish::Stomp(_) => log_in_stomp(&mut stream, server, token),
            Publish::Nats(_) => log_in_nats(&mut stream),
        };
        let unread = unread.with_context(|| format!("the publisher logs in at {server}"))?;
        stream.set_nonblocking(true)?;
        let mut socket = TcpStream::from_std(stream);
        registry.register(&mut socket, token, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self {
            socket,
            publish,
            unsent: Vec::new(),
            sent: 0,
            unread,
            body: Vec::new(),
            frame: Vec::new(),
        })
    }

    /// Publishes a message of `size` bytes, with the next flush.
    pub(super) fn publish(&mut self, key: &str, stamp: Stamp, size: usize) {
        self.body.clear();
        stamp.write(size, &mut self.body);
        match self.publish {
            Publish::Amqp(_) => amqp::publish(EXCHANGE, key, &self.body, &mut self.unsent),
            Publish::Stomp(_) => {
                self.frame.clear();
                stomp::send(&destination(key), &self.body, &mut self.frame);
                websocket::write_text(&self.frame, &mut self.unsent);
            }
            Publish::Nats(_) => nats::publish(key, &self.body, &mut self.unsent),
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

    /// Reads what the server says.
    ///
    /// # Errors
    /// It closes, or is short of memory: what is measured then means nothing.
    pub(super) fn read(&mut self) -> Result<()> {
        let mut buffer = [0; 4096];
        loop {
            match self.socket.read(&mut buffer) {
                Ok(0) => bail!("the publisher's connection was closed by the server"),
                Ok(length) => self.unread.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("the publisher reads"),
            }
        }
        let mut rest = self.unread.as_slice();
        let read = match self.publish {
            Publish::Amqp(_) => read_amqp(&mut rest),
            Publish::Stomp(_) => read_stomp(&mut rest),
            Publish::Nats(_) => read_nats(&mut rest, &mut self.unsent),
        };
        let rest = rest.len();
        self.unread.drain(..self.unread.len() - rest);
        read
    }
}

fn read_amqp(bytes: &mut &[u8]) -> Result<()> {
    while let Some(method) = amqp::next_method(bytes).map_err(|error| anyhow!(error))? {
        match method.id {
            amqp::CLOSE | amqp::CHANNEL_CLOSE => {
                bail!("RabbitMQ closes the publisher: {}", method.reason());
            }
            amqp::BLOCKED => bail!("RabbitMQ is short of memory or disk, and blocks publishers"),
            _ => {}
        }
    }
    Ok(())
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
fn log_in_nats(stream: &mut std::net::TcpStream) -> Result<Vec<u8>> {
    let (mut unread, mut bytes) = (Vec::new(), Vec::new());
    nats::connect("publisher", &mut bytes);
    stream.write_all(&bytes)?;
    loop {
        let mut rest = unread.as_slice();
        while let Some(op) = nats::next_op(&mut rest).map_err(|error| anyhow!(error))? {
            if op == nats::Op::Pong {
                return Ok(rest.to_vec());
            }
        }
        unread = rest.to_vec();
        read_more(stream, &mut unread)?;
    }
}

/// Answers what was read and not used.
fn log_in_amqp(stream: &mut std::net::TcpStream) -> Result<Vec<u8>> {
    let mut unread = Vec::new();
    stream.write_all(amqp::PROTOCOL_HEADER)?;
    expect_method(stream, &mut unread, amqp::START, |_| amqp::start_ok())?;
    expect_method(stream, &mut unread, amqp::TUNE, |tune| {
        [amqp::tune_ok(tune), amqp::open(VHOST)].concat()
    })?;
    expect_method(stream, &mut unread, amqp::OPEN_OK, |_| amqp::channel_open())?;
    expect_method(stream, &mut unread, amqp::CHANNEL_OPEN_OK, |_| {
        amqp::declare_direct(EXCHANGE)
    })?;
    expect_method(stream, &mut unread, amqp::DECLARE_OK, |_| Vec::new())?;
    Ok(unread)
}

fn expect_method(
    stream: &mut std::net::TcpStream,
    unread: &mut Vec<u8>,
    expected: (u16, u16),
    answer: impl FnOnce(&amqp::Method<'_>) -> Vec<u8>,
) -> Result<()> {
    loop {
        let mut rest = unread.as_slice();
        if let Some(method) = amqp::next_method(&mut rest).map_err(|error| anyhow!(error))? {
            let reason = method.reason();
            ensure!(method.id == expected, "{:?} came: {reason}", method.id);
            stream.write_all(&answer(&method))?;
            *unread = rest.to_vec();
            return Ok(());
        }
        read_more(stream, unread)?;
    }
}

/// Answers what was read and not used.
fn log_in_stomp(
    stream: &mut std::net::TcpStream,
    server: SocketAddr,
    token: Token,
) -> Result<Vec<u8>> {
    let mut unread = Vec::new();
    stream.write_all(&websocket::upgrade_request(&server.to_string(), "/ws"))?;
    let upgrade = loop {
        match websocket::upgrade_response(&unread).map_err(|error| anyhow!(error))? {
            Some(length) => break length,
            None => read_more(stream, &mut unread)?,
        }
    };
    unread.drain(..upgrade);
    let (mut connect, mut bytes) = (Vec::new(), Vec::new());
    // Each is a user of its own, for there are limits to what one may do.
    let user = format!("publisher_{}", token.0);
    stomp::connect(VHOST, &user, 0, &mut connect);
    websocket::write_text(&connect, &mut bytes);
    stream.write_all(&bytes)?;
    loop {
        let mut rest = unread.as_slice();
        if let Some(frame) = websocket::next_frame(&mut rest).map_err(|error| anyhow!(error))? {
            let text = String::from_utf8_lossy(frame.payload);
            ensure!(text.starts_with("CONNECTED"), "the server says {text:?}");
            return Ok(rest.to_vec());
        }
        read_more(stream, &mut unread)?;
    }
}

fn read_more(stream: &mut std::net::TcpStream, unread: &mut Vec<u8>) -> Result<()> {
    let mut buffer = [0; 4096];
    let length = stream.read(&mut buffer)?;
    ensure!(length > 0, "the server closed the connection");
    unread.extend_from_slice(&buffer[..length]);
    Ok(())
}

/// Declares the exchange that all messages go through: Web STOMP does not.
///
/// # Errors
/// RabbitMQ is not reached, or refuses.
pub(crate) fn declare_exchange(server: SocketAddr) -> Result<()> {
    let mut stream = std::net::TcpStream::connect_timeout(&server, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    log_in_amqp(&mut stream)?;
    Ok(())
}
