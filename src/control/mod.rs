//! Commands of an operator, a backend or a login to sessions of any node.
//!
//! [`Control`] runs a [`Command`] on this node and, by an exchange that all nodes listen to, on
//! all others. Backends may publish commands there, too. A publisher to that exchange is trusted,
//! so clients of the gateway may never publish there. The format is in [`wire`].

mod ban;
mod config;
mod link;
mod look;
mod tails;
mod unsubscribe;
pub mod wire;

use std::{
    collections::HashSet,
    fmt,
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use serde_json::Value;
use thiserror::Error;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

pub use ban::{Applied, Ban, Change, Subject};
pub use config::Config;
pub use look::{Look, MAX_VIEW, NoAnswer, Seen, Views};

use self::{link::ControlLink, tails::Follow};
use crate::{
    auth::Authenticator,
    background,
    hub::Hub,
    presence::Presence,
    tap::{self, Filter, Taps},
    telemetry,
};

pub use tails::TailLines;
pub use unsubscribe::Unsubscribe;
pub use wire::{MAX_ABOUT, MAX_PATTERN};

/// How long the answers of other nodes are awaited, if it is not known which there are.
const PATIENCE: Duration = Duration::from_secs(1);

/// The sessions of this node, as commands reach them. Nothing here waits.
pub trait Sessions: Send + Sync + 'static {
    /// Ends the sessions that are meant, with ERROR `kicked`; how many. It was asked for so long ago
    /// (`late`): those that logged in since are not meant.
    fn kick(&self, target: &Target, reason: &str, late: Duration) -> usize;

    /// Ends a session whose user has logged in again, with ERROR `session replaced`; how many.
    fn replace(&self, session: &str) -> usize;

    /// Has the hook asked anew about the sessions that are meant, in the background; those that
    /// it refuses end. How many are asked about.
    ///
    /// # Errors
    /// Sessions do not keep what it takes.
    fn recheck(&self, target: &Target) -> Result<usize, RecheckOff>;

    /// What the hook permitted before counts no more: sessions ask anew for what they have not done
    /// yet. Said when its answers are forgotten.
    fn forget(&self);

    /// Has the hook asked anew which groups a user is in, in the background; how many sessions
    /// hear of it.
    fn refresh_groups(&self, user: &str) -> usize;

    /// Tells the sessions of a user to end subscriptions, each with ERROR `unsubscribed`, in the
    /// background; they go on. The future waits for their word, less than a second, and answers how
    /// many subscriptions have ended. Sessions that logged in since it was asked for are not meant.
    fn unsubscribe(&self, wanted: &Arc<Unsubscribe>, late: Duration) -> BoxFuture<'static, usize>;

    /// Takes a ban, or its lifting: after all before. Without a stamp, it was asked for so long ago
    /// (`late`). Sessions that it is about end, with ERROR `banned`; how many. Of a ban that is
    /// lifted: 1, if it was in force here.
    fn ban(&self, change: &Change, late: Duration) -> (Applied, usize);

    /// Takes bans that others know of, and their liftings, in whatever order; the outcome of each.
    /// Their sessions end, too.
    fn hear_of_bans(&self, changes: &[Change]) -> Vec<Applied>;

    /// The bans that this node knows, and those that are no more.
    fn bans(&self) -> Vec<Change>;
}

/// A command to sessions, on any node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// End sessions. The clients are told the reason, up to 256 characters of it.
    Kick {
        /// Which.
        target: Target,
        /// Why; empty: they are told that an operator did it.
        reason: Box<str>,
    },
    /// End a session whose user has logged in again.
    Replace {
        /// Its id.
        session: Box<str>,
    },
    /// Forget the hook's answers about the user, ask it anew, and end the sessions that it
    /// refuses.
    Recheck(Target),
    /// Forget what the hook permitted to a user.
    Forget {
        /// Whom.
        user: Box<str>,
    },
    /// Ask the hook anew which groups a user is in.
    RefreshGroups {
        /// Whom.
        user: Box<str>,
    },
    /// End subscriptions of a user; the sessions go on.
    Unsubscribe(Arc<Unsubscribe>),
    /// Keep clients out from now on, and end their sessions; or let them in again.
    Ban(Change),
}

