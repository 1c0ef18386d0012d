//! A queue: messages that are ready, consumers, and what they have not settled.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{
    dead::{DeadLetter, Reason},
    handover::Handover,
    policy::Policy,
};
use crate::broker::{BrokerError, Delivery, DeliverySink, Message, QueueSpec, Settled, Verdict};

/// A queue. It changes its messages under its lock; the caller does the rest afterwards (calls to
/// sinks, dead letters, its removal).
pub(super) struct Queue {
    /// Its identity in the virtual host, among queues and feeds.
    pub(super) serial: u64,
    pub(super) spec: QueueSpec,
    /// The link that it is exclusive to.
    pub(super) owner: Option<u64>,
    policy: Policy,
    most_bytes: usize,
    state: Mutex<QueueState>,
    out: Handover<QueueEvent>,
}

#[derive(Default)]
struct QueueState {
    /// In the order of their numbers.
    ready: VecDeque<QueueEntry>,
    ready_bytes: usize,
    /// The bytes of ready and unsettled messages.
    held_bytes: usize,
    next_number: u64,
    consumers: Vec<Attached>,
    /// The consumer whose turn it is, among those of equal priority.
    turn: usize,
    bindings: Vec<(Box<str>, Box<str>)>,
    ended: bool,
}

struct QueueEntry {
    /// Its place in the queue, which it takes again when it is requeued.
    number: u64,
    message: Arc<Message>,
    bytes: usize,
    redelivered: bool,
    expires: Option<Instant>,
    hops: u8,
}

/// A consumer.
struct Attached {
    serial: u64,
    link: u64,
    owner: u64,
    sink: Arc<dyn DeliverySink>,
    prefetch: usize,
    priority: i64,
    exclusive: bool,
    unsettled: BTreeMap<u64, QueueEntry>,
    last_tag: u64,
    /// Cleared when it ends: the messages that wait for its sink are then no longer its own.
    live: Arc<AtomicBool>,
    /// It gets nothing more, and may settle what it has.
    is_retired: bool,
}

/// An event for a sink.
enum QueueEvent {
    Delivered {
        live: Arc<AtomicBool>,
        sink: Arc<dyn DeliverySink>,
        delivery: Delivery,
    },
    Lost {
        sink: Arc<dyn DeliverySink>,
        reason: BrokerError,
    },
}

/// A consumer to be.
pub(super) struct Attach {
    pub(super) serial: u64,
    pub(super) link: u64,
    pub(super) owner: u64,
    pub(super) sink: Arc<dyn DeliverySink>,
    pub(super) prefetch: u16,
    pub(super) priority: i64,
    pub(super) exclusive: bool,
}

/// Why a queue did not do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It is gone.
    Ended,
    /// It is full, or in another's exclusive use.
    Denied,
}

/// The queue's fate after a call: it ends when its last consumer leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum After {
    Stays,
    Ends,
}

impl Queue {
    pub(super) fn new(
        serial: u64,
        spec: QueueSpec,
        policy: Policy,
        owner: Option<u64>,
        most_bytes: usize,
    ) -> Self {
        Self {
            serial,
            spec,
            owner,
            policy,
            most_bytes,
            state: Mutex::default(),
            out: Handover::new(),
        }
    }

    pub(super) fn is_ended(&self) -> bool {
        self.state.lock().ended
    }

    /// Notes a binding, so that it can be removed with the queue.
    pub(super) fn note_binding(&self, exchange: &str, pattern: &str) -> Result<(), Refused> {
        let mut state = self.state.lock();
        if state.ended {
            return Err(Refused::Ended);
        }
        let binding = (exchange.into(), pattern.into());
        if !state.bindings.contains(&binding) {
            state.bindings.push(binding);
        }
        Ok(())
    }

