//! One feed's journal, for as long as the feed's task lives.

use std::{
    convert::Infallible,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use futures_util::{FutureExt, future::BoxFuture};
use lapin::{
    options::QueueDeclareOptions,
    types::{AMQPValue, FieldTable, ShortString},
};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, timeout_at},
};

use super::{Journaled, Side, is_blocked, part};
use crate::{
    broker::{
        BrokerError, FeedId, JournalAsk, JournalConfig, JournalStart,
        amqp::{
            convert::short,
            cut::Cut,
            feed::{
                Feed, Ready, Shared,
                runner::{Parts, Serve, unbound},
                sentinel::Sentinel,
                taker::FeedTaker,
            },
            link::{Live, answer},
            reader::{Consumer, Ended, Reader},
        },
    },
    deadline::after,
    telemetry,
};

/// Markers in a row that did not come although the stream is there.
const STRIKES: u32 = 2;

/// Keeps one feed running that is read from a journal.
pub(in crate::broker::amqp::feed) struct JournalRunner {
    id: FeedId,
    side: Arc<Side>,
    shared: Arc<Shared>,
    reader: Arc<Reader<FeedTaker>>,
    /// While no connection has it: where the feed is.
    taker: Option<Journaled>,
    cut: Cut,
    ready: watch::Sender<Ready>,
    is_bound: Arc<AtomicBool>,
    is_stale: Arc<watch::Sender<bool>>,
    sentinel: Arc<Sentinel>,
    /// It holds this task.
    feed: Weak<Feed>,
}

impl JournalRunner {
    /// Says by `ready` whether the stream is there and can be bound to, and everything in it was read.
    pub(in crate::broker::amqp::feed) fn new(
        feed: &Arc<Feed>,
        side: &Arc<Side>,
        ready: watch::Sender<Ready>,
    ) -> Self {
        let taker = Journaled::new(&feed.shared, &feed.id, side, &feed.sentinel);
        Self {
            id: feed.id.clone(),
            side: Arc::clone(side),
            shared: Arc::clone(&feed.shared),
            reader: Arc::clone(&feed.reader),
            taker: Some(taker),
            cut: Cut::default(),
            ready,
            is_bound: Arc::clone(&feed.is_bound),
            is_stale: Arc::clone(&feed.is_stale),
            sentinel: Arc::clone(&feed.sentinel),
            feed: Arc::downgrade(feed),
        }
    }

    /// Sees to it that the stream is there. One that was declared otherwise is taken as it is.
    async fn declare(&self, live: &Live) -> Result<(), BrokerError> {
        let deadline = self.deadline();
        let arguments = arguments(&self.shared.journal);
        let declaring = self.declare_as(live, arguments, false, deadline).await;
        let Err(BrokerError::PreconditionFailed(text)) = declaring else {
            return declaring;
        };
        telemetry::journal_differs(self.side.stream.as_str(), &text);
        self.declare_as(live, FieldTable::default(), true, deadline)
            .await
    }

    async fn declare_as(
        &self,
        live: &Live,
        arguments: FieldTable,
        passive: bool,
        deadline: Instant,
    ) -> Result<(), BrokerError> {
        let channel = live.passing(deadline).await?;
        let options = QueueDeclareOptions {
            passive,
            durable: true,
            ..QueueDeclareOptions::default()
        };
        let declaring = channel.queue_declare(self.side.stream.clone(), options, arguments);
        answer(deadline, declaring).await.map(drop)
    }

    async fn consume(&mut self) -> Result<Consumer<FeedTaker>, BrokerError> {
        let Some(mut taker) = self.taker.take() else {
            return Err(BrokerError::Unavailable("its reader failed".into()));
        };
        taker.reconnected();
        let stream = self.side.stream.as_str();
        let (prefetch, deadline) = (self.shared.config.prefetch, self.deadline());
        let taker = FeedTaker::Journal(taker);
        let consuming = self
            .reader
            .consume_unless_silent(stream, prefetch, taker, deadline);
        consuming.await.map_err(|ended| self.take_back(ended))
    }

    /// Keeps where the feed is for the next consumer; why this one ended.
    fn take_back(&mut self, ended: Ended<FeedTaker>) -> BrokerError {
        match ended.taker {
            Some(FeedTaker::Journal(taker)) => self.taker = Some(taker),
            _ => self.lose("its reader failed"),
        }
        if self.cut.begins(&ended.reason, Instant::now()) {
            self.shared.sink.cut(&self.id);
        }
        ended.reason
    }

