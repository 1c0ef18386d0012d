//! Inputs that are made of others.

use rand::{RngExt as _, rngs::StdRng};

/// Longer inputs find little, and take long.
const MAX_LENGTH: usize = 4096;

/// Bytes that many grammars have something to say about.
const BYTES: &[u8] = b"\0\n\r\t \"%'(),-./0:;=@[\\]{}~\x7f\x80\xbf\xc3\xed\xf0\xff";

/// Changes `input` in a few places; `other` is another input, to take parts of.
pub(crate) fn mutate(input: &mut Vec<u8>, other: &[u8], words: &[&'static [u8]], rng: &mut StdRng) {
    let changes = 1 + rng.random_range(0..4) * rng.random_range(0..3);
    for _ in 0..changes {
        let at = rng.random_range(0..=input.len());
        let end = (at + rng.random_range(1..=16)).min(input.len());
        match rng.random_range(0..11) {
            0 if at < input.len() => input[at] = rng.random(),
            1 if at < input.len() => input[at] ^= 1 << rng.random_range(0..8),
            2 if at < input.len() => input[at] = BYTES[rng.random_range(0..BYTES.len())],
            3 => input.insert(at, BYTES[rng.random_range(0..BYTES.len())]),
            4 => drop(input.drain(at..end)),
            5 => {
                let part = input[at..end].to_vec();
                drop(input.splice(at..at, part));
            }
            6 | 7 if !words.is_empty() => {
                let word = words[rng.random_range(0..words.len())];
                let end = if rng.random_bool(0.5) { end } else { at };
                drop(input.splice(at..end, word.iter().copied()));
            }
            8 if !other.is_empty() => {
                let from = rng.random_range(0..other.len());
                let to = (from + rng.random_range(1..=64)).min(other.len());
                drop(input.splice(at..at, other[from..to].iter().copied()));
            }
            9 if !other.is_empty() => {
                let from = rng.random_range(0..other.len());
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            10 if rng.random_bool(0.1) => input.truncate(at),
            _ => input.insert(at, rng.random()),
        }
    }
    input.truncate(MAX_LENGTH);
}
