//! A link that was lost without a word: did the broker start anew meanwhile (pure)?

use std::time::Duration;

use tokio::time::Instant;

use crate::broker::BrokerError;

/// No broker is killed, starts anew and is reached within this time: RabbitMQ takes some seconds.
const SOONEST: Duration = Duration::from_secs(2);

/// Since when a feed or a consumer is cut off.
#[derive(Default)]
pub(super) struct Cut(Option<Instant>);

impl Cut {
    /// Its messages ended with this error, or did not begin again; true if that is a cut. What the broker
    /// had announced, as when it is stopped in good order, is none.
    pub(super) fn begins(&mut self, error: &BrokerError, now: Instant) -> bool {
        let is_cut = matches!(error, BrokerError::Unavailable(cause) if cause.is_abrupt());
        if is_cut && self.0.is_none() {
            self.0 = Some(now);
        }
        is_cut
    }

    /// Its link is back; true if the broker may have started anew since the cut.
    pub(super) fn ends(&mut self, now: Instant) -> bool {
        let began = self.0.take();
        began.is_some_and(|at| now.saturating_duration_since(at) >= SOONEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::Cause;

    #[test]
    fn only_a_long_cut_without_a_word_may_be_a_new_broker() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let error = |cause| BrokerError::Unavailable(cause);
        let abrupt = error(Cause::abrupt("Connection reset by peer"));
        for (first, next, away, expected) in [
            (abrupt.clone(), abrupt.clone(), 5 * second, true),
            (abrupt.clone(), abrupt.clone(), second / 2, false),
            // It is refused while it starts.
            (
                abrupt.clone(),
                error(Cause::foreign("refused")),
                5 * second,
                true,
            ),
            (
                error(Cause::foreign("CONNECTION_FORCED")),
                error("x".into()),
                5 * second,
                false,
            ),
            (
                BrokerError::Cancelled("queue".into()),
                error("x".into()),
                5 * second,
                false,
            ),
        ] {
            let mut cut = Cut::default();
            assert_eq!(cut.begins(&first, now), first == abrupt, "{first:?}");
            assert_eq!(
                cut.begins(&next, now + away / 2),
                next == abrupt,
                "{next:?}"
            );
            assert_eq!(
                cut.ends(now + away),
                expected,
                "{first:?} {next:?} {away:?}"
            );
            assert!(!cut.ends(now + 2 * away), "it is told once");
        }
    }
}