    /// What comes until the feed has begun anew is new for nobody: so clients are told, and whoever
    /// subscribes waits until then.
    fn lose(&mut self, why: &str) {
        self.forget();
        self.ready.send_modify(|ready| *ready = Err(why.into()));
        self.unbound(why);
    }

    /// The feed's place in the stream is not known any more.
    fn forget(&mut self) {
        let Some(feed) = self.feed.upgrade() else {
            return;
        };
        let (shared, side) = (&self.shared, &self.side);
        side.has_begun.store(false, Ordering::Relaxed);
        let taker = Journaled::new(shared, &self.id, side, &feed.sentinel);
        self.taker = Some(taker);
        self.shared.sink.restart(&self.id);
    }

    /// The exchange was lost, and all bindings with it. RabbitMQ 4.3 keeps one that was asked for just
    /// meanwhile, which is listed and matches nothing, until it is taken away.
    ///
    /// # Errors
    /// [`BrokerError::Unavailable`]: the binding may still be there. It has to be taken away before
    /// another is made, for RabbitMQ ignores a second request for the same one.
    async fn unbind(&self, live: &Live) -> Result<(), BrokerError> {
        let unbinding = async {
            let deadline = self.deadline();
            let channel = live.passing(deadline).await?;
            let exchange: ShortString = short("the exchange's name", &self.id.exchange)?;
            let (stream, all) = (self.side.stream.clone(), "#".into());
            let unbinding = channel.queue_unbind(stream, exchange, all, FieldTable::default());
            answer(deadline, unbinding).await
        };
        match unbinding.await {
            Ok(()) => {}
            Err(error @ BrokerError::Unavailable(_)) => return Err(error),
            // Another attempt would be refused, too.
            Err(error) => telemetry::unbinding_failed(&self.id, &error),
        }
        self.is_stale.send_replace(false);
        Ok(())
    }

    /// A stream that was made anew gives nothing to who asks for an offset that it has not reached: so
    /// it is asked where it ends.
    async fn look_whether_replaced(&mut self) -> Result<(), BrokerError> {
        let Some(begin) = self.taker.as_ref().and_then(Journaled::begins_at) else {
            return Ok(());
        };
        if self.is_blocked().await {
            return Ok(());
        }
        let end = part::end(&self.shared, &self.id.exchange, &self.side).await?;
        if end <= begin {
            self.lose("its journal was deleted and made anew");
        }
        Ok(())
    }

    /// Done when everything that is in the stream has been read: what comes from then on is new.
    async fn reach_or_rest(&self, side: &Side, shared: &Shared) -> Result<(), BrokerError> {
        loop {
            match side.reach(shared, self.deadline()).await {
                Err(_) if self.is_blocked().await => {}
                reached => return reached,
            }
            // Where messages come all the time it is never quiet: so markers are tried, too.
            if side.is_quiet().await {
                return Ok(());
            }
        }
    }

    /// Whether nobody can publish now: an alarm of the broker, or a lost link.
    async fn is_blocked(&self) -> bool {
        match self.shared.publish_link.wait_until(self.deadline()).await {
            Ok(live) => is_blocked(&live).await,
            Err(_) => true,
        }
    }

    /// Offsets were left out. They may be holes; it is a gap, if the journal does not reach so far back
    /// any more, and then that is told before another consumer goes on behind them.
    async fn judge_jump(
        &mut self,
        messages: Consumer<FeedTaker>,
    ) -> Result<Consumer<FeedTaker>, BrokerError> {
        let cancelling = timeout_at(self.deadline(), messages.cancel());
        let taker = cancelling.await.ok().flatten();
        let is_lost = taker.is_none();
        let reason = BrokerError::Unavailable("its reader failed".into());
        let reason = self.take_back(Ended { taker, reason });
        if is_lost {
            return Err(reason);
        }
        if let Some(expected) = self.taker.as_ref().and_then(Journaled::jumped) {
            let first = self.first_available(expected).await;
            if first.is_none() {
                // Over a lost link nobody says anything. What was left out comes again.
                self.reader.health()?;
                self.shared.parts().health()?;
            }
            if let Some(taker) = &mut self.taker {
                taker.judge(first);
            }
        }
        self.consume().await
    }

    /// The first offset that is still there, as far as that offset; `None`: the broker does not say.
    async fn first_available(&self, until: u64) -> Option<u64> {
        let ask = JournalAsk {
            start: JournalStart::First,
            until,
            most: 1,
        };
        let part = part::read(&self.shared, &self.id.exchange, ask).await;
        Some(part.ok()?.first)
    }

