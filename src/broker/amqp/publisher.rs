//! Publishing: confirmed, pipelined, in the order of each lane.

use std::{pin::pin, sync::Arc};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use lapin::{
    BasicProperties, Channel, Confirmation,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    types::ShortString,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Duration, Instant},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    convert::{broker_error, properties_len, short, to_amqp},
    link::{Link, answer},
    topology::{NO_IMPERSONATION, Topology, is_impersonation, is_topical, names_key},
};
use crate::broker::{BrokerError, Confirm, Publish};

/// The lanes of one virtual host: a channel each.
pub(super) struct Publisher {
    lanes: Box<[mpsc::Sender<Job>]>,
    operation_timeout: Duration,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

struct Job {
    exchange: ShortString,
    routing_key: ShortString,
    properties: BasicProperties,
    body: bytes::Bytes,
    mandatory: bool,
    /// What the properties and headers take, in bytes.
    head: usize,
    deadline: Instant,
    answer: oneshot::Sender<Result<(), BrokerError>>,
}

/// How publishing is bounded.
#[derive(Clone, Copy)]
pub(super) struct PublisherConfig {
    pub(super) lanes: usize,
    /// Messages without an answer from the broker, on all lanes together.
    pub(super) max_pending: usize,
    /// How long a message waits for its turn, and then for its answer.
    pub(super) operation_timeout: Duration,
}

impl Publisher {
    pub(super) fn start(
        link: &Arc<Link>,
        topology: &Arc<Topology>,
        config: PublisherConfig,
    ) -> Self {
        let max_pending = (config.max_pending / config.lanes.max(1)).max(1);
        let (lanes, tasks): (Vec<_>, Vec<_>) = (0..config.lanes.max(1))
            .map(|_| {
                let (sender, jobs) = mpsc::channel(64);
                let lane = Lane {
                    link: Arc::clone(link),
                    topology: Arc::clone(topology),
                    max_pending,
                    operation_timeout: config.operation_timeout,
                    channel: None,
                };
                (sender, AbortOnDropHandle::new(tokio::spawn(lane.run(jobs))))
            })
            .unzip();
        Self {
            lanes: lanes.into(),
            operation_timeout: config.operation_timeout,
            _tasks: tasks,
        }
    }

    pub(super) async fn publish(&self, publish: Publish) -> Result<Confirm, BrokerError> {
        let (sender, receiver) = oneshot::channel();
        let deadline = Instant::now() + self.operation_timeout;
        let job = Job {
            exchange: short("the exchange's name", &publish.exchange)?,
            routing_key: short("the routing key", &publish.routing_key)?,
            head: properties_len(&publish.properties),
            properties: to_amqp(&publish.properties)?,
            body: publish.body,
            mandatory: publish.mandatory,
            deadline,
            answer: sender,
        };
        let turn = publish.lane % self.lanes.len().max(1) as u64;
        let lane = usize::try_from(turn)
            .ok()
            .and_then(|turn| self.lanes.get(turn));
        let unavailable = |why: &str| BrokerError::Unavailable(why.into());
        let Some(lane) = lane else {
            return Err(unavailable("shutting down"));
        };
        match tokio::time::timeout_at(deadline, lane.send(job)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(unavailable("shutting down")),
            Err(_) => return Err(unavailable("too many messages wait to be published")),
        }
        Ok(async move {
            receiver
                .await
                .unwrap_or_else(|_| Err(unavailable("shutting down")))
        }
        .boxed())
    }
}

/// What a frame has besides what is in it: its type, channel, size and end. In bytes.
const FRAME_OVERHEAD: usize = 8;

struct Lane {
    link: Arc<Link>,
    topology: Arc<Topology>,
    max_pending: usize,
    operation_timeout: Duration,
    channel: Option<(u64, Channel)>,
}

/// Messages on the wire. One that the broker does not answer for in time becomes an [`Overdue`].
type Pending = FuturesUnordered<BoxFuture<'static, Option<Overdue>>>;

/// Done when the broker answered for a message after all, or its channel ended; its client was
/// told already. It has to be awaited: lapin keeps what is dropped before.
type Overdue = BoxFuture<'static, ()>;

impl Lane {
    async fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut pending = Pending::new();
        let mut overdue = FuturesUnordered::<Overdue>::new();
        loop {
            tokio::select! {
                biased;
                Some(late) = pending.next() => overdue.extend(late),
                Some(()) = overdue.next() => {}
                job = jobs.recv(), if pending.len() < self.max_pending => {
                    let Some(job) = job else { return };
                    self.take(job, &mut pending, &mut overdue).await;
                }
            }
            if overdue.len() >= self.max_pending {
                self.abandon(std::mem::take(&mut overdue));
            }
        }
    }

    async fn take(
        &mut self,
        job: Job,
        pending: &mut Pending,
        overdue: &mut FuturesUnordered<Overdue>,
    ) {
        if job.mandatory {
            drain(pending, overdue).await;
        }
        let opened = {
            let mut opening = pin!(self.channel_for(&job));
            loop {
                // Those that are under way are not to wait for it.
                tokio::select! {
                    biased;
                    opened = &mut opening => break opened,
                    Some(late) = pending.next() => overdue.extend(late),
                }
            }
        };
        let channel = match opened {
            Ok(channel) => channel,
            Err(error) => return drop(job.answer.send(Err(error))),
        };
        let is_mandatory = job.mandatory;
        let deadline = Instant::now() + self.operation_timeout;
        let mut publishing = publish(channel, Arc::clone(&self.topology), job, deadline).boxed();
        // The first poll puts the message into the channel's order; to wait for more before the
        // next message would be a hop between threads each.
        match (&mut publishing).now_or_never() {
            None => pending.push(publishing),
            Some(late) => overdue.extend(late),
        }
        if is_mandatory {
            // lapin hands a message that came back to whichever confirmation is next.
            drain(pending, overdue).await;
        }
    }

