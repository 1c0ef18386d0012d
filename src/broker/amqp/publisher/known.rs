//! What RabbitMQ is known to take: all else goes alone on its lane, so that nobody else's messages
//! are on the channel that it may close.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, RandomState},
};

use parking_lot::Mutex;

use crate::{
    broker::{BrokerError, amqp::topology},
    recent::Recent,
};

/// Exchanges that are remembered where keys count.
const MAX_EXCHANGES: usize = 1_000;

/// Keys that are remembered of such an exchange; 8 bytes each.
const MAX_KEYS: usize = 10_000;

/// Bodies as long as this need no proof, in bytes: hardly any broker is configured to take less.
const SMALL: usize = 16 * 1024;

/// What is known of a virtual host.
#[derive(Default)]
pub(super) struct Known {
    learnt: Mutex<Learnt>,
    hasher: RandomState,
}

struct Learnt {
    /// The link by which it was learnt: the broker may be another one after it.
    epoch: u64,
    /// Bodies as long as this were taken.
    longest: usize,
    /// A longer body was refused; the broker's limit.
    limit: Option<usize>,
    /// A message that named its user was taken.
    impersonates: bool,
    /// Exchanges to which a message was published.
    exchanges: Recent<Box<str>>,
    /// Exchanges where the account may not publish with every key; hashes of keys that were
    /// taken.
    keyed: HashMap<Box<str>, HashSet<u64>>,
}

impl Default for Learnt {
    fn default() -> Self {
        Self {
            epoch: 0,
            longest: SMALL,
            limit: None,
            impersonates: false,
            exchanges: Recent::default(),
            keyed: HashMap::new(),
        }
    }
}

/// What of a message the broker may refuse.
#[derive(Clone, Copy, Debug)]
pub(super) struct Traits<'a> {
    pub(super) exchange: &'a str,
    pub(super) key: &'a str,
    /// Of the body, in bytes.
    pub(super) length: usize,
    pub(super) names_user: bool,
}

impl Known {
    /// The link by which messages go from now on.
    pub(super) fn link(&self, epoch: u64) {
        let mut learnt = self.learnt.lock();
        if learnt.epoch != epoch {
            *learnt = Learnt {
                epoch,
                ..Learnt::default()
            };
        }
    }

    /// Whether the broker takes such a message for what it is; if its exchange is there is
    /// another matter.
    pub(super) fn is_harmless(&self, traits: Traits<'_>) -> bool {
        let learnt = self.learnt.lock();
        let keys = match learnt.keyed.is_empty() {
            true => None,
            false => learnt.keyed.get(traits.exchange),
        };
        traits.length <= learnt.longest
            && (learnt.impersonates || !traits.names_user)
            && keys.is_none_or(|keys| keys.contains(&self.hasher.hash_one(traits.key)))
    }

    /// Whether a message was published to the exchange a short while ago.
    pub(super) fn is_there(&self, exchange: &str) -> bool {
        self.learnt.lock().exchanges.get(exchange).is_some()
    }

    /// The broker took such a message.
    pub(super) fn taken(&self, traits: Traits<'_>) {
        let mut learnt = self.learnt.lock();
        learnt.longest = learnt.longest.max(traits.length);
        learnt.impersonates |= traits.names_user;
        learnt.exchanges.note(traits.exchange.into(), ());
        if let Some(keys) = learnt.keyed.get_mut(traits.exchange) {
            if keys.len() >= MAX_KEYS {
                keys.clear();
            }
            keys.insert(self.hasher.hash_one(traits.key));
        }
    }

