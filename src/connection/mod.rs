//! One task a client: bytes from its [`Link`] go through the decoder into its session; hub, broker
//! and hook carry out the session's actions; their answers, and the messages of its subscriptions,
//! go out through the link.
//!
//! # How a connection is driven
//!
//! [`serve`] is the whole life of a client, and its loop is the only caller of the methods below.
//! A `Connection` is a state machine around a [`Session`], which is a smaller one. Both have these
//! kinds of method:
//!
//! - `act` takes the session's actions ([`Session::poll_action`]), does or begins each, and hands
//!   the session its next frame, until both rest. It never waits. It comes before each `poll`, for
//!   only `act` takes actions.
//! - `withdraw` ends subscriptions that others want to end; `act` writes what their client is told.
//! - `set_timer` asks all parts when they want to be woken, [`Session::poll_timeout`] among them. It
//!   comes after `act`, which may have changed the answer, and before `poll`.
//! - `poll` waits for the first `Event`: bytes, an operation that is done, a problem, the timer. It
//!   writes meanwhile. It changes the protocol's state only as far as a delivered message does. Its
//!   own comment has the rules of waking and of turns.
//! - `handle` tells the session the event, with the time, and leaves the consequences to the next
//!   `act`.
//!
//! The loop ends when the session asks to close, or when `handle` returns false. Then `finish`
//! completes the operations under way, and says goodbye.
//!
//! # The modules
//!
//! | Module | Its part |
//! |---|---|
//! | this one | the loop: the order of polls, and the effects of events |
//! | `read` | bytes to frames; room for large ones (`uploads`), and their pace (`pacing`) |
//! | `write` | messages out of the mailbox, frames into the link; `under_way` measures their delay |
//! | `operations` | operations under way, and their results: subscriptions (`route`), queues (`declared`), settlements (`work`), own messages (`echo`) |
//! | `goodbye`, `end` | the last words, and the reason |
//! | `describe` | what it does, for an operator who asks |
//! | `timer` | the one timer, on strokes that all connections share |
//! | `once` | messages that are published once, whatever is sent again |
//! | `settling` | ACK and NACK at the broker, and what a RECEIPT or a COMMIT may rely on |
//! | `stored` | how far clients of journals have acknowledged |
//! | `perform` | one action, from the hook's permissions (`permission`, asked `ahead`) to the broker's answer; the login (`login`, `admission`), and its `renewal` |
//! | [`mapping`] | the requests of frames to the broker (pure) |
//! | `context` | the client's identity; `rights`: its permissions, kept to ask again; `online`: the node's way to reach it |
//! | `link` | the duties of a transport towards a connection |
//! | `tapped` | frames that operators see as they pass |
//! | `withdrawing` | subscriptions that others end |

mod admission;
mod ahead;
mod answers;
mod context;
mod declared;
mod describe;
mod echo;
mod end;
mod event;
mod goodbye;
mod link;
mod login;
pub mod mapping;
mod once;
mod online;
mod operations;
mod pacing;
mod perform;
mod permission;
mod read;
mod renewal;
mod rights;
mod rooms;
mod route;
mod settling;
mod stored;
mod tapped;
mod timer;
mod under_way;
mod uploads;
mod withdrawing;
mod work;
mod write;

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use bytes::Bytes;
use stomp_grammar::{DecodeError, DecodeErrorKind};
use stomp_session::{Action, CloseCode, Problem, Session};
use tokio::{
    task::{coop::cooperative, yield_now},
    time::{Instant, Sleep},
};

pub use context::Peer;
pub use link::{FREE, Link, LinkError, Outbound, Unfinished};

