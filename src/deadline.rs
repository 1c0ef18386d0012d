//! Moments in the future, however far: a configured time may be longer than the clock can count.

use std::time::Duration;

use tokio::time::Instant;

/// As good as never; tokio's own timers reach no further.
const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// The moment after this time from now.
pub(crate) fn after(time: Duration) -> Instant {
    later(Instant::now(), time)
}

/// The moment after this time from another one.
pub(crate) fn later(moment: Instant, time: Duration) -> Instant {
    // A clock that has no room for thirty years more is none.
    let far = || moment.checked_add(FAR);
    moment.checked_add(time).or_else(far).unwrap_or(moment)
}

/// A third of it: a lease's owner has three tries to renew it.
pub(crate) const fn third(time: Duration) -> Duration {
    match time.checked_div(3) {
        Some(third) => third,
        None => time,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn there_is_always_a_moment() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        assert_eq!(after(second), now + second);
        assert_eq!(later(now + second, second), now + 2 * second);
        assert_eq!(after(Duration::MAX), now + FAR);
    }
}
