//! A report for people: 80 columns, and colours where they help.

use std::fmt::Write as _;

use super::finding::{Counts, Finding, Mark, Report};
use crate::tap::printable;

/// Columns of an answer, after four for its sign, and of its time: 80 in all, which a narrow terminal
/// has.
const ANSWER: usize = 66;
const TIME: usize = 10;

/// Titles of the parts, in their order.
const PARTS: &[(&str, &str)] = &[
    ("configuration", "Configuration"),
    ("broker", "RabbitMQ"),
    ("management", "RabbitMQ, by its management plug-in"),
    ("auth", "Logins and permissions"),
    ("presence", "Presence"),
    ("traces", "Traces"),
    ("tls", "TLS"),
    ("system", "This machine"),
    ("clock", "Clock"),
];

/// The report as text.
pub(super) fn show(report: &Report, is_coloured: bool) -> String {
    let paint = Paint(is_coloured);
    let mut text = format!("stentor doctor: {}\n", printable(&report.configuration));
    for (part, title) in PARTS {
        let mut findings = report.findings.iter().filter(|found| found.part() == *part);
        let Some(first) = findings.next() else {
            continue;
        };
        let _ = writeln!(text, "\n{}", paint.bold(title));
        show_finding(&mut text, first, paint);
        findings.for_each(|found| show_finding(&mut text, found, paint));
    }
    let _ = writeln!(
        text,
        "\n{}; {} ms",
        summary(report.counts),
        report.milliseconds
    );
    text
}

fn summary(counts: Counts) -> String {
    let Counts {
        right,
        doubtful,
        wrong,
        unasked,
    } = counts;
    let parts = [
        (right, "right"),
        (wrong, "wrong"),
        (doubtful, "doubtful"),
        (unasked, "not asked"),
    ];
    let parts = parts.iter().filter(|(count, _)| *count > 0);
    let parts: Vec<_> = parts
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    parts.join(", ")
}

fn show_finding(text: &mut String, found: &Finding, paint: Paint) {
    let sign = paint.sign(found.mark);
    let lines = wrap(&found.text, ANSWER);
    for (index, line) in lines.iter().enumerate() {
        let time = found.milliseconds.filter(|_| index == 0);
        let time = time.map(|time| format!("{time} ms")).unwrap_or_default();
        let begin = if index == 0 { sign } else { " " };
        // Columns are characters here: names are ASCII as a rule.
        let line = format!("  {begin} {line:ANSWER$}{time:>TIME$}");
        let _ = writeln!(text, "{}", line.trim_end());
    }
    let verb = match found.mark {
        Mark::Unasked => "ask:",
        _ => "mend:",
    };
    for (index, line) in found.cure.iter().enumerate() {
        let begin = if index == 0 { verb } else { "" };
        // Whole, so that it can be copied.
        let _ = writeln!(text, "      {begin:5} {}", printable(line));
    }
}

/// A text in lines of at most so many characters; a longer word has a line of its own. Names of others
/// and the words of servers, which are among them, do not steer the terminal.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let Some(line) = lines.last_mut() else {
            break;
        };
        let word = printable(word);
        let length = line.chars().count().saturating_add(word.chars().count());
        if line.is_empty() {
            line.push_str(&word);
        } else if length < width {
            line.push(' ');
            line.push_str(&word);
        } else {
            lines.push(word);
        }
    }
    lines
}

#[derive(Clone, Copy)]
struct Paint(bool);

impl Paint {
    fn sign(self, mark: Mark) -> &'static str {
        match (mark, self.0) {
            (Mark::Right, false) => "✓",
            (Mark::Right, true) => "\x1b[32m✓\x1b[0m",
            (Mark::Doubtful, false) => "!",
            (Mark::Doubtful, true) => "\x1b[33m!\x1b[0m",
            (Mark::Wrong, false) => "✗",
            (Mark::Wrong, true) => "\x1b[31m✗\x1b[0m",
            (Mark::Unasked, false) => "?",
            (Mark::Unasked, true) => "\x1b[36m?\x1b[0m",
        }
    }

    fn bold(self, text: &str) -> String {
        match self.0 {
            true => format!("\x1b[1m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::doctor::finding::QUESTIONS;

    fn report() -> Report {
        let long = "exchange feed is a topic exchange, but [broker] exchanges says that it is a \
                    direct one";
        let findings = vec![
            Finding::right("broker.login", "127.0.0.1:5672 is RabbitMQ 4.3.6")
                .took(Duration::from_millis(12)),
            Finding::wrong("broker.exchange", long)
                .cure("[broker] exchanges = { feed = \"topic\" }")
                .took(Duration::from_millis(1234)),
            Finding::unasked(
                "management.policies",
                "policies of virtual host / are not known",
            )
            .cure("rabbitmqctl list_policies -p /"),
        ];
        Report::new("stentor.toml".into(), findings, Duration::from_millis(1300))
    }

    #[test]
    fn a_report_fits_a_narrow_terminal() {
        let text = show(&report(), false);
        let expected = "\
stentor doctor: stentor.toml

RabbitMQ
  ✓ 127.0.0.1:5672 is RabbitMQ 4.3.6                                       12 ms
  ✗ exchange feed is a topic exchange, but [broker] exchanges says       1234 ms
    that it is a direct one
      mend: [broker] exchanges = { feed = \"topic\" }

RabbitMQ, by its management plug-in
  ? policies of virtual host / are not known
      ask:  rabbitmqctl list_policies -p /

1 right, 1 wrong, 1 not asked; 1300 ms
";
        assert_eq!(text, expected);
        assert!(text.lines().all(|line| line.chars().count() <= 80));
    }

    #[test]
    fn colours_change_no_column() {
        let plain = show(&report(), false);
        let mut coloured = show(&report(), true);
        for code in ["\x1b[0m", "\x1b[1m", "\x1b[31m", "\x1b[32m", "\x1b[36m"] {
            assert!(coloured.contains(code));
            coloured = coloured.replace(code, "");
        }
        assert_eq!(coloured, plain);
    }

    #[test]
    fn every_part_has_a_title() {
        for question in QUESTIONS {
            let part = question.split('.').next().unwrap();
            assert!(PARTS.iter().any(|(name, _)| *name == part), "{question}");
        }
    }
}
