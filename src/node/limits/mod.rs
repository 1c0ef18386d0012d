//! The shares of the node that one address, one user or one connection may take, so that the others
//! have theirs.

mod config;

pub use crate::address::{AddressKey, ClientAddress, is_shared};
pub use config::{Limits, Stomp, session_config};
