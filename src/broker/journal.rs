//! Journals: exchanges whose messages a stream keeps, and positions in it (pure).
//!
//! A position is an offset of the stream. It proves nothing by itself: a stream that was deleted and
//! made anew counts from 0 again, and a broker that is asked for an offset beyond the end begins at the
//! end. So a [`Cursor`] also says which journal it is of, and has a print of its message.

use std::{collections::BTreeSet, fmt, str::FromStr, sync::Arc, time::Duration};

use serde::Deserialize;
use thiserror::Error;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::{ExchangeKind, Message, OFFSET_HEADER, destination::check_exchange};
use crate::units::{Checked, at_least, at_least_one, size};

/// The prefix of the names of journals' streams at the broker.
pub const STREAMS: &str = "stentor.journal.";

/// The header of a MESSAGE that has its cursor; the gateway sets it, never the sender.
pub const CURSOR_HEADER: &str = "cursor";

/// RabbitMQ takes names of 255 bytes.
const MAX_NAME: usize = 255 - STREAMS.len();
/// A stream keeps its last segment, whatever its age.
const MIN_SEGMENT: usize = 64 << 10;
/// RabbitMQ refuses to declare a stream with larger ones.
const MAX_SEGMENT: usize = 3_000_000_000;
const MIN_MEMORY: usize = 1 << 10;

/// `[journal]`: exchanges whose messages are kept for a while, so that clients can catch up.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct JournalConfig {
    /// Their names; none: nothing is kept.
    pub exchanges: BTreeSet<String>,
    /// How long a message is kept (`x-max-age`). Whole segments go at a time.
    #[serde(with = "humantime_serde")]
    pub max_age: Duration,
    /// Bytes that a journal takes at the broker (`x-max-length-bytes`); beyond, the oldest segment goes.
    #[serde(deserialize_with = "size")]
    pub max_bytes: usize,
    /// Bytes of a segment (`x-stream-max-segment-size-bytes`): so much at a time is forgotten.
    #[serde(deserialize_with = "size")]
    pub segment: usize,
    /// Bytes of a journal's newest messages that this node keeps in memory, with the encoded form that
    /// each keeps from its first delivery on: who was away for a short while costs the broker nothing.
    #[serde(deserialize_with = "size")]
    pub memory: usize,
    /// Readings of older messages at a time, for each journal. Clients share them.
    pub replays: u16,
}

impl Default for JournalConfig {
    fn default() -> Self {
        Self {
            exchanges: BTreeSet::new(),
            max_age: Duration::from_secs(24 * 3600),
            max_bytes: 1 << 30,
            segment: 16 << 20,
            memory: 32 << 20,
            replays: 2,
        }
    }
}

impl JournalConfig {
    /// Whether the exchange has a journal.
    #[must_use]
    pub fn has(&self, exchange: &str) -> bool {
        self.exchanges.contains(exchange)
    }

    /// Whether the values make sense.
    ///
    /// # Errors
    /// The key at fault, and what is wrong and what to do.
    pub fn check(&self) -> Checked {
        for exchange in &self.exchanges {
            check_exchange("exchanges", exchange)?;
            if exchange.is_empty() || exchange.len() > MAX_NAME {
                return Err((
                    "exchanges",
                    format!(
                        "has {exchange:?}; write names of 1 to {MAX_NAME} bytes, for the stream is \
                         called {STREAMS}<name>"
                    ),
                ));
            }
        }
        let why = "RabbitMQ would keep nothing for so short a time";
        at_least("max_age", self.max_age, Duration::from_secs(1), why)?;
        if self.segment < MIN_SEGMENT {
            return Err((
                "segment",
                format!(
                    "is {} bytes; each is a file, and under 64 KiB there would be too many of them",
                    self.segment
                ),
            ));
        }
        if self.segment > MAX_SEGMENT {
            return Err((
                "segment",
                format!(
                    "is {} bytes, and RabbitMQ takes no more than {MAX_SEGMENT}; write \"2GiB\" or \
                     less",
                    self.segment
                ),
            ));
        }
        if self.max_bytes < self.segment {
            return Err((
                "max_bytes",
                "is less than segment, and the newest segment is always kept; raise it, or lower \
                 segment"
                    .to_owned(),
            ));
        }
        if self.memory < MIN_MEMORY {
            return Err((
                "memory",
                "is less than 1KiB, and whoever catches up has to meet the newest messages in memory; \
                 write \"1MiB\" or more"
                    .to_owned(),
            ));
        }
        at_least_one("replays", self.replays, "nobody could catch up")
    }
}

