//! A session's subscriptions, and what their client still has to acknowledge.

use std::collections::VecDeque;

use crate::{AckMode, Problem, SubscriptionId};

/// What a client calls a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Name<'a> {
    /// The `id` header.
    Id(&'a str),
    /// The destination, where a 1.0 client gave no `id`. Such a subscription's messages have no
    /// `subscription` header.
    Destination(&'a str),
}

/// The start of names that the server gives: of subscriptions to replies, which the plug-in
/// calls by the `reply-to` that made them.
pub(crate) const RESERVED: &str = "/temp-queue/";

/// Subscriptions that have ended, and of which messages may still be acknowledged, at most. Each
/// keeps a channel at the broker.
pub(crate) const MAX_ENDED: usize = 16;

/// Subscriptions that were denied to their client, or taken from it, and that it may still end, at
/// most.
const MAX_LOST: usize = 100;

/// Subscriptions, in the order of their numbers, which only grow: found by number in logarithmic
/// time, since that is what every delivery asks; by name one after the other. Those that have ended
/// stay here without a name, until their client has acknowledged what it got.
#[derive(Debug, Default)]
pub(crate) struct Subscriptions {
    open: Vec<Subscription>,
    /// How many there ever were.
    last: u32,
}

/// One subscription; 40 bytes, and the text of its name.
#[derive(Debug)]
pub(crate) struct Subscription {
    name: Box<str>,
    /// How many messages were sent to it.
    sequence: u64,
    /// What awaits acknowledgement, in the order of sequence. Boxed, since `ack:auto`, the
    /// most common mode, never needs it; freed when empty.
    #[expect(
        clippy::box_collection,
        reason = "8 bytes in each subscription instead of 32"
    )]
    unsettled: Option<Box<VecDeque<Unsettled>>>,
    number: u32,
    ack: AckMode,
    named_by_destination: bool,
    has_ended: bool,
    /// It was denied to its client, or taken from it, who may still UNSUBSCRIBE, or acknowledge.
    is_lost: bool,
}

/// An open subscription, for whoever wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenSubscription<'a> {
    /// The session's name for it.
    pub subscription: SubscriptionId,
    /// The client's: its `id`; in STOMP 1.0 it may be its destination.
    pub name: &'a str,
    /// How its messages are acknowledged.
    pub ack: AckMode,
    /// Messages that were sent to it.
    pub messages: u64,
    /// Those of them that its client has to acknowledge.
    pub unacknowledged: usize,
}

/// The remains of a subscription that has just ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) subscription: SubscriptionId,
    /// Tags of what its client may still acknowledge.
    pub(crate) kept: Box<[u64]>,
    /// Another one, for whose messages it is too late now.
    pub(crate) forgotten: Option<SubscriptionId>,
}

#[derive(Clone, Copy, Debug)]
struct Unsettled {
    sequence: u64,
    tag: u64,
}

impl Subscriptions {
    /// Opens a subscription.
    pub(crate) fn open(
        &mut self,
        name: Name<'_>,
        ack: AckMode,
        limit: usize,
    ) -> Result<SubscriptionId, Problem> {
        if self.by_name(name).is_some() {
            let name = match name {
                Name::Id(id) => format!("T_{id}"),
                Name::Destination(destination) => format!("Q_{destination}"),
            };
            return Err(Problem::DuplicateSubscription(name.into()));
        }
        // The client begins anew.
        if let Some(at) = self.lost_by_name(name) {
            self.remove(at);
        }
        // A number is never given twice, so the last one ends the giving.
        let number = self
            .last
            .checked_add(1)
            .filter(|_| self.len() < limit)
            .ok_or(Problem::TooManySubscriptions { limit })?;
        self.last = number;
        let (name, named_by_destination) = match name {
            Name::Id(id) => (id, false),
            Name::Destination(destination) => (destination, true),
        };
        // Most sessions have one or two; room for four, the least a `Vec` takes by itself,
        // would cost more than all the rest of an idle session's heap.
        if self.open.len() < 4 {
            self.open.reserve_exact(1);
        }
        self.open.push(Subscription {
            name: name.into(),
            sequence: 0,
            unsettled: None,
            number,
            ack,
            named_by_destination,
            has_ended: false,
            is_lost: false,
        });
        Ok(SubscriptionId(number))
    }

    /// Ends a subscription. Messages that its client has can be acknowledged all the same, as long
    /// as no more than [`MAX_ENDED`] others end so after it.
    pub(crate) fn end(&mut self, name: Name<'_>) -> Result<Ended, Problem> {
        let Some(at) = self.by_name(name).or_else(|| self.lost_by_name(name)) else {
            let what = match name {
                Name::Id(id) => format!("id='{id}'"),
                Name::Destination(destination) => format!("destination='{destination}'"),
            };
            return Err(Problem::UnknownSubscription(what.into()));
        };
        let kept = self.open.get_mut(at).and_then(Subscription::end);
        // One that was lost has nothing to settle.
        let Some((subscription, kept)) = kept else {
            return Ok(Ended {
                subscription: self.remove(at),
                kept: Box::default(),
                forgotten: None,
            });
        };
        let awaits = |other: &Subscription| other.has_ended && !other.is_lost;
        let is_over = self.open.iter().filter(|other| awaits(other)).count() > MAX_ENDED;
        let is_earlier = |other: &Subscription| awaits(other) && other.number != subscription.0;
        let oldest = self.open.iter().position(is_earlier);
        Ok(Ended {
            subscription,
            kept,
            forgotten: oldest.filter(|_| is_over).map(|at| self.remove(at)),
        })
    }

