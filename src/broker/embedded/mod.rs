//! A broker in memory: exchanges, queues, bindings, acknowledgements, requeueing, dead letters.
//!
//! It ends with the process. It holds the same contract as RabbitMQ; the demo and fast tests run
//! on it.
//!
//! Every call does its work before it returns, on the caller's thread; the futures that the
//! traits ask for are ready at once. Sinks are called on the thread that published or settled,
//! with no lock held, so that they may call the broker again: `Handover` keeps their messages
//! in order all the same.
//!
//! Locks are taken in this order, and only some of them at a time: a link's feeds; the map of
//! queues or an exchange's table; a queue's state; a handover's. Publishing reads the exchange's table, lets
//! go of it, and then locks one queue after the other.
//!
//! Differences from RabbitMQ: a message whose time is up goes (to its dead-letter exchange) when
//! it comes to the queue's head and a consumer could take it, or room is needed; a queue has a
//! bound in bytes, beyond which it drops its oldest messages if it is one that drops any, and else
//! refuses new ones; headers exchanges, `x-expires`, priorities of messages, quorum queues and
//! streams are missing, and are refused.

mod consumer;
mod dead;
mod feed;
mod handover;
mod host;
mod link;
mod policy;
mod queue;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::Mutex;

use super::{Broker, ExchangeKind, FeedSink, VirtualHost};
use host::Host;
use link::EmbeddedVhost;

/// Exchanges that are there from the start, as in RabbitMQ; the default one (`""`) is too.
const PREDECLARED: [(&str, ExchangeKind); 3] = [
    ("amq.direct", ExchangeKind::Direct),
    ("amq.fanout", ExchangeKind::Fanout),
    ("amq.topic", ExchangeKind::Topic),
];

/// A broker in memory. Virtual hosts come into being when they are first opened, and stay; links
/// that open the same name share the virtual host.
#[derive(Debug)]
pub struct Embedded {
    exchanges: Vec<(Box<str>, ExchangeKind)>,
    queue_bytes: usize,
    hosts: Mutex<HashMap<Box<str>, Arc<Host>>>,
}

impl Embedded {
    /// The default bound of one queue: 64 MiB.
    pub const QUEUE_BYTES: usize = 64 << 20;

    /// A broker whose virtual hosts have these exchanges, besides RabbitMQ's `amq.direct`,
    /// `amq.fanout` and `amq.topic`. [`ExchangeKind::Other`] is not to be had: such an exchange
    /// is left out.
    #[must_use]
    pub fn new(exchanges: impl IntoIterator<Item = (Box<str>, ExchangeKind)>) -> Self {
        let predeclared = PREDECLARED.map(|(name, kind)| (name.into(), kind));
        Self {
            exchanges: predeclared
                .into_iter()
                .chain(exchanges)
                .filter(|(name, kind)| !name.is_empty() && *kind != ExchangeKind::Other)
                .collect(),
            queue_bytes: Self::QUEUE_BYTES,
            hosts: Mutex::default(),
        }
    }

    /// The broker with another bound for each queue, unsettled messages included, and for what
    /// waits for a feed's sink; in bytes. A message over it is refused
    /// ([`super::BrokerError::Nacked`]).
    #[must_use]
    pub fn with_queue_bytes(mut self, bytes: usize) -> Self {
        self.queue_bytes = bytes;
        self
    }
}

impl Broker for Embedded {
    fn open(&self, vhost: &str, feeds: Arc<dyn FeedSink>) -> Arc<dyn VirtualHost> {
        let host = Arc::clone(
            self.hosts
                .lock()
                .entry(vhost.into())
                .or_insert_with(|| Arc::new(Host::new(vhost, &self.exchanges, self.queue_bytes))),
        );
        Arc::new(EmbeddedVhost::new(host, feeds))
    }
}
