//! The queues that a connection has declared, by whatever command; and its subscriptions whose
//! queues were deleted (pure).
//!
//! A queue is declared once for a connection, as the first SUBSCRIBE or SEND said it. Later frames
//! use it, whatever they say of it: so does the plug-in, and a client that subscribes with
//! `auto-delete`, say, sends to the queue without.

use std::collections::{HashMap, VecDeque};

use stomp_session::SubscriptionId;

use crate::broker::{Argument, QueueSpec};

/// Queues that are remembered.
const MAX_QUEUES: usize = 1_000;
/// Bytes of arguments of one queue that are remembered with it. All that make sense take less.
const MAX_ARGUMENTS: usize = 2_000;
/// Subscriptions whose queues were deleted, and that are remembered: as many as a session remembers
/// of those that have ended.
const MAX_DELETED: usize = 16;

/// The queues that one connection has declared.
#[derive(Debug, Default)]
pub(super) struct Declared {
    queues: HashMap<Box<str>, DeclaredQueue>,
    /// Subscriptions whose client has had their queues deleted, with all that it had not acknowledged;
    /// the latest last.
    deleted: VecDeque<SubscriptionId>,
}

#[derive(Debug)]
struct DeclaredQueue {
    /// How it was declared; `None`: as the durable queue that most are.
    spec: Option<Box<QueueSpec>>,
}

impl Declared {
    /// How the connection declared the queue of that name.
    pub(super) fn spec(&self, name: &str) -> Option<QueueSpec> {
        Some(self.queues.get(name)?.spec(name))
    }

    /// The queue that a SEND has to declare which would declare this one. `is_consumed`: the
    /// connection itself consumes it.
    pub(super) fn missing(&self, queue: QueueSpec, is_consumed: bool) -> Option<QueueSpec> {
        let Some(known) = self.spec(&queue.name) else {
            return Some(queue);
        };
        // It may have gone with its last consumer, which may be another connection's. RabbitMQ confirms
        // what is sent to a queue that is not there.
        (known.auto_delete && !is_consumed).then_some(known)
    }

    /// The queue was declared so.
    pub(super) fn note(&mut self, queue: QueueSpec) {
        let size = |(name, value): &(Box<str>, Argument)| match value {
            Argument::Text(text) => name.len().saturating_add(text.len()),
            _ => name.len(),
        };
        let arguments: usize = queue.arguments.iter().map(size).sum();
        if self.queues.len() >= MAX_QUEUES {
            self.queues.clear();
        }
        let name = queue.name.clone();
        let is_usual = queue == usual(&name) || arguments > MAX_ARGUMENTS;
        let known = DeclaredQueue {
            spec: (!is_usual).then(|| Box::new(queue)),
        };
        self.queues.insert(name, known);
    }

    /// The client has ended this subscription, and had its queue deleted.
    pub(super) fn note_deleted(&mut self, subscription: SubscriptionId) {
        if self.deleted.len() >= MAX_DELETED {
            self.deleted.pop_front();
        }
        self.deleted.push_back(subscription);
    }

    /// Whether it has: then nobody gets the messages that it had not acknowledged.
    pub(super) fn has_deleted(&self, subscription: SubscriptionId) -> bool {
        self.deleted.contains(&subscription)
    }

    /// The connection has no consumer on the queue any more.
    pub(super) fn left(&mut self, queue: &QueueSpec) {
        if queue.exclusive {
            // It was this connection's, and is gone.
            self.queues.remove(&queue.name);
        }
    }
}

impl DeclaredQueue {
    fn spec(&self, name: &str) -> QueueSpec {
        self.spec
            .as_deref()
            .map_or_else(|| usual(name), QueueSpec::clone)
    }
}

/// The queue of a `/queue/…` of which no header says anything.
fn usual(name: &str) -> QueueSpec {
    QueueSpec {
        name: name.into(),
        durable: true,
        ..QueueSpec::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passing() -> QueueSpec {
        QueueSpec {
            durable: false,
            auto_delete: true,
            arguments: vec![("x-max-length".into(), Argument::Number(5))],
            ..usual("q")
        }
    }

    #[test]
    fn a_queue_is_declared_once_and_as_it_was_first() {
        let mut declared = Declared::default();
        assert_eq!(declared.missing(usual("q"), false), Some(usual("q")));
        declared.note(passing());
        assert_eq!(declared.missing(usual("q"), true), None);
        assert_eq!(declared.spec("q"), Some(passing()));
        assert_eq!(declared.spec("r"), None);
        declared.note(usual("r"));
        assert_eq!(declared.spec("r"), Some(usual("r")));
        assert!(
            declared.queues["r"].spec.is_none(),
            "most queues take no room"
        );
    }

    #[test]
    fn a_queue_that_may_have_gone_is_declared_again_as_it_was() {
        let mut declared = Declared::default();
        declared.note(passing());
        // While the connection consumes it, it is there; otherwise another's consumer may have been
        // the last.
        assert_eq!(declared.missing(usual("q"), true), None);
        assert_eq!(declared.missing(usual("q"), false), Some(passing()));
        // One that stays is still there, and an exclusive one is forgotten.
        declared.note(usual("r"));
        declared.left(&usual("r"));
        assert_eq!(declared.missing(usual("r"), false), None);
        let own = QueueSpec {
            exclusive: true,
            ..passing()
        };
        declared.note(own.clone());
        declared.left(&own);
        assert_eq!(declared.missing(usual("q"), false), Some(usual("q")));
    }

    #[test]
    fn remembered_deletions_are_bounded() {
        let mut declared = Declared::default();
        for number in 0..=MAX_DELETED {
            declared.note_deleted(SubscriptionId(u32::try_from(number).unwrap()));
        }
        assert_eq!(declared.deleted.len(), MAX_DELETED);
        assert!(!declared.has_deleted(SubscriptionId(0)));
        assert!(declared.has_deleted(SubscriptionId(1)));
    }

    #[test]
    fn remembered_queues_are_bounded() {
        let mut declared = Declared::default();
        for number in 0..3 * MAX_QUEUES {
            declared.note(usual(&number.to_string()));
            assert!(declared.queues.len() <= MAX_QUEUES);
        }
        let long = Argument::Text("x".repeat(MAX_ARGUMENTS).into());
        declared.note(QueueSpec {
            arguments: vec![("x-max-age".into(), long)],
            ..usual("q")
        });
        assert_eq!(declared.missing(usual("q"), false), None);
        assert!(declared.queues["q"].spec.is_none());
    }
}
