//! What a connection does, for an operator who asks. The task tells it, so nothing is kept for it
//! where others could look.

use std::time::Duration;

use stomp_session::AckMode;

use super::{Connection, link::Link};
use crate::node::{SessionDetails, SubscriptionDetails};

impl<L: Link> Connection<L> {
    /// Tells all who ask.
    pub(super) fn describe(&self) {
        let guard = &self.context.guard;
        let (waiting_messages, waiting_bytes) = guard.mailbox().waiting();
        let running = self.context.services.started().elapsed();
        let routes = self.operations.routes();
        let subscriptions = self.session.open_subscriptions().filter_map(|open| {
            Some(SubscriptionDetails {
                name: open.name.into(),
                // One that is being opened is not served yet.
                source: routes.source(open.subscription)?,
                ack: match open.ack {
                    AckMode::Auto => "auto",
                    AckMode::Client => "client",
                    AckMode::ClientIndividual => "client-individual",
                },
                messages: open.messages,
                unacknowledged: open.unacknowledged,
            })
        });
        guard.answer(&SessionDetails {
            version: self.session.version().as_str(),
            open_for: running.saturating_sub(Duration::from_nanos(self.opened)),
            frames_in: self.reader.frames.into(),
            frames_out: self.writer.frames.into(),
            messages_in: self.reader.messages.into(),
            messages_out: self.writer.messages.into(),
            waiting_messages,
            waiting_bytes,
            unwritten_bytes: self.link.pending(),
            pending: self.session.pending(),
            subscriptions: subscriptions.collect(),
        });
    }
}
