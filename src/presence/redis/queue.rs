//! What this node holds, and what Redis has yet to be told of it.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::entry::{group_key, user_key};
use crate::presence::{PresenceError, Session, held::Held};

/// Changes that wait for Redis. With more the node takes a new lease and registers all it
/// holds, which says the same and takes no room.
const MAX_QUEUE: usize = 65_536;

/// Between the callers and the keeper.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    /// There is something for the keeper to do.
    pub(super) wake: Notify,
    health: Mutex<Result<(), PresenceError>>,
}

#[derive(Debug, Default)]
struct State {
    held: Held,
    queue: VecDeque<Change>,
    /// The queue was too short: all has to be registered anew.
    overflowed: bool,
    closed: bool,
}

#[derive(Debug)]
enum Change {
    Join(Arc<Session>),
    Leave(Arc<Session>),
    Forget(Stale),
}

/// Fields of dead leases.
#[derive(Debug)]
pub(super) struct Stale {
    pub(super) key: Box<str>,
    pub(super) fields: Vec<Vec<u8>>,
}

/// One thing to tell Redis.
#[derive(Debug)]
pub(super) enum Step {
    /// The session is here.
    Enter(Arc<Session>),
    /// It is not; and its user is in these groups no more, as far as this node knows.
    Exit(Arc<Session>, Vec<Arc<str>>),
    /// These fields mean nothing.
    Forget(Stale),
}

impl Shared {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::default(),
            wake: Notify::new(),
            health: Mutex::new(Err(PresenceError::Unavailable("not connected yet".into()))),
        }
    }

    pub(super) fn join(&self, session: Arc<Session>) {
        let mut state = self.state.lock();
        if !state.closed && state.held.insert(&session) {
            state.push(Change::Join(session));
            drop(state);
            self.wake.notify_one();
        }
    }

    pub(super) fn leave(&self, session: &Arc<Session>) {
        let mut state = self.state.lock();
        if state.held.remove(session) {
            state.push(Change::Leave(Arc::clone(session)));
            drop(state);
            self.wake.notify_one();
        }
    }

    /// Has fields removed, unless there is more important work.
    pub(super) fn forget(&self, stale: Stale) {
        let mut state = self.state.lock();
        if !state.closed && state.queue.len() < MAX_QUEUE / 2 {
            state.push(Change::Forget(stale));
            drop(state);
            self.wake.notify_one();
        }
    }

    /// All that is held leaves, and nobody joins any more.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        let state = &mut *state;
        state.closed = true;
        for session in std::mem::take(&mut state.held).all() {
            state.queue.push_back(Change::Leave(session));
        }
        self.wake.notify_one();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    pub(super) fn health(&self) -> Result<(), PresenceError> {
        self.health.lock().clone()
    }

    pub(super) fn set_health(&self, health: Result<(), PresenceError>) {
        *self.health.lock() = health;
    }

    pub(super) fn has_overflowed(&self) -> bool {
        self.state.lock().overflowed
    }

    pub(super) fn is_idle(&self) -> bool {
        self.state.lock().queue.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.state.lock().held.len()
    }

    /// Forgets what Redis was to be told; all that is held is to be registered instead.
    pub(super) fn begin_anew(&self) -> Vec<Arc<Session>> {
        let mut state = self.state.lock();
        state.queue = VecDeque::new();
        state.overflowed = false;
        state.held.all()
    }

    /// What Redis is to be told next, in order; about `commands` commands. One half may be of
    /// those that are `registering`, so that neither waits for the other.
    pub(super) fn take(&self, registering: &mut Vec<Arc<Session>>, commands: usize) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut left = commands;
        let mut state = self.state.lock();
        let reserved = if registering.is_empty() {
            0
        } else {
            commands / 2
        };
        while left > reserved {
            let Some(change) = state.queue.pop_front() else {
                break;
            };
            let step = state.step(change);
            left = left.saturating_sub(step.commands());
            steps.push(step);
        }
        while left > 0 {
            let Some(session) = registering.pop() else {
                break;
            };
            // Who has left meanwhile stays away: that was told already.
            if state.held.contains(&session) {
                let step = Step::Enter(session);
                left = left.saturating_sub(step.commands());
                steps.push(step);
            }
        }
        steps
    }
}

impl State {
    fn push(&mut self, change: Change) {
        if self.overflowed {
            return;
        }
        if self.queue.len() >= MAX_QUEUE {
            self.overflowed = true;
            self.queue = VecDeque::new();
            return;
        }
        self.queue.push_back(change);
    }

