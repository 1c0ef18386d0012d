//! Journals, and clients that catch up.

use std::{fmt::Display, time::Instant};

use parking_lot::Mutex;
use tracing::warn;

use crate::{
    codes::Code,
    telemetry::{Seldom, metrics::COUNTS},
};

/// Messages that are not in memory any more are read from a journal.
pub fn journal_read() {
    COUNTS.journal_readings.inc();
}

/// So many messages came of it.
pub fn journal_part(messages: usize) {
    COUNTS.journal_messages_read.inc_by(messages as u64);
}

/// A client asked for messages of before, and gets them; what is missing of them, if anything.
pub fn resumed(gap: Option<&'static str>) {
    let outcome = gap.unwrap_or("exact");
    COUNTS.resumes.get_or_create(&[("gap", outcome)]).inc();
}

/// It is found again every few seconds.
static STOPPED: Mutex<Seldom> = Mutex::new(Seldom::once_in(Seldom::MINUTE));

/// An exchange's messages are not kept now.
pub fn journal_stopped(vhost: &str, exchange: &str, cause: &dyn Display) {
    if let Some(unsaid) = STOPPED.lock().let_through(Instant::now()) {
        let cause = cause.to_string();
        warn!(
            target: "stentor::hub", code = Code::JournalStopped.name(), vhost, exchange, cause, unsaid,
            "an exchange's messages are not kept"
        );
    }
}

/// A stream is there with other properties than those of the configuration.
pub fn journal_differs(stream: &str, cause: &str) {
    warn!(
        target: "stentor::broker", stream, cause,
        "a journal is kept as it was declared first: [journal] says something else now. Set a policy \
         for it, or delete the stream (its messages are lost) and let it be declared anew"
    );
}
