//! A hook's answer.

use std::fmt;

use thiserror::Error;

use crate::Call;

/// A hook's answer to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Yes. In answer to the user call, with the user's tags, separated by single blanks.
    Allow {
        /// The tags; in lower case, because the broker's plug-in hands them on so.
        tags: Box<str>,
    },
    /// No.
    Deny {
        /// Why, in one line; for the log.
        reason: Option<Box<str>>,
    },
}

/// Longer reasons are cut: they go to logs, and perhaps to clients. In characters.
const MAX_REASON: usize = 512;

impl Answer {
    /// Yes.
    pub fn allow() -> Self {
        Answer::Allow {
            tags: Box::default(),
        }
    }

    /// Yes, to a user with these tags; blanks (and control characters) part tags.
    pub fn allow_with<'a>(tags: impl IntoIterator<Item = &'a str>) -> Self {
        let mut joined = String::new();
        let blank = |c: char| c.is_whitespace() || c.is_control();
        for tag in tags
            .into_iter()
            .flat_map(|tags| tags.split(blank))
            .filter(|t| !t.is_empty())
        {
            if !joined.is_empty() {
                joined.push(' ');
            }
            joined.extend(tag.chars().flat_map(char::to_lowercase));
        }
        Answer::Allow {
            tags: joined.into(),
        }
    }

    /// No; the reason is made one line without control characters.
    pub fn deny(reason: &str) -> Self {
        let shown: String = reason
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .take(MAX_REASON)
            .collect();
        let mut line = String::with_capacity(shown.len());
        for word in shown.split_whitespace() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        Answer::Deny {
            reason: (!line.is_empty()).then(|| line.into()),
        }
    }

    /// Reads the answer to a call: the HTTP status, and the body.
    ///
    /// # Errors
    /// [`AnswerError`]: it is not in the contract. That is a refusal, and the hook's fault.
    pub fn parse(call: Call, status: u16, body: &[u8]) -> Result<Self, AnswerError> {
        if !matches!(status, 200 | 201) {
            return Err(AnswerError::Status(status));
        }
        let text = std::str::from_utf8(body)
            .map_err(|_| AnswerError::NotText)?
            .trim();
        let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        if word.eq_ignore_ascii_case("deny") {
            return Ok(Answer::deny(rest));
        }
        if !word.eq_ignore_ascii_case("allow") {
            return Err(AnswerError::unknown(text));
        }
        // Several lines are no answer: a page that begins with "allow" may mean anything.
        if text.contains(|c: char| c.is_control() && c != '\t') {
            return Err(AnswerError::SeveralLines);
        }
        if call != Call::User && !rest.trim().is_empty() {
            return Err(AnswerError::TagsInCall(call));
        }
        Ok(Answer::allow_with([rest]))
    }
}

/// As it stands in the body of an answer.
impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, rest) = match self {
            Answer::Allow { tags } => ("allow", &**tags),
            Answer::Deny { reason } => ("deny", reason.as_deref().unwrap_or_default()),
        };
        f.write_str(word)?;
        if rest.is_empty() {
            Ok(())
        } else {
            write!(f, " {rest}")
        }
    }
}

/// The reason why an answer breaks the contract. Shows only the shape of the body: a broken hook
/// may well print the request, and with it the password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AnswerError {
    /// The status is neither 200 nor 201.
    #[error("it answered with status {0}; the contract knows 200 and 201 only")]
    Status(u16),
    /// The body is empty.
    #[error("it answered with an empty body; the contract knows `allow` and `deny`")]
    Empty,
    /// The body is not UTF-8.
    #[error("it answered with bytes that are no UTF-8 text")]
    NotText,
    /// The body begins with another word.
    #[error(
        "it answered with {0}; the contract knows `allow`, `allow <tags>`, `deny` and \
         `deny <reason>`"
    )]
    Unknown(&'static str),
    /// `allow`, and more lines after it.
    #[error("it answered `allow` and more lines after it")]
    SeveralLines,
    /// `allow` with tags, which only the user call has.
    #[error("it answered `allow` and more words; only the user call has tags")]
    TagsInCall(Call),
}

