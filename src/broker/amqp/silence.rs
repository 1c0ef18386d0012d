//! Whether a queue is silent, or the connection that it was asked for on is slow.
//!
//! RabbitMQ 4.3 says nothing of a queue whose node is down, for a minute and more. On a slow link an
//! answer may be as late, for it stands behind everything that was delivered before. So when an answer
//! is late, something else is asked on the same connection, whose answer stands behind it: only if
//! that one comes first, the queue is silent. Another connection tells nothing; nor does the end of
//! somebody's patience.

use std::{pin::pin, time::Duration};

use tokio::time::{Instant, timeout, timeout_at};

use super::{convert::broker_error, link::Live};
use crate::{
    broker::{BrokerError, Cause},
    deadline::{after, later},
};

/// How long RabbitMQ may take to say something of a queue. For one whose node is down, 4.3 takes more
/// than a minute.
pub(super) const QUESTION: Duration = Duration::from_secs(5);

/// How long a slow connection may take to answer anything: for as long as it lives, which heart-beats
/// find out.
const SLOW: Duration = Duration::from_secs(60 * 60);

/// How long two answers may be apart that the broker gives at once, for it reads both questions at the
/// end of an alarm: each channel has a process of its own there.
const BESIDE: Duration = Duration::from_secs(1);

/// Said of a queue that the broker does not answer for, though it answers for others.
pub(super) fn silent() -> Cause {
    Cause::silence("the broker does not answer for the queue")
}

/// What `call` says, after `deadline`, too, while its connection is slow. `other` is a call on the same
/// connection, which is begun then.
///
/// # Errors
/// [`silent`]: `other` was answered first, and `call` not soon after. The error of `other`, if it has
/// one.
pub(super) async fn unless_silent<T>(
    deadline: Instant,
    call: impl Future<Output = T>,
    other: impl Future<Output = Result<(), BrokerError>>,
) -> Result<T, BrokerError> {
    let mut call = pin!(call);
    if let Ok(outcome) = timeout_at(deadline, &mut call).await {
        return Ok(outcome);
    }
    let answered = tokio::select! {
        biased;
        outcome = &mut call => return Ok(outcome),
        answered = other => answered,
    };
    if let Ok(outcome) = timeout(BESIDE, call).await {
        return Ok(outcome);
    }
    answered?;
    Err(BrokerError::Unavailable(silent()))
}

/// The broker's answer to a question about a queue, however late, for nobody waits who has a deadline
/// of its own.
///
/// # Errors
/// As [`unless_silent`]; and the broker's own.
pub(super) async fn answer_for_queue<T>(
    live: &Live,
    deadline: Instant,
    call: impl Future<Output = lapin::Result<T>>,
) -> Result<T, BrokerError> {
    answer_until(live, (deadline, after(SLOW)), call).await
}

/// The same for a caller that waits: it hears by `deadline`, or not much later.
///
/// # Errors
/// As [`answer_for_queue`]; and that the connection answers nothing at all.
pub(super) async fn answer_soon_for_queue<T>(
    live: &Live,
    deadline: Instant,
    call: impl Future<Output = lapin::Result<T>>,
) -> Result<T, BrokerError> {
    answer_until(live, (deadline, later(deadline, QUESTION)), call).await
}

async fn answer_until<T>(
    live: &Live,
    (deadline, last): (Instant, Instant),
    call: impl Future<Output = lapin::Result<T>>,
) -> Result<T, BrokerError> {
    let other = async { live.channel(last).await.map(drop) };
    let answered = unless_silent(deadline, call, other).await?;
    answered.map_err(|error| broker_error(&error))
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, ready},
        sync::Arc,
    };

    use tokio::time::sleep;

    use super::*;
    use crate::broker::{
        QueueSpec,
        amqp::{link::AmqpLink, stub::Stub, topology},
    };

    /// A call that is answered after so many seconds.
    async fn after_seconds(seconds: u64) -> Result<(), BrokerError> {
        after_time(Duration::from_secs(seconds)).await
    }

    async fn after_time(time: Duration) -> Result<(), BrokerError> {
        sleep(time).await;
        Ok(())
    }

    /// How long callers wait.
    const PATIENCE: Duration = Duration::from_millis(1_500);

    /// As at the end of an alarm, or behind many messages.
    #[tokio::test]
    async fn a_queue_that_is_answered_for_late_on_a_slow_link_is_no_suspect() {
        let stub = Stub::of_queues(2047).await;
        let config = stub.config();
        let quarantine = Arc::clone(&config.quarantine);
        let link = AmqpLink::start(config);
        let live = link.wait().await;
        let queue = QueueSpec {
            name: "q".into(),
            ..QueueSpec::default()
        };
        let declaring = topology::declare_queue(&live, &queue, after(PATIENCE));
        let declared = stub.held_back(live.asking("q", declaring)).await;
        assert_eq!(declared, Ok(()));
        let deleting = topology::delete_queue(&live, "q", false, after(PATIENCE));
        let deleted = stub.held_back(live.asking("q", deleting)).await;
        assert_eq!(deleted, Ok(()));
        assert!(!quarantine.is_suspect("q"));
    }

    #[tokio::test]
    async fn a_queue_that_is_not_answered_for_on_a_good_link_is_a_suspect() {
        let stub = Stub::start(2047, false).await;
        let config = stub.config();
        let quarantine = Arc::clone(&config.quarantine);
        let link = AmqpLink::start(config);
        let live = link.wait().await;
        let deleting = topology::delete_queue(&live, "q", false, after(PATIENCE));
        let deleted = live.asking("q", deleting).await;
        assert!(matches!(deleted, Err(BrokerError::QueueFailed(_))));
        assert!(quarantine.is_suspect("q"));
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
        // At the end of an alarm both are answered at once.
        let beside = after_time(Duration::from_millis(60_500));
        let alarmed = unless_silent(soon(), beside, after_seconds(60)).await;
        assert_eq!(alarmed, Ok(Ok(())));
        let silent = unless_silent(soon(), pending::<()>(), after_seconds(60)).await;
        assert_eq!(silent, Err(BrokerError::Unavailable(super::silent())));
        let ended = unless_silent(soon(), pending::<()>(), ready(Err(lost()))).await;
        assert_eq!(ended, Err(lost()));
    }
}
