//! Exclusive queues, to RabbitMQ, are their connection's. Here clients share connections, so that
//! the gateway itself has to tell whose such a queue is: its owner's consumers are all on the one
//! link that declared it, and nobody else's are let on it.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;

use super::link::AmqpLink;
use crate::broker::{BrokerError, Consume, resource_locked};

/// The exclusive queues of a virtual host that this node's clients have.
pub(super) struct ExclusiveQueues {
    vhost: Box<str>,
    owned: Mutex<HashMap<Box<str>, Weak<Ownership>>>,
}

/// An owner's right to a queue, for as long as one of its consumers holds it.
pub(super) struct Ownership {
    queues: Weak<ExclusiveQueues>,
    queue: Box<str>,
    owner: u64,
    link: Arc<AmqpLink>,
}

impl Ownership {
    /// The link that the queue is on.
    pub(super) fn link(&self) -> &Arc<AmqpLink> {
        &self.link
    }
}

impl ExclusiveQueues {
    pub(super) fn new(vhost: &str) -> Self {
        Self {
            vhost: vhost.into(),
            owned: Mutex::default(),
        }
    }

    /// The ownership that a consumer needs to be on its queue, with a link that `choose_link` names
    /// if it is new. `None`: the queue is nobody's.
    ///
    /// # Errors
    /// [`BrokerError::ResourceLocked`]: it is another owner's.
    pub(super) fn own(
        self: &Arc<Self>,
        request: &Consume,
        choose_link: impl FnOnce() -> Arc<AmqpLink>,
    ) -> Result<Option<Arc<Ownership>>, BrokerError> {
        let Consume { queue, owner, .. } = request;
        let mut owned = self.owned.lock();
        if let Some(ownership) = owned.get(&queue.name).and_then(Weak::upgrade) {
            // If it is the last one by now, its end asks for the lock.
            drop(owned);
            return match ownership.owner == *owner {
                true => Ok(Some(ownership)),
                false => {
                    let (queue, vhost) = (&queue.name, &self.vhost);
                    let words = format!("queue '{queue}' in vhost '{vhost}'");
                    Err(resource_locked(&words))
                }
            };
        }
        // What is called as nobody can guess needs no owner: its consumer is exclusive.
        if !(queue.exclusive && request.declare) || request.exclusive || queue.name.is_empty() {
            return Ok(None);
        }
        let ownership = Arc::new(Ownership {
            queues: Arc::downgrade(self),
            queue: queue.name.clone(),
            owner: *owner,
            link: choose_link(),
        });
        owned.insert(queue.name.clone(), Arc::downgrade(&ownership));
        Ok(Some(ownership))
    }
}

impl Drop for Ownership {
    fn drop(&mut self) {
        let Some(queues) = self.queues.upgrade() else {
            return;
        };
        let mut owned = queues.owned.lock();
        // There may be a new one by now.
        let is_over = |other: &Weak<Self>| other.strong_count() == 0;
        if owned.get(&self.queue).is_some_and(is_over) {
            owned.remove(&self.queue);
        }
    }
}
