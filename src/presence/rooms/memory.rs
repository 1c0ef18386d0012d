//! Rooms in this process' memory: for a single node.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::future::{self, BoxFuture, FutureExt};
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{self, Instant},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    Entering, HeldRooms, MemberKey, MemberListing, MemberPage, Occupancy, Occupant, Room,
    RoomChange, RoomEvent, RoomRefusal, RoomRules, Rooms, place,
};
use crate::{background, later::Later, presence::PresenceError};

/// Departures that wait at most; with more, the first are told at once, for they take memory.
const MAX_LEFT: usize = 65_536;

/// Rooms in this process' memory. It never fails.
#[derive(Debug)]
pub struct MemoryRooms {
    inner: Arc<Inner>,
    _settler: AbortOnDropHandle<()>,
}

#[derive(Debug)]
struct Inner {
    rules: RoomRules,
    state: Mutex<MemoryState>,
    wake: Notify,
}

#[derive(Debug)]
struct MemoryState {
    held: HeldRooms,
    /// Members that have left, in the order of time.
    left: Later<(MemberKey, u64)>,
    /// Of each room, the members that others still see, and which departure decides.
    leaving: HashMap<Arc<Room>, HashMap<Arc<str>, u64>>,
    /// Numbers the departures.
    departures: u64,
}

impl MemoryRooms {
    /// All rooms are empty.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn new(rules: RoomRules, debounce: Duration) -> Self {
        let state = MemoryState {
            held: HeldRooms::default(),
            left: Later::new(debounce),
            leaving: HashMap::new(),
            departures: 0,
        };
        let inner = Arc::new(Inner {
            rules,
            state: Mutex::new(state),
            wake: Notify::new(),
        });
        let settler = background::spawn(settle_later(Arc::clone(&inner)));
        Self {
            inner,
            _settler: AbortOnDropHandle::new(settler),
        }
    }
}

/// Looks after what is due, for ever.
async fn settle_later(inner: Arc<Inner>) {
    loop {
        let due = inner.settle_due();
        let woken = inner.wake.notified();
        match due {
            Some(due) => drop(time::timeout_at(due, woken).await),
            None => woken.await,
        }
    }
}

impl Inner {
    /// When to come again.
    fn settle_due(&self) -> Option<Instant> {
        let now = Instant::now().into_std();
        let state = &mut *self.state.lock();
        while let Some((key, departure)) = state.left.pop(now) {
            self.settle(state, &key, departure);
        }
        state.left.due().map(Instant::from_std)
    }

    fn enter(&self, occupant: &Occupant) -> Result<(), RoomRefusal> {
        let state = &mut *self.state.lock();
        let room = &occupant.room;
        let before = state.held.occupancy(room);
        let rules = &self.rules;
        let has_room_for_rooms = before.members > 0 || state.held.len() < rules.max_rooms;
        if !state.held.enter(occupant) {
            return Ok(());
        }
        if !has_room_for_rooms || rules.max_members > 0 && before.members >= rules.max_members {
            state.held.leave(occupant);
            return Err(if has_room_for_rooms {
                RoomRefusal::Full(rules.max_members)
            } else {
                RoomRefusal::TooManyRooms(rules.max_rooms)
            });
        }
        let (mut was_seen, mut others_leave) = (false, false);
        if let Some(leaving) = state.leaving.get_mut(room) {
            was_seen = leaving.remove(&occupant.user).is_some();
            others_leave = !leaving.is_empty();
            if !others_leave {
                state.leaving.remove(room);
            }
        }
        if was_seen {
            return Ok(());
        }
        let key = MemberKey::from(occupant);
        if before.members == 0 && !others_leave {
            self.tell(state, &key, RoomChange::Occupied);
        }
        self.tell(state, &key, RoomChange::Join(Arc::clone(&key.user)));
        Ok(())
    }

    fn leave(&self, occupant: &Occupant) {
        let state = &mut *self.state.lock();
        if state.held.leave(occupant) != Some(true) {
            return;
        }
        let key = MemberKey::from(occupant);
        state.departures = state.departures.wrapping_add(1);
        let departure = state.departures;
        let leaving = state.leaving.entry(Arc::clone(&key.room)).or_default();
        leaving.insert(Arc::clone(&key.user), departure);
        state.left.push(Instant::now().into_std(), (key, departure));
        if state.left.len() > MAX_LEFT
            && let Some((key, departure)) = state.left.pop_first()
        {
            self.settle(state, &key, departure);
        }
        self.wake.notify_one();
    }

    /// Tells that a member has left, unless it came back.
    fn settle(&self, state: &mut MemoryState, key: &MemberKey, departure: u64) {
        let Some(leaving) = state.leaving.get_mut(&key.room) else {
            return;
        };
        if leaving.get(&key.user) != Some(&departure) {
            return;
        }
        leaving.remove(&key.user);
        let is_last = leaving.is_empty();
        if is_last {
            state.leaving.remove(&key.room);
        }
        self.tell(state, key, RoomChange::Leave(Arc::clone(&key.user)));
        if is_last && !state.held.has(&key.room) {
            self.tell(state, key, RoomChange::Vacated);
        }
    }

    fn tell(&self, state: &MemoryState, key: &MemberKey, change: RoomChange) {
        if let Some(events) = &self.rules.events {
            events.push(RoomEvent {
                room: Arc::clone(&key.room),
                change,
                by: Arc::clone(&key.user),
                members: state.held.occupancy(&key.room).members,
                at: SystemTime::now(),
            });
        }
    }
}

impl Rooms for MemoryRooms {
    fn counts(&self, exchange: &str) -> bool {
        self.inner.rules.exchanges.contains(exchange)
    }

    fn is_bounded(&self, room: &Room) -> bool {
        let held = &self.inner.state.lock().held;
        self.inner.rules.is_bounded(room, held)
    }

    fn enter(&self, occupant: &Occupant) -> Entering {
        future::ready(self.inner.enter(occupant)).boxed()
    }

    fn leave(&self, occupant: &Occupant) {
        self.inner.leave(occupant);
    }

    fn here(&self, room: &Room) -> Occupancy {
        self.inner.state.lock().held.occupancy(room)
    }

    fn occupancy<'a>(
        &'a self,
        rooms: &'a [Room],
    ) -> BoxFuture<'a, Result<Vec<Occupancy>, PresenceError>> {
        let state = self.inner.state.lock();
        let found = rooms.iter().map(|room| state.held.occupancy(room));
        let found = found.collect();
        drop(state);
        future::ready(Ok(found)).boxed()
    }

    fn members<'a>(
        &'a self,
        room: &'a Room,
        listing: &'a MemberListing,
    ) -> BoxFuture<'a, Result<MemberPage, PresenceError>> {
        let after = listing.after.as_deref();
        let after = after.map(|after| place::read(after).ok_or(PresenceError::Cursor));
        let page = after.transpose().map(|after| {
            let state = self.inner.state.lock();
            let (members, has_more) = state.held.page(room, after.as_deref(), listing);
            MemberPage::in_order(members, has_more)
        });
        future::ready(page).boxed()
    }
}
