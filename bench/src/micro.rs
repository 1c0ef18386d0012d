//! Micro-benchmarks: their output, as it is, and the figures that they wrote down.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result};

/// The end of the names of files with what a benchmark printed.
const PRINTED: &str = ".bench.txt";

/// The end of the names of files with figures, as JSON: a number for each name.
const FIGURES: &str = ".figures";

/// The content of a folder of micro-benchmarks.
#[derive(Debug, Default)]
pub(crate) struct Micro {
    /// The output, by the benchmark's name.
    pub(crate) printed: BTreeMap<String, String>,
    pub(crate) figures: BTreeMap<String, f64>,
}

impl Micro {
    /// Reads what was saved in a folder, by the files' names.
    ///
    /// # Errors
    /// A file cannot be read.
    pub(crate) fn load(folder: &Path) -> Result<Self> {
        let mut micro = Self::default();
        let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()));
        for entry in entries? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let read = || fs::read_to_string(&path).with_context(|| format!("reading {name}"));
            if let Some(benchmark) = name.strip_suffix(PRINTED) {
                micro.printed.insert(benchmark.to_owned(), read()?);
            } else if name.ends_with(FIGURES) {
                let figures: BTreeMap<String, f64> = serde_json::from_str(&read()?)
                    .with_context(|| format!("{name} has no figures"))?;
                micro.figures.extend(figures);
            }
        }
        Ok(micro)
    }

    /// All that was printed, as blocks of text.
    pub(crate) fn markdown(&self) -> String {
        let blocks = self
            .printed
            .values()
            .map(|text| format!("```text\n{}\n```\n", text.trim()));
        blocks.collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_in_a_folder_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write(
            "codec.bench.txt",
            "codec   fastest\n\u{2570}\u{2500} decode  5 µs\n\n",
        );
        write("codec.figures", r#"{"decoded": 5e6}"#);
        write("other.txt", "not ours");
        let micro = Micro::load(folder.path()).unwrap();
        assert_eq!(
            micro.markdown(),
            "```text\ncodec   fastest\n\u{2570}\u{2500} decode  5 µs\n```\n"
        );
        assert_eq!(micro.figures["decoded"], 5e6);
        write("wrong.figures", "5 µs");
        assert!(Micro::load(folder.path()).is_err());
    }
}
