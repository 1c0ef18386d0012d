//! Between what [`amqp_wire`] read and the gateway's types (pure).
//!
//! AMQP's texts are bytes; STOMP's are UTF-8. What is none is shown with U+FFFD in place of each
//! fault, so that a client gets the message and can tell. Only `reply-to` is left out then: it
//! names a queue, and with other characters it would name another one.

use std::{
    borrow::Cow,
    hash::{BuildHasher, Hash, Hasher},
};

use amqp_wire::{Body, Delivery, Value};
use bytes::Bytes;

use super::convert::{FromAmqp, decimal};
use crate::broker::{Message, Properties, for_each_property};

/// The message that was delivered; with no body, if it was too large.
pub(super) fn message(delivery: Delivery<'_>) -> Message {
    let amqp = delivery.properties();
    let mut properties = read(&amqp);
    if amqp
        .reply_to
        .is_some_and(|name| str::from_utf8(name).is_err())
    {
        properties.reply_to = None;
    }
    let mut cc = Vec::new();
    for (name, value) in amqp.headers.iter() {
        if let (b"CC", Value::Array(keys)) = (name, value) {
            cc.extend(keys.iter().filter_map(as_text).map(Box::from));
        } else if let Some(value) = as_text(value) {
            properties.headers.push((boxed(name), value.into()));
        }
    }
    let body = match delivery.body {
        Body::Whole(body) => body,
        Body::TooLarge(_) => Bytes::new(),
    };
    let (exchange, key) = (boxed(delivery.exchange), boxed(delivery.routing_key));
    Message::new(exchange, key, properties, body).with_cc(cc)
}

