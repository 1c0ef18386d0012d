//! What waits for one receiver (pure): what is sent next, what waits for another attempt, and what
//! is given up. The caller passes the time in.
//!
//! Events of one subject go one after the other; those of others pass them by. An event that failed
//! is tried again after a pause of its own, and its subject's later events wait for it. While the
//! receiver as a whole does not answer, one event at a time tries whether it does again: the others
//! use up no attempts.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use tokio::time::Instant;

use super::event::Part;
use crate::backoff::Backoff;

/// About what an event takes beside its texts.
const OVERHEAD: usize = 256;

/// One part in so many of [`Bounds::max_bytes`] is what events about rooms may take, of all users.
const PART_OF_ROOMS: usize = 2;

/// The bounds of a queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) max_bytes: usize,
    pub(super) max_of_subject: usize,
    pub(super) max_requests: usize,
    pub(super) attempts: u32,
    /// The first pause, and the longest.
    pub(super) pauses: (Duration, Duration),
    pub(super) max_dead: usize,
}

/// An event on its way.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) id: Arc<str>,
    pub(super) name: &'static str,
    pub(super) subject: Arc<str>,
    pub(super) part: Part,
    pub(super) body: Bytes,
}

impl Told {
    fn weight(&self) -> usize {
        let texts = [self.id.len(), self.subject.len(), self.body.len(), OVERHEAD];
        texts.into_iter().sum()
    }
}

/// An event that was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dead {
    /// Its id.
    pub id: Arc<str>,
    /// `type` of its body.
    pub name: &'static str,
    /// The body.
    pub body: Bytes,
    /// How often it was tried.
    pub attempts: u32,
    /// Why the last attempt failed.
    pub cause: Box<str>,
}

/// Why an event found no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoRoom {
    /// All events together take too much.
    Bytes,
    /// Those about rooms do, or this user's part of them.
    Rooms,
    /// Those about messages for users who are offline do.
    Offline,
    /// Too many of this subject wait.
    Subject,
}

/// How an attempt went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The receiver has it.
    Delivered,
    /// The receiver works, and refuses this one; why.
    Refused(Box<str>),
    /// The receiver does not work; why.
    Failed(Box<str>),
}

/// What an outcome changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Changed {
    /// The receiver works again.
    pub(super) is_back: bool,
    /// It fails, or still does; how long it is left alone.
    pub(super) is_away: Option<Duration>,
    /// The event was given up.
    pub(super) dead: Option<Dead>,
}

#[derive(Debug)]
struct Waiting {
    told: Told,
    attempts: u32,
    backoff: Backoff,
    /// The epoch in which it was taken the last time.
    epoch: u64,
}

#[derive(Debug)]
struct Failing {
    backoff: Backoff,
    /// When it is tried next.
    next: Instant,
    cause: Box<str>,
}

/// What waits for one receiver.
#[derive(Debug)]
pub(super) struct DeliveryQueue {
    bounds: Bounds,
    /// The events of each subject that has any, in order.
    subjects: HashMap<Arc<str>, VecDeque<Waiting>>,
    /// Subjects whose first event may be sent, in the order in which they became so.
    ready: VecDeque<Arc<str>>,
    /// Subjects whose first event is tried again at that moment.
    pausing: BTreeSet<(Instant, Arc<str>)>,
    on_their_way: usize,
    events: usize,
    bytes: usize,
    /// Of them, about rooms.
    room_bytes: usize,
    /// The same by the users who brought them about, without those who have none.
    room_bytes_of: HashMap<Arc<str>, usize>,
    /// About messages for users who are offline.
    offline_bytes: usize,
    failing: Option<Failing>,
    /// Requests on their way while it fails, at most: one that finds out how it is now, and those that
    /// are not waited for.
    probes: usize,
    /// How often it was to be found out how the receiver is: since it began to fail, or is asked anew.
    /// The outcomes of requests that were on their way by then tell nothing of how it is now.
    epoch: u64,
    /// The node ends soon.
    is_hurried: bool,
    dropped: u64,
    given_up: u64,
    dead: VecDeque<Dead>,
}

