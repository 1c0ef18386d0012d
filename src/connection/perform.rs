//! One action that the session asks for, from the hook's permissions to the broker's answer.
//!
//! Each function is a future that owns what it needs, so it goes on beside the connection's loop.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::pin,
    sync::Arc,
    task::{Context as TaskContext, Poll, ready},
};

use stomp_grammar::Command;
use stomp_session::{
    Connect, OperationId, Problem, Subscribe, SubscriptionId, Unsubscribe, unsettled,
};

use super::{
    admission,
    ahead::Ahead,
    answers::Answers,
    context::{Context, Identity},
    login,
    mapping::{self, Plan},
    once,
    online::keep_right,
    permission::Permissions,
    rights::Right,
    rooms::{self, Stay},
    route::{Dedicated, Route},
    settling::{self, Owed},
    stored::{Keeper, Kept},
    tapped,
    work::{Awaited, Done, Handed, NewLogin, NotHanded, Remains, Task},
};
use crate::{
    auth::Carried,
    broker::{Consume, Publish, QueueSpec, destination::Destination, journal::CURSOR_HEADER},
    hub::{DedicatedSink, Resume, ResumeError, SharedSubscription, Since, Told},
    node::SubscriptionPlace,
    presence::Device,
    telemetry::{self, TRACEPARENT, TraceSpan, Traced},
};

/// Has a client's identity and its right to enter the virtual host confirmed.
pub(super) async fn authenticate(
    context: Arc<Context>,
    connect: Box<Connect>,
    carried: Option<Box<Carried>>,
) -> Done {
    let outcome = let_in(&context, &connect, carried).await;
    if let Err(problem) = &outcome {
        let claimed = connect.headers.get("login");
        tapped::refused(&context, (Command::Connect, ""), claimed, problem);
    }
    Done::Authenticated(outcome)
}

async fn let_in(
    context: &Arc<Context>,
    connect: &Connect,
    carried: Option<Box<Carried>>,
) -> Result<NewLogin, Problem> {
    context.guard.asks_to_log_in();
    let mut span = TraceSpan::begin(Traced::Connect, connect.headers.get(TRACEPARENT));
    let done = try_to_let_in(context, connect, carried).await;
    if let Some(span) = &mut span {
        span.note("session.id", &context.session);
        span.note("network.transport", context.transport);
        if let Ok(login) = &done {
            span.note("enduser.id", &login.identity.user.name);
        }
    }
    end_span(span, done.as_ref().err());
    done
}

async fn try_to_let_in(
    context: &Arc<Context>,
    connect: &Connect,
    carried: Option<Box<Carried>>,
) -> Result<NewLogin, Problem> {
    if context.services.memory.is_short() {
        telemetry::login_refused(&context.info(), "the node is short of memory");
        return Err(Problem::Overloaded);
    }
    let mut device = None;
    if context.services.presence.is_some() {
        let (named, status) = mapping::presence::connect(&connect.headers)?;
        device = named;
        context.say(status);
    }
    let rechecks = context.services.registry.rechecks();
    let (mut identity, until) = login::login(context, connect, carried).await?;
    if !context.guard.let_in(&context.session) {
        context.services.registry.log_turned_away(context.transport);
        return Err(Problem::TooManyConnections);
    }
    // A token may have named another than the client, or none.
    match (identity.device_id(), &mut device) {
        (Some(id), device) => device.get_or_insert_default().id = Some(id.into()),
        (None, Some(device)) => device.id = None,
        (None, None) => {}
    }
    let device = device.filter(|device| **device != Device::default());
    let told = once::told(context, &identity, &connect.headers)?;
    // A login takes its time. Its client may have given up and come again: then that connection is
    // newer, though this one is let in later.
    let takes_over = told.is_some() || context.settings().login_policy.is_limited();
    let is_gone = takes_over && !context.is_there().await;
    if is_gone && told.is_some() {
        return Err(Problem::SequenceTaken);
    }
    let mut ending = admission::apply_policy(context, &identity, device.clone()).await?;
    if is_gone {
        // What it has sent is done; nobody ends for it.
        ending.clear();
    }
    let opened = once::open(context, &mut identity, told).await;
    let last_number = opened.inspect_err(|_| context.leave())?;
    // Nothing can refuse it now: a login that fails has ended nobody's session.
    admission::enter(context, &ending);
    Ok(NewLogin {
        identity,
        device,
        until,
        last_number,
        rechecks,
    })
}