    /// The broker refused such a message.
    pub(super) fn refused(&self, traits: Traits<'_>, error: &BrokerError) {
        let mut learnt = self.learnt.lock();
        learnt.exchanges.forget(traits.exchange);
        match error {
            BrokerError::PreconditionFailed(text) if topology::is_impersonation(text) => {
                learnt.impersonates = false;
            }
            BrokerError::PreconditionFailed(text) => {
                if let Some((_, limit)) = sizes(text) {
                    learnt.limit = Some(limit);
                    learnt.longest = learnt.longest.min(limit);
                }
            }
            BrokerError::AccessRefused(text)
                if topology::is_topical(text) && learnt.keyed.len() < MAX_EXCHANGES =>
            {
                let keys = learnt.keyed.entry(traits.exchange.into()).or_default();
                keys.remove(&self.hasher.hash_one(traits.key));
            }
            _ => {}
        }
    }

    /// Whether the broker takes bodies of that length, for all that is known.
    pub(super) fn may_be_as_long(&self, length: usize) -> Result<(), BrokerError> {
        match self.learnt.lock().limit {
            Some(limit) if length > limit => Err(too_long(length, limit)),
            _ => Ok(()),
        }
    }
}

/// As RabbitMQ says it.
pub(super) fn too_long(length: usize, limit: usize) -> BrokerError {
    let text = format!(
        "PRECONDITION_FAILED - message size {length} is larger than configured max size {limit}"
    );
    BrokerError::PreconditionFailed(text.into())
}

/// `PRECONDITION_FAILED - message size 17 is larger than configured max size 16`: both.
fn sizes(text: &str) -> Option<(usize, usize)> {
    let (_, sizes) = text.split_once("message size ")?;
    let (length, limit) = sizes.split_once(" is larger than ")?;
    let (_, limit) = limit.split_once("max size ")?;
    Some((length.parse().ok()?, limit.trim().parse().ok()?))
}

/// Whether a refusal may be about such a message.
pub(super) fn may_be_about(error: &BrokerError, traits: Traits<'_>) -> bool {
    match error {
        BrokerError::NotFound(text) => names(text, "exchange", traits.exchange),
        // Topics come first in the text, so that of a long one the exchange may be cut off.
        BrokerError::AccessRefused(text) if topology::is_topical(text) => {
            names(text, "access to topic", traits.key)
                && (is_cut(text) || names(text, "exchange", traits.exchange))
        }
        BrokerError::AccessRefused(text) => names(text, "exchange", traits.exchange),
        BrokerError::PreconditionFailed(text) if topology::is_impersonation(text) => {
            traits.names_user
        }
        BrokerError::PreconditionFailed(text) => {
            sizes(text).is_some_and(|(length, _)| length == traits.length)
        }
        _ => false,
    }
}

/// Whether a text of the broker's names a thing. It cuts long texts, and ends them by dots.
fn names(text: &str, kind: &str, name: &str) -> bool {
    text.match_indices(kind).any(|(at, _)| {
        let rest = text
            .get(at..)
            .unwrap_or_default()
            .strip_prefix(kind)
            .unwrap_or_default()
            .strip_prefix(" '");
        rest.is_some_and(|rest| match rest.strip_prefix(name) {
            Some(rest) if rest.starts_with('\'') => true,
            _ => {
                let cut = rest.strip_suffix("...").unwrap_or_default();
                !cut.is_empty() && !cut.contains('\'') && name.starts_with(cut)
            }
        })
    })
}

