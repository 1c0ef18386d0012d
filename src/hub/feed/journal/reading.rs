//! Who reads when. From memory: one reading at a time, of all who wait. From the journal: as many as
//! the configuration allows; who comes meanwhile shares the next one. A reading takes its turn and
//! ends, so that those who need little do not wait for those who want all there is.

use std::{sync::Arc, time::Duration};

use futures_util::future::select_all;
use parking_lot::Mutex;
use stomp_session::Problem;
use tokio::time::{Instant, timeout_at};

use super::{
    Journal, Line,
    pass::{Joiner, Left, Pass, Turn},
    resume::{Gap, gap_problem},
    ring::Recent,
};
use crate::{
    background,
    broker::{BrokerError, JournalAsk, JournalPart, JournalStart, Stored},
    deadline::later,
    hub::feed::Feed,
    telemetry,
};

/// Messages that are taken from memory with the table locked.
const CHUNK: usize = 256;
/// The last ones are handed over with the table locked: so many, if they are for few, for that is
/// the time for which nothing new is delivered.
const LAST: usize = 64;
const LAST_OFFERS: usize = 4_096;
/// Offers after which others have their turn on the thread.
const OFFERS: usize = 2_000;
/// Messages of one part of the journal.
const PART: usize = 2_000;
/// Parts of one reading. A client that needs more waits for another turn, so that one that wants
/// everything keeps no others waiting.
const PARTS: usize = 10;
/// A turn at the broker ends with the part that takes it beyond this, so that others have theirs: where
/// RabbitMQ is slow, each part takes long.
pub(super) const LONG: Duration = Duration::from_secs(10);
/// Clients that are further on than this have another reading.
const WINDOW: u64 = 50_000;
/// A reading begins so far, at most, before the client that waits longest: so it comes to it, unless
/// messages are large. Then the next one begins with that client.
const BEFORE: u64 = (PART * PARTS / 2) as u64;
/// How long a reading waits, at each part, for clients that have to read first: if it has no others,
/// and if it has.
const PATIENCE: Duration = Duration::from_secs(5);
const PATIENCE_BESIDE_OTHERS: Duration = Duration::from_millis(100);

impl Feed {
    /// Reads on for a subscriber, from its position.
    pub(super) fn join(self: &Arc<Self>, journal: &Arc<Journal>, joiner: Joiner, is_recent: bool) {
        let (line, most) = match is_recent {
            true => (&journal.near, 1),
            false => (&journal.far, journal.replays),
        };
        let mut line = line.lock();
        line.add(joiner);
        if line.running >= most {
            return;
        }
        line.running = line.running.saturating_add(1);
        drop(line);
        let (feed, journal) = (Arc::clone(self), Arc::clone(journal));
        if is_recent {
            background::spawn(async move {
                let mut running = Running::new(&journal.near);
                while let Some(joiners) = running.next(u64::MAX) {
                    feed.read_recent(&journal, joiners).await;
                }
            });
        } else {
            background::spawn(async move {
                let mut running = Running::new(&journal.far);
                while let Some(joiners) = running.next(WINDOW) {
                    feed.read_journal(&journal, joiners).await;
                }
            });
        }
    }

    /// From memory.
    async fn read_recent(self: &Arc<Self>, journal: &Journal, joiners: Vec<Joiner>) {
        let mut pass = Pass::new(journal.id, self.kind(), joiners);
        while let Some(position) = pass.position() {
            match self.recent(position, CHUNK) {
                Recent::Older(first) => pass.dismiss_before(first),
                Recent::Ahead => {
                    let why = "the journal was deleted and made anew".into();
                    let problem = Problem::FeedInterrupted(why);
                    pass.fail_before(u64::MAX, &problem);
                }
                Recent::Messages(messages, next, is_end) => {
                    if is_end && self.finish(&mut pass, position) {
                        continue;
                    }
                    give(&mut pass, &messages).await;
                    pass.advance(next);
                    pass.dismiss_stalled();
                }
            }
            tokio::task::yield_now().await;
        }
    }

    pub(super) fn recent(&self, position: u64, most: usize) -> Recent {
        let table = self.table.lock();
        match &table.record {
            Some(record) => record.ring.from(position, most),
            None => Recent::Ahead,
        }
    }

