//! Latencies: a histogram, and what of it is printed.

use anyhow::Result;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Times up to a minute, to three digits; longer ones count as a minute.
#[derive(Clone, Debug)]
pub(crate) struct Latencies(Histogram<u64>);

const LONGEST: u64 = 60_000_000_000;

impl Latencies {
    /// An empty histogram.
    ///
    /// # Errors
    /// Never: the bounds are right.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self(Histogram::new_with_bounds(1_000, LONGEST, 3)?))
    }

    /// Adds one, in nanoseconds.
    pub(crate) fn record(&mut self, nanoseconds: u64) {
        self.0.saturating_record(nanoseconds);
    }

    /// Adds so many that never arrived, as if they had taken the longest that there is.
    pub(crate) fn record_lost(&mut self, count: u64) {
        // The histogram would take even zero records for the longest.
        if count > 0 {
            self.0.saturating_record_n(LONGEST, count);
        }
    }

    /// How many there are.
    #[cfg(test)]
    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    /// In microseconds, at a percentile from 0 to 100.
    pub(crate) fn microseconds(&self, percentile: f64) -> f64 {
        self.0.value_at_percentile(percentile) as f64 / 1_000.0
    }

    /// The longest, in microseconds.
    pub(crate) fn longest(&self) -> f64 {
        self.0.max() as f64 / 1_000.0
    }

    /// All values with their counts, to be sent to another process.
    pub(crate) fn counts(&self) -> Counts {
        let recorded = self.0.iter_recorded();
        let pairs = recorded.map(|step| (step.value_iterated_to(), step.count_at_value()));
        Counts(pairs.collect())
    }

    /// Adds those of another process.
    pub(crate) fn add(&mut self, counts: &Counts) {
        for &(value, count) in &counts.0 {
            self.0.saturating_record_n(value, count);
        }
    }
}

/// A histogram as pairs of a value in nanoseconds and how often it was.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Counts(Vec<(u64, u64)>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_of_several_processes_add_up() {
        let mut all = Latencies::new().unwrap();
        for process in 0..4 {
            let mut own = Latencies::new().unwrap();
            for step in 0..250 {
                own.record((process * 250 + step + 1) * 1_000_000);
            }
            let sent = serde_json::to_string(&own.counts()).unwrap();
            all.add(&serde_json::from_str(&sent).unwrap());
        }
        assert_eq!(all.count(), 1000);
        let near = |value: f64, expected: f64| (value / expected - 1.0).abs() < 0.002;
        assert!(near(all.microseconds(50.0), 500_000.0));
        assert!(near(all.microseconds(99.0), 990_000.0));
        assert!(near(all.longest(), 1_000_000.0));
    }

    #[test]
    fn nothing_that_was_lost_changes_nothing() {
        let mut latencies = Latencies::new().unwrap();
        latencies.record(1_000_000);
        latencies.record_lost(0);
        assert!(latencies.longest() < 1_010.0, "{}", latencies.longest());
    }

    #[test]
    fn what_takes_longer_than_a_minute_is_not_left_out() {
        let mut latencies = Latencies::new().unwrap();
        latencies.record(u64::MAX);
        latencies.record_lost(2);
        assert_eq!(latencies.count(), 3);
        assert!(latencies.microseconds(1.0) >= 59_000_000.0);
    }
}
