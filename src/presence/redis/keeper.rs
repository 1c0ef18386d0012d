//! Keeps a node's lease, and writes its sessions to Redis.

use std::{sync::Arc, time::Duration};

use deadpool_redis::redis::{Pipeline, Value};
use tokio::time::Instant;

use super::{
    Store,
    entry::{EPOCH, Keys, LeaseId, encode, encode_listed, encode_node},
    outages::Outages,
    queue::{Asked, Entered, KeeperStep, RedisShared, Registering, Taken, User},
    room_queue::RoomStep,
    script::{self, Caller, Known, RoomReply, Settled},
};
use crate::{
    backoff::Backoff,
    deadline::{after, later, third},
    presence::{Node, PresenceEntry, PresenceError, Status},
    telemetry,
};

/// Commands in one pipeline, about.
const COMMANDS: usize = 512;
/// Leases of before that are remembered, of each kind.
const FORMER: usize = 4;
/// The pause after a failure: at first, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// How long it may take to say good-bye.
pub(super) const CLOSING: Duration = Duration::from_secs(2);

/// Writes all entries of this node's sessions, one pipeline after the other, on one connection.
///
/// After any failure the content of Redis is unknown: it may have restarted, or another may have
/// taken its place. So the node takes a new lease and registers all it holds under that. The
/// former lease, if it still lives, is kept until this is done: nobody goes offline meanwhile.
///
/// What fails again and again, such as a command that the account may not use, must not leave a lease
/// behind each time: only nodes that live for a while clear up. So the next failure soon after another
/// keeps the lease, see `is_spoiled`.
pub(super) struct Keeper {
    store: Arc<Store>,
    shared: Arc<RedisShared>,
    node: Arc<Node>,
    duration: Duration,
    lease: LeaseId,
    /// Leases of before, which may still live.
    former: Vec<LeaseId>,
    /// Leases of before that had no answer when they were taken: nothing is written under them.
    untaken: Vec<LeaseId>,
    /// Redis may have heard of the lease.
    is_told: bool,
    /// Writes under the lease failed, and which of them Redis did is unknown. It is taken again, if it
    /// still lives; and when it went well up to the next renewal, another takes its place.
    is_spoiled: bool,
    /// The last failure.
    failed: Option<Instant>,
    /// For the log.
    outages: Arc<Outages>,
    /// In a cluster: which process answered when the lease was taken. Its client goes on with
    /// another, to which the last writes may not have come, and says nothing.
    server: Option<Vec<u8>>,
    /// The moment of its renewal, and the script's name in Redis; `None`: it is not taken yet.
    taken: Option<(Instant, Arc<str>)>,
    /// The last value of [`EPOCH`].
    epoch: Option<Vec<u8>>,
    /// Not registered under the lease yet.
    registering: Registering,
}

impl Keeper {
    pub(super) fn new(
        store: Arc<Store>,
        shared: Arc<RedisShared>,
        node: Arc<Node>,
        outages: Arc<Outages>,
        duration: Duration,
    ) -> Self {
        Self {
            store,
            shared,
            node,
            duration,
            lease: LeaseId::random(),
            former: Vec::new(),
            untaken: Vec::new(),
            is_told: false,
            is_spoiled: false,
            failed: None,
            outages,
            server: None,
            taken: None,
            epoch: None,
            registering: Registering::default(),
        }
    }

    /// Until presence is closed.
    pub(super) async fn run(mut self) {
        let (first, longest) = PAUSES;
        let longest = longest.min(third(self.duration)).max(first);
        let mut backoff = Backoff::new((first, longest));
        while !self.shared.is_closed() {
            match self.round().await {
                Ok(()) => match self.shared.lease() {
                    Some(taken) => {
                        backoff.lasted(taken.since.elapsed());
                        self.wait().await;
                    }
                    // It was lost, and may be again at once.
                    None => self.pause(backoff.pause()).await,
                },
                Err(error) => {
                    let pause = backoff.pause();
                    self.lost(error, pause);
                    self.pause(pause).await;
                }
            }
        }
        let _ = tokio::time::timeout(CLOSING, self.close()).await;
    }

    /// Changes that come meanwhile are remembered; only the end does not wait.
    async fn pause(&self, pause: Duration) {
        let end = after(pause);
        while !self.shared.is_closed()
            && tokio::time::timeout_at(end, self.shared.wake.notified())
                .await
                .is_ok()
        {}
    }

