//! For tests: a broker that lets everybody in, opens channels, and answers for queues or does not.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, tcp::OwnedWriteHalf},
    sync::{mpsc, watch},
};
use tokio_util::task::AbortOnDropHandle;

use super::link::LinkConfig;

pub(super) struct Stub {
    address: String,
    seen: Arc<Seen>,
    _serving: AbortOnDropHandle<()>,
}

struct Seen {
    channel_max: u16,
    /// Whether it answers the end of a channel.
    ends_channels: bool,
    /// Whether it leaves the end of a connection without an answer.
    is_silent_at_the_end: AtomicBool,
    /// Whether it answers for queues.
    has_queues: bool,
    /// Whether an answer for a queue, and all behind it, waits.
    is_held: watch::Sender<bool>,
    /// Messages that each consumer gets, with an offset as if they came out of a stream.
    messages: AtomicU64,
    /// Whether it tells those who ask that its queues are no streams; else it says nothing.
    denies_streams: AtomicBool,
    /// Those who asked.
    questions: AtomicUsize,
    /// Messages that were given back.
    given_back: watch::Sender<usize>,
    connections: AtomicUsize,
    /// Channels that were asked for.
    channels: watch::Sender<usize>,
    /// Connections that were ended in good order, if it answered.
    ended: watch::Sender<usize>,
}

impl Stub {
    /// One that answers for no queue.
    pub(super) async fn start(channel_max: u16, ends_channels: bool) -> Self {
        Self::serve(channel_max, ends_channels, false).await
    }

    /// One that answers for all queues, and has no messages until it is told to.
    pub(super) async fn of_queues(channel_max: u16) -> Self {
        Self::serve(channel_max, true, true).await
    }

    async fn serve(channel_max: u16, ends_channels: bool, has_queues: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let seen = Arc::new(Seen {
            channel_max,
            ends_channels,
            is_silent_at_the_end: AtomicBool::new(false),
            has_queues,
            is_held: watch::Sender::new(false),
            messages: AtomicU64::new(0),
            denies_streams: AtomicBool::new(false),
            questions: AtomicUsize::new(0),
            given_back: watch::Sender::new(0),
            connections: AtomicUsize::new(0),
            channels: watch::Sender::new(0),
            ended: watch::Sender::new(0),
        });
        let serving = {
            let seen = Arc::clone(&seen);
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let seen = Arc::clone(&seen);
                    tokio::spawn(async move { seen.serve(stream).await });
                }
            })
        };
        Self {
            address,
            seen,
            _serving: AbortOnDropHandle::new(serving),
        }
    }

    pub(super) fn config(&self) -> LinkConfig {
        LinkConfig::of_a_test(&format!("amqp://u:p@{}/app", self.address))
    }

    /// Connections that were made.
    pub(super) fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::Relaxed)
    }

    /// From now on it does not answer those that end.
    pub(super) fn keep_silent_at_the_end(&self) {
        self.seen
            .is_silent_at_the_end
            .store(true, Ordering::Relaxed);
    }

    /// Waits until so many were ended in good order.
    pub(super) async fn until_ended(&self, count: usize) {
        let mut ended = self.seen.ended.subscribe();
        ended.wait_for(|ended| *ended >= count).await.unwrap();
    }

    /// Says nothing more to anybody, until it is told to go on.
    pub(super) fn hold(&self, is_held: bool) {
        self.seen.is_held.send_replace(is_held);
    }

    /// From now on each consumer gets so many messages.
    pub(super) fn deliver(&self, messages: u64) {
        self.seen.messages.store(messages, Ordering::Relaxed);
    }

    /// From now on it tells that its queues are no streams.
    pub(super) fn deny_streams(&self) {
        self.seen.denies_streams.store(true, Ordering::Relaxed);
    }

    /// How often it was asked whether a queue is a stream.
    pub(super) fn questions(&self) -> usize {
        self.seen.questions.load(Ordering::Relaxed)
    }

    /// Waits until so many messages were given back.
    pub(super) async fn until_given_back(&self, count: usize) {
        let mut given_back = self.seen.given_back.subscribe();
        given_back.wait_for(|given| *given >= count).await.unwrap();
    }

    /// What `asking` says, which opens a channel and asks for a queue there. The answer comes as late as
    /// on a slow connection, in its order: when one more channel was asked for.
    pub(super) async fn held_back<T>(&self, asking: impl Future<Output = T>) -> T {
        let mut channels = self.seen.channels.subscribe();
        let before = *channels.borrow_and_update();
        self.seen.is_held.send_replace(true);
        let seen = Arc::clone(&self.seen);
        let _releasing = AbortOnDropHandle::new(tokio::spawn(async move {
            let are_asked_for = |channels: &usize| *channels >= before + 2;
            if channels.wait_for(are_asked_for).await.is_ok() {
                seen.is_held.send_replace(false);
            }
        }));
        asking.await
    }
}

/// What the broker says on a channel: the kind of frame, and what is in it.
type Said = (u8, u16, Vec<u8>);

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;

/// By this argument a consumer asks for a stream; in a message, it is the place there.
const OFFSET: &[u8; 15] = b"x-stream-offset";

/// Said of other queues.
const NO_STREAM: &[u8; 71] =
    b"PRECONDITION_FAILED - invalid arg 'x-stream-offset' for queue 'q' in v.";

