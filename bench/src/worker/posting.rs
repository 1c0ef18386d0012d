//! Sockets that carry what clients of SockJS send: a few, which all share, as behind a proxy.

use std::{
    io::{self, Read as _, Write as _},
    net::SocketAddr,
};

use anyhow::{Context as _, Result, anyhow, bail};
use mio::{Interest, Registry, Token, net::TcpStream};

use super::socket::{Socket, Tls};
use crate::wire::{read_on, sockjs};

/// Sockets of a worker. A session keeps to one, so that what it sends stays in order.
pub(super) const SOCKETS: usize = 16;

/// The sockets, opened when they are needed.
pub(super) struct Posting {
    registry: Registry,
    first_token: usize,
    sockets: [Option<Poster>; SOCKETS],
}

struct Poster {
    socket: Socket,
    unsent: Vec<u8>,
    unread: Vec<u8>,
}

impl Posting {
    pub(super) fn new(registry: Registry, first_token: usize) -> Self {
        Self {
            registry,
            first_token,
            sockets: [const { None }; SOCKETS],
        }
    }

    /// Sends requests of the client in this slot.
    ///
    /// # Errors
    /// The server is not reached.
    pub(super) fn post(
        &mut self,
        slot: usize,
        requests: &[u8],
        server: SocketAddr,
        tls: Option<&Tls>,
    ) -> Result<()> {
        let number = slot % SOCKETS;
        let place = &mut self.sockets[number];
        let poster = match place {
            Some(poster) => poster,
            None => {
                let mut stream = TcpStream::connect(server)?;
                let token = Token(self.first_token + number);
                let interests = Interest::READABLE | Interest::WRITABLE;
                self.registry.register(&mut stream, token, interests)?;
                place.insert(Poster {
                    socket: Socket::new(stream, server, tls)?,
                    unsent: Vec::new(),
                    unread: Vec::new(),
                })
            }
        };
        poster.unsent.extend_from_slice(requests);
        poster.write()
    }

    /// Goes on with a socket that is ready.
    ///
    /// # Errors
    /// A request was refused.
    pub(super) fn ready(&mut self, number: usize) -> Result<()> {
        let place = self.sockets.get_mut(number).context("no such socket")?;
        if let Some(poster) = place {
            let is_open = poster.read()?;
            poster.write()?;
            if !is_open {
                *place = None;
            }
        }
        Ok(())
    }
}

impl Poster {
    fn write(&mut self) -> Result<()> {
        let mut sent = 0;
        while sent < self.unsent.len() {
            match self.socket.write(&self.unsent[sent..]) {
                Ok(length) => sent += length,
                Err(error) if is_later(&error) => break,
                Err(error) => return Err(error).context("sending by SockJS"),
            }
        }
        self.unsent.drain(..sent);
        match self.socket.flush() {
            Err(error) if !is_later(&error) => Err(error).context("sending by SockJS"),
            _ => Ok(()),
        }
    }

    /// Reads the answers; returns true if the socket is still open.
    fn read(&mut self) -> Result<bool> {
        let mut buffer = [0; 16 * 1024];
        let is_open = loop {
            match self.socket.read(&mut buffer) {
                Ok(0) => break false,
                Ok(length) => read_on(&mut self.unread, &buffer[..length], |rest| {
                    while sockjs::next_sent(rest)? {}
                    Ok(())
                })
                .map_err(|error: String| anyhow!(error))?,
                Err(error) if is_later(&error) => break true,
                Err(error) => return Err(error).context("sending by SockJS"),
            }
        };
        if !is_open && !self.unsent.is_empty() {
            bail!("the server closed a connection on which clients were sending");
        }
        Ok(is_open)
    }
}

/// Before a connection is made, writing is too early.
fn is_later(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::NotConnected
    )
}
