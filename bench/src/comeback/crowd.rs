//! Users who come back, in a process of their own: a task each.
//!
//! They do as [clients/js] does: a lost connection is tried again after a random part of a second,
//! then of twice as much with each failure, up to 30 seconds; not before the time that an ERROR or a
//! `Retry-After` names, and over a window as wide. An attempt may take 20 seconds until CONNECTED; the
//! receipts of the subscriptions are waited for as long as the connection lasts.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    io::{BufRead as _, Write as _},
    net::{Ipv4Addr, SocketAddr},
    rc::Rc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpSocket, TcpStream},
    sync::{Notify, Semaphore},
    task::LocalSet,
    time::{sleep, timeout},
};

use super::tokens;
use crate::{
    latency::{Counts, Latencies},
    wire::{
        dialect::{VHOST, destination, user_key},
        stomp,
        websocket::{self, Opcode},
    },
    worker::clock,
};

const FIRST_PAUSE: f64 = 1.0;
const LONGEST_PAUSE: f64 = 30.0;
pub(super) const ATTEMPT: Duration = Duration::from_secs(20);

/// Connections from one address: fewer than there are ports.
const PER_ADDRESS: u32 = 4_000;

/// Users that share a room.
const ROOM: u32 = 50;

/// The part of one process.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Part {
    /// The number of its first user.
    pub(super) first: u32,
    pub(super) count: u32,
    /// The second part of its addresses.
    pub(super) net: u8,
    /// Where they are at first; these will be killed.
    pub(super) homes: Vec<SocketAddr>,
    /// Where they come back to.
    pub(super) others: Vec<SocketAddr>,
    /// They log in by tokens.
    pub(super) tokens: bool,
    /// Set-ups at once, at first.
    pub(super) at_once: usize,
}

/// What it says.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) enum Said {
    /// All are connected.
    Connected,
    /// All lost their connection, and are back, with the receipts of their subscriptions; or the
    /// time was up.
    Level(Level),
}

/// How they came back.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Level {
    /// When the last one was, by the machine's clock.
    pub(super) at: u64,
    /// Those who are not back.
    pub(super) missing: u32,
    /// From each one's loss until it was back.
    pub(super) took: Counts,
    pub(super) tries: u64,
    /// Tries that failed, by why.
    pub(super) failed: BTreeMap<String, u64>,
}

#[derive(Default)]
struct Book {
    level: u32,
    lost: u32,
    at: u64,
    took: Option<Latencies>,
    tries: u64,
    failed: BTreeMap<String, u64>,
}

struct Crowd {
    part: Part,
    book: RefCell<Book>,
    changed: Notify,
    begins: Semaphore,
}

/// Carries out the part that is the first line of standard input, until that ends. A second line says
/// that the time is up.
///
/// # Errors
/// There is no such line.
pub(crate) async fn run() -> Result<()> {
    crate::limits::raise_files();
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    let part: Part = serde_json::from_str(&line).context("the part of a crowd")?;
    let crowd = Rc::new(Crowd {
        begins: Semaphore::new(part.at_once),
        part,
        book: RefCell::default(),
        changed: Notify::new(),
    });
    crowd.book.borrow_mut().took = Some(Latencies::new()?);
    let tasks = LocalSet::new();
    for number in 0..crowd.part.count {
        tasks.spawn_local(live(Rc::clone(&crowd), number));
    }
    let telling = async {
        let count = crowd.part.count;
        crowd.until(|book| book.level == count).await;
        say(&Said::Connected)?;
        let mut lines = BufReader::new(tokio::io::stdin()).lines();
        tokio::select! {
            () = crowd.until(|book| book.lost >= count && book.level == count) => {}
            _ = lines.next_line() => {}
        }
        let book = crowd.book.borrow();
        say(&Said::Level(Level {
            at: book.at,
            missing: count.saturating_sub(book.level),
            took: book
                .took
                .as_ref()
                .map(Latencies::counts)
                .unwrap_or_default(),
            tries: book.tries,
            failed: book.failed.clone(),
        }))
    };
    let mut rest = Vec::new();
    let all = async {
        telling.await?;
        tokio::io::stdin().read_to_end(&mut rest).await?;
        Ok(())
    };
    tasks.run_until(all).await
}

