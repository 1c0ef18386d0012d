//! Dedicated consumers: a channel each, so that one's error or cancellation is nobody else's,
//! and `multiple` speaks of one subscription only.

use std::{borrow::Cow, collections::BTreeMap, pin::pin, sync::Arc, time::Duration};

use futures_util::{FutureExt, StreamExt, future::BoxFuture};
use lapin::{
    Acker, Channel,
    message::Delivery as Lapin,
    options::{
        BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions,
        BasicQosOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
    },
    types::{FieldTable, ShortString},
};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::{
    consumer_links::ConsumerLinks,
    convert::{broker_error, from_amqp, short, table},
    cut::Cut,
    declarer::Declarer,
    exclusive::Ownership,
    link::{AmqpLink, Live, answer, late},
    silence::{answer_for_queue, answer_soon_for_queue},
    stream::{self, Kind, Progress, Standing},
    topology::declare_options,
};
use crate::{
    background,
    broker::{
        Argument, BrokerError, Confirm, Consume, Consumer, Delivery, DeliverySink, FORGOTTEN,
        QueueSpec, Settled, Verdict, WRITTEN_AFTER,
        own_queues::{SUBSCRIPTION_QUEUES, TEMP_QUEUES},
        resource_locked,
    },
    deadline::after,
    telemetry::ReadAt,
};

/// A dedicated consumer on RabbitMQ.
pub(super) struct Dedicated {
    state: Arc<ConsumerState>,
    operation_timeout: Duration,
    prefetch: u16,
    task: AbortOnDropHandle<()>,
    question: Arc<Question>,
    /// Keeps clients other than the owner off an exclusive queue, for as long as it consumes.
    ownership: Mutex<Option<Arc<Ownership>>>,
}

#[derive(Default)]
struct ConsumerState(Mutex<Current>);

/// The channel in use. Its number is part of the tags that are given out, so that tags of a
/// channel that broke are recognised.
#[derive(Default)]
struct Current {
    channel: Option<Channel>,
    /// The consumer's tag on the channel.
    name: ShortString,
    number: u64,
    /// Tags, with the offsets that their messages have in a stream.
    unsettled: BTreeMap<u64, Option<u64>>,
    phase: ConsumerPhase,
    /// Where to go on, if it is a stream.
    progress: Progress,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ConsumerPhase {
    #[default]
    Consuming,
    /// It was ended from this side, so what its stream says of its end is no loss; some of what it
    /// delivered may still be settled.
    Retired,
    /// It was ended from this side.
    Cancelled,
}

/// Where a channel's number starts in a tag: a channel will not see 2^48 messages.
const NUMBER_SHIFT: u32 = 48;

/// All that a cancelled consumer can know: RabbitMQ gives no reason.
const CANCELLED: &str = "the queue was deleted, or cannot be used now, or a message was not \
                         acknowledged within RabbitMQ's consumer_timeout";

/// Of a queue that was there before the link was lost.
const GONE: &str = "the queue was deleted while the link to the broker was lost";

/// Of a settlement that a lost link may have taken along.
const UNHEARD: &str = "it may not have heard of an acknowledgement: then the message comes again";

/// How long it is tried to delete a queue that got no consumer. `x-expires` is there for when
/// that fails.
const CLEANING: Duration = Duration::from_secs(10);

impl Dedicated {
    pub(super) async fn start(
        links: Arc<ConsumerLinks>,
        ownership: Option<Arc<Ownership>>,
        declarer: Arc<Declarer>,
        request: Consume,
        sink: Arc<dyn DeliverySink>,
        operation_timeout: Duration,
    ) -> Result<Self, BrokerError> {
        let deadline = after(operation_timeout);
        let own = ownership.as_ref().map(|ownership| ownership.link());
        let first = Occasion::First;
        let begun = begin(&links, own, &declarer, &request, first, deadline).await?;
        let (link, (channel, messages)) = begun;
        let state = Arc::new(ConsumerState::new(&request));
        state.replace(channel, messages.tag());
        let prefetch = prefetch(&request);
        let question = Arc::new(Question {
            links: Arc::clone(&links),
            declarer: Arc::clone(&declarer),
            queue: request.queue.name.clone(),
            state: Arc::clone(&state),
            turn: tokio::sync::Mutex::default(),
        });
        let runner = Runner {
            links,
            link,
            declarer,
            request,
            sink,
            state: Arc::clone(&state),
            question: Arc::clone(&question),
            operation_timeout,
            bound: Instant::now(),
            cut: Cut::default(),
        };
        let task = AbortOnDropHandle::new(background::spawn(runner.run(messages)));
        Ok(Self {
            state,
            operation_timeout,
            prefetch,
            task,
            question,
            ownership: Mutex::new(ownership),
        })
    }
}

/// Asks the broker what a consumer's queue is, once.
struct Question {
    links: Arc<ConsumerLinks>,
    declarer: Arc<Declarer>,
    queue: Box<str>,
    /// Whose queue it is; it keeps the answer.
    state: Arc<ConsumerState>,
    /// Held while one asks; others wait for the same answer.
    turn: tokio::sync::Mutex<()>,
}

impl Question {
    /// Whether the queue is a stream; the broker is asked if that is not known.
    ///
    /// # Errors
    /// It does not tell.
    async fn is_stream(&self, known: Kind, deadline: Instant) -> Result<bool, BrokerError> {
        let kind = match known {
            // On the heap: nearly every settlement does without.
            Kind::Unproved => Box::pin(self.ask(deadline)).await?,
            known => known,
        };
        Ok(kind == Kind::Stream)
    }

