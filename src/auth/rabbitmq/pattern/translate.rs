//! PCRE's syntax into one that means the same to `fancy-regex` (pure).
//!
//! The output has only groups, alternatives, quantifiers, anchors, look-around, and classes of
//! characters, each of which stands for a byte. Flags, escapes and names of classes are worked out
//! here, so that neither library's own reading of them counts. What RabbitMQ's versions read
//! differently, and what is rare, is refused with its name.

use std::fmt::Write as _;

use super::{PatternError, bytes::Bytes};

/// Reads a pattern, and writes it anew.
pub(super) fn translate(text: &str) -> Result<String, PatternError> {
    let mut translator = Translator {
        rest: text.as_bytes(),
        out: String::with_capacity(text.len().saturating_mul(4)),
        flags: Flags::default(),
        outer: Vec::new(),
    };
    while let Some(byte) = translator.next() {
        translator.item(byte)?;
    }
    Ok(translator.out)
}

#[derive(Clone, Copy, Default)]
struct Flags {
    /// `i`: letters in any case.
    any_case: bool,
    /// `s`: a dot is a line feed, too.
    dot_all: bool,
}

struct Translator<'a> {
    rest: &'a [u8],
    out: String,
    flags: Flags,
    /// Those that count again after each group that is open.
    outer: Vec<Flags>,
}

const REWRITE: &str = ": write it without";

fn unsupported(what: impl Into<String>) -> PatternError {
    PatternError::Unsupported(what.into().into(), REWRITE)
}

