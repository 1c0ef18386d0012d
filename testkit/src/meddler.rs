//! A proxy that reads a broker's AMQP frames, and meddles with its confirms as a seed says.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, tcp},
    task::JoinHandle,
    time::{sleep, timeout},
};

/// Stands between a gateway and a broker. It holds confirms back, mixes them, makes one of many, or
/// refuses messages in the broker's place; and it cuts connections while confirms are on their way.
/// It never confirms what the broker has not confirmed.
#[derive(Debug)]
pub struct Meddler {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    dice: Mutex<StdRng>,
    /// The bodies of messages that the gateway may know to be taken.
    confirmed: Mutex<HashSet<Vec<u8>>>,
    refused: AtomicUsize,
    cut: AtomicUsize,
}

/// The confirms of one channel that wait.
#[derive(Debug, Default)]
struct Waiting {
    /// What the broker has confirmed, and nobody was told.
    tags: BTreeSet<u64>,
    /// All up to this one were told.
    told: u64,
    /// Told, and beyond `told`.
    apart: BTreeSet<u64>,
}

/// The longest time that confirms wait.
const HOLD: Duration = Duration::from_millis(30);
/// One in so many confirms becomes a refusal.
const SELDOM: u32 = 60;
/// One in so many turns ends the connection.
const CUT: u32 = 12;

impl Meddler {
    /// Starts to meddle between its own address and `server` (`host:port`).
    ///
    /// # Panics
    /// No port is free.
    pub async fn start(server: &str, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            dice: Mutex::new(StdRng::seed_from_u64(seed)),
            confirmed: Mutex::default(),
            refused: AtomicUsize::new(0),
            cut: AtomicUsize::new(0),
        });
        let serve = serve(listener, server.to_owned(), Arc::clone(&shared));
        Self {
            address,
            shared,
            task: tokio::spawn(serve),
        }
    }

    /// Its address, `127.0.0.1:PORT`.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Whether the gateway may know by now that a message with this body is taken.
    #[must_use]
    pub fn has_confirmed(&self, body: &[u8]) -> bool {
        self.shared.confirmed.lock().contains(body)
    }

    /// Messages that it was told to be refused, though the broker has them.
    #[must_use]
    pub fn refused(&self) -> usize {
        self.shared.refused.load(Ordering::SeqCst)
    }

    /// Connections that it cut.
    #[must_use]
    pub fn cut(&self) -> usize {
        self.shared.cut.load(Ordering::SeqCst)
    }
}

impl Drop for Meddler {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, server: String, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        let (server, shared) = (server.clone(), Arc::clone(&shared));
        tokio::spawn(async move {
            // Either side's end is the other's, too.
            let _ = join(client, &server, &shared).await;
        });
    }
}

async fn join(client: TcpStream, server: &str, shared: &Shared) -> io::Result<()> {
    let server = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let published = Mutex::default();
    tokio::select! {
        copied = note(from_client, to_server, &published) => copied,
        meddled = meddle(from_server, to_client, (shared, &published)) => meddled,
    }
}

/// The messages of a connection.
#[derive(Default)]
struct Published {
    /// The tag of each channel's last one.
    last: HashMap<u16, u64>,
    /// By channel and tag, while they are not confirmed.
    bodies: HashMap<(u16, u64), Vec<u8>>,
}

impl Published {
    fn note(&mut self, frame: &[u8]) {
        if let Some((channel, method, _)) = method(frame) {
            match method {
                // `confirm.select`, perhaps for a second time, and `channel.open`.
                [0, 85, 0, 10] => {
                    self.last.entry(channel).or_default();
                }
                [0, 20, 0, 10] => {
                    self.last.remove(&channel);
                }
                // `basic.publish`
                [0, 60, 0, 40] => {
                    if let Some(tag) = self.last.get_mut(&channel) {
                        *tag += 1;
                        self.bodies.insert((channel, *tag), Vec::new());
                    }
                }
                _ => {}
            }
        } else if let [3, c1, c2, _, _, _, _, body @ .., _] = frame {
            let channel = u16::from_be_bytes([*c1, *c2]);
            let tag = self.last.get(&channel).copied().unwrap_or_default();
            if let Some(whole) = self.bodies.get_mut(&(channel, tag)) {
                whole.extend(body);
            }
        }
    }
}

/// Hands the gateway's frames on, and notes the messages among them.
async fn note(
    mut from: tcp::OwnedReadHalf,
    mut to: tcp::OwnedWriteHalf,
    published: &Mutex<Published>,
) -> io::Result<()> {
    let mut input = Vec::new();
    let mut is_greeted = false;
    while from.read_buf(&mut input).await? > 0 {
        let mut out = Vec::new();
        is_greeted |= take_greeting(&mut input, &mut out, is_greeted);
        while let Some(frame) = is_greeted.then(|| take_frame(&mut input)).flatten() {
            published.lock().note(&frame);
            out.extend(frame);
        }
        to.write_all(&out).await?;
    }
    Ok(())
}

