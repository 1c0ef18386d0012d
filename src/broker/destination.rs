//! STOMP destinations (pure): what RabbitMQ's STOMP plug-in takes and prints.

use std::{borrow::Cow, fmt};

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use thiserror::Error;

use crate::units::Checked;

/// Names and keys longer than this cannot be carried by AMQP 0-9-1 (a short string), in bytes.
pub const MAX_NAME: usize = 255;

/// How much of a client's text an error quotes, in characters.
const QUOTED: usize = 256;

/// What is written as `%XX` in a segment. As in the plug-in, bytes beyond ASCII are too.
const SEGMENT: &AsciiSet = &CONTROLS.remove(0x7f).add(b'/').add(b'%');

/// A reply queue's name is the whole rest of its destination, so that its slashes stand as such.
const REST: &AsciiSet = &CONTROLS.remove(0x7f).add(b'%');

/// Refuses the name of an exchange that is written as a client's destination: hardly anything has that
/// name, and nothing would say so. Other names may begin with a slash: RabbitMQ takes `/events`.
///
/// # Errors
/// It is; the key at fault, and what to write.
pub fn check_exchange(key: &'static str, name: &str) -> Checked {
    let instead = match Destination::parse(name) {
        // A bare name is read as a queue's.
        _ if !name.starts_with('/') => return Ok(()),
        Err(_) => return Ok(()),
        Ok(Destination::Exchange { name, .. }) => format!("write the exchange alone: {name:?}"),
        // Not that exchange's name: some keys may not have it.
        Ok(Destination::Topic(_)) => "write the name of an exchange; /topic/… is a key of the one \
                                      that [stomp] default_topic_exchange names"
            .to_owned(),
        Ok(_) => "write the name of an exchange".to_owned(),
    };
    Err((
        key,
        format!("{name:?} is a client's destination; {instead}"),
    ))
}

/// Where a message goes, or comes from. Names and keys are decoded.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Destination {
    /// `/exchange/<name>[/<key>]`.
    Exchange {
        /// The exchange.
        name: Box<str>,
        /// The routing key or binding pattern; `None` acts as an empty one.
        key: Option<Box<str>>,
    },
    /// `/queue/<name>`, or the bare name without a slash: declared on first use.
    Queue(Box<str>),
    /// `/amq/queue/<name>`: a queue that exists already.
    AmqQueue(Box<str>),
    /// `/topic/<key>`: a key of the default topic exchange.
    Topic(Box<str>),
    /// `/temp-queue/<x>`: a queue private to the session, which only `reply-to` may name.
    TempQueue(Box<str>),
    /// `/reply-queue/<name>`: where answers go.
    ReplyQueue(Box<str>),
}

impl Destination {
    /// Reads a `destination` header.
    ///
    /// Segments are percent-decoded. A `%` that two hexadecimal digits do not follow stands for
    /// itself. (The plug-in decodes `%2F` alone, so what it prints for names with a `%` does not
    /// lead back to them; here it does.)
    ///
    /// # Errors
    /// [`DestinationError`], in the plug-in's words.
    pub fn parse(text: &str) -> Result<Self, DestinationError> {
        if text.is_empty() {
            return Err(DestinationError::Blank);
        }
        let Some(path) = text.strip_prefix('/') else {
            return if text.contains('/') {
                Err(DestinationError::unknown(text))
            } else {
                decode(text).map(Self::Queue)
            };
        };
        let (kind, rest) = split(path);
        match (kind, rest) {
            ("exchange", rest) => Self::parse_exchange(rest),
            ("queue", rest) => name("queue", rest).map(Self::Queue),
            ("topic", rest) => name("topic", rest).map(Self::Topic),
            ("temp-queue", rest) => name("temp_queue", rest).map(Self::TempQueue),
            ("amq", Some(rest)) => match split(rest) {
                ("queue", rest) => name("amqqueue", rest).map(Self::AmqQueue),
                _ => Err(DestinationError::unknown(text)),
            },
            ("reply-queue", Some("")) => Err(DestinationError::invalid("reply_queue", Some(""))),
            ("reply-queue", Some(rest)) => decode(rest).map(Self::ReplyQueue),
            _ => Err(DestinationError::unknown(text)),
        }
    }

