//! Messages that a client sends to itself: its RECEIPT waits for its MESSAGE.
//!
//! Over a shared feed a message comes back by another way than its confirm, and either may be
//! first. With RabbitMQ's plug-in the MESSAGE is, and clients that leave on the RECEIPT rely on
//! it. So where a SEND with a receipt goes to a key that its own connection is subscribed to on a
//! feed, its confirm counts when the message was written, or after [`PATIENCE`]: the message may be
//! dropped on its way (a full mailbox, a time limit), and nobody says so.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;
use stomp_session::{OperationId, SubscriptionId};
use tokio::sync::oneshot;

use crate::broker::{Message, Publish, USER_HEADER};

/// How long a RECEIPT waits for the MESSAGE after the broker's confirm.
const PATIENCE: Duration = Duration::from_millis(200);

/// Messages that a connection sent and expects to get itself. Few connections expect any.
#[derive(Default)]
pub(super) struct Echoes(Vec<Echo>);

struct Echo {
    operation: OperationId,
    exchange: Box<str>,
    routing_key: Box<str>,
    user: Option<Box<str>>,
    body: Bytes,
    /// The subscriptions by which it has not come yet.
    awaited: Vec<SubscriptionId>,
    /// Dropped with this.
    _heard: oneshot::Sender<()>,
    hearing: Option<oneshot::Receiver<()>>,
}

impl Echoes {
    /// A message that the operation publishes is to come by these subscriptions.
    pub(super) fn expect(
        &mut self,
        operation: OperationId,
        publish: &Publish,
        awaited: Vec<SubscriptionId>,
    ) {
        let (heard, hearing) = oneshot::channel();
        self.0.push(Echo {
            operation,
            exchange: publish.exchange.clone(),
            routing_key: publish.routing_key.clone(),
            user: sender(&publish.properties.headers).map(Box::from),
            body: publish.body.clone(),
            awaited,
            _heard: heard,
            hearing: Some(hearing),
        });
    }

    /// A message is written. Equal ones come in the order in which they were sent.
    pub(super) fn heard(&mut self, subscription: SubscriptionId, message: &Arc<Message>) {
        let found = self.0.iter_mut().enumerate().find_map(|(index, echo)| {
            let place = echo.awaited.iter().position(|id| *id == subscription)?;
            let is_it = echo.body == message.body
                && echo.routing_key == message.routing_key
                && echo.exchange == message.exchange
                && echo.user.as_deref() == sender(&message.properties.headers);
            is_it.then(|| {
                echo.awaited.swap_remove(place);
                (index, echo.awaited.is_empty())
            })
        });
        if let Some((index, true)) = found {
            self.0.remove(index);
        }
    }

    /// No message comes by that subscription from now on.
    pub(super) fn unsubscribed(&mut self, subscription: SubscriptionId) {
        self.0.retain_mut(|echo| {
            echo.awaited.retain(|id| *id != subscription);
            !echo.awaited.is_empty()
        });
    }

    /// The operation is over.
    pub(super) fn forget(&mut self, operation: OperationId) {
        self.0.retain(|echo| echo.operation != operation);
    }

    /// Ready when all messages of the operation were written, or not soon enough. The time counts
    /// from when this is polled first.
    pub(super) fn wait(
        &mut self,
        operation: OperationId,
    ) -> Option<impl Future<Output = ()> + Send + use<>> {
        let echoes = self.0.iter_mut().filter(|echo| echo.operation == operation);
        let hearing: Vec<_> = echoes.filter_map(|echo| echo.hearing.take()).collect();
        (!hearing.is_empty()).then_some(async move {
            let _ = tokio::time::timeout(PATIENCE, join_all(hearing)).await;
        })
    }
}

fn sender(headers: &[(Box<str>, Box<str>)]) -> Option<&str> {
    let mut headers = headers.iter();
    headers
        .find(|(name, _)| **name == *USER_HEADER)
        .map(|(_, value)| &**value)
}
