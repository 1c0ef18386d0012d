//! Messages of a journal without a subscription: a page at a time.

use std::{sync::Arc, time::Duration};

use stomp_session::SubscriptionId;
use tokio::time::{Instant, timeout};

use super::{Gap, ResumeError, Since, Told, resume::hears, ring::Recent};
use crate::{
    broker::{BrokerError, Cursor, JournalAsk, JournalStart, Stored, journal::CURSOR_HEADER},
    deadline::after,
    hub::{
        feed::Feed,
        mailbox::{Mailbox, Offer},
    },
};

/// Messages that are looked at for one page, at most: one that finds less says where to go on. Only a
/// message can say that, so a page goes on to the next one through markers, be they more.
const LOOKS: usize = 20_000;
/// Messages that are looked at in one go.
const PART: usize = 1_000;
/// A page that has come to a message ends after so long, with the search for its beginning: its caller
/// gives up after a while, and would begin at the same place again.
const SLOW: Duration = Duration::from_secs(10);
/// A page ends with the message that reaches so many bytes.
const PAGE_BYTES: usize = 4 << 20;

/// How long a page may go on without a message.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a page waits for its client to read the last one.
const ROOM: Duration = Duration::from_secs(5);

/// A question for a page.
#[derive(Clone, Copy, Debug)]
pub struct HistoryAsk<'a> {
    /// The pattern of the keys that are wanted.
    pub pattern: &'a str,
    /// From where on.
    pub since: Since,
    /// Messages of the page, at most.
    pub limit: usize,
}

/// A page of a journal.
#[derive(Clone, Debug)]
pub struct History {
    /// Its messages, in order.
    pub messages: Vec<Stored>,
    /// Where the next page begins; `None`: there was nothing to look at.
    pub next: Option<Cursor>,
    /// Whether there was more to look at.
    pub has_more: bool,
    /// Messages before `next` that are missing, for they are larger than this node reads.
    pub left_out: usize,
    /// The offsets of such messages, also behind it: those are of the next page.
    left_out_at: Vec<u64>,
}

/// What a client is told of a page that went into its mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryGiven {
    /// Messages of the page.
    pub messages: usize,
    /// Where the next page begins; `None`: there was nothing to look at.
    pub next: Option<Cursor>,
    /// Whether there was more to look at, or to give.
    pub has_more: bool,
    /// As [`History::left_out`].
    pub left_out: usize,
}

impl HistoryGiven {
    /// The headers of the RECEIPT that tell it.
    #[must_use]
    pub fn told(&self) -> Told {
        let mut told: Vec<(&'static str, Box<str>)> = vec![
            ("messages", self.messages.to_string().into()),
            ("has-more", self.has_more.to_string().into()),
        ];
        told.extend(self.next.map(|next| ("next", next.to_string().into())));
        if self.left_out > 0 {
            told.push(("left-out", self.left_out.to_string().into()));
        }
        told.into()
    }
}

impl History {
    /// Puts its messages into a client's mailbox, for as long as there is room: a page may end sooner.
    pub(in crate::hub) async fn give(
        self,
        ask: &HistoryAsk<'_>,
        mailbox: &Mailbox,
        subscription: SubscriptionId,
    ) -> HistoryGiven {
        let mut given = HistoryGiven {
            messages: 0,
            next: match ask.since {
                Since::After(cursor) => Some(cursor),
                _ => None,
            },
            has_more: true,
            left_out: 0,
        };
        for stored in &self.messages {
            let mut offer = mailbox.offer(subscription, &stored.message);
            if offer == Offer::Full && given.messages == 0 {
                // A page that the client asks for as soon as it has the last one.
                let _ = timeout(ROOM, mailbox.room(subscription)).await;
                offer = mailbox.offer(subscription, &stored.message);
            }
            if offer != Offer::Taken {
                given.left_out = self.left_out_before(given.next);
                return given;
            }
            given.messages = given.messages.saturating_add(1);
            let cursor = stored.message.header(CURSOR_HEADER);
            given.next = cursor.and_then(|cursor| cursor.parse().ok());
        }
        HistoryGiven {
            messages: given.messages,
            next: self.next,
            has_more: self.has_more,
            left_out: self.left_out,
        }
    }

