//! The results of a run, and how they are told (pure).

use std::{collections::BTreeMap, fmt::Write as _};

use serde::{Deserialize, Serialize};

use super::{
    bar::thousands,
    phases::SERVERS,
    watch::{Part, Sample},
};
use crate::{outcome::Conditions, servers::Role, verify::Verification};

/// A goal of fewer connections is none.
const MILLION: u32 = 1_000_000;

/// A run.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Held {
    pub(super) connections: u32,
    pub(super) gateways: u32,
    pub(super) threads: usize,
    pub(super) durable: bool,
    pub(super) heart_beat_ms: u32,
    /// Memory of each part before the first connection, in MiB; the kernel's and everything's from
    /// before anything was started.
    pub(super) base: BTreeMap<Part, f64>,
    pub(super) connect: Set,
    /// Memory with all connected, in MiB.
    pub(super) memory: BTreeMap<Part, f64>,
    pub(super) hold: Hold,
    pub(super) singles: Singles,
    pub(super) everybody: Everybody,
    pub(super) killed: Killed,
    pub(super) phases: Vec<(f64, String)>,
    pub(super) samples: Vec<Sample>,
    pub(super) conditions: Conditions,
}

/// How all were set up.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Set {
    pub(super) seconds: f64,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    /// Attempts that failed, and why the first did.
    pub(super) failed: u32,
    pub(super) why: Option<String>,
    /// Of each set-up.
    pub(super) cpu_ms: BTreeMap<Role, f64>,
}

/// How they were held.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Hold {
    pub(super) seconds: f64,
    pub(super) cores: BTreeMap<Role, f64>,
    /// Of the whole machine, with all that the kernel does by itself.
    pub(super) machine_cores: f64,
    pub(super) lost: u32,
    pub(super) why: Option<String>,
}

/// How single messages went.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Singles {
    pub(super) verification: Verification,
    pub(super) seconds: f64,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    /// Of each message.
    pub(super) cpu_us: BTreeMap<Role, f64>,
    pub(super) troubles: Vec<String>,
}

/// How the message to everybody went.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Everybody {
    pub(super) verification: Verification,
    pub(super) last_seconds: f64,
    pub(super) half_seconds: f64,
}

/// How users came back from a gateway that was killed.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Killed {
    pub(super) users: u32,
    pub(super) level_seconds: f64,
    /// Attempts that failed.
    pub(super) failed: u32,
    pub(super) p99_ms: f64,
    /// Connections of other gateways that were lost meanwhile.
    pub(super) others_lost: u32,
    pub(super) others_why: Option<String>,
    /// Of the messages that they got afterwards.
    pub(super) verification: Verification,
}

impl Held {
    /// True if every message was right, and nobody was lost who should not have been.
    pub(super) fn is_clean(&self) -> bool {
        let checked = [
            self.singles.verification,
            self.everybody.verification,
            self.killed.verification,
        ];
        checked.iter().all(Verification::is_clean) && self.hold.lost + self.killed.others_lost == 0
    }

    /// A table of all that was measured, with the goals.
    pub(super) fn markdown(&self) -> String {
        let n = f64::from(self.connections);
        let all = thousands(self.connections.into());
        let feeds = if self.durable { "durable" } else { "transient" };
        let mut table = Table::new(self.connections);
        table.row(
            &format!(
                "connected: {all} users on {} gateways of {} thread(s), {feeds} feeds, heart-beats \
                 of {} s",
                self.gateways,
                self.threads,
                f64::from(self.heart_beat_ms) / 1e3
            ),
            &format!(
                "{:.0} s, {:.0} a second; each p50 {:.0} ms, p99 {:.0} ms",
                self.connect.seconds,
                n / self.connect.seconds,
                self.connect.p50_ms,
                self.connect.p99_ms
            ),
            None,
        );
        table.row(
            "attempts to connect that failed",
            &with_reason(self.connect.failed, self.connect.why.as_deref()),
            None,
        );
        table.row(
            "CPU of a set-up",
            &roles(&self.connect.cpu_ms, |cpu| format!("{cpu:.2} ms")),
            None,
        );
        self.memory_rows(&mut table);
        self.hold_rows(&mut table);
        self.message_rows(&mut table);
        table.text
    }

