//! Channels for one call. There are only so many at a time: a caller that asks for much at once waits
//! for a turn, instead of taking all channels of the connection.

use std::{ops::Deref, time::Duration};

use lapin::Channel;
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, watch},
};

use super::{channels::settle, link::unless_lost};
use crate::{background, deadline::after};

/// A channel for one call.
pub(super) struct Passing {
    channel: Channel,
    turn: Option<OwnedSemaphorePermit>,
    /// Ends with the connection.
    lifetime: watch::Receiver<bool>,
}

impl Passing {
    pub(super) fn new(
        channel: Channel,
        turn: OwnedSemaphorePermit,
        lifetime: watch::Receiver<bool>,
    ) -> Self {
        Self {
            channel,
            turn: Some(turn),
            lifetime,
        }
    }
}

impl Deref for Passing {
    type Target = Channel;

    fn deref(&self) -> &Channel {
        &self.channel
    }
}

/// The turn is over when the channel's number is free again: when the broker has answered to its end.
/// The end comes behind the call, which may hang.
impl Drop for Passing {
    fn drop(&mut self) {
        let status = self.channel.status();
        let is_over = !status.connected() && !status.closing();
        if is_over || Handle::try_current().is_err() {
            return;
        }
        let (channel, turn) = (self.channel.clone(), self.turn.take());
        let lifetime = self.lifetime.clone();
        background::spawn(async move {
            let closing = async { Ok(settle(&channel, after(Duration::MAX)).await) };
            // Either way it is over.
            let _ = unless_lost(&lifetime, closing).await;
            drop(turn);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::amqp::{link::AmqpLink, stub::Stub};

    /// As RabbitMQ leaves them if the queue hangs that the call was about.
    #[tokio::test]
    async fn a_channel_whose_end_is_not_answered_keeps_its_turn() {
        let stub = Stub::start(8, false).await;
        let link = AmqpLink::start(stub.config());
        let live = link.wait().await;
        // A quarter of eight.
        for _ in 0..2 {
            let passing = live.passing(after(Duration::from_secs(10))).await;
            drop(passing.unwrap());
        }
        let third = live.passing(after(Duration::from_millis(200))).await;
        assert!(third.is_err(), "its number is not free");
    }

    #[tokio::test]
    async fn a_channel_whose_end_is_answered_gives_its_turn_to_another() {
        let stub = Stub::start(8, true).await;
        let link = AmqpLink::start(stub.config());
        let live = link.wait().await;
        for _ in 0..20 {
            let passing = live.passing(after(Duration::from_secs(10))).await;
            drop(passing.unwrap());
        }
    }
}