    fn parse_exchange(rest: Option<&str>) -> Result<Self, DestinationError> {
        let invalid = || DestinationError::invalid("exchange", rest);
        let (name, key) = split(rest.ok_or_else(invalid)?);
        if name.is_empty() || key.is_some_and(|key| key.contains('/')) {
            return Err(invalid());
        }
        Ok(Self::Exchange {
            name: decode(name)?,
            key: key.map(decode).transpose()?,
        })
    }

    /// What the `destination` header of a message says that was published to `exchange` with
    /// `key`; `topics` is the default topic exchange.
    #[must_use]
    pub fn of_message<'a>(exchange: &'a str, key: &'a str, topics: &str) -> Printed<'a> {
        Printed {
            exchange: Some(exchange).filter(|name| !name.is_empty() && *name != topics),
            root: if exchange.is_empty() {
                "/queue"
            } else {
                "/topic"
            },
            key,
        }
    }

    /// The exchange and routing key that a SEND to this destination goes to; `topics` is the
    /// default topic exchange. `None`: [`Destination::TempQueue`], which has none.
    #[must_use]
    pub fn route<'a>(&'a self, topics: &'a str) -> Option<(&'a str, &'a str)> {
        match self {
            Self::Exchange { name, key } => Some((name, key.as_deref().unwrap_or_default())),
            Self::Topic(key) => Some((topics, key)),
            Self::Queue(name) | Self::AmqQueue(name) | Self::ReplyQueue(name) => Some(("", name)),
            Self::TempQueue(_) => None,
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exchange { name, key: None } => write!(f, "/exchange/{}", encode(name)),
            Self::Exchange {
                name,
                key: Some(key),
            } => write!(f, "/exchange/{}/{}", encode(name), encode(key)),
            Self::Queue(name) => write!(f, "/queue/{}", encode(name)),
            Self::AmqQueue(name) => write!(f, "/amq/queue/{}", encode(name)),
            Self::Topic(key) => write!(f, "/topic/{}", encode(key)),
            Self::TempQueue(name) => write!(f, "/temp-queue/{}", encode(name)),
            Self::ReplyQueue(name) => write!(f, "/reply-queue/{}", utf8_percent_encode(name, REST)),
        }
    }
}

/// The destination of a message, ready to be printed; see [`Destination::of_message`].
#[derive(Clone, Copy, Debug)]
pub struct Printed<'a> {
    exchange: Option<&'a str>,
    root: &'static str,
    key: &'a str,
}

impl fmt::Display for Printed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.exchange {
            Some(name) => {
                write!(f, "/exchange/{}", encode(name))?;
                if self.key.is_empty() {
                    return Ok(());
                }
            }
            None => f.write_str(self.root)?,
        }
        write!(f, "/{}", encode(self.key))
    }
}

/// What a `reply-to` property says on the way out: a destination as it is, a queue's name as the
/// reply queue of that name.
#[must_use]
pub fn reply_destination(reply_to: &str) -> Cow<'_, str> {
    const DESTINATIONS: [&str; 5] = [
        "/exchange",
        "/topic",
        "/queue",
        "/amq/queue",
        "/reply-queue/",
    ];
    if DESTINATIONS.iter().any(|root| reply_to.starts_with(root)) {
        Cow::Borrowed(reply_to)
    } else {
        Cow::Owned(format!(
            "/reply-queue/{}",
            utf8_percent_encode(reply_to, REST)
        ))
    }
}

/// Why a `destination` cannot be used. Texts are the plug-in's, line ends included.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DestinationError {
    /// It is empty.
    #[error("Destination cannot be blank")]
    Blank,
    /// Of a known kind (the plug-in's word for it), but of another form; what follows the kind.
    #[error("'{rest}' is not a valid {kind} destination\n")]
    Invalid {
        /// `queue`, `topic`, `exchange`, `amqqueue`, `temp_queue` or `reply_queue`.
        kind: &'static str,
        /// What follows the kind, with its slash.
        rest: Box<str>,
    },
    /// Of no known kind.
    #[error(
        "'{0}' is not a valid destination.\nValid destination types are: /temp-queue, /exchange, \
         /topic, /queue, /amq/queue, /reply-queue/.\n"
    )]
    Unknown(Box<str>),
    /// Percent-encoded bytes that are not UTF-8, as AMQP wants names and keys.
    #[error("'{0}' does not decode to UTF-8\n")]
    NotUtf8(Box<str>),
    /// A name or key over [`MAX_NAME`].
    #[error("'{0}' is longer than {MAX_NAME} bytes\n")]
    TooLong(Box<str>),
    /// It exists for other commands.
    #[error("'{destination}' is not a valid destination for '{command}'\n")]
    NotFor {
        /// The destination.
        destination: Box<str>,
        /// The frame's command.
        command: stomp_grammar::Command,
    },
}

