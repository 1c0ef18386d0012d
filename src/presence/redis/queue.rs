//! The sessions that this node holds, and the changes that Redis does not know yet.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{
    entry::{LeaseId, encode_here},
    room_queue::RoomQueue,
    script::{Settled, Untold},
};
use crate::{
    deadline::later,
    later::Later,
    presence::{
        PresenceEntry, PresenceError, STATUS_INTERVAL, Status,
        departures::{Departure, Departures, Stamp},
        entry::Pass,
        held::{Held, without},
    },
    telemetry,
};

/// Changes that wait for Redis. With more the node takes a new lease and registers all it
/// holds, which says the same and takes no room.
const MAX_QUEUE: usize = 65_536;
/// Departures whose debounce runs. With more, the first are settled before it is over.
const MAX_LEFT: usize = MAX_QUEUE;
/// Departures that wait while Redis takes none; with more, as for [`MAX_QUEUE`].
const MAX_UNTAKEN: usize = 2 * MAX_LEFT;

/// Between the callers and the tasks that talk to Redis.
#[derive(Debug)]
pub(super) struct RedisShared {
    state: Mutex<RedisState>,
    /// There is something for the keeper to do.
    pub(super) wake: Notify,
    /// The rooms that this node's sessions are in.
    pub(super) rooms: RoomQueue,
    health: Mutex<Result<(), PresenceError>>,
    lease: Mutex<Option<Taken>>,
}

/// A lease that this node has.
#[derive(Clone, Debug)]
pub(super) struct Taken {
    pub(super) lease: LeaseId,
    /// Since when.
    pub(super) since: Instant,
    /// How Redis calls the script that settles.
    pub(super) script: Arc<str>,
}

#[derive(Debug)]
struct RedisState {
    held: Held,
    /// Sessions that are about to join. Their claims stand in Redis under the lease of then; one that
    /// is lost with it is not repeated, for they join or leave in a moment.
    claimed: Held,
    queue: VecDeque<Change>,
    /// Groups that users left by a session that then ended before Redis was told of it. Its end
    /// waits in the queue behind, and tells them.
    unleft: HashMap<Arc<str>, Vec<Arc<str>>>,
    /// Sessions that left; their users may have left with them.
    left: Departures,
    /// The number of the last ones, whose departure still waits in the queue.
    unsaid: usize,
    /// Users of whom an answer was lost: others may not know what Redis says they were told. Each
    /// has a session that is held or a departure that waits, whose answer ends the doubt.
    unsure: HashSet<Arc<str>>,
    /// Users whose status by `held` is new, and what others see of them until Redis has answered: all
    /// that is left of it if Redis loses what others were told.
    shown: HashMap<Arc<str>, Status>,
    /// Sessions that say more of their status than is passed on.
    saying: Later<Arc<PresenceEntry>>,
    /// Redis has lost all, and not all that is held is registered anew.
    forgotten: bool,
    /// The queue was too short: all has to be registered anew.
    overflowed: bool,
    closed: bool,
}

#[derive(Debug)]
enum Change {
    /// All there is to say of a session; and the groups that its user left.
    Tell(Arc<PresenceEntry>, Vec<Arc<str>>),
    /// It has left; and by which departure, if that begins a debounce.
    Leave(Arc<PresenceEntry>, Option<Stamp>),
    /// It has left before it joined.
    Withdraw(Arc<PresenceEntry>),
}

/// One thing to tell Redis.
#[derive(Debug)]
pub(super) enum KeeperStep {
    /// The session is here, and so it is. Answers what is settled.
    Enter(Entered),
    /// It is not; and from now on others are told nothing less of its user, until the departure of
    /// that stamp is settled.
    Exit {
        session: Arc<PresenceEntry>,
        user: User,
        stamp: Option<Stamp>,
    },
    /// Asks if its user left with it, or anything else is new. Answers the settlement.
    Settle {
        departure: Departure,
        /// The user's status by the sessions that are held.
        own: Status,
        untold: Untold,
        /// An answer about the user was lost. Others may have seen it so before.
        unsure: Option<Status>,
    },
    /// Its user has left anew since: that departure settles.
    Unlist(Arc<PresenceEntry>),
    /// It had claimed, and was never here.
    Withdraw(Arc<PresenceEntry>),
}

#[derive(Debug)]
pub(super) struct Entered {
    pub(super) session: Arc<PresenceEntry>,
    pub(super) user: User,
    pub(super) untold: Untold,
    /// An answer about the user was lost.
    pub(super) is_unsure: bool,
}

/// A session about whose user Redis is asked for a [`Settled`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    pub(super) session: &'a PresenceEntry,
    /// The user's status by the sessions that are held, as Redis was told.
    pub(super) own: Status,
}

/// A user, by the sessions that are held.
#[derive(Debug)]
pub(super) struct User {
    pub(super) status: Status,
    pub(super) sessions: usize,
    /// The groups that it is in.
    pub(super) groups: Arc<[Arc<str>]>,
    /// Those that it was in before.
    pub(super) left: Vec<Arc<str>>,
}

/// Sessions that are to be registered anew.
#[derive(Debug, Default)]
pub(super) struct Registering {
    pub(super) sessions: Vec<Arc<PresenceEntry>>,
    /// Redis has lost what others know of rooms.
    pub(super) restores: bool,
}

