//! One source: reads its queue, and hands on what is in it.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use parking_lot::Mutex;
use tokio::{
    select,
    sync::mpsc,
    time::{Instant, sleep},
};

use super::arrival::{Arrival, TRIAL_KEYS};
use crate::{
    background,
    backoff::Backoff,
    broker::{
        BrokerError, Consume, Consumer, Delivery, DeliverySink, ExchangeKind, OfflineConfig,
        Properties, Publish, QueueSpec, Verdict, VirtualHost, delete_offline, policy_for,
    },
    node::Services,
    telemetry,
};

/// Messages that this node has at a time.
const PREFETCH: u16 = 200;
/// The pause after a failure: at first, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// How often it is tried whether what nobody is subscribed to comes here.
const TRIAL: Duration = Duration::from_secs(60);
/// A dead node's queue that has had nothing for so long is empty.
const QUIET: Duration = Duration::from_secs(1);
/// Dead nodes' queues that are remembered, so that each is tried once.
const MAX_QUEUES: usize = 1_000;
/// How long a queue that its node still consumes is left alone.
const REST: Duration = Duration::from_secs(30);

/// An exchange whose messages are meant.
pub(super) struct Source {
    pub(super) exchange: Arc<str>,
    pub(super) queue: Box<str>,
    pub(super) config: Arc<OfflineConfig>,
    pub(super) services: Weak<Services>,
    /// The name of this node.
    pub(super) node: Box<str>,
    /// Feeds' queues are replicated. Those know no exclusive consumer, by which a node that lives
    /// refuses that its queue is taken for a dead one's.
    pub(super) is_replicated: bool,
}

enum Item {
    Delivery(Delivery),
    /// What was delivered before comes again.
    TakenBack,
    Lost(BrokerError),
}

struct Inbox(mpsc::UnboundedSender<Item>);

impl DeliverySink for Inbox {
    fn deliver(&self, delivery: Delivery) {
        // The reader is gone: RabbitMQ gives it to another.
        let _ = self.0.send(Item::Delivery(delivery));
    }

    fn taken_back(&self) {
        let _ = self.0.send(Item::TakenBack);
    }

    fn lost(&self, reason: BrokerError) {
        let _ = self.0.send(Item::Lost(reason));
    }
}

/// A message that waits for its end: where it came from, and what is left to do.
struct Pending {
    delivery: Delivery,
    /// It was taken out of the queue of that name.
    left_in: Option<Arc<str>>,
}

/// Messages that are handed on, each until its end. One that waits holds up no others, and there
/// are no more than the broker gives out before it hears the end of any: [`PREFETCH`].
type UnderWay<'a> = FuturesUnordered<BoxFuture<'a, ()>>;

impl Source {
    pub(super) async fn run(self: Arc<Self>) {
        let trying = Arc::clone(&self);
        let reading = Arc::clone(&self).read();
        tokio::join!(trying.try_again(), reading);
    }

    fn host(&self) -> Option<Arc<dyn VirtualHost>> {
        let services = self.services.upgrade()?;
        let name = Arc::clone(&services.settings().default_vhost);
        Some(Arc::clone(services.vhosts.vhost(&name)?.host()))
    }

    /// Reads the queue, until the gateway ends.
    async fn read(self: Arc<Self>) {
        let mut backoff = Backoff::new(PAUSES);
        let drained = Arc::<Mutex<HashMap<Box<str>, Instant>>>::default();
        let mut said = None;
        while let Some(host) = self.host() {
            let begun = Instant::now();
            let (sender, inbox) = mpsc::unbounded_channel();
            let starting = async {
                // Both are made, if they are missing.
                host.exchange_kind(&self.queue).await?;
                // A worker may bind its queue before there is a message. If it cannot be made,
                // messages wait, and each that is handed on says why.
                if let Err(error @ BrokerError::Unavailable(_)) =
                    host.exchange_kind(&self.config.exchange).await
                {
                    return Err(error);
                }
                host.consume(self.consume(), Arc::new(Inbox(sender))).await
            };
            let cause = match starting.await {
                Ok(consumer) => self.serve(&*host, &*consumer, inbox, &drained).await,
                Err(error) => error,
            };
            drop(host);
            backoff.lasted(begun.elapsed());
            let pause = backoff.pause();
            match self.remedy(&cause) {
                None => telemetry::offline_stopped(&self.exchange, &cause, pause),
                // Only an operator can mend it, so that is said once.
                Some(command) => {
                    let cause = cause.to_string();
                    if said.as_ref() != Some(&cause) {
                        telemetry::offline_queue_differs(&self.queue, &cause, &command);
                        said = Some(cause);
                    }
                }
            }
            sleep(pause).await;
        }
    }

