//! How far the client of a journal's subscription has acknowledged (pure, but for its lock).
//!
//! A message of a journal is not settled at the broker: the stream keeps it. So an acknowledgement only
//! moves a bookmark forward, which is kept for the client (`connection::stored`): everything before it was
//! acknowledged. A message that is not keeps the bookmark back, so the messages from it on are bounded.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Weak},
};

use futures_util::future::{BoxFuture, FutureExt, ready};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use super::Mailbox;
use crate::broker::{
    Bookmark, BrokerError, Confirm, Consumer, Cursor, JournalId, Message, Settled, Verdict,
    journal::CURSOR_HEADER,
};

/// The acknowledgements of one subscription.
pub struct Acks {
    /// Messages from the first unacknowledged one on, at most.
    limit: usize,
    mailbox: Weak<Mailbox>,
    state: Mutex<State>,
    /// There is a new bookmark.
    moved: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Messages that wait for the client or were written to it, in the order of their offsets; the first
    /// one is not acknowledged.
    given: VecDeque<Given>,
    /// Everything before it is acknowledged.
    bookmark: Option<Bookmark>,
    /// It was not kept yet.
    is_new: bool,
    /// The client has acknowledged something: it has heard how it began.
    is_answered: bool,
    /// Messages were dropped that it does not know of.
    is_cut: bool,
    /// It was full for an offer of the past.
    was_full: bool,
}

#[derive(Debug)]
struct Given {
    tag: u64,
    /// Where the client goes on once it is done with this.
    bookmark: Bookmark,
    is_settled: bool,
}

/// An offer of the past takes no more than half of the bound, and the next is made when a quarter is
/// unacknowledged: as for the room of a mailbox.
const OFFERS: usize = 2;
const FEW: usize = 4;

impl Acks {
    /// For a client that may leave so many unacknowledged, and has everything before `bookmark`.
    #[must_use]
    pub fn new(limit: u16, mailbox: &Arc<Mailbox>) -> Arc<Self> {
        Arc::new(Self {
            limit: usize::from(limit).max(1),
            mailbox: Arc::downgrade(mailbox),
            state: Mutex::default(),
            moved: Notify::new(),
        })
    }

    /// The next message is about to wait for the client: its tag.
    pub(super) fn give(&self, message: &Message) -> u64 {
        let cursor = message.header(CURSOR_HEADER);
        let Some(cursor) = cursor.and_then(|text| text.parse::<Cursor>().ok()) else {
            // Every message of a journal has one.
            return 0;
        };
        let tag = tag(cursor.offset);
        self.state.lock().given.push_back(Given {
            tag,
            bookmark: Bookmark::After(cursor),
            is_settled: false,
        });
        tag
    }

    /// The next message is never given: the client is told, and comes back for what follows.
    pub(super) fn skip(&self, journal: JournalId, offset: u64) {
        let mut state = self.state.lock();
        let tag = tag(offset);
        state.given.push_back(Given {
            tag,
            bookmark: Bookmark::At(journal, tag),
            is_settled: true,
        });
        self.settle_first(state);
    }

    /// No further message may be given.
    pub(super) fn is_full(&self) -> bool {
        self.state.lock().given.len() >= self.limit
    }

    /// No further message of the past may.
    pub(super) fn is_full_of_past(&self) -> bool {
        let mut state = self.state.lock();
        let is_full = state.given.len() >= self.limit.div_ceil(OFFERS);
        state.was_full |= is_full;
        is_full
    }

    /// Nothing is unacknowledged.
    pub(super) fn is_empty(&self) -> bool {
        self.state.lock().given.is_empty()
    }

    /// Further messages of the past may be given: as many as it takes, and after it was full when few
    /// are left. Whatever else has ended an offer, a client that acknowledges many at once gets these.
    pub(super) fn has_room(&self) -> bool {
        let mut state = self.state.lock();
        let has_room = match state.was_full {
            true => state.given.len() <= self.limit / FEW,
            false => state.given.len() < self.limit.div_ceil(OFFERS),
        };
        state.was_full &= !has_room;
        has_room
    }

    /// Messages are dropped that were or will be meant for the client: from now on only what it
    /// acknowledges counts.
    pub(super) fn cut(&self) {
        self.state.lock().is_cut = true;
    }

