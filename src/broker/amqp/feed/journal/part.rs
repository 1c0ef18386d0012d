//! A part of a journal's past: a consumer of its own reads it, and ends.

use std::time::Duration;

use amqp_wire::{
    Body, Delivery,
    encode::{Fields, Short},
};
use tokio::{
    sync::oneshot,
    time::{timeout, timeout_at},
};

use super::{
    Side, gone,
    taker::{HOLE, is_marker, is_own, number, offset},
};
use crate::{
    broker::{
        BrokerError, JournalAsk, JournalId, JournalPart, JournalStart, OFFSET_HEADER, Stored,
        amqp::{feed::Shared, link::late, reader::DeliveryTaker, wire},
        journal::{stored, stream_of},
    },
    deadline::after,
    telemetry::ReadAt,
};

/// A part ends when it has so many bytes.
const PART_BYTES: usize = 4 << 20;
/// And when it has so many offsets.
const PART_OFFSETS: usize = 2_000;
/// Messages on their way, at most. They come whole, also those behind the part's end, and all parts of
/// a virtual host share one connection: so few. A quarter of them is acknowledged at a time, so the next
/// ones are on their way before these have come.
const PREFETCH: u16 = 64;
/// How long the consumer of a part that is late may take to end: its connection may be dead.
const ENDING: Duration = Duration::from_secs(1);

/// Gathers a part.
pub(in crate::broker::amqp::feed) struct PartTaker {
    ask: JournalAsk,
    /// Nothing but this marker is wanted, from the end on.
    marker: Option<Marker>,
    journal: JournalId,
    part: JournalPart,
    seen: usize,
    bytes: usize,
    /// Told when all is here.
    done: Option<oneshot::Sender<()>>,
}

/// A marker that is waited for.
struct Marker {
    name: Box<[u8]>,
    number: [u8; 8],
}

/// Reads a part of the journal.
pub(super) async fn read(
    shared: &Shared,
    exchange: &str,
    ask: JournalAsk,
) -> Result<JournalPart, BrokerError> {
    let nothing = || std::future::ready(Ok(()));
    gather(shared, exchange, ask, None, nothing).await
}

/// The offset of a marker that is published meanwhile: everything from then on has a larger one.
pub(super) async fn end(shared: &Shared, exchange: &str, side: &Side) -> Result<u64, BrokerError> {
    let ask = JournalAsk {
        start: JournalStart::First,
        until: u64::MAX,
        most: PART_OFFSETS,
    };
    let number = side.markers.next();
    let marker = Marker {
        name: side.name.as_str().as_bytes().into(),
        number: number.to_be_bytes(),
    };
    let deadline = after(shared.operation_timeout);
    let publish = || async {
        match side.publish(shared, number, deadline).await? {
            true => Ok(()),
            false => Err(gone()),
        }
    };
    let part = gather(shared, exchange, ask, Some(marker), publish).await?;
    Ok(part.first)
}

/// `begun` is called when messages may come. A part that is late is what has come of it.
async fn gather<F: Future<Output = Result<(), BrokerError>>>(
    shared: &Shared,
    exchange: &str,
    ask: JournalAsk,
    marker: Option<Marker>,
    begun: impl FnOnce() -> F,
) -> Result<JournalPart, BrokerError> {
    let (done, gathered) = oneshot::channel();
    let journal = JournalId::new(&shared.vhost, exchange);
    let taker = PartTaker::new(journal, ask, marker, done);
    let deadline = after(shared.operation_timeout);
    let prefetch = taker.prefetch();
    let stream = stream_of(exchange);
    let reader = shared.parts();
    let consumer = reader.consume(&stream, prefetch, taker, deadline).await;
    let mut consumer = consumer.map_err(|ended| ended.reason)?;
    begun().await?;
    let is_late = tokio::select! {
        outcome = timeout_at(deadline, gathered) => outcome.is_err(),
        ended = consumer.ended() => return Err(ended.reason),
    };
    if is_late {
        let taker = timeout(ENDING, consumer.cancel()).await.ok().flatten();
        let part = taker.and_then(PartTaker::so_far);
        return part.ok_or_else(|| BrokerError::Unavailable(late()));
    }
    let taker = consumer.cancel().await;
    let lost = || BrokerError::Unavailable("the connection was lost".into());
    Ok(taker.ok_or_else(lost)?.part)
}

impl DeliveryTaker for PartTaker {
    /// When it was read says nothing of its delay.
    fn take(&mut self, delivery: Delivery<'_>, _: ReadAt) {
        let (Some(offset), true) = (offset(&delivery), self.done.is_some()) else {
            return;
        };
        if let Some(marker) = &self.marker {
            let name = delivery.properties().message_id;
            let is_it = is_marker(&delivery)
                && name.is_some_and(|name| *name == *marker.name)
                && matches!(&delivery.body, Body::Whole(body) if **body == marker.number);
            if is_it {
                self.part.first = offset;
                self.finish();
            }
            return;
        }
        if matches!(self.ask.start, JournalStart::Offset(start) if offset < start) {
            return;
        }
        let part = &mut self.part;
        if part.next == 0 {
            part.first = offset;
        } else if offset.saturating_sub(part.next) >= HOLE {
            // The next part begins there, and its reader finds out whether that is a gap.
            return self.finish();
        }
        part.next = offset.saturating_add(1);
        if !is_own(&delivery) {
            // Whoever wants one that is too large is told.
            let is_left_out = matches!(delivery.body, Body::TooLarge(_));
            let stored = Stored {
                is_left_out,
                ..stored(wire::message(delivery), self.journal, offset)
            };
            self.bytes = self.bytes.saturating_add(stored.message.weight());
            part.messages.push(stored);
        }
        // Markers count, too: a quiet journal has little else.
        self.seen = self.seen.saturating_add(1);
        let is_enough = self.seen >= self.ask.most.min(PART_OFFSETS) || self.bytes >= PART_BYTES;
        if is_enough || offset >= self.ask.until || self.looks_only() {
            self.finish();
        }
    }

