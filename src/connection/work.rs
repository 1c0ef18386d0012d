//! A session's actions and their outcomes: one action after the other, with the broker's confirms
//! of messages awaited side by side.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context as TaskContext, Poll},
    time::Instant as StdInstant,
};

use futures_util::{
    FutureExt, StreamExt,
    future::{BoxFuture, ready, try_join_all},
    stream::FuturesUnordered,
};
use stomp_session::{
    Action, OperationId, Outcome, Problem, Renewed, Settle, SubscriptionId, Verdict,
};
use tokio::time::Instant;

use super::{
    ahead::{self, Ahead},
    context::{Context, Identity},
    echo::Echoes,
    mapping::{Asking, LookBack, Sending},
    rights::Subscriptions,
    route::{Dedicated, Route},
    withdrawing::Withdrawing,
};
use crate::{
    broker::{Confirm, Consume, Consumer, QueueSpec},
    hub::Mailbox,
    hub::Told,
    messaging::Confirming,
    presence::{Device, Status},
    telemetry::{self, TraceSpan},
};

/// The outcome of an action.
pub(super) enum Done {
    /// The answer to [`Action::Authenticate`].
    Authenticated(Result<NewLogin, Problem>),
    /// The credentials of an [`Action::Renew`] count, until then; what is to be done before its answer.
    Accepted(OperationId, Option<StdInstant>, BoxFuture<'static, Done>),
    /// The answer to [`Action::Renew`]; the subscriptions that are to be asked about after it.
    Renewed(OperationId, Result<Renewed, Problem>, Subscriptions),
    /// Subscriptions that the client has no right to any more, as was found out after a renewal's
    /// answer; those that are still to be asked about.
    AskedLater(Vec<(SubscriptionId, Problem)>, Subscriptions),
    /// The answer to [`Action::Subscribe`].
    Subscribed(
        OperationId,
        SubscriptionId,
        Result<(Route, Option<Told>), Problem>,
    ),
    /// Messages were handed to the broker, which has yet to confirm them.
    Handed(OperationId, Result<Handed, NotHanded>),
    /// The answer to [`Action::Unsubscribe`].
    Unsubscribed(OperationId, SubscriptionId, Result<Remains, Problem>),
    /// The answer to any other operation.
    Operation(OperationId, Outcome),
    /// The broker has heard of settlements, or may not have of one.
    Settled(OperationId, bool),
    /// The user's groups, which presence wants, and the device it is on; and how many orders to ask
    /// for groups again there were before the question.
    Groups(Vec<Arc<str>>, Option<Box<Device>>, u64),
}

/// The remains of a subscription that its client has ended.
pub(super) enum Remains {
    /// Nothing.
    Nothing,
    /// Its client may still acknowledge something.
    Retired(Box<Dedicated>),
    /// Its queue was deleted, with what its client may still acknowledge.
    Deleted,
}

/// The identity that a login proved, and what goes with it.
pub(super) struct NewLogin {
    pub(super) identity: Identity,
    /// The device that the client, or its token, named.
    pub(super) device: Option<Box<Device>>,
    /// When the login ends by itself, if it does.
    pub(super) until: Option<Instant>,
    /// The last numbered message that the broker has, if the client numbers them.
    pub(super) last_number: Option<u64>,
    /// How many rechecks of the node had begun before the hook was asked.
    pub(super) rechecks: u64,
}

/// What is awaited of a message.
pub(super) enum Awaited {
    /// The broker's confirm.
    Broker(Confirm),
    /// That it is written down, after the broker's confirm.
    Once(Confirming),
    /// Either, of a message whose trace is recorded.
    Traced(Box<Self>, TraceSpan),
}

impl Awaited {
    /// Whether the broker has the message; its answer is kept for [`Awaited::outcome`].
    pub(super) fn poll_taken(&mut self, context: &mut TaskContext<'_>) -> Poll<bool> {
        match self {
            Self::Broker(confirm) => confirm.poll_unpin(context).map(|outcome| {
                let is_taken = outcome.is_ok();
                *confirm = ready(outcome).boxed();
                is_taken
            }),
            Self::Traced(awaited, _) => awaited.poll_taken(context),
            // It stands by itself.
            Self::Once(_) => Poll::Pending,
        }
    }