    async fn ask(&self, deadline: Instant) -> Result<Kind, BrokerError> {
        let _turn = self.turn.lock().await;
        let proved = self.state.kind();
        if proved != Kind::Unproved {
            return Ok(proved);
        }
        if Instant::now() >= deadline {
            return Err(BrokerError::Unavailable(late()));
        }
        let (question, first) = (stream::question(&self.queue), Occasion::First);
        let (links, declarer) = (&self.links, &self.declarer);
        let kind = match begin(links, None, declarer, &question, first, deadline).await {
            // The channel ends with this.
            Ok(_begun) => Kind::Stream,
            Err(BrokerError::PreconditionFailed(text)) if stream::is_none(&text) => Kind::Other,
            // A stream is never exclusive.
            Err(BrokerError::ResourceLocked(_)) => Kind::Other,
            Err(error) => return Err(error),
        };
        self.state.prove(kind);
        Ok(kind)
    }
}

/// When a consumer begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Occasion {
    First,
    /// After a lost link.
    Again,
}

/// A queue is asked for on a connection.
struct Asking<'a> {
    live: &'a Arc<Live>,
    /// Whether others are served on it, behind whose messages an answer may stand.
    is_shared: bool,
    occasion: Occasion,
    deadline: Instant,
}

impl Asking<'_> {
    /// The broker's answer by the deadline, or soon after; or much later, where nobody waits for it and
    /// the connection is slow.
    async fn answer<T>(
        &self,
        call: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, BrokerError> {
        match self.occasion {
            Occasion::Again if self.is_shared => {
                answer_for_queue(self.live, self.deadline, call).await
            }
            Occasion::First | Occasion::Again => {
                answer_soon_for_queue(self.live, self.deadline, call).await
            }
        }
    }
}

/// Consumes: on a link of its own if the queue is in quarantine, else on the one that it had, or on
/// one that has room.
async fn begin(
    links: &ConsumerLinks,
    link: Option<&Arc<AmqpLink>>,
    declarer: &Declarer,
    request: &Consume,
    occasion: Occasion,
    deadline: Instant,
) -> Result<(Arc<AmqpLink>, (Channel, lapin::Consumer)), BrokerError> {
    let queue = &request.queue.name;
    // An exclusive queue is on its own link; asked for on another, it would be locked.
    if !request.queue.exclusive
        && let Some(mut trial) = links.trial(queue, deadline).await?
    {
        let live = Arc::clone(trial.live());
        let asking = Asking {
            live: &live,
            is_shared: trial.is_shared(),
            occasion,
            deadline,
        };
        let mut beginning = pin!(setup(&asking, declarer, request));
        let begun = match timeout_at(deadline, &mut beginning).await {
            Ok(begun) => begun,
            // A slow connection may take for as long as it lives. Other suspects need not wait for that.
            Err(_) => {
                trial.end_turn();
                beginning.await
            }
        };
        return links.end(trial, begun);
    }
    let link = link.map_or_else(|| links.shared(), Arc::clone);
    let live = link.wait_until(deadline).await?;
    let asking = Asking {
        live: &live,
        is_shared: true,
        occasion,
        deadline,
    };
    let setup = setup(&asking, declarer, request);
    // Nothing is ever wrong with a queue that was made for this consumer alone.
    let begun = match is_own(&request.queue) {
        true => setup.await?,
        false => live.asking(queue, setup).await?,
    };
    Ok((link, begun))
}

