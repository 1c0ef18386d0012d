//! What a session must do, known from nothing but what was told to it and what it asked.

mod valid;

use std::collections::{BTreeMap, BTreeSet};

use proptest::sample::Index;

use super::{Input, KNOWN, Text, Valid};
use crate::{AckMode, Publish, Unsubscribe, session::tests::*, subscriptions::MAX_ENDED};

/// What a transaction must perform.
#[derive(Debug)]
enum Gathered {
    Publish(Vec<u8>),
    Settle(String, Verdict),
}

/// A frame of a transaction.
#[derive(Debug)]
struct Step {
    gathered: Gathered,
    size: usize,
    receipt: Option<String>,
}

#[derive(Debug)]
struct Feed {
    id: SubscriptionId,
    mode: AckMode,
    /// Message ids and tags, in the order of delivery.
    unsettled: Vec<(String, u64)>,
}

/// A frame in the order of receipts.
#[derive(Debug)]
pub(super) struct Entry {
    /// Those of a transaction's SENDs, which are owed at its COMMIT.
    before: Vec<String>,
    operation: Option<OperationId>,
    receipt: Option<String>,
    /// The subscription that it opened.
    opened: Option<SubscriptionId>,
    /// Whether it acknowledged something.
    settled: bool,
}

/// A connected peer, and what is known of it.
pub(super) struct Model {
    pub(super) peer: Peer,
    version: Version,
    pub(super) frames: VecDeque<Entry>,
    pub(super) open: Vec<OperationId>,
    feeds: BTreeMap<String, Feed>,
    /// Those that have ended, and of which something can be acknowledged still.
    ended: Vec<Feed>,
    /// Those that were denied: their client may end them, and acknowledge anything of them.
    denied: Vec<(String, SubscriptionId)>,
    /// What each holds.
    transactions: BTreeMap<String, Vec<Step>>,
    transaction_bytes: usize,
    seen_subscriptions: BTreeSet<SubscriptionId>,
    message_ids: Vec<String>,
    tags: u64,
    names: u64,
    /// Something was acknowledged without a receipt.
    has_unheard: bool,
    disconnecting: Option<bool>,
    lingering: bool,
    /// An ERROR is to come: for the frame of that receipt, as soon as all before it is done.
    failing: Option<Option<String>>,
    /// When it comes at the latest; or one that ends a DISCONNECT which takes too long.
    end_by: Option<Instant>,
    heard: Instant,
    wrote: Instant,
}

const SEND_EVERY: Duration = Duration::from_secs(5);
const GIVE_UP: Duration = Duration::from_secs(16);
const FINISH: Duration = Duration::from_secs(10);
const DRAIN: Duration = Duration::from_secs(2);

impl Model {
    pub(super) fn new(version: Version) -> Self {
        let mut peer = Peer::new(Config {
            soft_deny: true,
            max_denials: u32::MAX,
            ..config()
        });
        peer.send(&format!(
            "CONNECT\naccept-version:{version}\nheart-beat:1000,1000"
        ));
        peer.log_in();
        let (heard, wrote) = (peer.now, peer.now);
        Self {
            peer,
            version,
            frames: VecDeque::new(),
            open: Vec::new(),
            feeds: BTreeMap::new(),
            ended: Vec::new(),
            denied: Vec::new(),
            transactions: BTreeMap::new(),
            transaction_bytes: 0,
            seen_subscriptions: BTreeSet::new(),
            message_ids: Vec::new(),
            tags: 0,
            names: 0,
            has_unheard: false,
            disconnecting: None,
            lingering: false,
            failing: None,
            end_by: None,
            heard,
            wrote,
        }
    }

    fn is_live(&self) -> bool {
        self.peer.closed.is_none() && self.disconnecting.is_none() && self.failing.is_none()
    }

    /// The session has to end so, when what is pending is done.
    fn fail(&mut self, receipt: Option<String>, patience: Duration) {
        self.hurry(patience);
        self.failing = Some(receipt);
        self.disconnecting = None;
        self.forget();
    }

    /// A session that is about to end has nothing open.
    fn forget(&mut self) {
        self.feeds.clear();
        self.ended.clear();
        self.denied.clear();
        self.transactions.clear();
        self.transaction_bytes = 0;
    }

    fn hurry(&mut self, patience: Duration) {
        let due = self.peer.now + patience;
        self.end_by = Some(self.end_by.map_or(due, |before| before.min(due)));
    }