    /// The command that mends a queue of another `max_bytes` than the configuration's.
    fn remedy(&self, cause: &BrokerError) -> Option<String> {
        let BrokerError::PreconditionFailed(text) = cause else {
            return None;
        };
        let vhost = self.services.upgrade()?.settings().default_vhost.clone();
        text.contains("x-max-length-bytes")
            .then(|| delete_offline(&vhost, &self.exchange))
    }

    fn consume(&self) -> Consume {
        Consume {
            queue: self.config.queue(&self.exchange),
            declare: true,
            binding: Some((self.queue.clone(), "#".into())),
            binding_arguments: Vec::new(),
            prefetch: PREFETCH,
            exclusive: false,
            owner: rand::random(),
            arguments: Vec::new(),
        }
    }

    /// Until it cannot go on; why.
    async fn serve(
        self: &Arc<Self>,
        host: &dyn VirtualHost,
        consumer: &dyn Consumer,
        mut inbox: mpsc::UnboundedReceiver<Item>,
        drained: &Arc<Mutex<HashMap<Box<str>, Instant>>>,
    ) -> BrokerError {
        let mut items = Vec::new();
        let mut under_way = UnderWay::new();
        loop {
            let received = select! {
                received = inbox.recv_many(&mut items, PREFETCH.into()) => received,
                Some(()) = under_way.next() => continue,
            };
            // A consumer that is gone without a word has ended with its link.
            if received == 0 {
                return BrokerError::Unavailable("the link has ended".into());
            }
            let mut pending = Vec::new();
            for item in items.drain(..) {
                match item {
                    Item::Delivery(delivery) => pending.push(Pending {
                        delivery,
                        left_in: None,
                    }),
                    Item::TakenBack => {
                        pending.clear();
                        under_way.clear();
                    }
                    Item::Lost(error) => return error,
                }
            }
            for queue in self.dead_queues(&pending) {
                self.drain(queue, drained);
            }
            self.begin(host, consumer, pending, &mut under_way).await;
        }
    }

