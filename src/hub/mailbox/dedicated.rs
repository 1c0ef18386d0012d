//! The messages of dedicated consumers that wait for one client: bounded in bytes, without loss.
//!
//! A message for which there is no room is **put aside**: its body is dropped at once, and it
//! stays unacknowledged at the broker. There it counts as prefetched, so a consumer whose
//! messages are all put aside is sent no more: that is the back-pressure. When the client has
//! read, the message is **asked for again**: it is requeued, and the broker sends it a second
//! time, to where it was in the queue.
//!
//! The alternatives fail. RabbitMQ implements neither AMQP's prefetch in bytes nor its
//! `channel.flow`. A smaller prefetch would stop a client that may leave more unacknowledged and
//! waits for them. Cancelling the consumer meanwhile would delete queues that go with it. Not
//! reading the link would stop all clients that share it. Closing the client as slow would keep
//! one with a backlog of large messages from ever working it off.
//!
//! The cost: such a message crosses from the broker to the gateway twice, comes with
//! `redelivered:true`, and counts one more delivery in a quorum queue. It never crosses a third
//! time, because it is asked for only when there is room for its size, which is known. A stream
//! cannot requeue: its client is closed as slow, and knows the offset to go on from.
//!
//! Four rules hold while messages of a subscription are aside:
//!
//! - **Order.** Later messages are put aside, too, behind them. A message that is sent again is
//!   recognised by its `redelivered`, in the order in which it was asked for.
//! - **Acknowledgements.** To accept "up to this tag" would accept messages put aside before it,
//!   unseen. [`DedicatedWaiting::settling`] names each tag instead.
//! - **Room.** A message that was asked for has its room kept, but not for ever: it may have
//!   expired, or gone to another consumer of its queue.
//! - **Tags.** A message that is aside is known by its tag only. When the broker has taken it back,
//!   for its link was lost or its subscription ended, it is forgotten at once, with its room.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use stomp_session::SubscriptionId;
use tokio::time::Instant;

use super::{Parcel, held::Held};
use crate::broker::{BrokerError, Consumer, Settled, Verdict};

/// How long room is kept for a message that was asked for again.
const ROOM_KEPT: Duration = Duration::from_secs(2);
/// How long such a message is awaited before what comes next.
const AWAITED: Duration = Duration::from_secs(10);
/// Messages that are asked for in one go.
const AT_ONCE: usize = 64;

/// The messages that wait, and those that were put aside.
#[derive(Debug, Default)]
pub(super) struct DedicatedWaiting {
    parcels: VecDeque<Parcel>,
    /// The bytes of `parcels`.
    bytes: usize,
    aside: Option<Box<Aside>>,
    /// Messages that are with the client, and may have to be written again.
    pub(super) held: Held,
}

#[derive(Debug, Default)]
struct Aside {
    /// In the order in which they came.
    entries: VecDeque<AsideEntry>,
    /// In the order in which they were asked for.
    asked: VecDeque<Asked>,
    /// Room that is kept for `asked`.
    kept: usize,
    gaps: HashMap<SubscriptionId, Gap>,
}

/// A message that is at the broker, unacknowledged.
#[derive(Clone, Copy, Debug)]
struct AsideEntry {
    subscription: SubscriptionId,
    /// Sizes beyond 4 GiB count as that.
    size: u32,
    tag: u64,
}

#[derive(Debug)]
struct Asked {
    subscription: SubscriptionId,
    size: usize,
    since: Instant,
    has_room: bool,
}

/// A subscription of which messages are aside, or asked for; or were, when it ended.
#[derive(Debug)]
struct Gap {
    /// The last message that was taken in before the gap; 0 without one, or if it is settled.
    before: u64,
    /// Handed to the client while others were aside, and not settled. In order.
    passed: VecDeque<u64>,
    aside: usize,
    asked: usize,
}

/// The fate of a message that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    /// It waits for the client.
    Waits,
    /// It was put aside.
    Aside,
    /// There is no room for it, and it cannot be put aside.
    TooMuch,
}

/// How to settle messages up to a tag.
#[derive(Debug, PartialEq, Eq)]
pub enum Settling {
    /// As it is said.
    Plain,
    /// One after the other: a tag, and true if it stands for all before it.
    Each(Vec<(u64, bool)>),
}

