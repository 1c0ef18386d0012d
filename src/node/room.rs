//! Room for what clients send: how many bytes of it a connection, a user and all together may
//! have under way.
//!
//! A [`Claim`] stands for bytes in this process' memory. It is made before they are read, as far
//! as that can be known, and then travels with the body ([`Claim::around`]): through a
//! transaction, the queue of a lane, to the broker's answer. It ends when the last of them is
//! freed, wherever that is; so what is counted is what there is, whoever has left meanwhile.
//!
//! Whoever is over is not read: its claim waits, and nobody else's does, save where it is all
//! together that is over. Claims that wait are served in their order. One that waits only for its
//! own connection or user lets others pass.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    future::poll_fn,
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
    /// By user; without those that use none.
    users: HashMap<Arc<str>, usize>,
    /// By connection; the same.
    connections: HashMap<u64, usize>,
    waiting: VecDeque<Waiting>,
    /// Whether nobody gets more for now.
    is_shut: bool,
    next_ticket: u64,
}

struct Waiting {
    ticket: u64,
    user: Arc<str>,
    connection: u64,
    bytes: usize,
    waker: Waker,
}

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes of {}", self.bytes, self.connection)
    }
}

/// The bytes that decide about a claim, as if all claims before it were granted.
struct Ahead {
    used: usize,
    users: HashMap<Arc<str>, usize>,
    connections: HashMap<u64, usize>,
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

    /// True if claims wait.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        !self.state.lock().waiting.is_empty()
    }

    /// From now on nobody gets more (or again somebody does).
    pub fn shut(&self, is_shut: bool) {
        let mut state = self.state.lock();
        state.is_shut = is_shut;
        state.wake(&self.share());
    }

    fn share(&self) -> Share {
        *self.share.read()
    }

    /// From now on so much may be claimed. What is claimed already stays.
    pub fn set_share(&self, share: Share) {
        *self.share.write() = share;
        self.state.lock().wake(&share);
    }
}

impl State {
    /// Calls `grant` for each waiting claim that has its room, in order, until it returns false.
    fn each_granted(&self, share: &Share, mut grant: impl FnMut(&Waiting) -> bool) {
        if self.is_shut {
            return;
        }
        let mut ahead = Ahead {
            used: self.used,
            users: HashMap::new(),
            connections: HashMap::new(),
        };
        for waiting in &self.waiting {
            let user = ahead.users.entry(Arc::clone(&waiting.user));
            let user = user.or_insert_with(|| of(&self.users, &waiting.user));
            let connection = ahead.connections.entry(waiting.connection);
            let connection =
                connection.or_insert_with(|| of(&self.connections, &waiting.connection));
            if !fits(*connection, waiting.bytes, share.connection)
                || !fits(*user, waiting.bytes, share.user)
            {
                continue;
            }
            if !fits(ahead.used, waiting.bytes, share.all) || !grant(waiting) {
                return;
            }
            ahead.used = ahead.used.saturating_add(waiting.bytes);
            *user = user.saturating_add(waiting.bytes);
            *connection = connection.saturating_add(waiting.bytes);
        }
    }

    fn wake(&self, share: &Share) {
        self.each_granted(share, |waiting| {
            waiting.waker.wake_by_ref();
            true
        });
    }

    fn leave(&mut self, ticket: u64) {
        self.waiting.retain(|waiting| waiting.ticket != ticket);
    }
}

/// One claim alone fits, whatever its size: it would wait for ever.
fn fits(used: usize, more: usize, most: usize) -> bool {
    used == 0 || used.saturating_add(more) <= most
}

