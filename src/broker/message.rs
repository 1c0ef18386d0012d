//! Messages, as the gateway sees them.

use std::sync::Arc;

use bytes::Bytes;
use stomp_grammar::{Version, encode};

use super::{
    Properties,
    delta::{self, Delta, Deltas},
    destination::{Destination, reply_destination},
    tail::{Forms, Tail, Tails},
};
use crate::telemetry::{ReadAt, SentAt};

/// A message that the broker delivered.
#[derive(Clone, Debug)]
pub struct Message {
    /// The exchange that it was published to; empty is the default exchange.
    pub exchange: Box<str>,
    /// The routing key that it was published with.
    pub routing_key: Box<str>,
    /// Properties and headers.
    pub properties: Properties,
    /// Further routing keys, from the `CC` header (RabbitMQ's sender-selected distribution).
    pub cc: Vec<Box<str>>,
    /// The body.
    pub body: Bytes,
    /// A message of a feed that its subscribers may have had before: the broker gave it again, and
    /// does not tell.
    pub may_be_known: bool,
    /// How it came out of queues before this one, the last time first: of messages of dedicated
    /// consumers.
    pub deaths: Box<[Death]>,
    /// When it was read off the broker's socket.
    pub read_at: ReadAt,
    tails: Tails,
    /// Empty unless a subscription asks for deltas.
    deltas: Deltas<Self>,
}

/// How a message left a queue as a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Death {
    /// The queue that it left.
    pub queue: Box<str>,
    /// Why: `expired`, `maxlen`, `rejected`, `delivery_limit`.
    pub reason: Box<str>,
    /// The keys that it had before: its own, and those of `CC`, which a dead letter may lose.
    pub routing_keys: Box<[Box<str>]>,
    /// Its own time limit until then, in milliseconds; a queue's may have been shorter.
    pub expiration: Option<u64>,
}

impl Message {
    /// Whether a stream has it: each of its messages says where it stands there.
    #[must_use]
    pub fn is_of_stream(&self) -> bool {
        self.header(OFFSET_HEADER).is_some()
    }

    /// Where it stands in its stream, if one has it.
    #[must_use]
    pub fn stream_offset(&self) -> Option<u64> {
        self.header(OFFSET_HEADER)?.parse().ok()
    }

