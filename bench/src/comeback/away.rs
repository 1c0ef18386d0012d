//! Users who go away for a while and come back with a cursor, in a process of their own: a task each.
//!
//! Each hears of its own key. All messages are numbered, so a user knows whether one is missing, came
//! twice or is another's. It comes back as [`mod@super::crowd`] does, with the cursor of its last message.

use std::{
    cell::RefCell, collections::BTreeMap, io::BufRead as _, net::SocketAddr, rc::Rc, time::Duration,
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    sync::{Notify, Semaphore, watch},
    task::LocalSet,
    time::{sleep, timeout},
};

use super::crowd::{ATTEMPT, Failure, Part, log_in, more, pause, say};
use crate::{
    latency::{Counts, Latencies},
    wire::{
        body::Stamp,
        dialect::{destination, user_key},
        stomp,
        websocket::{self, Opcode},
    },
    worker::clock,
};

/// What comes twice may come later than what comes once.
const LATER: Duration = Duration::from_secs(1);

/// What they are told, a line each, after their part.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) enum Turn {
    /// They are connected, and hear.
    Hear,
    /// They go.
    Leave,
    /// They come back to one of these; and are level with the message of this number.
    Return(Vec<SocketAddr>, u64),
    /// The message of this number is the last one.
    Last(u64),
}

/// What they say.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) enum Said {
    /// All have their RECEIPT.
    Subscribed,
    /// All have heard of one message, so all have a cursor.
    Heard,
    /// All have what they missed; or the time is up.
    Level(Level),
    /// All have the last message; or the time is up.
    Checked(Checked),
}

/// How they came back.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Level {
    /// From the first attempt of each until it was level.
    pub(super) took: Counts,
    /// When the last one was, by the machine's clock.
    pub(super) at: u64,
    pub(super) missing: u32,
    pub(super) tries: u64,
    /// Tries that failed, by why.
    pub(super) failed: BTreeMap<String, u64>,
}

/// What was wrong with their messages.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Checked {
    /// Users without the last message.
    pub(super) behind: u32,
    pub(super) lost: u64,
    pub(super) doubled: u64,
    /// For another user, or none of ours.
    pub(super) foreign: u64,
    /// RECEIPTs that tell of a gap.
    pub(super) gaps: u64,
}

#[derive(Default)]
struct Book {
    subscribed: u32,
    heard: u32,
    level: u32,
    done: u32,
    at: u64,
    took: Option<Latencies>,
    tries: u64,
    failed: BTreeMap<String, u64>,
    checked: Checked,
}

struct Crowd {
    part: Part,
    turn: watch::Receiver<Turn>,
    book: RefCell<Book>,
    changed: Notify,
    begins: Semaphore,
    /// The time is up.
    up: Notify,
}

/// Carries out the part that is the first line of standard input; each further line is a [`Turn`], and an
/// empty one says that the time is up.
///
/// # Errors
/// There is no such line.
pub(crate) async fn run() -> Result<()> {
    crate::limits::raise_files();
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    let part: Part = serde_json::from_str(&line).context("the part of a crowd")?;
    let (tell, turn) = watch::channel(Turn::Hear);
    let crowd = Rc::new(Crowd {
        begins: Semaphore::new(part.at_once),
        part,
        turn,
        book: RefCell::default(),
        changed: Notify::new(),
        up: Notify::new(),
    });
    crowd.book.borrow_mut().took = Some(Latencies::new()?);
    let tasks = LocalSet::new();
    for number in 0..crowd.part.count {
        tasks.spawn_local(live(Rc::clone(&crowd), number));
    }
    let telling = Rc::clone(&crowd);
    tasks.spawn_local(async move {
        if let Err(error) = telling.tell().await {
            eprintln!("{error:#}");
        }
    });
    let all = async {
        let mut lines = BufReader::new(tokio::io::stdin()).lines();
        while let Some(line) = lines.next_line().await? {
            if line.is_empty() {
                crowd.up.notify_one();
            } else {
                tell.send_replace(serde_json::from_str(&line).context("a turn")?);
            }
        }
        Ok(())
    };
    tasks.run_until(all).await
}

