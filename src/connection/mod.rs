//! One task a client: bytes from its [`Link`] go through the decoder into its session; what the
//! session asks for is done through hub, broker and hook; what comes back, and the messages of
//! its subscriptions, go out through the link.

mod admission;
mod context;
mod echo;
mod end;
mod link;
mod login;
pub mod mapping;
mod online;
mod permission;
mod rights;
mod uploads;
mod work;

use std::{
    collections::HashSet,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context as TaskContext, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use stomp_grammar::{Command, DecodeError, DecodeErrorKind, Decoder};
use stomp_session::{
    Action, CloseCode, Delivered, Delivery, Operation, OperationId, Outcome, Problem, Session,
    SubscriptionId,
};
use tokio::{
    task::{coop::cooperative, yield_now},
    time::{Instant, Sleep, error::Elapsed},
};

pub use context::Peer;
pub use link::{Link, LinkError, Outbound};
pub use uploads::{FREE, Unfinished};

use self::{
    context::Context,
    end::End,
    mapping::Sent,
    uploads::Uploads,
    work::{Done, Handed, NotHanded, Route, Task, Work},
};
use crate::{
    auth::Carried,
    broker::{Publish, QueueSpec, destination::Destination},
    hub::{Item, Parcel},
    node::{Guard, Services},
    telemetry::{self, Ending},
};

/// Bytes on their way to a client above which nothing more is made for it: neither answers to
/// frames nor messages.
const CONGESTED: usize = 64 * 1024;
/// Frames that are decoded before it is the turn of others: one read can bring hundreds, and those
/// that need nothing but the session are done at once.
const FRAMES_A_TURN: u8 = 16;
/// Messages taken from the mailbox before they are flushed.
const BATCH: usize = 64;
/// Room for the head of a MESSAGE that is not shared: `subscription`, `message-id` and `ack`.
const LONG_HEAD: usize = 224;
/// How long the last words to a client may take, and before them what it asked for and left.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// The distance of the strokes that timers of all connections keep to. An eighth of the shortest
/// interval that is moved to one: as early as a session writes a heart-beat.
const STROKE: Duration = Duration::from_millis(100);
/// Where the timer stands that has nothing to wait for: one that is over would fire for ever.
const NEVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// Queues that a connection remembers to have declared.
const MAX_REMEMBERED: usize = 1_000;

/// Serves one client until it is gone.
pub fn serve<L: Link>(
    services: Arc<Services>,
    link: L,
    peer: Peer,
    guard: Guard,
) -> impl Future<Output = ()> + Send {
    Connection::new(services, link, peer, guard).run()
}

struct Connection<L> {
    link: L,
    session: Session,
    decoder: Decoder,
    /// Received and not decoded yet.
    input: Bytes,
    /// How many bytes were received with it.
    whole: u32,
    uploads: Uploads,
    context: Arc<Context>,
    /// What the transport's opening brought for the login, until that begins.
    carried: Option<Box<Carried>>,
    routes: Vec<(SubscriptionId, Route)>,
    /// Queues that SEND frames had declared; few connections have any.
    #[expect(
        clippy::box_collection,
        reason = "8 bytes in each connection instead of 48"
    )]
    declared: Option<Box<HashSet<Box<str>>>>,
    work: Option<Box<Work>>,
    /// Messages to be accepted at the broker once they are written, and it is known how: the
    /// last one of each subscription.
    written: Vec<(SubscriptionId, u64)>,
    /// Since when the link does not take what is to be written.
    blocked_since: Option<Instant>,
    closing: Option<CloseCode>,
    /// Boxed, since it comes once.
    end: Option<Box<End>>,
    /// In nanoseconds after the services began: an `Instant` would take twice as much.
    opened: u64,
    /// Frames decoded since others had their turn.
    turn: u8,
    traffic: Traffic,
}

/// What went over a connection.
#[derive(Default)]
struct Traffic {
    frames_in: u32,
    frames_out: u32,
    messages_in: u32,
    messages_out: u32,
}

