//! One lane: a channel in confirm mode, and a task that keeps it.
//!
//! Messages are put on the channel without waiting for the one before, save those that the broker
//! may refuse by closing it: they go alone, and the next follows when the broker is known to have
//! taken them in. Mandatory messages go in [`round`](super::round)s. What becomes of the others when a
//! channel is closed all the same is [`flight`](super::flight)'s to say.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use lapin::{
    BasicProperties, Channel, Confirmation, ErrorKind,
    message::BasicReturnMessage,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    protocol::AMQPErrorKind,
    types::ShortString,
};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc, oneshot},
    time::{Duration, Instant, sleep_until, timeout_at},
};

use super::{
    flight::{Fate, Flight, Sent},
    known::{self, Known, Traits},
    round::Round,
    turns::Place,
};
use crate::{
    background,
    broker::{
        BrokerError, Cause, Properties, STANDING_LANES,
        amqp::{
            convert::{broker_error, to_amqp},
            link::{AmqpLink, answer},
            topology::{NO_IMPERSONATION, Topology, is_impersonation},
        },
    },
    deadline::after,
    telemetry,
};

/// What a frame has besides what is in it: its type, channel, size and end. In bytes.
const FRAME_OVERHEAD: usize = 8;

/// How long a lane keeps its channel while it has nothing to send.
const IDLE: Duration = Duration::from_secs(60);

/// How long a message that goes alone waits for the confirm of the one before, which was taken in:
/// it would be lost with the channel. Queues that take longer are not to hold up others.
const QUEUES: Duration = Duration::from_secs(1);

/// How long it may take lapin to tell every message that its channel was closed. It does so at
/// once; should it ever not, the lane goes on.
const CLOSING: Duration = Duration::from_secs(5);

const CLOSED: &str = "its channel was closed before it answered for the message; it may or may not \
                      have taken it";
const LATE: &str = "it did not confirm the message in time; it may or may not have taken it";
const LEFT_OUT: &str = "the message was not published, for one before it was not";

/// A message to publish.
pub(super) struct Job {
    pub(super) exchange: ShortString,
    pub(super) routing_key: ShortString,
    pub(super) properties: Properties,
    /// The same for lapin, until it is sent for the first time.
    pub(super) amqp: Option<BasicProperties>,
    pub(super) body: Bytes,
    pub(super) mandatory: bool,
    /// What the properties and headers take, in bytes.
    pub(super) head: usize,
    /// Whose message it is.
    pub(super) sender: u64,
    /// Until when it may wait for its turn.
    pub(super) deadline: Instant,
    /// `None`: it was answered.
    pub(super) answer: Option<oneshot::Sender<Result<(), BrokerError>>>,
    /// What it holds until it is answered.
    pub(super) held: Option<Held>,
}

/// Places that a message under way takes.
pub(super) struct Held {
    pub(super) turn: Place,
    pub(super) _owner: Option<Place>,
    /// Of the places for messages without an answer: of its exchange, of its lane, and of all.
    pub(super) _of_exchange: OwnedSemaphorePermit,
    pub(super) _of_lane: Option<OwnedSemaphorePermit>,
    pub(super) _of_all: OwnedSemaphorePermit,
}

impl Job {
    pub(super) fn traits(&self) -> Traits<'_> {
        Traits {
            exchange: self.exchange.as_str(),
            key: self.routing_key.as_str(),
            length: self.body.len(),
            names_user: self.properties.user_id.is_some(),
        }
    }

    /// A caller that waits no more has left.
    fn answer(&mut self, outcome: Result<(), BrokerError>) {
        // Those two are about the one message, and the channel goes on.
        let is_end = match &outcome {
            Ok(()) | Err(BrokerError::Nacked | BrokerError::Unroutable) => false,
            Err(_) => self.sender < STANDING_LANES,
        };
        if is_end && let Some(held) = &self.held {
            held.turn.failed();
        }
        self.answer_alone(outcome);
    }

    /// One before it failed.
    pub(super) fn leave_out(&mut self) {
        self.answer_alone(Err(BrokerError::Unavailable(LEFT_OUT.into())));
    }

    fn is_left_out(&self) -> bool {
        let held = self.held.as_ref();
        held.is_some_and(|held| held.turn.is_left_out())
    }

    fn answer_alone(&mut self, outcome: Result<(), BrokerError>) {
        if let Some(answer) = self.answer.take() {
            // Its sender is woken by this, and finds its turn over.
            self.held = None;
            let _ = answer.send(outcome);
        }
    }

    /// Its sender is told that nothing is known of it; it is never sent again.
    fn give_up(&mut self) {
        self.answer(Err(BrokerError::Unavailable(Cause::silence(LATE))));
        self.body = Bytes::new();
        self.properties = Properties::default();
    }
}

