//! The values of one pattern.

use std::hash::Hash;

use hashbrown::HashSet;

use super::Removed;

/// At least one value, without repetition. Most patterns have one (a user's own key), which then
/// costs no allocation; a few have very many (everybody's news), which then leave in constant
/// time. Two words where `T` is one.
#[derive(Debug)]
pub(super) enum Values<T> {
    One(T),
    Many(Box<HashSet<T>>),
}

impl<T: Eq + Hash> Values<T> {
    /// Adds a value, unless it is there.
    pub(super) fn insert(&mut self, value: T) {
        match self {
            Self::One(one) if *one == value => {}
            Self::One(_) => {
                let mut many = Box::new(HashSet::with_capacity(2));
                many.insert(value);
                if let Self::One(one) = std::mem::replace(self, Self::Many(many)) {
                    self.insert(one);
                }
            }
            Self::Many(many) => {
                many.insert(value);
            }
        }
    }

    /// Removes a value, unless it is the last one: then the caller removes the whole.
    pub(super) fn remove(&mut self, value: &T) -> Removed {
        match self {
            Self::One(one) if *one == *value => Removed::Last,
            Self::One(_) => Removed::Absent,
            Self::Many(many) => {
                if !many.contains(value) {
                    return Removed::Absent;
                }
                if many.len() == 1 {
                    return Removed::Last;
                }
                many.remove(value);
                if many.len() < many.capacity() / 4 {
                    many.shrink_to(many.len().saturating_mul(2));
                }
                Removed::Remains
            }
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        let (one, many) = match self {
            Self::One(one) => (Some(one), None),
            Self::Many(many) => (None, Some(many.iter())),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }
}
