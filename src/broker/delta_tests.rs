use std::time::Instant;

use proptest::prelude::*;

use super::*;
use crate::broker::{
    delta::{LONGEST, MOST, SAVES},
    fossil,
};

const TOPICS: &str = "amq.topic";

fn message(body: impl Into<Vec<u8>>) -> Arc<Message> {
    let body: Vec<u8> = body.into();
    let message = Message::new(
        "prices".into(),
        "eur".into(),
        Properties::default(),
        body.into(),
    );
    Arc::new(message)
}

/// Two kilobytes of JSON: prices, of which ten have changed. That is a twentieth of the bytes.
fn prices(changed: bool) -> String {
    let row = |n: u32| {
        let price = match n % 6 {
            1 if changed => 987_654_321 - 1_357_911 * n,
            _ => 112_345_678 + 1_234_321 * n,
        };
        format!("{{\"id\":\"pair-{n:02}\",\"price\":{price}}}")
    };
    let rows: Vec<_> = (0..58).map(row).collect();
    format!("{{\"book\":[{}]}}", rows.join(","))
}

#[test]
fn a_small_change_of_two_kilobytes_saves_four_fifths() {
    let (base, next) = (message(prices(false)), message(prices(true)));
    let pairs = base.body.iter().zip(&next.body);
    let changed = pairs.filter(|(a, b)| a != b).count();
    let delta = next.delta_to(&base).unwrap();
    let whole = next.tail(Version::V1_2, TOPICS).bytes.len();
    let part = next.tail_of(&delta, Version::V1_2, TOPICS).bytes.len();
    println!(
        "of {} bytes {changed} changed: a delta of {}; the frames' tails take {whole} and {part}",
        next.body.len(),
        delta.body().len()
    );
    assert!((80..=110).contains(&changed), "{changed}");
    assert!(part * 5 <= whole, "{part} of {whole}");
    let made = fossil_delta::apply(&base.body, delta.body()).unwrap();
    assert_eq!(made, next.body);
    let tail = &next.tail_of(&delta, Version::V1_2, TOPICS).bytes;
    let tail = String::from_utf8(tail.to_vec()).unwrap();
    let length = format!("content-length:{}\n\n", delta.body().len());
    assert!(
        tail.starts_with("destination:/exchange/prices/eur\n"),
        "{tail}"
    );
    assert!(tail.contains(&length), "{tail}");
}

#[test]
fn it_is_made_once_for_all_at_the_same_base() {
    let (base, other, next) = (
        message(prices(false)),
        message(prices(false)),
        message(prices(true)),
    );
    let [one, two] = [&base, &base].map(|base| next.delta_to(base).unwrap());
    assert!(Arc::ptr_eq(&one, &two));
    let bytes = |delta: &Arc<Delta>| {
        let tail = next.tail_of(delta, Version::V1_2, TOPICS);
        tail.bytes.as_ptr()
    };
    assert_eq!(bytes(&one), bytes(&two));
    assert!(next.delta_to(&other).is_some());
    // A message keeps none of its bases, and few deltas.
    assert_eq!(Arc::strong_count(&base), 1);
    let bases: Vec<_> = (0..10).map(|_| message(prices(false))).collect();
    let made = bases.iter().filter(|base| next.delta_to(base).is_some());
    assert_eq!(made.count(), MOST - 2);
    assert!(next.delta_to(&base).is_some(), "it is still known");
}

#[test]
fn where_little_is_saved_the_message_goes_whole() {
    let different: String = prices(true).chars().rev().collect();
    let base = message(prices(false));
    for body in [different, "short".into(), "x".repeat(LONGEST + 1)] {
        assert!(message(body).delta_to(&base).is_none());
    }
    let long = message("x".repeat(LONGEST + 1));
    assert!(message(prices(true)).delta_to(&long).is_none());
    // Of a thousand bytes, so many stay.
    for (kept, is_delta) in [(150, false), (300, true)] {
        let part = |at: u32| (0..1_000 - kept).map(move |n: u32| (n * n + at * n + at) as u8);
        let same = vec![b'.'; usize::try_from(kept).unwrap()];
        let [base, next] = [3, 5].map(|at| message([same.clone(), part(at).collect()].concat()));
        assert_eq!(next.delta_to(&base).is_some(), is_delta, "{kept}");
    }
}

