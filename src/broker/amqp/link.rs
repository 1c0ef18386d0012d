//! One AMQP connection that is made again, with growing pauses, whenever it is lost.

use std::{
    future::Future,
    io,
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt, StreamExt};
use lapin::{
    Channel, ChannelStatus, Connection, ConnectionProperties, ErrorKind, Event,
    runtime::default_runtime,
    tcp::{AsyncTcpStream, OwnedIdentity, OwnedTLSConfig},
    uri::{AMQPScheme, AMQPUri},
};
use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::{Semaphore, watch},
    time::Instant,
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    account::{Account, Credentials, Numbered, Renewals, UNREADABLE},
    convert::broker_error,
    hosts::{Address, Hosts, InUse, Unreached, dial},
    outages::{LinkLog, Outages},
    passing::Passing,
    quarantine::{Asked, Quarantine, UNANSWERED},
};
use crate::{
    background,
    backoff::Backoff,
    broker::{BrokerError, Cause},
    telemetry,
};

/// How a link is made.
#[derive(Clone)]
pub(super) struct LinkConfig {
    /// To which virtual host, and whether over TLS; its host is one of `hosts`.
    pub(super) uri: AMQPUri,
    /// As whom.
    pub(super) account: Arc<Account>,
    /// Where to.
    pub(super) hosts: Arc<Hosts>,
    /// The node that makes it, as the broker's management page shows it.
    pub(super) node: Box<str>,
    /// Its purpose, in words of the log and of that page.
    pub(super) purpose: Box<str>,
    /// How long one attempt may take.
    pub(super) connection_timeout: Duration,
    /// The first and the longest pause between attempts.
    pub(super) reconnect: (Duration, Duration),
    /// How long a lost connection may take to be made again.
    pub(super) unready_after: Duration,
    /// How many connections were made for this virtual host: with each, the broker may be another
    /// one, or configured anew.
    pub(super) connections: Arc<AtomicU64>,
    /// The outages of all links to this broker, for the log.
    pub(super) outages: Arc<Outages>,
    /// True if its fate is told elsewhere, and is no outage.
    pub(super) is_trial: bool,
    /// The queues over which a link to this virtual host was closed.
    pub(super) quarantine: Arc<Quarantine>,
}

impl LinkConfig {
    /// The same, for trying whether the broker closes it.
    pub(super) fn for_trial(&self) -> Self {
        Self {
            is_trial: true,
            ..self.with_purpose("trial of a queue")
        }
    }

    /// The same, for something else.
    pub(super) fn with_purpose(&self, purpose: impl Into<Box<str>>) -> Self {
        Self {
            purpose: purpose.into(),
            ..self.clone()
        }
    }

    /// The connection's name on the broker's management page.
    pub(super) fn name(&self) -> String {
        let (node, purpose, vhost) = (&self.node, &self.purpose, &self.uri.vhost);
        format!("stentor {node} {purpose}, {vhost}")
    }

    /// One with short pauses, to that URL.
    #[cfg(test)]
    pub(super) fn of_a_test(uri: &str) -> Self {
        let uri: AMQPUri = uri.parse().unwrap();
        let host = super::hosts::Host {
            name: uri.authority.host.as_str().into(),
            port: uri.authority.port,
        };
        let pause = Duration::from_secs(1);
        Self {
            account: Arc::new(Account::of_a_test(&uri)),
            uri,
            hosts: Arc::new(Hosts::new(vec![host])),
            node: "node".into(),
            purpose: "a test".into(),
            connection_timeout: pause,
            reconnect: (pause, pause),
            unready_after: pause,
            connections: Arc::default(),
            outages: Arc::default(),
            is_trial: false,
            quarantine: Arc::default(),
        }
    }
}

/// One AMQP connection, kept up in the background for as long as this lives.
pub(super) struct AmqpLink {
    state: watch::Receiver<LinkState>,
    unready_after: Duration,
    is_of_trials: bool,
    is_closed: AtomicBool,
    task: AbortOnDropHandle<()>,
}

