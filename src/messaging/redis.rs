//! Sequences and keys in Redis, shared by all nodes.

use std::{fmt, sync::Arc, time::Duration};

use deadpool_redis::redis::Pipeline;
use futures_util::future::{BoxFuture, FutureExt};

use super::{
    BOOKMARKS, Config, Entry, Holder, KeyKnown, MAX_NUMBER, SequenceError, SequenceName,
    SequenceStore, WINDOW,
};
use crate::{
    presence::{
        PresenceError, RedisConfig,
        redis::{Connections, Shared, code},
    },
    secret_url::SecretUrl,
};

/// One step of an entry.
const SEQUENCE: &str = include_str!("sequence.lua");
/// One step of a key.
const KEY: &str = include_str!("key.lua");
/// A bookmark is read or kept.
const BOOKMARK: &str = include_str!("bookmark.lua");

/// Bounds the time of an answer as a lease of this length does.
const LEASE: Duration = Duration::from_secs(15);

/// Sequences and keys of all nodes.
pub struct RedisSequences {
    connections: Connections,
    /// The connection that all calls share, in a pipeline.
    shared: Shared,
    config: Config,
}

/// A step of [`SEQUENCE`], with its arguments.
enum Step {
    Open(u64, u64, u64),
    Look,
    Reserve(u64, u64),
    Commit(u64, u64, u64),
    Release(u64, u64),
}

impl RedisSequences {
    /// Connects to nobody yet.
    ///
    /// # Errors
    /// [`PresenceError::Configuration`]: a key, and its fault.
    pub fn new(
        url: &SecretUrl,
        redis: &RedisConfig,
        config: Config,
    ) -> Result<Arc<Self>, PresenceError> {
        Ok(Arc::new(Self {
            connections: Connections::new(url, redis, LEASE)?,
            shared: Shared::default(),
            config,
        }))
    }

    async fn step(&self, name: &SequenceName, step: Step) -> Result<Entry, SequenceError> {
        let key = key("sequences", &name.holder);
        let (step, epoch, a, b) = match step {
            Step::Open(known, epoch, told) => ("open", epoch, told, known),
            Step::Look => ("look", 0, 0, 0),
            Step::Reserve(epoch, to) => ("reserve", epoch, to, 0),
            Step::Commit(epoch, from, to) => ("commit", epoch, from, to),
            Step::Release(epoch, handed) => ("release", epoch, handed, 0),
        };
        let mut pipe = Pipeline::new();
        let command = pipe.cmd("EVAL").arg(code(SEQUENCE)).arg(1).arg(&key);
        command.arg(&*name.device).arg(step);
        command.arg(epoch).arg(a).arg(b);
        command.arg(self.config.keep.as_secs());
        command.arg(self.config.max_devices);
        command.arg(WINDOW).arg(MAX_NUMBER);
        let ((outcome, epoch, last, reserved, busy),): ((u8, u64, u64, u64, u64),) =
            self.call(&key, &pipe).await?;
        match outcome {
            0 => Ok(Entry {
                epoch,
                last,
                reserved,
                busy,
            }),
            1 => Err(SequenceError::Taken),
            3 => Err(SequenceError::Changed),
            _ => Err(SequenceError::Lost),
        }
    }

    async fn key_step(
        &self,
        holder: &Holder,
        name: &str,
        step: &str,
    ) -> Result<KeyKnown, SequenceError> {
        let key = key("keys", holder);
        let mut pipe = Pipeline::new();
        let command = pipe.cmd("EVAL").arg(code(KEY)).arg(1).arg(&key);
        command.arg(name).arg(step);
        command
            .arg(self.config.keep.as_secs())
            .arg(self.config.max_keys);
        let (known,): (u8,) = self.call(&key, &pipe).await?;
        Ok(match known {
            0 => KeyKnown::Nothing,
            1 => KeyKnown::Pending,
            _ => KeyKnown::Done,
        })
    }

