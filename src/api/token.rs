//! Access to the API: tokens and their scopes.

use std::{collections::BTreeMap, fmt, str::FromStr};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use clap::ValueEnum;
use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use serde::Deserialize;
use subtle::ConstantTimeEq;
use thiserror::Error;

/// The prefix of a token's hash.
const HASHED: &str = "sha256:";

/// The shortest token, in characters: shorter ones can be guessed.
const SHORTEST: usize = 16;

/// The longest, and the longest name.
const LONGEST: usize = 256;

/// A right that a token grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Scope {
    /// Reads nodes, sessions, users, groups, metrics.
    Read,
    /// Publishes messages.
    Publish,
    /// Reads messages of journals.
    History,
    /// All of it; also to end sessions, and to have the hook asked anew.
    Admin,
}

/// A token, as the configuration has it: its scopes, and the hash of its text. The text is not
/// kept.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    scopes: Box<[Scope]>,
    hash: Hash,
}

type Hash = [u8; SHA256_OUTPUT_LEN];

/// All tokens, by the names that the log gives them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>")]
pub struct Tokens(BTreeMap<Box<str>, Token>);

/// A token of the configuration is wrong. The text never shows any of it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TokenError {
    /// Nothing stands before the token.
    #[error(
        "has no scope; write \"SCOPES TOKEN\", where SCOPES are some of read, publish, history and admin: \
         \"read publish sha256:…\" (`stentor token` makes one)"
    )]
    NoScope,
    /// A word before the token is not a scope.
    #[error("has a scope that does not exist; there are read, publish, history and admin")]
    UnknownScope,
    /// It can be guessed, or fits into no header.
    #[error(
        "has a token of fewer than {SHORTEST} or more than {LONGEST} characters; `stentor token` \
         makes one"
    )]
    Length,
    /// RFC 6750, 2.1.
    #[error("has a token with characters other than letters, digits and -._~+/=")]
    Characters,
    /// `sha256:` and something else.
    #[error("has a hash that is not \"{HASHED}\" and 64 hexadecimal digits")]
    Hash,
}

impl Scope {
    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Publish => "publish",
            Self::History => "history",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Token {
    /// True if it grants this right.
    #[must_use]
    pub fn allows(&self, wanted: Scope) -> bool {
        self.scopes
            .iter()
            .any(|scope| *scope == wanted || *scope == Scope::Admin)
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let mut words: Vec<&str> = text.split_whitespace().collect();
        let secret = words.pop().unwrap_or_default();
        let scope = |word: &&str| {
            let mut known = Scope::value_variants().iter();
            known.find(|scope| scope.as_str() == *word).copied()
        };
        let known: Option<Box<[Scope]>> = words.iter().map(scope).collect();
        let scopes = known.ok_or(TokenError::UnknownScope)?;
        if scopes.is_empty() {
            return Err(TokenError::NoScope);
        }
        let hash = match secret.strip_prefix(HASHED) {
            Some(hex) => from_hex(hex).ok_or(TokenError::Hash)?,
            None => {
                if !(SHORTEST..=LONGEST).contains(&secret.len()) {
                    return Err(TokenError::Length);
                }
                let is_allowed =
                    |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
                if !secret.bytes().all(is_allowed) {
                    return Err(TokenError::Characters);
                }
                hash(secret)
            }
        };
        Ok(Self { scopes, hash })
    }
}

/// A hash can be tried against guesses, so it is not shown either.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({:?}, ***)", self.scopes)
    }
}

impl Tokens {
    /// The token with this text, and its name. Every search takes the same time, also without a
    /// match: it compares all hashes, each in constant time.
    #[must_use]
    pub fn find(&self, text: &str) -> Option<(&str, &Token)> {
        let hash = hash(text);
        let mut found = None;
        for (name, token) in &self.0 {
            if bool::from(token.hash.ct_eq(&hash)) {
                found = Some((&**name, token));
            }
        }
        found
    }

    /// The token of that name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&Token> {
        self.0.get(name)
    }

    /// True if there is no token.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// With one more.
    #[must_use]
    pub fn with(mut self, name: &str, token: Token) -> Self {
        self.0.insert(name.into(), token);
        self
    }
}

impl TryFrom<BTreeMap<String, String>> for Tokens {
    type Error = String;

    fn try_from(texts: BTreeMap<String, String>) -> Result<Self, String> {
        let mut tokens = BTreeMap::<Box<str>, Token>::new();
        for (name, text) in texts {
            let is_name =
                !name.is_empty() && name.len() <= LONGEST && !name.contains(char::is_control);
            if !is_name {
                return Err(format!("a token's name has 1 to {LONGEST} characters"));
            }
            let token: Token = text.parse().map_err(|error| format!("{name:?} {error}"))?;
            let mut others = tokens.iter();
            if let Some((other, _)) = others.find(|(_, other)| other.hash == token.hash) {
                return Err(format!(
                    "{name:?} is the same token as {other:?}; write it once"
                ));
            }
            tokens.insert(name.into(), token);
        }
        Ok(Self(tokens))
    }
}