macro_rules! by_amqp_wire {
    ($($(#[$doc:meta])+ $field:ident: $type:ty, $header:literal, $get:ident, $set:ident;)+) => {
        /// The properties in the gateway's terms, without headers.
        fn read(amqp: &amqp_wire::Properties<'_>) -> Properties {
            Properties {
                $($field: FromAmqp::from_amqp(amqp.$get.as_ref()),)+
                headers: Vec::new(),
            }
        }
    };
}

for_each_property!(by_amqp_wire);

/// Tells messages apart, to recognise one that comes a second time.
pub(super) fn fingerprint(hasher: &impl BuildHasher, delivery: &Delivery<'_>) -> u64 {
    let mut state = hasher.build_hasher();
    delivery.exchange.hash(&mut state);
    delivery.routing_key.hash(&mut state);
    delivery.raw_properties.hash(&mut state);
    match &delivery.body {
        Body::Whole(body) => body.hash(&mut state),
        Body::TooLarge(size) => size.hash(&mut state),
    }
    state.finish()
}

/// Why `queue` dropped the message of a dead letter; `None`: it did not, or the message expired as
/// its publisher wished. It may have died elsewhere before, and of something else.
pub(super) fn why_dropped(letter: &Delivery<'_>, queue: &str) -> Option<&'static str> {
    let headers = letter.properties().headers;
    let Some(Value::Array(deaths)) = headers.get(b"x-death") else {
        return None;
    };
    deaths.iter().find_map(|death| {
        let Value::Table(death) = death else {
            return None;
        };
        if death.get(b"queue") != Some(Value::Text(queue.as_bytes())) {
            return None;
        }
        match death.get(b"reason") {
            Some(Value::Text(b"maxlen")) => {
                Some("feed.max_length_bytes, or a policy's, was reached")
            }
            Some(Value::Text(b"delivery_limit")) => Some("a policy's delivery-limit was reached"),
            // Of a message that has no time limit of its own, it was the queue's.
            Some(Value::Text(b"expired")) if death.get(b"original-expiration").is_none() => {
                Some("messages waited for longer than offline.after, or a policy's message-ttl")
            }
            _ => None,
        }
    })
}

fn boxed(text: &[u8]) -> Box<str> {
    String::from_utf8_lossy(text).into()
}

/// A header's value as text; nested values and bytes that are no text have none.
fn as_text(value: Value<'_>) -> Option<Cow<'_, str>> {
    Some(match value {
        Value::Text(text) => String::from_utf8_lossy(text),
        Value::Bool(value) => value.to_string().into(),
        Value::Signed(value) => value.to_string().into(),
        Value::Unsigned(value) | Value::Timestamp(value) => value.to_string().into(),
        Value::Float(value) => value.to_string().into(),
        Value::Double(value) => value.to_string().into(),
        Value::Decimal { scale, value } => decimal(scale, value)?.into(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::hash::RandomState;

    use super::*;

    fn delivery(raw_properties: &[u8]) -> Delivery<'_> {
        Delivery {
            tag: 1,
            redelivered: false,
            exchange: b"feed",
            routing_key: b"user_\xff",
            raw_properties,
            body: Body::Whole(Bytes::from_static(b"hello")),
        }
    }

    /// `headers` alone.
    fn with_headers(headers: &[u8]) -> Vec<u8> {
        let length = u32::try_from(headers.len()).unwrap().to_be_bytes();
        [&[0x20, 0][..], &length, headers].concat()
    }

    fn nested(kind: u8, inner: &[u8]) -> Vec<u8> {
        let length = u32::try_from(inner.len()).unwrap().to_be_bytes();
        [&[kind][..], &length, inner].concat()
    }

    #[test]
    fn what_is_not_utf_8_is_shown_as_far_as_it_is() {
        let message = message(delivery(b"\x86\x00\x02a\xff\x01\xfe\x01\xfe"));
        assert_eq!(&*message.routing_key, "user_\u{fffd}");
        let properties = &message.properties;
        assert_eq!(properties.content_type.as_deref(), Some("a\u{fffd}"));
        assert_eq!(properties.correlation_id.as_deref(), Some("\u{fffd}"));
        assert_eq!(properties.reply_to, None, "it would name another queue");
        assert_eq!(message.body, "hello");
    }

    #[test]
    fn headers_come_as_texts_and_nested_ones_are_left_out() {
        let values = b"\x01aS\0\0\0\x02\xc3\x28\x01bI\xff\xff\xff\xff\x01ct\x01\x01dF\0\0\0\0";
        let cc = [&b"\x02CC"[..], &nested(b'A', b"S\0\0\0\x01kI\0\0\0\x07V")].concat();
        let price = b"\x01pD\x02\0\0\x07\xc6";
        let raw = with_headers(&[&values[..], price, &cc, b"\x01eV"].concat());
        let message = message(delivery(&raw));
        let headers = [
            ("a", "\u{fffd}("),
            ("b", "-1"),
            ("c", "true"),
            ("p", "19.90"),
        ];
        let headers = headers.map(|(name, value)| (name.into(), value.into()));
        assert_eq!(message.properties.headers, headers);
        assert_eq!(message.cc, ["k", "7"].map(Box::from));
    }

    #[test]
    fn a_mark_is_one_that_this_queue_dropped() {
        let death = |queue: &str, reason: &str, expiration: Option<&str>| {
            let text = |text: &str| nested(b'S', text.as_bytes());
            let mut fields = [
                &b"\x05queue"[..],
                &text(queue),
                b"\x06reason",
                &text(reason),
            ]
            .concat();
            if let Some(expiration) = expiration {
                fields.extend(b"\x13original-expiration");
                fields.extend(text(expiration));
            }
            nested(b'F', &fields)
        };
        let letter = |deaths: &[Vec<u8>]| {
            let deaths = nested(b'A', &deaths.concat());
            with_headers(&[&b"\x07x-death"[..], &deaths].concat())
        };
        for (deaths, dropped) in [
            (vec![death("mine", "maxlen", None)], Some("max_length")),
            (
                vec![
                    death("delay", "expired", None),
                    death("mine", "maxlen", None),
                ],
                Some("max_length"),
            ),
            (
                vec![death("mine", "delivery_limit", None)],
                Some("delivery-limit"),
            ),
            (vec![death("mine", "expired", None)], Some("message-ttl")),
            (vec![death("mine", "expired", Some("1000"))], None),
            (
                vec![
                    death("delay", "maxlen", None),
                    death("mine", "expired", Some("1")),
                ],
                None,
            ),
            (vec![], None),
        ] {
            let raw = letter(&deaths);
            let why = why_dropped(&delivery(&raw), "mine");
            assert_eq!(why.is_some(), dropped.is_some(), "{deaths:?}: {why:?}");
            let (why, dropped) = (why.unwrap_or_default(), dropped.unwrap_or_default());
            assert!(why.contains(dropped), "{deaths:?}: {why}");
        }
        assert_eq!(why_dropped(&delivery(b"\0\0"), "mine"), None);
    }

    #[test]
    fn fingerprints_tell_messages_apart() {
        let hasher = RandomState::new();
        let one = delivery(b"\x80\x00\x01a");
        let again = Delivery {
            tag: 2,
            redelivered: true,
            ..one.clone()
        };
        let of = |delivery: &Delivery<'_>| fingerprint(&hasher, delivery);
        assert_eq!(of(&one), of(&again));
        assert_ne!(of(&one), of(&delivery(b"\x80\x00\x01b")));
        let other = Delivery {
            body: Body::Whole(Bytes::from_static(b"other")),
            ..one.clone()
        };
        assert_ne!(of(&one), of(&other));
    }
}
