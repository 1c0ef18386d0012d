//! The headers by which a SUBSCRIBE asks for messages of before (pure).

use stomp_grammar::{Command, Headers};
use stomp_session::{AckMode, Problem};

use super::{Context, fields::Fields};
use crate::hub::{OnGap, Resume, Since};

const AFTER: &str = "resume-after";
const GAP: &str = "resume-gap";
const SINCE: &str = "since";
const LAST: &str = "last";

/// In place of a cursor: the one that the client has acknowledged up to.
const STORED: &str = "stored";

/// More are no help to a client that shows them, and each may be looked for far back.
const MAX_LAST: u16 = 1_000;

/// What a SUBSCRIBE asks for. `has_journals`: this server keeps any; if not, `since` and `last` are
/// headers like others.
///
/// # Errors
/// [`Problem::InvalidHeader`].
pub(super) fn read(headers: &Headers, has_journals: bool) -> Result<Option<Resume>, Problem> {
    // For a headers exchange, all of them are what is to match.
    if headers.get("x-match").is_some() {
        return Ok(None);
    }
    let fields = Fields::new(Command::Subscribe, headers);
    let own = |name: &str| headers.get(name).filter(|_| has_journals);
    let after = headers.get(AFTER).map(|text| after(&fields, text));
    let since = own(SINCE).map(|text| time(&fields, text));
    let last = own(LAST).map(|_| count(&fields));
    let mut asked = [after, since, last].into_iter().flatten();
    let (first, second) = (asked.next(), asked.next());
    if second.is_some() {
        let expected = "one of resume-after, since and last, without the others";
        let header = asked_by(headers, has_journals).unwrap_or(AFTER);
        return Err(fields.invalid(header, expected));
    }
    let on_gap = headers.get(GAP).map(|text| on_gap(&fields, text));
    match (first.transpose()?, on_gap.transpose()?) {
        (Some(since), on_gap) => Ok(Some(Resume {
            since,
            on_gap: on_gap.unwrap_or_default(),
        })),
        (None, None) => Ok(None),
        (None, Some(_)) => Err(fields.invalid(GAP, "given with resume-after, since or last")),
    }
}

/// The header by which a SUBSCRIBE asks for messages of before; the first, if there are several.
fn asked_by(headers: &Headers, has_journals: bool) -> Option<&'static str> {
    let names: &[&'static str] = match has_journals {
        true => &[AFTER, SINCE, LAST, GAP],
        false => &[AFTER, GAP],
    };
    let mut names = names.iter().copied();
    let found = names.find(|name| headers.get(name).is_some());
    found.filter(|_| headers.get("x-match").is_none())
}

/// Whether a SUBSCRIBE asks to begin where its client has acknowledged up to.
pub(super) fn is_stored(headers: &Headers) -> bool {
    let is_it = |text: &str| text.trim() == STORED;
    headers.get("x-match").is_none() && headers.get(AFTER).is_some_and(is_it)
}

/// What such a SUBSCRIBE says of a gap.
///
/// # Errors
/// [`Problem::InvalidHeader`]: others do not go with it, or this server keeps no bookmarks;
/// [`Problem::MissingHeader`]: there is no device.
pub(super) fn stored(
    ack: AckMode,
    headers: &Headers,
    context: &Context<'_>,
) -> Result<OnGap, Problem> {
    let fields = Fields::new(Command::Subscribe, headers);
    if !context.journals {
        return Err(Problem::NoJournal);
    }
    if !context.sequences {
        let expected =
            "a cursor: this server keeps no bookmarks for its clients ([sequences] store)";
        return Err(fields.invalid(AFTER, expected));
    }
    if ack == AckMode::Auto {
        let expected = "client or client-individual, beside resume-after:stored: the bookmark is what \
                        the client has acknowledged";
        return Err(fields.invalid("ack", expected));
    }
    if context.device.is_empty() {
        return Err(Problem::MissingHeader {
            command: Command::Connect,
            header: "device-id",
        });
    }
    let is_other = |(name, _): (&str, &str)| {
        name == SINCE || name == LAST || super::asks_for_a_queue(name) && name != "prefetch-count"
    };
    if headers.iter().any(is_other) {
        let expected = "a cursor, or stored without since, last and headers about a queue: the \
                        journal takes the place of a queue";
        return Err(fields.invalid(AFTER, expected));
    }
    let has_end = matches!(headers.get("redeliver-then"), Some("drop" | "later"));
    if headers.get("redeliver").is_some() && !has_end {
        let expected = "drop or later, beside resume-after:stored: there is no queue to put a \
                        message back into";
        return Err(fields.invalid("redeliver-then", expected));
    }
    let on_gap = headers.get(GAP).map(|text| on_gap(&fields, text));
    Ok(on_gap.transpose()?.unwrap_or_default())
}

/// Only subscriptions that share a feed can catch up. `None`: this one does not want to.
pub(super) fn no_queue(headers: &Headers, has_journals: bool) -> Option<Problem> {
    Some(Problem::InvalidHeader {
        command: Command::Subscribe,
        header: asked_by(headers, has_journals)?,
        expected: "left out where the subscription has a queue of its own: catch up with ack:auto, \
                   a destination /exchange/ or /topic/, and no headers about a queue",
    })
}

fn after(fields: &Fields<'_>, text: &str) -> Result<Since, Problem> {
    let cursor = text.trim().parse().map_err(|_| {
        let expected = "the header \"cursor\" of a MESSAGE, as it came; or stored";
        fields.invalid(AFTER, expected)
    })?;
    Ok(Since::After(cursor))
}

/// The longest number in a duration: 300 years of seconds have ten digits.
const MAX_DIGITS: usize = 10;
/// The longest text of a duration, in bytes.
const MAX_DURATION: usize = 64;

