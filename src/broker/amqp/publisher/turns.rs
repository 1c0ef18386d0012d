//! One sender's messages stay in order, although there are many lanes: whoever has messages under
//! way on one lane waits for the broker's answers before it goes on another.
//!
//! A connection's messages end at the first that is lost with the link, or refused with the channel
//! ([`Place::failed`]): it is told of that one, and will begin again there. Those that it has handed over behind it, and that are not
//! on their way to the broker yet, are left out; sent, they would be doubled later, and tear a hole
//! into the order until then.

use std::{
    collections::{HashMap, hash_map::Entry},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Who has messages under way, and where.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<HashMap<Sender, Turn>>);

/// Whose messages take turns.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Sender {
    /// A connection: [`Publish::lane`](crate::broker::Publish::lane).
    Connection(u64),
    /// Whoever has messages that take the broker long:
    /// [`Publish::slow`](crate::broker::Publish::slow).
    Slow(Arc<str>),
}

/// Which lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LaneNumber {
    pub(super) number: u64,
    /// Whether it takes the next message of a sender before the one before was answered.
    pub(super) is_fast: bool,
}

#[derive(Debug)]
struct Turn {
    lane: LaneNumber,
    under_way: usize,
    /// Messages that were counted here so far.
    entered: u64,
    left: Arc<Left>,
}

/// What those know of a sender who wait for its last answer, or for their turn behind others.
#[derive(Debug, Default)]
struct Left {
    notify: Notify,
    /// So many of its messages end with one that failed.
    ended: AtomicU64,
}

/// A message under way; dropped when it was answered.
#[derive(Debug)]
pub(super) struct Place {
    turns: Arc<Turns>,
    sender: Sender,
    /// Which of its sender's messages under way.
    number: u64,
    left: Arc<Left>,
}

impl Place {
    /// The message is not published, or nobody knows.
    pub(super) fn failed(&self) {
        if let Some(turn) = self.turns.0.lock().get(&self.sender) {
            turn.left.ended.store(turn.entered, Ordering::Relaxed);
        }
    }

    /// Whether one before it failed.
    pub(super) fn is_left_out(&self) -> bool {
        self.number <= self.left.ended.load(Ordering::Relaxed)
    }
}

impl Turns {
    /// Waits until the sender may go on that lane, and counts one more under way there. Its turns
    /// on a lane that is not fast are one by one.
    pub(super) async fn enter(self: &Arc<Self>, sender: &Sender, lane: LaneNumber) -> Place {
        loop {
            match self.try_enter(sender, lane) {
                Some(place) => return place,
                None => {
                    self.all_answered(sender).await;
                }
            }
        }
    }

    /// Waits until the sender has nothing under way. False if one of those failed.
    pub(super) async fn all_answered(&self, sender: &Sender) -> bool {
        let Some(left) = self.left(sender) else {
            return true;
        };
        let mut waiting = pin!(left.notify.notified());
        waiting.as_mut().enable();
        // The last one may have left before we listened.
        let still = self.left(sender);
        if still.is_some_and(|still| Arc::ptr_eq(&left, &still)) {
            waiting.await;
        }
        left.ended.load(Ordering::Relaxed) == 0
    }

    fn left(&self, sender: &Sender) -> Option<Arc<Left>> {
        let turns = self.0.lock();
        turns.get(sender).map(|turn| Arc::clone(&turn.left))
    }

    fn try_enter(self: &Arc<Self>, sender: &Sender, lane: LaneNumber) -> Option<Place> {
        let (number, left) = match self.0.lock().entry(sender.clone()) {
            Entry::Vacant(vacant) => {
                let turn = vacant.insert(Turn {
                    lane,
                    under_way: 1,
                    entered: 1,
                    left: Arc::default(),
                });
                (1, Arc::clone(&turn.left))
            }
            Entry::Occupied(mut taken) if taken.get().lane == lane && lane.is_fast => {
                let turn = taken.get_mut();
                turn.under_way = turn.under_way.saturating_add(1);
                turn.entered = turn.entered.saturating_add(1);
                (turn.entered, Arc::clone(&turn.left))
            }
            Entry::Occupied(_) => return None,
        };
        Some(Place {
            turns: Arc::clone(self),
            sender: sender.clone(),
            number,
            left,
        })
    }

