//! The machine itself: its phases, the events it takes, and its wishes.

mod commands;
mod renewing;

use std::{collections::VecDeque, sync::Arc, time::Instant};

use bytes::Bytes;
use stomp_grammar::{Command, DecodeError, DecodeErrorKind, Frame, Headers, Version};

use crate::{
    Action, CloseCode, Config, Connect, Delivered, Delivery, GiveUp, Operation, OperationId,
    Outcome, Problem, SubscriptionId,
    frames::{self, MessageId},
    heartbeat::Rates,
    liveness::{Due, Liveness},
    receipts::{IfDenied, Pending, unsettled},
    redelivery::{GivenUp, Redelivery},
    subscriptions::{Name, OpenSubscription, Subscriptions},
    transactions::Transactions,
};

/// One client's side of the protocol.
///
/// It does no I/O and reads no clock, so the caller drives it. There are four kinds of methods:
///
/// 1. **Events in,** by `handle_*`, each with the time: a frame ([`Session::handle_frame`]), bytes
///    ([`Session::handle_activity`], [`Session::handle_decode_error`]), an answer
///    ([`Session::handle_authenticated`], [`Session::handle_done`], [`Session::handle_renewed`]), a
///    message for the client
///    ([`Session::handle_delivery`]), the end ([`Session::handle_problem`]), the time
///    ([`Session::handle_timeout`]).
/// 2. **Wishes out,** by [`Session::poll_action`]: call it after every `handle_*` until it answers
///    `None`, and fulfil the actions in that order. An action with an [`OperationId`] is answered
///    by [`Session::handle_done`], in any order.
/// 3. **The next time,** by [`Session::poll_timeout`]: ask after the actions, for every other call
///    may change it; then call [`Session::handle_timeout`].
/// 4. **Questions** that change nothing: [`Session::wants_frame`] before the next frame is read,
///    [`Session::is_connected`], [`Session::is_closed`] and others.
///
/// A session writes at most one ERROR. After it comes only [`Action::Close`], and a closed session
/// ignores all events. Only with [`Config::soft_deny`] there may be other ERRORs before it, each
/// about one denied frame.
///
/// The ERROR follows the work of earlier frames, and does not replace it: the session takes no
/// further frame, waits until the operations of earlier frames are done, writes their receipts in
/// order, and only then the ERROR. [`Config::finish_timeout`] bounds that wait.
#[derive(Debug)]
pub struct Session {
    config: Arc<Config>,
    id: Box<str>,
    actions: VecDeque<Action>,
    pending: Pending,
    subscriptions: Subscriptions,
    transactions: Transactions,
    /// `None` without a subscription that asked for it.
    redelivery: Option<Box<Redelivery>>,
    waiting: Option<Box<Postponed>>,
    liveness: Liveness,
    /// After which it went on.
    denials: u32,
    /// It goes on in any case.
    stays_if_denied: bool,
    /// Messages were settled by frames that asked for no receipt.
    has_unheard: bool,
    /// When the phase ends, if it ends by itself. While connected: the login's time is over.
    deadline: Option<Instant>,
    version: Version,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The transport is open, nothing came yet. Ends by `deadline`.
    AwaitingConnect,
    /// CONNECT came; the surroundings authenticate the client. Ends by the same `deadline`.
    Authenticating,
    /// CONNECTED was sent. Ends by `deadline`, if the login has one.
    Connected,
    /// DISCONNECT came; operations before it are not done yet.
    Disconnecting {
        /// It asked for a receipt, so the client will close (STOMP 1.2, "DISCONNECT").
        receipt: bool,
    },
    /// The session is to end with the ERROR that waits; operations before it are not done yet. Ends
    /// by
    /// `deadline`.
    Failing,
    /// DISCONNECT was answered; the client may close. Ends by `deadline`.
    Lingering,
    /// [`Action::Close`] was asked.
    Closed,
}

/// A frame or an ERROR that waits for its time. Few sessions have one, and no session has both.
#[derive(Debug)]
enum Postponed {
    /// The first frame of a client that is logged in by it, until that is done.
    First(Frame),
    /// The ERROR that ends the session as soon as all before it is done, and the `receipt` header
    /// of the frame that it is about.
    Error(Problem, Option<Box<str>>),
}