    fn step(&self, change: Change) -> Step {
        match change {
            Change::Join(session) => Step::Enter(session),
            Change::Leave(session) => {
                // Of those that stay some may have yet to be told, but told they will be.
                let groups = session.groups().iter();
                let left = groups.filter(|group| !self.held.is_in(&session.user, group));
                let left = left.map(Arc::clone).collect();
                Step::Exit(session, left)
            }
            Change::Forget(stale) => Step::Forget(stale),
        }
    }
}

impl Step {
    fn commands(&self) -> usize {
        match self {
            Self::Enter(session) => 2 + 2 * session.groups().len(),
            Self::Exit(_, groups) => 1 + groups.len(),
            Self::Forget(_) => 1,
        }
    }
}

impl Stale {
    pub(super) fn user(user: &str, fields: Vec<Vec<u8>>) -> Self {
        Self {
            key: user_key(user).into(),
            fields,
        }
    }

    pub(super) fn group(group: &str, fields: Vec<Vec<u8>>) -> Self {
        Self {
            key: group_key(group).into(),
            fields,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(user: &str, groups: &[&str]) -> Arc<Session> {
        let groups = groups.iter().map(|group| Arc::from(*group)).collect();
        Arc::new(Session::new(user.into(), "s", "tcp", groups))
    }

    fn told(steps: &[Step]) -> Vec<String> {
        let told = steps.iter().map(|step| match step {
            Step::Enter(session) => format!("+{}", session.user),
            Step::Exit(session, groups) => format!("-{} {}", session.user, groups.join(" ")),
            Step::Forget(stale) => format!("!{}", stale.key),
        });
        told.collect()
    }

    #[test]
    fn changes_come_in_order_and_a_group_is_left_with_the_last_session() {
        let shared = Shared::new();
        let (one, two) = (session("a", &["f", "g"]), session("a", &["g"]));
        shared.join(Arc::clone(&one));
        shared.join(Arc::clone(&two));
        shared.join(Arc::clone(&two));
        shared.leave(&one);
        shared.leave(&one);
        assert_eq!(
            told(&shared.take(&mut Vec::new(), 99)),
            ["+a", "+a", "-a f"]
        );
        shared.leave(&two);
        assert_eq!(told(&shared.take(&mut Vec::new(), 99)), ["-a g"]);
        assert!(shared.is_idle());
    }

    #[test]
    fn who_left_is_not_registered() {
        let shared = Shared::new();
        let [a, b, c] = ["a", "b", "c"].map(|user| session(user, &[]));
        for session in [&a, &b, &c] {
            shared.join(Arc::clone(session));
        }
        let mut registering = shared.begin_anew();
        registering.sort_by(|a, b| b.user.cmp(&a.user));
        shared.leave(&b);
        assert_eq!(
            told(&shared.take(&mut registering, 99)),
            ["-b ", "+a", "+c"]
        );
        assert!(registering.is_empty());
    }

    #[test]
    fn changes_and_those_to_register_share_a_turn() {
        let shared = Shared::new();
        for user in ["a", "b"] {
            shared.join(session(user, &[]));
        }
        let mut registering = shared.begin_anew();
        for user in ["c", "d"] {
            shared.join(session(user, &[]));
        }
        let steps = told(&shared.take(&mut registering, 4));
        assert_eq!((steps.len(), &*steps[0]), (2, "+c"));
        assert_eq!(registering.len(), 1);
    }

    #[test]
    fn too_many_changes_are_forgotten_but_not_who_is_here() {
        let shared = Shared::new();
        let stays = session("stays", &[]);
        shared.join(Arc::clone(&stays));
        let comes = session("comes", &[]);
        for _ in 0..MAX_QUEUE {
            shared.join(Arc::clone(&comes));
            shared.leave(&comes);
        }
        assert!(shared.has_overflowed() && shared.is_idle());
        assert_eq!(shared.begin_anew(), [stays]);
        assert!(!shared.has_overflowed());
    }

    #[test]
    fn closing_takes_all_away() {
        let shared = Shared::new();
        shared.join(session("a", &["g"]));
        shared.take(&mut Vec::new(), 99);
        shared.close();
        shared.join(session("b", &[]));
        assert_eq!(told(&shared.take(&mut Vec::new(), 99)), ["-a g"]);
    }
}
