//! Messages of one kind, to each user in turn or to everybody: when the next is due.

use anyhow::{Error, Result};
use mio::event::Event;

use super::{
    clock::{self, SECOND},
    ledger::Ledger,
    publisher::Publisher,
};
use crate::{
    orders::Pace,
    wire::{
        body::EVERYBODY,
        dialect::{COMMON_KEY, user_key},
    },
};

/// Publishers of a flow.
pub(super) const MAX_PUBLISHERS: usize = 100;

/// Messages from one publisher or several, and the books on them.
pub(super) struct Flow {
    /// `None` for those that are lost.
    publishers: Vec<Option<Publisher>>,
    /// Why the first was lost.
    first_lost: Option<String>,
    pub(super) ledger: Ledger,
    pace: Pace,
    size: usize,
    /// When the next is due, at a fixed rate. Not whole: rounding would change the rate.
    due: f64,
    /// Messages that are left to publish; `None` without an end.
    left: Option<u64>,
}

impl Flow {
    /// Begins now, and ends after so many messages.
    pub(super) fn new(
        publishers: Vec<Publisher>,
        ledger: Ledger,
        pace: Pace,
        size: usize,
        left: Option<u64>,
    ) -> Self {
        Self {
            publishers: publishers.into_iter().map(Some).collect(),
            first_lost: None,
            ledger,
            pace,
            size,
            due: clock::now() as f64,
            left,
        }
    }

    /// Publishes what is due.
    ///
    /// # Errors
    /// The only publisher's connection is lost.
    pub(super) fn publish(&mut self, now: u64) -> Result<()> {
        match self.pace {
            Pace::Closed(most) => {
                while self.ledger.on_their_way() < u64::from(most) && self.is_there() {
                    self.publish_one(now, now);
                }
            }
            Pace::Open(per_second) => {
                while self.due <= now as f64 && self.is_there() {
                    // The time at which it should have been sent: a client that is late, because
                    // the servers took its time, must not make them look faster.
                    self.publish_one(self.due as u64, now);
                    self.due += SECOND as f64 / per_second;
                }
            }
        }
        for number in 0..self.publishers.len() {
            self.with(number, Publisher::flush)?;
        }
        Ok(())
    }

    /// A publisher's socket is ready.
    ///
    /// # Errors
    /// It is the only one, and its connection is lost.
    pub(super) fn publisher_event(&mut self, number: usize, event: &Event) -> Result<()> {
        self.with(number, |publisher| {
            if event.is_readable() || event.is_read_closed() {
                publisher.read()?;
            }
            publisher.flush()
        })
    }

    /// The number of publishers that were lost, and the reason of the first; `None` without a loss.
    pub(super) fn lost(&self) -> Option<String> {
        let lost = self.publishers.iter().filter(|its| its.is_none()).count();
        let why = self.first_lost.as_ref()?;
        let all = self.publishers.len();
        Some(format!("{lost} of {all} publishers were cut off: {why}"))
    }

    /// True if all messages that were wished are published.
    pub(super) fn is_done(&self) -> bool {
        self.left == Some(0)
    }

    fn is_there(&self) -> bool {
        !self.is_done() && self.publishers.iter().any(Option::is_some)
    }

    fn with(
        &mut self,
        number: usize,
        act: impl FnOnce(&mut Publisher) -> Result<()>,
    ) -> Result<()> {
        let publisher = self.publishers.get_mut(number).and_then(Option::as_mut);
        match publisher.map_or(Ok(()), act) {
            Err(error) => self.lose(number, error),
            Ok(()) => Ok(()),
        }
    }

    fn lose(&mut self, number: usize, error: Error) -> Result<()> {
        if self.publishers.len() == 1 {
            return Err(error);
        }
        if let Some(publisher) = self.publishers.get_mut(number) {
            *publisher = None;
        }
        self.first_lost.get_or_insert_with(|| format!("{error:#}"));
        Ok(())
    }

    fn publish_one(&mut self, due: u64, now: u64) {
        let stamp = self.ledger.publish(due, now);
        self.left = self.left.map(|left| left.saturating_sub(1));
        // A user's messages are one publisher's, so that they have an order; those of one that is
        // lost are the next one's.
        let first = match stamp.target {
            EVERYBODY => 0,
            user => user as usize % self.publishers.len(),
        };
        let (before, from) = self.publishers.split_at_mut(first);
        let mut turns = from.iter_mut().chain(before).flatten();
        if let Some(publisher) = turns.next() {
            match stamp.target {
                EVERYBODY => publisher.publish(COMMON_KEY, stamp, self.size),
                user => publisher.publish(&user_key(user), stamp, self.size),
            }
        }
    }
}
