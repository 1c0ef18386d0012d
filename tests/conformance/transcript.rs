//! Transcripts: a file for each case, with a section for each transcript, its columns, and the
//! release of RabbitMQ since which it holds:
//!
//! ```text
//! [plug-in TCP, Stentor TCP]
//! [since 4.0: plug-in TCP]
//! ```
//!
//! A release that is not named hears what the one before it hears.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

use crate::{case::Case, release::Release, server::Column};

/// The lines of each column.
pub(crate) type Transcripts = BTreeMap<Column, Vec<String>>;

fn folder() -> PathBuf {
    testkit::tests_dir().join("conformance/transcripts")
}

fn file(name: &str) -> PathBuf {
    folder().join(format!("{}.txt", name.replace("::", "/")))
}

/// The transcripts of a case: all of them for the oldest release, and the changes for each later
/// one.
#[derive(Default)]
pub(crate) struct Written(BTreeMap<Release, Transcripts>);

impl Written {
    /// Reads a case's file; empty without a file.
    pub(crate) fn read(name: &str) -> Self {
        Self::parse(&fs::read_to_string(file(name)).unwrap_or_default())
    }

    pub(crate) fn write(&self, name: &str) {
        let file = file(name);
        let parent = file.parent().expect("a file is in a folder");
        fs::create_dir_all(parent).expect("the folder can be made");
        fs::write(&file, self.print()).expect("the file can be written");
    }

    /// The transcripts on a release.
    pub(crate) fn at(&self, release: Release) -> Transcripts {
        let mut transcripts = Transcripts::new();
        for (_, news) in self.0.range(..=release) {
            transcripts.extend(news.clone());
        }
        transcripts
    }

    /// Sets the transcripts of a release. Those of later ones stay, if they differ.
    pub(crate) fn set(&mut self, release: Release, heard: &Transcripts) {
        self.0.insert(release, heard.clone());
        let mut before = Transcripts::new();
        for news in self.0.values_mut() {
            news.retain(|column, lines| {
                heard.contains_key(column) && before.get(column) != Some(lines)
            });
            before.extend(news.clone());
        }
        self.0.retain(|_, news| !news.is_empty());
    }

    fn parse(text: &str) -> Self {
        let mut written = Self::default();
        let mut place: Option<(Release, Vec<Column>)> = None;
        for line in text.lines() {
            let head = line
                .strip_prefix('[')
                .and_then(|head| head.strip_suffix(']'));
            if let Some(head) = head {
                let since = head.strip_prefix("since ").and_then(|rest| {
                    let (release, columns) = rest.split_once(": ")?;
                    Some((Release::named(release)?, columns))
                });
                let (release, columns) = since.unwrap_or((Release::OLDEST, head));
                let is_named =
                    |column: &Column| columns.split(", ").any(|name| name == column.to_string());
                let columns: Vec<Column> = Column::ALL.into_iter().filter(is_named).collect();
                let transcripts = written.0.entry(release).or_default();
                transcripts.extend(columns.iter().map(|column| (*column, Vec::new())));
                place = Some((release, columns));
            } else if let Some((release, columns)) = &place
                && !line.is_empty()
            {
                let transcripts = written.0.entry(*release).or_default();
                for column in columns {
                    let lines = transcripts.entry(*column).or_default();
                    lines.push(line.to_owned());
                }
            }
        }
        written
    }

    fn print(&self) -> String {
        let sections = self.0.iter().map(|(release, transcripts)| {
            let since = match *release {
                Release::OLDEST => String::new(),
                release => format!("since {release}: "),
            };
            print(transcripts, &since)
        });
        sections.collect::<Vec<_>>().join("\n")
    }
}