    /// The text of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.properties.headers.iter();
        let (_, value) = headers.find(|(known, _)| **known == *name)?;
        Some(value)
    }

    /// When it was sent, if it says so. The milliseconds are RabbitMQ's own, by its plug-in
    /// `rabbitmq_message_timestamp` or its message interceptor, which write the seconds, too.
    #[must_use]
    pub fn sent_at(&self) -> Option<SentAt> {
        let seconds = self.properties.timestamp?;
        let exact = self.header("timestamp_in_ms");
        let exact = exact.and_then(|text| text.parse().ok());
        Some(exact.map_or(SentAt::Seconds(seconds), SentAt::Milliseconds))
    }

    /// The same for the metrics of ages. A client's message says whatever time its client chose, also in
    /// `timestamp_in_ms`, and one client must not raise the alarm of clocks that differ.
    #[must_use]
    pub fn aged_from(&self) -> Option<SentAt> {
        let sent_at = self.sent_at()?;
        self.header(USER_HEADER).is_none().then_some(sent_at)
    }

    /// A message without further routing keys.
    #[must_use]
    pub fn new(
        exchange: Box<str>,
        routing_key: Box<str>,
        properties: Properties,
        body: Bytes,
    ) -> Self {
        Self {
            exchange,
            routing_key,
            properties,
            cc: Vec::new(),
            body,
            may_be_known: false,
            deaths: Box::default(),
            read_at: ReadAt::default(),
            tails: Tails::default(),
            deltas: Deltas::default(),
        }
    }

    /// The message with the further routing keys of its `CC` header.
    #[must_use]
    pub fn with_cc(mut self, cc: Vec<Box<str>>) -> Self {
        self.cc = cc;
        self
    }

    /// About how many bytes the message holds on to while it waits for a client.
    #[must_use]
    pub fn weight(&self) -> usize {
        // Of many short texts, the pointers are the most.
        const TEXT: usize = size_of::<Box<str>>();
        let headers = self
            .properties
            .headers
            .iter()
            .flat_map(|(name, value)| [2 * TEXT, name.len(), value.len()]);
        let cc = self.cc.iter().flat_map(|key| [TEXT, key.len()]);
        let own = [size_of::<Self>(), self.body.len()];
        own.into_iter().chain(headers).chain(cc).sum()
    }

    /// About how many bytes its tails take: each is kept from its first delivery on.
    #[must_use]
    pub fn tail_weight(&self) -> usize {
        let headers = self.properties.headers.iter();
        let headers = headers.flat_map(|(name, value)| [&**name, &**value]);
        let key = [&*self.exchange, &*self.routing_key];
        let texts = key.into_iter().chain(headers);
        let texts = texts.chain(self.properties.texts());
        let (mut forms, mut escapes) = (Forms::One, 0_usize);
        for byte in texts.flat_map(str::bytes) {
            let of_byte = Forms::of(byte);
            forms = forms.max(of_byte);
            escapes = escapes.saturating_add(usize::from(of_byte != Forms::One));
        }
        let each = self.tail_room(&self.body).saturating_add(escapes);
        each.saturating_mul(forms.count())
    }

    /// Room for a tail with that body.
    fn tail_room(&self, body: &[u8]) -> usize {
        // The names of some properties, `content-length` with its number, the empty line, NUL.
        const REST: usize = 96;
        let headers: usize = self
            .properties
            .headers
            .iter()
            .flat_map(|(name, value)| [name.len(), value.len(), ":\n".len()])
            .sum();
        let key = [self.exchange.len(), self.routing_key.len()];
        let rest = [REST, headers, body.len()];
        let texts = self.properties.texts().map(str::len);
        rest.into_iter().chain(key).chain(texts).sum()
    }

    /// The part of a MESSAGE frame that all its receivers share: headers from `destination` on,
    /// the empty line, the body, NUL. Encoded once (once for 1.0 and once for later versions, if a
    /// header needs escapes) and kept. `topics` names the default topic exchange: the same one in each call.
    pub fn tail(&self, version: Version, topics: &str) -> &Tail {
        let encode = || self.encode(&self.body, version, topics);
        self.tails.get(version, encode)
    }

    /// The same with a delta of this message in place of the body.
    pub fn tail_of<'a>(&self, delta: &'a Delta, version: Version, topics: &str) -> &'a Tail {
        let encode = || self.encode(delta.body(), version, topics);
        delta.tails.get(version, encode)
    }

    /// This message as a delta to `base`; `None` where that saves too little. It is encoded once for
    /// all who ask, as its tail is.
    #[must_use]
    pub fn delta_to(&self, base: &Arc<Self>) -> Option<Arc<Delta>> {
        self.deltas.to(base, &base.body, &self.body)
    }

    /// Drops the deltas to messages that are no more.
    pub fn tidy_deltas(&self) {
        self.deltas.tidy();
    }

    /// The deltas that are kept.
    #[cfg(test)]
    pub(crate) fn deltas(&self) -> usize {
        self.deltas.count()
    }

    /// Whether it can be a delta, or the base of one.
    #[must_use]
    pub fn fits_deltas(&self) -> bool {
        delta::fits(&self.body)
    }

    /// The tail, and how many forms it has.
    fn encode(&self, body: &[u8], version: Version, topics: &str) -> (Tail, Forms) {
        let mut out = Vec::with_capacity(self.tail_room(body));
        let mut forms = Forms::One;
        self.visit_headers(topics, |name, value| {
            let bytes = name.bytes().chain(value.bytes());
            forms = bytes.map(Forms::of).fold(forms, Ord::max);
            encode::header(&mut out, version, name, value);
        });
        encode::body(&mut out, body);
        let tail = Tail {
            bytes: out.into(),
            is_text: std::str::from_utf8(body).is_ok(),
        };
        (tail, forms)
    }

    /// The headers in the order of RabbitMQ's plug-in: the AMQP headers, then the properties.
    fn visit_headers(&self, topics: &str, mut visit: impl FnMut(&str, &str)) {
        let destination = Destination::of_message(&self.exchange, &self.routing_key, topics);
        visit("destination", &destination.to_string());
        let mut properties = self.properties.shown();
        for (name, value) in &mut properties {
            if *name == "reply-to" {
                let reply_to = self.properties.reply_to.as_deref();
                *value = reply_to.map(reply_destination);
            }
        }
        // A client heeds the first header of a name: an AMQP header must not come before the
        // property whose name it bears, nor pass for one of the frame's own.
        let is_free = |name: &str| {
            let bare = name.trim();
            !passes_for(name, &OWN_HEADERS)
                && properties
                    .iter()
                    .all(|(property, value)| *property != bare || value.is_none())
        };
        for (name, value) in &self.properties.headers {
            if is_free(name) {
                visit(name, value);
            }
        }
        for (name, value) in properties.iter().rev() {
            if let Some(value) = value {
                visit(name, value);
            }
        }
    }
}

