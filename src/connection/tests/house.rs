//! The surroundings of connections: the embedded broker, which can be made slow, and a hook that
//! remembers its questions.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::*;
use crate::{
    auth::{
        self, Access, Admission, Authenticator, Login, Permission, Refusal, ResourceKind, User,
        chain::Chain,
        jwt::{JwtAuthenticator, Keyless, Surroundings},
    },
    broker::{
        self, Broker, BrokerError, Confirm, Consume, Consumer, DeliverySink, ExchangeKind,
        FeedConfig, FeedId, FeedSink, JournalConfig, Properties, Publish, VirtualHost,
        embedded::Embedded,
    },
    control::Control,
    hub::{MailboxConfig, Vhosts},
    messaging::SequenceStore,
    node::{ClientAddress, LoginPolicy},
    presence::Presence,
};

pub(super) const PEER: Peer = Peer {
    address: ClientAddress {
        remote: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 4711),
        is_shared: true,
    },
    transport: "tcp",
    carried: None,
};

/// A client at an address that nobody shares.
pub(super) fn from(address: &str) -> Peer {
    Peer {
        address: ClientAddress::direct(SocketAddr::new(address.parse().unwrap(), 4711)),
        ..PEER
    }
}

/// The exchange that commands go by.
pub(super) const CONTROL: &str = "stentor.control";

#[derive(Default)]
pub(super) struct Options {
    pub(super) limits: Limits,
    pub(super) mailbox: MailboxConfig,
    pub(super) stomp: Stomp,
    pub(super) auth: auth::Config,
    pub(super) sequences: Option<Arc<dyn SequenceStore>>,
    pub(super) presence: Option<Arc<dyn Presence>>,
    pub(super) sessions: LoginPolicy,
}

pub(super) struct House {
    pub(super) services: Arc<Services>,
    pub(super) hook: Arc<Hook>,
    pub(super) slow: Arc<Slow>,
}

impl House {
    pub(super) fn new() -> Self {
        Self::with(Options::default())
    }

    pub(super) fn with(options: Options) -> Self {
        telemetry::capture::install();
        let exchanges = [
            ("feed".into(), ExchangeKind::Direct),
            ("news".into(), ExchangeKind::Fanout),
            (CONTROL.into(), ExchangeKind::Fanout),
        ];
        let slow = Arc::new(Slow {
            inner: Embedded::new(exchanges),
            gate: Gate::new(),
            declared: Mutex::default(),
            held: Mutex::default(),
        });
        let broker = broker::Config::default();
        let vhosts = Vhosts::new(
            Arc::new(SlowBroker(Arc::clone(&slow))),
            &broker,
            &FeedConfig::default(),
            &JournalConfig::default(),
        );
        let hook = Arc::new(Hook {
            gate: Gate::new(),
            asked: Mutex::default(),
            denied: Mutex::default(),
            failing: Mutex::default(),
            busy: Mutex::default(),
            failing_once: Mutex::default(),
            held: Mutex::default(),
            takes: Mutex::default(),
            groups: Mutex::default(),
            lifetime: Mutex::default(),
            named: Mutex::default(),
            tags: Mutex::default(),
        });
        let mut settings = Settings::new(
            options.limits,
            options.stomp,
            options.mailbox,
            &broker,
            &options.auth,
            "node-1",
        );
        settings.login_policy = options.sessions;
        let auth = authenticator(&options.auth, &hook);
        let registry = Registry::new(1000);
        let control = Control::alone("node-1", Arc::clone(&registry) as _, Arc::clone(&auth));
        let control = control.join(vhosts.vhost("/").unwrap(), CONTROL);
        Self {
            services: Services::new(
                vhosts,
                auth,
                options.presence,
                options.sequences,
                registry,
                control,
                settings,
            ),
            hook,
            slow,
        }
    }

    /// The bytes that are kept for clients.
    pub(super) fn bytes_held(&self) -> usize {
        self.services.registry.bytes_waiting()
    }

    /// Publishes as an application does, past the gateway. All is done when this returns.
    pub(super) fn publish(&self, exchange: &str, key: &str, body: &str) {
        publisher(&self.services)(exchange, key, body);
    }
}

