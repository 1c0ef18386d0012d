//! The sessions that this node holds.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use super::{PresenceEntry, Status};

/// By user, since questions are about users; nearly every user has one session.
#[derive(Debug, Default)]
pub(super) struct Held {
    users: HashMap<Arc<str>, Vec<Arc<PresenceEntry>>>,
    len: usize,
}

impl Held {
    /// `false`: it was there already.
    pub(super) fn insert(&mut self, session: &Arc<PresenceEntry>) -> bool {
        if self.contains(session) {
            return false;
        }
        let sessions = self.users.entry(Arc::clone(&session.user)).or_default();
        sessions.reserve_exact(1);
        sessions.push(Arc::clone(session));
        self.len = self.len.saturating_add(1);
        true
    }

    /// `false`: it was not there.
    pub(super) fn remove(&mut self, session: &Arc<PresenceEntry>) -> bool {
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
        self.len = self.len.saturating_sub(1);
        true
    }

    pub(super) fn contains(&self, session: &Arc<PresenceEntry>) -> bool {
        self.of(&session.user)
            .iter()
            .any(|held| Arc::ptr_eq(held, session))
    }

    /// The sessions of a user.
    pub(super) fn of(&self, user: &str) -> &[Arc<PresenceEntry>] {
        self.users.get(user).map_or(&[], Vec::as_slice)
    }

    /// The user's status, by its sessions here.
    pub(super) fn status(&self, user: &str) -> Status {
        let statuses = self.of(user).iter().map(|session| session.status());
        statuses.max().unwrap_or(Status::Offline)
    }

    /// The groups that a user is in, by its sessions here: in order, each once.
    pub(super) fn groups(&self, user: &str) -> Arc<[Arc<str>]> {
        match self.of(user) {
            [] => Arc::default(),
            [one] => one.groups(),
            many => {
                let mut lists: Vec<_> = many.iter().map(|session| session.groups()).collect();
                // Nearly always all say the same, and they may be thousands.
                lists.dedup();
                if let [same] = &*lists {
                    return Arc::clone(same);
                }
                let all: BTreeSet<_> = lists.iter().flat_map(|groups| groups.to_vec()).collect();
                all.into_iter().collect()
            }
        }
    }

    /// How many sessions there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn all(&self) -> Vec<Arc<PresenceEntry>> {
        let mut all = Vec::with_capacity(self.len);
        all.extend(self.users.values().flatten().map(Arc::clone));
        all
    }
}

/// The names in `some` that are not in `others`, which is sorted.
pub(super) fn without(some: &[Arc<str>], others: &[Arc<str>]) -> Vec<Arc<str>> {
    let left = some
        .iter()
        .filter(|name| others.binary_search(name).is_err());
    left.map(Arc::clone).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(user: &str, status: Status, groups: &[&str]) -> Arc<PresenceEntry> {
        let groups = groups.iter().map(|group| Arc::from(*group)).collect();
        Arc::new(PresenceEntry::new(user.into(), "s", "tcp", groups).with_status(status))
    }

    #[test]
    fn each_session_is_held_once_and_leaves_once() {
        let one = session("a", Status::Busy, &["g", "f"]);
        let two = session("a", Status::Away, &["g", "h"]);
        let mut held = Held::default();
        assert!(held.insert(&one) && held.insert(&two) && !held.insert(&two));
        assert_eq!(
            (held.len(), held.of("a").len(), held.all().len()),
            (2, 2, 2)
        );
        assert_eq!(held.status("a"), Status::Busy);
        assert_eq!(held.groups("a").join(" "), "f g h");

        assert!(held.remove(&one) && !held.remove(&one));
        assert_eq!(held.status("a"), Status::Away);
        assert_eq!(held.groups("a").join(" "), "g h");
        let left = without(&one.groups(), &held.groups("a"));
        assert_eq!(left.join(" "), "f");
        assert!(held.contains(&two) && held.remove(&two));
        assert!(held.users.is_empty() && held.len() == 0);
        assert_eq!(
            (held.status("a"), held.groups("a").len()),
            (Status::Offline, 0)
        );
    }
}
