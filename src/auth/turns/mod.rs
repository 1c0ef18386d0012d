//! Turns at the hook: so many calls are under way at a time, and those who wait are served in turn,
//! whoever has the most of them.
//!
//! Calls for logins are shared by address: a client that tries thousands has one turn, then one of
//! another address comes, and so on. Users who were logged in from an address before have turns
//! apart from those of strangers there: an office does not wait behind a client that guesses passwords. All other calls are shared by user, and of one user only some
//! are under way. Half of all turns are kept for logins, so that a hook that is slow to answer for
//! those who are in keeps nobody out; logins may have all, if nobody else wants any.
//!
//! Questions that may go together share a call, which is one turn: those that gathered while all
//! turns were taken, again by address or by user in turn. [`order`] decides all of it.

mod order;

use std::{fmt, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::oneshot;

pub(super) use self::order::BatchBounds;
use self::order::{Bounds, Order, Waiting};
use crate::address::AddressKey;

/// Whose call it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Payer {
    /// A client that logs in, from an address; true if its user was logged in from there before.
    Login(AddressKey, bool),
    /// A user who is logged in.
    User(Arc<str>),
}

/// For the log.
impl fmt::Display for Payer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Login(address, _) => address.fmt(f),
            Self::User(user) => f.write_str(user),
        }
    }
}

/// The turns of a hook. `Q` is a question that may be asked together with others.
pub(super) struct Turns<Q: Together> {
    bounds: Bounds,
    order: Mutex<Order<Waiter<Q>>>,
    /// Asks these in one call, which has this turn. Gives the turn back if nobody waits any more.
    ask: Box<Asking<Q>>,
}

type Asking<Q> = dyn Fn(Vec<Q>, Turn<Q>) -> Option<Turn<Q>> + Send + Sync;

/// A question that may be asked together with others.
pub(super) trait Together {
    /// The bytes that it adds to a batch.
    fn bytes(&self) -> usize;

    /// False if it was given up.
    fn is_waited_for(&self) -> bool;
}

/// Something that waits for a turn.
enum Waiter<Q: Together> {
    /// A caller, who makes its call itself.
    Alone(oneshot::Sender<Turn<Q>>),
    Together(Q),
}

impl<Q: Together> Waiting for Waiter<Q> {
    fn batch_bytes(&self) -> Option<usize> {
        match self {
            Self::Alone(_) => None,
            Self::Together(question) => Some(question.bytes()),
        }
    }

    fn is_waited_for(&self) -> bool {
        match self {
            Self::Alone(sender) => !sender.is_closed(),
            Self::Together(question) => question.is_waited_for(),
        }
    }
}

/// A turn; given back when it is dropped.
pub(super) struct Turn<Q: Together> {
    turns: Arc<Turns<Q>>,
    /// Of each question that is asked.
    payers: Vec<Payer>,
    /// Nobody waited for it any more.
    is_lost: bool,
}

impl<Q: Together> Turns<Q> {
    pub(super) fn new(
        all: usize,
        most_of_user: usize,
        batch: BatchBounds,
        ask: impl Fn(Vec<Q>, Turn<Q>) -> Option<Turn<Q>> + Send + Sync + 'static,
    ) -> Arc<Self> {
        let kept = all / 2;
        let bounds = Bounds {
            kept,
            most_others: all.saturating_sub(kept),
            most_of_user,
            batch,
        };
        Arc::new(Self {
            bounds,
            order: Mutex::new(Order::new(all)),
            ask: Box::new(ask),
        })
    }

    /// Waits for a turn. A caller that gives up waiting is passed over.
    pub(super) async fn take(self: &Arc<Self>, payer: Payer) -> Turn<Q> {
        let (sender, receiver) = oneshot::channel();
        self.order.lock().push(&payer, Waiter::Alone(sender));
        self.hand_out();
        match receiver.await {
            Ok(turn) => turn,
            // Nobody drops a sender that is waited for; if somebody did, the call would go without
            // a turn.
            Err(_) => {
                self.order.lock().begin(&payer);
                self.turn(vec![payer])
            }
        }
    }

    /// Has the question asked together with others, when a turn is free: at once, if one is.
    pub(super) fn join(self: &Arc<Self>, payer: &Payer, question: Q) {
        self.order.lock().push(payer, Waiter::Together(question));
        self.hand_out();
    }

    /// Hands out the turns that are free.
    fn hand_out(self: &Arc<Self>) {
        loop {
            let next = self.order.lock().next_call(&self.bounds);
            let Some((payers, waiters)) = next else {
                return;
            };
            let turn = self.turn(payers);
            // If nobody waits any more, the turn comes back, and the next one has it: from here, for
            // there may be thousands.
            if let Some(mut turn) = self.give(turn, waiters) {
                turn.is_lost = true;
            }
        }
    }

    fn give(&self, turn: Turn<Q>, waiters: Vec<Waiter<Q>>) -> Option<Turn<Q>> {
        let mut questions = Vec::new();
        for waiter in waiters {
            match waiter {
                // It is the only one: those that go together have none between them.
                Waiter::Alone(sender) => return sender.send(turn).err(),
                Waiter::Together(question) => questions.push(question),
            }
        }
        (self.ask)(questions, turn)
    }

    fn turn(self: &Arc<Self>, payers: Vec<Payer>) -> Turn<Q> {
        Turn {
            turns: Arc::clone(self),
            payers,
            is_lost: false,
        }
    }
}

