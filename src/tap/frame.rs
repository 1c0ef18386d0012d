//! One frame, as a tail shows it (pure).

use std::{borrow::Cow, net::SocketAddr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use stomp_grammar::{Headers, Version};
use utoipa::ToSchema;

use super::{
    config::{Config, Show},
    redact::{is_shown, looks_secret},
};

/// The longest beginning of a body that is shown, in bytes.
pub const MAX_BODY: u32 = 4096;

/// The beginning of an ERROR's body that is always shown: it is the gateway's own words.
const OWN_WORDS: usize = 512;

/// Headers that are shown; more are counted.
const MAX_HEADERS: usize = 40;

/// The longest texts that are shown, in characters: a header's name, its value, a destination.
const MAX_NAME: usize = 64;
const MAX_VALUE: usize = 256;
const MAX_DESTINATION: usize = 512;

/// Where a client's own tokens go.
const RENEW: &str = "/auth/renew";

/// The client at the other end.
#[derive(Clone, Copy, Debug)]
pub struct Who<'a> {
    /// The session's id.
    pub session: &'a str,
    /// The user; before the login, the name that CONNECT gives, where it is known.
    pub user: Option<&'a str>,
    /// The virtual host, once logged in.
    pub vhost: Option<&'a str>,
    /// The client's address.
    pub remote: Option<SocketAddr>,
    /// The transport.
    pub transport: &'static str,
}

/// A frame that passes.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Its way.
    pub direction: Direction,
    /// Its command.
    pub command: &'a str,
    /// Its headers, without escapes.
    pub headers: &'a Headers,
    /// Its body.
    pub body: &'a [u8],
    /// Why it was refused, if it was.
    pub refused: Option<&'a str>,
}

/// The way of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// From the client.
    In,
    /// To the client.
    Out,
}

/// One line of a tail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum TailLine {
    /// A frame.
    Frame(Box<TailFrame>),
    /// Frames that were meant, and are not shown.
    LeftOut {
        /// On this node.
        node: String,
        /// How many, since the last line of this kind about the node.
        frames: u64,
        /// Why.
        why: Why,
    },
    /// A node takes part, or no more.
    Node {
        /// Which.
        node: String,
        /// Whether it does.
        state: NodeState,
        /// Why not, in words.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cause: Option<String>,
    },
    /// Frames of other nodes are not shown for now.
    Apart {
        /// Why, in words.
        cause: String,
    },
    /// Nothing: the tail goes on. Comes every 5 seconds.
    Alive,
}

/// Why frames are not shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// They were more than `[tail] max_frames_per_second`.
    Pace,
    /// The reader of the tail is too slow.
    Unread,
}

/// Whether a node takes part in a tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// Its frames are shown from now on.
    Begins,
    /// It does not show its frames.
    Refuses,
    /// It was not heard of for 12 seconds.
    Silent,
}