async fn setup(
    asking: &Asking<'_>,
    declarer: &Declarer,
    request: &Consume,
) -> Result<(Channel, lapin::Consumer), BrokerError> {
    let (live, deadline) = (asking.live, asking.deadline);
    let mut declared = None;
    if request.declare && asking.occasion == Occasion::First {
        let asked = expiring(&request.queue);
        let adapted = declarer.adapted(&asked, deadline).await?.into_owned();
        declarer.clear(&adapted, deadline).await?;
        declared = Some(adapted);
    }
    let channel = live.channel(deadline).await?;
    let mut queue = short("the queue's name", &request.queue.name)?;
    let mut leftover = None;
    if asking.occasion == Occasion::Again {
        look_for(asking, &channel, &queue).await?;
    }
    if let Some(declared) = declared {
        let (options, arguments) = declare_options(&declared)?;
        leftover = is_own(&request.queue).then(|| Leftover {
            live: Arc::clone(live),
            channel: channel.clone(),
            queue: queue.clone(),
        });
        let declaring = channel.queue_declare(queue, options, arguments);
        queue = asking.answer(declaring).await?.name().clone();
        if let Some(leftover) = &mut leftover {
            leftover.queue = queue.clone();
        }
    }
    if let Some((exchange, pattern)) = &request.binding {
        let exchange = short("the exchange's name", exchange)?;
        let key = short("the pattern", pattern)?;
        let options = QueueBindOptions::default();
        let arguments = table(&request.binding_arguments)?;
        let binding = channel.queue_bind(queue.clone(), exchange, key, options, arguments);
        asking.answer(binding).await?;
    }
    let limiting = channel.basic_qos(prefetch(request), BasicQosOptions::default());
    asking.answer(limiting).await?;
    let options = BasicConsumeOptions {
        exclusive: request.exclusive,
        ..Default::default()
    };
    let consuming = channel.basic_consume(queue, "".into(), options, table(&request.arguments)?);
    let messages = asking.answer(consuming).await.map_err(locked)?;
    if let Some(leftover) = &mut leftover {
        leftover.queue = ShortString::default();
    }
    Ok((channel, messages))
}

/// Succeeds if the queue of before a lost link is there. One that went is not made anew: what was in
/// it is lost, and what came meanwhile.
async fn look_for(
    asking: &Asking<'_>,
    channel: &Channel,
    queue: &ShortString,
) -> Result<(), BrokerError> {
    let passive = QueueDeclareOptions {
        passive: true,
        ..Default::default()
    };
    let looking = channel.queue_declare(queue.clone(), passive, FieldTable::default());
    match asking.answer(looking).await {
        Err(BrokerError::NotFound(_)) => Err(BrokerError::Cancelled(GONE.into())),
        outcome => outcome.map(drop),
    }
}

/// 0 would be no bound.
fn prefetch(request: &Consume) -> u16 {
    request.prefetch.max(1)
}

/// What RabbitMQ says of a queue that another connection has for itself. The clients of a gateway
/// share its connections, so that it is the exclusive consumer that is in the way.
fn locked(error: BrokerError) -> BrokerError {
    let queue = match &error {
        BrokerError::AccessRefused(text) => text
            .strip_prefix("ACCESS_REFUSED - ")
            .and_then(|text| text.strip_suffix(" in exclusive use")),
        _ => None,
    };
    match queue {
        Some(queue) => resource_locked(queue),
        None => error,
    }
}

/// Names that the gateway makes up itself begin so.
const OWN_QUEUES: [&str; 2] = [SUBSCRIPTION_QUEUES, TEMP_QUEUES];

/// How long a queue stays that nobody consumes, and that nobody else can know: a connection that
/// is cut between a declaration and its consumer leaves one.
const UNUSED_MILLISECONDS: i64 = 60_000;
const EXPIRES: &str = "x-expires";

/// Whether nobody else can know the queue: the gateway or the broker made its name up, at
/// random.
fn is_own(queue: &QueueSpec) -> bool {
    let is_made_up = |prefix: &&str| queue.name.starts_with(*prefix);
    !queue.durable && (queue.name.is_empty() || OWN_QUEUES.iter().any(is_made_up))
}

/// The queue, which does not stay without a consumer if it is one's own.
fn expiring(queue: &QueueSpec) -> Cow<'_, QueueSpec> {
    let says = |(name, _): &(Box<str>, Argument)| &**name == EXPIRES;
    if !is_own(queue) || queue.arguments.iter().any(says) {
        return Cow::Borrowed(queue);
    }
    let mut queue = queue.clone();
    let expires = (EXPIRES.into(), Argument::Number(UNUSED_MILLISECONDS));
    queue.arguments.push(expires);
    Cow::Owned(queue)
}

/// A queue of one's own that has no consumer yet. `auto-delete` begins to count with the first
/// one, so if there will be none, it is to be deleted.
struct Leftover {
    live: Arc<Live>,
    channel: Channel,
    queue: ShortString,
}