    /// The lane on which the sender has messages under way.
    pub(super) fn lane_of(&self, sender: &Sender) -> Option<LaneNumber> {
        self.0.lock().get(sender).map(|turn| turn.lane)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut turns = self.turns.0.lock();
        let Some(turn) = turns.get_mut(&self.sender) else {
            return;
        };
        turn.under_way = turn.under_way.saturating_sub(1);
        if turn.under_way == 0
            && let Some(turn) = turns.remove(&self.sender)
        {
            turn.left.notify.notify_waiters();
            if turns.is_empty() {
                turns.shrink_to_fit();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const fn fast(number: u64) -> LaneNumber {
        LaneNumber {
            number,
            is_fast: true,
        }
    }

    const ONE_BY_ONE: LaneNumber = LaneNumber {
        number: 9,
        is_fast: false,
    };

    #[test]
    fn a_sender_goes_on_another_lane_when_all_was_answered() {
        let turns = Arc::new(Turns::default());
        let sender = Sender::Connection(7);
        let enter = |lane| turns.enter(&sender, lane).now_or_never();
        let first = enter(fast(1)).unwrap();
        let second = enter(fast(1)).unwrap();
        assert_eq!(turns.lane_of(&sender), Some(fast(1)));
        let mut other = pin!(turns.enter(&sender, fast(2)));
        assert!((&mut other).now_or_never().is_none());
        drop(first);
        assert!((&mut other).now_or_never().is_none());
        drop(second);
        let third = other.now_or_never().unwrap();
        assert_eq!(turns.lane_of(&sender), Some(fast(2)));
        // Others do not wait for it.
        let other = Sender::Connection(8);
        assert!(turns.enter(&other, fast(1)).now_or_never().is_some());
        drop(third);
        assert_eq!(turns.lane_of(&sender), None);
    }

    #[test]
    fn what_was_handed_over_behind_a_failed_one_is_left_out() {
        let turns = Arc::new(Turns::default());
        let sender = Sender::Connection(7);
        let enter = |lane| turns.enter(&sender, lane).now_or_never();
        let [first, second] = [enter(fast(1)).unwrap(), enter(fast(1)).unwrap()];
        let others = turns.enter(&Sender::Connection(8), fast(1));
        let others = others.now_or_never().unwrap();
        assert!(!second.is_left_out());
        let mut waiting = pin!(turns.all_answered(&sender));
        assert_eq!((&mut waiting).now_or_never(), None);
        first.failed();
        drop(first);
        assert!(second.is_left_out() && !others.is_left_out());
        // Handed over later: a connection that has heard of it hands over no more.
        let third = enter(fast(1)).unwrap();
        assert!(!third.is_left_out());
        drop(third);
        drop(second);
        assert_eq!(waiting.now_or_never(), Some(false));
        let fourth = enter(fast(2)).unwrap();
        assert!(!fourth.is_left_out());
        drop(fourth);
        assert_eq!(turns.all_answered(&sender).now_or_never(), Some(true));
    }

    #[test]
    fn turns_on_a_lane_that_is_not_fast_are_one_by_one() {
        let turns = Arc::new(Turns::default());
        let sender = Sender::Slow("alice".into());
        let first = turns.enter(&sender, ONE_BY_ONE).now_or_never().unwrap();
        let mut second = pin!(turns.enter(&sender, ONE_BY_ONE));
        let mut third = pin!(turns.enter(&sender, ONE_BY_ONE));
        assert!((&mut second).now_or_never().is_none());
        assert!((&mut third).now_or_never().is_none());
        drop(first);
        let second = (&mut second).now_or_never().unwrap();
        assert!((&mut third).now_or_never().is_none());
        drop(second);
        assert!((&mut third).now_or_never().is_some());
    }
}