enum Event {
    Received(Bytes),
    LinkEnded(Result<(), LinkError>),
    Done(Done),
    Problem(Problem),
    /// Its memory is needed, and its client does not read.
    Cut,
    /// There is more to do at once.
    Progress,
    Timeout,
}

impl<L: Link> Connection<L> {
    fn new(services: Arc<Services>, link: L, mut peer: Peer, guard: Guard) -> Self {
        let now = Instant::now();
        let opened = now.duration_since(services.started()).as_nanos();
        let id = guard.new_session_id();
        let carried = peer.carried.take();
        let context = Context::new(services, &peer, guard, id);
        let settings = context.settings();
        let mut session = Session::new(settings.session(), context.session.clone(), now.into_std());
        if link.has_pings() {
            session.allow_pings();
        }
        Self {
            link,
            session,
            decoder: Decoder::new(settings.limits.decoder_unauthenticated()),
            input: Bytes::new(),
            whole: 0,
            uploads: Uploads::default(),
            context,
            carried,
            routes: Vec::new(),
            declared: None,
            work: None,
            written: Vec::new(),
            blocked_since: None,
            closing: None,
            end: None,
            opened: u64::try_from(opened).unwrap_or(u64::MAX),
            turn: 0,
            traffic: Traffic::default(),
        }
    }

