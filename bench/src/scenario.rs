//! Scenarios: from their options to the orders for workers (pure).

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::{
    named::Named as _,
    orders::{Chat, Churn, Coming, Habits, Load, Pace, Transport},
    wire::body::MIN_SIZE,
};

/// A scenario.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Scenario {
    /// Connections that only keep their heart-beats: memory for each, and processor time
    Idle,
    /// Everybody comes at once: connect, log in, subscribe, receipt
    Storm,
    /// Messages to each user in turn, so many always on their way: the highest rate
    Unicast,
    /// Messages to everybody, so many always on their way; beside what bare write(2) calls reach
    Broadcast,
    /// Messages to each user in turn at a fixed rate: how long each takes
    Latency,
    /// Broadcasts without pause: how long messages to single users take beside them
    Fairness,
    /// Clients that come and go, while messages flow to others
    Churn,
    /// Subscriptions that come and go on connections that stay, while messages flow
    Bindings,
    /// A room in which each member sends to all, by STOMP: 500 of them, 40 rounds, 10,000,000
    /// deliveries (the test of GoChat)
    Gochat,
    /// Some clients do not read: the others' messages, and the servers' memory
    Slow,
}

impl Scenario {
    /// True if it can be done with NATS, which asks no hook and gives no receipts.
    pub(crate) const fn is_for_nats(self) -> bool {
        matches!(
            self,
            Self::Idle | Self::Unicast | Self::Broadcast | Self::Latency | Self::Fairness
        )
    }

    /// True if messages go to everybody. Such a load is one worker's, which counts the copies.
    pub(crate) const fn is_broadcast(self) -> bool {
        matches!(
            self,
            Self::Broadcast | Self::Fairness | Self::Slow | Self::Gochat
        )
    }
}

/// The largest body that servers take by default. In bytes.
const MAX_SIZE: usize = 1024 * 1024;

/// In milliseconds.
const HEART_BEAT: u32 = 10_000;

/// Options of a scenario. Each scenario has its own choice for those that are not given.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Connections; several numbers, with commas between, are measured one after the other
    /// [default: 1000; in gochat: 500]
    #[arg(
        long,
        short = 'n',
        value_name = "N,…",
        value_delimiter = ',',
          value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) connections: Vec<u32>,
    /// How long is measured, after the warm-up
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0, value_parser = positive)]
    pub(crate) seconds: f64,
    /// The time before the measurement, whose messages are checked
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0, value_parser = not_negative)]
    pub(crate) warm_up: f64,
    /// The body of a message, at least 56 [default: 256; in slow: 4096; in gochat: 64]
    #[arg(long, value_name = "BYTES", value_parser = size)]
    pub(crate) size: Option<usize>,
    /// Messages always on their way [default: 1000; of those to everybody 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) outstanding: Option<u32>,
    /// Messages a second, where the rate is fixed [default: 1000; in slow: 100]
    #[arg(long, value_name = "PER_SECOND", value_parser = positive)]
    pub(crate) rate: Option<f64>,
    /// In churn and bindings: how many come a second
    #[arg(long, value_name = "PER_SECOND", default_value_t = 100.0, value_parser = positive)]
    pub(crate) come: f64,
    /// In churn and bindings: how long each stays
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = not_negative)]
    pub(crate) stay: f64,
    /// In gochat: how often each member sends
    #[arg(long, value_name = "N", default_value_t = 40,
          value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) rounds: u64,
    /// In slow: how many of a hundred do not read
    #[arg(long, value_name = "PERCENT", default_value_t = 5,
          value_parser = clap::value_parser!(u32).range(1..=99))]
    pub(crate) slow: u32,
    /// Connections that are opened at once [default: 100; in idle: 10]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) at_once: Option<u32>,
    /// In storm: all are the same user, so that permissions are remembered after the first
    #[arg(long)]
    pub(crate) same_user: bool,
    /// Heart-beats both ways; 0 switches them off
    #[arg(long, value_name = "MILLISECONDS", default_value_t = HEART_BEAT)]
    pub(crate) heart_beat: u32,
    /// The transport of the clients' frames; only Stentor speaks SockJS
    #[arg(long, value_enum, default_value = "websocket")]
    pub(crate) transport: Transport,
    /// Publish by SEND frames instead of AMQP; with the embedded broker it is the only way
    #[arg(long)]
    pub(crate) stomp: bool,
}

