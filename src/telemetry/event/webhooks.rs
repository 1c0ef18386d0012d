//! Events that go to the application by HTTP.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::{error, info, warn};

use super::millis;
use crate::telemetry::{Seldom, metrics::COUNTS};

/// The outcomes of events.
const OUTCOMES: [&str; 4] = ["delivered", "dead", "dropped", "unsent"];

/// There are receivers. A series that began with its first count would hide that from whoever looks at
/// its increase.
pub fn webhooks_begin() {
    for outcome in OUTCOMES {
        drop(COUNTS.webhook_events.get_or_create(&[("outcome", outcome)]));
    }
}

/// So many more wait.
pub fn webhook_waits() {
    COUNTS.webhook_waiting.inc();
}

/// A receiver has an event.
pub fn webhook_delivered() {
    COUNTS.webhook_waiting.dec();
    ended("delivered");
}

/// A receiver did not take an event: it is sent again, or given up.
pub fn webhook_failed() {
    COUNTS.webhook_failures.inc();
}

/// An event was given up; the HTTP API shows it.
pub fn webhook_dead(url: &str, kind: &str, id: &str, attempts: u32, cause: &str) {
    COUNTS.webhook_waiting.dec();
    ended("dead");
    error!(
        target: "stentor::webhooks", url, kind, id, attempts, cause,
        "an event is given up: no receiver took it (GET /api/v1/webhooks shows it)"
    );
}

/// Clients may cause many.
static DROPPED: Mutex<Seldom> = Mutex::new(Seldom::once_in(Seldom::MINUTE));

/// There is no room for an event.
pub fn webhook_dropped(url: &str, waiting: usize) {
    ended("dropped");
    if let Some(unsaid) = DROPPED.lock().let_through(Instant::now()) {
        error!(
            target: "stentor::webhooks", url, waiting, unsaid,
            "events are dropped, for too many wait ([webhooks] max_bytes, max_user_events): the \
             receiver has to ask for the sessions and users again"
        );
    }
}

/// The node ends, and so many events were not sent.
pub fn webhooks_unsent(url: &str, count: usize) {
    for _ in 0..count {
        ended("unsent");
    }
    error!(target: "stentor::webhooks", url, count, "events were not sent before the end");
}

/// A receiver takes events again.
pub fn webhooks_up(url: &str) {
    info!(target: "stentor::webhooks", url, "the receiver takes events again");
}

/// A receiver takes no events: they wait. So did it `unsaid` more times since this was said the last
/// time.
pub fn webhooks_down(url: &str, cause: &str, retry_in: Duration, unsaid: u64) {
    let retry_in_ms = millis(retry_in);
    warn!(
        target: "stentor::webhooks", url, cause, retry_in_ms, unsaid,
        "the receiver takes no events: they wait"
    );
}

fn ended(outcome: &'static str) {
    COUNTS
        .webhook_events
        .get_or_create(&[("outcome", outcome)])
        .inc();
}
