//! What all connections of a node are served by.

use std::sync::Arc;

use stomp_session::Problem;
use tokio::time::Instant;

use super::{
    limits::{ClientAddress, FailedLogins, Paces, Users},
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
    presence::Presence,
};

/// What all connections of this node are served by.
pub struct Services {
    /// The virtual hosts.
    pub vhosts: Vhosts,
    /// Who may do what.
    pub auth: Arc<dyn Authenticator>,
    /// Who is online; `None`: nobody asks.
    pub presence: Option<Arc<dyn Presence>>,
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
    /// How fast a connection may send.
    pub paces: Paces,
    settings: Settings,
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
        Arc::new(Self {
            vhosts,
            auth,
            memory,
            presence,
            sequences,
            registry,
            control,
            users: Users::new(&settings.limits),
            failed_logins: FailedLogins::new(&settings.limits),
            paces: Paces::new(&settings.limits),
            settings,
            started: Instant::now(),
        })
    }

    /// How connections behave.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
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
            .enter(Mailbox::new(self.settings.mailbox.clone()))
    }

    /// The same, if the address that it comes from has not too many.
    ///
    /// # Errors
    /// The client's answer.
    pub fn enter_from(&self, client: ClientAddress) -> Result<Guard, Problem> {
        let mailbox = Mailbox::new(self.settings.mailbox.clone());
        self.registry.enter_from(client, mailbox)
    }
}
