//! Facts learnt a short while ago, and believed for as long: a refusal is not asked for again, and
//! a queue that existed still counts as existing.

use std::{borrow::Borrow, collections::HashMap, hash::Hash, time::Duration};

use tokio::time::Instant;

/// How long it is believed.
pub(crate) const BELIEF: Duration = Duration::from_secs(10);

/// How much is remembered at a time. Beyond, nothing more is: clients choose what it is of.
const MAX: usize = 1_000;

/// The facts about each `K` learnt in the last ten seconds.
#[derive(Debug)]
pub(crate) struct Recent<K, V = ()>(HashMap<K, (Instant, V)>);

impl<K, V> Default for Recent<K, V> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash, V> Recent<K, V> {
    /// Notes a fact learnt now. Returns true if it is news: it was not believed already.
    pub(crate) fn note(&mut self, key: K, what: V) -> bool {
        if self.0.len() >= MAX {
            self.0.retain(|_, (since, _)| since.elapsed() < BELIEF);
        }
        if self.0.len() >= MAX {
            return true;
        }
        let before = self.0.insert(key, (Instant::now(), what));
        before.is_none_or(|(since, _)| since.elapsed() >= BELIEF)
    }

    /// The fact that is believed of it. Forgets facts that are too old, so that one refusal does
    /// not cost all later calls a look.
    pub(crate) fn get<Q>(&mut self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let (since, _) = self.0.get(key)?;
        if since.elapsed() >= BELIEF {
            self.0.remove(key);
            return None;
        }
        self.0.get(key).map(|(_, what)| what)
    }

    /// True if nothing is remembered, so that there is nothing to look for.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Notes that the fact is no longer so.
    pub(crate) fn forget<Q>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.0.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_believed_for_ten_seconds() {
        let mut recent = Recent::default();
        assert!(recent.is_empty());
        assert!(recent.note("v", 1));
        advance(BELIEF - Duration::from_millis(1)).await;
        assert_eq!(recent.get("v"), Some(&1));
        assert_eq!(recent.get("w"), None);
        assert!(!recent.note("v", 2), "no news");
        advance(BELIEF - Duration::from_millis(1)).await;
        assert_eq!(recent.get("v"), Some(&2), "counted from the last time");
        advance(Duration::from_millis(1)).await;
        assert_eq!(recent.get("v"), None);
        assert!(recent.is_empty());
        assert!(recent.note("v", 3));
        recent.forget("v");
        assert_eq!(recent.get("v"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn its_memory_has_a_bound_and_makes_room() {
        let mut recent = Recent::default();
        for number in 0..=MAX {
            recent.note(number, ());
        }
        assert_eq!(recent.get(&0), Some(&()));
        assert_eq!(recent.get(&MAX), None);
        advance(BELIEF).await;
        recent.note(MAX, ());
        assert_eq!(recent.get(&0), None);
        assert_eq!(recent.get(&MAX), Some(&()));
    }
}
