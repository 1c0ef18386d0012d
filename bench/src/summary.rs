//! Several runs as one figure, and two servers side by side (pure).

use std::collections::BTreeMap;

use comfy_table::{CellAlignment, Table};

use crate::{
    metrics::{Better, METRICS, Metric},
    outcome::{Outcome, Subject},
    scenario::Scenario,
    servers::Server,
};

/// A measure over several runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Summary {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
    pub(crate) runs: usize,
}

impl Summary {
    /// The summary of these values; `None` without values.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (&least, &most) = (values.first()?, values.last()?);
        let upper = *values.get(values.len() / 2)?;
        let lower = *values.get((values.len() - 1) / 2)?;
        Some(Self {
            median: f64::midpoint(lower, upper),
            least,
            most,
            runs: values.len(),
        })
    }

    /// This divided by another, with the spread that the runs leave: the worst of one beside the
    /// best of the other. `None` if one is (next to) zero, or less.
    pub(crate) fn divided_by(&self, other: &Self) -> Option<Self> {
        const NOTHING: f64 = 1e-9;
        (self.least >= NOTHING && other.least >= NOTHING).then(|| Self {
            median: self.median / other.median,
            least: self.least / other.most,
            most: self.most / other.least,
            runs: self.runs.min(other.runs),
        })
    }

    /// How many times better this is than another; `None` for a measure without a better side.
    fn better_than(&self, other: &Self, better: Better) -> Option<Self> {
        match better {
            Better::More => self.divided_by(other),
            Better::Less => other.divided_by(self),
            Better::Neither => None,
        }
    }

    /// `12.3UNIT (11.9 to 12.8)`
    pub(crate) fn text(&self, unit: &str) -> String {
        number(self.median) + unit + &self.spread()
    }

    /// ` (11.9 to 12.8)`; empty if all runs are alike.
    pub(crate) fn spread(&self) -> String {
        if self.least < self.most {
            format!(" ({} to {})", number(self.least), number(self.most))
        } else {
            String::new()
        }
    }
}

/// Runs by whose they are.
pub(crate) type Subjects<'a> = BTreeMap<Subject<'a>, Vec<&'a Outcome>>;

/// Runs by scenario and case, and by whose they are.
pub(crate) type Cases<'a> = BTreeMap<(Scenario, u32, &'a str), Subjects<'a>>;

/// Sorts runs into what can be compared.
pub(crate) fn cases(outcomes: &[Outcome]) -> Cases<'_> {
    let mut cases = Cases::new();
    for outcome in outcomes {
        let key = (outcome.scenario, outcome.connections, &*outcome.case);
        let servers = cases.entry(key).or_default();
        servers.entry(outcome.subject()).or_default().push(outcome);
    }
    cases
}

/// Which two are compared, the one whose favour is told first: Stentor with Web STOMP; or two
/// builds, the one that was measured later with the one before it.
pub(crate) fn compared<'a>(servers: &Subjects<'a>) -> Option<(Subject<'a>, Subject<'a>)> {
    let pair = [Server::Stentor, Server::WebStomp].map(Subject::only);
    if pair.iter().all(|subject| servers.contains_key(subject)) {
        let [stentor, web_stomp] = pair;
        return Some((stentor, web_stomp));
    }
    let began = |subject: &Subject<'_>| {
        let runs = servers.get(subject)?.iter();
        runs.map(|run| run.conditions.date.as_str()).min()
    };
    let mut subjects: Vec<_> = servers.keys().copied().collect();
    subjects.sort_by(|one, other| began(one).cmp(&began(other)));
    match *subjects {
        [earlier, later] if earlier.server == later.server => Some((later, earlier)),
        _ => None,
    }
}

/// The words of a table in one kind of document.
pub(crate) struct Words {
    pub(crate) name: fn(Subject<'_>) -> String,
    pub(crate) head: fn(name: String, runs: String) -> String,
    pub(crate) favour: fn(name: String) -> String,
    pub(crate) measure: fn(&Metric) -> String,
    pub(crate) nothing: &'static str,
    pub(crate) times: &'static str,
}

/// The measures of a case, each in a line: its name, the servers' values in their order, and how
/// many times better the first of those that are [`compared`] is than the second. Those that no
/// server has are left out. The first line is the head; `case` begins it.
pub(crate) fn lines(case: &str, servers: &Subjects<'_>, words: &Words) -> Vec<Vec<String>> {
    let compared = compared(servers);
    let names = servers
        .iter()
        .map(|(&subject, runs)| (words.head)((words.name)(subject), runs_text(runs.len())));
    let mut head: Vec<String> = [case.to_owned()].into_iter().chain(names).collect();
    head.extend(compared.map(|(favoured, _)| (words.favour)((words.name)(favoured))));
    let mut lines = vec![head];
    for metric in METRICS {
        let of = |subject: &Subject<'_>| {
            let runs = servers.get(subject)?.iter();
            Summary::of(runs.filter_map(|run| run.metrics.get(metric.name).copied()))
        };
        let values: Vec<_> = servers.keys().map(of).collect();
        if values.iter().all(Option::is_none) {
            continue;
        }
        let text = |value: Option<Summary>, unit| {
            value.map_or_else(|| words.nothing.into(), |value| value.text(unit))
        };
        let mut line = vec![(words.measure)(metric)];
        line.extend(values.into_iter().map(|value| text(value, "")));
        line.extend(compared.map(|(one, other)| {
            let pair = of(&one).zip(of(&other));
            let ratio = pair.and_then(|(one, other)| one.better_than(&other, metric.better));
            text(ratio, words.times)
        }));
        lines.push(line);
    }
    lines
}

