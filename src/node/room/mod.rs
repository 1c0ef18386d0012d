//! Room for what clients send: how many bytes of it a connection, a user and all together may
//! have under way.
//!
//! A [`Claim`] stands for bytes in this process' memory. It is made before they are read, as far
//! as that can be known, and then travels with the body ([`Claim::around`]): through a
//! transaction, the queue of a lane, to the broker's answer. It ends when the last of them is
//! freed, wherever that is; so what is counted is what there is, whoever has left meanwhile.
//!
//! An owner above its share is not read: its claim waits, and no other's does, save where it is all
//! together that is over. Claims that wait for that are served in their order. One that waits only
//! for its own connection or user is put aside with it: it lets others pass, and nobody looks at it
//! until that one gives something back. So no user's claims cost others' any time.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    hash::Hash,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

/// Bytes that may be claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// By one connection.
    pub connection: usize,
    /// By all connections of a user.
    pub user: usize,
    /// By all.
    pub all: usize,
}

/// The room of a node.
#[derive(Debug)]
pub struct Room {
    share: RwLock<Share>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    used: usize,
    /// By user, those of claims in the line too; without those that use none.
    users: HashMap<Arc<str>, usize>,
    /// By connection; the same.
    connections: HashMap<u64, usize>,
    /// Bytes of open transactions, by connection: what its end would free at once, unlike what is
    /// under way to the broker.
    gathered: HashMap<u64, usize>,
    /// By ticket.
    waiting: HashMap<u64, Waiting>,
    /// Claims that only wait for what all share.
    line: BTreeSet<u64>,
    /// Those that wait for what their connection or user may have.
    aside: HashMap<Owner, Aside>,
    /// Whether nobody gets more for now.
    is_shut: bool,
    next_ticket: u64,
    /// How often a claim that waits was looked at.
    #[cfg(test)]
    looks: usize,
}

/// The owner of a share.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Owner {
    Connection(u64),
    User(Arc<str>),
}

struct Waiting {
    user: Arc<str>,
    connection: u64,
    bytes: usize,
    /// Bytes of its connection that it does not wait for.
    own: usize,
    waker: Waker,
    place: Place,
}

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes of {}", self.bytes, self.connection)
    }
}

/// Where a claim waits.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Aside(Owner),
    /// Its connection and user are charged with it already.
    Line,
    /// It has its room, and nobody has fetched it yet.
    Granted,
}

/// Claims that wait for one owner.
#[derive(Debug, Default)]
struct Aside {
    /// Tickets.
    order: BTreeSet<u64>,
    /// The same, after their bytes.
    sizes: BTreeSet<(usize, u64)>,
}

impl Aside {
    fn insert(&mut self, ticket: u64, bytes: usize) {
        self.order.insert(ticket);
        self.sizes.insert((bytes, ticket));
    }

    fn remove(&mut self, ticket: u64, bytes: usize) {
        self.order.remove(&ticket);
        self.sizes.remove(&(bytes, ticket));
    }
}

impl Room {
    /// A room of which so much may be claimed.
    #[must_use]
    pub fn new(share: Share) -> Arc<Self> {
        Arc::new(Self {
            share: RwLock::new(share),
            state: Mutex::default(),
        })
    }

    /// Bytes that are claimed.
    #[must_use]
    pub fn used(&self) -> usize {
        self.state.lock().used
    }

    /// Bytes of open transactions, by the number of the connection. Without those of few bytes.
    #[must_use]
    pub fn gathered(&self) -> HashMap<u64, usize> {
        self.state.lock().gathered.clone()
    }

    /// From now on nobody gets more (or again somebody does).
    pub fn shut(&self, is_shut: bool) {
        let mut state = self.state.lock();
        state.is_shut = is_shut;
        state.advance(&self.share());
    }

    fn share(&self) -> Share {
        *self.share.read()
    }

    /// From now on so much may be claimed. What is claimed already stays.
    pub fn set_share(&self, share: Share) {
        *self.share.write() = share;
        self.state.lock().place_anew(&share);
    }
}

