//! A STOMP client for tests: it does what it is told, and remembers what it saw.

mod client;
mod link;
mod sockjs;

pub use client::{Login, StompClient, show};
pub use link::{Closed, WsOptions};
