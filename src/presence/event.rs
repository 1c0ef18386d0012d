//! Events for others: a user comes, goes, or changes its status.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::{Debug, Write as _},
    hash::Hash,
    sync::Arc,
    time::SystemTime,
};

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::Notify;

use super::Status;
use crate::{
    broker::destination::MAX_NAME,
    telemetry,
    webhooks::{self, Webhooks},
};

/// Events that wait for the broker, of one each for so many users.
const MAX_WAITING: usize = 65_536;

/// What is told to others, by way of an [`Outbox`].
pub trait Announcement: Send + Sync + 'static {
    /// What it is about. Of several about the same, others are told the newest.
    type Subject: Clone + Debug + Eq + Hash + Send + Sync;

    /// What this one is about.
    fn subject(&self) -> Self::Subject;

    /// Both as one: `next` came after this. `None`: together they are no change, and nobody
    /// `may_know` of this one. Whoever may know of it has to hear that it holds no more.
    fn followed_by(self, next: Self, may_know: bool) -> Option<Self>
    where
        Self: Sized;

    /// The routing keys.
    fn routing_keys(&self) -> Vec<Box<str>>;

    /// The body, in JSON.
    fn json(&self) -> Vec<u8>;

    /// The same for webhooks; `None`: it is nothing for them.
    fn for_webhooks(&self) -> Option<webhooks::Event>;
}

/// The status that others see of a user has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The user.
    pub user: Arc<str>,
    /// The status that others see now: never [`Status::Invisible`].
    pub status: Status,
    /// The status that they saw before.
    pub previous: Status,
    /// When it was found out, by the store's clock: of two events of a user the later one holds,
    /// in whichever order they arrive.
    pub at: SystemTime,
    /// The user's groups, as far as the node that found out knows them.
    pub groups: Arc<[Arc<str>]>,
}

/// The change of a user, as others see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
    /// It was offline, and is not.
    Join,
    /// It is offline now.
    Leave,
    /// Its status is another.
    Status,
}

/// An event's body.
#[derive(Serialize)]
struct Body<'a> {
    #[serde(rename = "type")]
    kind: EventKind,
    user: &'a str,
    status: Status,
    previous: Status,
    at: String,
}

impl Event {
    /// The event of such a change of status; `None` if others see no difference.
    pub(super) fn new(
        user: &Arc<str>,
        groups: Arc<[Arc<str>]>,
        previous: Status,
        status: Status,
        at: SystemTime,
    ) -> Option<Self> {
        let (previous, status) = (previous.to_others(), status.to_others());
        (previous != status).then(|| Self {
            user: Arc::clone(user),
            status,
            previous,
            at,
            groups,
        })
    }

    /// The kind of change.
    #[must_use]
    pub fn kind(&self) -> EventKind {
        match (self.previous, self.status) {
            (_, Status::Offline) => EventKind::Leave,
            (Status::Offline, _) => EventKind::Join,
            _ => EventKind::Status,
        }
    }

    /// The body, in JSON: `type` (join, leave, status), `user`, `status`, `previous`, `at`.
    #[must_use]
    pub fn body(&self) -> Vec<u8> {
        let body = Body {
            kind: self.kind(),
            user: &self.user,
            status: self.status,
            previous: self.previous,
            at: humantime::format_rfc3339_micros(self.at).to_string(),
        };
        // Texts always become JSON.
        serde_json::to_vec(&body).unwrap_or_default()
    }

    /// The routing keys: `user.<name>`, and `group.<name>` of each group.
    ///
    /// Names stand as they are, dots included, so that a key is what a reader expects:
    /// `user.bob@example.com`. A pattern for all users is therefore `user.#`. A name too long for
    /// AMQP is `sha256:` and its SHA-256 in hexadecimal digits.
    pub fn keys(&self) -> impl Iterator<Item = Box<str>> {
        let groups = self.groups.iter().map(|group| key("group.", group));
        std::iter::once(key("user.", &self.user)).chain(groups)
    }
}

impl Announcement for Event {
    type Subject = Arc<str>;

    fn subject(&self) -> Arc<str> {
        Arc::clone(&self.user)
    }

