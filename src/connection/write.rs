//! The write side: messages out of the mailbox, frames into the link, and a flush for all of them.

use std::{
    task::{Context as TaskContext, Poll},
    time::Instant as StdInstant,
};

use stomp_session::{Delivered, Delivery, Problem, Session, Verdict};
use tokio::time::{Duration, Instant};

use super::{
    context::Context,
    link::{Link, LinkError, Outbound},
    mapping,
    operations::Operations,
    tapped,
    under_way::UnderWay,
};
use crate::{
    broker::{CONFLATED_HEADER, DELTA_HEADER, DROPPED_HEADER, Delta, Tail},
    deadline::later,
    hub::{Follows, Item, Parcel},
    telemetry,
};

/// Bytes on their way to a client above which nothing more is made for it: neither answers to
/// frames nor messages.
pub(super) const CONGESTED: usize = 64 * 1024;
/// Messages taken from the mailbox before they are flushed.
const BATCH: usize = 64;
/// Room for the head of a MESSAGE that is not shared: `subscription`, `message-id` and `ack`.
const LONG_HEAD: usize = 224;

/// The write side of a connection.
#[derive(Default)]
pub(super) struct Writer {
    /// While the link does not take what is to be written.
    blocked: Option<Box<Blocked>>,
    /// Frames written, without heart-beats.
    pub(super) frames: u32,
    /// Messages among them.
    pub(super) messages: u32,
}

struct Blocked {
    /// When the link took the last of it, or its client read on.
    since: Instant,
    /// The bytes that it still had to write when it was last looked at, with those handed to it since.
    left: usize,
    under_way: UnderWay,
}

/// One turn of [`Writer::poll`].
#[derive(Default)]
struct Turn {
    /// A buffer for heads of frames, to be used again for the next one.
    head: Vec<u8>,
    /// The time of its first message, for all: a turn is short.
    now: Option<StdInstant>,
    under_way: UnderWay,
}

/// Why nothing more is written.
pub(super) enum Stop {
    /// The session is to end with an ERROR.
    Problem(Problem),
    /// The link broke.
    Broken(LinkError),
    /// The memory is needed that waits to be written, and the client does not read.
    Cut,
}

/// True if so much waits to be written that no more messages are encoded for the client.
pub(super) fn is_congested(link: &impl Link) -> bool {
    link.pending() >= CONGESTED
}

impl Writer {
    /// Takes a frame of the session's own, or a heart-beat.
    pub(super) fn send(&mut self, link: &mut impl Link, frame: &[u8]) {
        if frame.len() > 1 {
            self.frames = self.frames.wrapping_add(1);
        }
        self.hand_over(Outbound::whole(frame), link);
    }

    fn hand_over(&mut self, frame: Outbound<'_>, link: &mut impl Link) {
        let Some(blocked) = &mut self.blocked else {
            link.send(frame);
            return;
        };
        let before = link.pending();
        link.send(frame);
        let more = link.pending().saturating_sub(before);
        blocked.left = blocked.left.saturating_add(more);
    }

    /// Takes some messages out of the mailbox, and flushes the link once for all of them. Ready if
    /// there is more to do that nobody wakes this task for: `Connection::poll` has the rules.
    pub(super) fn poll<L: Link>(
        &mut self,
        link: &mut L,
        session: &mut Session,
        operations: &mut Operations,
        context: &Context,
        task: &mut TaskContext<'_>,
    ) -> Poll<Result<(), Stop>> {
        let mailbox = context.guard.mailbox();
        if is_congested(link)
            && let Some(problem) = mailbox.take_urgent()
        {
            return Poll::Ready(Err(Stop::Problem(problem)));
        }
        let mut is_empty = false;
        let mut turn = Turn::default();
        if let Some(blocked) = &mut self.blocked {
            let written = blocked.look_at(link);
            turn.under_way = std::mem::take(&mut blocked.under_way);
            operations.accept_part(written, mailbox);
        }
        let left = self.write_again(&mut turn, link, session, context);
        // The session may want to be woken earlier than before.
        let mut is_timed = left < BATCH;
        for _ in 0..left {
            if is_congested(link) {
                break;
            }
            let (parcel, follows) = match mailbox.poll_take(task) {
                Poll::Ready(Item::Parcel(parcel)) => (parcel, None),
                Poll::Ready(Item::Follows(parcel, follows)) => (parcel, Some(follows)),
                Poll::Ready(Item::Again(messages)) => {
                    operations.ask_again(messages, mailbox);
                    continue;
                }
                Poll::Ready(Item::Problem(problem)) => {
                    return Poll::Ready(Err(Stop::Problem(problem)));
                }
                Poll::Pending => {
                    is_empty = true;
                    break;
                }
            };
            let delivery = (&parcel, follows.as_deref());
            let delivered = self.deliver(delivery, &mut turn, link, session, operations, context);
            if let Some(follows) = follows {
                follows.end(&parcel.message);
            }
            match delivered {
                Ok(is_kept) => is_timed |= is_kept,
                Err(problem) => return Poll::Ready(Err(Stop::Problem(problem))),
            }
        }
        // The link may have written the rest by itself, and it is the flush that finds that out.
        let is_unwritten = link.pending() > 0 || self.blocked.is_some();
        let was_just_blocked =
            is_unwritten && self.flush(turn.under_way, link, operations, context, task)?;
        // A mailbox that did not report that it is empty wakes nobody when it gets more.
        let rests = is_empty || is_congested(link);
        if rests && !was_just_blocked && !is_timed {
            Poll::Pending
        } else {
            Poll::Ready(Ok(()))
        }
    }

