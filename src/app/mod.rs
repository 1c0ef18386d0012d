//! The one place that names concrete parts: build, run, reload, drain.

pub mod foreign;
mod logins;
mod notify;
mod reload;

use std::{
    collections::BTreeMap,
    future::Future,
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Weak},
    time::{Duration, SystemTime},
};

use futures_util::{
    FutureExt as _,
    future::{LocalBoxFuture, OptionFuture, join_all},
};
use parking_lot::RwLock;
use rustix::process::{Resource, getrlimit};
use sockjs_server::SockJs;
use thiserror::Error;
use tokio::{
    net::TcpListener,
    signal::unix::Signal,
    task::JoinSet,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::task::AbortOnDropHandle;
use warp::Filter as _;

use crate::{
    api::{self, Api, Reconfigure},
    auth::{self, Authenticator, CertificateLogin, Replaceable, rabbitmq::RabbitMqAuthenticator},
    background,
    broker::{
        Broker, ExchangeKind, FeedConfig, Url, amqp::AmqpBroker, embedded::Embedded, offline_of,
    },
    codes::Code,
    config::{Config, Loaded},
    control::{self, Control},
    deadline::{after, later},
    http::{self, HostNames, PrivateServer, PublicServer, RefusalLog, Routes},
    hub::Vhosts,
    listen::{
        self, Entrance, Files, ListenError, Plain, Proxies, Secure, Tls, TlsError, Wanted,
        tls::Protocol,
    },
    messaging::{self, MemorySequences, RedisSequences, SequenceStore},
    node::{self, Memory, Places, Registry, Services, Settings, Shed},
    offline, page,
    presence::{
        self, Node, Outbox, Presence,
        memory::MemoryPresence,
        redis::RedisPresence,
        rooms::{RoomEvent, RoomRules},
    },
    shutdown::{self, Phase, Phases, Progress, Signals},
    tap::Taps,
    telemetry::{self, Exporting},
    webhooks::{self, Webhooks},
};
use logins::Logins;
use reload::{Reloader, Remote};

/// The gateway could not start, or not go on.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// An address could not be opened.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The system refused something else.
    #[error(
        "the system refuses what the gateway needs: {0}. Raise the limits of this process (`ulimit -a`; \
         systemd's LimitNOFILE, TasksMax, MemoryMax)"
    )]
    System(#[from] io::Error),
    /// A certificate, or what belongs to it, cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A part did not accept its configuration.
    #[error("{0}")]
    Configuration(String),
    /// An argument of the command line cannot be used, alone or with what it led to.
    #[error("{1}")]
    Argument(Code, String),
}

impl Error {
    /// The name of the fault.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Listen(error) => error.code(),
            Self::System(_) => Code::SystemRefused,
            Self::Tls(_) => Code::CertificateUnusable,
            Self::Configuration(_) => Code::SetupFailed,
            Self::Argument(code, _) => *code,
        }
    }
}

/// How long all that is closed when the clients are gone may take, after `[shutdown] grace`.
const LAST: Duration = Duration::from_secs(10);

/// How long the process may take to go behind all that: its threads, its last log lines.
const GOING: Duration = Duration::from_secs(5);

/// The part of [`LAST`] for the last bookmarks, presence and its events. While Redis is away they take all
/// that they get, and the broker needs the rest: its queues would stay.
const LAST_WORDS: Duration = Duration::from_secs(4);

/// How long the last bookmarks may take.
const LAST_BOOKMARKS: Duration = Duration::from_secs(3);

/// How long the last presence events may take.
const LAST_EVENTS: Duration = Duration::from_secs(2);

/// How long the last spans may take to the collector.
const LAST_TRACES: Duration = Duration::from_secs(2);

/// How long the last webhooks may take, at least, and beside them the unbinding of feeds: clients
/// may have left no time for them.
const LAST_CALLS: Duration = Duration::from_secs(2);