    fn followed_by(self, next: Self, may_know: bool) -> Option<Self> {
        let mut previous = self.previous;
        // Others may have seen the one or the other before. A leave or a join that comes twice does
        // no harm, one that is missing does.
        if may_know && (previous == next.status || next.previous == Status::Offline) {
            previous = next.previous;
        }
        (previous != next.status).then_some(Self { previous, ..next })
    }

    fn routing_keys(&self) -> Vec<Box<str>> {
        self.keys().collect()
    }

    fn json(&self) -> Vec<u8> {
        self.body()
    }

    fn for_webhooks(&self) -> Option<webhooks::Event> {
        Some(webhooks::Event::Presence {
            change: match self.kind() {
                EventKind::Join => "join",
                EventKind::Leave => "leave",
                EventKind::Status => "status",
            },
            user: Arc::clone(&self.user),
            status: self.status.name(),
            previous: self.previous.name(),
            at: self.at,
        })
    }
}

/// A routing key: the kind and the name; or, if that is too long for AMQP, the name's hash.
pub(super) fn key(kind: &str, name: &str) -> Box<str> {
    if kind.len().saturating_add(name.len()) <= MAX_NAME {
        return format!("{kind}{name}").into();
    }
    let mut key = format!("{kind}sha256:");
    for byte in ring::digest::digest(&ring::digest::SHA256, name.as_bytes()).as_ref() {
        // Writing to a `String` cannot fail.
        let _ = write!(key, "{byte:02x}");
    }
    key.into()
}

/// Events on their way to the broker: of each subject (a user, say) the newest, and what was seen
/// before the first that waits. While the broker is away nothing else is kept, and who came and
/// went meanwhile is not told, unless other nodes tell of the same.
#[derive(Debug)]
pub struct Outbox<E: Announcement = Event> {
    waiting: Mutex<WaitingEvents<E>>,
    wake: Notify,
    /// Nobody takes them to the broker.
    is_silent: bool,
    /// They are told there, too.
    webhooks: Option<Arc<Webhooks>>,
}

#[derive(Debug)]
struct WaitingEvents<E: Announcement> {
    /// The subjects of `events` by their places. Nothing else: of events that cancelled each other
    /// nothing is left that could take the room of others.
    order: BTreeMap<i64, E::Subject>,
    events: HashMap<E::Subject, WaitingEvent<E>>,
    /// There were too many, and the log says so.
    overflowed: bool,
    is_closed: bool,
}

#[derive(Debug)]
struct WaitingEvent<E> {
    event: E,
    /// In the order: the smallest is told first.
    place: i64,
    /// Others may know of it, or of one before it that is part of it: it was handed over, and the
    /// broker did not say what became of that; or other nodes tell of the same.
    may_be_known: bool,
}

impl<E: Announcement> Outbox<E> {
    /// An empty one.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Self::for_webhooks(None, false)
    }

    /// Tells webhooks, too, or only them: then [`Outbox::next`] has nothing.
    #[must_use]
    pub fn for_webhooks(webhooks: Option<Arc<Webhooks>>, only: bool) -> Arc<Self> {
        Arc::new(Self {
            waiting: Mutex::new(WaitingEvents {
                order: BTreeMap::new(),
                events: HashMap::new(),
                overflowed: false,
                is_closed: false,
            }),
            wake: Notify::new(),
            is_silent: only,
            webhooks,
        })
    }

    /// An event is to be told. With too many subjects' waiting it is not, and the log says so.
    pub(super) fn push(&self, event: E) {
        self.push_known(event, false);
    }

    /// The same, where nodes share the store. The next change may be found by another node, which
    /// tells it, and the one after that by this one again: so an event does not cancel the one that
    /// waits here, though they look like opposites.
    pub(super) fn push_shared(&self, event: E) {
        self.push_known(event, true);
    }

    fn push_known(&self, event: E, may_be_known: bool) {
        if let Some(webhooks) = &self.webhooks
            && let Some(event) = event.for_webhooks()
        {
            webhooks.tell(&event);
        }
        if self.is_silent {
            return;
        }
        self.waiting.lock().push(event, may_be_known);
        self.wake.notify_one();
    }

    /// The next events in order, at most `most`; waits for the first. Empty once the outbox is
    /// closed and all events were taken.
    pub async fn next(&self, most: usize) -> Vec<E> {
        loop {
            {
                let mut waiting = self.waiting.lock();
                let taken = waiting.take(most);
                if !taken.is_empty() || waiting.is_closed {
                    return taken;
                }
            }
            self.wake.notified().await;
        }
    }

    /// Takes no further events.
    pub fn close(&self) {
        self.waiting.lock().is_closed = true;
        self.wake.notify_one();
    }

    /// Takes back events of which it is not known that they were published; those that came since
    /// then are newer.
    pub fn put_back(&self, events: Vec<E>) {
        let mut waiting = self.waiting.lock();
        for event in events.into_iter().rev() {
            let front = waiting.front();
            waiting.put_back(event, front);
        }
    }

    /// The same, behind all others, which are not to wait for these again.
    pub(super) fn put_behind(&self, events: Vec<E>) {
        let mut waiting = self.waiting.lock();
        for event in events {
            let behind = waiting.behind();
            waiting.put_back(event, behind);
        }
    }
}

