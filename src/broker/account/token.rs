//! A token, and what it tells of its end. Pure.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::units::{moment, show_size};

/// Of a token, in bytes. RabbitMQ takes about 4,000 at the login, and 8,000 from 4.1 on.
const MAX_TOKEN: usize = 16 * 1024;

/// The shortest time between two looks.
const SOON: Duration = Duration::from_secs(1);

/// A token by which the gateway logs in. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::broker) struct Token {
    text: Zeroizing<String>,
    expires: Option<SystemTime>,
}

impl Token {
    /// Reads the text of a file or a program: blanks and line ends around the token are left out.
    ///
    /// # Errors
    /// It is no token; why, without a part of it.
    pub(in crate::broker) fn read(bytes: &[u8]) -> Result<Self, String> {
        let text = str::from_utf8(bytes).map_err(|_| "is no text (UTF-8)".to_owned())?;
        let text = text.trim();
        if text.is_empty() {
            return Err("is empty, where a token is wanted".to_owned());
        }
        if text.len() > MAX_TOKEN {
            let most = show_size(MAX_TOKEN);
            return Err(format!("has more than {most}, which is no token"));
        }
        if text.contains(|sign: char| sign.is_whitespace() || sign.is_control()) {
            let message = "has blanks or line ends within the token; it must hold the token alone";
            return Err(message.to_owned());
        }
        Ok(Self {
            text: Zeroizing::new(text.to_owned()),
            expires: expiry(text),
        })
    }

    /// The token, for RabbitMQ alone.
    pub(in crate::broker) fn reveal(&self) -> &str {
        &self.text
    }

    /// When it ends, if it is a JWT that says so.
    pub(in crate::broker) fn expires(&self) -> Option<SystemTime> {
        self.expires
    }

    /// How long it still counts, if it says so; zero: it has ended.
    pub(in crate::broker) fn left(&self, now: SystemTime) -> Option<Duration> {
        let expires = self.expires?;
        Some(expires.duration_since(now).unwrap_or_default())
    }

    /// True if it says that it has ended.
    pub(in crate::broker) fn is_over(&self, now: SystemTime) -> bool {
        self.left(now).is_some_and(|left| left.is_zero())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

/// The end that a JWT claims (`exp`). Its signature is not verified: RabbitMQ does that. This is only
/// to know when to look for the next one.
fn expiry(text: &str) -> Option<SystemTime> {
    #[derive(Deserialize)]
    struct Claims {
        exp: f64,
    }

    let mut parts = text.split('.');
    let (_, claims, _) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let claims = Zeroizing::new(URL_SAFE_NO_PAD.decode(claims).ok()?);
    let Claims { exp } = serde_json::from_slice(&claims).ok()?;
    moment(Duration::try_from_secs_f64(exp).ok()?)
}

/// Where tokens come from, as far as it counts for the time of the next look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::broker) enum Origin {
    /// Somebody else writes it whenever they like, and a look costs nothing.
    File,
    /// A program is run for each.
    Command,
}

/// How long to wait before the next look, after one that found a token with so much time left: until
/// two thirds of that are over. Of a token that does not tell its end, `refresh`; a file is never
/// looked at less often.
pub(in crate::broker) fn next_look(
    origin: Origin,
    left: Option<Duration>,
    refresh: Duration,
) -> Duration {
    let in_time = left.map(|left| left.mul_f64(2.0 / 3.0).max(SOON));
    match (origin, in_time) {
        (_, None) => refresh,
        (Origin::File, Some(in_time)) => in_time.min(refresh),
        (Origin::Command, Some(in_time)) => in_time,
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn jwt(claims: &str) -> String {
        let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
        format!("{}.{}.s3cret", encode(r#"{"alg":"RS256"}"#), encode(claims))
    }

    #[test]
    fn a_token_is_a_text_without_blanks() {
        let read = |text: &str| Token::read(text.as_bytes());
        assert_eq!(read(" abc\r\n").unwrap().reveal(), "abc");
        for (text, says) in [
            ("", "is empty"),
            (" \n", "is empty"),
            ("a b", "blanks"),
            ("a\nb", "line ends"),
            ("a\0b", "blanks"),
        ] {
            let fault = read(text).unwrap_err();
            assert!(fault.contains(says), "{fault}");
        }
        assert!(Token::read(b"\xff").unwrap_err().contains("UTF-8"));
        let long = "x".repeat(MAX_TOKEN + 1);
        assert!(read(&long).unwrap_err().contains("16 KiB"));
    }

    #[test]
    fn a_jwt_tells_its_end() {
        let ends = |claims: &str| Token::read(jwt(claims).as_bytes()).unwrap().expires();
        let at = |seconds: f64| UNIX_EPOCH.checked_add(Duration::from_secs_f64(seconds));
        assert_eq!(ends(r#"{"sub":"u","exp":1800000000}"#), at(1.8e9));
        assert_eq!(ends(r#"{"exp":1800000000.5}"#), at(1.8e9 + 0.5));
        for claims in [
            "{}",
            r#"{"exp":"soon"}"#,
            r#"{"exp":-1}"#,
            r#"{"exp":1e300}"#,
            // In milliseconds.
            r#"{"exp":1800000000000}"#,
            r#"{"exp":null}"#,
            "no JSON",
        ] {
            assert_eq!(ends(claims), None, "{claims}");
        }
        for text in ["opaque", "a.b", "a.!.c", "a.b.c.d"] {
            assert_eq!(
                Token::read(text.as_bytes()).unwrap().expires(),
                None,
                "{text}"
            );
        }
    }

    #[test]
    fn a_token_says_how_long_it_counts() {
        let token = Token::read(jwt(r#"{"exp":100}"#).as_bytes()).unwrap();
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(token.left(at(70)), Some(Duration::from_secs(30)));
        assert!(!token.is_over(at(99)));
        assert!(token.is_over(at(100)) && token.is_over(at(101)));
        let opaque = Token::read(b"opaque").unwrap();
        assert_eq!(opaque.left(at(1)), None);
        assert!(!opaque.is_over(at(1)));
    }

    #[test]
    fn a_token_is_not_shown() {
        let token = Token::read(jwt(r#"{"exp":100}"#).as_bytes()).unwrap();
        let shown = format!("{token:?} {token:#?}");
        assert!(
            !shown.contains("s3cret") && !shown.contains("eyJ"),
            "{shown}"
        );
    }

    #[test]
    fn the_next_look_comes_before_the_end() {
        let seconds = Duration::from_secs;
        let refresh = seconds(30);
        let look = |origin, left: Option<u64>| next_look(origin, left.map(seconds), refresh);
        assert_eq!(look(Origin::Command, Some(3600)), seconds(2400));
        assert_eq!(look(Origin::File, Some(3600)), refresh);
        for origin in [Origin::File, Origin::Command] {
            assert_eq!(look(origin, Some(15)), seconds(10));
            assert_eq!(look(origin, Some(1)), SOON);
            assert_eq!(look(origin, Some(0)), SOON);
            assert_eq!(look(origin, None), refresh);
        }
    }
}
