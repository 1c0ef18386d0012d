//! Claims that wait for room, and the order in which they get it.

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

/// A claim that grows in steps is one: it does not wait for itself.
#[test]
fn a_claim_alone_grows_beyond_all_shares() {
    let room = room();
    let alice = account(&room, "alice", 1);
    let context = Context::from_waker(Waker::noop());
    let grow = |claim: &mut Claim, ticket: &mut Ticket| {
        let more = alice.poll_more(claim.bytes(), claim.bytes(), ticket, &context);
        more.map(|more| claim.join(more))
    };
    let mut ticket = Ticket::default();
    let mut claim = Try::new(&alice, 8).poll().unwrap();
    for size in [16, 32, 64] {
        assert!(grow(&mut claim, &mut ticket).is_ready());
        assert_eq!((claim.bytes(), room.used()), (size, size));
    }
    // With another beside it, it waits for that.
    drop(claim.split(60));
    let other = alice.claim(7);
    assert!(grow(&mut claim, &mut ticket).is_pending());
    drop(other);
    assert!(grow(&mut claim, &mut ticket).is_ready());
    assert_eq!(room.used(), 8);
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

/// One user's claims cost others nothing, and what that user gives back costs little.
#[test]
fn claims_that_wait_for_their_user_are_not_looked_at() {
    const PARKED: u64 = 10_000;
    /// Looks at claims for each claim and what is given back, at most.
    const FEW: usize = 8;
    let room = Room::new(Share {
        connection: 10,
        user: 20,
        all: 50_000,
    });
    let looks = || std::mem::take(&mut room.state.lock().looks);
    let mut held: Vec<_> = (0..2)
        .map(|number| account(&room, "alice", number).claim(10))
        .collect();
    let mut parked: Vec<_> = (2..PARKED)
        .map(|number| Try::new(&account(&room, "alice", number), 5))
        .collect();
    assert!(parked.iter_mut().all(|parked| parked.poll().is_none()));
    assert!(looks() <= parked.len() * FEW);
    // Others'.
    let bob = account(&room, "bob", PARKED);
    for _ in 0..100 {
        let claim = Try::new(&bob, 8).poll().unwrap();
        let mut second = Try::new(&bob, 8);
        assert!(second.poll().is_none());
        drop(claim);
        assert!(second.is_woken());
        assert!(second.poll().is_some());
        drop(Try::new(&bob, 8).poll().unwrap());
    }
    assert!(looks() <= 400 * FEW);
    // The user's own, in pieces.
    for part in &mut held {
        while part.bytes() > 0 {
            drop(part.split(1));
        }
    }
    assert!(looks() <= 20 * FEW);
    let woken = parked.iter().take_while(|parked| parked.is_woken());
    assert_eq!(woken.count(), 4, "in their order");
    // All have their turn.
    for parked in &mut parked {
        assert!(parked.poll().is_some());
    }
    assert!(looks() <= parked.len() * FEW);
    let state = room.state.lock();
    assert!(state.waiting.is_empty() && state.aside.is_empty() && state.line.is_empty());
    assert!(state.waiting.capacity() < 1_000 && state.users.is_empty());
}

#[test]
fn one_that_is_too_large_for_its_user_lets_smaller_ones_pass() {
    let room = room();
    let mut held: Vec<_> = (0..2)
        .map(|number| account(&room, "alice", number).claim(10))
        .collect();
    let mut large = Try::new(&account(&room, "alice", 2), 10);
    let mut small = Try::new(&account(&room, "alice", 3), 1);
    assert!(large.poll().is_none() && small.poll().is_none());
    let part = held[0].split(5);
    drop(part);
    assert!(small.is_woken() && !large.is_woken());
    let small = small.poll().unwrap();
    drop(held);
    assert!(large.poll().is_some());
    drop(small);
    assert_eq!(room.used(), 0);
}

#[test]
fn what_has_its_room_and_is_given_up_leaves_it_to_the_next() {
    let room = room();
    let alice = account(&room, "alice", 1);
    let held = alice.claim(10);
    let mut first = Try::new(&alice, 10);
    let mut second = Try::new(&alice, 9);
    assert!(first.poll().is_none() && second.poll().is_none());
    drop(held);
    assert!(first.is_woken() && !second.is_woken());
    drop(first);
    assert!(second.is_woken());
    assert!(second.poll().is_some());
    assert_eq!(room.used(), 0);
}

#[test]
fn other_shares_hold_for_claims_that_wait() {
    let room = room();
    let alice = account(&room, "alice", 1);
    let held = alice.claim(10);
    let other = account(&room, "bob", 2).claim(40);
    let mut own = Try::new(&alice, 5);
    let mut all = Try::new(&account(&room, "carol", 3), 9);
    assert!(own.poll().is_none() && all.poll().is_none());
    let share = |connection, all| Share {
        connection,
        user: 20,
        all,
    };
    room.set_share(share(20, 50));
    assert!(
        !own.is_woken() && !all.is_woken(),
        "there is no room for all"
    );
    room.set_share(share(20, 60));
    assert!(own.is_woken() && !all.is_woken());
    room.set_share(share(20, 64));
    assert!(all.is_woken());
    drop((own, all, held, other));
    assert_eq!(room.used(), 0);
    let state = room.state.lock();
    assert!(state.users.is_empty() && state.waiting.is_empty());
}

/// A client that keeps room for too long is ended only for those whom it keeps waiting.
#[test]
fn one_is_in_the_way_of_those_who_wait_for_what_it_has() {
    let room = room();
    let accounts = [("alice", 1), ("alice", 2), ("bob", 3), ("carol", 4)];
    let [alice, other, bob, carol] = accounts.map(|(user, number)| account(&room, user, number));
    let all = [&alice, &other, &bob, &carol];
    let in_the_way = || all.map(|account| account.is_in_the_way());
    let held = [alice.claim(10), bob.claim(10)];
    assert_eq!(in_the_way(), [false; 4]);
    // For its own connection.
    let mut own = Try::new(&alice, 5);
    assert!(own.poll().is_none());
    assert_eq!(in_the_way(), [false; 4]);
    drop(own);
    // For its user.
    let second = other.claim(10);
    let third = account(&room, "alice", 5);
    let mut of_user = Try::new(&third, 5);
    assert!(of_user.poll().is_none());
    assert_eq!(in_the_way(), [true, true, false, false]);
    drop(of_user);
    // For what all share.
    let rest = account(&room, "dave", 6).claim(20);
    let mut of_all = Try::new(&carol, 5);
    assert!(of_all.poll().is_none());
    assert_eq!(in_the_way(), [true; 4]);
    drop((held, second, rest));
    assert!(of_all.is_woken());
    assert_eq!(in_the_way(), [false; 4]);
}