impl Translator<'_> {
    fn next(&mut self) -> Option<u8> {
        let (byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*byte)
    }

    fn take(&mut self, text: &[u8]) -> bool {
        match self.rest.strip_prefix(text) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn item(&mut self, byte: u8) -> Result<(), PatternError> {
        match byte {
            b'\\' => self.escape(),
            b'[' => self.class(),
            b'(' => self.group(),
            b'{' => self.brace(),
            b')' => {
                self.flags = self.outer.pop().unwrap_or_default();
                self.out.push(')');
                Ok(())
            }
            b'.' => {
                let dot_all = self.flags.dot_all;
                Bytes::of(|byte| dot_all || byte != b'\n').write(&mut self.out);
                Ok(())
            }
            // A name that ends in a line feed is never matched: there, PCRE's `$` means more.
            b'^' | b'$' | b'|' | b'*' | b'+' | b'?' => {
                self.out.push(char::from(byte));
                Ok(())
            }
            byte => {
                self.literal(byte);
                Ok(())
            }
        }
    }

    fn literal(&mut self, byte: u8) {
        if self.flags.any_case && byte.is_ascii_alphabetic() {
            Bytes::of(|other| other.eq_ignore_ascii_case(&byte)).write(&mut self.out);
        } else if byte.is_ascii_alphanumeric() {
            self.out.push(char::from(byte));
        } else {
            // Writing to a `String` cannot fail.
            let _ = write!(self.out, "\\x{{{byte:x}}}");
        }
    }

    /// `{2}`, `{2,}`, `{2,3}`; else a brace is one.
    fn brace(&mut self) -> Result<(), PatternError> {
        let end = self.rest.iter().position(|byte| *byte == b'}');
        let inner = end.and_then(|end| self.rest.get(..end)).unwrap_or_default();
        let is_like = |byte: &u8| byte.is_ascii_digit() || matches!(byte, b',' | b' ' | b'\t');
        if inner.is_empty() || !inner.iter().all(is_like) {
            self.literal(b'{');
            return Ok(());
        }
        let shown = String::from_utf8_lossy(inner).into_owned();
        let (least, most) = shown.split_once(',').unwrap_or((&shown, ""));
        let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if least.is_empty() || !is_number(least) || !is_number(most) {
            let advice = ", for RabbitMQ's versions read it differently: write {0,n}, or \\{";
            return Err(PatternError::Unsupported(
                format!("{{{shown}}}").into(),
                advice,
            ));
        }
        let _ = write!(self.out, "{{{shown}}}");
        self.rest = self
            .rest
            .get(inner.len().saturating_add(1)..)
            .unwrap_or_default();
        Ok(())
    }

    fn group(&mut self) -> Result<(), PatternError> {
        if self.rest.first() == Some(&b'*') {
            return Err(unsupported("(*"));
        }
        let outer = self.flags;
        let open = if !self.take(b"?") {
            "("
        } else if self.take(b"#") {
            while let Some(byte) = self.next() {
                if byte == b')' {
                    return Ok(());
                }
            }
            return Err(PatternError::Unfinished("a comment"));
        } else if self.take(b":") {
            "(?:"
        } else if self.take(b"=") {
            "(?="
        } else if self.take(b"!") {
            "(?!"
        } else if self.take(b">") {
            "(?>"
        } else if self.take(b"<=") {
            "(?<="
        } else if self.take(b"<!") {
            "(?<!"
        } else if self.take(b"P<") || self.take(b"<") {
            self.name(b'>')?
        } else if self.take(b"'") {
            self.name(b'\'')?
        } else if self.set_flags()? {
            "(?:"
        } else {
            // Until the group's end that it stands in.
            return Ok(());
        };
        self.outer.push(outer);
        self.out.push_str(open);
        Ok(())
    }

    /// A group's name, which is of no use: nothing refers to it.
    fn name(&mut self, end: u8) -> Result<&'static str, PatternError> {
        while let Some(byte) = self.next() {
            if byte == end {
                return Ok("(");
            }
        }
        Err(PatternError::Unfinished("the name of a group"))
    }

    /// `i`, `s`, and `-` before those that are off. True if a group follows that they are for.
    fn set_flags(&mut self) -> Result<bool, PatternError> {
        let mut on = true;
        loop {
            match self.next() {
                Some(b'i') => self.flags.any_case = on,
                Some(b's') => self.flags.dot_all = on,
                Some(b'-') => on = false,
                Some(b':') => return Ok(true),
                Some(b')') => return Ok(false),
                Some(byte) => return Err(unsupported(format!("(?{}", char::from(byte)))),
                None => return Err(PatternError::Unfinished("a group's flags")),
            }
        }
    }

    fn escape(&mut self) -> Result<(), PatternError> {
        const WORD: &str = "[0-9A-Z_a-z]";
        let Some(byte) = self.next() else {
            return Err(PatternError::Unfinished("an escape"));
        };
        if let Some(set) = Bytes::of_letter(byte) {
            set.write(&mut self.out);
            return Ok(());
        }
        match byte {
            b'A' => self.out.push_str("\\A"),
            // As for `$`.
            b'z' | b'Z' => self.out.push_str("\\z"),
            b'N' => Bytes::of(|byte| byte != b'\n').write(&mut self.out),
            b'b' => {
                let _ = write!(self.out, "(?:(?<={WORD})(?!{WORD})|(?<!{WORD})(?={WORD}))");
            }
            b'B' => {
                let _ = write!(self.out, "(?:(?<={WORD})(?={WORD})|(?<!{WORD})(?!{WORD}))");
            }
            b'Q' => {
                while !self.rest.is_empty() && !self.take(b"\\E") {
                    if let Some(byte) = self.next() {
                        self.literal(byte);
                    }
                }
            }
            b'E' => {}
            b'1'..=b'9' => {
                let is_longer = self.rest.first().is_some_and(u8::is_ascii_digit);
                if is_longer || self.flags.any_case {
                    return Err(unsupported(format!("\\{}…", char::from(byte))));
                }
                let _ = write!(self.out, "(?:\\{})", char::from(byte));
            }
            byte => {
                let byte = self.escaped(byte)?;
                self.literal(byte);
            }
        }
        Ok(())
    }

    /// The one byte that an escape stands for, in a class and outside.
    fn escaped(&mut self, byte: u8) -> Result<u8, PatternError> {
        Ok(match byte {
            b't' => b'\t',
            b'n' => b'\n',
            b'r' => b'\r',
            b'f' => 0x0C,
            b'a' => 0x07,
            b'e' => 0x1B,
            b'x' => return self.hexadecimal(),
            byte if byte.is_ascii_alphanumeric() => {
                return Err(unsupported(format!("\\{}", char::from(byte))));
            }
            byte => byte,
        })
    }

    /// `\x2d` or `\x{2d}`.
    fn hexadecimal(&mut self) -> Result<u8, PatternError> {
        let is_braced = self.take(b"{");
        let mut digits = String::new();
        let most = if is_braced { 4 } else { 2 };
        while digits.len() < most
            && let Some(digit) = self.rest.first().filter(|byte| byte.is_ascii_hexdigit())
        {
            digits.push(char::from(*digit));
            self.next();
        }
        let is_whole = if is_braced {
            self.take(b"}")
        } else {
            digits.len() == 2
        };
        let byte = u8::from_str_radix(&digits, 16).ok().filter(|_| is_whole);
        byte.ok_or_else(|| unsupported("\\x"))
    }

    /// `[a-z_]`, `[^[:space:]]` and so on.
    fn class(&mut self) -> Result<(), PatternError> {
        const UNFINISHED: PatternError = PatternError::Unfinished("a class, which begins with [");
        let is_negated = self.take(b"^");
        let mut set = Bytes::none();
        let mut is_first = true;
        loop {
            let byte = self.next().ok_or(UNFINISHED)?;
            if byte == b']' && !is_first {
                break;
            }
            is_first = false;
            let Some(from) = self.class_item(byte, &mut set)? else {
                continue;
            };
            // A range, unless the class ends after the hyphen.
            if let [b'-', next, ..] = self.rest
                && *next != b']'
            {
                self.next();
                let next = self.next().ok_or(UNFINISHED)?;
                let to = self.class_item(next, &mut set)?;
                let Some(to) = to.filter(|to| from <= *to) else {
                    return Err(unsupported("a range in […] that is none"));
                };
                for byte in from..=to {
                    set.add(byte);
                }
            } else {
                set.add(from);
            }
        }
        if self.flags.any_case {
            set = set.in_any_case();
        }
        if is_negated {
            set = set.complement();
        }
        set.write(&mut self.out);
        Ok(())
    }

    /// The byte that an item of a class is, which may begin a range; `None`: it was a set, and is
    /// added.
    fn class_item(&mut self, byte: u8, set: &mut Bytes) -> Result<Option<u8>, PatternError> {
        match byte {
            b'[' if matches!(self.rest.first(), Some(b'.' | b'=')) => {
                // Only if it ends in the same way, but nobody writes the rest.
                Err(unsupported("[. or [= in a class"))
            }
            b'[' if self.rest.first() == Some(&b':') => {
                let end = self.rest.windows(2).position(|two| two == b":]");
                let name = end.and_then(|end| self.rest.get(1..end));
                let is_name = |name: &&[u8]| {
                    name.iter()
                        .all(|byte| byte.is_ascii_lowercase() || *byte == b'^')
                };
                let Some(name) = name.filter(is_name) else {
                    return Ok(Some(b'['));
                };
                let (is_negated, bare) = match name.strip_prefix(b"^") {
                    Some(bare) => (true, bare),
                    None => (false, name),
                };
                let named = Bytes::of_posix(bare)
                    .ok_or_else(|| unsupported(format!("[:{}:]", String::from_utf8_lossy(name))))?;
                set.add_all(&if is_negated {
                    named.complement()
                } else {
                    named
                });
                self.rest = self
                    .rest
                    .get(name.len().saturating_add(3)..)
                    .unwrap_or_default();
                Ok(None)
            }
            b'\\' => {
                let Some(byte) = self.next() else {
                    return Err(PatternError::Unfinished("an escape"));
                };
                if let Some(of_letter) = Bytes::of_letter(byte) {
                    set.add_all(&of_letter);
                    return Ok(None);
                }
                match byte {
                    b'b' => Ok(Some(0x08)),
                    byte => self.escaped(byte).map(Some),
                }
            }
            byte => Ok(Some(byte)),
        }
    }
}
