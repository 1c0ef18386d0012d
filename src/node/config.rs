//! The `[memory]` section.

use std::fmt;

use serde::{Deserialize, Deserializer, de};

use crate::units::{Checked, show_size, size};

/// The least that the process could be said to have: with less it would be short of memory at rest, and
/// let nobody in.
const LEAST: usize = 64 << 20;

/// How much memory the process may take before less is let in.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MemoryConfig {
    /// The mark, in percent of what the process could have; 0: none.
    #[serde(deserialize_with = "percent")]
    pub watermark: u8,
    /// What the process could have, in bytes; 0: what its cgroup and the machine leave it.
    #[serde(deserialize_with = "size")]
    pub limit: usize,
}

/// Reads the mark; what is none is told what is.
fn percent<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u8, D::Error> {
    struct Visitor;

    impl de::Visitor<'_> for Visitor {
        type Value = u8;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a whole number: 20 to 95 (percent), or 0 for none")
        }

        fn visit_i64<E: de::Error>(self, number: i64) -> Result<u8, E> {
            let mark = u8::try_from(number);
            mark.map_err(|_| E::invalid_value(de::Unexpected::Signed(number), &self))
        }

        fn visit_u64<E: de::Error>(self, number: u64) -> Result<u8, E> {
            let mark = u8::try_from(number);
            mark.map_err(|_| E::invalid_value(de::Unexpected::Unsigned(number), &self))
        }
    }

    deserializer.deserialize_u8(Visitor)
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self {
            watermark: 75,
            limit: 0,
        }
    }
}

impl MemoryConfig {
    /// Whether the values make sense.
    ///
    /// # Errors
    /// The key at fault, and what is wrong and what to do.
    pub fn check(&self) -> Checked {
        if !matches!(self.watermark, 0 | 20..=95) {
            let message = format!(
                "is {}; write 20 to 95 (percent), or 0 for none",
                self.watermark
            );
            return Err(("watermark", message));
        }
        if self.watermark > 0 && (1..LEAST).contains(&self.limit) {
            let message = format!(
                "is {}, less than {}, most of which the process itself takes; a number is bytes: write a \
                 size such as \"8GiB\", or 0 for what the machine leaves",
                show_size(self.limit),
                show_size(LEAST)
            );
            return Err(("limit", message));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_leaves_room_on_both_sides() {
        assert_eq!(MemoryConfig::default().check(), Ok(()));
        for (watermark, is_good) in [(0, true), (1, false), (20, true), (95, true), (96, false)] {
            let config = MemoryConfig {
                watermark,
                ..MemoryConfig::default()
            };
            assert_eq!(config.check().is_ok(), is_good, "{watermark}");
        }
        for (limit, is_good) in [(0, true), (8, false), (LEAST - 1, false), (LEAST, true)] {
            let config = MemoryConfig {
                limit,
                ..MemoryConfig::default()
            };
            assert_eq!(config.check().is_ok(), is_good, "{limit}");
        }
        let unused = MemoryConfig {
            watermark: 0,
            limit: 8,
        };
        assert_eq!(unused.check(), Ok(()));
    }
}
