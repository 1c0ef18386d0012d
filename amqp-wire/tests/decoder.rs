//! The decoder against what a broker may send, and against what it must not.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod broker;

use amqp_wire::{
    Body, Decoder, Event, Limits, Malformed, Method,
    encode::{self, Short},
};
use broker::{Message, frame, method};
use proptest::prelude::*;

const LIMITS: Limits = Limits {
    frame_max: 64,
    channel_max: 4,
    max_body: 200,
};

/// An event, with memory of its own.
#[derive(Clone, Debug, PartialEq)]
enum Seen {
    Heartbeat,
    Method(u16, String),
    Message(u16, Message),
    TooLarge(u16, u64),
    Malformed(Malformed),
}

/// All that comes out, whatever pieces it comes in; the sizes are taken in turns.
fn decode(limits: Limits, mut bytes: &[u8], pieces: &[usize]) -> Vec<Seen> {
    let mut decoder = Decoder::new(limits);
    let mut seen = Vec::new();
    let mut pieces = pieces.iter().copied().cycle();
    while !bytes.is_empty() {
        let space = decoder.space();
        let wanted = pieces.next().unwrap_or(usize::MAX);
        let count = bytes.len().min(space.len()).min(wanted).max(1);
        let (piece, rest) = bytes.split_at(count);
        space[..count].copy_from_slice(piece);
        bytes = rest;
        decoder.filled(count);
        loop {
            match decoder.poll() {
                Ok(Some(event)) => seen.push(note(event)),
                Ok(None) => break,
                Err(error) => {
                    seen.push(Seen::Malformed(error));
                    return seen;
                }
            }
        }
    }
    seen
}

fn note(event: Event<'_>) -> Seen {
    match event {
        Event::Heartbeat => Seen::Heartbeat,
        Event::Method { channel, method } => Seen::Method(channel, format!("{method:?}")),
        Event::Delivery { channel, delivery } => match delivery.body {
            Body::TooLarge(size) => Seen::TooLarge(channel, size),
            Body::Whole(body) => Seen::Message(
                channel,
                Message {
                    tag: delivery.tag,
                    redelivered: delivery.redelivered,
                    exchange: delivery.exchange.to_vec(),
                    routing_key: delivery.routing_key.to_vec(),
                    properties: delivery.raw_properties.to_vec(),
                    body: body.to_vec(),
                },
            ),
        },
    }
}

fn message() -> impl Strategy<Value = Message> {
    let bytes = |max| prop::collection::vec(any::<u8>(), 0..max);
    // Properties need not fit into a frame of the agreed length.
    let names = (bytes(10), bytes(10), bytes(100), bytes(150));
    (any::<u64>(), any::<bool>(), names).prop_map(|(tag, redelivered, names)| {
        let (exchange, routing_key, properties, body) = names;
        Message {
            tag,
            redelivered,
            exchange,
            routing_key,
            properties,
            body,
        }
    })
}

/// What one channel brings: messages and methods.
fn conversation() -> impl Strategy<Value = Vec<Option<Message>>> {
    prop::collection::vec(prop::option::weighted(0.8, message()), 0..6)
}

