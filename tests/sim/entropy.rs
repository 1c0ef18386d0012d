//! Where randomness comes from: a seed.
//!
//! The gateway draws ids, shards, pauses and the keys of its hash maps from the operating system. In
//! a thread that runs a seed, the system's function is replaced by one that counts on from the seed.

use std::{cell::Cell, fs::File, io::Read};

thread_local! {
    static STATE: Cell<Option<u64>> = const { Cell::new(None) };
}

/// From now on, all randomness of this thread comes from `seed`.
pub(crate) fn replace(seed: u64) {
    STATE.set(Some(seed));
}

/// Fills a buffer as the system would.
///
/// # Safety
/// `buffer` has room for `length` bytes.
#[expect(unsafe_code, reason = "it stands in for a function of the C library")]
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut u8, length: usize, _flags: u32) -> isize {
    // SAFETY: the caller's promise.
    let buffer = unsafe { std::slice::from_raw_parts_mut(buffer, length) };
    match STATE.get() {
        Some(mut state) => {
            for bytes in buffer.chunks_mut(8) {
                let drawn = step(&mut state).to_le_bytes();
                bytes.copy_from_slice(&drawn[..bytes.len()]);
            }
            STATE.set(Some(state));
        }
        None => {
            let file = File::open("/dev/urandom");
            if file.and_then(|mut file| file.read_exact(buffer)).is_err() {
                return -1;
            }
        }
    }
    isize::try_from(length).unwrap_or(-1)
}

/// SplitMix64.
fn step(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// The draws of one part of a seed. Each part has its own, so that one more draw of one changes
/// nothing for the others.
#[derive(Clone, Debug)]
pub(crate) struct Draws(u64);

impl Draws {
    pub(crate) fn of(parts: &[u64]) -> Self {
        let mut state = 0;
        for part in parts {
            state ^= *part;
            state = step(&mut state);
        }
        Self(state)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        step(&mut self.0) % end.max(1)
    }

    pub(crate) fn between(&mut self, first: u64, last: u64) -> u64 {
        first + self.below(last - first + 1)
    }

    pub(crate) fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn millis(&mut self, first: u64, last: u64) -> std::time::Duration {
        std::time::Duration::from_millis(self.between(first, last))
    }

    pub(crate) fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        let count = of.len() as u64;
        &of[usize::try_from(self.below(count)).unwrap()]
    }
}

/// A number for a text, the same in each run.
pub(crate) fn hash(text: &str) -> u64 {
    let bytes = text.bytes().map(u64::from);
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ byte).wrapping_mul(0x0100_0000_01b3)
    })
}