    /// Appends a message.
    pub(super) fn push(
        &self,
        message: Arc<Message>,
        hops: u8,
        dead: &mut Vec<DeadLetter>,
    ) -> Result<(), Refused> {
        let bytes = message.weight();
        let expires = self.expires(&message);
        {
            let mut state = self.state.lock();
            if state.ended {
                return Err(Refused::Ended);
            }
            let is_full =
                |state: &QueueState| state.held_bytes.saturating_add(bytes) > self.most_bytes;
            let is_over = |state: &QueueState| {
                let messages = state.ready.len().saturating_add(1);
                let ready_bytes = state.ready_bytes.saturating_add(bytes);
                self.policy.is_over(messages, ready_bytes)
            };
            if is_full(&state) || is_over(&state) {
                self.drop_expired(&mut state, dead);
            }
            let is_rejected = self.policy.rejects && is_over(&state);
            if is_rejected || is_full(&state) && !self.policy.drops_head() {
                return Err(Refused::Denied);
            }
            while is_full(&state) {
                let Some(entry) = state.take_first() else {
                    // All else is unsettled. Other queues have the message; this one has no room.
                    self.bury(message, hops, Reason::MaxLen, dead);
                    return Ok(());
                };
                self.give_up(&mut state, entry, Reason::MaxLen, dead);
            }
            let number = state.next_number;
            state.next_number = number.wrapping_add(1);
            state.held_bytes = state.held_bytes.saturating_add(bytes);
            state.ready_bytes = state.ready_bytes.saturating_add(bytes);
            state.ready.push_back(QueueEntry {
                number,
                message,
                bytes,
                redelivered: false,
                expires,
                hops,
            });
            self.assign(&mut state, Some(number), dead);
            while self.policy.is_over(state.ready.len(), state.ready_bytes) {
                let Some(entry) = state.take_first() else {
                    break;
                };
                self.give_up(&mut state, entry, Reason::MaxLen, dead);
            }
        }
        self.tell();
        Ok(())
    }

    fn expires(&self, message: &Message) -> Option<Instant> {
        let own = message
            .properties
            .expiration
            .as_deref()
            .and_then(|text| text.parse().ok().map(Duration::from_millis));
        let ttl = self.policy.ttl.into_iter().chain(own).min()?;
        Instant::now().checked_add(ttl)
    }

    /// Gives ready messages to consumers that may take more. The message that was just pushed
    /// may go even with a time of zero, to whoever waits for it.
    fn assign(&self, state: &mut QueueState, pushed: Option<u64>, dead: &mut Vec<DeadLetter>) {
        while !state.ready.is_empty() {
            let Some(place) = state.next_consumer() else {
                return;
            };
            let Some(mut entry) = state.take_first() else {
                return;
            };
            if pushed != Some(entry.number) && entry.is_expired() {
                self.give_up(state, entry, Reason::Expired, dead);
                continue;
            }
            let Some(consumer) = state.consumers.get_mut(place) else {
                return;
            };
            consumer.last_tag = consumer.last_tag.wrapping_add(1);
            self.out.add(QueueEvent::Delivered {
                live: Arc::clone(&consumer.live),
                sink: Arc::clone(&consumer.sink),
                delivery: Delivery {
                    message: Arc::clone(&entry.message),
                    tag: consumer.last_tag,
                    redelivered: entry.redelivered,
                },
            });
            // The next consumer may not be the first to see it.
            entry.redelivered = true;
            consumer.unsettled.insert(consumer.last_tag, entry);
            state.turn = place.wrapping_add(1);
        }
    }

    fn drop_expired(&self, state: &mut QueueState, dead: &mut Vec<DeadLetter>) {
        while state.ready.front().is_some_and(QueueEntry::is_expired) {
            if let Some(entry) = state.take_first() {
                self.give_up(state, entry, Reason::Expired, dead);
            }
        }
    }

    /// Lets go of a message that is no longer ready or unsettled.
    fn give_up(
        &self,
        state: &mut QueueState,
        entry: QueueEntry,
        reason: Reason,
        dead: &mut Vec<DeadLetter>,
    ) {
        state.let_go(&entry);
        self.bury(entry.message, entry.hops, reason, dead);
    }

    /// Sends a message to the dead-letter exchange, if there is one.
    fn bury(&self, message: Arc<Message>, hops: u8, reason: Reason, dead: &mut Vec<DeadLetter>) {
        if let Some(exchange) = &self.policy.dead_letters {
            dead.extend(DeadLetter::new(
                message,
                reason,
                hops,
                &self.spec.name,
                exchange,
                self.policy.dead_letter_key.as_deref(),
            ));
        }
    }

