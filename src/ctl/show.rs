//! Answers as tables, for people.

use comfy_table::{CellAlignment, Table, presets::UTF8_FULL_CONDENSED};

use crate::{
    api::{
        Alive, Ban, BanOutcome, Bans, Configuration, Counts, Difference, Group, KeyChange,
        KeyFailure, Node, Nodes, Outcome, Published, Reach, Ready, Room, Rooms, Session, Sessions,
        Status, User, Users,
    },
    tap::printable,
    units::show_size,
};

/// Shows itself to people.
pub(super) trait Show {
    fn show(&self) -> String;
}

impl Show for Node {
    fn show(&self) -> String {
        let transports: Vec<String> = self
            .connections
            .by_transport
            .iter()
            .map(|(transport, count)| format!("{count} {transport}"))
            .collect();
        let bytes = |bytes: Option<u64>| bytes.map_or_else(unknown, mebibytes);
        let number = |number: Option<u64>| number.map_or_else(unknown, |number| number.to_string());
        let mut text = facts(&[
            ("node", self.name.clone()),
            ("version", self.version.clone()),
            (
                "started",
                format!("{}, {} ago", self.started, duration(self.uptime_seconds)),
            ),
            ("phase", self.phase.clone()),
            (
                "broker",
                match &*self.broker_addresses {
                    [] => self.broker.clone(),
                    places => format!("{} ({})", self.broker, places.join(", ")),
                },
            ),
            ("presence", self.presence.clone()),
            (
                "connections",
                match &*transports {
                    [] => self.connections.open.to_string(),
                    _ => format!("{} ({})", self.connections.open, transports.join(", ")),
                },
            ),
            ("at most", self.limits.max_connections.to_string()),
            ("memory", bytes(self.process.resident_bytes)),
            (
                "files",
                format!(
                    "{} of {}",
                    number(self.process.open_files),
                    number(self.process.max_files)
                ),
            ),
            (
                "frames",
                format!("up to {}", show_size(self.limits.max_frame_size)),
            ),
        ]);
        let vhosts = self.vhosts.iter();
        text.push_str(&rows(
            &["vhost", "broker", "clients", "feeds"],
            &[2, 3],
            vhosts.map(|vhost| {
                vec![
                    vhost.name.clone(),
                    vhost.broker.clone(),
                    vhost.clients.to_string(),
                    vhost.feeds.len().to_string(),
                ]
            }),
        ));
        let mut feeds = self
            .vhosts
            .iter()
            .flat_map(|vhost| vhost.feeds.iter().map(move |feed| (vhost, feed)))
            .peekable();
        if feeds.peek().is_some() {
            text.push_str(&rows(
                &[
                    "vhost",
                    "exchange",
                    "type",
                    "shard",
                    "patterns",
                    "lingering",
                    "messages",
                    "unmatched",
                    "deliveries",
                ],
                &[3, 4, 5, 6, 7, 8],
                feeds.map(|(vhost, feed)| {
                    vec![
                        vhost.name.clone(),
                        feed.exchange.clone(),
                        feed.kind.clone(),
                        feed.shard.to_string(),
                        feed.patterns.to_string(),
                        feed.lingering.to_string(),
                        feed.routed.to_string(),
                        feed.unmatched.to_string(),
                        feed.delivered.to_string(),
                    ]
                }),
            ));
        }
        let feeds = self.vhosts.iter().flat_map(|vhost| {
            let feeds = vhost.feeds.iter();
            feeds.filter_map(move |feed| Some((vhost, feed, feed.journal.as_ref()?)))
        });
        let mut journals = feeds.peekable();
        if journals.peek().is_some() {
            text.push_str(&rows(
                &[
                    "vhost",
                    "journal",
                    "newest",
                    "in memory from",
                    "messages",
                    "memory",
                    "catching up",
                    "readings",
                ],
                &[2, 3, 4, 5, 6, 7],
                journals.map(|(vhost, feed, journal)| {
                    vec![
                        vhost.name.clone(),
                        feed.exchange.clone(),
                        journal.newest.map_or_else(String::new, |at| at.to_string()),
                        journal.oldest_in_memory.to_string(),
                        journal.messages.to_string(),
                        show_size(journal.bytes),
                        journal.resuming.to_string(),
                        journal.readings.to_string(),
                    ]
                }),
            ));
        }
        text
    }
}

impl Show for Nodes {
    fn show(&self) -> String {
        let nodes = self.nodes.iter();
        rows(
            &["node", "started", "sessions"],
            &[2],
            nodes.map(|node| {
                vec![
                    node.node.clone(),
                    node.started.clone(),
                    node.sessions.to_string(),
                ]
            }),
        )
    }
}

