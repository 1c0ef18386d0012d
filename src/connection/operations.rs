//! The operations under way, from the session's action to the answer; and their results:
//! subscriptions, queues declared, and messages to accept at the broker.
//!
//! [`Operations::push`] takes an action of [`Session::poll_action`]; [`Operations::begin`] starts
//! every action that can start; [`Operations::poll`] drives them; its results go to
//! [`Operations::handle_done`], which tells the session. The write side reports written messages.

use std::{
    collections::BTreeMap,
    future::poll_fn,
    sync::Arc,
    task::{Context as TaskContext, Poll},
    time::Instant,
};

use futures_util::FutureExt;
use stomp_session::{
    Action, GiveUp, Operation, OperationId, Outcome, Problem, Publish, Renewed, Session, Stake,
    Subscribe, SubscriptionId, Verdict, unsettled,
};

use super::{
    ahead::Ahead,
    context::Context,
    declared::Declared,
    mapping::{self, Sent},
    online, perform, renewal,
    rights::Subscriptions,
    route::{Route, Routes},
    withdrawing::Withdrawing,
    work::{Done, Handed, NewLogin, NotHanded, Remains, Task, Work},
};
use crate::{
    auth::Carried,
    broker::{Consume, QueueSpec},
    hub::{Mailbox, Parcel},
    presence::Device,
    telemetry::{self, RefusedAt},
};

/// One client's operations under way.
pub(super) struct Operations {
    routes: Routes,
    /// Queues that SEND and SUBSCRIBE frames had declared, and UNSUBSCRIBE frames deleted; few
    /// connections have any, so they take 8 bytes in the others.
    declared: Option<Box<Declared>>,
    /// `None` without operations.
    work: Option<Box<Work>>,
    /// Messages to accept at the broker once they are written, and it is known how; in the order in
    /// which the link has taken them.
    written: Vec<Written>,
    /// Credentials that came with the transport's opening, until the login begins.
    carried: Option<Box<Carried>>,
}

/// A message that the link has taken, and that is to be accepted.
struct Written {
    subscription: SubscriptionId,
    tag: u64,
    /// The bytes that have to be written until it is: its own, and those before it.
    left: usize,
}

/// Queues for replies that the tasks of one operation are to make.
type Made = Vec<(SubscriptionId, Box<str>)>;

/// The queue for replies to a client, and what to consume if it is not there yet.
type Replies = (Box<str>, Option<(SubscriptionId, Consume)>);

impl Operations {
    pub(super) fn new(carried: Option<Box<Carried>>) -> Self {
        Self {
            routes: Routes::default(),
            declared: None,
            work: None,
            written: Vec::new(),
            carried,
        }
    }

    /// Takes an action that the session asks for; it waits until those before it are done.
    pub(super) fn push(&mut self, action: Action) {
        self.work.get_or_insert_default().push(action);
    }

    /// Forgets the operations from this one on of which the broker has not heard.
    pub(super) fn abandon(&mut self, from: OperationId, context: &Context) {
        if let Some(work) = &mut self.work {
            work.abandon(from, context);
        }
    }

    /// Forgets all operations of which the broker has not heard; the first of them.
    pub(super) fn abandon_all(&mut self, context: &Context) -> Option<OperationId> {
        self.work.as_mut()?.abandon_all(context)
    }

    /// True without operations under way.
    pub(super) fn is_idle(&self) -> bool {
        self.work.as_deref().is_none_or(Work::is_idle)
    }

    /// The last operation under way, as far as order matters.
    pub(super) fn last_under_way(&self) -> Option<OperationId> {
        self.work.as_ref()?.last()
    }

    /// Whether an operation up to this one is under way, as far as order matters.
    pub(super) fn is_under_way(&self, until: OperationId) -> bool {
        let first = self.work.as_ref().and_then(|work| work.first());
        first.is_some_and(|first| first <= until)
    }

    /// Orders that wait for operations under way.
    pub(super) fn take_withdrawing(&mut self) -> Vec<Withdrawing> {
        let work = self.work.as_mut();
        work.map(|work| std::mem::take(&mut work.withdrawing))
            .unwrap_or_default()
    }

