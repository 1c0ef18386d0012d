//! Which frames a tail shows (pure).

use std::fmt;

use serde::{Deserialize, Serialize};

use super::frame::Who;

/// The frames that are meant. All conditions have to hold; the empty filter means all frames.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Filter {
    /// Of this user's sessions. Before a login: of the name that CONNECT gives.
    pub user: Option<Box<str>>,
    /// Of this session, by its id.
    pub session: Option<Box<str>>,
    /// With this destination; `*` stands for any characters.
    pub destination: Option<Box<str>>,
    /// Only refusals: ERROR frames, and the frames that were refused.
    pub refused: bool,
}

impl Filter {
    /// Whether the client is meant.
    #[must_use]
    pub fn is_of(&self, who: &Who<'_>) -> bool {
        let is_user = self
            .user
            .as_deref()
            .is_none_or(|user| who.user == Some(user));
        let is_session = self.session.as_deref().is_none_or(|id| id == who.session);
        is_user && is_session
    }

    /// Whether a frame with this destination is meant.
    #[must_use]
    pub fn leads_to(&self, destination: Option<&str>) -> bool {
        self.destination
            .as_deref()
            .is_none_or(|pattern| destination.is_some_and(|text| matches(pattern, text)))
    }
}

/// Whether the text is as the pattern says, in which `*` stands for any characters. Takes time by
/// the product of both lengths at most, whatever they are.
fn matches(pattern: &str, text: &str) -> bool {
    let (mut pattern, mut text) = (pattern.as_bytes(), text.as_bytes());
    // Where to go on if it does not match: behind the last star, one byte further in the text.
    let mut star: Option<(&[u8], &[u8])> = None;
    loop {
        match (pattern.split_first(), text.split_first()) {
            (Some((b'*', rest)), _) => {
                star = Some((rest, text));
                pattern = rest;
            }
            (Some((one, rest)), Some((other, after))) if one == other => {
                (pattern, text) = (rest, after);
            }
            (None, None) => return true,
            _ => {
                let Some((behind, from)) = star else {
                    return false;
                };
                let Some((_, from)) = from.split_first() else {
                    return false;
                };
                (pattern, text) = (behind, from);
                star = Some((behind, from));
            }
        }
    }
}

/// For the audit log.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let conditions = [
            ("user", &self.user),
            ("session", &self.session),
            ("destination", &self.destination),
        ];
        let mut is_first = true;
        for (name, value) in conditions {
            if let Some(value) = value {
                let comma = if is_first { "" } else { ", " };
                write!(f, "{comma}{name} {value:?}")?;
                is_first = false;
            }
        }
        match (self.refused, is_first) {
            (true, true) => f.write_str("refusals"),
            (true, false) => f.write_str(", refusals"),
            (false, true) => f.write_str("all frames"),
            (false, false) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn who<'a>(session: &'a str, user: Option<&'a str>) -> Who<'a> {
        Who {
            session,
            user,
            vhost: None,
            remote: None,
            transport: "tcp",
        }
    }

    #[test]
    fn all_conditions_have_to_hold() {
        let all = Filter::default();
        assert!(all.is_of(&who("s", None)) && all.leads_to(None) && all.leads_to(Some("/x")));
        let one = Filter {
            user: Some("alice".into()),
            session: Some("s".into()),
            destination: Some("/topic/a".into()),
            refused: false,
        };
        assert!(one.is_of(&who("s", Some("alice"))));
        assert!(!one.is_of(&who("s", Some("bob"))) && !one.is_of(&who("s", None)));
        assert!(!one.is_of(&who("t", Some("alice"))));
        assert!(one.leads_to(Some("/topic/a")));
        assert!(!one.leads_to(None) && !one.leads_to(Some("/topic/ab")));
    }

    #[test]
    fn a_star_stands_for_anything() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("/exchange/feed/*", "/exchange/feed/user_alice", true),
            ("/exchange/feed/*", "/exchange/feed", false),
            ("*alice", "/exchange/feed/user_alice", true),
            ("*alice", "/exchange/feed/alice_2", false),
            ("/a/*/c*", "/a/b/b/cd", true),
            ("a*a", "a", false),
            ("**a**", "bab", true),
            ("é*", "éa", true),
            ("?", "a", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
        // As long as both may be.
        let (pattern, text) = ("*a".repeat(500) + "b", "a".repeat(5_000));
        assert!(!matches(&pattern, &text));
    }

    proptest! {
        #[test]
        fn stars_match_what_they_replace(parts in prop::collection::vec("[a-c]{0,3}", 1..5)) {
            let text = parts.concat();
            let first = format!("*{}*", parts[0]);
            prop_assert!(matches(&text, &text));
            prop_assert!(matches(&parts.join("*"), &text));
            prop_assert!(matches(&first, &text));
        }
    }

    #[test]
    fn the_audit_log_names_the_conditions() {
        let show = |filter: Filter| filter.to_string();
        assert_eq!(show(Filter::default()), "all frames");
        let refused = Filter {
            refused: true,
            ..Filter::default()
        };
        assert_eq!(show(refused.clone()), "refusals");
        let all = Filter {
            user: Some("a\nb".into()),
            destination: Some("/x".into()),
            ..refused
        };
        assert_eq!(show(all), "user \"a\\nb\", destination \"/x\", refusals");
    }
}