impl Sent for Job {
    fn sender(&self) -> u64 {
        self.sender
    }

    fn is_awaited(&self) -> bool {
        self.answer.is_some()
    }
}

/// What all lanes of a virtual host need.
pub(super) struct LaneShared {
    pub(super) link: Arc<AmqpLink>,
    pub(super) topology: Arc<Topology>,
    pub(super) known: Known,
    /// How long a message waits for its turn, and then for its answer.
    pub(super) operation_timeout: Duration,
}

impl LaneShared {
    /// Waits until a message may be sent: the broker will take it, for all that was learnt while
    /// it waited.
    async fn wait_until_allowed(&self, job: &Job) -> Result<(), BrokerError> {
        let exchange = job.exchange.as_str();
        let live = self.link.wait_until(job.deadline).await?;
        self.known.link(live.epoch);
        if !self.topology.is_known(exchange) {
            self.topology.check(&live, exchange, job.deadline).await?;
        }
        self.topology
            .may_publish(exchange, job.routing_key.as_str())?;
        self.known.may_be_as_long(job.body.len())?;
        if job.properties.user_id.is_some() {
            self.topology.may_impersonate()?;
        }
        // They have to fit into one frame; otherwise the broker ends the connection of all.
        let room = live.frame_max().saturating_sub(FRAME_OVERHEAD);
        if job.head > room {
            let text = format!(
                "the message's properties and headers take {} bytes; the broker takes {room}",
                job.head
            );
            return Err(BrokerError::PreconditionFailed(text.into()));
        }
        match timeout_at(job.deadline, live.unblocked()).await {
            Ok(()) => Ok(()),
            Err(_) => {
                let text = "it is short of memory or disk";
                Err(BrokerError::Unavailable(text.into()))
            }
        }
    }

    /// A channel in confirm mode, on the link as it is now.
    async fn open(&self, deadline: Instant) -> Result<Channel, BrokerError> {
        let live = self.link.wait_until(deadline).await?;
        let channel = live.channel(deadline).await?;
        let confirms = channel.confirm_select(ConfirmSelectOptions::default());
        answer(deadline, confirms).await?;
        Ok(channel)
    }

    fn refused(&self, job: &Job, error: &BrokerError) {
        self.topology.note_impersonation(error);
        self.topology
            .note_refused(job.exchange.as_str(), job.routing_key.as_str(), error);
        self.known.refused(job.traits(), error);
    }
}

/// How a lane works.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner {
    /// Every message goes alone.
    pub(super) alone: bool,
    /// It serves one exchange: as long as that is not known to be there, messages go alone. If
    /// not, its messages are to exchanges that are known.
    pub(super) own: bool,
    /// Messages that were answered as late and whose confirm is still awaited, at most.
    pub(super) max_overdue: usize,
}

/// What came of a message that was sent.
struct Arrival {
    number: u64,
    outcome: Outcome,
}

enum Outcome {
    Confirmed(Word),
    /// No answer in time. It is still awaited: lapin keeps what is dropped before.
    Late(BoxFuture<'static, lapin::Result<Confirmation>>),
    Failed(lapin::Error),
}

/// The broker's word on a message.
struct Word {
    verdict: Verdict,
    /// A message that it returned: this one or another.
    returned: Option<Box<BasicReturnMessage>>,
}

enum Verdict {
    Taken,
    Refused,
    NotRequested,
}

impl From<Confirmation> for Word {
    fn from(confirmation: Confirmation) -> Self {
        let (verdict, returned) = match confirmation {
            Confirmation::Ack(returned) => (Verdict::Taken, returned),
            Confirmation::Nack(returned) => (Verdict::Refused, returned),
            Confirmation::NotRequested => (Verdict::NotRequested, None),
        };
        Self {
            verdict,
            returned: returned.map(Box::new),
        }
    }
}

impl Outcome {
    fn of(outcome: lapin::Result<Confirmation>) -> Self {
        match outcome {
            Ok(confirmation) => Self::Confirmed(confirmation.into()),
            Err(error) => Self::Failed(error),
        }
    }
}

pub(super) struct Lane {
    shared: Arc<LaneShared>,
    manner: Manner,
    /// Whether the broker took a message on this channel; others may see it.
    is_proved: Arc<AtomicBool>,
    channel: Option<Channel>,
    /// Whether all that is under way is known to be taken in, though not answered yet.
    is_taken_in: bool,
    flight: Flight<Job>,
    /// The mandatory ones.
    round: Round<Job>,
    /// Answers that are awaited.
    pending: FuturesUnordered<BoxFuture<'static, Arrival>>,
    /// Of messages whose senders were told already.
    overdue: FuturesUnordered<BoxFuture<'static, Arrival>>,
}

impl Lane {
    pub(super) fn new(shared: Arc<LaneShared>, manner: Manner, is_proved: Arc<AtomicBool>) -> Self {
        Self {
            shared,
            manner,
            is_proved,
            channel: None,
            is_taken_in: true,
            flight: Flight::default(),
            round: Round::default(),
            pending: FuturesUnordered::new(),
            overdue: FuturesUnordered::new(),
        }
    }

