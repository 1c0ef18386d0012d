//! Who is connected to this node: what a drain waits for, and can reach.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use stomp_session::Problem;
use tokio::sync::watch;

use crate::hub::Mailbox;

/// All connections of this node.
#[derive(Debug)]
pub struct Registry {
    mailboxes: Mutex<HashMap<u64, Arc<Mailbox>>>,
    /// Whether a drain was begun. Written and read with `mailboxes` locked.
    draining: AtomicBool,
    next: AtomicU64,
    count: watch::Sender<usize>,
    max: usize,
}

/// A connection's place in the registry; given back when it is dropped.
#[derive(Debug)]
pub struct Guard {
    registry: Arc<Registry>,
    number: u64,
    mailbox: Arc<Mailbox>,
}

impl Registry {
    /// A registry that takes `max` connections at a time.
    #[must_use]
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            mailboxes: Mutex::default(),
            draining: AtomicBool::new(false),
            next: AtomicU64::new(0),
            count: watch::Sender::new(0),
            max,
        })
    }

    /// Takes a place for a connection, before its transport is answered: so a drain sees it.
    /// `None`: there are as many as allowed.
    #[must_use]
    pub fn enter(self: &Arc<Self>, mailbox: Arc<Mailbox>) -> Option<Guard> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut mailboxes = self.mailboxes.lock();
        if mailboxes.len() >= self.max {
            return None;
        }
        mailboxes.insert(number, Arc::clone(&mailbox));
        // An upgrade on a stream that was accepted before: it would not be told otherwise.
        if self.draining.load(Ordering::Relaxed) {
            mailbox.fail(Problem::ShuttingDown);
        }
        self.count.send_replace(mailboxes.len());
        drop(mailboxes);
        Some(Guard {
            registry: Arc::clone(self),
            number,
            mailbox,
        })
    }

    /// How many there may be.
    #[must_use]
    pub fn max(&self) -> usize {
        self.max
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        *self.count.borrow()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tells every connection that the server shuts down, spread evenly over `duration`, so that
    /// they do not all reconnect elsewhere in one instant. Who enters from now on, is told at
    /// once.
    pub async fn drain(&self, duration: Duration) {
        const TICK: Duration = Duration::from_millis(50);
        let mailboxes: Vec<_> = {
            let mailboxes = self.mailboxes.lock();
            self.draining.store(true, Ordering::Relaxed);
            mailboxes.values().map(Arc::clone).collect()
        };
        let ticks = (duration.as_millis() / TICK.as_millis()).max(1);
        let each_tick = mailboxes
            .len()
            .div_ceil(usize::try_from(ticks).unwrap_or(1))
            .max(1);
        let mut ticking = tokio::time::interval(TICK);
        for some in mailboxes.chunks(each_tick) {
            ticking.tick().await;
            for mailbox in some {
                mailbox.fail(Problem::ShuttingDown);
            }
        }
    }

    /// Waits until the last connection is gone.
    pub async fn wait_empty(&self) {
        // The sender is this very registry's, so there is no error.
        let _ = self.count.subscribe().wait_for(|count| *count == 0).await;
    }
}

impl Guard {
    /// A number that no other connection of this process has, ever.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The connection's mailbox.
    #[must_use]
    pub fn mailbox(&self) -> &Arc<Mailbox> {
        &self.mailbox
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut mailboxes = self.registry.mailboxes.lock();
        mailboxes.remove(&self.number);
        self.registry.count.send_replace(mailboxes.len());
    }
}
