//! The effect of each frame of a connected client.

use stomp_grammar::{Command, Frame, Version};

use super::{Phase, Request, Session, Standing, renewing::RENEW};
use crate::{
    AckMode, Operation, Problem, Publish, Renew, Settle, Stake, Subscribe, SubscriptionId,
    Unsubscribe, Verdict,
    frames::{MessageId, Named},
    redelivery::Plan,
    subscriptions::{Ended, Name, RESERVED, Settled},
    transactions::{Step, gathered_bytes},
};

impl Session {
    /// Takes a frame of a connected client: the work that it needs, or its fault. A faulty frame
    /// changes nothing that outlives the session.
    pub(super) fn command(&mut self, frame: Frame) -> Result<Request, Problem> {
        match frame.command {
            Command::Send => self.send(frame),
            Command::Subscribe => self.subscribe(frame),
            Command::Unsubscribe => self.unsubscribe(frame),
            Command::Ack => self.acknowledge(&frame, Verdict::Accept),
            Command::Nack => {
                let requeue = flag(&frame, "requeue").unwrap_or(self.config.nack_requeue);
                let verdict = if requeue {
                    Verdict::Requeue
                } else {
                    Verdict::Discard
                };
                self.acknowledge(&frame, verdict)
            }
            Command::Begin => {
                self.transactions
                    .begin(transaction(&frame)?, &self.config)?;
                Ok(Request::Nothing)
            }
            Command::Commit => self.commit(&frame),
            Command::Abort => {
                self.transactions.end(transaction(&frame)?)?;
                Ok(Request::Nothing)
            }
            Command::Disconnect => {
                let receipt = frame.header("receipt").is_some();
                self.phase = Phase::Disconnecting { receipt };
                self.deadline = None;
                let redelivery = self.redelivery.as_ref();
                let was_late = redelivery.is_some_and(|redelivery| redelivery.was_late());
                self.forget_work();
                Ok(match receipt {
                    // It need not ask to say so.
                    true if was_late => Request::TooLate,
                    true if self.has_unheard => Request::perform(Operation::Hear),
                    _ => Request::Nothing,
                })
            }
            Command::Connect | Command::Stomp => Err(Problem::AlreadyLoggedIn),
            Command::Connected | Command::Message | Command::Receipt | Command::Error => {
                Err(Problem::ServerCommand(frame.command))
            }
        }
    }

    fn send(&mut self, frame: Frame) -> Result<Request, Problem> {
        if frame.header("message-id").is_some() {
            return Err(Problem::ForbiddenHeader {
                command: frame.command,
                header: "message-id",
            });
        }
        let destination = destination(&frame)?;
        if destination == RENEW {
            return renew(frame);
        }
        let destination = destination.into();
        let Some(id) = frame.header("transaction") else {
            let Frame { headers, body, .. } = frame;
            let publish = Publish {
                destination,
                headers,
                body,
            };
            return Ok(Request::perform(Operation::Publish(publish)));
        };
        if !self.transactions.contains(id) {
            return Err(Problem::UnknownTransaction(id.into()));
        }
        let id: Box<str> = id.into();
        let bytes = gathered_bytes(&frame);
        let Frame { headers, body, .. } = frame;
        let publish = Publish {
            destination,
            headers,
            body,
        };
        self.transactions
            .add(&id, Step::Publish(publish), bytes, &self.config)?;
        Ok(Request::Gathered)
    }

    /// The name is taken from now on, not from the broker's answer: the session handles frames in
    /// order, so the client can use the name in the next one.
    fn subscribe(&mut self, frame: Frame) -> Result<Request, Problem> {
        durable_needs_id(&frame)?;
        let destination = destination(&frame)?;
        let name = match frame.header("id") {
            Some(id) => Name::Id(not_reserved(id, frame.command)?),
            None if self.version != Version::V1_0 && self.config.require_subscription_id => {
                return Err(Problem::MissingHeader {
                    command: frame.command,
                    header: "id",
                });
            }
            // As the plug-in in every version. Its messages carry no `subscription`, and there can
            // be one such a destination.
            None => Name::Destination(destination),
        };
        let ack = match frame.header("ack") {
            None | Some("auto") => AckMode::Auto,
            Some("client") => AckMode::Client,
            Some("client-individual") => AckMode::ClientIndividual,
            Some(_) => {
                return Err(Problem::InvalidHeader {
                    command: frame.command,
                    header: "ack",
                    expected: "auto, client or client-individual",
                });
            }
        };
        let plan = Plan::read(&frame.headers, ack).map_err(|(header, expected)| {
            Problem::InvalidHeader {
                command: frame.command,
                header,
                expected,
            }
        })?;
        let subscription = self
            .subscriptions
            .open(name, ack, self.config.max_subscriptions)?;
        if let Some(plan) = plan {
            let redelivery = self.redelivery.get_or_insert_default();
            redelivery.open(subscription, plan);
        }
        let destination = destination.into();
        let headers = frame.headers;
        let ask = Subscribe {
            subscription,
            destination,
            ack,
            headers,
        };
        Ok(Request::Subscribe(Box::new(ask)))
    }