/// Serves until SIGINT or SIGTERM, then drains. SIGHUP, and the HTTP API, have the file read again.
///
/// # Errors
/// A part could not be built, or an address not opened.
pub fn run(loaded: Loaded, file: Option<PathBuf>) -> LocalBoxFuture<'static, Result<(), Error>> {
    // Boxed here, as all that `main` awaits: or else the program's crate compiles anew what this one
    // has compiled, and holds it twice.
    Box::pin(serve(loaded, file))
}

async fn serve(mut loaded: Loaded, file: Option<PathBuf>) -> Result<(), Error> {
    if let Some(few) = fit_to_files(&mut loaded.config.listen) {
        few.tell();
    }
    let path = loaded.config.listen.websocket_path.clone();
    let routes = |_: &_, _| http::sign_post(&path);
    // Before anybody can see that it runs: a SIGHUP until then would end it.
    let hangups = shutdown::hangups()?;
    // As early: the first process of a container does not get a signal that it does not watch for.
    let mut signals = Signals::watch()?;
    let mut gateway = tokio::select! {
        started = Gateway::start_from(loaded, Origin::Sources(file), routes) => started?,
        // No client is served yet.
        () = signals.next() => {
            telemetry::stopped(0);
            return Ok(());
        }
    };
    gateway.reload_at(hangups);
    notify::ready();
    let _alive = AbortOnDropHandle::new(background::spawn(notify::keep_alive()));
    gateway.run_until(signals).await;
    Ok(())
}

/// Where a configuration comes from.
enum Origin {
    /// From a file, if there is one, and the environment: it can be read again.
    Sources(Option<PathBuf>),
    /// From this program.
    Program,
}

/// The system allows too few files for the connections that are wanted.
struct FewFiles {
    files: u64,
    wanted: Wanted,
    reckoned: Wanted,
}

impl FewFiles {
    fn tell(&self) {
        let lowered = self.wanted.lowered(self.reckoned);
        let keys: Vec<_> = lowered.into_iter().map(|(key, _)| key).collect();
        telemetry::few_files(
            self.files,
            &keys.join(" and "),
            (self.wanted.connections, self.reckoned.connections),
            (self.wanted.unauthenticated, self.reckoned.unauthenticated),
        );
    }
}

/// Lowers the numbers of connections to those for which the system allows files. Lowered, and not
/// refused: in a container the operator may have no say in it, and the bounds are seldom reached.
#[must_use]
fn fit_to_files(listen: &mut listen::Config) -> Option<FewFiles> {
    let files = open_files();
    let wanted = Wanted {
        connections: listen.max_connections,
        unauthenticated: listen.max_unauthenticated,
    };
    let reckoned = Files::of(files).reckon(wanted);
    listen.max_connections = reckoned.connections;
    listen.max_unauthenticated = reckoned.unauthenticated;
    let is_lowered = !wanted.lowered(reckoned).is_empty();
    is_lowered.then_some(FewFiles {
        files,
        wanted,
        reckoned,
    })
}

/// A gateway that runs.
pub struct Gateway {
    reloader: Arc<Reloader>,
    services: Arc<Services>,
    progress: Progress,
    phases: Phases,
    addresses: Addresses,
    events: Option<Events>,
    offline: Vec<AbortOnDropHandle<()>>,
    traces: Option<Exporting>,
    listeners: JoinSet<()>,
}

/// Presence events, on their way to the broker.
struct Events {
    outbox: Arc<Outbox>,
    rooms: Arc<Outbox<RoomEvent>>,
    publishers: [AbortOnDropHandle<()>; 2],
}

/// The addresses of a gateway.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// HTTP: the WebSocket, and pages.
    pub http: Option<SocketAddr>,
    /// The same with TLS.
    pub https: Option<SocketAddr>,
    /// STOMP over TCP.
    pub stomp: Option<SocketAddr>,
    /// STOMP over TLS.
    pub stomps: Option<SocketAddr>,
    /// The operator's side.
    pub admin: SocketAddr,
}

