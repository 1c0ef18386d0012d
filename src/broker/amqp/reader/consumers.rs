//! The channels of a connection, one consumer on each: requests, answers, and messages to
//! acknowledge. No I/O: it appends bytes for the broker to `out`.

use amqp_wire::{
    Delivery, Malformed, Method,
    encode::{self, Short},
};
use tokio::sync::oneshot;

use super::{DeliveryTaker, Ended};
use crate::{
    broker::{BrokerError, amqp::convert::reply_error},
    telemetry::ReadAt,
};

/// A consumer that is to be started.
pub(super) struct Request<T> {
    /// Another one for each.
    pub(super) id: u64,
    pub(super) queue: Box<str>,
    pub(super) prefetch: u16,
    pub(super) taker: T,
    /// Told when messages may come; dropped, if they never will.
    pub(super) started: oneshot::Sender<()>,
    /// Told when it has ended, or could not be started.
    pub(super) ended: oneshot::Sender<Ended<T>>,
}

/// The consumers of one connection.
pub(super) struct Consumers<T> {
    /// Channels by their numbers; there is no channel 0 here.
    channels: Vec<Option<Channel<T>>>,
    channel_max: u16,
    /// The channels that have something to acknowledge.
    touched: Vec<u16>,
    /// True if one of them should not wait.
    is_due: bool,
}

enum Channel<T> {
    Open(Open<T>),
    /// It is opened for its answer alone; told when that comes.
    Asking(oneshot::Sender<()>),
    /// Its consumer has ended; messages before the broker's answer are for nobody.
    Closing,
}

struct Open<T> {
    id: u64,
    taker: T,
    /// Until it has started.
    started: Option<oneshot::Sender<()>>,
    ended: oneshot::Sender<Ended<T>>,
    /// Messages that were taken and not acknowledged yet, and the last one's tag.
    unacked: u16,
    last: u64,
    /// So many are enough to be acknowledged at once.
    enough: u16,
}

/// An acknowledgement costs the broker about as much as a message, so it waits for others, but
/// not for so many that the broker would run out of what it may send: for this part of them.
const PART: u16 = 4;

/// The code of an end that nobody is to blame for.
pub(super) const OK: u16 = 200;

impl<T: DeliveryTaker> Consumers<T> {
    pub(super) fn new(channel_max: u16) -> Self {
        Self {
            channels: Vec::new(),
            channel_max,
            touched: Vec::new(),
            is_due: false,
        }
    }

    /// Opens a channel and consumes on it; all in one go, for the broker keeps the order.
    pub(super) fn start(&mut self, request: Request<T>, out: &mut Vec<u8>) {
        let queue = Short::new(&request.queue);
        let (Some(queue), Some(number)) = (queue, self.free()) else {
            let reason = match queue {
                None => "the queue's name is longer than AMQP's 255 bytes",
                Some(_) => "all channels of the connection are in use",
            };
            request.give_back(BrokerError::Unavailable(reason.into()));
            return;
        };
        encode::channel_open(out, number);
        encode::qos(out, number, request.prefetch);
        let exclusive = request.taker.is_exclusive();
        let arguments = request.taker.arguments();
        encode::consume(out, number, queue, exclusive, &arguments);
        if let Some(slot) = self.channels.get_mut(usize::from(number)) {
            *slot = Some(Channel::Open(Open {
                id: request.id,
                taker: request.taker,
                started: Some(request.started),
                ended: request.ended,
                unacked: 0,
                last: 0,
                enough: request.prefetch / PART,
            }));
        }
    }

    /// Asks for a further channel, which the broker gives at once. Without a free one, `answered` is
    /// dropped.
    pub(super) fn ask(&mut self, answered: oneshot::Sender<()>, out: &mut Vec<u8>) {
        let Some(number) = self.free() else {
            return;
        };
        encode::channel_open(out, number);
        if let Some(slot) = self.channels.get_mut(usize::from(number)) {
            *slot = Some(Channel::Asking(answered));
        }
    }

    /// Ends the consumer of that id, if there is one.
    pub(super) fn cancel(&mut self, id: u64, out: &mut Vec<u8>) {
        let is_it =
            |slot: &Option<Channel<T>>| matches!(slot, Some(Channel::Open(open)) if open.id == id);
        if let Some(index) = self.channels.iter().position(is_it)
            && let Ok(number) = u16::try_from(index)
        {
            self.close(number, BrokerError::Cancelled("it was ended".into()), out);
        }
    }

