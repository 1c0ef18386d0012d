//! Targets, and the verdict on each: computed from saved runs (pure).

mod list;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;

use crate::{
    micro::Micro,
    outcome::Outcome,
    summary::{Summary, short},
};

/// All targets as tables, each with what was measured.
pub(crate) fn markdown(outcomes: &[Outcome], micro: &Micro) -> String {
    format!(
        "{}\nThese came later. Ratios hold on any machine, for both sides were measured on it. A bare \
         write is a `write(2)` of the message's frame to each of as many sockets in turn; a bare \
         read is the message's way from RabbitMQ's queue through a decoder, with nothing behind \
         it.\n\n{}",
        table(&list::all(outcomes, micro)),
        table(&list::relative(outcomes, micro))
    )
}

fn table(targets: &[Target]) -> String {
    let bound = targets.iter().filter(|target| target.goal != Goal::Stated);
    let verdicts: Vec<Verdict> = bound.map(Target::verdict).collect();
    let count = |wanted| verdicts.iter().filter(|&&its| its == wanted).count();
    let (met, missed) = (count(Verdict::Met), count(Verdict::Missed));
    let unknown = match count(Verdict::Unknown) {
        0 => String::new(),
        unknown => format!("; {unknown} were not measured"),
    };
    let mut text = format!(
        "{met} of {} targets are met, {missed} are not{unknown}. Where two servers are compared, \
         the spread is the worst of one beside the best of the other.\n\n\
         | | Goal | Measured | Runs | |\n|---|--:|--:|--:|---|\n",
        verdicts.len()
    );
    for target in targets {
        let measured = target.measured.map_or("–".into(), |its| {
            target.with_unit(its.median) + &its.spread()
        });
        let runs = target.measured.map_or(0, |summary| summary.runs);
        // A string takes all.
        let _ = writeln!(
            text,
            "| {} | {} | {measured} | {runs} | {} |",
            target.what,
            target.goal_text(),
            target.verdict().text(target.goal)
        );
    }
    text
}

/// Something to be reached.
struct Target {
    what: &'static str,
    goal: Goal,
    unit: &'static str,
    measured: Option<Summary>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Goal {
    AtMost(f64),
    AtLeast(f64),
    /// No goal; the figure is only stated.
    Stated,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Verdict {
    Met,
    Missed,
    Unknown,
}

impl Verdict {
    const fn text(self, goal: Goal) -> &'static str {
        match (self, goal) {
            (_, Goal::Stated) => "",
            (Self::Met, _) => "met",
            (Self::Missed, _) => "**not met**",
            (Self::Unknown, _) => "not measured",
        }
    }
}

impl Target {
    /// By the median.
    fn verdict(&self) -> Verdict {
        let Some(Summary { median, .. }) = self.measured else {
            return Verdict::Unknown;
        };
        let is_met = match self.goal {
            Goal::AtMost(bound) => median <= bound,
            Goal::AtLeast(bound) => median >= bound,
            Goal::Stated => true,
        };
        if is_met {
            Verdict::Met
        } else {
            Verdict::Missed
        }
    }

    fn goal_text(&self) -> String {
        match self.goal {
            Goal::AtMost(bound) => format!("≤ {}", self.with_unit(bound)),
            Goal::AtLeast(bound) => format!("≥ {}", self.with_unit(bound)),
            Goal::Stated => "–".into(),
        }
    }

    fn with_unit(&self, value: f64) -> String {
        let value = short(value);
        match self.unit {
            "×" | "/s" => value + self.unit,
            unit => format!("{value} {unit}"),
        }
    }
}
