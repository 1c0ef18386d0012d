//! The exchange that commands go by.
//!
//! A node listens to it as a client does to any exchange, by a shared feed: so its queue is made,
//! kept over a lost link, and removed with all others.

use std::{
    collections::{HashMap, HashSet},
    future::poll_fn,
    pin::pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::future::FusedFuture;
use parking_lot::Mutex;
use serde_json::Value;
use stomp_session::SubscriptionId;
use tokio::{
    select,
    sync::{Notify, Semaphore, mpsc},
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    Change, Command, ControlShared, Effect, Look, PATIENCE, learn_bans,
    wire::{self, Envelope, Note},
};
use crate::{
    background,
    backoff::Backoff,
    broker::{BrokerError, LANE_OF_CONTROL, Message, Properties, Publish, VirtualHost},
    deadline::after,
    hub::{Hub, Item, Mailbox, MailboxConfig, Overflow},
    telemetry::{self, SentAt},
};

/// How long a command holds, from when it is given. A node that was cut off for longer had its
/// reasons, and whoever was meant may have come back by then.
pub(super) const LIFE: Duration = Duration::from_secs(5 * 60);

/// How long a look holds. Nobody waits so long for its answers; but clocks differ.
const LOOK_LIFE: Duration = Duration::from_secs(60);

/// The pause before the exchange is asked for again: at first, doubling up to the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// How long the broker may take to confirm a command.
const CONFIRM: Duration = Duration::from_secs(2);

/// Commands that wait to be run here: messages, and bytes. Beyond, the oldest are lost.
pub(super) const MAX_WAITING: (usize, usize) = (10_000, 4 << 20);

/// The pause between two questions for bans. The answers may be what there was too much of.
const BETWEEN_QUESTIONS: Duration = Duration::from_secs(10);

/// An answer about bans waits at most so long, and on no two nodes alike: what one has told need not
/// come from all. So much at once could push commands out of mailboxes.
const BEFORE_BANS: Duration = Duration::from_secs(2);

/// So few bans are told at once: who is banned is not to come in meanwhile.
const FEW_BANS: usize = 50;

/// How often RabbitMQ may refuse a part of an answer about bans. Then whoever asked is without.
const TRIES: u32 = 10;

/// Nodes that keep presence in their memory, and that are remembered. Beyond, none is told of.
const MAX_APART: usize = 1_000;

/// Answers to one command that wait to be counted. Beyond, they are not.
const MAX_ANSWERS: usize = 1_000;

/// Commands that wait until RabbitMQ takes them. Beyond, they are lost.
const MAX_OWED: usize = 10_000;

/// Looks that are answered at a time: the answers go to all nodes, beside commands.
const LOOKS: usize = 4;

/// How long the nodes count as all there are that answered a look, where presence does not know
/// them. After that, one look waits again for whoever may answer.
const HEARD: Duration = Duration::from_secs(30);

/// The way to other nodes.
#[derive(Clone)]
pub(super) struct ControlLink(Arc<Inner>);

struct Inner {
    vhost: Arc<Hub>,
    exchange: Box<str>,
    node: Box<str>,
    /// The callers that wait for answers, by the command's id.
    waiting: Mutex<HashMap<Box<str>, mpsc::Sender<NodeAnswer>>>,
    /// The same, by the id of a look.
    looking: Mutex<HashMap<Box<str>, mpsc::Sender<NodeView>>>,
    heard: Mutex<Heard>,
    /// The places of commands that RabbitMQ did not take at first.
    owed: Semaphore,
    /// The turn to try one of them again.
    again: tokio::sync::Mutex<()>,
    /// The turns of answers to looks of operators.
    showing: Semaphore,
    /// The turns of answers that messages depend on: no operator's page takes them.
    deciding: Semaphore,
    /// While a question for bans waits to be answered: those that others have told since, by their
    /// subjects, and their stamps.
    told_bans: Mutex<Option<HashMap<String, Option<u64>>>>,
    /// The other nodes that keep presence in their memory, if this one does.
    apart: Option<Mutex<HashSet<Box<str>>>>,
}

/// The other nodes, by their own words.
#[derive(Default)]
struct Heard {
    /// When the last look began that waited for whoever may answer.
    all: Option<Instant>,
    /// Those that were heard of since then, and when each was last.
    nodes: HashMap<Box<str>, Instant>,
}

/// A node, and what it did.
type NodeAnswer = (Box<str>, u64);

/// A node, and what is to be seen of it.
type NodeView = (Box<str>, Option<Value>);

impl ControlLink {
    pub(super) fn new(
        vhost: Arc<Hub>,
        exchange: &str,
        node: &str,
        presence_in_memory: bool,
    ) -> Self {
        Self(Arc::new(Inner {
            vhost,
            exchange: exchange.into(),
            node: node.into(),
            waiting: Mutex::default(),
            looking: Mutex::default(),
            heard: Mutex::default(),
            owed: Semaphore::new(MAX_OWED),
            again: tokio::sync::Mutex::default(),
            showing: Semaphore::new(LOOKS),
            deciding: Semaphore::new(LOOKS),
            told_bans: Mutex::default(),
            apart: presence_in_memory.then(Mutex::default),
        }))
    }

    /// Tells all other nodes that this one keeps presence in its memory, if it does; in the
    /// background, for nothing depends on it.
    fn tell_apart(&self) {
        if self.0.apart.is_none() {
            return;
        }
        let (link, node) = (self.clone(), self.0.node.clone());
        background::spawn(async move {
            // A broker that is away is in the log. It is told again when the link is back.
            let _ = link.send(&Note::PresenceInMemory { node }).await;
        });
    }

    /// Another node keeps presence in its memory, as this one does: neither knows who is at the
    /// other. Each of the two says so, so the other is told once more; it may have begun later.
    fn hear_apart(&self, node: Box<str>) {
        let Some(apart) = &self.0.apart else {
            return;
        };
        let mut apart = apart.lock();
        if node == self.0.node || apart.len() >= MAX_APART || apart.contains(&node) {
            return;
        }
        telemetry::presence_apart(&node);
        apart.insert(node);
        self.tell_apart();
    }

    pub(super) fn exchange(&self) -> &str {
        &self.0.exchange
    }

    /// Tells all other nodes; again and again while RabbitMQ does not take it, for as long as the
    /// command holds. It may come more than once.
    pub(super) async fn tell_in_the_end(&self, command: &Command) -> Result<(), Box<str>> {
        let envelope = self.envelope(command, false);
        let end = after(LIFE);
        let Err(mut error) = self.publish(&envelope).await else {
            return Ok(());
        };
        let Ok(_owed) = self.0.owed.try_acquire() else {
            return Err(error);
        };
        let mut backoff = Backoff::new(PAUSES);
        let trying = async {
            loop {
                sleep(backoff.pause()).await;
                // One at a time: the commands of operators wait behind these.
                let _turn = self.0.again.lock().await;
                match self.publish(&envelope).await {
                    Ok(()) => return,
                    Err(new) => error = new,
                }
            }
        };
        timeout_at(end, trying).await.map_err(|_| error)
    }

    /// Sends a command to all other nodes, and gathers their answers until `patience` is over. It
    /// ends earlier after an answer that `is_enough`, or when all of `nodes` have answered, if
    /// they are known. Beside the answers, those that are known.
    pub(super) async fn ask(
        &self,
        command: &Command,
        patience: Duration,
        is_enough: impl Fn(u64) -> bool,
        nodes: impl FusedFuture<Output = Option<HashSet<Box<str>>>>,
    ) -> Result<(Vec<NodeAnswer>, Option<HashSet<Box<str>>>), Box<str>> {
        let envelope = self.envelope(command, true);
        let (sender, mut receiver) = mpsc::channel(MAX_ANSWERS);
        let _waiting = Awaited::begin(&self.0.waiting, &envelope.id, sender);
        self.publish(&envelope).await?;
        let end = after(patience);
        let (mut nodes, mut awaited) = (pin!(nodes), None);
        let mut answers: Vec<NodeAnswer> = Vec::new();
        while awaited.is_none() || !silent(awaited.as_ref(), &answers).is_empty() {
            let answer = select! {
                known = &mut nodes, if !nodes.is_terminated() => {
                    awaited = known;
                    continue;
                }
                answer = timeout_at(end, receiver.recv()) => answer,
            };
            let Ok(Some(answer)) = answer else {
                break;
            };
            let hits = answer.1;
            answers.push(answer);
            if is_enough(hits) {
                break;
            }
        }
        Ok((answers, awaited))
    }

    /// The nodes that are known from their own words, if one look waited for all of late.
    pub(super) fn heard(&self) -> Option<HashSet<Box<str>>> {
        let heard = self.0.heard.lock();
        let is_new = heard.all.is_some_and(|at| at.elapsed() < HEARD);
        is_new.then(|| heard.nodes.keys().cloned().collect())
    }

    /// A node is there: the next looks wait for it.
    fn hear_of(&self, node: &str) {
        let nodes = &mut self.0.heard.lock().nodes;
        if let Some(last) = nodes.get_mut(node) {
            *last = Instant::now();
        } else if *node != *self.0.node && nodes.len() < MAX_ANSWERS {
            nodes.insert(node.into(), Instant::now());
        }
    }

    /// Asks all other nodes what there is to see, and gathers their answers until `patience` is
    /// over. It ends earlier when all `known` ones have answered; or, about a session, when one has
    /// it. Where messages depend on it, those that were silent are asked once more.
    pub(super) async fn look(
        &self,
        look: &Look,
        patience: Duration,
        known: Option<&HashSet<Box<str>>>,
    ) -> Result<Vec<NodeView>, Box<str>> {
        let mut views = self.look_once(look, patience, known).await?;
        let silent = silent(known, &views);
        if look.is_asked_twice() && !silent.is_empty() {
            let mut late = self.look_once(look, patience, Some(&silent)).await?;
            late.retain(|(node, _)| silent.contains(node));
            views.append(&mut late);
        }
        Ok(views)
    }

    async fn look_once(
        &self,
        look: &Look,
        patience: Duration,
        known: Option<&HashSet<Box<str>>>,
    ) -> Result<Vec<NodeView>, Box<str>> {
        let begun = Instant::now();
        let mut views: Vec<NodeView> = Vec::new();
        let is_alone = known.is_some_and(HashSet::is_empty);
        if is_alone && !look.is_asked_twice() {
            return Ok(views);
        }
        let id: Box<str> = format!("{:016x}", rand::random::<u64>()).into();
        let (sender, mut receiver) = mpsc::channel(MAX_ANSWERS);
        let _looking = Awaited::begin(&self.0.looking, &id, sender);
        let note = Note::Look {
            id: id.clone(),
            node: self.0.node.clone(),
            look: look.clone(),
            expires: SystemTime::now().checked_add(LOOK_LIFE),
        };
        self.send(&note).await?;
        // A node that answers all the same is waited for the next time.
        if is_alone {
            return Ok(views);
        }
        let end = after(patience);
        while let Ok(Some(view)) = timeout_at(end, receiver.recv()).await {
            let is_found = look.has_one_node() && view.1.is_some();
            views.push(view);
            if is_found || known.is_some() && silent(known, &views).is_empty() {
                return Ok(views);
            }
        }
        // A node may be silent about a session because its connection is busy: it is there all the same.
        if !look.has_one_node() {
            let mut heard = self.0.heard.lock();
            heard.all = Some(begun);
            heard.nodes.retain(|_, last| *last >= begun);
        }
        Ok(views)
    }

    fn envelope(&self, command: &Command, answer: bool) -> Envelope {
        let now = (!command.is_timeless()).then(SystemTime::now);
        Envelope {
            command: command.clone(),
            id: format!("{:016x}", rand::random::<u64>()).into(),
            node: self.0.node.clone(),
            expires: now.and_then(|now| now.checked_add(LIFE)),
            stamp: now,
            answer,
        }
    }

    async fn publish(&self, envelope: &Envelope) -> Result<(), Box<str>> {
        self.send(&Note::Command(envelope.clone())).await
    }

    pub(super) async fn send(&self, note: &Note) -> Result<(), Box<str>> {
        self.send_bytes(wire::encode(note)).await
    }

    /// The name of this node.
    pub(super) fn node(&self) -> &str {
        &self.0.node
    }

    /// The virtual host that commands go by.
    pub(super) fn host(&self) -> &Arc<dyn VirtualHost> {
        self.0.vhost.host()
    }

    /// Asks the others for bans that this node may have missed: until RabbitMQ has it. Nothing else
    /// tells it of them, where Redis is not used.
    async fn ask_for_bans(&self) {
        let node = self.0.node.clone();
        let question = wire::encode(&Note::BansWanted { node });
        let mut backoff = Backoff::new(PAUSES);
        let mut is_said = false;
        // A late confirm is awaited: all others would answer each question that comes.
        while let Err(error) = self.publish_bytes(question.clone()).await {
            if !is_said {
                telemetry::control_untold("bans", &error.to_string());
                is_said = true;
            }
            sleep(backoff.pause()).await;
        }
    }

    /// Answers a question for bans: many of them in a while, without those that another node has told
    /// until then.
    fn answer_bans(&self, shared: &Arc<ControlShared>) {
        if let Some(told) = &mut *self.0.told_bans.lock() {
            // The node that asks now has not heard what was told before.
            told.clear();
            return;
        }
        let changes = shared.sessions.bans();
        if changes.len() <= FEW_BANS {
            let link = self.clone();
            background::spawn(async move { link.tell_bans(changes).await });
            return;
        }
        self.0.told_bans.lock().replace(HashMap::new());
        let (link, shared) = (self.clone(), Arc::clone(shared));
        background::spawn(async move {
            sleep(BEFORE_BANS.mul_f64(rand::random::<f64>())).await;
            let told = link.0.told_bans.lock().take().unwrap_or_default();
            let mut changes = shared.sessions.bans();
            changes.retain(|change| {
                let told = told.get(&change.subject.key());
                told.is_none_or(|stamp| *stamp < change.stamp)
            });
            link.tell_bans(changes).await;
        });
    }

    /// Another node has told all nodes of these bans.
    fn hear_of_bans(&self, changes: &[Change]) {
        if let Some(told) = &mut *self.0.told_bans.lock() {
            for change in changes {
                let stamp = told.entry(change.subject.key()).or_default();
                *stamp = change.stamp.max(*stamp);
            }
        }
    }

    /// Tells the others these bans. They may hear of some twice.
    async fn tell_bans(&self, changes: Vec<Change>) {
        let mut backoff = Backoff::new(PAUSES);
        let mut tries = TRIES;
        for message in wire::encode_bans(&self.0.node, changes) {
            while let Err(error) = self.send_bytes(message.clone()).await {
                tries = tries.saturating_sub(1);
                if tries == 0 {
                    return telemetry::control_untold("banned", &error);
                }
                sleep(backoff.pause()).await;
            }
        }
    }

    async fn send_bytes(&self, body: Vec<u8>) -> Result<(), Box<str>> {
        match timeout(CONFIRM, self.publish_bytes(body)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(error.to_string().into()),
            Err(_) => Err(format!(
                "RabbitMQ did not confirm it within {CONFIRM:?}; it may yet arrive"
            )
            .into()),
        }
    }

    /// Until RabbitMQ has confirmed it, or has not for `broker.operation_timeout`.
    async fn publish_bytes(&self, body: Vec<u8>) -> Result<(), BrokerError> {
        let publish = Publish {
            exchange: self.0.exchange.clone(),
            routing_key: Box::default(),
            properties: Properties {
                content_type: Some("application/json".into()),
                persistent: true,
                ..Properties::default()
            },
            body: body.into(),
            mandatory: false,
            lane: LANE_OF_CONTROL,
            slow: None,
        };
        self.0.vhost.host().publish(publish).await?.await
    }
}

/// The known nodes that are not among those that answered.
pub(super) fn silent<T>(
    known: Option<&HashSet<Box<str>>>,
    answers: &[(Box<str>, T)],
) -> HashSet<Box<str>> {
    let has_answered = |node: &str| answers.iter().any(|(name, _)| **name == *node);
    let known = known.into_iter().flatten();
    known.filter(|node| !has_answered(node)).cloned().collect()
}

/// A caller that waits for answers to what has this id, until it is dropped.
struct Awaited<'a, T> {
    waiting: &'a Mutex<HashMap<Box<str>, mpsc::Sender<T>>>,
    id: &'a str,
}

