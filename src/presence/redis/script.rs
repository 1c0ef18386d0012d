//! What has to be done in one go, as scripts that Redis runs.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use deadpool_redis::redis::{FromRedisValue, Pipeline, Value};

use super::entry::{LEFT, LeaseId, USERS, encode, encode_listed, user_key};
use crate::presence::{
    Event, Session, Status,
    departures::{Departure, Stamp},
};

/// Finds out whether a user's status is another than was told, and writes down what is told from
/// now on. All nodes' scripts run one after the other, so each change is found by one of them.
///
/// `KEYS`: the user, the caller's lease. `ARGV`: what it means if nothing was told: `as-is`
/// (offline was), `restored` (what is true now was, for Redis lost what was told) or `left`
/// (online was, for the same reason); the user's status by the caller's own sessions; and the stamp
/// of the departure that is settled, if it is one. Answers
/// nil if the caller's lease is over; 0 if nothing is new; else what was told, what is true, and
/// the time in seconds and microseconds.
///
/// While a departure waits that is not this one, on a node that lives, nothing less is told than
/// was: what is less then, is found when that departure is settled.
///
/// Where the caller's own status is what was told, it looks at no other session, so that a user
/// who is logged in ten thousand times costs no more than one who is once. A session elsewhere may
/// say more; but then the script that follows its own writing finds that.
const SETTLE: &str = r"
if redis.call('EXISTS', KEYS[2]) == 0 then return false end
local told, left = unpack(redis.call('HMGET', KEYS[1], '', 'left'))
if left and (string.sub(left, 9) == ARGV[3]
    or redis.call('EXISTS', 'stentor:node:' .. string.sub(left, 1, 8)) == 0) then
  redis.call('HDEL', KEYS[1], 'left')
  left = false
end
if told and string.byte(told) == tonumber(ARGV[2]) then return 0 end
local fields = redis.call('HGETALL', KEYS[1])
local now, lives = 0, {}
told = 0
for i = 1, #fields, 2 do
  local status = string.byte(fields[i + 1]) or 0
  if fields[i] == '' then
    told = status
  elseif fields[i] ~= 'left' and status > now then
    local lease = string.sub(fields[i], 1, 8)
    if lives[lease] == nil then
      lives[lease] = redis.call('EXISTS', 'stentor:node:' .. lease)
    end
    if lives[lease] == 1 then now = status end
  end
end
if left and now < told then return 0 end
if told ~= now then
  if now == 0 then
    redis.call('HDEL', KEYS[1], '')
    if redis.call('DECR', 'stentor:users') <= 0 then redis.call('DEL', 'stentor:users') end
  else
    redis.call('HSET', KEYS[1], '', string.char(now))
    if told == 0 then redis.call('INCR', 'stentor:users') end
  end
end
if told == 0 then
  if ARGV[1] == 'restored' then told = now elseif ARGV[1] == 'left' then told = 2 end
end
if told == now then return 0 end
local time = redis.call('TIME')
return {told, now, tonumber(time[1]), tonumber(time[2])}
";

/// The nodes that live: lease and value of each.
const NODES: &str = r"
local nodes = {}
for _, lease in ipairs(redis.call('HKEYS', 'stentor:nodes')) do
  local node = redis.call('GET', 'stentor:node:' .. lease)
  if node then
    nodes[#nodes + 1] = lease
    nodes[#nodes + 1] = node
  end
end
return nodes
";

/// Writes a session down, and answers the fields of its user from before; nil if the lease of the
/// session's node is over, for then nobody would clear up after it.
///
/// `KEYS`: the user, the lease, the node's list. `ARGV`: the session's field and value with the
/// user, and with the list.
const CLAIM: &str = r"
if redis.call('EXISTS', KEYS[2]) == 0 then return false end
local before = redis.call('HGETALL', KEYS[1])
redis.call('HSET', KEYS[3], ARGV[3], ARGV[4])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return before
";

/// What it means that nothing was told of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Untold {
    /// Others saw it offline.
    AsIs,
    /// They saw what is true now, and Redis has forgotten.
    Restored,
    /// They saw it online, and Redis has forgotten.
    Left,
}

/// What was found out about a user.
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

impl Untold {
    pub(super) fn of(departure: &Departure) -> Self {
        if departure.forgotten {
            Self::Left
        } else {
            Self::AsIs
        }
    }
}

/// Has Redis know the script of [`settle`]; the answer is by what name.
pub(super) fn load(pipe: &mut Pipeline) {
    pipe.cmd("SCRIPT").arg("LOAD").arg(SETTLE);
}

/// Asks for a [`Settled`] of a user, by the script of that name. `own` is its status by the
/// sessions that this node has written down, or is about to; `departure`, what is settled, if it
/// is a departure that [`depart`] wrote down.
pub(super) fn settle(
    pipe: &mut Pipeline,
    script: &str,
    user: &str,
    lease: LeaseId,
    untold: Untold,
    own: Status,
    departure: Option<Stamp>,
) {
    let untold = match untold {
        Untold::AsIs => "as-is",
        Untold::Restored => "restored",
        Untold::Left => "left",
    };
    let command = pipe.cmd("EVALSHA").arg(script).arg(2);
    let command = command.arg(user_key(user)).arg(lease.key());
    command.arg(untold).arg(own.byte());
    match departure {
        Some(stamp) => command.arg(&stamp.to_be_bytes()[..]),
        None => command.arg(""),
    };
}

/// Writes down that a departure waits to be settled by the node of that lease.
pub(super) fn depart(pipe: &mut Pipeline, user: &str, lease: LeaseId, stamp: Stamp) {
    let departure = [lease.as_str().as_bytes(), &stamp.to_be_bytes()].concat();
    pipe.hset(user_key(user), LEFT, departure).ignore();
}

/// Asks for the nodes that live. By its text, since those who read may be the first to use a
/// Redis that has just begun.
pub(super) fn nodes(pipe: &mut Pipeline) {
    pipe.cmd("EVAL").arg(NODES).arg(0);
}

/// Claims: see [`CLAIM`].
pub(super) fn claim(pipe: &mut Pipeline, session: &Session, lease: LeaseId) {
    let command = pipe.cmd("EVAL").arg(CLAIM).arg(3);
    let command = command.arg(user_key(&session.user)).arg(lease.key());
    let command = command.arg(lease.bucket_of(&session.id));
    let command = command.arg(lease.field(&session.id)).arg(encode(session));
    command.arg(&*session.id).arg(encode_listed(session));
}

/// Asks for the number of users.
pub(super) fn users(pipe: &mut Pipeline) {
    pipe.get(USERS);
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

    /// Reads the answer to [`settle`]; what it cannot be says nothing new.
    pub(super) fn read(reply: Value) -> Self {
        if reply == Value::Nil {
            return Self::LeaseLost;
        }
        let Ok((before, now, seconds, micros)) = <(u8, u8, u64, u64)>::from_redis_value(reply)
        else {
            return Self::Same;
        };
        let at = Duration::from_secs(seconds).checked_add(Duration::from_micros(micros));
        let at = at.and_then(|at| SystemTime::UNIX_EPOCH.checked_add(at));
        Self::Changed {
            before: Status::from_byte(before),
            now: Status::from_byte(now),
            at: at.unwrap_or_else(SystemTime::now),
        }
    }
}