    /// Keeps orders that wait for operations under way.
    pub(super) fn keep_withdrawing(&mut self, orders: Vec<Withdrawing>) {
        self.work.get_or_insert_default().withdrawing = orders;
    }

    /// Takes a subscription from its client, at the broker too.
    pub(super) fn withdraw(&mut self, subscription: SubscriptionId, context: &Context) {
        drop(self.take_route(subscription, context));
    }

    /// How the connection's subscriptions are served.
    pub(super) fn routes(&self) -> &Routes {
        &self.routes
    }

    /// Begins what can be begun; `false` if the session was told that something cannot.
    pub(super) fn begin(&mut self, session: &mut Session, context: &Arc<Context>) -> bool {
        while let Some((action, ahead)) = self.work.as_mut().and_then(|work| work.next()) {
            if let Err((operation, problem)) = self.begin_one(action, ahead, session, context) {
                let now = tokio::time::Instant::now().into_std();
                finish(session, now, operation, Err(problem));
                return false;
            }
        }
        if self.work.as_deref().is_some_and(Work::is_over) {
            self.work = None;
        }
        true
    }

    fn begin_one(
        &mut self,
        action: Action,
        ahead: Option<Box<Ahead>>,
        session: &mut Session,
        context: &Arc<Context>,
    ) -> Result<(), (OperationId, Problem)> {
        let context = Arc::clone(context);
        context.set_handing(false);
        context.set_asking(false);
        let operation = action.operation();
        let future = match action {
            Action::Authenticate(connect) => {
                perform::authenticate(context, connect, self.carried.take()).boxed()
            }
            Action::Subscribe(operation, subscribe) => {
                let known = self.known_queue(&subscribe);
                perform::subscribe(context, operation, subscribe, ahead, known).boxed()
            }
            Action::Unsubscribe(operation, unsubscribe) => {
                // What its client still had is requeued.
                if let Some(forgotten) = unsubscribe.forgotten {
                    drop(self.routes.take(forgotten));
                }
                let route = self.take_route(unsubscribe.subscription, &context);
                perform::unsubscribe(context, operation, unsubscribe, route).boxed()
            }
            Action::Perform(operation, operations) => {
                let mut made = Made::new();
                let tasks: Result<Vec<_>, _> = operations
                    .into_iter()
                    .filter_map(|task| {
                        self.task(operation, task, &mut made, session, &context)
                            .transpose()
                    })
                    .collect();
                let tasks = tasks.map_err(|problem| (operation, problem))?;
                perform::perform(context, operation, tasks, ahead).boxed()
            }
            Action::Renew(operation, ask) => {
                let rights = self.rights_to_renew();
                renewal::renew(context, operation, ask, rights).boxed()
            }
            // The loop does the others itself; and what a later session may ask for is not known
            // here.
            _ => return Ok(()),
        };
        self.work.get_or_insert_default().begin(operation, future);
        Ok(())
    }

    /// Gathers the parts for one step of an operation; `None` if there is nothing to do. `made`
    /// are the queues for replies that earlier steps will make.
    fn task(
        &mut self,
        of: OperationId,
        operation: Operation,
        made: &mut Made,
        session: &mut Session,
        context: &Context,
    ) -> Result<Option<Task>, Problem> {
        match operation {
            Operation::Publish(publish) => {
                self.sending(of, publish, made, session, context).map(Some)
            }
            Operation::Settle(settle) => {
                let mailbox = context.guard.mailbox();
                mailbox.release(settle.subscription, settle.tag);
                if settle.stake == Stake::Nothing {
                    self.routes.note_unheard(settle.subscription, settle.first);
                }
                let task = match self.routes.find(settle.subscription) {
                    Some(Route::Dedicated(route)) => {
                        Some(Task::Settle(Arc::clone(route.consumer()), settle))
                    }
                    Some(route) => route.kept().map(|kept| {
                        let acks = Arc::clone(kept.acks());
                        Task::Settle(acks, settle)
                    }),
                    // Its client has had its queue deleted: nobody gets its messages again.
                    None if self.has_deleted(settle.subscription) => None,
                    // It was taken from its client meanwhile, and others may have its messages by
                    // now.
                    None => match settle.stake {
                        Stake::Commit => return Err(Problem::TakenBack),
                        Stake::Receipt => {
                            session.tell_in_receipt(of, unsettled());
                            None
                        }
                        Stake::Nothing => None,
                    },
                };
                if settle.is_last {
                    drop(self.routes.take(settle.subscription));
                }
                Ok(task)
            }
            Operation::Hear => Ok(Some(Task::Hear(self.routes.unheard()))),
            // Actions of a later version of the session are not known here.
            _ => Ok(None),
        }
    }