impl<Q: Together> Drop for Turn<Q> {
    fn drop(&mut self) {
        self.turns.order.lock().end(&self.payers);
        if !self.is_lost {
            self.turns.hand_out();
        }
    }
}

impl<Q: Together> fmt::Debug for Turns<Q> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turns")
            .field("bounds", &self.bounds)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, future::BoxFuture};

    use super::*;

    /// Here all have calls of their own.
    struct Never;

    impl Together for Never {
        fn bytes(&self) -> usize {
            0
        }

        fn is_waited_for(&self) -> bool {
            false
        }
    }

    fn turns(all: usize, most_of_user: usize) -> Arc<Turns<Never>> {
        let batch = BatchBounds {
            questions: 1,
            bytes: 0,
        };
        Turns::new(all, most_of_user, batch, |_, turn| Some(turn))
    }

    fn login(n: u64) -> Payer {
        Payer::Login(AddressKey::V6(n), false)
    }

    fn user(name: &str) -> Payer {
        Payer::User(name.into())
    }

    /// Calls that wait for a turn or have one.
    struct Calls {
        turns: Arc<Turns<Never>>,
        waiting: Vec<(&'static str, BoxFuture<'static, Turn<Never>>)>,
        under_way: Vec<(&'static str, Turn<Never>)>,
    }

    impl Calls {
        fn new(all: usize, most_of_user: usize) -> Self {
            Self {
                turns: turns(all, most_of_user),
                waiting: Vec::new(),
                under_way: Vec::new(),
            }
        }

        fn ask(&mut self, name: &'static str, payer: Payer, times: usize) {
            for _ in 0..times {
                let (turns, payer) = (Arc::clone(&self.turns), payer.clone());
                let take = async move { turns.take(payer).await };
                self.waiting.push((name, take.boxed()));
            }
        }

        /// Those that have got a turn since the last time.
        fn begun(&mut self) -> String {
            let mut begun = String::new();
            let mut waiting = Vec::new();
            for (name, mut take) in self.waiting.drain(..) {
                match (&mut take).now_or_never() {
                    Some(turn) => {
                        begun.push_str(name);
                        self.under_way.push((name, turn));
                    }
                    None => waiting.push((name, take)),
                }
            }
            self.waiting = waiting;
            begun
        }

        /// The oldest call is done.
        fn end(&mut self) -> String {
            drop(self.under_way.remove(0));
            self.begun()
        }
    }

    #[test]
    fn addresses_have_turns_one_after_the_other() {
        let mut calls = Calls::new(2, 8);
        calls.ask("a", login(1), 6_000);
        assert_eq!(calls.begun(), "aa");
        calls.ask("b", login(2), 2);
        calls.ask("c", login(3), 1);
        assert_eq!(calls.begun(), "");
        let order: String = (0..6).map(|_| calls.end()).collect();
        assert_eq!(order, "abcaba");
    }

    #[test]
    fn known_users_do_not_wait_behind_strangers_at_their_address() {
        let mut calls = Calls::new(1, 8);
        calls.ask("s", login(1), 6_000);
        assert_eq!(calls.begun(), "s");
        calls.ask("k", Payer::Login(AddressKey::V6(1), true), 2);
        calls.ask("o", login(2), 2);
        assert_eq!(calls.begun(), "");
        let order: String = (0..7).map(|_| calls.end()).collect();
        assert_eq!(order, "skoskos");
    }

    #[test]
    fn a_user_has_some_and_logins_have_half() {
        let mut calls = Calls::new(8, 3);
        calls.ask("x", user("x"), 10);
        assert_eq!(calls.begun(), "xxx");
        calls.ask("y", user("y"), 10);
        assert_eq!(calls.begun(), "y", "the rest is for logins");
        calls.ask("l", login(1), 10);
        assert_eq!(calls.begun(), "llll");
        // One who is done gives its turn to its kind.
        let order: String = (0..4).map(|_| calls.end()).collect();
        assert_eq!(order, "xyxy");
        assert_eq!(calls.end(), "l");
    }

    #[test]
    fn logins_may_have_all_that_nobody_else_wants() {
        let mut calls = Calls::new(4, 8);
        calls.ask("l", login(1), 10);
        assert_eq!(calls.begun(), "llll");
        calls.ask("x", user("x"), 2);
        assert_eq!(calls.begun(), "");
        assert_eq!(calls.end() + &calls.end() + &calls.end(), "xxl");
        // A single turn is everybody's.
        let mut calls = Calls::new(1, 8);
        calls.ask("l", login(1), 3);
        calls.ask("x", user("x"), 3);
        let mut order = calls.begun();
        for _ in 0..5 {
            order += &calls.end();
        }
        assert_eq!(order, "lxlxlx");
    }

    #[test]
    fn a_call_that_gives_up_is_passed_over() {
        let mut calls = Calls::new(1, 8);
        calls.ask("a", login(1), 1);
        assert_eq!(calls.begun(), "a");
        calls.ask("b", login(2), 1000);
        assert_eq!(calls.begun(), "");
        calls.waiting.clear();
        calls.ask("c", login(3), 1);
        assert_eq!(calls.begun(), "");
        assert_eq!(calls.end(), "c");
        calls.under_way.clear();
        assert!(calls.turns.order.lock().is_idle(1));
    }
}
