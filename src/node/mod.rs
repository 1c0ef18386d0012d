//! What all connections of a node share, and what each of them may take of it.
//!
//! - [`Room`]: bytes of what clients publish, while it is under way.
//! - [`Memory`]: how much memory the process takes, and what it may; above a mark less is let in,
//!   and the greatest mailboxes go.

mod config;
mod measure;
mod memory;
mod room;

pub use config::Config;
pub use memory::{Memory, Target};
pub use room::{Account, Claim, Room, Share, Ticket};