impl DestinationError {
    fn unknown(text: &str) -> Self {
        Self::Unknown(quoted(text))
    }

    fn invalid(kind: &'static str, rest: Option<&str>) -> Self {
        let rest = rest.map(|rest| format!("/{rest}")).unwrap_or_default();
        Self::Invalid {
            kind,
            rest: quoted(&rest),
        }
    }

    /// A destination, as the client gave it, that this command cannot use.
    #[must_use]
    pub fn not_for(command: stomp_grammar::Command, destination: &str) -> Self {
        Self::NotFor {
            destination: quoted(destination),
            command,
        }
    }
}

fn quoted(text: &str) -> Box<str> {
    match text.char_indices().nth(QUOTED) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()).into(),
        None => text.into(),
    }
}

/// The first segment, and what follows its slash.
fn split(path: &str) -> (&str, Option<&str>) {
    match path.split_once('/') {
        Some((first, rest)) => (first, Some(rest)),
        None => (path, None),
    }
}

/// The one segment that must follow the kind.
fn name(kind: &'static str, rest: Option<&str>) -> Result<Box<str>, DestinationError> {
    match rest {
        Some(name) if !name.is_empty() && !name.contains('/') => decode(name),
        _ => Err(DestinationError::invalid(kind, rest)),
    }
}

fn decode(segment: &str) -> Result<Box<str>, DestinationError> {
    let name = percent_decode_str(segment)
        .decode_utf8()
        .map_err(|_| DestinationError::NotUtf8(quoted(segment)))?;
    if name.len() > MAX_NAME {
        return Err(DestinationError::TooLong(quoted(segment)));
    }
    Ok(name.into())
}

