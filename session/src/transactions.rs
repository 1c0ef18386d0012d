//! What clients gather between BEGIN and COMMIT (STOMP 1.2, "BEGIN"), bounded.

use stomp_grammar::Frame;

use crate::{Config, Problem, Publish, SubscriptionId, Verdict};

/// A frame holds more than its bytes: this much for each of its headers.
const HEADER: usize = 8;
/// And about this much for itself, as long as it is in a transaction.
const FRAME: usize = 256;

/// Bytes that a frame holds in memory, by its headers and its body.
#[must_use]
pub fn held_bytes(frame: &Frame) -> usize {
    let headers = frame.headers.iter().map(|(name, value)| {
        HEADER
            .saturating_add(name.len())
            .saturating_add(value.len())
    });
    headers.fold(frame.body.len(), usize::saturating_add)
}

/// Bytes that a frame holds in a transaction, and counts towards
/// [`Config::max_transaction_bytes`]. A bound on the memory of transactions must not count more, or
/// one within that limit could be too large to be committed.
#[must_use]
pub fn gathered_bytes(frame: &Frame) -> usize {
    held_bytes(frame).saturating_add(FRAME)
}

/// One frame of a transaction.
#[derive(Debug)]
pub(crate) enum Step {
    Publish(Publish),
    /// Resolved at COMMIT only: until then the message stays unacknowledged, so that it can be
    /// acknowledged again after ABORT.
    Settle {
        subscription: SubscriptionId,
        sequence: u64,
        verdict: Verdict,
    },
}

/// A session's open transactions. Most sessions never open one, so all of it is boxed away.
#[derive(Debug, Default)]
pub(crate) struct Transactions(Option<Box<Open>>);

#[derive(Debug, Default)]
struct Open {
    list: Vec<Transaction>,
    /// Of all in `list`.
    bytes: usize,
}

#[derive(Debug)]
struct Transaction {
    id: Box<str>,
    bytes: usize,
    /// Those of ACK and NACK among them.
    acknowledging: usize,
    steps: Vec<Step>,
}

impl Transactions {
    /// BEGIN.
    pub(crate) fn begin(&mut self, id: &str, config: &Config) -> Result<(), Problem> {
        if self.contains(id) {
            return Err(Problem::DuplicateTransaction(id.into()));
        }
        if self.0.as_ref().map_or(0, |open| open.list.len()) >= config.max_transactions {
            return Err(Problem::TooManyTransactions {
                limit: config.max_transactions,
            });
        }
        let transaction = Transaction {
            id: id.into(),
            bytes: 0,
            acknowledging: 0,
            steps: Vec::new(),
        };
        self.0.get_or_insert_default().list.push(transaction);
        Ok(())
    }

    /// Whether a transaction of that name is open.
    pub(crate) fn contains(&self, id: &str) -> bool {
        self.0
            .as_ref()
            .is_some_and(|open| open.list.iter().any(|t| &*t.id == id))
    }

    /// Adds a frame of that many `bytes` to a transaction.
    pub(crate) fn add(
        &mut self,
        id: &str,
        step: Step,
        bytes: usize,
        config: &Config,
    ) -> Result<(), Problem> {
        let unknown = || Problem::UnknownTransaction(id.into());
        let open = self.0.as_mut().ok_or_else(unknown)?;
        let transaction = open
            .list
            .iter_mut()
            .find(|t| &*t.id == id)
            .ok_or_else(unknown)?;
        if transaction.steps.len() >= config.max_transaction_frames {
            return Err(Problem::TransactionTooLong {
                limit: config.max_transaction_frames,
            });
        }
        let total = open.bytes.saturating_add(bytes);
        if total > config.max_transaction_bytes {
            return Err(Problem::TransactionTooBig {
                limit: config.max_transaction_bytes,
            });
        }
        open.bytes = total;
        transaction.bytes = transaction.bytes.saturating_add(bytes);
        if matches!(step, Step::Settle { .. }) {
            transaction.acknowledging = transaction.acknowledging.saturating_add(bytes);
        }
        transaction.steps.push(step);
        Ok(())
    }

    /// COMMIT or ABORT: takes a transaction out.
    pub(crate) fn end(&mut self, id: &str) -> Result<Vec<Step>, Problem> {
        let unknown = || Problem::UnknownTransaction(id.into());
        let open = self.0.as_mut().ok_or_else(unknown)?;
        let at = open
            .list
            .iter()
            .position(|t| &*t.id == id)
            .ok_or_else(unknown)?;
        let transaction = open.list.swap_remove(at);
        open.bytes = open.bytes.saturating_sub(transaction.bytes);
        if open.list.is_empty() {
            self.0 = None;
        }
        Ok(transaction.steps)
    }

    /// Bytes of all frames.
    pub(crate) fn bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |open| open.bytes)
    }

    /// Bytes of ACK and NACK frames among them.
    pub(crate) fn acknowledging(&self) -> usize {
        let list = self.0.iter().flat_map(|open| &open.list);
        list.fold(0, |sum, transaction| {
            sum.saturating_add(transaction.acknowledging)
        })
    }

    /// Aborts all.
    pub(crate) fn clear(&mut self) {
        self.0 = None;
    }

    /// Open transactions, their frames and their bytes, for tests.
    #[cfg(test)]
    pub(crate) fn load(&self) -> (usize, usize, usize) {
        self.0.as_ref().map_or((0, 0, 0), |open| {
            (
                open.list.len(),
                open.list.iter().map(|t| t.steps.len()).sum(),
                open.bytes,
            )
        })
    }
}
