//! The configuration, while the gateway serves.

use std::fmt::Display;

use tracing::{error, info, warn};

use crate::codes::Code;

/// A reload changed a key; the values are without secrets, `None` where there is none.
pub fn key_changed(key: &str, old: Option<&str>, new: Option<&str>) {
    info!(target: "stentor::config", key, old, new, "configuration changed");
}

/// A key differs from what is in force, and a reload cannot change it.
pub fn key_waits(key: &str, old: Option<&str>, new: Option<&str>) {
    warn!(
        target: "stentor::config", key, old, new,
        "this key is in force after a restart: the old value stays until then"
    );
}

/// The configuration was read again, and is in force.
pub fn reloaded(changed: usize, waiting: usize) {
    info!(target: "stentor::config", changed, waiting, "configuration reloaded");
}

/// The configuration was read again, and cannot be used: nothing has changed.
pub fn not_reloaded(cause: &str) {
    error!(target: "stentor::config", cause, "configuration not reloaded: the old one stays");
}

/// The service manager could not be told something.
pub fn not_notified(cause: &dyn Display) {
    let cause = cause.to_string();
    warn!(
        target: "stentor", code = Code::NotNotified.name(), cause,
        "the service manager (NOTIFY_SOCKET) could not be told"
    );
}
