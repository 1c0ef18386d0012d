//! Runs the conformance vectors (`vectors/*.json`; README.md describes them) whole, byte by byte,
//! and cut at every two places.
#![allow(clippy::panic, clippy::unwrap_used, reason = "tests fail by it")]

use std::{collections::BTreeSet, fs, path::Path};

use bytes::Bytes;
use serde::Deserialize;
use stomp_grammar::{DecodeError, Decoder, Frame, Limits, Version};

/// Beyond this length, not every pair of cuts is tried, but as many pairs.
const ALL_CUTS_UP_TO: usize = 120;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(rename = "about")]
    _about: String,
    vectors: Vec<Vector>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vector {
    name: String,
    rules: BTreeSet<u8>,
    versions: Vec<String>,
    #[serde(default, rename = "note")]
    _note: Option<String>,
    #[serde(default)]
    limits: Option<WireLimits>,
    stream: Octets,
    frames: Vec<WireFrame>,
    #[serde(default)]
    end: Option<End>,
    #[serde(default)]
    error: Option<WireError>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(deny_unknown_fields)]
struct WireLimits {
    max_frame_size: usize,
    max_headers: usize,
    max_header_size: usize,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Octets {
    Text(String),
    Hex { hex: String },
    Repeat { repeat: Box<Self>, times: usize },
    Parts(Vec<Self>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WireFrame {
    command: String,
    headers: Vec<(String, String)>,
    body: Octets,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "lowercase")]
enum End {
    Between,
    Within,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WireError {
    code: String,
    receipt: Option<String>,
    #[serde(default)]
    says: Option<String>,
}

/// What came out of a stream.
#[derive(PartialEq, Debug)]
struct Outcome {
    frames: Vec<Frame>,
    error: Option<DecodeError>,
}

impl Octets {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Text(text) => text.clone().into_bytes(),
            Self::Hex { hex } => hex
                .as_bytes()
                .chunks(2)
                .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
                .collect(),
            Self::Repeat { repeat, times } => repeat.bytes().repeat(*times),
            Self::Parts(parts) => parts.iter().flat_map(Self::bytes).collect(),
        }
    }
}

impl Vector {
    fn decoder(&self, version: Version) -> Decoder {
        let limits = self.limits.unwrap_or(WireLimits {
            max_frame_size: 65_536,
            max_headers: 100,
            max_header_size: 4_096,
        });
        let mut decoder = Decoder::new(Limits {
            max_frame_size: limits.max_frame_size,
            max_headers: limits.max_headers,
            max_header_size: limits.max_header_size,
        });
        decoder.set_version(version);
        decoder
    }

    fn check(&self, version: Version, outcome: &Outcome, decoder: Decoder, how: &str) {
        let name = format!("{} ({version}, {how})", self.name);
        assert_eq!(
            outcome.frames.len(),
            self.frames.len(),
            "{name}: frames; {outcome:?}"
        );
        for (frame, expected) in outcome.frames.iter().zip(&self.frames) {
            assert_eq!(frame.command.as_str(), expected.command, "{name}");
            let headers: Vec<_> = frame
                .headers
                .iter()
                .map(|(key, value)| (key.into(), value.into()))
                .collect();
            assert_eq!(headers, expected.headers, "{name}");
            for (key, _) in &expected.headers {
                let first = expected.headers.iter().find(|(other, _)| other == key);
                assert_eq!(
                    frame.header(key),
                    first.map(|(_, value)| value.as_str()),
                    "{name}"
                );
            }
            assert_eq!(&frame.body[..], expected.body.bytes(), "{name}");
        }
        match (&outcome.error, &self.error) {
            (Some(error), Some(expected)) => {
                assert_eq!(error.kind.code(), expected.code, "{name}");
                assert_eq!(
                    error.receipt.as_deref(),
                    expected.receipt.as_deref(),
                    "{name}"
                );
                let big = ["too-long", "too-many", "too-big"]
                    .iter()
                    .any(|words| expected.code.contains(words));
                assert_eq!(error.is_too_big(), big, "{name}");
                if let Some(says) = &expected.says {
                    assert_eq!(&error.to_string(), says, "{name}");
                }
            }
            (None, None) => {
                let end = if is_between(decoder) {
                    End::Between
                } else {
                    End::Within
                };
                assert_eq!(Some(end), self.end, "{name}");
            }
            (error, _) => panic!("{name}: {error:?}"),
        }
    }
}

/// A decoder is between frames if a frame can start now.
fn is_between(mut decoder: Decoder) -> bool {
    let large = 1 << 20;
    decoder.set_limits(Limits {
        max_frame_size: large,
        max_headers: large,
        max_header_size: large,
    });
    let answer = decoder.decode(&mut Bytes::from_static(b"DISCONNECT\nprobe:1\n\n\0"));
    matches!(answer, Ok(Some(frame)) if frame.header("probe") == Some("1")
        && frame.command.as_str() == "DISCONNECT")
}

fn run<'a>(decoder: &mut Decoder, pieces: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
    let mut outcome = Outcome {
        frames: Vec::new(),
        error: None,
    };
    for piece in pieces {
        let mut input = Bytes::copy_from_slice(piece);
        loop {
            match decoder.decode(&mut input) {
                Ok(Some(frame)) => outcome.frames.push(frame),
                Ok(None) => break,
                Err(error) => {
                    outcome.error = Some(error);
                    return outcome;
                }
            }
        }
        assert!(input.is_empty(), "None, but input is left");
    }
    outcome
}

