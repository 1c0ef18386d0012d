//! Tests that need the decoder's inside; `vectors/` holds the tests from outside.

use super::*;
use crate::{Command, DecodeErrorKind, scan::work};

const LIMITS: Limits = Limits {
    max_frame_size: 4096,
    max_headers: 8,
    max_header_size: 64,
};

fn decoder() -> Decoder {
    Decoder::new(LIMITS)
}

fn one(bytes: &'static [u8]) -> Result<Option<Frame>, DecodeError> {
    decoder().decode(&mut Bytes::from_static(bytes))
}

/// Feeds `stream` in pieces of `size` bytes and collects what comes out.
fn cut(
    decoder: &mut Decoder,
    stream: &[u8],
    size: usize,
) -> Result<Vec<Frame>, (Vec<Frame>, DecodeError)> {
    let mut frames = Vec::new();
    for piece in stream.chunks(size) {
        let mut piece = Bytes::copy_from_slice(piece);
        loop {
            match decoder.decode(&mut piece) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return Err((frames, error)),
            }
        }
        assert!(piece.is_empty());
    }
    Ok(frames)
}

fn buffered(decoder: &Decoder) -> usize {
    match &decoder.state {
        State::Within(partial) => partial.capacity(),
        _ => 0,
    }
}

#[test]
fn a_frame_in_one_piece() {
    let frame = one(b"SEND\ndestination:/topic/a\nreceipt:7\n\nhello\0")
        .unwrap()
        .unwrap();
    assert_eq!(frame.command, Command::Send);
    assert_eq!(frame.header("destination"), Some("/topic/a"));
    assert_eq!(frame.headers.len(), 2);
    assert_eq!(&frame.body[..], b"hello");
}

#[test]
fn an_idle_decoder_is_small_and_owns_nothing() {
    assert_eq!(size_of::<Decoder>(), 32);
    let mut decoder = decoder();
    let stream = b"SEND\ndestination:/a\n\nhello\0\n\r\nSEND\ndestination:/a\n\nhello\0\r\n";
    for size in 1..=stream.len() {
        assert_eq!(cut(&mut decoder, stream, size).unwrap().len(), 2);
        assert!(matches!(decoder.state, State::Between));
    }
}

#[test]
fn a_body_in_one_piece_is_not_copied() {
    for head in ["SEND\ncontent-length:5\n\n", "SEND\n\n"] {
        let mut input = Bytes::from([head.as_bytes(), b"hello\0rest"].concat());
        let start = input.as_ptr() as usize + head.len();
        let frame = decoder().decode(&mut input).unwrap().unwrap();
        assert_eq!(frame.body.as_ptr() as usize, start);
        assert_eq!(&frame.body[..], b"hello");
        assert_eq!(&input[..], b"rest");
    }
}

#[test]
fn no_memory_is_reserved_for_a_claim() {
    let limits = Limits {
        max_frame_size: 1 << 30,
        ..LIMITS
    };
    let mut decoder = Decoder::new(limits);
    let mut input = Bytes::from_static(b"SEND\ncontent-length:1000000000\n\n0123456789");
    assert_eq!(decoder.decode(&mut input), Ok(None));
    assert!(buffered(&decoder) < 64, "{}", buffered(&decoder));
}

#[test]
fn the_buffer_never_grows_beyond_the_limit() {
    // No power of two: doubling alone would pass it.
    let limits = Limits {
        max_frame_size: 3000,
        ..LIMITS
    };
    for head in ["SEND\ncontent-length:2900\n\n", "SEND\n\n"] {
        let mut decoder = Decoder::new(limits);
        let mut stream = head.as_bytes().to_vec();
        stream.resize(head.len() + 2900, b'x');
        for byte in stream {
            let answer = decoder.decode(&mut Bytes::copy_from_slice(&[byte]));
            assert_eq!(answer, Ok(None));
            assert!(buffered(&decoder) <= limits.max_frame_size);
        }
        assert_eq!(
            decoder
                .decode(&mut Bytes::from_static(b"\0"))
                .unwrap()
                .unwrap()
                .body
                .len(),
            2900
        );
    }
}

/// Counts bytes scanned, copied and parsed, not time: each byte of a stream is scanned once,
/// copied once, moved twice at most by the doubling of its buffer, and those of a head parsed once.
#[test]
fn work_is_linear_however_the_stream_is_cut() {
    let limits = Limits {
        max_frame_size: 1 << 20,
        max_headers: 1000,
        max_header_size: 1000,
    };
    let mut head = b"SEND\n".to_vec();
    for _ in 0..200 {
        head.extend_from_slice(b"name:a value of some length that fills the head\n");
    }
    let length = 100_000;
    let counted = [&head[..], format!("content-length:{length}\n\n").as_bytes()].concat();
    let searched = [&head[..], b"\n"].concat();
    for head in [counted, searched] {
        let mut stream = head;
        stream.resize(stream.len() + length, b'x');
        stream.push(0);
        for size in [1, 2, 7, 100, 1400, stream.len()] {
            work::take();
            assert_eq!(
                cut(&mut Decoder::new(limits), &stream, size).unwrap().len(),
                1
            );
            let work = work::take();
            assert!(
                work < 5 * stream.len(),
                "{work} for {} in {size}",
                stream.len()
            );
        }
    }
}

