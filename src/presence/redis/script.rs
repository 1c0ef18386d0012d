//! Scripts that Redis runs: steps that nothing may come between.

use std::{
    fmt::Write as _,
    sync::{Arc, LazyLock},
    time::{Duration, SystemTime},
};

use deadpool_redis::redis::{FromRedisValue, Pipeline, Value};

use super::entry::{
    CLEARING, CLOSED, Keys, LEFT, LeaseId, encode_claimed, encode_listed, encode_member,
};
use crate::presence::{Event, PresenceEntry, Record, Status, departures::Stamp};

/// Compares a user's status with what was told, and writes down what is told from now on.
const SETTLE: &str = include_str!("settle.lua");
/// Writes a session down, if the lease of its node still holds.
const CLAIM: &str = include_str!("claim.lua");

/// Ends a lease.
const END_LEASE: &str = include_str!("end_lease.lua");

/// A hash's fields; of very many, some.
const FIELDS: &str = include_str!("fields.lua");

/// Writes down how many sessions of a user a node has in a room.
const ROOM_REPORT: &str = include_str!("room_report.lua");
/// Finds out whether others are to be told that a user has left a room.
const ROOM_SETTLE: &str = include_str!("room_settle.lua");

/// How Redis calls the scripts of rooms, once they are loaded: the SHA-1 of each.
static ROOM_NAMES: LazyLock<[String; 2]> = LazyLock::new(|| [ROOM_REPORT, ROOM_SETTLE].map(sha1));

/// Writes a record that all nodes share.
const PUT_RECORD: &str = include_str!("put_record.lua");
/// Removes one.
const REMOVE_RECORD: &str = include_str!("remove_record.lua");

/// A script without the comment at its head, which need not travel with each call.
pub(crate) fn code(file: &str) -> &str {
    file.split_once("\n\n").map_or(file, |(_, code)| code)
}

/// The meaning of a missing "told" field of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Untold {
    /// Others saw it offline.
    AsIs,
    /// They saw what is true now, and Redis has forgotten.
    Restored,
    /// They saw it so, and Redis has forgotten.
    Was(Status),
}

/// The outcome of a settlement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settled {
    /// The lease of the one who asked is over.
    LeaseLost,
    /// Nothing is new.
    Same,
    /// It is.
    Changed {
        before: Status,
        now: Status,
        at: SystemTime,
    },
}

/// Loads the scripts of [`settle`] and of rooms into Redis; the answer is the first one's name there.
pub(super) fn load(pipe: &mut Pipeline) {
    for script in [ROOM_REPORT, ROOM_SETTLE] {
        pipe.cmd("SCRIPT").arg("LOAD").arg(code(script)).ignore();
    }
    pipe.cmd("SCRIPT").arg("LOAD").arg(code(SETTLE));
}

fn sha1(script: &str) -> String {
    let digest = ring::digest::digest(
        &ring::digest::SHA1_FOR_LEGACY_USE_ONLY,
        code(script).as_bytes(),
    );
    let mut name = String::new();
    for byte in digest.as_ref() {
        // Writing to a `String` cannot fail.
        let _ = write!(name, "{byte:02x}");
    }
    name
}

/// The caller of [`settle`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller<'a> {
    pub(super) keys: &'a Keys,
    pub(super) lease: LeaseId,
    /// How Redis calls the script.
    pub(super) script: &'a str,
}

/// What the caller of [`settle`] knows of the user.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub(super) untold: Untold,
    /// Its status by the sessions that this node has written down, or is about to.
    pub(super) own: Status,
    /// The departure that [`depart`] wrote down, if one is settled.
    pub(super) departure: Option<Stamp>,
    /// An answer about it was lost. Others saw it so before, if it is gone now.
    pub(super) unsure: Option<Status>,
}

impl Known {
    pub(super) fn new(untold: Untold, own: Status) -> Self {
        Self {
            untold,
            own,
            departure: None,
            unsure: None,
        }
    }
}

