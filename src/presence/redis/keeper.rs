//! Keeps a node's lease, and tells Redis who is here.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use deadpool_redis::redis::{FromRedisValue, Pipeline, Value};
use tokio::time::Instant;

use super::{
    Store,
    entry::{LeaseId, encode, group_key, user_key},
    queue::{Shared, Stale, Step},
};
use crate::{
    presence::{PresenceError, Session},
    telemetry,
};

/// Commands in one pipeline, about.
const COMMANDS: usize = 512;
/// Fields of a user or group that are looked at when somebody joins it: those of dead leases are
/// removed. That is more than come, so that dead ones become few, at a cost that does not grow.
const SAMPLE: usize = 4;
/// Leases of before that may still live: of these the fields are removed too.
const FORMER: usize = 4;
/// The pause after a failure: at first, and at most.
const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(2)];
/// How long it may take to say good-bye.
pub(super) const CLOSING: Duration = Duration::from_secs(2);

/// Does all that this node writes, one pipeline after the other, on one connection.
///
/// Whatever goes wrong, nobody knows what Redis still has: it may have restarted, or another
/// have taken its place. So the node then takes a new lease and registers all it holds under
/// that. Until it is done the former lease lives on, if it does: nobody goes offline meanwhile.
pub(super) struct Keeper {
    store: Arc<Store>,
    shared: Arc<Shared>,
    node: Box<str>,
    duration: Duration,
    lease: LeaseId,
    /// Leases of before, which may still live.
    former: Vec<LeaseId>,
    /// Whether Redis may have heard of the lease.
    is_told: bool,
    /// What the log said last: whether Redis is there.
    said: Option<bool>,
    /// When to renew it; `None`: it is not taken yet.
    renew_at: Option<Instant>,
    /// Not registered under the lease yet.
    registering: Vec<Arc<Session>>,
    /// Fields of dead leases.
    stale: Vec<Stale>,
    /// Leases of others that lived at that time.
    alive: HashMap<LeaseId, Instant>,
}

impl Keeper {
    pub(super) fn new(
        store: Arc<Store>,
        shared: Arc<Shared>,
        node: &str,
        duration: Duration,
    ) -> Self {
        Self {
            store,
            shared,
            node: node.into(),
            duration,
            lease: LeaseId::random(),
            former: Vec::new(),
            is_told: false,
            said: None,
            renew_at: None,
            registering: Vec::new(),
            stale: Vec::new(),
            alive: HashMap::new(),
        }
    }

    /// Until presence is closed.
    pub(super) async fn run(mut self) {
        let [first, longest] = PAUSES;
        let longest = longest.min(self.duration / 3).max(first);
        let mut pause = first;
        while !self.shared.is_closed() {
            match self.round().await {
                Ok(()) => {
                    pause = first;
                    self.wait().await;
                }
                Err(error) => {
                    self.lost(error, pause);
                    // What comes meanwhile is remembered; only the end does not wait.
                    let end = Instant::now() + pause.mul_f64(rand::random_range(0.8..1.2));
                    while !self.shared.is_closed()
                        && tokio::time::timeout_at(end, self.shared.wake.notified())
                            .await
                            .is_ok()
                    {}
                    pause = (pause * 2).min(longest);
                }
            }
        }
        let _ = tokio::time::timeout(CLOSING, self.close()).await;
    }

    /// Until there is something to do.
    async fn wait(&self) {
        let is_idle =
            self.registering.is_empty() && self.stale.is_empty() && self.former.is_empty();
        if let Some(renew_at) = self.renew_at
            && is_idle
            && self.shared.is_idle()
        {
            let _ = tokio::time::timeout_at(renew_at, self.shared.wake.notified()).await;
        }
    }

    /// One pipeline: the lease if it is time, and what there is to say.
    async fn round(&mut self) -> Result<(), PresenceError> {
        if self.shared.has_overflowed() {
            self.begin_anew();
        }
        let begun = Instant::now();
        let mut pipe = Pipeline::new();
        let renews = self.renew_at.is_none_or(|renew_at| begun >= renew_at);
        if renews {
            let set = pipe.cmd("SET").arg(self.lease.key()).arg(&*self.node);
            set.arg("PX").arg(millis(self.duration));
            if self.renew_at.is_some() {
                set.arg("XX");
            }
        }
        for stale in self.stale.drain(..) {
            remove(&mut pipe, &stale.key, &stale.fields);
        }
        let was_registering = !self.registering.is_empty();
        let mut sampled = Vec::new();
        for step in self.shared.take(&mut self.registering, COMMANDS) {
            tell(&mut pipe, self.lease, &self.former, &step, &mut sampled);
        }
        if self.renew_at.is_some() && !was_registering {
            // All are registered under the lease: those before have done their service.
            for former in self.former.drain(..) {
                pipe.del(former.key()).ignore();
            }
        }
        if pipe.is_empty() {
            return Ok(());
        }
        self.is_told = true;
        let mut replies = self.store.write::<Vec<Value>>(&pipe).await?.into_iter();
        if renews {
            if replies.next().is_none_or(|reply| reply == Value::Nil) {
                // It ran out (the process was stopped for a while, or Redis emptied).
                telemetry::presence_lease_lost(self.shared.len());
                self.begin_anew();
                return Ok(());
            }
            self.renew_at = Some(begun + self.duration / 3);
        }
        self.shared.set_health(Ok(()));
        if self.said.replace(true) != Some(true) {
            telemetry::presence_up(self.shared.len());
        }
        self.look_for_stale(sampled.into_iter().zip(replies)).await
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
        self.renew_at = None;
        self.stale.clear();
        self.registering = self.shared.begin_anew();
    }