fn time(fields: &Fields<'_>, text: &str) -> Result<Since, Problem> {
    let text = text.trim();
    if text == "first" {
        return Ok(Since::First);
    }
    // The crate panics where a sum of seconds passes 64 bits.
    let numbers = text.split(|char: char| !char.is_ascii_digit());
    let is_sane =
        text.len() <= MAX_DURATION && numbers.into_iter().all(|number| number.len() <= MAX_DIGITS);
    if is_sane && let Ok(ago) = humantime::parse_duration(text) {
        return Ok(Since::Ago(ago));
    }
    let time = humantime::parse_rfc3339_weak(text).map_err(|_| {
        let expected = "first, a duration such as 90s or 2h, or a time such as \
                        2026-01-31T18:30:00Z";
        fields.invalid(SINCE, expected)
    })?;
    Ok(Since::Time(time))
}

fn count(fields: &Fields<'_>) -> Result<Since, Problem> {
    match fields.number::<u16>(LAST)? {
        Some(count @ 1..=MAX_LAST) => Ok(Since::Last(count)),
        _ => Err(fields.invalid(LAST, "a number of messages, from 1 to 1000")),
    }
}

fn on_gap(fields: &Fields<'_>, text: &str) -> Result<OnGap, Problem> {
    match text.trim() {
        "fail" => Ok(OnGap::Fail),
        "earliest" => Ok(OnGap::Earliest),
        "next" => Ok(OnGap::Next),
        _ => Err(fields.invalid(GAP, "fail, earliest or next")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> Headers {
        let mut headers = Headers::default();
        for (name, value) in pairs {
            headers.push(name, value);
        }
        headers
    }

    fn asked(pairs: &[(&str, &str)]) -> Result<Option<Resume>, Problem> {
        read(&headers(pairs), true)
    }

    /// In humantime 2.4.0 the first of them panics.
    #[test]
    fn a_duration_is_no_riddle() {
        let long = format!("{}s", "9999999999y".repeat(20));
        for text in ["18446744073709551615s 1000ms", "99999999999s", &long] {
            let headers = headers(&[("since", text)]);
            let fields = Fields::new(Command::Subscribe, &headers);
            assert!(time(&fields, text).is_err(), "{text}");
        }
        let headers = Headers::default();
        let fields = Fields::new(Command::Subscribe, &headers);
        let expected = Since::Ago(Duration::from_secs(5430));
        assert_eq!(time(&fields, "1h 30m 30s").ok(), Some(expected));
    }

    #[test]
    fn who_asks_for_nothing_gets_what_comes() {
        assert_eq!(asked(&[("id", "1")]), Ok(None));
        assert_eq!(read(&headers(&[("last", "5")]), false), Ok(None));
        let matching = [("x-match", "all"), ("since", "monday")];
        assert_eq!(asked(&matching), Ok(None));
    }

    #[test]
    fn each_way_to_ask_is_read() {
        let cursor = "5b8d59a4-1234-6ba4d1ed";
        let since = |pairs: &[(&str, &str)]| asked(pairs).unwrap().unwrap();
        for (pairs, wish) in [
            (
                ("resume-after", cursor),
                Since::After(cursor.parse().unwrap()),
            ),
            (("since", "first"), Since::First),
            (("since", "90s"), Since::Ago(Duration::from_secs(90))),
            (
                ("since", "1970-01-01T00:01:00Z"),
                Since::Time(std::time::UNIX_EPOCH + Duration::from_secs(60)),
            ),
            (("last", "20"), Since::Last(20)),
        ] {
            assert_eq!(since(&[pairs]).since, wish);
            assert_eq!(since(&[pairs]).on_gap, OnGap::Fail);
            let next = since(&[pairs, ("resume-gap", "next")]);
            assert_eq!(next.on_gap, OnGap::Next);
        }
    }

    /// A client's author looks for the header that the ERROR names.
    #[test]
    fn a_refusal_names_a_header_that_is_there() {
        let cursor = ("resume-after", "5b8d59a4-1234-6ba4d1ed");
        let (since, last, gap) = (("since", "first"), ("last", "3"), ("resume-gap", "next"));
        let named = |problem| match problem {
            Some(Problem::InvalidHeader { header, .. }) => header,
            other => panic!("{other:?}"),
        };
        for (asked, header) in [
            (&[cursor][..], "resume-after"),
            (&[last], "last"),
            (&[gap, last], "last"),
            (&[since], "since"),
            (&[gap], "resume-gap"),
        ] {
            let refused = no_queue(&headers(asked), true);
            assert_eq!(named(refused), header, "{asked:?}");
        }
        assert_eq!(no_queue(&headers(&[last]), false), None);
        assert_eq!(no_queue(&headers(&[("x-match", "all"), last]), true), None);
        let both = read(&headers(&[since, last]), true);
        assert_eq!(named(both.err()), "since");
    }

    #[test]
    fn what_is_no_wish_is_refused() {
        let cursor = ("resume-after", "5b8d59a4-1234-6ba4d1ed");
        for wrong in [
            &[("resume-after", "")][..],
            &[("resume-after", "-1")],
            &[("resume-after", "stored")],
            &[("resume-after", "5b8d59a4-18446744073709551616-6ba4d1ed")],
            &[("since", "")],
            &[("since", "yesterday")],
            &[("since", "-5s")],
            &[("last", "0")],
            &[("last", "-3")],
            &[("last", "1001")],
            &[("resume-gap", "next")],
            &[cursor, ("resume-gap", "ignore")],
            &[cursor, ("last", "3")],
        ] {
            let refused = asked(wrong);
            assert!(
                matches!(refused, Err(Problem::InvalidHeader { .. })),
                "{wrong:?}: {refused:?}"
            );
        }
    }
}
