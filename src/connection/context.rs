//! The client at the other end of a connection: its address, user and virtual host.

use std::{
    fmt,
    future::poll_fn,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU8, Ordering},
    },
    task::Poll,
};

use parking_lot::Mutex;
use stomp_session::{Action, Operation, Problem};

use super::{
    mapping::{self, numbering},
    rights::Rights,
};
use crate::{
    auth::{Carried, User},
    control::Subject,
    hub::Hub,
    messaging::{Holder, Sequence},
    node::{Account, ClientAddress, Guard, Services, Settings, Suspect, UserPlace},
    presence::{Device, PresenceEntry, Status},
    telemetry::{self, ConnectionInfo},
    webhooks::{Event, SessionFacts},
};

/// A client's address and transport.
#[derive(Debug)]
pub struct Peer {
    /// Its address.
    pub address: ClientAddress,
    /// The transport: `websocket`, `tcp`, or one of SockJS, such as `xhr-streaming`.
    pub transport: &'static str,
    /// Credentials for the login that came with the transport's opening.
    pub carried: Option<Box<Carried>>,
}

/// One connection, as the work done for it sees it.
pub(super) struct Context {
    pub(super) services: Arc<Services>,
    /// Those that were in force when it began.
    settings: Arc<Settings>,
    pub(super) address: ClientAddress,
    pub(super) transport: &'static str,
    pub(super) guard: Guard,
    /// The session's id: unique, and not to be guessed.
    pub(super) session: Box<str>,
    identity: OnceLock<Identity>,
    /// As presence knows it; it leaves with this.
    here: OnceLock<Arc<PresenceEntry>>,
    /// The status to join presence with.
    status: Mutex<Status>,
    /// What the connection's own task notes of itself.
    notes: AtomicU8,
}

/// The broker has heard of the action that is being done.
const HANDING: u8 = 1;
/// The action that is being done waits for the hook.
const ASKING: u8 = 2;
/// A login waits to hear whether its client is there still.
const LOOKED_FOR: u8 = 4;
/// The link has ended.
const GONE: u8 = 8;
/// The broker has yet to confirm something.
const CONFIRMING: u8 = 16;

/// The identity that a login proved.
pub(super) struct Identity {
    pub(super) user: User,
    pub(super) vhost: Arc<Hub>,
    /// Among the connections of the user.
    pub(super) place: UserPlace,
    /// What few sessions have.
    kept: Option<Box<Kept>>,
}

/// What few sessions have; together, so that all others have one pointer for it.
#[derive(Debug)]
struct Kept {
    /// The rights to ask the hook about again, if `auth.recheck` is on.
    rights: Option<Box<Rights>>,
    /// The id of the device that CONNECT or the token named, if it did.
    device: Option<Box<str>>,
    /// The sequence of its numbered messages, if it asked for one.
    sequence: Option<Sequence>,
}

impl Identity {
    /// `rights` are those to ask the hook about again, `device` the id of the client's device.
    pub(super) fn new(
        user: User,
        vhost: Arc<Hub>,
        place: UserPlace,
        rights: Option<Box<Rights>>,
        device: Option<Box<str>>,
    ) -> Self {
        let is_any = rights.is_some() || device.is_some();
        Self {
            user,
            vhost,
            place,
            kept: is_any.then(|| {
                Box::new(Kept {
                    rights,
                    device,
                    sequence: None,
                })
            }),
        }
    }

    /// Its messages are numbered. It has a device.
    pub(super) fn set_sequence(&mut self, sequence: Sequence) {
        if let Some(kept) = &mut self.kept {
            kept.sequence = Some(sequence);
        }
    }

    /// The sequence of its numbered messages, if it asked for one.
    pub(super) fn sequence(&self) -> Option<&Sequence> {
        self.kept.as_ref()?.sequence.as_ref()
    }

    /// In whose name it publishes.
    pub(super) fn holder(&self) -> Holder {
        Holder {
            vhost: Arc::clone(self.vhost.name()),
            user: Arc::clone(&self.user.name),
        }
    }