    /// The client has acknowledged the message, and with `multiple` all that were given before it. One
    /// that is not known is ignored.
    pub fn acknowledge(&self, tag: u64, multiple: bool) {
        let mut state = self.state.lock();
        let given = &mut state.given;
        let Ok(at) = given.binary_search_by_key(&tag, |given| given.tag) else {
            return;
        };
        let from = if multiple { 0 } else { at };
        for given in given.range_mut(from..=at) {
            given.is_settled = true;
        }
        state.is_answered = true;
        self.settle_first(state);
        if let Some(mailbox) = self.mailbox.upgrade() {
            mailbox.acknowledged();
        }
    }

    /// Moves the bookmark past all that is settled.
    fn settle_first(&self, mut state: MutexGuard<'_, State>) {
        let mut last = None;
        while let Some(settled) = state.given.pop_front_if(|given| given.is_settled) {
            last = Some(settled.bookmark);
        }
        if state.given.is_empty() {
            state.given = VecDeque::new();
        }
        if last.is_some() {
            (state.bookmark, state.is_new) = (last, true);
            drop(state);
            self.moved.notify_one();
        }
    }

    /// Everything before this bookmark was given to the client: if that has acknowledged all of it, it is as
    /// good as acknowledged.
    pub(in crate::hub) fn given_before(&self, bookmark: Bookmark) {
        let mut state = self.state.lock();
        if state.given.is_empty() && !state.is_cut && state.bookmark != Some(bookmark) {
            state.bookmark = Some(bookmark);
            state.is_new = true;
            drop(state);
            self.moved.notify_one();
        }
    }

    /// Done when there may be a bookmark that was not taken yet.
    pub async fn moved(&self) {
        self.moved.notified().await;
    }

    /// The bookmark, if it was not taken yet.
    #[must_use]
    pub fn take(&self) -> Option<Bookmark> {
        let mut state = self.state.lock();
        let is_new = std::mem::take(&mut state.is_new);
        state.bookmark.filter(|_| is_new)
    }

    /// Whether the client has acknowledged a message.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.state.lock().is_answered
    }

    /// The bookmark that was taken could not be kept.
    pub fn put_back(&self) {
        self.state.lock().is_new = true;
        self.moved.notify_one();
    }
}

fn tag(offset: u64) -> u64 {
    // 0 is none.
    offset.saturating_add(1)
}

/// Whatever the verdict, the client is done with the message: there is no queue that could have it back.
impl Consumer for Acks {
    fn settle(
        &self,
        tag: u64,
        multiple: bool,
        _: Verdict,
    ) -> BoxFuture<'_, Result<Settled, BrokerError>> {
        self.acknowledge(tag, multiple);
        ready(Ok(Settled::Told)).boxed()
    }

    fn holds(&self, _: u64) -> bool {
        true
    }

    fn heard(&self, _: u64) -> Confirm {
        ready(Ok(())).boxed()
    }

    fn cancel(&self) -> BoxFuture<'_, Result<(), BrokerError>> {
        ready(Ok(())).boxed()
    }

    fn retire<'a>(&'a self, _: &'a [u64]) -> BoxFuture<'a, Result<(), BrokerError>> {
        ready(Ok(())).boxed()
    }
}

