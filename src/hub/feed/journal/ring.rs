//! The newest messages of a journal, in memory (pure): each is kept once, for all who come back.

use std::collections::VecDeque;

use crate::broker::Stored;

/// Bounded in bytes: the oldest goes when a new one needs its room.
#[derive(Debug)]
pub(super) struct Ring {
    messages: VecDeque<Stored>,
    bytes: usize,
    max_bytes: usize,
    /// From this offset on, every message is here.
    first: u64,
    /// The offset that comes next; `None`: nothing was heard of the journal yet.
    next: Option<u64>,
}

/// What a [`Ring`] has from a position on.
#[derive(Debug)]
pub(super) enum Recent {
    /// These messages; the position after them; and whether that is the end.
    Messages(Vec<Stored>, u64, bool),
    /// Only what begins with this offset: what comes before has to be read from the journal.
    Older(u64),
    /// The position is beyond the end.
    Ahead,
}

impl Ring {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self {
            messages: VecDeque::new(),
            bytes: 0,
            max_bytes,
            first: 0,
            next: None,
        }
    }

    /// The next message of the journal.
    pub(super) fn push(&mut self, stored: Stored) {
        self.pass(stored.offset);
        self.bytes = self.bytes.saturating_add(weight(&stored));
        self.messages.push_back(stored);
        while self.bytes > self.max_bytes {
            let Some(gone) = self.messages.pop_front() else {
                break;
            };
            self.bytes = self.bytes.saturating_sub(weight(&gone));
            self.first = gone.offset.saturating_add(1);
        }
    }

    /// Messages of the journal from `start` on, up to the first one that is here, which is still the one
    /// at `before`. Returns true if all of them found room, and there may be some for more.
    pub(super) fn prepend(&mut self, start: u64, before: u64, messages: Vec<Stored>) -> bool {
        if self.next.is_none() || self.first != before {
            return false;
        }
        for stored in messages.into_iter().rev() {
            let bytes = self.bytes.saturating_add(weight(&stored));
            if bytes > self.max_bytes {
                self.first = stored.offset.saturating_add(1);
                return false;
            }
            self.bytes = bytes;
            self.messages.push_front(stored);
        }
        self.first = start;
        true
    }

    /// There is no message for anybody at this offset, and what comes has larger ones.
    pub(super) fn pass(&mut self, offset: u64) {
        if self.next.is_none() {
            self.first = offset;
        }
        self.next = Some(offset.saturating_add(1));
    }

    /// The journal begins anew.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.max_bytes);
    }

    /// The offset that comes next.
    pub(super) fn next(&self) -> Option<u64> {
        self.next
    }

    /// From this offset on, every message is here.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// Whether there is room for many more, before the first one.
    pub(super) fn has_room(&self) -> bool {
        self.next.is_some() && self.bytes <= self.max_bytes / 2
    }

    /// Bytes that find room.
    pub(super) fn room(&self) -> usize {
        self.max_bytes.saturating_sub(self.bytes)
    }

    /// How many messages there are, and their bytes.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.messages.len(), self.bytes)
    }

    /// The message at that offset.
    pub(super) fn at(&self, offset: u64) -> Option<&Stored> {
        let index = self.index(offset);
        self.messages
            .get(index)
            .filter(|stored| stored.offset == offset)
    }

    /// Up to so many messages from that position on.
    pub(super) fn from(&self, position: u64, most: usize) -> Recent {
        let next = self.next.unwrap_or_default();
        if position > next {
            return Recent::Ahead;
        }
        if position < self.first {
            return Recent::Older(self.first);
        }
        let start = self.index(position);
        let end = start.saturating_add(most).min(self.messages.len());
        let messages: Vec<_> = self.messages.range(start..end).cloned().collect();
        let is_end = end == self.messages.len();
        let after = match messages.last() {
            Some(last) if !is_end => last.offset.saturating_add(1),
            _ => next,
        };
        Recent::Messages(messages, after, is_end)
    }

    /// Up to so many messages before that position.
    pub(super) fn before(&self, end: u64, most: usize) -> Vec<Stored> {
        let end = self.index(end);
        let start = end.saturating_sub(most);
        self.messages.range(start..end).cloned().collect()
    }

    /// The place of the first message with at least that offset.
    fn index(&self, offset: u64) -> usize {
        self.messages
            .partition_point(|stored| stored.offset < offset)
    }
}

