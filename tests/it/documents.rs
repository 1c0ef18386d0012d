//! The documents: links lead somewhere, the first pages stay short, and the glossary's types exist.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Component, Path, PathBuf},
};

/// Folders with documents of others, or without documents.
const NOT_OURS: [&str; 3] = ["target", "node_modules", "results"];

fn root() -> PathBuf {
    testkit::tests_dir().parent().unwrap().to_owned()
}

#[test]
fn every_link_leads_somewhere() {
    let mut documents = BTreeMap::new();
    collect(&root(), &mut documents);
    assert!(documents.len() > 40, "{:?}", documents.keys());
    let mut faults = Vec::new();
    for (path, text) in &documents {
        for link in links(text) {
            if let Some(fault) = fault(path, &link, &documents) {
                faults.push(format!("{}: {link}: {fault}", path.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

/// A newcomer reads them whole; details have pages of their own in `docs/`.
#[test]
fn the_first_pages_are_short() {
    for (name, most) in [("README.md", 1_500), ("ARCHITECTURE.md", 2_500)] {
        let text = fs::read_to_string(root().join(name)).unwrap();
        let words = text.split_whitespace().count();
        assert!(words <= most, "{name} has {words} words, not {most}");
    }
}

/// What may be run and where it leads is the same in each language; words may differ.
#[test]
fn the_first_page_in_chinese_says_the_same() {
    let read = |name: &str| fs::read_to_string(root().join(name)).unwrap();
    let (english, chinese) = (read("README.md"), read("README.zh-CN.md"));
    let blocks = |text: &str| -> Vec<String> {
        let parts = text.split("```").skip(1).step_by(2);
        parts.map(str::to_owned).collect()
    };
    assert!(blocks(&english).len() > 8);
    assert_eq!(blocks(&english), blocks(&chinese));
    let leads = |text: &str| -> BTreeSet<String> {
        let ours = |link: &String| !link.starts_with('#') && !link.starts_with("README");
        links(text).into_iter().filter(ours).collect()
    };
    assert_eq!(leads(&english), leads(&chinese));
    let headings = |text: &str| prose(text).filter(|line| line.starts_with('#')).count();
    assert_eq!(headings(&english), headings(&chinese));
    // Figures and versions.
    let numbers = |text: &str| -> BTreeSet<String> {
        let parts = text.split(|sign: char| !sign.is_ascii_digit() && sign != '.');
        let trimmed = parts.map(|number| number.trim_matches('.').to_owned());
        trimmed.filter(|number| !number.is_empty()).collect()
    };
    assert_eq!(numbers(&english), numbers(&chinese));
}

#[test]
fn the_types_of_the_glossary_exist() {
    let text = fs::read_to_string(root().join("docs/glossary.md")).unwrap();
    let mut count = 0;
    for line in text.lines() {
        let Some((_, link)) = line.split_once("| [`") else {
            continue;
        };
        let (name, rest) = link.split_once("`](").unwrap();
        let file = rest.split(')').next().unwrap();
        let code = fs::read_to_string(root().join("docs").join(file)).unwrap();
        let is_defined = ["struct", "enum", "trait"]
            .map(|kind| format!("{kind} {name}"))
            .iter()
            .flat_map(|definition| code.split(definition.as_str()).skip(1))
            .any(|rest| !rest.starts_with(|next: char| next.is_alphanumeric()));
        assert!(is_defined, "{file} has no {name}");
        count += 1;
    }
    assert!(count > 50, "{count}");
}

fn collect(folder: &Path, documents: &mut BTreeMap<PathBuf, String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.starts_with('.') || NOT_OURS.contains(&name) {
            continue;
        }
        if path.is_dir() {
            collect(&path, documents);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            let text = fs::read_to_string(&path).unwrap();
            documents.insert(path, text);
        }
    }
}

/// The lines that are no code.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut is_code = false;
    text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    })
}

fn links(text: &str) -> Vec<String> {
    prose(text)
        .flat_map(|line| {
            // Text between back-quotes is code: every other piece.
            let plain: String = line.split('`').step_by(2).collect();
            let pieces = plain.split("](").skip(1);
            let targets = pieces.filter_map(|rest| rest.split_once(')'));
            let owned = targets.map(|(target, _)| target.to_owned());
            owned.collect::<Vec<_>>()
        })
        .collect()
}

/// The fault of a link of this document. Links to other servers are not followed.
fn fault(path: &Path, link: &str, documents: &BTreeMap<PathBuf, String>) -> Option<String> {
    if link.contains("://") {
        return None;
    }
    let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
    let target = match file {
        "" => path.to_owned(),
        file => plain(&path.parent().unwrap().join(file)),
    };
    if !target.exists() {
        return Some("there is no such file".to_owned());
    }
    let text = documents.get(&target)?;
    let is_there = anchor.is_empty() || anchors(text).contains(anchor);
    (!is_there).then(|| "there is no such heading".to_owned())
}

/// Without `..`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => drop(plain.pop()),
            component => plain.push(component),
        }
    }
    plain
}

/// The anchors of a document, as GitHub and Forgejo make them of headings; and those set by hand.
fn anchors(text: &str) -> BTreeSet<String> {
    let by_hand = text.split("<a id=\"").skip(1);
    let mut anchors: BTreeSet<String> = by_hand
        .filter_map(|rest| Some(rest.split_once('"')?.0.to_owned()))
        .collect();
    for line in prose(text).filter(|line| line.starts_with('#')) {
        let heading = line.trim_start_matches('#').trim().to_lowercase();
        let kept = heading
            .chars()
            .filter(|&kept| kept.is_alphanumeric() || matches!(kept, ' ' | '-' | '_'));
        anchors.insert(kept.collect::<String>().replace(' ', "-"));
    }
    anchors
}

#[test]
fn links_and_anchors_are_found() {
    let text = "# A `b`, c\n[x](y.md#z) `[no](no.md)`\n```\n[no](no.md)\n```\n<a id=\"E1\"></a>";
    assert_eq!(links(text), ["y.md#z"]);
    let expected = ["E1", "a-b-c"].map(str::to_owned);
    assert_eq!(anchors(text), BTreeSet::from(expected));
}
