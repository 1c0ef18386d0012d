//! The map of the house: imports run downward, and in no circle.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The imports of each room.
type Imports = BTreeMap<String, BTreeSet<String>>;

fn root() -> PathBuf {
    testkit::tests_dir().parent().unwrap().to_owned()
}

#[test]
fn rooms_import_only_what_stands_below_them_on_the_map() {
    let map = rooms_of_the_map();
    let place = |room: &str| map.iter().position(|name| name == room);
    let imports = imports(&root().join("src"), "crate::");
    assert_eq!(circle(&imports), None);
    for (room, imported) in &imports {
        let from = place(room).unwrap_or_else(|| panic!("{room} is not on the map"));
        for other in imported {
            let to = place(other).unwrap_or_else(|| panic!("{other} is not on the map"));
            assert!(from < to, "{room} imports {other}, which stands above it");
        }
    }
    assert!(imports["connection"].contains("node"), "{imports:#?}");
}

#[test]
fn modules_of_a_room_import_each_other_in_no_circle() {
    let rooms = fs::read_dir(root().join("src")).unwrap();
    let rooms = rooms.map(|entry| entry.unwrap().path());
    for room in rooms.filter(|path| path.is_dir()) {
        let imports = imports(&room, "super::");
        let is_large = ["connection", "node"]
            .iter()
            .any(|name| room.ends_with(name));
        assert!(imports.len() > 5 || !is_large, "{imports:#?}");
        assert_eq!(circle(&imports), None, "{}", room.display());
    }
}

/// The rooms of the library on the map in ARCHITECTURE.md, the upper ones first.
fn rooms_of_the_map() -> Vec<String> {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let map = text
        .find("\nmain, demo, doctor ")
        .expect("the map's first line");
    let lines = text[map..].trim_start().lines();
    let rooms = lines.take_while(|line| !line.starts_with("---") && !line.starts_with("```"));
    let names = rooms.filter_map(|line| line.split("  ").next());
    names
        .flat_map(|names| names.split(", "))
        .map(str::to_owned)
        .collect()
}

/// The imports of each module below `folder`, by paths that begin with `prefix`. Imports of tests
/// do not count.
fn imports(folder: &Path, prefix: &str) -> Imports {
    let mut imports = Imports::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        if ["lib", "main", "cli", "mod", "tests"].contains(&name) {
            continue;
        }
        let named = imports.entry(name.to_owned()).or_default();
        collect(&path, prefix, named);
    }
    let all: BTreeSet<String> = imports.keys().cloned().collect();
    for (name, named) in &mut imports {
        named.retain(|other| other != name && all.contains(other));
    }
    imports
}

fn collect(path: &Path, prefix: &str, named: &mut BTreeSet<String>) {
    let stem = path.file_stem().unwrap().to_str().unwrap();
    if stem == "tests" || stem.ends_with("_tests") {
        return;
    }
    if path.is_dir() {
        // In a folder, `super` is one further up; in its `mod.rs` it is not.
        let further = prefix.replacen("super::", "super::super::", 1);
        for entry in fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            let prefix = if path.ends_with("mod.rs") {
                prefix
            } else {
                &further
            };
            collect(&path, prefix, named);
        }
    } else if path.extension().is_some_and(|extension| extension == "rs") {
        let text = fs::read_to_string(path).unwrap();
        let code = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap();
        let lines = code.lines().filter_map(|line| line.split("//").next());
        let code = lines.collect::<Vec<_>>().join("\n");
        for path in code.split(prefix).skip(1) {
            named.extend(first_names(path).into_iter().map(str::to_owned));
        }
    }
}

/// The first name of a path, or of each path of a group: `a::b`, `{a::b, c::{d, e}}`.
fn first_names(path: &str) -> Vec<&str> {
    let Some(group) = path.strip_prefix('{') else {
        return vec![name(path)];
    };
    let mut names = vec![name(group)];
    let mut depth = 0;
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(name(&group[at + 1..])),
            _ => {}
        }
    }
    names
}

fn name(path: &str) -> &str {
    let path = path.trim_start();
    let is_end = |character: char| !character.is_alphanumeric() && character != '_';
    &path[..path.find(is_end).unwrap_or(path.len())]
}

/// A circle of imports, if there is one.
fn circle(imports: &Imports) -> Option<Vec<&str>> {
    let mut way = Vec::new();
    let mut done = BTreeSet::new();
    imports
        .keys()
        .find_map(|start| circle_from(start, imports, &mut way, &mut done))
}

fn circle_from<'a>(
    module: &'a str,
    imports: &'a Imports,
    way: &mut Vec<&'a str>,
    done: &mut BTreeSet<&'a str>,
) -> Option<Vec<&'a str>> {
    if let Some(at) = way.iter().position(|passed| *passed == module) {
        return Some(way[at..].to_vec());
    }
    if !done.insert(module) {
        return None;
    }
    way.push(module);
    let imported = imports.get(module).into_iter().flatten();
    let found = imported
        .map(String::as_str)
        .find_map(|other| circle_from(other, imports, way, done));
    way.pop();
    found
}

#[test]
fn a_circle_is_found_and_groups_are_read() {
    let imports: Imports = [("a", "b"), ("b", "c"), ("c", "b"), ("d", "a")]
        .map(|(module, other)| (module.to_owned(), BTreeSet::from([other.to_owned()])))
        .into();
    assert_eq!(circle(&imports), Some(vec!["b", "c"]));
    let group = "{\n    a::{self, b},\n    c, d::e,\n};\nf(g, h)";
    assert_eq!(first_names(group), ["a", "c", "d", ""]);
}
