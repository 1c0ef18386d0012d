//! A node's metrics as JSON (pure): what `/metrics` says of one node, an operator sees of all.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Counters whose labels say why: these are told apart, others are summed up.
const REASONS: [&str; 7] = [
    "stentor_connections_ended_total",
    "stentor_limits_exceeded_total",
    "stentor_refused_total",
    "stentor_tokens_refused_total",
    "stentor_publish_failures_total",
    "stentor_mailbox_overflows_total",
    "stentor_hook_faults_total",
];

/// A series that tells of no fault, in a counter of faults: nothing is lost. The alerts leave it out, too.
const HARMLESS: (&str, &str) = ("stentor_mailbox_overflows_total", "done=\"put aside\"");

/// A node's metrics.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Figures {
    /// Counters and levels, by their names at `/metrics`. Those with labels are summed up, in
    /// `stentor_mailbox_overflows_total` without `put aside`; histograms have `_sum` and `_count`.
    pub values: BTreeMap<String, f64>,
    /// Histograms, by name.
    pub histograms: BTreeMap<String, Vec<Bucket>>,
}

/// A bucket of a histogram.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Bucket {
    /// Its upper bound; missing: it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub le: Option<f64>,
    /// How many were not above it.
    pub count: f64,
}

/// How often something was refused for one reason, since the node started.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub struct Reason {
    /// The metric that counts it, by its name at `/metrics`.
    pub metric: String,
    /// The reason: the values of its labels.
    pub reason: String,
    /// How often.
    pub count: u64,
}

/// A line of the text.
struct Sample<'a> {
    name: &'a str,
    /// Without braces.
    labels: &'a str,
    value: f64,
}

impl Figures {
    /// Reads the text of `/metrics`.
    pub(super) fn read(text: &str) -> Self {
        let mut figures = Self::default();
        for sample in samples(text) {
            if let Some(name) = sample.name.strip_suffix("_bucket") {
                let le = labels(sample.labels).find(|(key, _)| *key == "le");
                let le = le.and_then(|(_, bound)| bound.parse().ok());
                figures.add_bucket(
                    name,
                    le.filter(|bound: &f64| bound.is_finite()),
                    sample.value,
                );
            } else if !sample.name.ends_with("_info") && (sample.name, sample.labels) != HARMLESS {
                let value = figures.values.entry(sample.name.to_owned()).or_default();
                *value += sample.value;
            }
        }
        figures
    }

    fn add_bucket(&mut self, name: &str, le: Option<f64>, count: f64) {
        let buckets = self.histograms.entry(name.to_owned()).or_default();
        match buckets.iter_mut().find(|bucket| bucket.le == le) {
            Some(bucket) => bucket.count += count,
            None => buckets.push(Bucket { le, count }),
        }
    }
}

/// The reasons in the text of `/metrics`, the most frequent first.
pub(super) fn reasons(text: &str) -> Vec<Reason> {
    let counted = samples(text).filter(|sample| REASONS.contains(&sample.name));
    let mut reasons: Vec<_> = counted
        .filter(|sample| sample.value > 0.0 && !sample.labels.is_empty())
        .map(|sample| Reason {
            metric: sample.name.to_owned(),
            reason: labels(sample.labels)
                .map(|(_, value)| value)
                .collect::<Vec<_>>()
                .join(", "),
            count: whole(sample.value),
        })
        .collect();
    reasons.sort_by(|a, b| (b.count, &a.metric, &a.reason).cmp(&(a.count, &b.metric, &b.reason)));
    reasons
}

/// Counters are whole, and stay below 2^53.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a cast saturates"
)]
fn whole(value: f64) -> u64 {
    value as u64
}

fn samples(text: &str) -> impl Iterator<Item = Sample<'_>> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| {
        let (name, value) = line.rsplit_once(' ')?;
        let (name, labels) = match name.split_once('{') {
            Some((name, labels)) => (name, labels.strip_suffix('}')?),
            None => (name, ""),
        };
        let value: f64 = value.parse().ok()?;
        value.is_finite().then_some(Sample {
            name,
            labels,
            value,
        })
    })
}

/// Names and values; values are this program's own, and have no quotes in them.
fn labels(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split("\",").filter_map(|label| {
        let (name, value) = label.split_once("=\"")?;
        Some((name, value.trim_end_matches('"')))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"# HELP stentor_build The program.
# TYPE stentor_build info
stentor_build_info{version="0.1.0"} 1
stentor_connections{transport="tcp"} 2
stentor_connections{transport="websocket"} 3
stentor_limits_exceeded_total{bound="bytes"} 4
stentor_limits_exceeded_total{bound="connects"} 9
stentor_limits_exceeded_total{bound="never"} 0
stentor_tokens_refused_total{why="old, or so"} 1
stentor_mailbox_overflows_total{done="put aside"} 70
stentor_mailbox_overflows_total{done="conflate"} 2
process_start_time_seconds 1.5
stentor_hook_call_seconds_sum{call="user"} 0.25
stentor_hook_call_seconds_sum{call="vhost"} 0.5
stentor_hook_call_seconds_bucket{le="0.1",call="user"} 3
stentor_hook_call_seconds_bucket{le="+Inf",call="user"} 4
stentor_hook_call_seconds_bucket{le="0.1",call="vhost"} 1
stentor_hook_call_seconds_bucket{le="+Inf",call="vhost"} 1
stentor_strange NaN
nonsense
# EOF
"#;

    #[test]
    fn labels_are_summed_up_and_buckets_kept_apart() {
        let figures = Figures::read(TEXT);
        let expected = [
            ("process_start_time_seconds", 1.5),
            ("stentor_connections", 5.0),
            ("stentor_hook_call_seconds_sum", 0.75),
            ("stentor_limits_exceeded_total", 13.0),
            ("stentor_mailbox_overflows_total", 2.0),
            ("stentor_tokens_refused_total", 1.0),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value));
        assert_eq!(figures.values, BTreeMap::from(expected));
        let bucket = |le, count| Bucket { le, count };
        assert_eq!(
            figures.histograms["stentor_hook_call_seconds"],
            [bucket(Some(0.1), 4.0), bucket(None, 5.0)]
        );
    }

    #[test]
    fn reasons_are_told_apart_the_most_frequent_first() {
        let told: Vec<_> = reasons(TEXT)
            .into_iter()
            .map(|reason| (reason.reason, reason.count))
            .collect();
        let expected = [
            ("put aside", 70),
            ("connects", 9),
            ("bytes", 4),
            ("conflate", 2),
            ("old, or so", 1),
        ];
        assert_eq!(told, expected.map(|(name, count)| (name.to_owned(), count)));
    }
}
