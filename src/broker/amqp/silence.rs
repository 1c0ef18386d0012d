//! Whether a queue is silent, or the connection that it was asked for on is slow.
//!
//! RabbitMQ 4.3 says nothing of a queue whose node is down, for a minute and more. On a slow link an
//! answer may be as late, for it stands behind everything that was delivered before. So when an answer
//! is late, something else is asked on the same connection, whose answer stands behind it: only if
//! that one comes first, the queue is silent. Another connection tells nothing.

use std::{pin::pin, time::Duration};

use tokio::time::{Instant, timeout_at};

use super::{convert::broker_error, link::Live};
use crate::{
    broker::{BrokerError, Cause},
    deadline::after,
};

/// How long RabbitMQ may take to say something of a queue. For one whose node is down, 4.3 takes more
/// than a minute.
pub(super) const QUESTION: Duration = Duration::from_secs(5);

/// How long a slow connection may take to answer anything: for as long as it lives, which heart-beats
/// find out.
const SLOW: Duration = Duration::from_secs(60 * 60);

/// Said of a queue that the broker does not answer for, though it answers for others.
pub(super) fn silent() -> Cause {
    "the broker does not answer for the queue".into()
}

/// What `call` says, after `deadline`, too, while its connection is slow. `other` is a call on the same
/// connection, which is begun then.
///
/// # Errors
/// [`silent`]: `other` was answered first. Its error, if it has one.
pub(super) async fn unless_silent<T>(
    deadline: Instant,
    call: impl Future<Output = T>,
    other: impl Future<Output = Result<(), BrokerError>>,
) -> Result<T, BrokerError> {
    let mut call = pin!(call);
    if let Ok(outcome) = timeout_at(deadline, &mut call).await {
        return Ok(outcome);
    }
    tokio::select! {
        biased;
        outcome = call => Ok(outcome),
        answered = other => {
            answered?;
            Err(BrokerError::Unavailable(silent()))
        }
    }
}

/// The broker's answer to a question about a queue.
///
/// # Errors
/// As [`unless_silent`]; and the broker's own.
pub(super) async fn answer_for_queue<T>(
    live: &Live,
    deadline: Instant,
    call: impl Future<Output = lapin::Result<T>>,
) -> Result<T, BrokerError> {
    let other = async { live.channel(after(SLOW)).await.map(drop) };
    let answered = unless_silent(deadline, call, other).await?;
    answered.map_err(|error| broker_error(&error))
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::time::sleep;

    use super::*;

    /// A call that is answered after so many seconds.
    async fn after_seconds(seconds: u64) -> Result<(), BrokerError> {
        sleep(Duration::from_secs(seconds)).await;
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_is_silent_only_beside_another_answer() {
        let lost = || BrokerError::Unavailable("lost".into());
        let soon = || after(Duration::from_secs(5));
        let in_time = unless_silent(soon(), after_seconds(4), ready(Ok(()))).await;
        assert_eq!(in_time, Ok(Ok(())));
        // The connection is slow: its answers come in their order.
        let slow = unless_silent(soon(), after_seconds(60), after_seconds(60)).await;
        assert_eq!(slow, Ok(Ok(())));
        let silent = unless_silent(soon(), pending::<()>(), after_seconds(60)).await;
        assert_eq!(silent, Err(BrokerError::Unavailable(super::silent())));
        let ended = unless_silent(soon(), pending::<()>(), ready(Err(lost()))).await;
        assert_eq!(ended, Err(lost()));
    }
}
