//! The duties of a transport towards a connection. WebSocket, TCP and SockJS implement it.

use std::{
    io,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use stomp_session::CloseCode;
use thiserror::Error;

use crate::node::Account;

/// Bytes of an unfinished frame that each connection may have without a claim: as many as are read
/// at a time.
pub const FREE: usize = 16 * 1024;

/// The way to one client and back. All calls come from one task.
///
/// A link has no notion of frames on the way in: it hands over bytes as they come. On the way
/// out it is told where a frame ends, since some transports have messages.
pub trait Link: Send + Unpin + 'static {
    /// The next bytes from the client; `None` if it closed in good order; empty if it answered a
    /// ping, see [`Link::was_answered`], or sent bytes that are none of a frame, or not yet, see
    /// [`Link::bytes_read`].
    ///
    /// # Errors
    /// The connection is over.
    fn poll_receive(&mut self, context: &mut Context<'_>)
    -> Poll<Result<Option<Bytes>, LinkError>>;

    /// True if bytes came since the last call that were not handed over (yet): parts of a message
    /// of the transport. The client lives, though no whole message came.
    fn was_heard(&mut self) -> bool {
        false
    }

    /// How many bytes were read since the last call, with those that are not handed over: of pings,
    /// heads, and messages that are not whole. They cost time, so they are counted as they come: a
    /// link stops to read at some number of them, and [`Link::poll_receive`] is ready with nothing.
    /// `None`: it hands over all that comes.
    fn bytes_read(&mut self) -> Option<usize> {
        None
    }

    /// The received part of a message that is not whole, or was not handed over yet. A link does
    /// not take in more than [`FREE`] of it before [`Link::go_on`]: then
    /// [`Link::poll_receive`] is pending, and wakes nobody.
    fn unfinished(&self) -> Unfinished {
        Unfinished::default()
    }

    /// There is room for the whole unfinished message.
    fn go_on(&mut self) {}

    /// The client has logged in. A link that takes in messages elsewhere has them counted there.
    fn count_for(&mut self, _: &dyn Fn() -> Option<Arc<Account>>) {}

    /// True if the transport can ask a client if it lives.
    fn has_pings(&self) -> bool {
        false
    }

    /// Takes a ping, to be written by the next [`Link::poll_flush`]. Does no I/O, and nothing where
    /// the transport has none.
    fn ping(&mut self) {}

    /// True if the client has answered a [`Link::ping`] since the last call.
    fn was_answered(&mut self) -> bool {
        false
    }

    /// Takes one whole frame, or a heart-beat, to be written by the next
    /// [`Link::poll_flush`]. Does no I/O.
    fn send(&mut self, frame: Outbound<'_>);

    /// True if it can only send frames that are UTF-8.
    fn takes_text_only(&self) -> bool {
        false
    }

    /// About how many bytes were taken and are not written yet; 0 only if all are written. When the
    /// client is gone, those that it was not sent stay: messages are acknowledged at the broker by
    /// this.
    fn pending(&self) -> usize;

    /// True if bytes that are no longer pending were written since the last call: those of an answer
    /// over HTTP, which took all of them at once. Its client reads, though it takes no more yet.
    fn was_written(&mut self) -> bool {
        false
    }

    /// Writes all that was taken.
    ///
    /// # Errors
    /// The transport broke.
    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<Result<(), LinkError>>;

    /// Says good-bye in the transport's way, and waits until the client has heard it, or is
    /// gone: further bytes are read and dropped, since a socket that is closed with unread bytes
    /// takes back the last ones that were written to it. Called again until it is ready.
    fn poll_close(&mut self, context: &mut Context<'_>, code: CloseCode) -> Poll<()>;

    /// The client may send frames of this size, in bytes, from now on.
    fn set_max_frame_size(&mut self, size: usize);
}

/// The received part of a message that is not whole yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unfinished {
    /// In bytes.
    pub received: usize,
    /// The bytes that the whole may come to.
    pub most: usize,
}

impl Unfinished {
    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            received: self.received.saturating_add(other.received),
            most: self.most.saturating_add(other.most),
        }
    }

    /// True if it needs a claim.
    #[must_use]
    pub fn is_large(&self) -> bool {
        self.received >= FREE
    }
}

/// One whole frame for a client, or a heart-beat, in two parts that follow each other: so that a
/// link copies what all receivers share straight to where it writes from.
#[derive(Clone, Copy)]
pub struct Outbound<'a> {
    /// This client's own part.
    pub head: &'a [u8],
    /// The part that is shared with other receivers; may be empty.
    pub tail: &'a [u8],
    /// Each part is UTF-8.
    pub is_text: bool,
}

impl<'a> Outbound<'a> {
    /// A frame in one part.
    #[must_use]
    pub fn whole(frame: &'a [u8]) -> Self {
        Self {
            head: frame,
            tail: &[],
            is_text: std::str::from_utf8(frame).is_ok(),
        }
    }

    /// Both parts as a text; U+FFFD replaces bytes that are not UTF-8.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::with_capacity(self.size());
        text.push_str(&String::from_utf8_lossy(self.head));
        text.push_str(&String::from_utf8_lossy(self.tail));
        text
    }

    /// The size of both parts, in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.head.len().saturating_add(self.tail.len())
    }
}

/// Why a transport ends.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The socket broke.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// One message of the transport is larger than a frame may be. Writing still works.
    #[error("a message of more than {limit} bytes")]
    TooBig {
        /// The allowed size, in bytes.
        limit: usize,
    },
    /// A text of the transport is not UTF-8.
    #[error("a text is not UTF-8")]
    NotUtf8,
    /// The client broke the transport's own rules.
    #[error("{0}")]
    Violation(Box<str>),
}
