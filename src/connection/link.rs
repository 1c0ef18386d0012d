//! What a transport owes a connection. WebSocket and TCP implement it; a polling transport can.

use std::{
    io,
    task::{Context, Poll},
};

use bytes::Bytes;
use stomp_session::CloseCode;

/// The way to one client and back. All calls come from one task.
///
/// A link has no notion of frames on the way in: it hands over bytes as they come. On the way
/// out it is told where a frame ends, since some transports have messages.
pub trait Link: Send + Unpin + 'static {
    /// The next bytes from the client; `None`: it closed in good order.
    ///
    /// # Errors
    /// The transport broke, or the client broke its rules; nothing more comes.
    fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>>;

    /// Takes one whole frame, or a heart-beat, to be written by the next
    /// [`Link::poll_flush`]. Does no I/O.
    fn send(&mut self, frame: Vec<u8>);

    /// How many bytes were taken and are not written yet.
    fn pending(&self) -> usize;

    /// Writes all that was taken.
    ///
    /// # Errors
    /// The transport broke.
    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Says good-bye in the transport's way, and waits until the client has it, or is gone.
    fn poll_close(&mut self, context: &mut Context<'_>, code: CloseCode) -> Poll<()>;

    /// The client may send frames of this size, in bytes, from now on.
    fn set_max_frame_size(&mut self, size: usize);
}