/// Finds out which groups the user is in. A hook that is at fault has said so in the log: its
/// users are here all the same.
pub(super) async fn groups(context: Arc<Context>, device: Option<Box<Device>>) -> Done {
    let regroups = context.services.registry.regroups();
    let groups = match context.identity() {
        Some(identity) => context.services.auth.groups(&identity.user).await,
        None => Ok(Vec::new()),
    };
    Done::Groups(groups.unwrap_or_default(), device, regroups)
}

/// Opens a subscription.
pub(super) async fn subscribe(
    context: Arc<Context>,
    operation: OperationId,
    subscribe: Box<Subscribe>,
    ahead: Option<Box<Ahead>>,
    known: Option<Box<QueueSpec>>,
) -> Done {
    let mut span = TraceSpan::begin(Traced::Subscribe, subscribe.headers.get(TRACEPARENT));
    if let Some(span) = &mut span {
        span.note("session.id", &context.session);
        span.note("messaging.destination.name", &subscribe.destination);
    }
    let answers = answers(&context, ahead).await;
    let subscription = subscribe.subscription;
    let opened = open(&context, &subscribe, answers.as_deref(), known).await;
    end_span(span, opened.as_ref().err());
    if let Err(problem) = &opened {
        let frame = (Command::Subscribe, &*subscribe.destination);
        tapped::refused(&context, frame, None, problem);
    }
    Done::Subscribed(operation, subscription, opened)
}

fn end_span(span: Option<TraceSpan>, problem: Option<&Problem>) {
    if let Some(span) = span {
        span.end(problem.map(Problem::error_code));
    }
}

/// A span for each message that is published, in order, if there are traces; `None` for one that is
/// not recorded.
fn publish_spans(tasks: &[Task], context: &Context) -> VecDeque<Option<TraceSpan>> {
    if !telemetry::are_traced() {
        return VecDeque::new();
    }
    let spans = tasks.iter().filter_map(|task| match task {
        Task::Publish(sending, _) => Some(publish_span(&sending.publish, context)),
        Task::Settle(..) | Task::Hear(_) | Task::Say(_) | Task::Ask(..) | Task::History(..) => None,
    });
    spans.collect()
}

fn publish_span(publish: &Publish, context: &Context) -> Option<TraceSpan> {
    let headers = &publish.properties.headers;
    let parent = headers.iter().find(|(name, _)| &**name == TRACEPARENT);
    let mut span = TraceSpan::begin(Traced::Publish, parent.map(|(_, value)| &**value))?;
    span.note("session.id", &context.session);
    span.note("messaging.destination.name", &publish.exchange);
    span.note(
        "messaging.rabbitmq.destination.routing_key",
        &publish.routing_key,
    );
    Some(span)
}

/// From here on the message's trace goes on from this span.
fn carry(span: &TraceSpan, publish: &mut Publish) {
    let headers = &mut publish.properties.headers;
    headers.retain(|(name, _)| &**name != TRACEPARENT);
    headers.push((TRACEPARENT.into(), span.traceparent().into()));
}

/// What the hook has answered ahead.
async fn answers(context: &Context, ahead: Option<Box<Ahead>>) -> Option<Arc<Answers>> {
    match ahead {
        Some(ahead) => Some(ahead.answered(context).await),
        None => None,
    }
}

