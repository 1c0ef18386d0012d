//! One task a client: link, session, broker.

mod config;

pub use config::{Limits, Stomp, session_config};