    /// Ends with its last sender, or when there was nothing to send for a while.
    pub(super) async fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut idle = pin!(sleep_until(after(IDLE)));
        let mut last = Instant::now();
        loop {
            tokio::select! {
                biased;
                Some(arrival) = self.pending.next() => {
                    self.arrived(arrival).await;
                    if jobs.is_empty() {
                        self.round.nothing_waits();
                    }
                }
                Some(arrival) = self.overdue.next() => self.arrived(arrival).await,
                job = jobs.recv() => {
                    let Some(job) = job else { break };
                    last = Instant::now();
                    self.take(job).await;
                }
                () = &mut idle => {
                    if last.elapsed() >= IDLE && self.flight.is_empty() {
                        // What is there already is sent; from now on there is another lane.
                        jobs.close();
                    }
                    idle.as_mut().reset(after(IDLE));
                }
            }
            if self.overdue.len() >= self.manner.max_overdue {
                self.abandon();
            }
        }
        self.finish().await;
    }

    async fn take(&mut self, mut job: Job) {
        if job.is_left_out() {
            return job.leave_out();
        }
        let admitted = {
            let shared = Arc::clone(&self.shared);
            let mut admitting = pin!(shared.wait_until_allowed(&job));
            loop {
                // Those that are under way are not to wait for it.
                tokio::select! {
                    biased;
                    admitted = &mut admitting => break admitted,
                    Some(arrival) = self.pending.next() => self.arrived(arrival).await,
                }
            }
        };
        if job.is_left_out() {
            return job.leave_out();
        }
        if let Err(error) = admitted {
            return job.answer(Err(error));
        }
        let mut has_waited = false;
        loop {
            let channel = match self.channel(job.deadline).await {
                Ok(channel) => channel,
                Err(error) => return job.answer(Err(error)),
            };
            // What was on the channel before may have failed meanwhile.
            if job.is_left_out() {
                return job.leave_out();
            }
            if !self.is_alone(&job) || self.is_one_of_round(&job) {
                self.send(&channel, job, None);
                return;
            }
            if job.mandatory && self.pending.is_empty() && !self.overdue.is_empty() {
                // What comes back of those could be taken for this one.
                self.abandon();
                continue;
            }
            let may_share = self.is_taken_in && !job.mandatory;
            if self.pending.is_empty() || (may_share && has_waited) {
                return self.send_alone(&channel, job).await;
            }
            // The channel may end meanwhile, and what is known of it with it.
            if may_share {
                self.finish_by(after(QUEUES)).await;
                has_waited = true;
            } else {
                self.finish().await;
            }
        }
    }

    fn is_alone(&self, job: &Job) -> bool {
        let is_unproved = self.manner.own && !self.is_proved.load(Ordering::Relaxed);
        self.manner.alone || is_unproved || job.mandatory
    }

    /// Whether it may go beside the mandatory messages that are under way.
    fn is_one_of_round(&self, job: &Job) -> bool {
        let Job {
            exchange,
            routing_key,
            ..
        } = job;
        let known = &self.shared.known;
        let is_there = || match self.manner.own {
            true => self.is_proved.load(Ordering::Relaxed),
            false => known.is_there(exchange.as_str()),
        };
        job.mandatory
            && self.overdue.is_empty()
            && (self.pending.is_empty() || !self.round.is_empty())
            && self.round.takes(exchange, routing_key)
            && known.is_harmless(job.traits())
            && is_there()
    }

