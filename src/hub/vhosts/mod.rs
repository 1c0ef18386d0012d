//! Which virtual hosts are open: each from its first client on, until a while after its last one
//! has left.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::future::join_all;
use parking_lot::Mutex;
use thiserror::Error;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::{FeedStatus, Hub, verify::Pace};
use crate::{
    background,
    broker::{self, Broker, BrokerError, FeedConfig, JournalConfig},
    deadline::after,
    recent::Recent,
    telemetry,
};

/// In `vhosts`: whichever the hook allows and the broker has.
const ANY: &str = "*";

/// The longest name that AMQP has room for. In bytes.
const MAX_NAME: usize = 255;

/// How long a login waits for the broker's word on a virtual host that was not open. A broker that
/// does not answer is no reason to refuse a client, which hears of it when it wants something.
const OPENING: Duration = Duration::from_secs(3);

/// How long the last messages for those who have gone may take.
const HANDING_ON: Duration = Duration::from_secs(2);

/// The interval at which idle and refused virtual hosts are closed.
const TICK: Duration = Duration::from_secs(1);

/// The hubs of all virtual hosts that are open.
pub struct Vhosts {
    shared: Arc<VhostsShared>,
    _sweeper: AbortOnDropHandle<()>,
}

/// The state of an open virtual host.
#[derive(Clone, Debug)]
pub struct VhostStatus {
    /// Its name.
    pub name: Arc<str>,
    /// `Ok` if the broker can be reached for it.
    pub health: Result<(), BrokerError>,
    /// Clients that are logged in to it.
    pub clients: usize,
    /// Its feeds, by exchange and shard.
    pub feeds: Vec<FeedStatus>,
}

/// The reason why a client cannot have a virtual host.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EnterError {
    /// It does not exist, or the gateway may not use it; the reason, for the log.
    #[error("{0}")]
    Refused(Box<str>),
    /// No virtual host can be opened now; the reason.
    #[error("{0}")]
    Unavailable(Box<str>),
}

struct VhostsShared {
    broker: Arc<dyn Broker>,
    feed: FeedConfig,
    journal: JournalConfig,
    pace: Arc<Pace>,
    /// The virtual hosts that clients may use; `None`: any.
    listed: Option<Vec<String>>,
    default: Arc<str>,
    max: usize,
    idle: Duration,
    state: Mutex<OpenVhosts>,
    /// Links that are being closed.
    closing: TaskTracker,
}

#[derive(Default)]
struct OpenVhosts {
    open: HashMap<Arc<str>, OpenVhost>,
    /// Virtual hosts that the broker refused, and why: it is not asked again for a while.
    refused: Recent<Box<str>, Box<str>>,
    is_closed: bool,
}

struct OpenVhost {
    hub: Arc<Hub>,
    /// Since when nobody but this map has had the hub.
    idle_since: Option<Instant>,
    /// The broker has been reached for it.
    was_up: bool,
}

impl OpenVhost {
    fn health(&mut self) -> Result<(), BrokerError> {
        let health = self.hub.host.health();
        self.was_up |= health.is_ok();
        health
    }

    fn readiness(&mut self) -> Result<(), BrokerError> {
        self.health().or_else(|_| self.hub.host.readiness())
    }
}

impl Vhosts {
    /// Opens the default virtual host at the broker; it stays open. Returns at once: links are
    /// made in the background. All others are opened when a client enters them.
    pub fn new(
        broker: Arc<dyn Broker>,
        config: &broker::Config,
        feed: &FeedConfig,
        journal: &JournalConfig,
    ) -> Self {
        let is_any = config.vhosts.iter().any(|name| name == ANY);
        let shared = Arc::new(VhostsShared {
            broker,
            feed: feed.clone(),
            journal: journal.clone(),
            pace: Pace::new(feed),
            listed: (!is_any).then(|| config.vhosts.clone()),
            default: config.default_vhost.as_str().into(),
            max: config.max_vhosts,
            idle: config.vhost_idle,
            state: Mutex::default(),
            closing: TaskTracker::new(),
        });
        let default = Arc::clone(&shared.default);
        shared.state.lock().open(&shared, default);
        let sweeper = background::spawn(sweep(Arc::clone(&shared)));
        Self {
            shared,
            _sweeper: AbortOnDropHandle::new(sweeper),
        }
    }

