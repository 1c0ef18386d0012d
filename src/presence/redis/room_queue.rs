//! The rooms that this node's sessions are in, and the changes that Redis does not know yet.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use deadpool_redis::redis::Pipeline;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{
    entry::{Keys, LeaseId},
    script::{self, InRoom, Lost, RoomReply, RoomReport},
};
use crate::{
    later::Later,
    presence::{
        departures::Stamp,
        rooms::{
            HeldRooms, MemberKey, Occupancy, Occupant, Room, RoomChange, RoomEvent, RoomRefusal,
            RoomRules,
        },
    },
    telemetry,
};

/// Changes that wait for Redis. With more the node takes a new lease and registers all it holds.
const MAX_QUEUE: usize = 65_536;
/// Departures whose debounce runs: a large room may be left by all at once. With more, the first are
/// settled before it is over.
const MAX_LEFT: usize = 4 * MAX_QUEUE;
/// Departures that wait while Redis takes none; with more, as for [`MAX_QUEUE`].
const MAX_UNTAKEN: usize = 2 * MAX_LEFT;

/// Between the callers and the keeper, about rooms.
#[derive(Debug)]
pub(super) struct RoomQueue(Mutex<RoomState>);

/// The answer to a member who waits for a place in a room.
pub(super) type Place = oneshot::Receiver<Result<(), RoomRefusal>>;

#[derive(Debug)]
struct RoomState {
    /// `None`: no exchange asks for rooms.
    rules: Option<RoomRules>,
    held: HeldRooms,
    /// Members of whom Redis is to be told, in order, each once: what is true then counts.
    changed: VecDeque<MemberKey>,
    /// The same; and whether Redis had one that is not held any more.
    waits: HashMap<MemberKey, bool>,
    /// Members that are not registered under the lease yet.
    registering: Vec<MemberKey>,
    /// Departures whose debounce runs.
    left: Later<RoomDeparture>,
    /// Members of whom an answer was lost: others may not know what Redis says they were told. Each
    /// is held or waits to be told of or to be settled, and the answer to that ends the doubt.
    unsure: HashSet<MemberKey>,
    /// Sessions that wait for a place.
    asking: HashMap<MemberKey, Vec<oneshot::Sender<Result<(), RoomRefusal>>>>,
    /// The queue was too short: all has to be registered anew.
    overflowed: bool,
    closed: bool,
}

/// A member who left this node.
#[derive(Debug)]
pub(super) struct RoomDeparture {
    key: MemberKey,
    stamp: Stamp,
    /// Redis has lost its data since then.
    forgotten: bool,
}

/// One thing to tell Redis.
#[derive(Debug)]
pub(super) enum RoomStep {
    /// A member's sessions here.
    Report(MemberKey, RoomReport),
    /// Asks if others are to be told that it left.
    Settle(RoomDeparture, Lost),
}

/// Rooms that are asked about after a lost answer: if they are occupied, or else if vacated.
type Edges = HashSet<(Arc<Room>, bool)>;

impl RoomQueue {
    pub(super) fn new(debounce: Duration) -> Self {
        Self(Mutex::new(RoomState {
            rules: None,
            held: HeldRooms::default(),
            changed: VecDeque::new(),
            waits: HashMap::new(),
            registering: Vec::new(),
            left: Later::new(debounce),
            unsure: HashSet::new(),
            asking: HashMap::new(),
            overflowed: false,
            closed: false,
        }))
    }

    pub(super) fn set_rules(&self, rules: Option<&RoomRules>) {
        self.0.lock().rules = rules.cloned();
    }

    pub(super) fn is_bounded(&self, room: &Room) -> bool {
        let state = self.0.lock();
        let rules = state.rules.as_ref();
        rules.is_some_and(|rules| rules.is_bounded(room, &state.held))
    }