    /// Takes an open subscription from its client; what the client calls it. Nothing of it can be
    /// acknowledged any more, but its client may not know that yet.
    pub(crate) fn lose(&mut self, id: SubscriptionId) -> Option<Name<'_>> {
        let at = self.by_number(id)?;
        let lost = self.open.get_mut(at).filter(|found| !found.has_ended)?;
        lost.has_ended = true;
        lost.is_lost = true;
        lost.unsettled = None;
        // Its client has yet to hear of this one, however old it is.
        let is_other = |other: &&Subscription| other.is_lost && other.number != id.0;
        let others = self.open.iter().filter(is_other);
        let mut others = others.map(|other| other.number);
        if let Some(oldest) = others.next()
            && others.count() >= MAX_LOST.saturating_sub(1)
        {
            self.close_number(SubscriptionId(oldest));
        }
        Some(self.open.get(self.by_number(id)?)?.name())
    }

    /// Takes back a subscription that was denied. One that is still open is lost: libraries end what
    /// they hold, denied or not.
    pub(crate) fn deny(&mut self, id: SubscriptionId) {
        match self.get(id) {
            Some(found) if found.has_ended && !found.is_lost => self.close_number(id),
            _ => {
                self.lose(id);
            }
        }
    }

    fn ended(&self) -> usize {
        self.open.iter().filter(|other| other.has_ended).count()
    }

    fn remove(&mut self, at: usize) -> SubscriptionId {
        let number = self.open.remove(at).number;
        if self.open.is_empty() {
            self.open = Vec::new();
        }
        SubscriptionId(number)
    }

    /// Forgets the subscription of that number, if it is here.
    pub(crate) fn close_number(&mut self, id: SubscriptionId) {
        if let Some(at) = self.by_number(id) {
            self.remove(at);
        }
    }

    /// The subscription of that number, also if it has ended.
    pub(crate) fn get(&self, id: SubscriptionId) -> Option<&Subscription> {
        self.open.get(self.by_number(id)?)
    }

    /// The open subscription of that number.
    pub(crate) fn get_open_mut(&mut self, id: SubscriptionId) -> Option<&mut Subscription> {
        let at = self.by_number(id)?;
        self.open.get_mut(at).filter(|found| !found.has_ended)
    }

    /// Settles a message, and all before it in mode `client` (STOMP 1.2, "SUBSCRIBE ack Header"),
    /// also of a subscription that has ended: which is forgotten with the last one. `None`: it is
    /// not unsettled.
    pub(crate) fn settle(&mut self, id: SubscriptionId, sequence: u64) -> Option<Settled> {
        let at = self.by_number(id)?;
        let subscription = self.open.get_mut(at)?;
        let (first, tag) = subscription.settle(sequence)?;
        let multiple = subscription.ack == AckMode::Client;
        let is_last = subscription.has_ended && subscription.unsettled.is_none();
        if is_last {
            self.remove(at);
        }
        Some(Settled {
            first,
            tag,
            multiple,
            is_last,
        })
    }

    /// The number of an open subscription of that name.
    pub(crate) fn find(&self, name: Name<'_>) -> Option<SubscriptionId> {
        Some(SubscriptionId(self.open.get(self.by_name(name)?)?.number))
    }

    /// Those that are open, the oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = OpenSubscription<'_>> {
        let open = self.open.iter().filter(|found| !found.has_ended);
        open.map(|found| OpenSubscription {
            subscription: SubscriptionId(found.number),
            name: &found.name,
            ack: found.ack,
            messages: found.sequence,
            unacknowledged: found.unsettled.as_ref().map_or(0, |list| list.len()),
        })
    }

    /// How many are open.
    pub(crate) fn len(&self) -> usize {
        self.open.len().saturating_sub(self.ended())
    }

    /// Ends all.
    pub(crate) fn clear(&mut self) {
        self.open = Vec::new();
    }

    fn by_number(&self, id: SubscriptionId) -> Option<usize> {
        self.open
            .binary_search_by_key(&id.0, |subscription| subscription.number)
            .ok()
    }

    fn lost_by_name(&self, name: Name<'_>) -> Option<usize> {
        self.open
            .iter()
            .position(|other| other.is_lost && other.name() == name)
    }

    fn by_name(&self, name: Name<'_>) -> Option<usize> {
        self.open
            .iter()
            .position(|other| !other.has_ended && other.name() == name)
    }

    /// Unacknowledged messages of all, for tests.
    #[cfg(test)]
    pub(crate) fn unsettled(&self) -> usize {
        self.open
            .iter()
            .map(|s| s.unsettled.as_ref().map_or(0, |list| list.len()))
            .sum()
    }
}