#[derive(Clone)]
enum LinkState {
    /// The first attempt is under way.
    New,
    Down(BrokerError, Outage),
    Up(Arc<Live>),
}

/// Since when a connection is away.
#[derive(Clone, Copy, Default)]
pub(super) struct Outage {
    /// `None`: it was never there.
    since: Option<Instant>,
}

impl Outage {
    /// It was lost just now.
    pub(super) fn new() -> Self {
        Self {
            since: Some(Instant::now()),
        }
    }

    /// Whether it was there, and is away for less than `patience`.
    pub(super) fn is_short(self, patience: Duration) -> bool {
        self.since.is_some_and(|since| since.elapsed() < patience)
    }
}

/// A connection that is logged in, and stays so: it hears of new tokens.
pub(super) struct LoggedIn {
    connection: Arc<Connection>,
    _renewing: Option<AbortOnDropHandle<()>>,
}

impl LoggedIn {
    pub(super) fn new(
        connection: Arc<Connection>,
        renewing: Option<AbortOnDropHandle<()>>,
    ) -> Self {
        Self {
            connection,
            _renewing: renewing,
        }
    }
}

/// lapin ends it by itself when the last of its channels has ended; but one may wait for an answer that
/// never comes.
impl Drop for LoggedIn {
    fn drop(&mut self) {
        if self.connection.status().connected() && Handle::try_current().is_ok() {
            background::spawn(end(Arc::clone(&self.connection)));
        }
    }
}

/// Ends a connection in good order. Whatever goes wrong now, the broker sees the socket close.
async fn end(connection: Arc<Connection>) {
    let closing = connection.close(200, "bye".into());
    let _ = tokio::time::timeout(Duration::from_secs(2), closing).await;
}

impl Deref for LoggedIn {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

/// A connection that was up when it was handed out.
pub(super) struct Live {
    connection: LoggedIn,
    /// Which connection of the link this is, from 1.
    pub(super) epoch: u64,
    /// Whether the broker takes no messages; its sender lives as long as the connection.
    blocked: watch::Receiver<bool>,
    /// For [`Passing`] channels.
    passing: Arc<Semaphore>,
    /// Of all others, which may be at an end.
    channels: Mutex<Vec<ChannelStatus>>,
    asked: Asked,
    quarantine: Arc<Quarantine>,
}

impl AmqpLink {
    pub(super) fn start(config: LinkConfig) -> Self {
        let (sender, state) = watch::channel(LinkState::New);
        let (unready_after, is_of_trials) = (config.unready_after, config.is_trial);
        let task = background::spawn(supervise(config, sender));
        Self {
            state,
            unready_after,
            is_of_trials,
            is_closed: AtomicBool::new(false),
            task: AbortOnDropHandle::new(task),
        }
    }

    /// Whether it was made for [trials](LinkConfig::for_trial).
    pub(super) fn is_of_trials(&self) -> bool {
        self.is_of_trials
    }

    /// Whether the connection is up; if not, why.
    pub(super) fn health(&self) -> Result<(), BrokerError> {
        match &*self.state.borrow() {
            _ if self.is_closed.load(Ordering::Relaxed) => {
                Err(BrokerError::Unavailable("the connection was closed".into()))
            }
            LinkState::Up(_) => Ok(()),
            LinkState::New => Err(BrokerError::Unavailable("not connected yet".into())),
            LinkState::Down(error, _) => Err(error.clone()),
        }
    }

    /// As [`AmqpLink::health`], but a connection that was lost has a while to be made again.
    pub(super) fn readiness(&self) -> Result<(), BrokerError> {
        match &*self.state.borrow() {
            // The broker's own word.
            LinkState::Down(BrokerError::VhostRefused(_), _) => {}
            LinkState::Down(_, outage) if outage.is_short(self.unready_after) => return Ok(()),
            _ => {}
        }
        self.health()
    }

    /// Whether the connection is up, or was.
    pub(super) fn was_up(&self) -> bool {
        match &*self.state.borrow() {
            LinkState::New | LinkState::Down(_, Outage { since: None }) => false,
            LinkState::Up(_) | LinkState::Down(..) => true,
        }
    }

