//! Header escapes (STOMP 1.2, "Value Encoding").

use crate::Version;

/// Appends `text` to `out`, escaped as `version` asks. 1.0 has no escapes: there, characters
/// that would break the frame (LF, and CR) are replaced by a blank, since a header that cannot be
/// carried must not become two.
pub(crate) fn escape_into(out: &mut Vec<u8>, version: Version, text: &str) {
    let mut rest = text.as_bytes();
    while let Some(at) = rest
        .iter()
        .position(|&b| matches!(b, b'\n' | b'\r' | b':' | b'\\'))
    {
        let (plain, special) = rest.split_at(at);
        out.extend_from_slice(plain);
        let Some((&byte, after)) = special.split_first() else {
            return;
        };
        rest = after;
        match (version, byte) {
            (Version::V1_0, b'\n' | b'\r') => out.push(b' '),
            (Version::V1_0, other) => out.push(other),
            (_, b'\n') => out.extend_from_slice(b"\\n"),
            (_, b':') => out.extend_from_slice(b"\\c"),
            (_, b'\\') => out.extend_from_slice(b"\\\\"),
            (Version::V1_2, _) => out.extend_from_slice(b"\\r"),
            // 1.1 has no escape for CR and does not strip it either.
            (Version::V1_1, other) => out.push(other),
        }
    }
    out.extend_from_slice(rest);
}