impl State {
    /// The owner, a connection or its user, whose share a claim exceeds.
    fn owner_over(&self, waiting: &Waiting, share: &Share) -> Option<Owner> {
        let Waiting {
            user, connection, ..
        } = waiting;
        if !waiting.fits(of(&self.connections, connection), share.connection) {
            Some(Owner::Connection(*connection))
        } else if !waiting.fits(of(&self.users, user), share.user) {
            Some(Owner::User(Arc::clone(user)))
        } else {
            None
        }
    }

    /// Charges a connection and its user.
    fn charge(&mut self, user: &Arc<str>, connection: u64, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let used = self.users.entry(Arc::clone(user)).or_default();
        *used = used.saturating_add(bytes);
        let used = self.connections.entry(connection).or_default();
        *used = used.saturating_add(bytes);
    }

    fn take_off(&mut self, user: &Arc<str>, connection: u64, bytes: usize) {
        take_off(&mut self.users, user, bytes);
        take_off(&mut self.connections, &connection, bytes);
    }

    /// A new claim waits; its ticket.
    fn enter(&mut self, waiting: Waiting, share: &Share) -> u64 {
        self.next_ticket = self.next_ticket.wrapping_add(1);
        let ticket = self.next_ticket;
        self.waiting.insert(ticket, waiting);
        self.place(ticket, share);
        ticket
    }

    /// Gives a claim that is in no place its place: in the line, or aside with whoever is over.
    fn place(&mut self, ticket: u64, share: &Share) {
        self.look();
        let Some(waiting) = self.waiting.get(&ticket) else {
            return;
        };
        let (user, connection) = (Arc::clone(&waiting.user), waiting.connection);
        let bytes = waiting.bytes;
        let place = match self.owner_over(waiting, share) {
            Some(owner) => {
                let aside = self.aside.entry(owner.clone()).or_default();
                aside.insert(ticket, bytes);
                Place::Aside(owner)
            }
            None => {
                self.charge(&user, connection, bytes);
                self.line.insert(ticket);
                Place::Line
            }
        };
        if let Some(waiting) = self.waiting.get_mut(&ticket) {
            waiting.place = place;
        }
    }

    /// Something was given back by those two: what waits for them is placed anew, as far as it fits.
    fn given_back(&mut self, user: &Arc<str>, connection: u64, share: &Share) {
        // Most of the time nobody waits.
        if !self.aside.is_empty() {
            self.release(&Owner::Connection(connection), share);
            self.release(&Owner::User(Arc::clone(user)), share);
        }
        self.advance(share);
    }

    /// Places what waits for that owner and fits now: the first one, or else the smallest, for one
    /// that is too large lets others pass.
    fn release(&mut self, owner: &Owner, share: &Share) {
        while let Some(aside) = self.aside.get_mut(owner) {
            let (used, most) = match owner {
                Owner::Connection(number) => (of(&self.connections, number), share.connection),
                Owner::User(user) => (of(&self.users, user), share.user),
            };
            let first = aside.order.first().copied();
            let smallest = aside.sizes.first().map(|(_, ticket)| *ticket);
            let mut next = [first, smallest].into_iter().flatten();
            let next = next.find_map(|ticket| {
                let waiting = self.waiting.get(&ticket)?;
                let fits = waiting.fits(used, most);
                fits.then_some((ticket, waiting.bytes))
            });
            if let Some((ticket, bytes)) = next {
                aside.remove(ticket, bytes);
                self.forget_if_empty(owner);
                self.place(ticket, share);
            } else {
                self.look();
                return;
            }
        }
    }

    fn forget_if_empty(&mut self, owner: &Owner) {
        if self
            .aside
            .get(owner)
            .is_some_and(|aside| aside.order.is_empty())
        {
            self.aside.remove(owner);
            shrink(&mut self.aside);
        }
    }

    /// Grants what is in the line, in order, as far as there is room.
    fn advance(&mut self, share: &Share) {
        while !self.is_shut
            && let Some(ticket) = self.line.first().copied()
        {
            self.look();
            if let Some(waiting) = self.waiting.get_mut(&ticket) {
                if !waiting.fits(self.used, share.all) {
                    return;
                }
                self.used = self.used.saturating_add(waiting.bytes);
                waiting.place = Place::Granted;
                waiting.waker.wake_by_ref();
            }
            self.line.remove(&ticket);
        }
    }

