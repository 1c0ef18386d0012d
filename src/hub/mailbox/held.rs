//! Messages that are with their client, unacknowledged, and may have to be written to it again.
//!
//! Their bytes count as if they still waited, so what a client leaves unacknowledged is bounded
//! like what it does not read: further messages are put aside at the broker
//! ([`super::dedicated`]) until some are settled or given up.

use std::{
    collections::{BTreeMap, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use stomp_session::SubscriptionId;

use crate::broker::Message;

/// Messages whose rounds are remembered, for each client.
const REMEMBERED: usize = 256;

/// The messages of one client.
#[derive(Debug, Default)]
pub(super) struct Held {
    messages: BTreeMap<(SubscriptionId, u64), Arc<Message>>,
    /// Of all messages.
    bytes: usize,
    /// How often each message was given up, the latest last. A broker does not count it for every
    /// kind of queue, so a message is known by its content.
    rounds: VecDeque<(u64, u16)>,
}

impl Held {
    pub(super) fn put(&mut self, subscription: SubscriptionId, tag: u64, message: Arc<Message>) {
        self.bytes = self.bytes.saturating_add(message.weight());
        self.messages.insert((subscription, tag), message);
    }

    pub(super) fn get(&self, subscription: SubscriptionId, tag: u64) -> Option<&Arc<Message>> {
        self.messages.get(&(subscription, tag))
    }

    pub(super) fn release(
        &mut self,
        subscription: SubscriptionId,
        tag: u64,
    ) -> Option<Arc<Message>> {
        let message = self.messages.remove(&(subscription, tag))?;
        self.bytes = match self.messages.is_empty() {
            true => 0,
            false => self.bytes.saturating_sub(message.weight()),
        };
        Some(message)
    }

    /// Releases all messages of a subscription.
    pub(super) fn release_all(&mut self, subscription: SubscriptionId) {
        let of = (subscription, 0)..=(subscription, u64::MAX);
        let tags: Vec<u64> = self.messages.range(of).map(|((_, tag), _)| *tag).collect();
        for tag in tags {
            self.release(subscription, tag);
        }
    }

    /// Releases a message that was written often enough. Returns true if it may be queued again,
    /// which it may `most` times.
    pub(super) fn give_up(&mut self, subscription: SubscriptionId, tag: u64, most: u8) -> bool {
        let Some(message) = self.release(subscription, tag) else {
            // It is at the broker again already.
            return true;
        };
        let print = fingerprint(&message);
        let at = self.rounds.iter().position(|(known, _)| *known == print);
        let rounds = at.and_then(|at| self.rounds.remove(at));
        let rounds = rounds.map_or(0, |(_, rounds)| rounds).saturating_add(1);
        if rounds > u16::from(most) {
            return false;
        }
        if self.rounds.len() >= REMEMBERED {
            self.rounds.pop_front();
        }
        self.rounds.push_back((print, rounds));
        true
    }

    /// Drops the messages.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.rounds.is_empty()
    }
}

fn fingerprint(message: &Message) -> u64 {
    let mut hasher = DefaultHasher::new();
    message.exchange.hash(&mut hasher);
    message.routing_key.hash(&mut hasher);
    message.properties.message_id.hash(&mut hasher);
    message.body.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::broker::Properties;

    /// Also where it is the most that can be configured.
    #[test]
    fn a_message_has_its_rounds_and_no_more() {
        const ONE: SubscriptionId = SubscriptionId(1);
        for most in [0, 3, u8::MAX] {
            let mut held = Held::default();
            let mut rounds = 0;
            for tag in 1..=1_000 {
                let body = Bytes::from_static(b"poison");
                let message = Message::new("".into(), "q".into(), Properties::default(), body);
                held.put(ONE, tag, Arc::new(message));
                if !held.give_up(ONE, tag, most) {
                    break;
                }
                rounds += 1;
            }
            assert_eq!(rounds, u32::from(most));
        }
    }
}
