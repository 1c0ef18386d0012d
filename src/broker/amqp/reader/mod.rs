//! A connection to RabbitMQ that only consumes, made for many small messages.
//!
//! lapin hands each message from its own thread to a task, and cannot go past a short text that
//! is not UTF-8. This reads its socket on the gateway's runtime and calls the [`DeliveryTaker`] at
//! once, on the connection's own task, for all that the buffer holds; and it acknowledges many with
//! one `basic.ack` a channel. The codec is the crate `amqp-wire`.
//!
//! [`Reader`] keeps one connection up. Each [`Consumer`] is a channel of its own, so that what
//! befalls one is nobody else's. Its taker goes to the connection and comes back when the
//! consumer has ended ([`Ended`]): nothing is locked, and nothing is delivered after the end.
//!
//! - [`connect`]: TCP, TLS
//! - [`handshake`]: the login, and what is agreed on
//! - [`connection`]: the task: reads, writes, heart-beats
//! - [`consumers`]: the channels and their states (no I/O)

mod connect;
mod connection;
mod consumers;
mod handshake;

#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use amqp_wire::{Delivery, encode::Fields};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use tokio_util::task::AbortOnDropHandle;

pub use self::handshake::Product;
use self::{
    connection::{Connection, End},
    consumers::Request,
    handshake::Connected,
};
use super::{
    account::{Credentials, Numbered, Renewals},
    hosts::{Address, Unreached, dial},
    link::{LinkConfig, Outage, cut_off, late},
    outages::LinkLog,
    silence::unless_silent,
};
use crate::{
    background,
    backoff::Backoff,
    broker::{BrokerError, Cause},
    telemetry::ReadAt,
};

/// Takes the messages of one consumer, on the connection's task: must not block.
pub(super) trait DeliveryTaker: Send + 'static {
    /// The next message, and when it was read.
    fn take(&mut self, delivery: Delivery<'_>, read_at: ReadAt);

    /// All messages so far are being acknowledged: from now on the broker may know.
    fn acknowledged(&mut self);

    /// It takes nothing more: what comes is not acknowledged, which would bring more.
    fn is_done(&self) -> bool {
        false
    }

    /// Whether nobody else may consume its queue meanwhile.
    fn is_exclusive(&self) -> bool {
        true
    }

    /// The arguments of the consumer.
    fn arguments(&self) -> Fields {
        Fields::default()
    }
}

/// One connection for consumers, kept up in the background for as long as this lives.
pub(super) struct Reader<T> {
    state: watch::Receiver<ReaderState<T>>,
    unready_after: Duration,
    next_id: AtomicU64,
    is_closed: AtomicBool,
    task: AbortOnDropHandle<()>,
}

enum ReaderState<T> {
    /// The first attempt is under way.
    New,
    Down(BrokerError, Outage),
    Up(mpsc::UnboundedSender<Command<T>>),
}

/// An order to a connection.
enum Command<T> {
    Consume(Request<T>),
    /// Anything that the broker answers at once; what it says. Dropped, if it says nothing.
    Ask(oneshot::Sender<()>),
    /// The login goes on with another token. Dropped, if the connection ends before that is so.
    Renew(Arc<Numbered>, oneshot::Sender<()>),
    /// Ends the consumer of that id, if it is there.
    Cancel(u64),
    /// Ends the connection in good order.
    Close,
    /// The same, and it is to be made again elsewhere; why.
    Leave(BrokerError),
}

/// A running consumer. Dropping it ends it; unacknowledged messages then go to the queue's next
/// consumer.
pub(super) struct Consumer<T> {
    id: u64,
    commands: mpsc::UnboundedSender<Command<T>>,
    ended: oneshot::Receiver<Ended<T>>,
}

/// A consumer that has ended: its taker gets nothing more.
pub(super) struct Ended<T> {
    /// `None` if it was lost in a panic, which is in the log.
    pub(super) taker: Option<T>,
    pub(super) reason: BrokerError,
}

/// How long the broker has to answer to an end in good order.
const GOODBYE: Duration = Duration::from_secs(2);

impl<T: DeliveryTaker> Reader<T> {
    /// Connects, now and whenever the connection is lost. A body longer than `max_body` bytes is
    /// thrown away as it comes, and the taker is told its length.
    pub(super) fn start(config: LinkConfig, max_body: u64) -> Self {
        let (sender, state) = watch::channel(ReaderState::New);
        Self {
            state,
            unready_after: config.unready_after,
            next_id: AtomicU64::new(0),
            is_closed: AtomicBool::new(false),
            task: AbortOnDropHandle::new(background::spawn(supervise(config, max_body, sender))),
        }
    }

    /// `Ok` if the connection is up, or is being made for the first time; otherwise the reason.
    pub(super) fn health(&self) -> Result<(), BrokerError> {
        match &*self.state.borrow() {
            _ if self.is_closed.load(Ordering::Relaxed) => {
                Err(BrokerError::Unavailable("the connection was closed".into()))
            }
            ReaderState::New | ReaderState::Up(_) => Ok(()),
            ReaderState::Down(reason, _) => Err(reason.clone()),
        }
    }