    /// The operation failed, so nothing of it and of later frames is done any more.
    fn cut(&mut self, operation: OperationId) -> Option<Entry> {
        let mut frames = self.frames.iter();
        let at = frames.position(|entry| entry.operation == Some(operation))?;
        let mut later = self.frames.split_off(at).into_iter();
        let entry = later.next();
        let is_more = later.any(|entry| entry.operation.is_some() || entry.receipt.is_some());
        assert_eq!(self.peer.abandoned.take(), is_more.then_some(operation));
        entry
    }

    pub(super) fn step(&mut self, input: Input) {
        let held = !self.peer.session.wants_frame();
        match input {
            Input::Valid(valid, receipt) => {
                if !held && let Some(mut frame) = self.valid(&valid, false) {
                    if receipt.is_some() {
                        frame.headers.push("receipt", &self.name("r:"));
                    }
                    self.frame(frame, true);
                }
            }
            Input::Twisted(valid, (name, value)) => {
                if !held && let Some(frame) = self.valid(&valid, true) {
                    let mut twisted = Frame::new(frame.command).with_body(frame.body);
                    twisted.headers.push(&self.text(&name), &self.text(&value));
                    for (name, value) in frame.headers.iter() {
                        twisted.headers.push(name, value);
                    }
                    self.frame(twisted, false);
                }
            }
            Input::Garbage(command, headers, body) => {
                if !held {
                    let mut frame = Frame::new(*command.get(&Command::ALL))
                        .with_body(vec![b'x'; usize::from(body)]);
                    for (name, value) in headers {
                        frame.headers.push(&self.text(&name), &self.text(&value));
                    }
                    self.frame(frame, false);
                }
            }
            Input::Done(which) => {
                if self.open.is_empty() {
                    return self.peer.done(OperationId(1_000_000));
                }
                let operation = self.open.swap_remove(which.index(self.open.len()));
                self.peer.done(operation);
                if held && self.peer.session.wants_frame() {
                    self.heard = self.peer.now;
                }
            }
            Input::Fails(which) => {
                if self.open.is_empty() {
                    return;
                }
                let operation = self.open.swap_remove(which.index(self.open.len()));
                self.peer
                    .failed(operation, Problem::NotPublished("why".into()));
                if let Some(entry) = self.cut(operation) {
                    self.fail(entry.receipt, FINISH);
                }
            }
            Input::Denied(which) => {
                if self.open.is_empty() {
                    return;
                }
                let operation = self.open.swap_remove(which.index(self.open.len()));
                self.denied(operation);
                if held && self.peer.session.wants_frame() {
                    self.heard = self.peer.now;
                }
            }
            Input::Deliver(which) => self.deliver(&which),
            Input::DeliverToUnknown(number) => {
                let subscription = SubscriptionId(number);
                if !self.feeds.values().any(|feed| feed.id == subscription) {
                    let refused = (Delivered::Refused, String::new());
                    assert_eq!(self.peer.deliver(subscription, 1), refused);
                }
            }
            Input::Wait(ms) => {
                self.peer.wait(Duration::from_millis(ms.into()));
                let was_live = self.is_live();
                self.peer.timeout();
                if was_live && !self.peer.session.is_connected() {
                    assert!(self.peer.now - self.heard >= GIVE_UP && !held);
                    self.fail(None, FINISH);
                }
                if self.end_by.is_some_and(|due| due <= self.peer.now) {
                    self.failing.get_or_insert(None);
                    self.disconnecting = None;
                    self.frames.clear();
                }
                let next = self.peer.session.poll_timeout();
                assert!(next.is_none_or(|due| due > self.peer.now), "a busy loop");
            }
            Input::Activity => {
                self.peer.session.handle_activity(self.peer.now);
                self.heard = self.peer.now;
            }
            Input::Undecodable(receipt) => {
                let was_live = self.is_live();
                let kind = DecodeErrorKind::UnknownCommand("X".into());
                self.peer.decode_error(kind, receipt.then_some("r"));
                if was_live {
                    self.fail(receipt.then(|| "r".to_owned()), FINISH);
                }
            }
            Input::Ends => {
                let was_live = self.is_live();
                let session = &mut self.peer.session;
                session.handle_problem(self.peer.now, Problem::ShuttingDown);
                self.peer.poll();
                if was_live {
                    self.fail(None, DRAIN);
                } else if self.peer.closed.is_none() {
                    self.hurry(DRAIN);
                }
            }
            Input::Revoked(which) => self.revoke(&which),
        }
    }