    fn sending(
        &mut self,
        of: OperationId,
        publish: Publish,
        made: &mut Made,
        session: &mut Session,
        context: &Context,
    ) -> Result<Task, Problem> {
        let identity = context.identity().ok_or(Problem::NotLoggedIn)?;
        let mapping = context.mapping(identity);
        let Publish {
            destination,
            headers,
            body,
            ..
        } = publish;
        let mut sending = match mapping::send(&destination, &headers, body, &mapping)? {
            Sent::Status(status) => return Ok(Task::Say(status)),
            Sent::Ask(asking) => {
                let name = &asking.reply_to;
                let (queue, request) = self.replies(name, made, session, &mapping)?;
                return Ok(Task::Ask(asking, request, queue));
            }
            Sent::History(asked) => {
                let before = session.subscriptions();
                let subscription = session.open_replies(&asked.reply_to)?;
                let is_new = session.subscriptions() > before;
                return Ok(Task::History(asked, subscription, is_new));
            }
            Sent::Message(sending) => sending,
        };
        // A frame of a transaction has its receipt, and that of its COMMIT, to wait for.
        let is_awaited = |name: &&str| headers.get(name).is_some();
        if ["receipt", "transaction"].iter().any(is_awaited) {
            self.expect_echo(of, &sending.publish);
        }
        if let Some(declared) = &self.declared {
            sending.declare = sending.declare.and_then(|queue| {
                let is_consumed = self.routes.consumes(&queue.name);
                declared.missing(queue, is_consumed)
            });
        }
        if let Some(queue) = &sending.declare {
            mapping::check_send_declares(queue)?;
        }
        let replies = match sending.temp_queue.take() {
            None => None,
            Some(name) => {
                let (queue, request) = self.replies(&name, made, session, &mapping)?;
                sending.publish.properties.reply_to = Some(queue);
                request
            }
        };
        Ok(Task::Publish(sending, replies))
    }

    /// The queue of a `/temp-queue/<x>`, and what to consume if it is not there yet.
    fn replies(
        &self,
        name: &str,
        made: &mut Made,
        session: &mut Session,
        mapping: &mapping::Context<'_>,
    ) -> Result<Replies, Problem> {
        let subscription = session.open_replies(name)?;
        let (queue, request) = self.reply_queue(subscription, made, mapping);
        Ok((queue, request.map(|request| (subscription, request))))
    }

    /// The message will come back, if the client is subscribed to its key on a feed.
    fn expect_echo(&mut self, operation: OperationId, publish: &crate::broker::Publish) {
        let awaited = self.routes.hearing(&publish.exchange, &publish.routing_key);
        if !awaited.is_empty() {
            let work = self.work.get_or_insert_default();
            work.echoes.expect(operation, publish, awaited);
        }
    }

    /// The queue for replies, and what to consume if it is not there yet.
    fn reply_queue(
        &self,
        subscription: SubscriptionId,
        made: &mut Made,
        mapping: &mapping::Context<'_>,
    ) -> (Box<str>, Option<Consume>) {
        if let Some(Route::Dedicated(route)) = self.routes.find(subscription) {
            return (route.queue().into(), None);
        }
        if let Some((_, queue)) = made.iter().find(|(id, _)| *id == subscription) {
            return (queue.clone(), None);
        }
        let request = mapping::temp_queue(rand::random(), mapping);
        made.push((subscription, request.queue.name.clone()));
        (request.queue.name.clone(), Some(request))
    }

