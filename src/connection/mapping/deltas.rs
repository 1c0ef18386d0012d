//! The header by which a SUBSCRIBE asks for messages as deltas (pure).

use stomp_grammar::{Command, Headers};
use stomp_session::Problem;

const DELTA: &str = "delta";

/// Whether a SUBSCRIBE asks for them.
///
/// # Errors
/// [`Problem::InvalidHeader`]: in a format that this server does not write.
pub(super) fn read(headers: &Headers) -> Result<bool, Problem> {
    match asked(headers).map(str::trim) {
        None => Ok(false),
        Some("fossil") => Ok(true),
        Some(_) => Err(refused(
            "fossil, the one format of deltas here, or left out: then all messages come whole",
        )),
    }
}

/// Whether it has the header. For a headers exchange, all headers are what is to match.
pub(super) fn asks(headers: &Headers) -> bool {
    asked(headers).is_some()
}

fn asked(headers: &Headers) -> Option<&str> {
    let text = headers.get(DELTA)?;
    headers.get("x-match").is_none().then_some(text)
}

/// A message of a queue may come to another client, or again.
pub(super) fn no_queue() -> Problem {
    refused(
        "left out where the subscription has a queue of its own: deltas come with ack:auto, a \
         destination /exchange/ or /topic/, and no headers about a queue",
    )
}

/// Its client acknowledges, and may be given messages again.
pub(super) fn no_acknowledging() -> Problem {
    refused("left out with resume-after:stored: deltas come with ack:auto")
}

fn refused(expected: &'static str) -> Problem {
    Problem::InvalidHeader {
        command: Command::Subscribe,
        header: DELTA,
        expected,
    }
}