impl Seen {
    async fn serve(&self, stream: TcpStream) -> Option<()> {
        let (mut stream, writer) = stream.into_split();
        let (frames, said) = mpsc::unbounded_channel();
        let _saying =
            AbortOnDropHandle::new(tokio::spawn(write(writer, said, self.is_held.subscribe())));
        let say_frame =
            |kind: u8, channel: u16, payload: Vec<u8>| frames.send((kind, channel, payload)).ok();
        let say = |channel: u16, [class, number]: [u8; 2], rest: &[u8]| {
            say_frame(METHOD, channel, [&[0, class, 0, number][..], rest].concat())
        };
        stream.read_exact(&mut [0; 8]).await.ok()?;
        self.connections.fetch_add(1, Ordering::Relaxed);
        let start = b"\0\x09\0\0\0\0\0\0\0\x0eAMQPLAIN PLAIN\0\0\0\x05en_US";
        say(0, [10, 10], start)?;
        loop {
            let mut head = [0; 7];
            stream.read_exact(&mut head).await.ok()?;
            let [kind, c1, c2, size @ ..] = head;
            let size = usize::try_from(u32::from_be_bytes(size)).unwrap();
            let mut payload = vec![0; size + 1];
            stream.read_exact(&mut payload).await.ok()?;
            let [_, class, _, method, ..] = payload[..] else {
                continue;
            };
            let channel = u16::from_be_bytes([c1, c2]);
            match (kind, class, method) {
                (1, 10, 11) => {
                    let limits = [&self.channel_max.to_be_bytes()[..], &[0, 2, 0, 0, 0, 0]];
                    say(0, [10, 30], &limits.concat())?;
                }
                (1, 10, 40) => say(0, [10, 41], b"\0")?,
                (1, 10, 50) => {
                    if !self.is_silent_at_the_end.load(Ordering::Relaxed) {
                        say(0, [10, 51], b"")?;
                    }
                    self.ended.send_modify(|ended| *ended += 1);
                }
                (1, 20, 10) => {
                    say(channel, [20, 11], &[0; 4])?;
                    self.channels.send_modify(|channels| *channels += 1);
                }
                (1, 20, 40) if self.ends_channels => say(channel, [20, 41], b"")?,
                (1, 50, 10) if self.has_queues => {
                    // Behind a reserved number is the queue's name; then come two counts.
                    let name = &payload[6..7 + usize::from(payload[6])];
                    say(channel, [50, 11], &[name, &[0; 8]].concat())?;
                }
                (1, 50, 40) if self.has_queues => say(channel, [50, 41], &[0; 4])?,
                (1, 50, 50) if self.has_queues => say(channel, [50, 51], b"")?,
                (1, 60, 10) if self.has_queues => say(channel, [60, 11], b"")?,
                (1, 60, 20) if self.has_queues => {
                    if payload.windows(OFFSET.len()).any(|part| part == OFFSET) {
                        self.questions.fetch_add(1, Ordering::Relaxed);
                        if self.denies_streams.load(Ordering::Relaxed) {
                            let text = [&[1, 150, 71][..], NO_STREAM, &[0, 60, 0, 20]];
                            say(channel, [20, 40], &text.concat())?;
                        }
                        continue;
                    }
                    say(channel, [60, 21], b"\x03tag")?;
                    for tag in 1..=self.messages.load(Ordering::Relaxed) {
                        let tag = tag.to_be_bytes();
                        // Not redelivered; by the default exchange.
                        let message = [&b"\x03tag"[..], &tag, b"\0\0\x01q"];
                        say(channel, [60, 60], &message.concat())?;
                        say_frame(HEADER, channel, header())?;
                        say_frame(BODY, channel, b"x".to_vec())?;
                    }
                }
                (1, 60, 30) => say(channel, [60, 31], b"\x03tag")?,
                (1, 60, 120) => self.given_back.send_modify(|given| *given += 1),
                _ => {}
            }
        }
    }
}

/// Of a message of one byte, with an offset.
fn header() -> Vec<u8> {
    // The text "7", behind the name.
    let headers = [&[15][..], OFFSET, b"S\0\0\0\x017"].concat();
    let size = u32::try_from(headers.len()).unwrap().to_be_bytes();
    // Its class; the body's size; that it has headers.
    let head = [&[0, 60, 0, 0][..], &1_u64.to_be_bytes(), &[0x20, 0]].concat();
    [head, size.to_vec(), headers].concat()
}

/// Writes what is said, in order, as soon as it is not held back any more.
async fn write(
    mut stream: OwnedWriteHalf,
    mut said: mpsc::UnboundedReceiver<Said>,
    mut is_held: watch::Receiver<bool>,
) -> Option<()> {
    while let Some((kind, channel, payload)) = said.recv().await {
        if kind == METHOD && payload.starts_with(&[0, 50]) {
            is_held.wait_for(|is_held| !is_held).await.ok()?;
        }
        let size = u32::try_from(payload.len()).unwrap();
        let frame = [
            &[kind][..],
            &channel.to_be_bytes(),
            &size.to_be_bytes(),
            &payload[..],
            &[0xCE],
        ];
        stream.write_all(&frame.concat()).await.ok()?;
    }
    Some(())
}
