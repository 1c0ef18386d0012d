//! Which inputs the engine keeps, with counters of the test's own.
#![allow(
    clippy::unwrap_used,
    unsafe_code,
    reason = "a test, and the counters are C's"
)]

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicU8, Ordering},
};

use stentor_fuzz::{
    Target, coverage,
    engine::{self, Until},
};

/// Far apart: each is in a word of its own.
const APART: usize = 300;
static COUNTERS: [AtomicU8; 256 * APART] = [const { AtomicU8::new(0) }; 256 * APART];

/// A way for each first byte.
fn run(input: &[u8]) {
    if let Some(first) = input.first() {
        COUNTERS[usize::from(*first) * APART].fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn what_takes_a_new_way_is_kept_once() {
    let bounds = COUNTERS.as_ptr_range();
    let (begin, end) = (bounds.start.cast_mut().cast(), bounds.end.cast_mut().cast());
    // SAFETY: they are there for as long as the process lives.
    unsafe { coverage::__sanitizer_cov_8bit_counters_init(begin, end) };
    let target = Target {
        name: "first byte",
        words: &[],
        short: 0,
        run,
    };
    let mut kept = Vec::new();
    let corpus = vec![b"a".to_vec(), b"a longer one".to_vec(), b"b".to_vec()];
    let keep = |input: &[u8]| kept.push(input[0]);
    let until = Until::Executions(100_000);
    let progress = engine::run(&target, corpus, 1, until, |_| {}, keep).unwrap();
    let ways: BTreeSet<u8> = kept.iter().copied().collect();
    assert_eq!(ways.len(), kept.len(), "one input for each way");
    assert!(
        !ways.contains(&b'a') && !ways.contains(&b'b'),
        "the corpus took them"
    );
    assert_eq!(progress.edges, kept.len() + 2);
    assert_eq!(progress.corpus, kept.len() + 3);
    assert!(progress.edges > 200, "{} of 256", progress.edges);
}