    /// The id of the device that CONNECT or the token named, if it did.
    pub(super) fn device_id(&self) -> Option<&str> {
        self.kept.as_ref()?.device.as_deref()
    }

    fn rights(&self) -> Option<&Rights> {
        self.kept.as_ref()?.rights.as_deref()
    }
}

impl Context {
    pub(super) fn new(
        services: Arc<Services>,
        peer: &Peer,
        guard: Guard,
        session: Box<str>,
    ) -> Arc<Self> {
        telemetry::connection_began(peer.transport);
        let settings = services.settings();
        Arc::new(Self {
            services,
            settings,
            address: peer.address,
            transport: peer.transport,
            guard,
            session,
            identity: OnceLock::new(),
            here: OnceLock::new(),
            status: Mutex::default(),
            notes: AtomicU8::new(0),
        })
    }

    /// The account of the bytes that it sends; `None` before the login.
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
            remote: self.address.remote,
            lines: self.services.registry.lines(),
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
            // A ban that came between the login's question and this found no session to end.
            let device = identity.device_id();
            if let Some(problem) = self.refuse_banned(Some(&identity.user.name), true, device) {
                self.guard.mailbox().fail(problem);
            }
        }
    }

    /// The ERROR for this client, if it is banned. A reason that concerns a user is told to nobody
    /// who has only said to be that user.
    pub(super) fn refuse_banned(
        &self,
        user: Option<&str>,
        is_proved: bool,
        device: Option<&str>,
    ) -> Option<Problem> {
        let suspect = Suspect {
            user,
            address: Some(self.address.ip()),
            device,
        };
        let (subject, ban) = self.services.registry.refuse_banned(&suspect, "login")?;
        let is_told = is_proved || !matches!(subject, Subject::User(_));
        Some(Problem::Banned(if is_told {
            ban.reason
        } else {
            Box::default()
        }))
    }

    /// A frame waits for its turn: its number, if it has one, is reserved with those before it.
    pub(super) fn foresee(&self, action: &Action) {
        let sequence = self.identity().and_then(Identity::sequence);
        if let (Some(sequence), Action::Perform(_, operations)) = (sequence, action) {
            let publishes = operations.iter().filter_map(|operation| match operation {
                Operation::Publish(publish) => publish.headers.get(numbering::NUMBER),
                _ => None,
            });
            publishes
                .filter_map(numbering::number)
                .for_each(|number| sequence.foresee(number));
        }
    }

    /// The rights to ask the hook about again, if `auth.recheck` is on.
    pub(super) fn rights(&self) -> Option<&Rights> {
        self.identity()?.rights()
    }

    /// How many rechecks of it have begun.
    pub(super) fn rechecks(&self) -> u64 {
        self.rights().map_or(0, Rights::rechecks)
    }

    /// Joins presence, if there is any, once logged in. A session that was admitted has joined
    /// before its groups were known.
    pub(super) fn join(&self, groups: Vec<Arc<str>>, device: Option<Box<Device>>) {
        let (Some(presence), Some(identity)) = (&self.services.presence, self.identity()) else {
            return;
        };
        if let Some(session) = self.here() {
            return session.answer_groups(0, || presence.regroup(session, groups));
        }
        let session = Arc::new(self.presence_entry(&identity.user.name, groups, device));
        self.set_here(&session);
        presence.join(session);
    }

    /// This session, as presence is to know it.
    pub(super) fn presence_entry(
        &self,
        user: &Arc<str>,
        groups: Vec<Arc<str>>,
        device: Option<Box<Device>>,
    ) -> PresenceEntry {
        let session = PresenceEntry::new(Arc::clone(user), &self.session, self.transport, groups);
        let mut session = session.with_status(*self.status.lock());
        session.remote = Some(self.address.remote);
        session.device = device;
        session
    }

    /// An action is begun that the broker has not heard of, or it will now. Only the connection's
    /// own task says so and asks.
    pub(super) fn set_handing(&self, is_handing: bool) {
        self.note(HANDING, is_handing);
    }

    /// True if the broker has heard of the action that is being done.
    pub(super) fn is_handing(&self) -> bool {
        self.has_noted(HANDING)
    }

    /// The action that is being done waits for the hook, or no more. As
    /// [`Context::set_handing`].
    pub(super) fn set_asking(&self, is_asking: bool) {
        self.note(ASKING, is_asking);
    }

    /// Whether the action that is being done waits for the hook.
    pub(super) fn is_asking(&self) -> bool {
        self.has_noted(ASKING)
    }

    /// The broker has yet to confirm something that the client sent, or nothing. As
    /// [`Context::set_handing`].
    pub(super) fn set_confirming(&self, is_confirming: bool) {
        self.note(CONFIRMING, is_confirming);
    }

    /// Whether the broker has yet to confirm something that was done before the action that is being
    /// done.
    pub(super) fn is_confirming(&self) -> bool {
        self.has_noted(CONFIRMING)
    }

    /// Whether the client is there still, as far as its link knows: for a login, during which the link
    /// is not read. The connection, which polls this, looks.
    pub(super) async fn is_there(&self) -> bool {
        self.note(LOOKED_FOR, true);
        poll_fn(|_| match self.is_looked_for() {
            true => Poll::Pending,
            false => Poll::Ready(()),
        })
        .await;
        !self.has_noted(GONE)
    }

    /// Whether a login waits for [`Context::set_there`] or [`Context::set_gone`].
    pub(super) fn is_looked_for(&self) -> bool {
        self.has_noted(LOOKED_FOR) && !self.has_noted(GONE)
    }

    /// The link has not ended.
    pub(super) fn set_there(&self) {
        self.note(LOOKED_FOR, false);
    }

    /// The link has ended.
    pub(super) fn set_gone(&self) {
        self.note(GONE, true);
    }

    fn note(&self, what: u8, is_so: bool) {
        match is_so {
            true => self.notes.fetch_or(what, Ordering::Relaxed),
            false => self.notes.fetch_and(!what, Ordering::Relaxed),
        };
    }

    fn has_noted(&self, what: u8) -> bool {
        self.notes.load(Ordering::Relaxed) & what != 0
    }

    /// As presence knows this session, if it does.
    pub(super) fn here(&self) -> Option<&Arc<PresenceEntry>> {
        self.here.get()
    }

    /// Presence knows this session; it leaves with this.
    pub(super) fn set_here(&self, session: &Arc<PresenceEntry>) {
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

    /// Tells the application's webhooks that it has logged in.
    pub(super) fn tell_connected(&self) {
        self.tell(Event::Connect);
    }

    /// The same of its end, if it was logged in. `reason` is one of a fixed number of texts.
    pub(super) fn tell_disconnected(&self, reason: &str) {
        self.tell(|session| Event::Disconnect {
            session,
            reason: reason.into(),
        });
    }

    fn tell(&self, event: impl FnOnce(SessionFacts) -> Event) {
        let (Some(webhooks), Some(identity)) = (&self.services.webhooks, self.identity()) else {
            return;
        };
        let session = SessionFacts {
            user: Arc::clone(&identity.user.name),
            session: self.session.clone(),
            vhost: Arc::clone(identity.vhost.name()),
            transport: self.transport,
            address: self.address.remote,
            device_id: identity.device_id().map(Box::from),
        };
        webhooks.tell(&event(session));
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
        &self.settings
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
            connection: self.guard.number(),
            impersonate: *impersonate,
            topics: &stomp.default_topic_exchange,
            auto_prefetch: limits.auto_prefetch,
            max_unacked: limits.max_unacked,
            keys: limits.keys(),
            presence: self.services.presence.is_some(),
            journals: self.services.vhosts.has_journals(),
            sequences: self.services.sequences.is_some(),
            device: identity.device_id().unwrap_or_default(),
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
