//! Tables for a document, from saved runs.

use std::{collections::BTreeSet, fmt::Write as _, fs, path::Path};

use anyhow::{Context as _, Result, ensure};

use crate::{
    growth,
    micro::Micro,
    million::{self, Held},
    outcome::Outcome,
    plot::{CHARTS, Chart},
    scenario::Scenario,
    summary::{Words, cases, faults, lines},
    targets,
};

const BEGIN: &str = "<!-- What follows is written by `stentor-bench report`; changes are lost. -->";
const END: &str = "<!-- The end of what is written by `stentor-bench report`. -->";

const WORDS: Words = Words {
    name: |subject| subject.title(),
    head: |name, runs| format!("{name}, {runs}"),
    favour: |name| format!("In {name}'s favour"),
    measure: |metric| match metric.unit {
        "" => metric.label.into(),
        "/s" => format!("{} a second", metric.label),
        unit => format!("{}, {unit}", metric.label),
    },
    nothing: "–",
    times: "×",
};

/// All that a folder holds.
#[derive(Default)]
pub(crate) struct Results {
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) micro: Micro,
    pub(crate) million: Option<Held>,
}

impl Results {
    /// Reads all that were saved in a folder.
    ///
    /// # Errors
    /// The folder is empty, or a file is not one of ours.
    pub(crate) fn load(folder: &Path) -> Result<Self> {
        let results = Self {
            outcomes: Outcome::load_all(folder)?,
            micro: Micro::load(folder)?,
            million: million::largest(folder)?,
        };
        ensure!(
            !results.outcomes.is_empty()
                || !results.micro.printed.is_empty()
                || results.million.is_some(),
            "there are no results in {}",
            folder.display()
        );
        Ok(results)
    }
}

/// Writes the tables into a document, between its two marks, with the charts that are beside it.
///
/// # Errors
/// The document cannot be written, or has no marks.
pub(crate) fn write(results: &Results, document: &Path) -> Result<()> {
    let shown = document.display();
    let text = fs::read_to_string(document).with_context(|| format!("reading {shown}"))?;
    let folder = document.parent().unwrap_or(Path::new(""));
    let tables = markdown(results, Some(folder));
    let new = replace(&text, &tables).with_context(|| {
        format!("{shown} lacks the two lines between which the tables go:\n{BEGIN}\n{END}")
    })?;
    fs::write(document, new).with_context(|| format!("writing {shown}"))
}

fn replace(text: &str, tables: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n\n{tables}\n{END}{after}"))
}

/// All that was measured: the targets, a table for each case, and the charts that are in a folder.
pub(crate) fn markdown(results: &Results, charts: Option<&Path>) -> String {
    let mut text = conditions(&results.outcomes);
    line(&mut text, format_args!("\n### Targets\n"));
    text.push_str(&targets::markdown(&results.outcomes, &results.micro));
    if !results.micro.printed.is_empty() {
        line(&mut text, format_args!("\n### Parts\n"));
        text.push_str(&results.micro.markdown());
    }
    if let Some(held) = &results.million {
        line(&mut text, format_args!("\n### Very many connections\n"));
        text.push_str(&million::markdown(held, charts));
    }
    if let Some(growth) = growth::markdown(&results.outcomes) {
        line(&mut text, format_args!("\n### Growth by nodes\n"));
        text.push_str(growth.trim_end());
        text.push('\n');
    }
    let mut section = None;
    for ((scenario, _, case), servers) in &cases(&results.outcomes) {
        if section != Some(*scenario) {
            section = Some(*scenario);
            line(&mut text, format_args!("\n### {}\n", title(*scenario)));
            for Chart { file, title, .. } in charts_of(*scenario, charts) {
                line(&mut text, format_args!("![{title}]({file})\n"));
            }
        }
        line(&mut text, format_args!("**{}**\n", of_case(case)));
        let table = lines("", servers, &WORDS);
        for (number, cells) in table.iter().enumerate() {
            // The first cell of the head is empty.
            let row = format!(" {} |", cells.join(" | "));
            line(&mut text, format_args!("|{}", row.replacen("  |", " |", 1)));
            if number == 0 {
                let columns = cells.len() - 1;
                line(&mut text, format_args!("|---|{}", "--:|".repeat(columns)));
            }
        }
        let runs: Vec<&Outcome> = servers.values().flatten().copied().collect();
        line(&mut text, format_args!(""));
        for fault in faults(&runs) {
            line(&mut text, format_args!("- {fault}"));
        }
    }
    text
}

fn charts_of(scenario: Scenario, folder: Option<&Path>) -> impl Iterator<Item = &'static Chart> {
    let charts = CHARTS
        .iter()
        .filter(move |chart| chart.scenario == scenario);
    charts.filter(move |chart| folder.is_some_and(|folder| folder.join(chart.file).exists()))
}

