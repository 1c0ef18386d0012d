//! The `[limits]` and `[stomp]` sections.

use std::time::Duration;

use serde::Deserialize;

use super::{super::room::Share, ServerHeader};
use crate::{
    auth,
    broker::{self, KeyLimits},
    shutdown::DRAIN_PATIENCE,
    units::{Checked, at_least_one, more_than_zero, show_size, size},
};

/// RabbitMQ takes no larger message, however it is configured.
const MAX_MESSAGE: usize = 512 << 20;
/// A heart-beat header has milliseconds; 32 bits of them are what clients can be trusted with.
const MAX_HEARTBEAT: Duration = Duration::from_millis(u32::MAX as u64);
/// Tests are happy with it.
const SHORTEST_PING: Duration = Duration::from_millis(100);

/// What one client may do, so that none harms the others.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Bytes in a frame that a client sends: command, headers and body.
    #[serde(deserialize_with = "size")]
    pub max_frame_size: usize,
    /// The same before the client has logged in: enough for a CONNECT with a long token.
    #[serde(deserialize_with = "size")]
    pub max_frame_size_unauthenticated: usize,
    /// Headers in a frame.
    pub max_headers: usize,
    /// Bytes in one header line. 8 KiB, as web servers allow: tokens are sent in them.
    #[serde(deserialize_with = "size")]
    pub max_header_size: usize,
    /// How long a client may take from the transport's opening to a complete login.
    #[serde(with = "humantime_serde")]
    pub login_timeout: Duration,
    /// Subscriptions that a client has open at once.
    pub max_subscriptions: usize,
    /// Transactions that a client has open at once.
    pub max_transactions: usize,
    /// Frames in one transaction.
    pub max_transaction_frames: usize,
    /// Bytes in all open transactions of a client together; each frame counts 256 more than it has,
    /// and 8 for each header.
    #[serde(deserialize_with = "size")]
    pub max_transaction_bytes: usize,
    /// Bytes that a client sends and that are under way: read in part, in a transaction, or not
    /// answered for by the broker. Beyond, it is not read.
    #[serde(deserialize_with = "size")]
    pub max_publishing_bytes: usize,
    /// The same of all connections of a user together.
    #[serde(deserialize_with = "size")]
    pub max_user_publishing_bytes: usize,
    /// The same of all together.
    #[serde(deserialize_with = "size")]
    pub max_total_publishing_bytes: usize,
    /// Operations of a client that are begun and not done (subscribe, publish, …); at this
    /// number it is not read until one is done.
    pub max_pending: usize,
    /// Denials after which a client stays connected (`auth.soft_deny`); the next ends it.
    pub max_denials: u32,
    /// Messages unacknowledged at a time on a subscription with `ack:client` or
    /// `ack:client-individual` that asks for no `prefetch-count`.
    pub max_unacked: u16,
    /// Messages under way at a time to a subscription with `ack:auto` that has a queue of its
    /// own; the gateway acknowledges them as they are written.
    pub auto_prefetch: u16,
    /// Words `#` in the pattern of a subscription. RabbitMQ tries every way to divide a key among
    /// them, and takes no more than two from 4.3 on.
    pub max_pattern_hashes: usize,
    /// Words in the routing key of a SEND.
    pub max_key_words: usize,
    /// Words in a routing key that is published with all others. Messages whose key has more go on
    /// a channel of their own, one at a time for each user.
    pub max_fast_key_words: usize,
    /// Connections of one address; 0: any number. Here and below, an IPv6 address is its /64, and
    /// addresses that may stand for many clients are not refused.
    pub max_address_connections: usize,
    /// Connects of one address a second, and ten times as many at once; 0: any number.
    pub max_address_connects_per_second: u32,
    /// The same of all addresses together.
    pub max_connects_per_second: u32,
    /// Failed logins of one user from one address at once; the next ones are refused, until one is
    /// forgotten. 0: any number.
    pub max_failed_logins: u32,
    /// After how long one failed login is forgotten.
    #[serde(with = "humantime_serde")]
    pub failed_login_recovery: Duration,
    /// How long a login waits from an address where its user was not before, while many of that
    /// user fail from others; a third of `login_timeout` at most.
    #[serde(with = "humantime_serde")]
    pub failed_login_delay: Duration,
    /// Connections of one user; 0: any number.
    pub max_user_connections: usize,
    /// Subscriptions of all connections of one user; 0: any number.
    pub max_user_subscriptions: usize,
    /// Those of them that have a queue of their own; 0: any number.
    pub max_user_queues: usize,
    /// SUBSCRIBE frames of a connection a second, and ten times as many at once; 0: any number.
    pub max_subscribes_per_second: u32,
    /// The same of all connections of a user.
    pub max_user_subscribes_per_second: u32,
    /// SEND frames of a connection a second, and ten times as many at once; 0: any number.
    pub max_messages_per_second: u32,
    /// Bytes of a connection a second, and ten times as many at once; 0: any number.
    #[serde(deserialize_with = "size")]
    pub max_bytes_per_second: usize,
    /// What happens to a client that is faster.
    pub too_fast: TooFast,
    /// How long a write may be stuck because the client does not read, before it is closed.
    #[serde(with = "humantime_serde")]
    pub write_timeout: Duration,
    /// How long a client may take to close after its DISCONNECT was answered. Then the gateway ends
    /// its side; many libraries wait for that, as RabbitMQ does it at once.
    #[serde(with = "humantime_serde")]
    pub disconnect_linger: Duration,
}

