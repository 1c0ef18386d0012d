//! The gateway from outside: one binary for all, so that it is linked once.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests are tests"
)]

mod broker_contract;
mod cli;