    fn take_route(&mut self, subscription: SubscriptionId, context: &Context) -> Option<Route> {
        let route = self.routes.take(subscription)?;
        // Its number does not come again, so these would stay for as long as anything is under way.
        self.written
            .retain(|written| written.subscription != subscription);
        match &route {
            // What is on its way to the client is requeued: nobody knows yet whether it will have it.
            Route::Dedicated(route) => route.sink().end(),
            Route::Shared { .. } => context.guard.mailbox().end_subscription(subscription),
        }
        if let Some(rights) = context.rights() {
            rights.forget(subscription);
        }
        if let Some(work) = &mut self.work {
            work.echoes.unsubscribed(subscription);
        }
        if let Route::Dedicated(route) = &route
            && let Some(declared) = &mut self.declared
        {
            let queue = &route.request().queue;
            if !self.routes.consumes(&queue.name) {
                declared.left(queue);
            }
        }
        Some(route)
    }

    fn has_deleted(&self, subscription: SubscriptionId) -> bool {
        let declared = self.declared.as_ref();
        declared.is_some_and(|declared| declared.has_deleted(subscription))
    }

    /// The queue of a SUBSCRIBE, as this connection has declared it before.
    fn known_queue(&self, subscribe: &Subscribe) -> Option<Box<QueueSpec>> {
        let declared = self.declared.as_ref()?;
        let name = mapping::named_queue(&subscribe.destination, &subscribe.headers)?;
        declared.spec(&name).map(Box::new)
    }

    /// Goes on with settlements; returns true if one was done. Called before [`Operations::poll`],
    /// which may end the consumer that they are about.
    pub(super) fn poll_settlements(&mut self, task: &mut TaskContext<'_>) -> bool {
        self.work
            .as_mut()
            .is_some_and(|work| work.poll_accepting(task))
    }

    /// Goes on with all else, for [`Operations::handle_done`].
    pub(super) fn poll(
        &mut self,
        context: &Arc<Context>,
        task: &mut TaskContext<'_>,
    ) -> Poll<Done> {
        let Some(work) = &mut self.work else {
            return Poll::Pending;
        };
        context.set_confirming(work.is_confirming());
        let done = work.poll(task);
        if done.is_pending() {
            if context.is_asking() {
                let declared = self.declared.as_ref();
                work.ask_ahead(|action| {
                    let is_declared = |queue: &QueueSpec| {
                        declared.is_some_and(|declared| declared.spec(&queue.name).is_some())
                    };
                    Ahead::new(action, is_declared, context)
                });
            }
            work.poll_ahead(task);
        }
        done
    }

    /// Goes on with everything; `None` once nothing is under way.
    pub(super) fn poll_last(
        &mut self,
        context: &Arc<Context>,
        task: &mut TaskContext<'_>,
    ) -> Poll<Option<Done>> {
        let Some(work) = &mut self.work else {
            return Poll::Ready(None);
        };
        work.poll_accepting(task);
        if work.is_empty() {
            self.work = None;
            return Poll::Ready(None);
        }
        self.poll(context, task).map(Some)
    }

