//! Tails over all nodes.
//!
//! The node that an operator asks makes a queue of its own, and tells all others by the exchange of
//! commands which frames are meant, again every two seconds. The others send what they see to that
//! queue, not to the exchange: frames must neither go to every node nor push commands out of a full
//! mailbox. So three things end a tail: its end is told; it is not told again for six seconds; or the
//! queue, which is its node's alone, is gone.

use std::{
    collections::HashMap,
    future::pending,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{
    select,
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

use super::{
    link::ControlLink,
    wire::{Note, TailAsked},
};
use crate::{
    background,
    broker::{
        Argument, BrokerError, Consume, Delivery, DeliverySink, Message, Properties, Publish,
        QueueSpec, TAIL_QUEUES, Verdict,
    },
    tap::{
        Batch, Filter, LeftOut, NodeState, Refused, TailLine, Tap, TapHandle, Taps, Why, to_line,
    },
    telemetry,
};

/// How long others show frames without being asked again, and how often they are asked.
const LEASE: Duration = Duration::from_secs(6);
const RENEWAL: Duration = Duration::from_secs(2);

/// A renewal that comes later than this begins nothing.
const LIFE: Duration = Duration::from_secs(30);

/// How often a node says that it is there when it has no frames.
const ALIVE: Duration = Duration::from_secs(5);

/// A node that was not heard of for so long is silent.
const SILENCE: Duration = Duration::from_secs(12);

/// The pause before others are asked for again.
const PAUSE: Duration = Duration::from_secs(2);

/// How long the broker may take for a queue, or to confirm frames.
const PATIENCE: Duration = Duration::from_secs(5);

/// Frames that go out together, in bytes, about.
const BATCH: usize = 64 * 1024;

/// Batches that wait for the reader of a tail, and as many that are under way from other nodes.
const MAX_BATCHES: u16 = 8;

/// Batches that wait at the broker, in bytes; beyond, nodes count their frames.
const MAX_QUEUED: i64 = 1 << 20;

/// Nodes whose silence is noticed.
const MAX_NODES: usize = 1_000;

/// Longer messages are no batches. In bytes.
const MAX_MESSAGE: usize = 1 << 20;

/// Frames of all nodes, as lines of JSON. Dropped, the tail ends.
#[derive(Debug)]
pub struct TailLines {
    /// Some lines at a time, each with its line break.
    pub lines: mpsc::Receiver<Bytes>,
}

/// A tail that this node shows.
pub(super) struct Follow {
    id: Box<str>,
    node: Box<str>,
    filter: Filter,
    bodies: u32,
    sender: mpsc::Sender<Bytes>,
}

impl Follow {
    /// Begins it, in the background.
    pub(super) fn begin(
        link: Option<ControlLink>,
        node: &str,
        taps: &Arc<Taps>,
        filter: Filter,
        bodies: u32,
    ) -> Result<TailLines, Refused> {
        let id: Box<str> = format!("{:016x}", rand::random::<u64>()).into();
        let here = taps.open(&id, filter.clone(), bodies)?;
        let (sender, lines) = mpsc::channel(MAX_BATCHES.into());
        let follow = Self {
            id,
            node: node.into(),
            filter,
            bodies,
            sender,
        };
        background::spawn(follow.run(link, here));
        Ok(TailLines { lines })
    }

    async fn run(self, link: Option<ControlLink>, here: TapHandle) {
        self.say(&[begins(&self.node)]).await;
        let others = async {
            match &link {
                Some(link) => self.others(link).await,
                None => pending().await,
            }
        };
        select! {
            () = self.sender.closed() => {}
            () = self.pump(here.tap()) => {
                // Its reader is gone and hears nothing, or a reload has ended all tails.
                self.say(&[refusal(&self.node, &Refused::Off)]).await;
            }
            () = self.keep_alive() => {}
            () = others => {}
        }
        drop(here);
        if let Some(link) = &link {
            let (id, node) = (self.id.clone(), self.node.clone());
            // If it is not heard, the lease ends it.
            let _ = link.send(&Note::TailEnds { id, node }).await;
        }
    }

    /// Hands on the frames of this node.
    async fn pump(&self, tap: &Tap) {
        while let Some(batch) = tap.next(BATCH).await {
            if self.send(text(&batch, &self.node)).await.is_err() {
                return;
            }
        }
    }

    /// Lets whoever reads know that the tail goes on; one who has much to read knows.
    async fn keep_alive(&self) {
        loop {
            sleep(ALIVE).await;
            let line = to_line(&TailLine::Alive) + "\n";
            if let Err(mpsc::error::TrySendError::Closed(_)) = self.sender.try_send(line.into()) {
                return;
            }
        }
    }

    /// Hands on the frames of other nodes, for ever.
    async fn others(&self, link: &ControlLink) {
        let mut said = None;
        loop {
            let cause = self.others_once(link).await;
            if said.as_ref() != Some(&cause) {
                let line = TailLine::Apart {
                    cause: cause.clone(),
                };
                self.say(&[line]).await;
                said = Some(cause);
            }
            sleep(PAUSE).await;
        }
    }

    /// Until it cannot go on; why.
    async fn others_once(&self, link: &ControlLink) -> String {
        let queue: Box<str> = format!("{TAIL_QUEUES}{:016x}", rand::random::<u64>()).into();
        let (sender, mut inbox) = mpsc::unbounded_channel();
        let consuming = link
            .host()
            .consume(consume(&queue), Arc::new(Inbox(sender)));
        let consumer = match timeout(PATIENCE, consuming).await {
            Ok(Ok(consumer)) => consumer,
            Ok(Err(error)) => return error.to_string(),
            Err(_) => return "the broker did not make a queue in time".to_owned(),
        };
        let heard = Mutex::new(Heard::default());
        let reading = async {
            // Those that are read and not settled are no more than the prefetch.
            while let Some(arrived) = inbox.recv().await {
                let delivery = match arrived {
                    Arrived::Delivery(delivery) => delivery,
                    Arrived::Lost(reason) => return reason,
                };
                let lines = heard.lock().take(&delivery.message, Instant::now());
                if !lines.is_empty() {
                    self.say(&lines).await;
                }
                // What it says is in the log of the link.
                let _ = consumer.settle(delivery.tag, true, Verdict::Accept).await;
            }
            "the broker's link has ended".to_owned()
        };
        let renewing = async {
            let mut failed = None;
            loop {
                let note = Note::Tail(TailAsked {
                    id: self.id.clone(),
                    node: self.node.clone(),
                    queue: queue.clone(),
                    filter: self.filter.clone(),
                    bodies: self.bodies,
                    expires: SystemTime::now().checked_add(LIFE),
                });
                let error = link.send(&note).await.err();
                if let Some(cause) = error.clone().filter(|_| error != failed) {
                    let cause = cause.into();
                    self.say(&[TailLine::Apart { cause }]).await;
                }
                failed = error;
                let silent = heard.lock().silent(Instant::now());
                self.say(&silent).await;
                if self.sender.is_closed() {
                    return;
                }
                sleep(RENEWAL).await;
            }
        };
        select! {
            cause = reading => cause,
            () = renewing => String::new(),
        }
    }

    async fn say(&self, lines: &[TailLine]) {
        let text: String = lines.iter().map(|line| to_line(line) + "\n").collect();
        // Nobody reads any more: `run` finds that out by itself.
        let _ = self.send(text).await;
    }

    async fn send(&self, text: String) -> Result<(), mpsc::error::SendError<Bytes>> {
        match text.is_empty() {
            true => Ok(()),
            false => self.sender.send(text.into()).await,
        }
    }
}

fn begins(node: &str) -> TailLine {
    TailLine::Node {
        node: node.to_owned(),
        state: NodeState::Begins,
        cause: None,
    }
}

fn refusal(node: &str, refused: &Refused) -> TailLine {
    TailLine::Node {
        node: node.to_owned(),
        state: NodeState::Refuses,
        cause: Some(refused.to_string()),
    }
}

/// A queue that is gone with its node, and takes no more than its bound.
fn consume(queue: &str) -> Consume {
    let argument = |name: &str, argument| (Box::<str>::from(name), argument);
    Consume {
        queue: QueueSpec {
            name: queue.into(),
            durable: false,
            exclusive: true,
            auto_delete: true,
            arguments: vec![
                argument("x-max-length-bytes", Argument::Number(MAX_QUEUED)),
                // So that whoever sends can count what there is no room for.
                argument("x-overflow", Argument::Text("reject-publish".into())),
            ],
        },
        declare: true,
        binding: None,
        binding_arguments: Vec::new(),
        prefetch: MAX_BATCHES,
        exclusive: false,
        owner: rand::random(),
        arguments: Vec::new(),
    }
}

/// Lines of a batch, in one text.
fn text(batch: &Batch, node: &str) -> String {
    let mut text = String::new();
    for line in &batch.lines {
        text.push_str(line);
        text.push('\n');
    }
    let LeftOut { pace, unread } = batch.left_out;
    for (frames, why) in [(pace, Why::Pace), (unread, Why::Unread)] {
        if frames > 0 {
            let node = node.to_owned();
            text.push_str(&to_line(&TailLine::LeftOut { node, frames, why }));
            text.push('\n');
        }
    }
    text
}

/// Takes what other nodes send.
struct Inbox(mpsc::UnboundedSender<Arrived>);

enum Arrived {
    Delivery(Delivery),
    Lost(String),
}

impl DeliverySink for Inbox {
    fn deliver(&self, delivery: Delivery) {
        // Nobody reads any more, and the consumer ends.
        let _ = self.0.send(Arrived::Delivery(delivery));
    }

    fn lost(&self, reason: BrokerError) {
        let _ = self.0.send(Arrived::Lost(reason.to_string()));
    }
}

/// The other nodes that take part.
#[derive(Default)]
struct Heard(HashMap<Box<str>, (Instant, Option<TailLine>)>);

impl Heard {
    /// The lines of a batch that are news.
    fn take(&mut self, message: &Message, now: Instant) -> Vec<TailLine> {
        let node = message.properties.app_id.as_deref().unwrap_or_default();
        if message.body.len() > MAX_MESSAGE || node.is_empty() {
            return Vec::new();
        }
        if self.0.len() < MAX_NODES || self.0.contains_key(node) {
            let entry = self.0.entry(node.into()).or_insert((now, None));
            entry.0 = now;
        }
        let lines = message.body.split(|byte| *byte == b'\n');
        // Others than nodes may have sent it: only what reads as lines is handed on.
        let lines = lines.filter_map(|line| serde_json::from_slice::<TailLine>(line).ok());
        let mut news = Vec::new();
        for line in lines {
            let is_news = match &line {
                TailLine::Alive | TailLine::Apart { .. } => false,
                TailLine::Node { .. } => match self.0.get_mut(node) {
                    // A node says so at each renewal that it refuses.
                    Some((_, last)) if last.as_ref() == Some(&line) => false,
                    Some((_, last)) => {
                        *last = Some(line.clone());
                        true
                    }
                    None => true,
                },
                TailLine::Frame(_) | TailLine::LeftOut { .. } => true,
            };
            if is_news {
                news.push(line);
            }
        }
        news
    }

    /// Lines about the nodes that are silent since the last time.
    fn silent(&mut self, now: Instant) -> Vec<TailLine> {
        let is_silent = |since: &mut Instant| now.saturating_duration_since(*since) >= SILENCE;
        let silent = self.0.extract_if(|_, (since, _)| is_silent(since));
        silent
            .map(|(node, _)| TailLine::Node {
                node: node.into(),
                state: NodeState::Silent,
                cause: None,
            })
            .collect()
    }
}

/// Another node shows a tail, or goes on with it.
pub(super) fn hear(link: &ControlLink, taps: &Arc<Taps>, asked: TailAsked) {
    let is_late = asked
        .expires
        .is_some_and(|expires| expires <= SystemTime::now());
    if is_late || taps.renew(&asked.id, LEASE) {
        return;
    }
    let (link, TailAsked { filter, bodies, .. }) = (link.clone(), &asked);
    match taps.open(&asked.id, filter.clone(), *bodies) {
        Ok(handle) => {
            handle.tap().renew(LEASE);
            background::spawn(send(link, handle, asked));
        }
        Err(refused) => {
            let line = refusal(link.node(), &refused);
            background::spawn(async move {
                // It is said again at the next renewal.
                let _ = publish(&link, &asked.queue, to_line(&line), rand::random()).await;
            });
        }
    }
}

/// Sends frames to the node that shows them, until it asks for no more.
async fn send(link: ControlLink, handle: TapHandle, asked: TailAsked) {
    let filter = asked.filter.to_string();
    telemetry::tail_began(&asked.node, &filter, asked.bodies);
    let (tap, lane) = (handle.tap(), rand::random());
    let (mut frames, mut next) = (0_u64, Some(Batch::default()));
    let mut lines = to_line(&begins(link.node()));
    while let Some(batch) = next {
        lines.push_str(&text(&batch, link.node()));
        if lines.is_empty() {
            lines = to_line(&TailLine::Alive);
        }
        match publish(&link, &asked.queue, std::mem::take(&mut lines), lane).await {
            Ok(()) => frames = frames.saturating_add(batch.lines.len() as u64),
            // The other node is gone, or reads from another queue by now.
            Err(BrokerError::Unroutable | BrokerError::NotFound(_)) => break,
            Err(_) => {
                let LeftOut { pace, unread } = batch.left_out;
                let lost = [batch.lines.len() as u64, pace, unread].into_iter();
                tap.count_unread(lost.fold(0, u64::saturating_add));
            }
        }
        next = select! {
            batch = tap.next(BATCH) => batch,
            () = sleep(ALIVE) => Some(Batch::default()),
        };
    }
    telemetry::tail_ended(&asked.node, &filter, frames);
}

async fn publish(
    link: &ControlLink,
    queue: &str,
    lines: String,
    lane: u64,
) -> Result<(), BrokerError> {
    let publish = Publish {
        exchange: Box::default(),
        routing_key: queue.into(),
        properties: Properties {
            content_type: Some("application/x-ndjson".into()),
            app_id: Some(link.node().into()),
            ..Properties::default()
        },
        body: lines.into(),
        mandatory: true,
        lane,
        slow: None,
    };
    let publishing = async { link.host().publish(publish).await?.await };
    timeout(PATIENCE, publishing)
        .await
        .unwrap_or(Err(BrokerError::Nacked))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(node: &str, lines: impl IntoIterator<Item = TailLine>) -> Message {
        let properties = Properties {
            app_id: Some(node.into()),
            ..Properties::default()
        };
        let lines = lines.into_iter();
        let body: String = lines.map(|line| to_line(&line) + "\n").collect();
        Message::new("".into(), "q".into(), properties, body.into())
    }

    fn refuses(cause: &str) -> TailLine {
        TailLine::Node {
            node: "b".to_owned(),
            state: NodeState::Refuses,
            cause: Some(cause.to_owned()),
        }
    }

    #[test]
    fn a_refusal_is_told_once_and_silence_once() {
        let mut heard = Heard::default();
        let now = Instant::now();
        let off = refuses("off");
        assert_eq!(
            heard.take(&message("b", [off.clone()]), now),
            std::slice::from_ref(&off)
        );
        assert!(heard.take(&message("b", [off]), now).is_empty());
        let full = refuses("full");
        assert_eq!(heard.take(&message("b", [full.clone()]), now), [full]);
        let alive = heard.take(&message("c", [TailLine::Alive]), now + SILENCE / 2);
        assert!(alive.is_empty());
        assert!(heard.silent(now + SILENCE / 2).is_empty());
        let silent = heard.silent(now + SILENCE);
        assert!(
            matches!(&*silent, [TailLine::Node { node, state: NodeState::Silent, .. }] if node == "b"),
            "{silent:?}"
        );
        assert!(heard.silent(now + SILENCE).is_empty());
        assert_eq!(heard.0.len(), 1);
    }

    /// A backend may publish to the queue, if it knows its name.
    #[test]
    fn what_is_no_line_is_not_handed_on() {
        let mut heard = Heard::default();
        let body = b"\x1b[2J\n{\"type\":\"frame\"}\n[]\n\n{\"type\":\"left_out\",\"node\":\"b\",\
                     \"frames\":3,\"why\":\"pace\"}\n"
            .as_slice();
        let properties = message("b", []).properties;
        let taken = heard.take(
            &Message::new("".into(), "q".into(), properties, body.into()),
            Instant::now(),
        );
        assert!(
            matches!(&*taken, [TailLine::LeftOut { frames: 3, .. }]),
            "{taken:?}"
        );
        let unnamed = Message::new("".into(), "q".into(), Properties::default(), body.into());
        assert!(heard.take(&unnamed, Instant::now()).is_empty());
    }

    #[test]
    fn a_batch_says_what_is_left_out() {
        let batch = Batch {
            lines: vec!["{1}".into(), "{2}".into()],
            left_out: LeftOut { pace: 7, unread: 1 },
        };
        let expected = "{1}\n{2}\n\
                        {\"type\":\"left_out\",\"node\":\"n\",\"frames\":7,\"why\":\"pace\"}\n\
                        {\"type\":\"left_out\",\"node\":\"n\",\"frames\":1,\"why\":\"unread\"}\n";
        assert_eq!(text(&batch, "n"), expected);
        assert_eq!(text(&Batch::default(), "n"), "");
    }
}
