//! How available a user is, or says to be.

use std::{fmt, str::FromStr};

use serde::Serialize;

/// How available a session, or a user, is.
///
/// A status belongs to a session. A user's is the greatest of its sessions', in the order below:
/// to hide and not to be disturbed are wishes of the person, so one device speaks for all; to be
/// away is said by a device that is not looked at, while another one may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Status {
    /// Not here. No session says so of itself.
    Offline = 0,
    /// Here, but not looking.
    Away = 1,
    /// Here.
    #[default]
    Online = 2,
    /// Here, and not to be disturbed.
    Busy = 3,
    /// Here, but offline to others.
    Invisible = 4,
}

/// The text is not a status that a session can set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no status; write {}", Status::SETTABLE)]
pub struct StatusError;

impl Status {
    /// The statuses that a session can set, for errors.
    pub const SETTABLE: &str = "online, away, busy or invisible";

    /// In words, as in headers and events.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Offline => "offline",
            Self::Away => "away",
            Self::Online => "online",
            Self::Busy => "busy",
            Self::Invisible => "invisible",
        }
    }

    /// The status that others see: invisible becomes offline.
    #[must_use]
    pub fn to_others(self) -> Self {
        match self {
            Self::Invisible => Self::Offline,
            other => other,
        }
    }

    /// The inverse of [`Status::byte`]; offline if the byte is not valid.
    pub(super) fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Self::Away,
            2 => Self::Online,
            3 => Self::Busy,
            4 => Self::Invisible,
            _ => Self::Offline,
        }
    }

    /// Its rank.
    pub(super) fn byte(self) -> u8 {
        self as u8
    }
}

/// As a session says it of itself: never `offline`.
impl FromStr for Status {
    type Err = StatusError;

    fn from_str(text: &str) -> Result<Self, StatusError> {
        match text {
            "online" => Ok(Self::Online),
            "away" => Ok(Self::Away),
            "busy" => Ok(Self::Busy),
            "invisible" => Ok(Self::Invisible),
            _ => Err(StatusError),
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_s_status_is_the_greatest_of_its_sessions() {
        use Status::{Away, Busy, Invisible, Offline, Online};
        let of = |sessions: &[Status]| sessions.iter().copied().max().unwrap_or(Offline);
        assert_eq!(of(&[]), Offline);
        assert_eq!(of(&[Away, Online]), Online);
        assert_eq!(of(&[Online, Busy, Away]), Busy);
        assert_eq!(of(&[Busy, Invisible]).to_others(), Offline);
    }

    #[test]
    fn what_can_be_said_is_read_and_shown_alike() {
        for byte in 1..=4 {
            let status = Status::from_byte(byte);
            assert_eq!(status.byte(), byte);
            assert_eq!(status.name().parse(), Ok(status));
            assert!(Status::SETTABLE.contains(status.name()));
            assert_eq!(
                serde_json::to_value(status).unwrap(),
                serde_json::Value::from(status.name())
            );
        }
        for text in ["offline", "", "Away", "here"] {
            assert_eq!(text.parse::<Status>(), Err(StatusError), "{text}");
        }
        assert_eq!(Status::from_byte(0), Status::Offline);
        assert_eq!(Status::from_byte(99), Status::Offline);
    }
}
