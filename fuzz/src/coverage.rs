//! The ways that an input takes through the program, if it was compiled with LLVM's counters
//! (`./scripts/fuzz.sh`): one byte for each edge, which code that the compiler added counts up.

#![allow(
    unsafe_code,
    reason = "the counters are C's: two pointers for each module"
)]

use std::{
    slice,
    sync::atomic::{AtomicPtr, AtomicUsize, Ordering},
};

/// The counters of the program: the linker has put those of all modules together.
static BEGIN: AtomicPtr<u8> = AtomicPtr::new(std::ptr::null_mut());
static LENGTH: AtomicUsize = AtomicUsize::new(0);

/// Called before `main`, by code that the compiler added: once for each module, with the same bounds.
///
/// # Safety
/// The counters lie from `begin` to `end`, for as long as the process lives.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __sanitizer_cov_8bit_counters_init(begin: *mut u8, end: *mut u8) {
    BEGIN.store(begin, Ordering::Relaxed);
    let length = (end as usize).saturating_sub(begin as usize);
    LENGTH.store(length, Ordering::Relaxed);
}

/// What all inputs before have reached. One for each process: the counters are the process'.
///
/// A program has some hundred thousand edges, of which a target takes few: to look at all of them
/// would take longer than many a target. So after each input only those words of counters are looked
/// at that any input has reached; and now and then all of them.
#[derive(Default)]
pub struct Coverage {
    /// For each edge, a bit for each of eight magnitudes of how often it was taken.
    seen: Vec<u8>,
    /// For each word, whether any input has reached it; and those that were, by number.
    is_reached: Vec<bool>,
    reached: Vec<usize>,
}

impl Coverage {
    /// Edges that were taken; 0 where nothing is counted.
    #[must_use]
    pub fn edges(&self) -> usize {
        self.seen.iter().filter(|seen| **seen != 0).count()
    }

    /// Whether the run since the last call took an edge that none before took, or took one far more
    /// often; in words that are known. Sets their counters back.
    pub fn is_new(&mut self) -> bool {
        let (words, rest) = counters().as_chunks_mut::<WORD>();
        let (seen, seen_of_rest) = self.seen.as_chunks_mut::<WORD>();
        let mut is_new = look(rest, seen_of_rest);
        for number in &self.reached {
            let word = &mut words[*number];
            if u64::from_ne_bytes(*word) != 0 {
                is_new |= look(word, &mut seen[*number]);
            }
        }
        is_new
    }

    /// Whether an input since the last call took edges of words that were not known: which input, is
    /// seen when they are run again. Sets all counters back.
    pub fn finds_more(&mut self) -> bool {
        let counters = counters();
        self.seen.resize(counters.len(), 0);
        let (words, _) = counters.as_chunks_mut::<WORD>();
        self.is_reached.resize(words.len(), false);
        let known = self.reached.len();
        for (number, (word, is_reached)) in words.iter_mut().zip(&mut self.is_reached).enumerate() {
            if u64::from_ne_bytes(*word) != 0 {
                *word = [0; WORD];
                if !std::mem::replace(is_reached, true) {
                    self.reached.push(number);
                }
            }
        }
        self.reached.len() > known
    }
}

/// So many counters are looked at in one go.
const WORD: usize = size_of::<u64>();

/// All of them; none, if nothing is counted.
fn counters() -> &'static mut [u8] {
    let begin = BEGIN.load(Ordering::Relaxed);
    if begin.is_null() {
        return &mut [];
    }
    // SAFETY: as the compiler promised; and only one thread runs targets.
    unsafe { slice::from_raw_parts_mut(begin, LENGTH.load(Ordering::Relaxed)) }
}

/// Whether counters have something new. Sets them back.
fn look(counters: &mut [u8], seen: &mut [u8]) -> bool {
    let mut is_new = false;
    for (counter, seen) in counters.iter_mut().zip(seen) {
        let magnitude = match std::mem::take(counter) {
            0 => continue,
            1 => 1,
            2 => 2,
            3 => 4,
            4..=7 => 8,
            8..=15 => 16,
            16..=31 => 32,
            32..=127 => 64,
            _ => 128,
        };
        is_new |= *seen & magnitude == 0;
        *seen |= magnitude;
    }
    is_new
}