    /// How many channels of this connection may be held for as long as their holders like. A part
    /// of those that were agreed on stays for what passes; and those whose end the broker does not
    /// answer are lost to it.
    pub(super) fn capacity(&self) -> usize {
        match &*self.state.borrow() {
            LinkState::Up(live) => live.capacity(),
            LinkState::New | LinkState::Down(..) => MAX_HELD,
        }
    }

    /// What [`AmqpLink::health`] says when the first attempt is over.
    pub(super) async fn opened(&self) -> Result<(), BrokerError> {
        let mut state = self.state.clone();
        // If the supervisor has ended, the link was closed.
        let _ = state
            .wait_for(|state| !matches!(state, LinkState::New))
            .await;
        self.health()
    }

    /// The connection, as soon as it is up.
    pub(super) async fn wait(&self) -> Arc<Live> {
        loop {
            let mut state = self.state.clone();
            let current = state.borrow_and_update().clone();
            if let LinkState::Up(live) = current {
                return live;
            }
            if state.changed().await.is_err() {
                // The supervisor ends only with the link itself, and so with the caller.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Done when that connection is the link's no more.
    pub(super) async fn ended(&self, live: &Live) {
        let is_another = |state: &LinkState| match state {
            LinkState::Up(current) => current.epoch != live.epoch,
            LinkState::New | LinkState::Down(..) => true,
        };
        // The supervisor ends only with the link itself, and so with the caller.
        if self.state.clone().wait_for(is_another).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// The connection, if it is up by `deadline`. A virtual host that was refused is not waited
    /// for.
    pub(super) async fn wait_until(&self, deadline: Instant) -> Result<Arc<Live>, BrokerError> {
        if let Err(error @ BrokerError::VhostRefused(_)) = self.health() {
            return Err(error);
        }
        match tokio::time::timeout_at(deadline, self.wait()).await {
            Ok(live) => Ok(live),
            Err(_) => Err(self.health().err().unwrap_or_else(|| {
                BrokerError::Unavailable("the connection was made too late".into())
            })),
        }
    }

    /// Closes the connection in good order, if it is up, and makes no other.
    pub(super) async fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
        self.task.abort();
        let state = self.state.borrow().clone();
        if let LinkState::Up(live) = state {
            live.close().await;
        }
    }
}

/// Channels of one connection that may be held: RabbitMQ allows 2,047, unless it is configured.
const MAX_HELD: usize = 1_000;

/// Those that pass, at a time.
const MAX_PASSING: usize = 200;

fn agreed_channels(connection: &Connection) -> usize {
    usize::from(connection.configuration().channel_max())
}

impl Live {
    /// A connection, and the place to say whether the broker takes messages on it.
    pub(super) fn new(
        connection: LoggedIn,
        epoch: u64,
        quarantine: Arc<Quarantine>,
    ) -> (Self, watch::Sender<bool>) {
        let (blocked, watch_blocked) = watch::channel(false);
        let passing = (agreed_channels(&connection) / 4).clamp(1, MAX_PASSING);
        let live = Self {
            connection,
            epoch,
            blocked: watch_blocked,
            passing: Arc::new(Semaphore::new(passing)),
            channels: Mutex::default(),
            asked: Asked::default(),
            quarantine,
        };
        (live, blocked)
    }

    /// Closes it in good order.
    pub(super) async fn close(&self) {
        end(Arc::clone(&self.connection.connection)).await;
    }

    fn capacity(&self) -> usize {
        let agreed = agreed_channels(&self.connection);
        let room = agreed.saturating_sub(agreed / 4).max(1);
        let channels = self.channels.lock();
        let unanswered = channels.iter().filter(|status| status.closing()).count();
        room.saturating_sub(unanswered).min(MAX_HELD)
    }

    /// The largest frame that both sides take, in bytes.
    pub(super) fn frame_max(&self) -> usize {
        usize::try_from(self.connection.configuration().frame_max()).unwrap_or(usize::MAX)
    }

    /// Notes that the broker is asked for a queue, until it has answered: if it closes the
    /// connection instead, the queue is under suspicion. If it is [silent](super::silence) about the
    /// queue, that is in quarantine.
    pub(super) async fn asking<T>(
        &self,
        queue: &str,
        asking: impl Future<Output = Result<T, BrokerError>>,
    ) -> Result<T, BrokerError> {
        // The broker makes up a name that nobody asks for again. And consumers may hear of the end of
        // their connection before the link does: of what they ask then, the broker hears nothing.
        if queue.is_empty() || !self.connection.status().connected() {
            return asking.await;
        }
        let begun = Instant::now();
        let question = self.asked.begin(queue);
        let outcome = asking.await;
        match &outcome {
            // The answer may come all the same to a caller that gave up waiting.
            Err(BrokerError::Unavailable(cause)) if cause.is_silence() => {
                // Another caller may have found it out.
                self.quarantine.check(queue)?;
                if self.asked.is_queue_s(begun) {
                    return Err(self.quarantine.failed(queue, UNANSWERED));
                }
            }
            Err(BrokerError::Unavailable(_)) => {}
            _ => question.answered(),
        }
        outcome
    }

    /// A new channel.
    pub(super) async fn channel(&self, deadline: Instant) -> Result<Channel, BrokerError> {
        let creating = answer(deadline, self.connection.create_channel());
        let channel = unless_lost(&self.blocked, creating).await?;
        let mut channels = self.channels.lock();
        channels.retain(|status| status.connected() || status.closing());
        channels.push(channel.status().clone());
        Ok(channel)
    }

    /// A new channel for one call.
    pub(super) async fn passing(&self, deadline: Instant) -> Result<Passing, BrokerError> {
        let turn = Arc::clone(&self.passing).acquire_owned();
        let Ok(Ok(turn)) = tokio::time::timeout_at(deadline, turn).await else {
            let text = "too many calls wait for a channel";
            return Err(BrokerError::Unavailable(text.into()));
        };
        let (connection, lifetime) = (
            Arc::clone(&self.connection.connection),
            self.blocked.clone(),
        );
        // Its number is taken from now on, whether its caller waits for the answer or not.
        let opening = background::spawn(async move {
            let creating = async {
                let channel = connection.create_channel().await;
                channel.map_err(|error| broker_error(&error))
            };
            let channel = unless_lost(&lifetime, creating).await?;
            Ok(Passing::new(channel, turn, lifetime))
        });
        match tokio::time::timeout_at(deadline, opening).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(_)) => Err(BrokerError::Unavailable("shutting down".into())),
            Err(_) => Err(BrokerError::Unavailable(late())),
        }
    }

    /// Waits while the broker takes no messages, for want of memory or disk.
    pub(super) async fn unblocked(&self) {
        // If the sender is gone, the connection is, and the next call on it says so.
        let _ = self.blocked.clone().wait_for(|blocked| !blocked).await;
    }
}

/// The broker's answer to a call, if it comes by `deadline`.
pub(super) async fn answer<T>(
    deadline: Instant,
    call: impl Future<Output = lapin::Result<T>>,
) -> Result<T, BrokerError> {
    match tokio::time::timeout_at(deadline, call).await {
        Ok(outcome) => outcome.map_err(|error| broker_error(&error)),
        Err(_) => Err(BrokerError::Unavailable(late())),
    }
}

/// What a call says; or that its connection was lost, of which the end of `connection` tells. lapin
/// leaves a call that it gets just then without an answer.
pub(super) async fn unless_lost<T>(
    connection: &watch::Receiver<bool>,
    call: impl Future<Output = Result<T, BrokerError>>,
) -> Result<T, BrokerError> {
    let mut connection = connection.clone();
    let ended = async { while connection.changed().await.is_ok() {} };
    tokio::select! {
        biased;
        outcome = call => outcome,
        () = ended => Err(BrokerError::Unavailable("the connection was lost".into())),
    }
}

/// Why a link leaves a node that is up.
pub(super) fn cut_off() -> BrokerError {
    BrokerError::Unavailable("its node is cut off from its cluster".into())
}

/// Said where the broker leaves a call without an answer; why, that does not tell.
pub(super) fn late() -> Cause {
    "it did not answer in time".into()
}

async fn supervise(config: LinkConfig, state: watch::Sender<LinkState>) {
    let mut backoff = Backoff::new(config.reconnect);
    let log = LinkLog::new(&config);
    let mut epoch = 0_u64;
    let mut outage = Outage::default();
    loop {
        let (Unreached { error, place }, lasted) = match connect(&config).await {
            Ok((connection, address)) => {
                epoch = epoch.wrapping_add(1);
                if !config.is_trial {
                    config.connections.fetch_add(1, Ordering::Relaxed);
                }
                log.up(&address);
                let since = Instant::now();
                let in_use = config.hosts.used_by(&address);
                let error = run(connection, &config, &in_use, epoch, &state).await;
                outage = Outage::new();
                (config.lost(&address, error), since.elapsed())
            }
            Err(unreached) => {
                if let BrokerError::VhostRefused(_) = unreached.error {
                    backoff.be_patient();
                }
                (unreached, Duration::ZERO)
            }
        };
        state.send_replace(LinkState::Down(down(error.clone()), outage));
        backoff.lasted(lasted);
        let pause = config.pause(&mut backoff, lasted);
        log.down(&place, &error, pause);
        tokio::time::sleep(pause).await;
    }
}

impl LinkConfig {
    /// A link to that address was lost.
    pub(super) fn lost(&self, address: &Address, error: BrokerError) -> Unreached {
        // It is not the machine's fault if the broker closes a link over what it was asked for.
        if !matches!(&error, BrokerError::Unavailable(cause) if cause.is_verdict()) {
            self.hosts.failed(address);
        }
        let place = address.to_string().into();
        Unreached { error, place }
    }