/// Bodies of the greatest length, of which other encoders compare many places for each byte.
#[test]
fn no_body_takes_long() {
    let zeros = vec![0; LONGEST];
    let every = |period: usize, value: u8| -> Vec<u8> {
        let at = |n| if n % period == period - 1 { value } else { 0 };
        (0..LONGEST).map(at).collect()
    };
    let slot = [
        0, 0, 0, 0, 0, 0, 0, 0, 128, 128, 128, 128, 128, 128, 128, 128,
    ]
    .repeat(1_024);
    for (name, base, body) in [
        ("slot", &zeros, slot),
        ("nines", &zeros, every(9, 1)),
        ("sixteens", &every(9, 1), every(16, 1)),
        ("zeros", &every(16, 1), zeros.clone()),
    ] {
        let started = Instant::now();
        let delta = fossil::encode(base, &body, usize::MAX).unwrap();
        let took = started.elapsed();
        println!("{name}: {took:?}, {} for {LONGEST} bytes", delta.len());
        assert!(took.as_millis() < 500, "{name}: {took:?}");
        assert_eq!(fossil_delta::apply(base, &delta).unwrap(), body);
    }
}

proptest! {
    /// Whatever the bodies: a delta gives the body back.
    #[test]
    fn a_delta_gives_the_body_back(
        base in prop::collection::vec(0..4_u8, 64..600),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..20),
        cut in any::<prop::sample::Index>(),
        more in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let mut body = base.clone();
        for (at, byte) in edits {
            let at = at.index(body.len());
            body[at] = byte;
        }
        body.truncate(64 + cut.index(body.len()));
        body.extend(more);
        let (base, next) = (message(base), message(body));
        let all = fossil::encode(&base.body, &next.body, usize::MAX).unwrap();
        prop_assert_eq!(fossil_delta::apply(&base.body, &all).unwrap(), next.body.to_vec());
        let delta = next.delta_to(&base);
        let most = next.body.len() - next.body.len() / SAVES;
        prop_assert_eq!(delta.is_some(), all.len() <= most);
        if let Some(delta) = delta {
            let made = fossil_delta::apply(&base.body, delta.body()).unwrap();
            prop_assert_eq!(made, next.body.to_vec());
        }
    }
}

/// Bodies, and their deltas in this crate's words, for decoders in other languages. With `BLESS=1` it
/// writes them.
#[test]
fn the_vectors_are_what_is_sent() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/js/deltas.json");
    let hex = |bytes: &[u8]| {
        bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    let text = "The price of one euro, in dollars; die Übersicht über Währungen. ".repeat(4);
    let noise = |seed: u32, length: u32| -> Vec<u8> {
        let byte = |n: u32| (n.wrapping_mul(2_654_435_761).wrapping_add(seed * 97) >> 13) as u8;
        (0..length).map(byte).collect()
    };
    let pairs: [(&str, Vec<u8>, Vec<u8>); 8] = [
        ("prices", prices(false).into(), prices(true).into()),
        ("the same", prices(true).into(), prices(true).into()),
        (
            "text in two bytes",
            text.clone().into(),
            text.replacen('ü', "ä", 1).into(),
        ),
        (
            "more at its end",
            text.clone().into(),
            format!("{text}and more").into(),
        ),
        (
            "less",
            text.clone().into(),
            text.as_bytes()[20..120].to_vec(),
        ),
        (
            "a turn",
            text.clone().into(),
            [&text.as_bytes()[100..], &text.as_bytes()[..100]].concat(),
        ),
        (
            "any bytes",
            noise(1, 501),
            [noise(1, 301), noise(2, 30), noise(1, 501)].concat(),
        ),
        (
            "zeros",
            vec![0; 1_500],
            [vec![0; 1_499], vec![255]].concat(),
        ),
    ];
    let rows = pairs.map(|(name, base, body)| {
        let (base, body) = (message(base), message(body));
        let delta = body
            .delta_to(&base)
            .unwrap_or_else(|| panic!("{name}: none"));
        let [base, body, delta] = [&*base.body, &*body.body, delta.body()].map(hex);
        format!(r#"{{"name":"{name}","base":"{base}","body":"{body}","delta":"{delta}"}}"#)
    });
    let made = format!("[\n{}\n]\n", rows.join(",\n"));
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(path, &made).unwrap();
    }
    let known = std::fs::read_to_string(path).unwrap();
    assert!(known == made, "BLESS=1 writes {path} anew");
}