/// Which sessions are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// One, by its id: the header `session` of its CONNECTED.
    Session(Box<str>),
    /// All of a user.
    User(Box<str>),
    /// Those of a user's devices, as their CONNECT named them; only where presence is on, which
    /// knows them. At least one of type and id is given.
    Device {
        /// Whose.
        user: Box<str>,
        /// The header `device-type`.
        device_type: Option<Box<str>>,
        /// The header `device-id`.
        device_id: Option<Box<str>>,
    },
}

/// The outcome of a command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The nodes that answered in time, this one first, and how much the command did there:
    /// sessions, subscriptions, or permissions that were forgotten. With [`Command::Recheck`] these sessions
    /// are being asked about; which of them end, is in their nodes' logs.
    pub nodes: Vec<(Box<str>, u64)>,
    /// Nodes that are known, and that did not answer in time: it may not be done there. Presence knows
    /// them, or they were heard of; none if the one node of a session has answered.
    pub silent: Vec<Box<str>>,
    /// The reason why other nodes could not be told; `None` if they could, or if there are no
    /// others.
    pub unreached: Option<Box<str>>,
}

impl Report {
    /// The number of hits on all nodes together.
    #[must_use]
    pub fn hits(&self) -> u64 {
        let hits = self.nodes.iter().map(|(_, hits)| *hits);
        hits.fold(0, u64::saturating_add)
    }
}

/// `auth.recheck` is off: sessions do not keep what it takes to ask the hook again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "[auth] recheck is off, so that nothing is kept to ask the hook with; set it, or kick the \
     user, who has to log in again then"
)]
pub struct RecheckOff;

/// Runs commands, here and on all other nodes.
pub struct Control {
    shared: Arc<ControlShared>,
    /// Those of `shared`: every frame asks whether there is any.
    taps: Arc<Taps>,
    link: Option<(ControlLink, AbortOnDropHandle<()>)>,
    /// Knows which other nodes there are.
    nodes: Option<Arc<dyn Presence>>,
    presence_in_memory: bool,
    is_only_node: bool,
}

/// The parts of this node that commands need.
struct ControlShared {
    node: Box<str>,
    sessions: Arc<dyn Sessions>,
    auth: Arc<dyn Authenticator>,
    /// What an operator sees of this node; set once it is built, and weak, for it has this.
    views: OnceLock<Weak<dyn Views>>,
    taps: Arc<Taps>,
}

impl Control {
    /// For a node without others.
    #[must_use]
    pub fn alone(node: &str, sessions: Arc<dyn Sessions>, auth: Arc<dyn Authenticator>) -> Self {
        let taps = Taps::new(node, tap::Config::default());
        Self {
            shared: Arc::new(ControlShared {
                node: node.into(),
                sessions,
                auth,
                views: OnceLock::new(),
                taps: Arc::clone(&taps),
            }),
            taps,
            link: None,
            nodes: None,
            presence_in_memory: false,
            is_only_node: false,
        }
    }

    /// The same, where these are the tails that this node takes part in. Before it joins others.
    #[must_use]
    pub fn with_taps(self, taps: Arc<Taps>) -> Self {
        let ControlShared {
            node,
            sessions,
            auth,
            ..
        } = &*self.shared;
        let shared = ControlShared {
            node: node.clone(),
            sessions: Arc::clone(sessions),
            auth: Arc::clone(auth),
            views: self.shared.views.clone(),
            taps: Arc::clone(&taps),
        };
        Self {
            shared: Arc::new(shared),
            taps,
            ..self
        }
    }

    /// Tells it that all nodes share this presence: a command to all nodes then ends when every
    /// node that presence knows has answered.
    #[must_use]
    pub fn among(self, nodes: Option<Arc<dyn Presence>>) -> Self {
        Self { nodes, ..self }
    }