impl Book {
    fn level(&self, count: u32) -> Level {
        Level {
            took: self
                .took
                .as_ref()
                .map(Latencies::counts)
                .unwrap_or_default(),
            at: self.at,
            missing: count - self.level,
            tries: self.tries,
            failed: self.failed.clone(),
        }
    }
}

impl Crowd {
    async fn tell(&self) -> Result<()> {
        let count = self.part.count;
        self.until(|book| book.subscribed == count).await;
        say(&Said::Subscribed)?;
        self.until(|book| book.heard == count).await;
        say(&Said::Heard)?;
        self.until_time_is_up(|book| book.level == count).await;
        say(&Said::Level(self.book.borrow().level(count)))?;
        self.until_time_is_up(|book| book.done == count).await;
        sleep(LATER).await;
        let book = self.book.borrow();
        say(&Said::Checked(Checked {
            behind: count - book.done,
            ..book.checked.clone()
        }))
    }

    async fn until_time_is_up(&self, done: impl Fn(&Book) -> bool) {
        tokio::select! {
            () = self.until(done) => {}
            () = self.up.notified() => {}
        }
    }

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

/// One user, for good.
async fn live(crowd: Rc<Crowd>, number: u32) {
    let part = &crowd.part;
    let mut user = User {
        number: part.first + number,
        cursor: String::new(),
        next: 0,
        receipts: 0,
    };
    let home = part.homes[number as usize % part.homes.len()];
    let mut link = loop {
        let Ok(permit) = crowd.begins.acquire().await else {
            return;
        };
        let come = user.come(&crowd, number, 0, home).await;
        drop(permit);
        match come {
            Ok(link) => break link,
            Err(failure) => eprintln!("at first: {}", failure.why),
        }
        sleep(pause(0, 0.0)).await;
    };
    crowd.change(|book| book.subscribed += 1);
    if let Err(failure) = user.hear(&crowd, &mut link, |user| user.next > 0).await {
        return eprintln!("the first message: {}", failure.why);
    }
    crowd.change(|book| book.heard += 1);
    let mut turn = crowd.turn.clone();
    if turn
        .wait_for(|turn| matches!(turn, Turn::Leave))
        .await
        .is_err()
    {
        return;
    }
    drop(link);
    let (others, level) = match turn.wait_for(|turn| matches!(turn, Turn::Return(..))).await {
        Ok(turn) => match &*turn {
            Turn::Return(others, level) => (others.clone(), *level),
            _ => return,
        },
        Err(_) => return,
    };
    user.come_back(&crowd, number, &others, level).await;
}

/// A user, and what it has heard.
struct User {
    number: u32,
    /// Of the last message.
    cursor: String,
    /// The number of the next message.
    next: u64,
    /// RECEIPTs on this connection.
    receipts: u32,
}

struct Link {
    stream: TcpStream,
    bytes: Vec<u8>,
}

impl User {
    /// Comes back, as often as it has to, until it has the last message.
    async fn come_back(&mut self, crowd: &Crowd, number: u32, others: &[SocketAddr], level: u64) {
        let (mut failures, mut advised) = (0_u32, 0.0);
        let mut begun = None;
        loop {
            sleep(pause(failures, advised)).await;
            let begun = *begun.get_or_insert_with(clock::now);
            let other = others[rand::random_range(0..others.len())];
            let done = self.once(crowd, number, failures + 1, other, level, begun);
            match done.await {
                Ok(()) => return,
                Err(failure) => {
                    crowd.change(|book| *book.failed.entry(failure.why).or_default() += 1);
                    failures += 1;
                    advised = failure.advised;
                }
            }
        }
    }

