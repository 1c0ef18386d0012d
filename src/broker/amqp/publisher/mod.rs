//! Publishing: confirmed, pipelined, each sender's messages in order.
//!
//! RabbitMQ answers a message that it does not take by closing the channel, and throws away what
//! follows on it. So who shares a channel shares its end. What keeps one sender's message from
//! costing others theirs:
//!
//! 1. What is known to be refused is refused here ([`Publisher::publish`], [`known`]).
//! 2. Each exchange has [`lane`]s of its own, a channel each, as long as there are not too many
//!    exchanges. If one is deleted, that is nobody's affair who publishes elsewhere.
//! 3. What may be refused goes alone, and the next message when the broker has taken it in: the
//!    first to an exchange, a body that is longer than all that were taken, a user's name that the
//!    account may not be allowed to give. All but the first go on another lane than the many, and
//!    so do `mandatory` messages, which go in [`round`]s; others do not wait for them.
//! 4. What takes the broker long to route has a lane, too, and each owner one message at a time on
//!    it ([`Publish::slow`]).
//! 5. Whichever lanes an exchange's messages are on, they take no more of the places for messages without
//!    an answer than its [`shares`]: one whose queues do not answer leaves a quarter to others.
//! 6. Where a channel is closed all the same, [`flight`] says what became of each message. What
//!    the broker threw away is sent again, in order.
//!
//! A sender with messages under way on one lane waits before it goes on another ([`turns`]), since
//! channels keep no order between them. One that goes to and fro between exchanges faster than the
//! broker answers would wait at each message; so it has a common lane, with all that do so.

mod flight;
mod known;
mod lane;
mod round;
mod shares;
mod turns;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::{
    sync::{AcquireError, OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    task::JoinSet,
    time::{Duration, Instant, timeout_at},
};

use self::{
    known::Known,
    lane::{Held, Job, Lane, LaneShared, Manner},
    shares::Shares,
    turns::{LaneNumber, Sender, Turns},
};
use super::{
    convert::{short, to_amqp},
    link::AmqpLink,
    topology::Topology,
};
use crate::{
    broker::{BrokerError, Confirm, DIRECT_REPLIES, Publish, no_direct_replies},
    deadline::after,
};

/// Lanes that belong to one exchange. RabbitMQ allows 2,047 channels on a connection, or fewer
/// where it is configured so; further exchanges share.
const MAX_OWN_LANES: usize = 100;

/// Jobs that wait for a lane's task.
const WAITING: usize = 64;

/// The lanes of one virtual host.
pub(super) struct Publisher {
    shared: Arc<LaneShared>,
    config: PublisherConfig,
    turns: Arc<Turns>,
    lanes: Mutex<Lanes>,
    /// Places of messages without an answer, on all lanes together.
    pending: Arc<Semaphore>,
}

/// How publishing is bounded.
#[derive(Clone, Copy)]
pub(super) struct PublisherConfig {
    /// Lanes for an exchange's ordinary messages.
    pub(super) lanes: usize,
    /// Messages without an answer from the broker, on all lanes together.
    pub(super) max_pending: usize,
    /// The longest body, in bytes.
    pub(super) max_message_size: usize,
    /// How long a message waits for its turn, and then for its answer.
    pub(super) operation_timeout: Duration,
}

#[derive(Default)]
struct Lanes {
    /// Of one exchange.
    own: HashMap<Box<str>, Vec<(Kind, Arc<Handle>)>>,
    /// Of all that have none of their own.
    common: Vec<(Kind, Arc<Handle>)>,
    shares: Shares,
    next: u64,
    tasks: JoinSet<()>,
}

/// Which messages a lane takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// What the broker is known to take; which of the lanes.
    Fast(usize),
    /// What goes alone.
    Alone,
    /// What is slow to route.
    Slow,
}

/// A lane, as those see it who publish.
struct Handle {
    number: LaneNumber,
    jobs: mpsc::Sender<Job>,
    /// Its own places for messages without an answer, where those to several exchanges wait for one
    /// another: others' need not suffer for them.
    share: Option<Arc<Semaphore>>,
    is_proved: Arc<AtomicBool>,
}

/// Where a message goes.
struct Way {
    lane: Arc<Handle>,
    /// The places of its exchange for such messages.
    of_exchange: Arc<Semaphore>,
}

impl PublisherConfig {
    /// Messages of a kind without an answer, to one exchange, at most. All kinds together leave a quarter
    /// of the places to others.
    fn share(&self, kind: Kind) -> usize {
        let all = self.max_pending;
        match kind {
            Kind::Fast(_) => (all.checked_div(self.lanes).unwrap_or(all) / 2).max(1),
            Kind::Alone | Kind::Slow => (all / 8).max(1),
        }
    }
}