    /// Until there is something to do.
    async fn wait(&self) {
        let is_idle = !self.is_registering() && self.former.is_empty();
        if let Some((renew_at, _)) = self.taken
            && is_idle
        {
            let due = self.shared.due().map(Instant::from_std);
            let until = due.map_or(renew_at, |due| due.min(renew_at));
            if until > Instant::now() {
                let _ = tokio::time::timeout_at(until, self.shared.wake.notified()).await;
            }
        }
    }

    /// There are sessions that are not under the lease yet.
    fn is_registering(&self) -> bool {
        !self.registering.sessions.is_empty() || self.shared.rooms.is_registering()
    }

    /// The lease, if there is none; and one round trip with what there is to say, and the lease's
    /// renewal. To have taken a lease is no success yet: writes under it may fail.
    async fn round(&mut self) -> Result<(), PresenceError> {
        if self.shared.has_overflowed() || self.has_recovered() {
            self.begin_anew();
        }
        let (renew_at, script) = loop {
            match self.taken.clone() {
                Some(taken) => break taken,
                None => self.take_lease().await?,
            }
        };
        self.tell(renew_at, &script).await
    }

    /// A spoiled lease has served: all are registered under it, and nothing failed for a while.
    fn has_recovered(&self) -> bool {
        let due = self.taken.as_ref().map(|(renew_at, _)| *renew_at);
        self.is_spoiled && !self.is_registering() && due.is_some_and(|due| due <= Instant::now())
    }

    /// Afterwards there is one, unless a spoiled one was over.
    async fn take_lease(&mut self) -> Result<(), PresenceError> {
        let begun = Instant::now();
        let nodes = self.store.keys.nodes();
        let mut pipe = Pipeline::new();
        // First who answers: what is written afterwards is written there, or at a later one.
        let in_cluster = self.store.connections.is_cluster();
        if in_cluster {
            pipe.cmd("INFO").arg("server");
        }
        // Nothing is under them, so nobody need clear up after them.
        for lease in &self.untaken {
            pipe.hdel(&nodes, lease.as_str()).ignore();
            pipe.del(self.store.keys.node(*lease)).ignore();
        }
        script::load(&mut pipe);
        let epoch: [u8; 8] = rand::random();
        pipe.hset_nx(&nodes, EPOCH, &epoch[..]).ignore();
        pipe.hget(&nodes, EPOCH);
        // It lives before it is in the list of nodes: one that is there and does not is dead. Nothing
        // is written under it before it is in both.
        let set = self.set_lease(&mut pipe);
        if self.is_spoiled {
            // One that ran out never lives again.
            set.arg("XX");
        }
        self.list_lease(&mut pipe);
        self.is_told = true;
        let (script, epoch, lives): (String, Vec<u8>, Value);
        if in_cluster {
            let server: Value;
            (server, script, epoch, lives) = self.store.write(&pipe).await?;
            self.server = run_id(&server);
        } else {
            (script, epoch, lives) = self.store.write(&pipe).await?;
        }
        self.untaken.clear();
        if lives == Value::Nil {
            self.begin_anew();
            return Ok(());
        }
        if self.epoch.as_ref().is_some_and(|before| *before != epoch) {
            self.shared.note_forgotten(self.duration);
            self.registering.restores = true;
        }
        self.epoch = Some(epoch);
        let script: Arc<str> = script.into();
        self.taken = Some((later(begun, third(self.duration)), Arc::clone(&script)));
        self.shared.set_lease(Some(Taken {
            lease: self.lease,
            since: begun.into_std(),
            script,
        }));
        Ok(())
    }

