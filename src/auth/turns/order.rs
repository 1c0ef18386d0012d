//! The order at the hook (pure): the turns that are taken, and the questions that wait for one.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    sync::Arc,
};

use super::Payer;
use crate::address::AddressKey;

/// For one more question of a batch, so many addresses or users are looked at, at most: thousands
/// may wait for a call of their own.
const LOOKED_AT: usize = 64;

/// The bounds of calls under way.
#[derive(Debug)]
pub(super) struct Bounds {
    /// Kept for logins.
    pub(super) kept: usize,
    /// All others together have so many.
    pub(super) most_others: usize,
    /// One user has so many questions under way.
    pub(super) most_of_user: usize,
    /// The bounds of a batch.
    pub(super) batch: BatchBounds,
}

/// The bounds of a batch.
#[derive(Clone, Copy, Debug)]
pub(in crate::auth) struct BatchBounds {
    /// So many questions at most.
    pub(in crate::auth) questions: usize,
    /// So many bytes of them, unless one alone has more.
    pub(in crate::auth) bytes: usize,
}

impl BatchBounds {
    /// Of one address (apart: strangers, and users who are known there), a batch of logins has so
    /// many: those of others go with it.
    fn most_of_address(self) -> usize {
        self.questions.div_ceil(4)
    }
}

/// A question that waits for its turn.
pub(super) trait Waiting {
    /// The bytes that it adds to a batch; `None` if it has a call of its own.
    fn batch_bytes(&self) -> Option<usize>;

    /// False if it was given up.
    fn is_waited_for(&self) -> bool;
}

/// Keys in turn, each with a queue of its own.
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
        self.pop_at(index)
    }

    /// Where the next question for a batch is, if not too far behind: of a key that may, and not
    /// with a call of its own.
    fn next_for_batch(&self, may: impl Fn(&K) -> bool) -> Option<(usize, usize)>
    where
        T: Waiting,
    {
        let keys = self.keys.iter().enumerate().take(LOOKED_AT);
        let mut may = keys.filter(|(_, key)| may(key));
        may.find_map(|(index, key)| {
            let first = self.waiting.get(key)?.front()?;
            Some((index, first.batch_bytes()?))
        })
    }

    fn pop_at(&mut self, index: usize) -> Option<(K, T)> {
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

/// The turns that are taken, and the questions that wait.
#[derive(Debug)]
pub(super) struct Order<T> {
    free: usize,
    /// Calls under way for logins.
    logins: usize,
    /// Questions under way, by user.
    users: HashMap<Arc<str>, usize>,
    /// Calls under way for users who are logged in.
    others: usize,
    waiting_logins: InTurn<(AddressKey, bool), T>,
    waiting_others: InTurn<Arc<str>, T>,
    /// Whether the last turn that anybody could have had went to a login.
    was_login: bool,
}

impl<T: Waiting> Order<T> {
    pub(super) fn new(free: usize) -> Self {
        Self {
            free,
            logins: 0,
            users: HashMap::new(),
            others: 0,
            waiting_logins: InTurn::default(),
            waiting_others: InTurn::default(),
            was_login: false,
        }
    }

    pub(super) fn push(&mut self, payer: &Payer, item: T) {
        match payer {
            Payer::Login(address, is_known) => {
                self.waiting_logins.push(&(*address, *is_known), item);
            }
            Payer::User(user) => self.waiting_others.push(user, item),
        }
    }

    /// The questions of the next call, and who pays for each: one, or a batch of one kind, logins or
    /// others. A turn is theirs until [`Order::end`].
    pub(super) fn next_call(&mut self, bounds: &Bounds) -> Option<(Vec<Payer>, Vec<T>)> {
        let (payer, item) = self.next(bounds)?;
        let mut bytes = item.batch_bytes();
        let (mut payers, mut items) = (vec![payer], vec![item]);
        while let Some(so_far) = bytes
            && payers.len() < bounds.batch.questions
            && let Some((payer, item)) = self.one_more(bounds, &payers, so_far)
        {
            if !item.is_waited_for() {
                continue;
            }
            let own = item.batch_bytes().unwrap_or_default();
            bytes = Some(so_far.saturating_add(own));
            if let Payer::User(user) = &payer {
                self.begin_of(user);
            }
            payers.push(payer);
            items.push(item);
        }
        Some((payers, items))
    }

    fn next(&mut self, bounds: &Bounds) -> Option<(Payer, T)> {
        if self.free == 0 {
            return None;
        }
        let is_kept = self.logins < bounds.kept;
        let (payer, item) = if is_kept && !self.waiting_logins.is_empty() {
            self.next_login()?
        } else {
            // Where none is kept, for there is only one, each has its turn.
            let login_first = bounds.kept == 0 && !self.was_login;
            if login_first && !self.waiting_logins.is_empty() {
                self.was_login = true;
                self.next_login()?
            } else {
                self.was_login = false;
                match self.next_other(bounds) {
                    Some(next) => next,
                    None => self.next_login()?,
                }
            }
        };
        self.begin(&payer);
        Some((payer, item))
    }

    fn next_login(&mut self) -> Option<(Payer, T)> {
        let ((address, is_known), item) = self.waiting_logins.pop(|_| true)?;
        Some((Payer::Login(address, is_known), item))
    }

    fn next_other(&mut self, bounds: &Bounds) -> Option<(Payer, T)> {
        if self.others >= bounds.most_others {
            return None;
        }
        let users = &self.users;
        let (user, item) = self
            .waiting_others
            .pop(|user| may_have_more(users, user, bounds))?;
        Some((Payer::User(user), item))
    }

    /// One more question for the call that these have, of the same kind.
    fn one_more(&mut self, bounds: &Bounds, payers: &[Payer], so_far: usize) -> Option<(Payer, T)> {
        let fits = |bytes: usize| so_far.saturating_add(bytes) <= bounds.batch.bytes;
        match payers.first()? {
            Payer::Login(..) => {
                let may = |key: &(AddressKey, bool)| {
                    let own = Payer::Login(key.0, key.1);
                    let has = payers.iter().filter(|payer| **payer == own).count();
                    has < bounds.batch.most_of_address()
                };
                let (index, bytes) = self.waiting_logins.next_for_batch(may)?;
                let (key, item) = fits(bytes).then(|| self.waiting_logins.pop_at(index))??;
                Some((Payer::Login(key.0, key.1), item))
            }
            Payer::User(_) => {
                let users = &self.users;
                let may = |user: &Arc<str>| may_have_more(users, user, bounds);
                let (index, bytes) = self.waiting_others.next_for_batch(may)?;
                let (user, item) = fits(bytes).then(|| self.waiting_others.pop_at(index))??;
                Some((Payer::User(user), item))
            }
        }
    }

    /// A call begins with this question.
    pub(super) fn begin(&mut self, payer: &Payer) {
        self.free = self.free.saturating_sub(1);
        match payer {
            Payer::Login(..) => self.logins = self.logins.saturating_add(1),
            Payer::User(user) => {
                self.others = self.others.saturating_add(1);
                self.begin_of(user);
            }
        }
    }

    fn begin_of(&mut self, user: &Arc<str>) {
        let count = self.users.entry(Arc::clone(user)).or_default();
        *count = count.saturating_add(1);
    }

    /// The call with the questions of these is done.
    pub(super) fn end(&mut self, payers: &[Payer]) {
        self.free = self.free.saturating_add(1);
        match payers.first() {
            Some(Payer::Login(..)) => self.logins = self.logins.saturating_sub(1),
            Some(Payer::User(_)) => self.others = self.others.saturating_sub(1),
            None => {}
        }
        for payer in payers {
            if let Payer::User(user) = payer
                && let Some(count) = self.users.get_mut(user)
            {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.users.remove(user);
                }
            }
        }
    }

    #[cfg(test)]
    pub(super) fn is_idle(&self, all: usize) -> bool {
        let logins = self.waiting_logins.is_empty() && self.waiting_logins.waiting.is_empty();
        let others = self.waiting_others.is_empty() && self.waiting_others.waiting.is_empty();
        let counts = (self.free, self.logins, self.others, self.users.len());
        logins && others && counts == (all, 0, 0, 0)
    }
}

