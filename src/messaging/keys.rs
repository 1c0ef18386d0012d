//! `idempotency-key`: messages without an order, each published once.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt;
use stomp_session::Problem;
use tokio::time::{Instant, sleep};

use super::{
    Confirming, Holder, KeyKnown, SequenceStore,
    sequence::{PATIENCE, PAUSE},
};
use crate::deadline::after;

/// The longest key, in bytes.
pub(super) const MAX_KEY: usize = 128;

/// What becomes of a SEND with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyAdmitted {
    /// The broker has it; it is not published.
    Known,
    /// It is to be published now, with the mark or without; then call [`Keys::published`].
    Publish {
        /// The broker may have it.
        possible_duplicate: bool,
    },
}

/// The keys of one user.
pub struct Keys {
    store: Arc<dyn SequenceStore>,
    holder: Holder,
}

impl Keys {
    /// The keys of this user.
    #[must_use]
    pub fn new(store: Arc<dyn SequenceStore>, holder: Holder) -> Self {
        Self { store, holder }
    }

    /// Whether a key has a possible length.
    #[must_use]
    pub fn fits(key: &str) -> bool {
        (1..=MAX_KEY).contains(&key.len())
    }

    /// The turn of a frame with this key. If another has it under way, waits for that for a while.
    ///
    /// # Errors
    /// Its ERROR.
    pub async fn admit(&self, key: &str) -> Result<KeyAdmitted, Problem> {
        const LONGEST: Duration = Duration::from_millis(200);
        let end = after(PATIENCE);
        let mut pause = PAUSE;
        loop {
            let possible_duplicate = match self.store.begin_key(&self.holder, key).await? {
                KeyKnown::Done => return Ok(KeyAdmitted::Known),
                KeyKnown::Nothing => false,
                KeyKnown::Pending if Instant::now() < end => {
                    sleep(pause).await;
                    pause = pause.saturating_mul(2).min(LONGEST);
                    continue;
                }
                KeyKnown::Pending => true,
            };
            return Ok(KeyAdmitted::Publish { possible_duplicate });
        }
    }

    /// The message with this key was handed to the broker. Done when that is written down; goes on
    /// if it is dropped.
    pub fn published(self, key: Box<str>, confirm: Confirming) -> Confirming {
        let finishing = tokio::spawn(async move {
            confirm.await?;
            self.store.finish_key(&self.holder, &key).await?;
            Ok(())
        });
        async move {
            let gone = |_| Err(Problem::SequenceUnavailable("the gateway is ending".into()));
            finishing.await.unwrap_or_else(gone)
        }
        .boxed()
    }
}
