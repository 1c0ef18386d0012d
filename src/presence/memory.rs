//! Presence in this process' memory: for a single node.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use futures_util::future::{self, BoxFuture, FutureExt};
use parking_lot::Mutex;

use super::{Presence, PresenceError, Session, SessionInfo, held::Held};

/// Presence in this process' memory. It never fails, and its node is alive whenever it can be
/// asked, so there is no lease.
#[derive(Debug)]
pub struct MemoryPresence {
    node: Box<str>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    held: Held,
    /// The users of each group that are online; no group is empty.
    groups: HashMap<Arc<str>, BTreeSet<Arc<str>>>,
    closed: bool,
}

impl MemoryPresence {
    /// Nobody is here yet; `node` is the node's name.
    #[must_use]
    pub fn new(node: &str) -> Self {
        Self {
            node: node.into(),
            state: Mutex::default(),
        }
    }

    fn info(&self, session: &Session) -> SessionInfo {
        SessionInfo {
            id: session.id.clone(),
            node: self.node.clone(),
            transport: session.transport.into(),
            remote: session.remote,
            since: session.since,
        }
    }
}

impl Presence for MemoryPresence {
    fn join(&self, session: Arc<Session>) {
        let state = &mut *self.state.lock();
        if state.closed || !state.held.insert(&session) {
            return;
        }
        for group in session.groups() {
            let users = state.groups.entry(Arc::clone(group)).or_default();
            users.insert(Arc::clone(&session.user));
        }
    }

    fn leave(&self, session: &Arc<Session>) {
        let state = &mut *self.state.lock();
        if !state.held.remove(session) {
            return;
        }
        for group in session.groups() {
            if state.held.is_in(&session.user, group) {
                continue;
            }
            if let Some(users) = state.groups.get_mut(group) {
                users.remove(&session.user);
                if users.is_empty() {
                    state.groups.remove(group);
                }
            }
        }
    }

    fn user<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<SessionInfo>, PresenceError>> {
        let state = self.state.lock();
        let sessions = state.held.of(name).iter();
        let mut sessions: Vec<_> = sessions.map(|session| self.info(session)).collect();
        drop(state);
        sessions.sort_by(|a, b| (a.since, &a.id).cmp(&(b.since, &b.id)));
        future::ready(Ok(sessions)).boxed()
    }

    fn group<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<Arc<str>>, PresenceError>> {
        let state = self.state.lock();
        let users = state.groups.get(name);
        let users = users.map_or_else(Vec::new, |users| users.iter().map(Arc::clone).collect());
        drop(state);
        future::ready(Ok(users)).boxed()
    }

    fn health(&self) -> Result<(), PresenceError> {
        Ok(())
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        *self.state.lock() = State {
            closed: true,
            ..State::default()
        };
        future::ready(()).boxed()
    }
}
