//! Clears up after nodes that are dead.
//!
//! Every node looks at the list of nodes at a third of a lease. Of one that is dead, whichever
//! takes the lock walks that node's own list of sessions twice: to tell who has gone with them, and
//! then to remove what they left. That is work in proportion to the dead node's sessions, not to all
//! users. Whoever begins anew goes on where answers end, and still finds what users were at that
//! node.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use deadpool_redis::redis::{Pipeline, Value};

use super::{
    Store,
    entry::{
        CLOSED, LeaseId, decode_clearing, decode_here, decode_listed, decode_member,
        encode_clearing,
    },
    queue::{RedisShared, Taken},
    script::{self, Caller, InRoom, Known, Lost, RoomReply, RoomReport, Settled, Untold},
};
use crate::{
    deadline::third,
    presence::{Node, PresenceError, Status, rooms::Room},
    telemetry,
};

/// Lists that are read in one pipeline.
const LISTS: u16 = 32;
/// Sessions that are cleared in one pipeline.
const SESSIONS: usize = 256;
/// How long one that clears up may be silent, before another takes over.
const LOCK: Duration = Duration::from_secs(10);

pub(super) struct Survivor {
    store: Arc<Store>,
    shared: Arc<RedisShared>,
    node: Arc<Node>,
    duration: Duration,
    /// The dead that were seen.
    dead: HashMap<LeaseId, Dead>,
}

#[derive(Clone, Copy)]
struct Dead {
    /// Since when it was seen to be.
    since: Instant,
    /// To clear up after it failed, and the log says so.
    has_failed: bool,
}

/// A listed session: its id, user and groups.
type Listed = (String, Arc<str>, Arc<[Arc<str>]>);

impl Survivor {
    pub(super) fn new(
        store: Arc<Store>,
        shared: Arc<RedisShared>,
        node: Arc<Node>,
        duration: Duration,
    ) -> Self {
        Self {
            store,
            shared,
            node,
            duration,
            dead: HashMap::new(),
        }
    }

    /// Runs for ever.
    pub(super) async fn run(mut self) {
        loop {
            let pause = third(self.duration).mul_f64(rand::random_range(0.8..1.0));
            tokio::time::sleep(pause).await;
            // If Redis is away the keeper has said so.
            let _ = self.look().await;
        }
    }

    /// Looks for dead nodes. Not before this one has lived for a lease: after an outage of Redis
    /// every lease is over, and nodes that come back must not count as dead.
    async fn look(&mut self) -> Result<(), PresenceError> {
        let taken = self.shared.lease();
        let Some(taken) = taken.filter(|taken| taken.since.elapsed() >= self.duration) else {
            return Ok(());
        };
        let mut pipe = Pipeline::new();
        pipe.hgetall(self.store.keys.nodes());
        let (nodes,): (Vec<(Vec<u8>, Vec<u8>)>,) = self.store.call(&pipe).await?;
        let nodes: Vec<_> = nodes
            .into_iter()
            .filter_map(|(lease, how)| Some((LeaseId::parse(&lease)?, how == CLOSED.as_bytes())))
            .collect();
        let mut pipe = Pipeline::new();
        for (lease, _) in &nodes {
            pipe.exists(self.store.keys.node(*lease));
        }
        if nodes.is_empty() {
            return Ok(());
        }
        let live: Vec<bool> = self.store.call(&pipe).await?;
        let now = Instant::now();
        let mut dead = HashMap::new();
        for ((lease, closed), lives) in nodes.into_iter().zip(live) {
            if lives {
                continue;
            }
            let known = self.dead.get(&lease).copied();
            let mut found = known.unwrap_or(Dead {
                since: now,
                has_failed: false,
            });
            // The users of one that closed are on their way to others. Those of one that was
            // killed have had a lease's time. If Redis went away meanwhile, all are looked at anew.
            let is_due = !closed || now.duration_since(found.since) >= self.node.debounce;
            if is_due
                && self.shared.lease().is_some()
                && let Err(error) = self.clear(&taken, lease).await
            {
                // It may be this one's alone, such as a key of another kind: the others wait for it no
                // longer.
                if !found.has_failed {
                    telemetry::presence_clearing_failed(lease.as_str(), &error);
                }
                found.has_failed = true;
            }
            dead.insert(lease, found);
        }
        self.dead = dead;
        Ok(())
    }

