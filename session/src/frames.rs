//! The frames that a server sends, and the message ids in them.

use std::time::{Duration, Instant};

use bytes::Bytes;
use stomp_grammar::{Command, Version, encode};

use crate::{Problem, SubscriptionId, heartbeat::Rates, receipts::Told, subscriptions::Name};

/// One line break: the server's heart-beat.
pub(crate) const HEARTBEAT: Bytes = Bytes::from_static(b"\n");

/// Joins the parts of a message id, as the plug-in does.
const SEPARATOR: &str = "@@";

/// CONNECTED, its headers in the plug-in's order.
/// `left` is the time until the login ends by itself, if it does; `last_number` the last numbered
/// SEND that the broker has, if the client numbers them.
pub(crate) fn connected(
    server: Option<&str>,
    id: &str,
    rates: Rates,
    version: Version,
    left: Option<Duration>,
    last_number: Option<u64>,
) -> Bytes {
    let mut out = Vec::with_capacity(128);
    encode::command(&mut out, Command::Connected);
    if let Some(server) = server {
        encode::header_verbatim(&mut out, "server", server);
    }
    encode::header_verbatim(&mut out, "session", id);
    let Rates { send, receive } = rates;
    encode::header_verbatim(&mut out, "heart-beat", &format!("{send},{receive}"));
    encode::header_verbatim(&mut out, "version", version.as_str());
    expires_in(&mut out, left);
    if let Some(number) = last_number {
        encode::header_verbatim(&mut out, "last-client-seq", &number.to_string());
    }
    encode::body(&mut out, &[]);
    out.into()
}

/// The time until the login ends, in whole seconds: rounded down, so that a client that counts on
/// it comes in time.
fn expires_in(out: &mut Vec<u8>, left: Option<Duration>) {
    if let Some(left) = left {
        encode::header_verbatim(out, "expires-in", &left.as_secs().to_string());
    }
}

/// How long it is until then.
pub(crate) fn left(until: Option<Instant>, now: Instant) -> Option<Duration> {
    until.map(|until| until.saturating_duration_since(now))
}

/// RECEIPT; of a renewal with the time that is left now; and with what else there is to tell.
pub(crate) fn receipt(
    id: &str,
    version: Version,
    left: Option<Duration>,
    told: Option<&Told>,
) -> Bytes {
    let mut out = Vec::with_capacity(32_usize.saturating_add(id.len()));
    encode::command(&mut out, Command::Receipt);
    encode::header(&mut out, version, "receipt-id", id);
    expires_in(&mut out, left);
    for (name, value) in told.into_iter().flatten() {
        encode::header(&mut out, version, name, value);
    }
    encode::body(&mut out, &[]);
    out.into()
}

/// ERROR of one subscription, which is over; the session goes on.
pub(crate) fn subscription_error(problem: &Problem, name: Name<'_>, version: Version) -> Bytes {
    write_error(problem, version, |out| {
        if let Name::Id(name) = name {
            encode::header(out, version, "subscription", name);
        }
    })
}

/// ERROR. Where no version is agreed on it is written for 1.0, without escapes: the fixed
/// headers need none, and the client reads the same `receipt-id` in any version unless it holds a
/// colon, a backslash or a line break.
///
/// `error-code` and `reconnect` tell a program the condition and the next step; the plug-in has
/// neither.
pub(crate) fn error(problem: &Problem, receipt: Option<&str>, version: Version) -> Bytes {
    write_error(problem, version, |out| {
        if let Some(receipt) = receipt {
            encode::header(out, version, "receipt-id", receipt);
        }
    })
}

fn write_error(problem: &Problem, version: Version, more: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut out = Vec::with_capacity(256);
    encode::command(&mut out, Command::Error);
    encode::header(&mut out, version, "message", problem.message());
    encode::header(&mut out, version, "content-type", "text/plain");
    encode::header(&mut out, version, "version", Version::SUPPORTED);
    encode::header_verbatim(&mut out, "error-code", problem.error_code());
    encode::header_verbatim(&mut out, "reconnect", &problem.reconnect().to_string());
    if let Problem::ResumeGap { reason, first } = problem {
        encode::header(&mut out, version, "reason", reason);
        if let Some(first) = first {
            encode::header(&mut out, version, "first-available", &first.to_string());
        }
    }
    more(&mut out);
    encode::body(&mut out, problem.detail().as_bytes());
    out.into()
}

