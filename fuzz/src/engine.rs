//! Runs a target: first the corpus as it is, then inputs that are made of it.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use crate::{Target, coverage::Coverage, mutate::mutate};

/// Between two looks at the clock, and for code that no input before had reached.
const LOOK: usize = 1024;

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
    let mut run = Run {
        target,
        coverage: Coverage::default(),
        progress: Progress::default(),
        inputs: corpus,
    };
    let begun = Instant::now();
    let mut rng = StdRng::seed_from_u64(seed);
    for at in 0..run.inputs.len() {
        let input = run.inputs[at].clone();
        run.read(&input)?;
    }
    if run.coverage.finds_more() {
        for input in &run.inputs {
            holds(target, input);
            run.coverage.is_new();
        }
    }
    if run.inputs.is_empty() {
        run.inputs.push(Vec::new());
    }
    // Their memory is used again.
    let mut batch = vec![Vec::new(); LOOK];
    let mut told = Instant::now();
    loop {
        let progress = &mut run.progress;
        progress.elapsed = begun.elapsed();
        progress.corpus = run.inputs.len();
        let left = match until {
            Until::Executions(most) => most.saturating_sub(progress.executions),
            Until::Elapsed(most) if progress.elapsed >= most => 0,
            Until::Elapsed(_) => u64::MAX,
        };
        if told.elapsed() >= Duration::from_secs(1) || left == 0 {
            progress.edges = run.coverage.edges();
            tell(progress);
            told = Instant::now();
        }
        if left == 0 {
            return Ok(run.progress);
        }
        let count = usize::try_from(left).unwrap_or(LOOK).min(LOOK);
        for input in &mut batch[..count] {
            run.make(input, &mut rng);
            run.read(input)?;
            run.keep(input, &mut keep);
        }
        if run.coverage.finds_more() {
            for input in &batch[..count] {
                holds(target, input);
                run.keep(input, &mut keep);
            }
        }
    }
}

struct Run<'a> {
    target: &'a Target,
    coverage: Coverage,
    progress: Progress,
    inputs: Vec<Vec<u8>>,
}

impl Run<'_> {
    /// Makes an input of others.
    fn make(&self, input: &mut Vec<u8>, rng: &mut StdRng) {
        input.clear();
        // New ones more often than old ones.
        let count = self.inputs.len();
        let at = rng.random_range(0..count).max(rng.random_range(0..count));
        input.extend_from_slice(&self.inputs[at]);
        let other = rng.random_range(0..count);
        mutate(input, &self.inputs[other], self.target.words, rng);
    }

    fn read(&mut self, input: &[u8]) -> Result<(), Box<Crash>> {
        self.progress.executions += 1;
        if holds(self.target, input) {
            return Ok(());
        }
        let input = shortest(self.target, input);
        let progress = self.progress;
        Err(Box::new(Crash { input, progress }))
    }

    /// Keeps the input that was read, if it took a new way.
    fn keep(&mut self, input: &[u8], keep: &mut impl FnMut(&[u8])) {
        if self.coverage.is_new() {
            keep(input);
            self.inputs.push(input.to_vec());
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