/// What happens to a client that sends faster than it may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TooFast {
    /// It is not read until it is slow enough.
    #[default]
    Wait,
    /// Its session ends.
    Disconnect,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_frame_size: 4 << 20,
            max_frame_size_unauthenticated: 64 << 10,
            max_headers: 100,
            max_header_size: 8 << 10,
            login_timeout: Duration::from_secs(10),
            max_subscriptions: 1000,
            max_transactions: 16,
            max_transaction_frames: 1024,
            max_transaction_bytes: 16 << 20,
            max_publishing_bytes: 20 << 20,
            max_user_publishing_bytes: 40 << 20,
            max_total_publishing_bytes: 160 << 20,
            max_pending: 64,
            max_denials: 100,
            max_unacked: 1_000,
            auto_prefetch: 100,
            max_pattern_hashes: 2,
            max_key_words: 64,
            max_fast_key_words: 16,
            max_address_connections: 10_000,
            max_address_connects_per_second: 500,
            max_connects_per_second: 5_000,
            max_failed_logins: 10,
            failed_login_recovery: Duration::from_secs(30),
            failed_login_delay: Duration::from_secs(3),
            max_user_connections: 10_000,
            max_user_subscriptions: 100_000,
            max_user_queues: 10_000,
            max_subscribes_per_second: 200,
            max_user_subscribes_per_second: 5_000,
            max_messages_per_second: 10_000,
            max_bytes_per_second: 64 << 20,
            too_fast: TooFast::Wait,
            write_timeout: Duration::from_secs(30),
            disconnect_linger: Duration::from_millis(100),
        }
    }
}

impl Limits {
    /// What the decoder allows a client that has logged in.
    #[must_use]
    pub fn decoder(&self) -> stomp_grammar::Limits {
        stomp_grammar::Limits {
            max_frame_size: self.max_frame_size,
            max_headers: self.max_headers,
            max_header_size: self.max_header_size,
        }
    }

    /// What the decoder allows a client that has not logged in.
    #[must_use]
    pub fn decoder_unauthenticated(&self) -> stomp_grammar::Limits {
        stomp_grammar::Limits {
            max_frame_size: self.max_frame_size_unauthenticated,
            ..self.decoder()
        }
    }

    /// What routing keys and patterns may be like.
    #[must_use]
    pub const fn keys(&self) -> KeyLimits {
        KeyLimits {
            max_words: self.max_key_words,
            max_fast_words: self.max_fast_key_words,
            max_hashes: self.max_pattern_hashes,
        }
    }