/// A message's name for its client: `<subscription>@@<session>@@<sequence>`, the parts of the
/// plug-in's, except that the first one is this server's number and not the client's id, so
/// that it needs no escapes and never means a later subscription of the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MessageId<'a> {
    pub(crate) subscription: SubscriptionId,
    pub(crate) session: &'a str,
    pub(crate) sequence: u64,
}

/// A message id as a client returned it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Named<'a> {
    /// It may be one of ours.
    Message(MessageId<'a>),
    /// It has the form, but no session of this server names a subscription so.
    Foreign,
    /// It does not have the form.
    Invalid,
}

impl<'a> MessageId<'a> {
    /// Reads an id that a client returned.
    pub(crate) fn parse(text: &'a str) -> Named<'a> {
        let parts = text.split_once(SEPARATOR).and_then(|(subscription, rest)| {
            let (session, sequence) = rest.rsplit_once(SEPARATOR)?;
            Some((subscription, session, decimal(sequence)?))
        });
        let Some((subscription, session, sequence)) = parts else {
            return Named::Invalid;
        };
        match decimal(subscription).and_then(|number| u32::try_from(number).ok()) {
            Some(number) => Named::Message(Self {
                subscription: SubscriptionId(number),
                session,
                sequence,
            }),
            None => Named::Foreign,
        }
    }

    /// Appends it to a header line.
    fn append(self, out: &mut Vec<u8>) {
        number(out, u64::from(self.subscription.0));
        out.extend_from_slice(SEPARATOR.as_bytes());
        out.extend_from_slice(self.session.as_bytes());
        out.extend_from_slice(SEPARATOR.as_bytes());
        number(out, self.sequence);
    }

    /// As text, for messages to people.
    pub(crate) fn to_text(self) -> Box<str> {
        format!(
            "{}@@{}@@{}",
            self.subscription.0, self.session, self.sequence
        )
        .into()
    }
}

/// The head of MESSAGE, up to where the headers begin that all receivers share.
pub(crate) fn message_head(
    out: &mut Vec<u8>,
    version: Version,
    name: Name<'_>,
    id: MessageId<'_>,
    redelivered: bool,
    awaits_ack: bool,
) {
    encode::command(out, Command::Message);
    if let Name::Id(name) = name {
        encode::header(out, version, "subscription", name);
    }
    // The parts of a message id need no escapes: see `Session::new`.
    out.extend_from_slice(b"message-id:");
    id.append(out);
    out.extend_from_slice(if redelivered {
        b"\nredelivered:true\n".as_slice()
    } else {
        b"\nredelivered:false\n".as_slice()
    });
    if awaits_ack && version == Version::V1_2 {
        out.extend_from_slice(b"ack:");
        id.append(out);
        out.push(b'\n');
    }
}

/// How often a message was written by now, its first time included; for the head of a MESSAGE.
pub(crate) fn attempt(out: &mut Vec<u8>, attempt: u16) {
    out.extend_from_slice(b"attempt:");
    number(out, attempt.into());
    out.push(b'\n');
}

/// Digits only: `u64::from_str` would take a plus sign, too.
fn decimal(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        text.parse().ok()
    } else {
        None
    }
}

/// Appends a number without the formatting machinery, on the path of every message.
fn number(out: &mut Vec<u8>, mut number: u64) {
    let start = out.len();
    loop {
        // The remainder is a digit.
        out.push(b'0'.wrapping_add((number % 10) as u8));
        number /= 10;
        if number == 0 {
            break;
        }
    }
    if let Some(digits) = out.get_mut(start..) {
        digits.reverse();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_ids_come_back_as_they_were_sent() {
        for (subscription, session, sequence) in [
            (0, "s", 0),
            (7, "session-a@@b", 10),
            (u32::MAX, "", u64::MAX),
        ] {
            let id = MessageId {
                subscription: SubscriptionId(subscription),
                session,
                sequence,
            };
            let mut out = Vec::new();
            id.append(&mut out);
            assert_eq!(out, id.to_text().as_bytes());
            assert_eq!(MessageId::parse(&id.to_text()), Named::Message(id));
        }
    }

    #[test]
    fn message_ids_of_others_are_told_from_garbage() {
        for text in [
            "T_1@@session-x@@5",
            "@@s@@5",
            "4294967296@@s@@5",
            "+1@@s@@5",
        ] {
            assert_eq!(MessageId::parse(text), Named::Foreign, "{text}");
        }
        for text in [
            "",
            "zzz",
            "1@@5",
            "1@@s@@",
            "1@@s@@x",
            "1@@s@@+5",
            "1@@s@@18446744073709551616",
        ] {
            assert_eq!(MessageId::parse(text), Named::Invalid, "{text}");
        }
    }
}