/// The hook, and before it tokens, if they are on.
fn authenticator(config: &auth::Config, hook: &Arc<Hook>) -> Arc<dyn Authenticator> {
    let hook: Arc<dyn Authenticator> = Arc::clone(hook) as _;
    if !config.jwt.is_on() {
        return hook;
    }
    let surroundings = Surroundings {
        default_vhost: "/",
        topics: "amq.topic",
        keyless: Keyless::default(),
    };
    let tokens = JwtAuthenticator::new(&config.jwt, surroundings, Some(Arc::clone(&hook)));
    Arc::new(Chain::new(vec![Arc::new(tokens.unwrap()), hook]))
}

pub(super) fn publisher(services: &Services) -> impl Fn(&str, &str, &str) + Send + use<> {
    let host = Arc::clone(services.vhosts.vhost("/").unwrap().host());
    move |exchange, key, body| {
        let publishing = host.publish(Publish {
            exchange: exchange.into(),
            routing_key: key.into(),
            properties: Properties::default(),
            body: Bytes::copy_from_slice(body.as_bytes()),
            mandatory: false,
            lane: 0,
            slow: None,
        });
        // The future that comes back waits for the confirm.
        drop(publishing.now_or_never().unwrap().unwrap());
    }
}

/// Lets through, or does not.
pub(super) struct Gate(watch::Sender<bool>);

impl Gate {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(true))
    }

    pub(super) fn close(&self) {
        self.0.send_replace(false);
    }

    pub(super) fn open(&self) {
        self.0.send_replace(true);
    }

    pub(super) fn pass(&self) -> BoxFuture<'static, ()> {
        let mut gate = self.0.subscribe();
        async move {
            let _ = gate.wait_for(|open| *open).await;
        }
        .boxed()
    }
}

/// Allows everything that is not denied.
pub(super) struct Hook {
    pub(super) gate: Gate,
    asked: Mutex<Vec<String>>,
    denied: Mutex<Vec<String>>,
    failing: Mutex<Vec<String>>,
    /// Questions that find no turn when they are asked next.
    busy: Mutex<Vec<String>>,
    /// Questions that have no answer when they are asked next.
    failing_once: Mutex<Vec<String>>,
    /// How long each answer takes from now on.
    pub(super) takes: Mutex<Duration>,
    /// How questions begin that wait for their answer when one is asked next.
    held: Mutex<Vec<(String, Arc<Gate>)>>,
    /// The groups of all users from now on.
    pub(super) groups: Mutex<Vec<Arc<str>>>,
    /// How long logins count from now on.
    pub(super) lifetime: Mutex<Option<Duration>>,
    /// The user whom it names from now on, whatever the client says.
    pub(super) named: Mutex<Option<Arc<str>>>,
    /// The tags of all users from now on.
    pub(super) tags: Mutex<String>,
}

