use std::collections::BTreeSet;

use proptest::{collection::vec, prelude::*, sample::select};

use super::*;

#[track_caller]
fn topic(pattern: &str, hits: &[&str], misses: &[&str]) {
    for key in hits {
        assert!(
            matches(ExchangeKind::Topic, pattern, key),
            "{pattern} {key}"
        );
    }
    for key in misses {
        assert!(
            !matches(ExchangeKind::Topic, pattern, key),
            "{pattern} {key}"
        );
    }
}

/// A right to `pattern` is one to every key that `binding` can bring.
#[test]
fn a_pattern_covers_those_that_match_no_more() {
    let is_covered =
        |pattern: &str, binding: &str| covers(words(pattern).map(Word::parse), binding);
    for (pattern, binding, expected) in [
        ("#", "#", true),
        ("#", "a.*.#", true),
        ("#", "", true),
        ("a.*", "a.*", true),
        ("a.*", "a.b", true),
        ("a.*", "a.#", false),
        ("a.*", "*.b", false),
        ("a.*", "#", false),
        ("a.#", "a", true),
        ("a.#", "a.#", true),
        ("a.#", "a.*.b", true),
        ("a.#", "#", false),
        ("a", "a", true),
        ("a", "*", false),
        ("", "", true),
        ("", "#", false),
        ("*", "", false),
    ] {
        assert_eq!(
            is_covered(pattern, binding),
            expected,
            "{pattern:?} {binding:?}"
        );
    }
    let literal = |word, binding| covers([Word::Literal(word)], binding);
    assert!(!literal("#", "#") && !literal("*", "*") && !literal("*", "a"));
    let is_admitted = |word, key| admits([Word::Literal(word)], key);
    assert!(is_admitted("#", "#") && is_admitted("*", "*"));
    assert!(!is_admitted("*", "a") && !is_admitted("#", ""));
}

#[test]
fn topics_match_as_in_rabbitmq() {
    topic("a.b", &["a.b"], &["a", "a.b.c", "a.c", "", "a.b."]);
    topic("a.*", &["a.b", "a."], &["a", "a.b.c", "b.a"]);
    topic("*", &["a", "*", "#"], &["", ".", "a.b"]);
    topic("#", &["", ".", "a", "a.b.c", "a..b"], &[]);
    topic("a.#", &["a", "a.", "a.b", "a.b.c"], &["", "b", "ab"]);
    topic("#.a", &["a", "b.a", ".a"], &["a.b", ""]);
    topic(
        "a.#.b",
        &["a.b", "a.x.b", "a.x.y.b", "a..b"],
        &["a", "a.b.c"],
    );
    topic("*.#", &["a", "a.b", "."], &[""]);
    topic("a..b", &["a..b"], &["a.b", "a.x.b"]);
    topic("a.*.b", &["a..b", "a.x.b"], &["a.b"]);
    topic("", &[""], &[".", "a"]);
    topic("a*.b", &["a*.b"], &["ax.b", "a.b"]);
    topic("#.#.#", &["", "a", "a.b.c.d"], &[]);
}

#[test]
fn kinds_differ() {
    assert!(matches(ExchangeKind::Direct, "a.*", "a.*"));
    assert!(!matches(ExchangeKind::Direct, "a.*", "a.b"));
    assert!(matches(ExchangeKind::Fanout, "x", "y"));
    assert!(!matches(ExchangeKind::Other, "x", "x"));
}

/// The definition, word for word; exponential, so for short texts only.
fn by_definition(pattern: &[&str], key: &[&str]) -> bool {
    match pattern.split_first() {
        None => key.is_empty(),
        Some((&"#", rest)) => (0..=key.len()).any(|taken| by_definition(rest, &key[taken..])),
        Some((word, rest)) => key.split_first().is_some_and(|(first, key)| {
            (*word == "*" || word == first) && by_definition(rest, key)
        }),
    }
}

fn text_of(words: &'static [&'static str], most: usize) -> impl Strategy<Value = String> {
    vec(select(words), 0..=most).prop_map(|words| words.join("."))
}

fn pattern() -> impl Strategy<Value = String> {
    text_of(&["a", "b", "", "*", "#"], 6)
}

fn key() -> impl Strategy<Value = String> {
    text_of(&["a", "b", "c", "", "*"], 6)
}

fn kind() -> impl Strategy<Value = ExchangeKind> {
    select(vec![
        ExchangeKind::Direct,
        ExchangeKind::Topic,
        ExchangeKind::Topic,
        ExchangeKind::Fanout,
        ExchangeKind::Other,
    ])
}

type Model = BTreeSet<(String, u8)>;

fn matching(table: &RoutingTable<u8>, model: &Model, key: &str) -> [Vec<u8>; 2] {
    let mut found = Vec::new();
    table.for_each_match(key, |value| found.push(*value));
    let mut expected: Vec<u8> = model
        .iter()
        .filter(|(pattern, _)| matches(table.kind(), pattern, key))
        .map(|(_, value)| *value)
        .collect();
    found.sort_unstable();
    expected.sort_unstable();
    [found, expected]
}