impl Show for Counts {
    fn show(&self) -> String {
        facts(&[
            ("sessions", self.sessions.to_string()),
            ("users", self.users.to_string()),
        ])
    }
}

impl Show for Sessions {
    fn show(&self) -> String {
        let mut text = sessions(&self.sessions);
        if self.next.is_some() {
            text.push_str("There are more: see --limit.\n");
        }
        text
    }
}

impl Show for Session {
    fn show(&self) -> String {
        let or_none = |text: &Option<String>| text.clone().unwrap_or_default();
        facts(&[
            ("session", self.session.clone()),
            ("user", self.user.clone()),
            ("status", word(self.status).to_owned()),
            ("node", self.node.clone()),
            ("transport", self.transport.clone()),
            ("remote", or_none(&self.remote)),
            ("device type", or_none(&self.device_type)),
            ("device id", or_none(&self.device_id)),
            ("since", self.since.clone()),
            ("last seen", self.last_seen.clone()),
        ])
    }
}

impl Show for User {
    fn show(&self) -> String {
        let mut text = facts(&[
            ("user", self.user.clone()),
            ("status", word(self.status).to_owned()),
        ]);
        if !self.sessions.is_empty() {
            text.push_str(&sessions(&self.sessions));
        }
        text
    }
}

impl Show for Users {
    fn show(&self) -> String {
        let users = self.users.iter();
        rows(
            &["user", "status", "sessions"],
            &[2],
            users.map(|user| {
                vec![
                    user.user.clone(),
                    word(user.status).to_owned(),
                    user.sessions.to_string(),
                ]
            }),
        )
    }
}

impl Show for Group {
    fn show(&self) -> String {
        let online = self.online.iter();
        rows(
            &["user", "status"],
            &[],
            online.map(|member| vec![member.user.clone(), word(member.status).to_owned()]),
        )
    }
}

impl Show for Outcome {
    fn show(&self) -> String {
        let nodes = self.nodes.iter();
        let mut text = rows(
            &["node", "hits"],
            &[1],
            nodes.map(|node| vec![node.node.clone(), node.hits.to_string()]),
        );
        if let Some(why) = &self.unreached {
            text.push_str(&format!(
                "Other nodes could not be told: {}\n",
                printable(why)
            ));
        }
        text.push_str(&unheard(&self.silent));
        text
    }
}

/// A line about nodes that did not answer, if there are any.
fn unheard(silent: &[String]) -> String {
    match silent {
        [] => String::new(),
        silent => format!("No answer came from: {}\n", printable(&silent.join(", "))),
    }
}

/// Why a command came to nothing (then it is in these words, if they are given), or may not be done
/// on all nodes.
pub(super) fn in_vain(outcome: &Outcome, nobody: Option<&str>) -> Option<String> {
    let elsewhere = match (&outcome.unreached, &*outcome.silent) {
        (Some(why), _) => format!("other nodes could not be told: {}", printable(why)),
        (None, []) => {
            let nobody = nobody.filter(|_| outcome.hits == 0);
            return nobody.map(str::to_owned);
        }
        (None, silent) => format!("no answer came from {}", printable(&silent.join(", "))),
    };
    let here = match outcome.hits {
        0 => "nothing was found on the nodes that answered",
        _ => "it may be done only in part",
    };
    Some(format!("{here}; {elsewhere}"))
}

/// Why a ban, or its lifting, holds on one node alone.
pub(super) fn this_node_only(outcome: &BanOutcome) -> String {
    let why = outcome.unreached.as_deref().unwrap_or_default();
    format!("only this node holds to it: {}", printable(why))
}

impl Show for Bans {
    fn show(&self) -> String {
        let bans = self.bans.iter();
        let mut text = rows(
            &["banned", "since", "until", "reason"],
            &[],
            bans.map(|ban| {
                let until = ban.until.clone();
                vec![
                    banned(ban),
                    ban.since.clone(),
                    until.unwrap_or_else(|| "no end".to_owned()),
                    ban.reason.clone(),
                ]
            }),
        );
        if self.next.is_some() {
            text.push_str("There are more: see --limit.\n");
        }
        text
    }
}

