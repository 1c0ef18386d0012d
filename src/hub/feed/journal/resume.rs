//! From a client's wish to a position in the journal, and what the client is told of it.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use stomp_session::Problem;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    Journal, Record,
    pass::{Joiner, Left, Outcome, Turn},
};
use crate::{
    background,
    broker::{
        Bookmark, BrokerError, Cursor, ExchangeKind, JournalAsk, JournalId, JournalStart, Message,
        journal::CURSOR_HEADER, routing,
    },
    hub::{
        feed::{Feed, Subscriber},
        mailbox::Acks,
    },
    telemetry,
};

/// A client that has caught up within this is told how many messages it had missed.
const SOON: Duration = Duration::from_secs(2);
/// The same of one that acknowledges, which it cannot before: few are given to it without.
const SOON_ACKNOWLEDGED: Duration = Duration::from_millis(200);
/// How long a client has for the messages before one that is left out.
const DONE: Duration = Duration::from_secs(30);
/// How far back the last messages of a pattern are looked for, beyond those in memory.
const LAST_REACH: u64 = 100_000;
/// Messages that are looked at in one go.
const BLOCK: u64 = 5_000;
/// The same, in memory.
const SOME: usize = 256;
/// How far the broker's clock may be behind this machine's. What is older than this node's reading is
/// found by the broker's times: it begins so much earlier, for a message too much harms nobody.
const CLOCKS_APART: Duration = Duration::from_secs(60);
/// How long is looked at the broker, with the wait for others who do: a SUBSCRIBE waits for it.
const LAST_PATIENCE: Duration = Duration::from_secs(5);

/// A client's wish to catch up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resume {
    /// From where on.
    pub since: Since,
    /// If not all of it is there any more.
    pub on_gap: OnGap,
}

/// From where on a client wants messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// After this message.
    After(Cursor),
    /// From the first one that is there.
    First,
    /// From this time on; a few may be older.
    Time(SystemTime),
    /// From so long ago on; a few may be older.
    Ago(Duration),
    /// The last ones, so many.
    Last(u16),
    /// From this bookmark on, which the gateway has kept for it.
    Bookmark(Bookmark),
    /// Nothing of before.
    Next,
}

/// What is to be done if messages are not there any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnGap {
    /// The subscription is refused.
    #[default]
    Fail,
    /// It begins with what is there.
    Earliest,
    /// It begins with what comes.
    Next,
}

/// Why messages are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gap {
    /// They were kept for as long as the configuration says.
    Expired,
    /// The cursor's message is another one: the journal was deleted and made anew.
    Replaced,
    /// The cursor is beyond the end: as before.
    Ahead,
    /// The next message is larger than this node reads.
    TooLarge,
}

/// How many messages a client had missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missed {
    /// So many, and it has them.
    All(u64),
    /// They are still on their way.
    More,
}

/// What a client is told that catches up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resumed {
    /// Whether messages are missing; why.
    pub gap: Option<Gap>,
    /// How many messages it had missed.
    pub missed: Missed,
    /// If there are none: a message that it can come back after.
    pub newest: Option<Cursor>,
    /// Where its messages begin.
    pub begin: Bookmark,
}

