//! The types of the feeds' exchanges: how long an answer of the broker holds.

use std::{num::NonZero, sync::Arc, time::Duration};

use parking_lot::RwLock;
use tokio::time::Instant;

use super::{
    feed::{Feed, Feeds},
    shards::Shards,
};
use crate::broker::{
    Binding, BrokerError, ExchangeKind, FeedConfig, FeedId, JournalConfig, KnownKind, KnownKinds,
    VirtualHost, journal::lack_of,
};

/// Nothing tells that an exchange was deleted if no feed is bound to it; so its type is asked for
/// again when somebody subscribes, if the known type is older than this.
const FRESH: Duration = Duration::from_secs(5);
/// The same for a type that only the broker can match, so that no feed is ever bound. Each question
/// is a line in the broker's log.
const FRESH_OTHER: Duration = Duration::from_secs(600);

fn is_fresh(known: KnownKind) -> bool {
    let fresh = match known.kind {
        ExchangeKind::Other => FRESH_OTHER,
        _ => FRESH,
    };
    known.since.elapsed() < fresh
}

impl Feeds {
    pub(super) fn new(config: &FeedConfig, journal: &JournalConfig, cores: NonZero<usize>) -> Self {
        let boxed = |exchange: &String| Box::from(exchange.as_str());
        let read_whole = config.whole.iter().filter(|name| config.reads_whole(name));
        let whole = if config.bridge {
            &[][..]
        } else {
            &config.whole
        };
        Self {
            open: RwLock::default(),
            kinds: KnownKinds::default(),
            binding: config.binding,
            whole: whole.iter().map(boxed).collect(),
            read_whole: read_whole.map(boxed).collect(),
            journal: journal.clone(),
            shards: Arc::new(Shards::new(config.shards(cores))),
        }
    }

    /// True if one binding to everything serves a whole feed of that exchange, which is of that
    /// type.
    pub(super) fn binds_all(&self, exchange: &str, kind: ExchangeKind) -> bool {
        if self.journal.has(exchange) {
            return kind != ExchangeKind::Other;
        }
        self.binding == Binding::All
            && match kind {
                ExchangeKind::Topic => true,
                ExchangeKind::Direct => self.whole.contains(exchange),
                ExchangeKind::Fanout | ExchangeKind::Other => false,
            }
    }

    /// Whether the journal of an exchange of that type can have all its messages.
    ///
    /// # Errors
    /// It cannot; what to do.
    pub(super) fn check_journal(
        &self,
        exchange: &str,
        kind: ExchangeKind,
    ) -> Result<(), BrokerError> {
        match lack_of(kind, self.read_whole.contains(exchange)) {
            Some(why) => {
                let text = format!("the exchange '{exchange}' {why}");
                Err(BrokerError::Unsupported(text.into()))
            }
            None => Ok(()),
        }
    }

    /// The exchange's type, if what is known of it holds: as long as one of its feeds is bound, the
    /// broker would say if the exchange were another one.
    pub(super) fn kind(&self, exchange: &str) -> Option<ExchangeKind> {
        let known = self.kinds.get(exchange)?;
        let holds = is_fresh(known) || self.of(exchange).iter().any(|feed| !feed.is_unused());
        holds.then_some(known.kind)
    }

    /// Asks the broker for the exchange's type. Feeds that were of another type begin anew.
    pub(super) async fn learn_kind(
        &self,
        host: &dyn VirtualHost,
        exchange: &str,
    ) -> Result<ExchangeKind, BrokerError> {
        let kind = host.exchange_kind(exchange).await?;
        if self.kinds.note(exchange, kind, Instant::now()) {
            for feed in self.of(exchange) {
                feed.become_kind(kind, self.binds_all(exchange, kind));
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
        (0..self.shards.count).filter_map(of_shard).collect()
    }
}
