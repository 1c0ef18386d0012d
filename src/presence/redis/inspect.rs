//! Questions about Redis before anything depends on the answers (`stentor doctor`), by the
//! connections of presence. They change nothing: the key that rights are tried on is removed, and
//! expires after a few seconds in any case.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use deadpool_redis::redis::{
    Cmd, FromRedisValue as _, Pipeline, Value, cluster_routing::Slot, cmd,
};
use futures_util::future;

use super::{
    connect::{Connections, LACKS_A_RIGHT, unavailable},
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

/// A server that the account's rights were tried at, and what it says of itself.
#[derive(Debug)]
pub struct Tried {
    /// Its address; `None`: there is one, or Sentinels name it.
    pub server: Option<Box<str>>,
    /// The commands that the account may not use there, of those that presence needs.
    pub refused: Vec<&'static str>,
    /// `None`: the account may not ask for it, which presence does not need; or it does not tell.
    pub memory: Option<Memory>,
}

/// What a server does with keys when its memory is full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    /// `maxmemory`; 0: it has no bound.
    pub max_bytes: u64,
    /// `maxmemory-policy`.
    pub policy: Box<str>,
}

/// Slots of a cluster that are next to each other, and the address of their master.
struct SlotRange {
    first: u16,
    last: u16,
    master: Box<str>,
}