fn conditions(outcomes: &[Outcome]) -> String {
    let distinct = |of: fn(&Outcome) -> String| {
        let all: BTreeSet<String> = outcomes.iter().map(of).collect();
        let all: Vec<String> = all.into_iter().filter(|text| !text.is_empty()).collect();
        all.join("; ")
    };
    let date = |outcome: &Outcome| outcome.conditions.date.chars().take(10).collect();
    let machine = |outcome: &Outcome| {
        let conditions = &outcome.conditions;
        let (cores, memory) = (conditions.cores, conditions.memory_gib);
        format!("{}, {cores} cores, {memory} GiB", conditions.processor)
    };
    let mut text = String::from("| | |\n|---|---|\n");
    for (name, value) in [
        ("Date", distinct(date)),
        ("Machine", distinct(machine)),
        (
            "Kernel",
            distinct(|outcome| outcome.conditions.kernel.clone()),
        ),
        (
            "Stentor",
            distinct(|outcome| outcome.conditions.stentor.clone()),
        ),
        (
            "RabbitMQ",
            distinct(|outcome| outcome.conditions.rabbitmq.clone().unwrap_or_default()),
        ),
        (
            "NATS",
            distinct(|outcome| outcome.conditions.nats.clone().unwrap_or_default()),
        ),
    ] {
        if !value.is_empty() {
            line(&mut text, format_args!("| {name} | {value} |"));
        }
    }
    text
}

const fn title(scenario: Scenario) -> &'static str {
    match scenario {
        Scenario::Idle => "Idle connections",
        Scenario::Storm => "Everybody comes at once",
        Scenario::Unicast => "Messages to single users, as fast as they go",
        Scenario::Broadcast => "Messages to everybody, as fast as they go",
        Scenario::Latency => "Latency at a fixed rate",
        Scenario::Fairness => "Single users beside broadcasts",
        Scenario::Churn => "Clients that come and go",
        Scenario::Bindings => "Subscriptions that come and go",
        Scenario::Gochat => "Everybody sends to everybody",
        Scenario::Slow => "Clients that do not read",
    }
}

/// `idle 1000` is `1000 connections`.
fn of_case(case: &str) -> String {
    let mut words = case.splitn(3, ' ').skip(1);
    let connections = words.next().unwrap_or_default();
    let rest = words
        .next()
        .map_or_else(String::new, |rest| format!(", {rest}"));
    format!("{connections} connections{rest}")
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    // A string takes all.
    let _ = writeln!(text, "{line}");
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{outcome::Conditions, servers::Server, verify::Verification};

    pub(crate) fn outcome(server: Server, connections: u32, rate: f64) -> Outcome {
        Outcome {
            scenario: Scenario::Unicast,
            server,
            build: None,
            case: format!("unicast {connections} 1000 outstanding 256 bytes"),
            connections,
            seconds: 10.0,
            warm_up: 3.0,
            metrics: [
                ("deliveries_per_second".to_owned(), rate),
                ("memory_mib_servers".to_owned(), 100.0),
            ]
            .into(),
            verification: Verification::default(),
            troubles: Vec::new(),
            client_limit: None,
            conditions: Conditions::default(),
        }
    }

    #[test]
    fn runs_of_a_case_are_a_row_with_their_ratio() {
        let mut lossy = outcome(Server::WebStomp, 1000, 110.0);
        lossy.verification.lost = 3;
        let results = Results {
            outcomes: vec![
                outcome(Server::WebStomp, 1000, 90.0),
                outcome(Server::Stentor, 1000, 1000.0),
                outcome(Server::WebStomp, 1000, 100.0),
                lossy,
            ],
            ..Results::default()
        };
        let text = markdown(&results, None);
        assert!(
            text.contains("**1000 connections, 1000 outstanding 256 bytes**"),
            "{text}"
        );
        assert!(
            text.contains("| | Stentor, 1 run | Web STOMP, median of 3 | In Stentor's favour |")
        );
        assert!(
            text.contains(
                "| deliveries a second | 1,000 | 100 (90.0 to 110) | 10.0× (9.09 to 11.1) |"
            ),
            "{text}"
        );
        assert!(text.contains("- web-stomp: 3 messages lost"), "{text}");
    }

    #[test]
    fn only_what_is_between_the_marks_changes() {
        let document = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        let new = replace(&document, "new").unwrap();
        assert_eq!(new, format!("before\n{BEGIN}\n\nnew\n{END}\nafter\n"));
        assert_eq!(replace("no marks", "new"), None);
    }
}