    async fn clear(&self, taken: &Taken, dead: LeaseId) -> Result<(), PresenceError> {
        let keys = &self.store.keys;
        let mut pipe = Pipeline::new();
        let lock = pipe.cmd("SET").arg(keys.clearing(dead));
        lock.arg(taken.lease.as_str()).arg("NX");
        lock.arg("PX").arg(lock_millis());
        let (locked,): (Value,) = self.store.call(&pipe).await?;
        if locked == Value::Nil {
            return Ok(());
        }
        let mut pipe = Pipeline::new();
        // Redis may have dropped them since this node's keeper loaded them.
        script::load(&mut pipe);
        pipe.hget(keys.nodes(), dead.as_str());
        let (_, before): (Value, Option<Vec<u8>>) = self.store.call_in_order(&pipe).await?;
        let before = before.as_deref().and_then(decode_clearing);
        let settled = before.unwrap_or(0).min(keys.lists());
        // The first lists are settled by whoever began before this one, who may have lost an answer of
        // Redis, which then believes that others were told. Nothing behind the next lists that have
        // somebody was begun.
        let mut is_unsure = before.is_some();
        self.note_settled(dead, settled).await?;
        for lists in batches(settled..keys.lists()) {
            let found = self.listed(dead, lists.clone()).await?;
            for some in found.chunks(SESSIONS) {
                if !self.settle(taken, dead, some, is_unsure).await? {
                    return Ok(());
                }
            }
            is_unsure &= found.is_empty();
            self.note_settled(dead, lists.end).await?;
        }
        let mut cleared = 0;
        for lists in batches(0..keys.lists()) {
            let found = self.listed(dead, lists.clone()).await?;
            cleared = found.len().saturating_add(cleared);
            for some in found.chunks(SESSIONS) {
                self.remove(dead, some).await?;
            }
            // What they are found by goes last, in case that this node does not get so far.
            let mut pipe = Pipeline::new();
            for list in lists {
                pipe.del(keys.list(dead, list)).ignore();
            }
            self.renew_lock(&mut pipe, dead);
            self.store.call::<()>(&pipe).await?;
        }
        if !self.clear_rooms(taken, dead, is_unsure).await? {
            return Ok(());
        }
        let mut pipe = Pipeline::new();
        pipe.hdel(keys.nodes(), dead.as_str()).ignore();
        pipe.del(keys.clearing(dead)).ignore();
        self.store.call::<()>(&pipe).await?;
        telemetry::presence_cleared(dead.as_str(), cleared);
        Ok(())
    }

    /// Notes that users of the first lists of sessions are settled, so many.
    async fn note_settled(&self, dead: LeaseId, lists: u16) -> Result<(), PresenceError> {
        let mut pipe = Pipeline::new();
        let nodes = self.store.keys.nodes();
        pipe.hset(nodes, dead.as_str(), encode_clearing(lists))
            .ignore();
        self.renew_lock(&mut pipe, dead);
        self.store.call::<()>(&pipe).await
    }

    fn renew_lock(&self, pipe: &mut Pipeline, dead: LeaseId) {
        let renew = pipe.cmd("PEXPIRE").arg(self.store.keys.clearing(dead));
        renew.arg(lock_millis()).ignore();
    }

    /// The sessions in some lists of a dead node.
    async fn listed(&self, dead: LeaseId, lists: Range<u16>) -> Result<Vec<Listed>, PresenceError> {
        let mut pipe = Pipeline::new();
        for list in lists {
            pipe.hgetall(self.store.keys.list(dead, list));
        }
        let entries: Vec<Vec<(String, Vec<u8>)>> = self.store.call(&pipe).await?;
        let entries = entries.into_iter().flatten();
        let listed = entries.filter_map(|(id, value)| {
            let (user, groups) = decode_listed(&value)?;
            Some((id, user, groups))
        });
        Ok(listed.collect())
    }

    /// Lets a dead node's members leave their rooms. `is_unsure`: others may not know of the first
    /// who left. `false`: this node's own lease is over.
    async fn clear_rooms(
        &self,
        taken: &Taken,
        dead: LeaseId,
        mut is_unsure: bool,
    ) -> Result<bool, PresenceError> {
        let keys = &self.store.keys;
        for lists in batches(0..keys.lists()) {
            let mut pipe = Pipeline::new();
            for list in lists.clone() {
                pipe.hkeys(keys.member_list(dead, list));
            }
            let fields: Vec<Vec<String>> = self.store.call(&pipe).await?;
            let fields = fields.concat();
            let members: Vec<_> = fields
                .iter()
                .filter_map(|field| decode_member(field))
                .collect();
            for some in members.chunks(SESSIONS) {
                if !self.remove_members(taken, dead, some, is_unsure).await? {
                    return Ok(false);
                }
            }
            is_unsure &= members.is_empty();
            let mut pipe = Pipeline::new();
            for list in lists {
                pipe.del(keys.member_list(dead, list)).ignore();
            }
            self.renew_lock(&mut pipe, dead);
            self.store.call::<()>(&pipe).await?;
        }
        Ok(true)
    }