    fn memory_rows(&self, table: &mut Table) {
        let kib = 1024.0 / f64::from(self.connections);
        for part in Part::ALL {
            let Some(&mib) = self.memory.get(&part) else {
                continue;
            };
            let base = self.base.get(&part).copied().unwrap_or_default();
            let measured = format!(
                "{mib:.0} MiB, {:.2} KiB each; {base:.0} MiB of it before the first",
                mib * kib
            );
            let goal = match part {
                Part::Gateways => Some(("≤ 4 KiB each", mib * kib <= 4.0)),
                Part::Everything => Some(("≤ 20 GiB", mib <= 20.0 * 1024.0)),
                _ => None,
            };
            table.row(&format!("memory: {}", part.title()), &measured, goal);
        }
    }

    fn hold_rows(&self, table: &mut Table) {
        let hold = &self.hold;
        table.row(
            &format!("held for {:.1} min: connections lost", hold.seconds / 60.0),
            &with_reason(hold.lost, hold.why.as_deref()),
            Some(("0 in 90 min", hold.lost == 0 && hold.seconds >= 5_400.0)),
        );
        let servers = SERVERS.iter().filter_map(|role| hold.cores.get(role));
        let servers: f64 = servers.sum();
        table.row(
            "cores while held: gateways and RabbitMQ",
            &format!("{servers:.2}"),
            Some(("≤ 0.3", servers <= 0.3)),
        );
        table.row(
            "by part, and the whole machine with the kernel",
            &format!(
                "{}; {:.2}",
                roles(&hold.cores, |cores| format!("{cores:.2}")),
                hold.machine_cores
            ),
            None,
        );
    }

    fn message_rows(&self, table: &mut Table) {
        let (singles, everybody, killed) = (&self.singles, &self.everybody, &self.killed);
        let is_right = |checked: &Verification| checked.is_clean() && checked.correct > 0;
        table.row(
            "single messages, one to each user",
            &format!(
                "{}; {:.0} s, {:.0} a second; p50 {:.1} ms, p99 {:.1} ms",
                checked(&singles.verification),
                singles.seconds,
                singles.verification.correct as f64 / singles.seconds.max(0.001),
                singles.p50_ms,
                singles.p99_ms
            ),
            Some(("0 lost", is_right(&singles.verification))),
        );
        table.row(
            "CPU of a message",
            &roles(&singles.cpu_us, |cpu| format!("{cpu:.0} µs")),
            None,
        );
        table.row(
            "one message to everybody: the last has it",
            &format!(
                "after {:.2} s, half of them after {:.2} s; {}",
                everybody.last_seconds,
                everybody.half_seconds,
                checked(&everybody.verification)
            ),
            Some((
                "< 5 s, 0 lost",
                is_right(&everybody.verification) && everybody.last_seconds < 5.0,
            )),
        );
        table.row(
            &format!(
                "a gateway killed: its {} users are back on others",
                thousands(killed.users.into())
            ),
            &format!(
                "after {:.1} s; p99 of a set-up {:.0} ms, {} attempts failed",
                killed.level_seconds, killed.p99_ms, killed.failed
            ),
            Some(("< 15 s", killed.level_seconds < 15.0)),
        );
        table.row(
            "others lost meanwhile",
            &with_reason(killed.others_lost, killed.others_why.as_deref()),
            Some(("0", killed.others_lost == 0)),
        );
        table.row(
            "a message to each of those who came back",
            &checked(&killed.verification),
            Some(("0 lost", is_right(&killed.verification))),
        );
        for trouble in singles.troubles.iter().take(5) {
            table.row("trouble", trouble, None);
        }
    }
}

/// A table of Markdown.
struct Table {
    text: String,
    is_million: bool,
}

impl Table {
    fn new(connections: u32) -> Self {
        Self {
            text: "| | Measured | Goal of a million | |\n|---|---|---|---|\n".into(),
            is_million: connections >= MILLION,
        }
    }