/// A message that was settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settled {
    /// The tag of the earliest one.
    pub(crate) first: u64,
    pub(crate) tag: u64,
    /// Earlier ones are meant, too.
    pub(crate) multiple: bool,
    /// Its subscription has ended, and nothing is left of it.
    pub(crate) is_last: bool,
}

impl Subscription {
    /// Ends it; its number, and the tags of what awaits acknowledgement. `None`: nothing does.
    fn end(&mut self) -> Option<(SubscriptionId, Box<[u64]>)> {
        let unsettled = self.unsettled.as_ref()?;
        self.has_ended = true;
        let tags = unsettled.iter().map(|unsettled| unsettled.tag).collect();
        Some((SubscriptionId(self.number), tags))
    }

    /// What its client calls it.
    pub(crate) fn name(&self) -> Name<'_> {
        if self.named_by_destination {
            Name::Destination(&self.name)
        } else {
            Name::Id(&self.name)
        }
    }

    /// Whether it was denied to its client, or taken from it.
    pub(crate) fn is_lost(&self) -> bool {
        self.is_lost
    }

    /// Whether its client acknowledges messages.
    pub(crate) fn awaits_acks(&self) -> bool {
        self.ack != AckMode::Auto
    }

    /// Counts a message, and remembers it where the client has to acknowledge it: its sequence.
    pub(crate) fn deliver(&mut self, tag: u64) -> u64 {
        self.sequence = self.sequence.saturating_add(1);
        if self.awaits_acks() {
            let sequence = self.sequence;
            self.unsettled
                .get_or_insert_default()
                .push_back(Unsettled { sequence, tag });
        }
        self.sequence
    }

    /// Whether a message awaits acknowledgement.
    pub(crate) fn is_unsettled(&self, sequence: u64) -> bool {
        self.place(sequence).is_some()
    }

    /// Whether a message was sent, and needs no acknowledgement any more.
    pub(crate) fn is_settled(&self, sequence: u64) -> bool {
        sequence <= self.sequence && !self.is_unsettled(sequence)
    }

    /// The tags of the first message and the last one that this settles. `None`: it is not
    /// unsettled.
    fn settle(&mut self, sequence: u64) -> Option<(u64, u64)> {
        let at = self.place(sequence)?;
        let list = self.unsettled.as_mut()?;
        let last = list.get(at)?.tag;
        let first = match self.ack {
            AckMode::Client => list.drain(..=at).next()?.tag,
            AckMode::Auto | AckMode::ClientIndividual => list.remove(at)?.tag,
        };
        if list.is_empty() {
            self.unsettled = None;
        } else if list.len() < list.capacity() / 8 {
            // A rush is over; a client that always owes some must not keep room for it.
            list.shrink_to(list.len().saturating_mul(2));
        }
        Some((first, last))
    }

    fn place(&self, sequence: u64) -> Option<usize> {
        let list = self.unsettled.as_ref()?;
        list.binary_search_by_key(&sequence, |unsettled| unsettled.sequence)
            .ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An idle session's heap is a headline figure: this struct, and the text of the name.
    #[test]
    fn a_subscription_is_small() {
        assert!(
            size_of::<Subscription>() <= 40,
            "{}",
            size_of::<Subscription>()
        );
        let mut subscriptions = Subscriptions::default();
        for (count, id) in ["a", "b", "c"].into_iter().enumerate() {
            subscriptions.open(Name::Id(id), AckMode::Auto, 9).unwrap();
            assert_eq!(subscriptions.open.capacity(), count + 1);
        }
        for id in ["b", "a", "c"] {
            subscriptions.end(Name::Id(id)).unwrap();
        }
        assert_eq!(subscriptions.open.capacity(), 0);
    }

    #[test]
    fn numbers_are_never_given_twice() {
        let mut subscriptions = Subscriptions {
            open: Vec::new(),
            last: u32::MAX - 1,
        };
        let id = subscriptions.open(Name::Id("a"), AckMode::Auto, 9);
        assert_eq!(id, Ok(SubscriptionId(u32::MAX)));
        let id = subscriptions.open(Name::Id("b"), AckMode::Auto, 9);
        assert_eq!(id, Err(Problem::TooManySubscriptions { limit: 9 }));
    }

    #[test]
    fn nothing_is_kept_of_settled_messages() {
        let mut subscriptions = Subscriptions::default();
        let id = subscriptions
            .open(Name::Id("a"), AckMode::Client, 9)
            .unwrap();
        let subscription = subscriptions.get_open_mut(id).unwrap();
        for tag in 101..=200 {
            subscription.deliver(tag);
        }
        assert_eq!(subscription.settle(99), Some((101, 199)));
        assert!(subscription.unsettled.as_ref().unwrap().capacity() < 10);
        assert_eq!(subscription.settle(99), None);
        assert_eq!(subscription.settle(50), None);
        assert_eq!(subscription.settle(100), Some((200, 200)));
        assert!(subscription.unsettled.is_none());
    }
}
