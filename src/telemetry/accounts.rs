//! Events of RabbitMQ's own users ([`auth::rabbitmq`](crate::auth::rabbitmq)).

use std::path::Path;

use tracing::{error, info, warn};

use super::metrics::COUNTS;
use crate::codes::Code;

/// RabbitMQ's users were read, and are in force; so many are not as they were.
pub fn accounts_loaded(place: &str, users: usize, vhosts: usize, changed: usize) {
    COUNTS.accounts_stale.set(0);
    COUNTS.accounts_loads.inc();
    info!(
        target: "stentor::auth::rabbitmq",
        place, users, vhosts, changed, "RabbitMQ's users loaded"
    );
}

/// The passwords of so many users are hashed by MD5.
pub fn accounts_weak(place: &str, users: usize) {
    warn!(
        target: "stentor::auth::rabbitmq", code = Code::AccountsWeak.name(),
        place, users,
        "passwords of RabbitMQ's users are hashed by MD5, which is broken: set them anew"
    );
}

/// RabbitMQ's users could not be read, or not be used.
pub fn accounts_failed() {
    COUNTS.accounts_failures.inc();
    COUNTS.accounts_stale.set(1);
}

/// The reason; those of before stay in force.
pub fn accounts_kept(place: &str, cause: &str) {
    error!(
        target: "stentor::auth::rabbitmq", code = Code::AccountsOld.name(),
        place, cause, "RabbitMQ's users not loaded: those of before stay"
    );
}

/// The reason; there were none before, so nobody of them can log in.
pub fn accounts_missing(place: &str, cause: &str) {
    error!(
        target: "stentor::auth::rabbitmq", code = Code::AccountsMissing.name(),
        place, cause, "RabbitMQ's users not loaded: none of them can log in"
    );
}

/// Every user of this machine may read the file with the hashes of passwords.
pub fn definitions_readable(file: &Path) {
    let file = file.display().to_string();
    warn!(
        target: "stentor::auth::rabbitmq", code = Code::AccountsReadable.name(),
        file,
        "every user of this machine can read the hashes of passwords in this file: chmod o-r"
    );
}