/// The name of the stream of an exchange's journal.
#[must_use]
pub fn stream_of(exchange: &str) -> String {
    format!("{STREAMS}{exchange}")
}

/// Why the journal of an exchange of that type would lack messages, as the end of a sentence; `None`: it
/// has them all. `is_whole`: the exchange is read whole, if it is a direct one.
#[must_use]
pub fn lack_of(kind: ExchangeKind, is_whole: bool) -> Option<&'static str> {
    match kind {
        ExchangeKind::Direct if !is_whole => Some(
            "is direct: a journal ([journal] exchanges) has its messages only if feed.whole names \
             it, too",
        ),
        ExchangeKind::Other => Some(
            "is neither direct, fanout nor topic, so it can have no journal ([journal] exchanges)",
        ),
        ExchangeKind::Direct | ExchangeKind::Topic | ExchangeKind::Fanout => None,
    }
}

/// A message of a journal, and where it stands there.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Its offset in the stream.
    pub offset: u64,
    /// The message, with its cursor among the headers.
    pub message: Arc<Message>,
    /// It is too large to be read: its body is not here, and nobody gets it.
    pub is_left_out: bool,
}

/// Where to begin in a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JournalStart {
    /// With the first message that is still there.
    First,
    /// With this offset, or the first one after it that is there.
    Offset(u64),
    /// With what came at that time, in seconds since 1970; a little may be older.
    Time(u64),
}

/// A question for a part of a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalAsk {
    /// Where it begins.
    pub start: JournalStart,
    /// An offset that is there: the part ends with it at the latest.
    pub until: u64,
    /// Messages of the part, at most; at least 1.
    pub most: usize,
}

/// A part of a journal. Within it no offsets are left out, save for holes of one: where more are, it
/// ends. Nor is it longer than what has come in time.
#[derive(Clone, Debug, Default)]
pub struct JournalPart {
    /// The offset that it began with.
    pub first: u64,
    /// The offset that comes after it.
    pub next: u64,
    /// Its messages, in order.
    pub messages: Vec<Stored>,
}

/// Names a journal among all virtual hosts and exchanges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalId(u32);

impl JournalId {
    /// Of the journal of this exchange.
    #[must_use]
    pub fn new(vhost: &str, exchange: &str) -> Self {
        let seed = xxh3_64(vhost.as_bytes());
        Self(low(xxh3_64_with_seed(exchange.as_bytes(), seed)))
    }
}

/// Names a message of a journal, for whoever comes back: what a client has heard up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The journal.
    pub journal: JournalId,
    /// Where the message stands.
    pub offset: u64,
    print: u32,
}

impl Cursor {
    /// Of a message.
    #[must_use]
    pub fn new(journal: JournalId, offset: u64, message: &Message) -> Self {
        Self {
            journal,
            offset,
            print: print(message),
        }
    }

    /// True if it is the message that the cursor was made for.
    #[must_use]
    pub fn is_of(&self, stored: &Stored) -> bool {
        let is_its_print = || self.print == print(&stored.message);
        self.offset == stored.offset && (stored.is_left_out || is_its_print())
    }
}

/// Tells a message from one that stands in its place in another stream.
fn print(message: &Message) -> u32 {
    let seed = xxh3_64(message.routing_key.as_bytes());
    low(xxh3_64_with_seed(&message.body, seed))
}

fn low(hash: u64) -> u32 {
    let [.., a, b, c, d] = hash.to_be_bytes();
    u32::from_be_bytes([a, b, c, d])
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            journal: JournalId(journal),
            offset,
            print,
        } = self;
        write!(f, "{journal:08x}-{offset}-{print:08x}")
    }
}

