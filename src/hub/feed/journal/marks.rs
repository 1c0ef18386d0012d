//! When which position of a journal was reached, by this machine's clock (pure). The broker keeps times,
//! too, but by its own clock, which may be another one.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

/// Between two marks.
const BETWEEN: Duration = Duration::from_secs(1);
/// Marks that are kept.
const MAX: usize = 1_024;
/// If there are more, those that stay lie apart by this part of their age, at most.
const FINE: u32 = 64;

/// Moments, each with the position that had been reached: everything that was published later comes
/// from there on.
#[derive(Debug, Default)]
pub(super) struct Marks(VecDeque<(Instant, u64)>);

impl Marks {
    /// Everything before that position has been read, whatever of it was for anybody.
    pub(super) fn note(&mut self, now: Instant, position: u64) {
        if let Some((last, reached)) = self.0.back()
            && (now.duration_since(*last) < BETWEEN || position <= *reached)
        {
            return;
        }
        if self.0.len() >= MAX {
            self.thin(now);
        }
        self.0.push_back((now, position));
    }

    /// Leaves out marks whose neighbours are near each other, for their age; or the oldest.
    fn thin(&mut self, now: Instant) {
        let mut kept = VecDeque::<(Instant, u64)>::with_capacity(MAX);
        let mut marks = std::mem::take(&mut self.0).into_iter().peekable();
        while let Some((at, position)) = marks.next() {
            let near = now.duration_since(at).checked_div(FINE).unwrap_or_default();
            let is_needless = match (kept.back(), marks.peek()) {
                (Some((before, _)), Some((next, _))) => next.duration_since(*before) <= near,
                _ => false,
            };
            if !is_needless {
                kept.push_back((at, position));
            }
        }
        if kept.len() >= MAX {
            kept.pop_front();
        }
        self.0 = kept;
    }

    /// A position from which on everything comes that was published at that moment or later; a few may
    /// be older. `None`: it is longer ago than anything was read.
    pub(super) fn at(&self, moment: Instant) -> Option<u64> {
        let after = self.0.partition_point(|(at, _)| *at <= moment);
        let (_, position) = self.0.get(after.checked_sub(1)?)?;
        Some(*position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_was_published_later_comes_from_a_mark_on() {
        let begun = Instant::now();
        let mut marks = Marks::default();
        assert_eq!(marks.at(begun), None);
        for position in 0..100_u64 {
            // Ten of them in a second.
            let now = begun + u32::try_from(position).unwrap() * SECOND / 10;
            marks.note(now, position);
        }
        assert_eq!(marks.at(begun), Some(0));
        assert_eq!(marks.at(begun + SECOND * 5 / 2), Some(20));
        assert_eq!(marks.at(begun + SECOND * 100), Some(90));
        assert_eq!(marks.at(begun.checked_sub(SECOND).unwrap()), None);
    }

    /// A part of the past that is read later says nothing of what came meanwhile.
    #[test]
    fn positions_of_the_past_are_no_marks() {
        let begun = Instant::now();
        let mut marks = Marks::default();
        marks.note(begun, 100);
        marks.note(begun + SECOND * 10, 50);
        assert_eq!(marks.at(begun + SECOND * 20), Some(100));
    }

    #[test]
    fn marks_are_bounded_and_older_ones_lie_further_apart() {
        let begun = Instant::now();
        let mut marks = Marks::default();
        for second in 0..10_000_u64 {
            marks.note(begun + Duration::from_secs(second), second);
        }
        assert!(marks.0.len() <= MAX);
        for second in [0, 10, 1_000, 5_000, 9_000, 9_990, 9_999] {
            let position = marks.at(begun + Duration::from_secs(second)).unwrap();
            let earliest = second.saturating_sub((10_000 - second) / 60);
            assert!(
                (earliest..=second).contains(&position),
                "{second}: {position}"
            );
        }
    }

    #[test]
    fn the_oldest_mark_goes_if_there_are_too_many_for_any_age() {
        let begun = Instant::now();
        let mut marks = Marks::default();
        // Each lies apart from the last one by a thirtieth of its age.
        let mut moments = vec![0.0];
        for _ in 0..2_000 {
            let age: f64 = moments.last().copied().unwrap_or_default();
            moments.push((age * 31.0 / 30.0).max(age + 2.0).min(1e9));
        }
        let end = 1e9;
        moments.reverse();
        for (position, age) in (0..).zip(moments) {
            marks.note(begun + Duration::from_secs_f64(end - age), position);
        }
        assert!(marks.0.len() <= MAX);
        assert!(marks.at(begun + Duration::from_secs_f64(end)).is_some());
    }
}
