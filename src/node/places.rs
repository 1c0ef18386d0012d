//! Places for connections that have not logged in: shared fairly by address.
//!
//! A connection holds a place from the moment it is accepted until its login. When all are taken,
//! the oldest of the address that holds most gives way to a newcomer. So a client with any number of
//! half requests, idle connections or sessions without a login takes places from itself, and nobody
//! else notices.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use parking_lot::Mutex;
use stomp_session::Problem;
use tokio_util::sync::CancellationToken;

use super::limits::{AddressKey, ClientAddress};
use crate::{
    hub::Mailbox,
    telemetry::{self, RefusedAt, Seldom},
};

/// All places of a node, or of a listener that has its own.
pub struct Places {
    most: AtomicUsize,
    table: Mutex<Table>,
    full: Mutex<Seldom>,
}

/// The right to be connected without a login; given back when it is dropped.
pub struct Place {
    places: Arc<Places>,
    number: u64,
}

/// How far a connection has come. Earlier stages give way first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// It was answered, and is kept for a further request.
    Idle,
    /// It has asked for nothing yet.
    Begun,
    /// It is waiting for an answer: to a request, or to its CONNECT. It gives way only to
    /// addresses that hold fewer places, since it would not be done any sooner if it came again.
    Asked,
}

/// How a connection learns that it has given way.
enum Notice {
    Stream(CancellationToken),
    Session(Arc<Mailbox>),
}

impl Notice {
    fn give(self) {
        match self {
            Self::Stream(token) => token.cancel(),
            Self::Session(mailbox) => mailbox.fail(Problem::TooManyLogins),
        }
    }
}

#[derive(Default)]
struct Table {
    /// Numbers grow, so the lowest is the oldest.
    next: u64,
    taken: HashMap<u64, (AddressKey, Stage, Notice)>,
    holders: HashMap<AddressKey, Holder>,
    by_rank: BTreeSet<Rank>,
}

/// The order of addresses: the last holds most; of several, the one whose first connection is at the
/// earliest stage, and of these, the one that has held any for the longest time.
type Rank = (usize, Reverse<Stage>, Reverse<u64>, AddressKey);

/// An address, and its connections.
struct Holder {
    since: u64,
    /// By stage and number: the first gives way first.
    connections: BTreeSet<(Stage, u64)>,
}

impl Places {
    /// So many places.
    #[must_use]
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most: AtomicUsize::new(most),
            table: Mutex::default(),
            full: Mutex::new(Seldom::once_in(Seldom::MINUTE)),
        })
    }

    fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }

    /// From now on there are so many. Whoever has one keeps it, until it gives way to a newcomer.
    pub fn set_most(&self, most: usize) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// A place for a connection from this address to a listener of that name. The token says when
    /// it has given way, until the place [belongs to a session](Place::belongs_to). `None`: all are
    /// taken by others that are no greedier.
    pub fn take(
        self: &Arc<Self>,
        address: &ClientAddress,
        listener: &str,
    ) -> Option<(Place, CancellationToken)> {
        let key = address.key();
        let mut table = self.table.lock();
        let mut given_way = None;
        if table.taken.len() >= self.most() {
            given_way = table.give_way(key);
            if given_way.is_none() {
                drop(table);
                telemetry::refused(RefusedAt::Connection, "unauthenticated-connections");
                self.log_full(listener);
                return None;
            }
        }
        let token = CancellationToken::new();
        let number = table.insert(key, Notice::Stream(token.clone()));
        drop(table);
        if let Some(notice) = given_way {
            telemetry::connection_gave_way();
            self.log_full(listener);
            notice.give();
        }
        let places = Arc::clone(self);
        Some((Place { places, number }, token))
    }

    /// Has one connection give way, for a newcomer from this address that finds no file left.
    /// Whether there is one that has to.
    pub fn make_room(&self, address: &ClientAddress) -> bool {
        let notice = self.table.lock().give_way(address.key());
        let has_room = notice.is_some();
        if let Some(notice) = notice {
            telemetry::connection_gave_way();
            notice.give();
        }
        has_room
    }

    /// How many are taken.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.table.lock().taken.len()
    }

    /// How many this address holds.
    #[cfg(test)]
    pub(crate) fn held_by(&self, address: &ClientAddress) -> usize {
        let table = self.table.lock();
        table.holders.get(&address.key()).map_or(0, Holder::count)
    }

    fn log_full(&self, listener: &str) {
        if let Some(unsaid) = self.full.lock().let_through(Instant::now()) {
            telemetry::places_full(listener, self.most(), unsaid);
        }
    }
}