/// Hands the broker's frames on; confirms wait.
async fn meddle(
    mut from: tcp::OwnedReadHalf,
    mut to: tcp::OwnedWriteHalf,
    (shared, published): (&Shared, &Mutex<Published>),
) -> io::Result<()> {
    let mut waiting: BTreeMap<u16, Waiting> = BTreeMap::new();
    let mut input = Vec::new();
    loop {
        let mut out = Vec::new();
        while let Some(frame) = take_frame(&mut input) {
            match acknowledged(&frame) {
                Some((channel, tag, is_multiple)) => {
                    let waiting = waiting.entry(channel).or_default();
                    waiting.take(tag, is_multiple);
                }
                None => {
                    if let Some(channel) = opened(&frame) {
                        // Its tags begin anew.
                        waiting.remove(&channel);
                    }
                    out.extend(frame);
                }
            }
        }
        let (hold, is_turn) = {
            let mut dice = shared.dice.lock();
            (HOLD.mul_f64(dice.random()), dice.random_range(0..3) == 0)
        };
        let is_any = waiting.values().any(|waiting| !waiting.tags.is_empty());
        if is_any && is_turn {
            if shared.dice.lock().random_range(0..CUT) == 0 {
                shared.cut.fetch_add(1, Ordering::SeqCst);
                return Ok(());
            }
            for (channel, waiting) in &mut waiting {
                let mut taken = Vec::new();
                waiting.tell(*channel, shared, &mut taken, &mut out);
                let mut published = published.lock();
                let bodies = taken
                    .into_iter()
                    .filter_map(|tag| published.bodies.remove(&(*channel, tag)));
                shared.confirmed.lock().extend(bodies);
            }
        }
        to.write_all(&out).await?;
        // While nothing comes, what waits has its turn now and then.
        let reading = from.read_buf(&mut input);
        let read = match is_any {
            true => timeout(hold, reading).await.ok(),
            false => Some(reading.await),
        };
        match read.transpose()? {
            Some(0) => return Ok(()),
            Some(_) => sleep(hold / 10).await,
            None => {}
        }
    }
}

/// The eight bytes of a client that precede its first frame.
pub(crate) fn take_greeting(input: &mut Vec<u8>, out: &mut Vec<u8>, is_greeted: bool) -> bool {
    let is_there = !is_greeted && input.len() >= GREETING;
    if is_there {
        out.extend(input.drain(..GREETING));
    }
    is_there
}

/// The next whole frame; before the first one the broker may send eight bytes, which are none.
pub(crate) fn take_frame(input: &mut Vec<u8>) -> Option<Vec<u8>> {
    let size: [u8; 4] = *input.get(3..)?.first_chunk()?;
    let length = usize::try_from(u32::from_be_bytes(size)).ok()? + 8;
    (input.len() >= length).then(|| input.drain(..length).collect())
}

/// A frame's channel, and its method.
fn method(frame: &[u8]) -> Option<(u16, [u8; 4], &[u8])> {
    let [1, c1, c2, _, _, _, _, rest @ ..] = frame else {
        return None;
    };
    let (method, arguments) = rest.split_first_chunk()?;
    Some((u16::from_be_bytes([*c1, *c2]), *method, arguments))
}

/// The length of `AMQP` with its version.
const GREETING: usize = 8;

/// Of `basic.ack`: its channel, its tag, and whether it means all before it, too.
pub(crate) fn acknowledged(frame: &[u8]) -> Option<(u16, u64, bool)> {
    let (channel, [0, 60, 0, 80], arguments) = method(frame)? else {
        return None;
    };
    let (tag, flags) = arguments.split_first_chunk()?;
    Some((channel, u64::from_be_bytes(*tag), flags.first()? & 1 == 1))
}

/// The channel that `channel.open-ok` opens.
fn opened(frame: &[u8]) -> Option<u16> {
    let (channel, [0, 20, 0, 11], _) = method(frame)? else {
        return None;
    };
    Some(channel)
}

impl Waiting {
    fn take(&mut self, tag: u64, is_multiple: bool) {
        let first = if is_multiple { self.told + 1 } else { tag };
        let new = (first..=tag).filter(|tag| *tag > self.told && !self.apart.contains(tag));
        self.tags.extend(new);
    }

    /// Tells some of them, in one way or another; `taken` are those that are confirmed by it.
    fn tell(&mut self, channel: u16, shared: &Shared, taken: &mut Vec<u64>, out: &mut Vec<u8>) {
        let mut dice = shared.dice.lock();
        // All before it are confirmed, too.
        let mut last = self.told;
        while self.tags.contains(&(last + 1)) || self.apart.contains(&(last + 1)) {
            last += 1;
        }
        if last > self.told && dice.random_range(0..2) == 0 {
            taken.extend(self.tags.range(..=last));
            self.tags.retain(|tag| *tag > last);
            self.apart.retain(|tag| *tag > last);
            self.told = last;
            out.extend(answer(channel, 80, last, 1));
            return;
        }
        let mut tags: Vec<_> = std::mem::take(&mut self.tags).into_iter().collect();
        tags.shuffle(&mut *dice);
        for tag in tags {
            match dice.random_range(0..SELDOM) {
                0 => {
                    shared.refused.fetch_add(1, Ordering::SeqCst);
                    out.extend(answer(channel, 120, tag, 0));
                }
                1..20 => {
                    self.tags.insert(tag);
                    continue;
                }
                _ => {
                    taken.push(tag);
                    out.extend(answer(channel, 80, tag, 0));
                }
            }
            self.apart.insert(tag);
        }
        while self.apart.remove(&(self.told + 1)) {
            self.told += 1;
        }
    }
}

/// A `basic.ack` (80) or `basic.nack` (120).
fn answer(channel: u16, number: u8, tag: u64, flags: u8) -> Vec<u8> {
    let head = [&[1][..], &channel.to_be_bytes(), &[0, 0, 0, 13]].concat();
    let method = [&[0, 60, 0, number][..], &tag.to_be_bytes(), &[flags, 0xCE]].concat();
    [head, method].concat()
}