impl<'a, T> Awaited<'a, T> {
    fn begin(
        waiting: &'a Mutex<HashMap<Box<str>, mpsc::Sender<T>>>,
        id: &'a str,
        sender: mpsc::Sender<T>,
    ) -> Self {
        waiting.lock().insert(id.into(), sender);
        Self { waiting, id }
    }
}

impl<T> Drop for Awaited<'_, T> {
    fn drop(&mut self) {
        self.waiting.lock().remove(self.id);
    }
}

/// Runs what comes, for ever. A broker that is away is waited for by the feed itself.
pub(super) async fn listen(link: ControlLink, shared: Arc<ControlShared>) {
    let (_, longest) = PAUSES;
    let mut backoff = Backoff::new(PAUSES);
    // An account that lacks the permission lacks it for days: that is said once.
    let mut said = None;
    loop {
        let begun = Instant::now();
        let cause = listen_once(&link, &shared).await;
        if begun.elapsed() > longest {
            backoff.reset();
            said = None;
        }
        let pause = backoff.pause();
        if said.as_ref() != Some(&cause) {
            telemetry::control_down(link.exchange(), &cause, pause);
            said = Some(cause);
        }
        sleep(pause).await;
    }
}

/// Asks for bans whenever this node may have missed some.
async fn ask_for_missed_bans(link: ControlLink, missed: Arc<Notify>) {
    loop {
        missed.notified().await;
        link.ask_for_bans().await;
        sleep(BETWEEN_QUESTIONS).await;
    }
}

