//! Presence in this process' memory: for a single node.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Bound,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::future::{self, BoxFuture, FutureExt};
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{self, Instant},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    Counts, Event, Listing, MOST_CLAIMED, MOST_SESSIONS, Member, Node, NodeInfo, Page, Presence,
    PresenceEntry, PresenceError, STATUS_INTERVAL, SessionInfo, Status, UserCount, UserPresence,
    departures::Departures,
    entry::Pass,
    held::{Held, without},
    rooms::{MemoryRooms, Rooms},
    too_many,
};
use crate::{background, later::Later};

/// Departures that wait at most; with more, the first are settled at once, for they take memory.
const MAX_LEFT: usize = 65_536;

/// Presence in this process' memory. It never fails, and its node is alive whenever it can be
/// asked, so there is no lease.
#[derive(Debug)]
pub struct MemoryPresence {
    inner: Arc<Inner>,
    rooms: Option<Arc<MemoryRooms>>,
    _settler: AbortOnDropHandle<()>,
}

#[derive(Debug)]
struct Inner {
    node: Node,
    state: Mutex<MemoryState>,
    wake: Notify,
}

#[derive(Debug)]
struct MemoryState {
    held: Held,
    /// Sessions that are about to join.
    claimed: Held,
    /// In the order of their ids, to be listed.
    by_id: BTreeMap<Box<str>, Arc<PresenceEntry>>,
    /// The users of each group that are here; no group is empty.
    groups: HashMap<Arc<str>, BTreeSet<Arc<str>>>,
    /// The status that others were told of each user who is not offline.
    told: HashMap<Arc<str>, Status>,
    /// Sessions that left; their users may have left with them.
    left: Departures,
    /// Sessions that say more of their status than is passed on.
    saying: Later<Arc<PresenceEntry>>,
    closed: bool,
}

impl MemoryPresence {
    /// Nobody is here yet.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn new(node: Node) -> Self {
        let state = Mutex::new(MemoryState::new(node.debounce));
        let rooms = node.rooms.clone();
        let rooms = rooms.map(|rules| Arc::new(MemoryRooms::new(rules, node.debounce)));
        let inner = Arc::new(Inner {
            node,
            state,
            wake: Notify::new(),
        });
        let settler = background::spawn(settle_later(Arc::clone(&inner)));
        Self {
            inner,
            rooms,
            _settler: AbortOnDropHandle::new(settler),
        }
    }

    fn info(&self, session: &Arc<PresenceEntry>) -> SessionInfo {
        session.info(&self.inner.node.name)
    }
}

/// Looks after what is due, for ever.
async fn settle_later(inner: Arc<Inner>) {
    loop {
        let due = inner.settle_due();
        let woken = inner.wake.notified();
        match due {
            Some(due) => drop(time::timeout_at(due, woken).await),
            None => woken.await,
        }
    }
}

impl Inner {
    fn join(&self, state: &mut MemoryState, session: Arc<PresenceEntry>) {
        state.claimed.remove(&session);
        if state.closed || !state.held.insert(&session) {
            return;
        }
        state.by_id.insert(session.id.clone(), Arc::clone(&session));
        state.enter(&session.user, &session.groups());
        self.settle(state, &session);
    }

    /// When to come again.
    fn settle_due(&self) -> Option<Instant> {
        let now = Instant::now().into_std();
        let state = &mut *self.state.lock();
        while let Some(session) = state.saying.pop(now) {
            session.passed_on(now);
            // If the session has left since, only its departure counts.
            if state.held.contains(&session) {
                self.settle(state, &session);
            }
        }
        while let Some((departure, settles)) = state.left.pop(now) {
            if settles {
                self.settle(state, &departure.session);
            }
        }
        let due = state.left.due().into_iter().chain(state.saying.due()).min();
        due.map(Instant::from_std)
    }

    /// Tells others what is new of a session's user.
    fn settle(&self, state: &mut MemoryState, session: &Arc<PresenceEntry>) {
        let user = &session.user;
        let status = state.held.status(user);
        let before = state.told.get(user).copied().unwrap_or(Status::Offline);
        if status < before && state.left.hold(user) {
            return;
        }
        match status {
            Status::Offline => state.told.remove(user),
            _ => state.told.insert(Arc::clone(user), status),
        };
        let groups = match state.held.groups(user) {
            none if none.is_empty() => session.groups(),
            groups => groups,
        };
        let event = Event::new(user, groups, before, status, SystemTime::now());
        if let (Some(event), Some(events)) = (event, &self.node.events) {
            events.push(event);
        }
    }
}

