//! What a session asks for, done in order: one action after the other, with the broker's
//! confirmations of messages awaited side by side.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context as TaskContext, Poll},
};

use futures_util::{
    FutureExt, StreamExt,
    future::{BoxFuture, try_join_all},
    stream::FuturesUnordered,
};
use stomp_session::{
    Action, Connect, OperationId, Outcome, Problem, Settle, Subscribe, SubscriptionId, Unsubscribe,
    Verdict,
};

use super::{
    admission,
    context::{Context, Identity},
    echo::Echoes,
    login,
    mapping::{self, Plan, Sending},
    permission::Permissions,
    rights::Right,
};
use crate::{
    auth::Carried,
    broker::{BrokerError, Confirm, Consume, Consumer, destination::Destination},
    hub::{DedicatedSink, Mailbox, SharedSubscription},
    presence::{Device, Status},
    telemetry::{self, DedicatedSubscriptionCounted},
};

/// How a subscription of this connection is served.
pub(super) enum Route {
    /// By a feed; ends when it is dropped.
    Shared(SharedSubscription),
    /// By a consumer of its own.
    Dedicated(Box<Dedicated>),
}

/// A dedicated subscription.
pub(super) struct Dedicated {
    consumer: Arc<dyn Consumer>,
    request: Consume,
    /// Whether messages are settled when they are written, rather than by the client.
    pub(super) is_auto: bool,
    _counted: DedicatedSubscriptionCounted,
}

/// What became of an action.
pub(super) enum Done {
    /// The answer to [`Action::Authenticate`].
    Authenticated(Result<(Identity, Option<Box<Device>>), Problem>),
    /// The answer to [`Action::Subscribe`].
    Subscribed(OperationId, SubscriptionId, Result<Route, Problem>),
    /// Messages were handed to the broker, which has yet to confirm them.
    Handed(OperationId, Result<Handed, NotHanded>),
    /// The answer to any other operation.
    Operation(OperationId, Outcome),
    /// The user's groups, which presence wants, and the device it is on.
    Groups(Vec<Arc<str>>, Option<Box<Device>>),
}

/// What [`Done::Handed`] brings.
pub(super) struct Handed {
    /// The broker's answers that are awaited.
    pub(super) confirms: Vec<Confirm>,
    /// Queues that were declared.
    pub(super) declared: Vec<Box<str>>,
    /// Queues for replies that were made.
    pub(super) replies: Vec<(SubscriptionId, Route)>,
}

/// Why messages were not handed to the broker.
pub(super) struct NotHanded {
    pub(super) problem: Problem,
    /// Subscriptions whose queues for replies were to be made.
    pub(super) replies: Vec<SubscriptionId>,
}

/// One thing of an [`Action::Perform`], with all that is needed to do it.
pub(super) enum Task {
    /// Publish a message, its queue being declared before, if it says so; with the queue for
    /// replies to be made before, if there is none yet.
    Publish(Box<Sending>, Option<(SubscriptionId, Consume)>),
    /// Settle messages of a dedicated subscription.
    Settle(Arc<dyn Consumer>, Settle),
    /// Tell presence how available the client is.
    Say(Status),
}

/// The work of one connection; empty most of the time, and then not there at all.
#[derive(Default)]
pub(super) struct Work {
    queue: VecDeque<Action>,
    /// The action that is being done.
    current: Option<BoxFuture<'static, Done>>,
    /// The operation that it is.
    current_operation: Option<OperationId>,
    /// Done, save that the broker has to confirm it; and what else need not be done in order.
    confirming: FuturesUnordered<BoxFuture<'static, Done>>,
    /// Settlements of `ack:auto` messages, for which nobody waits.
    accepting: Vec<BoxFuture<'static, ()>>,
    /// Messages to be asked for again once it is known how.
    again: Vec<(SubscriptionId, u64)>,
    /// Messages that the client sends to itself.
    pub(super) echoes: Echoes,
}

impl Work {
    pub(super) fn push(&mut self, action: Action) {
        self.queue.push_back(action);
    }

