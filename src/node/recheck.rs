//! Asking the hook again about sessions that last, where `auth.recheck` is on: a refusal ends the
//! session, and a hook that is at fault takes nothing from anybody.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::{
    FutureExt, StreamExt,
    future::{BoxFuture, join_all},
    stream::FuturesUnordered,
};
use tokio::{
    sync::Semaphore,
    time::{MissedTickBehavior, interval},
};

use crate::{background, telemetry};

use super::{
    logged_in::LoggedIn,
    recheck_place::{RecheckPlace, places},
    registry::Registry,
    settings::Recheck,
};

/// For each recheck that asks the hook so many are under way, most of which have given way.
const UNDER_WAY: usize = 16;

/// The places of rechecks that share the hook.
struct Rechecks {
    /// For those that ask it.
    asking: Arc<Semaphore>,
    /// For those that have begun: each keeps in memory what it is to ask about.
    under_way: Arc<Semaphore>,
    /// The same of each user: one with many sessions stands in nobody's way.
    of_users: HashMap<Box<str>, Weak<Semaphore>>,
    of_a_user: usize,
    /// What each may spend on subscriptions.
    time: Duration,
    /// The subscriptions that they left to the next rechecks.
    left: Arc<AtomicU64>,
}

impl Rechecks {
    fn new(recheck: Recheck, time: Duration) -> Self {
        Self {
            asking: places(recheck.at_a_time),
            under_way: places(recheck.at_a_time.saturating_mul(UNDER_WAY)),
            of_users: HashMap::new(),
            of_a_user: recheck.of_a_user,
            time,
            left: Arc::default(),
        }
    }

    /// Asks the hook about a session, when there is a place.
    ///
    /// A session that waits for one is held weakly: if it ends meanwhile, it gives its place on the
    /// node back at once, however slow the hook is.
    fn begin(&mut self, session: &Arc<dyn LoggedIn>) -> impl Future<Output = ()> + use<> {
        let of_user = self.of_user(session.user().unwrap_or_default());
        let under_way = Arc::clone(&self.under_way);
        let (asking, left) = (Arc::clone(&self.asking), Arc::clone(&self.left));
        let mut place = RecheckPlace::among(asking, self.time, left);
        let session = Arc::downgrade(session);
        async move {
            // Nobody closes the semaphores. The user's own comes first: whoever waits there has no
            // place that others need.
            let _of_user = of_user.acquire().await;
            let _under_way = under_way.acquire().await;
            place.give_way().await;
            let Some(session) = session.upgrade() else {
                return;
            };
            session.recheck(place).await;
        }
    }

    fn of_user(&mut self, user: &str) -> Arc<Semaphore> {
        if let Some(places) = self.of_users.get(user).and_then(Weak::upgrade) {
            return places;
        }
        let places = places(self.of_a_user);
        self.of_users.insert(user.into(), Arc::downgrade(&places));
        places
    }

    /// Forgets the users of whom no recheck is left.
    fn forget_users(&mut self) {
        self.of_users.retain(|_, places| places.strong_count() > 0);
    }
}

/// Asks the hook about every session that is logged in, each once in the interval, evenly; for as
/// long as the registry is there. Without an interval nothing is asked.
///
/// A session about which a recheck still asks when its turn comes again is passed over: a hook that
/// is slow is asked less often. The others do not wait for it, unless so many are slow that they have
/// all places: each has left its own after half the interval.
pub async fn recheck_in_turn(registry: Weak<Registry>, recheck: Recheck) {
    let Some(interval_of_all) = recheck.interval else {
        return;
    };
    let (turns, tick) = turns(interval_of_all);
    let mut ticks = interval(tick);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The rest is for waiting, and for the login's own questions.
    let mut rechecks = Rechecks::new(recheck, interval_of_all.div_f64(2.0));
    let mut asking = FuturesUnordered::<BoxFuture<'static, Box<str>>>::new();
    let mut asked_about = HashSet::<Box<str>>::new();
    let mut passed_over = 0_u64;
    for turn in (0..turns).cycle() {
        loop {
            tokio::select! {
                _ = ticks.tick() => break,
                Some(id) = asking.next() => {
                    asked_about.remove(&id);
                }
            }
        }
        let Some(registry) = registry.upgrade() else {
            return;
        };
        if turn == 0 {
            let left = rechecks.left.swap(0, Relaxed);
            if passed_over > 0 || left > 0 {
                telemetry::rechecks_late(passed_over, left);
            }
            passed_over = 0;
        }
        rechecks.forget_users();
        // A connection's number is random, and stays: so its turn comes once in the interval.
        for session in registry.sessions(|number| number.checked_rem(turns) == Some(turn)) {
            let id: Box<str> = session.id().into();
            if !asked_about.insert(id.clone()) {
                passed_over = passed_over.saturating_add(1);
                continue;
            }
            let asks = rechecks.begin(&session);
            asking.push(asks.map(|()| id).boxed());
        }
    }
}

/// Asks again about the sessions of these users, in the background: something has changed for
/// them. Those that are refused now end.
pub fn recheck_users(registry: &Registry, users: &BTreeSet<Box<str>>, recheck: Recheck) {
    registry.begin_recheck();
    let mut sessions = registry.sessions(|_| true);
    sessions.retain(|session| session.user().is_some_and(|user| users.contains(user)));
    if !sessions.is_empty() {
        background::spawn(recheck_some(sessions, recheck));
    }
}

/// How many turns there are in an interval, and what is between two.
fn turns(interval: Duration) -> (u64, Duration) {
    const MOST: u64 = 100;
    const SHORTEST: Duration = Duration::from_millis(100);
    let turns = interval
        .as_millis()
        .checked_div(SHORTEST.as_millis())
        .unwrap_or(1);
    let turns = u64::try_from(turns).unwrap_or(MOST).clamp(1, MOST);
    (turns, interval.div_f64(turns as f64))
}

/// Asks the hook about these sessions, some at a time, and about all that each has.
pub(super) async fn recheck_some(sessions: Vec<Arc<dyn LoggedIn>>, recheck: Recheck) {
    let mut rechecks = Rechecks::new(recheck, Duration::MAX);
    let asking = sessions
        .into_iter()
        .map(|session| rechecks.begin(&session))
        .collect::<Vec<_>>();
    join_all(asking).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_even_and_not_too_many() {
        for (interval, turns_expected, tick) in [
            (1_000, 10, 100),
            (1_050, 10, 105),
            (30_000, 100, 300),
            (3_600_000, 100, 36_000),
        ] {
            let (turns, every) = turns(Duration::from_millis(interval));
            assert_eq!(turns, turns_expected);
            assert_eq!(every, Duration::from_millis(tick));
        }
        assert_eq!(turns(Duration::MAX).0, 100);
    }

    #[test]
    fn a_user_s_places_are_there_while_somebody_needs_them() {
        let mut rechecks = Rechecks::new(
            Recheck {
                interval: None,
                at_a_time: usize::MAX,
                of_a_user: 2,
            },
            Duration::MAX,
        );
        let of_alice = rechecks.of_user("alice");
        drop(rechecks.of_user("bob"));
        rechecks.forget_users();
        assert_eq!(rechecks.of_users.len(), 1);
        assert!(Arc::ptr_eq(&of_alice, &rechecks.of_user("alice")));
    }
}