impl Hook {
    /// The questions since the last call.
    pub(super) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock())
    }

    /// From now on the answer is yes again.
    pub(super) fn allow(&self, question: &str) {
        self.denied.lock().retain(|denied| denied != question);
    }

    pub(super) fn deny(&self, question: &str) {
        self.denied.lock().push(question.to_owned());
    }

    /// From now on the question has no answer.
    pub(super) fn fail(&self, question: &str) {
        self.failing.lock().push(question.to_owned());
    }

    /// The question finds no turn when it is asked next.
    pub(super) fn be_busy(&self, question: &str) {
        self.busy.lock().push(question.to_owned());
    }

    /// The question has no answer when it is asked next.
    pub(super) fn fail_once(&self, question: &str) {
        self.failing_once.lock().push(question.to_owned());
    }

    /// Whether the question is among these, of which it leaves one fewer.
    fn is_taken_from(questions: &Mutex<Vec<String>>, question: &str) -> bool {
        let mut questions = questions.lock();
        let index = questions.iter().position(|one| one == question);
        index.map(|index| questions.swap_remove(index)).is_some()
    }

    /// The next question that begins so waits at this gate. What the hook knows then is its answer.
    pub(super) fn hold(&self, start: &str) -> Arc<Gate> {
        let gate = Arc::new(Gate::new());
        gate.close();
        let held = (start.to_owned(), Arc::clone(&gate));
        self.held.lock().push(held);
        gate
    }

    fn take_held(&self, question: &str) -> Option<Arc<Gate>> {
        let mut held = self.held.lock();
        let index = held
            .iter()
            .position(|(start, _)| question.starts_with(&**start))?;
        Some(held.swap_remove(index).1)
    }

    async fn ask(&self, question: String) -> Result<(), Refusal> {
        let is_denied = self.denied.lock().contains(&question);
        let fails_once = Self::is_taken_from(&self.failing_once, &question);
        if fails_once || self.failing.lock().contains(&question) {
            return Err(Refusal::Faulty("status 500".into()));
        }
        if Self::is_taken_from(&self.busy, &question) {
            return Err(Refusal::Busy);
        }
        let takes = *self.takes.lock();
        let held = self.take_held(&question);
        self.asked.lock().push(question);
        self.gate.pass().await;
        if !takes.is_zero() {
            sleep(takes).await;
        }
        if let Some(gate) = held {
            gate.pass().await;
        }
        if is_denied {
            Err(Refusal::Denied(Some("the log's business".into())))
        } else {
            Ok(())
        }
    }
}

impl Authenticator for Hook {
    fn user<'a>(&'a self, login: &'a Login) -> BoxFuture<'a, Result<User, Refusal>> {
        async move {
            self.ask(format!("user {}", login.user)).await?;
            let named = self.named.lock().clone();
            Ok(User::new(
                named.unwrap_or_else(|| (&*login.user).into()),
                self.tags.lock().as_str(),
            ))
        }
        .boxed()
    }

    fn log_in<'a>(&'a self, login: &'a Login) -> BoxFuture<'a, Result<Admission, Refusal>> {
        async move {
            let admission = Admission::from(self.user(login).await?);
            Ok(Admission {
                lifetime: *self.lifetime.lock(),
                ..admission
            })
        }
        .boxed()
    }

    fn groups<'a>(&'a self, user: &'a User) -> BoxFuture<'a, Result<Vec<Arc<str>>, Refusal>> {
        async move {
            let groups = self.groups.lock().clone();
            if let Some(gate) = self.take_held(&format!("groups {}", user.name)) {
                gate.pass().await;
            }
            Ok(groups)
        }
        .boxed()
    }

    fn allow<'a>(&'a self, _: &'a User, access: &'a Access) -> BoxFuture<'a, Result<(), Refusal>> {
        let can = |permission: &Permission| match permission {
            Permission::Configure => "configure",
            Permission::Write => "write",
            Permission::Read => "read",
        };
        let question = match access {
            Access::Vhost { vhost, ip } => format!("vhost {vhost} from {ip}"),
            Access::Resource {
                kind,
                name,
                permission,
                ..
            } => {
                let kind = match kind {
                    ResourceKind::Exchange => "exchange",
                    ResourceKind::Queue => "queue",
                };
                format!("{} {kind} {name:?}", can(permission))
            }
            Access::Topic {
                exchange,
                permission,
                routing_key,
                ..
            } => format!("{} topic {exchange:?} {routing_key:?}", can(permission)),
        };
        self.ask(question).boxed()
    }
}

/// The embedded broker, whose answers can be made to wait: it carries out requests at once.
pub(super) struct Slow {
    inner: Embedded,
    pub(super) gate: Gate,
    declared: Mutex<Vec<Box<str>>>,
    /// Messages of feeds on their way; `None` if they come at once.
    held: Mutex<Option<Vec<OnItsWay>>>,
}

type OnItsWay = Box<dyn FnOnce() + Send>;

impl Slow {
    /// From now on, messages of feeds do not come.
    pub(super) fn hold_feeds(&self) {
        *self.held.lock() = Some(Vec::new());
    }

    /// They do.
    pub(super) fn release_feeds(&self) {
        let held = self.held.lock().take();
        held.into_iter().flatten().for_each(|message| message());
    }

