//! One feed's messages from its journal: what is done with each, on the connection's task.

use std::sync::{Arc, atomic::Ordering};

use amqp_wire::{
    Body, Delivery, Value,
    encode::{Fields, Short},
};
use hashbrown::DefaultHashBuilder;

use super::Side;
use crate::{
    broker::{
        FeedId, FeedSink, JournalId, OFFSET_HEADER, Stored,
        amqp::{
            feed::{Shared, sentinel::Sentinel, taker::interrupted},
            whole, wire,
        },
        journal::{STREAMS, stored},
    },
    telemetry::ReadAt,
};

/// The consumer's argument that says where it begins.
const OFFSET: &str = OFFSET_HEADER;
/// Offsets have holes of one. Where more are left out, messages may not have been kept.
pub(super) const HOLE: u64 = 2;

/// Hands over a journal's messages.
pub(in crate::broker::amqp::feed) struct Journaled {
    id: FeedId,
    journal: JournalId,
    sink: Arc<dyn FeedSink>,
    sentinel: Arc<Sentinel>,
    side: Arc<Side>,
    hasher: DefaultHashBuilder,
    /// The last offset, and the fingerprint of what stands there.
    last: Option<(u64, u64)>,
    /// The same of what came where offsets were left out.
    jump: Option<(u64, u64)>,
    /// It was judged: the next consumer begins there.
    is_judged: bool,
    /// The first message of a consumer shows whether the stream is still the same.
    is_checked: bool,
}

impl Journaled {
    pub(super) fn new(
        shared: &Shared,
        id: &FeedId,
        side: &Arc<Side>,
        sentinel: &Arc<Sentinel>,
    ) -> Self {
        Self {
            id: id.clone(),
            journal: JournalId::new(&shared.vhost, &id.exchange),
            sink: Arc::clone(&shared.sink),
            sentinel: Arc::clone(sentinel),
            side: Arc::clone(side),
            hasher: DefaultHashBuilder::default(),
            last: None,
            jump: None,
            is_judged: false,
            is_checked: false,
        }
    }

    /// The next messages come by another consumer.
    pub(super) fn reconnected(&mut self) {
        self.is_checked = false;
        if !self.is_judged {
            self.jump = None;
        }
    }

    /// Offsets were left out from this one on. Whether that is a gap has to be found out, and told,
    /// before anything that comes behind them is handed on.
    pub(super) fn jumped(&self) -> Option<u64> {
        let (last, _) = self.last.filter(|_| self.has_jumped())?;
        last.checked_add(1)
    }

    /// It was found out what the journal begins with, or the broker does not say: a gap is told, and the
    /// next consumer goes on behind it.
    pub(super) fn judge(&mut self, first: Option<u64>) {
        let Some(expected) = self.jumped() else {
            return;
        };
        if let Some(why) = gap(first, expected) {
            self.sink.restart(&self.id);
            interrupted(&*self.sink, &self.id, why);
        }
        self.is_judged = true;
    }

    /// It takes nothing more by this consumer.
    pub(in crate::broker::amqp::feed) fn has_jumped(&self) -> bool {
        self.jump.is_some() && !self.is_judged
    }

    /// What a consumer begins with: the last message, which has to come again, or what came behind a
    /// jump.
    fn begin(&self) -> Option<(u64, u64)> {
        self.jump.or(self.last)
    }

    /// The offset of that.
    pub(super) fn begins_at(&self) -> Option<u64> {
        self.begin().map(|(offset, _)| offset)
    }

    /// The first time it begins with the newest messages.
    pub(in crate::broker::amqp::feed) fn arguments(&self) -> Fields {
        let name = Short::cut(OFFSET);
        match self.begins_at() {
            Some(offset) => number(name, offset),
            None => Fields::default().text(name, "last"),
        }
    }