impl RedisShared {
    pub(super) fn new(debounce: Duration) -> Self {
        Self {
            state: Mutex::new(RedisState {
                held: Held::default(),
                claimed: Held::default(),
                queue: VecDeque::new(),
                unleft: HashMap::new(),
                left: Departures::new(debounce),
                unsaid: 0,
                unsure: HashSet::new(),
                shown: HashMap::new(),
                saying: Later::new(STATUS_INTERVAL),
                forgotten: false,
                overflowed: false,
                closed: false,
            }),
            wake: Notify::new(),
            rooms: RoomQueue::new(debounce),
            health: Mutex::new(Err(PresenceError::Unavailable("not connected yet".into()))),
            lease: Mutex::default(),
        }
    }

    /// Its claim is, or may be, in Redis.
    pub(super) fn claim(&self, session: &Arc<PresenceEntry>) {
        let mut state = self.state.lock();
        if !state.closed && !state.held.contains(session) {
            state.claimed.insert(session);
        }
    }

    pub(super) fn join(&self, session: Arc<PresenceEntry>) {
        let mut state = self.state.lock();
        state.claimed.remove(&session);
        let before = state.held.status(&session.user);
        if !state.closed && state.held.insert(&session) {
            state.note_shown(&session.user, before);
            state.push(Change::Tell(session, Vec::new()));
            drop(state);
            self.wake.notify_one();
        }
    }

    pub(super) fn leave(&self, session: &Arc<PresenceEntry>) {
        let state = &mut *self.state.lock();
        if state.claimed.remove(session) {
            state.push(Change::Withdraw(Arc::clone(session)));
            self.wake.notify_one();
            return;
        }
        let before = state.held.status(&session.user);
        if state.held.remove(session) {
            let now = Instant::now();
            state.note_shown(&session.user, before);
            // If it is forgotten, Redis may never hear of it again.
            let stamp = state
                .left
                .push(now, session, before, &state.held, state.forgotten);
            state.push(Change::Leave(Arc::clone(session), stamp));
            if state.left.len() > MAX_UNTAKEN {
                state.overflow();
            }
            self.wake.notify_one();
        }
    }

    pub(super) fn set_status(&self, session: &Arc<PresenceEntry>, status: Status) {
        let now = Instant::now();
        let mut state = self.state.lock();
        let before = state.held.status(&session.user);
        let pass = state.held.say(session, status, now);
        state.note_shown(&session.user, before);
        match pass {
            Some(Pass::Now) => state.push(Change::Tell(Arc::clone(session), Vec::new())),
            Some(Pass::Later) => state.saying.push(now, Arc::clone(session)),
            Some(Pass::Waits) | None => return,
        }
        drop(state);
        self.wake.notify_one();
    }

    pub(super) fn regroup(&self, session: &Arc<PresenceEntry>, groups: Vec<Arc<str>>) {
        let mut state = self.state.lock();
        if let Some(before) = state.held.regroup(session, groups) {
            let left = without(&before, &session.groups());
            state.push(Change::Tell(Arc::clone(session), left));
            drop(state);
            self.wake.notify_one();
        }
    }

    pub(super) fn held(&self, user: &str) -> Vec<Arc<PresenceEntry>> {
        self.state.lock().held.of(user)
    }

    /// A user's status by the sessions that this node itself holds.
    pub(super) fn status(&self, user: &str) -> Status {
        self.state.lock().held.status(user)
    }

    /// Forgets all sessions, and takes no new ones.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.held = Held::default();
        state.claimed = Held::default();
        state.overflow();
        state.saying.clear();
        drop(state);
        self.rooms.close();
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

    /// The lease, if this node has one.
    pub(super) fn lease(&self) -> Option<Taken> {
        self.lease.lock().clone()
    }

    pub(super) fn set_lease(&self, lease: Option<Taken>) {
        *self.lease.lock() = lease;
    }

    pub(super) fn has_overflowed(&self) -> bool {
        self.state.lock().overflowed || self.rooms.has_overflowed()
    }

    /// The moment of the next change for Redis; `None`: none before the next call.
    pub(super) fn due(&self) -> Option<Instant> {
        let rooms = self.rooms.due();
        let state = self.state.lock();
        if !state.queue.is_empty() || state.left.len() > MAX_LEFT {
            return Some(Instant::now());
        }
        let due = state.left.due().into_iter().chain(state.saying.due());
        due.chain(rooms).min()
    }

    pub(super) fn len(&self) -> usize {
        self.state.lock().held.len()
    }

    /// Forgets what Redis was to be told, save whose end was not settled yet; all that is held is
    /// to be registered instead.
    pub(super) fn begin_anew(&self) -> Vec<Arc<PresenceEntry>> {
        self.rooms.begin_anew();
        let mut state = self.state.lock();
        state.queue = VecDeque::new();
        state.unleft = HashMap::new();
        state.unsaid = 0;
        state.overflowed = false;
        state.held.all()
    }