    /// `keeps`: this bookmark is kept, in place of the one that is known.
    async fn bookmark_step(
        &self,
        holder: &Holder,
        name: &str,
        known: &str,
        keeps: &str,
    ) -> Result<Option<Box<str>>, SequenceError> {
        let key = key("bookmarks", holder);
        let most = self.config.max_devices.saturating_mul(BOOKMARKS);
        let mut pipe = Pipeline::new();
        let command = pipe.cmd("EVAL").arg(code(BOOKMARK)).arg(1).arg(&key);
        command.arg(name).arg(keeps);
        command.arg(self.config.keep.as_secs()).arg(most).arg(known);
        let (there,): (String,) = self.call(&key, &pipe).await?;
        Ok((!there.is_empty()).then(|| there.into()))
    }

    async fn call<T: deadpool_redis::redis::FromRedisValue>(
        &self,
        key: &str,
        pipe: &Pipeline,
    ) -> Result<T, SequenceError> {
        let called = self.connections.share(&self.shared, key, pipe).await;
        called.map_err(|error| SequenceError::Unavailable(error.to_string().into()))
    }
}

/// The hash of a user; no two users of any virtual hosts have the same.
fn key(what: &str, Holder { vhost, user }: &Holder) -> String {
    format!("stentor:{what}:{}:{vhost}:{user}", vhost.len())
}

impl SequenceStore for RedisSequences {
    fn open<'a>(
        &'a self,
        name: &'a SequenceName,
        known: u64,
        epoch: u64,
        told: u64,
    ) -> BoxFuture<'a, Result<Entry, SequenceError>> {
        self.step(name, Step::Open(known, epoch, told)).boxed()
    }

    fn look<'a>(&'a self, name: &'a SequenceName) -> BoxFuture<'a, Result<Entry, SequenceError>> {
        self.step(name, Step::Look).boxed()
    }

    fn reserve<'a>(
        &'a self,
        name: &'a SequenceName,
        epoch: u64,
        to: u64,
    ) -> BoxFuture<'a, Result<Entry, SequenceError>> {
        self.step(name, Step::Reserve(epoch, to)).boxed()
    }

    fn commit<'a>(
        &'a self,
        name: &'a SequenceName,
        epoch: u64,
        from: u64,
        to: u64,
    ) -> BoxFuture<'a, Result<Entry, SequenceError>> {
        self.step(name, Step::Commit(epoch, from, to)).boxed()
    }

    fn release<'a>(
        &'a self,
        name: &'a SequenceName,
        epoch: u64,
        handed: u64,
    ) -> BoxFuture<'a, Result<Entry, SequenceError>> {
        self.step(name, Step::Release(epoch, handed)).boxed()
    }

    fn begin_key<'a>(
        &'a self,
        holder: &'a Holder,
        key: &'a str,
    ) -> BoxFuture<'a, Result<KeyKnown, SequenceError>> {
        self.key_step(holder, key, "begin").boxed()
    }

    fn finish_key<'a>(
        &'a self,
        holder: &'a Holder,
        key: &'a str,
    ) -> BoxFuture<'a, Result<(), SequenceError>> {
        async move { self.key_step(holder, key, "finish").await.map(drop) }.boxed()
    }

    fn bookmark<'a>(
        &'a self,
        holder: &'a Holder,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Option<Box<str>>, SequenceError>> {
        self.bookmark_step(holder, name, "", "").boxed()
    }

    fn keep(&self) -> Duration {
        self.config.keep
    }

    fn keep_bookmark<'a>(
        &'a self,
        holder: &'a Holder,
        name: &'a str,
        known: Option<&'a str>,
        bookmark: &'a str,
    ) -> BoxFuture<'a, Result<Box<str>, SequenceError>> {
        async move {
            let known = known.unwrap_or_default();
            let there = self.bookmark_step(holder, name, known, bookmark).await?;
            Ok(there.unwrap_or_else(|| bookmark.into()))
        }
        .boxed()
    }
}

impl fmt::Debug for RedisSequences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the connections: they know the password.
        f.debug_struct("RedisSequences").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_users_share_a_key() {
        let name = |vhost: &str, user: &str| {
            key(
                "keys",
                &Holder {
                    vhost: vhost.into(),
                    user: user.into(),
                },
            )
        };
        assert_eq!(name("/", "alice"), "stentor:keys:1:/:alice");
        assert_ne!(name("a:b", "c"), name("a", "b:c"));
    }
}