fn run_vector(vector: &Vector) {
    assert!(
        vector.end.is_some() != vector.error.is_some(),
        "{}: end or error",
        vector.name
    );
    let stream = vector.stream.bytes();
    for version in &vector.versions {
        let version = Version::ALL
            .into_iter()
            .find(|v| v.as_str() == version)
            .unwrap();

        let mut decoder = vector.decoder(version);
        let whole = run(&mut decoder, [&stream[..]]);
        vector.check(version, &whole, decoder, "whole");

        let mut decoder = vector.decoder(version);
        let single = run(&mut decoder, stream.chunks(1));
        vector.check(version, &single, decoder, "byte by byte");

        let step = stream.len() / ALL_CUTS_UP_TO + 1;
        for first in (0..=stream.len()).step_by(step) {
            for second in (first..=stream.len()).step_by(step) {
                let pieces = [&stream[..first], &stream[first..second], &stream[second..]];
                let outcome = run(&mut vector.decoder(version), pieces);
                assert_eq!(
                    outcome, whole,
                    "{} cut at {first} and {second}",
                    vector.name
                );
            }
        }
    }
}

fn run_file(name: &str) {
    for vector in read(name) {
        run_vector(&vector);
    }
}

fn read(name: &str) -> Vec<Vector> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("vectors")
        .join(name);
    let file: File = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    file.vectors
}

const FILES: [&str; 6] = [
    "bodies.json",
    "connect.json",
    "escapes.json",
    "framing.json",
    "headers.json",
    "limits.json",
];

#[test]
fn bodies() {
    run_file("bodies.json");
}

#[test]
fn connect() {
    run_file("connect.json");
}

#[test]
fn escapes() {
    run_file("escapes.json");
}

#[test]
fn framing() {
    run_file("framing.json");
}

#[test]
fn headers() {
    run_file("headers.json");
}

#[test]
fn limits() {
    run_file("limits.json");
}

/// A file or a rule that was forgotten fails here.
#[test]
fn no_file_and_no_rule_is_left_out() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors");
    let mut found: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    found.sort();
    assert_eq!(found, FILES);

    let vectors: Vec<_> = FILES.iter().flat_map(|name| read(name)).collect();
    let names: BTreeSet<_> = vectors.iter().map(|vector| &vector.name).collect();
    assert_eq!(names.len(), vectors.len(), "two vectors have one name");
    assert!(vectors.len() >= 80);
    let rules: BTreeSet<_> = vectors
        .iter()
        .flat_map(|vector| &vector.rules)
        .copied()
        .collect();
    assert!(
        rules.is_superset(&BTreeSet::from([1, 2, 3, 4, 5, 6, 7, 8, 9, 18, 21])),
        "{rules:?}"
    );
}
