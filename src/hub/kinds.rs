//! Which types the exchanges of feeds have, as far as is known.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;

use super::feed::{Feed, Feeds};
use crate::broker::{Binding, BrokerError, ExchangeKind, FeedId, VirtualHost};

/// Nothing tells that an exchange was deleted if no feed is bound to it; so its type is asked for
/// again when somebody subscribes, if the known type is older than this.
const FRESH: Duration = Duration::from_secs(5);
/// The same where the type is one that only the broker can match, and so no feed ever is bound. To
/// ask is a line in the broker's log.
const FRESH_OTHER: Duration = Duration::from_secs(600);

/// The types, by exchange.
#[derive(Default)]
pub(super) struct Kinds(Mutex<HashMap<Arc<str>, KnownKind>>);

#[derive(Clone, Copy)]
struct KnownKind {
    kind: ExchangeKind,
    since: Instant,
}

impl KnownKind {
    fn is_fresh(self) -> bool {
        let fresh = match self.kind {
            ExchangeKind::Other => FRESH_OTHER,
            _ => FRESH,
        };
        self.since.elapsed() < fresh
    }
}

impl Kinds {
    /// The exchange is gone, or has been.
    pub(super) fn forget(&self, exchange: &str) {
        self.0.lock().remove(exchange);
    }
}

impl Feeds {
    pub(super) fn new(binding: Binding, shards: u16) -> Self {
        Self {
            open: RwLock::default(),
            kinds: Kinds::default(),
            binding,
            shards,
        }
    }

    /// True if one binding to everything serves a whole feed of an exchange of that type.
    pub(super) fn binds_all(&self, kind: ExchangeKind) -> bool {
        self.binding == Binding::All && kind == ExchangeKind::Topic
    }

    /// The exchange's type, if what is known of it holds: as long as one of its feeds is bound, the
    /// broker would say if the exchange were another one.
    pub(super) fn kind(&self, exchange: &str) -> Option<ExchangeKind> {
        let known = *self.kinds.0.lock().get(exchange)?;
        let holds = known.is_fresh() || self.of(exchange).iter().any(|feed| !feed.is_unused());
        holds.then_some(known.kind)
    }

    /// Asks the broker for the exchange's type. Feeds that were of another type begin anew.
    pub(super) async fn learn_kind(
        &self,
        host: &dyn VirtualHost,
        exchange: &str,
    ) -> Result<ExchangeKind, BrokerError> {
        let kind = host.exchange_kind(exchange).await?;
        let known = KnownKind {
            kind,
            since: Instant::now(),
        };
        let before = self.kinds.0.lock().insert(exchange.into(), known);
        if before.is_none_or(|before| before.kind != kind) {
            for feed in self.of(exchange) {
                feed.become_kind(kind, self.binds_all(kind));
            }
        }
        Ok(kind)
    }

    /// The exchange's feeds.
    fn of(&self, exchange: &str) -> Vec<Arc<Feed>> {
        let exchange: Arc<str> = exchange.into();
        let feeds = self.open.read();
        let of_shard = |shard| {
            let exchange = Arc::clone(&exchange);
            feeds.get(&FeedId { exchange, shard }).map(Arc::clone)
        };
        (0..self.shards).filter_map(of_shard).collect()
    }
}
