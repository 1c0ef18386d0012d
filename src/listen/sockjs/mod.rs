//! SockJS as a way in: the crate `sockjs-server` is the transport; here are its configuration, and
//! the bridge by which its sessions are [`Link`]s.
//!
//! The crate knows neither STOMP nor this gateway. Each of its channels, [`WebSocketLink`] among
//! them, is a link; the room of a node's clients is its budget.
//!
//! [`WebSocketLink`]: super::WebSocketLink

mod config;

use std::{
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use sockjs_server::{Budget, Channel, ChannelError, Payload};
use stomp_session::CloseCode;

pub use config::SockjsConfig;

use crate::{
    connection::{FREE, Link, LinkError, Outbound, Unfinished},
    node::{Account, Claim, Ticket},
};

impl<C: Channel> Link for C {
    fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, LinkError>> {
        Channel::poll_receive(self, context).map_err(LinkError::from)
    }

    fn was_heard(&mut self) -> bool {
        Channel::was_heard(self)
    }

    fn bytes_read(&mut self) -> Option<usize> {
        Channel::bytes_read(self)
    }

    fn unfinished(&self) -> Unfinished {
        let unfinished = Channel::unfinished(self);
        Unfinished {
            received: unfinished.received,
            most: unfinished.most,
        }
    }

    fn go_on(&mut self) {
        Channel::go_on(self);
    }

    fn count_for(&mut self, account: &dyn Fn() -> Option<Arc<Account>>) {
        Channel::set_budget(self, &|| {
            account().map(|account| account as Arc<dyn Budget>)
        });
    }

    fn has_pings(&self) -> bool {
        Channel::has_pings(self)
    }

    fn ping(&mut self) {
        Channel::ping(self);
    }

    fn was_answered(&mut self) -> bool {
        Channel::was_answered(self)
    }

    fn send(&mut self, frame: Outbound<'_>) {
        Channel::send(
            self,
            Payload {
                head: frame.head,
                tail: frame.tail,
                is_text: frame.is_text,
            },
        );
    }

    fn takes_text_only(&self) -> bool {
        self.is_text_only()
    }

    fn pending(&self) -> usize {
        Channel::pending(self)
    }

    fn was_written(&mut self) -> bool {
        Channel::was_written(self)
    }

    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        Channel::poll_flush(self, context).map_err(LinkError::from)
    }

    fn poll_close(&mut self, context: &mut Context<'_>, code: CloseCode) -> Poll<()> {
        Channel::poll_close(self, context, code.code(), code.reason())
    }

    fn set_max_frame_size(&mut self, size: usize) {
        self.set_max_message_size(size);
    }
}

impl From<ChannelError> for LinkError {
    fn from(error: ChannelError) -> Self {
        match error {
            ChannelError::Io(error) => Self::Io(error),
            ChannelError::TooLong { limit } => Self::TooBig { limit },
            ChannelError::NotUtf8 => Self::NotUtf8,
            ChannelError::Violation(text) => Self::Violation(text),
            other => Self::Violation(other.to_string().into()),
        }
    }
}

impl Budget for Account {
    fn free(&self) -> usize {
        FREE
    }

    fn claim(self: Arc<Self>) -> Box<dyn sockjs_server::Claim> {
        Box::new(RequestClaim {
            claim: Account::claim(&self, 0),
            account: self,
            ticket: Ticket::default(),
        })
    }
}

/// The claim of one request's body, which grows as its bytes come.
struct RequestClaim {
    account: Arc<Account>,
    claim: Claim,
    ticket: Ticket,
}

impl sockjs_server::Claim for RequestClaim {
    fn bytes(&self) -> usize {
        self.claim.bytes()
    }

    fn poll_grow(&mut self, bytes: usize, context: &mut Context<'_>) -> Poll<()> {
        let Self { claim, ticket, .. } = self;
        let more = self
            .account
            .poll_more(claim.bytes(), bytes, ticket, context);
        claim.join(ready!(more));
        Poll::Ready(())
    }

    fn is_in_the_way(&self) -> bool {
        self.account.is_in_the_way()
    }

    fn attach(&mut self, message: Bytes) -> Bytes {
        self.claim.split(message.len()).around(message)
    }
}
