//! What reads bytes of others.

mod amqp;
mod decoder;
#[cfg(feature = "gateway")]
mod gateway;
mod hook;
mod session;
mod sockjs;

use std::sync::atomic::Ordering;

use crate::Target;

/// All of them.
#[must_use]
pub fn all() -> Vec<Target> {
    vec![
        decoder::TARGET,
        session::TARGET,
        amqp::TARGET,
        sockjs::TARGET,
        hook::TARGET,
    ]
    .into_iter()
    .chain(gateway())
    .collect()
}

/// How often the STOMP decoder has read a stream, for the target of that name: whole, in pieces, and
/// cut at several places.
#[must_use]
pub fn streams() -> u64 {
    decoder::STREAMS.load(Ordering::Relaxed)
}

#[cfg(feature = "gateway")]
fn gateway() -> impl IntoIterator<Item = Target> {
    gateway::TARGETS
}

#[cfg(not(feature = "gateway"))]
fn gateway() -> [Target; 0] {
    []
}