    /// How long to pause before the next attempt, after a link that lasted so long: not at all, if
    /// it worked and there is another machine to try. Zero: it could not be made at any.
    pub(super) fn pause(&self, backoff: &mut Backoff, lasted: Duration) -> Duration {
        let (shortest, _) = self.reconnect;
        // A link that is lost at once, wherever it leads to, must not be made anew in a circle.
        if self.hosts.are_many() && lasted >= shortest {
            return Duration::ZERO;
        }
        backoff.pause()
    }
}

/// Connects by lapin, at any of the broker's addresses.
pub(super) async fn connect(config: &LinkConfig) -> Result<(LoggedIn, Address), Unreached> {
    let credentials = &config.credentials().await?;
    let dialled = dial(config, |address| open(config, address, credentials)).await;
    let (connection, address) = config.told(credentials, dialled)?;
    let connection = Arc::new(connection);
    let renewals = config.account.renewals(credentials);
    let renewing = renewals.map(|renewals| {
        let (config, connection) = (config.clone(), Arc::downgrade(&connection));
        let update = move |token: Arc<Numbered>| {
            let connection = connection.upgrade();
            async move {
                let secret = token.reveal().into();
                Some(connection?.update_secret(secret, RENEWED.into()).await)
            }
        };
        let renewing = async move { config.renew(renewals, update).await };
        AbortOnDropHandle::new(background::spawn(renewing))
    });
    Ok((LoggedIn::new(connection, renewing), address))
}

/// The reason for a new token, in the broker's log.
pub(super) const RENEWED: &str = "the former token ends";

impl LinkConfig {
    /// What to log in by, now.
    pub(super) async fn credentials(&self) -> Result<Credentials, Unreached> {
        let credentials = self.account.credentials().await;
        credentials.map_err(|error| Unreached {
            error,
            place: "not asked".into(),
        })
    }

