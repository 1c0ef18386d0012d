//! One STOMP client's protocol state, without sockets, clocks or channels.
//!
//! What happens is told to a [`Session`] by `handle_*` calls, each with the time; what must be
//! done is taken from it by [`Session::poll_action`], and when it wants to be woken by
//! [`Session::poll_timeout`]. So every rule of the protocol is tested with virtual time.
#![forbid(unsafe_code)]

mod action;
mod problem;
mod session;

pub use action::{
    AckMode, Action, Connect, Operation, OperationId, Outcome, Publish, Settle, Subscribe,
    SubscriptionId, Unsubscribe, Verdict,
};
pub use problem::{CloseCode, Problem};
pub use session::{Config, Delivered, Delivery, Session};
