//! Bindings that a killed broker may have forgotten (pure).
//!
//! If it is killed before it has [written](WRITTEN_AFTER) one, it comes back without it, confirms what is
//! published to it, and routes it nowhere. AMQP does not tell; but which bindings were that young is
//! known here.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::broker::WRITTEN_AFTER;

/// An answer of before the link was lost may be handled so much later. No broker starts anew within
/// this time.
const LATE: Duration = Duration::from_secs(1);

/// The bindings of a feed that are young, and those that were when its link was lost; with the times of
/// their answers.
#[derive(Default)]
pub(super) struct Young {
    recent: VecDeque<(Instant, Arc<str>)>,
    doubted: VecDeque<(Instant, Arc<str>)>,
    /// When the link was lost that is not back yet.
    lost: Option<Instant>,
}

impl Young {
    /// It was bound for the first time.
    pub(super) fn bound(&mut self, binding: &Arc<str>, now: Instant) {
        let is_late = |lost| now.saturating_duration_since(lost) < LATE;
        if self.lost.is_some_and(is_late) {
            self.doubted.push_back((now, Arc::clone(binding)));
        } else {
            self.grow_up(now);
            self.recent.push_back((now, Arc::clone(binding)));
        }
    }

    /// The feed's link was lost, perhaps once more before it was back.
    pub(super) fn cut(&mut self, now: Instant) {
        self.grow_up(now);
        self.doubted.append(&mut self.recent);
        self.lost = Some(now);
    }

    /// The link is back. If the broker may have forgotten bindings: which. They are bound once more, and
    /// so are young again.
    pub(super) fn resumed(&mut self, may_have_forgotten: bool, now: Instant) -> Vec<Arc<str>> {
        self.lost = None;
        let mut doubted = std::mem::take(&mut self.doubted);
        if may_have_forgotten {
            let again = doubted.iter().map(|(_, it)| (now, Arc::clone(it)));
            self.recent.extend(again);
            return doubted.into_iter().map(|(_, it)| it).collect();
        }
        doubted.append(&mut self.recent);
        self.recent = doubted;
        self.grow_up(now);
        Vec::new()
    }

    fn grow_up(&mut self, now: Instant) {
        let is_safe = |at: Instant| now.saturating_duration_since(at) > WRITTEN_AFTER;
        while self.recent.front().is_some_and(|(at, _)| is_safe(*at)) {
            self.recent.pop_front();
        }
        if self.recent.capacity() > self.recent.len().max(16).saturating_mul(4) {
            self.recent.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Binds each so many milliseconds after the start; what is doubted of them after a cut.
    fn doubted(bindings: &[(&str, u64)], cut: u64) -> Vec<Arc<str>> {
        let (mut young, start) = (Young::default(), Instant::now());
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut is_cut = false;
        for (binding, milliseconds) in bindings {
            if *milliseconds > cut && !is_cut {
                young.cut(at(cut));
                is_cut = true;
            }
            young.bound(&Arc::from(*binding), at(*milliseconds));
        }
        if !is_cut {
            young.cut(at(cut));
        }
        young.resumed(true, at(cut))
    }

    #[test]
    fn what_is_old_is_safe() {
        let bindings = [("old", 0), ("young", 1_500), ("new", 3_900)];
        assert_eq!(doubted(&bindings, 4_000), ["young", "new"].map(Arc::from));
    }

    #[test]
    fn an_answer_of_before_may_come_late() {
        let bindings = [("young", 0), ("late", 1_900), ("of the new one", 2_100)];
        assert_eq!(doubted(&bindings, 1_000), ["young", "late"].map(Arc::from));
    }

    #[test]
    fn cuts_add_up_until_the_link_is_back() {
        let (mut young, start) = (Young::default(), Instant::now());
        young.bound(&Arc::from("a"), start);
        young.cut(start);
        young.bound(&Arc::from("b"), start + 2 * LATE);
        young.cut(start + 2 * LATE);
        let back = start + 3 * LATE;
        assert_eq!(young.resumed(true, back), ["a", "b"].map(Arc::from));
        // They were bound once more.
        young.cut(back + LATE);
        assert_eq!(young.resumed(true, back + 2 * LATE).len(), 2);
        young.cut(back + 2 * WRITTEN_AFTER);
        assert_eq!(young.resumed(true, back + 3 * WRITTEN_AFTER).len(), 0);
    }

    #[test]
    fn what_is_young_stays_so_over_a_short_cut() {
        let (mut young, start) = (Young::default(), Instant::now());
        young.bound(&Arc::from("a"), start);
        young.cut(start + LATE);
        assert!(young.resumed(false, start + LATE).is_empty());
        young.cut(start + 2 * LATE);
        assert_eq!(young.resumed(true, start + 9 * LATE), [Arc::from("a")]);
    }

    #[test]
    fn a_rush_leaves_no_memory_behind() {
        let (mut young, start) = (Young::default(), Instant::now());
        let binding = Arc::from("k");
        for _ in 0..100_000 {
            young.bound(&binding, start);
        }
        young.bound(&binding, start + 2 * WRITTEN_AFTER);
        assert!(young.recent.capacity() <= 64, "{}", young.recent.capacity());
    }
}
