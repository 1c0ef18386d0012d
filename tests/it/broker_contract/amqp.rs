//! RabbitMQ under the contract.

use std::sync::Arc;

use stentor::broker::{
    Broker as _, Config, FeedConfig, FeedSink, Url, VirtualHost, amqp::AmqpBroker,
};
use testkit::{DEADLINE, RabbitMq, Vhost, eventually};

use super::Fixture;

pub(crate) struct Rabbit {
    node: Arc<RabbitMq>,
    vhost: Vhost,
}

impl Fixture for Rabbit {
    async fn start() -> Self {
        let node = RabbitMq::shared().await;
        let vhost = node.vhost_of_classic_queues().await;
        Self { node, vhost }
    }

    async fn open(&self, feeds: Arc<dyn FeedSink>) -> Arc<dyn VirtualHost> {
        let url = format!("amqp://guest:guest@{}", self.node.amqp_address());
        let Url::Amqp(url) = url.parse().unwrap() else {
            panic!("{url}")
        };
        let node = format!("test.{:08x}", rand::random::<u32>());
        let broker = AmqpBroker::new(&[url], Config::default(), FeedConfig::default(), &node);
        let vhost = broker.unwrap().open(self.vhost.name(), feeds);
        eventually(DEADLINE, "a link", async || vhost.health().is_ok()).await;
        vhost
    }
}

super::contract!(contract, crate::broker_contract::amqp::Rabbit);
