//! Asking: every question is bounded in time, and its time is known.

use std::{future::Future, time::Duration};

use tokio::time::{Instant, timeout};

/// How long a question may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// The answer, if it came in time; and the time that it took.
pub(super) async fn ask<T>(question: impl Future<Output = T>) -> (Option<T>, Duration) {
    let (answer, time) = timed(timeout(PATIENCE, question)).await;
    (answer.ok(), time)
}

/// The answer to what has bounds of its own, and the time that it took.
pub(super) async fn timed<T>(question: impl Future<Output = T>) -> (T, Duration) {
    let begun = Instant::now();
    let answer = question.await;
    (answer, begun.elapsed())
}

/// The words for a question without an answer.
pub(super) fn late() -> String {
    format!("did not answer within {PATIENCE:?}")
}