    /// These ends are to be settled again. `is_unsure`: Redis may have done all that these steps
    /// ask for, so its next answers do not show what others were told.
    pub(super) fn put_back(&self, steps: Vec<KeeperStep>, is_unsure: bool) {
        let now = Instant::now();
        let mut state = self.state.lock();
        if state.closed {
            return;
        }
        for step in steps.into_iter().rev() {
            match step {
                KeeperStep::Enter(Entered { session, .. }) => {
                    // One that has left since has a departure, unless there were too many.
                    if is_unsure && (!state.overflowed || state.held.contains(&session)) {
                        state.unsure.insert(Arc::clone(&session.user));
                    }
                }
                KeeperStep::Settle { departure, .. } => {
                    if is_unsure {
                        state.unsure.insert(Arc::clone(&departure.session.user));
                    }
                    state.left.put_back(now, departure);
                }
                KeeperStep::Exit { .. } | KeeperStep::Unlist(_) | KeeperStep::Withdraw(_) => {}
            }
        }
    }

    /// Redis has answered what was asked about the users of these.
    pub(super) fn answered(&self, asked: &[Asked<'_>], settled: &[Settled]) {
        let mut state = self.state.lock();
        for (asked, settled) in asked.iter().zip(settled) {
            state.unsure.remove(&asked.session.user);
            state.answered(asked, *settled);
        }
        if state.unsure.is_empty() {
            state.unsure = HashSet::new();
        }
        if state.shown.is_empty() {
            state.shown = HashMap::new();
        }
    }

    /// Redis has lost all. Users who left since it last answered were seen before. Whether they are
    /// gone can be asked after a lease: by then every node that lives has registered its sessions.
    pub(super) fn note_forgotten(&self, lease: Duration) {
        let until: Instant = later(Instant::now().into(), lease).into();
        self.rooms.note_forgotten(until);
        let mut state = self.state.lock();
        state.forgotten = true;
        state.left.were_forgotten(until);
    }

    /// The next steps for Redis, in order; about `commands` commands. One half may be of those that
    /// are `registering`, so that neither waits for the other.
    pub(super) fn take(&self, registering: &mut Registering, commands: usize) -> Vec<KeeperStep> {
        let now = Instant::now();
        let mut steps = Vec::new();
        let mut left = commands;
        let mut state = self.state.lock();
        let is_registering = !registering.sessions.is_empty();
        state.forgotten &= is_registering;
        let reserved = if is_registering { commands / 2 } else { 0 };
        while let Some(session) = state.saying.pop(now) {
            session.passed_on(now);
            state.push(Change::Tell(session, Vec::new()));
        }
        while left > reserved
            && let Some(step) = state.next(now, is_registering)
        {
            left = left.saturating_sub(step.commands());
            steps.push(step);
        }
        while left > 0
            && let Some(session) = registering.sessions.pop()
        {
            // A session that has left meanwhile stays away.
            if let Some(entered) = state.enter(session, &[]) {
                let step = KeeperStep::Enter(entered);
                left = left.saturating_sub(step.commands());
                steps.push(step);
            }
        }
        steps
    }
}

impl RedisState {
    fn push(&mut self, change: Change) {
        if self.overflowed {
            return;
        }
        if self.queue.len() >= MAX_QUEUE {
            self.overflow();
            return;
        }
        let unsaid = usize::from(matches!(change, Change::Leave(..)));
        self.unsaid = self.unsaid.saturating_add(unsaid);
        self.queue.push_back(change);
    }

    /// Too much waits. A new lease says the same, and whose end was not settled is found by who
    /// clears up after the old one.
    fn overflow(&mut self) {
        if !self.overflowed && !self.closed {
            telemetry::presence_overflowed(MAX_QUEUE);
        }
        self.overflowed = true;
        self.queue = VecDeque::new();
        self.unleft = HashMap::new();
        self.left.clear();
        self.unsaid = 0;
        let held = &self.held;
        self.unsure.retain(|user| held.count(user) > 0);
        self.shown.retain(|user, _| held.count(user) > 0);
    }

    /// A user's status by `held` may have changed, and was this before. Others see that for now, or
    /// what they saw before an earlier change that Redis has not answered either.
    fn note_shown(&mut self, user: &Arc<str>, before: Status) {
        if self.held.status(user) != before {
            self.shown.entry(Arc::clone(user)).or_insert(before);
        }
    }

    fn answered(&mut self, asked: &Asked<'_>, settled: Settled) {
        let user = &asked.session.user;
        // Until a departure is settled, others may see more than what is true.
        let waits = self.left.hold(user);
        if self.held.status(user) == asked.own && !waits {
            self.shown.remove(user);
            return;
        }
        match settled {
            Settled::Changed { now, .. } => {
                self.shown.insert(Arc::clone(user), now);
            }
            Settled::Same if !waits => {
                self.shown.insert(Arc::clone(user), asked.own);
            }
            Settled::Same | Settled::LeaseLost => {}
        }
    }

    /// What it means if Redis knows nothing of a user whose session is held.
    fn untold(&self, user: &str) -> Untold {
        if !self.forgotten {
            return Untold::AsIs;
        }
        match self.shown.get(user) {
            Some(shown) if *shown != self.held.status(user) => Untold::Was(*shown),
            Some(_) | None => Untold::Restored,
        }
    }

