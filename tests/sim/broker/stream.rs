//! The stream of a journal, and how far the gateway has read it. Offsets have holes of one, markers stand
//! between messages, the oldest goes, and all of it may be deleted and made anew.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use parking_lot::Mutex;
use stentor::broker::{
    BrokerError, Cursor, FeedId, FeedSink, JournalAsk, JournalId, JournalPart, JournalStart,
    Message, Stored, journal::CURSOR_HEADER,
};
use tokio::time::{Instant, timeout};

use super::{PATIENCE, unavailable};
use crate::{
    entropy::Draws,
    ledger::{LOG, id_of},
    told::Told,
    trace::{Trace, WORLD},
};

/// Messages of before that a reader begins with, at most: RabbitMQ's last chunk.
const CHUNK: usize = 3;

pub(crate) struct Stream {
    seed: u64,
    trace: Arc<Trace>,
    state: Mutex<State>,
    /// Told whenever the gateway was given more.
    handed: Told<()>,
}

#[derive(Default)]
struct State {
    /// Which stream it is: one that is made anew counts from 0.
    generation: u64,
    /// What is still there.
    entries: VecDeque<Entry>,
    /// The next offset.
    next: u64,
    /// The next offset that the gateway is given.
    read: u64,
    /// The marker behind which all was new when the gateway began to read.
    begun: Option<u64>,
    /// What stands before it is new for nobody.
    new_from: u64,
    /// Each message that has ever stood in a stream.
    kept: BTreeMap<u64, Kept>,
}

#[derive(Clone)]
struct Entry {
    offset: u64,
    /// `None`: a marker.
    stored: Option<Stored>,
}

/// Where a message stands, or stood.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    pub(crate) generation: u64,
    pub(crate) offset: u64,
    pub(crate) cursor: String,
    at: Instant,
}

/// How the stream is at a moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    pub(crate) generation: u64,
    /// The first offset that is still there.
    pub(crate) first: u64,
    /// The next one that the gateway is given.
    pub(crate) read: u64,
}

/// The feed that the gateway reads it by.
pub(super) fn feed() -> FeedId {
    FeedId {
        exchange: LOG.into(),
        shard: 0,
    }
}

impl Stream {
    pub(super) fn new(seed: u64, trace: &Arc<Trace>) -> Self {
        Self {
            seed,
            trace: Arc::clone(trace),
            state: Mutex::default(),
            handed: Told::default(),
        }
    }

    /// The exchange has routed a message to it.
    pub(super) fn append(&self, mut message: Message) {
        let id = id_of(&message.body).unwrap();
        let mut state = self.state.lock();
        if Draws::of(&[self.seed, id, 0x401e]).percent(10) {
            state.next += 1;
        }
        let offset = state.take_offset();
        let cursor = Cursor::new(JournalId::new("/", LOG), offset, &message).to_string();
        let header = (CURSOR_HEADER.into(), cursor.as_str().into());
        message.properties.headers.push(header);
        let (message, is_left_out) = (Arc::new(message), false);
        let stored = Some(Stored {
            offset,
            message,
            is_left_out,
        });
        state.entries.push_back(Entry { offset, stored });
        let kept = Kept {
            generation: state.generation,
            offset,
            cursor,
            at: Instant::now(),
        };
        let told = || format!("m{id} stands in the journal: {}", kept.cursor);
        self.trace.tell(WORLD, told);
        state.kept.insert(id, kept);
    }

    /// The gateway reads it from now on: the last of what is there, and all that comes. The marker
    /// behind which that is new, and its stream.
    pub(super) fn begin(&self) -> (u64, u64) {
        let mut state = self.state.lock();
        let generation = state.generation;
        if let Some(begun) = state.begun {
            return (generation, begun);
        }
        let known = state.entries.len().saturating_sub(CHUNK);
        let first = state.entries.get(known).map(|entry| entry.offset);
        state.read = first.unwrap_or(state.next);
        let marker = state.mark();
        (state.begun, state.new_from) = (Some(marker), marker);
        (generation, marker)
    }

    /// One more marker, and its stream.
    pub(super) fn mark(&self) -> (u64, u64) {
        let mut state = self.state.lock();
        (state.generation, state.mark())
    }

    /// Done when the gateway was given the marker.
    pub(super) async fn came(&self, (generation, marker): (u64, u64)) -> Result<(), BrokerError> {
        let is_there = || self.state.lock().generation == generation;
        let has_come = |_: &()| !is_there() || self.state.lock().read > marker;
        match timeout(PATIENCE, self.handed.wait_for(has_come)).await {
            Ok(()) if is_there() => Ok(()),
            Ok(()) => Err(BrokerError::NotFound("the stream is gone".into())),
            Err(_) => Err(unavailable()),
        }
    }

