//! Frames that a session must accept, made of the model's own knowledge; or that dare too much.

use super::{Gathered, Model, Valid, size};
use crate::{AckMode, session::tests::*};

impl Model {
    /// A frame that must be accepted now; `None`: there is none of the kind.
    ///
    /// A `daring` one passes bounds, takes names that are taken, and acknowledges anything.
    pub(super) fn valid(&mut self, valid: &Valid, daring: bool) -> Option<Frame> {
        let room = |model: &Self, frames: usize, bytes: usize| {
            daring
                || frames < config().max_transaction_frames
                    && model.transaction_bytes + bytes <= config().max_transaction_bytes
        };
        match valid {
            Valid::Send {
                transaction,
                which,
                length,
            } => {
                let mut frame = Frame::new(Command::Send)
                    .with_header("destination", "/t")
                    .with_body(vec![*length; usize::from(*length)]);
                if *transaction && !self.transactions.is_empty() {
                    let (id, steps) = self
                        .transactions
                        .iter()
                        .nth(which.index(self.transactions.len()))?;
                    frame = frame.with_header("transaction", id);
                    // With room for the receipt that may be added.
                    if !room(self, steps.len(), size(&frame) + 48) {
                        return None;
                    }
                }
                Some(frame)
            }
            Valid::Subscribe { mode } => {
                if self.feeds.len() >= config().max_subscriptions && !daring {
                    return None;
                }
                let mode = ["auto", "client", "client-individual"][usize::from(*mode)];
                // A subscription without an id has another name than any id.
                let taken = self.feeds.keys().find(|id| id.starts_with("s:"));
                let id = match taken {
                    Some(id) if daring => id.clone(),
                    _ => self.name("s:"),
                };
                let frame = Frame::new(Command::Subscribe).with_header("ack", mode);
                Some(
                    frame
                        .with_header("id", &id)
                        .with_header("destination", "/t"),
                )
            }
            Valid::Unsubscribe(which) => {
                let denied = self.denied.iter().map(|(id, _)| id);
                let named: Vec<_> = self
                    .feeds
                    .keys()
                    .chain(denied)
                    .filter(|id| id.starts_with("s:"))
                    .collect();
                let id = (!named.is_empty()).then(|| *which.get(&named))?;
                Some(Frame::new(Command::Unsubscribe).with_header("id", id))
            }
            Valid::Ack {
                transaction,
                which,
                of,
                nack,
            } => {
                let waiting: Vec<_> = if daring {
                    self.message_ids.iter().collect()
                } else {
                    let feeds = self.feeds.values().chain(&self.ended);
                    let all = feeds.flat_map(|feed| &feed.unsettled);
                    all.map(|(id, _)| id).collect()
                };
                let id = (!waiting.is_empty()).then(|| *of.get(&waiting))?;
                let command = if *nack { Command::Nack } else { Command::Ack };
                let mut frame = Frame::new(command).with_header(self.ack_header(), id);
                if *transaction && !self.transactions.is_empty() {
                    let (tx, steps) = self
                        .transactions
                        .iter()
                        .nth(which.index(self.transactions.len()))?;
                    frame = frame.with_header("transaction", tx);
                    if !room(self, steps.len(), size(&frame) + 48) {
                        return None;
                    }
                }
                Some(frame)
            }
            Valid::Begin => {
                if self.transactions.len() >= config().max_transactions && !daring {
                    return None;
                }
                let id = match self.transactions.keys().next() {
                    Some(id) if daring && self.names.is_multiple_of(2) => id.clone(),
                    _ => self.name("t:"),
                };
                Some(Frame::new(Command::Begin).with_header("transaction", &id))
            }
            Valid::Commit(which) => {
                // One whose acknowledgements can still be made.
                let ready: Vec<_> = self
                    .transactions
                    .keys()
                    .filter(|id| daring || self.can_commit(id))
                    .collect();
                let id = (!ready.is_empty()).then(|| *which.get(&ready))?;
                Some(Frame::new(Command::Commit).with_header("transaction", id))
            }
            Valid::Abort(which) => {
                let open: Vec<_> = self.transactions.keys().collect();
                let id = (!open.is_empty()).then(|| *which.get(&open))?;
                Some(Frame::new(Command::Abort).with_header("transaction", id))
            }
            Valid::Disconnect => Some(Frame::new(Command::Disconnect)),
        }
    }

    fn can_commit(&self, id: &str) -> bool {
        let mut waiting: Vec<(AckMode, Vec<&String>)> = self
            .feeds
            .values()
            .chain(&self.ended)
            .map(|feed| (feed.mode, feed.unsettled.iter().map(|(id, _)| id).collect()))
            .collect();
        self.transactions[id].iter().all(|step| {
            let Gathered::Settle(message, _) = &step.gathered else {
                return true;
            };
            for (mode, list) in &mut waiting {
                if let Some(at) = list.iter().position(|id| *id == message) {
                    let from = if *mode == AckMode::Client { 0 } else { at };
                    list.drain(from..=at);
                    return true;
                }
            }
            false
        })
    }
}
