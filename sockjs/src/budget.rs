//! Room for what clients send: the server's accounts, as far as this crate needs them.

use std::{fmt, sync::Arc, task::Context, task::Poll};

use bytes::Bytes;

/// An account of bytes in memory, which requests of one client claim before they are read.
pub trait Budget: fmt::Debug + Send + Sync {
    /// Bytes of a request that need no claim.
    fn free(&self) -> usize;

    /// A claim of no bytes, which can grow.
    fn claim(self: Arc<Self>) -> Box<dyn Claim>;
}

/// Bytes that one request has claimed. Dropped, it gives back all that no message keeps.
pub trait Claim: Send {
    /// How many bytes are claimed and not kept by messages.
    fn bytes(&self) -> usize;

    /// Claims so many more, as soon as there is room.
    fn poll_grow(&mut self, bytes: usize, context: &mut Context<'_>) -> Poll<()>;

    /// Whether others wait for room that this keeps. A request that takes its time is refused then.
    fn is_in_the_way(&self) -> bool {
        false
    }

    /// The same message, which keeps its part of the claim for as long as any of it is in memory.
    fn attach(&mut self, message: Bytes) -> Bytes;
}