    /// A subscription more. `Some`: whether there is a place for its user.
    pub(super) fn enter(&self, occupant: &Occupant) -> Result<Option<Place>, RoomRefusal> {
        let state = &mut *self.0.lock();
        let Some(rules) = state.rules.as_ref().filter(|_| !state.closed) else {
            return Ok(None);
        };
        if !state.held.has(&occupant.room) && state.held.len() >= rules.max_rooms {
            return Err(RoomRefusal::TooManyRooms(rules.max_rooms));
        }
        let has_bound = rules.max_members > 0;
        state.held.enter(occupant);
        let key = MemberKey::from(occupant);
        state.push(key.clone(), false);
        let is_admitted = state.held.told(&key).is_some_and(|told| told.is_admitted);
        if !has_bound || is_admitted {
            return Ok(None);
        }
        let (answer, place) = oneshot::channel();
        state.asking.entry(key).or_default().push(answer);
        Ok(Some(place))
    }

    /// A subscription less; `true`: Redis is to be told.
    pub(super) fn leave(&self, occupant: &Occupant) -> bool {
        let state = &mut *self.0.lock();
        let key = MemberKey::from(occupant);
        let was_registered = state.held.told(&key).is_some_and(|told| told.is_registered);
        let left = state.held.leave(occupant);
        if left == Some(true) {
            // Redis is not told that it came, so it would never be answered.
            state.asking.remove(&key);
        }
        if left.is_some() {
            state.push(key, was_registered);
        }
        left.is_some()
    }

    /// Redis does not answer: there is a place if this node's own members leave one.
    pub(super) fn admit_alone(&self, occupant: &Occupant) -> Result<(), RoomRefusal> {
        let state = &mut *self.0.lock();
        let most = state.rules.as_ref().map_or(0, |rules| rules.max_members);
        let key = MemberKey::from(occupant);
        let told = state.held.told(&key).copied();
        if told.is_none_or(|told| told.is_admitted) {
            return Ok(());
        }
        // With this one.
        if most > 0 && state.held.occupancy(&occupant.room).members > most {
            if state.held.leave(occupant) == Some(true) {
                state.asking.remove(&key);
            }
            state.push(key, false);
            return Err(RoomRefusal::Full(most));
        }
        if let Some(told) = state.held.told(&key) {
            told.is_admitted = true;
        }
        Ok(())
    }

    pub(super) fn here(&self, room: &Room) -> Occupancy {
        self.0.lock().held.occupancy(room)
    }

    /// Forgets all, and takes nothing new.
    pub(super) fn close(&self) {
        let state = &mut *self.0.lock();
        state.closed = true;
        state.held = HeldRooms::default();
        state.registering = Vec::new();
        state.asking = HashMap::new();
        state.overflow();
    }

    pub(super) fn has_overflowed(&self) -> bool {
        self.0.lock().overflowed
    }

    pub(super) fn is_registering(&self) -> bool {
        !self.0.lock().registering.is_empty()
    }

    /// The moment of the next change for Redis; `None`: none before the next call.
    pub(super) fn due(&self) -> Option<Instant> {
        let state = self.0.lock();
        if state.changed.is_empty() && state.left.len() <= MAX_LEFT {
            state.left.due()
        } else {
            Some(Instant::now())
        }
    }

    /// All that is held is to be registered; who has left since is still told.
    pub(super) fn begin_anew(&self) {
        let state = &mut *self.0.lock();
        state.overflowed = false;
        state.registering = state.held.all();
    }

    /// Redis has lost all. Others still see those who left since it last answered. Until that moment
    /// not all nodes have told it who is still here.
    pub(super) fn note_forgotten(&self, until: Instant) {
        let state = &mut *self.0.lock();
        state.left.hold_until(until);
        state.left.iter_mut().for_each(|left| left.forgotten = true);
    }

