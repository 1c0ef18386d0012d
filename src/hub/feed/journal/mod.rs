//! Feeds whose messages a journal keeps: clients that were away catch up, and then get what comes,
//! without a gap between the two.
//!
//! Such a feed is read from the journal, live too, so that a position means the same to all nodes. A
//! client that catches up has a position: what comes before it, it has. It is read onwards for it
//! (and for all others who catch up at the time: [`pass`]), from memory ([`ring`]) or from the
//! journal. Meanwhile nothing new is kept for it. When it has reached the newest message, it becomes
//! an ordinary subscriber, with the feed's table locked: no message falls between.
//!
//! - [`ring`]: the newest messages, in memory
//! - [`marks`]: when which position was reached
//! - [`pass`]: one reading for many
//! - [`reading`]: who reads when
//! - [`resume`]: from a client's wish to a position, and what it is told
//! - [`checking`]: whether old cursors are still good
//! - [`history`]: messages without a subscription
//! - [`filling`]: memory, after a node's start

mod checking;
mod filling;
mod history;
mod marks;
mod pass;
mod reading;
mod resume;
mod ring;

use std::{collections::HashSet, sync::Arc};

use parking_lot::Mutex;
use tokio::{sync::Semaphore, time::Instant};

use self::{checking::Checks, marks::Marks, pass::Joiner, ring::Ring};
use super::{Feed, Subscriber};
use crate::broker::{JournalConfig, JournalId, Stored};

pub use self::history::{History, HistoryAsk, HistoryGiven};
pub use resume::{Gap, Missed, OnGap, Resume, ResumeError, Resumed, Since, Told};

/// What a feed has more whose messages a journal keeps.
pub(in crate::hub) struct Journal {
    id: JournalId,
    /// From memory.
    near: Mutex<Line>,
    /// From the journal.
    far: Mutex<Line>,
    replays: u16,
    /// Cursors that are older than memory.
    checks: Checks,
    /// For questions about single positions.
    questions: Semaphore,
    /// For those who look for the last messages of a key in memory.
    near_searches: Semaphore,
    /// And beyond.
    far_searches: Semaphore,
}

/// Those who wait for a reading.
#[derive(Default)]
struct Line {
    /// In the order in which they joined.
    waiting: Vec<Joiner>,
    /// How many have joined until now.
    joined: u64,
    /// How many readings there are.
    running: u16,
}

/// The part of it that the feed's table guards.
pub(in crate::hub) struct Record {
    ring: Ring,
    marks: Marks,
    /// Subscribers that catch up: nothing new is for them yet.
    resuming: HashSet<Subscriber>,
    /// What was before its first message was looked for.
    is_filled: bool,
}

/// Questions about single positions at a time.
const QUESTIONS: usize = 16;
/// And searches, which take longer.
const SEARCHES: usize = 2;

impl Journal {
    pub(in crate::hub) fn new(vhost: &str, exchange: &str, config: &JournalConfig) -> Self {
        Self {
            id: JournalId::new(vhost, exchange),
            near: Mutex::default(),
            far: Mutex::default(),
            replays: config.replays,
            checks: Checks::default(),
            questions: Semaphore::new(QUESTIONS),
            near_searches: Semaphore::new(SEARCHES),
            far_searches: Semaphore::new(SEARCHES),
        }
    }
}

impl Record {
    pub(in crate::hub) fn new(config: &JournalConfig) -> Self {
        Self {
            ring: Ring::new(config.memory),
            marks: Marks::default(),
            resuming: HashSet::new(),
            is_filled: false,
        }
    }

    /// Returns true, once, if what is before the first message is to be read.
    fn begin_to_fill(&mut self) -> bool {
        self.ring.has_room() && !std::mem::replace(&mut self.is_filled, true)
    }

    fn prepend(&mut self, start: u64, before: u64, messages: Vec<Stored>) -> bool {
        self.ring.prepend(start, before, messages)
    }

    pub(super) fn begin(&mut self, subscriber: Subscriber) {
        self.resuming.insert(subscriber);
    }

    pub(super) fn end(&mut self, subscriber: &Subscriber) {
        self.resuming.remove(subscriber);
        if self.resuming.is_empty() {
            self.resuming.shrink_to_fit();
        }
    }

    /// True if nothing new is for it yet.
    pub(super) fn holds_back(&self, subscriber: &Subscriber) -> bool {
        !self.resuming.is_empty() && self.resuming.contains(subscriber)
    }

    pub(super) fn push(&mut self, stored: Stored) {
        self.mark(stored.offset);
        self.ring.push(stored);
    }

    pub(super) fn pass(&mut self, offset: u64) {
        self.mark(offset);
        self.ring.pass(offset);
    }

    fn mark(&mut self, offset: u64) {
        self.marks.note(Instant::now(), offset.saturating_add(1));
    }

    /// Positions mean nothing any more.
    pub(super) fn clear(&mut self) {
        self.ring.clear();
        self.marks = Marks::default();
        self.is_filled = false;
    }

    /// As it is, without the readings.
    fn status(&self) -> JournalStatus {
        let (messages, bytes) = self.ring.size();
        JournalStatus {
            messages,
            bytes,
            first: self.ring.first(),
            next: self.ring.next(),
            resuming: self.resuming.len(),
            readings: 0,
        }
    }
}

/// How a journal is, on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalStatus {
    /// Messages in memory.
    pub messages: usize,
    /// Their bytes.
    pub bytes: usize,
    /// From this position on, all are.
    pub first: u64,
    /// The position of the next message; `None` before the first was read.
    pub next: Option<u64>,
    /// Subscriptions that catch up.
    pub resuming: usize,
    /// Readings from the broker that are under way for them.
    pub readings: u16,
}

impl Feed {
    /// How its journal is; `None`: it has none.
    pub(super) fn journal_status(&self, record: Option<&Record>) -> Option<JournalStatus> {
        let readings = self.journal()?.far.lock().running;
        Some(JournalStatus {
            readings,
            ..record?.status()
        })
    }

    /// What a feed of a journal has; `None`: it has none.
    fn journal(&self) -> Option<&Arc<Journal>> {
        self.journal.as_ref()
    }
}

#[cfg(test)]
mod tests;
