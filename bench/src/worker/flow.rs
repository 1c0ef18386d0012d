//! Messages of one kind, to each user in turn or to everybody: when the next is due.

use anyhow::Result;

use super::{
    clock::{self, SECOND},
    fleet::{COMMON_KEY, user_key},
    ledger::Ledger,
    publisher::Publisher,
};
use crate::{orders::Pace, wire::body::EVERYBODY};

/// Messages from one publisher, and the books on them.
pub(super) struct Flow {
    pub(super) publisher: Publisher,
    pub(super) ledger: Ledger,
    pace: Pace,
    size: usize,
    /// When the next is due, at a fixed rate. Not whole: rounding would change the rate.
    due: f64,
}

impl Flow {
    /// Begins now.
    pub(super) fn new(publisher: Publisher, ledger: Ledger, pace: Pace, size: usize) -> Self {
        Self {
            publisher,
            ledger,
            pace,
            size,
            due: clock::now() as f64,
        }
    }

    /// Publishes what is due.
    ///
    /// # Errors
    /// The publisher's connection is lost.
    pub(super) fn publish(&mut self, now: u64) -> Result<()> {
        match self.pace {
            Pace::Closed(most) => {
                while self.ledger.on_their_way() < u64::from(most) {
                    self.publish_one(now, now);
                }
            }
            Pace::Open(per_second) => {
                while self.due <= now as f64 {
                    // The time at which it should have been sent: a client that is late, because
                    // the servers took its time, must not make them look faster.
                    self.publish_one(self.due as u64, now);
                    self.due += SECOND as f64 / per_second;
                }
            }
        }
        self.publisher.flush()
    }

    fn publish_one(&mut self, due: u64, now: u64) {
        let stamp = self.ledger.publish(due, now);
        match stamp.target {
            EVERYBODY => self.publisher.publish(COMMON_KEY, stamp, self.size),
            user => self.publisher.publish(&user_key(user), stamp, self.size),
        }
    }
}