    async fn outcome(self) -> Outcome {
        match self {
            Self::Broker(confirm) => confirm.await.map_err(Problem::from),
            Self::Once(confirming) => confirming.await,
            Self::Traced(awaited, span) => {
                let outcome = Box::pin(awaited.outcome()).await;
                span.end(outcome.as_ref().err().map(Problem::error_code));
                outcome
            }
        }
    }
}

/// The content of [`Done::Handed`].
pub(super) struct Handed {
    /// The broker's answers that are awaited.
    pub(super) confirms: Vec<Awaited>,
    /// It repeats a message that is at the broker, or under way; nothing was published.
    pub(super) is_repeat: bool,
    /// Queues that were declared.
    pub(super) declared: Vec<QueueSpec>,
    /// Queues for replies that were made.
    pub(super) replies: Vec<(SubscriptionId, Route)>,
    /// What the receipt says besides.
    pub(super) told: Option<Told>,
    /// That the broker hears of settlements for which the receipt waits.
    pub(super) heard: Option<Confirm>,
}

impl Handed {
    /// Of a message that is not published again.
    pub(super) fn repeat(confirms: Vec<Awaited>) -> Self {
        Self {
            confirms,
            is_repeat: true,
            declared: Vec::new(),
            replies: Vec::new(),
            told: None,
            heard: None,
        }
    }
}

/// Why messages were not handed to the broker.
pub(super) struct NotHanded {
    pub(super) problem: Problem,
    /// Subscriptions that were to be made for replies.
    pub(super) replies: Vec<SubscriptionId>,
}

/// One thing of an [`Action::Perform`], with all that is needed to do it.
pub(super) enum Task {
    /// Publish a message, after its queue is declared, if it asks for that; with the queue for
    /// replies to be made before, if it does not exist yet.
    Publish(Box<Sending>, Option<(SubscriptionId, Consume)>),
    /// Settle messages of a dedicated subscription.
    Settle(Arc<dyn Consumer>, Settle),
    /// Wait until the broker has heard of these settlements.
    Hear(Vec<(Arc<dyn Consumer>, u64)>),
    /// Tell presence how available the client is.
    Say(Status),
    /// Answer who is in a room, into the queue of that name; with the queue to be made before, if it
    /// does not exist yet.
    Ask(Box<Asking>, Option<(SubscriptionId, Consume)>, Box<str>),
    /// Give the client messages that a journal has kept, by a subscription which is taken back if
    /// it is refused, for there was none of that name before.
    History(Box<LookBack>, SubscriptionId, bool),
}

/// The actions whose questions may be asked ahead. Behind a renewal the answers may be others.
fn ahead_of_renewals(queue: &mut VecDeque<Queued>) -> impl Iterator<Item = &mut Queued> {
    let queued = queue.iter_mut().take(ahead::FRAMES);
    queued.take_while(|queued| !matches!(queued.action, Action::Renew(..)))
}

/// An action that waits for its turn.
struct Queued {
    action: Action,
    /// Whether it was looked at for questions to be asked ahead.
    is_looked_at: bool,
    ahead: Option<Box<Ahead>>,
}

/// The work of one connection; empty most of the time, and then not there at all.
#[derive(Default)]
pub(super) struct Work {
    queue: VecDeque<Queued>,
    /// The action that is being done.
    current: Option<BoxFuture<'static, Done>>,
    /// The operation that it is.
    current_operation: Option<OperationId>,
    /// Done, save that the broker has to confirm it; and what else need not be done in order.
    confirming: FuturesUnordered<BoxFuture<'static, Done>>,
    /// The questions that a renewal has left, and the first subscription that they are about.
    asking_later: Option<(SubscriptionId, BoxFuture<'static, Done>)>,
    /// Settlements for which nobody waits: of `ack:auto` messages, and of those given up.
    accepting: Vec<BoxFuture<'static, ()>>,
    /// Messages to settle once it is known how.
    later: Vec<(SubscriptionId, u64, Verdict)>,
    /// Messages that the client sends to itself.
    pub(super) echoes: Echoes,
    /// Orders to end subscriptions, until no operation before them is under way.
    pub(super) withdrawing: Vec<Withdrawing>,
}

impl Work {
    pub(super) fn push(&mut self, action: Action) {
        self.queue.push_back(Queued {
            action,
            is_looked_at: false,
            ahead: None,
        });
    }