    /// The queues that were declared by themselves since the last time.
    pub(super) fn declared(&self) -> Vec<Box<str>> {
        std::mem::take(&mut self.declared.lock())
    }
}

struct SlowBroker(Arc<Slow>);

struct SlowSink {
    slow: Arc<Slow>,
    inner: Arc<dyn FeedSink>,
}

impl FeedSink for SlowSink {
    fn deliver(&self, feed: &FeedId, message: broker::Message) {
        if let Some(held) = &mut *self.slow.held.lock() {
            let (inner, feed) = (Arc::clone(&self.inner), feed.clone());
            return held.push(Box::new(move || inner.deliver(&feed, message)));
        }
        self.inner.deliver(feed, message);
    }

    fn patterns(&self, feed: &FeedId) -> Vec<Arc<str>> {
        self.inner.patterns(feed)
    }

    fn interrupted(&self, feed: &FeedId, reason: &str) {
        self.inner.interrupted(feed, reason);
    }

    fn lost(&self, feed: &FeedId, reason: &str) {
        self.inner.lost(feed, reason);
    }
}

struct SlowHost {
    slow: Arc<Slow>,
    inner: Arc<dyn VirtualHost>,
}

impl Broker for SlowBroker {
    fn open(&self, vhost: &str, feeds: Arc<dyn FeedSink>) -> Arc<dyn VirtualHost> {
        let sink = SlowSink {
            slow: Arc::clone(&self.0),
            inner: feeds,
        };
        Arc::new(SlowHost {
            slow: Arc::clone(&self.0),
            inner: self.0.inner.open(vhost, Arc::new(sink)),
        })
    }
}

impl SlowHost {
    fn wait<'a, T: Send + 'a>(&self, answer: BoxFuture<'a, T>) -> BoxFuture<'a, T> {
        let gate = self.slow.gate.pass();
        async move {
            let answer = answer.await;
            gate.await;
            answer
        }
        .boxed()
    }
}

impl VirtualHost for SlowHost {
    fn health(&self) -> Result<(), BrokerError> {
        self.inner.health()
    }

    fn opened(&self) -> BoxFuture<'_, Result<(), BrokerError>> {
        self.inner.opened()
    }

    fn exchange_kind<'a>(
        &'a self,
        exchange: &'a str,
    ) -> BoxFuture<'a, Result<ExchangeKind, BrokerError>> {
        self.inner.exchange_kind(exchange)
    }

    fn bind_feed<'a>(
        &'a self,
        feed: &'a FeedId,
        pattern: &'a str,
    ) -> BoxFuture<'a, Result<(), BrokerError>> {
        self.wait(self.inner.bind_feed(feed, pattern))
    }

    fn unbind_feed<'a>(
        &'a self,
        feed: &'a FeedId,
        pattern: &'a str,
    ) -> BoxFuture<'a, Result<(), BrokerError>> {
        self.wait(self.inner.unbind_feed(feed, pattern))
    }

    fn end_feed(&self, feed: &FeedId) {
        self.inner.end_feed(feed);
    }

    fn consume(
        &self,
        request: Consume,
        sink: Arc<dyn DeliverySink>,
    ) -> BoxFuture<'_, Result<Arc<dyn Consumer>, BrokerError>> {
        self.wait(self.inner.consume(request, sink))
    }

    fn declare_queue<'a>(&'a self, queue: &'a QueueSpec) -> BoxFuture<'a, Result<(), BrokerError>> {
        self.slow.declared.lock().push(queue.name.clone());
        self.wait(self.inner.declare_queue(queue))
    }

    fn delete_queue<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), BrokerError>> {
        self.wait(self.inner.delete_queue(name))
    }

    fn publish(&self, publish: Publish) -> BoxFuture<'_, Result<Confirm, BrokerError>> {
        let gate = self.slow.gate.pass();
        // As a broker that is far away, which has the message when it says so.
        let body = publish.body.clone();
        let publishing = self.inner.publish(publish);
        async move {
            let confirm = publishing.await?;
            let waiting: Confirm = async move {
                gate.await;
                drop(body);
                confirm.await
            }
            .boxed();
            Ok(waiting)
        }
        .boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.inner.close()
    }
}