    async fn tell(&mut self, renew_at: Instant, script: &Arc<str>) -> Result<(), PresenceError> {
        let begun = Instant::now();
        let mut pipe = Pipeline::new();
        let renews = begun >= renew_at;
        let in_cluster = self.store.connections.is_cluster();
        if renews {
            if in_cluster {
                pipe.cmd("INFO").arg("server");
            }
            self.set_lease(&mut pipe).arg("XX");
            // Others find a node by the list alone, which may have lost it.
            self.list_lease(&mut pipe);
            // To register many may take longer than those of before have left to live.
            for lease in &self.former {
                let renew = pipe.cmd("PEXPIRE").arg(self.store.keys.node(*lease));
                renew.arg(millis(self.duration)).ignore();
            }
        }
        let was_registering = self.is_registering();
        let steps = self.shared.take(&mut self.registering, COMMANDS);
        let restores = self.registering.restores;
        let room_steps = self.shared.rooms.take(COMMANDS, restores);
        let mut settling = Vec::new();
        for step in &steps {
            let teller = Teller {
                pipe: &mut pipe,
                caller: Caller {
                    keys: &self.store.keys,
                    lease: self.lease,
                    script,
                },
                former: &self.former,
                is_spoiled: self.is_spoiled,
            };
            settling.extend(teller.tell(step));
        }
        for step in &room_steps {
            step.tell(&mut pipe, (&self.store.keys, self.lease), &self.former);
        }
        if !was_registering {
            self.registering.restores = false;
            // All are registered under the lease: those before have done their service. Others clear
            // up after them: who left just before is still to be told of, and a node that stood still
            // for long has written under a lease that was cleared up already.
            for lease in &self.former {
                script::end_lease(&mut pipe, &self.store.keys, *lease);
            }
        }
        if pipe.is_empty() {
            self.note_up();
            return Ok(());
        }
        let mut replies = match self.store.write::<Vec<Value>>(&pipe).await {
            Ok(replies) => replies.into_iter(),
            Err(error) => {
                // Redis may have done it all, and only its answer was lost.
                self.shared.put_back(steps, true);
                self.shared.rooms.put_back(room_steps, true);
                return Err(error);
            }
        };
        if !was_registering {
            self.former.clear();
        }
        let is_another = renews
            && in_cluster
            && replies
                .next()
                .is_none_or(|reply| run_id(&reply) != self.server);
        let renewed = !renews || replies.next().is_some_and(|reply| reply != Value::Nil);
        let of_users = replies.by_ref().take(settling.len());
        let settled: Vec<_> = of_users.map(Settled::read).collect();
        let of_rooms: Vec<_> = replies.map(RoomReply::read).collect();
        let is_lost = settled.contains(&Settled::LeaseLost)
            || of_rooms.contains(&RoomReply::LeaseLost)
            || of_rooms.len() < room_steps.len();
        if !renewed || is_lost {
            // It ran out (the process was stopped for a while, or Redis emptied).
            telemetry::presence_lease_lost(self.shared.len());
            // If the lease ended amid the steps, those before were done.
            let is_change = |reply: &RoomReply| matches!(reply, RoomReply::Changed { .. });
            let is_unsure = settled
                .iter()
                .any(|settled| matches!(settled, Settled::Changed { .. }))
                || of_rooms.iter().any(is_change);
            self.shared.put_back(steps, is_unsure);
            self.shared.rooms.put_back(room_steps, is_unsure);
            self.begin_anew();
            return Ok(());
        }
        if is_another {
            // A replica has taken over, or the slot has moved; what came last may be lost.
            telemetry::presence_server_changed(self.shared.len());
            self.begin_anew();
            self.announce_all(settling, settled);
            self.answer_rooms(room_steps, of_rooms);
            return Ok(());
        }
        if renews {
            self.taken = Some((later(begun, third(self.duration)), Arc::clone(script)));
        }
        self.note_up();
        self.announce_all(settling, settled);
        self.answer_rooms(room_steps, of_rooms);
        Ok(())
    }

    fn answer_rooms(&self, steps: Vec<RoomStep>, replies: Vec<RoomReply>) {
        for (step, reply) in steps.into_iter().zip(replies) {
            self.shared.rooms.answer(&step, reply);
        }
    }

    fn announce_all(&self, asked: Vec<Asked<'_>>, settled: Vec<Settled>) {
        self.shared.answered(&asked, &settled);
        for (asked, settled) in asked.into_iter().zip(settled) {
            self.announce(asked.session, settled);
        }
    }