/// Whether a receiver may take the name for one of these: some clients trim names, and some tell
/// no capital letters apart.
#[must_use]
pub fn passes_for(name: &str, names: &[&str]) -> bool {
    let name = plain_name(name);
    names.iter().any(|other| name.eq_ignore_ascii_case(other))
}

/// A header's name as such clients read it.
pub(super) fn plain_name(name: &str) -> &str {
    // The byte order mark is a blank to JavaScript.
    let is_padding = |char: char| char.is_whitespace() || char.is_control() || char == '\u{feff}';
    name.trim_matches(is_padding)
}

/// Headers that say something of the frame itself; AMQP headers of these names are left out.
const OWN_HEADERS: [&str; 11] = [
    "destination",
    "subscription",
    "message-id",
    "ack",
    "redelivered",
    "attempt",
    "content-length",
    "receipt-id",
    DROPPED_HEADER,
    CONFLATED_HEADER,
    DELTA_HEADER,
];

/// A message of a dedicated consumer.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The message.
    pub message: Arc<Message>,
    /// What [`super::Consumer::settle`] calls it; grows within the consumer.
    pub tag: u64,
    /// Whether somebody may have seen it before.
    pub redelivered: bool,
}

/// The AMQP header that names a message's sender; the gateway sets it, never the client.
pub const USER_HEADER: &str = "x-stomp-user";

/// The header of a MESSAGE frame that tells how many messages before it were dropped; the gateway
/// sets it, never the sender.
pub const DROPPED_HEADER: &str = "x-dropped";

/// The header in which the broker tells where a message stands in its stream.
pub(crate) const OFFSET_HEADER: &str = "x-stream-offset";

/// The header of a MESSAGE frame that tells how many older messages of its key it stands for, besides
/// itself; the gateway sets it, never the sender.
pub const CONFLATED_HEADER: &str = "x-conflated";

/// The header of a MESSAGE frame whose client asked for deltas: `whole 7`, where 7 is the message's
/// number in its subscription; or `fossil 7 4`, the body is the delta to that of message 4. The
/// gateway sets it, never the sender.
pub const DELTA_HEADER: &str = "x-delta";

#[cfg(test)]
#[path = "delta_tests.rs"]
mod delta_tests;

#[cfg(test)]
mod tests {
    use super::*;

    const TOPICS: &str = "amq.topic";

    fn message(properties: Properties, body: &'static str) -> Message {
        Message::new("amq.topic".into(), "m".into(), properties, body.into())
    }

    fn tail(message: &Message, version: Version) -> String {
        String::from_utf8(message.tail(version, TOPICS).bytes.to_vec()).unwrap()
    }

    /// As many as fit into a frame of 128 KiB, each with a name of a letter and no text.
    #[test]
    fn many_short_headers_weigh_what_they_take() {
        let header = (Box::<str>::from("a"), Box::<str>::from(""));
        let properties = Properties {
            headers: vec![header; 18_000],
            ..Properties::default()
        };
        let message = message(properties, "").with_cc(vec!["k".into(); 18_000]);
        assert!(message.weight() > 18_000 * 3 * size_of::<Box<str>>());
    }

    fn captured() -> Properties {
        let some = |text: &str| Some(Box::from(text));
        Properties {
            content_type: some("text/plain"),
            content_encoding: some("utf-8"),
            persistent: true,
            priority: Some(3),
            correlation_id: some("cc"),
            reply_to: some("rt"),
            expiration: some("10000"),
            message_id: some("am"),
            timestamp: Some(123),
            kind: some("ty"),
            user_id: some("guest"),
            app_id: some("ap"),
            headers: vec![("foo".into(), "b:c".into())],
        }
    }

