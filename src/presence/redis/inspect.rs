//! Questions about Redis before anything depends on the answers (`stentor doctor`), by the
//! connections of presence. They change nothing: the key that rights are tried on is removed, and
//! expires after a few seconds in any case.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use deadpool_redis::redis::{Cmd, Pipeline, Value, cmd};
use futures_util::future;

use super::{
    connect::{Connections, LACKS_A_RIGHT},
    entry::{Keys, LeaseId, PARTITIONS},
    script::{self, Caller, Known, Untold},
};
use crate::{
    presence::{PresenceError, RedisConfig, Status},
    secret_url::SecretUrl,
};

/// How long the key of a trial lives, in milliseconds.
const TRIAL_MILLISECONDS: u64 = 10_000;

/// A Redis under examination.
pub struct ExaminedRedis {
    connections: Connections,
    keys: Vec<Keys>,
}

/// A command that presence needs, and one use of it on a key.
type Trial = (&'static str, fn(&str) -> Cmd);

/// The commands that presence needs, one by one, in an order in which each works. Those of Sentinels
/// and clusters are used for each of them.
const TRIALS: &[Trial] = &[
    ("ping", |_| cmd("PING")),
    ("time", |_| cmd("TIME")),
    ("set", |key| {
        cmd("SET")
            .arg(key)
            .arg(1)
            .arg("PX")
            .arg(TRIAL_MILLISECONDS)
            .take()
    }),
    ("get", |key| cmd("GET").arg(key).take()),
    ("exists", |key| cmd("EXISTS").arg(key).take()),
    ("incr", |key| cmd("INCR").arg(key).take()),
    ("decr", |key| cmd("DECR").arg(key).take()),
    ("del", |key| cmd("DEL").arg(key).take()),
    ("hset", |key| cmd("HSET").arg(key).arg("a").arg(1).take()),
    ("pexpire", |key| {
        cmd("PEXPIRE").arg(key).arg(TRIAL_MILLISECONDS).take()
    }),
    ("hsetnx", |key| {
        cmd("HSETNX").arg(key).arg("a").arg(1).take()
    }),
    ("hget", |key| cmd("HGET").arg(key).arg("a").take()),
    ("hmget", |key| cmd("HMGET").arg(key).arg("a").take()),
    ("hgetall", |key| cmd("HGETALL").arg(key).take()),
    ("hkeys", |key| cmd("HKEYS").arg(key).take()),
    ("hlen", |key| cmd("HLEN").arg(key).take()),
    ("hscan", |key| cmd("HSCAN").arg(key).arg(0).take()),
    ("hdel", |key| cmd("HDEL").arg(key).arg("a").take()),
    ("eval", |key| {
        cmd("EVAL").arg("return 1").arg(1).arg(key).take()
    }),
];

impl ExaminedRedis {
    /// Connects to nobody yet.
    ///
    /// # Errors
    /// [`PresenceError::Configuration`].
    pub fn new(
        url: &SecretUrl,
        config: &RedisConfig,
        lease: Duration,
    ) -> Result<Self, PresenceError> {
        let connections = Connections::new(url, config, lease)?;
        let keys = match connections.is_cluster() {
            true => (0..PARTITIONS).map(Keys::partition).collect(),
            false => vec![Keys::whole()],
        };
        Ok(Self { connections, keys })
    }

    /// How many parts the keys are in.
    #[must_use]
    pub fn partitions(&self) -> usize {
        self.keys.len()
    }

    /// Whether every part answers; the time of the first.
    ///
    /// # Errors
    /// One does not.
    pub async fn time(&self) -> Result<SystemTime, PresenceError> {
        let asked = self.keys.iter().map(|keys| async move {
            let mut pipe = Pipeline::new();
            pipe.cmd("EXISTS").arg(keys.nodes());
            pipe.cmd("TIME");
            let (_, time): (Value, (u64, u32)) =
                self.connections.call_in_order(&keys.nodes(), &pipe).await?;
            Ok(time)
        });
        let times: Vec<(u64, u32)> = future::try_join_all(asked).await?;
        let (seconds, micros) = times.first().copied().unwrap_or_default();
        let since = Duration::from_secs(seconds).checked_add(Duration::from_micros(micros.into()));
        Ok(since
            .and_then(|since| UNIX_EPOCH.checked_add(since))
            .unwrap_or(UNIX_EPOCH))
    }

    /// The commands that the account may not use, of those that presence needs.
    ///
    /// # Errors
    /// Redis does not answer.
    pub async fn refused(&self) -> Result<Vec<&'static str>, PresenceError> {
        let Some(keys) = self.keys.first() else {
            return Ok(Vec::new());
        };
        let key = keys.user(&format!("doctor.{:016x}", rand::random::<u64>()));
        let mut refused = Vec::new();
        for (name, command) in TRIALS {
            let mut pipe = Pipeline::new();
            pipe.add_command(command(&key));
            if self.is_refused(&key, &pipe).await? {
                refused.push(*name);
            }
        }
        let mut pipe = Pipeline::new();
        script::load(&mut pipe);
        let loaded: Result<(String,), _> = self.connections.call_in_order(&key, &pipe).await;
        match loaded {
            Ok((name,)) => {
                // The script itself, for a node whose lease is over: it reads, and writes nothing.
                let mut pipe = Pipeline::new();
                let caller = Caller {
                    keys,
                    lease: LeaseId::random(),
                    script: &name,
                };
                let known = Known::new(Untold::AsIs, Status::Offline);
                script::settle(&mut pipe, caller, "stentor.doctor", known);
                if self.is_refused(&key, &pipe).await? {
                    refused.push("evalsha");
                }
            }
            Err(error) if is_refusal(&error) => refused.push("script|load"),
            Err(error) => return Err(error),
        }
        Ok(refused)
    }

    async fn is_refused(&self, key: &str, pipe: &Pipeline) -> Result<bool, PresenceError> {
        match self.connections.call_in_order::<Value>(key, pipe).await {
            Ok(_) => Ok(false),
            Err(error) if is_refusal(&error) => Ok(true),
            Err(error) => Err(error),
        }
    }
}

/// Whether the account lacks a right.
fn is_refusal(error: &PresenceError) -> bool {
    error.to_string().ends_with(LACKS_A_RIGHT)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The page for operators names the commands that an account needs.
    #[test]
    fn every_right_of_the_page_is_tried() {
        let page = include_str!("../../../docs/presence.md");
        let line = page
            .lines()
            .find(|line| line.starts_with("ACL SETUSER stentor"));
        let words = line.unwrap().split_whitespace();
        let mut needed: BTreeSet<_> = words.filter_map(|word| word.strip_prefix('+')).collect();
        for tried in ["evalsha", "script|load"] {
            assert!(needed.remove(tried), "{tried}");
        }
        let tried: BTreeSet<_> = TRIALS.iter().map(|(name, _)| *name).collect();
        assert_eq!(tried, needed);
    }
}