/// A new token: its text, for whoever is to use it, and what the configuration says of it.
#[must_use]
pub fn generate(scopes: &[Scope]) -> (String, String) {
    // The beginning tells those who search files for secrets what they have found.
    let text = format!(
        "stentor_{}",
        URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())
    );
    let scopes: Vec<&str> = scopes.iter().map(|scope| scope.as_str()).collect();
    let hex: String = hash(&text)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let line = format!("{} {HASHED}{hex}", scopes.join(" "));
    (text, line)
}

fn hash(text: &str) -> Hash {
    let mut hash = [0; SHA256_OUTPUT_LEN];
    hash.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
    hash
}

fn from_hex(text: &str) -> Option<Hash> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .map(|digit| {
            digit
                .to_digit(16)
                .and_then(|digit| u8::try_from(digit).ok())
        })
        .collect();
    let digits = digits?;
    let (pairs, rest) = digits.as_chunks::<2>();
    let bytes: Vec<u8> = pairs.iter().map(|[high, low]| high << 4 | low).collect();
    rest.is_empty().then_some(bytes)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(pairs: &[(&str, &str)]) -> Result<Tokens, String> {
        let pairs: BTreeMap<String, String> = pairs
            .iter()
            .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
            .collect();
        Tokens::try_from(pairs)
    }

    #[test]
    fn a_token_is_found_by_its_text_alone() {
        let (text, line) = generate(&[Scope::Read, Scope::Publish]);
        let plain = "0123456789abcdef";
        let all = tokens(&[("hashed", &line), ("plain", &format!("admin {plain}"))]).unwrap();
        let (name, token) = all.find(&text).unwrap();
        assert_eq!(name, "hashed");
        assert!(token.allows(Scope::Read) && token.allows(Scope::Publish));
        assert!(!token.allows(Scope::Admin));
        let (name, token) = all.find(plain).unwrap();
        assert_eq!(name, "plain");
        assert!(token.allows(Scope::Read) && token.allows(Scope::Admin));
        for wrong in ["", "0123456789abcdeg", "0123456789abcde", &line] {
            assert_eq!(all.find(wrong), None, "{wrong}");
        }
        // The hash is no token.
        let (_, hash) = line.rsplit_once(' ').unwrap();
        assert_eq!(all.find(hash), None);
        assert_eq!(Tokens::default().find(""), None);
    }

    /// The hash of `abc` in FIPS 180-2, B.1, so that other tools' hashes are the same.
    #[test]
    fn hashes_are_sha_256_in_hexadecimal() {
        let hex = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(from_hex(hex), Some(hash("abc")));
        assert_eq!(from_hex(&hex.to_uppercase()), Some(hash("abc")));
        for wrong in ["", &hex[1..], &hex[2..], &hex.replace('b', "x")] {
            assert_eq!(from_hex(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_no_token_says_what_to_write_and_shows_none_of_it() {
        let secret = "s3cret-s3cret-s3cret";
        for (text, error) in [
            ("", TokenError::NoScope),
            (secret, TokenError::NoScope),
            ("read", TokenError::NoScope),
            (&format!("write {secret}"), TokenError::UnknownScope),
            (&format!("{secret} read"), TokenError::UnknownScope),
            ("read s3cret", TokenError::Length),
            (&format!("read {}", "s3cret".repeat(50)), TokenError::Length),
            (&format!("read {secret}é"), TokenError::Characters),
            (&format!("read sha256:{secret}"), TokenError::Hash),
        ] {
            let refused = text.parse::<Token>().unwrap_err();
            assert_eq!(refused, error, "{text}");
            assert!(!refused.to_string().contains("s3cret"), "{refused}");
        }
        let twice = format!("read {secret}");
        let refused = tokens(&[("a", &twice), ("b", &twice)]).unwrap_err();
        assert!(refused.contains("the same token as \"a\""), "{refused}");
        assert!(!refused.contains(secret), "{refused}");
    }

    #[test]
    fn nothing_shows_a_token() {
        let all = tokens(&[("a", "read 0123456789abcdef")]).unwrap();
        let shown = format!("{all:?} {all:#?}");
        assert!(shown.contains("***") && !shown.contains("0123"), "{shown}");
        assert_eq!(format!("{:?}", all.0["a"]), "Token([Read], ***)");
    }
}
