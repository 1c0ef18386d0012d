//! Messages out of the queue of what nobody is subscribed to: which keys they were for, and why they
//! are there (pure).

use std::time::Duration;

use crate::{
    broker::{
        Death, FEED_QUEUES, KeyTemplate, LANE_OF_OFFLINE, Message, Properties, Publish,
        UNHEARD_HEADER,
    },
    messaging::mark_duplicate,
};

/// Keys of RabbitMQ's dead letters, which tell of this gateway's own queues.
const DEATH_HEADERS: [&str; 6] = [
    "x-first-death-exchange",
    "x-first-death-queue",
    "x-first-death-reason",
    "x-last-death-exchange",
    "x-last-death-queue",
    "x-last-death-reason",
];

/// Keys that a node tries an exchange by begin so.
pub(super) const TRIAL_KEYS: &str = "stentor.feed.sentinel.";

/// Why nobody has a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// No queue was bound to its key.
    Nobody,
    /// It came to a node whose last subscriber had just left.
    Left,
    /// It waited in the queue of a node that did not read it.
    Node {
        /// The queue.
        queue: Box<str>,
    },
}

impl Reason {
    /// In a word, for the worker.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Left => "left",
            Self::Node { .. } => "node",
        }
    }
}

/// A message, and what is known of it.
#[derive(Debug)]
pub(super) struct Arrival<'a> {
    pub(super) message: &'a Message,
    pub(super) reason: Reason,
    /// Each key that it was for and that is a user's, with the user.
    pub(super) users: Vec<(&'a str, &'a str)>,
}

impl<'a> Arrival<'a> {
    /// Of a message that came by the alternate exchange, or as a dead letter.
    pub(super) fn read(message: &'a Message, template: &KeyTemplate) -> Self {
        let is_feed = |death: &&Death| {
            death.queue.starts_with(FEED_QUEUES) && !death.queue.ends_with(".overflow")
        };
        let own = std::slice::from_ref(&message.routing_key);
        let (reason, keys) = match message.deaths.iter().find(is_feed) {
            Some(death) => {
                let queue = death.queue.clone();
                (Reason::Node { queue }, &*death.routing_keys)
            }
            None if message.header(UNHEARD_HEADER).is_some() => (Reason::Left, own),
            None => (Reason::Nobody, own),
        };
        Self::of(message, reason, keys, template)
    }

    /// Of a message that was taken out of a dead node's queue.
    pub(super) fn left_in(queue: &str, message: &'a Message, template: &KeyTemplate) -> Self {
        let reason = Reason::Node {
            queue: queue.into(),
        };
        let keys = std::slice::from_ref(&message.routing_key);
        Self::of(message, reason, keys, template)
    }

    fn of(
        message: &'a Message,
        reason: Reason,
        keys: &'a [Box<str>],
        template: &KeyTemplate,
    ) -> Self {
        let mut users: Vec<(&str, &str)> = Vec::new();
        for key in keys.iter().chain(&message.cc).map(|key| &**key) {
            let is_new = users.iter().all(|(other, _)| *other != key);
            if let Some(user) = template.user(key)
                && is_new
                && !key.starts_with(TRIAL_KEYS)
            {
                users.push((key, user));
            }
        }
        Self {
            message,
            reason,
            users,
        }
    }

    /// The queue of a node that has not read it for so long, where the message waited in vain. One that is
    /// only too long is none, nor one where the message's own time limit was over.
    pub(super) fn unread_queue(&self, after: Duration) -> Option<&str> {
        let Reason::Node { queue } = &self.reason else {
            return None;
        };
        let waited = |death: &Death| {
            let own = death.expiration.map(Duration::from_millis);
            *death.reason == *"expired" && own.is_none_or(|own| own >= after)
        };
        let mut deaths = self.message.deaths.iter();
        let is_unread = deaths.any(|death| death.queue == *queue && waited(death));
        is_unread.then_some(&**queue)
    }

    /// Whether somebody may have it all the same.
    pub(super) fn is_doubtful(&self) -> bool {
        self.reason != Reason::Nobody
    }

