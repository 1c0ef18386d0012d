//! Bindings of feeds: exchanges that are read whole, and the end of queues that have very many.

use std::{
    fmt::Display,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tracing::{info, warn};

use super::Seldom;
use crate::codes::Code;

/// Every SUBSCRIBE meets it.
static LINE: Mutex<Seldom> = Mutex::new(Seldom::once_in(Seldom::MINUTE));

/// A direct exchange that is to be read whole (`feed.whole`) does not lead to its alternate
/// exchange; the command that makes it right.
pub fn whole_exchange_leads_elsewhere(vhost: &str, exchange: &str, command: &str) {
    if let Some(unsaid) = LINE.lock().let_through(Instant::now()) {
        warn!(
            target: "stentor::broker", code = Code::ExchangeNotWhole.name(),
            vhost,
            exchange,
            command,
            unsaid,
            "an exchange is to be read whole (feed.whole), but messages do not come to its \
             alternate exchange, so its subscribers are refused; set the policy, or add its key to \
             the one that applies to the exchange now"
        );
    }
}

/// Somebody else has bound keys at an exchange that is read whole: so many, the first of them, and
/// the command that lists them all.
pub fn bindings_of_others(vhost: &str, exchange: &str, count: usize, bound: &str, command: &str) {
    warn!(
        target: "stentor::broker", code = Code::ForeignBindings.name(),
        vhost,
        exchange,
        count,
        bound,
        command,
        "somebody else has bound keys at an exchange that is read whole: no client hears messages \
         of these keys, and no journal keeps them; bind them at its `.keys` exchange instead, or set \
         feed.bridge = true"
    );
}

/// They have gone.
pub fn bindings_of_others_gone(vhost: &str, exchange: &str) {
    info!(
        target: "stentor::broker",
        vhost, exchange, "nobody else binds keys any more at an exchange that is read whole"
    );
}

/// Nobody can tell whether there are any; the command that asks.
pub fn bindings_unseen(vhost: &str, exchange: &str, cause: &str, command: &str) {
    warn!(
        target: "stentor::broker", code = Code::BindingsUnseen.name(),
        vhost,
        exchange,
        cause,
        command,
        "an exchange is read whole without bridges, and bindings of others there cannot be seen: no \
         client hears messages of a key that somebody else binds; see by the command that there is \
         none"
    );
}

/// Before a feed's queue is deleted: so many of its bindings were taken away, and so many go with
/// it, at which others may have to wait at the broker.
pub fn bindings_taken_away(feed: &dyn Display, bindings: usize, left: usize, took: Duration) {
    let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    let feed = feed.to_string();
    if left == 0 {
        info!(target: "stentor::broker", feed, bindings, took_ms, "bindings taken away");
    } else {
        warn!(
            target: "stentor::broker",
            feed,
            bindings,
            left,
            took_ms,
            "a feed's queue goes with many bindings, and others may wait at RabbitMQ meanwhile: \
             shutdown.grace was over"
        );
    }
}