    /// What may be under way of what clients send.
    #[must_use]
    pub fn share(&self) -> Share {
        Share {
            connection: self.max_publishing_bytes,
            user: self.max_user_publishing_bytes,
            all: self.max_total_publishing_bytes,
        }
    }

    /// Whether the values make sense.
    ///
    /// # Errors
    /// The key at fault, and what is wrong and what to do.
    pub fn check(&self) -> Checked {
        if self.max_frame_size > MAX_MESSAGE {
            return Err((
                "max_frame_size",
                format!(
                    "is {}, but RabbitMQ takes no message above {}; lower it",
                    show_size(self.max_frame_size),
                    show_size(MAX_MESSAGE)
                ),
            ));
        }
        let whole = ("max_frame_size", self.max_frame_size);
        let first = (
            "max_frame_size_unauthenticated",
            self.max_frame_size_unauthenticated,
        );
        fits(first, whole)?;
        fits(("max_header_size", self.max_header_size), first)?;
        let transactions = ("max_transaction_bytes", self.max_transaction_bytes);
        fits(whole, transactions)?;
        let own = ("max_publishing_bytes", self.max_publishing_bytes);
        let user = ("max_user_publishing_bytes", self.max_user_publishing_bytes);
        fits(transactions, own)?;
        fits(own, user)?;
        fits(
            user,
            (
                "max_total_publishing_bytes",
                self.max_total_publishing_bytes,
            ),
        )?;
        let nobody = "nobody could log in";
        at_least_one("max_headers", self.max_headers, nobody)?;
        at_least_one("max_header_size", self.max_header_size, nobody)?;
        more_than_zero("login_timeout", self.login_timeout, nobody)?;
        at_least_one(
            "max_subscriptions",
            self.max_subscriptions,
            "nobody could subscribe",
        )?;
        at_least_one("max_pending", self.max_pending, "nothing could be done")?;
        let nothing = "nothing could be delivered";
        at_least_one("max_unacked", self.max_unacked, nothing)?;
        at_least_one("auto_prefetch", self.auto_prefetch, nothing)?;
        let refused = "every message would be refused";
        at_least_one("max_key_words", self.max_key_words, refused)?;
        if self.max_fast_key_words > self.max_key_words {
            return Err((
                "max_fast_key_words",
                format!(
                    "is {}, more than max_key_words ({}), so it could never be reached; lower it, \
                     or raise the other",
                    self.max_fast_key_words, self.max_key_words
                ),
            ));
        }
        more_than_zero("write_timeout", self.write_timeout, nothing)?;
        self.check_rates()
    }

    fn check_rates(&self) -> Checked {
        let for_ever = "a user whose logins failed could never try again";
        more_than_zero(
            "failed_login_recovery",
            self.failed_login_recovery,
            for_ever,
        )?;
        let whole = self.max_address_connects_per_second;
        let all = self.max_connects_per_second;
        if all > 0 && whole > all {
            return Err((
                "max_address_connects_per_second",
                format!(
                    "is {whole}, more than max_connects_per_second ({all}), so it could never be \
                     reached; lower it, or raise the other"
                ),
            ));
        }
        Ok(())
    }
}