/// The faults of runs, in a line each.
pub(crate) fn faults(runs: &[&Outcome]) -> Vec<String> {
    let mut faults = Vec::new();
    for run in runs {
        let server = run.subject().name();
        let wrong = run.verification;
        if !wrong.is_clean() {
            faults.push(format!(
                "{server}: {} messages lost, {} duplicated, {} out of order, {} misrouted",
                wrong.lost, wrong.duplicated, wrong.reordered, wrong.misrouted
            ));
        }
        faults.extend(
            run.troubles
                .iter()
                .map(|trouble| format!("{server}: {trouble}")),
        );
        if let Some(why) = &run.client_limit {
            faults.push(format!("{server}: the client is the limit: {why}"));
        }
    }
    faults.dedup();
    faults
}

/// A number with the digits that say something.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        100.0.. => {
            let digits = format!("{value:.0}");
            let mut text = String::new();
            for (place, digit) in digits.char_indices() {
                let left = digits.len() - place;
                if left % 3 == 0 && text.ends_with(|last: char| last.is_ascii_digit()) {
                    text.push(',');
                }
                text.push(digit);
            }
            text
        }
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// A number of a round size without the digits that are 0.
pub(crate) fn short(value: f64) -> String {
    if value.fract() == 0.0 && value < 100.0 {
        format!("{value:.0}")
    } else {
        number(value)
    }
}

/// Text in columns, the first to the left and the others to the right.
pub(crate) fn columns(lines: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.add_rows(lines);
    for column in table.column_iter_mut() {
        column.set_padding((3, 0));
        column.set_cell_alignment(CellAlignment::Right);
    }
    if let Some(first) = table.column_mut(0) {
        first.set_padding((0, 0));
        first.set_cell_alignment(CellAlignment::Left);
    }
    table.trim_fmt() + "\n"
}

/// A case as a table for the terminal.
pub(crate) fn table(case: &str, servers: &Subjects<'_>) -> String {
    let words = Words {
        name: |subject| subject.name(),
        head: |name, runs| format!("{name} ({runs})"),
        favour: |name| format!("in {name}'s favour"),
        measure: |Metric { label, unit, .. }| format!("  {label} {unit}").trim_end().to_owned(),
        nothing: "-",
        times: "x",
    };
    let mut text = columns(lines(case, servers, &words));
    let runs: Vec<&Outcome> = servers.values().flatten().copied().collect();
    let correct: u64 = runs.iter().map(|run| run.verification.correct).sum();
    let faults = faults(&runs);
    for fault in &faults {
        text.push_str(&format!("  ! {fault}\n"));
    }
    if faults.is_empty() && correct > 0 {
        let correct = number(correct as f64);
        text.push_str(&format!(
            "  all {correct} messages once, in order, to whom they were for\n"
        ));
    }
    text
}

/// `1 run`, or `median of 3`
fn runs_text(runs: usize) -> String {
    match runs {
        1 => "1 run".into(),
        more => format!("median of {more}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(values: &[f64]) -> Summary {
        Summary::of(values.iter().copied()).unwrap()
    }

    #[test]
    fn the_median_is_the_middle_one() {
        let odd = summary(&[9.0, 1.0, 5.0]);
        assert_eq!(
            (odd.median, odd.least, odd.most, odd.runs),
            (5.0, 1.0, 9.0, 3)
        );
        assert_eq!(summary(&[4.0, 1.0, 2.0, 9.0]).median, 3.0);
        assert_eq!(Summary::of([]), None);
    }

    #[test]
    fn a_ratio_says_how_much_better_and_how_sure() {
        let (mine, theirs) = (summary(&[90.0, 100.0, 110.0]), summary(&[18.0, 20.0, 22.0]));
        let rate = mine.better_than(&theirs, Better::More).unwrap();
        assert_eq!(rate.median, 5.0);
        assert_eq!((rate.least, rate.most), (90.0 / 22.0, 110.0 / 18.0));
        assert_eq!(theirs.better_than(&mine, Better::Less), Some(rate));
    }

    #[test]
    fn nothing_has_no_ratio() {
        let (some, none) = (summary(&[1.0]), summary(&[0.0]));
        assert_eq!(some.better_than(&none, Better::Less), None);
        assert_eq!(summary(&[-1.0]).better_than(&some, Better::More), None);
    }

    #[test]
    fn two_builds_are_compared_in_the_order_of_their_runs() {
        let of = |build: &str, date: &str, rate| {
            let mut outcome = crate::report::tests::outcome(Server::Stentor, 10, rate);
            outcome.build = Some(build.into());
            outcome.conditions.date = date.into();
            outcome
        };
        let outcomes = [
            of("old", "2026-01-01", 100.0),
            of("new", "2026-01-02", 110.0),
            of("old", "2026-01-03", 100.0),
        ];
        let cases = cases(&outcomes);
        let servers = cases.values().next().unwrap();
        let text = table("case", servers);
        assert!(text.contains("in stentor new's favour"), "{text}");
        assert!(text.contains(" 1.10x"), "{text}");
    }

    #[test]
    fn numbers_have_the_digits_that_say_something() {
        let texts = [0.0, 1.234, 12.34, 123.4, 1234.5, 1234567.8, -1234.0].map(number);
        assert_eq!(
            texts,
            [
                "0.00",
                "1.23",
                "12.3",
                "123",
                "1,234",
                "1,234,568",
                "-1,234"
            ]
        );
    }

    #[test]
    fn columns_stand_below_each_other() {
        let lines = [["a", "1"], ["long", "1,000"]].map(|line| line.map(str::to_owned).to_vec());
        assert_eq!(columns(lines.to_vec()), "a          1\nlong   1,000\n");
    }
}