/// Asks for a [`Settled`] of a user.
pub(super) fn settle(pipe: &mut Pipeline, caller: Caller<'_>, user: &str, known: Known) {
    let Caller {
        keys,
        lease,
        script,
    } = caller;
    let command = pipe.cmd("EVALSHA").arg(script).arg(4);
    command.arg(keys.user(user)).arg(keys.node(lease));
    command.arg(keys.nodes()).arg(keys.users());
    match known.untold {
        Untold::AsIs => command.arg("as-is"),
        Untold::Restored => command.arg("restored"),
        Untold::Was(before) => command.arg(before.byte()),
    };
    command.arg(known.own.byte());
    match known.departure {
        Some(stamp) => command.arg(&stamp.to_be_bytes()[..]),
        None => command.arg(""),
    };
    if let Some(before) = known.unsure {
        command.arg(before.byte());
    }
}

/// Writes down that a departure waits to be settled by the node of that lease.
pub(super) fn depart(pipe: &mut Pipeline, keys: &Keys, user: &str, lease: LeaseId, stamp: Stamp) {
    let departure = [lease.as_str().as_bytes(), &stamp.to_be_bytes()].concat();
    pipe.hset(keys.user(user), LEFT, departure).ignore();
}

/// Claims: see [`CLAIM`]. By its text, since those who read may be the first to use a Redis that has
/// just begun.
pub(super) fn claim(
    pipe: &mut Pipeline,
    keys: &Keys,
    session: &PresenceEntry,
    lease: LeaseId,
    most: u64,
) {
    let command = pipe.cmd("EVAL").arg(code(CLAIM)).arg(3);
    command.arg(keys.user(&session.user)).arg(keys.node(lease));
    command.arg(keys.list_of(lease, &session.id));
    command
        .arg(lease.field(&session.id))
        .arg(encode_claimed(session));
    command.arg(&*session.id).arg(encode_listed(session));
    command.arg(most);
}

/// Ends a node's lease: see [`END_LEASE`].
pub(super) fn end_lease(pipe: &mut Pipeline, keys: &Keys, lease: LeaseId) {
    let command = pipe.cmd("EVAL").arg(code(END_LEASE)).arg(2);
    command.arg(keys.nodes()).arg(keys.node(lease));
    command.arg(lease.as_str()).arg(CLOSED).arg(CLEARING);
    command.ignore();
}

/// A member of a room, as scripts are told of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct InRoom<'a> {
    /// The room's name.
    pub(super) room: &'a str,
    pub(super) user: &'a str,
    /// The lease of the node that it is about; most often the caller's.
    pub(super) of: LeaseId,
}

/// What an answer about a member may have said that never came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Lost {
    #[default]
    Nothing,
    /// That it has come or left.
    Change,
    /// And that the room is occupied or vacated with it.
    ChangeAndEdge,
}

/// What a node reports of a member.
#[derive(Clone, Copy, Debug)]
pub(super) struct RoomReport {
    /// Its sessions there.
    pub(super) sessions: u64,
    /// The members that the room may have for this one to come in; 0: any number.
    pub(super) most: u64,
    /// Marks its departure, if it has none.
    pub(super) stamp: Stamp,
    /// Others know that it is here, and Redis has forgotten it.
    pub(super) quiet: bool,
    /// They may not know, and Redis believes that they do. Never with `quiet`.
    pub(super) lost: Lost,
}

/// Reports a member: see [`ROOM_REPORT`]. Its lists under the `former` leases are emptied.
pub(super) fn room_report(
    pipe: &mut Pipeline,
    (keys, lease): (&Keys, LeaseId),
    member: InRoom<'_>,
    report: RoomReport,
    former: &[LeaseId],
) {
    let [name, _] = &*ROOM_NAMES;
    let InRoom { room, user, of } = member;
    let field = encode_member(room, user);
    let command = pipe.cmd("EVALSHA").arg(name);
    command.arg(former.len().saturating_add(5));
    command.arg(keys.room(room)).arg(keys.leaving(room));
    command.arg(keys.node(lease)).arg(keys.rooms());
    command.arg(keys.member_list_of(of, &field));
    for former in former {
        command.arg(keys.member_list_of(*former, &field));
    }
    command.arg(user).arg(field);
    command.arg(report.sessions).arg(report.most);
    command.arg(&report.stamp.to_be_bytes()[..]);
    let known = match report.lost {
        Lost::Nothing if report.quiet => "quiet",
        Lost::Nothing => "",
        Lost::Change => "unsure",
        Lost::ChangeAndEdge => "first",
    };
    command.arg(known).arg(room);
}

