//! Asking the hook again about sessions that last, where `auth.recheck` is on: a refusal ends the
//! session, and a hook that is at fault takes nothing from anybody.

use std::{
    collections::BTreeSet,
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use tokio::time::{MissedTickBehavior, interval};

use crate::background;

use super::{logged_in::LoggedIn, registry::Registry, settings::Recheck};

/// Asks the hook about every session that is logged in, each once in the interval, evenly; for as
/// long as the registry is there. Without an interval nothing is asked.
pub async fn recheck_in_turn(registry: Weak<Registry>, recheck: Recheck) {
    let Some(interval_of_all) = recheck.interval else {
        return;
    };
    let (turns, tick) = turns(interval_of_all);
    let mut ticks = interval(tick);
    // A hook that is slow is asked less often.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for turn in (0..turns).cycle() {
        ticks.tick().await;
        let Some(registry) = registry.upgrade() else {
            return;
        };
        // A connection's number is random, and stays: so its turn comes once in the interval.
        let sessions = registry.sessions(|number| number.checked_rem(turns) == Some(turn));
        drop(registry);
        recheck_some(sessions, recheck.at_a_time).await;
    }
}

/// Asks again about the sessions of these users, in the background: something has changed for
/// them. Those that are refused now end.
pub fn recheck_users(registry: &Registry, users: &BTreeSet<Box<str>>, recheck: Recheck) {
    registry.begin_recheck();
    let mut sessions = registry.sessions(|_| true);
    sessions.retain(|session| session.user().is_some_and(|user| users.contains(user)));
    if !sessions.is_empty() {
        background::spawn(recheck_some(sessions, recheck.at_a_time));
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

/// Asks the hook about these sessions, some at a time.
///
/// A session that waits for its turn is held weakly: if it ends meanwhile, it gives its place back
/// at once, however slow the hook is.
pub(super) async fn recheck_some(sessions: Vec<Arc<dyn LoggedIn>>, at_a_time: usize) {
    let sessions = sessions.into_iter();
    let sessions: Vec<_> = sessions.map(|session| Arc::downgrade(&session)).collect();
    let asking = stream::iter(sessions).for_each_concurrent(
        at_a_time,
        async |session: Weak<dyn LoggedIn>| {
            if let Some(session) = session.upgrade() {
                session.recheck().await;
            }
        },
    );
    asking.await;
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
}