    /// The outcome of an attempt to log in by these, of which the account is told.
    pub(super) fn told<C>(
        &self,
        credentials: &Credentials,
        dialled: Result<C, Unreached>,
    ) -> Result<C, Unreached> {
        match &dialled {
            Ok(_) => self.account.accepted(credentials),
            Err(unreached) => {
                if let BrokerError::AccessRefused(_) = unreached.error {
                    self.account.refused(credentials);
                }
            }
        }
        dialled
    }

    /// Tells a connection each new token. `update` is `None` if there is no connection any more.
    /// What the broker does not answer in time, or by its end, is told; the connection goes on with
    /// the token of before for as long as the broker lets it. A token is not sent to it again: one that
    /// has no answer yet is on its way, and an error is the connection's end, behind which a new one
    /// logs in.
    pub(super) async fn renew<E: ToString, F: Future<Output = Option<Result<(), E>>>>(
        &self,
        mut renewals: Renewals,
        update: impl Fn(Arc<Numbered>) -> F,
    ) {
        let (purpose, vhost) = (&*self.purpose, &*self.uri.vhost);
        loop {
            let token = renewals.next().await;
            let cause = match tokio::time::timeout(self.connection_timeout, update(token)).await {
                Ok(Some(Ok(()))) => {
                    telemetry::broker_login_renewed(purpose, vhost);
                    continue;
                }
                Ok(Some(Err(error))) => error.to_string(),
                Ok(None) => return,
                Err(_) => late().to_string(),
            };
            telemetry::broker_login_not_renewed(purpose, vhost, &cause);
        }
    }
}

/// Connects by lapin, at that address.
pub(super) async fn open(
    config: &LinkConfig,
    address: Address,
    credentials: &Credentials,
) -> Result<Connection, BrokerError> {
    let properties = ConnectionProperties::default()
        .with_auth_provider(credentials.provider())
        .with_connection_name(config.name().into_bytes().into())
        .with_client_property("product".into(), "Stentor".into())
        .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into());
    let (socket, patience) = (address.socket, config.patience());
    let identity = credentials.certificate.as_ref().map(|certificate| {
        let (pem, key) = certificate.pem();
        let [pem, key] = [pem, key].map(<[u8]>::to_vec);
        OwnedIdentity::PKCS8 { pem, key }
    });
    let tls = OwnedTLSConfig {
        identity,
        ..OwnedTLSConfig::default()
    };
    // lapin would resolve the name itself, and take the first address that answers.
    let connecting = async {
        let uri = config.uri_at(&address);
        Connection::connector(
            uri,
            default_runtime()?,
            async move |uri: AMQPUri, runtime| {
                let connecting = AsyncTcpStream::connect(&runtime, socket);
                let stream = match tokio::time::timeout(patience, connecting).await {
                    Ok(connected) => connected?,
                    Err(_) => return Err(io::Error::from(io::ErrorKind::TimedOut).into()),
                };
                Ok(match uri.scheme {
                    AMQPScheme::AMQP => stream,
                    AMQPScheme::AMQPS => {
                        let host = uri.authority.host.as_str();
                        stream.into_tls(host, tls.as_ref()).await?
                    }
                })
            },
            properties,
        )
        .await
    };
    connecting.await.map_err(|error| broker_error(&error))
}

/// What is to be said of an error where "not reachable" is said already.
pub(super) fn bare(error: &BrokerError) -> Arc<str> {
    match error {
        BrokerError::Unavailable(cause) => cause.to_string().into(),
        other => other.to_string().into(),
    }
}

/// [`bare`] for the log of an operator, who can do something about it.
pub(super) fn advised(error: &BrokerError, account: &Account) -> String {
    let cause = bare(error);
    match error {
        BrokerError::AccessRefused(_) if !cause.starts_with(UNREADABLE) => {
            format!("{cause} {}", account.advice())
        }
        BrokerError::VhostRefused(_) => format!(
            "{cause}. Is it there, and may the gateway's account use it (rabbitmqctl add_vhost, \
             set_permissions)?"
        ),
        _ => cause.as_ref().into(),
    }
}

/// What those hear who need the connection meanwhile.
pub(super) fn down(error: BrokerError) -> BrokerError {
    match error {
        BrokerError::VhostRefused(_) => error,
        BrokerError::Unavailable(cause) => BrokerError::Unavailable(cause),
        other => BrokerError::Unavailable(Cause::foreign(other.to_string())),
    }
}

/// Offers the connection until it is lost; why it was.
async fn run(
    connection: LoggedIn,
    config: &LinkConfig,
    in_use: &InUse,
    epoch: u64,
    state: &watch::Sender<LinkState>,
) -> BrokerError {
    let (purpose, vhost) = (&*config.purpose, &*config.uri.vhost);
    let mut events = Box::pin(connection.events_listener());
    let status = connection.status().clone();
    let (live, blocked) = Live::new(connection, epoch, Arc::clone(&config.quarantine));
    let live = Arc::new(live);
    state.send_replace(LinkState::Up(Arc::clone(&live)));
    let mut cause = BrokerError::Unavailable("the connection was closed".into());
    loop {
        // What was said before the end is heard after it, too.
        let event = if status.connected() {
            tokio::select! {
                event = events.next() => event,
                () = in_use.left() => {
                    // It may answer this no more than anything else.
                    background::spawn(async move { live.close().await });
                    return cut_off();
                }
            }
        } else {
            events.next().now_or_never().flatten()
        };
        match event {
            Some(Event::ConnectionBlocked(why)) => {
                telemetry::broker_blocked(purpose, vhost, &why);
                blocked.send_replace(true);
            }
            Some(Event::ConnectionUnblocked) => {
                telemetry::broker_unblocked(purpose, vhost);
                blocked.send_replace(false);
            }
            // What one channel was closed for is its client's to hear, and nobody else's.
            Some(Event::Error(error)) if error.is_amqp_soft_error() => {}
            Some(Event::Error(error)) => cause = cause_of(&error),
            Some(_) => {}
            None => break,
        }
    }
    if let BrokerError::Unavailable(cause) = &cause
        && cause.is_verdict()
    {
        let suspects = live.asked.take();
        if !suspects.is_empty() {
            telemetry::queues_suspected(vhost, &suspects);
            config.quarantine.suspect(suspects);
        }
    }
    cause
}

/// What ended a connection.
fn cause_of(error: &lapin::Error) -> BrokerError {
    match error.kind() {
        ErrorKind::ParsingError(_) => {
            let text = format!("the broker sent a message that lapin cannot read: {error}");
            BrokerError::Unavailable(Cause::foreign(text))
        }
        _ => broker_error(error),
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;
    use crate::{broker::amqp::stub::Stub, deadline::after};

    /// Consumers may come back to their queues before the link has noticed the end.
    #[tokio::test]
    async fn what_is_asked_on_a_connection_that_has_ended_is_no_suspect() {
        let stub = Stub::of_queues(2047).await;
        let link = AmqpLink::start(stub.config());
        let live = link.wait().await;
        let lost = || ready(Err::<(), _>(BrokerError::Unavailable("lost".into())));
        live.asking("before", lost()).await.unwrap_err();
        live.close().await;
        live.asking("behind", lost()).await.unwrap_err();
        assert_eq!(live.asked.take(), [Box::from("before")]);
    }

    /// As lapin leaves it that is asked for a channel while the connection ends.
    #[tokio::test(start_paused = true)]
    async fn a_call_without_an_answer_ends_with_its_connection() {
        let (sender, connection) = watch::channel(false);
        let call = answer(
            after(Duration::from_secs(10)),
            pending::<lapin::Result<()>>(),
        );
        let begun = Instant::now();
        let ending = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            // An alarm is no end.
            sender.send_replace(true);
            tokio::time::sleep(Duration::from_secs(1)).await;
            drop(sender);
        };
        let (outcome, ()) = tokio::join!(unless_lost(&connection, call), ending);
        assert!(matches!(outcome, Err(BrokerError::Unavailable(_))));
        assert_eq!(begun.elapsed(), Duration::from_secs(2));
        // What it said before that is heard.
        let said = unless_lost(&connection, ready(Ok(()))).await;
        assert_eq!(said, Ok(()));
    }
}