    /// The lane's channel, or a new one if that has ended. What was on the old one comes first.
    async fn channel(&mut self, deadline: Instant) -> Result<Channel, BrokerError> {
        loop {
            if let Some(channel) = &self.channel
                && channel.status().connected()
            {
                return Ok(channel.clone());
            }
            match self.pending.next().await {
                Some(arrival) => self.arrived(arrival).await,
                None => break,
            }
        }
        self.overdue = FuturesUnordered::new();
        for mut job in self.flight.lost() {
            job.give_up();
        }
        self.renew(deadline).await
    }

    async fn renew(&mut self, deadline: Instant) -> Result<Channel, BrokerError> {
        self.channel = None;
        self.is_proved.store(false, Ordering::Relaxed);
        let channel = self.shared.open(deadline).await?;
        self.channel = Some(channel.clone());
        Ok(channel)
    }

    /// Puts a message into the channel's order; its number there. `written` is told when all of it
    /// was written to the socket.
    fn send(
        &mut self,
        channel: &Channel,
        mut job: Job,
        written: Option<oneshot::Sender<()>>,
    ) -> Option<u64> {
        let converted = match job.amqp.take() {
            Some(properties) => Ok(properties),
            None => to_amqp(&job.properties),
        };
        let properties = match converted {
            Ok(properties) => properties,
            Err(error) => {
                job.answer(Err(error));
                return None;
            }
        };
        let options = BasicPublishOptions {
            mandatory: job.mandatory,
            immediate: false,
        };
        let (exchange, key) = (job.exchange.clone(), job.routing_key.clone());
        let (channel, body) = (channel.clone(), job.body.clone());
        if job.mandatory {
            self.round.sent(&exchange, &key);
        }
        let number = self.flight.depart(job);
        self.is_taken_in = false;
        let deadline = after(self.shared.operation_timeout);
        let answered = async move {
            let publishing = channel.basic_publish(exchange, key, options, &body, properties);
            let confirm = publishing.await?;
            drop(body);
            if let Some(written) = written {
                let _ = written.send(());
            }
            confirm.await
        };
        let mut arriving = async move {
            let mut answered = answered.boxed();
            let outcome = match timeout_at(deadline, &mut answered).await {
                Ok(outcome) => Outcome::of(outcome),
                Err(_) => Outcome::Late(answered),
            };
            Arrival { number, outcome }
        }
        .boxed();
        // The first poll puts the message into the channel's order; to wait for more before the
        // next message would be a hop between threads each.
        let arriving = match (&mut arriving).now_or_never() {
            None => arriving,
            Some(arrival) => std::future::ready(arrival).boxed(),
        };
        self.pending.push(arriving);
        Some(number)
    }

    /// Sends a message while no other is under way that the broker has not taken in, and waits
    /// until it has taken in this one.
    async fn send_alone(&mut self, channel: &Channel, job: Job) {
        let (exchange, key) = (job.exchange.clone(), job.routing_key.clone());
        let (length, names_user) = (job.body.len(), job.properties.user_id.is_some());
        let is_mandatory = job.mandatory;
        let (written, is_written) = oneshot::channel();
        let number = self.send(channel, job, Some(written));
        // The channel takes one thing after the other: if it answers this, it has taken in what
        // came before. Whether the queues take it as well may take longer.
        let mut fence = pin!(async {
            let select = ConfirmSelectOptions::default();
            is_written.await.is_ok() && channel.confirm_select(select).await.is_ok()
        });
        let mut is_fenced = false;
        while !self.pending.is_empty() && !is_fenced {
            tokio::select! {
                biased;
                Some(arrival) = self.pending.next() => self.arrived(arrival).await,
                is_there = &mut fence, if !is_mandatory => {
                    is_fenced = is_there;
                    if !is_there {
                        // The channel has ended, which the message is told as well.
                        self.finish().await;
                    }
                }
            }
        }
        self.is_taken_in = is_fenced || number.is_some() && self.flight.answered() >= number;
        if self.is_taken_in && channel.status().connected() {
            self.is_proved.store(true, Ordering::Relaxed);
            self.shared.known.taken(Traits {
                exchange: exchange.as_str(),
                key: key.as_str(),
                length,
                names_user,
            });
        }
    }

    /// Waits until there is an answer for all that is under way, as long as each may take.
    async fn finish(&mut self) {
        while let Some(arrival) = self.pending.next().await {
            self.arrived(arrival).await;
        }
    }