    /// The next steps for Redis, in order, so many at most. One half may be of those that are
    /// registering. `restores`: Redis has lost what others know of them.
    pub(super) fn take(&self, most: usize, restores: bool) -> Vec<RoomStep> {
        let now = Instant::now();
        let state = &mut *self.0.lock();
        let (mut steps, mut edges) = (Vec::new(), Edges::new());
        // First ends that are due, so that they do not wait for ever; but not while Redis does not
        // know who is still here.
        while state.registering.is_empty()
            && steps.len() < most / 2
            && let Some(left) = state.left.pop_over(now, MAX_LEFT)
        {
            let lost = state.lost(&left.key, false, &mut edges);
            steps.push(RoomStep::Settle(left, lost));
        }
        let reserved = if state.registering.is_empty() {
            0
        } else {
            most / 2
        };
        while steps.len() < most.saturating_sub(reserved)
            && let Some(key) = state.changed.pop_front()
        {
            let was_registered = state.waits.remove(&key).unwrap_or(false);
            let report = state.report(&key, restores, &mut edges);
            if report.sessions == 0 {
                let stamp = report.stamp;
                let left = RoomDeparture {
                    key: key.clone(),
                    stamp,
                    forgotten: restores && was_registered,
                };
                state.left.push(now, left);
            }
            steps.push(RoomStep::Report(key, report));
        }
        if state.changed.is_empty() {
            state.changed = VecDeque::new();
            state.waits = HashMap::new();
        }
        while steps.len() < most
            && let Some(key) = state.registering.pop()
        {
            let report = state.report(&key, restores, &mut edges);
            // Of one that has left meanwhile the queue tells.
            if report.sessions > 0 {
                steps.push(RoomStep::Report(key, report));
            }
        }
        steps
    }

    /// These are to be told again. `is_unsure`: Redis may know of them, and its next answers do not
    /// show what others were told.
    pub(super) fn put_back(&self, steps: Vec<RoomStep>, is_unsure: bool) {
        let now = Instant::now();
        let state = &mut *self.0.lock();
        if state.closed {
            return;
        }
        for step in steps.into_iter().rev() {
            let (RoomStep::Settle(RoomDeparture { key, .. }, _) | RoomStep::Report(key, _)) = &step;
            if is_unsure {
                state.unsure.insert(key.clone());
            }
            match step {
                RoomStep::Settle(left, _) => state.left.put_back(now, left),
                RoomStep::Report(key, _) => state.push(key, false),
            }
        }
        if state.overflowed {
            state.forget_doubts();
        }
    }

    /// Redis has answered a step.
    pub(super) fn answer(&self, step: &RoomStep, reply: RoomReply) {
        let state = &mut *self.0.lock();
        let (key, comes) = match step {
            RoomStep::Report(key, report) => (key, report.sessions > 0),
            RoomStep::Settle(left, _) => (&left.key, false),
        };
        // That it is not here is settled later.
        if comes || matches!(step, RoomStep::Settle(..)) {
            state.unsure.remove(key);
            if state.unsure.is_empty() {
                state.unsure = HashSet::new();
            }
        }
        if comes {
            let told = state.held.told(key);
            let is_admitted = told.as_ref().is_some_and(|told| told.is_admitted);
            let is_full = reply == RoomReply::Full;
            if let Some(told) = told.filter(|_| !is_full) {
                told.is_registered = true;
                told.is_admitted = true;
            }
            let answer = match &state.rules {
                Some(rules) if is_full && !is_admitted => Err(RoomRefusal::Full(rules.max_members)),
                _ => Ok(()),
            };
            for asking in state.asking.remove(key).into_iter().flatten() {
                // It may have gone.
                let _ = asking.send(answer);
            }
            // It was let in here before this answer came, so it is a member: now without a bound.
            if is_full && is_admitted {
                state.push(key.clone(), false);
            }
        }
        if let RoomReply::Changed {
            is_edge,
            members,
            at,
        } = reply
        {
            state.tell(key, comes, is_edge, members, at);
        }
    }

    /// Another node's member has left with it.
    pub(super) fn tell_gone(&self, room: Room, user: Arc<str>, reply: RoomReply) {
        let key = MemberKey {
            room: Arc::new(room),
            user,
        };
        if let RoomReply::Changed {
            is_edge,
            members,
            at,
        } = reply
        {
            self.0.lock().tell(&key, false, is_edge, members, at);
        }
    }
}

impl RoomState {
    fn push(&mut self, key: MemberKey, was_registered: bool) {
        if self.overflowed || self.closed {
            return;
        }
        if let Some(was) = self.waits.get_mut(&key) {
            *was |= was_registered;
            return;
        }
        if self.changed.len() >= MAX_QUEUE || self.left.len() >= MAX_UNTAKEN {
            self.overflow();
            return;
        }
        self.waits.insert(key.clone(), was_registered);
        self.changed.push_back(key);
    }