impl Show for BanOutcome {
    fn show(&self) -> String {
        let nodes = self.nodes.iter();
        let mut text = rows(
            &["node", "hits"],
            &[1],
            nodes.map(|node| vec![node.node.clone(), node.hits.to_string()]),
        );
        let what = match &self.ban {
            None => "Lifted".to_owned(),
            Some(ban) => {
                let until = ban.until.as_deref().unwrap_or("it is lifted");
                format!("Banned until {until}: {}", printable(&banned(ban)))
            }
        };
        let reach = match self.reach {
            Reach::AllNodes => "on all nodes",
            Reach::ThisNodeOnly => "on this node only",
        };
        text.push_str(&format!("{what}, {reach}\n"));
        if let Some(why) = &self.unreached {
            text.push_str(&format!("{}\n", printable(why)));
        }
        text.push_str(&unheard(&self.silent));
        text
    }
}

/// The subject of a ban.
fn banned(ban: &Ban) -> String {
    let all = [
        ("user", &ban.user),
        ("address", &ban.address),
        ("device", &ban.device_id),
    ];
    let named = all.into_iter();
    let mut named = named.filter_map(|(kind, name)| Some(format!("{kind} {}", name.as_ref()?)));
    named.next().unwrap_or_default()
}

impl Show for Room {
    fn show(&self) -> String {
        let mut text = facts(&[
            ("members", self.members.to_string()),
            ("sessions", self.sessions.to_string()),
        ]);
        let list = self.list.iter();
        text.push_str(&rows(
            &["user", "sessions"],
            &[1],
            list.map(|member| vec![member.user.clone(), member.sessions.to_string()]),
        ));
        if self.next.is_some() {
            text.push_str("There are more: see --limit.\n");
        }
        text
    }
}

impl Show for Rooms {
    fn show(&self) -> String {
        let rooms = self.rooms.iter();
        rows(
            &["key", "members", "sessions"],
            &[1, 2],
            rooms.map(|room| {
                vec![
                    room.key.clone(),
                    room.members.to_string(),
                    room.sessions.to_string(),
                ]
            }),
        )
    }
}

impl Show for Published {
    fn show(&self) -> String {
        match self.published {
            1 => "1 message published\n".to_owned(),
            many => format!("{many} messages published\n"),
        }
    }
}

impl Show for Alive {
    fn show(&self) -> String {
        facts(&[("status", self.status.clone())])
    }
}

impl Show for Ready {
    fn show(&self) -> String {
        let or_none = |text: &Option<String>| text.clone().unwrap_or_default();
        let listeners = self.listeners.iter();
        let listeners: Vec<_> = listeners
            .map(|(key, address)| format!("{address} ({key})"))
            .collect();
        facts(&[
            ("status", self.status.clone()),
            ("cause", or_none(&self.cause)),
            ("degraded", or_none(&self.degraded)),
            ("connections", self.connections.to_string()),
            ("presence", self.presence.clone()),
            ("broker", self.broker.join(", ")),
            ("listeners", listeners.join(", ")),
        ])
    }
}

impl Show for Difference {
    fn show(&self) -> String {
        let mut text = String::new();
        for (title, keys) in [
            ("Changed by a reload", &self.changed),
            (
                "Needs a restart; the old value stays until then",
                &self.needs_restart,
            ),
        ] {
            if !keys.is_empty() {
                text.push_str(&format!("{title}:\n"));
                text.push_str(&rows(&["key", "old", "new"], &[], keys.iter().map(change)));
            }
        }
        if text.is_empty() {
            text = "No key differs.\n".to_owned();
        }
        text
    }
}

fn change(change: &KeyChange) -> Vec<String> {
    let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "not set".to_owned());
    let mut new = value(&change.new);
    if change.secret {
        new.push_str(" (another secret)");
    }
    vec![change.key.clone(), value(&change.old), new]
}

impl Show for Configuration {
    fn show(&self) -> String {
        let keys = self.keys.iter();
        rows(
            &["key", "value", "set by", "changes by"],
            &[],
            keys.map(|key| {
                let value = key.value.clone();
                let by = if key.reloads { "reload" } else { "restart" };
                vec![
                    format!("[{}] {}", key.section, key.key),
                    value.unwrap_or_else(|| "not set".to_owned()),
                    key.source.clone().unwrap_or_else(|| "default".to_owned()),
                    by.to_owned(),
                ]
            }),
        )
    }
}

/// Messages of which some reached no queue.
pub(super) fn unrouted(published: usize, unrouted: &[KeyFailure]) -> String {
    let mut text = match published {
        0 => String::new(),
        _ => Published {
            published,
            report: Vec::new(),
        }
        .show(),
    };
    match unrouted {
        [only] => text.push_str(&format!(
            "1 message reached no queue: nothing is bound for the key {:?}\n",
            only.key
        )),
        many => {
            let count = many.len();
            text.push_str(&format!(
                "{count} messages reached no queue: nothing is bound for their keys\n"
            ));
        }
    }
    text
}

