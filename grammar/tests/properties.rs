//! What holds for every frame and every stream.

use bytes::Bytes;
use proptest::{collection::vec, prelude::*};
use stomp_grammar::{Command, DecodeError, Decoder, Frame, Headers, Limits, Version, encode};

const LIMITS: Limits = Limits {
    max_frame_size: 65_536,
    max_headers: 100,
    max_header_size: 4_096,
};

/// Small enough that arbitrary streams pass them.
const TIGHT: Limits = Limits {
    max_frame_size: 60,
    max_headers: 3,
    max_header_size: 20,
};

fn version() -> impl Strategy<Value = Version> {
    prop::sample::select(&Version::ALL[..])
}

/// Text in which what the grammar cares for is frequent.
fn text() -> impl Strategy<Value = String> {
    let char = prop_oneof![
        3 => prop::sample::select(&['\n', '\r', ':', '\\', ' ', '\t', '\0', 'n', 'c', 'r'][..]),
        3 => prop::char::range('a', 'z'),
        1 => any::<char>(),
    ];
    vec(char, 0..12).prop_map(String::from_iter)
}

fn name() -> impl Strategy<Value = String> {
    // A letter within: padding alone would be an empty name in 1.0.
    (text(), prop::char::range('a', 'z'), text()).prop_map(|(a, b, c)| format!("{a}{b}{c}"))
}

fn frame() -> impl Strategy<Value = Frame> {
    let header = prop_oneof![
        6 => (name(), text()),
        1 => Just(("accept-version".into(), "1.1,1.2".into())),
        1 => text().prop_map(|value| ("receipt".into(), value)),
    ];
    let command = prop::sample::select(&Command::ALL[..]);
    (command, vec(header, 0..6), vec(any::<u8>(), 0..60)).prop_map(|(command, headers, body)| {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let body = if command.has_body() {
            body.into()
        } else {
            Bytes::new()
        };
        Frame {
            command,
            headers,
            body,
        }
    })
}

/// The frame as it comes back, after what a version cannot carry was replaced.
fn carried(frame: &Frame, version: Version) -> Frame {
    let verbatim = !frame.command.is_escaped() || version == Version::V1_0;
    let connect = matches!(frame.command, Command::Connect | Command::Stomp);
    let offer = Version::negotiate(frame.header("accept-version"));
    let padded = if connect { offer } else { Some(version) } == Some(Version::V1_0);
    let mut headers = Headers::default();
    for (name, value) in frame.headers.iter() {
        let (mut name, mut value) = (
            name.replace('\0', "\u{fffd}"),
            value.replace('\0', "\u{fffd}"),
        );
        if verbatim {
            name = name.replace(['\n', '\r', ':'], "_");
            value = value.replace(['\n', '\r'], " ");
        } else if version == Version::V1_1 {
            // Sent as it stands, and taken for a part of the line's end.
            value = value.strip_suffix('\r').map(Into::into).unwrap_or(value);
        }
        let blanks: &[char] = if padded { &[' ', '\t'] } else { &[] };
        headers.push(name.trim_matches(blanks), value.trim_matches(blanks));
    }
    if !frame.body.is_empty() {
        headers.push("content-length", &frame.body.len().to_string());
    }
    Frame {
        command: frame.command,
        headers,
        body: frame.body.clone(),
    }
}

/// Streams that look like STOMP often enough to get deep into the decoder.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let tokens = [
        "SEND",
        "CONNECT",
        "MESSAGE",
        "ACK",
        "WRONG",
        "\n",
        "\n",
        "\n\n",
        "\r\n",
        "\r",
        "\0",
        "\0",
        ":",
        "a:b\n",
        "\\",
        "\\n",
        "\\r",
        "\\t",
        "content-length:",
        "content-length:3\n",
        "3",
        "receipt:",
        "receipt:1\n",
        "abc",
        " ",
        "é",
        "SEND\n\n",
        "SEND\ncontent-length:2\n\nhi\0",
    ];
    let token = prop_oneof![
        10 => prop::sample::select(tokens.map(|token| token.as_bytes().to_vec()).to_vec()),
        1 => vec(any::<u8>(), 1..3),
        1 => vec(Just(b'x'), 10..30),
    ];
    vec(token, 0..24).prop_map(|tokens| tokens.concat())
}

