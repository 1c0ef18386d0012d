//! RabbitMQ: by lapin, save for the messages of feeds.
//!
//! Each virtual host has its links: one for topology and the feeds' bindings, one for publishing
//! (RabbitMQ stops reading a connection that publishes when it is short of memory or disk, and
//! acknowledgements must not wait behind that), and as many as needed for dedicated consumers.
//! The feeds' messages come by `reader`s, one for each shard. What the broker may answer by closing
//! a connection goes by one that nobody else is on: `declarer`. `lookout` sees to it that all of them
//! leave a node that is cut off from its cluster.

mod account;
mod channels;
mod consumer;
mod consumer_links;
mod convert;
mod cut;
mod declarer;
mod exclusive;
mod feed;
mod handed;
mod hosts;
pub mod inspect;
mod lines;
mod link;
mod lookout;
mod outages;
mod passing;
mod publisher;
mod quarantine;
mod reader;
mod silence;
mod stream;
#[cfg(test)]
mod stub;
mod topology;
mod whole;
mod wire;

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock, atomic::AtomicU64},
};

use futures_util::{FutureExt, future::BoxFuture};
use lapin::uri::AMQPUri;
use tokio::time::{Duration, Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use self::{
    account::Account,
    consumer::Dedicated,
    consumer_links::ConsumerLinks,
    declarer::Declarer,
    exclusive::ExclusiveQueues,
    feed::{FeedManager, QueueNames, Way},
    hosts::{Host, Hosts},
    lines::Lines,
    link::{AmqpLink, LinkConfig, Live},
    outages::Outages,
    publisher::{Publisher, PublisherConfig},
    topology::Topology,
    whole::Beside,
};
use super::{
    Broker, BrokerError, Config, Confirm, Consume, Consumer, DeliverySink, ExchangeKind,
    FEED_QUEUES, FeedConfig, FeedId, FeedSink, JournalAsk, JournalConfig, JournalPart, Publish,
    QueueSpec, VirtualHost,
};
use crate::{background, deadline::after, secret_url::SecretUrl};

/// The largest frame that the gateway agrees to, in bytes: RabbitMQ's own default. Headers fill one
/// frame at most, and the memory and the stack for reading them is made for this.
const FRAME_MAX: u32 = 128 * 1024;

/// RabbitMQ as the broker.
pub struct AmqpBroker {
    config: Config,
    /// The gateway's own exchanges, beside those of the configuration: in the default virtual host.
    default_exchanges: BTreeMap<Box<str>, ExchangeKind>,
    feed: FeedConfig,
    journal: JournalConfig,
    uri: AMQPUri,
    account: Arc<Account>,
    hosts: Arc<Hosts>,
    node: Box<str>,
    /// Numbers for the names of queues.
    numbers: Arc<AtomicU64>,
    outages: Arc<Outages>,
    /// Look for new tokens, if the account has any, and out for nodes that are cut off.
    keepers: OnceLock<[AbortOnDropHandle<()>; 2]>,
}

impl AmqpBroker {
    /// A broker at `urls`, which are those of one cluster, with one account; the first says which, or
    /// `config` beside it. `node` names this node's connections and queues, and must be another one each time the
    /// process starts.
    ///
    /// # Errors
    /// There is no URL, or the first is none for AMQP, or names no account; the key and why.
    pub fn new(
        urls: &[SecretUrl],
        config: Config,
        feed: FeedConfig,
        node: &str,
    ) -> Result<Self, String> {
        let first = urls.first().ok_or("[broker] url is missing")?;
        let uri: Result<AMQPUri, String> = first.reveal().parse();
        let mut uri = uri.map_err(|fault| format!("[broker] url {fault}"))?;
        let account = Arc::new(Account::new(&config, first, &uri)?);
        let port = uri.scheme.default_port();
        let hosts = urls.iter().map(|url| Host {
            name: url.host().into(),
            port: url.port().unwrap_or(port),
        });
        let hosts = Arc::new(Hosts::new(hosts.collect()));
        let heartbeat = config.heartbeat.as_secs().clamp(1, u64::from(u16::MAX));
        uri.query.heartbeat = u16::try_from(heartbeat).ok();
        uri.query.frame_max = Some(FRAME_MAX);
        Ok(Self {
            config,
            default_exchanges: BTreeMap::new(),
            feed,
            journal: JournalConfig::default(),
            uri,
            account,
            hosts,
            node: node.into(),
            numbers: Arc::default(),
            outages: Arc::default(),
            keepers: OnceLock::new(),
        })
    }
}

impl AmqpBroker {
    /// The same, with journals.
    #[must_use]
    pub fn with_journal(self, journal: JournalConfig) -> Self {
        Self { journal, ..self }
    }

    /// The same, with these exchanges in the default virtual host, besides those of the
    /// configuration, which are in all.
    #[must_use]
    pub fn with_default_exchanges(self, exchanges: BTreeMap<Box<str>, ExchangeKind>) -> Self {
        Self {
            default_exchanges: exchanges,
            ..self
        }
    }

    /// The exchanges of a virtual host whose types are known beforehand. A name that is the gateway's
    /// own elsewhere may be another application's here, and of any type.
    fn exchanges(&self, vhost: &str) -> BTreeMap<Box<str>, ExchangeKind> {
        let mut exchanges = self.config.exchanges.clone();
        if vhost == self.config.default_vhost {
            exchanges.extend(self.default_exchanges.clone());
        }
        exchanges
    }

    /// How links to a virtual host are made.
    fn links(&self, vhost: &str) -> LinkConfig {
        LinkConfig {
            uri: AMQPUri {
                vhost: vhost.into(),
                ..self.uri.clone()
            },
            account: Arc::clone(&self.account),
            hosts: Arc::clone(&self.hosts),
            node: self.node.clone(),
            purpose: Box::default(),
            connection_timeout: self.config.connection_timeout,
            reconnect: (self.config.reconnect_min, self.config.reconnect_max),
            unready_after: self.config.unready_after,
            connections: Arc::default(),
            outages: Arc::clone(&self.outages),
            is_trial: false,
            quarantine: Arc::default(),
        }
    }
}

impl Broker for AmqpBroker {
    fn open(&self, vhost: &str, feeds: Arc<dyn FeedSink>) -> Arc<dyn VirtualHost> {
        let links = self.links(vhost);
        let link_config = |purpose: &str| links.with_purpose(purpose);
        // By the first virtual host, which is the default one.
        self.keepers.get_or_init(|| {
            let tokens = background::spawn(account::keep(link_config("trial of a token")));
            let nodes = background::spawn(lookout::keep(link_config("lookout")));
            [tokens, nodes].map(AbortOnDropHandle::new)
        });
        let operation_timeout = self.config.operation_timeout;
        let feed_link = Arc::new(AmqpLink::start(link_config("bindings of feeds")));
        let publish_link = Arc::new(AmqpLink::start(link_config("publishing")));
        let publisher_config = PublisherConfig {
            lanes: usize::from(self.config.publish_channels),
            max_pending: self.config.max_pending_publishes,
            max_message_size: self.config.max_message_size,
            operation_timeout,
        };
        let whole = self.feed.whole.iter().map(String::as_str);
        let whole = whole.filter(|exchange| self.feed.reads_whole(exchange));
        let topology = Arc::new(Topology::new(self.exchanges(vhost), whole.map(Box::from)));
        let declarer = Arc::new(Declarer::new(link_config("trial of queues"), &self.node));
        Arc::new(AmqpVirtualHost {
            feeds: FeedManager::new(
                feed::Links {
                    bindings: Arc::clone(&feed_link),
                    publish: Arc::clone(&publish_link),
                },
                Arc::clone(&declarer),
                link_config("messages of feeds"),
                feeds,
                (self.feed.clone(), self.journal.clone()),
                operation_timeout,
                QueueNames {
                    prefix: format!("{FEED_QUEUES}{}", self.node).into(),
                    numbers: Arc::clone(&self.numbers),
                },
            ),
            publisher: Publisher::start(&publish_link, &topology, publisher_config),
            topology,
            declarer,
            feed_link,
            publish_link,
            consumer_links: Arc::new(ConsumerLinks::new(link_config("consumers of queues"))),
            exclusive_queues: Arc::new(ExclusiveQueues::new(vhost)),
            questions: Lines::new(MAX_QUESTIONS),
            vhost: vhost.into(),
            bridge: self.feed.bridge,
            operation_timeout,
        })
    }
}

/// Questions about one queue at a time, by the link by which all publish. If it hangs, each keeps a
/// channel there.
const MAX_QUESTIONS: usize = 8;

struct AmqpVirtualHost {
    topology: Arc<Topology>,
    declarer: Arc<Declarer>,
    feeds: FeedManager,
    publisher: Publisher,
    feed_link: Arc<AmqpLink>,
    publish_link: Arc<AmqpLink>,
    consumer_links: Arc<ConsumerLinks>,
    exclusive_queues: Arc<ExclusiveQueues>,
    /// Of callers that ask about a queue, for the link by which all publish.
    questions: Lines,
    /// Its name.
    vhost: Box<str>,
    /// Whether others may bind keys at exchanges that are read whole.
    bridge: bool,
    operation_timeout: Duration,
}

impl AmqpVirtualHost {
    fn deadline(&self) -> Instant {
        after(self.operation_timeout)
    }

    /// What a call says, with an exchange that turned out to be gone forgotten.
    fn note_missing<T>(
        &self,
        exchange: &str,
        outcome: Result<T, BrokerError>,
    ) -> Result<T, BrokerError> {
        if let Err(BrokerError::NotFound(_)) = &outcome {
            self.topology.forget(exchange);
        }
        outcome
    }

    /// Asks the broker about a queue; on a link of its own, if the queue is in quarantine.
    async fn ask<T, F: Future<Output = Result<T, BrokerError>>>(
        &self,
        queue: &str,
        deadline: Instant,
        asking: impl FnOnce(Arc<Live>) -> F,
    ) -> Result<T, BrokerError> {
        let live = self.publish_link.wait_until(deadline).await?;
        let Ok(_turn) = timeout_at(deadline, self.questions.turn(queue)).await else {
            let text = "too many calls wait for an answer about the queue";
            return Err(BrokerError::Unavailable(text.into()));
        };
        if let Some(trial) = self.consumer_links.trial(queue, deadline).await? {
            let answer = asking(Arc::clone(trial.live())).await;
            let ended = self.consumer_links.end(trial, answer);
            return ended.map(|(_, answer)| answer);
        }
        let asking = asking(Arc::clone(&live));
        live.asking(queue, asking).await
    }

    async fn delete(&self, queue: &str, if_empty: bool) -> Result<(), BrokerError> {
        let deadline = self.deadline();
        let deleting = |live: Arc<Live>| async move {
            topology::delete_queue(&live, queue, if_empty, deadline).await
        };
        self.ask(queue, deadline, deleting).await
    }

    /// How messages of the exchange come to feeds.
    fn way(&self, exchange: &str) -> Way {
        match self.topology.is_watchable(exchange) {
            true if self.topology.reads_whole(exchange) => Way::Whole,
            true => Way::WatchedBindings,
            false => Way::Bindings,
        }
    }

    /// Has a queue bound beside its exchange, if that is read whole: at the exchange it would keep
    /// messages from everybody else. The exchange and the key that it may be bound by from before.
    async fn bind_beside(
        &self,
        request: &mut Consume,
    ) -> Result<Option<(Box<str>, Box<str>)>, BrokerError> {
        let Some((exchange, key)) = &request.binding else {
            return Ok(None);
        };
        if !self.topology.reads_whole(exchange) {
            return Ok(None);
        }
        let deadline = self.deadline();
        let live = self.publish_link.wait_until(deadline).await?;
        if self.way(exchange) != Way::Whole
            && self.topology.kind(&live, exchange, deadline).await? != ExchangeKind::Direct
        {
            return Ok(None);
        }
        let beside = Beside::new(&self.vhost, exchange)?;
        beside.declare(&live, deadline).await?;
        let tried = beside.try_keys(&live, deadline).await;
        self.note_missing(exchange, tried).map_err(whole::told)?;
        if self.bridge {
            let channel = live.passing(deadline).await?;
            beside.bridge(&channel, key, deadline).await?;
        }
        let keys = Box::from(beside.keys.as_str());
        let key = key.clone();
        let before = request.binding.replace((keys, key));
        // One that is made for this subscription was never bound elsewhere.
        Ok(before.filter(|_| request.queue.durable && !request.queue.name.is_empty()))
    }
}

impl VirtualHost for AmqpVirtualHost {
    fn health(&self) -> Result<(), BrokerError> {
        self.feed_link.health()?;
        self.publish_link.health()?;
        self.feeds.health()
    }

    fn readiness(&self) -> Result<(), BrokerError> {
        self.feed_link.readiness()?;
        self.publish_link.readiness()?;
        self.feeds.readiness()?;
        self.consumer_links.readiness()
    }

    fn opened(&self) -> BoxFuture<'_, Result<(), BrokerError>> {
        self.feed_link.opened().boxed()
    }

    fn exchange_kind<'a>(
        &'a self,
        exchange: &'a str,
    ) -> BoxFuture<'a, Result<ExchangeKind, BrokerError>> {
        async move {
            let deadline = self.deadline();
            let live = self.feed_link.wait_until(deadline).await?;
            self.topology.kind(&live, exchange, deadline).await
        }
        .boxed()
    }

    fn bind_feed<'a>(
        &'a self,
        feed: &'a FeedId,
        pattern: &'a str,
    ) -> BoxFuture<'a, Result<(), BrokerError>> {
        async move {
            let way = self.way(&feed.exchange);
            let outcome = self.feeds.bind(feed, pattern, way).await;
            let Err(BrokerError::NotFound(text)) = &outcome else {
                return outcome;
            };
            self.feeds.exchange_gone(&feed.exchange, text);
            // One of the configuration is declared anew.
            self.topology.forget(&feed.exchange);
            let deadline = self.deadline();
            let live = self.feed_link.wait_until(deadline).await?;
            self.topology.check(&live, &feed.exchange, deadline).await?;
            let outcome = self.feeds.bind(feed, pattern, way).await;
            self.note_missing(&feed.exchange, outcome)
                .map_err(whole::told)
        }
        .boxed()
    }

    fn unbind_feed<'a>(
        &'a self,
        feed: &'a FeedId,
        pattern: &'a str,
    ) -> BoxFuture<'a, Result<(), BrokerError>> {
        self.feeds.unbind(feed, pattern).boxed()
    }

    fn end_feed(&self, feed: &FeedId) {
        self.feeds.end(feed);
    }

    fn read_journal<'a>(
        &'a self,
        exchange: &'a str,
        ask: JournalAsk,
    ) -> BoxFuture<'a, Result<JournalPart, BrokerError>> {
        self.feeds.read_journal(exchange, ask).boxed()
    }

    fn reach_journal<'a>(&'a self, feed: &'a FeedId) -> BoxFuture<'a, Result<(), BrokerError>> {
        self.feeds.reach_journal(feed).boxed()
    }

    fn consume(
        &self,
        mut request: Consume,
        sink: Arc<dyn DeliverySink>,
    ) -> BoxFuture<'_, Result<Arc<dyn Consumer>, BrokerError>> {
        let links = Arc::clone(&self.consumer_links);
        let owned = self.exclusive_queues.own(&request, || links.shared());
        let declarer = Arc::clone(&self.declarer);
        async move {
            let ownership = owned?;
            let timeout = self.operation_timeout;
            let before = self.bind_beside(&mut request).await?;
            let queue = request.queue.name.clone();
            let starting = Dedicated::start(links, ownership, declarer, request, sink, timeout);
            let consumer = starting.await?;
            if let Some((exchange, key)) = before {
                let deadline = self.deadline();
                let live = self.publish_link.wait_until(deadline).await?;
                topology::unbind_queue(&live, &queue, &exchange, &key, deadline).await?;
            }
            Ok(Arc::new(consumer) as Arc<dyn Consumer>)
        }
        .boxed()
    }

    fn declare_queue<'a>(&'a self, queue: &'a QueueSpec) -> BoxFuture<'a, Result<(), BrokerError>> {
        async move {
            let deadline = self.deadline();
            self.publish_link.wait_until(deadline).await?;
            let queue = &*self.declarer.adapted(queue, deadline).await?;
            let is_suspect = self.consumer_links.is_suspect(&queue.name);
            if !is_suspect && self.declarer.clear(queue, deadline).await? {
                return Ok(());
            }
            let declaring = |live: Arc<Live>| async move {
                topology::declare_queue(&live, queue, deadline).await
            };
            self.ask(&queue.name, deadline, declaring).await
        }
        .boxed()
    }

    fn delete_queue<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), BrokerError>> {
        self.delete(name, false).boxed()
    }

    fn delete_empty_queue<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), BrokerError>> {
        self.delete(name, true).boxed()
    }

    fn publish(&self, publish: Publish) -> BoxFuture<'_, Result<Confirm, BrokerError>> {
        async move {
            if publish.mandatory && self.topology.reads_whole(&publish.exchange) {
                return Err(whole::no_mandatory(&publish.exchange));
            }
            self.publisher.publish(publish).await
        }
        .boxed()
    }

    fn unbind_feeds(&self, until: Instant) -> BoxFuture<'_, ()> {
        self.feeds.unbind_many(until).boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async move {
            // By the feeds' link.
            self.feeds.close().await;
            tokio::join!(
                self.feed_link.close(),
                self.publish_link.close(),
                self.declarer.close(),
                self.consumer_links.close()
            );
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Elsewhere another application may have an exchange of that name, of another type.
    #[test]
    fn exchanges_of_the_gateway_itself_are_known_in_the_default_virtual_host_alone() {
        let url = SecretUrl::from(url::Url::parse("amqp://u:p@host").unwrap());
        let config = Config {
            default_vhost: "app".to_owned(),
            exchanges: [(Box::<str>::from("feed"), ExchangeKind::Topic)].into(),
            ..Config::default()
        };
        let broker = AmqpBroker::new(&[url], config, FeedConfig::default(), "test");
        let own = [(Box::<str>::from("stentor.control"), ExchangeKind::Fanout)];
        let broker = broker.unwrap().with_default_exchanges(own.into());
        let known = |vhost: &str, name: &str| broker.exchanges(vhost).get(name).copied();
        for vhost in ["app", "/"] {
            assert_eq!(known(vhost, "feed"), Some(ExchangeKind::Topic));
        }
        let control = "stentor.control";
        assert_eq!(known("app", control), Some(ExchangeKind::Fanout));
        assert_eq!(known("/", control), None);
    }
}