impl Addresses {
    /// By their keys in `[listen]`.
    fn named(self) -> BTreeMap<String, String> {
        let all = [
            ("http", self.http),
            ("https", self.https),
            ("stomp", self.stomp),
            ("stomps", self.stomps),
            ("admin", Some(self.admin)),
        ];
        let open = all.into_iter();
        open.filter_map(|(key, address)| Some((key.to_owned(), address?.to_string())))
            .collect()
    }
}

impl Gateway {
    /// Builds all parts and opens all addresses. The broker need not be there yet. `routes` are
    /// served beside the WebSocket.
    ///
    /// # Errors
    /// As [`run`].
    pub async fn start(
        config: Config,
        routes: impl FnOnce(&Arc<Services>, Addresses) -> Routes,
    ) -> Result<Self, Error> {
        Self::start_from(config.into(), Origin::Program, routes).await
    }

    async fn start_from(
        loaded: Loaded,
        origin: Origin,
        routes: impl FnOnce(&Arc<Services>, Addresses) -> Routes,
    ) -> Result<Self, Error> {
        let config = loaded.config.clone();
        let listen = &config.listen;
        let secure = listen.https.or(listen.stomps);
        let tls = secure.map(|_| Tls::load(&config.tls)).transpose()?;
        let http = bind(listen.http, "http").await?;
        let https = bind(listen.https, "https").await?;
        let stomp = bind(listen.stomp, "stomp").await?;
        let stomps = bind(listen.stomps, "stomps").await?;
        let admin = listen::bind(listen.admin, "admin").await?;
        let address =
            |listener: &Option<TcpListener>| listener.as_ref().map(TcpListener::local_addr);
        let addresses = Addresses {
            http: address(&http).transpose()?,
            https: address(&https).transpose()?,
            stomp: address(&stomp).transpose()?,
            stomps: address(&stomps).transpose()?,
            admin: admin.local_addr()?,
        };
        let node = node_name();
        let traces = start_traces(&config, &node)?;
        let Built {
            services,
            logins,
            auth,
            events,
        } = build(&config, &node)?;
        let offline = offline::start(&config.offline, config.feed.replicated, &services, &node);
        let (progress, phases) = Progress::start();
        let mut listeners = JoinSet::new();
        let gateway = Arc::new(http::Gateway {
            services: Arc::clone(&services),
            rules: RwLock::new(Arc::new(reload::rules(&config))),
            refusals: RefusalLog::default(),
        });
        let host_names = HostNames::new(&listen.host_names);
        if host_names.is_empty()
            && let Some(key) = login_without_secret(&config)
        {
            telemetry::host_names_unset(key);
        }
        let server = Arc::new(PublicServer {
            gateway: Arc::clone(&gateway),
            path: listen.websocket_path.as_str().into(),
            sockjs: config.sockjs.options().map(SockJs::new),
            routes: routes(&services, addresses),
            host_names: host_names.clone(),
        });
        let doors = Doors {
            proxies: Arc::new(Proxies::new(&listen.trusted_proxies)),
            files: Arc::new(Files::of(open_files())),
            registry: Arc::clone(&services.registry),
        };
        if listen.proxy_protocol && listen.trusted_proxies.is_empty() {
            telemetry::any_proxy_trusted();
        }
        let stop = || phases.clone().reached(Phase::StopAccepting);
        if let Some(http) = http {
            let entrance = entrance(listen, &doors, "http", Plain);
            listeners.spawn(Arc::clone(&server).serve(http, entrance, stop()).boxed());
        }
        if let Some(stomp) = stomp {
            let entrance = entrance(listen, &doors, "stomp", Plain);
            let services = Arc::clone(&services);
            listeners.spawn(listen::serve_stomp(stomp, entrance, services, stop()).boxed());
        }
        if let Some(tls) = &tls {
            let secure = |protocol| Secure {
                tls: Arc::clone(tls),
                protocol,
                login: config.auth.certificate_login,
            };
            if let Some(https) = https {
                let entrance = entrance(listen, &doors, "https", secure(Protocol::Http));
                listeners.spawn(Arc::clone(&server).serve(https, entrance, stop()).boxed());
            }
            if let Some(stomps) = stomps {
                let entrance = entrance(listen, &doors, "stomps", secure(Protocol::Stomp));
                let services = Arc::clone(&services);
                listeners.spawn(listen::serve_stomp(stomps, entrance, services, stop()).boxed());
            }
        }
        if config.api.tokens.is_empty() {
            telemetry::api_closed();
        }
        let rules = api::Rules::new(config.api.clone(), config.health.clone());
        let (is_readable, file) = match origin {
            Origin::Sources(file) => (true, file),
            Origin::Program => (false, None),
        };
        let reloader = Arc::new(Reloader {
            file,
            loaded: RwLock::new(Arc::new(loaded)),
            logins: tokio::sync::Mutex::new(logins),
            auth,
            services: Arc::clone(&services),
            gateway,
            tls,
            api: Arc::clone(&rules),
            node: node.as_str().into(),
        });
        let remote = || Arc::new(Remote(Arc::clone(&reloader))) as Arc<dyn Reconfigure>;
        let api = Api::new(
            Arc::clone(&services),
            phases.clone(),
            rules,
            is_readable.then(remote),
            (&node, addresses.named()),
            listen.handshake_timeout,
            config.broker.operation_timeout,
        );
        // The operator is answered to the end.
        let stop_admin = phases.clone().reached(Phase::CloseBroker);
        let private = PrivateServer {
            what: "admin",
            routes: page::routes().or(api.routes()).unify().boxed(),
            host_names,
            open_paths: api::PROBES,
            timeout: listen.handshake_timeout,
        };
        listeners.spawn(private.serve(admin, stop_admin).boxed());
        Ok(Self {
            reloader,
            services,
            progress,
            phases,
            addresses,
            events,
            offline,
            traces,
            listeners,
        })
    }