/// `known`: its queue, as the connection has declared it before.
async fn open(
    context: &Context,
    subscribe: &Subscribe,
    answers: Option<&Answers>,
    known: Option<Box<QueueSpec>>,
) -> Result<(Route, Option<Told>), Problem> {
    let identity = context.identity().ok_or(Problem::NotLoggedIn)?;
    let place = identity.place.subscribe()?;
    let destination = Destination::parse(&subscribe.destination)?;
    let mapping = context.mapping(identity);
    let unique = answers.map_or_else(rand::random, |answers| answers.unique);
    let rechecks = answers.map_or_else(|| context.rechecks(), |answers| answers.rechecks);
    let (ack, headers) = (subscribe.ack, &subscribe.headers);
    let mut plan = mapping::subscribe(&destination, ack, headers, unique, &mapping)?;
    if let Plan::Shared {
        exchange,
        pattern,
        resume,
        stored,
        conflate,
        deltas,
    } = &plan
    {
        Permissions::with(context, identity, answers)
            .listen(exchange, pattern)
            .await?;
        let right = || Right::Listen(exchange.clone(), pattern.clone());
        let (mailbox, id) = (context.guard.mailbox(), subscribe.subscription);
        // Before its first message. What fails behind it ends the session, and this with it.
        let follow = || {
            if *deltas {
                mailbox.follow(id);
            }
        };
        if let Some(resume) = resume {
            let source = (&**exchange, &**pattern);
            // A client for which there is no room gets nothing of it.
            let stay = Stay::prepare(context, identity, source).await?;
            follow();
            let (shared, kept, told) = match stored {
                Some(limit) => go_on(context, identity, source, resume, (id, *limit)).await?,
                None => {
                    let resuming = identity.vhost.subscribe_from(source, resume, mailbox, id);
                    let (shared, resumed) = resuming.await?;
                    (shared, None, resumed.told())
                }
            };
            let stay = Stay::begin(stay).await?;
            keep_right(context, identity, id, right, rechecks).await?;
            let kept = kept.map(|(mut kept, keeper)| {
                kept.run(keeper, shared.given(), &context.services.last_writes);
                kept
            });
            let route = Route::shared(shared, pattern, kept, stay, place);
            return Ok((route, Some(told)));
        }
        // Before the client is served: it has what comes after.
        let newest = identity.vhost.newest(exchange, pattern);
        let vhost = &identity.vhost;
        let source = (&**exchange, &**pattern);
        let stay = Stay::prepare(context, identity, source).await?;
        follow();
        let shared = match *conflate {
            None => vhost.subscribe(exchange, pattern, mailbox, id).await?,
            Some(_) if vhost.has_journal(exchange) => {
                return Err(mapping::conflating::no_journal());
            }
            Some(conflate) => {
                vhost
                    .subscribe_conflated(source, conflate, mailbox, id)
                    .await?
            }
        };
        if let Some(shared) = shared {
            let stay = Stay::begin(stay).await?;
            keep_right(context, identity, id, right, rechecks).await?;
            let route = Route::shared(shared, pattern, None, stay, place);
            let told =
                newest.map(|newest| Told::from([(CURSOR_HEADER, newest.to_string().into())]));
            return Ok((route, told));
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
        Plan::Dedicated(mut request) => {
            if let Some(known) = known.filter(|known| known.name == request.queue.name) {
                request.queue = *known;
            }
            let permissions = Permissions::with(context, identity, answers);
            if mapping::is_foreign(&destination, headers, &request, &mapping) {
                return Err(permissions.refuse_foreign(&request.queue.name));
            }
            permissions.consume(&request).await?;
            let right = Right::Consume(Box::new(request.clone()));
            let is_auto = ack == stomp_session::AckMode::Auto;
            let id = subscribe.subscription;
            let route = consume(context, identity, (id, place), request, is_auto).await?;
            keep_right(context, identity, id, || right, rechecks).await?;
            Ok((route, None))
        }
        Plan::Shared { .. } => Err(Problem::BrokerUnavailable("no plan".into())),
    }
}

/// Opens a subscription that begins where its client has acknowledged up to, and acknowledges. Its
/// bookmark is to be kept once nothing can refuse it any more.
async fn go_on(
    context: &Context,
    identity: &Identity,
    source: (&str, &str),
    resume: &Resume,
    (id, limit): (SubscriptionId, u16),
) -> Result<(SharedSubscription, Option<(Kept, Keeper)>, Told), Problem> {
    let store = context.services.sequences.as_ref();
    let store = store.ok_or(Problem::SequenceNotOpen)?;
    let mut keeper = Keeper::new(store, identity, source.0, source.1);
    let known = keeper.find().await?;
    let resume = Resume {
        since: known.map_or(resume.since, Since::Bookmark),
        ..*resume
    };
    let mailbox = context.guard.mailbox();
    let kept = Kept::begin(limit, mailbox, id);
    let resuming = identity.vhost.subscribe_from(source, &resume, mailbox, id);
    let (shared, resumed) = resuming.await?;
    if known.is_none() {
        keeper.begin(resumed.begin).await?;
    } else if resumed.gap.is_some() {
        keeper.begin_behind_gap(resumed.begin);
    }
    let told = match known {
        Some(_) => resumed.told(),
        None => resumed.told_first(),
    };
    Ok((shared, Some((kept, keeper)), told))
}

async fn consume(
    context: &Context,
    identity: &Identity,
    (subscription, place): (SubscriptionId, SubscriptionPlace),
    request: Consume,
    is_auto: bool,
) -> Result<Route, Problem> {
    let places = (place, identity.place.queue()?);
    let mailbox = Arc::clone(context.guard.mailbox());
    let sink = Arc::new(DedicatedSink::new(mailbox, subscription));
    let mut stay = None;
    if let Some((exchange, key)) = &request.binding {
        stay = Stay::prepare(context, identity, (exchange, key)).await?;
    }
    let consuming = identity
        .vhost
        .host()
        .consume(request.clone(), Arc::clone(&sink) as _);
    let consumer = consuming.await?;
    // If it is refused, the consumer ends with this.
    let stay = Stay::begin(stay).await?;
    let route = Dedicated::new((consumer, sink), request, is_auto, places).stays(stay);
    Ok(Route::Dedicated(Box::new(route)))
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
    let subscription = unsubscribe.subscription;
    let remains = end(&context, &unsubscribe, route).await;
    Done::Unsubscribed(operation, subscription, remains)
}

/// Ends a subscription.
async fn end(
    context: &Context,
    unsubscribe: &Unsubscribe,
    route: Box<Dedicated>,
) -> Result<Remains, Problem> {
    let identity = context.identity().ok_or(Problem::NotLoggedIn)?;
    let deletes = mapping::unsubscribe_deletes_queue(route.request(), &unsubscribe.headers)?;
    let queue = route.queue();
    if deletes {
        Permissions::new(context, identity).delete(queue).await?;
    }
    context.set_handing(true);
    if !deletes && !unsubscribe.kept.is_empty() {
        route.consumer().retire(&unsubscribe.kept).await?;
        return Ok(Remains::Retired(route));
    }
    route.consumer().cancel().await?;
    if deletes {
        identity.vhost.host().delete_queue(queue).await?;
        return Ok(Remains::Deleted);
    }
    Ok(Remains::Nothing)
}

/// Does the tasks of one operation: first every permission is asked for, so that nothing is done
/// if one is refused; then queues are declared and messages published, in order; and when the broker
/// has taken those, others are settled.
pub(super) async fn perform(
    context: Arc<Context>,
    operation: OperationId,
    tasks: Vec<Task>,
    ahead: Option<Box<Ahead>>,
) -> Done {
    let answers = answers(&context, ahead).await;
    let replies = tasks.iter().filter_map(|task| match task {
        Task::Publish(_, Some((subscription, _))) => Some(*subscription),
        Task::Ask(_, Some((subscription, _)), _) => Some(*subscription),
        Task::History(_, subscription, true) => Some(*subscription),
        _ => None,
    });
    let replies = replies.collect();
    let is_tapped = tapped::is_on(&context);
    let goal = is_tapped.then(|| goal(&context, &tasks)).flatten();
    let mut spans = publish_spans(&tasks, &context);
    let handed = hand_over(&context, tasks, &mut spans, answers.as_deref()).await;
    // Those of messages that were not handed over.
    for span in spans {
        match &handed {
            // A message before was not taken: they are abandoned. A repeat is at the broker.
            Ok(handed) if !handed.is_repeat => drop(span),
            _ => end_span(span, handed.as_ref().err()),
        }
    }
    if let (Err(problem), Some(goal)) = (&handed, goal) {
        tapped::refused(&context, (Command::Send, &goal), None, problem);
    }
    Done::Handed(
        operation,
        handed.map_err(|problem| NotHanded { problem, replies }),
    )
}

/// The destination of the first message among these.
fn goal(context: &Context, tasks: &[Task]) -> Option<String> {
    let topics = &context.settings().stomp.default_topic_exchange;
    tasks.iter().find_map(|task| match task {
        Task::Publish(sending, _) => {
            let publish = &sending.publish;
            let goal = Destination::of_message(&publish.exchange, &publish.routing_key, topics);
            Some(goal.to_string())
        }
        Task::Settle(..) | Task::Hear(_) | Task::Say(_) | Task::Ask(..) | Task::History(..) => None,
    })
}

async fn hand_over(
    context: &Context,
    mut tasks: Vec<Task>,
    spans: &mut VecDeque<Option<TraceSpan>>,
    answers: Option<&Answers>,
) -> Result<Handed, Problem> {
    let identity = context.identity().ok_or(Problem::NotLoggedIn)?;
    let permissions = Permissions::with(context, identity, answers);
    for task in &tasks {
        if let Task::Ask(asking, replies, _) = task {
            permissions.listen(&asking.exchange, &asking.key).await?;
            if let Some((_, request)) = replies {
                permissions.consume(request).await?;
            }
        }
        if let Task::History(asked, ..) = task {
            permissions.listen(&asked.exchange, &asked.pattern).await?;
        }
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
    let publishes = |task: &Task| matches!(task, Task::Publish(..) | Task::Ask(..));
    if memory.is_short() && tasks.iter().any(publishes) {
        let patience = context.settings().operation_timeout;
        let waited = tokio::time::timeout(patience, memory.enough()).await;
        waited.map_err(|_| Problem::Overloaded)?;
    }
    let (mut once, mut told) = (None, None);
    if let [Task::Publish(sending, _)] = &mut *tasks
        && let Some(asked) = sending.once.take()
    {
        told = once::receipt(&asked);
        match once::admit(context, identity, asked).await? {
            once::Admitted::Publish(ticket) => once = Some(ticket),
            once::Admitted::Repeat(confirms) => {
                return Ok(Handed {
                    told,
                    ..Handed::repeat(confirms)
                });
            }
        }
    }
    settling::check(&tasks)?;
    context.set_handing(true);
    let host = identity.vhost.host();
    let mut unheard = Vec::new();
    let mut handed = Handed {
        confirms: Vec::new(),
        is_repeat: false,
        declared: Vec::new(),
        replies: Vec::new(),
        told,
        heard: None,
    };
    let mut answered = 0;
    // A transaction acknowledges the message that it works off: that must not go before the broker
    // has the results.
    let is_settling = |task: &Task| matches!(task, Task::Settle(..));
    let (settling, others): (Vec<_>, Vec<_>) = tasks.into_iter().partition(is_settling);
    for task in others.into_iter().chain(settling) {
        match task {
            Task::Publish(mut sending, replies) => {
                handed
                    .replies
                    .extend(open_replies(context, identity, replies).await?);
                let mut declared = handed.declared.iter();
                if let Some(queue) = sending.declare.take()
                    && !declared.any(|other| other.name == queue.name)
                {
                    host.declare_queue(&queue).await?;
                    handed.declared.push(queue);
                }
                sending.publish.lane = context.guard.number();
                let ticket = once.take();
                if let Some(ticket) = &ticket {
                    ticket.mark(&mut sending.publish.properties);
                }
                let span = spans.pop_front().flatten();
                if let Some(span) = &span {
                    carry(span, &mut sending.publish);
                }
                let publishing = identity.vhost.publish(sending.publish);
                let before = &mut handed.confirms;
                let Some(published) = while_taken(before, &mut answered, publishing).await else {
                    // Their operation fails with the one before.
                    break;
                };
                let confirm = published?;
                let awaited = match ticket {
                    Some(ticket) => Awaited::Once(ticket.published(identity, confirm)),
                    None => Awaited::Broker(confirm),
                };
                handed.confirms.push(match span {
                    Some(span) => Awaited::Traced(Box::new(awaited), span),
                    None => awaited,
                });
            }
            Task::Hear(settled) => handed.heard = Some(settling::all_heard(settled)),
            Task::Say(status) => context.say(status),
            Task::Ask(asking, replies, queue) => {
                handed
                    .replies
                    .extend(open_replies(context, identity, replies).await?);
                let is_first = handed.confirms.is_empty();
                let answer = rooms::answer(context, identity, *asking, queue, is_first).await?;
                let confirm = identity.vhost.publish(answer).await?;
                handed.confirms.push(Awaited::Broker(confirm));
            }
            Task::History(asked, subscription, _) => {
                let (ask, mailbox) = (asked.ask(), context.guard.mailbox());
                let for_client = (mailbox, subscription);
                let giving = identity
                    .vhost
                    .give_history(&asked.exchange, &ask, for_client);
                let given = giving.await.map_err(|error| match error {
                    ResumeError::NoJournal => Problem::NoHistory,
                    error => error.into(),
                })?;
                handed.told = Some(given.told());
            }
            Task::Settle(consumer, settle) => {
                if !are_taken(&mut handed.confirms, &mut answered).await {
                    break;
                }
                let mailbox = context.guard.mailbox();
                match settling::settle(mailbox, consumer, settle).await? {
                    Owed::Done => {}
                    Owed::Unsettled => handed.told = Some(unsettled()),
                    Owed::Receipt(heard) => handed.heard = Some(heard),
                    Owed::Commit(settled) => unheard.push(settled),
                }
            }
        }
    }
    let heard = settling::heard(unheard).into_iter();
    handed.confirms.extend(heard.map(Awaited::Broker));
    Ok(handed)
}

/// Does this, unless one of the messages before is not taken: sent behind it, another would tear a
/// hole into the order. `answered`: so many of them are known to be taken.
async fn while_taken<T>(
    before: &mut [Awaited],
    answered: &mut usize,
    doing: impl Future<Output = T>,
) -> Option<T> {
    let mut doing = pin!(doing);
    poll_fn(|context| match poll_taken(before, answered, context) {
        Poll::Ready(false) => Poll::Ready(None),
        _ => doing.as_mut().poll(context).map(Some),
    })
    .await
}

/// Waits until the broker has said of all these messages whether it takes them, or of one that it
/// does not. It says so within its own time-out.
async fn are_taken(confirms: &mut [Awaited], answered: &mut usize) -> bool {
    poll_fn(|context| poll_taken(confirms, answered, context)).await
}

/// Whether the broker has taken all these messages: `false` with the first that it does not take.
fn poll_taken(
    confirms: &mut [Awaited],
    answered: &mut usize,
    context: &mut TaskContext<'_>,
) -> Poll<bool> {
    while let Some(awaited) = confirms.get_mut(*answered) {
        if !ready!(awaited.poll_taken(context)) {
            return Poll::Ready(false);
        }
        *answered = answered.saturating_add(1);
    }
    Poll::Ready(true)
}

/// Makes the queue for replies, if it is not there yet.
async fn open_replies(
    context: &Context,
    identity: &Identity,
    replies: Option<(SubscriptionId, Consume)>,
) -> Result<Option<(SubscriptionId, Route)>, Problem> {
    let Some((subscription, request)) = replies else {
        return Ok(None);
    };
    let place = identity.place.subscribe()?;
    let route = consume(context, identity, (subscription, place), request, true).await?;
    Ok(Some((subscription, route)))
}
