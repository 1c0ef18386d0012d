//! What one address, one user or one connection may take of the node, so that the others have
//! theirs.

mod address;
mod config;

pub use address::{AddressKey, is_shared};
pub use config::{Limits, Stomp, session_config};