    /// True if clients may ask for a virtual host of that name at all.
    #[must_use]
    pub fn allows(&self, name: &str) -> bool {
        let listed = self.shared.listed.as_ref();
        name.len() <= MAX_NAME && listed.is_none_or(|names| names.iter().any(|n| n == name))
    }

    /// True if some exchange has a journal.
    #[must_use]
    pub fn has_journals(&self) -> bool {
        !self.shared.journal.exchanges.is_empty()
    }

    /// The hub of a virtual host that is open; the default one always is, until the end.
    #[must_use]
    pub fn vhost(&self, name: &str) -> Option<Arc<Hub>> {
        let state = self.shared.state.lock();
        state.open.get(name).map(|open| Arc::clone(&open.hub))
    }

    /// The hub of a virtual host, which is opened if it is not. It stays open for as long as
    /// somebody has the result, and for `broker.vhost_idle` after. Only for clients that the hook
    /// let in: every call may open links.
    ///
    /// # Errors
    /// [`EnterError::Refused`]: clients may not ask for it, the broker does not know it, or it
    /// does not let the gateway's account in; [`EnterError::Unavailable`]: too many are open.
    pub async fn enter(&self, name: &str) -> Result<Arc<Hub>, EnterError> {
        if !self.allows(name) {
            let text = format!("virtual host {name:?} is not in broker.vhosts");
            return Err(EnterError::Refused(text.into()));
        }
        let hub = self.shared.enter(name)?;
        match timeout(OPENING, hub.host.opened()).await {
            Ok(Err(BrokerError::VhostRefused(why))) => {
                self.shared.refused(&hub, &why);
                Err(EnterError::Refused(why))
            }
            _ => Ok(hub),
        }
    }

    /// `Ok` if the broker can be reached, for the default virtual host and every other one that
    /// it was reached for before; otherwise the reason. A virtual host that is being opened, or
    /// that the broker refuses, does not count: any client can ask for one.
    ///
    /// # Errors
    /// The first virtual host's trouble.
    pub fn health(&self) -> Result<(), BrokerError> {
        self.all(OpenVhost::health)
    }

    /// `Ok` if clients should be sent here: as [`Vhosts::health`], but a virtual host whose link
    /// was lost has some seconds to get it back ([`crate::broker::VirtualHost::readiness`]).
    ///
    /// # Errors
    /// The first virtual host's trouble.
    pub fn readiness(&self) -> Result<(), BrokerError> {
        self.all(OpenVhost::readiness)
    }

    fn all(
        &self,
        is_well: impl Fn(&mut OpenVhost) -> Result<(), BrokerError>,
    ) -> Result<(), BrokerError> {
        let mut state = self.shared.state.lock();
        if state.is_closed {
            return Err(BrokerError::Unavailable("the connection was closed".into()));
        }
        let mut open = state.open.iter_mut();
        open.try_for_each(|(name, open)| match is_well(open) {
            Err(error) if *name == self.shared.default => Err(error),
            Err(BrokerError::VhostRefused(_)) => Ok(()),
            Err(error) if open.was_up => Err(error),
            _ => Ok(()),
        })
    }

    /// The virtual hosts that are open, by name.
    #[must_use]
    pub fn status(&self) -> Vec<VhostStatus> {
        let mut hubs = self.open_hubs();
        hubs.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        hubs.iter().map(|hub| hub.status()).collect()
    }

    /// Takes bindings away that would make [`Vhosts::close`] dear, up to that moment: when all
    /// clients have gone. Then hands on what came for them, which takes two seconds at most.
    pub async fn unbind_feeds(&self, until: Instant) {
        let hubs = self.open_hubs();
        join_all(hubs.iter().map(|hub| hub.host.unbind_feeds(until))).await;
        // It takes moments, unless the broker is away. It has them after a late end, too.
        let soon = after(HANDING_ON);
        join_all(hubs.iter().map(|hub| hub.hand_on(soon))).await;
    }

    pub(super) fn open_hubs(&self) -> Vec<Arc<Hub>> {
        let state = self.shared.state.lock();
        let open = state.open.values();
        open.map(|open| Arc::clone(&open.hub)).collect()
    }