/// Refuses a limit that another one makes unreachable.
fn fits((key, value): (&'static str, usize), (bound_key, bound): (&str, usize)) -> Checked {
    if value > bound {
        return Err((
            key,
            format!(
                "is {}, more than {bound_key} ({}), so it could never be reached; lower it, or \
                 raise the other",
                show_size(value),
                show_size(bound)
            ),
        ));
    }
    Ok(())
}

/// How the protocol is spoken.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Stomp {
    /// The `server` header of CONNECTED: the gateway and its version, none, or another text.
    pub server_header: ServerHeader,
    /// The shortest interval at which the gateway sends heart-beats, if the client wants any;
    /// zero: none. Proxies cut idle connections after 30 to 60 s. 1 s, so that a client's wish is
    /// granted, whatever it is.
    #[serde(with = "humantime_serde")]
    pub heartbeat_send: Duration,
    /// The shortest interval at which the gateway asks to hear a client that offers heart-beats;
    /// zero: it does not ask.
    #[serde(with = "humantime_serde")]
    pub heartbeat_receive: Duration,
    /// How many intervals a client may be late. 2, for browsers slow down the timers of hidden
    /// pages.
    pub heartbeat_tolerance: u32,
    /// The shortest silence for which a client is given up, whatever its heart-beat: a tunnel does
    /// not end a session.
    #[serde(with = "humantime_serde")]
    pub heartbeat_patience: Duration,
    /// After how long without anything written, or without anything heard, a client on a WebSocket
    /// is sent a ping, unless a heart-beat comes sooner. Proxies stay open by it, and vanished
    /// clients are found: browsers answer pings by themselves. Zero: none is sent.
    #[serde(with = "humantime_serde")]
    pub ping_interval: Duration,
    /// What a NACK without a `requeue` header means: `true`: the message is queued again;
    /// `false`: it is dropped or dead-lettered.
    pub nack_requeue: bool,
    /// How often a message is queued again that a client with `redeliver` never acknowledged; then
    /// it is dropped or dead-lettered.
    pub redeliver_max_rounds: u8,
    /// The exchange behind `/topic/…` destinations.
    pub default_topic_exchange: String,
    /// A SUBSCRIBE of STOMP 1.1 or 1.2 needs an `id`, as the specification says. RabbitMQ takes it
    /// without, and some libraries rely on that.
    pub require_subscription_id: bool,
    /// Whether a client whose first frame is no CONNECT is the default user (`auth.default_user`).
    pub implicit_connect: bool,
}

impl Default for Stomp {
    fn default() -> Self {
        Self {
            server_header: ServerHeader::Own,
            heartbeat_send: Duration::from_secs(1),
            heartbeat_receive: Duration::from_secs(1),
            heartbeat_tolerance: 2,
            heartbeat_patience: Duration::from_secs(10),
            ping_interval: Duration::from_secs(25),
            nack_requeue: true,
            redeliver_max_rounds: 3,
            default_topic_exchange: "amq.topic".to_owned(),
            require_subscription_id: false,
            implicit_connect: false,
        }
    }
}

impl Stomp {
    /// Whether the values make sense.
    ///
    /// # Errors
    /// The key at fault, and what is wrong and what to do.
    pub fn check(&self) -> Checked {
        for (key, interval) in [
            ("heartbeat_send", self.heartbeat_send),
            ("heartbeat_receive", self.heartbeat_receive),
        ] {
            if !interval.subsec_nanos().is_multiple_of(1_000_000) || interval > MAX_HEARTBEAT {
                return Err((
                    key,
                    "STOMP counts heart-beats in milliseconds, up to 49 days; write e.g. \"10s\", \
                     or \"0s\" for none"
                        .to_owned(),
                ));
            }
        }
        if !self.ping_interval.is_zero() && self.ping_interval < SHORTEST_PING {
            let message = "is so short that idle clients would be kept busy; write \"25s\", or \
                           \"0s\" for no pings";
            return Err(("ping_interval", message.to_owned()));
        }
        at_least_one(
            "heartbeat_tolerance",
            self.heartbeat_tolerance,
            "every client would be late",
        )?;
        if self.default_topic_exchange.is_empty() {
            return Err((
                "default_topic_exchange",
                "is empty, but the default exchange has no topics; write \"amq.topic\" or the \
                 name of a topic exchange"
                    .to_owned(),
            ));
        }
        let server_header = self.server_header.check();
        server_header.map_err(|message| ("server_header", message))
    }
}

