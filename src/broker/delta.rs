//! Messages as deltas, the differences to earlier ones (pure): what `delta:fossil` asks for.
//!
//! In [Fossil's format](super::fossil), since it works on any bytes, and a client decodes it in some fifty
//! lines (`clients/js/delta.js`). Nothing here decodes, for no delta comes from a client.

use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;

use super::{fossil, tail::Tails};

/// Shorter bodies go whole: a delta takes some twenty bytes at least.
const SHORTEST: usize = 64;
/// Longer ones, too: a connection that encodes one delays others on its thread.
pub(super) const LONGEST: usize = 16 * 1024;
/// The deltas of one message that are made and kept: receivers at further bases get it whole.
pub(super) const MOST: usize = 4;
/// A delta saves at least one part in so many. For less, a client need not take the trouble.
pub(super) const SAVES: usize = 5;

/// The deltas of a message `M`, made when somebody asks for them.
#[derive(Debug)]
pub(super) struct Deltas<M>(OnceLock<Box<Mutex<Vec<Made<M>>>>>);

/// A delta, and its base. Weak, so that no message keeps its predecessors; and while it is there, no
/// other message has the base's address.
#[derive(Debug)]
struct Made<M> {
    base: Weak<M>,
    /// `None`: it would save too little.
    delta: Option<Arc<Delta>>,
}

/// A message's body as the difference to another's.
#[derive(Debug)]
pub struct Delta {
    body: Box<[u8]>,
    pub(super) tails: Tails,
}

/// Whether a body can be a delta, or the base of one.
pub(super) fn fits(body: &[u8]) -> bool {
    (SHORTEST..=LONGEST).contains(&body.len())
}

impl<M> Deltas<M> {
    /// The delta of the body to that of the base.
    pub(super) fn to(&self, base: &Arc<M>, of_base: &[u8], body: &[u8]) -> Option<Arc<Delta>> {
        if !fits(of_base) || !fits(body) {
            return None;
        }
        let mut all = self.0.get_or_init(Box::default).lock();
        all.retain(|made| made.base.strong_count() > 0);
        let is_known = |made: &&Made<M>| Weak::as_ptr(&made.base) == Arc::as_ptr(base);
        if let Some(made) = all.iter().find(is_known) {
            return made.delta.as_ref().map(Arc::clone);
        }
        if all.len() >= MOST {
            return None;
        }
        let delta = Delta::new(of_base, body).map(Arc::new);
        all.push(Made {
            base: Arc::downgrade(base),
            delta: delta.as_ref().map(Arc::clone),
        });
        delta
    }

    /// Drops those whose base nobody has any more.
    pub(super) fn tidy(&self) {
        if let Some(all) = self.0.get() {
            all.lock().retain(|made| made.base.strong_count() > 0);
        }
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.0.get().map_or(0, |all| all.lock().len())
    }
}

/// The greatest size of a delta of a body of that length.
#[must_use]
pub const fn longest_delta(body: usize) -> usize {
    body.saturating_sub(body / SAVES)
}

impl Delta {
    fn new(base: &[u8], body: &[u8]) -> Option<Self> {
        let most = longest_delta(body.len());
        let delta = fossil::encode(base, body, most)?;
        Some(Self {
            body: delta.into(),
            tails: Tails::default(),
        })
    }

    /// The delta alone.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }
}

impl<M> Default for Deltas<M> {
    fn default() -> Self {
        Self(OnceLock::new())
    }
}

/// A copy makes its own.
impl<M> Clone for Deltas<M> {
    fn clone(&self) -> Self {
        Self::default()
    }
}