/// The plan of one run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The scenario, the connections, and each option that was given: runs with the same text can
    /// be compared.
    pub(crate) case: String,
    pub(crate) connections: u32,
    pub(crate) at_once: u32,
    pub(crate) habits: Habits,
    /// `None` if the connections only stay.
    pub(crate) load: Option<Load>,
    /// How long, if they only stay. In seconds.
    pub(crate) rest: f64,
    /// What they send, if they chat.
    pub(crate) chat: Option<Chat>,
}

/// Rounds of a chat that are on their way: with 500 members two would fill a mailbox.
const AHEAD: u64 = 1;

impl Options {
    /// The numbers of connections.
    pub(crate) fn sizes(&self, scenario: Scenario) -> Vec<u32> {
        match (self.connections.as_slice(), scenario) {
            ([], Scenario::Gochat) => vec![500],
            ([], _) => vec![1000],
            (given, _) => given.to_vec(),
        }
    }

    /// The plan for so many connections. Several workers share the messages.
    pub(crate) fn plan(&self, scenario: Scenario, connections: u32) -> Plan {
        let mut case = format!("{} {connections}", scenario.name());
        let mut note = |text: String| {
            case.push(' ');
            case.push_str(&text);
        };
        let open = |fallback: f64| Pace::Open(self.rate.unwrap_or(fallback));
        let closed = |fallback: u32| Pace::Closed(self.outstanding.unwrap_or(fallback));
        let mut habits = Habits {
            own_key: true,
            heart_beat_ms: self.heart_beat,
            transport: self.transport,
            ..Habits::default()
        };
        let (unicast, broadcast) = match scenario {
            Scenario::Idle | Scenario::Gochat => (None, None),
            Scenario::Storm => {
                habits.same_user = self.same_user;
                (None, None)
            }
            Scenario::Unicast => (Some(closed(1000)), None),
            Scenario::Broadcast => (None, Some(closed(4))),
            Scenario::Latency | Scenario::Churn | Scenario::Bindings => (Some(open(1000.0)), None),
            Scenario::Fairness => (Some(open(1000.0)), Some(closed(4))),
            Scenario::Slow => {
                habits.slow_percent = self.slow;
                (None, Some(open(100.0)))
            }
        };
        habits.common_key = scenario.is_broadcast();
        habits.own_key = unicast.is_some() || !scenario.is_broadcast();
        let coming = match scenario {
            Scenario::Churn => Some(Coming::Connections),
            Scenario::Bindings => Some(Coming::Subscriptions),
            _ => None,
        };
        let churn = coming.map(|what| Churn {
            what,
            per_second: self.come,
            stay_ms: milliseconds(self.stay),
        });
        for pace in [unicast, broadcast].into_iter().flatten() {
            match pace {
                Pace::Open(rate) => note(format!("{rate}/s")),
                Pace::Closed(most) => note(format!("{most} outstanding")),
            }
        }
        if let Some(churn) = churn {
            note(format!("{} come/s", churn.per_second));
        }
        if habits.slow_percent > 0 {
            note(format!("{}% slow", habits.slow_percent));
        }
        if habits.same_user {
            note("same user".into());
        }
        match habits.transport {
            Transport::WebSocket => {}
            Transport::SockjsXhrStreaming => note("SockJS xhr-streaming".into()),
            Transport::SockjsXhr => note("SockJS xhr-polling".into()),
        }
        if habits.heart_beat_ms != HEART_BEAT {
            note(format!("heart-beats {} ms", habits.heart_beat_ms));
        }
        let size = match scenario {
            Scenario::Slow => self.size.unwrap_or(4096),
            Scenario::Gochat => self.size.unwrap_or(64),
            _ => self.size.unwrap_or(256),
        };
        let chat = (scenario == Scenario::Gochat).then_some(Chat {
            rounds: self.rounds,
            ahead: AHEAD,
            size,
        });
        if let Some(chat) = chat {
            note(format!("{} rounds {size} bytes", chat.rounds));
        }
        let has_messages = unicast.is_some() || broadcast.is_some();
        if has_messages {
            note(format!("{size} bytes"));
            if self.stomp {
                note("by STOMP".into());
            }
        }
        Plan {
            case,
            connections,
            at_once: self.at_once.unwrap_or(match scenario {
                // The memory of log-ins under way would count, and soon be given back.
                Scenario::Idle => 10,
                _ => 100,
            }),
            habits,
            load: has_messages.then(|| Load {
                unicast,
                publishers: 1,
                broadcast,
                churn,
                size,
                warm_up_ms: milliseconds(self.warm_up),
                measure_ms: milliseconds(self.seconds),
                rounds: None,
            }),
            rest: match scenario {
                Scenario::Idle => self.seconds,
                _ => 0.0,
            },
            chat,
        }
    }
}