    /// From now on, and for those that came already, SIGHUP reads the configuration again.
    fn reload_at(&mut self, mut hangups: Signal) {
        let reloader = Arc::clone(&self.reloader);
        let end = self.phases.clone().reached(Phase::CloseBroker);
        self.listeners.spawn(async move {
            let mut end = std::pin::pin!(end);
            loop {
                tokio::select! {
                    () = &mut end => return,
                    hangup = hangups.recv() => if hangup.is_none() { return },
                }
                // A reload that fails says so in the log. One that waits for an issuer does not hold
                // up the end: it has replaced nothing yet.
                let reloaded = tokio::select! {
                    () = &mut end => return,
                    reloaded = reloader.reload() => reloaded,
                };
                telemetry::audited(&telemetry::Audited {
                    token: None,
                    scope: "SIGHUP",
                    remote: None,
                    action: "reload",
                    on: "",
                    outcome: reloaded.as_ref().map_or("failed", |_| "done"),
                    cause: reloaded.as_ref().err().map(String::as_str),
                    unsaid: None,
                });
            }
        });
    }

    /// Its addresses.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Serves until a signal comes, then drains. Another signal ends it at once.
    pub async fn run_until(mut self, mut signals: Signals) {
        signals.next().await;
        let ended = tokio::select! {
            () = self.end() => true,
            () = signals.again() => false,
        };
        let cut = self.services.registry.len();
        match ended {
            true => telemetry::stopped(cut),
            false => telemetry::stopped_by_a_second_signal(cut),
        }
    }

