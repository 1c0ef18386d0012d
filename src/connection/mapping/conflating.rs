//! The header by which a SUBSCRIBE asks for the newest message of each key alone (pure).

use std::time::Duration;

use stomp_grammar::{Command, Headers};
use stomp_session::Problem;

use super::fields::Fields;
use crate::hub::Conflate;

const CONFLATE: &str = "conflate";

/// Milliseconds. Below, a client would be woken more often than a screen is drawn; above, polling is
/// the better way.
const SHORTEST: u64 = 10;
const LONGEST: u64 = 60_000;

/// What a SUBSCRIBE asks for.
///
/// # Errors
/// [`Problem::InvalidHeader`].
pub(super) fn read(headers: &Headers) -> Result<Option<Conflate>, Problem> {
    let Some(text) = asked(headers) else {
        return Ok(None);
    };
    let fields = Fields::new(Command::Subscribe, headers);
    let window = match text.trim() {
        "latest" => return Ok(Some(Conflate::Latest)),
        text if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok(),
        _ => None,
    };
    match window {
        Some(window @ SHORTEST..=LONGEST) => {
            Ok(Some(Conflate::Every(Duration::from_millis(window))))
        }
        _ => Err(fields.invalid(CONFLATE, "latest, or milliseconds from 10 to 60000")),
    }
}

/// Whether a SUBSCRIBE asks for it. For a headers exchange, all headers are what is to match.
pub(super) fn asks(headers: &Headers) -> bool {
    asked(headers).is_some()
}

fn asked(headers: &Headers) -> Option<&str> {
    let text = headers.get(CONFLATE)?;
    headers.get("x-match").is_none().then_some(text)
}

/// A queue keeps all its messages.
pub(super) fn no_queue() -> Problem {
    refused(
        "left out where the subscription has a queue of its own: newest messages alone come with \
         ack:auto, a destination /exchange/ or /topic/, and no headers about a queue",
    )
}

/// Their client is told that nothing is missing after a cursor, and messages of different keys do not
/// keep their order here.
pub(super) fn no_resume() -> Problem {
    refused("given without resume-after, since and last: messages of before are not conflated")
}

/// The exchange has a journal.
pub(in crate::connection) fn no_journal() -> Problem {
    refused(
        "left out for an exchange with a journal ([journal] exchanges): its messages come all, and \
         in order, so that a client can go on after any of them. Publish fast-changing keys to \
         another exchange",
    )
}

fn refused(expected: &'static str) -> Problem {
    Problem::InvalidHeader {
        command: Command::Subscribe,
        header: CONFLATE,
        expected,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(pairs: &[(&str, &str)]) -> Result<Option<Conflate>, Problem> {
        let mut headers = Headers::default();
        for (name, value) in pairs {
            headers.push(name, value);
        }
        read(&headers)
    }

    #[test]
    fn each_way_to_ask_is_read() {
        let every = |milliseconds| Some(Conflate::Every(Duration::from_millis(milliseconds)));
        for (text, wish) in [
            ("latest", Some(Conflate::Latest)),
            (" 200 ", every(200)),
            ("10", every(10)),
            ("60000", every(60_000)),
        ] {
            assert_eq!(asked(&[("conflate", text)]), Ok(wish), "{text}");
        }
        assert_eq!(asked(&[("id", "1")]), Ok(None));
        let matching = [("x-match", "all"), ("conflate", "anything")];
        assert_eq!(asked(&matching), Ok(None));
    }

    #[test]
    fn what_is_no_wish_is_refused() {
        for text in [
            "",
            "newest",
            "true",
            "0",
            "9",
            "60001",
            "-200",
            "+200",
            "0.5",
            "200ms",
            "2e2",
            "18446744073709551616",
        ] {
            let refused = asked(&[("conflate", text)]);
            assert!(
                matches!(
                    refused,
                    Err(Problem::InvalidHeader {
                        header: CONFLATE,
                        ..
                    })
                ),
                "{text:?}: {refused:?}"
            );
        }
    }
}
