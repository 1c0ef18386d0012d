//! Bindings of feeds: exchanges that are read whole.

use std::time::Instant;

use parking_lot::Mutex;
use tracing::warn;

use super::Seldom;

/// Every SUBSCRIBE meets it.
static LINE: Mutex<Seldom> = Mutex::new(Seldom::once_in(Seldom::MINUTE));

/// A direct exchange that is to be read whole (`feed.whole`) does not lead to its alternate
/// exchange; the command that makes it right.
pub fn whole_exchange_leads_elsewhere(vhost: &str, exchange: &str, command: &str) {
    if let Some(unsaid) = LINE.lock().let_through(Instant::now()) {
        warn!(
            target: "stentor::broker",
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
