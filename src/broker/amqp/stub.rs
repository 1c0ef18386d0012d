//! For tests: a broker that lets everybody in, opens channels, and answers for queues or does not.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
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

    /// One that answers for all queues, and has no messages.
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

/// What the broker says on a channel: a method, by its class and number, and the rest.
type Said = (u16, [u8; 2], Vec<u8>);

impl Seen {
    async fn serve(&self, stream: TcpStream) -> Option<()> {
        let (mut stream, writer) = stream.into_split();
        let (say, said) = mpsc::unbounded_channel();
        let _saying =
            AbortOnDropHandle::new(tokio::spawn(write(writer, said, self.is_held.subscribe())));
        let say = |channel: u16, method: [u8; 2], rest: &[u8]| {
            say.send((channel, method, rest.to_vec())).ok()
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
                (1, 60, 10) if self.has_queues => say(channel, [60, 11], b"")?,
                (1, 60, 20) if self.has_queues => say(channel, [60, 21], b"\x03tag")?,
                _ => {}
            }
        }
    }
}

/// Writes what is said, in order, as soon as it is not held back any more.
async fn write(
    mut stream: OwnedWriteHalf,
    mut said: mpsc::UnboundedReceiver<Said>,
    mut is_held: watch::Receiver<bool>,
) -> Option<()> {
    while let Some((channel, [class, number], rest)) = said.recv().await {
        if class == 50 {
            is_held.wait_for(|is_held| !is_held).await.ok()?;
        }
        let size = u32::try_from(rest.len() + 4).unwrap();
        let frame = [
            &[1][..],
            &channel.to_be_bytes(),
            &size.to_be_bytes(),
            &[0, class, 0, number],
            &rest[..],
            &[0xCE],
        ];
        stream.write_all(&frame.concat()).await.ok()?;
    }
    Some(())
}