fn of<K: std::hash::Hash + Eq>(map: &HashMap<K, usize>, key: &K) -> usize {
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
            let mut state = room.state.lock();
            state.leave(ticket);
            state.wake(&room.share());
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

    /// The room.
    #[must_use]
    pub fn room(&self) -> &Arc<Room> {
        &self.room
    }

    /// Whether its connection has any bytes claimed.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        let state = self.room.state.lock();
        state.connections.contains_key(&self.connection)
    }

    /// Claims so many bytes, and waits until there is room.
    pub async fn claimed(self: &Arc<Self>, bytes: usize) -> Claim {
        let mut ticket = Ticket::default();
        poll_fn(|context| self.poll_claim(bytes, &mut ticket, context)).await
    }

    /// Claims so many bytes, as soon as there is room; then `ticket` is empty. Of nothing, it
    /// waits until this connection, its user and all are within their shares.
    pub fn poll_claim(
        self: &Arc<Self>,
        bytes: usize,
        ticket: &mut Ticket,
        context: &Context<'_>,
    ) -> Poll<Claim> {
        let mut state = self.room.state.lock();
        let number = match &ticket.0 {
            Some((_, number)) => *number,
            None => {
                state.next_ticket = state.next_ticket.wrapping_add(1);
                let number = state.next_ticket;
                state.waiting.push_back(Waiting {
                    ticket: number,
                    user: Arc::clone(&self.user),
                    connection: self.connection,
                    bytes,
                    waker: context.waker().clone(),
                });
                ticket.0 = Some((Arc::clone(&self.room), number));
                number
            }
        };
        let mut is_granted = false;
        state.each_granted(&self.room.share(), |waiting| {
            is_granted = waiting.ticket == number;
            !is_granted
        });
        if !is_granted {
            let mut waiting = state.waiting.iter_mut();
            if let Some(waiting) = waiting.find(|waiting| waiting.ticket == number) {
                waiting.waker.clone_from(context.waker());
            }
            return Poll::Pending;
        }
        state.leave(number);
        self.charge(&mut state, bytes);
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
        self.charge(&mut self.room.state.lock(), bytes);
        Claim {
            account: Arc::clone(self),
            bytes,
        }
    }

    fn charge(&self, state: &mut State, bytes: usize) {
        if bytes == 0 {
            return;
        }
        state.used = state.used.saturating_add(bytes);
        let user = state.users.entry(Arc::clone(&self.user)).or_default();
        *user = user.saturating_add(bytes);
        let connection = state.connections.entry(self.connection).or_default();
        *connection = connection.saturating_add(bytes);
    }

    fn give_back(&self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let mut state = self.room.state.lock();
        state.used = state.used.saturating_sub(bytes);
        take_off(&mut state.users, &self.user, bytes);
        take_off(&mut state.connections, &self.connection, bytes);
        state.wake(&self.room.share());
    }
}

