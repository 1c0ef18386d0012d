//! What a session does, as its connection's task tells it. A connection that nobody asks about
//! keeps nothing for it: it looks at one number that all of them share.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// What a session does now, and has done since it began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionDetails {
    /// The version of STOMP: `1.2`.
    pub version: &'static str,
    /// Since its connection was opened.
    pub open_for: Duration,
    /// Frames that its client sent, heart-beats not counted.
    pub frames_in: u64,
    /// Frames sent to its client, heart-beats not counted.
    pub frames_out: u64,
    /// The messages among them: those that its client published.
    pub messages_in: u64,
    /// The messages among them: those that were delivered.
    pub messages_out: u64,
    /// Messages in its mailbox.
    pub waiting_messages: usize,
    /// Their bytes.
    pub waiting_bytes: usize,
    /// Bytes that were taken out of the mailbox, and that its socket does not take.
    pub unwritten_bytes: usize,
    /// Frames that are being done, or wait for it.
    pub pending: usize,
    /// Its subscriptions.
    pub subscriptions: Vec<SubscriptionDetails>,
}

/// A subscription of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriptionDetails {
    /// What its client calls it: its id, or in STOMP 1.0 its destination.
    pub name: Box<str>,
    /// Where its messages come from.
    pub source: Source,
    /// `auto`, `client` or `client-individual`.
    pub ack: &'static str,
    /// Messages that were sent to it.
    pub messages: u64,
    /// Those of them that its client has to acknowledge.
    pub unacknowledged: usize,
}

/// Where the messages of a subscription come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A feed: the exchange, and the pattern of keys.
    Feed(Box<str>, Box<str>),
    /// A queue of its own.
    Queue(Box<str>),
}

/// The questions that connections have not answered yet, by the connection's number.
#[derive(Debug, Default)]
pub(super) struct Inquiries {
    count: AtomicUsize,
    open: Mutex<HashMap<u64, Vec<Asker>>>,
}

type Asker = oneshot::Sender<SessionDetails>;

/// A question that waits for its answer, until it is dropped.
pub(super) struct Inquiry<'a> {
    inquiries: &'a Inquiries,
    number: u64,
    answer: oneshot::Receiver<SessionDetails>,
}

impl Inquiries {
    /// Asks the connection of that number, which somebody has to wake.
    pub(super) fn ask(&self, number: u64) -> Inquiry<'_> {
        let (asker, answer) = oneshot::channel();
        let mut open = self.open.lock();
        open.entry(number).or_default().push(asker);
        self.recount(&open);
        drop(open);
        Inquiry {
            inquiries: self,
            number,
            answer,
        }
    }

    /// Whether somebody asks about that connection.
    pub(super) fn is_asked(&self, number: u64) -> bool {
        self.count.load(Ordering::Relaxed) > 0 && self.open.lock().contains_key(&number)
    }

    /// Answers all who ask about that connection.
    pub(super) fn answer(&self, number: u64, details: &SessionDetails) {
        let mut open = self.open.lock();
        let askers = open.remove(&number);
        self.recount(&open);
        drop(open);
        for asker in askers.into_iter().flatten() {
            // Whoever asked may wait no more.
            let _ = asker.send(details.clone());
        }
    }

    fn recount(&self, open: &HashMap<u64, Vec<Asker>>) {
        self.count.store(open.len(), Ordering::Relaxed);
    }
}

impl Inquiry<'_> {
    /// `None`: the connection is gone, or at its end.
    pub(super) async fn answer(mut self) -> Option<SessionDetails> {
        (&mut self.answer).await.ok()
    }
}

impl Drop for Inquiry<'_> {
    fn drop(&mut self) {
        self.answer.close();
        let mut open = self.inquiries.open.lock();
        if let Some(askers) = open.get_mut(&self.number) {
            askers.retain(|asker| !asker.is_closed());
            if askers.is_empty() {
                open.remove(&self.number);
            }
        }
        self.inquiries.recount(&open);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn details() -> SessionDetails {
        SessionDetails {
            version: "1.2",
            open_for: Duration::ZERO,
            frames_in: 1,
            frames_out: 2,
            messages_in: 3,
            messages_out: 4,
            waiting_messages: 5,
            waiting_bytes: 6,
            unwritten_bytes: 7,
            pending: 8,
            subscriptions: Vec::new(),
        }
    }

    #[test]
    fn all_who_ask_are_answered_and_nobody_else_is_asked() {
        let inquiries = Inquiries::default();
        assert!(!inquiries.is_asked(1));
        let (first, second) = (inquiries.ask(1), inquiries.ask(1));
        assert!(inquiries.is_asked(1) && !inquiries.is_asked(2));
        inquiries.answer(1, &details());
        assert!(!inquiries.is_asked(1));
        for inquiry in [first, second] {
            assert_eq!(inquiry.answer().now_or_never(), Some(Some(details())));
        }
        inquiries.answer(1, &details());
    }

    #[test]
    fn who_waits_no_more_leaves_nothing_behind() {
        let inquiries = Inquiries::default();
        let (first, second) = (inquiries.ask(1), inquiries.ask(1));
        drop(first);
        assert!(inquiries.is_asked(1));
        drop(second);
        assert!(!inquiries.is_asked(1));
        assert!(inquiries.open.lock().is_empty());
    }
}