fn encode(segment: &str) -> impl fmt::Display {
    utf8_percent_encode(segment, SEGMENT)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use stomp_grammar::Command;

    use super::*;

    fn exchange(name: &str, key: Option<&str>) -> Destination {
        Destination::Exchange {
            name: name.into(),
            key: key.map(Into::into),
        }
    }

    #[test]
    fn every_kind_is_read() {
        for (text, destination) in [
            ("/queue/a", Destination::Queue("a".into())),
            ("a", Destination::Queue("a".into())),
            ("a%2Fb.c", Destination::Queue("a/b.c".into())),
            ("/queue/a%2Fb%2fc", Destination::Queue("a/b/c".into())),
            ("/queue/ü%C3%BC", Destination::Queue("üü".into())),
            ("/queue/50%", Destination::Queue("50%".into())),
            ("/queue/50%zz", Destination::Queue("50%zz".into())),
            ("/topic/a.b.*", Destination::Topic("a.b.*".into())),
            ("/exchange/feed", exchange("feed", None)),
            ("/exchange/feed/", exchange("feed", Some(""))),
            ("/exchange/feed/k.1", exchange("feed", Some("k.1"))),
            ("/exchange/a%2Fb/c%2Fd", exchange("a/b", Some("c/d"))),
            ("/amq/queue/a", Destination::AmqQueue("a".into())),
            ("/temp-queue/x", Destination::TempQueue("x".into())),
            ("/reply-queue/x", Destination::ReplyQueue("x".into())),
            ("/reply-queue/a/b", Destination::ReplyQueue("a/b".into())),
            ("/reply-queue//", Destination::ReplyQueue("/".into())),
        ] {
            assert_eq!(Destination::parse(text), Ok(destination), "{text}");
        }
    }

    /// Each from the captures of the plug-in of RabbitMQ 3.10.8, or read in its source.
    #[test]
    fn refusals_use_the_plug_in_s_words() {
        for (kind, word) in [
            ("queue", "queue"),
            ("topic", "topic"),
            ("amq/queue", "amqqueue"),
            ("temp-queue", "temp_queue"),
        ] {
            for rest in ["", "/", "/a/b", "/a/", "//a"] {
                let error = Destination::parse(&format!("/{kind}{rest}")).unwrap_err();
                let expected = format!("'{rest}' is not a valid {word} destination\n");
                assert_eq!(error.to_string(), expected);
            }
        }
        for rest in ["", "/", "//foo", "/a/b/c", "/a/b/"] {
            let error = Destination::parse(&format!("/exchange{rest}")).unwrap_err();
            let expected = format!("'{rest}' is not a valid exchange destination\n");
            assert_eq!(error.to_string(), expected);
        }
        assert_eq!(
            Destination::parse("/reply-queue/").unwrap_err().to_string(),
            "'/' is not a valid reply_queue destination\n"
        );
        for text in [
            "/foo/bar",
            "/dsub/x",
            "/",
            "//queue/a",
            "a/b",
            "queue/a",
            "/amq",
            "/amq/x",
            "/reply-queue",
            "/Queue/a",
        ] {
            let error = Destination::parse(text).unwrap_err();
            let expected = format!(
                "'{text}' is not a valid destination.\nValid destination types are: /temp-queue, \
                 /exchange, /topic, /queue, /amq/queue, /reply-queue/.\n"
            );
            assert_eq!(error.to_string(), expected);
        }
        let blank = Destination::parse("").unwrap_err();
        assert_eq!(blank.to_string(), "Destination cannot be blank");
        assert_eq!(
            DestinationError::not_for(Command::Send, "/temp-queue/x").to_string(),
            "'/temp-queue/x' is not a valid destination for 'SEND'\n"
        );
    }

    #[test]
    fn what_amqp_cannot_carry_is_refused() {
        assert!(matches!(
            Destination::parse("/queue/%FF"),
            Err(DestinationError::NotUtf8(_))
        ));
        assert!(Destination::parse(&format!("/topic/{}", "k".repeat(MAX_NAME))).is_ok());
        let long = format!("/topic/{}", "k".repeat(MAX_NAME + 1));
        assert!(matches!(
            Destination::parse(&long),
            Err(DestinationError::TooLong(_))
        ));
    }

    #[test]
    fn errors_quote_no_more_than_a_line_or_two() {
        let error = Destination::parse(&"/ä".repeat(5_000)).unwrap_err();
        assert!(error.to_string().len() < 1_000);
    }

    #[test]
    fn messages_say_where_they_were_sent() {
        let print = |exchange, key| Destination::of_message(exchange, key, "amq.topic").to_string();
        assert_eq!(print("", "a/b"), "/queue/a%2Fb");
        assert_eq!(print("amq.topic", "a.b"), "/topic/a.b");
        assert_eq!(print("feed", "user_1"), "/exchange/feed/user_1");
        assert_eq!(print("feed", ""), "/exchange/feed");
        assert_eq!(
            print("a/b", "50% ü\n\u{7f}"),
            "/exchange/a%2Fb/50%25 %C3%BC%0A\u{7f}"
        );
        let other = Destination::of_message("amq.topic", "k", "my.topics").to_string();
        assert_eq!(other, "/exchange/amq.topic/k");
    }

    #[test]
    fn replies_go_to_queues_unless_they_say_otherwise() {
        assert_eq!(reply_destination("rt"), "/reply-queue/rt");
        assert_eq!(reply_destination("amq.gen-x"), "/reply-queue/amq.gen-x");
        assert_eq!(reply_destination("/queue/a"), "/queue/a");
        assert_eq!(reply_destination("a/50%"), "/reply-queue/a/50%25");
    }

    proptest! {
        #[test]
        fn what_is_printed_leads_back(name in "[ -~äß/%\n]{1,12}", key in "[ -~äß/%\n.]{0,12}") {
            let name: Box<str> = name.into();
            for destination in [
                exchange(&name, None),
                exchange(&name, Some(&key)),
                Destination::Queue(name.clone()),
                Destination::AmqQueue(name.clone()),
                Destination::Topic(name.clone()),
                Destination::TempQueue(name.clone()),
                Destination::ReplyQueue(name.clone()),
            ] {
                prop_assert_eq!(Destination::parse(&destination.to_string()), Ok(destination));
            }
            let printed = Destination::of_message(&name, &key, "amq.topic").to_string();
            let parsed = Destination::parse(&printed).unwrap();
            prop_assert_eq!(parsed.route("amq.topic"), Some((&*name, &*key)));
        }

        #[test]
        fn nothing_panics(text in "\\PC{0,40}|[/a%2F-]{0,20}") {
            let _ = Destination::parse(&text);
        }
    }
}