    /// Takes the messages that their client has not acknowledged in time. Returns how many others may
    /// be taken in this turn.
    fn write_again(
        &mut self,
        turn: &mut Turn,
        link: &mut impl Link,
        session: &mut Session,
        context: &Context,
    ) -> usize {
        let mailbox = context.guard.mailbox();
        let is_held = |subscription, tag| mailbox.held(subscription, tag).is_some();
        let mut left = BATCH;
        // Asked first, for most clients have none, and need no look at the clock.
        while session.has_again() && left > 0 && !is_congested(link) {
            turn.head.clear();
            let now = turn.now();
            let Some((subscription, tag)) = session.poll_again(now, is_held, &mut turn.head) else {
                break;
            };
            left = left.saturating_sub(1);
            if let Some(message) = mailbox.held(subscription, tag) {
                telemetry::written_again();
                let topics = &context.settings().stomp.default_topic_exchange;
                let tail = message.tail(session.version(), topics);
                self.message(tail, &turn.head, link, session, context);
            }
        }
        left
    }

    /// Hands a MESSAGE to the link, of which these are the tail and the head.
    fn message(
        &mut self,
        tail: &Tail,
        head: &[u8],
        link: &mut impl Link,
        session: &Session,
        context: &Context,
    ) {
        self.frames = self.frames.wrapping_add(1);
        self.messages = self.messages.wrapping_add(1);
        tapped::goes(context, (head, &tail.bytes), session.version());
        let frame = Outbound {
            head,
            tail: &tail.bytes,
            is_text: tail.is_text,
        };
        self.hand_over(frame, link);
    }

    /// Writes all that the link takes. Returns true if the link is full only since now, so that the
    /// timer has to be set.
    fn flush<L: Link>(
        &mut self,
        under_way: UnderWay,
        link: &mut L,
        operations: &mut Operations,
        context: &Context,
        task: &mut TaskContext<'_>,
    ) -> Result<bool, Stop> {
        let mailbox = context.guard.mailbox();
        let before = link.pending();
        match link.poll_flush(task) {
            Poll::Ready(Ok(())) => {
                under_way.all_written();
                if self.blocked.take().is_some() {
                    mailbox.unstuck();
                }
                operations.accept_written(mailbox);
                Ok(false)
            }
            Poll::Ready(Err(error)) => Err(Stop::Broken(error)),
            Poll::Pending => {
                let pending = link.pending();
                if pending < CONGESTED {
                    // It has read most of what it was counted for.
                    mailbox.unstuck();
                } else if mailbox.stuck(pending, task) {
                    return Err(Stop::Cut);
                }
                let was_blocked = self.blocked.is_some();
                let blocked = self.blocked.get_or_insert_with(|| {
                    Box::new(Blocked {
                        since: Instant::now(),
                        left: before,
                        under_way: UnderWay::default(),
                    })
                });
                blocked.under_way = under_way;
                let written = blocked.look_at(link);
                operations.accept_part(written, mailbox);
                Ok(!was_blocked)
            }
        }
    }