impl Drop for Leftover {
    fn drop(&mut self) {
        if self.queue.as_str().is_empty() {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let (live, channel, queue) = (
            Arc::clone(&self.live),
            self.channel.clone(),
            std::mem::take(&mut self.queue),
        );
        runtime.spawn(async move {
            let deadline = after(CLEANING);
            // On the same channel, it comes after a declaration that is still under way; but the
            // broker may have closed that one over what failed.
            let channel = if channel.status().connected() {
                channel
            } else {
                live.channel(deadline).await?
            };
            // If it got its consumer after all, this closes the channel, and so ends both.
            let options = QueueDeleteOptions {
                if_unused: true,
                ..Default::default()
            };
            let deleting = channel.queue_delete(queue, options);
            answer(deadline, deleting).await
        });
    }
}

impl ConsumerState {
    fn new(request: &Consume) -> Self {
        Self(Mutex::new(Current {
            kind: Kind::accepted(request),
            ..Current::default()
        }))
    }

    /// Goes over to a new channel; without effect once it was ended.
    fn replace(&self, channel: Channel, name: ShortString) {
        let mut current = self.0.lock();
        if current.phase != ConsumerPhase::Consuming {
            return;
        }
        current.number = current.number.wrapping_add(1);
        current.unsettled.clear();
        current.channel = Some(channel);
        current.name = name;
    }

    /// Takes a message in.
    fn track(&self, mut lapin: Lapin) -> Result<Delivery, Unwanted> {
        let mut message = from_amqp(&mut lapin);
        // lapin does not say when it was read. A look at the clock is nothing beside what it takes.
        message.read_at = ReadAt::now();
        let offset = message.stream_offset();
        let mut current = self.0.lock();
        match current.phase {
            ConsumerPhase::Consuming => {}
            ConsumerPhase::Retired => {
                let kind = offset.map_or(Kind::Other, |_| current.kind);
                return Err(Unwanted::Late(lapin.acker, kind));
            }
            ConsumerPhase::Cancelled => return Err(Unwanted::Ended),
        }
        let standing = offset.map(|offset| current.progress.pass(offset));
        if standing == Some(Standing::Settled) && current.kind == Kind::Stream {
            return Err(Unwanted::Settled(lapin.acker));
        }
        let tag = (current.number << NUMBER_SHIFT) | lapin.delivery_tag;
        current.unsettled.insert(tag, offset);
        drop(current);
        Ok(Delivery {
            message: Arc::new(message),
            tag,
            redelivered: lapin.redelivered || standing == Some(Standing::Again),
        })
    }

    /// The arguments by which to consume again.
    fn arguments(&self, request: &Consume) -> Result<Vec<(Box<str>, Argument)>, BrokerError> {
        self.0.lock().progress.arguments(request)
    }

    /// The channel to settle `tag` on, if it is unsettled there; then it no longer is.
    fn settle(&self, tag: u64, multiple: bool) -> Option<(Channel, u64)> {
        let mut current = self.0.lock();
        // RabbitMQ closes the channel of who settles what is settled.
        current.unsettled.remove(&tag)?;
        if multiple {
            current.unsettled = current.unsettled.split_off(&tag);
        }
        let channel = current.channel.clone()?;
        Some((channel, of_channel(tag)))
    }

    /// What the queue is, as far as this message is concerned: one without an offset is no stream's.
    fn kind_of(&self, tag: u64) -> Kind {
        let current = self.0.lock();
        match current.unsettled.get(&tag) {
            Some(Some(_)) => current.kind,
            Some(None) | None => Kind::Other,
        }
    }

    /// What the queue is, as far as it is known.
    fn kind(&self) -> Kind {
        self.0.lock().kind
    }

    /// The broker has told what the queue is.
    fn prove(&self, kind: Kind) {
        self.0.lock().kind = kind;
    }

    /// The channel on which this tag is unsettled.
    fn channel_of(&self, tag: u64) -> Option<Channel> {
        let current = self.0.lock();
        let is_on_it = tag >> NUMBER_SHIFT == current.number;
        current.channel.clone().filter(|_| is_on_it)
    }

    fn holds(&self, tag: u64) -> bool {
        let current = self.0.lock();
        let channel = current.channel.as_ref();
        current.unsettled.contains_key(&tag) && channel.is_some_and(is_open)
    }

