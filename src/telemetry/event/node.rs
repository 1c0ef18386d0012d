//! The beginning and the end of a node.

use std::time::Duration;

use tracing::{error, info, warn};

use super::millis;
use crate::codes::Code;

/// The program starts.
pub fn starting() {
    info!(target: "stentor", version = env!("CARGO_PKG_VERSION"), "starting");
}

/// The system allows fewer open files than clients may need, so these `keys` of `[listen]` are lowered.
/// Each pair is what was wanted, and what counts.
pub fn few_files(
    open_files: u64,
    keys: &str,
    (wanted_connections, max_connections): (usize, usize),
    (wanted_unauthenticated, max_unauthenticated): (usize, usize),
) {
    warn!(
        target: "stentor::listen", code = Code::FewFiles.name(),
        open_files, wanted_connections, max_connections, wanted_unauthenticated, max_unauthenticated,
        "fewer clients than [listen] {keys}, for the system allows too few open files: raise the hard \
         limit (`ulimit -Hn`, systemd's LimitNOFILE), or lower {keys}"
    );
}

/// The readiness check fails from now on.
pub fn not_ready(cause: &str) {
    info!(target: "stentor::shutdown", cause, "not ready");
}

/// So many clients are told to reconnect elsewhere, over this time.
pub fn draining(connections: usize, over: Duration) {
    info!(target: "stentor::shutdown", connections, over_ms = millis(over), "draining");
}

/// The program ends, and how far clients of so many subscriptions have acknowledged could not be kept.
pub fn bookmarks_lost(subscriptions: usize) {
    warn!(
        target: "stentor::shutdown", subscriptions,
        "the last bookmarks are not kept, for Redis gave no answer in time: what these clients have \
         acknowledged last comes again"
    );
}

/// Something did not close in time, and the program ends without that.
pub fn closing_given_up() {
    warn!(
        target: "stentor::shutdown",
        "not all was closed in time; queues of this node that are left at RabbitMQ expire"
    );
}

/// Somebody did not want to wait for the end; so many clients were cut.
pub fn stopped_by_a_second_signal(cut: usize) {
    warn!(
        target: "stentor::shutdown", cut,
        "stopped at once by a second signal; queues of this node that are left at RabbitMQ expire"
    );
}

/// The program ends; so many clients were cut.
pub fn stopped(cut: usize) {
    if cut == 0 {
        info!(target: "stentor::shutdown", "stopped");
    } else {
        warn!(
            target: "stentor::shutdown", cut,
            "stopped: the grace time was over, and clients were cut"
        );
    }
}

/// A task or a thread has met a fault of this program, and is over.
pub(in crate::telemetry) fn panicked(
    words: &str,
    place: Option<&str>,
    thread: &str,
    trace: Option<&str>,
) {
    error!(
        target: "stentor::panic", panic = words, place, thread, trace,
        "a fault of Stentor: please report it, with this line"
    );
}

/// So many lines of the log were lost: its reader stood still, or had no room for them.
pub(in crate::telemetry) fn log_lines_lost(lines: u64) {
    warn!(
        target: "stentor::log", lines,
        "lines of the log were lost, for it could not be written: look at what reads standard error, \
         and at the room on its disk"
    );
}