    /// Hands the last messages over, and lets all who have them get what comes: with the table
    /// locked, so that nothing comes meanwhile. Does nothing, and returns false, if that would take
    /// long.
    fn finish(&self, pass: &mut Pass, position: u64) -> bool {
        let mut table = self.table.lock();
        let Some(record) = &mut table.record else {
            return false;
        };
        let Recent::Messages(messages, next, true) = record.ring.from(position, LAST) else {
            return false;
        };
        // A single one is for as many when it is new.
        let offers = messages.len().saturating_mul(pass.left());
        if offers > LAST_OFFERS && messages.len() > 1 {
            return false;
        }
        for stored in &messages {
            pass.give(stored);
        }
        pass.advance(next);
        pass.dismiss_stalled();
        pass.finish(|subscriber| record.end(subscriber));
        true
    }

    /// From the journal, up to what is in memory.
    async fn read_journal(self: &Arc<Self>, journal: &Journal, joiners: Vec<Joiner>) {
        telemetry::journal_read();
        let mut pass = Pass::new(journal.id, self.kind(), joiners);
        let begun = Instant::now();
        let are_others_waiting = || !journal.far.lock().waiting.is_empty();
        for turn in 0..PARTS {
            let Some(position) = pass.position() else {
                return;
            };
            let (first, next) = self.remembered();
            if position >= first {
                pass.dismiss_to_memory();
                return;
            }
            if begun.elapsed() >= LONG && (are_others_waiting() || pass.has_unreached()) {
                break;
            }
            let ask = JournalAsk {
                start: JournalStart::Offset(position),
                // It is there: it was read.
                until: next.saturating_sub(1),
                most: PART,
            };
            let part = match self.read_part(ask, position, turn > 0).await {
                Ok(part) => part,
                Err(problem) => {
                    pass.fail_before(u64::MAX, &problem);
                    return;
                }
            };
            if part.first > position {
                // Offsets may have holes; a gap is only what is not there any more.
                match self.first_available().await {
                    Ok(first) if first > position => {
                        pass.begin_with(first);
                        let problem = gap_problem(Gap::Expired, Some(first));
                        pass.fail_before(first, &problem);
                    }
                    Ok(_) => {}
                    Err(error) => {
                        pass.fail_before(u64::MAX, &error.into());
                        return;
                    }
                }
            }
            give_part(&mut pass, &part, are_others_waiting).await;
        }
        journal.far.lock().put_back(pass.unreached());
        pass.dismiss_before(u64::MAX);
    }

    async fn read_part(
        &self,
        ask: JournalAsk,
        position: u64,
        is_begun: bool,
    ) -> Result<JournalPart, Problem> {
        let part = self.host.read_journal(&self.id.exchange, ask).await?;
        telemetry::journal_part(part.messages.len());
        // It must go on, or it would never end.
        if part.next <= position && is_begun {
            return Err(BrokerError::Unavailable("it has nothing more to read".into()).into());
        }
        Ok(part)
    }

    /// The first offset of the journal that is still there.
    pub(super) async fn first_available(&self) -> Result<u64, BrokerError> {
        let (_, next) = self.remembered();
        let ask = JournalAsk {
            start: JournalStart::First,
            until: next.saturating_sub(1),
            most: 1,
        };
        Ok(self.host.read_journal(&self.id.exchange, ask).await?.first)
    }

    /// The positions from which on everything is in memory, and of what comes next.
    pub(super) fn remembered(&self) -> (u64, u64) {
        let table = self.table.lock();
        let ring = table.record.as_ref().map(|record| &record.ring);
        ring.map_or((0, 0), |ring| {
            (ring.first(), ring.next().unwrap_or_default())
        })
    }
}

/// Each takes what it needs of a part. The reading waits a while for clients that have to read first;
/// then they leave it.
async fn give_part(pass: &mut Pass, part: &JournalPart, are_others_waiting: impl Fn() -> bool) {
    let begun = Instant::now();
    loop {
        give(pass, &part.messages).await;
        pass.advance(part.next);
        let (stalled, are_all) = pass.stalled();
        if stalled.is_empty() {
            break;
        }
        let patience = match are_all && !are_others_waiting() {
            true => PATIENCE,
            false => PATIENCE_BESIDE_OTHERS,
        };
        let until = later(begun, patience);
        let rooms = stalled
            .iter()
            .map(|stalled| Box::pin(stalled.mailbox.room(stalled.subscription)));
        if timeout_at(until, select_all(rooms)).await.is_err() || Instant::now() >= until {
            break;
        }
        pass.unstall();
    }
    pass.dismiss_stalled();
}

