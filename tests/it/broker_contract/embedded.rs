//! The embedded broker under the contract.

use std::sync::Arc;

use stentor::broker::{Broker as _, FeedSink, VirtualHost, embedded::Embedded};

use super::Fixture;

pub(crate) struct InMemory(Embedded);

impl Fixture for InMemory {
    async fn start() -> Self {
        Self(Embedded::new([]))
    }

    async fn open(&self, feeds: Arc<dyn FeedSink>) -> Arc<dyn VirtualHost> {
        self.0.open("/", feeds)
    }
}

super::contract!(contract, crate::broker_contract::embedded::InMemory);