/// Settles a departure; `None`: any of the member's. See [`ROOM_SETTLE`].
pub(super) fn room_settle(
    pipe: &mut Pipeline,
    (keys, lease): (&Keys, LeaseId),
    member: InRoom<'_>,
    stamp: Option<Stamp>,
    (forgotten, lost): (bool, Lost),
) {
    let [_, name] = &*ROOM_NAMES;
    let InRoom { room, user, of } = member;
    let field = encode_member(room, user);
    let command = pipe.cmd("EVALSHA").arg(name).arg(4);
    command.arg(keys.room(room)).arg(keys.leaving(room));
    command.arg(keys.node(lease));
    command.arg(keys.member_list_of(of, &field));
    command.arg(user).arg(field);
    match stamp {
        Some(stamp) => command.arg(&stamp.to_be_bytes()[..]),
        None => command.arg(""),
    };
    command.arg(match lost {
        _ if forgotten => "forgotten",
        Lost::Nothing => "",
        Lost::Change => "unsure",
        Lost::ChangeAndEdge => "last",
    });
}

/// The answer of a script of rooms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RoomReply {
    /// The lease of the one who asked is over.
    LeaseLost,
    /// The room has as many members as it may.
    Full,
    /// Nothing is new to others.
    Same,
    /// The user came, or left.
    Changed {
        /// The room was empty before, or is now.
        is_edge: bool,
        members: u64,
        at: SystemTime,
    },
}

impl RoomReply {
    /// An unknown answer counts as no change.
    pub(super) fn read(reply: Value) -> Self {
        match reply {
            Value::Nil => Self::LeaseLost,
            Value::Int(-1) => Self::Full,
            reply => match <(u8, u64, u64, u64)>::from_redis_value(reply) {
                Ok((is_edge, members, seconds, micros)) => Self::Changed {
                    is_edge: is_edge == 1,
                    members,
                    at: time(seconds, micros),
                },
                Err(_) => Self::Same,
            },
        }
    }
}

/// The time of Redis.
fn time(seconds: u64, micros: u64) -> SystemTime {
    let at = Duration::from_secs(seconds)
        .checked_add(Duration::from_micros(micros))
        .and_then(|at| SystemTime::UNIX_EPOCH.checked_add(at));
    at.unwrap_or_else(SystemTime::now)
}

/// Asks for the fields of the hash of that name, from there on: see [`FIELDS`].
pub(super) fn fields(pipe: &mut Pipeline, hash: &str, from: u64, most: usize) {
    let command = pipe.cmd("EVAL").arg(code(FIELDS)).arg(1);
    command.arg(hash).arg(from).arg(most);
}

/// Puts a record into the hash of that name: see [`PUT_RECORD`]. The answer is 1 if there is no
/// room.
pub(super) fn put_record(
    pipe: &mut Pipeline,
    hash: &str,
    record: &Record,
    version: &[u8],
    most: usize,
) {
    let command = pipe.cmd("EVAL").arg(code(PUT_RECORD)).arg(1).arg(hash);
    command.arg(&*record.key).arg(record.stamp);
    command.arg(&*record.value).arg(version).arg(most);
}

/// Takes a record out of the hash of that name: see [`REMOVE_RECORD`].
pub(super) fn remove_record(pipe: &mut Pipeline, hash: &str, record: &Record, version: &[u8]) {
    let command = pipe.cmd("EVAL").arg(code(REMOVE_RECORD)).arg(1).arg(hash);
    command.arg(&*record.key).arg(record.stamp);
    command.arg(version).ignore();
}

impl Settled {
    /// The event, if there is one to tell.
    pub(super) fn event(self, user: &Arc<str>, groups: &Arc<[Arc<str>]>) -> Option<Event> {
        match self {
            Self::Changed { before, now, at } => {
                Event::new(user, Arc::clone(groups), before, now, at)
            }
            Self::LeaseLost | Self::Same => None,
        }
    }

    /// Reads the answer to [`settle`]; an unknown answer counts as no change.
    pub(super) fn read(reply: Value) -> Self {
        if reply == Value::Nil {
            return Self::LeaseLost;
        }
        let Ok((before, now, seconds, micros)) = <(u8, u8, u64, u64)>::from_redis_value(reply)
        else {
            return Self::Same;
        };
        Self::Changed {
            before: Status::from_byte(before),
            now: Status::from_byte(now),
            at: time(seconds, micros),
        }
    }
}