    async fn remove_members(
        &self,
        taken: &Taken,
        dead: LeaseId,
        members: &[(&str, &str)],
        is_unsure: bool,
    ) -> Result<bool, PresenceError> {
        let caller = (&self.store.keys, taken.lease);
        let mut pipe = Pipeline::new();
        let mut rooms = HashSet::new();
        for (room, user) in members {
            // Of each room's members one asks for the room, too.
            let lost = if !is_unsure {
                Lost::Nothing
            } else if rooms.insert(room) {
                Lost::ChangeAndEdge
            } else {
                Lost::Change
            };
            let of = dead;
            let member = InRoom { room, user, of };
            let report = RoomReport {
                sessions: 0,
                most: 0,
                stamp: rand::random(),
                quiet: false,
                lost: Lost::Nothing,
            };
            script::room_report(&mut pipe, caller, member, report, &[]);
            // The dead one's list keeps the member until the answer is here.
            let of = taken.lease;
            let member = InRoom { of, ..member };
            script::room_settle(&mut pipe, caller, member, None, (false, lost));
        }
        let replies: Vec<Value> = self.store.call_in_order(&pipe).await?;
        let replies: Vec<_> = replies.into_iter().map(RoomReply::read).collect();
        if replies.contains(&RoomReply::LeaseLost) {
            return Ok(false);
        }
        let settled = replies.chunks(2).filter_map(<[_]>::last);
        for ((room, user), reply) in members.iter().zip(settled) {
            if let Some(room) = Room::parse(room) {
                self.shared.rooms.tell_gone(room, (*user).into(), *reply);
            }
        }
        Ok(true)
    }

    /// What users were at a dead node. One that left it just before is not known there any more: most
    /// are online.
    async fn statuses(
        &self,
        dead: LeaseId,
        users: &[&Arc<str>],
    ) -> Result<Vec<Option<Status>>, PresenceError> {
        let mut pipe = Pipeline::new();
        for user in users {
            pipe.hget(self.store.keys.user(user), dead.field(""));
        }
        let found: Vec<Option<Vec<u8>>> = self.store.call(&pipe).await?;
        let statuses = found.iter().map(|value| {
            let here = value.as_deref().and_then(decode_here);
            Some(here.map_or(Status::Online, |(status, _)| status))
        });
        Ok(statuses.collect())
    }

    /// Removes what sessions of a dead node left, but for the lists that they are found by.
    async fn remove(&self, dead: LeaseId, listed: &[Listed]) -> Result<(), PresenceError> {
        let keys = &self.store.keys;
        let mut pipe = Pipeline::new();
        for (id, user, groups) in listed {
            let fields = [dead.field(id), dead.field("")];
            pipe.hdel(keys.user(user), &fields[..]).ignore();
            for group in groups.iter() {
                pipe.hdel(keys.group(group), dead.field(user)).ignore();
            }
        }
        self.store.call::<()>(&pipe).await
    }

    /// Tells whose users have gone with sessions of a dead node. `is_unsure`: an answer about them may
    /// have been lost. `false`: this node's own lease is over.
    async fn settle(
        &self,
        taken: &Taken,
        dead: LeaseId,
        listed: &[Listed],
        is_unsure: bool,
    ) -> Result<bool, PresenceError> {
        let keys = &self.store.keys;
        let mut pipe = Pipeline::new();
        let users: HashMap<_, _> = listed
            .iter()
            .map(|(_, user, groups)| (user, groups))
            .collect();
        let statuses = if is_unsure {
            let users: Vec<_> = users.keys().copied().collect();
            self.statuses(dead, &users).await?
        } else {
            vec![None; users.len()]
        };
        // Each user once, however many of the sessions are of the same.
        for (user, unsure) in users.keys().zip(statuses) {
            let mut known = Known::new(Untold::AsIs, self.shared.status(user));
            known.unsure = unsure;
            let caller = Caller {
                keys,
                lease: taken.lease,
                script: &taken.script,
            };
            script::settle(&mut pipe, caller, user, known);
        }
        let replies: Vec<Value> = self.store.call_in_order(&pipe).await?;
        for ((user, groups), reply) in users.into_iter().zip(replies) {
            let settled = Settled::read(reply);
            if settled == Settled::LeaseLost {
                return Ok(false);
            }
            if let Some(events) = &self.node.events
                && let Some(event) = settled.event(user, groups)
            {
                events.push_shared(event);
            }
        }
        Ok(true)
    }
}

/// Lists that are asked about at once.
fn batches(lists: Range<u16>) -> impl Iterator<Item = Range<u16>> {
    let end = lists.end;
    let firsts = lists.step_by(LISTS.into());
    firsts.map(move |first| first..first.saturating_add(LISTS).min(end))
}

fn lock_millis() -> u64 {
    u64::try_from(LOCK.as_millis()).unwrap_or(u64::MAX)
}