impl DeliveryQueue {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            subjects: HashMap::new(),
            ready: VecDeque::new(),
            pausing: BTreeSet::new(),
            on_their_way: 0,
            events: 0,
            bytes: 0,
            room_bytes: 0,
            room_bytes_of: HashMap::new(),
            offline_bytes: 0,
            failing: None,
            probes: 1,
            epoch: 0,
            is_hurried: false,
            dropped: 0,
            given_up: 0,
            dead: VecDeque::new(),
        }
    }

    /// An event is to be sent, after those of its subject that wait.
    ///
    /// # Errors
    /// There is no room: it is dropped, and counted.
    pub(super) fn push(&mut self, told: Told) -> Result<(), NoRoom> {
        let weight = told.weight();
        let of_subject = self.subjects.get(&told.subject).map_or(0, VecDeque::len);
        let no_room = if of_subject >= self.bounds.max_of_subject {
            Some(NoRoom::Subject)
        } else if self.bytes.saturating_add(weight) > self.bounds.max_bytes {
            Some(NoRoom::Bytes)
        } else {
            self.no_room_in(&told.part, weight)
        };
        if let Some(no_room) = no_room {
            self.dropped = self.dropped.saturating_add(1);
            return Err(no_room);
        }
        if of_subject == 0 {
            self.ready.push_back(Arc::clone(&told.subject));
        }
        self.events = self.events.saturating_add(1);
        self.bytes = self.bytes.saturating_add(weight);
        match &told.part {
            Part::Users => {}
            Part::Rooms(user) => {
                self.room_bytes = self.room_bytes.saturating_add(weight);
                let of_user = self.room_bytes_of.entry(Arc::clone(user)).or_default();
                *of_user = of_user.saturating_add(weight);
            }
            Part::Offline => self.offline_bytes = self.offline_bytes.saturating_add(weight),
        }
        let waiting = Waiting {
            attempts: 0,
            backoff: Backoff::new(self.bounds.pauses),
            epoch: self.epoch,
            told,
        };
        let subject = Arc::clone(&waiting.told.subject);
        self.subjects.entry(subject).or_default().push_back(waiting);
        Ok(())
    }

    /// Why there is no room for so much in this part. Clients make up subjects of both parts, as many as
    /// they like: none of the two has more than it leaves for all others, one alone half.
    fn no_room_in(&self, part: &Part, weight: usize) -> Option<NoRoom> {
        let left = self.bounds.max_bytes.saturating_sub(self.bytes);
        let has_room = |of_part: usize| of_part.saturating_add(weight) <= left;
        match part {
            Part::Rooms(user) if !has_room(self.room_bytes) || !self.has_room_of(user, weight) => {
                Some(NoRoom::Rooms)
            }
            Part::Offline if !has_room(self.offline_bytes) => Some(NoRoom::Offline),
            Part::Users | Part::Rooms(_) | Part::Offline => None,
        }
    }

    /// Whether there is room for so much about a room that this user enters or leaves. Of what rooms
    /// may take, nobody has more than is left for others: one user alone half, two a third each.
    fn has_room_of(&self, user: &Arc<str>, weight: usize) -> bool {
        let most = self.bounds.max_bytes / PART_OF_ROOMS;
        let left = most.saturating_sub(self.room_bytes);
        let of_user = self.room_bytes_of.get(user).copied().unwrap_or_default();
        of_user.saturating_add(weight) <= left
    }

    /// The next event to send now, if there is one. It is on its way until [`Self::done`].
    pub(super) fn take(&mut self, now: Instant) -> Option<Told> {
        while let Some((at, _)) = self.pausing.first()
            && *at <= now
        {
            let (_, subject) = self.pausing.pop_first()?;
            self.ready.push_back(subject);
        }
        let most = match &self.failing {
            None => self.bounds.max_requests,
            Some(failing) if failing.next <= now => self.probes,
            Some(_) => 0,
        };
        if self.on_their_way >= most {
            return None;
        }
        let subject = self.ready.pop_front()?;
        let first = self.subjects.get_mut(&subject)?.front_mut()?;
        first.epoch = self.epoch;
        self.on_their_way = self.on_their_way.saturating_add(1);
        Some(first.told.clone())
    }

    /// How the attempt with the first event of that subject went.
    pub(super) fn done(&mut self, now: Instant, subject: &Arc<str>, outcome: Outcome) -> Changed {
        self.on_their_way = self.on_their_way.saturating_sub(1);
        let mut changed = Changed::default();
        let first = self.subjects.get(subject).and_then(VecDeque::front);
        let is_of_now = first.is_some_and(|first| first.epoch == self.epoch);
        let (cause, is_refused) = match outcome {
            Outcome::Delivered => {
                changed.is_back = is_of_now && self.failing.take().is_some();
                self.remove_first(subject);
                return changed;
            }
            Outcome::Refused(cause) => (cause, true),
            Outcome::Failed(cause) => (cause, false),
        };
        if is_refused {
            changed.is_back = is_of_now && self.failing.take().is_some();
        } else if is_of_now {
            changed.is_away = Some(self.fail(now, &cause));
        }
        let waiting = self.subjects.get_mut(subject).and_then(VecDeque::front_mut);
        let Some(waiting) = waiting else {
            return changed;
        };
        waiting.attempts = waiting.attempts.saturating_add(1);
        if waiting.attempts < self.bounds.attempts {
            let pause = waiting.backoff.pause();
            let at = now.checked_add(pause).unwrap_or(now);
            self.pausing.insert((at, Arc::clone(subject)));
        } else if let Some(waiting) = self.remove_first(subject) {
            changed.dead = Some(self.give_up(waiting, cause));
        }
        changed
    }

    /// The receiver did not answer; how long it is left alone.
    fn fail(&mut self, now: Instant, cause: &str) -> Duration {
        if self.failing.is_none() {
            // Of requests that are on their way together, this one counts.
            self.find_out();
        }
        let failing = self.failing.get_or_insert_with(|| Failing {
            backoff: Backoff::new(self.bounds.pauses),
            next: now,
            cause: cause.into(),
        });
        let pause = failing.backoff.pause();
        failing.next = now.checked_add(pause).unwrap_or(now);
        failing.cause = cause.into();
        pause
    }

    /// From now on it is found out how the receiver is, by no request that is on its way by now. In a
    /// hurry those are not waited for either.
    fn find_out(&mut self) {
        self.epoch = self.epoch.wrapping_add(1);
        if self.is_hurried {
            self.probes = self.on_their_way.saturating_add(1);
        }
    }

    fn remove_first(&mut self, subject: &Arc<str>) -> Option<Waiting> {
        let of_subject = self.subjects.get_mut(subject)?;
        let first = of_subject.pop_front()?;
        if of_subject.is_empty() {
            self.subjects.remove(subject);
        } else {
            self.ready.push_back(Arc::clone(subject));
        }
        self.events = self.events.saturating_sub(1);
        let weight = first.told.weight();
        self.bytes = self.bytes.saturating_sub(weight);
        match &first.told.part {
            Part::Users => {}
            Part::Rooms(user) => {
                self.room_bytes = self.room_bytes.saturating_sub(weight);
                if let Some(of_user) = self.room_bytes_of.get_mut(user) {
                    *of_user = of_user.saturating_sub(weight);
                    if *of_user == 0 {
                        self.room_bytes_of.remove(user);
                    }
                }
            }
            Part::Offline => self.offline_bytes = self.offline_bytes.saturating_sub(weight),
        }
        Some(first)
    }

    fn give_up(&mut self, waiting: Waiting, cause: Box<str>) -> Dead {
        self.given_up = self.given_up.saturating_add(1);
        let dead = Dead {
            id: waiting.told.id,
            name: waiting.told.name,
            body: waiting.told.body,
            attempts: waiting.attempts,
            cause,
        };
        self.dead.push_back(dead.clone());
        if self.dead.len() > self.bounds.max_dead {
            self.dead.pop_front();
        }
        dead
    }

    /// The node ends soon: whatever waits is tried at once, and again at the shortest pauses. What a
    /// receiver that is back would have got in two minutes would be lost. Nor is a request waited for
    /// that was on its way when it failed, and may have no answer before the node ends.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.is_hurried = true;
        let (first, _) = self.bounds.pauses;
        self.bounds.pauses = (first, first);
        if let Some(failing) = &mut self.failing {
            failing.backoff = Backoff::new(self.bounds.pauses);
            failing.next = now;
            self.find_out();
        }
        for waiting in self.subjects.values_mut().flatten() {
            waiting.backoff = Backoff::new(self.bounds.pauses);
        }
        let pausing = std::mem::take(&mut self.pausing);
        self.ready
            .extend(pausing.into_iter().map(|(_, subject)| subject));
    }

    /// When [`Self::take`] has something again, if nothing else happens before.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        let due = self.pausing.first().map(|(at, _)| *at);
        match &self.failing {
            Some(_) if self.on_their_way >= self.probes => None,
            Some(failing) if !self.ready.is_empty() => Some(failing.next),
            Some(failing) => due.map(|due| due.max(failing.next)),
            None => due,
        }
    }

    /// Events that wait or are on their way.
    pub(super) fn len(&self) -> usize {
        self.events
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    pub(super) fn given_up(&self) -> u64 {
        self.given_up
    }

    /// Why the receiver is left alone, if it is.
    pub(super) fn failing(&self) -> Option<&str> {
        self.failing.as_ref().map(|failing| &*failing.cause)
    }

    /// The last events that were given up, in order.
    pub(super) fn dead(&self) -> impl Iterator<Item = &Dead> {
        self.dead.iter()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bounds() -> Bounds {
        Bounds {
            max_bytes: 1 << 20,
            max_of_subject: 10,
            max_requests: 4,
            attempts: 3,
            pauses: (Duration::from_secs(1), Duration::from_secs(8)),
            max_dead: 2,
        }
    }

    fn told(subject: &str, id: &str) -> Told {
        Told {
            id: id.into(),
            name: "connect",
            subject: subject.into(),
            part: Part::Users,
            body: Bytes::from_static(b"{}"),
        }
    }

    fn queue(events: &[(&str, &str)]) -> DeliveryQueue {
        let mut queue = DeliveryQueue::new(bounds());
        for (subject, id) in events {
            queue.push(told(subject, id)).unwrap();
        }
        queue
    }

    /// Ids of all that can be sent now.
    fn taken(queue: &mut DeliveryQueue, now: Instant) -> Vec<String> {
        std::iter::from_fn(|| queue.take(now).map(|told| told.id.to_string())).collect()
    }

    fn refused() -> Outcome {
        Outcome::Refused("400".into())
    }

    fn failed() -> Outcome {
        Outcome::Failed("503".into())
    }

    fn done(queue: &mut DeliveryQueue, now: Instant, subject: &str, outcome: Outcome) -> Changed {
        queue.done(now, &subject.into(), outcome)
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn events_of_a_subject_go_one_after_the_other() {
        let now = Instant::now();
        let mut queue = queue(&[("a", "1"), ("a", "2"), ("b", "3"), ("a", "4")]);
        assert_eq!(taken(&mut queue, now), ["1", "3"]);
        done(&mut queue, now, "b", Outcome::Delivered);
        assert!(taken(&mut queue, now).is_empty());
        done(&mut queue, now, "a", Outcome::Delivered);
        assert_eq!(taken(&mut queue, now), ["2"]);
        done(&mut queue, now, "a", Outcome::Delivered);
        assert_eq!(taken(&mut queue, now), ["4"]);
        done(&mut queue, now, "a", Outcome::Delivered);
        assert_eq!((queue.len(), queue.bytes(), queue.wake_at()), (0, 0, None));
    }

    #[test]
    fn an_event_that_is_refused_keeps_back_its_subject_alone() {
        let mut now = Instant::now();
        let mut queue = queue(&[("a", "1"), ("a", "2"), ("b", "3"), ("b", "4")]);
        assert_eq!(taken(&mut queue, now), ["1", "3"]);
        done(&mut queue, now, "a", refused());
        done(&mut queue, now, "b", Outcome::Delivered);
        assert_eq!(taken(&mut queue, now), ["4"]);
        done(&mut queue, now, "b", Outcome::Delivered);
        let again = queue.wake_at().unwrap();
        assert!((now + LONG / 120..=now + LONG / 60).contains(&again));
        now = again;
        assert_eq!(taken(&mut queue, now), ["1"]);
        done(&mut queue, now, "a", refused());
        now = queue.wake_at().unwrap();
        assert_eq!(taken(&mut queue, now), ["1"]);
        // The third time was the last.
        let changed = done(&mut queue, now, "a", refused());
        let dead = changed.dead.unwrap();
        assert_eq!((&*dead.id, dead.attempts, &*dead.cause), ("1", 3, "400"));
        assert_eq!(taken(&mut queue, now), ["2"]);
        assert_eq!(queue.failing(), None);
    }

    #[test]
    fn a_receiver_that_is_away_is_tried_by_one_event_at_a_time() {
        let mut now = Instant::now();
        let mut queue = queue(&[("a", "1"), ("b", "2"), ("c", "3"), ("d", "4"), ("e", "5")]);
        assert_eq!(taken(&mut queue, now), ["1", "2", "3", "4"]);
        assert!(done(&mut queue, now, "a", failed()).is_away.is_some());
        for subject in ["b", "c", "d"] {
            // They were on their way together: one fault.
            assert_eq!(done(&mut queue, now, subject, failed()).is_away, None);
        }
        assert!(taken(&mut queue, now).is_empty());
        now = queue.wake_at().unwrap();
        assert_eq!(taken(&mut queue, now).len(), 1);
        assert_eq!(queue.wake_at(), None, "it waits for the one");
        now += LONG;
        assert!(taken(&mut queue, now).is_empty());
        assert_eq!(queue.failing(), Some("503"));
        // Whichever it was.
        let on_its_way = ["a", "b", "c", "d", "e"]
            .into_iter()
            .find(|subject| {
                let is_ready = queue.ready.iter().any(|ready| **ready == **subject);
                let pauses = queue.pausing.iter().any(|(_, name)| **name == **subject);
                !is_ready && !pauses
            })
            .unwrap();
        let changed = done(&mut queue, now, on_its_way, Outcome::Delivered);
        assert!(changed.is_back);
        assert_eq!(taken(&mut queue, now).len(), 4);
    }

    /// It answers some of what it got before it failed.
    #[test]
    fn what_was_on_its_way_before_does_not_bring_a_receiver_back() {
        let now = Instant::now();
        let mut queue = queue(&[("a", "1"), ("b", "2"), ("c", "3"), ("d", "4"), ("e", "5")]);
        assert_eq!(taken(&mut queue, now), ["1", "2", "3", "4"]);
        assert!(done(&mut queue, now, "a", failed()).is_away.is_some());
        assert!(!done(&mut queue, now, "b", Outcome::Delivered).is_back);
        assert!(!done(&mut queue, now, "c", refused()).is_back);
        assert_eq!(done(&mut queue, now, "d", failed()).is_away, None);
        assert!(taken(&mut queue, now).is_empty());
        assert_eq!(queue.failing(), Some("503"));
        // One tries it, and its outcome counts.
        let again = queue.wake_at().unwrap();
        assert!(again > now);
        let on_its_way = queue.take(again).unwrap();
        assert!(queue.take(again).is_none());
        let changed = done(&mut queue, again, &on_its_way.subject, failed());
        assert!(changed.is_away.is_some(), "it still fails");
        let again = queue.wake_at().unwrap();
        let on_its_way = queue.take(again).unwrap();
        assert!(done(&mut queue, again, &on_its_way.subject, Outcome::Delivered).is_back);
    }

    /// At the end of a node its receiver may just have come back.
    #[test]
    fn in_a_hurry_nobody_waits_for_the_longest_pause() {
        let mut now = Instant::now();
        let mut queue = DeliveryQueue::new(Bounds {
            attempts: 30,
            pauses: (Duration::from_secs(1), Duration::from_secs(120)),
            ..bounds()
        });
        for subject in ["a", "b"] {
            queue.push(told(subject, subject)).unwrap();
        }
        for _ in 0..7 {
            let tried = queue.take(now).unwrap();
            done(&mut queue, now, &tried.subject, failed());
            now = queue.wake_at().unwrap();
        }
        let tried = queue.take(now).unwrap();
        done(&mut queue, now, &tried.subject, failed());
        assert!(queue.wake_at().unwrap() > now + Duration::from_secs(30));
        queue.hurry(now);
        let tried = queue.take(now).unwrap();
        // From now on each pause is short.
        done(&mut queue, now, &tried.subject, failed());
        let again = queue.wake_at().unwrap();
        assert!(again <= now + Duration::from_secs(1));
        let tried = queue.take(again).unwrap();
        assert!(done(&mut queue, again, &tried.subject, Outcome::Delivered).is_back);
        let last = queue.take(again + Duration::from_secs(1)).unwrap();
        assert_ne!(last.subject, tried.subject);
        done(&mut queue, again, &last.subject, Outcome::Delivered);
        assert_eq!(queue.len(), 0);
        // An event that was refused, too.
        queue.push(told("c", "1")).unwrap();
        assert_eq!(taken(&mut queue, now), ["1"]);
        done(&mut queue, now, "c", refused());
        assert!(taken(&mut queue, now).is_empty());
        queue.hurry(now);
        assert_eq!(taken(&mut queue, now), ["1"]);
    }

    /// The receiver died while it was asked, and is back elsewhere.
    #[test]
    fn in_a_hurry_nobody_waits_for_a_request_without_an_answer() {
        let now = Instant::now();
        let mut queue = DeliveryQueue::new(bounds());
        for subject in ["a", "b", "c"] {
            queue.push(told(subject, subject)).unwrap();
        }
        let failing = queue.take(now).unwrap();
        done(&mut queue, now, &failing.subject, failed());
        let later = queue.wake_at().unwrap();
        let hanging = queue.take(later).unwrap();
        assert!(queue.take(later).is_none(), "one finds out how it is");
        queue.hurry(later);
        let tried = queue.take(later).unwrap();
        assert!(queue.take(later).is_none(), "one finds out how it is");
        assert!(done(&mut queue, later, &tried.subject, Outcome::Delivered).is_back);
        let last = queue.take(later).unwrap();
        // How the receiver was before the hurry tells nothing.
        let changed = done(&mut queue, later, &hanging.subject, failed());
        assert_eq!(changed.is_away, None);
        done(&mut queue, later, &last.subject, Outcome::Delivered);
        assert_eq!(queue.len(), 1);
    }

    /// The same, where the first to say so does it after the hurry has begun.
    #[test]
    fn in_a_hurry_nobody_waits_for_what_was_asked_of_a_receiver_before_it_failed() {
        let now = Instant::now();
        let mut queue = queue(&[("a", "1"), ("b", "2"), ("c", "3")]);
        let asked = [queue.take(now).unwrap().id, queue.take(now).unwrap().id];
        assert_eq!(asked.map(|id| id.to_string()), ["1", "2"]);
        queue.hurry(now);
        assert!(done(&mut queue, now, "a", failed()).is_away.is_some());
        let later = queue.wake_at().unwrap();
        assert_eq!(taken(&mut queue, later), ["3"], "one finds out how it is");
        assert!(done(&mut queue, later, "c", Outcome::Delivered).is_back);
    }

    #[test]
    fn what_finds_no_room_is_counted_and_takes_none() {
        let mut queue = DeliveryQueue::new(Bounds {
            max_of_subject: 2,
            max_bytes: 4 * (OVERHEAD + 4),
            ..bounds()
        });
        for id in ["1", "2"] {
            queue.push(told("a", id)).unwrap();
        }
        assert_eq!(queue.push(told("a", "3")), Err(NoRoom::Subject));
        for subject in ["b", "c"] {
            queue.push(told(subject, "4")).unwrap();
        }
        assert_eq!(queue.push(told("d", "5")), Err(NoRoom::Bytes));
        assert_eq!((queue.len(), queue.dropped()), (4, 2));
    }

    /// Whoever enters and leaves rooms without end takes no place from users' events.
    #[test]
    fn events_about_rooms_leave_room_for_others() {
        let now = Instant::now();
        let mut queue = DeliveryQueue::new(Bounds {
            max_bytes: 4 * (OVERHEAD + 4),
            ..bounds()
        });
        let room = |key: &str| Told {
            part: Part::Rooms(key.into()),
            ..told(key, "1")
        };
        for key in ["a", "b"] {
            queue.push(room(key)).unwrap();
        }
        assert_eq!(queue.push(room("c")), Err(NoRoom::Rooms));
        for user in ["d", "e"] {
            queue.push(told(user, "1")).unwrap();
        }
        assert_eq!(queue.push(told("f", "1")), Err(NoRoom::Bytes));
        // What has gone makes room for the next of its kind.
        assert_eq!(taken(&mut queue, now).len(), 4);
        done(&mut queue, now, "d", Outcome::Delivered);
        assert_eq!(queue.push(room("c")), Err(NoRoom::Rooms));
        done(&mut queue, now, "a", Outcome::Delivered);
        queue.push(room("c")).unwrap();
        assert_eq!(queue.dropped(), 3);
    }

    /// Nor does whoever sends to users that do not exist, whatever else it does.
    #[test]
    fn events_about_offline_users_leave_room_for_others() {
        let now = Instant::now();
        let mut queue = DeliveryQueue::new(Bounds {
            max_bytes: 80 * (OVERHEAD + 6),
            ..bounds()
        });
        let offline = |number: usize| Told {
            part: Part::Offline,
            ..told(&format!("{number:03}"), "1")
        };
        let room = |number: usize| Told {
            part: Part::Rooms(number.to_string().into()),
            ..told(&format!("{number:03}"), "1")
        };
        let taken_of = (0..100).filter(|number| queue.push(offline(*number)).is_ok());
        assert_eq!(taken_of.count(), 40);
        assert_eq!(queue.push(offline(100)), Err(NoRoom::Offline));
        // Each part leaves as much as it takes.
        let taken_of = (200..300).filter(|number| queue.push(room(*number)).is_ok());
        assert_eq!(taken_of.count(), 20);
        let connects = (300..400).map(|number| told(&number.to_string(), "1"));
        let taken_of = connects.filter(|connect| queue.push(connect.clone()).is_ok());
        assert_eq!(taken_of.count(), 20);
        while let Some(told) = queue.take(now) {
            queue.done(now, &told.subject, Outcome::Delivered);
        }
        assert_eq!((queue.len(), queue.bytes(), queue.offline_bytes), (0, 0, 0));
    }

    /// Nor from events about the rooms of others.
    #[test]
    fn one_user_s_rooms_leave_room_for_those_of_others() {
        let now = Instant::now();
        let mut queue = DeliveryQueue::new(Bounds {
            max_bytes: 2 * 120 * (OVERHEAD + 6),
            ..bounds()
        });
        let room = |user: &str, number: usize| Told {
            part: Part::Rooms(user.into()),
            ..told(&format!("{number:03}"), "1")
        };
        let of_alice = (0..200).filter(|number| queue.push(room("alice", *number)).is_ok());
        assert_eq!(of_alice.count(), 60);
        let of_bob = (200..400).filter(|number| queue.push(room("bob", *number)).is_ok());
        assert_eq!(of_bob.count(), 30);
        queue.push(room("carol", 400)).unwrap();
        while let Some(told) = queue.take(now) {
            queue.done(now, &told.subject, Outcome::Delivered);
        }
        assert!(queue.room_bytes_of.is_empty());
        assert_eq!((queue.len(), queue.room_bytes), (0, 0));
    }

    #[test]
    fn the_last_that_were_given_up_are_kept() {
        let now = Instant::now();
        let mut queue = DeliveryQueue::new(Bounds {
            attempts: 1,
            ..bounds()
        });
        for id in ["1", "2", "3"] {
            queue.push(told("a", id)).unwrap();
            assert_eq!(taken(&mut queue, now), [id]);
            assert!(done(&mut queue, now, "a", refused()).dead.is_some());
        }
        let kept: Vec<_> = queue.dead().map(|dead| &*dead.id).collect();
        assert_eq!((kept, queue.given_up()), (vec!["2", "3"], 3));
    }

    proptest! {
        /// Whatever goes wrong: each event is delivered or given up, those of a subject in order,
        /// one at a time, and nothing is left.
        #[test]
        fn everything_comes_to_an_end_in_order(
            subjects in prop::collection::vec(0..4_usize, 1..30),
            outcomes in prop::collection::vec(0..4_u8, 200),
        ) {
            let mut now = Instant::now();
            let mut queue = DeliveryQueue::new(Bounds { max_of_subject: 99, ..bounds() });
            for (id, subject) in subjects.iter().enumerate() {
                queue.push(told(&subject.to_string(), &format!("{id:03}"))).unwrap();
            }
            let mut outcomes = outcomes.into_iter().cycle();
            let mut last: HashMap<Arc<str>, Arc<str>> = HashMap::new();
            let mut ended = 0;
            let mut rounds = 0;
            while queue.len() > 0 {
                rounds += 1;
                prop_assert!(rounds < 10_000, "it does not end: {queue:?}");
                let mut sent = Vec::new();
                while let Some(told) = queue.take(now) {
                    prop_assert!(sent.iter().all(|other: &Told| other.subject != told.subject));
                    if let Some(before) = last.insert(Arc::clone(&told.subject), Arc::clone(&told.id)) {
                        prop_assert!(before <= told.id, "{before} before {}", told.id);
                    }
                    sent.push(told);
                }
                if sent.is_empty() {
                    now = queue.wake_at().expect("it wakes");
                    continue;
                }
                for told in sent {
                    let outcome = match outcomes.next() {
                        Some(0) => refused(),
                        Some(1) => failed(),
                        _ => Outcome::Delivered,
                    };
                    let is_delivered = outcome == Outcome::Delivered;
                    let changed = queue.done(now, &told.subject, outcome);
                    ended += usize::from(is_delivered || changed.dead.is_some());
                }
            }
            prop_assert_eq!(ended, subjects.len());
            prop_assert_eq!(queue.bytes(), 0);
        }
    }
}
