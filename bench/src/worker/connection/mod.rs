//! One client: from the TCP connection to its messages.

#[cfg(test)]
mod tests;

use std::{
    io::{self, Read as _, Write as _},
    net::SocketAddr,
};

use mio::{event::Event, net::TcpStream};

use super::{clock, link::Link, socket::Socket};
use crate::{
    orders::Habits,
    wire::{
        dialect::{COMMON_KEY, Said, user_key},
        read_on, sockjs, stomp,
        websocket::{self, Opcode},
    },
};

/// A connection stays, or comes and goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Steady,
    Passing,
}

/// The stage of a connection: what it waits for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Stage {
    Connecting,
    Upgrading,
    LoggingIn,
    /// So many receipts.
    Subscribing(u8),
    Ready,
    /// The server's close.
    Leaving,
}

/// One client. Small, for there are thousands: its buffers are empty nearly always.
pub(super) struct Connection {
    socket: Socket,
    link: Link,
    server: SocketAddr,
    stage: Stage,
    kind: Kind,
    habits: Habits,
    /// One of those that are to stop reading.
    slow: bool,
    reads: bool,
    user: u32,
    since: u64,
    unsent: Vec<u8>,
    /// An incomplete WebSocket frame, or upgrade.
    raw: Vec<u8>,
    /// An incomplete frame of the dialect.
    text: Vec<u8>,
}

impl Connection {
    pub(super) fn new(
        socket: Socket,
        link: Link,
        kind: Kind,
        user: u32,
        server: SocketAddr,
        habits: Habits,
        slow: bool,
    ) -> Self {
        Self {
            socket,
            link,
            server,
            stage: Stage::Connecting,
            kind,
            habits,
            slow,
            reads: true,
            user,
            since: clock::now(),
            unsent: Vec::new(),
            raw: Vec::new(),
            text: Vec::new(),
        }
    }

    pub(super) const fn stream(&mut self) -> &mut TcpStream {
        self.socket.stream()
    }

    pub(super) const fn server(&self) -> SocketAddr {
        self.server
    }

    /// Requests that are to be made for it, elsewhere.
    pub(super) fn posts(&mut self) -> Option<Vec<u8>> {
        self.link.posts()
    }

    pub(super) const fn kind(&self) -> Kind {
        self.kind
    }

    pub(super) const fn stage(&self) -> Stage {
        self.stage
    }

    /// When it was opened.
    pub(super) const fn since(&self) -> u64 {
        self.since
    }

    /// Stops reading, if it is a slow one.
    pub(super) const fn stop_if_slow(&mut self) -> bool {
        self.reads = !self.slow;
        self.slow
    }

    /// Handles an event of the socket. `subscribed` counts receipts of later SUBSCRIBEs.
    ///
    /// # Errors
    /// The connection is over, and why.
    pub(super) fn handle(
        &mut self,
        event: &Event,
        buffer: &mut [u8],
        subscribed: &mut u32,
        mut message: impl FnMut(&[u8]),
    ) -> Result<(), String> {
        if event.is_writable() {
            if self.stage == Stage::Connecting {
                self.connected()?;
            } else {
                self.flush()?;
            }
        }
        if !self.reads {
            return if event.is_read_closed() {
                Err("closed by the server".into())
            } else {
                Ok(())
            };
        }
        if !event.is_readable() && !event.is_read_closed() && !event.is_error() {
            return Ok(());
        }
        loop {
            match self.socket.read(buffer) {
                Ok(0) => return Err("closed by the server without a word".into()),
                Ok(length) => {
                    self.received(&buffer[..length], subscribed, &mut message)?;
                    // The socket tells of what comes later; of an end that is there already it
                    // has told.
                    if self.socket.short_read_is_all()
                        && length < buffer.len()
                        && !event.is_read_closed()
                    {
                        return Ok(());
                    }
                }
                // During the handshake of TLS what was read makes it possible to write.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return self.flush(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(format!("reading: {error}")),
            }
        }
    }

