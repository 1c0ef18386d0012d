//! A bar for people who wait (pure), and lines for a log.

use std::{
    io::IsTerminal as _,
    time::{Duration, Instant},
};

use crate::{progress, summary::short};

/// Between two lines where nobody looks at a bar.
const LINES: Duration = Duration::from_secs(15);

const WIDTH: usize = 30;

/// The progress of one phase.
pub(super) struct Bar {
    what: &'static str,
    began: Instant,
    line: Instant,
}

impl Bar {
    pub(super) fn new(what: &'static str) -> Self {
        let now = Instant::now();
        Self {
            what,
            began: now,
            line: now,
        }
    }

    /// Shows how far it is, and `more`.
    pub(super) fn show(&mut self, done: u64, all: u64, more: &str) {
        let text = text(self.what, done, all, self.began.elapsed()) + more;
        if std::io::stderr().is_terminal() {
            progress::show(&text);
        } else if self.line.elapsed() >= LINES {
            self.line = Instant::now();
            eprintln!("{text}");
        }
    }

    /// Leaves a line that says how it ended.
    pub(super) fn end(self, how: &str) {
        progress::show("");
        let seconds = self.began.elapsed().as_secs_f64();
        eprintln!("{:10} {how} ({seconds:.1} s)", self.what);
    }
}

/// `connecting [#######.......] 512,000 of 1,000,000, 1,550 a second, 5 min 15 s left`
fn text(what: &str, done: u64, all: u64, after: Duration) -> String {
    let part = done as f64 / all.max(1) as f64;
    let full = ((part * WIDTH as f64) as usize).min(WIDTH);
    let rate = done as f64 / after.as_secs_f64().max(0.001);
    let left = match rate > 0.0 {
        true => {
            let seconds = (all.saturating_sub(done) as f64 / rate).round() as u64;
            let left = humantime::format_duration(Duration::from_secs(seconds));
            format!(", {left} left")
        }
        false => String::new(),
    };
    format!(
        "{what:10} [{}{}] {} of {}, {} a second{left}",
        "#".repeat(full),
        ".".repeat(WIDTH - full),
        thousands(done),
        thousands(all),
        thousands(rate as u64)
    )
}

/// `1,234,567`
pub(super) fn thousands(number: u64) -> String {
    short(number as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_tells_how_far_it_is_and_how_long_it_takes() {
        let half = text("connecting", 500_000, 1_000_000, Duration::from_secs(250));
        assert_eq!(
            half,
            "connecting [###############...............] 500,000 of 1,000,000, 2,000 a second, \
             4m 10s left"
        );
        let none = text("hold", 0, 0, Duration::ZERO);
        assert!(none.ends_with("0 of 0, 0 a second"), "{none}");
    }

    #[test]
    fn thousands_are_set_apart() {
        let texts = [0, 999, 1_000, 1_234_567].map(thousands);
        assert_eq!(texts, ["0", "999", "1,000", "1,234,567"]);
    }
}