    /// An ERROR for that frame, and the session is as if the frame had never come; but that its
    /// client may end what it was denied.
    fn denied(&mut self, operation: OperationId) {
        let entry = self
            .frames
            .iter_mut()
            .find(|entry| entry.operation == Some(operation));
        let Some(entry) = entry else {
            // The session is over.
            self.peer.denied(operation);
            return assert!(self.peer.written().is_empty());
        };
        let receipt = entry.receipt.take();
        entry.before.clear();
        let (opened, settled) = (entry.opened, entry.settled);
        self.peer.denied(operation);
        if settled {
            self.cut(operation);
            return self.fail(receipt, FINISH);
        }
        let denied = self.feeds.iter().find(|(_, feed)| Some(feed.id) == opened);
        if let Some((name, id)) = denied.map(|(name, feed)| (name.clone(), feed.id)) {
            self.feeds.remove(&name);
            self.denied.push((name, id));
        }
        self.ended.retain(|feed| Some(feed.id) != opened);
        let error = self.peer.written.pop_front().unwrap();
        assert!(error.starts_with("ERROR\nmessage:access_refused\n"));
        let receipt = receipt.map(|receipt| self.escaped(&receipt));
        assert_eq!(header(&error, "receipt-id"), receipt.as_deref());
        self.wrote = self.peer.now;
    }

    /// Somebody takes the session away: what the broker has not heard of is dropped.
    fn revoke(&mut self, which: &Index) {
        let open: Vec<_> = self
            .frames
            .iter()
            .filter_map(|entry| entry.operation.filter(|id| self.open.contains(id)))
            .collect();
        // One more: nothing is dropped.
        let from = open.get(which.index(open.len() + 1)).copied();
        let was_over = self.peer.closed.is_some() || self.lingering;
        let session = &mut self.peer.session;
        session.handle_revoked(self.peer.now, Problem::Replaced, from);
        self.peer.poll();
        assert_eq!(self.peer.abandoned, None, "it is known");
        if was_over {
            return;
        }
        if let Some(from) = from {
            let mut frames = self.frames.iter();
            let at = frames.position(|entry| entry.operation == Some(from));
            self.frames.truncate(at.unwrap());
        }
        if self.disconnecting.is_some() && from.is_none() {
            self.hurry(FINISH);
        } else {
            self.fail(None, FINISH);
        }
    }

    /// What must hold after every step.
    pub(super) fn check(&mut self) {
        self.check_receipts();
        let session = &self.peer.session;
        // Heart-beats are on, so something is always due.
        assert_eq!(session.poll_timeout().is_none(), self.peer.closed.is_some());
        assert!(session.pending() <= config().max_pending);
        assert_eq!(session.pending.capacity() > 0, session.pending() > 0);
        assert_eq!(session.actions.capacity(), 0);
        if self.is_live() {
            let unsettled = self
                .feeds
                .values()
                .chain(&self.ended)
                .map(|feed| feed.unsettled.len())
                .sum::<usize>();
            assert_eq!(session.subscriptions.unsettled(), unsettled);
            assert_eq!(session.subscriptions(), self.feeds.len());
            let frames = self.transactions.values().map(Vec::len).sum();
            let load = (self.transactions.len(), frames, self.transaction_bytes);
            assert_eq!(session.transactions.load(), load);
            assert!(session.is_connected());
        } else {
            assert_eq!(session.transactions.load(), (0, 0, 0));
            assert_eq!(session.subscriptions(), 0);
            assert!(!session.is_connected());
        }
        assert!(session.subscriptions() <= config().max_subscriptions);
        assert!(self.transactions.len() <= config().max_transactions);
        let longest = self.transactions.values().map(Vec::len).max();
        assert!(longest.unwrap_or(0) <= config().max_transaction_frames);
        assert!(self.transaction_bytes <= config().max_transaction_bytes);
    }

