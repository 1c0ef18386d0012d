//! The verdict on an attack, and its words (pure).

use serde::Serialize;

use super::{
    attacker::Deeds,
    honest::Noticed,
    list::{Attack, Bounds, Delay, LEFT, NOISE},
    visitor::Visits,
    watch::Grown,
};
use crate::{
    named::Named as _,
    outcome::Conditions,
    summary::{columns, number},
};

/// The rest of a reason is in what was saved. In letters.
const MAX_REASON: usize = 240;

/// The ERROR that tells a subscriber that messages are missing.
const INTERRUPTED: &str = "feed interrupted";

/// The effects that others noticed in one of the three whiles.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct While {
    #[serde(flatten)]
    pub(super) crowd: Noticed,
    pub(super) visits: Visits,
}

/// An attack that was tried: a JSON file each.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Tried {
    pub(super) attack: Attack,
    /// Which build of the gateway, where several are attacked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) build: Option<String>,
    pub(super) quick: bool,
    pub(super) verdict: Verdict,
    /// Why not.
    pub(super) reasons: Vec<String>,
    pub(super) deeds: Deeds,
    pub(super) without: While,
    pub(super) during: While,
    pub(super) after: While,
    pub(super) memory: Grown,
    pub(super) conditions: Conditions,
}

/// The verdict: held if others did not notice.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Verdict {
    Held,
    NotHeld,
    /// A precondition is missing.
    NotTried,
}

impl Tried {
    /// One that was not, and why.
    pub(super) fn not(attack: Attack, build: Option<String>, quick: bool, why: String) -> Self {
        Self {
            attack,
            build,
            quick,
            verdict: Verdict::NotTried,
            reasons: vec![why],
            deeds: Deeds::default(),
            without: While::default(),
            during: While::default(),
            after: While::default(),
            memory: Grown::default(),
            conditions: Conditions::default(),
        }
    }

    /// Looks at what was noticed.
    pub(super) fn judged(mut self) -> Self {
        self.reasons = self.faults(self.attack.bounds(self.quick));
        self.verdict = match self.reasons.as_slice() {
            [] => Verdict::Held,
            _ => Verdict::NotHeld,
        };
        self
    }

    fn faults(&self, bounds: Bounds) -> Vec<String> {
        let mut faults = Vec::new();
        if self.deeds.frames == 0 {
            let said = self
                .deeds
                .said
                .keys()
                .next()
                .map_or("nothing was said", String::as_str);
            faults.push(format!("nothing of the attack reached the gateway: {said}"));
        }
        for (when, part) in [
            ("without the attack", &self.without),
            ("meanwhile", &self.during),
            ("afterwards", &self.after),
        ] {
            // A subscriber that was told of a gap is gone afterwards, too.
            if self.attack != Attack::FullQueues || !self.is_told() {
                faults.extend(part.faults().map(|fault| format!("{when}: {fault}")));
            }
        }
        let too_slow = match bounds.delay {
            Delay::Any => None,
            Delay::Second => self.slower_than(|_, _| (f64::INFINITY, 1000.0)),
            Delay::Twice => self.slower_than(|p50, p99| {
                let (noise, p99_noise) = NOISE;
                ((2.0 * p50).max(noise), (2.0 * p99).max(p99_noise))
            }),
        };
        faults.extend(too_slow);
        let grown = self.memory.most_mib - self.memory.before_mib;
        if self.memory.stopped {
            faults.push(format!("+{grown:.0} MiB, where the attack was stopped"));
        } else if let Some(bound) = bounds.growth.filter(|&bound| grown > bound) {
            faults.push(format!("+{grown:.0} MiB, more than {bound:.0}"));
        }
        match self.memory.after_mib {
            None => faults.push("the gateway has ended".into()),
            Some(after) if after - self.memory.before_mib > LEFT => {
                let left = after - self.memory.before_mib;
                faults.push(format!(
                    "+{left:.0} MiB some seconds afterwards, more than {LEFT:.0}"
                ));
            }
            Some(_) => {}
        }
        faults.into_iter().map(in_a_line).collect()
    }

    /// True if subscribers were told that messages are missing.
    fn is_told(&self) -> bool {
        let mut troubles = [&self.during, &self.after]
            .map(|part| &part.crowd.troubles)
            .into_iter()
            .flatten();
        troubles.any(|trouble| trouble.contains(INTERRUPTED))
    }

