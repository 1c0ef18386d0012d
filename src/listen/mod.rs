//! Sockets become links.

mod config;

pub use config::Config;