fn is_cut(text: &str) -> bool {
    text.ends_with("...")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Traits<'_> = Traits {
        exchange: "feed",
        key: "a.b",
        length: 100,
        names_user: false,
    };

    fn refused(text: &str) -> BrokerError {
        BrokerError::AccessRefused(text.into())
    }

    #[test]
    fn a_body_is_harmless_once_one_as_long_was_taken() {
        let known = Known::default();
        assert!(known.is_harmless(PLAIN));
        let long = |length| Traits { length, ..PLAIN };
        assert!(!known.is_harmless(long(100_000)));
        known.taken(long(100_000));
        assert!(known.is_harmless(long(100_000)));
        assert!(!known.is_harmless(long(100_001)));
        // A new link may lead to another broker.
        known.link(2);
        assert!(!known.is_harmless(long(100_000)));
        assert!(known.is_harmless(PLAIN));
    }

    #[test]
    fn the_limit_of_bodies_is_learnt_from_a_refusal() {
        let known = Known::default();
        let long = Traits {
            length: 1_000,
            ..PLAIN
        };
        known.taken(long);
        let error = too_long(1_000, 500);
        assert!(may_be_about(&error, long));
        assert!(!may_be_about(&error, PLAIN));
        known.refused(long, &error);
        assert_eq!(known.may_be_as_long(501), Err(too_long(501, 500)));
        assert_eq!(known.may_be_as_long(500), Ok(()));
        assert!(!known.is_harmless(long));
        assert!(known.is_harmless(PLAIN));
    }

    #[test]
    fn where_one_key_is_refused_each_key_is_proved() {
        let known = Known::default();
        known.taken(PLAIN);
        let other = Traits { key: "c", ..PLAIN };
        assert!(known.is_harmless(other));
        let text = "ACCESS_REFUSED - access to topic 'x' in exchange 'feed' in vhost '/' refused \
                    for user 'gw'";
        known.refused(Traits { key: "x", ..PLAIN }, &refused(text));
        assert!(!known.is_harmless(other));
        known.taken(other);
        assert!(known.is_harmless(other));
        assert!(!known.is_harmless(PLAIN));
        let elsewhere = Traits {
            exchange: "",
            ..PLAIN
        };
        assert!(known.is_harmless(elsewhere));
    }

    #[test]
    fn an_exchange_without_a_lane_is_believed_in_for_a_while() {
        let known = Known::default();
        assert!(!known.is_there("feed"));
        known.taken(PLAIN);
        assert!(known.is_there("feed"));
        let gone = BrokerError::NotFound("NOT_FOUND - no exchange 'feed' in vhost '/'".into());
        known.refused(PLAIN, &gone);
        assert!(!known.is_there("feed"));
    }

    #[test]
    fn a_refusal_names_what_it_is_about() {
        let gone = BrokerError::NotFound("NOT_FOUND - no exchange 'feed' in vhost '/'".into());
        assert!(may_be_about(&gone, PLAIN));
        let other = |exchange| Traits { exchange, ..PLAIN };
        assert!(!may_be_about(&gone, other("fee")));
        assert!(!may_be_about(&gone, other("feed2")));
        let internal =
            refused("ACCESS_REFUSED - cannot publish to internal exchange 'feed' in vhost '/'");
        assert!(may_be_about(&internal, PLAIN));
        let topical = refused(
            "ACCESS_REFUSED - access to topic 'a.b' in exchange 'feed' in vhost '/' refused for \
             user 'gw'",
        );
        assert!(may_be_about(&topical, PLAIN));
        assert!(!may_be_about(&topical, Traits { key: "a", ..PLAIN }));
        assert!(!may_be_about(&topical, other("else")));
    }

    #[test]
    fn a_text_that_is_cut_names_what_begins_so() {
        let long = "x".repeat(255);
        let words = format!("NOT_FOUND - no exchange '{}...", "x".repeat(200));
        let cut = BrokerError::NotFound(words.into());
        let exchange = long.as_str();
        assert!(may_be_about(&cut, Traits { exchange, ..PLAIN }));
        assert!(!may_be_about(&cut, PLAIN));
        let topic = format!("ACCESS_REFUSED - access to topic '{}...", "x".repeat(200));
        let key = long.as_str();
        assert!(may_be_about(&refused(&topic), Traits { key, ..PLAIN }));
    }

    #[test]
    fn another_s_user_is_no_fault_of_a_message_without_one() {
        let text = "PRECONDITION_FAILED - user_id property set to 'alice' but authenticated user \
                    was 'gw'";
        let error = BrokerError::PreconditionFailed(text.into());
        assert!(!may_be_about(&error, PLAIN));
        let named = Traits {
            names_user: true,
            ..PLAIN
        };
        assert!(may_be_about(&error, named));
        let known = Known::default();
        known.taken(named);
        assert!(known.is_harmless(named));
        known.refused(named, &error);
        assert!(!known.is_harmless(named));
    }
}
