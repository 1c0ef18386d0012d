//! A set of bytes, such as `[a-z]` (pure).

use std::fmt::Write as _;

/// A set of bytes.
#[derive(Clone)]
pub(super) struct Bytes([bool; 256]);

impl Bytes {
    pub(super) fn none() -> Self {
        Self([false; 256])
    }

    pub(super) fn of(is_in: impl Fn(u8) -> bool) -> Self {
        let mut bytes = Self::none();
        for byte in 0..=u8::MAX {
            if is_in(byte) {
                bytes.add(byte);
            }
        }
        bytes
    }

    /// The set of `\d`, `\W` and so on, as Erlang reads them from version 28 on: letters are
    /// ASCII's alone. `None`: the letter stands for no set.
    pub(super) fn of_letter(letter: u8) -> Option<Self> {
        let set = match letter.to_ascii_lowercase() {
            b'd' => Self::of(|byte| byte.is_ascii_digit()),
            b'w' => Self::of(is_word),
            b's' => Self::of(is_space),
            b'h' => Self::of(|byte| matches!(byte, b'\t' | b' ' | 0xA0)),
            b'v' => Self::of(|byte| matches!(byte, b'\n'..=b'\r' | 0x85)),
            _ => return None,
        };
        Some(match letter.is_ascii_uppercase() {
            true => set.complement(),
            false => set,
        })
    }

    /// The set of `[:alpha:]` and so on. `None`: there is none of that name.
    pub(super) fn of_posix(name: &[u8]) -> Option<Self> {
        Some(match name {
            b"alpha" => Self::of(|byte| byte.is_ascii_alphabetic()),
            b"alnum" => Self::of(|byte| byte.is_ascii_alphanumeric()),
            b"ascii" => Self::of(|byte| byte.is_ascii()),
            b"blank" => Self::of(|byte| matches!(byte, b' ' | b'\t')),
            b"cntrl" => Self::of(|byte| byte.is_ascii_control()),
            b"digit" => Self::of(|byte| byte.is_ascii_digit()),
            b"graph" => Self::of(|byte| byte.is_ascii_graphic()),
            b"lower" => Self::of(|byte| byte.is_ascii_lowercase()),
            b"print" => Self::of(|byte| byte == b' ' || byte.is_ascii_graphic()),
            b"punct" => Self::of(|byte| byte.is_ascii_punctuation()),
            b"space" => Self::of(is_space),
            b"upper" => Self::of(|byte| byte.is_ascii_uppercase()),
            b"word" => Self::of(is_word),
            b"xdigit" => Self::of(|byte| byte.is_ascii_hexdigit()),
            _ => return None,
        })
    }

    pub(super) fn add(&mut self, byte: u8) {
        if let Some(place) = self.0.get_mut(usize::from(byte)) {
            *place = true;
        }
    }

    pub(super) fn add_all(&mut self, other: &Self) {
        for (place, is_in) in self.0.iter_mut().zip(other.0) {
            *place |= is_in;
        }
    }

    pub(super) fn complement(mut self) -> Self {
        for place in &mut self.0 {
            *place = !*place;
        }
        self
    }

    /// With the other case of each letter.
    pub(super) fn in_any_case(self) -> Self {
        Self::of(|byte| {
            let has = |byte: u8| self.0.get(usize::from(byte)) == Some(&true);
            has(byte.to_ascii_lowercase()) || has(byte.to_ascii_uppercase())
        })
    }

    /// Writes the set as a class.
    pub(super) fn write(&self, to: &mut String) {
        let mut ranges = Vec::new();
        for (byte, _) in (0..=u8::MAX).zip(self.0).filter(|(_, is_in)| *is_in) {
            match ranges.last_mut() {
                Some((_, last)) if u8::checked_add(*last, 1) == Some(byte) => *last = byte,
                _ => ranges.push((byte, byte)),
            }
        }
        if ranges.is_empty() {
            // Matches nothing: no byte is a character of such a number.
            to.push_str("[\\x{100}]");
            return;
        }
        to.push('[');
        for (first, last) in ranges {
            // Writing to a `String` cannot fail.
            let _ = write!(to, "\\x{{{first:x}}}-\\x{{{last:x}}}");
        }
        to.push(']');
    }
}

fn is_word(byte: u8) -> bool {
    byte == b'_' || byte.is_ascii_alphanumeric()
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b'\t'..=b'\r' | b' ')
}
