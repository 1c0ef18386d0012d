//! A place in a trace, as the header `traceparent` has it (W3C Trace Context, level 1). Pure.

use std::fmt;

/// A span that others may have as their parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TraceContext {
    pub(super) trace: [u8; 16],
    pub(super) span: [u8; 8],
    /// Whether its trace is recorded: then so are the spans below it.
    pub(super) is_sampled: bool,
}

impl TraceContext {
    /// Reads a `traceparent`. `None`: it is none, and a new trace begins.
    #[must_use]
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let [version] = bytes(parts.next()?)?;
        let (trace, span) = (bytes(parts.next()?)?, bytes(parts.next()?)?);
        let [flags] = bytes(parts.next()?)?;
        // Later versions may say more; the first says no more.
        let is_known = version == 0 && parts.next().is_none() || (1..0xff).contains(&version);
        let is_valid = is_known && trace != [0; 16] && span != [0; 8];
        is_valid.then_some(Self {
            trace,
            span,
            is_sampled: flags & 1 == 1,
        })
    }

    /// A span below `parent`, or the first of a trace; recorded. The bits are random.
    pub(super) fn new(parent: Option<Self>, trace: u128, span: u64) -> Self {
        Self {
            // Zeros would be no span.
            trace: parent.map_or_else(|| trace.max(1).to_be_bytes(), |parent| parent.trace),
            span: span.max(1).to_be_bytes(),
            is_sampled: true,
        }
    }
}

/// Hexadecimal digits in small letters.
fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    let is_hex = |digit: &u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
    if digits.len() != N.checked_mul(2)? || !digits.iter().all(is_hex) {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, two) in bytes.iter_mut().zip(digits.chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok()?;
    }
    Some(bytes)
}

/// As the header has it.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            trace,
            span,
            is_sampled,
        } = self;
        let (trace, span) = (u128::from_be_bytes(*trace), u64::from_be_bytes(*span));
        write!(
            f,
            "00-{trace:032x}-{span:016x}-{:02x}",
            u8::from(*is_sampled)
        )
    }
}

/// Whether a trace that begins here is recorded: so many of all are, by random bits.
pub(super) fn is_in(ratio: f64, random: u32) -> bool {
    f64::from(random) < ratio * f64::from(u32::MAX) || ratio >= 1.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_traceparent_is_read_and_written() {
        let context = TraceContext::parse(PARENT).unwrap();
        assert!(context.is_sampled);
        assert_eq!(context.to_string(), PARENT);
        let unsampled = PARENT.replace("-01", "-00");
        assert!(!TraceContext::parse(&unsampled).unwrap().is_sampled);
        // Other flags are of later versions.
        assert!(
            TraceContext::parse(&PARENT.replace("-01", "-03"))
                .unwrap()
                .is_sampled
        );
        let later = format!("{}-more", PARENT.replace("00-", "cc-"));
        assert_eq!(TraceContext::parse(&later), Some(context));
    }

    #[test]
    fn what_is_none_is_not_read() {
        for text in [
            "",
            "-",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-+1",
            "00-äf7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert_eq!(TraceContext::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_child_is_in_its_parents_trace() {
        let parent = TraceContext::parse(PARENT).unwrap();
        let child = TraceContext::new(Some(parent), 7, 8);
        assert_eq!(
            child.to_string(),
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000008-01"
        );
        let first = TraceContext::new(None, 0, 0);
        assert!(TraceContext::parse(&first.to_string()).is_some(), "{first}");
    }

    #[test]
    fn a_ratio_is_a_share() {
        for (ratio, random, is_recorded) in [
            (0.0, 0, false),
            (1.0, u32::MAX, true),
            (0.5, u32::MAX / 4, true),
            (0.5, u32::MAX / 4 * 3, false),
        ] {
            assert_eq!(is_in(ratio, random), is_recorded, "{ratio} {random}");
        }
    }
}
