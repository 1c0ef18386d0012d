//! Header values of other types than text.

use std::{fmt::Display, str::FromStr};

use stomp_grammar::{Command, Headers};
use stomp_session::Problem;

use crate::broker::{Argument, KeyLimits, destination::MAX_NAME};

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
        const DEAD_KEY: &str = "x-dead-letter-routing-key";
        let exchange = self.headers.get("x-dead-letter-exchange");
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