/// Headers of a RECEIPT.
pub type Told = Box<[(&'static str, Box<str>)]>;

/// Why a client cannot catch up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResumeError {
    /// The broker's word.
    Broker(BrokerError),
    /// The exchange has no journal.
    NoJournal,
    /// The cursor is another journal's.
    Foreign,
    /// Messages are missing; and the first position that is there, if it is known.
    Gap(Gap, Option<u64>),
}

impl Resumed {
    /// The same as [`Resumed::told`], for a client of which no bookmark was known.
    #[must_use]
    pub fn told_first(&self) -> Told {
        let mut told = self.told();
        if let Some(("resume", outcome)) = told.first_mut() {
            *outcome = "first".into();
        }
        told
    }

    /// The headers of the RECEIPT that tell it.
    #[must_use]
    pub fn told(&self) -> Told {
        let missed: Box<str> = match self.missed {
            Missed::All(missed) => missed.to_string().into(),
            Missed::More => "more".into(),
        };
        let mut told = Vec::with_capacity(4);
        match self.gap {
            None => told.push(("resume", "exact".into())),
            Some(gap) => {
                told.extend([("resume", "gap".into()), ("reason", gap.to_string().into())]);
            }
        }
        told.push(("missed", missed));
        if let Some(newest) = self.newest {
            told.push((CURSOR_HEADER, newest.to_string().into()));
        }
        told.into()
    }
}

impl From<BrokerError> for ResumeError {
    fn from(error: BrokerError) -> Self {
        Self::Broker(error)
    }
}

impl Gap {
    /// As clients are told it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Replaced => "replaced",
            Self::Ahead => "ahead",
            Self::TooLarge => "too-large",
        }
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a client is told of a gap.
pub(super) fn gap_problem(gap: Gap, first: Option<u64>) -> Problem {
    Problem::ResumeGap {
        reason: gap.to_string().into(),
        first,
    }
}

impl From<ResumeError> for Problem {
    fn from(error: ResumeError) -> Self {
        match error {
            ResumeError::Broker(error) => error.into(),
            ResumeError::NoJournal => Self::NoJournal,
            ResumeError::Foreign => Self::ForeignCursor,
            ResumeError::Gap(gap, first) => gap_problem(gap, first),
        }
    }
}

impl Feed {
    /// The newest message in memory that the pattern hears; it is not looked for far back. Not any
    /// other, for a cursor has a print of its message, which is for nobody else.
    pub(in crate::hub) fn newest(&self, pattern: &str) -> Option<Cursor> {
        let journal = self.journal()?;
        let (_, next) = self.remembered();
        let (_, offsets) = self.matching_before(next, pattern)?;
        let table = self.table.lock();
        let stored = table.record.as_ref()?.ring.at(*offsets.last()?)?;
        if stored.is_left_out {
            return None;
        }
        Some(Cursor::new(journal.id, stored.offset, &stored.message))
    }

    /// Has a subscriber, which is held back, catch up. It goes on for as long as the handle is there.
    pub(in crate::hub) async fn resume(
        self: &Arc<Self>,
        pattern: &str,
        subscriber: &Subscriber,
        resume: &Resume,
    ) -> Result<(Resumed, AbortOnDropHandle<()>), ResumeError> {
        let Some(journal) = self.journal() else {
            return Err(ResumeError::NoJournal);
        };
        let located = self.locate(journal, pattern, &resume.since).await;
        let (position, gap) = match located {
            Ok(position) => (position, None),
            Err(ResumeError::Gap(gap, _)) if resume.on_gap == OnGap::Next => {
                (self.remembered().1, Some(gap))
            }
            Err(ResumeError::Gap(gap, first)) if resume.on_gap == OnGap::Earliest => {
                let first = match first {
                    Some(first) => first,
                    None => self.first_available().await?,
                };
                (first, Some(gap))
            }
            Err(error) => return Err(error),
        };
        let newest = self.newest(pattern);
        let begin = match resume.since {
            Since::After(cursor) if gap.is_none() => Bookmark::After(cursor),
            Since::Bookmark(bookmark) if gap.is_none() => bookmark,
            _ => self.bookmark_at(journal, position),
        };
        let (told, missed) = oneshot::channel();
        // Whoever asks for whatever is there gets it.
        let has_place = matches!(resume.since, Since::After(_) | Since::Bookmark(_));
        let is_strict = resume.on_gap == OnGap::Fail && has_place;
        let takes_any = Arc::new(AtomicBool::new(gap.is_some() || !has_place));
        let left_out = Arc::<AtomicBool>::default();
        let catching_up = Arc::clone(self).catch_up(
            Arc::clone(journal),
            pattern.into(),
            subscriber.clone(),
            (position, is_strict),
            (told, Arc::clone(&left_out), Arc::clone(&takes_any)),
        );
        let handle = AbortOnDropHandle::new(background::spawn(catching_up));
        let soon = match subscriber.mailbox.tracks(subscriber.subscription) {
            true => SOON_ACKNOWLEDGED,
            false => SOON,
        };
        let missed = match timeout(soon, missed).await {
            Ok(Ok(missed)) => Missed::All(missed),
            // If it has failed, the session ends.
            Ok(Err(_)) | Err(_) => Missed::More,
        };
        // From now on it has been told that nothing is missing.
        takes_any.store(false, Ordering::Relaxed);
        let is_left_out = || left_out.load(Ordering::Relaxed);
        let gap = gap.or_else(|| is_left_out().then_some(Gap::TooLarge));
        telemetry::resumed(gap.map(Gap::as_str));
        // With it, a client that heard of nothing has a cursor that is not so old.
        let newest = newest.filter(|_| missed == Missed::All(0));
        let resumed = Resumed {
            gap,
            missed,
            newest,
            begin,
        };
        Ok((resumed, handle))
    }

    async fn catch_up(
        self: Arc<Self>,
        journal: Arc<Journal>,
        pattern: Box<str>,
        subscriber: Subscriber,
        (mut position, is_strict): (u64, bool),
        (told, left_out, takes_any): (oneshot::Sender<u64>, Arc<AtomicBool>, Arc<AtomicBool>),
    ) {
        let (mut missed, mut is_recent) = (0, true);
        loop {
            let (done, outcome) = oneshot::channel();
            let joiner = Joiner {
                pattern: pattern.clone(),
                subscriber: subscriber.clone(),
                position,
                missed,
                done,
                is_stalled: false,
                is_strict,
                takes_any: Arc::clone(&takes_any),
                left_out: Arc::clone(&left_out),
                turn: Turn::Waits,
                number: 0,
            };
            self.join(&journal, joiner, is_recent);
            match outcome.await {
                Ok(Outcome::Level(missed)) => {
                    // Who subscribed may have been told already that there is more.
                    let _ = told.send(missed);
                    return;
                }
                Ok(Outcome::Left(so_far, given, why)) => {
                    (position, missed, is_recent) = (so_far, given, why.is_recent());
                    if why == Left::Full {
                        subscriber.mailbox.room(subscriber.subscription).await;
                    }
                }
                Ok(Outcome::LeftOut(offset)) => {
                    // What comes before has to be done with, or the client would meet it again.
                    let done = subscriber.mailbox.done(subscriber.subscription);
                    let _ = timeout(DONE, done).await;
                    let problem = gap_problem(Gap::TooLarge, offset.checked_add(1));
                    subscriber.mailbox.fail(problem);
                    return;
                }
                Ok(Outcome::Failed(problem)) => {
                    subscriber.mailbox.fail(problem);
                    return;
                }
                // The session is over.
                Err(_) => return,
            }
        }
    }

    /// The position from which on a client wants to be read for.
    pub(super) async fn locate(
        &self,
        journal: &Journal,
        pattern: &str,
        since: &Since,
    ) -> Result<u64, ResumeError> {
        match since {
            Since::After(cursor) => self.locate_cursor(journal, cursor).await,
            Since::First => {
                let _turn = journal.questions.acquire().await;
                Ok(self.first_available().await?)
            }
            Since::Time(time) => match SystemTime::now().duration_since(*time) {
                Ok(ago) => self.locate_time(journal, ago).await,
                // It is yet to come.
                Err(_) => Ok(self.remembered().1),
            },
            Since::Ago(ago) => self.locate_time(journal, *ago).await,
            Since::Last(count) => self.locate_last(journal, pattern, *count).await,
            Since::Bookmark(Bookmark::After(cursor)) => self.locate_cursor(journal, cursor).await,
            Since::Bookmark(Bookmark::At(of, position)) => {
                self.locate_position(journal, *of, *position).await
            }
            Since::Next => {
                if self.remembered().1 == 0 {
                    // Nothing was heard of the journal yet: its end is not its beginning.
                    self.host.reach_journal(&self.id).await?;
                }
                Ok(self.remembered().1)
            }
        }
    }

    /// A position as a bookmark: after the message before it, if that is in memory, for a message proves
    /// that the journal is still the same.
    fn bookmark_at(&self, journal: &Journal, position: u64) -> Bookmark {
        let table = self.table.lock();
        bookmark_at(table.record.as_deref(), journal.id, position)
    }

    /// All that was published so far was given to the subscriber, if it does not catch up.
    pub(in crate::hub) fn note_given(&self, subscriber: &Subscriber, acks: &Acks) {
        let Some(journal) = self.journal() else {
            return;
        };
        // With the table locked, so that nothing comes meanwhile.
        let table = self.table.lock();
        let record = table.record.as_deref();
        if let Some(record) = record.filter(|record| !record.holds_back(subscriber))
            && let Some(next) = record.ring.next()
        {
            acks.given_before(bookmark_at(Some(record), journal.id, next));
        }
    }

    /// There is no proof that it is still the same journal; but that it has the position.
    async fn locate_position(
        &self,
        journal: &Journal,
        of: JournalId,
        position: u64,
    ) -> Result<u64, ResumeError> {
        if of != journal.id {
            return Err(ResumeError::Foreign);
        }
        if position > self.remembered().1 {
            self.host.reach_journal(&self.id).await?;
            if position > self.remembered().1 {
                return Err(ResumeError::Gap(Gap::Ahead, None));
            }
        }
        if position >= self.remembered().0 {
            return Ok(position);
        }
        let _turn = journal.questions.acquire().await;
        match self.first_available().await? {
            first if first > position => Err(ResumeError::Gap(Gap::Expired, Some(first))),
            _ => Ok(position),
        }
    }

    async fn locate_cursor(&self, journal: &Journal, cursor: &Cursor) -> Result<u64, ResumeError> {
        if cursor.journal != journal.id {
            return Err(ResumeError::Foreign);
        }
        let after = cursor
            .offset
            .checked_add(1)
            .ok_or(ResumeError::Gap(Gap::Ahead, None))?;
        if after > self.remembered().1 {
            // Another node may have read it before this one.
            self.host.reach_journal(&self.id).await?;
            if after > self.remembered().1 {
                return Err(ResumeError::Gap(Gap::Ahead, None));
            }
        }
        if let Some(is_it) = self.is_in_memory(cursor) {
            return match is_it {
                true => Ok(after),
                false => Err(ResumeError::Gap(Gap::Replaced, None)),
            };
        }
        self.check_cursor(journal, cursor).await.map(|()| after)
    }

    /// Whether the cursor's message is the one in memory; `None`: that is older than memory.
    fn is_in_memory(&self, cursor: &Cursor) -> Option<bool> {
        let table = self.table.lock();
        let ring = &table.record.as_ref()?.ring;
        if cursor.offset < ring.first() {
            return None;
        }
        Some(
            ring.at(cursor.offset)
                .is_some_and(|stored| cursor.is_of(stored)),
        )
    }

    /// From so long ago on; a few may be older.
    async fn locate_time(&self, journal: &Journal, ago: Duration) -> Result<u64, ResumeError> {
        if let Some(position) = self.reached_before(ago) {
            if position >= self.remembered().0 {
                return Ok(position);
            }
            // The journal may have been kept for a shorter time than this node reads it.
            let _turn = journal.questions.acquire().await;
            return Ok(position.max(self.first_available().await?));
        }
        let _turn = journal.questions.acquire().await;
        // From then on there is something, so the broker begins at once.
        self.host.reach_journal(&self.id).await?;
        let time = SystemTime::now().checked_sub(ago.saturating_add(CLOCKS_APART));
        let since = time.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let since = since.unwrap_or_default();
        let ask = JournalAsk {
            start: JournalStart::Time(since.as_secs()),
            until: self.remembered().1.saturating_sub(1),
            most: 1,
        };
        Ok(self.host.read_journal(&self.id.exchange, ask).await?.first)
    }

    /// The position that this node had reached so long ago; `None`: it had not begun to read.
    fn reached_before(&self, ago: Duration) -> Option<u64> {
        let moment = Instant::now().checked_sub(ago)?;
        let table = self.table.lock();
        table.record.as_ref()?.marks.at(moment)
    }

    async fn locate_last(
        &self,
        journal: &Journal,
        pattern: &str,
        count: u16,
    ) -> Result<u64, ResumeError> {
        // A search goes far back: few at a time. What memory has waits for nobody who looks beyond.
        let turn = journal.near_searches.acquire().await;
        let mut left = usize::from(count);
        let (first, next) = self.remembered();
        let mut end = next;
        while end > first {
            let offsets = self.matching_before(end, pattern);
            let Some((earliest, offsets)) = offsets else {
                break;
            };
            if let Some(offset) = offsets.iter().rev().nth(left.saturating_sub(1)) {
                return Ok(*offset);
            }
            left = left.saturating_sub(offsets.len());
            end = earliest;
            tokio::task::yield_now().await;
        }
        drop(turn);
        let mut end = first.min(end);
        let searching = async {
            let _turn = journal.far_searches.acquire().await;
            let there = self.first_available().await?;
            let least = first.saturating_sub(LAST_REACH).max(there);
            while end > least {
                let start = end.saturating_sub(BLOCK).max(least);
                let offsets = self.matching_in(start, end, next, pattern).await?;
                if let Some(offset) = offsets.iter().rev().nth(left.saturating_sub(1)) {
                    end = *offset;
                    break;
                }
                left = left.saturating_sub(offsets.len());
                end = start;
            }
            Ok(())
        };
        match timeout(LAST_PATIENCE, searching).await {
            Ok(Err(error)) => Err(ResumeError::Broker(error)),
            // As far as it came.
            Ok(Ok(())) | Err(_) => Ok(end),
        }
    }

    /// Of some messages in memory before a position: the first one's offset, and the offsets of those
    /// that the pattern hears. `None`: there are none.
    fn matching_before(&self, end: u64, pattern: &str) -> Option<(u64, Vec<u64>)> {
        let messages = self.table.lock().record.as_ref()?.ring.before(end, SOME);
        let kind = self.kind();
        let matching = messages
            .iter()
            .filter(|stored| hears(kind, pattern, &stored.message));
        let offsets = matching.map(|stored| stored.offset).collect();
        Some((messages.first()?.offset, offsets))
    }

    /// The offsets from one position up to another of messages that the pattern hears.
    async fn matching_in(
        &self,
        start: u64,
        end: u64,
        next: u64,
        pattern: &str,
    ) -> Result<Vec<u64>, BrokerError> {
        let kind = self.kind();
        let mut position = start;
        let mut offsets = Vec::new();
        while position < end {
            let ask = JournalAsk {
                start: JournalStart::Offset(position),
                until: next.saturating_sub(1),
                most: usize::try_from(end.saturating_sub(position)).unwrap_or(usize::MAX),
            };
            let part = self.host.read_journal(&self.id.exchange, ask).await?;
            if part.next <= position {
                break;
            }
            position = part.next;
            let matching = part
                .messages
                .iter()
                .filter(|stored| stored.offset < end && hears(kind, pattern, &stored.message));
            offsets.extend(matching.map(|stored| stored.offset));
        }
        Ok(offsets)
    }
}

fn bookmark_at(record: Option<&Record>, journal: JournalId, position: u64) -> Bookmark {
    let last = record.and_then(|record| record.ring.before(position, 1).pop());
    match last.filter(|stored| !stored.is_left_out) {
        Some(stored) => Bookmark::After(Cursor::new(journal, stored.offset, &stored.message)),
        None => Bookmark::At(journal, position),
    }
}

/// Whether a subscription to the pattern gets the message.
pub(super) fn hears(kind: ExchangeKind, pattern: &str, message: &Message) -> bool {
    let mut keys = std::iter::once(&message.routing_key).chain(&message.cc);
    keys.any(|key| routing::matches(kind, pattern, key))
}
