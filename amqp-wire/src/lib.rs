//! AMQP 0-9-1, as far as a consumer or a simple publisher needs it: bytes to deliveries, and methods
//! and messages to bytes.
//!
//! Pure: no I/O, no clock, no runtime. Bytes from the broker go into a [`Decoder`] however the
//! transport cut them, and come out as [`Event`]s: methods, and whole messages. The [`encode`]
//! functions append what a client says to a buffer that the caller owns.
//!
//! Made for many small messages: a message costs one allocation, its body. It never holds on to
//! the buffer that it was read into, so one that waits for a slow client keeps no others alive.
//! Texts stay bytes, for AMQP does not say that they are UTF-8; headers are read when they are
//! asked for, without recursion; an unreadable header spoils no other.
//! Frames and their order are held to the protocol: the first fault ends the connection.
#![forbid(unsafe_code)]
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::string_slice
)]
#![cfg_attr(
    test,
    allow(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::unwrap_used,
        clippy::panic
    )
)]

mod decoder;
mod delivery;
pub mod encode;
mod error;
mod frame;
mod method;
mod properties;
mod scan;
mod table;

pub use decoder::{Decoder, Event, Limits};
pub use delivery::{Body, Delivery};
pub use error::Malformed;
pub use method::Method;
pub use properties::Properties;
pub use table::{Array, Table, Value};

/// A client's first bytes: the protocol and its version, 0-9-1.
pub const PROTOCOL_HEADER: [u8; 8] = *b"AMQP\x00\x00\x09\x01";
