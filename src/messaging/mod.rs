//! The up-link without loss or doubles: clients number their SENDs, or give them a key, and repeat
//! them after a reconnect, on any node; each is published once.
//!
//! It also keeps bookmarks in journals: how far a device has acknowledged.
//!
//! [`SequenceStore`] keeps what all nodes must know; two implementations hold the same contract
//! tests: [`MemorySequences`], for a single node, and [`RedisSequences`]. `docs/internals/messaging.md`
//! has the states, the failures, and the promises.

mod config;
mod keys;
mod line;
mod memory;
mod name;
mod record;
mod redis;
mod sequence;

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use stomp_session::Problem;
use thiserror::Error;

pub use config::{Config, Store};
pub use keys::{KeyAdmitted, Keys};
pub use memory::MemorySequences;
pub use name::{Once, is_reserved, message_id};
pub use record::{Entry, MAX_NUMBER, WINDOW};
pub use redis::RedisSequences;
pub use sequence::{Admitted, Confirming, Sequence};

use crate::broker::Properties;

/// The AMQP header of a message of which the broker may have another copy.
pub const DUPLICATE_HEADER: &str = "x-possible-duplicate";

/// The broker may have another copy of a message with these properties.
pub(crate) fn mark_duplicate(properties: &mut Properties) {
    let headers = &mut properties.headers;
    headers.retain(|(name, _)| &**name != DUPLICATE_HEADER);
    headers.push((DUPLICATE_HEADER.into(), "true".into()));
}

/// Bookmarks of one user at a time, for each device that it may have ([`Config::max_devices`]).
pub const BOOKMARKS: usize = 16;

/// Whose keys they are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Holder {
    /// The virtual host.
    pub vhost: Arc<str>,
    /// The user.
    pub user: Arc<str>,
}

/// Whose sequence it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SequenceName {
    /// The virtual host and the user.
    pub holder: Holder,
    /// The device.
    pub device: Box<str>,
}

/// Keeps sequences and keys, for all nodes. Each call is one step that no other comes between; one
/// that fails may have been done.
pub trait SequenceStore: Send + Sync + 'static {
    /// [`Entry::open`]; the connection's epoch is the answer's. A user with too many devices loses the sequence that was unused for
    /// longest, and has nothing under way.
    ///
    /// # Errors
    /// As there, and [`SequenceError::Unavailable`].
    fn open<'a>(
        &'a self,
        name: &'a SequenceName,
        known: u64,
        epoch: u64,
        told: u64,
    ) -> BoxFuture<'a, Result<Entry, SequenceError>>;

    /// The entry as it is.
    ///
    /// # Errors
    /// [`SequenceError::Unavailable`]; [`SequenceError::Lost`]: there is no entry.
    fn look<'a>(&'a self, name: &'a SequenceName) -> BoxFuture<'a, Result<Entry, SequenceError>>;

    /// [`Entry::reserve`].
    ///
    /// # Errors
    /// As there, and as [`SequenceStore::look`].
    fn reserve<'a>(
        &'a self,
        name: &'a SequenceName,
        epoch: u64,
        to: u64,
    ) -> BoxFuture<'a, Result<Entry, SequenceError>>;

    /// [`Entry::commit`].
    ///
    /// # Errors
    /// As there, and as [`SequenceStore::look`].
    fn commit<'a>(
        &'a self,
        name: &'a SequenceName,
        epoch: u64,
        from: u64,
        to: u64,
    ) -> BoxFuture<'a, Result<Entry, SequenceError>>;

    /// [`Entry::release`].
    ///
    /// # Errors
    /// As [`SequenceStore::look`].
    fn release<'a>(
        &'a self,
        name: &'a SequenceName,
        epoch: u64,
        handed: u64,
    ) -> BoxFuture<'a, Result<Entry, SequenceError>>;

    /// A message with this key is about to be handed to the broker; the answer is what was known
    /// of the key before. Beyond the user's bound, the keys that are oldest are forgotten.
    ///
    /// # Errors
    /// [`SequenceError::Unavailable`].
    fn begin_key<'a>(
        &'a self,
        holder: &'a Holder,
        key: &'a str,
    ) -> BoxFuture<'a, Result<KeyKnown, SequenceError>>;

    /// The broker has confirmed the message with this key.
    ///
    /// # Errors
    /// [`SequenceError::Unavailable`].
    fn finish_key<'a>(
        &'a self,
        holder: &'a Holder,
        key: &'a str,
    ) -> BoxFuture<'a, Result<(), SequenceError>>;

    /// The bookmark of that name, if one was kept. It counts as used.
    ///
    /// # Errors
    /// [`SequenceError::Unavailable`].
    fn bookmark<'a>(
        &'a self,
        holder: &'a Holder,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Option<Box<str>>, SequenceError>>;

    /// How long what it keeps is remembered after its last use.
    fn keep(&self) -> Duration;

    /// Keeps a bookmark: a text without blanks, and not empty. It takes the place of the one
    /// that is known; another one that is there stays, for a call may come late. The answer is the
    /// bookmark that is there then. Beyond the user's bound, those are forgotten that were unused for
    /// longest.
    ///
    /// # Errors
    /// [`SequenceError::Unavailable`].
    fn keep_bookmark<'a>(
        &'a self,
        holder: &'a Holder,
        name: &'a str,
        known: Option<&'a str>,
        bookmark: &'a str,
    ) -> BoxFuture<'a, Result<Box<str>, SequenceError>>;
}

/// What a store knows of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKnown {
    /// Nothing.
    Nothing,
    /// A message with it may be at the broker.
    Pending,
    /// A message with it is at the broker.
    Done,
}

/// Why a step was not done.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SequenceError {
    /// The store is away, or slow; why.
    #[error("{0}")]
    Unavailable(Box<str>),
    /// Another connection has the sequence now.
    #[error("another connection of this device has taken the sequence over")]
    Taken,
    /// The store has forgotten the sequence.
    #[error("the sequence was forgotten")]
    Lost,
    /// The sequence is not as the login found it: another login came in between.
    #[error("other connections of this device log in at the same time")]
    Changed,
}

impl From<SequenceError> for Problem {
    fn from(error: SequenceError) -> Self {
        match error {
            SequenceError::Unavailable(why) => Self::SequenceUnavailable(why),
            SequenceError::Changed => Self::SequenceUnavailable(error.to_string().into()),
            SequenceError::Taken => Self::SequenceTaken,
            SequenceError::Lost => Self::SequenceLost,
        }
    }
}

#[cfg(test)]
mod tests;