    /// The stream of messages has ended, by an error of its channel or not; in which phase. It is a
    /// loss if that is "consuming".
    fn end(&self, with_channel: bool) -> ConsumerPhase {
        let mut current = self.0.lock();
        if current.phase == ConsumerPhase::Retired && with_channel {
            // RabbitMQ has all of it again.
            current.phase = ConsumerPhase::Cancelled;
        }
        if current.phase != ConsumerPhase::Retired {
            let unsettled = std::mem::take(&mut current.unsettled);
            current.progress.lose(unsettled.into_values().flatten());
            current.channel = None;
        }
        current.phase
    }

    /// Ends it from this side; the channel to close.
    fn cancel(&self) -> Option<Channel> {
        let mut current = self.0.lock();
        current.phase = ConsumerPhase::Cancelled;
        current.unsettled.clear();
        current.channel.take()
    }

    /// Ends it from this side, save for these tags. `None`: it has no channel, so nothing is
    /// unsettled.
    fn retire(&self, kept: &[u64]) -> Option<Retired> {
        let mut current = self.0.lock();
        let channel = current.channel.clone()?;
        current.phase = ConsumerPhase::Retired;
        let is_kept = |tag: &u64| kept.binary_search(tag).is_ok();
        let rest = current.unsettled.iter().filter(|(tag, _)| !is_kept(tag));
        let (mut unseen, mut kind) = (Vec::new(), Kind::Other);
        for (tag, offset) in rest {
            unseen.push(of_channel(*tag));
            if offset.is_some() {
                kind = current.kind;
            }
        }
        current.unsettled.retain(|tag, _| is_kept(tag));
        Some(Retired {
            channel,
            name: current.name.clone(),
            unseen,
            kind,
        })
    }
}

fn is_open(channel: &Channel) -> bool {
    channel.status().connected()
}

/// How a channel is left by a consumer that has retired.
struct Retired {
    channel: Channel,
    /// The consumer to cancel on it.
    name: ShortString,
    /// Tags of messages that its client has not seen.
    unseen: Vec<u64>,
    /// What the queue is, as far as these messages are concerned.
    kind: Kind,
}

/// The channel's part of a tag.
const fn of_channel(tag: u64) -> u64 {
    tag & !(u64::MAX << NUMBER_SHIFT)
}

struct Runner {
    links: Arc<ConsumerLinks>,
    link: Arc<AmqpLink>,
    declarer: Arc<Declarer>,
    request: Consume,
    sink: Arc<dyn DeliverySink>,
    state: Arc<ConsumerState>,
    question: Arc<Question>,
    operation_timeout: Duration,
    /// When its queue was bound first.
    bound: Instant,
    cut: Cut,
}

impl Runner {
    async fn run(mut self, mut messages: lapin::Consumer) {
        loop {
            let (reason, with_channel) = loop {
                match messages.next().await {
                    Some(Ok(delivery)) => match self.state.track(delivery) {
                        Ok(delivery) => self.sink.deliver(delivery),
                        Err(unwanted) => self.give_back(unwanted).await,
                    },
                    Some(Err(error)) => break (broker_error(&error), true),
                    None => break (BrokerError::Cancelled(CANCELLED.into()), false),
                }
            };
            match self.state.end(with_channel) {
                ConsumerPhase::Consuming => {}
                // The channel has its place on the link, which counts its holders.
                ConsumerPhase::Retired => return std::future::pending().await,
                ConsumerPhase::Cancelled => return,
            }
            let is_cut = matches!(reason, BrokerError::Unavailable(_));
            if !is_cut || !outlives_link(&self.request) {
                return self.sink.lost(reason);
            }
            self.cut.begins(&reason, Instant::now());
            match self.resume().await {
                Ok(stream) => messages = stream,
                Err(error) => return self.sink.lost(error),
            }
        }
    }

    async fn give_back(&self, unwanted: Unwanted) {
        // If the channel is closed, the broker has it in any case.
        let _ = match unwanted {
            Unwanted::Late(acker, known) => {
                let deadline = after(self.operation_timeout);
                match self.question.is_stream(known, deadline).await {
                    Ok(true) => acker.ack(BasicAckOptions::default()).await,
                    Ok(false) => {
                        let options = BasicNackOptions {
                            requeue: true,
                            ..Default::default()
                        };
                        acker.nack(options).await
                    }
                    Err(_) => return self.end_channel().await,
                }
            }
            Unwanted::Settled(acker) => acker.ack(BasicAckOptions::default()).await,
            Unwanted::Ended => return,
        };
    }

    /// Gives back by the end of the channel what cannot be given back otherwise: it would stay on the
    /// channel for as long as its client keeps others.
    async fn end_channel(&self) {
        if let Some(channel) = self.state.cancel() {
            let deadline = after(self.operation_timeout);
            // Without an answer it ends with its link.
            let _ = answer(deadline, channel.close(200, "unsubscribed".into())).await;
        }
    }