    /// The same, where presence may be in this node's memory: if another node at the exchange has
    /// it so, too, both say so in their logs.
    #[must_use]
    pub fn with_presence_in_memory(self, presence_in_memory: bool) -> Self {
        Self {
            presence_in_memory,
            ..self
        }
    }

    /// Tells it whether it is the only node: the broker is in this process, and Redis is not used.
    #[must_use]
    pub fn with_no_other_node(self, is_only_node: bool) -> Self {
        Self {
            is_only_node,
            ..self
        }
    }

    /// Listens to the exchange of that name in this virtual host, in the background, for as long
    /// as this lives; also to what other nodes tell each other.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn join(self, vhost: Arc<Hub>, exchange: &str) -> Self {
        let node = &self.shared.node;
        let link = ControlLink::new(vhost, exchange, node, self.presence_in_memory);
        let listening = background::spawn(link::listen(link.clone(), Arc::clone(&self.shared)));
        Self {
            link: Some((link, AbortOnDropHandle::new(listening))),
            ..self
        }
    }

    /// Stops listening to commands; called before the broker is closed.
    pub fn close(&self) {
        if let Some((_, listening)) = &self.link {
            listening.abort();
        }
    }

    /// True for the exchange of commands: no client may use it, even if the hook allows it.
    #[must_use]
    pub fn is_reserved(&self, exchange: &str) -> bool {
        let link = self.link.as_ref();
        link.is_some_and(|(link, _)| link.exchange() == exchange)
    }

    /// Whether no node is left out: this node hears of the others, and they of it, or there are none.
    #[must_use]
    pub fn leaves_nobody_out(&self) -> bool {
        self.link.is_some() || self.is_only_node
    }

    /// Runs a command on all nodes. On this node it has run when this returns, even without a
    /// broker. Other nodes have a second to answer; it ends earlier if all known nodes have. A
    /// session has one node, so the answer of that node is enough.
    ///
    /// # Errors
    /// This node cannot run the command; then no node is told.
    pub async fn run(&self, command: Command) -> Result<Report, RecheckOff> {
        let hits = self.shared.execute(&command).await?;
        telemetry::control_command(command.name(), &command.subject(), &self.shared.node, hits);
        let mut report = Report {
            nodes: vec![(self.shared.node.clone(), hits)],
            ..Report::default()
        };
        let is_done = |hits: u64| command.has_one_node() && hits > 0;
        if let Some((link, _)) = &self.link
            && !is_done(hits)
        {
            let nodes = async {
                // A session may be on a node that presence has lost sight of.
                if command.has_one_node() {
                    return None;
                }
                self.known_nodes().await
            };
            match link.ask(&command, PATIENCE, is_done, nodes.fuse()).await {
                Ok((others, known)) => {
                    if !others.iter().any(|(_, hits)| is_done(*hits)) {
                        let silent = self.silent(&command, known, &others).await;
                        report.silent = silent.into_iter().collect();
                        report.silent.sort_unstable();
                    }
                    report.nodes.extend(others);
                }
                Err(error) => {
                    telemetry::control_untold(command.name(), &error);
                    report.unreached = Some(error);
                }
            }
        }
        Ok(report)
    }

    /// The nodes that gave no answer, as far as any are known: a command may not be done there.
    async fn silent(
        &self,
        command: &Command,
        mut known: Option<HashSet<Box<str>>>,
        answers: &[(Box<str>, u64)],
    ) -> HashSet<Box<str>> {
        if command.has_one_node() {
            let asking = timeout(PATIENCE, self.known_nodes());
            known = asking.await.ok().flatten();
        }
        let heard = || self.link.as_ref().and_then(|(link, _)| link.heard());
        link::silent(known.or_else(heard).as_ref(), answers)
    }

    /// From now on operators of any node see this of it.
    pub fn show(&self, views: Weak<dyn Views>) {
        // A node has one operator's side.
        let _ = self.shared.views.set(views);
    }

    /// Looks at all nodes. The others have a second to answer, and another one after
    /// [`Look::Subscribed`]; it ends earlier if all known nodes have, or if the only one that can have
    /// has.
    pub async fn look(&self, look: Look) -> Seen {
        let mut seen = Seen::default();
        let view = self.shared.view(look.clone()).await;
        let is_enough = look.has_one_node() && view != Ok(None);
        match view {
            Ok(Some(view)) => seen.nodes.push((self.shared.node.clone(), view)),
            Ok(None) => {}
            Err(NoAnswer) => seen.silent.push(self.shared.node.clone()),
        }
        let Some((link, _)) = self.link.as_ref().filter(|_| !is_enough) else {
            return seen;
        };
        let known = match self.known_nodes().await {
            Some(known) => Some(known),
            None => link.heard(),
        };
        match link.look(&look, PATIENCE, known.as_ref()).await {
            Ok(others) => {
                seen.silent.extend(link::silent(known.as_ref(), &others));
                seen.silent.sort_unstable();
                let others = others.into_iter();
                let mut views: Vec<_> = others
                    .filter_map(|(node, view)| Some((node, view?)))
                    .collect();
                views.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
                seen.nodes.append(&mut views);
            }
            Err(error) => seen.unreached = Some(error),
        }
        seen
    }

    /// The other nodes, if presence knows them.
    async fn known_nodes(&self) -> Option<HashSet<Box<str>>> {
        let nodes = self.nodes.as_ref()?.nodes().await.ok()?;
        let names = nodes.into_iter().map(|node| node.name);
        Some(names.filter(|name| **name != *self.shared.node).collect())
    }

    /// The tails that this node takes part in.
    #[must_use]
    pub fn taps(&self) -> &Arc<Taps> {
        &self.taps
    }

    /// Begins to show frames of all nodes, with so many bytes of their bodies; until the answer is
    /// dropped.
    ///
    /// # Errors
    /// This node shows none.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn tail(&self, filter: Filter, bodies: u32) -> Result<TailLines, tap::Refused> {
        let link = self.link.as_ref().map(|(link, _)| link.clone());
        Follow::begin(link, &self.shared.node, &self.taps, filter, bodies)
    }

    /// Ends a session of any node after a new login of its user; in the background.
    pub fn replace(&self, session: &str) {
        if self.shared.sessions.replace(session) > 0 {
            return;
        }
        if let Some((link, _)) = &self.link {
            let link = link.clone();
            let command = Command::Replace {
                session: session.into(),
            };
            background::spawn(async move {
                if let Err(error) = link.tell_in_the_end(&command).await {
                    telemetry::control_untold(command.name(), &error);
                }
            });
        }
    }
}