    /// The action to begin next, if none is being done.
    pub(super) fn next(&mut self) -> Option<Action> {
        if self.current.is_some() {
            None
        } else {
            self.queue.pop_front()
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
        self.queue.retain(|action| !is_meant(action.operation()));
        if is_meant(self.current_operation) && !context.is_handing() {
            self.current = None;
            self.current_operation = None;
        }
    }

    /// Forgets all operations of which the broker has not heard; the first of them.
    pub(super) fn abandon_all(&mut self, context: &Context) -> Option<OperationId> {
        let queued = self.queue.iter().find_map(Action::operation);
        let current = self.current_operation.filter(|_| !context.is_handing());
        let first = current.or(queued)?;
        self.abandon(first, context);
        Some(first)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
            && self.current.is_none()
            && self.confirming.is_empty()
            && !self.is_accepting()
    }

    pub(super) fn is_accepting(&self) -> bool {
        !self.accepting.is_empty()
    }

    /// Goes on with settlements; whether one was done. Before [`Work::poll`], which may end the
    /// consumer that they are about.
    pub(super) fn poll_accepting(&mut self, context: &mut TaskContext<'_>) -> bool {
        let before = self.accepting.len();
        self.accepting
            .retain_mut(|accepting| accepting.poll_unpin(context).is_pending());
        self.accepting.len() < before
    }

    pub(super) fn poll(&mut self, context: &mut TaskContext<'_>) -> Poll<Done> {
        if let Some(current) = &mut self.current
            && let Poll::Ready(done) = current.poll_unpin(context)
        {
            self.current = None;
            self.current_operation = None;
            return Poll::Ready(done);
        }
        match self.confirming.poll_next_unpin(context) {
            Poll::Ready(Some(done)) => Poll::Ready(done),
            _ => Poll::Pending,
        }
    }

    /// Waits for the confirmations of an operation, and for what of it comes back, beside all
    /// others.
    pub(super) fn confirm(&mut self, operation: OperationId, confirms: Vec<Confirm>) {
        let echo = self.echoes.wait(operation);
        let confirming = async move {
            let outcome = try_join_all(confirms)
                .await
                .map(drop)
                .map_err(|error| problem(&error));
            if outcome.is_ok()
                && let Some(echo) = echo
            {
                echo.await;
            }
            Done::Operation(operation, outcome)
        };
        self.confirming.push(confirming.boxed());
    }

    /// Finds out which groups the user is in, beside all else: a hook that is slow to say so
    /// delays nobody.
    pub(super) fn find_groups(&mut self, context: Arc<Context>, device: Option<Box<Device>>) {
        self.confirming.push(groups(context, device).boxed());
    }

    /// Accepts what was written to an `ack:auto` subscription, up to `tag`.
    pub(super) fn accept(
        &mut self,
        mailbox: &Arc<Mailbox>,
        subscription: SubscriptionId,
        route: &Dedicated,
        tag: u64,
    ) {
        let (mailbox, consumer) = (Arc::clone(mailbox), Arc::clone(&route.consumer));
        let accepting = async move {
            let settling = mailbox.settle(subscription, &*consumer, (tag, true), Verdict::Accept);
            if let Err(error) = settling.await {
                // It comes again: to this client, which has it, or to another.
                tracing::debug!(%error, "could not acknowledge");
            }
        };
        self.accepting.push(accepting.boxed());
    }

    /// Has a message sent again for which there was no room.
    pub(super) fn ask_again(&mut self, route: &Dedicated, tag: u64) {
        let consumer = Arc::clone(&route.consumer);
        let asking = async move {
            if let Err(error) = consumer.settle(tag, false, Verdict::Requeue).await {
                tracing::debug!(%error, "could not ask for a message again");
            }
        };
        self.accepting.push(asking.boxed());
    }

    /// The same, of a subscription of which the broker has not said yet that it is open.
    pub(super) fn ask_later(&mut self, subscription: SubscriptionId, tag: u64) {
        self.again.push((subscription, tag));
    }

    pub(super) fn take_asked_later(&mut self) -> Vec<(SubscriptionId, u64)> {
        std::mem::take(&mut self.again)
    }
}

impl Dedicated {
    pub(super) fn consumer(&self) -> &Arc<dyn Consumer> {
        &self.consumer
    }

