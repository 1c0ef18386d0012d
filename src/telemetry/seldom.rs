//! Frequent events that are logged only now and then.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// Lets one event through in a while, and counts those in between.
#[derive(Debug)]
pub struct Seldom {
    /// How far apart those are that are let through, at least.
    quiet: Duration,
    /// When one was let through.
    said: Option<Instant>,
    /// Since then.
    unsaid: u64,
}

impl Default for Seldom {
    fn default() -> Self {
        Self::once_in(Self::QUIET)
    }
}

impl Seldom {
    /// Events that are let through are at least this far apart, unless something else is said.
    pub const QUIET: Duration = Duration::from_secs(5);

    /// For clients that are refused, however many they are.
    pub const MINUTE: Duration = Duration::from_secs(60);

    /// Lets one event through in so long.
    #[must_use]
    pub const fn once_in(quiet: Duration) -> Self {
        Self {
            quiet,
            said: None,
            unsaid: 0,
        }
    }

    /// `Some` if this event should be logged: the number of events left out before it.
    pub fn let_through(&mut self, now: Instant) -> Option<u64> {
        if self.is_quiet(now) {
            self.unsaid = self.unsaid.saturating_add(1);
            return None;
        }
        self.said = Some(now);
        Some(self.take_unsaid())
    }

    /// True if it is too soon to log anything.
    #[must_use]
    pub fn is_quiet(&self, now: Instant) -> bool {
        self.said
            .is_some_and(|said| now.saturating_duration_since(said) < self.quiet)
    }

    /// Takes the number of events left out.
    pub fn take_unsaid(&mut self) -> u64 {
        std::mem::take(&mut self.unsaid)
    }
}

/// A fault that may last: it is said when it begins, when it is another one, and once a minute.
#[derive(Debug)]
pub struct Repeated {
    said: Option<String>,
    seldom: Seldom,
}

impl Default for Repeated {
    fn default() -> Self {
        Self {
            said: None,
            seldom: Seldom::once_in(Seldom::MINUTE),
        }
    }
}

impl Repeated {
    /// There is this fault; whether to say so.
    pub fn is_news(&mut self, fault: &str, now: Instant) -> bool {
        if self.said.as_deref() != Some(fault) {
            self.seldom = Seldom::once_in(Seldom::MINUTE);
            self.said = Some(fault.to_owned());
        }
        self.seldom.let_through(now).is_some()
    }

    /// There is no fault any more; true if there was one.
    pub fn end(&mut self) -> bool {
        self.said.take().is_some()
    }
}

/// Lets some events through in a while, and counts the others: for lines that support looks for,
/// of which there are few unless somebody wants to fill the log.
#[derive(Debug, Default)]
pub struct Few {
    /// When the first of these was let through.
    since: Option<Instant>,
    said: u32,
    /// Not let through since the last that was.
    unsaid: u64,
}

impl Few {
    /// So many are let through…
    pub const MOST: u32 = 50;
    /// …in so long.
    pub const WHILE: Duration = Duration::from_secs(10);

    /// Nothing was said yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            since: None,
            said: 0,
            unsaid: 0,
        }
    }

    /// Whether to say this event, and then how many went unsaid before it.
    pub fn let_through(&mut self, now: Instant) -> Option<u64> {
        if self.is_over(now) {
            self.since = Some(now);
            self.said = 0;
        }
        if self.said >= Self::MOST {
            self.unsaid = self.unsaid.saturating_add(1);
            return None;
        }
        self.said = self.said.saturating_add(1);
        Some(self.take_unsaid())
    }

    /// Takes the number of events left out, for a line that is said anyway.
    pub fn take_unsaid(&mut self) -> u64 {
        std::mem::take(&mut self.unsaid)
    }

    fn is_over(&self, now: Instant) -> bool {
        self.since
            .is_none_or(|since| now.saturating_duration_since(since) >= Self::WHILE)
    }
}