    /// First ends that are due, so that they do not wait for ever; but not before it was said
    /// that the session left.
    fn next(&mut self, now: Instant, is_registering: bool) -> Option<KeeperStep> {
        if self.left.len() > self.unsaid
            && let Some(step) = self.next_end(now, is_registering)
        {
            return Some(step);
        }
        while let Some(change) = self.queue.pop_front() {
            match change {
                Change::Tell(session, left) => {
                    // If the session has left since, only its departure counts.
                    let user = Arc::clone(&session.user);
                    match self.enter(session, &left) {
                        Some(entered) => return Some(KeeperStep::Enter(entered)),
                        None if left.is_empty() => {}
                        None => self.unleft.entry(user).or_default().extend(left),
                    }
                }
                Change::Leave(session, stamp) => {
                    self.unsaid = self.unsaid.saturating_sub(1);
                    let mut left = session.groups().to_vec();
                    left.extend(self.unleft.remove(&session.user).into_iter().flatten());
                    left.sort_unstable();
                    left.dedup();
                    let user = self.user(&session.user, &left);
                    return Some(KeeperStep::Exit {
                        session,
                        user,
                        stamp,
                    });
                }
                Change::Withdraw(session) => return Some(KeeperStep::Withdraw(session)),
            }
        }
        self.next_end(now, is_registering)
    }

    /// The first end that is due, or of too many. None while sessions are registered anew: Redis does
    /// not know who is still here.
    fn next_end(&mut self, now: Instant, is_registering: bool) -> Option<KeeperStep> {
        if is_registering {
            return None;
        }
        let (departure, settles) = self.left.pop_over(now, MAX_LEFT)?;
        Some(self.settle(departure, settles))
    }

    fn settle(&self, departure: Departure, settles: bool) -> KeeperStep {
        if !settles {
            return KeeperStep::Unlist(departure.session);
        }
        let session = &departure.session;
        let own = self.held.status(&session.user);
        let shown = self.shown.get(&session.user).copied();
        // With sessions that are still here, Redis knows of the user again.
        let untold = if departure.forgotten && own == Status::Offline {
            Untold::Was(shown.unwrap_or_else(|| session.status()))
        } else {
            Untold::AsIs
        };
        // Of one who is offline by the answers to this node, another may have told.
        let seen = shown.filter(|shown| *shown != Status::Offline);
        let is_unsure = self.unsure.contains(&session.user);
        KeeperStep::Settle {
            own,
            untold,
            unsure: is_unsure.then(|| seen.unwrap_or_else(|| session.status())),
            departure,
        }
    }

    fn enter(&self, session: Arc<PresenceEntry>, left: &[Arc<str>]) -> Option<Entered> {
        self.held.contains(&session).then(|| Entered {
            user: self.user(&session.user, left),
            is_unsure: self.unsure.contains(&session.user),
            untold: self.untold(&session.user),
            session,
        })
    }