/// One worker's share of a load: it has so many of all the clients.
pub(crate) fn share(load: &Load, clients: u32, all: u32) -> Load {
    let part = f64::from(clients) / f64::from(all);
    let share = |pace: Pace| match pace {
        Pace::Open(rate) => Pace::Open(rate * part),
        Pace::Closed(most) => Pace::Closed(((f64::from(most) * part).round() as u32).max(1)),
    };
    Load {
        unicast: load.unicast.map(share),
        churn: load.churn.map(|churn| Churn {
            per_second: churn.per_second * part,
            ..churn
        }),
        ..load.clone()
    }
}

fn size(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(size) if (MIN_SIZE..=MAX_SIZE).contains(&size) => Ok(size),
        _ => Err(format!("expected a number from {MIN_SIZE} to {MAX_SIZE}")),
    }
}

fn positive(text: &str) -> Result<f64, String> {
    not_negative(text).and_then(|number| match number {
        0.0 => Err("expected more than 0".into()),
        number => Ok(number),
    })
}

fn not_negative(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if (0.0..=1e6).contains(&number) => Ok(number),
        _ => Err("expected a number from 0 to 1000000".into()),
    }
}

fn milliseconds(seconds: f64) -> u64 {
    (seconds * 1000.0).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn plan(scenario: Scenario, arguments: &[&str]) -> Plan {
        let arguments = std::iter::once(&"bench").chain(arguments);
        let options = Line::parse_from(arguments).options;
        options.plan(scenario, 200)
    }

    #[test]
    fn a_case_names_what_sets_it_apart() {
        assert_eq!(plan(Scenario::Idle, &[]).case, "idle 200");
        assert_eq!(
            plan(Scenario::Latency, &["--rate", "5000"]).case,
            "latency 200 5000/s 256 bytes"
        );
        assert_eq!(
            plan(Scenario::Storm, &["--same-user"]).case,
            "storm 200 same user"
        );
    }

    #[test]
    fn clients_subscribe_to_what_is_published() {
        for scenario in Scenario::value_variants() {
            let plan = plan(*scenario, &[]);
            let Some(load) = plan.load else {
                assert_eq!(plan.habits.common_key, plan.chat.is_some());
                assert_eq!(plan.habits.own_key, plan.chat.is_none());
                continue;
            };
            assert_eq!(load.unicast.is_some(), plan.habits.own_key, "{scenario:?}");
            assert_eq!(load.broadcast.is_some(), plan.habits.common_key);
            assert_eq!(load.broadcast.is_some(), scenario.is_broadcast());
        }
    }

    #[test]
    fn what_would_never_end_is_refused() {
        for wrong in [
            "--rate=0",
            "--come=-1",
            "--seconds=inf",
            "--size=55",
            "-n=0",
        ] {
            assert!(Line::try_parse_from(["bench", wrong]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn workers_share_a_load() {
        let load = plan(Scenario::Churn, &["--rate", "900", "--come", "90"]).load;
        let third = share(&load.unwrap(), 100, 300);
        assert_eq!(third.unicast, Some(Pace::Open(300.0)));
        assert_eq!(third.churn.unwrap().per_second, 30.0);
        let load = plan(Scenario::Unicast, &["--outstanding", "2"]).load;
        let little = share(&load.unwrap(), 1, 300);
        assert_eq!(little.unicast, Some(Pace::Closed(1)));
    }
}
