//! A virtual host: exchanges, queues, bindings, and the way of a message through them.

use std::{
    hash::{Hash, Hasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use hashbrown::{HashMap, hash_map::Entry};
use parking_lot::RwLock;

use super::{
    dead::DeadLetter,
    feed::Feed,
    policy::Policy,
    queue::{After, Attach, Queue, Refused},
};
use crate::broker::{
    BrokerError, Consume, DeliverySink, ExchangeKind, Message, QueueSpec, resource_locked,
    routing::RoutingTable,
};

/// Shared by all links that opened it.
#[derive(Debug)]
pub(super) struct Host {
    name: Box<str>,
    /// Fixed from the start.
    exchanges: HashMap<Box<str>, RwLock<RoutingTable<Target>>, RandomState>,
    queues: RwLock<HashMap<Box<str>, Arc<Queue>, RandomState>>,
    queue_bytes: usize,
    next_serial: AtomicU64,
}

/// The target of a binding.
#[derive(Clone, Debug)]
pub(super) enum Target {
    Queue(Arc<Queue>),
    Feed(Arc<Feed>),
}

impl Target {
    fn serial(&self) -> u64 {
        match self {
            Self::Queue(queue) => queue.serial,
            Self::Feed(feed) => feed.serial,
        }
    }
}

impl PartialEq for Target {
    fn eq(&self, other: &Self) -> bool {
        self.serial() == other.serial()
    }
}

impl Eq for Target {}

impl Hash for Target {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.serial().hash(state);
    }
}

impl Host {
    pub(super) fn new(
        name: &str,
        exchanges: &[(Box<str>, ExchangeKind)],
        queue_bytes: usize,
    ) -> Self {
        let exchanges = exchanges.iter().map(|(name, kind)| {
            let table = RoutingTable::new(*kind);
            (name.clone(), RwLock::new(table))
        });
        Self {
            name: name.into(),
            exchanges: exchanges.collect(),
            queues: RwLock::default(),
            queue_bytes,
            next_serial: AtomicU64::new(0),
        }
    }

    /// A number that nothing else in the virtual host has.
    pub(super) fn serial(&self) -> u64 {
        self.next_serial.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) const fn queue_bytes(&self) -> usize {
        self.queue_bytes
    }

    fn exchange(&self, name: &str) -> Result<&RwLock<RoutingTable<Target>>, BrokerError> {
        self.exchanges.get(name).ok_or_else(|| {
            let vhost = &self.name;
            BrokerError::NotFound(
                format!("NOT_FOUND - no exchange '{name}' in vhost '{vhost}'").into(),
            )
        })
    }

    pub(super) fn exchange_kind(&self, name: &str) -> Result<ExchangeKind, BrokerError> {
        if name.is_empty() {
            return Ok(ExchangeKind::Direct);
        }
        self.exchange(name).map(|exchange| exchange.read().kind())
    }

    /// Publishes a message, and what falls out of queues by it.
    pub(super) fn publish(&self, message: Message, mandatory: bool) -> Result<(), BrokerError> {
        let exchange = message.exchange.clone();
        let mut dead = Vec::new();
        let result = self.route(&exchange, message, mandatory, 0, &mut dead);
        self.bury(dead);
        result
    }

    /// Publishes dead letters, in their order. Where their exchange is not there, they are gone,
    /// as in RabbitMQ.
    ///
    /// Full queues can hand a message round, and a fanout among them can make many of one. So
    /// that whoever set them up does not stop the broker, only so many are followed.
    fn bury(&self, mut dead: Vec<DeadLetter>) {
        let mut left = dead
            .len()
            .saturating_mul(usize::from(DeadLetter::MOST_HOPS));
        while !dead.is_empty() && left > 0 {
            for letter in std::mem::take(&mut dead).into_iter().take(left) {
                left = left.saturating_sub(1);
                let DeadLetter {
                    exchange,
                    message,
                    hops,
                } = letter;
                let _ = self.route(&exchange, message, false, hops, &mut dead);
            }
        }
    }

    fn route(
        &self,
        exchange: &str,
        message: Message,
        mandatory: bool,
        hops: u8,
        dead: &mut Vec<DeadLetter>,
    ) -> Result<(), BrokerError> {
        let mut targets = self.targets(exchange, &message.routing_key)?;
        let Some(last) = targets.pop() else {
            return if mandatory {
                Err(BrokerError::Unroutable)
            } else {
                Ok(())
            };
        };
        let mut taken = true;
        let mut shared: Option<Arc<Message>> = None;
        for target in targets {
            match target {
                Target::Feed(feed) => taken &= feed.deliver(message.clone()),
                Target::Queue(queue) => {
                    let shared = shared.get_or_insert_with(|| Arc::new(message.clone()));
                    taken &= queue.push(Arc::clone(shared), hops, dead) != Err(Refused::Denied);
                }
            }
        }
        // Mostly there is one, which needs no copy.
        taken &= match last {
            Target::Feed(feed) => feed.deliver(message),
            Target::Queue(queue) => {
                let shared = shared.unwrap_or_else(|| Arc::new(message));
                queue.push(shared, hops, dead) != Err(Refused::Denied)
            }
        };
        if taken {
            Ok(())
        } else {
            Err(BrokerError::Nacked)
        }
    }

    /// The targets of a message, each once, however many of its patterns match.
    fn targets(&self, exchange: &str, key: &str) -> Result<Vec<Target>, BrokerError> {
        if exchange.is_empty() {
            let queue = self.queues.read().get(key).map(Arc::clone);
            return Ok(queue.map(Target::Queue).into_iter().collect());
        }
        let mut targets = Vec::new();
        self.exchange(exchange)?
            .read()
            .for_each_match(key, |target| targets.push(target.clone()));
        if targets.len() > 1 {
            targets.sort_unstable_by_key(Target::serial);
            targets.dedup();
        }
        Ok(targets)
    }

    pub(super) fn bind_feed(&self, feed: Arc<Feed>, exchange: &str, pattern: &str) {
        if let Ok(exchange) = self.exchange(exchange) {
            exchange.write().insert(pattern, Target::Feed(feed));
        }
    }

    pub(super) fn unbind_feed(&self, feed: Arc<Feed>, exchange: &str, pattern: &str) {
        self.unbind(&Target::Feed(feed), exchange, pattern);
    }

    fn unbind(&self, target: &Target, exchange: &str, pattern: &str) {
        if let Ok(exchange) = self.exchange(exchange) {
            exchange.write().remove(pattern, target);
        }
    }

    /// Whether something may be bound to the exchange.
    pub(super) fn check_bindable(&self, exchange: &str) -> Result<(), BrokerError> {
        if exchange.is_empty() {
            let text = "ACCESS_REFUSED - operation not permitted on the default exchange";
            return Err(BrokerError::AccessRefused(text.into()));
        }
        self.exchange(exchange).map(drop)
    }

    /// A queue, for a link that may use it.
    fn queue(&self, name: &str, link: u64) -> Result<Arc<Queue>, BrokerError> {
        let known = self.queues.read().get(name).map(Arc::clone);
        let queue = known
            .filter(|queue| !queue.is_ended())
            .ok_or_else(|| self.no_queue(name))?;
        self.check_owner(&queue, link)?;
        Ok(queue)
    }

    fn no_queue(&self, name: &str) -> BrokerError {
        let vhost = &self.name;
        BrokerError::NotFound(format!("NOT_FOUND - no queue '{name}' in vhost '{vhost}'").into())
    }

    fn check_owner(&self, queue: &Queue, link: u64) -> Result<(), BrokerError> {
        if queue.owner.is_none_or(|owner| owner == link) {
            return Ok(());
        }
        Err(self.locked(&queue.spec.name))
    }

    fn locked(&self, queue: &str) -> BrokerError {
        let vhost = &self.name;
        resource_locked(&format!("queue '{queue}' in vhost '{vhost}'"))
    }

    /// Declares a queue, or finds the one that is there and equal.
    pub(super) fn declare(&self, spec: &QueueSpec, link: u64) -> Result<Arc<Queue>, BrokerError> {
        let policy = Policy::read(&spec.name, &spec.arguments)?;
        let mut spec = spec.clone();
        let is_named = !spec.name.is_empty();
        if !is_named {
            spec.name = format!("amq.gen-{:032x}", rand::random::<u128>()).into();
        }
        let name = spec.name.clone();
        let mut queues = self.queues.write();
        match queues.entry(name.clone()) {
            Entry::Occupied(entry) if !entry.get().is_ended() => {
                let queue = entry.get();
                self.check_owner(queue, link)?;
                self.check_equal(&queue.spec, &spec)?;
                Ok(Arc::clone(queue))
            }
            entry => {
                if is_named && name.starts_with("amq.") {
                    return Err(BrokerError::AccessRefused(
                        format!(
                            "ACCESS_REFUSED - queue name '{name}' contains reserved prefix 'amq.*'"
                        )
                        .into(),
                    ));
                }
                let owner = spec.exclusive.then_some(link);
                let serial = self.serial();
                let queue = Arc::new(Queue::new(serial, spec, policy, owner, self.queue_bytes));
                entry.insert(Arc::clone(&queue));
                Ok(queue)
            }
        }
    }

    fn check_equal(&self, current: &QueueSpec, received: &QueueSpec) -> Result<(), BrokerError> {
        let name = &current.name;
        if current.exclusive != received.exclusive {
            return Err(self.locked(name));
        }
        let differs = |what: &str, received: &str, current: &str| {
            let vhost = &self.name;
            BrokerError::PreconditionFailed(
                format!(
                    "PRECONDITION_FAILED - inequivalent arg '{what}' for queue '{name}' in vhost \
                     '{vhost}': received {received} but current is {current}"
                )
                .into(),
            )
        };
        for (what, received, current) in [
            ("durable", received.durable, current.durable),
            ("auto_delete", received.auto_delete, current.auto_delete),
        ] {
            if received != current {
                return Err(differs(
                    what,
                    &format!("'{received}'"),
                    &format!("'{current}'"),
                ));
            }
        }
        let value_in = |spec: &QueueSpec, what: &str| {
            let mut arguments = spec.arguments.iter();
            let found = arguments.find(|(name, _)| **name == *what);
            found.map_or_else(|| "none".to_owned(), |(_, value)| format!("{value:?}"))
        };
        for (what, _) in received.arguments.iter().chain(&current.arguments) {
            let (received, current) = (value_in(received, what), value_in(current, what));
            if received != current {
                return Err(differs(what, &received, &current));
            }
        }
        Ok(())
    }

    /// Declares, binds and consumes; see [`crate::broker::VirtualHost::consume`].
    pub(super) fn consume(
        &self,
        request: &Consume,
        priority: i64,
        link: u64,
        sink: &Arc<dyn DeliverySink>,
    ) -> Result<(Arc<Queue>, u64), BrokerError> {
        if let Some((exchange, _)) = &request.binding {
            self.check_bindable(exchange)?;
        }
        loop {
            let queue = if request.declare {
                self.declare(&request.queue, link)?
            } else {
                self.queue(&request.queue.name, link)?
            };
            if let Some((exchange, pattern)) = &request.binding
                && self.bind_queue(&queue, exchange, pattern)? == Err(Refused::Ended)
            {
                continue;
            }
            let serial = self.serial();
            let attach = Attach {
                serial,
                link,
                owner: request.owner,
                sink: Arc::clone(sink),
                prefetch: request.prefetch,
                priority,
                exclusive: request.exclusive,
            };
            let mut dead = Vec::new();
            let attached = queue.attach(attach, &mut dead);
            self.bury(dead);
            match attached {
                Ok(()) => return Ok((queue, serial)),
                // It went between being found and being consumed: as if it had gone before.
                Err(Refused::Ended) => {}
                Err(Refused::Denied) => return Err(self.locked(&queue.spec.name)),
            }
        }
    }

    fn bind_queue(
        &self,
        queue: &Arc<Queue>,
        exchange: &str,
        pattern: &str,
    ) -> Result<Result<(), Refused>, BrokerError> {
        // The queue's note and the table's entry under the table's lock: a thread that ends the
        // queue either finds the note, and removes the entry, or we find that the queue has ended.
        let mut table = self.exchange(exchange)?.write();
        let noted = queue.note_binding(exchange, pattern);
        if noted.is_ok() {
            table.insert(pattern, Target::Queue(Arc::clone(queue)));
        }
        Ok(noted)
    }

    /// Runs a change of a queue's messages, and then its consequences.
    pub(super) fn with_queue<T>(
        &self,
        queue: &Arc<Queue>,
        act: impl FnOnce(&Queue, &mut Vec<DeadLetter>) -> T,
    ) -> T {
        let mut dead = Vec::new();
        let result = act(queue, &mut dead);
        self.bury(dead);
        result
    }

    /// Ends a consumer, and its queue if it goes with it.
    pub(super) fn detach(&self, queue: &Arc<Queue>, consumer: u64) {
        let after = self.with_queue(queue, |queue, dead| queue.detach(consumer, dead));
        if after == After::Ends {
            self.remove(queue);
        }
    }

    /// Ends a consumer, save for what of these tags is unsettled.
    pub(super) fn retire(&self, queue: &Arc<Queue>, consumer: u64, kept: &[u64]) {
        let after = self.with_queue(queue, |queue, dead| queue.retire(consumer, kept, dead));
        if after == After::Ends {
            self.remove(queue);
        }
    }

    /// Ends all that belongs to a link: its consumers, and its exclusive queues.
    pub(super) fn end_link(&self, link: u64) {
        let queues: Vec<Arc<Queue>> = self.queues.read().values().cloned().collect();
        for queue in queues {
            let after = self.with_queue(&queue, |queue, dead| queue.detach_link(link, dead));
            if after == After::Ends || queue.owner == Some(link) {
                self.remove(&queue);
            }
        }
    }

    /// Deletes a queue by its name.
    pub(super) fn delete(&self, name: &str, link: u64) -> Result<(), BrokerError> {
        match self.queue(name, link) {
            Ok(queue) => {
                self.remove(&queue);
                Ok(())
            }
            Err(BrokerError::NotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Takes a queue out, and tells its consumers.
    fn remove(&self, queue: &Arc<Queue>) {
        let (name, vhost) = (&queue.spec.name, &self.name);
        let reason =
            BrokerError::Cancelled(format!("queue '{name}' in vhost '{vhost}' is gone").into());
        let bindings = queue.end(&reason);
        {
            let mut queues = self.queues.write();
            // Another queue of that name may have taken its place by now.
            if queues
                .get(&**name)
                .is_some_and(|other| Arc::ptr_eq(other, queue))
            {
                queues.remove(&**name);
            }
        }
        let target = Target::Queue(Arc::clone(queue));
        for (exchange, pattern) in bindings {
            self.unbind(&target, &exchange, &pattern);
        }
    }
}