/// Until it cannot go on; why.
async fn listen_once(link: &ControlLink, shared: &Arc<ControlShared>) -> String {
    let (max_messages, max_bytes) = MAX_WAITING;
    let mailbox = Mailbox::new(MailboxConfig {
        max_messages,
        max_bytes,
        overflow: Overflow::DropOldest,
    });
    let exchange = link.exchange();
    let subscribing = link
        .0
        .vhost
        .subscribe(exchange, "", &mailbox, SubscriptionId(0));
    let _subscription = match subscribing.await {
        Ok(Some(subscription)) => subscription,
        Ok(None) => return "it is there, but is no fanout exchange".to_owned(),
        // Told by the link that is down, which no permission would help; in the same words each
        // time, whatever the system says, so that it is said once.
        Err(error @ BrokerError::Unavailable(_)) => return error.told(),
        Err(error) => {
            return format!(
                "{error}. The gateway's account must be allowed to configure, write and read that \
                 exchange ([control] exchange)"
            );
        }
    };
    telemetry::control_up(exchange);
    link.tell_apart();
    // Since it listened the last time, bans may have been set and lifted.
    let missed = Arc::new(Notify::new());
    missed.notify_one();
    let asking = ask_for_missed_bans(link.clone(), Arc::clone(&missed));
    let _asking = AbortOnDropHandle::new(background::spawn(asking));
    loop {
        match poll_fn(|context| mailbox.poll_take(context)).await {
            Item::Parcel(parcel) => {
                if parcel.dropped > 0 {
                    telemetry::control_dropped(parcel.dropped);
                    // Among them may have been bans.
                    missed.notify_one();
                }
                handle(link, shared, &parcel.message).await;
            }
            Item::Problem(problem) => return problem.to_string(),
            // Only dedicated consumers have the one, and this is a feed; nobody asked for the other.
            Item::Again(_) | Item::Follows(..) => {}
        }
    }
}

