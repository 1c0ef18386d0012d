//! How exchanges route (pure).
//!
//! [`matches()`] says what one pattern means; a [`RoutingTable`] holds a million of them and finds
//! those that match a key without looking at the others.

mod trie;
mod values;

#[cfg(test)]
mod tests;

use std::hash::{Hash, RandomState};

use hashbrown::{HashMap, HashSet};
use serde::Deserialize;

use trie::Trie;
use values::Values;

/// How an exchange matches routing keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub enum ExchangeKind {
    /// Key and pattern are equal.
    Direct,
    /// Words between dots; `*` is one word, `#` any number of words.
    Topic,
    /// Everything.
    Fanout,
    /// A type that only the broker can match (`headers`, or a plug-in's).
    Other,
}

impl ExchangeKind {
    /// As the configuration writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Topic => "topic",
            Self::Fanout => "fanout",
            Self::Other => "other",
        }
    }
}

impl TryFrom<String> for ExchangeKind {
    type Error = String;

    /// As the configuration writes it.
    fn try_from(text: String) -> Result<Self, String> {
        let all = [Self::Direct, Self::Topic, Self::Fanout, Self::Other];
        let kind = all.into_iter().find(|kind| kind.as_str() == text);
        kind.ok_or_else(|| {
            format!(
                "{text:?} is not a type to write here; write \"direct\", \"topic\" or \"fanout\"; \
                 headers exchanges and those of plug-ins are \"other\""
            )
        })
    }
}

/// True if an exchange of that kind routes `key` by a binding with `pattern`. Nothing matches in
/// an exchange of an [`ExchangeKind::Other`].
///
/// Topics as RabbitMQ has them: a word may be empty (`a..b` has three, and `*` matches the empty
/// one), the empty key has no word at all, and `*` and `#` mean something only as whole words.
#[must_use]
pub fn matches(kind: ExchangeKind, pattern: &str, key: &str) -> bool {
    match kind {
        ExchangeKind::Direct => pattern == key,
        ExchangeKind::Topic => topic_matches(pattern, key),
        ExchangeKind::Fanout => true,
        ExchangeKind::Other => false,
    }
}

/// A word of a pattern, where a word that stands for itself is told from a wildcard by more than
/// its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word<'a> {
    /// This word, whatever it is: also a `*` that is no wildcard.
    Literal(&'a str),
    /// `*`: one word.
    One,
    /// `#`: any number of words.
    Any,
}

impl<'a> Word<'a> {
    /// A word as a topic pattern writes it.
    #[must_use]
    pub fn parse(word: &'a str) -> Self {
        match word {
            "*" => Self::One,
            "#" => Self::Any,
            word => Self::Literal(word),
        }
    }
}

/// True if a topic pattern of these words matches the routing key, in which `*` and `#` are no
/// wildcards.
#[must_use]
pub fn admits<'p>(pattern: impl IntoIterator<Item = Word<'p>>, key: &str) -> bool {
    walk(pattern, key, |word, key_word| match word {
        Word::Literal(word) => word == key_word,
        Word::One | Word::Any => true,
    })
}

/// True if every key that the topic pattern `binding` matches is matched by a pattern of these
/// words, too: a `#` there is only met by a `#` here, and a `*` by a wildcard. (There are patterns
/// that match the same and are written in another way, such as `*.#` and `#.*`. They are held for
/// different.)
#[must_use]
pub fn covers<'p>(pattern: impl IntoIterator<Item = Word<'p>>, binding: &str) -> bool {
    walk(pattern, binding, |word, other| match word {
        Word::Literal(word) => Word::parse(other) == Word::Literal(word),
        Word::One => other != "#",
        Word::Any => true,
    })
}

fn topic_matches(pattern: &str, key: &str) -> bool {
    admits(words(pattern).map(Word::parse), key)
}

/// `reached[n]`: the pattern's words so far match the key's first n words. One row a word of the
/// pattern, so that no pattern makes it slower than the product of both lengths.
///
/// `takes`: whether a word of the pattern, other than a `#`, takes this word.
fn walk<'p>(
    pattern: impl IntoIterator<Item = Word<'p>>,
    key: &str,
    takes: impl Fn(Word<'p>, &str) -> bool,
) -> bool {
    let key: Vec<&str> = words(key).collect();
    let mut reached = vec![false; key.len().saturating_add(1)];
    if let Some(start) = reached.first_mut() {
        *start = true;
    }
    for word in pattern {
        // True if the row before, and this row, reached the place before this one.
        let (mut before, mut here) = (false, false);
        let key_words = std::iter::once(None).chain(key.iter().map(Some));
        for (place, key_word) in reached.iter_mut().zip(key_words) {
            let straight = *place;
            *place = match (word, key_word) {
                (Word::Any, _) => straight || here,
                (word, Some(key_word)) => before && takes(word, key_word),
                (_, None) => false,
            };
            (before, here) = (straight, *place);
        }
    }
    reached.last().copied().unwrap_or(false)
}

/// The words of a topic key or pattern; an empty text has no words.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split('.').filter(move |_| !text.is_empty())
}

/// True if a topic pattern matches other keys than itself.
fn is_wild(pattern: &str) -> bool {
    words(pattern).any(|word| matches!(word, "*" | "#"))
}

/// The outcome of [`RoutingTable::remove`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removed {
    /// The pattern did not have the value.
    Absent,
    /// The pattern has other values still.
    Remains,
    /// It was the pattern's last value: the pattern is gone.
    Last,
}

