//! Everything that happened in a seed, for readers and for comparison.

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::entropy::hash;

/// The actor of lines that are no client's.
pub(crate) const WORLD: u32 = 0;

/// The events of a seed: when, whose, which.
pub(crate) struct Trace {
    start: Instant,
    is_on: bool,
    lines: Mutex<Vec<(u64, u32, String)>>,
    violations: Mutex<Vec<String>>,
}

impl Trace {
    pub(crate) fn new(is_on: bool) -> Self {
        Self {
            start: Instant::now(),
            is_on,
            lines: Mutex::default(),
            violations: Mutex::default(),
        }
    }

    /// In milliseconds since the start.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(crate) fn tell(&self, actor: u32, line: impl FnOnce() -> String) {
        if self.is_on {
            let now = self.now();
            self.lines.lock().push((now, actor, line()));
        }
    }

    /// A promise was broken.
    pub(crate) fn violate(&self, actor: u32, line: String) {
        self.tell(actor, || format!("!!! {line}"));
        let now = self.now();
        self.violations
            .lock()
            .push(format!("at {now} ms, {}: {line}", name(actor)));
    }

    pub(crate) fn violations(&self) -> Vec<String> {
        self.violations.lock().clone()
    }

    /// Sorted, for the order of what happens in one millisecond means nothing.
    pub(crate) fn text(&self) -> String {
        let mut lines = self.lines.lock().clone();
        lines.sort();
        let lines = lines.iter().map(|(millis, actor, line)| {
            format!(
                "{:>10.3} s  {:<10} {line}\n",
                *millis as f64 / 1000.0,
                name(*actor)
            )
        });
        lines.collect()
    }

    pub(crate) fn print(&self) -> u64 {
        hash(&self.text())
    }
}

fn name(actor: u32) -> String {
    match actor {
        WORLD => "world".to_owned(),
        client => format!("client {client}"),
    }
}
