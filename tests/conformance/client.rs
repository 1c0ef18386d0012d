//! A STOMP client of a case.

use std::collections::VecDeque;

use stomp_grammar::{Command, Frame};
use testkit::StompClient;

use crate::scene::Record;

/// Headers that a MESSAGE has by the way; only cases about them show them. The plug-in lets SEND's
/// headers about its frame and its queue go through (row P5). Quorum queues count
/// how often a message was on its way, also to a client that just left.
pub(crate) const BY_THE_WAY: [&str; 15] = [
    "message-id",
    "x-stomp-user",
    "receipt",
    "transaction",
    "mandatory",
    "content-length",
    "x-acquired-count",
    "x-delivery-count",
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-max-length",
    "x-max-priority",
    "x-message-ttl",
    "x-overflow",
    "x-queue-type",
];

/// What the bodies begin with that only show that nothing else is under way.
const MARK: &[u8] = b"last of ";

/// So much of a body is shown.
const SHOWN: usize = 300;

/// A client that records all that it says and hears, and goes on after the end of its connection:
/// a case is the same for a server that closes and for one that does not.
pub(crate) struct Client {
    name: String,
    stomp: StompClient,
    record: Record,
    /// MESSAGE frames that came while the client waited for something else.
    inbox: VecDeque<Frame>,
    receipts: usize,
    messages: usize,
    is_logged_in: bool,
    is_closed: bool,
    /// It has heard an ERROR.
    has_failed: bool,
    /// It speaks to Stentor, whose ERROR frames name the next step.
    is_stentor: bool,
    shows: Vec<&'static str>,
    hides: Vec<&'static str>,
}

impl Client {
    pub(crate) fn new(name: String, stomp: StompClient, record: Record, is_stentor: bool) -> Self {
        Self {
            name,
            stomp,
            record,
            inbox: VecDeque::new(),
            receipts: 0,
            messages: 0,
            is_logged_in: false,
            is_closed: false,
            has_failed: false,
            is_stentor,
            shows: Vec::new(),
            hides: Vec::new(),
        }
    }

