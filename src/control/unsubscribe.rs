//! Subscriptions that are to end while their sessions go on.

use std::fmt;

use crate::broker::destination::Destination;

/// The longest destination, in bytes.
const MAX_DESTINATION: usize = 2 * 3 * 255 + 32;

/// Which subscriptions of a user are to end, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsubscribe {
    /// Whose.
    pub user: Box<str>,
    /// Only those in this virtual host; `None`: in all.
    pub vhost: Option<Box<str>>,
    /// Those to exactly this, whichever way their SUBSCRIBE has written it. Not those to a pattern
    /// that matches it.
    pub destination: Destination,
    /// Why, as clients are told, up to 256 characters of it; empty: they are told that an operator
    /// did it.
    pub reason: Box<str>,
}

impl Unsubscribe {
    /// Reads a destination that clients can subscribe to.
    ///
    /// # Errors
    /// What is wrong with it: a line.
    pub fn destination(text: &str) -> Result<Destination, String> {
        if text.len() > MAX_DESTINATION {
            return Err(format!("is longer than {MAX_DESTINATION} bytes"));
        }
        let parsed = Destination::parse(text);
        match parsed.map_err(|error| error.to_string().trim_end().replace('\n', " "))? {
            Destination::TempQueue(_) | Destination::ReplyQueue(_) => Err(
                "is no destination that clients subscribe to: write it as their SUBSCRIBE does, \
                 such as /exchange/room/lobby, /topic/news or /queue/orders"
                    .to_owned(),
            ),
            destination => Ok(destination),
        }
    }
}

/// For logs.
impl fmt::Display for Unsubscribe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "user {:?} from {}", self.user, self.destination)?;
        match &self.vhost {
            Some(vhost) => write!(f, " in {vhost:?}"),
            None => Ok(()),
        }
    }
}
