//! The body of every message: enough to check it, and to know how long it took.
//!
//! It is ASCII, so that no server has a reason to treat it differently, and of fixed width, so
//! that it is read without searching: `SB1`, the run, the target, the sequence and the time at
//! which it was due, in hexadecimal digits, and dots up to the wished length.

/// The target of messages that are for everybody.
pub(crate) const EVERYBODY: u32 = u32::MAX;

const MAGIC: &[u8] = b"SB1 ";
/// Shorter bodies cannot carry what is checked. In bytes.
pub(crate) const MIN_SIZE: usize = 56;

/// The content of a body.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Stamp {
    /// Which publisher it is from: a message left over from another one is a mistake.
    pub(crate) run: u32,
    /// The number of the user it is for, or [`EVERYBODY`].
    pub(crate) target: u32,
    /// Its place among the messages of this publisher to this target, from 0.
    pub(crate) sequence: u64,
    /// When it was due to be sent, by the machine's monotonic clock. In nanoseconds.
    pub(crate) due: u64,
}

impl Stamp {
    /// Appends a body of `size` bytes, or of [`MIN_SIZE`] if that is more.
    pub(crate) fn write(self, size: usize, out: &mut Vec<u8>) {
        let end = out.len() + size.max(MIN_SIZE);
        out.extend_from_slice(MAGIC);
        push_hex(out, u64::from(self.run), 8);
        push_hex(out, u64::from(self.target), 8);
        push_hex(out, self.sequence, 16);
        push_hex(out, self.due, 16);
        out.resize(end, b'.');
    }

    /// Reads a body; `None` if it is not one of ours.
    pub(crate) fn read(body: &[u8]) -> Option<Self> {
        let rest = body.strip_prefix(MAGIC)?;
        let (run, rest) = take_hex(rest, 8)?;
        let (target, rest) = take_hex(rest, 8)?;
        let (sequence, rest) = take_hex(rest, 16)?;
        let (due, _) = take_hex(rest, 16)?;
        Some(Self {
            run: u32::try_from(run).ok()?,
            target: u32::try_from(target).ok()?,
            sequence,
            due,
        })
    }
}

/// `digits` hexadecimal digits and a blank.
fn push_hex(out: &mut Vec<u8>, value: u64, digits: u32) {
    for place in (0..digits).rev() {
        let half_a_byte = (value >> (4 * place)) & 0xf;
        let digit = u32::try_from(half_a_byte).unwrap_or_default();
        out.push(char::from_digit(digit, 16).map_or(b'?', |digit| digit as u8));
    }
    out.push(b' ');
}

fn take_hex(from: &[u8], digits: usize) -> Option<(u64, &[u8])> {
    let (number, rest) = from.split_at_checked(digits)?;
    let mut value = 0;
    for &byte in number {
        value = value << 4 | u64::from(char::from(byte).to_digit(16)?);
    }
    Some((value, rest.strip_prefix(b" ")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_written_is_read(
            run: u32, target: u32, sequence: u64, due: u64, size in 0_usize..2000
        ) {
            let stamp = Stamp { run, target, sequence, due };
            let mut body = Vec::new();
            stamp.write(size, &mut body);
            prop_assert_eq!(body.len(), size.max(MIN_SIZE));
            prop_assert!(body.is_ascii());
            prop_assert_eq!(Stamp::read(&body), Some(stamp));
        }

        #[test]
        fn other_bodies_are_not_ours(body: Vec<u8>) {
            prop_assert_eq!(Stamp::read(&body), None);
        }
    }

    #[test]
    fn a_body_that_was_cut_is_not_ours() {
        let stamp = Stamp {
            run: 1,
            target: 2,
            sequence: 3,
            due: 4,
        };
        let mut body = Vec::new();
        stamp.write(MIN_SIZE, &mut body);
        assert_eq!(Stamp::read(&body[..MIN_SIZE - 1]), None);
    }
}