/// Takes bans that another node or Redis (`from`) knows of, and says in the log what is new.
pub fn learn_bans(sessions: &dyn Sessions, from: &str, changes: &[Change]) {
    let mut count = 0_usize;
    let mut full = Vec::new();
    for (change, applied) in changes.iter().zip(sessions.hear_of_bans(changes)) {
        match applied {
            Applied::Done(_) => count = count.saturating_add(1),
            Applied::Known => {}
            Applied::Full => full.push(&change.subject),
        }
    }
    if let [first, more @ ..] = &*full {
        telemetry::bans_full(first, more.len());
    }
    if count > 0 {
        telemetry::bans_heard(from, count);
    }
}

impl ControlShared {
    /// What an operator sees of this node.
    async fn view(&self, look: Look) -> Result<Option<Value>, NoAnswer> {
        let Some(views) = self.views.get().and_then(Weak::upgrade) else {
            return Ok(None);
        };
        views.view(look).await
    }

    /// Another node shows a tail.
    fn hear_tail(&self, link: &ControlLink, asked: wire::TailAsked) {
        tails::hear(link, &self.taps, asked);
    }

    /// On this node; how much it did.
    async fn execute(&self, command: &Command) -> Result<u64, RecheckOff> {
        Ok(self.begin(command, Duration::ZERO).await?.hits().await)
    }