    fn set_lease<'a>(&self, pipe: &'a mut Pipeline) -> &'a mut Pipeline {
        let node = encode_node(self.node.since, self.shared.len(), &self.node.name);
        let set = pipe
            .cmd("SET")
            .arg(self.store.keys.node(self.lease))
            .arg(node);
        set.arg("PX").arg(millis(self.duration))
    }

    /// Has the lease in the list of nodes, where others find what is under it.
    fn list_lease(&self, pipe: &mut Pipeline) {
        let nodes = self.store.keys.nodes();
        pipe.hset_nx(nodes, self.lease.as_str(), "").ignore();
    }

    fn announce(&self, session: &PresenceEntry, settled: Settled) {
        if let Some(events) = &self.node.events
            && let Some(event) = settled.event(&session.user, &session.groups())
        {
            events.push_shared(event);
        }
    }

    fn note_up(&mut self) {
        self.shared.set_health(Ok(()));
        self.outages.note_up(self.store.number, self.shared.len());
    }

    fn lost(&mut self, error: PresenceError, retry_in: Duration) {
        let cause = error.to_string();
        self.shared.set_health(Err(error));
        self.outages.note_down(self.store.number, &cause, retry_in);
        let now = Instant::now();
        let before = self.failed.replace(now);
        let is_again = before.is_some_and(|before| now.duration_since(before) < self.duration);
        if self.is_spoiled || (is_again && self.taken.is_some()) {
            self.is_spoiled = true;
            self.register_all();
        } else {
            self.begin_anew();
        }
    }

    /// A new lease, under which all is to be registered.
    fn begin_anew(&mut self) {
        if self.is_told {
            // Apart, so that no number of attempts in vain crowds out one that users are under: ended by
            // nobody, it would look like a killed node's, of whose users others are told at once.
            let earlier = if self.taken.is_some() || self.is_spoiled {
                &mut self.former
            } else {
                &mut self.untaken
            };
            earlier.insert(0, self.lease);
            earlier.truncate(FORMER);
            self.lease = LeaseId::random();
            self.is_told = false;
            self.is_spoiled = false;
        }
        self.register_all();
    }

    /// The lease is to be taken, and all to be registered under it.
    fn register_all(&mut self) {
        self.taken = None;
        self.shared.set_lease(None);
        self.registering.sessions = self.shared.begin_anew();
    }

    /// Ends the lease, and with it all of the node at once. Another node clears up, and tells who
    /// has not come back.
    async fn close(self) {
        let mut pipe = Pipeline::new();
        let earlier = self.former.iter().chain(&self.untaken);
        for lease in earlier.chain([&self.lease]) {
            script::end_lease(&mut pipe, &self.store.keys, *lease);
        }
        let _ = self.store.write::<()>(&pipe).await;
    }
}

/// Writes steps into a pipeline.
struct Teller<'a> {
    pipe: &'a mut Pipeline,
    caller: Caller<'a>,
    former: &'a [LeaseId],
    /// See [`Keeper`].
    is_spoiled: bool,
}