impl<E: Announcement> WaitingEvents<E> {
    fn push(&mut self, event: E, may_be_known: bool) {
        let subject = event.subject();
        if let Some(waits) = self.remove(&subject) {
            let place = waits.place;
            let next = WaitingEvent {
                event,
                place,
                may_be_known,
            };
            self.keep(subject, waits.followed_by(next));
        } else if self.events.len() < MAX_WAITING {
            let place = self.behind();
            let next = WaitingEvent {
                event,
                place,
                may_be_known,
            };
            self.keep(subject, Some(next));
        } else if !std::mem::replace(&mut self.overflowed, true) {
            telemetry::presence_events_lost(MAX_WAITING);
        }
    }

    /// The place in front of all.
    fn front(&self) -> i64 {
        let first = self.order.first_key_value();
        first.map_or(0, |(place, _)| place.saturating_sub(1))
    }

    /// The place behind all.
    fn behind(&self) -> i64 {
        let last = self.order.last_key_value();
        last.map_or(0, |(place, _)| place.saturating_add(1))
    }

    /// At that place, or where its subject waits.
    fn put_back(&mut self, event: E, place: i64) {
        let subject = event.subject();
        let waits = self.remove(&subject);
        let back = WaitingEvent {
            event,
            place: waits.as_ref().map_or(place, |waits| waits.place),
            may_be_known: true,
        };
        let kept = match waits {
            Some(waits) => back.followed_by(waits),
            None => Some(back),
        };
        self.keep(subject, kept);
    }

    fn keep(&mut self, subject: E::Subject, event: Option<WaitingEvent<E>>) {
        if let Some(event) = event {
            self.order.insert(event.place, subject.clone());
            self.events.insert(subject, event);
        }
    }

    fn remove(&mut self, subject: &E::Subject) -> Option<WaitingEvent<E>> {
        let waits = self.events.remove(subject)?;
        self.order.remove(&waits.place);
        Some(waits)
    }

    fn take(&mut self, most: usize) -> Vec<E> {
        let mut taken = Vec::new();
        while taken.len() < most {
            let Some((_, subject)) = self.order.pop_first() else {
                self.overflowed = false;
                self.events = HashMap::new();
                break;
            };
            taken.extend(self.events.remove(&subject).map(|waits| waits.event));
        }
        taken
    }
}