    fn row(&mut self, what: &str, measured: &str, goal: Option<(&str, bool)>) {
        let (goal, verdict) = match goal {
            Some((goal, true)) if self.is_million => (goal, "met"),
            Some((goal, false)) if self.is_million => (goal, "**not met**"),
            Some((goal, _)) => (goal, ""),
            None => ("", ""),
        };
        // A string takes all.
        let _ = writeln!(self.text, "| {what} | {measured} | {goal} | {verdict} |");
    }
}

fn checked(its: &Verification) -> String {
    let Verification {
        correct,
        lost,
        duplicated,
        reordered,
        misrouted,
    } = *its;
    let right = format!("{} right, {lost} lost", thousands(correct));
    match duplicated + reordered + misrouted {
        0 => right,
        _ => format!("{right}, {duplicated} twice, {reordered} late, {misrouted} misrouted"),
    }
}

fn with_reason(count: u32, why: Option<&str>) -> String {
    match why {
        Some(why) if count > 0 => format!("{count}; the first: {why}"),
        _ => count.to_string(),
    }
}

/// `gateways 0.31 ms, RabbitMQ 0.25 ms, …`
fn roles(figures: &BTreeMap<Role, f64>, text: impl Fn(f64) -> String) -> String {
    let named = |(role, figure): (&Role, &f64)| {
        let name = match role {
            Role::Gateway => "gateways",
            Role::Rabbitmq => "RabbitMQ",
            Role::Nats => "NATS",
            Role::Hook => "hook",
            Role::Client => "clients",
        };
        format!("{name} {}", text(*figure))
    };
    figures.iter().map(named).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A run in which all was right, of so many connections.
    pub(in super::super) fn held(connections: u32) -> Held {
        let right = Verification {
            correct: connections.into(),
            ..Verification::default()
        };
        let memory: BTreeMap<_, _> = Part::ALL.map(|part| (part, 3_000.0)).into();
        let sample = |at: f64, connections| Sample {
            at,
            connections,
            memory: memory.clone(),
        };
        Held {
            connections,
            gateways: 53,
            threads: 1,
            durable: false,
            heart_beat_ms: 60_000,
            base: BTreeMap::new(),
            connect: Set {
                seconds: 600.0,
                ..Set::default()
            },
            memory: memory.clone(),
            hold: Hold {
                seconds: 5_400.0,
                cores: [(Role::Gateway, 0.2), (Role::Rabbitmq, 0.09)].into(),
                ..Hold::default()
            },
            singles: Singles {
                verification: right,
                seconds: 40.0,
                ..Singles::default()
            },
            everybody: Everybody {
                verification: right,
                last_seconds: 4.0,
                ..Everybody::default()
            },
            killed: Killed {
                users: 18_868,
                level_seconds: 14.0,
                verification: right,
                ..Killed::default()
            },
            phases: vec![(1.0, "connect".into()), (601.0, "hold".into())],
            samples: vec![sample(0.0, 0), sample(600.0, connections)],
            conditions: Conditions::default(),
        }
    }

    #[test]
    fn a_million_that_reaches_all_goals_says_so() {
        let held = held(MILLION);
        let text = held.markdown();
        assert!(held.is_clean());
        assert_eq!(text.matches("| met |").count(), 9, "{text}");
        assert!(!text.contains("not met"), "{text}");
    }

    #[test]
    fn what_is_missed_is_said() {
        let mut held = held(MILLION);
        held.everybody.last_seconds = 5.1;
        held.singles.verification.lost = 1;
        held.hold.seconds = 60.0;
        held.killed.level_seconds = 16.0;
        held.memory.insert(Part::Gateways, 5_000.0);
        let text = held.markdown();
        assert_eq!(text.matches("**not met**").count(), 5, "{text}");
        assert!(!held.is_clean());
    }

    #[test]
    fn fewer_have_no_verdict() {
        let text = held(40_000).markdown();
        assert!(!text.contains("met |"), "{text}");
        assert!(text.contains("40,000 users on 53 gateways"), "{text}");
    }
}
