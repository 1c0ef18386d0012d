//! Records that all nodes share, in a hash of Redis.

use std::sync::Arc;

use deadpool_redis::redis::Pipeline;
use futures_util::future::{BoxFuture, FutureExt};

use super::{connect::Connections, entry::Keys, script};
use crate::presence::{PresenceError, Record, Records, RecordsRead, records::MOST_RECORDS};

/// The bans.
pub(super) struct RedisRecords {
    connections: Arc<Connections>,
}

impl RedisRecords {
    pub(super) fn new(connections: Arc<Connections>) -> Self {
        Self { connections }
    }
}

impl Records for RedisRecords {
    fn put<'a>(&'a self, records: &'a [Record]) -> BoxFuture<'a, Result<usize, PresenceError>> {
        async move {
            let mut pipe = Pipeline::new();
            for record in records {
                script::put_record(&mut pipe, Keys::bans(), record, &version(), MOST_RECORDS);
            }
            if pipe.is_empty() {
                return Ok(0);
            }
            let passed_over: Vec<usize> = self.connections.call(Keys::bans(), &pipe).await?;
            Ok(passed_over.into_iter().fold(0, usize::saturating_add))
        }
        .boxed()
    }

    fn remove<'a>(&'a self, records: &'a [Record]) -> BoxFuture<'a, Result<(), PresenceError>> {
        async move {
            let mut pipe = Pipeline::new();
            for record in records {
                script::remove_record(&mut pipe, Keys::bans(), record, &version());
            }
            if pipe.is_empty() {
                return Ok(());
            }
            self.connections.call::<()>(Keys::bans(), &pipe).await
        }
        .boxed()
    }

    fn read<'a>(
        &'a self,
        version: Option<&'a [u8]>,
    ) -> BoxFuture<'a, Result<Option<RecordsRead>, PresenceError>> {
        async move {
            let mut pipe = Pipeline::new();
            pipe.hget(Keys::bans(), VERSION);
            let (now,): (Option<Vec<u8>>,) = self.connections.call(Keys::bans(), &pipe).await?;
            if now.is_some() && now.as_deref() == version {
                return Ok(None);
            }
            let mut pipe = Pipeline::new();
            pipe.hgetall(Keys::bans());
            let (fields,): (Vec<(Vec<u8>, Vec<u8>)>,) =
                self.connections.call(Keys::bans(), &pipe).await?;
            let mut read = RecordsRead::default();
            for (key, value) in fields {
                if key == VERSION.as_bytes() {
                    read.version = Some(value.into());
                } else {
                    read.records.extend(record(key, &value));
                }
            }
            read.records.sort_unstable_by(|a, b| a.key.cmp(&b.key));
            Ok(Some(read))
        }
        .boxed()
    }
}

/// The field of the hash that is no record's.
const VERSION: &str = "";

/// Another one each time, on all nodes.
fn version() -> [u8; 8] {
    rand::random()
}

/// `STAMP VALUE`; `None`: another program wrote it.
fn record(key: Vec<u8>, value: &[u8]) -> Option<Record> {
    let space = value.iter().position(|byte| *byte == b' ')?;
    let (stamp, value) = value.split_at_checked(space)?;
    Some(Record {
        key: String::from_utf8(key).ok()?.into(),
        stamp: std::str::from_utf8(stamp).ok()?.parse().ok()?,
        value: value.get(1..)?.into(),
    })
}
