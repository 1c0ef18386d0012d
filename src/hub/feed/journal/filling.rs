//! After a node's start its memory is empty: the newest messages of before are read into it, so that
//! those who come back at once are served from there, each with a cursor of its own.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::time::timeout;

use super::ring::weight;
use crate::{
    background,
    broker::{BrokerError, JournalAsk, JournalStart},
    hub::feed::Feed,
};

/// Offsets that are read first; then twice as many each time, for each reading takes a while to begin.
const FIRST: u64 = 2_000;
const MOST: u64 = 16_000;
/// Messages of one part.
const PART: usize = 2_000;
/// How long it may take. Whoever asks for what is not there yet is served from the journal.
const PATIENCE: Duration = Duration::from_secs(10);

impl Feed {
    /// Reads into memory what is before the first message that is there, once after that was empty.
    pub(in crate::hub) fn fill(self: &Arc<Self>) {
        let is_due = {
            let mut table = self.table.lock();
            let record = table.record.as_mut();
            record.is_some_and(|record| record.begin_to_fill())
        };
        if is_due {
            let feed = Arc::clone(self);
            background::spawn(async move {
                // What was read by then stays. If the broker is away, those who come back are told.
                let _ = timeout(PATIENCE, feed.read_before()).await;
            });
        }
    }

    async fn read_before(&self) -> Result<(), BrokerError> {
        let mut wanted = FIRST;
        loop {
            let (before, _) = self.remembered();
            let asked = before.saturating_sub(wanted);
            let (mut position, mut start) = (asked, None);
            let room = self.room_in_memory();
            let (mut messages, mut bytes, mut is_full) = (VecDeque::new(), 0_usize, false);
            while position < before {
                let ask = JournalAsk {
                    start: JournalStart::Offset(position),
                    until: before.saturating_sub(1),
                    most: PART,
                };
                let part = self.host.read_journal(&self.id.exchange, ask).await?;
                // Holes of one are in a part. What comes behind more may be behind a gap.
                if start.is_none() || part.first > position.saturating_add(1) {
                    messages.clear();
                    bytes = 0;
                    start = Some(part.first);
                }
                if part.next <= position {
                    return Ok(());
                }
                position = part.next;
                for stored in part.messages {
                    bytes = bytes.saturating_add(weight(&stored));
                    messages.push_back(stored);
                }
                // Of large ones only the newest are kept, here already.
                while bytes > room {
                    let Some(gone) = messages.pop_front() else {
                        break;
                    };
                    bytes = bytes.saturating_sub(weight(&gone));
                    (start, is_full) = (Some(gone.offset.saturating_add(1)), true);
                }
            }
            messages.retain(|stored| stored.offset < before);
            let start = start.unwrap_or(before).min(before);
            let has_room = {
                let mut table = self.table.lock();
                let record = table.record.as_mut();
                record.is_some_and(|record| record.prepend(start, before, messages.into()))
            };
            // The journal has nothing before it, or a hole at most.
            if !has_room || is_full || asked == 0 || start > asked.saturating_add(1) {
                return Ok(());
            }
            wanted = wanted.saturating_mul(2).min(MOST);
        }
    }

    fn room_in_memory(&self) -> usize {
        let table = self.table.lock();
        let record = table.record.as_ref();
        record.map_or(0, |record| record.ring.room())
    }
}
