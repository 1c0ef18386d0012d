//! The token of the gateway's own account at the broker, and the links' logins by it.

use std::time::{SystemTime, UNIX_EPOCH};

use humantime::format_rfc3339_seconds;
use tracing::{debug, error, info, warn};

use super::metrics::COUNTS;
use crate::codes::Code;

/// There is a token that counts: another one, or after a fault. When it ends, if it says so.
pub fn broker_token_good(key: &str, expires: Option<SystemTime>) {
    let since = expires.and_then(|end| end.duration_since(UNIX_EPOCH).ok());
    let seconds = since.map_or(0, |since| since.as_secs());
    COUNTS
        .broker_token_expires
        .set(i64::try_from(seconds).unwrap_or(i64::MAX));
    COUNTS.broker_token_stale.set(0);
    let expires = expires.map(|end| format_rfc3339_seconds(end).to_string());
    info!(
        target: "stentor::broker",
        key, expires, "the gateway's token at the broker is good"
    );
}

/// There is no token that counts, or no newer one.
pub fn broker_token_failed() {
    COUNTS.broker_token_failures.inc();
    COUNTS.broker_token_stale.set(1);
}

/// The reason.
pub fn broker_token_kept(key: &str, cause: &str) {
    error!(
        target: "stentor::broker", code = Code::BrokerTokenOld.name(),
        key, cause,
        "the gateway's token at the broker is not renewed: links stay for as long as RabbitMQ lets \
         them"
    );
}

/// A link goes on with a new token.
pub fn broker_login_renewed(link: &str, vhost: &str) {
    COUNTS.broker_logins_renewed.inc();
    debug!(target: "stentor::broker", link, vhost, "broker login renewed");
}

/// A link has not gone on with the new token in time. It may yet, or will be lost, and made again.
pub fn broker_login_not_renewed(link: &str, vhost: &str, cause: &str) {
    warn!(target: "stentor::broker", link, vhost, cause, "broker login not renewed");
}
