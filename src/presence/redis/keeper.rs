//! Keeps a node's lease, and writes its sessions to Redis.

use std::{sync::Arc, time::Duration};

use deadpool_redis::redis::{Pipeline, Value};
use tokio::time::Instant;

use super::{
    Store,
    entry::{
        CLOSED, EPOCH, LeaseId, NODES, encode, encode_listed, encode_node, group_key, user_key,
    },
    queue::{Entered, KeeperStep, RedisShared, Registering, Taken, User},
    script::{self, Settled, Untold},
};
use crate::{
    backoff::Backoff,
    deadline::{after, later, third},
    presence::{Node, PresenceEntry, PresenceError, Status, departures::Stamp},
    telemetry,
};

/// Commands in one pipeline, about.
const COMMANDS: usize = 512;
/// Leases of before that may still live: of these the fields are removed too.
const FORMER: usize = 4;
/// The pause after a failure: at first, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// How long it may take to say good-bye.
pub(super) const CLOSING: Duration = Duration::from_secs(2);

/// Writes all entries of this node's sessions, one pipeline after the other, on one connection.
///
/// After any failure the content of Redis is unknown: it may have restarted, or another may have
/// taken its place. So the node takes a new lease and registers all it holds under that. The
/// former lease, if it still lives, stays until this is done: nobody goes offline meanwhile.
pub(super) struct Keeper {
    store: Arc<Store>,
    shared: Arc<RedisShared>,
    node: Arc<Node>,
    duration: Duration,
    lease: LeaseId,
    /// Leases of before, which may still live.
    former: Vec<LeaseId>,
    /// Redis may have heard of the lease.
    is_told: bool,
    /// The last state of Redis in the log: true if it was there.
    said: Option<bool>,
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
        duration: Duration,
    ) -> Self {
        Self {
            store,
            shared,
            node,
            duration,
            lease: LeaseId::random(),
            former: Vec::new(),
            is_told: false,
            said: None,
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
                Ok(()) => {
                    backoff.reset();
                    self.wait().await;
                }
                Err(error) => {
                    let pause = backoff.pause();
                    self.lost(error, pause);
                    // Changes that come meanwhile are remembered; only the end does not wait.
                    let end = after(pause);
                    while !self.shared.is_closed()
                        && tokio::time::timeout_at(end, self.shared.wake.notified())
                            .await
                            .is_ok()
                    {}
                }
            }
        }
        let _ = tokio::time::timeout(CLOSING, self.close()).await;
    }

    /// Until there is something to do.
    async fn wait(&self) {
        let is_idle = self.registering.sessions.is_empty() && self.former.is_empty();
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

    /// One round trip: the lease, or what there is to say; and the lease's renewal with it.
    async fn round(&mut self) -> Result<(), PresenceError> {
        if self.shared.has_overflowed() {
            self.begin_anew();
        }
        match self.taken.clone() {
            None => self.take_lease().await,
            Some((renew_at, script)) => self.tell(renew_at, &script).await,
        }
    }

    async fn take_lease(&mut self) -> Result<(), PresenceError> {
        let begun = Instant::now();
        let mut pipe = Pipeline::new();
        script::load(&mut pipe);
        let epoch: [u8; 8] = rand::random();
        pipe.hset_nx(NODES, EPOCH, &epoch[..]).ignore();
        pipe.hget(NODES, EPOCH);
        // First the list of nodes, so that whoever it is written for is found when it dies.
        pipe.hset(NODES, self.lease.as_str(), "").ignore();
        self.set_lease(&mut pipe).ignore();
        self.is_told = true;
        let (script, epoch): (String, Vec<u8>) = self.store.write(&pipe).await?;
        if self.epoch.as_ref().is_some_and(|before| *before != epoch) {
            self.shared.note_forgotten();
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
        self.note_up();
        Ok(())
    }

    async fn tell(&mut self, renew_at: Instant, script: &Arc<str>) -> Result<(), PresenceError> {
        let begun = Instant::now();
        let mut pipe = Pipeline::new();
        let renews = begun >= renew_at;
        if renews {
            self.set_lease(&mut pipe).arg("XX");
        }
        let was_registering = !self.registering.sessions.is_empty();
        let steps = self.shared.take(&mut self.registering, COMMANDS);
        let mut settling = Vec::new();
        for step in &steps {
            let teller = Teller {
                pipe: &mut pipe,
                lease: self.lease,
                former: &self.former,
                script,
            };
            settling.extend(teller.tell(step));
        }
        if !was_registering {
            self.registering.restores = false;
            // All are registered under the lease: those before have done their service.
            for former in self.former.drain(..) {
                pipe.del(former.key()).ignore();
            }
        }
        if pipe.is_empty() {
            return Ok(());
        }
        let mut replies = match self.store.write::<Vec<Value>>(&pipe).await {
            Ok(replies) => replies.into_iter(),
            Err(error) => {
                self.shared.put_back(steps);
                return Err(error);
            }
        };
        let renewed = !renews || replies.next().is_some_and(|reply| reply != Value::Nil);
        let settled: Vec<_> = replies.map(Settled::read).collect();
        if !renewed || settled.contains(&Settled::LeaseLost) {
            // It ran out (the process was stopped for a while, or Redis emptied).
            telemetry::presence_lease_lost(self.shared.len());
            self.shared.put_back(steps);
            self.begin_anew();
            return Ok(());
        }
        if renews {
            self.taken = Some((later(begun, third(self.duration)), Arc::clone(script)));
        }
        self.note_up();
        for (session, settled) in settling.into_iter().zip(settled) {
            self.announce(session, settled);
        }
        Ok(())
    }

    fn set_lease<'a>(&self, pipe: &'a mut Pipeline) -> &'a mut Pipeline {
        let node = encode_node(self.node.since, self.shared.len(), &self.node.name);
        let set = pipe.cmd("SET").arg(self.lease.key()).arg(node);
        set.arg("PX").arg(millis(self.duration))
    }

    fn announce(&self, session: &PresenceEntry, settled: Settled) {
        session.mark_registered();
        if let Some(events) = &self.node.events
            && let Some(event) = settled.event(&session.user, &session.groups())
        {
            events.push(event);
        }
    }

    fn note_up(&mut self) {
        self.shared.set_health(Ok(()));
        if self.said.replace(true) != Some(true) {
            telemetry::presence_up(self.shared.len());
        }
    }

    fn lost(&mut self, error: PresenceError, retry_in: Duration) {
        let cause = error.to_string();
        self.shared.set_health(Err(error));
        if self.said.replace(false) != Some(false) {
            telemetry::presence_down(&cause, retry_in);
        }
        self.begin_anew();
    }

    /// A new lease, under which all is to be registered.
    fn begin_anew(&mut self) {
        if self.is_told {
            self.former.insert(0, self.lease);
            self.former.truncate(FORMER);
            self.lease = LeaseId::random();
            self.is_told = false;
        }
        self.taken = None;
        self.shared.set_lease(None);
        self.registering.sessions = self.shared.begin_anew();
    }

    /// Ends the lease, and with it all of the node at once. Another node clears up, and tells who
    /// has not come back.
    async fn close(self) {
        let mut pipe = Pipeline::new();
        for lease in self.former.iter().chain([&self.lease]) {
            pipe.hset(NODES, lease.as_str(), CLOSED).ignore();
            pipe.del(lease.key()).ignore();
        }
        let _ = self.store.write::<()>(&pipe).await;
    }
}

