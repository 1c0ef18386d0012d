//! The encoded end of a MESSAGE frame, which all its receivers share.

use std::sync::OnceLock;

use stomp_grammar::Version;

/// One of a message, encoded.
#[derive(Clone, Debug)]
pub struct Tail {
    /// The end of the frame.
    pub bytes: Box<[u8]>,
    /// Whether its body is UTF-8.
    pub is_text: bool,
}

/// The tails of a body: empty until one is asked for.
#[derive(Clone, Debug, Default)]
pub(super) struct Tails(OnceLock<Encoded>);

#[derive(Clone, Debug)]
enum Encoded {
    /// Nothing in it needs an escape: the same bytes in every version.
    Plain(Tail),
    /// One for each version, when it is asked for.
    Escaped(Box<[OnceLock<Tail>; Version::ALL.len()]>),
}

impl Tails {
    /// The tail of a version. `encode` gives it, and whether a header needs escapes in some version.
    pub(super) fn get(&self, version: Version, encode: impl Fn() -> (Tail, bool)) -> &Tail {
        let encoded = self.0.get_or_init(|| {
            let (tail, escapes) = encode();
            if escapes {
                let tails: Box<[OnceLock<Tail>; Version::ALL.len()]> = Box::default();
                // It is empty.
                let _ = of_version(&tails, version).set(tail);
                Encoded::Escaped(tails)
            } else {
                Encoded::Plain(tail)
            }
        });
        match encoded {
            Encoded::Plain(tail) => tail,
            Encoded::Escaped(tails) => of_version(tails, version).get_or_init(|| encode().0),
        }
    }
}

fn of_version<T>(each: &[T; Version::ALL.len()], version: Version) -> &T {
    let [v1_0, v1_1, v1_2] = each;
    match version {
        Version::V1_0 => v1_0,
        Version::V1_1 => v1_1,
        Version::V1_2 => v1_2,
    }
}