impl Session {
    /// A session whose transport has just opened. `id` is the `session` header of CONNECTED:
    /// unique, and not to be guessed; of letters, digits, `-`, `_` and `.`, since it goes into
    /// headers without escapes.
    #[must_use]
    pub fn new(config: Arc<Config>, id: Box<str>, now: Instant) -> Self {
        debug_assert!(
            id.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)),
            "a session's id must not need escapes: {id}"
        );
        Self {
            deadline: now.checked_add(config.login_timeout),
            config,
            id,
            actions: VecDeque::new(),
            pending: Pending::default(),
            subscriptions: Subscriptions::default(),
            transactions: Transactions::default(),
            redelivery: None,
            waiting: None,
            liveness: Liveness::new(now),
            denials: 0,
            stays_if_denied: false,
            has_unheard: false,
            version: Version::V1_0,
            phase: Phase::AwaitingConnect,
        }
    }

    /// The `session` header.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The negotiated version, for decoding frames and encoding messages. Known as soon as
    /// `handle_frame` took the CONNECT; 1.0 until then.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Whether CONNECTED was sent and nothing ended the session since: no DISCONNECT, no
    /// problem.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.phase == Phase::Connected
    }

    /// How many denials were answered by an ERROR that did not end the session.
    #[must_use]
    pub fn denials(&self) -> u32 {
        self.denials
    }

    /// Whether [`Action::Close`] was asked.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// Whether the caller may hand in the next frame now. If not, the caller keeps it (and stops
    /// reading the transport) until some operation is done. Meanwhile the session does not expect
    /// to hear the client, which has a whole time-out again once this is true.
    #[must_use]
    pub fn wants_frame(&self) -> bool {
        match self.phase {
            // A session that is about to end reads nothing meanwhile.
            Phase::Authenticating | Phase::Failing | Phase::Closed => false,
            Phase::Connected => self.pending.len() < self.config.max_pending.max(1),
            // After DISCONNECT, frames are read and ignored: only so the client's closing shows.
            Phase::AwaitingConnect | Phase::Disconnecting { .. } | Phase::Lingering => true,
        }
    }

    /// Operations begun and not done, and receipts that wait for them.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Subscriptions open now.
    #[must_use]
    pub fn subscriptions(&self) -> usize {
        self.subscriptions.len()
    }

    /// The subscriptions open now, the oldest first.
    pub fn open_subscriptions(&self) -> impl Iterator<Item = OpenSubscription<'_>> {
        self.subscriptions.iter()
    }

    /// Bytes of the frames in open transactions, as [`crate::gathered_bytes`] counts them.
    #[must_use]
    pub fn gathered(&self) -> usize {
        self.transactions.bytes()
    }

    /// Those of ACK and NACK among them, which have no body to hold a claim.
    #[must_use]
    pub fn gathered_acknowledgements(&self) -> usize {
        self.transactions.acknowledging()
    }

    /// Bytes arrived from the client, whatever they are: it lives (STOMP 1.2, "Heart-beating").
    /// Call it also while the surroundings themselves do not read the transport for a reason that
    /// the session does not know (a broker's alarm, say).
    pub fn handle_activity(&mut self, now: Instant) {
        self.liveness.heard(now);
    }

    /// The transport can ask the client whether it lives: [`Action::Ping`] may follow. Call it
    /// before anything else.
    pub fn allow_pings(&mut self) {
        self.liveness.allow_pings();
    }

    /// The session goes on after denials as with [`Config::soft_deny`], however many there are.
    pub fn stay_if_denied(&mut self) {
        self.stays_if_denied = true;
    }

    /// The client answered an [`Action::Ping`].
    pub fn handle_pong(&mut self, now: Instant) {
        self.liveness.answered(now);
    }

    /// The client's next frame. If [`Session::wants_frame`] is false because of pending
    /// operations, the session takes it all the same; a frame that overtakes the answer to CONNECT
    /// is an error, and one that follows a DISCONNECT or an error is ignored.
    ///
    /// The session may keep its body for as long as a transaction is open, or the broker is asked.
    /// So the body should hold on to no more memory than is counted for it, and not to all bytes
    /// that were read with it.
    pub fn handle_frame(&mut self, now: Instant, frame: Frame) {
        self.liveness.heard(now);
        match self.phase {
            Phase::AwaitingConnect if is_connect(&frame) => {
                if let Err(problem) = self.connect(frame) {
                    self.fail(now, problem, None);
                }
            }
            Phase::AwaitingConnect if self.config.implicit_connect => {
                self.authenticate(Rates::default(), Headers::default());
                self.waiting = Some(Box::new(Postponed::First(frame)));
            }
            Phase::AwaitingConnect | Phase::Authenticating => {
                self.fail(now, Problem::NotLoggedIn, receipt(&frame));
            }
            Phase::Connected => self.handle_command(now, frame),
            Phase::Disconnecting { .. } | Phase::Failing | Phase::Lingering | Phase::Closed => {}
        }
    }

    /// The decoder cannot read the client's bytes any further. Without meaning after DISCONNECT.
    pub fn handle_decode_error(&mut self, now: Instant, error: DecodeError) {
        let problem = match self.phase {
            Phase::Connected => Problem::Malformed(error.kind),
            // An unknown command is no CONNECT either; the plug-in says so, too.
            Phase::AwaitingConnect | Phase::Authenticating => match error.kind {
                DecodeErrorKind::UnknownCommand(_) if !self.config.implicit_connect => {
                    Problem::NotLoggedIn
                }
                kind => Problem::Malformed(kind),
            },
            Phase::Disconnecting { .. } | Phase::Failing | Phase::Lingering | Phase::Closed => {
                return;
            }
        };
        self.fail(now, problem, error.receipt);
    }

    /// The answer to [`Action::Authenticate`]: when the login ends by itself, if it does.
    pub fn handle_authenticated(
        &mut self,
        now: Instant,
        outcome: Result<Option<Instant>, Problem>,
    ) {
        self.handle_authenticated_with(now, outcome, None);
    }

    /// The same, of a client whose SENDs are numbered: CONNECTED says `last_number`, too, in the
    /// header `last-client-seq`.
    pub fn handle_authenticated_with(
        &mut self,
        now: Instant,
        outcome: Result<Option<Instant>, Problem>,
        last_number: Option<u64>,
    ) {
        if self.phase != Phase::Authenticating {
            return;
        }
        let first = match self.waiting.take().map(|waiting| *waiting) {
            Some(Postponed::First(frame)) => Some(frame),
            _ => None,
        };
        let until = match outcome {
            Ok(until) => until,
            Err(problem) => {
                let receipt = first.as_ref().and_then(receipt);
                return self.fail(now, problem, receipt);
            }
        };
        self.phase = Phase::Connected;
        self.deadline = until;
        self.liveness.heard(now);
        if let Some(first) = first {
            return self.handle_command(now, first);
        }
        let rates = self.liveness.rates();
        let server = self.config.server.as_deref();
        self.write(
            now,
            frames::connected(
                server,
                &self.id,
                rates,
                self.version,
                frames::left(until, now),
                last_number,
            ),
        );
    }

    /// The answer to the action with that id, in any order among operations. Ignored if there is no
    /// such operation, or it is done.
    pub fn handle_done(&mut self, now: Instant, operation: OperationId, outcome: Outcome) {
        match outcome {
            Ok(()) => self.finish(now, operation),
            Err(problem) => {
                let is_soft = self.undo_denied(operation, &problem);
                let Some(receipt) = self.pending.fail(operation) else {
                    return;
                };
                if is_soft {
                    self.write(
                        now,
                        frames::error(&problem, receipt.as_deref(), self.version),
                    );
                    self.finish(now, operation);
                } else {
                    // Later frames are dropped. Earlier ones are done, and may fail, too: then the
                    // ERROR is theirs.
                    if self.pending.abandon(operation) {
                        self.actions.push_back(Action::Abandon(operation));
                    }
                    self.fail(now, problem, receipt);
                }
            }
        }
    }

    /// Has the RECEIPT of an operation, if its client asked for one, say more: before
    /// [`Session::handle_done`].
    pub fn tell_in_receipt(
        &mut self,
        operation: OperationId,
        headers: Box<[(&'static str, Box<str>)]>,
    ) {
        self.pending.tell(operation, headers);
    }

    fn finish(&mut self, now: Instant, operation: OperationId) {
        let held = !self.wants_frame();
        self.pending.finish(operation);
        self.flush_receipts(now);
        // The transport was not read, so the client could not be heard.
        if held && self.wants_frame() {
            self.liveness.heard(now);
        }
    }

    /// Whether the session goes on although the operation was denied: if so, the operation has
    /// left no trace.
    fn undo_denied(&mut self, operation: OperationId, problem: &Problem) -> bool {
        let has_more = self.config.soft_deny && self.denials < self.config.max_denials;
        let is_soft = self.stays_if_denied || has_more;
        let is_denied = matches!(
            problem,
            Problem::PermissionDenied { .. }
                | Problem::PermissionUnavailable { .. }
                | Problem::RoomFull { .. }
                | Problem::RoomsUnavailable(_)
        );
        if !is_soft || !is_denied {
            return false;
        }
        match self.pending.if_denied(operation) {
            Some(IfDenied::Nothing | IfDenied::Renewal) => {}
            Some(IfDenied::Close(subscription)) => {
                self.subscriptions.deny(subscription);
                self.take_back(subscription);
            }
            Some(IfDenied::TooLate) | None => return false,
        }
        self.denials = self.denials.saturating_add(1);
        true
    }

    /// A frame of a connected client.
    fn handle_command(&mut self, now: Instant, frame: Frame) {
        let receipt = receipt(&frame);
        match self.command(frame) {
            Ok(request) => self.begin(request, receipt),
            Err(problem) => return self.fail(now, problem, receipt),
        }
        self.flush_receipts(now);
    }

    /// A message for a subscription: appends the head of its MESSAGE frame to `head`. The frame
    /// goes to the client after all actions polled before. Its tail, encoded for
    /// [`Session::version`], follows: the headers that all receivers share (`destination` among
    /// them), the empty line, the body, NUL.
    pub fn handle_delivery(
        &mut self,
        now: Instant,
        delivery: Delivery,
        head: &mut Vec<u8>,
    ) -> Delivered {
        let Delivery {
            subscription: id,
            tag,
            redelivered,
        } = delivery;
        if self.phase != Phase::Connected {
            return Delivered::Refused;
        }
        let Some(subscription) = self.subscriptions.get_open_mut(id) else {
            return Delivered::Refused;
        };
        let sequence = subscription.deliver(tag);
        let awaits_ack = subscription.awaits_acks();
        let message = MessageId {
            subscription: id,
            session: &self.id,
            sequence,
        };
        let name = subscription.name();
        frames::message_head(head, self.version, name, message, redelivered, awaits_ack);
        self.liveness.wrote(now);
        if !awaits_ack {
            return Delivered::Done;
        }
        let redelivery = self.redelivery.as_mut();
        if redelivery.is_some_and(|redelivery| redelivery.wrote(now, id, sequence, tag)) {
            Delivered::Kept
        } else {
            Delivered::AwaitingAck
        }
    }

    /// Whether [`Session::poll_again`] may have something.
    #[must_use]
    pub fn has_again(&self) -> bool {
        let redelivery = self.redelivery.as_ref();
        redelivery.is_some_and(|redelivery| redelivery.is_ready())
    }

    /// A message that is to be written again now: its subscription and [`Delivery::tag`]. Appends the
    /// head of its MESSAGE frame to `head`, as [`Session::handle_delivery`] does. Call it until
    /// `None` after [`Session::handle_timeout`], and again when the transport has become able to take
    /// more: meanwhile nothing is counted as written. A message that is not held any more, for the
    /// broker has taken it back, is forgotten.
    pub fn poll_again(
        &mut self,
        now: Instant,
        is_held: impl Fn(SubscriptionId, u64) -> bool,
        head: &mut Vec<u8>,
    ) -> Option<(SubscriptionId, u64)> {
        let redelivery = self.redelivery.as_mut()?;
        loop {
            let again = redelivery.again(now)?;
            let (id, sequence) = (again.subscription, again.sequence);
            // A subscription that is over ended its redelivery, too.
            let subscription = self.subscriptions.get(id);
            let Some(subscription) = subscription.filter(|_| is_held(id, again.tag)) else {
                redelivery.forget((id, sequence));
                continue;
            };
            let message = MessageId {
                subscription: id,
                session: &self.id,
                sequence,
            };
            frames::message_head(head, self.version, subscription.name(), message, true, true);
            frames::attempt(head, again.attempt);
            self.liveness.wrote(now);
            return Some((id, again.tag));
        }
    }

    /// An event outside the protocol ends the session: it finishes all frames that it took, then
    /// come ERROR and close. After the answer to a DISCONNECT only the close; and a session that is
    /// about to end ends for its own reason, but in time.
    pub fn handle_problem(&mut self, now: Instant, problem: Problem) {
        match self.phase {
            Phase::Lingering => self.close(CloseCode::Normal, None),
            Phase::Disconnecting { .. } => self.hurry(now, problem, None),
            Phase::Failing if !problem.is_revocation() => {
                self.deadline = sooner(self.deadline, self.due(now, &problem));
            }
            _ => self.fail(now, problem, None),
        }
    }

    /// As [`Session::handle_problem`], if somebody takes the session from its client
    /// ([`Problem::is_revocation`]): the operations from `abandoned` on, of which the broker has
    /// not heard, are dropped, and get no receipts.
    pub fn handle_revoked(
        &mut self,
        now: Instant,
        problem: Problem,
        abandoned: Option<OperationId>,
    ) {
        if let Some(from) = abandoned {
            self.pending.abandon(from);
        }
        match self.phase {
            // The DISCONNECT gets no answer now.
            Phase::Disconnecting { .. } if abandoned.is_some() => self.fail(now, problem, None),
            _ => self.handle_problem(now, problem),
        }
    }

    /// The time of [`Session::poll_timeout`] has come. Earlier calls do no harm: in the last eighth
    /// of its interval, the first of them sends a heart-beat or a ping. So a call that comes with
    /// another event, or with other sessions' calls, saves a wake-up.
    pub fn handle_timeout(&mut self, now: Instant) {
        let is_due = |due: Option<Instant>| due.is_some_and(|due| due <= now);
        match self.phase {
            Phase::AwaitingConnect | Phase::Authenticating => {
                if is_due(self.deadline) {
                    self.fail(now, Problem::LoginTimeout, None);
                }
            }
            Phase::Connected | Phase::Disconnecting { .. } | Phase::Failing => {
                if is_due(self.expiry()) {
                    self.fail(now, Problem::TokenExpired, None);
                } else if is_due(self.end_due()) {
                    self.end(now);
                }
                self.give_up(now);
                while self.phase != Phase::Closed
                    && let Some(due) = self.liveness.due(now, &self.config, self.is_read())
                {
                    match due {
                        Due::Beat => self.write(now, frames::HEARTBEAT),
                        Due::Ping => {
                            self.liveness.pinged(now);
                            self.actions.push_back(Action::Ping);
                        }
                        Due::End(problem) => self.fail(now, problem, None),
                    }
                }
            }
            Phase::Lingering => {
                if is_due(self.deadline) {
                    self.close(CloseCode::Normal, None);
                }
            }
            Phase::Closed => {}
        }
    }

    /// The next action; call until `None` after each `handle_*`.
    pub fn poll_action(&mut self) -> Option<Action> {
        let action = self.actions.pop_front();
        // Sessions are many and mostly idle: an empty list keeps no memory.
        if self.actions.is_empty() && self.actions.capacity() > 0 {
            self.actions = VecDeque::new();
        }
        action
    }

    /// When to call [`Session::handle_timeout`] at the latest, if nothing else happens before. Any
    /// other call may change it.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.phase {
            Phase::AwaitingConnect | Phase::Authenticating | Phase::Lingering => self.deadline,
            Phase::Connected | Phase::Disconnecting { .. } | Phase::Failing => {
                let redelivery = self.redelivery.as_ref();
                [
                    self.liveness.next(&self.config, self.is_read()),
                    self.expiry(),
                    self.end_due(),
                    redelivery.and_then(|redelivery| redelivery.next()),
                ]
                .into_iter()
                .flatten()
                .min()
            }
            Phase::Closed => None,
        }
    }

    /// Opens a subscription that no SUBSCRIBE asked for: to the replies to a SEND with
    /// `reply-to:/temp-queue/…`. `name` is that header, and the `subscription` header of its
    /// messages. The same name again is the same subscription. SUBSCRIBE and UNSUBSCRIBE cannot
    /// carry such names.
    ///
    /// # Errors
    /// [`Problem::TooManySubscriptions`]; the session goes on unless it is told to
    /// [`Session::handle_done`] or [`Session::handle_problem`].
    pub fn open_replies(&mut self, name: &str) -> Result<SubscriptionId, Problem> {
        let name = Name::Id(name);
        match self.subscriptions.find(name) {
            Some(subscription) => Ok(subscription),
            None => {
                let limit = self.config.max_subscriptions;
                self.subscriptions.open(name, crate::AckMode::Auto, limit)
            }
        }
    }

    /// Takes back the subscription of [`Session::open_replies`], for a SEND that was denied: there
    /// is no queue for it. Call it before [`Session::handle_done`].
    pub fn close_replies(&mut self, subscription: SubscriptionId) {
        self.subscriptions.close_number(subscription);
    }

    /// CONNECT or STOMP. A `receipt` on it means nothing (STOMP 1.2, "Standard Headers").
    fn connect(&mut self, frame: Frame) -> Result<(), Problem> {
        let version = Version::negotiate(frame.header("accept-version"));
        self.version = version.ok_or(Problem::VersionMismatch)?;
        let client = Rates::parse(frame.header("heart-beat")).ok_or(Problem::InvalidHeader {
            command: frame.command,
            header: "heart-beat",
            expected: Rates::EXPECTED,
        })?;
        self.authenticate(client, frame.headers);
        Ok(())
    }

    fn authenticate(&mut self, client: Rates, headers: Headers) {
        let Config {
            heartbeat_send,
            heartbeat_receive,
            ..
        } = *self.config;
        self.liveness
            .agree(Rates::configured(heartbeat_send, heartbeat_receive).agree(client));
        self.phase = Phase::Authenticating;
        let connect = Connect { headers };
        self.actions
            .push_back(Action::Authenticate(Box::new(connect)));
    }

    /// Asks for the operation that a frame needs, and enters it among the pending ones.
    fn begin(&mut self, request: Request, receipt: Option<Box<str>>) {
        let action = match request {
            Request::Nothing => return self.pending.complete(receipt, None),
            Request::TooLate => return self.pending.complete(receipt, Some(unsettled())),
            Request::Gathered => return,
            Request::Subscribe(ask) => {
                let if_denied = IfDenied::Close(ask.subscription);
                Action::Subscribe(self.pending.begin(receipt, if_denied), ask)
            }
            Request::Unsubscribe(ask) => {
                Action::Unsubscribe(self.pending.begin(receipt, IfDenied::Nothing), ask)
            }
            Request::Renew(ask) => {
                Action::Renew(self.pending.begin(receipt, IfDenied::Renewal), ask)
            }
            Request::Perform(operations, before) => {
                let settles = |operation: &Operation| matches!(operation, Operation::Settle(_));
                let if_denied = if operations.iter().any(settles) {
                    IfDenied::TooLate
                } else {
                    IfDenied::Nothing
                };
                let operation = self.pending.begin_after(before, receipt, if_denied);
                Action::Perform(operation, operations)
            }
        };
        self.actions.push_back(action);
    }

    /// Writes the receipts whose turn it is, and ends a disconnecting session after the last.
    fn flush_receipts(&mut self, now: Instant) {
        while let Some(due) = self.pending.pop() {
            let left = frames::left(self.expiry().filter(|_| due.is_renewal), now);
            let mut receipts = due.receipts.iter().peekable();
            while let Some(receipt) = receipts.next() {
                let is_last = receipts.peek().is_none();
                let told = due.told.as_deref().filter(|_| is_last);
                self.write(now, frames::receipt(receipt, self.version, left, told));
            }
        }
        if self.pending.len() > 0 {
            return;
        }
        match self.phase {
            Phase::Failing => self.end(now),
            Phase::Disconnecting { receipt: true } => {
                self.phase = Phase::Lingering;
                self.waiting = None;
                self.deadline = now.checked_add(self.config.disconnect_linger);
            }
            Phase::Disconnecting { receipt: false } => self.close(CloseCode::Normal, None),
            _ => {}
        }
    }

    /// The session ends: as soon as pending operations are done and receipted, or at the latest
    /// when its time is over.
    fn fail(&mut self, now: Instant, problem: Problem, receipt: Option<Box<str>>) {
        if self.phase == Phase::Closed {
            return;
        }
        self.hurry(now, problem, receipt);
        self.phase = Phase::Failing;
        self.forget_work();
        self.flush_receipts(now);
    }

    /// Bounds the time of pending operations; the ERROR if that is not enough.
    fn hurry(&mut self, now: Instant, problem: Problem, receipt: Option<Box<str>>) {
        let due = self.due(now, &problem);
        self.deadline = sooner(self.end_due(), due);
        self.waiting = Some(Box::new(Postponed::Error(problem, receipt)));
    }

    /// When a session must have ended that `problem` ends.
    fn due(&self, now: Instant, problem: &Problem) -> Option<Instant> {
        let patience = match problem {
            Problem::ShuttingDown => self.config.drain_timeout.min(self.config.finish_timeout),
            _ => self.config.finish_timeout,
        };
        now.checked_add(patience)
    }

    /// When the login's time is over, of a connected client.
    fn expiry(&self) -> Option<Instant> {
        self.deadline.filter(|_| self.phase == Phase::Connected)
    }

    /// When a session that is about to end waits no longer.
    fn end_due(&self) -> Option<Instant> {
        match self.waiting.as_deref() {
            Some(Postponed::Error(..)) => self.deadline,
            _ => None,
        }
    }

    /// ERROR, then close, without regard to pending operations.
    fn end(&mut self, now: Instant) {
        let waiting = self.waiting.take().map(|waiting| *waiting);
        if let Some(Postponed::Error(problem, receipt)) = waiting {
            self.write(
                now,
                frames::error(&problem, receipt.as_deref(), self.version),
            );
            self.close(problem.close_code(), Some(Box::new(problem)));
        }
    }

    fn close(&mut self, code: CloseCode, problem: Option<Box<Problem>>) {
        if self.phase == Phase::Closed {
            return;
        }
        self.actions.push_back(Action::Close(code, problem));
        self.phase = Phase::Closed;
        self.waiting = None;
        self.pending.clear();
        self.forget_work();
    }

    /// Drops all that only a connected client can use. A disconnect aborts transactions (STOMP 1.2,
    /// "BEGIN"); the surroundings give unacknowledged messages to somebody else.
    fn forget_work(&mut self) {
        self.subscriptions.clear();
        self.transactions.clear();
        self.redelivery = None;
    }

    /// Gives up the messages whose last time is over; the others become ready for
    /// [`Session::poll_again`].
    fn give_up(&mut self, now: Instant) {
        while let Some(given_up) = self.redelivery.as_mut().and_then(|all| all.expire(now)) {
            let GivenUp {
                subscription,
                sequence,
                tag,
                then,
            } = given_up;
            if then != GiveUp::Later {
                self.subscriptions.settle(subscription, sequence);
            }
            self.actions
                .push_back(Action::GiveUp(subscription, tag, then));
        }
    }

    /// The subscription is over: none of its messages is written again.
    fn end_redelivery(&mut self, subscription: SubscriptionId) {
        if let Some(redelivery) = &mut self.redelivery {
            redelivery.end(subscription);
        }
    }

    /// The same, and the broker has again what its client has not acknowledged.
    fn take_back(&mut self, subscription: SubscriptionId) {
        if let Some(redelivery) = &mut self.redelivery {
            redelivery.take_back(subscription);
        }
    }

    fn write(&mut self, now: Instant, bytes: Bytes) {
        self.liveness.wrote(now);
        self.actions.push_back(Action::Write(bytes));
    }

    /// Whether the session can and should hear the client: not after its DISCONNECT.
    fn is_read(&self) -> bool {
        self.phase == Phase::Connected && self.wants_frame()
    }
}