    fn slower_than(&self, bounds: impl Fn(f64, f64) -> (f64, f64)) -> Option<String> {
        let (quiet, during) = (&self.without.crowd, &self.during.crowd);
        let (p50_bound, p99_bound) = bounds(quiet.p50_ms?, quiet.p99_ms?);
        let (p50, p99) = (during.p50_ms?, during.p99_ms?);
        (p50 > p50_bound || p99 > p99_bound).then(|| {
            format!(
                "others' messages take {} ms (p99 {}), without the attack {} ({})",
                number(p50),
                number(p99),
                number(quiet.p50_ms.unwrap_or_default()),
                number(quiet.p99_ms.unwrap_or_default()),
            )
        })
    }
}

impl While {
    fn faults(&self) -> impl Iterator<Item = String> {
        let wrong = self.crowd.verification;
        let messages = (!wrong.is_clean()).then(|| {
            format!(
                "{} messages lost, {} duplicated, {} out of order, {} misrouted or given up before",
                wrong.lost, wrong.duplicated, wrong.reordered, wrong.misrouted
            )
        });
        let visits = &self.visits;
        let failed = (visits.failed > 0).then(|| {
            let all = visits.failed + visits.right;
            let first = visits.failures.first().map_or("", String::as_str);
            format!("{} of {all} visits failed: {first}", visits.failed)
        });
        let troubles = self.crowd.troubles.iter().cloned();
        messages.into_iter().chain(failed).chain(troubles)
    }
}

/// The text of a broker may have several lines, and be long.
fn in_a_line(text: String) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let line = words.join(" ");
    match line.char_indices().nth(MAX_REASON) {
        Some((end, _)) => format!("{}…", line.get(..end).unwrap_or_default()),
        None => line,
    }
}

