//! Sessions that left, until others are told what that meant for their users.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{PresenceEntry, Status, held::Held};
use crate::later::Later;

/// Departures that wait for the end of their debounce.
///
/// A user who leaves, comes back and leaves again has been away only since the last time. So of a
/// user's departures only the newest one settles, and nothing less than was told is told before.
#[derive(Debug)]
pub(super) struct Departures {
    waiting: Later<Departure>,
    /// The newest departure of each user who has one.
    newest: HashMap<Arc<str>, Stamp>,
}

/// Tells departures apart, on all nodes.
pub(super) type Stamp = u64;

/// A session that left.
#[derive(Debug)]
pub(super) struct Departure {
    pub(super) session: Arc<PresenceEntry>,
    /// `None`: the user's other sessions here show the same status without it, so no debounce
    /// begins.
    pub(super) stamp: Option<Stamp>,
    /// The store has lost what it was told of the session.
    pub(super) forgotten: bool,
}

impl Departures {
    pub(super) fn new(debounce: Duration) -> Self {
        Self {
            waiting: Later::new(debounce),
            newest: HashMap::new(),
        }
    }

    /// A session has left those that are `held`; `before`: its user's status with it. `forgotten`: the
    /// store has lost what it was told of it.
    pub(super) fn push(
        &mut self,
        now: Instant,
        session: &Arc<PresenceEntry>,
        before: Status,
        held: &Held,
        forgotten: bool,
    ) -> Option<Stamp> {
        let stamp = (held.status(&session.user) < before).then(rand::random);
        if let Some(stamp) = stamp {
            self.newest.insert(Arc::clone(&session.user), stamp);
        }
        let departure = Departure {
            session: Arc::clone(session),
            stamp,
            forgotten,
        };
        self.waiting.push(now, departure);
        stamp
    }

    /// It could not be settled, and is due before all others. A newer one still counts more.
    pub(super) fn put_back(&mut self, now: Instant, departure: Departure) {
        if let Some(stamp) = departure.stamp {
            let user = Arc::clone(&departure.session.user);
            self.newest.entry(user).or_insert(stamp);
        }
        self.waiting.put_back(now, departure);
    }

    /// The first, if its debounce is over; and true if it may settle.
    pub(super) fn pop(&mut self, now: Instant) -> Option<(Departure, bool)> {
        let departure = self.waiting.pop(now)?;
        Some(self.close(departure))
    }

    /// The same; and if more than `most` wait, though its debounce may not be over.
    pub(super) fn pop_over(&mut self, now: Instant, most: usize) -> Option<(Departure, bool)> {
        let departure = self.waiting.pop_over(now, most)?;
        Some(self.close(departure))
    }

    /// The first, though its debounce may not be over.
    pub(super) fn pop_first(&mut self) -> Option<(Departure, bool)> {
        let departure = self.waiting.pop_first()?;
        Some(self.close(departure))
    }

    fn close(&mut self, departure: Departure) -> (Departure, bool) {
        let user = &departure.session.user;
        let settles = departure
            .stamp
            .is_none_or(|stamp| self.newest.get(user) == Some(&stamp));
        if settles && departure.stamp.is_some() {
            self.newest.remove(user);
            if self.newest.is_empty() {
                self.newest = HashMap::new();
            }
        }
        (departure, settles)
    }

    /// True while a debounce of the user runs: until it is over, others see no lower status.
    pub(super) fn hold(&self, user: &str) -> bool {
        self.newest.contains_key(user)
    }

    /// When the first debounce is over.
    pub(super) fn due(&self) -> Option<Instant> {
        self.waiting.due()
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// The store has lost all that it was told. None settles before `until`: by then all nodes have
    /// told it anew of the users who are still there.
    pub(super) fn were_forgotten(&mut self, until: Instant) {
        self.waiting.hold_until(until);
        let waiting = self.waiting.iter_mut();
        waiting.for_each(|departure| departure.forgotten = true);
    }

    pub(super) fn clear(&mut self) {
        self.waiting.clear();
        self.newest = HashMap::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_departure_that_says_less_settles() {
        let second = Duration::from_secs(1);
        let start = Instant::now();
        let mut departures = Departures::new(5 * second);
        let [one, two] = [(); 2].map(|()| {
            let session = PresenceEntry::new("a".into(), "s", "tcp", Vec::new());
            Arc::new(session)
        });
        let mut held = Held::default();
        departures.push(start, &one, Status::Online, &held, false);
        departures.push(start + second, &two, Status::Online, &held, false);
        assert!(departures.hold("a") && !departures.hold("b"));
        let (first, settles) = departures.pop(start + 5 * second).unwrap();
        assert!(Arc::ptr_eq(&first.session, &one) && !settles);
        // A departure that could not be settled does not replace the newer one.
        departures.put_back(start, first);
        assert!(!departures.pop_first().unwrap().1 && departures.hold("a"));
        assert!(departures.pop(start + 5 * second).is_none());
        let (last, settles) = departures.pop(start + 6 * second).unwrap();
        assert!(Arc::ptr_eq(&last.session, &two) && settles && !departures.hold("a"));
        departures.put_back(start, last);
        assert!(departures.hold("a") && departures.pop(start).unwrap().1);

        // Another session says the same of the user: nothing has to wait.
        held.insert(&one);
        let stamp = departures.push(start, &two, Status::Online, &held, false);
        assert_eq!(stamp, None);
        assert!(!departures.hold("a"));
        assert!(departures.pop_first().unwrap().1 && departures.len() == 0);
    }
}