/// A frame that a client sent or was sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TailFrame {
    /// When, in milliseconds since 1970, by the clock of its node.
    pub at: u64,
    /// The node.
    pub node: String,
    /// The session's id.
    pub session: String,
    /// The user. Before the login it is the name that CONNECT gives, which nobody has proved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The virtual host, once logged in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vhost: Option<String>,
    /// The client's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<String>,
    /// The transport.
    pub transport: String,
    /// Its way.
    pub direction: Direction,
    /// Its command.
    pub command: String,
    /// Its destination, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// The bytes of its body.
    pub size: u64,
    /// Its other headers, in their order.
    pub headers: Vec<TailHeader>,
    /// Further headers, of which not even the names are shown.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more_headers: u64,
    /// The beginning of its body, if it is shown, and is text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// The same of a body that is no text, in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_base64: Option<String>,
    /// Why the frame was refused, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// A header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TailHeader {
    /// Its name.
    pub name: String,
    /// Its value. Missing if it may not be shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Seen<'_> {
    /// Its destination, if it has one.
    #[must_use]
    pub fn destination(&self) -> Option<&str> {
        self.headers.get("destination")
    }

    /// Whether a tail of refusals shows it.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        self.refused.is_some() || self.command == "ERROR"
    }

    /// As it is shown, by this configuration, with so many bytes of its body; `at` is now, in
    /// milliseconds since 1970.
    #[must_use]
    pub fn shown(
        &self,
        who: &Who<'_>,
        node: &str,
        at: u64,
        bodies: u32,
        config: &Config,
    ) -> TailFrame {
        let mut others = self
            .headers
            .iter()
            .filter(|(name, _)| *name != "destination");
        let headers = others.by_ref().take(MAX_HEADERS);
        let headers = headers.map(|(name, value)| TailHeader {
            name: cut(name, MAX_NAME),
            value: is_shown(name, value, config).then(|| cut(value, MAX_VALUE)),
        });
        let headers = headers.collect();
        let more = others.count();
        let destination = self.destination();
        let shown = destination.filter(|text| is_shown("destination", text, config));
        let (body, body_base64) = self.shown_body(bodies, config);
        TailFrame {
            at,
            node: node.to_owned(),
            session: who.session.to_owned(),
            user: who.user.map(harmless),
            vhost: who.vhost.map(|vhost| cut(vhost, MAX_VALUE)),
            remote: who.remote.map(|remote| remote.to_string()),
            transport: who.transport.to_owned(),
            direction: self.direction,
            command: self.command.to_owned(),
            destination: shown.map(|text| cut(text, MAX_DESTINATION)),
            size: self.body.len() as u64,
            headers,
            more_headers: more as u64,
            body,
            body_base64,
            refused: self.refused.map(harmless),
        }
    }

    /// The beginning of the body, as text or in base64.
    fn shown_body(&self, bodies: u32, config: &Config) -> (Option<String>, Option<String>) {
        let is_own = self.direction == Direction::Out && self.command == "ERROR";
        let is_token = self.destination() == Some(RENEW);
        let asked = match config.show {
            Show::Bodies if !is_token => bodies.min(MAX_BODY) as usize,
            _ => 0,
        };
        // It may quote the client.
        let is_harmless = is_own && !str::from_utf8(self.body).is_ok_and(looks_secret);
        let most = if is_harmless {
            asked.max(OWN_WORDS)
        } else {
            asked
        };
        let start = self.body.get(..most).unwrap_or(self.body);
        if start.is_empty() {
            return (None, None);
        }
        match std::str::from_utf8(start) {
            Ok(text) => (Some(text.to_owned()), None),
            // Only cut within a character.
            Err(error) if error.error_len().is_none() => {
                let text = start.get(..error.valid_up_to()).unwrap_or_default();
                (Some(String::from_utf8_lossy(text).into_owned()), None)
            }
            Err(_) => (None, Some(STANDARD.encode(start))),
        }
    }
}

/// So many characters of it.
/// A text that a client may have chosen.
fn harmless(text: &str) -> String {
    match looks_secret(text) {
        true => "***".to_owned(),
        false => cut(text, MAX_VALUE),
    }
}

fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// A frame that the gateway has encoded.
#[derive(Debug, PartialEq, Eq)]
pub struct Encoded<'a> {
    /// Its command.
    pub command: &'a str,
    /// Its headers.
    pub headers: Headers,
    /// Its body.
    pub body: &'a [u8],
}

/// Reads a frame of the gateway's own making, which comes in one part or two. The second has
/// headers, too. `None`: a heart-beat.
#[must_use]
pub fn read<'a>(first: &'a [u8], second: &'a [u8], version: Version) -> Option<Encoded<'a>> {
    let (heads, body) = match split_head(first) {
        Some((head, body)) => ([head, &[]], body),
        None => {
            let (more, body) = split_head(second)?;
            ([first, more], body)
        }
    };
    let mut lines = heads
        .into_iter()
        .flat_map(|head| head.split(|byte| *byte == b'\n'))
        .filter_map(|line| std::str::from_utf8(line).ok())
        .filter(|line| !line.is_empty());
    let command = lines.next()?;
    let escapes = version != Version::V1_0 && command != "CONNECTED";
    let mut headers = Headers::default();
    for line in lines {
        if let Some((name, value)) = line.split_once(':') {
            headers.push(&unescape(name, escapes), &unescape(value, escapes));
        }
    }
    Some(Encoded {
        command,
        headers,
        body: body.strip_suffix(&[0]).unwrap_or(body),
    })
}

