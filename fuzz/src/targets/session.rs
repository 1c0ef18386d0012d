//! A session of STOMP: any frames, whatever becomes of its operations and whenever. A receipt is
//! asked for, given once, and not before all that it stands for; a session that ended is silent;
//! bounds hold.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use stomp_grammar::{Command, Decoder, Frame, Limits, Version};
use stomp_session::{
    Action, Config, Delivered, Delivery, OperationId, Problem, Session, SubscriptionId,
};

use crate::{Choices, Target};

pub(super) const TARGET: Target = Target {
    name: "session",
    words: &[
        b"\x01CONNECT\naccept-version:1.2\n\n\0",
        b"\x01SUBSCRIBE\nid:1\ndestination:/queue/a\nack:client\nreceipt:a\n\n\0",
        b"\x01SEND\ndestination:/queue/a\nreceipt:b\n\nhello\0",
        b"\x01BEGIN\ntransaction:t\n\n\0",
        b"\x01COMMIT\ntransaction:t\nreceipt:c\n\n\0",
        b"\x01ABORT\ntransaction:t\n\n\0",
        b"\x01ACK\nid:1@@s@@1\n\n\0",
        b"\x01NACK\nid:1@@s@@1\n\n\0",
        b"\x01UNSUBSCRIBE\nid:1\nreceipt:d\n\n\0",
        b"\x01DISCONNECT\nreceipt:e\n\n\0",
        b"transaction:t\n",
        b"receipt:f\n",
        b"redeliver:1,2\n",
        b"heart-beat:1000,1000\n",
        b"\x02",
        b"\x03",
        b"\x04",
        b"\x05",
    ],
    short: 60_000,
    run,
};

const MOST: usize = 4;

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
        max_subscriptions: MOST,
        max_transactions: 2,
        max_transaction_frames: 3,
        max_transaction_bytes: 1_200,
        max_pending: MOST,
        nack_requeue: true,
        soft_deny: false,
        max_denials: 2,
        require_subscription_id: false,
        implicit_connect: false,
    }
}

/// What is around a session, and what it said.
struct World {
    session: Session,
    now: Instant,
    /// Operations that are not done, in their order.
    under_way: VecDeque<OperationId>,
    opened: Vec<SubscriptionId>,
    /// Receipts that frames asked for, with how often; and those that were given.
    asked: BTreeMap<String, usize>,
    given: BTreeMap<String, usize>,
    known: BTreeSet<OperationId>,
    logs_in: bool,
    errors: usize,
    is_closed: bool,
    /// It was given a DISCONNECT.
    leaves: bool,
    /// Of the last message.
    tag: u64,
}

/// The first bytes of the input are flags; then each byte is an event, some with a frame behind it.
fn run(input: &[u8]) {
    let mut choices = Choices(input);
    let flags = choices.byte();
    let config = Config {
        soft_deny: flags & 1 != 0,
        implicit_connect: flags & 2 != 0,
        ..config()
    };
    let now = Instant::now();
    let mut world = World {
        session: Session::new(Arc::new(config), "s".into(), now),
        now,
        under_way: VecDeque::new(),
        opened: Vec::new(),
        asked: BTreeMap::new(),
        given: BTreeMap::new(),
        known: BTreeSet::new(),
        logs_in: false,
        errors: 0,
        is_closed: false,
        leaves: false,
        tag: 0,
    };
    if flags & 4 == 0 {
        let offer = ["1.0", "1.1", "1.2"][choices.below(3)];
        let connect = Frame::new(Command::Connect).with_header("accept-version", offer);
        world.frame(connect);
    }
    while !choices.is_empty() {
        world.step(&mut choices);
    }
    let most = if flags & 1 != 0 { 4 } else { 1 };
    assert!(world.errors <= most, "{} ERRORs", world.errors);
}

impl World {
    fn step(&mut self, choices: &mut Choices<'_>) {
        match choices.byte() {
            1 => {
                let end = choices.0.iter().position(|byte| *byte == 0);
                let bytes = choices.take(end.map_or(usize::MAX, |end| end + 1));
                self.bytes(bytes);
            }
            2 => self.done(0, Ok(())),
            3 => {
                let at = choices.below(MOST);
                self.done(at, Ok(()));
            }
            4 => {
                let at = choices.below(MOST);
                let problem = match choices.below(2) {
                    0 => Problem::PermissionDenied {
                        detail: "no".into(),
                    },
                    _ => Problem::BrokerUnavailable("away".into()),
                };
                self.done(at, Err(problem));
            }
            5 => {
                let Some(id) = self.opened.get(choices.below(MOST * 2)).copied() else {
                    return;
                };
                self.deliver(id);
            }
            6 => {
                self.now += Duration::from_millis(u64::from(choices.byte()) * 100);
                self.session.handle_timeout(self.now);
                self.poll();
            }
            7 => {
                self.session.handle_pong(self.now);
                self.poll();
            }
            8 => {
                self.session.handle_problem(self.now, Problem::ShuttingDown);
                self.poll();
            }
            9 if self.logs_in => {
                self.logs_in = false;
                self.session.handle_authenticated(self.now, Ok(None));
                self.poll();
            }
            _ => self.done(0, Ok(())),
        }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        let mut decoder = Decoder::new(Limits {
            max_frame_size: 4096,
            max_headers: 20,
            max_header_size: 1000,
        });
        decoder.set_version(self.session.version());
        let mut bytes = Bytes::copy_from_slice(bytes);
        match decoder.decode(&mut bytes) {
            Ok(Some(frame)) => self.frame(frame),
            Ok(None) => {}
            Err(error) => {
                self.session.handle_decode_error(self.now, error);
                self.poll();
            }
        }
    }

