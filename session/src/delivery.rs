//! A message on its way to the client.

use crate::SubscriptionId;

/// A message for a subscription. The surroundings write the part that all its receivers share: the
/// tail of the MESSAGE frame, from the header `destination` on.
#[derive(Clone, Copy, Debug)]
pub struct Delivery {
    /// The subscription.
    pub subscription: SubscriptionId,
    /// The tag that [`crate::Settle::tag`] will carry. Tags of one subscription only grow.
    pub tag: u64,
    /// Whether somebody may have seen it before.
    pub redelivered: bool,
}

/// The outcome of [`crate::Session::handle_delivery`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// The head was appended, and the client will not acknowledge it (`ack:auto`).
    Done,
    /// The head was appended; a [`crate::Settle`] for it may follow. The session keeps 16
    /// bytes for it until then; the surroundings bound their number.
    AwaitingAck,
    /// As [`Delivered::AwaitingAck`]; and the surroundings keep the message, for
    /// [`crate::Session::poll_again`] may name it, until it is settled, its subscription ends, or
    /// [`crate::Action::GiveUp`] names it.
    Kept,
    /// Nothing was appended: the subscription or the session is over.
    Refused,
}