    #[expect(
        clippy::manual_async_fn,
        reason = "an async fn would keep room for `self` twice, in each connection"
    )]
    fn run(mut self) -> impl Future<Output = ()> + Send {
        async move {
            let mut timer = pin!(tokio::time::sleep(Duration::ZERO));
            loop {
                self.act();
                if self.closing.is_some() {
                    break;
                }
                if self.turn >= FRAMES_A_TURN {
                    self.turn = 0;
                    yield_now().await;
                }
                self.set_timer(timer.as_mut());
                // What was read at once can be many frames: others get their turn between them.
                let event = poll_fn(|context| self.poll(context, timer.as_mut()));
                let event = cooperative(event).await;
                if !self.handle(event) {
                    break;
                }
            }
            // On the heap, so that nobody keeps room for it before the end.
            Box::pin(self.finish()).await;
        }
    }

    /// Does what the session asks for, and hands it frames, until both rest.
    fn act(&mut self) {
        loop {
            while let Some(action) = self.session.poll_action() {
                match action {
                    Action::Write(frame) => {
                        if frame.len() > 1 {
                            self.traffic.frames_out = self.traffic.frames_out.wrapping_add(1);
                        }
                        self.link.send(Outbound::whole(&frame));
                    }
                    Action::Ping => self.link.ping(),
                    Action::Close(code, problem) => {
                        self.closing = Some(code);
                        self.end_with(match problem {
                            Some(problem) => End::Problem(problem),
                            None => End::Disconnect,
                        });
                        return;
                    }
                    Action::Abandon(from) => {
                        if let Some(work) = &mut self.work {
                            work.abandon(from, &self.context);
                        }
                    }
                    other => self.work.get_or_insert_default().push(other),
                }
            }
            if self.begin_work() && !self.decode() {
                return;
            }
        }
    }

    /// Hands the session its next frame; `false` if there is none, or it must wait.
    fn decode(&mut self) -> bool {
        if self.input.is_empty()
            || !self.session.wants_frame()
            || self.is_congested()
            || self.turn >= FRAMES_A_TURN
        {
            return false;
        }
        self.turn += 1;
        let now = Instant::now().into_std();
        match self.decoder.decode(&mut self.input) {
            Ok(Some(mut frame)) => {
                let whole = self.whole as usize;
                self.uploads.count(&mut frame, whole, &self.context);
                if self.input.is_empty() {
                    // An empty rest holds on to all that was read with it.
                    self.input = Bytes::new();
                }
                self.traffic.frames_in = self.traffic.frames_in.wrapping_add(1);
                if frame.command == Command::Send {
                    self.traffic.messages_in = self.traffic.messages_in.wrapping_add(1);
                }
                self.session.handle_frame(now, frame);
                self.decoder.set_version(self.session.version());
                true
            }
            Ok(None) => {
                // Nothing of a read buffer is held on to.
                self.input = Bytes::new();
                false
            }
            Err(error) => {
                self.session.handle_decode_error(now, error);
                self.input = Bytes::new();
                true
            }
        }
    }

    fn is_congested(&self) -> bool {
        self.link.pending() >= CONGESTED
    }

    /// Begins what can be begun; `false` if the session was told that something cannot.
    fn begin_work(&mut self) -> bool {
        while let Some(action) = self.work.as_mut().and_then(|work| work.next()) {
            if let Err((operation, problem)) = self.begin(action) {
                let now = Instant::now().into_std();
                self.session.handle_done(now, operation, Err(problem));
                return false;
            }
        }
        if self.work.as_ref().is_some_and(|work| work.is_empty()) {
            self.work = None;
        }
        true
    }

    fn begin(&mut self, action: Action) -> Result<(), (OperationId, Problem)> {
        let context = Arc::clone(&self.context);
        context.set_handing(false);
        let operation = action.operation();
        let future = match action {
            Action::Authenticate(connect) => {
                work::authenticate(context, connect, self.carried.take()).boxed()
            }
            Action::Subscribe(operation, subscribe) => {
                work::subscribe(context, operation, subscribe).boxed()
            }
            Action::Unsubscribe(operation, unsubscribe) => {
                let route = self.take_route(unsubscribe.subscription);
                work::unsubscribe(context, operation, unsubscribe, route).boxed()
            }
            Action::Perform(operation, operations) => {
                let mut made = Vec::new();
                let tasks: Result<Vec<_>, _> = operations
                    .into_iter()
                    .filter_map(|task| self.task(operation, task, &mut made).transpose())
                    .collect();
                let tasks = tasks.map_err(|problem| (operation, problem))?;
                work::perform(context, operation, tasks).boxed()
            }
            // Handled where they are polled; and what a later session may ask for is not known
            // here.
            _ => return Ok(()),
        };
        self.work.get_or_insert_default().begin(operation, future);
        Ok(())
    }

    /// Gathers what is needed to do one thing of an operation; `None`: there is nothing to do.
    /// `made` are the queues for replies that things before it will make.
    fn task(
        &mut self,
        of: OperationId,
        operation: Operation,
        made: &mut Vec<(SubscriptionId, Box<str>)>,
    ) -> Result<Option<Task>, Problem> {
        match operation {
            Operation::Publish(publish) => {
                let context = Arc::clone(&self.context);
                let identity = context.identity().ok_or(Problem::NotLoggedIn)?;
                let mapping = context.mapping(identity);
                let (destination, headers) = (&publish.destination, &publish.headers);
                let sent = mapping::send(destination, headers, publish.body, &mapping)?;
                let mut sending = match sent {
                    Sent::Status(status) => return Ok(Some(Task::Say(status))),
                    Sent::Message(sending) => sending,
                };
                // A frame of a transaction has its receipt, and that of its COMMIT, to wait for.
                let is_awaited = |name: &&str| headers.get(name).is_some();
                if ["receipt", "transaction"].iter().any(is_awaited) {
                    self.expect_echo(of, &sending.publish);
                }
                let declared = self.declared.as_ref();
                let is_declared =
                    |queue: &QueueSpec| declared.is_some_and(|names| names.contains(&queue.name));
                sending.declare = sending.declare.filter(|queue| !is_declared(queue));
                let replies = match sending.temp_queue.take() {
                    None => None,
                    Some(name) => {
                        let name = Destination::TempQueue(name).to_string();
                        let subscription = self.session.open_replies(&name)?;
                        let (queue, request) = self.reply_queue(subscription, made, &mapping);
                        sending.publish.properties.reply_to = Some(queue);
                        request.map(|request| (subscription, request))
                    }
                };
                Ok(Some(Task::Publish(sending, replies)))
            }
            Operation::Settle(settle) => {
                Ok(match self.route(settle.subscription) {
                    Some(Route::Dedicated(route)) => {
                        Some(Task::Settle(Arc::clone(route.consumer()), settle))
                    }
                    // Unsubscribed meanwhile: what was unsettled is requeued.
                    _ => None,
                })
            }
            // What a later session may ask for is not known here.
            _ => Ok(None),
        }
    }

    /// The message will come back, if the client is subscribed to its key on a feed.
    fn expect_echo(&mut self, operation: OperationId, publish: &Publish) {
        let (exchange, key) = (&publish.exchange, &publish.routing_key);
        let hears = |route: &Route| match route {
            Route::Shared(shared) => shared.hears(exchange, key),
            Route::Dedicated(_) => false,
        };
        let routes = self.routes.iter().filter(|(_, route)| hears(route));
        let awaited: Vec<_> = routes.map(|(id, _)| *id).collect();
        if !awaited.is_empty() {
            let work = self.work.get_or_insert_default();
            work.echoes.expect(operation, publish, awaited);
        }
    }

    /// The queue for replies, and what to consume if it is not there yet.
    fn reply_queue(
        &self,
        subscription: SubscriptionId,
        made: &mut Vec<(SubscriptionId, Box<str>)>,
        mapping: &mapping::Context<'_>,
    ) -> (Box<str>, Option<crate::broker::Consume>) {
        if let Some(Route::Dedicated(route)) = self.route(subscription) {
            return (route.queue().into(), None);
        }
        if let Some((_, queue)) = made.iter().find(|(id, _)| *id == subscription) {
            return (queue.clone(), None);
        }
        let request = mapping::temp_queue(rand::random(), mapping);
        made.push((subscription, request.queue.name.clone()));
        (request.queue.name.clone(), Some(request))
    }

    fn route(&self, subscription: SubscriptionId) -> Option<&Route> {
        let found = self.routes.iter().find(|(id, _)| *id == subscription);
        found.map(|(_, route)| route)
    }

    fn take_route(&mut self, subscription: SubscriptionId) -> Option<Route> {
        let index = self.routes.iter().position(|(id, _)| *id == subscription)?;
        if let Some(rights) = self.context.rights() {
            rights.forget(subscription);
        }
        if let Some(work) = &mut self.work {
            work.echoes.unsubscribed(subscription);
        }
        let (_, route) = self.routes.swap_remove(index);
        self.routes.shrink_to_fit();
        Some(route)
    }

    /// Waits for whatever comes first. Each source gets its turn, however busy the others are:
    /// who is sent messages without end can still unsubscribe.
    fn poll(&mut self, context: &mut TaskContext<'_>, timer: Pin<&mut Sleep>) -> Poll<Event> {
        let mut progress = match self.poll_write(context) {
            Poll::Ready(Ok(())) => true,
            Poll::Ready(Err(event)) => return Poll::Ready(event),
            Poll::Pending => false,
        };
        if let Some(work) = &mut self.work {
            progress |= work.poll_accepting(context);
            if let Poll::Ready(done) = work.poll(context) {
                return Poll::Ready(Event::Done(done));
            }
        }
        let may_go_on = self.session.wants_frame() && !self.is_congested();
        // There is room again for the answers to what came before.
        progress |= may_go_on && !self.input.is_empty();
        if may_go_on
            && self.input.is_empty()
            && let Poll::Ready(received) = self.poll_receive(context)
        {
            return Poll::Ready(match received {
                Ok(Some(bytes)) => Event::Received(bytes),
                Ok(None) => Event::LinkEnded(Ok(())),
                Err(error) => Event::LinkEnded(Err(error)),
            });
        }
        if timer.poll(context).is_ready() {
            return Poll::Ready(Event::Timeout);
        }
        if progress {
            Poll::Ready(Event::Progress)
        } else {
            Poll::Pending
        }
    }

    /// Reads the link, as far as there is room for what is not whole yet.
    fn poll_receive(
        &mut self,
        context: &mut TaskContext<'_>,
    ) -> Poll<Result<Option<Bytes>, LinkError>> {
        loop {
            let (received, most) = self.decoder.unfinished();
            let unfinished = self.link.unfinished().and(Unfinished { received, most });
            let is_idle = self.work.is_none();
            ready!(
                self.uploads
                    .poll_room(unfinished, is_idle, &self.context, context)
            );
            if unfinished.is_large() {
                self.link.go_on();
                return self.link.poll_receive(context);
            }
            let received = self.link.poll_receive(context);
            // It may have come as far as it may without asking.
            if received.is_ready() || !self.link.unfinished().is_large() {
                return received;
            }
        }
    }

    /// Takes some messages out of the mailbox, and writes. Ready if there is more to do that
    /// nobody wakes this task for.
    fn poll_write(&mut self, context: &mut TaskContext<'_>) -> Poll<Result<(), Event>> {
        let mut is_empty = false;
        let mut head = Vec::new();
        for _ in 0..BATCH {
            if self.is_congested() {
                break;
            }
            match self.context.guard.mailbox().poll_take(context) {
                Poll::Ready(Item::Parcel(parcel)) => {
                    if let Err(problem) = self.deliver(&parcel, &mut head) {
                        return Poll::Ready(Err(Event::Problem(problem)));
                    }
                }
                Poll::Ready(Item::Again(messages)) => self.ask_again(messages),
                Poll::Ready(Item::Problem(problem)) => {
                    return Poll::Ready(Err(Event::Problem(problem)));
                }
                Poll::Pending => {
                    is_empty = true;
                    break;
                }
            }
        }
        let before = self.link.pending();
        if before > 0 {
            match self.link.poll_flush(context) {
                Poll::Ready(Ok(())) => {
                    if self.blocked_since.take().is_some() {
                        self.context.guard.mailbox().unstuck();
                    }
                    self.accept_written();
                }
                Poll::Ready(Err(error)) => {
                    return Poll::Ready(Err(Event::LinkEnded(Err(error))));
                }
                Poll::Pending => {
                    let pending = self.link.pending();
                    if pending >= CONGESTED && self.context.guard.mailbox().stuck(pending, context)
                    {
                        return Poll::Ready(Err(Event::Cut));
                    }
                    let was_blocked = self.blocked_since.is_some();
                    // A client that reads slowly is the mailbox's to judge: it does read.
                    if !was_blocked || self.link.pending() < before {
                        self.blocked_since = Some(Instant::now());
                    }
                    // The timer is to be set.
                    if !was_blocked {
                        return Poll::Ready(Ok(()));
                    }
                }
            }
        }
        // If the mailbox did not say that it is empty, it does not say either when it no more is.
        if is_empty || self.is_congested() {
            Poll::Pending
        } else {
            Poll::Ready(Ok(()))
        }
    }

    /// Hands a message to the link; an error, if that cannot carry it. `head` is a buffer, to be
    /// used again for the next one.
    fn deliver(&mut self, parcel: &Parcel, head: &mut Vec<u8>) -> Result<(), Problem> {
        let topics = &self.context.settings().stomp.default_topic_exchange;
        let tail = parcel.message.tail(self.session.version(), topics);
        head.clear();
        head.reserve(LONG_HEAD);
        let delivery = Delivery {
            subscription: parcel.subscription,
            tag: parcel.tag,
            redelivered: parcel.redelivered,
        };
        if let Some(work) = &mut self.work {
            work.echoes.heard(parcel.subscription, &parcel.message);
        }
        let now = Instant::now().into_std();
        match self.session.handle_delivery(now, delivery, head) {
            Delivered::Done if parcel.tag != 0 => self.will_accept(parcel),
            Delivered::Done | Delivered::AwaitingAck => {}
            // The subscription is over; what was unsettled is requeued with it.
            Delivered::Refused => return Ok(()),
        }
        if self.link.takes_text_only() && !tail.is_text {
            // It counts as received, or the broker would have it sent for ever.
            return Err(Problem::NotUtf8);
        }
        if parcel.dropped > 0 {
            head.extend_from_slice(format!("x-dropped:{}\n", parcel.dropped).as_bytes());
        }
        self.traffic.frames_out = self.traffic.frames_out.wrapping_add(1);
        self.traffic.messages_out = self.traffic.messages_out.wrapping_add(1);
        self.link.send(Outbound {
            head,
            tail: &tail.bytes,
            is_text: tail.is_text,
        });
        Ok(())
    }

    fn will_accept(&mut self, parcel: &Parcel) {
        let mut known = self.written.iter_mut().rev();
        match known.find(|(id, _)| *id == parcel.subscription) {
            Some((_, last)) => *last = parcel.tag,
            None => self.written.push((parcel.subscription, parcel.tag)),
        }
    }

    /// Accepts at the broker what an `ack:auto` client has been sent.
    fn accept_written(&mut self) {
        // A subscription's first messages can come before the broker's word that it is open.
        let may_open = self.work.is_some();
        for (subscription, tag) in std::mem::take(&mut self.written) {
            let route = self.routes.iter().find(|(id, _)| *id == subscription);
            match route {
                Some((_, Route::Dedicated(route))) if route.is_auto => {
                    let mailbox = self.context.guard.mailbox();
                    let work = self.work.get_or_insert_default();
                    work.accept(mailbox, subscription, route, tag);
                }
                None if may_open => self.written.push((subscription, tag)),
                _ => {}
            }
        }
    }

    /// Has the broker send messages again for which there was no room.
    fn ask_again(&mut self, messages: Vec<(SubscriptionId, u64)>) {
        self.context.guard.mailbox().watch();
        for (subscription, tag) in messages {
            let route = self.routes.iter().find(|(id, _)| *id == subscription);
            match (route, &mut self.work) {
                (Some((_, Route::Dedicated(route))), work) => {
                    work.get_or_insert_default().ask_again(route, tag);
                }
                // It may be about to open. If it is over, all of it was requeued.
                (None, Some(work)) => work.ask_later(subscription, tag),
                _ => {}
            }
        }
    }

    /// Whether to go on.
    fn handle(&mut self, event: Event) -> bool {
        let now = Instant::now();
        match event {
            Event::Received(bytes) => {
                self.session.handle_activity(now.into_std());
                // What was heard until now is told; only what comes later is news to the timer.
                self.link.was_heard();
                if self.link.was_answered() {
                    self.session.handle_pong(now.into_std());
                }
                // The timer does not get its turn while there is always something to read.
                self.session.handle_timeout(now.into_std());
                self.whole = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                self.input = bytes;
            }
            Event::LinkEnded(Err(LinkError::TooBig { limit })) => {
                let kind = DecodeErrorKind::FrameTooBig {
                    limit,
                    announced: None,
                };
                let error = DecodeError {
                    kind,
                    receipt: None,
                };
                self.session.handle_decode_error(now.into_std(), error);
                // After a DISCONNECT the session does not mind; but nothing more can be read.
                if self.session.wants_frame() {
                    self.end_with(End::Disconnect);
                    return false;
                }
            }
            Event::LinkEnded(outcome) => {
                let end = match outcome {
                    Ok(()) if self.has_disconnected() => End::Disconnect,
                    outcome => End::Link(outcome.err()),
                };
                self.end_with(end);
                return false;
            }
            Event::Done(done) => self.handle_done(now, done),
            Event::Problem(problem) if problem.is_revocation() => {
                let work = self.work.as_mut();
                let abandoned = work.and_then(|work| work.abandon_all(&self.context));
                let now = now.into_std();
                self.session.handle_revoked(now, problem, abandoned);
            }
            Event::Problem(problem) => self.session.handle_problem(now.into_std(), problem),
            Event::Cut => {
                self.end_with(End::Shed);
                return false;
            }
            Event::Progress => {}
            Event::Timeout => {
                let patience = self.context.settings().limits.write_timeout;
                if self
                    .blocked_since
                    .is_some_and(|since| now >= since + patience)
                {
                    self.end_with(End::WriteTimeout);
                    return false;
                }
                if self.uploads.is_overdue(now, patience) {
                    self.session
                        .handle_problem(now.into_std(), Problem::Overloaded);
                    return true;
                }
                // Who is half way through a long message lives. And who reads slowly what it is
                // sent is not read itself meanwhile, nor who waits for room.
                if self.link.was_heard() || self.is_congested() || self.uploads.waits() {
                    self.session.handle_activity(now.into_std());
                }
                self.session.handle_timeout(now.into_std());
            }
        }
        true
    }

    fn end_with(&mut self, end: End) {
        self.end = Some(Box::new(end));
    }

    fn has_disconnected(&self) -> bool {
        self.context.identity().is_some() && !self.session.is_connected()
    }

    fn handle_done(&mut self, now: Instant, done: Done) {
        let now = now.into_std();
        match done {
            Done::Authenticated(Ok((identity, device))) => {
                self.context.set_identity(identity);
                telemetry::connection_opened(&self.context.info());
                let limits = self.context.settings().limits.decoder();
                self.decoder.set_limits(limits);
                self.link.set_max_frame_size(limits.max_frame_size);
                let context = &self.context;
                self.link.count_for(&|| context.account());
                self.session.handle_authenticated(now, Ok(()));
                if self.context.services.presence.is_some() {
                    let work = self.work.get_or_insert_default();
                    work.find_groups(Arc::clone(&self.context), device);
                }
            }
            Done::Authenticated(Err(problem)) => {
                self.session.handle_authenticated(now, Err(problem));
            }
            Done::Subscribed(operation, subscription, outcome) => {
                let outcome: Outcome = outcome.map(|route| {
                    self.routes.reserve_exact(1);
                    self.routes.push((subscription, route));
                });
                self.session.handle_done(now, operation, outcome);
                self.accept_early();
            }
            Done::Handed(operation, Err(NotHanded { problem, replies })) => {
                for subscription in replies {
                    self.session.close_replies(subscription);
                }
                self.forget_echoes(operation);
                self.session.handle_done(now, operation, Err(problem));
            }
            Done::Handed(operation, Ok(handed)) => {
                let Handed {
                    confirms,
                    declared,
                    replies,
                } = handed;
                self.routes.extend(replies);
                self.accept_early();
                self.remember(declared);
                if confirms.is_empty() {
                    self.session.handle_done(now, operation, Ok(()));
                } else {
                    self.work
                        .get_or_insert_default()
                        .confirm(operation, confirms);
                }
            }
            Done::Operation(operation, outcome) => {
                self.forget_echoes(operation);
                self.session.handle_done(now, operation, outcome);
            }
            Done::Groups(groups, device) => self.context.join(groups, device),
        }
    }

    fn forget_echoes(&mut self, operation: OperationId) {
        if let Some(work) = &mut self.work {
            work.echoes.forget(operation);
        }
    }

    /// Settles what came before it was known how.
    fn accept_early(&mut self) {
        if let Some(work) = &mut self.work {
            let again = work.take_asked_later();
            if !again.is_empty() {
                self.ask_again(again);
            }
        }
        if !self.written.is_empty() && self.link.pending() == 0 {
            self.accept_written();
        }
    }

    fn remember(&mut self, declared: Vec<Box<str>>) {
        if declared.is_empty() {
            return;
        }
        let names = self.declared.get_or_insert_default();
        if names.len() >= MAX_REMEMBERED {
            names.clear();
        }
        names.extend(declared);
    }

    fn set_timer(&self, mut timer: Pin<&mut Sleep>) {
        let patience = self.context.settings().limits.write_timeout;
        let session = self.session.poll_timeout().map(Instant::from_std);
        let blocked = self.blocked_since.map(|since| since + patience);
        let upload = self.uploads.deadline(patience);
        let due = session.into_iter().chain(blocked).chain(upload).min();
        let due = due.map(|due| on_stroke(due, self.context.services.started()));
        // A timer that fires early does no harm, and to move it at every frame would cost more.
        if timer.is_elapsed() {
            timer
                .as_mut()
                .reset(due.unwrap_or_else(|| Instant::now() + NEVER));
        } else if let Some(due) = due.filter(|due| *due < timer.deadline()) {
            timer.as_mut().reset(due);
        }
    }

    fn age(&self) -> Duration {
        let running = self.context.services.started().elapsed();
        running.saturating_sub(Duration::from_nanos(self.opened))
    }

    /// The last words, and the end.
    async fn finish(mut self) {
        if self.closing.is_none() {
            // It may have sent and gone: what it asked for is done all the same.
            let _ = tokio::time::timeout(LAST_WORDS, self.finish_work()).await;
        }
        self.context.leave();
        self.context.guard.mailbox().close();
        if !matches!(self.end.as_deref(), Some(End::WriteTimeout | End::Shed)) {
            let _ = self.say_goodbye().await;
        }
        let Traffic {
            frames_in,
            frames_out,
            messages_in,
            messages_out,
        } = self.traffic;
        let duration = self.age();
        let kind = self.end.as_deref().map_or("", End::kind);
        let reason = self.end.map(|end| end.to_string());
        let ending = Ending {
            reason: reason.as_deref().unwrap_or_default(),
            kind,
            duration,
            frames_in: frames_in.into(),
            frames_out: frames_out.into(),
            messages_in: messages_in.into(),
            messages_out: messages_out.into(),
        };
        telemetry::connection_closed(&self.context.info(), &ending);
    }

    async fn finish_work(&mut self) {
        loop {
            self.act();
            if self.turn >= FRAMES_A_TURN && self.closing.is_none() {
                self.turn = 0;
                yield_now().await;
                continue;
            }
            let Some(work) = self.work.as_mut().filter(|_| self.closing.is_none()) else {
                return;
            };
            let done = poll_fn(|context| {
                work.poll_accepting(context);
                if work.is_empty() {
                    return Poll::Ready(None);
                }
                work.poll(context).map(Some)
            });
            match done.await {
                Some(done) => self.handle_done(Instant::now(), done),
                None => self.work = None,
            }
        }
    }

    /// Writes what is to be written, gives back what was not acknowledged, and closes the link.
    async fn say_goodbye(&mut self) -> Result<(), Elapsed> {
        let flushing = poll_fn(|context| self.link.poll_flush(context));
        let flushed = tokio::time::timeout(LAST_WORDS, flushing).await?;
        if flushed.is_ok() {
            self.accept_written();
            if let Some(mut work) = self.work.take() {
                let accepting = poll_fn(|context| {
                    work.poll_accepting(context);
                    if work.is_accepting() {
                        Poll::Pending
                    } else {
                        Poll::Ready(())
                    }
                });
                tokio::time::timeout(LAST_WORDS, accepting).await?;
            }
        }
        // Others need not wait for what this client did not acknowledge until it has closed, too.
        self.routes = Vec::new();
        let code = match self.end.as_deref() {
            Some(End::Link(Some(LinkError::Violation(_)))) => CloseCode::Protocol,
            Some(End::Link(Some(LinkError::NotUtf8))) => CloseCode::NotUtf8,
            _ => self.closing.unwrap_or(CloseCode::Normal),
        };
        if flushed.is_ok() {
            let closing = poll_fn(|context| self.link.poll_close(context, code));
            // A client that does not answer has had its time.
            tokio::time::timeout(LAST_WORDS, closing).await?;
        }
        Ok(())
    }
}

/// The last stroke before `due`, so that many connections' heart-beats are written in one wake-up
/// of a thread. What is due so soon that a stroke may be too early for the session stays where
/// it is: otherwise it would be asked again and again.
fn on_stroke(due: Instant, started: Instant) -> Instant {
    if due < Instant::now() + STROKE * 8 {
        return due;
    }
    let late = (due - started).as_nanos() % STROKE.as_nanos();
    due - Duration::from_nanos(u64::try_from(late).unwrap_or(0))
}

#[cfg(test)]
mod tests;
