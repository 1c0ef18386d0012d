//! Fuzzing: any bytes for everything that reads bytes of others, and what must hold for each, beyond
//! that nothing panics.
//!
//! | Module | Its part |
//! |---|---|
//! | [`targets`] | what reads bytes, and what must hold |
//! | [`engine`] | runs a target with inputs from a seed, and keeps those that find new ways |
//! | `mutate` | makes an input of others |
//! | [`coverage`] | which ways through the program an input has taken |
//!
//! Every test run has a short part of it ([tests/short.rs](../tests/short.rs)), on the inputs in
//! `corpus`, without coverage and always the same. `./scripts/fuzz.sh TARGET SECONDS` compiles with
//! LLVM's counters of edges, which a stable compiler has, and goes on for long. An input that broke
//! something belongs into `corpus/TARGET`, named by the fault, when the fault is mended.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a target that panics has found something"
)]

pub mod coverage;
pub mod engine;
mod mutate;
pub mod targets;

use std::{fs, path::PathBuf};

/// Something that reads bytes of others.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// Words that mean something to it.
    pub words: &'static [&'static [u8]],
    /// How often the short run calls it.
    pub short: u64,
    /// Reads any bytes, and panics if something does not hold.
    pub run: fn(&[u8]),
}

impl Target {
    /// The inputs that were kept.
    ///
    /// # Panics
    /// They cannot be read.
    #[must_use]
    pub fn corpus(&self) -> Vec<Vec<u8>> {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus");
        let files = fs::read_dir(folder.join(self.name)).expect("each target has a corpus");
        let mut paths: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
        // The order counts for what a seed makes of them.
        paths.sort();
        let read = paths
            .iter()
            .map(|path| fs::read(path).expect("it is readable"));
        read.collect()
    }
}

/// Bytes that are taken off the front of an input, to choose by; zeros when it has no more.
pub(crate) struct Choices<'a>(pub(crate) &'a [u8]);

impl<'a> Choices<'a> {
    pub(crate) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::from(self.byte()) % bound.max(1)
    }

    /// The next bytes, up to `most`.
    pub(crate) fn take(&mut self, most: usize) -> &'a [u8] {
        let (first, rest) = self.0.split_at(most.min(self.0.len()));
        self.0 = rest;
        first
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
