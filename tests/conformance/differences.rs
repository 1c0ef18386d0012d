//! `docs/differences.md`: rows with an identifier in the first column and how it was checked in
//! the last one.

use std::{collections::BTreeMap, fs, path::PathBuf};

use crate::{
    case::{self, Case},
    transcript::{self, Relation},
};

/// The rows about every ERROR.
pub(crate) const EVERY_ERROR: [&str; 3] = ["E1", "E2", "E14"];

fn file() -> PathBuf {
    testkit::tests_dir()
        .with_file_name("docs")
        .join("differences.md")
}

/// The last cell of each row, by the row's identifier (`<a id="E1"></a>E1`).
fn rows(text: &str) -> BTreeMap<String, String> {
    let rows = text.lines().filter_map(|line| {
        let rest = line.strip_prefix("| <a id=\"")?;
        let (id, _) = rest.split_once('"')?;
        let last = line.trim_end_matches('|').rsplit('|').next()?;
        Some((id.to_owned(), last.trim().to_owned()))
    });
    rows.collect()
}

/// Cases that name rows that are not there or do not hold, and rows that no case shows although
/// they say so.
pub(crate) fn check(cases: &[Case]) -> Vec<String> {
    let text = fs::read_to_string(file()).expect("docs/differences.md");
    let rows = rows(&text);
    let mut faults = Vec::new();
    let mut shown = BTreeMap::<&str, usize>::new();
    for case in cases {
        for id in case.differs.iter().chain(&case.limit) {
            *shown.entry(id).or_default() += 1;
            if !rows.contains_key(*id) {
                faults.push(format!(
                    "{}: docs/differences.md has no row {id}",
                    case.name
                ));
            }
        }
        let transcripts = transcript::read(&case.name);
        if case::relation(&transcripts) == Relation::SameButEnds {
            for id in EVERY_ERROR {
                *shown.entry(id).or_default() += 1;
            }
        }
        let fault = case::verdict(case, &transcripts);
        faults.extend(fault.map(|fault| format!("{}: {fault}", case.name)));
    }
    for (id, checked) in &rows {
        // "shown": by a case here. Anything else says how it was checked instead, and why.
        let is_shown = shown.contains_key(id.as_str());
        match (checked == "shown", is_shown) {
            (true, false) => faults.push(format!("row {id} says \"shown\", but no case shows it")),
            (false, true) => faults.push(format!(
                "row {id} is shown by a case, but does not say \"shown\""
            )),
            (false, false) if checked.len() < 10 => {
                faults.push(format!(
                    "row {id} does not say how it was checked, and why by no case"
                ));
            }
            _ => {}
        }
    }
    if rows.is_empty() {
        faults.push("docs/differences.md has no rows with identifiers".to_owned());
    }
    faults
}
