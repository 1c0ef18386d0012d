//! A session with virtual time, and all that comes out of it.

mod errors;
mod heartbeats;
mod liveness;
mod properties;
mod rules;

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use stomp_grammar::{Command, DecodeError, DecodeErrorKind, Decoder, Frame, Limits, Version};

use crate::{
    Action, CloseCode, Config, Delivered, Delivery, Operation, OperationId, Problem, Session,
    Settle, Stake, SubscriptionId, Verdict,
};

/// Bounds small enough to be met.
fn config() -> Config {
    Config {
        server: Some("Stentor/1".into()),
        login_timeout: Duration::from_secs(10),
        heartbeat_send: Duration::from_secs(5),
        heartbeat_receive: Duration::from_secs(8),
        heartbeat_tolerance: 2,
        heartbeat_patience: Duration::from_secs(10),
        ping_interval: Duration::from_secs(25),
        finish_timeout: Duration::from_secs(10),
        drain_timeout: Duration::from_secs(2),
        disconnect_linger: Duration::from_secs(1),
        max_subscriptions: 4,
        max_transactions: 2,
        max_transaction_frames: 3,
        max_transaction_bytes: 1_200,
        max_pending: 4,
        nack_requeue: true,
        soft_deny: false,
        max_denials: 100,
        require_subscription_id: false,
        implicit_connect: false,
    }
}

/// A frame from its text, for readable tests: no escapes, no `content-length`.
fn frame(text: &str) -> Frame {
    let (head, body) = text.split_once("\n\n").unwrap_or((text, ""));
    let mut lines = head.lines();
    let command = Command::parse(lines.next().unwrap().as_bytes()).unwrap();
    let mut frame = Frame::new(command).with_body(body.as_bytes().to_vec());
    for line in lines {
        let (name, value) = line.split_once(':').unwrap();
        frame.headers.push(name, value);
    }
    frame
}

/// A session, its clock, and what it wrote and asked.
struct Peer {
    session: Session,
    now: Instant,
    /// Frames written and not looked at, NUL cut off.
    written: VecDeque<String>,
    /// Asked and not looked at.
    asked: VecDeque<Action>,
    closed: Option<CloseCode>,
    /// From which operation on nothing is to be begun any more.
    abandoned: Option<OperationId>,
}

impl Peer {
    fn new(config: Config) -> Self {
        let now = Instant::now();
        let session = Session::new(Arc::new(config), "session-x".into(), now);
        let (written, asked) = (VecDeque::new(), VecDeque::new());
        Self {
            session,
            now,
            written,
            asked,
            closed: None,
            abandoned: None,
        }
    }

    /// Logged in, speaking `version`, without heart-beats.
    fn connected(version: &str) -> Self {
        Self::connected_with(config(), version)
    }

    fn connected_with(config: Config, version: &str) -> Self {
        let mut peer = Self::new(config);
        peer.send(&format!("CONNECT\naccept-version:{version}"));
        peer.log_in();
        peer
    }

    fn log_in(&mut self) {
        assert!(matches!(
            self.asked.pop_front(),
            Some(Action::Authenticate(_))
        ));
        self.session.handle_authenticated(self.now, Ok(None));
        self.poll();
        assert!(self.written.pop_front().unwrap().starts_with("CONNECTED\n"));
    }

    fn poll(&mut self) {
        while let Some(action) = self.session.poll_action() {
            assert_eq!(self.closed, None, "{action:?} after Close");
            match action {
                Action::Write(bytes) => {
                    assert_is_readable(&bytes, self.session.version());
                    let text = String::from_utf8(bytes.to_vec()).unwrap();
                    self.written.push_back(match text.strip_suffix('\0') {
                        Some(frame) => frame.to_owned(),
                        None => text,
                    });
                }
                Action::Close(code, _) => self.closed = Some(code),
                Action::Abandon(from) => self.abandoned = Some(from),
                other => self.asked.push_back(other),
            }
        }
    }

    fn send(&mut self, text: &str) {
        self.session.handle_frame(self.now, frame(text));
        self.poll();
    }

    fn wait(&mut self, duration: Duration) {
        self.now += duration;
    }

    fn timeout(&mut self) {
        self.session.handle_timeout(self.now);
        self.poll();
    }

    fn done(&mut self, operation: OperationId) {
        self.session.handle_done(self.now, operation, Ok(()));
        self.poll();
    }

    /// The hook does not let the user do it.
    fn denied(&mut self, operation: OperationId) {
        let detail = "ACCESS_REFUSED - no".into();
        self.failed(operation, Problem::PermissionDenied { detail });
    }

    /// All that is asked for is done.
    fn all_done(&mut self) {
        while let Some(action) = self.asked.pop_front() {
            self.done(action.operation().unwrap());
        }
    }

    fn failed(&mut self, operation: OperationId, problem: Problem) {
        self.session.handle_done(self.now, operation, Err(problem));
        self.poll();
    }

    fn subscribe(&mut self, text: &str) -> SubscriptionId {
        self.send(text);
        let (operation, subscription) = self.subscribing();
        self.done(operation);
        subscription
    }