impl fmt::Debug for Acks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acks")
            .field("limit", &self.limit)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::broker::{Properties, journal::stored};

    fn message(offset: u64) -> Arc<Message> {
        let none = Properties::default();
        let message = Message::new("feed".into(), "k".into(), none, "x".into());
        stored(message, JournalId::new("/", "feed"), offset).message
    }

    fn cursor(offset: u64) -> Cursor {
        let message = message(offset);
        message.header(CURSOR_HEADER).unwrap().parse().unwrap()
    }

    fn acks(limit: u16) -> Arc<Acks> {
        Acks::new(limit, &Mailbox::new(crate::hub::MailboxConfig::default()))
    }

    #[test]
    fn one_that_is_missing_keeps_the_bookmark_back() {
        let acks = acks(10);
        let tags: Vec<_> = [3, 5, 6, 9]
            .map(|offset| acks.give(&message(offset)))
            .into();
        acks.acknowledge(tags[1], false);
        assert_eq!(acks.take(), None);
        acks.acknowledge(tags[0], false);
        assert_eq!(acks.take(), Some(Bookmark::After(cursor(5))));
        assert_eq!(acks.take(), None, "it was taken");
        acks.put_back();
        assert_eq!(acks.take(), Some(Bookmark::After(cursor(5))));
        acks.acknowledge(tags[3], true);
        assert_eq!(acks.take(), Some(Bookmark::After(cursor(9))));
        acks.acknowledge(tags[3], true);
        acks.acknowledge(77, true);
        assert_eq!(acks.take(), None);
    }

    #[test]
    fn what_is_unacknowledged_is_bounded() {
        let acks = acks(4);
        let tags: Vec<_> = (0..4)
            .map(|offset| {
                assert!(!acks.is_full());
                acks.give(&message(offset))
            })
            .collect();
        assert!(acks.is_full() && acks.is_full_of_past() && !acks.has_room());
        // Behind one that is missing, acknowledged ones count.
        acks.acknowledge(tags[3], false);
        assert!(acks.is_full());
        acks.acknowledge(tags[1], true);
        assert!(!acks.is_full() && acks.is_full_of_past());
        acks.acknowledge(tags[2], false);
        assert!(acks.has_room());
    }

    /// A full mailbox ends an offer, too: the client may wait for more before it acknowledges.
    #[test]
    fn few_are_waited_for_only_after_it_was_full() {
        let acks = acks(8);
        let mut tags: Vec<_> = (0..3).map(|offset| acks.give(&message(offset))).collect();
        assert!(!acks.is_full_of_past() && acks.has_room());
        tags.push(acks.give(&message(3)));
        assert!(acks.is_full_of_past());
        acks.acknowledge(tags[0], false);
        assert!(!acks.has_room());
        acks.acknowledge(tags[1], false);
        assert!(acks.has_room());
    }

    #[test]
    fn one_that_is_never_given_is_passed_when_all_before_it_are() {
        let acks = acks(4);
        let journal = JournalId::new("/", "feed");
        let tag = acks.give(&message(3));
        acks.skip(journal, 4);
        assert_eq!(acks.take(), None);
        acks.acknowledge(tag, false);
        assert_eq!(acks.take(), Some(Bookmark::At(journal, 5)));
        acks.skip(journal, 7);
        assert_eq!(acks.take(), Some(Bookmark::At(journal, 8)));
    }

    #[test]
    fn a_client_with_everything_moves_on_with_the_journal() {
        let acks = acks(4);
        let at = |offset| Bookmark::At(JournalId::new("/", "feed"), offset);
        acks.given_before(at(7));
        assert_eq!(acks.take(), Some(at(7)));
        acks.given_before(at(7));
        assert_eq!(acks.take(), None);
        let tag = acks.give(&message(9));
        acks.given_before(at(10));
        assert_eq!(acks.take(), None, "one is not acknowledged");
        acks.cut();
        acks.acknowledge(tag, false);
        assert_eq!(acks.take(), Some(Bookmark::After(cursor(9))));
        acks.given_before(at(20));
        assert_eq!(acks.take(), None, "some were dropped");
    }

    proptest! {
        /// In whatever order a client acknowledges: the bookmark is before the first that it has not.
        #[test]
        fn the_bookmark_passes_none_that_is_unacknowledged(
            count in 1..30_u64,
            order in prop::collection::vec((0..30_u64, any::<bool>()), 0..40),
        ) {
            let acks = acks(100);
            let mut open: std::collections::BTreeSet<u64> = (0..count).collect();
            let tags: Vec<_> = (0..count).map(|offset| acks.give(&message(offset * 2))).collect();
            let mut bookmark = None;
            for (number, multiple) in order {
                let Some(tag) = tags.get(number as usize) else { continue };
                // The session sends what is unsettled.
                if !open.contains(&number) { continue }
                acks.acknowledge(*tag, multiple);
                if multiple { open = open.split_off(&(number + 1)) } else { open.remove(&number); }
                bookmark = acks.take().or(bookmark);
                let first = open.first().copied().unwrap_or(count);
                let expected = first.checked_sub(1).map(|last| Bookmark::After(cursor(last * 2)));
                prop_assert_eq!(bookmark, expected);
            }
        }
    }
}