pub(super) fn say(said: &impl Serialize) -> Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, said)?;
    out.write_all(b"\n")?;
    Ok(out.flush()?)
}

impl Crowd {
    async fn until(&self, done: impl Fn(&Book) -> bool) {
        while !done(&self.book.borrow()) {
            self.changed.notified().await;
        }
    }

    fn change(&self, how: impl FnOnce(&mut Book)) {
        how(&mut self.book.borrow_mut());
        self.changed.notify_one();
    }
}

/// Why an attempt failed.
pub(super) struct Failure {
    pub(super) why: String,
    /// In seconds: not sooner.
    pub(super) advised: f64,
}

impl Failure {
    pub(super) fn new(why: impl Into<String>) -> Self {
        let why = why.into();
        Self { why, advised: 0.0 }
    }

    /// As an ERROR tells it.
    pub(super) fn told(error: &stomp::Frame<'_>) -> Self {
        let text = |name: &[u8]| {
            let value = stomp::header(error.headers, name).unwrap_or_default();
            String::from_utf8_lossy(value)
        };
        let advised = text(b"reconnect:");
        Self {
            advised: advised.trim_end_matches('s').parse().unwrap_or_default(),
            why: format!("ERROR {}", text(b"message:")),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        // By its number where it has one: there are many kinds that have no name.
        match error.raw_os_error() {
            Some(_) => Self::new(error.to_string()),
            None => Self::new(error.kind().to_string()),
        }
    }
}

/// One user, for good.
async fn live(crowd: Rc<Crowd>, number: u32) {
    let part = &crowd.part;
    let home = part.homes[number as usize % part.homes.len()];
    let mut stream = loop {
        let Ok(permit) = crowd.begins.acquire().await else {
            return;
        };
        let come = come(part, number, 0, home).await;
        drop(permit);
        match come {
            Ok(stream) => break stream,
            Err(failure) => eprintln!("at first: {}", failure.why),
        }
        sleep(Duration::from_secs(1)).await;
    };
    crowd.change(|book| book.level += 1);
    for life in 1_u32.. {
        stay(&mut stream).await;
        // Its file and port are free for the one to come.
        drop(stream);
        let lost = clock::now();
        crowd.change(|book| {
            book.level -= 1;
            book.lost += u32::from(life == 1);
        });
        stream = come_back(&crowd, number).await;
        crowd.change(|book| {
            book.level += 1;
            book.at = clock::now();
            let took = book.at - lost;
            book.took.iter_mut().for_each(|all| all.record(took));
        });
    }
}

/// How long to wait before the next attempt, after so many failures and a server's advice in seconds.
pub(super) fn pause(failures: u32, advised: f64) -> Duration {
    let window = (FIRST_PAUSE * 2_f64.powi(failures.min(10) as i32)).min(LONGEST_PAUSE);
    Duration::from_secs_f64(advised + rand::random::<f64>() * window.max(advised))
}

/// Tries until it is back.
async fn come_back(crowd: &Crowd, number: u32) -> TcpStream {
    let part = &crowd.part;
    let (mut failures, mut advised) = (0_u32, 0.0);
    loop {
        sleep(pause(failures, advised)).await;
        let other = rand::random_range(0..part.others.len());
        let done = come(part, number, failures + 1, part.others[other]).await;
        crowd.change(|book| book.tries += 1);
        match done {
            Ok(stream) => return stream,
            Err(failure) => {
                crowd.change(|book| *book.failed.entry(failure.why).or_default() += 1);
                failures += 1;
                advised = failure.advised;
            }
        }
    }
}

/// Connects, logs in, and subscribes, until the receipts are there.
async fn come(
    part: &Part,
    number: u32,
    life: u32,
    server: SocketAddr,
) -> Result<TcpStream, Failure> {
    let logging_in = timeout(ATTEMPT, log_in(part, number, life, server));
    let (mut stream, mut bytes) = match logging_in.await {
        Ok(done) => done?,
        Err(_) => return Err(Failure::new("no answer in time")),
    };
    let user = part.first + number;
    let mut out = Vec::with_capacity(1024);
    let keys = [user_key(user), format!("room_{}", user / ROOM)];
    for (id, key) in keys.iter().enumerate() {
        let mut frame = Vec::new();
        stomp::subscribe(id as u32, &destination(key), &mut frame);
        websocket::write_text(&frame, &mut out);
    }
    stream.write_all(&out).await?;
    for _ in &keys {
        frame(&mut stream, &mut bytes, b"RECEIPT").await?;
    }
    Ok(stream)
}

/// Connects, and logs in: the connection, and what came after CONNECTED.
pub(super) async fn log_in(
    part: &Part,
    number: u32,
    life: u32,
    server: SocketAddr,
) -> Result<(TcpStream, Vec<u8>), Failure> {
    let socket = TcpSocket::new_v4()?;
    // Ports of the connection before may be taken still.
    let third = (number / PER_ADDRESS) * 8 + life % 8 + 1;
    let address = Ipv4Addr::new(127, part.net, u8::try_from(third).unwrap_or(250), 1);
    socket.bind((address, 0).into())?;
    let mut stream = socket.connect(server).await?;
    stream.set_nodelay(true)?;
    let host = server.to_string();
    stream
        .write_all(&websocket::upgrade_request(&host, "/ws"))
        .await?;
    let mut bytes = Vec::with_capacity(1024);
    let end = loop {
        match websocket::upgrade_response(&bytes) {
            Ok(Some(end)) => break end,
            Ok(None) => more(&mut stream, &mut bytes).await?,
            Err(why) => {
                let text = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
                let after = text.split("retry-after:").nth(1).unwrap_or_default();
                let after = after.lines().next().unwrap_or_default().trim();
                let advised = after.parse().unwrap_or_default();
                return Err(Failure { why, advised });
            }
        }
    };
    bytes.drain(..end);

    let user = part.first + number;
    let (name, token) = (user.to_string(), tokens::token(user));
    let passcode = if part.tokens { &token } else { &name };
    let mut headers = vec![("accept-version", "1.2"), ("host", VHOST)];
    if !part.tokens {
        headers.push(("login", &name));
    }
    headers.extend([("passcode", &**passcode), ("heart-beat", "0,0")]);
    let mut out = Vec::with_capacity(1024);
    websocket::write_text(&stomp::frame("CONNECT", &headers, b""), &mut out);
    stream.write_all(&out).await?;
    frame(&mut stream, &mut bytes, b"CONNECTED").await?;
    Ok((stream, bytes))
}

pub(super) async fn more(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Result<(), Failure> {
    match stream.read_buf(bytes).await? {
        0 => Err(Failure::new("closed")),
        _ => Ok(()),
    }
}

/// Waits for a frame with this command; takes all up to it off `bytes`.
async fn frame(stream: &mut TcpStream, bytes: &mut Vec<u8>, command: &[u8]) -> Result<(), Failure> {
    loop {
        let mut rest = bytes.as_slice();
        while let Some(frame) = websocket::next_frame(&mut rest).map_err(Failure::new)? {
            if frame.opcode != Opcode::Data {
                continue;
            }
            let mut payload = frame.payload;
            let Some(said) = stomp::next_frame(&mut payload).map_err(Failure::new)? else {
                continue;
            };
            if said.command == b"ERROR" {
                return Err(Failure::told(&said));
            }
            if said.command == command {
                let taken = bytes.len() - rest.len();
                bytes.drain(..taken);
                return Ok(());
            }
        }
        let taken = bytes.len() - rest.len();
        bytes.drain(..taken);
        more(stream, bytes).await?;
    }
}

/// Reads, and answers pings, until the connection is lost.
async fn stay(stream: &mut TcpStream) {
    let mut bytes = Vec::new();
    loop {
        if stream.readable().await.is_err() {
            return;
        }
        let mut buffer = [0; 4096];
        match stream.try_read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(_) => return,
        }
        let mut pongs = Vec::new();
        let mut rest = bytes.as_slice();
        while let Ok(Some(frame)) = websocket::next_frame(&mut rest) {
            if frame.opcode == Opcode::Ping {
                websocket::write_pong(frame.payload, &mut pongs);
            }
        }
        bytes = rest.to_vec();
        if !pongs.is_empty() && stream.write_all(&pongs).await.is_err() {
            return;
        }
    }
}