#[test]
fn what_is_between_frames_is_scanned_once_and_counts_to_no_limit() {
    let mut decoder = decoder();
    let beats = b"\n\r\n\0".repeat(10 * LIMITS.max_frame_size);
    assert_eq!(cut(&mut decoder, &beats, 1000), Ok(vec![]));
    assert_eq!(cut(&mut decoder, &beats, 1), Ok(vec![]));
    assert_eq!(buffered(&decoder), 0);
}

#[test]
fn an_error_is_repeated() {
    let mut decoder = decoder();
    let first = decoder
        .decode(&mut Bytes::from_static(b"WRONG\nreceipt:1\n\n\0"))
        .unwrap_err();
    assert_eq!(first.kind, DecodeErrorKind::UnknownCommand("WRONG".into()));
    assert_eq!(first.receipt.as_deref(), Some("1"));
    for input in [&b"SEND\n\n\0"[..], b"", b"\n"] {
        assert_eq!(
            decoder.decode(&mut Bytes::from_static(input)),
            Err(first.clone())
        );
    }
}

#[test]
fn version_and_limits_hold_from_the_next_head_on() {
    let mut decoder = decoder();
    decoder.set_version(Version::V1_1);
    assert!(
        decoder
            .decode(&mut Bytes::from_static(b"SEND\na:\\"))
            .unwrap()
            .is_none()
    );
    decoder.set_version(Version::V1_2);
    let frame = decoder
        .decode(&mut Bytes::from_static(b"r\n\n\0"))
        .unwrap()
        .unwrap();
    assert_eq!(frame.header("a"), Some("\r"));

    decoder.set_limits(Limits {
        max_headers: 0,
        ..LIMITS
    });
    let error = decoder
        .decode(&mut Bytes::from_static(b"SEND\na:b\n\n\0"))
        .unwrap_err();
    assert_eq!(error.kind, DecodeErrorKind::TooManyHeaders { limit: 0 });
}

#[test]
fn debug_shows_no_secret() {
    let mut decoder = decoder();
    let mut input = Bytes::from_static(b"CONNECT\npasscode:secret\n");
    assert_eq!(decoder.decode(&mut input), Ok(None));
    let shown = format!("{decoder:?}");
    assert!(
        !shown.contains("secret") && shown.contains("buffered: 24"),
        "{shown}"
    );
}

proptest::proptest! {
    /// From any bytes, in any pieces, no more is buffered than a frame may take.
    #[test]
    fn no_stream_buffers_more_than_the_limit(
        head in "(SEND|ACK|CONNECT|)\n(a:b\n|content-length:[0-9]{1,3}\n|x|\\\\){0,8}\n{0,2}",
        tail in "[a-z:\n]{0,300}",
        size in 1_usize..80,
    ) {
        let limits = Limits { max_frame_size: 100, max_headers: 6, max_header_size: 50 };
        let mut decoder = Decoder::new(limits);
        for piece in [head, tail].concat().as_bytes().chunks(size) {
            let mut input = Bytes::copy_from_slice(piece);
            while let Ok(Some(_)) = decoder.decode(&mut input) {}
            proptest::prop_assert!(buffered(&decoder) <= limits.max_frame_size);
        }
    }
}

/// A caller that reads on has to know how much room it needs.
#[test]
fn an_unfinished_frame_says_how_much_it_is_and_may_be() {
    let mut decoder = decoder();
    let mut feed = |bytes: &'static [u8]| {
        let frame = decoder.decode(&mut Bytes::from_static(bytes)).unwrap();
        (frame.is_some(), decoder.unfinished())
    };
    assert_eq!(feed(b"\n"), (false, (0, 0)));
    assert_eq!(feed(b"SEND\n"), (false, (5, LIMITS.max_frame_size)));
    let (is_whole, (received, most)) = feed(b"content-length:1000\n\n0123456789");
    assert!(!is_whole);
    // Its headers take memory, too.
    assert!((10..200).contains(&received), "{received}");
    assert_eq!(most - received, 990);
    assert!(!feed(&[b'x'; 990]).0);
    assert_eq!(feed(b"\0"), (true, (0, 0)));
    // Without a length, it may be as long as a frame may.
    let (_, (_, most)) = feed(b"SEND\n\nx");
    assert!(most > LIMITS.max_frame_size / 2);
    assert_eq!(feed(b"\0"), (true, (0, 0)));
}
