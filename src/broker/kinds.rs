//! The types of exchanges, as the broker told them.

use std::collections::HashMap;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::ExchangeKind;

/// Types by exchange, each with the moment of the question. The hub has one, to serve subscriptions
/// without a question to the broker; a link has one, so that callers at the same time share a
/// question.
#[derive(Default)]
pub(crate) struct KnownKinds(Mutex<HashMap<Box<str>, KnownKind>>);

/// The type of an exchange.
#[derive(Clone, Copy)]
pub(crate) struct KnownKind {
    pub(crate) kind: ExchangeKind,
    pub(crate) since: Instant,
}

impl KnownKinds {
    /// The last answer about the exchange.
    pub(crate) fn get(&self, exchange: &str) -> Option<KnownKind> {
        self.0.lock().get(exchange).copied()
    }

    /// Notes an answer to a question of that moment. Returns true if the type is news.
    pub(crate) fn note(&self, exchange: &str, kind: ExchangeKind, since: Instant) -> bool {
        let known = KnownKind { kind, since };
        let before = self.0.lock().insert(exchange.into(), known);
        before.is_none_or(|before| before.kind != kind)
    }

    /// The exchange is gone, or has been.
    pub(crate) fn forget(&self, exchange: &str) {
        self.0.lock().remove(exchange);
    }
}
