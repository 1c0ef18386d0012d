//! The truth about each message: whether the broker took it, and what became of it.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::LazyLock,
};

use parking_lot::Mutex;
use stentor::broker::{ExchangeKind, Verdict, routing};

use crate::entropy::Draws;

/// The exchanges of the simulation.
pub(crate) const EXCHANGES: [(&str, ExchangeKind); 5] = [
    ("feed", ExchangeKind::Direct),
    ("news", ExchangeKind::Topic),
    ("all", ExchangeKind::Fanout),
    ("amq.topic", ExchangeKind::Topic),
    (LOG, ExchangeKind::Topic),
];

/// The exchange whose messages a journal keeps.
pub(crate) const LOG: &str = "log";

pub(crate) fn kind(exchange: &str) -> ExchangeKind {
    let known = EXCHANGES.iter().find(|(name, _)| *name == exchange);
    known.map_or(ExchangeKind::Direct, |(_, kind)| *kind)
}

/// The id of the message with this body; none, if it is not one of the simulation's.
pub(crate) fn id_of(body: &[u8]) -> Option<u64> {
    let digits = body
        .strip_prefix(b"m")?
        .split(|byte| *byte == b' ')
        .next()?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// What bodies are padded with: a part of it that depends on the id, so that a body differs from others
/// in more than its length, and has much in common with them.
static TEXT: LazyLock<String> = LazyLock::new(|| {
    let mut draws = Draws::of(&[0x7e87]);
    let letter = |_| char::from(*draws.pick(b"abcdefghijklmnopqrstuvwxyz"));
    (0..5_000).map(letter).collect()
});

fn padding_of(id: u64, length: usize) -> Option<&'static str> {
    let from = usize::try_from(id % 7).unwrap() * 13;
    TEXT.get(from..from + length)
}

pub(crate) fn body_of(id: u64, padding: usize) -> String {
    format!("m{id} {}", padding_of(id, padding).unwrap())
}

/// Whether the body is as it was published.
pub(crate) fn is_whole(id: u64, body: &[u8]) -> bool {
    let head = format!("m{id} ");
    let padding = body.strip_prefix(head.as_bytes());
    padding.is_some_and(|padding| {
        padding_of(id, padding.len()).is_some_and(|expected| padding == expected.as_bytes())
    })
}

#[derive(Default)]
pub(crate) struct Ledger(Mutex<Books>);

#[derive(Default)]
struct Books {
    /// What exchanges took, in order.
    log: Vec<Taken>,
    place: HashMap<u64, usize>,
    confirmed: HashSet<u64>,
    queued: BTreeMap<u64, Queued>,
}

struct Taken {
    id: u64,
    exchange: Box<str>,
    key: Box<str>,
}

/// A message in a work queue.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Queued {
    /// MESSAGE frames that bore it.
    pub(crate) frames: u32,
    /// How often the broker had reason to deliver it once more.
    pub(crate) requeues: u32,
    /// The broker's word, by the gateway: it is done with.
    pub(crate) is_accepted: bool,
    pub(crate) is_discarded: bool,
    /// A client's word.
    pub(crate) was_acked: bool,
    pub(crate) was_dropped: bool,
    /// It was written to a client that acknowledges nothing.
    pub(crate) was_auto: bool,
}

impl Ledger {
    /// The broker has routed it.
    pub(crate) fn take(&self, id: u64, exchange: &str, key: &str) {
        let mut books = self.0.lock();
        let place = books.log.len();
        books.log.push(Taken {
            id,
            exchange: exchange.into(),
            key: key.into(),
        });
        assert!(
            books.place.insert(id, place).is_none(),
            "m{id} was published twice"
        );
        if exchange.is_empty() {
            books.queued.insert(id, Queued::default());
        }
    }

    pub(crate) fn was_taken(&self, id: u64) -> bool {
        self.0.lock().place.contains_key(&id)
    }

    pub(crate) fn confirm(&self, id: u64) {
        self.0.lock().confirmed.insert(id);
    }

    pub(crate) fn is_confirmed(&self, id: u64) -> bool {
        self.0.lock().confirmed.contains(&id)
    }

    /// How much was taken until now.
    pub(crate) fn len(&self) -> usize {
        self.0.lock().log.len()
    }

    pub(crate) fn place(&self, id: u64) -> Option<usize> {
        self.0.lock().place.get(&id).copied()
    }

    pub(crate) fn key(&self, id: u64) -> Option<Box<str>> {
        let books = self.0.lock();
        let place = books.place.get(&id)?;
        Some(books.log[*place].key.clone())
    }

    /// Whether the exchange routes the message by the pattern.
    pub(crate) fn is_for(&self, id: u64, exchange: &str, pattern: &str) -> bool {
        let books = self.0.lock();
        let place = books.place.get(&id);
        place.is_some_and(|place| books.log[*place].is_for(exchange, pattern))
    }

    /// The messages for a pattern at these places.
    pub(crate) fn between(
        &self,
        exchange: &str,
        pattern: &str,
        places: std::ops::Range<usize>,
    ) -> Vec<u64> {
        let books = self.0.lock();
        let some = books.log[places].iter();
        some.filter(|taken| taken.is_for(exchange, pattern))
            .map(|taken| taken.id)
            .collect()
    }

    /// Changes the account of a message in a work queue.
    pub(crate) fn note<T>(&self, id: u64, change: impl FnOnce(&mut Queued) -> T) -> T {
        change(self.0.lock().queued.entry(id).or_default())
    }

    pub(crate) fn settle(&self, id: u64, verdict: Verdict) {
        self.note(id, |queued| match verdict {
            Verdict::Accept => queued.is_accepted = true,
            Verdict::Requeue => queued.requeues += 1,
            Verdict::Discard => queued.is_discarded = true,
        });
    }

    pub(crate) fn queued(&self) -> Vec<(u64, Queued)> {
        let books = self.0.lock();
        books
            .queued
            .iter()
            .map(|(id, queued)| (*id, *queued))
            .collect()
    }
}

impl Taken {
    fn is_for(&self, exchange: &str, pattern: &str) -> bool {
        *self.exchange == *exchange && routing::matches(kind(exchange), pattern, &self.key)
    }
}