impl<E: Announcement> WaitingEvent<E> {
    /// What may be known of the first stays so until the broker has confirmed what comes of both.
    fn followed_by(self, next: Self) -> Option<Self> {
        let may_be_known = self.may_be_known || next.may_be_known;
        let event = self.event.followed_by(next.event, self.may_be_known)?;
        Some(Self {
            event,
            place: self.place,
            may_be_known,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn event(user: &str, previous: Status, status: Status) -> Event {
        let groups = ["g.1".into(), "g 2".into()];
        Event::new(
            &user.into(),
            groups.into(),
            previous,
            status,
            SystemTime::UNIX_EPOCH + Duration::from_micros(1_795_000_000_123_456),
        )
        .unwrap()
    }

    #[test]
    fn a_body_says_what_happened() {
        use Status::{Away, Invisible, Offline, Online};
        for (previous, status, kind, shown) in [
            (Offline, Away, "join", "away"),
            (Away, Online, "status", "online"),
            (Online, Offline, "leave", "offline"),
            (Online, Invisible, "leave", "offline"),
            (Invisible, Online, "join", "online"),
        ] {
            let json = event("bob \"x\"", previous, status).body();
            let body: serde_json::Value = serde_json::from_slice(&json).unwrap();
            assert_eq!(
                body,
                serde_json::json!({
                    "type": kind,
                    "user": "bob \"x\"",
                    "status": shown,
                    "previous": previous.to_others(),
                    "at": "2026-11-18T11:06:40.123456Z",
                })
            );
        }
    }

    #[test]
    fn what_others_do_not_see_is_no_event() {
        for (previous, status) in [
            (Status::Offline, Status::Invisible),
            (Status::Invisible, Status::Offline),
            (Status::Busy, Status::Busy),
        ] {
            let (user, at) = ("a".into(), SystemTime::now());
            let groups: Arc<[Arc<str>]> = [].into();
            assert_eq!(Event::new(&user, groups, previous, status, at), None);
        }
    }

    #[test]
    fn keys_are_the_names_and_fit_into_amqp() {
        let keys = |user: &str| -> Vec<_> {
            event(user, Status::Offline, Status::Online)
                .keys()
                .collect()
        };
        let expected: [Box<str>; 3] = [
            "user.bob@example.com".into(),
            "group.g 2".into(),
            "group.g.1".into(),
        ];
        let mut found = keys("bob@example.com");
        found[1..].sort();
        assert_eq!(found, expected);
        let longest = "x".repeat(MAX_NAME - 5);
        assert_eq!(&*keys(&longest)[0], format!("user.{longest}"));
        let hashed = &keys(&"x".repeat(MAX_NAME - 4))[0];
        assert!(hashed.starts_with("user.sha256:"), "{hashed}");
        assert_eq!(hashed.len(), "user.sha256:".len() + 64);
    }

    fn told(outbox: &Outbox, most: usize) -> Vec<String> {
        let events = outbox.waiting.lock().take(most);
        let told = events
            .iter()
            .map(|event| format!("{} {}>{}", event.user, event.previous, event.status));
        told.collect()
    }

    #[test]
    fn of_a_user_the_newest_is_told_and_nothing_if_nothing_changed() {
        use Status::{Away, Busy, Offline, Online};
        let outbox = Outbox::new();
        outbox.push(event("a", Offline, Online));
        outbox.push(event("b", Online, Offline));
        outbox.push(event("a", Online, Away));
        outbox.push(event("b", Offline, Online));
        outbox.push(event("c", Online, Busy));
        assert_eq!(told(&outbox, 1), ["a offline>away"]);
        assert_eq!(told(&outbox, 9), ["c online>busy"]);
    }

    #[test]
    fn what_could_not_be_told_comes_first_again() {
        use Status::{Away, Busy, Offline, Online};
        let outbox = Outbox::new();
        for user in ["b", "c"] {
            outbox.push(event(user, Offline, Online));
        }
        let taken = outbox.waiting.lock().take(1);
        outbox.push(event("b", Online, Busy));
        outbox.put_back(taken);
        assert_eq!(told(&outbox, 9), ["c offline>online", "b offline>busy"]);

        outbox.push(event("d", Online, Away));
        let taken = outbox.waiting.lock().take(1);
        outbox.push(event("e", Online, Away));
        outbox.put_back(taken);
        assert_eq!(told(&outbox, 9), ["d online>away", "e online>away"]);

        // Behind the others, if these are not to wait for it once more.
        outbox.push(event("d", Away, Busy));
        outbox.push(event("e", Away, Busy));
        let taken = outbox.waiting.lock().take(2);
        outbox.push(event("e", Busy, Online));
        outbox.push(event("f", Online, Away));
        outbox.put_behind(taken);
        assert_eq!(
            told(&outbox, 9),
            ["e away>online", "f online>away", "d away>busy"]
        );
    }

    #[test]
    fn what_may_be_known_is_not_cancelled() {
        use Status::{Away, Busy, Offline, Online};
        // What the broker may have, what came afterwards, and what others are told.
        for (known, next, expected) in [
            ((Online, Offline), (Offline, Online), "a offline>online"),
            ((Offline, Online), (Online, Offline), "a online>offline"),
            ((Online, Away), (Away, Online), "a away>online"),
            ((Online, Offline), (Offline, Away), "a offline>away"),
            ((Offline, Online), (Online, Away), "a offline>away"),
            ((Online, Away), (Away, Busy), "a online>busy"),
            ((Online, Away), (Away, Offline), "a online>offline"),
            // Another node has told meanwhile that the user came back.
            ((Online, Offline), (Online, Offline), "a online>offline"),
        ] {
            let (known, next) = (event("a", known.0, known.1), event("a", next.0, next.1));
            for comes_first in [false, true] {
                let outbox = Outbox::new();
                outbox.push(known.clone());
                let taken = outbox.waiting.lock().take(1);
                if comes_first {
                    outbox.put_back(taken);
                    outbox.push(next.clone());
                } else {
                    outbox.push(next.clone());
                    outbox.put_back(taken);
                }
                assert_eq!(told(&outbox, 9), [expected], "{comes_first}");
            }
        }
    }

    #[test]
    fn what_may_be_known_stays_so_until_it_is_confirmed() {
        use Status::{Offline, Online};
        let outbox = Outbox::new();
        outbox.push(event("a", Online, Offline));
        let taken = outbox.waiting.lock().take(1);
        outbox.put_back(taken);
        outbox.push(event("a", Offline, Online));
        outbox.push(event("a", Online, Offline));
        let taken = outbox.waiting.lock().take(9);
        assert_eq!(taken.len(), 1);
        outbox.put_back(taken);
        outbox.push(event("a", Offline, Online));
        assert_eq!(told(&outbox, 9), ["a offline>online"]);
        // What was taken and not put back is confirmed.
        outbox.push(event("a", Online, Offline));
        outbox.push(event("a", Offline, Online));
        assert!(told(&outbox, 9).is_empty());
    }

    /// Another node has told of the change in between, and then this one tells of the next.
    #[test]
    fn what_other_nodes_may_have_told_of_is_not_cancelled() {
        use Status::{Away, Offline, Online};
        for (first, next, expected) in [
            ((Online, Offline), (Offline, Online), "a offline>online"),
            ((Offline, Online), (Online, Offline), "a online>offline"),
            ((Online, Away), (Away, Online), "a away>online"),
            ((Online, Away), (Offline, Online), "a offline>online"),
        ] {
            let outbox = Outbox::new();
            for (previous, status) in [first, next] {
                outbox.push_shared(event("a", previous, status));
            }
            assert_eq!(told(&outbox, 9), [expected]);
            // It keeps to one event for each user.
            for _ in 0..9 {
                outbox.push_shared(event("a", first.0, first.1));
                outbox.push_shared(event("a", next.0, next.1));
            }
            assert_eq!(outbox.waiting.lock().order.len(), 1);
        }
    }

    #[test]
    fn the_number_of_users_is_bounded() {
        let outbox = Outbox::new();
        for number in 0..=MAX_WAITING {
            outbox.push(event(&number.to_string(), Status::Offline, Status::Online));
        }
        assert_eq!(outbox.waiting.lock().events.len(), MAX_WAITING);
        // Users that come and go take no room, be it one or many of them.
        let flaps = Outbox::new();
        for number in 0..2 * MAX_WAITING {
            for user in ["a", &number.to_string()] {
                flaps.push(event(user, Status::Offline, Status::Online));
                flaps.push(event(user, Status::Online, Status::Offline));
            }
        }
        assert!(flaps.waiting.lock().order.is_empty());
        flaps.push(event("b", Status::Offline, Status::Online));
        assert_eq!(told(&flaps, usize::MAX), ["b offline>online"]);
        // One event each, if what they did is told all the same.
        let known = Outbox::new();
        known.put_back(vec![event("a", Status::Online, Status::Offline)]);
        for _ in 0..MAX_WAITING {
            known.push(event("a", Status::Offline, Status::Online));
            known.push(event("a", Status::Online, Status::Offline));
        }
        let waiting = known.waiting.lock();
        assert_eq!((waiting.order.len(), waiting.events.len()), (1, 1));
    }
}
