//! The list of attacks by one user, and the effects that others may notice (pure).

use clap::ValueEnum;
use serde::Serialize;

/// An attack.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Attack {
    /// SUBSCRIBE to a queue that is not there, again and again
    SubscribeMissing,
    /// SUBSCRIBE to a queue with an argument that RabbitMQ refuses
    SubscribeRefused,
    /// SEND to a queue with an argument that RabbitMQ refuses
    SendRefused,
    /// SEND to an exchange that is not there
    SendMissing,
    /// SEND with a reply-to that RabbitMQ refuses, 40 at once
    ReplyTo,
    /// SEND to an exchange that is RabbitMQ's own, 40 at once
    InternalExchange,
    /// A pattern with three # and keys of 125 words
    ThreeWildcards,
    /// A pattern with two # and keys of 125 words
    TwoWildcards,
    /// Requests that a strict RabbitMQ answers by closing the connection; needs RabbitMQ 4
    Denied,
    /// A policy by which full queues refuse what is new, and a gateway that stands still for a while
    FullQueues,
    /// SEND with mandatory:true to nobody, as fast as they go
    Mandatory,
    /// BEGIN and ABORT, as fast as they go
    Transactions,
    /// SUBSCRIBE and UNSUBSCRIBE of random keys, as fast as they go
    Bindings,
    /// Large messages to many subscriptions with queues of their own, of a client that does not read
    OwnQueues,
    /// SEND of large bodies from many connections, without a pause
    Bodies,
    /// Large bodies that are never complete, from many connections
    HalfBodies,
    /// SEND of large bodies while RabbitMQ is short of memory
    Alarm,
    /// Requests on the WebSocket's port that are never complete, from one address
    HalfRequests,
    /// The same on the port for health
    HalfHealth,
    /// Requests for a page that is not there, on connections that are kept
    Missing,
    /// Sessions of SockJS, opened by a few connections as fast as they go, in which nobody logs in
    SockjsSessions,
    /// Connections to the STOMP port on which nobody logs in
    Sockets,
}

/// How much of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Amount {
    /// Connections at a time.
    pub(super) connections: u32,
    /// How often altogether; 0 is as often as there is time.
    pub(super) times: u32,
    /// The longest that it may take. In seconds.
    pub(super) seconds: f64,
    /// The body of each message. In bytes.
    pub(super) size: usize,
}

/// The circumstance of an attack.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Circumstance {
    /// Others publish by STOMP.
    Usual,
    /// RabbitMQ is short of memory, so that nobody can publish.
    NoMemory,
    /// RabbitMQ has a policy for full queues; backends publish.
    Policy,
}

/// How much longer others' messages may take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Delay {
    /// The slowest of a hundred takes less than a second.
    Second,
    /// Twice as long as without the attack, or less than what this machine's noise makes.
    Twice,
    /// It is told, and not judged.
    Any,
}

/// The bounds of the effects on others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Bounds {
    pub(super) delay: Delay,
    /// How much the gateway may grow meanwhile. In MiB.
    pub(super) growth: Option<f64>,
}

/// The most of that growth that may be left some seconds after the end. In MiB.
pub(super) const LEFT: f64 = 200.0;

/// Below that, twice as long is noise: client, attackers and servers share the machine. In
/// milliseconds, of half of the messages and of 99 in a hundred.
pub(super) const NOISE: (f64, f64) = (5.0, 50.0);

impl Attack {
    /// Its description, in a line.
    pub(super) fn what(self) -> String {
        let value = self.to_possible_value();
        let help = value.and_then(|value| value.get_help().map(ToString::to_string));
        help.unwrap_or_default()
    }

