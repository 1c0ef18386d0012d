//! Messages for those who are away.

use std::{
    fmt::Display,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tracing::{debug, error, info, warn};

use super::millis;
use crate::telemetry::{Seldom, metrics::COUNTS};

/// What became of a message that nobody was subscribed to, in a word.
pub fn offline_message(outcome: &'static str) {
    COUNTS
        .offline_messages
        .get_or_create(&[("outcome", outcome)])
        .inc();
}

static LOST: Mutex<Seldom> = Mutex::new(Seldom::once_in(Seldom::MINUTE));

/// A message for somebody who is away was lost.
pub fn offline_lost(exchange: &str, cause: &str) {
    offline_message("lost");
    if let Some(unsaid) = LOST.lock().let_through(Instant::now()) {
        error!(
            target: "stentor::offline", exchange, cause, unsaid,
            "messages for those who are away are lost"
        );
    }
}

/// The node ends, and so many messages for those who are away were not handed on in time.
pub fn offline_left(count: usize) {
    (0..count).for_each(|_| offline_message("lost"));
    error!(
        target: "stentor::offline", count,
        "messages for those who are away are lost: the node ends before they were handed on"
    );
}

/// What nobody is subscribed to cannot be read; it waits at the broker.
pub fn offline_stopped(exchange: &str, cause: &dyn Display, retry_in: Duration) {
    let (cause, retry_in_ms) = (cause.to_string(), millis(retry_in));
    warn!(
        target: "stentor::offline", exchange, cause, retry_in_ms,
        "messages for those who are away cannot be read: they wait"
    );
}

/// The queue was made with another bound, which RabbitMQ does not change; the command that takes it away.
pub fn offline_queue_differs(queue: &str, cause: &str, command: &str) {
    warn!(
        target: "stentor::offline", queue, cause, command,
        "messages for those who are away wait, for their queue was made with another [offline] \
         max_bytes: set the former value again; or, once a node with it has emptied the queue, run the \
         command, and this one makes it anew"
    );
}

static WAITS: Mutex<Seldom> = Mutex::new(Seldom::once_in(Seldom::MINUTE));

/// A message cannot be handed on now, perhaps for its key; it waits.
pub fn offline_waits(exchange: &str, key: Option<&str>, cause: &dyn Display, retry_in: Duration) {
    if let Some(unsaid) = WAITS.lock().let_through(Instant::now()) {
        let (cause, retry_in_ms) = (cause.to_string(), millis(retry_in));
        warn!(
            target: "stentor::offline", exchange, key, cause, retry_in_ms, unsaid,
            "messages for those who are away are not handed on: they wait. Has a worker bound its \
             queue to [offline] exchange, for all keys?"
        );
    }
}

/// What nobody is subscribed to is dropped at the exchange; the command that mends it.
pub fn offline_leads_nowhere(exchange: &str, command: &str) {
    warn!(
        target: "stentor::offline", exchange, command,
        "messages that nobody is subscribed to are dropped, for the exchange has no alternate one: \
         run the command"
    );
}

/// The messages of a dead node's queue are handed on, and the queue is gone.
pub fn offline_drained(queue: &str, messages: usize) {
    info!(target: "stentor::offline", queue, messages, "a dead node's queue is emptied");
}

/// A queue in which messages waited too long is its node's, or gone.
pub fn offline_not_drained(queue: &str, cause: &dyn Display) {
    let cause = cause.to_string();
    debug!(target: "stentor::offline", queue, cause, "a queue is left to its node");
}
