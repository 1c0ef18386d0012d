//! From routing keys to local subscriptions, and each connection's mailbox.

mod config;

pub use config::{Binding, Feed, Mailbox, Overflow};
