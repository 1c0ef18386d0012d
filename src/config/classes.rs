//! The keys that a reload changes while the gateway serves; all others wait for a restart.
//!
//! The table in `docs/reload.md` is this one, and a test compares them.

use super::keys::Name;

/// What a reload changes of a section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reloads {
    /// Every key.
    All,
    /// These keys.
    Only(&'static [&'static str]),
    /// Every key but these.
    AllBut(&'static [&'static str]),
}

/// Sections that are not here wait for a restart.
const RELOADED: &[(&str, Reloads)] = &[
    (
        "listen",
        Reloads::Only(&[
            "origins",
            "allow_missing_origin",
            "max_connections",
            "max_unauthenticated",
        ]),
    ),
    ("tls", Reloads::All),
    (
        "auth",
        Reloads::AllBut(&[
            "max_calls",
            "max_user_calls",
            "recheck",
            "certificate_login",
        ]),
    ),
    ("auth.jwt", Reloads::All),
    ("sessions", Reloads::All),
    ("stomp", Reloads::AllBut(&["default_topic_exchange"])),
    ("limits", Reloads::All),
    ("mailbox", Reloads::All),
    ("api", Reloads::AllBut(&["max_requests"])),
    ("tail", Reloads::All),
    ("health", Reloads::All),
    ("shutdown", Reloads::All),
    ("log", Reloads::Only(&["level"])),
];

/// Whether a reload changes the key.
#[must_use]
pub(super) fn reloads((section, key): Name) -> bool {
    let of_section = RELOADED.iter().find(|(name, _)| *name == section);
    match of_section.map(|(_, reloads)| *reloads) {
        None => false,
        Some(Reloads::All) => true,
        Some(Reloads::Only(keys)) => keys.contains(&key),
        Some(Reloads::AllBut(keys)) => !keys.contains(&key),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::sections;

    #[test]
    fn only_keys_that_exist_are_named() {
        let sections = sections();
        for (section, reloads) in RELOADED {
            let (_, known) = sections.iter().find(|(name, _)| name == section).unwrap();
            let named: &[&str] = match reloads {
                Reloads::All => &[],
                Reloads::Only(keys) | Reloads::AllBut(keys) => keys,
            };
            for key in named {
                assert!(known.contains(key), "[{section}] {key}");
            }
        }
    }

    /// The table for operators is the code's: each key is in one of its columns.
    #[test]
    fn the_documented_table_is_this_one() {
        let page = include_str!("../../docs/reload.md");
        let rows: Vec<Vec<&str>> = page
            .lines()
            .filter(|line| line.starts_with("| `["))
            .map(|line| line.split('|').map(str::trim).collect())
            .collect();
        let keys = |cell: &str| -> Vec<String> {
            let quoted = cell.split('`').skip(1).step_by(2);
            quoted.map(str::to_owned).collect()
        };
        for (section, known) in sections() {
            let head = format!("`[{section}]`");
            let row = rows.iter().find(|row| row[1] == head);
            let row = row.unwrap_or_else(|| panic!("docs/reload.md has no row for {head}"));
            let written = [keys(row[2]), keys(row[3])];
            for key in known {
                let is_written = |column: &Vec<String>| column.iter().any(|name| name == key);
                let column = usize::from(!reloads((section, key)));
                let all = ["all", "all others"];
                let is_in = |index: usize| {
                    let cell = [row[2], row[3]][index];
                    is_written(&written[index])
                        || (all.contains(&cell) && !is_written(&written[1 - index]))
                };
                assert!(is_in(column), "[{section}] {key} is in the wrong column");
                assert!(!is_in(1 - column), "[{section}] {key} is in both columns");
            }
        }
    }
}
