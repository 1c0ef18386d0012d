//! ACK and NACK at the broker: what a RECEIPT may say of them, and what a COMMIT with them may do.
//!
//! A settlement has no answer, and a lost link takes those along that the broker has not read: it
//! has their messages again. So what depends on one waits for an answer to a question behind it.

use std::sync::Arc;

use futures_util::{FutureExt, future::try_join_all};
use stomp_session::{Problem, Settle, Stake};

use super::work::Task;
use crate::{
    broker::{BrokerError, Confirm, Consumer, Settled},
    hub::Mailbox,
};

/// What is owed after a settlement.
pub(super) enum Owed {
    /// Nothing.
    Done,
    /// The receipt says that the message is not settled.
    Unsettled,
    /// The receipt waits for this.
    Receipt(Confirm),
    /// The transaction waits for it to be heard.
    Commit((Arc<dyn Consumer>, u64)),
}

/// Said in a COMMIT whose messages are at the broker in part.
const CUT: &str = "the link was lost while the transaction was handed over: the broker may have \
                   taken a part of it";

/// Whether everything that a transaction settles can be, before anything of it is done.
pub(super) fn check(tasks: &[Task]) -> Result<(), Problem> {
    let is_stale = |task: &Task| match task {
        Task::Settle(consumer, settle) => {
            settle.stake == Stake::Commit && !holds_all(&**consumer, settle)
        }
        _ => false,
    };
    match tasks.iter().any(is_stale) {
        true => Err(Problem::TakenBack),
        false => Ok(()),
    }
}

/// Whether every message of a settlement can be settled. Tags only grow, and a lost link takes all
/// of before: so no more than the first and the last need be looked at.
fn holds_all(consumer: &dyn Consumer, settle: &Settle) -> bool {
    consumer.holds(settle.first) && consumer.holds(settle.tag)
}

/// Settles what a client settles.
pub(super) async fn settle(
    mailbox: &Mailbox,
    consumer: Arc<dyn Consumer>,
    settle: Settle,
) -> Result<Owed, Problem> {
    // Later, those that this settles are held no more.
    let is_whole = holds_all(&*consumer, &settle);
    let Settle {
        subscription,
        tag,
        multiple,
        verdict,
        stake,
        ..
    } = settle;
    let settling = mailbox.settle(subscription, &*consumer, (tag, multiple), verdict);
    let settled = settling.await?;
    match (stake, settled) {
        (Stake::Nothing, _) => Ok(Owed::Done),
        (Stake::Receipt, Settled::Told) if is_whole => Ok(Owed::Receipt(consumer.heard(tag))),
        (Stake::Receipt, _) => Ok(Owed::Unsettled),
        (Stake::Commit, Settled::Told) if is_whole => Ok(Owed::Commit((consumer, tag))),
        (Stake::Commit, _) => Err(BrokerError::Unavailable(CUT.into()).into()),
    }
}

/// Asks for each consumer once, behind the last of its settlements: by the first tag, whose channel
/// may have ended.
pub(super) fn heard(settled: Vec<(Arc<dyn Consumer>, u64)>) -> Vec<Confirm> {
    let mut last: Vec<(Arc<dyn Consumer>, u64)> = Vec::new();
    for (consumer, tag) in settled {
        match last
            .iter_mut()
            .find(|(other, _)| Arc::ptr_eq(other, &consumer))
        {
            Some((_, other)) => *other = tag.min(*other),
            None => last.push((consumer, tag)),
        }
    }
    let confirms = last.into_iter().map(|(consumer, tag)| consumer.heard(tag));
    confirms.collect()
}

/// The same, for a receipt.
pub(super) fn all_heard(settled: Vec<(Arc<dyn Consumer>, u64)>) -> Confirm {
    try_join_all(heard(settled))
        .map(|outcome| outcome.map(drop))
        .boxed()
}