async fn handle(link: &ControlLink, shared: &Arc<ControlShared>, message: &Message) {
    // It may have come by a queue's name, or through another exchange, for which clients may have
    // permissions.
    if *message.exchange != *link.exchange() {
        let cause = format!("it was published to the exchange {:?}", message.exchange);
        return telemetry::control_ignored(&cause);
    }
    match wire::decode(&message.body) {
        Ok(Note::Command(mut envelope)) if envelope.node != link.0.node => {
            // A ban says itself since when it holds; or its message may, if a backend set it.
            if envelope.command.is_timeless() {
                envelope.stamp = message.sent_at().and_then(SentAt::moment);
            }
            run(link, shared, envelope).await;
        }
        Ok(Note::Command(_)) => {}
        Ok(Note::Answer { to, node, hits }) => {
            let waiting = link.0.waiting.lock().get(&*to).cloned();
            if let Some(waiting) = waiting {
                // Nobody counts so many.
                let _ = waiting.try_send((node, hits));
            }
        }
        Ok(Note::PresenceInMemory { node }) => link.hear_apart(node),
        Ok(Note::BansWanted { node }) if node != link.0.node => {
            // By this a node that begins to listen is heard of.
            link.hear_of(&node);
            link.answer_bans(shared);
        }
        Ok(Note::Bans {
            node,
            changes,
            faults,
        }) if node != link.0.node => {
            if let [first, ..] = &*faults {
                let count = faults.len();
                telemetry::control_ignored(&format!("{count} of the bans of {node}: {first}"));
            }
            link.hear_of_bans(&changes);
            learn_bans(&*shared.sessions, &node, &changes);
        }
        Ok(Note::Look {
            id,
            node,
            look,
            expires,
        }) if node != link.0.node => {
            // A node that was cut off finds many that nobody waits for.
            if expires.is_some_and(|expires| expires <= SystemTime::now()) {
                return;
            }
            let (link, shared) = (link.clone(), Arc::clone(shared));
            // The next command does not wait for it.
            background::spawn(async move { tell_view(&link, &shared, id, look).await });
        }
        Ok(Note::Seen { to, node, view }) => {
            link.hear_of(&node);
            let looking = link.0.looking.lock().get(&*to).cloned();
            if let Some(looking) = looking {
                // Nobody looks at so many.
                let _ = looking.try_send((node, view));
            }
        }
        Ok(Note::Tail(asked)) if asked.node != link.0.node => shared.hear_tail(link, asked),
        Ok(Note::TailEnds { id, node }) if node != link.0.node => shared.taps.end(&id),
        Ok(
            Note::BansWanted { .. }
            | Note::Bans { .. }
            | Note::Look { .. }
            | Note::Tail(_)
            | Note::TailEnds { .. },
        ) => {}
        Err(cause) => telemetry::control_ignored(&cause),
    }
}

