//! Sessions: of this node, and as others see them.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use parking_lot::Mutex;

use super::Status;

/// How often what a session says of its status is passed on, at most. Of what it says meanwhile
/// the newest counts.
pub const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// The device at the other end, as the client names it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Device {
    /// The kind of device, such as `phone`.
    pub kind: Option<Box<str>>,
    /// Which one.
    pub id: Option<Box<str>>,
}

impl Device {
    /// Bytes of [`Device::kind`], at most.
    pub const MAX_KIND: usize = 32;
    /// Bytes of [`Device::id`], at most.
    pub const MAX_ID: usize = 128;
}

/// A session of this node. Only [`super::Presence`] changes it.
#[derive(Debug)]
pub struct PresenceEntry {
    /// Its user.
    pub user: Arc<str>,
    /// The session's id; no other session of any node has it.
    pub id: Box<str>,
    /// `websocket`, `tcp` or a SockJS transport.
    pub transport: &'static str,
    /// The client's address, if presence may show it.
    pub remote: Option<SocketAddr>,
    /// Since when; kept to the millisecond.
    pub since: SystemTime,
    /// The device, if the client names it. Few do, so it is boxed.
    pub device: Option<Box<Device>>,
    changing: Mutex<Changing>,
    questions: Mutex<Questions>,
}

/// The questions about a user's groups, by their numbers. 0: that of the login.
#[derive(Debug, Default)]
struct Questions {
    last: u32,
    /// The one whose answer counts.
    answered: u32,
}

#[derive(Clone, Debug)]
struct Changing {
    status: Status,
    /// Whole seconds from `since` to the session's last word on its status.
    seen: u32,
    /// In order, each once.
    groups: Arc<[Arc<str>]>,
    /// When the status was passed on last, by itself.
    told: Option<Instant>,
    /// The status waits to be passed on.
    waits: bool,
}

/// When a status is to be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pass {
    /// At once.
    Now,
    /// After [`STATUS_INTERVAL`], with any change until then.
    Later,
    /// It waits already, and this goes with it.
    Waits,
}

impl PresenceEntry {
    /// A session that began now.
    #[must_use]
    pub fn new(user: Arc<str>, id: &str, transport: &'static str, groups: Vec<Arc<str>>) -> Self {
        Self {
            user,
            id: id.into(),
            transport,
            remote: None,
            since: SystemTime::now(),
            device: None,
            changing: Mutex::new(Changing {
                status: Status::Online,
                seen: 0,
                groups: in_order(groups),
                told: None,
                waits: false,
            }),
            questions: Mutex::default(),
        }
    }

    /// The same, with the status that it begins with.
    #[must_use]
    pub fn with_status(self, status: Status) -> Self {
        self.changing.lock().status = status;
        self
    }

    /// The groups that its user is in, as far as this session knows: in order, each once.
    #[must_use]
    pub fn groups(&self) -> Arc<[Arc<str>]> {
        Arc::clone(&self.changing.lock().groups)
    }

    /// The groups are about to be asked for again: the number of the question.
    #[must_use]
    pub fn ask_groups(&self) -> u32 {
        let mut questions = self.questions.lock();
        questions.last = questions.last.saturating_add(1);
        questions.last
    }

    /// A question about the groups is answered; 0 is that of the login. Questions are under way side
    /// by side, and an old answer may come late: it is not taken if a later one was.
    pub fn answer_groups(&self, question: u32, take: impl FnOnce()) {
        // Locked meanwhile, so that answers are taken in the order of their questions.
        let mut questions = self.questions.lock();
        if question >= questions.answered {
            questions.answered = question;
            take();
        }
    }

    /// The status that it set.
    #[must_use]
    pub fn status(&self) -> Status {
        self.changing.lock().status
    }

    /// When it last said something about its status; the login counts. To the second.
    #[must_use]
    pub fn last_seen(&self) -> SystemTime {
        let seen = Duration::from_secs(self.seen().into());
        self.since.checked_add(seen).unwrap_or(self.since)
    }

    pub(super) fn seen(&self) -> u32 {
        self.changing.lock().seen
    }