/// As a file holds it: columns that heard the same are named together.
pub(crate) fn print(transcripts: &Transcripts, since: &str) -> String {
    let mut text = String::new();
    let mut done = BTreeSet::new();
    for (column, lines) in transcripts {
        if !done.insert(*column) {
            continue;
        }
        let mut columns = vec![column.to_string()];
        for (other, same) in transcripts {
            if same == lines && done.insert(*other) {
                columns.push(other.to_string());
            }
        }
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&format!("[{since}{}]\n", columns.join(", ")));
        for line in lines {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

/// The differences from the file for this release.
pub(crate) fn compare(name: &str, release: Release, heard: &Transcripts) -> Vec<String> {
    let known = Written::read(name).at(release);
    let columns = heard.keys().chain(known.keys()).collect::<BTreeSet<_>>();
    let mut faults = Vec::new();
    for column in columns {
        let (was, is) = (known.get(column), heard.get(column));
        if was != is {
            let lines = |lines: Option<&Vec<String>>| {
                lines.map_or_else(
                    || "(nothing is written down)".to_owned(),
                    |lines| lines.join("\n  "),
                )
            };
            faults.push(format!(
                "{column}, RabbitMQ {release}: expected\n  {}\nbut heard\n  {}",
                lines(was),
                lines(is)
            ));
        }
    }
    if !faults.is_empty() {
        faults.push(format!(
            "If this is right: cargo test --test conformance -- --bless {name}"
        ));
    }
    faults
}

/// The relation of two transcripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Relation {
    /// Clients hear the same.
    Same,
    /// The same, save that Stentor's ERROR names the receipt that was asked for, says what to do
    /// next (which is not recorded), and ends the connection: rows E1, E2 and E14, which are about
    /// every ERROR.
    SameButEnds,
    Differs,
}

pub(crate) fn relation(plugin: &[String], stentor: &[String]) -> Relation {
    if plugin == stentor {
        return Relation::Same;
    }
    let (plugin, stentor) = (until_errors(plugin), until_errors(stentor));
    let (Some((plugin, mut after_plugin)), Some((stentor, after_stentor))) = (plugin, stentor)
    else {
        return Relation::Differs;
    };
    after_plugin.retain(|line| line != "= open");
    let ends = after_stentor.iter().chain(&after_plugin);
    if plugin == stentor && ends.into_iter().all(|line| line.starts_with("= closed")) {
        Relation::SameButEnds
    } else {
        Relation::Differs
    }
}

/// The lines up to the first ERROR, and those after it; `None` without an ERROR. The ERROR's
/// `receipt-id` is left out.
fn until_errors(lines: &[String]) -> Option<(Vec<String>, Vec<String>)> {
    let (mut before, mut after) = (Vec::new(), Vec::new());
    let mut failed = BTreeSet::new();
    for line in lines {
        let (who, what) = split(line);
        if what.starts_with('>') {
            before.push(line.clone());
        } else if failed.contains(who) {
            after.push(what.to_owned());
        } else if what.starts_with("< ERROR ") {
            failed.insert(who);
            let (head, body) = line.split_once(" | ").unwrap_or((line, ""));
            let words = head
                .split(' ')
                .filter(|word| !word.starts_with("receipt-id:"));
            before.push(format!("{} | {body}", words.collect::<Vec<_>>().join(" ")));
        } else {
            before.push(line.clone());
        }
    }
    (!failed.is_empty()).then_some((before, after))
}

/// A client's letter, if there is one, and the rest of a line: its mark, and what was said or heard.
pub(crate) fn split(line: &str) -> (&str, &str) {
    let length = line.bytes().take_while(u8::is_ascii_lowercase).count();
    line.split_at(length.min(1))
}

/// Files of cases that no longer exist.
pub(crate) fn strangers(cases: &[Case]) -> Vec<String> {
    let known: BTreeSet<PathBuf> = cases.iter().map(|case| file(&case.name)).collect();
    let mut faults = Vec::new();
    for group in fs::read_dir(folder()).expect("the folder of transcripts") {
        for entry in fs::read_dir(group.unwrap().path()).expect("folders of groups") {
            let path = entry.unwrap().path();
            if !known.contains(&path) {
                faults.push(format!("{} is of no case: delete it", path.display()));
            }
        }
    }
    faults
}