/// The bytes that a message takes, with the copies that its first deliveries make: they are counted from
/// the beginning, for nobody tells when that is.
pub(super) fn weight(stored: &Stored) -> usize {
    let message = &stored.message;
    let with_tail = message.weight().saturating_add(message.tail_weight());
    with_tail.saturating_add(size_of::<Stored>())
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, sync::Arc};

    use proptest::prelude::*;
    use stomp_grammar::Version;

    use super::*;
    use crate::broker::{Message, Properties};

    fn stored(offset: u64) -> Stored {
        let none = Properties::default();
        let message = Message::new("e".into(), "k".into(), none, "x".into());
        Stored {
            offset,
            message: Arc::new(message),
            is_left_out: false,
        }
    }

    #[test]
    fn a_new_one_knows_nothing() {
        let ring = Ring::new(1000);
        assert_eq!(ring.next(), None);
        assert!(matches!(ring.from(1, 9), Recent::Ahead));
    }

    #[test]
    fn a_position_at_the_end_finds_nothing_more() {
        let mut ring = Ring::new(1 << 20);
        ring.pass(4);
        ring.push(stored(5));
        ring.pass(8);
        let Recent::Messages(messages, 9, true) = ring.from(6, 9) else {
            panic!()
        };
        assert!(messages.is_empty());
        assert!(matches!(ring.from(3, 9), Recent::Older(4)));
        assert!(matches!(ring.from(10, 9), Recent::Ahead));
        assert!(ring.at(5).is_some() && ring.at(8).is_none());
    }

    /// What its first receiver was written is kept for the others: in as many forms as the versions
    /// that they speak have of it.
    #[test]
    fn what_is_encoded_has_room_too() {
        let max = 64 << 10;
        for (value, forms) in [("b", 1), ("b:c", 2), ("b\rc", 3)] {
            let mut ring = Ring::new(max);
            for offset in 0..200 {
                let properties = Properties {
                    headers: vec![("a".into(), value.into())],
                    ..Properties::default()
                };
                let body = vec![b'x'; 1_000].into();
                let message = Message::new("e".into(), "k".into(), properties, body);
                ring.push(Stored {
                    offset,
                    message: Arc::new(message),
                    is_left_out: false,
                });
            }
            let Recent::Messages(messages, _, true) = ring.from(ring.first(), 200) else {
                panic!()
            };
            let bytes = messages.iter().map(|stored| {
                let tails = Version::ALL.map(|version| stored.message.tail(version, "amq.topic"));
                let tails: HashSet<_> = tails.map(|tail| tail.bytes.as_ptr()).into();
                assert_eq!(tails.len(), forms, "{value:?}");
                let tail = stored.message.tail(Version::V1_0, "amq.topic");
                stored.message.body.len() + forms * tail.bytes.len()
            });
            let bytes: usize = bytes.sum();
            assert!(bytes <= max && bytes > max / 2, "{value:?}: {bytes}");
        }
    }

    #[test]
    fn what_was_before_is_put_before() {
        let mut ring = Ring::new(weight(&stored(0)) * 4);
        assert!(!ring.prepend(0, 0, vec![stored(0)]), "nothing is known yet");
        ring.push(stored(9));
        assert!(ring.prepend(6, 9, vec![stored(6), stored(8)]));
        assert!(!ring.prepend(3, 9, vec![stored(3)]), "it went on meanwhile");
        assert_eq!(ring.first(), 6);
        // Only the newest of them find room.
        assert!(!ring.prepend(2, 6, vec![stored(2), stored(3), stored(4)]));
        assert_eq!((ring.first(), ring.size().0), (4, 4));
        let Recent::Messages(messages, 10, true) = ring.from(4, 9) else {
            panic!()
        };
        let offsets: Vec<_> = messages.iter().map(|stored| stored.offset).collect();
        assert_eq!(offsets, [4, 6, 8, 9]);
    }

    proptest! {
        /// Whatever its bound, and in whatever portions it is read: from a position that it has it
        /// gives each message once, in order, and leaves none out.
        #[test]
        fn it_gives_every_message_once(
            steps in prop::collection::vec((1..3_u64, any::<bool>()), 1..60),
            room in 1..20_usize,
            most in 1..9_usize,
            from in 0..100_u64,
        ) {
            let mut ring = Ring::new(weight(&stored(0)) * room);
            let (mut offset, mut all) = (0, Vec::new());
            for (step, is_message) in steps {
                offset += step;
                if is_message {
                    ring.push(stored(offset));
                    all.push(offset);
                } else {
                    ring.pass(offset);
                }
            }
            let mut position = from;
            let mut got = Vec::new();
            loop {
                match ring.from(position, most) {
                    Recent::Messages(messages, next, is_end) => {
                        got.extend(messages.iter().map(|stored| stored.offset));
                        position = next;
                        if is_end { break; }
                    }
                    Recent::Older(first) => {
                        prop_assert!(first > position && position == from);
                        return Ok(());
                    }
                    Recent::Ahead => {
                        prop_assert!(from > offset + 1);
                        return Ok(());
                    }
                }
            }
            prop_assert_eq!(position, offset + 1);
            let expected: Vec<_> = all.into_iter().filter(|offset| *offset >= from).collect();
            prop_assert_eq!(got, expected);
        }
    }
}