impl MemoryState {
    fn new(debounce: Duration) -> Self {
        Self {
            held: Held::default(),
            claimed: Held::default(),
            by_id: BTreeMap::new(),
            groups: HashMap::new(),
            told: HashMap::new(),
            left: Departures::new(debounce),
            saying: Later::new(STATUS_INTERVAL),
            closed: false,
        }
    }

    fn enter(&mut self, user: &Arc<str>, groups: &[Arc<str>]) {
        for group in groups {
            let users = self.groups.entry(Arc::clone(group)).or_default();
            users.insert(Arc::clone(user));
        }
    }

    fn exit(&mut self, user: &Arc<str>, groups: &[Arc<str>]) {
        for group in groups {
            if let Some(users) = self.groups.get_mut(group) {
                users.remove(user);
                if users.is_empty() {
                    self.groups.remove(group);
                }
            }
        }
    }
}

impl Presence for MemoryPresence {
    fn rooms(&self) -> Option<Arc<dyn Rooms>> {
        let rooms = self.rooms.as_ref()?;
        Some(Arc::clone(rooms) as _)
    }

    fn join(&self, session: Arc<PresenceEntry>) {
        self.inner.join(&mut self.inner.state.lock(), session);
    }

    fn claim(
        &self,
        session: Arc<PresenceEntry>,
    ) -> BoxFuture<'_, Result<Vec<SessionInfo>, PresenceError>> {
        let MemoryState {
            held,
            claimed,
            closed,
            ..
        } = &mut *self.inner.state.lock();
        let user = &session.user;
        let count = held.count(user).saturating_add(claimed.count(user));
        let before = if count > MOST_CLAIMED {
            Err(too_many(count))
        } else {
            let node = &self.inner.node.name;
            let here = held.of(user).into_iter().map(|session| session.info(node));
            let others = claimed.of(user).into_iter();
            let before = here.chain(others.map(|session| session.claimed(node)));
            Ok(UserPresence::new(before.collect()).sessions)
        };
        if !*closed && !held.contains(&session) {
            claimed.insert(&session);
        }
        future::ready(before).boxed()
    }

    fn leave(&self, session: &Arc<PresenceEntry>) {
        let state = &mut *self.inner.state.lock();
        state.claimed.remove(session);
        let before = state.held.status(&session.user);
        if !state.held.remove(session) {
            return;
        }
        state.by_id.remove(&session.id);
        let left = without(&session.groups(), &state.held.groups(&session.user));
        state.exit(&session.user, &left);
        let now = Instant::now().into_std();
        state.left.push(now, session, before, &state.held, false);
        if state.left.len() > MAX_LEFT
            && let Some((departure, true)) = state.left.pop_first()
        {
            self.inner.settle(state, &departure.session);
        }
        self.inner.wake.notify_one();
    }

    fn set_status(&self, session: &Arc<PresenceEntry>, status: Status) {
        let now = Instant::now().into_std();
        let state = &mut *self.inner.state.lock();
        match state.held.say(session, status, now) {
            Some(Pass::Now) => self.inner.settle(state, session),
            Some(Pass::Later) => {
                state.saying.push(now, Arc::clone(session));
                self.inner.wake.notify_one();
            }
            Some(Pass::Waits) | None => {}
        }
    }

    fn regroup(&self, session: &Arc<PresenceEntry>, groups: Vec<Arc<str>>) {
        let state = &mut *self.inner.state.lock();
        if let Some(before) = state.held.regroup(session, groups) {
            let left = without(&before, &state.held.groups(&session.user));
            state.exit(&session.user, &left);
            state.enter(&session.user, &session.groups());
        }
    }

    fn held(&self, user: &str) -> Vec<Arc<PresenceEntry>> {
        self.inner.state.lock().held.of(user)
    }

    fn users<'a>(
        &'a self,
        names: &'a [&'a str],
    ) -> BoxFuture<'a, Result<Vec<UserPresence>, PresenceError>> {
        let state = self.inner.state.lock();
        let users = names
            .iter()
            .map(|name| {
                let sessions = state.held.some_of(name, MOST_SESSIONS);
                let sessions = sessions.iter().map(|session| self.info(session)).collect();
                UserPresence {
                    status: state.held.status(name),
                    count: state.held.count(name) as u64,
                    ..UserPresence::new(sessions)
                }
            })
            .collect();
        drop(state);
        future::ready(Ok(users)).boxed()
    }

    fn count_users<'a>(
        &'a self,
        names: &'a [&'a str],
    ) -> BoxFuture<'a, Result<Vec<UserCount>, PresenceError>> {
        let state = self.inner.state.lock();
        let counts = names.iter().map(|name| UserCount {
            status: state.held.status(name),
            sessions: state.held.count(name) as u64,
        });
        let counts = counts.collect();
        drop(state);
        future::ready(Ok(counts)).boxed()
    }

    fn group<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<Member>, PresenceError>> {
        let state = self.inner.state.lock();
        let users = state.groups.get(name).into_iter().flatten();
        let members = users
            .filter_map(|user| {
                let status = state.held.status(user).to_others();
                let user = Arc::clone(user);
                (status != Status::Offline).then_some(Member { user, status })
            })
            .collect();
        drop(state);
        future::ready(Ok(members)).boxed()
    }

    fn session<'a>(
        &'a self,
        id: &'a str,
    ) -> BoxFuture<'a, Result<Option<SessionInfo>, PresenceError>> {
        let state = self.inner.state.lock();
        let found = state.by_id.get(id).map(|session| self.info(session));
        drop(state);
        future::ready(Ok(found)).boxed()
    }

    /// The cursor is the last session's id.
    fn sessions<'a>(&'a self, listing: &'a Listing) -> BoxFuture<'a, Result<Page, PresenceError>> {
        let is_other = |node: &str| node != &*self.inner.node.name;
        if listing.node.as_deref().is_some_and(is_other) {
            return future::ready(Ok(Page::default())).boxed();
        }
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let first = match &listing.after {
            Some(after) if after.is_empty() || !after.bytes().all(is_part) => {
                return future::ready(Err(PresenceError::Cursor)).boxed();
            }
            Some(after) => Bound::Excluded(&**after),
            None => Bound::Unbounded,
        };
        let state = self.inner.state.lock();
        let all = state.by_id.range::<str, _>((first, Bound::Unbounded));
        let user = listing.user.as_deref();
        let mut found = all.filter(|(_, session)| user.is_none_or(|user| *session.user == *user));
        let sessions: Vec<_> = found.by_ref().take(listing.limit).collect();
        let next = match (found.next(), sessions.last()) {
            (Some(_), Some((id, _))) => Some((*id).clone()),
            _ => None,
        };
        let sessions = sessions.iter().map(|(_, session)| self.info(session));
        let page = Page {
            sessions: sessions.collect(),
            next,
        };
        drop(state);
        future::ready(Ok(page)).boxed()
    }

    fn counts(&self) -> BoxFuture<'_, Result<Counts, PresenceError>> {
        let state = self.inner.state.lock();
        let counts = Counts {
            sessions: state.held.len() as u64,
            users: state.told.len() as u64,
        };
        drop(state);
        future::ready(Ok(counts)).boxed()
    }

    fn nodes(&self) -> BoxFuture<'_, Result<Vec<NodeInfo>, PresenceError>> {
        let node = NodeInfo {
            name: self.inner.node.name.clone(),
            since: self.inner.node.since,
            sessions: self.inner.state.lock().held.len() as u64,
        };
        future::ready(Ok(vec![node])).boxed()
    }

    fn health(&self) -> Result<(), PresenceError> {
        Ok(())
    }

    /// Publishes nothing: no other node could report that the users left, and the listeners of this
    /// one are gone.
    fn close(&self) -> BoxFuture<'_, ()> {
        let mut state = self.inner.state.lock();
        *state = MemoryState {
            closed: true,
            ..MemoryState::new(self.inner.node.debounce)
        };
        drop(state);
        future::ready(()).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::Outbox;

    /// The absence of an event cannot be awaited: so a test waits for the next event.
    struct Scene {
        presence: MemoryPresence,
        events: Arc<Outbox>,
    }

    impl Scene {
        fn new() -> Self {
            let events = Outbox::new();
            let node = Node {
                name: "n".into(),
                since: SystemTime::now(),
                debounce: Duration::from_secs(5),
                rooms: None,
                events: Some(Arc::clone(&events)),
            };
            Self {
                presence: MemoryPresence::new(node),
                events,
            }
        }

        fn join(&self, user: &str, status: Status) -> Arc<PresenceEntry> {
            let id = rand::random::<u64>().to_string();
            let new = PresenceEntry::new(user.into(), &id, "tcp", Vec::new());
            let session = Arc::new(new.with_status(status));
            self.presence.join(Arc::clone(&session));
            session
        }

        /// The next event, and after how many tenths of a second it came.
        async fn next(&self, since: Instant) -> String {
            let events = self.events.next(1).await;
            let tenths = since.elapsed().as_millis() / 100;
            let event = &events[0];
            format!(
                "{tenths} {} {}>{}",
                event.user, event.previous, event.status
            )
        }
    }

    async fn pass(tenths: u64) {
        time::sleep(Duration::from_millis(100 * tenths)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn two_departures_within_the_debounce_are_one() {
        let scene = Scene::new();
        let start = Instant::now();
        let first = scene.join("alice", Status::Online);
        assert_eq!(scene.next(start).await, "0 alice offline>online");
        scene.presence.leave(&first);
        pass(10).await;
        let second = scene.join("alice", Status::Online);
        pass(36).await;
        scene.presence.leave(&second);
        pass(9).await;
        let third = scene.join("alice", Status::Online);
        pass(1).await;
        scene.presence.leave(&third);
        assert_eq!(scene.next(start).await, "106 alice online>offline");
    }

    #[tokio::test(start_paused = true)]
    async fn while_a_debounce_runs_nothing_less_is_told_by_other_sessions() {
        let scene = Scene::new();
        let start = Instant::now();
        let desk = scene.join("alice", Status::Busy);
        assert_eq!(scene.next(start).await, "0 alice offline>busy");
        scene.presence.leave(&desk);
        pass(10).await;
        // Her phone says less; and what it says of itself last, it says when it has left.
        let phone = scene.join("alice", Status::Online);
        scene.presence.set_status(&phone, Status::Away);
        scene.presence.set_status(&phone, Status::Online);
        scene.presence.leave(&phone);
        pass(30).await;
        scene.join("alice", Status::Away);
        // Both debounces are over; the last one was the phone's.
        assert_eq!(scene.next(start).await, "60 alice busy>away");
        scene.join("alice", Status::Invisible);
        assert_eq!(scene.next(start).await, "60 alice away>offline");
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_is_refused_is_no_event() {
        let scene = Scene::new();
        let start = Instant::now();
        scene.join("alice", Status::Online);
        assert_eq!(scene.next(start).await, "0 alice offline>online");
        for status in [Status::Invisible, Status::Busy] {
            let session = PresenceEntry::new("alice".into(), "s", "tcp", Vec::new());
            let session = Arc::new(session.with_status(status));
            let others = scene.presence.claim(Arc::clone(&session)).await.unwrap();
            assert_eq!(others.len(), 1);
            // Before it leaves, and after: an event and its opposite would not be told.
            assert_eq!(scene.events.next(1).now_or_never(), None);
            scene.presence.leave(&session);
            pass(100).await;
            assert_eq!(scene.events.next(1).now_or_never(), None);
        }
        scene.join("bob", Status::Online);
        assert_eq!(scene.next(start).await, "200 bob offline>online");
        let counts = scene.presence.counts().await.unwrap();
        assert_eq!((counts.sessions, counts.users), (2, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_leaves_others_behind_begins_no_debounce() {
        let scene = Scene::new();
        let start = Instant::now();
        let [stays, leaves] = [(); 2].map(|()| scene.join("alice", Status::Online));
        assert_eq!(scene.next(start).await, "0 alice offline>online");
        scene.presence.leave(&leaves);
        scene.presence.set_status(&stays, Status::Away);
        assert_eq!(scene.next(start).await, "0 alice online>away");
    }
}
