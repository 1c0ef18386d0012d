//! Waiting for conditions.

use std::{future::Future, panic::Location, time::Duration};

use tokio::time::{Instant, sleep, timeout};

/// How long tests wait for what should happen soon. Generous, since machines that build and test
/// at once are slow; a test that passes never waits so long.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Between two looks at a condition; first, and when it was looked at a few times: many looks are
/// requests, which would keep a server busy that others wait for.
const INTERVALS: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(50)];
const FIRST: usize = 20;

/// An answer of a condition: `bool`, or an `Option` of the awaited value.
pub trait Condition {
    /// The answer of [`eventually`] when the condition holds.
    type Output;
    /// `Some` if it holds.
    fn holds(self) -> Option<Self::Output>;
}

impl Condition for bool {
    type Output = ();
    fn holds(self) -> Option<()> {
        self.then_some(())
    }
}

impl<T> Condition for Option<T> {
    type Output = T;
    fn holds(self) -> Self {
        self
    }
}

/// Waits until `condition` holds, asking it again and again.
///
/// # Panics
/// It does not hold within `deadline`; the message says `what` was waited for, and where.
#[track_caller]
pub fn eventually<C: Condition>(
    deadline: Duration,
    what: impl Into<String>,
    mut condition: impl AsyncFnMut() -> C,
) -> impl Future<Output = C::Output> {
    let at = Location::caller();
    let what = what.into();
    async move {
        let end = Instant::now() + deadline;
        let mut looks = 0;
        loop {
            if let Some(found) = condition().await.holds() {
                return found;
            }
            assert!(
                Instant::now() < end,
                "{at}: not within {deadline:?}: {what}"
            );
            looks += 1;
            sleep(INTERVALS[usize::from(looks > FIRST)]).await;
        }
    }
}

/// Waits for `future`.
///
/// # Panics
/// It is not ready within `deadline`; the message says `what` was waited for, and where.
#[track_caller]
pub fn within<T>(
    deadline: Duration,
    what: impl Into<String>,
    future: impl Future<Output = T>,
) -> impl Future<Output = T> {
    let at = Location::caller();
    let what = what.into();
    async move {
        timeout(deadline, future)
            .await
            .unwrap_or_else(|_| panic!("{at}: not within {deadline:?}: {what}"))
    }
}