    /// The channel for a message that the broker will take, for all that was learnt while it
    /// waited. Any other would cost the channel, and others' messages on it.
    async fn channel_for(&mut self, job: &Job) -> Result<Channel, BrokerError> {
        let exchange = job.exchange.as_str();
        if !self.topology.is_known(exchange) {
            let live = self.link.wait_until(job.deadline).await?;
            self.topology.check(&live, exchange, job.deadline).await?;
        }
        let key = job.routing_key.as_str();
        self.topology.may_publish(exchange, key)?;
        if job.properties.user_id().is_some() {
            self.topology.may_impersonate()?;
        }
        self.channel(job).await
    }

    /// Leaves a channel on which too many messages have no answer, and so what lapin holds of
    /// them.
    fn abandon(&mut self, overdue: FuturesUnordered<Overdue>) {
        let channel = self.channel.take();
        tracing::warn!(
            messages = overdue.len(),
            "the broker does not confirm messages; their channel is replaced"
        );
        tokio::spawn(async move {
            if let Some((_, channel)) = channel {
                // Whatever it says: that ends the channel, or the connection has ended.
                let _ = channel
                    .close(200, "too many unconfirmed messages".into())
                    .await;
            }
            overdue.collect::<()>().await;
        });
    }

    async fn channel(&mut self, job: &Job) -> Result<Channel, BrokerError> {
        let deadline = job.deadline;
        let live = self.link.wait_until(deadline).await?;
        // They have to fit into one frame; otherwise the broker ends the connection of all.
        let room = live.frame_max().saturating_sub(FRAME_OVERHEAD);
        if job.head > room {
            let text = format!(
                "the message's properties and headers take {} bytes; the broker takes {room}",
                job.head
            );
            return Err(BrokerError::PreconditionFailed(text.into()));
        }
        if tokio::time::timeout_at(deadline, live.unblocked())
            .await
            .is_err()
        {
            return Err(BrokerError::Unavailable(
                "it is short of memory or disk".into(),
            ));
        }
        if let Some((epoch, channel)) = &self.channel
            && *epoch == live.epoch
            && channel.status().connected()
        {
            return Ok(channel.clone());
        }
        let channel = live.channel(deadline).await?;
        answer(
            deadline,
            channel.confirm_select(ConfirmSelectOptions::default()),
        )
        .await?;
        self.channel = Some((live.epoch, channel.clone()));
        Ok(channel)
    }
}

/// Waits until the broker answered for all that is under way, as long as each may take.
async fn drain(pending: &mut Pending, overdue: &mut FuturesUnordered<Overdue>) {
    while let Some(late) = pending.next().await {
        overdue.extend(late);
    }
}

async fn publish(
    channel: Channel,
    topology: Arc<Topology>,
    job: Job,
    deadline: Instant,
) -> Option<Overdue> {
    let sender = job.answer;
    let confirmed = async move {
        let options = BasicPublishOptions {
            mandatory: job.mandatory,
            immediate: false,
        };
        let (exchange, key) = (job.exchange.clone(), job.routing_key.clone());
        let publishing = channel.basic_publish(exchange, key, options, &job.body, job.properties);
        let confirmation = match publishing.await {
            Ok(confirm) => confirm.await,
            Err(error) => Err(error),
        };
        let (exchange, key) = (job.exchange.as_str(), job.routing_key.as_str());
        match confirmation {
            Ok(Confirmation::Ack(Some(back))) if job.mandatory => {
                // One that came back after its time was up may be handed to another.
                let is_own = back.exchange.as_str() == exchange && back.routing_key.as_str() == key;
                if is_own {
                    Err(BrokerError::Unroutable)
                } else {
                    Ok(())
                }
            }
            Ok(Confirmation::Ack(_)) => Ok(()),
            Ok(Confirmation::Nack(_)) => Err(BrokerError::Nacked),
            Ok(Confirmation::NotRequested) => Err(BrokerError::Unavailable(
                "it did not confirm the message".into(),
            )),
            Err(error) => {
                let error = broker_error(&error);
                topology.note_impersonation(&error);
                let error = only_of(exchange, key, error);
                topology.note_refused(exchange, key, &error);
                Err(error)
            }
        }
    };
    let mut confirmed = confirmed.boxed();
    let (outcome, late) = match tokio::time::timeout_at(deadline, &mut confirmed).await {
        Ok(outcome) => (outcome, None),
        Err(_) => {
            let text = "it did not confirm the message in time; it may or may not have taken it";
            let outcome = Err(BrokerError::Unavailable(text.into()));
            (outcome, Some(confirmed.map(drop).boxed()))
        }
    };
    // Whoever does not wait any more, has left.
    let _ = sender.send(outcome);
    late
}

/// An error closes the channel, and is told to all messages under way on it; only those to the
/// exchange that it names are to blame, and of those, if it is about a routing key, those with
/// that key.
fn only_of(exchange: &str, key: &str, error: BrokerError) -> BrokerError {
    let text = match &error {
        // It names one of the users, and is told to all of them.
        BrokerError::PreconditionFailed(text) if is_impersonation(text) => {
            return BrokerError::PreconditionFailed(NO_IMPERSONATION.into());
        }
        BrokerError::NotFound(text) | BrokerError::AccessRefused(text) => text,
        _ => return error,
    };
    let is_to_blame = text.contains(&format!("exchange '{exchange}'"))
        && (!is_topical(text) || names_key(text, key));
    if is_to_blame {
        return error;
    }
    BrokerError::Unavailable("its channel was closed before it answered for the message".into())
}