    async fn end(&mut self) {
        let loaded = self.reloader.config();
        let config = &loaded.config.shutdown;
        let end = after(config.grace);
        let going = LAST.saturating_add(GOING);
        notify::stopping(config.grace.saturating_add(going));
        self.progress.enter(Phase::NotReady);
        telemetry::not_ready("shutting down");
        tokio::time::sleep(config.not_ready).await;
        self.progress.enter(Phase::StopAccepting);
        self.progress.enter(Phase::Drain);
        let registry = &self.services.registry;
        telemetry::draining(registry.len(), config.drain);
        let drained = async {
            registry.drain(config.drain).await;
            registry.wait_empty().await;
        };
        // A client that does not go in time is cut.
        let _ = timeout_at(end, drained).await;
        self.progress.enter(Phase::CloseBroker);
        let last = later(end, LAST);
        if timeout_at(last, self.close(end)).await.is_err() {
            telemetry::closing_given_up();
        }
    }

    /// Closes all that clients do not need any more. Each step has a time of its own.
    async fn close(&mut self, end: Instant) {
        let events = self.events.take();
        let services = &self.services;
        // How far clients have acknowledged, up to their last word.
        let bookmarks = async {
            let writes = &services.last_writes;
            let unwritten = writes.finish(after(LAST_BOOKMARKS)).await;
            if unwritten > 0 {
                telemetry::bookmarks_lost(unwritten);
            }
        };
        let presence = async {
            let presence = services.presence.as_ref();
            OptionFuture::from(presence.map(|presence| presence.close())).await;
            if let Some(events) = events {
                events.outbox.close();
                events.rooms.close();
                let last = join_all(events.publishers);
                let _ = timeout(LAST_EVENTS, last).await;
            }
        };
        let words = async { tokio::join!(bookmarks, presence) };
        let _ = timeout_at(later(end, LAST_WORDS), words).await;
        // What is not handed on yet waits for another node, and webhooks need not hear of it.
        self.offline.clear();
        // The ends of all sessions are among them. Receivers that are away take no time from the feeds.
        let webhooks = self.services.webhooks.as_ref();
        let until = end.max(after(LAST_CALLS));
        let told = webhooks.map(|webhooks| webhooks.close(until));
        self.services.control.close();
        tokio::join!(
            OptionFuture::from(told),
            self.services.vhosts.unbind_feeds(until)
        );
        self.services.vhosts.close().await;
        while self.listeners.join_next().await.is_some() {}
        let traces = self.traces.take();
        OptionFuture::from(traces.map(|traces| traces.finish(LAST_TRACES))).await;
    }
}

fn start_traces(config: &Config, node: &str) -> Result<Option<Exporting>, Error> {
    /// How long a connect to the collector may take.
    const CONNECT: Duration = Duration::from_secs(5);
    let client = |is_secure| auth::http_client(is_secure, CONNECT).build();
    let started = telemetry::start_traces(&config.otlp, client, node);
    started.map_err(|error| Error::Configuration(format!("[telemetry.otlp]: {error}")))
}

async fn bind(address: Option<SocketAddr>, what: &str) -> Result<Option<TcpListener>, ListenError> {
    match address {
        Some(address) => Ok(Some(listen::bind(address, what).await?)),
        None => Ok(None),
    }
}

/// Shared by the listeners for clients.
struct Doors {
    proxies: Arc<Proxies>,
    files: Arc<Files>,
    registry: Arc<Registry>,
}

/// How many files this process may open; `main` has raised it as far as it goes.
fn open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    // None is no limit.
    limit.current.unwrap_or(u64::MAX)
}

/// The key by which a browser logs in without anything that only a right page knows.
fn login_without_secret(config: &Config) -> Option<&'static str> {
    let auth = &config.auth;
    [
        (auth.default_user.is_some(), "default_user"),
        (auth.http_basic, "http_basic"),
        (
            auth.certificate_login != CertificateLogin::Off,
            "certificate_login",
        ),
        (auth.is_ambient(), "forward_cookies or forward_headers"),
    ]
    .into_iter()
    .find_map(|(is_set, key)| is_set.then_some(key))
}

fn entrance<T>(
    config: &listen::Config,
    doors: &Doors,
    what: &'static str,
    layer: T,
) -> Entrance<T> {
    Entrance {
        proxies: Arc::clone(&doors.proxies),
        files: Arc::clone(&doors.files),
        what,
        layer,
        proxy_protocol: config.proxy_protocol,
        timeout: config.handshake_timeout,
        keep_alive: config.keep_alive(),
        registry: Arc::clone(&doors.registry),
    }
}

