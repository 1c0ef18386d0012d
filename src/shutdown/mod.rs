//! The phases of an orderly end.

mod config;

pub use config::Config;
