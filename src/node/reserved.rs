//! Names that only the gateway may use, whatever a hook or a token allows.

use super::services::Services;
use crate::{
    auth::{Access, Permission, ResourceKind},
    broker::{FEED_QUEUES, journal::STREAMS, own_queues},
};

impl Services {
    /// Whether only the gateway has this access. A queue of a durable subscription is reserved as
    /// the goal of a message: it is filled by its binding. Which subscription may use it, is said
    /// where its name is made ([`is_foreign`](crate::connection)).
    #[must_use]
    pub fn reserves(&self, access: &Access) -> bool {
        match access {
            Access::Vhost { .. } => false,
            Access::Resource {
                kind: ResourceKind::Exchange,
                name,
                permission,
                ..
            } => self.reserves_exchange(name, *permission),
            Access::Resource {
                kind: ResourceKind::Queue,
                name,
                ..
            } => reserves_queue(name),
            Access::Topic {
                exchange,
                routing_key,
                ..
            } => {
                let is_default = exchange.is_empty();
                is_default && own_queues::is_durable_subscription(routing_key)
                    || self.reserves_key(exchange, routing_key)
            }
        }
    }

    /// Whether the exchange is the one by which nodes are told to end sessions; or, unless it is
    /// only read, the one of presence events or of messages for those who are away: their readers
    /// trust that the gateway sent them.
    #[must_use]
    pub fn reserves_exchange(&self, name: &str, permission: Permission) -> bool {
        let told = [&self.events_exchange, &self.offline_exchange];
        let is_told = told.iter().any(|one| one.as_deref() == Some(name));
        let is_event = is_told && permission != Permission::Read;
        // What nobody was subscribed to is for everybody's eyes as little as feeds' queues.
        is_event || name.starts_with(FEED_QUEUES) || self.control.is_reserved(name)
    }

    /// Whether a message would go to a queue of the gateway: the default exchange brings it to the
    /// queue of its key's name.
    #[must_use]
    pub fn reserves_key(&self, exchange: &str, routing_key: &str) -> bool {
        exchange.is_empty() && reserves_queue(routing_key)
    }
}

/// The queues that feeds are read from, and the streams of journals.
fn reserves_queue(name: &str) -> bool {
    name.starts_with(FEED_QUEUES) || name.starts_with(STREAMS)
}
