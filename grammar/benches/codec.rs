//! Frames a second and bytes a second, beside a search for NUL in the same bytes: no decoder that
//! looks at every byte can be faster than that.
//!
//! `cargo bench -p stomp-grammar`
//!
//! With `FIGURES=FILE` it also writes down, as JSON, how many SEND frames it decodes a second, for
//! stentor-bench.

use std::time::{Duration, Instant};

use bytes::Bytes;
use divan::{
    Bencher, black_box,
    counter::{BytesCount, ItemsCount},
};
use stomp_grammar::{Command, Decoder, Frame, Limits, Version, encode};

/// Frames in the stream of each iteration.
const FRAMES: usize = 100;

/// What a TCP segment carries.
const SEGMENT: usize = 1400;

const LIMITS: Limits = Limits {
    max_frame_size: 4 << 20,
    max_headers: 100,
    max_header_size: 8 << 10,
};

const KINDS: [Kind; 2] = [Kind::Send, Kind::Message];

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// As stomp.js sends it: the content-length last, one header of the application.
    Send,
    /// As the gateway pushes it.
    Message,
}

impl Kind {
    fn frame(self) -> Frame {
        let frame = match self {
            Self::Send => Frame::new(Command::Send)
                .with_header("destination", "/exchange/feed/user_184467")
                .with_header("content-type", "application/json")
                .with_header("x-request-id", "3f0c2a7e-5d0b-4a5e-9a41"),
            Self::Message => Frame::new(Command::Message)
                .with_header("subscription", "sub-0")
                .with_header("message-id", "T_sub-0@@session-8qGc@@1847")
                .with_header("destination", "/exchange/feed/user_184467")
                .with_header("content-type", "application/json")
                .with_header("redelivered", "false"),
        };
        frame.with_body(vec![b'x'; 256])
    }

    fn stream(self) -> Bytes {
        let mut out = Vec::new();
        for _ in 0..FRAMES {
            encode::frame(&mut out, Version::V1_2, &self.frame());
        }
        out.into()
    }
}

fn main() -> std::io::Result<()> {
    divan::main();
    if let Some(file) = std::env::var_os("FIGURES") {
        let name = "SEND frames of 256 bytes decoded a second";
        let figures = format!("{{\"{name}\": {:.0}}}\n", decoded_per_second());
        std::fs::write(file, figures)?;
    }
    Ok(())
}

/// The median of some tenths of a second.
fn decoded_per_second() -> f64 {
    let stream = Kind::Send.stream();
    let mut rates = [0.0; 11].map(|_: f64| {
        let (began, mut frames) = (Instant::now(), 0);
        while began.elapsed() < Duration::from_millis(100) {
            let (mut decoder, mut input) = (Decoder::new(LIMITS), stream.clone());
            while let Ok(Some(frame)) = decoder.decode(&mut input) {
                black_box(frame);
            }
            frames += FRAMES;
        }
        frames as f64 / began.elapsed().as_secs_f64()
    });
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

#[divan::bench(args = KINDS)]
fn decode(bencher: Bencher, kind: Kind) {
    let stream = kind.stream();
    bencher
        .counter(BytesCount::new(stream.len()))
        .counter(ItemsCount::new(FRAMES))
        .with_inputs(|| (Decoder::new(LIMITS), stream.clone()))
        .bench_local_refs(|(decoder, input)| {
            while let Ok(Some(frame)) = decoder.decode(input) {
                black_box(frame);
            }
        });
}

#[divan::bench(args = KINDS)]
fn decode_in_segments(bencher: Bencher, kind: Kind) {
    let stream = kind.stream();
    bencher
        .counter(BytesCount::new(stream.len()))
        .counter(ItemsCount::new(FRAMES))
        .with_inputs(|| (Decoder::new(LIMITS), stream.clone()))
        .bench_local_refs(|(decoder, input)| {
            while !input.is_empty() {
                let mut segment = input.split_to(SEGMENT.min(input.len()));
                while let Ok(Some(frame)) = decoder.decode(&mut segment) {
                    black_box(frame);
                }
            }
        });
}

#[divan::bench(args = KINDS)]
fn encode_frames(bencher: Bencher, kind: Kind) {
    let frame = kind.frame();
    let mut out = Vec::with_capacity(kind.stream().len() + 64);
    bencher
        .counter(BytesCount::new(kind.stream().len()))
        .counter(ItemsCount::new(FRAMES))
        .bench_local(|| {
            out.clear();
            for _ in 0..FRAMES {
                encode::frame(&mut out, Version::V1_2, black_box(&frame));
            }
            black_box(out.len())
        });
}

/// A push to many: the tail is ready, each receiver's head is new.
#[divan::bench]
fn encode_heads_of_one_message(bencher: Bencher) {
    let mut tail = Vec::new();
    encode::header(
        &mut tail,
        Version::V1_2,
        "destination",
        "/exchange/feed/user_184467",
    );
    encode::header(&mut tail, Version::V1_2, "content-type", "application/json");
    encode::body(&mut tail, &[b'x'; 256]);
    let mut out = Vec::new();
    let mut write = move || {
        out.clear();
        for _ in 0..FRAMES {
            encode::command(&mut out, Command::Message);
            encode::header(&mut out, Version::V1_2, "subscription", black_box("sub-0"));
            let id = black_box("T_sub-0@@session-8qGc@@1847");
            encode::header(&mut out, Version::V1_2, "message-id", id);
            out.extend_from_slice(&tail);
        }
        black_box(out.len())
    };
    let size = write();
    bencher
        .counter(BytesCount::new(size))
        .counter(ItemsCount::new(FRAMES))
        .bench_local(write);
}

/// The ceiling.
#[divan::bench(args = KINDS)]
fn search_nul(bencher: Bencher, kind: Kind) {
    let stream = kind.stream();
    bencher
        .counter(BytesCount::new(stream.len()))
        .counter(ItemsCount::new(FRAMES))
        .bench_local(|| memchr::memchr_iter(0, black_box(&stream)).count());
}
