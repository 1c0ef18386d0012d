//! Grants, and the patterns in them.

use std::{borrow::Cow, str::FromStr};

use percent_encoding::percent_decode_str;
use thiserror::Error;

/// A name in which `*` stands for any run of characters (none, too; dots and slashes, too), and
/// `{username}` for the user's own name. Nothing else is special, and case counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pattern {
    /// The texts between the stars. The user's name is put in after the pattern was cut, so that
    /// a star in a name is no wildcard.
    runs: Vec<Box<str>>,
}

impl Pattern {
    pub(crate) fn new(text: &str) -> Self {
        Pattern {
            runs: text.split('*').map(Box::from).collect(),
        }
    }

    pub(crate) fn any() -> Self {
        Pattern::new("*")
    }

    pub(crate) fn matches(&self, username: &str, text: &str) -> bool {
        let run = |run: &'_ str| run.replace("{username}", username);
        let (first, rest) = match self.runs.split_first() {
            Some((first, rest)) => (run(first), rest),
            None => return text.is_empty(),
        };
        let Some((last, middle)) = rest.split_last() else {
            return text == first;
        };
        let Some(mut text) = text.strip_prefix(&*first) else {
            return false;
        };
        for next in middle {
            let next = run(next);
            match text.find(&*next).and_then(|at| text.get(at + next.len()..)) {
                Some(after) => text = after,
                None => return false,
            }
        }
        text.ends_with(&*run(last))
    }
}

/// One entry of a list of what a user may read, write or configure. It is written as clients
/// write destinations, so a subscription to `/exchange/feed/user_alice` is allowed by the entry
/// `/exchange/feed/user_alice`:
///
/// - `/exchange/<exchange>/<key>`: the exchange, with these routing keys;
/// - `/exchange/<exchange>`: the exchange, with all keys;
/// - `/topic/<key>`: short for `/exchange/amq.topic/<key>`;
/// - `/queue/<queue>`: the queue. To write to it is also to publish to the default exchange with
///   its name as the key, as `SEND` to `/queue/<queue>` does.
///
/// Each part may hold `*` (any run of characters) and `{username}` (the user's own name). In
/// the names of exchanges and queues `%2F` is a slash. Mind that a client may bind a pattern to
/// a topic exchange: `/exchange/logs/app.*` lets it bind `app.#`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant(What);

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    Keys { exchange: Pattern, key: Pattern },
    Queue(Pattern),
}

impl Grant {
    /// True if it covers this exchange, with any key.
    pub(crate) fn covers_exchange(&self, username: &str, name: &str) -> bool {
        match &self.0 {
            What::Keys { exchange, .. } => exchange.matches(username, name),
            What::Queue(_) => false,
        }
    }

    /// True if it covers this key of this exchange.
    pub(crate) fn covers_key(&self, username: &str, name: &str, routing_key: &str) -> bool {
        match &self.0 {
            What::Keys { exchange, key } => {
                exchange.matches(username, name) && key.matches(username, routing_key)
            }
            What::Queue(_) => false,
        }
    }

    /// True if it covers this queue.
    pub(crate) fn covers_queue(&self, username: &str, name: &str) -> bool {
        match &self.0 {
            What::Queue(queue) => queue.matches(username, name),
            What::Keys { .. } => false,
        }
    }

    /// True if it is about queues.
    pub(crate) fn is_queue(&self) -> bool {
        matches!(self.0, What::Queue(_))
    }
}

/// An entry that is no grant.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "`{0}` is none of /exchange/<exchange>, /exchange/<exchange>/<key>, /topic/<key> and \
     /queue/<queue>"
)]
pub struct GrantError(Box<str>);

impl FromStr for Grant {
    type Err = GrantError;

    fn from_str(text: &str) -> Result<Self, GrantError> {
        let refused = || GrantError(text.into());
        let name = |encoded: &str| -> Result<Pattern, GrantError> {
            let name: Cow<'_, str> = percent_decode_str(encoded)
                .decode_utf8()
                .map_err(|_| refused())?;
            if name.is_empty() {
                Err(refused())
            } else {
                Ok(Pattern::new(&name))
            }
        };
        if let Some(rest) = text.strip_prefix("/exchange/") {
            let (exchange, key) = match rest.split_once('/') {
                Some((exchange, key)) => (exchange, Pattern::new(key)),
                None => (rest, Pattern::any()),
            };
            return Ok(Grant(What::Keys {
                exchange: name(exchange)?,
                key,
            }));
        }
        if let Some(key) = text.strip_prefix("/topic/") {
            let exchange = Pattern::new("amq.topic");
            return Ok(Grant(What::Keys {
                exchange,
                key: Pattern::new(key),
            }));
        }
        match text.strip_prefix("/queue/") {
            Some(queue) if !queue.contains('/') => Ok(Grant(What::Queue(name(queue)?))),
            _ => Err(refused()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        let matches = |pattern: &str, text: &str| Pattern::new(pattern).matches("al", text);
        for (pattern, text) in [
            ("", ""),
            ("a", "a"),
            ("*", ""),
            ("*", "a/b.c"),
            ("a*", "a"),
            ("a*c", "abc"),
            ("a*b*c", "a-bb-bc"),
            ("user_{username}", "user_al"),
            ("{username}.*", "al.x"),
            ("*ab", "aab"),
        ] {
            assert!(matches(pattern, text), "{pattern} should match {text}");
        }
        for (pattern, text) in [
            ("", "a"),
            ("a", "A"),
            ("a", "ab"),
            ("a*c", "ab"),
            ("a*a", "a"),
            ("ab*bc", "abc"),
            ("a*b*c", "acb"),
            ("user_{username}", "user_all"),
            ("user_{username}", "user_{username}"),
        ] {
            assert!(!matches(pattern, text), "{pattern} should not match {text}");
        }
    }

    #[test]
    fn a_star_in_a_user_name_is_no_wildcard() {
        assert!(!Pattern::new("user_{username}").matches("*", "user_bob"));
        assert!(Pattern::new("user_{username}").matches("*", "user_*"));
    }

    #[test]
    fn grants_are_written_as_destinations() {
        let grant = |text: &str| text.parse::<Grant>().unwrap();
        assert!(grant("/exchange/feed/user_*").covers_key("a", "feed", "user_b"));
        assert!(!grant("/exchange/feed/user_*").covers_key("a", "feed", "room"));
        assert!(!grant("/exchange/feed/user_*").covers_key("a", "other", "user_b"));
        assert!(grant("/exchange/feed").covers_key("a", "feed", "any/key"));
        assert!(grant("/exchange/a%2Fb/k/l").covers_key("a", "a/b", "k/l"));
        assert!(grant("/topic/news.*").covers_key("a", "amq.topic", "news.eu"));
        assert!(grant("/queue/jobs").covers_queue("a", "jobs"));
        assert!(!grant("/queue/jobs").covers_exchange("a", "jobs"));
        for wrong in [
            "",
            "feed",
            "/exchange/",
            "/exchange//k",
            "/queue/",
            "/queue/a/b",
            "/x/y",
        ] {
            assert!(wrong.parse::<Grant>().is_err(), "{wrong}");
        }
    }
}
