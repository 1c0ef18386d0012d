//! Micro-benchmarks: what divan printed, read again (pure, but for the files).

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context as _, Result};

/// The end of the names of files with what a benchmark printed.
const FILES: &str = ".bench.txt";

/// A benchmark's figure.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Timing {
    /// `codec: decode, Send`; or a whole line of a benchmark that is not divan's.
    pub(crate) name: String,
    /// As divan prints it: `25.26 µs`; empty of a line that is not divan's.
    pub(crate) median: String,
    /// How many of what it counts a second.
    pub(crate) per_second: Option<f64>,
}

/// Reads what was saved in a folder, by the files' names.
///
/// # Errors
/// A file cannot be read.
pub(crate) fn load_all(folder: &Path) -> Result<Vec<Timing>> {
    let mut paths = Vec::new();
    let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()));
    for entry in entries? {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(FILES) {
            paths.push(path);
        }
    }
    paths.sort();
    let mut all = Vec::new();
    for path in paths {
        let text = fs::read_to_string(&path);
        all.extend(parse(
            &text.with_context(|| format!("reading {}", path.display()))?,
        ));
    }
    Ok(all)
}

/// A table of what divan printed, and a list of the other lines.
pub(crate) fn markdown(timings: &[Timing]) -> String {
    let mut text = String::new();
    let (lines, timings): (Vec<_>, Vec<_>) =
        timings.iter().partition(|timing| timing.median.is_empty());
    if !timings.is_empty() {
        text.push_str("| | Median | A second |\n|---|--:|--:|\n");
    }
    for timing in timings {
        let per_second = timing.per_second.map_or("–".into(), crate::summary::number);
        // A string takes all.
        let _ = writeln!(
            text,
            "| {} | {} | {per_second} |",
            timing.name, timing.median
        );
    }
    for (number, line) in lines.iter().enumerate() {
        let begin = if number == 0 { "\n" } else { "" };
        let _ = writeln!(text, "{begin}- {}", line.name);
    }
    text
}

/// Reads a tree of divan's, with columns; what stands before one is a line of its own.
fn parse(text: &str) -> Vec<Timing> {
    const TREE: [char; 5] = ['│', '├', '╰', '─', ' '];
    let (mut timings, mut width, mut names) = (Vec::<Timing>::new(), None, Vec::new());
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    for line in lines.filter(|line| !line.starts_with("Timer precision")) {
        if let Some(at) = line.find("fastest").filter(|_| line.contains("median")) {
            width = Some(line[..at].chars().count());
            names = vec![line[..at].trim()];
            continue;
        }
        let Some(width) = width else {
            timings.push(Timing {
                name: line.trim().to_owned(),
                median: String::new(),
                per_second: None,
            });
            continue;
        };
        let split = line
            .char_indices()
            .nth(width)
            .map_or(line.len(), |(at, _)| at);
        let (tree, columns) = line.split_at(split);
        let median = columns.split('│').nth(2).unwrap_or_default().trim();
        let name = tree.trim_start_matches(TREE);
        let depth = (tree.chars().count() - name.chars().count()) / 3;
        let name = name.trim_end();
        if name.is_empty() {
            if let (Some(last), Some(rate)) = (timings.last_mut(), items_per_second(median)) {
                last.per_second = Some(rate);
            }
            continue;
        }
        names.truncate(depth);
        names.push(name);
        if !median.is_empty() {
            let (program, rest) = names.split_first().unwrap_or((&"", &[]));
            timings.push(Timing {
                name: format!("{program}: {}", rest.join(", ")),
                median: median.to_owned(),
                per_second: None,
            });
        }
    }
    timings
}

/// `3.958 Mitem/s`
fn items_per_second(text: &str) -> Option<f64> {
    let (number, unit) = text.split_once(' ')?;
    let factor = match unit.strip_suffix("item/s")? {
        "" => 1.0,
        "K" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = "\
100,000 keys bound: 9,000 a second
Timer precision: 20 ns
codec                          fastest       │ slowest       │ median        │ mean          │ samples │ iters
├─ decode                                    │               │               │               │         │
│  ├─ Message                  24.84 µs      │ 62.34 µs      │ 25.26 µs      │ 26.13 µs      │ 100     │ 100
│  │                           1.733 GB/s    │ 690.6 MB/s    │ 1.704 GB/s    │ 1.647 GB/s    │         │
│  │                           4.025 Mitem/s │ 1.604 Mitem/s │ 3.958 Mitem/s │ 3.825 Mitem/s │         │
│  ╰─ Send                     24.84 µs      │ 62.34 µs      │ 20.00 µs      │ 26.13 µs      │ 100     │ 100
│                              4.025 Mitem/s │ 1.604 Mitem/s │ 5 Mitem/s     │ 3.825 Mitem/s │         │
╰─ encode_heads_of_one_message 6.108 µs      │ 23.29 µs      │ 6.229 µs      │ 6.608 µs      │ 100     │ 200

";

    #[test]
    fn what_divan_printed_is_read() {
        let timings = parse(PRINTED);
        let names: Vec<_> = timings.iter().map(|timing| &*timing.name).collect();
        assert_eq!(
            names,
            [
                "100,000 keys bound: 9,000 a second",
                "codec: decode, Message",
                "codec: decode, Send",
                "codec: encode_heads_of_one_message"
            ]
        );
        assert_eq!(timings[1].per_second, Some(3_958_000.0));
        assert_eq!(timings[2].median, "20.00 µs");
        assert_eq!(timings[2].per_second, Some(5e6));
        assert_eq!(timings[3].per_second, None);
    }

    #[test]
    fn all_that_is_in_a_folder_is_a_table_and_a_list() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("codec.bench.txt"), PRINTED).unwrap();
        fs::write(folder.path().join("other.txt"), "not ours").unwrap();
        let text = markdown(&load_all(folder.path()).unwrap());
        assert!(
            text.contains("| codec: decode, Send | 20.00 µs | 5,000,000 |"),
            "{text}"
        );
        assert!(
            text.contains("- 100,000 keys bound: 9,000 a second"),
            "{text}"
        );
        assert!(!text.contains("not ours"), "{text}");
    }
}
