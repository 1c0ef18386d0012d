//! Header values of other types than text.

use std::{fmt::Display, str::FromStr};

use stomp_grammar::{Command, Headers};
use stomp_session::Problem;

use crate::{
    broker::{Argument, KeyLimits, destination::MAX_NAME},
    telemetry::TRACEPARENT,
};

/// The type of a queue argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    /// A name that a delivered message carries: RabbitMQ takes a longer one, and fails when it
    /// delivers, at whoever consumes the message.
    Name,
    Number,
}

/// The queue arguments that a client may give, and what they are.
pub(super) const QUEUE_ARGUMENTS: [(&str, Kind); 12] = [
    ("x-dead-letter-exchange", Kind::Name),
    ("x-dead-letter-routing-key", Kind::Name),
    ("x-expires", Kind::Number),
    ("x-max-length", Kind::Number),
    ("x-max-length-bytes", Kind::Number),
    ("x-overflow", Kind::Text),
    ("x-max-age", Kind::Text),
    ("x-stream-max-segment-size-bytes", Kind::Number),
    ("x-max-priority", Kind::Number),
    ("x-message-ttl", Kind::Number),
    ("x-queue-type", Kind::Text),
    ("x-stream-filter-size-bytes", Kind::Number),
];

/// Headers of SUBSCRIBE that mean something, besides [`QUEUE_ARGUMENTS`] and those of streams. All
/// others are what a headers exchange is to match.
const SUBSCRIBE_HEADERS: [&str; 18] = [
    "destination",
    "id",
    "ack",
    "receipt",
    "transaction",
    "selector",
    "content-type",
    "content-length",
    "durable",
    "persistent",
    "auto-delete",
    "exclusive",
    "prefetch-count",
    "x-queue-name",
    "x-priority",
    "redeliver",
    "redeliver-then",
    TRACEPARENT,
];

/// The header that makes a SUBSCRIBE match headers.
const MATCH: &str = "x-match";

/// Bytes of a binding's arguments: RabbitMQ closes a connection over what exceeds a frame, and others
/// are on it.
const MAX_BINDING_ARGUMENTS: usize = 32 * 1024;

/// The headers of a frame, read as what they should be. As everywhere, the first of a name
/// counts, and blanks around numbers and arguments do not.
pub(super) struct Fields<'a> {
    pub(super) command: Command,
    pub(super) headers: &'a Headers,
}

impl<'a> Fields<'a> {
    pub(super) const fn new(command: Command, headers: &'a Headers) -> Self {
        Self { command, headers }
    }

    pub(super) const fn invalid(&self, header: &'static str, expected: &'static str) -> Problem {
        Problem::InvalidHeader {
            command: self.command,
            header,
            expected,
        }
    }