    /// The message for the worker. `is_again`: the worker may have it already.
    pub(super) fn publish(
        &self,
        source: &str,
        exchange: &str,
        (key, user): (&str, &str),
        is_again: bool,
    ) -> Publish {
        let mut properties: Properties = self.message.properties.clone();
        // RabbitMQ lets nobody publish in another's name.
        properties.user_id = None;
        let is_ours = |name: &str| {
            name == UNHEARD_HEADER
                || name.starts_with("x-offline-")
                || (self.is_doubtful() && DEATH_HEADERS.contains(&name))
        };
        properties.headers.retain(|(name, _)| !is_ours(name));
        for (name, value) in [
            ("x-offline-key", key),
            ("x-offline-user", user),
            ("x-offline-exchange", source),
            ("x-offline-reason", self.reason.word()),
        ] {
            properties.headers.push((name.into(), value.into()));
        }
        if is_again {
            mark_duplicate(&mut properties);
        }
        Publish {
            exchange: exchange.into(),
            routing_key: key.into(),
            properties,
            body: self.message.body.clone(),
            mandatory: true,
            lane: LANE_OF_OFFLINE,
            slow: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template() -> KeyTemplate {
        KeyTemplate::try_from("user_{username}".to_owned()).unwrap()
    }

    fn message(key: &str, headers: &[(&str, &str)]) -> Message {
        let headers = headers.iter();
        let properties = Properties {
            user_id: Some("backend".into()),
            message_id: Some("m1".into()),
            headers: headers
                .map(|(name, value)| ((*name).into(), (*value).into()))
                .collect(),
            ..Properties::default()
        };
        Message::new("feed".into(), key.into(), properties, "hello".into())
    }

    fn death(queue: &str, key: &str) -> Death {
        Death {
            queue: queue.into(),
            reason: "expired".into(),
            routing_keys: [key.into()].into(),
            expiration: None,
        }
    }

    /// A message that may wait for a second only says nothing of the node: it may have been cut off for
    /// that second.
    #[test]
    fn a_message_with_a_limit_of_its_own_makes_no_node_dead() {
        let (template, queue) = (template(), "stentor.feed.host.1.2");
        let after = Duration::from_secs(60);
        for (reason, expiration, is_unread) in [
            ("expired", None, true),
            ("expired", Some(1_000), false),
            ("expired", Some(60_000), true),
            ("maxlen", None, false),
        ] {
            let mut late = message("stentor.feed.host.1.2.overflow", &[]);
            let death = Death {
                reason: reason.into(),
                expiration,
                ..death(queue, "user_bob")
            };
            late.deaths = [death].into();
            let arrival = Arrival::read(&late, &template);
            assert!(arrival.is_doubtful(), "{reason} {expiration:?}");
            let unread = arrival.unread_queue(after);
            assert_eq!(
                unread,
                is_unread.then_some(queue),
                "{reason} {expiration:?}"
            );
        }
        let nobody = message("user_alice", &[]);
        assert_eq!(Arrival::read(&nobody, &template).unread_queue(after), None);
    }

    #[test]
    fn it_is_told_why_a_message_is_here() {
        let template = template();
        let nobody = message("user_alice", &[]);
        let arrival = Arrival::read(&nobody, &template);
        assert_eq!(arrival.reason, Reason::Nobody);
        assert_eq!(arrival.users, [("user_alice", "alice")]);
        assert!(!arrival.is_doubtful());

        let left = message("user_alice", &[(UNHEARD_HEADER, "1")]);
        let arrival = Arrival::read(&left, &template);
        assert_eq!(arrival.reason, Reason::Left);

        // It died elsewhere before, and its key is now that of the overflow queue.
        let mut late = message("stentor.feed.host.1.2.overflow", &[]);
        late.deaths = [
            death("stentor.feed.host.1.2", "user_bob"),
            death("delay", "later"),
        ]
        .into();
        let arrival = Arrival::read(&late, &template);
        let queue = "stentor.feed.host.1.2".into();
        assert_eq!(arrival.reason, Reason::Node { queue });
        assert_eq!(arrival.users, [("user_bob", "bob")]);
        assert!(arrival.is_doubtful());

        // A backend's own dead letters are as good as any message.
        let mut own = message("user_alice", &[]);
        own.deaths = [death("delay", "later")].into();
        assert_eq!(Arrival::read(&own, &template).reason, Reason::Nobody);
    }

    /// RabbitMQ takes `CC` out of a dead letter that gets a key of its own.
    #[test]
    fn who_was_named_by_cc_is_told_of_a_message_that_waited_for_a_node() {
        let mut late = message("stentor.feed.host.1.2.overflow", &[]);
        let keys = ["user_alice", "user_bob", "room_1", "user_alice"].map(Box::from);
        late.deaths = [Death {
            routing_keys: keys.into(),
            ..death("stentor.feed.host.1.2", "")
        }]
        .into();
        let users = Arrival::read(&late, &template()).users;
        assert_eq!(users, [("user_alice", "alice"), ("user_bob", "bob")]);
    }

    #[test]
    fn each_user_s_key_counts_once_and_others_do_not() {
        let template = template();
        let cc = ["user_bob", "room_1", "user_alice"].map(Box::from);
        let many = message("user_alice", &[]).with_cc(cc.into());
        let users = Arrival::read(&many, &template).users;
        assert_eq!(users, [("user_alice", "alice"), ("user_bob", "bob")]);
        let all = KeyTemplate::try_from("{username}".to_owned()).unwrap();
        let trial = message("stentor.feed.sentinel.0123", &[]);
        assert!(Arrival::read(&trial, &all).users.is_empty());
    }

    #[test]
    fn the_worker_gets_the_message_with_its_key_and_the_reason() {
        let template = template();
        let left = message(
            "user_alice",
            &[
                (UNHEARD_HEADER, "1"),
                ("x-offline-user", "mallory"),
                ("colour", "red"),
            ],
        );
        let arrival = Arrival::read(&left, &template);
        let publish = arrival.publish("feed", "offline", arrival.users[0], true);
        assert_eq!(
            (&*publish.exchange, &*publish.routing_key),
            ("offline", "user_alice")
        );
        assert_eq!(publish.properties.user_id, None);
        assert_eq!(publish.properties.message_id.as_deref(), Some("m1"));
        let headers = publish.properties.headers.iter();
        let headers: Vec<(&str, &str)> = headers.map(|(name, value)| (&**name, &**value)).collect();
        assert_eq!(
            headers,
            [
                ("colour", "red"),
                ("x-offline-key", "user_alice"),
                ("x-offline-user", "alice"),
                ("x-offline-exchange", "feed"),
                ("x-offline-reason", "left"),
                ("x-possible-duplicate", "true"),
            ]
        );
    }
}