/// What all sessions share.
#[must_use]
pub fn session_config(
    limits: &Limits,
    stomp: &Stomp,
    auth: &auth::Config,
    broker: &broker::Config,
) -> stomp_session::Config {
    stomp_session::Config {
        server: stomp.server_header.value(),
        login_timeout: limits.login_timeout,
        heartbeat_send: stomp.heartbeat_send,
        heartbeat_receive: stomp.heartbeat_receive,
        heartbeat_tolerance: stomp.heartbeat_tolerance,
        heartbeat_patience: stomp.heartbeat_patience,
        ping_interval: stomp.ping_interval,
        finish_timeout: broker.operation_timeout,
        drain_timeout: DRAIN_PATIENCE,
        disconnect_linger: limits.disconnect_linger,
        max_subscriptions: limits.max_subscriptions,
        max_transactions: limits.max_transactions,
        max_transaction_frames: limits.max_transaction_frames,
        max_transaction_bytes: limits.max_transaction_bytes,
        max_pending: limits.max_pending,
        nack_requeue: stomp.nack_requeue,
        soft_deny: auth.soft_deny,
        max_denials: limits.max_denials,
        require_subscription_id: stomp.require_subscription_id,
        implicit_connect: stomp.implicit_connect,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_sound() {
        assert_eq!(Limits::default().check(), Ok(()));
        assert_eq!(Stomp::default().check(), Ok(()));
    }

    #[test]
    fn a_limit_that_cannot_be_reached_is_refused() {
        let limits = Limits {
            max_frame_size_unauthenticated: 5 << 20,
            ..Limits::default()
        };
        assert_eq!(
            limits.check(),
            Err((
                "max_frame_size_unauthenticated",
                "is 5 MiB, more than max_frame_size (4 MiB), so it could never be reached; lower \
                 it, or raise the other"
                    .to_owned()
            ))
        );
        let limits = Limits {
            max_header_size: 65 << 10,
            ..Limits::default()
        };
        assert_eq!(limits.check().unwrap_err().0, "max_header_size");
        let limits = Limits {
            max_transaction_bytes: 1 << 20,
            ..Limits::default()
        };
        assert_eq!(limits.check().unwrap_err().0, "max_frame_size");
    }

    #[test]
    fn rates_that_make_no_sense_are_refused() {
        let limits = Limits {
            max_address_connects_per_second: 10,
            max_connects_per_second: 5,
            ..Limits::default()
        };
        let (key, message) = limits.check().unwrap_err();
        assert_eq!(key, "max_address_connects_per_second");
        assert!(message.contains("max_connects_per_second (5)"), "{message}");
        let limits = Limits {
            failed_login_recovery: Duration::ZERO,
            ..Limits::default()
        };
        assert_eq!(limits.check().unwrap_err().0, "failed_login_recovery");
    }

    #[test]
    fn heartbeats_are_milliseconds_and_may_be_off() {
        let stomp = |receive| Stomp {
            heartbeat_receive: receive,
            ..Stomp::default()
        };
        assert_eq!(stomp(Duration::ZERO).check(), Ok(()));
        assert_eq!(stomp(Duration::from_millis(1500)).check(), Ok(()));
        assert!(stomp(Duration::from_micros(1500)).check().is_err());
        assert!(stomp(Duration::from_secs(5_000_000)).check().is_err());
    }

    #[test]
    fn pings_may_be_off_but_no_flood() {
        let stomp = |milliseconds| Stomp {
            ping_interval: Duration::from_millis(milliseconds),
            ..Stomp::default()
        };
        assert_eq!(stomp(0).check(), Ok(()));
        assert_eq!(stomp(100).check(), Ok(()));
        assert_eq!(stomp(99).check().unwrap_err().0, "ping_interval");
    }

    #[test]
    fn the_decoder_is_stricter_before_the_login() {
        let limits = Limits::default();
        assert_eq!(limits.decoder().max_frame_size, 4 << 20);
        let first = limits.decoder_unauthenticated();
        assert_eq!(first.max_frame_size, 64 << 10);
        assert_eq!(first.max_headers, limits.max_headers);
    }

    #[test]
    fn the_server_header_can_be_hidden() {
        let mut stomp = Stomp::default();
        let (limits, auth, broker) = Default::default();
        let shared = |stomp: &Stomp| session_config(&limits, stomp, &auth, &broker);
        let shown = shared(&stomp).server;
        assert!(shown.unwrap().starts_with("stentor/"));
        stomp.server_header = ServerHeader::Hidden;
        assert_eq!(shared(&stomp).server, None);
        stomp.server_header = ServerHeader::Text("a\nb".into());
        assert_eq!(stomp.check().unwrap_err().0, "server_header");
    }
}
