//! Bytes, messages, mailboxes and memory.

use std::sync::atomic::Ordering::Relaxed;

use tracing::{info, warn};

use crate::telemetry::metrics::{COUNTS, TALLIES};

/// Bytes came from a client: once for each time that its socket was read.
pub fn bytes_received(count: usize) {
    TALLIES.received.fetch_add(count as u64, Relaxed);
}

/// Bytes went to a client: once for each time that its socket was written to.
pub fn bytes_sent(count: usize) {
    TALLIES.sent.fetch_add(count as u64, Relaxed);
}

/// A message of a dedicated subscription was put into its client's mailbox.
pub fn delivered_by_queue() {
    TALLIES.dedicated_deliveries.fetch_add(1, Relaxed);
}

/// A message was written again, for its client had not acknowledged it in time.
pub fn written_again() {
    TALLIES.redeliveries.fetch_add(1, Relaxed);
}

/// A message was written as often as its client wished, and not acknowledged.
pub fn given_up(then: &'static str) {
    COUNTS
        .redeliveries_given_up
        .get_or_create(&[("then", then)])
        .inc();
}

/// A mailbox was full, and something had to be done.
pub fn mailbox_overflow(done: &'static str) {
    COUNTS
        .mailbox_overflows
        .get_or_create(&[("done", done)])
        .inc();
}

/// So many messages were superseded by a newer one, as their subscription wished.
pub fn conflated(messages: u32) {
    COUNTS.messages_conflated.inc_by(messages.into());
}

/// A message went to a client as a delta, which saved so many bytes.
pub fn sent_as_delta(saved: usize) {
    TALLIES.delta_messages.fetch_add(1, Relaxed);
    TALLIES.delta_saved.fetch_add(saved as u64, Relaxed);
}

/// A message of a subscription that wants deltas went whole.
pub fn sent_without_delta() {
    TALLIES.delta_whole_messages.fetch_add(1, Relaxed);
}

/// The process takes more memory than the mark: less is let in from now on.
pub fn memory_short(resident_bytes: usize, mark_bytes: usize) {
    warn!(
        target: "stentor::node", resident_bytes, mark_bytes,
        "short of memory: logins are refused, publishers wait, slow clients are closed"
    );
}

/// There is enough memory again.
pub fn memory_enough(resident_bytes: usize) {
    info!(target: "stentor::node", resident_bytes, "enough memory again");
}

/// The clients with the most bytes waiting were closed, for want of memory.
pub fn memory_shed(sessions: usize, bytes: usize) {
    warn!(target: "stentor::node", sessions, bytes, "the slowest clients are closed");
}

/// The broker has confirmed a message.
pub fn published() {
    TALLIES.publishes.fetch_add(1, Relaxed);
}

/// A message was not published; `why` is one of a fixed number of texts. Its publisher is told
/// more.
pub fn not_published(why: &'static str) {
    COUNTS
        .publish_failures
        .get_or_create(&[("reason", why)])
        .inc();
}
