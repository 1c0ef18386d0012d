//! STOMP 1.0, 1.1 and 1.2: frames to bytes and back.
//!
//! Pure: no I/O, no clock, no runtime. Bytes go into a [`Decoder`] however the transport cut
//! them, and come out as [`Frame`]s; limits hold while bytes arrive. The [`encode`] functions
//! write into a buffer that the caller owns.
#![forbid(unsafe_code)]
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::string_slice
)]
#![cfg_attr(test, allow(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

mod command;
mod decode;
pub mod encode;
mod error;
mod escape;
mod frame;
mod head;
mod limits;
mod partial;
mod scan;
mod version;

pub use command::Command;
pub use decode::Decoder;
pub use error::{DecodeError, DecodeErrorKind};
pub use frame::{Frame, Headers};
pub use limits::Limits;
pub use version::Version;

/// Runs the README's example.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
