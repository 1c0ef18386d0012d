//! Routing keys and patterns that would take the broker long: RabbitMQ tries every way in which
//! the words of a key can be divided among the `#` of each pattern.

use std::sync::Arc;

use thiserror::Error;

/// How many words and `#` there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyLimits {
    /// Words in a key.
    pub max_words: usize,
    /// Words in a key that go with all others; a message whose key has more goes beside them, one
    /// at a time for each user.
    pub max_fast_words: usize,
    /// Words `#` in a pattern.
    pub max_hashes: usize,
}

/// A key has too many words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("has {words} words; at most {max} are allowed")]
pub struct TooManyWords {
    words: usize,
    max: usize,
}

/// A pattern has too many words `#`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a pattern has {hashes} words '#'; at most {max} are allowed")]
pub struct TooManyHashes {
    hashes: usize,
    max: usize,
}

impl KeyLimits {
    /// For whom a message with that key is slow to route, if it is: for `user`.
    ///
    /// # Errors
    /// The key has too many words.
    pub fn slow(
        &self,
        exchange: &str,
        key: &str,
        user: &str,
    ) -> Result<Option<Arc<str>>, TooManyWords> {
        if !counts_words(exchange) {
            return Ok(None);
        }
        let words = words(key);
        if words > self.max_words {
            let max = self.max_words;
            return Err(TooManyWords { words, max });
        }
        Ok((words > self.max_fast_words).then(|| user.into()))
    }

    /// A pattern that costs the broker little to match: `#.#` is `#`, which means the same.
    ///
    /// # Errors
    /// The pattern has too many words `#`.
    pub fn pattern(&self, pattern: &str) -> Result<Box<str>, TooManyHashes> {
        let mut words: Vec<&str> = pattern.split('.').collect();
        words.dedup_by(|word, before| *word == "#" && *before == "#");
        let hashes = words.iter().filter(|word| **word == "#").count();
        let max = self.max_hashes;
        if hashes > max {
            return Err(TooManyHashes { hashes, max });
        }
        Ok(words.join(".").into())
    }
}

fn words(key: &str) -> usize {
    key.split('.').count()
}

/// Whether the exchange may be one that looks at the words of a key. Of others than RabbitMQ's own
/// the type is not known here.
fn counts_words(exchange: &str) -> bool {
    const OTHERS: [&str; 5] = ["", "amq.direct", "amq.fanout", "amq.headers", "amq.match"];
    !OTHERS.contains(&exchange)
}