    /// Closes every virtual host; from then on none is opened.
    pub async fn close(&self) {
        let hubs: Vec<_> = {
            let mut state = self.shared.state.lock();
            state.is_closed = true;
            state.open.drain().map(|(_, open)| open.hub).collect()
        };
        join_all(hubs.iter().map(|hub| hub.host.close())).await;
        self.shared.closing.close();
        self.shared.closing.wait().await;
    }
}

impl VhostsShared {
    fn enter(&self, name: &str) -> Result<Arc<Hub>, EnterError> {
        let now = Instant::now();
        let mut state = self.state.lock();
        if let Some(open) = state.open.get_mut(name) {
            open.idle_since = None;
            return Ok(Arc::clone(&open.hub));
        }
        if let Some(why) = state.refused.get(name) {
            return Err(EnterError::Refused(why.clone()));
        }
        if state.is_closed {
            return Err(EnterError::Unavailable("shutting down".into()));
        }
        if state.open.len() >= self.max {
            let longest = state.longest_idle(now).ok_or_else(|| {
                let text = format!(
                    "{} virtual hosts are in use, as many as broker.max_vhosts allows",
                    self.max
                );
                EnterError::Unavailable(text.into())
            })?;
            self.close_idle(&mut state, &longest);
        }
        Ok(state.open(self, name.into()))
    }

    /// The broker does not let the gateway use this virtual host, or no longer does: its clients
    /// are told. The links of the default one try again; others are opened when somebody asks.
    fn refused(&self, hub: &Arc<Hub>, why: &str) {
        let is_default = *hub.name() == self.default;
        if !is_default {
            let mut state = self.state.lock();
            let open = state.open.get(hub.name());
            // Somebody else may have found out, too.
            if !open.is_some_and(|open| Arc::ptr_eq(&open.hub, hub)) {
                return;
            }
            state.open.remove(hub.name());
            state.refused.note((**hub.name()).into(), why.into());
            drop(state);
            telemetry::vhost_closed(hub.name(), why);
            self.close(hub);
        }
        hub.tell_gone(!is_default);
    }

    fn close_idle(&self, state: &mut OpenVhosts, name: &str) {
        if let Some(open) = state.open.remove(name) {
            telemetry::vhost_closed(name, "nobody used it");
            self.close(&open.hub);
        }
    }

    fn close(&self, hub: &Arc<Hub>) {
        let hub = Arc::clone(hub);
        self.closing.spawn(async move { hub.host.close().await });
    }

    fn sweep(&self) {
        let now = Instant::now();
        let mut refused = Vec::new();
        let mut state = self.state.lock();
        let mut idle = Vec::new();
        for (name, open) in &mut state.open {
            if let Err(BrokerError::VhostRefused(why)) = open.health() {
                refused.push((Arc::clone(&open.hub), why));
            } else if *name == self.default || Arc::strong_count(&open.hub) > 1 {
                open.idle_since = None;
            } else if now.duration_since(*open.idle_since.get_or_insert(now)) >= self.idle {
                idle.push(Arc::clone(name));
            }
        }
        for name in idle {
            self.close_idle(&mut state, &name);
        }
        drop(state);
        for (hub, why) in refused {
            self.refused(&hub, &why);
        }
    }
}

impl OpenVhosts {
    fn open(&mut self, shared: &VhostsShared, name: Arc<str>) -> Arc<Hub> {
        telemetry::vhost_opened(&name);
        let hub = Hub::open(
            &*shared.broker,
            &name,
            &shared.feed,
            &shared.journal,
            &shared.pace,
        );
        let open = OpenVhost {
            hub: Arc::clone(&hub),
            idle_since: None,
            was_up: false,
        };
        self.open.insert(name, open);
        hub
    }

    fn longest_idle(&self, now: Instant) -> Option<Arc<str>> {
        let idle = self.open.iter().filter_map(|(name, open)| {
            let since = open.idle_since?;
            // A client that has entered since then holds it now.
            (Arc::strong_count(&open.hub) == 1).then(|| (now.duration_since(since), name))
        });
        idle.max().map(|(_, name)| Arc::clone(name))
    }
}

async fn sweep(shared: Arc<VhostsShared>) {
    let quarter = shared.idle.checked_div(4).unwrap_or(TICK);
    let tick = quarter.clamp(Duration::from_millis(10), TICK);
    let mut ticks = interval(tick);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        shared.sweep();
    }
}

#[cfg(test)]
mod tests;
