//! Tails: operators see frames of clients as they pass.
//!
//! Each node has [`Taps`], one [`Tap`] for each tail that somebody has begun, here or at another
//! node ([`control`](crate::control) carries those). Connections ask one atomic switch whether there
//! is any; only then they look further. A tap hides what may be secret, shows so many frames a
//! second, keeps a bounded number of them, and counts the rest. It ends with its lease, which
//! whoever looks renews.

mod bounds;
mod config;
mod filter;
mod frame;
mod print;
mod redact;
mod taps;

pub use bounds::LeftOut;
pub use config::{Config, Show};
pub use filter::Filter;
pub use frame::{
    Direction, Encoded, MAX_BODY, NodeState, Seen, TailFrame, TailHeader, TailLine, Who, Why, read,
};
pub use print::{is_unsafe, printable, printable_json, to_line};
pub use redact::looks_secret;
pub use taps::{Batch, Refused, Tap, TapHandle, Taps};
