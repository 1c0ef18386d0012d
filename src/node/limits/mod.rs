//! The shares of the node that one address, one user or one connection may take, so that the others
//! have theirs.

mod address;
mod config;

pub use address::{AddressKey, ClientAddress, is_shared};
pub use config::{Limits, Stomp, session_config};
