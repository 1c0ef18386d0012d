//! Who is here.

mod config;

pub use config::{Config, RedisUrl, Url, UrlError};
