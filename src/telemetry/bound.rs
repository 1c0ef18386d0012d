//! What clients may take of a node, as metrics and log lines call it.

use std::fmt::Display;

use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::warn;

use super::{Seldom, metrics};

macro_rules! bounds {
    ($($variant:ident $name:literal $key:literal $doc:literal;)+) => {
        /// Something that clients may have only so much of.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Bound {$(
            #[doc = $doc]
            $variant,
        )+}

        impl Bound {
            /// The label of the metric `stentor_limits_exceeded_total`, and the word in the log.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {$(Self::$variant => $name,)+}
            }

            /// The key of the configuration that sets it.
            #[must_use]
            pub const fn key(self) -> &'static str {
                match self {$(Self::$variant => $key,)+}
            }
        }

        /// One line of each bound in a minute, however many are refused.
        static LINES: [Mutex<Seldom>; [$($name),+].len()] =
            [const { Mutex::new(Seldom::once_in(Seldom::MINUTE)) }; [$($name),+].len()];
    };
}

bounds! {
    AddressConnections "address_connections" "limits.max_address_connections" "Connections of one address.";
    AddressConnects "address_connects" "limits.max_address_connects_per_second" "Connects of one address, by time.";
    Connects "connects" "limits.max_connects_per_second" "Connects of all, by time.";
    FailedLogins "failed_logins" "limits.max_failed_logins" "Failed logins of one user from one address.";
    UserConnections "user_connections" "limits.max_user_connections" "Connections of one user.";
    UserSubscriptions "user_subscriptions" "limits.max_user_subscriptions" "Subscriptions of one user.";
    UserQueues "user_queues" "limits.max_user_queues" "Queues of one user's subscriptions.";
    Subscribes "subscribes" "limits.max_subscribes_per_second" "SUBSCRIBE frames of a connection, by time.";
    UserSubscribes "user_subscribes" "limits.max_user_subscribes_per_second" "The same of a user.";
    Messages "messages" "limits.max_messages_per_second" "SEND frames of a connection, by time.";
    Bytes "bytes" "limits.max_bytes_per_second" "Bytes of a connection, by time.";
    HookTurns "hook_turns" "auth.max_calls" "Calls of the hook at a time: one waited too long for its turn.";
}

/// A client met a bound: it was refused, or is not read for a while. `by` is its address or user.
pub fn limit_exceeded(bound: Bound, by: &dyn Display) {
    metrics::limit_exceeded(bound.name());
    let line = LINES.get(bound as usize).map(Mutex::lock);
    let unsaid = line.and_then(|mut line| line.let_through(Instant::now().into_std()));
    if let Some(unsaid) = unsaid {
        limit_line(bound, by, unsaid);
    }
}

/// How often clients met a bound.
#[cfg(test)]
pub(crate) fn times_exceeded(bound: Bound) -> u64 {
    metrics::times_exceeded(bound.name())
}

/// A client met a bound, nor had `unsaid` more since this was said the last time.
fn limit_line(bound: Bound, by: &dyn Display, unsaid: u64) {
    let (by, key) = (by.to_string(), bound.key());
    warn!(
        target: "stentor::node", bound = bound.name(), by, key, unsaid,
        "limit exceeded: clients are refused, or read more slowly"
    );
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_bound_is_logged_once_a_minute() {
        let line = &LINES[Bound::Bytes as usize];
        let mut said = 0;
        for _ in 0..120 {
            let now = Instant::now().into_std();
            said += u32::from(line.lock().let_through(now).is_some());
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(said, 2);
    }
}
