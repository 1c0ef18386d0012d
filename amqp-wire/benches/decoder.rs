//! Messages a second, from the broker's bytes to deliveries, and what they allocate.
//!
//! `cargo bench -p amqp-wire`
#![allow(clippy::unwrap_used, reason = "a benchmark that fails is to say so")]

#[path = "../tests/broker/mod.rs"]
mod broker;

use amqp_wire::{Decoder, Event, Limits};
use broker::Message;
use divan::{AllocProfiler, Bencher, black_box, counter::ItemsCount};

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

/// Messages in the stream of each iteration.
const MESSAGES: usize = 1_000;

const LIMITS: Limits = Limits {
    frame_max: 131_072,
    channel_max: 2_047,
    max_body: 1 << 20,
};

fn main() {
    divan::main();
}

/// As RabbitMQ delivers what a backend published: a content type, two headers, persistent.
fn message(body: usize) -> Message {
    let headers = b"\x05trace\x53\0\0\0\x103f0c2a7e5d0b4a5e\x08priorityI\0\0\0\x07";
    let length = u32::try_from(headers.len()).unwrap().to_be_bytes();
    Message {
        exchange: b"feed".to_vec(),
        routing_key: b"user_184467".to_vec(),
        properties: [
            &b"\xb0\0\x10application/json"[..],
            &length,
            headers,
            b"\x02",
        ]
        .concat(),
        body: vec![b'x'; body],
        ..Message::default()
    }
}

/// Without the headers, and with each header read.
#[divan::bench(args = [(256, false), (256, true), (4_096, false)])]
fn messages(bencher: Bencher<'_, '_>, (body, properties): (usize, bool)) {
    let frames = message(body).frames(1, 131_072).concat();
    let stream = frames.repeat(MESSAGES);
    let mut decoder = Decoder::new(LIMITS);
    bencher.counter(ItemsCount::new(MESSAGES)).bench_local(|| {
        let mut rest = &stream[..];
        while !rest.is_empty() {
            let space = decoder.space();
            let count = space.len().min(rest.len());
            let (piece, later) = rest.split_at(count);
            space[..count].copy_from_slice(piece);
            rest = later;
            decoder.filled(count);
            while let Some(event) = decoder.poll().unwrap() {
                if let Event::Delivery { delivery, .. } = &event
                    && properties
                {
                    black_box(delivery.properties().headers.iter().count());
                }
                black_box(event);
            }
        }
    });
}
