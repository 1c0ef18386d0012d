//! After a node's start its memory is empty: the newest messages of before are read into it, so that
//! those who come back at once are served from there, each with a cursor of its own.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;

use crate::{
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
            tokio::spawn(async move {
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
            let mut messages = Vec::new();
            while position < before {
                let ask = JournalAsk {
                    start: JournalStart::Offset(position),
                    until: before.saturating_sub(1),
                    most: PART,
                };
                let part = self.host.read_journal(&self.id.exchange, ask).await?;
                start.get_or_insert(part.first);
                if part.next <= position {
                    return Ok(());
                }
                position = part.next;
                messages.extend(part.messages);
            }
            messages.retain(|stored| stored.offset < before);
            let start = start.unwrap_or(before).min(before);
            let has_room = {
                let mut table = self.table.lock();
                let record = table.record.as_mut();
                record.is_some_and(|record| record.prepend(start, before, messages))
            };
            // The journal has nothing before it, or a hole at most.
            if !has_room || asked == 0 || start > asked.saturating_add(1) {
                return Ok(());
            }
            wanted = wanted.saturating_mul(2).min(MOST);
        }
    }
}