    /// As [`Reader::health`], but a connection that was lost has a while to be made again.
    pub(super) fn readiness(&self) -> Result<(), BrokerError> {
        match &*self.state.borrow() {
            ReaderState::Down(_, outage) if outage.is_short(self.unready_after) => return Ok(()),
            _ => {}
        }
        self.health()
    }

    /// Waits for the connection.
    pub(super) async fn up(&self) {
        self.commands().await;
    }

    /// Consumes a queue, exclusively unless the taker says otherwise; at most `prefetch` messages are
    /// without acknowledgement (0: no limit). If it does not start by `deadline`, the taker comes back
    /// with the reason.
    pub(super) async fn consume(
        &self,
        queue: &str,
        prefetch: u16,
        taker: T,
        deadline: Instant,
    ) -> Result<Consumer<T>, Ended<T>> {
        let (consumer, started) = self.begin(queue, prefetch, taker, deadline).await?;
        let outcome = tokio::time::timeout_at(deadline, started).await;
        let outcome = outcome.map_err(|_| BrokerError::Unavailable(late()));
        consumer.if_started(outcome).await
    }

    /// The same, but on a slow connection it may start later than at `deadline`. If the broker answers
    /// something else first, the reason is [`silent`](super::silence::silent).
    pub(super) async fn consume_unless_silent(
        &self,
        queue: &str,
        prefetch: u16,
        taker: T,
        deadline: Instant,
    ) -> Result<Consumer<T>, Ended<T>> {
        let (consumer, started) = self.begin(queue, prefetch, taker, deadline).await?;
        let outcome = unless_silent(deadline, started, consumer.another_answer()).await;
        consumer.if_started(outcome).await
    }

    /// A consumer that has yet to start, and what tells when it has.
    async fn begin(
        &self,
        queue: &str,
        prefetch: u16,
        taker: T,
        deadline: Instant,
    ) -> Result<(Consumer<T>, oneshot::Receiver<()>), Ended<T>> {
        let Ok(commands) = tokio::time::timeout_at(deadline, self.commands()).await else {
            let late = || BrokerError::Unavailable("the connection was made too late".into());
            return Err(Ended {
                taker: Some(taker),
                reason: self.health().err().unwrap_or_else(late),
            });
        };
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (started_sender, started) = oneshot::channel();
        let (ended_sender, ended) = oneshot::channel();
        let request = Request {
            id,
            queue: queue.into(),
            prefetch,
            taker,
            started: started_sender,
            ended: ended_sender,
        };
        if let Err(mpsc::error::SendError(Command::Consume(request))) =
            commands.send(Command::Consume(request))
        {
            return Err(Ended {
                taker: Some(request.taker),
                reason: lost(),
            });
        }
        let consumer = Consumer {
            id,
            commands,
            ended,
        };
        Ok((consumer, started))
    }

    /// Closes the connection in good order, if it is up, and makes no other.
    pub(super) async fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
        let commands = match &*self.state.borrow() {
            ReaderState::Up(commands) => Some(commands.clone()),
            ReaderState::New | ReaderState::Down(..) => None,
        };
        if let Some(commands) = commands {
            // If this fails, the broker still sees the socket close.
            let _ = commands.send(Command::Close);
            let _ = tokio::time::timeout(GOODBYE, commands.closed()).await;
        }
        self.task.abort();
    }

    /// The sender of commands, as soon as the connection is up.
    async fn commands(&self) -> mpsc::UnboundedSender<Command<T>> {
        let mut state = self.state.clone();
        loop {
            if let ReaderState::Up(commands) = &*state.borrow_and_update() {
                return commands.clone();
            }
            if state.changed().await.is_err() {
                // It was closed for good; a caller that waits has a deadline, or ends as well.
                std::future::pending::<()>().await;
            }
        }
    }
}

impl<T> Consumer<T> {
    /// Waits until it ends by itself. Not to be called again after that.
    pub(super) async fn ended(&mut self) -> Ended<T> {
        (&mut self.ended).await.unwrap_or_else(|_| Ended {
            taker: None,
            reason: lost(),
        })
    }

    /// The consumer, if it has started; an error: why it was not waited for any longer.
    async fn if_started(
        mut self,
        outcome: Result<Result<(), oneshot::error::RecvError>, BrokerError>,
    ) -> Result<Self, Ended<T>> {
        match outcome {
            Ok(Ok(())) => Ok(self),
            Ok(Err(_)) => Err(self.ended().await),
            Err(reason) => Err(Ended {
                taker: self.cancel().await,
                reason,
            }),
        }
    }

    /// Done when the broker has answered something else on the same connection.
    async fn another_answer(&self) -> Result<(), BrokerError> {
        let (answered, answer) = oneshot::channel();
        // If the connection is gone, this is dropped.
        let _ = self.commands.send(Command::Ask(answered));
        answer.await.map_err(|_| lost())
    }

    /// Ends it. Its taker, which gets nothing more.
    pub(super) async fn cancel(mut self) -> Option<T> {
        // If the connection is gone, it has ended already.
        let _ = self.commands.send(Command::Cancel(self.id));
        self.ended().await.taker
    }
}

