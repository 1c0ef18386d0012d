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
#[derive(Default)]
pub struct Coverage {
    /// For each edge, a bit for each of eight magnitudes of how often it was taken.
    seen: Vec<u8>,
}

impl Coverage {
    /// Edges that were taken; 0 where nothing is counted.
    #[must_use]
    pub fn edges(&self) -> usize {
        self.seen.iter().filter(|seen| **seen != 0).count()
    }

    /// Whether the run since the last call took an edge that none before took, or took one far more
    /// often. Sets the counters back.
    pub fn is_new(&mut self) -> bool {
        const WORD: usize = size_of::<u64>();
        let (begin, length) = (
            BEGIN.load(Ordering::Relaxed),
            LENGTH.load(Ordering::Relaxed),
        );
        if begin.is_null() {
            return false;
        }
        self.seen.resize(length, 0);
        // SAFETY: as the compiler promised; and only this thread runs targets.
        let counters = unsafe { slice::from_raw_parts_mut(begin, length) };
        let mut is_new = false;
        // Most are zero, and are passed by eight at a time.
        for (counters, seen) in counters.chunks_mut(WORD).zip(self.seen.chunks_mut(WORD)) {
            let word = <[u8; WORD]>::try_from(&*counters).map_or(1, u64::from_ne_bytes);
            if word == 0 {
                continue;
            }
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
        }
        is_new
    }
}