    pub(in crate::broker::amqp::feed) fn take(&mut self, delivery: Delivery<'_>, read_at: ReadAt) {
        if self.has_jumped() {
            return;
        }
        let Some(offset) = offset(&delivery) else {
            return interrupted(
                &*self.sink,
                &self.id,
                "a message of its journal has no offset",
            );
        };
        let print = wire::fingerprint(&self.hasher, &delivery);
        let is_first = !std::mem::replace(&mut self.is_checked, true);
        let begin = self.begin();
        // Behind a jump this is what came there, or there is another gap.
        self.jump = None;
        let was_judged = std::mem::take(&mut self.is_judged);
        if let Some((last, _)) = self.last {
            if is_first && begin != Some((offset, print)) {
                self.sink.restart(&self.id);
                let why = "its journal was deleted and made anew, or what this server had not read \
                           yet was not kept";
                interrupted(&*self.sink, &self.id, why);
            } else if offset <= last {
                return;
            } else if offset.saturating_sub(last) > HOLE && !was_judged {
                self.jump = Some((offset, print));
                self.side.jumped.notify_one();
                return;
            }
        }
        self.last = Some((offset, print));
        self.side.last.store(offset, Ordering::Relaxed);
        if is_marker(&delivery) {
            self.sink.pass(&self.id, offset);
            let name = delivery.properties().message_id;
            // After it was passed: whoever waits for it relies on that.
            if name.is_some_and(|name| *name == *self.side.name.as_str().as_bytes()) {
                self.side.begin();
                self.side.markers.note(&delivery);
            }
            return;
        }
        if self.sentinel.takes(&delivery) {
            return self.sink.pass(&self.id, offset);
        }
        if let Body::TooLarge(size) = delivery.body {
            // For those who are away and come back.
            let left_out = Stored {
                is_left_out: true,
                ..stored(wire::message(delivery), self.journal, offset)
            };
            self.sink.remember(&self.id, left_out);
            let reason = format!("a message of {size} bytes exceeds feed.max_length_bytes");
            return interrupted(&*self.sink, &self.id, &reason);
        }
        let mut message = wire::message(delivery);
        message.read_at = read_at;
        let stored = stored(message, self.journal, offset);
        match self.side.has_begun() {
            true => self.sink.store(&self.id, stored),
            // It was there before anybody subscribed.
            false => self.sink.remember(&self.id, stored),
        }
    }
}

/// Why messages are missing where that offset was expected; `None`: none are.
fn gap(first: Option<u64>, expected: u64) -> Option<&'static str> {
    match first {
        Some(first) if first <= expected => None,
        Some(_) => Some("this server was too far behind: what it had not read yet was not kept"),
        // Told rather than hidden.
        None => {
            Some("offsets were left out, and RabbitMQ does not say whether messages are missing")
        }
    }
}

/// Where a message stands in its stream.
pub(super) fn offset(delivery: &Delivery<'_>) -> Option<u64> {
    match delivery.properties().headers.get(OFFSET_HEADER.as_bytes()) {
        Some(Value::Signed(offset)) => u64::try_from(offset).ok(),
        Some(Value::Unsigned(offset)) => Some(offset),
        _ => None,
    }
}

/// Whether a message was published to a journal's stream itself, which only markers are.
pub(super) fn is_marker(delivery: &Delivery<'_>) -> bool {
    delivery.exchange.is_empty() && delivery.routing_key.starts_with(STREAMS.as_bytes())
}

/// Whether a message is the gateway's own, and for nobody.
pub(super) fn is_own(delivery: &Delivery<'_>) -> bool {
    is_marker(delivery) || whole::is_secret(delivery.routing_key)
}

/// The properties of a message that stands there in its stream.
#[cfg(test)]
pub(super) fn with_offset(offset: u64) -> Vec<u8> {
    let headers = [&b"\x0fx-stream-offsetl"[..], &offset.to_be_bytes()].concat();
    let length = u32::try_from(headers.len()).unwrap().to_be_bytes();
    [&[0x20, 0][..], &length, &headers].concat()
}

/// A message to `feed` with such properties, as it is delivered.
#[cfg(test)]
pub(super) fn delivered(raw_properties: &[u8], body: bytes::Bytes) -> Delivery<'_> {
    Delivery {
        tag: 1,
        redelivered: false,
        exchange: b"feed",
        routing_key: b"k",
        raw_properties,
        body: Body::Whole(body),
    }
}

