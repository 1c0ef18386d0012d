use super::*;

fn pattern(text: &str) -> Pattern {
    Pattern::new(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// Whether the pattern needs no regular expression.
fn is_plain(text: &str) -> bool {
    !matches!(pattern(text).matcher, Matcher::Regex(_))
}

fn matching<'a>(text: &str, names: &[&'a str]) -> Vec<&'a str> {
    let pattern = pattern(text);
    let matching = names.iter().filter(|name| pattern.matches(name));
    matching.copied().collect()
}

#[test]
fn the_usual_patterns_are_plain() {
    for (text, names) in [
        (".*", &["", "a", "user_a", "xuser_a", "user_ax", "a\nb"][..]),
        ("", &[""]),
        ("^$", &[""]),
        ("^user_a$", &["user_a"]),
        ("^user_a", &["user_a", "user_ax"]),
        ("^user_.*", &["user_a", "user_ax"]),
        ("^user_.*$", &["user_a", "user_ax"]),
        ("user_a$", &["user_a", "xuser_a"]),
        ("user_a", &["user_a", "xuser_a", "user_ax"]),
        ("^(a|user_a)$", &["a", "user_a"]),
        ("^(?:a|user_a)$", &["a", "user_a"]),
        ("^(a|user_.*)$", &["a", "user_a", "user_ax"]),
        ("^(.*)$", &["", "a", "user_a", "xuser_a", "user_ax"]),
        ("^a\nb$", &["a\nb"]),
        (r"^user\_a$", &["user_a"]),
    ] {
        assert!(is_plain(text), "{text}");
        let all = ["", "a", "user_a", "xuser_a", "user_ax", "a\nb"];
        assert_eq!(matching(text, &all), names, "{text}");
    }
    // Plain or not, a dot is one in a name only if it is escaped.
    assert_eq!(matching(r"^a\.b$", &["a.b", "axb"]), ["a.b"]);
    assert_eq!(matching("^a.b$", &["a.b", "axb"]), ["a.b", "axb"]);
}

#[test]
fn the_plain_way_and_the_long_one_agree() {
    let texts = [
        "^user_a$",
        "^user_a",
        "user_a$",
        "user_a",
        "^user_.*",
        "^user_.*$",
        "^(a|user_.*|)$",
        "^(a|user_a)$",
        "^a\\.b",
        ".*",
        "^",
        "$",
        "^$",
        "^.*",
    ];
    let names = [
        "",
        "a",
        "a.b",
        "axb",
        "user_a",
        "user_b",
        "user_a\nb",
        "xuser_a",
        "ä",
    ];
    for text in texts {
        let long = compile(text).unwrap();
        for name in names {
            let by_regex = long.is_match(&*byte_by_byte(name)).unwrap();
            assert_eq!(pattern(text).matches(name), by_regex, "{text} {name:?}");
        }
    }
}

#[test]
fn a_name_that_ends_in_a_line_feed_matches_nothing_but_everything() {
    for text in [
        "^a$",
        "^a",
        "a",
        "^a\n$",
        r"^a\n\z",
        r"^[\s\S]*$",
        "^(?!b$)",
    ] {
        assert!(!pattern(text).matches("a\n"), "{text}");
    }
    assert!(pattern(".*").matches("a\n"));
}

#[test]
fn matches_are_of_bytes() {
    assert!(pattern("^ä$").matches("ä"));
    assert!(pattern("^..$").matches("ä") && !pattern("^.$").matches("ä"));
    assert!(pattern(r"^\xc3\xa4$").matches("ä"));
    assert!(!pattern(r"^\w+$").matches("ä"), "as Erlang 28 and later");
    assert!(pattern("^[ä]+$").matches("ä"));
}

#[test]
fn what_linear_time_cannot_do_is_bounded() {
    assert_eq!(matching("^(?!secret)", &["a", "secret", "secrets"]), ["a"]);
    assert_eq!(matching(r"^(\w)\1$", &["aa", "ab"]), ["aa"]);
    assert_eq!(matching("^(?>a+)b", &["aab", "aac"]), ["aab"]);
    // Exponential, were it left alone.
    let name = "a".repeat(255);
    let started = std::time::Instant::now();
    assert!(!pattern("^(?!x)(a|a)*b$").matches(&name));
    assert!(!pattern("^(a|a)*b$").matches(&name));
    assert!(started.elapsed() < std::time::Duration::from_secs(5));
}

#[test]
fn what_is_not_read_is_named() {
    for (text, what) in [
        (r"^\p{L}$", r"\p"),
        (r"^\R$", r"\R"),
        (r"\Ga", r"\G"),
        ("(?x) a", "(?x"),
        ("(?m)^a$", "(?m"),
        ("(?R)", "(?R"),
        ("(?|a|b)", "(?|"),
        ("(*UTF8)a", "(*"),
        ("^a{,2}$", "{,2}"),
        ("^a{ 2}$", "{ 2}"),
        ("[[.a.]]", "[. or [="),
        ("[[:foo:]]", "[:foo:]"),
        ("[b-a]", "range"),
        (r"[a-\d]", "range"),
        ("[a", "class"),
        ("(a", "parenthesis"),
        ("a)", "cannot be compiled"),
        ("*", "cannot be compiled"),
        ("a**", "cannot be compiled"),
        (r"a\", "ends within"),
        ("(?i", "ends within"),
        ("((((a{1000}){1000}){1000}){1000})", "too large"),
    ] {
        let error = Pattern::new(text).unwrap_err().to_string();
        assert!(error.contains(what), "{text}: {error}");
    }
    let long = "a".repeat(MAX_LENGTH + 1);
    assert_eq!(Pattern::new(&long).unwrap_err(), PatternError::TooLong);
}

#[test]
fn an_escaped_text_matches_itself() {
    let texts = [
        "a.b",
        "a|b",
        ".*",
        "a+b@example.com",
        "(",
        "\\",
        "{username}",
        "ä€",
        "a\nb",
        "[a]",
    ];
    for text in texts {
        let escaped = format!("^x{}y$", escape(text));
        for other in texts {
            let name = format!("x{other}y");
            assert_eq!(
                pattern(&escaped).matches(&name),
                text == other,
                "{escaped} {name}"
            );
        }
        let in_class = format!("^[{}]$", escape(text));
        assert!(
            pattern(&in_class).matches(&text[..text.chars().next().unwrap().len_utf8()])
                || !text.is_ascii()
        );
    }
}
