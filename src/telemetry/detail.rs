//! Details for a search after a fault: `debug`, and never more than a consequence of another event.
//! Their targets are the modules that they happen in.

use std::fmt::Display;

use tracing::{debug, warn};

/// A client of HTTP went away, or does not speak HTTP.
pub fn http_ended(error: &dyn Display) {
    let error = error.to_string();
    debug!(target: "stentor::http", error, "an HTTP connection ended");
}

/// A pattern stays bound for a while. That costs a little, and loses nothing.
pub fn unbinding_failed(feed: &dyn Display, error: &dyn Display) {
    let (feed, error) = (feed.to_string(), error.to_string());
    debug!(target: "stentor::hub::feed", feed, error, "could not unbind");
}

/// The broker may carry out an unbinding after a later binding of the same pattern.
pub fn unbinding_late(feed: &dyn Display) {
    let feed = feed.to_string();
    warn!(target: "stentor::broker::amqp::feed", feed, "an unbinding may come late");
}

/// A feed's queue could not be deleted: it expires by itself.
pub fn queue_left(feed: &dyn Display, error: &dyn Display) {
    let (feed, error) = (feed.to_string(), error.to_string());
    debug!(target: "stentor::broker::amqp::feed", feed, error, "left a queue to expire");
}

/// A feed had no user for some minutes: the next subscriber gets a new one.
pub fn feed_given_up(feed: &dyn Display) {
    let feed = feed.to_string();
    debug!(target: "stentor::hub", feed, "unused feed given up");
}

/// The broker has no event exchange, or the account may not read it; `link` counts connections.
pub fn broker_events_unreadable(link: u64) {
    debug!(
        target: "stentor::broker::amqp::feed::events",
        link, "the broker's events cannot be read"
    );
}

/// The broker ended the consumer of its events.
pub fn broker_events_ended(error: &dyn Display) {
    let error = error.to_string();
    debug!(target: "stentor::broker::amqp::feed::events", error, "the broker's events ended");
}

/// A feed lost its link or its queue.
pub fn feed_stopped(feed: &dyn Display, cause: &str) {
    let feed = feed.to_string();
    debug!(target: "stentor::broker::amqp::feed::runner", feed, cause, "the feed stopped");
}

/// A message could not be acknowledged: it comes again, to this client or to another.
pub fn acknowledging_failed(error: &dyn Display) {
    let error = error.to_string();
    debug!(target: "stentor::connection::work", error, "could not acknowledge");
}

/// A message that was put aside, or given up, could not be settled: its queue went with the link.
pub fn settling_failed(error: &dyn Display) {
    let error = error.to_string();
    debug!(target: "stentor::connection::work", error, "could not settle a message");
}