impl Publisher {
    pub(super) fn start(
        link: &Arc<AmqpLink>,
        topology: &Arc<Topology>,
        config: PublisherConfig,
    ) -> Self {
        Self {
            shared: Arc::new(LaneShared {
                link: Arc::clone(link),
                topology: Arc::clone(topology),
                known: Known::default(),
                operation_timeout: config.operation_timeout,
            }),
            config,
            turns: Arc::default(),
            lanes: Mutex::default(),
            pending: Arc::new(Semaphore::new(
                config.max_pending.clamp(1, Semaphore::MAX_PERMITS),
            )),
        }
    }

    pub(super) async fn publish(&self, publish: Publish) -> Result<Confirm, BrokerError> {
        let deadline = after(self.config.operation_timeout);
        self.check(&publish)?;
        let (answer, receiver) = oneshot::channel();
        let mut order = Order::new(&publish, self);
        let mut job = Job {
            exchange: short("the exchange's name", &publish.exchange)?,
            routing_key: short("the routing key", &publish.routing_key)?,
            head: publish.properties.encoded_len(),
            amqp: Some(to_amqp(&publish.properties)?),
            properties: publish.properties,
            body: publish.body,
            mandatory: publish.mandatory,
            sender: publish.lane,
            deadline,
            answer: Some(answer),
            held: None,
        };
        self.look_for(&publish.exchange, deadline).await?;
        loop {
            let handing = self.hand_over(job, &mut order);
            job = match timeout_at(deadline, handing).await {
                Ok(Ok(())) => break,
                // The lane has just ended, for want of messages.
                Ok(Err(job)) => *job,
                Err(_) => return Err(unavailable("too many messages wait to be published")),
            };
        }
        Ok(async move {
            receiver
                .await
                .unwrap_or_else(|_| Err(unavailable("shutting down")))
        }
        .boxed())
    }

    /// Refuses what the broker would.
    fn check(&self, publish: &Publish) -> Result<(), BrokerError> {
        let (length, limit) = (publish.body.len(), self.config.max_message_size);
        if length > limit {
            return Err(known::too_long(length, limit));
        }
        if publish.properties.reply_to.as_deref() == Some(DIRECT_REPLIES) {
            return Err(no_direct_replies());
        }
        let topology = &self.shared.topology;
        topology.may_publish(&publish.exchange, &publish.routing_key)
    }

    /// An exchange that is not there is found out before there is a lane for it.
    async fn look_for(&self, exchange: &str, deadline: Instant) -> Result<(), BrokerError> {
        let LaneShared { link, topology, .. } = &*self.shared;
        if topology.is_known(exchange) {
            return Ok(());
        }
        let live = link.wait_until(deadline).await?;
        topology.check(&live, exchange, deadline).await
    }

    /// Waits for a message's turn, and gives it to its lane; back, if that has ended.
    async fn hand_over(&self, mut job: Job, order: &mut Order) -> Result<(), Box<Job>> {
        let (Way { lane, of_exchange }, place) = loop {
            let way = self.way_of(&job, order);
            let entering = self.turns.enter(&order.connection, way.lane.number);
            match entering.now_or_never() {
                Some(place) => break (way, place),
                None if self.change_lanes(&way.lane, order).await => {}
                None => {
                    job.leave_out();
                    return Ok(());
                }
            }
        };
        let owner = match &order.owner {
            Some(owner) => Some(self.turns.enter(owner, lane.number).await),
            None => None,
        };
        // A sender that waits has nothing that those need who publish elsewhere: nothing of the lane while
        // it waits for its exchange's places, and none of everybody's while it waits for the lane's task.
        let Ok(of_exchange) = of_exchange.acquire_owned().await else {
            return Ok(());
        };
        let Ok(slot) = lane.jobs.reserve().await else {
            return Err(Box::new(job));
        };
        let Ok((of_lane, of_all)) = self.room_on(&lane).await else {
            return Ok(());
        };
        job.held = Some(Held {
            turn: place,
            _owner: owner,
            _of_exchange: of_exchange,
            _of_lane: of_lane,
            _of_all: of_all,
        });
        slot.send(job);
        Ok(())
    }

    /// Waits for a place of the lane, if those are counted, and for one of all.
    async fn room_on(
        &self,
        lane: &Handle,
    ) -> Result<(Option<OwnedSemaphorePermit>, OwnedSemaphorePermit), AcquireError> {
        let of_lane = match &lane.share {
            Some(share) => Some(Arc::clone(share).acquire_owned().await?),
            None => None,
        };
        let of_all = Arc::clone(&self.pending).acquire_owned().await?;
        Ok((of_lane, of_all))
    }

    /// Waits until the sender's messages on another lane have their answers. False if one of them was
    /// not published.
    async fn change_lanes(&self, lane: &Handle, order: &mut Order) -> bool {
        let before = self.turns.lane_of(&order.connection);
        // It is faster than the broker's answers, and goes to and fro.
        order.alternates |= lane.number.is_fast && before.is_some_and(|before| before.is_fast);
        self.turns.all_answered(&order.connection).await
    }

