//! A message on its way to the client.

use std::fmt;

use crate::SubscriptionId;

/// A message for a subscription. `tail` is the rest of the MESSAGE frame, encoded for
/// [`crate::Session::version`]: the headers that all receivers share (`destination` among them), the
/// empty line, the body, NUL.
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

/// Messages can hold secrets, so the tail is not shown.
impl fmt::Debug for Delivery<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("subscription", &self.subscription)
            .field("tag", &self.tag)
            .field("redelivered", &self.redelivered)
            .field("tail_len", &self.tail.len())
            .finish()
    }
}

/// What [`crate::Session::handle_delivery`] did with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// The frame was appended, and the client will not speak of it again (`ack:auto`).
    Done,
    /// The frame was appended; a [`crate::Settle`] for it may follow. The session keeps 16
    /// bytes for it until then; how many there may be is for the surroundings to bound.
    AwaitingAck,
    /// Nothing was appended: the subscription or the session is over.
    Refused,
}