    /// Begins to hand messages on: they take their places in the order in which they came. What
    /// came before goes on meanwhile.
    async fn begin<'a>(
        &'a self,
        host: &'a dyn VirtualHost,
        consumer: &'a dyn Consumer,
        pending: Vec<Pending>,
        under_way: &mut UnderWay<'a>,
    ) {
        let subscribed = {
            let arrivals: Vec<Arrival<'_>> = pending
                .iter()
                .map(|pending| self.arrival(pending))
                .collect();
            let asking = self.subscribed(&arrivals);
            tokio::pin!(asking);
            loop {
                select! {
                    subscribed = &mut asking => break Arc::<[Box<str>]>::from(subscribed),
                    Some(()) = under_way.next() => {}
                }
            }
        };
        let each = pending.into_iter().map(|pending| {
            let subscribed = Arc::clone(&subscribed);
            self.hand_on(host, consumer, pending, subscribed).boxed()
        });
        under_way.extend(each);
    }

    fn arrival<'a>(&self, pending: &'a Pending) -> Arrival<'a> {
        let template = &self.config.key;
        match &pending.left_in {
            Some(queue) => Arrival::left_in(queue, &pending.delivery.message, template),
            None => Arrival::read(&pending.delivery.message, template),
        }
    }

    /// Hands on what nobody has, until the broker has taken it.
    async fn hand_on(
        &self,
        host: &dyn VirtualHost,
        consumer: &dyn Consumer,
        pending: Pending,
        subscribed: Arc<[Box<str>]>,
    ) {
        let arrival = self.arrival(&pending);
        // Trials are the nodes' own.
        if arrival.users.is_empty() && !arrival.message.routing_key.starts_with(TRIAL_KEYS) {
            telemetry::offline_message("no user");
        }
        let mut is_done = true;
        for place in &arrival.users {
            if arrival.is_doubtful() && subscribed.iter().any(|key| **key == *place.0) {
                telemetry::offline_message("subscribed");
            } else {
                let is_again = pending.delivery.redelivered;
                let publishing = self.until_published(host, &arrival, *place, is_again);
                is_done &= publishing.await;
            }
        }
        // Else the gateway ends, and another node gets it.
        if is_done {
            // What it says is in the log of the link.
            let tag = pending.delivery.tag;
            let _ = consumer.settle(tag, false, Verdict::Accept).await;
        }
    }

    /// Publishes, again and again until the broker has a queue for it: the message waits meanwhile.
    /// `is_again`: the broker may have it already. `false`: the gateway ends before that.
    async fn until_published(
        &self,
        host: &dyn VirtualHost,
        arrival: &Arrival<'_>,
        place: (&str, &str),
        mut is_again: bool,
    ) -> bool {
        let exchange = &*self.config.exchange;
        let mut backoff = Backoff::new(PAUSES);
        loop {
            let publish = arrival.publish(&self.exchange, exchange, place, is_again);
            let outcome = match host.publish(publish).await {
                Ok(confirm) => {
                    let outcome = confirm.await;
                    is_again |= matches!(outcome, Err(BrokerError::Unavailable(_)));
                    outcome
                }
                Err(error) => Err(error),
            };
            let error = match outcome {
                Ok(()) => {
                    telemetry::offline_message(arrival.reason.word());
                    self.tell(arrival, place);
                    return true;
                }
                Err(error) => error,
            };
            // The next attempt would end no better.
            if matches!(error, BrokerError::PreconditionFailed(_)) {
                telemetry::offline_lost(&self.exchange, &error.to_string());
                return true;
            }
            let pause = backoff.pause();
            telemetry::offline_waits(exchange, Some(place.0), &error, pause);
            sleep(pause).await;
            if self.services.strong_count() == 0 {
                return false;
            }
        }
    }

    fn tell(&self, arrival: &Arrival<'_>, (key, user): (&str, &str)) {
        let services = self.services.upgrade();
        let webhooks = services.and_then(|services| services.webhooks.clone());
        if let Some(webhooks) = webhooks {
            webhooks.tell(&crate::webhooks::Event::Offline {
                user: user.into(),
                exchange: (&*self.exchange).into(),
                key: key.into(),
                reason: arrival.reason.word(),
                message_id: arrival.message.properties.message_id.clone(),
            });
        }
    }

    /// Keys of doubtful messages that somebody is subscribed to now, on any node.
    async fn subscribed(&self, arrivals: &[Arrival<'_>]) -> Vec<Box<str>> {
        let doubtful = arrivals.iter().filter(|arrival| arrival.is_doubtful());
        let users = doubtful.flat_map(|arrival| &arrival.users);
        let mut keys: Vec<&str> = users.map(|(key, _)| *key).collect();
        keys.sort_unstable();
        keys.dedup();
        if keys.is_empty() {
            return Vec::new();
        }
        let mut backoff = Backoff::new(PAUSES);
        loop {
            match super::subscribed(&self.services, &self.exchange, &keys).await {
                Ok(found) => {
                    let found = found.into_iter().zip(keys);
                    let found = found.filter(|(is, _)| *is).map(|(_, key)| key.into());
                    return found.collect();
                }
                Err(why) => {
                    let pause = backoff.pause();
                    let why = BrokerError::Unavailable((&*why).into());
                    telemetry::offline_waits(&self.exchange, None, &why, pause);
                    sleep(pause).await;
                }
            }
            if self.services.strong_count() == 0 {
                return Vec::new();
            }
        }
    }

    /// Queues of other nodes in which messages waited in vain.
    fn dead_queues(&self, pending: &[Pending]) -> Vec<Arc<str>> {
        if self.is_replicated {
            return Vec::new();
        }
        let own = format!("{}{}.", crate::broker::FEED_QUEUES, self.node);
        let mut queues = Vec::<Arc<str>>::new();
        for pending in pending {
            let arrival = Arrival::read(&pending.delivery.message, &self.config.key);
            if let Some(queue) = arrival.unread_queue(self.config.after)
                && !queue.starts_with(&own)
                && !queues.iter().any(|other| **other == *queue)
            {
                queues.push(queue.into());
            }
        }
        queues
    }

    /// Takes the messages out of the queue of a dead node, and then the queue, in the background:
    /// until it is gone its keys are bound there, and nobody else hears of their messages.
    fn drain(self: &Arc<Self>, queue: Arc<str>, drained: &Arc<Mutex<HashMap<Box<str>, Instant>>>) {
        let now = Instant::now();
        {
            let mut drained = drained.lock();
            drained.retain(|_, at| now.duration_since(*at) < REST);
            if drained.len() >= MAX_QUEUES || drained.contains_key(&*queue) {
                return;
            }
            drained.insert((*queue).into(), now);
        }
        let source = Arc::clone(self);
        background::spawn(async move {
            match source.drain_queue(&queue).await {
                Ok(count) => telemetry::offline_drained(&queue, count),
                // Its node is back, or another node was faster.
                Err(error) => telemetry::offline_not_drained(&queue, &error),
            }
        });
    }

    async fn drain_queue(&self, queue: &Arc<str>) -> Result<usize, BrokerError> {
        let Some(host) = self.host() else {
            return Ok(0);
        };
        let request = Consume {
            queue: QueueSpec {
                name: (&**queue).into(),
                durable: true,
                ..QueueSpec::default()
            },
            declare: false,
            binding: None,
            binding_arguments: Vec::new(),
            prefetch: PREFETCH,
            // Its own node consumes it so: a node that lives refuses this.
            exclusive: true,
            owner: rand::random(),
            arguments: Vec::new(),
        };
        let (sender, mut inbox) = mpsc::unbounded_channel();
        let consumer = host.consume(request, Arc::new(Inbox(sender))).await?;
        let (mut items, mut count) = (Vec::new(), 0_usize);
        let mut under_way = UnderWay::new();
        loop {
            let received = select! {
                received = inbox.recv_many(&mut items, PREFETCH.into()) => received,
                Some(()) = under_way.next() => continue,
                () = sleep(QUIET), if under_way.is_empty() => break,
            };
            // It may have more.
            if received == 0 {
                return Err(BrokerError::Unavailable("the link has ended".into()));
            }
            let mut pending = Vec::new();
            for item in items.drain(..) {
                match item {
                    Item::Delivery(delivery) => pending.push(Pending {
                        delivery,
                        left_in: Some(Arc::clone(queue)),
                    }),
                    Item::TakenBack => {
                        pending.clear();
                        under_way.clear();
                    }
                    Item::Lost(error) => return Err(error),
                }
            }
            count = count.saturating_add(pending.len());
            self.begin(&*host, &*consumer, pending, &mut under_way)
                .await;
        }
        drop(under_way);
        // What came meanwhile goes back, and the queue stays: it is emptied once more, later.
        consumer.cancel().await?;
        host.delete_empty_queue(queue).await?;
        host.delete_queue(&format!("{queue}.overflow")).await?;
        Ok(count)
    }

    /// Tries again and again whether what nobody is subscribed to comes here: only an operator can
    /// see to that.
    async fn try_again(&self) {
        while let Some(host) = self.host() {
            // Services read all keys of a topic exchange, perhaps.
            if let Ok(ExchangeKind::Direct) = host.exchange_kind(&self.exchange).await {
                let publish = Publish {
                    exchange: (&*self.exchange).into(),
                    routing_key: format!("{TRIAL_KEYS}{:032x}", rand::random::<u128>()).into(),
                    properties: Properties::default(),
                    body: bytes::Bytes::new(),
                    mandatory: true,
                    lane: crate::broker::LANE_OF_TRIALS,
                    slow: None,
                };
                let outcome = async { host.publish(publish).await?.await };
                if let Err(BrokerError::Unroutable) = outcome.await {
                    let vhost = self.services.upgrade();
                    let vhost = vhost.map(|services| services.settings().default_vhost.clone());
                    let command = policy_for(&vhost.unwrap_or_default(), &self.exchange);
                    telemetry::offline_leads_nowhere(&self.exchange, &command);
                }
            }
            drop(host);
            sleep(TRIAL).await;
        }
    }
}
