//! All clients of a worker, on one thread: sockets, log-ins, subscriptions and heart-beats.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use anyhow::{Context as _, Result};
use mio::{Interest, Registry, Token, event::Event, net::TcpStream};
use rustix::io::Errno;
use socket2::{Domain, Protocol, Type};

use super::{
    clock,
    connection::{Connection, Kind, Stage},
    link::Link,
    posting::Posting,
    socket::{Socket, Tls},
};
use crate::{limits, orders::Habits};

/// Sockets from one source address. The system has some 28,000 ports for each, and searches the
/// longer for one the more are taken.
const PER_ADDRESS: usize = 5_000;

/// A receive buffer for clients that do not read: the smaller, the sooner their server notices.
const SLOW_BUFFER: usize = 4096;

/// An event of a connection, other than a message.
#[derive(Debug)]
pub(super) enum Happening {
    /// It has logged in, and all its receipts are there; how many nanoseconds it took.
    Ready(u64),
    /// A SUBSCRIBE of [`Fleet::subscribe`] has its receipt.
    Subscribed,
    /// It is gone, and why.
    Ended(String),
}

/// Connections by their slots. Those that stay take the first slots, in the order of their users;
/// the slots of others are used again.
pub(super) struct Fleet {
    slots: Vec<Option<Connection>>,
    free: Vec<usize>,
    steady: usize,
    passing: usize,
    /// The number of the user in slot 0.
    first_user: u32,
    registry: Registry,
    /// How to speak TLS, if it is spoken.
    tls: Option<Tls>,
    posting: Posting,
    buffer: Vec<u8>,
    happenings: Vec<(usize, Kind, Happening)>,
    /// The slot of the next heart-beat, and the part of one that is due.
    beat: (usize, f64),
    /// Sockets opened so far, for their addresses.
    opened: usize,
    /// The second number of their addresses, another one each time: on those of a run before,
    /// ports are taken for another minute.
    network: u8,
    /// Tokens of slots begin here.
    first_token: usize,
}