/// A frame's head, and its body.
fn split_head(frame: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = frame.windows(2).position(|pair| pair == b"\n\n")?;
    let (head, rest) = frame.split_at_checked(end)?;
    Some((head, rest.get(2..)?))
}

fn unescape(text: &str, escapes: bool) -> Cow<'_, str> {
    if !escapes || !text.contains('\\') {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        plain.push(match letter {
            '\\' => match letters.next() {
                Some('n') => '\n',
                Some('r') => '\r',
                Some('c') => ':',
                _ => '\\',
            },
            other => other,
        });
    }
    Cow::Owned(plain)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use stomp_grammar::{Command, encode};

    use super::*;

    const PASSCODE: &str = "correct-horse-battery-staple";

    const WHO: Who<'_> = Who {
        session: "s",
        user: Some("alice"),
        vhost: Some("/"),
        remote: None,
        transport: "tcp",
    };

    fn config(show: Show) -> Config {
        Config {
            show,
            ..Config::default()
        }
    }

    fn headers(all: &[(&str, &str)]) -> Headers {
        all.iter().copied().collect()
    }

    fn shown(seen: &Seen<'_>, bodies: u32, show: Show) -> TailFrame {
        seen.shown(&WHO, "n", 1, bodies, &config(show))
    }

    #[test]
    fn a_passcode_is_in_no_line() {
        let headers = headers(&[
            ("login", "alice"),
            ("passcode", PASSCODE),
            ("Passcode", PASSCODE),
            ("authorization", PASSCODE),
        ]);
        let seen = Seen {
            direction: Direction::In,
            command: "CONNECT",
            headers: &headers,
            body: b"",
            refused: None,
        };
        for show in [Show::Off, Show::Headers, Show::Bodies] {
            let line = super::super::to_line(&TailLine::Frame(Box::new(shown(&seen, 4096, show))));
            assert!(!line.contains(PASSCODE), "{line}");
            assert!(line.contains("\"passcode\""), "{line}");
        }
    }

    #[test]
    fn a_renewed_token_is_shown_by_no_configuration() {
        let headers = headers(&[("destination", RENEW), ("token", "t0ken")]);
        let seen = Seen {
            direction: Direction::In,
            command: "SEND",
            headers: &headers,
            body: b"t0ken",
            refused: None,
        };
        let frame = shown(&seen, 4096, Show::Bodies);
        assert_eq!(frame.destination.as_deref(), Some(RENEW));
        let line = format!("{frame:?}");
        assert!(!line.contains("t0ken"), "{line}");
    }

    #[test]
    fn bodies_are_shown_where_the_configuration_and_the_tail_say_so() {
        let headers = headers(&[("destination", "/topic/a"), ("x-mine", "v")]);
        let seen = |body| Seen {
            direction: Direction::In,
            command: "SEND",
            headers: &headers,
            body,
            refused: None,
        };
        let text = |body, bodies, show| shown(&seen(body), bodies, show).body;
        assert_eq!(text(b"hello", 5, Show::Headers), None);
        assert_eq!(text(b"hello", 0, Show::Bodies), None);
        assert_eq!(text(b"hello", 4, Show::Bodies).as_deref(), Some("hell"));
        assert_eq!(text(b"hello", 9, Show::Bodies).as_deref(), Some("hello"));
        // Cut within a character.
        assert_eq!(text("hé".as_bytes(), 2, Show::Bodies).as_deref(), Some("h"));
        let binary = shown(&seen(b"\xff\x00"), 9, Show::Bodies);
        assert_eq!((binary.body, binary.size), (None, 2));
        assert_eq!(binary.body_base64.as_deref(), Some("/wA="));
        let long = vec![b'x'; 100_000];
        let cut = shown(&seen(&long), u32::MAX, Show::Bodies);
        assert_eq!((cut.body.unwrap().len(), cut.size), (4096, 100_000));
        let value = |show| shown(&seen(b""), 0, show).headers[0].value.clone();
        assert_eq!(
            (value(Show::Headers), value(Show::Bodies)),
            (None, Some("v".into()))
        );
    }

    #[test]
    fn the_words_of_an_error_are_shown_and_are_a_refusal() {
        let headers = headers(&[("message", "access_refused")]);
        let error = Seen {
            direction: Direction::Out,
            command: "ERROR",
            headers: &headers,
            body: b"no",
            refused: None,
        };
        assert!(error.is_refusal());
        assert_eq!(shown(&error, 0, Show::Headers).body.as_deref(), Some("no"));
        // A client may send anything.
        let forged = Seen {
            direction: Direction::In,
            ..error
        };
        assert_eq!(shown(&forged, 0, Show::Headers).body, None);
    }

    #[test]
    fn a_line_has_a_bound_whatever_the_frame_has() {
        let many: Headers = (0..1_000)
            .map(|_| ("é", "\u{1}"))
            .chain([("destination", "d")])
            .collect();
        let long = "\u{1}".repeat(200_000);
        let large = headers(&[("destination", &long), ("receipt", &long), (&long, "v")]);
        for headers in [&many, &large] {
            let seen = Seen {
                direction: Direction::In,
                command: "SEND",
                headers,
                body: long.as_bytes(),
                refused: Some(&long),
            };
            let frame = shown(&seen, u32::MAX, Show::Bodies);
            let line = super::super::to_line(&TailLine::Frame(Box::new(frame)));
            assert!(line.len() < 64 * 1024, "{}", line.len());
        }
    }

    #[test]
    fn frames_of_the_gateway_are_read() {
        let mut out = Vec::new();
        encode::command(&mut out, Command::Receipt);
        encode::header(&mut out, Version::V1_2, "receipt-id", "a:b\\c\nd");
        encode::body(&mut out, b"x\n\ny");
        let read_frame = read(&out, b"", Version::V1_2).unwrap();
        assert_eq!(read_frame.command, "RECEIPT");
        assert_eq!(read_frame.headers.get("receipt-id"), Some("a:b\\c\nd"));
        assert_eq!(read_frame.body, b"x\n\ny");
        let message = read(
            b"MESSAGE\nsubscription:1\n",
            b"destination:/topic/m\ncontent-length:1\n\nx\0",
            Version::V1_2,
        );
        let message = message.unwrap();
        assert_eq!(message.command, "MESSAGE");
        assert_eq!(message.headers.get("subscription"), Some("1"));
        assert_eq!(message.headers.get("destination"), Some("/topic/m"));
        assert_eq!(message.body, b"x");
        assert_eq!(read(b"\n", b"", Version::V1_2), None);
    }

    proptest! {
        /// Whatever a message has in it.
        #[test]
        fn what_was_encoded_is_read(
            name in "[a-z:\\\\\n\r]{1,9}",
            value in "[a-z:\\\\\n\r]{0,9}",
            body in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let mut tail = Vec::new();
            encode::header(&mut tail, Version::V1_2, &name, &value);
            encode::body(&mut tail, &body);
            let frame = read(b"MESSAGE\nsubscription:1\n", &tail, Version::V1_2).unwrap();
            prop_assert_eq!(frame.headers.get(&name), Some(&*value));
            prop_assert_eq!(frame.body, &*body);
        }

        #[test]
        fn nothing_that_is_read_panics(first: Vec<u8>, second: Vec<u8>) {
            for version in Version::ALL {
                let _ = read(&first, &second, version);
            }
        }
    }
}
