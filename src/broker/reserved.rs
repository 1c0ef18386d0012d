//! Headers and types of messages that no publisher may choose who comes by the gateway (pure).

use super::{
    CONFLATED_HEADER, DELTA_HEADER, DROPPED_HEADER, UNHEARD_HEADER, USER_HEADER,
    message::{passes_for, plain_name},
};

/// What the gateway says of a message, in every spelling that a receiver may take for the same name.
const GATEWAY_S: [&str; 6] = [
    USER_HEADER,
    DROPPED_HEADER,
    CONFLATED_HEADER,
    DELTA_HEADER,
    UNHEARD_HEADER,
    "user-id",
];

/// What RabbitMQ says of a message. RabbitMQ 4 believes it of a publisher, too, when it stores the
/// message in a stream or reads it there; and where it finds a text instead of what it writes itself,
/// it ends the connection that all share: at each reading, for as long as the stream has the message.
const BROKER_S: [&str; 4] = ["x-stream-offset", "x-cc", "x-exchange", "x-routing-key"];

/// Beginnings of such names, and of those of the worker's side of `[offline]`.
const BEGINNINGS: [&str; 4] = ["x-basic-", "x-opt-", "x-amqp-1.0-", "x-offline-"];

/// The `type` of messages whose body is AMQP 1.0 in RabbitMQ's eyes: with sections for the sender's
/// name and further keys, which nobody has checked.
pub const ENCODED_TYPE: &str = "amqp-1.0";

/// Whether a header of that name is not a publisher's to set.
#[must_use]
pub fn is_reserved(name: &str) -> bool {
    let plain = plain_name(name);
    let begins = |beginning: &&str| {
        let start = plain.get(..beginning.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(beginning))
    };
    passes_for(name, &GATEWAY_S) || passes_for(name, &BROKER_S) || BEGINNINGS.iter().any(begins)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_reserved_in_any_spelling() {
        for name in [
            "x-stomp-user",
            " X-Stomp-User",
            "x-basic-priority",
            "X-Opt-Anything",
            "x-amqp-1.0-footer",
            "x-stream-offset ",
            "x-cc",
            "x-stentor-unheard",
            "x-offline-user",
        ] {
            assert!(is_reserved(name), "{name:?}");
        }
        for name in [
            "x-basic",
            "x-optional",
            "xopt-",
            "x-stream-filter-value",
            "x-death",
            "",
            "é",
        ] {
            assert!(!is_reserved(name), "{name:?}");
        }
    }
}