/// A text that is no cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("no cursor")]
pub struct NoCursor;

impl FromStr for Cursor {
    type Err = NoCursor;

    fn from_str(text: &str) -> Result<Self, NoCursor> {
        let mut parts = text.split('-');
        let (Some(journal), Some(offset), Some(print), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(NoCursor);
        };
        let number = |text: &str| u32::from_str_radix(text, 16).map_err(|_| NoCursor);
        let cursor = Self {
            journal: JournalId(number(journal)?),
            offset: offset.parse().map_err(|_| NoCursor)?,
            print: number(print)?,
        };
        // One text for each: no signs, no zeros before it, no capital letters.
        match cursor.to_string() == text {
            true => Ok(cursor),
            false => Err(NoCursor),
        }
    }
}

/// Where a client goes on in a journal, as the gateway keeps it: the client has everything before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bookmark {
    /// After this message.
    After(Cursor),
    /// At this offset. No message proves that the journal is still the same.
    At(JournalId, u64),
}

impl Bookmark {
    /// True if a client that has come here has more than one that has come to the other place in the same
    /// journal.
    #[must_use]
    pub fn is_ahead_of(self, other: Self) -> bool {
        let ((journal, next), (its_journal, its_next)) = (self.place(), other.place());
        journal == its_journal && next > its_next
    }

    /// The journal, and the first offset of what the client may not have.
    fn place(self) -> (JournalId, u64) {
        match self {
            Self::After(cursor) => (cursor.journal, cursor.offset.saturating_add(1)),
            Self::At(journal, offset) => (journal, offset),
        }
    }
}

impl fmt::Display for Bookmark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::After(cursor) => cursor.fmt(f),
            Self::At(JournalId(journal), offset) => write!(f, "{journal:08x}-{offset}"),
        }
    }
}

impl FromStr for Bookmark {
    type Err = NoCursor;

    fn from_str(text: &str) -> Result<Self, NoCursor> {
        if let Ok(cursor) = text.parse() {
            return Ok(Self::After(cursor));
        }
        let (journal, offset) = text.split_once('-').ok_or(NoCursor)?;
        let journal = u32::from_str_radix(journal, 16).map_err(|_| NoCursor)?;
        let offset = offset.parse().map_err(|_| NoCursor)?;
        Ok(Self::At(JournalId(journal), offset))
    }
}