/// The bindings of one exchange: patterns, and a set of values for each.
///
/// Patterns that can only match themselves stand in a hash map (hashed with a secret key, since
/// clients choose them), those with wildcards in a trie. One that has a single value keeps it
/// in place, so that a user's own key costs little more than its text.
///
/// A look-up costs one hash and, where there are wildcard patterns, at most the number of the
/// key's words times the number of the trie's nodes that the key can reach; it does not recurse.
#[derive(Debug)]
pub struct RoutingTable<T> {
    kind: ExchangeKind,
    exact: HashMap<Box<str>, Values<T>, RandomState>,
    wild: Trie<T>,
}

impl<T: Eq + Hash> RoutingTable<T> {
    /// An empty table of an exchange of that kind. One of [`ExchangeKind::Other`] holds what is
    /// put in, and matches nothing.
    #[must_use]
    pub fn new(kind: ExchangeKind) -> Self {
        Self {
            kind,
            exact: HashMap::default(),
            wild: Trie::new(),
        }
    }

    /// The kind of the exchange.
    #[must_use]
    pub const fn kind(&self) -> ExchangeKind {
        self.kind
    }

    /// True if the pattern matches other keys than itself.
    #[must_use]
    pub fn matches_others(&self, pattern: &str) -> bool {
        self.kind == ExchangeKind::Fanout || self.is_wild(pattern)
    }

    fn is_wild(&self, pattern: &str) -> bool {
        self.kind == ExchangeKind::Topic && is_wild(pattern)
    }

    /// Gives the pattern one more value, unless it has it. Returns true if the pattern is new.
    pub fn insert(&mut self, pattern: &str, value: T) -> bool {
        if self.is_wild(pattern) {
            return self.wild.insert(pattern, value);
        }
        if let Some(values) = self.exact.get_mut(pattern) {
            values.insert(value);
            return false;
        }
        self.exact.insert(pattern.into(), Values::One(value));
        true
    }

    /// Takes a value from a pattern.
    pub fn remove(&mut self, pattern: &str, value: &T) -> Removed {
        if self.is_wild(pattern) {
            return self.wild.remove(pattern, value);
        }
        let Some(values) = self.exact.get_mut(pattern) else {
            return Removed::Absent;
        };
        let removed = values.remove(value);
        if removed == Removed::Last {
            self.exact.remove(pattern);
            self.shrink();
        }
        removed
    }

    /// After many have gone, their memory goes too.
    fn shrink(&mut self) {
        const SMALL: usize = 64;
        if self.exact.capacity() > SMALL && self.exact.len() < self.exact.capacity() / 4 {
            self.exact.shrink_to(self.exact.len().saturating_mul(2));
        }
    }

    /// Calls `visit` for every value of every pattern that matches `key`: once for each pattern
    /// that has it.
    pub fn for_each_match(&self, key: &str, mut visit: impl FnMut(&T)) {
        match self.kind {
            ExchangeKind::Direct => self.visit_exact(key, &mut visit),
            ExchangeKind::Topic => {
                self.visit_exact(key, &mut visit);
                for node in self.wild.find(key) {
                    self.wild.values(node).for_each(&mut visit);
                }
            }
            ExchangeKind::Fanout => self.visit_all(&mut visit),
            ExchangeKind::Other => {}
        }
    }

    /// Calls `visit` for every value of every pattern that matches one of the keys (a message's
    /// routing key and its `cc` keys): once for each pattern, however many keys it matches.
    pub fn for_each_match_any<'k>(
        &self,
        keys: impl IntoIterator<Item = &'k str>,
        mut visit: impl FnMut(&T),
    ) {
        match self.kind {
            ExchangeKind::Direct | ExchangeKind::Topic => {
                let keys: HashSet<&str, RandomState> = keys.into_iter().collect();
                let mut nodes = Vec::new();
                for key in keys {
                    self.visit_exact(key, &mut visit);
                    nodes.extend(self.wild.find(key));
                }
                // Each pattern once.
                nodes.sort_unstable();
                nodes.dedup();
                for node in nodes {
                    self.wild.values(node).for_each(&mut visit);
                }
            }
            ExchangeKind::Fanout if keys.into_iter().next().is_some() => {
                self.visit_all(&mut visit);
            }
            ExchangeKind::Fanout | ExchangeKind::Other => {}
        }
    }

    fn visit_exact(&self, key: &str, visit: &mut impl FnMut(&T)) {
        if let Some(values) = self.exact.get(key) {
            values.iter().for_each(visit);
        }
    }

    fn visit_all(&self, visit: &mut impl FnMut(&T)) {
        self.exact.values().flat_map(Values::iter).for_each(visit);
    }

    /// The values of one pattern, in an order that only their coming and going decides.
    pub fn values(&self, pattern: &str) -> impl Iterator<Item = &T> {
        let exact = self.exact.get(pattern).into_iter().flat_map(Values::iter);
        let node = self.is_wild(pattern).then(|| self.wild.node(pattern));
        exact.chain(
            node.flatten()
                .into_iter()
                .flat_map(|node| self.wild.values(node)),
        )
    }

    /// True if the pattern has a value.
    #[must_use]
    pub fn contains(&self, pattern: &str) -> bool {
        self.values(pattern).next().is_some()
    }

    /// All patterns, in no order.
    pub fn patterns(&self) -> impl Iterator<Item = Box<str>> {
        self.exact.keys().cloned().chain(self.wild.patterns())
    }

    /// How many patterns there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.exact.len().saturating_add(self.wild.len())
    }

    /// True if there is no pattern.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
