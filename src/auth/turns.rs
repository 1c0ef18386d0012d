//! Turns at the hook: so many calls are under way at a time, and those who wait are served in turn,
//! whoever has the most of them.
//!
//! Calls for logins are shared by address: a client that tries thousands has one turn, then one of
//! another address comes, and so on. Users who were logged in from an address before have turns
//! apart from those of strangers there: an office does not wait behind a client that guesses passwords. All other calls are shared by user, and of one user only some
//! are under way. Half of all turns are kept for logins, so that a hook that is slow to answer for
//! those who are in keeps nobody out; logins may have all, if nobody else wants any.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    hash::Hash,
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

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

/// Keys in turn, each with a queue of its own (pure).
#[derive(Debug)]
struct InTurn<K, T> {
    /// Keys that have something waiting, the next one first.
    keys: VecDeque<K>,
    waiting: HashMap<K, VecDeque<T>>,
}

impl<K, T> Default for InTurn<K, T> {
    fn default() -> Self {
        Self {
            keys: VecDeque::new(),
            waiting: HashMap::new(),
        }
    }
}

impl<K: Clone + Eq + Hash, T> InTurn<K, T> {
    fn push(&mut self, key: &K, item: T) {
        match self.waiting.get_mut(key) {
            Some(queue) => queue.push_back(item),
            None => {
                self.keys.push_back(key.clone());
                self.waiting.insert(key.clone(), VecDeque::from([item]));
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The first of the next key that may; the key is last from now on.
    fn pop(&mut self, may: impl Fn(&K) -> bool) -> Option<(K, T)> {
        let index = self.keys.iter().position(may)?;
        let key = self.keys.remove(index)?;
        let queue = self.waiting.get_mut(&key)?;
        let item = queue.pop_front()?;
        if queue.is_empty() {
            self.waiting.remove(&key);
        } else {
            self.keys.push_back(key.clone());
        }
        if self.keys.is_empty() {
            // After a rush.
            *self = Self::default();
        }
        Some((key, item))
    }
}

/// The turns that are taken, and the calls that wait (pure, but for the word that it is time).
#[derive(Debug)]
struct TurnState {
    free: usize,
    /// Of those under way.
    logins: usize,
    /// Of those under way, by user.
    users: HashMap<Arc<str>, usize>,
    others: usize,
    waiting_logins: InTurn<(AddressKey, bool), oneshot::Sender<Turn>>,
    waiting_others: InTurn<Arc<str>, oneshot::Sender<Turn>>,
    /// Whether the last turn that anybody could have had went to a login.
    was_login: bool,
}

/// The turns of a hook.
#[derive(Debug)]
pub(super) struct Turns {
    /// Kept for logins.
    kept: usize,
    /// All others together have so many.
    most_others: usize,
    /// One user has so many.
    most_of_user: usize,
    state: Mutex<TurnState>,
}

/// A turn; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Arc<Turns>,
    payer: Payer,
    /// Nobody waited for it any more.
    is_lost: bool,
}

impl Turns {
    pub(super) fn new(all: usize, most_of_user: usize) -> Arc<Self> {
        let kept = all / 2;
        Arc::new(Self {
            kept,
            most_others: all.saturating_sub(kept),
            most_of_user,
            state: Mutex::new(TurnState {
                free: all,
                logins: 0,
                users: HashMap::new(),
                others: 0,
                waiting_logins: InTurn::default(),
                waiting_others: InTurn::default(),
                was_login: false,
            }),
        })
    }

    /// Waits for a turn. A caller that gives up waiting is passed over.
    pub(super) async fn take(self: &Arc<Self>, payer: Payer) -> Turn {
        let (sender, receiver) = oneshot::channel();
        {
            let mut state = self.state.lock();
            match &payer {
                Payer::Login(address, is_known) => {
                    state.waiting_logins.push(&(*address, *is_known), sender);
                }
                Payer::User(user) => state.waiting_others.push(user, sender),
            }
        }
        self.hand_out();
        match receiver.await {
            Ok(turn) => turn,
            // Nobody drops a sender that is waited for; if somebody did, the call would go without
            // a turn.
            Err(_) => {
                let mut state = self.state.lock();
                state.free = state.free.saturating_sub(1);
                state.begin(&payer);
                drop(state);
                self.turn(payer)
            }
        }
    }

    /// Hands out the turns that are free.
    fn hand_out(self: &Arc<Self>) {
        loop {
            let next = self.state.lock().next(self);
            let Some((payer, sender)) = next else {
                return;
            };
            // If nobody waits any more, the turn comes back, and the next one has it: from here, for
            // there may be thousands.
            if let Err(mut turn) = sender.send(self.turn(payer)) {
                turn.is_lost = true;
            }
        }
    }

    fn turn(self: &Arc<Self>, payer: Payer) -> Turn {
        Turn {
            turns: Arc::clone(self),
            payer,
            is_lost: false,
        }
    }
}

impl TurnState {
    fn next(&mut self, turns: &Turns) -> Option<(Payer, oneshot::Sender<Turn>)> {
        if self.free == 0 {
            return None;
        }
        let is_kept = self.logins < turns.kept;
        let (payer, sender) = if is_kept && !self.waiting_logins.is_empty() {
            self.next_login()?
        } else {
            // Where none is kept, for there is only one, each has its turn.
            let login_first = turns.kept == 0 && !self.was_login;
            if login_first && !self.waiting_logins.is_empty() {
                self.was_login = true;
                self.next_login()?
            } else {
                self.was_login = false;
                match self.next_other(turns) {
                    Some(next) => next,
                    None => self.next_login()?,
                }
            }
        };
        self.free = self.free.saturating_sub(1);
        self.begin(&payer);
        Some((payer, sender))
    }

    fn next_login(&mut self) -> Option<(Payer, oneshot::Sender<Turn>)> {
        let ((address, is_known), sender) = self.waiting_logins.pop(|_| true)?;
        Some((Payer::Login(address, is_known), sender))
    }

    fn next_other(&mut self, turns: &Turns) -> Option<(Payer, oneshot::Sender<Turn>)> {
        if self.others >= turns.most_others {
            return None;
        }
        let users = &self.users;
        let may = |user: &Arc<str>| {
            users
                .get(user)
                .is_none_or(|count| *count < turns.most_of_user)
        };
        let (user, sender) = self.waiting_others.pop(may)?;
        Some((Payer::User(user), sender))
    }

    fn begin(&mut self, payer: &Payer) {
        match payer {
            Payer::Login(..) => self.logins = self.logins.saturating_add(1),
            Payer::User(user) => {
                self.others = self.others.saturating_add(1);
                let count = self.users.entry(Arc::clone(user)).or_default();
                *count = count.saturating_add(1);
            }
        }
    }

    fn end(&mut self, payer: &Payer) {
        self.free = self.free.saturating_add(1);
        match payer {
            Payer::Login(..) => self.logins = self.logins.saturating_sub(1),
            Payer::User(user) => {
                self.others = self.others.saturating_sub(1);
                if let Some(count) = self.users.get_mut(user) {
                    *count = count.saturating_sub(1);
                    if *count == 0 {
                        self.users.remove(user);
                    }
                }
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.turns.state.lock().end(&self.payer);
        if !self.is_lost {
            self.turns.hand_out();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, future::BoxFuture};

    use super::*;

    fn login(n: u64) -> Payer {
        Payer::Login(AddressKey::V6(n), false)
    }

    fn user(name: &str) -> Payer {
        Payer::User(name.into())
    }

    /// Calls that wait for a turn or have one.
    struct Calls {
        turns: Arc<Turns>,
        waiting: Vec<(&'static str, BoxFuture<'static, Turn>)>,
        under_way: Vec<(&'static str, Turn)>,
    }

    impl Calls {
        fn new(all: usize, most_of_user: usize) -> Self {
            Self {
                turns: Turns::new(all, most_of_user),
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
        let state = calls.turns.state.lock();
        assert_eq!((state.free, state.logins), (1, 0));
        assert!(state.waiting_logins.is_empty() && state.waiting_logins.waiting.is_empty());
    }
}