use self::{
    context::Context,
    end::{End, Ended},
    event::Event,
    operations::Operations,
    read::Reader,
    work::{Done, NewLogin},
    write::{Writer, is_congested},
};
use crate::{
    node::{Guard, LoggedIn as _, RecheckPlace, Services},
    telemetry,
};

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
    context: Arc<Context>,
    reader: Reader,
    writer: Writer,
    operations: Operations,
    /// `None` before its end. Boxed, since the end comes once.
    ended: Option<Box<Ended>>,
    /// In nanoseconds after the services began: an `Instant` would take twice as much.
    opened: u64,
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
        let limits = settings.limits.decoder_unauthenticated();
        Self {
            link,
            reader: Reader::new(limits, session.version()),
            session,
            writer: Writer::default(),
            operations: Operations::new(carried),
            context,
            ended: None,
            opened: u64::try_from(opened).unwrap_or(u64::MAX),
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
                while !self.is_closing() && self.withdraw() {
                    self.act();
                }
                if self.is_closing() {
                    break;
                }
                if self.reader.ends_turn() {
                    yield_now().await;
                }
                self.set_timer(timer.as_mut());
                // One read can bring many frames: others get their turn between them.
                let event = poll_fn(|task| self.poll(task, timer.as_mut()));
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
        if self.context.guard.is_asked() {
            self.describe();
        }
        loop {
            while let Some(action) = self.session.poll_action() {
                match action {
                    Action::Write(frame) => {
                        let version = self.session.version();
                        tapped::goes(&self.context, (&frame, &[]), version);
                        self.writer.send(&mut self.link, &frame);
                    }
                    Action::Ping => self.link.ping(),
                    Action::Close(code, problem) => {
                        let end = problem.map_or(End::Disconnect, End::Problem);
                        self.end_with(end, Some(code));
                        return;
                    }
                    Action::Abandon(from) => self.operations.abandon(from, &self.context),
                    Action::GiveUp(subscription, tag, then) => {
                        self.operations
                            .give_up(subscription, tag, then, &self.context);
                    }
                    other => {
                        self.context.foresee(&other);
                        self.operations.push(other);
                    }
                }
            }
            let has_begun = self.operations.begin(&mut self.session, &self.context);
            if has_begun && !self.decode() {
                return;
            }
        }
    }

    /// Hands the session its next frame; `false` if there is none, or it must wait.
    fn decode(&mut self) -> bool {
        // At the end nothing makes room for the answers any more, and they are few: to what came before.
        let has_room = self.ended.is_some() || !is_congested(&self.link);
        has_room && self.reader.decode(&mut self.session, &self.context)
    }

    /// Waits for whatever comes first, and writes meanwhile.
    ///
    /// **Wake-ups.** Each source either has something or keeps this task's waker. In six cases
    /// neither is so, and nobody would wake the task: then `poll` is ready with [`Event::Progress`],
    /// and the loop comes back at once.
    ///
    /// 1. The mailbox keeps the waker only when it was found empty. After a full batch of messages
    ///    it was not asked again: progress. While the link is congested the mailbox is not asked at
    ///    all; then the link keeps the waker, for it has something to write. The mailbox has it too,
    ///    for an end of the node, or whoever takes the session from its client, does not wait for
    ///    the link.
    /// 2. The link did not take all that is to be written, for the first time: it keeps the waker,
    ///    but the timer is to be set, so that a client that reads nothing has an end: progress.
    /// 3. Bytes wait to be decoded, and the session wants frames and the link has room for the
    ///    answers: progress. Nobody else knows of these bytes.
    /// 4. A settlement is done: progress. It may have been the last thing under way, which only
    ///    `act` notes.
    /// 5. An operator asks what the connection does, or wants subscriptions to end: progress, for
    ///    `act` answers, and `withdraw` ends them.
    /// 6. A message was written that comes again unless it is acknowledged: the timer is to be set,
    ///    for the session may want to be woken earlier than before: progress.
    ///
    /// **Turns.** The order is write, settle, operations, read, timer. Progress alone does not end
    /// a turn, so a client that is sent messages without end is heard all the same. Settlements go
    /// before operations, which may end the consumer that they are about. Nothing is read before
    /// all that came is decoded, while the session wants no frame, or while the link is congested:
    /// then TCP slows the client down. Only a login that would take over from others has the link
    /// looked at meanwhile. The timer comes last; but each read tells the session the
    /// time, too, for a client that always sends would stop its clock otherwise.
    fn poll(&mut self, task: &mut TaskContext<'_>, timer: Pin<&mut Sleep>) -> Poll<Event> {
        let writing = self.writer.poll(
            &mut self.link,
            &mut self.session,
            &mut self.operations,
            &self.context,
            task,
        );
        let mut progress = match writing {
            Poll::Ready(Ok(())) => true,
            Poll::Ready(Err(stop)) => return Poll::Ready(stop.into()),
            Poll::Pending => false,
        };
        progress |= self.operations.poll_settlements(task);
        if let Poll::Ready(done) = self.operations.poll(&self.context, task) {
            return Poll::Ready(Event::Done(done));
        }
        if self.context.is_looked_for() {
            return Poll::Ready(self.look(task));
        }
        let is_read = !self.reader.is_paused() && !is_congested(&self.link);
        if is_read && self.session.wants_frame() {
            if !self.reader.is_empty() {
                progress = true;
            } else {
                let is_idle = self.operations.is_idle();
                let reading = self
                    .reader
                    .poll(&mut self.link, is_idle, &self.context, task);
                if let Poll::Ready(received) = reading {
                    return Poll::Ready(received.into());
                }
            }
        }
        if timer.poll(task).is_ready() {
            return Poll::Ready(Event::Timeout);
        }
        // Whoever asked has woken this task, and `act` or `withdraw` answers.
        if progress || self.context.guard.is_asked() || self.context.guard.is_told() {
            Poll::Ready(Event::Progress)
        } else {
            Poll::Pending
        }
    }

    /// A login has proved its client, and would take over from others: is it there still? What it has
    /// sent meanwhile is kept, as far as it may without asking.
    fn look(&mut self, task: &mut TaskContext<'_>) -> Event {
        // It may send what it may once it is logged in.
        let limits = self.context.settings().limits.decoder();
        self.link.set_max_frame_size(limits.max_frame_size);
        let received = match self.reader.may_read_ahead() {
            true => self.link.poll_receive(task),
            false => Poll::Pending,
        };
        match received {
            Poll::Ready(received) => received.into(),
            Poll::Pending => {
                self.context.set_there();
                Event::Progress
            }
        }
    }

    /// Tells the session the event. Returns false if the connection is over.
    fn handle(&mut self, event: Event) -> bool {
        let now = Instant::now();
        match event {
            Event::Received(bytes) => self.handle_received(now, bytes),
            Event::LinkEnded(Err(LinkError::TooBig { limit })) => {
                return self.handle_too_big(now, limit);
            }
            Event::LinkEnded(outcome) => {
                let end = match outcome {
                    Ok(()) if self.has_disconnected() => End::Disconnect,
                    outcome => End::Link(outcome.err()),
                };
                self.end_with(end, None);
                return false;
            }
            Event::Done(done) => self.handle_done(now, done),
            Event::Problem(problem) if problem.is_revocation() => {
                let abandoned = self.operations.abandon_all(&self.context);
                let now = now.into_std();
                self.session.handle_revoked(now, problem, abandoned);
            }
            Event::Problem(problem) => self.session.handle_problem(now.into_std(), problem),
            Event::Cut => {
                self.end_with(End::Shed, None);
                return false;
            }
            Event::Progress => {}
            Event::Timeout => return self.handle_timeout(now),
        }
        true
    }

    fn handle_received(&mut self, now: Instant, bytes: Bytes) {
        let count = self.link.bytes_read().unwrap_or(bytes.len());
        let counted = self.reader.receive(bytes, count, &self.context);
        let now = now.into_std();
        self.session.handle_activity(now);
        // The session knows all bytes until now; only later ones are news to the timer.
        self.link.was_heard();
        if self.link.was_answered() {
            self.session.handle_pong(now);
        }
        // The timer does not get its turn while there is always something to read.
        self.session.handle_timeout(now);
        if let Err(problem) = counted {
            self.session.handle_problem(now, problem);
        }
    }

    fn handle_too_big(&mut self, now: Instant, limit: usize) -> bool {
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
            self.end_with(End::Disconnect, None);
            return false;
        }
        true
    }

    fn handle_timeout(&mut self, now: Instant) -> bool {
        let patience = self.context.settings().limits.write_timeout;
        if self.writer.is_overdue(now, patience) {
            self.end_with(End::WriteTimeout, None);
            return false;
        }
        if self.reader.is_overdue(now, patience) {
            self.session
                .handle_problem(now.into_std(), Problem::Overloaded);
            return true;
        }
        if !self.resume(now) {
            return true;
        }
        // A client in the middle of a long message lives. And a client that reads slowly, or waits
        // for room, is not read itself meanwhile, so it cannot be heard.
        if self.link.was_heard() || is_congested(&self.link) || self.reader.waits() {
            self.session.handle_activity(now.into_std());
        }
        self.session.handle_timeout(now.into_std());
        true
    }

    /// Reads the client again after a pause, if it is time; `false` if it has to go.
    fn resume(&mut self, now: Instant) -> bool {
        let resumed = self.reader.resume(now, &self.context);
        let may_stay = resumed.is_ok();
        if let Err(problem) = resumed {
            self.session.handle_problem(now.into_std(), problem);
        }
        may_stay
    }

    fn handle_done(&mut self, now: Instant, done: Done) {
        let login = self.operations.handle_done(
            now.into_std(),
            done,
            &mut self.session,
            &self.context,
            self.link.pending() == 0,
        );
        if let Some(login) = login {
            self.handle_login(now, login);
        }
    }

    /// The client may log in: the session hears of it when everything is ready for its frames.
    fn handle_login(&mut self, now: Instant, login: NewLogin) {
        let NewLogin {
            identity,
            device,
            until,
            last_number,
            rechecks,
        } = login;
        if self.context.settings().stays_if_denied(&identity.user.name) {
            self.session.stay_if_denied();
        }
        self.context.set_identity(identity);
        if self.context.services.registry.rechecks() != rechecks {
            // One has begun since the hook was asked, and found no session here.
            tokio::spawn(Arc::clone(&self.context).recheck(RecheckPlace::alone()));
        }
        telemetry::connection_opened(&self.context.info());
        self.context.tell_connected();
        let limits = self.context.settings().limits.decoder();
        self.reader.set_limits(limits);
        self.link.set_max_frame_size(limits.max_frame_size);
        let context = &self.context;
        self.link.count_for(&|| context.account());
        let until = until.map(Instant::into_std);
        self.session
            .handle_authenticated_with(now.into_std(), Ok(until), last_number);
        if self.context.services.presence.is_some() {
            self.operations.find_groups(&self.context, device);
        }
    }

    fn set_timer(&self, timer: Pin<&mut Sleep>) {
        let patience = self.context.settings().limits.write_timeout;
        let session = self.session.poll_timeout().map(Instant::from_std);
        let blocked = self.writer.deadline(patience);
        let upload = self.reader.deadline(patience);
        let due = session.into_iter().chain(blocked).chain(upload).min();
        timer::set(timer, due, self.context.services.started());
    }

    fn end_with(&mut self, end: End, code: Option<CloseCode>) {
        self.ended = Some(Box::new(Ended { end, code }));
    }

    /// True if the session asked to close.
    fn is_closing(&self) -> bool {
        self.ended
            .as_ref()
            .is_some_and(|ended| ended.code.is_some())
    }

    fn has_disconnected(&self) -> bool {
        self.context.identity().is_some() && !self.session.is_connected()
    }
}

#[cfg(test)]
mod tests;
