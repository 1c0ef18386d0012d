//! The application's end of a session, whatever the transport.

use std::{
    borrow::Cow,
    future::{Future, poll_fn},
    io,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use thiserror::Error;

use crate::Budget;

/// The way to one client and back: messages in, messages out. All calls come from one task.
///
/// The simple way to drive it is [`receive`](Channel::receive), [`flush`](Channel::flush) and
/// [`close`](Channel::close). A new channel may hold its opening frame: flush before the first
/// receive. An application that does more at a time calls the `poll_*` functions
/// from one `poll_fn`: first `poll_flush` while anything is [`pending`](Channel::pending), then
/// `poll_receive` unless too much is. Heart-beats are sent, and clients that stay away are noticed,
/// only while one of them is being polled.
///
/// The functions with a body are for servers that ask whether a client lives, and that bound the
/// memory of all clients together. Others can leave them alone.
pub trait Channel: Send + Unpin + 'static {
    /// The next message of the client; `None`: it closed in good order. A message without bytes may
    /// also be the answer to a ping, or bytes without a message: see [`Channel::was_answered`] and
    /// [`Channel::bytes_read`].
    ///
    /// # Errors
    /// Nothing more comes.
    fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, ChannelError>>;

    /// Takes one message, to be written by the next [`Channel::poll_flush`]. Does no I/O. On a
    /// transport of texts, bytes that are not UTF-8 become U+FFFD.
    fn send(&mut self, message: Payload<'_>);

    /// About how many bytes were taken and are not written yet; 0 only if there are none. They do not
    /// become fewer because the client is gone: then they stay, and
    /// [`poll_flush`](Channel::poll_flush) fails.
    fn pending(&self) -> usize;

    /// Whether bytes that are no longer [`pending`](Channel::pending) were written since the last
    /// call. Over HTTP a request takes all that is pending at once, and its client may read for long
    /// while more becomes pending: it is not stuck.
    fn was_written(&mut self) -> bool {
        false
    }

    /// Writes all that was taken. Over HTTP it is ready when a request has taken all of it.
    ///
    /// # Errors
    /// The transport broke.
    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<Result<(), ChannelError>>;

    /// Closes, and waits until the client knows or is gone. `code` is one of WebSocket's (RFC 6455,
    /// 7.4.1; those from 3000 on are for applications), `reason` at most 123 bytes long. Call it
    /// until it is ready, and bound the time that it may take.
    fn poll_close(&mut self, context: &mut Context<'_>, code: u16, reason: &str) -> Poll<()>;

    /// The client may send messages of this size, in bytes, from now on.
    fn set_max_message_size(&mut self, size: usize);

    /// Whether only messages can be sent that are UTF-8.
    fn is_text_only(&self) -> bool {
        false
    }

    /// Whether parts of a message came since the last call, or one waits for room to be read. The
    /// client lives, though no whole message of it was received.
    fn was_heard(&mut self) -> bool {
        false
    }

    /// How many bytes were read since the last call, with those that are no message: of pings, of
    /// the transport's own frames, and of a message that is not whole. A channel that counts them
    /// may stop to read at some number until it is asked: then [`Channel::poll_receive`] is ready
    /// with a message without bytes. `None`: it does not count, as WebSockets of this crate do not.
    /// A session over HTTP counts, and stops when it has been asked once.
    fn bytes_read(&mut self) -> Option<usize> {
        None
    }

    /// Bytes of a message that is not whole yet, or was not received yet. A channel may stop to
    /// read at some size until [`Channel::go_on`]: then [`Channel::poll_receive`] is pending, and
    /// wakes no task. Those of this crate never stop.
    fn unfinished(&self) -> Unfinished {
        Unfinished::default()
    }

    /// There is room for all of the unfinished message.
    fn go_on(&mut self) {}

    /// From now on room for the client's requests is claimed in this budget, before they are read.
    /// `budget` is called only by a channel whose messages come in requests.
    fn set_budget(&mut self, budget: &dyn Fn() -> Option<Arc<dyn Budget>>) {
        let _ = budget;
    }

    /// Whether the transport can ask a client if it lives.
    fn has_pings(&self) -> bool {
        false
    }

    /// Takes a ping, to be written by the next [`Channel::poll_flush`]. Does no I/O, and nothing if
    /// the transport has no pings.
    fn ping(&mut self) {}

    /// Whether the client has answered a [`Channel::ping`] since the last call.
    fn was_answered(&mut self) -> bool {
        false
    }

    /// Waits for [`Channel::poll_receive`].
    ///
    /// # Errors
    /// Nothing more comes.
    fn receive(&mut self) -> impl Future<Output = Result<Option<Bytes>, ChannelError>> + Send
    where
        Self: Sized,
    {
        poll_fn(move |context| self.poll_receive(context))
    }

    /// Waits for [`Channel::poll_flush`].
    ///
    /// # Errors
    /// The transport broke.
    fn flush(&mut self) -> impl Future<Output = Result<(), ChannelError>> + Send
    where
        Self: Sized,
    {
        poll_fn(move |context| self.poll_flush(context))
    }

    /// Waits for [`Channel::poll_close`].
    fn close(&mut self, code: u16, reason: &str) -> impl Future<Output = ()> + Send
    where
        Self: Sized,
    {
        poll_fn(move |context| self.poll_close(context, code, reason))
    }
}

/// One message for a client, in two parts that follow each other: a part that many clients share is
/// copied straight to where the channel writes from.
#[derive(Clone, Copy, Debug)]
pub struct Payload<'a> {
    /// The first part.
    pub head: &'a [u8],
    /// The second part; may be empty.
    pub tail: &'a [u8],
    /// Whether each part is UTF-8.
    pub is_text: bool,
}

impl<'a> Payload<'a> {
    /// A message in one part. It is a text if it is UTF-8.
    #[must_use]
    pub fn whole(message: &'a [u8]) -> Self {
        Self {
            head: message,
            tail: &[],
            is_text: str::from_utf8(message).is_ok(),
        }
    }

    /// A text in one part.
    #[must_use]
    pub fn text(message: &'a str) -> Self {
        Self {
            head: message.as_bytes(),
            tail: &[],
            is_text: true,
        }
    }

    /// Both parts as a text; bytes that are not UTF-8 become U+FFFD.
    #[must_use]
    pub fn to_text(&self) -> Cow<'a, str> {
        let head = String::from_utf8_lossy(self.head);
        if self.tail.is_empty() {
            return head;
        }
        let mut text = String::with_capacity(self.size());
        text.push_str(&head);
        text.push_str(&String::from_utf8_lossy(self.tail));
        Cow::Owned(text)
    }

    /// The size of both parts, in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.head.len().saturating_add(self.tail.len())
    }
}

/// Bytes of a message that is not whole yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unfinished {
    /// How many came.
    pub received: usize,
    /// How many the whole message may have.
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
}

/// Why nothing more comes from a client.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ChannelError {
    /// The connection broke, or the client stayed away for too long.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// A message is too long. Writing still works.
    #[error("a message of more than {limit} bytes")]
    TooLong {
        /// The longest that is allowed, in bytes.
        limit: usize,
    },
    /// A text is not UTF-8.
    #[error("a text is not UTF-8")]
    NotUtf8,
    /// The client broke the transport's rules.
    #[error("{0}")]
    Violation(Box<str>),
}