async fn tell_view(link: &ControlLink, shared: &ControlShared, to: Box<str>, look: Look) {
    let turns = if look.is_asked_twice() {
        &link.0.deciding
    } else {
        &link.0.showing
    };
    // The node that asks waits so long for the answer, and not longer.
    let Ok(Ok(_turn)) = timeout(PATIENCE, turns.acquire()).await else {
        return;
    };
    // An answer without a view says that the session is not here. This one is: so there is none, and
    // the node that asks counts this one as silent.
    let Ok(view) = shared.view(look).await else {
        return;
    };
    let note = Note::Seen {
        to,
        node: link.0.node.clone(),
        view,
    };
    if let Err(error) = link.send(&note).await {
        telemetry::control_untold("seen", &error);
    }
}

async fn run(link: &ControlLink, shared: &ControlShared, envelope: Envelope) {
    let command = &envelope.command;
    let now = SystemTime::now();
    if envelope.is_expired(now) {
        let cause = format!("{} of {} came too late", command.name(), command.subject());
        return telemetry::control_ignored(&cause);
    }
    let effect = match shared.begin(command, envelope.late(now)).await {
        Ok(effect) => effect,
        // Without an answer: "no hits" would say that nobody is here whom it is about.
        Err(error) => return telemetry::control_ignored(&error.to_string()),
    };
    let link = link.clone();
    match effect {
        Effect::Known(_) => told(link, envelope, effect).await,
        // The next command does not wait for what sessions say.
        Effect::Awaited(_) => {
            background::spawn(told(link, envelope, effect));
        }
    }
}

/// Says what a command has done.
async fn told(link: ControlLink, envelope: Envelope, effect: Effect) {
    let hits = effect.hits().await;
    let Envelope {
        command,
        id,
        node,
        answer,
        ..
    } = envelope;
    let from = if node.is_empty() { "a backend" } else { &node };
    telemetry::control_command(command.name(), &command.subject(), from, hits);
    if answer {
        let note = Note::Answer {
            to: id,
            node: link.0.node.clone(),
            hits,
        };
        // The next command does not wait for the broker's word on this.
        background::spawn(async move {
            if let Err(error) = link.send(&note).await {
                telemetry::control_untold("answer", &error);
            }
        });
    }
}