fn decode(
    decoder: &mut Decoder,
    stream: &[u8],
    cuts: &[prop::sample::Index],
) -> (Vec<Frame>, Option<DecodeError>) {
    let mut places: Vec<_> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
    places.push(stream.len());
    places.sort_unstable();
    let (mut frames, mut start) = (Vec::new(), 0);
    for place in places {
        let mut input = Bytes::copy_from_slice(&stream[start..place]);
        start = place;
        loop {
            match decoder.decode(&mut input) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
        assert!(input.is_empty());
    }
    (frames, None)
}

fn decoder(version: Version, limits: Limits) -> Decoder {
    let mut decoder = Decoder::new(limits);
    decoder.set_version(version);
    decoder
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Frames come back as they were, with heart-beats and NULs between them, however the stream is
    /// cut.
    #[test]
    fn round_trip(
        version in version(),
        frames in vec((frame(), "(\r?\n|\0){0,2}"), 0..4),
        cuts in vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let mut stream = Vec::new();
        let mut expected = Vec::new();
        for (frame, between) in &frames {
            encode::frame(&mut stream, version, frame);
            stream.extend_from_slice(between.as_bytes());
            expected.push(carried(frame, version));
        }
        let (decoded, error) = decode(&mut decoder(version, LIMITS), &stream, &cuts);
        prop_assert_eq!(error, None);
        let show = |frames: &[Frame]| -> Vec<Vec<(String, String)>> {
            let own = |(a, b): (&str, &str)| (a.to_owned(), b.to_owned());
            frames.iter().map(|frame| frame.headers.iter().map(own).collect()).collect()
        };
        prop_assert_eq!(show(&decoded), show(&expected));
        prop_assert_eq!(decoded, expected);
    }

    /// Frames, errors and receipts do not depend on how the stream was cut; nothing panics.
    #[test]
    fn cuts_do_not_matter(
        version in version(),
        tight in any::<bool>(),
        stream in stream(),
        cuts in vec(any::<prop::sample::Index>(), 1..8),
    ) {
        let limits = if tight { TIGHT } else { LIMITS };
        let whole = decode(&mut decoder(version, limits), &stream, &[]);
        let cut = decode(&mut decoder(version, limits), &stream, &cuts);
        prop_assert_eq!(&cut, &whole);
        let mut single = decoder(version, limits);
        let mut outcome = (Vec::new(), None);
        for byte in stream.chunks(1) {
            let (frames, error) = decode(&mut single, byte, &[]);
            outcome.0.extend(frames);
            if error.is_some() {
                outcome.1 = error;
                break;
            }
        }
        prop_assert_eq!(&outcome, &whole);
    }

    /// What was decoded within limits keeps them, and is text that can be sent on.
    #[test]
    fn decoded_frames_keep_the_limits(version in version(), stream in stream()) {
        let (frames, error) = decode(&mut decoder(version, TIGHT), &stream, &[]);
        for frame in &frames {
            prop_assert!(frame.headers.len() <= TIGHT.max_headers);
            prop_assert!(frame.body.is_empty() || frame.command.has_body());
            let size: usize = frame.headers.iter().map(|(a, b)| a.len() + b.len() + 2).sum();
            prop_assert!(size + frame.body.len() <= TIGHT.max_frame_size);
            for (name, value) in frame.headers.iter() {
                prop_assert!(!name.is_empty() && name.len() + value.len() < TIGHT.max_header_size);
            }
        }
        if let Some(error) = error {
            let words = error.to_string();
            prop_assert!(!words.is_empty() && !words.contains(char::is_control), "{:?}", words);
        }
    }

    #[test]
    fn bytes_never_panic(
        version in version(),
        bytes in vec(any::<u8>(), 0..400),
        cuts in vec(any::<prop::sample::Index>(), 0..4),
    ) {
        let mut decoder = decoder(version, TIGHT);
        let (_, first) = decode(&mut decoder, &bytes, &cuts);
        if let Some(first) = first {
            prop_assert_eq!(decoder.decode(&mut Bytes::from_static(b"BEGIN\n\n\0")), Err(first));
        }
    }
}