proptest! {
    #[test]
    fn the_matcher_is_the_definition(pattern in pattern(), key in key()) {
        let words_of = |text| words(text).collect::<Vec<_>>();
        prop_assert_eq!(
            matches(ExchangeKind::Topic, &pattern, &key),
            by_definition(&words_of(&pattern), &words_of(&key))
        );
    }

    /// Rights depend on it.
    #[test]
    fn a_covered_pattern_matches_nothing_more(
        right in pattern(), binding in pattern(), key in key(),
    ) {
        let is_covered = covers(words(&right).map(Word::parse), &binding);
        if is_covered && matches(ExchangeKind::Topic, &binding, &key) {
            prop_assert!(matches(ExchangeKind::Topic, &right, &key), "{right} {binding} {key}");
        }
        prop_assert!(covers(words(&right).map(Word::parse), &right));
    }

    #[test]
    fn a_table_finds_what_matches(
        kind in kind(),
        steps in vec((any::<bool>(), pattern(), 0..4_u8), 0..40),
        keys in vec(key(), 1..8),
    ) {
        let mut table = RoutingTable::new(kind);
        let mut model = Model::new();
        for (insert, pattern, value) in steps {
            let has = |model: &Model| model.iter().any(|(one, _)| *one == pattern);
            let had = has(&model);
            if insert {
                model.insert((pattern.clone(), value));
                prop_assert_eq!(table.insert(&pattern, value), !had);
            } else {
                let expected = match (model.remove(&(pattern.clone(), value)), has(&model)) {
                    (false, _) => Removed::Absent,
                    (true, true) => Removed::Remains,
                    (true, false) => Removed::Last,
                };
                prop_assert_eq!(table.remove(&pattern, &value), expected);
            }
            prop_assert_eq!(table.contains(&pattern), has(&model));
        }
        let patterns: BTreeSet<String> = table.patterns().map(String::from).collect();
        let expected: BTreeSet<String> = model.iter().map(|(pattern, _)| pattern.clone()).collect();
        prop_assert_eq!(table.len(), expected.len());
        prop_assert_eq!(patterns, expected);
        for key in &keys {
            let [found, expected] = matching(&table, &model, key);
            prop_assert_eq!(found, expected);
        }

        let mut found = Vec::new();
        table.for_each_match_any(keys.iter().map(String::as_str), |value| found.push(*value));
        let mut expected: Vec<u8> = model
            .iter()
            .filter(|(pattern, _)| keys.iter().any(|key| matches(kind, pattern, key)))
            .map(|(_, value)| *value)
            .collect();
        found.sort_unstable();
        expected.sort_unstable();
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn what_was_removed_leaves_nothing_behind() {
    let mut table = RoutingTable::new(ExchangeKind::Topic);
    table.insert("keep.*", 0);
    for round in 0..3 {
        for user in 0..1_000 {
            table.insert(&format!("user.{user}.*.#"), user);
            table.insert(&format!("user.{user}"), user);
        }
        for user in 0..1_000 {
            assert_eq!(
                table.remove(&format!("user.{user}.*.#"), &user),
                Removed::Last
            );
            assert_eq!(table.remove(&format!("user.{user}"), &user), Removed::Last);
        }
        assert_eq!(table.len(), 1, "round {round}");
        assert_eq!(table.wild.live_nodes(), 3);
    }
    assert!(table.exact.capacity() <= 128);
    assert_eq!(table.remove("keep.*", &0), Removed::Last);
    assert!(table.is_empty());
}

#[test]
fn no_pattern_makes_matching_slow() {
    // An algorithm that tries every way to share the key out among the `#` never finishes.
    let depth = 120;
    let mut table = RoutingTable::new(ExchangeKind::Topic);
    let pattern = format!("{}end", "#.".repeat(depth));
    table.insert(&pattern, 0);
    table.insert(&format!("{}end", "#.a.".repeat(depth / 2)), 1);
    let key = vec!["a"; 5_000].join(".");
    let mut found = 0;
    table.for_each_match(&key, |_| found += 1);
    assert_eq!(found, 0);
    table.for_each_match(&format!("{key}.end"), |_| found += 1);
    assert_eq!(found, 2);
    assert!(!matches(ExchangeKind::Topic, &pattern, &key));
}

#[test]
fn depth_costs_no_stack() {
    let pattern = "*.".repeat(1_000_000);
    let mut table = RoutingTable::new(ExchangeKind::Topic);
    table.insert(&pattern, ());
    let mut found = 0;
    table.for_each_match(&".".repeat(1_000_000), |()| found += 1);
    assert_eq!(found, 1);
    table.insert("*", ());
    assert_eq!(table.remove(&pattern, &()), Removed::Last);
}

#[test]
fn a_user_s_own_key_costs_little() {
    // One value in place: key and value are four words.
    assert_eq!(size_of::<(Box<str>, Values<u64>)>(), 32);
}