/// The work that a frame needs from the surroundings.
enum Request {
    /// Nothing: it is done.
    Nothing,
    /// Nothing can be done: the message is not its client's any more, which the receipt tells.
    TooLate,
    Subscribe(Box<crate::Subscribe>),
    Unsubscribe(Box<crate::Unsubscribe>),
    Renew(Box<crate::Renew>),
    /// With the receipts that are owed before the frame's own.
    Perform(Vec<Operation>, Box<[Box<str>]>),
    /// Nothing yet: a transaction has the SEND, and its receipt is written at COMMIT.
    Gathered,
}

/// How a message stands with its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It is to be acknowledged.
    Unsettled,
    /// It was acknowledged, and may be again: its client may have got it twice.
    Settled,
    /// It is not its client's any more: the subscription was taken from it, or the message was given
    /// up.
    TakenBack,
}

impl Request {
    fn perform(operation: Operation) -> Self {
        Self::Perform(vec![operation], Box::default())
    }
}

fn sooner(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    one.into_iter().chain(other).min()
}

fn is_connect(frame: &Frame) -> bool {
    matches!(frame.command, Command::Connect | Command::Stomp)
}

/// The receipt that a frame asks for; CONNECT cannot (STOMP 1.2, "Standard Headers").
fn receipt(frame: &Frame) -> Option<Box<str>> {
    if is_connect(frame) {
        None
    } else {
        frame.header("receipt").map(Box::from)
    }
}

#[cfg(test)]
mod tests;
