//! `docs/differences.md`: rows with an identifier in the first column and how it was checked in
//! the last one.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

use crate::{
    case::{self, Case},
    release::Release,
    transcript::{Relation, Written},
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

/// Identifiers that two rows have: a link would lead to the first only.
fn twice(text: &str) -> Vec<String> {
    let ids = text.lines().filter_map(|line| {
        let rest = line.strip_prefix("| <a id=\"")?;
        Some(rest.split_once('"')?.0)
    });
    let mut seen = BTreeSet::new();
    ids.filter(|id| !seen.insert(*id))
        .map(|id| format!("docs/differences.md has two rows {id}"))
        .collect()
}

/// The last cell of a row that cases show on these releases.
fn says(releases: &BTreeSet<Release>) -> String {
    if releases.len() == Release::ALL.len() {
        return "shown".to_owned();
    }
    let names: Vec<_> = releases.iter().map(Release::to_string).collect();
    format!("shown on {}", names.join(", "))
}

/// Cases that name rows that are not there or do not hold, and rows that no case shows although
/// they say so.
pub(crate) fn check(cases: &[Case]) -> Vec<String> {
    let text = fs::read_to_string(file()).expect("docs/differences.md");
    let rows = rows(&text);
    let mut faults = twice(&text);
    let mut shown = BTreeMap::<&str, BTreeSet<Release>>::new();
    for case in cases {
        let written = Written::read(&case.name);
        for release in Release::ALL {
            let transcripts = written.at(release);
            let every_error = match case::relation(&transcripts) {
                Relation::SameButEnds => &EVERY_ERROR[..],
                _ => &[],
            };
            let named = case.rows(release).iter().chain(&case.limit);
            for id in named.chain(every_error) {
                shown.entry(id).or_default().insert(release);
                if !rows.contains_key(*id) {
                    let name = &case.name;
                    faults.push(format!("{name}: docs/differences.md has no row {id}"));
                }
            }
            let fault = case::verdict(case, release, &transcripts);
            faults.extend(fault.map(|fault| format!("{}: {fault}", case.name)));
        }
    }
    for (id, checked) in &rows {
        // "shown": by a case here. Anything else says how it was checked instead, and why.
        let by_cases = shown.get(id.as_str()).map(says);
        match by_cases {
            Some(says) if says != *checked => faults.push(format!(
                "row {id} says \"{checked}\"; the cases say \"{says}\""
            )),
            None if checked.starts_with("shown") => {
                faults.push(format!("row {id} says \"{checked}\", but no case shows it"));
            }
            None if checked.len() < 10 => {
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