/// What a gateway is built of, before it listens.
struct Built {
    services: Arc<Services>,
    logins: Logins,
    auth: Arc<Replaceable>,
    events: Option<Events>,
}

fn build(config: &Config, node: &str) -> Result<Built, Error> {
    let broker = broker(config, node)?;
    let vhosts = Vhosts::new(broker, &config.broker, &feed(config), &config.journal);
    let webhooks = Webhooks::start(&config.webhooks, node).map_err(Error::Configuration)?;
    let events = events(config, &vhosts, webhooks.as_ref());
    let logins = Logins::new(config)?;
    let auth = Replaceable::new(logins.chained());
    let outboxes = outboxes(events.as_ref(), webhooks.as_ref());
    let presence = presence(config, node, outboxes)?;
    let sequences = sequences(config)?;
    let places = Places::new(config.listen.max_unauthenticated);
    let registry = Registry::with_places(config.listen.max_connections, places, &config.limits);
    if let Some(records) = presence.as_ref().and_then(|presence| presence.records()) {
        registry.share_bans(records);
    }
    background::spawn(node::keep_bans(Arc::downgrade(&registry)));
    let sessions: Arc<dyn control::Sessions> = Arc::clone(&registry) as _;
    let is_shared = matches!(config.presence.url, presence::Url::Redis(_));
    let nodes = presence.clone().filter(|_| is_shared);
    let taps = Taps::new(node, config.tail.clone());
    let mut control = Control::alone(node, sessions, Arc::clone(&auth) as _)
        .with_taps(taps)
        .among(nodes)
        .with_presence_in_memory(config.presence.url == presence::Url::Memory)
        .with_no_other_node(is_embedded(config) && !is_shared);
    if let Some(exchange) = control_exchange(config)
        && let Some(vhost) = vhosts.vhost(&config.broker.default_vhost)
    {
        control = control.join(vhost, exchange);
    }
    let accounts = logins.accounts.as_ref();
    let mut settings = settings(config, node, events.is_some(), accounts.is_some());
    settings.webhooks = webhooks;
    let recheck = settings.recheck;
    let services = Services::new(
        vhosts,
        Arc::clone(&auth) as _,
        presence,
        sequences,
        registry,
        control,
        settings,
    );
    foreign::watch(config, Arc::downgrade(&services.registry));
    let target: Weak<dyn Shed> = Arc::downgrade(&services.registry) as _;
    let memory = Arc::downgrade(&services.memory);
    background::spawn(Memory::watch(memory, config.memory.clone(), target));
    if let Some(recheck) = recheck {
        background::spawn(node::recheck_in_turn(
            Arc::downgrade(&services.registry),
            recheck,
        ));
    }
    if let (Some(accounts), Some(recheck)) = (accounts, recheck) {
        background::spawn(follow(config, accounts, &services, recheck));
    }
    Ok(Built {
        services,
        logins,
        auth,
        events,
    })
}

/// How connections behave that begin with this configuration.
fn settings(config: &Config, node: &str, has_events: bool, has_accounts: bool) -> Settings {
    let mut settings = Settings::new(
        config.limits.clone(),
        config.stomp.clone(),
        config.mailbox.clone(),
        &config.broker,
        &config.auth,
        node,
    );
    if has_events {
        settings.events_exchange = Some((&*config.presence.exchange).into());
    }
    if config.offline.is_on() {
        settings.offline_exchange = Some((&*config.offline.exchange).into());
    }
    settings.login_policy = config.sessions.clone();
    if has_accounts {
        settings = settings.with_recheck_of_changes(&config.auth);
    }
    settings
}

