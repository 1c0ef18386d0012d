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
    /// The same bytes in every version.
    One(Tail),
    /// Each when it is asked for, at the first version that has it.
    Several(Forms, Box<[OnceLock<Tail>; Version::ALL.len()]>),
}

/// How many forms a tail has, by the bytes in its headers: each is kept with the whole body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Forms {
    /// Nothing is escaped.
    #[default]
    One,
    /// Of 1.0, which has no escapes, and of 1.1 and 1.2.
    Two,
    /// Of each version: 1.1 has no escape for CR.
    Three,
}

impl Forms {
    /// Those that a tail has because of this byte in a header. (A NUL is replaced in every version.)
    pub(super) const fn of(byte: u8) -> Self {
        match byte {
            b'\r' => Self::Three,
            b'\n' | b':' | b'\\' => Self::Two,
            _ => Self::One,
        }
    }

    pub(super) const fn count(self) -> usize {
        match self {
            Self::One => 1,
            Self::Two => 2,
            Self::Three => 3,
        }
    }

    /// The first version of the same form.
    const fn first_like(self, version: Version) -> Version {
        match (self, version) {
            (Self::One, _) => Version::V1_0,
            (Self::Two, Version::V1_2) => Version::V1_1,
            (Self::Two | Self::Three, version) => version,
        }
    }
}

impl Tails {
    /// The tail of a version. `encode` gives it, and how many forms there are.
    pub(super) fn get(&self, version: Version, encode: impl Fn() -> (Tail, Forms)) -> &Tail {
        let encoded = self.0.get_or_init(|| {
            let (tail, forms) = encode();
            if forms == Forms::One {
                return Encoded::One(tail);
            }
            let tails: Box<[OnceLock<Tail>; Version::ALL.len()]> = Box::default();
            // It is empty.
            let _ = of_version(&tails, forms.first_like(version)).set(tail);
            Encoded::Several(forms, tails)
        });
        match encoded {
            Encoded::One(tail) => tail,
            Encoded::Several(forms, tails) => {
                let tail = of_version(tails, forms.first_like(version));
                tail.get_or_init(|| encode().0)
            }
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