impl<T> Drop for Consumer<T> {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Cancel(self.id));
    }
}

fn lost() -> BrokerError {
    BrokerError::Unavailable("the connection was lost".into())
}

/// A connection that is logged in, where it leads to, and the tokens that are to come for it.
async fn log_in(
    config: &LinkConfig,
    max_body: u64,
) -> Result<(Connected, Address, Option<Renewals>), Unreached> {
    let credentials = config.credentials().await?;
    let dialled = log_in_by(config, &credentials, max_body).await;
    let (connected, address) = config.told(&credentials, dialled)?;
    let renewals = config.account.renewals(&credentials);
    Ok((connected, address, renewals))
}

async fn log_in_by(
    config: &LinkConfig,
    credentials: &Credentials,
    max_body: u64,
) -> Result<(Connected, Address), Unreached> {
    dial(config, |address| async {
        let certificate = credentials.certificate.as_deref();
        let stream = connect::connect(config, address, certificate).await?;
        handshake::handshake(stream, config, credentials, max_body).await
    })
    .await
}

/// Finds out whether the broker lets these in, on a connection that is closed at once.
pub(super) async fn log_in_once(
    config: &LinkConfig,
    credentials: &Credentials,
) -> Result<(), BrokerError> {
    let dialled = log_in_by(config, credentials, 0).await;
    let (connected, _) = dialled.map_err(|unreached| unreached.error)?;
    farewell(connected).await;
    Ok(())
}

/// Logs in once, at any of the broker's addresses, and asks the broker who it is.
pub(super) async fn ask_product(config: &LinkConfig) -> Result<(Product, Address), Unreached> {
    let (connected, address, _) = log_in(config, 0).await?;
    let product = connected.product.clone();
    farewell(connected).await;
    Ok((product, address))
}

/// Closes a connection in good order: without anybody who could ask it for something, it ends so.
async fn farewell(connected: Connected) {
    let (_, commands) = mpsc::unbounded_channel::<Command<Nobody>>();
    Connection::new(connected, commands).run().await;
}

/// The taker of a connection without consumers.
struct Nobody;

impl DeliveryTaker for Nobody {
    fn take(&mut self, _: Delivery<'_>, _: ReadAt) {}

    fn acknowledged(&mut self) {}
}

/// Tells a connection each new token, until it has ended.
async fn renew<T>(
    config: &LinkConfig,
    renewals: Option<Renewals>,
    commands: mpsc::UnboundedSender<Command<T>>,
) {
    let Some(renewals) = renewals else {
        return std::future::pending().await;
    };
    let update = |token| {
        let (renewed, answer) = oneshot::channel();
        let sent = commands.send(Command::Renew(token, renewed));
        async move {
            sent.ok()?;
            Some(answer.await.map_err(|_| lost()))
        }
    };
    config.renew(renewals, update).await;
}

async fn supervise<T: DeliveryTaker>(
    config: LinkConfig,
    max_body: u64,
    state: watch::Sender<ReaderState<T>>,
) {
    let mut backoff = Backoff::new(config.reconnect);
    let log = LinkLog::new(&config);
    let mut outage = Outage::default();
    loop {
        let connected = log_in(&config, max_body).await;
        let since = Instant::now();
        let (Unreached { error, place }, lasted) = match connected {
            Ok((connected, address, renewals)) => {
                log.up(&address);
                let (sender, commands) = mpsc::unbounded_channel();
                state.send_replace(ReaderState::Up(sender.clone()));
                // A task of its own: if a taker panics, the others' connection is made again.
                let connection = Connection::new(connected, commands);
                let mut running = AbortOnDropHandle::new(tokio::spawn(connection.run()));
                let in_use = config.hosts.used_by(&address);
                let ended = tokio::select! {
                    ended = &mut running => ended,
                    () = renew(&config, renewals, sender.clone()) => running.await,
                    () = in_use.left() => {
                        // If it has ended by itself, nobody hears this.
                        let _ = sender.send(Command::Leave(cut_off()));
                        running.await
                    }
                };
                outage = Outage::new();
                let failed = || BrokerError::Unavailable("its task failed".into());
                let reason = match ended {
                    Ok(End::Wanted) => return,
                    Ok(End::Lost(reason)) => reason,
                    Err(_) => failed(),
                };
                (config.lost(&address, reason), since.elapsed())
            }
            Err(unreached) => {
                if let BrokerError::VhostRefused(_) = unreached.error {
                    backoff.be_patient();
                }
                (unreached, Duration::ZERO)
            }
        };
        let unavailable = match &error {
            BrokerError::Unavailable(_) => error.clone(),
            other => BrokerError::Unavailable(Cause::foreign(other.to_string())),
        };
        state.send_replace(ReaderState::Down(unavailable, outage));
        backoff.lasted(lasted);
        let pause = config.pause(&mut backoff, lasted);
        log.down(&place, &error, pause);
        tokio::time::sleep(pause).await;
    }
}
