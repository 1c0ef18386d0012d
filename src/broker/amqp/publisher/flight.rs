//! What is under way on one channel, and what becomes of it when RabbitMQ closes the channel
//! (pure).
//!
//! `channel.close` says why, in words, and not for which message. What is known besides:
//!
//! - A channel takes messages one after the other. So whatever was sent before a message that has
//!   its answer was taken in, too; and the one that closed the channel came after the last answer.
//! - The words name an exchange, and a routing key, a size or a property. Only a message that fits
//!   them can be the one; of several that fit, it is not known which.
//! - RabbitMQ throws away whatever follows the one, and says so in no other way.
//! - It sends no more answers for what precedes the one.
//!
//! Hence, in the order in which they were sent: what precedes the first that fits was taken in by
//! the exchange, but what the queues said of it is not known. What follows the last that fits was
//! surely thrown away, and is to be sent again. Those that fit are told RabbitMQ's words. What
//! lies between two that fit may be either; so it counts as not known.
//!
//! A sender's messages end at its first that is not known or refused: it is told of that one, and
//! will begin again there. To send what it sent after that would double it later, or tear a hole.

use std::collections::{BTreeMap, HashSet};

/// A message, as a refusal may speak of it.
pub(super) trait Sent {
    /// Whose messages keep their order, and end together.
    fn sender(&self) -> u64;

    /// Whether its sender still waits for an answer.
    fn is_awaited(&self) -> bool;
}

/// What becomes of a message whose channel was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is refused, in the broker's words; it alone can be meant.
    Refused,
    /// It is refused, or was taken in just before: the words fit others, too.
    RefusedOrTaken,
    /// It may or may not have reached its queues.
    Unknown,
    /// The broker threw it away: it is to be sent again.
    Again,
    /// The broker threw it away, and so it stays: one of its sender's before it was not taken.
    Dropped,
}

/// Messages on a channel without an answer, in the order in which they were sent.
#[derive(Debug)]
pub(super) struct Flight<T> {
    under_way: BTreeMap<u64, T>,
    next: u64,
    /// The last that has its answer; those before it were taken in by the broker.
    answered: Option<u64>,
}

impl<T> Default for Flight<T> {
    fn default() -> Self {
        Self {
            under_way: BTreeMap::new(),
            next: 0,
            answered: None,
        }
    }
}