impl Teller<'_> {
    /// The session whose settlement is asked for, if it is.
    fn tell(mut self, step: &KeeperStep) -> Option<Asked<'_>> {
        match step {
            KeeperStep::Enter(Entered {
                session,
                user,
                untold,
                is_unsure,
            }) => {
                // First the groups that are left: whoever clears up after this node finds groups by its
                // list, and Redis may have read only the first part of this.
                self.leave_groups(&session.user, user);
                // Then where it is found, should this node die now.
                let list = self.keys().list_of(self.caller.lease, &session.id);
                let listed = encode_listed(session);
                self.pipe.hset(list, &*session.id, listed).ignore();
                let key = self.keys().user(&session.user);
                let fields = [
                    (self.caller.lease.field(&session.id), encode(session)),
                    (self.caller.lease.field(""), user.here().to_vec()),
                ];
                self.pipe.cmd("HSET").arg(&key).arg(&fields).ignore();
                let mut former = self.formerly(&session.id);
                former.extend(self.formerly(""));
                self.remove(&key, &former);
                self.enter_groups(&session.user, user);
                let mut known = Known::new(*untold, user.status);
                known.unsure = is_unsure.then(|| session.status());
                self.settle(&session.user, known);
                Some(Asked {
                    session,
                    own: user.status,
                })
            }
            KeeperStep::Exit {
                session,
                user,
                stamp,
            } => {
                let name = &session.user;
                if let Some(stamp) = *stamp {
                    script::depart(self.pipe, self.caller.keys, name, self.caller.lease, stamp);
                }
                let key = self.keys().user(name);
                let mut fields = self.ever(&session.id);
                if user.sessions == 0 {
                    fields.extend(self.ever(""));
                } else {
                    let field = self.caller.lease.field("");
                    self.pipe.hset(&key, field, &user.here()[..]).ignore();
                }
                self.remove(&key, &fields);
                self.leave_groups(name, user);
                self.enter_groups(name, user);
                None
            }
            KeeperStep::Settle {
                departure,
                own,
                untold,
                unsure,
            } => {
                let session = &departure.session;
                if self.is_spoiled {
                    // Redis may not have been told of the session's end.
                    let (key, mut fields) =
                        (self.keys().user(&session.user), self.ever(&session.id));
                    if *own == Status::Offline {
                        fields.extend(self.ever(""));
                    }
                    self.remove(&key, &fields);
                }
                let known = Known {
                    untold: *untold,
                    own: *own,
                    departure: departure.stamp,
                    unsure: *unsure,
                };
                self.settle(&session.user, known);
                // Afterwards, so that whoever clears up after this node, or a replica that has only
                // the first of the two, finds a user who is not settled.
                self.unlist(session);
                Some(Asked { session, own: *own })
            }
            KeeperStep::Unlist(session) => {
                self.unlist(session);
                None
            }
            KeeperStep::Withdraw(session) => {
                let (key, fields) = (self.keys().user(&session.user), self.ever(&session.id));
                self.remove(&key, &fields);
                self.unlist(session);
                None
            }
        }
    }

    fn keys(&self) -> &Keys {
        self.caller.keys
    }

    fn settle(&mut self, name: &str, known: Known) {
        script::settle(self.pipe, self.caller, name, known);
    }

    fn unlist(&mut self, session: &PresenceEntry) {
        if self.is_spoiled {
            // It stays listed: the node that clears up after the lease finds by that what it left.
            return;
        }
        let list = self.keys().list_of(self.caller.lease, &session.id);
        self.pipe.hdel(list, &*session.id).ignore();
    }

    fn leave_groups(&mut self, name: &str, user: &User) {
        for group in &user.left {
            let fields = self.ever(name);
            self.remove(&self.keys().group(group), &fields);
        }
    }

    fn enter_groups(&mut self, name: &str, user: &User) {
        let status = [user.status.byte()];
        for group in user.groups.iter() {
            let key = self.keys().group(group);
            let field = self.caller.lease.field(name);
            self.pipe.hset(&key, field, &status[..]).ignore();
            let former = self.formerly(name);
            self.remove(&key, &former);
        }
    }

    fn formerly(&self, name: &str) -> Vec<Vec<u8>> {
        self.former.iter().map(|lease| lease.field(name)).collect()
    }

    fn ever(&self, name: &str) -> Vec<Vec<u8>> {
        let mut fields = self.formerly(name);
        fields.push(self.caller.lease.field(name));
        fields
    }

    fn remove(&mut self, key: &str, fields: &[Vec<u8>]) {
        if !fields.is_empty() {
            self.pipe.hdel(key, fields).ignore();
        }
    }
}

/// The process that answered `INFO server`.
fn run_id(info: &Value) -> Option<Vec<u8>> {
    let text = match info {
        Value::BulkString(text) => std::str::from_utf8(text).ok()?,
        Value::VerbatimString { text, .. } => text,
        _ => return None,
    };
    let id = text.lines().find_map(|line| line.strip_prefix("run_id:"))?;
    Some(id.trim().as_bytes().to_vec())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::redis::script::Untold;

    /// The connection may break after any command: by the list, the rest is cleared up.
    #[test]
    fn a_group_is_left_before_the_list_forgets_it() {
        let session = PresenceEntry::new("alice".into(), "s", "tcp", vec!["stays".into()]);
        let step = KeeperStep::Enter(Entered {
            user: User {
                status: Status::Online,
                sessions: 1,
                groups: session.groups(),
                left: vec!["gone".into()],
            },
            session: Arc::new(session),
            untold: Untold::AsIs,
            is_unsure: false,
        });
        let mut pipe = Pipeline::new();
        let teller = Teller {
            pipe: &mut pipe,
            caller: Caller {
                keys: &Keys::whole(),
                lease: LeaseId::random(),
                script: "",
            },
            former: &[],
            is_spoiled: false,
        };
        teller.tell(&step);
        let commands = pipe.get_packed_pipeline();
        let commands = String::from_utf8_lossy(&commands);
        let at = |key: &str| commands.find(key).unwrap();
        let order = ["group:gone", "sessions:", "group:stays"].map(at);
        assert!(order.is_sorted(), "{commands}");
    }
}