    fn user(&self, name: &str, left: &[Arc<str>]) -> User {
        let groups = self.held.groups(name);
        User {
            status: self.held.status(name),
            sessions: self.held.count(name),
            left: without(left, &groups),
            groups,
        }
    }
}

impl User {
    /// The value of this node's field of the user.
    pub(super) fn here(&self) -> [u8; 5] {
        encode_here(self.status, self.sessions)
    }
}

impl KeeperStep {
    fn commands(&self) -> usize {
        let of_groups = |user: &User| user.groups.len().saturating_add(user.left.len());
        match self {
            Self::Enter(Entered { user, .. }) => of_groups(user).saturating_add(3),
            Self::Exit { user, .. } => of_groups(user).saturating_add(3),
            Self::Settle { .. } | Self::Withdraw(_) => 2,
            Self::Unlist(_) => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT_ONCE: Duration = Duration::ZERO;
    const LONG: Duration = Duration::from_secs(60);

    fn session(user: &str, groups: &[&str]) -> Arc<PresenceEntry> {
        Arc::new(PresenceEntry::new(user.into(), "s", "tcp", names(groups)))
    }

    fn names(names: &[&str]) -> Vec<Arc<str>> {
        names.iter().map(|name| Arc::from(*name)).collect()
    }

    fn told(steps: &[KeeperStep]) -> Vec<String> {
        let user = |user: &User| {
            let status = user.status;
            format!("{status} in {:?} not {:?}", user.groups, user.left).replace('"', "")
        };
        let told = steps.iter().map(|step| match step {
            KeeperStep::Enter(entered) => {
                format!("+{} {}", entered.session.user, user(&entered.user))
            }
            KeeperStep::Exit {
                session, user: of, ..
            } => format!("-{} {}", session.user, user(of)),
            KeeperStep::Settle {
                departure, untold, ..
            } => format!("?{} {untold:?}", departure.session.user),
            KeeperStep::Unlist(session) => format!("/{}", session.user),
            KeeperStep::Withdraw(session) => format!("x{}", session.user),
        });
        told.collect()
    }

    /// Redis takes all that waits, and answers.
    fn take(shared: &RedisShared) -> Vec<String> {
        let steps = shared.take(&mut Registering::default(), 99);
        answer(shared, &steps);
        told(&steps)
    }

    fn answer(shared: &RedisShared, steps: &[KeeperStep]) {
        let asked = steps.iter().filter_map(|step| match step {
            KeeperStep::Enter(Entered { session, user, .. }) => Some((session, user.status)),
            KeeperStep::Settle { departure, own, .. } => Some((&departure.session, *own)),
            KeeperStep::Exit { .. } | KeeperStep::Unlist(_) | KeeperStep::Withdraw(_) => None,
        });
        let asked: Vec<_> = asked.map(|(session, own)| Asked { session, own }).collect();
        shared.answered(&asked, &vec![Settled::Same; asked.len()]);
    }

    /// The meaning of "nothing was told" in each step that registers a session.
    fn untold(steps: &[KeeperStep]) -> Vec<Untold> {
        let entered = steps.iter().filter_map(|step| match step {
            KeeperStep::Enter(entered) => Some(entered.untold),
            KeeperStep::Exit { .. }
            | KeeperStep::Settle { .. }
            | KeeperStep::Unlist(_)
            | KeeperStep::Withdraw(_) => None,
        });
        entered.collect()
    }

    fn again(shared: &RedisShared) -> Registering {
        Registering {
            sessions: shared.begin_anew(),
            restores: false,
        }
    }

    #[test]
    fn changes_come_in_order_and_a_group_is_left_with_the_last_session() {
        let shared = RedisShared::new(LONG);
        let (one, two) = (session("a", &["f", "g"]), session("a", &["g"]));
        shared.join(Arc::clone(&one));
        shared.join(Arc::clone(&two));
        shared.join(Arc::clone(&two));
        let here = "+a online in [f, g] not []";
        assert_eq!(take(&shared), [here, here]);
        shared.leave(&one);
        shared.leave(&one);
        assert_eq!(take(&shared), ["-a online in [g] not [f]"]);
        shared.leave(&two);
        assert_eq!(take(&shared), ["-a offline in [] not [g]"]);
        let due = shared.due().unwrap();
        assert!(due > Instant::now() + LONG / 2, "what is settled, waits");
    }

    #[test]
    fn a_session_that_went_before_it_was_told_was_never_here() {
        let shared = RedisShared::new(AT_ONCE);
        let flaps = session("a", &[]);
        shared.join(Arc::clone(&flaps));
        shared.leave(&flaps);
        assert_eq!(take(&shared), ["-a offline in [] not []", "?a AsIs"]);
        assert_eq!(shared.due(), None);
    }

    #[test]
    fn a_claim_is_withdrawn_or_becomes_a_session() {
        let shared = RedisShared::new(AT_ONCE);
        let [refused, admitted] = ["refused", "admitted"].map(|user| session(user, &[]));
        for session in [&refused, &admitted] {
            shared.claim(session);
        }
        assert_eq!((take(&shared).len(), shared.len()), (0, 0));
        shared.leave(&refused);
        shared.leave(&refused);
        shared.join(Arc::clone(&admitted));
        assert_eq!(take(&shared), ["xrefused", "+admitted online in [] not []"]);
        assert_eq!((shared.due(), shared.len()), (None, 1));
        shared.leave(&admitted);
        assert_eq!(
            take(&shared),
            ["-admitted offline in [] not []", "?admitted AsIs"]
        );
    }

    #[test]
    fn statuses_and_groups_are_told_as_they_are_in_the_end() {
        let shared = RedisShared::new(LONG);
        let (one, two) = (session("a", &["f", "g"]), session("a", &["g"]));
        shared.join(Arc::clone(&one));
        shared.join(Arc::clone(&two));
        take(&shared);
        shared.set_status(&one, Status::Busy);
        shared.set_status(&one, Status::Away);
        shared.regroup(&one, names(&["h"]));
        shared.regroup(&one, names(&["h"]));
        assert_eq!(
            take(&shared),
            ["+a online in [g, h] not []", "+a online in [g, h] not [f]",]
        );
        // The second word waits for its time.
        assert!(shared.due().is_some_and(|due| due > Instant::now()));
        shared.set_status(&session("b", &[]), Status::Busy);
        shared.regroup(&session("b", &[]), names(&["g"]));
        assert!(take(&shared).is_empty(), "who is not here says nothing");
    }

    /// Groups that a session left just before it ended are told with its end, or with that of
    /// another session of its user; not those that the user is in all the same.
    #[test]
    fn a_group_that_was_left_just_before_the_end_is_left() {
        let shared = RedisShared::new(LONG);
        let one = session("a", &["f", "g"]);
        shared.join(Arc::clone(&one));
        assert_eq!(take(&shared), ["+a online in [f, g] not []"]);
        shared.regroup(&one, names(&["h"]));
        shared.leave(&one);
        assert_eq!(take(&shared), ["-a offline in [] not [f, g, h]"]);

        let [one, two] = [session("a", &["f", "g"]), session("a", &["h"])];
        for session in [&one, &two] {
            shared.join(Arc::clone(session));
        }
        take(&shared);
        shared.leave(&two);
        shared.regroup(&one, names(&["h"]));
        shared.leave(&one);
        shared.join(session("a", &["g"]));
        assert_eq!(
            take(&shared),
            [
                "-a online in [g] not [h]",
                "-a online in [g] not [f, h]",
                "+a online in [g] not []",
            ]
        );
        // What is registered anew says nothing of it any more.
        let ends = session("b", &["f"]);
        shared.join(Arc::clone(&ends));
        take(&shared);
        shared.regroup(&ends, names(&["g"]));
        shared.join(session("c", &[]));
        shared.leave(&ends);
        let first = shared.take(&mut Registering::default(), 1);
        assert_eq!(told(&first), ["+c online in [] not []"]);
        assert_eq!(shared.state.lock().unleft.len(), 1);
        assert_eq!(again(&shared).sessions.len(), 2);
        assert!(shared.state.lock().unleft.is_empty());
    }

    #[test]
    fn sessions_that_left_are_not_registered() {
        let shared = RedisShared::new(LONG);
        let [a, b, c] = ["a", "b", "c"].map(|user| session(user, &[]));
        for session in [&a, &b, &c] {
            shared.join(Arc::clone(session));
        }
        let mut registering = again(&shared);
        registering.sessions.sort_by(|a, b| b.user.cmp(&a.user));
        shared.leave(&b);
        assert_eq!(
            told(&shared.take(&mut registering, 99)),
            [
                "-b offline in [] not []",
                "+a online in [] not []",
                "+c online in [] not []"
            ]
        );
        assert!(registering.sessions.is_empty());
    }

    #[test]
    fn an_unsettled_end_is_remembered_over_a_loss() {
        let shared = RedisShared::new(AT_ONCE);
        let leaves = session("a", &[]);
        shared.join(Arc::clone(&leaves));
        take(&shared);
        shared.leave(&leaves);
        let steps = shared.take(&mut Registering::default(), 99);
        assert_eq!(told(&steps)[1..], ["?a AsIs"]);
        shared.put_back(steps, false);
        assert!(again(&shared).sessions.is_empty());
        shared.note_forgotten(AT_ONCE);
        assert_eq!(take(&shared), ["?a Was(Online)"]);
    }

    /// Nobody else is told that an invisible user was online.
    #[test]
    fn a_forgotten_end_is_settled_from_the_status_that_others_saw() {
        for status in [Status::Invisible, Status::Away] {
            let shared = RedisShared::new(AT_ONCE);
            let new = PresenceEntry::new("a".into(), "s", "tcp", Vec::new());
            let leaves = Arc::new(new.with_status(status));
            shared.join(Arc::clone(&leaves));
            take(&shared);
            shared.leave(&leaves);
            again(&shared);
            shared.note_forgotten(AT_ONCE);
            assert_eq!(take(&shared), [format!("?a Was({status:?})")]);
        }
    }

    #[test]
    fn after_redis_forgot_ends_wait_until_all_nodes_have_registered() {
        let shared = RedisShared::new(AT_ONCE);
        let [leaves, stays] = [(); 2].map(|()| session("a", &[]));
        for session in [&leaves, &stays] {
            shared.join(Arc::clone(session));
        }
        take(&shared);
        shared.leave(&leaves);
        let mut registering = again(&shared);
        shared.note_forgotten(LONG);
        let here = "+a online in [] not []";
        assert_eq!(told(&shared.take(&mut registering, 99)), [here]);
        // This node has; others have a lease's time.
        assert!(take(&shared).is_empty());
        let due = shared.due().unwrap();
        assert!(due > Instant::now() + LONG / 2);
    }

    /// Without its sessions Redis would say that the user is gone.
    #[test]
    fn ends_wait_for_those_who_are_registered() {
        let shared = RedisShared::new(AT_ONCE);
        let [leaves, stays] = [(); 2].map(|()| session("a", &[]));
        for session in [&leaves, &stays] {
            shared.join(Arc::clone(session));
        }
        take(&shared);
        shared.leave(&leaves);
        let mut registering = again(&shared);
        shared.note_forgotten(AT_ONCE);
        let here = "+a online in [] not []";
        assert_eq!(told(&shared.take(&mut registering, 99)), [here]);
        // And then it is here.
        assert_eq!(take(&shared), ["?a AsIs"]);
    }

    /// Others were told that it is here.
    #[test]
    fn who_leaves_while_redis_is_told_anew_is_told_to_leave() {
        let shared = RedisShared::new(AT_ONCE);
        let [leaves, new] = ["leaves", "new"].map(|user| session(user, &[]));
        shared.join(Arc::clone(&leaves));
        take(&shared);
        shared.join(Arc::clone(&new));
        let mut registering = again(&shared);
        shared.note_forgotten(AT_ONCE);
        for session in [&leaves, &new] {
            shared.leave(session);
        }
        assert_eq!(
            told(&shared.take(&mut registering, 99)),
            ["-leaves offline in [] not []", "-new offline in [] not []"]
        );
        assert_eq!(take(&shared), ["?leaves Was(Online)", "?new Was(Offline)"]);
        // All is registered.
        shared.join(Arc::clone(&leaves));
        assert_eq!(take(&shared), ["+leaves online in [] not []"]);
        shared.leave(&leaves);
        assert_eq!(
            take(&shared),
            ["-leaves offline in [] not []", "?leaves AsIs"]
        );
    }

    /// Each step that asks, and whether it is unsure.
    fn doubts(steps: &[KeeperStep]) -> Vec<(&str, bool)> {
        let doubts = steps.iter().filter_map(|step| match step {
            KeeperStep::Enter(entered) => Some((&*entered.session.user, entered.is_unsure)),
            KeeperStep::Settle {
                departure, unsure, ..
            } => Some((&*departure.session.user, unsure.is_some())),
            KeeperStep::Exit { .. } | KeeperStep::Unlist(_) | KeeperStep::Withdraw(_) => None,
        });
        doubts.collect()
    }

    #[test]
    fn who_was_in_a_lost_answer_is_in_doubt_until_the_next() {
        let shared = RedisShared::new(AT_ONCE);
        let take = |registering: &mut Registering| shared.take(registering, 99);
        let [comes, leaves, stays] = ["comes", "leaves", "stays"].map(|user| session(user, &[]));
        for session in [&leaves, &stays] {
            shared.join(Arc::clone(session));
        }
        take(&mut Registering::default());
        shared.join(Arc::clone(&comes));
        shared.leave(&leaves);
        let steps = take(&mut Registering::default());
        assert_eq!(doubts(&steps), [("comes", false), ("leaves", false)]);
        shared.put_back(steps, true);
        // Another session of the same user does not end the doubt.
        let mut registering = again(&shared);
        shared.leave(&comes);
        let other = session("comes", &[]);
        shared.join(Arc::clone(&other));
        let mut steps = take(&mut registering);
        // Ends come once all are registered.
        steps.extend(take(&mut registering));
        let expected = [
            ("comes", true),
            ("comes", true),
            ("leaves", true),
            ("stays", false),
        ];
        let mut found = doubts(&steps);
        found.sort_unstable();
        assert_eq!(found, expected);
        let answered = [(&other, Status::Online), (&leaves, Status::Offline)];
        let answered = answered.map(|(session, own)| Asked { session, own });
        shared.answered(&answered, &[Settled::Same; 2]);
        assert!(shared.state.lock().unsure.is_empty());

        // Of too many who leave nothing is remembered.
        let steps = take(&mut again(&shared));
        shared.put_back(steps, true);
        assert_eq!(shared.state.lock().unsure.len(), 2);
        shared.leave(&other);
        shared.state.lock().overflow();
        assert_eq!(shared.state.lock().unsure.len(), 1, "who stays");
    }

    #[test]
    fn only_who_was_told_of_is_restored() {
        let shared = RedisShared::new(LONG);
        let [known, new] = ["known", "new"].map(|user| session(user, &[]));
        shared.join(known);
        take(&shared);
        shared.join(new);
        let mut registering = again(&shared);
        shared.note_forgotten(LONG);
        let steps = shared.take(&mut registering, 99);
        assert_eq!(untold(&steps).len(), 2);
        for step in steps {
            let KeeperStep::Enter(Entered {
                session, untold, ..
            }) = step
            else {
                panic!("{step:?}")
            };
            let expected = match &*session.user {
                "known" => Untold::Restored,
                _ => Untold::Was(Status::Offline),
            };
            assert_eq!(untold, expected);
        }
    }

    /// Others see her as Redis was told before; and she may hide by one session of several.
    #[test]
    fn a_status_that_changes_while_redis_forgets_is_told() {
        for status in [Status::Invisible, Status::Busy] {
            let shared = RedisShared::new(LONG);
            let [says, stays] = [(); 2].map(|()| session("a", &[]));
            for session in [&says, &stays] {
                shared.join(Arc::clone(session));
            }
            take(&shared);
            let mut registering = again(&shared);
            shared.note_forgotten(LONG);
            shared.set_status(&says, status);
            // By the queue, and both anew.
            let steps = shared.take(&mut registering, 99);
            assert_eq!(untold(&steps), [Untold::Was(Status::Online); 3]);
            answer(&shared, &steps);
            let mut registering = again(&shared);
            shared.note_forgotten(LONG);
            let steps = shared.take(&mut registering, 99);
            assert_eq!(untold(&steps), [Untold::Restored; 2]);
        }
    }

    #[test]
    fn a_status_that_changes_while_redis_answers_is_not_told_yet() {
        let shared = RedisShared::new(LONG);
        let says = session("a", &[]);
        shared.join(Arc::clone(&says));
        let steps = shared.take(&mut Registering::default(), 99);
        shared.set_status(&says, Status::Away);
        answer(&shared, &steps);
        let mut registering = again(&shared);
        shared.note_forgotten(LONG);
        let steps = shared.take(&mut registering, 99);
        assert_eq!(untold(&steps), [Untold::Was(Status::Online)]);
    }

    /// What Redis forgot, and what it may have done without that anybody was told.
    #[test]
    fn who_hides_and_leaves_unheard_leaves_as_others_saw_it() {
        let shared = RedisShared::new(AT_ONCE);
        let leaves = session("a", &[]);
        shared.join(Arc::clone(&leaves));
        take(&shared);
        shared.set_status(&leaves, Status::Invisible);
        let steps = shared.take(&mut Registering::default(), 99);
        shared.put_back(steps, true);
        shared.leave(&leaves);
        again(&shared);
        shared.note_forgotten(AT_ONCE);
        let steps = shared.take(&mut Registering::default(), 99);
        let [KeeperStep::Settle { untold, unsure, .. }] = &*steps else {
            panic!("{steps:?}")
        };
        assert_eq!(*untold, Untold::Was(Status::Online));
        assert_eq!(*unsure, Some(Status::Online));
        answer(&shared, &steps);
        assert!(shared.state.lock().shown.is_empty());
    }

    /// Until the debounce is over others see what they saw, whatever another session says.
    #[test]
    fn what_a_departure_holds_up_is_what_others_see() {
        let shared = RedisShared::new(LONG);
        let [leaves, stays] = [Status::Busy, Status::Away].map(|status| {
            let new = PresenceEntry::new("a".into(), "s", "tcp", Vec::new());
            Arc::new(new.with_status(status))
        });
        for session in [&leaves, &stays] {
            shared.join(Arc::clone(session));
        }
        take(&shared);
        shared.leave(&leaves);
        shared.set_status(&stays, Status::Online);
        take(&shared);
        let mut registering = again(&shared);
        shared.note_forgotten(LONG);
        let steps = shared.take(&mut registering, 99);
        assert_eq!(untold(&steps), [Untold::Was(Status::Busy)]);
    }

    #[test]
    fn changes_and_those_to_register_share_a_turn() {
        let shared = RedisShared::new(LONG);
        for user in ["a", "b"] {
            shared.join(session(user, &[]));
        }
        let mut registering = again(&shared);
        for user in ["c", "d"] {
            shared.join(session(user, &[]));
        }
        let steps = told(&shared.take(&mut registering, 6));
        assert_eq!((steps.len(), &steps[0][..2]), (2, "+c"));
        assert_eq!(registering.sessions.len(), 1);
    }

    #[test]
    fn too_many_changes_are_forgotten_but_not_who_is_here() {
        let shared = RedisShared::new(LONG);
        let stays = session("stays", &[]);
        shared.join(Arc::clone(&stays));
        let comes = session("comes", &[]);
        for _ in 0..2 * MAX_QUEUE {
            shared.join(Arc::clone(&comes));
            shared.leave(&comes);
        }
        assert!(shared.has_overflowed());
        let users = again(&shared).sessions;
        assert_eq!(users.len(), 1);
        assert!(Arc::ptr_eq(&users[0], &stays) && !shared.has_overflowed());
        assert!(shared.state.lock().left.len() <= MAX_UNTAKEN);
    }

    #[test]
    fn the_first_of_too_many_ends_is_settled_and_no_other_is_lost() {
        let shared = RedisShared::new(LONG);
        for number in 0..=MAX_LEFT {
            let leaves = session(&number.to_string(), &[]);
            shared.join(Arc::clone(&leaves));
            shared.leave(&leaves);
            if number < MAX_LEFT {
                assert_eq!(shared.take(&mut Registering::default(), 99).len(), 1);
            }
        }
        assert!(!shared.has_overflowed());
        assert!(shared.due().is_some_and(|due| due <= Instant::now()));
        let last = format!("-{MAX_LEFT} offline in [] not []");
        assert_eq!(take(&shared), ["?0 AsIs".to_owned(), last]);
        assert_eq!(shared.state.lock().left.len(), MAX_LEFT);
    }

    #[test]
    fn ends_that_redis_does_not_take_are_bounded() {
        let shared = RedisShared::new(LONG);
        for number in 0..=MAX_UNTAKEN {
            let leaves = session(&number.to_string(), &[]);
            shared.join(Arc::clone(&leaves));
            shared.leave(&leaves);
            if !shared.has_overflowed() {
                // Redis cannot be reached.
                again(&shared);
            }
        }
        assert!(shared.has_overflowed());
        assert_eq!(shared.state.lock().left.len(), 0);
    }

    #[test]
    fn an_end_is_settled_though_others_go_on_leaving() {
        let shared = RedisShared::new(AT_ONCE);
        let [one, two] = ["one", "two"].map(|user| session(user, &[]));
        for session in [&one, &two] {
            shared.join(Arc::clone(session));
        }
        take(&shared);
        shared.leave(&one);
        let first = shared.take(&mut Registering::default(), 1);
        assert_eq!(told(&first), ["-one offline in [] not []"]);
        shared.leave(&two);
        let rest = ["?one AsIs", "-two offline in [] not []", "?two AsIs"];
        assert_eq!(take(&shared), rest);
    }

    #[test]
    fn of_a_user_who_left_twice_the_last_departure_settles() {
        let shared = RedisShared::new(AT_ONCE);
        let [one, two] = [(); 2].map(|()| session("a", &[]));
        shared.join(Arc::clone(&one));
        take(&shared);
        shared.leave(&one);
        shared.join(Arc::clone(&two));
        shared.leave(&two);
        let exit = "-a offline in [] not []";
        assert_eq!(take(&shared), [exit, "/a", exit, "?a AsIs"]);
    }

    #[test]
    fn after_closing_nobody_is_here() {
        let shared = RedisShared::new(LONG);
        shared.join(session("a", &["g"]));
        shared.close();
        shared.join(session("b", &[]));
        assert!(take(&shared).is_empty() && shared.len() == 0 && shared.due().is_none());
    }
}