    /// Gives the gateway what it has not had, in order.
    pub(super) fn hand_over(&self, sink: &dyn FeedSink) {
        while let Some((entry, is_new)) = self.next() {
            match entry.stored {
                None => sink.pass(&feed(), entry.offset),
                Some(stored) if is_new => sink.store(&feed(), stored),
                Some(stored) => sink.remember(&feed(), stored),
            }
        }
        self.handed.set(());
    }

    /// What the gateway has not had, and whether it is new.
    fn next(&self) -> Option<(Entry, bool)> {
        let mut state = self.state.lock();
        state.begun?;
        let entry = state.entries.get(state.place(state.read)).cloned()?;
        state.read = entry.offset + 1;
        let is_new = entry.offset >= state.new_from;
        Some((entry, is_new))
    }

    /// A part of what is there, of so many offsets at most; `None`: nothing is, from there on.
    pub(super) fn read(&self, ask: &JournalAsk, most: usize) -> Option<JournalPart> {
        let state = self.state.lock();
        let from = match ask.start {
            // RabbitMQ's clock may be behind: so what it finds may be older.
            JournalStart::First | JournalStart::Time(_) => 0,
            JournalStart::Offset(offset) => offset,
        };
        let entries = state.entries.range(state.place(from)..);
        let mut part: Option<JournalPart> = None;
        for entry in entries.take(ask.most.clamp(1, most)) {
            let part = part.get_or_insert_with(|| JournalPart {
                first: entry.offset,
                ..JournalPart::default()
            });
            part.next = entry.offset + 1;
            part.messages.extend(entry.stored.clone());
            if entry.offset >= ask.until {
                break;
            }
        }
        part
    }
}

/// What happens to it.
impl Stream {
    /// The oldest is not kept any more: of what the gateway has read, and never all.
    pub(crate) fn expire(&self, draws: &mut Draws) {
        let mut state = self.state.lock();
        let read = state.place(state.read);
        let most = read.min(state.entries.len().saturating_sub(1));
        // Mostly a little, as where segments go.
        let most = if draws.percent(30) { most } else { most / 4 };
        let count = draws.below(u64::try_from(most).unwrap() + 1);
        state.entries.drain(..usize::try_from(count).unwrap());
        let told = || format!("the journal begins with {}", state.first());
        self.trace.tell(WORLD, told);
    }

    /// What the gateway has not read is not kept, but for the last of it.
    pub(super) fn overtake(&self) {
        let mut state = self.state.lock();
        state.new_from = state.new_from.max(state.read);
        if let Some(newest) = state.entries.pop_back() {
            state.read = newest.offset;
            state.entries.clear();
            state.entries.push_back(newest);
        }
    }

    /// It is deleted, with all that is in it, and made anew.
    pub(super) fn make_anew(&self) {
        let mut state = self.state.lock();
        let (kept, generation) = (std::mem::take(&mut state.kept), state.generation + 1);
        *state = State {
            generation,
            kept,
            ..State::default()
        };
        drop(state);
        self.begin();
        self.handed.set(());
    }
}

/// What clients are promised by it.
impl Stream {
    pub(crate) fn view(&self) -> View {
        let state = self.state.lock();
        View {
            generation: state.generation,
            first: state.first(),
            read: state.read,
        }
    }

    /// Where the message stands, or stood; `None`: the journal never had it.
    pub(crate) fn kept(&self, id: u64) -> Option<Kept> {
        self.state.lock().kept.get(&id).cloned()
    }

    /// The offset of the last message before that one, be it there or not.
    pub(crate) fn newest_before(&self, offset: u64) -> Option<u64> {
        let state = self.state.lock();
        let kept = state.kept.values();
        let of_it = kept.filter(|kept| kept.generation == state.generation);
        let offsets = of_it.map(|kept| kept.offset);
        offsets.filter(|other| *other < offset).max()
    }

    /// The message of a cursor.
    pub(crate) fn by_cursor(&self, cursor: &str) -> Option<u64> {
        let state = self.state.lock();
        let mut all = state.kept.iter();
        let (id, _) = all.find(|(_, kept)| kept.cursor == cursor)?;
        Some(*id)
    }

    /// The messages that are there, in order, of those that came after that moment.
    pub(crate) fn there(&self, since: Option<Instant>) -> Vec<u64> {
        let state = self.state.lock();
        let stored = state.entries.iter().flat_map(|entry| &entry.stored);
        let ids = stored.filter_map(|stored| id_of(&stored.message.body));
        let is_meant = |id: &u64| since.is_none_or(|since| state.kept[id].at > since);
        ids.filter(is_meant).collect()
    }
}

impl State {
    fn take_offset(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    fn mark(&mut self) -> u64 {
        let (offset, stored) = (self.take_offset(), None);
        self.entries.push_back(Entry { offset, stored });
        offset
    }

    fn first(&self) -> u64 {
        self.entries.front().map_or(self.next, |entry| entry.offset)
    }

    /// The place of the first entry with at least that offset.
    fn place(&self, offset: u64) -> usize {
        self.entries.partition_point(|entry| entry.offset < offset)
    }
}