/// Writes steps into a pipeline.
struct Teller<'a> {
    pipe: &'a mut Pipeline,
    lease: LeaseId,
    former: &'a [LeaseId],
    script: &'a str,
}

impl Teller<'_> {
    /// The session whose settlement is asked for, if it is.
    fn tell(mut self, step: &KeeperStep) -> Option<&PresenceEntry> {
        match step {
            KeeperStep::Enter(Entered {
                session,
                user,
                untold,
            }) => {
                // First where it is found, should this node die now.
                let listed = encode_listed(session);
                let bucket = self.lease.bucket_of(&session.id);
                self.pipe.hset(bucket, &*session.id, listed).ignore();
                let key = user_key(&session.user);
                let field = self.lease.field(&session.id);
                self.pipe.hset(&key, field, encode(session)).ignore();
                let former = self.formerly(&session.id);
                self.remove(&key, &former);
                self.groups(&session.user, user);
                let (name, own) = (&session.user, user.status);
                self.settle(name, *untold, own, None);
                Some(session)
            }
            KeeperStep::Exit {
                session,
                user,
                stamp,
            } => {
                if let Some(stamp) = *stamp {
                    script::depart(self.pipe, &session.user, self.lease, stamp);
                }
                let fields = self.ever(&session.id);
                self.remove(&user_key(&session.user), &fields);
                self.groups(&session.user, user);
                None
            }
            KeeperStep::Settle { departure, own } => {
                let session = &departure.session;
                self.unlist(session);
                let untold = Untold::of(departure);
                self.settle(&session.user, untold, *own, departure.stamp);
                Some(session)
            }
            KeeperStep::Unlist(session) => {
                self.unlist(session);
                None
            }
        }
    }

    fn settle(&mut self, name: &str, untold: Untold, own: Status, departure: Option<Stamp>) {
        let (script, lease) = (self.script, self.lease);
        script::settle(self.pipe, script, name, lease, untold, own, departure);
    }

    fn unlist(&mut self, session: &PresenceEntry) {
        let bucket = self.lease.bucket_of(&session.id);
        self.pipe.hdel(bucket, &*session.id).ignore();
    }

    fn groups(&mut self, name: &str, user: &User) {
        let status = [user.status.byte()];
        for group in user.groups.iter() {
            let key = group_key(group);
            self.pipe
                .hset(&key, self.lease.field(name), &status[..])
                .ignore();
            let former = self.formerly(name);
            self.remove(&key, &former);
        }
        for group in &user.left {
            let fields = self.ever(name);
            self.remove(&group_key(group), &fields);
        }
    }

    fn formerly(&self, name: &str) -> Vec<Vec<u8>> {
        self.former.iter().map(|lease| lease.field(name)).collect()
    }

    fn ever(&self, name: &str) -> Vec<Vec<u8>> {
        let mut fields = self.formerly(name);
        fields.push(self.lease.field(name));
        fields
    }

    fn remove(&mut self, key: &str, fields: &[Vec<u8>]) {
        if !fields.is_empty() {
            self.pipe.hdel(key, fields).ignore();
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