/// All that were tried at one build, for the terminal.
pub(super) fn table(tried: &[Tried]) -> String {
    let head = [
        "attack",
        "verdict",
        "frames",
        "p50 ms without",
        "with",
        "p99 ms without",
        "with",
        "visits",
        "failed",
        "MiB before",
        "most",
        "after",
    ];
    let mut lines = vec![head.map(ToOwned::to_owned).to_vec()];
    for its in tried {
        let verdict = match its.verdict {
            Verdict::Held => "held",
            Verdict::NotHeld => "NOT HELD",
            Verdict::NotTried => "not tried",
        };
        let mut line = vec![its.attack.name(), verdict.into()];
        if its.verdict != Verdict::NotTried {
            line.push(its.deeds.frames.to_string());
            let (quiet, during) = (&its.without.crowd, &its.during.crowd);
            let latencies = [quiet.p50_ms, during.p50_ms, quiet.p99_ms, during.p99_ms];
            line.extend(latencies.map(|value| value.map_or("-".into(), number)));
            let failed = its.during.visits.failed + its.after.visits.failed;
            let right = its.during.visits.right + its.after.visits.right;
            line.extend([failed + right, failed].map(|count| count.to_string()));
            let Grown {
                before_mib,
                most_mib,
                after_mib,
                ..
            } = its.memory;
            let memory = [Some(before_mib), Some(most_mib), after_mib];
            line.extend(memory.map(|mib| mib.map_or("-".into(), |mib| format!("{mib:.0}"))));
        }
        lines.push(line);
    }
    let table = columns(lines);
    let mut text = String::new();
    let mut rows = table.lines();
    text.extend(rows.next().into_iter().flat_map(|head| [head, "\n"]));
    for (its, row) in tried.iter().zip(rows) {
        text.extend([row, "\n"]);
        for reason in &its.reasons {
            text.push_str(&format!("  ! {reason}\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One that nobody noticed.
    fn tried(attack: Attack) -> Tried {
        let mut tried = Tried::not(attack, None, false, String::new());
        tried.deeds.frames = 10;
        for part in [&mut tried.without, &mut tried.during, &mut tried.after] {
            part.crowd.verification.correct = 100;
            part.crowd.p50_ms = Some(4.0);
            part.crowd.p99_ms = Some(40.0);
            part.visits.right = 10;
        }
        tried.memory = Grown {
            before_mib: 20.0,
            most_mib: 30.0,
            after_mib: Some(25.0),
            stopped: false,
        };
        tried
    }

    #[track_caller]
    fn assert_fault(tried: Tried, expected: &str) {
        let tried = tried.judged();
        assert_eq!(tried.verdict, Verdict::NotHeld);
        assert_eq!(tried.reasons.len(), 1, "{:?}", tried.reasons);
        assert!(tried.reasons[0].contains(expected), "{:?}", tried.reasons);
        let table = table(&[tried]);
        assert!(
            table.contains("NOT HELD") && table.contains(expected),
            "{table}"
        );
    }

    #[test]
    fn what_nobody_noticed_was_held() {
        let tried = tried(Attack::Bodies).judged();
        assert_eq!((tried.verdict, tried.reasons.len()), (Verdict::Held, 0));
    }

    #[test]
    fn an_attack_that_did_not_take_place_was_not_held() {
        let mut none = tried(Attack::Bodies);
        none.deeds.frames = 0;
        assert_fault(none, "nothing of the attack reached the gateway");
    }

    #[test]
    fn a_reason_is_a_line() {
        let mut long = tried(Attack::Denied);
        let failure = format!("SEND: one\ntwo {}", "x".repeat(1000));
        (long.during.visits.failed, long.during.visits.failures) = (1, vec![failure]);
        let reason = long.judged().reasons.remove(0);
        assert!(reason.contains("SEND: one two xxx"), "{reason}");
        assert!(reason.ends_with('…') && reason.len() < 300, "{reason}");
    }

    #[test]
    fn losses_and_failures_count_whenever_they_are() {
        let mut lossy = tried(Attack::SendMissing);
        lossy.during.crowd.verification.lost = 3;
        assert_fault(lossy, "meanwhile: 3 messages lost");
        let mut cut_off = tried(Attack::SendMissing);
        cut_off.during.crowd.troubles = vec!["2 of 40 publishers were cut off".into()];
        assert_fault(cut_off, "meanwhile: 2 of 40 publishers were cut off");
        let mut failed = tried(Attack::SubscribeMissing);
        failed.after.visits.failed = 4;
        failed.after.visits.failures = vec!["SUBSCRIBE /queue/visitor: ERROR".into()];
        assert_fault(failed, "afterwards: 4 of 14 visits failed: SUBSCRIBE");
    }

    #[test]
    fn a_gap_that_subscribers_are_told_of_is_held() {
        let mut silent = tried(Attack::FullQueues);
        silent.during.crowd.verification.lost = 319;
        let mut told = silent.clone();
        assert_fault(silent, "meanwhile: 319 messages lost");
        told.during.crowd.troubles = vec!["a client was disconnected: feed interrupted".into()];
        assert_eq!(told.judged().verdict, Verdict::Held);
    }

    #[test]
    fn delays_are_held_against_a_second_or_what_there_was_before() {
        let slow = |attack, p50, p99| {
            let mut slow = tried(attack);
            slow.during.crowd.p50_ms = Some(p50);
            slow.during.crowd.p99_ms = Some(p99);
            slow
        };
        assert_fault(slow(Attack::Mandatory, 8.1, 40.0), "take 8.10 ms");
        assert_fault(slow(Attack::Mandatory, 4.0, 80.1), "p99 80.1");
        assert_fault(slow(Attack::TwoWildcards, 4.0, 1001.0), "p99 1,001");
        for held in [
            slow(Attack::Mandatory, 7.9, 79.0),
            slow(Attack::TwoWildcards, 900.0, 999.0),
            slow(Attack::Bodies, 5000.0, 9000.0),
        ] {
            assert_eq!(held.judged().verdict, Verdict::Held);
        }
    }

    #[test]
    fn memory_has_bounds_at_most_and_afterwards() {
        let grown = |attack, most, after| {
            let mut grown = tried(attack);
            grown.memory.most_mib = most;
            grown.memory.after_mib = Some(after);
            grown
        };
        assert_fault(
            grown(Attack::OwnQueues, 85.0, 20.0),
            "+65 MiB, more than 64",
        );
        assert_fault(
            grown(Attack::Bodies, 533.0, 20.0),
            "+513 MiB, more than 512",
        );
        assert_fault(
            grown(Attack::Bindings, 300.0, 221.0),
            "+201 MiB some seconds",
        );
        let mut stopped = grown(Attack::Bodies, 3100.0, 20.0);
        stopped.memory.stopped = true;
        assert_fault(stopped, "+3080 MiB, where the attack was stopped");
        let mut gone = tried(Attack::Bodies);
        gone.memory.after_mib = None;
        assert_fault(gone, "the gateway has ended");
    }
}
