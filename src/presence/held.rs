//! The sessions that this node holds.

use std::{
    collections::{BTreeMap, HashMap, hash_map},
    sync::Arc,
    time::Instant,
};

use super::{PresenceEntry, Status, entry::Pass};

/// By user, since questions are about users. Nearly every user has one session; but one may have a
/// hundred thousand (an account that visitors share), so no call looks at all of a user's.
#[derive(Debug, Default)]
pub(super) struct Held {
    users: HashMap<Arc<str>, OfUser>,
    len: usize,
}

/// The sessions of one user.
#[derive(Debug)]
enum OfUser {
    One(Arc<PresenceEntry>),
    Many(Box<Many>),
}

/// Several sessions, and what they say together.
#[derive(Debug, Default)]
struct Many {
    /// By where they are in memory.
    sessions: HashMap<usize, Arc<PresenceEntry>>,
    /// How many say each status.
    statuses: [usize; STATUSES],
    /// How many are in each group.
    groups: BTreeMap<Arc<str>, usize>,
    /// Their names.
    union: Arc<[Arc<str>]>,
}

const STATUSES: usize = 5;

impl Held {
    /// `false`: it was there already.
    pub(super) fn insert(&mut self, session: &Arc<PresenceEntry>) -> bool {
        match self.users.entry(Arc::clone(&session.user)) {
            hash_map::Entry::Vacant(vacant) => {
                vacant.insert(OfUser::One(Arc::clone(session)));
            }
            hash_map::Entry::Occupied(mut occupied) => {
                let of_user = occupied.get_mut();
                if of_user.contains(session) {
                    return false;
                }
                of_user.insert(session);
            }
        }
        self.len = self.len.saturating_add(1);
        true
    }

    /// `false`: it was not there.
    pub(super) fn remove(&mut self, session: &Arc<PresenceEntry>) -> bool {
        let Some(of_user) = self.users.get_mut(&session.user) else {
            return false;
        };
        if !of_user.contains(session) {
            return false;
        }
        let is_last = match of_user {
            OfUser::One(_) => true,
            OfUser::Many(many) => {
                many.remove(session);
                many.sessions.is_empty()
            }
        };
        if is_last {
            self.users.remove(&session.user);
        }
        self.len = self.len.saturating_sub(1);
        true
    }

    pub(super) fn contains(&self, session: &Arc<PresenceEntry>) -> bool {
        let of_user = self.users.get(&session.user);
        of_user.is_some_and(|of_user| of_user.contains(session))
    }

    /// The sessions of a user: of all calls, only this one takes longer the more there are.
    pub(super) fn of(&self, user: &str) -> Vec<Arc<PresenceEntry>> {
        self.some_of(user, usize::MAX)
    }

    /// So many of them at most.
    pub(super) fn some_of(&self, user: &str, most: usize) -> Vec<Arc<PresenceEntry>> {
        match self.users.get(user) {
            None => Vec::new(),
            Some(OfUser::One(session)) => vec![Arc::clone(session)],
            Some(OfUser::Many(many)) => many.sessions.values().take(most).map(Arc::clone).collect(),
        }
    }

    /// How many a user has.
    pub(super) fn count(&self, user: &str) -> usize {
        match self.users.get(user) {
            None => 0,
            Some(OfUser::One(_)) => 1,
            Some(OfUser::Many(many)) => many.sessions.len(),
        }
    }

    /// The user's status, by its sessions here.
    pub(super) fn status(&self, user: &str) -> Status {
        match self.users.get(user) {
            None => Status::Offline,
            Some(OfUser::One(session)) => session.status(),
            Some(OfUser::Many(many)) => many.status(),
        }
    }

    /// The groups that a user is in, by its sessions here: in order, each once.
    pub(super) fn groups(&self, user: &str) -> Arc<[Arc<str>]> {
        match self.users.get(user) {
            None => Arc::default(),
            Some(OfUser::One(session)) => session.groups(),
            Some(OfUser::Many(many)) => Arc::clone(&many.union),
        }
    }

    /// A session says its status; and when that is to be passed on. `None`: it is not here.
    pub(super) fn say(
        &mut self,
        session: &Arc<PresenceEntry>,
        status: Status,
        now: Instant,
    ) -> Option<Pass> {
        let of_user = self.users.get_mut(&session.user)?;
        if !of_user.contains(session) {
            return None;
        }
        let before = session.status();
        let pass = session.say(status, now);
        if let OfUser::Many(many) = of_user {
            many.count(before, false);
            many.count(session.status(), true);
        }
        Some(pass)
    }

    /// A session's user is in these groups; answers the former ones. `None`: nothing changed, or it
    /// is not here.
    pub(super) fn regroup(
        &mut self,
        session: &Arc<PresenceEntry>,
        groups: Vec<Arc<str>>,
    ) -> Option<Arc<[Arc<str>]>> {
        let of_user = self.users.get_mut(&session.user)?;
        if !of_user.contains(session) {
            return None;
        }
        let before = session.regroup(groups)?;
        if let OfUser::Many(many) = of_user {
            many.exit(&before);
            many.enter(&session.groups());
        }
        Some(before)
    }