impl Settling {
    /// Settles at the broker a message, or all up to it, as was decided.
    ///
    /// # Errors
    /// As [`Consumer::settle`].
    pub async fn carry_out(
        self,
        consumer: &dyn Consumer,
        (tag, multiple): (u64, bool),
        verdict: Verdict,
    ) -> Result<Settled, BrokerError> {
        let list = match self {
            Self::Plain => return consumer.settle(tag, multiple, verdict).await,
            Self::Each(list) => list,
        };
        let mut last = Settled::Stale;
        for (tag, multiple) in list {
            last = consumer.settle(tag, multiple, verdict).await?;
        }
        Ok(last)
    }
}

impl DedicatedWaiting {
    /// Takes a message in; `previous` is the tag of the last that was, of the same subscription.
    pub(super) fn push(&mut self, parcel: Parcel, previous: u64, most: usize) -> Pushed {
        let size = parcel.message.weight();
        let subscription = parcel.subscription;
        let gap = self.aside.as_mut().and_then(|aside| {
            aside.forget(Instant::now());
            aside.gaps.get_mut(&subscription)
        });
        let fits = match gap {
            None => self.bytes() == 0 || self.bytes().saturating_add(size) <= most,
            Some(gap) if parcel.redelivered && gap.asked > 0 => {
                if gap.aside > 0 {
                    gap.passed.push_back(parcel.tag);
                }
                true
            }
            Some(_) => false,
        };
        if fits {
            if let Some(aside) = &mut self.aside
                && parcel.redelivered
            {
                aside.came(subscription);
            }
            self.bytes = self.bytes.saturating_add(size);
            self.parcels.push_back(parcel);
            self.tidy();
            return Pushed::Waits;
        }
        if parcel.message.is_of_stream() {
            return Pushed::TooMuch;
        }
        let aside = self.aside.get_or_insert_default();
        let gap = aside.gaps.entry(subscription).or_insert(Gap {
            before: 0,
            passed: VecDeque::new(),
            aside: 0,
            asked: 0,
        });
        if gap.aside == 0 {
            // All before it is with the client or on its way there.
            gap.before = previous;
        }
        gap.aside = gap.aside.saturating_add(1);
        aside.entries.push_back(AsideEntry {
            subscription,
            size: u32::try_from(size).unwrap_or(u32::MAX),
            tag: parcel.tag,
        });
        Pushed::Aside
    }

    pub(super) fn take(&mut self) -> Option<Parcel> {
        let parcel = self.parcels.pop_front()?;
        self.bytes = match self.parcels.is_empty() {
            true => 0,
            false => self.bytes.saturating_sub(parcel.message.weight()),
        };
        Some(parcel)
    }

    /// The messages to requeue now, because they have room again: subscriptions and tags. The
    /// caller requeues them before it settles anything.
    pub(super) fn ask(&mut self, most: usize) -> Vec<(SubscriptionId, u64)> {
        let mut list = Vec::new();
        let Some(aside) = &mut self.aside else {
            return list;
        };
        let now = Instant::now();
        aside.forget(now);
        // Many at a time, rather than each as another is read: it is a way to the broker and back.
        let bytes = self.bytes.saturating_add(self.held.bytes());
        if bytes.saturating_add(aside.kept) > most / 2 {
            return list;
        }
        while let Some(entry) = aside.entries.front().copied() {
            let size = entry.size as usize;
            let taken = bytes.saturating_add(aside.kept);
            if list.len() >= AT_ONCE || (taken > 0 && taken.saturating_add(size) > most) {
                break;
            }
            aside.entries.pop_front();
            aside.kept = aside.kept.saturating_add(size);
            aside.asked.push_back(Asked {
                subscription: entry.subscription,
                size,
                since: now,
                has_room: true,
            });
            if let Some(gap) = aside.gaps.get_mut(&entry.subscription) {
                gap.aside = gap.aside.saturating_sub(1);
                gap.asked = gap.asked.saturating_add(1);
                if gap.aside == 0 {
                    gap.passed = VecDeque::new();
                }
            }
            list.push((entry.subscription, entry.tag));
        }
        self.tidy();
        list
    }

    /// How to settle "all up to `tag`" of a subscription, without what was put aside before it.
    pub(super) fn settling(&mut self, subscription: SubscriptionId, tag: u64) -> Settling {
        let gap = self.aside.as_mut().and_then(|aside| {
            let gap = aside.gaps.get_mut(&subscription);
            gap.filter(|gap| gap.aside > 0)
        });
        let Some(gap) = gap else {
            return Settling::Plain;
        };
        let first = gap.passed.front();
        if first.is_none_or(|first| tag < *first) {
            return Settling::Plain;
        }
        let mut list = Vec::new();
        let before = std::mem::take(&mut gap.before);
        if before > 0 {
            list.push((before, true));
        }
        while let Some(passed) = gap.passed.pop_front_if(|passed| *passed <= tag) {
            list.push((passed, false));
        }
        Settling::Each(list)
    }