    /// One connection, until it has the last message.
    async fn once(
        &mut self,
        crowd: &Crowd,
        number: u32,
        life: u32,
        server: SocketAddr,
        level: u64,
        begun: u64,
    ) -> Result<(), Failure> {
        let was_level = self.next > level;
        crowd.change(|book| book.tries += 1);
        let mut link = self.come(crowd, number, life, server).await?;
        self.hear(crowd, &mut link, |user| user.next > level)
            .await?;
        if !was_level {
            crowd.change(|book| {
                book.level += 1;
                book.at = clock::now();
                let took = book.at - begun;
                book.took.iter_mut().for_each(|all| all.record(took));
            });
        }
        let mut turn = crowd.turn.clone();
        let last = tokio::select! {
            // It only ends with the connection.
            heard = self.hear(crowd, &mut link, |_| false) => return heard,
            turn = turn.wait_for(|turn| matches!(turn, Turn::Last(_))) => match turn.as_deref() {
                Ok(&Turn::Last(last)) => last,
                _ => return Ok(()),
            }
        };
        self.hear(crowd, &mut link, |user| user.next > last).await?;
        crowd.change(|book| book.done += 1);
        let _ = self.hear(crowd, &mut link, |_| false).await;
        Ok(())
    }

    /// Connects, logs in and subscribes: after its last message, if it has one. Until the RECEIPT.
    async fn come(
        &mut self,
        crowd: &Crowd,
        number: u32,
        life: u32,
        server: SocketAddr,
    ) -> Result<Link, Failure> {
        let logging_in = timeout(ATTEMPT, log_in(&crowd.part, number, life, server));
        let (stream, bytes) = match logging_in.await {
            Ok(done) => done?,
            Err(_) => return Err(Failure::new("no answer in time")),
        };
        let mut link = Link { stream, bytes };
        let destination = destination(&user_key(self.number));
        let mut headers = vec![
            ("id", "0"),
            ("destination", &*destination),
            ("receipt", "s"),
        ];
        if !self.cursor.is_empty() {
            headers.extend([("resume-after", &*self.cursor), ("resume-gap", "next")]);
        }
        let mut out = Vec::with_capacity(512);
        websocket::write_text(&stomp::frame("SUBSCRIBE", &headers, b""), &mut out);
        link.stream.write_all(&out).await?;
        self.receipts = 0;
        self.hear(crowd, &mut link, |user| user.receipts > 0)
            .await?;
        Ok(link)
    }

    /// Reads, answers pings, and checks, until `done`.
    async fn hear(
        &mut self,
        crowd: &Crowd,
        link: &mut Link,
        done: impl Fn(&Self) -> bool,
    ) -> Result<(), Failure> {
        loop {
            let mut rest = link.bytes.as_slice();
            let mut pongs = Vec::new();
            while let Some(frame) = websocket::next_frame(&mut rest).map_err(Failure::new)? {
                if frame.opcode == Opcode::Ping {
                    websocket::write_pong(frame.payload, &mut pongs);
                }
                if frame.opcode != Opcode::Data {
                    continue;
                }
                let mut payload = frame.payload;
                while let Some(said) = stomp::next_frame(&mut payload).map_err(Failure::new)? {
                    self.take(crowd, &said)?;
                }
            }
            let taken = link.bytes.len() - rest.len();
            link.bytes.drain(..taken);
            if !pongs.is_empty() {
                link.stream.write_all(&pongs).await?;
            }
            if done(self) {
                return Ok(());
            }
            more(&mut link.stream, &mut link.bytes).await?;
        }
    }

    fn take(&mut self, crowd: &Crowd, said: &stomp::Frame<'_>) -> Result<(), Failure> {
        match said.command {
            b"ERROR" => return Err(Failure::told(said)),
            b"RECEIPT" => {
                self.receipts += 1;
                if stomp::header(said.headers, b"resume:") == Some(b"gap") {
                    crowd.change(|book| book.checked.gaps += 1);
                }
            }
            b"MESSAGE" => {
                if let Some(cursor) = stomp::header(said.headers, b"cursor:") {
                    self.cursor = String::from_utf8_lossy(cursor).into_owned();
                }
                match Stamp::read(said.body) {
                    Some(stamp) if stamp.target == self.number => {
                        if stamp.sequence < self.next {
                            crowd.change(|book| book.checked.doubled += 1);
                        } else {
                            let lost = stamp.sequence - self.next;
                            self.next = stamp.sequence + 1;
                            crowd.change(|book| book.checked.lost += lost);
                        }
                    }
                    _ => crowd.change(|book| book.checked.foreign += 1),
                }
            }
            _ => {}
        }
        Ok(())
    }
}
