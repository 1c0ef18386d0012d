//! The reader of AMQP: whole and cut to pieces it reads the same, bodies keep to their bound, and
//! tables of any bytes have an end.

use amqp_wire::{Array, Body, Decoder, Event, Limits, Malformed, Table, Value};

use crate::{Choices, Target};

pub(super) const TARGET: Target = Target {
    name: "amqp",
    words: &[
        b"\x01\0\x01\0\0\0\x05\0\x3c\0\x3c",
        b"\x02\0\x01\0\0\0\x0e\0\x3c\0\0\0\0\0\0\0\0\0\x05\0\0\xce",
        b"\x03\0\x01\0\0\0\x05hello\xce",
        b"\x08\0\0\0\0\0\0\xce",
        b"\0\x3c\0\x3c",
        b"\0\x0a\0\x32",
        b"\0\x14\0\x28",
        b"\xce",
        b"S\0\0\0\x01a",
        b"F\0\0\0\x04\x01aV",
        b"A\0\0\0\x01V",
        b"\xff\xff\xff\xff",
    ],
    short: 150_000,
    run,
};

#[derive(Debug, PartialEq)]
enum Seen {
    Heartbeat,
    Method(u16, String),
    Message(u16, String, Vec<u8>),
    TooLarge(u16, u64),
    Malformed(Malformed),
}

const LIMITS: [Limits; 2] = [
    Limits {
        frame_max: 128 << 10,
        channel_max: 2_047,
        max_body: 1 << 20,
    },
    Limits {
        frame_max: 64,
        channel_max: 4,
        max_body: 200,
    },
];

fn run(input: &[u8]) {
    let mut choices = Choices(input);
    let limits = LIMITS[choices.below(LIMITS.len())];
    let cuts = [1 + choices.below(90), 1 + choices.below(9)];
    let whole = decode(limits, choices.0, &[usize::MAX]);
    assert_eq!(whole, decode(limits, choices.0, &cuts), "cut by {cuts:?}");
    assert_eq!(whole, decode(limits, choices.0, &[1]), "byte by byte");
}

/// All that comes out, whatever pieces it comes in; their sizes are taken in turns.
fn decode(limits: Limits, mut bytes: &[u8], pieces: &[usize]) -> Vec<Seen> {
    let mut decoder = Decoder::new(limits);
    let mut seen = Vec::new();
    let mut pieces = pieces.iter().copied().cycle();
    while !bytes.is_empty() {
        let space = decoder.space();
        assert!(!space.is_empty(), "there is room for more");
        let wanted = pieces.next().unwrap_or(usize::MAX);
        let count = bytes.len().min(space.len()).min(wanted).max(1);
        let (piece, rest) = bytes.split_at(count);
        space[..count].copy_from_slice(piece);
        bytes = rest;
        decoder.filled(count);
        loop {
            match decoder.poll() {
                Ok(Some(event)) => seen.push(note(event, limits)),
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

fn note(event: Event<'_>, limits: Limits) -> Seen {
    match event {
        Event::Heartbeat => Seen::Heartbeat,
        Event::Method { channel, method } => Seen::Method(channel, format!("{method:?}")),
        Event::Delivery { channel, delivery } => {
            assert!(channel <= limits.channel_max);
            let properties = delivery.properties();
            let mut values = 0;
            walk(&properties.headers, &mut values);
            assert!(values <= delivery.raw_properties.len(), "each takes a byte");
            let head = format!(
                "{} {} {:?} {:?} {properties:?}",
                delivery.tag, delivery.redelivered, delivery.exchange, delivery.routing_key
            );
            match delivery.body {
                Body::Whole(body) => {
                    assert!(body.len() as u64 <= limits.max_body);
                    Seen::Message(channel, head, body.to_vec())
                }
                Body::TooLarge(size) => {
                    assert!(size > limits.max_body);
                    Seen::TooLarge(channel, size)
                }
            }
        }
    }
}

/// Counts all values, the outer levels alone: nested ones are read by whoever wants them.
fn walk(table: &Table<'_>, values: &mut usize) {
    for (_, value) in table.iter() {
        *values += 1;
        match value {
            Value::Table(inner) => *values += inner.iter().count(),
            Value::Array(inner) => *values += count(&inner),
            _ => {}
        }
    }
}

fn count(array: &Array<'_>) -> usize {
    array.iter().count()
}