    /// All that was written must be the receipts whose turn it is, heart-beats that are due, or
    /// the one ERROR.
    fn check_receipts(&mut self) {
        let mut expected = Vec::new();
        while let Some(entry) = self.frames.front()
            && entry
                .operation
                .is_none_or(|operation| !self.open.contains(&operation))
        {
            let entry = self.frames.pop_front().unwrap();
            expected.extend(entry.before);
            expected.extend(entry.receipt);
        }
        if self.failing.is_some() && self.frames.is_empty() {
            self.assert_error();
        }
        let mut receipts = Vec::new();
        for frame in self.peer.written() {
            if frame == "\n" {
                // It may come an eighth early.
                assert!(self.peer.now - self.wrote >= SEND_EVERY - SEND_EVERY / 8);
            } else if frame.starts_with("ERROR\n") {
                panic!("an unexpected {frame}");
            } else {
                receipts.push(header(&frame, "receipt-id").unwrap().to_owned());
            }
            self.wrote = self.peer.now;
        }
        let expected: Vec<_> = expected.iter().map(|text| self.escaped(text)).collect();
        assert_eq!(receipts, expected);
        if let (Some(receipt), true) = (self.disconnecting, self.frames.is_empty()) {
            self.end_by = None;
            if receipt {
                self.lingering = true;
            } else {
                assert!(self.peer.closed.is_some());
            }
        }
    }

    /// That the session has just ended, with an ERROR after all else.
    fn assert_error(&mut self) {
        let error = self.peer.written.pop_back().unwrap();
        assert!(error.starts_with("ERROR\n"), "{error}");
        let receipt = self
            .failing
            .take()
            .flatten()
            .map(|receipt| self.escaped(&receipt));
        assert_eq!(header(&error, "receipt-id"), receipt.as_deref());
        assert!(error.len() < 2000 + receipt.map_or(0, |receipt| receipt.len()));
        assert!(self.peer.closed.is_some() && self.peer.asked.is_empty());
        self.end_by = None;
    }

    fn escaped(&self, text: &str) -> String {
        let mut out = Vec::new();
        stomp_grammar::encode::header(&mut out, self.version, "x", text);
        let line = String::from_utf8(out).unwrap();
        line[2..line.len() - 1].to_owned()
    }

    fn name(&mut self, prefix: &str) -> String {
        loop {
            self.names += 1;
            let name = format!("{prefix}{}", self.names);
            // A twisted frame may have taken it.
            if !self.feeds.contains_key(&name) && !self.transactions.contains_key(&name) {
                return name;
            }
        }
    }

    pub(super) fn text(&self, text: &Text) -> String {
        match text {
            Text::Known(which) => (*which.get(&KNOWN)).to_owned(),
            Text::MessageId(which) if self.message_ids.is_empty() => {
                (*which.get(&KNOWN)).to_owned()
            }
            Text::MessageId(which) => which.get(&self.message_ids).clone(),
            Text::Any(text) => text.clone(),
        }
    }

    /// What it held, and the receipts that are owed for that.
    fn end_transaction(&mut self, id: &str) -> (Vec<Gathered>, Vec<String>) {
        let (mut taken, mut receipts) = (Vec::new(), Vec::new());
        for step in self.transactions.remove(id).unwrap() {
            self.transaction_bytes -= step.size;
            taken.push(step.gathered);
            receipts.extend(step.receipt);
        }
        (taken, receipts)
    }

