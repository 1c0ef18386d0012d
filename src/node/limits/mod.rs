//! The shares of the node that one address, one user or one connection may take, so that the others
//! have theirs.
//!
//! Counts are given back on drop; rates are buckets, which hold ten seconds' worth and fill
//! steadily. The bounds of an address do not hold for one that may stand for many ([`is_shared`]).

mod arrivals;
mod bucket;
mod config;
mod failed_logins;
mod pace;
mod server_header;
mod share;
mod users;

pub use crate::address::{AddressKey, ClientAddress, is_shared};
pub(super) use arrivals::Arrivals;
pub use bucket::Bucket;
pub use config::{Limits, Stomp, TooFast, session_config};
pub use failed_logins::{Attempt, FailedLogins};
pub use pace::{Pace, Paces};
pub use server_header::ServerHeader;
pub use users::{QueuePlace, SubscriptionPlace, UserPlace, Users};

use std::time::Duration;

/// For the `reconnect` header: at least a second, for a client that comes too soon is refused
/// again.
fn seconds(wait: Duration) -> u16 {
    let seconds = wait.as_millis().div_ceil(1000);
    u16::try_from(seconds).unwrap_or(u16::MAX).max(1)
}
