//! The sessions that this node holds.

use std::{collections::HashMap, sync::Arc};

use super::Session;

/// By user, since that is what is asked; nearly every user has one session.
#[derive(Debug, Default)]
pub(super) struct Held {
    users: HashMap<Arc<str>, Vec<Arc<Session>>>,
    len: usize,
}

impl Held {
    /// `false`: it was there already.
    pub(super) fn insert(&mut self, session: &Arc<Session>) -> bool {
        if self.contains(session) {
            return false;
        }
        let sessions = self.users.entry(Arc::clone(&session.user)).or_default();
        sessions.reserve_exact(1);
        sessions.push(Arc::clone(session));
        self.len += 1;
        true
    }

    /// `false`: it was not there.
    pub(super) fn remove(&mut self, session: &Arc<Session>) -> bool {
        let Some(sessions) = self.users.get_mut(&session.user) else {
            return false;
        };
        let before = sessions.len();
        sessions.retain(|held| !Arc::ptr_eq(held, session));
        if sessions.len() == before {
            return false;
        }
        if sessions.is_empty() {
            self.users.remove(&session.user);
        }
        self.len -= 1;
        true
    }

    pub(super) fn contains(&self, session: &Arc<Session>) -> bool {
        self.of(&session.user)
            .iter()
            .any(|held| Arc::ptr_eq(held, session))
    }

    /// The sessions of a user.
    pub(super) fn of(&self, user: &str) -> &[Arc<Session>] {
        self.users.get(user).map_or(&[], Vec::as_slice)
    }

    /// Whether one of a user's sessions says that the user is in a group.
    pub(super) fn is_in(&self, user: &str, group: &Arc<str>) -> bool {
        let sessions = self.of(user);
        sessions
            .iter()
            .any(|session| session.groups().binary_search(group).is_ok())
    }

    /// How many sessions there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn all(&self) -> Vec<Arc<Session>> {
        let mut all = Vec::with_capacity(self.len);
        all.extend(self.users.values().flatten().map(Arc::clone));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(user: &str, groups: &[&str]) -> Arc<Session> {
        let groups = groups.iter().map(|group| Arc::from(*group)).collect();
        Arc::new(Session::new(user.into(), "s", "tcp", groups))
    }

    #[test]
    fn each_session_is_held_once_and_leaves_once() {
        let (one, two) = (session("a", &["g", "f"]), session("a", &["g"]));
        let mut held = Held::default();
        assert!(held.insert(&one) && held.insert(&two) && !held.insert(&two));
        assert_eq!(
            (held.len(), held.of("a").len(), held.all().len()),
            (2, 2, 2)
        );
        assert!(held.is_in("a", &"f".into()) && !held.is_in("b", &"f".into()));

        assert!(held.remove(&one) && !held.remove(&one));
        assert!(!held.is_in("a", &"f".into()) && held.is_in("a", &"g".into()));
        assert!(held.contains(&two) && held.remove(&two));
        assert!(held.users.is_empty() && held.len() == 0);
    }
}
