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
        let (begin, length) = (
            BEGIN.load(Ordering::Relaxed),
            LENGTH.load(Ordering::Relaxed),
        );
        if begin.is_null() {
            return false;
        }
        self.seen.resize(length.div_ceil(BLOCK) * BLOCK, 0);
        // SAFETY: as the compiler promised; and only this thread runs targets.
        let counters = unsafe { slice::from_raw_parts_mut(begin, length) };
        let (blocks, rest) = counters.as_chunks_mut::<BLOCK>();
        let (seen, _) = self.seen.as_chunks_mut::<BLOCK>();
        let mut is_new = false;
        for (counters, seen) in blocks.iter_mut().zip(seen.iter_mut()) {
            // Most are passed here: the C library compares, whose code counts nothing.
            if *counters != ZEROS {
                is_new |= look(counters, seen);
            }
        }
        let last = seen.get_mut(blocks.len());
        is_new | last.is_some_and(|seen| look(rest, seen))
    }
}

/// So many counters are looked at in one go. It would take longer than many a target otherwise.
const BLOCK: usize = 128;
static ZEROS: [u8; BLOCK] = [0; BLOCK];

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