/// Follows the changes of RabbitMQ's users: sessions that have lost a right end at once.
fn follow(
    config: &Config,
    accounts: &Arc<RabbitMqAuthenticator>,
    services: &Arc<Services>,
    recheck: node::Recheck,
) -> impl Future<Output = ()> + use<> {
    let services = Arc::downgrade(services);
    let changed = move |users| {
        if let Some(services) = services.upgrade() {
            node::recheck_users(&services.registry, &users, recheck);
        }
    };
    let accounts = Arc::downgrade(accounts);
    RabbitMqAuthenticator::watch(accounts, config.auth_rabbitmq.refresh, changed)
}

/// All ways to log in, for whoever only asks.
///
/// # Errors
/// A part cannot be used as it is configured.
pub fn logins(config: &Config) -> Result<Arc<dyn Authenticator>, Error> {
    Logins::new(config).map(|logins| logins.chained())
}

/// The exchange of commands; there are no other nodes on a broker in this process' memory.
#[must_use]
pub fn control_exchange(config: &Config) -> Option<&str> {
    match config.broker.all_urls().first() {
        Some(Url::Amqp(_)) => config.control.exchange(),
        _ => None,
    }
}

/// In the default virtual host, which is open from the start to the end.
fn events(config: &Config, vhosts: &Vhosts, webhooks: Option<&Arc<Webhooks>>) -> Option<Events> {
    if !config.presence.has_events() {
        return None;
    }
    let vhost = vhosts.vhost(&config.broker.default_vhost)?;
    let outbox = Outbox::for_webhooks(webhooks.map(Arc::clone), false);
    let rooms = Outbox::for_webhooks(webhooks.map(Arc::clone), false);
    let host = || (Arc::clone(vhost.host()), config.presence.exchange.clone());
    let (a, b) = host();
    let users = presence::publisher::publish(Arc::clone(&outbox), a, b);
    let (a, b) = host();
    let of_rooms = presence::publisher::publish(Arc::clone(&rooms), a, b);
    let publishers = [background::spawn(users), background::spawn(of_rooms)];
    Some(Events {
        outbox,
        rooms,
        publishers: publishers.map(AbortOnDropHandle::new),
    })
}

fn broker(config: &Config, node: &str) -> Result<Arc<dyn Broker>, Error> {
    Ok(match rabbitmq(config, node)? {
        Some(broker) => Arc::new(broker),
        None => {
            telemetry::broker_embedded();
            Arc::new(Embedded::new(exchanges(
                config,
                &config.broker.default_vhost,
            )))
        }
    })
}

/// Where presence puts its events: on the way to the broker, or for webhooks alone, if they want them.
struct Outboxes {
    users: Option<Arc<Outbox>>,
    rooms: Option<Arc<Outbox<RoomEvent>>>,
}

fn outboxes(events: Option<&Events>, webhooks: Option<&Arc<Webhooks>>) -> Outboxes {
    if let Some(events) = events {
        return Outboxes {
            users: Some(Arc::clone(&events.outbox)),
            rooms: Some(Arc::clone(&events.rooms)),
        };
    }
    let who_want = |kinds: &[webhooks::Kind]| {
        let webhooks = webhooks.filter(|all| kinds.iter().any(|kind| all.wants(*kind)));
        webhooks.map(Arc::clone)
    };
    let users = who_want(&[webhooks::Kind::Presence]);
    let rooms = who_want(&[webhooks::Kind::Occupied, webhooks::Kind::Vacated]);
    Outboxes {
        users: users.map(|webhooks| Outbox::for_webhooks(Some(webhooks), true)),
        rooms: rooms.map(|webhooks| Outbox::for_webhooks(Some(webhooks), true)),
    }
}

/// What feeds have to know.
fn feed(config: &Config) -> FeedConfig {
    FeedConfig {
        offline: config.offline.feeds(&config.broker.default_vhost),
        ..config.feed.clone()
    }
}

