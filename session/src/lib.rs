//! One STOMP client's protocol state, without sockets, clocks or channels.
//!
//! What happens is told to a [`Session`] by `handle_*` calls, each with the time; what must be
//! done is taken from it by [`Session::poll_action`], and when it wants to be woken by
//! [`Session::poll_timeout`]. So every rule of the protocol is tested with virtual time.
//!
//! | Module | Its part |
//! |---|---|
//! | `session` | phases, and what each frame does |
//! | `config` | how sessions behave |
//! | `action` | what a session asks of its surroundings |
//! | `delivery` | a message on its way to the client |
//! | `problem`, `close` | everything that ends a session, its words and codes |
//! | `receipts` | what is begun and not done, in the order of frames |
//! | `subscriptions` | who is subscribed, and what awaits acknowledgement |
//! | `transactions` | what is gathered between BEGIN and COMMIT |
//! | `heartbeat` | what was agreed on, and what is due when |
//! | `frames` | the frames that a server sends |
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

mod action;
mod close;
mod config;
mod delivery;
mod frames;
mod heartbeat;
mod problem;
mod receipts;
mod session;
mod subscriptions;
mod transactions;

pub use action::{
    AckMode, Action, Connect, Operation, OperationId, Outcome, Publish, Settle, Subscribe,
    SubscriptionId, Unsubscribe, Verdict,
};
pub use close::CloseCode;
pub use config::Config;
pub use delivery::{Delivered, Delivery};
pub use problem::Problem;
pub use session::Session;
