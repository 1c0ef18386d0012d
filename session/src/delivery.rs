//! A message on its way to the client.

use crate::SubscriptionId;

/// A message for a subscription. What all its receivers share is the surroundings' to write: the
/// tail of the MESSAGE frame, from the header `destination` on.
#[derive(Clone, Copy, Debug)]
pub struct Delivery {
    /// Whose.
    pub subscription: SubscriptionId,
    /// What [`crate::Settle::tag`] will call it. Tags of one subscription only grow.
    pub tag: u64,
    /// Whether somebody may have seen it before.
    pub redelivered: bool,
}

/// What [`crate::Session::handle_delivery`] did with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// The head was appended, and the client will not speak of it again (`ack:auto`).
    Done,
    /// The head was appended; a [`crate::Settle`] for it may follow. The session keeps 16
    /// bytes for it until then; how many there may be is for the surroundings to bound.
    AwaitingAck,
    /// Nothing was appended: the subscription or the session is over.
    Refused,
}