impl Place {
    /// The connection has come so far.
    pub fn set_stage(&self, stage: Stage) {
        self.places
            .table
            .lock()
            .change(self.number, |_, at| *at = stage);
    }

    /// The connection's address turned out to be another one: a proxy named it.
    pub fn set_address(&self, address: &ClientAddress) {
        let key = address.key();
        self.places
            .table
            .lock()
            .change(self.number, |of, _| *of = key);
    }

    /// From now on the connection is a session's, which is told by its mailbox. One that has given
    /// way already is told at once.
    pub fn belongs_to(&self, mailbox: &Arc<Mailbox>) {
        let mut table = self.places.table.lock();
        match table.taken.get_mut(&self.number) {
            Some((_, _, notice)) => *notice = Notice::Session(Arc::clone(mailbox)),
            None => {
                drop(table);
                Notice::Session(Arc::clone(mailbox)).give();
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // It may have the last pointer to a mailbox: dropped when the table is not locked any more.
        let _removed = self.places.table.lock().remove(self.number);
    }
}

impl Table {
    fn insert(&mut self, key: AddressKey, notice: Notice) -> u64 {
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        self.hold(key, Stage::Begun, number);
        self.taken.insert(number, (key, Stage::Begun, notice));
        number
    }

    fn remove(&mut self, number: u64) -> Option<Notice> {
        let (key, stage, notice) = self.taken.remove(&number)?;
        self.let_go(key, stage, number);
        Some(notice)
    }

    fn change(&mut self, number: u64, change: impl FnOnce(&mut AddressKey, &mut Stage)) {
        let Some((key, stage, _)) = self.taken.get_mut(&number) else {
            return;
        };
        let before = (*key, *stage);
        change(key, stage);
        let after = (*key, *stage);
        if after != before {
            self.let_go(before.0, before.1, number);
            self.hold(after.0, after.1, number);
        }
    }

    /// Removes the connection that has to give way to one from this address, if any has to.
    fn give_way(&mut self, newcomer: AddressKey) -> Option<Notice> {
        let &(most, .., greediest) = self.by_rank.last()?;
        let own = self.holders.get(&newcomer).map_or(0, Holder::count);
        // With one more, its own address would hold most.
        let from = if own >= most { newcomer } else { greediest };
        let &(stage, number) = self.holders.get(&from)?.connections.first()?;
        if stage == Stage::Asked && most <= own.saturating_add(1) {
            return None;
        }
        self.remove(number)
    }

    fn hold(&mut self, key: AddressKey, stage: Stage, number: u64) {
        let holder = self.holders.entry(key).or_insert_with(|| Holder {
            since: number,
            connections: BTreeSet::new(),
        });
        self.by_rank.remove(&holder.rank(key));
        holder.connections.insert((stage, number));
        self.by_rank.insert(holder.rank(key));
    }

    fn let_go(&mut self, key: AddressKey, stage: Stage, number: u64) {
        let Some(holder) = self.holders.get_mut(&key) else {
            return;
        };
        self.by_rank.remove(&holder.rank(key));
        holder.connections.remove(&(stage, number));
        if holder.connections.is_empty() {
            self.holders.remove(&key);
        } else {
            self.by_rank.insert(holder.rank(key));
        }
    }
}

impl Holder {
    fn count(&self) -> usize {
        self.connections.len()
    }

    fn rank(&self, key: AddressKey) -> Rank {
        let first = self.connections.first();
        let stage = first.map_or(Stage::Asked, |(stage, _)| *stage);
        (self.count(), Reverse(stage), Reverse(self.since), key)
    }
}

impl fmt::Debug for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} places taken", self.taken(), self.most())
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "place {}", self.number)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    type Taken = (Place, CancellationToken);

    fn address(text: &str) -> ClientAddress {
        ClientAddress::direct(SocketAddr::new(text.parse().unwrap(), 4711))
    }

    fn take(places: &Arc<Places>, from: &str) -> Option<Taken> {
        places.take(&address(from), "test")
    }

    fn several(places: &Arc<Places>, from: &str, count: usize) -> Vec<Taken> {
        (0..count).map(|_| take(places, from).unwrap()).collect()
    }

    /// Which have given way.
    fn gone(taken: &[Taken]) -> Vec<usize> {
        let all = taken.iter().enumerate();
        all.filter_map(|(index, (_, token))| token.is_cancelled().then_some(index))
            .collect()
    }

    const EVE: &str = "203.0.113.66";
    const ALICE: &str = "198.51.100.1";
    const BOB: &str = "198.51.100.2";

    #[test]
    fn one_address_may_have_them_all_until_somebody_else_comes() {
        let places = Places::new(4);
        let eve = several(&places, EVE, 4);
        assert_eq!((places.taken(), gone(&eve)), (4, vec![]));
        let alice = several(&places, ALICE, 2);
        assert_eq!((places.taken(), gone(&eve)), (4, vec![0, 1]));
        // As many each: a further one of either takes from its own.
        let more = take(&places, EVE).unwrap();
        assert_eq!((gone(&eve), gone(&alice)), (vec![0, 1, 2], vec![]));
        drop((more, eve, alice));
        assert_eq!(places.taken(), 0);
        assert!(places.table.lock().holders.is_empty());
        assert!(places.table.lock().by_rank.is_empty());
    }

    /// However many an attacker opens, an honest client has the time of all places in turn.
    #[test]
    fn the_oldest_of_an_address_goes_first() {
        let places = Places::new(3);
        let eve = several(&places, EVE, 3);
        let honest = take(&places, EVE).unwrap();
        assert_eq!(gone(&eve), [0]);
        let more = several(&places, EVE, 2);
        assert_eq!(gone(&eve), [0, 1, 2]);
        assert!(gone(&more).is_empty() && !honest.1.is_cancelled());
    }

    #[test]
    fn idle_connections_go_before_half_requests_and_these_before_questions() {
        let places = Places::new(3);
        let eve = several(&places, EVE, 3);
        eve[0].0.set_stage(Stage::Asked);
        eve[2].0.set_stage(Stage::Idle);
        let bob = take(&places, BOB).unwrap();
        assert_eq!(gone(&eve), [2]);
        let alice = take(&places, ALICE).unwrap();
        assert_eq!(gone(&eve), [1, 2]);
        // All hold one now. No question is given up for another one's.
        alice.0.set_stage(Stage::Asked);
        let carol = take(&places, "198.51.100.3").unwrap();
        assert!(bob.1.is_cancelled());
        carol.0.set_stage(Stage::Asked);
        assert!(take(&places, "198.51.100.4").is_none());
        assert_eq!(gone(&eve), [1, 2]);
    }

    #[test]
    fn questions_give_way_to_addresses_that_hold_fewer() {
        let places = Places::new(3);
        let eve = several(&places, EVE, 3);
        for (place, _) in &eve {
            place.set_stage(Stage::Asked);
        }
        assert!(take(&places, EVE).is_none(), "its own are waiting already");
        let _alice = take(&places, ALICE).unwrap();
        assert_eq!(gone(&eve), [0]);
    }

    #[test]
    fn a_network_of_one_subscriber_is_one_address() {
        let places = Places::new(3);
        let eve: Vec<_> = (0..3)
            .map(|number| take(&places, &format!("2001:db8:6:6::{number}")).unwrap())
            .collect();
        let _alice = take(&places, "2001:db8:6:7::1").unwrap();
        assert_eq!(gone(&eve), [0]);
    }

    #[test]
    fn many_addresses_with_one_place_each_give_way_in_turn() {
        let places = Places::new(3);
        let first: Vec<_> = (1..=3)
            .map(|number| take(&places, &format!("203.0.113.{}", 10 - number)).unwrap())
            .collect();
        let _fourth = take(&places, ALICE).unwrap();
        assert_eq!(gone(&first), [0]);
        let _fifth = take(&places, BOB).unwrap();
        assert_eq!(gone(&first), [0, 1]);
    }

    #[test]
    fn a_place_counts_for_the_address_that_a_proxy_names() {
        let places = Places::new(3);
        let eve = several(&places, "10.0.0.1", 2);
        for (place, _) in &eve {
            place.set_address(&address(EVE));
        }
        let (alice, token) = take(&places, "10.0.0.1").unwrap();
        alice.set_address(&address(ALICE));
        let _bob = take(&places, "10.0.0.1").unwrap();
        assert_eq!(gone(&eve), [0]);
        assert!(!token.is_cancelled());
    }
}
