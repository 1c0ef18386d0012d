//! A permission's regular expression (pure).
//!
//! RabbitMQ hands it to Erlang's `re`, which is PCRE, and looks for a match anywhere in the bytes
//! of the name. Most patterns are plain: a name, a beginning, a list of names. Those are compared
//! as texts. All others are read as PCRE reads them, by `translate`, and matched by `fancy-regex`:
//! in linear time, unless they need look-around, atomic groups or back-references.

mod bytes;
#[cfg(test)]
mod tests;
mod translate;

use std::{borrow::Cow, fmt};

use fancy_regex::{Regex, RegexBuilder};
use thiserror::Error;

/// Longer patterns are refused, in bytes.
const MAX_LENGTH: usize = 32 * 1024;
/// Of a compiled pattern, in bytes.
const MAX_COMPILED: usize = 1024 * 1024;
/// Steps of one match that has to backtrack; after them it is no match. Some milliseconds.
const MAX_STEPS: usize = 100_000;

/// A regular expression, as RabbitMQ matches it.
pub struct Pattern {
    text: Box<str>,
    matcher: Matcher,
}

enum Matcher {
    /// Every name.
    All,
    /// This name.
    Is(Box<str>),
    /// One of these names, or names that begin so.
    OneOf(Box<[Alternative]>),
    /// Names that begin so; with `line`, no line feed may follow.
    Begins { with: Box<str>, line: bool },
    /// Names that end so.
    Ends(Box<str>),
    /// Names that have this in them.
    Has(Box<str>),
    /// Names that match this one, byte by byte: each is a character of the same number.
    Regex(Box<Regex>),
}

/// One of a list: a name, or, where it is open, a name's beginning, without a line feed behind.
struct Alternative {
    text: Box<str>,
    is_open: bool,
}

/// A pattern that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PatternError {
    /// It has something that is not read here.
    #[error("uses `{0}`, which is not read here{1}")]
    Unsupported(Box<str>, &'static str),
    /// It ends within something.
    #[error("ends within {0}")]
    Unfinished(&'static str),
    /// It is no regular expression, or one that grows too large.
    #[error("cannot be compiled: {0}")]
    Invalid(Box<str>),
    /// It is too long.
    #[error(
        "is longer than {MAX_LENGTH} bytes: split the user's rights, or name a common beginning"
    )]
    TooLong,
}

impl Pattern {
    /// Reads a pattern. The empty one matches the empty name alone, as at RabbitMQ.
    ///
    /// # Errors
    /// It cannot be matched as RabbitMQ does.
    pub fn new(text: &str) -> Result<Self, PatternError> {
        if text.len() > MAX_LENGTH {
            return Err(PatternError::TooLong);
        }
        let matcher = match plain(text) {
            Some(matcher) => matcher,
            None => Matcher::Regex(Box::new(compile(text)?)),
        };
        Ok(Self {
            text: text.into(),
            matcher,
        })
    }

    /// True if it matches the name. A match that takes too many steps is none.
    ///
    /// PCRE's `$` also matches before a line feed at the end. Here a name that ends so matches no
    /// pattern but those that every name matches.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        if matches!(self.matcher, Matcher::All) {
            return true;
        }
        if name.ends_with('\n') {
            return false;
        }
        match &self.matcher {
            Matcher::All => true,
            Matcher::Is(text) => *name == **text,
            Matcher::OneOf(list) => list.iter().any(|one| one.matches(name)),
            Matcher::Begins { with, line } => name
                .strip_prefix(&**with)
                .is_some_and(|rest| !line || !rest.contains('\n')),
            Matcher::Ends(text) => name.ends_with(&**text),
            Matcher::Has(text) => name.contains(&**text),
            Matcher::Regex(regex) => regex.is_match(&*byte_by_byte(name)).unwrap_or(false),
        }
    }

    /// The pattern.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({:?})", self.text)
    }
}

/// The text as a pattern that matches it: every byte that could mean something is escaped.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_ascii() && !character.is_ascii_alphanumeric() {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

fn compile(text: &str) -> Result<Regex, PatternError> {
    let regex = RegexBuilder::new(&translate::translate(text)?)
        .backtrack_limit(MAX_STEPS)
        .delegate_size_limit(MAX_COMPILED)
        .build();
    // The error shows the translation, which the reader of a log does not know.
    regex.map_err(|error| match error {
        fancy_regex::Error::ParseError(_, error) => PatternError::Invalid(error.to_string().into()),
        fancy_regex::Error::CompileError(error) => match *error {
            fancy_regex::CompileError::InnerError(_) => {
                PatternError::Invalid("it is too large, or no regular expression".into())
            }
            error => PatternError::Invalid(error.to_string().into()),
        },
        error => PatternError::Invalid(error.to_string().into()),
    })
}

/// PCRE sees bytes. A character of each byte's number stands for it.
fn byte_by_byte(name: &str) -> Cow<'_, str> {
    if name.is_ascii() {
        return Cow::Borrowed(name);
    }
    Cow::Owned(name.bytes().map(char::from).collect())
}

impl Alternative {
    fn new(pattern: &str) -> Option<Self> {
        let (body, is_open) = match pattern.strip_suffix(".*") {
            Some(body) => (body, true),
            None => (pattern, false),
        };
        Some(Self {
            text: literal(body)?,
            is_open,
        })
    }

    fn matches(&self, name: &str) -> bool {
        match name.strip_prefix(&*self.text) {
            Some("") => true,
            Some(rest) => self.is_open && !rest.contains('\n'),
            None => false,
        }
    }
}

/// A pattern that needs no regular expression.
fn plain(text: &str) -> Option<Matcher> {
    // By RabbitMQ's own rule.
    if text.is_empty() {
        return Some(Matcher::Is("".into()));
    }
    let (begins, rest) = match text.strip_prefix('^') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (ends, body) = match rest.strip_suffix('$') {
        Some(body) if !body.ends_with('\\') => (true, body),
        Some(_) => return None,
        None => (false, rest),
    };
    if matches!(body, "" | ".*") && !(begins && ends) {
        return Some(Matcher::All);
    }
    if let Some(literal) = literal(body) {
        return Some(match (begins, ends) {
            (true, true) => Matcher::Is(literal),
            (true, false) => Matcher::Begins {
                with: literal,
                line: false,
            },
            (false, true) => Matcher::Ends(literal),
            (false, false) => Matcher::Has(literal),
        });
    }
    if !begins {
        return None;
    }
    if let Some(with) = body.strip_suffix(".*").and_then(literal) {
        return Some(Matcher::Begins { with, line: ends });
    }
    let group = body.strip_prefix("(?:").or_else(|| body.strip_prefix('('));
    let names = group?.strip_suffix(')').filter(|_| ends)?;
    let list: Option<Box<[_]>> = names.split('|').map(Alternative::new).collect();
    list.map(Matcher::OneOf)
}

/// The text that a pattern without any operator stands for.
fn literal(pattern: &str) -> Option<Box<str>> {
    let mut literal = String::with_capacity(pattern.len());
    let mut characters = pattern.chars();
    while let Some(character) = characters.next() {
        literal.push(match character {
            '\\' => characters.next().filter(char::is_ascii_punctuation)?,
            '^' | '$' | '.' | '*' | '+' | '?' | '(' | ')' | '[' | '{' | '|' => return None,
            character => character,
        });
    }
    Some(literal.into())
}
