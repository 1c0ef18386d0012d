//! Presence, and its events.

use std::{fmt::Display, time::Duration};

use tracing::{info, warn};

use super::millis;
use crate::{codes::Code, telemetry::metrics::COUNTS};

/// Redis is there (again); so many sessions are or will be registered.
pub fn presence_up(sessions: usize) {
    info!(target: "stentor::presence", sessions, "presence up");
}

/// Redis is away, or fails: other nodes do not see this node's users, and push goes on.
pub fn presence_down(cause: &str, retry_in: Duration) {
    COUNTS.presence_failures.inc();
    let retry_in_ms = millis(retry_in);
    warn!(
        target: "stentor::presence", code = Code::PresenceDown.name(), cause, retry_in_ms,
        "presence down: push goes on"
    );
}

/// Redis had forgotten this node, so its sessions counted as offline: the node registers them anew.
pub fn presence_lease_lost(sessions: usize) {
    warn!(target: "stentor::presence", sessions, "presence lease lost: registering anew");
}

/// More changes than this wait for Redis: the node takes a new lease and registers its sessions anew.
pub fn presence_overflowed(waiting: usize) {
    warn!(
        target: "stentor::presence", waiting,
        "too many changes wait for Redis: registering anew; users who left are told when the former \
         lease is cleared up"
    );
}

/// Another node at the same broker keeps presence in its memory, as this one does.
pub fn presence_apart(node: &str) {
    warn!(
        target: "stentor::presence", code = Code::PresenceApart.name(), node,
        "another node keeps presence in its memory, as this one does: neither knows who is at the \
         other, and `[sessions]` counts here alone; give both the same Redis ([presence] url)"
    );
}

/// The entries of a dead node in Redis were cleared up; so many sessions.
pub fn presence_cleared(lease: &str, sessions: usize) {
    info!(target: "stentor::presence", lease, sessions, "cleared up after a dead node");
}

/// An error kept this node from clearing up after a dead one; it tries again.
pub fn presence_clearing_failed(lease: &str, cause: &dyn Display) {
    let cause = cause.to_string();
    warn!(
        target: "stentor::presence", lease, cause,
        "not cleared up after a dead node: those of its users who are gone may look online"
    );
}

/// Presence events reach the broker (again).
pub fn presence_events_up(exchange: &str) {
    info!(target: "stentor::presence", exchange, "presence events are published");
}

/// Presence events do not reach the broker: the newest of each user waits.
pub fn presence_events_down(exchange: &str, cause: &dyn Display, retry_in: Duration) {
    let (cause, retry_in_ms) = (cause.to_string(), millis(retry_in));
    warn!(
        target: "stentor::presence", code = Code::EventsDown.name(), exchange, cause, retry_in_ms,
        "presence events are not published: the newest of each user waits"
    );
}

/// The queue of one who listens is full or hangs, and the broker refused a presence event, or gave no
/// answer again and again; so many more since the log last said so.
pub fn presence_event_refused(exchange: &str, unsaid: u64) {
    warn!(
        target: "stentor::presence", exchange, unsaid,
        "a full or hung queue took no presence event: whoever reads it has to ask for the users online again"
    );
}

/// Presence events of more users than this would wait for the broker: some are not told.
pub fn presence_events_lost(waiting: usize) {
    warn!(
        target: "stentor::presence", waiting,
        "presence events lost: listeners have to ask for the users online again"
    );
}
