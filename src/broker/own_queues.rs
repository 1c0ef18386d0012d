//! Names of queues that the gateway makes up for subscriptions and replies (pure).

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

/// Names of subscriptions' queues begin so: Stentor's, and the STOMP plug-in's.
pub const SUBSCRIPTION_QUEUES: &str = "stomp-subscription-";

/// Names of queues for replies (`/temp-queue/…`) begin so.
pub const TEMP_QUEUES: &str = "stomp-temp-";

/// The part of a durable subscription's name that is made of its hash, in bytes. The plug-in's
/// names have 16, and so have those of passing subscriptions here: that tells them apart.
pub const DURABLE_HASH: usize = 24;

/// The name of a subscription's queue.
#[must_use]
pub fn subscription_queue(bytes: &[u8]) -> Box<str> {
    format!("{SUBSCRIPTION_QUEUES}{}", URL_SAFE_NO_PAD.encode(bytes)).into()
}

/// The name of a queue for replies.
#[must_use]
pub fn temp_queue(unique: u128) -> Box<str> {
    let unique = URL_SAFE_NO_PAD.encode(unique.to_be_bytes());
    format!("{TEMP_QUEUES}{unique}").into()
}

/// Whether it has the form of a durable subscription's queue of Stentor's. Such a queue is of the
/// user, the `id`, the exchange and the pattern that its name is a hash of.
#[must_use]
pub fn is_durable_subscription(queue: &str) -> bool {
    let hash = queue.strip_prefix(SUBSCRIPTION_QUEUES);
    let hash = hash.and_then(|hash| URL_SAFE_NO_PAD.decode(hash).ok());
    hash.is_some_and(|hash| hash.len() == DURABLE_HASH)
}

/// Whether it has the name of a queue for replies.
#[must_use]
pub fn is_temp(queue: &str) -> bool {
    queue.starts_with(TEMP_QUEUES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_durable_subscription_is_told_from_all_others() {
        assert!(is_durable_subscription(&subscription_queue(
            &[0xff; DURABLE_HASH]
        )));
        for other in [
            &*subscription_queue(&[0xff; 16]),
            // The plug-in's, of 3.10 and of 4.
            "stomp-subscription-ajoCv6rxNt3zcbLCMbqDbQ",
            "stomp-subscription-",
            "stomp-subscription-orders-of-the-eastern-region-1",
            &*temp_queue(7),
            "orders",
        ] {
            assert!(!is_durable_subscription(other), "{other}");
        }
    }
}