    /// The broker says something on a channel.
    pub(super) fn handle(
        &mut self,
        number: u16,
        method: Method<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), Malformed> {
        let slot = self.channels.get_mut(usize::from(number));
        let Some(slot) = slot.filter(|slot| slot.is_some()) else {
            return Err(nobody_asked(number));
        };
        match (slot.as_mut(), method) {
            (Some(Channel::Open(open)), Method::ConsumeOk) => {
                if let Some(started) = open.started.take() {
                    // If the caller has stopped waiting, the order to end it is on its way.
                    let _ = started.send(());
                }
            }
            (Some(Channel::Open(_)), Method::Cancel) => {
                let reason = BrokerError::Cancelled("the queue was deleted".into());
                self.close(number, reason, out);
            }
            (Some(Channel::Open(_)), Method::ChannelClose { code, text }) => {
                encode::channel_close_ok(out, number);
                if let Some(Channel::Open(open)) = slot.take() {
                    open.give_back(reply_error(code, &String::from_utf8_lossy(text)));
                }
            }
            (Some(Channel::Asking(_)), Method::ChannelOpenOk) => {
                if let Some(Channel::Asking(answered)) = slot.replace(Channel::Closing) {
                    // If the caller has stopped waiting, it has what it waited for.
                    let _ = answered.send(());
                }
                encode::channel_close(out, number, OK, Short::cut("bye"));
            }
            (Some(Channel::Asking(_)), Method::ChannelClose { .. }) => {
                encode::channel_close_ok(out, number);
                *slot = None;
            }
            // Both close at once: each answers the other.
            (Some(Channel::Closing), Method::ChannelClose { .. }) => {
                encode::channel_close_ok(out, number);
            }
            (Some(Channel::Closing), Method::ChannelCloseOk) => *slot = None,
            (Some(_), Method::ChannelOpenOk | Method::QosOk)
            | (Some(Channel::Closing), Method::ConsumeOk | Method::Cancel) => {}
            _ => return Err(nobody_asked(number)),
        }
        Ok(())
    }

    /// A message came, with a read at that time.
    pub(super) fn deliver(
        &mut self,
        number: u16,
        delivery: Delivery<'_>,
        read_at: ReadAt,
    ) -> Result<(), Malformed> {
        match self.channels.get_mut(usize::from(number)) {
            Some(Some(Channel::Open(open))) => {
                let tag = delivery.tag;
                open.taker.take(delivery, read_at);
                if open.taker.is_done() {
                    return Ok(());
                }
                if open.unacked == 0 {
                    self.touched.push(number);
                }
                open.unacked = open.unacked.saturating_add(1);
                open.last = tag;
                self.is_due |= open.unacked >= open.enough;
                Ok(())
            }
            Some(Some(Channel::Closing)) => Ok(()),
            _ => Err(nobody_asked(number)),
        }
    }

    /// True if anything is to be acknowledged; and true if it should not wait.
    pub(super) fn unacked(&self) -> (bool, bool) {
        (!self.touched.is_empty(), self.is_due)
    }

    /// Acknowledges all that was taken.
    pub(super) fn acknowledge(&mut self, out: &mut Vec<u8>) {
        self.is_due = false;
        for number in self.touched.drain(..) {
            if let Some(Some(Channel::Open(open))) = self.channels.get_mut(usize::from(number)) {
                open.acknowledge(number, out);
            }
        }
    }

    /// The connection has ended, and with it all of them.
    pub(super) fn end(&mut self, reason: &BrokerError) {
        for channel in self.channels.drain(..).flatten() {
            if let Channel::Open(open) = channel {
                open.give_back(reason.clone());
            }
        }
    }

    fn close(&mut self, number: u16, reason: BrokerError, out: &mut Vec<u8>) {
        let slot = self.channels.get_mut(usize::from(number));
        if let Some(Some(channel)) = slot
            && let Channel::Open(mut open) = std::mem::replace(channel, Channel::Closing)
        {
            open.acknowledge(number, out);
            encode::channel_close(out, number, OK, Short::cut("bye"));
            open.give_back(reason);
        }
    }

    /// The number of a channel that is not in use, if there is one.
    fn free(&mut self) -> Option<u16> {
        let used = self.channels.iter().skip(1);
        let free = used.clone().position(Option::is_none);
        let number = u16::try_from(free.unwrap_or(used.len()).checked_add(1)?).ok()?;
        if number > self.channel_max {
            return None;
        }
        if self.channels.len() <= usize::from(number) {
            let room = usize::from(number).saturating_add(1);
            self.channels.resize_with(room, || None);
        }
        Some(number)
    }
}

impl<T> Request<T> {
    /// It will not be started.
    pub(super) fn give_back(self, reason: BrokerError) {
        let taker = Some(self.taker);
        // If nobody waits for it, it is no longer wanted.
        let _ = self.ended.send(Ended { taker, reason });
    }
}

impl<T: DeliveryTaker> Open<T> {
    fn acknowledge(&mut self, number: u16, out: &mut Vec<u8>) {
        // A consumer that came to the same channel later has taken nothing yet.
        if self.unacked > 0 && !self.taker.is_done() {
            encode::ack(out, number, self.last, true);
            self.unacked = 0;
            self.taker.acknowledged();
        }
    }

    fn give_back(self, reason: BrokerError) {
        let taker = Some(self.taker);
        // If nobody waits for it, it is no longer wanted.
        let _ = self.ended.send(Ended { taker, reason });
    }
}

fn nobody_asked(channel: u16) -> Malformed {
    let what = "an answer that nobody asked for";
    Malformed::OutOfPlace { what, channel }
}