    /// By `id`, or by destination if the subscription had no `id`, in every version: as the
    /// plug-in.
    fn unsubscribe(&mut self, frame: Frame) -> Result<Request, Problem> {
        durable_needs_id(&frame)?;
        let name = match (frame.header("id"), frame.header("destination")) {
            (Some(id), _) => Name::Id(not_reserved(id, frame.command)?),
            (None, Some(destination)) => Name::Destination(destination),
            (None, None) => return Err(Problem::MissingIdOrDestination),
        };
        let Ended {
            subscription,
            kept,
            forgotten,
        } = self.subscriptions.end(name)?;
        self.end_redelivery(subscription);
        if let Some(forgotten) = forgotten {
            self.take_back(forgotten);
        }
        let ask = Unsubscribe {
            subscription,
            headers: frame.headers,
            kept,
            forgotten,
        };
        Ok(Request::Unsubscribe(Box::new(ask)))
    }

    /// ACK or NACK. 1.0 and 1.1 name the message by `message-id`, 1.2 by `id`; headers of other
    /// versions are ignored, since clients send them (stompjs sends `subscription` in 1.2). So is
    /// the `subscription` of 1.1, as by the plug-in: the message's id says which it is.
    fn acknowledge(&mut self, frame: &Frame, verdict: Verdict) -> Result<Request, Problem> {
        let command = frame.command;
        let header = if self.version == Version::V1_2 {
            "id"
        } else {
            "message-id"
        };
        let text = frame
            .header(header)
            .ok_or(Problem::MissingHeader { command, header })?;
        let message = match MessageId::parse(text) {
            Named::Message(message) => message,
            Named::Foreign => return Err(Problem::NoSubscription(text.into())),
            Named::Invalid => return Err(Problem::InvalidMessageId { command, header }),
        };
        if message.session != &*self.id {
            return Err(Problem::NoSubscription(text.into()));
        }
        let MessageId {
            subscription,
            sequence,
            ..
        } = message;
        let standing = self.standing(subscription, sequence)?;
        match (standing, frame.header("transaction")) {
            (Standing::Settled, _) => Ok(Request::Nothing),
            (Standing::Unsettled | Standing::TakenBack, Some(id)) => {
                let step = Step::Settle {
                    subscription,
                    sequence,
                    verdict,
                };
                let bytes = gathered_bytes(frame);
                self.transactions.add(id, step, bytes, &self.config)?;
                // Receipted at once, as by the plug-in: a client that waits for it before COMMIT
                // must not wait for ever. COMMIT's receipt means that the message is settled.
                Ok(Request::Nothing)
            }
            (Standing::TakenBack, None) => {
                if let Some(redelivery) = &mut self.redelivery
                    && frame.header("receipt").is_none()
                {
                    redelivery.note_late();
                }
                Ok(Request::TooLate)
            }
            (Standing::Unsettled, None) => {
                let stake = match frame.header("receipt") {
                    Some(_) => Stake::Receipt,
                    None => Stake::Nothing,
                };
                let settle = self.settle(subscription, sequence, verdict, stake)?;
                self.has_unheard |= stake == Stake::Nothing;
                Ok(Request::perform(Operation::Settle(settle)))
            }
        }
    }

    /// How a message stands that its client acknowledges.
    fn standing(&self, id: SubscriptionId, sequence: u64) -> Result<Standing, Problem> {
        let found = self.subscriptions.get(id);
        if found.is_some_and(|found| found.is_unsettled(sequence)) {
            return Ok(Standing::Unsettled);
        }
        let redelivery = self.redelivery.as_deref();
        let redelivery = redelivery.filter(|redelivery| redelivery.knows(id));
        // Its client may have acknowledged before it heard so.
        let is_lost = found.is_some_and(|found| found.is_lost());
        if is_lost || redelivery.is_some_and(|all| all.has_taken_back((id, sequence))) {
            return Ok(Standing::TakenBack);
        }
        let was_sent = found.is_none_or(|found| found.is_settled(sequence));
        match found {
            _ if redelivery.is_some() && was_sent => Ok(Standing::Settled),
            Some(_) => Err(Problem::UnknownDelivery(sequence)),
            None => {
                let message = MessageId {
                    subscription: id,
                    session: &self.id,
                    sequence,
                };
                Err(Problem::NoSubscription(message.to_text()))
            }
        }
    }