    #[test]
    fn headers_come_as_from_the_plug_in() {
        let message = message(captured(), "hello");
        let expected = "destination:/topic/m\nfoo:b\\cc\napp-id:ap\nuser-id:guest\ntype:ty\n\
             timestamp:123\namqp-message-id:am\nexpiration:10000\nreply-to:/reply-queue/rt\n\
             correlation-id:cc\npriority:3\npersistent:true\ncontent-encoding:utf-8\n\
             content-type:text/plain\ncontent-length:5\n\nhello\0";
        assert_eq!(tail(&message, Version::V1_2), expected);
        assert_eq!(tail(&message, Version::V1_1), expected);
        assert!(tail(&message, Version::V1_0).contains("foo:b:c\n"));
    }

    #[test]
    fn a_client_s_clock_is_not_measured() {
        let of = |headers: &[(&str, &str)]| {
            let headers = headers.iter();
            let headers = headers.map(|(name, value)| ((*name).into(), (*value).into()));
            let properties = Properties {
                timestamp: Some(123),
                headers: headers.collect(),
                ..Properties::default()
            };
            message(properties, "").aged_from()
        };
        assert_eq!(of(&[]), Some(SentAt::Seconds(123)));
        let exact = ("timestamp_in_ms", "123456");
        assert_eq!(of(&[exact]), Some(SentAt::Milliseconds(123_456)));
        let sender = (USER_HEADER, "eve");
        assert_eq!(of(&[sender]), None);
        assert_eq!(of(&[exact, sender]), None);
        assert_eq!(message(Properties::default(), "").aged_from(), None);
    }

    #[test]
    fn a_bare_message_has_little_to_say() {
        let message = message(Properties::default(), "x");
        let expected = "destination:/topic/m\ncontent-length:1\n\nx\0";
        assert_eq!(tail(&message, Version::V1_2), expected);
    }

    #[test]
    fn a_tail_without_escapes_is_encoded_once_for_all() {
        let message = message(Properties::default(), "x");
        let [first, second] = [Version::V1_2, Version::V1_0].map(|v| message.tail(v, TOPICS));
        assert_eq!(first.bytes.as_ptr(), second.bytes.as_ptr());
    }

    #[test]
    fn a_body_that_is_no_text_is_known() {
        let message = |body: &'static [u8]| {
            let properties = Properties::default();
            Message::new("".into(), "m".into(), properties, body.into())
        };
        for (body, is_text) in [(&b"x"[..], true), ("ü".as_bytes(), true), (b"\xff", false)] {
            let message = message(body);
            assert_eq!(message.tail(Version::V1_2, TOPICS).is_text, is_text);
        }
    }

    #[test]
    fn headers_cannot_pass_for_the_frame_s_own() {
        let forged = OWN_HEADERS.map(|name| (Box::from(name), Box::from("forged")));
        let mut properties = captured();
        properties.headers = forged.to_vec();
        properties.headers.push(("user-id".into(), "forged".into()));
        for name in [" ack ", "\u{feff}X-Dropped", "Message-ID\t", "attempt"] {
            properties.headers.push((name.into(), "forged".into()));
        }
        properties.headers.push(("x\nack".into(), "1".into()));
        let frame = tail(&message(properties, ""), Version::V1_2);
        assert!(!frame.contains("forged"), "{frame}");
        assert!(!frame.contains("\nack"), "{frame}");
    }

    /// Clients that end a frame at the first NUL would take what follows for another frame.
    #[test]
    fn a_nul_in_a_header_does_not_end_the_frame() {
        let forged = "x\0MESSAGE\nsubscription:1\n\nforged";
        let properties = Properties {
            headers: vec![(forged.into(), forged.into())],
            correlation_id: Some(forged.into()),
            reply_to: Some(format!("/queue/{forged}").into()),
            ..Properties::default()
        };
        let message = message(properties, "body");
        for version in Version::ALL {
            let frame = tail(&message, version);
            let nuls: Vec<_> = frame.match_indices('\0').collect();
            assert_eq!(nuls, [(frame.len() - 1, "\0")], "{frame:?}");
            assert!(frame.contains("x\u{fffd}MESSAGE"), "{frame:?}");
        }
    }

    #[test]
    fn a_header_may_stand_in_for_a_property_that_is_not_set() {
        let properties = Properties {
            headers: vec![("type".into(), "news".into())],
            ..Properties::default()
        };
        assert!(tail(&message(properties, ""), Version::V1_2).contains("\ntype:news\n"));
    }
}