    /// Takes what became of an action, and tells the session. `all_written`: nothing waits to be
    /// written. Returns the identity of a client that may log in, which the loop tells the session
    /// when everything is ready for it.
    pub(super) fn handle_done(
        &mut self,
        now: Instant,
        done: Done,
        session: &mut Session,
        context: &Arc<Context>,
        all_written: bool,
    ) -> Option<NewLogin> {
        match done {
            Done::Authenticated(Ok(login)) => return Some(login),
            Done::Authenticated(Err(problem)) => session.handle_authenticated(now, Err(problem)),
            Done::Accepted(operation, until, asking) => {
                session.handle_renewal_accepted(operation, until);
                let work = self.work.get_or_insert_default();
                // By other credentials it asks about all.
                work.stop_asking();
                work.begin(Some(operation), asking);
            }
            Done::Renewed(operation, outcome, rest) => {
                let lost = outcome.iter().flat_map(|renewed| &renewed.lost);
                self.withdraw_lost(lost, context);
                renewed(session, now, operation, outcome);
                online::renewed(context);
                self.ask_later(rest, context);
            }
            Done::AskedLater(mut lost, rest) => {
                // Its client may have ended one meanwhile.
                lost.retain(|(id, _)| self.routes.is_open(*id));
                self.withdraw_lost(&lost, context);
                session.handle_lost(now, lost);
                self.ask_later(rest, context);
            }
            Done::Subscribed(operation, subscription, outcome) => {
                let outcome = outcome.map(|(route, told)| {
                    self.note_declared(&route);
                    self.routes.push(subscription, route);
                    if let Some(told) = told {
                        session.tell_in_receipt(operation, told);
                    }
                });
                finish(session, now, operation, outcome);
                self.accept_early(context, all_written);
            }
            Done::Unsubscribed(operation, subscription, remains) => {
                let outcome = remains.map(|remains| match remains {
                    Remains::Nothing => {}
                    Remains::Retired(mut route) => {
                        route.end();
                        self.routes.push(subscription, Route::Dedicated(route));
                    }
                    Remains::Deleted => {
                        let declared = self.declared.get_or_insert_default();
                        declared.note_deleted(subscription);
                    }
                });
                finish(session, now, operation, outcome);
            }
            Done::Handed(operation, Err(NotHanded { problem, replies })) => {
                for subscription in replies {
                    session.close_replies(subscription);
                }
                self.forget_echoes(operation);
                finish(session, now, operation, Err(problem));
            }
            Done::Handed(operation, Ok(handed)) => {
                let Handed {
                    confirms,
                    declared,
                    replies,
                    is_repeat,
                    told,
                    heard,
                } = handed;
                if let Some(told) = told {
                    session.tell_in_receipt(operation, told);
                }
                if is_repeat {
                    // Nothing comes back.
                    self.forget_echoes(operation);
                }
                for (subscription, route) in replies {
                    self.routes.push(subscription, route);
                }
                self.accept_early(context, all_written);
                self.remember(declared);
                if let Some(heard) = heard {
                    let work = self.work.get_or_insert_default();
                    work.confirm_settled(operation, heard);
                } else if confirms.is_empty() {
                    finish(session, now, operation, Ok(()));
                } else {
                    let work = self.work.get_or_insert_default();
                    work.confirm(operation, confirms);
                }
            }
            Done::Operation(operation, outcome) => {
                self.forget_echoes(operation);
                finish(session, now, operation, outcome);
            }
            Done::Settled(operation, is_heard) => {
                if !is_heard {
                    session.tell_in_receipt(operation, unsettled());
                }
                finish(session, now, operation, Ok(()));
            }
            Done::Groups(groups, device, regroups) => {
                online::join(context, groups, device, regroups);
            }
        }
        None
    }

    /// Finds out which groups the user is in, beside all else: a hook that is slow to say so
    /// delays nobody.
    pub(super) fn find_groups(&mut self, context: &Arc<Context>, device: Option<Box<Device>>) {
        let groups = perform::groups(Arc::clone(context), device);
        self.work.get_or_insert_default().beside(groups.boxed());
    }

    /// What the subscriptions needed rights for, in the order in which a renewal asks: it goes on where
    /// the one before has come to, so that all have their turn however often the client renews.
    fn rights_to_renew(&self) -> Subscriptions {
        let mut rights = self.routes.rights();
        if let Some(first) = self.work.as_deref().and_then(Work::asks_later) {
            let before = rights.partition_point(|(id, _)| *id < first);
            rights.rotate_left(before);
        }
        rights
    }

