//! One function an event: it logs (and will count).

mod config;

pub use config::{Config, Format};