/// Answers that hooks give by mistake, worth naming in the log.
const NEAR_MISSES: [(&str, &str); 12] = [
    ("allowed", "`allowed`"),
    ("denied", "`denied`"),
    ("\"allow\"", "`\"allow\"`, in quotes"),
    ("\"deny\"", "`\"deny\"`, in quotes"),
    ("true", "`true`"),
    ("false", "`false`"),
    ("ok", "`ok`"),
    ("yes", "`yes`"),
    ("no", "`no`"),
    ("1", "`1`"),
    ("0", "`0`"),
    ("null", "`null`"),
];

impl AnswerError {
    fn unknown(text: &str) -> Self {
        if text.is_empty() {
            return AnswerError::Empty;
        }
        let near = NEAR_MISSES
            .iter()
            .find(|(word, _)| text.eq_ignore_ascii_case(word));
        AnswerError::Unknown(match (near, text.chars().next()) {
            (Some((_, shown)), _) => shown,
            (None, Some('{' | '[')) => "what looks like JSON",
            (None, Some('<')) => "what looks like a page of HTML or XML",
            _ => "an unknown word",
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(call: Call, body: &str) -> Result<Answer, AnswerError> {
        Answer::parse(call, 200, body.as_bytes())
    }

    fn tags(tags: &str) -> Result<Answer, AnswerError> {
        Ok(Answer::Allow { tags: tags.into() })
    }

    fn reason(reason: &str) -> Result<Answer, AnswerError> {
        Ok(Answer::Deny {
            reason: Some(reason.into()),
        })
    }

    #[test]
    fn the_words_of_the_contract() {
        for call in Call::CHECKS {
            for allow in ["allow", " allow\r\n", "ALLOW", "Allow "] {
                assert_eq!(parse(call, allow), Ok(Answer::allow()), "{allow:?}");
            }
            for deny in ["deny", "\tDENY\n"] {
                assert_eq!(
                    parse(call, deny),
                    Ok(Answer::Deny { reason: None }),
                    "{deny:?}"
                );
            }
            assert_eq!(
                parse(call, "deny Not  paid\n\x1b[2J"),
                reason("Not paid [2J")
            );
            assert_eq!(Answer::parse(call, 201, b"allow"), Ok(Answer::allow()));
        }
    }

    #[test]
    fn tags_are_the_user_calls_alone() {
        assert_eq!(
            parse(Call::User, "allow  Administrator   ops "),
            tags("administrator ops")
        );
        for call in [Call::Vhost, Call::Resource, Call::Topic] {
            assert_eq!(parse(call, "allow ops"), Err(AnswerError::TagsInCall(call)));
        }
    }

    #[test]
    fn everything_else_is_the_hooks_fault() {
        for status in [100, 202, 204, 302, 400, 401, 403, 500] {
            assert_eq!(
                Answer::parse(Call::User, status, b"allow"),
                Err(AnswerError::Status(status))
            );
        }
        assert_eq!(parse(Call::User, " \n"), Err(AnswerError::Empty));
        assert_eq!(
            parse(Call::User, "allowed"),
            Err(AnswerError::Unknown("`allowed`"))
        );
        assert_eq!(
            parse(Call::User, "deny,"),
            Err(AnswerError::Unknown("an unknown word"))
        );
        assert!(matches!(
            parse(Call::User, "{\"allow\":1}"),
            Err(AnswerError::Unknown(_))
        ));
        assert_eq!(
            parse(Call::User, "allow\n<html>"),
            Err(AnswerError::SeveralLines)
        );
        assert_eq!(
            parse(Call::User, "allow a\nb"),
            Err(AnswerError::SeveralLines)
        );
        assert_eq!(
            Answer::parse(Call::User, 200, b"allow \xff"),
            Err(AnswerError::NotText)
        );
    }

    #[test]
    fn an_error_tells_nothing_of_the_body() {
        let error = parse(Call::User, "hunter2 is wrong").unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }

    proptest! {
        #[test]
        fn what_is_printed_is_parsed_again(allow: bool, text: String) {
            let answer = if allow { Answer::allow_with([&*text]) } else { Answer::deny(&text) };
            prop_assert_eq!(parse(Call::User, &answer.to_string()), Ok(answer));
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(status: u16, body: Vec<u8>) {
            for call in Call::CHECKS {
                let _ = Answer::parse(call, status, &body);
            }
        }
    }
}