    /// On this node, so long after it was asked for: all later commands come after it.
    async fn begin(&self, command: &Command, late: Duration) -> Result<Effect, RecheckOff> {
        let hits = match command {
            Command::Kick { target, reason } => self.sessions.kick(target, reason, late),
            Command::Replace { session } => self.sessions.replace(session),
            Command::Recheck(target) => {
                if let Some(user) = target.user() {
                    self.auth.forget(user).await;
                }
                self.sessions.recheck(target)?
            }
            Command::Forget { user } => {
                let forgotten = self.auth.forget(user).await;
                self.sessions.forget();
                forgotten
            }
            Command::RefreshGroups { user } => self.sessions.refresh_groups(user),
            Command::Unsubscribe(wanted) => {
                return Ok(Effect::Awaited(self.sessions.unsubscribe(wanted, late)));
            }
            Command::Ban(change) => {
                let (applied, hits) = self.sessions.ban(change, late);
                if applied == Applied::Full {
                    telemetry::bans_full(&change.subject, 0);
                }
                hits
            }
        };
        Ok(Effect::Known(hits))
    }
}

/// How much a command does.
enum Effect {
    /// It has done it.
    Known(usize),
    /// Its sessions have to say.
    Awaited(BoxFuture<'static, usize>),
}

impl Effect {
    async fn hits(self) -> u64 {
        let hits = match self {
            Self::Known(hits) => hits,
            Self::Awaited(hits) => hits.await,
        };
        u64::try_from(hits).unwrap_or(u64::MAX)
    }
}

impl Command {
    /// As [`wire`] calls it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Kick { .. } => "kick",
            Self::Replace { .. } => "replace",
            Self::Recheck(_) => "recheck",
            Self::Forget { .. } => "forget",
            Self::RefreshGroups { .. } => "refresh_groups",
            Self::Unsubscribe(_) => "unsubscribe",
            Self::Ban(Change { ban: Some(_), .. }) => "ban",
            Self::Ban(Change { ban: None, .. }) => "unban",
        }
    }

    /// The session or user that it is about, for the log.
    fn subject(&self) -> String {
        match self {
            Self::Kick { target, .. } | Self::Recheck(target) => target.to_string(),
            Self::Replace { session } => Target::Session(session.clone()).to_string(),
            Self::Forget { user } | Self::RefreshGroups { user } => {
                Target::User(user.clone()).to_string()
            }
            Self::Unsubscribe(wanted) => wanted.to_string(),
            Self::Ban(change) => change.subject.to_string(),
        }
    }

    /// Whether it holds whenever it arrives: it says itself since when.
    fn is_timeless(&self) -> bool {
        matches!(self, Self::Ban(_))
    }

    fn has_one_node(&self) -> bool {
        let is_session = |target: &Target| matches!(target, Target::Session(_));
        match self {
            Self::Kick { target, .. } | Self::Recheck(target) => is_session(target),
            Self::Replace { .. } => true,
            Self::Forget { .. }
            | Self::RefreshGroups { .. }
            | Self::Unsubscribe(_)
            | Self::Ban(_) => false,
        }
    }
}

impl Target {
    /// The user whose sessions are meant, if the command names one.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        match self {
            Self::Session(_) => None,
            Self::User(user) | Self::Device { user, .. } => Some(user),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Session(id) => write!(f, "session {id:?}"),
            Self::User(user) => write!(f, "user {user:?}"),
            Self::Device {
                user,
                device_type,
                device_id,
            } => {
                write!(f, "user {user:?}")?;
                for (name, value) in [("device type", device_type), ("device id", device_id)] {
                    if let Some(value) = value {
                        write!(f, ", {name} {value:?}")?;
                    }
                }
                Ok(())
            }
        }
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exchange = self.link.as_ref().map(|(link, _)| link.exchange());
        f.debug_struct("Control")
            .field("node", &self.shared.node)
            .field("exchange", &exchange)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