/// All exchanges that the gateway makes in that virtual host where they are missing. Those of its own
/// are in the default one alone: elsewhere another application may have their names.
#[must_use]
pub fn exchanges(config: &Config, vhost: &str) -> BTreeMap<Box<str>, ExchangeKind> {
    let mut exchanges = config.broker.exchanges.clone();
    if vhost != config.broker.default_vhost {
        return exchanges;
    }
    if config.presence.has_events() {
        // Exchanges that the configuration names are made at their first use.
        let exchange = config.presence.exchange.clone();
        exchanges.entry(exchange).or_insert(ExchangeKind::Topic);
    }
    for source in &config.offline.sources {
        exchanges.insert(offline_of(source).into(), ExchangeKind::Topic);
        let exchange = config.offline.exchange.as_str().into();
        exchanges.entry(exchange).or_insert(ExchangeKind::Topic);
    }
    if let Some(exchange) = control_exchange(config) {
        exchanges.insert(exchange.into(), ExchangeKind::Fanout);
    }
    exchanges
}

/// Whether the broker is in this process.
fn is_embedded(config: &Config) -> bool {
    matches!(config.broker.all_urls(), [Url::Embedded])
}

/// RabbitMQ, if it is the broker. Connects to nobody yet.
///
/// # Errors
/// Its URL cannot be used.
pub fn rabbitmq(config: &Config, node: &str) -> Result<Option<AmqpBroker>, Error> {
    if is_embedded(config) {
        return Ok(None);
    }
    let urls: Vec<_> = config
        .broker
        .all_urls()
        .iter()
        .filter_map(|url| match url {
            Url::Embedded => None,
            Url::Amqp(url) => Some(url.clone()),
        })
        .collect();
    let in_default = exchanges(config, &config.broker.default_vhost);
    AmqpBroker::new(&urls, config.broker.clone(), feed(config), node)
        .map(|broker| broker.with_journal(config.journal.clone()))
        .map(|broker| Some(broker.with_default_exchanges(in_default)))
        .map_err(Error::Configuration)
}

fn presence(
    config: &Config,
    node: &str,
    outboxes: Outboxes,
) -> Result<Option<Arc<dyn Presence>>, Error> {
    let (config, redis) = (&config.presence, &config.redis);
    let node = Node {
        name: node.into(),
        since: SystemTime::now(),
        debounce: config.debounce,
        events: outboxes.users,
        rooms: (!config.destinations.is_empty()).then(|| RoomRules {
            exchanges: config.destinations.clone(),
            max_members: config.max_members,
            max_rooms: config.max_rooms,
            events: outboxes.rooms,
        }),
    };
    Ok(match &config.url {
        presence::Url::Off => None,
        presence::Url::Memory => Some(Arc::new(MemoryPresence::new(node))),
        presence::Url::Redis(url) => {
            let presence = RedisPresence::new(url, redis, config.lease, node)
                .map_err(|error| Error::Configuration(error.to_string()))?;
            Some(Arc::new(presence))
        }
    })
}

fn sequences(config: &Config) -> Result<Option<Arc<dyn SequenceStore>>, Error> {
    let sequences = config.sequences.clone();
    Ok(match (sequences.store, &config.presence.url) {
        (messaging::Store::Off, _) => None,
        (messaging::Store::Redis, presence::Url::Redis(url)) => {
            let redis = RedisSequences::new(url, &config.redis, sequences)
                .map_err(|error| Error::Configuration(error.to_string()))?;
            Some(redis)
        }
        (messaging::Store::Redis, _) => {
            let message = "[sequences] store is \"redis\", but [presence] url names none";
            return Err(Error::Configuration(message.to_owned()));
        }
        (messaging::Store::Memory, _) => Some(Arc::new(MemorySequences::new(sequences))),
    })
}

/// The host's name, for whoever looks at the broker's lists, and a part that is new each time.
#[must_use]
pub fn node_name() -> String {
    let system = rustix::system::uname();
    let host: String = system
        .nodename()
        .to_string_lossy()
        .chars()
        .take(60)
        .collect();
    format!("{host}.{:08x}", rand::random::<u32>())
}