fn may_have_more(users: &HashMap<Arc<str>, usize>, user: &Arc<str>, bounds: &Bounds) -> bool {
    let count = users.get(user).copied().unwrap_or_default();
    count < bounds.most_of_user
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A question by number, with its bytes in a batch.
    #[derive(Clone, Debug, PartialEq)]
    struct Asked(usize, Option<usize>, bool);

    impl Waiting for Asked {
        fn batch_bytes(&self) -> Option<usize> {
            self.1
        }

        fn is_waited_for(&self) -> bool {
            self.2
        }
    }

    fn bounds(all: usize, most_of_user: usize, questions: usize) -> Bounds {
        Bounds {
            kept: all / 2,
            most_others: all - all / 2,
            most_of_user,
            batch: BatchBounds {
                questions,
                bytes: 1_000,
            },
        }
    }

    fn login(n: u64) -> Payer {
        Payer::Login(AddressKey::V6(n), false)
    }

    fn user(n: u64) -> Payer {
        Payer::User(n.to_string().into())
    }

    /// The numbers of the questions of the next call.
    fn next(order: &mut Order<Asked>, bounds: &Bounds) -> Vec<usize> {
        let (_, items) = order.next_call(bounds).unwrap_or_default();
        items.into_iter().map(|item| item.0).collect()
    }

    #[test]
    fn the_first_goes_at_once_and_what_gathers_goes_together() {
        let bounds = bounds(1, 8, 4);
        let mut order = Order::new(1);
        order.push(&login(0), Asked(0, Some(1), true));
        let (first, items) = order.next_call(&bounds).unwrap();
        assert_eq!(items, [Asked(0, Some(1), true)]);
        for n in 1..7 {
            order.push(&login(n), Asked(n as usize, Some(1), true));
        }
        assert_eq!(next(&mut order, &bounds), [0; 0], "the turn is taken");
        order.end(&first);
        assert_eq!(next(&mut order, &bounds), [1, 2, 3, 4]);
        order.end(&[login(1)]);
        assert_eq!(next(&mut order, &bounds), [5, 6]);
    }

    /// 6,000 logins of one address fill a quarter of a batch, and others go with them.
    #[test]
    fn one_address_does_not_fill_a_batch() {
        let bounds = bounds(1, 8, 8);
        let mut order = Order::new(1);
        for n in 0..6_000 {
            order.push(&login(1), Asked(n, Some(1), true));
        }
        for n in 0..9 {
            order.push(&login(2 + n / 3), Asked(10_000 + n as usize, Some(1), true));
        }
        let first = [0, 10_000, 10_003, 10_006, 1, 10_001, 10_004, 10_007];
        assert_eq!(next(&mut order, &bounds), first);
        order.end(&[login(1)]);
        assert_eq!(next(&mut order, &bounds), [2, 10_002, 10_005, 10_008, 3]);
        order.end(&[login(1)]);
        assert_eq!(next(&mut order, &bounds), [4, 5], "nobody else waits");
    }

    #[test]
    fn a_user_has_so_many_questions_under_way_in_all_batches() {
        let bounds = bounds(8, 3, 10);
        let mut order = Order::new(8);
        for n in 0..10 {
            order.push(&user(1), Asked(n, Some(1), true));
        }
        order.push(&user(2), Asked(10, Some(1), true));
        assert_eq!(next(&mut order, &bounds), [0, 10, 1, 2]);
        assert_eq!(next(&mut order, &bounds), [0; 0]);
        order.end(&[user(1), user(2), user(1), user(1)]);
        assert_eq!(next(&mut order, &bounds), [3, 4, 5]);
    }

    #[test]
    fn calls_of_their_own_and_large_questions_go_alone() {
        let bounds = bounds(8, 8, 10);
        let mut order = Order::new(8);
        let bytes = [None, Some(600), Some(600), None, Some(5_000), Some(1)];
        for (n, bytes) in bytes.into_iter().enumerate() {
            order.push(&login(n as u64), Asked(n, bytes, true));
        }
        let calls: Vec<_> = (0..5).map(|_| next(&mut order, &bounds)).collect();
        assert_eq!(calls, [vec![0], vec![1], vec![2], vec![3], vec![4]]);
        assert_eq!(next(&mut order, &bounds), [5]);
    }

    proptest! {
        /// Any questions, any calls that end: each question is asked once, of an address or user in
        /// the order in which they came; no bound is passed, and all that was taken comes back.
        #[test]
        fn every_question_is_asked_once_within_the_bounds(
            all in 1..6_usize,
            most_of_user in 1..4_usize,
            questions in 1..9_usize,
            steps in prop::collection::vec(
                (any::<bool>(), 0..4_u64, prop::option::of(1..700_usize), any::<bool>()), 0..200),
        ) {
            let bounds = bounds(all, most_of_user, questions);
            let mut order = Order::new(all);
            let mut under_way = VecDeque::new();
            let mut asked: HashMap<Payer, Vec<usize>> = HashMap::new();
            let mut expected: HashMap<Payer, Vec<usize>> = HashMap::new();
            let mut take = |order: &mut Order<Asked>, under_way: &mut VecDeque<Vec<Payer>>| {
                while let Some((payers, items)) = order.next_call(&bounds) {
                    prop_assert_eq!(payers.len(), items.len());
                    let is_login = |payer: &Payer| matches!(payer, Payer::Login(..));
                    prop_assert!(payers.iter().all(|p| is_login(p) == is_login(&payers[0])));
                    if items.len() > 1 {
                        prop_assert!(items.len() <= questions);
                        let bytes: Option<Vec<_>> = items.iter().map(|item| item.1).collect();
                        let bytes: Option<usize> = bytes.map(|bytes| bytes.iter().sum());
                        prop_assert!(bytes.is_some_and(|bytes| bytes <= 1_000));
                    }
                    for payer in &payers {
                        let own = payers.iter().filter(|other| *other == payer).count();
                        prop_assert!(!is_login(payer) || own <= questions.div_ceil(4));
                    }
                    for (payer, item) in payers.iter().zip(items) {
                        asked.entry(payer.clone()).or_default().push(item.0);
                    }
                    under_way.push_back(payers);
                    prop_assert!(under_way.len() <= all);
                    for n in 0..4 {
                        let own = under_way.iter().flatten().filter(|p| **p == user(n)).count();
                        prop_assert!(own <= most_of_user);
                    }
                }
                Ok(())
            };
            for (n, (is_login, payer, bytes, ends)) in steps.into_iter().enumerate() {
                let payer = if is_login { login(payer) } else { user(payer) };
                expected.entry(payer.clone()).or_default().push(n);
                order.push(&payer, Asked(n, bytes, true));
                take(&mut order, &mut under_way)?;
                if ends && let Some(payers) = under_way.pop_front() {
                    order.end(&payers);
                    take(&mut order, &mut under_way)?;
                }
            }
            while let Some(payers) = under_way.pop_front() {
                order.end(&payers);
                take(&mut order, &mut under_way)?;
            }
            prop_assert_eq!(asked, expected);
            prop_assert!(order.is_idle(all));
        }
    }
}
