//! Mandatory messages that are under way together, and which of them came back (pure).
//!
//! RabbitMQ returns a message that reaches no queue, and confirms it after that. lapin hands what was
//! returned to whichever confirmation is next, so which messages of a round came back is known when
//! all have their confirmations. A returned message is known by its exchange and key; hence no two of
//! a round have both in common. Others wait for a round, so it is bounded, and it takes no more
//! messages once there is a confirmation, and none that waits to go with them.

use std::collections::HashSet;

use lapin::types::ShortString;

/// An exchange and a key.
type Address = (ShortString, ShortString);

/// Messages in a round, at most: the first of them has its answer when the last has it.
const MAX: usize = 256;

/// What was sent since all before had their confirmations.
#[derive(Debug)]
pub(super) struct Round<T> {
    sent: HashSet<Address>,
    returned: HashSet<Address>,
    confirmed: Vec<(Address, T)>,
    is_closed: bool,
}

impl<T> Default for Round<T> {
    fn default() -> Self {
        Self {
            sent: HashSet::new(),
            returned: HashSet::new(),
            confirmed: Vec::new(),
            is_closed: false,
        }
    }
}

impl<T> Round<T> {
    /// Whether one more message may go with those that are under way; they are all of this round.
    pub(super) fn takes(&self, exchange: &ShortString, key: &ShortString) -> bool {
        let is_open = !self.is_closed && self.sent.len() < MAX;
        is_open && !self.sent.contains(&(exchange.clone(), key.clone()))
    }

    /// No message waits to go with those that were sent.
    pub(super) fn nothing_waits(&mut self) {
        self.is_closed |= !self.confirmed.is_empty();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sent.is_empty()
    }

    /// A message goes on its way.
    pub(super) fn sent(&mut self, exchange: &ShortString, key: &ShortString) {
        self.sent.insert((exchange.clone(), key.clone()));
    }

    /// The broker returned a message; one of another round is passed over.
    pub(super) fn returned(&mut self, exchange: &ShortString, key: &ShortString) {
        let address = (exchange.clone(), key.clone());
        if self.sent.contains(&address) {
            self.returned.insert(address);
        }
    }

    /// The broker confirmed a message. It is kept until the round ends.
    pub(super) fn confirmed(&mut self, exchange: &ShortString, key: &ShortString, message: T) {
        let address = (exchange.clone(), key.clone());
        self.confirmed.push((address, message));
    }

    /// All that were sent have their confirmations, or will never have one: those that were
    /// confirmed, and whether each of them came back.
    pub(super) fn end(&mut self) -> impl Iterator<Item = (T, bool)> + use<T> {
        let Self {
            returned,
            confirmed,
            ..
        } = std::mem::take(self);
        let confirmed = confirmed.into_iter();
        confirmed.map(move |(address, message)| (message, returned.contains(&address)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ShortString {
        text.into()
    }

    fn sent(keys: &[&str]) -> Round<usize> {
        let mut round = Round::default();
        for key in keys {
            round.sent(&name("feed"), &name(key));
        }
        round
    }

    #[test]
    fn what_came_back_is_known_by_its_key_whoever_was_told() {
        let mut round = sent(&["a", "b", "c"]);
        let exchange = name("feed");
        // The confirmation of "a" carried what was said of "c".
        round.confirmed(&exchange, &name("a"), 0);
        round.returned(&exchange, &name("c"));
        round.confirmed(&exchange, &name("b"), 1);
        round.confirmed(&exchange, &name("c"), 2);
        let ended: Vec<_> = round.end().collect();
        assert_eq!(ended, [(0, false), (1, false), (2, true)]);
        assert_eq!(round.end().count(), 0);
    }

    #[test]
    fn a_key_is_once_in_a_round() {
        let exchange = name("feed");
        let mut round = sent(&["a"]);
        assert!(!round.takes(&exchange, &name("a")));
        assert!(round.takes(&exchange, &name("b")));
        assert!(round.takes(&name("other"), &name("a")));
        round.nothing_waits();
        assert!(round.takes(&exchange, &name("b")));
        round.confirmed(&exchange, &name("a"), 0);
        assert!(round.takes(&exchange, &name("b")));
        round.nothing_waits();
        assert!(!round.takes(&exchange, &name("b")));
        round.end().for_each(drop);
        assert!(round.is_empty() && round.takes(&exchange, &name("b")));
    }

    #[test]
    fn a_round_is_bounded() {
        let exchange = name("feed");
        let mut round = Round::<usize>::default();
        let key = |number: usize| name(&number.to_string());
        let last = (0..).find(|number| {
            let takes = round.takes(&exchange, &key(*number));
            round.sent(&exchange, &key(*number));
            !takes
        });
        assert_eq!(last, Some(MAX));
    }

    #[test]
    fn what_another_round_sent_says_nothing_of_this_one() {
        let mut round = sent(&["a"]);
        round.returned(&name("feed"), &name("b"));
        round.sent(&name("feed"), &name("b"));
        round.confirmed(&name("feed"), &name("b"), 1);
        let ended: Vec<_> = round.end().collect();
        assert_eq!(ended, [(1, false)]);
    }
}