    /// Takes a claim out, wherever it waits.
    fn remove(&mut self, ticket: u64) -> Option<Waiting> {
        let waiting = self.waiting.remove(&ticket)?;
        shrink(&mut self.waiting);
        match &waiting.place {
            Place::Aside(owner) => {
                if let Some(aside) = self.aside.get_mut(owner) {
                    aside.remove(ticket, waiting.bytes);
                }
                self.forget_if_empty(owner);
            }
            Place::Line => {
                self.line.remove(&ticket);
            }
            Place::Granted => {}
        }
        Some(waiting)
    }

    /// A claim is given up.
    fn leave(&mut self, ticket: u64, share: &Share) {
        let Some(waiting) = self.remove(ticket) else {
            return;
        };
        let (user, connection) = (&waiting.user, waiting.connection);
        match waiting.place {
            // It was in nobody's way.
            Place::Aside(_) => return,
            Place::Line => {}
            Place::Granted => self.used = self.used.saturating_sub(waiting.bytes),
        }
        self.take_off(user, connection, waiting.bytes);
        self.given_back(user, connection, share);
    }

    /// Places all claims again that have no room yet, in their order: the shares are others.
    fn place_anew(&mut self, share: &Share) {
        let waiting = self.waiting.iter();
        let without = waiting.filter(|(_, waiting)| waiting.place != Place::Granted);
        let mut tickets: Vec<u64> = without.map(|(ticket, _)| *ticket).collect();
        tickets.sort_unstable();
        for ticket in std::mem::take(&mut self.line) {
            if let Some(waiting) = self.waiting.get(&ticket) {
                let (user, connection) = (Arc::clone(&waiting.user), waiting.connection);
                let bytes = waiting.bytes;
                self.take_off(&user, connection, bytes);
            }
        }
        self.aside.clear();
        for ticket in tickets {
            self.place(ticket, share);
        }
        self.advance(share);
    }

    fn look(&mut self) {
        #[cfg(test)]
        {
            self.looks = self.looks.saturating_add(1);
        }
    }
}

impl Waiting {
    /// Whether it is within a share. It fits, whatever its size, where nothing else could be given back:
    /// it would wait for ever.
    fn fits(&self, used: usize, most: usize) -> bool {
        used <= self.own || used.saturating_add(self.bytes) <= most
    }
}

fn of<K: Hash + Eq>(map: &HashMap<K, usize>, key: &K) -> usize {
    map.get(key).copied().unwrap_or_default()
}

/// The claimant of room: a connection, of a user.
#[derive(Debug)]
pub struct Account {
    room: Arc<Room>,
    user: Arc<str>,
    connection: u64,
}

/// The place of a claim that waits. Empty as long as none does.
#[derive(Debug, Default)]
pub struct Ticket(Option<(Arc<Room>, u64)>);

impl Ticket {
    /// Whether a claim waits.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.0.is_some()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some((room, ticket)) = self.0.take() {
            room.state.lock().leave(ticket, &room.share());
        }
    }
}

impl Account {
    /// An account in `room` of the connection of that number, and of its user.
    #[must_use]
    pub fn new(room: &Arc<Room>, user: &Arc<str>, connection: u64) -> Arc<Self> {
        Arc::new(Self {
            room: Arc::clone(room),
            user: Arc::clone(user),
            connection,
        })
    }

