//! Publishing: confirmed, pipelined, in the order of each lane.

use std::sync::Arc;

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
    convert::{broker_error, short, to_amqp},
    link::{Link, answer},
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
    pub(super) fn start(link: &Arc<Link>, config: PublisherConfig) -> Self {
        let max_pending = (config.max_pending / config.lanes.max(1)).max(1);
        let (lanes, tasks): (Vec<_>, Vec<_>) = (0..config.lanes.max(1))
            .map(|_| {
                let (sender, jobs) = mpsc::channel(64);
                let lane = Lane {
                    link: Arc::clone(link),
                    max_pending,
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

struct Lane {
    link: Arc<Link>,
    max_pending: usize,
    channel: Option<(u64, Channel)>,
}

impl Lane {
    async fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut pending: FuturesUnordered<BoxFuture<'static, ()>> = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                Some(()) = pending.next() => {}
                job = jobs.recv(), if pending.len() < self.max_pending => {
                    let Some(job) = job else { return };
                    match self.channel(job.deadline).await {
                        Ok(channel) => {
                            let mut publishing = publish(channel, job).boxed();
                            // The first poll puts the message into the channel's order; to wait
                            // for more before the next message would be a hop between threads
                            // each.
                            if (&mut publishing).now_or_never().is_none() {
                                pending.push(publishing);
                            }
                        }
                        Err(error) => drop(job.answer.send(Err(error))),
                    }
                }
            }
        }
    }

    async fn channel(&mut self, deadline: Instant) -> Result<Channel, BrokerError> {
        let live = self.link.wait_until(deadline).await?;
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

async fn publish(channel: Channel, job: Job) {
    let exchange = job.exchange.clone();
    let confirmed = async {
        let options = BasicPublishOptions {
            mandatory: job.mandatory,
            immediate: false,
        };
        let (exchange, key) = (job.exchange, job.routing_key);
        channel
            .basic_publish(exchange, key, options, &job.body, job.properties)
            .await?
            .await
    };
    let outcome = match confirmed.await {
        Ok(Confirmation::Ack(None)) => Ok(()),
        Ok(Confirmation::Ack(Some(_))) => Err(BrokerError::Unroutable),
        Ok(Confirmation::Nack(_)) => Err(BrokerError::Nacked),
        Ok(Confirmation::NotRequested) => Err(BrokerError::Unavailable(
            "it did not confirm the message".into(),
        )),
        Err(error) => Err(only_of(exchange.as_str(), broker_error(&error))),
    };
    // Whoever does not wait any more, has left.
    let _ = job.answer.send(outcome);
}

/// An error closes the channel, and is told to all messages under way on it; only those to the
/// exchange that it names are to blame.
fn only_of(exchange: &str, error: BrokerError) -> BrokerError {
    let text = match &error {
        BrokerError::NotFound(text) | BrokerError::AccessRefused(text) => text,
        _ => return error,
    };
    if text.contains(&format!("exchange '{exchange}'")) {
        return error;
    }
    BrokerError::Unavailable("its channel was closed before it answered for the message".into())
}
