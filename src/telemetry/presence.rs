//! Events of presence in Redis that several servers keep.

use tracing::warn;

/// Another server of the cluster answers for a part of the users: the last writes to the one before
/// may be lost, so the node registers this part's sessions anew.
pub fn presence_server_changed(sessions: usize) {
    warn!(
        target: "stentor::presence", sessions,
        "another server of the Redis cluster answers: registering anew"
    );
}
