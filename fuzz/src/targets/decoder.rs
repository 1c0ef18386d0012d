//! The STOMP decoder: whole and cut to pieces it reads the same, within its limits, and what it
//! read can be written and read again.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use stomp_grammar::{Command, DecodeError, Decoder, Frame, Limits, Version, encode};

use crate::{Choices, Target};

pub(super) const TARGET: Target = Target {
    name: "decoder",
    words: &[
        b"CONNECT\n",
        b"SEND\n",
        b"MESSAGE\n",
        b"accept-version:1.2\n",
        b"content-length:",
        b"content-length:5\n",
        b"content-length: 5\n",
        b"content-length:4294967296\n",
        b"receipt:1\n",
        b"destination:/queue/a\n",
        b"\n\n",
        b"\r\n",
        b"\n\n\0",
        b"\0\r\0",
        b"\\n",
        b"\\c",
        b"\\\\",
        b"\\r",
    ],
    short: 150_000,
    run,
};

/// Streams that were decoded: each input is, several times.
pub(super) static STREAMS: AtomicU64 = AtomicU64::new(0);

const LIMITS: [Limits; 2] = [
    Limits {
        max_frame_size: 65_536,
        max_headers: 100,
        max_header_size: 4_096,
    },
    Limits {
        max_frame_size: 60,
        max_headers: 3,
        max_header_size: 20,
    },
];

/// The first bytes choose the version, the limits and the cuts; the rest is the stream.
fn run(input: &[u8]) {
    let mut choices = Choices(input);
    let version = Version::ALL[choices.below(Version::ALL.len())];
    let limits = LIMITS[choices.below(LIMITS.len())];
    let cuts = [1 + choices.below(40), 1 + choices.below(7)];
    let stream = choices.0;

    let whole = decode(version, limits, [stream].into_iter());
    let mut rest = stream;
    let mut sizes = cuts.into_iter().cycle();
    let pieces = std::iter::from_fn(|| {
        let size = sizes.next()?.min(rest.len());
        let (piece, behind) = rest.split_at(size);
        rest = behind;
        (!piece.is_empty()).then_some(piece)
    });
    assert_eq!(whole, decode(version, limits, pieces), "cut by {cuts:?}");
    if stream.len() <= 48 {
        // At each place it would take nearly all of the time, for inputs that have much in common.
        for at in (cuts[1] - 1..=stream.len()).step_by(cuts[0]) {
            let (first, second) = stream.split_at(at);
            let cut = decode(version, limits, [first, second].into_iter());
            assert_eq!(whole, cut, "cut at {at}");
        }
    }
    for frame in &whole.0 {
        assert!(frame.headers.iter().count() <= limits.max_headers);
        assert!(frame.body.len() <= limits.max_frame_size);
        comes_back(frame, version);
    }
}

/// All frames, and the error that ended the stream.
fn decode<'a>(
    version: Version,
    limits: Limits,
    pieces: impl Iterator<Item = &'a [u8]>,
) -> (Vec<Frame>, Option<DecodeError>) {
    STREAMS.fetch_add(1, Ordering::Relaxed);
    let mut decoder = Decoder::new(limits);
    decoder.set_version(version);
    let mut frames = Vec::new();
    for piece in pieces {
        let mut bytes = Bytes::copy_from_slice(piece);
        loop {
            match decoder.decode(&mut bytes) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
        assert!(bytes.is_empty(), "all was consumed");
        let (kept, most) = decoder.unfinished();
        assert!(kept <= most, "{kept} bytes are kept, of {most}");
        assert!(
            most <= limits.max_frame_size.saturating_mul(2) + 64,
            "{most}"
        );
    }
    (frames, None)
}

/// What was read can be written, and read again.
fn comes_back(frame: &Frame, version: Version) {
    // The heads of these are written without escapes in any version.
    let is_bare = matches!(
        frame.command,
        Command::Connect | Command::Stomp | Command::Connected
    );
    if is_bare || version != Version::V1_2 {
        return;
    }
    let mut bytes = Vec::new();
    encode::frame(&mut bytes, version, frame);
    let limits = Limits {
        max_frame_size: usize::MAX / 4,
        max_headers: usize::MAX / 4,
        max_header_size: usize::MAX / 4,
    };
    let mut decoder = Decoder::new(limits);
    decoder.set_version(version);
    let mut bytes = BytesMut::from(&bytes[..]).freeze();
    let again = decoder.decode(&mut bytes);
    let again = again.expect("it is right").expect("it is whole");
    assert_eq!((again.command, &again.body), (frame.command, &frame.body));
    let but_length = |frame: &Frame| {
        let headers = frame.headers.iter();
        let others = headers.filter(|(name, _)| *name != "content-length");
        let others = others.map(|(name, value)| (name.to_owned(), value.to_owned()));
        others.collect::<Vec<_>>()
    };
    let whole = |text: &str| text.replace('\0', "\u{fffd}");
    let headers = but_length(frame).into_iter();
    let expected: Vec<_> = headers
        .map(|(name, value)| (whole(&name), whole(&value)))
        .collect();
    assert_eq!(but_length(&again), expected);
    assert!(bytes.iter().all(|byte| b"\r\n".contains(byte)));
}
