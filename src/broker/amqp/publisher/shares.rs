//! How many of the virtual host's places for messages without an answer one exchange may take: as many
//! for each kind of message, on whichever lanes they are.

use std::{collections::HashMap, sync::Arc};

use tokio::sync::Semaphore;

use super::Kind;

/// So many exchanges are remembered before those are forgotten that have no message under way.
const MANY: usize = 128;

/// The places of each exchange. They are remembered while some are taken, or waited for.
pub(super) struct Shares {
    each: HashMap<Box<str>, Vec<(Kind, Arc<Semaphore>)>>,
    /// With so many exchanges, it is looked for those that may be forgotten: seldom enough to cost
    /// nothing, for most of a crowd may have messages under way.
    tidy_at: usize,
}

impl Default for Shares {
    fn default() -> Self {
        Self {
            each: HashMap::new(),
            tidy_at: MANY,
        }
    }
}

impl Shares {
    /// The places of an exchange for messages of that kind: so many, if nobody has any of them now.
    pub(super) fn of(&mut self, exchange: &str, kind: Kind, places: usize) -> Arc<Semaphore> {
        let known = self.each.get(exchange).and_then(|shares| {
            let mut shares = shares.iter();
            shares.find(|(of, _)| *of == kind)
        });
        if let Some((_, share)) = known {
            return Arc::clone(share);
        }
        if self.each.len() >= self.tidy_at {
            self.tidy();
        }
        let share = Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS)));
        let shares = self.each.entry(exchange.into()).or_default();
        shares.push((kind, Arc::clone(&share)));
        share
    }

    fn tidy(&mut self) {
        for shares in self.each.values_mut() {
            // Permits, and those who wait for one, have it as well.
            shares.retain(|(_, share)| Arc::strong_count(share) > 1);
        }
        self.each.retain(|_, shares| !shares.is_empty());
        self.tidy_at = self.each.len().saturating_mul(2).max(MANY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_exchange_and_kind_has_places_of_its_own() {
        let mut shares = Shares::default();
        let all: Vec<_> = ["a", "b"]
            .into_iter()
            .flat_map(|exchange| {
                [Kind::Fast(0), Kind::Fast(1), Kind::Alone, Kind::Slow].map(|kind| (exchange, kind))
            })
            .map(|(exchange, kind)| shares.of(exchange, kind, 1))
            .collect();
        let taken: Vec<_> = all.iter().map(|share| share.try_acquire()).collect();
        assert!(taken.iter().all(Result::is_ok));
        assert!(shares.of("a", Kind::Alone, 1).try_acquire().is_err());
    }

    #[test]
    fn only_what_is_taken_is_remembered() {
        let mut shares = Shares::default();
        let taken = shares.of("a", Kind::Slow, 1).try_acquire_owned().unwrap();
        for number in 0..10 * MANY {
            let _ = shares.of(&number.to_string(), Kind::Fast(0), 1);
        }
        assert!(shares.each.len() <= MANY);
        assert!(shares.of("a", Kind::Slow, 1).try_acquire().is_err());
        drop(taken);
        assert!(shares.of("a", Kind::Slow, 1).try_acquire().is_ok());
    }
}
