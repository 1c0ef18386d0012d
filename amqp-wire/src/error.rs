//! Faults of a broker's bytes.

use thiserror::Error;

/// The broker sent what is not AMQP 0-9-1, or more than was agreed on. The connection is to be
/// closed: nothing that follows can be trusted to mean what it seems to.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Malformed {
    /// The first byte of a frame; an `A` is the broker's answer to a version that it does not
    /// speak.
    #[error("{0} is no kind of frame; is an AMQP 0-9-1 broker there, and TLS as configured?")]
    Kind(u8),
    /// A frame is longer than was agreed on.
    #[error("a frame of {size} bytes, where {max} were agreed on")]
    FrameSize {
        /// Its length, without its head and end.
        size: u32,
        /// Its limit.
        max: u32,
    },
    /// A frame does not end where it should.
    #[error("a frame on channel {0} without its end")]
    FrameEnd(u16),
    /// A channel beyond those that were agreed on.
    #[error("channel {0} was not agreed on")]
    Channel(u16),
    /// A method or a content header is shorter than what it has to say.
    #[error("{what} on channel {channel} is cut off")]
    CutOff {
        /// Which.
        what: &'static str,
        /// Where.
        channel: u16,
    },
    /// The frames of a message are not in their order, or too many.
    #[error("{what} on channel {channel}, out of place")]
    OutOfPlace {
        /// Which frame.
        what: &'static str,
        /// Where.
        channel: u16,
    },
    /// A method that a consumer has nothing to do with.
    #[error("method {class}.{method} on channel {channel}, which nobody asked for")]
    Method {
        /// Its class.
        class: u16,
        /// Its number within the class.
        method: u16,
        /// Where.
        channel: u16,
    },
}