    /// Sends a heart-beat, once it is ready.
    pub(super) fn beat(&mut self) -> Result<(), String> {
        if self.stage == Stage::Ready && self.unsent.is_empty() {
            let dialect = self.habits.dialect;
            return self.send(|out| dialect.beat(out));
        }
        Ok(())
    }

    pub(super) fn subscribe(&mut self, id: u32, key: &str) -> Result<(), String> {
        let dialect = self.habits.dialect;
        self.send(|out| dialect.subscribe(id, key, out))
    }

    pub(super) fn publish(&mut self, destination: &str, body: &[u8]) -> Result<(), String> {
        self.send(|out| stomp::send(destination, body, out))
    }

    pub(super) fn unsubscribe(&mut self, id: u32) -> Result<(), String> {
        self.send(|out| stomp::unsubscribe(id, out))
    }

    pub(super) fn leave(&mut self) -> Result<(), String> {
        self.stage = Stage::Leaving;
        self.send(stomp::disconnect)
    }

    fn connected(&mut self) -> Result<(), String> {
        match self.stream().take_error() {
            Ok(None) => {}
            Ok(Some(error)) | Err(error) => return Err(format!("connecting: {error}")),
        }
        self.stage = Stage::Upgrading;
        self.request()
    }

    /// Asks for the WebSocket, or for messages by SockJS.
    fn request(&mut self) -> Result<(), String> {
        let path = self.habits.dialect.path();
        let request = self.link.request(&self.server.to_string(), path);
        self.write(&request)
    }

    fn log_in(&mut self) -> Result<(), String> {
        self.stage = Stage::LoggingIn;
        let name = self.name();
        let Habits {
            dialect,
            heart_beat_ms,
            ..
        } = self.habits;
        self.send(|out| dialect.log_in(&name, heart_beat_ms, out))
    }

    fn received(
        &mut self,
        bytes: &[u8],
        subscribed: &mut u32,
        message: &mut impl FnMut(&[u8]),
    ) -> Result<(), String> {
        if let Link::Sockjs(link) = &mut self.link {
            let (frames, ended) = link.responses.received(bytes)?;
            for frame in frames {
                self.sockjs(frame, subscribed, message)?;
            }
            return if ended { self.request() } else { Ok(()) };
        }
        let mut raw = std::mem::take(&mut self.raw);
        let read = |bytes: &mut &[u8]| self.read_raw(bytes, subscribed, message);
        let done = read_on(&mut raw, bytes, read);
        self.raw = raw;
        done
    }

    /// Reads what is complete.
    fn read_raw(
        &mut self,
        bytes: &mut &[u8],
        subscribed: &mut u32,
        message: &mut impl FnMut(&[u8]),
    ) -> Result<(), String> {
        if self.stage == Stage::Upgrading {
            let Some(length) = websocket::upgrade_response(bytes)? else {
                return Ok(());
            };
            *bytes = bytes.get(length..).unwrap_or_default();
            self.log_in()?;
        }
        while let Some(frame) = websocket::next_frame(bytes)? {
            match frame.opcode {
                Opcode::Data => self.read_text(frame.payload, subscribed, message)?,
                Opcode::Close => return Err(close_reason(frame.payload)),
                Opcode::Ping => {
                    let mut pong = Vec::new();
                    websocket::write_pong(frame.payload, &mut pong);
                    self.write(&pong)?;
                }
                Opcode::Pong => {}
            }
        }
        Ok(())
    }

    fn sockjs(
        &mut self,
        frame: sockjs::Frame,
        subscribed: &mut u32,
        message: &mut impl FnMut(&[u8]),
    ) -> Result<(), String> {
        match frame {
            sockjs::Frame::Open => self.log_in(),
            sockjs::Frame::HeartBeat => Ok(()),
            sockjs::Frame::Close(why) => Err(format!("closed by the server: {why}")),
            sockjs::Frame::Messages(messages) => messages
                .iter()
                .try_for_each(|text| self.read_text(text.as_bytes(), subscribed, message)),
        }
    }

