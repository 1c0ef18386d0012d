//! RabbitMQ, simulated: the embedded broker behind a link that is slow, refuses, and breaks.
//!
//! It keeps the contract of [`VirtualHost`] and uses all the freedom that the contract leaves.

mod consumer;
mod feeds;
mod host;
mod lanes;
mod stream;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use parking_lot::Mutex;
use stentor::broker::{
    Broker, BrokerError, Consumer, ExchangeKind, FeedSink, Message, Properties, Publish,
    VirtualHost, embedded::Embedded,
};
use tokio::time::timeout;

pub(crate) use self::stream::View;
use self::{consumer::Link, feeds::Feeds, host::SimHost, lanes::Lane, stream::Stream};
use crate::{
    entropy::{Draws, hash},
    ledger::{EXCHANGES, LOG, Ledger, id_of},
    told::Told,
    trace::{Trace, WORLD},
};

/// The exchange that commands go by.
pub(crate) const CONTROL: &str = "stentor.control";

/// How long a call waits for a lost link.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a publisher waits for a confirm.
const CONFIRM: Duration = Duration::from_secs(30);

/// How the broker is at the moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mood {
    /// The longest time until a message is routed, and until its confirm comes back.
    pub(crate) slowness: u64,
    /// In percent.
    pub(crate) nacks: u64,
    /// Bindings and consumers that fail, in percent.
    pub(crate) failures: u64,
}

pub(crate) struct Simulated {
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) trace: Arc<Trace>,
    pub(crate) feeds: Feeds,
    seed: u64,
    mood: Mutex<Mood>,
    inner: OnceLock<Arc<dyn VirtualHost>>,
    is_up: Told<bool>,
    /// How often the link was lost.
    losses: AtomicU64,
    has_alarm: Told<bool>,
    calls: AtomicU64,
    lanes: Mutex<HashMap<u64, Lane>>,
    consumers: Mutex<BTreeMap<u64, Arc<Link>>>,
    /// Consumers that have ended, and of which the broker has not heard.
    ending: Mutex<BTreeMap<u64, Arc<dyn Consumer>>>,
}

/// The state of feeds after a lost link.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Return {
    /// Nothing was lost: RabbitMQ kept the queues.
    Whole,
    /// RabbitMQ was restarted: queues are made anew, messages are lost.
    Anew,
    /// Bindings are lost.
    Bare,
}

impl Simulated {
    pub(crate) fn new(seed: u64, ledger: &Arc<Ledger>, trace: &Arc<Trace>) -> Arc<Self> {
        Arc::new(Self {
            ledger: Arc::clone(ledger),
            trace: Arc::clone(trace),
            feeds: Feeds::new(Stream::new(seed, trace)),
            seed,
            mood: Mutex::default(),
            inner: OnceLock::new(),
            is_up: Told::new(true),
            losses: AtomicU64::new(0),
            has_alarm: Told::new(false),
            calls: AtomicU64::new(0),
            lanes: Mutex::default(),
            consumers: Mutex::default(),
            ending: Mutex::default(),
        })
    }

    pub(crate) fn set_mood(&self, mood: Mood) {
        *self.mood.lock() = mood;
    }

    pub(crate) fn set_alarm(&self, has_alarm: bool) {
        self.has_alarm.set(has_alarm);
    }

    /// The link is cut.
    pub(crate) fn lose_link(&self) {
        self.is_up.set(false);
        self.losses.fetch_add(1, Ordering::Relaxed);
        self.feeds.hold();
        let lost: Vec<_> = self.links().iter().map(|link| link.lose()).collect();
        drop(lost);
    }

    /// The link is back.
    pub(crate) fn return_link(&self, how: Return) {
        let host = Arc::clone(self.host());
        match how {
            Return::Whole => {}
            Return::Anew => self.feeds.make_anew(&*host),
            Return::Bare => self.feeds.lose(&*host),
        }
        self.feeds.release();
        self.is_up.set(true);
        for link in self.links() {
            link.come_back(&host);
        }
    }

    /// Publishes as an application does, past the gateway.
    pub(crate) fn publish(&self, exchange: &str, key: &str, body: &str) {
        if let Some(id) = id_of(body.as_bytes()) {
            self.ledger.take(id, exchange, key);
            self.trace.tell(WORLD, || {
                format!("backend publishes m{id} to {exchange}/{key}")
            });
        }
        let publishing = self.host().publish(Publish {
            exchange: exchange.into(),
            routing_key: key.into(),
            properties: Properties::default(),
            body: Bytes::copy_from_slice(body.as_bytes()),
            mandatory: false,
            lane: 0,
            slow: None,
        });
        let confirm = publishing.now_or_never().unwrap().unwrap();
        confirm.now_or_never().unwrap().unwrap();
    }

    /// The journal has a message of before the gateway's start.
    pub(crate) fn remember(&self, id: u64, key: &str, body: &str) {
        self.ledger.take(id, LOG, key);
        let body = Bytes::copy_from_slice(body.as_bytes());
        let message = Message::new(LOG.into(), key.into(), Properties::default(), body);
        self.feeds.journal().append(message);
    }

    /// Consumers that run.
    pub(crate) fn consumers(&self) -> usize {
        self.consumers.lock().len()
    }

    pub(crate) fn host(&self) -> &Arc<dyn VirtualHost> {
        self.inner.get().unwrap()
    }

    fn links(&self) -> Vec<Arc<Link>> {
        self.consumers.lock().values().cloned().collect()
    }

    /// How often the link was lost.
    pub(crate) fn losses(&self) -> u64 {
        self.losses.load(Ordering::Relaxed)
    }

    fn is_up(&self) -> bool {
        self.is_up.get()
    }

    async fn wait_up(&self) -> Result<u64, BrokerError> {
        let waiting = timeout(PATIENCE, self.is_up.wait_for(|is_up| *is_up));
        match waiting.await {
            Ok(_) => Ok(self.losses()),
            Err(_) => Err(unavailable()),
        }
    }

    fn check(&self, loss: u64) -> Result<(), BrokerError> {
        if self.losses() == loss && self.is_up() {
            Ok(())
        } else {
            Err(unavailable())
        }
    }

    /// Draws for a call, by its subject: the order of calls in one moment changes nothing.
    fn draws(&self, kind: &str, subject: &str) -> Draws {
        let now = self.trace.now();
        Draws::of(&[self.seed, hash(kind), hash(subject), now])
    }
}

fn unavailable() -> BrokerError {
    BrokerError::Unavailable("the link was lost".into())
}

/// [`Broker`] of one virtual host.
pub(crate) struct SimBroker(pub(crate) Arc<Simulated>);

impl Broker for SimBroker {
    fn open(&self, vhost: &str, feeds: Arc<dyn FeedSink>) -> Arc<dyn VirtualHost> {
        let exchanges = EXCHANGES.iter().filter(|(name, _)| *name != "amq.topic");
        let exchanges = exchanges.map(|(name, kind)| (Box::from(*name), *kind));
        let control = (CONTROL.into(), ExchangeKind::Fanout);
        let embedded = Embedded::new(exchanges.chain([control]));
        let sink = self.0.feeds.sink(feeds);
        let inner = embedded.open(vhost, sink);
        assert!(self.0.inner.set(inner).is_ok(), "there is one virtual host");
        Arc::new(SimHost(Arc::clone(&self.0)))
    }
}
