//! The machine itself.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use stomp_grammar::{DecodeError, Frame, Version};

use crate::{Action, OperationId, Outcome, Problem, SubscriptionId};

/// How sessions behave; shared by all of a server's.
#[derive(Clone, Debug)]
pub struct Config {
    /// The `server` header of CONNECTED; `None` hides it.
    pub server: Option<Box<str>>,
    /// How long a client may take from the transport's opening to a complete login.
    pub login_timeout: Duration,
    /// The shortest interval at which this server will send heart-beats; zero: it sends none.
    pub heartbeat_send: Duration,
    /// The interval at which this server wishes to hear the client; zero: it does not care.
    pub heartbeat_receive: Duration,
    /// How many intervals a client may miss: background tabs throttle their timers.
    pub heartbeat_tolerance: u32,
    /// How long a client may take to close after its DISCONNECT was answered.
    pub disconnect_linger: Duration,
    /// Subscriptions open at once.
    pub max_subscriptions: usize,
    /// Transactions open at once.
    pub max_transactions: usize,
    /// Frames in one transaction.
    pub max_transaction_frames: usize,
    /// Bytes (headers and bodies) in all open transactions together.
    pub max_transaction_bytes: usize,
    /// Operations begun and not done; at this number [`Session::wants_frame`] says no.
    pub max_pending: usize,
    /// What a NACK without a `requeue` header means.
    pub nack_requeue: bool,
}

/// A message for a subscription. `tail` is the rest of the MESSAGE frame, encoded for
/// [`Session::version`]: the headers that all receivers share, the empty line, the body, NUL.
#[derive(Clone, Copy)]
pub struct Delivery<'a> {
    /// Whose.
    pub subscription: SubscriptionId,
    /// What [`crate::Settle::tag`] will call it. Tags of one subscription only grow.
    pub tag: u64,
    /// Whether somebody may have seen it before.
    pub redelivered: bool,
    /// The shared rest of the frame.
    pub tail: &'a [u8],
}

/// What [`Session::handle_delivery`] did with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// The frame was appended, and the client will not speak of it again (`ack:auto`).
    Done,
    /// The frame was appended; a [`crate::Settle`] for it may follow.
    AwaitingAck,
    /// Nothing was appended: the subscription or the session is over.
    Refused,
}

/// One client's side of the protocol.
pub struct Session {
    // private
}

impl Session {
    /// A session whose transport has just opened. `id` is the `session` header of CONNECTED:
    /// unique, and not to be guessed.
    pub fn new(config: Arc<Config>, id: Box<str>, now: Instant) -> Self {
        todo!()
    }

    /// The `session` header.
    pub fn id(&self) -> &str {
        todo!()
    }

    /// The version negotiated; what frames are to be decoded and messages encoded for. Known as
    /// soon as `handle_frame` took the CONNECT.
    pub fn version(&self) -> Version {
        todo!()
    }

    /// Whether CONNECTED was sent and nothing ended the session since.
    pub fn is_connected(&self) -> bool {
        todo!()
    }

    /// Whether the next frame may be handed in now. Otherwise the surroundings keep it (and stop
    /// reading the transport) until some operation is done.
    pub fn wants_frame(&self) -> bool {
        todo!()
    }

    /// Bytes arrived from the client, whatever they are: it lives.
    pub fn handle_activity(&mut self, now: Instant) {
        todo!()
    }

    /// The client's next frame.
    pub fn handle_frame(&mut self, now: Instant, frame: Frame) {
        todo!()
    }

    /// The client's bytes cannot be read on.
    pub fn handle_decode_error(&mut self, now: Instant, error: DecodeError) {
        todo!()
    }

    /// The answer to [`Action::Authenticate`].
    pub fn handle_authenticated(&mut self, now: Instant, outcome: Outcome) {
        todo!()
    }

    /// The answer to the action of that name, in any order among operations.
    pub fn handle_done(&mut self, now: Instant, operation: OperationId, outcome: Outcome) {
        todo!()
    }

    /// A message for a subscription: appends the whole MESSAGE frame to `out`.
    pub fn handle_delivery(
        &mut self,
        now: Instant,
        delivery: Delivery<'_>,
        out: &mut Vec<u8>,
    ) -> Delivered {
        todo!()
    }

    /// Something outside the protocol ends the session: ERROR, then close.
    pub fn handle_problem(&mut self, now: Instant, problem: Problem) {
        todo!()
    }

    /// The time that [`Session::poll_timeout`] asked for has come (earlier calls do no harm).
    pub fn handle_timeout(&mut self, now: Instant) {
        todo!()
    }

    /// The next thing to do; call until `None` after each `handle_*`.
    pub fn poll_action(&mut self) -> Option<Action> {
        todo!()
    }

    /// When to call [`Session::handle_timeout`], if nothing else happens before.
    pub fn poll_timeout(&self) -> Option<Instant> {
        todo!()
    }
}