    /// Whether its connection has any bytes claimed.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        let state = self.room.state.lock();
        state.connections.contains_key(&self.connection)
    }

    /// Bytes that its connection has claimed, those of claims in the line too.
    #[must_use]
    pub fn used(&self) -> usize {
        of(&self.room.state.lock().connections, &self.connection)
    }

    /// Whether somebody waits for room that this connection may have: for what all share, or for
    /// what its user may have.
    #[must_use]
    pub fn is_in_the_way(&self) -> bool {
        let state = self.room.state.lock();
        let of_user = || Owner::User(Arc::clone(&self.user));
        !state.line.is_empty() || state.aside.contains_key(&of_user())
    }

    /// Notes the bytes of its connection's open transactions.
    pub fn gather(&self, bytes: usize) {
        let mut state = self.room.state.lock();
        if bytes == 0 {
            state.gathered.remove(&self.connection);
            shrink(&mut state.gathered);
        } else {
            state.gathered.insert(self.connection, bytes);
        }
    }

    /// Claims so many bytes, as soon as there is room; then `ticket` is empty. Of nothing, it
    /// waits until this connection, its user and all are within their shares.
    pub fn poll_claim(
        self: &Arc<Self>,
        bytes: usize,
        ticket: &mut Ticket,
        context: &Context<'_>,
    ) -> Poll<Claim> {
        self.poll_more(0, bytes, ticket, context)
    }

    /// The same for a claim that does not wait for `own` bytes of the connection: it is to grow, and
    /// has them already, or they cannot be given back before it has its room.
    pub fn poll_more(
        self: &Arc<Self>,
        own: usize,
        bytes: usize,
        ticket: &mut Ticket,
        context: &Context<'_>,
    ) -> Poll<Claim> {
        let mut state = self.room.state.lock();
        let share = self.room.share();
        let number = match &ticket.0 {
            Some((_, number)) => *number,
            None => {
                let waiting = Waiting {
                    user: Arc::clone(&self.user),
                    connection: self.connection,
                    bytes,
                    own,
                    waker: Waker::noop().clone(),
                    place: Place::Line,
                };
                let number = state.enter(waiting, &share);
                state.advance(&share);
                ticket.0 = Some((Arc::clone(&self.room), number));
                number
            }
        };
        match state.waiting.get_mut(&number) {
            Some(waiting) if waiting.place != Place::Granted => {
                waiting.waker.clone_from(context.waker());
                return Poll::Pending;
            }
            _ => {}
        }
        // As many as were asked for when it began to wait.
        let bytes = state.remove(number).map_or(0, |waiting| waiting.bytes);
        drop(state);
        ticket.0 = None;
        Poll::Ready(Claim {
            account: Arc::clone(self),
            bytes,
        })
    }

    /// Claims bytes that are there already, whether there is room or not.
    #[must_use]
    pub fn claim(self: &Arc<Self>, bytes: usize) -> Claim {
        let mut state = self.room.state.lock();
        state.used = state.used.saturating_add(bytes);
        state.charge(&self.user, self.connection, bytes);
        drop(state);
        Claim {
            account: Arc::clone(self),
            bytes,
        }
    }

    fn give_back(&self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let mut state = self.room.state.lock();
        state.used = state.used.saturating_sub(bytes);
        state.take_off(&self.user, self.connection, bytes);
        state.given_back(&self.user, self.connection, &self.room.share());
    }
}

fn take_off<K: Hash + Eq>(map: &mut HashMap<K, usize>, key: &K, bytes: usize) {
    if let Some(used) = map.get_mut(key) {
        *used = used.saturating_sub(bytes);
        if *used == 0 {
            map.remove(key);
            shrink(map);
        }
    }
}

/// After a rush.
fn shrink<K: Hash + Eq, V>(map: &mut HashMap<K, V>) {
    if map.capacity() > 64 && map.len() < map.capacity() / 8 {
        map.shrink_to(map.len().saturating_mul(2));
    }
}

/// Bytes that are claimed; given back when it is dropped.
#[derive(Debug)]
pub struct Claim {
    account: Arc<Account>,
    bytes: usize,
}

impl Claim {
    /// Of how many bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// A part of it, at most so many bytes; this is less by as much.
    #[must_use]
    pub fn split(&mut self, bytes: usize) -> Self {
        let bytes = bytes.min(self.bytes);
        self.bytes = self.bytes.saturating_sub(bytes);
        Self {
            account: Arc::clone(&self.account),
            bytes,
        }
    }

    /// Adds another of the same account.
    pub fn join(&mut self, mut other: Self) {
        self.bytes = self.bytes.saturating_add(std::mem::take(&mut other.bytes));
    }

    /// The body, which holds the claim for as long as any of it is in memory.
    #[must_use]
    pub fn around(self, body: Bytes) -> Bytes {
        Bytes::from_owner(Charged { body, _claim: self })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.account.give_back(self.bytes);
    }
}

struct Charged {
    body: Bytes,
    _claim: Claim,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

#[cfg(test)]
mod tests;