    /// Calls the sinks. With no lock held.
    fn tell(&self) {
        self.out.run(|event| match event {
            QueueEvent::Delivered {
                live,
                sink,
                delivery,
            } => {
                if live.load(Ordering::Acquire) {
                    sink.deliver(delivery);
                }
            }
            QueueEvent::Lost { sink, reason } => sink.lost(reason),
        });
    }

    /// Takes a consumer on.
    pub(super) fn attach(&self, new: Attach, dead: &mut Vec<DeadLetter>) -> Result<(), Refused> {
        {
            let mut state = self.state.lock();
            if state.ended {
                return Err(Refused::Ended);
            }
            let in_use = |other: &Attached| {
                let is_another_s = self.owner.is_some() && other.owner != new.owner;
                other.exclusive || new.exclusive || is_another_s
            };
            if state.active().any(in_use) {
                return Err(Refused::Denied);
            }
            state.consumers.push(Attached {
                serial: new.serial,
                link: new.link,
                owner: new.owner,
                sink: new.sink,
                prefetch: usize::from(new.prefetch.max(1)),
                priority: new.priority,
                exclusive: new.exclusive,
                unsettled: BTreeMap::new(),
                last_tag: 0,
                live: Arc::new(AtomicBool::new(true)),
                is_retired: false,
            });
            self.assign(&mut state, None, dead);
        }
        self.tell();
        Ok(())
    }

    /// Settles one message of a consumer, or all up to it. Unknown consumers and tags are
    /// ignored.
    pub(super) fn settle(
        &self,
        consumer: u64,
        tag: u64,
        multiple: bool,
        verdict: Verdict,
        dead: &mut Vec<DeadLetter>,
    ) -> Settled {
        let outcome = {
            let mut state = self.state.lock();
            let settled = state
                .consumer(consumer)
                .map(|consumer| consumer.take(tag, multiple))
                .unwrap_or_default();
            let outcome = match settled.is_empty() {
                true => Settled::Stale,
                false => Settled::Told,
            };
            for entry in settled {
                match verdict {
                    Verdict::Accept => state.let_go(&entry),
                    Verdict::Requeue => state.put_back(entry),
                    Verdict::Discard => self.give_up(&mut state, entry, Reason::Rejected, dead),
                }
            }
            self.assign(&mut state, None, dead);
            outcome
        };
        self.tell();
        outcome
    }

    /// Whether a consumer has this message, unsettled.
    pub(super) fn is_unsettled(&self, consumer: u64, tag: u64) -> bool {
        let mut state = self.state.lock();
        let consumer = state.consumer(consumer);
        consumer.is_some_and(|consumer| consumer.unsettled.contains_key(&tag))
    }

    /// Ends a consumer; its unsettled messages are ready again. Ignores unknown consumers.
    pub(super) fn detach(&self, consumer: u64, dead: &mut Vec<DeadLetter>) -> After {
        self.detach_where(|other| other.serial == consumer, dead)
    }

    /// Ends a consumer, save for what of these tags is unsettled: the rest is ready again.
    pub(super) fn retire(&self, consumer: u64, kept: &[u64], dead: &mut Vec<DeadLetter>) -> After {
        {
            let mut state = self.state.lock();
            let Some(consumer) = state.consumer(consumer) else {
                return After::Stays;
            };
            consumer.live.store(false, Ordering::Release);
            consumer.is_retired = true;
            let is_kept = |tag: &u64| kept.binary_search(tag).is_ok();
            let all = std::mem::take(&mut consumer.unsettled);
            let (kept, rest) = all.into_iter().partition(|(tag, _)| is_kept(tag));
            consumer.unsettled = kept;
            let rest: BTreeMap<u64, QueueEntry> = rest;
            for entry in rest.into_values() {
                state.put_back(entry);
            }
            if self.is_over(&mut state) {
                return After::Ends;
            }
            self.assign(&mut state, None, dead);
        }
        self.tell();
        After::Stays
    }

    /// Ends the queue if it ends with its last consumer, and that has left; returns true if so. In the
    /// same breath, so that nobody comes to consume between.
    fn is_over(&self, state: &mut QueueState) -> bool {
        let is_over = self.spec.auto_delete && state.active().next().is_none();
        state.ended |= is_over;
        is_over
    }