async fn give(pass: &mut Pass, messages: &[Stored]) {
    let mut offers = 0_usize;
    for stored in messages {
        offers = offers.saturating_add(pass.give(stored));
        if offers >= OFFERS {
            offers = 0;
            tokio::task::yield_now().await;
        }
    }
}

/// A reading counts for as long as this lives, whatever ends it.
struct Running<'a> {
    line: &'a Mutex<Line>,
    is_over: bool,
}

impl<'a> Running<'a> {
    fn new(line: &'a Mutex<Line>) -> Self {
        Self {
            line,
            is_over: false,
        }
    }

    fn next(&mut self, window: u64) -> Option<Vec<Joiner>> {
        let joiners = self.line.lock().take(window);
        self.is_over = joiners.is_none();
        joiners
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            let mut line = self.line.lock();
            line.running = line.running.saturating_sub(1);
        }
    }
}

impl Line {
    /// One more waits, behind all others.
    fn add(&mut self, mut joiner: Joiner) {
        joiner.number = self.joined;
        self.joined = self.joined.saturating_add(1);
        self.waiting.push(joiner);
    }

    /// Whoever waits longest, and all who are near; if nobody waits, the reading is over. With
    /// [`u64::MAX`], all.
    fn take(&mut self, window: u64) -> Option<Vec<Joiner>> {
        let Some(first) = self.waiting.first() else {
            self.running = self.running.saturating_sub(1);
            return None;
        };
        let (first, is_overdue) = (first.position, first.turn == Turn::Overdue);
        if window == u64::MAX {
            return Some(std::mem::take(&mut self.waiting));
        }
        let least = match is_overdue {
            true => first,
            false => first.saturating_sub(BEFORE),
        };
        let positions = self.waiting.iter().map(|joiner| joiner.position);
        let start = positions.filter(|position| *position >= least).min();
        let start = start.unwrap_or(first);
        let range = start..start.saturating_add(window);
        let taken = self
            .waiting
            .extract_if(.., |joiner| range.contains(&joiner.position));
        Some(taken.collect())
    }

    /// Those to which a reading did not come keep their places: behind whoever has waited longer.
    fn put_back(&mut self, mut joiners: Vec<Joiner>) {
        for joiner in &mut joiners {
            joiner.turn = Turn::Overdue;
        }
        self.waiting.append(&mut joiners);
        self.waiting.sort_by_key(|joiner| joiner.number);
    }
}

impl Left {
    pub(super) fn is_recent(self) -> bool {
        self != Self::Older
    }
}

#[cfg(test)]
mod tests {
    use stomp_session::SubscriptionId;
    use tokio::sync::oneshot;

    use super::*;
    use crate::hub::{Mailbox, MailboxConfig, feed::Subscriber};

    fn joiner(position: u64) -> Joiner {
        let (done, _) = oneshot::channel();
        Joiner {
            pattern: "#".into(),
            subscriber: Subscriber {
                mailbox: Mailbox::new(MailboxConfig::default()),
                subscription: SubscriptionId(1),
            },
            position,
            missed: 0,
            done,
            is_stalled: false,
            is_strict: false,
            takes_any: Arc::default(),
            left_out: Arc::default(),
            turn: Turn::Waits,
            number: 0,
        }
    }

    fn positions(joiners: &[Joiner]) -> Vec<u64> {
        joiners.iter().map(|joiner| joiner.position).collect()
    }

    /// Nobody goes before one that has waited longer, but the first time for those near the first.
    #[test]
    fn those_put_back_are_behind_whoever_has_waited_longer() {
        let mut line = Line::default();
        for position in [14_000, 100, 17_000, 19_000, 20_500] {
            line.add(joiner(position));
        }
        let mut taken = line.take(WINDOW).unwrap();
        assert_eq!(positions(&taken), [14_000, 17_000, 19_000, 20_500]);
        line.add(joiner(16_000));
        // The reading came to the first one alone.
        line.put_back(taken.split_off(1));
        let waiting = [100, 17_000, 19_000, 20_500, 16_000];
        assert_eq!(positions(&line.waiting), waiting);
        // Far from all others, it is read alone; then they are.
        assert_eq!(positions(&line.take(10_000).unwrap()), [100]);
        let taken = line.take(WINDOW).unwrap();
        assert_eq!(positions(&taken), [17_000, 19_000, 20_500]);
    }
}