    pub(super) fn required(&self, header: &'static str) -> Result<&'a str, Problem> {
        let missing = Problem::MissingHeader {
            command: self.command,
            header,
        };
        self.headers.get(header).ok_or(missing)
    }

    /// A text that AMQP carries as a short string.
    pub(super) fn short(&self, header: &'static str) -> Result<Option<&'a str>, Problem> {
        match self.headers.get(header) {
            Some(text) if text.len() > MAX_NAME => Err(self.invalid(header, "at most 255 bytes")),
            text => Ok(text),
        }
    }

    pub(super) fn switch(&self, header: &'static str) -> Result<Option<bool>, Problem> {
        self.headers
            .get(header)
            .map(|text| match text.trim() {
                "true" | "True" => Ok(true),
                "false" | "False" => Ok(false),
                _ => Err(self.invalid(header, "true or false")),
            })
            .transpose()
    }

    /// A whole number within the bounds of its type.
    pub(super) fn number<N: Number>(&self, header: &'static str) -> Result<Option<N>, Problem> {
        self.headers
            .get(header)
            .map(|text| N::read(text).ok_or_else(|| self.invalid(header, N::EXPECTED)))
            .transpose()
    }

    /// The arguments of a queue to declare. The broker judges their values, beyond their type; but
    /// dead letters are routed by a key like any message, so this checks that key.
    pub(super) fn queue_arguments(
        &self,
        keys: &KeyLimits,
    ) -> Result<Vec<(Box<str>, Argument)>, Problem> {
        const DEAD_EXCHANGE: &str = "x-dead-letter-exchange";
        const DEAD_KEY: &str = "x-dead-letter-routing-key";
        let exchange = self.headers.get(DEAD_EXCHANGE);
        if exchange.is_some_and(|name| name.trim().is_empty())
            && self.headers.get(DEAD_KEY).is_none()
        {
            // Each dead letter would go to the queue of its own key's name, about which nobody
            // was asked: a feed's, say.
            let expected = "an exchange; or none, with a queue's name in x-dead-letter-routing-key";
            return Err(self.invalid(DEAD_EXCHANGE, expected));
        }
        if let (Some(exchange), Some(key)) = (exchange, self.headers.get(DEAD_KEY))
            && !matches!(keys.slow(exchange.trim(), key.trim(), ""), Ok(None))
        {
            return Err(self.invalid(DEAD_KEY, "fewer words (see [limits] max_fast_key_words)"));
        }
        let mut arguments = Vec::new();
        for (name, kind) in QUEUE_ARGUMENTS {
            let value = match kind {
                Kind::Text => self
                    .headers
                    .get(name)
                    .map(|text| Argument::Text(text.trim().into())),
                Kind::Name => self
                    .short(name)?
                    .map(|text| Argument::Text(text.trim().into())),
                Kind::Number => self.number(name)?.map(Argument::Number),
            };
            arguments.extend(value.map(|value| (name.into(), value)));
        }
        Ok(arguments)
    }

    /// The arguments of a binding to a headers exchange: `x-match`, and all headers that mean
    /// nothing else, as texts, in the order of their names: that of the frame means nothing.
    /// Without `x-match` there are none, so that all messages match, as with the plug-in.
    pub(super) fn binding_arguments(&self) -> Result<Vec<(Box<str>, Argument)>, Problem> {
        let Some(mode) = self.headers.get(MATCH) else {
            return Ok(Vec::new());
        };
        let mode = mode.trim();
        if !["all", "any", "all-with-x", "any-with-x"].contains(&mode) {
            return Err(self.invalid(MATCH, "all, any, all-with-x or any-with-x"));
        }
        let is_matched = |name: &str| {
            let mut arguments = QUEUE_ARGUMENTS.iter();
            name != MATCH
                && !SUBSCRIBE_HEADERS.contains(&name)
                && !name.starts_with("x-stream-")
                && !arguments.any(|(argument, _)| *argument == name)
        };
        let matching = (MATCH.into(), Argument::Text(mode.into()));
        let mut arguments: Vec<(Box<str>, Argument)> = vec![matching];
        let mut size = 0_usize;
        for (name, value) in self.headers.iter() {
            // The first of a name counts.
            let is_repeated = arguments.iter().any(|(other, _)| **other == *name);
            if !is_matched(name) || is_repeated {
                continue;
            }
            size = size.saturating_add(name.len()).saturating_add(value.len());
            if name.len() > MAX_NAME || size > MAX_BINDING_ARGUMENTS {
                let expected = "headers to match of at most 32 KiB, and names of at most 255 bytes";
                return Err(self.invalid(MATCH, expected));
            }
            arguments.push((name.into(), Argument::Text(value.into())));
        }
        if let Some((_, matched)) = arguments.split_first_mut() {
            matched.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        }
        Ok(arguments)
    }

    /// The arguments of a consumer.
    pub(super) fn consumer_arguments(&self) -> Result<Vec<(Box<str>, Argument)>, Problem> {
        let offset = self.headers.get("x-stream-offset").map(|text| {
            stream_offset(text.trim()).ok_or_else(|| {
                let expected = "first, last, next, offset=<number> or timestamp=<seconds>";
                self.invalid("x-stream-offset", expected)
            })
        });
        let filter = self.headers.get("x-stream-filter");
        let arguments = [
            (
                "x-priority",
                self.number("x-priority")?.map(Argument::Number),
            ),
            ("x-stream-offset", offset.transpose()?),
            (
                "x-stream-filter",
                filter.map(|text| Argument::Texts(text.split(',').map(Into::into).collect())),
            ),
            (
                "x-stream-match-unfiltered",
                self.switch("x-stream-match-unfiltered")?
                    .map(Argument::Switch),
            ),
        ];
        Ok(arguments
            .into_iter()
            .filter_map(|(name, value)| Some((name.into(), value?)))
            .collect())
    }
}

fn stream_offset(text: &str) -> Option<Argument> {
    match text.split_once('=') {
        Some(("offset", number)) => i64::read(number).map(Argument::Number),
        Some(("timestamp", seconds)) => u64::read(seconds).map(Argument::Timestamp),
        Some(_) => None,
        None if matches!(text, "first" | "last" | "next") => Some(Argument::Text(text.into())),
        None => i64::read(text).map(Argument::Number),
    }
}

/// A number that a header can hold.
pub(super) trait Number: FromStr + Display {
    const EXPECTED: &'static str;

    fn read(text: &str) -> Option<Self> {
        text.trim().parse().ok()
    }
}

impl Number for u8 {
    const EXPECTED: &'static str = "a whole number from 0 to 255";
}

impl Number for u16 {
    const EXPECTED: &'static str = "a whole number from 0 to 65535";
}

impl Number for u32 {
    const EXPECTED: &'static str = "a whole number from 0 to 4294967295";
}

impl Number for u64 {
    const EXPECTED: &'static str = "a whole number, not negative";
}

impl Number for i64 {
    const EXPECTED: &'static str = "a whole number";
}