    pub(super) fn queue(&self) -> &str {
        &self.request.queue.name
    }
}

/// Finds out who a client is, and whether it may enter the virtual host.
pub(super) async fn authenticate(
    context: Arc<Context>,
    connect: Box<Connect>,
    carried: Option<Box<Carried>>,
) -> Done {
    if context.services.memory.is_short() {
        telemetry::login_refused(&context.info(), "the node is short of memory");
        return Done::Authenticated(Err(Problem::Overloaded));
    }
    let mut device = None;
    if context.services.presence.is_some() {
        match mapping::presence::connect(&connect.headers) {
            Ok((named, status)) => {
                device = named;
                context.say(status);
            }
            Err(problem) => return Done::Authenticated(Err(problem)),
        }
    }
    let identity = match login::login(&context, &connect, carried).await {
        Ok(identity) => identity,
        Err(problem) => return Done::Authenticated(Err(problem)),
    };
    let admitted = admission::admit(&context, &identity, device.clone()).await;
    Done::Authenticated(admitted.map(|()| (identity, device)))
}

/// A hook that is at fault has said so in the log: its users are here all the same.
async fn groups(context: Arc<Context>, device: Option<Box<Device>>) -> Done {
    let groups = match context.identity() {
        Some(identity) => context.services.auth.groups(&identity.user).await,
        None => Ok(Vec::new()),
    };
    Done::Groups(groups.unwrap_or_default(), device)
}

/// Opens a subscription.
pub(super) async fn subscribe(
    context: Arc<Context>,
    operation: OperationId,
    subscribe: Box<Subscribe>,
) -> Done {
    let subscription = subscribe.subscription;
    Done::Subscribed(operation, subscription, open(&context, &subscribe).await)
}

async fn open(context: &Context, subscribe: &Subscribe) -> Result<Route, Problem> {
    let identity = context.identity().ok_or(Problem::NotLoggedIn)?;
    let destination = Destination::parse(&subscribe.destination)?;
    let mapping = context.mapping(identity);
    let (ack, headers, unique) = (subscribe.ack, &subscribe.headers, rand::random());
    let mut plan = mapping::subscribe(&destination, ack, headers, unique, &mapping)?;
    if let Plan::Shared { exchange, pattern } = &plan {
        Permissions::new(context, identity)
            .listen(exchange, pattern)
            .await?;
        let right = || Right::Listen(exchange.clone(), pattern.clone());
        let mailbox = context.guard.mailbox();
        let shared = identity
            .vhost
            .subscribe(exchange, pattern, mailbox, subscribe.subscription)
            .await;
        if let Some(shared) = shared.map_err(|error| problem(&error))? {
            context.note_right(subscribe.subscription, right);
            return Ok(Route::Shared(shared));
        }
        plan = Plan::Dedicated(mapping::dedicated(
            &destination,
            ack,
            headers,
            unique,
            &mapping,
        )?);
    }
    match plan {
        Plan::Dedicated(request) => {
            Permissions::new(context, identity)
                .consume(&request)
                .await?;
            let right = Right::Consume(Box::new(request.clone()));
            let is_auto = ack == stomp_session::AckMode::Auto;
            let route =
                consume(context, identity, subscribe.subscription, request, is_auto).await?;
            context.note_right(subscribe.subscription, || right);
            Ok(route)
        }
        Plan::Shared { .. } => Err(Problem::BrokerUnavailable("no plan".into())),
    }
}

async fn consume(
    context: &Context,
    identity: &Identity,
    subscription: SubscriptionId,
    request: Consume,
    is_auto: bool,
) -> Result<Route, Problem> {
    let mailbox = Arc::clone(context.guard.mailbox());
    let sink = Arc::new(DedicatedSink::new(mailbox, subscription));
    let consuming = identity.vhost.host().consume(request.clone(), sink);
    let consumer = consuming.await.map_err(|error| problem(&error))?;
    Ok(Route::Dedicated(Box::new(Dedicated {
        consumer,
        request,
        is_auto,
        _counted: DedicatedSubscriptionCounted::begin(),
    })))
}

/// Ends a subscription.
pub(super) async fn unsubscribe(
    context: Arc<Context>,
    operation: OperationId,
    unsubscribe: Box<Unsubscribe>,
    route: Option<Route>,
) -> Done {
    let Some(Route::Dedicated(route)) = route else {
        return Done::Operation(operation, Ok(()));
    };
    Done::Operation(operation, end(&context, &unsubscribe, &route).await)
}

async fn end(
    context: &Context,
    unsubscribe: &Unsubscribe,
    route: &Dedicated,
) -> Result<(), Problem> {
    let identity = context.identity().ok_or(Problem::NotLoggedIn)?;
    let deletes = mapping::unsubscribe_deletes_queue(&route.request, &unsubscribe.headers)?;
    let queue = &route.request.queue.name;
    if deletes {
        Permissions::new(context, identity).delete(queue).await?;
    }
    context.set_handing(true);
    route
        .consumer
        .cancel()
        .await
        .map_err(|error| problem(&error))?;
    if deletes {
        let deleting = identity.vhost.host().delete_queue(queue);
        deleting.await.map_err(|error| problem(&error))?;
    }
    Ok(())
}

/// Does the tasks of one operation: first every permission is asked for, so that nothing is done
/// if one is refused; then queues are declared, and messages published and settled, in order.
pub(super) async fn perform(
    context: Arc<Context>,
    operation: OperationId,
    tasks: Vec<Task>,
) -> Done {
    let replies = tasks.iter().filter_map(|task| match task {
        Task::Publish(_, Some((subscription, _))) => Some(*subscription),
        Task::Publish(_, None) | Task::Settle(..) | Task::Say(_) => None,
    });
    let replies = replies.collect();
    let handed = hand_over(&context, tasks).await;
    Done::Handed(
        operation,
        handed.map_err(|problem| NotHanded { problem, replies }),
    )
}

async fn hand_over(context: &Context, tasks: Vec<Task>) -> Result<Handed, Problem> {
    let identity = context.identity().ok_or(Problem::NotLoggedIn)?;
    let permissions = Permissions::new(context, identity);
    for task in &tasks {
        let Task::Publish(sending, replies) = task else {
            continue;
        };
        // In the order in which the plug-in needs them, so that its words are the same.
        if let Some(queue) = &sending.declare {
            permissions.declare(queue).await?;
        }
        permissions.publish(&sending.publish).await?;
        if let Some((_, request)) = replies {
            permissions.consume(request).await?;
        }
    }
    let memory = &context.services.memory;
    if memory.is_short() && tasks.iter().any(|task| matches!(task, Task::Publish(..))) {
        let patience = context.settings().operation_timeout;
        let waited = tokio::time::timeout(patience, memory.enough()).await;
        waited.map_err(|_| Problem::Overloaded)?;
    }
    context.set_handing(true);
    let host = identity.vhost.host();
    let mut handed = Handed {
        confirms: Vec::new(),
        declared: Vec::new(),
        replies: Vec::new(),
    };
    for task in tasks {
        match task {
            Task::Publish(mut sending, replies) => {
                if let Some((subscription, request)) = replies {
                    let route = consume(context, identity, subscription, request, true).await?;
                    handed.replies.push((subscription, route));
                }
                let queue = sending.declare.take();
                if let Some(queue) = queue.filter(|queue| !handed.declared.contains(&queue.name)) {
                    host.declare_queue(&queue)
                        .await
                        .map_err(|error| problem(&error))?;
                    handed.declared.push(queue.name);
                }
                sending.publish.lane = context.guard.number();
                let confirm = identity.vhost.publish(sending.publish).await;
                handed
                    .confirms
                    .push(confirm.map_err(|error| problem(&error))?);
            }
            Task::Say(status) => context.say(status),
            Task::Settle(
                consumer,
                Settle {
                    subscription,
                    tag,
                    multiple,
                    verdict,
                },
            ) => {
                let mailbox = context.guard.mailbox();
                let settling = mailbox.settle(subscription, &*consumer, (tag, multiple), verdict);
                settling.await.map_err(|error| problem(&error))?;
            }
        }
    }
    Ok(handed)
}

/// What a client is told when the broker does not do what it asked.
pub(super) fn problem(error: &BrokerError) -> Problem {
    let text = || error.to_string().into();
    match error {
        BrokerError::NotFound(text) => Problem::NotFound(text.clone()),
        BrokerError::AccessRefused(text) => Problem::BrokerRefused(text.clone()),
        BrokerError::ResourceLocked(text) => Problem::ResourceLocked(text.clone()),
        BrokerError::PreconditionFailed(text) | BrokerError::Unsupported(text) => {
            Problem::PreconditionFailed(text.clone())
        }
        BrokerError::Unroutable | BrokerError::Nacked => Problem::NotPublished(text()),
        BrokerError::Cancelled(text) => Problem::SubscriptionCancelled(text.clone()),
        BrokerError::Unavailable(_) | BrokerError::VhostRefused(_) => {
            Problem::BrokerUnavailable(text())
        }
    }
}