    /// As [`Lane::finish`], but no longer than that.
    async fn finish_by(&mut self, deadline: Instant) {
        while let Ok(Some(arrival)) = timeout_at(deadline, self.pending.next()).await {
            self.arrived(arrival).await;
        }
    }

    async fn arrived(&mut self, arrival: Arrival) {
        let mut next = Some(arrival);
        while let Some(Arrival { number, outcome }) = next {
            match outcome {
                Outcome::Confirmed(word) => self.confirmed(number, word),
                Outcome::Late(answered) => self.late(number, answered),
                Outcome::Failed(error) => self.closed(error).await,
            }
            // What came back of the round may have come with a confirmation that was late.
            next = match self.pending.is_empty() {
                true => self.overdue.next().now_or_never().flatten(),
                false => None,
            };
        }
        if self.pending.is_empty() {
            self.end_round();
        }
    }

    fn confirmed(&mut self, number: u64, word: Word) {
        if let Some(back) = &word.returned {
            self.round.returned(&back.exchange, &back.routing_key);
        }
        let Some(mut job) = self.flight.arrive(number) else {
            return;
        };
        let outcome = match word.verdict {
            Verdict::Taken if job.mandatory => {
                let (exchange, key) = (job.exchange.clone(), job.routing_key.clone());
                return self.round.confirmed(&exchange, &key, job);
            }
            Verdict::Taken => Ok(()),
            Verdict::Refused => Err(BrokerError::Nacked),
            Verdict::NotRequested => Err(BrokerError::Unavailable(
                "it did not confirm the message".into(),
            )),
        };
        job.answer(outcome);
    }

    /// Every mandatory message has its confirmation: so which of them came back is known.
    fn end_round(&mut self) {
        for (mut job, is_returned) in self.round.end() {
            job.answer(match is_returned {
                true => Err(BrokerError::Unroutable),
                false => Ok(()),
            });
        }
    }

    /// Some of the round's confirmations never come, and with them what is known of the others.
    fn give_round_up(&mut self) {
        for (mut job, _) in self.round.end() {
            job.give_up();
        }
    }

    fn late(&mut self, number: u64, answered: BoxFuture<'static, lapin::Result<Confirmation>>) {
        if let Some(job) = self.flight.get_mut(number) {
            job.give_up();
        }
        let arriving = answered.map(move |outcome| Arrival {
            number,
            outcome: Outcome::of(outcome),
        });
        self.overdue.push(arriving.boxed());
    }

    /// The channel has ended, or its link has: all that is under way hears it.
    async fn closed(&mut self, error: lapin::Error) {
        let mut refusal = refusal(&error);
        let mut is_lost = is_link_error(&error);
        let deadline = after(CLOSING);
        while !(self.pending.is_empty() && self.overdue.is_empty()) {
            let next = async {
                tokio::select! {
                    Some(arrival) = self.pending.next() => arrival,
                    Some(arrival) = self.overdue.next() => arrival,
                }
            };
            let Ok(Arrival { number, outcome }) = timeout_at(deadline, next).await else {
                break;
            };
            match outcome {
                Outcome::Confirmed(word) => self.confirmed(number, word),
                Outcome::Late(answered) => self.late(number, answered),
                Outcome::Failed(error) => {
                    refusal = refusal.or_else(|| self::refusal(&error));
                    is_lost |= is_link_error(&error);
                }
            }
        }
        if self.pending.is_empty() {
            self.end_round();
        }
        self.give_round_up();
        self.pending.clear();
        self.overdue.clear();
        self.channel = None;
        self.is_proved.store(false, Ordering::Relaxed);
        let Some(refusal) = refusal.filter(|_| !is_lost) else {
            let error = match broker_error(&error) {
                BrokerError::Unavailable(cause) => {
                    let fate = "it may or may not have taken the message";
                    BrokerError::Unavailable(cause.with(fate))
                }
                _ => BrokerError::Unavailable(CLOSED.into()),
            };
            for mut job in self.flight.lost() {
                job.answer(Err(error.clone()));
            }
            return;
        };
        let fates = self
            .flight
            .closed(|job| known::may_be_about(&refusal, job.traits()));
        self.settle(&refusal, fates).await;
    }