    /// The action to begin next, unless another is being done; and its questions, if they were
    /// asked ahead.
    pub(super) fn next(&mut self) -> Option<(Action, Option<Box<Ahead>>)> {
        if self.current.is_some() {
            return None;
        }
        let queued = self.queue.pop_front()?;
        Some((queued.action, queued.ahead))
    }

    /// Has the questions of the next actions asked, while the one that is being done waits for the
    /// hook.
    pub(super) fn ask_ahead(&mut self, questions: impl Fn(&Action) -> Option<Ahead>) {
        for queued in ahead_of_renewals(&mut self.queue) {
            if !queued.is_looked_at {
                queued.is_looked_at = true;
                queued.ahead = questions(&queued.action).map(Box::new);
            }
        }
    }

    /// Goes on with the questions that are asked ahead.
    pub(super) fn poll_ahead(&mut self, context: &mut TaskContext<'_>) {
        for ahead in ahead_of_renewals(&mut self.queue) {
            if let Some(ahead) = &mut ahead.ahead {
                ahead.poll(context);
            }
        }
    }

    pub(super) fn begin(
        &mut self,
        operation: Option<OperationId>,
        future: BoxFuture<'static, Done>,
    ) {
        self.current = Some(future);
        self.current_operation = operation;
    }

    /// Forgets the operations from this one on of which the broker has not heard.
    pub(super) fn abandon(&mut self, from: OperationId, context: &Context) {
        let is_meant = |operation: Option<OperationId>| operation.is_some_and(|id| id >= from);
        self.queue
            .retain(|queued| !is_meant(queued.action.operation()));
        if is_meant(self.current_operation) && !context.is_handing() {
            self.current = None;
            self.current_operation = None;
        }
    }

    /// Forgets all operations of which the broker has not heard; the first of them.
    pub(super) fn abandon_all(&mut self, context: &Context) -> Option<OperationId> {
        let mut actions = self.queue.iter().map(|queued| &queued.action);
        let queued = actions.find_map(Action::operation);
        let current = self.current_operation.filter(|_| !context.is_handing());
        let first = current.or(queued)?;
        self.abandon(first, context);
        Some(first)
    }

    /// The operation that is being done, or is next.
    pub(super) fn first(&self) -> Option<OperationId> {
        let mut queued = self.queue.iter().map(|queued| &queued.action);
        self.current_operation
            .or_else(|| queued.find_map(Action::operation))
    }

    /// The operation that will be done last, of those that wait or are being done.
    pub(super) fn last(&self) -> Option<OperationId> {
        let mut queued = self.queue.iter().rev().map(|queued| &queued.action);
        queued
            .find_map(Action::operation)
            .or(self.current_operation)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
            && self.current.is_none()
            && self.confirming.is_empty()
            && !self.is_accepting()
    }

    /// True without operations under way. Questions that a renewal has left may be.
    pub(super) fn is_idle(&self) -> bool {
        self.is_empty() && self.withdrawing.is_empty()
    }

    /// True if there is nothing to come back to.
    pub(super) fn is_over(&self) -> bool {
        self.is_idle() && self.asking_later.is_none()
    }

    /// Asks the questions that a renewal has left, beside all else.
    pub(super) fn ask_later(&mut self, first: SubscriptionId, asking: BoxFuture<'static, Done>) {
        self.asking_later = Some((first, asking));
    }

    /// The first subscription that such questions are about.
    pub(super) fn asks_later(&self) -> Option<SubscriptionId> {
        let asking = self.asking_later.as_ref();
        asking.map(|(first, _)| *first)
    }

    /// Leaves them to another renewal.
    pub(super) fn stop_asking(&mut self) {
        self.asking_later = None;
    }

