//! The protocol versions, and which one two peers speak.

use std::fmt;

/// A version of the protocol. Later versions compare greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// STOMP 1.0: no escapes, no heart-beats, ids are optional.
    V1_0,
    /// STOMP 1.1: escapes `\n`, `\c`, `\\`.
    V1_1,
    /// STOMP 1.2: escapes of 1.1 and `\r`; lines may end in CR LF.
    V1_2,
}

impl Version {
    /// Every version, the lowest first.
    pub const ALL: [Self; 3] = [Self::V1_0, Self::V1_1, Self::V1_2];

    /// The list that goes into the `version` header of an ERROR: `1.0,1.1,1.2`.
    pub const SUPPORTED: &'static str = "1.0,1.1,1.2";

    /// The version as it stands in `version` and `accept-version`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V1_0 => "1.0",
            Self::V1_1 => "1.1",
            Self::V1_2 => "1.2",
        }
    }

    /// The highest version that an `accept-version` header names and this crate speaks.
    /// A client that sends no such header speaks 1.0 (STOMP 1.2, "Protocol Negotiation").
    /// `None` if the two have no version in common.
    #[must_use]
    pub fn negotiate(accept_version: Option<&str>) -> Option<Self> {
        let Some(list) = accept_version else {
            return Some(Self::V1_0);
        };
        list.split(',')
            .filter_map(|text| Self::ALL.into_iter().find(|v| v.as_str() == text.trim()))
            .max()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_common_version() {
        let cases = [
            (None, Some(Version::V1_0)),
            (Some("1.0"), Some(Version::V1_0)),
            (Some("1.2,1.0,1.1"), Some(Version::V1_2)),
            (Some("1.0, 1.1"), Some(Version::V1_1)),
            (Some("1.3,1.1,2.0"), Some(Version::V1_1)),
            (Some("1.3"), None),
            (Some("v1.2"), None),
            (Some("1.2.1"), None),
            (Some(""), None),
        ];
        for (offered, agreed) in cases {
            assert_eq!(Version::negotiate(offered), agreed, "{offered:?}");
        }
    }

    #[test]
    fn versions_compare_and_list() {
        assert!(Version::V1_0 < Version::V1_1 && Version::V1_1 < Version::V1_2);
        assert_eq!(
            Version::ALL.map(Version::as_str).join(","),
            Version::SUPPORTED
        );
    }
}