    /// Too much waits. A new lease says the same, and who left is found by who clears up after the
    /// old one.
    fn overflow(&mut self) {
        if !self.overflowed && !self.closed {
            telemetry::presence_overflowed(MAX_QUEUE);
        }
        self.overflowed = true;
        self.changed = VecDeque::new();
        self.waits = HashMap::new();
        self.left.clear();
        self.forget_doubts();
    }

    /// Except of those that are held.
    fn forget_doubts(&mut self) {
        let held = &self.held;
        self.unsure.retain(|key| held.sessions(key) > 0);
    }

    /// What others may not know of a member. Of each room's members one asks for the room, too.
    fn lost(&self, key: &MemberKey, comes: bool, edges: &mut Edges) -> Lost {
        if !self.unsure.contains(key) {
            Lost::Nothing
        } else if edges.insert((Arc::clone(&key.room), comes)) {
            Lost::ChangeAndEdge
        } else {
            Lost::Change
        }
    }

    fn report(&mut self, key: &MemberKey, restores: bool, edges: &mut Edges) -> RoomReport {
        let told = self.held.told(key).copied().unwrap_or_default();
        let most = self.rules.as_ref().map_or(0, |rules| rules.max_members);
        let sessions = self.held.sessions(key);
        // Of one that is registered the answer came that told others of it.
        let lost = if told.is_registered || sessions == 0 {
            Lost::Nothing
        } else {
            self.lost(key, true, edges)
        };
        RoomReport {
            sessions,
            most: if told.is_admitted { 0 } else { most },
            stamp: rand::random(),
            quiet: restores && told.is_registered,
            lost,
        }
    }

    fn tell(&self, key: &MemberKey, comes: bool, is_edge: bool, members: u64, at: SystemTime) {
        let Some(events) = self.rules.as_ref().and_then(|rules| rules.events.as_ref()) else {
            return;
        };
        let event = |change| RoomEvent {
            room: Arc::clone(&key.room),
            change,
            by: Arc::clone(&key.user),
            members,
            at,
        };
        let user = || Arc::clone(&key.user);
        if comes {
            if is_edge {
                events.push_shared(event(RoomChange::Occupied));
            }
            events.push_shared(event(RoomChange::Join(user())));
        } else {
            events.push_shared(event(RoomChange::Leave(user())));
            if is_edge {
                events.push_shared(event(RoomChange::Vacated));
            }
        }
    }
}

impl RoomStep {
    pub(super) fn tell(
        &self,
        pipe: &mut Pipeline,
        (keys, lease): (&Keys, LeaseId),
        former: &[LeaseId],
    ) {
        match self {
            Self::Report(key, report) => {
                let room = key.room.name();
                let member = in_room(&room, &key.user, lease);
                script::room_report(pipe, (keys, lease), member, *report, former);
            }
            Self::Settle(departure, lost) => {
                let RoomDeparture {
                    key,
                    stamp,
                    forgotten,
                } = departure;
                let room = key.room.name();
                let member = in_room(&room, &key.user, lease);
                let doubt = (*forgotten, *lost);
                script::room_settle(pipe, (keys, lease), member, Some(*stamp), doubt);
            }
        }
    }
}

