//! Messages as deltas, the differences to earlier ones (pure): what `delta:fossil` asks for.
//!
//! In [Fossil's format](super::fossil), since it works on any bytes, and a client decodes it in some fifty
//! lines (`clients/js/delta.js`). Nothing here decodes, for no delta comes from a client.

use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;
use stomp_grammar::Version;

use super::{
    fossil,
    message::{Message, Tail, Tails},
};

/// Shorter bodies go whole: a delta takes some twenty bytes at least.
const SHORTEST: usize = 64;
/// Longer ones, too: a connection that encodes one delays others on its thread.
const LONGEST: usize = 16 * 1024;
/// The deltas of one message that are made and kept: receivers at further bases get it whole.
const MOST: usize = 4;
/// A delta saves at least one part in so many. For less, a client need not take the trouble.
const SAVES: usize = 5;

/// The deltas of a message, made when somebody asks for them.
#[derive(Debug, Default)]
pub(super) struct Deltas(OnceLock<Box<Mutex<Vec<Made>>>>);

/// A delta, and its base. Weak, so that no message keeps its predecessors; and while it is there, no
/// other message has the base's address.
#[derive(Debug)]
struct Made {
    base: Weak<Message>,
    /// `None`: it would save too little.
    delta: Option<Arc<Delta>>,
}

/// A message's body as the difference to another's.
#[derive(Debug)]
pub struct Delta {
    body: Box<[u8]>,
    tails: OnceLock<Tails>,
}

impl Message {
    /// This message as a delta to `base`; `None` where that saves too little. It is encoded once for
    /// all who ask, as its tail is.
    #[must_use]
    pub fn delta_to(&self, base: &Arc<Self>) -> Option<Arc<Delta>> {
        if !self.fits_deltas() || !base.fits_deltas() {
            return None;
        }
        let mut all = self.deltas.0.get_or_init(Box::default).lock();
        let is_known = |made: &&Made| Weak::as_ptr(&made.base) == Arc::as_ptr(base);
        if let Some(made) = all.iter().find(is_known) {
            return made.delta.as_ref().map(Arc::clone);
        }
        if all.len() >= MOST {
            return None;
        }
        let delta = Delta::new(&base.body, &self.body).map(Arc::new);
        all.push(Made {
            base: Arc::downgrade(base),
            delta: delta.as_ref().map(Arc::clone),
        });
        delta
    }

    /// Whether it can be a delta, or the base of one.
    #[must_use]
    pub fn fits_deltas(&self) -> bool {
        (SHORTEST..=LONGEST).contains(&self.body.len())
    }
}

impl Delta {
    fn new(base: &[u8], body: &[u8]) -> Option<Self> {
        let most = body.len().saturating_sub(body.len() / SAVES);
        let delta = fossil::encode(base, body, most)?;
        Some(Self {
            body: delta.into(),
            tails: OnceLock::new(),
        })
    }

    /// The delta alone.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// As [`Message::tail`], of the message that it was made of.
    pub fn tail(&self, of: &Message, version: Version, topics: &str) -> &Tail {
        of.tail_with(&self.tails, &self.body, version, topics)
    }
}

/// A copy makes its own.
impl Clone for Deltas {
    fn clone(&self) -> Self {
        Self::default()
    }
}

#[cfg(test)]
#[path = "delta_tests.rs"]
mod tests;