    /// Does not record these headers of MESSAGE.
    pub(crate) fn hide(&mut self, headers: &[&'static str]) {
        self.hides.extend(headers);
    }

    /// Records these headers of MESSAGE as well.
    pub(crate) fn show(&mut self, headers: &[&'static str]) {
        self.shows.extend(headers);
    }

    /// Logs in; the passcode is the user's name. It is no part of the record.
    pub(crate) async fn log_in(&mut self, user: &str, version: &str) {
        let connect = format!(
            "CONNECT\naccept-version:{version}\nhost:{{vhost}}\nlogin:{user}\npasscode:{user}"
        );
        self.stomp.raw(self.wire(&connect)).await;
        match self.stomp.next_frame().await {
            Ok(frame) if frame.command == Command::Connected => self.connected(&frame),
            other => panic!("{user} cannot log in: {other:?}"),
        }
    }

    fn connected(&mut self, frame: &Frame) {
        self.is_logged_in = true;
        self.record
            .call(frame.header("session").unwrap_or_default(), "{session}");
    }

    /// Says a frame: `COMMAND`, lines of headers, an empty line and a body; without the NUL.
    pub(crate) async fn say(&mut self, frame: impl AsRef<str>) {
        let text = self.wire(frame.as_ref());
        let (head, body) = text
            .trim_end_matches('\0')
            .split_once("\n\n")
            .unwrap_or((&text, ""));
        let mut line = head.split('\n').map(escaped).collect::<Vec<_>>().join(" ");
        line.push_str(&shown(body.as_bytes()));
        self.record.push(&self.name, '>', &line);
        self.stomp.raw(text).await;
    }

    /// Says bytes as they are; over WebSocket in a message of their own.
    pub(crate) async fn bytes(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        self.record
            .push(&self.name, '>', shown(bytes).trim_start_matches(" | "));
        self.stomp.raw(bytes).await;
    }

    /// Says a text byte by byte.
    pub(crate) async fn drip(&mut self, text: &str) {
        self.record.push(&self.name, '>', &escaped(text));
        for byte in self.record.real(text).bytes() {
            self.stomp.raw([byte]).await;
        }
    }

    /// As [`Self::bytes`], where `~` and `{vhost}` are replaced as in a frame.
    pub(crate) async fn text(&mut self, text: &str) {
        let text = self.record.real(text);
        self.bytes(text).await;
    }

    /// Says a frame that asks for a receipt, and listens until that comes, or an ERROR, or the end.
    /// MESSAGE frames meanwhile are kept for [`Self::hear`].
    pub(crate) async fn ask(&mut self, frame: impl AsRef<str>) {
        self.receipts += 1;
        let receipt = format!("r{}", self.receipts);
        let frame = frame.as_ref();
        let (command, rest) = frame.split_once('\n').unwrap_or((frame, ""));
        self.say(format!("{command}\nreceipt:{receipt}\n{rest}"))
            .await;
        self.until_receipt(&receipt).await;
    }

    async fn until_receipt(&mut self, receipt: &str) {
        while let Some(frame) = self.next().await {
            let ends = match frame.command {
                Command::Message => {
                    self.inbox.push_back(frame);
                    continue;
                }
                Command::Receipt => frame.header("receipt-id") == Some(receipt),
                command => command == Command::Error,
            };
            self.heard(&frame);
            if ends {
                break;
            }
        }
    }

    /// Hears so many frames, or the end.
    pub(crate) async fn hear(&mut self, count: usize) {
        for _ in 0..count {
            let Some(frame) = self.kept_or_next().await else {
                break;
            };
            self.heard(&frame);
        }
    }

    /// Hears so many frames, in whatever order: they are recorded sorted.
    pub(crate) async fn hear_in_any_order(&mut self, count: usize) {
        let mut lines = Vec::new();
        for _ in 0..count {
            let Some(frame) = self.kept_or_next().await else {
                break;
            };
            lines.push(self.shown(&frame));
        }
        lines.sort();
        for line in lines {
            self.record.push(&self.name, '<', &line);
        }
    }

    /// Hears a MESSAGE and the RECEIPT of what caused it, in this order. The plug-in nearly always
    /// keeps it, too; there, any order will do.
    pub(crate) async fn hear_message_and_receipt(&mut self) {
        match self.is_stentor {
            true => self.hear(2).await,
            false => self.hear_in_any_order(2).await,
        }
    }

    /// Hears a MESSAGE, and answers what an ACK of it must name.
    pub(crate) async fn message(&mut self) -> String {
        let Some(frame) = self.kept_or_next().await else {
            return "(none)".to_owned();
        };
        self.heard(&frame);
        let id = frame.header("ack").or_else(|| frame.header("message-id"));
        id.unwrap_or("(none)").to_owned()
    }

    /// Hears a MESSAGE, and answers its body; `last`, if the connection has ended.
    pub(crate) async fn body_of_message(&mut self) -> String {
        let Some(frame) = self.kept_or_next().await else {
            return "last".to_owned();
        };
        self.heard(&frame);
        String::from_utf8_lossy(&frame.body).into_owned()
    }

    /// Hears a MESSAGE, and answers one of its headers.
    pub(crate) async fn header_of_message(&mut self, header: &str) -> String {
        let Some(frame) = self.kept_or_next().await else {
            return "(none)".to_owned();
        };
        self.heard(&frame);
        frame.header(header).unwrap_or("(none)").to_owned()
    }

    /// Takes a MESSAGE, and answers these of its headers only, for one that has more than can be
    /// foreseen.
    pub(crate) async fn headers_of_message(&mut self, names: &[&str]) -> String {
        let Some(frame) = self.kept_or_next().await else {
            return "(none)".to_owned();
        };
        let value = |name: &&str| format!("{name}:{}", frame.header(name).unwrap_or("(none)"));
        names.iter().map(value).collect::<Vec<_>>().join(" ")
    }

    /// `Some(true)` if the last message over WebSocket was a text.
    pub(crate) fn was_text(&self) -> Option<bool> {
        self.stomp.was_text()
    }

    /// The subprotocol of the WebSocket.
    pub(crate) fn protocol(&self) -> Option<&str> {
        self.stomp.protocol()
    }

    /// Says DISCONNECT, and listens until the connection ends.
    pub(crate) async fn leave(&mut self) {
        self.say("DISCONNECT").await;
        self.closes().await;
    }

    /// Listens until the connection ends.
    pub(crate) async fn closes(&mut self) {
        while let Some(frame) = self.kept_or_next().await {
            self.heard(&frame);
        }
    }

    /// Hears a heart-beat, or what comes until the end.
    pub(crate) async fn hear_beat(&mut self) {
        match self.stomp.expect_beat().await {
            true => self.record.push(&self.name, '<', "(heart-beat)"),
            false => self.closes().await,
        }
    }

    /// Records if the connection is still open, and all that came meanwhile: asks for something
    /// harmless that a server answers.
    pub(crate) async fn end(&mut self) {
        if self.is_closed {
            return;
        }
        let (probe, answer) = if self.is_logged_in {
            (
                "BEGIN\ntransaction:the end\nreceipt:the end",
                Command::Receipt,
            )
        } else {
            let connect = "CONNECT\naccept-version:1.2\nhost:{vhost}\nlogin:guest\npasscode:guest";
            (connect, Command::Connected)
        };
        let probe = self.wire(probe);
        self.stomp.raw(probe).await;
        while let Some(frame) = self.kept_or_next().await {
            let is_answer = match answer {
                Command::Receipt => frame.header("receipt-id") == Some("the end"),
                _ => true,
            };
            if frame.command == answer && is_answer {
                self.record.push(&self.name, '=', "open");
                return;
            }
            self.heard(&frame);
        }
    }

    /// False after an ERROR, or the end of the connection.
    pub(crate) fn is_well(&self) -> bool {
        !self.has_failed && !self.is_closed
    }

    /// Hears the next MESSAGE of this subscription, and keeps those of others. What an ACK of it must
    /// name.
    pub(crate) async fn message_of(&mut self, subscription: &str) -> Option<String> {
        let is_its = |frame: &Frame| frame.header("subscription") == Some(subscription);
        let kept = self.inbox.iter().position(is_its);
        let mut found = kept.and_then(|at| self.inbox.remove(at));
        while found.is_none() {
            let frame = self.next().await?;
            match frame.command {
                Command::Message if is_its(&frame) => found = Some(frame),
                Command::Message => self.inbox.push_back(frame),
                _ => {
                    self.heard(&frame);
                    return None;
                }
            }
        }
        let frame = found?;
        self.heard(&frame);
        let id = frame.header("ack").or_else(|| frame.header("message-id"));
        id.map(str::to_owned)
    }

    /// Waits for the MESSAGE with this body of a subscription, and keeps it, as all before it.
    pub(crate) async fn keep_up_to(&mut self, last: &str, subscription: &str) {
        let is_it = |frame: &Frame| {
            frame.body == last && frame.header("subscription") == Some(subscription)
        };
        while self.is_well() && !self.inbox.iter().any(is_it) {
            let Some(frame) = self.next().await else {
                return;
            };
            match frame.command {
                Command::Message => self.inbox.push_back(frame),
                _ => self.heard(&frame),
            }
        }
    }

    /// Hears all MESSAGE frames up to the one with this body of each of these subscriptions; records
    /// them by subscription, and leaves out those whose body begins with `last`, and those that came
    /// before an UNSUBSCRIBE: they need not have come.
    pub(crate) async fn hear_up_to(&mut self, last: &str, subscriptions: &[String]) {
        let mut open = subscriptions.to_vec();
        let mut frames = Vec::new();
        let mut others = Vec::new();
        while !open.is_empty() {
            let Some(frame) = self.kept_or_next().await else {
                break;
            };
            if frame.command != Command::Message {
                let is_error = frame.command == Command::Error;
                others.push(frame);
                if is_error {
                    break;
                }
                continue;
            }
            let subscription = frame.header("subscription").unwrap_or_default().to_owned();
            if frame.body == last {
                open.retain(|id| *id != subscription);
            } else if subscriptions.contains(&subscription) && !frame.body.starts_with(b"last") {
                frames.push((subscription, frame));
            }
        }
        // Those of one subscription keep their order.
        frames.sort_by(|(one, _), (other, _)| one.cmp(other));
        for frame in frames.into_iter().map(|(_, frame)| frame).chain(others) {
            self.heard(&frame);
        }
    }

    async fn kept_or_next(&mut self) -> Option<Frame> {
        match self.inbox.pop_front() {
            Some(frame) => Some(frame),
            None => self.next().await,
        }
    }

    /// The next frame; the end is recorded, once, after all frames that came before it.
    async fn next(&mut self) -> Option<Frame> {
        if self.is_closed {
            return None;
        }
        match self.stomp.next_frame().await {
            Ok(frame) => Some(frame),
            Err(closed) => {
                self.is_closed = true;
                while let Some(frame) = self.inbox.pop_front() {
                    // A mark goes to several subscriptions, in no order between them.
                    if !frame.body.starts_with(MARK) {
                        self.heard(&frame);
                    }
                }
                let code = closed.code.map(|code| format!(" {code}"));
                let line = format!("closed{}", code.unwrap_or_default());
                self.record.push(&self.name, '=', &line);
                None
            }
        }
    }

    fn heard(&mut self, frame: &Frame) {
        self.has_failed |= frame.command == Command::Error;
        let line = self.shown(frame);
        self.record.push(&self.name, '<', &line);
    }

    fn shown(&mut self, frame: &Frame) -> String {
        let mut headers: Vec<(&str, &str)> = frame.headers.iter().collect();
        match frame.command {
            Command::Connected => {
                self.connected(frame);
                headers.retain(|(name, _)| !["session", "server"].contains(name));
            }
            Command::Error => {
                headers.retain(|header| {
                    ![("content-type", "text/plain"), ("version", "1.0,1.1,1.2")].contains(header)
                });
                // Row E14: session/src/problem/problems.txt has the words of each condition.
                if self.is_stentor {
                    let before = headers.len();
                    headers.retain(|(name, _)| !["error-code", "reconnect"].contains(name));
                    assert_eq!(
                        headers.len() + 2,
                        before,
                        "{frame:?} does not say what next"
                    );
                }
            }
            Command::Message => {
                self.messages += 1;
                let number = format!("{{m{}}}", self.messages);
                self.record
                    .call(frame.header("message-id").unwrap_or_default(), &number);
                let ack = frame.header("ack").unwrap_or_default();
                // Only what a server made up is long enough to be found again.
                if ack.len() > 10 {
                    self.record.call(ack, &format!("{{ack {number}}}"));
                }
                headers.retain(|header @ (name, _)| {
                    // A last message may have been on its way to a client that left before.
                    let is_usual =
                        *name == "redelivered" && (header.1 == "false" || frame.body == "last");
                    !is_usual
                        && !self.hides.contains(name)
                        && (self.shows.contains(name) || !BY_THE_WAY.contains(name))
                });
            }
            _ => {}
        }
        let length = frame.body.len().to_string();
        headers.retain(|header| *header != ("content-length", &length));
        let body = match str::from_utf8(&frame.body) {
            Ok(text) => self.record.plain(text).into_bytes(),
            Err(_) => frame.body.to_vec(),
        };
        headers.sort_unstable();
        let mut line = frame.command.to_string();
        for (name, value) in headers {
            line.push_str(&format!(" {}:{}", escaped(name), escaped(value)));
        }
        line.push_str(&shown(&body));
        line
    }

    /// A frame as it goes over the wire.
    fn wire(&self, frame: &str) -> String {
        let mut text = self.record.real(frame);
        if !text.contains("\n\n") {
            text.push_str(if text.ends_with('\n') { "\n" } else { "\n\n" });
        }
        text.push('\0');
        text
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('\n', "\\n")
        .replace('\r', "\\r")
}

/// A body, on one line.
fn shown(body: &[u8]) -> String {
    if body.is_empty() {
        return String::new();
    }
    let bytes = &body[..body.len().min(SHOWN)];
    let escaped = match str::from_utf8(bytes) {
        Ok(text) => text.escape_debug().to_string(),
        Err(_) => bytes.escape_ascii().to_string(),
    };
    let start = escaped.replace("\\\"", "\"").replace("\\'", "'");
    match body.len() {
        length if length > SHOWN => format!(" | {start}… ({length} bytes)"),
        _ => format!(" | {start}"),
    }
}
