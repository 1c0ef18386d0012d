//! What all connections of a node are served by.

use std::sync::Arc;

use parking_lot::RwLock;
use stomp_session::Problem;
use tokio::time::Instant;

use super::{
    last_writes::LastWrites,
    limits::{ClientAddress, FailedLogins, Users},
    memory::Memory,
    registry::{Guard, Registry},
    room::Room,
    settings::Settings,
};
use crate::{
    auth::Authenticator,
    control::Control,
    hub::{Mailbox, Vhosts},
    messaging::SequenceStore,
    presence::{Presence, rooms::Rooms},
    webhooks::Webhooks,
};

/// What all connections of this node are served by.
pub struct Services {
    /// The virtual hosts.
    pub vhosts: Vhosts,
    /// Who may do what.
    pub auth: Arc<dyn Authenticator>,
    /// Who is online; `None`: nobody asks.
    pub presence: Option<Arc<dyn Presence>>,
    /// Who is subscribed to which key; `None`: no exchange asks for it.
    pub rooms: Option<Arc<dyn Rooms>>,
    /// Messages that are published once; `None`: they are off.
    pub sequences: Option<Arc<dyn SequenceStore>>,
    /// Who is connected.
    pub registry: Arc<Registry>,
    /// What is done to sessions of any node.
    pub control: Control,
    /// How much memory there is, and the room for what clients send.
    pub memory: Arc<Memory>,
    /// The users that are connected, and what they have.
    pub users: Arc<Users>,
    /// Logins that failed.
    pub failed_logins: Arc<FailedLogins>,
    /// The application's own ears, by HTTP; `None`: it has none.
    pub webhooks: Option<Arc<Webhooks>>,
    /// What sessions leave to be written: bookmarks.
    pub last_writes: LastWrites,
    /// The exchange of presence events, to which nobody but the gateway publishes.
    pub(super) events_exchange: Option<Arc<str>>,
    /// The exchange of messages for those who are away.
    pub(super) offline_exchange: Option<Arc<str>>,
    settings: RwLock<Arc<Settings>>,
    started: Instant,
}

impl Services {
    /// Puts the parts together.
    #[must_use]
    pub fn new(
        vhosts: Vhosts,
        auth: Arc<dyn Authenticator>,
        presence: Option<Arc<dyn Presence>>,
        sequences: Option<Arc<dyn SequenceStore>>,
        registry: Arc<Registry>,
        control: Control,
        settings: Settings,
    ) -> Arc<Self> {
        let memory = Memory::new(Room::new(settings.limits.share()));
        let started = Instant::now();
        Arc::new(Self {
            vhosts,
            auth,
            memory,
            rooms: presence.as_ref().and_then(|presence| presence.rooms()),
            presence,
            sequences,
            registry,
            control,
            users: Users::new(&settings.limits),
            failed_logins: FailedLogins::new(&settings.limits),
            webhooks: settings.webhooks.clone(),
            last_writes: LastWrites::default(),
            events_exchange: settings.events_exchange.clone(),
            offline_exchange: settings.offline_exchange.clone(),
            settings: RwLock::new(Arc::new(settings.since(started))),
            started,
        })
    }

    /// How connections behave that begin now. Each keeps these.
    #[must_use]
    pub fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.read())
    }

    /// Connections that begin from now on behave so. The limits of addresses, users and the node
    /// count at once for everybody, but take nothing from those that have more; so many may be
    /// logged in from now on.
    pub fn replace_settings(&self, settings: Settings, max_connections: usize) {
        let limits = settings.limits.clone();
        let before = self.settings();
        *self.settings.write() = Arc::new(settings.since(self.started));
        self.registry.set_max(max_connections);
        if before.limits == limits {
            return;
        }
        self.registry.set_limits(&limits);
        self.users.set_limits(&limits);
        self.failed_logins.set_limits(&limits);
        self.memory.room().set_share(limits.share());
    }

    /// Whether presence events are published.
    #[must_use]
    pub fn has_events(&self) -> bool {
        self.events_exchange.is_some()
    }

    /// When they began: what the strokes of all timers count from.
    #[must_use]
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Takes a place for a connection; `None` if there is none left.
    #[must_use]
    pub fn enter(&self) -> Option<Guard> {
        self.registry
            .enter(Mailbox::new(self.settings().mailbox.clone()))
    }

    /// The same, if the address that it comes from has not too many.
    ///
    /// # Errors
    /// The client's answer.
    pub fn enter_from(&self, client: ClientAddress) -> Result<Guard, Problem> {
        let mailbox = Mailbox::new(self.settings().mailbox.clone());
        self.registry.enter_from(client, mailbox)
    }
}
