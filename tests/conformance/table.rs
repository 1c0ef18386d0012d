//! The table: case, plug-in, Stentor. It is made of the transcripts that are written down, which
//! every run compares with what is heard.

use std::{fmt::Write as _, fs, path::PathBuf};

use crate::{
    case::{self, Case},
    differences::EVERY_ERROR,
    release::Release,
    server::Column,
    transcript::{self, Relation, Transcripts, Written},
};

/// A cell shows so many characters of a transcript.
const CELL: usize = 240;

pub(crate) fn file() -> PathBuf {
    testkit::tests_dir()
        .with_file_name("docs")
        .join("conformance.md")
}

/// Checks that the page is the one that would be made now.
pub(crate) fn check(cases: &[Case]) -> Vec<String> {
    let is = fs::read_to_string(file()).unwrap_or_default();
    if is == render(cases) {
        return Vec::new();
    }
    let how = "cargo test --test conformance -- --table > docs/conformance.md";
    vec![format!("docs/conformance.md is out of date: {how}")]
}

pub(crate) fn render(cases: &[Case]) -> String {
    let written: Vec<Written> = cases.iter().map(|case| Written::read(&case.name)).collect();
    let count = |relation| {
        let on = |release| {
            let is = |written: &&Written| case::relation(&written.at(release)) == relation;
            written.iter().filter(is).count().to_string()
        };
        Release::ALL.map(on).join(" | ")
    };
    let releases = Release::ALL.map(|release| release.to_string()).join(" | ");
    let embedded = cases.iter().filter(|case| case.limit.is_none()).count();
    let mut text = format!(
        "# Conformance: the plug-ins and Stentor, case by case\n\n\
         This page is written by a program: `cargo test --test conformance -- --table`. Each row is \
         a case of [tests/conformance](../tests/conformance/main.rs), which runs unchanged against \
         RabbitMQ's plug-ins and against Stentor, by TCP and by WebSocket. Whole conversations are \
         in [transcripts](../tests/conformance/transcripts); every run compares them with what it \
         hears.\n\n\
         There are {} cases. By RabbitMQ's version, in so many of them\n\n\
         | {releases} | |\n|---|---|---|---|---|\n\
         | {} | clients hear the same |\n\
         | {} | the same, save that Stentor's ERROR ends the connection and names the receipt: \
         [E1](differences.md#E1), [E2](differences.md#E2), [E14](differences.md#E14) |\n\
         | {} | something else differs; the rows of [differences.md](differences.md) say why |\n\n\
         In {embedded} cases, Stentor's embedded broker has the same result as RabbitMQ behind \
         Stentor.\n\n\
         *Strict* is a RabbitMQ that denies every deprecated feature, and whose queues are quorum \
         queues unless they say otherwise. A row holds for {} and newer; where that ends, a row below it says since when something \
         else holds. A cell shows what clients heard, in short: `…` stands for more, `open` and \
         `closed` for the connection at the end, `~` for a word that is new in each run.\n",
        cases.len(),
        count(Relation::Same),
        count(Relation::SameButEnds),
        count(Relation::Differs),
        Release::OLDEST,
    );
    let mut group = "";
    for (case, written) in cases.iter().zip(written) {
        let (of, name) = case.name.split_once("::").unwrap_or(("", &case.name));
        if of != group {
            group = of;
            let _ = writeln!(
                text,
                "\n## {}\n\n| Case | Plug-in | Stentor | Why |\n|---|---|---|---|",
                capitalised(&group.replace('_', " "))
            );
        }
        let mut before = row(case, Release::OLDEST, &written);
        let _ = writeln!(text, "| {} | {before} |", name.replace('_', " "));
        for release in Release::ALL {
            let now = row(case, release, &written);
            if now != before {
                let _ = writeln!(text, "| … since {release} | {now} |");
                before = now;
            }
        }
    }
    text
}

/// A row, after the case's name.
fn row(case: &Case, release: Release, written: &Written) -> String {
    let transcripts = written.at(release);
    let relation = case::relation(&transcripts);
    let plugin = cell(&transcripts, Column::PluginTcp, Column::PluginWs);
    let rows = match relation {
        Relation::Same => &[],
        Relation::SameButEnds => &EVERY_ERROR[..],
        Relation::Differs => case.rows(release),
    };
    let stentor = match relation {
        Relation::Same => "same".to_owned(),
        Relation::SameButEnds => "same; `closed`".to_owned(),
        Relation::Differs => cell(&transcripts, Column::StentorTcp, Column::StentorWs),
    };
    let links = rows.iter().map(|id| format!("[{id}](differences.md#{id})"));
    let why = links.collect::<Vec<_>>().join(", ");
    format!("{plugin} | {stentor} | {why}")
}

fn cell(transcripts: &Transcripts, tcp: Column, ws: Column) -> String {
    let short = |column| transcripts.get(&column).map(|lines| summary(lines));
    match (short(tcp), short(ws)) {
        (Some(tcp), Some(ws)) if without_code(&tcp) == without_code(&ws) => code(&tcp),
        (Some(tcp), Some(ws)) => format!("{}; by WebSocket: {}", code(&tcp), code(&ws)),
        (Some(only), None) | (None, Some(only)) => code(&only),
        (None, None) => String::new(),
    }
}

/// Close codes are a WebSocket's own.
fn without_code(text: &str) -> String {
    let closed = text.find("closed").map(|at| &text[..at + "closed".len()]);
    closed.unwrap_or(text).to_owned()
}

fn summary(lines: &[String]) -> String {
    let heard = lines.iter().filter_map(|line| {
        let (_, line) = transcript::split(line);
        line.strip_prefix("< ").or_else(|| line.strip_prefix("= "))
    });
    let text = heard.collect::<Vec<_>>().join("; ");
    match text.char_indices().nth(CELL) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// As code in a cell of a table.
fn code(text: &str) -> String {
    if text.is_empty() {
        return "nothing".to_owned();
    }
    let text = text.replace('|', "\\|");
    if text.contains('`') {
        format!("`` {text} ``")
    } else {
        format!("`{text}`")
    }
}

fn capitalised(text: &str) -> String {
    let mut rest = text.chars();
    rest.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(rest).collect()
    })
}