    /// Subscriptions that a renewal takes from the client end here, at the broker too.
    fn withdraw_lost<'a>(
        &mut self,
        lost: impl IntoIterator<Item = &'a (SubscriptionId, Problem)>,
        context: &Context,
    ) {
        for (subscription, problem) in lost {
            telemetry::refused(RefusedAt::Session, problem.error_code());
            self.withdraw(*subscription, context);
        }
    }

    /// Has the rest of a renewal's questions asked, beside all else.
    fn ask_later(&mut self, mut rest: Subscriptions, context: &Arc<Context>) {
        rest.retain(|(id, _)| self.routes.is_open(*id));
        if let Some((first, _)) = rest.first() {
            let first = *first;
            let asking = renewal::ask_later(Arc::clone(context), rest);
            let work = self.work.get_or_insert_default();
            work.ask_later(first, asking.boxed());
        }
    }

    fn forget_echoes(&mut self, operation: OperationId) {
        if let Some(work) = &mut self.work {
            work.echoes.forget(operation);
        }
    }

    fn remember(&mut self, declared: Vec<QueueSpec>) {
        for queue in declared {
            self.declared.get_or_insert_default().note(queue);
        }
    }

    /// A subscription has declared its queue, which other frames may name.
    fn note_declared(&mut self, route: &Route) {
        if let Route::Dedicated(route) = route
            && route.request().declare
            && !mapping::is_made_up(&route.request().queue)
        {
            self.remember(vec![route.request().queue.clone()]);
        }
    }

    /// A message is about to be written: it may be one that the client sent to itself.
    pub(super) fn heard(&mut self, parcel: &Parcel) {
        if let Some(work) = &mut self.work {
            work.echoes.heard(parcel.subscription, &parcel.message);
        }
    }

    /// Keeps a message that is written again unless its client acknowledges it.
    pub(super) fn hold(&self, parcel: &Parcel, mailbox: &Mailbox) {
        match self.routes.find(parcel.subscription) {
            Some(Route::Dedicated(route)) => route.sink().hold(parcel),
            _ => mailbox.hold(parcel),
        }
    }

    /// The message is to be accepted at the broker when so many bytes are written.
    pub(super) fn will_accept(&mut self, parcel: &Parcel, pending: usize) {
        self.written.push(Written {
            subscription: parcel.subscription,
            tag: parcel.tag,
            left: pending,
        });
    }

    /// All is written: accepts at the broker what an `ack:auto` client has been sent.
    pub(super) fn accept_written(&mut self, mailbox: &Arc<Mailbox>) {
        let written = std::mem::take(&mut self.written);
        self.written = self.accept(written, mailbox);
    }

    /// So many more bytes are written: accepts the messages that are complete by that. A client for
    /// which more always waits is never sent all of it.
    pub(super) fn accept_part(&mut self, bytes: usize, mailbox: &Arc<Mailbox>) {
        for written in &mut self.written {
            written.left = written.left.saturating_sub(bytes);
        }
        let complete = self.written.partition_point(|written| written.left == 0);
        if complete > 0 {
            let waiting = self.written.split_off(complete);
            let written = std::mem::replace(&mut self.written, waiting);
            let kept = self.accept(written, mailbox);
            drop(self.written.splice(..0, kept));
        }
    }

    /// Messages that are to be accepted.
    #[cfg(test)]
    pub(super) fn unaccepted(&self) -> usize {
        self.written.len()
    }

    /// Accepts these, each with all before it of its subscription. Returns those of which it is not
    /// known how yet.
    fn accept(&mut self, written: Vec<Written>, mailbox: &Arc<Mailbox>) -> Vec<Written> {
        // A subscription's first messages can come before the broker's word that it is open.
        let may_open = self.work.is_some();
        let mut kept = Vec::new();
        for last in last_of_each(written) {
            let Written {
                subscription, tag, ..
            } = last;
            match self.routes.find(subscription) {
                Some(Route::Dedicated(route)) if route.is_auto => {
                    let work = self.work.get_or_insert_default();
                    work.accept(mailbox, subscription, route, tag);
                }
                None if may_open => kept.push(Written { left: 0, ..last }),
                _ => {}
            }
        }
        kept
    }

    /// Has the broker send messages again for which there was no room.
    pub(super) fn ask_again(
        &mut self,
        messages: Vec<(SubscriptionId, u64)>,
        mailbox: &Arc<Mailbox>,
    ) {
        mailbox.watch();
        for (subscription, tag) in messages {
            self.settle_unasked(subscription, tag, Verdict::Requeue);
        }
    }

    /// A message was written as often as its client wished, and not acknowledged.
    pub(super) fn give_up(
        &mut self,
        subscription: SubscriptionId,
        tag: u64,
        then: GiveUp,
        context: &Context,
    ) {
        let most = context.settings().stomp.redeliver_max_rounds;
        let mailbox = context.guard.mailbox();
        let verdict = match then {
            GiveUp::Requeue if mailbox.give_up(subscription, tag, most) => Verdict::Requeue,
            GiveUp::Requeue => Verdict::Discard,
            GiveUp::Discard | GiveUp::Later => {
                mailbox.release(subscription, tag);
                if then == GiveUp::Later {
                    return telemetry::given_up("later");
                }
                Verdict::Discard
            }
        };
        telemetry::given_up(match verdict {
            Verdict::Requeue => "requeue",
            _ => "drop",
        });
        self.settle_unasked(subscription, tag, verdict);
    }

    /// Settles a message of which the client says nothing.
    pub(super) fn settle_unasked(
        &mut self,
        subscription: SubscriptionId,
        tag: u64,
        verdict: Verdict,
    ) {
        match (self.routes.find(subscription), &mut self.work) {
            (Some(Route::Dedicated(route)), work) => {
                work.get_or_insert_default().settle(route, tag, verdict);
            }
            // What is given up is done with.
            (Some(route), _) => {
                if let Some(kept) = route.kept() {
                    kept.acks().acknowledge(tag, false);
                }
            }
            // It may be about to open. If it is over, all of it was requeued.
            (None, Some(work)) => work.settle_later(subscription, tag, verdict),
            _ => {}
        }
    }

    /// Settles what came before it was known how.
    fn accept_early(&mut self, context: &Context, all_written: bool) {
        let mailbox = context.guard.mailbox();
        let later = self.work.as_mut().map(|work| work.take_later());
        for (subscription, tag, verdict) in later.into_iter().flatten() {
            self.settle_unasked(subscription, tag, verdict);
        }
        if all_written {
            self.accept_written(mailbox);
        } else {
            self.accept_part(0, mailbox);
        }
    }

    /// Gives up what is under way, save settlements: waits for the broker to have heard of those.
    pub(super) async fn accept_last(&mut self, mailbox: &Arc<Mailbox>) {
        self.accept_written(mailbox);
        let Some(mut work) = self.work.take() else {
            return;
        };
        let accepting = poll_fn(|task| {
            work.poll_accepting(task);
            if work.is_accepting() {
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        });
        accepting.await;
    }

    /// Ends all subscriptions, which gives back what was not acknowledged.
    pub(super) fn close_subscriptions(&mut self) {
        self.routes.clear();
    }
}

/// The last message of each subscription.
fn last_of_each(written: Vec<Written>) -> impl Iterator<Item = Written> {
    let written = written.into_iter();
    let last: BTreeMap<_, _> = written.map(|one| (one.subscription, one)).collect();
    last.into_values()
}

/// Tells the session that an operation is done. A denial that it survives is counted here; one that
/// ends it, with the connection's end.
fn finish(session: &mut Session, now: Instant, operation: OperationId, outcome: Outcome) {
    let denial = outcome.as_ref().err().map(Problem::error_code);
    let before = session.denials();
    session.handle_done(now, operation, outcome);
    count_denial(session, before, denial);
}

/// The same for a renewal.
fn renewed(
    session: &mut Session,
    now: Instant,
    operation: OperationId,
    outcome: Result<Renewed, Problem>,
) {
    let denial = outcome.as_ref().err().map(Problem::error_code);
    let before = session.denials();
    session.handle_renewed(now, operation, outcome);
    count_denial(session, before, denial);
}

fn count_denial(session: &Session, before: u32, denial: Option<&'static str>) {
    if let Some(code) = denial
        && session.denials() > before
    {
        telemetry::refused(RefusedAt::Session, code);
    }
}