fn take_off<K: std::hash::Hash + Eq>(map: &mut HashMap<K, usize>, key: &K, bytes: usize) {
    if let Some(used) = map.get_mut(key) {
        *used = used.saturating_sub(bytes);
        if *used == 0 {
            map.remove(key);
        }
    }
    // After a rush.
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
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        task::Wake,
    };

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A claim that waits.
    struct Try {
        account: Arc<Account>,
        bytes: usize,
        ticket: Ticket,
        woken: Arc<Woken>,
    }

    impl Try {
        fn new(account: &Arc<Account>, bytes: usize) -> Self {
            Self {
                account: Arc::clone(account),
                bytes,
                ticket: Ticket::default(),
                woken: Arc::default(),
            }
        }

        fn poll(&mut self) -> Option<Claim> {
            let waker = Waker::from(Arc::clone(&self.woken));
            let context = Context::from_waker(&waker);
            let Self { bytes, ticket, .. } = self;
            match self.account.poll_claim(*bytes, ticket, &context) {
                Poll::Ready(claim) => Some(claim),
                Poll::Pending => None,
            }
        }

        fn is_woken(&self) -> bool {
            self.woken.0.swap(0, Ordering::Relaxed) > 0
        }
    }

    fn room() -> Arc<Room> {
        Room::new(Share {
            connection: 10,
            user: 20,
            all: 50,
        })
    }

    fn account(room: &Arc<Room>, user: &str, connection: u64) -> Arc<Account> {
        Account::new(room, &user.into(), connection)
    }

    #[test]
    fn a_connection_waits_for_its_own() {
        let room = room();
        let alice = account(&room, "alice", 1);
        let mut first = Try::new(&alice, 8).poll().unwrap();
        let mut second = Try::new(&alice, 3);
        assert!(second.poll().is_none());
        // Nobody else does; not even of the same user.
        assert!(Try::new(&account(&room, "alice", 2), 8).poll().is_some());
        assert!(Try::new(&account(&room, "bob", 3), 8).poll().is_some());
        assert!(!second.is_woken());
        drop(first.split(1));
        assert!(second.is_woken());
        assert!(second.poll().is_some());
        drop(first);
        assert_eq!(room.used(), 0);
    }

    #[test]
    fn a_user_s_connections_wait_for_each_other_in_order() {
        let room = room();
        let accounts: Vec<_> = (0..4).map(|n| account(&room, "alice", n)).collect();
        let held: Vec<_> = accounts[..2]
            .iter()
            .map(|account| Try::new(account, 10).poll().unwrap())
            .collect();
        let mut third = Try::new(&accounts[2], 10);
        let mut fourth = Try::new(&accounts[3], 1);
        assert!(third.poll().is_none() && fourth.poll().is_none());
        assert!(Try::new(&account(&room, "bob", 9), 10).poll().is_some());
        drop(held);
        assert!(third.is_woken() && fourth.is_woken());
        assert!(third.poll().is_some() && fourth.poll().is_some());
    }

    /// A large one is not passed by small ones for ever.
    #[test]
    fn for_what_all_share_the_first_is_first() {
        let room = room();
        let held: Vec<_> = (0..5)
            .map(|n| {
                Try::new(&account(&room, &format!("u{n}"), n), 10)
                    .poll()
                    .unwrap()
            })
            .collect();
        let (bob, carol) = (account(&room, "bob", 8), account(&room, "carol", 9));
        let mut large = Try::new(&bob, 10);
        let mut small = Try::new(&carol, 1);
        assert!(large.poll().is_none() && small.poll().is_none());
        let mut held = held;
        drop(held[0].split(5));
        assert!(small.poll().is_none(), "it has come later");
        // One that gives up is in nobody's way.
        drop(large);
        assert!(small.is_woken());
        assert!(small.poll().is_some());
        held.clear();
        assert_eq!(room.used(), 0);
        assert!(!room.is_wanted());
        let state = room.state.lock();
        assert!(state.users.is_empty() && state.connections.is_empty());
    }

    #[test]
    fn one_alone_is_never_too_much() {
        let room = room();
        assert!(Try::new(&account(&room, "alice", 1), 1000).poll().is_some());
    }

    /// What came is counted, and who is over waits before it is read on.
    #[test]
    fn what_is_there_counts_and_the_next_waits() {
        let room = room();
        let alice = account(&room, "alice", 1);
        let first = alice.claim(8);
        let second = alice.claim(8);
        let mut nothing = Try::new(&alice, 0);
        assert!(nothing.poll().is_none());
        drop(second);
        assert!(nothing.is_woken());
        assert!(nothing.poll().is_some());
        drop(first);
    }

    #[test]
    fn a_body_holds_its_claim_to_the_last_of_it() {
        let room = room();
        let body = account(&room, "alice", 1)
            .claim(5)
            .around(Bytes::from_static(b"hello"));
        let part = body.slice(1..3);
        assert_eq!(body, "hello");
        drop(body);
        assert_eq!(room.used(), 5);
        drop(part);
        assert_eq!(room.used(), 0);
    }

    #[test]
    fn while_it_is_shut_nobody_gets_more() {
        let room = room();
        room.shut(true);
        let mut one = Try::new(&account(&room, "alice", 1), 1);
        assert!(one.poll().is_none());
        room.shut(false);
        assert!(one.is_woken());
        assert!(one.poll().is_some());
    }
}
