//! The `[memory]` section.

use std::fmt;

use serde::{Deserialize, Deserializer, de};

use crate::units::{Checked, size};

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
        match self.watermark {
            0 | 20..=95 => Ok(()),
            other => Err((
                "watermark",
                format!("is {other}; write 20 to 95 (percent), or 0 for none"),
            )),
        }
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
    }
}