    /// Settles a message that is [unsettled](Standing::Unsettled).
    fn settle(
        &mut self,
        subscription: SubscriptionId,
        sequence: u64,
        verdict: Verdict,
        stake: Stake,
    ) -> Result<Settle, Problem> {
        let settled = self.subscriptions.settle(subscription, sequence);
        let Settled {
            first,
            tag,
            multiple,
            is_last,
        } = settled.ok_or(Problem::UnknownDelivery(sequence))?;
        if let Some(redelivery) = &mut self.redelivery {
            redelivery.forget((subscription, sequence));
        }
        Ok(Settle {
            subscription,
            tag,
            first,
            multiple,
            verdict,
            is_last,
            stake,
        })
    }

    /// The frames that a transaction gathered, in order, and the receipts of its SENDs: they are
    /// due when the broker has all of it. If one acknowledgement in it has become impossible, no
    /// part of the transaction is done.
    fn commit(&mut self, frame: &Frame) -> Result<Request, Problem> {
        let steps = self.transactions.end(transaction(frame)?)?;
        if steps.is_empty() {
            return Ok(Request::Nothing);
        }
        let mut operations = Vec::with_capacity(steps.len());
        let mut receipts = Vec::new();
        for step in steps {
            operations.push(match step {
                Step::Publish(publish) => {
                    receipts.extend(publish.headers.get("receipt").map(Box::from));
                    Operation::Publish(publish)
                }
                Step::Settle {
                    subscription,
                    sequence,
                    verdict,
                } => match self.standing(subscription, sequence)? {
                    Standing::Unsettled => {
                        let stake = Stake::Commit;
                        Operation::Settle(self.settle(subscription, sequence, verdict, stake)?)
                    }
                    Standing::Settled => continue,
                    Standing::TakenBack => return Err(Problem::TakenBack),
                },
            });
        }
        if operations.is_empty() {
            return Ok(Request::Nothing);
        }
        Ok(Request::Perform(operations, receipts.into()))
    }
}

/// A SEND to [`RENEW`]. It is no message, so nothing can wait for it or depend on it.
fn renew(frame: Frame) -> Result<Request, Problem> {
    for header in ["transaction", "mandatory"] {
        if frame.header(header).is_some_and(|value| value != "false") {
            return Err(Problem::RenewalNotAlone { header });
        }
    }
    let token = match frame.header("token") {
        Some(token) => token,
        None => std::str::from_utf8(&frame.body).unwrap_or_default().trim(),
    };
    if token.is_empty() {
        return Err(Problem::MissingHeader {
            command: frame.command,
            header: "token",
        });
    }
    Ok(Request::Renew(Box::new(Renew {
        token: token.into(),
        login: frame.header("login").map(Box::from),
    })))
}

fn destination(frame: &Frame) -> Result<&str, Problem> {
    frame
        .header("destination")
        .ok_or(Problem::MissingDestination(frame.command))
}

fn transaction(frame: &Frame) -> Result<&str, Problem> {
    frame
        .header("transaction")
        .ok_or(Problem::MissingTransaction(frame.command))
}

fn durable_needs_id(frame: &Frame) -> Result<(), Problem> {
    let is_durable = ["durable", "persistent"]
        .iter()
        .any(|name| flag(frame, name) == Some(true));
    if is_durable && frame.header("id").is_none() {
        return Err(Problem::DurableWithoutId(frame.command));
    }
    Ok(())
}

fn not_reserved(id: &str, command: Command) -> Result<&str, Problem> {
    if id.starts_with(RESERVED) {
        Err(Problem::ReservedId(command))
    } else {
        Ok(id)
    }
}

/// A header that says yes or no. Anything else counts as absent, as for the plug-in, which
/// knows the capitalised words from Python clients.
fn flag(frame: &Frame, name: &str) -> Option<bool> {
    match frame.header(name)? {
        "true" | "True" => Some(true),
        "false" | "False" => Some(false),
        _ => None,
    }
}
