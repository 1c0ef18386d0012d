//! Destinations with claims in them, such as `/exchange/feed/user_{sub}` (pure).
//!
//! A claim's value stands for itself, whatever it is: `*` and `#` in it are letters. In a key with
//! wildcards or a second claim, a value with a dot, which would be two words, grants nothing: a user
//! `bob.x` is not to be in `user.bob.#`.

use super::{
    claims::Claims,
    grants::{Part, Target},
};
use crate::broker::{destination::Destination, routing::Word};

/// A destination of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template {
    /// The exchange and the key, or the queue.
    place: Place,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Exchange(Text, Text),
    Queue(Text),
}

/// Literal text and claims in turn.
type Text = Vec<Piece>;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(Box<str>),
    Claim(Box<str>),
}

/// More destinations than anybody needs, for one login.
pub(super) const MAX_TARGETS: usize = 1000;

impl Template {
    /// Reads a destination; `topics` is the exchange of `/topic/…`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(text: &str, topics: &str) -> Result<Self, String> {
        let place = match read(text, topics)? {
            Target::Exchange(name, key) => Place::Exchange(pieces(&name)?, pieces(&joined(&key))?),
            Target::Queue(name) => Place::Queue(pieces(&name)?),
        };
        Ok(Self { place })
    }

    /// The destinations that it comes to with these claims; a claim that is a list makes one for
    /// each entry. A claim that is missing or empty makes none.
    pub(super) fn expand(&self, claims: &Claims) -> Vec<Target> {
        let mut names: Vec<&str> = match &self.place {
            Place::Exchange(name, key) => name.iter().chain(key).filter_map(Piece::claim).collect(),
            Place::Queue(name) => name.iter().filter_map(Piece::claim).collect(),
        };
        names.sort_unstable();
        names.dedup();
        let mut choices: Vec<Vec<(&str, String)>> = vec![Vec::new()];
        for name in names {
            let values = claims.texts(name);
            choices = choices
                .iter()
                .flat_map(|chosen| {
                    values
                        .iter()
                        .filter(|value| !value.is_empty())
                        .map(|value| {
                            let mut chosen = chosen.clone();
                            chosen.push((name, value.clone()));
                            chosen
                        })
                })
                .take(MAX_TARGETS.saturating_add(1))
                .collect();
        }
        let targets = choices.iter().filter_map(|chosen| self.with(chosen));
        targets.collect()
    }

    fn with(&self, chosen: &[(&str, String)]) -> Option<Target> {
        let value = |name: &str| {
            let mut chosen = chosen.iter();
            chosen.find_map(|(other, value)| (*other == name).then_some(&**value))
        };
        Some(match &self.place {
            Place::Exchange(name, key) => {
                Target::Exchange(fill(name, &value)?.into(), words(key, &value)?)
            }
            Place::Queue(name) => Target::Queue(fill(name, &value)?.into()),
        })
    }
}

impl Piece {
    fn claim(&self) -> Option<&str> {
        match self {
            Self::Claim(name) => Some(name),
            Self::Literal(_) => None,
        }
    }
}

/// A destination that a claim names: its `*` and `#` are wildcards, for its issuer wrote them.
pub(super) fn read(text: &str, topics: &str) -> Result<Target, String> {
    let destination = Destination::parse(text)
        .map_err(|error| format!("is no destination: {}", error.to_string().trim_end()))?;
    match destination {
        Destination::Exchange { name, key } => {
            Ok(Target::Exchange(name, parts(&key.unwrap_or_default())))
        }
        Destination::Topic(key) => Ok(Target::Exchange(topics.into(), parts(&key))),
        Destination::Queue(name) | Destination::AmqQueue(name) => Ok(Target::Queue(name)),
        Destination::TempQueue(_) | Destination::ReplyQueue(_) => {
            Err("is a queue for replies, which needs no right".into())
        }
    }
}

fn parts(key: &str) -> Box<[Part]> {
    let words = key.split('.').filter(|_| !key.is_empty());
    words.map(|word| Part::from(Word::parse(word))).collect()
}

fn joined(key: &[Part]) -> String {
    let words = key.iter().map(|part| match part {
        Part::Literal(word) => &**word,
        Part::One => "*",
        Part::Any => "#",
    });
    words.collect::<Vec<_>>().join(".")
}

fn pieces(text: &str) -> Result<Text, String> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, behind) = after
            .split_once('}')
            .ok_or("has a brace without its other half: write {claim}")?;
        if name.is_empty() || name.contains('{') {
            return Err("has braces without a claim between: write {claim}".into());
        }
        if !before.is_empty() {
            pieces.push(Piece::Literal(before.into()));
        }
        pieces.push(Piece::Claim(name.into()));
        rest = behind;
    }
    if rest.contains('}') {
        return Err("has a brace without its other half: write {claim}".into());
    }
    if !rest.is_empty() {
        pieces.push(Piece::Literal(rest.into()));
    }
    Ok(pieces)
}

fn fill<'a>(text: &Text, value: &impl Fn(&str) -> Option<&'a str>) -> Option<String> {
    let mut filled = String::new();
    for piece in text {
        filled.push_str(match piece {
            Piece::Literal(text) => text,
            Piece::Claim(name) => value(name)?,
        });
    }
    Some(filled)
}

/// The words of a key. `None`: a value would change the others' places.
fn words<'a>(key: &Text, value: &impl Fn(&str) -> Option<&'a str>) -> Option<Box<[Part]>> {
    let is_wild = key.iter().any(|piece| match piece {
        Piece::Literal(text) => text.split('.').any(|word| matches!(word, "*" | "#")),
        Piece::Claim(_) => false,
    });
    // With two values, a dot could make of one user's key another's.
    let is_strict = is_wild || key.iter().filter_map(Piece::claim).count() > 1;
    let mut parts: Vec<Part> = Vec::new();
    // Whether a wildcard may stand there: not beside a value.
    let mut word = (String::new(), true);
    let mut has_words = false;
    let mut end = |word: &mut (String, bool)| {
        let (text, is_own) = std::mem::replace(word, (String::new(), true));
        parts.push(match is_own {
            true => Part::from(Word::parse(&text)),
            false => Part::Literal(text.into()),
        });
    };
    for piece in key {
        has_words = true;
        match piece {
            Piece::Literal(text) => {
                let mut words = text.split('.');
                word.0.push_str(words.next().unwrap_or_default());
                for next in words {
                    end(&mut word);
                    word.0.push_str(next);
                }
            }
            Piece::Claim(name) => {
                let value = value(name)?;
                if is_strict && value.contains('.') {
                    return None;
                }
                let mut words = value.split('.');
                word.1 = false;
                word.0.push_str(words.next().unwrap_or_default());
                for next in words {
                    end(&mut word);
                    word = (next.to_owned(), false);
                }
            }
        }
    }
    if has_words {
        end(&mut word);
    }
    Some(parts.into())
}
