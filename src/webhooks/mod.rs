//! Webhooks: what happens here, told to the application by signed HTTP requests.
//!
//! An [`Event`] becomes a body once; each receiver (a URL) has a `queue` of its own, which is
//! pure: it decides what is sent next, what waits for another attempt, and what is given up. A
//! `sender` does what it says.

mod config;
mod event;
mod queue;
mod sender;
mod signature;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::SystemTime,
};

use bytes::Bytes;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

pub use config::{Config, Kind, ReceiverUrl, Secret};
pub use event::{Event, SessionFacts};
pub use queue::Dead;
use sender::Receiver;

use crate::{background, telemetry};

/// All receivers of this node's events.
pub struct Webhooks {
    kinds: Vec<Kind>,
    node: Box<str>,
    numbers: AtomicU64,
    receivers: Vec<(Arc<Receiver>, AbortOnDropHandle<()>)>,
}

impl fmt::Debug for Webhooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "webhooks to {} receivers", self.receivers.len())
    }
}

/// A receiver, as operators see it.
#[derive(Clone, Debug)]
pub struct ReceiverStatus {
    /// Its URL, without anything that could be a secret.
    pub url: String,
    /// Why it does not take events now; `None`: it does, or nothing has been sent.
    pub failing: Option<Box<str>>,
    /// Events that wait for it, or are on their way.
    pub waiting: usize,
    /// The bytes that they take.
    pub bytes: usize,
    /// Events for which there was no room, since the node started.
    pub dropped: u64,
    /// Events that were given up, since the node started.
    pub given_up: u64,
    /// The last of those.
    pub dead: Vec<Dead>,
}

impl Webhooks {
    /// Sends to the configured receivers from now on; `None` if there are none.
    ///
    /// # Errors
    /// The system's authorities cannot be read, which a URL with `https` needs.
    pub fn start(config: &Config, node: &str) -> Result<Option<Arc<Self>>, String> {
        if config.urls.is_empty() {
            return Ok(None);
        }
        telemetry::webhooks_begin();
        let receivers = config.urls.iter().map(|url| {
            let receiver = Receiver::new(url, config)?;
            let running = background::spawn(Arc::clone(&receiver).run());
            Ok((receiver, AbortOnDropHandle::new(running)))
        });
        Ok(Some(Arc::new(Self {
            kinds: config.events.clone(),
            node: node.into(),
            numbers: AtomicU64::new(0),
            receivers: receivers.collect::<Result<_, String>>()?,
        })))
    }

    /// Whether anybody wants to hear of this.
    #[must_use]
    pub fn wants(&self, kind: Kind) -> bool {
        self.kinds.contains(&kind)
    }

    /// Tells all receivers, if this kind is configured. Never waits: an event for which there is no
    /// room is counted, and dropped.
    pub fn tell(&self, event: &Event) {
        if !self.wants(event.kind()) {
            return;
        }
        let number = self.numbers.fetch_add(1, Relaxed);
        let id: Arc<str> = format!("{}.{number}", self.node).into();
        let body = Bytes::from(event.body(&id, &self.node, SystemTime::now()));
        let told = queue::Told {
            id,
            name: event.name(),
            subject: event.subject(),
            part: event.part(),
            body,
        };
        for (receiver, _) in &self.receivers {
            receiver.push(told.clone());
        }
    }

    /// How all receivers are.
    #[must_use]
    pub fn status(&self) -> Vec<ReceiverStatus> {
        let receivers = self.receivers.iter();
        receivers.map(|(receiver, _)| receiver.status()).collect()
    }

    /// Sends what waits, up to that moment, and ends. The log says how many events are left.
    pub async fn close(&self, until: Instant) {
        for (receiver, _) in &self.receivers {
            receiver.hurry();
        }
        for (receiver, _) in &self.receivers {
            // What is left is in the log.
            let _ = tokio::time::timeout_at(until, receiver.wait_empty()).await;
            receiver.close();
        }
    }
}