    /// Finds fields of dead leases among those that were `sampled`, to be removed in the next
    /// round. Asks about leases only if one is unknown: a live one is not asked about again for
    /// as long as it lasts.
    async fn look_for_stale(
        &mut self,
        sampled: impl Iterator<Item = (Box<str>, Value)>,
    ) -> Result<(), PresenceError> {
        let (now, duration) = (Instant::now(), self.duration);
        self.alive.retain(|_, seen| now < *seen + duration);
        let mut suspects = Vec::new();
        let mut unknown = HashSet::new();
        for (key, reply) in sampled {
            let Ok(sample) = Vec::<Vec<u8>>::from_redis_value(reply) else {
                continue;
            };
            for field in sample {
                let Some((lease, _)) = LeaseId::split(&field) else {
                    continue;
                };
                if lease != self.lease && !self.alive.contains_key(&lease) {
                    unknown.insert(lease);
                    suspects.push((lease, key.clone(), field));
                }
            }
        }
        if unknown.is_empty() {
            return Ok(());
        }
        let unknown: Vec<_> = unknown.into_iter().collect();
        let mut pipe = Pipeline::new();
        for lease in &unknown {
            pipe.exists(lease.key());
        }
        let lives: Vec<bool> = self.store.write(&pipe).await?;
        let alive = unknown.iter().zip(lives).filter(|(_, lives)| *lives);
        self.alive.extend(alive.map(|(lease, _)| (*lease, now)));
        for (lease, key, field) in suspects {
            if !self.alive.contains_key(&lease) {
                let fields = vec![field];
                self.stale.push(Stale { key, fields });
            }
        }
        Ok(())
    }

    /// Ends the lease, and with it all of the node at once; then clears up, as far as it goes.
    async fn close(mut self) {
        let mut pipe = Pipeline::new();
        for lease in self.former.iter().chain([&self.lease]) {
            pipe.del(lease.key()).ignore();
        }
        self.registering.clear();
        while self.store.write::<()>(&pipe).await.is_ok() {
            pipe = Pipeline::new();
            for step in self.shared.take(&mut Vec::new(), COMMANDS) {
                tell(&mut pipe, self.lease, &self.former, &step, &mut Vec::new());
            }
            if pipe.is_empty() {
                return;
            }
        }
    }
}

/// Writes a step; notes the keys of the samples that it asks for.
fn tell(
    pipe: &mut Pipeline,
    lease: LeaseId,
    former: &[LeaseId],
    step: &Step,
    sampled: &mut Vec<Box<str>>,
) {
    let formerly = |name: &str| former.iter().map(|lease| lease.field(name)).collect();
    let leave = |pipe: &mut Pipeline, key: &str, name: &str| {
        let mut fields: Vec<_> = formerly(name);
        fields.push(lease.field(name));
        remove(pipe, key, &fields);
    };
    match step {
        Step::Enter(session) => {
            let mut enter = |key: String, name: &str, value: &[u8]| {
                pipe.hset(&key, lease.field(name), value).ignore();
                remove(pipe, &key, &formerly(name));
                pipe.cmd("HRANDFIELD").arg(&key).arg(SAMPLE);
                sampled.push(key.into());
            };
            enter(user_key(&session.user), &session.id, &encode(session));
            for group in session.groups() {
                enter(group_key(group), &session.user, b"");
            }
        }
        Step::Exit(session, groups) => {
            leave(pipe, &user_key(&session.user), &session.id);
            for group in groups {
                leave(pipe, &group_key(group), &session.user);
            }
        }
        Step::Forget(stale) => remove(pipe, &stale.key, &stale.fields),
    }
}

fn remove(pipe: &mut Pipeline, key: &str, fields: &[Vec<u8>]) {
    if !fields.is_empty() {
        pipe.hdel(key, fields).ignore();
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