impl<T: Sent> Flight<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.under_way.is_empty()
    }

    /// The last message that has its answer.
    pub(super) const fn answered(&self) -> Option<u64> {
        self.answered
    }

    /// A message is about to be sent; its number.
    pub(super) fn depart(&mut self, message: T) -> u64 {
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        self.under_way.insert(number, message);
        number
    }

    /// The broker answered for a message.
    pub(super) fn arrive(&mut self, number: u64) -> Option<T> {
        self.answered = self.answered.max(Some(number));
        self.under_way.remove(&number)
    }

    pub(super) fn get_mut(&mut self, number: u64) -> Option<&mut T> {
        self.under_way.get_mut(&number)
    }

    /// The link is gone, or the channel for no reason of the broker's: nothing is known of any.
    pub(super) fn lost(&mut self) -> impl Iterator<Item = T> + use<T> {
        std::mem::take(self).under_way.into_values()
    }

    /// The broker closed the channel, for a message of which `fits` is true. All that has no
    /// answer, in order, and what becomes of it.
    pub(super) fn closed(&mut self, fits: impl Fn(&T) -> bool) -> Vec<(T, Fate)> {
        let Self {
            under_way,
            answered,
            ..
        } = std::mem::take(self);
        let is_suspect = |number: u64, message: &T| Some(number) > answered && fits(message);
        let mut suspects = under_way
            .iter()
            .filter(|(number, message)| is_suspect(**number, message))
            .map(|(number, _)| *number);
        let first = suspects.next();
        let last = suspects.last().or(first);
        let is_one = first == last;
        let mut ended = HashSet::new();
        let mut fates = Vec::with_capacity(under_way.len());
        for (number, message) in under_way {
            let by_its_place = match last {
                // The words are about none of them, so that any may be meant.
                None => Fate::Unknown,
                Some(last) if number > last => Fate::Again,
                Some(_) if is_suspect(number, &message) && is_one => Fate::Refused,
                Some(_) if is_suspect(number, &message) => Fate::RefusedOrTaken,
                Some(_) => Fate::Unknown,
            };
            let fate = match by_its_place {
                Fate::Again if ended.contains(&message.sender()) => Fate::Dropped,
                fate => fate,
            };
            if fate != Fate::Again || !message.is_awaited() {
                ended.insert(message.sender());
            }
            fates.push((message, fate));
        }
        // It was told already that nothing is known of it.
        fates.retain(|(message, _)| message.is_awaited());
        fates
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whose it is, its exchange, and whether it is awaited.
    type Message = (u64, &'static str, bool);

    impl Sent for Message {
        fn sender(&self) -> u64 {
            self.0
        }

        fn is_awaited(&self) -> bool {
            self.2
        }
    }

    fn flight(messages: &[(u64, &'static str)]) -> Flight<Message> {
        let mut flight = Flight::default();
        for (sender, exchange) in messages {
            flight.depart((*sender, *exchange, true));
        }
        flight
    }

    fn fates(flight: &mut Flight<Message>) -> Vec<Fate> {
        let fates = flight.closed(|(_, exchange, _)| *exchange == "gone");
        assert!(flight.is_empty());
        fates.into_iter().map(|(_, fate)| fate).collect()
    }

    #[test]
    fn what_follows_the_one_that_was_refused_goes_again() {
        let mut flight = flight(&[(1, "a"), (2, "a"), (3, "gone"), (1, "b"), (4, "a")]);
        flight.arrive(0);
        let expected = [Fate::Unknown, Fate::Refused, Fate::Again, Fate::Again];
        assert_eq!(fates(&mut flight), expected);
    }

    #[test]
    fn what_lies_between_two_that_may_be_meant_is_not_known() {
        let mut flight = flight(&[(1, "a"), (2, "gone"), (3, "a"), (4, "gone"), (5, "a")]);
        let expected = [
            Fate::Unknown,
            Fate::RefusedOrTaken,
            Fate::Unknown,
            Fate::RefusedOrTaken,
            Fate::Again,
        ];
        assert_eq!(fates(&mut flight), expected);
    }

    #[test]
    fn an_answer_clears_those_before_it() {
        let mut flight = flight(&[(1, "gone"), (2, "a"), (3, "gone"), (4, "a")]);
        // The broker was past the first one.
        flight.arrive(1);
        let expected = [Fate::Unknown, Fate::Refused, Fate::Again];
        assert_eq!(fates(&mut flight), expected);
    }

    #[test]
    fn a_sender_s_messages_end_at_its_first_that_was_not_taken() {
        let mut flight = flight(&[(1, "a"), (2, "gone"), (1, "a"), (2, "a"), (3, "a")]);
        let expected = [
            Fate::Unknown,
            Fate::Refused,
            Fate::Dropped,
            Fate::Dropped,
            Fate::Again,
        ];
        assert_eq!(fates(&mut flight), expected);
    }

    #[test]
    fn nothing_is_known_where_the_words_fit_no_message() {
        let mut flight = flight(&[(1, "a"), (2, "b")]);
        assert_eq!(fates(&mut flight), [Fate::Unknown, Fate::Unknown]);
    }

    #[test]
    fn what_was_given_up_is_never_sent_again() {
        let mut flight = flight(&[(1, "gone"), (2, "a"), (2, "a")]);
        flight.get_mut(1).unwrap().2 = false;
        // Its sender was told to begin again there.
        flight.depart((3, "a", true));
        let expected = [Fate::Refused, Fate::Dropped, Fate::Again];
        assert_eq!(fates(&mut flight), expected);
    }
}
