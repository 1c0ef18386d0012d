//! One function an event: it logs (and will count).

mod config;

pub use config::{Config, Format};

/// tmp
pub fn broker_link_up(name: &str) {
    tracing::info!(name, "broker link up");
}
/// tmp
pub fn broker_link_down(name: &str, cause: &str, retry_in: std::time::Duration) {
    tracing::warn!(name, cause, ?retry_in, "broker link down");
}
/// tmp
pub fn feed_interrupted(feed: &dyn std::fmt::Display, reason: &str) {
    tracing::warn!(%feed, reason, "feed interrupted");
}
