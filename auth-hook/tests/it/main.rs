//! The reference hook over real sockets.
#![cfg(feature = "service")]
// Helpers of tests fail as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod client;
#[cfg(feature = "program")]
mod program;
mod service;