    fn subscribing(&mut self) -> (OperationId, SubscriptionId) {
        match self.asked.pop_front() {
            Some(Action::Subscribe(operation, ask)) => (operation, ask.subscription),
            other => panic!("{other:?}, {:?}", self.written),
        }
    }

    fn unsubscribing(&mut self) -> (OperationId, SubscriptionId) {
        match self.asked.pop_front() {
            Some(Action::Unsubscribe(operation, ask)) => (operation, ask.subscription),
            other => panic!("{other:?}, {:?}", self.written),
        }
    }

    fn performing(&mut self) -> (OperationId, Vec<Operation>) {
        match self.asked.pop_front() {
            Some(Action::Perform(operation, operations)) => (operation, operations),
            other => panic!("{other:?}, {:?}", self.written),
        }
    }

    /// The only operation of the next `Perform`, which is done at once.
    fn settle(&mut self) -> Settle {
        let (operation, mut operations) = self.performing();
        assert_eq!(operations.len(), 1);
        self.done(operation);
        settled(operations.remove(0))
    }

    /// Delivers; the frame as text.
    fn deliver(&mut self, subscription: SubscriptionId, tag: u64) -> (Delivered, String) {
        let mut out = Vec::new();
        let delivery = Delivery {
            subscription,
            tag,
            redelivered: false,
        };
        let delivered = self.session.handle_delivery(self.now, delivery, &mut out);
        if delivered != Delivered::Refused {
            out.extend_from_slice(b"destination:/topic/t\n\nhi\0");
            assert_is_readable(&out, self.session.version());
        }
        self.poll();
        (delivered, String::from_utf8(out).unwrap())
    }

    /// Delivers; the `message-id`.
    fn message(&mut self, subscription: SubscriptionId, tag: u64) -> String {
        let (_, text) = self.deliver(subscription, tag);
        header(&text, "message-id").unwrap().to_owned()
    }

    fn decode_error(&mut self, kind: DecodeErrorKind, receipt: Option<&str>) {
        let error = DecodeError {
            kind,
            receipt: receipt.map(Box::from),
        };
        self.session.handle_decode_error(self.now, error);
        self.poll();
    }

    /// Everything written, at once.
    fn written(&mut self) -> Vec<String> {
        self.written.drain(..).collect()
    }

    #[track_caller]
    fn assert_silent(&mut self) {
        assert!(self.written.is_empty() && self.asked.is_empty() && self.closed.is_none());
    }

    #[track_caller]
    fn assert_receipts(&mut self, ids: &[&str]) {
        let expected: Vec<_> = ids
            .iter()
            .map(|id| format!("RECEIPT\nreceipt-id:{id}\n\n"))
            .collect();
        assert_eq!(self.written(), expected);
    }

    /// That all that was written is a RECEIPT which says that the message is not settled.
    #[track_caller]
    fn assert_unsettled(&mut self, id: &str) {
        let expected = format!("RECEIPT\nreceipt-id:{id}\nsettled:false\n\n");
        assert_eq!(self.written(), [expected]);
    }

    /// That an ERROR with this `message` is all that was written, and the session closed.
    #[track_caller]
    fn assert_error(&mut self, message: &str) -> String {
        let written = self.written();
        assert_eq!(written.len(), 1, "{written:?}");
        let error = written.into_iter().next().unwrap();
        assert!(
            error.starts_with(&format!("ERROR\nmessage:{message}\n")),
            "{error:?}"
        );
        assert!(self.closed.is_some());
        error
    }
}

/// That a client finds exactly one frame in what was written, or a heart-beat.
#[track_caller]
fn assert_is_readable(bytes: &[u8], version: Version) {
    let limits = Limits {
        max_frame_size: 1 << 20,
        max_headers: 10,
        max_header_size: 1 << 16,
    };
    let mut decoder = Decoder::new(limits);
    decoder.set_version(version);
    let mut rest = Bytes::copy_from_slice(bytes);
    let frame = decoder.decode(&mut rest).unwrap();
    assert_eq!(frame.is_none(), bytes == b"\n");
    assert!(rest.is_empty());
}

fn settled(operation: Operation) -> Settle {
    match operation {
        Operation::Settle(settle) => settle,
        other => panic!("{other:?}"),
    }
}

fn accept(subscription: SubscriptionId, tag: u64, multiple: bool) -> Settle {
    Settle {
        subscription,
        tag,
        first: tag,
        multiple,
        verdict: Verdict::Accept,
        is_last: false,
        stake: Stake::Nothing,
    }
}

/// The same, where it settles all from this tag on.
fn from(first: u64, settle: Settle) -> Settle {
    Settle { first, ..settle }
}

/// The same, in a transaction.
fn in_commit(settle: Settle) -> Settle {
    Settle {
        stake: Stake::Commit,
        ..settle
    }
}

/// A header of an encoded frame.
fn header<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (head, _) = text.split_once("\n\n")?;
    head.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
}
