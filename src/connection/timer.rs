//! The one timer of a connection, and the strokes that the timers of all connections keep to.

use std::{pin::Pin, time::Duration};

use tokio::time::{Instant, Sleep};

use crate::deadline::after;

/// The distance of the strokes. An eighth of the shortest interval that is moved to one: as early
/// as a session writes a heart-beat.
const STROKE: Duration = Duration::from_millis(100);
/// A moment before this stays where it is.
const SOON: Duration = Duration::from_millis(800);
/// The time of a timer with nothing to wait for: one that is over would fire for ever.
const NEVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Has the timer fire when it is `due`, or a little earlier. A timer that fires early does no harm,
/// and to move it at every frame would cost more: so it is moved to a later time only when it has
/// fired. `started` is what strokes count from.
pub(super) fn set(mut timer: Pin<&mut Sleep>, due: Option<Instant>, started: Instant) {
    let due = due.map(|due| on_stroke(due, started));
    if timer.is_elapsed() {
        timer.as_mut().reset(due.unwrap_or_else(|| after(NEVER)));
    } else if let Some(due) = due.filter(|due| *due < timer.deadline()) {
        timer.as_mut().reset(due);
    }
}

/// The last stroke before `due`, so that many connections' heart-beats are written in one wake-up
/// of a thread. A moment so soon that its stroke may be too early for the session stays where it
/// is: otherwise the session would be asked again and again.
fn on_stroke(due: Instant, started: Instant) -> Instant {
    if due < after(SOON) {
        return due;
    }
    let nanoseconds = due.saturating_duration_since(started).as_nanos();
    let late = nanoseconds.checked_rem(STROKE.as_nanos()).unwrap_or(0);
    let late = Duration::from_nanos(u64::try_from(late).unwrap_or(0));
    due.checked_sub(late).unwrap_or(due)
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use tokio::time::sleep_until;

    use super::*;

    fn milliseconds(number: u64) -> Duration {
        Duration::from_millis(number)
    }

    #[tokio::test(start_paused = true)]
    async fn it_fires_early_rather_than_late_and_on_a_stroke() {
        let started = Instant::now();
        let mut timer = pin!(sleep_until(started));
        timer.as_mut().await;
        let mut set = |due: u64| {
            set(timer.as_mut(), Some(started + milliseconds(due)), started);
            timer.deadline() - started
        };
        assert_eq!(set(25_070), milliseconds(25_000));
        // Sooner: it is moved. Later: it fires, and is set again then.
        assert_eq!(set(10_099), milliseconds(10_000));
        assert_eq!(set(30_000), milliseconds(10_000));
        // Too soon for a stroke.
        assert_eq!(set(799), milliseconds(799));
    }

    #[tokio::test(start_paused = true)]
    async fn with_nothing_to_wait_for_it_rests() {
        let started = Instant::now();
        let mut timer = pin!(sleep_until(started));
        timer.as_mut().await;
        set(timer.as_mut(), None, started);
        assert_eq!(timer.deadline() - started, NEVER);
    }
}
