//! Feeds that are read from a journal: a stream for each exchange, which all nodes read, each on its
//! own. The broker keeps it whether or not anybody reads.
//!
//! A stream tells its reader less than a queue does. Asked for an offset that is gone, it begins with
//! what is there; asked for one beyond the end, with the end; deleted, it falls silent. So:
//!
//! - [`runner`]: after a lost link it is read on from the last message, which must come again, or the
//!   stream is another one. From time to time a marker is published to the stream itself, by the
//!   default exchange: nobody else gets it, and when it comes, everything before it has come.
//! - [`taker`]: one feed's messages, and where it is
//! - [`part`]: parts of the past, each by a consumer of its own

mod part;
mod runner;
mod taker;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use lapin::{
    BasicProperties, Confirmation,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    types::ShortString,
};
use tokio::{
    sync::{Mutex, Notify},
    time::{Instant, sleep, sleep_until, timeout_at},
};

pub(in crate::broker::amqp) use self::runner::arguments;
pub(super) use self::{part::PartTaker, runner::JournalRunner, taker::Journaled};
use super::{Feed, FeedManager, Shared, arrivals::Arrivals};
use crate::{
    broker::{
        BrokerError, FeedId, JournalAsk, JournalPart,
        amqp::{
            convert::short,
            link::{Live, answer, late},
        },
        journal::stream_of,
    },
    deadline::{after, later},
};

/// Between two markers.
const BETWEEN: Duration = Duration::from_millis(200);
/// A consumer to which nothing comes for so long has all that there is.
const QUIET: Duration = Duration::from_secs(1);

/// What a feed has more that is read from a journal.
pub(super) struct Side {
    /// The stream.
    stream: ShortString,
    /// This feed's markers have it as their id.
    name: ShortString,
    markers: Arrivals,
    /// Offsets were left out, and nothing more is taken before that was judged.
    jumped: Notify,
    /// The last offset that was read.
    last: AtomicU64,
    /// What is read is new: all that was there at first has been read.
    has_begun: AtomicBool,
    /// Held by whoever publishes one.
    turn: Mutex<Turn>,
}

/// What was published last.
#[derive(Default)]
struct Turn {
    /// When the last marker that came was.
    reached: Option<Instant>,
    /// When the last one was of all, which nobody may have waited for.
    published: Option<Instant>,
}

impl Side {
    pub(super) fn new(exchange: &str) -> Result<Self, BrokerError> {
        Ok(Self {
            stream: short("the stream's name", &stream_of(exchange))?,
            name: short(
                "a marker's name",
                &format!("{:032x}", rand::random::<u128>()),
            )?,
            markers: Arrivals::default(),
            jumped: Notify::new(),
            last: AtomicU64::new(u64::MAX),
            has_begun: AtomicBool::new(false),
            turn: Mutex::default(),
        })
    }

    fn begin(&self) {
        self.has_begun.store(true, Ordering::Relaxed);
    }

    fn has_begun(&self) -> bool {
        self.has_begun.load(Ordering::Relaxed)
    }

    /// The stream's name.
    pub(super) fn stream(&self) -> &ShortString {
        &self.stream
    }

    /// Done when everything that was in the stream before the call has been read.
    ///
    /// # Errors
    /// [`BrokerError::NotFound`]: there is no such stream.
    async fn reach(&self, shared: &Shared, deadline: Instant) -> Result<(), BrokerError> {
        let asked = Instant::now();
        // While none can be published, nobody has to wait for a turn.
        taking(shared, deadline).await?;
        let publish = |number| self.publish(shared, number, deadline);
        self.reach_by(asked, deadline, publish).await
    }

    /// The same, since a moment. `publish` says whether the stream is there.
    async fn reach_by<F: Future<Output = Result<bool, BrokerError>>>(
        &self,
        asked: Instant,
        deadline: Instant,
        publish: impl FnOnce(u64) -> F,
    ) -> Result<(), BrokerError> {
        let Ok(mut turn) = timeout_at(deadline, self.turn.lock()).await else {
            return Err(BrokerError::Unavailable(late()));
        };
        // Of many who ask at a time, one does it.
        if turn.reached.is_some_and(|begun| begun >= asked) {
            return Ok(());
        }
        // Each is kept like a message, and clients can have one published.
        if let Some(last) = turn.published {
            sleep_until(later(last, BETWEEN).min(deadline)).await;
        }
        let (begun, number) = (Instant::now(), self.markers.next());
        turn.published = Some(begun);
        if !publish(number).await? {
            return Err(gone());
        }
        if timeout_at(deadline, self.markers.came(number))
            .await
            .is_err()
        {
            return Err(BrokerError::Unavailable(late()));
        }
        turn.reached = Some(begun);
        Ok(())
    }

