//! What a connection is served by, and who is at its other end.

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use stomp_grammar::Limits as DecoderLimits;
use tokio::time::Instant;

use super::{
    config::{Limits, Stomp, session_config},
    login::Logins,
    mapping,
    policy::Sessions,
    registry::{Guard, Registry},
    rights::Rights,
};
use crate::{
    auth::{self, Authenticator, Carried, User},
    broker,
    control::Control,
    hub::{Hub, Mailbox, MailboxConfig, VhostHub},
    node::{Account, Memory, Room},
    presence::{Device, Presence, Session, Status},
    telemetry::{self, ConnectionInfo},
};

/// What all connections of this node are served by.
pub struct Services {
    /// The virtual hosts.
    pub hub: Hub,
    /// Who may do what.
    pub auth: Arc<dyn Authenticator>,
    /// Who is online; `None`: nobody asks.
    pub presence: Option<Arc<dyn Presence>>,
    /// Who is connected.
    pub registry: Arc<Registry>,
    /// What is done to sessions of any node.
    pub control: Control,
    /// How much memory there is, and the room for what clients send.
    pub memory: Arc<Memory>,
    pub(super) settings: Settings,
    /// What the strokes of all timers count from.
    pub(super) started: Instant,
}

/// How connections behave.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The `[limits]` section.
    pub limits: Limits,
    /// The `[stomp]` section.
    pub stomp: Stomp,
    /// The `[mailbox]` section.
    pub mailbox: MailboxConfig,
    /// The virtual host of clients that name none.
    pub default_vhost: Arc<str>,
    /// Whether messages name their user in AMQP's own property (`broker.impersonate`).
    pub impersonate: bool,
    /// Whether a client is told the hook's reason for a refusal (`auth.disclose_reason`).
    pub disclose_reason: bool,
    /// How often the hook is asked again about a session (`auth.recheck`), and about how many at a
    /// time; `None`: never.
    pub recheck: Option<Recheck>,
    /// The `[sessions]` section.
    pub sessions: Sessions,
    /// Ways to log in besides `login` and `passcode`.
    pub logins: Logins,
    /// How long what a client asks for may wait (`broker.operation_timeout`).
    pub operation_timeout: Duration,
    /// The exchange of presence events, to which nobody but the gateway publishes.
    pub events_exchange: Option<Arc<str>>,
    session: Arc<stomp_session::Config>,
}

/// How the hook is asked again about sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recheck {
    /// About each once in so long.
    pub interval: Duration,
    /// About so many at a time: logins need the hook, too.
    pub at_a_time: usize,
}

impl Settings {
    /// Settings from the sections of the configuration, on the node of that name.
    #[must_use]
    pub fn new(
        limits: Limits,
        stomp: Stomp,
        mailbox: MailboxConfig,
        broker: &broker::Config,
        auth: &auth::Config,
        node: &str,
    ) -> Self {
        let session = Arc::new(session_config(&limits, &stomp, auth, broker));
        Self {
            limits,
            stomp,
            mailbox,
            default_vhost: broker.default_vhost.as_str().into(),
            impersonate: broker.impersonate,
            disclose_reason: auth.disclose_reason,
            recheck: (!auth.recheck.is_zero()).then(|| Recheck {
                interval: auth.recheck,
                at_a_time: (auth.max_calls / 2).max(1),
            }),
            logins: Logins::new(auth, node),
            operation_timeout: broker.operation_timeout,
            events_exchange: None,
            sessions: Sessions::default(),
            session,
        }
    }

    pub(super) fn session(&self) -> Arc<stomp_session::Config> {
        Arc::clone(&self.session)
    }

    pub(super) fn first_limits(&self) -> DecoderLimits {
        self.limits.decoder_unauthenticated()
    }
}

impl Services {
    /// Puts the parts together.
    #[must_use]
    pub fn new(
        hub: Hub,
        auth: Arc<dyn Authenticator>,
        presence: Option<Arc<dyn Presence>>,
        registry: Arc<Registry>,
        control: Control,
        settings: Settings,
    ) -> Arc<Self> {
        let memory = Memory::new(Room::new(settings.limits.share()));
        Arc::new(Self {
            hub,
            auth,
            memory,
            presence,
            registry,
            control,
            settings,
            started: Instant::now(),
        })
    }

    /// How connections behave.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Takes a place for a connection; `None` if there is none left.
    #[must_use]
    pub fn enter(&self) -> Option<Guard> {
        self.registry
            .enter(Mailbox::new(self.settings.mailbox.clone()))
    }
}

/// Where a client connects from, and how.
#[derive(Debug)]
pub struct Peer {
    /// Its address.
    pub remote: SocketAddr,
    /// The transport: `websocket`, `tcp`, or one of SockJS, such as `xhr-streaming`.
    pub transport: &'static str,
    /// What the transport's opening brought for the login.
    pub carried: Option<Box<Carried>>,
}

/// One connection, as the work done for it sees it.
pub(super) struct Context {
    pub(super) services: Arc<Services>,
    pub(super) remote: SocketAddr,
    pub(super) transport: &'static str,
    pub(super) guard: Guard,
    /// The session's id: unique, and not to be guessed.
    pub(super) session: Box<str>,
    identity: OnceLock<Identity>,
    /// As presence knows it; it leaves with this.
    here: OnceLock<Arc<Session>>,
    /// The status to join presence with.
    status: Mutex<Status>,
    /// Whether the broker has heard of the action that is being done.
    is_handing: AtomicBool,
}

