//! Growth by nodes: what a message and a set-up cost on one RabbitMQ, the more gateways it has
//! (pure).

use std::{collections::BTreeMap, fmt::Write as _};

use crate::{
    metrics::METRICS,
    outcome::Outcome,
    summary::{Summary, number},
};

/// The measures of its tables: the rates, and who pays.
const SHOWN: [&str; 7] = [
    "deliveries_per_second",
    "cpu_ms_per_1000_gateway",
    "cpu_ms_per_1000_rabbitmq",
    "set_ups_per_second",
    "set_up_cpu_ms_gateway",
    "set_up_cpu_ms_rabbitmq",
    "kib_per_connection_rabbitmq",
];

/// A table for each case that was measured with several numbers of nodes; `None` without one.
pub(crate) fn markdown(outcomes: &[Outcome]) -> Option<String> {
    let mut cases: BTreeMap<(String, String), BTreeMap<u32, Vec<&Outcome>>> = BTreeMap::new();
    for outcome in outcomes {
        let (base, nodes) = without_nodes(&outcome.case);
        let case = cases.entry((base, outcome.subject().title())).or_default();
        case.entry(nodes).or_default().push(outcome);
    }
    let mut text = String::new();
    for ((case, subject), nodes) in cases.iter().filter(|(_, nodes)| nodes.len() > 1) {
        let of = |runs: &[&Outcome], name: &str| {
            Summary::of(runs.iter().filter_map(|run| run.metrics.get(name).copied()))
        };
        let is_there = |name: &&str| nodes.values().any(|runs| of(runs, name).is_some());
        let shown: Vec<&str> = SHOWN.into_iter().filter(is_there).collect();
        let label = |name: &&str| {
            let metric = METRICS.iter().find(|metric| metric.name == *name);
            metric.map_or(String::new(), |its| format!("{}, {}", its.label, its.unit))
        };
        let head: Vec<String> = shown.iter().map(label).collect();
        // A string takes all.
        let _ = writeln!(
            text,
            "**{case}, {subject}, by nodes**\n\n| Nodes | {} |\n|--:|{}",
            head.join(" | "),
            "--:|".repeat(shown.len())
        );
        for (count, runs) in nodes {
            let cell = |name: &&str| {
                let summary = of(runs, name);
                summary.map_or("–".into(), |its| number(its.median) + &its.spread())
            };
            let cells: Vec<String> = shown.iter().map(cell).collect();
            let _ = writeln!(text, "| {count} | {} |", cells.join(" | "));
        }
        text.push('\n');
    }
    (!text.is_empty()).then_some(text)
}

/// `storm 2000 4 nodes transient feeds`: the case without its nodes, and their number.
fn without_nodes(case: &str) -> (String, u32) {
    let words: Vec<&str> = case.split(' ').collect();
    let place = words.iter().position(|&word| word == "nodes");
    let count = place.and_then(|place| Some((place, words.get(place.checked_sub(1)?)?)));
    match count.and_then(|(place, count)| Some((place, count.parse().ok()?))) {
        Some((place, count)) => {
            let mut rest = words;
            rest.drain(place - 1..=place);
            (rest.join(" "), count)
        }
        None => (case.to_owned(), 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{report::tests::outcome, servers::Server};

    #[test]
    fn nodes_are_taken_out_of_a_case() {
        let (base, nodes) = without_nodes("storm 2000 16 nodes transient feeds");
        assert_eq!((&*base, nodes), ("storm 2000 transient feeds", 16));
        let (base, nodes) = without_nodes("storm 2000 transient feeds");
        assert_eq!((&*base, nodes), ("storm 2000 transient feeds", 1));
        assert_eq!(without_nodes("idle 90000 5 nodes").0, "idle 90000");
    }

    #[test]
    fn each_number_of_nodes_is_a_row() {
        let of = |nodes: &str, rate| Outcome {
            case: format!("unicast 2000 1000 outstanding 256 bytes{nodes}"),
            ..outcome(Server::Stentor, 2000, rate)
        };
        let outcomes = [
            of("", 40_000.0),
            of(" 4 nodes", 30_000.0),
            of(" 16 nodes", 20_000.0),
        ];
        let text = markdown(&outcomes).unwrap();
        for row in ["| 1 | 40,000 |", "| 4 | 30,000 |", "| 16 | 20,000 |"] {
            assert!(text.contains(row), "{text}");
        }
        assert_eq!(
            text.lines().filter(|line| line.starts_with("| ")).count(),
            4
        );
        assert_eq!(markdown(&outcomes[..1]), None);
    }
}