    /// Tells each message what became of it, and sends again what the broker threw away.
    async fn settle(&mut self, refusal: &BrokerError, fates: Vec<(Job, Fate)>) {
        let (again, ended): (Vec<_>, Vec<_>) = fates
            .into_iter()
            .partition(|(_, fate)| *fate == Fate::Again);
        let unknown = ended
            .iter()
            .filter(|(_, fate)| *fate == Fate::Unknown)
            .count();
        telemetry::publish_channel_closed(&refusal.to_string(), again.len(), unknown);
        for (mut job, fate) in ended {
            let error = match fate {
                Fate::Refused | Fate::RefusedOrTaken => {
                    self.shared.refused(&job, refusal);
                    told(refusal, fate)
                }
                Fate::Dropped => BrokerError::Unavailable(LEFT_OUT.into()),
                Fate::Unknown | Fate::Again => BrokerError::Unavailable(CLOSED.into()),
            };
            job.answer(Err(error));
        }
        if again.is_empty() {
            return;
        }
        let deadline = after(self.shared.operation_timeout);
        match self.renew(deadline).await {
            Ok(channel) => {
                for (job, _) in again {
                    self.send(&channel, job, None);
                }
            }
            Err(error) => {
                for (mut job, _) in again {
                    job.answer(Err(error.clone()));
                }
            }
        }
    }

    /// Leaves a channel on which too many messages have no answer, and so what lapin holds of
    /// them.
    fn abandon(&mut self) {
        let overdue = std::mem::take(&mut self.overdue);
        let pending = std::mem::take(&mut self.pending);
        let channel = self.channel.take();
        self.is_proved.store(false, Ordering::Relaxed);
        telemetry::publish_channel_replaced(overdue.len());
        self.give_round_up();
        for mut job in self.flight.lost() {
            job.give_up();
        }
        background::spawn(async move {
            if let Some(channel) = channel {
                // Whatever it says: that ends the channel, or the connection has ended.
                let _ = channel
                    .close(200, "too many unconfirmed messages".into())
                    .await;
            }
            overdue.chain(pending).map(drop).collect::<()>().await;
        });
    }
}

/// Why the broker closed the channel; `None`: it did not.
fn refusal(error: &lapin::Error) -> Option<BrokerError> {
    match error.kind() {
        ErrorKind::ProtocolError(amqp) if matches!(amqp.kind(), AMQPErrorKind::Soft(_)) => {
            Some(broker_error(error))
        }
        _ => None,
    }
}

/// Whether it is not the channel alone that has ended.
fn is_link_error(error: &lapin::Error) -> bool {
    match error.kind() {
        ErrorKind::ProtocolError(amqp) => !matches!(amqp.kind(), AMQPErrorKind::Soft(_)),
        ErrorKind::InvalidChannelState(..) => false,
        _ => true,
    }
}

/// What the sender of a refused message is told.
fn told(refusal: &BrokerError, fate: Fate) -> BrokerError {
    match refusal {
        // It names one of the users, and is told to all of them.
        BrokerError::PreconditionFailed(text) if is_impersonation(text) => {
            BrokerError::PreconditionFailed(NO_IMPERSONATION.into())
        }
        _ if fate == Fate::Refused => refusal.clone(),
        BrokerError::NotFound(text) => BrokerError::NotFound(or_before(text)),
        BrokerError::AccessRefused(text) => BrokerError::AccessRefused(or_before(text)),
        BrokerError::PreconditionFailed(text) => BrokerError::PreconditionFailed(or_before(text)),
        other => other.clone(),
    }
}

/// The same words fit other messages, of which one was refused first.
fn or_before(text: &str) -> Box<str> {
    format!("{text}; if it was before that, the message may have been taken").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By this, those who send again tell a queue that hangs from a link that was lost.
    #[test]
    fn a_message_without_a_confirm_in_time_met_silence() {
        let (answer, mut answered) = oneshot::channel();
        let mut job = Job {
            exchange: "feed".into(),
            routing_key: "a".into(),
            properties: Properties::default(),
            amqp: None,
            body: Bytes::new(),
            mandatory: false,
            head: 0,
            sender: 0,
            deadline: Instant::now(),
            answer: Some(answer),
            held: None,
        };
        job.give_up();
        let Ok(Err(BrokerError::Unavailable(cause))) = answered.try_recv() else {
            panic!("it was given up");
        };
        assert!(cause.is_silence());
        assert_eq!(cause.own(), LATE);
        let lost = [CLOSED, LEFT_OUT].map(Cause::from);
        assert!(!lost.iter().any(Cause::is_silence));
    }
}
