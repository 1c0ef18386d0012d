//! How fast a connection may send: frames and bytes a second.

use tokio::time::Instant;

use super::{Limits, TooFast, bucket::Rate};
use crate::telemetry::Bound;

/// Bytes are counted in steps of so many: a nanosecond is too long for one.
const STEP: usize = 64;

/// Something that a connection may do so often a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// SEND.
    Messages,
    /// Whatever it sends.
    Bytes,
    /// SUBSCRIBE.
    Subscribes,
    /// The same of all connections of its user.
    UserSubscribes,
}

impl Pace {
    /// In how many tokens bytes count.
    #[must_use]
    pub fn steps(bytes: usize) -> u32 {
        u32::try_from(bytes.div_ceil(STEP)).unwrap_or(u32::MAX)
    }

    /// The words for a client.
    #[must_use]
    pub fn what(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::Bytes => "bytes",
            Self::Subscribes | Self::UserSubscribes => "SUBSCRIBE frames",
        }
    }

    /// The words for the operator.
    #[must_use]
    pub fn bound(self) -> Bound {
        match self {
            Self::Messages => Bound::Messages,
            Self::Bytes => Bound::Bytes,
            Self::Subscribes => Bound::Subscribes,
            Self::UserSubscribes => Bound::UserSubscribes,
        }
    }
}

/// The rates of a node's connections.
#[derive(Debug)]
pub struct Paces {
    messages: Option<Rate>,
    bytes: Option<Rate>,
    subscribes: Option<Rate>,
    user_subscribes: Option<Rate>,
    /// Done about a client that is faster.
    pub too_fast: TooFast,
}

impl Paces {
    /// As the configuration says; buckets count from `since`.
    #[must_use]
    pub fn new(limits: &Limits, since: Instant) -> Self {
        let rate = |number| Rate::per_second(number, since);
        Self {
            messages: rate(limits.max_messages_per_second),
            bytes: rate(Pace::steps(limits.max_bytes_per_second)),
            subscribes: rate(limits.max_subscribes_per_second),
            user_subscribes: rate(limits.max_user_subscribes_per_second),
            too_fast: limits.too_fast,
        }
    }

    /// How often; `None`: no bound.
    #[must_use]
    pub fn rate(&self, pace: Pace) -> Option<&Rate> {
        match pace {
            Pace::Messages => self.messages.as_ref(),
            Pace::Bytes => self.bytes.as_ref(),
            Pace::Subscribes => self.subscribes.as_ref(),
            Pace::UserSubscribes => self.user_subscribes.as_ref(),
        }
    }
}