    /// Consumes again, as soon as the link is back; an error is one that will not go away.
    async fn resume(&mut self) -> Result<lapin::Consumer, BrokerError> {
        let is_young = self.request.binding.is_some() && self.bound.elapsed() < WRITTEN_AFTER;
        let mut request = Consume {
            arguments: self.state.arguments(&self.request)?,
            ..self.request.clone()
        };
        loop {
            self.link.wait().await;
            let deadline = after(self.operation_timeout);
            let (own, declarer) = (Some(&self.link), &self.declarer);
            match begin(
                &self.links,
                own,
                declarer,
                &request,
                Occasion::Again,
                deadline,
            )
            .await
            {
                Ok((link, (channel, messages))) => {
                    // Only now is it known how long that took: the link may not have noticed at once.
                    if self.cut.ends(Instant::now()) && is_young {
                        // It gives back what has come by it.
                        let _ = answer(deadline, channel.close(200, "bye".into())).await;
                        return Err(BrokerError::Cancelled(FORGOTTEN.into()));
                    }
                    if Kind::accepted(&request) == Kind::Stream {
                        self.state.prove(Kind::Stream);
                    }
                    self.link = link;
                    self.state.replace(channel, messages.tag());
                    self.sink.taken_back();
                    return Ok(messages);
                }
                // 4.3 says nothing of a queue whose node is down, for a minute and more.
                Err(BrokerError::Unavailable(cause)) if cause.is_silence() => {
                    let text = "the queue cannot be used now: the broker does not answer for it";
                    return Err(BrokerError::QueueFailed(text.into()));
                }
                // The link broke again; or the broker has not noticed yet that the old one did,
                // and holds the queue for its consumer.
                Err(BrokerError::Unavailable(_) | BrokerError::ResourceLocked(_))
                    if self.request.exclusive => {}
                Err(BrokerError::Unavailable(_)) => {}
                // What came out of a stream elsewhere has its offset there still.
                Err(BrokerError::PreconditionFailed(text))
                    if !stream::is_stream(&self.request) && stream::is_none(&text) =>
                {
                    self.state.prove(Kind::Other);
                    request.arguments.clone_from(&self.request.arguments);
                    continue;
                }
                Err(error) => return Err(error),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// A message that its client does not get.
enum Unwanted {
    /// It was on its way when its consumer retired; what its queue is.
    Late(Acker, Kind),
    /// It is one of a stream, and was settled before a lost link.
    Settled(Acker),
    /// Its consumer was ended; the end of the channel gives it back.
    Ended,
}

fn outlives_link(request: &Consume) -> bool {
    let QueueSpec {
        durable,
        exclusive,
        auto_delete,
        ..
    } = &request.queue;
    !request.declare || (*durable && !exclusive && !auto_delete)
}

impl Consumer for Dedicated {
    fn settle(
        &self,
        tag: u64,
        multiple: bool,
        verdict: Verdict,
    ) -> BoxFuture<'_, Result<Settled, BrokerError>> {
        let deadline = after(self.operation_timeout);
        async move {
            // A stream keeps its messages, whatever is said of them.
            let is_acked = verdict == Verdict::Accept || {
                let known = self.state.kind_of(tag);
                // Left unsettled, a later acknowledgement of all before it would accept it.
                self.question.is_stream(known, deadline).await?
            };
            let Some((channel, tag)) = self.state.settle(tag, multiple) else {
                return Ok(Settled::Stale);
            };
            let requeue = verdict == Verdict::Requeue;
            let outcome = if is_acked {
                answer(
                    deadline,
                    channel.basic_ack(tag, BasicAckOptions { multiple }),
                )
                .await
            } else {
                let options = BasicNackOptions { multiple, requeue };
                answer(deadline, channel.basic_nack(tag, options)).await
            };
            match outcome {
                // The link broke: the message comes again, and so does the question.
                Err(BrokerError::Unavailable(_)) => Ok(Settled::Stale),
                outcome => outcome.map(|()| Settled::Told),
            }
        }
        .boxed()
    }

    fn holds(&self, tag: u64) -> bool {
        self.state.holds(tag)
    }

    fn heard(&self, tag: u64) -> Confirm {
        let (deadline, prefetch) = (after(self.operation_timeout), self.prefetch);
        let channel = self.state.channel_of(tag);
        async move {
            let Some(channel) = channel else {
                return Err(BrokerError::Unavailable(UNHEARD.into()));
            };
            // A settlement has no answer; what is asked behind it on the channel has. It is about
            // consumers to come, of which there are none.
            let asking = channel.basic_qos(prefetch, BasicQosOptions::default());
            match answer(deadline, asking).await {
                Err(BrokerError::Unavailable(cause)) => {
                    Err(BrokerError::Unavailable(cause.with(UNHEARD)))
                }
                outcome => outcome,
            }
        }
        .boxed()
    }

    fn cancel(&self) -> BoxFuture<'_, Result<(), BrokerError>> {
        let deadline = after(self.operation_timeout);
        async move {
            let channel = self.state.cancel();
            // It may be consuming anew, or waiting for the link to do so.
            self.task.abort();
            let outcome = match channel {
                Some(channel) => answer(deadline, channel.close(200, "unsubscribed".into())).await,
                None => Ok(()),
            };
            drop(self.ownership.lock().take());
            gone(outcome)
        }
        .boxed()
    }

    fn retire<'a>(&'a self, kept: &'a [u64]) -> BoxFuture<'a, Result<(), BrokerError>> {
        let deadline = after(self.operation_timeout);
        async move {
            let Some(Retired {
                channel,
                name,
                unseen,
                kind,
            }) = self.state.retire(kept)
            else {
                return self.cancel().await;
            };
            // First, or they would come back here.
            let cancelling = channel.basic_cancel(name, BasicCancelOptions::default());
            let retiring = async {
                answer(deadline, cancelling).await?;
                drop(self.ownership.lock().take());
                let Ok(is_stream) = self.question.is_stream(kind, deadline).await else {
                    // The end of the channel gives all of it back.
                    return self.cancel().await;
                };
                for tag in unseen {
                    if is_stream {
                        let acking = channel.basic_ack(tag, BasicAckOptions::default());
                        answer(deadline, acking).await?;
                        continue;
                    }
                    let options = BasicNackOptions {
                        requeue: true,
                        ..Default::default()
                    };
                    answer(deadline, channel.basic_nack(tag, options)).await?;
                }
                // They have no answer; what is asked behind them on the channel has.
                answer(deadline, channel.basic_qos(1, BasicQosOptions::default())).await
            };
            match retiring.await {
                // Nothing is left that its client could settle.
                outcome @ Err(_) if !is_open(&channel) => {
                    self.state.cancel();
                    self.task.abort();
                    drop(self.ownership.lock().take());
                    gone(outcome)
                }
                outcome => outcome,
            }
        }
        .boxed()
    }
}

/// A consumer that ends with its link has ended: RabbitMQ requeues what is unsettled.
fn gone(outcome: Result<(), BrokerError>) -> Result<(), BrokerError> {
    match outcome {
        Err(BrokerError::Unavailable(_)) => Ok(()),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use futures_util::poll;
    use tokio::sync::mpsc;

    use super::*;
    use crate::broker::amqp::stub::Stub;

    /// How long callers wait.
    const PATIENCE: Duration = Duration::from_millis(1_500);

    fn consume(queue: &str) -> Consume {
        Consume {
            queue: QueueSpec {
                name: queue.into(),
                ..QueueSpec::default()
            },
            declare: false,
            binding: None,
            binding_arguments: Vec::new(),
            prefetch: 1,
            exclusive: false,
            owner: 1,
            arguments: Vec::new(),
        }
    }

    /// Those that were cleared before it on the same link are served there already.
    #[tokio::test]
    async fn a_suspect_whose_answer_stands_behind_messages_is_cleared() {
        let stub = Stub::of_queues(2047).await;
        let config = stub.config();
        let quarantine = Arc::clone(&config.quarantine);
        let declarer = Declarer::new(config.clone(), "node");
        let links = ConsumerLinks::new(config);
        quarantine.suspect(["first".into(), "second".into()]);
        let [first, second] = ["first", "second"].map(consume);
        let again = async |request: &Consume, patience: Duration| {
            let (again, deadline) = (Occasion::Again, after(patience));
            begin(&links, None, &declarer, request, again, deadline).await
        };
        let (link, _first) = again(&first, 10 * PATIENCE).await.unwrap();
        let second = stub.held_back(again(&second, PATIENCE)).await;
        let (other, _second) = second.unwrap();
        assert!(Arc::ptr_eq(&link, &other));
        assert!(!quarantine.is_suspect("second"));
    }

    /// Its answer may come as late as its link lives, and other suspects wait for turns.
    #[tokio::test]
    async fn a_suspect_on_a_slow_link_keeps_no_turn() {
        let stub = Stub::of_queues(2047).await;
        let config = stub.config();
        let quarantine = Arc::clone(&config.quarantine);
        let declarer = Declarer::new(config.clone(), "node");
        let links = ConsumerLinks::new(config);
        quarantine.suspect(["first".into(), "second".into()]);
        let [first, second] = ["first", "second"].map(consume);
        let again = async |request: &Consume, patience: Duration| {
            let (again, deadline) = (Occasion::Again, after(patience));
            begin(&links, None, &declarer, request, again, deadline).await
        };
        let (link, _first) = again(&first, 10 * PATIENCE).await.unwrap();
        let free = links.free_turns();
        stub.hold(true);
        let mut asking = pin!(again(&second, PATIENCE));
        assert!(poll!(&mut asking).is_pending());
        assert_eq!(links.free_turns(), free - 1);
        let is_free = async {
            while links.free_turns() < free {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            freed = timeout_at(after(10 * PATIENCE), is_free) => assert_eq!(freed, Ok(())),
            _ = &mut asking => panic!("nothing answers"),
        }
        stub.hold(false);
        let (other, _second) = asking.await.unwrap();
        assert!(Arc::ptr_eq(&link, &other));
        assert!(!quarantine.is_suspect("second"));
    }

    /// What is delivered.
    struct Inbox {
        tags: mpsc::UnboundedSender<u64>,
        /// A consumer that retires while a message is handed over, and keeps that one.
        retires: OnceLock<Arc<ConsumerState>>,
    }

    impl DeliverySink for Inbox {
        fn deliver(&self, delivery: Delivery) {
            if let Some(state) = self.retires.get() {
                drop(state.retire(&[delivery.tag]));
            }
            self.tags.send(delivery.tag).unwrap();
        }

        fn lost(&self, _: BrokerError) {}
    }

    /// A consumer of a queue that is there already, where it delivers, and the tags of that.
    async fn started(stub: &Stub) -> (Dedicated, Arc<Inbox>, mpsc::UnboundedReceiver<u64>) {
        let config = stub.config();
        let declarer = Arc::new(Declarer::new(config.clone(), "node"));
        let links = Arc::new(ConsumerLinks::new(config));
        let (tags, delivered) = mpsc::unbounded_channel();
        let retires = OnceLock::new();
        let inbox = Arc::new(Inbox { tags, retires });
        let sink = Arc::<Inbox>::clone(&inbox);
        let request = consume("q");
        let starting = Dedicated::start(links, None, declarer, request, sink, PATIENCE);
        (starting.await.unwrap(), inbox, delivered)
    }

    /// Any publisher can set the header with the offset.
    #[tokio::test]
    async fn nothing_is_settled_of_a_queue_that_does_not_say_what_it_is() {
        let stub = Stub::of_queues(2047).await;
        stub.deliver(1);
        let (dedicated, _inbox, mut delivered) = started(&stub).await;
        let tag = delivered.recv().await.unwrap();
        let settled = dedicated.settle(tag, false, Verdict::Requeue).await;
        assert!(settled.is_err());
        assert!(dedicated.holds(tag));
        // Unseen by its client, it goes back with its channel.
        assert_eq!(dedicated.retire(&[]).await, Ok(()));
        let current = dedicated.state.0.lock();
        assert_eq!(current.phase, ConsumerPhase::Cancelled);
        assert!(current.channel.is_none());
    }

    #[tokio::test]
    async fn what_comes_late_is_given_back_though_it_may_be_of_a_stream() {
        let stub = Stub::of_queues(2047).await;
        stub.deny_streams();
        stub.deliver(3);
        // It runs from the next pause on.
        let (dedicated, inbox, mut delivered) = started(&stub).await;
        assert!(inbox.retires.set(Arc::clone(&dedicated.state)).is_ok());
        let kept = delivered.recv().await.unwrap();
        let given_back = timeout_at(after(10 * PATIENCE), stub.until_given_back(2)).await;
        assert_eq!(given_back, Ok(()));
        assert!(dedicated.holds(kept));
        assert_eq!(dedicated.state.kind(), Kind::Other);
        assert_eq!(stub.questions(), 1);
    }

    /// What is asked before it, and elsewhere, tells nothing of it.
    #[tokio::test]
    async fn a_queue_that_was_not_asked_for_is_no_suspect() {
        let silent = Stub::start(2047, true).await;
        let stub = Stub::of_queues(2047).await;
        let config = stub.config();
        let quarantine = Arc::clone(&config.quarantine);
        let declarer = Declarer::new(silent.config(), "node");
        let links = ConsumerLinks::new(config);
        let request = Consume {
            declare: true,
            ..consume("q")
        };
        let (first, deadline) = (Occasion::First, after(PATIENCE));
        let begun = begin(&links, None, &declarer, &request, first, deadline).await;
        assert!(matches!(begun, Err(BrokerError::Unavailable(_))));
        assert!(!quarantine.is_suspect("q"));
        assert_eq!(silent.connections(), 1);
    }
}