    /// Whether what is in the stream has been read, as far as that can be told while no marker can be
    /// published: nothing comes for a while. Nor is anything added then, or not much.
    async fn is_quiet(&self) -> bool {
        let last = self.last.load(Ordering::Relaxed);
        sleep(QUIET).await;
        self.last.load(Ordering::Relaxed) == last
    }

    /// Publishes a marker. Whether the stream is there.
    async fn publish(
        &self,
        shared: &Shared,
        number: u64,
        deadline: Instant,
    ) -> Result<bool, BrokerError> {
        let live = taking(shared, deadline).await?;
        let channel = live.passing(deadline).await?;
        let selecting = channel.confirm_select(ConfirmSelectOptions::default());
        answer(deadline, selecting).await?;
        let options = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let properties = BasicProperties::default()
            .with_app_id("stentor".into())
            .with_message_id(self.name.clone());
        let body = number.to_be_bytes();
        let confirmation = answer(deadline, async {
            let stream = self.stream.clone();
            let publishing = channel.basic_publish("".into(), stream, options, &body, properties);
            publishing.await?.await
        });
        match confirmation.await? {
            Confirmation::Ack(returned) => Ok(returned.is_none()),
            _ => Err(BrokerError::Nacked),
        }
    }
}

/// The link to publish by, unless the broker takes no messages now.
async fn taking(shared: &Shared, deadline: Instant) -> Result<Arc<Live>, BrokerError> {
    let live = shared.publish_link.wait_until(deadline).await?;
    if is_blocked(&live).await {
        let why = "it is short of memory or disk";
        return Err(BrokerError::Unavailable(why.into()));
    }
    Ok(live)
}

/// Whether the broker takes no messages now, so that no marker can tell anything.
async fn is_blocked(live: &Live) -> bool {
    timeout_at(Instant::now(), live.unblocked()).await.is_err()
}

impl Feed {
    /// Done when everything that was in the feed's journal before the call has been read.
    pub(super) async fn reach(&self, side: &Side, deadline: Instant) -> Result<(), BrokerError> {
        side.reach(&self.shared, deadline).await
    }
}

impl FeedManager {
    /// As [`crate::broker::VirtualHost::reach_journal`].
    pub(in crate::broker::amqp) async fn reach_journal(
        &self,
        feed: &FeedId,
    ) -> Result<(), BrokerError> {
        let feed = self.open(feed)?;
        let Some(side) = &feed.journal else {
            return Err(no_journal());
        };
        feed.reach(side, after(self.shared.operation_timeout)).await
    }

    /// As [`crate::broker::VirtualHost::read_journal`].
    pub(in crate::broker::amqp) async fn read_journal(
        &self,
        exchange: &str,
        ask: JournalAsk,
    ) -> Result<JournalPart, BrokerError> {
        if !self.shared.journal.has(exchange) {
            return Err(no_journal());
        }
        part::read(&self.shared, exchange, ask).await
    }
}

fn gone() -> BrokerError {
    BrokerError::NotFound("the journal's stream is gone".into())
}

fn no_journal() -> BrokerError {
    BrokerError::NotFound("the exchange has no journal".into())
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, future::pending};

    use tokio::time::timeout;

    use super::*;

    /// Each is kept by the stream. A client can ask for one, and leave before it comes.
    #[tokio::test(start_paused = true)]
    async fn markers_are_spaced_also_where_they_fail_or_nobody_waits() {
        let side = Side::new("feed").unwrap();
        let published = Cell::new(0);
        let reach = async |publishes: bool| {
            let publish = |_: u64| {
                published.set(published.get() + 1);
                async move {
                    match publishes {
                        true => pending::<Result<bool, BrokerError>>().await,
                        false => Err(BrokerError::Nacked),
                    }
                }
            };
            let (now, patience) = (Instant::now(), Duration::from_millis(10));
            let reaching = side.reach_by(now, after(Duration::from_secs(10)), publish);
            let _ = timeout(patience, reaching).await;
        };
        for round in 1..4 {
            for publishes in [round % 2 == 0, true, false, true, false] {
                reach(publishes).await;
            }
            assert_eq!(published.get(), round);
            sleep(BETWEEN).await;
        }
    }
}