    /// All bindings are gone.
    fn unbound(&self, reason: &str) {
        unbound(&self.parts(), &self.sentinel, &self.is_bound, reason);
    }

    fn deadline(&self) -> Instant {
        after(self.shared.operation_timeout)
    }
}

/// What a journal's stream is declared with.
pub(in crate::broker::amqp) fn arguments(config: &JournalConfig) -> FieldTable {
    let bytes = |size: usize| AMQPValue::LongLongInt(i64::try_from(size).unwrap_or(i64::MAX));
    let age = format!("{}s", config.max_age.as_secs());
    let mut arguments = FieldTable::default();
    for (name, value) in [
        ("x-queue-type", AMQPValue::LongString("stream".into())),
        ("x-max-age", AMQPValue::LongString(age.into())),
        ("x-max-length-bytes", bytes(config.max_bytes)),
        ("x-stream-max-segment-size-bytes", bytes(config.segment)),
    ] {
        arguments.insert(name.into(), value);
    }
    arguments
}

impl Serve for JournalRunner {
    fn parts(&self) -> Parts<'_> {
        Parts {
            id: &self.id,
            shared: &self.shared,
            reader: &self.reader,
            ready: &self.ready,
        }
    }

    async fn serve(&mut self, live: &Live) -> Result<Infallible, BrokerError> {
        self.declare(live).await?;
        if *self.is_stale.borrow() {
            self.unbind(live).await?;
        }
        self.look_whether_replaced().await?;
        let mut messages = self.consume().await?;
        let (side, shared) = (Arc::clone(&self.side), Arc::clone(&self.shared));
        loop {
            tokio::select! {
                reached = self.reach_or_rest(&side, &shared) => match reached {
                    Ok(()) => break,
                    Err(error) => {
                        let taker = messages.cancel().await;
                        self.take_back(Ended { taker, reason: error.clone() });
                        return Err(error);
                    }
                },
                ended = messages.ended() => return Err(self.take_back(ended)),
                () = side.jumped.notified() => messages = self.judge_jump(messages).await?,
            }
        }
        self.side.begin();
        self.ready.send_modify(|ready| *ready = Ok(()));
        let mut stale = self.is_stale.subscribe();
        let may_have_forgotten = self.cut.ends(Instant::now());
        shared.sink.resumed(&self.id, may_have_forgotten);
        let every = self.shared.config.verify_interval;
        let mut ticks = (!every.is_zero()).then(|| interval(every));
        if let Some(ticks) = &mut ticks {
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        let mut strikes = 0_u32;
        let mut looking: Option<BoxFuture<'_, Result<(), BrokerError>>> = None;
        let stopped = loop {
            tokio::select! {
                ended = messages.ended() => return Err(self.take_back(ended)),
                () = async { let _ = stale.wait_for(|is_stale| *is_stale).await; } => {
                    if let Err(error) = self.unbind(live).await {
                        break error;
                    }
                }
                () = side.jumped.notified() => messages = self.judge_jump(messages).await?,
                () = async { if let Some(ticks) = &mut ticks { ticks.tick().await; } },
                    if ticks.is_some() && looking.is_none() =>
                {
                    looking = Some(side.reach(&shared, self.deadline()).boxed());
                }
                looked = async { match &mut looking {
                    Some(looking) => looking.await,
                    None => Ok(()),
                } }, if looking.is_some() => {
                    looking = None;
                    match looked {
                        Ok(()) => strikes = 0,
                        Err(BrokerError::NotFound(text)) => {
                            let why = "its journal was deleted";
                            self.shared.sink.restart(&self.id);
                            self.ready.send_modify(|ready| *ready = Err(why.into()));
                            self.unbound(why);
                            break BrokerError::NotFound(text);
                        }
                        // The broker takes no messages, or the link is lost: that is told elsewhere.
                        Err(error) if !self.is_blocked().await => {
                            strikes = strikes.saturating_add(1);
                            if strikes >= STRIKES {
                                break error;
                            }
                        }
                        Err(_) => {}
                    }
                }
            }
        };
        drop(looking);
        let reason = stopped.clone();
        let cancelling = timeout_at(self.deadline(), messages.cancel());
        let taker = cancelling.await.ok().flatten();
        self.take_back(Ended { taker, reason });
        Err(stopped)
    }
}