/// The same for each of many, so that one who causes very many leaves the others theirs.
#[derive(Debug, Default)]
pub(super) struct FewOfEach {
    each: HashMap<Box<str>, Few>,
    /// Of all for whom there is no room.
    others: Few,
}

impl FewOfEach {
    /// So many are told apart.
    const MOST: usize = 1_000;

    /// Whether to say this event of that one, and then how many of its went unsaid before it.
    pub(super) fn let_through(&mut self, who: &str, now: Instant) -> Option<u64> {
        if let Some(few) = self.each.get_mut(who) {
            return few.let_through(now);
        }
        if self.each.len() >= Self::MOST && self.others.is_over(now) {
            self.each.retain(|_, few| !few.is_over(now));
        }
        if self.each.len() >= Self::MOST {
            return self.others.let_through(now);
        }
        self.each.entry(who.into()).or_default().let_through(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_said_when_it_begins_when_it_is_another_and_once_a_minute() {
        let start = Instant::now();
        let mut faults = Repeated::default();
        assert!(!faults.end(), "nothing was said");
        assert!(faults.is_news("a", start));
        assert!(!faults.is_news("a", start + Duration::from_secs(59)));
        assert!(faults.is_news("a", start + Seldom::MINUTE));
        assert!(faults.is_news("b", start + Seldom::MINUTE));
        assert!(!faults.is_news("b", start + Seldom::MINUTE));
        assert!(faults.end());
        assert!(
            faults.is_news("b", start + Seldom::MINUTE),
            "it begins anew"
        );
    }

    #[test]
    fn a_few_are_said_in_a_while() {
        let start = Instant::now();
        let mut few = Few::default();
        for _ in 0..Few::MOST {
            assert_eq!(few.let_through(start), Some(0));
        }
        for milliseconds in [0, 1, 9_999] {
            let now = start + Duration::from_millis(milliseconds);
            assert_eq!(few.let_through(now), None);
        }
        assert_eq!(few.let_through(start + Few::WHILE), Some(3));
        assert_eq!(few.let_through(start + Few::WHILE), Some(0));
    }

    #[test]
    fn a_few_of_each_are_said() {
        let start = Instant::now();
        let mut few = FewOfEach::default();
        let said = |few: &mut FewOfEach, who: &str, now| {
            let told = (0..1_000).filter(|_| few.let_through(who, now).is_some());
            told.count()
        };
        let most = usize::try_from(Few::MOST).unwrap();
        assert_eq!(said(&mut few, "eve", start), most);
        assert_eq!(few.let_through("alice", start), Some(0));
        assert_eq!(few.let_through("eve", start + Few::WHILE), Some(950));
        for number in 0..FewOfEach::MOST {
            few.let_through(&number.to_string(), start);
        }
        assert_eq!(few.each.len(), FewOfEach::MOST, "they are bounded");
        // Two of the numbers had no room.
        assert_eq!(said(&mut few, "late", start), most - 2);
        assert_eq!(said(&mut few, "later", start), 0, "they share what is left");
        // Those who were quiet for a while make room.
        assert_eq!(few.let_through("latest", start + Few::WHILE * 2), Some(0));
        assert_eq!(few.each.len(), 1);
    }

    #[test]
    fn the_first_is_said_then_one_now_and_then_with_a_count() {
        let start = Instant::now();
        let mut seldom = Seldom::default();
        assert_eq!(seldom.let_through(start), Some(0));
        for milliseconds in [1, 2, 4_999] {
            let now = start + Duration::from_millis(milliseconds);
            assert_eq!(seldom.let_through(now), None);
        }
        assert_eq!(seldom.let_through(start + Seldom::QUIET), Some(3));
        assert_eq!(seldom.let_through(start + Seldom::QUIET), None);
        assert_eq!(seldom.let_through(start + Seldom::QUIET * 3), Some(1));
    }
}