/// A command that presence needs, and one use of it on a key.
type Trial = (&'static str, fn(&str) -> Cmd);

/// The commands that presence needs, one by one, in an order in which each works. Those that find a
/// server, at Sentinels or in a cluster, are used for each of them.
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

/// Those that a cluster needs beside them.
const CLUSTER_TRIALS: &[Trial] = &[
    ("info", |_| cmd("INFO").arg("server").take()),
    ("asking", |_| cmd("ASKING")),
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

    /// Tries the account's rights: in a cluster at each master, for each has accounts of its own.
    ///
    /// # Errors
    /// Redis does not answer.
    pub async fn rights(&self) -> Result<Vec<Tried>, PresenceError> {
        if !self.connections.is_cluster() {
            let tried = self.keys.iter().map(|keys| self.tried(keys, None));
            return future::try_join_all(tried).await;
        }
        let slots = match self.slots().await {
            Err(error) if is_refusal(&error) => {
                return Ok(vec![Tried {
                    server: None,
                    refused: vec!["cluster|slots"],
                    memory: None,
                }]);
            }
            slots => slots?,
        };
        let places: Vec<_> = self.keys.iter().map(Keys::nodes).collect();
        let tried = one_of_each(&places, &slots)
            .into_iter()
            .filter_map(|(number, master)| Some(self.tried(self.keys.get(number)?, Some(master))));
        future::try_join_all(tried).await
    }

    /// The masters of a cluster.
    async fn slots(&self) -> Result<Vec<SlotRange>, PresenceError> {
        let tag = self.keys.first().map(Keys::nodes).unwrap_or_default();
        let mut pipe = Pipeline::new();
        pipe.cmd("CLUSTER").arg("SLOTS");
        let (slots,): (Vec<Vec<Value>>,) = self.connections.call_in_order(&tag, &pipe).await?;
        slots
            .iter()
            .map(|range| SlotRange::read(range).ok_or_else(|| unavailable("odd CLUSTER SLOTS")))
            .collect()
    }

    async fn tried(&self, keys: &Keys, server: Option<&str>) -> Result<Tried, PresenceError> {
        let key = keys.user(&format!("doctor.{:016x}", rand::random::<u64>()));
        let of_cluster = server.map_or(&[][..], |_| CLUSTER_TRIALS);
        let mut refused = Vec::new();
        for (name, command) in TRIALS.iter().chain(of_cluster) {
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
        Ok(Tried {
            server: server.map(Box::from),
            refused,
            memory: self.memory(&key).await,
        })
    }

    /// The server that has the key. If the link were lost, what is asked before would have said so.
    async fn memory(&self, key: &str) -> Option<Memory> {
        let mut pipe = Pipeline::new();
        pipe.cmd("INFO").arg("memory");
        let told: Result<(String,), _> = self.connections.call_in_order(key, &pipe).await;
        told.ok().and_then(|(text,)| Memory::read(&text))
    }

    async fn is_refused(&self, key: &str, pipe: &Pipeline) -> Result<bool, PresenceError> {
        match self.connections.call_in_order::<Value>(key, pipe).await {
            Ok(_) => Ok(false),
            Err(error) if is_refusal(&error) => Ok(true),
            Err(error) => Err(error),
        }
    }
}

impl Memory {
    /// The lines of `INFO memory`.
    fn read(text: &str) -> Option<Self> {
        let field = |name: &str| {
            let mut values = text.lines().filter_map(|line| line.strip_prefix(name));
            values.find_map(|value| value.strip_prefix(':'))
        };
        Some(Self {
            max_bytes: field("maxmemory")?.parse().ok()?,
            policy: field("maxmemory_policy")?.into(),
        })
    }

    /// Whether keys may go that nobody has removed, and whose time is not up.
    #[must_use]
    pub fn evicts(&self) -> bool {
        self.max_bytes > 0 && *self.policy != *"noeviction"
    }
}

impl SlotRange {
    /// An entry of `CLUSTER SLOTS`: the first slot, the last one, the master, and its replicas.
    fn read(range: &[Value]) -> Option<Self> {
        let [first, last, master, ..] = range else {
            return None;
        };
        let number = |value: &Value| u16::from_redis_value_ref(value).ok();
        let Value::Array(master) = master else {
            return None;
        };
        let [host, port, ..] = &**master else {
            return None;
        };
        // A server that does not know its own address says none.
        let host = String::from_redis_value_ref(host).unwrap_or_default();
        Some(Self {
            first: number(first)?,
            last: number(last)?,
            master: format!("{host}:{}", number(port)?).into(),
        })
    }
}

/// For each master that has keys of presence: its address, and one partition that it has. Partitions
/// go by their place in the list, and stand there by one of their keys.
fn one_of_each<'s>(partitions: &[String], slots: &'s [SlotRange]) -> Vec<(usize, &'s str)> {
    let numbered = partitions.iter().enumerate();
    let of_slot: HashMap<Slot, usize> = numbered
        .map(|(number, key)| (Slot::for_key(key), number))
        .collect();
    let mut found: Vec<(usize, &str)> = Vec::new();
    for range in slots {
        let number = (range.first..=range.last)
            .filter_map(Slot::new)
            .find_map(|slot| of_slot.get(&slot));
        if let Some(number) = number
            && found.iter().all(|(_, master)| **master != *range.master)
        {
            found.push((*number, &range.master));
        }
    }
    found
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
        for (begins, trials, otherwise) in [
            (
                "ACL SETUSER stentor",
                TRIALS,
                &["evalsha", "script|load"][..],
            ),
            ("# with a cluster:", CLUSTER_TRIALS, &["cluster|slots"]),
        ] {
            let line = page.lines().find(|line| line.starts_with(begins));
            let words = line.unwrap().split_whitespace();
            let mut needed: BTreeSet<_> = words.filter_map(|word| word.strip_prefix('+')).collect();
            for tried in otherwise {
                assert!(needed.remove(tried), "{tried}");
            }
            let tried: BTreeSet<_> = trials.iter().map(|(name, _)| *name).collect();
            assert_eq!(tried, needed);
        }
    }

    #[test]
    fn rights_are_tried_at_each_master() {
        let places: Vec<_> = (0..PARTITIONS)
            .map(|number| Keys::partition(number).nodes())
            .collect();
        let range = |first, last, master: &str| SlotRange {
            first,
            last,
            master: master.into(),
        };
        let halves = [
            range(0, 5_000, "a:1"),
            range(5_001, 10_000, "b:1"),
            range(10_001, 12_000, "a:1"),
            range(12_001, 16_383, "c:1"),
        ];
        let tried = one_of_each(&places, &halves);
        let masters: Vec<_> = tried.iter().map(|(_, master)| *master).collect();
        assert_eq!(masters, ["a:1", "b:1", "c:1"]);
        let slots = [0..=5_000, 5_001..=10_000, 12_001..=16_383];
        for ((number, _), slots) in tried.iter().zip(slots) {
            let own = Slot::for_key(&places[*number]);
            let mut all = slots.filter_map(Slot::new);
            assert!(all.any(|slot| slot == own), "{number}");
        }
        // Without keys of presence a master needs no rights; Redis gives `{0}` slot 13907.
        let one = [Keys::partition(0).nodes()];
        let slots = [range(0, 13_906, "a:1"), range(13_907, 16_383, "b:1")];
        assert_eq!(one_of_each(&one, &slots), [(0, "b:1")]);
    }

    #[test]
    fn a_server_evicts_keys_by_its_bound_and_its_policy() {
        let told = |bound: &str, policy: &str| {
            let text = format!(
                "# Memory\r\nused_memory:1\r\nmaxmemory:{bound}\r\nmaxmemory_human:1.00M\r\n\
                 maxmemory_policy:{policy}\r\n"
            );
            Memory::read(&text).map(|memory| memory.evicts())
        };
        assert_eq!(told("1048576", "volatile-lru"), Some(true));
        assert_eq!(told("1048576", "allkeys-random"), Some(true));
        assert_eq!(told("1048576", "noeviction"), Some(false));
        assert_eq!(told("0", "volatile-lru"), Some(false));
        assert_eq!(told("much", "volatile-lru"), None);
        assert_eq!(Memory::read("# Memory\r\nused_memory:1\r\n"), None);
    }

    #[test]
    fn slots_are_read_with_their_master() {
        let text = |text: &str| Value::BulkString(text.into());
        let place = |host: Value| Value::Array(vec![host, Value::Int(7000), text("id")]);
        let read = |master: Value| {
            let entry = [
                Value::Int(0),
                Value::Int(5460),
                master,
                place(text("other")),
            ];
            SlotRange::read(&entry)
                .map(|range| (range.first, range.last, String::from(range.master)))
        };
        let found = |master: &str| Some((0, 5460, master.to_owned()));
        assert_eq!(read(place(text("10.0.0.1"))), found("10.0.0.1:7000"));
        assert_eq!(read(place(Value::Nil)), found(":7000"));
        assert_eq!(read(Value::Nil), None);
        assert!(SlotRange::read(&[Value::Int(0)]).is_none());
    }
}
