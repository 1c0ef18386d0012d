//! How sizes are written in configuration, and the checks that every section needs.
//!
//! Durations are read by the crate `humantime-serde`: `"10s"`, `"500ms"`, `"1h 30m"`.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytesize::ByteSize;
use humantime::format_duration;
use serde::{Deserializer, de};

/// The first second, since 1970, that cannot be written as a date: of the year 10,000.
const NO_DATE: u64 = 253_402_300_800;

/// A moment of which others told: so long after 1970. `None`: it is too far away to be written as a
/// date, as where somebody took milliseconds for seconds.
#[must_use]
pub fn moment(since_1970: Duration) -> Option<SystemTime> {
    if since_1970.as_secs() >= NO_DATE {
        return None;
    }
    UNIX_EPOCH.checked_add(since_1970)
}

/// The answer of a section's `check`: the key at fault, and the fault with its remedy.
pub type Checked = Result<(), (&'static str, String)>;

/// Reads a size in bytes: a whole number, or a text such as `"4MiB"` (times 1024) or `"4MB"`
/// (times 1000). For serde's `deserialize_with`.
///
/// # Errors
/// It is neither, or larger than memory can be.
pub fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    struct Visitor;

    impl de::Visitor<'_> for Visitor {
        type Value = usize;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a size: bytes, or e.g. \"4MiB\"")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<usize, E> {
            let size = text.parse::<ByteSize>().map_err(|_| {
                E::custom(format!(
                    "{text:?} is not a size; write bytes or e.g. \"4MiB\""
                ))
            })?;
            self.visit_u64(size.as_u64())
        }

        fn visit_i64<E: de::Error>(self, number: i64) -> Result<usize, E> {
            match u64::try_from(number) {
                Ok(number) => self.visit_u64(number),
                Err(_) => Err(E::invalid_value(de::Unexpected::Signed(number), &self)),
            }
        }

        fn visit_u64<E: de::Error>(self, number: u64) -> Result<usize, E> {
            // `isize::MAX` is the most that an allocation can be.
            usize::try_from(number)
                .ok()
                .filter(|size| isize::try_from(*size).is_ok())
                .ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(number), &self))
        }
    }

    deserializer.deserialize_any(Visitor)
}

/// Refuses a duration of zero.
///
/// # Errors
/// It is zero; `why` tells what would happen.
pub fn more_than_zero(key: &'static str, value: Duration, why: &str) -> Checked {
    if value.is_zero() {
        return Err((
            key,
            format!("is zero, so {why}; write a time such as \"10s\""),
        ));
    }
    Ok(())
}

/// Refuses a duration that is shorter.
///
/// # Errors
/// It is; `why` tells what would happen.
pub fn at_least(key: &'static str, value: Duration, least: Duration, why: &str) -> Checked {
    if value < least {
        let [value, least] = [value, least].map(format_duration);
        let message = format!("is {value}, so {why}; write \"{least}\" or more");
        return Err((key, message));
    }
    Ok(())
}

/// Refuses a duration that is longer.
///
/// # Errors
/// It is; `why` tells what would happen.
pub fn at_most(key: &'static str, value: Duration, most: Duration, why: &str) -> Checked {
    if value > most {
        let most = format_duration(most);
        let message = format!("is longer than {most}, so {why}; write \"{most}\" or less");
        return Err((key, message));
    }
    Ok(())
}

/// Refuses a number of zero.
///
/// # Errors
/// It is zero; `why` tells what would happen.
pub fn at_least_one(key: &'static str, value: impl TryInto<u64>, why: &str) -> Checked {
    match value.try_into() {
        Ok(0) => Err((key, format!("is 0, so {why}; write 1 or more"))),
        _ => Ok(()),
    }
}

/// A size for people: `4 MiB` where it is whole, else bytes.
#[must_use]
pub fn show_size(bytes: usize) -> String {
    const UNITS: [(&str, usize); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    UNITS
        .iter()
        .find(|(_, unit)| bytes >= *unit && bytes.is_multiple_of(*unit))
        .map_or_else(
            || format!("{bytes} bytes"),
            |(name, unit)| format!("{} {name}", bytes.checked_div(*unit).unwrap_or(bytes)),
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Deserialize)]
    struct Sized {
        #[serde(deserialize_with = "size")]
        size: usize,
    }

    fn read(text: &str) -> Result<usize, String> {
        toml::from_str::<Sized>(&format!("size = {text}"))
            .map(|read| read.size)
            .map_err(|error| error.message().to_owned())
    }

    #[test]
    fn sizes_are_bytes_or_texts_with_a_unit() {
        assert_eq!(read("4096"), Ok(4096));
        assert_eq!(read("\"4096\""), Ok(4096));
        assert_eq!(read("\"4MiB\""), Ok(4 << 20));
        assert_eq!(read("\"4 KiB\""), Ok(4096));
        assert_eq!(read("\"4MB\""), Ok(4_000_000));
    }

    #[test]
    fn what_is_no_size_says_what_to_write() {
        assert_eq!(
            read("\"4MX\""),
            Err("\"4MX\" is not a size; write bytes or e.g. \"4MiB\"".to_owned())
        );
        assert!(read("-1").is_err());
        assert!(read("1.5").is_err());
        assert!(read("true").is_err());
        assert!(read("\"9000000000 GiB\"").is_err());
    }

    #[test]
    fn a_moment_can_be_written() {
        for since in [0, 1_800_000_000, NO_DATE - 1] {
            let moment = moment(Duration::from_secs(since)).unwrap();
            humantime::format_rfc3339_millis(moment).to_string();
        }
        for since in [NO_DATE, 1_800_000_000_000, u64::MAX] {
            assert_eq!(moment(Duration::from_secs(since)), None);
        }
    }

    #[test]
    fn a_duration_out_of_bounds_says_what_to_write() {
        let [second, day] = [1, 24 * 60 * 60].map(Duration::from_secs);
        let check = |value: Duration| {
            at_least("lease", value, second, "it would end at once")?;
            at_most("lease", value, day, "it would not end")
        };
        assert_eq!((check(second), check(day)), (Ok(()), Ok(())));
        for (value, message) in [
            (
                Duration::from_millis(999),
                "is 999ms, so it would end at once; write \"1s\" or more",
            ),
            (
                Duration::MAX,
                "is longer than 1day, so it would not end; write \"1day\" or less",
            ),
        ] {
            assert_eq!(check(value), Err(("lease", message.to_owned())));
        }
    }

    #[test]
    fn sizes_are_shown_as_they_are_written() {
        assert_eq!(show_size(4 << 20), "4 MiB");
        assert_eq!(show_size(1000), "1000 bytes");
        assert_eq!(show_size(0), "0 bytes");
    }
}