    /// Takes the status; when it is to be passed on.
    pub(super) fn say(&self, status: Status, now: Instant) -> Pass {
        let seen = self.since.elapsed().unwrap_or_default().as_secs();
        let mut changing = self.changing.lock();
        changing.status = status;
        changing.seen = u32::try_from(seen).unwrap_or(u32::MAX);
        if changing.waits {
            return Pass::Waits;
        }
        let is_soon = |told: Instant| now.saturating_duration_since(told) < STATUS_INTERVAL;
        if changing.told.is_some_and(is_soon) {
            changing.waits = true;
            return Pass::Later;
        }
        changing.told = Some(now);
        Pass::Now
    }

    /// The status that waited is passed on.
    pub(super) fn passed_on(&self, now: Instant) {
        let mut changing = self.changing.lock();
        changing.told = Some(now);
        changing.waits = false;
    }

    /// Takes the groups, and gives back the former ones; `None` if nothing changed.
    pub(super) fn regroup(&self, groups: Vec<Arc<str>>) -> Option<Arc<[Arc<str>]>> {
        let groups = in_order(groups);
        let mut changing = self.changing.lock();
        if changing.groups == groups {
            return None;
        }
        Some(std::mem::replace(&mut changing.groups, groups))
    }

    /// As others find it that claim, before it has joined.
    pub(super) fn claimed(&self, node: &str) -> SessionInfo {
        SessionInfo {
            status: Status::Offline,
            ..self.info(node)
        }
    }

    /// As others see it, on the node of this name.
    #[must_use]
    pub fn info(&self, node: &str) -> SessionInfo {
        SessionInfo {
            user: Arc::clone(&self.user),
            id: self.id.clone(),
            node: node.into(),
            transport: self.transport.into(),
            remote: self.remote,
            since: self.since,
            device: self.device.clone(),
            status: self.status(),
            last_seen: self.last_seen(),
        }
    }
}

fn in_order(mut groups: Vec<Arc<str>>) -> Arc<[Arc<str>]> {
    groups.sort_unstable();
    groups.dedup();
    groups.into()
}

/// A session of any node, as others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionInfo {
    /// [`PresenceEntry::user`].
    pub user: Arc<str>,
    /// Its id.
    pub id: Box<str>,
    /// The name of the node that holds it.
    pub node: Box<str>,
    /// [`PresenceEntry::transport`].
    pub transport: Box<str>,
    /// [`PresenceEntry::remote`].
    pub remote: Option<SocketAddr>,
    /// [`PresenceEntry::since`].
    pub since: SystemTime,
    /// [`PresenceEntry::device`].
    pub device: Option<Box<Device>>,
    /// The status that it set.
    pub status: Status,
    /// When it last said something about its status; the login counts. That it lives is what its
    /// node's lease says, not this.
    pub last_seen: SystemTime,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_statuses_one_a_second_is_passed_on() {
        let session = PresenceEntry::new("a".into(), "s", "tcp", Vec::new());
        let now = Instant::now();
        assert_eq!(session.say(Status::Away, now), Pass::Now);
        assert_eq!(session.say(Status::Busy, now), Pass::Later);
        assert_eq!(session.say(Status::Online, now), Pass::Waits);
        assert_eq!(session.status(), Status::Online);
        let then = now + STATUS_INTERVAL;
        session.passed_on(then);
        assert_eq!(session.say(Status::Away, then), Pass::Later);
        session.passed_on(then + STATUS_INTERVAL);
        assert_eq!(
            session.say(Status::Away, then + 2 * STATUS_INTERVAL),
            Pass::Now
        );
    }

    #[test]
    fn groups_are_in_order_and_told_only_if_they_change() {
        let groups = |names: &[&str]| names.iter().map(|name| Arc::from(*name)).collect();
        let session = PresenceEntry::new("a".into(), "s", "tcp", groups(&["g", "f", "g"]));
        assert_eq!(session.groups().join(" "), "f g");
        assert_eq!(session.regroup(groups(&["g", "f"])), None);
        let before = session.regroup(groups(&["h"])).unwrap();
        assert_eq!(before.join(" "), "f g");
    }

    #[test]
    fn an_old_answer_about_groups_takes_nothing_from_a_later_one() {
        let session = PresenceEntry::new("a".into(), "s", "tcp", Vec::new());
        let taken = Mutex::new(Vec::new());
        let answer = |question| session.answer_groups(question, || taken.lock().push(question));
        let (first, second, third) = (
            session.ask_groups(),
            session.ask_groups(),
            session.ask_groups(),
        );
        answer(second);
        // The login's, and one from before.
        answer(0);
        answer(first);
        answer(third);
        assert_eq!(*taken.lock(), [second, third]);
    }
}
