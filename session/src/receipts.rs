//! What was begun and is not done, in the order of its frames, so that receipts keep that order
//! (STOMP 1.2, "RECEIPT": a receipt acknowledges all frames before it, too).

use std::collections::VecDeque;

use crate::{OperationId, SubscriptionId};

/// The queue of a session. Numbers are given in order and without gaps, so an entry's place is
/// its number less the first one's: no search, and no number is stored.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    queue: VecDeque<ReceiptEntry>,
    /// The number of the front entry, or of the next one where there is none.
    first: u64,
}

#[derive(Debug)]
struct ReceiptEntry {
    /// Receipts that are owed before its own: those of a transaction's SENDs.
    before: Box<[Box<str>]>,
    /// The `receipt` header of the frame.
    receipt: Option<Box<str>>,
    /// Further headers of its RECEIPT.
    told: Option<Box<Told>>,
    done: bool,
    if_denied: IfDenied,
}

/// Headers of a RECEIPT, beyond its id.
pub(crate) type Told = [(&'static str, Box<str>)];

/// The header of a RECEIPT of an ACK or NACK whose message is not settled by it: it may come again, to
/// this client or another. For [`crate::Session::tell_in_receipt`].
#[must_use]
pub fn unsettled() -> Box<[(&'static str, Box<str>)]> {
    <Box<Told>>::from([("settled", "false".into())])
}

/// The receipts that are due for one frame.
#[derive(Debug)]
pub(crate) struct Due {
    pub(crate) receipts: Vec<Box<str>>,
    /// Further headers of the last one.
    pub(crate) told: Option<Box<Told>>,
    /// The frame renewed the login.
    pub(crate) is_renewal: bool,
}

/// What is to be undone when an operation is denied, so that the session can go on as if its frame
/// had never come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IfDenied {
    /// Nothing.
    Nothing,
    /// The subscription, which is open since its frame came.
    Close(SubscriptionId),
    /// Nothing, for it is a renewal.
    Renewal,
    /// It cannot be undone: acknowledgements that were taken as made, and are not.
    TooLate,
}

impl Pending {
    /// Entries begun and not passed by [`Self::pop`]: those not done, and those done whose
    /// predecessors are not.
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Enters a frame whose work goes on.
    pub(crate) fn begin(&mut self, receipt: Option<Box<str>>, if_denied: IfDenied) -> OperationId {
        self.begin_after(Box::default(), receipt, if_denied)
    }

    /// The same, with receipts that are owed before its own.
    pub(crate) fn begin_after(
        &mut self,
        before: Box<[Box<str>]>,
        receipt: Option<Box<str>>,
        if_denied: IfDenied,
    ) -> OperationId {
        self.push(ReceiptEntry {
            before,
            receipt,
            told: None,
            done: false,
            if_denied,
        })
    }

    /// Enters a frame that is done already, and further headers of its RECEIPT. It is kept only where
    /// a receipt has to wait.
    pub(crate) fn complete(&mut self, receipt: Option<Box<str>>, told: Option<Box<Told>>) {
        if receipt.is_some() {
            self.push(ReceiptEntry {
                before: Box::default(),
                receipt,
                told,
                done: true,
                if_denied: IfDenied::Nothing,
            });
        }
    }

    /// Marks an entry as done, if there is one of that number.
    pub(crate) fn finish(&mut self, operation: OperationId) {
        if let Some(entry) = self.entry(operation) {
            entry.done = true;
        }
    }

    /// The RECEIPT of an entry that is not done has these headers, too.
    pub(crate) fn tell(&mut self, operation: OperationId, told: Box<Told>) {
        if let Some(entry) = self.entry(operation).filter(|entry| !entry.done) {
            entry.told = Some(told);
        }
    }

    /// Takes the receipt of an entry that failed; none is owed for it any more. `None` where there
    /// is no such entry, or it is done.
    pub(crate) fn fail(&mut self, operation: OperationId) -> Option<Option<Box<str>>> {
        let entry = self.entry(operation).filter(|entry| !entry.done)?;
        entry.before = Box::default();
        Some(entry.receipt.take())
    }

    /// Forgets the entries from this one on; whether there were any after it.
    pub(crate) fn abandon(&mut self, operation: OperationId) -> bool {
        let before = operation.0.saturating_sub(self.first);
        let place = usize::try_from(before).unwrap_or(usize::MAX);
        let is_more = place.saturating_add(1) < self.queue.len();
        self.queue.truncate(place);
        is_more
    }

    /// What is to be undone if the operation is denied. `None` where there is no such entry, or it
    /// is done.
    pub(crate) fn if_denied(&mut self, operation: OperationId) -> Option<IfDenied> {
        let entry = self.entry(operation).filter(|entry| !entry.done)?;
        Some(entry.if_denied)
    }

    /// Takes the front entry off if it is done: the receipts that were asked for.
    pub(crate) fn pop(&mut self) -> Option<Due> {
        if !self.queue.front()?.done {
            return None;
        }
        let entry = self.queue.pop_front()?;
        self.first = self.first.wrapping_add(1);
        if self.queue.is_empty() {
            self.queue = VecDeque::new();
        }
        Some(Due {
            told: entry.told.filter(|_| entry.receipt.is_some()),
            receipts: entry.before.into_iter().chain(entry.receipt).collect(),
            is_renewal: entry.if_denied == IfDenied::Renewal,
        })
    }

    /// The room taken, for tests.
    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.queue.capacity()
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    fn push(&mut self, entry: ReceiptEntry) -> OperationId {
        let operation = OperationId(self.first.wrapping_add(self.queue.len() as u64));
        self.queue.push_back(entry);
        operation
    }

    fn entry(&mut self, operation: OperationId) -> Option<&mut ReceiptEntry> {
        let place = operation.0.checked_sub(self.first)?;
        self.queue.get_mut(usize::try_from(place).ok()?)
    }
}