pub(super) fn number(name: Short<'_>, offset: u64) -> Fields {
    Fields::default().number(name, i64::try_from(offset).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;
    use crate::broker::Message;

    /// What a sink was told, in short.
    #[derive(Default)]
    struct Told(Mutex<Vec<String>>);

    impl Told {
        fn note(&self, what: String) {
            self.0.lock().push(what);
        }

        fn take(&self) -> Vec<String> {
            std::mem::take(&mut *self.0.lock())
        }
    }

    impl FeedSink for Told {
        fn deliver(&self, _: &FeedId, _: Message) {
            self.note("delivered".to_owned());
        }

        fn store(&self, _: &FeedId, stored: Stored) {
            self.note(stored.offset.to_string());
        }

        fn restart(&self, _: &FeedId) {
            self.note("restart".to_owned());
        }

        fn patterns(&self, _: &FeedId) -> Vec<Arc<str>> {
            Vec::new()
        }

        fn interrupted(&self, _: &FeedId, _: &str) {
            self.note("interrupted".to_owned());
        }
    }

    /// A feed that has begun, and what its sink is told.
    fn scene() -> (Journaled, Arc<Told>) {
        let (told, side) = (Arc::<Told>::default(), Side::new("feed").unwrap());
        side.begin();
        let journaled = Journaled {
            id: FeedId {
                exchange: "feed".into(),
                shard: 0,
            },
            journal: JournalId::new("/", "feed"),
            sink: Arc::clone(&told) as _,
            sentinel: Arc::new(Sentinel::new().unwrap()),
            side: Arc::new(side),
            hasher: DefaultHashBuilder::default(),
            last: None,
            jump: None,
            is_judged: false,
            is_checked: false,
        };
        (journaled, told)
    }

    fn take(journaled: &mut Journaled, offsets: &[u64], body: &'static [u8]) {
        for offset in offsets {
            let properties = with_offset(*offset);
            let delivery = delivered(&properties, bytes::Bytes::from_static(body));
            journaled.take(delivery, ReadAt::at(std::time::Instant::now()));
        }
    }

    /// Or live clients would get it, with cursors, and come back after the gap without a word of it.
    #[test]
    fn nothing_behind_a_jump_is_handed_on_before_it_is_judged() {
        let (mut journaled, told) = scene();
        take(&mut journaled, &[5, 6, 8, 900, 901, 7], b"x");
        assert_eq!(told.take(), ["5", "6", "8"]);
        assert_eq!(journaled.jumped(), Some(9));
        // The link was lost before that: it comes again.
        journaled.reconnected();
        assert_eq!((journaled.jumped(), journaled.begins_at()), (None, Some(8)));
        take(&mut journaled, &[8, 900], b"x");
        assert_eq!(told.take(), [""; 0]);
        journaled.judge(Some(9));
        assert_eq!(told.take(), [""; 0], "they are holes");
        // However often a link is lost, too. A stream that ends before that is another one.
        for _ in 0..2 {
            journaled.reconnected();
            assert_eq!(
                (journaled.jumped(), journaled.begins_at()),
                (None, Some(900))
            );
        }
        take(&mut journaled, &[900, 901], b"x");
        assert_eq!(told.take(), ["900", "901"]);
        assert_eq!(
            (journaled.jumped(), journaled.begins_at()),
            (None, Some(901))
        );
    }

    /// Before anything that comes behind it.
    #[test]
    fn a_gap_is_told_where_the_journal_begins_later_or_nobody_knows() {
        for first in [Some(8), Some(10), Some(900), None] {
            let (mut journaled, told) = scene();
            take(&mut journaled, &[5, 6, 8, 900], b"x");
            told.take();
            journaled.judge(first);
            let gap: &[&str] = match first {
                Some(8) => &[],
                _ => &["restart", "interrupted"],
            };
            assert_eq!(told.take(), gap, "{first:?}");
            journaled.reconnected();
            take(&mut journaled, &[900, 901], b"x");
            assert_eq!(told.take(), ["900", "901"]);
            // There is nothing more to judge.
            journaled.judge(None);
            assert_eq!(told.take(), [""; 0]);
        }
    }

    #[test]
    fn what_is_missing_behind_a_jump_is_told() {
        for (offset, body) in [(901, b"x"), (900, b"y")] {
            let (mut journaled, told) = scene();
            take(&mut journaled, &[5, 6, 900], b"x");
            journaled.judge(Some(0));
            journaled.reconnected();
            told.take();
            take(&mut journaled, &[offset], body);
            let offset = offset.to_string();
            assert_eq!(told.take(), ["restart", "interrupted", offset.as_str()]);
        }
    }
}
