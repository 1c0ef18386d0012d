//! Heart-beats: the agreement of two peers (STOMP 1.2, "Heart-beating").

use std::time::Duration;

/// One side's `heart-beat` header, or the agreement. In milliseconds; 0: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rates {
    /// How often its owner sends, at least.
    pub(crate) send: u32,
    /// How often its owner wishes to receive.
    pub(crate) receive: u32,
}

impl Rates {
    /// The form of a `heart-beat` header.
    pub(crate) const EXPECTED: &'static str =
        "two whole numbers of milliseconds with a comma between, such as 10000,10000";

    /// Reads a header; `None` if it is malformed. No header means `0,0`. Blanks around the
    /// numbers are tolerated, since they can mean nothing else; numbers beyond 49 days count as 49
    /// days.
    pub(crate) fn parse(header: Option<&str>) -> Option<Self> {
        let Some(header) = header else {
            return Some(Self::default());
        };
        let (send, receive) = header.split_once(',')?;
        Some(Self {
            send: milliseconds(send)?,
            receive: milliseconds(receive)?,
        })
    }

    /// From configured intervals.
    pub(crate) fn configured(send: Duration, receive: Duration) -> Self {
        Self {
            send: whole(send),
            receive: whole(receive),
        }
    }

    /// The server's rates towards that client: in each direction the slower of one side's ability
    /// and the other's wish, and none where either is zero. The client reads it in CONNECTED, and
    /// comes to the same figures.
    pub(crate) fn agree(self, client: Self) -> Self {
        let slower = |can: u32, wish: u32| {
            if can == 0 || wish == 0 {
                0
            } else {
                can.max(wish)
            }
        };
        Self {
            send: slower(self.send, client.receive),
            receive: slower(client.send, self.receive),
        }
    }
}

fn milliseconds(text: &str) -> Option<u32> {
    let digits = text.trim_matches(' ');
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // Only too great a number can fail here.
    Some(digits.parse().unwrap_or(u32::MAX))
}

/// In whole milliseconds; a small interval does not become zero, which would mean "none".
fn whole(interval: Duration) -> u32 {
    let rounded = interval.as_nanos().div_ceil(1_000_000);
    u32::try_from(rounded).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers() {
        let ok = |send, receive| Some(Rates { send, receive });
        for (header, expected) in [
            (None, ok(0, 0)),
            (Some("0,0"), ok(0, 0)),
            (Some("10000,20000"), ok(10_000, 20_000)),
            (Some(" 1, 2 "), ok(1, 2)),
            (Some("99999999999999999999,1"), ok(u32::MAX, 1)),
            (Some(""), None),
            (Some("1"), None),
            (Some("1,"), None),
            (Some("1,2,3"), None),
            (Some("-1,2"), None),
            (Some("+1,2"), None),
            (Some("1.5,2"), None),
            (Some("a,b"), None),
        ] {
            assert_eq!(Rates::parse(header), expected, "{header:?}");
        }
    }

    #[test]
    fn each_direction_is_the_slower_of_can_and_wish() {
        let rates = |send, receive| Rates { send, receive };
        for (server, client, agreed) in [
            (rates(5, 7), rates(0, 0), rates(0, 0)),
            (rates(0, 0), rates(5, 7), rates(0, 0)),
            (rates(10, 20), rates(30, 5), rates(10, 30)),
            (rates(10, 20), rates(5, 30), rates(30, 20)),
            (rates(10, 20), rates(0, 30), rates(30, 0)),
            (rates(10, 20), rates(30, 0), rates(0, 30)),
        ] {
            assert_eq!(server.agree(client), agreed, "{server:?} {client:?}");
        }
    }

    #[test]
    fn a_short_interval_does_not_become_none() {
        assert_eq!(whole(Duration::ZERO), 0);
        assert_eq!(whole(Duration::from_nanos(1)), 1);
        assert_eq!(whole(Duration::from_millis(10)), 10);
        assert_eq!(whole(Duration::MAX), u32::MAX);
    }
}
