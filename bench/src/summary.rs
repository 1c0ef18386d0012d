//! Several runs as one figure, and two servers side by side (pure).

use std::collections::BTreeMap;

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
    /// Of these values; `None` if there are none.
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

    /// `12.3 (11.9 to 12.8)`
    pub(crate) fn text(&self) -> String {
        let median = number(self.median);
        if self.runs == 1 {
            return median;
        }
        format!("{median} ({} to {})", number(self.least), number(self.most))
    }
}

/// How many times better the first is than the second; with the spread that the runs leave: the
/// worst of one beside the best of the other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Ratio {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Ratio {
    /// `None` where neither is better by itself, or one is (next to) nothing, or less.
    pub(crate) fn of(better: Better, first: &Summary, second: &Summary) -> Option<Self> {
        const NOTHING: f64 = 1e-9;
        if first.least < NOTHING || second.least < NOTHING {
            return None;
        }
        let (one, other) = match better {
            Better::More => (first, second),
            Better::Less => (second, first),
            Better::Neither => return None,
        };
        Some(Self {
            median: one.median / other.median,
            least: one.least / other.most,
            most: one.most / other.least,
        })
    }

    /// `12.3x (11.9 to 12.8)`
    pub(crate) fn text(&self) -> String {
        let [median, least, most] = [self.median, self.least, self.most].map(number);
        if least == most {
            return format!("{median}x");
        }
        format!("{median}x ({least} to {most})")
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

/// A measure of all servers of a case.
pub(crate) struct Row {
    pub(crate) metric: &'static Metric,
    /// In the order of the servers.
    pub(crate) values: Vec<Option<Summary>>,
    /// How many times better the first of those that are [`compared`] is than the second.
    pub(crate) ratio: Option<Ratio>,
}

/// The measures of a case; those that no server has are left out.
pub(crate) fn rows(servers: &Subjects<'_>) -> Vec<Row> {
    let compared = compared(servers);
    let summary = |subject: &Subject<'_>, name: &str| {
        let runs = servers.get(subject)?.iter();
        Summary::of(runs.filter_map(|run| run.metrics.get(name).copied()))
    };
    let mut rows = Vec::new();
    for metric in METRICS {
        let of = |subject: &Subject<'_>| summary(subject, metric.name);
        let values: Vec<_> = servers.keys().map(of).collect();
        if values.iter().all(Option::is_none) {
            continue;
        }
        let pair = compared.and_then(|(one, other)| of(&one).zip(of(&other)));
        let ratio = pair.and_then(|(one, other)| Ratio::of(metric.better, &one, &other));
        rows.push(Row {
            metric,
            values,
            ratio,
        });
    }
    rows
}

/// What was wrong in runs, in a line each; nothing if all was right.
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
    let magnitude = value.abs();
    if magnitude >= 100.0 {
        let digits = format!("{:.0}", magnitude);
        let mut text = String::from(if value < 0.0 { "-" } else { "" });
        for (place, digit) in digits.chars().enumerate() {
            if place > 0 && (digits.len() - place) % 3 == 0 {
                text.push(',');
            }
            text.push(digit);
        }
        text
    } else if magnitude >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

/// Text in columns, the first to the left and the others to the right.
pub(crate) fn columns(lines: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let mut text = String::new();
    for line in lines {
        let mut row = String::new();
        for (column, cell) in line.iter().enumerate() {
            let padding = " ".repeat(width(column) - cell.chars().count());
            match column {
                0 => row.extend([cell, &*padding]),
                _ => row.extend(["   ", &*padding, cell]),
            }
        }
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}

/// A case as a table for the terminal.
pub(crate) fn table(case: &str, servers: &Subjects<'_>) -> String {
    let mut head = vec![case.to_owned()];
    for (subject, runs) in servers {
        head.push(format!("{} ({})", subject.name(), runs_text(runs.len())));
    }
    let favoured = compared(servers).map(|(favoured, _)| favoured.name());
    let compared = favoured.is_some();
    head.extend(favoured.map(|name| format!("in {name}'s favour")));
    let mut lines = vec![head];
    for row in rows(servers) {
        let Metric { label, unit, .. } = row.metric;
        let mut line = vec![format!("  {label} {unit}").trim_end().to_owned()];
        let text = |value: &Option<Summary>| value.map_or("-".into(), |value| value.text());
        line.extend(row.values.iter().map(text));
        if compared {
            line.push(row.ratio.map_or("-".into(), |ratio| ratio.text()));
        }
        lines.push(line);
    }
    let mut text = columns(&lines);
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
pub(crate) fn runs_text(runs: usize) -> String {
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
        let rate = Ratio::of(Better::More, &mine, &theirs).unwrap();
        assert_eq!(rate.median, 5.0);
        assert_eq!((rate.least, rate.most), (90.0 / 22.0, 110.0 / 18.0));
        let memory = Ratio::of(Better::Less, &theirs, &mine).unwrap();
        assert_eq!(memory, rate);
    }

    #[test]
    fn nothing_has_no_ratio() {
        let (some, none) = (summary(&[1.0]), summary(&[0.0]));
        assert_eq!(Ratio::of(Better::Less, &some, &none), None);
        assert_eq!(Ratio::of(Better::More, &summary(&[-1.0]), &some), None);
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
        let rows = rows(servers);
        let mut ratios = rows.iter().map(|row| (row.metric.name, row.ratio));
        let (_, rate) = ratios
            .find(|(name, _)| *name == "deliveries_per_second")
            .unwrap();
        assert_eq!(rate.unwrap().median, 1.1);
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
        assert_eq!(columns(&lines), "a          1\nlong   1,000\n");
    }
}
