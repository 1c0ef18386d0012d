//! STOMP 1.0, 1.1 and 1.2: frames to bytes and back.
//!
//! Pure: no I/O, no clock, no runtime. Bytes go into a [`Decoder`] however the transport cut
//! them, and come out as [`Frame`]s; limits hold while bytes arrive. The [`encode`] functions
//! write into a buffer that the caller owns.
#![forbid(unsafe_code)]

mod command;
mod decode;
pub mod encode;
mod escape;
mod frame;
mod version;

pub use command::Command;
pub use decode::{DecodeError, DecodeErrorKind, Decoder, Limits};
pub use frame::{Frame, Headers};
pub use version::Version;