    /// A single message is settled.
    pub(super) fn settled(&mut self, subscription: SubscriptionId, tag: u64) {
        if let Some(aside) = &mut self.aside
            && let Some(gap) = aside.gaps.get_mut(&subscription)
            && let Ok(at) = gap.passed.binary_search(&tag)
        {
            gap.passed.remove(at);
        }
    }

    /// Gives up the room of messages that did not come. Returns true if others may still come.
    pub(super) fn forget(&mut self) -> bool {
        let Some(aside) = &mut self.aside else {
            return false;
        };
        aside.forget(Instant::now());
        let is_awaited = !aside.asked.is_empty();
        self.tidy();
        is_awaited
    }

    /// The subscription is over: nothing of it is written any more, or asked for. Its client may
    /// settle what it has, and then messages that were put aside must still not be accepted.
    pub(super) fn end(&mut self, subscription: SubscriptionId) {
        self.held.release_all(subscription);
        let bytes = &mut self.bytes;
        self.parcels.retain(|parcel| {
            let stays = parcel.subscription != subscription;
            if !stays {
                *bytes = bytes.saturating_sub(parcel.message.weight());
            }
            stays
        });
        if let Some(aside) = &mut self.aside {
            aside.end_all(subscription);
        }
        self.tidy();
    }

    /// The broker has all messages of the subscription again: no tag of before means anything.
    pub(super) fn forget_all(&mut self, subscription: SubscriptionId) {
        self.end(subscription);
        if let Some(aside) = &mut self.aside {
            aside.gaps.remove(&subscription);
        }
        self.tidy();
    }

    /// Drops the messages that wait. Those put aside must still not be accepted.
    pub(super) fn clear(&mut self) {
        self.parcels = VecDeque::new();
        self.bytes = 0;
        self.held.clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.parcels.is_empty()
    }

    /// Messages that wait to be written.
    pub(super) fn len(&self) -> usize {
        self.parcels.len()
    }

    /// True if no state is left that is needed.
    pub(super) fn is_idle(&self) -> bool {
        self.is_empty() && self.aside.is_none() && self.held.is_empty()
    }

    /// The bytes of all that waits, or is held.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.saturating_add(self.held.bytes())
    }

    fn tidy(&mut self) {
        if let Some(aside) = &self.aside
            && aside.gaps.is_empty()
        {
            self.aside = None;
        }
    }
}

impl Aside {
    /// A message that was asked for has come.
    fn came(&mut self, subscription: SubscriptionId) {
        let mut asked = self.asked.iter();
        let Some(at) = asked.position(|asked| asked.subscription == subscription) else {
            return;
        };
        if let Some(asked) = self.asked.remove(at) {
            self.end(&asked);
        }
    }

    fn forget(&mut self, now: Instant) {
        while let Some(asked) = self
            .asked
            .pop_front_if(|asked| now.saturating_duration_since(asked.since) >= AWAITED)
        {
            self.end(&asked);
        }
        for asked in &mut self.asked {
            if now.saturating_duration_since(asked.since) < ROOM_KEPT {
                break;
            }
            if std::mem::take(&mut asked.has_room) {
                self.kept = self.kept.saturating_sub(asked.size);
            }
        }
    }

    /// Asks for nothing more of a subscription, and keeps no room for it. Its gap stays as it was,
    /// as long as messages may be settled around it.
    fn end_all(&mut self, subscription: SubscriptionId) {
        let Some(gap) = self.gaps.get_mut(&subscription) else {
            return;
        };
        gap.asked = 0;
        if gap.aside == 0 {
            self.gaps.remove(&subscription);
        }
        self.entries
            .retain(|entry| entry.subscription != subscription);
        let kept = &mut self.kept;
        self.asked.retain(|asked| {
            let stays = asked.subscription != subscription;
            if !stays && asked.has_room {
                *kept = kept.saturating_sub(asked.size);
            }
            stays
        });
    }

    fn end(&mut self, asked: &Asked) {
        if asked.has_room {
            self.kept = self.kept.saturating_sub(asked.size);
        }
        if let Some(gap) = self.gaps.get_mut(&asked.subscription) {
            gap.asked = gap.asked.saturating_sub(1);
            if gap.asked == 0 && gap.aside == 0 {
                self.gaps.remove(&asked.subscription);
            }
        }
    }
}

#[cfg(test)]
#[path = "dedicated_tests.rs"]
mod tests;