    fn ack_header(&self) -> &'static str {
        if self.version == Version::V1_2 {
            "id"
        } else {
            "message-id"
        }
    }

    /// Hands in a frame, and holds what is asked against what the frame says.
    fn frame(&mut self, frame: Frame, is_valid: bool) {
        let was_live = self.is_live();
        self.peer.session.handle_frame(self.peer.now, frame.clone());
        self.peer.poll();
        self.heard = self.peer.now;
        let mut asked: Vec<_> = self.peer.asked.drain(..).collect();
        if !was_live {
            return assert!(asked.is_empty());
        }
        let is_connect = matches!(frame.command, Command::Connect | Command::Stomp);
        let receipt = frame
            .header("receipt")
            .filter(|_| !is_connect)
            .map(str::to_owned);
        if !self.peer.session.is_connected() && frame.command != Command::Disconnect {
            assert!(!is_valid, "{frame:?} was refused: {:?}", self.peer.written);
            assert!(asked.is_empty());
            return self.fail(receipt, FINISH);
        }
        assert!(asked.len() <= 1);
        let opened = asked.first().and_then(|action| match action {
            Action::Subscribe(_, ask) => Some(ask.subscription),
            _ => None,
        });
        let settled = asked.first().is_some_and(|action| match action {
            Action::Perform(_, operations) => operations
                .iter()
                .any(|operation| matches!(operation, Operation::Settle(_))),
            _ => false,
        });
        let mut before = Vec::new();
        let operation = asked
            .pop()
            .and_then(|action| self.asked(&frame, action, &mut before));
        if operation.is_none() && self.accepted(&frame, &receipt) {
            return;
        }
        self.open.extend(operation);
        self.frames.push_back(Entry {
            before,
            operation,
            receipt,
            opened,
            settled,
        });
    }

    /// An action in answer to a frame; `before` are the receipts that are owed before its own.
    fn asked(
        &mut self,
        frame: &Frame,
        action: Action,
        before: &mut Vec<String>,
    ) -> Option<OperationId> {
        match action {
            Action::Subscribe(operation, ask) => {
                assert_eq!(frame.command, Command::Subscribe);
                assert_eq!(frame.header("destination"), Some(&*ask.destination));
                assert!(
                    self.seen_subscriptions.insert(ask.subscription),
                    "a number twice"
                );
                let name = match frame.header("id") {
                    Some(id) => id.to_owned(),
                    None => format!("(destination){}", ask.destination),
                };
                let feed = Feed {
                    id: ask.subscription,
                    mode: ask.ack,
                    unsettled: Vec::new(),
                };
                self.denied.retain(|(denied, _)| *denied != name);
                assert!(self.feeds.insert(name, feed).is_none(), "a name twice");
                Some(operation)
            }
            Action::Unsubscribe(operation, ask) => {
                assert_eq!(frame.command, Command::Unsubscribe);
                let name = match frame.header("id") {
                    Some(id) => id.to_owned(),
                    None => format!("(destination){}", frame.header("destination").unwrap()),
                };
                self.end_feed(&name, &ask);
                Some(operation)
            }
            Action::Perform(operation, operations) if frame.command == Command::Disconnect => {
                assert!(matches!(operations[..], [Operation::Hear]));
                assert!(self.has_unheard && frame.header("receipt").is_some());
                self.disconnect(frame);
                Some(operation)
            }
            Action::Perform(operation, operations) => {
                let gathered = match frame.command {
                    Command::Commit => {
                        let id = frame.header("transaction").unwrap();
                        let (gathered, receipts) = self.end_transaction(id);
                        *before = receipts;
                        gathered
                    }
                    _ => vec![self.gathered(frame)],
                };
                assert_eq!(gathered.len(), operations.len());
                for (gathered, operation) in gathered.into_iter().zip(operations) {
                    self.performed(gathered, operation);
                }
                Some(operation)
            }
            other => panic!("{other:?}"),
        }
    }

    /// A frame that asks for nothing; whether a transaction has its receipt, too.
    fn accepted(&mut self, frame: &Frame, receipt: &Option<String>) -> bool {
        let transaction = frame.header("transaction");
        match frame.command {
            Command::Begin => {
                let id = transaction.unwrap().to_owned();
                assert!(self.transactions.insert(id, Vec::new()).is_none());
            }
            Command::Abort => {
                self.end_transaction(transaction.unwrap());
            }
            Command::Commit => assert!(self.end_transaction(transaction.unwrap()).0.is_empty()),
            Command::Ack | Command::Nack if transaction.is_none() => {
                assert!(self.is_denied(frame), "{frame:?} was accepted");
            }
            Command::Send | Command::Ack | Command::Nack => {
                let step = Step {
                    gathered: self.gathered(frame),
                    size: size(frame),
                    receipt: receipt.clone().filter(|_| frame.command == Command::Send),
                };
                self.transaction_bytes += step.size;
                let steps = self.transactions.get_mut(transaction.unwrap()).unwrap();
                steps.push(step);
                return frame.command == Command::Send;
            }
            Command::Disconnect => {
                assert!(!self.has_unheard || frame.header("receipt").is_none());
                self.disconnect(frame);
            }
            other => panic!("{other} was accepted"),
        }
        false
    }

    fn disconnect(&mut self, frame: &Frame) {
        self.disconnecting = Some(frame.header("receipt").is_some());
        self.forget();
    }

    /// Whether an acknowledgement is about a subscription that was denied.
    fn is_denied(&self, frame: &Frame) -> bool {
        let message = frame.header(self.ack_header()).unwrap();
        let number = message.split("@@").next().unwrap();
        let mut denied = self.denied.iter();
        denied.any(|(_, id)| number.parse::<u32>() == Ok(id.0))
    }

    /// A subscription ends; what its client has can be acknowledged still.
    fn end_feed(&mut self, name: &str, ask: &Unsubscribe) {
        if let Some(at) = self.denied.iter().position(|(denied, _)| denied == name) {
            assert_eq!(self.denied.remove(at).1, ask.subscription);
            assert!(ask.kept.is_empty() && ask.forgotten.is_none());
            return;
        }
        let feed = self.feeds.remove(name).unwrap();
        assert_eq!(feed.id, ask.subscription);
        let tags: Vec<_> = feed.unsettled.iter().map(|(_, tag)| *tag).collect();
        assert_eq!(tags, &ask.kept[..]);
        let mut oldest = None;
        if !tags.is_empty() {
            if self.ended.len() == MAX_ENDED {
                oldest = Some(self.ended.remove(0).id);
            }
            self.ended.push(feed);
            self.ended.sort_by_key(|feed| feed.id);
        }
        assert_eq!(ask.forgotten, oldest);
    }

    fn gathered(&self, frame: &Frame) -> Gathered {
        if frame.command == Command::Send {
            return Gathered::Publish(frame.body.to_vec());
        }
        let verdict = match (frame.command, frame.header("requeue")) {
            (Command::Ack, _) => Verdict::Accept,
            (_, Some("false" | "False")) => Verdict::Discard,
            _ => Verdict::Requeue,
        };
        Gathered::Settle(frame.header(self.ack_header()).unwrap().to_owned(), verdict)
    }

    fn performed(&mut self, gathered: Gathered, operation: Operation) {
        match (gathered, operation) {
            (Gathered::Publish(expected), Operation::Publish(Publish { body, .. })) => {
                assert_eq!(expected, body);
            }
            (Gathered::Settle(message, verdict), Operation::Settle(settle)) => {
                // A message id belongs to one subscription, and is settled once.
                let (feed, at) = self
                    .feeds
                    .values_mut()
                    .chain(&mut self.ended)
                    .find_map(|feed| {
                        let at = feed.unsettled.iter().position(|(id, _)| *id == message)?;
                        Some((feed, at))
                    })
                    .expect("an acknowledgement of nothing");
                let (_, tag) = feed.unsettled[at];
                let multiple = feed.mode == AckMode::Client;
                let mut settled = feed.unsettled.drain(if multiple { 0 } else { at }..=at);
                let (_, first) = settled.next().unwrap();
                drop(settled);
                let subscription = feed.id;
                let is_done = |feed: &Feed| feed.id == subscription && feed.unsettled.is_empty();
                let is_last = self.ended.iter().any(is_done);
                self.ended.retain(|feed| !is_done(feed));
                self.has_unheard |= settle.stake == Stake::Nothing;
                assert_eq!(
                    settle,
                    Settle {
                        subscription,
                        tag,
                        first,
                        multiple,
                        verdict,
                        is_last,
                        stake: settle.stake,
                    }
                );
            }
            other => panic!("{other:?}"),
        }
    }

    fn deliver(&mut self, which: &Index) {
        if self.feeds.is_empty() {
            return;
        }
        let key = which
            .get(&self.feeds.keys().cloned().collect::<Vec<_>>())
            .clone();
        let is_live = self.is_live();
        let feed = self.feeds.get_mut(&key).unwrap();
        self.tags += 3;
        let (delivered, text) = self.peer.deliver(feed.id, self.tags);
        if !is_live {
            return assert_eq!((delivered, text), (Delivered::Refused, String::new()));
        }
        self.wrote = self.peer.now;
        let id = header(&text, "message-id").unwrap().to_owned();
        assert!(!self.message_ids.contains(&id), "a message id twice");
        self.message_ids.push(id.clone());
        assert_eq!(delivered == Delivered::Done, feed.mode == AckMode::Auto);
        if feed.mode != AckMode::Auto {
            feed.unsettled.push((id, self.tags));
        }
    }
}

/// What a frame counts in a transaction.
fn size(frame: &Frame) -> usize {
    let headers = frame.headers.iter();
    let headers = headers.map(|(name, value)| 8 + name.len() + value.len());
    256 + headers.sum::<usize>() + frame.body.len()
}