    /// Whether the broker has yet to confirm something.
    pub(super) fn is_confirming(&self) -> bool {
        !self.confirming.is_empty()
    }

    pub(super) fn is_accepting(&self) -> bool {
        !self.accepting.is_empty()
    }

    /// Goes on with settlements; returns true if one was done. Called before [`Work::poll`], which
    /// may end the consumer that they are about.
    pub(super) fn poll_accepting(&mut self, context: &mut TaskContext<'_>) -> bool {
        let before = self.accepting.len();
        self.accepting
            .retain_mut(|accepting| accepting.poll_unpin(context).is_pending());
        self.accepting.len() < before
    }

    pub(super) fn poll(&mut self, context: &mut TaskContext<'_>) -> Poll<Done> {
        // First: after a message that was not published, none is begun.
        if let Poll::Ready(Some(done)) = self.confirming.poll_next_unpin(context) {
            return Poll::Ready(done);
        }
        if let Some(current) = &mut self.current
            && let Poll::Ready(done) = current.poll_unpin(context)
        {
            self.current = None;
            self.current_operation = None;
            return Poll::Ready(done);
        }
        if let Some((_, asking)) = &mut self.asking_later
            && let Poll::Ready(done) = asking.poll_unpin(context)
        {
            self.asking_later = None;
            return Poll::Ready(done);
        }
        Poll::Pending
    }

    /// Waits for the confirmations of an operation, and for what of it comes back, beside all
    /// others.
    pub(super) fn confirm(&mut self, operation: OperationId, confirms: Vec<Awaited>) {
        let echo = self.echoes.wait(operation);
        let confirming = async move {
            let outcomes = confirms.into_iter().map(Awaited::outcome);
            let outcome = try_join_all(outcomes).await.map(drop);
            if outcome.is_ok()
                && let Some(echo) = echo
            {
                echo.await;
            }
            Done::Operation(operation, outcome)
        };
        self.confirming.push(confirming.boxed());
    }

    /// Waits for the broker to hear of a settlement, beside all else.
    pub(super) fn confirm_settled(&mut self, operation: OperationId, heard: Confirm) {
        let hearing = async move { Done::Settled(operation, heard.await.is_ok()) };
        self.confirming.push(hearing.boxed());
    }

    /// Does this beside all else, in no order.
    pub(super) fn beside(&mut self, future: BoxFuture<'static, Done>) {
        self.confirming.push(future);
    }

    /// Accepts what was written to an `ack:auto` subscription, up to `tag`.
    pub(super) fn accept(
        &mut self,
        mailbox: &Mailbox,
        subscription: SubscriptionId,
        route: &Dedicated,
        tag: u64,
    ) {
        // Now: messages that are asked for again meanwhile are requeued behind it.
        let settling = mailbox.settling(subscription, tag, true);
        let consumer = Arc::clone(route.consumer());
        let accepting = async move {
            let accepted = settling.carry_out(&*consumer, (tag, true), Verdict::Accept);
            if let Err(error) = accepted.await {
                telemetry::acknowledging_failed(&error);
            }
        };
        self.accepting.push(accepting.boxed());
    }

    /// Settles one message of which its client says nothing. Nobody needs to know if it is stale: the
    /// broker has all of its subscription again, and the mailbox is told that.
    pub(super) fn settle(&mut self, route: &Dedicated, tag: u64, verdict: Verdict) {
        let consumer = Arc::clone(route.consumer());
        let settling = async move {
            if let Err(error) = consumer.settle(tag, false, verdict).await {
                telemetry::settling_failed(&error);
            }
        };
        self.accepting.push(settling.boxed());
    }

    /// The same, of a subscription of which the broker has not said yet that it is open.
    pub(super) fn settle_later(
        &mut self,
        subscription: SubscriptionId,
        tag: u64,
        verdict: Verdict,
    ) {
        self.later.push((subscription, tag, verdict));
    }

    pub(super) fn take_later(&mut self) -> Vec<(SubscriptionId, u64, Verdict)> {
        std::mem::take(&mut self.later)
    }
}
