//! What a session asks its surroundings to do.

use std::fmt;

use bytes::Bytes;
use stomp_grammar::Headers;

use crate::{CloseCode, Problem};

/// Names a subscription within its session. Never used twice in one session, so that what
/// arrives late for an ended subscription cannot reach a new one that took over its `id` header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionId(pub u32);

/// Names an [`Action`] that is answered by [`crate::Session::handle_done`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationId(pub u64);

/// What became of an operation.
pub type Outcome = Result<(), Problem>;

/// Something the surroundings do for the session, in the order in which it is polled.
#[derive(Debug)]
#[non_exhaustive]
pub enum Action {
    /// Write these bytes: one whole frame, or a heart-beat (a single LF).
    Write(Bytes),
    /// Ask the client, in the transport's own way, whether it lives; what it answers is told by
    /// [`crate::Session::handle_pong`]. Only after [`crate::Session::allow_pings`].
    Ping,
    /// Ask who this is; answer by [`crate::Session::handle_authenticated`].
    Authenticate(Box<Connect>),
    /// Open a subscription; answer by [`crate::Session::handle_done`].
    Subscribe(OperationId, Box<Subscribe>),
    /// End a subscription; answer by [`crate::Session::handle_done`].
    Unsubscribe(OperationId, Box<Unsubscribe>),
    /// Do these in order, all or none as far as that can be; answer once, by
    /// [`crate::Session::handle_done`], after the broker confirmed the last of them. A SEND,
    /// ACK or NACK outside a transaction is a list of one; a COMMIT is what its transaction
    /// gathered.
    Perform(OperationId, Vec<Operation>),
    /// Do not begin this operation and later ones any more, and answer to none of them.
    Abandon(OperationId),
    /// Write out what is pending, then close the transport. Nothing follows.
    /// The problem, if there was one, has been told to the client; it is here for the log.
    Close(CloseCode, Option<Box<Problem>>),
}

impl Action {
    /// The operation that this asks for.
    #[must_use]
    pub fn operation(&self) -> Option<OperationId> {
        match self {
            Self::Subscribe(operation, _)
            | Self::Unsubscribe(operation, _)
            | Self::Perform(operation, _) => Some(*operation),
            Self::Write(_)
            | Self::Ping
            | Self::Authenticate(_)
            | Self::Abandon(_)
            | Self::Close(..) => None,
        }
    }
}

/// What a CONNECT or STOMP frame asks. Whether `login` and `passcode` are needed is for the
/// surroundings to say: a cookie or a certificate may stand in for them.
#[derive(Debug)]
pub struct Connect {
    /// All its headers (`login`, `passcode`, `host`, and whatever an application adds).
    pub headers: Headers,
}

/// How a subscription's messages are acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AckMode {
    /// A message is done with when it is sent.
    Auto,
    /// ACK and NACK speak for all earlier messages of their subscription too.
    Client,
    /// ACK and NACK speak for one message.
    ClientIndividual,
}

/// What a SUBSCRIBE frame asks.
#[derive(Debug)]
pub struct Subscribe {
    /// The session's name for the subscription.
    pub subscription: SubscriptionId,
    /// The `destination` header, not interpreted.
    pub destination: Box<str>,
    /// The `ack` header.
    pub ack: AckMode,
    /// All its headers.
    pub headers: Headers,
}

/// What an UNSUBSCRIBE frame asks.
#[derive(Debug)]
pub struct Unsubscribe {
    /// The session's name for the subscription.
    pub subscription: SubscriptionId,
    /// All its headers (`durable` and `auto-delete` decide whether a durable queue goes too).
    pub headers: Headers,
}

/// One thing to do at the broker.
#[derive(Debug)]
#[non_exhaustive]
pub enum Operation {
    /// Publish a message.
    Publish(Publish),
    /// Accept or reject messages.
    Settle(Settle),
}

/// What a SEND frame asks.
pub struct Publish {
    /// The `destination` header, not interpreted.
    pub destination: Box<str>,
    /// All headers of the frame, also those that are for this server (`destination`, `receipt`,
    /// `transaction`, `content-length`).
    pub headers: Headers,
    /// The body.
    pub body: Bytes,
}

/// Bodies can hold secrets, so they are not shown.
impl fmt::Debug for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publish")
            .field("destination", &self.destination)
            .field("headers", &self.headers)
            .field("body_len", &self.body.len())
            .finish()
    }
}

/// What an ACK or NACK frame asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settle {
    /// Whose messages.
    pub subscription: SubscriptionId,
    /// The tag that [`crate::Delivery::tag`] gave the message.
    pub tag: u64,
    /// Whether all earlier unsettled messages of the subscription are meant as well.
    pub multiple: bool,
    /// Accept, or reject.
    pub verdict: Verdict,
}

/// What a client says of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// ACK: done with.
    Accept,
    /// NACK with `requeue:true`, the default: give it to somebody, again.
    Requeue,
    /// NACK with `requeue:false`: drop or dead-letter it.
    Discard,
}