    fn acknowledged(&mut self) {}

    fn is_done(&self) -> bool {
        self.done.is_none()
    }

    /// All who like may read a stream.
    fn is_exclusive(&self) -> bool {
        false
    }

    fn arguments(&self) -> Fields {
        let name = Short::cut(OFFSET_HEADER);
        match self.ask.start {
            _ if self.marker.is_some() => Fields::default().text(name, "next"),
            JournalStart::First => Fields::default().text(name, "first"),
            JournalStart::Offset(offset) => number(name, offset),
            JournalStart::Time(seconds) => Fields::default().timestamp(name, seconds),
        }
    }
}

impl PartTaker {
    fn new(
        journal: JournalId,
        ask: JournalAsk,
        marker: Option<Marker>,
        done: oneshot::Sender<()>,
    ) -> Self {
        Self {
            ask,
            marker,
            journal,
            part: JournalPart::default(),
            seen: 0,
            bytes: 0,
            done: Some(done),
        }
    }

    fn prefetch(&self) -> u16 {
        let most = u16::try_from(self.ask.most).unwrap_or(u16::MAX);
        most.clamp(1, PREFETCH)
    }

    fn finish(&mut self) {
        if let Some(done) = self.done.take() {
            // If nobody waits any more, the order to end it is on its way.
            let _ = done.send(());
        }
    }

    /// What has come, if anything has: a part may end anywhere. A marker is none.
    fn so_far(self) -> Option<JournalPart> {
        (self.marker.is_none() && self.part.next > 0).then_some(self.part)
    }

    /// One offset is all that is wanted, be it of a message or not.
    fn looks_only(&self) -> bool {
        self.ask.most == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::amqp::feed::journal::taker::{delivered, with_offset};

    /// A taker that is asked for so many, and what is told when it has enough.
    fn taker(most: usize) -> (PartTaker, oneshot::Receiver<()>) {
        let ask = JournalAsk {
            start: JournalStart::First,
            until: u64::MAX,
            most,
        };
        let (done, gathered) = oneshot::channel();
        let taker = PartTaker::new(JournalId::new("/", "feed"), ask, None, done);
        (taker, gathered)
    }

    /// One with that offset and so many bytes comes.
    fn take(taker: &mut PartTaker, offset: u64, bytes: usize) {
        let properties = with_offset(offset);
        let delivery = delivered(&properties, vec![b'x'; bytes].into());
        taker.take(delivery, ReadAt::at(std::time::Instant::now()));
    }

    /// What was not kept is before a part, never in it.
    #[test]
    fn a_part_ends_where_offsets_are_left_out() {
        let (mut taker, mut gathered) = taker(1_000);
        for offset in [3, 5, 6, 900, 901] {
            take(&mut taker, offset, 1);
        }
        assert_eq!(gathered.try_recv(), Ok(()));
        assert_eq!((taker.part.first, taker.part.next), (3, 7));
        assert_eq!(taker.part.messages.len(), 3);
    }

    /// Or nobody could catch up where RabbitMQ is so slow that no part is whole in time.
    #[test]
    fn what_has_come_of_a_part_that_is_late_is_a_part() {
        let (part, _gathered) = taker(1_000);
        assert!(part.so_far().is_none(), "nothing has come");
        let (mut part, mut gathered) = taker(1_000);
        for offset in [3, 5] {
            take(&mut part, offset, 1);
        }
        assert!(gathered.try_recv().is_err(), "it is not whole");
        let part = part.so_far().unwrap();
        assert_eq!((part.first, part.next, part.messages.len()), (3, 6, 2));
        let (mut part, _gathered) = taker(1_000);
        part.marker = Some(Marker {
            name: Box::default(),
            number: [0; 8],
        });
        take(&mut part, 3, 1);
        assert!(part.so_far().is_none(), "the marker has not come");
    }

    /// Whatever was asked for, what is on its way behind the end is little.
    #[test]
    fn few_are_on_their_way_and_none_is_asked_for_behind_the_end() {
        for (most, prefetch) in [(0, 1), (1, 1), (20, 20), (1_000, 64), (usize::MAX, 64)] {
            assert_eq!(taker(most).0.prefetch(), prefetch, "{most}");
        }
        let (mut taker, mut gathered) = taker(1_000);
        for offset in 0..4 {
            assert!(!taker.is_done() && gathered.try_recv().is_err());
            take(&mut taker, offset, 1 << 20);
        }
        assert!(taker.is_done());
        assert_eq!(gathered.try_recv(), Ok(()));
        take(&mut taker, 4, 1 << 20);
        assert_eq!((taker.part.first, taker.part.next), (0, 4));
    }
}