    fn frame(&mut self, frame: Frame) {
        if !self.session.wants_frame() {
            return;
        }
        if let Some(receipt) = frame.header("receipt") {
            *self.asked.entry(receipt.to_owned()).or_default() += 1;
        }
        self.leaves |= frame.command == Command::Disconnect;
        self.session.handle_frame(self.now, frame);
        self.poll();
        if std::mem::take(&mut self.logs_in) {
            self.session.handle_authenticated(self.now, Ok(None));
            self.poll();
        }
    }

    fn done(&mut self, at: usize, outcome: Result<(), Problem>) {
        if let Some(operation) = self.under_way.remove(at) {
            self.session.handle_done(self.now, operation, outcome);
            self.poll();
        }
    }

    fn deliver(&mut self, subscription: SubscriptionId) {
        self.tag += 1;
        let delivery = Delivery {
            subscription,
            tag: self.tag,
            redelivered: false,
        };
        let mut head = Vec::new();
        let delivered = self.session.handle_delivery(self.now, delivery, &mut head);
        if delivered == Delivered::Refused {
            assert!(head.is_empty());
            return;
        }
        assert!(!self.is_closed);
        head.extend_from_slice(b"destination:/queue/a\n\nhello\0");
        let message = self.read(&head);
        assert_eq!(message.command, Command::Message);
        self.poll();
    }

    fn read(&self, bytes: &[u8]) -> Frame {
        let mut decoder = Decoder::new(Limits {
            max_frame_size: 1 << 20,
            max_headers: 1000,
            max_header_size: 1 << 20,
        });
        decoder.set_version(self.session.version());
        let mut bytes = Bytes::copy_from_slice(bytes);
        let frame = decoder.decode(&mut bytes).expect("a client can read it");
        assert!(bytes.is_empty(), "one frame at a time");
        frame.expect("it is whole")
    }

    fn poll(&mut self) {
        while let Some(action) = self.session.poll_action() {
            assert!(!self.is_closed, "{action:?} after the end");
            if let Some(operation) = action.operation() {
                assert!(self.known.insert(operation), "{operation:?} comes again");
                self.under_way.push_back(operation);
            }
            match action {
                Action::Write(bytes) if *bytes == b"\n"[..] => {}
                Action::Write(bytes) => self.written(&bytes),
                Action::Authenticate(_) => self.logs_in = true,
                Action::Subscribe(_, subscribe) => self.opened.push(subscribe.subscription),
                Action::Abandon(from) => self.under_way.retain(|operation| *operation < from),
                Action::Close(..) => self.is_closed = true,
                _ => {}
            }
        }
        assert!(self.session.subscriptions() <= MOST);
        // Frames behind DISCONNECT are read and ignored, so they are wanted with a full list, too.
        let most = match self.session.wants_frame() && !self.leaves {
            true => MOST - 1,
            false => MOST,
        };
        assert!(self.session.pending() <= most, "{}", self.session.pending());
        assert_eq!(self.is_closed, self.session.is_closed());
        if self.is_closed {
            assert_eq!(self.session.poll_timeout(), None, "nothing is to come");
        }
    }

    fn written(&mut self, bytes: &[u8]) {
        let frame = self.read(bytes);
        match frame.command {
            Command::Error => self.errors += 1,
            Command::Receipt => {
                let id = frame.header("receipt-id").expect("it says of what");
                let given = self.given.entry(id.to_owned()).or_default();
                *given += 1;
                // In STOMP 1.0 a header comes back as it can be written, so not always as it was.
                if self.session.version() != Version::V1_0 {
                    let asked = self.asked.get(id).copied().unwrap_or_default();
                    assert!(*given <= asked, "{id:?} was given {given} times");
                }
            }
            Command::Connected => {}
            other => panic!("{other:?} is not a server's"),
        }
    }
}