fn sessions(sessions: &[Session]) -> String {
    rows(
        &[
            "session",
            "user",
            "status",
            "node",
            "transport",
            "remote",
            "device",
            "since",
        ],
        &[],
        sessions.iter().map(|session| {
            let device: Vec<&str> = [&session.device_type, &session.device_id]
                .into_iter()
                .flatten()
                .map(String::as_str)
                .collect();
            vec![
                session.session.clone(),
                session.user.clone(),
                word(session.status).to_owned(),
                session.node.clone(),
                session.transport.clone(),
                session.remote.clone().unwrap_or_default(),
                device.join(" "),
                session.since.clone(),
            ]
        }),
    )
}

/// A table with names on the left.
pub(super) fn facts(facts: &[(&str, String)]) -> String {
    let mut table = table();
    for (name, value) in facts.iter().filter(|(_, value)| !value.is_empty()) {
        table.add_row([(*name).to_owned(), printable(value)]);
    }
    format!("{table}\n")
}

/// A table with a head; numbers stand on the right.
pub(super) fn rows(
    head: &[&str],
    numbers: &[usize],
    rows: impl Iterator<Item = Vec<String>>,
) -> String {
    let mut table = table();
    table.set_header(head);
    for row in rows {
        table.add_row(row.iter().map(|cell| printable(cell)));
    }
    for number in numbers {
        if let Some(column) = table.column_mut(*number) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    format!("{table}\n")
}

fn table() -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED.with_rounded_corners());
    table
}

fn word(status: Status) -> &'static str {
    match status {
        Status::Offline => "offline",
        Status::Away => "away",
        Status::Online => "online",
        Status::Busy => "busy",
        Status::Invisible => "invisible",
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

fn unknown() -> String {
    "?".to_owned()
}

fn duration(seconds: u64) -> String {
    humantime::format_duration(std::time::Duration::from_secs(seconds)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_steer_the_terminal() {
        let group = Group {
            group: "g".to_owned(),
            online: vec![crate::api::Member {
                user: "a\u{1b}[2J\nböb\u{202e}".to_owned(),
                status: Status::Away,
            }],
        };
        insta::assert_snapshot!(group.show(), @r"
        ╭─────────────────────────┬────────╮
        │ user                    ┆ status │
        ╞═════════════════════════╪════════╡
        │ a\u{1b}[2J\nböb\u{202e} ┆ away   │
        ╰─────────────────────────┴────────╯
        ");
    }

    #[test]
    fn a_command_that_did_not_reach_all_nodes_is_not_done() {
        let nobody = Some("there is none of that name");
        let outcome = |hits, unreached: Option<&str>, silent: &[&str]| Outcome {
            hits,
            nodes: Vec::new(),
            silent: silent.iter().map(ToString::to_string).collect(),
            unreached: unreached.map(str::to_owned),
        };
        for (outcome, words) in [
            (outcome(1, None, &[]), None),
            (outcome(0, None, &[]), Some("none of that name")),
            (
                outcome(1, Some("away"), &[]),
                Some("only in part; other nodes could not be told: away"),
            ),
            // Whoever was meant may be on a node that nobody could ask.
            (
                outcome(0, Some("away"), &[]),
                Some("nodes that answered; other nodes could not"),
            ),
            (
                outcome(1, None, &["d", "e"]),
                Some("only in part; no answer came from d, e"),
            ),
            (
                outcome(0, None, &["d"]),
                Some("nodes that answered; no answer came from d"),
            ),
        ] {
            let found = in_vain(&outcome, nobody);
            assert_eq!(found.is_some(), words.is_some(), "{outcome:?}: {found:?}");
            let found = found.unwrap_or_default();
            assert!(found.contains(words.unwrap_or_default()), "{found}");
        }
        assert_eq!(in_vain(&outcome(0, None, &[]), None), None);
        assert!(in_vain(&outcome(0, None, &["d"]), None).is_some());
    }

    #[test]
    fn numbers_stand_on_the_right() {
        let users = Users {
            users: [("alice", Status::Online, 2), ("bob", Status::Offline, 0)]
                .map(|(user, status, sessions)| crate::api::UserStatus {
                    user: user.to_owned(),
                    status,
                    sessions,
                })
                .into(),
        };
        insta::assert_snapshot!(users.show(), @r"
        ╭───────┬─────────┬──────────╮
        │ user  ┆ status  ┆ sessions │
        ╞═══════╪═════════╪══════════╡
        │ alice ┆ online  ┆        2 │
        │ bob   ┆ offline ┆        0 │
        ╰───────┴─────────┴──────────╯
        ");
    }
}