    /// Hands a message to the link; an error, if that cannot carry it. Returns true if it is written
    /// again unless it is acknowledged.
    fn deliver<L: Link>(
        &mut self,
        (parcel, follows): (&Parcel, Option<&Follows>),
        turn: &mut Turn,
        link: &mut L,
        session: &mut Session,
        operations: &mut Operations,
        context: &Context,
    ) -> Result<bool, Problem> {
        turn.head.clear();
        turn.head.reserve(LONG_HEAD);
        let delivery = Delivery {
            subscription: parcel.subscription,
            tag: parcel.tag,
            redelivered: parcel.redelivered,
        };
        operations.heard(parcel);
        let now = turn.now();
        let mut is_kept = false;
        let delivered = session.handle_delivery(now, delivery, &mut turn.head);
        match delivered {
            Delivered::Done | Delivered::AwaitingAck => {}
            // It cannot be requeued, and need not be: the stream keeps it.
            Delivered::Kept if parcel.message.is_of_stream() => {
                return Err(mapping::no_redelivery_of_streams());
            }
            Delivered::Kept => {
                operations.hold(parcel, context.guard.mailbox());
                is_kept = true;
            }
            // The subscription is over; its unsettled messages are requeued with it.
            Delivered::Refused => {
                context.guard.mailbox().not_told(parcel.dropped);
                return Ok(false);
            }
        }
        let is_to_accept = delivered == Delivered::Done && parcel.tag != 0;
        let topics = &context.settings().stomp.default_topic_exchange;
        let (message, version) = (&parcel.message, session.version());
        // Part of a text need not be one.
        let can_go = |delta: &Delta| {
            !link.takes_text_only() || message.tail_of(delta, version, topics).is_text
        };
        let delta = follows.and_then(|follows| follows.delta(message));
        let delta = delta.filter(|(delta, _)| can_go(delta));
        let tail = match &delta {
            Some((delta, _)) => message.tail_of(delta, version, topics),
            None => message.tail(version, topics),
        };
        if link.takes_text_only() && !tail.is_text {
            // It must not come again, or its client could never stay.
            if is_to_accept {
                operations.will_accept(parcel, link.pending());
            } else if parcel.tag != 0 {
                operations.settle_unasked(parcel.subscription, parcel.tag, Verdict::Discard);
            }
            return Err(Problem::NotUtf8);
        }
        if parcel.dropped > 0 {
            let dropped = format!("{DROPPED_HEADER}:{}\n", parcel.dropped);
            turn.head.extend_from_slice(dropped.as_bytes());
        }
        if parcel.conflated > 0 {
            let conflated = format!("{CONFLATED_HEADER}:{}\n", parcel.conflated);
            turn.head.extend_from_slice(conflated.as_bytes());
        }
        if let Some(Follows { number, .. }) = follows {
            let told = match &delta {
                Some((delta, base)) => {
                    let saved = message.body.len().saturating_sub(delta.body().len());
                    telemetry::sent_as_delta(saved);
                    format!("{DELTA_HEADER}:fossil {number} {base}\n")
                }
                None => {
                    telemetry::sent_without_delta();
                    format!("{DELTA_HEADER}:whole {number}\n")
                }
            };
            turn.head.extend_from_slice(told.as_bytes());
        }
        self.message(tail, &turn.head, link, session, context);
        if is_to_accept {
            operations.will_accept(parcel, link.pending());
        }
        if !parcel.is_past {
            turn.under_way
                .add(&parcel.message, &context.session, link.pending());
        }
        Ok(is_kept)
    }

    /// When [`Writer::is_overdue`] is to be asked.
    pub(super) fn deadline(&self, patience: Duration) -> Option<Instant> {
        let blocked = self.blocked.as_ref()?;
        Some(later(blocked.since, patience))
    }

    /// True if the client has taken none of the waiting bytes for too long.
    pub(super) fn is_overdue(&self, now: Instant, patience: Duration) -> bool {
        self.deadline(patience).is_some_and(|due| now >= due)
    }
}

impl Blocked {
    /// Looks how many bytes are pending now. They become fewer outside of a flush, too: a response of
    /// SockJS takes what there is, and a pong that is flushed takes along what waits before it.
    /// Returns how many are written since the last time.
    fn look_at(&mut self, link: &mut impl Link) -> usize {
        let pending = link.pending();
        let written = self.left.saturating_sub(pending);
        self.left = pending;
        // A client that reads slowly is the mailbox's to judge: it does read.
        if link.was_written() || written > 0 {
            self.since = Instant::now();
        }
        if written > 0 {
            self.under_way.written(written);
        }
        written
    }
}

impl Turn {
    fn now(&mut self) -> StdInstant {
        *self.now.get_or_insert_with(|| Instant::now().into_std())
    }
}
