//! The values of one pattern.

use std::hash::{BuildHasher as _, Hash};

use hashbrown::{DefaultHashBuilder, HashTable};

use super::Removed;

/// At least one value, without repetition. Most patterns have one (a user's own key), which then
/// costs no allocation; a few have very many (everybody's news), which then leave in constant
/// time. Two words where `T` is one.
#[derive(Debug)]
pub(super) enum Values<T> {
    One(T),
    Many(Box<Many<T>>),
}

/// Several values, and the places of each by its hash.
///
/// Their order follows from what was added and removed alone, not from hashes: so a simulation runs
/// the same way each time, and a message to many reads their memory from front to back.
#[derive(Debug)]
pub(super) struct Many<T> {
    values: Vec<T>,
    places: HashTable<usize>,
    hasher: DefaultHashBuilder,
}

impl<T: Eq + Hash> Many<T> {
    fn new() -> Self {
        Self {
            values: Vec::with_capacity(2),
            places: HashTable::with_capacity(2),
            hasher: DefaultHashBuilder::default(),
        }
    }

    fn place(&self, value: &T) -> Option<usize> {
        let hash = self.hasher.hash_one(value);
        let is_it = |place: &usize| self.values.get(*place) == Some(value);
        self.places.find(hash, is_it).copied()
    }

    fn insert(&mut self, value: T) {
        if self.place(&value).is_some() {
            return;
        }
        let Self {
            values,
            places,
            hasher,
        } = self;
        let hash = hasher.hash_one(&value);
        let place = values.len();
        values.push(value);
        places.insert_unique(hash, place, rehash(values, hasher));
    }

    /// The last value takes the place of the one that goes.
    fn remove(&mut self, value: &T) -> bool {
        let Some(place) = self.place(value) else {
            return false;
        };
        let Self {
            values,
            places,
            hasher,
        } = self;
        let last = values.len().saturating_sub(1);
        if let Ok(entry) = places.find_entry(hasher.hash_one(value), |at| *at == place) {
            entry.remove();
        }
        values.swap_remove(place);
        if let Some(moved) = values.get(place)
            && let Some(at) = places.find_mut(hasher.hash_one(moved), |at| *at == last)
        {
            *at = place;
        }
        if values.len() < values.capacity() / 4 {
            let fewer = values.len().saturating_mul(2);
            values.shrink_to(fewer);
            places.shrink_to(fewer, rehash(values, hasher));
        }
        true
    }
}

/// The hash of the value at a place.
fn rehash<T: Hash>(values: &[T], hasher: &DefaultHashBuilder) -> impl Fn(&usize) -> u64 {
    // A place is always that of a value.
    move |place| values.get(*place).map_or(0, |value| hasher.hash_one(value))
}

impl<T: Eq + Hash> Values<T> {
    /// Adds a value, unless it is there.
    pub(super) fn insert(&mut self, value: T) {
        match self {
            Self::One(one) if *one == value => {}
            Self::One(_) => {
                let many = Self::Many(Box::new(Many::new()));
                if let Self::One(one) = std::mem::replace(self, many) {
                    self.insert(one);
                }
                self.insert(value);
            }
            Self::Many(many) => many.insert(value),
        }
    }

    /// Removes a value, unless it is the last one: then the caller removes the whole.
    pub(super) fn remove(&mut self, value: &T) -> Removed {
        match self {
            Self::One(one) if *one == *value => Removed::Last,
            Self::One(_) => Removed::Absent,
            Self::Many(many) => {
                if many.values.len() == 1 && many.place(value).is_some() {
                    return Removed::Last;
                }
                if many.remove(value) {
                    Removed::Remains
                } else {
                    Removed::Absent
                }
            }
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        let (one, many) = match self {
            Self::One(one) => (Some(one), None),
            Self::Many(many) => (None, Some(many.values.iter())),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// As a plain list does it: the order follows from what was done alone.
        #[test]
        fn the_order_is_that_of_what_was_done(steps in prop::collection::vec((any::<bool>(), 0..12_u8), 1..200)) {
            let (mut values, mut list) = (Values::One(0_u8), vec![0_u8]);
            for (adds, value) in steps {
                let place = list.iter().position(|other| *other == value);
                if adds {
                    values.insert(value);
                    if place.is_none() {
                        list.push(value);
                    }
                } else {
                    let expected = match place {
                        None => Removed::Absent,
                        Some(_) if list.len() == 1 => Removed::Last,
                        Some(place) => {
                            list.swap_remove(place);
                            Removed::Remains
                        }
                    };
                    prop_assert_eq!(values.remove(&value), expected);
                }
                prop_assert!(values.iter().eq(&list));
            }
        }
    }
}