    /// Ends all consumers of a link.
    pub(super) fn detach_link(&self, link: u64, dead: &mut Vec<DeadLetter>) -> After {
        self.detach_where(|other| other.link == link, dead)
    }

    fn detach_where(
        &self,
        leaves: impl Fn(&Attached) -> bool,
        dead: &mut Vec<DeadLetter>,
    ) -> After {
        let after = {
            let mut state = self.state.lock();
            let all = std::mem::take(&mut state.consumers);
            let (leaving, staying): (Vec<_>, Vec<_>) = all.into_iter().partition(leaves);
            state.consumers = staying;
            if leaving.is_empty() {
                return After::Stays;
            }
            for consumer in leaving {
                consumer.live.store(false, Ordering::Release);
                for entry in consumer.unsettled.into_values() {
                    state.put_back(entry);
                }
            }
            if self.is_over(&mut state) {
                After::Ends
            } else {
                self.assign(&mut state, None, dead);
                After::Stays
            }
        };
        self.tell();
        after
    }

    /// Ends the queue: its messages go, its consumers hear why. Returns its bindings, which the
    /// caller removes.
    pub(super) fn end(&self, reason: &BrokerError) -> Vec<(Box<str>, Box<str>)> {
        let bindings = {
            let mut state = self.state.lock();
            let ended = QueueState {
                ended: true,
                ..QueueState::default()
            };
            let QueueState {
                consumers,
                bindings,
                ..
            } = std::mem::replace(&mut *state, ended);
            for consumer in consumers {
                consumer.live.store(false, Ordering::Release);
                if consumer.is_retired {
                    continue;
                }
                self.out.add(QueueEvent::Lost {
                    sink: consumer.sink,
                    reason: reason.clone(),
                });
            }
            bindings
        };
        self.tell();
        bindings
    }
}

impl QueueState {
    fn consumer(&mut self, serial: u64) -> Option<&mut Attached> {
        let mut consumers = self.consumers.iter_mut();
        consumers.find(|consumer| consumer.serial == serial)
    }

    /// Consumers that have not retired.
    fn active(&self) -> impl Iterator<Item = &Attached> {
        self.consumers
            .iter()
            .filter(|consumer| !consumer.is_retired)
    }

    /// The message is no longer ready or unsettled.
    fn let_go(&mut self, entry: &QueueEntry) {
        self.held_bytes = self.held_bytes.saturating_sub(entry.bytes);
    }

    fn take_first(&mut self) -> Option<QueueEntry> {
        let entry = self.ready.pop_front()?;
        self.ready_bytes = self.ready_bytes.saturating_sub(entry.bytes);
        Some(entry)
    }

    /// Back to its old place, before everything that came after it.
    fn put_back(&mut self, entry: QueueEntry) {
        let place = self
            .ready
            .partition_point(|other| other.number < entry.number);
        self.ready_bytes = self.ready_bytes.saturating_add(entry.bytes);
        self.ready.insert(place, entry);
    }

    /// The consumer whose turn it is, among those of the highest priority that may take more.
    fn next_consumer(&self) -> Option<usize> {
        let count = self.consumers.len();
        (0..count)
            .filter_map(|step| self.turn.wrapping_add(step).checked_rem(count))
            .filter_map(|place| Some((place, self.consumers.get(place)?)))
            .filter(|(_, consumer)| {
                !consumer.is_retired && consumer.unsettled.len() < consumer.prefetch
            })
            .reduce(|best, other| {
                if other.1.priority > best.1.priority {
                    other
                } else {
                    best
                }
            })
            .map(|(place, _)| place)
    }
}

impl Attached {
    /// Takes out what is settled by a tag, in the order of the tags.
    fn take(&mut self, tag: u64, multiple: bool) -> Vec<QueueEntry> {
        if !self.unsettled.contains_key(&tag) {
            return Vec::new();
        }
        if !multiple {
            return self.unsettled.remove(&tag).into_iter().collect();
        }
        let later = tag
            .checked_add(1)
            .map(|next| self.unsettled.split_off(&next))
            .unwrap_or_default();
        std::mem::replace(&mut self.unsettled, later)
            .into_values()
            .collect()
    }
}

impl QueueEntry {
    fn is_expired(&self) -> bool {
        self.expires.is_some_and(|at| at <= Instant::now())
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Queue({})", self.spec.name)
    }
}