impl Fleet {
    pub(super) fn new(registry: Registry, posting: Posting, first_token: usize) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            steady: 0,
            passing: 0,
            first_user: 0,
            registry,
            tls: None,
            posting,
            buffer: vec![0; 64 * 1024],
            happenings: Vec::new(),
            beat: (0, 0.0),
            opened: 0,
            network: rand::random_range(1..=254),
            first_token,
        }
    }

    /// Connections that stay, also those that are gone.
    pub(super) const fn steady(&self) -> usize {
        self.steady
    }

    /// The slots of those that stay and are gone.
    pub(super) fn missing(&self) -> Vec<usize> {
        let slots = self.slots.iter().take(self.steady).enumerate();
        let gone = slots.filter(|(_, connection)| connection.is_none());
        gone.map(|(slot, _)| slot).collect()
    }

    /// Connections that come and go, at present.
    pub(super) const fn passing(&self) -> usize {
        self.passing
    }

    /// The number of the user in this slot of one that stays.
    pub(super) fn user(&self, slot: usize) -> u32 {
        self.first_user + slot as u32
    }

    /// Speaks TLS with servers from now on, or does not.
    pub(super) fn speak(&mut self, tls: Option<Tls>) {
        self.tls = tls;
    }

    /// A socket that carries what clients send is ready.
    ///
    /// # Errors
    /// What they sent was refused.
    pub(super) fn post_ready(&mut self, number: usize) -> Result<()> {
        self.posting.ready(number)
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// The system has no more sockets.
    pub(super) fn open(
        &mut self,
        kind: Kind,
        user: u32,
        server: SocketAddr,
        habits: Habits,
    ) -> Result<usize> {
        if kind == Kind::Steady && self.steady == 0 {
            self.first_user = user;
        }
        let slow = kind == Kind::Steady && is_slow(self.steady, habits.slow_percent);
        let socket = self.socket(server, slow)?;
        let slot = match self.free.pop() {
            Some(slot) if kind == Kind::Passing => slot,
            other => {
                self.free.extend(other);
                self.slots.push(None);
                self.slots.len() - 1
            }
        };
        match kind {
            Kind::Steady => self.steady += 1,
            Kind::Passing => self.passing += 1,
        }
        let link = Link::new(habits.transport);
        let connection = Connection::new(socket, link, kind, user, server, habits, slow);
        self.place(slot, connection)?;
        Ok(slot)
    }

    /// Opens a connection that stays anew: the same user's, in the same slot.
    ///
    /// # Errors
    /// The system has no more sockets.
    pub(super) fn reopen(&mut self, slot: usize, server: SocketAddr, habits: Habits) -> Result<()> {
        let socket = self.socket(server, false)?;
        let (user, link) = (self.user(slot), Link::new(habits.transport));
        let kind = Kind::Steady;
        let connection = Connection::new(socket, link, kind, user, server, habits, false);
        self.place(slot, connection)
    }

    fn socket(&mut self, server: SocketAddr, slow: bool) -> Result<Socket> {
        // Workers have an address range each.
        let worker = (self.first_user as usize / 1000) % 100;
        let part = (self.opened / PER_ADDRESS) % 250;
        let source = Ipv4Addr::new(127, self.network, 1 + worker as u8, 1 + part as u8);
        let socket = connect(source, server, slow)
            .map_err(limits::explained)
            .with_context(|| format!("opening connection number {}", self.opened + 1))?;
        self.opened += 1;
        Socket::new(socket, server, self.tls.as_ref())
    }

    fn place(&mut self, slot: usize, mut connection: Connection) -> Result<()> {
        let token = Token(self.first_token + slot);
        let interests = Interest::READABLE | Interest::WRITABLE;
        self.registry
            .register(connection.stream(), token, interests)
            .map_err(limits::explained)
            .context("watching a socket")?;
        self.slots[slot] = Some(connection);
        Ok(())
    }

    /// Sends DISCONNECT; the server closes then.
    pub(super) fn leave(&mut self, slot: usize) {
        self.with(slot, Connection::leave);
    }

    /// Subscribes a connection to one more key.
    pub(super) fn subscribe(&mut self, slot: usize, id: u32, key: &str) {
        self.with(slot, |connection| connection.subscribe(id, key));
    }

    /// Sends a message.
    pub(super) fn publish(&mut self, slot: usize, destination: &str, body: &[u8]) {
        self.with(slot, |connection| connection.publish(destination, body));
    }

    /// Ends such a subscription.
    pub(super) fn unsubscribe(&mut self, slot: usize, id: u32) {
        self.with(slot, |connection| connection.unsubscribe(id));
    }

    /// Lets those that are slow begin to be so. Answers how many.
    pub(super) fn stop_slow_readers(&mut self) -> u32 {
        let connections = self.slots.iter_mut().flatten();
        connections
            .map(|connection| u32::from(connection.stop_if_slow()))
            .sum()
    }

    /// True if the connection in this slot reads, or did while it was there.
    pub(super) fn reads(&self, slot: usize, habits: Habits) -> bool {
        slot < self.steady && !is_slow(slot, habits.slow_percent)
    }

    /// Handles what a socket is ready for, giving each message's body to `message`.
    pub(super) fn handle(&mut self, event: &Event, mut message: impl FnMut(usize, Kind, &[u8])) {
        let slot = event.token().0 - self.first_token;
        let Self {
            slots,
            buffer,
            happenings,
            ..
        } = self;
        let Some(connection) = slots.get_mut(slot).and_then(Option::as_mut) else {
            return;
        };
        let kind = connection.kind();
        let before = connection.stage();
        let mut subscribed = 0;
        let done = connection.handle(event, buffer, &mut subscribed, |body| {
            message(slot, kind, body);
        });
        if connection.stage() == Stage::Ready && before != Stage::Ready {
            let took = clock::now().saturating_sub(connection.since());
            happenings.push((slot, kind, Happening::Ready(took)));
        }
        for _ in 0..subscribed {
            happenings.push((slot, kind, Happening::Subscribed));
        }
        let done = done.and_then(|()| self.post(slot));
        if let Err(why) = done {
            self.end(slot, why);
        }
    }

    /// The events since the last call.
    pub(super) fn happenings(&mut self) -> Vec<(usize, Kind, Happening)> {
        std::mem::take(&mut self.happenings)
    }

    /// Sends the heart-beats that are due, `elapsed` nanoseconds after the last call: spread
    /// evenly over the interval, as those of real clients are.
    pub(super) fn beat(&mut self, elapsed: u64, heart_beat_ms: u32) {
        if heart_beat_ms == 0 || self.steady == 0 {
            return;
        }
        // A little earlier than agreed on, for clocks and networks are not exact.
        let interval = 0.9e6 * f64::from(heart_beat_ms);
        self.beat.1 += self.steady as f64 * elapsed as f64 / interval;
        while self.beat.1 >= 1.0 {
            self.beat.1 -= 1.0;
            let slot = self.beat.0;
            self.beat.0 = (slot + 1) % self.steady;
            self.with(slot, Connection::beat);
        }
    }

    fn with(&mut self, slot: usize, act: impl FnOnce(&mut Connection) -> Result<(), String>) {
        let connection = self.slots.get_mut(slot).and_then(Option::as_mut);
        let done = connection.map_or(Ok(()), act);
        if let Err(why) = done.and_then(|()| self.post(slot)) {
            self.end(slot, why);
        }
    }

    /// Makes the requests that a client has to make elsewhere.
    fn post(&mut self, slot: usize) -> Result<(), String> {
        let connection = self.slots.get_mut(slot).and_then(Option::as_mut);
        let Some((posts, server)) =
            connection.and_then(|connection| Some((connection.posts()?, connection.server())))
        else {
            return Ok(());
        };
        let tls = self.tls.as_ref();
        self.posting
            .post(slot, &posts, server, tls)
            .map_err(|error| format!("{error:#}"))
    }

    fn end(&mut self, slot: usize, why: String) {
        let Some(mut connection) = self.slots.get_mut(slot).and_then(Option::take) else {
            return;
        };
        // The socket is closed by the way, which also takes it out of the poll.
        let _ = self.registry.deregister(connection.stream());
        if connection.kind() == Kind::Passing {
            self.passing -= 1;
            self.free.push(slot);
        }
        if connection.stage() != Stage::Leaving {
            self.happenings
                .push((slot, connection.kind(), Happening::Ended(why)));
        }
    }
}

/// Spreads the slow ones evenly.
fn is_slow(slot: usize, percent: u32) -> bool {
    let percent = percent as usize;
    (slot + 1) * percent / 100 != slot * percent / 100
}

fn connect(source: Ipv4Addr, server: SocketAddr, slow: bool) -> io::Result<TcpStream> {
    let socket = socket2::Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    if slow {
        socket.set_recv_buffer_size(SLOW_BUFFER)?;
    }
    socket.bind(&SocketAddr::new(IpAddr::V4(source), 0).into())?;
    match socket.connect(&server.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(Errno::INPROGRESS.raw_os_error()) => {}
        Err(error) => return Err(error),
    }
    Ok(TcpStream::from_std(socket.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_ones_are_spread_evenly() {
        for percent in [0, 1, 10, 50, 100] {
            let slow = (0..1000).filter(|&slot| is_slow(slot, percent)).count();
            assert_eq!(slow, 10 * percent as usize);
            let early = (0..100).filter(|&slot| is_slow(slot, percent)).count();
            assert_eq!(early, percent as usize);
        }
    }
}