proptest! {
    /// Channels whose frames are mixed at will, cut at will: on each, all that was sent, in order.
    #[test]
    fn each_channel_gets_its_messages(
        conversations in prop::collection::vec(conversation(), 4),
        order in prop::collection::vec(0..5_usize, 0..200),
        pieces in prop::collection::vec(1..100_usize, 1..10),
    ) {
        let channels = 1..=4_u16;
        let mut frames: Vec<_> = channels.clone().zip(&conversations).map(|(channel, all)| {
            let frames = all.iter().flat_map(|item| match item {
                Some(message) => message.frames(channel, 64),
                None => vec![method(channel, 60, 11, b"")],
            });
            frames.collect::<Vec<_>>().into_iter()
        }).collect();
        let mut bytes = Vec::new();
        let mut heartbeats = 0;
        for turn in order.into_iter().chain((0..4).cycle().take(400)) {
            match frames.get_mut(turn) {
                Some(frames) => bytes.extend(frames.next().unwrap_or_default()),
                None => {
                    heartbeats += 1;
                    bytes.extend(frame(8, 0, b""));
                }
            }
        }
        let seen = decode(LIMITS, &bytes, &pieces);
        prop_assert_eq!(seen.iter().filter(|one| **one == Seen::Heartbeat).count(), heartbeats);
        for (channel, sent) in channels.zip(conversations) {
            let sent: Vec<_> = sent.into_iter().map(|item| match item {
                Some(message) => Seen::Message(channel, message),
                None => Seen::Method(channel, "QosOk".to_owned()),
            }).collect();
            let got: Vec<_> = seen.iter().filter(|one| {
                matches!(one, Seen::Message(on, _) | Seen::Method(on, _) if *on == channel)
            }).cloned().collect();
            prop_assert_eq!(got, sent);
        }
        prop_assert_eq!(decode(LIMITS, &bytes, &[usize::MAX]), seen);
    }

    /// Whatever comes: no panic, and the same events, and the same fault, in whatever pieces.
    #[test]
    fn any_bytes_say_the_same_in_any_pieces(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        pieces in prop::collection::vec(1..20_usize, 1..5),
    ) {
        prop_assert_eq!(decode(LIMITS, &bytes, &pieces), decode(LIMITS, &bytes, &[300]));
    }

    /// The same for what is nearly right, which comes further.
    #[test]
    fn nearly_right_bytes_say_the_same_in_any_pieces(
        messages in prop::collection::vec(message(), 1..4),
        faults in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        pieces in prop::collection::vec(1..20_usize, 1..5),
    ) {
        let frames = messages.iter().flat_map(|message| message.frames(1, 64));
        let mut bytes = frames.flatten().collect::<Vec<_>>();
        for (place, byte) in faults {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        prop_assert_eq!(decode(LIMITS, &bytes, &pieces), decode(LIMITS, &bytes, &[1000]));
    }

    /// Properties are read without a panic, whatever they are, and so are tables in tables.
    #[test]
    fn any_properties_can_be_read(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let properties = amqp_wire::Properties::parse(&bytes);
        for (_, value) in properties.headers.iter() {
            if let amqp_wire::Value::Table(table) = value {
                let _ = table.iter().count();
            }
        }
    }
}

/// A delivery whose announced body is that long; with what is then there of it.
fn announced(size: u64, body: &[u8]) -> Vec<u8> {
    let mut message = Message::default().frames(1, 64);
    let header = [&[0, 60, 0, 0][..], &size.to_be_bytes(), &[0, 0]].concat();
    message.truncate(1);
    message.extend([frame(2, 1, &header), frame(3, 1, body)]);
    message.concat()
}

#[test]
fn a_body_that_is_too_long_is_counted_and_told() {
    let long = Message {
        body: vec![b'x'; 201],
        ..Message::default()
    };
    let next = Message {
        body: vec![b'y'; 200],
        ..Message::default()
    };
    let bytes = [long.frames(1, 64).concat(), next.frames(1, 64).concat()].concat();
    let seen = decode(LIMITS, &bytes, &[7]);
    assert_eq!(seen, [Seen::TooLarge(1, 201), Seen::Message(1, next)]);
    // A header that lies costs no memory.
    assert_eq!(decode(LIMITS, &announced(u64::MAX, b"x"), &[7]), []);
}

#[test]
fn a_close_says_why() {
    let mut decoder = Decoder::new(LIMITS);
    let arguments = b"\x01\x40\x17CONNECTION_FORCED - bye\0\0\0\0";
    let bytes = method(0, 10, 50, arguments);
    decoder.space()[..bytes.len()].copy_from_slice(&bytes);
    decoder.filled(bytes.len());
    let (code, text) = (320, &b"CONNECTION_FORCED - bye"[..]);
    let method = Method::Close { code, text };
    assert_eq!(
        decoder.poll(),
        Ok(Some(Event::Method { channel: 0, method }))
    );
    assert_eq!(decoder.poll(), Ok(None));
}

#[test]
fn a_secret_is_renewed_by_one_method_and_its_answer() {
    let mut out = Vec::new();
    let secret = "t".repeat(300);
    encode::update_secret(&mut out, secret.as_bytes(), Short::cut("renewed"));
    let arguments = [&[0, 0, 1, 44][..], secret.as_bytes(), b"\x07renewed"];
    assert_eq!(out, method(0, 10, 70, &arguments.concat()));
    let mut decoder = Decoder::new(LIMITS);
    let bytes = method(0, 10, 71, b"");
    decoder.space()[..bytes.len()].copy_from_slice(&bytes);
    decoder.filled(bytes.len());
    let answer = Event::Method {
        channel: 0,
        method: Method::UpdateSecretOk,
    };
    assert_eq!(decoder.poll(), Ok(Some(answer)));
}

#[test]
fn a_login_names_its_mechanism_and_its_response() {
    for (mechanism, response) in [("PLAIN", &b"\0u\0p"[..]), ("EXTERNAL", b"")] {
        let mut out = Vec::new();
        let properties = encode::Fields::default();
        encode::start_ok(&mut out, &properties, Short::cut(mechanism), response);
        let length = |length: usize| u32::try_from(length).unwrap().to_be_bytes();
        let arguments = [
            &[0; 4][..],
            &[u8::try_from(mechanism.len()).unwrap()],
            mechanism.as_bytes(),
            &length(response.len()),
            response,
            b"\x05en_US",
        ];
        assert_eq!(out, method(0, 10, 11, &arguments.concat()));
    }
}

/// What is published is what a broker would deliver, but for the method at its head.
#[test]
fn a_publication_is_a_method_a_header_and_its_body_in_frames() {
    let message = Message {
        exchange: b"feed".to_vec(),
        routing_key: b"user_1".to_vec(),
        properties: b"\x10\x00\x01".to_vec(),
        body: vec![b'x'; 150],
        ..Message::default()
    };
    let publish = method(1, 60, 40, b"\0\0\x04feed\x06user_1\0");
    let mut frames = message.frames(1, 64);
    frames[0] = publish;
    let mut out = Vec::new();
    let [exchange, key] = ["feed", "user_1"].map(Short::cut);
    encode::publish(&mut out, 1, exchange, key, &message.body, 64);
    assert_eq!(out, frames.concat());
}

#[test]
fn faults_are_named() {
    let deliver = || Message::default().frames(1, 64).remove(0);
    let qos_ok = method(1, 60, 11, b"");
    let cases = [
        (b"AMQP\0\0\x09\x01".to_vec(), "65 is no kind of frame"),
        (frame(1, 1, &[0; 57]), "57 bytes, where 56 were agreed on"),
        (frame(8, 5, b""), "channel 5 was not agreed on"),
        (method(1, 60, 50, b""), "method 60.50 on channel 1"),
        (
            method(1, 10, 50, b""),
            "a method of another class on channel 1",
        ),
        (
            method(0, 60, 11, b""),
            "a method of another class on channel 0",
        ),
        (
            method(0, 10, 30, b"\0\0"),
            "a method on channel 0 is cut off",
        ),
        (
            method(1, 60, 60, b"\x01"),
            "a delivery on channel 1 is cut off",
        ),
        (frame(1, 1, b"\0"), "a method on channel 1 is cut off"),
        (
            frame(2, 1, b""),
            "a content header on channel 1, out of place",
        ),
        (frame(3, 1, b"x"), "a body on channel 1, out of place"),
        (frame(3, 0, b"x"), "a message on channel 0"),
        ([deliver(), deliver()].concat(), "a method within a message"),
        ([deliver(), qos_ok].concat(), "a method within a message"),
        (
            [deliver(), frame(3, 1, b"x")].concat(),
            "a body on channel 1, out of place",
        ),
        (
            [deliver(), frame(2, 1, b"")].concat(),
            "a content header on channel 1 is cut off",
        ),
        (announced(1, b"xy"), "more of a body than was announced"),
    ];
    for (bytes, words) in cases {
        let seen = decode(LIMITS, &bytes, &[1]);
        let Some(Seen::Malformed(error)) = seen.last() else {
            panic!("{words}: {seen:?}")
        };
        assert!(error.to_string().contains(words), "{error} for {words}");
    }
    let mut endless = frame(8, 0, b"");
    *endless.last_mut().unwrap() = 0;
    let seen = decode(LIMITS, &endless, &[1]);
    assert_eq!(seen, [Seen::Malformed(Malformed::FrameEnd(0))]);
}

/// A small message does not keep the buffer that it came in.
#[test]
fn a_body_has_memory_of_its_own() {
    let message = Message {
        body: b"small".to_vec(),
        ..Message::default()
    };
    let bytes = message.frames(1, 64).concat();
    let mut decoder = Decoder::new(LIMITS);
    decoder.space()[..bytes.len()].copy_from_slice(&bytes);
    decoder.filled(bytes.len());
    let Ok(Some(Event::Delivery { delivery, .. })) = decoder.poll() else {
        panic!("no delivery")
    };
    let Body::Whole(body) = delivery.body else {
        panic!("no body")
    };
    decoder.space().fill(0);
    assert_eq!(body, "small");
    assert!(body.is_unique());
}

/// RabbitMQ divides bodies among frames, but no headers: they come as long as they are.
#[test]
fn a_header_may_be_longer_than_a_frame() {
    let with_properties = |length| Message {
        properties: vec![b'p'; length],
        body: b"body".to_vec(),
        ..Message::default()
    };
    let next = with_properties(2);
    for (length, kept) in [(100, 100), (100_000, 100_000), (3 << 20, 1 << 20)] {
        let frames = [with_properties(length).frames(1, 64), next.frames(1, 64)].concat();
        let seen = [
            Seen::Message(1, with_properties(kept)),
            Seen::Message(1, next.clone()),
        ];
        for pieces in [7, usize::MAX] {
            assert!(
                decode(LIMITS, &frames.concat(), &[pieces]) == seen,
                "{length}"
            );
        }
    }
    let mut endless = with_properties(100).frames(1, 64);
    *endless[1].last_mut().unwrap() = 0;
    let seen = decode(LIMITS, &endless.concat(), &[7]);
    assert_eq!(seen, [Seen::Malformed(Malformed::FrameEnd(1))]);
    // As ever, only where one is due.
    let early = with_properties(100).frames(1, 64).remove(1);
    let what = "a content header";
    let channel = 1;
    let seen = decode(LIMITS, &early, &[7]);
    assert_eq!(
        seen,
        [Seen::Malformed(Malformed::OutOfPlace { what, channel })]
    );
}

/// A table in a table, and so on, as deep as a frame of RabbitMQ's size allows.
#[test]
fn depth_is_harmless() {
    let mut headers = Vec::new();
    for _ in 0..15_000 {
        let length = u32::try_from(headers.len()).unwrap().to_be_bytes();
        headers = [&b"\x01nF"[..], &length, &headers].concat();
    }
    let length = u32::try_from(headers.len()).unwrap().to_be_bytes();
    let message = Message {
        properties: [&b"\x20\x00"[..], &length, &headers].concat(),
        body: b"deep".to_vec(),
        ..Message::default()
    };
    let limits = Limits {
        frame_max: 131_072,
        ..LIMITS
    };
    let bytes = message.frames(1, 131_072).concat();
    assert_eq!(decode(limits, &bytes, &[1000]), [Seen::Message(1, message)]);
}