    fn read_text(
        &mut self,
        payload: &[u8],
        subscribed: &mut u32,
        message: &mut impl FnMut(&[u8]),
    ) -> Result<(), String> {
        let mut text = std::mem::take(&mut self.text);
        let done = read_on(&mut text, payload, |bytes| {
            while let Some(said) = self.habits.dialect.next(bytes)? {
                self.said(said, subscribed, message)?;
            }
            Ok(())
        });
        self.text = text;
        done
    }

    fn said(
        &mut self,
        said: Said<'_>,
        subscribed: &mut u32,
        message: &mut impl FnMut(&[u8]),
    ) -> Result<(), String> {
        match (said, self.stage) {
            (Said::Message(body), _) => message(body),
            (Said::LoggedIn | Said::Done, Stage::LoggingIn) => return self.logged_in(),
            (Said::Receipt { .. } | Said::Done, Stage::Subscribing(left)) => {
                self.stage = match left {
                    2.. => Stage::Subscribing(left - 1),
                    _ => Stage::Ready,
                };
            }
            (Said::Receipt { subscribed: is_new }, _) => *subscribed += u32::from(is_new),
            (Said::Ping, _) => {
                let dialect = self.habits.dialect;
                return self.send(|out| dialect.pong(out));
            }
            (Said::Error(why), _) => return Err(why),
            // The answer to a heart-beat.
            (Said::Done, Stage::Ready) | (Said::Nothing, _) => {}
            (other, stage) => return Err(format!("unexpected: {other:?} ({stage:?})")),
        }
        Ok(())
    }

    fn logged_in(&mut self) -> Result<(), String> {
        let Habits {
            own_key,
            common_key,
            ..
        } = self.habits;
        let count = u8::from(own_key) + u8::from(common_key);
        self.stage = match count {
            0 => Stage::Ready,
            count => Stage::Subscribing(count),
        };
        if own_key {
            let key = self.name();
            self.subscribe(0, &key)?;
        }
        if common_key {
            self.subscribe(1, COMMON_KEY)?;
        }
        Ok(())
    }

    /// As whom it logs in, which is its key, too.
    fn name(&self) -> String {
        user_key(if self.habits.same_user { 0 } else { self.user })
    }

    /// Sends a frame of the dialect.
    fn send(&mut self, frame: impl FnOnce(&mut Vec<u8>)) -> Result<(), String> {
        let mut payload = Vec::new();
        frame(&mut payload);
        if let Link::Sockjs(link) = &mut self.link {
            return link.post(&self.server.to_string(), &payload);
        }
        let mut bytes = Vec::new();
        websocket::write_text(&payload, &mut bytes);
        self.write(&bytes)
    }

    /// Writes what waits, here and in TLS.
    fn flush(&mut self) -> Result<(), String> {
        if !self.unsent.is_empty() {
            let unsent = std::mem::take(&mut self.unsent);
            self.write(&unsent)?;
        }
        match self.socket.flush() {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                Err(format!("writing: {error}"))
            }
            _ => Ok(()),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        let mut sent = 0;
        while self.unsent.is_empty() && sent < bytes.len() {
            match self.socket.write(&bytes[sent..]) {
                Ok(length) => sent += length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(format!("writing: {error}")),
            }
        }
        self.unsent.extend_from_slice(&bytes[sent..]);
        Ok(())
    }
}

fn close_reason(payload: &[u8]) -> String {
    match payload.split_first_chunk::<2>() {
        Some((code, reason)) => {
            let code = u16::from_be_bytes(*code);
            let reason = String::from_utf8_lossy(reason);
            format!("closed by the server: {code} {reason}")
        }
        None => "closed by the server".into(),
    }
}