fn in_room<'a>(room: &'a str, user: &'a str, of: LeaseId) -> InRoom<'a> {
    InRoom { room, user, of }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u64 = 1;

    fn queue() -> RoomQueue {
        let queue = RoomQueue::new(Duration::from_secs(10));
        queue.set_rules(Some(&RoomRules {
            exchanges: ["room".into()].into(),
            max_members: LIMIT,
            max_rooms: 9,
            events: None,
        }));
        queue
    }

    fn occupant(user: &str, session: u64) -> Occupant {
        let room = Room {
            vhost: "/".into(),
            exchange: "room".into(),
            key: "lobby".into(),
        };
        Occupant {
            room: Arc::new(room),
            user: user.into(),
            session,
        }
    }

    /// The one report that waits.
    fn reported(queue: &RoomQueue) -> (RoomStep, u64, u64) {
        let mut steps = queue.take(9, false);
        let step = steps.pop().unwrap();
        assert!(steps.is_empty(), "{steps:?}");
        match step {
            RoomStep::Report(_, report) => (step, report.sessions, report.most),
            RoomStep::Settle(..) => panic!("{step:?}"),
        }
    }

    fn settled(steps: &[RoomStep]) -> Vec<&str> {
        let settled = steps.iter().filter_map(|step| match step {
            RoomStep::Settle(left, _) => Some(&*left.key.user),
            RoomStep::Report(..) => None,
        });
        settled.collect()
    }

    /// Until then the room looks empty.
    #[test]
    fn ends_wait_for_members_that_are_registered() {
        let queue = RoomQueue::new(Duration::ZERO);
        queue.set_rules(Some(&RoomRules {
            exchanges: ["room".into()].into(),
            max_members: 0,
            max_rooms: 9,
            events: None,
        }));
        let [leaves, stays] = [("leaves", 1), ("stays", 2)].map(|(user, id)| occupant(user, id));
        for occupant in [&leaves, &stays] {
            assert!(queue.enter(occupant).unwrap().is_none());
        }
        queue.take(9, false);
        queue.leave(&leaves);
        // It is told, and the answer is lost.
        let steps = queue.take(9, false);
        queue.put_back(steps, true);
        queue.begin_anew();
        queue.note_forgotten(Instant::now());
        let steps = queue.take(9, true);
        assert_eq!((steps.len(), settled(&steps)), (2, Vec::new()));
        assert_eq!(settled(&queue.take(9, true)), ["leaves", "leaves"]);

        // And for those of other nodes.
        queue.enter(&leaves).unwrap();
        queue.take(9, false);
        queue.note_forgotten(Instant::now() + Duration::from_secs(60));
        queue.leave(&leaves);
        queue.take(9, false);
        let due = queue.due().unwrap();
        assert!(due > Instant::now() + Duration::from_secs(30));
        assert!(settled(&queue.take(9, false)).is_empty());
    }

    /// It is subscribed, so the count, the list and the events must have it.
    #[test]
    fn a_member_that_was_let_in_without_redis_is_registered_though_redis_says_full() {
        let queue = queue();
        let alice = occupant("alice", 1);
        let mut place = queue.enter(&alice).unwrap().unwrap();
        let (step, ..) = reported(&queue);
        // Redis is slow.
        assert!(place.try_recv().is_err());
        queue.admit_alone(&alice).unwrap();
        queue.answer(&step, RoomReply::Full);
        assert!(queue.due().is_some(), "nothing is told any more");
        let (step, sessions, most) = reported(&queue);
        assert_eq!((sessions, most), (1, 0), "there is no bound for it now");
        queue.answer(&step, RoomReply::Same);
        assert!(queue.due().is_none());
    }

    /// The user is a member, so a session more is none more.
    #[test]
    fn another_session_of_a_member_that_was_let_in_is_not_refused() {
        let queue = queue();
        let sessions = [1, 2].map(|session| occupant("alice", session));
        let mut places = sessions
            .each_ref()
            .map(|occupant| queue.enter(occupant).unwrap().unwrap());
        let (step, ..) = reported(&queue);
        queue.admit_alone(&sessions[0]).unwrap();
        queue.answer(&step, RoomReply::Full);
        assert_eq!(places[1].try_recv(), Ok(Ok(())));
    }

    #[test]
    fn who_finds_a_room_full_is_refused_and_not_reported_again() {
        let queue = queue();
        let alice = occupant("alice", 1);
        let mut place = queue.enter(&alice).unwrap().unwrap();
        let (step, _, most) = reported(&queue);
        assert_eq!(most, LIMIT);
        queue.answer(&step, RoomReply::Full);
        assert_eq!(place.try_recv(), Ok(Err(RoomRefusal::Full(LIMIT))));
        assert!(queue.due().is_none());
    }
}