    /// How many sessions there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn all(&self) -> Vec<Arc<PresenceEntry>> {
        let mut all = Vec::with_capacity(self.len);
        for of_user in self.users.values() {
            match of_user {
                OfUser::One(session) => all.push(Arc::clone(session)),
                OfUser::Many(many) => all.extend(many.sessions.values().map(Arc::clone)),
            }
        }
        all
    }
}

impl OfUser {
    fn contains(&self, session: &Arc<PresenceEntry>) -> bool {
        match self {
            Self::One(held) => Arc::ptr_eq(held, session),
            Self::Many(many) => many.sessions.contains_key(&address(session)),
        }
    }

    /// A user who had two sessions may have two again, so many stay many.
    fn insert(&mut self, session: &Arc<PresenceEntry>) {
        match self {
            Self::Many(many) => many.insert(session),
            Self::One(first) => {
                let mut many = Box::<Many>::default();
                many.insert(first);
                many.insert(session);
                *self = Self::Many(many);
            }
        }
    }
}

/// Nobody else has it while the session is held.
fn address(session: &Arc<PresenceEntry>) -> usize {
    Arc::as_ptr(session).addr()
}

impl Many {
    fn insert(&mut self, session: &Arc<PresenceEntry>) {
        self.sessions.insert(address(session), Arc::clone(session));
        self.count(session.status(), true);
        self.enter(&session.groups());
    }

    fn remove(&mut self, session: &Arc<PresenceEntry>) {
        self.sessions.remove(&address(session));
        self.count(session.status(), false);
        self.exit(&session.groups());
    }

    fn count(&mut self, status: Status, comes: bool) {
        if let Some(count) = self.statuses.get_mut(usize::from(status.byte())) {
            *count = if comes {
                count.saturating_add(1)
            } else {
                count.saturating_sub(1)
            };
        }
    }

    fn status(&self) -> Status {
        let greatest = self.statuses.iter().rposition(|count| *count > 0);
        let byte = greatest.and_then(|byte| u8::try_from(byte).ok());
        byte.map_or(Status::Offline, Status::from_byte)
    }

    fn enter(&mut self, groups: &[Arc<str>]) {
        let before = self.groups.len();
        for group in groups {
            let count = self.groups.entry(Arc::clone(group)).or_insert(0);
            *count = count.saturating_add(1);
        }
        self.unite(before);
    }

    fn exit(&mut self, groups: &[Arc<str>]) {
        let before = self.groups.len();
        for group in groups {
            if let Some(count) = self.groups.get_mut(group) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.groups.remove(group);
                }
            }
        }
        self.unite(before);
    }

    /// Nearly always all sessions say the same, and there is nothing to do.
    fn unite(&mut self, before: usize) {
        if self.groups.len() != before {
            self.union = self.groups.keys().map(Arc::clone).collect();
        }
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

    fn session(id: &str, status: Status, groups: &[&str]) -> Arc<PresenceEntry> {
        let groups = groups.iter().map(|group| Arc::from(*group)).collect();
        let session = PresenceEntry::new("a".into(), id, "tcp", groups);
        Arc::new(session.with_status(status))
    }

    #[test]
    fn each_session_is_held_once_and_leaves_once() {
        let one = session("1", Status::Busy, &["g", "f"]);
        let two = session("2", Status::Away, &["g", "h"]);
        let mut held = Held::default();
        assert!(held.insert(&one) && held.insert(&two) && !held.insert(&two));
        assert_eq!((held.len(), held.of("a").len(), held.count("a")), (2, 2, 2));
        assert_eq!((held.all().len(), held.some_of("a", 1).len()), (2, 1));
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

    #[test]
    fn what_sessions_say_is_counted() {
        let now = Instant::now();
        let [one, two, stranger] = ["1", "2", "3"].map(|id| session(id, Status::Online, &["g"]));
        let mut held = Held::default();
        held.insert(&one);
        assert_eq!(held.say(&one, Status::Away, now), Some(Pass::Now));
        assert_eq!(held.status("a"), Status::Away);
        held.insert(&two);
        held.say(&two, Status::Busy, now);
        assert_eq!(held.status("a"), Status::Busy);
        held.say(&two, Status::Away, now);
        assert_eq!(held.status("a"), Status::Away);
        assert_eq!(held.say(&stranger, Status::Busy, now), None);

        let groups = |names: &[&str]| names.iter().map(|name| Arc::from(*name)).collect();
        assert_eq!(held.regroup(&one, groups(&["h"])).unwrap().join(" "), "g");
        assert_eq!(held.regroup(&one, groups(&["h"])), None);
        assert_eq!(held.regroup(&stranger, groups(&["x"])), None);
        assert_eq!(held.groups("a").join(" "), "g h");
        held.regroup(&two, groups(&[]));
        assert_eq!(held.groups("a").join(" "), "h");
    }
}