/// A message as its journal has it: with its cursor, and none of the sender's making.
pub(crate) fn stored(mut message: Message, journal: JournalId, offset: u64) -> Stored {
    let headers = &mut message.properties.headers;
    let is_ours = |name: &str| super::passes_for(name, &[CURSOR_HEADER, OFFSET_HEADER]);
    headers.retain(|(name, _)| !is_ours(name));
    let cursor = Cursor::new(journal, offset, &message).to_string();
    let header = (CURSOR_HEADER.into(), cursor.into());
    message.properties.headers.push(header);
    Stored {
        offset,
        message: Arc::new(message),
        is_left_out: false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::broker::Properties;

    fn message(key: &str, body: &str) -> Message {
        let body = bytes::Bytes::copy_from_slice(body.as_bytes());
        Message::new("feed".into(), key.into(), Properties::default(), body)
    }

    #[test]
    fn a_cursor_is_read_as_it_was_written() {
        let journal = JournalId::new("/", "feed");
        let cursor = Cursor::new(journal, 1234, &message("k", "hello"));
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
        // Cursors outlive the program: the prints stay the same.
        assert_eq!(cursor.to_string(), "300e60b2-1234-d2d8ac72");
    }

    #[test]
    fn a_bookmark_is_read_as_it_was_written() {
        let journal = JournalId::new("/", "feed");
        let cursor = Cursor::new(journal, 1234, &message("k", "hello"));
        for bookmark in [Bookmark::After(cursor), Bookmark::At(journal, 17)] {
            assert_eq!(bookmark.to_string().parse(), Ok(bookmark));
        }
        for wrong in ["", "17", "x-17", "300e60b2-", "300e60b2--1", "300e60b2-1-"] {
            assert_eq!(wrong.parse::<Bookmark>(), Err(NoCursor), "{wrong}");
        }
    }

    #[test]
    fn bookmarks_of_a_journal_have_an_order() {
        let journal = JournalId::new("/", "feed");
        let at = |offset| Bookmark::At(journal, offset);
        let after = Bookmark::After(Cursor::new(journal, 16, &message("k", "hello")));
        assert!(after.is_ahead_of(at(16)) && at(18).is_ahead_of(after));
        assert!(!after.is_ahead_of(at(17)) && !at(17).is_ahead_of(after));
        assert!(!Bookmark::At(JournalId::new("/", "other"), 18).is_ahead_of(after));
    }

    #[test]
    fn a_cursor_names_its_journal_and_its_message() {
        let id = |vhost, exchange| JournalId::new(vhost, exchange);
        assert_ne!(id("/", "feed"), id("/", "news"));
        assert_ne!(id("/", "feed"), id("a", "feed"));
        let stored = |offset, key, body| stored(message(key, body), id("/", "feed"), offset);
        let one = stored(7, "k", "hello");
        let cursor = Cursor::new(id("/", "feed"), 7, &message("k", "hello"));
        assert!(cursor.is_of(&one));
        for other in [
            stored(8, "k", "hello"),
            stored(7, "j", "hello"),
            stored(7, "k", "x"),
        ] {
            assert!(!cursor.is_of(&other));
        }
    }

    #[test]
    fn senders_make_no_cursors() {
        let mut sent = message("k", "hello");
        for name in ["cursor", "Cursor ", "x-stream-offset", "other"] {
            sent.properties.headers.push((name.into(), "1".into()));
        }
        let journal = JournalId::new("/", "feed");
        let Stored { message, .. } = stored(sent.clone(), journal, 3);
        let cursor = Cursor::new(journal, 3, &sent).to_string();
        let expected = [("other", "1"), ("cursor", &cursor)].map(|(n, v)| (n.into(), v.into()));
        assert_eq!(message.properties.headers, expected);
    }

    proptest! {
        #[test]
        fn any_text_is_one_cursor_or_none(text in "[0-9a-fA-F+ -]{0,40}") {
            if let Ok(cursor) = text.parse::<Cursor>() {
                prop_assert_eq!(cursor.to_string(), text);
            }
        }
    }

    #[test]
    fn the_defaults_are_sound() {
        assert_eq!(JournalConfig::default().check(), Ok(()));
    }

    #[test]
    fn values_that_make_no_sense_are_refused() {
        let config = JournalConfig::default;
        let named = |name: &str| JournalConfig {
            exchanges: [name.to_owned()].into(),
            ..config()
        };
        assert_eq!(named("feed").check(), Ok(()));
        let largest = JournalConfig {
            segment: 3_000_000_000,
            max_bytes: 3_000_000_000,
            ..config()
        };
        assert_eq!(largest.check(), Ok(()));
        for (wrong, key) in [
            (named(""), "exchanges"),
            (named(&"x".repeat(240)), "exchanges"),
            (
                JournalConfig {
                    max_age: Duration::ZERO,
                    ..config()
                },
                "max_age",
            ),
            (
                JournalConfig {
                    segment: 1,
                    ..config()
                },
                "segment",
            ),
            (
                JournalConfig {
                    segment: 3_000_000_001,
                    max_bytes: 4_000_000_000,
                    ..config()
                },
                "segment",
            ),
            (
                JournalConfig {
                    max_bytes: 1 << 20,
                    ..config()
                },
                "max_bytes",
            ),
            (
                JournalConfig {
                    replays: 0,
                    ..config()
                },
                "replays",
            ),
            (
                JournalConfig {
                    memory: 0,
                    ..config()
                },
                "memory",
            ),
        ] {
            assert_eq!(wrong.check().unwrap_err().0, key);
        }
    }
}
