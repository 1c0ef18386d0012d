//! The events. Their targets are the parts that they happen in, so that `[log] level` can turn
//! single parts up or down.

mod api;
mod audit;
mod broker;
mod clients;
mod config;
mod control;
mod flow;
mod hook;
mod journal;
mod listening;
mod node;
mod offline;
mod presence;
mod webhooks;

use std::time::Duration;

pub use api::*;
pub use audit::*;
pub use broker::*;
pub use clients::*;
pub use config::*;
pub use control::*;
pub use flow::*;
pub use hook::*;
pub use journal::*;
pub use listening::*;
pub use node::*;
pub use offline::*;
pub use presence::*;
pub use webhooks::*;

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
