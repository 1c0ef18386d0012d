//! Runs a target: first the corpus as it is, then inputs that are made of it.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use crate::{Target, coverage::Coverage, mutate::mutate};

/// Between two looks at the clock.
const LOOK: u64 = 1024;

/// How far a run has come.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// Inputs that the target has read.
    pub executions: u64,
    /// Since the start.
    pub elapsed: Duration,
    /// Inputs that are kept.
    pub corpus: usize,
    /// Edges of the program that were taken; 0 where nothing is counted.
    pub edges: usize,
}

/// An input for which something does not hold.
#[derive(Clone, Debug)]
pub struct Crash {
    /// The input, made as short as it goes by leaving parts out.
    pub input: Vec<u8>,
    /// Of the run.
    pub progress: Progress,
}

/// When a run ends.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// After so many executions: each run is the same.
    Executions(u64),
    /// After so much time.
    Elapsed(Duration),
}

/// Runs `target`. `tell` is called about once a second, and `keep` for each input that took a new
/// way.
///
/// # Errors
/// The first input that breaks it.
pub fn run(
    target: &Target,
    corpus: Vec<Vec<u8>>,
    seed: u64,
    until: Until,
    mut tell: impl FnMut(&Progress),
    mut keep: impl FnMut(&[u8]),
) -> Result<Progress, Box<Crash>> {
    let begun = Instant::now();
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut coverage, mut progress) = (Coverage::default(), Progress::default());
    let broken = |input: &[u8], progress| {
        let input = shortest(target, input);
        Box::new(Crash { input, progress })
    };
    let mut inputs = corpus;
    for input in &inputs {
        progress.executions += 1;
        if !holds(target, input) {
            return Err(broken(input, progress));
        }
        coverage.is_new();
    }
    if inputs.is_empty() {
        inputs.push(Vec::new());
    }
    let (mut input, mut told) = (Vec::new(), Instant::now());
    loop {
        let is_over = match until {
            Until::Executions(most) => progress.executions >= most,
            Until::Elapsed(most) => {
                progress.executions.is_multiple_of(LOOK) && begun.elapsed() >= most
            }
        };
        if is_over || progress.executions.is_multiple_of(LOOK) {
            progress.elapsed = begun.elapsed();
            progress.corpus = inputs.len();
            if told.elapsed() >= Duration::from_secs(1) || is_over {
                progress.edges = coverage.edges();
                tell(&progress);
                told = Instant::now();
            }
            if is_over {
                return Ok(progress);
            }
        }
        input.clear();
        // New ones more often than old ones.
        let count = inputs.len();
        let at = rng.random_range(0..count).max(rng.random_range(0..count));
        input.extend_from_slice(&inputs[at]);
        let other = rng.random_range(0..count);
        mutate(&mut input, &inputs[other], target.words, &mut rng);
        progress.executions += 1;
        if !holds(target, &input) {
            return Err(broken(&input, progress));
        }
        if coverage.is_new() {
            keep(&input);
            inputs.push(input.clone());
        }
    }
}

fn holds(target: &Target, input: &[u8]) -> bool {
    catch_unwind(AssertUnwindSafe(|| (target.run)(input))).is_ok()
}

/// Leaves out parts for as long as the rest still breaks it.
fn shortest(target: &Target, input: &[u8]) -> Vec<u8> {
    let mut input = input.to_vec();
    let mut size = input.len().div_ceil(2);
    while size > 0 {
        let mut at = 0;
        while at < input.len() {
            let mut without = input.clone();
            without.drain(at..(at + size).min(input.len()));
            if holds(target, &without) {
                at += size;
            } else {
                input = without;
            }
        }
        size /= 2;
    }
    input
}