    fn left_out_before(&self, next: Option<Cursor>) -> usize {
        let is_passed = |offset: &&u64| next.is_some_and(|next| **offset < next.offset);
        self.left_out_at.iter().filter(is_passed).count()
    }
}

impl Feed {
    /// A page of the journal.
    pub(in crate::hub) async fn history(
        self: &Arc<Self>,
        ask: &HistoryAsk<'_>,
    ) -> Result<History, ResumeError> {
        let mut page = self.page(ask).await?;
        page.left_out = page.left_out_before(page.next);
        Ok(page)
    }

    /// The same, before it is counted what is left out.
    async fn page(self: &Arc<Self>, ask: &HistoryAsk<'_>) -> Result<History, ResumeError> {
        let Some(journal) = self.journal() else {
            return Err(ResumeError::NoJournal);
        };
        let (slow, patience) = (after(SLOW), after(PATIENCE));
        let mut position = self.locate(journal, ask.pattern, &ask.since).await?;
        let kind = self.kind();
        let mut page = History {
            messages: Vec::new(),
            next: match ask.since {
                Since::After(cursor) => Some(cursor),
                _ => None,
            },
            has_more: true,
            left_out: 0,
            left_out_at: Vec::new(),
        };
        let begin = page.next;
        // An ask for whatever is there gets it.
        let is_strict = matches!(ask.since, Since::After(_) | Since::Bookmark(_));
        let (mut looks, mut bytes) = (0_usize, 0_usize);
        loop {
            // Asked for what comes after a page that led nowhere, the next one would lead nowhere.
            if page.next != begin && (looks >= LOOKS || Instant::now() >= slow) {
                break;
            }
            if looks >= LOOKS && Instant::now() >= patience {
                let why = "there is no message for so long that the next one was not found in time";
                return Err(BrokerError::Unavailable(why.into()).into());
            }
            let (messages, next, is_end) = match self.recent(position, PART) {
                Recent::Messages(messages, next, is_end) => (messages, next, is_end),
                Recent::Ahead => (Vec::new(), position, true),
                Recent::Older(_) => {
                    let _turn = journal.questions.acquire().await;
                    let ask = JournalAsk {
                        start: JournalStart::Offset(position),
                        until: self.remembered().1.saturating_sub(1),
                        most: PART,
                    };
                    let part = match self.host.read_journal(&self.id.exchange, ask).await {
                        Ok(part) => part,
                        // What was gathered is given; if it lasts, the ask for the next page is told.
                        Err(_) if page.next != begin => return Ok(page),
                        Err(error) => return Err(error.into()),
                    };
                    // Offsets may have holes; a gap is only what is not there any more.
                    if part.first > position {
                        let first = match self.first_available().await {
                            Ok(first) => first,
                            // As above.
                            Err(_) if page.next != begin => return Ok(page),
                            Err(error) => return Err(error.into()),
                        };
                        if first > position && page.next != begin {
                            // The ask for the next page is told of what is missing.
                            return Ok(page);
                        }
                        if first > position && is_strict {
                            return Err(ResumeError::Gap(Gap::Expired, Some(first)));
                        }
                    }
                    let next = part.next.max(position.saturating_add(1));
                    // What is for nobody costs as much.
                    let passed = usize::try_from(next.saturating_sub(position));
                    looks = looks.saturating_add(passed.unwrap_or(usize::MAX));
                    (part.messages, next, false)
                }
            };
            for stored in messages {
                looks = looks.saturating_add(1);
                let is_wanted = hears(kind, ask.pattern, &stored.message);
                if is_wanted && (page.messages.len() == ask.limit || bytes >= PAGE_BYTES) {
                    return Ok(page);
                }
                if stored.is_left_out {
                    if is_wanted {
                        page.left_out_at.push(stored.offset);
                    }
                    continue;
                }
                page.next = Some(Cursor::new(journal.id, stored.offset, &stored.message));
                if is_wanted {
                    bytes = bytes.saturating_add(stored.message.weight());
                    page.messages.push(stored);
                }
            }
            position = next;
            if is_end {
                page.has_more = false;
                break;
            }
            tokio::task::yield_now().await;
        }
        Ok(page)
    }
}
