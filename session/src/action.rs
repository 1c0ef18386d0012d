//! The wishes of a session to its surroundings.

use std::{fmt, time::Instant};

use bytes::Bytes;
use stomp_grammar::Headers;

use crate::{CloseCode, Problem};

/// Names a subscription within its session. Never used twice in one session, so that a late message
/// for an ended subscription cannot reach a new one that took over its `id` header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionId(pub u32);

/// Names an [`Action`] that is answered by [`crate::Session::handle_done`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationId(pub u64);

/// The end of an operation.
pub type Outcome = Result<(), Problem>;

/// A wish that the surroundings fulfil for the session, in the order in which it is polled.
#[derive(Debug)]
#[non_exhaustive]
pub enum Action {
    /// Write these bytes: one whole frame, or a heart-beat (a single LF).
    Write(Bytes),
    /// Ask the client, in the transport's own way, whether it lives; report its answer by
    /// [`crate::Session::handle_pong`]. Only after [`crate::Session::allow_pings`].
    Ping,
    /// Authenticate the client; answer by [`crate::Session::handle_authenticated`].
    Authenticate(Box<Connect>),
    /// Open a subscription; answer by [`crate::Session::handle_done`].
    Subscribe(OperationId, Box<Subscribe>),
    /// End a subscription; answer by [`crate::Session::handle_done`].
    Unsubscribe(OperationId, Box<Unsubscribe>),
    /// Do these in order, all or none as far as possible; answer once, by
    /// [`crate::Session::handle_done`], after the broker confirmed the last of them. A SEND, ACK or
    /// NACK outside a transaction is a list of one; a COMMIT is the list that its transaction
    /// gathered. A DISCONNECT that asks for a receipt is [`Operation::Hear`], if there was an ACK or
    /// NACK without one.
    Perform(OperationId, Vec<Operation>),
    /// Renew the login by these credentials; answer by [`crate::Session::handle_renewed`], and before
    /// that by [`crate::Session::handle_renewal_accepted`] if more is to be asked.
    Renew(OperationId, Box<Renew>),
    /// A message was written as often as its client wished, and not acknowledged: the subscription,
    /// [`crate::Delivery::tag`], and what is to become of it. Not answered. The surroundings need not
    /// keep the message any longer.
    GiveUp(SubscriptionId, u64, GiveUp),
    /// Do not begin this operation or later ones, and answer none of them.
    Abandon(OperationId),
    /// Write out all pending bytes, then close the transport. Nothing follows.
    /// The client has got the problem, if there was one, as an ERROR; here it is for the log.
    Close(CloseCode, Option<Box<Problem>>),
}

impl Action {
    /// The operation of this action.
    #[must_use]
    pub fn operation(&self) -> Option<OperationId> {
        match self {
            Self::Subscribe(operation, _)
            | Self::Unsubscribe(operation, _)
            | Self::Perform(operation, _)
            | Self::Renew(operation, _) => Some(*operation),
            Self::Write(_)
            | Self::Ping
            | Self::GiveUp(..)
            | Self::Authenticate(_)
            | Self::Abandon(_)
            | Self::Close(..) => None,
        }
    }
}

/// The request of a CONNECT or STOMP frame. The surroundings decide whether `login` and `passcode`
/// are needed: a cookie or a certificate may stand in for them.
#[derive(Debug)]
pub struct Connect {
    /// All its headers (`login`, `passcode`, `host`, and whatever an application adds).
    pub headers: Headers,
}

/// How a subscription's messages are acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AckMode {
    /// A message is settled when it is sent.
    Auto,
    /// ACK and NACK settle all earlier messages of their subscription, too.
    Client,
    /// ACK and NACK settle one message.
    ClientIndividual,
}

/// The request of a SUBSCRIBE frame.
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

/// The request of an UNSUBSCRIBE frame.
#[derive(Debug)]
pub struct Unsubscribe {
    /// The session's name for the subscription.
    pub subscription: SubscriptionId,
    /// All its headers (`durable` and `auto-delete` decide whether a durable queue goes too).
    pub headers: Headers,
    /// The tags of the messages that its client has and may still acknowledge. They stay unsettled
    /// until it does, or the session ends; everything else that is unsettled is requeued.
    pub kept: Box<[u64]>,
    /// A subscription that ended earlier, of which the client may acknowledge nothing any more.
    pub forgotten: Option<SubscriptionId>,
}

/// The request of a SEND to `/auth/renew`.
pub struct Renew {
    /// The new token: the header `token`, or else the body. Never empty.
    pub token: Box<str>,
    /// The header `login`, if there is one.
    pub login: Option<Box<str>>,
}

/// Tokens are not shown.
impl fmt::Debug for Renew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Renew")
            .field("login", &self.login)
            .finish_non_exhaustive()
    }
}

/// A renewal that is in effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renewed {
    /// When the login ends by itself now; `None`: it does not.
    pub until: Option<Instant>,
    /// Subscriptions that the client has no right to any more, and that have ended at the broker;
    /// with what each is told.
    pub lost: Vec<(SubscriptionId, Problem)>,
}

/// One step at the broker.
#[derive(Debug)]
#[non_exhaustive]
pub enum Operation {
    /// Publish a message.
    Publish(Publish),
    /// Accept or reject messages.
    Settle(Settle),
    /// Wait until the broker has heard of the settlements before this on which nothing depended
    /// ([`Stake::Nothing`]).
    Hear,
}

/// The request of a SEND frame.
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

/// The request of an ACK or NACK frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settle {
    /// The subscription of the messages.
    pub subscription: SubscriptionId,
    /// The tag that [`crate::Delivery::tag`] gave the message.
    pub tag: u64,
    /// The tag of the earliest message that it settles: `tag`, unless there are more.
    pub first: u64,
    /// Whether it settles all earlier unsettled messages of the subscription as well.
    pub multiple: bool,
    /// Accept, or reject.
    pub verdict: Verdict,
    /// It settles the last message of a subscription that has ended: nothing is left of that.
    pub is_last: bool,
    /// What depends on it.
    pub stake: Stake,
}

/// What depends on the broker's having heard of a settlement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stake {
    /// Nothing: the message comes again if the broker has not.
    Nothing,
    /// The RECEIPT of the ACK or NACK.
    Receipt,
    /// A whole transaction.
    Commit,
}

/// A client's verdict on a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// ACK: the client is done with it.
    Accept,
    /// NACK with `requeue:true`, the default: give it to a consumer again.
    Requeue,
    /// NACK with `requeue:false`: drop or dead-letter it.
    Discard,
}

/// What becomes of a message that its client did not acknowledge in time (`redeliver-then`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GiveUp {
    /// As with [`Verdict::Requeue`].
    Requeue,
    /// As with [`Verdict::Discard`].
    Discard,
    /// It stays unacknowledged. Its client may still acknowledge it, and gets it at its next login
    /// otherwise.
    Later,
}
