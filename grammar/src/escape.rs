//! Header escapes on the way out (STOMP 1.2, "Value Encoding"); `head` undoes them.

use crate::Version;

/// U+FFFD, which stands for a NUL: many clients end the frame at one, wherever it is.
const NUL: &[u8] = "\u{fffd}".as_bytes();

/// Appends the value of a header to `out`, escaped as `version` asks.
///
/// 1.0 has no escapes: line ends become blanks there, since a header that cannot be carried must
/// not become two. 1.1 has no escape for CR, and carries it as it stands, as its grammar says.
pub(crate) fn escape_value(out: &mut Vec<u8>, version: Version, text: &str) {
    escape_into(out, text, |byte| match (version, byte) {
        (_, 0) => NUL,
        (Version::V1_0, b'\n' | b'\r') => b" ",
        (Version::V1_0, b':') => b":",
        (Version::V1_0, _) => b"\\",
        (_, b'\n') => b"\\n",
        (_, b':') => b"\\c",
        (_, b'\\') => b"\\\\",
        (Version::V1_1, _) => b"\r",
        (Version::V1_2, _) => b"\\r",
    });
}

/// Appends the name of a header. In 1.0, a character that would end the name becomes an
/// underscore: not a blank, which the peer may trim, and so take one header for another (`a:b` or
/// `a\n` for `a`).
pub(crate) fn escape_name(out: &mut Vec<u8>, version: Version, text: &str) {
    if version == Version::V1_0 {
        escape_into(out, text, |byte| match byte {
            0 => NUL,
            b'\\' => b"\\",
            _ => b"_",
        });
    } else {
        escape_value(out, version, text);
    }
}

/// Appends `text`, with the bytes that are special in any version replaced.
fn escape_into(out: &mut Vec<u8>, text: &str, replace: impl Fn(u8) -> &'static [u8]) {
    let mut rest = text.as_bytes();
    // Nearly all text holds nothing special. Asking that first, without a way out of the loop,
    // compiles to a few vector instructions.
    if !rest.iter().fold(false, |any, &byte| any | is_special(byte)) {
        out.extend_from_slice(rest);
        return;
    }
    while let Some(at) = rest.iter().position(|&byte| is_special(byte)) {
        let (plain, special) = rest.split_at(at);
        out.extend_from_slice(plain);
        let Some((&byte, after)) = special.split_first() else {
            return;
        };
        out.extend_from_slice(replace(byte));
        rest = after;
    }
    out.extend_from_slice(rest);
}

const fn is_special(byte: u8) -> bool {
    matches!(byte, b'\n' | b'\r' | b':' | b'\\' | 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(version: Version, text: &str) -> String {
        let mut out = b"<".to_vec();
        escape_value(&mut out, version, text);
        String::from_utf8(out).unwrap()
    }

    fn name(version: Version, text: &str) -> String {
        let mut out = b"<".to_vec();
        escape_name(&mut out, version, text);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn plain_text_stays_in_every_version() {
        for version in Version::ALL {
            for text in ["", "a", " /topic/ä €\t ", &"x".repeat(100)] {
                assert_eq!(value(version, text), format!("<{text}"));
                assert_eq!(name(version, text), format!("<{text}"));
            }
        }
    }

    #[test]
    fn special_bytes_by_version() {
        let text = "\\a:b\nc\rd\\";
        assert_eq!(value(Version::V1_0, text), "<\\a:b c d\\");
        assert_eq!(value(Version::V1_1, text), "<\\\\a\\cb\\nc\rd\\\\");
        assert_eq!(value(Version::V1_2, text), "<\\\\a\\cb\\nc\\rd\\\\");
        assert_eq!(name(Version::V1_0, text), "<\\a_b_c_d\\");
        assert_eq!(name(Version::V1_1, text), "<\\\\a\\cb\\nc\rd\\\\");
        assert_eq!(name(Version::V1_2, text), "<\\\\a\\cb\\nc\\rd\\\\");
    }

    #[test]
    fn a_nul_is_never_written() {
        for version in Version::ALL {
            assert_eq!(value(version, "a\0b"), "<a\u{fffd}b");
            assert_eq!(name(version, "a\0b"), "<a\u{fffd}b");
        }
    }

    #[test]
    fn a_special_byte_is_found_at_every_place() {
        for at in 0..70 {
            let text = format!("{}:{}", "x".repeat(at), "y".repeat(69 - at));
            assert_eq!(
                value(Version::V1_2, &text),
                format!("<{}", text.replace(':', "\\c"))
            );
        }
    }
}