    fn way_of(&self, job: &Job, order: &Order) -> Way {
        let mut lanes = self.lanes.lock();
        let exchange = job.exchange.as_str();
        let fast = Kind::Fast(order.turn);
        let kind = if order.owner.is_some() {
            Kind::Slow
        } else if job.mandatory || !self.shared.known.is_harmless(job.traits()) {
            Kind::Alone
        } else {
            fast
        };
        let own = lanes.own(exchange, kind, self);
        let is_there = || match &own {
            Some(own) => own.is_proved.load(Ordering::Relaxed),
            None => self.shared.known.is_there(exchange),
        };
        // On the common lane are messages to other exchanges: none that may not be there.
        let sender = &order.connection;
        let is_common = kind == fast
            && (own.is_none() || order.alternates || lanes.is_on_common(sender, fast, self))
            && is_there();
        let (lane, kind) = match own {
            Some(own) if !is_common => (own, kind),
            None if kind == fast && !is_common => (lanes.common(Kind::Alone, self), Kind::Alone),
            _ => (lanes.common(kind, self), kind),
        };
        let places = self.config.share(kind);
        Way {
            lane,
            of_exchange: lanes.shares.of(exchange, kind, places),
        }
    }
}

/// What a message's place in the order depends on.
struct Order {
    connection: Sender,
    /// Who waits for its own messages that are slow to route.
    owner: Option<Sender>,
    /// Which of an exchange's fast lanes.
    turn: usize,
    alternates: bool,
}

impl Order {
    fn new(publish: &Publish, publisher: &Publisher) -> Self {
        let turn = publish.lane.checked_rem(publisher.config.lanes as u64);
        Self {
            connection: Sender::Connection(publish.lane),
            owner: publish.slow.clone().map(Sender::Slow),
            turn: usize::try_from(turn.unwrap_or_default()).unwrap_or(0),
            alternates: false,
        }
    }
}

impl Lanes {
    /// The lane of an exchange; `None`: it has none, since there are too many.
    fn own(&mut self, exchange: &str, kind: Kind, publisher: &Publisher) -> Option<Arc<Handle>> {
        if let Some(lane) = self.own.get(exchange).and_then(|lanes| of(lanes, kind)) {
            return Some(lane);
        }
        for lanes in self.own.values_mut() {
            lanes.retain(|(_, lane)| !lane.jobs.is_closed());
        }
        self.own.retain(|_, lanes| !lanes.is_empty());
        if self.own.values().map(Vec::len).sum::<usize>() >= MAX_OWN_LANES {
            return None;
        }
        let lane = self.start(kind, true, publisher);
        let lanes = self.own.entry(exchange.into()).or_default();
        lanes.push((kind, Arc::clone(&lane)));
        Some(lane)
    }

    fn common(&mut self, kind: Kind, publisher: &Publisher) -> Arc<Handle> {
        if let Some(lane) = of(&self.common, kind) {
            return lane;
        }
        self.common.retain(|(_, lane)| !lane.jobs.is_closed());
        let lane = self.start(kind, false, publisher);
        self.common.push((kind, Arc::clone(&lane)));
        lane
    }

    /// Whether the sender's messages under way are on the common lane.
    fn is_on_common(&self, sender: &Sender, kind: Kind, publisher: &Publisher) -> bool {
        let lane = of(&self.common, kind);
        lane.is_some_and(|lane| publisher.turns.lane_of(sender) == Some(lane.number))
    }

    fn start(&mut self, kind: Kind, own: bool, publisher: &Publisher) -> Arc<Handle> {
        let is_fast = matches!(kind, Kind::Fast(_));
        let manner = Manner {
            alone: !is_fast,
            own,
            max_overdue: publisher.config.share(kind),
        };
        let places = manner.max_overdue.min(Semaphore::MAX_PERMITS);
        let is_shared = !own && !is_fast;
        let (jobs, receiver) = mpsc::channel(WAITING);
        let is_proved = Arc::new(AtomicBool::new(false));
        let lane = Lane::new(
            Arc::clone(&publisher.shared),
            manner,
            Arc::clone(&is_proved),
        );
        while self.tasks.try_join_next().is_some() {}
        self.tasks.spawn(lane.run(receiver));
        self.next = self.next.wrapping_add(1);
        Arc::new(Handle {
            number: LaneNumber {
                number: self.next,
                is_fast,
            },
            jobs,
            share: is_shared.then(|| Arc::new(Semaphore::new(places))),
            is_proved,
        })
    }
}

fn of(lanes: &[(Kind, Arc<Handle>)], kind: Kind) -> Option<Arc<Handle>> {
    let mut lanes = lanes.iter();
    let lane = lanes.find(|(of, lane)| *of == kind && !lane.jobs.is_closed());
    lane.map(|(_, lane)| Arc::clone(lane))
}

fn unavailable(why: &str) -> BrokerError {
    BrokerError::Unavailable(why.into())
}