/// Who a client turned out to be.
pub(super) struct Identity {
    pub(super) user: User,
    pub(super) vhost: Arc<VhostHub>,
    /// What the hook is asked about again, if it is.
    pub(super) rights: Option<Box<Rights>>,
}

impl Context {
    pub(super) fn new(
        services: Arc<Services>,
        peer: &Peer,
        guard: Guard,
        session: Box<str>,
    ) -> Arc<Self> {
        telemetry::connection_began(peer.transport);
        Arc::new(Self {
            services,
            remote: peer.remote,
            transport: peer.transport,
            guard,
            session,
            identity: OnceLock::new(),
            here: OnceLock::new(),
            status: Mutex::default(),
            is_handing: AtomicBool::new(false),
        })
    }

    /// For what it sends; `None` before the login.
    pub(super) fn account(&self) -> Option<Arc<Account>> {
        let user = &self.identity()?.user.name;
        let room = self.services.memory.room();
        Some(Account::new(room, user, self.guard.number()))
    }

    /// As log lines name the connection.
    pub(super) fn info(&self) -> ConnectionInfo<'_> {
        ConnectionInfo {
            session: &self.session,
            user: self.identity().map(|identity| &*identity.user.name),
            vhost: self.identity().map(|identity| &**identity.vhost.name()),
            transport: self.transport,
            remote: self.remote,
        }
    }

    /// `None` before the login.
    pub(super) fn identity(&self) -> Option<&Identity> {
        self.identity.get()
    }

    pub(super) fn set_identity(self: &Arc<Self>, identity: Identity) {
        // The session lets nobody log in twice.
        if self.identity.set(identity).is_ok()
            && let Some(identity) = self.identity()
        {
            identity.vhost.join(self.guard.mailbox());
            self.guard.logged_in(self);
        }
    }

    /// What the hook is asked about again, if it is.
    pub(super) fn rights(&self) -> Option<&Rights> {
        self.identity()?.rights.as_deref()
    }

    /// Joins presence, if there is any, once logged in. A session that was admitted has joined
    /// before its groups were known.
    pub(super) fn join(&self, groups: Vec<Arc<str>>, device: Option<Box<Device>>) {
        let (Some(presence), Some(identity)) = (&self.services.presence, self.identity()) else {
            return;
        };
        if let Some(session) = self.here() {
            return presence.regroup(session, groups);
        }
        let session = Arc::new(self.presence_session(&identity.user.name, groups, device));
        self.is_here(&session);
        presence.join(session);
    }

    /// This session, as presence is to know it.
    pub(super) fn presence_session(
        &self,
        user: &Arc<str>,
        groups: Vec<Arc<str>>,
        device: Option<Box<Device>>,
    ) -> Session {
        let session = Session::new(Arc::clone(user), &self.session, self.transport, groups);
        let mut session = session.with_status(*self.status.lock());
        session.remote = Some(self.remote);
        session.device = device;
        session
    }

    /// An action is begun that the broker has not heard of, or it will now. Only the connection's
    /// own task says so and asks.
    pub(super) fn set_handing(&self, is_handing: bool) {
        self.is_handing.store(is_handing, Ordering::Relaxed);
    }

    /// Whether the broker has heard of the action that is being done.
    pub(super) fn is_handing(&self) -> bool {
        self.is_handing.load(Ordering::Relaxed)
    }

    /// As presence knows this session, if it does.
    pub(super) fn here(&self) -> Option<&Arc<Session>> {
        self.here.get()
    }

    /// Presence knows this session; it leaves with this.
    pub(super) fn is_here(&self, session: &Arc<Session>) {
        // One logs in once, and its groups are asked for once.
        let _ = self.here.set(Arc::clone(session));
    }

    /// The client says how available it is. Before it has joined presence it joins with that.
    pub(super) fn say(&self, status: Status) {
        match (&self.services.presence, self.here.get()) {
            (Some(presence), Some(session)) => presence.set_status(session, status),
            _ => *self.status.lock() = status,
        }
    }

    /// Leaves the virtual host and presence, if it had joined.
    pub(super) fn leave(&self) {
        if let Some(identity) = self.identity() {
            identity.vhost.leave(self.guard.mailbox());
        }
        if let (Some(presence), Some(session)) = (&self.services.presence, self.here.get()) {
            presence.leave(session);
        }
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.services.settings
    }

    pub(super) fn mapping<'a>(&'a self, identity: &'a Identity) -> mapping::Context<'a> {
        let Settings {
            limits,
            stomp,
            impersonate,
            ..
        } = self.settings();
        mapping::Context {
            user: &identity.user.name,
            impersonate: *impersonate,
            topics: &stomp.default_topic_exchange,
            auto_prefetch: limits.auto_prefetch,
            max_unacked: limits.max_unacked,
            keys: limits.keys(),
        }
    }
}

/// Also when the connection's task is dropped.
impl Drop for Context {
    fn drop(&mut self) {
        self.leave();
        telemetry::connection_gone(self.transport);
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} in {:?}", self.user.name, self.vhost.name())
    }
}