    /// In full size; or just enough to see that the tool works.
    pub(super) const fn amount(self, quick: bool) -> Amount {
        const MANY: (u32, u32, f64) = (8, 3000, 90.0);
        const AT_ONCE: (u32, u32, f64) = (40, 3000, 90.0);
        let (connections, times, seconds) = match self {
            Self::SubscribeMissing
            | Self::SubscribeRefused
            | Self::SendRefused
            | Self::SendMissing => MANY,
            Self::ReplyTo | Self::InternalExchange => AT_ONCE,
            // RabbitMQ is slow with them for a while after the last one, too.
            Self::ThreeWildcards => (4, 20, 15.0),
            Self::TwoWildcards => (4, 100, 15.0),
            Self::Denied => (4, 200, 30.0),
            Self::FullQueues => (0, 1, 4.0),
            Self::Mandatory => (4, 0, 10.0),
            Self::Transactions => (3, 0, 10.0),
            Self::Bindings => (20, 0, 10.0),
            // That many subscriptions.
            Self::OwnQueues => (1, 300, 20.0),
            Self::Bodies => (150, 0, 20.0),
            Self::HalfBodies => (150, 0, 5.0),
            Self::Alarm => (20, 0, 10.0),
            Self::HalfRequests | Self::HalfHealth | Self::Missing => (2500, 0, 15.0),
            Self::SockjsSessions => (6, 0, 10.0),
            Self::Sockets => (20_000, 0, 15.0),
        };
        let size = match self {
            Self::OwnQueues | Self::Bodies | Self::HalfBodies => 4_000_000,
            Self::Alarm => 1_000_000,
            _ => 100,
        };
        if !quick {
            return Amount {
                connections,
                times,
                seconds,
                size,
            };
        }
        Amount {
            connections: if connections < 5 { connections } else { 5 },
            times: if times < 20 { times } else { 20 },
            seconds: 1.0,
            size: if size < 100_000 { size } else { 100_000 },
        }
    }

    /// The bounds of the effects on others. With few connections for a second, delays do not count.
    pub(super) const fn bounds(self, quick: bool) -> Bounds {
        let delay = match self {
            _ if quick => Delay::Any,
            // As fast as they go, on the same machine.
            Self::Missing | Self::SockjsSessions | Self::Sockets => Delay::Any,
            Self::Mandatory | Self::Transactions | Self::Bindings => Delay::Twice,
            Self::Bodies | Self::OwnQueues | Self::HalfBodies | Self::Alarm | Self::FullQueues => {
                Delay::Any
            }
            _ => Delay::Second,
        };
        let growth = match self {
            Self::OwnQueues => Some(64.0),
            Self::Bodies | Self::HalfBodies | Self::Alarm => Some(512.0),
            _ => None,
        };
        Bounds { delay, growth }
    }

    pub(super) const fn circumstance(self) -> Circumstance {
        match self {
            Self::Alarm => Circumstance::NoMemory,
            Self::FullQueues => Circumstance::Policy,
            _ => Circumstance::Usual,
        }
    }

    /// Settings of the gateway that it needs: queues that are soon full.
    pub(super) const fn settings(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::FullQueues => &[
                ("limits.max_frame_size", "64KiB"),
                ("feed.max_length_bytes", "64KiB"),
                ("feed.prefetch", "50"),
            ],
            _ => &[],
        }
    }

    /// Lines of `rabbitmq.conf` that it needs, and the first version that knows them.
    pub(super) const fn broker(self) -> Option<(u32, &'static str)> {
        match self {
            Self::Denied => Some((
                4,
                "deprecated_features.permit.transient_nonexcl_queues = false\n",
            )),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::named::Named as _;

    #[test]
    fn each_has_a_name_and_says_what_it_does() {
        for attack in Attack::value_variants() {
            assert!(!attack.name().is_empty());
            assert!(attack.what().len() > 20, "{attack:?}");
        }
    }

    #[test]
    fn a_quick_one_is_smaller_and_shorter() {
        for attack in Attack::value_variants() {
            let (full, quick) = (attack.amount(false), attack.amount(true));
            assert!(quick.connections <= full.connections);
            assert!(quick.times <= full.times);
            assert!(quick.seconds <= full.seconds);
            assert!(quick.seconds > 0.0);
            assert!(quick.size <= full.size);
            assert_eq!(attack.bounds(true).delay, Delay::Any);
        }
    }
}
