//! For tests: a broker that lets everybody in and opens channels, and answers nothing else.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
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
    connections: AtomicUsize,
    /// Connections that were ended in good order, if it answered.
    ended: watch::Sender<usize>,
}

impl Stub {
    pub(super) async fn start(channel_max: u16, ends_channels: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let seen = Arc::new(Seen {
            channel_max,
            ends_channels,
            is_silent_at_the_end: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
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
}

impl Seen {
    async fn serve(&self, mut stream: TcpStream) -> Option<()> {
        stream.read_exact(&mut [0; 8]).await.ok()?;
        self.connections.fetch_add(1, Ordering::Relaxed);
        let start = b"\0\x09\0\0\0\0\0\0\0\x0eAMQPLAIN PLAIN\0\0\0\x05en_US";
        say(&mut stream, 0, [10, 10], start).await?;
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
                    say(&mut stream, 0, [10, 30], &limits.concat()).await?;
                }
                (1, 10, 40) => say(&mut stream, 0, [10, 41], b"\0").await?,
                (1, 10, 50) => {
                    if !self.is_silent_at_the_end.load(Ordering::Relaxed) {
                        say(&mut stream, 0, [10, 51], b"").await?;
                    }
                    self.ended.send_modify(|ended| *ended += 1);
                }
                (1, 20, 10) => say(&mut stream, channel, [20, 11], &[0; 4]).await?,
                (1, 20, 40) if self.ends_channels => {
                    say(&mut stream, channel, [20, 41], b"").await?;
                }
                _ => {}
            }
        }
    }
}

/// A method, by its class and number.
async fn say(stream: &mut TcpStream, channel: u16, method: [u8; 2], rest: &[u8]) -> Option<()> {
    let [class, number] = method;
    let size = u32::try_from(rest.len() + 4).unwrap();
    let frame = [
        &[1][..],
        &channel.to_be_bytes(),
        &size.to_be_bytes(),
        &[0, class, 0, number],
        rest,
        &[0xCE],
    ];
    stream.write_all(&frame.concat()).await.ok()
}
